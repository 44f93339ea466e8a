//! What each journal record does to the state: the same as the call that made it did.

use catena_types::{ChainVer, ChunkKey, SessionId, SessionRow, Staged, Ver};

use super::State;
use crate::alloc::Run;
use crate::format::journal::{Held, Placed, Record, StageRecord};
use crate::format::leaf::ChunkItem;
use crate::mutation::{Mutation, is};
use crate::store::commit::{committed_of, row_of};
use crate::store::in_place::{in_use, lay, mapped};
use crate::store::{StagedEntry, version_of};
use crate::version::{Change, Version, relocated};

impl State {
    /// Applies a record; `Err` says how it contradicts what came before.
    pub(super) fn apply(&mut self, record: Record, seq: u64) -> Result<(), String> {
        match record {
            Record::Stage(stage) => self.stage(stage, seq)?,
            Record::Commit { key, ver, chain_ver } => self.commit(&key, ver, chain_ver)?,
            Record::Unstage { key, ver } => {
                // Dropped before it was recorded, if it is not there.
                if self.staged.get(&key).is_some_and(|s| s.staged.ver == ver) {
                    self.staged.remove(&key);
                }
            }
            Record::Install { key, chunk_size, committed, placed } => {
                let count = placed.crcs.len() as u32;
                let change = Change { len: committed.len, first: 0, count, runs: &placed.runs };
                let empty = Version::default();
                if empty.derived_checksum(&change, |_| 0, &placed.crcs) != committed.checksum {
                    return Err(format!("{key}: the blocks' checksums do not make the chunk's"));
                }
                self.learn(&placed.runs, &placed.crcs, 0, &[]);
                let extents = empty.derived_extents(&change);
                self.forget(&key);
                self.index.set(&key, Some(&ChunkItem { chunk_size, committed, slot: placed.slot, extents }));
            }
            Record::Purge { key } => {
                self.forget(&key);
                self.index.set(&key, None);
            }
            Record::ClearSessions => self.sessions.clear(),
            Record::PutSession { id, row } => self.row(id, row),
            Record::DropSession { id, seq } => {
                if self.sessions.get(&id).is_some_and(|row| row.seq == seq) {
                    self.sessions.remove(&id);
                }
            }
            Record::Floor(ver) => self.floor = self.floor.max(ver),
            Record::Move { key, ver, placed } => self.moved(&key, ver, &placed)?,
            Record::Scrub(mark) => self.scrub = mark,
        }
        Ok(())
    }

    fn stage(&mut self, stage: StageRecord, seq: u64) -> Result<(), String> {
        let base = self.index.get(&stage.key);
        let ver = base.as_ref().map_or(0, |b| b.committed.ver);
        if ver != stage.base {
            return Err(format!("{} is staged on version {}, and version {ver} is here", stage.key, stage.base));
        }
        if self.staged.contains_key(&stage.key) {
            return Err(format!("{} is staged twice", stage.key));
        }
        self.learn(&stage.runs, &stage.crcs, stage.first, &stage.held);
        let old_slot = base.as_ref().and_then(|b| b.slot);
        let mut version = Version::default();
        if !stage.remove {
            let count = stage.crcs.len() as u32;
            let change = Change { len: stage.len, first: stage.first, count, runs: &stage.runs };
            version.extents = base.map(version_of).unwrap_or_default().derived_extents(&change);
            (version.len, version.checksum) = (stage.len, stage.checksum);
        }
        let staged = Staged {
            ver: stage.ver,
            chain_ver: stage.chain_ver,
            len: stage.len,
            checksum: stage.checksum,
            tag: stage.tag,
            remove: stage.remove,
            durable: true,
        };
        let taken = stage.slot.map(|disk| Run { disk, len: super::super::slot_blocks(stage.chunk_size) });
        let in_place = taken.is_some() || old_slot.is_some();
        let fresh = if in_place { taken.into_iter().collect() } else { stage.runs };
        let side = StagedEntry {
            chunk_size: stage.chunk_size,
            staged,
            version: Some(version),
            slot: if stage.remove { None } else { stage.slot.or(old_slot) },
            op: 0,
            seq: Some(seq),
            fresh,
            frees: None,
            held: stage.held,
            growth: 0,
        };
        self.staged.insert(stage.key, side);
        Ok(())
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) -> Result<(), String> {
        let Some(side) = self.staged.remove(key).filter(|s| s.staged.ver == ver) else {
            return Err(format!("{key} version {ver} is committed and was not staged"));
        };
        if side.staged.remove {
            self.floor = self.floor.max(ver);
        }
        let extents = side.version.as_ref().map_or_else(Vec::new, |v| v.extents.clone());
        let new = committed_of(&side, extents, chain_ver);
        let slot = |item: &ChunkItem| item.slot;
        if self.redo.contains_key(key) && self.index.get(key).as_ref().and_then(slot) != new.as_ref().and_then(slot) {
            self.redo.remove(key);
        }
        self.index.set(key, new.as_ref());
        if let Some(new) = &new {
            // Blocks that are not in use any more may since have been written directly.
            let kept: Vec<Held> = self.redo.remove(key).unwrap_or_default();
            for held in kept {
                let kept = in_use(held.first..held.first + held.blocks() as u32, mapped(&new.extents));
                self.redo(key, super::held_of(held.first, &[held.bytes], &kept));
            }
        }
        self.redo(key, side.held.clone());
        if !is(Mutation::LoseSession) {
            self.row(side.staged.tag.session(), row_of(&side.staged, chain_ver));
        }
        Ok(())
    }

    /// The bytes go to their place at the end.
    pub(super) fn redo(&mut self, key: &ChunkKey, held: Vec<Held>) {
        if !held.is_empty() {
            let pieces = self.redo.entry(key.clone()).or_default();
            held.into_iter().for_each(|h| lay(pieces, h));
        }
    }

    fn moved(&mut self, key: &ChunkKey, ver: Ver, placed: &Placed) -> Result<(), String> {
        let item = self.index.get(key).filter(|i| i.committed.ver == ver);
        let Some(item) = item else { return Err(format!("{key} version {ver} is moved and is not there")) };
        let blocks: u64 = item.extents.iter().map(|e| u64::from(e.len)).sum();
        if blocks != placed.crcs.len() as u64 {
            return Err(format!("{key} has {blocks} blocks, and {} are moved", placed.crcs.len()));
        }
        let extents = relocated(&item.extents, &placed.runs);
        self.learn(&placed.runs, &placed.crcs, 0, &[]);
        self.index.set(key, Some(&ChunkItem { extents, ..item }));
        Ok(())
    }

    /// The chunk as a whole goes or is replaced.
    fn forget(&mut self, key: &ChunkKey) {
        self.staged.remove(key);
        self.redo.remove(key);
    }

    /// Notes the checksums of blocks at their places.
    fn learn(&mut self, runs: &[Run], crcs: &[u32], first: u32, held: &[Held]) {
        let places = runs.iter().flat_map(|run| run.disk..run.disk + u64::from(run.len));
        for ((block, disk), crc) in (first..).zip(places).zip(crcs) {
            if !held.iter().any(|h| h.first <= block && u64::from(block - h.first) < h.blocks()) {
                self.table.set(disk, *crc);
            }
        }
    }

    fn row(&mut self, id: SessionId, row: SessionRow) {
        let held = self.sessions.entry(id).or_insert(row);
        if row.seq >= held.seq {
            *held = row;
        }
    }
}
