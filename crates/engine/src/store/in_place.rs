//! Stores in place: a slot of the chunk's size for every chunk, and how bytes get to their place after the commit.
//!
//! The bytes of an update that fall on blocks the chunk uses travel in the journal record and stay in memory (`held` of the
//! staged update, then the chunk's overlay); blocks the chunk does not use yet are written to the slot at once, where no
//! version shows them. A commit queues an apply; it is written when the medium itself says that the commit's record is
//! durable (else rot in the last append could undo the commit, and the old bytes would be gone) and every older operation
//! has ended, so that readers of the old version never see new bytes. From then on the overlay is not needed.
//! Blocks that a chunk gives up (a cut, a dropped update) are guarded in the same way: until the record that gives them up
//! is durable and older operations have ended, they count as in use.
//!
//! What must hold: a block of the slot is written only while no version in use has other bytes for it that are nowhere
//! else, and none can have them again after a crash; applies of one chunk follow one another in order, and reach even a
//! slot that has been given up (it is not used again before they have); a checkpoint has the bytes of commits whose apply
//! has not been. (Amendment C12.)

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use catena_types::ChunkKey;
use catena_types::limits::BLOCK;

use super::group::Notify;
use super::{BLOCK64, CowStore, Op, Owner};
use crate::disk::{Disk, IoOp};
use crate::format::journal::{Held, Record};
use crate::mutation::{Mutation, is};
use crate::version::{Extent, Version, block_crcs};

/// Bytes of a chunk's committed version that are not at their place on disk yet.
#[derive(Default)]
pub(crate) struct Overlay {
    /// With the number of the apply or install that brings them there; in block order, not overlapping.
    parts: Vec<(u64, Held)>,
}

/// Bytes that go to their place after a commit, and blocks that are given up with it.
pub(crate) struct Apply {
    /// Names it in the overlay.
    number: u64,
    key: ChunkKey,
    /// Number of its record, once it has one.
    pub(super) seq: Option<u64>,
    /// Number of the next operation at the commit.
    before: u64,
    /// The version that was committed: where the bytes go.
    version: Version,
    held: Vec<Held>,
    /// Blocks that are given up.
    given_up: Vec<Range<u32>>,
    /// The operation that writes it.
    op: Option<u64>,
}

impl Apply {
    pub(super) fn held_bytes(&self) -> u64 {
        self.held.iter().map(|h| h.bytes.len() as u64).sum()
    }

    /// Its number, which is that of an operation.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Overlay {
    /// The bytes.
    pub(super) fn pieces(&self) -> Vec<Held> {
        self.parts.iter().map(|(_, held)| held.clone()).collect()
    }

    /// Adds bytes over what is there.
    pub(super) fn lay(&mut self, number: u64, held: Held) {
        cover(&mut self.parts, number, held);
    }

    /// Keeps only bytes of blocks that are mapped.
    pub(super) fn clip(&mut self, extents: &[Extent]) {
        let parts = std::mem::take(&mut self.parts);
        for (number, held) in parts {
            let range = held.first..held.first + held.blocks() as u32;
            let kept = in_use(range, mapped(extents));
            self.parts.extend(kept.into_iter().map(|range| (number, cut(&held, range))));
        }
    }

    /// Takes away what `number` brought; `true` if nothing is left.
    pub(super) fn lift(&mut self, number: u64) -> bool {
        self.parts.retain(|(n, _)| *n != number);
        self.parts.is_empty()
    }
}

/// Adds bytes over others, in block order.
pub(crate) fn lay(pieces: &mut Vec<Held>, held: Held) {
    let mut parts: Vec<((), Held)> = std::mem::take(pieces).into_iter().map(|h| ((), h)).collect();
    cover(&mut parts, (), held);
    pieces.extend(parts.into_iter().map(|(_, h)| h));
}

fn cover<T: Copy>(parts: &mut Vec<(T, Held)>, tag: T, held: Held) {
    let (from, to) = (held.first, held.first + held.blocks() as u32);
    let mut out = Vec::with_capacity(parts.len() + 2);
    for (tag, part) in parts.drain(..) {
        let (a, b) = (part.first, part.first + part.blocks() as u32);
        for range in [a..b.min(from), a.max(to)..b] {
            if !range.is_empty() {
                out.push((tag, cut(&part, range)));
            }
        }
    }
    let at = out.partition_point(|(_, part)| part.first < from);
    out.insert(at, (tag, held));
    *parts = out;
}

