//! What is known of a target now: may it be serving, and since when not.
//!
//! What must hold: "out" is said only of a target that surely serves no more under the place it has: every lease it
//! may hold has ended by the slowest clock, or its node has said so.

use catena_types::{Chain, LocalState, Member, NodeId, PublicState, TargetId, Time};
use catena_wire::manager::TargetReport;

use super::Manager;
use crate::chain::{Facts, Life, TargetFacts};
use crate::mutation::{Mutation, is};

/// What was heard of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// Listed as open at that time; its lease may run.
    Heard(Time),
    /// Not heard of in its present opening, but it may hold a lease of which nothing is known here.
    MayLive,
    /// Serves no more since then.
    Out(Time),
}

impl Manager {
    /// Whether all members serve, and nobody is out: nothing is to be decided then, whatever else is known of them. That
    /// is so nearly always, and heartbeats are many.
    pub(super) fn is_whole(&self, chain: &Chain, now: Time) -> bool {
        let serves = |m: &Member| m.state() == PublicState::Serving && !matches!(self.hearing(m, chain, now), Hearing::Out(_));
        chain.members.iter().all(serves) && !is(Mutation::DepartServing)
    }

    /// What is known of the members of a chain.
    pub(super) fn facts(&self, chain: &Chain, now: Time) -> Facts {
        let heard: Vec<_> = chain.members.iter().map(|m| (m, self.hearing(m, chain, now))).collect();
        // The others count as alive only if heard of after the last of those to be removed went out: otherwise a
        // power cut that is still going on looks like the loss of one.
        let out_since = |(m, hearing): &(&Member, Hearing)| match hearing {
            Hearing::Out(since) if m.state() == PublicState::Serving => Some(*since),
            _ => None,
        };
        let due = heard.iter().filter_map(out_since).max();
        let life = |h: &Hearing| match *h {
            Hearing::Out(_) => Life::Out,
            Hearing::Heard(at) if due.is_none_or(|due| at >= due) => Life::Alive,
            Hearing::Heard(_) | Hearing::MayLive => Life::Silent,
        };
        let cut_off = self.cut_off(chain, now);
        let facts = |m: &Member, h| {
            let known = self.target_facts(chain, m.target, life(h), now);
            (m.target, TargetFacts { backing_off: known.backing_off || cut_off.contains(&m.target), ..known })
        };
        heard.iter().map(|(m, h)| facts(m, h)).collect()
    }

    /// Nodes of members that live, as far as is known, and have not been heard of since a SERVING one went out.
    pub(super) fn not_heard_since(&self, chain: &Chain, facts: &Facts) -> Vec<NodeId> {
        let node_of = |m: &Member| self.state.targets.get(&m.target).map(|row| row.node);
        let life = |m: &Member| facts.get(&m.target).map(|f| f.life);
        if !chain.members.iter().any(|m| m.state() == PublicState::Serving && life(m) == Some(Life::Out)) {
            return Vec::new();
        }
        chain.members.iter().filter(|m| life(m) == Some(Life::Silent)).filter_map(node_of).collect()
    }

    fn target_facts(&self, chain: &Chain, target: TargetId, life: Life, now: Time) -> TargetFacts {
        let live = self.targets.get(&target);
        let report = self.report(target);
        // Of a target that was moved here, the report may still be about the chain it came from.
        let about = report.filter(|r| r.chain == chain.id || is(Mutation::ReportOfAnyChain));
        let moving = self.state.moves.get(&chain.id).filter(|m| m.leaving == target && m.joining != target);
        let serves = |t| chain.state_of(t) == Some(PublicState::Serving);
        TargetFacts {
            life,
            about: about.map_or(0, |r| r.chain_ver),
            up_to_date: report.is_some_and(|r| r.state() == LocalState::UpToDate),
            sync_failed: report
                .is_some_and(|r| !r.sync_failed.is_empty() || chain.syncing().is_some_and(|s| r.unreachable.contains(&s))),
            backing_off: live.is_some_and(|l| now < l.back_off_until),
            // A replacement under a known id is refused at registration and never reports.
            uuid_matches: true,
            leaving: moving.is_some(),
            replaced: moving.is_some_and(|m| serves(m.joining)) && self.is_overdue(chain, target, now),
        }
    }

    /// Whether a SERVING member gets no lease any more, so that it will be out: others cannot reach it, or it is on its way
    /// out and the others that serve, and are not known to be out, are as many as there must be.
    pub(super) fn retires(&self, chain: &Chain, target: TargetId, now: Time) -> bool {
        self.cut_off(chain, now).contains(&target) || self.leaves(chain, target, now)
    }

    /// The SERVING members without which all that remain reach those they send requests to: the fewest, by and large, and
    /// of two that only miss each other the one nearer the tail. Somebody always remains. Only members that are heard of
    /// count: the others will be out anyway.
    pub(super) fn cut_off(&self, chain: &Chain, now: Time) -> Vec<TargetId> {
        let missed = |t: TargetId| {
            let report = self.report(t).filter(|r| (r.chain, r.chain_ver) == (chain.id, chain.chain_ver));
            report.into_iter().flat_map(move |r| r.unreachable.iter().map(move |&missed| (t, missed)))
        };
        let mut missing: Vec<(TargetId, TargetId)> = chain.serving().flat_map(missed).collect();
        if missing.is_empty() {
            return Vec::new();
        }
        let lease = self.settings.surely_ended();
        let listed = |t: &TargetId| self.targets.get(t).is_some_and(|l| l.gone.is_none() && now < l.listed.saturating_add(lease));
        let serving: Vec<TargetId> = chain.serving().filter(listed).collect();
        missing.retain(|(t, missed)| serving.contains(t) && serving.contains(missed));
        let mut cut = Vec::new();
        while !missing.is_empty() {
            let misses = |t: &&TargetId| missing.iter().filter(|(a, b)| a == *t || b == *t).count();
            let Some(&worst) = serving.iter().max_by_key(misses) else { break };
            missing.retain(|&(a, b)| a != worst && b != worst);
            cut.push(worst);
        }
        cut
    }

