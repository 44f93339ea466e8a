//! The same operations on two stores: every answer, every report and everything held must be the same, whatever kind of
//! store it is and however large its journal, while both are settled, closed, killed, and lose power in the middle of
//! updates.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use catena_engine::disk::mem::MemDisk;
use catena_engine::{CowStore, Params, StoreKind};
use catena_types::*;
use common::direct::{key, turns};
use common::*;

/// One of the two.
struct Side {
    store: CowStore<MemDisk>,
    disk: MemDisk,
    /// What it reported since it was last asked.
    done: Vec<Done<Bytes>>,
}

/// A report as compared: what it cost is the store's own business.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Staged(ChunkKey, Ver, u32, u32),
    Unstaged(ChunkKey, Ver),
    Read(u64, Result<(Vec<u8>, u32), String>),
    Synced(u64),
    StageFailed(ChunkKey, Ver),
    Damaged(ChunkKey, Ver),
    Failed,
}

fn told(done: Done<Bytes>) -> Told {
    match done {
        Done::Staged { key, ver, info } => Told::Staged(key, ver, info.len, info.checksum),
        Done::Unstaged { key, ver } => Told::Unstaged(key, ver),
        Done::Read { id, result } => Told::Read(id, result.map(|(b, c)| (b.to_vec(), c)).map_err(|e| format!("{e:?}"))),
        Done::Synced { id } => Told::Synced(id),
        Done::StageFailed { key, ver, .. } => Told::StageFailed(key, ver),
        Done::Damaged { key, ver } => Told::Damaged(key, ver),
        Done::Failed { .. } => Told::Failed,
        done @ (Done::NotPatched { .. } | Done::Sums { .. }) => panic!("nobody asked for {done:?}"),
    }
}

impl Side {
    fn new(params: &Params) -> Side {
        let (mut store, disk) = create(params);
        store.set_checkpoint_pace(40, 1);
        Side { store, disk, done: Vec::new() }
    }

    fn open(&mut self, disk: MemDisk) {
        self.disk = disk;
        self.store = direct::open(self.disk.clone());
        self.store.set_checkpoint_pace(40, 1);
        self.done.clear();
    }

    fn settle(&mut self) -> Vec<Told> {
        self.done.extend(turns(&mut self.store));
        let mut out: Vec<_> = self.done.drain(..).map(told).collect();
        out.sort();
        out
    }
}

struct Pair {
    a: Side,
    b: Side,
    rng: Rng,
    keys: Vec<ChunkKey>,
    sizes: Vec<u32>,
    next: u64,
    steps: BTreeMap<&'static str, u64>,
}

