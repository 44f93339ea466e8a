//! The store of one target: copy-on-write, or in place.
//!
//! A chunk is a list of extents. In a copy-on-write store an update writes the blocks it touches to fresh blocks; in a store
//! in place every chunk has a slot, and bytes for blocks in use come with the journal record ([`in_place`]). Either way the
//! committed version stays readable until the commit and until its last reader lets go. Memory holds the index of
//! committed chunks ([`index`]) and what is staged; checksums of blocks are in a table on disk, of which memory holds the
//! part in use ([`table`]). The journal makes changes durable in groups, one append and one flush for everything that was
//! waiting.
//!
//! How a change travels: a call changes the index at once and puts a record in `queue` (a stage puts it there when its
//! data writes have been issued); [`group`] turns the queue into one append, waits for it and for the data writes that
//! belong to it, flushes, and reports. [`checkpoint`] bounds the journal. [`scrub`], [`compact`], [`punch`] and [`prepare`] work in the
//! background.
//!
//! What must hold: records reach the journal in the order of the calls that made them; a block is freed only when the
//! record that frees it is durable and every operation that started before it has ended (`limbo`); nothing is reported
//! before it is as durable as the target promises; after a failure nothing more is reported and nothing more is written.

mod checkpoint;
mod commit;
mod compact;
mod create;
mod group;
mod in_place;
mod index;
mod journal;
mod patch;
mod prepare;
mod punch;
mod read;
mod recover;
mod scrub;
mod space;
mod stage;
mod stats;
mod sums;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_types::limits::BLOCK;
use catena_types::store::Part;
use catena_types::{
    ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, Done, Payload, Seq, SessionId, SessionRow, Space, StageRequest,
    Staged, Time, Ver,
};

use crate::alloc::{Allocator, Run};
use crate::disk::{Completion, Disk, Io, IoOp};
use crate::format::journal::Held;
use crate::format::leaf::ChunkItem;
use crate::format::superblock::Superblock;
use crate::format::{Identity, Params};
use crate::metrics::Metrics;
use crate::mutation::{Mutation, is};
use crate::version::{Version, not_in};
use checkpoint::{Checkpoint, Pace};
use compact::Compaction;
use group::{Group, Pending};
use in_place::{Apply, Overlay, slot_blocks};
use index::{Index, Place};
use journal::Journal;
use patch::{Patch, SumsOp};
use prepare::Prepare;
use punch::Punch;
use read::{ReadOp, Reader, version_of};
use scrub::Scrub;
pub use scrub::{Background, ScrubStatus};
use stage::UpdateOp;
pub use stats::Stats;
use sums::HealOp;
use table::Table;

/// How long a commit record may wait for company before it is flushed on its own, in nanoseconds.
const LAZY_NS: Time = 50_000_000;
/// Bytes of data writes after which the disk is told at once, while their checksums are computed.
const KICK_BYTES: usize = 256 << 10;
const BLOCK64: u64 = BLOCK as u64;

/// What opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Chunks in the checkpoint.
    pub checkpoint_chunks: u64,
    /// Records replayed from the journal.
    pub replayed: u64,
    /// Records at the journal's end that were dropped: they had not been known durable, and they or their data are not
    /// whole. They were never acknowledged, unless the disk lost what it had acknowledged.
    pub dropped: u64,
    /// A copy of the superblock was damaged or old, and has been written again.
    pub superblock_repaired: bool,
    /// Structures of the journal, the index or the checkpoint with a bad block, mended from their parity.
    pub mended: u64,
    /// Blocks that the disk did not give.
    pub unreadable: u64,
}

/// The staged side of a chunk.
#[derive(Clone)]
struct StagedEntry {
    chunk_size: u32,
    staged: Staged,
    /// Known when its checksum is.
    version: Option<Version>,
    /// First block of its slot, if it has one (stores in place).
    slot: Option<u64>,
    /// The operation that staged it; 0 after recovery.
    op: u64,
    /// Number of its record, once it has one.
    seq: Option<u64>,
    /// Blocks only this version uses.
    fresh: Vec<Run>,
    /// Blocks only the version before it uses, if known (copy-on-write).
    frees: Option<Vec<Run>>,
    /// Bytes of blocks that the committed version uses too (stores in place).
    held: Vec<Held>,
    /// Blocks by which its commit may grow the index, at most.
    growth: u64,
}

