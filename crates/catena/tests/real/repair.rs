//! Nodes and disks that are lost for good, drained and added, as an operator sees it: chains become whole by themselves,
//! and nothing is lost on the way.

use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, progress, runtime, same_at_every_replica};
use crate::cluster::Cluster;
use crate::workload::{Plan, Workload};

fn json(cluster: &Cluster, args: &[&str]) -> Value {
    serde_json::from_str(&cluster.ok(&[args, &["--json"]].concat())).expect("one line of JSON")
}

/// Targets of a node that are members of chains.
fn held_by(cluster: &Cluster, node: u64) -> u64 {
    let nodes = json(cluster, &["admin", "nodes"]);
    let row = nodes["nodes"].as_array().expect("nodes").iter().find(|n| n["id"] == node).cloned().expect("the node");
    row["targets_in_chains"].as_u64().expect("a number")
}

/// Every chain has as many replicas as it should, all SERVING, and nothing moves.
fn whole(cluster: &Cluster) -> bool {
    let (chains, moves) = (json(cluster, &["admin", "chains"]), json(cluster, &["admin", "moves"]));
    let full = |c: &Value| c["serving"] == chains["replicas"] && c["members"].as_array().map(Vec::len) == Some(3);
    moves["moves"].as_array().is_some_and(Vec::is_empty) && chains["chains"].as_array().expect("chains").iter().all(full)
}

/// Under load, and the history checked: a node is lost for good, another one is drained, a new one takes its share, a disk
/// is replaced by an empty one.
#[test]
fn nodes_and_disks_come_and_go_for_good() {
    let mut cluster = Cluster::with_spares(5, 2, 3);
    let data = cluster.dir().join("data");
    std::fs::write(&data, vec![7; 3 << 20]).expect("written");
    let path = data.to_str().expect("UTF-8").to_owned();
    cluster.ok(&["put", &path, "kept"]);
    let place = json(&cluster, &["admin", "explain", "some/key"]);
    assert_eq!(place["members"].as_array().map(Vec::len), Some(3));
    assert_eq!(json(&cluster, &["admin", "settings"])["replace_after_ms"], 3000);
    runtime().block_on(async {
        let plan = Plan { clients: 4, chunks: 6, chunk_size: 64 << 10, deadline: PATIENCE };
        let load = Workload::start(&cluster.manager, plan).await;
        progress(&load, &cluster).await;

        cluster.kill_node(0);
        cluster.eventually("what a lost node held is elsewhere", |c| held_by(c, 1) == 0 && whole(c));
        assert_eq!(cluster.run(&["status"]).status.code(), Some(0), "nobody misses it");
        progress(&load, &cluster).await;

        cluster.ok(&["admin", "drain", "--node", "2"]);
        cluster.eventually("the drained node holds nothing", |c| held_by(c, 2) == 0 || nowhere(c));
        cluster.start_node(0);
        cluster.eventually("the drained node holds nothing", |c| held_by(c, 2) == 0 && whole(c));
        progress(&load, &cluster).await;

        cluster.ok(&["admin", "drain", "--node", "2", "--cancel"]);
        cluster.ok(&["admin", "rebalance", "--dry-run"]);
        cluster.ok(&["admin", "rebalance"]);
        cluster.eventually("all is even", |c| json(c, &["admin", "moves"])["rebalancing"] == false && whole(c));
        progress(&load, &cluster).await;

        let (chain, target) = replace_a_disk(&mut cluster);
        cluster.eventually("an empty disk has taken its place", |c| whole(c) && !is_member(c, chain, target));
        progress(&load, &cluster).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (history, errors) = load.finish().await;
        history.check().unwrap_or_else(|v| panic!("{v}"));
        println!("{} operations without a definite answer", errors.len());
    });
    (0..6).for_each(|chunk| same_at_every_replica(&cluster, &format!("shared/{chunk}")));
    let back = cluster.dir().join("back");
    cluster.ok(&["get", "kept", back.to_str().expect("UTF-8")]);
    assert_eq!(std::fs::read(back).expect("fetched"), vec![7; 3 << 20]);
}

/// Some replica is to move and has nowhere to go.
fn nowhere(cluster: &Cluster) -> bool {
    let moves = json(cluster, &["admin", "moves"]);
    moves["moves"].as_array().expect("moves").iter().any(|m| m["joining"].is_null())
}

fn is_member(cluster: &Cluster, chain: u64, target: u64) -> bool {
    let chains = json(cluster, &["admin", "chains"]);
    let chain = chains["chains"].as_array().expect("chains").iter().find(|c| c["id"] == chain).cloned().expect("the chain");
    chain["members"].as_array().expect("members").iter().any(|m| m["target"] == target)
}

/// The directories of node 3 are lost, and it starts with empty ones. A chain of it, and its target there.
fn replace_a_disk(cluster: &mut Cluster) -> (u64, u64) {
    let targets = json(cluster, &["admin", "targets"]);
    let used = |t: &&Value| t["node"] == 3 && !t["chain"].is_null();
    let target = targets["targets"].as_array().expect("targets").iter().find(used).cloned().expect("one in a chain");
    cluster.kill_node(2);
    std::fs::remove_dir_all(cluster.node_dir(2).join("targets")).expect("removed");
    cluster.start_node(2);
    (target["chain"].as_u64().expect("a chain"), target["id"].as_u64().expect("an id"))
}

/// One chain is moved and rotated by hand; commands that make no sense are refused.
#[test]
fn a_chain_is_moved_and_rotated() {
    let cluster = Cluster::with_spares(4, 2, 3);
    let members = |c: &Cluster| -> Vec<u64> {
        let chains = json(c, &["admin", "chains"]);
        chains["chains"][0]["members"].as_array().expect("members").iter().map(|m| m["target"].as_u64().expect("an id")).collect()
    };
    let before = members(&cluster);
    cluster.ok(&["admin", "chain", "rotate", "1"]);
    cluster.eventually("the head is the tail", |c| members(c).last() == before.first() && whole(c));
    let head = members(&cluster)[0];
    cluster.ok(&["admin", "chain", "move", "1", "--from", &head.to_string()]);
    cluster.eventually("it has left", |c| !members(c).contains(&head) && whole(c));
    assert!(cluster.fails(&["admin", "chain", "move", "1", "--from", &head.to_string()]).contains("no member of chain 1"));
    assert!(cluster.fails(&["admin", "chain", "rotate", "99"]).contains("there is no chain 99"));
    assert!(cluster.fails(&["admin", "drain", "--node", "99"]).contains("there is no node 99"));
    assert!(cluster.fails(&["admin", "chain", "cancel", "1"]).contains("no move that can be given up"));
}
