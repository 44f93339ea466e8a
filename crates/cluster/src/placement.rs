//! Chains out of free targets.
//!
//! As many chains as possible, each on distinct nodes, every target in at most one; each in
//! distinct racks, or in all of them if there are fewer than replicas; heads and tails even over the nodes, since
//! heads take the writes and tails the version queries; and nodes paired evenly with as many others as possible, so that
//! what a lost node held is brought back from all of them. Deterministic and pinned by golden vectors.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use catena_types::{NodeId, TargetId};

use crate::balance::same_rack;

/// Why no chain can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementError {
    replicas: usize,
    nodes_with_room: usize,
}

impl std::fmt::Display for PlacementError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PlacementError { replicas, nodes_with_room } = self;
        let (needs, have) = (plural(*replicas), if *nodes_with_room == 1 { "has" } else { "have" });
        write!(
            f,
            "{replicas} replicas need {replicas} node{needs} with a free target, {nodes_with_room} {have} one: \
             start more nodes, or ask for fewer replicas"
        )
    }
}

impl std::error::Error for PlacementError {}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Chains of `replicas` targets each, head first, from the free targets of each node. Nodes in the same rack (one with a
/// name) may fail together.
///
/// # Errors
/// Too few nodes have a free target for even one chain.
pub fn make_chains(
    free: &BTreeMap<NodeId, Vec<TargetId>>,
    racks: &BTreeMap<NodeId, String>,
    replicas: usize,
) -> Result<Vec<Vec<TargetId>>, PlacementError> {
    let with_room: Vec<(NodeId, &Vec<TargetId>)> = free.iter().filter(|(_, t)| !t.is_empty()).map(|(&id, t)| (id, t)).collect();
    // A rack goes by its first node.
    let rack = |id| with_room.iter().position(|(other, _)| same_rack(racks, id, *other)).unwrap_or_default();
    let mut nodes: Vec<Node> =
        with_room.iter().map(|&(id, t)| Node { id, rack: rack(id), free: t.clone(), used: 0, beside: BTreeMap::new() }).collect();
    let racks = nodes.iter().enumerate().filter(|(n, node)| node.rack == *n).count();
    if replicas == 0 || nodes.len() < replicas {
        return Err(PlacementError { replicas, nodes_with_room: nodes.len() });
    }
    let mut in_rack = vec![0; nodes.len()];
    nodes.iter().for_each(|n| in_rack[n.rack] += n.free.len());
    let mut chains = Vec::new();
    while let Some(members) = pick_nodes(&nodes, &in_rack, replicas, racks, chains.len()) {
        for &a in &members {
            nodes[a].used += 1;
            in_rack[nodes[a].rack] -= 1;
            members.iter().filter(|&&b| b != a).for_each(|&b| *nodes[a].beside.entry(b).or_insert(0) += 1);
        }
        chains.push(members);
    }
    balance_ends(&mut chains, nodes.len());
    let mut next = vec![0; nodes.len()];
    let mut take = |n: usize| {
        next[n] += 1;
        nodes[n].free[next[n] - 1]
    };
    Ok(chains.iter().map(|chain| chain.iter().map(|&n| take(n)).collect()).collect())
}

struct Node {
    id: NodeId,
    /// The same number for nodes of the same rack.
    rack: usize,
    free: Vec<TargetId>,
    used: usize,
    /// How many chains it shares with others.
    beside: BTreeMap<usize, usize>,
}

/// Nodes of the next chain. Racks with fewest replicas of it come first; taking then those racks and nodes with most
/// targets left makes as many chains as can be made; among equals, nodes that share the fewest chains with the ones
/// already taken, and in rotation. `in_rack`: targets left in each rack.
fn pick_nodes(nodes: &[Node], in_rack: &[usize], replicas: usize, racks: usize, round: usize) -> Option<Vec<usize>> {
    let left = |n: &Node| n.free.len() - n.used;
    let mut members: Vec<usize> = Vec::with_capacity(replicas);
    while members.len() < replicas {
        let shared = |n: usize| members.iter().map(|m| nodes[n].beside.get(m).copied().unwrap_or(0)).sum::<usize>();
        let beside = |n: usize| members.iter().filter(|&&m| nodes[m].rack == nodes[n].rack).count();
        let order = |&n: &usize| {
            let most = (usize::MAX - in_rack[nodes[n].rack], usize::MAX - left(&nodes[n]));
            (beside(n), most, shared(n), (n + nodes.len() - round % nodes.len()) % nodes.len(), nodes[n].id)
        };
        let apart = |n: usize| beside(n) == 0 || members.len() >= racks;
        let able = (0..nodes.len()).filter(|&n| !members.contains(&n) && left(&nodes[n]) > 0 && apart(n));
        members.push(able.min_by_key(order)?);
    }
    Some(members)
}

/// Orders each chain so that heads, and then tails, are even over the nodes.
fn balance_ends(chains: &mut [Vec<usize>], nodes: usize) {
    let heads = spread(chains, nodes);
    let rest: Vec<Vec<usize>> =
        chains.iter().zip(&heads).map(|(c, head)| c.iter().rev().copied().filter(|n| n != head).collect()).collect();
    if rest.iter().any(Vec::is_empty) {
        return;
    }
    let tails = spread(&rest, nodes);
    for (n, chain) in chains.iter_mut().enumerate() {
        let middle = rest[n].iter().rev().copied().filter(|&m| m != tails[n]);
        *chain = std::iter::once(heads[n]).chain(middle).chain([tails[n]]).collect();
    }
}

/// One of the choices of each chain, so that no two nodes between which a choice could be shifted differ by more than
/// one: greedy, then evened out along shortest paths of shifts.
fn spread(choices: &[Vec<usize>], nodes: usize) -> Vec<usize> {
    let mut load = vec![0_usize; nodes];
    let mut picked = Vec::with_capacity(choices.len());
    for (n, of) in choices.iter().enumerate() {
        let turned = |i: usize| of[(i + n) % of.len()];
        let least = (0..of.len()).map(turned).min_by_key(|&node| load[node]).expect("every chain has a choice");
        load[least] += 1;
        picked.push(least);
    }
    // Each round lowers the sum of squares of the loads, so this ends.
    while let Some(shifts) = find_shifts(choices, &picked, &load) {
        for (chain, to) in shifts {
            load[picked[chain]] -= 1;
            load[to] += 1;
            picked[chain] = to;
        }
    }
    picked
}

/// Chains whose pick moves, and where to, such that in sum one pick moves from a node to another that has at least two
/// fewer.
fn find_shifts(choices: &[Vec<usize>], picked: &[usize], load: &[usize]) -> Option<Vec<(usize, usize)>> {
    let least = load.iter().copied().min().unwrap_or_default();
    let mut starts: Vec<usize> = (0..load.len()).filter(|&n| load[n] >= least + 2).collect();
    starts.sort_by_key(|&n| usize::MAX - load[n]);
    let mut chains_of = vec![Vec::new(); load.len()];
    picked.iter().enumerate().for_each(|(chain, &node)| chains_of[node].push(chain));
    starts.into_iter().find_map(|start| {
        // By which shift of which chain a node was reached first.
        let mut reached: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            if load[from] + 2 <= load[start] {
                return Some(path_to(from, start, &reached));
            }
            for &chain in &chains_of[from] {
                for &to in choices[chain].iter().filter(|&&to| to != start) {
                    if let Entry::Vacant(entry) = reached.entry(to) {
                        entry.insert((chain, from));
                        queue.push_back(to);
                    }
                }
            }
        }
        None
    })
}

fn path_to(mut to: usize, start: usize, reached: &BTreeMap<usize, (usize, usize)>) -> Vec<(usize, usize)> {
    let mut shifts = Vec::new();
    while to != start {
        let (chain, from) = reached[&to];
        shifts.push((chain, to));
        to = from;
    }
    shifts
}
