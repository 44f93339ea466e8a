//! A chunk store that is simple enough to be right: the contract of [`ChunkStore`] over a list of records.
//!
//! Every change is a record. Records become durable in order, when a flush that began after them has ended; a crash
//! keeps the durable ones and any beginning of the rest, which is what a journal with a torn tail leaves. Staged
//! checksums are hidden until durable, completions of one flush come in any order, reads end in any order: whatever the
//! contract leaves open is varied. Committed versions can rot: reads of them are refused, and updates that keep bytes of
//! them fail or make a version that is rotten too.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;
use catena_types::store::Part;
use catena_types::{
    ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, Done, Op, OpKind, Payload, Seq, SessionId, SessionRow, Space,
    StageInfo, StageRequest, Staged, Time, Ver,
};

use crate::rng::Rng;

#[derive(Clone, Debug)]
enum Record {
    /// With what is wrong with the version.
    Stage(ChunkKey, u32, Staged, Bytes, Flaw),
    Commit(ChunkKey, Ver, ChainVer),
    Unstage(ChunkKey, Ver),
    Install(ChunkKey, u32, Committed, Bytes),
    /// An install without its bytes.
    Lost(ChunkKey, u32, Committed),
    Purge(ChunkKey),
    ClearSessions,
    PutSession(SessionId, SessionRow),
    DropSession(SessionId, Seq),
    Floor(Ver),
}

/// What is wrong with the bytes of a version that is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// It keeps rotten bytes of its base: good ones, if that never rotted.
    Rot,
    /// It keeps bytes of a base that nobody had.
    Lost,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    size: u32,
    committed: Option<(Committed, Bytes)>,
    staged: Option<(Staged, Bytes)>,
    /// The committed and the staged version do not match their checksums.
    rotten: (bool, bool),
    /// Nobody had the bytes of the committed version.
    lost: bool,
}

/// What a target holds: in memory, or on its medium.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    chunks: BTreeMap<ChunkKey, Chunk>,
    sessions: BTreeMap<SessionId, SessionRow>,
    floor: Ver,
}

impl Contents {
    fn apply(&mut self, record: &Record) {
        match record.clone() {
            Record::Stage(key, size, staged, bytes, flaw) => {
                let chunk = self.chunks.entry(key).or_default();
                (chunk.size, chunk.staged, chunk.rotten.1) = (size, Some((staged, bytes)), flaw != Flaw::None);
            }
            Record::Commit(key, ver, chain_ver) => self.commit(&key, ver, chain_ver),
            Record::Unstage(key, ver) => {
                if let Some(chunk) = self.chunks.get_mut(&key) {
                    chunk.staged.take_if(|(s, _)| s.ver == ver);
                }
                self.forget_if_empty(&key);
            }
            Record::Install(key, size, committed, bytes) => {
                self.chunks.insert(key, Chunk { size, committed: Some((committed, bytes)), ..Chunk::default() });
            }
            Record::Lost(key, size, committed) => {
                let committed = Some((committed, Bytes::from(vec![0; committed.len as usize])));
                self.chunks.insert(key, Chunk { size, committed, lost: true, rotten: (true, false), ..Chunk::default() });
            }
            Record::Purge(key) => {
                self.chunks.remove(&key);
            }
            Record::ClearSessions => self.sessions.clear(),
            Record::PutSession(id, row) => self.put_session(id, row),
            Record::DropSession(id, seq) => {
                if self.sessions.get(&id).is_some_and(|row| row.seq == seq) {
                    self.sessions.remove(&id);
                }
            }
            Record::Floor(floor) => self.floor = self.floor.max(floor),
        }
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        let Some(chunk) = self.chunks.get_mut(key) else { return };
        let Some((staged, bytes)) = chunk.staged.take_if(|(s, _)| s.ver == ver) else { return };
        let Staged { len, checksum, tag, .. } = staged;
        chunk.rotten = (chunk.rotten.1, false);
        chunk.lost &= chunk.rotten.0;
        if staged.remove {
            self.floor = self.floor.max(ver);
            chunk.committed = None;
        } else {
            chunk.committed = Some((Committed { ver, chain_ver, len, checksum, tag }, bytes));
        }
        self.put_session(tag.session(), SessionRow { seq: tag.seq, ver, len, checksum, chain_ver });
        self.forget_if_empty(key);
    }

    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        let old = self.sessions.entry(id).or_insert(row);
        if row.seq >= old.seq {
            *old = row;
        }
    }

    /// Committed versions rot, about one of `one_in`. Gives their keys.
    pub(crate) fn rot(&mut self, one_in: u64, rng: &mut Rng) -> Vec<(ChunkKey, Ver)> {
        let mut struck = Vec::new();
        for (key, chunk) in &mut self.chunks {
            if let Some((committed, _)) = &chunk.committed
                && rng.below(one_in) == 0
            {
                chunk.rotten.0 = true;
                struck.push((key.clone(), committed.ver));
            }
        }
        struck
    }

    /// Nothing ever rotted. Says whether something had.
    pub(crate) fn heal(&mut self) -> bool {
        let mut any = false;
        for chunk in self.chunks.values_mut().filter(|c| !c.lost) {
            any |= std::mem::take(&mut chunk.rotten) != (false, false);
        }
        any
    }

    fn forget_if_empty(&mut self, key: &ChunkKey) {
        if self.chunks.get(key).is_some_and(|c| c.committed.is_none() && c.staged.is_none()) {
            self.chunks.remove(key);
        }
    }
}

