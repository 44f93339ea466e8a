//! Random operations against a plain in-memory model: metadata after every operation, bytes on every read, space exact;
//! with chunks of all sizes, readers that stay for long, and disks that fail.
//!
//! `CATENA_MODEL_OPS` sets how many operations all tests here do together (default 700,000).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::BTreeMap;

use catena_engine::disk::mem::{Fault, MemDisk, What};
use catena_engine::{Background, CowStore, StoreKind};
use catena_types::{ChunkStore, Op};
use common::*;

/// Operations of all tests here when nothing else is asked for, and the sum of the numbers written into the tests.
const OPS: u64 = 700_000;
const WRITTEN: u64 = 400_000;
const EIO: i32 = libc::EIO;
const ENOSPC: i32 = libc::ENOSPC;

/// Scales a number written into a test.
fn ops(written: u64) -> u64 {
    written * env("CATENA_MODEL_OPS", OPS) / WRITTEN
}

/// Whether there are enough operations for counts to mean something.
fn enough() -> bool {
    ops(1) > 0
}

/// How a world is set up.
struct Setup {
    capacity: u64,
    journal: u64,
    checkpoint: u64,
    keys: usize,
    /// Length of the keys.
    name: usize,
    sizes: &'static [u32],
    mix: Mix,
    slow: bool,
    slow_reads: bool,
    scatter: bool,
    background: Background,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            capacity: 600,
            journal: 24,
            checkpoint: 64,
            keys: 12,
            name: 8,
            sizes: PLAIN,
            mix: Mix::default(),
            slow: false,
            slow_reads: false,
            scatter: false,
            background: Background::default(),
        }
    }
}

impl Setup {
    fn world(&self, kind: StoreKind, seed: u64) -> (World<MemDisk>, MemDisk) {
        let mut p = params(kind, self.capacity, self.journal);
        p.checkpoint = self.checkpoint * 4096;
        let (store, disk) = create(&p);
        let mut world = World::new(store, seed, self.keys);
        world.keys = (0..self.keys).map(|n| direct::key(&format!("{n:0width$}", width = self.name))).collect();
        world.sizes = self.sizes.to_vec();
        world.mix = self.mix;
        world.slow_reads = self.slow_reads;
        world.scatter = self.scatter;
        world.with_background(self.background);
        if self.slow {
            disk.set_held(true);
            world.slow = Some(disk.clone());
        }
        (world, disk)
    }

    /// A run of so many operations. Everything is settled, compared and opened again now and then.
    fn run(&self, kind: StoreKind, seed: u64, ops: u64) -> World<MemDisk> {
        let (mut world, mut disk) = self.world(kind, seed);
        for n in 0..ops {
            world.step();
            if self.slow {
                world.turn();
            }
            if n % 16 == 0 {
                world.compare();
            }
            if n % 1000 == 999 {
                world.settle();
                world.compare();
                disk = disk.fork();
                let before = world.store.stats();
                world.count_stats(before);
                world.reopen(disk.clone(), &format!("seed {seed} operation {n}"));
                world.compare();
            }
        }
        world.settle();
        let stats = world.store.stats();
        world.count_stats(stats);
        world.end();
        world
    }

    /// Runs for seeds and kinds, each of `each` operations (scaled); gives the sum of what was counted.
    fn runs(&self, seeds: std::ops::Range<u64>, each: u64) -> BTreeMap<&'static str, u64> {
        let mut sum = BTreeMap::<&'static str, u64>::new();
        for (seed, &kind) in seeds.flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
            let world = self.run(kind, seed, ops(each).max(1));
            world.counts.iter().for_each(|(what, n)| *sum.entry(*what).or_default() += n);
            let most = sum.entry("most reads at once").or_default();
            *most = (*most).max(world.most_reads as u64);
        }
        println!("{sum:?}");
        sum
    }
}

trait CountStats {
    fn count_stats(&mut self, stats: catena_engine::Stats);
}

