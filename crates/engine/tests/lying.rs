//! A disk that lies: rot, sectors that are lost or come back old, writes that land elsewhere, flushes that do nothing.
//!
//! What must hold of every lie: no wrong byte is returned as good, nothing panics, and what is lost is named – a read is
//! answered `Corrupt`, a target says why it has failed, an open says why it refuses. And a single bad sector never costs
//! more than the chunk or the record it hits. The tables [`at_rest`] and [`in_flight`] say what each lie may cost in each
//! region; they are exact: an entry that no case needs is a failure too, so that they can only get tighter.
//!
//! `CATENA_LIES` scales the number of cases (default 1).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use catena_engine::disk::mem::{Event, Fault, MemDisk, SECTOR, What};
use catena_engine::offline::inspect::journal;
use catena_engine::offline::{Options, Severity, fsck};
use catena_engine::{CowStore, OpenError, Params, StoreKind};
use catena_types::{ChunkKey, ChunkStore, Code, Op, Ver};
use common::*;

const SECTOR64: u64 = SECTOR as u64;

/// What a lie may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    /// One chunk has a block that cannot be read.
    Chunk,
    /// More than one has.
    Chunks,
    /// The last append of the journal is gone, or part of it: updates acknowledged at the very end.
    End,
    /// The last two are.
    Ends,
    /// The open refuses the target and says why.
    Target,
}
use Cost::{Chunk, Chunks, End, Ends, Target};

/// What happens to one sector (or block) of a medium nobody is using.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rot {
    /// A bit is flipped.
    Flip,
    /// 512 bytes are zero, or random, or what they were before they were last written.
    ZeroSector,
    JunkSector,
    OldSector,
    /// 4096 bytes are.
    ZeroBlock,
    OldBlock,
    /// A block cannot be read.
    Unreadable,
}
const ROTS: [Rot; 7] =
    [Rot::Flip, Rot::ZeroSector, Rot::JunkSector, Rot::OldSector, Rot::ZeroBlock, Rot::OldBlock, Rot::Unreadable];

/// What rot in one place of a region may cost.
///
/// `End` for data: rot in what the very last append wrote cannot be told from a torn write.
fn at_rest(region: Region) -> &'static [Cost] {
    match region {
        Region::Superblock | Region::Journal | Region::Checkpoint | Region::Index | Region::Table => &[],
        Region::Data => &[Chunk, End],
    }
}

/// A settled store, everything in it durable, and what its medium was before.
struct Past {
    world: World<MemDisk>,
    disk: MemDisk,
    /// What each sector held before it was last written.
    before: HashMap<u64, Vec<u8>>,
}

fn world(kind: StoreKind, seed: u64) -> (World<MemDisk>, MemDisk) {
    let (store, disk) = fresh(kind, 200, 16);
    let mut world = World::new(store, seed, 5);
    world.sizes = vec![8192, 16384, 64 << 10];
    world.mix = WRITES;
    (world, disk)
}

fn past(kind: StoreKind, seed: u64) -> Past {
    let (mut world, disk) = world(kind, seed);
    disk.record();
    for _ in 0..600 {
        world.step();
    }
    world.settle();
    let mut before = HashMap::new();
    let mut now: HashMap<u64, Vec<u8>> = HashMap::new();
    for event in disk.take_log() {
        let Event::Write { offset, data } = event else { continue };
        for (n, bytes) in data.chunks(SECTOR).enumerate() {
            let at = offset + n as u64 * SECTOR64;
            before.insert(at, now.insert(at, bytes.to_vec()).unwrap_or_else(|| vec![0; SECTOR]));
        }
    }
    Past { world, disk, before }
}

/// Blocks of a region that hold anything.
fn blocks(params: &Params, disk: &MemDisk, part: Region) -> Vec<u64> {
    let range = region(params, part);
    disk.blocks().into_iter().filter(|block| range.contains(&(block * 4096))).collect()
}

impl Past {
    /// Blocks of a region that hold anything.
    fn blocks(&self, region: Region) -> Vec<u64> {
        blocks(self.world.store.params(), &self.disk, region)
    }

