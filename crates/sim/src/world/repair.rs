//! Replicas that move: an operator who drains, rebalances, moves and rotates; disks and nodes that are lost for good.
//!
//! What is lost stays so, and its chains must become whole without it. Only where nobody else has the data, or nobody has
//! room, does it come back once the faults have stopped.

use catena_types::{ChainVer, PublicState, TargetId};
use catena_wire::manager::{Drain, MoveReason, Rebalance, ReplicaMove, StatusReply, Task};

use super::disk::{Medium, Store};
use super::node::{Slot, Spare};
use super::{Ev, MS, World};
use crate::world::rot::Rot;

/// What was lost for good; one thing per run.
#[derive(Default)]
pub(super) struct Losses {
    /// The disk, where it was, and the id it had.
    disk: Option<(usize, u32, TargetId, Spare)>,
    /// The node.
    pub(super) node: Option<usize>,
    /// Newest chain version that the target on the disk had adopted.
    pub(super) adopted: Option<(TargetId, ChainVer)>,
    /// Something was lost.
    happened: bool,
}

impl World {
    /// An operator asks for something sensible, or for the contrary.
    pub(super) fn operate(&mut self, node: usize) {
        let (now, id) = (self.now, node as u32 + 1);
        let chains = self.manager.routing().chains.clone();
        if chains.is_empty() {
            return;
        }
        let chain = self.rng.pick(&chains).clone();
        let member = self.rng.pick(&chain.members).target;
        let task = match self.rng.below(8) {
            0 | 1 => Task::Drain(Drain { node: id, target: 0, cancel: false }),
            2 | 3 => Task::Drain(Drain { node: id, target: 0, cancel: true }),
            4 => Task::Rebalance(Rebalance { dry_run: false, cancel: self.rng.chance(1, 4) }),
            5 => Task::CancelMove(chain.id),
            6 => Task::Rotate(chain.id),
            _ => Task::Move(ReplicaMove { chain: chain.id, leaving: member, ..ReplicaMove::default() }),
        };
        let Some(reply) = self.manager.admin(now, task) else { return };
        let word = if reply.failure.is_some() { "refused" } else { "taken" };
        self.coverage.hit(format!("operator {word}"));
        self.note(|| format!("operator: {task:?}: {reply:?}"));
        self.store_next();
    }

    /// Whether something may be lost, as long as it is on the node that rots: else nobody might have good data.
    fn may_lose(&self) -> bool {
        !self.losses.happened && self.manager.initialized()
    }

    /// A disk is replaced by an empty one, which says that it is new.
    pub(super) fn replace_disk(&mut self, node: usize) {
        let node = self.plan.rotting.unwrap_or(node);
        let slot = self.rng.below(self.nodes[node].slots.len() as u64) as usize;
        let s = &self.nodes[node].slots[slot];
        if !self.may_lose() || s.has_other_disk() || s.id == 0 {
            return;
        }
        let mut uuid = s.uuid;
        uuid[14] += 1;
        let Ok(medium) = Medium::format(None, uuid, &self.plan, &self.arena) else { return };
        self.kill(node, Store::kill);
        let s = &mut self.nodes[node].slots[slot];
        let old = std::mem::replace(s, Slot::new(s.shard, Spare { medium, uuid, rot: Rot::default() }));
        let (shard, id) = (old.shard, old.id);
        self.losses.adopted = Some((id, old.adopted));
        self.losses.disk = Some((node, shard, id, Spare { medium: old.medium, uuid: old.uuid, rot: old.rot }));
        self.losses.happened = true;
        self.coverage.hit("disk lost for good");
        self.note(|| format!("the disk of t{id} is lost for good"));
        self.after(20 * MS, Ev::Start { node });
    }

    /// A node ends and does not start again.
    pub(super) fn lose_node(&mut self, node: usize) {
        let node = self.plan.rotting.unwrap_or(node);
        if self.may_lose() && self.nodes[node].slots.iter().all(|s| s.id != 0 && !s.has_other_disk()) {
            self.kill(node, Store::crash);
            self.coverage.hit("node lost for good");
            (self.losses.node, self.losses.happened) = (Some(node), true);
        }
    }

    /// Once the faults have stopped, what cannot be done without comes back.
    pub(super) fn look_after_losses(&mut self) {
        if !self.faults_stopped || (self.losses.disk.is_none() && self.losses.node.is_none()) {
            return;
        }
        let Some(status) = self.manager.status(self.now) else { return };
        let no_room = status.moves.iter().any(|m| m.joining == 0 && m.reason() == MoveReason::Lost);
        if !no_room && !self.misses_the_last(&status) {
            return;
        }
        self.coverage.hit("loss taken back");
        if let Some(node) = self.losses.node.take() {
            self.note(|| format!("node {} comes back after all", node + 1));
            self.after(20 * MS, Ev::Start { node });
        }
        if let Some((node, shard, id, mut disk)) = self.losses.disk.take() {
            if self.plan.rotting.is_none() {
                // Like that of all others when the faults stopped.
                disk.medium.take_back(&std::mem::take(&mut disk.rot));
            }
            self.note(|| format!("the disk of t{id} is found again"));
            self.kill(node, Store::kill);
            let mut slot = Slot::new(shard, disk);
            slot.id = id;
            slot.rotted = true;
            self.nodes[node].slots.push(slot);
            self.after(20 * MS, Ev::Start { node });
        }
    }

    /// Whether nobody of a last serving set is left but what is lost.
    fn misses_the_last(&self, status: &StatusReply) -> bool {
        let routing = &status.routing;
        let disk = self.losses.disk.as_ref().map(|(_, _, id, _)| *id);
        let node = self.losses.node.map(|n| n as u32 + 1);
        let lost = |t: TargetId| Some(t) == disk || (node.is_some() && routing.target(t).map(|t| t.node) == node);
        routing.chains.iter().any(|c| c.serving().next().is_none() && c.in_state(PublicState::LastSrv).all(lost))
    }

    /// Moves that have not ended.
    pub(super) fn moves_under_way(&self) -> Option<String> {
        let state = self.manager.state()?;
        if state.rebalancing || !state.moves.is_empty() {
            return Some(format!("replicas move: {:?}", state.moves));
        }
        let replicas = self.plan.replicas as usize;
        let odd = state.chains.values().find(|c| c.members.len() != replicas);
        odd.map(|c| format!("chain {} has not {replicas} members: {c:?}", c.id))
    }
}
