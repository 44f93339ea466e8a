//! Staging an update, and installing a whole chunk: reserve, read what is merged, write, record.
//!
//! What must hold: nothing has changed when `NoSpace` is returned; a block that is merged is verified first, so that rot
//! never gets a fresh checksum; the record is queued only when its data writes have been issued.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::{AlignedBuf, MAX_BUF};
use catena_types::crc::crc32c;
use catena_types::limits::{BLOCK, valid_chunk_size};
use catena_types::store::ChecksumMethod;
use catena_types::{ChunkKey, Code, Committed, OpKind, StageInfo, StageRequest, Staged};

use super::group::Notify;
use super::{BLOCK64, CowStore, Entry, Op, Owner, StagedEntry};
use crate::alloc::Run;
use crate::disk::{Disk, IoOp};
use crate::format::{Record, StageRecord};
use crate::version::{Change, Version, block_crcs, blocks};

/// Below this, an update whose end is not on a block boundary is copied into one buffer rather than written in two parts.
const COPY_BELOW: u32 = 64 << 10;

/// A block of the old version that is merged with new bytes.
struct BaseBlock {
    /// Counted from the start of the chunk.
    block: u32,
    bytes: Option<AlignedBuf>,
}

/// An update with reads or writes in flight. Dropped ones stay until their IO has ended.
pub(crate) struct UpdateOp {
    plan: Option<Plan>,
    reads_left: usize,
    pub(super) writes_left: usize,
    /// A group waits for its writes.
    pub(super) in_group: bool,
}

impl UpdateOp {
    /// Whether it waits for blocks of the old version, and has no record yet.
    pub(super) fn is_reading(&self) -> bool {
        self.plan.is_some()
    }
}

/// An update that is not recorded yet.
struct Plan {
    request: StageRequest<Bytes>,
    base: Option<(u64, Rc<Version>)>,
    len: u32,
    first: u32,
    runs: Vec<Run>,
    merge: Vec<BaseBlock>,
}

/// What an update does to the chunk, in blocks.
struct Shape {
    len: u32,
    first: u32,
    count: u32,
    /// Blocks of the old version whose bytes are partly kept.
    merge: Vec<u32>,
}

impl Shape {
    fn of(request: &StageRequest<Bytes>, base: Option<&Version>) -> Shape {
        let op = &request.op;
        let old = base.map_or(0, |v| v.len);
        let len = op.new_len(old);
        let mapped = |block: u32| base.is_some_and(|v| v.find(block).is_some());
        match op.kind() {
            OpKind::Write if op.len > 0 => {
                let end = op.offset + op.len;
                let (first, last) = (op.offset / BLOCK, (end - 1) / BLOCK);
                let keeps_head = !op.offset.is_multiple_of(BLOCK) && old > first * BLOCK;
                let keeps_tail = !end.is_multiple_of(BLOCK) && old > end;
                let mut merge = Vec::new();
                if (keeps_head || (keeps_tail && first == last)) && mapped(first) {
                    merge.push(first);
                }
                if keeps_tail && first != last && mapped(last) {
                    merge.push(last);
                }
                Shape { len, first, count: last - first + 1, merge }
            }
            // The rest of a block that is cut must become zero: growing again would show it.
            OpKind::Truncate if len < old && !len.is_multiple_of(BLOCK) && mapped(len / BLOCK) => {
                Shape { len, first: len / BLOCK, count: 1, merge: vec![len / BLOCK] }
            }
            _ => Shape { len, first: 0, count: 0, merge: Vec::new() },
        }
    }
}

