//! A chunk store in memory whose slow operations end when the test says so, and a replica with everything around it.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use catena_chain::{ClientRead, ClientUpdate, Command, Config, Event, Replica, RequestId, answers};
use catena_types::store::Part;
use catena_types::{
    Chain, ChainVer, ChunkKey, ChunkMeta, ChunkStore, Code, Committed, Done, Member, Op, OpKind, Payload, Precondition,
    PublicState, Seq, SessionId, SessionRow, Space, StageInfo, StageRequest, Staged, Tag, TargetId, Ver, crc, limits,
};
use catena_wire::peer::{Body, PeerMsg};

pub type Bytes = Vec<u8>;

#[derive(Default)]
struct Chunk {
    meta: ChunkMeta,
    committed: Bytes,
    staged: Bytes,
    /// The staged update leaves nothing of the version before it.
    whole: bool,
}

/// See the file's documentation.
#[derive(Default)]
pub struct FakeStore {
    chunks: BTreeMap<ChunkKey, Chunk>,
    sessions: BTreeMap<SessionId, SessionRow>,
    floor: Ver,
    /// Ranges of blocks that patches have written, and their bytes.
    pub patched: Vec<(ChunkKey, u32, usize)>,
    /// The checksums of blocks are not known.
    pub no_sums: bool,
    /// The next patch does not make what it should.
    pub lie: bool,
    /// Chunks whose committed bytes do not match their checksum.
    rotten: BTreeSet<ChunkKey>,
    /// What ends next, in order; moved out by the test.
    pub pending: Vec<Done<Bytes>>,
    /// Calls since the last look, one line each.
    pub log: Vec<String>,
    /// Refuse the next stage or install with this.
    pub refuse: Option<Code>,
}

impl FakeStore {
    fn chunk(&mut self, key: &ChunkKey) -> &mut Chunk {
        self.chunks.entry(key.clone()).or_default()
    }

    /// Puts a staged update there that nobody has in memory, as a restart leaves it.
    pub fn leave_staged(&mut self, key: &ChunkKey, ver: Ver, tag: Tag, bytes: &[u8]) {
        let staged = Staged {
            ver,
            chain_ver: 1,
            len: bytes.len() as u32,
            checksum: crc::crc32c(bytes),
            tag,
            remove: false,
            durable: true,
        };
        let chunk = self.chunk(key);
        chunk.meta.staged = Some(staged);
        chunk.meta.chunk_size = 4096;
        chunk.staged = bytes.to_vec();
    }

    /// What the disk holds of the committed version goes bad.
    pub fn rot(&mut self, key: &ChunkKey) {
        self.rotten.insert(key.clone());
    }
    /// The bytes are good after all.
    pub fn unrot(&mut self, key: &ChunkKey) {
        self.rotten.remove(key);
    }
    pub fn staged(&self, name: &str) -> bool {
        self.chunks.get(&key(name)).and_then(|c| c.meta.staged).is_some_and(|s| s.durable)
    }
    pub fn meta_of(&self, name: &str) -> Option<Committed> {
        self.chunks.get(&key(name))?.meta.committed
    }
    /// The stage that is under way ends without anything staged; the caller says so.
    pub fn fail_stage(&mut self, key: &ChunkKey) {
        let staging = self.chunks.get(key).and_then(|c| c.meta.staged).is_some_and(|s| !s.durable);
        if staging {
            self.chunk(key).meta.staged = None;
            self.pending.retain(|d| !matches!(d, Done::Staged { .. }));
        }
    }
    pub fn is_rotten(&self, key: &ChunkKey) -> bool {
        self.rotten.contains(key)
    }

    pub fn bytes(&self, key: &ChunkKey) -> Option<&[u8]> {
        let chunk = self.chunks.get(key)?;
        chunk.meta.committed.map(|_| chunk.committed.as_slice())
    }

    fn tidy(&mut self, key: &ChunkKey) {
        if self.chunks.get(key).is_some_and(|c| c.meta.committed.is_none() && c.meta.staged.is_none()) {
            self.chunks.remove(key);
        }
    }
}

