//! An update on its way down the chain: taking a forward, handing it on, and the release behind it (protocol 3 and 4).
//!
//! Payload goes to a successor only within a window that is this chain's alone, whatever clients are admitted for. Room is
//! made when the successor has staged, never only when it has heard from its own successor: so no chain waits for another
//! that shares its nodes, nor two members of one for each other, and small messages never wait (amendment H5). Answers make
//! room too; a successor names what it has staged only where answers are long in coming.

use std::collections::{BTreeMap, VecDeque};

use catena_types::{ChainVer, ChunkKey, ChunkStore, OpKind, Payload, StageRequest, Tag, TargetId, Ver};
use catena_wire::peer::{Body, Credit, Forward, Reject, Release, Reply};

use super::chunk::{Busy, Hand, InFlight, Next, Times, Turn};
use super::read::Reading;
use super::{Cx, Replica};
use crate::mutation::{Mutation, is};

/// Payload on its way between this target and its neighbours.
#[derive(Clone, Default, Hash)]
pub(super) struct Window {
    /// Bytes sent to the successor and neither staged there, as far as is known, nor answered; by attempt.
    sent: BTreeMap<u64, u64>,
    used: u64,
    /// Updates that wait for room, in order.
    held: VecDeque<ChunkKey>,
    /// Bytes staged here and not answered, nor named to the predecessor; by its attempt.
    staged: BTreeMap<u64, u64>,
    owed: u64,
}

impl Window {
    /// Whether so many bytes may be sent now. What the successor may keep to itself is never in the way.
    fn has_room(&self, bytes: u64, window: u64) -> bool {
        bytes == 0 || self.used <= window / 2 || self.used + bytes <= window
    }

    fn send(&mut self, attempt: u64, bytes: u64) {
        self.sent.insert(attempt, bytes);
        self.used += bytes;
    }

    /// The successor needs what was sent in its buffers no more, or it is of no use any more.
    fn give_back(&mut self, attempt: u64) {
        self.used -= self.sent.remove(&attempt).filter(|_| !is(Mutation::KeepRoom)).unwrap_or(0);
    }

    /// As [`Window::give_back`], for whoever got an update.
    pub(super) fn handed(&mut self, next: &Next) {
        if let Next::To(hand) = next {
            self.give_back(hand.attempt);
        }
    }

    /// What the predecessor sent is staged.
    fn stage(&mut self, attempt: u64, bytes: u64) {
        if self.staged.insert(attempt, bytes).is_none() {
            self.owed += bytes;
        }
    }

    /// The predecessor is answered, or has sent it again.
    pub(super) fn answered(&mut self, attempt: u64) {
        self.owed -= self.staged.remove(&attempt).unwrap_or(0);
    }
}

/// How a forward stands to what the chunk holds, with nothing of it in flight.
enum Judgement {
    /// Builds on what is committed here.
    New,
    /// Was committed here, and this is what was recorded.
    Done(Reply),
    /// No correct predecessor sends this.
    Wrong(String),
}

impl<P: Clone> Replica<P> {
    pub(super) fn on_forward(&mut self, cx: &mut Cx<P>, forward: Forward, payload: Payload<P>) {
        let Some(key) = ChunkKey::new(&forward.key) else {
            self.counters.protocol_errors += 1;
            return;
        };
        let chunk = self.chunks.entry(key.clone()).or_default();
        // The same update, sent again: go on with it, unless it is being undone; then the new attempt waits for that.
        if let Some(inflight) = chunk.update().filter(|f| f.ver == forward.ver && f.tag == forward.tag && f.undoing.is_none()) {
            if !is(Mutation::EchoFirstAttempt) {
                self.window.answered(std::mem::replace(&mut inflight.pred_attempt, forward.attempt));
            }
            return self.staged_for_predecessor(cx, &key);
        }
        let again = chunk
            .queue
            .iter_mut()
            .find(|turn| matches!(turn, Turn::Forward(f, ..) if f.ver == forward.ver && f.tag == forward.tag));
        match again {
            Some(turn) => *turn = Turn::Forward(Box::new(forward), payload, false),
            None => chunk.queue.push_back(Turn::Forward(Box::new(forward), payload, false)),
        }
        let other = chunk.update().is_some_and(|f| f.undoing.is_none());
        if other {
            return self.distrust(cx, format!("forward for {key} while another update of it is in flight"));
        }
        self.advance(cx, &key);
    }

