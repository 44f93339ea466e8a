//! Placement is pinned: a version of this library that placed otherwise would still read old chain tables, but two
//! builds would disagree about new ones. And what must hold of every placement.

use std::collections::{BTreeMap, BTreeSet};

use catena_cluster::balance::{Layout, Shift};
use catena_cluster::make_chains;

fn free(counts: &[u32]) -> BTreeMap<u32, Vec<u32>> {
    let mut id = 0;
    let mut take = |count: u32| {
        id += count;
        (id - count + 1..=id).collect::<Vec<_>>()
    };
    (1..).zip(counts.iter().map(|&n| take(n))).collect()
}

fn no_racks() -> BTreeMap<u32, String> {
    BTreeMap::new()
}

/// Nodes 1, 2, 3, ... in these racks.
fn racks(names: &[&str]) -> BTreeMap<u32, String> {
    (1..).zip(names.iter().map(|name| (*name).to_owned())).collect()
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
        assert_eq!(make_chains(&free(counts), &no_racks(), replicas).expect("enough"), expected, "{counts:?} × {replicas}");
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
            let Ok(chains) = make_chains(&free, &no_racks(), replicas as usize) else {
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
        let chains = make_chains(&free, &no_racks(), replicas).expect("enough");
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
        let mut shared = BTreeMap::new();
        for chain in &chains {
            let pairs = chain.iter().flat_map(|&a| chain.iter().map(move |&b| (owner(a), owner(b)))).filter(|(a, b)| a < b);
            pairs.for_each(|pair| *shared.entry(pair).or_insert(0) += 1);
        }
        let even = (chains.len() * replicas * (replicas - 1)).div_ceil(nodes * (nodes - 1));
        let most = shared.values().copied().max().unwrap_or(0);
        assert!(most <= even + 1, "two nodes of {nodes} × {targets} × {replicas} share {most} chains, {even} would be even");
        let wanted = nodes.min(1 + targets as usize * (replicas - 1) / 2);
        assert!(partners.iter().all(|p| p.len() >= wanted), "{nodes} × {targets} × {replicas}: {partners:?}");
    }
}

#[test]
fn errors_say_what_is_missing() {
    let error = |counts: &[u32], replicas| make_chains(&free(counts), &no_racks(), replicas).expect_err("too few").to_string();
    assert!(error(&[4, 0, 2], 3).starts_with("3 replicas need 3 nodes with a free target, 2 have one"));
    assert!(error(&[4], 2).starts_with("2 replicas need 2 nodes with a free target, 1 has one"));
    assert!(error(&[], 1).starts_with("1 replicas need 1 node with a free target, 0 have one"));
}