    /// A copy of the medium, rotten in one place of `block`; `None` if that changes nothing.
    fn rotten(&self, block: u64, rot: Rot, rng: &mut Rng) -> Option<(MemDisk, u64)> {
        let disk = self.disk.fork();
        // What matters often lies at the start of a block.
        let sector = if rng.odds(1, 3) { 0 } else { rng.below(8) };
        let (mut at, mut len) = (block * 4096 + sector * SECTOR64, SECTOR);
        if matches!(rot, Rot::ZeroBlock | Rot::OldBlock) {
            (at, len) = (block * 4096, 4096);
        }
        let mut bytes = disk.peek(at, len);
        match rot {
            Rot::Unreadable => {
                disk.set_unreadable(block);
                return Some((disk, block));
            }
            Rot::Flip => {
                let byte = if rng.odds(1, 3) { rng.below(96) } else { rng.below(len as u64) };
                bytes[byte as usize] ^= 1 << rng.below(8);
            }
            Rot::ZeroSector | Rot::ZeroBlock => bytes.fill(0),
            Rot::JunkSector => bytes = rng.bytes(len).to_vec(),
            Rot::OldSector | Rot::OldBlock => {
                for (n, part) in bytes.chunks_mut(SECTOR).enumerate() {
                    part.copy_from_slice(self.before.get(&(at + n as u64 * SECTOR64))?);
                }
            }
        }
        let changes = bytes != disk.peek(at, len);
        disk.poke(at, &bytes);
        changes.then_some((disk, block))
    }
}

/// Opens a medium and finds out what is missing. Everything that is there must be right; what is not must be later than
/// `known[1]`, and is the `End` if it is later than `known[0]`.
fn judge(world: &World<MemDisk>, disk: &MemDisk, known: [&Known; 2], what: &str) -> (BTreeSet<Cost>, Option<Opened>) {
    let mut store = match CowStore::open(disk.clone(), &arena()) {
        Ok(store) => store,
        Err(e) => {
            assert!(!matches!(e, OpenError::Inconsistent { .. }), "{what}: damage has passed for good: {e}");
            assert!(e.to_string().contains("memory disk"), "{what}: {e}");
            return (BTreeSet::from([Target]), None);
        }
    };
    store.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    let (found, corrupt) = read_what_can_be(&mut store);
    let mut costs = BTreeSet::new();
    let (none, nothing) = (ChunkState::default(), History::default());
    let keys: BTreeSet<_> = found.keys().chain(world.chunks.keys()).collect();
    for key in keys {
        let (h, state) = (world.chunks.get(key).unwrap_or(&nothing), found.get(key).unwrap_or(&none));
        let unreadable: Vec<Ver> = corrupt.iter().filter(|(k, _)| k == key).map(|(_, ver)| *ver).collect();
        let fits = |from: usize| h.since(from).iter().any(|s| s.shows_as(state, &unreadable));
        let from = [h.lower, known[0].chunks.get(key).copied().unwrap_or(0), known[1].chunks.get(key).copied().unwrap_or(0)];
        let lost = from.into_iter().position(fits);
        let text = || format!("{what}: {key} has lost more than the end: {}; last: {}", state.versions(), h.now().versions());
        costs.extend([None, Some(End), Some(Ends)][lost.unwrap_or_else(|| panic!("{}", text()))]);
    }
    let small = SmallState::of(&store);
    let from = [world.small.lower, known[0].small, known[1].small];
    let lost = from.into_iter().position(|from| world.small.since(from).contains(&small));
    costs.extend([None, Some(End), Some(Ends)][lost.unwrap_or_else(|| panic!("{what}: sessions are {small:?}"))]);
    let hit: BTreeSet<_> = corrupt.iter().map(|(key, _)| key).collect();
    match hit.len() {
        0 => {}
        1 => drop(costs.insert(Chunk)),
        _ => drop(costs.insert(Chunks)),
    }
    (costs, Some(Opened { store, found, corrupt }))
}

struct Opened {
    store: CowStore<MemDisk>,
    found: BTreeMap<ChunkKey, ChunkState>,
    corrupt: Vec<(ChunkKey, Ver)>,
}

