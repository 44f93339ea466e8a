//! Targets put together by hand, whole by every checksum and wrong in what they say.

use std::io;

use bytes::Bytes;
use catena_types::crc::{crc32c, zeroes};
use catena_types::{ChunkKey, Committed, SessionId, SessionRow, Staged, Tag};

use super::inspect::{checkpoint, free, journal, overview};
use super::{Class, Medium, Options, Report, Severity, fsck};
use crate::alloc::Run;
use crate::disk::mem::MemDisk;
use crate::format::journal::{Append, Placed, Record, StageRecord};
use crate::format::leaf::{ChunkItem, LeafRef, encode_leaf, leaf_blocks};
use crate::format::slice::{CheckpointItem, StagedItem, finish_slice, new_slice};
use crate::format::superblock::{CheckpointRef, SUPERBLOCK_OFFSETS, Superblock};
use crate::format::{Params, StoreKind, parity, seal};
use crate::version::Extent;

const TAG: Tag = Tag { client: 5, channel: 1, seq: 9 };

fn params(kind: StoreKind) -> Params {
    Params { kind, journal: 64 * 4096, checkpoint: 32 * 4096, index: 64 * 4096, ..Params::new(*b"an offline test!", 100 * 4096) }
}

/// What is on the target.
struct Target {
    params: Params,
    items: Vec<CheckpointItem>,
    leaves: Vec<Vec<(ChunkKey, ChunkItem)>>,
    /// Where each leaf lies; side by side, if there are not as many.
    places: Vec<u64>,
    appends: Vec<Vec<Record>>,
    /// Added to what appends say is durable.
    durable: u64,
    /// Bytes behind the records of every append.
    junk: usize,
}

impl Target {
    fn new(kind: StoreKind) -> Target {
        let params = params(kind);
        let (items, leaves, places, appends) = (vec![CheckpointItem::Floor(0)], Vec::new(), Vec::new(), Vec::new());
        Target { params, items, leaves, places, appends, durable: 0, junk: 0 }
    }

    fn with(mut self, chunks: Vec<(ChunkKey, ChunkItem)>) -> Target {
        self.leaves.push(chunks);
        self
    }

    fn item(mut self, item: CheckpointItem) -> Target {
        self.items.push(item);
        self
    }

    fn append(mut self, records: Vec<Record>) -> Target {
        self.appends.push(records);
        self
    }

    fn write(self) -> MemDisk {
        let disk = MemDisk::new();
        let uuid_crc = crc32c(&self.params.identity.uuid);
        let mut slice = new_slice();
        let mut at = 0;
        for (n, chunks) in self.leaves.iter().enumerate() {
            let mut entries = Vec::new();
            chunks.iter().for_each(|(key, item)| item.encode(key.as_bytes(), &mut entries));
            let crc = seal(uuid_crc, &entries);
            let place = self.places.get(n).copied().unwrap_or(at);
            let runs = vec![Run { disk: place, len: leaf_blocks(entries.len()) as u32 }];
            disk.poke(self.params.index_offset() + place * 4096, &encode_leaf(&entries, crc));
            at = place + u64::from(runs[0].len);
            CheckpointItem::Leaf(LeafRef { bytes: entries.len() as u32, crc, runs }).encode(&mut slice);
        }
        self.items.iter().for_each(|item| item.encode(&mut slice));
        let stored = finish_slice(slice, 2, 0, uuid_crc);
        disk.poke(self.params.checkpoint_offset(0), &stored);
        self.write_journal(&disk, uuid_crc);
        let checkpoint =
            CheckpointRef { slices: 1, bytes: stored.len() as u64, generation: 2, append: 1, ..CheckpointRef::default() };
        let superblock = Superblock { generation: 2, params: self.params, checkpoint };
        SUPERBLOCK_OFFSETS.iter().for_each(|offset| disk.poke(*offset, &superblock.encode()));
        disk
    }

    fn write_journal(&self, disk: &MemDisk, uuid_crc: u32) {
        let (mut pos, mut prev, mut first_seq) = (0, 0, 1);
        for (records, number) in self.appends.iter().zip(1..) {
            let mut body = Vec::new();
            records.iter().for_each(|record| record.encode(&mut body));
            body.resize(body.len() + self.junk, 0);
            let append = Append {
                generation: 2,
                append: number,
                durable: first_seq - 1 + self.durable,
                first_seq,
                body: body.len() as u32,
                body_crc: seal(uuid_crc, &body),
                records: records.len() as u32,
                pos,
                prev,
            };
            let plain = [append.encode(uuid_crc), body].concat();
            disk.poke(self.params.journal_offset() + u64::from(pos) * 4096, &parity::protect(&plain));
            pos += append.blocks();
            prev = append.id(uuid_crc);
            first_seq += records.len() as u64;
        }
    }

