//! What was staged and committed, by whom it was asked for: the world's own record, beside what clients heard.
//!
//! It is written where state machines call their stores. From it rules are checked at once – an update takes effect once,
//! a version has one content, a reject had none, bytes are those of their version – and clients' unknown outcomes are
//! resolved, so that the search for an order of a history never has to guess which of many open updates took effect.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use catena_types::store::Part;
use catena_types::{
    ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, OpKind, Payload, Seq, SessionId, SessionRow, Space, StageRequest,
    Tag, Ver,
};

use super::rules::{Rule, Violation};
use crate::linear::{History, OpId};

/// See the file's documentation.
#[derive(Default)]
pub(super) struct Ledger {
    asked: BTreeMap<OpId, Tag>,
    by_tag: BTreeMap<Tag, Ver>,
    by_version: BTreeMap<(ChunkKey, Ver), Tag>,
    /// Updates whose clients were told that they had no effect.
    refused: BTreeSet<Tag>,
    /// Chunks that a resync has lost at some time: nobody need have them at the end.
    lost: BTreeSet<ChunkKey>,
    /// What each update made of the chunk it was staged on.
    contents: BTreeMap<(ChunkKey, Ver, Tag), Bytes>,
}

impl Ledger {
    /// A client asks for an update under this tag.
    pub(super) fn ask(&mut self, id: OpId, tag: Tag) {
        self.asked.insert(id, tag);
    }

    /// Its client was told that it had no effect.
    ///
    /// # Errors
    /// It had one.
    pub(super) fn refuse(&mut self, id: OpId) -> Result<(), Violation> {
        let Some(&tag) = self.asked.get(&id) else { return Ok(()) };
        self.refused.insert(tag);
        match self.by_tag.get(&tag) {
            Some(ver) => Err(Rule::RejectsFinal.broken(format!("update {tag} was refused, and is version {ver}"))),
            None => Ok(()),
        }
    }

    /// Chunks that a resync has lost at some time.
    pub(super) fn lost(&self) -> &BTreeSet<ChunkKey> {
        &self.lost
    }

    /// Some replica stages it over what it has committed.
    fn stage(&mut self, r: &StageRequest<Bytes>, base: Option<Committed>) {
        let old = base.map_or(Some(Bytes::new()), |c| self.contents.get(&(r.key.clone(), c.ver, c.tag)).cloned());
        let name = (r.key.clone(), r.ver, r.tag);
        let (Some(old), false) = (old, self.contents.contains_key(&name)) else { return };
        let mut bytes = old.to_vec();
        bytes.resize(r.op.new_len(old.len() as u32) as usize, 0);
        if r.op.kind() == OpKind::Write
            && let Some(part) = bytes.get_mut(r.op.offset as usize..).and_then(|b| b.get_mut(..r.payload.data.len()))
        {
            part.copy_from_slice(&r.payload.data);
        }
        self.contents.insert(name, bytes.into());
    }

    /// Whether `bytes` are those at `offset` of this version, made by that update if it is named, as far as is known.
    ///
    /// # Errors
    /// They are not.
    pub(super) fn compare(
        &self,
        key: &ChunkKey,
        (ver, tag): (Ver, Option<Tag>),
        offset: u32,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let tag = tag.or_else(|| self.by_version.get(&(key.clone(), ver)).copied());
        self.compare_staged(key, (ver, tag), offset, bytes)
    }

    /// The same of a version that need not be the one committed: one that was staged, and then refused, has bytes too.
    ///
    /// # Errors
    /// They are not.
    pub(super) fn compare_staged(
        &self,
        key: &ChunkKey,
        (ver, tag): (Ver, Option<Tag>),
        offset: u32,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let last = Tag { client: u64::MAX, channel: u32::MAX, seq: u64::MAX };
        let range = (key.clone(), ver, tag.unwrap_or_default())..=(key.clone(), ver, tag.unwrap_or(last));
        let mut known = self.contents.range(range).peekable();
        let fits = |all: &Bytes| all.get(offset as usize..).is_some_and(|rest| rest.starts_with(bytes)) || bytes.is_empty();
        if known.peek().is_none() || known.any(|(_, all)| fits(all)) {
            return Ok(());
        }
        Err(Rule::GoodBytes.broken(format!("{} bytes at {offset} of {key} version {ver} are not its bytes", bytes.len())))
    }

