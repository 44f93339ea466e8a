//! Power cuts at every write and flush of a recorded history.
//!
//! At each of them some of the sectors that no flush has covered have reached the medium: all subsets if they are few,
//! chosen ones otherwise. Images that have the same bytes are opened once; what was found in them is compared with what
//! each moment allows. What must hold of every image: it opens; every chunk and the sessions show one of the states since
//! the last reported one; blocks and owners match one to one; a second power cut changes nothing; life goes on.

use std::collections::{BTreeMap, HashMap};

use catena_engine::disk::mem::{Cut, Event, Image, Loose, MemDisk};
use catena_engine::{CowStore, Stats};
use catena_types::{ChunkKey, ChunkStore};

use super::model::*;
use super::world::World;
use super::{REST, Rng, arena};

/// A history with every write and flush recorded.
pub struct Trace {
    pub seed: u64,
    pub base: Image,
    pub log: Vec<Event>,
    pub world: World<MemDisk>,
    /// Counters when the record started.
    before: Stats,
}

impl Trace {
    /// Records what `live` does with a world.
    pub fn record(seed: u64, disk: &MemDisk, mut world: World<MemDisk>, live: impl FnOnce(&mut World<MemDisk>)) -> Trace {
        let (base, before) = (disk.record(), world.store.stats());
        world.recorder = Some(disk.clone());
        world.turn();
        live(&mut world);
        world.turn();
        world.recorder = None;
        Trace { seed, base, log: disk.take_log(), world, before }
    }

    pub fn stats(&self) -> Stats {
        self.world.store.stats()
    }
}

#[derive(Default, Debug)]
pub struct Counts {
    /// Moments of histories, and choices of sectors at each.
    pub points: u64,
    pub states: u64,
    /// States that differ in their bytes: so many were opened and read.
    pub images: u64,
    pub histories: u64,
    pub dropped: u64,
    pub repaired: u64,
    /// Opened a second time after another power cut; cut while they were being opened; lived on.
    pub again: u64,
    pub nested: u64,
    /// Moments at which the process was killed instead.
    pub killed: u64,
    pub went_on: u64,
    pub checkpoints: u64,
    pub stalls: u64,
    /// Chunks moved together, and blocks given back to the file system.
    pub moved: u64,
    pub punched: u64,
}

/// What was found in an image: for each of the world's keys and for the small state, which of its distinct states.
struct Found {
    chunks: Vec<usize>,
    small: usize,
}

/// The distinct states of a history, and which of them each state is.
struct Distinct<T> {
    states: Vec<T>,
    which: Vec<usize>,
}

impl<T: Clone + PartialEq> Distinct<T> {
    fn of(history: &[T]) -> Distinct<T> {
        let mut distinct = Distinct { states: Vec::new(), which: Vec::new() };
        for state in history {
            let n = distinct.find(state).unwrap_or_else(|| {
                distinct.states.push(state.clone());
                distinct.states.len() - 1
            });
            distinct.which.push(n);
        }
        distinct
    }
    fn find(&self, state: &T) -> Option<usize> {
        self.states.iter().position(|s| s == state)
    }
}

/// Tries the power cuts of a trace.
pub struct Cuts<'a> {
    trace: &'a Trace,
    chunks: Vec<Distinct<ChunkState>>,
    small: Distinct<SmallState>,
    seen: HashMap<u64, Found>,
    rng: Rng,
    counts: &'a mut Counts,
    /// Sessions are never cleared, so that every committed update has its row.
    rows: bool,
}