    /// The turn of a forward: judged by the chunk alone, before any reservation (amendment H3).
    pub(super) fn start_forward(&mut self, cx: &mut Cx<P>, forward: Forward, payload: Payload<P>, released: bool) {
        let key = ChunkKey::new(&forward.key).expect("checked on receipt");
        match judge(&forward, &key, &payload, self.chain_ver(), cx.store) {
            Judgement::Done(reply) => self.reply_upstream(cx, Body::Reply(reply)),
            Judgement::Wrong(reason) => {
                self.counters.protocol_errors += 1;
                self.distrust(cx, format!("forward of {key} version {}: {reason}", forward.ver));
            }
            Judgement::New => self.stage_forward(cx, &key, forward, payload, released),
        }
    }

    fn stage_forward(&mut self, cx: &mut Cx<P>, key: &ChunkKey, forward: Forward, payload: Payload<P>, released: bool) {
        let staged = cx.store.stage(StageRequest {
            key: key.clone(),
            ver: forward.ver,
            chain_ver: self.chain_ver(),
            tag: forward.tag,
            op: forward.op,
            chunk_size: forward.chunk_size,
            payload: payload.clone(),
        });
        let released = released || is(Mutation::NoReleaseWait);
        if let Err(code) = staged {
            self.counters.rejects += 1;
            let Forward { key, ver, tag, attempt, .. } = forward;
            return self.reply_upstream(cx, Body::Reject(Reject { key, ver, tag, attempt, code: code as i32, by: self.me }));
        }
        let inflight = InFlight {
            ver: forward.ver,
            tag: forward.tag,
            op: Some(forward.op),
            chunk_size: forward.chunk_size,
            base: (forward.base_ver, forward.base_checksum),
            payload: Some(payload),
            waiters: Vec::new(),
            pred_attempt: forward.attempt,
            stage: None,
            released,
            next: self.next_for(key),
            undoing: None,
            explain: forward.explain,
            times: Times { received: cx.now, staged: 0, released: if released { cx.now } else { 0 } },
        };
        self.sessions.start(forward.tag, key);
        self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Update(Box::new(inflight)));
        self.send_forward(cx, key);
    }

    /// Answers the member that sent the update; the head has none.
    pub(super) fn reply_upstream(&self, cx: &mut Cx<P>, body: Body) {
        if let Some(pred) = self.role().pred {
            self.send(cx, pred, body, None);
        }
    }

    /// Who gets an update of this chunk next. Decided when its turn comes: the sink of a resync gets it only if the
    /// chunk is settled, and otherwise this target acts as tail (amendment C13).
    pub(super) fn next_for(&self, key: &ChunkKey) -> Next {
        let role = self.role();
        let sink = role.sink.filter(|_| self.source.as_ref().is_some_and(|s| s.forwards(key)) && !is(Mutation::SkipSink));
        match role.succ.or(sink) {
            Some(target) => Next::To(Hand { target, attempt: 0, held: false, loading: false, release_sent: false, reply: None }),
            None => Next::Nobody,
        }
    }

    /// Sends the update on under a new attempt number, when the window has room; reads its payload back first if it was
    /// dropped.
    pub(super) fn send_forward(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let inflight = self.chunks.get_mut(key).and_then(|c| c.update()).expect("called for an update in flight");
        let (ver, op) = (inflight.ver, inflight.op);
        self.window.handed(&inflight.next);
        let Next::To(hand) = &mut inflight.next else { return };
        let bytes = u64::from(op.map_or(0, |op| op.payload_len()));
        hand.held = !self.window.has_room(bytes, self.config.forward_window);
        if hand.held {
            // No answer to an earlier attempt but a success is of any interest.
            (hand.attempt, hand.loading, hand.release_sent) = (0, false, false);
            self.counters.held_forwards += 1;
            self.window.held.push_back(key.clone());
            return self.drop_payload(key);
        }
        self.attempt += 1;
        hand.attempt = self.attempt;
        self.window.send(self.attempt, bytes);
        hand.release_sent &= is(Mutation::ReleaseOnce);
        hand.loading = inflight.payload.is_none();
        self.counters.forwards += 1;
        if !hand.loading {
            return self.emit_forward(cx, key);
        }
        let op = op.expect("an update that was rolled forward is never handed on: a revived member serves alone");
        let attempt = hand.attempt;
        let id = self.new_id();
        self.reads.insert(id, Reading::Forward { key: key.clone(), attempt, len: op.len });
        cx.store.read(id, key, ver, op.offset, op.len);
    }

    /// The update in flight, if it is staged, needs its buffer no more: the predecessor is told where much has come together.
    pub(super) fn staged_for_predecessor(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let Some(inflight) = self.chunks.get_mut(key).and_then(|c| c.update()).filter(|f| f.stage.is_some()) else { return };
        let bytes = u64::from(inflight.op.map_or(0, |op| op.payload_len()));
        if inflight.pred_attempt == 0 || bytes == 0 {
            return;
        }
        self.window.stage(inflight.pred_attempt, bytes);
        if self.window.owed > self.config.forward_window / 2 {
            self.window.owed = 0;
            let attempts = std::mem::take(&mut self.window.staged).into_keys().collect();
            self.reply_upstream(cx, Body::Credit(Credit { attempts }));
        }
    }

    /// The successor has staged what it got in these attempts.
    pub(super) fn on_credit(&mut self, credit: Credit) {
        let heard = credit.attempts.into_iter().filter(|_| !is(Mutation::IgnoreCredit));
        heard.for_each(|attempt| self.window.give_back(attempt));
    }

    /// Sends what has room in the window now. Called after every event.
    pub(super) fn pump_window(&mut self, cx: &mut Cx<P>) {
        while let Some(key) = self.window.held.front().cloned() {
            let held = |f: &&mut InFlight<P>| f.undoing.is_none() && matches!(&f.next, Next::To(h) if h.held);
            let inflight = self.chunks.get_mut(&key).and_then(|c| c.update()).filter(held);
            let bytes = inflight.as_ref().map_or(0, |f| f.op.map_or(0, |op| op.payload_len()));
            let waits = inflight.is_some();
            if waits && !self.window.has_room(bytes.into(), self.config.forward_window) {
                return;
            }
            self.window.held.pop_front();
            if waits {
                self.send_forward(cx, &key);
                self.progress(cx, &key);
            }
        }
    }

    /// The payload has been read back.
    pub(super) fn on_payload(&mut self, cx: &mut Cx<P>, key: &ChunkKey, attempt: u64, payload: Payload<P>) {
        let Some(inflight) = self.chunks.get_mut(key).and_then(|c| c.update()) else { return };
        let Next::To(hand) = &mut inflight.next else { return };
        if hand.attempt != attempt {
            return;
        }
        hand.loading = false;
        inflight.payload = Some(payload);
        self.emit_forward(cx, key);
        self.drop_payload(key);
        self.progress(cx, key);
    }

    fn emit_forward(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let inflight = self.chunks.get_mut(key).and_then(|c| c.update()).expect("called for an update in flight");
        let Next::To(hand) = &inflight.next else { return };
        let (to, payload) = (hand.target, inflight.payload.clone());
        let forward = Forward {
            key: key.as_bytes().to_vec(),
            ver: inflight.ver,
            tag: inflight.tag,
            op: inflight.op.expect("see send_forward"),
            chunk_size: inflight.chunk_size,
            base_ver: inflight.base.0,
            base_checksum: inflight.base.1,
            attempt: hand.attempt,
            payload_crc: payload.as_ref().map_or(0, |p| p.crc),
            explain: inflight.explain,
        };
        let (name, ver, tag) = (forward.key.clone(), forward.ver, forward.tag);
        self.send(cx, to, Body::Forward(forward), payload);
        if is(Mutation::ReleaseEarly) {
            self.send(cx, to, Body::Release(Release { key: name, ver, tag }), None);
        }
    }

    /// A staged update that has been sent on needs its payload no more: it can be read back.
    pub(super) fn drop_payload(&mut self, key: &ChunkKey) {
        let Some(inflight) = self.chunks.get_mut(key).and_then(|c| c.update()) else { return };
        let bulky = inflight.op.is_some_and(|op| op.payload_len() > 0);
        if inflight.stage.is_some() && bulky {
            inflight.payload = None;
        }
    }

    /// There is a new link to `peer`, or a new chain version: what was sent may be lost, so all of it is sent again,
    /// releases too (amendment H4).
    pub(super) fn forward_again(&mut self, cx: &mut Cx<P>, peer: TargetId) {
        let handed = |c: &mut super::ChunkState<P>| {
            c.update()
                .is_some_and(|f| f.undoing.is_none() && matches!(&f.next, Next::To(h) if h.target == peer && h.reply.is_none()))
        };
        let keys: Vec<ChunkKey> = self.chunks.iter_mut().filter_map(|(k, c)| handed(c).then(|| k.clone())).collect();
        for key in keys {
            self.counters.reforwards += 1;
            self.send_forward(cx, &key);
            self.progress(cx, &key);
        }
    }

    /// Every target upstream holds the update durably.
    pub(super) fn on_release(&mut self, cx: &mut Cx<P>, release: Release) {
        let Some(key) = ChunkKey::new(&release.key) else { return };
        let Some(chunk) = self.chunks.get_mut(&key) else { return };
        let named = |ver: Ver, tag: Tag| ver == release.ver && tag == release.tag;
        // A release for a forward that waits for its turn is remembered with it.
        for turn in &mut chunk.queue {
            if let Turn::Forward(forward, _, released) = turn
                && named(forward.ver, forward.tag)
            {
                *released = !is(Mutation::ForgetEarlyRelease);
                return;
            }
        }
        let Some(inflight) = chunk.update().filter(|f| named(f.ver, f.tag) && f.undoing.is_none()) else { return };
        if !inflight.released {
            inflight.released = true;
            inflight.times.released = cx.now;
        }
        self.progress(cx, &key);
    }
}

