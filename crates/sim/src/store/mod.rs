//! A chunk store that is simple enough to be right: the contract of [`ChunkStore`] over a list of records.
//!
//! Every change is a record. Records become durable in order; a crash keeps the durable ones and any beginning of the
//! rest, which is what a journal with a torn tail leaves. Checksums of staged versions are hidden until they are durable.
//! Whatever the contract leaves open is decided by whoever drives it: by chance and a clock (`timed`), or, one choice
//! after the other, by exploration (`explore`).

mod contents;
mod timed;

use std::collections::VecDeque;

use catena_types::store::Part;
use catena_types::{
    ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, Done, Op, OpKind, Payload, Seq, SessionId, SessionRow, Space,
    StageInfo, StageRequest, Staged, Tag, Time, Ver,
};

use self::contents::{Chunk, Flaw, Record};
pub use self::contents::{Content, Contents};
pub use self::timed::ModelStore;

/// What the contract leaves open. The defaults are those of a disk that is sound and has room.
pub trait Whims<P> {
    /// Why something that needs space is not taken.
    fn full(&mut self) -> Option<Code> {
        None
    }

    /// An update that keeps rotten bytes fails; otherwise it makes a version that is rotten.
    fn notices_rot(&mut self) -> bool {
        true
    }

    /// A read finds corrupt bytes where there are none.
    fn misreads(&mut self) -> bool {
        false
    }

    /// The checksums of a chunk's blocks are not known for sure.
    fn no_sums(&mut self) -> bool {
        false
    }

    /// A patch is not made although it could be.
    fn no_patch(&mut self) -> bool {
        false
    }

    /// This is to be reported when all records so far are durable; `false` if it is reported before.
    fn waits(&mut self, _done: &Done<P>) -> bool {
        true
    }

    /// A version has been committed.
    fn committed(&mut self, _key: &ChunkKey, _ver: Ver, _tag: Tag) {}
}

/// See the module.
#[derive(Clone, Debug, Hash)]
pub(crate) struct MemStore<P, W> {
    pub(crate) whims: W,
    pub(crate) memory: Contents<P>,
    medium: Contents<P>,
    /// Records that are not durable.
    loose: VecDeque<Record<P>>,
    /// What ends when so many of the loose records are durable.
    waiting: VecDeque<(usize, Done<P>)>,
    /// What ends without that, together; when, where that has been decided.
    answers: Vec<(Option<Time>, Vec<Done<P>>)>,
    /// A call that breaks the contract.
    pub(crate) misuse: Option<String>,
}

impl<P: Content, W: Whims<P>> MemStore<P, W> {
    pub(crate) fn open(contents: Contents<P>, whims: W) -> MemStore<P, W> {
        MemStore {
            whims,
            memory: contents.clone(),
            medium: contents,
            loose: VecDeque::new(),
            waiting: VecDeque::new(),
            answers: Vec::new(),
            misuse: None,
        }
    }

    /// How many records a crash may keep or lose.
    pub(crate) fn loose(&self) -> usize {
        self.loose.len()
    }

    /// What is found after a crash that keeps so many of the loose records.
    pub(crate) fn after_crash(&self, kept: usize) -> Contents<P> {
        let mut contents = self.medium.clone();
        self.loose.iter().take(kept).for_each(|r| contents.apply(r));
        contents
    }

