//! A plain in-memory model of the store, the driver that runs random operations on both, and the comparison.
//!
//! For every chunk the model keeps the list of its states, one per change, and how far this list is known durable: what a
//! reopened store shows must be one of the states from there on.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::Arena;
use catena_engine::disk::mem::MemDisk;
use catena_engine::{CowStore, Disk, Params};
use catena_types::crc::crc32c;
use catena_types::*;

pub const CHUNK: u32 = 64 << 10;

/// xorshift64*.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
    pub fn bytes(&mut self, n: usize) -> Bytes {
        let mut out = Vec::with_capacity(n + 8);
        while out.len() < n {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(n);
        out.into()
    }
}

#[derive(Clone, PartialEq)]
pub struct StagedState {
    pub ver: Ver,
    pub chain_ver: ChainVer,
    pub tag: Tag,
    pub remove: bool,
    pub content: Rc<Vec<u8>>,
}

#[derive(Clone, Default, PartialEq)]
pub struct ChunkState {
    pub committed: Option<(Committed, Rc<Vec<u8>>)>,
    pub staged: Option<StagedState>,
}

/// Sessions and remove floor.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct SmallState {
    pub sessions: BTreeMap<SessionId, SessionRow>,
    pub floor: Ver,
}

#[derive(Clone)]
pub struct History<T> {
    pub states: Vec<T>,
    /// The first state that can still be found after a crash.
    pub lower: usize,
}

impl<T: Clone + Default> Default for History<T> {
    fn default() -> Self {
        History { states: vec![T::default()], lower: 0 }
    }
}

impl<T: Clone> History<T> {
    pub fn now(&self) -> &T {
        self.states.last().unwrap()
    }
    pub fn at(&self) -> usize {
        self.states.len() - 1
    }
}

/// What waits for a report.
enum Wait {
    Chunk(ChunkKey, usize),
    All(BTreeMap<ChunkKey, usize>),
}

/// What may be found if the power fails: per chunk, and for the small state, the first and the last state possible.
#[derive(Clone, Default)]
pub struct Bounds {
    pub chunks: BTreeMap<ChunkKey, (usize, usize)>,
    pub small: (usize, usize),
}

pub struct World<D: Disk> {
    /// Where turns are marked, and what could be found after each.
    pub recorder: Option<MemDisk>,
    /// A held disk, of whose operations every turn runs some, in any order.
    pub slow: Option<MemDisk>,
    pub bounds: Vec<Bounds>,
    pub store: CowStore<D>,
    pub rng: Rng,
    pub keys: Vec<ChunkKey>,
    pub chunks: BTreeMap<ChunkKey, History<ChunkState>>,
    pub small: History<SmallState>,
    pub now: Time,
    pub next_id: u64,
    pub seq: u64,
    /// Updates that have been called and not reported: index of the chunk's state, of the small state.
    staging: BTreeMap<ChunkKey, (Ver, usize, usize)>,
    unstaging: Vec<(ChunkKey, Ver, usize, usize)>,
    syncs: BTreeMap<u64, (Wait, usize)>,
    reads: BTreeMap<u64, (ChunkKey, u32, Bytes)>,
    pub counts: BTreeMap<&'static str, u64>,
    pub with_clear: bool,
    pub failed: Option<String>,
}

pub fn params(capacity_blocks: u64, journal_blocks: u64) -> Params {
    let mut p = Params::new(*b"0123456789abcdef", capacity_blocks * 4096);
    p.journal = journal_blocks * 4096;
    p.checkpoint = 64 * 4096;
    if std::env::var("CATENA_KIND").is_ok_and(|k| k == "in-place") {
        p.kind = catena_engine::StoreKind::InPlace;
        p.capacity *= 8;
    }
    p
}

pub fn arena() -> Arena {
    Arena::new(64 << 20)
}

