//! Reads at any replica, and the version queries that make them linearizable (protocol section 6, amendment C6).
//!
//! A chunk with an update in flight here may already be committed further down, so the tail is asked; a clean one is
//! served at once. The tail itself is the linearization point and never asks.

use catena_types::{ChunkKey, ChunkMeta, ChunkStore, Code, Committed, Failure, Payload, TargetId, Time, Ver, limits};
use catena_wire::client::{ListEntry, ListReply, ReadReply};
use catena_wire::peer::{Answer, Body, Confirm, Fetch, Query};

use super::chunk::Busy;
use super::{Cx, Replica};
use crate::api::{ClientList, ClientRead, Command, RequestId};
use crate::mutation::{Mutation, is};

/// A read under way, by the id the engine and the tail know it by.
#[derive(Clone, Hash)]
pub(super) enum Reading {
    /// A client's read that waits for the tail's answer.
    Asking { read: ClientRead, asked_at: Time },
    /// A client's read of the staged version, which is not durable here yet.
    Staging { read: ClientRead, wanted: Ver },
    /// A client's read whose bytes the engine is fetching.
    Loading { request: RequestId, reply: ReadReply, len: u32 },
    /// The payload of an update that must be forwarded again.
    Forward { key: ChunkKey, attempt: u64, len: u32 },
    /// A chunk to be sent to the sink.
    Settle { key: ChunkKey, ver: Ver, len: u32 },
    /// Blocks of a chunk that differ at the sink, by the comparison of that number.
    Part { key: ChunkKey, id: u64, offset: u32, len: u32 },
    /// A chunk that a neighbour asked for, whose own copy is damaged.
    Fetch { to: TargetId, fetch: Fetch, held: Committed },
}

impl Reading {
    /// When it must be looked at again.
    pub(super) fn wake(&self, retry: Time) -> Option<Time> {
        match self {
            Reading::Asking { read, asked_at } => Some(read.deadline.min(asked_at + retry)),
            Reading::Staging { read, .. } => Some(read.deadline),
            _ => None,
        }
    }

    /// Whether a client waits for it.
    pub(super) fn is_clients(&self) -> bool {
        matches!(self, Reading::Asking { .. } | Reading::Staging { .. } | Reading::Loading { .. })
    }

    fn client(&self) -> Option<&ClientRead> {
        match self {
            Reading::Asking { read, .. } | Reading::Staging { read, .. } => Some(read),
            _ => None,
        }
    }
}

impl<P: Clone> Replica<P> {
    pub(super) fn on_read(&mut self, cx: &mut Cx<P>, read: ClientRead) {
        if let Err(failure) = self.check_serving(cx.now, read.chain_ver) {
            return fail_read(cx, read.request, failure);
        }
        let meta = cx.store.meta(&read.key);
        let updating = self.chunks.get(&read.key).is_some_and(|c| matches!(c.busy, Some(Busy::Update(_))));
        if read.relaxed || (updating && is(Mutation::ReadPendingNew)) {
            let staged = meta.and_then(|m| m.staged).filter(|s| s.durable && !s.remove).map(|s| s.ver);
            return self.serve(cx, read, meta, staged, false);
        }
        if !updating || self.is_tail() || is(Mutation::ReadPendingOld) {
            self.counters.clean_reads += 1;
            return self.serve(cx, read, meta, None, false);
        }
        self.counters.asked_reads += 1;
        self.ask(cx, read);
    }

    /// Asks the tail under a new id: an answer to an earlier question no longer counts.
    fn ask(&mut self, cx: &mut Cx<P>, read: ClientRead) {
        let id = self.new_id();
        let tail = self.role().tail.expect("a SERVING target has a tail");
        let query = Query { id, key: read.key.as_bytes().to_vec() };
        self.reads.insert(id, Reading::Asking { read, asked_at: cx.now });
        self.waiting.insert(id);
        self.send(cx, tail, Body::Query(query), None);
    }

