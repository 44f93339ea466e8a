//! Replica moves: begun when a target is lost, drained or has more than its share; given up when they are of no use.
//!
//! A move adds a member, which is brought up to date like any other; when it serves, the member that leaves gets no lease
//! any more, is removed when its last one has surely ended, and departs. What must hold: at most one move per chain; a
//! member that serves leaves only a chain that is full without it; a target is a member of one chain at most.

use catena_types::{Chain, ChainId, PublicState, TargetId, Time};
use catena_wire::manager::{MAX_SHIFTS, MoveReason, ReplicaMove};

use super::Manager;
use crate::balance::{Layout, Shift};
use crate::chain::{with_member, without_member};
use crate::mutation::{Mutation, is};
use crate::state::Move;

/// Syncs to a new member that fail before another one is looked for.
const GIVE_UP_AFTER: u32 = 3;

/// A member that is to leave its chain.
struct Wanted {
    chain: ChainId,
    leaving: TargetId,
    /// The empty disk in its place.
    heir: Option<TargetId>,
    reason: MoveReason,
}

impl Manager {
    /// Gives up what is of no use, and begins as many moves as there may be at a time.
    pub(super) fn keep_moves(&mut self, now: Time) {
        let useless: Vec<ChainId> =
            self.state.moves.iter().filter(|(id, m)| self.is_useless(**id, m, now)).map(|m| *m.0).collect();
        for id in useless {
            self.give_up(id);
        }
        self.turn_to_the_lost(now);
        if !self.may_begin() {
            return;
        }
        let wanted = self.wanted(now);
        let mut layout = if wanted.is_empty() { Layout::default() } else { self.layout() };
        for Wanted { chain, leaving, heir, reason } in wanted {
            let Some(row) = self.state.chains.get(&chain).filter(|_| self.may_begin()) else { return };
            // A move just begun may have taken it.
            let heir = heir.filter(|t| self.state.targets.get(t).is_some_and(|row| row.chain == 0));
            if let Some(joining) = heir.or_else(|| self.choose_home(&layout, row, leaving)) {
                self.begin(chain, Move { leaving, joining, reason });
                layout = self.layout();
            }
        }
        while self.state.rebalancing && self.may_begin() {
            match self.layout().next_shift() {
                Some(Shift { chain, from, to }) => {
                    self.begin(chain, Move { leaving: from, joining: to, reason: MoveReason::Rebalance });
                }
                None => {
                    // Chains that are not whole now may have to give something later.
                    if self.state.moves.is_empty() {
                        (self.state.rebalancing, self.changed) = (false, true);
                    }
                    return;
                }
            }
        }
    }

    /// Moves of chains that serve are counted: the others stand still until somebody comes back.
    fn may_begin(&self) -> bool {
        let serves = |id: &&ChainId| self.state.chains.get(id).is_some_and(|c| c.serving().next().is_some());
        self.state.moves.keys().filter(serves).count() < self.settings.max_moves as usize
    }

    /// While a replica moves, another member is lost: whoever joins takes the place of that one, so that the chain is full
    /// first. The other move begins anew later.
    fn turn_to_the_lost(&mut self, now: Time) {
        let turn = |(&id, m): (&ChainId, &Move)| {
            let chain = self.state.chains.get(&id).filter(|c| m.leaving != m.joining && !self.is_overdue(c, m.leaving, now))?;
            let lost = |t: &TargetId| *t != m.joining && self.is_overdue(chain, *t, now);
            let leaving = chain.in_state(PublicState::Offline).find(lost)?;
            Some((id, Move { leaving, reason: MoveReason::Lost, ..*m }))
        };
        let turned: Vec<(ChainId, Move)> = self.state.moves.iter().filter_map(turn).collect();
        self.changed |= !turned.is_empty();
        self.state.moves.extend(turned);
    }

    /// Moves under way, and replicas that are to move and cannot for now.
    pub(super) fn moves(&self, now: Time) -> Vec<ReplicaMove> {
        let row = |chain, m: &Move| ReplicaMove { chain, leaving: m.leaving, joining: m.joining, reason: m.reason as i32 };
        let under_way = self.state.moves.iter().map(|(&chain, m)| row(chain, m));
        let waiting =
            self.wanted(now).into_iter().map(|w| row(w.chain, &Move { leaving: w.leaving, joining: 0, reason: w.reason }));
        under_way.chain(waiting).collect()
    }

    /// The first moves of a rebalancing from now on.
    pub(super) fn shifts(&self) -> Vec<ReplicaMove> {
        let row =
            |Shift { chain, from, to }| ReplicaMove { chain, leaving: from, joining: to, reason: MoveReason::Rebalance as i32 };
        self.layout().shifts(MAX_SHIFTS).into_iter().map(row).collect()
    }

