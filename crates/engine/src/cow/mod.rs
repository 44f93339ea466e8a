//! The copy-on-write store.
//!
//! A chunk is a list of extents; an update writes only the blocks it touches, to fresh blocks, so that the committed
//! version stays readable until the commit and until its last reader lets go. Memory holds the whole index; the journal
//! makes changes durable in groups, one append and one flush for everything that was waiting.
//!
//! How a change travels: a call changes the index at once and puts a record in `queue` (a stage puts it there when its
//! data writes have been issued); [`group`] turns the queue into one append, waits for it and for the data writes that
//! belong to it, flushes, and reports. [`checkpoint`] bounds the journal.
//!
//! What must hold: records reach the journal in the order of the calls that made them; a block is freed only when the
//! record that frees it is durable and every operation that started before it has ended (`limbo`); nothing is reported
//! durable before a flush that covers it; after a failure nothing more is reported and nothing more is written.

mod checkpoint;
mod commit;
mod create;
mod group;
mod journal;
mod read;
mod recover;
mod stage;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_types::limits::BLOCK;
use catena_types::{
    ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, Done, SessionId, SessionRow, Space, StageRequest, Staged, Time,
    Ver,
};

use crate::alloc::{Allocator, Run};
use crate::disk::{Completion, Disk, Io, IoOp};
use crate::format::{Identity, Params, Superblock};
use crate::version::Version;
use checkpoint::{Checkpoint, Pace};
use group::{Group, Pending};
use journal::Journal;
use read::ReadOp;
use stage::UpdateOp;

/// How long a commit record may wait for company before it is flushed on its own, in nanoseconds.
const LAZY_NS: Time = 50_000_000;
const BLOCK64: u64 = BLOCK as u64;

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Updates staged (durable).
    pub staged: u64,
    /// Updates committed.
    pub committed: u64,
    /// Reads ended.
    pub reads: u64,
    /// Reads that found a block that does not match its checksum, or could not be read.
    pub corrupt_reads: u64,
    /// Bytes returned by reads.
    pub bytes_read: u64,
    /// Bytes of data blocks written.
    pub bytes_written: u64,
    /// Journal appends.
    pub appends: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of journal blocks written.
    pub journal_bytes: u64,
    /// Most records in one append.
    pub largest_group: u64,
    /// Flushes.
    pub flushes: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Checkpoints for which appends had to wait.
    pub stalls: u64,
    /// Calls that broke the contract and were ignored.
    pub misuse: u64,
}

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
}

/// The staged side of a chunk.
#[derive(Clone)]
struct StagedEntry {
    staged: Staged,
    /// Known when its checksums are.
    version: Option<Rc<Version>>,
    /// The operation that staged it; 0 after recovery.
    op: u64,
    /// Number of its record, once it has one.
    seq: Option<u64>,
    /// Blocks only this version uses.
    fresh: Vec<Run>,
}

/// What is held of one chunk.
#[derive(Clone)]
struct Entry {
    chunk_size: u32,
    committed: Option<(Committed, Rc<Version>)>,
    staged: Option<StagedEntry>,
}

impl Entry {
    fn meta(&self) -> ChunkMeta {
        ChunkMeta {
            chunk_size: self.chunk_size,
            committed: self.committed.as_ref().map(|(c, _)| *c),
            staged: self.staged.as_ref().map(|s| s.staged),
        }
    }

    /// Upper bound of its size in a checkpoint, in bytes.
    fn item_bytes(&self, key: &ChunkKey) -> u64 {
        let version = |v: &Version| 60 + 16 * v.extents.len() as u64 + 4 * v.mapped();
        let committed = self.committed.as_ref().map_or(0, |(_, v)| version(v));
        let staged = self.staged.as_ref().and_then(|s| s.version.as_deref()).map_or(0, version);
        8 + key.as_bytes().len() as u64 + committed + staged
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
    Update(UpdateOp),
}

/// What an IO belongs to.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// A piece of a read.
    Read {
        op: u64,
        piece: usize,
    },
    /// A block of the old version, read to be merged.
    Base {
        op: u64,
        which: usize,
    },
    /// A data write.
    Data {
        op: u64,
    },
    Append,
    GroupFlush,
    Slice,
    Super,
    CheckpointFlush,
}