impl Opened {
    /// One bad block makes one block of a version unreadable, and nothing else; it can be overwritten whole.
    fn one_block_is_lost(&mut self, what: &str) {
        for (key, ver) in self.corrupt.clone() {
            let state = &self.found[&key];
            let size = state.chunk_size;
            let bad: Vec<u32> = (0..size / 4096)
                .filter(|n| direct::read_at(&mut self.store, &key, ver, n * 4096, 4096) == Err(Code::Corrupt))
                .collect();
            assert_eq!(bad.len(), 1, "{what}: {key} version {ver}: one block is bad, these cannot be read: {bad:?}");
            let next = state.committed.as_ref().filter(|(c, _)| c.ver == ver && state.staged.is_none());
            if let Some((c, _)) = next.filter(|(c, _)| c.len >= (bad[0] + 1) * 4096) {
                let request = direct::sized(&key, c.ver + 1, Op::write(bad[0] * 4096, 4096), &[7; 4096], size);
                direct::update(&mut self.store, request);
                let mended = direct::read(&mut self.store, &key, ver + 1);
                assert!(mended.is_ok_and(|b| b[bad[0] as usize * 4096..][..4096] == [7; 4096]), "{what}: {key} is not mended");
            }
        }
    }

    /// What is lost is replaced, and life goes on.
    fn go_on(mut self, disk: &MemDisk, keys: &[ChunkKey], seed: u64, what: &str) {
        let mut lost: Vec<_> = self.corrupt.drain(..).map(|(key, _)| key).collect();
        lost.dedup();
        for (n, key) in lost.into_iter().enumerate() {
            if n % 2 == 0 {
                self.store.purge(1, &key);
            } else {
                let committed = direct::committed(u64::MAX / 2, b"from the chain");
                self.store.install(2, &key, 8192, committed, bytes::Bytes::from_static(b"from the chain").into()).unwrap();
            }
        }
        direct::turns(&mut self.store);
        let held = read_all(&mut self.store);
        let mut world = World::resume(self.store, seed, keys, held);
        for _ in 0..40 {
            world.step();
        }
        world.settle();
        world.compare();
        world.reopen(disk.crash(|_, _| false), what);
        world.end();
    }
}

type Seen = BTreeMap<String, BTreeMap<String, u64>>;

/// Counts a case, and checks it against what is allowed.
fn note(seen: &mut Seen, case: String, costs: &BTreeSet<Cost>, allowed: &[Cost], what: &str) {
    let text = if costs.is_empty() { "nothing".to_string() } else { format!("{costs:?}") };
    *seen.entry(case).or_default().entry(text).or_default() += 1;
    assert!(costs.iter().all(|c| allowed.contains(c)), "{what} costs {costs:?}; allowed: {allowed:?}");
}

fn show(seen: &Seen) {
    seen.iter().for_each(|(case, costs)| println!("{case:>44}: {costs:?}"));
}

/// Says which entries of a table no case has needed.
fn idle(seen: &BTreeSet<Cost>, allowed: &[Cost], what: &str) {
    let idle: Vec<_> = allowed.iter().filter(|c| !seen.contains(c)).collect();
    if !idle.is_empty() {
        println!("{what} has not cost {idle:?}, which the table allows");
    }
}

fn rot_in(region: Region) {
    let mut seen = Seen::new();
    let (mut rotten, mut unreadable) = (BTreeSet::new(), BTreeSet::new());
    let mut hits = 0u64;
    for (seed, &kind) in (1..=6 * env("CATENA_LIES", 1)).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let past = past(kind, seed);
        let blocks = past.blocks(region);
        let mut rng = Rng::new(seed);
        for rot in ROTS.into_iter().cycle().take(140) {
            let Some((disk, block)) = past.rotten(rng.pick(&blocks), rot, &mut rng) else { continue };
            let what = format!("seed {seed}: {rot:?} in block {block} ({region:?})");
            let (costs, opened) = judge(&past.world, &disk, [&past.world.before_appends[0]; 2], &what);
            note(&mut seen, format!("{rot:?}"), &costs, at_rest(region), &what);
            if rot == Rot::Unreadable { &mut unreadable } else { &mut rotten }.extend(costs.iter().copied());
            let Some(mut opened) = opened else { continue };
            opened.one_block_is_lost(&what);
            hits += 1;
            if hits.is_multiple_of(4) {
                // What a repair wrote is not in the model: start from a fresh look.
                look(&disk).go_on(&disk, &past.world.keys, rng.next(), &what);
            }
        }
    }
    println!("{region:?}");
    show(&seen);
    assert!(region != Region::Data || rotten.contains(&Chunk) && unreadable.contains(&Chunk), "rot has not hit any chunk");
    idle(&rotten, at_rest(region), "rot");
    idle(&unreadable, at_rest(region), "an unreadable block");
}

