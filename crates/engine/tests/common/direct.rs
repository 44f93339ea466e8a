//! Calls by hand, for tests of one thing.

use bytes::Bytes;
use catena_engine::disk::mem::MemDisk;
use catena_engine::{CowStore, StoreKind};
use catena_types::crc::crc32c;
use catena_types::*;

/// Chunk size of [`request`].
pub const CHUNK: u32 = 64 << 10;

pub fn key(name: &str) -> ChunkKey {
    ChunkKey::new(name.as_bytes()).unwrap()
}

pub fn request(key: &ChunkKey, ver: Ver, op: Op, payload: &[u8]) -> StageRequest<Bytes> {
    StageRequest {
        key: key.clone(),
        ver,
        chain_ver: 1,
        tag: Tag { client: 1, channel: 1, seq: ver },
        op,
        chunk_size: CHUNK,
        payload: Bytes::copy_from_slice(payload).into(),
    }
}

/// As [`request`], for a chunk of another size.
pub fn sized(key: &ChunkKey, ver: Ver, op: Op, payload: &[u8], chunk_size: u32) -> StageRequest<Bytes> {
    StageRequest { chunk_size, ..request(key, ver, op, payload) }
}

/// What an install is told about `bytes`.
pub fn committed(ver: Ver, bytes: &[u8]) -> Committed {
    let tag = Tag { client: 2, channel: 2, seq: ver };
    Committed { ver, chain_ver: 3, len: bytes.len() as u32, checksum: crc32c(bytes), tag }
}

/// Turns until nothing is in flight and nothing waits.
pub fn turns(store: &mut CowStore<MemDisk>) -> Vec<Done<Bytes>> {
    let mut out = Vec::new();
    let mut now = 0u64;
    while store.busy() || store.next_wake().is_some() {
        now = now.max(store.next_wake().unwrap_or(0)).saturating_add(60_000_000);
        store.turn(now, &mut out);
    }
    out
}

/// Stages and commits.
pub fn write(store: &mut CowStore<MemDisk>, key: &ChunkKey, ver: Ver, op: Op, payload: &[u8]) {
    update(store, request(key, ver, op, payload));
}

/// As [`write`].
pub fn update(store: &mut CowStore<MemDisk>, request: StageRequest<Bytes>) {
    let (key, ver) = (request.key.clone(), request.ver);
    store.stage(request).unwrap();
    let done = turns(store);
    assert!(done.iter().any(|d| matches!(d, Done::Staged { key: k, ver: v, .. } if *k == key && *v == ver)), "{done:?}");
    store.commit(&key, ver, 1);
}

/// The whole of a version.
pub fn read(store: &mut CowStore<MemDisk>, key: &ChunkKey, ver: Ver) -> Result<Bytes, Code> {
    read_at(store, key, ver, 0, u32::MAX)
}

/// A part of a version.
pub fn read_at(store: &mut CowStore<MemDisk>, key: &ChunkKey, ver: Ver, offset: u32, len: u32) -> Result<Bytes, Code> {
    const ID: u64 = u64::MAX - 99;
    store.read(ID, key, ver, offset, len);
    let found = |d| if let Done::Read { id: ID, result } = d { Some(result.map(|r| r.0)) } else { None };
    turns(store).into_iter().find_map(found).unwrap()
}

/// Opens a disk.
pub fn open(disk: MemDisk) -> CowStore<MemDisk> {
    let store = CowStore::open(disk, &super::arena()).unwrap();
    store.verify().unwrap();
    store
}

/// A store in place: a commit follows an update of another chunk in the last append of the journal, and what that update
/// wrote rots. With it goes the commit, and the version before it has to be there still.
pub fn rot_in_the_last_append_undoes_a_commit() {
    let (mut store, disk) = super::fresh(StoreKind::InPlace, 64, 40);
    let (chunk, other) = (key("k"), key("other"));
    write(&mut store, &chunk, 1, Op::write(0, 8192), &[1; 8192]);
    turns(&mut store);
    store.stage(request(&chunk, 2, Op::write(0, 4096), &[2; 4096])).unwrap();
    turns(&mut store);
    store.stage(request(&other, 1, Op::write(0, 4096), &[3; 4096])).unwrap();
    store.commit(&chunk, 2, 1);
    let mut done = Vec::new();
    (0..20).for_each(|_| store.turn(0, &mut done));
    assert!(done.iter().any(|d| matches!(d, Done::Staged { key, .. } if *key == other)), "{done:?}");
    let mut store = open(without(&store, &disk, 3));
    let ver = store.meta(&chunk).unwrap().commit_ver();
    assert!(store.meta(&other).is_none(), "the update that rotted was not known durable");
    assert_eq!(read(&mut store, &chunk, ver).unwrap(), [1; 8192][..], "version {ver}");
}

/// A copy of the disk on which the data block full of `byte` is lost.
fn without(store: &CowStore<MemDisk>, disk: &MemDisk, byte: u8) -> MemDisk {
    let data = store.params().data_offset() / 4096;
    let lost = disk.blocks().into_iter().find(|&b| b >= data && disk.peek(b * 4096, 4096) == [byte; 4096]).unwrap();
    let disk = disk.fork();
    disk.poke(lost * 4096, &[0; 4096]);
    disk
}

/// Two updates share the last append of the journal, and the data of the later one is not there: the earlier one stays,
/// also when life goes on behind it and the target is opened once more.
pub fn the_end_of_the_journal_is_written_again() {
    for kind in [StoreKind::Cow, StoreKind::InPlace] {
        let (mut store, disk) = super::fresh(kind, 64, 40);
        for (name, byte) in [("a", 1), ("b", 2)] {
            store.stage(request(&key(name), 1, Op::write(0, 4096), &[byte; 4096])).unwrap();
        }
        turns(&mut store);
        let disk = without(&store, &disk, 2);
        let mut store = open(disk.clone());
        let there = |store: &CowStore<MemDisk>| ["a", "b", "c"].map(|name| store.meta(&key(name)).is_some());
        assert_eq!((there(&store), store.recovery().dropped), ([true, false, false], 1), "{kind:?}");
        write(&mut store, &key("c"), 1, Op::write(0, 4096), &[3; 4096]);
        let store = open(disk.fork());
        assert_eq!((there(&store), store.recovery().dropped), ([true, false, true], 0), "{kind:?}");
    }
}
