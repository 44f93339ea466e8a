//! Requests and their replies over one connection, many at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_arena::Arena;
use catena_wire::header::{FLAG_PULL, FLAG_PUSH, Kind};
use catena_wire::hello::{Hello, HelloReply};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::handshake::connect;
use crate::one_sided::offer_lane;
use crate::{Frame, FrameReceiver, FrameSender, Lane, NetError, ONE_SIDED_FROM, Offered, OneSided, RemoteBuffer, Security};

/// One connection over which requests are made. Clones share it; it is closed when the last one is gone. When it ends,
/// every pending call ends with [`NetError::Closed`]; whoever wants another connection makes one.
#[derive(Clone)]
pub struct Rpc(Arc<Inner>);

struct Inner {
    sender: FrameSender,
    hello: HelloReply,
    next_id: AtomicU64,
    pending: Arc<Mutex<Pending>>,
    reader: AbortHandle,
    arena: Arena,
    /// The way beside the frames, if both sides have it.
    lane: Option<Arc<dyn Lane>>,
    /// It has failed.
    lane_failed: AtomicBool,
}

#[derive(Default)]
struct Pending {
    calls: HashMap<u64, Waiting>,
    /// Why no reply will come any more.
    ended: Option<String>,
}

/// A request without a reply.
struct Waiting {
    /// `None`: nobody waits any more, but what was offered is still the other side's.
    caller: Option<oneshot::Sender<Frame>>,
    offered: Option<Box<dyn Offered>>,
}

