//! The hazards found in 3FS's chunk engine (H1 to H11 of its description), each as a test that this engine does not have it.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub, missing_docs)]
mod common;

use bytes::Bytes;
use catena_engine::CowStore;
use catena_engine::disk::mem::MemDisk;
use catena_types::crc::crc32c;
use catena_types::*;
use common::{CHUNK, arena, fresh, params};

fn key() -> ChunkKey {
    ChunkKey::new(b"k").unwrap()
}

fn other() -> ChunkKey {
    ChunkKey::new(b"other").unwrap()
}

fn request(key: &ChunkKey, ver: Ver, op: Op, payload: &[u8]) -> StageRequest<Bytes> {
    StageRequest {
        key: key.clone(),
        ver,
        chain_ver: 1,
        tag: Tag { client: 1, channel: 1, seq: ver },
        op,
        chunk_size: CHUNK,
        payload: Bytes::copy_from_slice(payload),
        payload_crc: crc32c(payload),
    }
}

fn turns(store: &mut CowStore<MemDisk>) -> Vec<Done<Bytes>> {
    let mut out = Vec::new();
    let mut now = 0;
    while store.busy() || store.next_wake().is_some() {
        now += 60_000_000;
        store.turn(now, &mut out);
    }
    out
}

fn write(store: &mut CowStore<MemDisk>, key: &ChunkKey, ver: Ver, op: Op, payload: &[u8]) {
    store.stage(request(key, ver, op, payload)).unwrap();
    let done = turns(store);
    assert!(done.iter().any(|d| matches!(d, Done::Staged { ver: v, .. } if *v == ver)), "{done:?}");
    store.commit(key, ver, 1);
}

fn read(store: &mut CowStore<MemDisk>, key: &ChunkKey, ver: Ver) -> Result<Bytes, Code> {
    store.read(99, key, ver, 0, u32::MAX);
    let done = turns(store);
    done.into_iter().find_map(|d| if let Done::Read { id: 99, result } = d { Some(result.map(|r| r.0)) } else { None }).unwrap()
}

/// H1: rot is not laundered by an update of part of the block; the rest of the chunk stays readable and updatable.
#[test]
fn rot_is_never_given_a_fresh_checksum() {
    for op in [Op::write(100, 50), Op::truncate(1000), Op::write(4000, 200)] {
        let (mut store, disk) = fresh(64, 16);
        let data: Vec<u8> = (0..20000u32).map(|i| i as u8).collect();
        write(&mut store, &key(), 1, Op::write(0, 20000), &data);
        turns(&mut store);
        let at = store.params().data_offset();
        disk.flip(at + 77, 3);
        assert_eq!(read(&mut store, &key(), 1), Err(Code::Corrupt));
        // A read that does not touch the block is good.
        store.read(1, &key(), 1, 4096, 4096);
        assert!(matches!(&turns(&mut store)[..], [Done::Read { result: Ok((b, _)), .. }] if b[..] == data[4096..8192]));
        store.stage(request(&key(), 2, op, &vec![9; op.payload_len() as usize])).unwrap();
        let done = turns(&mut store);
        assert!(matches!(done.last(), Some(Done::StageFailed { ver: 2, code: Code::Corrupt, .. })), "{done:?}");
        assert!(store.meta(&key()).unwrap().staged.is_none() && store.verify().is_ok());
        let mut reopened = CowStore::open(disk.fork(), &arena()).unwrap();
        assert_eq!(read(&mut reopened, &key(), 1), Err(Code::Corrupt));
    }
}

/// H1, the other side: an update that replaces the rotten block whole reads nothing and mends it.
#[test]
fn a_whole_block_overwrite_reads_nothing() {
    let (mut store, disk) = fresh(64, 16);
    write(&mut store, &key(), 1, Op::write(0, 8192), &[1; 8192]);
    turns(&mut store);
    disk.flip(store.params().data_offset() + 5, 0);
    store.stage(request(&key(), 2, Op::write(0, 4096), &[2; 4096])).unwrap();
    let done = turns(&mut store);
    assert!(matches!(&done[..], [Done::Staged { info, .. }] if info.blocks_read == 0 && info.blocks_written == 1), "{done:?}");
    store.commit(&key(), 2, 1);
    assert_eq!(read(&mut store, &key(), 2).unwrap(), [vec![2; 4096], vec![1; 4096]].concat());
}

