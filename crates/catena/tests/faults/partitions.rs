//! Partitions between two members of a cluster under load, one way and both ways, each healed before the next.

use std::time::{Duration, Instant};

use catena_client::{Client, ClientConfig};

use crate::cluster::{Cluster, Net, PATIENCE};
use crate::workload::progress;
use crate::{block_on, fault_time, finish, load, replicas, rounds};

/// A name for people, and what is lost.
type Fault = (&'static str, fn(&Net));

/// Three nodes with two targets each, which all keep every chunk; the faults one after the other.
fn through(faults: &[Fault]) {
    let Some(net) = Net::start(1, 3, &[]) else { return };
    let cluster = Cluster::in_net(net, None, 3, 2, 3);
    block_on(async {
        let load = load(&cluster).await;
        for (name, fault) in (0..rounds()).flat_map(|_| faults) {
            progress(&load, &cluster).await;
            eprintln!("{name}");
            fault(cluster.net());
            tokio::time::sleep(fault_time()).await;
            cluster.net().heal();
            progress(&load, &cluster).await;
            cluster.wait_healthy();
        }
        finish(load, &cluster).await;
    });
}

#[test]
fn partitions_between_nodes_lose_nothing() {
    through(&[
        ("node1 and node2 do not hear each other", |net| net.cut("node1", "node2")),
        ("node3 does not hear node2", |net| net.lose("node2", "node3")),
        ("node2 does not hear node3", |net| net.lose("node3", "node2")),
    ]);
}

/// Nothing heals: the manager hears everybody, so no lease ends. Still updates go on, with one replica less.
#[test]
fn neighbours_that_never_hear_each_other_again_do_not_stop_their_chains() {
    let Some(net) = Net::start(1, 3, &[]) else { return };
    let cluster = Cluster::in_net(net, None, 3, 2, 3);
    block_on(async {
        let load = load(&cluster).await;
        progress(&load, &cluster).await;
        let [(_, head), (_, next), ..] = replicas(&cluster).await[..] else { panic!("three replicas") };
        cluster.net().cut(&format!("node{head}"), &format!("node{next}"));
        let client = Client::connect(ClientConfig::new(&cluster.manager)).await.expect("the manager answers");
        let start = Instant::now();
        while client.status().await.is_ok_and(|s| s.routing.chains.iter().any(|c| c.serving().count() != 2)) {
            assert!(start.elapsed() < PATIENCE, "nobody is moved out\n{}", cluster.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        eprintln!("moved out after {:?}", start.elapsed());
        progress(&load, &cluster).await;
        cluster.net().heal();
        finish(load, &cluster).await;
    });
}

#[test]
fn partitions_between_manager_and_node_lose_nothing() {
    through(&[
        ("manager0 and node1 do not hear each other", |net| net.cut("manager0", "node1")),
        ("node2 does not hear manager0", |net| net.lose("manager0", "node2")),
        ("manager0 does not hear node3", |net| net.lose("node3", "manager0")),
    ]);
}

#[test]
fn partitions_between_clients_and_node_lose_nothing() {
    through(&[
        ("clients and node1 do not hear each other", |net| net.cut("client", "node1")),
        ("node2 does not hear clients", |net| net.lose("client", "node2")),
        ("clients do not hear node3", |net| net.lose("node3", "client")),
    ]);
}