/// Some blocks of a piece.
fn cut(held: &Held, range: Range<u32>) -> Held {
    let at = |block: u32| (block - held.first) as usize * BLOCK as usize;
    Held { first: range.start, bytes: held.bytes.slice(at(range.start)..at(range.end)) }
}

/// The parts of `bytes` (whole blocks from block `first` on) that fall on the blocks `wanted`.
pub(super) fn held_of(first: u32, segments: &[Bytes], wanted: &[Range<u32>]) -> Vec<Held> {
    let mut out = Vec::new();
    let mut start = first;
    for segment in segments {
        let end = start + (segment.len() / BLOCK as usize) as u32;
        let whole = Held { first: start, bytes: segment.clone() };
        for range in wanted {
            let part = range.start.max(start)..range.end.min(end);
            if !part.is_empty() {
                out.push(cut(&whole, part));
            }
        }
        start = end;
    }
    out
}

/// The blocks of `range` that are in one of the others.
pub(super) fn in_use(range: Range<u32>, others: impl IntoIterator<Item = Range<u32>>) -> Vec<Range<u32>> {
    let inside = others.into_iter().map(|r| r.start.max(range.start)..r.end.min(range.end));
    let mut inside: Vec<_> = inside.filter(|r| !r.is_empty()).collect();
    inside.sort_by_key(|r| r.start);
    let mut out: Vec<Range<u32>> = Vec::new();
    for r in inside {
        match out.last_mut() {
            Some(last) if last.end >= r.start => last.end = last.end.max(r.end),
            _ => out.push(r),
        }
    }
    out
}

/// The blocks on disk.
pub(super) fn mapped(extents: &[Extent]) -> impl Iterator<Item = Range<u32>> + '_ {
    extents.iter().map(|e| e.logical..e.logical + e.len)
}

/// The blocks of `range` that are in none of the others.
pub(super) fn outside(range: Range<u32>, others: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut out = Vec::new();
    let mut at = range.start;
    for other in in_use(range.clone(), others.iter().cloned()) {
        if other.start > at {
            out.push(at..other.start);
        }
        at = other.end;
    }
    if at < range.end {
        out.push(at..range.end);
    }
    out
}

/// The blocks of `old` that `new` does not map.
pub(super) fn given_up(old: &[Extent], new: &[Extent]) -> Vec<Range<u32>> {
    let new: Vec<_> = mapped(new).collect();
    mapped(old).flat_map(|range| outside(range, &new)).collect()
}

impl<D: Disk> CowStore<D> {
    /// The record queued last brings these bytes, or gives these blocks up.
    pub(super) fn queue_apply(&mut self, key: &ChunkKey, version: Version, held: Vec<Held>, given_up: Vec<Range<u32>>) {
        if held.is_empty() && given_up.is_empty() {
            return;
        }
        let number = self.take_op();
        if !held.is_empty() {
            let overlay = self.overlay.entry(key.clone()).or_default();
            held.iter().for_each(|h| overlay.lay(number, h.clone()));
        }
        self.held_bytes += held.iter().map(|h| h.bytes.len() as u64).sum::<u64>();
        let (key, before) = (key.clone(), self.next_op);
        self.applies.push_back(Apply { number, key, seq: None, before, version, held, given_up, op: None });
        if let Some(pending) = self.queue.back_mut() {
            pending.apply = Some(number);
        }
    }

    /// Gives an apply the number of its record.
    pub(super) fn number_apply(&mut self, number: u64, seq: u64) {
        if let Some(apply) = self.applies.iter_mut().find(|a| a.number == number) {
            apply.seq = Some(seq);
        }
    }

    /// Bytes that committed chunks need and that are not at their place. (An install brings its own.)
    pub(super) fn unapplied(&self) -> Vec<(&ChunkKey, Vec<Held>)> {
        if is(Mutation::ForgetRedo) {
            return Vec::new();
        }
        let numbers: BTreeSet<u64> = self.applies.iter().map(|a| a.number).collect();
        let of = |overlay: &Overlay| {
            let parts = overlay.parts.iter().filter(|(number, _)| numbers.contains(number));
            parts.map(|(_, held)| held.clone()).collect::<Vec<_>>()
        };
        let all = self.overlay.iter().map(|(key, overlay)| (key, of(overlay)));
        all.filter(|(_, held)| !held.is_empty()).collect()
    }

