//! Opening a target: superblock, checkpoint, journal, allocator.
//!
//! What must hold (amendment M6): every append carries the record number that was known durable when it was issued, and
//! one append is in flight at a time. Only records later than the highest such number found anywhere in the journal may
//! be dropped, from the first one on that is not whole or whose data does not match; they were never acknowledged. A
//! record at or before it that is missing is damage, named and refused; one whose data has rotted is kept, and reads say
//! so. Everything kept is made durable before the target is used. Nothing panics on what is read here.

mod apply;
mod replay;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::rc::Rc;

use catena_arena::{AlignedBuf, Arena};
use catena_types::{ChunkKey, SessionId, SessionRow, Ver};

use super::create::uuid_crc;
use super::in_place::held_of;
use super::index::{Index, Place};
use super::journal::Journal;
use super::scrub::Scrub;
use super::table::Table;
use super::{BLOCK64, CowStore, Recovery, StagedEntry, Stats, owned};
use crate::alloc::{Allocator, Run};
use crate::disk::{Disk, Io, IoOp};
use crate::error::OpenError;
use crate::format::journal::{Held, Record, ScrubMark};
use crate::format::leaf::{LeafRef, decode_leaf};
use crate::format::slice::{CheckpointItem, decode_slice, slice_bytes};
use crate::format::superblock::{SUPERBLOCK_OFFSETS, SuperProblem, Superblock};
use crate::format::{FORMAT, Params};
use crate::metrics::Metrics;
use crate::mutation::{Mutation, is};
use crate::version::{Extent, Version, block_crcs};
use replay::Tail;

/// Bytes read at once.
const READ_STEP: u64 = 1 << 20;
/// Blocks between two leaves up to which they are read together.
const GAP: u64 = 16;

/// One operation at a time on a disk, waited for.
pub(super) struct Blocking<'a, D: Disk> {
    disk: &'a mut D,
}

pub(super) fn io_error(name: String, action: &str, source: io::Error) -> OpenError {
    OpenError::Io { name, action: action.to_string(), source }
}

impl<'a, D: Disk> Blocking<'a, D> {
    pub(super) fn new(disk: &'a mut D) -> Self {
        Blocking { disk }
    }

    pub(super) fn run(&mut self, action: &str, op: IoOp) -> Result<Option<AlignedBuf>, OpenError> {
        self.disk.submit(Io { id: u64::MAX, op });
        let mut done = Vec::new();
        loop {
            self.disk.kick();
            self.disk.poll(&mut done);
            if let Some(completion) = done.pop() {
                return completion.result.map_err(|e| io_error(self.disk.name(), action, e));
            }
            self.disk.wait();
        }
    }

    /// Appends `len` bytes at `offset` to `out`.
    pub(super) fn read(&mut self, arena: &Arena, offset: u64, len: u64, out: &mut Vec<u8>) -> Result<(), OpenError> {
        let mut at = 0;
        while at < len {
            let n = READ_STEP.min(len - at);
            let buf = arena.take_or_alloc(n as usize);
            let what = format!("reading {n} bytes at {}", offset + at);
            if let Some(buf) = self.run(&what, IoOp::Read { offset: offset + at, buf })? {
                out.extend_from_slice(&buf);
            }
            at += n;
        }
        Ok(())
    }
}

/// The state that checkpoint and journal describe.
#[derive(Default)]
struct State {
    index: Index,
    staged: BTreeMap<ChunkKey, StagedEntry>,
    /// Bytes of committed chunks that are not at their place.
    redo: BTreeMap<ChunkKey, Vec<Held>>,
    table: Table,
    sessions: BTreeMap<SessionId, SessionRow>,
    floor: Ver,
    scrub: ScrubMark,
}

struct Opener<'a, D: Disk> {
    io: Blocking<'a, D>,
    arena: &'a Arena,
    name: String,
    superblock: Superblock,
    uuid_crc: u32,
    state: State,
    /// The leaves the checkpoint names, and their blocks.
    image: Vec<Rc<Place>>,
    index_alloc: Allocator,
    /// Leaves, by number, that had to be mended.
    mended_leaves: Vec<usize>,
    recovery: Recovery,
}

