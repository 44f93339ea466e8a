//! The driver: random operations on a store and on the model of it, and the comparison of both.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use catena_engine::disk::mem::{MemDisk, What};
use catena_engine::{Background, CowStore, Disk};
use catena_types::crc::crc32c;
use catena_types::*;

use super::model::*;
use super::{REST, Rng, apply};

/// Chunk sizes of a world that is not told otherwise.
pub const PLAIN: &[u32] = &[64 << 10];

/// How often a step does what.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub update: u64,
    pub read: u64,
    pub install: u64,
    pub purge: u64,
    pub sync: u64,
    pub put_session: u64,
    pub clear_sessions: u64,
    pub floor: u64,
    pub turn: u64,
    /// Of a hundred updates, so many are removes.
    pub removes: u64,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix {
            update: 180,
            read: 120,
            install: 16,
            purge: 8,
            sync: 8,
            put_session: 8,
            clear_sessions: 1,
            floor: 4,
            turn: 55,
            removes: 8,
        }
    }
}

/// Few reads, and sessions that only grow: for histories whose writes are what matters.
pub const WRITES: Mix = Mix {
    update: 220,
    read: 20,
    install: 16,
    purge: 8,
    sync: 8,
    put_session: 8,
    clear_sessions: 0,
    floor: 4,
    turn: 60,
    removes: 8,
};

/// What waits for a report.
enum Wait {
    Chunk(ChunkKey, usize),
    All(BTreeMap<ChunkKey, usize>),
}

/// What may be found if the power fails: for each of the world's keys, and for the small state, the first and the last
/// state possible.
#[derive(Clone, Default)]
pub struct Bounds {
    pub chunks: Vec<(usize, usize)>,
    pub small: (usize, usize),
}

/// Numbers of the first states that can still be found.
#[derive(Clone, Default)]
pub struct Known {
    pub chunks: BTreeMap<ChunkKey, usize>,
    pub small: usize,
}

pub struct World<D: Disk> {
    pub store: CowStore<D>,
    pub rng: Rng,
    pub keys: Vec<ChunkKey>,
    /// Sizes of chunks that are created.
    pub sizes: Vec<u32>,
    pub mix: Mix,
    /// Most ranges are a block or two, anywhere: chunks come to lie in many pieces.
    pub scatter: bool,
    /// What the store does by itself.
    pub background: Background,
    /// Where turns are marked, and what could be found after each.
    pub recorder: Option<MemDisk>,
    pub bounds: Vec<Bounds>,
    /// A held disk, of whose operations every turn runs some, in any order.
    pub slow: Option<MemDisk>,
    /// On a slow disk, reads wait much longer than anything else.
    pub slow_reads: bool,
    /// A disk that strikes with faults: each may cost one read.
    pub faulty: Option<MemDisk>,
    pub chunks: BTreeMap<ChunkKey, History<ChunkState>>,
    pub small: History<SmallState>,
    pub now: Time,
    pub next_id: u64,
    pub seq: u64,
    pub counts: BTreeMap<&'static str, u64>,
    /// What was known durable when the last journal append was issued, when the one before was, and so on: all that is
    /// left when these are lost.
    pub before_appends: [Known; 3],
    appends: u64,
    /// Most reads that were in flight at once.
    pub most_reads: usize,
    pub failed: Option<String>,
    /// Versions that a read found corrupt.
    pub corrupt: BTreeSet<(ChunkKey, Ver)>,
    corrupt_reads: u64,
    /// Updates that have been called and not reported: number of the chunk's state, of the small state.
    staging: BTreeMap<ChunkKey, (Ver, usize, usize)>,
    unstaging: Vec<(ChunkKey, Ver, usize, usize)>,
    syncs: BTreeMap<u64, (Wait, usize)>,
    reads: BTreeMap<u64, (ChunkKey, Ver, u32, Bytes)>,
}

