//! What a store does by itself: scrub, mending the checksum table, moving fragmented chunks together, giving space back;
//! and what `replicated` durability promises.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use catena_engine::disk::mem::{Event, Fault, MemDisk, What};
use catena_engine::{Background, CowStore, Durability, Params, StoreKind};
use catena_types::crc::crc32c;
use catena_types::store::SpaceLevel;
use catena_types::*;
use common::{Rng, arena};

const SECOND: Time = 1_000_000_000;
const MIB: u32 = 1 << 20;

struct Bed {
    store: CowStore<MemDisk>,
    disk: MemDisk,
    now: Time,
}

fn params(blocks: u64) -> Params {
    Params::new(*b"0123456789abcdef", blocks * 4096)
}

fn key(n: u32) -> ChunkKey {
    ChunkKey::new(format!("chunk-{n:04}").as_bytes()).unwrap()
}

impl Bed {
    fn new(params: &Params) -> Bed {
        let disk = MemDisk::new();
        let store = CowStore::create(disk.clone(), params, &arena()).unwrap();
        Bed { store, disk, now: 1 }
    }

    fn reopen(mut self) -> Bed {
        self.store.close(&mut Vec::new()).unwrap();
        let disk = self.disk.fork();
        Bed { store: CowStore::open(disk.clone(), &arena()).unwrap(), disk, now: self.now }
    }

    /// Turns until nothing is in flight and no record waits.
    fn settle(&mut self) -> Vec<Done<Bytes>> {
        let mut out = Vec::new();
        self.store.turn(self.now, &mut out);
        while self.store.busy() || self.store.next_wake().is_some() {
            self.now += SECOND / 10;
            self.store.turn(self.now, &mut out);
        }
        out
    }

    /// Lets so much time pass.
    fn pass(&mut self, time: Time) -> Vec<Done<Bytes>> {
        let end = self.now + time;
        let mut out = Vec::new();
        while self.now < end {
            self.now += SECOND / 20;
            self.store.turn(self.now, &mut out);
        }
        out
    }

    fn stage(&mut self, key: &ChunkKey, op: Op, payload: &[u8]) -> Result<Ver, Code> {
        let base = self.store.meta(key).and_then(|m| m.committed).map_or(self.store.remove_floor(), |c| c.ver);
        let tag = Tag { client: 7, channel: 1, seq: base + 1 };
        let payload = Bytes::copy_from_slice(payload).into();
        let ver = base + 1;
        self.store.stage(StageRequest { key: key.clone(), ver, chain_ver: 1, tag, op, chunk_size: MIB, payload })?;
        Ok(ver)
    }

    fn write(&mut self, key: &ChunkKey, offset: u32, payload: &[u8]) -> Result<(), Code> {
        self.update(key, Op::write(offset, payload.len() as u32), payload)
    }

    fn update(&mut self, key: &ChunkKey, op: Op, payload: &[u8]) -> Result<(), Code> {
        let ver = self.stage(key, op, payload)?;
        let done = self.settle();
        assert!(done.iter().any(|d| matches!(d, Done::Staged { ver: v, .. } if *v == ver)), "{done:?}");
        self.store.commit(key, ver, 1);
        Ok(())
    }

    fn read(&mut self, key: &ChunkKey, offset: u32, len: u32) -> Result<Bytes, Code> {
        let ver = self.store.meta(key).unwrap().committed.unwrap().ver;
        self.store.read(9, key, ver, offset, len);
        let done = self.settle();
        let ended = |d: Done<Bytes>| if let Done::Read { id: 9, result } = d { Some(result.map(|r| r.0)) } else { None };
        done.into_iter().find_map(ended).unwrap()
    }
}

fn damaged(done: &[Done<Bytes>]) -> Vec<ChunkKey> {
    done.iter().filter_map(|d| if let Done::Damaged { key, .. } = d { Some(key.clone()) } else { None }).collect()
}

