//! What a resync asks of a store: versions made from parts, checksums of blocks, chunks whose bytes nobody has.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use catena_engine::CowStore;
use catena_engine::disk::mem::MemDisk;
use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;
use catena_types::store::Part;
use catena_types::*;
use common::direct::{CHUNK, committed, key, open, read, request, turns, write};
use common::{KINDS, Rng, env};

const B: usize = BLOCK as usize;

fn padded(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(B).map(|block| crc32c(&[block, &vec![0; B - block.len()]].concat())).collect()
}

/// The blocks of `new` that are not those of `old`, as parts; the last one too where it has grown.
fn parts(old: &[u8], new: &[u8]) -> Vec<Part<Bytes>> {
    let (theirs, mut parts) = (padded(old), Vec::<Part<Bytes>>::new());
    for (n, crc) in padded(new).into_iter().enumerate() {
        let last = n == new.len().div_ceil(B) - 1;
        if theirs.get(n) == Some(&crc) && !(last && new.len() > old.len()) {
            continue;
        }
        let from = match parts.last() {
            Some(p) if (p.offset + p.len) as usize == n * B => parts.pop().unwrap().offset as usize,
            _ => n * B,
        };
        let payload = Bytes::copy_from_slice(&new[from..new.len().min((n + 1) * B)]);
        parts.push(Part { offset: from as u32, len: payload.len() as u32, crc: crc32c(&payload), payload });
    }
    parts
}

/// `bytes` with some ranges changed, and perhaps longer.
fn changed(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut new = bytes.to_vec();
    if rng.odds(1, 3) {
        new.resize(bytes.len() + rng.below(u64::from(CHUNK) - bytes.len() as u64 + 1) as usize, 0);
    }
    for _ in 0..rng.below(4) {
        let at = rng.below(new.len() as u64) as usize;
        let end = (at + 1 + rng.below(9000) as usize).min(new.len());
        let bytes = rng.bytes(end - at);
        new[at..end].copy_from_slice(&bytes);
    }
    new
}

fn start(rng: &mut Rng, store: &mut CowStore<MemDisk>, ver: Ver) -> Vec<u8> {
    let len = 1 + rng.below(u64::from(CHUNK) - 1) as usize;
    let bytes = rng.bytes(len).to_vec();
    write(store, &key("k"), ver, Op::write(0, bytes.len() as u32), &bytes);
    turns(store);
    bytes
}

#[test]
fn parts_make_the_version_that_was_asked_for() {
    for kind in KINDS.iter().copied() {
        for seed in 0..env("CATENA_PATCHES", 60) {
            let mut rng = Rng::new(seed);
            let (mut store, disk) = common::fresh(kind, 128, 32);
            let mut bytes = start(&mut rng, &mut store, 1);
            let mut ver = 1;
            for _ in 0..8 {
                let new = changed(&mut rng, &bytes);
                ver += 1 + rng.below(3);
                store.patch(7, &key("k"), committed(ver, &new), parts(&bytes, &new)).unwrap();
                let done = turns(&mut store);
                assert!(matches!(&done[..], [Done::Synced { id: 7 }]), "{kind:?} seed {seed}: {done:?}");
                assert_eq!(store.meta(&key("k")).unwrap().committed, Some(committed(ver, &new)));
                assert!(read(&mut store, &key("k"), ver).unwrap() == new, "{kind:?} seed {seed}: other bytes");
                store.sums(9, &key("k"), ver);
                let sums = turns(&mut store);
                assert!(matches!(&sums[..], [Done::Sums { id: 9, result: Ok(crcs) }] if *crcs == padded(&new)), "{sums:?}");
                store.verify().unwrap();
                bytes = new;
            }
            let mut again = open(disk.fork());
            assert!(read(&mut again, &key("k"), ver).unwrap() == bytes, "{kind:?} seed {seed}: other bytes after opening");
        }
    }
}