/// A copy-on-write chunk store on one target.
pub struct CowStore<D: Disk> {
    disk: D,
    arena: Arena,
    superblock: Superblock,
    uuid_crc: u32,
    index: BTreeMap<ChunkKey, Entry>,
    sessions: BTreeMap<SessionId, SessionRow>,
    floor: Ver,
    chunks: u64,
    /// Sum of [`Entry::item_bytes`].
    index_bytes: u64,
    alloc: Allocator,
    /// Blocks of updates that are being staged.
    reserved: u64,
    limbo: VecDeque<Limbo>,
    limbo_blocks: u64,
    journal: Journal,
    queue: VecDeque<Pending>,
    group: Option<Group>,
    checkpoint: Option<Checkpoint>,
    pace: Pace,
    /// By number, which grows: the first key is the oldest operation with IO in flight.
    ops: BTreeMap<u64, Op>,
    next_op: u64,
    ios: BTreeMap<u64, Owner>,
    next_io: u64,
    done: Vec<Done<Bytes>>,
    completions: Vec<Completion>,
    failed: Option<String>,
    failure_reported: bool,
    now: Time,
    lazy_since: Option<Time>,
    stats: Stats,
    recovery: Recovery,
}

impl<D: Disk> CowStore<D> {
    /// Does everything that can be done now: takes completions, advances operations, forms the next group, starts a
    /// checkpoint, and submits all of it at once. What has ended is appended to `out`.
    pub fn turn(&mut self, now: Time, out: &mut Vec<Done<Bytes>>) {
        self.now = self.now.max(now);
        if self.failed.is_none() {
            let mut completions = std::mem::take(&mut self.completions);
            self.disk.poll(&mut completions);
            for completion in completions.drain(..) {
                self.complete(completion);
            }
            self.completions = completions;
            self.advance_group();
            self.advance_checkpoint();
            self.release_limbo();
            // A group of nothing but marks ends at once: then the next one can go.
            while self.form_group() {}
            self.advance_checkpoint();
            self.disk.kick();
        }
        self.report(out);
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
        !self.done.is_empty() || !self.ios.is_empty() || self.group.is_some() || self.checkpoint.is_some() || self.queue_urgent()
    }

    /// When [`CowStore::turn`] is to be called at the latest, if records wait for company.
    pub fn next_wake(&self) -> Option<Time> {
        if self.failed.is_some() || self.group.is_some() {
            return None;
        }
        self.lazy_since.map(|since| since + LAZY_NS)
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
        for (key, entry) in &self.index {
            if let Some((_, v)) = &entry.committed {
                v.not_in(None).iter().try_for_each(|r| own(key, r))?;
            }
            if let Some(s) = &entry.staged {
                s.fresh.iter().try_for_each(|r| own(key, r))?;
            }
        }
        self.limbo.iter().flat_map(|l| &l.runs).try_for_each(|r| own(&"limbo", r))?;
        self.queue.iter().flat_map(|p| &p.frees).try_for_each(|r| own(&"the queue", r))?;
        if alloc.free() != self.alloc.free() {
            return Err(format!("{} blocks have no owner, {} are free", alloc.free(), self.alloc.free()));
        }
        let index_bytes: u64 = self.index.iter().map(|(k, e)| e.item_bytes(k)).sum();
        let chunks = self.index.values().filter(|e| e.committed.is_some()).count() as u64;
        if (index_bytes, chunks) != (self.index_bytes, self.chunks) {
            return Err(format!("index: {index_bytes} bytes {chunks} chunks, counted {} {}", self.index_bytes, self.chunks));
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

    /// Every change of a chunk goes through here: the running checkpoint keeps what was, and the counts stay exact.
    fn edit<R>(&mut self, key: &ChunkKey, f: impl FnOnce(&mut Option<Entry>) -> R) -> R {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.keep(key, self.index.get(key));
        }
        let mut entry = self.index.remove(key);
        if let Some(e) = &entry {
            self.index_bytes -= e.item_bytes(key);
            self.chunks -= u64::from(e.committed.is_some());
        }
        let result = f(&mut entry);
        if let Some(e) = entry.filter(|e| e.committed.is_some() || e.staged.is_some()) {
            self.index_bytes += e.item_bytes(key);
            self.chunks += u64::from(e.committed.is_some());
            self.index.insert(key.clone(), e);
        }
        result
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
            (Owner::Read { op, piece }, result) => self.read_done(op, piece, result),
            (_, Err(e)) => {
                let name = self.disk.name();
                self.fail(format!("{name}: {} failed: {e}", describe(owner)));
            }
            (Owner::Base { op, which }, Ok(buf)) => self.base_read(op, which, buf),
            (Owner::Data { op }, Ok(_)) => self.data_written(op),
            (Owner::Append, Ok(_)) => self.group_io_done(),
            (Owner::GroupFlush, Ok(_)) => self.group_durable(),
            (Owner::Slice, Ok(_)) => self.slice_written(),
            (Owner::Super, Ok(_)) => self.superblock_written(),
            (Owner::CheckpointFlush, Ok(_)) => self.checkpoint_flushed(),
        }
    }