/// The scrub finds rot nobody reads, at its rate, goes on behind a restart, and counts its passes.
#[test]
fn a_scrub_finds_rot_and_goes_on_after_a_restart() {
    let mut bed = Bed::new(&params(4096));
    let mut rng = Rng::new(1);
    for n in 0..10 {
        let bytes = rng.bytes(200_000);
        bed.write(&key(n), 0, &bytes).unwrap();
    }
    bed.settle();
    let mut bed = bed.reopen();
    bed.store.set_background(Background { scrub_rate: 400_000, scrub_pause: 60 * SECOND, ..Background::default() });
    assert!(bed.pass(SECOND).is_empty());
    let status = bed.store.scrub_status();
    assert!(status.running && status.bytes >= 200_000 && status.bytes <= 800_000, "{status:?}");
    // Rot in a chunk that comes later; what was verified is not verified again after the restart.
    let data = bed.store.params().data_offset();
    bed.disk.flip(data + 9 * 49 * 4096 + 5000, 2);
    bed.store.close(&mut Vec::new()).unwrap();
    let disk = bed.disk.fork();
    let mut bed = Bed { store: CowStore::open(disk.clone(), &arena()).unwrap(), disk, now: bed.now };
    assert_eq!(bed.store.scrub_status().after, status.after);
    bed.store.set_background(Background { scrub_rate: 400_000, scrub_pause: 60 * SECOND, ..Background::default() });
    let found = bed.pass(6 * SECOND);
    assert_eq!(damaged(&found), [key(9)]);
    let ended = bed.store.scrub_status();
    assert!(!ended.running && ended.passes == 1 && ended.bad == 1 && ended.bytes == 1_800_000, "{ended:?}");
    assert!(bed.pass(30 * SECOND).is_empty(), "the pause");
    bed.store.start_scrub();
    assert_eq!(damaged(&bed.pass(8 * SECOND)), [key(9)], "the next pass finds it again");
    assert_eq!(bed.store.stats().damaged, 2);
}

/// Rot in the checksum table costs nothing: the chunk itself says who is wrong, and the table is mended.
#[test]
fn rot_in_the_checksum_table_is_mended_from_the_chunk() {
    let mut bed = Bed::new(&params(4096));
    let bytes = Rng::new(2).bytes(300_000);
    bed.write(&key(1), 0, &bytes).unwrap();
    let bed = bed.reopen();
    let table = bed.store.params().table_offset();
    for at in [0, 3, 100, 300] {
        bed.disk.flip(table + at, 5);
    }
    let mut bed = bed.reopen();
    assert_eq!(bed.read(&key(1), 8192, 4096).unwrap(), bytes.slice(8192..12288));
    assert_eq!(bed.store.stats().table_repairs, 1);
    assert_eq!(bed.read(&key(1), 100, 200_000).unwrap(), bytes.slice(100..200_100));
    assert_eq!((bed.store.stats().table_repairs, bed.store.stats().damaged), (1, 0));
    bed.write(&key(1), 5000, b"patch").unwrap();
    // The next checkpoint writes what was mended.
    let mut bed = bed.reopen();
    assert_eq!(&bed.read(&key(1), 5000, 5).unwrap()[..], b"patch");
    assert_eq!(bed.store.stats().table_repairs, 0);
}

/// An update on a block whose checksum is lost asks the chunk first, and is applied.
#[test]
fn an_update_survives_rot_in_the_checksum_table() {
    let mut bed = Bed::new(&params(4096));
    let mut bytes = Rng::new(3).bytes(100_000).to_vec();
    bed.write(&key(1), 0, &bytes).unwrap();
    let bed = bed.reopen();
    bed.disk.flip(bed.store.params().table_offset() + 8, 0);
    let mut bed = bed.reopen();
    bed.write(&key(1), 10, b"over").unwrap();
    bytes[10..14].copy_from_slice(b"over");
    assert_eq!(bed.read(&key(1), 0, u32::MAX).unwrap(), bytes);
    assert_eq!(bed.store.meta(&key(1)).unwrap().committed.unwrap().checksum, crc32c(&bytes));
}