impl CountStats for World<MemDisk> {
    fn count_stats(&mut self, stats: catena_engine::Stats) {
        *self.counts.entry("checkpoints").or_default() += stats.checkpoints;
        *self.counts.entry("stalls").or_default() += stats.stalls;
        *self.counts.entry("compacted").or_default() += stats.compacted;
        *self.counts.entry("MiB punched").or_default() += stats.bytes_punched >> 20;
        assert_eq!((stats.misuse, stats.corrupt_reads), (0, 0));
    }
}

#[test]
fn random_operations_on_a_quick_disk() {
    let counts = Setup::default().runs(1..7, 10_000);
    assert!(counts["checkpoints"] > 60 || !enough(), "{counts:?}");
}

#[test]
fn random_operations_on_a_slow_disk() {
    let setup = Setup { slow: true, ..Setup::default() };
    let counts = setup.runs(11..17, 10_000);
    assert!(counts["unstage in flight"] > 50 && counts["checkpoints"] > 60 || !enough(), "{counts:?}");
}

#[test]
fn random_operations_with_little_space() {
    let setup = Setup { capacity: 70, journal: 16, ..Setup::default() };
    let counts = setup.runs(20..25, 8_000);
    assert!(counts["no space"] > 250 || !enough(), "{counts:?}");
}

#[test]
fn random_operations_with_a_roomy_journal() {
    Setup { capacity: 2000, journal: 256, ..Setup::default() }.runs(30..33, 8_000);
}

/// Many small chunks of one to three blocks, and keys that come and go.
#[test]
fn random_operations_on_small_chunks() {
    let mix = Mix { update: 260, read: 80, install: 30, purge: 30, removes: 20, ..Mix::default() };
    let setup = Setup { capacity: 300, checkpoint: 128, keys: 100, sizes: &[4096, 4096, 8192, 12288], mix, ..Setup::default() };
    setup.runs(40..44, 12_000);
    Setup { slow: true, ..setup }.runs(44..46, 12_000);
}

/// Long records in bursts larger than the journal: what is applied goes into checkpoints directly.
#[test]
fn random_operations_in_bursts() {
    let mix = Mix { update: 260, read: 20, install: 60, purge: 20, sync: 2, turn: 2, ..Mix::default() };
    let setup = Setup { capacity: 700, journal: 16, keys: 120, name: 250, sizes: &[4096, 16384], mix, ..Setup::default() };
    let counts = setup.runs(70..73, 6_000);
    assert!(counts["stalls"] > 10 || !enough(), "{counts:?}");
}

/// Chunks from one block to 4 MiB, sizes that are no power of two among them; a key may come back with another size.
#[test]
fn random_operations_on_chunks_of_all_sizes() {
    let sizes = &[4096, 8192, 20480, 64 << 10, 64 << 10, 256 << 10, 1 << 20, 3 << 20, 4 << 20];
    let setup = Setup { capacity: 16_000, journal: 64, checkpoint: 256, sizes, ..Setup::default() };
    setup.runs(50..53, 3_000);
    Setup { slow: true, slow_reads: true, ..setup }.runs(53..55, 3_000);
}

/// Readers stay while their chunks are overwritten, removed, replaced and created anew, in very little space: their bytes
/// must not change under them.
#[test]
fn readers_that_stay_keep_their_bytes() {
    let mix = Mix { update: 220, read: 150, install: 30, purge: 30, removes: 25, ..Mix::default() };
    let setup = Setup { capacity: 80, journal: 16, keys: 4, mix, slow: true, slow_reads: true, ..Setup::default() };
    let counts = setup.runs(60..68, 8_000);
    assert!(counts["most reads at once"] >= 20 || !enough(), "{counts:?}");
}

/// More pages of checksums than the store keeps in memory: they are written, given up and read again all the time, while a
/// slow disk does things in any order.
#[test]
fn random_operations_with_many_pages_of_checksums() {
    let mix = Mix { update: 300, read: 200, install: 4, purge: 2, removes: 3, ..Mix::default() };
    let sizes = &[64 << 10, 128 << 10, 256 << 10];
    let setup = Setup { capacity: 6000, journal: 64, checkpoint: 256, keys: 8, sizes, mix, slow: true, ..Setup::default() };
    setup.runs(90..98, 3_000);
}