impl<D: Disk> CowStore<D> {
    pub(super) fn start_stage(&mut self, request: StageRequest<Bytes>) -> Result<(), Code> {
        if self.failed.is_some() {
            return Err(Code::Io);
        }
        let entry = self.index.get(&request.key);
        let base = entry.and_then(|e| e.committed.as_ref()).map(|(c, v)| (c.ver, v.clone()));
        let sound = request.op.check(request.chunk_size).is_ok()
            && valid_chunk_size(request.chunk_size)
            && request.payload.len() == request.op.payload_len() as usize
            && entry.is_none_or(|e| e.staged.is_none() && e.chunk_size == request.chunk_size)
            && base.as_ref().is_none_or(|(ver, _)| *ver < request.ver);
        if !sound {
            self.misuse("a stage that breaks the contract", &request.key, request.ver);
            return Err(Code::InvalidArgument);
        }
        let shape = Shape::of(&request, base.as_ref().map(|(_, v)| &**v));
        let runs = self.reserve(&request.key, request.op.kind(), shape.count)?;
        let op = self.next_op;
        self.next_op += 1;
        self.reserved += u64::from(shape.count);
        let staged = Staged {
            ver: request.ver,
            chain_ver: request.chain_ver,
            len: shape.len,
            checksum: 0,
            tag: request.tag,
            remove: request.op.kind() == OpKind::Remove,
            durable: false,
        };
        let side = StagedEntry { staged, version: None, op, seq: None, fresh: runs.clone() };
        let chunk_size = request.chunk_size;
        self.edit(&request.key, |e| {
            e.get_or_insert(Entry { chunk_size, committed: None, staged: None }).staged = Some(side);
        });
        let merge = shape.merge.iter().map(|&block| BaseBlock { block, bytes: None }).collect();
        let plan = Plan { request, base, len: shape.len, first: shape.first, runs, merge };
        self.start_reads(op, plan);
        Ok(())
    }

    /// Takes `count` blocks for an update of `key`. Clients leave a little for updates that make room (a cut writes one
    /// block) and for resync, in the data area and in the checkpoint area; a remove is never refused.
    fn reserve(&mut self, key: &ChunkKey, kind: OpKind, count: u32) -> Result<Vec<Run>, Code> {
        let client = matches!(kind, OpKind::Write | OpKind::Extend);
        let kept = if client { (self.alloc.total() / 128).min(65536) } else { 0 };
        if count > 0 && u64::from(count) + kept > self.alloc.free() {
            return Err(Code::NoSpace);
        }
        // At worst 20 bytes per block in a checkpoint (an extent and a checksum each), 16 in a record.
        let (name, blocks) = (256 + key.as_bytes().len() as u64, u64::from(count));
        let grown = self.index_use() + name + 20 * blocks;
        let record = name + 16 * blocks;
        let outgrown = grown > self.index_limit(client) || record > self.superblock.params.journal / 2;
        if outgrown && kind != OpKind::Remove {
            return Err(Code::NoSpace);
        }
        self.alloc.take(count).ok_or(Code::NoSpace)
    }

    fn start_reads(&mut self, op: u64, mut plan: Plan) {
        let mut reads = Vec::new();
        if let Some((_, base)) = &plan.base {
            let cached = base.cached.borrow();
            for (which, m) in plan.merge.iter_mut().enumerate() {
                let mut buf = self.arena.take_or_alloc(BLOCK as usize);
                match (&*cached, base.find(m.block)) {
                    (Some(bytes), _) => {
                        copy_block(bytes, m.block, &mut buf);
                        m.bytes = Some(buf);
                    }
                    (None, Some(disk)) => reads.push((which, self.data_offset(disk), buf)),
                    (None, None) => {}
                }
            }
        }
        let update = UpdateOp { plan: Some(plan), reads_left: reads.len(), writes_left: 0, in_group: false };
        self.ops.insert(op, Op::Update(update));
        if reads.is_empty() {
            return self.write_stage(op);
        }
        for (which, offset, buf) in reads {
            self.submit(Owner::Base { op, which }, IoOp::Read { offset, buf });
        }
    }

    /// A block of the old version has been read.
    pub(super) fn base_read(&mut self, op: u64, which: usize, buf: Option<AlignedBuf>) {
        let Some(Op::Update(update)) = self.ops.get_mut(&op) else { return };
        update.reads_left -= 1;
        let last = update.reads_left == 0;
        let Some(plan) = &mut update.plan else {
            // The update has been dropped: only its reads were awaited.
            if last {
                self.ops.remove(&op);
            }
            return;
        };
        let block = plan.merge[which].block;
        let wanted = plan.base.as_ref().and_then(|(_, v)| v.crcs.get(block as usize)).copied();
        let buf = buf.filter(|b| Some(crc32c(b)) == wanted);
        if buf.is_none() {
            let (key, name) = (plan.request.key.clone(), self.disk.name());
            return self.fail(format!("{name}: block {block} of chunk {key} does not match its checksum and cannot be updated"));
        }
        plan.merge[which].bytes = buf;
        if last {
            self.write_stage(op);
        }
    }