/// Checksums that were lost stay unknown when their page is written again for other ones: an update that rests on them
/// without reading the blocks asks the chunk first. (Found by the simulator, where a read of the page had failed.)
#[test]
fn lost_checksums_stay_unknown_when_their_page_is_written_again() {
    let mut bed = Bed::new(&params(4096));
    let bytes = Rng::new(4).bytes(5 * 4096);
    bed.write(&key(1), 0, &bytes).unwrap();
    bed.write(&key(2), 0, b"a neighbour").unwrap();
    let bed = bed.reopen();
    bed.disk.flip(bed.store.params().table_offset() + 8, 0);
    let mut bed = bed.reopen();
    bed.write(&key(2), 0, &bytes.slice(..8192)).unwrap();
    let mut bed = bed.reopen();
    let repairs = bed.store.stats().table_repairs;
    bed.update(&key(1), Op::truncate(4 * 4096), &[]).unwrap();
    assert_eq!(bed.store.stats().table_repairs, repairs + 1);
    assert_eq!(bed.store.meta(&key(1)).unwrap().committed.unwrap().checksum, crc32c(&bytes[..4 * 4096]));
    assert_eq!(bed.read(&key(1), 0, u32::MAX).unwrap(), bytes.slice(..4 * 4096));
}

/// A chunk that takes many operations to read is moved together, once; its version and bytes stay.
#[test]
fn a_fragmented_chunk_is_moved_together() {
    let mut bed = Bed::new(&params(8192));
    let mut bytes = Rng::new(4).bytes(MIB as usize).to_vec();
    bed.write(&key(1), 0, &bytes).unwrap();
    for block in (0..256u32).step_by(2) {
        let patch = Rng::new(u64::from(block)).bytes(4096);
        bed.write(&key(1), block * 4096, &patch).unwrap();
        bytes[block as usize * 4096..][..4096].copy_from_slice(&patch);
    }
    let before = bed.store.meta(&key(1));
    let reads = |bed: &mut Bed| {
        let ops = bed.disk.ops();
        assert_eq!(bed.read(&key(1), 0, u32::MAX).unwrap(), bytes);
        bed.disk.ops() - ops
    };
    assert!(reads(&mut bed) > 100);
    bed.pass(SECOND);
    assert_eq!(bed.store.stats().compacted, 1);
    assert!(reads(&mut bed) < 5);
    assert_eq!(bed.store.meta(&key(1)), before);
    bed.pass(SECOND);
    assert_eq!(bed.store.stats().compacted, 1);
    bed.store.verify().unwrap();
    assert_eq!(bed.store.space().used, u64::from(MIB));
    let mut bed = bed.reopen();
    assert!(reads(&mut bed) < 5);
    bed.store.verify().unwrap();
}

/// A move that is overtaken by an update, a purge or an install changes nothing.
#[test]
fn a_move_gives_way() {
    for what in 0..4 {
        let mut bed = Bed::new(&params(8192));
        bed.write(&key(1), 0, &vec![1; MIB as usize]).unwrap();
        for block in (0..256u32).step_by(2) {
            bed.write(&key(1), block * 4096, &[2; 4096]).unwrap();
        }
        bed.read(&key(1), 0, u32::MAX).unwrap();
        bed.disk.set_held(true);
        for steps in 0..200 {
            let mut out = Vec::new();
            bed.now += SECOND;
            bed.store.turn(bed.now, &mut out);
            if steps == 20 + 30 * what {
                match what {
                    0 => drop(bed.stage(&key(1), Op::write(8192, 4), b"over").unwrap()),
                    1 => bed.store.purge(5, &key(1)),
                    2 => {
                        let tag = Tag { client: 1, channel: 1, seq: 1 };
                        let bytes = Bytes::from_static(b"anew");
                        let c = Committed { ver: 900, chain_ver: 1, len: 4, checksum: crc32c(&bytes), tag };
                        bed.store.install(5, &key(1), MIB, c, bytes.into()).unwrap();
                    }
                    _ => {}
                }
            }
            if bed.disk.waiting() > 0 {
                bed.disk.run(0);
            }
        }
        bed.disk.set_held(false);
        bed.settle();
        bed.store.verify().unwrap();
        if let Some(m) = bed.store.meta(&key(1)).filter(|m| m.committed.is_some()) {
            let bytes = bed.read(&key(1), 0, u32::MAX).unwrap();
            assert_eq!(crc32c(&bytes), m.committed.unwrap().checksum, "case {what}");
        }
    }
}