impl<D: Disk> World<D> {
    pub fn new(mut store: CowStore<D>, seed: u64, keys: usize) -> World<D> {
        // A slice per chunk, one at a time: chunks change while a checkpoint walks. With many chunks that would not fit
        // the small checkpoint area.
        store.set_checkpoint_pace(if keys <= 20 { 40 } else { 4096 }, 1);
        World {
            store,
            rng: Rng::new(seed),
            keys: (0..keys).map(|i| ChunkKey::new(format!("chunk-{i:03}").as_bytes()).unwrap()).collect(),
            sizes: PLAIN.to_vec(),
            mix: Mix::default(),
            scatter: false,
            background: Background::default(),
            recorder: None,
            bounds: Vec::new(),
            slow: None,
            slow_reads: false,
            faulty: None,
            chunks: BTreeMap::new(),
            small: History::default(),
            now: 1,
            next_id: 1,
            seq: 1,
            counts: BTreeMap::new(),
            before_appends: Default::default(),
            appends: 0,
            most_reads: 0,
            failed: None,
            corrupt: BTreeSet::new(),
            corrupt_reads: 0,
            staging: BTreeMap::new(),
            unstaging: Vec::new(),
            syncs: BTreeMap::new(),
            reads: BTreeMap::new(),
        }
    }