    /// The target becomes a member of the chain, in place of another one in the end.
    pub(super) fn begin(&mut self, id: ChainId, m: Move) {
        let Some(chain) = self.state.chains.get(&id) else { return };
        if m.joining != m.leaving {
            let newest = self.state.chains.values().map(|c| c.chain_ver).max().unwrap_or_default();
            let Some(next) = with_member(chain, m.joining, newest) else { return };
            self.state.chains.insert(id, next);
            if let Some(row) = self.state.targets.get_mut(&m.joining) {
                row.chain = id;
            }
            self.touch_routing();
        }
        self.state.moves.insert(id, m);
        self.changed = true;
    }

    /// Ends a move as if it had never begun, unless its new member serves already; whether it did.
    pub(super) fn give_up(&mut self, id: ChainId) -> bool {
        let Some((m, chain)) = self.state.moves.get(&id).copied().zip(self.state.chains.get(&id)) else { return false };
        if m.joining != m.leaving {
            let Some(next) = without_member(chain, m.joining) else { return false };
            self.state.chains.insert(id, next);
            self.set_free(m.joining);
            self.touch_routing();
        }
        self.state.moves.remove(&id);
        self.changed = true;
        true
    }

    /// Whether nobody needs a move any more, or its new member is lost itself.
    fn is_useless(&self, id: ChainId, m: &Move, now: Time) -> bool {
        let Some(chain) = self.state.chains.get(&id) else { return false };
        if m.joining == m.leaving {
            // The chain has too few replicas to do without one for a moment.
            return chain.members.iter().any(|m| m.state() != PublicState::Serving);
        }
        let needless = match m.reason {
            MoveReason::Lost => chain.state_of(m.leaving) == Some(PublicState::Serving) && !self.drains(m.leaving),
            MoveReason::Drain => !self.drains(m.leaving),
            MoveReason::Rebalance | MoveReason::Asked => false,
        };
        needless || self.has_better_home(chain, m) || self.is_overdue(chain, m.joining, now) || self.drains(m.joining)
    }

    /// Whether syncs to the new member have failed too often, and less often to another one that could take its place. Where
    /// there is none, giving it up would only begin the same move again.
    fn has_better_home(&self, chain: &Chain, m: &Move) -> bool {
        let failures = self.failures(m.joining);
        failures >= GIVE_UP_AFTER
            && self.choose_home(&self.layout(), chain, m.leaving).is_some_and(|t| self.failures(t) < failures)
    }

    /// Syncs to a target that have failed since it served last.
    pub(super) fn failures(&self, target: TargetId) -> u32 {
        self.targets.get(&target).map_or(0, |l| l.failures)
    }

    /// Out for so long that nobody waits for it any more.
    pub(super) fn is_overdue(&self, chain: &Chain, target: TargetId, now: Time) -> bool {
        let patience = self.settings.replace_after_ms.saturating_mul(1_000_000);
        let out = chain.state_of(target) == Some(PublicState::Offline);
        let since = self.out_since(chain, target, now).filter(|_| out && !is(Mutation::NeverReplace));
        since.is_some_and(|since| now.saturating_sub(since) >= patience)
    }

    /// The empty target that came to a node when this one was there no more: its disk was replaced. One to which syncs fail
    /// has no precedence over others.
    fn heir(&self, chain: &Chain, target: TargetId) -> Option<TargetId> {
        let row = self.state.targets.get(&target)?;
        if chain.state_of(target) != Some(PublicState::Offline) || !self.is_not_offered(target) {
            return None;
        }
        let new = |t: &TargetId| self.state.targets.get(t).is_some_and(|heir| heir.born > row.offered);
        let fit = |t: &TargetId| new(t) && self.failures(*t) < GIVE_UP_AFTER;
        self.homes().get(&row.node)?.iter().copied().find(fit)
    }

    /// Members that are to leave, one of each chain that has no move: those of the chains that miss most first.
    fn wanted(&self, now: Time) -> Vec<Wanted> {
        let mut wanted: Vec<(usize, Wanted)> = Vec::new();
        for (&id, chain) in self.state.chains.iter().filter(|(id, _)| !self.state.moves.contains_key(id)) {
            let serving = chain.serving().count();
            let leave = |leaving, heir, reason| Wanted { chain: id, leaving, heir, reason };
            let lost = chain.in_state(PublicState::Offline).find_map(|t| {
                let heir = self.heir(chain, t);
                (heir.is_some() || self.is_overdue(chain, t, now)).then(|| leave(t, heir, MoveReason::Lost))
            });
            let drained = || chain.members.iter().map(|m| m.target).find(|&t| self.drains(t));
            let one = lost.or_else(|| drained().map(|t| leave(t, None, MoveReason::Drain)));
            wanted.extend(one.filter(|_| serving > 0).map(|one| (serving, one)));
        }
        wanted.sort_by_key(|(serving, w)| (w.reason, *serving, w.chain));
        wanted.into_iter().map(|(_, w)| w).collect()
    }
}
