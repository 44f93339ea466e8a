//! The last SERVING member's part of a resync: a cursor walks the keys, and what differs is sent (protocol section 7,
//! amendments C3 and C13).
//!
//! Keys below the cursor are settled: the sink is equal, and updates are forwarded to it. The page at the cursor is
//! settled key by key, each in its own turn, with no update of it in flight. Above it this target acts as tail. The
//! cursor never goes back under one chain version. How a chunk that differs is sent is in `difference`.

use std::collections::BTreeMap;

use catena_types::{ChunkKey, ChunkMeta, Code, Committed, Payload, TargetId, Time, Ver, limits};
use catena_wire::manager::SyncProgress;
use catena_wire::peer::{Body, Page, SessionEntry, SyncDone, SyncDrop, SyncLost, SyncPage, SyncPut, SyncSessions, Synced};

use super::chunk::{Busy, Turn};
use super::difference::Difference;
use super::read::Reading;
use super::{Cx, Replica};
use crate::mutation::{Mutation, is};

/// State of a source under one chain version.
#[derive(Clone, Hash)]
pub(super) struct Source {
    sink: TargetId,
    /// Keys below are settled.
    cursor: Vec<u8>,
    phase: Phase,
    progress: SyncProgress,
    started: Time,
    /// No chunk is started before, by the rate.
    pause: Time,
    /// When it was looked at last.
    seen: Time,
    /// When clients' requests were last in progress here.
    clients: Option<Time>,
    /// Keys of the page that could not be read, how often, and when to try again.
    unreadable: BTreeMap<ChunkKey, (u32, Time)>,
}

#[derive(Clone, Hash)]
enum Phase {
    /// Waits for what the sink holds from the cursor up to this key (empty: the end).
    Asking { to: Vec<u8> },
    /// Settles the page `[cursor, end)`: keys not started, with what the sink said of them, and keys under way, with what
    /// is known of how they differ.
    Settling { end: Vec<u8>, rest: BTreeMap<ChunkKey, Option<ChunkMeta>>, active: BTreeMap<ChunkKey, Option<Difference>> },
    /// SyncDone was sent: from here on every update waits for the sink, until a new chain version.
    Done,
    /// Given up before SyncDone: this target acts as tail for all chunks.
    GivenUp { reason: String },
}

impl Source {
    pub(super) fn new(sink: TargetId, now: Time, chunks: u64) -> Source {
        let progress = SyncProgress { chunks_total: chunks, ..SyncProgress::default() };
        Source {
            sink,
            cursor: Vec::new(),
            phase: Phase::Asking { to: Vec::new() },
            progress,
            started: now,
            pause: now,
            seen: now,
            clients: None,
            unreadable: BTreeMap::new(),
        }
    }

    /// Whether an update of `key` whose turn comes now is forwarded to the sink.
    pub(super) fn forwards(&self, key: &ChunkKey) -> bool {
        let bytes = key.as_bytes();
        match &self.phase {
            Phase::GivenUp { .. } => false,
            Phase::Done => !is(Mutation::DoneNotForwarded),
            Phase::Asking { .. } => bytes < self.cursor.as_slice(),
            Phase::Settling { end, rest, active } => {
                let in_page = end.is_empty() || bytes < end.as_slice();
                in_page && !rest.contains_key(key) && !active.contains_key(key) && !is(Mutation::SettledNotForwarded)
            }
        }
    }

    /// Ends the resync, unless SyncDone was sent. Says whether it did.
    pub(super) fn give_up(&mut self, reason: String) -> bool {
        let done = matches!(self.phase, Phase::Done) && !is(Mutation::GiveUpAfterDone);
        let may = !done && !matches!(self.phase, Phase::GivenUp { .. });
        if may {
            self.phase = Phase::GivenUp { reason };
        }
        may
    }

    pub(super) fn failure(&self) -> Option<String> {
        match &self.phase {
            Phase::GivenUp { reason } => Some(reason.clone()),
            _ => None,
        }
    }

    pub(super) fn progress(&self) -> SyncProgress {
        self.progress
    }