    /// Only the tail answers, under a lease and confirmed. Otherwise silence: the asker asks again.
    pub(super) fn on_query(&mut self, cx: &mut Cx<P>, from: TargetId, query: Query) {
        if !self.answers_queries(cx.now) {
            return;
        }
        let Some(key) = ChunkKey::new(&query.key) else { return };
        self.counters.answers += 1;
        let committed = cx.store.meta(&key).and_then(|m| m.committed);
        let answer = Answer { id: query.id, commit_ver: committed.map_or(0, |c| c.ver), absent: committed.is_none() };
        self.send(cx, from, Body::Answer(answer), None);
    }

    /// The tail's word: serve the version it names, once it is readable here.
    pub(super) fn on_answer(&mut self, cx: &mut Cx<P>, answer: Answer) {
        let Some(Reading::Asking { .. }) = self.reads.get(&answer.id) else { return };
        let Some(Reading::Asking { read, .. }) = self.reads.remove(&answer.id) else { unreachable!("just seen") };
        self.waiting.remove(&answer.id);
        let meta = cx.store.meta(&read.key);
        let committed = meta.and_then(|m| m.committed);
        let staged = meta.and_then(|m| m.staged);
        let removed = answer.absent && staged.is_some_and(|s| s.remove);
        match staged {
            Some(s) if removed || (!answer.absent && answer.commit_ver == s.ver) => {
                if removed || s.durable {
                    return self.serve(cx, read, meta, Some(s.ver), true);
                }
                self.await_stage(read, answer.commit_ver);
            }
            _ if answer.absent && committed.is_none() => self.serve(cx, read, meta, None, true),
            _ if is(Mutation::AnyAnswer) || (!answer.absent && committed.is_some_and(|c| c.ver >= answer.commit_ver)) => {
                self.serve(cx, read, meta, None, true)
            }
            _ => {
                // A remove was committed here since the tail answered, or worse: ask again.
                self.counters.odd_answers += 1;
                self.ask(cx, read);
            }
        }
    }

    fn await_stage(&mut self, read: ClientRead, wanted: Ver) {
        let id = self.new_id();
        if let Some(chunk) = self.chunks.get_mut(&read.key) {
            chunk.readers.push(id);
        }
        self.reads.insert(id, Reading::Staging { read, wanted });
        self.waiting.insert(id);
    }

    /// A stage became durable, or an update ended: serve the read that waited for it.
    pub(super) fn decide_read(&mut self, cx: &mut Cx<P>, id: u64) {
        let Some(Reading::Staging { .. }) = self.reads.get(&id) else { return };
        let Some(Reading::Staging { read, wanted }) = self.reads.remove(&id) else { unreachable!("just seen") };
        self.waiting.remove(&id);
        let meta = cx.store.meta(&read.key);
        let staged = meta.and_then(|m| m.staged).filter(|s| s.ver == wanted && s.durable);
        if staged.is_some() || meta.is_some_and(|m| m.commit_ver() >= wanted) {
            return self.serve(cx, read, meta, staged.map(|s| s.ver), true);
        }
        self.ask(cx, read);
    }

    /// Answers with the committed version, or with the staged one of that number.
    fn serve(&mut self, cx: &mut Cx<P>, read: ClientRead, meta: Option<ChunkMeta>, staged: Option<Ver>, asked_tail: bool) {
        let version = meta.and_then(|m| match (staged, m.staged, m.committed) {
            (Some(_), Some(s), _) => (!s.remove).then_some((s.ver, s.len, s.checksum, s.chain_ver)),
            (_, _, committed) => committed.map(|c| (c.ver, c.len, c.checksum, c.chain_ver)),
        });
        let (Some((ver, len, checksum, chain_ver)), Some(meta)) = (version, meta) else {
            let text = format!("there is no chunk {} on chain {}", read.key, self.role().chain.id);
            return fail_read(cx, read.request, Failure::new(Code::NotFound, text).under(self.chain_ver()));
        };
        let (chunk_size, staged) = (meta.chunk_size, staged.is_some());
        let reply = ReadReply { failure: None, ver, chunk_len: len, checksum, chain_ver, chunk_size, staged, asked_tail };
        if read.len == 0 {
            cx.out.push(Command::ReadReply { request: read.request, reply, payload: None });
            return;
        }
        let id = self.new_id();
        let clipped = len.saturating_sub(read.offset).min(read.len);
        self.reads.insert(id, Reading::Loading { request: read.request, reply, len: clipped });
        cx.store.read(id, &read.key, ver, read.offset, read.len);
    }