#[test]
fn golden_vectors_with_racks() {
    /// Targets per node, rack of each, replicas, chains.
    type Vector = (&'static [u32], &'static [&'static str], usize, &'static [&'static [u32]]);
    let golden: [Vector; 3] = [
        (&[2, 2, 2, 2], &["a", "a", "b", "b"], 2, &[&[5, 1], &[7, 3], &[4, 6], &[2, 8]]),
        (&[2, 2, 2, 2, 2, 2], &["a", "a", "b", "b", "c", "c"], 3, &[&[1, 5, 9], &[7, 11, 3], &[6, 12, 2], &[10, 4, 8]]),
        (&[3, 3, 3], &["a", "a", "b"], 3, &[&[1, 7, 4], &[8, 5, 2], &[6, 3, 9]]),
    ];
    for (counts, names, replicas, expected) in golden {
        let chains = make_chains(&free(counts), &racks(names), replicas).expect("enough");
        assert_eq!(chains, expected, "{counts:?} in {names:?} × {replicas}");
    }
}

/// With as many racks as replicas no two replicas share one; with fewer they are as even over them as can be.
#[test]
fn racks_are_kept_apart() {
    for seed in 0..300_u32 {
        let nodes = 2 + seed % 7;
        let counts: Vec<u32> = (0..nodes).map(|n| 1 + (seed.wrapping_mul(2_654_435_761) >> (n * 3)) % 5).collect();
        let names: Vec<&str> = (0..nodes).map(|n| ["a", "b", "c", ""][((seed >> 2) + n * n) as usize % 4]).collect();
        let racks = racks(&names);
        let all: BTreeSet<_> = (1..=nodes).map(|n| rack_of(&racks, n)).collect();
        for replicas in 2..=3 {
            let free = free(&counts);
            let owner = |t: u32| *free.iter().find(|(_, ts)| ts.contains(&t)).expect("a free target").0;
            let Ok(chains) = make_chains(&free, &racks, replicas) else { continue };
            assert!(!chains.is_empty());
            for chain in chains {
                let used: BTreeSet<_> = chain.iter().map(|&t| rack_of(&racks, owner(t))).collect();
                assert_eq!(used.len(), all.len().min(replicas), "{counts:?} in {names:?} × {replicas}: {chain:?}");
            }
        }
    }
}

fn rack_of(racks: &BTreeMap<u32, String>, node: u32) -> String {
    if racks[&node].is_empty() { format!("node {node}") } else { racks[&node].clone() }
}

/// Shifts make loads even, keep racks apart, and come to an end.
#[test]
fn shifts_make_it_even() {
    let mut layout = Layout {
        targets: (1..=5).map(|n| (n, 4)).collect(),
        free: [(4, vec![13, 14, 15, 16]), (5, vec![17, 18, 19, 20])].into(),
        racks: racks(&["a", "a", "b", "b", "c"]),
        chains: (1..=4_u32).map(|c| (c, vec![(c, 1), (c + 4, 2), (c + 8, 3)])).collect(),
        ..Layout::default()
    };
    let mut shifts = 0;
    while let Some(shift) = layout.next_shift() {
        layout.apply(shift);
        shifts += 1;
        assert!(shifts <= 12, "no end");
    }
    let mut loads = BTreeMap::new();
    layout.chains.values().flatten().for_each(|&(_, node)| *loads.entry(node).or_insert(0) += 1);
    assert!(loads.values().all(|&n| (2..=4).contains(&n)), "{loads:?} after {shifts} shifts");
    for members in layout.chains.values() {
        let used: BTreeSet<_> = members.iter().map(|m| &layout.racks[&m.1]).collect();
        assert_eq!(used.len(), 3, "{members:?}");
    }
    layout.fixed = layout.chains.keys().copied().collect();
    layout.free.insert(9, vec![99]);
    assert_eq!(layout.next_shift(), None, "nothing may be moved");
}

/// The best shift by looking at every replica beside every free target, without a thought of speed.
fn plainly(layout: &Layout) -> Option<Shift> {
    let rack = |n: u32| layout.racks.get(&n).filter(|rack| !rack.is_empty());
    let together = |a: u32, b: u32| a == b || (rack(a).is_some() && rack(a) == rack(b));
    let of = |node: u32| layout.chains.values().filter(move |c| c.iter().any(|m| m.1 == node));
    let shared = |a: u32, b: u32| of(a).filter(|c| c.iter().any(|m| m.1 == b)).count() as i64;
    let size = |n: u32| layout.targets.get(&n).map_or(1, |&n| n as i128);
    let mut best = None;
    for (&chain, members) in layout.chains.iter().filter(|(id, _)| !layout.fixed.contains(id)) {
        for &(from, a) in members {
            let others: Vec<u32> = members.iter().map(|m| m.1).filter(|&o| o != a).collect();
            for (&b, &to) in layout.free.iter().filter_map(|(b, free)| Some((b, free.first()?))) {
                if b == a || others.contains(&b) {
                    continue;
                }
                let met = |n: u32| others.iter().filter(|&&o| together(o, n)).count() as i64;
                let load = |n: u32| of(n).count() as i128;
                let more = (2 * load(b) + 1) * size(a) - (2 * load(a) - 1) * size(b);
                let change = (met(b) - met(a), more * (1 << 40) / (size(a) * size(b)));
                let pairs: i64 = others.iter().map(|&o| 1 + shared(b, o) - shared(a, o)).sum();
                let key = (change, pairs);
                if (change.0, more) < (0, 0) && best.is_none_or(|(than, _)| key < than) {
                    best = Some((key, Shift { chain, from, to }));
                }
            }
        }
    }
    best.map(|(_, shift)| shift)
}

/// A cluster of nodes of several sizes, some of them empty, some without a rack.
fn some_layout(seed: u64) -> Layout {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n) as u32
    };
    let nodes = 4 + below(5);
    let racks: BTreeMap<u32, String> = (1..=nodes).map(|n| (n, ["", "a", "b", "c"][below(4) as usize].to_owned())).collect();
    let targets: BTreeMap<u32, usize> = (1..=nodes).map(|n| (n, 1 + below(4) as usize)).collect();
    let all = free(&targets.values().map(|&n| n as u32).collect::<Vec<_>>());
    let mut layout = Layout { racks, targets, free: all, ..Layout::default() };
    for chain in 1..=1 + below(6) {
        let mut members: Vec<(u32, u32)> = Vec::new();
        for _ in 0..3 {
            let able: Vec<u32> = layout
                .free
                .iter()
                .filter(|(n, f)| !f.is_empty() && members.iter().all(|m| m.1 != **n))
                .map(|(n, _)| *n)
                .collect();
            // Mostly on the first nodes: the last ones have come later.
            let Some(&node) = able.get(below(able.len().clamp(1, 4) as u64) as usize) else { break };
            members.push((layout.free.get_mut(&node).expect("it is able").remove(0), node));
        }
        layout.chains.insert(chain, members);
        if below(8) == 0 {
            layout.fixed.insert(chain);
        }
    }
    layout
}

/// Whatever is passed over in the search would not have been chosen.
#[test]
fn the_search_for_a_shift_passes_over_nothing_better() {
    let mut found = 0;
    for seed in 1..=3000 {
        let mut layout = some_layout(seed);
        let all = layout.clone().shifts(1000);
        assert_eq!(all[..all.len().min(2)], layout.clone().shifts(2), "seed {seed}");
        for expected in all {
            let shift = layout.next_shift();
            assert_eq!(shift, plainly(&layout), "seed {seed}: {layout:?}");
            assert_eq!(shift, Some(expected), "seed {seed}: {layout:?}");
            layout.apply(expected);
            found += 1;
        }
        assert_eq!(plainly(&layout), None, "seed {seed}: {layout:?}");
    }
    assert!(found > 3000, "only {found} shifts");
}