    /// Sets what the store does by itself, now and after every reopen.
    pub fn with_background(&mut self, background: Background) {
        self.background = background;
        self.store.set_background(background);
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn state(&self, key: &ChunkKey) -> ChunkState {
        self.chunks.get(key).map(|h| h.now().clone()).unwrap_or_default()
    }

    /// What is held now, of every chunk there is.
    pub fn held(&self) -> BTreeMap<ChunkKey, ChunkState> {
        let there = self.chunks.iter().filter(|(_, h)| *h.now() != ChunkState::default());
        there.map(|(k, h)| (k.clone(), h.now().clone())).collect()
    }

    fn push(&mut self, key: &ChunkKey, state: ChunkState) -> usize {
        self.chunks.entry(key.clone()).or_default().push(state)
    }

    fn push_small(&mut self, f: impl FnOnce(&mut SmallState)) {
        let mut next = self.small.now().clone();
        f(&mut next);
        self.small.push(next);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// A random operation.
    pub fn step(&mut self) {
        let key = self.rng.pick(&self.keys);
        let state = self.state(&key);
        let m = self.mix;
        let weights = [m.update, m.read, m.install, m.purge, m.sync, m.put_session, m.clear_sessions, m.floor, m.turn];
        let mut n = self.rng.below(weights.iter().sum());
        let what = weights
            .iter()
            .position(|&w| {
                n < w || {
                    n -= w;
                    false
                }
            })
            .unwrap();
        match what {
            0 => self.update(&key, &state),
            1 => self.read(&key, &state),
            2 => self.install(&key),
            3 => self.purge(&key),
            4 => self.sync(),
            5 => self.put_session(),
            6 => {
                self.store.clear_sessions();
                self.push_small(|s| s.sessions.clear());
                self.count("clear_sessions");
            }
            7 => {
                let floor = self.small.now().floor + self.rng.below(3);
                self.store.raise_remove_floor(floor);
                self.push_small(|s| s.floor = s.floor.max(floor));
            }
            _ => self.turn(),
        }
    }

    /// The next step in the life of a chunk's update.
    pub fn update(&mut self, key: &ChunkKey, state: &ChunkState) {
        match &state.staged {
            None => self.stage(key, state),
            Some(s) if !self.staging.contains_key(key) => {
                let ver = s.ver;
                if self.rng.odds(1, 8) { self.unstage(key, state, ver) } else { self.commit(key, state, ver) }
            }
            Some(s) if self.rng.odds(1, 10) => self.unstage(key, state, s.ver),
            Some(_) => {}
        }
    }

    fn put_session(&mut self) {
        let id = SessionId { client: self.rng.below(3), channel: 9 };
        let row = SessionRow { seq: self.rng.below(1000), ver: 1, len: 2, checksum: 3, chain_ver: 4 };
        self.store.put_session(id, row);
        self.push_small(|s| s.merge(id, row, false));
        self.count("put_session");
    }

    /// A range within `size` bytes, of every alignment.
    pub fn range(&mut self, size: u32) -> (u32, u32) {
        let r = &mut self.rng;
        let size = u64::from(size);
        let blocks = size / 4096;
        // Large chunks whole now and then only.
        let most = if size <= 256 << 10 || r.odds(1, 8) { size } else { 128 << 10 };
        let what = if self.scatter && r.odds(3, 4) { 10 } else { r.below(10) };
        let (offset, len) = match what {
            10 => (r.below(blocks) * 4096, 1 + r.below(8192)),
            0 => (0, most),
            1 => (r.below(blocks) * 4096, (1 + r.below(4)) * 4096),
            2 => (r.below(size), r.below(300)),
            3 => (r.below(blocks) * 4096, r.below(9000)),
            4 => (0, r.below(20000.min(size))),
            5 => (r.below(blocks) * 4096, most),
            6 => ((r.below(blocks) * 4096).saturating_sub(r.below(3)), 1 + r.below(4)),
            7 => (size - 1 - r.below(5000.min(size)), 5000),
            8 => (r.below(size / 512) * 512, (1 + r.below(20)) * 512),
            _ => (r.below(size), r.below(20000)),
        };
        (offset as u32, len.min(size - offset) as u32)
    }

    /// The chunk's size, or one for a new chunk.
    fn size(&mut self, state: &ChunkState) -> u32 {
        if state.chunk_size > 0 { state.chunk_size } else { self.rng.pick(&self.sizes) }
    }

    fn stage(&mut self, key: &ChunkKey, state: &ChunkState) {
        let size = self.size(state);
        let (offset, len) = self.range(size);
        let op = match self.rng.below(100) {
            n if n < self.mix.removes => Op::remove(),
            n => match n % 12 {
                0 => Op::truncate(offset),
                1 => Op::extend(offset + len),
                2 => Op::truncate(offset + len),
                3 => {
                    let end = state.bytes().len() as u32;
                    Op::write(end, len.min(size - end))
                }
                4 if self.rng.odds(1, 4) => Op::write(offset, 0),
                _ => Op::write(offset, len),
            },
        };
        let payload = self.rng.bytes(op.payload_len() as usize);
        self.stage_op(key, size, op, payload);
    }

    /// Stages; `false` if there was no space.
    pub fn stage_op(&mut self, key: &ChunkKey, chunk_size: u32, op: Op, payload: Bytes) -> bool {
        let state = self.state(key);
        let floor = self.small.now().floor;
        let ver = state.committed.as_ref().map_or(floor, |(c, _)| c.ver) + 1;
        self.seq += 1;
        let tag = Tag { client: 100 + self.seq % 3, channel: (self.seq % 2) as u32, seq: self.seq };
        // Not everybody knows the checksums of the blocks.
        let mut bytes = Payload::from(payload.clone());
        bytes.sums.take_if(|_| self.seq.is_multiple_of(4));
        let request = StageRequest { key: key.clone(), ver, chain_ver: 7, tag, op, chunk_size, payload: bytes };
        let before = self.store.space();
        match self.store.stage(request) {
            Ok(()) => {}
            Err(Code::NoSpace) => {
                assert_eq!(self.store.space(), before, "NoSpace changes nothing");
                assert!(self.store.meta(key).is_none_or(|m| m.staged.is_none()));
                self.count("no space");
                return false;
            }
            Err(e) => panic!("stage: {e:?}"),
        }
        let remove = op.kind() == OpKind::Remove;
        let content = Rc::new(if remove { Vec::new() } else { apply(state.bytes(), &op, &payload) });
        let staged = StagedState { ver, chain_ver: 7, tag, remove, content };
        let at = self.push(key, ChunkState::new(chunk_size, state.committed, Some(staged)));
        self.staging.insert(key.clone(), (ver, at, self.small.at()));
        self.count("stage");
        true
    }

    pub fn commit(&mut self, key: &ChunkKey, state: &ChunkState, ver: Ver) {
        self.store.commit(key, ver, 8);
        let s = state.staged.clone().unwrap();
        let (len, checksum) = (s.content.len() as u32, s.checksum());
        let c = Committed { ver, chain_ver: 8, len, checksum, tag: s.tag };
        let committed = if s.remove { None } else { Some((c, s.content.clone())) };
        self.push(key, ChunkState::new(state.chunk_size, committed, None));
        let row = SessionRow { seq: s.tag.seq, ver, len, checksum, chain_ver: 8 };
        self.push_small(|small| {
            if s.remove {
                small.floor = small.floor.max(ver);
            }
            small.merge(s.tag.session(), row, true);
        });
        self.count(if s.remove { "commit remove" } else { "commit" });
    }

    pub fn unstage(&mut self, key: &ChunkKey, state: &ChunkState, ver: Ver) {
        self.store.unstage(key, ver);
        let in_flight = self.drop_stage(key);
        let at = self.push(key, ChunkState::new(state.chunk_size, state.committed.clone(), None));
        self.unstaging.push((key.clone(), ver, at, self.small.at()));
        self.count(if in_flight { "unstage in flight" } else { "unstage" });
    }

    /// An update is dropped before it was reported, if one is on its way: whoever waits for all that came before will not
    /// find it.
    fn drop_stage(&mut self, key: &ChunkKey) -> bool {
        let Some((_, dropped, _)) = self.staging.remove(key) else { return false };
        for (wait, _) in self.syncs.values_mut() {
            if let Wait::All(all) = wait
                && let Some(at) = all.get_mut(key).filter(|at| **at == dropped)
            {
                *at -= 1;
            }
        }
        true
    }

    pub fn read(&mut self, key: &ChunkKey, state: &ChunkState) {
        let durable = !self.staging.contains_key(key);
        let staged = state.staged.as_ref().filter(|s| durable && !s.remove).map(|s| (s.ver, s.content.clone()));
        let committed = state.committed.as_ref().map(|(c, b)| (c.ver, b.clone()));
        let pick = if self.rng.odds(1, 2) { staged.or(committed) } else { committed };
        let Some((ver, content)) = pick else { return };
        let (offset, len) = if self.rng.odds(1, 8) { (0, u32::MAX) } else { self.range(state.chunk_size) };
        self.read_version(key, ver, &content, offset, len);
    }

    /// Reads the whole committed version, if there is one.
    pub fn read_whole(&mut self, key: &ChunkKey) {
        if let Some((c, content)) = self.state(key).committed {
            self.read_version(key, c.ver, &content, 0, u32::MAX);
        }
    }

    fn read_version(&mut self, key: &ChunkKey, ver: Ver, content: &[u8], offset: u32, len: u32) {
        let from = (offset as usize).min(content.len());
        let to = offset.saturating_add(len) as usize;
        let expected = Bytes::copy_from_slice(&content[from..to.min(content.len()).max(from)]);
        let id = self.id();
        self.store.read(id, key, ver, offset, len);
        self.reads.insert(id, (key.clone(), ver, offset, expected));
        self.most_reads = self.most_reads.max(self.reads.len());
        self.count("read");
    }

    pub fn install(&mut self, key: &ChunkKey) {
        let chunk_size = self.rng.pick(&self.sizes);
        let len = self.range(chunk_size).1;
        let content = self.rng.bytes(len as usize);
        let ver = 1 + self.small.now().floor + self.rng.below(50);
        let tag = Tag { client: 1, channel: 1, seq: 1 };
        let committed = Committed { ver, chain_ver: 9, len, checksum: crc32c(&content), tag };
        let id = self.id();
        match self.store.install(id, key, chunk_size, committed, content.clone().into()) {
            Ok(()) => {}
            Err(Code::NoSpace) => return self.count("no space"),
            Err(e) => panic!("install: {e:?}"),
        }
        self.drop_stage(key);
        let at = self.push(key, ChunkState::new(chunk_size, Some((committed, Rc::new(content.to_vec()))), None));
        self.syncs.insert(id, (Wait::Chunk(key.clone(), at), self.small.at()));
        self.count("install");
    }

    pub fn purge(&mut self, key: &ChunkKey) {
        let id = self.id();
        self.store.purge(id, key);
        self.drop_stage(key);
        let at = self.push(key, ChunkState::default());
        self.syncs.insert(id, (Wait::Chunk(key.clone(), at), self.small.at()));
        self.count("purge");
    }

    pub fn sync(&mut self) {
        let id = self.id();
        self.store.sync(id);
        let all = self.chunks.iter().map(|(k, h)| (k.clone(), h.at())).collect();
        self.syncs.insert(id, (Wait::All(all), self.small.at()));
        self.count("sync");
    }

    /// Runs some of a slow disk's operations.
    fn run_some(&mut self) {
        let Some(disk) = self.slow.clone() else { return };
        for _ in 0..self.rng.below(4) {
            let waiting = disk.waiting() as u64;
            if waiting == 0 {
                break;
            }
            let n = self.rng.below(waiting) as usize;
            let is_read = matches!(disk.waits(n), Some((What::Read, _)));
            if !(is_read && self.slow_reads) || self.rng.odds(1, 20) {
                disk.run(n);
            }
        }
    }

    pub fn turn(&mut self) {
        self.now += 1_000_000;
        self.run_some();
        let mut out = Vec::new();
        self.store.turn(self.now, &mut out);
        // What has completed is looked at by and by; whoever drives a store comes back until it is.
        while !self.rng.odds(1, 16) && self.store.next_wake().is_some_and(|at| at <= self.now) {
            self.store.turn(self.now, &mut out);
        }
        for done in out {
            self.done(done);
        }
        let appends = self.store.stats().appends;
        if appends > self.appends {
            self.appends = appends;
            self.before_appends.rotate_right(1);
            self.before_appends[0] = self.known();
        }
        if let Some(disk) = &self.recorder {
            disk.mark(self.bounds.len() as u64);
            let chunk = |k| self.chunks.get(k).map_or((0, 0), |h: &History<_>| (h.lower, h.at()));
            let chunks = self.keys.iter().map(chunk).collect();
            self.bounds.push(Bounds { chunks, small: (self.small.lower, self.small.at()) });
        }
    }

    fn reached(&mut self, key: &ChunkKey, at: usize, small: usize) {
        let h = self.chunks.get_mut(key).unwrap();
        h.lower = h.lower.max(at);
        self.small.lower = self.small.lower.max(small);
    }

    fn done(&mut self, done: Done<Bytes>) {
        assert!(self.failed.is_none(), "reported after Failed: {done:?}");
        match done {
            Done::Staged { key, ver, info } => {
                let (wanted, at, small) = self.staging.remove(&key).expect("a Staged nobody waits for");
                assert_eq!(wanted, ver);
                let s = self.state(&key).staged.unwrap();
                assert_eq!((info.len, info.checksum), (s.content.len() as u32, s.checksum()), "{key} {info:?}");
                self.reached(&key, at, small);
            }
            Done::Unstaged { key, ver } => {
                let i = self.unstaging.iter().position(|u| u.0 == key && u.1 == ver).expect("an Unstaged nobody waits for");
                let (key, _, at, small) = self.unstaging.remove(i);
                self.reached(&key, at, small);
            }
            Done::Synced { id } => match self.syncs.remove(&id).expect("a Synced nobody waits for") {
                (Wait::Chunk(key, at), small) => self.reached(&key, at, small),
                (Wait::All(all), small) => all.iter().for_each(|(key, at)| self.reached(key, *at, small)),
            },
            Done::Read { id, result } => {
                let (key, ver, offset, expected) = self.reads.remove(&id).expect("a Read nobody waits for");
                self.read_done(&key, ver, offset, &expected, result);
            }
            Done::StageFailed { key, ver, code } => {
                assert!(self.faulty.is_some() && code == Code::Corrupt, "{key} version {ver} cannot be staged: {code:?}");
                assert!(self.drop_stage(&key), "a StageFailed nobody waits for: {key} {ver}");
                let state = self.state(&key);
                self.push(&key, ChunkState::new(state.chunk_size, state.committed, None));
                self.count("stage failed");
            }
            Done::Damaged { key, ver } => {
                assert!(self.faulty.is_some(), "{key} version {ver} is damaged");
                self.corrupt.insert((key, ver));
            }
            other @ (Done::NotPatched { .. } | Done::Sums { .. }) => panic!("nobody asked for {other:?}"),
            Done::Failed { reason } => {
                assert!(self.faulty.is_some(), "{reason}");
                self.failed = Some(reason);
            }
        }
    }

    fn read_done(&mut self, key: &ChunkKey, ver: Ver, offset: u32, expected: &Bytes, result: Result<(Bytes, u32), Code>) {
        match result {
            Ok((bytes, crc)) => {
                assert!(bytes == *expected, "read {key} version {ver} at {offset}: wrong bytes");
                assert_eq!(crc, crc32c(expected));
            }
            Err(code) => {
                assert_eq!(code, Code::Corrupt, "read {key} version {ver} at {offset}");
                self.corrupt_reads += 1;
                assert!(self.faulty.is_some(), "read {key} version {ver} at {offset}: corrupt without a fault");
                self.corrupt.insert((key.clone(), ver));
                self.count("corrupt read");
            }
        }
    }

    /// Reads that were answered `Corrupt`.
    pub fn corrupt_reads(&self) -> u64 {
        self.corrupt_reads
    }

    /// Turns until nothing is in flight. What the store does by itself rests meanwhile.
    pub fn settle(&mut self) {
        self.store.set_background(REST);
        self.settle_down();
        self.store.set_background(self.background);
    }

    fn settle_down(&mut self) {
        for _ in 0..100_000 {
            self.store.wait();
            self.turn();
            if self.failed.is_some() {
                return;
            }
            if !self.store.busy() && self.store.next_wake().is_none() {
                assert!(self.staging.is_empty() && self.unstaging.is_empty() && self.syncs.is_empty() && self.reads.is_empty());
                // With nothing left to write, everything is durable: an open would find exactly what is held.
                let all: Vec<_> = self.chunks.iter().map(|(k, h)| (k.clone(), h.at())).collect();
                let small = self.small.at();
                all.iter().for_each(|(key, at)| self.reached(key, *at, small));
                return;
            }
        }
        panic!("does not settle");
    }

    /// Compares the metadata of everything with the model.
    pub fn compare(&self) {
        let model: Vec<_> = self.chunks.iter().filter(|(_, h)| *h.now() != ChunkState::default()).collect();
        let held = self.store.scan(b"", usize::MAX);
        assert_eq!(held.len(), model.len());
        for ((key, meta), (k, h)) in held.iter().zip(&model) {
            assert_eq!(key, *k);
            self.compare_chunk(key, meta, h.now());
            assert_eq!(self.store.meta(key).as_ref(), Some(meta));
        }
        assert_eq!(SmallState::of(&self.store), *self.small.now());
        for (id, row) in &self.small.now().sessions {
            assert_eq!(self.store.session(*id), Some(*row));
        }
        let space = self.store.space();
        assert_eq!(space.chunks, model.iter().filter(|(_, h)| h.now().committed.is_some()).count() as u64);
        assert!(space.used + space.reserved <= space.total && (space.reserved == 0 || !self.staging.is_empty()), "{space:?}");
        self.store.verify().unwrap();
    }

    fn compare_chunk(&self, key: &ChunkKey, meta: &ChunkMeta, state: &ChunkState) {
        assert_eq!(meta.chunk_size, state.chunk_size, "{key}");
        assert_eq!(meta.committed, state.committed.as_ref().map(|(c, _)| *c), "{key}");
        let durable = !self.staging.contains_key(key);
        let (held, wanted) = (meta.staged, state.staged.as_ref());
        let shown = |s: Staged| (s.ver, s.chain_ver, s.tag, s.remove, s.len, s.durable);
        let model = |s: &StagedState| (s.ver, s.chain_ver, s.tag, s.remove, s.content.len() as u32, durable);
        assert_eq!(held.map(shown), wanted.map(model), "{key}");
        if durable {
            assert_eq!(held.map(|s| s.checksum), wanted.map(StagedState::checksum), "{key}");
        }
    }

    /// Checks that what a reopened store shows is one of the states since the last reported ones.
    pub fn assert_possible(&self, found: &BTreeMap<ChunkKey, ChunkState>, small: &SmallState, what: &str) {
        for key in found.keys() {
            assert!(self.chunks.contains_key(key), "{what}: {key} was never written");
        }
        for (key, h) in &self.chunks {
            let state = found.get(key).cloned().unwrap_or_default();
            assert!(
                h.possible().contains(&state),
                "{what}: {key} is none of its {} states since the last reported: {}; last: {}",
                h.possible().len(),
                state.versions(),
                h.now().versions()
            );
        }
        assert!(self.small.possible().contains(small), "{what}: {small:?} is none of the possible sessions");
    }

    /// Goes on with a store in which everything is as in the model now, or as `found`.
    pub fn go_on_with(&mut self, store: CowStore<D>, found: BTreeMap<ChunkKey, ChunkState>) {
        self.store = store;
        self.adopt(found);
    }

    /// As [`World::go_on_with`], but the states before stay in the histories; gives those that could be found till now.
    pub fn go_on_behind(&mut self, store: CowStore<D>, mut found: BTreeMap<ChunkKey, ChunkState>) -> Known {
        let known = self.known();
        let (mut chunks, mut small) = (std::mem::take(&mut self.chunks), self.small.clone());
        for (key, h) in &mut chunks {
            h.lower = h.push(found.remove(key).unwrap_or_default());
        }
        small.lower = small.push(SmallState::of(&store));
        self.go_on_with(store, BTreeMap::new());
        (self.chunks, self.small) = (chunks, small);
        known
    }

    /// The first states that can still be found.
    pub fn known(&self) -> Known {
        Known { chunks: self.chunks.iter().map(|(k, h)| (k.clone(), h.lower)).collect(), small: self.small.lower }
    }

    fn adopt(&mut self, found: BTreeMap<ChunkKey, ChunkState>) {
        self.small = History::starting_with(SmallState::of(&self.store));
        self.chunks = found.into_iter().map(|(key, state)| (key, History::starting_with(state))).collect();
        let pace = if self.chunks.len() > 20 || self.keys.len() > 20 { 4096 } else { 40 };
        self.store.set_checkpoint_pace(pace, 1);
        self.store.set_background(self.background);
        self.staging.clear();
        self.unstaging.clear();
        self.syncs.clear();
        self.reads.clear();
        self.failed = None;
        self.appends = 0;
        self.before_appends = Default::default();
    }

    /// Forgets states that cannot be found any more: for long runs.
    pub fn prune(&mut self) {
        assert!(self.recorder.is_none(), "a recorded history is needed whole");
        self.chunks.values_mut().for_each(History::prune);
        self.chunks.retain(|_, h| h.all().len() > 1 || *h.now() != ChunkState::default());
        self.small.prune();
    }

    /// Purges everything: no block may be left.
    pub fn end(&mut self) {
        for key in self.held().into_keys() {
            self.purge(&key);
        }
        self.settle();
        self.compare();
        let space = self.store.space();
        assert_eq!((space.used, space.reserved, space.chunks), (0, 0, 0), "blocks have leaked");
    }
}

impl World<MemDisk> {
    /// Opens what is on `disk`, checks that it is possible, and goes on with it.
    pub fn reopen(&mut self, disk: MemDisk, what: &str) {
        let mut store = CowStore::open(disk.clone(), &super::arena()).unwrap_or_else(|e| panic!("{what}: {e}"));
        store.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
        let found = read_all(&mut store);
        self.assert_possible(&found, &SmallState::of(&store), what);
        self.go_on_with(store, found);
        if self.slow.is_some() {
            disk.set_held(true);
            self.slow = Some(disk.clone());
        }
        if self.faulty.is_some() {
            self.faulty = Some(disk);
        }
    }

    /// A world that goes on from what a reopened store shows.
    pub fn resume(store: CowStore<MemDisk>, seed: u64, keys: &[ChunkKey], found: BTreeMap<ChunkKey, ChunkState>) -> Self {
        let mut world = World::new(store, seed, 0);
        world.keys = keys.to_vec();
        world.seq = 1_000_000;
        world.adopt(found);
        world
    }
}
