//! Opening a target: superblock, checkpoint, journal, allocator.
//!
//! What must hold (amendment M6): every append carries the record number that was known durable when it was issued, and
//! one append is in flight at a time. Only records later than the highest such number found anywhere in the journal may
//! be dropped, from the first one on that is not whole or whose data does not match; they were never acknowledged. A
//! record at or before it that is missing is damage, named and refused; one whose data has rotted is kept, and reads say
//! so. Everything kept is made durable before the target is used. Nothing panics on what is read here.

mod apply;
mod checkpoint;
mod io;
mod replay;
mod tail;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use catena_arena::Arena;
use catena_types::{ChunkKey, SessionId, SessionRow, Ver};

use super::create::uuid_crc;
use super::in_place::{held_of, slot_blocks};
use super::index::{Index, Place};
use super::journal::Journal;
use super::scrub::Scrub;
use super::table::Table;
use super::{BLOCK64, CowStore, Recovery, StagedEntry, Stats};
use crate::alloc::{Allocator, Run};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::codec::Get;
use crate::format::journal::{Held, ScrubMark};
use crate::format::leaf::{ChunkItem, next_entry};
use crate::format::superblock::{SUPERBLOCK_OFFSETS, SuperProblem, Superblock};
use crate::format::{FORMAT, Params};
use crate::metrics::Metrics;
use crate::mutation::{Mutation, is};
use crate::version::{Extent, block_crcs};
use io::READ_STEP;
pub(super) use io::{Blocking, io_error};
use replay::Tail;

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

/// What was found, ready to be used.
struct Opened {
    superblock: Superblock,
    uuid_crc: u32,
    state: State,
    image: Vec<Rc<Place>>,
    index_alloc: Allocator,
    alloc: Allocator,
    journal: Journal,
    recovery: Recovery,
}

impl<D: Disk> CowStore<D> {
    /// Opens a target. Blocks until it can be used.
    ///
    /// # Errors
    /// What is wrong with it, where, and what to do next.
    pub fn open(mut disk: D, arena: &Arena) -> Result<CowStore<D>, OpenError> {
        let opened = Opener::open(Blocking::new(&mut disk), arena)?;
        let name = disk.name();
        let mut store = CowStore::of(disk, arena, opened);
        let Recovery { dropped, mended, unreadable, .. } = store.recovery;
        if dropped > 0 {
            tracing::info!(target_disk = %name, dropped, "records never acknowledged were dropped");
        }
        if mended > 0 {
            // What is whole only thanks to its parity is written anew, while that is so.
            tracing::warn!(target_disk = %name, mended, unreadable, "bad blocks were mended from their parity");
            store.start_checkpoint();
        }
        Ok(store)
    }

    fn of(disk: D, arena: &Arena, opened: Opened) -> CowStore<D> {
        let Opened { superblock, uuid_crc, state, image, index_alloc, alloc, journal, recovery } = opened;
        let punch = super::punch::Punch::new(&alloc);
        CowStore {
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
            patches: BTreeMap::new(),
            table: state.table,
            loads: BTreeMap::new(),
            overlay: BTreeMap::new(),
            applies: VecDeque::new(),
            sessions: state.sessions,
            floor: state.floor,
            alloc,
            reserved: 0,
            disk_full: None,
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
            prepare: super::prepare::Prepare::default(),
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
            stats: Stats { read_errors: recovery.unreadable, ..Stats::default() },
            metrics: Metrics::default(),
            recovery,
        }
    }
}