/// Whether an update reads bytes of the version before it.
fn keeps(old: &[u8], op: Op) -> bool {
    match op.kind() {
        OpKind::Write => op.offset > 0 || (op.len as usize) < old.len(),
        OpKind::Truncate => (op.len as usize) < old.len(),
        _ => false,
    }
}

/// The bytes of a chunk after an update.
pub fn apply(old: &[u8], op: Op, payload: &[u8]) -> Bytes {
    let mut new = old.to_vec();
    new.resize(op.new_len(old.len() as u32) as usize, 0);
    if op.kind() == OpKind::Write {
        new[op.offset as usize..][..payload.len()].copy_from_slice(payload);
    }
    new
}

impl ChunkStore for FakeStore {
    type Payload = Bytes;

    fn meta(&self, key: &ChunkKey) -> Option<ChunkMeta> {
        self.chunks.get(key).map(|c| c.meta)
    }
    fn scan(&self, from: &[u8], limit: usize) -> Vec<(ChunkKey, ChunkMeta)> {
        self.chunks.iter().filter(|(k, _)| k.as_bytes() >= from).take(limit).map(|(k, c)| (k.clone(), c.meta)).collect()
    }
    fn remove_floor(&self) -> Ver {
        self.floor
    }
    fn session(&self, id: SessionId) -> Option<SessionRow> {
        self.sessions.get(&id).copied()
    }
    fn sessions(&self, after: Option<SessionId>, limit: usize) -> Vec<(SessionId, SessionRow)> {
        self.sessions.iter().filter(|(id, _)| after.is_none_or(|a| **id > a)).take(limit).map(|(i, r)| (*i, *r)).collect()
    }
    fn space(&self) -> Space {
        Space { chunks: self.chunks.len() as u64, ..Space::default() }
    }

