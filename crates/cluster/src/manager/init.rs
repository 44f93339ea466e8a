//! Makes the chain table out of free targets.

use std::collections::BTreeMap;

use catena_types::{Chain, ChainId, Code, Failure, LocalState, Member, NodeId, PublicState, TargetId, Time};
use catena_wire::manager::{InitReply, InitRequest};

use super::{Manager, Outcome};
use crate::placement::make_chains;

/// Pause before the next try, in microseconds, while nodes are missing.
const RETRY_US: u64 = 200_000;
/// Most replicas per chain.
const MAX_REPLICAS: u32 = 16;

impl Manager {
    /// Makes chains of the targets registered by living nodes. `now` is read after the request was received.
    pub fn init(&mut self, now: Time, request: &InitRequest) -> Outcome<InitReply> {
        self.wake(now);
        match self.make_table(now, request) {
            Ok(chains) => {
                self.publish();
                self.outcome(InitReply { failure: None, chains })
            }
            Err(failure) => self.outcome(InitReply { failure: Some(failure), chains: 0 }),
        }
    }

    fn make_table(&mut self, now: Time, request: &InitRequest) -> Result<u32, Failure> {
        let replicas = request.replicas;
        if !self.state.table.is_empty() {
            let (chains, has) = (self.state.chains.len(), self.state.replicas);
            let text = format!("there is a chain table already: {chains} chains of {has} replicas; nothing was changed");
            return Err(Failure::new(Code::PreconditionFailed, text).with_version(chains as u64));
        }
        if !(1..=MAX_REPLICAS).contains(&replicas) {
            let text = format!("{replicas} replicas per chain: choose 1 to {MAX_REPLICAS}");
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        let busy = |text: String| Failure::new(Code::Busy, text).with_version(RETRY_US);
        let living: Vec<NodeId> = self.state.nodes.iter().filter(|(_, n)| n.alive).map(|(&id, _)| id).collect();
        if living.len() < request.nodes as usize {
            let (there, wanted) = (living.len(), request.nodes);
            return Err(busy(format!("{there} of {wanted} nodes have registered {living:?}: start the others")));
        }
        let mut free = self.free_targets();
        free.values_mut().for_each(|of_node| of_node.truncate(of_node.len().saturating_sub(request.spare as usize)));
        if !self.waited(now) && self.any_unheard(&free) {
            return Err(busy("the manager has just started and has not heard of every node: try again".to_owned()));
        }
        let chains = make_chains(&free, &self.racks(), replicas as usize)
            .map_err(|e| Failure::new(Code::InvalidArgument, e.to_string()))?;
        self.state.replicas = replicas;
        let made = chains.len() as u32;
        (1..).zip(chains).for_each(|(id, targets)| self.add_chain(id, &targets));
        self.touch_routing();
        Ok(made)
    }

    fn add_chain(&mut self, id: ChainId, targets: &[TargetId]) {
        let place = |&target| Member { target, state: PublicState::Serving as i32, chosen: false };
        self.state.chains.insert(id, Chain { id, chain_ver: 1, members: targets.iter().map(place).collect() });
        self.state.table.push(id);
        for &target in targets {
            if let Some(row) = self.state.targets.get_mut(&target) {
                row.chain = id;
            }
            self.note_opening(target);
        }
    }

    /// Targets in no chain that are open on living nodes.
    pub(super) fn free_targets(&self) -> BTreeMap<NodeId, Vec<TargetId>> {
        let mut free = BTreeMap::new();
        for (&node, _) in self.state.nodes.iter().filter(|(_, n)| n.alive) {
            let open =
                |t: TargetId| self.report(t).is_none_or(|r| matches!(r.state(), LocalState::Online | LocalState::UpToDate));
            let targets: Vec<_> =
                self.state.offered_by(node).filter(|(id, t)| t.chain == 0 && open(*id)).map(|(id, _)| id).collect();
            free.insert(node, targets);
        }
        free
    }

    /// Whether a free target may hold a lease that another manager granted: then its opening must be known first.
    fn any_unheard(&self, free: &BTreeMap<NodeId, Vec<TargetId>>) -> bool {
        free.values().flatten().any(|t| self.targets.get(t).is_none_or(|l| l.registered == 0 && l.report.is_none()))
    }
}
