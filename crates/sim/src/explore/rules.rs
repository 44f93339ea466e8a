//! Rules of the surroundings of a replica that can be switched off, to show that exploration finds what they prevent.
//!
//! The code that is explored is the code that ships, so rules inside it cannot be switched off here; these are the
//! promises it relies on: of its disk, its links, the manager and the client.

/// A promise that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A stage is reported when it is durable.
    StageDurable,
    /// An unstage is reported when it is durable.
    UnstageDurable,
    /// What a sink received is durable before it says so.
    SyncDurable,
    /// A member leaves only when its lease has ended.
    LeaseEnds,
    /// A lease is usable only with routing at least as new as the one it was granted at.
    LeaseRouting,
    /// A target that was opened anew gets no lease before its removal.
    RemovalFirst,
    /// UP_TO_DATE counts only about the present chain version.
    UpToDateVersion,
    /// Only members of the last serving set revive a chain.
    LastSet,
    /// An empty disk is not taken for the one the chain knows.
    DiskIdentity,
    /// Frames of an older connection are dropped once there is a newer one.
    Fencing,
    /// Messages on one connection stay in order.
    Order,
    /// Session rows reach the sink.
    SessionRows,
    /// A client believes a reject only of its newest attempt.
    ClientNewest,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 13] = [
        Rule::StageDurable,
        Rule::UnstageDurable,
        Rule::SyncDurable,
        Rule::LeaseEnds,
        Rule::LeaseRouting,
        Rule::RemovalFirst,
        Rule::UpToDateVersion,
        Rule::LastSet,
        Rule::DiskIdentity,
        Rule::Fencing,
        Rule::Order,
        Rule::SessionRows,
        Rule::ClientNewest,
    ];

    /// What it says, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Rule::StageDurable => "a stage is reported when it is durable",
            Rule::UnstageDurable => "an unstage is reported when it is durable",
            Rule::SyncDurable => "what a sink received is durable before it says so",
            Rule::LeaseEnds => "a member leaves only when its lease has ended",
            Rule::LeaseRouting => "a lease needs routing as new as the one it was granted at",
            Rule::RemovalFirst => "a target opened anew gets no lease before its removal",
            Rule::UpToDateVersion => "UP_TO_DATE counts only about the present chain version",
            Rule::LastSet => "only members of the last serving set revive a chain",
            Rule::DiskIdentity => "an empty disk is not taken for the one the chain knows",
            Rule::Fencing => "frames of an older connection are dropped",
            Rule::Order => "messages on one connection stay in order",
            Rule::SessionRows => "session rows reach the sink",
            Rule::ClientNewest => "a client believes a reject only of its newest attempt",
        }
    }
}

/// Rules that are switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules(u32);

impl Rules {
    /// All rules hold.
    pub const NONE: Rules = Rules(0);

    /// One rule off.
    pub const fn off(rule: Rule) -> Rules {
        Rules(1 << rule as u32)
    }

    /// Whether it is switched off.
    pub fn is(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u32) != 0
    }
}
