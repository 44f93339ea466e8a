//! Staging an update, and installing a whole chunk: reserve, read what is merged, write, record.
//!
//! What must hold: nothing has changed when `NoSpace` is returned; a block that is merged is verified first, so that rot
//! never gets a fresh checksum; an update on damaged blocks changes nothing and is reported as such; the record is queued
//! only when its data writes have been issued.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use catena_arena::{AlignedBuf, MAX_BUF};
use catena_types::limits::{BLOCK, valid_chunk_size};
use catena_types::store::{ChecksumMethod, Part};
use catena_types::{ChunkKey, Code, Committed, Done, OpKind, Payload, StageInfo, StageRequest, Staged, Ver, crc};

use super::group::Notify;
use super::in_place::{held_of, in_use, mapped, outside, slot_blocks};
use super::read::{Piece, assemble};
use super::sums::{Missing, Sums};
use super::{BLOCK64, CowStore, KICK_BYTES, Op, Owner, StagedEntry, buffer, freed, version_of};
use crate::alloc::Run;
use crate::disk::{Disk, IoOp};
use crate::format::StoreKind;
use crate::format::journal::{Held, Placed, Record, StageRecord};
use crate::format::leaf::ChunkItem;
use crate::mutation::{Mutation, is};
use crate::version::{Change, Version, block_crcs, blocks};

/// Below this, an update whose end is not on a block boundary is copied into one buffer rather than written in two parts.
const COPY_BELOW: u32 = 64 << 10;

/// An update with reads or writes in flight. Dropped ones stay until their IO has ended.
pub(crate) struct UpdateOp {
    plan: Option<Box<Plan>>,
    /// Reads and pages of the table that it waits for.
    waiting: usize,
    pub(super) writes_left: usize,
    /// Bytes of its writes.
    pub(super) bytes: usize,
    /// A group waits for its writes.
    pub(super) in_group: bool,
}

impl UpdateOp {
    /// Whether it waits for blocks of the old version, and has no record yet.
    pub(super) fn is_reading(&self) -> bool {
        self.plan.is_some()
    }
}

/// The version an update applies to.
struct Base {
    ver: Ver,
    version: Version,
    memory: Vec<Held>,
    slot: Option<u64>,
}

/// An update that is not recorded yet.
struct Plan {
    request: StageRequest<Bytes>,
    /// The bytes, where they are not the request's payload.
    parts: Vec<Part<Bytes>>,
    base: Option<Base>,
    shape: Shape,
    place: Place,
    /// Blocks of the old version that are merged, and their checksums and those that are replaced.
    pieces: Vec<Piece>,
    sums: Sums,
    /// The chunk has been asked once; and everything is to be read again.
    asked: bool,
    again: bool,
}

/// Where an update's blocks go.
struct Place {
    runs: Vec<Run>,
    slot: Option<u64>,
    /// Taken for this update.
    fresh: Vec<Run>,
    /// Blocks that travel in the record.
    held: Vec<Range<u32>>,
}

/// What an update does to the chunk, in blocks.
struct Shape {
    len: u32,
    first: u32,
    count: u32,
    /// Blocks of the old version whose bytes are kept, wholly or partly.
    merge: Vec<Range<u32>>,
}