    fn stage(&mut self, request: StageRequest<Bytes>) -> Result<(), Code> {
        if let Some(code) = self.refuse.take() {
            self.log.push(format!("stage refused {code:?}"));
            return Err(code);
        }
        let StageRequest { key, ver, chain_ver, tag, op, chunk_size, payload } = request;
        assert_eq!(payload.len, op.payload_len());
        let rotten = self.is_rotten(&key);
        let chunk = self.chunk(&key);
        let fails = rotten && keeps(&chunk.committed, op);
        let base = chunk.meta.commit_ver();
        chunk.whole = op.kind() == OpKind::Remove || (op.kind() == OpKind::Write && !keeps(&chunk.committed, op));
        assert!(chunk.meta.staged.is_none(), "one staged update at a time");
        chunk.staged = if op.kind() == OpKind::Remove { Vec::new() } else { apply(&chunk.committed, op, &payload.data) };
        let remove = op.kind() == OpKind::Remove;
        let (len, checksum) = (chunk.staged.len() as u32, if remove { 0 } else { crc::crc32c(&chunk.staged) });
        chunk.meta.chunk_size = chunk_size;
        chunk.meta.staged = Some(Staged { ver, chain_ver, len, checksum, tag, remove, durable: false });
        let info = StageInfo { len, checksum, ..Default::default() };
        self.log.push(format!("stage {key} v{ver}"));
        if fails {
            self.pending.push(Done::Damaged { key: key.clone(), ver: base });
            self.pending.push(Done::StageFailed { key, ver, code: Code::Corrupt });
        } else {
            self.pending.push(Done::Staged { key, ver, info });
        }
        Ok(())
    }
    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        self.log.push(format!("commit {key} v{ver} cv{chain_ver}"));
        let chunk = self.chunk(key);
        let staged = chunk.meta.staged.take().expect("commit of a staged update");
        assert!(staged.ver == ver && staged.durable, "commit of what is durable");
        let (len, checksum, tag) = (staged.len, staged.checksum, staged.tag);
        let whole = chunk.whole;
        chunk.committed = std::mem::take(&mut chunk.staged);
        chunk.meta.committed = (!staged.remove).then_some(Committed { ver, chain_ver, len, checksum, tag });
        if whole {
            self.rotten.remove(key);
        }
        if staged.remove {
            self.floor = self.floor.max(ver);
        }
        self.put_session(tag.session(), SessionRow { seq: tag.seq, ver, len, checksum, chain_ver });
        self.tidy(key);
    }
    fn unstage(&mut self, key: &ChunkKey, ver: Ver) {
        self.log.push(format!("unstage {key} v{ver}"));
        self.chunk(key).meta.staged = None;
        self.pending.retain(|d| !matches!(d, Done::Staged { key: k, .. } | Done::StageFailed { key: k, .. } if k == key));
        self.pending.push(Done::Unstaged { key: key.clone(), ver });
        self.tidy(key);
    }
    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        let chunk = &self.chunks[key];
        let committed = chunk.meta.committed.is_some_and(|c| c.ver == ver);
        let bytes = if committed { &chunk.committed } else { &chunk.staged };
        let (from, to) = ((offset as usize).min(bytes.len()), ((offset + len) as usize).min(bytes.len()));
        let data = bytes[from..to].to_vec();
        let crc = crc::crc32c(&data);
        self.log.push(format!("read {key} v{ver}"));
        if committed && self.is_rotten(key) {
            self.pending.push(Done::Damaged { key: key.clone(), ver });
            return self.pending.push(Done::Read { id, result: Err(Code::Corrupt) });
        }
        self.pending.push(Done::Read { id, result: Ok((data, crc)) });
    }
    fn install(
        &mut self,
        id: u64,
        key: &ChunkKey,
        chunk_size: u32,
        committed: Committed,
        payload: Payload<Bytes>,
    ) -> Result<(), Code> {
        if let Some(code) = self.refuse.take() {
            return Err(code);
        }
        self.log.push(format!("install {key} v{}", committed.ver));
        assert_eq!((payload.len, crc::crc32c(&payload.data)), (committed.len, committed.checksum));
        self.rotten.remove(key);
        let meta = ChunkMeta { chunk_size, committed: Some(committed), staged: None };
        self.chunks.insert(key.clone(), Chunk { meta, committed: payload.data, staged: Vec::new(), whole: false });
        self.pending.push(Done::Synced { id });
        Ok(())
    }
    fn patch(&mut self, id: u64, key: &ChunkKey, committed: Committed, parts: Vec<Part<Bytes>>) -> Result<(), Code> {
        let chunk = self.chunks.get(key).filter(|c| c.meta.staged.is_none());
        let fits = |old: &Committed| old.ver < committed.ver && old.len <= committed.len;
        let Some(chunk) = chunk.filter(|c| c.meta.committed.as_ref().is_some_and(fits)) else {
            return Err(Code::InvalidArgument);
        };
        let mut bytes = chunk.committed.clone();
        let at: Vec<_> = parts.iter().map(|p| (key.clone(), p.offset, p.payload.len())).collect();
        for part in parts {
            bytes.resize(bytes.len().max(part.offset as usize + part.payload.len()), 0);
            bytes[part.offset as usize..][..part.payload.len()].copy_from_slice(&part.payload);
        }
        let lies = std::mem::take(&mut self.lie);
        let chunk = self.chunk(key);
        if !lies && (bytes.len() as u32, crc::crc32c(&bytes)) == (committed.len, committed.checksum) {
            (chunk.meta.committed, chunk.committed) = (Some(committed), bytes);
            self.log.push(format!("patch {key} v{}", committed.ver));
            self.pending.push(Done::Synced { id });
        } else {
            self.pending.push(Done::NotPatched { id });
        }
        self.patched.extend(at);
        Ok(())
    }
    fn install_lost(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, committed: Committed) -> Result<(), Code> {
        self.log.push(format!("lost {key} v{}", committed.ver));
        let meta = ChunkMeta { chunk_size, committed: Some(committed), staged: None };
        let committed = vec![0; committed.len as usize];
        self.chunks.insert(key.clone(), Chunk { meta, committed, staged: Vec::new(), whole: false });
        self.rotten.insert(key.clone());
        self.pending.push(Done::Synced { id });
        Ok(())
    }
    fn sums(&mut self, id: u64, key: &ChunkKey, ver: Ver) {
        let chunk = &self.chunks[key];
        assert_eq!(chunk.meta.commit_ver(), ver);
        let padded = |block: &[u8]| crc::crc32c(&[block, &vec![0; limits::BLOCK as usize - block.len()]].concat());
        let result = match self.no_sums {
            true => Err(Code::Corrupt),
            false => Ok(chunk.committed.chunks(limits::BLOCK as usize).map(padded).collect()),
        };
        self.pending.push(Done::Sums { id, result });
    }
    fn purge(&mut self, id: u64, key: &ChunkKey) {
        self.log.push(format!("purge {key}"));
        self.chunks.remove(key);
        self.pending.push(Done::Synced { id });
    }
    fn clear_sessions(&mut self) {
        self.log.push("clear sessions".into());
        self.sessions.clear();
    }
    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        let newest = self.sessions.entry(id).or_insert(row);
        if row.seq > newest.seq {
            *newest = row;
        }
    }
    fn drop_session(&mut self, id: SessionId, seq: Seq) {
        if self.sessions.get(&id).is_some_and(|row| row.seq == seq) {
            self.log.push(format!("drop session {}", id.channel));
            self.sessions.remove(&id);
        }
    }
    fn raise_remove_floor(&mut self, floor: Ver) {
        self.floor = self.floor.max(floor);
    }
    fn sync(&mut self, id: u64) {
        self.log.push("sync".into());
        self.pending.push(Done::Synced { id });
    }
}

