//! A short run of the simulator: seeds hold, and a seed is a run.

use catena_sim::world::{self, Coverage};

#[test]
fn seeds_hold() {
    let mut coverage = Coverage::default();
    for seed in 1..=60 {
        let outcome = world::run(seed, 150, false);
        coverage.merge(&outcome.coverage);
        assert_eq!(outcome.violation, None, "replay: catena-sim replay --seed {seed} --ops 150 --trace");
    }
    for name in ["fault kill", "fault power cut of all", "counter rolled_forward", "counter asked_reads", "counter sync_puts"] {
        assert!(coverage.get(name) > 0, "{name} never happened: the run proves nothing about it\n{coverage}");
    }
}

#[test]
fn kept_seeds_hold() {
    let kept = include_str!("kept-seeds.txt").lines().filter(|line| !line.starts_with('#'));
    for line in kept {
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let [seed, ops] = numbers[..] else { panic!("{line:?} is not a seed and a number of operations") };
        assert_eq!(world::run(seed, ops, false).violation, None, "replay: catena-sim replay --seed {seed} --ops {ops} --trace");
    }
}

#[test]
fn a_seed_that_holds_has_nothing_to_shrink() {
    assert!(world::shrink(1, 50).is_none());
}

#[test]
fn a_seed_is_a_run() {
    for seed in 100..110 {
        let (a, b) = (world::run(seed, 100, false), world::run(seed, 100, true));
        assert_eq!((a.hash, a.events, a.violation), (b.hash, b.events, b.violation), "seed {seed}");
    }
}