impl Shape {
    fn of(request: &StageRequest<Bytes>, parts: &[Part<Bytes>], base: Option<&Version>) -> Shape {
        let op = &request.op;
        let old = base.map_or(0, |v| v.len);
        let len = op.new_len(old);
        if !parts.is_empty() {
            let (first, end) = (op.offset / BLOCK, (op.offset + op.len).div_ceil(BLOCK));
            return Shape { len, first, count: end - first, merge: kept(first..end, parts, old) };
        }
        let kept = |block: u32| block < blocks(old);
        match op.kind() {
            OpKind::Write if op.len > 0 => {
                let end = op.offset + op.len;
                let (first, last) = (op.offset / BLOCK, (end - 1) / BLOCK);
                let keeps_head = !op.offset.is_multiple_of(BLOCK) && old > first * BLOCK;
                let keeps_tail = !end.is_multiple_of(BLOCK) && old > end;
                let mut merge = Vec::new();
                if (keeps_head || (keeps_tail && first == last)) && kept(first) {
                    merge.push(first..first + 1);
                }
                if keeps_tail && first != last && kept(last) {
                    merge.push(last..last + 1);
                }
                Shape { len, first, count: last - first + 1, merge }
            }
            // The rest of a block that is cut must become zero: growing again would show it.
            OpKind::Truncate if len < old && !len.is_multiple_of(BLOCK) => {
                let last = len / BLOCK;
                Shape { len, first: last, count: 1, merge: std::iter::once(last..last + 1).collect() }
            }
            _ => Shape { len, first: 0, count: 0, merge: Vec::new() },
        }
    }

    fn written(&self) -> Range<u32> {
        self.first..self.first + self.count
    }

    /// The same update, written as the whole chunk.
    fn whole(&self, request: &StageRequest<Bytes>, parts: &[Part<Bytes>], old: u32) -> Shape {
        let (count, op) = (blocks(self.len), &request.op);
        let merge = match op.kind() {
            _ if !parts.is_empty() => kept(0..count, parts, old),
            OpKind::Write => {
                let start = op.offset.div_ceil(BLOCK).min(blocks(old));
                let end = op.offset + op.len;
                let end = if end >= old { blocks(old) } else { (end / BLOCK).max(start) };
                Vec::from([0..start, end..blocks(old)])
            }
            _ => std::iter::once(0..blocks(old).min(count)).collect(),
        };
        Shape { len: self.len, first: 0, count, merge: merge.into_iter().filter(|r| !r.is_empty()).collect() }
    }
}

impl<D: Disk> CowStore<D> {
    /// Stages an update whose bytes are its payload, or these parts of what it covers.
    pub(super) fn start_stage(&mut self, request: StageRequest<Bytes>, parts: Vec<Part<Bytes>>) -> Result<(), Code> {
        if self.failed.is_some() {
            return Err(Code::Io);
        }
        let item = self.index.get(&request.key);
        let sound = request.op.check(request.chunk_size).is_ok()
            && valid_chunk_size(request.chunk_size)
            && (!parts.is_empty() || request.payload.data.len() == request.op.payload_len() as usize)
            && !self.staged.contains_key(&request.key)
            && item.as_ref().is_none_or(|i| i.chunk_size == request.chunk_size && i.committed.ver < request.ver);
        if !sound {
            self.misuse("a stage that breaks the contract", &request.key, request.ver);
            return Err(Code::InvalidArgument);
        }
        let memory = self.overlay.get(&request.key).map_or_else(Vec::new, |o| o.pieces());
        let base = item.map(|i| Base { ver: i.committed.ver, slot: i.slot, version: version_of(i), memory });
        let mut shape = Shape::of(&request, &parts, base.as_ref().map(|b| &b.version));
        let kind = if parts.is_empty() { request.op.kind() } else { OpKind::None };
        let growth = self.admit_growth(&request.key, kind, base.is_some(), shape.count)?;
        let place = self.place(&request, &parts, base.as_ref(), &mut shape)?;
        let op = self.take_op();
        let staged = Staged {
            ver: request.ver,
            chain_ver: request.chain_ver,
            len: shape.len,
            checksum: 0,
            tag: request.tag,
            remove: request.op.kind() == OpKind::Remove,
            durable: false,
        };
        let (slot, fresh) = (place.slot, place.fresh.clone());
        let chunk_size = request.chunk_size;
        let (version, frees, held) = (None, None, Vec::new());
        let side = StagedEntry { chunk_size, staged, version, slot, op, seq: None, fresh, frees, held, growth };
        self.reserved += side.fresh_blocks();
        self.put_staged(&request.key, side);
        self.metrics.started(op, self.now);
        let old = base.as_ref().map_or(&[][..], |b| &b.memory);
        let pieces = base.as_ref().map_or_else(Vec::new, |b| {
            shape.merge.iter().flat_map(|range| self.pieces(&b.version, old, range.clone())).collect()
        });
        let sums = base.as_ref().map_or_else(|| Sums::new([]), |b| needed_sums(&request, &b.version, &shape, &place.runs));
        let plan = Plan { request, parts, base, shape, place, pieces, sums, asked: false, again: false };
        self.ops.insert(op, Op::Update(UpdateOp { plan: None, waiting: 0, writes_left: 0, bytes: 0, in_group: false }));
        self.read_bases(op, Box::new(plan));
        Ok(())
    }

