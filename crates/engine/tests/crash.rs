//! Power cuts at every write and flush: whatever subset of the unflushed sectors reached the medium, a reopened store
//! shows one of the states since the last reported one, for every chunk and for the sessions, and goes on working.
//!
//! `CATENA_CRASH_STATES` sets how many different images all tests here open together (default 104,000);
//! `CATENA_CRASH_SEED` starts at another seed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use catena_engine::disk::mem::{Event, MemDisk};
use catena_engine::{CowStore, OpenError, StoreKind};
use catena_types::{ChunkKey, ChunkStore, Op};
use common::cuts::{Counts, Cuts, Trace, choices};
use common::*;

/// Images in all, of which each test opens its share (in 104ths).
const IMAGES: u64 = 104_000;

/// Runs a family of histories for every kind of store until its share of images has been opened.
fn run(name: &str, share: u64, variants: usize, history: impl Fn(StoreKind, u64) -> Trace) -> Counts {
    let mut total = Counts::default();
    let most = env("CATENA_CRASH_STATES", IMAGES) * share / 104;
    for (n, &kind) in KINDS.iter().enumerate() {
        let until = most * (n as u64 + 1) / KINDS.len() as u64;
        let mut seed = env("CATENA_CRASH_SEED", 1);
        while total.images < until {
            let trace = history(kind, seed);
            Cuts::new(&trace, &mut total).enumerate(variants, until);
            seed += 1;
        }
    }
    println!("{name}: {total:?}");
    assert!(total.images >= most);
    total
}

/// A world with few small chunks, so that everything is close to its limits.
fn small_world(kind: StoreKind, seed: u64, capacity: u64, journal: u64, sizes: &[u32]) -> (World<MemDisk>, MemDisk) {
    let (store, disk) = fresh(kind, capacity, journal);
    let mut world = World::new(store, seed, 4);
    world.sizes = sizes.to_vec();
    world.mix = WRITES;
    (world, disk)
}

/// Steps on a disk that does things at once, or on one that is slow and does them in any order.
fn live(world: &mut World<MemDisk>, disk: &MemDisk, steps: usize, slow: bool) {
    on(world, disk, slow, |world| {
        for _ in 0..steps {
            world.step();
            if slow {
                world.turn();
            }
        }
    });
}

/// As [`live`], for what `life` does.
fn on(world: &mut World<MemDisk>, disk: &MemDisk, slow: bool, life: impl FnOnce(&mut World<MemDisk>)) {
    if slow {
        disk.set_held(true);
        world.slow = Some(disk.clone());
    }
    life(world);
    world.settle();
    disk.set_held(false);
    world.slow = None;
}

#[test]
fn power_cuts_on_a_quick_disk() {
    let counts = run("quick disk", 20, 8, |kind, seed| {
        let (world, disk) = small_world(kind, seed, 40, if seed.is_multiple_of(2) { 16 } else { 40 }, &[4096, 8192, 16384]);
        Trace::record(seed, &disk, world, |w| live(w, &disk, 250, false))
    });
    assert!(counts.dropped > 0 && counts.checkpoints > 0 || counts.images < 10_000, "{counts:?}");
}

/// The journal is so small that checkpoints and laps are common, and appends have to wait.
#[test]
fn power_cuts_on_a_slow_disk() {
    let counts = run("slow disk", 18, 8, |kind, seed| {
        let (world, disk) = small_world(kind, seed, 40, if seed.is_multiple_of(2) { 16 } else { 40 }, &[4096, 8192, 16384]);
        Trace::record(seed, &disk, world, |w| live(w, &disk, 250, true))
    });
    assert!(counts.dropped > 0 && counts.repaired > 0 && counts.checkpoints > 0 || counts.images < 10_000, "{counts:?}");
}

/// Blocks are used again as soon as they may be: what is freed too early is overwritten.
#[test]
fn power_cuts_with_hardly_any_space() {
    run("hardly any space", 20, 8, |kind, seed| {
        let (mut world, disk) = small_world(kind, seed, 9, 20, &[4096, 8192]);
        world.mix = Mix { install: 30, purge: 30, removes: 30, ..WRITES };
        Trace::record(seed, &disk, world, |w| live(w, &disk, 300, seed % 3 > 0))
    });
}