    /// Checks it, and sees that nothing that shows it panics.
    #[track_caller]
    fn check(self) -> Report {
        let disk = self.write();
        let _ = (overview(&disk).unwrap(), journal(&disk).unwrap(), checkpoint(&disk).unwrap(), free(&disk).unwrap());
        fsck(&disk, &Options::default(), &mut |_| {}).unwrap()
    }

    /// The worst finding must be this one, and say this.
    #[track_caller]
    fn finds(self, class: Class, severity: Severity, offset: u64, says: &str) {
        let report = self.check();
        let first = report.findings.first().expect("something is found");
        assert_eq!((first.class, first.severity, first.offset), (class, severity, offset), "{:#?}", report.findings);
        assert!(first.what.contains(says), "{}", first.what);
    }
}

fn key(name: &str) -> ChunkKey {
    ChunkKey::new(name.as_bytes()).unwrap()
}

/// A chunk of zeroes in blocks `disk` on.
fn chunk(name: &str, blocks: u32, disk: u64) -> (ChunkKey, ChunkItem) {
    let len = blocks * 4096;
    let committed = Committed { ver: 3, chain_ver: 1, len, checksum: zeroes(u64::from(len)), tag: TAG };
    let extents = vec![Extent { logical: 0, len: blocks, disk }];
    (key(name), ChunkItem { chunk_size: 8 * 4096, committed, slot: None, extents })
}

fn in_slot(name: &str, blocks: u32, slot: u64) -> (ChunkKey, ChunkItem) {
    let (key, item) = chunk(name, blocks, slot);
    (key, ChunkItem { slot: Some(slot), ..item })
}

fn staged(name: &str, ver: u64, disk: u64) -> CheckpointItem {
    let staged = Staged { ver, chain_ver: 1, len: 4096, checksum: zeroes(4096), tag: TAG, remove: false, durable: true };
    let extents = vec![Extent { logical: 0, len: 1, disk }];
    let fresh = vec![Run { disk, len: 1 }];
    CheckpointItem::Staged(key(name), StagedItem { chunk_size: 8 * 4096, staged, extents, fresh, slot: None, held: Vec::new() })
}

fn data(kind: StoreKind, block: u64) -> u64 {
    params(kind).data_offset() + block * 4096
}

use Severity::{Damage, Fatal};
use StoreKind::{Cow, InPlace};

#[test]
fn a_target_put_together_by_hand_is_whole() {
    let chunks = vec![chunk("a", 2, 0), chunk("b", 1, 7)];
    let target = Target::new(Cow).with(chunks).with(vec![chunk("c", 8, 20)]).item(staged("b", 4, 9));
    let commit = Record::Commit { key: key("b"), ver: 4, chain_ver: 1 };
    let report = target.append(vec![commit]).append(vec![Record::Purge { key: key("a") }]).check();
    // But for the table, which was never written.
    assert!(report.findings.iter().all(|f| (f.class, f.severity) == (Class::Table, Severity::Repairable)), "{report:#?}");
    assert_eq!(report.findings.len(), 1);
    let c = report.checked;
    assert_eq!((c.chunks, c.staged, c.leaves, c.slices, c.records, c.used), (2, 0, 2, 1, 2, 9 * 4096));
}

