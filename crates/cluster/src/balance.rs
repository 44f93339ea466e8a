//! Which replica to move where: racks first, then even loads, then even recovery.
//!
//! Deterministic. What must hold: every move that [`Layout::next_shift`] names makes the placement better by the same
//! order, so that a series of them ends.

use std::collections::{BTreeMap, BTreeSet};

use catena_types::{ChainId, NodeId, TargetId};

/// Who holds what, and what is free.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// What nodes share with others that may fail together with them.
    pub racks: BTreeMap<NodeId, String>,
    /// Targets of each node that takes replicas, in use or not.
    pub targets: BTreeMap<NodeId, usize>,
    /// Targets of those nodes that are in no chain, best first.
    pub free: BTreeMap<NodeId, Vec<TargetId>>,
    /// Members of each chain, and where they are.
    pub chains: BTreeMap<ChainId, Vec<(TargetId, NodeId)>>,
    /// Chains of which nothing may be moved now.
    pub fixed: BTreeSet<ChainId>,
}

/// A replica that would be better elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The chain.
    pub chain: ChainId,
    /// The target that has it.
    pub from: TargetId,
    /// The target that should.
    pub to: TargetId,
}

/// By how much a shift changes things for the worse; the smallest is the best.
type Change = (i64, i128, i64);

/// Parts of a load: finer than any difference between loads of nodes with up to a million targets.
const LOAD_PARTS: i128 = 1 << 40;

impl Layout {
    /// The best shift of one replica; `None` if none makes racks or loads better.
    pub fn next_shift(&self) -> Option<Shift> {
        let tally = self.tally();
        let mut best: Option<(Change, Shift)> = None;
        for (&chain, members) in self.chains.iter().filter(|(id, _)| !self.fixed.contains(id)) {
            for &(from, a) in members {
                let others: Vec<NodeId> = members.iter().filter(|(t, _)| *t != from).map(|m| m.1).collect();
                for (&b, free) in self.free.iter().filter(|(b, _)| **b != a && !others.contains(b)) {
                    let Some(&to) = free.first() else { continue };
                    let change = self.change(&tally, &others, a, b);
                    let shift = Shift { chain, from, to };
                    if (change.0, change.1) < (0, 0) && best.is_none_or(|(than, _)| change < than) {
                        best = Some((change, shift));
                    }
                }
            }
        }
        best.map(|(_, shift)| shift)
    }

    /// Does as if a shift were done.
    pub fn apply(&mut self, shift: Shift) {
        let node_of_free = self.free.iter().find(|(_, free)| free.contains(&shift.to)).map(|(&node, _)| node);
        let Some((to, members)) = node_of_free.zip(self.chains.get_mut(&shift.chain)) else { return };
        for member in members.iter_mut().filter(|m| m.0 == shift.from) {
            let from = std::mem::replace(member, (shift.to, to));
            self.free.entry(to).or_default().retain(|&t| t != shift.to);
            if self.targets.contains_key(&from.1) {
                self.free.entry(from.1).or_default().push(from.0);
            }
        }
    }

    /// How well a node suits as home of a replica beside those on `others`; the smallest is the best: replicas in its
    /// rack, chains it shares with those nodes already, its load.
    pub fn rank(&self, tally: &Tally, others: &[NodeId], node: NodeId) -> (usize, i64, i128) {
        let shared = others.iter().map(|&o| tally.shared(o, node)).sum();
        (self.conflicts(others, node), shared, tally.load(node) * LOAD_PARTS / self.size(node))
    }

    /// How many of these nodes may fail together with this one.
    fn conflicts(&self, others: &[NodeId], node: NodeId) -> usize {
        others.iter().filter(|&&other| same_rack(&self.racks, node, other)).count()
    }

    fn size(&self, node: NodeId) -> i128 {
        self.targets.get(&node).map_or(1, |&n| n.max(1) as i128)
    }

    /// Counts replicas.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for members in self.chains.values() {
            for &(t, a) in members {
                *tally.loads.entry(a).or_insert(0) += 1;
                members.iter().filter(|m| m.0 != t).for_each(|&(_, b)| *tally.pairs.entry((a, b)).or_insert(0) += 1);
            }
        }
        tally
    }

    /// What a shift from node `a` to node `b` changes: replicas that may fail together; the sum over all nodes of
    /// load² / targets; the sum over all pairs of nodes of shared².
    fn change(&self, tally: &Tally, others: &[NodeId], a: NodeId, b: NodeId) -> Change {
        let (ta, tb) = (self.size(a), self.size(b));
        let more = (2 * tally.load(b) + 1) * ta - (2 * tally.load(a) - 1) * tb;
        let pairs = others.iter().map(|&o| tally.shared(b, o) - tally.shared(a, o) + 1).sum();
        let racks = self.conflicts(others, b) as i64 - self.conflicts(others, a) as i64;
        (racks, more * LOAD_PARTS / (ta * tb), pairs)
    }
}

/// How many replicas a node has, and how many chains two nodes share.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    loads: BTreeMap<NodeId, i128>,
    pairs: BTreeMap<(NodeId, NodeId), i64>,
}

impl Tally {
    fn load(&self, node: NodeId) -> i128 {
        self.loads.get(&node).copied().unwrap_or(0)
    }

    fn shared(&self, a: NodeId, b: NodeId) -> i64 {
        self.pairs.get(&(a, b)).copied().unwrap_or(0)
    }
}

/// Whether two nodes may fail together: they are one, or in one rack.
pub(crate) fn same_rack(racks: &BTreeMap<NodeId, String>, a: NodeId, b: NodeId) -> bool {
    let rack = |n: NodeId| racks.get(&n).map(String::as_str).filter(|rack| !rack.is_empty());
    a == b || (rack(a).is_some() && rack(a) == rack(b))
}