/// Chunks of many blocks, in pieces all over the disk.
#[test]
fn power_cuts_with_large_chunks() {
    run("large chunks", 14, 8, |kind, seed| {
        let (world, disk) = small_world(kind, seed, 160, 24, &[64 << 10, 256 << 10]);
        Trace::record(seed, &disk, world, |w| live(w, &disk, 200, seed % 3 > 0))
    });
}

/// Makes a chunk one that lies in many pieces.
fn shatter(world: &mut World<MemDisk>, key: &ChunkKey) {
    const SIZE: u32 = 128 << 10;
    world.purge(key);
    let whole = (0, SIZE);
    for (offset, len) in [whole].into_iter().chain((0..SIZE).step_by(24 << 10).map(|offset| (offset, 4096))) {
        let payload = world.rng.bytes(len as usize);
        world.stage_op(key, SIZE, Op::write(offset, len), payload);
        world.settle();
        let state = world.state(key);
        if let Some(staged) = &state.staged {
            world.commit(key, &state, staged.ver);
        }
    }
    world.settle();
}

/// Fragmented chunks are moved, freed space is punched, everything is scrubbed, all the time.
#[test]
fn power_cuts_beside_background_work() {
    let counts = run("background work", 8, 6, |kind, seed| {
        let (mut world, disk) = small_world(kind, seed, 12_000, 40, &[64 << 10, 128 << 10]);
        world.keys = (0..12).map(|n| direct::key(&format!("chunk {n:02}"))).collect();
        world.mix = Mix { read: 0, install: 3, purge: 3, removes: 3, ..WRITES };
        world.with_background(REST);
        live(&mut world, &disk, 200, false);
        world.keys.clone().iter().for_each(|key| shatter(&mut world, key));
        // Each is read, which has it moved, while others change.
        world.with_background(BUSY);
        world.mix = Mix { read: 100, turn: 100, ..world.mix };
        let moves = |w: &mut World<MemDisk>| {
            for key in w.keys.clone() {
                // What is staged stays where it is.
                for _ in 0..50 {
                    let state = w.state(&key);
                    if state.staged.is_some() {
                        w.update(&key, &state);
                        w.turn();
                    }
                }
                w.read_whole(&key);
                for n in 0..80 {
                    w.turn();
                    if n % 10 == 0 {
                        w.step();
                    }
                }
            }
        };
        Trace::record(seed, &disk, world, |w| on(w, &disk, seed % 3 > 0, moves))
    });
    let moved = counts.moved >= 2 * counts.histories || !KINDS.contains(&StoreKind::Cow);
    assert!(moved && counts.punched > 0 || counts.images < 5_000, "{counts:?}");
}

/// Bursts of long records, larger than the journal: what is applied goes into checkpoints directly.
#[test]
fn power_cuts_in_bursts() {
    let counts = run("bursts", 2, 3, |kind, seed| {
        let (store, disk) = fresh(kind, 400, 16);
        let mut world = World::new(store, seed, 110);
        world.keys = (0..110).map(|i| ChunkKey::new(format!("{i:0250}").as_bytes()).unwrap()).collect();
        Trace::record(seed, &disk, world, burst)
    });
    assert!(counts.stalls > 0, "{counts:?}");
}

fn burst(world: &mut World<MemDisk>) {
    for round in 0..3 {
        for key in world.keys.clone() {
            let n = 1 + world.rng.below(3000) as usize;
            let payload = world.rng.bytes(n);
            world.stage_op(&key, 64 << 10, Op::write(0, n as u32), payload);
            if round > 0 && world.rng.odds(1, 30) {
                world.install(&key);
            }
        }
        world.settle();
        for key in world.keys.clone() {
            let state = world.state(&key);
            if let Some(staged) = &state.staged {
                world.commit(&key, &state, staged.ver);
            }
            if world.rng.odds(1, 50) {
                world.sync();
            }
        }
        for key in world.keys.clone().into_iter().step_by(2) {
            world.purge(&key);
            world.install(&key);
        }
    }
    world.settle();
}

