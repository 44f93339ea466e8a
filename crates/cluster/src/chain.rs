//! What becomes of a chain, given what is known of its targets: one pure function.
//!
//! Rules are applied in the order promotions, removals, departures, revival, new SYNCING. `transitions.md`, beside the tests, is
//! their table: documentation and test in one. What must hold after every step is written down in [`check_chain`].

use std::collections::BTreeMap;

use catena_types::{Chain, ChainVer, Member, PublicState, TargetId};

use crate::mutation::{Mutation, is};

/// Whether a target may be serving now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Open, and heard of since the removals of its chain that are due became due.
    Alive,
    /// Neither heard of since then nor surely out: nothing is decided about it.
    Silent,
    /// Surely serves no more: its lease has ended, or its node has reported it stopped, failed or opened anew.
    Out,
}

/// What is known of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetFacts {
    /// Whether it may be serving.
    pub life: Life,
    /// Chain version its last report is about; 0 if there is none.
    pub about: ChainVer,
    /// The last report says UP_TO_DATE.
    pub up_to_date: bool,
    /// The last report says, as source, that the sync of its successor was given up.
    pub sync_failed: bool,
    /// A sync to it failed a short while ago: others go first.
    pub backing_off: bool,
    /// It is the replica the chain knows, not an empty replacement.
    pub uuid_matches: bool,
    /// It is to leave the chain as soon as the chain has all its replicas without it.
    pub leaving: bool,
    /// It is out for so long that nobody waits for it, and another one that serves has taken its place.
    pub replaced: bool,
}

impl Default for TargetFacts {
    fn default() -> TargetFacts {
        TargetFacts {
            life: Life::Silent,
            about: 0,
            up_to_date: false,
            sync_failed: false,
            backing_off: false,
            uuid_matches: true,
            leaving: false,
            replaced: false,
        }
    }
}

/// Facts by target. About a target that is missing nothing is decided.
pub type Facts = BTreeMap<TargetId, TargetFacts>;

/// The sink whose source has given its sync up under the present chain version.
pub fn failed_sink(chain: &Chain, facts: &Facts) -> Option<TargetId> {
    let source = facts.get(&chain.tail()?)?;
    (source.sync_failed && source.about == chain.chain_ver).then(|| chain.syncing()).flatten()
}

/// The chain after one evaluation, which is to have so many replicas; `None` if nothing changes. The chain version grows
/// by one if and only if the ordered list of SERVING, LASTSRV and SYNCING members does.
pub fn next_chain(chain: &Chain, facts: &Facts, replicas: usize) -> Option<Chain> {
    let mut step = Step { ver: chain.chain_ver, facts, failed: failed_sink(chain, facts), members: chain.members.clone() };
    step.promote();
    step.remove();
    step.depart(replicas);
    step.revive();
    step.start_sync();
    changed(chain, step.members)
}

/// The chain with one more member, which has to be brought up to date; `None` if it is one already. `newest` is the newest
/// version of all chains: that of the chain goes above it. Versions that a target has seen in another chain are older
/// then, and what is still on its way to it from there is dropped.
pub fn with_member(chain: &Chain, target: TargetId, newest: ChainVer) -> Option<Chain> {
    let newcomer = Member { target, state: PublicState::Offline as i32, chosen: false };
    let members = chain.members.iter().copied().chain([newcomer]).collect();
    let joined = chain.state_of(target).is_none().then(|| changed(chain, members)).flatten()?;
    let above = if is(Mutation::SameVersions) { joined.chain_ver } else { newest.max(chain.chain_ver) + 1 };
    Some(Chain { chain_ver: above, ..joined })
}

/// The chain without a member that others need not: one that neither serves nor may revive it. `None` for any other.
pub fn without_member(chain: &Chain, target: TargetId) -> Option<Chain> {
    let needless = chain.state_of(target)? >= PublicState::Syncing;
    let members = chain.members.iter().copied().filter(|m| m.target != target).collect();
    needless.then(|| changed(chain, members)).flatten()
}

