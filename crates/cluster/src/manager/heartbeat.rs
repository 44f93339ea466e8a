//! Heartbeats: what a node says of its targets, and the lease it gets for that.
//!
//! What must hold: a lease names a routing version that already shows every removal the listed targets are subject
//! to; a target whose memory is gone gets none before; what counts as heard was answered with a lease, and nothing else.

use catena_types::{ChainId, Code, Failure, LocalState, NodeId, TargetId, Time};
use catena_wire::manager::{HeartbeatReply, HeartbeatRequest, TargetReport};

use super::{Manager, Outcome};
use crate::mutation::{Mutation, is};

impl Manager {
    /// A node says that it lives. `now` is read after the heartbeat was received. Routing goes with the answer later, if it
    /// grants a lease: without one, it may show a place that rests on memory that is gone.
    pub fn heartbeat(&mut self, now: Time, request: &HeartbeatRequest) -> Outcome<HeartbeatReply> {
        self.wake(now);
        self.admit_candidate(request.node, request.incarnation, now);
        if let Some(failure) = self.refuse_heartbeat(request) {
            self.publish();
            let reply = HeartbeatReply { failure: Some(failure), ..self.nothing_granted() };
            return self.outcome(reply);
        }
        let overtaken = request.targets.iter().any(|report| self.is_of_earlier_opening(report));
        let node = self.nodes.entry(request.node).or_default();
        if overtaken || (node.seq.is_some_and(|last| request.seq <= last) && !is(Mutation::OldHeartbeats)) {
            let reply = self.nothing_granted();
            return self.outcome(reply);
        }
        (node.seq, node.heard) = (Some(request.seq), now);
        self.set_alive(request.node, true);
        let leaving = |t: TargetId| self.chain_of(t).is_some_and(|chain| self.retires(chain, t, now));
        let except: Vec<TargetId> = request.targets.iter().map(|r| r.target).filter(|&t| leaving(t)).collect();
        let hear = |report| self.hear(report, !except.contains(&report.target), now);
        let chains: Vec<ChainId> = request.targets.iter().filter_map(hear).collect();
        self.evaluate(chains, now);
        self.publish();
        let withheld = request.targets.iter().any(|r| self.removal_pending(r.target)) && !is(Mutation::GrantBeforeRemoval);
        let except = if is(Mutation::GrantToLeaving) { Vec::new() } else { except };
        let reply = if withheld { self.nothing_granted() } else { HeartbeatReply { except, ..self.grant() } };
        self.outcome(reply)
    }

    /// Answer without a lease.
    fn nothing_granted(&self) -> HeartbeatReply {
        HeartbeatReply { routing_ver: self.state.version, ..HeartbeatReply::default() }
    }

    fn grant(&self) -> HeartbeatReply {
        HeartbeatReply { lease_ms: self.settings.lease_ms, ..self.nothing_granted() }
    }

    fn refuse_heartbeat(&self, request: &HeartbeatRequest) -> Option<Failure> {
        let id = request.node;
        let present = self.state.nodes.get(&id).map_or(0, |n| n.incarnation);
        if request.incarnation < present {
            let text = format!("node {id} was started again as incarnation {present}: this process must end");
            return Some(Failure::new(Code::DuplicateNode, text));
        }
        if request.incarnation > present || present == 0 {
            let text = format!("incarnation {} of node {id} is not known here: register again", request.incarnation);
            return Some(Failure::new(Code::NotFound, text));
        }
        let strange = request.targets.iter().find_map(|report| self.refuse_report(id, report))?;
        Some(Failure::new(Code::InvalidArgument, strange))
    }

    fn refuse_report(&self, node: NodeId, report: &TargetReport) -> Option<String> {
        let target = report.target;
        if self.state.targets.get(&target).is_none_or(|t| t.node != node) || self.is_not_offered(target) {
            return Some(format!("node {node} lists target {target}, which it has not registered: register again"));
        }
        let state = report.state;
        LocalState::try_from(state).err().map(|_| format!("unknown state {state}: the node is of a newer build"))
    }

    /// Whether the report is older than one that a place rests on. A manager that has just begun knows of no heartbeat; but
    /// that place is stored, and within one start of a node openings only grow.
    fn is_of_earlier_opening(&self, report: &TargetReport) -> bool {
        let rests_on = self.state.targets.get(&report.target).filter(|row| row.opened.incarnation == row.offered);
        let earlier = rests_on.and_then(|row| row.opened.count).is_some_and(|count| report.open_count < count);
        earlier && !is(Mutation::EarlierOpenings)
    }

    /// Takes one report in, which is or is not answered with a lease; the chain to evaluate, if there is one.
    fn hear(&mut self, report: &TargetReport, granted: bool, now: Time) -> Option<ChainId> {
        let live = self.targets.entry(report.target).or_default();
        live.report = Some((report.clone(), now));
        let open = matches!(report.state(), LocalState::Online | LocalState::UpToDate);
        if open {
            live.listed = now;
            live.heard = if granted { Some(now) } else { live.heard };
        }
        let anew = self.opened_anew(report.target);
        let live = self.targets.entry(report.target).or_default();
        if anew || !open {
            live.gone.get_or_insert(now);
        } else {
            live.gone = None;
        }
        let row = self.state.targets.get_mut(&report.target)?;
        if row.opened.incarnation == row.offered && row.opened.count.is_none() {
            row.opened.count = Some(report.open_count);
            self.changed = true;
        }
        (row.chain != 0).then_some(row.chain)
    }
}
