//! The names of what is checked: every finding says which promise is broken (numbers: protocol, section 11).

use std::fmt;

/// A promise that a checker watches over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Invariant 1.
    Linearizable,
    /// Invariant 2.
    Versions,
    /// Invariant 3.
    Order,
    /// Invariant 4.
    AckedSurvives,
    /// Invariant 5.
    ReadSurvives,
    /// Invariant 6.
    Once,
    /// Invariant 7.
    RejectsFinal,
    /// Invariant 8.
    OneConfiguration,
    /// Invariant 9.
    Equal,
    /// Invariant 10.
    Space,
    /// Invariant 11.
    GoodBytes,
    /// Invariant 12.
    Sync,
    /// Invariant 13.
    Membership,
    /// A move takes no replica away before there is another one.
    Replicas,
    /// No two targets of a chain would answer a version query differently.
    OneAnswer,
    /// A target outside SERVING commits only what was forwarded to it under the present chain version.
    SinkCommits,
    /// The liveness clause.
    Liveness,
    /// No correct peer sends what the others have.
    Peers,
    /// The chunk store is used as agreed.
    StoreContract,
    /// Every request is answered once, in kind.
    Answers,
    /// Nothing panics.
    NoPanic,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 21] = {
        use Rule::*;
        [
            Linearizable,
            Versions,
            Order,
            AckedSurvives,
            ReadSurvives,
            Once,
            RejectsFinal,
            OneConfiguration,
            Equal,
            Space,
            GoodBytes,
            Sync,
            Membership,
            Replicas,
            OneAnswer,
            SinkCommits,
            Liveness,
            Peers,
            StoreContract,
            Answers,
            NoPanic,
        ]
    };

    /// Its name, as in failures and tables.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Linearizable => "I1 linearizable",
            Rule::Versions => "I2 versions in steps of one",
            Rule::Order => "I3 durable upstream, committed downstream",
            Rule::AckedSurvives => "I4 acked on every serving disk",
            Rule::ReadSurvives => "I5 what was read on every serving disk",
            Rule::Once => "I6 an update takes effect once",
            Rule::RejectsFinal => "I7 a reject had no effect",
            Rule::OneConfiguration => "I8 whoever serves is SERVING",
            Rule::Equal => "I9 replicas equal at rest",
            Rule::Space => "I10 space is exact",
            Rule::GoodBytes => "I11 bytes are those of their version",
            Rule::Sync => "I12 one sink, equal when it joins",
            Rule::Membership => "I13 somebody serves, or a last serving set",
            Rule::Replicas => "a move never takes a replica away first",
            Rule::OneAnswer => "one answer to a version query",
            Rule::SinkCommits => "a sink commits what its source forwarded",
            Rule::Liveness => "liveness",
            Rule::Peers => "peers keep the protocol",
            Rule::StoreContract => "the store is used as agreed",
            Rule::Answers => "every request is answered once",
            Rule::NoPanic => "nothing panics",
        }
    }
}

impl Rule {
    /// It was broken, and so.
    pub(super) fn broken(self, text: String) -> Violation {
        Violation { rule: self, text }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When and how, for people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}
