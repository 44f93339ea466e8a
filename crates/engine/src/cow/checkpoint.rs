//! Checkpoints: the whole index at one record number, written in slices while the target goes on working.
//!
//! The snapshot is exact without copying the index: while a checkpoint walks the keys, the first change of a key it has
//! not passed keeps what was there (`kept`). When all slices are written and every record up to the snapshot's is durable,
//! a flush, then one copy of the superblock, then a flush: from there on the journal up to the snapshot is free. The other
//! copy follows.
//!
//! What must hold: the snapshot contains exactly the records up to `seq`; the area that the superblock names is never
//! written.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use catena_types::ChunkKey;

use super::{BLOCK64, CowStore, Entry, Owner};
use crate::disk::{Disk, IoOp};
use crate::format::{
    CheckpointItem, CheckpointRef, SLICE_HEADER_BYTES, SUPERBLOCK_OFFSETS, Superblock, finish_slice, new_slice, put_chunk,
};

/// How fast a checkpoint goes.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Bytes after which a slice is closed.
    slice_bytes: usize,
    /// Slices in flight.
    in_flight: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { slice_bytes: 256 << 10, in_flight: 4 }
    }
}

/// A checkpoint on its way.
pub(crate) struct Checkpoint {
    reference: CheckpointRef,
    /// Journal blocks in use that the checkpoint makes free.
    frees: u32,
    /// Keys up to and including this one are in slices.
    cursor: Option<ChunkKey>,
    /// What changed keys behind the cursor were at the snapshot.
    kept: BTreeMap<ChunkKey, Option<Entry>>,
    /// The slice that is being filled.
    slice: Vec<u8>,
    in_flight: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Slices are being written.
    Walking,
    /// The flush behind the slices.
    FlushSlices,
    /// The superblock's first copy.
    First,
    FlushFirst,
    /// The superblock's second copy.
    Second,
    FlushSecond,
}

impl Checkpoint {
    /// Keeps what is there before the first change of a key that is not in a slice yet.
    pub(super) fn keep(&mut self, key: &ChunkKey, entry: Option<&Entry>) {
        if self.phase == Phase::Walking && self.cursor.as_ref().is_none_or(|c| key > c) && !self.kept.contains_key(key) {
            self.kept.insert(key.clone(), entry.cloned());
        }
    }
}

impl<D: Disk> CowStore<D> {
    /// For tests: small slices, one after the other, so that a small index too changes while it is written.
    #[doc(hidden)]
    pub fn set_checkpoint_pace(&mut self, slice_bytes: usize, in_flight: usize) {
        self.pace = Pace { slice_bytes: slice_bytes.max(SLICE_HEADER_BYTES + 1), in_flight: in_flight.max(1) };
    }

    /// Starts a checkpoint of everything that has a record number. The queue holds no other changes.
    pub(super) fn start_checkpoint(&mut self) {
        if self.checkpoint.is_some() || self.failed.is_some() {
            return;
        }
        let old = &self.superblock.checkpoint;
        let reference = CheckpointRef {
            area: if old.slices == 0 { 0 } else { 1 - old.area },
            slices: 0,
            bytes: 0,
            generation: self.superblock.generation + 1,
            pos: self.journal.head,
            append: self.journal.next_append,
            seq: self.journal.last_seq(),
        };
        let mut slice = new_slice();
        CheckpointItem::put_floor(&mut slice, self.floor);
        let mut checkpoint = Checkpoint {
            reference,
            frees: self.journal.used,
            cursor: None,
            kept: BTreeMap::new(),
            slice,
            in_flight: 0,
            phase: Phase::Walking,
        };
        // Session rows at once: there are few, and they have no history to keep.
        for (id, row) in &self.sessions {
            CheckpointItem::put_session(&mut checkpoint.slice, id, row);
        }
        self.checkpoint = Some(checkpoint);
    }

    /// Writes slices, and takes the next step when the last one is done.
    pub(super) fn advance_checkpoint(&mut self) {
        if self.failed.is_some() {
            return;
        }
        let Some(mut checkpoint) = self.checkpoint.take() else { return };
        if checkpoint.phase == Phase::Walking {
            let mut more = true;
            while more && checkpoint.in_flight < self.pace.in_flight && self.failed.is_none() {
                more = self.fill_slice(&mut checkpoint);
                if checkpoint.slice.len() > SLICE_HEADER_BYTES {
                    self.issue_slice(&mut checkpoint);
                }
            }
            let ended = !more && checkpoint.in_flight == 0;
            if ended && self.ready_for_checkpoint(checkpoint.reference.seq) {
                checkpoint.phase = Phase::FlushSlices;
                self.stats.flushes += 1;
                self.submit(Owner::CheckpointFlush, IoOp::Flush);
            }
        }
        self.checkpoint = Some(checkpoint);
    }