struct Flush {
    ends: Time,
    upto: u64,
}

/// See the module.
pub struct ModelStore {
    rng: Rng,
    memory: Contents,
    /// Everything before record number `durable`.
    medium: Contents,
    records: VecDeque<Record>,
    durable: u64,
    flush: Option<Flush>,
    wanted: bool,
    /// Operations that end when that many records are durable.
    waiting: VecDeque<(u64, Done<Bytes>)>,
    /// What ends at that time, without a flush.
    reads: Vec<(Time, Vec<Done<Bytes>>)>,
    started_reads: Vec<Vec<Done<Bytes>>>,
    /// When it looks for rot next, and how often it does; `None`: never.
    scrub: (Time, Option<Time>),
    /// Rotten versions that it has found and not been asked for.
    found: u64,
    ready: Vec<Done<Bytes>>,
    mean: Time,
    failed: bool,
    /// While set, one of `full_one_in` requests that need space is not taken, with this error.
    pub full: Option<Code>,
    /// See [`ModelStore::full`].
    pub full_one_in: u64,
    /// One of so many reads finds corrupt bytes; 0: none.
    pub corrupt_one_in: u64,
    /// The next flush fails.
    pub fail_next: bool,
    /// A call that breaks the contract.
    pub misuse: Option<String>,
}

impl ModelStore {
    /// A store with these contents; operations take about `mean` nanoseconds.
    pub fn open(contents: Contents, mean: Time, rng: Rng) -> ModelStore {
        ModelStore {
            rng,
            medium: contents.clone(),
            memory: contents,
            records: VecDeque::new(),
            durable: 0,
            flush: None,
            wanted: false,
            waiting: VecDeque::new(),
            reads: Vec::new(),
            started_reads: Vec::new(),
            scrub: (0, None),
            found: 0,
            ready: Vec::new(),
            mean,
            failed: false,
            full: None,
            full_one_in: 1,
            corrupt_one_in: 0,
            fail_next: false,
            misuse: None,
        }
    }

    /// What is found after a crash now: the durable records and a random beginning of the others.
    pub fn crash(&mut self) -> Contents {
        let kept = self.rng.below(self.records.len() as u64 + 1);
        self.after(kept as usize)
    }

    /// What is found after a crash now that loses all it can.
    pub(crate) fn durable(&self) -> Contents {
        self.after(0)
    }

    /// What is found after a clean end.
    pub fn close(&mut self) -> Contents {
        if self.failed { self.crash() } else { self.after(self.records.len()) }
    }

    fn after(&self, records: usize) -> Contents {
        let mut contents = self.medium.clone();
        self.records.iter().take(records).for_each(|r| contents.apply(r));
        for chunk in contents.chunks.values_mut() {
            if let Some((staged, _)) = &mut chunk.staged {
                staged.durable = true;
            }
        }
        contents
    }

    /// Starts what was asked for since. Returns when to call [`ModelStore::poll`].
    pub fn kick(&mut self, now: Time) -> Option<Time> {
        for done in std::mem::take(&mut self.started_reads) {
            self.reads.push((now + self.rng.delay(self.mean), done));
        }
        if self.wanted && self.flush.is_none() && !self.failed {
            let upto = self.durable + self.records.len() as u64;
            self.flush = Some(Flush { ends: now + self.rng.delay(self.mean), upto });
            self.wanted = false;
        }
        if !self.ready.is_empty() {
            return Some(now);
        }
        if self.failed {
            return None;
        }
        let scrub = self.scrub.1.map(|_| self.scrub.0);
        self.flush.iter().map(|f| f.ends).chain(self.reads.iter().map(|r| r.0)).chain(scrub).min()
    }

