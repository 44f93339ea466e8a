//! What an operator asks for: drains, moves, rotations, rebalancing.
//!
//! The request is stored and answered; what it takes goes on by itself, whoever is the manager then.

use catena_types::{ChainId, Code, Failure, PublicState, TargetId, Time};
use catena_wire::manager::{AdminReply, AdminRequest, Drain, MoveReason, Rebalance, ReplicaMove, Task};

use super::{Manager, Outcome};
use crate::state::Move;

type Answer = Result<Vec<ReplicaMove>, Failure>;

impl Manager {
    /// Does what an operator asks for. `now` is read after the request was received.
    pub fn admin(&mut self, now: Time, request: &AdminRequest) -> Outcome<AdminReply> {
        self.wake(now);
        let answer = match request.task {
            Some(Task::Drain(drain)) => self.drain(now, drain),
            Some(Task::Rebalance(rebalance)) => Ok(self.rebalance(now, rebalance)),
            Some(Task::Move(m)) => self.move_replica(m),
            Some(Task::Rotate(chain)) => self.rotate(chain),
            Some(Task::CancelMove(chain)) => self.cancel_move(chain),
            None => Err(Failure::new(Code::InvalidArgument, "the request asks for nothing known here: use tools of this build")),
        };
        self.publish();
        let reply = match answer {
            Ok(moves) => AdminReply { failure: None, moves },
            Err(failure) => AdminReply { failure: Some(failure), moves: Vec::new() },
        };
        self.outcome(reply)
    }

    fn drain(&mut self, now: Time, drain: Drain) -> Answer {
        let Drain { node, target, cancel } = drain;
        let flag = match (node, target) {
            (node, 0) => self.state.nodes.get_mut(&node).map(|n| &mut n.draining),
            (0, target) => self.state.targets.get_mut(&target).map(|t| &mut t.draining),
            _ => return Err(Failure::new(Code::InvalidArgument, "drain either a node or a target")),
        };
        let what = if target == 0 { format!("node {node}") } else { format!("target {target}") };
        let unknown = || Failure::new(Code::NotFound, format!("there is no {what}: see `catena admin nodes` and `targets`"));
        *flag.ok_or_else(unknown)? = !cancel;
        self.changed = true;
        self.keep_moves(now);
        let of_it = |t: TargetId| t == target || self.state.targets.get(&t).is_some_and(|row| row.node == node);
        Ok(self.moves(now).into_iter().filter(|m| of_it(m.leaving)).collect())
    }

    fn rebalance(&mut self, now: Time, rebalance: Rebalance) -> Vec<ReplicaMove> {
        let shifts = self.shifts();
        if rebalance.dry_run {
            return shifts;
        }
        (self.state.rebalancing, self.changed) = (!rebalance.cancel, true);
        self.keep_moves(now);
        if rebalance.cancel { Vec::new() } else { shifts }
    }

    fn move_replica(&mut self, wanted: ReplicaMove) -> Answer {
        let ReplicaMove { chain: id, leaving, joining, .. } = wanted;
        self.check_unmoved(id)?;
        let chain = &self.state.chains[&id];
        let refused = |code, text: String| Err(Failure::new(code, text));
        if chain.state_of(leaving).is_none() {
            return refused(Code::NotFound, format!("target {leaving} is no member of chain {id}: see `catena admin chains`"));
        }
        if chain.serving().next().is_none() {
            return refused(Code::PreconditionFailed, format!("no member of chain {id} serves: nothing can be copied"));
        }
        let layout = self.layout();
        let joining = match joining {
            0 => self.choose_home(&layout, chain, leaving),
            t => layout.free.values().flatten().copied().find(|&free| free == t),
        };
        let Some(joining) = joining else {
            let text = format!(
                "no target to move to: it must be in no chain, open, not being emptied, and have room; and it is on a node \
                 with no other member of chain {id}, unless named"
            );
            return refused(Code::PreconditionFailed, text);
        };
        self.begin(id, Move { leaving, joining, reason: MoveReason::Asked });
        Ok(vec![ReplicaMove { joining, reason: MoveReason::Asked as i32, ..wanted }])
    }

    fn rotate(&mut self, id: ChainId) -> Answer {
        self.check_unmoved(id)?;
        let chain = &self.state.chains[&id];
        let whole = chain.members.len() > 1 && chain.members.iter().all(|m| m.state() == PublicState::Serving);
        let Some(head) = chain.head().filter(|_| whole) else {
            let text = format!("chain {id} can be rotated only while it has several replicas and all of them serve");
            return Err(Failure::new(Code::PreconditionFailed, text));
        };
        self.begin(id, Move { leaving: head, joining: head, reason: MoveReason::Asked });
        Ok(vec![ReplicaMove { chain: id, leaving: head, joining: head, reason: MoveReason::Asked as i32 }])
    }

    fn cancel_move(&mut self, id: ChainId) -> Answer {
        if self.give_up(id) {
            return Ok(Vec::new());
        }
        let text = format!("chain {id} has no move that can be given up: see `catena admin moves`");
        Err(Failure::new(Code::PreconditionFailed, text))
    }

    fn check_unmoved(&self, id: ChainId) -> Result<(), Failure> {
        if !self.state.chains.contains_key(&id) {
            return Err(Failure::new(Code::NotFound, format!("there is no chain {id}: see `catena admin chains`")));
        }
        match self.state.moves.get(&id) {
            Some(m) => {
                let Move { leaving, joining, .. } = m;
                let text = format!("chain {id} moves from target {leaving} to {joining}: wait, or give that up");
                Err(Failure::new(Code::PreconditionFailed, text))
            }
            None => Ok(()),
        }
    }
}
