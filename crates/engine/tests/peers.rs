//! Bugs that 3FS's chunk engine had (E1 to E11 of the list kept of them), each as a test that this engine does not have it.
//!
//! A test is named after its entry. Where the bug cannot exist here by construction, the property that replaces it is
//! tested.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use catena_engine::disk::file::{Backend, Ring, probe};
use catena_engine::disk::mem::{Event, MemDisk};
use catena_engine::disk::{Disk, Io, IoOp};
use catena_engine::{Background, CowStore, StoreKind};
use catena_types::crc::crc32c;
use catena_types::*;
use common::cuts::{Counts, Cuts, Trace};
use common::direct::{CHUNK, committed, key, open, read, read_at, request, sized, turns, write};
use common::*;

/// A recorded script on a slow disk whose every power cut is tried.
fn cut_everywhere(kind: StoreKind, seed: u64, capacity: u64, keys: usize, script: impl FnOnce(&mut World<MemDisk>)) {
    let (store, disk) = fresh(kind, capacity, 16);
    let mut world = World::new(store, seed, keys);
    world.mix = WRITES;
    world.sizes = vec![16384];
    let trace = Trace::record(seed, &disk, world, |world| {
        disk.set_held(true);
        world.slow = Some(disk.clone());
        script(world);
        world.settle();
    });
    let mut counts = Counts::default();
    Cuts::new(&trace, &mut counts).enumerate(12, u64::MAX);
    assert!(counts.images > 20, "{counts:?}");
}

fn commit_staged(world: &mut World<MemDisk>, key: &ChunkKey) {
    let state = world.state(key);
    let ver = state.staged.as_ref().unwrap().ver;
    world.commit(key, &state, ver);
}

/// Stages and commits a whole chunk of 16 KiB.
fn put(world: &mut World<MemDisk>, key: &ChunkKey) {
    let payload = world.rng.bytes(16384);
    assert!(world.stage_op(key, 16384, Op::write(0, 16384), payload));
    world.settle();
    commit_staged(world, key);
}

/// E1 (#251, #252, #238): a batch of removes gave positions back before it was durable; another chunk took one, and after a
/// crash two chunks claimed it. Here no block is handed out before the removal is durable, and a power cut at any write
/// leaves every chunk whole or gone, and blocks and owners one to one.
#[test]
fn e1_blocks_are_not_reused_before_their_removal_is_durable() {
    for (seed, &kind) in (1..=12).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        // Four chunks fill the target.
        cut_everywhere(kind, seed, 16, 6, |world| {
            let keys = world.keys.clone();
            keys[..4].iter().for_each(|k| put(world, k));
            world.settle();
            for k in &keys[..4] {
                if seed % 3 > 0 {
                    assert!(world.stage_op(k, 16384, Op::remove(), Bytes::new()));
                }
            }
            world.settle();
            for k in &keys[..4] {
                if seed % 3 > 0 { commit_staged(world, k) } else { world.purge(k) }
            }
            // Whoever wants the space has to wait.
            let mut refused = 0;
            for k in &keys[4..] {
                let payload = world.rng.bytes(16384);
                while !world.stage_op(k, 16384, Op::write(0, 16384), payload.clone()) {
                    refused += 1;
                    world.turn();
                    assert!(refused < 10_000, "the space never comes back");
                }
            }
            assert!(refused > 0, "space was given away before the removal was durable");
            world.settle();
            keys[4..].iter().for_each(|k| commit_staged(world, k));
        });
    }
}

/// E1 once more: a chunk that came and went in one group leaves nothing that a later power cut could trip over, although
/// its blocks belong to another chunk by then.
#[test]
fn e1_a_chunk_that_came_and_went_in_one_group_is_not_missed() {
    for &kind in KINDS.iter() {
        let (mut store, disk) = fresh(kind, 32, 16);
        // All but one chunk's worth of space is taken.
        write(&mut store, &key("filler"), 1, Op::write(0, CHUNK - 8192), &vec![9; CHUNK as usize - 8192]);
        turns(&mut store);
        let short = committed(1, &[1; 4096]);
        store.install(1, &key("gone"), 4096, short, Bytes::from(vec![1; 4096]).into()).unwrap();
        store.purge(2, &key("gone"));
        store.stage(sized(&key("kept"), 1, Op::write(0, 4096), &[2; 4096], 4096)).unwrap();
        let done = turns(&mut store);
        assert!(done.iter().any(|d| matches!(d, Done::Staged { .. })), "{done:?}");
        // The blocks are used again, and the power fails while they are being written.
        disk.set_held(true);
        let mut ver = 1;
        while store.stage(sized(&key(&format!("next {ver}")), ver, Op::write(0, 4096), &[3; 4096], 4096)).is_ok() {
            ver += 1;
        }
        store.turn(1, &mut Vec::new());
        while disk.waiting() > 0 {
            disk.run(0);
        }
        let data = store.params().data_offset();
        for loose in disk.image().loose().into_iter().filter(|l| l.offset >= data) {
            let mut after = open(disk.image().cut_to([loose].into_iter()).disk());
            let kept = read(&mut after, &key("kept"), 1);
            assert!(kept.is_ok_and(|b| b == vec![2; 4096]), "lost, though acknowledged; torn at {}", loose.offset);
        }
    }
}

