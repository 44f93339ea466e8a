//! From staged to committed: the tail first, everybody else when the successor has said so (protocol section 3).

use catena_types::{ChunkKey, OpKind, StageInfo, Ver};
use catena_wire::client::{Hop, UpdateReply};
use catena_wire::peer::{Body, Release, Reply};

use super::chunk::{Decided, InFlight, Next};
use super::{Cx, Replica};
use crate::api::Command;
use crate::mutation::{Mutation, is};

impl<P: Clone> Replica<P> {
    /// The local stage is durable.
    pub(super) fn on_staged(&mut self, cx: &mut Cx<P>, key: ChunkKey, ver: Ver, info: StageInfo) {
        let Some(chunk) = self.chunks.get_mut(&key) else { return };
        let Some(inflight) = chunk.update().filter(|f| f.ver == ver && f.undoing.is_none()) else { return };
        inflight.stage = Some(info);
        inflight.times.staged = cx.now;
        let readers = std::mem::take(&mut chunk.readers);
        self.drop_payload(&key);
        readers.into_iter().for_each(|id| self.decide_read(cx, id));
        self.answer_asker(cx, &key);
        self.progress(cx, &key);
        self.staged_for_predecessor(cx, &key);
    }

    /// The successor has committed. Counts only for an update that was released to it (amendment C5).
    pub(super) fn on_reply(&mut self, cx: &mut Cx<P>, from: u32, reply: Reply) {
        let Some(key) = ChunkKey::new(&reply.key) else { return };
        let Some(inflight) = self.chunks.get_mut(&key).and_then(|c| c.update()) else { return };
        if (inflight.ver, inflight.tag) != (reply.ver, reply.tag) {
            return;
        }
        let ready =
            (inflight.stage.is_some() && inflight.released || is(Mutation::ReplyUnreleased)) && inflight.undoing.is_none();
        match &mut inflight.next {
            Next::To(hand) if hand.target == from && ready => {
                hand.reply = Some(Decided { checksum: reply.checksum, chain_ver: reply.commit_chain_ver, hops: reply.hops });
                self.progress(cx, &key);
            }
            Next::To(hand) if hand.target == from => self.counters.protocol_errors += 1,
            // The sink's answer to an update that is no longer handed to it.
            _ => {}
        }
    }

    /// Does what the update in flight has become ready for: release the successor, or commit.
    pub(super) fn progress(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let own = self.chain_ver();
        let unreleased = is(Mutation::TailUnreleased) && self.is_tail();
        let Some(inflight) = self.chunks.get_mut(key).and_then(|c| c.update()) else { return };
        let Some(stage) = inflight.stage.filter(|_| (inflight.released || unreleased) && inflight.undoing.is_none()) else {
            return;
        };
        let (ver, tag) = (inflight.ver, inflight.tag);
        let decided = match &mut inflight.next {
            Next::Nobody => Decided { checksum: stage.checksum, chain_ver: own, hops: Vec::new() },
            Next::To(hand) => match hand.reply.take() {
                Some(decided) => decided,
                None if is(Mutation::CommitAlone) => Decided { checksum: stage.checksum, chain_ver: own, hops: Vec::new() },
                None => {
                    if !hand.release_sent && !hand.loading && !hand.held {
                        hand.release_sent = true;
                        let to = hand.target;
                        self.send(cx, to, Body::Release(Release { key: key.as_bytes().to_vec(), ver, tag }), None);
                    }
                    return;
                }
            },
        };
        if decided.checksum != stage.checksum {
            self.counters.divergences += 1;
            let (theirs, ours) = (decided.checksum, stage.checksum);
            return self
                .distrust(cx, format!("{key} version {ver}: the successor committed checksum {theirs:08x}, here is {ours:08x}"));
        }
        self.commit(cx, key, decided);
    }

    fn commit(&mut self, cx: &mut Cx<P>, key: &ChunkKey, decided: Decided) {
        let chunk = self.chunks.get_mut(key).expect("the update in flight is here");
        let Some(super::chunk::Busy::Update(inflight)) = chunk.busy.take() else { unreachable!("progress saw the update") };
        let InFlight { ver, tag, op, waiters, stage, explain, next, pred_attempt, .. } = *inflight;
        self.window.handed(&next);
        self.window.answered(pred_attempt);
        let stage = stage.expect("progress saw the stage");
        let chain_ver = if is(Mutation::OwnChainVer) { self.chain_ver() } else { decided.chain_ver };
        cx.store.commit(key, ver, chain_ver);
        self.counters.commits += 1;
        if op.is_some_and(|op| {
            op.kind() == OpKind::Remove || (op.kind() == OpKind::Write && op.offset == 0 && op.len == stage.len)
        }) {
            self.damage.forget(key); // nothing is left of what was damaged
        }
        self.sessions.end(tag);
        self.sessions.commit(tag);
        let mut hops = decided.hops;
        if explain {
            let us = |time| time / 1000;
            let times = inflight.times;
            let (received_us, staged_us, released_us) = (us(times.received), us(times.staged), us(times.released));
            hops.push(Hop {
                target: self.me,
                received_us,
                staged_us,
                released_us,
                committed_us: us(cx.now),
                stage,
                ver,
                chain_ver,
            });
        }
        let reply = UpdateReply { failure: None, ver, len: stage.len, checksum: stage.checksum, chain_ver, hops: hops.clone() };
        for request in waiters {
            cx.out.push(Command::UpdateReply { request, reply: reply.clone() });
        }
        let up = Reply { key: key.as_bytes().to_vec(), ver, tag, checksum: stage.checksum, commit_chain_ver: chain_ver, hops };
        self.reply_upstream(cx, Body::Reply(up));
        let readers = std::mem::take(&mut self.chunks.get_mut(key).expect("as above").readers);
        readers.into_iter().for_each(|id| self.decide_read(cx, id));
        self.advance(cx, key);
    }
}