/// Scrub, moves of fragmented chunks and punched holes beside everything else, on quick and slow disks: none of it changes
/// anything.
#[test]
fn random_operations_beside_background_work() {
    let mix = Mix { update: 150, read: 300, install: 3, purge: 3, removes: 3, turn: 300, ..Mix::default() };
    let sizes = &[64 << 10, 128 << 10];
    let setup = Setup { capacity: 3000, journal: 64, checkpoint: 256, keys: 16, sizes, mix, ..Setup::default() };
    let setup = Setup { scatter: true, background: BUSY, ..setup };
    let quick = setup.runs(80..83, 5_000);
    let slow = Setup { slow: true, ..setup }.runs(83..86, 5_000);
    // Slots are in one piece: only a copy-on-write store moves chunks.
    let moves = quick["compacted"] > 20 && slow["compacted"] > 20 || !KINDS.contains(&StoreKind::Cow);
    assert!(moves && quick["MiB punched"] > 0 && slow["MiB punched"] > 0 || !enough(), "{quick:?} {slow:?}");
}

/// The faults that end in `Failed`, and how often each is tried.
fn fatal(rng: &mut Rng, data: u64) -> (&'static str, What, std::ops::Range<u64>, Fault) {
    let all = 0..u64::MAX;
    let sectors = rng.below(12) as usize;
    match rng.below(9) {
        0 => ("data write: EIO", What::Write, data..u64::MAX, Fault::Error(EIO)),
        1 => ("data write: ENOSPC", What::Write, data..u64::MAX, Fault::Error(ENOSPC)),
        2 => ("data write: partly, then EIO", What::Write, data..u64::MAX, Fault::Partial { errno: EIO, sectors }),
        3 => ("data write: partly, then ENOSPC", What::Write, data..u64::MAX, Fault::Partial { errno: ENOSPC, sectors }),
        4 => ("other write: EIO", What::Write, 0..data, Fault::Error(EIO)),
        5 => ("other write: ENOSPC", What::Write, 0..data, Fault::Error(ENOSPC)),
        6 => ("other write: partly, then EIO", What::Write, 0..data, Fault::Partial { errno: EIO, sectors }),
        7 => ("flush: EIO", What::Flush, all, Fault::Error(EIO)),
        _ => ("flush: EIO, and the writes are forgotten", What::Flush, all, Fault::Forgets(EIO)),
    }
}

/// A write or flush that fails ends in `Failed`, after which nothing is reported or written. Opened again – as after a kill,
/// or a power cut – everything acknowledged is there, and life goes on.
#[test]
fn a_failing_write_or_flush_fails_the_target_and_loses_nothing() {
    let mut hits = BTreeMap::<&str, u64>::new();
    for (seed, &kind) in (100..100 + ops(60).max(9)).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let sizes = &[4096, 16384, 64 << 10];
        let setup = Setup { keys: 8, sizes, slow: seed.is_multiple_of(3), ..Setup::default() };
        let (mut world, mut disk) = setup.world(kind, seed);
        world.faulty = Some(disk.clone());
        let mut rng = Rng::new(seed * 7);
        for life in 0..6 {
            for _ in 0..rng.below(200) {
                world.step();
            }
            let (name, what, within, fault) = fatal(&mut rng, world.store.params().data_offset());
            disk.inject(what, within, rng.below(10), fault);
            while world.failed.is_none() {
                world.step();
                if world.slow.is_some() {
                    world.turn();
                }
            }
            *hits.entry(name).or_default() += 1;
            nothing_happens_any_more(&mut world, &disk);
            disk.set_held(false);
            disk = if rng.odds(1, 2) { disk.fork() } else { disk.crash(|_, _| rng.odds(1, 2)) };
            world.reopen(disk.clone(), &format!("seed {seed} life {life}, {name}"));
            world.compare();
        }
        world.faulty = None;
        world.settle();
        world.end();
    }
    println!("{hits:?}");
    assert_eq!(hits.len(), 9, "{hits:?}");
}