/// Reads what is there, whatever it should be.
fn look(disk: &MemDisk) -> Opened {
    let mut store = direct::open(disk.clone());
    let (found, corrupt) = read_what_can_be(&mut store);
    Opened { store, found, corrupt }
}

#[test]
fn the_end_of_the_journal_is_written_again() {
    direct::the_end_of_the_journal_is_written_again();
}

#[test]
fn rot_in_the_last_append_undoes_a_commit() {
    direct::rot_in_the_last_append_undoes_a_commit();
}

#[test]
fn rot_in_the_superblock() {
    rot_in(Region::Superblock);
}

#[test]
fn rot_in_the_journal() {
    rot_in(Region::Journal);
}

#[test]
fn rot_in_a_checkpoint() {
    rot_in(Region::Checkpoint);
}

#[test]
fn rot_in_the_index() {
    rot_in(Region::Index);
}

#[test]
fn rot_in_the_checksum_table() {
    rot_in(Region::Table);
}

#[test]
fn rot_in_data() {
    rot_in(Region::Data);
}

/// The rest of a chunk's last block is zero on disk, and an extension makes it part of the chunk without writing it: rot
/// there costs nothing or that block, and is never shown.
#[test]
fn rot_behind_the_end_of_a_chunk_is_never_shown() {
    for &kind in KINDS.iter() {
        for read_first in [false, true] {
            let (mut store, disk) = fresh(kind, 64, 16);
            let (key, bytes) = (direct::key("k"), vec![1; 5000]);
            direct::write(&mut store, &key, 1, Op::write(0, 5000), &bytes);
            store.close(&mut Vec::new()).unwrap();
            let disk = disk.fork();
            let block = disk.blocks().into_iter().rfind(|b| disk.peek(b * 4096, 904) == vec![1; 904]).unwrap();
            disk.poke(block * 4096 + 2048, &[7; SECTOR]);
            let mut store = direct::open(disk);
            let right = |read: Result<bytes::Bytes, Code>, wanted: &[u8], what: &str| match read {
                Ok(read) => assert!(read == wanted, "{kind:?}, {what}: wrong bytes"),
                Err(e) => assert_eq!(e, Code::Corrupt, "{kind:?}, {what}"),
            };
            if read_first {
                right(direct::read(&mut store, &key, 1), &bytes, "the whole");
                right(direct::read_at(&mut store, &key, 1, 4096, 904), &bytes[4096..], "the last block");
            }
            direct::write(&mut store, &key, 2, Op::extend(8192), b"");
            right(direct::read_at(&mut store, &key, 2, 4096, 4096), &[&[1; 904][..], &[0; 3192]].concat(), "the block, extended");
            right(direct::read_at(&mut store, &key, 2, 6000, 500), &[0; 500], "what was rotten");
        }
    }
}

/// The last two appends of a journal: where they lie, the later one first.
fn last_two(disk: &MemDisk) -> [(u64, usize); 2] {
    let mut live: Vec<_> = journal(disk).unwrap().appends.into_iter().filter(|a| a.live).collect();
    live.sort_by_key(|a| std::cmp::Reverse(a.append));
    [0, 1].map(|n| (live[n].offset, live[n].blocks as usize * 4096))
}