    /// Adds chunks to the slice until it is full; `false` at the end of the index.
    fn fill_slice(&mut self, checkpoint: &mut Checkpoint) -> bool {
        while checkpoint.slice.len() < self.pace.slice_bytes {
            let from = match &checkpoint.cursor {
                Some(key) => Bound::Excluded(key.as_bytes()),
                None => Bound::Unbounded,
            };
            let range = (from, Bound::Unbounded);
            let live = self.index.range::<[u8], _>(range).next();
            let kept = checkpoint.kept.first_key_value();
            let (key, entry) = match (live, kept) {
                (None, None) => return false,
                (Some((key, entry)), None) => (key.clone(), Some(entry)),
                (Some((key, entry)), Some((k, _))) if key < k => (key.clone(), Some(entry)),
                (_, Some((k, entry))) => (k.clone(), entry.as_ref()),
            };
            if let Some(entry) = entry {
                put_entry(&mut checkpoint.slice, &key, entry, checkpoint.reference.seq);
            }
            checkpoint.kept.remove(&key);
            checkpoint.cursor = Some(key);
        }
        true
    }

    fn issue_slice(&mut self, checkpoint: &mut Checkpoint) {
        let r = &mut checkpoint.reference;
        let mut slice = std::mem::replace(&mut checkpoint.slice, new_slice());
        finish_slice(&mut slice, r.generation, r.slices, self.uuid_crc);
        let params = &self.superblock.params;
        if r.bytes + slice.len() as u64 > params.checkpoint {
            let name = self.disk.name();
            return self.fail(format!("{name}: the index outgrew the checkpoint area of {} bytes", params.checkpoint));
        }
        let offset = params.checkpoint_offset(r.area) + r.bytes;
        r.bytes += slice.len() as u64;
        r.slices += 1;
        checkpoint.in_flight += 1;
        let data = self.aligned(&slice);
        self.submit(Owner::Slice, IoOp::Write { offset, data });
    }

    /// A copy of `bytes` (whole blocks) in aligned memory, if it fits one buffer.
    pub(super) fn aligned(&self, bytes: &[u8]) -> Bytes {
        if bytes.len() > catena_arena::MAX_BUF {
            return Bytes::copy_from_slice(bytes);
        }
        let mut buf = self.arena.take_or_alloc(bytes.len());
        buf.copy_from_slice(bytes);
        buf.freeze()
    }

    pub(super) fn slice_written(&mut self) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.in_flight -= 1;
        }
    }

    pub(super) fn checkpoint_flushed(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        match checkpoint.phase {
            Phase::FlushSlices => {
                checkpoint.phase = Phase::First;
                let generation = checkpoint.reference.generation;
                let next = Superblock { generation, checkpoint: checkpoint.reference, ..self.superblock };
                self.write_superblock(&next, generation % 2);
            }
            Phase::FlushFirst => self.switch_checkpoint(),
            Phase::FlushSecond => {
                self.checkpoint = None;
                self.stats.checkpoints += 1;
            }
            Phase::Walking | Phase::First | Phase::Second => {}
        }
    }

    /// The new checkpoint is what an open would find: the journal before it is free.
    fn switch_checkpoint(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        checkpoint.phase = Phase::Second;
        let reference = checkpoint.reference;
        self.journal.used -= checkpoint.frees;
        self.superblock.generation = reference.generation;
        self.superblock.checkpoint = reference;
        let current = self.superblock;
        self.write_superblock(&current, (reference.generation + 1) % 2);
        self.checkpoint_durable(reference.seq);
    }

    fn write_superblock(&mut self, superblock: &Superblock, copy: u64) {
        let data = self.aligned(&superblock.encode());
        self.submit(Owner::Super, IoOp::Write { offset: SUPERBLOCK_OFFSETS[copy as usize], data });
    }

    pub(super) fn superblock_written(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        checkpoint.phase = match checkpoint.phase {
            Phase::First => Phase::FlushFirst,
            _ => Phase::FlushSecond,
        };
        self.stats.flushes += 1;
        self.submit(Owner::CheckpointFlush, IoOp::Flush);
    }

    /// Most bytes the index and the sessions may take in a checkpoint: less for what clients add. Padding and headers of
    /// slices take less than a 32nd.
    pub(super) fn index_limit(&self, client: bool) -> u64 {
        let area = self.superblock.params.checkpoint;
        area - area / if client { 8 } else { 16 } - 2 * BLOCK64
    }

    /// Bytes the index and the sessions take in a checkpoint, at most.
    pub(super) fn index_use(&self) -> u64 {
        self.index_bytes + 64 * self.sessions.len() as u64
    }
}

/// A chunk as of record `seq`. Committed versions have always a number; a staged one counts only if its is not later.
fn put_entry(out: &mut Vec<u8>, key: &ChunkKey, entry: &Entry, seq: u64) {
    let committed = entry.committed.as_ref().map(|(c, v)| (c, &**v));
    let staged = entry.staged.as_ref().filter(|s| s.seq.is_some_and(|n| n <= seq));
    let staged = staged.and_then(|s| s.version.as_deref().map(|v| (&s.staged, v)));
    if committed.is_some() || staged.is_some() {
        put_chunk(out, key, entry.chunk_size, committed, staged);
    }
}