/// One replica, its store, and what it has said.
pub struct Target {
    pub id: TargetId,
    pub replica: Replica<Bytes>,
    pub store: FakeStore,
    pub out: Vec<Command<Bytes>>,
    /// Whom it asked last for a chunk, and under which number.
    pub asked: (TargetId, u64),
}

pub const NOW: u64 = 1_000_000;
pub const LEASE_END: u64 = 1_000_000_000;

impl Target {
    pub fn new(id: TargetId) -> Target {
        Target::with(id, Config { page_chunks: 2, sync_window: 2, ..Config::default() })
    }
    pub fn with(id: TargetId, config: Config) -> Target {
        Target { id, replica: Replica::new(id, config), store: FakeStore::default(), out: Vec::new(), asked: (0, 0) }
    }

    pub fn at(&mut self, now: u64, event: Event<Bytes>) {
        self.replica.handle(now, event, &mut self.store, &mut self.out);
    }
    pub fn on(&mut self, event: Event<Bytes>) {
        self.at(NOW, event);
    }
    pub fn routing(&mut self, chain: &Chain) {
        self.on(Event::Routing { version: chain.chain_ver, chain: chain.clone() });
    }
    pub fn lease(&mut self) {
        self.on(Event::Lease { until: LEASE_END, routing: 0 });
    }

    /// Ends everything the store has started, and what that starts.
    pub fn finish_io(&mut self) {
        while !self.store.pending.is_empty() {
            self.finish_one();
        }
    }
    pub fn finish_one_if_any(&mut self) {
        if !self.store.pending.is_empty() {
            self.finish_one();
        }
    }
    /// Puts a committed version there.
    pub fn hold(&mut self, name: &str, committed: Committed, bytes: &[u8]) {
        let meta = ChunkMeta { chunk_size: 4096, committed: Some(committed), staged: None };
        self.store.chunks.insert(key(name), Chunk { meta, committed: bytes.to_vec(), staged: Vec::new(), whole: false });
    }
    pub fn finish_one(&mut self) {
        let done = self.store.pending.remove(0);
        if let Done::Staged { key, ver, .. } = &done
            && let Some(staged) = self.store.chunk(key).meta.staged.as_mut().filter(|s| s.ver == *ver)
        {
            staged.durable = true;
        }
        if let Done::StageFailed { key, .. } = &done {
            self.store.chunk(key).meta.staged = None;
            self.store.tidy(key);
        }
        self.on(Event::Done(done));
    }