    /// When it goes on by itself: a key waits for nothing but the rate.
    pub(super) fn wake(&self) -> Option<Time> {
        let Phase::Settling { rest, .. } = &self.phase else { return None };
        let due = rest.keys().map(|key| self.unreadable.get(key).map_or(0, |(_, at)| *at)).min();
        due.map(|due| due.max(self.pause)).filter(|&at| at > self.seen)
    }

    /// The next key of the page that may be started now.
    fn next_key(&self) -> Option<ChunkKey> {
        let Phase::Settling { rest, .. } = &self.phase else { return None };
        rest.keys().find(|key| self.unreadable.get(*key).is_none_or(|(_, at)| *at <= self.seen)).cloned()
    }

    /// A chunk cannot be read now: puts it back, to be tried again at `at`, unless that has been done `most` times.
    fn put_back(&mut self, key: &ChunkKey, at: Time, most: u32) -> bool {
        let tries = self.unreadable.entry(key.clone()).or_insert((0, 0));
        *tries = (tries.0 + 1, at);
        let again = tries.0 <= most;
        if again && let Phase::Settling { rest, active, .. } = &mut self.phase {
            active.remove(key);
            // What the sink holds is asked for anew.
            rest.insert(key.clone(), Some(ChunkMeta::default()));
        }
        again
    }

    fn settle(&mut self, key: &ChunkKey, now: Time, len: u32) {
        if let Phase::Settling { active, .. } = &mut self.phase
            && active.remove(key).is_some()
        {
            self.progress.chunks += 1;
            self.progress.bytes += u64::from(len);
            self.progress.elapsed_ms = now.saturating_sub(self.started) / 1_000_000;
        }
    }

    pub(super) fn settling(&self, key: &ChunkKey) -> bool {
        matches!(&self.phase, Phase::Settling { active, .. } if active.contains_key(key))
    }

    /// How the chunk that is being settled differs, as far as it is known.
    pub(super) fn difference(&mut self, key: &ChunkKey) -> Option<&mut Option<Difference>> {
        match &mut self.phase {
            Phase::Settling { active, .. } => active.get_mut(key),
            _ => None,
        }
    }

    /// The chunk whose comparison goes by this number.
    pub(super) fn compared(&self, id: u64) -> Option<ChunkKey> {
        let Phase::Settling { active, .. } = &self.phase else { return None };
        active.iter().find(|(_, d)| d.as_ref().is_some_and(|d| d.id == id)).map(|(key, _)| key.clone())
    }

    /// Bytes of a chunk go out: the next chunk waits until the rate allows it.
    pub(super) fn sent(&mut self, now: Time, bytes: u32, rate: u64) {
        self.progress.bytes_sent += u64::from(bytes);
        if rate > 0 {
            let takes = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
            self.pause = self.pause.max(now) + takes as Time;
        }
    }

    /// Something of a chunk has been sent.
    pub(super) fn chunk_sent(&mut self) {
        self.progress.chunks_sent += 1;
    }

    pub(super) fn sink(&self) -> TargetId {
        self.sink
    }
}

impl<P: Clone> Replica<P> {
    pub(super) fn start_source(&mut self, cx: &mut Cx<P>) {
        if self.source.is_some() {
            self.ask_page(cx);
        }
    }

    /// Chooses the next page, as large as the configuration allows of the chunks held here, and asks for the sink's.
    fn ask_page(&mut self, cx: &mut Cx<P>) {
        let most = self.config.page_chunks;
        let Some(source) = &mut self.source else { return };
        let mine = cx.store.scan(&source.cursor, most + 1);
        let to = mine.get(most).map_or(Vec::new(), |(key, _)| key.as_bytes().to_vec());
        let page = SyncPage { from: source.cursor.clone(), to: to.clone() };
        source.phase = Phase::Asking { to };
        let sink = source.sink;
        self.send(cx, sink, Body::SyncPage(page), None);
    }

