//! Routing at the nodes: each shard has what it has heard last, and so have its targets.

use std::sync::Arc;

use catena_chain::Event;
use catena_types::Routing;

use super::disk::Store;
use super::{Ev, MS, Rule, World};
use crate::mutation::{Mutation, is};

impl World {
    /// Newer routing reaches a shard.
    pub(super) fn on_route(&mut self, node: usize, process: u64, shard: u32, routing: &Arc<Routing>) {
        let Some(p) = self.nodes[node].process.as_mut().filter(|p| p.number == process) else { return };
        let deaf = p.deaf[shard as usize];
        if deaf > self.now {
            return self.at(deaf, Ev::Route { node, process, shard, routing: routing.clone() });
        }
        let held = &mut p.routing[shard as usize];
        if held.as_ref().is_some_and(|r| r.version >= routing.version) {
            return;
        }
        *held = Some(routing.clone());
        for slot in 0..self.nodes[node].slots.len() {
            if self.nodes[node].slots[slot].shard == shard {
                self.apply_routing(node, slot);
            }
        }
    }

    pub(super) fn apply_routing(&mut self, node: usize, slot: usize) {
        let n = &self.nodes[node];
        let s = &n.slots[slot];
        let Some(routing) = n.process.as_ref().and_then(|p| p.routing[s.shard as usize].clone()) else { return };
        let gate = s.open.as_ref().and_then(|o| o.gate);
        let adopted = s.open.as_ref().map_or(0, |o| o.replica.report().chain);
        // A target that was taken out of its chain learns that from the chain it was in.
        let assigned = routing.target(s.id).map_or(0, |t| if t.chain == 0 { adopted } else { t.chain });
        let chain = routing.chain(assigned);
        if adopted != 0 && assigned != adopted {
            let (old, new) = (s.adopted, chain.map_or(0, |c| c.chain_ver));
            if new <= old {
                let text = format!("target {} saw version {old} of chain {adopted}, and joins chain {assigned} at {new}", s.id);
                return self.fail(Rule::Membership, text);
            }
            return self.open_for_another_chain(node, slot);
        }
        if let Some(chain) = chain.filter(|_| gate.is_some_and(|g| g <= routing.version) || is(Mutation::OldRouting)) {
            self.give(node, slot, Event::Routing { version: routing.version, chain: chain.clone() });
        }
    }

    /// A target that was moved to another chain forgets the one it was in.
    fn open_for_another_chain(&mut self, node: usize, slot: usize) {
        self.coverage.hit("target opened anew for another chain");
        self.open_anew(node, slot);
        self.nodes[node].slots[slot].adopted = 0;
    }

    /// Closes a target and opens it again, in the same process.
    pub(super) fn open_anew(&mut self, node: usize, slot: usize) {
        self.send_late_heartbeat(node);
        self.close_slot(node, slot, Store::kill);
        if let Some(process) = self.nodes[node].process() {
            self.after(5 * MS, Ev::Reopen { node, slot, process });
        }
    }

    /// What the node says of its targets now comes only when one that is about to be opened anew may serve again.
    fn send_late_heartbeat(&mut self, node: usize) {
        let known = self.nodes[node].process.as_ref().filter(|p| p.incarnation != 0).map(|p| p.number);
        let Some(process) = known.filter(|_| !self.faults_stopped) else { return };
        self.coverage.hit("fault at a reopening");
        let sent = self.nodes[node].local(self.now);
        let (request, openings) = self.heartbeat(node);
        let late = self.rng.below(u64::from(self.plan.lease_ms) * 8) * MS;
        // To a manager that has not heard of the node yet, at times: the one elected just before.
        let election = self.manager.term_length() + late % (u64::from(self.plan.heartbeat_ms) * MS);
        if late > election && (late / MS).is_multiple_of(4) {
            self.coverage.hit("fault at a reopening and another manager");
            self.after(late - election, Ev::ManagerDeposed);
        }
        self.after(late, Ev::Heartbeat { node, process, sent, openings, request: Box::new(request) });
    }
}