impl<'a> Cuts<'a> {
    pub fn new(trace: &'a Trace, counts: &'a mut Counts) -> Cuts<'a> {
        let none = [ChunkState::default()];
        let states = |k| trace.world.chunks.get(k).map_or(&none[..], |h: &History<_>| h.all());
        counts.histories += 1;
        counts.checkpoints += trace.stats().checkpoints;
        counts.stalls += trace.stats().stalls;
        counts.moved += trace.stats().compacted - trace.before.compacted;
        counts.punched += (trace.stats().bytes_punched - trace.before.bytes_punched) / 4096;
        Cuts {
            trace,
            chunks: trace.world.keys.iter().map(|k| Distinct::of(states(k))).collect(),
            small: Distinct::of(trace.world.small.all()),
            seen: HashMap::new(),
            rng: Rng::new(trace.seed ^ 0xc4a5),
            counts,
            rows: trace.world.mix.clear_sessions == 0,
        }
    }

    /// Tries about `variants` choices of sectors at every moment, until `most` images have been opened in all.
    pub fn enumerate(&mut self, variants: usize, most: u64) {
        let mut image = self.trace.base.clone();
        let mut turn = 0;
        for (at, event) in self.trace.log.iter().enumerate() {
            image.apply(event);
            if let Event::Mark(n) = event {
                turn = *n as usize + 1;
                continue;
            }
            self.counts.points += 1;
            let loose = image.loose();
            for kept in choices(&loose, variants, &mut self.rng) {
                if self.counts.images >= most {
                    return;
                }
                let cut = image.cut_to(loose.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(l, _)| *l));
                self.counts.states += 1;
                let what = || format!("CATENA_CRASH_SEED={} event {at}, sectors kept {}", self.trace.seed, show(&loose, &kept));
                self.check(turn, &cut, &what());
            }
            if self.counts.points.is_multiple_of(12) && self.counts.images < most {
                self.kill(turn, &image, &format!("CATENA_CRASH_SEED={} event {at}, killed", self.trace.seed));
            }
        }
    }

    /// The process is killed, and the power fails while the target is opened again, or right after.
    fn kill(&mut self, turn: usize, image: &Image, what: &str) {
        self.counts.killed += 1;
        let disk = image.killed();
        self.cut_while_opening(turn, &disk, what);
        let found = all_of(&mut open(&disk, what), what);
        let after = all_of(&mut open(&disk.crash(|_, _| false), &format!("{what}, then cut")), what);
        assert!(found == after, "{what}: what an open has shown is lost in a power cut behind it");
    }

    fn check(&mut self, turn: usize, cut: &Cut<'_>, what: &str) {
        let name = cut.fingerprint();
        if !self.seen.contains_key(&name) {
            let disk = cut.disk();
            let before = disk.fork();
            let found = self.open(disk, what);
            self.possible(turn, &found, what);
            self.seen.insert(name, found);
            if self.counts.images.is_multiple_of(64) {
                self.cut_while_opening(turn, &before, what);
            }
        }
        self.possible(turn, &self.seen[&name], what);
    }

    /// Whether what was found is possible in a turn.
    fn possible(&self, turn: usize, found: &Found, what: &str) {
        // Reported before this turn; called before this turn ended.
        let bounds = &self.trace.world.bounds;
        let (before, after) = (&bounds[turn.saturating_sub(1)], &bounds[turn.min(bounds.len() - 1)]);
        for (n, key) in self.trace.world.keys.iter().enumerate() {
            let (lower, upper) = (before.chunks[n].0, after.chunks[n].1);
            let possible = &self.chunks[n].which[lower..=upper];
            let state = &self.chunks[n].states[found.chunks[n]];
            assert!(
                possible.contains(&found.chunks[n]),
                "{what}: {key} is none of its states {lower} to {upper} but {}: {}",
                found.chunks[n],
                state.versions()
            );
        }
        let (lower, upper) = (before.small.0, after.small.1);
        assert!(
            self.small.which[lower..=upper].contains(&found.small),
            "{what}: sessions {:?} are none of the states {lower} to {upper}",
            self.small.states[found.small]
        );
    }

    /// Opens an image and reads everything in it.
    fn open(&mut self, disk: MemDisk, what: &str) -> Found {
        self.counts.images += 1;
        let mut store = open(&disk, what);
        self.counts.dropped += u64::from(store.recovery().dropped > 0);
        self.counts.repaired += u64::from(store.recovery().superblock_repaired);
        let held = all_of(&mut store, what);
        let small = SmallState::of(&store);
        let space = store.space();
        assert_eq!(space.reserved, 0, "{what}");
        self.rows_are_there(&held, &small, what);
        let found = self.find(&held, &small, what);
        if self.counts.images.is_multiple_of(8) {
            self.counts.again += 1;
            // What an open has shown is durable: a second power cut right after it changes nothing.
            let mut again = open(&disk.crash(|_, _| false), &format!("{what}, again"));
            assert!(all_of(&mut again, what) == held, "{what}: the second open differs");
            assert_eq!(again.space(), space, "{what}: the second open differs");
            assert_eq!(SmallState::of(&again), small, "{what}: the second open differs");
        }
        if self.counts.images.is_multiple_of(48) {
            self.counts.went_on += 1;
            go_on(store, &disk, &self.trace.world.keys, held, self.rng.next(), what);
        }
        found
    }

    fn find(&self, held: &BTreeMap<ChunkKey, ChunkState>, small: &SmallState, what: &str) -> Found {
        let keys = &self.trace.world.keys;
        assert!(held.keys().all(|k| keys.contains(k)), "{what}: a chunk that was never written");
        let none = ChunkState::default();
        let chunk = |(n, key): (usize, &ChunkKey)| {
            let state = held.get(key).unwrap_or(&none);
            let found = self.chunks[n].find(state);
            found
                .unwrap_or_else(|| panic!("{what}: {key} is none of its states ever: {}", explain(state, &self.chunks[n].states)))
        };
        let small = self.small.find(small).unwrap_or_else(|| panic!("{what}: sessions {small:?} are none of their states ever"));
        Found { chunks: keys.iter().enumerate().map(chunk).collect(), small }
    }

    /// Every update that is committed has left its outcome in its session.
    fn rows_are_there(&self, held: &BTreeMap<ChunkKey, ChunkState>, small: &SmallState, what: &str) {
        let committed = held.iter().filter_map(|(k, s)| s.committed.as_ref().map(|(c, _)| (k, c)));
        for (key, c) in committed.filter(|(_, c)| self.rows && c.tag.client >= 100) {
            let row = small.sessions.get(&c.tag.session());
            assert!(row.is_some_and(|r| r.seq >= c.tag.seq), "{what}: {key} is committed by {} and its session is not", c.tag);
        }
    }

    /// The power fails again while an image is being opened, at every write and flush of that: nothing that was reported
    /// is lost by it.
    fn cut_while_opening(&mut self, turn: usize, disk: &MemDisk, what: &str) {
        let mut image = disk.record();
        open(disk, what);
        for (at, event) in disk.take_log().iter().enumerate() {
            image.apply(event);
            let loose = image.loose();
            for kept in choices(&loose, 3, &mut self.rng) {
                self.counts.nested += 1;
                let what = format!("{what}, cut again at event {at} of its open, sectors kept {}", show(&loose, &kept));
                let cut = image.cut_to(loose.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(l, _)| *l));
                let mut store = open(&cut.disk(), &what);
                let found = self.find(&all_of(&mut store, &what), &SmallState::of(&store), &what);
                self.possible(turn, &found, &what);
            }
        }
    }
}

