//! The hazards found in 3FS's chunk engine (H1 to H11 of its description), each as a test that this engine does not have it.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use catena_engine::disk::mem::MemDisk;
use catena_engine::{CowStore, StoreKind};
use catena_types::crc::crc32c;
use catena_types::*;
use common::direct::{CHUNK, committed, read, request, sized, turns, update, write};
use common::{KINDS, POISON, Rng, World, arena, params};

fn key() -> ChunkKey {
    common::direct::key("k")
}

fn other() -> ChunkKey {
    common::direct::key("other")
}

fn fresh(capacity_blocks: u64, journal_blocks: u64) -> (CowStore<MemDisk>, MemDisk) {
    common::fresh(StoreKind::Cow, capacity_blocks, journal_blocks)
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

/// H6: nothing is reported before a flush has covered its data and its record, in whatever order the disk does things.
#[test]
fn nothing_is_reported_before_it_is_durable() {
    for (seed, &kind) in (1..=40).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let (mut store, disk) = common::fresh(kind, 200, 16);
        let mut rng = Rng::new(seed);
        disk.set_held(true);
        let mut reported = 0;
        for n in 0..6u64 {
            let fill = vec![n as u8; 3000 + 5000 * n as usize];
            store.stage(request(&common::direct::key(&format!("{n}")), 1, Op::write(0, fill.len() as u32), &fill)).unwrap();
        }
        while reported < 6 {
            if disk.waiting() > 0 {
                disk.run(rng.below(disk.waiting() as u64) as usize);
            }
            let mut out = Vec::new();
            store.turn(1, &mut out);
            for done in out {
                let Done::Staged { key, ver, info } = done else { panic!("{done:?}") };
                reported += 1;
                let mut after = CowStore::open(disk.crash(|_, _| false), &arena()).unwrap();
                let bytes = read(&mut after, &key, ver);
                assert!(bytes.is_ok_and(|b| crc32c(&b) == info.checksum), "seed {seed}: {key} was reported too early");
            }
        }
    }
}

/// H7: whatever ends badly leaves nothing behind that refuses the next update of the chunk.
#[test]
fn what_was_refused_or_dropped_blocks_nothing() {
    for &kind in KINDS.iter() {
        let (mut store, disk) = common::fresh(kind, 16, 16);
        // No space; a payload that is not what it says.
        update(&mut store, sized(&other(), 1, Op::write(0, 16384), &[9; 16384], 16384));
        turns(&mut store);
        let before = (store.space(), store.meta(&key()));
        assert_eq!(store.stage(request(&key(), 1, Op::write(0, CHUNK), &vec![1; CHUNK as usize])), Err(Code::NoSpace));
        let lie = Committed { checksum: 1, ..committed(1, b"abc") };
        assert_eq!(store.install(1, &key(), 4096, lie, Bytes::from_static(b"abc").into()), Err(Code::PayloadCorrupt));
        assert_eq!((store.space(), store.meta(&key())), before);
        // Dropped at every moment of its life; the next one is taken at once.
        for steps in 0..8 {
            disk.set_held(true);
            let small = StageRequest { chunk_size: 4096, ..request(&key(), 1, Op::write(0, 100), &[1; 100]) };
            store.stage(small).unwrap();
            let mut out = Vec::new();
            for _ in 0..steps {
                store.turn(1, &mut out);
                disk.run(0);
            }
            store.unstage(&key(), 1);
            let next = StageRequest { chunk_size: 4096, ..request(&key(), 1, Op::write(0, 200), &[2; 200]) };
            store.stage(next).unwrap();
            disk.set_held(false);
            out.extend(turns(&mut store));
            let last = out.iter().rev().find_map(|d| if let Done::Staged { info, .. } = d { Some(info.len) } else { None });
            assert_eq!(last, Some(200), "after {steps} steps: {out:?}");
            store.unstage(&key(), 1);
            turns(&mut store);
            store.verify().unwrap();
        }
        assert_eq!(store.space().chunks, 1);
    }
}

