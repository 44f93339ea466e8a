//! Checkpoints: the state at one record number, written while the target goes on working.
//!
//! Only what has changed since the last one is written: index leaves to free blocks of the index area, pages of the checksum
//! table in place, and then a short list (the sessions, what is staged, where every leaf is) to the checkpoint area that is
//! not in use. The snapshot is exact without copying the index: a leaf's bytes never change, a change makes a new leaf.
//! When everything is written and so is every record up to the snapshot's, a flush, then one copy of the superblock, then
//! a flush: from there on the journal up to the snapshot is free, and the leaves only the old checkpoint names are. The
//! other copy follows.
//!
//! What must hold: the snapshot contains exactly the records up to `seq`; nothing that the superblock leads to is ever
//! written over, but for pages of the table (see there why they may).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use catena_types::Staged;

use super::index::Place;
use super::{BLOCK64, CowStore, Owner, StagedEntry};
use crate::disk::{Disk, IoOp};
use crate::format::leaf::{encode_leaf, leaf_blocks};
use crate::format::seal;
use crate::format::slice::{CheckpointItem, SLICE_HEADER_BYTES, StagedItem, finish_slice, new_slice};
use crate::format::superblock::{CheckpointRef, SUPERBLOCK_OFFSETS, Superblock};
use crate::mutation::{Mutation, is};

/// How fast a checkpoint goes.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Bytes after which a write or a slice is closed.
    bytes: usize,
    /// Writes in flight.
    in_flight: usize,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { bytes: 256 << 10, in_flight: 4 }
    }
}

/// A checkpoint on its way.
pub(crate) struct Checkpoint {
    reference: CheckpointRef,
    /// Journal blocks in use that the checkpoint makes free.
    frees: u32,
    /// All leaves of the snapshot, in key order.
    image: Vec<Rc<Place>>,
    /// Leaves to be written.
    leaves: VecDeque<(Rc<Place>, Rc<[u8]>)>,
    /// Pages of the table to be written; the first may have to be read before.
    pages: VecDeque<u64>,
    reading: Option<u64>,
    /// Leaves named in slices.
    named: usize,
    /// The slice that is being filled.
    slice: Vec<u8>,
    in_flight: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Leaves, pages and slices are being written.
    Writing,
    /// The flush behind them.
    FlushSlices,
    /// The superblock's first copy.
    First,
    FlushFirst,
    /// The superblock's second copy.
    Second,
    FlushSecond,
}

impl Checkpoint {
    /// The leaves it names.
    pub(super) fn image(&self) -> &[Rc<Place>] {
        &self.image
    }
}