/// E2 (#322): a remove raced a background move and corrupted metadata. Here every order of updates, removes, purges and
/// replacements of the same two chunks, with readers that stay and a disk that does things in any order, agrees with the
/// model.
#[test]
fn e2_removes_and_replacements_in_any_order() {
    for (seed, &kind) in (1..=30).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let (store, disk) = fresh(kind, 64, 16);
        let mut world = World::new(store, seed, 2);
        world.sizes = vec![16384];
        world.mix = Mix { update: 300, read: 100, install: 80, purge: 60, removes: 50, turn: 20, ..Mix::default() };
        disk.set_held(true);
        (world.slow, world.slow_reads) = (Some(disk.clone()), true);
        for n in 0..1000 {
            world.step();
            if n % 3 > 0 {
                world.turn();
            }
            world.compare();
        }
        world.settle();
        world.reopen(disk.fork(), &format!("seed {seed}"));
        world.end();
    }
}

/// E2 as it was there: chunks that are being moved together are updated, removed, purged, replaced and read meanwhile, with a
/// power cut at any write.
#[test]
fn e2_removes_and_updates_of_chunks_on_the_move() {
    let moved = Cell::new(0);
    for seed in (1..=8).filter(|_| KINDS.contains(&StoreKind::Cow)) {
        cut_everywhere(StoreKind::Cow, seed, 400, 3, |world| {
            world.with_background(Background { scrub_rate: 0, punch_after: None, ..BUSY });
            let keys = world.keys.clone();
            for block in [None, Some(0), Some(2), Some(4), Some(6), Some(8), Some(10), Some(12), Some(14)] {
                let (at, len) = block.map_or((0, 65536), |n| (n * 4096, 4096));
                for k in &keys {
                    let payload = world.rng.bytes(len as usize);
                    assert!(world.stage_op(k, 65536, Op::write(at, len), payload));
                }
                world.settle();
                keys.iter().for_each(|k| commit_staged(world, k));
            }
            // Reads that take many operations have the chunks moved.
            keys.iter().for_each(|k| world.read_whole(k));
            for _ in 0..400 {
                let k = world.rng.pick(&keys);
                match world.rng.below(400) {
                    0..2 => world.purge(&k),
                    2..4 => world.install(&k),
                    4..14 => world.update(&k, &world.state(&k)),
                    14..20 => world.read_whole(&k),
                    _ => world.turn(),
                }
            }
            moved.set(moved.get() + world.store.stats().compacted);
        });
    }
    println!("{} chunks moved", moved.get());
    assert!(moved.get() > 6 || !KINDS.contains(&StoreKind::Cow));
}