impl<D: Disk> CowStore<D> {
    /// Opens a target. Blocks until it can be used.
    ///
    /// # Errors
    /// What is wrong with it, where, and what to do next.
    pub fn open(mut disk: D, arena: &Arena) -> Result<CowStore<D>, OpenError> {
        let (superblock, mut repair) = read_superblock(&mut disk, arena)?;
        let name = disk.name();
        let mut opener = Opener {
            io: Blocking::new(&mut disk),
            arena,
            name,
            uuid_crc: uuid_crc(&superblock.params),
            superblock,
            state: State::default(),
            image: Vec::new(),
            mended_leaves: Vec::new(),
            index_alloc: Allocator::new(superblock.params.index / BLOCK64),
            recovery: Recovery { superblock_repaired: !repair.is_empty(), ..Recovery::default() },
        };
        opener.load_checkpoint()?;
        let (tail, known) = opener.replay()?;
        let alloc = opener.rebuild()?;
        let journal = opener.mend(&tail, known)?;
        for copy in repair.drain(..) {
            opener.io.write_superblock(&superblock, copy)?;
        }
        let Opener { uuid_crc, state, image, index_alloc, recovery, .. } = opener;
        if recovery.dropped > 0 {
            tracing::info!(target_disk = %disk.name(), dropped = recovery.dropped, "records never acknowledged were dropped");
        }
        let punch = super::punch::Punch::new(&alloc);
        let mut store = CowStore {
            disk,
            arena: arena.clone(),
            superblock,
            uuid_crc,
            index: state.index,
            index_alloc,
            image,
            growth: state.staged.values().map(|s| s.growth).sum(),
            held_bytes: state.staged.values().map(StagedEntry::held_bytes).sum(),
            staged: state.staged,
            table: state.table,
            loads: BTreeMap::new(),
            overlay: BTreeMap::new(),
            applies: VecDeque::new(),
            sessions: state.sessions,
            floor: state.floor,
            alloc,
            reserved: 0,
            limbo: VecDeque::new(),
            limbo_blocks: 0,
            journal,
            queue: VecDeque::new(),
            group: None,
            late_flush: false,
            checkpoint: None,
            pace: Default::default(),
            scrub: Scrub::new(state.scrub),
            compaction: Default::default(),
            punch,
            ops: BTreeMap::new(),
            next_op: 1,
            ios: BTreeMap::new(),
            next_io: 0,
            done: Vec::new(),
            completions: VecDeque::new(),
            polled: Vec::new(),
            unkicked: 0,
            failed: None,
            failure_reported: false,
            now: 0,
            lazy_since: None,
            stats: Stats::default(),
            metrics: Metrics::default(),
            recovery,
        };
        if recovery.mended > 0 {
            // What is whole only thanks to its parity is written anew, while that is so.
            tracing::warn!(target_disk = %store.disk.name(), mended = recovery.mended, "bad blocks were mended from their parity");
            store.start_checkpoint();
        }
        Ok(store)
    }
}

/// The newest good copy, and which copies have to be written again.
fn read_superblock<D: Disk>(disk: &mut D, arena: &Arena) -> Result<(Superblock, Vec<usize>), OpenError> {
    let name = disk.name();
    let mut copies = Vec::new();
    for offset in SUPERBLOCK_OFFSETS {
        let mut block = Vec::new();
        Blocking::new(disk).read(arena, offset, BLOCK64, &mut block)?;
        copies.push(Superblock::decode(&block));
    }
    let best = copies.iter().flatten().max_by_key(|s| s.generation).copied();
    if let Some(best) = best {
        let repair = (0..copies.len()).filter(|&i| copies[i] != Ok(best)).collect();
        return Ok((best, repair));
    }
    let problems: Vec<_> = copies.into_iter().filter_map(Result::err).collect();
    let format = problems.iter().find_map(|p| if let SuperProblem::Format(f) = p { Some(*f) } else { None });
    Err(match format {
        Some(found) => OpenError::UnknownFormat { name, found, known: FORMAT },
        None if problems.contains(&SuperProblem::Damaged) => OpenError::CorruptSuperblock { name },
        None if problems.iter().all(|p| *p == SuperProblem::Empty) => OpenError::Empty { name },
        None => OpenError::NotATarget { name },
    })
}