    /// Looks for rot from now on, this often.
    pub(crate) fn set_scrub(&mut self, every: Option<Time>) {
        self.scrub = (0, every);
    }

    /// Rotten versions found since the last call.
    pub(crate) fn take_found(&mut self) -> u64 {
        std::mem::take(&mut self.found)
    }

    /// Committed versions that are rotten.
    pub(crate) fn rotten(&self) -> u64 {
        self.memory.chunks.values().filter(|c| c.rotten.0).count() as u64
    }

    /// The disk of the open store rots: see [`Contents::rot`].
    pub(crate) fn rot(&mut self, one_in: u64, rng: &mut Rng) -> u64 {
        let struck = self.memory.rot(one_in, rng);
        for (key, ver) in &struck {
            let durable = self.medium.chunks.get_mut(key).filter(|c| c.committed.as_ref().is_some_and(|(c, _)| c.ver == *ver));
            if let Some(chunk) = durable {
                chunk.rotten.0 = true;
            }
        }
        struck.len() as u64
    }

    /// See [`Contents::heal`].
    pub(crate) fn heal(&mut self) -> bool {
        let medium = self.medium.heal();
        for record in &mut self.records {
            if let Record::Stage(.., flaw @ Flaw::Rot) = record {
                *flaw = Flaw::None;
            }
        }
        self.memory.heal() || medium
    }

    fn look_for_rot(&mut self, now: Time) {
        let Some(every) = self.scrub.1.filter(|_| self.scrub.0 <= now) else { return };
        self.scrub.0 = now + every;
        let chunks = self.memory.chunks.iter().filter(|(_, c)| c.rotten.0);
        let rotten: Vec<_> = chunks.filter_map(|(key, c)| Some((key.clone(), c.committed.as_ref()?.0.ver))).collect();
        if let Some((key, ver)) = rotten.get(self.rng.below(rotten.len() as u64) as usize).cloned() {
            self.found += 1;
            self.ready.push(Done::Damaged { key, ver });
        }
    }

    /// Hands out what has ended by `now`.
    pub fn poll(&mut self, now: Time, out: &mut Vec<Done<Bytes>>) {
        if !self.failed {
            self.look_for_rot(now);
        }
        out.append(&mut self.ready);
        if self.failed {
            return;
        }
        let (ended, open) = std::mem::take(&mut self.reads).into_iter().partition(|(at, _)| *at <= now);
        self.reads = open;
        for done in Vec::<(Time, Vec<Done<Bytes>>)>::into_iter(ended).flat_map(|(_, dones)| dones) {
            if let Done::StageFailed { key, ver, .. } = &done
                && let Some(chunk) = self.memory.chunks.get_mut(key)
            {
                chunk.staged.take_if(|(s, _)| s.ver == *ver);
            }
            out.push(done);
        }
        if self.flush.as_ref().is_some_and(|f| f.ends <= now)
            && let Some(flush) = self.flush.take()
        {
            if self.fail_next {
                self.failed = true;
                out.push(Done::Failed { reason: "flush of the model's journal: injected EIO".into() });
                return;
            }
            self.end_flush(flush.upto, out);
        }
    }

    fn end_flush(&mut self, upto: u64, out: &mut Vec<Done<Bytes>>) {
        while self.durable < upto {
            if let Some(record) = self.records.pop_front() {
                self.medium.apply(&record);
            }
            self.durable += 1;
        }
        let mut ended = Vec::new();
        while self.waiting.front().is_some_and(|(n, _)| *n <= self.durable) {
            ended.extend(self.waiting.pop_front().map(|(_, done)| done));
        }
        for done in &ended {
            if let Done::Staged { key, ver, info } = done
                && let Some((staged, _)) = self.memory.chunks.get_mut(key).and_then(|c| c.staged.as_mut())
                && staged.ver == *ver
            {
                (staged.durable, staged.checksum) = (true, info.checksum);
            }
        }
        for n in (1..ended.len()).rev() {
            ended.swap(n, self.rng.below(n as u64 + 1) as usize);
        }
        out.append(&mut ended);
    }

    fn record(&mut self, record: Record) {
        self.memory.apply(&record);
        self.records.push_back(record);
    }

    fn ends_durable(&mut self, done: Done<Bytes>) {
        self.wanted = true;
        self.waiting.push_back((self.durable + self.records.len() as u64, done));
    }

