//! Drivers of the state machines: they carry out the steps over real connections and a real clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catena_net::Frame;
use catena_types::crc::crc32c;
use catena_types::limits::{MAX_CHUNK, valid_chunk_size};
use catena_types::{ChainId, ChunkKey, ClientId, Code, Routing, Time};
use catena_wire::client::{ReadReply, ReadRequest, UpdateReply, UpdateRequest};
use catena_wire::header::Kind;

use crate::api::{ReadOptions, ReadResult, UpdateKind, UpdateOptions, Updated};
use crate::channels::{Channels, Taken};
use crate::config::ClientConfig;
use crate::core::{Attempt, Lost, Place, ReadCall, Step, Tuning, UpdateCall};
use crate::error::{Error, ErrorKind};
use crate::links::{NoAnswer, Payload};
use crate::managers::Reply;
use crate::routes::Routes;

/// How long a key without a chain waits for a chain table that may have been made just now.
const TABLE_WAIT: Time = 500_000_000;

/// What the clones of a client share.
pub(crate) struct Inner {
    pub(crate) id: ClientId,
    pub(crate) config: ClientConfig,
    pub(crate) routes: Arc<Routes>,
    pub(crate) channels: Channels,
    pub(crate) tuning: Tuning,
    /// Turns reads from one replica to the next.
    pub(crate) turn: AtomicU64,
}

impl Inner {
    /// The moment an operation that starts now ends at the latest.
    pub(crate) fn deadline(&self, asked: Option<std::time::Duration>) -> Time {
        self.routes.clock.after(asked.unwrap_or(self.config.deadline))
    }

    /// The chain a key lives on.
    async fn chain_of(&self, key: &ChunkKey, deadline: Time) -> Result<ChainId, Error> {
        let routing = self.routes.current();
        if let Some(chain) = routing.chain_of(key.as_bytes()) {
            return Ok(chain);
        }
        let until = deadline.min(self.routes.clock.now().saturating_add(TABLE_WAIT));
        self.routes.wait(Some(routing.version), until).await;
        let none = || Error::new(ErrorKind::NotInitialized, "the cluster has no chain table");
        self.routes.current().chain_of(key.as_bytes()).ok_or_else(none)
    }

    /// Sends one attempt to the shard that owns its target.
    async fn send<Req: prost::Message, Rep: Reply>(
        &self,
        routing: &Routing,
        to: &Attempt,
        request: (Kind, &Req),
        payload: Payload,
    ) -> Result<(Rep, Frame), NoAnswer> {
        match routing.addr_of(to.target) {
            Some(addr) => self.routes.links.ask(addr, request.0, request.1, payload, to.until).await,
            None => Err(NoAnswer::Lost(Lost::NotSent(format!("target {} has no address in the routing", to.target)))),
        }
    }

    /// One update, from a free channel to its end.
    pub(crate) async fn update(&self, key: &ChunkKey, kind: &UpdateKind, options: &UpdateOptions) -> Result<Updated, Error> {
        let (op, payload) = kind.to_op().ok_or_else(|| invalid(format!("the data is longer than {MAX_CHUNK} bytes")))?;
        if !valid_chunk_size(options.chunk_size) {
            return Err(invalid(format!("chunk size {} is not a multiple of 4096 up to {MAX_CHUNK}", options.chunk_size)));
        }
        op.check(options.chunk_size).map_err(invalid)?;
        let deadline = self.deadline(options.deadline);
        let chain = self.chain_of(key, deadline).await?;
        let mut channel = self.channel(deadline).await?;
        let mut request = UpdateRequest {
            chain,
            chain_ver: 0,
            key: key.as_bytes().to_vec(),
            chunk_size: options.chunk_size,
            op,
            precondition: options.precondition.to_wire(),
            tag: channel.next_tag(),
            first: false,
            explain: options.explain,
        };
        let crc = crc32c(&payload);
        let mut call = UpdateCall::new(chain, op.payload_len(), !channel.knows(chain), deadline, self.tuning.clone());
        loop {
            let routing = self.routes.current();
            match call.step(self.routes.clock.now(), &routing) {
                Step::Send(to) => {
                    (request.chain_ver, request.first) = (to.chain_ver, to.first);
                    let trace = request.tag.trace();
                    tracing::debug!(target: "catena::update", trace = format_args!("{trace:016x}").to_string(), "sent");
                    let answer = self
                        .send::<_, UpdateReply>(&routing, &to, (Kind::Update, &request), Payload::Sent(payload.clone(), crc))
                        .await;
                    if let Some(reply) = self.update_answer(&mut call, &mut channel, &to, answer) {
                        return Ok(updated(reply, chain, call.attempts(), request.tag.trace()));
                    }
                }
                Step::Wait { until, newer_than } => self.routes.wait(newer_than, until).await,
                Step::Await { until } => self.routes.wait(None, until).await,
                Step::Failed(e) => return Err(e),
            }
        }
    }