    pub fn take(&mut self) -> Vec<Command<Bytes>> {
        for command in &self.out {
            if let Command::Send { msg: PeerMsg { to, body: Some(Body::Fetch(f)), .. }, .. } = command {
                self.asked = (*to, f.id);
            }
        }
        std::mem::take(&mut self.out)
    }
    /// Messages waiting to be sent, removed from the output.
    pub fn sent(&mut self) -> Vec<(PeerMsg, Option<Payload<Bytes>>)> {
        let (sends, rest) = self.take().into_iter().partition(|c| matches!(c, Command::Send { .. }));
        self.out = rest;
        let send = |c| match c {
            Command::Send { msg, payload } => (msg, payload),
            _ => unreachable!("partitioned"),
        };
        Vec::into_iter(sends).map(send).collect()
    }
    /// The failure code (or `Ok`) of each update reply so far, removed from the output.
    pub fn update_replies(&mut self) -> Vec<(RequestId, Code)> {
        let mut replies = Vec::new();
        self.out.retain(|c| match c {
            Command::UpdateReply { request, reply } => {
                replies.push((*request, reply.failure.as_ref().map_or(Code::Ok, |f| f.code())));
                false
            }
            _ => true,
        });
        replies
    }
    /// Code and bytes of each read reply so far, removed from the output.
    pub fn read_replies(&mut self) -> Vec<(RequestId, Code, Bytes)> {
        let mut replies = Vec::new();
        self.out.retain(|c| match c {
            Command::ReadReply { request, reply, payload } => {
                let code = reply.failure.as_ref().map_or(Code::Ok, |f| f.code());
                replies.push((*request, code, payload.clone().map_or(Vec::new(), |p| p.data)));
                false
            }
            _ => true,
        });
        replies
    }
}

pub fn key(name: &str) -> ChunkKey {
    ChunkKey::new(name.as_bytes()).expect("short")
}

pub fn tag(channel: u32, seq: Seq) -> Tag {
    Tag { client: 7, channel, seq }
}

/// A chain from `"1S 2S 3Y"`: S serving, L last serving, C chosen, Y syncing, W waiting, O offline.
pub fn chain(chain_ver: ChainVer, members: &str) -> Chain {
    let member = |word: &str| {
        let (id, state) = word.split_at(word.len() - 1);
        let state = match state {
            "S" => PublicState::Serving,
            "L" | "C" => PublicState::LastSrv,
            "Y" => PublicState::Syncing,
            "W" => PublicState::Waiting,
            _ => PublicState::Offline,
        };
        Member { target: id.parse().expect("a number"), state: state as i32, chosen: word.ends_with('C') }
    };
    Chain { id: 1, chain_ver, members: members.split_whitespace().map(member).collect() }
}

pub fn payload(bytes: &[u8]) -> Payload<Bytes> {
    bytes.to_vec().into()
}

/// A client's write of `bytes` at 0 of chunk "k".
pub fn write(request: RequestId, chain_ver: ChainVer, tag: Tag, bytes: &[u8]) -> ClientUpdate<Bytes> {
    ClientUpdate {
        request,
        chain_ver,
        key: key("k"),
        chunk_size: 4096,
        op: Op::write(0, bytes.len() as u32),
        precondition: Precondition::Any,
        tag,
        first: true,
        explain: false,
        payload: payload(bytes),
    }
}

pub fn read(request: RequestId, chain_ver: ChainVer) -> Event<Bytes> {
    let deadline = LEASE_END;
    Event::Read(ClientRead { request, chain_ver, key: key("k"), offset: 0, len: 100, relaxed: false, deadline })
}

/// A chain of targets with reliable links between them.
pub struct World {
    pub targets: Vec<Target>,
}