fn nothing_happens_any_more(world: &mut World<MemDisk>, disk: &MemDisk) {
    while disk.waiting() > 0 {
        disk.run(0);
    }
    let (ops, key, space) = (disk.ops(), world.keys[0].clone(), world.store.space());
    let stage = direct::sized(&key, u64::MAX, Op::remove(), b"", world.store.meta(&key).map_or(4096, |m| m.chunk_size));
    assert!(world.store.stage(stage).is_err());
    world.store.purge(1, &key);
    world.store.commit(&key, 1, 1);
    world.store.unstage(&key, 1);
    world.store.read(1, &key, 1, 0, 1);
    world.store.sync(2);
    world.store.clear_sessions();
    let mut out = Vec::new();
    for n in 0..3 {
        world.store.turn(u64::MAX / 2 + n, &mut out);
    }
    assert!(world.store.close(&mut out).is_err() && world.store.failure().is_some() && !world.store.busy());
    assert!(out.is_empty() && disk.ops() == ops, "nothing happens after a failure: {out:?}");
    assert_eq!(world.store.space(), space);
}

/// A read that fails, or that gives a wrong bit, is answered `Corrupt` and costs nothing else; a failing read of what an
/// update keeps of a block may fail the target. What is on the medium is good all the time.
#[test]
fn a_failing_read_costs_that_read() {
    let (mut corrupt, mut failed) = (0, 0);
    for (seed, &kind) in (200..200 + ops(24).max(6)).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let slow = seed.is_multiple_of(2);
        let (mut world, mut disk) = Setup { keys: 8, slow, slow_reads: slow, ..Setup::default() }.world(kind, seed);
        world.faulty = Some(disk.clone());
        let mut rng = Rng::new(seed);
        let (mut struck, mut answered) = (0, 0);
        for n in 0..1500 {
            if n % 10 == 0 {
                let fault = if rng.odds(1, 3) { Fault::Noise(rng.next()) } else { Fault::Error(EIO) };
                disk.inject(What::Read, 0..u64::MAX, rng.below(10), fault);
            }
            world.step();
            if slow {
                world.turn();
            }
            if n % 50 == 0 {
                disk.clear_faults();
                world.settle();
            }
            let (hits, bad) = (struck + disk.struck(), world.corrupt_reads());
            assert!(bad <= hits, "seed {seed} operation {n}: {bad} corrupt reads, {hits} faults");
            if world.failed.is_some() {
                failed += 1;
                struck = hits;
                disk = disk.fork();
                world.reopen(disk.clone(), &format!("seed {seed} operation {n}"));
            } else if n % 50 == 0 {
                world.compare();
                answered = bad;
            }
        }
        corrupt += answered;
        disk.clear_faults();
        world.settle();
        world.reopen(disk.fork(), &format!("seed {seed}, at the end"));
        world.end();
    }
    println!("{corrupt} corrupt reads, {failed} failed targets");
    assert!(corrupt > 100 || !enough(), "{corrupt} {failed}");
}

/// A read that fails while a target is opened: refused by name, or good; the next open finds everything.
#[test]
fn a_failing_read_while_opening_is_named() {
    for (seed, &kind) in (300..310).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let (mut world, disk) = Setup::default().world(kind, seed);
        for _ in 0..400 {
            world.step();
        }
        let disk = disk.fork();
        let reads = {
            let probe = disk.fork();
            drop(CowStore::open(probe.clone(), &arena()).unwrap());
            probe.ops()
        };
        for n in 0..reads {
            let copy = disk.fork();
            copy.fail_op(n, EIO);
            if let Err(e) = CowStore::open(copy.clone(), &arena()) {
                let text = e.to_string();
                assert!(text.contains("memory disk") && text.contains("failed"), "{text}");
            }
            let mut store = direct::open(copy);
            let found = read_all(&mut store);
            world.assert_possible(&found, &SmallState::of(&store), &format!("seed {seed}, operation {n} of the open failed"));
        }
    }
}