    /// Takes the space an update needs.
    fn place(
        &mut self,
        request: &StageRequest<Bytes>,
        parts: &[Part<Bytes>],
        base: Option<&Base>,
        shape: &mut Shape,
    ) -> Result<Place, Code> {
        let kind = if parts.is_empty() { request.op.kind() } else { OpKind::None };
        if self.superblock.params.kind == StoreKind::Cow {
            let runs = self.reserve(kind, shape.count)?;
            return Ok(Place { fresh: runs.clone(), runs, slot: None, held: Vec::new() });
        }
        if kind == OpKind::Remove {
            return Ok(Place { runs: Vec::new(), slot: None, fresh: Vec::new(), held: Vec::new() });
        }
        let slot = base.and_then(|b| b.slot);
        let held = base.map_or_else(Vec::new, |b| {
            let memory = b.memory.iter().map(|h| h.first..h.first + h.blocks() as u32);
            in_use(shape.written(), mapped(&b.version.extents).chain(memory).chain(self.guarded(&request.key)))
        });
        let bytes: u64 = held.iter().map(|r| r.len() as u64 * BLOCK64).sum();
        if let Some(disk) = slot.filter(|_| self.may_hold(bytes)) {
            let runs = run_at(disk, shape);
            return Ok(Place { runs, slot, fresh: Vec::new(), held });
        }
        if shape.count == 0 {
            return Ok(Place { runs: Vec::new(), slot, fresh: Vec::new(), held: Vec::new() });
        }
        // Too much for the journal: the whole chunk moves to a slot of its own choice.
        if let Some(base) = base.filter(|_| slot.is_some()) {
            *shape = shape.whole(request, parts, base.version.len);
        }
        let slot = self.reserve_slot(kind, slot_blocks(request.chunk_size))?;
        Ok(Place { runs: run_at(slot.disk, shape), slot: Some(slot.disk), fresh: vec![slot], held: Vec::new() })
    }

    /// Reads the blocks that are merged, and the pages of the table that are needed.
    fn read_bases(&mut self, op: u64, mut plan: Box<Plan>) {
        plan.again = false;
        let mut waiting = plan.pieces.len();
        let missing = plan.gather(self);
        if let Missing::Pages(pages) = &missing {
            waiting += pages.len();
        }
        let extents: Vec<_> = plan.pieces.iter().map(|p| p.extent).collect();
        let Some(Op::Update(update)) = self.ops.get_mut(&op) else { return };
        update.waiting = waiting;
        update.plan = Some(plan);
        if let Missing::Pages(pages) = &missing {
            self.ask_pages(op, pages);
        }
        for (which, extent) in extents.into_iter().enumerate() {
            self.read_extent(Owner::Base { op, which }, &extent);
        }
        if waiting == 0 {
            self.bases_read(op);
        }
    }

    /// Blocks of the old version have been read, or could not be.
    pub(super) fn base_read(&mut self, op: u64, which: usize, result: io::Result<Option<AlignedBuf>>) {
        let bytes = match buffer(result) {
            Ok(buf) => Some(buf),
            Err(error) => {
                tracing::warn!(target_disk = %self.disk.name(), %error, "blocks to be merged cannot be read");
                self.stats.read_errors += 1;
                None
            }
        };
        if let Some(Op::Update(update)) = self.ops.get_mut(&op)
            && let Some(plan) = &mut update.plan
        {
            plan.pieces[which].bytes = bytes;
        }
        self.wake(op);
    }