#[test]
fn a_power_cut_leaves_the_old_version_or_the_new() {
    let mut seen = [0, 0];
    for kind in KINDS.iter().copied() {
        for seed in 0..env("CATENA_PATCHES", 60) {
            let mut rng = Rng::new(seed);
            let (mut store, disk) = common::fresh(kind, 128, 32);
            let old = start(&mut rng, &mut store, 1);
            let new = changed(&mut rng, &old);
            disk.set_held(true);
            store.patch(7, &key("k"), committed(2, &new), parts(&old, &new)).unwrap();
            let mut done = Vec::new();
            for turn in 0..rng.below(12) {
                store.turn(turn * 60_000_000, &mut done);
                if disk.waiting() > 0 {
                    disk.run(rng.below(disk.waiting() as u64) as usize);
                }
            }
            let mut after = open(disk.crash(|_, _| rng.odds(1, 2)));
            let ver = after.meta(&key("k")).unwrap().commit_ver();
            seen[ver as usize - 1] += 1;
            let ended = done.iter().any(|d| matches!(d, Done::Synced { .. }));
            assert!(ver == 2 || (ver == 1 && !ended), "{kind:?} seed {seed}: {ver}, {done:?}");
            let wanted = if ver == 1 { &old } else { &new };
            assert!(read(&mut after, &key("k"), ver).unwrap() == *wanted, "{kind:?} seed {seed}: other bytes");
        }
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
}

#[test]
fn what_does_not_fit_changes_nothing() {
    for kind in KINDS.iter().copied() {
        let mut rng = Rng::new(1);
        let (mut store, disk) = common::fresh(kind, 128, 32);
        let old = start(&mut rng, &mut store, 5);
        let mut new = old.clone();
        new[0] ^= 1;
        let fits = |ver, bytes: &[u8]| (committed(ver, bytes), parts(&old, bytes));
        let refused = |store: &mut CowStore<MemDisk>, (c, p): (Committed, Vec<Part<Bytes>>)| {
            assert_eq!(store.patch(7, &key("k"), c, p), Err(Code::InvalidArgument));
            assert!(turns(store).is_empty() && store.verify().is_ok());
        };
        refused(&mut store, fits(5, &new));
        refused(&mut store, fits(6, &new[..old.len() - 1]));
        let (c, mut p) = fits(6, &new);
        p[0].offset = 1;
        refused(&mut store, (c, p));
        // Parts that do not make what is wanted: kept blocks are others than thought, or the bytes are.
        store.patch(8, &key("k"), Committed { checksum: 1, ..committed(6, &new) }, parts(&old, &new)).unwrap();
        let done = turns(&mut store);
        assert!(done.iter().any(|d| matches!(d, Done::NotPatched { id: 8 })), "{done:?}");
        assert_eq!(store.meta(&key("k")).unwrap().committed.unwrap().ver, 5);
        assert!(read(&mut store, &key("k"), 5).unwrap() == old && store.verify().is_ok());
        // A staged update.
        store.stage(request(&key("k"), 6, Op::write(0, 1), b"x")).unwrap();
        turns(&mut store);
        let (c, p) = fits(7, &new);
        assert_eq!(store.patch(7, &key("k"), c, p), Err(Code::InvalidArgument));
        assert!(read(&mut open(disk.fork()), &key("k"), 5).unwrap() == old);
    }
}

#[test]
fn rot_in_kept_blocks_stays_rot() {
    for kind in KINDS.iter().copied() {
        let (mut store, disk) = common::fresh(kind, 128, 32);
        let old: Vec<u8> = (0..10 * BLOCK).map(|i| (i / 7) as u8).collect();
        write(&mut store, &key("k"), 1, Op::write(0, 10 * BLOCK), &old);
        turns(&mut store);
        disk.flip(store.params().data_offset() + 5 * u64::from(BLOCK) + 9, 2);
        let mut new = old.clone();
        (new[0], new[9 * B]) = (1, 1);
        // The bad block lies between the parts, and is read with them.
        store.patch(7, &key("k"), committed(2, &new), parts(&old, &new)).unwrap();
        let done = turns(&mut store);
        assert!(done.iter().any(|d| matches!(d, Done::NotPatched { id: 7 })), "{done:?}");
        assert_eq!(store.meta(&key("k")).unwrap().commit_ver(), 1);
        // Here it does not, and nobody looks at it.
        let mut new = old.clone();
        new[0] = 1;
        store.patch(8, &key("k"), committed(2, &new), parts(&old, &new)).unwrap();
        let done = turns(&mut store);
        assert!(done.iter().any(|d| matches!(d, Done::Synced { id: 8 })), "{done:?}");
        assert_eq!(read(&mut store, &key("k"), 2), Err(Code::Corrupt));
    }
}

#[test]
fn a_lost_chunk_is_damaged_until_its_bytes_come() {
    for kind in KINDS.iter().copied() {
        for blocks in [0, 1, 3] {
            let (mut store, disk) = common::fresh(kind, 128, 32);
            let bytes: Vec<u8> = (0..blocks * BLOCK).map(|i| (i / 5) as u8).collect();
            write(&mut store, &key("k"), 1, Op::write(0, 5), b"older");
            store.install_lost(7, &key("k"), CHUNK, committed(4, &bytes)).unwrap();
            let done = turns(&mut store);
            assert!(done.iter().any(|d| matches!(d, Done::Synced { id: 7 })), "{done:?}");
            store.raise_remove_floor(1);
            store.sync(8);
            turns(&mut store);
            let lost = if blocks == 0 { Ok(Bytes::new()) } else { Err(Code::Corrupt) };
            let mut again = open(disk.fork());
            for store in [&mut store, &mut again] {
                assert_eq!(store.meta(&key("k")).unwrap().committed, Some(committed(4, &bytes)));
                assert_eq!(read(store, &key("k"), 4), lost);
                store.install(9, &key("k"), CHUNK, committed(4, &bytes), Bytes::from(bytes.clone()).into()).unwrap();
                turns(store);
                assert!(read(store, &key("k"), 4).unwrap() == bytes && store.verify().is_ok());
            }
        }
    }
}
