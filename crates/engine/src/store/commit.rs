//! What ends a staged update, and the small records: commit, unstage, purge, sessions, remove floor, sync.

use catena_types::{ChainVer, ChunkKey, Committed, Seq, SessionId, SessionRow, Staged, Ver};

use super::group::Notify;
use super::in_place::{given_up, mapped, outside};
use super::{CowStore, StagedEntry, freed};
use crate::alloc::Run;
use crate::disk::Disk;
use crate::format::journal::Record;
use crate::format::leaf::ChunkItem;
use crate::version::{Extent, Version};

/// The session row a commit leaves behind.
pub(super) fn row_of(staged: &Staged, chain_ver: ChainVer) -> SessionRow {
    SessionRow { seq: staged.tag.seq, ver: staged.ver, len: staged.len, checksum: staged.checksum, chain_ver }
}

/// What a staged version is once it is committed, with these extents; nothing, for a remove.
pub(super) fn committed_of(side: &StagedEntry, extents: Vec<Extent>, chain_ver: ChainVer) -> Option<ChunkItem> {
    let s = &side.staged;
    let committed = Committed { ver: s.ver, chain_ver, len: s.len, checksum: s.checksum, tag: s.tag };
    (!s.remove).then_some(ChunkItem { chunk_size: side.chunk_size, committed, slot: side.slot, extents })
}

impl<D: Disk> CowStore<D> {
    pub(super) fn commit_staged(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        if self.failed.is_some() {
            return;
        }
        let durable = self.staged.get(key).is_some_and(|s| s.staged.durable && s.staged.ver == ver);
        let Some(mut side) = durable.then(|| self.take_staged(key, ver)).flatten() else {
            return self.misuse("a commit of what is not staged and durable", key, ver);
        };
        // What a copy-on-write update frees has been found when it was staged.
        let mut version = side.version.take().unwrap_or_default();
        // Only an apply needs them too.
        let extents = if side.held.is_empty() { std::mem::take(&mut version.extents) } else { version.extents.clone() };
        let (frees, new) = (side.frees.take(), committed_of(&side, extents, chain_ver));
        let old = if frees.is_some() { None } else { self.index.get(key) };
        let frees = frees.unwrap_or_else(|| freed(old.as_ref(), new.as_ref()));
        self.index.set(key, new.as_ref());
        let staged = side.staged;
        if staged.remove {
            self.floor = self.floor.max(ver);
        }
        if let Some(overlay) = self.overlay.get_mut(key) {
            overlay.clip(new.as_ref().map_or(&[], |n| &n.extents));
        }
        if new.is_none() || old.as_ref().is_some_and(|o| o.slot.is_some() && o.slot != side.slot) {
            self.overlay.remove(key);
        }
        let held = std::mem::take(&mut side.held);
        let in_place = |item: &ChunkItem| item.slot.is_some() && item.slot == side.slot;
        let cut = match (&old, &new) {
            (Some(old), Some(new)) if in_place(old) => given_up(&old.extents, &new.extents),
            _ => Vec::new(),
        };
        self.note_session(staged.tag.session(), row_of(&staged, chain_ver));
        self.stats.committed += 1;
        self.enqueue(Some(&Record::Commit { key: key.clone(), ver, chain_ver }), false, Notify::None, 0, frees);
        self.queue_apply(key, version, held, cut);
    }

    pub(super) fn drop_staged(&mut self, key: &ChunkKey, ver: Ver) {
        if self.failed.is_some() {
            return;
        }
        let Some(side) = self.take_staged(key, ver) else {
            // Ends like any other: whoever waits must not wait for ever.
            self.misuse("an unstage of what is not staged", key, ver);
            return self.enqueue(None, true, Notify::Unstaged { key: key.clone(), ver }, 0, Vec::new());
        };
        // In a slot that stays, what was written of it may still be on its way, or may have to be there after a crash.
        let stays = side.slot.filter(|_| side.fresh.is_empty());
        let mut written = Vec::new();
        if let (Some(disk), Some(version)) = (stays, &side.version) {
            let held = side.held.iter().map(|h| h.first..h.first + h.blocks() as u32);
            let base = self.index.get(key).filter(|i| i.slot == Some(disk)).map_or_else(Vec::new, |i| i.extents);
            let not_direct: Vec<_> = held.chain(mapped(&base)).collect();
            written = mapped(&version.extents).flat_map(|r| outside(r, &not_direct)).collect();
        }
        let frees = self.withdraw(side);
        let record = Record::Unstage { key: key.clone(), ver };
        self.enqueue(Some(&record), true, Notify::Unstaged { key: key.clone(), ver }, 0, frees);
        self.queue_apply(key, Version::default(), Vec::new(), written);
    }

    pub(super) fn purge_chunk(&mut self, id: u64, key: &ChunkKey) {
        if self.failed.is_some() {
            return;
        }
        let frees: Vec<Run> = self.replace_entry(key, None);
        self.enqueue(Some(&Record::Purge { key: key.clone() }), true, Notify::Synced { id }, 0, frees);
    }

    /// Merges a row: the higher `seq` stays; an equal one is replaced, it is the same update.
    pub(super) fn note_session(&mut self, id: SessionId, row: SessionRow) {
        let held = self.sessions.entry(id).or_insert(row);
        if row.seq >= held.seq {
            *held = row;
        }
    }

    pub(super) fn merge_session(&mut self, id: SessionId, row: SessionRow) {
        if self.failed.is_none() && self.sessions.get(&id).is_none_or(|held| row.seq > held.seq) {
            self.note_session(id, row);
            self.enqueue(Some(&Record::PutSession { id, row }), false, Notify::None, 0, Vec::new());
        }
    }

    pub(super) fn forget_sessions(&mut self) {
        if self.failed.is_none() {
            self.sessions.clear();
            self.enqueue(Some(&Record::ClearSessions), false, Notify::None, 0, Vec::new());
        }
    }

    pub(super) fn forget_session(&mut self, id: SessionId, seq: Seq) {
        if self.failed.is_none() && self.sessions.get(&id).is_some_and(|row| row.seq == seq) {
            self.sessions.remove(&id);
            self.enqueue(Some(&Record::DropSession { id, seq }), false, Notify::None, 0, Vec::new());
        }
    }

    pub(super) fn raise_floor(&mut self, floor: Ver) {
        if self.failed.is_none() && floor > self.floor {
            self.floor = floor;
            self.enqueue(Some(&Record::Floor(floor)), false, Notify::None, 0, Vec::new());
        }
    }

    pub(super) fn start_sync(&mut self, id: u64) {
        self.enqueue(None, true, Notify::Synced { id }, 0, Vec::new());
    }
}
