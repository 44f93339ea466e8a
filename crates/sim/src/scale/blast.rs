//! How much of the data is hit when nodes or disks fail together.

use std::collections::{BTreeMap, BTreeSet};

use super::Home;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Whole nodes.
    Nodes,
    /// Single disks.
    Disks,
}

/// What so many failures at once do to the data. Shares are 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blast {
    /// Failures at once.
    pub failed: usize,
    /// Data with fewer replicas than it should have: it is read and, after at most a lease, written as before.
    pub degraded: f64,
    /// How likely it is that anything is out: on as many failed nodes, or disks, as it has replicas.
    pub chance: f64,
    /// What is out then, in the mean.
    pub lost: f64,
    /// What is out in the worst case.
    pub worst: f64,
}

/// Other nodes that bring back what a lost node held.
pub fn partners(chains: &[Vec<Home>], node: u32) -> usize {
    let with = |chain: &&Vec<Home>| chain.iter().any(|h| h.node == node);
    let others: BTreeSet<u32> = chains.iter().filter(with).flatten().map(|h| h.node).filter(|&n| n != node).collect();
    others.len()
}

/// What `failed` failures at once, anywhere, do. `of`: how many there are to fail.
pub fn blast(chains: &[Vec<Home>], failing: Failing, of: u64, failed: usize) -> Blast {
    let part = |h: &Home| match failing {
        Failing::Nodes => h.node,
        Failing::Disks => h.disk,
    };
    let all = chains.len() as f64;
    let replicas = chains.first().map_or(0, Vec::len);
    // Of one chain: none of its members is hit with this chance.
    let spared: f64 = (0..failed).map(|n| (of - replicas as u64 - n as u64) as f64 / (of - n as u64) as f64).product();
    if failed < replicas {
        return Blast { failed, degraded: 1.0 - spared, chance: 0.0, lost: 0.0, worst: 0.0 };
    }
    let mut sets: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
    for chain in chains {
        let mut set: Vec<u32> = chain.iter().map(part).collect();
        set.sort_unstable();
        *sets.entry(set).or_insert(0) += 1;
    }
    // With as many failures as replicas, exactly one set of members can be hit in whole.
    let chance = sets.len() as f64 / ways(of, replicas as u64);
    let lost = all / sets.len() as f64 / all;
    let worst = sets.values().copied().max().unwrap_or(0) as f64 / all;
    Blast { failed, degraded: 1.0 - spared, chance, lost, worst }
}

/// Ways to choose `k` of `n`.
fn ways(n: u64, k: u64) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}