/// H2: a refused update has written nothing.
#[test]
fn a_second_update_of_a_staged_chunk_changes_nothing() {
    let (mut store, _) = fresh(64, 16);
    store.stage(request(&key(), 1, Op::write(0, 3), b"one")).unwrap();
    assert_eq!(store.stage(request(&key(), 1, Op::write(0, 3), b"two")), Err(Code::InvalidArgument));
    turns(&mut store);
    store.commit(&key(), 1, 1);
    assert_eq!(read(&mut store, &key(), 1).unwrap(), "one");
}

/// H3: an interrupted remove is a staged remove after a restart, and the chunk is readable until it is committed.
#[test]
fn an_interrupted_remove_stays_a_remove() {
    let (mut store, disk) = fresh(64, 16);
    write(&mut store, &key(), 1, Op::write(0, 3), b"abc");
    store.stage(request(&key(), 2, Op::remove(), b"")).unwrap();
    turns(&mut store);
    let mut store = CowStore::open(disk.crash(|_, _| false), &arena()).unwrap();
    let meta = store.meta(&key()).unwrap();
    assert!(meta.staged.is_some_and(|s| s.remove && s.ver == 2 && s.durable));
    assert_eq!(read(&mut store, &key(), 1).unwrap(), "abc");
    store.commit(&key(), 2, 1);
    assert_eq!((store.meta(&key()), store.remove_floor(), store.space().chunks), (None, 2, 0));
    turns(&mut store);
    assert_eq!(store.space().used, 0);
}

/// H4: a reader keeps its version's bytes, whatever happens to the chunk and however long the disk takes.
#[test]
fn a_reader_keeps_its_version() {
    let (mut store, disk) = fresh(16, 16);
    write(&mut store, &key(), 1, Op::write(0, 32768), &[1; 32768]);
    turns(&mut store);
    disk.set_held(true);
    store.read(7, &key(), 1, 0, u32::MAX);
    let mut out = Vec::new();
    store.turn(0, &mut out);
    assert_eq!(disk.waiting(), 1);
    // Remove it and fill the space again and again; the read's operation stays at the front of the disk's queue.
    let run_all_but_read = |store: &mut CowStore<MemDisk>, out: &mut Vec<Done<Bytes>>| {
        for _ in 0..20 {
            while disk.waiting() > 1 {
                disk.run(1);
            }
            store.turn(u64::MAX / 2, out);
        }
    };
    store.stage(request(&key(), 2, Op::remove(), b"")).unwrap();
    run_all_but_read(&mut store, &mut out);
    store.commit(&key(), 2, 1);
    store.sync(5);
    run_all_but_read(&mut store, &mut out);
    assert!(out.iter().any(|d| matches!(d, Done::Synced { id: 5 })), "the remove is durable");
    assert_eq!(store.space().used, 32768, "the reader's blocks are not free yet");
    store.stage(request(&other(), 3, Op::write(0, 32768), &[2; 32768])).unwrap();
    assert_eq!(store.stage(request(&key(), 3, Op::write(0, 4096), &[3; 4096])), Err(Code::NoSpace));
    run_all_but_read(&mut store, &mut out);
    disk.set_held(false);
    out.extend(turns(&mut store));
    let bytes = out.iter().find_map(|d| if let Done::Read { result: Ok((b, _)), .. } = d { Some(b.clone()) } else { None });
    assert_eq!(bytes.unwrap(), vec![1; 32768]);
    assert_eq!(store.space().used, 32768, "the reader's blocks are free, the other chunk's are not");
    store.verify().unwrap();
}