pub fn apply(old: &[u8], op: &Op, payload: &[u8]) -> Vec<u8> {
    let mut out = old.to_vec();
    out.resize(op.new_len(old.len() as u32) as usize, 0);
    if op.kind() == OpKind::Write {
        out[op.offset as usize..(op.offset + op.len) as usize].copy_from_slice(payload);
    }
    out
}

impl<D: Disk> World<D> {
    pub fn new(mut store: CowStore<D>, seed: u64, keys: usize) -> World<D> {
        if keys > 0 {
            // A slice per chunk, one at a time: chunks change while a checkpoint walks.
            store.set_checkpoint_pace(40, 1);
        }
        let keys = (0..keys).map(|i| ChunkKey::new(format!("chunk-{i:03}").as_bytes()).unwrap()).collect();
        World {
            recorder: None,
            slow: None,
            bounds: Vec::new(),
            store,
            rng: Rng::new(seed),
            keys,
            chunks: BTreeMap::new(),
            small: History::default(),
            now: 1,
            next_id: 1,
            seq: 1,
            staging: BTreeMap::new(),
            unstaging: Vec::new(),
            syncs: BTreeMap::new(),
            reads: BTreeMap::new(),
            counts: BTreeMap::new(),
            with_clear: true,
            failed: None,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn state(&self, key: &ChunkKey) -> ChunkState {
        self.chunks.get(key).map(|h| h.now().clone()).unwrap_or_default()
    }

    fn push(&mut self, key: &ChunkKey, state: ChunkState) -> usize {
        let h = self.chunks.entry(key.clone()).or_default();
        h.states.push(state);
        h.at()
    }

    fn push_small(&mut self, f: impl FnOnce(&mut SmallState)) {
        let mut next = self.small.now().clone();
        f(&mut next);
        self.small.states.push(next);
    }

    /// A random operation.
    pub fn step(&mut self) {
        let key = self.keys[self.rng.below(self.keys.len() as u64) as usize].clone();
        let state = self.state(&key);
        match self.rng.below(100) {
            0..45 => match &state.staged {
                None => self.stage(&key, &state),
                Some(s) if !self.staging.contains_key(&key) => {
                    let ver = s.ver;
                    if self.rng.below(8) == 0 { self.unstage(&key, &state, ver) } else { self.commit(&key, &state, ver) }
                }
                Some(s) if self.rng.below(10) == 0 => self.unstage(&key, &state, s.ver),
                Some(_) => {}
            },
            45..75 => self.read(&key, &state),
            75..79 => self.install(&key),
            79..81 => self.purge(&key),
            81..83 => self.sync(),
            83..85 => {
                let id = SessionId { client: self.rng.below(3), channel: 9 };
                let row = SessionRow { seq: self.rng.below(1000), ver: 1, len: 2, checksum: 3, chain_ver: 4 };
                self.store.put_session(id, row);
                self.push_small(|s| {
                    if s.sessions.get(&id).is_none_or(|h| row.seq > h.seq) {
                        s.sessions.insert(id, row);
                    }
                });
                self.count("put_session");
            }
            85 if self.with_clear && self.rng.below(4) == 0 => {
                self.store.clear_sessions();
                self.push_small(|s| s.sessions.clear());
                self.count("clear_sessions");
            }
            86 => {
                let floor = self.small.now().floor + self.rng.below(3);
                self.store.raise_remove_floor(floor);
                self.push_small(|s| s.floor = s.floor.max(floor));
            }
            _ => self.turn(),
        }
    }

    fn range(&mut self) -> (u32, u32) {
        let r = &mut self.rng;
        let chunk = u64::from(CHUNK);
        let (offset, len) = match r.below(6) {
            0 => (0, chunk),
            1 => (r.below(16) * 4096, (1 + r.below(4)) * 4096),
            2 => (r.below(chunk), r.below(300)),
            3 => (r.below(16) * 4096, r.below(9000)),
            4 => (0, r.below(20000)),
            _ => (r.below(chunk), r.below(20000)),
        };
        (offset as u32, len.min(chunk - offset) as u32)
    }

    fn stage(&mut self, key: &ChunkKey, state: &ChunkState) {
        let (offset, len) = self.range();
        let op = match self.rng.below(12) {
            0 => Op::truncate(offset),
            1 => Op::extend(offset),
            2 => Op::remove(),
            3 if state.committed.is_some() => {
                let at = state.committed.as_ref().unwrap().0.len;
                Op::write(at, len.min(CHUNK - at))
            }
            _ => Op::write(offset, len),
        };
        let payload = self.rng.bytes(op.payload_len() as usize);
        self.stage_op(key, op, payload);
    }

    /// Stages; `false` if there was no space.
    pub fn stage_op(&mut self, key: &ChunkKey, op: Op, payload: Bytes) -> bool {
        let state = self.state(key);
        let floor = self.small.now().floor;
        let ver = state.committed.as_ref().map_or(floor, |(c, _)| c.ver) + 1;
        self.seq += 1;
        let tag = Tag { client: 100 + self.seq % 3, channel: (self.seq % 2) as u32, seq: self.seq };
        let request = StageRequest {
            key: key.clone(),
            ver,
            chain_ver: 7,
            tag,
            op,
            chunk_size: CHUNK,
            payload_crc: crc32c(&payload),
            payload: payload.clone(),
        };
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
        let old = state.committed.as_ref().map_or(&[][..], |(_, b)| &b[..]);
        let remove = op.kind() == OpKind::Remove;
        let content = Rc::new(if remove { Vec::new() } else { apply(old, &op, &payload) });
        let mut next = state.clone();
        next.staged = Some(StagedState { ver, chain_ver: 7, tag, remove, content });
        let at = self.push(key, next);
        self.staging.insert(key.clone(), (ver, at, self.small.at()));
        self.count("stage");
        true
    }

    pub fn commit(&mut self, key: &ChunkKey, state: &ChunkState, ver: Ver) {
        self.store.commit(key, ver, 8);
        let s = state.staged.clone().unwrap();
        let (len, checksum) = (s.content.len() as u32, if s.remove { 0 } else { crc32c(&s.content) });
        let c = Committed { ver, chain_ver: 8, len, checksum, tag: s.tag };
        let committed = if s.remove { None } else { Some((c, s.content.clone())) };
        self.push(key, ChunkState { committed, staged: None });
        let row = SessionRow { seq: s.tag.seq, ver, len, checksum, chain_ver: 8 };
        self.push_small(|small| {
            if s.remove {
                small.floor = small.floor.max(ver);
            }
            let held = small.sessions.entry(s.tag.session()).or_insert(row);
            if row.seq >= held.seq {
                *held = row;
            }
        });
        self.count(if s.remove { "commit remove" } else { "commit" });
    }

    pub fn unstage(&mut self, key: &ChunkKey, state: &ChunkState, ver: Ver) {
        self.store.unstage(key, ver);
        let in_flight = self.staging.remove(key).is_some();
        let at = self.push(key, ChunkState { staged: None, ..state.clone() });
        self.unstaging.push((key.clone(), ver, at, self.small.at()));
        self.count(if in_flight { "unstage in flight" } else { "unstage" });
    }

    pub fn read(&mut self, key: &ChunkKey, state: &ChunkState) {
        let durable = !self.staging.contains_key(key);
        let staged = state.staged.as_ref().filter(|s| durable && !s.remove).map(|s| (s.ver, s.content.clone()));
        let committed = state.committed.as_ref().map(|(c, b)| (c.ver, b.clone()));
        let pick = if self.rng.below(2) == 0 { staged.or(committed) } else { committed };
        let Some((ver, content)) = pick else { return };
        let (offset, len) = self.range();
        let from = (offset as usize).min(content.len());
        let to = (offset as usize + len as usize).min(content.len());
        let expected = Bytes::copy_from_slice(&content[from..to]);
        let id = self.next_id;
        self.next_id += 1;
        self.store.read(id, key, ver, offset, len);
        self.reads.insert(id, (key.clone(), offset, expected));
        self.count("read");
    }

    pub fn install(&mut self, key: &ChunkKey) {
        let len = self.range().1;
        let content = self.rng.bytes(len as usize);
        let ver = 1 + self.small.now().floor + self.rng.below(50);
        let tag = Tag { client: 1, channel: 1, seq: 1 };
        let committed = Committed { ver, chain_ver: 9, len, checksum: crc32c(&content), tag };
        let id = self.next_id;
        self.next_id += 1;
        match self.store.install(id, key, CHUNK, committed, content.clone()) {
            Ok(()) => {}
            Err(Code::NoSpace) => return self.count("no space"),
            Err(e) => panic!("install: {e:?}"),
        }
        self.staging.remove(key);
        let at = self.push(key, ChunkState { committed: Some((committed, Rc::new(content.to_vec()))), staged: None });
        self.syncs.insert(id, (Wait::Chunk(key.clone(), at), self.small.at()));
        self.count("install");
    }

    pub fn purge(&mut self, key: &ChunkKey) {
        let id = self.next_id;
        self.next_id += 1;
        self.store.purge(id, key);
        self.staging.remove(key);
        let at = self.push(key, ChunkState::default());
        self.syncs.insert(id, (Wait::Chunk(key.clone(), at), self.small.at()));
        self.count("purge");
    }

    pub fn sync(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        self.store.sync(id);
        let all = self.chunks.iter().map(|(k, h)| (k.clone(), h.at())).collect();
        self.syncs.insert(id, (Wait::All(all), self.small.at()));
        self.count("sync");
    }

    pub fn turn(&mut self) {
        self.now += 1_000_000;
        if let Some(disk) = self.slow.clone() {
            for _ in 0..self.rng.below(4) {
                if disk.waiting() > 0 {
                    disk.run(self.rng.below(disk.waiting() as u64) as usize);
                }
            }
        }
        let mut out = Vec::new();
        self.store.turn(self.now, &mut out);
        for done in out {
            self.done(done);
        }
        if let Some(disk) = &self.recorder {
            disk.mark(self.bounds.len() as u64);
            self.bounds.push(Bounds {
                chunks: self.chunks.iter().map(|(k, h)| (k.clone(), (h.lower, h.at()))).collect(),
                small: (self.small.lower, self.small.at()),
            });
        }
    }

    /// A world that goes on from what a reopened store shows.
    pub fn resume(store: CowStore<D>, seed: u64, keys: usize, found: &BTreeMap<ChunkKey, ChunkState>) -> World<D> {
        let mut world = World::new(store, seed, keys);
        if found.len() > 20 {
            // A block per chunk would not fit the small checkpoint area.
            world.store.set_checkpoint_pace(4096, 1);
        }
        for (key, state) in found {
            world.chunks.insert(key.clone(), History { states: vec![state.clone()], lower: 0 });
        }
        let sessions: BTreeMap<_, _> = world.store.sessions(None, usize::MAX).into_iter().collect();
        let floor = world.store.remove_floor();
        world.seq = 1_000_000;
        world.small = History { states: vec![SmallState { sessions, floor }], lower: 0 };
        world
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
                let sum = if s.remove { 0 } else { crc32c(&s.content) };
                assert_eq!((info.len, info.checksum), (s.content.len() as u32, sum), "{key} {info:?}");
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
                let (key, offset, expected) = self.reads.remove(&id).expect("a Read nobody waits for");
                let (bytes, crc) = result.unwrap_or_else(|e| panic!("read {key} at {offset}: {e:?}"));
                assert!(bytes == expected, "read {key} at {offset}: wrong bytes");
                assert_eq!(crc, crc32c(&expected));
            }
            Done::StageFailed { key, ver, code } => panic!("{key} version {ver} cannot be staged: {code:?}"),
            Done::Damaged { key, ver } => panic!("{key} version {ver} is damaged"),
            Done::Failed { reason } => self.failed = Some(reason),
        }
    }