#[test]
fn blocks_with_two_owners_and_outside_the_target() {
    let twice = Target::new(Cow).with(vec![chunk("a", 4, 10), chunk("b", 2, 13)]);
    twice.finds(Class::Owner, Fatal, data(Cow, 13), "block 13 belongs to a and to b");
    let around = Target::new(Cow).with(vec![chunk("a", 8, 10), chunk("b", 1, 11), chunk("c", 1, 16)]);
    let report = around.check();
    assert_eq!(report.findings.iter().filter(|f| f.class == Class::Owner).count(), 2, "{report:#?}");
    let outside = Target::new(Cow).with(vec![chunk("a", 4, 98)]);
    outside.finds(Class::Owner, Fatal, data(Cow, 98), "behind the last, 100");
    let far = Target::new(Cow).with(vec![chunk("a", 1, 1 << 59)]);
    far.finds(Class::Owner, Fatal, data(Cow, 100), "behind the last");
    let staged_too = Target::new(Cow).with(vec![chunk("a", 4, 10)]).item(staged("b", 1, 12));
    staged_too.finds(Class::Owner, Fatal, data(Cow, 12), "belongs to a and to b");
    let mut leaves = Target::new(Cow).with(vec![chunk("a", 1, 0)]).with(vec![chunk("b", 1, 1)]);
    leaves.places = vec![5, 6];
    let offset = leaves.params.index_offset() + 6 * 4096;
    leaves.finds(Class::Owner, Fatal, offset, "belongs to leaf 0 and to leaf 1");
}

#[test]
fn chunks_that_make_no_sense() {
    let slot = Target::new(Cow).with(vec![in_slot("a", 2, 8)]);
    slot.finds(Class::Chunk, Damage, data(Cow, 8), "a slot in a copy-on-write store");
    let none = Target::new(InPlace).with(vec![chunk("a", 2, 8)]);
    none.finds(Class::Chunk, Damage, data(InPlace, 8), "blocks without a slot");
    let (name, mut item) = in_slot("a", 2, 8);
    item.slot = Some(16);
    Target::new(InPlace).with(vec![(name, item)]).finds(Class::Chunk, Damage, data(InPlace, 8), "the slot starts at 16");
    let old = Target::new(Cow).with(vec![chunk("a", 1, 3)]).item(staged("a", 3, 4));
    old.finds(Class::Chunk, Damage, data(Cow, 4), "version 3 is staged on version 3");
    let mut strange = staged("a", 4, 4);
    if let CheckpointItem::Staged(_, side) = &mut strange {
        side.fresh = vec![Run { disk: 50, len: 1 }];
    }
    let strange = Target::new(Cow).with(vec![chunk("a", 1, 3)]).item(strange);
    strange.finds(Class::Chunk, Damage, data(Cow, 4), "not the staged version's");
    let held = vec![crate::format::journal::Held { first: 0, bytes: Bytes::from(vec![0; 4096]) }];
    let waits = Target::new(Cow).with(vec![chunk("a", 1, 3)]).item(CheckpointItem::Redo(key("a"), held));
    waits.finds(Class::Chunk, Damage, data(Cow, 3), "bytes wait for their place");
}

#[test]
fn checkpoints_that_make_no_sense() {
    let base = params(Cow).checkpoint_offset(0);
    let session = |client| {
        let row = SessionRow { seq: 1, ver: 1, len: 0, checksum: 0, chain_ver: 1 };
        CheckpointItem::Session(SessionId { client, channel: 0 }, row)
    };
    let order = Target::new(Cow).item(session(2)).item(session(1));
    order.finds(Class::Session, Damage, base, "client 1 channel 0 is out of order");
    let twice = Target::new(Cow).item(staged("a", 1, 1)).item(staged("a", 1, 2));
    twice.finds(Class::Checkpoint, Damage, base, "a is staged twice");
    let leaf = params(Cow).index_offset();
    let order = Target::new(Cow).with(vec![chunk("b", 1, 0), chunk("a", 1, 1)]);
    order.finds(Class::Leaf, Fatal, leaf, "keys that are not in order");
    let across = Target::new(Cow).with(vec![chunk("a", 1, 0)]).with(vec![chunk("a", 1, 1)]);
    across.finds(Class::Leaf, Fatal, leaf + 2 * 4096, "index leaf 1 has keys that are not in order");
    Target::new(Cow).with(Vec::new()).finds(Class::Leaf, Fatal, leaf, "is empty");
}