    /// Something an update waited for is there.
    pub(super) fn wake_update(&mut self, op: u64) {
        let Some(Op::Update(update)) = self.ops.get_mut(&op) else { return };
        update.waiting -= 1;
        if update.waiting > 0 {
            return;
        }
        if let Some(plan) = update.plan.take_if(|plan| plan.again) {
            self.read_bases(op, plan);
        } else if update.plan.is_some() {
            self.bases_read(op);
        } else if update.writes_left == 0 {
            // The update has been dropped: only its reads were awaited.
            self.ops.remove(&op);
        }
    }

    fn bases_read(&mut self, op: u64) {
        let Some(Op::Update(update)) = self.ops.get_mut(&op) else { return };
        let Some(mut plan) = update.plan.take() else { return };
        match plan.gather(self) {
            Missing::Pages(pages) => {
                self.wait_again(op, plan, pages.len());
                return self.ask_pages(op, &pages);
            }
            Missing::Nothing if plan.checks() => return self.write_stage(op, *plan),
            Missing::Nothing | Missing::Chunk => {}
        }
        let Some(base) = &plan.base else { return self.write_stage(op, *plan) };
        let key = plan.request.key.clone();
        if plan.asked {
            return self.refuse_stage(op, &key);
        }
        let (ver, version, memory) = (base.ver, base.version.clone(), base.memory.clone());
        (plan.asked, plan.again) = (true, true);
        plan.sums.clear();
        self.wait_again(op, plan, 1);
        self.heal(op, &key, ver, &version, &memory);
    }

    fn wait_again(&mut self, op: u64, plan: Box<Plan>, waiting: usize) {
        if let Some(Op::Update(update)) = self.ops.get_mut(&op) {
            update.plan = Some(plan);
            update.waiting = waiting;
        }
    }

    /// Blocks that the update keeps are damaged: it has never been.
    fn refuse_stage(&mut self, op: u64, key: &ChunkKey) {
        self.ops.remove(&op);
        let Some(ver) = self.staged.get(key).filter(|s| s.op == op).map(|s| s.staged.ver) else { return };
        let Some(side) = self.take_staged(key, ver) else { return };
        self.reserved -= side.fresh_blocks();
        self.metrics.dropped(op);
        self.give_back(&side.fresh);
        if !self.patch_ended(op) {
            self.done.push(Done::StageFailed { key: key.clone(), ver, code: Code::Corrupt });
        }
    }

    /// Everything needed is here: computes checksums, issues the writes, queues the record.
    fn write_stage(&mut self, op: u64, plan: Plan) {
        let segments = self.segments(&plan);
        // The disk works while the checksums are computed.
        self.issue_writes(op, &plan.place.runs, &segments, plan.shape.first, &plan.place.held);
        let crcs = checksums(&segments, plan.known());
        let (version, method) = plan.outcome(&crcs);
        let Plan { request, base, shape, place, pieces, .. } = plan;
        let info = StageInfo {
            len: version.len,
            checksum: version.checksum,
            first_block: shape.first,
            blocks_written: crcs.len() as u32,
            blocks_read: pieces.iter().map(|p| p.extent.len).sum(),
            method: method as i32,
        };
        let frees = match &base {
            _ if place.slot.is_some() => None,
            None => Some(Vec::new()),
            Some(base) if base.slot.is_some() || request.op.kind() == OpKind::Remove => None,
            Some(base) => {
                let change = Change { len: shape.len, first: shape.first, count: shape.count, runs: &place.runs };
                Some(base.version.freed_by(&change))
            }
        };
        let held = held_of(shape.first, &segments, &place.held);
        self.learn(&place.runs, &crcs, shape.first, &place.held);
        let record = Record::Stage(StageRecord {
            key: request.key.clone(),
            chunk_size: request.chunk_size,
            ver: request.ver,
            base: base.map_or(0, |b| b.ver),
            chain_ver: request.chain_ver,
            tag: request.tag,
            remove: request.op.kind() == OpKind::Remove,
            len: version.len,
            checksum: version.checksum,
            first: shape.first,
            runs: place.runs.clone(),
            crcs,
            slot: place.slot.filter(|_| !place.fresh.is_empty()),
            held: held.clone(),
        });
        if let Some(s) = self.staged.get_mut(&request.key).filter(|s| s.op == op) {
            s.staged.checksum = version.checksum;
            s.frees = frees;
            s.version = Some(version);
            self.held_bytes += held.iter().map(|h| h.bytes.len() as u64).sum::<u64>();
            s.held = held;
        }
        let notify = Notify::Staged { key: request.key, ver: request.ver, op, info };
        self.enqueue(Some(&record), true, notify, op, Vec::new());
    }