impl StagedEntry {
    fn fresh_blocks(&self) -> u64 {
        self.fresh.iter().map(|r| u64::from(r.len)).sum()
    }

    fn held_bytes(&self) -> u64 {
        self.held.iter().map(|h| h.bytes.len() as u64).sum()
    }
}

/// The blocks a chunk owns.
fn owned(item: &ChunkItem) -> Vec<Run> {
    match item.slot {
        Some(disk) => vec![Run { disk, len: slot_blocks(item.chunk_size) }],
        None => item.extents.iter().map(|e| Run { disk: e.disk, len: e.len }).collect(),
    }
}

/// The blocks nobody needs when `new` takes the place of `old`.
fn freed(old: Option<&ChunkItem>, new: Option<&ChunkItem>) -> Vec<Run> {
    match (old, new) {
        (None, _) => Vec::new(),
        (Some(old), Some(new)) if old.slot.is_none() => not_in(&old.extents, &new.extents),
        (Some(old), Some(new)) if old.slot == new.slot => Vec::new(),
        (Some(old), _) => owned(old),
    }
}

/// Blocks that will be free when record `seq` is durable and no operation older than `before` is left.
struct Limbo {
    seq: u64,
    before: u64,
    runs: Vec<Run>,
}

/// An operation with IO in flight.
enum Op {
    Read(ReadOp),
    /// A read that waits for the chunk to be asked.
    Asking(ReadOp),
    Heal(HealOp),
    Update(UpdateOp),
    Apply {
        number: u64,
        left: usize,
    },
    /// A chunk is being moved together.
    Move,
    /// Checksums of blocks are being collected.
    Sums(SumsOp),
}

/// What an IO belongs to.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// A piece of a read, or of a chunk that is read as a whole.
    Read {
        op: u64,
        piece: usize,
    },
    /// Blocks of the old version, read to be merged.
    Base {
        op: u64,
        which: usize,
    },
    /// A page of the checksum table.
    Page {
        page: u64,
    },
    /// A data write.
    Data {
        op: u64,
    },
    /// A write to a slot after the commit.
    Apply {
        op: u64,
    },
    Append,
    GroupFlush,
    /// The flush behind groups that were reported without one; they go up to this record.
    LateFlush {
        seq: u64,
    },
    Slice,
    Super,
    CheckpointFlush,
    Punch,
    Prepare,
}

/// A chunk store on one target.
pub struct CowStore<D: Disk> {
    disk: D,
    arena: Arena,
    superblock: Superblock,
    uuid_crc: u32,
    index: Index,
    /// Blocks of the index area.
    index_alloc: Allocator,
    /// The leaves that the last checkpoint names.
    image: Vec<Rc<Place>>,
    staged: BTreeMap<ChunkKey, StagedEntry>,
    /// Those of them that are committed as soon as they are durable, by their operation.
    patches: BTreeMap<u64, Patch>,
    /// Sum of [`StagedEntry::growth`].
    growth: u64,
    /// Bytes that wait for their commit or their apply.
    held_bytes: u64,
    table: Table,
    /// Pages of the table that are being read, and who waits.
    loads: BTreeMap<u64, Vec<u64>>,
    /// Bytes of committed chunks that are not at their place yet.
    overlay: BTreeMap<ChunkKey, Overlay>,
    applies: VecDeque<Apply>,
    sessions: BTreeMap<SessionId, SessionRow>,
    floor: Ver,
    alloc: Allocator,
    /// Blocks of updates that are being staged.
    reserved: u64,
    /// When the disk had no space for more blocks.
    disk_full: Option<Time>,
    limbo: VecDeque<Limbo>,
    limbo_blocks: u64,
    journal: Journal,
    queue: VecDeque<Pending>,
    group: Option<Group>,
    /// A flush behind reported groups is in flight.
    late_flush: bool,
    checkpoint: Option<Checkpoint>,
    pace: Pace,
    scrub: Scrub,
    compaction: Compaction,
    punch: Punch,
    prepare: Prepare,
    /// By number, which grows: the first key is the oldest operation with IO in flight.
    ops: BTreeMap<u64, Op>,
    next_op: u64,
    ios: BTreeMap<u64, Owner>,
    next_io: u64,
    done: Vec<Done<Bytes>>,
    /// What has completed and is not looked at yet.
    completions: VecDeque<Completion>,
    /// Empty; kept for its memory.
    polled: Vec<Completion>,
    /// Bytes of writes submitted since the last kick.
    unkicked: usize,
    failed: Option<String>,
    failure_reported: bool,
    now: Time,
    lazy_since: Option<Time>,
    stats: Stats,
    metrics: Metrics,
    recovery: Recovery,
}

