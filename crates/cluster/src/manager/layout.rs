//! Where replicas are, and where one could go.

use std::collections::BTreeMap;

use catena_types::{Chain, NodeId, TargetId};

use super::Manager;
use crate::balance::Layout;

/// Free room counts in so many steps, so that a few bytes decide nothing.
const ROOM_STEPS: u128 = 8;

impl Manager {
    /// The rack of every node.
    pub(super) fn racks(&self) -> BTreeMap<NodeId, String> {
        self.state.nodes.iter().map(|(&id, n)| (id, n.rack.clone())).collect()
    }

    /// Whether a target, or all of its node, is being emptied.
    pub(super) fn drains(&self, target: TargetId) -> bool {
        let Some(row) = self.state.targets.get(&target) else { return false };
        row.draining || self.state.nodes.get(&row.node).is_some_and(|n| n.draining)
    }

    fn node_of(&self, target: TargetId) -> NodeId {
        self.state.targets.get(&target).map_or(0, |t| t.node)
    }

    /// Everything as it will be when all moves have ended.
    pub(super) fn layout(&self) -> Layout {
        let mut layout = Layout { racks: self.racks(), ..Layout::default() };
        for (&id, row) in &self.state.targets {
            if !self.drains(id) && self.state.nodes.get(&row.node).is_some_and(|n| n.alive) && !self.is_not_offered(id) {
                *layout.targets.entry(row.node).or_insert(0) += 1;
            }
        }
        layout.free = self.homes();
        for (&id, chain) in &self.state.chains {
            let moving = self.state.moves.get(&id).map_or(0, |m| if m.joining == m.leaving { 0 } else { m.leaving });
            let stay = chain.members.iter().map(|m| m.target).filter(|&t| t != moving);
            layout.chains.insert(id, stay.map(|t| (t, self.node_of(t))).collect());
            let whole = chain.members.len() == self.state.replicas as usize && chain.serving().count() == chain.members.len();
            if !whole || self.state.moves.contains_key(&id) {
                layout.fixed.insert(id);
            }
        }
        layout
    }

    /// Free targets that may take a replica: those that are listed as open and not being emptied.
    pub(super) fn homes(&self) -> BTreeMap<NodeId, Vec<TargetId>> {
        let mut homes = self.free_targets();
        for of_node in homes.values_mut() {
            of_node.retain(|&t| self.report(t).is_some() && !self.drains(t));
            of_node.sort_by_key(|&t| (std::cmp::Reverse(self.room(t)), t));
        }
        homes
    }

    /// The free target that suits best for a replica of a chain in place of a member; `None` if there is none with room.
    pub(super) fn choose_home(&self, layout: &Layout, chain: &Chain, leaving: TargetId) -> Option<TargetId> {
        let others: Vec<NodeId> =
            chain.members.iter().map(|m| m.target).filter(|&t| t != leaving).map(|t| self.node_of(t)).collect();
        let held = chain.tail().and_then(|t| self.report(t)).map_or(0, |r| r.space.used);
        let fits = |t: &TargetId| self.report(*t).is_some_and(|r| r.space.total >= held);
        let able: Vec<(NodeId, TargetId)> = layout
            .free
            .iter()
            .filter(|(node, _)| !others.contains(node))
            .flat_map(|(&node, free)| free.iter().copied().filter(fits).map(move |t| (node, t)))
            .collect();
        let most = able.iter().map(|&(_, t)| self.room(t)).max()?;
        let fullness = |t: TargetId| ROOM_STEPS - u128::from(self.room(t)) * ROOM_STEPS / u128::from(most.max(1));
        let tally = layout.tally();
        let order = |&(node, t): &(NodeId, TargetId)| {
            let (conflicts, shared, load) = layout.rank(&tally, &others, node);
            // One to which syncs have failed is tried last.
            (self.failures(t), conflicts, fullness(t), shared, load, t)
        };
        able.into_iter().min_by_key(order).map(|(_, t)| t)
    }

    /// Bytes that a target could take.
    fn room(&self, target: TargetId) -> u64 {
        self.report(target).map_or(0, |r| r.space.total.saturating_sub(r.space.used))
    }
}
