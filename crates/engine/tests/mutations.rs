//! Every deliberate fault ([`Mutation`]) is caught by the same checks that the engine passes, within a bounded number of
//! histories; and without one nothing is. Prints who caught what. `CATENA_MUTATION` picks one.
#![allow(clippy::unwrap_used)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use catena_engine::disk::mem::MemDisk;
use catena_engine::mutation::{Mutation, set};
use catena_engine::{Background, CowStore, StoreKind};
use catena_types::crc::crc32c;
use catena_types::store::Part;
use catena_types::{ChunkStore, Done, Op};
use common::cuts::{Counts, Cuts, Trace};
use common::direct::{committed, key, open, read, read_at, turns, write};
use common::world::{Mix, WRITES, World};
use common::*;

/// Seeds that each family of histories tries per kind of store, and images it opens in all.
const SEEDS: u64 = 24;
const IMAGES: u64 = 6_000;

type Hunter = (&'static str, fn());

const HUNTERS: [Hunter; 15] = [
    ("rot in data", rot_in_data),
    ("rot in metadata", rot_in_metadata),
    ("an end of the journal that was torn", common::direct::the_end_of_the_journal_is_written_again),
    ("rot in the last append", common::direct::rot_in_the_last_append_undoes_a_commit),
    ("a close and an open", a_close_and_an_open),
    ("readers on a slow disk", readers_on_a_slow_disk),
    ("a lost checksum", a_lost_checksum),
    ("a cut chunk", a_cut_chunk),
    ("zeroes that come late", zeroes_that_come_late),
    ("a patch of other bytes", a_patch_of_other_bytes),
    ("power cuts, quick disk", || cuts(40, false, &[4096, 8192, 16384], WRITES)),
    ("power cuts, slow disk", || cuts(40, true, &[4096, 8192, 16384], WRITES)),
    ("power cuts, hardly any space", || cuts(9, true, &[4096, 8192], Mix { install: 30, purge: 30, removes: 30, ..WRITES })),
    ("power cuts, large chunks", || cuts(160, true, &[64 << 10, 256 << 10], WRITES)),
    ("power cuts, checkpoints all the time", always_checkpoints),
];

fn live(world: &mut World<MemDisk>, disk: &MemDisk, steps: usize, slow: bool) {
    if slow {
        disk.set_held(true);
        world.slow = Some(disk.clone());
    }
    for _ in 0..steps {
        world.step();
        if slow {
            world.turn();
        }
    }
    world.settle();
    disk.set_held(false);
    world.slow = None;
}

fn cuts(capacity: u64, slow: bool, sizes: &[u32], mix: Mix) {
    for seed in 1..=SEEDS {
        for kind in [StoreKind::Cow, StoreKind::InPlace] {
            let (store, disk) = fresh(kind, capacity, if seed.is_multiple_of(2) { 16 } else { 40 });
            let mut world = World::new(store, seed, 4);
            world.sizes = sizes.to_vec();
            world.mix = mix;
            let trace = Trace::record(seed, &disk, world, |w| live(w, &disk, 250, slow));
            let mut counts = Counts::default();
            Cuts::new(&trace, &mut counts).enumerate(8, IMAGES / SEEDS / 2);
        }
    }
}

/// The smallest journal and index area: what a checkpoint gives up is used again at once.
fn always_checkpoints() {
    for seed in 1..=SEEDS {
        for kind in [StoreKind::InPlace, StoreKind::Cow] {
            let mut p = params(kind, 60, 16);
            p.index = 40 * 4096;
            let (store, disk) = create(&p);
            let mut world = World::new(store, seed, 4);
            world.sizes = vec![8192, 16384];
            world.mix = Mix { update: 4 * WRITES.update, ..WRITES };
            let trace = Trace::record(seed, &disk, world, |w| live(w, &disk, 500, true));
            let mut counts = Counts::default();
            Cuts::new(&trace, &mut counts).enumerate(8, 2_000);
        }
    }
}

/// Reads that last long while everything else goes on, with little space.
fn readers_on_a_slow_disk() {
    for seed in 1..=SEEDS {
        for kind in [StoreKind::Cow, StoreKind::InPlace] {
            let (store, disk) = fresh(kind, 60, 40);
            let mut world = World::new(store, seed, 6);
            world.sizes = vec![8192, 16384];
            world.slow_reads = true;
            live(&mut world, &disk, 600, true);
            world.compare();
            assert_eq!(world.store.stats().corrupt_reads, 0);
            world.end();
        }
    }
}

/// A flipped bit in data is never returned, and never merged into an update.
fn rot_in_data() {
    let rotten = || {
        let (mut store, disk) = fresh(StoreKind::Cow, 64, 40);
        write(&mut store, &key("k"), 1, Op::write(0, 20_000), &[7; 20_000]);
        turns(&mut store);
        disk.flip(store.params().data_offset() + 77, 3);
        store
    };
    assert!(read_at(&mut rotten(), &key("k"), 1, 0, 4096).is_err());
    let mut store = rotten();
    store.stage(common::direct::request(&key("k"), 2, Op::write(5, 3), b"new")).unwrap();
    turns(&mut store);
    assert!(store.meta(&key("k")).unwrap().staged.is_none(), "staged on a damaged block");
}

/// One bad block in the journal, the index or the checkpoint costs nothing.
fn rot_in_metadata() {
    let (mut store, disk) = fresh(StoreKind::Cow, 64, 40);
    write(&mut store, &key("k"), 1, Op::write(0, 5000), &[7; 5000]);
    turns(&mut store);
    let params = *store.params();
    let (journal, index) = (params.journal_offset() / 4096, params.index_offset() / 4096);
    disk.flip(journal * 4096 + 100, 1);
    assert_eq!(read(&mut open(disk.fork()), &key("k"), 1).unwrap(), [7; 5000][..]);
    disk.flip(journal * 4096 + 100, 1);
    store.close(&mut Vec::new()).unwrap();
    disk.flip(index * 4096 + 50, 1);
    disk.flip(params.checkpoint_offset(0) + 40, 1);
    assert_eq!(read(&mut open(disk.fork()), &key("k"), 1).unwrap(), [7; 5000][..]);
}

/// After a clean close nothing has to be mended.
fn a_close_and_an_open() {
    let (mut store, disk) = fresh(StoreKind::Cow, 64, 40);
    write(&mut store, &key("k"), 1, Op::write(0, 20_000), &[7; 20_000]);
    turns(&mut store);
    store.close(&mut Vec::new()).unwrap();
    let mut store = open(disk.fork());
    assert_eq!(read(&mut store, &key("k"), 1).unwrap(), [7; 20_000][..]);
    assert_eq!((store.stats().table_repairs, store.recovery().replayed), (0, 0));
}

/// A checksum that was lost is not taken for another one when its page has been written again.
fn a_lost_checksum() {
    let (mut store, disk) = fresh(StoreKind::Cow, 64, 40);
    write(&mut store, &key("k"), 1, Op::write(0, 5 * 4096), &[7; 5 * 4096]);
    turns(&mut store);
    store.close(&mut Vec::new()).unwrap();
    disk.flip(store.params().table_offset() + 8, 0);
    let mut store = open(disk.clone());
    write(&mut store, &key("other"), 2, Op::write(0, 5000), &[8; 5000]);
    turns(&mut store);
    store.close(&mut Vec::new()).unwrap();
    let mut store = open(disk);
    write(&mut store, &key("k"), 2, Op::truncate(4 * 4096), b"");
    turns(&mut store);
    assert_eq!(read(&mut store, &key("k"), 2).unwrap(), [7; 4 * 4096][..]);
}

/// What is cut off is gone when the chunk grows again.
fn a_cut_chunk() {
    for kind in [StoreKind::Cow, StoreKind::InPlace] {
        let (mut store, _disk) = fresh(kind, 64, 40);
        write(&mut store, &key("k"), 1, Op::write(0, 9000), &[7; 9000]);
        write(&mut store, &key("k"), 2, Op::truncate(100), b"");
        write(&mut store, &key("k"), 3, Op::extend(9000), b"");
        let bytes = read(&mut store, &key("k"), 3).unwrap();
        assert!(bytes[100..].iter().all(|&b| b == 0), "what was cut off is back");
    }
}

/// Zeroes for space ahead of use reach the medium behind data that was written meanwhile.
fn zeroes_that_come_late() {
    for kind in [StoreKind::Cow, StoreKind::InPlace] {
        let (mut store, disk) = fresh(kind, 640, 40);
        store.set_background(Background { prepare: 64 << 10, ..REST });
        disk.set_held(true);
        store.turn(1, &mut Vec::new());
        assert!(disk.waits(0).is_some(), "nothing is prepared");
        store.stage(common::direct::request(&key("k"), 1, Op::write(0, 20_000), &[7; 20_000])).unwrap();
        let mut out = Vec::new();
        for now in 2..20 {
            store.turn(now, &mut out);
            (1..disk.waiting()).for_each(|_| disk.run(1));
        }
        assert!(matches!(out[..], [Done::Staged { .. }]), "{out:?}");
        store.commit(&key("k"), 1, 1);
        disk.run(0);
        disk.set_held(false);
        store.set_background(REST);
        turns(&mut store);
        assert_eq!(read(&mut store, &key("k"), 1).unwrap(), [7; 20_000][..]);
    }
}

/// A patch whose parts make something else than the version that is wanted.
fn a_patch_of_other_bytes() {
    for kind in [StoreKind::Cow, StoreKind::InPlace] {
        let (mut store, _disk) = fresh(kind, 64, 40);
        write(&mut store, &key("k"), 1, Op::write(0, 8192), &[7; 8192]);
        let part = Part { offset: 0, len: 4096, crc: crc32c(&[1; 4096]), payload: vec![1; 4096].into() };
        store.patch(9, &key("k"), committed(2, &[2; 8192]), vec![part]).unwrap();
        let done = turns(&mut store);
        assert!(done.iter().any(|d| matches!(d, Done::NotPatched { id: 9 })), "{done:?}");
    }
}

/// The first hunter that finds the fault.
fn caught(mutation: Option<Mutation>) -> Option<&'static str> {
    set(mutation.as_slice());
    let found = HUNTERS.iter().find(|(_, hunt)| catch_unwind(AssertUnwindSafe(hunt)).is_err());
    set(&[]);
    found.map(|(name, _)| *name)
}

#[test]
fn every_mutation_is_caught_and_nothing_else_is() {
    assert!(CowStore::open(MemDisk::new(), &arena()).is_err());
    assert_eq!(caught(None), None, "without a mutation");
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("CATENA_MUTATION").ok();
    let wanted = Mutation::ALL.iter().copied().filter(|m| only.as_ref().is_none_or(|only| *only == format!("{m:?}")));
    let verdicts: Vec<_> = wanted.map(|m| (m, caught(Some(m)))).collect();
    let _ = std::panic::take_hook();
    for (mutation, by) in &verdicts {
        println!("{mutation:?}: {}", by.unwrap_or("NOT CAUGHT"));
    }
    let missed: Vec<_> = verdicts.iter().filter(|(_, by)| by.is_none()).map(|(m, _)| m).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