    /// Notes the checksums of blocks written to fresh places.
    fn learn(&mut self, runs: &[Run], crcs: &[u32], first: u32, held: &[Range<u32>]) {
        let places = runs.iter().flat_map(|run| run.disk..run.disk + u64::from(run.len));
        for ((block, disk), crc) in (first..).zip(places).zip(crcs) {
            if !held.iter().any(|r| r.contains(&block)) {
                self.table.set(disk, *crc);
            }
        }
    }

    /// The bytes to write, in whole blocks from the first one written; their blocks lie at the plan's runs.
    fn segments(&self, plan: &Plan) -> Vec<Bytes> {
        let (op, shape, payload) = (&plan.request.op, &plan.shape, &plan.request.payload.data);
        if shape.count == 0 {
            return Vec::new();
        }
        if op.kind() != OpKind::Write {
            return vec![self.merged(plan, shape.written(), &[], plan.shape.len)];
        }
        if let [part] = &plan.parts[..]
            && shape.written() == (part.offset / BLOCK..(part.offset + part.len) / BLOCK)
        {
            return vec![part.payload.clone()];
        }
        if !plan.parts.is_empty() {
            let parts: Vec<(u32, &[u8])> = plan.parts.iter().map(|p| (p.offset, &p.payload[..])).collect();
            return vec![self.merged(plan, shape.written(), &parts, u32::MAX)];
        }
        let aligned_start = op.offset.is_multiple_of(BLOCK);
        let exact = shape.first == op.offset / BLOCK && shape.count == blocks(op.len);
        if aligned_start && exact && op.len.is_multiple_of(BLOCK) {
            return vec![payload.clone()];
        }
        let fits = u64::from(shape.count) * BLOCK64 <= MAX_BUF as u64;
        if !aligned_start || !exact || (fits && op.len < COPY_BELOW) {
            return vec![self.merged(plan, shape.written(), &[(op.offset, payload)], u32::MAX)];
        }
        // Whole blocks straight from the payload, the last one merged.
        let whole = (op.len / BLOCK * BLOCK) as usize;
        let last = shape.written().end - 1;
        let tail = self.merged(plan, last..last + 1, &[(last * BLOCK, &payload[whole..])], u32::MAX);
        vec![payload.slice(..whole), tail]
    }