impl World {
    /// Targets 1..=n, all SERVING under chain version 1, leased and confirmed.
    pub fn new(n: u32) -> World {
        World::of((1..=n).map(Target::new).collect())
    }
    pub fn with(n: u32, config: &Config) -> World {
        World::of((1..=n).map(|id| Target::with(id, config.clone())).collect())
    }
    fn of(targets: Vec<Target>) -> World {
        let n = targets.len();
        let mut world = World { targets };
        let members: Vec<String> = (1..=n).map(|i| format!("{i}S")).collect();
        world.adopt(&chain(1, &members.join(" ")));
        world
    }
    pub fn adopt(&mut self, chain: &Chain) {
        for target in &mut self.targets {
            target.lease();
            target.routing(chain);
        }
        self.settle();
    }
    pub fn t(&mut self, id: TargetId) -> &mut Target {
        self.targets.iter_mut().find(|t| t.id == id).expect("a target of this world")
    }
    /// Delivers what has been sent, one round. Returns whether there was anything.
    pub fn deliver(&mut self) -> bool {
        let sent: Vec<_> = self.targets.iter_mut().flat_map(Target::sent).collect();
        for (msg, payload) in sent.iter().cloned() {
            if let Some(target) = self.targets.iter_mut().find(|t| t.id == msg.to) {
                let payload = payload.or_else(|| (!answers(&msg)).then(|| crate::support::payload(b"")));
                target.on(Event::Peer { msg, payload });
            }
        }
        !sent.is_empty()
    }
    /// Runs until nothing moves.
    pub fn settle(&mut self) {
        self.settle_but(&[]);
    }
    /// Runs until nothing moves; messages of these kinds are lost.
    pub fn settle_but(&mut self, lost: &[&str]) {
        let is_lost = |msg: &PeerMsg| lost.iter().any(|kind| name(msg).split(['(', '→']).next() == Some(kind));
        loop {
            self.targets.iter_mut().for_each(Target::finish_io);
            for target in &mut self.targets {
                target.out.retain(|c| !matches!(c, Command::Send { msg, .. } if is_lost(msg)));
            }
            if !self.deliver() {
                return;
            }
        }
    }
}

/// The kind of a message, for tables.
pub fn name(msg: &PeerMsg) -> String {
    let to = msg.to;
    match &msg.body {
        Some(Body::Forward(f)) => format!("Forward(v{}, attempt {})→{to}", f.ver, f.attempt),
        Some(Body::Release(r)) => format!("Release(v{})→{to}", r.ver),
        Some(Body::Reply(r)) => format!("Reply(v{}, cv{})→{to}", r.ver, r.commit_chain_ver),
        Some(Body::Reject(r)) => format!("Reject(v{}, attempt {}, {:?})→{to}", r.ver, r.attempt, r.code()),
        Some(Body::Query(_)) => format!("Query→{to}"),
        Some(Body::Answer(a)) => {
            format!("Answer({})→{to}", if a.absent { "absent".into() } else { format!("v{}", a.commit_ver) })
        }
        Some(Body::Confirm(_)) => format!("Confirm→{to}"),
        Some(Body::SyncPage(_)) => format!("SyncPage→{to}"),
        Some(Body::Page(p)) => format!("Page({} chunks)→{to}", p.entries.len()),
        Some(Body::SyncPut(_)) => format!("SyncPut→{to}"),
        Some(Body::SyncSums(_)) => format!("SyncSums→{to}"),
        Some(Body::Sums(s)) => format!("Sums({})→{to}", s.crcs.len()),
        Some(Body::SyncPart(p)) => format!("SyncPart({})→{to}", p.offset),
        Some(Body::SyncPatch(p)) => format!("SyncPatch(v{}, {} parts)→{to}", p.committed.ver, p.parts),
        Some(Body::SyncLost(l)) => format!("SyncLost(v{})→{to}", l.committed.ver),
        Some(Body::SyncDrop(_)) => format!("SyncDrop→{to}"),
        Some(Body::Synced(s)) => format!("Synced({:?})→{to}", s.code()),
        Some(Body::SyncSessions(s)) => format!("SyncSessions({})→{to}", s.rows.len()),
        Some(Body::SyncDone(_)) => format!("SyncDone→{to}"),
        Some(Body::SyncDoneReply(_)) => format!("SyncDoneReply→{to}"),
        Some(Body::Credit(c)) => format!("Credit({:?})→{to}", c.attempts),
        Some(Body::Expire(e)) => format!("Expire({})→{to}", e.idle.len()),
        Some(Body::Fetch(f)) => format!("Fetch(v{})→{to}", f.ver),
        Some(Body::Fetched(f)) => format!("Fetched({:?})→{to}", f.code()),
        None => "nothing".into(),
    }
}