/// As H4 for writes: blocks of an update that was dropped are not used again while its writes are on their way.
#[test]
fn a_dropped_update_keeps_its_blocks_until_its_writes_end() {
    let (mut store, disk) = fresh(16, 16);
    disk.set_held(true);
    store.stage(request(&key(), 1, Op::write(0, 65536), &[1; 65536])).unwrap();
    let mut out = Vec::new();
    store.turn(0, &mut out);
    assert_eq!(disk.waiting(), 2, "data and journal together");
    store.unstage(&key(), 1);
    assert_eq!(store.stage(request(&key(), 1, Op::write(0, 4096), &[2; 4096])), Err(Code::NoSpace));
    // The journal may go ahead, the data write is late.
    disk.run(1);
    store.turn(0, &mut out);
    assert!(out.is_empty());
    disk.set_held(false);
    out.extend(turns(&mut store));
    assert!(matches!(&out[..], [Done::Unstaged { ver: 1, .. }]), "{out:?}");
    assert_eq!(store.space().used, 0);
    write(&mut store, &key(), 1, Op::write(0, 4096), &[2; 4096]);
    store.verify().unwrap();
}

/// H5: an append to a partly filled block leaves the committed block alone.
#[test]
fn an_append_never_tears_committed_bytes() {
    let (mut store, disk) = fresh(64, 16);
    write(&mut store, &key(), 1, Op::write(0, 1000), &[1; 1000]);
    turns(&mut store);
    store.sync(1);
    turns(&mut store);
    store.stage(request(&key(), 2, Op::write(1000, 1000), &[2; 1000])).unwrap();
    let mut out = Vec::new();
    for _ in 0..2 {
        store.turn(0, &mut out);
    }
    for keep in [true, false] {
        let mut after = CowStore::open(disk.crash(|_, s| (s % 2 == 0) == keep), &arena()).unwrap();
        assert_eq!(read(&mut after, &key(), 1).unwrap(), vec![1; 1000]);
    }
}

/// H8: ranges at the end of the number space are refused, not wrapped.
#[test]
fn huge_ranges_are_refused() {
    let (mut store, _) = fresh(64, 16);
    let wild = request(&key(), 1, Op::write(u32::MAX - 4095, 8192), &[0; 8192]);
    assert_eq!(store.stage(wild), Err(Code::InvalidArgument));
    write(&mut store, &key(), 1, Op::write(0, 10), &[5; 10]);
    store.read(1, &key(), 1, u32::MAX, u32::MAX);
    assert!(matches!(&turns(&mut store)[..], [Done::Read { result: Ok((b, 0)), .. }] if b.is_empty()));
    assert_eq!(store.stats().misuse, 1);
}

/// H10: a read does not wait for a commit on its way to the disk.
#[test]
fn a_read_overtakes_a_flush() {
    let (mut store, disk) = fresh(64, 16);
    write(&mut store, &key(), 1, Op::write(0, 10), &[5; 10]);
    let mut out = Vec::new();
    disk.set_held(true);
    store.sync(1);
    store.turn(0, &mut out);
    store.read(2, &key(), 1, 0, 10);
    store.turn(0, &mut out);
    let last = disk.waiting() - 1;
    disk.run(last);
    store.turn(0, &mut out);
    assert!(matches!(&out[..], [Done::Read { id: 2, result: Ok(_) }]), "{out:?}");
}