/// The chain with these members in order, if they are others.
fn changed(chain: &Chain, mut members: Vec<Member>) -> Option<Chain> {
    members.sort_by_key(|m| m.state());
    if members == chain.members {
        return None;
    }
    let grown = weighty(&members) != weighty(&chain.members);
    let chain_ver = chain.chain_ver + u64::from(grown && !is(Mutation::KeepVersion));
    Some(Chain { id: chain.id, chain_ver, members })
}

/// The members whose order and states make a chain version.
fn weighty(members: &[Member]) -> Vec<Member> {
    members.iter().copied().filter(|m| m.state() <= PublicState::Syncing).collect()
}

/// An evaluation under way.
struct Step<'a> {
    ver: ChainVer,
    facts: &'a Facts,
    failed: Option<TargetId>,
    members: Vec<Member>,
}

impl Step<'_> {
    fn facts(&self, target: TargetId) -> TargetFacts {
        self.facts.get(&target).copied().unwrap_or_default()
    }

    fn life(&self, target: TargetId) -> Life {
        self.facts(target).life
    }

    fn in_state(&self, state: PublicState) -> Vec<TargetId> {
        self.members.iter().filter(|m| m.state() == state).map(|m| m.target).collect()
    }

    fn anybody(&self, state: PublicState) -> bool {
        self.members.iter().any(|m| m.state() == state)
    }

    fn chosen(&self) -> Option<TargetId> {
        self.members.iter().find(|m| m.chosen).map(|m| m.target)
    }

    /// New state, place among its equals kept.
    fn set(&mut self, target: TargetId, state: PublicState) {
        for m in self.members.iter_mut().filter(|m| m.target == target) {
            m.set_state(state);
            m.chosen = false;
        }
    }

    /// New state, behind all others of that state.
    fn demote(&mut self, target: TargetId, state: PublicState) {
        self.set(target, state);
        self.members.sort_by_key(|m| m.target == target);
    }

    /// The sink that has everything joins as the last SERVING; the chosen member that has opened revives the chain.
    fn promote(&mut self) {
        for sink in self.in_state(PublicState::Syncing) {
            let f = self.facts(sink);
            let about = f.about == self.ver || is(Mutation::UpToDateAnyVersion);
            let equal = (f.up_to_date || is(Mutation::PromoteUnsynced)) && about && self.failed.is_none();
            if equal && f.life == Life::Alive && f.uuid_matches {
                self.set(sink, PublicState::Serving);
            }
        }
        let Some(chosen) = self.chosen() else { return };
        let f = self.facts(chosen);
        let opened = f.about == self.ver || is(Mutation::ChosenServesAtOnce);
        if f.life == Life::Alive && opened && f.uuid_matches {
            self.set(chosen, PublicState::Serving);
            for other in self.in_state(PublicState::LastSrv) {
                self.set(other, PublicState::Offline);
            }
        }
    }

    fn remove(&mut self) {
        self.remove_serving();
        let led = self.anybody(PublicState::Serving);
        for sink in self.in_state(PublicState::Syncing) {
            if self.life(sink) == Life::Out {
                self.demote(sink, PublicState::Offline);
            } else if !led || self.failed == Some(sink) {
                self.demote(sink, PublicState::Waiting);
            }
        }
        for target in self.in_state(PublicState::Waiting) {
            if self.life(target) == Life::Out {
                self.demote(target, PublicState::Offline);
            }
        }
    }

    /// Removals are decided together: a set that shrinks one by one while everybody is dying ends with one member,
    /// although all of them hold everything.
    fn remove_serving(&mut self) {
        let serving = self.in_state(PublicState::Serving);
        let (out, rest): (Vec<_>, Vec<_>) = serving.into_iter().partition(|&t| self.life(t) == Life::Out);
        if rest.is_empty() {
            let state = |n| if n > 0 && is(Mutation::LastServingOne) { PublicState::Offline } else { PublicState::LastSrv };
            out.into_iter().enumerate().for_each(|(n, t)| self.set(t, state(n)));
        } else if rest.iter().all(|&t| self.life(t) == Life::Alive) || is(Mutation::OneByOne) {
            out.into_iter().for_each(|t| self.demote(t, PublicState::Offline));
        }
    }

    /// A member on its way out goes when the others are as many as there must be, or when it was replaced. While it serves
    /// it stays: like anybody else it must be out first.
    fn depart(&mut self, replicas: usize) {
        let facts = self.facts;
        let serving = self.in_state(PublicState::Serving).len();
        let full = serving >= replicas || (serving > 0 && is(Mutation::DepartEarly));
        let gone = |m: &Member| m.state() > PublicState::LastSrv || is(Mutation::DepartServing);
        let leaving = |m: &Member| facts.get(&m.target).is_some_and(|f| f.leaving && (full || f.replaced));
        self.members.retain(|m| !(gone(m) && leaving(m)));
    }

    /// Somebody of the last serving set is chosen. It serves only after it has opened under the version that says so,
    /// so that a member that dies on the way leaves the set whole.
    fn revive(&mut self) {
        if let Some(chosen) = self.chosen().filter(|&t| self.life(t) == Life::Out) {
            self.set(chosen, PublicState::LastSrv);
        }
        if self.chosen().is_some() || self.anybody(PublicState::Serving) {
            return;
        }
        if is(Mutation::ReviveAnyone) {
            self.members.iter_mut().for_each(|m| m.set_state(PublicState::LastSrv));
        }
        let facts = self.facts;
        let able = |m: &&mut Member| {
            let f = facts.get(&m.target).copied().unwrap_or_default();
            m.state() == PublicState::LastSrv && f.life == Life::Alive && f.uuid_matches
        };
        if let Some(first) = self.members.iter_mut().find(able) {
            first.chosen = true;
        }
    }

    fn start_sync(&mut self) {
        for target in self.in_state(PublicState::Offline) {
            if self.life(target) == Life::Alive && self.facts(target).uuid_matches {
                self.demote(target, PublicState::Waiting);
            }
        }
        if !self.anybody(PublicState::Serving) || (self.anybody(PublicState::Syncing) && !is(Mutation::TwoSyncing)) {
            return;
        }
        let able = |t: &TargetId| {
            let f = self.facts(*t);
            f.life == Life::Alive && f.uuid_matches && !f.backing_off && self.failed != Some(*t)
        };
        // Whoever stays goes before whoever leaves; else in order.
        let waiting = self.in_state(PublicState::Waiting).into_iter().filter(able);
        if let Some(next) = waiting.min_by_key(|&t| self.facts(t).leaving) {
            self.set(next, PublicState::Syncing);
        }
    }
}