/// Space that stays free becomes a hole; space that is used again in time does not.
#[test]
fn freed_space_is_given_back() {
    let mut bed = Bed::new(&params(8192));
    bed.store.set_background(Background { punch_after: Some(10 * SECOND), prepare: 0, ..Background::default() });
    for n in 0..8 {
        bed.write(&key(n), 0, &vec![n as u8 + 1; MIB as usize]).unwrap();
    }
    bed.settle();
    let base = bed.disk.record();
    drop(base);
    for n in 2..6 {
        bed.store.purge(n.into(), &key(n));
    }
    bed.settle();
    bed.pass(5 * SECOND);
    assert_eq!(bed.store.stats().bytes_punched, 0);
    bed.pass(20 * SECOND);
    assert_eq!(bed.store.stats().bytes_punched, 4 << 20);
    let data = bed.store.params().data_offset();
    let punched = |e: &Event| matches!(e, Event::Write { offset, data: d } if *offset >= data && d.iter().all(|b| *b == 0));
    assert_eq!(bed.disk.take_log().iter().filter(|e| punched(e)).count(), 4);
    for n in [0, 1, 6, 7] {
        assert_eq!(bed.read(&key(n), 0, u32::MAX).unwrap(), vec![n as u8 + 1; MIB as usize]);
    }
    bed.store.verify().unwrap();
    bed.write(&key(20), 0, &vec![9; MIB as usize]).unwrap();
    assert_eq!(bed.read(&key(20), 0, 5).unwrap(), vec![9; 5]);
}

/// While calls come, at most a stretch of a mebibyte is given back in a second, and the rest when none comes any more.
fn is_given_back_slowly_beside(call: impl Fn(&mut Bed)) {
    let mut bed = Bed::new(&params(8192));
    bed.store.set_background(Background { punch_after: Some(2 * SECOND), prepare: 0, ..Background::default() });
    for n in 0..16 {
        bed.write(&key(n), 0, &vec![n as u8 + 1; MIB as usize]).unwrap();
    }
    (0..12).for_each(|n| bed.store.purge(n.into(), &key(n)));
    bed.settle();
    let start = bed.now;
    let (mut before, mut punches) = (0, 0);
    while bed.now < start + 8 * SECOND {
        call(&mut bed);
        bed.pass(SECOND / 10);
        punches += u64::from(bed.store.stats().bytes_punched > before);
        before = bed.store.stats().bytes_punched;
    }
    assert!((3 << 20..=7 << 20).contains(&before) && punches == before >> 20, "{before} bytes in {punches} turns");
    bed.pass(5 * SECOND);
    assert!(bed.store.stats().bytes_punched >= 11 << 20, "the rest at once");
}

#[test]
fn space_is_given_back_slowly_under_load() {
    is_given_back_slowly_beside(|bed| bed.write(&key(15), 0, b"on and on").unwrap());
    is_given_back_slowly_beside(|bed| assert_eq!(bed.read(&key(15), 0, 9).unwrap(), vec![16; 9]));
}