    fn leaves(&self, chain: &Chain, target: TargetId, now: Time) -> bool {
        let Some(m) = self.state.moves.get(&chain.id).filter(|m| m.leaving == target) else { return false };
        if chain.state_of(target) != Some(PublicState::Serving) {
            return false;
        }
        let serves = |o: &&Member| o.state() == PublicState::Serving && o.target != target;
        let live = |o: &&Member| !matches!(self.hearing(o, chain, now), Hearing::Out(_));
        // Who only gives up its place in the order takes part in the number.
        let wanted = if m.joining == target { chain.members.len() - 1 } else { self.state.replicas as usize };
        chain.members.iter().filter(serves).filter(live).count() >= wanted.max(1)
    }

    /// Since when a member has been out, if it is.
    pub(super) fn out_since(&self, chain: &Chain, target: TargetId, now: Time) -> Option<Time> {
        let place = chain.members.iter().find(|m| m.target == target)?;
        match self.hearing(place, chain, now) {
            Hearing::Out(since) => Some(since),
            Hearing::Heard(_) | Hearing::MayLive => None,
        }
    }

    fn hearing(&self, place: &Member, chain: &Chain, now: Time) -> Hearing {
        let live = self.targets.get(&place.target);
        let gone_since = live.and_then(|l| l.gone).unwrap_or(self.started);
        if self.is_not_offered(place.target) || (rests_on_opening(place) && self.opened_anew(place.target)) {
            return Hearing::Out(gone_since);
        }
        if self.report(place.target).is_some_and(|r| closed(r, place, chain)) {
            return Hearing::Out(gone_since);
        }
        // Registering takes no lease, but a target just registered is about to be heard of.
        let heard = live.and_then(|l| l.heard);
        let basis = heard.unwrap_or(0).max(live.map_or(0, |l| l.registered)).max(self.started);
        let lease = self.settings.surely_ended() >> u32::from(is(Mutation::RemoveEarly));
        let end = basis.saturating_add(lease);
        // Without a lease, but there: if it may stay after all, the next heartbeat brings it one.
        let there = end <= now && live.is_some_and(|l| l.listed.saturating_add(lease) > now);
        if is(Mutation::CutOffAtOnce) && self.cut_off(chain, now).contains(&place.target) {
            return Hearing::Out(now);
        }
        match heard {
            _ if there && !self.retires(chain, place.target, now) => Hearing::MayLive,
            _ if end <= now => Hearing::Out(end),
            Some(at) => Hearing::Heard(at),
            None => Hearing::MayLive,
        }
    }

    /// Last report of a target in the present start of its node.
    pub(super) fn report(&self, target: TargetId) -> Option<&TargetReport> {
        self.targets.get(&target)?.report.as_ref().map(|(report, _)| report)
    }

    /// The node was started again without this target.
    pub(super) fn is_not_offered(&self, target: TargetId) -> bool {
        let row = self.state.targets.get(&target);
        row.is_none_or(|t| self.state.nodes.get(&t.node).is_none_or(|n| n.incarnation != t.offered))
    }

    /// Its memory is gone since it took its place: another start of the node, or opened again within the same.
    pub(super) fn opened_anew(&self, target: TargetId) -> bool {
        let Some(row) = self.state.targets.get(&target) else { return true };
        let reported = self.report(target).map(|r| r.open_count);
        let reopened = matches!((row.opened.count, reported), (Some(then), Some(now)) if then != now);
        (row.opened.incarnation != row.offered || reopened) && !is(Mutation::KeepMemoryless)
    }

    /// The chain that a target is a member of.
    pub(super) fn chain_of(&self, target: TargetId) -> Option<&Chain> {
        self.state.chains.get(&self.state.targets.get(&target)?.chain)
    }

    /// Still SERVING in the routing, although its memory is gone: it gets no lease before its removal.
    pub(super) fn removal_pending(&self, target: TargetId) -> bool {
        let Some(row) = self.state.targets.get(&target) else { return false };
        let place = self.state.chains.get(&row.chain).and_then(|c| c.state_of(target));
        place == Some(PublicState::Serving) && self.opened_anew(target)
    }

    /// When the lease of a node has surely ended, if it is not heard of again.
    pub(super) fn node_ends(&self, node: NodeId) -> Time {
        let heard = self.nodes.get(&node).map_or(0, |n| n.heard);
        heard.max(self.started).saturating_add(self.settings.surely_ended())
    }
}

/// Whether a place is lost with the memory of the target.
pub(super) fn rests_on_opening(place: &Member) -> bool {
    matches!(place.state(), PublicState::Serving | PublicState::Syncing) || place.chosen
}

/// Whether the report says that the target serves no more. Of a SERVING one "stopped" counts only about the present
/// chain version; said about another, it is the end of the lease that counts, since no lease follows such a report.
fn closed(report: &TargetReport, place: &Member, chain: &Chain) -> bool {
    match report.state() {
        LocalState::Online | LocalState::UpToDate => false,
        LocalState::Failed => true,
        LocalState::Stopped => {
            place.state() != PublicState::Serving || (report.chain, report.chain_ver) == (chain.id, chain.chain_ver)
        }
    }
}
