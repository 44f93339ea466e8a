//! Power cuts at every write and flush: whatever subset of the unflushed sectors reached the medium, a reopened store
//! shows one of the states since the last reported one, for every chunk and for the sessions, and goes on working.
//!
//! `CATENA_CRASH_STATES` sets how many crash states are tried; `CATENA_CRASH_SEED` starts at another seed.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, missing_docs)]
mod common;

use std::collections::BTreeMap;
use std::rc::Rc;

use catena_engine::CowStore;
use catena_engine::disk::mem::{Event, Image, MemDisk};
use catena_types::{ChunkKey, ChunkStore};
use common::*;

const KEYS: usize = 5;

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

struct Trace {
    seed: u64,
    base: Image,
    log: Vec<Event>,
    world: World<MemDisk>,
}

/// A history of random operations with every write and flush recorded.
fn record(seed: u64) -> Trace {
    // Every other seed with a journal so small that checkpoints and laps are common, and appends have to wait.
    let (store, disk) = fresh(if seed % 4 < 2 { 60 } else { 160 }, if seed.is_multiple_of(2) { 16 } else { 40 });
    let base = disk.record();
    let mut world = World::new(store, seed, KEYS);
    world.with_clear = false;
    world.recorder = Some(disk.clone());
    world.turn();
    // Most disks are slow and do things in any order.
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
    world.settle();
    Trace { seed, base, log: disk.take_log(), world }
}

/// A history of bursts of long records, larger than the journal: what is applied goes into checkpoints directly.
fn record_bursts(seed: u64) -> Trace {
    let (store, disk) = fresh(400, 16);
    let base = disk.record();
    let mut world = World::new(store, seed, 0);
    world.keys = (0..110).map(|i| ChunkKey::new(format!("{i:0250}").as_bytes()).unwrap()).collect();
    world.with_clear = false;
    world.recorder = Some(disk.clone());
    world.turn();
    for round in 0..4 {
        for key in world.keys.clone() {
            let n = 1 + world.rng.below(3000) as usize;
            let payload = world.rng.bytes(n);
            world.stage_op(&key, catena_types::Op::write(0, n as u32), payload);
            if round > 0 && world.rng.below(30) == 0 {
                world.install(&key);
            }
        }
        world.settle();
        for key in world.keys.clone() {
            let state = world.state(&key);
            if let Some(staged) = &state.staged {
                world.commit(&key, &state, staged.ver);
            }
            if world.rng.below(50) == 0 {
                world.sync();
            }
        }
        for key in world.keys.clone().into_iter().step_by(2) {
            world.purge(&key);
            world.install(&key);
        }
    }
    world.settle();
    Trace { seed, base, log: disk.take_log(), world }
}

#[derive(Default)]
struct Counts {
    states: u64,
    dropped: u64,
    repaired: u64,
    went_on: u64,
    points: u64,
}

/// Tries crash states at every event of a trace.
fn enumerate(trace: &Trace, variants: u64, most: u64, counts: &mut Counts) {
    let mut rng = Rng::new(trace.seed ^ 0xc4a5);
    let mut image = trace.base.clone();
    let mut turn = 0;
    for (at, event) in trace.log.iter().enumerate() {
        image.apply(event);
        if let Event::Mark(n) = event {
            turn = *n as usize + 1;
            continue;
        }
        counts.points += 1;
        let n = if image.unflushed() == 0 { 1 } else { variants };
        for variant in 0..n {
            if counts.states >= most {
                return;
            }
            counts.states += 1;
            let disk = crash_state(&image, variant, &mut rng);
            let what = format!("CATENA_CRASH_SEED={} event {at} variant {variant}", trace.seed);
            check(trace, turn, disk, counts, &what, &mut rng);
        }
    }
}

/// Which sectors reached the medium: none, all, a prefix, whole writes at random, single sectors at random, pages at
/// random.
fn crash_state(image: &Image, variant: u64, rng: &mut Rng) -> MemDisk {
    let total = image.unflushed_sectors() as u64;
    match variant {
        0 => image.crash(|_, _| false),
        1 => image.crash(|_, _| true),
        2 => {
            let upto = rng.below(total + 1);
            let mut n = 0;
            image.crash(|_, _| {
                n += 1;
                n <= upto
            })
        }
        3 => {
            let salt = rng.next();
            image.crash(|w, _| Rng::new(salt ^ w as u64).below(2) == 0)
        }
        v if v % 2 == 0 => {
            let odds = 1 + rng.below(9);
            image.crash(|_, _| rng.below(10) < odds)
        }
        _ => {
            let (salt, odds) = (rng.next(), 1 + rng.below(9));
            image.crash(|w, s| Rng::new(salt ^ (w * 100_000 + s / 8) as u64).below(10) < odds)
        }
    }
}