    pub(super) fn on_page(&mut self, cx: &mut Cx<P>, page: Page) {
        let Some(source) = &mut self.source else { return };
        let Phase::Asking { to } = &source.phase else { return };
        let narrower = to.is_empty() || (!page.end.is_empty() && page.end <= *to);
        let moves_on = page.end.is_empty() || page.end > source.cursor;
        if page.from != source.cursor || !narrower {
            return; // the answer to another question: a page can be asked for twice
        }
        if !moves_on {
            self.counters.protocol_errors += 1;
            return;
        }
        let within = |key: &[u8]| page.end.is_empty() || key < page.end.as_slice();
        let mut rest = BTreeMap::new();
        let mut from = source.cursor.clone();
        loop {
            let mine = cx.store.scan(&from, 256);
            let Some((last, _)) = mine.last() else { break };
            from = [last.as_bytes(), &[0]].concat();
            rest.extend(mine.into_iter().filter(|(key, _)| within(key.as_bytes())).map(|(key, _)| (key, None)));
            if !within(&from) {
                break;
            }
        }
        for entry in page.entries {
            if let Some(key) =
                ChunkKey::new(&entry.key).filter(|k| within(k.as_bytes()) && k.as_bytes() >= source.cursor.as_slice())
            {
                rest.insert(key, Some(entry.meta));
            }
        }
        if is(Mutation::CompareOutsideTurn) {
            rest.retain(|key, theirs| {
                let mine = cx.store.meta(key);
                !matches!((theirs, mine.and_then(|m| m.committed)), (Some(t), Some(c)) if same(t, &c, mine))
            });
        }
        source.phase = Phase::Settling { end: page.end, rest, active: BTreeMap::new() };
    }

    /// Clients' requests are in progress here.
    fn clients_wait(&self) -> bool {
        self.sessions.running() > 0 || self.reads.values().any(Reading::is_clients)
    }

    /// Bytes of chunks that may be under way now.
    fn sync_room(&mut self, now: Time) -> u64 {
        if self.source.is_some() && self.clients_wait() {
            self.source.iter_mut().for_each(|source| source.clients = Some(now));
        }
        let seen = self.source.as_ref().and_then(|source| source.clients);
        let beside = seen.is_some_and(|seen| now <= seen.saturating_add(self.config.sync_calm));
        if beside { self.config.sync_beside } else { self.config.sync_bytes }
    }