impl<D: Disk> CowStore<D> {
    /// Does everything that can be done now: takes completions, advances operations, forms the next group, starts a
    /// checkpoint, and submits all of it at once. What has ended is appended to `out`.
    pub fn turn(&mut self, now: Time, out: &mut Vec<Done<Bytes>>) {
        self.now = self.now.max(now);
        if self.failed.is_none() {
            self.take_completions();
            self.advance_group();
            self.advance_checkpoint();
            self.advance_applies();
            self.say_durable();
            self.release_limbo();
            self.work_in_background();
            // A group of nothing but marks ends at once: then the next one can go.
            while self.form_group() {}
            self.flush_late();
            self.advance_checkpoint();
            if self.checkpoint.is_none() {
                // A page that is being written or read must not be read again before that has ended.
                self.table.shrink(|page| self.loads.contains_key(&page));
            }
            self.kick();
        }
        self.report(out);
    }

    fn kick(&mut self) {
        self.unkicked = 0;
        self.disk.kick();
    }

    /// Advances what has completed, up to the first read: while its bytes are checked the disk should have nothing to wait
    /// for, and who asked may ask for more before the next one is looked at.
    fn take_completions(&mut self) {
        let mut polled = std::mem::take(&mut self.polled);
        self.disk.poll(&mut polled);
        self.completions.extend(polled.drain(..));
        self.polled = polled;
        while let Some(completion) = self.completions.pop_front() {
            let read = matches!(self.ios.get(&completion.id), Some(Owner::Read { .. }));
            self.complete(completion);
            if read {
                break;
            }
        }
    }

    /// Scrub, compaction, punching, preparation: what may be done now.
    fn work_in_background(&mut self) {
        self.advance_scrub();
        self.advance_compaction();
        self.advance_punch();
        self.advance_prepare();
    }

    fn report(&mut self, out: &mut Vec<Done<Bytes>>) {
        if let Some(reason) = &self.failed {
            if !self.failure_reported {
                self.failure_reported = true;
                out.append(&mut self.done);
                out.push(Done::Failed { reason: reason.clone() });
            }
            self.done.clear();
        } else {
            out.append(&mut self.done);
        }
    }

    /// Whether IO is in flight or waits for another turn. Commit records that only wait for company do not count, see
    /// [`CowStore::next_wake`].
    pub fn busy(&self) -> bool {
        if self.failed.is_some() {
            return !self.failure_reported;
        }
        !self.done.is_empty()
            || !self.ios.is_empty()
            || self.group.is_some()
            || self.checkpoint.is_some()
            || !self.applies_wait_for_records()
            || self.queue_urgent()
    }

    /// Whether no apply waits for anything but its commit's record.
    fn applies_wait_for_records(&self) -> bool {
        self.applies.iter().all(|a| a.seq.is_none_or(|seq| seq > self.journal.said))
    }

    /// When [`CowStore::turn`] is to be called at the latest, if records wait for company or for a flush.
    pub fn next_wake(&self) -> Option<Time> {
        if self.failed.is_some() {
            return None;
        }
        if !self.completions.is_empty() {
            return Some(self.now);
        }
        let lazy = self.lazy_since.filter(|_| self.group.is_none()).map(|since| since.saturating_add(LAZY_NS));
        [lazy, self.late_flush_due()].into_iter().flatten().min()
    }