/// E3 (#325): metadata was compared by value, so that a chunk removed and created anew with equal metadata passed for the
/// old one. Here readers and updates that began on the old one neither see nor touch the new one.
#[test]
fn e3_a_chunk_created_anew_with_the_same_version_is_another_one() {
    for &kind in KINDS.iter() {
        let (mut store, disk) = fresh(kind, 64, 16);
        let (old, new) = (vec![1u8; 16384], vec![2u8; 16384]);
        store.install(1, &key("k"), 16384, committed(5, &old), Bytes::from(old.clone()).into()).unwrap();
        turns(&mut store);
        disk.set_held(true);
        let mut out = Vec::new();
        // A reader, and an update that reads what it keeps of a block: both wait for the disk.
        store.read(2, &key("k"), 5, 0, u32::MAX);
        store.stage(sized(&key("k"), 6, Op::write(100, 50), &[7; 50], 16384)).unwrap();
        store.turn(1, &mut out);
        assert!(disk.waiting() >= 1 && out.is_empty());
        store.purge(3, &key("k"));
        store.install(4, &key("k"), 16384, committed(5, &new), Bytes::from(new.clone()).into()).unwrap();
        // The same update of the new chunk.
        store.stage(sized(&key("k"), 6, Op::write(200, 50), &[8; 50], 16384)).unwrap();
        store.read(5, &key("k"), 5, 0, u32::MAX);
        disk.set_held(false);
        out.extend(turns(&mut store));
        let staged = out.iter().filter(|d| matches!(d, Done::Staged { ver: 6, .. })).count();
        assert_eq!(staged, 1, "only the second update is reported: {out:?}");
        let bytes = |wanted: u64| {
            let found = |d: &Done<Bytes>| {
                if let Done::Read { id, result: Ok((b, _)) } = d { (*id == wanted).then(|| b.clone()) } else { None }
            };
            out.iter().find_map(found).unwrap()
        };
        assert!(bytes(2) == old && bytes(5) == new);
        store.commit(&key("k"), 6, 1);
        let mut wanted = new.clone();
        wanted[200..250].fill(8);
        assert_eq!(read(&mut store, &key("k"), 6), Ok(wanted.clone().into()));
        store.sync(9);
        turns(&mut store);
        assert_eq!(read(&mut open(disk.crash(|_, _| false)), &key("k"), 6), Ok(wanted.into()));
    }
}

/// E4 (#326): batches locked chunks in any order and could deadlock, and a removal was counted from a stale scan. Here
/// batches over all chunks in any order, the same ones twice among them, all end; and the count is exact at once.
#[test]
fn e4_batches_in_any_order_end_and_are_counted_exactly() {
    for &kind in KINDS.iter() {
        let (mut store, _) = fresh(kind, 4000, 64);
        let mut rng = Rng::new(4);
        let keys: Vec<_> = (0..100).map(|n| key(&format!("chunk {n}"))).collect();
        let shuffled = |rng: &mut Rng| {
            let mut order: Vec<_> = keys.clone();
            (0..order.len()).for_each(|i| order.swap(i, rng.below(100) as usize));
            order
        };
        let mut ver = 0;
        for round in 0..5 {
            ver += 1;
            for k in shuffled(&mut rng) {
                store.stage(sized(&k, ver, Op::write(0, 5000), &[round; 5000], 8192)).unwrap();
            }
            assert_eq!(turns(&mut store).len(), 100);
            shuffled(&mut rng).iter().for_each(|k| store.commit(k, ver, 1));
            assert_eq!(store.space().chunks, 100);
            // Half of them go, in two batches that overlap; some of them were never there.
            let mut gone = BTreeSet::new();
            for (id, k) in shuffled(&mut rng).into_iter().take(40).chain(shuffled(&mut rng).into_iter().take(40)).enumerate() {
                store.purge(id as u64, &k);
                gone.insert(k);
                store.purge(1000 + id as u64, &key(&format!("never {id}")));
                assert_eq!(store.space().chunks, 100 - gone.len() as u64);
            }
            let ids: BTreeSet<_> =
                turns(&mut store).into_iter().map(|d| if let Done::Synced { id } = d { id } else { panic!() }).collect();
            assert_eq!(ids.len(), 160, "every call ends once");
            assert_eq!(store.scan(b"", usize::MAX).len(), 100 - gone.len());
            store.verify().unwrap();
            let left: Vec<_> = keys.iter().filter(|k| !gone.contains(*k)).collect();
            left.iter().for_each(|k| store.stage(sized(k, ver + 1, Op::remove(), b"", 8192)).unwrap());
            turns(&mut store);
            left.iter().for_each(|k| store.commit(k, ver + 1, 1));
            assert_eq!(store.space().chunks, 0);
            turns(&mut store);
            assert_eq!(store.space().used, 0);
            ver += 1;
        }
    }
}