/// An append that has landed on the one before says that this one was durable: its loss is named. Bytes of anything else
/// over the last appends are the one thing that cannot be told from an end that was torn: nothing on the target says that
/// they were there. Where the second last one survives, only the last is lost.
#[test]
fn what_a_misdirected_write_to_the_journal_costs() {
    // In place there may be an append behind the last record, which says that this one is durable.
    let (mut store, disk) = fresh(StoreKind::Cow, 64, 40);
    for n in 1..=3 {
        direct::write(&mut store, &direct::key("k"), n, Op::write(0, 5), b"bytes");
    }
    let before = disk.fork();
    direct::write(&mut store, &direct::key("k"), 4, Op::write(0, 5), b"later");
    let [(last, size), (second, room)] = last_two(&disk);
    // A commit's record goes with the next update's.
    let versions = |disk: MemDisk| {
        let meta = CowStore::open(disk, &arena()).unwrap().meta(&direct::key("k")).unwrap();
        (meta.committed.unwrap().ver, meta.staged.unwrap().ver)
    };
    assert_eq!(versions(disk.fork()), (3, 4));

    let hit = disk.fork();
    hit.poke(second, &disk.peek(last, size));
    hit.poke(last, &before.peek(last, size));
    let refused = CowStore::open(hit.clone(), &arena()).err();
    assert!(matches!(refused, Some(OpenError::CorruptJournal { .. })), "{refused:?}");
    assert_eq!(fsck(&hit, &Options::default(), &mut |_| {}).unwrap().worst(), Some(Severity::Fatal));

    let hit = disk.fork();
    hit.poke(last, &vec![7; size]);
    assert_eq!(versions(hit), (2, 3), "the last append");

    let hit = disk.fork();
    hit.poke(second, &vec![7; room + size]);
    assert_eq!(versions(hit), (1, 2), "the last two");
}

/// A disk that refuses everything has failed; it does not hold a damaged target.
#[test]
fn a_disk_that_refuses_everything_is_named() {
    let (mut store, disk) = fresh(KINDS[0], 64, 400);
    direct::write(&mut store, &direct::key("k"), 1, Op::write(0, 5), b"bytes");
    let rings = region(store.params(), Region::Journal);
    for blocks in [rings.start / 4096..rings.end / 4096, 0..9] {
        let bad = disk.fork();
        blocks.for_each(|block| bad.set_unreadable(block));
        let refused = CowStore::open(bad, &arena()).err();
        assert!(matches!(refused, Some(OpenError::Io { .. })), "{refused:?}");
    }
}

/// Rot anywhere on top of a power cut: no wrong byte, no panic, and everything wrong is named.
#[test]
fn rot_on_top_of_a_power_cut() {
    let (mut refused, mut corrupt, mut good) = (0, 0, 0);
    for (seed, &kind) in (1..=30 * env("CATENA_LIES", 1)).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let (mut world, disk) = world(kind, seed);
        let mut rng = Rng::new(seed);
        disk.set_held(true);
        world.slow = Some(disk.clone());
        for n in 0..300 {
            world.step();
            world.turn();
            if n % 10 > 0 {
                continue;
            }
            let odds = rng.below(11);
            let cut = disk.crash(|_, _| rng.odds(odds, 10));
            let block = rng.pick(&cut.blocks());
            if rng.odds(1, 4) {
                cut.set_unreadable(block);
            } else {
                let junk = rng.bytes(SECTOR);
                let at = block * 4096 + rng.below(8) * SECTOR64;
                cut.poke(at, if rng.odds(1, 2) { &junk } else { &[0; SECTOR] });
            }
            let Ok(mut store) = CowStore::open(cut, &arena()) else {
                refused += 1;
                continue;
            };
            let (found, unreadable) = read_what_can_be(&mut store);
            for (key, state) in &found {
                let unreadable: Vec<Ver> = unreadable.iter().filter(|(k, _)| k == key).map(|(_, ver)| *ver).collect();
                let known = world.chunks[key].all().iter().any(|s| s.shows_as(state, &unreadable));
                assert!(known, "seed {seed} step {n}: {key} was never {}", state.versions());
            }
            corrupt += u64::from(!unreadable.is_empty());
            good += u64::from(unreadable.is_empty());
        }
    }
    println!("{refused} refused, {corrupt} with corrupt chunks, {good} good");
    assert!(corrupt > 0 && good > 0);
}

/// What a disk in use may do wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lie {
    /// A write to this region is acknowledged and not done, or all but one sector of it.
    Lost(Region),
    LostSector(Region),
    /// A write to the first region lands in a block of the second.
    Misdirected(Region, Region),
    /// A flush is acknowledged and does nothing.
    LostFlush,
    /// A flush fails, and what it should have made durable is shown by reads until the power fails.
    ForgottenFlush,
}