    /// When [`CowStore::turn`] is to be called for what is done in the background.
    pub fn background_wake(&self) -> Option<Time> {
        if self.failed.is_some() {
            return None;
        }
        [self.scrub_due(), self.compaction_due(), self.punch_due(), self.prepare_due()].into_iter().flatten().min()
    }

    /// Who the target is.
    pub fn identity(&self) -> Identity {
        self.superblock.params.identity
    }

    /// What was decided when the target was made.
    pub fn params(&self) -> &Params {
        &self.superblock.params
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Sizes and times of what was done.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What opening found.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Why the target failed, if it has.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Checks that blocks and owners match one to one, and that the space is exact. For tests and offline tools.
    ///
    /// # Errors
    /// What does not match.
    pub fn verify(&self) -> Result<(), String> {
        let mut alloc = Allocator::new(self.alloc.total());
        let mut own = |what: &dyn std::fmt::Display, run: &Run| match alloc.set(*run) {
            true => Ok(()),
            false => Err(format!("blocks {}+{} of {what} have another owner too", run.disk, run.len)),
        };
        for (key, item) in self.index.range(Bound::Unbounded) {
            owned(&item).iter().try_for_each(|r| own(&key, r))?;
        }
        for (key, side) in &self.staged {
            side.fresh.iter().try_for_each(|r| own(key, r))?;
        }
        self.limbo.iter().flat_map(|l| &l.runs).try_for_each(|r| own(&"limbo", r))?;
        self.queue.iter().flat_map(|p| &p.frees).try_for_each(|r| own(&"the queue", r))?;
        self.compaction.runs().iter().try_for_each(|r| own(&"a move", r))?;
        self.punch.running().iter().try_for_each(|r| own(&"a hole being punched", r))?;
        self.prepare.running().iter().try_for_each(|r| own(&"a stretch being prepared", r))?;
        if alloc.free() != self.alloc.free() {
            return Err(format!("{} blocks have no owner, {} are free", alloc.free(), self.alloc.free()));
        }
        let growth: u64 = self.staged.values().map(|s| s.growth).sum();
        let applies: u64 = self.applies.iter().map(Apply::held_bytes).sum();
        let held: u64 = applies + self.staged.values().map(StagedEntry::held_bytes).sum::<u64>();
        if (growth, held) != (self.growth, self.held_bytes) {
            return Err(format!("staged: {growth} {held}, counted {} {}", self.growth, self.held_bytes));
        }
        self.index.verify()?;
        self.verify_index_area()
    }

    /// Checks that the blocks of the index area are those of the last checkpoint and of the one that is being written.
    fn verify_index_area(&self) -> Result<(), String> {
        let mut alloc = Allocator::new(self.index_alloc.total());
        let mut seen: Vec<*const Place> = Vec::new();
        let coming = self.checkpoint.iter().flat_map(|c| c.image());
        let mut places: Vec<&Rc<Place>> = self.image.iter().chain(coming).collect();
        places.sort_by_key(|p| Rc::as_ptr(p));
        places.dedup_by_key(|p| Rc::as_ptr(p));
        for place in places {
            seen.push(Rc::as_ptr(place));
            for run in &place.runs {
                if !alloc.set(*run) {
                    return Err(format!("index blocks {}+{} have two owners", run.disk, run.len));
                }
            }
        }
        if alloc.free() != self.index_alloc.free() {
            return Err(format!("{} index blocks have no owner, {} are free", alloc.free(), self.index_alloc.free()));
        }
        Ok(())
    }

    /// The target has failed. Nothing more is written.
    fn fail(&mut self, reason: String) {
        if self.failed.is_none() {
            tracing::error!(target_disk = %self.disk.name(), %reason, "target failed");
            self.failed = Some(reason);
            self.queue.clear();
        }
    }

    fn misuse(&mut self, what: &str, key: &ChunkKey, ver: Ver) {
        self.stats.misuse += 1;
        tracing::error!(%key, ver, "{what}: ignored");
    }

    fn take_op(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op - 1
    }

    /// Something that an operation waits for is there.
    fn wake(&mut self, op: u64) {
        match self.ops.get(&op) {
            Some(Op::Read(_)) => self.wake_read(op),
            Some(Op::Asking(_)) => self.read_again(op),
            Some(Op::Update(_)) => self.wake_update(op),
            Some(Op::Sums(_)) => self.wake_sums(op),
            _ => {}
        }
    }

    /// Adds to what is staged.
    fn put_staged(&mut self, key: &ChunkKey, side: StagedEntry) {
        self.growth += side.growth;
        self.held_bytes += side.held_bytes();
        self.staged.insert(key.clone(), side);
    }

    /// Takes a staged version out, if it is `ver`.
    fn take_staged(&mut self, key: &ChunkKey, ver: Ver) -> Option<StagedEntry> {
        self.staged.get(key).filter(|s| s.staged.ver == ver)?;
        let side = self.staged.remove(key)?;
        self.growth -= side.growth;
        self.held_bytes -= side.held_bytes();
        Some(side)
    }

    fn submit(&mut self, owner: Owner, op: IoOp) {
        if self.failed.is_some() {
            return;
        }
        let id = self.next_io;
        self.next_io += 1;
        self.ios.insert(id, owner);
        self.disk.submit(Io { id, op });
    }

    fn complete(&mut self, completion: Completion) {
        let Some(owner) = self.ios.remove(&completion.id) else { return };
        if self.failed.is_some() {
            return;
        }
        match (owner, completion.result) {
            (Owner::Read { op, piece }, result) => self.piece_read(op, piece, result),
            (Owner::Base { op, which }, result) => self.base_read(op, which, result),
            (Owner::Page { page }, result) => self.page_read(page, result),
            (Owner::Punch, result) => self.punched(result.map(|_| ())),
            (Owner::Prepare, result) => self.prepared(result.map(|_| ())),
            (_, Err(e)) => {
                let name = self.disk.name();
                self.fail(format!("{name}: {} failed: {e}", describe(owner)));
            }
            (Owner::Data { op }, Ok(_)) => self.data_written(op),
            (Owner::Apply { op }, Ok(_)) => self.apply_written(op),
            (Owner::Append, Ok(_)) => self.group_io_done(),
            (Owner::GroupFlush, Ok(_)) => self.group_durable(),
            (Owner::LateFlush { seq }, Ok(_)) => self.flushed_late(seq),
            (Owner::Slice, Ok(_)) => self.slice_written(),
            (Owner::Super, Ok(_)) => self.superblock_written(),
            (Owner::CheckpointFlush, Ok(_)) => self.checkpoint_flushed(),
        }
    }

    /// Frees what nobody can need any more.
    fn release_limbo(&mut self) {
        let op = self.ops.keys().next().copied().unwrap_or(u64::MAX);
        let oldest = op.min(self.applies.front().map_or(u64::MAX, Apply::number));
        let durable = if is(Mutation::FreeBeforeDurable) { u64::MAX } else { self.journal.durable };
        let oldest = if is(Mutation::FreeUnderReaders) { u64::MAX } else { oldest };
        while self.limbo.front().is_some_and(|l| l.seq <= durable && l.before <= oldest) {
            let Some(limbo) = self.limbo.pop_front() else { break };
            for run in limbo.runs {
                self.limbo_blocks -= u64::from(run.len);
                let cleared = self.alloc.clear(run);
                debug_assert!(cleared, "blocks in limbo are taken");
                self.punch.note(run, self.now);
            }
        }
    }

    fn data_offset(&self, block: u64) -> u64 {
        self.superblock.params.data_offset() + block * BLOCK64
    }
}

fn describe(owner: Owner) -> &'static str {
    match owner {
        Owner::Read { .. } | Owner::Base { .. } | Owner::Page { .. } => "reading",
        Owner::Data { .. } | Owner::Apply { .. } => "writing data",
        Owner::Append => "appending to the journal",
        Owner::GroupFlush | Owner::LateFlush { .. } => "flushing data and journal",
        Owner::Punch => "giving space back",
        Owner::Prepare => "preparing space",
        Owner::Slice => "writing a checkpoint",
        Owner::Super => "writing the superblock",
        Owner::CheckpointFlush => "flushing a checkpoint",
    }
}

