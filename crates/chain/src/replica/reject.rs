//! A definitive reject: undone durably at every target before it moves up (protocol section 4, amendments C8 and C9).

use catena_types::{ChunkKey, Code, TargetId, Ver};
use catena_wire::peer::{Body, Reject};

use super::chunk::{Busy, Next};
use super::update::refuse;
use super::{Cx, Replica};
use crate::mutation::{Mutation, is};

impl<P: Clone> Replica<P> {
    /// Counts only if it answers our newest attempt and comes from whom we handed the update to.
    pub(super) fn on_reject(&mut self, cx: &mut Cx<P>, from: TargetId, reject: Reject) {
        let Some(key) = ChunkKey::new(&reject.key) else { return };
        let from_sink = self.role().sink == Some(from);
        let Some(inflight) = self.chunks.get_mut(&key).and_then(|c| c.update()) else { return };
        let newest = matches!(&inflight.next, Next::To(hand) if hand.target == from && (hand.attempt == reject.attempt || is(Mutation::AnyAttempt)));
        if (inflight.ver, inflight.tag) != (reject.ver, reject.tag) || !newest || inflight.undoing.is_some() {
            self.counters.stale_rejects += 1;
            return;
        }
        if from_sink {
            return self.sink_rejected(cx, reject.code());
        }
        let (ver, code, by) = (inflight.ver, reject.code(), reject.by);
        if cx.store.meta(&key).and_then(|m| m.staged).is_none() {
            return self.undone(cx, &key, code, by); // its stage had failed: there is nothing to undo
        }
        inflight.undoing = Some((code, by));
        cx.store.unstage(&key, ver);
        if is(Mutation::UnstageNotDurable) {
            self.undone(cx, &key, code, by);
        }
    }

    /// The update is undone here, durably.
    pub(super) fn on_unstaged(&mut self, cx: &mut Cx<P>, key: ChunkKey, ver: Ver) {
        let Some(inflight) = self.chunks.get_mut(&key).and_then(|c| c.update()).filter(|f| f.ver == ver) else { return };
        if let Some((code, by)) = inflight.undoing {
            self.undone(cx, &key, code, by);
        }
    }

    /// Nothing of the update in flight is left here or behind: pass the reject up, or answer the client.
    pub(super) fn undone(&mut self, cx: &mut Cx<P>, key: &ChunkKey, code: Code, by: TargetId) {
        let Some(chunk) = self.chunks.get_mut(key) else { return };
        let Some(Busy::Update(inflight)) = chunk.busy.take_if(|busy| matches!(busy, Busy::Update(_))) else { return };
        self.window.handed(&inflight.next);
        self.window.answered(inflight.pred_attempt);
        chunk.repair = None;
        self.counters.rejects += 1;
        self.sessions.end(inflight.tag);
        if self.is_head() {
            let failure = self.refusal(code, by);
            self.sessions.reject(inflight.tag, &failure);
            refuse(cx, inflight.waiters, failure);
        } else {
            let (key, ver, tag, attempt) = (key.as_bytes().to_vec(), inflight.ver, inflight.tag, inflight.pred_attempt);
            self.reply_upstream(cx, Body::Reject(Reject { key, ver, tag, attempt, code: code as i32, by }));
        }
        let readers = std::mem::take(&mut self.chunks.entry(key.clone()).or_default().readers);
        readers.into_iter().for_each(|id| self.decide_read(cx, id));
        self.answer_asker(cx, key);
        self.advance(cx, key);
    }

    /// A sink without room ends its resync, never the client's update (amendment C3): before SyncDone the source goes
    /// on as tail; after it, the update waits for the next chain version.
    fn sink_rejected(&mut self, cx: &mut Cx<P>, code: Code) {
        let Some(source) = &mut self.source else { return };
        if source.give_up(format!("the sink could not take an update: {code:?}")) {
            self.act_as_tail(cx);
        }
    }

    /// The resync was given up: nothing is handed to the sink any more.
    pub(super) fn act_as_tail(&mut self, cx: &mut Cx<P>) {
        let keys: Vec<ChunkKey> = self.chunks.keys().cloned().collect();
        for key in keys {
            let Some(chunk) = self.chunks.get_mut(&key) else { continue };
            chunk.queue.retain(|turn| !matches!(turn, super::chunk::Turn::Settle(_)));
            match &mut chunk.busy {
                Some(Busy::Update(inflight)) if inflight.undoing.is_none() => {
                    self.window.handed(&inflight.next);
                    inflight.next = Next::Nobody;
                }
                Some(Busy::Settle) => {
                    (chunk.busy, chunk.repair) = (None, None);
                    self.answer_asker(cx, &key);
                }
                _ => {}
            }
            self.progress(cx, &key);
            self.advance(cx, &key);
        }
    }
}