    /// Some replica has committed it.
    ///
    /// # Errors
    /// The invariant that this breaks.
    fn commit(&mut self, key: &ChunkKey, tag: Tag, ver: Ver) -> Result<(), Violation> {
        if self.refused.contains(&tag) {
            return Err(Rule::RejectsFinal.broken(format!("update {tag} of {key} was refused, and becomes version {ver}")));
        }
        let was = *self.by_tag.entry(tag).or_insert(ver);
        if was != ver {
            return Err(Rule::Once.broken(format!("update {tag} of {key} took effect as version {was} and as version {ver}")));
        }
        let other = *self.by_version.entry((key.clone(), ver)).or_insert(tag);
        if other != tag {
            return Err(Rule::Equal.broken(format!("version {ver} of {key} is update {other} here and update {tag} there")));
        }
        Ok(())
    }

    /// Tells the history what became of the updates whose clients do not know. An update of a part of a chunk that nobody
    /// has makes a version whose other parts nobody has either: its checksum fits no bytes, as it must, lest it reads as some.
    pub(super) fn resolve(&self, history: &mut History) {
        self.lost.iter().for_each(|key| history.forget_checksums(key.as_bytes()));
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
    /// What it has committed.
    pub(super) committed: Vec<(ChunkKey, Ver, Tag)>,
    /// The first invariant found broken.
    pub(super) broken: Option<Violation>,
}

impl ChunkStore for Recorded<'_> {
    type Payload = Bytes;

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        if let Some(tag) = self.store.meta(key).and_then(|m| m.staged).map(|s| s.tag) {
            if let Err(broken) = self.ledger.commit(key, tag, ver) {
                self.broken.get_or_insert(broken);
            }
            self.committed.push((key.clone(), ver, tag));
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
        let (base, copy) = (self.store.meta(&request.key).and_then(|m| m.committed), request.clone());
        let taken = self.store.stage(request);
        if taken.is_ok() {
            self.ledger.stage(&copy, base);
        }
        taken
    }
    fn unstage(&mut self, key: &ChunkKey, ver: Ver) {
        self.store.unstage(key, ver);
    }
    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        self.store.read(id, key, ver, offset, len);
    }
    fn install(&mut self, id: u64, key: &ChunkKey, size: u32, committed: Committed, payload: Payload<Bytes>) -> Result<(), Code> {
        let held = self.store.meta(key).unwrap_or_default();
        if self.serving && (held.committed != Some(committed) || held.staged.is_some()) {
            let text = format!("a serving target replaces {key} {held:?} by {committed:?}");
            self.broken.get_or_insert(Rule::Versions.broken(text));
        }
        if let Err(broken) = self.ledger.compare(key, (committed.ver, Some(committed.tag)), 0, &payload.data) {
            self.broken.get_or_insert(broken);
        }
        self.store.install(id, key, size, committed, payload)
    }
    fn patch(&mut self, id: u64, key: &ChunkKey, committed: Committed, parts: Vec<Part<Bytes>>) -> Result<(), Code> {
        if self.serving {
            let text = format!("a serving target makes {committed:?} of {key} from parts");
            self.broken.get_or_insert(Rule::Versions.broken(text));
        }
        self.store.patch(id, key, committed, parts)
    }
    fn install_lost(&mut self, id: u64, key: &ChunkKey, size: u32, committed: Committed) -> Result<(), Code> {
        if self.serving {
            let text = format!("a serving target loses {key} {committed:?}");
            self.broken.get_or_insert(Rule::Versions.broken(text));
        }
        self.ledger.lost.insert(key.clone());
        self.store.install_lost(id, key, size, committed)
    }
    fn sums(&mut self, id: u64, key: &ChunkKey, ver: Ver) {
        self.store.sums(id, key, ver);
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
    fn drop_session(&mut self, id: SessionId, seq: Seq) {
        self.store.drop_session(id, seq);
    }
    fn raise_remove_floor(&mut self, floor: Ver) {
        self.store.raise_remove_floor(floor);
    }
    fn sync(&mut self, id: u64) {
        self.store.sync(id);
    }
}