/// As a target fills: a warning, then no new chunks, then no writes; updates that make room and installs always.
#[test]
fn thresholds_refuse_in_order() {
    let mut bed = Bed::new(&params(12800));
    let mut levels = Vec::new();
    let mut n = 0;
    let refused = loop {
        let level = bed.store.space().level();
        if levels.last() != Some(&level) {
            levels.push(level);
        }
        if let Err(code) = bed.write(&key(n), 0, &vec![3; 100_000]) {
            break code;
        }
        n += 1;
    };
    assert_eq!(refused, Code::NoSpace);
    assert_eq!(bed.store.space().level(), SpaceLevel::NoNewChunks);
    bed.write(&key(0), 0, &[4; 10_000]).unwrap();
    // Resync goes on.
    let bytes = Bytes::from(vec![1; 100_000]);
    let tag = Tag { client: 1, channel: 1, seq: 1 };
    let c = Committed { ver: 1, chain_ver: 1, len: 100_000, checksum: crc32c(&bytes), tag };
    let mut installed = 5000;
    while bed.store.space().level() < SpaceLevel::NoWrites {
        installed += 1;
        bed.store.install(1, &key(installed), MIB, c, bytes.clone().into()).unwrap();
        bed.settle();
    }
    levels.push(bed.store.space().level());
    assert_eq!(levels, [SpaceLevel::Enough, SpaceLevel::Low, SpaceLevel::NoNewChunks, SpaceLevel::NoWrites]);
    assert_eq!(bed.stage(&key(2), Op::write(0, 8), b"refused!"), Err(Code::NoSpace));
    bed.stage(&key(2), Op::truncate(5000), b"").unwrap();
    bed.stage(&key(3), Op::remove(), b"").unwrap();
    bed.settle();
    bed.store.verify().unwrap();
}

/// A file system that is full before the target is: updates are refused, nothing fails, reads and removes go on; removed
/// chunks make room, and so does the file system when it has some.
#[test]
fn a_full_disk_refuses_updates_and_fails_nothing() {
    for kind in [StoreKind::Cow, StoreKind::InPlace] {
        let params = Params { kind, ..params(25600) };
        let mut bed = Bed::new(&params);
        bed.disk.set_end(Some(params.data_offset() + 20 * u64::from(MIB)));
        let bytes = |n: u32| vec![n as u8 + 1; MIB as usize];
        let mut count = 0;
        while bed.write(&key(count), 0, &bytes(count)) == Ok(()) {
            count += 1;
        }
        assert_eq!((count, bed.store.space().level()), (20, SpaceLevel::NoWrites), "{kind:?}");
        (0..count).for_each(|n| assert!(bed.read(&key(n), 0, MIB).unwrap() == bytes(n)));
        assert_eq!(bed.write(&key(count), 0, b"refused"), Err(Code::NoSpace));

        bed.update(&key(3), Op::remove(), b"").unwrap();
        bed.settle();
        bed.write(&key(count), 0, b"room again").unwrap();
        // Checkpoints and a restart while it is full.
        bed = bed.reopen();
        bed.disk.set_end(Some(params.data_offset() + 20 * u64::from(MIB)));
        assert_eq!(bed.write(&key(count + 1), 0, &bytes(0)), Err(Code::NoSpace), "{kind:?}");

        bed.disk.set_end(None);
        bed.write(&key(count + 1), 0, &bytes(0)).unwrap();
        bed.pass(10 * SECOND);
        assert_eq!(bed.store.space().level(), SpaceLevel::Enough);
        assert!(bed.read(&key(count), 0, MIB).unwrap() == b"room again"[..]);
        bed.store.verify().unwrap();
    }
}

/// `replicated`: reported without a flush, flushed soon after, and nothing older than that is lost by a power cut; blocks
/// that a record frees are not used again before the record is durable.
#[test]
fn replicated_durability_flushes_behind() {
    let mut params = params(2048);
    params.durability = Durability::Replicated;
    let mut bed = Bed::new(&params);
    let flushes = bed.store.stats().flushes;
    for n in 0..4 {
        let ver = bed.stage(&key(n), Op::write(0, 4), b"soon").unwrap();
        let mut out = Vec::new();
        while out.is_empty() {
            bed.now += 1000;
            bed.store.turn(bed.now, &mut out);
        }
        assert!(matches!(out[..], [Done::Staged { .. }]));
        bed.store.commit(&key(n), ver, 1);
    }
    assert_eq!(bed.store.stats().flushes, flushes, "reported without a flush");
    let lost = CowStore::open(bed.disk.crash(|_, _| false), &arena()).unwrap();
    assert_eq!(lost.space().chunks, 0);
    let kept = CowStore::open(bed.disk.crash(|_, _| true), &arena()).unwrap();
    kept.verify().unwrap();
    bed.settle();
    assert!(bed.store.stats().flushes > flushes);
    let durable = CowStore::open(bed.disk.crash(|_, _| false), &arena()).unwrap();
    assert_eq!((durable.space().chunks, durable.params().durability), (4, Durability::Replicated));
}

