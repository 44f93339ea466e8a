//! Where bytes flow, and what stops more of them: throughput, and the time to bring back what a lost node held.

use super::{Hardware, Home, Shape};

/// What a node does most of when every chain does the same, and the most the cluster does then.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Payload written per second by the whole cluster, and what stops more.
    pub write: (f64, &'static str),
    /// Payload read per second by the whole cluster, and what stops more.
    pub read: (f64, &'static str),
    /// Heads of the node with most of them, over the mean.
    pub heads: f64,
}

/// What one node does when every chain does one byte.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    members: f64,
    heads: f64,
    tails: f64,
}

/// What the cluster does at most, if all chains are used alike.
pub fn throughput(shape: &Shape, chains: &[Vec<Home>], hardware: &Hardware) -> Throughput {
    let mut nodes = vec![Part::default(); shape.nodes as usize];
    let mut disks = vec![0.0_f64; (shape.nodes * shape.disks) as usize];
    for chain in chains {
        for (n, home) in chain.iter().enumerate() {
            let node = &mut nodes[home.node as usize];
            node.members += 1.0;
            node.heads += f64::from(n == 0);
            node.tails += f64::from(n + 1 == chain.len());
            disks[home.disk as usize] += 1.0;
        }
    }
    let most = |of: &dyn Fn(&Part) -> f64| nodes.iter().map(of).fold(0.0, f64::max);
    let disk = disks.iter().copied().fold(0.0, f64::max);
    let all = chains.len() as f64;
    let replicas = shape.replicas as f64;
    let write = least(&[
        (hardware.disk_write / disk, "disks"),
        (hardware.network / most(&|p| p.members), "network"),
        (hardware.cores / (most(&|p| p.members) * hardware.write_cost), "processors"),
    ]);
    // Reads are spread over all replicas of a chain.
    let read = least(&[
        (hardware.disk_read / (disk / replicas), "disks"),
        (hardware.network / (most(&|p| p.members) / replicas), "network"),
        (hardware.cores / (most(&|p| p.members) / replicas * hardware.read_cost), "processors"),
    ]);
    let heads = most(&|p| p.heads) / (all / f64::from(shape.nodes));
    Throughput { write: (write.0 * all, write.1), read: (read.0 * all, read.1), heads }
}

/// Time to bring back a node's replicas, in seconds, and what takes it.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// The node comes back with empty disks and is filled.
    pub refill: (f64, &'static str),
    /// Its replicas move to free targets of other nodes, so many at a time.
    pub moves: (f64, &'static str),
    /// The same with as many at a time as there are replicas.
    pub all_at_once: (f64, &'static str),
}

/// How long it takes to have all replicas again after node 0 is lost, with `at_a_time` replicas moving.
pub fn recovery(shape: &Shape, chains: &[Vec<Home>], hardware: &Hardware, at_a_time: u32) -> Recovery {
    let target = hardware.disk_bytes * hardware.fill / f64::from(shape.per_disk);
    let hit: Vec<&Vec<Home>> = chains.iter().filter(|c| c.iter().any(|h| h.node == 0)).collect();
    let count = hit.len() as f64;
    // The tail that is left sends.
    let mut sends = vec![0.0_f64; shape.nodes as usize];
    let mut reads = vec![0.0_f64; (shape.nodes * shape.disks) as usize];
    for source in hit.iter().filter_map(|c| c.iter().rev().find(|h| h.node != 0)) {
        sends[source.node as usize] += target;
        reads[source.disk as usize] += target;
    }
    let most = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    let sources =
        [(most(&sends) / hardware.network, "network of a source"), (most(&reads) / hardware.disk_read, "disk of a source")];
    let longest = |own: &[(f64, &'static str)]| {
        own.iter().chain(&sources).copied().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, "nothing"))
    };
    let data = target * count;
    let refill = longest(&[
        (data / hardware.network, "network of the node"),
        (data / (hardware.disk_write * f64::from(shape.disks)), "disks of the node"),
        (data * hardware.write_cost / hardware.cores, "processors of the node"),
    ]);
    let one = target / hardware.disk_write.min(hardware.disk_read).min(hardware.network);
    let moves = longest(&[((count / f64::from(at_a_time)).ceil() * one, "moves at a time")]);
    let others = f64::from(shape.nodes - 1);
    let all_at_once = longest(&[
        (one, "disk that takes a replica"),
        ((count / others).ceil() * target / hardware.network, "network of a node that takes replicas"),
    ]);
    Recovery { refill, moves, all_at_once }
}

fn least(limits: &[(f64, &'static str)]) -> (f64, &'static str) {
    limits.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, "nothing"))
}