    /// Everything needed is here: computes checksums, issues the writes, queues the record.
    fn write_stage(&mut self, op: u64) {
        let Some(Op::Update(update)) = self.ops.get_mut(&op) else { return };
        let Some(plan) = update.plan.take() else { return };
        let segments = self.segments(&plan);
        let crcs: Vec<u32> = segments.iter().flat_map(|s| block_crcs(s)).collect();
        let request = &plan.request;
        let remove = request.op.kind() == OpKind::Remove;
        let change = Change { len: plan.len, first: plan.first, runs: &plan.runs, crcs: &crcs };
        let mut version = match (&plan.base, remove) {
            (_, true) => Version::default(),
            (Some((_, base)), _) => base.derive(&change),
            (None, _) => Version::default().derive(&change),
        };
        let whole = request.op.kind() == OpKind::Write && request.op.offset == 0 && request.op.len == plan.len;
        if whole {
            // Keeps the checksum that came with the payload: should memory have rotted since, reads will say so.
            version.checksum = request.payload_crc;
        }
        let method = match () {
            _ if whole => ChecksumMethod::Reuse,
            _ if crcs.is_empty() => ChecksumMethod::Derive,
            _ => ChecksumMethod::Combine,
        };
        let info = StageInfo {
            len: version.len,
            checksum: version.checksum,
            first_block: plan.first,
            blocks_written: crcs.len() as u32,
            blocks_read: plan.merge.len() as u32,
            method: method as i32,
        };
        let record = Record::Stage(StageRecord {
            key: request.key.clone(),
            chunk_size: request.chunk_size,
            ver: request.ver,
            base: plan.base.as_ref().map_or(0, |(ver, _)| *ver),
            chain_ver: request.chain_ver,
            tag: request.tag,
            remove,
            len: version.len,
            checksum: version.checksum,
            first: plan.first,
            runs: plan.runs.clone(),
            crcs,
        });
        let (key, ver) = (request.key.clone(), request.ver);
        self.edit(&key, |e| {
            if let Some(s) = e.as_mut().and_then(|e| e.staged.as_mut()).filter(|s| s.op == op) {
                s.staged.checksum = version.checksum;
                s.version = Some(Rc::new(version));
            }
        });
        self.issue_writes(op, &plan.runs, &segments);
        self.enqueue(Some(&record), true, Notify::Staged { key, ver, op, info }, op, Vec::new());
    }

    /// The bytes to write, in whole blocks from the first one written; their blocks lie at the plan's runs.
    fn segments(&self, plan: &Plan) -> Vec<Bytes> {
        let op = &plan.request.op;
        let payload = &plan.request.payload;
        let count: u32 = plan.runs.iter().map(|r| r.len).sum();
        if count == 0 {
            return Vec::new();
        }
        if op.kind() == OpKind::Truncate {
            let tail = self.merged(plan, plan.first..plan.first + 1, &[], 0, plan.len);
            return vec![tail];
        }
        let aligned_start = op.offset.is_multiple_of(BLOCK);
        if aligned_start && op.len.is_multiple_of(BLOCK) {
            return vec![payload.clone()];
        }
        let all = plan.first..plan.first + count;
        let fits = u64::from(count) * BLOCK64 <= MAX_BUF as u64;
        if fits && (!aligned_start || op.len < COPY_BELOW) {
            return vec![self.merged(plan, all, payload, op.offset, u32::MAX)];
        }
        // Whole blocks straight from the payload, the last one merged.
        let whole = (op.len / BLOCK * BLOCK) as usize;
        let last = all.end - 1;
        let tail = self.merged(plan, last..all.end, &payload[whole..], last * BLOCK, u32::MAX);
        vec![payload.slice(..whole), tail]
    }

    /// Blocks `range` of the chunk: old bytes where they are kept, up to `cut`, and `payload` at `offset`.
    fn merged(&self, plan: &Plan, range: Range<u32>, payload: &[u8], offset: u32, cut: u32) -> Bytes {
        let start = (range.start * BLOCK) as usize;
        let mut buf = self.arena.take_or_alloc((range.end - range.start) as usize * BLOCK as usize);
        let to = offset as usize - start.min(offset as usize);
        // Pooled memory holds old contents: what neither side fills is zeroed.
        buf[..to.min(BLOCK as usize)].fill(0);
        let end = if payload.is_empty() { 0 } else { to + payload.len() };
        buf[end..].fill(0);
        for m in plan.merge.iter().filter(|m| range.contains(&m.block)) {
            let at = (m.block - range.start) as usize * BLOCK as usize;
            if let Some(bytes) = &m.bytes {
                buf[at..at + BLOCK as usize].copy_from_slice(bytes);
            }
        }
        if let Some(keep) = (cut as usize).checked_sub(start).filter(|&n| n < buf.len()) {
            buf[keep..].fill(0);
        }
        buf[to..to + payload.len()].copy_from_slice(payload);
        buf.freeze()
    }