/// In what a state differs from those with the same versions.
fn explain(state: &ChunkState, known: &[ChunkState]) -> String {
    let versions = |s: &ChunkState| (s.committed.as_ref().map(|(c, _)| c.ver), s.staged.as_ref().map(|s| s.ver));
    let alike: Vec<_> = known.iter().filter(|s| versions(s) == versions(state)).map(|s| s.differs_in(state)).collect();
    format!("{}; with these versions there are {alike:?}", state.versions())
}

fn all_of(store: &mut CowStore<MemDisk>, what: &str) -> BTreeMap<ChunkKey, ChunkState> {
    let (found, corrupt) = read_what_can_be(store);
    assert!(corrupt.is_empty(), "{what}: cannot be read: {corrupt:?}");
    found
}

fn open(disk: &MemDisk, what: &str) -> CowStore<MemDisk> {
    let mut store = CowStore::open(disk.clone(), &arena()).unwrap_or_else(|e| panic!("{what}: {e}"));
    // Reading everything would have chunks moved.
    store.set_background(REST);
    store.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    store
}

/// Life goes on: more operations, compared with a model that starts from what was found.
fn go_on(
    store: CowStore<MemDisk>,
    disk: &MemDisk,
    keys: &[ChunkKey],
    found: BTreeMap<ChunkKey, ChunkState>,
    seed: u64,
    what: &str,
) {
    let mut world = World::resume(store, seed, keys, found);
    for _ in 0..40 {
        world.step();
    }
    world.settle();
    world.compare();
    world.reopen(disk.crash(|_, _| false), &format!("{what}, later"));
    world.end();
}

/// Which of the loose sectors reached the medium. All subsets of a few; of more: none, all, a prefix, one, all but one,
/// whole writes, whole writes but one that is torn, whole blocks of 4096 bytes, and sectors at random.
pub fn choices(loose: &[Loose], variants: usize, rng: &mut Rng) -> Vec<Vec<bool>> {
    let n = loose.len();
    if n <= 3 || n <= 6 && variants >= 8 {
        return (0..1u32 << n).map(|bits| (0..n).map(|i| bits >> i & 1 == 1).collect()).collect();
    }
    let mut out = vec![vec![false; n], vec![true; n]];
    for variant in 2..variants.max(2) {
        let one = rng.below(n as u64) as usize;
        let (salt, odds) = (rng.next(), 1 + rng.below(9));
        let chance = |x: u64| Rng::new(salt ^ x).odds(odds, 10);
        let pick = |i: usize| match variant % 8 {
            2 => i <= one,
            3 => chance(loose[i].write as u64),
            4 => i != one,
            5 => i == one,
            6 if loose[i].write == loose[one].write => chance(loose[i].offset),
            6 => chance(loose[i].write as u64),
            7 => chance(loose[i].offset / 4096),
            _ => chance(loose[i].offset),
        };
        out.push((0..n).map(pick).collect());
    }
    out
}

/// A choice, to be pasted or compared: one letter per loose sector, a space between writes.
fn show(loose: &[Loose], kept: &[bool]) -> String {
    let mut out = String::new();
    for (i, (l, kept)) in loose.iter().zip(kept).enumerate() {
        if i > 0 && loose[i - 1].write != l.write {
            out.push(' ');
        }
        out.push(if *kept { '1' } else { '0' });
    }
    out
}
