//! A chunk store whose every choice is somebody else's: a record becomes durable, and a read ends, when the explorer says so.
//!
//! A chunk's content is one byte, which is also its checksum. Records become durable in order; a crash keeps the durable
//! ones and any beginning of the rest.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;

use catena_types::store::Part;
use catena_types::{
    ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, Done, OpKind, Payload, Seq, SessionId, SessionRow, Space,
    StageInfo, StageRequest, Staged, Tag, Ver,
};

use super::rules::{Rule, Rules};

pub(super) const CHUNK_SIZE: u32 = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Chunk {
    committed: Option<Committed>,
    staged: Option<Staged>,
}

/// What a disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Contents {
    chunks: BTreeMap<ChunkKey, Chunk>,
    sessions: BTreeMap<SessionId, SessionRow>,
    floor: Ver,
}

#[derive(Clone, Debug, Hash)]
enum Record {
    Stage(ChunkKey, Staged),
    Commit(ChunkKey, Ver, ChainVer),
    Unstage(ChunkKey, Ver),
    Install(ChunkKey, Committed),
    Purge(ChunkKey),
    ClearSessions,
    PutSession(SessionId, SessionRow),
    Floor(Ver),
}

/// How an operation ends.
#[derive(Clone, Debug, Hash)]
enum Ending {
    Staged(ChunkKey, Staged),
    Unstaged(ChunkKey, Ver),
    Synced(u64),
}

impl Contents {
    fn apply(&mut self, record: &Record) {
        match record.clone() {
            Record::Stage(key, staged) => self.chunks.entry(key).or_default().staged = Some(staged),
            Record::Commit(key, ver, chain_ver) => self.commit(&key, ver, chain_ver),
            Record::Unstage(key, ver) => {
                if let Some(chunk) = self.chunks.get_mut(&key) {
                    chunk.staged.take_if(|s| s.ver == ver);
                }
                self.tidy(&key);
            }
            Record::Install(key, committed) => {
                self.chunks.insert(key, Chunk { committed: Some(committed), staged: None });
            }
            Record::Purge(key) => {
                self.chunks.remove(&key);
            }
            Record::ClearSessions => self.sessions.clear(),
            Record::PutSession(id, row) => self.put_session(id, row),
            Record::Floor(floor) => self.floor = self.floor.max(floor),
        }
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        let Some(chunk) = self.chunks.get_mut(key) else { return };
        let Some(Staged { len, checksum, tag, remove, .. }) = chunk.staged.take_if(|s| s.ver == ver) else { return };
        if remove {
            self.floor = self.floor.max(ver);
            chunk.committed = None;
        } else {
            chunk.committed = Some(Committed { ver, chain_ver, len, checksum, tag });
        }
        self.put_session(tag.session(), SessionRow { seq: tag.seq, ver, len, checksum, chain_ver });
        self.tidy(key);
    }

    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        let old = self.sessions.entry(id).or_insert(row);
        if row.seq >= old.seq {
            *old = row;
        }
    }

    fn tidy(&mut self, key: &ChunkKey) {
        if self.chunks.get(key).is_some_and(|c| c.committed.is_none() && c.staged.is_none()) {
            self.chunks.remove(key);
        }
    }

    /// Newest version of the chunk held here, committed or staged, and the update that made it. An absent chunk counts
    /// with the version of its removal.
    pub(super) fn newest(&self, key: &ChunkKey) -> (Ver, Option<Tag>) {
        let chunk = self.chunks.get(key);
        let staged = chunk.and_then(|c| c.staged.as_ref()).map(|s| (s.ver, Some(s.tag)));
        let committed = chunk.and_then(|c| c.committed.as_ref()).map(|c| (c.ver, Some(c.tag)));
        staged.or(committed).unwrap_or((self.floor, None))
    }

    /// Highest version ever removed here.
    pub(super) fn floor(&self) -> Ver {
        self.floor
    }

    /// Whether the chunk is at rest.
    pub(super) fn clean(&self, key: &ChunkKey) -> bool {
        self.chunks.get(key).is_none_or(|c| c.staged.is_none())
    }

    /// What readers see.
    pub(super) fn committed(&self, key: &ChunkKey) -> Option<Committed> {
        self.chunks.get(key)?.committed
    }
}