    /// The engine has the bytes, or cannot have them.
    pub(super) fn on_read_done(&mut self, cx: &mut Cx<P>, id: u64, result: Result<(P, u32), Code>) {
        let with = |len, (data, crc)| Payload { data, len, crc, sums: None };
        match (self.reads.remove(&id), result) {
            (Some(Reading::Loading { request, reply, len }), Ok(bytes)) => {
                cx.out.push(Command::ReadReply { request, reply, payload: Some(with(len, bytes)) });
            }
            (Some(Reading::Loading { request, .. }), Err(code)) => {
                let text = format!("target {} cannot read these bytes; another replica may have them", self.me);
                fail_read(cx, request, Failure::new(code, text).under(self.chain_ver()));
            }
            (Some(Reading::Forward { key, attempt, len }), Ok(bytes)) => self.on_payload(cx, &key, attempt, with(len, bytes)),
            (Some(Reading::Forward { key, .. }), Err(code)) => {
                self.distrust(cx, format!("the staged update of {key} cannot be read back: {code:?}"));
            }
            (Some(Reading::Settle { key, ver, len }), result) => {
                self.on_settle_read(cx, &key, ver, result.map(|bytes| with(len, bytes)));
            }
            (Some(Reading::Part { key, id, offset, len }), result) => {
                self.on_part_read(cx, &key, id, offset, result.map(|bytes| with(len, bytes)));
            }
            (Some(Reading::Fetch { to, fetch, held }), result) => {
                self.on_fetch_read(cx, to, fetch, result.map(|bytes| (held, with(held.len, bytes))));
            }
            (Some(waiting @ (Reading::Asking { .. } | Reading::Staging { .. })), _) => {
                self.reads.insert(id, waiting);
            }
            (None, _) => {}
        }
    }

    /// Asks the tail again for the waiting reads that `due` picks.
    pub(super) fn ask_again(&mut self, cx: &mut Cx<P>, due: impl Fn(&Reading) -> bool) {
        let ids: Vec<u64> = self.waiting.iter().copied().filter(|id| self.reads.get(id).is_some_and(&due)).collect();
        for id in ids {
            if let Some(Reading::Asking { .. }) = self.reads.get(&id)
                && let Some(Reading::Asking { read, .. }) = self.reads.remove(&id)
            {
                self.waiting.remove(&id);
                self.ask(cx, read);
            }
        }
    }

    /// A new chain version was adopted: every waiting read starts over under it.
    pub(super) fn restart_reads(&mut self, cx: &mut Cx<P>) {
        if is(Mutation::KeepQuestions) {
            return;
        }
        for id in std::mem::take(&mut self.waiting) {
            let Some(reading) = self.reads.remove(&id) else { continue };
            if let Reading::Asking { read, .. } | Reading::Staging { read, .. } = reading {
                let chain_ver = self.chain_ver();
                self.on_read(cx, ClientRead { chain_ver, ..read });
            }
        }
    }

