//! What ends a staged update, and the small records: commit, unstage, purge, sessions, remove floor, sync.

use catena_types::{ChainVer, ChunkKey, Committed, SessionId, SessionRow, Staged, Ver};

use super::group::Notify;
use super::{CowStore, Entry};
use crate::alloc::Run;
use crate::disk::Disk;
use crate::format::Record;

/// The session row a commit leaves behind.
pub(super) fn row_of(staged: &Staged, chain_ver: ChainVer) -> SessionRow {
    SessionRow { seq: staged.tag.seq, ver: staged.ver, len: staged.len, checksum: staged.checksum, chain_ver }
}

/// The staged version becomes the committed one (or nothing, for a remove); gives the blocks only the old one used.
pub(super) fn apply_commit(entry: &mut Option<Entry>, ver: Ver, chain_ver: ChainVer) -> Option<(Staged, Vec<Run>)> {
    let e = entry.as_mut()?;
    let side = e.staged.take_if(|s| s.staged.ver == ver && s.staged.durable)?;
    let old = e.committed.take();
    let staged = side.staged;
    let version = side.version.filter(|_| !staged.remove);
    let frees = old.map_or(Vec::new(), |(_, v)| v.not_in(version.as_deref()));
    if let Some(version) = version {
        let committed = Committed { ver, chain_ver, len: staged.len, checksum: staged.checksum, tag: staged.tag };
        e.committed = Some((committed, version));
    }
    Some((staged, frees))
}

impl<D: Disk> CowStore<D> {
    pub(super) fn commit_staged(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        if self.failed.is_some() {
            return;
        }
        let Some((staged, frees)) = self.edit(key, |e| apply_commit(e, ver, chain_ver)) else {
            return self.misuse("a commit of what is not staged and durable", key, ver);
        };
        if staged.remove {
            self.floor = self.floor.max(ver);
        }
        self.note_session(staged.tag.session(), row_of(&staged, chain_ver));
        self.stats.committed += 1;
        let record = Record::Commit { key: key.clone(), ver, chain_ver };
        self.enqueue(Some(&record), false, Notify::None, 0, frees);
    }

    pub(super) fn drop_staged(&mut self, key: &ChunkKey, ver: Ver) {
        if self.failed.is_some() {
            return;
        }
        let side = self.edit(key, |e| e.as_mut().and_then(|e| e.staged.take_if(|s| s.staged.ver == ver)));
        let Some(side) = side else {
            // Ends like any other: whoever waits must not wait for ever.
            self.misuse("an unstage of what is not staged", key, ver);
            return self.enqueue(None, true, Notify::Unstaged { key: key.clone(), ver }, 0, Vec::new());
        };
        let frees = self.withdraw(side);
        let record = Record::Unstage { key: key.clone(), ver };
        self.enqueue(Some(&record), true, Notify::Unstaged { key: key.clone(), ver }, 0, frees);
    }

    pub(super) fn purge_chunk(&mut self, id: u64, key: &ChunkKey) {
        if self.failed.is_some() {
            return;
        }
        let frees = self.replace_entry(key, None);
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