/// See the file's documentation.
#[derive(Clone, Debug, Hash)]
pub(super) struct Disk {
    pub(super) memory: Contents,
    medium: Contents,
    /// Not durable yet.
    records: VecDeque<Record>,
    /// What ends when so many of the records are durable.
    waiting: VecDeque<(usize, Ending)>,
    reads: VecDeque<(u64, u8)>,
    /// Nothing is taken that needs room; whether that was tried.
    pub(super) full: bool,
    pub(super) refused: bool,
    /// Committed since the last look.
    pub(super) commits: Vec<(ChunkKey, Ver, Tag)>,
    /// A call that breaks the contract.
    pub(super) misuse: Option<String>,
    off: Rules,
}

impl Disk {
    pub(super) fn open(contents: Contents, off: Rules) -> Disk {
        Disk {
            memory: contents.clone(),
            medium: contents,
            records: VecDeque::new(),
            waiting: VecDeque::new(),
            reads: VecDeque::new(),
            full: false,
            refused: false,
            commits: Vec::new(),
            misuse: None,
            off,
        }
    }

    /// Records that a crash may keep or lose.
    pub(super) fn loose(&self) -> usize {
        self.records.len()
    }

    /// What is found after a crash that keeps so many of the loose records.
    pub(super) fn after_crash(&self, kept: usize) -> Contents {
        let mut contents = self.medium.clone();
        self.records.iter().take(kept).for_each(|r| contents.apply(r));
        contents
    }

    /// All that may be found after a crash now.
    pub(super) fn after_any_crash(&self) -> impl Iterator<Item = Contents> + '_ {
        let loose = self.records.iter().scan(self.medium.clone(), |contents, record| {
            contents.apply(record);
            Some(contents.clone())
        });
        std::iter::once(self.medium.clone()).chain(loose)
    }

    /// Nothing runs any more: only what a crash leaves is of interest.
    pub(super) fn crash(&mut self) {
        self.memory = Contents::default();
        self.waiting.clear();
        self.reads.clear();
    }

    /// Something waits to become durable.
    pub(super) fn may_flush(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next operation becomes durable, and everything before it.
    pub(super) fn flush(&mut self) -> Option<Done<u8>> {
        let (records, ending) = self.waiting.pop_front()?;
        for record in self.records.drain(..records) {
            self.medium.apply(&record);
        }
        self.waiting.iter_mut().for_each(|(n, _)| *n = n.saturating_sub(records));
        Some(match ending {
            Ending::Staged(key, staged) => {
                let now = self.memory.chunks.get_mut(&key).and_then(|c| c.staged.as_mut());
                if let Some(now) = now.filter(|s| s.ver == staged.ver) {
                    *now = staged;
                }
                let info = StageInfo { len: staged.len, checksum: staged.checksum, ..StageInfo::default() };
                Done::Staged { key, ver: staged.ver, info }
            }
            Ending::Unstaged(key, ver) => Done::Unstaged { key, ver },
            Ending::Synced(id) => Done::Synced { id },
        })
    }

    pub(super) fn may_read(&self) -> bool {
        !self.reads.is_empty()
    }

    /// The oldest read ends.
    pub(super) fn end_read(&mut self) -> Option<Done<u8>> {
        let (id, byte) = self.reads.pop_front()?;
        Some(Done::Read { id, result: Ok((byte, u32::from(byte))) })
    }

    fn record(&mut self, record: Record) {
        self.memory.apply(&record);
        self.records.push_back(record);
    }

    fn ends_durable(&mut self, ending: Ending) {
        let early = match &ending {
            Ending::Staged(..) => self.off.is(Rule::StageDurable),
            Ending::Unstaged(..) => self.off.is(Rule::UnstageDurable),
            Ending::Synced(_) => self.off.is(Rule::SyncDurable),
        };
        self.waiting.push_back((if early { 0 } else { self.records.len() }, ending));
    }

    fn cancel_stage(&mut self, key: &ChunkKey) {
        self.waiting.retain(|(_, ending)| !matches!(ending, Ending::Staged(k, _) if k == key));
    }

    fn complain(&mut self, what: String) {
        self.misuse.get_or_insert(what);
    }

    fn staged(&self, key: &ChunkKey) -> Option<Staged> {
        self.memory.chunks.get(key)?.staged
    }
}

impl ChunkStore for Disk {
    type Payload = u8;

    fn meta(&self, key: &ChunkKey) -> Option<ChunkMeta> {
        self.memory.chunks.get(key).map(meta)
    }