/// E5 (#328): chunks removed in a batch were still read from a cache. Here what is removed cannot be read, seen or listed
/// from the return of the call on, whatever was cached of it, and after a restart neither.
#[test]
fn e5_a_removed_chunk_is_gone_at_once() {
    for &kind in KINDS.iter() {
        let (mut store, disk) = fresh(kind, 64, 16);
        for how in ["remove", "purge", "overwrite"] {
            let k = key(how);
            let floor = store.remove_floor();
            write(&mut store, &k, floor + 1, Op::write(0, 10), &[5; 10]);
            assert!(read(&mut store, &k, floor + 1).is_ok());
            match how {
                "purge" => store.purge(1, &k),
                _ => {
                    let op = if how == "remove" { Op::remove() } else { Op::write(0, 3) };
                    store.stage(request(&k, floor + 2, op, &vec![6; op.payload_len() as usize])).unwrap();
                    turns(&mut store);
                    assert!(read(&mut store, &k, floor + 1).is_ok(), "till the commit it is there");
                    store.commit(&k, floor + 2, 1);
                }
            }
            // No turn in between.
            store.read(7, &k, floor + 1, 0, 10);
            let listed = store.scan(b"", 9).iter().any(|(held, _)| *held == k);
            assert_eq!((store.meta(&k).is_some(), listed), (how == "overwrite", how == "overwrite"), "{how}");
            let done = turns(&mut store);
            let refused = |d: &Done<Bytes>| matches!(d, Done::Read { id: 7, result: Err(Code::NotFound) });
            assert!(done.iter().any(refused), "{how}: {done:?}");
            let mut after = open(disk.fork());
            assert_eq!(read(&mut after, &k, floor + 1), Err(Code::NotFound), "{how}");
        }
    }
}

/// E6 (#256, #206, #222): an index was out of range when a batch reached exactly 1 MiB. Here records are queued so that a
/// group ends at every byte around its limit: every call ends once, and everything is there after a power cut.
#[test]
fn e6_groups_of_every_size_around_their_limit() {
    for &kind in KINDS.iter() {
        let mut p = params(kind, 64, 2048);
        p.checkpoint = 512 * 4096;
        let (mut store, disk) = create(&p);
        let mut row = SessionRow { seq: 0, ver: 1, len: 1, checksum: 1, chain_ver: 1 };
        let session = SessionId { client: 6, channel: 6 };
        let long = vec![b'x'; 255];
        // Purges of chunks that are not there: a name and a few bytes each. Gives the appends it took.
        let mut burst = |many: usize, extra: usize| {
            let before = store.stats().appends;
            (0..many).for_each(|id| store.purge(id as u64, &ChunkKey::new(&long).unwrap()));
            store.purge(u64::MAX, &ChunkKey::new(&long[..extra]).unwrap());
            row.seq += 1;
            store.put_session(session, row);
            store.purge(u64::MAX - 1, &key("last"));
            let ids: BTreeSet<_> =
                turns(&mut store).into_iter().map(|d| if let Done::Synced { id } = d { id } else { panic!() }).collect();
            assert_eq!(ids.len(), many + 2);
            assert_eq!(store.session(session), Some(row));
            store.stats().appends - before
        };
        // The fewest that do not fit one append.
        let (mut fits, mut too_many) = (1, 20_000);
        while too_many - fits > 1 {
            let middle = (fits + too_many) / 2;
            if burst(middle, 255) == 1 { fits = middle } else { too_many = middle }
        }
        let mut appends = BTreeSet::new();
        for extra in 1..=255 {
            appends.insert(burst(fits, extra));
        }
        assert!(fits > 2000 && appends.contains(&1), "{fits} {appends:?}");
        let after = open(disk.crash(|_, _| false));
        assert_eq!(after.session(session), Some(row));
        assert_eq!(after.recovery().dropped, 0);
    }
}

/// E7 (#329): the commit of a remove of a chunk that had never been committed used the wrong metadata. Here a chunk can be
/// removed before its first commit, and one that is not there, with a power cut at any write.
#[test]
fn e7_a_remove_before_the_first_commit() {
    for (seed, &kind) in (1..=12).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        cut_everywhere(kind, seed, 64, 3, |world| {
            let [new, never, other] = &world.keys.clone()[..] else { unreachable!("three keys") };
            put(world, other);
            // Staged, taken back, removed: all before any commit.
            let payload = world.rng.bytes(5000);
            world.stage_op(new, 16384, Op::write(0, 5000), payload);
            if seed.is_multiple_of(2) {
                world.settle();
            }
            let ver = world.state(new).staged.unwrap().ver;
            world.unstage(new, &world.state(new), ver);
            world.stage_op(new, 16384, Op::remove(), Bytes::new());
            world.stage_op(never, 16384, Op::remove(), Bytes::new());
            world.settle();
            for k in [new, never] {
                commit_staged(world, k);
                world.compare();
                assert_eq!(world.store.meta(k), None);
                world.turn();
            }
            // And again, and the other one for good.
            world.stage_op(other, 16384, Op::remove(), Bytes::new());
            world.stage_op(new, 16384, Op::remove(), Bytes::new());
            world.settle();
            commit_staged(world, other);
            commit_staged(world, new);
            world.settle();
            world.compare();
            assert!(world.store.scan(b"", 9).is_empty());
            put(world, new);
        });
    }
}