/// Calls that break the contract are counted and change nothing.
#[test]
fn calls_that_break_the_contract_change_nothing() {
    for &kind in KINDS.iter() {
        let (mut store, disk) = common::fresh(kind, 200, 16);
        write(&mut store, &key(), 1, Op::write(0, 9000), &[1; 9000]);
        turns(&mut store);
        disk.set_held(true);
        store.stage(request(&key(), 2, Op::write(100, 50), &[2; 50])).unwrap();
        store.stage(request(&other(), 1, Op::write(0, 50), &[3; 50])).unwrap();
        let before = (store.scan(b"", 9), store.space(), store.remove_floor());
        let mut misuse = 0;
        let mut unchanged = |store: &CowStore<MemDisk>, what: &str| {
            misuse += 1;
            assert_eq!(store.stats().misuse, misuse, "{what} is counted");
            assert_eq!((store.scan(b"", 9), store.space(), store.remove_floor()), before, "{what}");
            store.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
        };
        store.commit(&key(), 2, 1);
        unchanged(&store, "a commit of what is not durable");
        store.commit(&key(), 3, 1);
        unchanged(&store, "a commit of what is not staged");
        store.commit(&common::direct::key("nothing"), 1, 1);
        unchanged(&store, "a commit of nothing");
        assert!(store.stage(request(&key(), 2, Op::truncate(1), b"")).is_err());
        unchanged(&store, "a second update");
        assert!(store.stage(sized(&common::direct::key("odd"), 1, Op::truncate(1), b"", 5000)).is_err());
        unchanged(&store, "a chunk size that is none");
        assert!(store.stage(request(&common::direct::key("short"), 1, Op::write(0, 5), b"four")).is_err());
        unchanged(&store, "a payload that is too short");
        store.unstage(&key(), 7);
        unchanged(&store, "an unstage of what is not staged");
        disk.set_held(false);
        let done = turns(&mut store);
        assert_eq!(done.iter().filter(|d| matches!(d, Done::Staged { .. })).count(), 2, "{done:?}");
        assert!(done.iter().any(|d| matches!(d, Done::Unstaged { ver: 7, .. })), "every unstage ends");
        store.commit(&key(), 2, 1);
        assert!(read(&mut store, &key(), 2).is_ok_and(|b| b.len() == 9000 && b[100..150] == [2; 50]));
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

/// H9: what runs in the background drops nothing: every field of every chunk is the same after checkpoints and restarts.
#[test]
fn nothing_is_dropped_by_checkpoints() {
    for &kind in KINDS.iter() {
        let (mut store, disk) = common::fresh(kind, 4000, 16);
        store.set_checkpoint_pace(40, 1);
        let mut rng = Rng::new(9);
        let mut held = Vec::new();
        for n in 0..60u32 {
            let k = common::direct::key(&format!("{n}"));
            let tag = Tag { client: rng.next(), channel: n, seq: rng.next() };
            let len = 1 + rng.below(9000) as usize;
            let payload = rng.bytes(len);
            let committed = Committed { tag, chain_ver: rng.next(), ..committed(1 + rng.next() / 2, &payload) };
            store.install(1, &k, 4096 * (3 + n), committed, payload.into()).unwrap();
            if n % 3 == 0 {
                let tag = Tag { client: rng.next(), channel: n + 1, seq: rng.next() };
                let op = if n % 2 == 0 { Op::remove() } else { Op::truncate(n) };
                let request = request(&k, committed.ver + 1 + rng.below(3), op, b"");
                store.stage(StageRequest { tag, chain_ver: rng.next(), chunk_size: 4096 * (3 + n), ..request }).unwrap();
            }
            turns(&mut store);
            held.push((k.clone(), store.meta(&k).unwrap()));
        }
        held.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(store.scan(b"", 99), held);
        store.close(&mut Vec::new()).unwrap();
        assert!(store.stats().checkpoints > 0);
        for round in 0..3 {
            let mut again = CowStore::open(disk.fork(), &arena()).unwrap();
            assert_eq!(again.scan(b"", 99), held, "round {round}");
            again.close(&mut Vec::new()).unwrap();
        }
    }
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

/// 3FS writes what its buffers held before into the padding of a chunk's last block. Here memory of something else never
/// reaches the disk, nor a reader.
#[test]
fn old_memory_never_reaches_the_disk() {
    for &kind in KINDS.iter() {
        let (store, disk) = common::fresh(kind, 400, 16);
        let mut world = World::new(store, 3, 6);
        for n in 0..600 {
            if n % 5 == 0 {
                // Whoever has had a buffer leaves it full of this.
                let mut buf = arena().take_or_alloc(4096 << (n % 25 / 5));
                buf.as_mut_capacity().fill(POISON);
            }
            world.step();
        }
        world.settle();
        world.store.close(&mut Vec::new()).unwrap();
        for block in disk.blocks() {
            let bytes = disk.peek(block * 4096, 4096);
            assert!(!bytes.windows(16).any(|w| w == [POISON; 16]), "block {block} holds old memory");
        }
    }
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
    let bad =
        CowStore::create(MemDisk::new(), &catena_engine::Params { journal: 4096, ..params(StoreKind::Cow, 4, 16) }, &arena());
    assert!(bad.err().unwrap().to_string().contains("journal"));
}