    fn scan(&self, from: &[u8], limit: usize) -> Vec<(ChunkKey, ChunkMeta)> {
        let range = (std::ops::Bound::Included(from), std::ops::Bound::Unbounded);
        self.memory.chunks.range::<[u8], _>(range).take(limit).map(|(k, c)| (k.clone(), meta(c))).collect()
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
        Space::default()
    }

    fn stage(&mut self, r: StageRequest<u8>) -> Result<(), Code> {
        if self.full {
            self.refused = true;
            return Err(Code::NoSpace);
        }
        let chunk = self.memory.chunks.get(&r.key).cloned().unwrap_or_default();
        if chunk.staged.is_some() || r.ver <= chunk.committed.map_or(0, |c| c.ver) {
            self.complain(format!("stage of {} version {} over {chunk:?}", r.key, r.ver));
        }
        let remove = r.op.kind() == OpKind::Remove;
        let (len, checksum) = if remove { (0, 0) } else { (1, u32::from(r.payload.data)) };
        let staged = Staged { ver: r.ver, chain_ver: r.chain_ver, len, checksum, tag: r.tag, remove, durable: true };
        self.record(Record::Stage(r.key.clone(), staged));
        if let Some(now) = self.memory.chunks.get_mut(&r.key).and_then(|c| c.staged.as_mut()) {
            (now.durable, now.checksum) = (false, 0);
        }
        self.ends_durable(Ending::Staged(r.key, staged));
        Ok(())
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        match self.staged(key).filter(|s| s.ver == ver && s.durable) {
            Some(staged) => {
                self.commits.push((key.clone(), ver, staged.tag));
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
        self.ends_durable(Ending::Unstaged(key.clone(), ver));
    }

    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, _offset: u32, _len: u32) {
        let committed = self.memory.committed(key).filter(|c| c.ver == ver).map(|c| c.checksum);
        let staged = self.staged(key).filter(|s| s.ver == ver && s.durable).map(|s| s.checksum);
        match committed.or(staged) {
            Some(byte) => self.reads.push_back((id, byte as u8)),
            None => self.complain(format!("read of {key} version {ver}, which is not here")),
        }
    }

    fn install(&mut self, id: u64, key: &ChunkKey, _chunk_size: u32, c: Committed, payload: Payload<u8>) -> Result<(), Code> {
        if self.full {
            self.refused = true;
            return Err(Code::NoSpace);
        }
        if u32::from(payload.data) != c.checksum {
            self.complain(format!("install of {key} with a byte that is not that of {c:?}"));
        }
        self.cancel_stage(key);
        self.record(Record::Install(key.clone(), c));
        self.ends_durable(Ending::Synced(id));
        Ok(())
    }

    fn patch(&mut self, id: u64, key: &ChunkKey, c: Committed, _parts: Vec<Part<u8>>) -> Result<(), Code> {
        self.complain(format!("a chunk of one block is sent whole: {key} {c:?}, patch {id}"));
        Err(Code::InvalidArgument)
    }

    fn install_lost(&mut self, id: u64, key: &ChunkKey, _chunk_size: u32, c: Committed) -> Result<(), Code> {
        self.complain(format!("nothing rots here: {key} {c:?}, install {id}"));
        Err(Code::InvalidArgument)
    }

    fn sums(&mut self, id: u64, key: &ChunkKey, ver: Ver) {
        self.complain(format!("a chunk of one block is not compared: {key} version {ver}, question {id}"));
    }

    fn purge(&mut self, id: u64, key: &ChunkKey) {
        self.cancel_stage(key);
        self.record(Record::Purge(key.clone()));
        self.ends_durable(Ending::Synced(id));
    }

    fn clear_sessions(&mut self) {
        self.record(Record::ClearSessions);
    }

    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        self.record(Record::PutSession(id, row));
    }

    fn drop_session(&mut self, id: SessionId, seq: Seq) {
        self.complain(format!("sessions do not expire here: {id:?} {seq}"));
    }

    fn raise_remove_floor(&mut self, floor: Ver) {
        self.record(Record::Floor(floor));
    }

    fn sync(&mut self, id: u64) {
        self.ends_durable(Ending::Synced(id));
    }
}

fn meta(chunk: &Chunk) -> ChunkMeta {
    ChunkMeta { chunk_size: CHUNK_SIZE, committed: chunk.committed, staged: chunk.staged }
}
