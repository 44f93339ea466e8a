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

/// By how much a shift changes things for the worse, the smallest being the best: replicas that may fail together; the sum
/// over all nodes of load² / targets; the sum over all pairs of nodes of shared².
type Change = (i64, i128, i64);

/// Parts of a load: finer than any difference between loads of nodes with up to a million targets.
const LOAD_PARTS: i128 = 1 << 40;

impl Layout {
    /// The best shift of one replica; `None` if none makes racks or loads better.
    pub fn next_shift(&self) -> Option<Shift> {
        self.best_shift(&self.tally())
    }

    /// The first shifts of a series, each the best when those before it are done.
    pub fn shifts(mut self, most: usize) -> Vec<Shift> {
        let mut tally = self.tally();
        let mut shifts = Vec::new();
        while shifts.len() < most
            && let Some(shift) = self.best_shift(&tally)
        {
            let before = self.nodes_of(shift.chain);
            self.apply(shift);
            let after = self.nodes_of(shift.chain);
            tally.count(&before, -1);
            tally.count(&after, 1);
            shifts.push(shift);
        }
        shifts
    }

    fn best_shift(&self, tally: &Tally) -> Option<Shift> {
        let node = |id| Place { id, rack: self.rack(id), size: self.size(id), load: tally.load(id) };
        let mut rooms: Vec<(Place, TargetId)> =
            self.free.iter().filter_map(|(&id, free)| free.first().map(|&t| (node(id), t))).collect();
        // Whoever moves, it is better off in a room the earlier that stands here.
        rooms.sort_by(|(a, _), (b, _)| ((2 * a.load + 1) * b.size).cmp(&((2 * b.load + 1) * a.size)));
        let mut best: Option<(Change, Shift)> = None;
        for (&chain, members) in self.chains.iter().filter(|(id, _)| !self.fixed.contains(id)) {
            let places: Vec<Place> = members.iter().map(|&(_, id)| node(id)).collect();
            for (n, &(from, _)) in members.iter().enumerate() {
                if let Some((change, to)) = better_home(&places, n, &rooms, tally, best.map(|b| b.0)) {
                    best = Some((change, Shift { chain, from, to }));
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
        (self.conflicts(others, node), shared, i128::from(tally.load(node)) * LOAD_PARTS / i128::from(self.size(node)))
    }

    /// How many of these nodes may fail together with this one.
    fn conflicts(&self, others: &[NodeId], node: NodeId) -> usize {
        others.iter().filter(|&&other| same_rack(&self.racks, node, other)).count()
    }

    fn size(&self, node: NodeId) -> i64 {
        self.targets.get(&node).map_or(1, |&n| n.max(1) as i64)
    }

    /// Counts replicas.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.chains.keys().for_each(|&chain| tally.count(&self.nodes_of(chain), 1));
        tally
    }

    /// Where the members of a chain are.
    fn nodes_of(&self, chain: ChainId) -> Vec<NodeId> {
        self.chains.get(&chain).into_iter().flatten().map(|m| m.1).collect()
    }

    /// The name of a node's rack, if it has one.
    fn rack(&self, node: NodeId) -> Option<&str> {
        self.racks.get(&node).map(String::as_str).filter(|rack| !rack.is_empty())
    }
}

/// The best room for the `n`th of these members, if moving it there is better than `than`, and than leaving it.
///
/// Thousands of replicas beside hundreds of rooms: most are passed over with a few sums. What must hold: rooms stand in the
/// order of their loads, those of one load in the order of their nodes.
fn better_home(
    members: &[Place<'_>],
    n: usize,
    rooms: &[(Place<'_>, TargetId)],
    tally: &Tally,
    than: Option<Change>,
) -> Option<(Change, TargetId)> {
    let (a, others) = (&members[n], || members.iter().enumerate().filter(move |(m, _)| *m != n).map(|(_, o)| o));
    let conflicts = others().filter(|o| o.may_fail_with(a)).count() as i64;
    let mut kept = None;
    let mut best: Option<(Change, TargetId)> = None;
    for (b, to) in rooms {
        let more = a.more_at(b);
        let load = i128::from(more) * LOAD_PARTS / i128::from(a.size * b.size);
        let beaten = |than: Change| (-conflicts, load) > (than.0, than.1);
        if (conflicts == 0 && more >= 0) || best.map(|b| b.0).or(than).is_some_and(beaten) {
            break;
        }
        let racks = others().filter(|o| o.may_fail_with(b)).count() as i64 - conflicts;
        if (racks, more) >= (0, 0) || members.iter().any(|m| m.id == b.id) {
            continue;
        }
        let kept = *kept.get_or_insert_with(|| others().map(|o| 1 - tally.shared(a.id, o.id)).sum::<i64>());
        let pairs = kept + others().map(|o| tally.shared(b.id, o.id)).sum::<i64>();
        let change = (racks, load, pairs);
        if best.map(|b| b.0).or(than).is_none_or(|than| change < than) {
            best = Some((change, *to));
        }
        if (racks, pairs) == (-conflicts, kept) {
            break;
        }
    }
    best
}

/// A node, and what decides whether a replica is better off there.
struct Place<'a> {
    id: NodeId,
    rack: Option<&'a str>,
    /// Targets, at least one.
    size: i64,
    /// Replicas.
    load: i64,
}

impl Place<'_> {
    fn may_fail_with(&self, other: &Place<'_>) -> bool {
        self.id == other.id || (self.rack.is_some() && self.rack == other.rack)
    }

    /// By how much the sum over all nodes of load² / targets grows if a replica goes from here to `to`, times the targets
    /// of both.
    fn more_at(&self, to: &Place<'_>) -> i64 {
        (2 * to.load + 1) * self.size - (2 * self.load - 1) * to.size
    }
}

/// How many replicas a node has, and how many chains two nodes share.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    loads: BTreeMap<NodeId, i64>,
    /// By one node, then by the other: few others each, however large the cluster.
    pairs: BTreeMap<NodeId, BTreeMap<NodeId, i64>>,
}

impl Tally {
    fn load(&self, node: NodeId) -> i64 {
        self.loads.get(&node).copied().unwrap_or(0)
    }

    /// Counts the replicas of a chain on these nodes `by` times.
    fn count(&mut self, nodes: &[NodeId], by: i64) {
        for (n, &a) in nodes.iter().enumerate() {
            *self.loads.entry(a).or_insert(0) += by;
            let beside = self.pairs.entry(a).or_default();
            nodes.iter().enumerate().filter(|(m, _)| *m != n).for_each(|(_, &b)| *beside.entry(b).or_insert(0) += by);
        }
    }

    fn shared(&self, a: NodeId, b: NodeId) -> i64 {
        self.pairs.get(&a).and_then(|of| of.get(&b)).copied().unwrap_or(0)
    }
}

/// Whether two nodes may fail together: they are one, or in one rack.
pub(crate) fn same_rack(racks: &BTreeMap<NodeId, String>, a: NodeId, b: NodeId) -> bool {
    let rack = |n: NodeId| racks.get(&n).map(String::as_str).filter(|rack| !rack.is_empty());
    a == b || (rack(a).is_some() && rack(a) == rack(b))
}
