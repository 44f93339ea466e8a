//! The head's part of an update: a client's request, its checks, its turn (protocol section 2).

use catena_types::{ChunkKey, ChunkMeta, ChunkStore, Code, Failure, OpKind, Precondition, StageRequest, limits};
use catena_wire::client::UpdateReply;

use super::chunk::{Busy, InFlight, Times, Turn};
use super::sessions::Known;
use super::{Cx, Replica};
use crate::api::{ClientUpdate, Command, RequestId};
use crate::mutation::{Mutation, is};

impl<P: Clone> Replica<P> {
    /// Steps 1 to 5, then the chunk's queue.
    pub(super) fn on_update(&mut self, cx: &mut Cx<P>, mut update: ClientUpdate<P>) {
        let request = update.request;
        let ver = |store: &dyn ChunkStore<Payload = P>| store.meta(&update.key).map_or(0, |m| m.commit_ver());
        if is(Mutation::JudgeOnReceipt) && update.precondition.holds(ver(cx.store)) {
            update.precondition = Precondition::Any;
        }
        if let Err(failure) = self.check_update(cx, &update) {
            return refuse(cx, [request], failure);
        }
        if let Some(expiry) = &mut self.expiry {
            expiry.note(update.tag.session());
        }
        match self.sessions.look_up(update.tag, update.first, cx.store) {
            Known::New => {
                self.sessions.start(update.tag, &update.key);
                let key = update.key.clone();
                self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Client(Box::new(update), vec![request]));
                self.advance(cx, &key);
            }
            Known::Running(key) => {
                self.counters.repeats += 1;
                self.join(&key, &update, request);
            }
            known => self.answer_known(cx, known, update.tag.session().channel, [request]),
        }
    }

    fn check_update(&self, cx: &Cx<P>, update: &ClientUpdate<P>) -> Result<(), Failure> {
        let invalid = |text: String| Failure::new(Code::InvalidArgument, text).under(self.chain_ver());
        if !limits::valid_chunk_size(update.chunk_size) {
            let (block, max) = (limits::BLOCK, limits::MAX_CHUNK);
            return Err(invalid(format!("chunk size {} is not a multiple of {block} up to {max}", update.chunk_size)));
        }
        update.op.check(update.chunk_size).map_err(invalid)?;
        if update.payload.len != update.op.payload_len() {
            return Err(invalid(format!(
                "{} bytes came with an update of {} bytes",
                update.payload.len,
                update.op.payload_len()
            )));
        }
        self.check_head(cx, update.chain_ver)
    }

    fn check_head(&self, cx: &Cx<P>, chain_ver: u64) -> Result<(), Failure> {
        self.check_serving(cx.now, chain_ver)?;
        if !self.is_head() {
            let text = format!("target {} is not the head of chain {}; refresh routing", self.me, self.role().chain.id);
            return Err(Failure::new(Code::NotHead, text).under(self.chain_ver()));
        }
        Ok(())
    }

    /// A repeated request waits for the update that is in progress.
    fn join(&mut self, key: &ChunkKey, update: &ClientUpdate<P>, request: RequestId) {
        let chunk = self.chunks.get_mut(key).expect("a running update has its chunk's state");
        if let Some(inflight) = chunk.update().filter(|f| f.tag == update.tag) {
            inflight.waiters.push(request);
            return;
        }
        let queued = chunk.queue.iter_mut().find_map(|turn| match turn {
            Turn::Client(u, waiters) if u.tag == update.tag => Some(waiters),
            _ => None,
        });
        queued.expect("a running update has the turn or waits for it").push(request);
    }

    /// Replies with a recorded outcome, or that there is none.
    fn answer_known(&mut self, cx: &mut Cx<P>, known: Known, channel: u32, requests: impl IntoIterator<Item = RequestId>) {
        let failure = match known {
            Known::Committed(row) => {
                self.counters.repeats += 1;
                let reply = UpdateReply {
                    ver: row.ver,
                    len: row.len,
                    checksum: row.checksum,
                    chain_ver: row.chain_ver,
                    ..Default::default()
                };
                return requests
                    .into_iter()
                    .for_each(|request| cx.out.push(Command::UpdateReply { request, reply: reply.clone() }));
            }
            Known::Rejected(failure) => {
                self.counters.repeats += 1;
                failure
            }
            Known::Stale => Failure::new(Code::StaleRequest, format!("channel {channel} has already sent a later update")),
            _ => Failure::new(
                Code::SessionUnknown,
                format!("channel {channel} has no session on this chain: it expired, or never was"),
            ),
        };
        let failure = failure.under(self.chain_ver());
        refuse(cx, requests, failure);
    }

    /// Steps 6 and 7: the turn has come.
    pub(super) fn start_client(&mut self, cx: &mut Cx<P>, update: ClientUpdate<P>, waiters: Vec<RequestId>) {
        let tag = update.tag;
        if let Err(failure) = self.check_head(cx, update.chain_ver) {
            self.sessions.end(tag);
            return refuse(cx, waiters, failure);
        }
        match self.sessions.decided(tag, cx.store) {
            Known::New => {}
            known => {
                self.sessions.end(tag);
                return self.answer_known(cx, known, tag.channel, waiters);
            }
        }
        if let Err(failure) = self.stage_client(cx, &update, &waiters) {
            self.counters.rejects += 1;
            self.sessions.end(tag);
            self.sessions.reject(tag, &failure);
            refuse(cx, waiters, failure);
        }
    }

    fn stage_client(&mut self, cx: &mut Cx<P>, update: &ClientUpdate<P>, waiters: &[RequestId]) -> Result<(), Failure> {
        let meta = cx.store.meta(&update.key);
        self.check_chunk(update, meta.as_ref())?;
        let committed = meta.and_then(|m| m.committed);
        let base = committed.map_or((0, 0), |c| (c.ver, c.checksum));
        let ver = committed.map_or(cx.store.remove_floor() * u64::from(!is(Mutation::VersionsRepeat)), |c| c.ver) + 1;
        let staged = cx.store.stage(StageRequest {
            key: update.key.clone(),
            ver,
            chain_ver: self.chain_ver(),
            tag: update.tag,
            op: update.op,
            chunk_size: update.chunk_size,
            payload: update.payload.clone(),
        });
        staged.map_err(|code| self.refusal(code, self.me))?;
        let next = self.next_for(&update.key);
        let times = Times { received: cx.now, staged: 0, released: cx.now };
        let inflight = InFlight {
            ver,
            tag: update.tag,
            op: Some(update.op),
            chunk_size: update.chunk_size,
            base,
            payload: Some(update.payload.clone()),
            waiters: waiters.to_vec(),
            pred_attempt: 0,
            stage: None,
            released: true,
            next,
            undoing: None,
            explain: update.explain,
            times,
        };
        self.chunks.entry(update.key.clone()).or_default().busy = Some(Busy::Update(Box::new(inflight)));
        self.send_forward(cx, &update.key);
        Ok(())
    }

    /// What the chunk itself says to the update: its size, the precondition, whether there is something to remove.
    fn check_chunk(&self, update: &ClientUpdate<P>, meta: Option<&ChunkMeta>) -> Result<(), Failure> {
        let ver = meta.map_or(0, ChunkMeta::commit_ver);
        let refuse = |code, text: String| Err(Failure::new(code, text).with_version(ver).under(self.chain_ver()));
        if let Some(meta) = meta.filter(|m| m.chunk_size != update.chunk_size) {
            return refuse(
                Code::InvalidArgument,
                format!("the chunk was made with chunk size {}, not {}", meta.chunk_size, update.chunk_size),
            );
        }
        if !update.precondition.holds(ver) {
            let is = if ver == 0 { "is absent".to_string() } else { format!("has version {ver}") };
            return refuse(Code::PreconditionFailed, format!("the chunk {is}, wanted {:?}", update.precondition));
        }
        if update.op.kind() == OpKind::Remove && ver == 0 {
            return refuse(Code::NotFound, "there is no such chunk to remove".into());
        }
        Ok(())
    }

    /// The failure for an update that a target refused definitively.
    pub(super) fn refusal(&self, code: Code, by: u32) -> Failure {
        let text = match code {
            Code::Corrupt => format!(
                "what the update keeps of the chunk is damaged at target {by} and its neighbours; write the chunk as a whole"
            ),
            _ => format!("target {by} has no room; free space or add targets"),
        };
        Failure::new(code, text).under(self.chain_ver())
    }
}

/// Answers every request with the same failure.
pub(super) fn refuse<P>(cx: &mut Cx<P>, requests: impl IntoIterator<Item = RequestId>, failure: Failure) {
    for request in requests {
        let reply = UpdateReply { failure: Some(failure.clone()), ..Default::default() };
        cx.out.push(Command::UpdateReply { request, reply });
    }
}