fn meta_of(head: Option<(u32, Committed)>, side: Option<&StagedEntry>) -> Option<ChunkMeta> {
    let chunk_size = head.map(|(size, _)| size).or_else(|| side.map(|s| s.chunk_size))?;
    Some(ChunkMeta { chunk_size, committed: head.map(|(_, committed)| committed), staged: side.map(|s| s.staged) })
}

/// The buffer a successful read carries.
fn buffer(result: io::Result<Option<AlignedBuf>>) -> io::Result<AlignedBuf> {
    result?.ok_or_else(|| io::Error::other("a read completed without a buffer"))
}

impl<D: Disk> ChunkStore for CowStore<D> {
    type Payload = Bytes;

    fn meta(&self, key: &ChunkKey) -> Option<ChunkMeta> {
        meta_of(self.index.head(key), self.staged.get(key))
    }

    fn scan(&self, from: &[u8], limit: usize) -> Vec<(ChunkKey, ChunkMeta)> {
        let mut committed = self.index.range(Bound::Included(from)).peekable();
        let mut staged = self.staged.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).peekable();
        let mut out = Vec::new();
        while out.len() < limit {
            let key = match (committed.peek(), staged.peek()) {
                (None, None) => break,
                (Some((key, _)), None) => key.clone(),
                (None, Some((key, _))) => (*key).clone(),
                (Some((a, _)), Some((b, _))) => a.min(*b).clone(),
            };
            let item = committed.next_if(|(k, _)| *k == key).map(|(_, item)| (item.chunk_size, item.committed));
            let side = staged.next_if(|(k, _)| **k == key).map(|(_, side)| side);
            out.extend(meta_of(item, side).map(|meta| (key, meta)));
        }
        out
    }

    fn remove_floor(&self) -> Ver {
        self.floor
    }

    fn session(&self, id: SessionId) -> Option<SessionRow> {
        self.sessions.get(&id).copied()
    }

    fn sessions(&self, after: Option<SessionId>, limit: usize) -> Vec<(SessionId, SessionRow)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.sessions.range((from, Bound::Unbounded)).take(limit).map(|(id, row)| (*id, *row)).collect()
    }

    fn space(&self) -> Space {
        let used = self.alloc.total() - self.alloc.free() - self.reserved;
        Space {
            total: self.alloc.total() * BLOCK64,
            used: used * BLOCK64,
            reserved: self.reserved * BLOCK64,
            chunks: self.index.chunks(),
            level: self.space_level() as i32,
        }
    }

    fn stage(&mut self, request: StageRequest<Bytes>) -> Result<(), Code> {
        self.start_stage(request, Vec::new())
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        self.commit_staged(key, ver, chain_ver);
    }

    fn unstage(&mut self, key: &ChunkKey, ver: Ver) {
        self.drop_staged(key, ver);
    }

    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        self.start_read(Reader::Caller { id }, key, ver, offset, len);
    }

    fn install(
        &mut self,
        id: u64,
        key: &ChunkKey,
        chunk_size: u32,
        committed: Committed,
        payload: Payload<Bytes>,
    ) -> Result<(), Code> {
        self.start_install(id, key, chunk_size, committed, &payload)
    }

    fn patch(&mut self, id: u64, key: &ChunkKey, committed: Committed, parts: Vec<Part<Bytes>>) -> Result<(), Code> {
        self.start_patch(id, key, committed, parts)
    }

    fn install_lost(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, committed: Committed) -> Result<(), Code> {
        self.start_install_lost(id, key, chunk_size, committed)
    }

    fn sums(&mut self, id: u64, key: &ChunkKey, ver: Ver) {
        self.start_sums(id, key, ver);
    }

    fn purge(&mut self, id: u64, key: &ChunkKey) {
        self.purge_chunk(id, key);
    }

    fn clear_sessions(&mut self) {
        self.forget_sessions();
    }

    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        self.merge_session(id, row);
    }

    fn drop_session(&mut self, id: SessionId, seq: Seq) {
        self.forget_session(id, seq);
    }

    fn raise_remove_floor(&mut self, floor: Ver) {
        self.raise_floor(floor);
    }

    fn sync(&mut self, id: u64) {
        self.start_sync(id);
    }
}
