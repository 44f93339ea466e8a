//! Opening a target: superblock, checkpoint, journal, allocator.
//!
//! What must hold (amendment M6): every append carries the record number that was known durable when it was issued, and
//! one append is in flight at a time. Only records later than the highest such number found anywhere in the journal may
//! be dropped, from the first one on that is not whole or whose data does not match; they were never acknowledged. A
//! record at or before it that is missing is damage, named and refused; one whose data has rotted is kept, and reads say
//! so. Everything kept is made durable before the target is used. Nothing panics on what is read here.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_types::limits::BLOCK;
use catena_types::{SessionId, SessionRow, Ver};

use super::create::uuid_crc;
use super::journal::Journal;
use super::{BLOCK64, CowStore, Entry, Recovery, StagedEntry, Stats};
use crate::alloc::Allocator;
use crate::disk::{Disk, Io, IoOp};
use crate::error::OpenError;
use crate::format::codec::Get;
use crate::format::{
    Append, CheckpointItem, FORMAT, HEADER_BYTES, Params, Record, SUPERBLOCK_OFFSETS, SuperProblem, Superblock, append_header,
    decode_slice, seal,
};
use crate::version::block_crcs;

/// Bytes read at once.
const READ_STEP: u64 = 1 << 20;

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
    index: BTreeMap<catena_types::ChunkKey, Entry>,
    sessions: BTreeMap<SessionId, SessionRow>,
    floor: Ver,
}

/// Where replay ended.
struct Tail {
    /// Journal block of the append that was not taken whole.
    pos: u32,
    /// Blocks from the replay start to it.
    used: u32,
    append: u64,
    next_seq: u64,
    /// Its records that were taken.
    kept: Vec<u8>,
    kept_records: u32,
    dropped: u64,
    /// Whether an append is there that has to be written again without its dropped records.
    rewrite: bool,
}