    /// Blocks `range` of the chunk: old bytes where they are kept, up to `cut`, and new ones at their offsets.
    fn merged(&self, plan: &Plan, range: Range<u32>, new: &[(u32, &[u8])], cut: u32) -> Bytes {
        let start = range.start as usize * BLOCK as usize;
        let memory = plan.base.as_ref().map_or(&[][..], |b| &b.memory);
        let mut buf = assemble(&self.arena, range, &plan.pieces, memory);
        let keep = (cut as usize).checked_sub(start).filter(|&n| n < buf.len() && !is(Mutation::KeepCutBytes));
        if let Some(keep) = keep {
            buf[keep..].fill(0);
        }
        for (offset, bytes) in new.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let to = *offset as usize - start;
            buf[to..to + bytes.len()].copy_from_slice(bytes);
        }
        buf.freeze()
    }

    /// Issues the data writes of an operation: the segments' blocks go to the runs, in order; those that are held do not.
    fn issue_writes(&mut self, op: u64, runs: &[Run], segments: &[Bytes], first: u32, held: &[Range<u32>]) {
        let mut writes = Vec::new();
        let (mut segment, mut at) = (0, 0usize);
        for run in runs {
            let (mut disk, mut left) = (run.disk, run.len as usize * BLOCK as usize);
            while left > 0 && segment < segments.len() {
                let n = left.min(segments[segment].len() - at);
                writes.push((disk, segments[segment].slice(at..at + n)));
                (disk, left, at) = (disk + n as u64 / BLOCK64, left - n, at + n);
                if at == segments[segment].len() {
                    (segment, at) = (segment + 1, 0);
                }
            }
        }
        if !held.is_empty() && !is(Mutation::OverwriteInPlace) {
            writes = without_held(writes, first, held);
        }
        match self.ops.get_mut(&op) {
            Some(Op::Update(update)) if !writes.is_empty() => {
                update.writes_left = writes.len();
                update.bytes = writes.iter().map(|(_, data)| data.len()).sum();
            }
            _ => {
                self.ops.remove(&op);
            }
        }
        for (disk, data) in writes {
            self.stats.bytes_written += data.len() as u64;
            self.unkicked += data.len();
            self.submit(Owner::Data { op }, IoOp::Write { offset: self.data_offset(disk), data });
        }
        if self.unkicked >= KICK_BYTES {
            self.kick();
        }
    }

    /// A data write has completed.
    pub(super) fn data_written(&mut self, op: u64) {
        if matches!(self.ops.get(&op), Some(Op::Move)) {
            return self.move_written(op);
        }
        let Some(Op::Update(update)) = self.ops.get_mut(&op) else { return };
        update.writes_left -= 1;
        if update.writes_left == 0 {
            let in_group = update.in_group;
            self.ops.remove(&op);
            if in_group {
                self.group_io_done();
            }
        }
    }

    /// Takes a staged version back: its blocks, to be freed with the record that says so. Its IO may go on.
    pub(super) fn withdraw(&mut self, side: StagedEntry) -> Vec<Run> {
        if !side.staged.durable {
            self.reserved -= side.fresh_blocks();
        }
        self.metrics.dropped(side.op);
        self.patch_ended(side.op);
        if side.seq.is_none() {
            self.queue.retain(|p| !matches!(&p.notify, Notify::Staged { op, .. } if *op == side.op));
        }
        if let Some(Op::Update(update)) = self.ops.get_mut(&side.op) {
            update.plan = None;
            if update.waiting == 0 && update.writes_left == 0 {
                self.ops.remove(&side.op);
            }
        }
        side.fresh
    }

    pub(super) fn start_install(
        &mut self,
        id: u64,
        key: &ChunkKey,
        chunk_size: u32,
        committed: Committed,
        payload: &Payload<Bytes>,
    ) -> Result<(), Code> {
        if self.failed.is_some() {
            return Err(Code::Io);
        }
        if payload.data.len() != committed.len as usize || committed.len > chunk_size || !valid_chunk_size(chunk_size) {
            self.misuse("an install that breaks the contract", key, committed.ver);
            return Err(Code::InvalidArgument);
        }
        let count = blocks(committed.len);
        let segments = self.whole_blocks(&payload.data);
        let crcs = checksums(&segments, sums_of(payload));
        let change = Change { len: committed.len, first: 0, count, runs: &[] };
        if Version::default().derived_checksum(&change, |_| 0, &crcs) != committed.checksum {
            return Err(Code::PayloadCorrupt);
        }
        self.put_whole(id, key, chunk_size, committed, &segments, crcs)
    }

    /// Puts a committed version in place of whatever is there: these bytes, in whole blocks, with these checksums.
    pub(super) fn put_whole(
        &mut self,
        id: u64,
        key: &ChunkKey,
        chunk_size: u32,
        committed: Committed,
        segments: &[Bytes],
        crcs: Vec<u32>,
    ) -> Result<(), Code> {
        let count = blocks(committed.len);
        self.admit_growth(key, OpKind::None, self.index.get(key).is_some(), count)?;
        let in_place = self.superblock.params.kind == StoreKind::InPlace && count > 0;
        let slot = if in_place { Some(self.reserve_slot(OpKind::None, slot_blocks(chunk_size))?) } else { None };
        let runs = match slot {
            Some(slot) => vec![Run { disk: slot.disk, len: count }],
            None => self.reserve(OpKind::None, count)?,
        };
        let slot = slot.map(|s| s.disk);
        let op = self.take_op();
        let change = Change { len: committed.len, first: 0, count, runs: &runs };
        let extents = Version::default().derived_extents(&change);
        let frees = self.replace_entry(key, Some(&ChunkItem { chunk_size, committed, slot, extents }));
        self.learn(&runs, &crcs, 0, &[]);
        let overlay = self.overlay.entry(key.clone()).or_default();
        let mut first = 0;
        for segment in segments {
            overlay.lay(op, Held { first, bytes: segment.clone() });
            first += (segment.len() / BLOCK as usize) as u32;
        }
        self.ops.insert(op, Op::Update(UpdateOp { plan: None, waiting: 0, writes_left: 0, bytes: 0, in_group: false }));
        self.issue_writes(op, &runs, segments, 0, &[]);
        let placed = Placed { runs, crcs, slot };
        let record = Record::Install { key: key.clone(), chunk_size, committed, placed };
        self.enqueue(Some(&record), true, Notify::Installed { id, key: key.clone(), op }, op, frees);
        Ok(())
    }

    /// `payload` in whole blocks, the last one padded with zeroes.
    fn whole_blocks(&self, payload: &Bytes) -> Vec<Bytes> {
        let whole = payload.len() / BLOCK as usize * BLOCK as usize;
        let mut out = Vec::new();
        if whole > 0 {
            out.push(payload.slice(..whole));
        }
        if whole < payload.len() {
            let mut tail = self.arena.take_or_alloc(payload.len() - whole);
            tail.copy_from_slice(&payload[whole..]);
            tail.pad();
            out.push(tail.freeze());
        }
        out
    }

    /// Puts a chunk in place of whatever is there, or nothing; gives the blocks nobody needs then.
    pub(super) fn replace_entry(&mut self, key: &ChunkKey, new: Option<&ChunkItem>) -> Vec<Run> {
        let mut frees = freed(self.index.get(key).as_ref(), new);
        self.index.set(key, new);
        self.overlay.remove(key);
        if let Some(ver) = self.staged.get(key).map(|s| s.staged.ver)
            && let Some(side) = self.take_staged(key, ver)
        {
            frees.extend(self.withdraw(side));
        }
        frees
    }
}