/// `replicated` under random operations and power cuts: whatever sectors were lost since the last flush, the target opens,
/// space is exact, and every chunk that was settled before is there, whole.
#[test]
fn replicated_targets_survive_power_cuts() {
    let mut states = 0;
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut params = params(1024);
        params.durability = Durability::Replicated;
        params.journal = 24 * 4096;
        let mut bed = Bed::new(&params);
        for n in 0..6 {
            let bytes = rng.bytes(20_000 + n as usize * 1000);
            bed.write(&key(n), 0, &bytes).unwrap();
        }
        bed.settle();
        let mut old = Vec::new();
        for n in 0..6 {
            old.push(bed.read(&key(n), 0, u32::MAX).unwrap());
        }
        for _ in 0..30 {
            let n = rng.below(6) as u32;
            if let Some(s) = bed.store.meta(&key(n)).and_then(|m| m.staged) {
                if s.durable {
                    bed.store.commit(&key(n), s.ver, 1);
                }
            } else {
                let bytes = rng.bytes(1 + rng.clone().below(9000) as usize);
                bed.stage(&key(n), Op::write(rng.below(15_000) as u32, bytes.len() as u32), &bytes).unwrap();
            }
            bed.now += rng.below(30_000_000);
            bed.store.turn(bed.now, &mut Vec::new());
            for odds in [0, 3, 5, 8] {
                states += 1;
                let disk = bed.disk.crash(|_, _| rng.below(10) < odds);
                let mut store = CowStore::open(disk, &arena()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                store.verify().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                assert_eq!(store.space().chunks, 6, "seed {seed}");
                let all = common::read_all(&mut store);
                for n in 0..6 {
                    let (c, bytes) = all[&key(n)].committed.clone().unwrap();
                    assert!(c.ver > 1 || bytes[..] == old[n as usize][..], "seed {seed}: {} is not what it was", key(n));
                }
            }
        }
    }
    println!("{states} power cuts of targets with durability replicated");
}

/// Space is written once ahead of its first use, no more than told, and a disk that refuses costs nothing else.
#[test]
fn space_is_prepared_ahead_of_use() {
    const AHEAD: u64 = 512 << 10;
    let background = Background { prepare: AHEAD, punch_after: None, scrub_rate: 0, ..Background::default() };
    let mut bed = Bed::new(&params(4096));
    bed.store.set_background(background);
    bed.pass(SECOND);
    assert_eq!(bed.store.stats().bytes_prepared, AHEAD);
    bed.write(&key(1), 0, &[7; 700_000]).unwrap();
    bed.pass(SECOND);
    let prepared = bed.store.stats().bytes_prepared;
    assert!(prepared > AHEAD && prepared <= AHEAD + 700_000 + 4096, "{prepared}");
    assert_eq!(bed.read(&key(1), 0, 700_000).unwrap(), [7; 700_000][..]);

    let mut bed = Bed::new(&params(4096));
    bed.store.set_background(background);
    let data = bed.store.params().data_offset();
    bed.disk.inject(What::Write, data..data + (16 << 20), 0, Fault::Error(libc::EIO));
    bed.pass(SECOND);
    bed.disk.clear_faults();
    bed.pass(SECOND);
    assert_eq!(bed.store.stats().bytes_prepared, 0);
    bed.write(&key(1), 0, &[7; 700_000]).unwrap();
    assert_eq!(bed.read(&key(1), 0, 700_000).unwrap(), [7; 700_000][..]);
}
