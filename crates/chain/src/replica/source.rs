//! The last SERVING member's part of a resync: a cursor walks the keys, and what differs is sent (protocol section 7,
//! amendments C3 and C13).
//!
//! Keys below the cursor are settled: the sink is equal, and updates are forwarded to it. The page at the cursor is
//! settled key by key, each in its own turn, with no update of it in flight. Above it this target acts as tail. The
//! cursor never goes back under one chain version.

use std::collections::{BTreeMap, BTreeSet};

use catena_types::{ChunkKey, ChunkMeta, Code, TargetId, Ver};
use catena_wire::peer::{Body, Page, SessionEntry, SyncDone, SyncDrop, SyncPage, SyncPut, SyncSessions, Synced};

use super::chunk::{Busy, Turn};
use super::read::Reading;
use super::{Cx, Replica};
use crate::api::Payload;
use crate::mutation::{Mutation, is};

/// State of a source under one chain version.
#[derive(Clone, Hash)]
pub(super) struct Source {
    sink: TargetId,
    /// Keys below are settled.
    cursor: Vec<u8>,
    phase: Phase,
    settled: u64,
}

#[derive(Clone, Hash)]
enum Phase {
    /// Waits for what the sink holds from the cursor up to this key (empty: the end).
    Asking { to: Vec<u8> },
    /// Settles the page `[cursor, end)`: keys not started, with what the sink said of them, and keys under way.
    Settling { end: Vec<u8>, rest: BTreeMap<ChunkKey, Option<ChunkMeta>>, active: BTreeSet<ChunkKey> },
    /// SyncDone was sent: from here on every update waits for the sink, until a new chain version.
    Done,
    /// Given up before SyncDone: this target acts as tail for all chunks.
    GivenUp { reason: String },
}