    /// Starts as many keys of the page as the window, the room and the rate allow; moves the cursor when all are settled.
    /// Called after every event, so that a settled key makes room for the next.
    pub(super) fn pump_source(&mut self, cx: &mut Cx<P>) {
        let room = self.sync_room(cx.now);
        loop {
            let Some(source) = &mut self.source else { return };
            source.seen = cx.now;
            let next = source.next_key();
            let Phase::Settling { end, rest, active } = &mut source.phase else { return };
            if active.len() >= self.config.sync_window || (source.pause > cx.now && !rest.is_empty()) {
                return;
            }
            if let Some(key) = next {
                // As if those under way were as large.
                let len = cx.store.meta(&key).and_then(|m| m.committed).map_or(0, |c| u64::from(c.len));
                if !active.is_empty() && (active.len() as u64 + 1).saturating_mul(len) > room {
                    return;
                }
                let sinks = rest.remove(&key).flatten();
                active.insert(key.clone(), None);
                self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Settle(sinks));
                self.advance(cx, &key);
            } else if !active.is_empty() || !rest.is_empty() {
                return;
            } else if end.is_empty() {
                self.finish_source(cx);
            } else {
                source.cursor = std::mem::take(end);
                if is(Mutation::CursorOff) {
                    source.cursor.push(0);
                }
                source.unreadable.clear();
                self.ask_page(cx);
            }
        }
    }

    /// The chunk's turn: what to send is decided now, by what is held now.
    pub(super) fn start_settle(&mut self, cx: &mut Cx<P>, key: &ChunkKey, sinks: Option<ChunkMeta>) {
        let Some(source) = self.source.as_mut().filter(|s| s.settling(key)) else { return };
        let mine = cx.store.meta(key);
        let committed = mine.and_then(|m| m.committed);
        match (committed, sinks) {
            (None, None) => source.settle(key, cx.now, 0),
            (None, Some(_)) if is(Mutation::KeepExtra) => source.settle(key, cx.now, 0),
            (Some(ours), Some(theirs)) if same(&theirs, &ours, mine) => {
                self.counters.sync_equal += 1;
                source.settle(key, cx.now, ours.len);
            }
            (None, Some(_)) => {
                self.counters.sync_drops += 1;
                let sink = source.sink;
                self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Settle);
                self.send(cx, sink, Body::SyncDrop(SyncDrop { key: key.as_bytes().to_vec() }), None);
            }
            (Some(ours), theirs) => {
                self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Settle);
                match theirs.filter(|t| worth_comparing(t, &ours, mine)) {
                    Some(_) => self.start_comparison(cx, key, ours),
                    None => self.send_whole(cx, key, ours),
                }
            }
        }
    }

    /// Reads the chunk, to send all of it.
    pub(super) fn send_whole(&mut self, cx: &mut Cx<P>, key: &ChunkKey, ours: Committed) {
        let Some(difference) = self.source.as_mut().and_then(|s| s.difference(key)) else { return };
        *difference = None;
        let id = self.new_id();
        self.reads.insert(id, Reading::Settle { key: key.clone(), ver: ours.ver, len: ours.len });
        cx.store.read(id, key, ours.ver, 0, ours.len);
    }

    /// The chunk has been read: send it. It cannot have changed, since it has the turn.
    pub(super) fn on_settle_read(&mut self, cx: &mut Cx<P>, key: &ChunkKey, ver: Ver, result: Result<Payload<P>, Code>) {
        let Some(source) = self.source.as_mut().filter(|s| s.settling(key)) else { return };
        let Ok(payload) = result else { return self.settle_damaged(cx, key) };
        let Some(meta) = cx.store.meta(key) else { return };
        let Some(committed) = meta.committed.filter(|c| c.ver == ver) else { return };
        self.counters.sync_puts += 1;
        self.counters.sync_bytes += u64::from(payload.len);
        source.chunk_sent();
        source.sent(cx.now, payload.len, self.config.sync_rate);
        let sink = source.sink;
        let put = SyncPut { key: key.as_bytes().to_vec(), chunk_size: meta.chunk_size, committed };
        self.send(cx, sink, Body::SyncPut(put), Some(payload));
    }

    /// The chunk cannot be read here: a neighbour may have it, the sink too.
    pub(super) fn settle_damaged(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        match cx.store.meta(key).and_then(|m| m.committed) {
            Some(committed) => self.begin_repair(cx, key, committed),
            None => self.cannot_settle(cx, key, Code::Corrupt),
        }
    }

    /// What is held here cannot be read, and no neighbour has it either. It is tried again after a while; then the chunk is
    /// lost, and the resync goes on: the sink holds it as damaged, since what it held is older and must not be served
    /// (amendment M7).
    pub(super) fn cannot_settle(&mut self, cx: &mut Cx<P>, key: &ChunkKey, code: Code) {
        let meta = cx.store.meta(key);
        let Some(source) = self.source.as_mut().filter(|s| s.settling(key)) else { return };
        let Some((committed, meta)) = meta.and_then(|m| Some((m.committed?, m))).filter(|_| code == Code::Corrupt) else {
            if source.give_up(format!("chunk {key} cannot be repaired here: {code:?}")) {
                self.act_as_tail(cx);
            }
            return;
        };
        if is(Mutation::SkipUnreadable) {
            source.settle(key, cx.now, 0);
            self.chunks.entry(key.clone()).or_default().busy = None;
            return self.advance(cx, key);
        }
        if source.put_back(key, cx.now + self.config.unreadable_retry, self.config.unreadable_tries) {
            if let Some(chunk) = self.chunks.get_mut(key) {
                (chunk.busy, chunk.repair) = (None, None);
            }
            self.answer_asker(cx, key);
            return self.advance(cx, key);
        }
        self.counters.sync_lost += 1;
        source.progress.chunks_lost += 1;
        let sink = source.sink;
        if let Some(chunk) = self.chunks.get_mut(key) {
            chunk.repair = None;
        }
        let lost = SyncLost { key: key.as_bytes().to_vec(), chunk_size: meta.chunk_size, committed };
        self.send(cx, sink, Body::SyncLost(lost), None);
        self.answer_asker(cx, key);
    }

    pub(super) fn on_synced(&mut self, cx: &mut Cx<P>, synced: Synced) {
        let Some(key) = ChunkKey::new(&synced.key) else { return };
        let Some(source) = self.source.as_mut().filter(|s| s.settling(&key)) else { return };
        let chunk = self.chunks.get_mut(&key).filter(|c| matches!(c.busy, Some(Busy::Settle)) && c.repair.is_none());
        let Some(chunk) = chunk else { return };
        match synced.code() {
            Code::Ok => {
                let len = cx.store.meta(&key).and_then(|m| m.committed).map_or(0, |c| c.len);
                source.settle(&key, cx.now, len);
                chunk.busy = None;
                self.advance(cx, &key);
            }
            Code::Corrupt => self.not_patched(cx, &key, synced.id),
            code => {
                if source.give_up(format!("the sink could not take chunk {key}: {code:?}")) {
                    self.act_as_tail(cx);
                }
            }
        }
    }

    /// Every key is settled: session rows, then SyncDone.
    fn finish_source(&mut self, cx: &mut Cx<P>) {
        let Some(source) = &mut self.source else { return };
        source.phase = Phase::Done;
        self.send_done(cx);
    }

    fn send_done(&mut self, cx: &mut Cx<P>) {
        let Some(sink) = self.source.as_ref().map(|s| s.sink) else { return };
        let mut after = None;
        while !is(Mutation::LoseRows) {
            let page = cx.store.sessions(after, self.config.session_batch);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let rows = page.into_iter().map(|(id, row)| SessionEntry { id, row }).collect();
            self.send(cx, sink, Body::SyncSessions(SyncSessions { rows }), None);
        }
        let remove_floor = cx.store.remove_floor();
        self.send(cx, sink, Body::SyncDone(SyncDone { remove_floor }), None);
    }

    /// There is a new link to the sink: what was asked or sent may be lost.
    pub(super) fn resume_source(&mut self, cx: &mut Cx<P>) {
        let Some(source) = &self.source else { return };
        match &source.phase {
            Phase::Asking { .. } => self.ask_page(cx),
            Phase::Done if is(Mutation::RestartAfterDone) => {
                let sink = source.sink;
                self.source = Some(Source::new(sink, cx.now, 0));
                self.ask_page(cx);
            }
            Phase::Done => self.send_done(cx),
            Phase::GivenUp { .. } => {}
            Phase::Settling { active, .. } => {
                let keys: Vec<ChunkKey> = active.keys().cloned().collect();
                self.reads.retain(|_, reading| !matches!(reading, Reading::Settle { .. } | Reading::Part { .. }));
                for key in keys {
                    let Some(chunk) = self.chunks.get_mut(&key) else { continue };
                    if matches!(chunk.busy, Some(Busy::Settle)) && chunk.repair.is_none() {
                        chunk.busy = None;
                        // What the sink holds now is not known: an empty entry never compares as equal, and it is asked.
                        self.start_settle(cx, &key, Some(ChunkMeta::default()));
                    }
                }
            }
        }
    }
}