impl Pair {
    /// Both do the same, and answer the same.
    fn both<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, f: impl Fn(&mut CowStore<MemDisk>) -> T) -> T {
        let (a, b) = (f(&mut self.a.store), f(&mut self.b.store));
        assert_eq!(a, b, "{what}");
        a
    }

    fn size(&mut self, meta: Option<ChunkMeta>) -> u32 {
        meta.map_or_else(|| self.rng.pick(&self.sizes), |m| m.chunk_size)
    }

    fn range(&mut self, size: u32) -> (u32, u32) {
        let r = &mut self.rng;
        let size = u64::from(size);
        let (offset, len) = match r.below(4) {
            0 => (0, size),
            1 => (r.below(size / 4096) * 4096, (1 + r.below(3)) * 4096),
            2 => (r.below(size), r.below(600)),
            _ => (r.below(size), r.below(20000)),
        };
        (offset as u32, len.min(size - offset) as u32)
    }

    fn step(&mut self) {
        let key = self.rng.pick(&self.keys);
        let meta = self.a.store.meta(&key);
        self.next += 1;
        let id = self.next;
        let what = match self.rng.below(100) {
            0..50 => match meta.and_then(|m| m.staged) {
                None => self.stage(&key, meta),
                Some(s) if self.rng.odds(1, 5) => {
                    self.both("unstage", |store| store.unstage(&key, s.ver));
                    "unstage"
                }
                Some(s) if !s.durable => return self.step(),
                Some(s) => {
                    self.both("commit", |store| store.commit(&key, s.ver, 5));
                    "commit"
                }
            },
            50..75 => {
                let (offset, len) = self.range(meta.map_or(4096, |m| m.chunk_size));
                let vers = [meta.and_then(|m| m.committed).map(|c| c.ver), meta.and_then(|m| m.staged).map(|s| s.ver), Some(id)];
                let ver = self.rng.pick(&vers).unwrap_or(1);
                self.both("read", |store| store.read(id, &key, ver, offset, len));
                "read"
            }
            75..82 => {
                let size = self.rng.pick(&self.sizes);
                let len = self.range(size).1;
                let bytes = self.rng.bytes(len as usize);
                let ver = self.a.store.remove_floor() + 1 + self.rng.below(9);
                let committed = direct::committed(ver, &bytes);
                self.both("install", |store| store.install(id, &key, size, committed, bytes.clone().into())).unwrap();
                "install"
            }
            82..87 => {
                self.both("purge", |store| store.purge(id, &key));
                "purge"
            }
            87..90 => {
                let session = SessionId { client: self.rng.below(3), channel: 1 };
                let row = SessionRow { seq: self.rng.below(500), ver: id, len: 1, checksum: 2, chain_ver: 3 };
                self.both("put_session", |store| store.put_session(session, row));
                "put_session"
            }
            90..92 => {
                let floor = self.a.store.remove_floor() + self.rng.below(3);
                self.both("raise_remove_floor", |store| store.raise_remove_floor(floor));
                "raise_remove_floor"
            }
            92 => {
                self.both("clear_sessions", |store| store.clear_sessions());
                "clear_sessions"
            }
            93..96 => {
                self.both("sync", |store| store.sync(id));
                "sync"
            }
            96 => self.reopen(),
            97 => self.cut(),
            _ => {
                // Something else happens before this one is settled.
                return self.step();
            }
        };
        *self.steps.entry(what).or_default() += 1;
        if !self.rng.odds(1, 6) {
            self.settle(what);
        }
    }

    fn stage(&mut self, key: &ChunkKey, meta: Option<ChunkMeta>) -> &'static str {
        let size = self.size(meta);
        let (offset, len) = self.range(size);
        let op = match self.rng.below(10) {
            0 => Op::remove(),
            1 => Op::truncate(offset),
            2 => Op::extend(offset + len),
            3 => {
                let end = meta.and_then(|m| m.committed).map_or(0, |c| c.len);
                Op::write(end, len.min(size - end))
            }
            _ => Op::write(offset, len),
        };
        let payload = self.rng.bytes(op.payload_len() as usize);
        let base = meta.and_then(|m| m.committed).map_or(self.a.store.remove_floor(), |c| c.ver);
        let request = StageRequest {
            key: key.clone(),
            ver: base + 1,
            chain_ver: 4,
            tag: Tag { client: 7, channel: 1 + (self.next % 2) as u32, seq: self.next },
            op,
            chunk_size: size,
            payload: payload.into(),
        };
        self.both("stage", |store| store.stage(request.clone())).unwrap();
        "stage"
    }

    /// Everything ends; everything reported and held is the same.
    fn settle(&mut self, after: &str) {
        let (a, b) = (self.a.settle(), self.b.settle());
        assert_eq!(a, b, "reports after {after}");
        let bad = |t: &Told| matches!(t, Told::Failed | Told::StageFailed(..) | Told::Damaged(..));
        assert!(!a.iter().any(bad), "{a:?} {:?}", self.a.store.failure());
        self.compare(after);
    }

    fn compare(&mut self, after: &str) {
        self.both(after, |store| store.scan(b"", usize::MAX));
        self.both(after, |store| SmallState::of(store));
        self.both(after, |store| store.space().chunks);
        self.both(after, |store| store.verify()).unwrap();
    }

    /// Both are closed, or killed; and opened.
    fn reopen(&mut self) -> &'static str {
        self.settle("everything before a reopen");
        let close = self.rng.odds(1, 2);
        for side in [&mut self.a, &mut self.b] {
            if close {
                side.store.close(&mut Vec::new()).unwrap();
            }
            side.open(side.disk.fork());
        }
        self.compare("a reopen");
        self.bytes_are_equal("a reopen");
        if close { "close" } else { "kill" }
    }

    /// Both lose power while updates are on their way. What each still has of them may differ, but only in what was not
    /// reported: without it they are the same.
    fn cut(&mut self) -> &'static str {
        self.settle("everything before a power cut");
        let before = self.a.store.scan(b"", usize::MAX);
        for _ in 0..1 + self.rng.below(3) {
            let key = self.rng.pick(&self.keys);
            let meta = self.a.store.meta(&key);
            if meta.is_none_or(|m| m.staged.is_none()) {
                self.stage(&key, meta);
            }
        }
        let seed = self.rng.next();
        for side in [&mut self.a, &mut self.b] {
            let mut rng = Rng::new(seed);
            side.disk.set_held(true);
            for _ in 0..rng.below(4) {
                side.store.turn(1, &mut Vec::new());
                for _ in 0..rng.below(8) {
                    side.disk.run(rng.below(side.disk.waiting().max(1) as u64) as usize);
                }
            }
            let odds = rng.below(11);
            side.open(side.disk.crash(|_, _| rng.odds(odds, 10)));
            // What was staged before stays; what was on its way is taken back where it is found.
            for (key, meta) in side.store.scan(b"", usize::MAX) {
                let known = before.iter().any(|(k, m)| *k == key && m.staged.is_some());
                if let Some(s) = meta.staged.filter(|_| !known) {
                    side.store.unstage(&key, s.ver);
                }
            }
            side.settle();
        }
        let after = self.both("a power cut", |store| store.scan(b"", usize::MAX));
        assert_eq!(after, before, "a power cut takes only what was on its way");
        self.compare("a power cut");
        self.bytes_are_equal("a power cut");
        "power cut"
    }

    fn bytes_are_equal(&mut self, after: &str) {
        let (a, b) = (read_all(&mut self.a.store), read_all(&mut self.b.store));
        assert!(a == b, "bytes differ after {after}");
    }
}