#[test]
fn journals_that_make_no_sense() {
    let ring = params(Cow).journal_offset();
    let floor = || Record::Floor(1);
    let commit = Target::new(Cow).append(vec![floor()]).append(vec![Record::Commit { key: key("a"), ver: 1, chain_ver: 1 }]);
    commit.finds(Class::Record, Fatal, ring + 2 * 4096, "record 2: a version 1 is committed and was not staged");
    let stage = |base, crcs: Vec<u32>| {
        Record::Stage(StageRecord {
            key: key("a"),
            chunk_size: 4096,
            ver: base + 1,
            base,
            chain_ver: 1,
            tag: TAG,
            remove: false,
            len: 4096,
            checksum: zeroes(4096),
            first: 0,
            runs: crcs.iter().map(|_| Run { disk: 5, len: 1 }).collect(),
            crcs,
            slot: None,
            held: Vec::new(),
        })
    };
    let base = Target::new(Cow).append(vec![stage(7, Vec::new())]);
    base.finds(Class::Record, Fatal, ring, "staged on version 7, and version 0 is here");
    let twice = Target::new(Cow).append(vec![stage(0, Vec::new()), stage(0, Vec::new())]);
    twice.finds(Class::Record, Fatal, ring, "staged twice");
    let placed = Placed { runs: vec![Run { disk: 5, len: 1 }], crcs: vec![zeroes(4096)], slot: None };
    let moved = Target::new(Cow).append(vec![Record::Move { key: key("a"), ver: 3, placed: placed.clone() }]);
    moved.finds(Class::Record, Fatal, ring, "is moved and is not there");
    let committed = Committed { ver: 1, chain_ver: 1, len: 4096, checksum: 1, tag: TAG };
    let install = Target::new(Cow).append(vec![Record::Install { key: key("a"), chunk_size: 4096, committed, placed }]);
    install.finds(Class::Record, Fatal, ring, "do not make the chunk's");
    let mut junk = Target::new(Cow).append(vec![floor()]);
    junk.junk = 3;
    junk.finds(Class::Record, Fatal, ring, "records that make no sense");
    let mut future = Target::new(Cow).append(vec![floor()]);
    future.durable = 1;
    future.finds(Class::Journal, Damage, ring, "says that 1 is durable");
    let mut lost = Target::new(Cow).append(vec![floor()]);
    lost.durable = 5;
    lost.finds(Class::Journal, Fatal, ring + 2 * 4096, "records 2 to 5 were durable");
    // Not known durable, and the data is not there: as after a power cut.
    let torn = Target::new(Cow).append(vec![floor()]).append(vec![stage(0, vec![17])]);
    torn.finds(Class::Dropped, Severity::Info, data(Cow, 5), "data of record 2");
    // Unless it has been replaced since: then its blocks may be others'.
    let replaced = Target::new(Cow).append(vec![stage(0, vec![17]), Record::Unstage { key: key("a"), ver: 1 }]).check();
    assert!(replaced.findings.is_empty(), "{replaced:#?}");
    assert_eq!(replaced.checked.records, 2);
}

/// A disk some of whose blocks cannot be read, and that ends early.
struct Bad {
    disk: MemDisk,
    blocks: Vec<u64>,
    size: u64,
}

impl Medium for Bad {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if self.blocks.iter().any(|block| block * 4096 < end && (block + 1) * 4096 > offset) {
            return Err(io::Error::other("bad sector"));
        }
        Medium::read(&self.disk, offset, buf)
    }

    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn name(&self) -> String {
        "a bad disk".to_string()
    }
}

#[test]
fn bad_sectors_and_a_short_file() {
    let params = params(Cow);
    let disk = Target::new(Cow).with(vec![chunk("a", 2, 3)]).append(vec![Record::Floor(1)]).write();
    let check = |blocks: &[u64], size| {
        let bad = Bad { disk: disk.fork(), blocks: blocks.to_vec(), size };
        fsck(&bad, &Options::default(), &mut |_| {})
    };
    // The superblock's second copy, the first block of the append, a parity and a block of data that is zero anyhow.
    let bad = [8, params.journal_offset() / 4096, params.index_offset() / 4096 + 1, data(Cow, 3) / 4096];
    let report = check(&bad, params.size()).unwrap();
    for block in bad {
        let found = report.findings.iter().filter(|f| (f.class, f.offset) == (Class::Unreadable, block * 4096));
        assert_eq!(found.count(), 1, "{report:#?}");
    }
    assert_eq!((report.worst(), report.checked.records, report.checked.chunks), (Some(Damage), 1, 1), "{report:#?}");
    assert!(report.checked.data && report.findings.iter().any(|f| f.class == Class::Journal));
    let report = check(&[], params.size() - 4096).unwrap();
    assert!(report.findings.iter().any(|f| (f.class, f.offset) == (Class::Size, params.size() - 4096)), "{report:#?}");
    assert!(check(&[0, 8], params.size()).is_err(), "nothing to go by");
}
