//! The state that checkpoint and journal describe, in plain maps.
//!
//! Every chunk is taken apart into its blocks for a change and put together again: slower than the engine does it, and
//! with nothing in common.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use catena_types::crc::{combine, zeroes};
use catena_types::limits::BLOCK;
use catena_types::{ChainVer, ChunkKey, Committed, SessionId, SessionRow, Staged, Ver};

use super::BLOCK64;
use crate::alloc::Run;
use crate::format::StoreKind;
use crate::format::journal::{Held, Placed, Record, ScrubMark, StageRecord};
use crate::format::leaf::ChunkItem;
use crate::format::slice::StagedItem;
use crate::version::Extent;

/// Blocks of a chunk whose bytes are not at their place, by number within the chunk.
pub(super) type Blocks = BTreeMap<u32, Bytes>;

/// An update that is staged.
#[derive(Clone, Debug)]
pub(super) struct StagedChunk {
    pub(super) chunk_size: u32,
    pub(super) staged: Staged,
    pub(super) extents: Vec<Extent>,
    /// Blocks only this version uses.
    pub(super) fresh: Vec<Run>,
    pub(super) slot: Option<u64>,
    /// Blocks whose bytes are in the journal or the checkpoint.
    pub(super) held: Blocks,
}

/// The state of a target.
pub(super) struct Model {
    kind: StoreKind,
    pub(super) chunks: BTreeMap<ChunkKey, ChunkItem>,
    pub(super) staged: BTreeMap<ChunkKey, StagedChunk>,
    /// Blocks of committed chunks that are not at their place.
    pub(super) waiting: BTreeMap<ChunkKey, Blocks>,
    pub(super) sessions: BTreeMap<SessionId, SessionRow>,
    pub(super) floor: Ver,
    pub(super) scrub: ScrubMark,
    /// Checksums of data blocks that the journal says, which the table need not yet.
    pub(super) crcs: BTreeMap<u64, u32>,
}

/// Blocks that hold `len` bytes.
pub(super) fn blocks_of(len: u32) -> u32 {
    len.div_ceil(BLOCK)
}

/// The data blocks of runs, in order.
pub(super) fn places(runs: &[Run]) -> impl Iterator<Item = u64> + '_ {
    runs.iter().flat_map(|run| run.disk..run.disk.saturating_add(u64::from(run.len)))
}

/// Where each block of a chunk lies.
pub(super) fn unpacked(extents: &[Extent]) -> BTreeMap<u32, u64> {
    let one = |e: &Extent| {
        let (logical, disk) = (e.logical, e.disk);
        (0..e.len).map(move |i| (logical + i, disk + u64::from(i)))
    };
    extents.iter().flat_map(one).collect()
}

fn packed(blocks: &BTreeMap<u32, u64>) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for (&logical, &disk) in blocks {
        match out.last_mut() {
            Some(e) if e.logical + e.len == logical && e.disk + u64::from(e.len) == disk => e.len += 1,
            _ => out.push(Extent { logical, len: 1, disk }),
        }
    }
    out
}

/// The held bytes, block by block.
fn spread(held: &[Held]) -> Blocks {
    let block = BLOCK as usize;
    let one = |h: &Held| {
        let (first, bytes) = (h.first, h.bytes.clone());
        (0..bytes.len() / block).map(move |i| (first.saturating_add(i as u32), bytes.slice(i * block..(i + 1) * block)))
    };
    held.iter().flat_map(one).collect()
}

/// Checksum of the zero-padded blocks of a chunk.
fn padded(len: u32, checksum: u32) -> u32 {
    let pad = u64::from(blocks_of(len)) * BLOCK64 - u64::from(len);
    combine(checksum, zeroes(pad), pad)
}

fn folded(crcs: &[u32]) -> u32 {
    crcs.iter().fold(0, |sum, &crc| combine(sum, crc, BLOCK64))
}

impl Model {
    pub(super) fn new(kind: StoreKind) -> Model {
        Model {
            kind,
            chunks: BTreeMap::new(),
            staged: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sessions: BTreeMap::new(),
            floor: 0,
            scrub: ScrubMark::default(),
            crcs: BTreeMap::new(),
        }
    }