fn check(trace: &Trace, turn: usize, disk: MemDisk, counts: &mut Counts, what: &str, rng: &mut Rng) {
    let mut store = CowStore::open(disk.clone(), &arena()).unwrap_or_else(|e| panic!("{what}: {e}"));
    counts.dropped += u64::from(store.recovery().dropped > 0);
    counts.repaired += u64::from(store.recovery().superblock_repaired);
    store.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = read_all(&mut store);
    let owned: u64 = store.space().used;
    assert_eq!(store.space().reserved, 0, "{what}");
    // Reported before this turn; called before this turn ended.
    let (before, after) =
        (&trace.world.bounds[turn.saturating_sub(1)], &trace.world.bounds[turn.min(trace.world.bounds.len() - 1)]);
    for key in &trace.world.keys {
        let state = found.get(key).cloned().unwrap_or_default();
        let Some(h) = trace.world.chunks.get(key) else {
            assert!(state == ChunkState::default(), "{what}: {key} was never written");
            continue;
        };
        let lower = before.chunks.get(key).map_or(0, |b| b.0);
        let upper = after.chunks.get(key).map_or(0, |b| b.1);
        assert!(
            h.states[lower..=upper].contains(&state),
            "{what}: {key} is none of its states {lower} to {upper}; committed {:?} staged {:?}",
            state.committed.map(|c| c.0),
            state.staged.map(|s| s.ver)
        );
    }
    let small = SmallState { sessions: store.sessions(None, usize::MAX).into_iter().collect(), floor: store.remove_floor() };
    assert!(trace.world.small.states[before.small.0..=after.small.1].contains(&small), "{what}: sessions {small:?}");
    for (key, state) in &found {
        let Some((c, _)) = state.committed.as_ref().filter(|(c, _)| c.tag.client >= 100) else { continue };
        let row = small.sessions.get(&c.tag.session());
        assert!(row.is_some_and(|r| r.seq >= c.tag.seq), "{what}: {key} is committed by {} and its session is not", c.tag);
    }
    if counts.states.is_multiple_of(4) {
        // What an open has shown is durable: a second power cut right after it changes nothing.
        let mut again = CowStore::open(disk.crash(|_, _| false), &arena()).unwrap_or_else(|e| panic!("{what}, again: {e}"));
        assert!(read_all(&mut again) == found && again.space().used == owned, "{what}: the second open differs");
    }
    if counts.states.is_multiple_of(16) {
        counts.went_on += 1;
        go_on(store, disk, &found, rng.next(), what);
    }
}

/// Life goes on: more operations, compared with a model that starts from what was found.
fn go_on(store: CowStore<MemDisk>, disk: MemDisk, found: &BTreeMap<ChunkKey, ChunkState>, seed: u64, what: &str) {
    let mut world = World::resume(store, seed, KEYS, found);
    for _ in 0..40 {
        world.step();
    }
    world.settle();
    assert_eq!(world.failed, None, "{what}");
    world.compare();
    let mut again = CowStore::open(disk.crash(|_, _| false), &arena()).unwrap_or_else(|e| panic!("{what}, later: {e}"));
    again.verify().unwrap();
    let all = read_all(&mut again);
    for (key, h) in &world.chunks {
        assert!(all.get(key).cloned().unwrap_or_default() == *h.now(), "{what}, later: {key} differs");
    }
}

