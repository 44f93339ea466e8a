//! The offline checker: says "clean" of every state the engine leaves behind, settled or after a power cut, and names
//! every kind of damage, with its place. It shares nothing with the engine but the structures on disk, so that the two
//! check each other.
//!
//! `CATENA_FSCK_STATES` sets how many crash states are checked per store; `CATENA_FSCK_SEED` starts at another seed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use catena_engine::disk::mem::{Event, Image, MemDisk};
use catena_engine::offline::inspect::{AppendView, BlockView, checkpoint, chunk, journal, overview};
use catena_engine::offline::{Class, Finding, Options, Report, Severity, fsck};
use catena_engine::{Background, CowStore, Durability, OpenError, Params, StoreKind};
use catena_types::{ChunkKey, ChunkStore};
use common::*;

const DURABILITIES: [Durability; 2] = [Durability::Flush, Durability::Replicated];

/// Every kind of store with every durability.
fn variants() -> impl Iterator<Item = (StoreKind, Durability)> {
    KINDS.iter().flat_map(|kind| DURABILITIES.map(|durability| (*kind, durability)))
}

fn made(kind: StoreKind, durability: Durability, capacity: u64, journal: u64) -> (CowStore<MemDisk>, MemDisk) {
    create(&Params { durability, ..params(kind, capacity, journal) })
}

fn check(disk: &MemDisk) -> Report {
    fsck(disk, &Options::default(), &mut |_| {}).unwrap()
}

#[track_caller]
fn clean(disk: &MemDisk, what: &str) -> Report {
    let report = check(disk);
    assert!(report.findings.is_empty() && report.checked.data, "{what}: {:#?}", report.findings);
    report
}

/// What the engine says of a target agrees with what the check says.
fn agree(store: &CowStore<MemDisk>, report: &Report, what: &str) {
    let (space, checked) = (store.space(), &report.checked);
    assert_eq!((space.used, space.total), (checked.used, checked.capacity), "{what}");
    assert_eq!(space.chunks, checked.chunks, "{what}");
    assert_eq!(store.sessions(None, usize::MAX).len() as u64, checked.sessions, "{what}");
    let staged = store.scan(b"", usize::MAX).iter().filter(|(_, m)| m.staged.is_some()).count() as u64;
    assert_eq!(staged, checked.staged, "{what}");
}

/// A world in which everything goes on in the background too.
fn world(store: CowStore<MemDisk>, seed: u64, keys: usize) -> World<MemDisk> {
    let mut world = World::new(store, seed, keys);
    if seed.is_multiple_of(2) {
        world.sizes = vec![8 << 10, 64 << 10, 128 << 10];
        let (scrub_rate, scrub_pause, compact_rate) = (64 << 20, 20_000_000, 1 << 30);
        let background = Background { scrub_rate, scrub_pause, compact_rate, punch_after: Some(30_000_000), prepare: 256 << 10 };
        world.store.set_background(background);
    }
    world
}

#[test]
fn a_settled_store_is_clean() {
    for ((kind, durability), seed) in variants().flat_map(|v| (1..=6).map(move |seed| (v, seed))) {
        let (capacity, journal) = [(600, 24), (160, 16), (2000, 256)][seed as usize % 3];
        let (store, disk) = made(kind, durability, capacity, journal);
        let mut world = world(store, seed, 12);
        if seed.is_multiple_of(3) {
            disk.set_held(true);
            world.slow = Some(disk.clone());
        }
        for round in 0..8 {
            for _ in 0..250 {
                world.step();
                if world.slow.is_some() {
                    world.turn();
                }
            }
            world.store.set_background(Background { scrub_rate: 0, ..Background::default() });
            world.settle();
            let what = format!("{kind:?} {durability:?} seed {seed} round {round}");
            let report = clean(&disk.fork(), &what);
            agree(&world.store, &report, &what);
        }
    }
}

/// A history of random operations with every write and flush recorded, on a disk that mostly does things in any order.
fn record(kind: StoreKind, durability: Durability, seed: u64) -> (Image, Vec<Event>) {
    let (capacity, journal) = (if seed % 4 < 2 { 80 } else { 160 }, if seed.is_multiple_of(2) { 16 } else { 40 });
    let (store, disk) = made(kind, durability, capacity, journal);
    let base = disk.record();
    let mut world = world(store, seed, 5);
    world.mix = WRITES;
    if !seed.is_multiple_of(3) {
        disk.set_held(true);
        world.slow = Some(disk.clone());
    }
    for _ in 0..300 {
        world.step();
        if world.slow.is_some() {
            world.turn();
        }
    }
    (base, disk.take_log())
}