/// How the process ended afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Kill,
    PowerCut,
}

/// What a single lie may cost, and under which name that is summed up.
fn in_flight(lie: Lie, ending: Ending) -> (&'static str, &'static [Cost]) {
    use Region::{Checkpoint, Data, Index, Journal, Superblock, Table};
    match (lie, ending) {
        (Lie::Lost(Data) | Lie::LostSector(Data), _) => ("a lost data write", &[Chunk, End]),
        // In place, what has been applied after the commit has taken the place of what the record's loss brings back.
        (Lie::Lost(Journal), _) => ("a lost journal write", &[Chunk, Chunks, End, Target]),
        (Lie::LostSector(Journal), _) => ("a lost journal sector", &[]),
        (Lie::Lost(Checkpoint | Index), _) => ("a lost checkpoint write", &[Target]),
        (Lie::LostSector(Checkpoint | Index), _) => ("a lost checkpoint sector", &[]),
        (Lie::Lost(Table) | Lie::LostSector(Table), _) => ("a lost checksum page", &[]),
        (Lie::Lost(Superblock) | Lie::LostSector(Superblock), Ending::Kill) => ("a lost superblock write", &[]),
        (Lie::Lost(Superblock) | Lie::LostSector(Superblock), Ending::PowerCut) => {
            ("a lost superblock write, then a power cut", &[Target])
        }
        // The append that lies under it is known from the one that was written there.
        (Lie::Misdirected(Journal, Journal), _) => ("a journal write misdirected in the journal", &[Chunk, Chunks, End, Target]),
        // The last appends may lie under it, and nothing else says that they were there.
        (Lie::Misdirected(_, Journal), _) => ("a write misdirected into the journal", &[Chunk, Chunks, End, Ends, Target]),
        // Two places are hit: the one written to, and the one that should have been.
        (Lie::Misdirected(..), _) => ("a misdirected write", &[Chunk, Chunks, End, Target]),
        (Lie::LostFlush, Ending::Kill) => ("a lost flush", &[]),
        (Lie::LostFlush, Ending::PowerCut) => ("a lost flush, then a power cut", &[Chunk, Chunks, End, Target]),
        (Lie::ForgottenFlush, Ending::Kill) => ("a forgotten flush", &[]),
        // An open takes what the kernel shows for durable once its own flush has succeeded.
        (Lie::ForgottenFlush, Ending::PowerCut) => ("a forgotten flush, then a power cut", &[Chunk, Chunks, End, Target]),
    }
}

fn lies() -> Vec<Lie> {
    let all = Region::ALL;
    let lost = all.into_iter().flat_map(|r| [Lie::Lost(r), Lie::LostSector(r)]);
    let misdirected = all.into_iter().flat_map(|from| all.map(|to| Lie::Misdirected(from, to)));
    lost.chain(misdirected).chain([Lie::LostFlush, Lie::ForgottenFlush]).collect()
}

/// Injects a lie; it may strike later, or never.
fn inject(params: &Params, disk: &MemDisk, lie: Lie, rng: &mut Rng) {
    let span = |r: Region| region(params, r);
    let skip = rng.below(6);
    match lie {
        Lie::Lost(r) => disk.inject(What::Write, span(r), skip, Fault::Lost),
        Lie::LostSector(r) => {
            // What matters often lies at the start.
            let sector = if rng.odds(1, 2) { 0 } else { rng.below(64) };
            disk.inject(What::Write, span(r), skip, Fault::LostSector(sector as usize));
        }
        Lie::Misdirected(from, to) => {
            let blocks = blocks(params, disk, to);
            let to = if blocks.is_empty() { span(to).start } else { rng.pick(&blocks) * 4096 };
            disk.inject(What::Write, span(from), skip, Fault::Misdirected(to));
        }
        Lie::LostFlush => disk.inject(What::Flush, 0..0, skip, Fault::Lost),
        Lie::ForgottenFlush => disk.inject(What::Flush, 0..0, skip, Fault::Forgets(libc::EIO)),
    }
}

