//! Targets written by earlier builds, kept in git: this build opens them and finds what was written, or refuses them by
//! name. So that the format on disk never changes unnoticed.
//!
//! A fixture is text: a line is an offset and bytes, all hexadecimal, or an offset, a byte and how often it is there; what is
//! not named is zero. `CATENA_WRITE_FIXTURES=1 cargo test -p catena-engine --test fixtures` writes those of this build's
//! format anew, into `tests/fixtures`: only after a change of the format version.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use catena_arena::Arena;
use catena_engine::disk::mem::MemDisk;
use catena_engine::offline::{Options, fsck};
use catena_engine::{CowStore, FORMAT, OpenError, Params, StoreKind};
use catena_types::crc::crc32c;
use catena_types::{ChunkKey, ChunkStore, Committed, Done, Op, OpKind, SessionId, SessionRow, StageRequest, Tag};

const CHUNK: u32 = 32 << 10;

/// What was done, in order.
enum Step {
    Stage(&'static str, Op, u8),
    Commit(&'static str),
    Unstage(&'static str),
    Install(&'static str, u32, u8),
    Purge(&'static str),
    Session(u64),
    Floor(u64),
    Checkpoint,
}

/// Some of everything, before and behind a checkpoint.
fn script() -> Vec<Step> {
    use Step::*;
    let long = "a chunk with a long name, so that it is clear that names are not cut off anywhere";
    vec![
        Stage("whole", Op::write(0, CHUNK), 1),
        Stage("part", Op::write(5000, 9000), 2),
        Stage("short", Op::write(0, 11), 3),
        Stage("gone", Op::write(0, 4096), 4),
        Commit("whole"),
        Commit("part"),
        Commit("short"),
        Commit("gone"),
        Install(long, 20_000, 5),
        Stage("whole", Op::write(8192, 4096), 6),
        Commit("whole"),
        Stage("gone", Op::remove(), 0),
        Commit("gone"),
        Session(70),
        Floor(3),
        Stage("short", Op::write(11, 5), 7),
        Checkpoint,
        Commit("short"),
        Stage("whole", Op::write(100, 20), 8),
        Commit("whole"),
        Stage("part", Op::truncate(6000), 0),
        Commit("part"),
        Stage("part", Op::extend(30_000), 0),
        Stage("new", Op::write(4096, 10_000), 9),
        Commit("new"),
        Stage("dropped", Op::write(0, 5000), 10),
        Unstage("dropped"),
        Install("purged", 100, 11),
        Purge("purged"),
        Stage(long, Op::write(4096, 4096), 12),
        Session(71),
    ]
}

/// Bytes that compress well and are different everywhere: every 100 bytes another.
fn content(len: u32, seed: u8) -> Bytes {
    (0..len).map(|i| seed.wrapping_mul(16).wrapping_add((i / 100) as u8)).collect::<Vec<u8>>().into()
}

fn key(name: &str) -> ChunkKey {
    ChunkKey::new(name.as_bytes()).unwrap()
}

/// Version and bytes of a chunk, committed and staged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    committed: Option<(u64, Vec<u8>)>,
    /// No bytes: a remove.
    staged: Option<(u64, Option<Vec<u8>>)>,
}

/// What must be found.
#[derive(Default)]
struct Expected {
    chunks: BTreeMap<ChunkKey, State>,
    floor: u64,
}

impl Expected {
    fn stage(&mut self, name: &str, op: Op, payload: &[u8]) -> u64 {
        let state = self.chunks.entry(key(name)).or_default();
        let (ver, mut bytes) = state.committed.clone().unwrap_or((self.floor, Vec::new()));
        bytes.resize(op.new_len(bytes.len() as u32) as usize, 0);
        if op.kind() == OpKind::Write {
            bytes[op.offset as usize..][..payload.len()].copy_from_slice(payload);
        }
        state.staged = Some((ver + 1, (op.kind() != OpKind::Remove).then_some(bytes)));
        ver + 1
    }

    fn commit(&mut self, name: &str) -> u64 {
        let state = self.chunks.get_mut(&key(name)).unwrap();
        let (ver, bytes) = state.staged.take().unwrap();
        if bytes.is_none() {
            self.floor = self.floor.max(ver);
        }
        state.committed = bytes.map(|bytes| (ver, bytes));
        ver
    }

    fn all(&self) -> BTreeMap<ChunkKey, State> {
        self.chunks.iter().filter(|(_, s)| **s != State::default()).map(|(k, s)| (k.clone(), s.clone())).collect()
    }
}

/// Plays the script into a model and, if there is one, a store.
fn play(mut store: Option<&mut CowStore<MemDisk>>) -> Expected {
    let mut expected = Expected::default();
    let mut now = 1;
    for (n, step) in (1..).zip(script()) {
        let tag = Tag { client: 7, channel: 1, seq: n };
        match step {
            Step::Stage(name, op, seed) => {
                let payload = content(op.payload_len(), seed);
                let ver = expected.stage(name, op, &payload);
                let (key, chain_ver, chunk_size, payload) = (key(name), 1, CHUNK, payload.into());
                let request = StageRequest { key, ver, chain_ver, tag, op, chunk_size, payload };
                store.as_mut().map(|s| s.stage(request)).transpose().unwrap();
            }
            Step::Commit(name) => {
                let ver = expected.commit(name);
                store.iter_mut().for_each(|s| s.commit(&key(name), ver, 2));
            }
            Step::Unstage(name) => {
                let (ver, _) = expected.chunks.get_mut(&key(name)).unwrap().staged.take().unwrap();
                store.iter_mut().for_each(|s| s.unstage(&key(name), ver));
            }
            Step::Install(name, len, seed) => {
                let bytes = content(len, seed);
                let committed = Committed { ver: 40, chain_ver: 3, len, checksum: crc32c(&bytes), tag };
                expected.chunks.insert(key(name), State { committed: Some((40, bytes.to_vec())), staged: None });
                store.as_mut().map(|s| s.install(n, &key(name), CHUNK, committed, bytes.into())).transpose().unwrap();
            }
            Step::Purge(name) => {
                expected.chunks.remove(&key(name));
                store.iter_mut().for_each(|s| s.purge(n, &key(name)));
            }
            Step::Session(seq) => {
                let row = SessionRow { seq, ver: 2, len: 3, checksum: 4, chain_ver: 5 };
                store.iter_mut().for_each(|s| s.put_session(SessionId { client: 9, channel: 0 }, row));
            }
            Step::Floor(floor) => {
                expected.floor = expected.floor.max(floor);
                store.iter_mut().for_each(|s| s.raise_remove_floor(floor));
            }
            Step::Checkpoint => store.iter_mut().for_each(|s| s.close(&mut Vec::new()).unwrap()),
        }
        store.iter_mut().for_each(|s| settle(s, &mut now));
    }
    expected
}

fn settle(store: &mut CowStore<MemDisk>, now: &mut u64) {
    let mut done = Vec::new();
    while store.busy() || store.next_wake().is_some() {
        *now += 10_000_000;
        store.wait();
        store.turn(*now, &mut done);
    }
    assert!(!done.iter().any(|d| matches!(d, Done::Failed { .. } | Done::StageFailed { .. })), "{done:?}");
}

/// What a store holds.
fn found(store: &mut CowStore<MemDisk>) -> BTreeMap<ChunkKey, State> {
    let mut out = BTreeMap::new();
    let metas = store.scan(b"", usize::MAX);
    let mut read = |key: &ChunkKey, ver| {
        store.read(1, key, ver, 0, u32::MAX);
        let mut done = Vec::new();
        while store.busy() {
            store.turn(0, &mut done);
        }
        let Some(Done::Read { result: Ok((bytes, _)), .. }) = done.pop() else { panic!("{key} {ver}: {done:?}") };
        bytes.to_vec()
    };
    for (key, meta) in metas {
        let committed = meta.committed.map(|c| (c.ver, read(&key, c.ver)));
        let staged = meta.staged.map(|s| (s.ver, (!s.remove).then(|| read(&key, s.ver))));
        out.insert(key, State { committed, staged });
    }
    out
}

fn params(kind: StoreKind) -> Params {
    let mut params = Params::new(*b"a fixture's uuid", 1 << 20);
    params.kind = kind;
    (params.journal, params.checkpoint, params.index) = (256 << 10, 64 << 10, 1 << 20);
    params.identity.cluster = 0xca7e4a;
    params.identity.target = 3;
    params
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}

fn encode(disk: &MemDisk) -> String {
    let mut out = String::new();
    for block in disk.blocks() {
        let bytes = disk.peek(block * 4096, 4096);
        let mut at = 0;
        while at < bytes.len() {
            let run = |from: usize| bytes[from..].iter().take_while(|&&b| b == bytes[from]).count();
            let same = run(at);
            let offset = block * 4096 + at as u64;
            if bytes[at] == 0 {
                at += same;
            } else if same > 8 {
                writeln!(out, "{offset:x} {:02x} {same:x}", bytes[at]).unwrap();
                at += same;
            } else {
                let end = (at + 1..bytes.len()).find(|&n| run(n) > 8).unwrap_or(bytes.len()).min(at + 48);
                let hex: String = bytes[at..end].iter().map(|b| format!("{b:02x}")).collect();
                writeln!(out, "{offset:x} {hex}").unwrap();
                at = end;
            }
        }
    }
    out
}

fn decode(text: &str) -> MemDisk {
    let disk = MemDisk::new();
    let number = |word: &str| u64::from_str_radix(word, 16).unwrap();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let mut bytes: Vec<u8> = (0..words[1].len() / 2).map(|i| number(&words[1][2 * i..2 * i + 2]) as u8).collect();
        if let Some(count) = words.get(2) {
            bytes = bytes.repeat(number(count) as usize);
        }
        disk.poke(number(words[0]), &bytes);
    }
    disk
}

fn load(name: &str) -> MemDisk {
    decode(&std::fs::read_to_string(path(name)).unwrap())
}

const KINDS: [(StoreKind, &str); 2] = [(StoreKind::Cow, "format-2-cow.txt"), (StoreKind::InPlace, "format-2-in-place.txt")];

#[test]
fn a_target_of_this_format_opens_with_all_that_was_written() {
    for (kind, name) in KINDS {
        if std::env::var_os("CATENA_WRITE_FIXTURES").is_some() {
            let disk = MemDisk::new();
            let mut store = CowStore::create(disk.clone(), &params(kind), &Arena::new(16 << 20)).unwrap();
            play(Some(&mut store));
            std::fs::write(path(name), encode(&disk.fork())).unwrap();
        }
        let disk = load(name);
        assert!(load(name).blocks() == decode(&encode(&disk)).blocks());
        let report = fsck(&disk, &Options::default(), &mut |_| {}).unwrap();
        assert!(report.findings.is_empty(), "{name}: {:#?}", report.findings);
        let expected = play(None);
        let mut store = CowStore::open(disk, &Arena::new(16 << 20)).unwrap();
        assert_eq!(store.params(), &params(kind), "{name}");
        assert!(store.recovery().checkpoint_chunks > 0 && store.recovery().replayed > 0, "{:?}", store.recovery());
        assert!(found(&mut store) == expected.all(), "{name}");
        assert_eq!(store.remove_floor(), expected.floor, "{name}");
        assert_eq!(store.session(SessionId { client: 9, channel: 0 }).unwrap().seq, 71, "{name}");
        assert!(store.session(SessionId { client: 7, channel: 1 }).is_some(), "{name}");
        store.verify().unwrap();
    }
}

#[test]
fn a_target_of_format_1_is_refused_by_name() {
    let disk = load("format-1.txt");
    let refused = |e: OpenError| {
        assert!(matches!(e, OpenError::UnknownFormat { found: 1, known: FORMAT, .. }), "{e}");
        assert!(e.to_string().contains("has disk format 1"), "{e}");
    };
    refused(fsck(&disk, &Options::default(), &mut |_| {}).unwrap_err());
    refused(CowStore::open(disk.clone(), &Arena::new(16 << 20)).err().unwrap());
    assert_eq!(encode(&disk), encode(&load("format-1.txt")), "it is left as it was");
}