/// A power cut may leave: one copy of the superblock old or torn, the last append torn (its parity may still mend it),
/// records that were never acknowledged.
fn is_from_a_cut(class: Class, severity: Severity) -> bool {
    match severity {
        Severity::Info => class == Class::Dropped,
        Severity::Repairable => matches!(class, Class::Superblock | Class::Journal | Class::Parity),
        Severity::Damage | Severity::Fatal => false,
    }
}

fn crash(image: &Image, rng: &mut Rng) -> MemDisk {
    match rng.below(4) {
        0 => image.crash(|_, _| false),
        1 => image.crash(|_, _| true),
        2 => {
            let odds = 1 + rng.below(9);
            image.crash(|_, _| rng.below(10) < odds)
        }
        _ => {
            let salt = rng.next();
            image.crash(|w, _| Rng::new(salt ^ w as u64).below(2) == 0)
        }
    }
}

#[test]
fn a_power_cut_leaves_nothing_that_is_damage() {
    let most = env("CATENA_FSCK_STATES", 2500);
    for (kind, durability) in variants() {
        let (mut states, mut found, mut dropped) = (0, 0, 0);
        let mut seed = env("CATENA_FSCK_SEED", 1);
        while states < most {
            let (mut image, log) = record(kind, durability, seed);
            let mut rng = Rng::new(seed ^ 0xf5c);
            for (at, event) in log.iter().enumerate() {
                image.apply(event);
                if matches!(event, Event::Mark(_)) || rng.below(3) > 0 {
                    continue;
                }
                states += 1;
                let disk = crash(&image, &mut rng);
                let report = after_a_cut(&disk, &format!("{kind:?} {durability:?} CATENA_FSCK_SEED={seed} event {at}"));
                found += u64::from(!report.findings.is_empty());
                dropped += u64::from(report.checked.dropped > 0);
            }
            seed += 1;
        }
        println!("{kind:?} {durability:?}: {states} crash states, {found} with findings, {dropped} with records dropped");
        assert!(found > 0 && dropped > 0);
    }
}

/// Nothing is damaged, and the engine finds the same.
fn after_a_cut(disk: &MemDisk, what: &str) -> Report {
    let report = check(disk);
    let expected = |f: &Finding| is_from_a_cut(f.class, f.severity);
    assert!(report.findings.iter().all(expected), "{what}: {:#?}", report.findings);
    let mut store = CowStore::open(disk.clone(), &arena()).unwrap_or_else(|e| panic!("{what}: {e}"));
    agree(&store, &report, what);
    let recovery = store.recovery();
    assert_eq!((recovery.replayed, recovery.dropped), (report.checked.records, report.checked.dropped), "{what}");
    if recovery.mended > 0 {
        // The checkpoint that follows.
        direct::turns(&mut store);
    }
    clean(disk, &format!("{what}, opened"));
    report
}

fn sector_at(disk: &MemDisk, offset: u64) -> Vec<u8> {
    disk.peek(offset, 512)
}

/// What can happen to a sector.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Zero,
    /// As it was some time ago.
    Stale,
    /// What belongs to another place.
    Misdirected,
}

const DAMAGES: [Damage; 4] = [Damage::Flip, Damage::Zero, Damage::Stale, Damage::Misdirected];

/// A store with everything in it: a checkpoint of several leaves, a journal behind it, staged updates, sessions.
struct Subject {
    store: CowStore<MemDisk>,
    now: MemDisk,
    before: MemDisk,
    what: String,
}

