//! Large clusters on paper: what 10 to 1,000 nodes would do, without having them.
//!
//! Chains come from the placement that ships, messages are encoded as they travel, and the manager's processor time is
//! that of its real state machine. Disks, networks and the cost of a write are numbers that are given ([`Hardware`]);
//! what follows from them is arithmetic, not a measurement.

pub mod blast;
pub mod flow;
pub mod load;

use std::collections::BTreeMap;

use catena_cluster::make_chains;
use catena_types::{NodeId, TargetId};

/// A cluster to think about.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Nodes.
    pub nodes: u32,
    /// Disks of each.
    pub disks: u32,
    /// Targets on each disk.
    pub per_disk: u32,
    /// Replicas of each chain.
    pub replicas: usize,
    /// Targets of each node in no chain.
    pub spare: u32,
}

impl Shape {
    /// Targets of a node.
    pub fn targets(&self) -> u32 {
        self.disks * self.per_disk
    }
}

/// What one node can do. Bytes and seconds.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    /// Size of a disk.
    pub disk_bytes: f64,
    /// How full it is, 0 to 1.
    pub fill: f64,
    /// Written to a disk per second.
    pub disk_write: f64,
    /// Read from a disk per second.
    pub disk_read: f64,
    /// Through the network of a node per second, in each direction.
    pub network: f64,
    /// Processor seconds per second.
    pub cores: f64,
    /// Processor seconds of one replica per byte written, and per byte read.
    pub write_cost: f64,
    /// As above.
    pub read_cost: f64,
}

/// How chains are laid over targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// What ships.
    Even,
    /// Nodes in fixed groups of as many as there are replicas.
    Groups,
    /// Any nodes.
    Random,
}

/// A target by the disk and node it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// Node, from 0.
    pub node: u32,
    /// Disk of the cluster, from 0.
    pub disk: u32,
}

/// The chains of a cluster: the homes of their members, head first.
pub fn chains(shape: &Shape, placement: Placement, seed: u64) -> Vec<Vec<Home>> {
    match placement {
        Placement::Even => even(shape),
        Placement::Groups => groups(shape),
        Placement::Random => random(shape, seed),
    }
}

/// Where the target with that number on its node is: neighbours are on different disks.
fn home(shape: &Shape, node: u32, number: u32) -> Home {
    Home { node, disk: node * shape.disks + number % shape.disks }
}

fn even(shape: &Shape) -> Vec<Vec<Home>> {
    let all = shape.targets();
    let used = all - shape.spare;
    let free: BTreeMap<NodeId, Vec<TargetId>> =
        (0..shape.nodes).map(|n| (n + 1, (0..used).map(|t| n * all + t + 1).collect())).collect();
    let home = |id: TargetId| home(shape, (id - 1) / all, (id - 1) % all);
    let made = make_chains(&free, &BTreeMap::new(), shape.replicas).unwrap_or_default();
    made.into_iter().map(|chain| chain.into_iter().map(home).collect()).collect()
}

fn groups(shape: &Shape) -> Vec<Vec<Home>> {
    let size = shape.replicas as u32;
    let used = shape.targets() - shape.spare;
    let chain = |group: u32, t: u32| (0..size).map(|m| home(shape, group * size + (m + t) % size, t)).collect();
    (0..shape.nodes / size).flat_map(|group| (0..used).map(move |t| (group, t))).map(|(group, t)| chain(group, t)).collect()
}

fn random(shape: &Shape, seed: u64) -> Vec<Vec<Home>> {
    let mut rng = crate::rng::Rng::new(seed);
    let used = shape.targets() - shape.spare;
    let mut free: Vec<Vec<u32>> = (0..shape.nodes).map(|_| (0..used).collect()).collect();
    let mut with_room: Vec<u32> = (0..shape.nodes).collect();
    let mut chains = Vec::new();
    while with_room.len() >= shape.replicas {
        let mut members = Vec::new();
        while members.len() < shape.replicas {
            let node = with_room[rng.below(with_room.len() as u64) as usize];
            if !members.contains(&node) {
                members.push(node);
            }
        }
        let chain = members.iter().filter_map(|&n| free[n as usize].pop().map(|t| home(shape, n, t))).collect();
        chains.push(chain);
        with_room.retain(|&n| !free[n as usize].is_empty());
    }
    chains
}

#[cfg(test)]
mod tests;
