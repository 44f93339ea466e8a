//! The arithmetic against cases that can be counted by hand.

use std::collections::BTreeSet;

use super::blast::{Failing, blast, partners};
use super::flow::{recovery, throughput};
use super::load::Cluster;
use super::{Hardware, Placement, Shape, chains};

const SHAPE: Shape = Shape { nodes: 12, disks: 4, per_disk: 1, replicas: 3, spare: 0 };
const HARDWARE: Hardware = Hardware {
    disk_bytes: 100.0,
    fill: 0.5,
    disk_write: 1.0,
    disk_read: 2.0,
    network: 1_000.0,
    cores: 1_000.0,
    write_cost: 1.0,
    read_cost: 1.0,
};

#[test]
fn every_placement_uses_every_target_once_on_distinct_nodes() {
    for placement in [Placement::Even, Placement::Groups, Placement::Random] {
        let chains = chains(&SHAPE, placement, 1);
        let disks: Vec<u32> = chains.iter().flatten().map(|h| h.disk).collect();
        assert_eq!(disks.iter().collect::<BTreeSet<_>>().len(), disks.len(), "{placement:?}: one target on each disk");
        assert!(placement == Placement::Random || disks.len() == 48, "{placement:?}");
        let apart = |c: &Vec<super::Home>| c.iter().map(|h| h.node).collect::<BTreeSet<_>>().len() == 3;
        assert!(chains.iter().all(apart), "{placement:?}");
    }
}

#[test]
fn the_share_that_is_hit_is_what_counting_gives() {
    for placement in [Placement::Even, Placement::Groups] {
        let chains = chains(&SHAPE, placement, 1);
        let one = blast(&chains, Failing::Nodes, 12, 1);
        assert!((one.degraded - 0.25).abs() < 1e-9, "3 of 12 nodes have a chain: {one:?}");
        assert_eq!(blast(&chains, Failing::Nodes, 12, 2).worst, 0.0);
        let three = blast(&chains, Failing::Nodes, 12, 3);
        // Whatever the placement: each chain is on one of the 220 triples.
        assert!((three.chance * three.lost - 1.0 / 220.0).abs() < 1e-9, "{three:?}");
    }
    let groups = chains(&SHAPE, Placement::Groups, 1);
    assert_eq!((partners(&groups, 0), blast(&groups, Failing::Nodes, 12, 3).worst), (2, 0.25));
    assert!(partners(&chains(&SHAPE, Placement::Even, 1), 0) >= 6);
}

#[test]
fn disks_stop_what_nothing_else_stops() {
    let chains = chains(&SHAPE, Placement::Even, 1);
    let most = throughput(&SHAPE, &chains, &HARDWARE);
    assert_eq!((most.write, most.read), ((16.0, "disks"), (96.0, "disks")), "48 disks at 1 and 2 a second");
    let back = recovery(&SHAPE, &chains, &HARDWARE, 2);
    assert_eq!(back.refill, (50.0, "disks of the node"));
    assert_eq!(back.moves.0, 100.0, "4 replicas of 50, two at a time");
    assert_eq!(back.all_at_once.0, 50.0);
}

#[test]
fn the_manager_takes_a_lost_node_out() {
    let (mut cluster, load) = Cluster::start(SHAPE, || 0.0);
    assert!(load.full_bytes > 1_000 && load.heartbeat_bytes.0 > 100, "{load:?}");
    let event = cluster.lose(1);
    assert!(event.versions > 0 && event.delta_bytes > 0 && event.delta_bytes < load.full_bytes, "{event:?}");
}