impl Subject {
    /// Odd seeds have many small leaves and slices and checkpoints all the time, even ones a long journal.
    fn new(kind: StoreKind, seed: u64) -> Subject {
        let (store, disk) = fresh(kind, 900, 64);
        let long = seed.is_multiple_of(2);
        let mut world = World::new(store, seed, 12);
        if long {
            world.keys = (0..40).map(|i| ChunkKey::new(format!("{i:0240}").as_bytes()).unwrap()).collect();
            world.store = CowStore::open(disk.clone(), &arena()).unwrap();
        }
        let mut before = disk.fork();
        for round in 0..2000 {
            for _ in 0..40 {
                world.step();
            }
            world.settle();
            // The last record is not known durable: it shall be one that matters little.
            let floor = world.small.now().floor;
            world.store.raise_remove_floor(floor + 1);
            let small = SmallState { floor: floor + 1, ..world.small.now().clone() };
            world.small.push(small);
            world.settle();
            let now = disk.fork();
            let (live, leaves) = (journal(&now).unwrap().live, checkpoint(&now).unwrap().leaves.len());
            let staged = world.store.scan(b"", usize::MAX).iter().filter(|(_, m)| m.staged.is_some()).count();
            if round > 20 && live >= if long { 12 } else { 4 } && staged > 0 && leaves > 1 {
                return Subject { store: world.store, now, before, what: format!("{kind:?} seed {seed}") };
            }
            if round % 5 == 0 {
                before = now;
            }
        }
        panic!("{kind:?} seed {seed}: never as wanted");
    }

    /// The target with one sector damaged, and the first byte that differs; `None` if it is the same as before.
    fn damaged(&self, damage: Damage, offset: u64, rng: &mut Rng) -> Option<(MemDisk, u64)> {
        let disk = self.now.fork();
        hit(&disk, &self.before, damage, offset, rng).map(|byte| (disk, byte))
    }
}

/// Damages the sector at `offset`; gives the first byte that differs.
fn hit(disk: &MemDisk, before: &MemDisk, damage: Damage, offset: u64, rng: &mut Rng) -> Option<u64> {
    let sector = offset / 512 * 512;
    let was = sector_at(disk, sector);
    let is = match damage {
        Damage::Flip => {
            let mut is = was.clone();
            is[(offset % 512) as usize] ^= 1 << rng.below(8);
            is
        }
        Damage::Zero => vec![0; 512],
        Damage::Stale => sector_at(before, sector),
        Damage::Misdirected => sector_at(disk, sector + 4096 * (1 + rng.below(30))),
    };
    let at = was.iter().zip(&is).position(|(a, b)| a != b)?;
    disk.poke(sector, &is);
    Some(sector + at as u64)
}

/// The one finding of a damage.
#[track_caller]
fn only(disk: &MemDisk, what: &str) -> (Class, Severity, u64) {
    let report = check(disk);
    let [f] = &report.findings[..] else { panic!("{what}: {:#?}", report.findings) };
    assert!(!f.what.is_empty() && !f.next.is_empty() && f.to_string().contains(f.class.name()));
    (f.class, f.severity, f.offset)
}

fn subjects() -> impl Iterator<Item = Subject> {
    KINDS.iter().flat_map(|kind| (1..=4).map(move |seed| Subject::new(*kind, seed)))
}

/// The structures that are stored with a parity: class, start and blocks; every one is whole.
fn protected(disk: &MemDisk) -> Vec<(Class, u64, u64)> {
    let (appends, ckpt) = (journal(disk).unwrap().appends, checkpoint(disk).unwrap());
    let ring = overview(disk).unwrap().areas[0].clone();
    // Those that go over the end of the ring are left to other tests.
    let inside = |a: &&AppendView| a.live && a.offset + u64::from(a.blocks) * 4096 <= ring.offset + ring.bytes;
    let appends = appends.iter().filter(inside).map(|a| (Class::Journal, a.offset, u64::from(a.blocks)));
    let slices = ckpt.slices.iter().map(|s| (Class::Checkpoint, s.offset, s.bytes / 4096));
    let leaves = ckpt.leaves.iter().filter(|l| l.pieces == 1).map(|l| (Class::Leaf, l.offset, l.blocks));
    appends.chain(slices).chain(leaves).collect()
}

/// Where the last append is.
fn last_append(disk: &MemDisk) -> u64 {
    let live = journal(disk).unwrap().appends.into_iter().filter(|a| a.live);
    live.max_by_key(|a| a.append).unwrap().offset
}

