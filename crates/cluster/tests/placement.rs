//! Placement is pinned: a version of this library that placed otherwise would still read old chain tables, but two
//! builds would disagree about new ones. And what must hold of every placement.

use std::collections::{BTreeMap, BTreeSet};

use catena_cluster::make_chains;

fn free(counts: &[u32]) -> BTreeMap<u32, Vec<u32>> {
    let mut id = 0;
    let mut take = |count: u32| {
        id += count;
        (id - count + 1..=id).collect::<Vec<_>>()
    };
    (1..).zip(counts.iter().map(|&n| take(n))).collect()
}

#[test]
fn golden_vectors() {
    /// Targets per node, replicas, chains.
    type Vector = (&'static [u32], usize, &'static [&'static [u32]]);
    let golden: [Vector; 5] = [
        (&[1], 1, &[&[1]]),
        (&[1, 1, 1], 3, &[&[1, 2, 3]]),
        (&[4, 4, 4], 3, &[&[1, 5, 9], &[10, 2, 6], &[7, 11, 3], &[4, 12, 8]]),
        (&[3, 3, 3, 3, 3], 3, &[&[1, 7, 4], &[13, 5, 10], &[8, 11, 14], &[12, 15, 2], &[6, 3, 9]]),
        (&[2, 2, 2, 2], 2, &[&[1, 3], &[7, 5], &[6, 2], &[4, 8]]),
    ];
    for (counts, replicas, expected) in golden {
        assert_eq!(make_chains(&free(counts), replicas).expect("enough"), expected, "{counts:?} × {replicas}");
    }
}

/// As many chains as the counts allow: `k` chains need `k × replicas` targets, at most `k` of each node.
fn most_chains(counts: &[u32], replicas: u32) -> usize {
    let fits = |k: &u32| counts.iter().map(|&c| c.min(*k)).sum::<u32>() >= k * replicas;
    (0..=counts.iter().sum()).filter(fits).max().unwrap_or(0) as usize
}

#[test]
fn what_must_hold_of_every_placement() {
    for seed in 0..400_u32 {
        let nodes = 1 + seed % 7;
        let counts: Vec<u32> = (0..nodes).map(|n| (seed.wrapping_mul(2_654_435_761) >> (n * 3)) % 6).collect();
        for replicas in 1..=4 {
            let free = free(&counts);
            let owner = |t: u32| *free.iter().find(|(_, ts)| ts.contains(&t)).expect("a free target").0;
            let most = most_chains(&counts, replicas);
            let Ok(chains) = make_chains(&free, replicas as usize) else {
                assert_eq!(most, 0, "{counts:?} × {replicas}");
                continue;
            };
            assert_eq!(chains.len(), most, "{counts:?} × {replicas}");
            let used: BTreeSet<_> = chains.iter().flatten().collect();
            assert_eq!(used.len(), chains.len() * replicas as usize, "a target twice");
            for chain in &chains {
                let nodes: BTreeSet<_> = chain.iter().map(|&t| owner(t)).collect();
                assert_eq!(nodes.len(), replicas as usize, "replicas on distinct nodes");
            }
        }
    }
}

/// Nodes of one size: heads and tails differ by at most one, and what a node held is brought back from all others.
#[test]
fn even_nodes_carry_even_loads() {
    for (nodes, targets, replicas) in [(3, 4, 3), (5, 3, 3), (4, 6, 3), (6, 4, 2), (10, 6, 3), (7, 7, 3), (20, 12, 3)] {
        let free = free(&vec![targets; nodes]);
        let owner = |t: u32| (t - 1) / targets;
        let chains = make_chains(&free, replicas).expect("enough");
        let spread = |end: fn(&Vec<u32>) -> u32| {
            let mut count = vec![0; nodes];
            chains.iter().for_each(|c| count[owner(end(c)) as usize] += 1);
            count.iter().max().unwrap_or(&0) - count.iter().min().unwrap_or(&0)
        };
        assert!(spread(|c| c[0]) <= 1, "heads of {nodes} × {targets} × {replicas}: {chains:?}");
        assert!(spread(|c| c[c.len() - 1]) <= 1, "tails of {nodes} × {targets} × {replicas}: {chains:?}");
        let mut partners = vec![BTreeSet::new(); nodes];
        for chain in &chains {
            for &a in chain {
                partners[owner(a) as usize].extend(chain.iter().map(|&b| owner(b)));
            }
        }
        let wanted = nodes.min(1 + targets as usize * (replicas - 1) / 2);
        assert!(partners.iter().all(|p| p.len() >= wanted), "{nodes} × {targets} × {replicas}: {partners:?}");
    }
}

#[test]
fn errors_say_what_is_missing() {
    let error = |counts: &[u32], replicas| make_chains(&free(counts), replicas).expect_err("too few").to_string();
    assert!(error(&[4, 0, 2], 3).starts_with("3 replicas need 3 nodes with a free target, 2 have one"));
    assert!(error(&[4], 2).starts_with("2 replicas need 2 nodes with a free target, 1 has one"));
    assert!(error(&[], 1).starts_with("1 replicas need 1 node with a free target, 0 have one"));
}
