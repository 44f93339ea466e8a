//! The manager: the transitions of `catena_cluster::chain`, over what it has heard. Its own clockwork is replaced by
//! events: a lease has surely ended when the target holds none.

use catena_chain::Report;
use catena_cluster::{Facts, Life, TargetFacts, check_chain, next_chain};
use catena_types::{Chain, LocalState, Member, PublicState, TargetId};

use super::rules::{Rule, Rules};

/// Evaluations in a row, as in the manager itself.
const ROUNDS: usize = 8;

/// What the manager knows of one target.
#[derive(Clone, Debug, Default, Hash)]
struct Known {
    /// Heard of in its present opening, and not since found silent.
    heard: bool,
    /// Its lease has surely ended.
    out: bool,
    report: Option<Report>,
    /// The opening that is known, and the one that its place rests on.
    opening: u8,
    place: u8,
    backing_off: bool,
    /// It is not the disk the chain knows.
    strange: bool,
}

/// See the file's documentation.
#[derive(Clone, Debug, Hash)]
pub(super) struct Members {
    chain: Chain,
    /// Version of the routing, from 1.
    version: usize,
    /// Earlier versions, where targets may still learn them.
    past: Option<Vec<Chain>>,
    targets: Vec<Known>,
    off: Rules,
}

impl Members {
    /// All SERVING, all heard of.
    pub(super) fn new(targets: u32, late: bool, off: Rules) -> Members {
        let serving = |target| Member { target, state: PublicState::Serving as i32, chosen: false };
        let chain = Chain { id: 1, chain_ver: 1, members: (1..=targets).map(serving).collect() };
        let known = Known { heard: true, ..Known::default() };
        Members { chain, version: 1, past: late.then(Vec::new), targets: vec![known; targets as usize], off }
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Version of the routing.
    pub(super) fn version(&self) -> usize {
        self.version
    }

    /// As it was at that version; `None` if nobody can learn that any more.
    pub(super) fn at(&self, version: usize) -> Option<&Chain> {
        if version == self.version { Some(&self.chain) } else { self.past.as_ref()?.get(version - 1) }
    }

    fn known(&mut self, target: TargetId) -> &mut Known {
        &mut self.targets[target as usize - 1]
    }

    /// Whether a heartbeat would say anything new.
    pub(super) fn is_news(&self, target: TargetId, report: &Report, opening: u8) -> bool {
        let known = &self.targets[target as usize - 1];
        !known.heard || known.out || known.opening != opening || known.report.as_ref() != Some(report)
    }

    /// A heartbeat. Whether a lease is granted, at the present version.
    pub(super) fn hear(&mut self, target: TargetId, report: Report, opening: u8) -> bool {
        let open = matches!(report.state, LocalState::Online | LocalState::UpToDate);
        let known = self.known(target);
        (known.heard, known.report, known.opening) = (open, Some(report), opening);
        if open {
            known.out = false;
        }
        self.evaluate();
        let pending = self.chain.state_of(target) == Some(PublicState::Serving) && self.opened_anew(target);
        open && !pending
    }

    /// A new process has registered, with the disk the chain knows or another.
    pub(super) fn register(&mut self, target: TargetId, opening: u8, strange: bool) {
        let off = self.off.is(Rule::RemovalFirst);
        let known = self.known(target);
        let (place, backing_off) = (known.place, known.backing_off);
        *known = Known { opening, place, backing_off, strange, ..Known::default() };
        if off {
            (known.place, known.heard) = (opening, true);
        }
        self.evaluate();
    }

    /// Whether its silence could be noticed.
    pub(super) fn may_miss(&self, target: TargetId) -> bool {
        let known = &self.targets[target as usize - 1];
        known.heard || (!known.out && !rests_on_opening(self.place(target)))
    }

    /// Their leases have surely ended.
    pub(super) fn miss(&mut self, targets: impl IntoIterator<Item = TargetId>) {
        for target in targets {
            let known = self.known(target);
            (known.heard, known.out) = (false, true);
        }
        self.evaluate();
    }

    pub(super) fn backs_off(&self, target: TargetId) -> bool {
        self.targets[target as usize - 1].backing_off
    }

    pub(super) fn end_back_off(&mut self, target: TargetId) {
        self.known(target).backing_off = false;
        self.evaluate();
    }

    fn place(&self, target: TargetId) -> Member {
        self.chain.members.iter().find(|m| m.target == target).copied().unwrap_or_default()
    }

    fn opened_anew(&self, target: TargetId) -> bool {
        let known = &self.targets[target as usize - 1];
        known.opening != known.place
    }

    fn life(&self, target: TargetId, chain: &Chain) -> Life {
        let known = &self.targets[target as usize - 1];
        let place = self.place(target);
        let closed = known.report.as_ref().is_some_and(|r| match r.state {
            LocalState::Online | LocalState::UpToDate => false,
            LocalState::Failed => true,
            LocalState::Stopped => place.state() != PublicState::Serving || r.chain_ver == chain.chain_ver,
        });
        if known.out || closed || (rests_on_opening(place) && self.opened_anew(target)) {
            return Life::Out;
        }
        if known.heard { Life::Alive } else { Life::Silent }
    }

    fn facts(&self, chain: &Chain) -> Facts {
        let facts = |m: &Member| {
            let known = &self.targets[m.target as usize - 1];
            let report = known.report.as_ref();
            let up_to_date = report.is_some_and(|r| r.state == LocalState::UpToDate);
            let any = up_to_date && self.off.is(Rule::UpToDateVersion);
            TargetFacts {
                life: self.life(m.target, chain),
                about: if any { chain.chain_ver } else { report.map_or(0, |r| r.chain_ver) },
                up_to_date,
                sync_failed: report.is_some_and(|r| !r.sync_failed.is_empty()),
                backing_off: known.backing_off,
                uuid_matches: !known.strange || self.off.is(Rule::DiskIdentity),
                leaving: false,
                replaced: false,
            }
        };
        chain.members.iter().map(|m| (m.target, facts(m))).collect()
    }

    fn evaluate(&mut self) {
        for _ in 0..ROUNDS {
            let mut chain = self.chain.clone();
            if self.off.is(Rule::LastSet) && chain.serving().next().is_none() {
                chain
                    .members
                    .iter_mut()
                    .filter(|m| m.state() == PublicState::Offline)
                    .for_each(|m| m.set_state(PublicState::LastSrv));
            }
            let facts = self.facts(&chain);
            let Some(next) = next_chain(&chain, &facts, chain.members.len()) else { return };
            check_chain(&next).expect("the transitions keep the rules of a chain");
            let failed = catena_cluster::chain::failed_sink(&chain, &facts);
            if let Some(sink) = failed.filter(|&t| next.state_of(t) == Some(PublicState::Waiting)) {
                self.known(sink).backing_off = true;
            }
            for place in &next.members {
                if rests_on_opening(*place) && !rests_on_opening(self.place(place.target)) {
                    let known = self.known(place.target);
                    known.place = known.opening;
                }
            }
            let before = std::mem::replace(&mut self.chain, next);
            self.version += 1;
            if let Some(past) = &mut self.past {
                past.push(before);
            }
        }
    }
}

/// Whether a place is lost with the memory of the target.
fn rests_on_opening(place: Member) -> bool {
    matches!(place.state(), PublicState::Serving | PublicState::Syncing) || place.chosen
}