/// A target that is killed or loses power, is opened, and lives on, again and again; and is closed at last.
#[test]
fn power_cuts_in_several_lives_and_while_closing() {
    run("several lives", 22, 8, |kind, seed| {
        let (mut world, mut disk) = small_world(kind, seed, 40, 16, &[4096, 16384]);
        for life in 0..3 {
            live(&mut world, &disk, 60, seed.is_multiple_of(2));
            for _ in 0..20 {
                world.step();
            }
            let mut rng = Rng::new(seed + life);
            disk = if life == 1 { disk.fork() } else { disk.crash(|_, _| rng.odds(1, 2)) };
            world.reopen(disk.clone(), &format!("CATENA_CRASH_SEED={seed} life {life}"));
        }
        Trace::record(seed, &disk, world, |w| {
            live(w, &disk, 80, true);
            w.store.close(&mut Vec::new()).unwrap();
        })
    });
}

/// While a target is made – on an empty disk, or over an old target – and adopted, it is nothing, the old one, or the new
/// one; never something in between.
#[test]
fn power_cuts_while_a_target_is_made_and_adopted() {
    let (mut images, mut outcomes) = (0, std::collections::BTreeMap::<&str, u64>::new());
    for (seed, &kind) in (1..=40).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let (mut world, mut disk) = small_world(kind, seed, 40, 16, &[4096, 8192]);
        live(&mut world, &disk, 100, false);
        if seed.is_multiple_of(4) {
            disk = MemDisk::new();
        }
        let (old, mut image) = (world.held(), disk.record());
        let mut new = params(kind, 64, 20);
        new.identity.uuid = [seed as u8; 16];
        let mut store = CowStore::create(disk.clone(), &new, &arena()).unwrap();
        store.adopt(7, 8).unwrap();
        let mut rng = Rng::new(seed);
        for (at, event) in disk.take_log().iter().enumerate() {
            image.apply(event);
            let loose = image.loose();
            for kept in choices(&loose, 8, &mut rng) {
                images += 1;
                let cut = image.cut_to(loose.iter().zip(&kept).filter(|(_, k)| **k).map(|(l, _)| *l));
                let outcome = match CowStore::open(cut.disk(), &arena()) {
                    Err(OpenError::Empty { .. }) => "empty",
                    Err(OpenError::CorruptSuperblock { .. } | OpenError::NotATarget { .. }) => "half-made, named",
                    Err(e) => panic!("seed {seed} event {at}: {e}"),
                    Ok(store) if store.identity().uuid != [seed as u8; 16] => {
                        let mut store = store;
                        assert!(read_all(&mut store) == old, "seed {seed} event {at}: the old target, changed");
                        "the old target"
                    }
                    Ok(store) => {
                        let id = (store.identity().cluster, store.identity().target);
                        assert!(id == (0, 0) || id == (7, 8), "seed {seed} event {at}: adopted by {id:?}");
                        assert!(store.scan(b"", 1).is_empty() && store.space().used == 0, "seed {seed} event {at}: not empty");
                        if id.0 == 0 { "new" } else { "new and adopted" }
                    }
                };
                *outcomes.entry(outcome).or_default() += 1;
            }
        }
        let disk_after = image.crash(|_, _| false);
        assert_eq!(CowStore::open(disk_after, &arena()).unwrap().identity().target, 8, "what adopt has returned is durable");
    }
    println!("{images} images: {outcomes:?}");
    let wanted = ["empty", "new", "new and adopted", "the old target"];
    assert!(wanted.iter().all(|w| outcomes.contains_key(w)), "{outcomes:?}");
}

/// The enumeration itself: a disk that acknowledges flushes and does not do them is noticed.
#[test]
#[should_panic(expected = "CATENA_CRASH_SEED=1 event")]
fn lost_flushes_are_noticed() {
    let (world, disk) = small_world(KINDS[0], 1, 40, 16, &[4096, 8192]);
    let mut trace = Trace::record(1, &disk, world, |w| live(w, &disk, 100, false));
    trace.log.retain(|e| !matches!(e, Event::Flush { .. }));
    Cuts::new(&trace, &mut Counts::default()).enumerate(8, 10_000);
}