impl Rpc {
    /// Connects to `addr` and says `hello`.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect(
        addr: &str,
        hello: Hello,
        security: &Security,
        arena: Arena,
        timeout: Duration,
    ) -> Result<Rpc, NetError> {
        Rpc::connect_with(addr, hello, security, arena, timeout, None).await
    }

    /// The same; large payloads go by `transport`, if the other side has it too.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect_with(
        addr: &str,
        hello: Hello,
        security: &Security,
        arena: Arena,
        timeout: Duration,
        transport: Option<&Arc<dyn OneSided>>,
    ) -> Result<Rpc, NetError> {
        let (lane, ours) = transport.and_then(offer_lane).unzip();
        let hello = Hello { lane: ours, ..hello };
        let (sender, receiver, hello) = connect(addr, hello, security, arena.clone(), timeout).await?;
        let lane = lane.filter(|lane| match hello.lane.as_ref().map(|theirs| lane.connect(&theirs.address)) {
            Some(Ok(())) => true,
            Some(Err(e)) => {
                tracing::debug!(addr, "no one-sided transport for a connection: {e}");
                false
            }
            None => false,
        });
        let pending = Arc::new(Mutex::new(Pending::default()));
        let reader = tokio::spawn(read_replies(receiver, pending.clone(), lane.clone())).abort_handle();
        let (next_id, lane_failed) = (AtomicU64::new(1), AtomicBool::new(false));
        Ok(Rpc(Arc::new(Inner { sender, hello, next_id, pending, reader, arena, lane, lane_failed })))
    }

    /// Whether large payloads go beside the frames.
    pub fn is_one_sided(&self) -> bool {
        self.0.lane.is_some() && !self.0.lane_failed.load(Ordering::Relaxed)
    }

    /// What the other side answered to the hello.
    pub fn hello(&self) -> &HelloReply {
        &self.0.hello
    }

    /// Address of the other end.
    pub fn peer(&self) -> &str {
        self.0.sender.peer()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.0.sender.is_closed() || lock(&self.0.pending).ended.is_some()
    }

    /// Bytes queued and not yet given to the system.
    pub fn queued_bytes(&self) -> usize {
        self.0.sender.queued_bytes()
    }

    /// Sends a request and waits for its reply. The frame with it carries the reply's payload.
    ///
    /// # Errors
    /// The connection ended, nothing came within `timeout`, or what came is not the reply.
    pub async fn call<Req, Rep>(&self, kind: Kind, request: &Req, timeout: Duration) -> Result<(Rep, Frame), NetError>
    where
        Req: prost::Message,
        Rep: prost::Message + Default,
    {
        let frame = self.call_frame(Frame::new(kind, 0, request), timeout).await?;
        Ok((frame.decode()?, frame))
    }

    /// The same with a payload whose CRC-32C is `crc`.
    ///
    /// # Errors
    /// As [`Rpc::call`].
    pub async fn call_with_payload<Req, Rep>(
        &self,
        kind: Kind,
        request: &Req,
        payload: Bytes,
        crc: u32,
        timeout: Duration,
    ) -> Result<(Rep, Frame), NetError>
    where
        Req: prost::Message,
        Rep: prost::Message + Default,
    {
        let frame = self.call_frame(Frame::new(kind, 0, request).with_payload(payload, crc), timeout).await?;
        Ok((frame.decode()?, frame))
    }

    /// The same as [`Rpc::call`], for a reply with at most `room` bytes of payload.
    ///
    /// # Errors
    /// As [`Rpc::call`].
    pub async fn call_for_payload<Req, Rep>(
        &self,
        kind: Kind,
        request: &Req,
        room: usize,
        timeout: Duration,
    ) -> Result<(Rep, Frame), NetError>
    where
        Req: prost::Message,
        Rep: prost::Message + Default,
    {
        let request = Frame::new(kind, 0, request).with_deadline(timeout);
        let (request, offered) = self.offer_room(request, room);
        let frame = self.exchange(request, offered, timeout).await?;
        Ok((frame.decode()?, frame))
    }

    /// Sends `request` under an id of its own, with `timeout` as its deadline, and waits for the reply.
    ///
    /// # Errors
    /// As [`Rpc::call`].
    pub async fn call_frame(&self, request: Frame, timeout: Duration) -> Result<Frame, NetError> {
        let begun = Instant::now();
        let request = request.with_deadline(timeout);
        let (first, offered) = self.offer_payload(request.clone());
        let tried = offered.is_some();
        let frame = self.exchange(first, offered, timeout).await?;
        if !tried || frame.flags & FLAG_PULL == 0 {
            return Ok(frame);
        }
        tracing::debug!(peer = self.peer(), "the other side could not read a payload: from here on they go in frames");
        self.0.lane_failed.store(true, Ordering::Relaxed);
        let left = timeout.saturating_sub(begun.elapsed());
        self.exchange(request.with_deadline(left), None, left).await
    }

    /// The request with its payload offered to be read, if it is worth it and can be.
    fn offer_payload(&self, request: Frame) -> (Frame, Option<Box<dyn Offered>>) {
        let Some(lane) = self.0.lane.as_ref().filter(|_| self.is_one_sided()) else { return (request, None) };
        if request.payload.len() < ONE_SIDED_FROM {
            return (request, None);
        }
        match lane.offer_data(request.payload.clone()) {
            Ok(offered) => {
                let ((addr, key), len) = (offered.place(), request.payload.len() as u32);
                let remote = RemoteBuffer { addr, key, len, crc: request.payload_crc };
                (request.describing(FLAG_PULL, remote), Some(offered))
            }
            Err(e) => {
                tracing::debug!(peer = self.peer(), "a payload goes in its frame: {e}");
                (request, None)
            }
        }
    }

    /// The request with room for the reply's payload, if it is worth it and can be.
    fn offer_room(&self, request: Frame, room: usize) -> (Frame, Option<Box<dyn Offered>>) {
        let lane = self.0.lane.as_ref().filter(|_| self.is_one_sided() && room >= ONE_SIDED_FROM);
        let Some((lane, buffer)) = lane.and_then(|lane| Some((lane, self.0.arena.take(room)?))) else { return (request, None) };
        match lane.offer_room(buffer) {
            Ok(offered) => {
                let (addr, key) = offered.place();
                (request.describing(FLAG_PUSH, RemoteBuffer { addr, key, len: room as u32, crc: 0 }), Some(offered))
            }
            Err(e) => {
                tracing::debug!(peer = self.peer(), "a payload comes in its frame: {e}");
                (request, None)
            }
        }
    }

    async fn exchange(&self, request: Frame, offered: Option<Box<dyn Offered>>, timeout: Duration) -> Result<Frame, NetError> {
        let expected = request.kind.reply();
        let reply = self.start(request, offered)?;
        let frame = match tokio::time::timeout(timeout, reply.wait()).await {
            Ok(frame) => frame?,
            Err(_) => {
                let what = format!("reply from {}", self.peer());
                return Err(NetError::Timeout { what, ms: timeout.as_millis() as u64 });
            }
        };
        if Some(frame.kind) != expected {
            return Err(NetError::Unexpected { got: frame.kind, expected: "the reply to the request made" });
        }
        Ok(frame)
    }

    fn start(&self, mut request: Frame, offered: Option<Box<dyn Offered>>) -> Result<Call, NetError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        request.request_id = id;
        let (tx, reply) = oneshot::channel();
        {
            let mut pending = lock(&self.0.pending);
            if let Some(reason) = &pending.ended {
                return Err(NetError::Closed { peer: self.peer().to_owned(), reason: reason.clone() });
            }
            pending.calls.insert(id, Waiting { caller: Some(tx), offered });
        }
        let call = Call { rpc: self.clone(), id, reply };
        self.0.sender.send(request)?;
        Ok(call)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
        // Before what was offered is forgotten.
        self.lane.iter().for_each(|lane| lane.close());
    }
}