/// What must hold of a chain after every step; `Err` says what does not.
pub fn check_chain(chain: &Chain) -> Result<(), String> {
    let count = |state| chain.in_state(state).count();
    let (serving, last) = (count(PublicState::Serving), count(PublicState::LastSrv));
    let chosen = chain.members.iter().filter(|m| m.chosen).count();
    let mut ids: Vec<_> = chain.members.iter().map(|m| m.target).collect();
    ids.sort_unstable();
    ids.dedup();
    let rules = [
        (serving + last > 0, "nobody serves and there is no last serving set"),
        (serving == 0 || last == 0, "SERVING members beside a last serving set"),
        (count(PublicState::Syncing) <= 1, "more than one SYNCING member"),
        (count(PublicState::Syncing) == 0 || serving > 0, "a SYNCING member without a source"),
        (chosen <= 1, "more than one chosen member"),
        (chain.members.iter().all(|m| !m.chosen || m.state() == PublicState::LastSrv), "chosen outside LASTSRV"),
        (chain.members.is_sorted_by_key(Member::state), "members out of order"),
        (ids.len() == chain.members.len(), "a member twice"),
    ];
    match rules.iter().find(|(holds, _)| !holds && !is(Mutation::UncheckedChain)) {
        Some((_, what)) => Err(format!("chain {} at version {}: {what}: {chain:?}", chain.id, chain.chain_ver)),
        None => Ok(()),
    }
}