/// E8 (#401): an array of three overflowed when more than three size classes were busy. Here chunks of every power of two
/// from 4 KiB to 64 MiB, and of sizes in between, are staged, committed, overwritten, read and removed in the same turns.
#[test]
fn e8_all_chunk_sizes_at_once() {
    for &kind in KINDS.iter() {
        let (mut store, disk) = fresh(kind, 4 * (64 << 20) / 4096, 512);
        let sizes: Vec<u32> = (0..15).flat_map(|n| [4096u32 << n, (3 * 4096) << n]).filter(|n| *n <= 64 << 20).collect();
        let chunks: Vec<_> = sizes.iter().map(|size| (key(&format!("{size}")), *size)).collect();
        let mut model: Vec<Vec<u8>> = sizes.iter().map(|_| Vec::new()).collect();
        let mut rng = Rng::new(8);
        for ver in 1..=3 {
            for ((k, size), held) in chunks.iter().zip(&mut model) {
                // The very end of the chunk, and something before it.
                let len = (1 + rng.below(9000) as u32).min(*size);
                let offset = if ver == 1 { size - len } else { rng.below(u64::from(size - len) + 1) as u32 };
                let (op, payload) = (Op::write(offset, len), rng.bytes(len as usize));
                store.stage(sized(k, ver, op, &payload, *size)).unwrap();
                *held = apply(held, &op, &payload);
            }
            let staged = turns(&mut store).into_iter().filter(|d| matches!(d, Done::Staged { .. })).count();
            assert_eq!(staged, chunks.len());
            chunks.iter().for_each(|(k, _)| store.commit(k, ver, 1));
        }
        turns(&mut store);
        let mut after = open(disk.crash(|_, _| false));
        for ((k, _), held) in chunks.iter().zip(&model) {
            let meta = after.meta(k).unwrap().committed.unwrap();
            assert_eq!((meta.len as usize, meta.checksum), (held.len(), crc32c(held)), "{k}");
            let from = held.len().saturating_sub(20_000) as u32;
            for store in [&mut store, &mut after] {
                assert_eq!(read_at(store, k, 3, from, 20_000).unwrap(), held[from as usize..], "{k}");
                assert_eq!(read_at(store, k, 3, 0, 20_000).unwrap(), held[..held.len().min(20_000)], "{k}");
            }
        }
        chunks.iter().for_each(|(k, size)| store.stage(sized(k, 4, Op::remove(), b"", *size)).unwrap());
        turns(&mut store);
        chunks.iter().for_each(|(k, _)| store.commit(k, 4, 1));
        store.sync(1);
        turns(&mut store);
        assert_eq!((store.space().used, store.space().chunks), (0, 0));
    }
}