#[test]
fn one_bad_block_of_a_structure_is_found_to_the_byte() {
    let mut tried = [0; 3];
    for subject in subjects() {
        let mut rng = Rng::new(77);
        clean(&subject.now, &subject.what);
        for (class, start, blocks) in protected(&subject.now) {
            tried[[Class::Journal, Class::Checkpoint, Class::Leaf].iter().position(|c| *c == class).unwrap()] += 1;
            for (block, damage) in (0..blocks).flat_map(|block| DAMAGES.map(|damage| (block, damage))) {
                let Some((disk, byte)) = subject.damaged(damage, start + block * 4096 + rng.below(200), &mut rng) else {
                    continue;
                };
                let what = format!("{} {class:?} at {start}, block {block}, {damage:?} at {byte}", subject.what);
                let found = only(&disk, &what);
                assert_eq!((found.1, found.2), (Severity::Repairable, byte), "{what}");
                // Behind the header it may be padding, which is of no use but for the parity.
                let sure = block == 0 && byte < start + 12;
                let padding = found.0 == Class::Parity && block != 1 && !sure;
                assert!(padding || found.0 == if block == 1 { Class::Parity } else { class }, "{what}: {found:?}");
                assert!(CowStore::open(disk, &arena()).is_ok(), "{what}");
            }
        }
    }
    assert!(tried.iter().all(|&n| n > 10), "{tried:?}");
}

#[test]
fn two_bad_blocks_of_a_structure_are_fatal() {
    for subject in subjects() {
        let structures = protected(&subject.now);
        // An append whose records no later one says are durable may be torn.
        let last = last_append(&subject.now);
        for (class, start, blocks) in structures {
            for (a, b) in [(0, 1), (0, blocks - 1)].into_iter().filter(|(a, b)| a != b) {
                let disk = subject.now.fork();
                disk.flip(start + a * 4096 + 33, 3);
                disk.flip(start + b * 4096 + 35, 4);
                let what = format!("{} {class:?} at {start}, blocks {a} and {b}", subject.what);
                let report = check(&disk);
                if start == last {
                    assert!(!report.is_damaged(), "{what}: {:#?}", report.findings);
                    continue;
                }
                let found = report.findings.iter().find(|f| (f.class, f.severity) == (class, Severity::Fatal));
                assert_eq!(found.map(|f| f.offset), Some(start), "{what}: {:#?}", report.findings);
                assert!(!report.checked.data, "{what}");
                assert!(CowStore::open(disk, &arena()).is_err(), "{what}");
            }
        }
    }
}