impl Plan {
    fn gather<D: Disk>(&mut self, store: &mut CowStore<D>) -> Missing {
        match &self.base {
            Some(base) => store.gather(&base.version, &base.memory, &mut self.sums),
            None => Missing::Nothing,
        }
    }

    /// Whether every block that was read is what its checksum says.
    fn checks(&self) -> bool {
        self.pieces.iter().all(|piece| {
            let Some(bytes) = &piece.bytes else { return false };
            let mut crcs = (piece.extent.logical..).zip(block_crcs(bytes));
            crcs.all(|(block, crc)| self.sums.get(block) == Some(crc)) || is(Mutation::MergeUnverified)
        })
    }

    /// The checksums that came with the payload, if they are those of the first blocks written.
    fn known(&self) -> &[u32] {
        let op = &self.request.op;
        let first = u64::from(op.offset) == u64::from(self.shape.first) * BLOCK64;
        if op.kind() == OpKind::Write && (first || is(Mutation::AnySums)) { sums_of(&self.request.payload) } else { &[] }
    }

    /// The version this update makes, and how its checksum was found.
    fn outcome(&self, crcs: &[u32]) -> (Version, ChecksumMethod) {
        let (request, shape) = (&self.request, &self.shape);
        if request.op.kind() == OpKind::Remove {
            return (Version::default(), ChecksumMethod::Derive);
        }
        let empty = Version::default();
        let base = self.base.as_ref().map_or(&empty, |b| &b.version);
        let change = Change { len: shape.len, first: shape.first, count: shape.count, runs: &self.place.runs };
        let extents = base.derived_extents(&change);
        let (checksum, method) = if self.parts.is_empty() && is_whole(request, shape) {
            // Keeps the checksum that came with the payload: should memory have rotted since, reads will say so.
            (request.payload.crc, ChecksumMethod::Reuse)
        } else {
            let old = |block| self.sums.get(block).unwrap_or(0);
            let method = if crcs.is_empty() { ChecksumMethod::Derive } else { ChecksumMethod::Combine };
            (base.derived_checksum(&change, old, crcs), method)
        };
        (Version { len: shape.len, checksum, extents }, method)
    }
}

