//! Who a cluster waits for: silent nodes that hold replicas, and the targets one of which a chain needs to serve again.
//!
//! What must hold: whoever is named is enough. A chain that serves nothing goes on with any one of its last serving set, and
//! with nobody else.

use std::collections::BTreeMap;

use catena_types::{Chain, NodeInfo, PublicState, Routing};
use serde_json::{Value, json};

use crate::output::{bad, odd, say};

/// A node that is silent, and its replicas.
struct Missing<'a> {
    node: &'a NodeInfo,
    replicas: usize,
}

/// Silent nodes that hold replicas.
fn missing(routing: &Routing) -> Vec<Missing<'_>> {
    let held = |node: u32| routing.targets.iter().filter(|t| t.node == node && t.chain != 0).count();
    let silent = routing.nodes.iter().filter(|n| !n.alive).map(|node| Missing { node, replicas: held(node.id) });
    silent.filter(|m| m.replicas > 0).collect()
}

/// Targets of which one lets the chain go on, in its order; none while it serves.
fn revivers(chain: &Chain) -> Vec<u32> {
    match chain.serving().next() {
        Some(_) => Vec::new(),
        None => chain.in_state(PublicState::LastSrv).collect(),
    }
}

/// Chains that serve nothing, by what they wait for.
fn stuck(routing: &Routing) -> BTreeMap<Vec<u32>, Vec<u32>> {
    let mut stuck: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
    for chain in &routing.chains {
        let revivers = revivers(chain);
        if !revivers.is_empty() {
            stuck.entry(revivers).or_default().push(chain.id);
        }
    }
    stuck
}

fn lines(routing: &Routing) -> (Vec<String>, Vec<String>) {
    let place = |&t: &u32| {
        let node = routing.target(t).map_or(0, |t| t.node);
        let alive = routing.nodes.iter().any(|n| n.id == node && n.alive);
        format!("t{t}@n{node} ({})", if alive { "alive" } else { "silent" })
    };
    let list = |targets: &[u32]| targets.iter().map(place).collect::<Vec<_>>().join(", ");
    let of_chain = |(targets, chains): (&Vec<u32>, &Vec<u32>)| {
        let ids = chains.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let (chains, go) = if chains.len() == 1 { ("chain", "goes") } else { ("chains", "go") };
        format!("{chains} {ids} {go} on when one of these is back: {}", list(targets))
    };
    let of_node = |m: &Missing<'_>| {
        let (id, addrs, n) = (m.node.id, m.node.shard_addrs.join(" "), m.replicas);
        let replicas = if n == 1 { "replica" } else { "replicas" };
        format!("waiting for node {id}, last at {addrs}, with {n} {replicas}: start it, or look at its log and network")
    };
    (stuck(routing).iter().map(of_chain).collect(), missing(routing).iter().map(of_node).collect())
}

/// For people; nothing if nobody is waited for.
pub(super) fn show(routing: &Routing) {
    let (chains, nodes) = lines(routing);
    if !chains.is_empty() || !nodes.is_empty() {
        say!();
    }
    chains.iter().for_each(|line| say!("{}", bad(line)));
    nodes.iter().for_each(|line| say!("{}", odd(line)));
}

/// For programs.
pub(super) fn to_json(routing: &Routing) -> Value {
    let nodes = missing(routing).into_iter().map(|m| json!({ "id": m.node.id, "replicas": m.replicas }));
    let chains = routing.chains.iter().map(|c| (c.id, revivers(c))).filter(|(_, targets)| !targets.is_empty());
    let chains = chains.map(|(chain, targets)| json!({ "chain": chain, "one_of": targets }));
    json!({ "nodes": nodes.collect::<Vec<_>>(), "chains": chains.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_types::{Member, TargetInfo};

    /// Nodes 1 to 3 with a target of the same number each, and one of node 3 in no chain.
    fn routing(states: [PublicState; 3], alive: [bool; 3]) -> Routing {
        let member = |(n, &state): (usize, &PublicState)| Member { target: n as u32 + 1, state: state as i32, chosen: false };
        let members: Vec<Member> = states.iter().enumerate().map(member).collect();
        let node = |(n, &alive): (usize, &bool)| NodeInfo {
            id: n as u32 + 1,
            shard_addrs: vec![format!("10.0.0.{}:7410", n + 1)],
            alive,
            ..NodeInfo::default()
        };
        let target = |id: u32| TargetInfo { id, node: id.min(3), chain: u32::from(id < 4) * 7, ..TargetInfo::default() };
        Routing {
            nodes: alive.iter().enumerate().map(node).collect(),
            targets: (1..=4).map(target).collect(),
            chains: vec![Chain { id: 7, chain_ver: 1, members }],
            ..Routing::default()
        }
    }

    #[test]
    fn nobody_is_waited_for_in_a_whole_cluster() {
        let whole = routing([PublicState::Serving; 3], [true; 3]);
        assert_eq!(lines(&whole), (Vec::new(), Vec::new()));
        assert_eq!(to_json(&whole), json!({ "nodes": [], "chains": [] }));
    }

    #[test]
    fn silent_nodes_with_replicas_are_named() {
        let degraded = routing([PublicState::Serving, PublicState::Serving, PublicState::Offline], [true, true, false]);
        let (chains, nodes) = lines(&degraded);
        assert!(chains.is_empty());
        assert!(nodes.len() == 1 && nodes[0].contains("node 3, last at 10.0.0.3:7410, with 1 replica:"), "{nodes:?}");
        assert_eq!(to_json(&degraded), json!({ "nodes": [{ "id": 3, "replicas": 1 }], "chains": [] }));
    }

    #[test]
    fn a_chain_waits_for_one_of_its_last_serving_set() {
        let lost = routing([PublicState::LastSrv, PublicState::LastSrv, PublicState::Offline], [true, false, true]);
        let (chains, nodes) = lines(&lost);
        assert_eq!(chains, ["chain 7 goes on when one of these is back: t1@n1 (alive), t2@n2 (silent)"]);
        assert_eq!(nodes.len(), 1, "{nodes:?}");
        assert_eq!(to_json(&lost)["chains"], json!([{ "chain": 7, "one_of": [1, 2] }]));
    }
}
