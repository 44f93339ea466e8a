//! Random operations against a plain in-memory model: metadata after every operation, bytes on every read, space exact.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, missing_docs)]
mod common;

use catena_engine::CowStore;
use catena_types::ChunkStore;
use common::*;

fn run(seed: u64, steps: usize, capacity: u64, journal: u64) -> World<catena_engine::disk::mem::MemDisk> {
    let (store, disk) = fresh(capacity, journal);
    let mut world = World::new(store, seed, 12);
    let slow = seed.is_multiple_of(2);
    if slow {
        disk.set_held(true);
        world.slow = Some(disk.clone());
    }
    for step in 0..steps {
        world.step();
        if slow {
            world.turn();
        }
        if step % 16 == 0 {
            world.compare();
        }
        if step % 1000 == 999 {
            world.settle();
            world.compare();
            // As after a kill: the same disk, opened again. Everything was reported, so everything is there.
            let copy = disk.fork();
            let mut reopened = CowStore::open(copy, &arena()).unwrap();
            reopened.verify().unwrap();
            let all = read_all(&mut reopened);
            for (key, h) in &world.chunks {
                assert!(all.get(key).cloned().unwrap_or_default() == *h.now(), "seed {seed} step {step}: {key} differs");
            }
        }
    }
    world.settle();
    world
}

#[test]
fn random_operations_agree_with_the_model() {
    for seed in 1..=8 {
        let world = run(seed, 6000, 600, 24);
        assert!(world.store.stats().checkpoints > 5, "{:?}", world.store.stats());
        println!("seed {seed}: {:?} {:?}", world.counts, world.store.stats());
    }
}

#[test]
fn random_operations_with_little_space() {
    for seed in 20..=24 {
        let world = run(seed, 5000, 70, 16);
        assert!(world.counts["no space"] > 50, "{:?}", world.counts);
    }
}

#[test]
fn random_operations_with_a_roomy_journal() {
    for seed in 30..=32 {
        run(seed, 4000, 2000, 256);
    }
}

/// An injected error ends in `Failed`, after which nothing is reported or written; reopened, everything acknowledged is there.
#[test]
fn an_io_error_fails_the_target_and_loses_nothing() {
    let mut failures = 0;
    for seed in 100..160 {
        let (store, disk) = fresh(600, 24);
        let mut world = World::new(store, seed, 8);
        let mut rng = Rng::new(seed * 7);
        for _ in 0..rng.below(400) {
            world.step();
        }
        // Reads do not fail the target; try again until something that matters is hit.
        for round in 0..50 {
            disk.fail_op(disk.ops() + rng.below(20), 5);
            for _ in 0..60 {
                if world.failed.is_some() {
                    break;
                }
                step_tolerant(&mut world);
            }
            if world.failed.is_some() {
                break;
            }
            assert!(round < 49, "never failed");
        }
        failures += 1;
        let ops = disk.ops();
        let key = world.keys[0].clone();
        world.store.purge(1, &key);
        world.store.sync(2);
        let mut out = Vec::new();
        world.store.turn(u64::MAX / 2, &mut out);
        assert!(out.is_empty() && disk.ops() == ops, "nothing happens after a failure");
        let mut reopened = CowStore::open(disk.fork(), &arena()).unwrap();
        reopened.verify().unwrap();
        let all = read_all(&mut reopened);
        for (key, h) in &world.chunks {
            let found = all.get(key).cloned().unwrap_or_default();
            assert!(h.states[h.lower..].contains(&found), "seed {seed}: {key} is none of its states since the last reported");
        }
    }
    assert_eq!(failures, 60);
}

/// A step whose reads may fail: only updates, so that the injected error hits one of them.
fn step_tolerant(world: &mut World<catena_engine::disk::mem::MemDisk>) {
    let key = world.keys[world.rng.below(8) as usize].clone();
    let state = world.state(&key);
    let Some(staged) = &state.staged else {
        let n = 1 + world.rng.below(9000) as u32;
        let payload = world.rng.bytes(n as usize);
        let at = world.rng.below(50000) as u32;
        world.stage_op(&key, catena_types::Op::write(at, n), payload);
        return world.turn();
    };
    if world.store.meta(&key).is_some_and(|m| m.staged.is_some_and(|s| s.durable)) {
        let ver = staged.ver;
        world.commit(&key, &state, ver);
    }
    world.turn();
}