struct Opener<'a, D: Disk> {
    io: Blocking<'a, D>,
    arena: &'a Arena,
    name: String,
    superblock: Superblock,
    uuid_crc: u32,
    state: State,
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
            recovery: Recovery { superblock_repaired: !repair.is_empty(), ..Recovery::default() },
        };
        opener.load_checkpoint()?;
        let (tail, known) = opener.replay()?;
        let (alloc, index_bytes, chunks) = opener.rebuild()?;
        let journal = opener.mend(&tail, known)?;
        for copy in repair.drain(..) {
            opener.io.write_superblock(&superblock, copy)?;
        }
        let Opener { uuid_crc, state, recovery, .. } = opener;
        if recovery.dropped > 0 {
            tracing::info!(target_disk = %disk.name(), dropped = recovery.dropped, "records never acknowledged were dropped");
        }
        Ok(CowStore {
            disk,
            arena: arena.clone(),
            superblock,
            uuid_crc,
            index: state.index,
            sessions: state.sessions,
            floor: state.floor,
            chunks,
            index_bytes,
            alloc,
            reserved: 0,
            limbo: VecDeque::new(),
            limbo_blocks: 0,
            journal,
            queue: VecDeque::new(),
            group: None,
            checkpoint: None,
            pace: Default::default(),
            ops: BTreeMap::new(),
            next_op: 1,
            ios: BTreeMap::new(),
            next_io: 0,
            done: Vec::new(),
            completions: Vec::new(),
            failed: None,
            failure_reported: false,
            now: 0,
            lazy_since: None,
            stats: Stats::default(),
            recovery,
        })
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
        let (mut window, mut fetched, mut at) = (Vec::new(), 0u64, 0u64);
        for slice in 0..c.slices {
            let (items, size) = loop {
                match decode_slice(&window, c.generation, slice, self.uuid_crc) {
                    Ok(decoded) => break decoded,
                    // A slice may be longer than what has been fetched.
                    Err(_) if fetched < c.bytes => {
                        let n = READ_STEP.max(window.len() as u64).min(c.bytes - fetched);
                        self.io.read(self.arena, base + fetched, n, &mut window)?;
                        fetched += n;
                    }
                    Err(why) => {
                        let name = self.name.clone();
                        return Err(OpenError::CorruptCheckpoint { name, slice, offset: base + at, why });
                    }
                }
            };
            window.drain(..size.min(window.len()));
            at += size as u64;
            for item in items {
                self.load_item(item);
            }
        }
        self.recovery.checkpoint_chunks = self.state.index.len() as u64;
        Ok(())
    }

    fn load_item(&mut self, item: CheckpointItem) {
        match item {
            CheckpointItem::Floor(floor) => self.state.floor = floor,
            CheckpointItem::Session(id, row) => {
                self.state.sessions.insert(id, row);
            }
            CheckpointItem::Chunk { key, chunk_size, committed, staged } => {
                let committed = committed.map(|(c, v)| (c, Rc::new(v.into_version())));
                let staged = staged.map(|s| {
                    let version = Rc::new(s.version.into_version());
                    let fresh = version.not_in(committed.as_ref().map(|(_, v)| &**v));
                    StagedEntry { staged: s.staged, version: Some(version), op: 0, seq: Some(0), fresh }
                });
                self.state.index.insert(key, Entry { chunk_size, committed, staged });
            }
        }
    }

    /// Applies the journal; also gives the last record known durable.
    fn replay(&mut self) -> Result<(Tail, u64), OpenError> {
        let params = self.params();
        let mut ring = Vec::with_capacity(params.journal as usize);
        self.io.read(self.arena, params.journal_offset(), params.journal, &mut ring)?;
        let blocks = (params.journal / BLOCK64) as u32;
        let known = self.survey(&ring, blocks)?;
        let c = self.superblock.checkpoint;
        let mut tail = Tail {
            pos: c.pos,
            used: 0,
            append: c.append,
            next_seq: c.seq + 1,
            kept: Vec::new(),
            kept_records: 0,
            dropped: 0,
            rewrite: false,
        };
        while tail.used < blocks {
            let Some(append) = header_at(&ring, tail.pos, self.uuid_crc) else { break };
            if append.append != tail.append || append.first_seq != tail.next_seq {
                // Of an earlier lap; or the end was rewritten and this is what was behind it.
                break;
            }
            let Some(body) = body_of(&ring, blocks, &append, self.uuid_crc).filter(|_| append.blocks() <= blocks - tail.used)
            else {
                tail.rewrite = true;
                tail.dropped = u64::from(append.records);
                break;
            };
            if !self.apply_append(&append, &body, known, &mut tail)? {
                tail.rewrite = true;
                break;
            }
            tail.pos = (tail.pos + append.blocks()) % blocks;
            tail.used += append.blocks();
            tail.append += 1;
            (tail.kept, tail.kept_records) = (Vec::new(), 0);
        }
        if known >= tail.next_seq {
            let offset = params.journal_offset() + u64::from(tail.pos) * BLOCK64;
            let why = format!("records {} to {known} were durable and are not there", tail.next_seq);
            return Err(OpenError::CorruptJournal { name: self.name.clone(), offset, why });
        }
        self.recovery.dropped = tail.dropped;
        Ok((tail, known))
    }

    /// Looks at every append header in the ring, of any lap: the highest record known durable; and whether the superblock
    /// is older than what was written under it.
    fn survey(&self, ring: &[u8], blocks: u32) -> Result<u64, OpenError> {
        let mut known = self.superblock.checkpoint.seq;
        for pos in 0..blocks {
            let Some(append) = header_at(ring, pos, self.uuid_crc) else { continue };
            known = known.max(append.durable);
            if append.generation > self.superblock.generation {
                return Err(OpenError::StaleSuperblock {
                    name: self.name.clone(),
                    superblock: self.superblock.generation,
                    journal: append.generation,
                });
            }
        }
        Ok(known)
    }

    /// Applies the records of an append; `false` if a record that was not known durable has no matching data: it and what
    /// follows are dropped.
    fn apply_append(&mut self, append: &Append, body: &[u8], known: u64, tail: &mut Tail) -> Result<bool, OpenError> {
        let offset = self.params().journal_offset() + u64::from(append.pos) * BLOCK64;
        let mut get = Get(body);
        for n in 0..append.records {
            let start = body.len() - get.0.len();
            let Some((record, size)) = Record::decode(&mut get) else {
                let why = format!("record {} makes no sense though its checksum matches", tail.next_seq);
                return Err(OpenError::CorruptJournal { name: self.name.clone(), offset, why });
            };
            if tail.next_seq > known && !self.data_matches(&record)? {
                tail.dropped = u64::from(append.records - n);
                return Ok(false);
            }
            self.apply(record, tail.next_seq)?;
            tail.next_seq += 1;
            tail.kept.extend_from_slice(&body[start..start + size]);
            tail.kept_records += 1;
            self.recovery.replayed += 1;
        }
        Ok(true)
    }

    /// Whether the blocks a record wrote hold what its checksums say.
    fn data_matches(&mut self, record: &Record) -> Result<bool, OpenError> {
        let (runs, crcs) = match record {
            Record::Stage(s) => (&s.runs, &s.crcs),
            Record::Install { runs, crcs, .. } => (runs, crcs),
            _ => return Ok(true),
        };
        let total = self.params().capacity / BLOCK64;
        let mut rest = &crcs[..];
        for run in runs {
            if run.disk + u64::from(run.len) > total {
                return Err(self.inconsistent(format!("a record names blocks {}+{} of {total}", run.disk, run.len)));
            }
            let mut bytes = Vec::new();
            let offset = self.params().data_offset() + run.disk * BLOCK64;
            self.io.read(self.arena, offset, u64::from(run.len) * u64::from(BLOCK), &mut bytes)?;
            let (here, after) = rest.split_at(run.len as usize);
            if !block_crcs(&bytes).eq(here.iter().copied()) {
                return Ok(false);
            }
            rest = after;
        }
        Ok(true)
    }

    fn apply(&mut self, record: Record, seq: u64) -> Result<(), OpenError> {
        let applied = self.state.apply(record, seq);
        applied.map_err(|why| self.inconsistent(format!("record {seq}: {why}")))
    }

    /// The allocator, and the counts of the index.
    fn rebuild(&self) -> Result<(Allocator, u64, u64), OpenError> {
        let mut alloc = Allocator::new(self.params().capacity / BLOCK64);
        let (mut bytes, mut chunks) = (0, 0);
        for (key, entry) in &self.state.index {
            let committed = entry.committed.iter().flat_map(|(_, v)| v.not_in(None));
            let staged = entry.staged.iter().flat_map(|s| s.fresh.iter().copied());
            for run in committed.chain(staged) {
                if !alloc.set(run) {
                    return Err(self.inconsistent(format!("blocks {}+{} of {key} have two owners", run.disk, run.len)));
                }
            }
            bytes += entry.item_bytes(key);
            chunks += u64::from(entry.committed.is_some());
        }
        Ok((alloc, bytes, chunks))
    }

    /// Makes what was kept durable, and what was dropped impossible to find again.
    fn mend(&mut self, tail: &Tail, known: u64) -> Result<Journal, OpenError> {
        let params = self.params();
        let mut journal = Journal {
            blocks: (params.journal / BLOCK64) as u32,
            head: tail.pos,
            used: tail.used,
            next_append: tail.append,
            next_seq: tail.next_seq,
            durable: known,
        };
        if tail.rewrite {
            let append = Append {
                generation: self.superblock.generation,
                first_seq: tail.next_seq - u64::from(tail.kept_records),
                records: tail.kept_records,
                append: 0,
                durable: 0,
                body: 0,
                body_crc: 0,
                pos: 0,
            };
            for write in journal.append(append, &tail.kept, self.uuid_crc, &params, self.arena) {
                self.io.run("rewriting the end of the journal", write)?;
            }
        }
        self.io.flush()?;
        journal.durable = journal.last_seq();
        Ok(journal)
    }
}

fn header_at(ring: &[u8], pos: u32, uuid_crc: u32) -> Option<Append> {
    append_header(ring.get(pos as usize * BLOCK as usize..)?, pos, uuid_crc)
}

/// The records of an append, if they are whole.
fn body_of(ring: &[u8], blocks: u32, append: &Append, uuid_crc: u32) -> Option<Bytes> {
    if append.blocks() > blocks {
        return None;
    }
    let start = append.pos as usize * BLOCK as usize + HEADER_BYTES;
    let first = (append.body as usize).min(ring.len() - start);
    let mut body = ring[start..start + first].to_vec();
    body.extend_from_slice(&ring[..append.body as usize - first]);
    (seal(uuid_crc, &body) == append.body_crc).then(|| body.into())
}

mod apply;