impl<D: Disk> Opener<'_, D> {
    fn params(&self) -> Params {
        self.superblock.params
    }

    fn inconsistent(&self, why: impl Into<String>) -> OpenError {
        OpenError::Inconsistent { name: self.name.clone(), why: why.into() }
    }

    fn load_checkpoint(&mut self) -> Result<(), OpenError> {
        let c = self.superblock.checkpoint;
        let base = self.params().checkpoint_offset(c.area);
        let mut area = Vec::with_capacity(c.bytes as usize);
        self.io.read(self.arena, base, c.bytes, &mut area)?;
        let mut leaves = Vec::new();
        let mut at = 0;
        for slice in 0..c.slices {
            let rest = area.get(at..).unwrap_or(&[]);
            let size = slice_bytes(rest, c.generation, slice).unwrap_or(rest.len());
            let window = &rest[..size.min(rest.len())];
            let decoded = decode_slice(window, c.generation, slice, self.uuid_crc)
                .or_else(|why| decode_slice(rest, c.generation, slice, self.uuid_crc).map_err(|_| why));
            let decoded = decoded.map_err(|why| {
                let name = self.name.clone();
                OpenError::CorruptCheckpoint { name, slice, offset: base + at as u64, why }
            })?;
            self.recovery.mended += u64::from(decoded.mended);
            at += decoded.stored;
            for item in decoded.items {
                self.load_item(item, &mut leaves);
            }
        }
        self.load_leaves(&leaves)?;
        self.recovery.checkpoint_chunks = self.state.index.chunks();
        Ok(())
    }

    fn load_item(&mut self, item: CheckpointItem, leaves: &mut Vec<LeafRef>) {
        match item {
            CheckpointItem::Floor(floor) => self.state.floor = floor,
            CheckpointItem::Session(id, row) => {
                self.state.sessions.insert(id, row);
            }
            CheckpointItem::Staged(key, s) => {
                let version = Version { len: s.staged.len, checksum: s.staged.checksum, extents: s.extents };
                let side = StagedEntry {
                    chunk_size: s.chunk_size,
                    staged: s.staged,
                    version: Some(version),
                    slot: s.slot,
                    op: 0,
                    seq: Some(0),
                    fresh: s.fresh,
                    frees: None,
                    held: s.held,
                    growth: 0,
                };
                self.state.staged.insert(key, side);
            }
            CheckpointItem::Leaf(leaf) => leaves.push(leaf),
            CheckpointItem::Scrub(mark) => self.state.scrub = mark,
            CheckpointItem::Redo(key, held) => self.state.redo(&key, held),
        }
    }

    /// Reads the leaves in the order in which they lie, many at once, and then takes them in key order.
    fn load_leaves(&mut self, leaves: &[LeafRef]) -> Result<(), OpenError> {
        let mut runs: Vec<(Run, usize)> =
            leaves.iter().enumerate().flat_map(|(n, leaf)| leaf.runs.iter().map(move |run| (*run, n))).collect();
        runs.sort_by_key(|(run, _)| run.disk);
        let mut entries: Vec<Option<Rc<[u8]>>> = vec![None; leaves.len()];
        let mut scattered: BTreeMap<usize, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
        let mut bytes = Vec::new();
        let mut rest = &runs[..];
        while let Some((first, _)) = rest.first() {
            let (together, end) = self.claim(rest)?;
            bytes.clear();
            let offset = self.params().index_offset() + first.disk * BLOCK64;
            self.io.read(self.arena, offset, (end - first.disk) * BLOCK64, &mut bytes)?;
            for (run, n) in &rest[..together] {
                let from = ((run.disk - first.disk) * BLOCK64) as usize;
                let part = &bytes[from..from + (u64::from(run.len) * BLOCK64) as usize];
                if leaves[*n].runs.len() == 1 {
                    entries[*n] = Some(self.decode_leaf(*n, &leaves[*n], part)?);
                } else {
                    scattered.entry(*n).or_default().push((run.disk, part.to_vec()));
                }
            }
            rest = &rest[together..];
        }
        for (n, parts) in scattered {
            let part = |run: &Run| parts.iter().find(|(disk, _)| *disk == run.disk).map_or(&[][..], |(_, bytes)| bytes);
            let joined: Vec<u8> = leaves[n].runs.iter().flat_map(part).copied().collect();
            entries[n] = Some(self.decode_leaf(n, &leaves[n], &joined)?);
        }
        for (n, (leaf, entries)) in leaves.iter().zip(entries).enumerate() {
            let place = Place { bytes: leaf.bytes, crc: leaf.crc.into(), runs: leaf.runs.clone() };
            let place = entries.and_then(|entries| self.state.index.push(entries, place));
            let place = place.ok_or_else(|| self.corrupt_leaf(n, leaf, "an entry makes no sense"))?;
            self.image.push(place);
        }
        self.state.index.rewrite(&self.mended_leaves);
        Ok(())
    }

    /// Takes the runs that are read with one operation from the allocator: their number, and where the last one ends.
    fn claim(&mut self, runs: &[(Run, usize)]) -> Result<(usize, u64), OpenError> {
        let (mut count, mut end) = (0, 0);
        for (run, _) in runs {
            let far = count > 0 && (run.disk > end + GAP || (end - runs[0].0.disk) * BLOCK64 >= READ_STEP);
            if far {
                break;
            }
            if !self.index_alloc.set(*run) {
                return Err(self.inconsistent(format!("index blocks {}+{} have two owners", run.disk, run.len)));
            }
            count += 1;
            end = run.disk + u64::from(run.len);
        }
        Ok((count, end))
    }

    fn decode_leaf(&mut self, n: usize, leaf: &LeafRef, stored: &[u8]) -> Result<Rc<[u8]>, OpenError> {
        let decoded = decode_leaf(stored, leaf, self.uuid_crc);
        let (entries, mended) = decoded.ok_or_else(|| self.corrupt_leaf(n, leaf, "the checksum does not match"))?;
        if mended {
            self.recovery.mended += 1;
            self.mended_leaves.push(n);
        }
        Ok(entries.into())
    }

    fn corrupt_leaf(&self, n: usize, leaf: &LeafRef, why: &'static str) -> OpenError {
        let offset = self.params().index_offset() + leaf.runs.first().map_or(0, |r| r.disk) * BLOCK64;
        OpenError::CorruptIndex { name: self.name.clone(), leaf: n as u64, offset, why }
    }

    /// Whether the blocks a record wrote hold what its checksums say.
    fn data_matches(&mut self, record: &Record) -> Result<bool, OpenError> {
        let (runs, crcs, first, held) = match record {
            Record::Stage(s) => (&s.runs, &s.crcs, s.first, &s.held[..]),
            Record::Install { placed, .. } | Record::Move { placed, .. } => (&placed.runs, &placed.crcs, 0, &[][..]),
            _ => return Ok(true),
        };
        let total = self.params().blocks();
        let mut at = 0u32;
        for run in runs {
            if run.disk + u64::from(run.len) > total {
                return Err(self.inconsistent(format!("a record names blocks {}+{} of {total}", run.disk, run.len)));
            }
            let mut bytes = Vec::new();
            let offset = self.params().data_offset() + run.disk * BLOCK64;
            self.io.read(self.arena, offset, u64::from(run.len) * BLOCK64, &mut bytes)?;
            for (crc, wanted) in block_crcs(&bytes).zip(crcs.iter().skip(at as usize)) {
                let block = first + at;
                let travels = held.iter().any(|h| h.first <= block && u64::from(block - h.first) < h.blocks());
                if !travels && crc != *wanted {
                    return Ok(false);
                }
                at += 1;
            }
        }
        Ok(true)
    }

    fn apply(&mut self, record: Record, seq: u64) -> Result<(), OpenError> {
        let applied = self.state.apply(record, seq);
        applied.map_err(|why| self.inconsistent(format!("record {seq}: {why}")))
    }

    /// The allocator.
    fn rebuild(&self) -> Result<Allocator, OpenError> {
        let mut alloc = Allocator::new(self.params().blocks());
        let mut own = |key: &ChunkKey, run: &Run| match alloc.set(*run) {
            true => Ok(()),
            false => Err(self.inconsistent(format!("blocks {}+{} of {key} have two owners", run.disk, run.len))),
        };
        for (key, item) in self.state.index.range(Bound::Unbounded) {
            owned(&item).iter().try_for_each(|run| own(&key, run))?;
        }
        for (key, side) in &self.state.staged {
            side.fresh.iter().try_for_each(|run| own(key, run))?;
        }
        Ok(alloc)
    }

    /// Brings bytes of committed chunks to their place.
    fn redo(&mut self) -> Result<(), OpenError> {
        for (key, held) in std::mem::take(&mut self.state.redo) {
            let Some(item) = self.state.index.get(&key) else { continue };
            let version = super::version_of(item);
            for h in held {
                let mut extents: Vec<Extent> = Vec::new();
                version.clip(h.first, h.first + h.blocks() as u32, &mut extents);
                for e in extents {
                    let range = e.logical..e.logical + e.len;
                    for part in held_of(h.first, std::slice::from_ref(&h.bytes), std::slice::from_ref(&range)) {
                        for (disk, crc) in (e.disk..).zip(block_crcs(&part.bytes)) {
                            self.state.table.set(disk, crc);
                        }
                        self.io.write(self.params().data_offset() + e.disk * BLOCK64, part.bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes what was kept durable, and what was dropped impossible to find again.
    fn mend(&mut self, tail: &Tail, known: u64) -> Result<Journal, OpenError> {
        let params = self.params();
        if !is(Mutation::SkipFlushAtOpen) {
            // What is redone belongs to records that must not be lost after it.
            self.io.flush()?;
        }
        self.redo()?;
        let mut journal = Journal {
            blocks: (params.journal / BLOCK64) as u32,
            head: tail.pos,
            used: tail.used,
            next_append: tail.append,
            prev: tail.prev,
            next_seq: tail.next_seq,
            durable: known,
            reported: 0,
            reported_at: None,
        };
        if tail.rewrite && !is(Mutation::KeepDroppedTail) {
            let first_seq = tail.next_seq - u64::from(tail.kept_records);
            let generation = self.superblock.generation;
            let writes = journal.append(generation, first_seq, tail.kept_records, &tail.kept, self.uuid_crc, &params, self.arena);
            for write in writes {
                self.io.run("rewriting the end of the journal", write)?;
            }
        }
        if !is(Mutation::SkipFlushAtOpen) {
            self.io.flush()?;
        }
        journal.durable = journal.last_seq();
        Ok(journal)
    }
}