/// E9 (#378): a counter of 32 bits overflowed. Here versions, numbers of updates, names and identifiers close to the end
/// of their range are kept as they are, in memory, in the journal and in a checkpoint.
#[test]
fn e9_numbers_at_the_end_of_their_range() {
    const MAX: u64 = u64::MAX;
    for &kind in KINDS.iter() {
        let (mut store, disk) = fresh(kind, 64, 16);
        let tag = |seq| Tag { client: MAX, channel: u32::MAX, seq };
        let start = Committed { tag: tag(MAX - 5), chain_ver: MAX, ..committed(MAX - 5, b"start") };
        store.install(MAX, &key("k"), CHUNK, start, Bytes::from_static(b"start").into()).unwrap();
        let mut row = SessionRow { seq: MAX, ver: MAX, len: u32::MAX, checksum: u32::MAX, chain_ver: MAX };
        store.put_session(SessionId { client: MAX, channel: u32::MAX }, row);
        store.sync(MAX);
        let done = turns(&mut store);
        assert_eq!(done.iter().filter(|d| matches!(d, Done::Synced { id: MAX })).count(), 2);
        for ver in MAX - 4..MAX - 1 {
            let update = StageRequest { tag: tag(ver), chain_ver: MAX, ..request(&key("k"), ver, Op::write(2, 1), b"x") };
            store.stage(update).unwrap();
            store.turn(MAX / 2, &mut Vec::new());
            turns(&mut store);
            store.commit(&key("k"), ver, MAX);
        }
        store.stage(request(&key("k"), MAX - 1, Op::remove(), b"")).unwrap();
        turns(&mut store);
        let check = |store: &mut CowStore<MemDisk>, row: SessionRow| {
            let meta = store.meta(&key("k")).unwrap();
            let held = meta.committed.unwrap();
            assert_eq!((held.ver, held.chain_ver, held.tag), (MAX - 2, MAX, tag(MAX - 2)));
            assert!(meta.staged.is_some_and(|s| s.ver == MAX - 1 && s.remove));
            assert_eq!(store.session(SessionId { client: MAX, channel: u32::MAX }), Some(row));
            assert!(store.sessions(Some(SessionId { client: MAX, channel: u32::MAX }), usize::MAX).is_empty());
            assert_eq!(store.scan(b"", usize::MAX).len(), 1);
            assert!(store.scan(b"", 0).is_empty() && store.scan(b"l", usize::MAX).is_empty());
            assert_eq!(read_at(store, &key("k"), MAX - 2, u32::MAX, u32::MAX), Ok(Bytes::new()));
            assert_eq!(read_at(store, &key("k"), MAX - 2, 1, u32::MAX), Ok((&b"txrt"[..]).into()));
        };
        // A row of equal number stays; the commits' numbers are smaller.
        check(&mut store, row);
        store.close(&mut Vec::new()).unwrap();
        let disk = disk.fork();
        let mut store = open(disk.clone());
        check(&mut store, row);
        store.commit(&key("k"), MAX - 1, MAX);
        store.raise_remove_floor(MAX - 1);
        store.clear_sessions();
        row.seq = MAX - 1;
        store.put_session(SessionId { client: 0, channel: 0 }, row);
        write(&mut store, &key("k"), MAX, Op::extend(CHUNK), b"");
        store.close(&mut Vec::new()).unwrap();
        let store = open(disk.fork());
        assert_eq!((store.remove_floor(), store.meta(&key("k")).unwrap().commit_ver()), (MAX - 1, MAX));
        // Ranges at the end of their number space.
        let (mut store, _) = fresh(kind, 64, 16);
        for (offset, len) in [(u32::MAX, 1), (u32::MAX - 4095, 8192), (1, u32::MAX), (CHUNK, 1), (CHUNK - 1, 2)] {
            let wild = StageRequest { op: Op::write(offset, len), ..request(&key("k"), 1, Op::write(0, 1), b"x") };
            assert_eq!(store.stage(wild), Err(Code::InvalidArgument));
        }
        for len in [u32::MAX, CHUNK + 1] {
            assert_eq!(store.stage(request(&key("k"), 1, Op::truncate(len), b"")), Err(Code::InvalidArgument));
            assert_eq!(store.stage(request(&key("k"), 1, Op::extend(len), b"")), Err(Code::InvalidArgument));
        }
        assert_eq!(store.stage(sized(&key("k"), 1, Op::write(0, 1), b"x", (64 << 20) + 4096)), Err(Code::InvalidArgument));
        assert!(store.meta(&key("k")).is_none());
    }
}

/// E10 (#158, #99): direct IO was aligned to 512 bytes, and disks of 4096 refused it. Here every operation is whole blocks
/// of 4096 at multiples of 4096, in memory aligned likewise, whatever the update's range; that a disk of 512-byte sectors
/// tears them does no harm.
#[test]
fn e10_all_io_is_whole_blocks_and_torn_at_512_does_no_harm() {
    for (seed, &kind) in (1..=6).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        // The disk itself refuses what is not aligned; the script is appends and overwrites at odd places.
        cut_everywhere(kind, seed, 120, 2, |world| {
            let k = world.keys[0].clone();
            let mut end = 0;
            for n in [1, 511, 512, 513, 3583, 4095, 4096, 1] {
                let at = if n % 3 == 0 { end / 2 } else { end };
                let payload = world.rng.bytes(n as usize);
                world.stage_op(&k, 64 << 10, Op::write(at, n), payload);
                end = end.max(at + n);
                world.settle();
                commit_staged(world, &k);
            }
        });
    }
    let (store, disk) = fresh(KINDS[0], 64, 16);
    disk.record();
    drop(store);
    let writes = disk.take_log().into_iter().filter(|e| matches!(e, Event::Write { .. }));
    assert_eq!(writes.count(), 0, "nothing is written by opening");
}