    async fn channel(&self, deadline: Time) -> Result<Taken<'_>, Error> {
        let left = self.routes.clock.until(deadline);
        tokio::time::timeout(left, self.channels.take()).await.map_err(|_| {
            let cause = format!("{} updates of this client were in flight until the deadline", self.channels.count());
            Error::new(ErrorKind::Overloaded, cause)
        })
    }

    /// Takes the answer to an attempt; the reply, if the update is committed.
    fn update_answer(
        &self,
        call: &mut UpdateCall,
        channel: &mut Taken<'_>,
        to: &Attempt,
        answer: Result<(UpdateReply, Frame), NoAnswer>,
    ) -> Option<UpdateReply> {
        let now = self.routes.clock.now();
        match answer {
            Ok((reply, _)) => match reply.failure() {
                None => {
                    channel.committed(to.chain);
                    return Some(reply);
                }
                Some(failure) => {
                    if failure.code() == Code::SessionUnknown {
                        channel.forgotten(to.chain);
                    }
                    call.failed(to.number, failure, now);
                }
            },
            Err(NoAnswer::Refused(failure)) => call.failed(to.number, &failure, now),
            Err(NoAnswer::Lost(how)) => call.lost(to.number, how, now),
        }
        None
    }

    /// One read of a chunk.
    pub(crate) async fn read(&self, key: &ChunkKey, offset: u32, len: u32, options: &ReadOptions) -> Result<ReadResult, Error> {
        let deadline = self.deadline(options.deadline);
        let chain = self.chain_of(key, deadline).await?;
        let place = match options.target {
            Some(target) => Place::Target(target),
            None => Place::Any { start: self.turn.fetch_add(1, Ordering::Relaxed) },
        };
        let key = key.as_bytes();
        let request = |to: &Attempt| ReadRequest {
            chain,
            chain_ver: to.chain_ver,
            target: to.target,
            key: key.to_vec(),
            offset,
            len,
            relaxed: options.relaxed,
        };
        let check = |reply: &ReadReply, frame: &Frame| check_read(reply, frame, offset, len);
        let (reply, frame, to) = self.ask_replica((chain, place, len, deadline), Kind::Read, request, check).await?;
        Ok(ReadResult {
            data: frame.payload,
            ver: reply.ver,
            chunk_len: reply.chunk_len,
            chunk_size: reply.chunk_size,
            checksum: reply.checksum,
            chain_ver: reply.chain_ver,
            target: to.target,
            staged: reply.staged,
            asked_tail: reply.asked_tail,
        })
    }

    /// Asks replicas of a chain until one answers. `check` names what is wrong with an answer that cannot be used.
    pub(crate) async fn ask_replica<Req: prost::Message, Rep: Reply>(
        &self,
        (chain, place, bytes, deadline): (ChainId, Place, u32, Time),
        kind: Kind,
        request: impl Fn(&Attempt) -> Req,
        check: impl Fn(&Rep, &Frame) -> Result<(), Lost>,
    ) -> Result<(Rep, Frame, Attempt), Error> {
        let mut call = ReadCall::new(chain, place, bytes, deadline, self.tuning.clone());
        loop {
            let routing = self.routes.current();
            let cost = |t| routing.addr_of(t).map_or(u64::MAX, |addr| self.routes.links.cost(addr));
            match call.step(self.routes.clock.now(), &routing, &cost) {
                Step::Send(to) => {
                    let answer = self.send::<_, Rep>(&routing, &to, (kind, &request(&to)), Payload::Wanted(bytes)).await;
                    let now = self.routes.clock.now();
                    match answer {
                        Ok((reply, frame)) => match (reply.failure(), check(&reply, &frame)) {
                            (Some(failure), _) => call.failed(to.number, failure, now),
                            (None, Err(how)) => call.lost(to.number, how, now),
                            (None, Ok(())) => return Ok((reply, frame, to)),
                        },
                        Err(NoAnswer::Refused(failure)) => call.failed(to.number, &failure, now),
                        Err(NoAnswer::Lost(how)) => call.lost(to.number, how, now),
                    }
                }
                Step::Wait { until, newer_than } => self.routes.wait(newer_than, until).await,
                Step::Await { until } => self.routes.wait(None, until).await,
                Step::Failed(e) => return Err(e),
            }
        }
    }
}

fn updated(reply: UpdateReply, chain: ChainId, attempts: u32, trace: u64) -> Updated {
    Updated {
        ver: reply.ver,
        len: reply.len,
        checksum: reply.checksum,
        chain_ver: reply.chain_ver,
        chain,
        hops: reply.hops,
        attempts,
        trace,
    }
}

/// What is wrong with the bytes of a read, if anything: damage is met by asking again.
fn check_read(reply: &ReadReply, frame: &Frame, offset: u32, len: u32) -> Result<(), Lost> {
    if reply.failure.is_some() {
        return Ok(());
    }
    if !frame.payload_ok {
        return Err(Lost::Broken("the payload was damaged on its way".into()));
    }
    let expected = reply.chunk_len.saturating_sub(offset).min(len) as usize;
    if frame.payload.len() != expected {
        return Err(Lost::Broken(format!("{} bytes came where {expected} were expected", frame.payload.len())));
    }
    let whole = offset == 0 && expected == reply.chunk_len as usize && expected > 0;
    if whole && frame.payload_crc != reply.checksum {
        return Err(Lost::Broken("the bytes do not match the checksum of the chunk".into()));
    }
    Ok(())
}

pub(crate) fn invalid(cause: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, cause)
}

/// A chunk key from bytes.
pub(crate) fn chunk_key(bytes: &[u8]) -> Result<ChunkKey, Error> {
    ChunkKey::new(bytes).ok_or_else(|| invalid(format!("a chunk key has 1 to 255 bytes, not {}", bytes.len())))
}