    /// The target serves no more: every waiting read ends.
    pub(super) fn end_reads(&mut self, cx: &mut Cx<P>, failure: &Failure) {
        self.waiting.clear();
        let reads = std::mem::take(&mut self.reads);
        for (id, reading) in reads {
            match reading {
                Reading::Asking { read, .. } | Reading::Staging { read, .. } => fail_read(cx, read.request, failure.clone()),
                // Its version was decided while this target served; the bytes are pinned.
                loading @ Reading::Loading { .. } => {
                    self.reads.insert(id, loading);
                }
                Reading::Forward { .. } | Reading::Settle { .. } | Reading::Part { .. } | Reading::Fetch { .. } => {}
            }
        }
    }

    pub(super) fn on_tick(&mut self, cx: &mut Cx<P>) {
        self.expire_sessions(cx);
        let late = |r: &Reading| r.client().is_some_and(|read| read.deadline <= cx.now);
        let ids: Vec<u64> = self.waiting.iter().copied().filter(|id| self.reads.get(id).is_some_and(late)).collect();
        for id in ids {
            self.waiting.remove(&id);
            if let Some(read) = self.reads.remove(&id).as_ref().and_then(Reading::client) {
                let text = format!("target {} waited for the tail of its chain until the deadline", self.me);
                fail_read(cx, read.request, Failure::new(Code::Timeout, text).under(self.chain_ver()));
            }
        }
        let (now, retry) = (cx.now, self.config.query_retry);
        if self.role.as_ref().is_some_and(super::Role::serving) {
            self.ask_again(cx, |r| matches!(r, Reading::Asking { asked_at, .. } if asked_at + retry <= now));
        }
    }

    /// A page of committed chunks; only the tail's is linearizable, so only the tail gives it.
    pub(super) fn on_list(&mut self, cx: &mut Cx<P>, list: ClientList) {
        let checked = self.check_serving(cx.now, list.chain_ver).and_then(|()| {
            let text = format!("target {} is not the tail of its chain, which answers listings; refresh routing", self.me);
            if self.is_tail() || is(Mutation::ListAnywhere) {
                Ok(())
            } else {
                Err(Failure::new(Code::NotServing, text).under(self.chain_ver()))
            }
        });
        let reply = match checked {
            Ok(()) => list_page(cx.store, &list),
            Err(failure) => ListReply { failure: Some(failure), ..Default::default() },
        };
        cx.out.push(Command::ListReply { request: list.request, reply });
    }

    /// The predecessor is confirmed and knows that it is not the tail: so may this target serve (amendment C4).
    pub(super) fn on_confirm(&mut self, cx: &mut Cx<P>) {
        if !self.confirmed {
            self.confirmed = true;
            self.confirm_successor(cx);
        }
    }

    pub(super) fn confirm_successor(&mut self, cx: &mut Cx<P>) {
        if let Some(succ) = self.role().succ.filter(|_| self.confirmed || is(Mutation::ConfirmUnconfirmed)) {
            self.send(cx, succ, Body::Confirm(Confirm {}), None);
        }
    }
}

fn fail_read<P>(cx: &mut Cx<P>, request: RequestId, failure: Failure) {
    cx.out.push(Command::ReadReply { request, reply: ReadReply { failure: Some(failure), ..Default::default() }, payload: None });
}

fn list_page<P: Clone>(store: &dyn ChunkStore<Payload = P>, list: &ClientList) -> ListReply {
    let limit = list.limit.clamp(1, limits::MAX_PAGE as usize);
    let mut reply = ListReply::default();
    let mut from = list.from.as_slice().max(&list.prefix).to_vec();
    loop {
        let page = store.scan(&from, limit + 1);
        let more = page.len() > limit;
        for (key, meta) in page {
            if !key.as_bytes().starts_with(&list.prefix) {
                return reply;
            }
            if reply.entries.len() == limit {
                reply.next = key.as_bytes().to_vec();
                return reply;
            }
            from = [key.as_bytes(), &[0]].concat();
            if let Some(c) = meta.committed {
                reply.entries.push(ListEntry { key: key.as_bytes().to_vec(), ver: c.ver, len: c.len, checksum: c.checksum });
            }
        }
        if !more {
            return reply;
        }
    }
}