/// A block of metadata that cannot be read costs nothing, in the check as in the engine.
#[test]
fn one_unreadable_block_of_metadata_is_repairable() {
    let mut tried = 0;
    for subject in subjects() {
        let data = overview(&subject.now).unwrap().areas.last().unwrap().offset / 4096;
        let good = read_all(&mut CowStore::open(subject.now.fork(), &arena()).unwrap());
        for block in subject.now.blocks().into_iter().filter(|block| *block < data).step_by(3) {
            tried += 1;
            let disk = subject.now.fork();
            disk.set_unreadable(block);
            let (report, what) = (check(&disk), format!("{} block {block}", subject.what));
            assert!(report.worst() <= Some(Severity::Repairable), "{what}: {:#?}", report.findings);
            let mut store = CowStore::open(disk, &arena()).unwrap_or_else(|e| panic!("{what}: {e}"));
            agree(&store, &report, &what);
            assert!(read_all(&mut store) == good, "{what}");
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn a_bad_superblock_copy_is_found_to_the_byte_and_two_are_fatal() {
    for subject in subjects() {
        let mut rng = Rng::new(5);
        for (copy, damage) in (0..2u64).flat_map(|copy| DAMAGES.map(|damage| (copy, damage))) {
            let Some((disk, byte)) = subject.damaged(damage, copy * 32768 + rng.below(300), &mut rng) else { continue };
            let what = format!("{} copy {copy} {damage:?} at {byte}", subject.what);
            assert_eq!(only(&disk, &what), (Class::Superblock, Severity::Repairable, byte), "{what}");
            disk.flip((1 - copy) * 32768 + 20, 1);
            let report = check(&disk);
            let fatal = (Class::Superblock, Severity::Fatal);
            assert!(report.findings.iter().any(|f| (f.class, f.severity) == fatal), "{what}: {:#?}", report.findings);
        }
    }
}

/// Data blocks that are read from their place, with the chunk, its version and its length.
fn placed(subject: &Subject) -> Vec<(ChunkKey, bool, u32, BlockView, u64)> {
    let data = overview(&subject.now).unwrap().areas.last().unwrap().offset;
    let mut out = Vec::new();
    for (key, _) in subject.store.scan(b"", usize::MAX) {
        let view = chunk(&subject.now, &key).unwrap().unwrap();
        for (is_staged, version) in [(false, view.committed), (true, view.staged)] {
            let Some(version) = version else { continue };
            assert!(version.good, "{}: {version:?}", subject.what);
            for block in version.blocks {
                let Some(disk) = block.disk else { continue };
                assert_eq!(block.recorded.as_ref(), Some(&block.found), "{}", subject.what);
                out.push((key.clone(), is_staged, version.len, block, data + disk * 4096));
            }
        }
    }
    out
}

#[test]
fn damaged_data_is_found_to_the_block() {
    let mut tried = 0;
    for subject in subjects() {
        let mut rng = Rng::new(9);
        for (key, _, len, block, offset) in placed(&subject) {
            for damage in DAMAGES {
                let inside = (len - block.block * 4096).min(4096);
                let at = offset + rng.below(u64::from(inside));
                let Some((disk, byte)) = subject.damaged(damage, at, &mut rng) else { continue };
                if byte >= offset + u64::from(inside) {
                    continue;
                }
                tried += 1;
                let report = check(&disk);
                let what = format!("{} {key} block {} {damage:?}: {:#?}", subject.what, block.block, report.findings);
                // Committed and staged version may both use it.
                assert!(!report.findings.is_empty() && report.findings.len() <= 2, "{what}");
                for f in &report.findings {
                    // For a shorter version the byte may be behind the end.
                    let at = if f.class == Class::Padding { byte } else { offset };
                    assert_eq!((f.severity, f.offset), (Severity::Damage, at), "{what}");
                    assert!(f.what.contains(&key.to_string()), "{what}");
                }
                assert!(report.findings.iter().any(|f| f.class == Class::Data), "{what}");
                let quick = fsck(&disk, &Options { quick: true }, &mut |_| {}).unwrap();
                assert!(quick.checked.dropped > 0 || quick.findings.is_empty(), "{what}");
            }
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn bytes_behind_the_end_of_a_chunk_are_found_to_the_byte() {
    let mut tried = 0;
    for subject in subjects() {
        for (key, _, len, block, offset) in placed(&subject) {
            let inside = len - block.block * 4096;
            if inside >= 4096 {
                continue;
            }
            tried += 1;
            let disk = subject.now.fork();
            let byte = offset + u64::from(inside);
            disk.flip(byte, 2);
            let report = check(&disk);
            let what = format!("{} {key} of {len} bytes: {:#?}", subject.what, report.findings);
            assert!(!report.findings.is_empty(), "{what}");
            for f in &report.findings {
                // A staged version may be longer: for it the byte is data.
                let longer = f.class == Class::Data && f.what.contains("staged");
                assert!(longer || (f.class, f.severity, f.offset) == (Class::Padding, Severity::Damage, byte), "{what}");
            }
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn bad_sectors_and_wrong_entries_of_the_table_are_found_and_cost_nothing() {
    let (mut sealed, mut stale) = (0, 0);
    for subject in subjects() {
        let mut rng = Rng::new(3);
        let table = overview(&subject.now).unwrap().areas[4].offset;
        let from_table: Vec<_> = placed(&subject).into_iter().filter(|(_, _, _, b, _)| b.source == "table").collect();
        let mut sectors: Vec<u64> = from_table.iter().map(|(_, _, _, b, _)| b.disk.unwrap() / 127).collect();
        sectors.dedup();
        for sector in sectors {
            let start = table + sector * 512;
            for damage in DAMAGES {
                let Some((disk, byte)) = subject.damaged(damage, start + rng.below(512), &mut rng) else { continue };
                let what = format!("{} table sector {sector} {damage:?} at {byte}", subject.what);
                let report = check(&disk);
                for f in &report.findings {
                    assert_eq!((f.class, f.severity), (Class::Table, Severity::Repairable), "{what}: {f}");
                    assert!(f.offset >= start && f.offset < start + 512, "{what}: {f}");
                }
                if matches!(damage, Damage::Stale) {
                    // Its seal is good; entries that still count may say the same.
                    stale += u64::from(report.findings.iter().any(|f| (f.offset - start - 4).is_multiple_of(4)));
                } else {
                    assert_eq!(report.findings.iter().filter(|f| f.offset == start).count(), 1, "{what}");
                    sealed += 1;
                }
                let mut store = CowStore::open(disk, &arena()).unwrap();
                read_all(&mut store);
            }
        }
    }
    assert!(sealed > 50 && stale > 0, "{sealed} {stale}");
}

/// Damage anywhere: no panic; the engine refuses a target exactly if the check calls it fatal, and reads of it fail exactly
/// if the check finds damaged data; whatever the check does not call damage is as it was.
#[test]
fn the_engine_and_the_check_agree_on_any_damage() {
    let mut counts = std::collections::BTreeMap::<Option<Severity>, u64>::new();
    for subject in subjects() {
        let whole = clean(&subject.now, &subject.what).checked;
        let good = read_all(&mut CowStore::open(subject.now.fork(), &arena()).unwrap());
        let blocks = subject.now.blocks();
        let data = overview(&subject.now).unwrap().areas.last().unwrap().offset / 4096;
        let structures = blocks.iter().filter(|b| **b < data).count() as u64;
        let mut rng = Rng::new(11);
        for round in 0..400 {
            let disk = subject.now.fork();
            if rng.below(3) == 0 {
                let block = blocks[rng.below(structures) as usize];
                disk.flip(block * 4096 + rng.below(40), 1);
                disk.flip((block + 1) * 4096 + rng.below(40), 1);
            }
            for _ in 0..rng.below(3) {
                // Often two blocks side by side, and in a structure.
                let among = if rng.below(2) == 0 { structures } else { blocks.len() as u64 };
                let block = blocks[rng.below(among) as usize] + rng.below(2);
                let at = if rng.below(3) == 0 { rng.below(96) } else { rng.below(4096) };
                let damage = DAMAGES[rng.below(4) as usize];
                if rng.below(8) == 0 {
                    disk.set_unreadable(block);
                }
                hit(&disk, &subject.before, damage, block * 4096 + at, &mut rng);
            }
            let report = check(&disk);
            let what = format!("{} round {round}: {:#?}", subject.what, report.findings);
            *counts.entry(report.worst()).or_default() += 1;
            let mut store = match CowStore::open(disk, &arena()) {
                Err(e) => {
                    assert_eq!(report.worst(), Some(Severity::Fatal), "{e}; {what}");
                    continue;
                }
                Ok(store) => store,
            };
            assert_ne!(report.worst(), Some(Severity::Fatal), "{what}");
            agree(&store, &report, &what);
            let (read, bad) = read_what_can_be(&mut store);
            let bad = bad.len() as u64;
            let data = report.findings.iter().filter(|f| f.class == Class::Data).count() as u64;
            // Bytes that are not to be had may be zero anyhow.
            let maybe =
                |f: &&Finding| f.class == Class::Padding || (f.class, f.severity) == (Class::Unreadable, Severity::Damage);
            let maybe = report.findings.iter().filter(maybe).count() as u64;
            assert!((data..=data + maybe).contains(&bad), "{bad} bad reads; {what}");
            if !report.is_damaged() && report.checked.records == whole.records {
                assert!(read == good, "{what}");
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.len() >= 4 && counts.contains_key(&Some(Severity::Fatal)), "{counts:?}");
}

/// Rubbish in place of a target: refused by name, no panic.
#[test]
fn rubbish_is_refused() {
    let mut rng = Rng::new(1);
    let disk = MemDisk::new();
    assert!(matches!(fsck(&disk, &Options::default(), &mut |_| {}), Err(OpenError::Empty { .. })));
    disk.poke(0, &rng.bytes(4096));
    assert!(matches!(fsck(&disk, &Options::default(), &mut |_| {}), Err(OpenError::NotATarget { .. })));
    // The superblock says that there is more than there is.
    let subject = Subject::new(StoreKind::Cow, 1);
    for block in subject.now.blocks().into_iter().filter(|b| *b >= 16) {
        subject.now.poke(block * 4096, &rng.bytes(4096));
    }
    assert_eq!(check(&subject.now).worst(), Some(Severity::Fatal));
}