/// Runs a world on a disk that lies once, and looks at what is left; `None` if the lie never struck.
fn a_lie(kind: StoreKind, lie: Lie, ending: Ending, seed: u64, failures: &mut BTreeMap<String, u64>) -> Option<BTreeSet<Cost>> {
    let what = format!("seed {seed}: {lie:?}, {ending:?}");
    let (mut world, disk) = world(kind, seed);
    let mut rng = Rng::new(seed);
    for _ in 0..150 {
        world.step();
    }
    if rng.odds(1, 2) {
        world.settle();
    }
    world.faulty = Some(disk.clone());
    inject(world.store.params(), &disk, lie, &mut rng);
    // Until it has struck, and a little on.
    let mut left = if rng.odds(1, 4) { 150 } else { rng.below(25) };
    for _ in 0..400 {
        if world.failed.is_none() && (disk.struck() == 0 || left > 0) {
            world.step();
            left -= disk.struck().min(left);
        }
    }
    if disk.struck() == 0 {
        return None;
    }
    if world.failed.is_none() && ending == Ending::Kill {
        world.settle();
    }
    if let Some(reason) = &world.failed {
        let named = ["does not match its checksum", "flushing"].iter().find(|n| reason.contains(**n));
        *failures.entry(format!("{lie:?}: {}", named.unwrap_or_else(|| panic!("{what}: {reason}")))).or_default() += 1;
    }
    let (after, known) = match (lie, ending) {
        (Lie::ForgottenFlush, _) => match live_on_what_is_shown(&mut world, &disk, ending, &mut rng) {
            Some(lived) => lived,
            None => return Some(BTreeSet::from([Target])),
        },
        (_, Ending::Kill) => (disk.fork(), world.before_appends.clone()),
        (_, Ending::PowerCut) => {
            let odds = rng.below(11);
            // With the power goes an append that was on its way, behind the one that the disk has lied about.
            let [_, before @ ..] = world.before_appends.clone();
            (disk.crash(|_, _| rng.odds(odds, 10)), [before[0].clone(), before[1].clone(), Known::default()])
        }
    };
    let (costs, opened) = judge(&world, &after, [&known[0], &known[1]], &what);
    if let Some(opened) = opened.filter(|_| seed.is_multiple_of(3)) {
        opened.go_on(&after, &world.keys, rng.next(), &what);
    }
    Some(costs)
}

/// After a forgotten flush the target is opened again on the same kernel, which shows what will never be durable, and goes
/// on working. Gives what is left of it at last, and what was known durable before.
fn live_on_what_is_shown(
    world: &mut World<MemDisk>,
    disk: &MemDisk,
    ending: Ending,
    rng: &mut Rng,
) -> Option<(MemDisk, [Known; 3])> {
    disk.clear_faults();
    let mut store = CowStore::open(disk.clone(), &arena()).ok()?;
    let found = read_all(&mut store);
    world.assert_possible(&found, &SmallState::of(&store), "after a forgotten flush");
    let known = world.go_on_behind(store, found);
    for _ in 0..rng.below(100) {
        world.step();
    }
    let after = if ending == Ending::Kill { disk.fork() } else { disk.crash(|_, _| rng.odds(1, 2)) };
    Some((after, [known.clone(), known.clone(), known]))
}

#[test]
fn a_disk_that_lies_once_is_found_out() {
    let (mut seen, mut failures) = (Seen::new(), BTreeMap::new());
    let mut sums = BTreeMap::<&str, (BTreeSet<Cost>, &[Cost])>::new();
    for (lie, ending) in lies().into_iter().flat_map(|lie| [(lie, Ending::Kill), (lie, Ending::PowerCut)]) {
        let (name, allowed) = in_flight(lie, ending);
        for (seed, &kind) in (1..=16 * env("CATENA_LIES", 1)).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
            let Some(costs) = a_lie(kind, lie, ending, seed, &mut failures) else { continue };
            note(&mut seen, format!("{lie:?} {ending:?}"), &costs, allowed, &format!("seed {seed}: {lie:?}, {ending:?}"));
            sums.entry(name).or_insert((BTreeSet::new(), allowed)).0.extend(costs);
        }
    }
    show(&seen);
    println!("failed while in use: {failures:?}");
    assert_eq!(seen.len(), 2 * lies().len(), "some lie never struck");
    sums.into_iter().for_each(|(name, (costs, allowed))| idle(&costs, allowed, name));
}
