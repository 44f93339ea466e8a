//! Moving fragmented chunks together: when reading one takes many operations, it is written anew side by side.
//!
//! Only reads nominate a chunk, so that chunks that are written all the time and never read cost nothing. What must hold:
//! a chunk is moved only if it is exactly as it was when it was read, and nothing of it is staged; the old blocks are
//! freed like any others.

use std::collections::BTreeSet;

use bytes::Bytes;
use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Code, Time};

use super::group::Notify;
use super::read::Reader;
use super::{BLOCK64, CowStore, Op, Owner, freed};
use crate::alloc::Run;
use crate::disk::{Disk, IoOp};
use crate::format::StoreKind;
use crate::format::journal::{Placed, Record};
use crate::format::leaf::ChunkItem;
use crate::version::{block_crcs, relocated};

/// Chunks that wait, at most.
const MOST: usize = 1024;
/// A read is hard if it takes more operations than this, and more than one for so many blocks.
const PIECES: usize = 8;
const BLOCKS_PER_PIECE: usize = 16;

/// A chunk on the move.
struct Moving {
    key: ChunkKey,
    item: ChunkItem,
    runs: Vec<Run>,
    /// The writes' operation, and how many have not ended.
    op: u64,
    left: usize,
    crcs: Vec<u32>,
    /// The record is queued: the new blocks have their owner.
    recorded: bool,
}

/// What is moved, and what is to be.
#[derive(Default)]
pub(crate) struct Compaction {
    wanted: BTreeSet<ChunkKey>,
    moving: Option<Moving>,
    /// Not before this time.
    next: Time,
}

impl Compaction {
    /// Blocks taken that no chunk owns yet.
    pub(super) fn runs(&self) -> &[Run] {
        self.moving.as_ref().filter(|m| !m.recorded).map_or(&[], |m| &m.runs)
    }
}

impl<D: Disk> CowStore<D> {
    /// A read of `blocks` blocks of a committed chunk took so many operations.
    pub(super) fn nominate(&mut self, key: &ChunkKey, pieces: usize, blocks: usize) {
        let cow = self.superblock.params.kind == StoreKind::Cow && self.scrub.background.compact_rate > 0;
        if cow && pieces > PIECES && blocks / pieces < BLOCKS_PER_PIECE && self.compaction.wanted.len() < MOST {
            self.compaction.wanted.insert(key.clone());
        }
    }

    /// When there is something to move.
    pub(super) fn compaction_due(&self) -> Option<Time> {
        (self.compaction.moving.is_none() && !self.compaction.wanted.is_empty()).then_some(self.compaction.next)
    }

    pub(super) fn advance_compaction(&mut self) {
        if self.failed.is_some() || self.compaction_due().is_none_or(|due| self.now < due) {
            return;
        }
        let Some(key) = self.compaction.wanted.pop_first() else { return };
        let Some(item) = self.index.get(&key).filter(|_| !self.staged.contains_key(&key)) else { return };
        let count: u32 = item.extents.iter().map(|e| e.len).sum();
        // Room for others, and for the old blocks that stay for a while.
        if u64::from(count) * 2 + self.alloc.total() / 16 > self.alloc.free() {
            return;
        }
        let Some(runs) = self.alloc.take(count) else { return };
        if runs.len() * 2 > item.extents.len() || !self.has_space(&runs) {
            return self.give_back(&runs);
        }
        let ver = item.committed.ver;
        self.compaction.moving = Some(Moving { key: key.clone(), item, runs, op: 0, left: 0, crcs: Vec::new(), recorded: false });
        self.start_read(Reader::Move, &key, ver, 0, u32::MAX);
    }

    /// Whether the chunk is as it was.
    fn unchanged(&self, moving: &Moving) -> bool {
        !self.staged.contains_key(&moving.key)
            && !self.overlay.contains_key(&moving.key)
            && self.index.get(&moving.key).as_ref() == Some(&moving.item)
    }

    /// The chunk has been read: writes it to its new place.
    pub(super) fn move_read(&mut self, result: Result<Bytes, Code>) {
        let Some(mut moving) = self.compaction.moving.take() else { return };
        let Ok(bytes) = result else { return self.give_back(&moving.runs) };
        if !self.unchanged(&moving) {
            return self.give_back(&moving.runs);
        }
        let size: usize = moving.item.extents.iter().map(|e| e.len as usize * BLOCK as usize).sum();
        let mut data = self.arena.take_or_alloc(size);
        let mut at = 0;
        for e in &moving.item.extents {
            let (from, n) = (e.logical as usize * BLOCK as usize, e.len as usize * BLOCK as usize);
            let part = &bytes[from..bytes.len().min(from + n)];
            data[at..at + part.len()].copy_from_slice(part);
            data[at + part.len()..at + n].fill(0);
            at += n;
        }
        let data = data.freeze();
        moving.crcs = block_crcs(&data).collect();
        moving.op = self.take_op();
        moving.left = moving.runs.len();
        self.ops.insert(moving.op, Op::Move);
        let mut at = 0;
        for run in moving.runs.clone() {
            let n = run.len as usize * BLOCK as usize;
            let write = IoOp::Write { offset: self.data_offset(run.disk), data: data.slice(at..at + n) };
            self.submit(Owner::Data { op: moving.op }, write);
            at += n;
        }
        let rate = u128::from(self.scrub.background.compact_rate.max(1));
        self.compaction.next = self.now + (size as u128 * 1_000_000_000 / rate) as Time;
        self.compaction.moving = Some(moving);
    }

    /// A write of the move has completed; the last one records it.
    pub(super) fn move_written(&mut self, op: u64) {
        let Some(moving) = self.compaction.moving.as_mut().filter(|m| m.op == op) else { return };
        moving.left -= 1;
        if moving.left > 0 {
            return;
        }
        self.ops.remove(&op);
        let Some(mut moving) = self.compaction.moving.take() else { return };
        if !self.unchanged(&moving) {
            return self.give_back(&moving.runs);
        }
        let new = ChunkItem { extents: relocated(&moving.item.extents, &moving.runs), ..moving.item.clone() };
        let frees = freed(Some(&moving.item), Some(&new));
        self.index.set(&moving.key, Some(&new));
        let places = moving.runs.iter().flat_map(|run| run.disk..run.disk + u64::from(run.len));
        for (disk, crc) in places.zip(&moving.crcs) {
            self.table.set(disk, *crc);
        }
        self.stats.compacted += 1;
        self.stats.bytes_written += moving.crcs.len() as u64 * BLOCK64;
        let placed = Placed { runs: moving.runs.clone(), crcs: std::mem::take(&mut moving.crcs), slot: None };
        let record = Record::Move { key: moving.key.clone(), ver: moving.item.committed.ver, placed };
        moving.recorded = true;
        self.compaction.moving = Some(moving);
        self.enqueue(Some(&record), false, Notify::Moved, 0, frees);
    }

    /// The move is durable.
    pub(super) fn move_recorded(&mut self) {
        self.compaction.moving = None;
    }
}