    /// Issues the data writes of an operation: the segments' blocks go to the runs, in order.
    fn issue_writes(&mut self, op: u64, runs: &[Run], segments: &[Bytes]) {
        let mut writes = Vec::new();
        let (mut segment, mut at) = (0, 0usize);
        for run in runs {
            let (mut disk, mut left) = (run.disk, run.len as usize * BLOCK as usize);
            while left > 0 && segment < segments.len() {
                let n = left.min(segments[segment].len() - at);
                writes.push((self.data_offset(disk), segments[segment].slice(at..at + n)));
                (disk, left, at) = (disk + n as u64 / BLOCK64, left - n, at + n);
                if at == segments[segment].len() {
                    (segment, at) = (segment + 1, 0);
                }
            }
        }
        match self.ops.get_mut(&op) {
            Some(Op::Update(update)) if !writes.is_empty() => update.writes_left = writes.len(),
            _ => {
                self.ops.remove(&op);
            }
        }
        for (offset, data) in writes {
            self.submit(Owner::Data { op }, IoOp::Write { offset, data });
        }
    }

    /// A data write has completed.
    pub(super) fn data_written(&mut self, op: u64) {
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
            self.reserved -= side.fresh.iter().map(|r| u64::from(r.len)).sum::<u64>();
        }
        if side.seq.is_none() {
            self.queue.retain(|p| !matches!(&p.notify, Notify::Staged { op, .. } if *op == side.op));
        }
        if let Some(Op::Update(update)) = self.ops.get_mut(&side.op) {
            update.plan = None;
        }
        side.fresh
    }

    pub(super) fn start_install(
        &mut self,
        id: u64,
        key: &ChunkKey,
        chunk_size: u32,
        committed: Committed,
        payload: Bytes,
    ) -> Result<(), Code> {
        if self.failed.is_some() {
            return Err(Code::Io);
        }
        if payload.len() != committed.len as usize || committed.len > chunk_size || !valid_chunk_size(chunk_size) {
            self.misuse("an install that breaks the contract", key, committed.ver);
            return Err(Code::InvalidArgument);
        }
        let count = blocks(committed.len);
        let segments = self.whole_blocks(&payload);
        let crcs: Vec<u32> = segments.iter().flat_map(|s| block_crcs(s)).collect();
        let runs = self.reserve(key, OpKind::None, count)?;
        let change = Change { len: committed.len, first: 0, runs: &runs, crcs: &crcs };
        let version = Version { cached: RefCell::new(Some(payload)), ..Version::default().derive(&change) };
        if version.checksum != committed.checksum {
            for run in runs {
                self.alloc.clear(run);
            }
            return Err(Code::PayloadCorrupt);
        }
        let version = Rc::new(version);
        let op = self.next_op;
        self.next_op += 1;
        let frees = self.replace_entry(key, Some((chunk_size, committed, version.clone())));
        self.ops.insert(op, Op::Update(UpdateOp { plan: None, reads_left: 0, writes_left: 0, in_group: false }));
        self.issue_writes(op, &runs, &segments);
        let record = Record::Install { key: key.clone(), chunk_size, committed, runs, crcs };
        self.enqueue(Some(&record), true, Notify::Installed { id, version }, op, frees);
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
    pub(super) fn replace_entry(&mut self, key: &ChunkKey, new: Option<(u32, Committed, Rc<Version>)>) -> Vec<Run> {
        let old = self.edit(key, |e| {
            let new = new.map(|(chunk_size, c, v)| Entry { chunk_size, committed: Some((c, v)), staged: None });
            std::mem::replace(e, new)
        });
        let mut frees = Vec::new();
        if let Some(old) = old {
            if let Some((_, version)) = old.committed {
                frees = version.not_in(None);
            }
            if let Some(side) = old.staged {
                frees.extend(self.withdraw(side));
            }
        }
        frees
    }
}

/// Block `block` of the chunk `bytes`, zero-padded.
fn copy_block(bytes: &[u8], block: u32, buf: &mut [u8]) {
    let start = block as usize * BLOCK as usize;
    let part = bytes.get(start..bytes.len().min(start + buf.len())).unwrap_or(&[]);
    buf[..part.len()].copy_from_slice(part);
    buf[part.len()..].fill(0);
}