    /// A stage that is undone while it is on its way is not reported.
    fn cancel_stage(&mut self, key: &ChunkKey) {
        self.waiting.retain(|(_, done)| !matches!(done, Done::Staged { key: k, .. } if k == key));
        let fails = |dones: &Vec<Done<Bytes>>| dones.iter().any(|d| matches!(d, Done::StageFailed { key: k, .. } if k == key));
        self.reads.retain(|(_, dones)| !fails(dones));
        self.started_reads.retain(|dones| !fails(dones));
    }

    fn complain(&mut self, what: String) {
        self.misuse.get_or_insert(what);
    }

    fn has(&self, key: &ChunkKey, ver: Ver) -> bool {
        let Some(chunk) = self.memory.chunks.get(key) else { return false };
        let staged = chunk.staged.as_ref().is_some_and(|(s, _)| s.ver == ver && s.durable);
        staged || chunk.committed.as_ref().is_some_and(|(c, _)| c.ver == ver)
    }

    /// The bytes of a version, if it can be read.
    pub fn bytes(&self, key: &ChunkKey, ver: Ver) -> Option<Bytes> {
        let chunk = self.memory.chunks.get(key)?;
        match (&chunk.committed, &chunk.staged) {
            (Some((c, bytes)), _) if c.ver == ver => (!chunk.rotten.0).then(|| bytes.clone()),
            (_, Some((s, bytes))) if s.ver == ver && s.durable => (!chunk.rotten.1).then(|| bytes.clone()),
            _ => None,
        }
    }
}