/// H11: a removed chunk's blocks are not used again before the remove is durable.
#[test]
fn freed_blocks_wait_for_the_record_that_frees_them() {
    let (mut store, disk) = fresh(16, 16);
    write(&mut store, &key(), 1, Op::write(0, 65536), &[1; 65536]);
    turns(&mut store);
    store.stage(request(&key(), 2, Op::remove(), b"")).unwrap();
    turns(&mut store);
    store.commit(&key(), 2, 1);
    assert_eq!(store.stage(request(&other(), 3, Op::write(0, 65536), &[2; 65536])), Err(Code::NoSpace));
    let mut before = CowStore::open(disk.crash(|_, _| false), &arena()).unwrap();
    assert_eq!(read(&mut before, &key(), 1).unwrap(), vec![1; 65536]);
    // Its record is written, but not flushed.
    disk.set_held(true);
    store.sync(5);
    let mut out = Vec::new();
    for _ in 0..3 {
        store.turn(0, &mut out);
        if disk.waiting() > 0 && !disk.flush_waits() {
            disk.run(0);
        }
    }
    assert!(disk.flush_waits() && out.is_empty());
    assert_eq!(store.stage(request(&other(), 3, Op::write(0, 65536), &[2; 65536])), Err(Code::NoSpace));
    disk.set_held(false);
    turns(&mut store);
    store.stage(request(&other(), 3, Op::write(0, 65536), &[2; 65536])).unwrap();
    turns(&mut store);
    let mut after = CowStore::open(disk.crash(|_, _| false), &arena()).unwrap();
    assert_eq!((after.meta(&key()), read(&mut after, &other(), 3).is_ok()), (None, true));
}

/// Amendment M6: rot in an acknowledged update that a later append knows durable is kept and read as corrupt, not dropped.
#[test]
fn rot_in_an_acknowledged_update_is_kept() {
    let (mut store, disk) = fresh(64, 16);
    write(&mut store, &key(), 1, Op::write(0, 10), &[5; 10]);
    write(&mut store, &other(), 1, Op::write(0, 10), &[6; 10]);
    turns(&mut store);
    disk.flip(store.params().data_offset() + 5, 0);
    let mut after = CowStore::open(disk.fork(), &arena()).unwrap();
    assert_eq!(after.recovery().dropped, 0);
    assert_eq!(read(&mut after, &key(), 1), Err(Code::Corrupt));
    assert_eq!(read(&mut after, &other(), 1).unwrap(), vec![6; 10]);
}

/// Commit records wait for company, but not for ever.
#[test]
fn an_idle_commit_is_flushed_after_a_while() {
    let (mut store, disk) = fresh(64, 16);
    store.stage(request(&key(), 1, Op::write(0, 10), &[5; 10])).unwrap();
    turns(&mut store);
    let mut out = Vec::new();
    store.turn(1_000_000_000_000, &mut out);
    store.commit(&key(), 1, 1);
    let ops = disk.ops();
    store.turn(1_000_010_000_000, &mut out);
    assert!(!store.busy() && disk.ops() == ops);
    let wake = store.next_wake().unwrap();
    assert!(wake <= 1_000_050_000_000, "{wake}");
    store.turn(wake, &mut out);
    turns(&mut store);
    let after = CowStore::open(disk.crash(|_, _| false), &arena()).unwrap();
    assert_eq!(after.meta(&key()).unwrap().commit_ver(), 1);
}

/// Damage of one superblock copy is mended; of both, named.
#[test]
fn superblock_damage_is_mended_or_named() {
    let (mut store, disk) = fresh(64, 16);
    write(&mut store, &key(), 1, Op::write(0, 10), &[5; 10]);
    store.close(&mut Vec::new()).unwrap();
    for copy in [0, 32768] {
        let damaged = disk.fork();
        damaged.flip(copy + 40, 1);
        let after = CowStore::open(damaged.clone(), &arena()).unwrap();
        assert!(after.recovery().superblock_repaired && after.meta(&key()).is_some());
        assert!(!CowStore::open(damaged, &arena()).unwrap().recovery().superblock_repaired);
    }
    disk.flip(40, 1);
    disk.flip(32768 + 40, 1);
    let e = CowStore::open(disk, &arena()).err().unwrap().to_string();
    assert!(e.contains("both copies of the superblock"), "{e}");
    let e = CowStore::open(MemDisk::new(), &arena()).err().unwrap().to_string();
    assert!(e.contains("empty"), "{e}");
    let bad = CowStore::create(MemDisk::new(), &catena_engine::Params { journal: 4096, ..params(4, 16) }, &arena());
    assert!(bad.err().unwrap().to_string().contains("journal"));
}