/// The checksums of a payload's whole blocks, as far as they came with it.
fn sums_of(payload: &Payload<Bytes>) -> &[u32] {
    let whole = payload.data.len() / BLOCK as usize;
    match &payload.sums {
        Some(sums) if sums.len() >= whole => &sums[..whole],
        _ if payload.data.len() == BLOCK as usize => std::slice::from_ref(&payload.crc),
        _ => &[],
    }
}

/// The checksums of blocks to be written: those of the first ones are known, the others are taken now.
fn checksums(segments: &[Bytes], known: &[u32]) -> Vec<u32> {
    let blocks = segments.iter().flat_map(|s| s.chunks(BLOCK as usize));
    known.iter().copied().chain(blocks.skip(known.len()).map(crc::crc32c)).collect()
}

/// Whether the payload is the whole chunk.
fn is_whole(request: &StageRequest<Bytes>, shape: &Shape) -> bool {
    request.op.kind() == OpKind::Write && request.op.offset == 0 && request.op.len == shape.len
}

/// The checksums an update needs of the version before it.
fn needed_sums(request: &StageRequest<Bytes>, base: &Version, shape: &Shape, runs: &[Run]) -> Sums {
    let parts = request.payload.data.len() != request.op.payload_len() as usize;
    if request.op.kind() == OpKind::Remove || (is_whole(request, shape) && !parts) {
        return Sums::new([]);
    }
    Sums::new(base.needed(&Change { len: shape.len, first: shape.first, count: shape.count, runs }))
}

/// The blocks of `range` that stay as they are in a chunk of `old` bytes, where these parts are written.
fn kept(range: Range<u32>, parts: &[Part<Bytes>], old: u32) -> Vec<Range<u32>> {
    let written: Vec<_> = parts.iter().map(|p| p.offset / BLOCK..(p.offset + p.len).div_ceil(BLOCK)).collect();
    outside(range.start..range.end.min(blocks(old)).max(range.start), &written)
}

/// Where the written blocks lie in a slot.
fn run_at(slot: u64, shape: &Shape) -> Vec<Run> {
    match shape.count {
        0 => Vec::new(),
        len => vec![Run { disk: slot + u64::from(shape.first), len }],
    }
}

/// Takes the held blocks out of writes that start with block `first` and follow one another in the chunk.
fn without_held(writes: Vec<(u64, Bytes)>, first: u32, held: &[Range<u32>]) -> Vec<(u64, Bytes)> {
    let mut out = Vec::new();
    let mut block = first;
    for (disk, data) in writes {
        let end = block + (data.len() / BLOCK as usize) as u32;
        let mut at = block;
        let cut = |from: u32, to: u32| {
            let byte = |b: u32| (b - block) as usize * BLOCK as usize;
            (disk + u64::from(from - block), data.slice(byte(from)..byte(to)))
        };
        for range in held.iter().filter(|r| r.start < end && r.end > block) {
            if range.start > at {
                out.push(cut(at, range.start));
            }
            at = at.max(range.end.min(end));
        }
        if at < end {
            out.push(cut(at, end));
        }
        block = end;
    }
    out
}
