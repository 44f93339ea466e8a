//! Chains out of free targets.
//!
//! As many chains as possible, each on distinct nodes, every target in at most one; heads and tails even over the
//! nodes, since heads take the writes and tails the version queries; and nodes paired with as many others as possible,
//! so that what a lost node held is brought back from all of them. Deterministic and pinned by golden vectors.

use std::collections::BTreeMap;

use catena_types::{NodeId, TargetId};

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

/// Chains of `replicas` targets each, head first, from the free targets of each node.
///
/// # Errors
/// Too few nodes have a free target for even one chain.
pub fn make_chains(free: &BTreeMap<NodeId, Vec<TargetId>>, replicas: usize) -> Result<Vec<Vec<TargetId>>, PlacementError> {
    let mut nodes: Vec<Node> =
        free.iter().filter(|(_, t)| !t.is_empty()).map(|(&id, t)| Node { id, free: t.clone(), used: 0 }).collect();
    if replicas == 0 || nodes.len() < replicas {
        return Err(PlacementError { replicas, nodes_with_room: nodes.len() });
    }
    let mut pairs = BTreeMap::new();
    let mut chains = Vec::new();
    while let Some(members) = pick_nodes(&nodes, replicas, chains.len(), &pairs) {
        for &a in &members {
            nodes[a].used += 1;
            members.iter().filter(|&&b| b != a).for_each(|&b| *pairs.entry((a, b)).or_insert(0) += 1);
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
    free: Vec<TargetId>,
    used: usize,
}

/// How often two nodes share a chain.
type Pairs = BTreeMap<(usize, usize), usize>;

/// Nodes of the next chain. Taking those with most targets left makes as many chains as can be made; among equals,
/// those that share the fewest chains with the ones already taken, and in rotation.
fn pick_nodes(nodes: &[Node], replicas: usize, round: usize, pairs: &Pairs) -> Option<Vec<usize>> {
    let mut members: Vec<usize> = Vec::with_capacity(replicas);
    while members.len() < replicas {
        let shared = |n: usize| members.iter().map(|&m| pairs.get(&(n, m)).copied().unwrap_or(0)).sum::<usize>();
        let order = |&n: &usize| {
            let left = nodes[n].free.len() - nodes[n].used;
            (usize::MAX - left, shared(n), (n + nodes.len() - round % nodes.len()) % nodes.len(), nodes[n].id)
        };
        let able = (0..nodes.len()).filter(|n| !members.contains(n) && nodes[*n].used < nodes[*n].free.len());
        members.push(able.min_by_key(order)?);
    }
    Some(members)
}

/// Reorders each chain until no swap within one evens out heads and tails any further.
fn balance_ends(chains: &mut [Vec<usize>], nodes: usize) {
    let (mut heads, mut tails) = (vec![0_i64; nodes], vec![0_i64; nodes]);
    for chain in chains.iter() {
        heads[chain[0]] += 1;
        tails[chain[chain.len() - 1]] += 1;
    }
    // Each swap lowers the sum of squares of both counts, so this ends.
    while chains.iter_mut().any(|chain| improve(chain, &mut heads, &mut tails)) {}
}

/// Makes the first swap within a chain that evens out the ends; whether there was one.
fn improve(chain: &mut [usize], heads: &mut [i64], tails: &mut [i64]) -> bool {
    let last = chain.len() - 1;
    for i in 0..last {
        for j in i + 1..=last {
            let before = cost(heads, tails);
            count(chain, heads, tails, -1);
            chain.swap(i, j);
            count(chain, heads, tails, 1);
            if cost(heads, tails) < before {
                return true;
            }
            count(chain, heads, tails, -1);
            chain.swap(i, j);
            count(chain, heads, tails, 1);
        }
    }
    false
}

fn count(chain: &[usize], heads: &mut [i64], tails: &mut [i64], by: i64) {
    heads[chain[0]] += by;
    tails[chain[chain.len() - 1]] += by;
}

fn cost(heads: &[i64], tails: &[i64]) -> i64 {
    heads.iter().chain(tails).map(|n| n * n).sum()
}