    /// What is there of some chunks.
    pub(super) fn part<'a>(&self, keys: impl Iterator<Item = &'a ChunkKey>) -> Model {
        let mut part = Model::new(self.kind);
        for key in keys {
            part.chunks.extend(self.chunks.get(key).map(|item| (key.clone(), item.clone())));
            part.staged.extend(self.staged.get(key).map(|side| (key.clone(), side.clone())));
            part.waiting.extend(self.waiting.get(key).map(|blocks| (key.clone(), blocks.clone())));
        }
        part
    }

    /// The data blocks whose bytes a version has nowhere else.
    pub(super) fn read_in_place(&self) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        for (key, item) in &self.chunks {
            let waiting = self.waiting.get(key);
            let there = unpacked(&item.extents).into_iter().filter(|(block, _)| waiting.is_none_or(|w| !w.contains_key(block)));
            out.extend(there.map(|(_, disk)| disk));
        }
        for (key, side) in &self.staged {
            let same_slot = self.chunks.get(key).is_some_and(|item| item.slot == side.slot);
            let waiting = self.waiting.get(key).filter(|_| same_slot);
            let elsewhere = |block: &u32| side.held.contains_key(block) || waiting.is_some_and(|w| w.contains_key(block));
            out.extend(unpacked(&side.extents).into_iter().filter(|(block, _)| !elsewhere(block)).map(|(_, disk)| disk));
        }
        out
    }

    /// A staged update of the checkpoint; `false` if there is one for this chunk already.
    pub(super) fn load_staged(&mut self, key: ChunkKey, item: StagedItem) -> bool {
        let StagedItem { chunk_size, staged, extents, fresh, slot, held } = item;
        let held = spread(&held);
        self.staged.insert(key, StagedChunk { chunk_size, staged, extents, fresh, slot, held }).is_none()
    }

    /// Bytes of the checkpoint that are not at their place.
    pub(super) fn load_redo(&mut self, key: ChunkKey, held: &[Held]) {
        self.waiting.entry(key).or_default().extend(spread(held));
    }

    /// Applies a record; `Err` says how it contradicts what came before.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Stage(stage) => self.stage(stage)?,
            Record::Commit { key, ver, chain_ver } => self.commit(key, *ver, *chain_ver)?,
            Record::Unstage { key, ver } => {
                // An update that was dropped before it had a record is not there.
                if self.staged.get(key).is_some_and(|s| s.staged.ver == *ver) {
                    self.staged.remove(key);
                }
            }
            Record::Install { key, chunk_size, committed, placed } => self.install(key, *chunk_size, *committed, placed)?,
            Record::Purge { key } => self.forget(key),
            Record::ClearSessions => self.sessions.clear(),
            Record::PutSession { id, row } => self.row(*id, *row),
            Record::DropSession { id, seq } => {
                if self.sessions.get(id).is_some_and(|row| row.seq == *seq) {
                    self.sessions.remove(id);
                }
            }
            Record::Floor(ver) => self.floor = self.floor.max(*ver),
            Record::Move { key, ver, placed } => self.moved(key, *ver, placed)?,
            Record::Scrub(mark) => self.scrub = mark.clone(),
        }
        Ok(())
    }

    fn stage(&mut self, stage: &StageRecord) -> Result<(), String> {
        let key = &stage.key;
        let base = self.chunks.get(key);
        let (ver, slot) = base.map_or((0, None), |b| (b.committed.ver, b.slot));
        if ver != stage.base {
            return Err(format!("{key} is staged on version {}, and version {ver} is here", stage.base));
        }
        if self.staged.contains_key(key) {
            return Err(format!("{key} is staged twice"));
        }
        let held = spread(&stage.held);
        let mut blocks = BTreeMap::new();
        if !stage.remove {
            blocks = base.map_or_else(BTreeMap::new, |b| unpacked(&b.extents));
            blocks.retain(|&block, _| block < blocks_of(stage.len));
        }
        for ((block, disk), &crc) in (stage.first..).zip(places(&stage.runs)).zip(&stage.crcs) {
            blocks.insert(block, disk);
            if !held.contains_key(&block) {
                self.crcs.insert(disk, crc);
            }
        }
        let own = stage.slot.map(|disk| Run { disk, len: stage.chunk_size / BLOCK });
        let fresh = match self.kind {
            StoreKind::Cow => stage.runs.clone(),
            StoreKind::InPlace => own.into_iter().collect(),
        };
        let staged = Staged {
            ver: stage.ver,
            chain_ver: stage.chain_ver,
            len: stage.len,
            checksum: stage.checksum,
            tag: stage.tag,
            remove: stage.remove,
            durable: true,
        };
        let slot = if stage.remove { None } else { stage.slot.or(slot) };
        let side = StagedChunk { chunk_size: stage.chunk_size, staged, extents: packed(&blocks), fresh, slot, held };
        self.staged.insert(key.clone(), side);
        Ok(())
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) -> Result<(), String> {
        let Some(side) = self.staged.remove(key).filter(|s| s.staged.ver == ver) else {
            return Err(format!("{key} version {ver} is committed and was not staged"));
        };
        let s = side.staged;
        let row = SessionRow { seq: s.tag.seq, ver, len: s.len, checksum: s.checksum, chain_ver };
        self.row(s.tag.session(), row);
        if s.remove {
            self.floor = self.floor.max(ver);
            self.chunks.remove(key);
            self.waiting.remove(key);
            return Ok(());
        }
        let committed = Committed { ver, chain_ver, len: s.len, checksum: s.checksum, tag: s.tag };
        let item = ChunkItem { chunk_size: side.chunk_size, committed, slot: side.slot, extents: side.extents };
        let mut waiting = self.waiting.remove(key).unwrap_or_default();
        let old = self.chunks.insert(key.clone(), item);
        if old.is_none_or(|old| old.slot != side.slot) {
            waiting.clear();
        }
        waiting.extend(side.held);
        self.waiting.insert(key.clone(), waiting);
        self.settle(key);
        Ok(())
    }

    /// Bytes of blocks that the committed version does not use are not waited for.
    pub(super) fn settle(&mut self, key: &ChunkKey) {
        let used = self.chunks.get(key).map_or_else(BTreeMap::new, |item| unpacked(&item.extents));
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.retain(|block, _| used.contains_key(block));
            if waiting.is_empty() {
                self.waiting.remove(key);
            }
        }
    }

    fn install(&mut self, key: &ChunkKey, chunk_size: u32, committed: Committed, placed: &Placed) -> Result<(), String> {
        if folded(&placed.crcs) != padded(committed.len, committed.checksum) {
            return Err(format!("{key}: the blocks' checksums do not make the chunk's"));
        }
        self.forget(key);
        let blocks = (0..).zip(places(&placed.runs)).collect();
        self.crcs.extend(places(&placed.runs).zip(placed.crcs.iter().copied()));
        let item = ChunkItem { chunk_size, committed, slot: placed.slot, extents: packed(&blocks) };
        self.chunks.insert(key.clone(), item);
        Ok(())
    }

    fn forget(&mut self, key: &ChunkKey) {
        self.chunks.remove(key);
        self.staged.remove(key);
        self.waiting.remove(key);
    }

    fn moved(&mut self, key: &ChunkKey, ver: Ver, placed: &Placed) -> Result<(), String> {
        let Some(item) = self.chunks.get_mut(key).filter(|item| item.committed.ver == ver) else {
            return Err(format!("{key} version {ver} is moved and is not there"));
        };
        let mut blocks = unpacked(&item.extents);
        if blocks.len() != placed.crcs.len() {
            return Err(format!("{key} has {} blocks, and {} are moved", blocks.len(), placed.crcs.len()));
        }
        for ((disk, place), &crc) in blocks.values_mut().zip(places(&placed.runs)).zip(&placed.crcs) {
            *disk = place;
            self.crcs.insert(place, crc);
        }
        item.extents = packed(&blocks);
        Ok(())
    }

    fn row(&mut self, id: SessionId, row: SessionRow) {
        if self.sessions.get(&id).is_none_or(|held| row.seq >= held.seq) {
            self.sessions.insert(id, row);
        }
    }
}