/// A request on its way. Dropping it forgets the reply.
struct Call {
    rpc: Rpc,
    id: u64,
    reply: oneshot::Receiver<Frame>,
}

impl Call {
    async fn wait(mut self) -> Result<Frame, NetError> {
        (&mut self.reply).await.map_err(|_| {
            let reason = lock(&self.rpc.0.pending).ended.clone().unwrap_or_default();
            NetError::Closed { peer: self.rpc.peer().to_owned(), reason }
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut pending = lock(&self.rpc.0.pending);
        if let Some(waiting) = pending.calls.get_mut(&self.id) {
            waiting.caller = None;
            if waiting.offered.is_none() {
                pending.calls.remove(&self.id);
            }
        }
    }
}

async fn read_replies(mut receiver: FrameReceiver, pending: Arc<Mutex<Pending>>, lane: Option<Arc<dyn Lane>>) {
    let reason = loop {
        match receiver.recv().await {
            Ok(Some(frame)) => {
                let waiting = lock(&pending).calls.remove(&frame.request_id);
                let Some(Waiting { caller, offered }) = waiting else { continue };
                let frame = taken_back(frame, offered);
                if let Some(caller) = caller {
                    // Whoever called may have stopped waiting.
                    let _ = caller.send(frame);
                }
            }
            Ok(None) => break "closed by the other side".to_owned(),
            Err(e) => break e.to_string(),
        }
    };
    lane.iter().for_each(|lane| lane.close());
    let mut pending = lock(&pending);
    pending.ended = Some(reason);
    pending.calls.clear();
}

/// The reply with what was written to the room offered as its payload. Whatever was offered is this side's again.
fn taken_back(frame: Frame, offered: Option<Box<dyn Offered>>) -> Frame {
    let room = offered.and_then(|offered| offered.take_back());
    if frame.flags & FLAG_PUSH == 0 {
        return frame;
    }
    match (frame.remote(), room) {
        (Some(written), Some(mut room)) if written.len as usize <= room.len() => {
            room.set_len(written.len as usize);
            frame.moved(written, room.freeze())
        }
        // The caller asks again.
        _ => Frame { payload: Bytes::new(), payload_ok: false, ..frame },
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    // Nothing panics while it is held; what it guards is whole at any moment.
    pending.lock().unwrap_or_else(|e| e.into_inner())
}