impl<D: Disk> CowStore<D> {
    /// For tests: small leaves and slices, one after the other, so that a small index too changes while it is written; and
    /// little memory for the checksum table.
    #[doc(hidden)]
    pub fn set_checkpoint_pace(&mut self, bytes: usize, in_flight: usize) {
        self.pace = Pace { bytes: bytes.max(2048), in_flight: in_flight.max(1) };
        self.index.set_most(bytes);
        self.table.set_limit(1);
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
            prev: self.journal.prev,
        };
        let mut checkpoint = Checkpoint {
            reference,
            frees: self.journal.used,
            image: Vec::with_capacity(self.index.len()),
            leaves: VecDeque::new(),
            pages: self.table.changed().into(),
            reading: None,
            named: 0,
            slice: new_slice(),
            in_flight: 0,
            phase: Phase::Writing,
        };
        if self.snapshot_leaves(&mut checkpoint).is_none() {
            let name = self.disk.name();
            return self.fail(format!("{name}: the index outgrew its area of {} bytes", self.superblock.params.index));
        }
        self.snapshot_rest(&mut checkpoint);
        self.checkpoint = Some(checkpoint);
    }

    /// Gives every changed leaf a place, and remembers its bytes; `None` if there is no room.
    fn snapshot_leaves(&mut self, checkpoint: &mut Checkpoint) -> Option<()> {
        if is(Mutation::FreeLeavesEarly) {
            self.free_leaves_early();
        }
        if self.disk_is_full() {
            // Where leaves were before, there is space.
            self.index_alloc.search_from(0);
        }
        for leaf in self.index.leaves_mut() {
            let place = match &leaf.place {
                Some(place) => place.clone(),
                None => {
                    let bytes = leaf.entries.len();
                    let runs = self.index_alloc.take(leaf_blocks(bytes) as u32)?;
                    let place = Rc::new(Place { bytes: bytes as u32, crc: Cell::new(0), runs });
                    leaf.place = Some(place.clone());
                    checkpoint.leaves.push_back((place.clone(), leaf.entries.clone()));
                    place
                }
            };
            checkpoint.image.push(place);
        }
        Some(())
    }

    /// For [`Mutation::FreeLeavesEarly`]: what has changed since the last checkpoint gives up its place there.
    fn free_leaves_early(&mut self) {
        for place in std::mem::take(&mut self.image) {
            if Rc::strong_count(&place) == 1 {
                for run in &place.runs {
                    self.index_alloc.clear(*run);
                    self.index_alloc.search_from(run.disk);
                }
            }
        }
    }

    /// Everything but the leaves: at once, there is little of it.
    fn snapshot_rest(&mut self, checkpoint: &mut Checkpoint) {
        let seq = checkpoint.reference.seq;
        let mut items = vec![CheckpointItem::Floor(self.floor), CheckpointItem::Scrub(self.scrub.mark())];
        items.extend(self.sessions.iter().map(|(id, row)| CheckpointItem::Session(*id, *row)));
        let staged = self.staged.iter().filter(|(_, s)| s.seq.is_some_and(|n| n <= seq) && !is(Mutation::ForgetStaged));
        items.extend(staged.filter_map(|(key, s)| Some(CheckpointItem::Staged(key.clone(), s.item()?))));
        items.extend(self.unapplied().into_iter().map(|(key, held)| CheckpointItem::Redo(key.clone(), held)));
        for item in items {
            self.put_item(checkpoint, &item);
        }
    }

    fn put_item(&mut self, checkpoint: &mut Checkpoint, item: &CheckpointItem) {
        item.encode(&mut checkpoint.slice);
        if checkpoint.slice.len() >= self.pace.bytes {
            self.issue_slice(checkpoint);
        }
    }

    /// Writes what is next, and takes the next step when the last write is done.
    pub(super) fn advance_checkpoint(&mut self) {
        if self.failed.is_some() {
            return;
        }
        let Some(mut checkpoint) = self.checkpoint.take() else { return };
        if checkpoint.phase == Phase::Writing {
            let mut more = true;
            while more && checkpoint.in_flight < self.pace.in_flight && self.failed.is_none() {
                more =
                    self.write_leaves(&mut checkpoint) || self.write_pages(&mut checkpoint) || self.name_leaves(&mut checkpoint);
            }
            let ended = !more && checkpoint.in_flight == 0 && checkpoint.reading.is_none();
            if ended && self.failed.is_none() && self.ready_for_checkpoint(checkpoint.reference.seq) {
                checkpoint.phase = Phase::FlushSlices;
                if is(Mutation::CheckpointUnflushed) {
                    self.checkpoint = Some(checkpoint);
                    return self.checkpoint_flushed();
                }
                self.stats.flushes += 1;
                self.submit(Owner::CheckpointFlush, IoOp::Flush);
            }
        }
        self.checkpoint = Some(checkpoint);
    }

    /// Writes the next leaves that lie side by side; `false` if there are none.
    fn write_leaves(&mut self, checkpoint: &mut Checkpoint) -> bool {
        let Some((place, _)) = checkpoint.leaves.front() else { return false };
        let Some(start) = place.runs.first().map(|r| r.disk) else { return false };
        let (mut bytes, mut end) = (Vec::new(), start);
        while let Some((place, entries)) = checkpoint.leaves.front() {
            let together = matches!(&place.runs[..], [run] if run.disk == end);
            if !together || (!bytes.is_empty() && bytes.len() >= self.pace.bytes) {
                break;
            }
            place.crc.set(seal(self.uuid_crc, entries));
            bytes.extend(encode_leaf(entries, place.crc.get()));
            end += place.runs.iter().map(|r| u64::from(r.len)).sum::<u64>();
            checkpoint.leaves.pop_front();
        }
        if bytes.is_empty() {
            return self.write_scattered(checkpoint);
        }
        self.write_index(checkpoint, start, &bytes);
        true
    }

    /// Writes a leaf that lies in several runs.
    fn write_scattered(&mut self, checkpoint: &mut Checkpoint) -> bool {
        let Some((place, entries)) = checkpoint.leaves.pop_front() else { return false };
        place.crc.set(seal(self.uuid_crc, &entries));
        let bytes = encode_leaf(&entries, place.crc.get());
        let mut rest = &bytes[..];
        for run in &place.runs {
            let (part, after) = rest.split_at((u64::from(run.len) * BLOCK64) as usize);
            self.write_index(checkpoint, run.disk, part);
            rest = after;
        }
        true
    }

    fn write_index(&mut self, checkpoint: &mut Checkpoint, block: u64, bytes: &[u8]) {
        let offset = self.superblock.params.index_offset() + block * BLOCK64;
        self.write_part(checkpoint, offset, bytes);
    }

    fn write_part(&mut self, checkpoint: &mut Checkpoint, offset: u64, bytes: &[u8]) {
        checkpoint.in_flight += 1;
        self.stats.checkpoint_bytes += bytes.len() as u64;
        let data = self.aligned(bytes);
        self.submit(Owner::Slice, IoOp::Write { offset, data });
    }

    /// Writes the next pages of the table that lie side by side, or has one read first; `false` if there are none.
    fn write_pages(&mut self, checkpoint: &mut Checkpoint) -> bool {
        let Some(&first) = checkpoint.pages.front() else { return false };
        if checkpoint.reading.is_some() {
            return false;
        }
        if !self.table.is_whole(first) {
            checkpoint.reading = Some(first);
            if self.loads.entry(first).or_default().is_empty() {
                self.load_page(first);
            }
            return false;
        }
        let mut bytes = Vec::new();
        let mut next = first;
        while checkpoint.pages.front() == Some(&next) && bytes.len() < self.pace.bytes && self.table.is_whole(next) {
            checkpoint.pages.pop_front();
            match self.table.write(next, self.uuid_crc) {
                Some(_) if is(Mutation::SkipTablePages) => {}
                Some(page) => bytes.extend(page),
                None => break,
            }
            next += 1;
        }
        if !bytes.is_empty() {
            let offset = self.superblock.params.table_offset() + first * BLOCK64;
            self.write_part(checkpoint, offset, &bytes);
        }
        true
    }

    /// A page has been read that the checkpoint may have waited for.
    pub(super) fn page_for_checkpoint(&mut self, page: u64) {
        if let Some(checkpoint) = self.checkpoint.as_mut().filter(|c| c.reading == Some(page)) {
            checkpoint.reading = None;
        }
    }

    /// Puts the next leaf's place into a slice; `false` at the end. All leaves have been issued, and have their checksums.
    fn name_leaves(&mut self, checkpoint: &mut Checkpoint) -> bool {
        if !checkpoint.pages.is_empty() {
            return false;
        }
        let Some(place) = checkpoint.image.get(checkpoint.named) else {
            if checkpoint.slice.len() > SLICE_HEADER_BYTES {
                self.issue_slice(checkpoint);
            }
            return false;
        };
        let item = CheckpointItem::Leaf(place.named());
        checkpoint.named += 1;
        self.put_item(checkpoint, &item);
        true
    }

    fn issue_slice(&mut self, checkpoint: &mut Checkpoint) {
        let r = &mut checkpoint.reference;
        let slice = std::mem::replace(&mut checkpoint.slice, new_slice());
        let stored = finish_slice(slice, r.generation, r.slices, self.uuid_crc);
        let params = &self.superblock.params;
        if r.bytes + stored.len() as u64 > params.checkpoint {
            let name = self.disk.name();
            return self.fail(format!("{name}: the checkpoint outgrew its area of {} bytes", params.checkpoint));
        }
        let offset = params.checkpoint_offset(r.area) + r.bytes;
        r.bytes += stored.len() as u64;
        r.slices += 1;
        self.write_part(checkpoint, offset, &stored);
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
                if is(Mutation::FreeJournalEarly) {
                    self.journal.used -= std::mem::take(&mut checkpoint.frees);
                }
                let generation = checkpoint.reference.generation;
                let next = Superblock { generation, checkpoint: checkpoint.reference, ..self.superblock };
                self.write_superblock(&next, generation % 2);
                if is(Mutation::BothSuperblocks) {
                    let data = self.aligned(&next.encode());
                    let offset = SUPERBLOCK_OFFSETS[(generation as usize + 1) % 2];
                    self.submit(Owner::Append, IoOp::Write { offset, data });
                }
            }
            Phase::FlushFirst => self.switch_checkpoint(),
            Phase::FlushSecond => {
                self.checkpoint = None;
                self.stats.checkpoints += 1;
            }
            Phase::Writing | Phase::First | Phase::Second => {}
        }
    }

    /// The new checkpoint is what an open would find: the journal before it is free, and leaves only the old one names.
    fn switch_checkpoint(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        checkpoint.phase = Phase::Second;
        let reference = checkpoint.reference;
        self.journal.used -= checkpoint.frees;
        let old = std::mem::replace(&mut self.image, std::mem::take(&mut checkpoint.image));
        for place in old {
            // Held by nothing else: neither named by the new checkpoint nor in use.
            if Rc::strong_count(&place) == 1 {
                for run in &place.runs {
                    let cleared = self.index_alloc.clear(*run);
                    debug_assert!(cleared, "blocks of a leaf are taken");
                }
            }
        }
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
}

impl StagedEntry {
    /// As a checkpoint has it.
    fn item(&self) -> Option<StagedItem> {
        Some(StagedItem {
            chunk_size: self.chunk_size,
            staged: Staged { durable: true, ..self.staged },
            extents: self.version.as_ref()?.extents.clone(),
            fresh: self.fresh.clone(),
            slot: self.slot,
            held: self.held.clone(),
        })
    }
}