impl Source {
    pub(super) fn new(sink: TargetId) -> Source {
        Source { sink, cursor: Vec::new(), phase: Phase::Asking { to: Vec::new() }, settled: 0 }
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
                in_page && !rest.contains_key(key) && !active.contains(key) && !is(Mutation::SettledNotForwarded)
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

    pub(super) fn settled_chunks(&self) -> u64 {
        self.settled
    }

    fn settle(&mut self, key: &ChunkKey) {
        if let Phase::Settling { active, .. } = &mut self.phase
            && active.remove(key)
        {
            self.settled += 1;
        }
    }

    fn settling(&self, key: &ChunkKey) -> bool {
        matches!(&self.phase, Phase::Settling { active, .. } if active.contains(key))
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
        source.phase = Phase::Settling { end: page.end, rest, active: BTreeSet::new() };
    }

    /// Starts as many keys of the page as the window allows; moves the cursor when all are settled. Called after every
    /// event, so that a settled key makes room for the next.
    pub(super) fn pump_source(&mut self, cx: &mut Cx<P>) {
        loop {
            let Some(source) = &mut self.source else { return };
            let Phase::Settling { end, rest, active } = &mut source.phase else { return };
            if active.len() >= self.config.sync_window {
                return;
            }
            if let Some((key, sinks)) = rest.pop_first() {
                active.insert(key.clone());
                self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Settle(sinks));
                self.advance(cx, &key);
            } else if !active.is_empty() {
                return;
            } else if end.is_empty() {
                self.finish_source(cx);
            } else {
                source.cursor = std::mem::take(end);
                if is(Mutation::CursorOff) {
                    source.cursor.push(0);
                }
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
            (None, None) => source.settle(key),
            (None, Some(_)) if is(Mutation::KeepExtra) => source.settle(key),
            (Some(ours), Some(theirs)) if same(&theirs, &ours, mine) => {
                self.counters.sync_equal += 1;
                source.settle(key);
            }
            (None, Some(_)) => {
                self.counters.sync_drops += 1;
                let sink = source.sink;
                self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Settle);
                self.send(cx, sink, Body::SyncDrop(SyncDrop { key: key.as_bytes().to_vec() }), None);
            }
            (Some(ours), _) => {
                let id = self.new_id();
                self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Settle);
                self.reads.insert(id, Reading::Settle { key: key.clone(), ver: ours.ver, len: ours.len });
                cx.store.read(id, key, ours.ver, 0, ours.len);
            }
        }
    }

    /// The chunk has been read: send it. It cannot have changed, since it has the turn.
    pub(super) fn on_settle_read(&mut self, cx: &mut Cx<P>, key: &ChunkKey, ver: Ver, result: Result<Payload<P>, Code>) {
        let Some(source) = self.source.as_mut().filter(|s| s.settling(key)) else { return };
        let payload = match result {
            Ok(payload) => payload,
            Err(code) => {
                return match cx.store.meta(key).and_then(|m| m.committed) {
                    Some(committed) => self.begin_repair(cx, key, committed),
                    None => self.cannot_settle(cx, key, code),
                };
            }
        };
        let Some(meta) = cx.store.meta(key) else { return };
        let Some(committed) = meta.committed.filter(|c| c.ver == ver) else { return };
        self.counters.sync_puts += 1;
        let sink = source.sink;
        let put = SyncPut { key: key.as_bytes().to_vec(), chunk_size: meta.chunk_size, committed };
        self.send(cx, sink, Body::SyncPut(put), Some(payload));
    }

    /// What is held here cannot be read, and no neighbour has it either. The chunk cannot be skipped: the sink would serve
    /// what it holds instead, which is older.
    pub(super) fn cannot_settle(&mut self, cx: &mut Cx<P>, key: &ChunkKey, code: Code) {
        let Some(source) = &mut self.source else { return };
        if is(Mutation::SkipUnreadable) {
            source.settle(key);
            self.chunks.entry(key.clone()).or_default().busy = None;
            return self.advance(cx, key);
        }
        if source.give_up(format!("chunk {key} cannot be read here, and no neighbour has it: {code:?}")) {
            self.act_as_tail(cx);
        }
    }

    pub(super) fn on_synced(&mut self, cx: &mut Cx<P>, synced: Synced) {
        let Some(key) = ChunkKey::new(&synced.key) else { return };
        let Some(source) = self.source.as_mut().filter(|s| s.settling(&key)) else { return };
        let chunk = self.chunks.get_mut(&key).filter(|c| matches!(c.busy, Some(Busy::Settle)) && c.repair.is_none());
        let Some(chunk) = chunk else { return };
        if synced.code() != Code::Ok {
            if source.give_up(format!("the sink could not take chunk {key}: {:?}", synced.code())) {
                self.act_as_tail(cx);
            }
            return;
        }
        source.settle(&key);
        chunk.busy = None;
        self.advance(cx, &key);
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
                self.source = Some(Source::new(source.sink));
                self.ask_page(cx);
            }
            Phase::Done => self.send_done(cx),
            Phase::GivenUp { .. } => {}
            Phase::Settling { active, .. } => {
                let keys: Vec<ChunkKey> = active.iter().cloned().collect();
                self.reads.retain(|_, reading| !matches!(reading, Reading::Settle { .. }));
                for key in keys {
                    let Some(chunk) = self.chunks.get_mut(&key) else { continue };
                    if matches!(chunk.busy, Some(Busy::Settle)) && chunk.repair.is_none() {
                        chunk.busy = None;
                        // What the sink holds now is not known: an empty entry never compares as equal.
                        self.start_settle(cx, &key, Some(ChunkMeta::default()));
                    }
                }
            }
        }
    }
}

/// Equal in every respect, and nothing staged at the sink.
fn same(theirs: &ChunkMeta, ours: &catena_types::Committed, mine: Option<ChunkMeta>) -> bool {
    let sizes = mine.is_some_and(|m| m.chunk_size == theirs.chunk_size);
    let content = |c: &catena_types::Committed| {
        if is(Mutation::CompareVersions) { (c.ver, 0, 0, 0) } else { (c.ver, c.chain_ver, c.len, c.checksum) }
    };
    sizes
        && (theirs.staged.is_none() || is(Mutation::IgnoreSinkStaged))
        && theirs.committed.as_ref().is_some_and(|c| content(c) == content(ours))
}