/// Amendment H3: what a forward is, seen from the chunk.
fn judge<P: Clone>(
    forward: &Forward,
    key: &ChunkKey,
    payload: &Payload<P>,
    own: ChainVer,
    store: &dyn ChunkStore<Payload = P>,
) -> Judgement {
    if let Err(text) = forward.op.check(forward.chunk_size) {
        return Judgement::Wrong(text);
    }
    if payload.len != forward.op.payload_len() {
        return Judgement::Wrong(format!("{} bytes of payload", payload.len));
    }
    let meta = store.meta(key);
    let committed = meta.and_then(|m| m.committed);
    let row = store.session(forward.tag.session()).filter(|row| row.seq == forward.tag.seq && row.ver == forward.ver);
    let reply = |checksum, commit_chain_ver| {
        let (key, ver, tag) = (forward.key.clone(), forward.ver, forward.tag);
        Judgement::Done(Reply { key, ver, tag, checksum, commit_chain_ver, hops: Vec::new() })
    };
    match committed {
        Some(c) if c.ver == forward.ver && c.tag == forward.tag => {
            return reply(c.checksum, if is(Mutation::PresentChainVer) { own } else { c.chain_ver });
        }
        None if forward.op.kind() == OpKind::Remove && store.remove_floor() >= forward.ver && !is(Mutation::ForgetRemoves) => {
            return reply(0, row.map_or(own, |r| r.chain_ver));
        }
        _ => {}
    }
    if let Some(staged) = meta.and_then(|m| m.staged) {
        return Judgement::Wrong(format!("version {} of {} is staged here and was not forwarded", staged.ver, staged.tag));
    }
    let base = committed.map_or((0, 0), |c| (c.ver, c.checksum));
    if base != (forward.base_ver, forward.base_checksum) && !is(Mutation::AnyBase) {
        return Judgement::Wrong(format!(
            "builds on version {} ({:08x}), here is {} ({:08x})",
            forward.base_ver, forward.base_checksum, base.0, base.1
        ));
    }
    if meta.is_some_and(|m| m.chunk_size != forward.chunk_size) {
        return Judgement::Wrong(format!("chunk size {}", forward.chunk_size));
    }
    if forward.ver <= base.0 {
        return Judgement::Wrong("does not raise the version".into());
    }
    Judgement::New
}