    /// Blocks of the chunk that must not be written now, though the committed version may not use them.
    pub(super) fn guarded(&self, key: &ChunkKey) -> Vec<Range<u32>> {
        let applies = self.applies.iter().filter(|a| a.key == *key && !is(Mutation::SkipGuard));
        let held = |a: &Apply| a.held.iter().map(|h| h.first..h.first + h.blocks() as u32).collect::<Vec<_>>();
        applies.flat_map(|a| held(a).into_iter().chain(a.given_up.iter().cloned())).collect()
    }

    /// Writes what may be written now.
    pub(super) fn advance_applies(&mut self) {
        if self.applies.is_empty() {
            return;
        }
        let oldest = self.ops.keys().next().copied().unwrap_or(u64::MAX);
        let mut busy = BTreeSet::new();
        let mut ready = Vec::new();
        for apply in &self.applies {
            let said = if is(Mutation::ApplyUnsaid) { self.journal.durable } else { self.journal.said };
            let durable = apply.seq.is_some_and(|seq| seq <= said) || is(Mutation::ApplyEarly);
            let alone = apply.before <= oldest || is(Mutation::ApplyUnderReaders);
            if busy.insert(&apply.key) && apply.op.is_none() && durable && alone {
                ready.push(apply.number);
            }
        }
        for number in ready {
            self.issue_apply(number);
        }
    }

    /// Where applies only wait for the medium to say that their records are durable, and nothing else is to be recorded: a
    /// record that changes nothing.
    pub(super) fn say_durable(&mut self) {
        let waits = |a: &Apply| a.seq.is_some_and(|seq| seq <= self.journal.durable && seq > self.journal.said);
        if self.queue.is_empty() && self.group.is_none() && self.applies.iter().any(waits) {
            let urgent = !self.may_hold(self.held_bytes);
            self.enqueue(Some(&Record::Floor(self.floor)), urgent, Notify::None, 0, Vec::new());
        }
    }

    fn issue_apply(&mut self, number: u64) {
        let op = self.take_op();
        let Some(apply) = self.applies.iter_mut().find(|a| a.number == number) else { return };
        apply.op = Some(op);
        let mut writes = Vec::new();
        for held in &apply.held {
            let mut extents = Vec::new();
            apply.version.clip(held.first, held.first + held.blocks() as u32, &mut extents);
            for e in extents {
                writes.push((e.disk, cut(held, e.logical..e.logical + e.len).bytes));
            }
        }
        if writes.is_empty() {
            return self.apply_done(number);
        }
        self.ops.insert(op, Op::Apply { number, left: writes.len() });
        for (disk, data) in writes {
            self.stats.bytes_applied += data.len() as u64;
            self.submit(Owner::Apply { op }, IoOp::Write { offset: self.data_offset(disk), data });
        }
    }

    /// A write of an apply has completed.
    pub(super) fn apply_written(&mut self, op: u64) {
        let Some(Op::Apply { number, left }) = self.ops.get_mut(&op) else { return };
        *left -= 1;
        let number = *number;
        if *left == 0 {
            self.ops.remove(&op);
            self.apply_done(number);
        }
    }

    fn apply_done(&mut self, number: u64) {
        let Some(at) = self.applies.iter().position(|a| a.number == number) else { return };
        let Some(apply) = self.applies.remove(at) else { return };
        self.held_bytes -= apply.held_bytes();
        let current = self.overlay.get_mut(&apply.key);
        // Blocks that a later version has other bytes for keep them in memory; their checksums come with its own apply.
        for held in &apply.held {
            for (block, crc) in (held.first..).zip(block_crcs(&held.bytes)) {
                if let Some(disk) = apply.version.find(block) {
                    self.table.set(disk, crc);
                }
            }
        }
        if current.is_some_and(|o| o.lift(number)) {
            self.overlay.remove(&apply.key);
        }
    }
}

/// Blocks of a slot.
pub(super) fn slot_blocks(chunk_size: u32) -> u32 {
    (u64::from(chunk_size) / BLOCK64) as u32
}
