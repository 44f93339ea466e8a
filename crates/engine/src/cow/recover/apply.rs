//! What each journal record does to the state: the same as the call that made it did.

use std::rc::Rc;

use catena_types::{Staged, Tag};

use super::State;
use crate::cow::commit::{apply_commit, row_of};
use crate::cow::{Entry, StagedEntry};
use crate::format::{Record, StageRecord};
use crate::version::{Change, Version};

impl State {
    /// Applies a record; `Err` says how it contradicts what came before.
    pub(super) fn apply(&mut self, record: Record, seq: u64) -> Result<(), String> {
        match record {
            Record::Stage(stage) => self.stage(stage, seq)?,
            Record::Commit { key, ver, chain_ver } => {
                let mut entry = self.index.remove(&key);
                let Some((staged, _)) = apply_commit(&mut entry, ver, chain_ver) else {
                    return Err(format!("{key} version {ver} is committed and was not staged"));
                };
                if staged.remove {
                    self.floor = self.floor.max(ver);
                }
                self.keep(key, entry);
                self.session(staged.tag, row_of(&staged, chain_ver));
            }
            Record::Unstage { key, ver } => {
                let mut entry = self.index.remove(&key);
                if let Some(e) = &mut entry {
                    // Dropped before it was recorded, if it is not there.
                    e.staged.take_if(|s| s.staged.ver == ver);
                }
                self.keep(key, entry);
            }
            Record::Install { key, chunk_size, committed, runs, crcs } => {
                let change = Change { len: committed.len, first: 0, runs: &runs, crcs: &crcs };
                let version = Version::default().derive(&change);
                if version.checksum != committed.checksum || version.crcs.len() != crcs.len() {
                    return Err(format!("{key}: the blocks' checksums do not make the chunk's"));
                }
                let entry = Entry { chunk_size, committed: Some((committed, Rc::new(version))), staged: None };
                self.index.insert(key, entry);
            }
            Record::Purge { key } => {
                self.index.remove(&key);
            }
            Record::ClearSessions => self.sessions.clear(),
            Record::PutSession { id, row } => self.row(id, row),
            Record::Floor(ver) => self.floor = self.floor.max(ver),
        }
        Ok(())
    }

    fn stage(&mut self, stage: StageRecord, seq: u64) -> Result<(), String> {
        let held = self.index.get(&stage.key);
        let base = held.and_then(|e| e.committed.as_ref());
        let ver = base.map_or(0, |(c, _)| c.ver);
        if ver != stage.base {
            return Err(format!("{} is staged on version {}, and version {ver} is here", stage.key, stage.base));
        }
        if held.is_some_and(|e| e.staged.is_some()) {
            return Err(format!("{} is staged twice", stage.key));
        }
        let mut version = Version::default();
        if !stage.remove {
            let change = Change { len: stage.len, first: stage.first, runs: &stage.runs, crcs: &stage.crcs };
            version = base.map_or(&version, |(_, v)| v).derive(&change);
            // What was recorded counts: it may be the payload's, and reads compare it.
            version.checksum = stage.checksum;
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
        let side = StagedEntry { staged, version: Some(Rc::new(version)), op: 0, seq: Some(seq), fresh: stage.runs };
        let empty = Entry { chunk_size: stage.chunk_size, committed: None, staged: None };
        self.index.entry(stage.key).or_insert(empty).staged = Some(side);
        Ok(())
    }

    fn keep(&mut self, key: catena_types::ChunkKey, entry: Option<Entry>) {
        if let Some(e) = entry.filter(|e| e.committed.is_some() || e.staged.is_some()) {
            self.index.insert(key, e);
        }
    }

    fn session(&mut self, tag: Tag, row: catena_types::SessionRow) {
        self.row(tag.session(), row);
    }

    fn row(&mut self, id: catena_types::SessionId, row: catena_types::SessionRow) {
        let held = self.sessions.entry(id).or_insert(row);
        if row.seq >= held.seq {
            *held = row;
        }
    }
}