/// The teeth of E10: the memory disk refuses what is not aligned.
#[test]
#[should_panic(expected = "not whole blocks")]
fn e10_an_unaligned_write_is_refused() {
    let data = Bytes::from(vec![0; 512]);
    MemDisk::new().submit(Io { id: 1, op: IoOp::Write { offset: 512, data } });
}

/// As above, for the memory that is read into.
#[test]
#[should_panic(expected = "not whole blocks")]
fn e10_an_unaligned_read_is_refused() {
    let buf = arena().take_or_alloc(100);
    MemDisk::new().submit(Io { id: 1, op: IoOp::Read { offset: 0, buf } });
}

/// E11 (#38, #383, #385, #388, #393): buffers were used by two at once. Here the bytes of a write do not change while it
/// waits (the memory disk checks every held write), though everything else goes on in the same pool of buffers.
#[test]
fn e11_buffers_of_waiting_writes_do_not_change() {
    for (seed, &kind) in (1..=4).flat_map(|seed| KINDS.iter().map(move |k| (seed, k))) {
        let (store, disk) = fresh(kind, 400, 16);
        let mut world = World::new(store, seed, 6);
        disk.set_held(true);
        world.slow = Some(disk.clone());
        for _ in 0..2000 {
            world.step();
            // Whoever takes a buffer writes all over it.
            let mut buf = arena().take_or_alloc(4096 << world.rng.below(5));
            buf.as_mut_capacity().fill(POISON);
            if world.rng.odds(1, 3) {
                world.turn();
            }
        }
        world.settle();
        world.end();
    }
}

/// E11 on files: a disk that is dropped with writes on their way leaves their buffers alone until the system has taken them.
#[test]
fn e11_buffers_outlive_the_disk_that_submitted_them() {
    const N: usize = 64 << 10;
    for backend in [Backend::Uring, Backend::Threads] {
        if backend == Backend::Uring && probe().is_err() {
            eprintln!("skipped: io_uring does not work here");
            continue;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("file");
        let file = || std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        let pool = catena_arena::Arena::new(64 << 20);
        let ring = Ring::new(backend, &pool).unwrap();
        for round in 0..20u8 {
            let mut disk = ring.attach(file(), 1 << 24, "dropped".to_string());
            for n in 0..16 {
                let mut buf = pool.take_or_alloc(N);
                buf.fill(round * 7 + n);
                disk.submit(Io { id: u64::from(n), op: IoOp::Write { offset: u64::from(n) * N as u64, data: buf.freeze() } });
            }
            // Reads too: what they fill must not be anybody else's memory by then.
            for n in 16..24 {
                disk.submit(Io { id: n, op: IoOp::Read { offset: n * N as u64, buf: pool.take_or_alloc(N) } });
            }
            disk.kick();
            drop(disk);
            // Take all the memory there is, and write all over it.
            let mut held: Vec<_> = (0..40).map(|_| pool.take_or_alloc(N)).collect();
            held.iter_mut().for_each(|buf| buf.fill(POISON));
            let mut other = ring.attach(file(), 1 << 24, "other".to_string());
            let mut done = Vec::new();
            for id in 0..2 {
                // Everything submitted before has ended when two flushes have.
                other.submit(Io { id, op: IoOp::Flush });
                other.wait();
                other.poll(&mut done);
            }
            wait_for(&file(), N, round);
            assert!(held.iter().all(|buf| buf.iter().all(|&b| b == POISON)), "round {round}: a read filled a buffer of ours");
        }
    }
}

/// Waits until all writes of a round are in the file; a block of anything but the round's or an earlier round's bytes is wrong.
fn wait_for(file: &std::fs::File, n: usize, round: u8) {
    for _ in 0..10_000 {
        let mut all = vec![0; 16 * n];
        let _ = file.read_at(&mut all, 0).unwrap();
        let want = |i: usize| round * 7 + (i / n) as u8;
        assert!(!all.contains(&POISON), "round {round}: a buffer was given away while it was being written");
        if all.iter().enumerate().all(|(i, &b)| b == want(i)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("round {round}: the writes never arrived");
}