fn run(seed: u64, steps: u64, a: &Params, b: &Params, sizes: &[u32]) -> BTreeMap<&'static str, u64> {
    let mut pair = Pair {
        a: Side::new(a),
        b: Side::new(b),
        rng: Rng::new(seed),
        keys: (0..8).map(|n| key(&format!("chunk {n}"))).collect(),
        sizes: sizes.to_vec(),
        next: 0,
        steps: BTreeMap::new(),
    };
    for _ in 0..steps {
        pair.step();
    }
    pair.settle("everything");
    pair.bytes_are_equal("everything");
    pair.steps
}

/// Every kind with every kind, the second one with another journal and more space.
fn pairs() -> impl Iterator<Item = (StoreKind, StoreKind)> {
    KINDS.iter().enumerate().flat_map(|(n, &a)| KINDS[n..].iter().map(move |&b| (a, b)))
}

#[test]
fn two_stores_answer_the_same() {
    let mut sum = BTreeMap::<&str, u64>::new();
    for (seed, (a, b)) in (1..=env("CATENA_DIFFERENTIAL_SEEDS", 8)).flat_map(|seed| pairs().map(move |p| (seed, p))) {
        let steps = run(seed, 1500, &params(a, 3000, 16), &params(b, 5000, 200), &[4096, 16384, 64 << 10, 96 << 10]);
        steps.iter().for_each(|(what, n)| *sum.entry(what).or_default() += n);
    }
    println!("{sum:?}");
    assert_eq!(sum.len(), 13, "{sum:?}");
}

#[test]
fn two_stores_with_large_chunks_answer_the_same() {
    for (seed, (a, b)) in (101..=103).flat_map(|seed| pairs().map(move |p| (seed, p))) {
        run(seed, 400, &params(a, 30_000, 64), &params(b, 30_000, 512), &[64 << 10, 1 << 20, 4 << 20]);
    }
}
