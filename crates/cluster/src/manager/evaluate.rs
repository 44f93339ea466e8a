//! Applies the chain transitions, and keeps what they rest on: openings and back-off.

use catena_types::{Chain, ChainId, Member, PublicState, TargetId, Time};

use super::Manager;
use super::hearing::rests_on_opening;
use crate::chain::{check_chain, failed_sink, next_chain};
use crate::state::{Move, Opening};

/// Pause after the first failed sync to a target; doubles with each.
const BACK_OFF_FIRST: Time = 1_000_000_000;
/// Longest pause.
const BACK_OFF_LAST: Time = 300_000_000_000;
/// Evaluations of one chain in a row. Each needs a report or a removal of its own, so a few settle it; the rest waits
/// for the next tick.
const ROUNDS: usize = 8;

impl Manager {
    /// Evaluates chains until nothing changes any more.
    pub(super) fn evaluate(&mut self, chains: impl IntoIterator<Item = ChainId>, now: Time) {
        for id in chains {
            for _ in 0..ROUNDS {
                if !self.evaluate_once(id, now) {
                    break;
                }
            }
        }
    }

    fn evaluate_once(&mut self, id: ChainId, now: Time) -> bool {
        let Some(chain) = self.state.chains.get(&id).filter(|chain| !self.is_whole(chain, now)) else { return false };
        let facts = self.facts(chain, now);
        let Some(next) = next_chain(chain, &facts, self.state.replicas as usize) else {
            self.awaited.extend(self.not_heard_since(chain, &facts));
            return false;
        };
        let failed = failed_sink(chain, &facts);
        let cut_off = self.cut_off(chain, now);
        let before = chain.clone();
        check_chain(&next).expect("transitions keep the rules of a chain: tested over every state");
        for place in &next.members {
            self.note_place(&before, place);
        }
        if let Some(sink) = failed.filter(|&t| next.state_of(t) == Some(PublicState::Waiting)) {
            self.back_off(sink, now);
        }
        // It is alive and could be synced at once, but not by those who cannot reach it.
        cut_off.into_iter().filter(|&t| next.state_of(t) != Some(PublicState::Serving)).for_each(|t| self.keep_out(t, now));
        before.members.iter().filter(|m| next.state_of(m.target).is_none()).for_each(|m| self.set_free(m.target));
        // A move ends when its member has left; one that only gives up its place in the order has given it up.
        let ended = |m: &Move| m.leaving != m.joining && next.state_of(m.leaving).is_none();
        let rotated = |m: &Move| m.leaving == m.joining && next.state_of(m.leaving) != Some(PublicState::Serving);
        if self.state.moves.get(&id).is_some_and(|m| ended(m) || rotated(m)) {
            self.state.moves.remove(&id);
        }
        self.state.chains.insert(id, next);
        self.touch_routing();
        true
    }

    /// A target is in no chain any more.
    pub(super) fn set_free(&mut self, target: TargetId) {
        if let Some(row) = self.state.targets.get_mut(&target) {
            row.chain = 0;
        }
    }

    /// A member that takes a new place takes it with the memory it has now.
    fn note_place(&mut self, before: &Chain, place: &Member) {
        let old = before.members.iter().find(|m| m.target == place.target).copied().unwrap_or_default();
        if place.state() == PublicState::Serving && old.state() != PublicState::Serving {
            let live = self.targets.entry(place.target).or_default();
            (live.failures, live.back_off_until) = (0, 0);
        }
        if rests_on_opening(place) && !rests_on_opening(&old) {
            self.note_opening(place.target);
        }
    }

    /// The place of a target rests on its present opening.
    pub(super) fn note_opening(&mut self, target: TargetId) {
        let count = self.report(target).map(|r| r.open_count);
        self.targets.entry(target).or_default().gone = None;
        if let Some(row) = self.state.targets.get_mut(&target) {
            row.opened = Opening { incarnation: row.offered, count };
        }
    }

    /// Others could not reach it. That its source can, and syncs it, does not end the back-off: it is doubled until that has
    /// not happened for a while.
    fn keep_out(&mut self, target: TargetId, now: Time) {
        let live = self.targets.entry(target).or_default();
        let again = live.cut_off.filter(|(at, _)| now.saturating_sub(*at) <= 2 * BACK_OFF_LAST);
        let before = again.map_or(0, |(_, times)| times);
        live.cut_off = Some((now, before + 1));
        live.failures = live.failures.max(before);
        self.back_off(target, now);
    }

    fn back_off(&mut self, target: TargetId, now: Time) {
        let live = self.targets.entry(target).or_default();
        let pause = BACK_OFF_FIRST.checked_shl(live.failures.min(16)).map_or(BACK_OFF_LAST, |p| p.min(BACK_OFF_LAST));
        live.failures += 1;
        live.back_off_until = now.saturating_add(pause);
    }

    /// Nodes not heard of for a lease are published as such.
    pub(super) fn note_silent_nodes(&mut self, now: Time) {
        let silent: Vec<_> =
            self.state.nodes.iter().filter(|(id, n)| n.alive && self.node_ends(**id) <= now).map(|(&id, _)| id).collect();
        for id in silent {
            self.set_alive(id, false);
        }
    }

    pub(super) fn set_alive(&mut self, node: u32, alive: bool) {
        let Some(row) = self.state.nodes.get_mut(&node).filter(|n| n.alive != alive) else { return };
        row.alive = alive;
        self.touch_routing();
    }
}