impl ChunkStore for ModelStore {
    type Payload = Bytes;

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
        Space { total: 1 << 30, used: 0, reserved: 0, chunks: self.memory.chunks.len() as u64, level: 0 }
    }

    fn stage(&mut self, r: StageRequest<Bytes>) -> Result<(), Code> {
        let remove = r.op.kind() == OpKind::Remove;
        if let Some(code) = self.full.filter(|_| !remove && self.rng.below(self.full_one_in) == 0) {
            return Err(code);
        }
        let chunk = self.memory.chunks.get(&r.key).cloned().unwrap_or_default();
        let base = chunk.committed.as_ref().map_or(0, |(c, _)| c.ver);
        if chunk.staged.is_some() || r.ver <= base || r.payload.data.len() != r.op.payload_len() as usize {
            self.complain(format!("stage of {} version {} over {:?}", r.key, r.ver, meta(&chunk)));
            return Err(Code::InvalidArgument);
        }
        let old = chunk.committed.map(|(_, bytes)| bytes).unwrap_or_default();
        let keeps = chunk.rotten.0 && keeps(&r.op, old.len() as u32);
        let fails = keeps && self.rng.below(4) > 0;
        let mut bytes = old.to_vec();
        bytes.resize(r.op.new_len(old.len() as u32) as usize, 0);
        if r.op.kind() == OpKind::Write {
            bytes[r.op.offset as usize..][..r.payload.data.len()].copy_from_slice(&r.payload.data);
        }
        let (len, checksum) = if remove { (0, 0) } else { (bytes.len() as u32, crc32c(&bytes)) };
        let staged = Staged { ver: r.ver, chain_ver: r.chain_ver, len, checksum, tag: r.tag, remove, durable: true };
        let flaw = match keeps {
            true if chunk.lost => Flaw::Lost,
            true => Flaw::Rot,
            false => Flaw::None,
        };
        let stage = Record::Stage(r.key.clone(), r.chunk_size, staged, bytes.into(), flaw);
        if fails {
            // Blocks that it would have had to read: there is no record of it.
            self.memory.apply(&stage);
        } else {
            self.record(stage);
        }
        if let Some((staged, _)) = self.memory.chunks.get_mut(&r.key).and_then(|c| c.staged.as_mut()) {
            (staged.durable, staged.checksum) = (false, 0);
        }
        if fails {
            let damaged = Done::Damaged { key: r.key.clone(), ver: base };
            self.started_reads.push(vec![damaged, Done::StageFailed { key: r.key, ver: r.ver, code: Code::Corrupt }]);
            return Ok(());
        }
        self.ends_durable(Done::Staged { key: r.key, ver: r.ver, info: StageInfo { len, checksum, ..StageInfo::default() } });
        Ok(())
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        if self.memory.chunks.get(key).and_then(|c| c.staged.as_ref()).is_none_or(|(s, _)| s.ver != ver || !s.durable) {
            self.complain(format!("commit of {key} version {ver}, which is not staged durably"));
            return;
        }
        self.record(Record::Commit(key.clone(), ver, chain_ver));
    }

    fn unstage(&mut self, key: &ChunkKey, ver: Ver) {
        if self.memory.chunks.get(key).and_then(|c| c.staged.as_ref()).is_none_or(|(s, _)| s.ver != ver) {
            self.complain(format!("unstage of {key} version {ver}, which is not staged"));
        }
        self.cancel_stage(key);
        self.record(Record::Unstage(key.clone(), ver));
        self.ends_durable(Done::Unstaged { key: key.clone(), ver });
    }

    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        let corrupt = self.corrupt_one_in > 0 && self.rng.below(self.corrupt_one_in) == 0;
        let result = match self.bytes(key, ver) {
            Some(_) if corrupt => Err(Code::Corrupt),
            Some(bytes) => {
                let from = (offset as usize).min(bytes.len());
                let part = bytes.slice(from..(from + len as usize).min(bytes.len()));
                let crc = crc32c(&part);
                Ok((part, crc))
            }
            None if self.has(key, ver) => {
                let damaged = Done::Damaged { key: key.clone(), ver };
                return self.started_reads.push(vec![damaged, Done::Read { id, result: Err(Code::Corrupt) }]);
            }
            None => {
                self.complain(format!("read of {key} version {ver}, which is not here"));
                Err(Code::Corrupt)
            }
        };
        self.started_reads.push(vec![Done::Read { id, result }]);
    }

    fn install(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, c: Committed, payload: Payload<Bytes>) -> Result<(), Code> {
        if let Some(code) = self.full.filter(|_| self.rng.below(self.full_one_in) == 0) {
            return Err(code);
        }
        if payload.data.len() != c.len as usize || crc32c(&payload.data) != c.checksum {
            self.complain(format!("install of {key} with {} bytes that are not those of {c:?}", payload.data.len()));
        }
        self.cancel_stage(key);
        self.record(Record::Install(key.clone(), chunk_size, c, payload.data));
        self.ends_durable(Done::Synced { id });
        Ok(())
    }

    fn patch(&mut self, id: u64, key: &ChunkKey, c: Committed, parts: Vec<Part<Bytes>>) -> Result<(), Code> {
        if let Some(code) = self.full.filter(|_| self.rng.below(self.full_one_in) == 0) {
            return Err(code);
        }
        let chunk = self.memory.chunks.get(key).cloned().unwrap_or_default();
        let old = chunk.committed.filter(|(old, _)| chunk.staged.is_none() && old.ver < c.ver && old.len <= c.len);
        let Some((_, old)) = old else { return Err(Code::InvalidArgument) };
        let mut bytes = old.to_vec();
        for part in &parts {
            let end = part.offset as usize + part.payload.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[part.offset as usize..end].copy_from_slice(&part.payload);
        }
        let same = bytes.len() == c.len as usize && crc32c(&bytes) == c.checksum;
        if chunk.rotten.0 || !same || self.rng.below(20) == 0 {
            self.started_reads.push(vec![Done::NotPatched { id }]);
            return Ok(());
        }
        self.record(Record::Install(key.clone(), chunk.size, c, bytes.into()));
        self.ends_durable(Done::Synced { id });
        Ok(())
    }

    fn install_lost(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, c: Committed) -> Result<(), Code> {
        if let Some(code) = self.full.filter(|_| self.rng.below(self.full_one_in) == 0) {
            return Err(code);
        }
        self.cancel_stage(key);
        self.record(Record::Lost(key.clone(), chunk_size, c));
        self.ends_durable(Done::Synced { id });
        Ok(())
    }

    fn sums(&mut self, id: u64, key: &ChunkKey, ver: Ver) {
        let chunk = self.memory.chunks.get(key).filter(|c| c.committed.as_ref().is_some_and(|(c, _)| c.ver == ver));
        let padded = |block: &[u8]| crc32c(&[block, &vec![0; BLOCK as usize - block.len()]].concat());
        let result = match chunk {
            None => {
                self.complain(format!("checksums of {key} version {ver}, which is not here"));
                Err(Code::NotFound)
            }
            Some(chunk) if chunk.lost || self.rng.below(20) == 0 => Err(Code::Corrupt),
            Some(chunk) => {
                let bytes = chunk.committed.as_ref().map(|(_, bytes)| bytes.clone()).unwrap_or_default();
                Ok(bytes.chunks(BLOCK as usize).map(padded).collect())
            }
        };
        self.started_reads.push(vec![Done::Sums { id, result }]);
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

fn meta(chunk: &Chunk) -> ChunkMeta {
    let committed = chunk.committed.as_ref().map(|(c, _)| *c);
    ChunkMeta { chunk_size: chunk.size, committed, staged: chunk.staged.as_ref().map(|(s, _)| *s) }
}