/// Equal in every respect, and nothing staged at the sink.
pub(super) fn same(theirs: &ChunkMeta, ours: &Committed, mine: Option<ChunkMeta>) -> bool {
    let sizes = mine.is_some_and(|m| m.chunk_size == theirs.chunk_size);
    let content = |c: &Committed| {
        if is(Mutation::CompareVersions) { (c.ver, 0, 0, 0) } else { (c.ver, c.chain_ver, c.len, c.checksum) }
    };
    sizes
        && (theirs.staged.is_none() || is(Mutation::IgnoreSinkStaged))
        && theirs.committed.as_ref().is_some_and(|c| content(c) == content(ours))
}

/// Whether to ask what the sink holds of the chunk, block by block. An empty entry says that it is not known.
fn worth_comparing(theirs: &ChunkMeta, ours: &Committed, mine: Option<ChunkMeta>) -> bool {
    let sizes = mine.is_some_and(|m| m.chunk_size == theirs.chunk_size);
    let unknown = *theirs == ChunkMeta::default();
    ours.len > limits::BLOCK && (unknown || (sizes && patchable(theirs, ours)))
}

/// Whether the sink could make our version from its own: that is what a store's patch asks for.
pub(super) fn patchable(theirs: &ChunkMeta, ours: &Committed) -> bool {
    theirs.staged.is_none() && theirs.committed.is_some_and(|c| c.ver < ours.ver && c.len <= ours.len)
}