/// The newest good copy, and which copies have to be written again.
fn read_superblock<D: Disk>(io: &mut Blocking<'_, D>, arena: &Arena) -> Result<(Superblock, Vec<usize>), OpenError> {
    let name = io.name();
    let mut copies = Vec::new();
    let mut refused = None;
    for offset in SUPERBLOCK_OFFSETS {
        copies.push(match io.block(arena, offset) {
            Ok(block) => Superblock::decode(&block),
            Err(e) => {
                refused = Some(e);
                Err(SuperProblem::Damaged)
            }
        });
    }
    let best = copies.iter().flatten().max_by_key(|s| s.generation).copied();
    if let Some(best) = best {
        let repair = (0..copies.len()).filter(|&i| copies[i] != Ok(best)).collect();
        return Ok((best, repair));
    }
    if let Some(error) = refused {
        return Err(error);
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

impl<'a, D: Disk> Opener<'a, D> {
    fn open(mut io: Blocking<'a, D>, arena: &'a Arena) -> Result<Opened, OpenError> {
        let (superblock, repair) = read_superblock(&mut io, arena)?;
        let mut opener = Opener {
            name: io.name(),
            io,
            arena,
            uuid_crc: uuid_crc(&superblock.params),
            superblock,
            state: State::default(),
            image: Vec::new(),
            mended_leaves: Vec::new(),
            index_alloc: Allocator::new(superblock.params.index / BLOCK64),
            recovery: Recovery { superblock_repaired: !repair.is_empty(), ..Recovery::default() },
        };
        opener.load_checkpoint()?;
        let tail = opener.replay()?;
        let alloc = opener.rebuild()?;
        let journal = opener.mend(tail)?;
        for copy in repair {
            opener.io.write_superblock(&superblock, copy)?;
        }
        let Opener { io, uuid_crc, state, image, index_alloc, recovery, .. } = opener;
        let recovery = Recovery { unreadable: io.unreadable, ..recovery };
        Ok(Opened { superblock, uuid_crc, state, image, index_alloc, alloc, journal, recovery })
    }

    fn params(&self) -> Params {
        self.superblock.params
    }

    fn inconsistent(&self, why: impl Into<String>) -> OpenError {
        OpenError::Inconsistent { name: self.name.clone(), why: why.into() }
    }

    /// The allocator.
    fn rebuild(&mut self) -> Result<Allocator, OpenError> {
        let mut alloc = Allocator::new(self.params().blocks());
        let mut shared = None;
        let mut own = |key: &[u8], run: Run| {
            if !alloc.set(run) && shared.is_none() {
                shared = Some(format!("blocks {}+{} of {} have two owners", run.disk, run.len, key.escape_ascii()));
            }
        };
        for leaf in self.state.index.leaves_mut() {
            let mut get = Get(&leaf.entries);
            while let Some((key, mut fields)) = next_entry(&mut get) {
                match ChunkItem::decode(&mut fields) {
                    Some(ChunkItem { slot: Some(disk), chunk_size, .. }) => own(key, Run { disk, len: slot_blocks(chunk_size) }),
                    Some(item) => item.extents.iter().for_each(|e| own(key, Run { disk: e.disk, len: e.len })),
                    None => {}
                }
            }
        }
        for (key, side) in &self.state.staged {
            side.fresh.iter().for_each(|run| own(key.as_bytes(), *run));
        }
        match shared {
            Some(why) => Err(self.inconsistent(why)),
            None => Ok(alloc),
        }
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
    fn mend(&mut self, tail: Tail) -> Result<Journal, OpenError> {
        let params = self.params();
        if !is(Mutation::SkipFlushAtOpen) {
            // What is redone belongs to records that must not be lost after it.
            self.io.flush()?;
        }
        self.redo()?;
        for (pos, block) in tail.odd {
            self.io.write(params.journal_offset() + u64::from(pos) * BLOCK64, block.into())?;
        }
        let mut journal = Journal {
            blocks: (params.journal / BLOCK64) as u32,
            head: tail.end.pos,
            used: tail.end.used,
            next_append: tail.end.append,
            prev: tail.end.prev,
            next_seq: tail.end.next_seq + u64::from(tail.kept_records),
            durable: tail.known,
            said: tail.known,
            saying: VecDeque::new(),
            reported: 0,
            reported_at: None,
        };
        if tail.rewrite && !is(Mutation::KeepDroppedTail) {
            let (first_seq, records) = (tail.end.next_seq, tail.kept_records);
            let generation = self.superblock.generation;
            let writes = journal.append(generation, first_seq, records, &tail.kept, self.uuid_crc, &params, self.arena);
            for write in writes {
                self.io.run(format_args!("rewriting the end of the journal"), write)?;
            }
        }
        if !is(Mutation::SkipFlushAtOpen) {
            self.io.flush()?;
        }
        journal.note_durable(journal.last_seq());
        Ok(journal)
    }
}