    /// All that may be found after a crash now.
    pub(crate) fn after_any_crash(&self) -> impl Iterator<Item = Contents<P>> + '_ {
        let loose = self.loose.iter().scan(self.medium.clone(), |contents, record| {
            contents.apply(record);
            Some(contents.clone())
        });
        std::iter::once(self.medium.clone()).chain(loose)
    }

    /// Nothing runs any more: only what a crash leaves is of interest.
    pub(crate) fn crash(&mut self) {
        self.memory = Contents::default();
        self.waiting.clear();
        self.answers.clear();
    }

    /// The oldest loose records become durable.
    fn harden(&mut self, records: usize) {
        for record in self.loose.drain(..records) {
            self.medium.apply(&record);
        }
        self.waiting.iter_mut().for_each(|(n, _)| *n = n.saturating_sub(records));
    }

    /// The oldest operation that waits ends, if all its records are durable.
    fn end_one(&mut self) -> Option<Done<P>> {
        let (_, done) = self.waiting.pop_front_if(|(n, _)| *n == 0)?;
        if let Done::Staged { key, ver, info } = &done
            && let Some((staged, _)) = self.memory.chunks.get_mut(key).and_then(|c| c.staged.as_mut())
            && staged.ver == *ver
        {
            (staged.durable, staged.checksum) = (true, info.checksum);
        }
        Some(done)
    }

    /// Something waits to become durable.
    pub(crate) fn may_flush(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next operation becomes durable, and everything before it.
    pub(crate) fn flush_one(&mut self) -> Option<Done<P>> {
        let records = self.waiting.front()?.0;
        self.harden(records);
        self.end_one()
    }

    /// Something ends without becoming durable.
    pub(crate) fn may_answer(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The oldest of it ends.
    pub(crate) fn answer_one(&mut self) -> Vec<Done<P>> {
        if self.answers.is_empty() { Vec::new() } else { self.answers.remove(0).1 }
    }

    fn record(&mut self, record: Record<P>) {
        self.memory.apply(&record);
        self.loose.push_back(record);
    }

    fn ends_durable(&mut self, done: Done<P>) {
        let records = if self.whims.waits(&done) { self.loose.len() } else { 0 };
        self.waiting.push_back((records, done));
    }

    fn answer(&mut self, dones: Vec<Done<P>>) {
        self.answers.push((None, dones));
    }

    /// A stage that is undone while it is on its way is not reported.
    fn cancel_stage(&mut self, key: &ChunkKey) {
        self.waiting.retain(|(_, done)| !matches!(done, Done::Staged { key: k, .. } if k == key));
        let fails = |dones: &[Done<P>]| dones.iter().any(|d| matches!(d, Done::StageFailed { key: k, .. } if k == key));
        self.answers.retain(|(_, dones)| !fails(dones));
    }

    fn complain(&mut self, what: String) {
        self.misuse.get_or_insert(what);
    }

    fn staged(&self, key: &ChunkKey) -> Option<Staged> {
        self.memory.chunks.get(key)?.staged.as_ref().map(|(staged, _)| *staged)
    }

    fn has(&self, key: &ChunkKey, ver: Ver) -> bool {
        let staged = self.staged(key).is_some_and(|s| s.ver == ver && s.durable);
        staged || self.memory.committed(key).is_some_and(|(c, _)| c.ver == ver)
    }

    /// The bytes of a version, if it can be read.
    pub(crate) fn bytes(&self, key: &ChunkKey, ver: Ver) -> Option<P> {
        let chunk = self.memory.chunks.get(key)?;
        match (&chunk.committed, &chunk.staged) {
            (Some((c, bytes)), _) if c.ver == ver => (!chunk.rotten.0).then(|| bytes.clone()),
            (_, Some((s, bytes))) if s.ver == ver && s.durable => (!chunk.rotten.1).then(|| bytes.clone()),
            _ => None,
        }
    }

    /// Shows an update as staged; `false` if it will fail, since it would have to read rotten blocks.
    fn show_staged(&mut self, r: StageRequest<P>, chunk: Chunk<P>, staged: Staged, bytes: P) -> bool {
        let old = chunk.committed.as_ref().map_or(0, |(_, bytes)| bytes.size());
        let keeps = chunk.rotten.0 && keeps(&r.op, old);
        let flaw = match keeps {
            true if chunk.lost => Flaw::Lost,
            true => Flaw::Rot,
            false => Flaw::None,
        };
        let fails = keeps && self.whims.notices_rot();
        let stage = Record::Stage(r.key.clone(), r.chunk_size, staged, bytes, flaw);
        if fails {
            // There is no record of it.
            self.memory.apply(&stage);
        } else {
            self.record(stage);
        }
        if let Some((staged, _)) = self.memory.chunks.get_mut(&r.key).and_then(|c| c.staged.as_mut()) {
            (staged.durable, staged.checksum) = (false, 0);
        }
        !fails
    }
}

impl<P: Content, W: Whims<P>> ChunkStore for MemStore<P, W> {
    type Payload = P;

    fn meta(&self, key: &ChunkKey) -> Option<ChunkMeta> {
        self.memory.chunks.get(key).map(Chunk::meta)
    }

    fn scan(&self, from: &[u8], limit: usize) -> Vec<(ChunkKey, ChunkMeta)> {
        let range = (std::ops::Bound::Included(from), std::ops::Bound::Unbounded);
        self.memory.chunks.range::<[u8], _>(range).take(limit).map(|(k, c)| (k.clone(), c.meta())).collect()
    }

    fn remove_floor(&self) -> Ver {
        self.memory.floor
    }

    fn session(&self, id: SessionId) -> Option<SessionRow> {
        self.memory.sessions.get(&id).copied()
    }

    fn sessions(&self, after: Option<SessionId>, limit: usize) -> Vec<(SessionId, SessionRow)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.memory.sessions.range((from, std::ops::Bound::Unbounded)).take(limit).map(|(i, r)| (*i, *r)).collect()
    }

    fn space(&self) -> Space {
        Space { total: 1 << 30, used: 0, reserved: 0, chunks: self.memory.chunks.len() as u64, level: 0 }
    }

    fn stage(&mut self, r: StageRequest<P>) -> Result<(), Code> {
        let remove = r.op.kind() == OpKind::Remove;
        if !remove && let Some(code) = self.whims.full() {
            return Err(code);
        }
        let chunk = self.memory.chunks.get(&r.key).cloned().unwrap_or_default();
        let base = chunk.committed.as_ref().map_or(0, |(c, _)| c.ver);
        if chunk.staged.is_some() || r.ver <= base || r.payload.data.size() != r.op.payload_len() {
            self.complain(format!("stage of {} version {} over {:?}", r.key, r.ver, chunk.meta()));
            return Err(Code::InvalidArgument);
        }
        let old = chunk.committed.as_ref().map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        let write = [(r.op.offset, &r.payload.data)];
        let parts = if r.op.kind() == OpKind::Write { &write[..] } else { &[] };
        let bytes = old.changed(r.op.new_len(old.size()), parts);
        let (len, checksum) = if remove { (0, 0) } else { (bytes.size(), bytes.checksum()) };
        let (key, ver) = (r.key.clone(), r.ver);
        let staged = Staged { ver, chain_ver: r.chain_ver, len, checksum, tag: r.tag, remove, durable: true };
        if self.show_staged(r, chunk, staged, bytes) {
            self.ends_durable(Done::Staged { key, ver, info: StageInfo { len, checksum, ..StageInfo::default() } });
        } else {
            let damaged = Done::Damaged { key: key.clone(), ver: base };
            self.answer(vec![damaged, Done::StageFailed { key, ver, code: Code::Corrupt }]);
        }
        Ok(())
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        match self.staged(key).filter(|s| s.ver == ver && s.durable) {
            Some(staged) => {
                self.whims.committed(key, ver, staged.tag);
                self.record(Record::Commit(key.clone(), ver, chain_ver));
            }
            None => self.complain(format!("commit of {key} version {ver}, which is not staged durably here")),
        }
    }

    fn unstage(&mut self, key: &ChunkKey, ver: Ver) {
        if self.staged(key).is_none_or(|s| s.ver != ver) {
            self.complain(format!("unstage of {key} version {ver}, which is not staged"));
        }
        self.cancel_stage(key);
        self.record(Record::Unstage(key.clone(), ver));
        self.ends_durable(Done::Unstaged { key: key.clone(), ver });
    }

    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        let misreads = self.whims.misreads();
        let result = match self.bytes(key, ver) {
            Some(_) if misreads => Err(Code::Corrupt),
            Some(bytes) => {
                let part = bytes.part(offset, len);
                let crc = part.checksum();
                Ok((part, crc))
            }
            None if self.has(key, ver) => {
                let damaged = Done::Damaged { key: key.clone(), ver };
                return self.answer(vec![damaged, Done::Read { id, result: Err(Code::Corrupt) }]);
            }
            None => {
                self.complain(format!("read of {key} version {ver}, which is not here"));
                Err(Code::Corrupt)
            }
        };
        self.answer(vec![Done::Read { id, result }]);
    }

    fn install(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, c: Committed, payload: Payload<P>) -> Result<(), Code> {
        if let Some(code) = self.whims.full() {
            return Err(code);
        }
        if payload.data.size() != c.len || payload.data.checksum() != c.checksum {
            self.complain(format!("install of {key} with {} bytes that are not those of {c:?}", payload.data.size()));
        }
        self.cancel_stage(key);
        self.record(Record::Install(key.clone(), chunk_size, c, payload.data));
        self.ends_durable(Done::Synced { id });
        Ok(())
    }

    fn patch(&mut self, id: u64, key: &ChunkKey, c: Committed, parts: Vec<Part<P>>) -> Result<(), Code> {
        if let Some(code) = self.whims.full() {
            return Err(code);
        }
        let chunk = self.memory.chunks.get(key).cloned().unwrap_or_default();
        let old = chunk.committed.filter(|(old, _)| chunk.staged.is_none() && old.ver < c.ver && old.len <= c.len);
        let Some((_, old)) = old else { return Err(Code::InvalidArgument) };
        let len = parts.iter().map(|p| p.offset + p.payload.size()).fold(old.size(), u32::max);
        let parts: Vec<_> = parts.iter().map(|p| (p.offset, &p.payload)).collect();
        let bytes = old.changed(len, &parts);
        let same = len == c.len && bytes.checksum() == c.checksum;
        if chunk.rotten.0 || !same || self.whims.no_patch() {
            self.answer(vec![Done::NotPatched { id }]);
            return Ok(());
        }
        self.record(Record::Install(key.clone(), chunk.size, c, bytes));
        self.ends_durable(Done::Synced { id });
        Ok(())
    }

    fn install_lost(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, c: Committed) -> Result<(), Code> {
        if let Some(code) = self.whims.full() {
            return Err(code);
        }
        self.cancel_stage(key);
        self.record(Record::Lost(key.clone(), chunk_size, c));
        self.ends_durable(Done::Synced { id });
        Ok(())
    }

    fn sums(&mut self, id: u64, key: &ChunkKey, ver: Ver) {
        let chunk = self.memory.chunks.get(key);
        let held = chunk.and_then(|c| Some((c.lost, c.committed.as_ref().filter(|(c, _)| c.ver == ver)?.1.clone())));
        let result = match held {
            None => {
                self.complain(format!("checksums of {key} version {ver}, which is not here"));
                Err(Code::NotFound)
            }
            Some((lost, _)) if lost || self.whims.no_sums() => Err(Code::Corrupt),
            Some((_, bytes)) => Ok(bytes.block_sums()),
        };
        self.answer(vec![Done::Sums { id, result }]);
    }

    fn purge(&mut self, id: u64, key: &ChunkKey) {
        self.cancel_stage(key);
        self.record(Record::Purge(key.clone()));
        self.ends_durable(Done::Synced { id });
    }

    fn clear_sessions(&mut self) {
        self.record(Record::ClearSessions);
    }

    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        self.record(Record::PutSession(id, row));
    }

    fn drop_session(&mut self, id: SessionId, seq: Seq) {
        self.record(Record::DropSession(id, seq));
    }

    fn raise_remove_floor(&mut self, floor: Ver) {
        self.record(Record::Floor(floor));
    }

    fn sync(&mut self, id: u64) {
        self.ends_durable(Done::Synced { id });
    }
}

/// Whether an update of a chunk of `old` bytes leaves some of them.
fn keeps(op: &Op, old: u32) -> bool {
    match op.kind() {
        OpKind::Write => op.offset > 0 || op.len < old,
        OpKind::Truncate => op.len > 0 && old > 0,
        OpKind::Extend => old > 0,
        _ => false,
    }
}