#[test]
fn every_crash_state_is_one_of_the_states_since_the_last_report() {
    let most = env("CATENA_CRASH_STATES", 24_000);
    let mut counts = Counts::default();
    let mut seed = env("CATENA_CRASH_SEED", 1);
    let mut checkpoints = 0;
    let mut stalls = 0;
    while counts.states < most {
        let trace = record(seed);
        checkpoints += trace.world.store.stats().checkpoints;
        stalls += trace.world.store.stats().stalls;
        enumerate(&trace, 8, most, &mut counts);
        seed += 1;
    }
    for seed in 1..=3 {
        let trace = record_bursts(seed);
        checkpoints += trace.world.store.stats().checkpoints;
        stalls += trace.world.store.stats().stalls;
        let until = counts.states + most / 40;
        enumerate(&trace, 1 + seed, until, &mut counts);
    }
    println!(
        "{} crash states at {} points of {} histories ({checkpoints} checkpoints, {stalls} stalls): {} with records dropped, \
         {} with a superblock mended, {} went on",
        counts.states,
        counts.points,
        seed - env("CATENA_CRASH_SEED", 1),
        counts.dropped,
        counts.repaired,
        counts.went_on
    );
    assert!(stalls > 0 && counts.dropped > 0 && counts.repaired > 0 && checkpoints > 0 || most < 10_000);
}

/// A flipped bit anywhere: refused by name, or harmless, or `Corrupt` for the bytes it hit; never wrong bytes, no panic.
#[test]
fn a_flipped_bit_is_never_returned_as_good() {
    let (mut refused, mut corrupt, mut harmless, mut older) = (BTreeMap::<String, u64>::new(), 0, 0, 0);
    for seed in 1..=12 {
        let (store, disk) = fresh(160, 24);
        let mut world = World::new(store, seed, KEYS);
        for _ in 0..300 {
            world.step();
        }
        world.settle();
        let blocks = disk.blocks();
        let mut rng = Rng::new(seed);
        for _ in 0..250 {
            let copy = disk.fork();
            let block = blocks[rng.below(blocks.len() as u64) as usize];
            // Headers are at the start of blocks: hit them often.
            let at = if rng.below(3) == 0 { rng.below(96) } else { rng.below(4096) };
            copy.flip(block * 4096 + at, rng.below(8) as u8);
            match CowStore::open(copy, &arena()) {
                Err(e) => {
                    let name = format!("{e:?}");
                    *refused.entry(name.split([' ', '{']).next().unwrap().to_string()).or_default() += 1;
                }
                Ok(store) => {
                    let (bad, old) = read_tolerant(store, &world);
                    corrupt += u64::from(bad > 0);
                    older += u64::from(bad == 0 && old);
                    harmless += u64::from(bad == 0 && !old);
                }
            }
        }
    }
    println!("flips: refused {refused:?}, corrupt reads {corrupt}, lost an unconfirmed end {older}, harmless {harmless}");
    assert!(corrupt > 0 && harmless > 0 && refused.is_empty(), "one flipped bit costs no target");
}

/// Reads everything; every success must be what the model had once under that version. Gives the number of corrupt reads,
/// and whether the state is not the last one.
fn read_tolerant(mut store: CowStore<MemDisk>, world: &World<MemDisk>) -> (u64, bool) {
    let mut bad = 0;
    let mut old = false;
    for (key, meta) in store.scan(b"", usize::MAX) {
        let h = &world.chunks[&key];
        let versions = meta.committed.iter().map(|c| c.ver).chain(meta.staged.iter().filter(|s| !s.remove).map(|s| s.ver));
        for ver in versions {
            store.read(1, &key, ver, 0, u32::MAX);
            let mut done = Vec::new();
            while store.busy() {
                store.turn(0, &mut done);
            }
            let Some(catena_types::Done::Read { result, .. }) = done.pop() else { panic!("{done:?}") };
            match result {
                Err(e) => {
                    assert_eq!(e, catena_types::Code::Corrupt);
                    bad += 1;
                }
                Ok((bytes, _)) => {
                    let known = h.states.iter().flat_map(contents).any(|(v, c)| v == ver && c[..] == bytes[..]);
                    assert!(known, "{key} version {ver}: wrong bytes returned as good");
                }
            }
        }
        old |= meta.committed != h.now().committed.as_ref().map(|(c, _)| *c);
    }
    (bad, old)
}

fn contents(state: &ChunkState) -> impl Iterator<Item = (u64, Rc<Vec<u8>>)> {
    let committed = state.committed.iter().map(|(c, b)| (c.ver, b.clone()));
    committed.chain(state.staged.iter().map(|s| (s.ver, s.content.clone())))
}