    /// Frees what nobody can need any more.
    fn release_limbo(&mut self) {
        let oldest = self.ops.keys().next().copied().unwrap_or(u64::MAX);
        while self.limbo.front().is_some_and(|l| l.seq <= self.journal.durable && l.before <= oldest) {
            let Some(limbo) = self.limbo.pop_front() else { break };
            for run in limbo.runs {
                self.limbo_blocks -= u64::from(run.len);
                let cleared = self.alloc.clear(run);
                debug_assert!(cleared, "blocks in limbo are taken");
            }
        }
    }

    fn data_offset(&self, block: u64) -> u64 {
        self.superblock.params.data_offset() + block * BLOCK64
    }
}

fn describe(owner: Owner) -> &'static str {
    match owner {
        Owner::Read { .. } | Owner::Base { .. } => "reading a data block",
        Owner::Data { .. } => "writing data",
        Owner::Append => "appending to the journal",
        Owner::GroupFlush => "flushing data and journal",
        Owner::Slice => "writing a checkpoint",
        Owner::Super => "writing the superblock",
        Owner::CheckpointFlush => "flushing a checkpoint",
    }
}

/// The buffer a successful read carries.
fn buffer(result: io::Result<Option<AlignedBuf>>) -> io::Result<AlignedBuf> {
    result?.ok_or_else(|| io::Error::other("a read completed without a buffer"))
}

impl<D: Disk> ChunkStore for CowStore<D> {
    type Payload = Bytes;

    fn meta(&self, key: &ChunkKey) -> Option<ChunkMeta> {
        self.index.get(key).map(Entry::meta)
    }

    fn scan(&self, from: &[u8], limit: usize) -> Vec<(ChunkKey, ChunkMeta)> {
        let range = self.index.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        range.take(limit).map(|(k, e)| (k.clone(), e.meta())).collect()
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
            chunks: self.chunks,
        }
    }

    fn stage(&mut self, request: StageRequest<Bytes>) -> Result<(), Code> {
        self.start_stage(request)
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        self.commit_staged(key, ver, chain_ver);
    }

    fn unstage(&mut self, key: &ChunkKey, ver: Ver) {
        self.drop_staged(key, ver);
    }

    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        self.start_read(id, key, ver, offset, len);
    }

    fn install(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, committed: Committed, payload: Bytes) -> Result<(), Code> {
        self.start_install(id, key, chunk_size, committed, payload)
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

    fn raise_remove_floor(&mut self, floor: Ver) {
        self.raise_floor(floor);
    }

    fn sync(&mut self, id: u64) {
        self.start_sync(id);
    }
}