    /// Turns until nothing is in flight.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            self.store.wait();
            self.turn();
            if self.failed.is_some() {
                return;
            }
            if !self.store.busy() && self.store.next_wake().is_none() {
                assert!(self.staging.is_empty() && self.unstaging.is_empty() && self.syncs.is_empty() && self.reads.is_empty());
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
        for ((key, meta), (k, h)) in held.iter().zip(model) {
            assert_eq!(key, k);
            let state = h.now();
            assert_eq!(meta.committed, state.committed.as_ref().map(|(c, _)| *c), "{key}");
            assert_eq!(meta.staged.map(|s| (s.ver, s.remove)), state.staged.as_ref().map(|s| (s.ver, s.remove)), "{key}");
        }
        let sessions: BTreeMap<_, _> = self.store.sessions(None, usize::MAX).into_iter().collect();
        assert_eq!(sessions, self.small.now().sessions);
        assert_eq!(self.store.remove_floor(), self.small.now().floor);
        self.store.verify().unwrap();
    }

    /// What is lost when the process ends: nothing is waited for any more.
    pub fn forget_waits(&mut self) {
        self.staging.clear();
        self.unstaging.clear();
        self.syncs.clear();
        self.reads.clear();
        self.failed = None;
    }
}

/// Reads everything back.
pub fn read_all<D: Disk>(store: &mut CowStore<D>) -> BTreeMap<ChunkKey, ChunkState> {
    let mut wanted = Vec::new();
    let mut out: BTreeMap<ChunkKey, ChunkState> = BTreeMap::new();
    for (key, meta) in store.scan(b"", usize::MAX) {
        let state = out.entry(key.clone()).or_default();
        if let Some(c) = meta.committed {
            state.committed = Some((c, Rc::default()));
            wanted.push((key.clone(), c.ver, false));
        }
        if let Some(s) = meta.staged {
            assert!(s.durable, "what a reopened store shows is durable");
            let (ver, chain_ver, tag, remove) = (s.ver, s.chain_ver, s.tag, s.remove);
            state.staged = Some(StagedState { ver, chain_ver, tag, remove, content: Rc::default() });
            if !remove {
                wanted.push((key.clone(), s.ver, true));
            }
        }
    }
    for (id, (key, ver, _)) in wanted.iter().enumerate() {
        store.read(id as u64, key, *ver, 0, u32::MAX);
    }
    let mut done = Vec::new();
    while store.busy() {
        store.turn(0, &mut done);
    }
    assert_eq!(
        done.len(),
        wanted.len(),
        "{:?}",
        done.iter().filter(|d| !matches!(d, Done::Read { result: Ok(_), .. })).collect::<Vec<_>>()
    );
    for d in done {
        let Done::Read { id, result } = d else { panic!("{d:?}") };
        let (key, ver, staged) = &wanted[id as usize];
        let (bytes, crc) = result.unwrap_or_else(|e| panic!("{key} version {ver}: {e:?}"));
        assert_eq!(crc, crc32c(&bytes));
        let state = out.get_mut(key).unwrap();
        if *staged {
            state.staged.as_mut().unwrap().content = Rc::new(bytes.to_vec());
        } else {
            let (c, content) = state.committed.as_mut().unwrap();
            assert_eq!((c.len, c.checksum), (bytes.len() as u32, crc));
            *content = Rc::new(bytes.to_vec());
        }
    }
    out
}

/// A store on a fresh memory disk.
pub fn fresh(capacity_blocks: u64, journal_blocks: u64) -> (CowStore<MemDisk>, MemDisk) {
    let disk = MemDisk::new();
    let store = CowStore::create(disk.clone(), &params(capacity_blocks, journal_blocks), &arena()).unwrap();
    (store, disk)
}
