//! What was committed, by whom it was asked for: the world's own record, beside what clients heard.
//!
//! It is written where state machines call their stores. From it two rules are checked at once – an update takes effect
//! once, a version has one content – and clients' unknown outcomes are resolved, so that the search for an order of a
//! history never has to guess which of many open updates took effect.

use std::collections::BTreeMap;

use bytes::Bytes;
use catena_types::{
    ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, SessionId, SessionRow, Space, StageRequest, Tag, Ver,
};

use crate::linear::{History, OpId};

/// See the file's documentation.
#[derive(Default)]
pub(super) struct Ledger {
    asked: BTreeMap<OpId, Tag>,
    by_tag: BTreeMap<Tag, Ver>,
    by_version: BTreeMap<(ChunkKey, Ver), Tag>,
}

impl Ledger {
    /// A client asks for an update under this tag.
    pub(super) fn ask(&mut self, id: OpId, tag: Tag) {
        self.asked.insert(id, tag);
    }

    /// Some replica has committed it.
    ///
    /// # Errors
    /// The invariant that this breaks.
    fn commit(&mut self, key: &ChunkKey, tag: Tag, ver: Ver) -> Result<(), String> {
        let was = *self.by_tag.entry(tag).or_insert(ver);
        if was != ver {
            return Err(format!("invariant 6: update {tag} of {key} took effect as version {was} and as version {ver}"));
        }
        let other = *self.by_version.entry((key.clone(), ver)).or_insert(tag);
        if other != tag {
            return Err(format!("invariant 9: version {ver} of {key} is update {other} here and update {tag} there"));
        }
        Ok(())
    }

    /// Tells the history what became of the updates whose clients do not know.
    pub(super) fn resolve(&self, history: &mut History) {
        for (id, tag) in &self.asked {
            history.resolve(*id, self.by_tag.get(tag).copied());
        }
    }
}

/// A store whose commits are written down.
pub(super) struct Recorded<'a> {
    pub(super) store: &'a mut dyn ChunkStore<Payload = Bytes>,
    pub(super) ledger: &'a mut Ledger,
    /// Its target may serve, and so has nothing to learn from a resync.
    pub(super) serving: bool,
    /// The first invariant found broken.
    pub(super) broken: Option<String>,
}

impl ChunkStore for Recorded<'_> {
    type Payload = Bytes;

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        if let Some(staged) = self.store.meta(key).and_then(|m| m.staged)
            && let Err(broken) = self.ledger.commit(key, staged.tag, ver)
        {
            self.broken.get_or_insert(broken);
        }
        self.store.commit(key, ver, chain_ver);
    }

    fn meta(&self, key: &ChunkKey) -> Option<ChunkMeta> {
        self.store.meta(key)
    }
    fn scan(&self, from: &[u8], limit: usize) -> Vec<(ChunkKey, ChunkMeta)> {
        self.store.scan(from, limit)
    }
    fn remove_floor(&self) -> Ver {
        self.store.remove_floor()
    }
    fn session(&self, id: SessionId) -> Option<SessionRow> {
        self.store.session(id)
    }
    fn sessions(&self, after: Option<SessionId>, limit: usize) -> Vec<(SessionId, SessionRow)> {
        self.store.sessions(after, limit)
    }
    fn space(&self) -> Space {
        self.store.space()
    }
    fn stage(&mut self, request: StageRequest<Bytes>) -> Result<(), Code> {
        self.store.stage(request)
    }
    fn unstage(&mut self, key: &ChunkKey, ver: Ver) {
        self.store.unstage(key, ver);
    }
    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        self.store.read(id, key, ver, offset, len);
    }
    fn install(&mut self, id: u64, key: &ChunkKey, size: u32, committed: Committed, payload: Bytes) -> Result<(), Code> {
        let held = self.store.meta(key).unwrap_or_default();
        if self.serving && (held.committed != Some(committed) || held.staged.is_some()) {
            self.broken.get_or_insert(format!("invariant 2: a serving target replaces {key} {held:?} by {committed:?}"));
        }
        self.store.install(id, key, size, committed, payload)
    }
    fn purge(&mut self, id: u64, key: &ChunkKey) {
        self.store.purge(id, key);
    }
    fn clear_sessions(&mut self) {
        self.store.clear_sessions();
    }
    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        self.store.put_session(id, row);
    }
    fn raise_remove_floor(&mut self, floor: Ver) {
        self.store.raise_remove_floor(floor);
    }
    fn sync(&mut self, id: u64) {
        self.store.sync(id);
    }
}
