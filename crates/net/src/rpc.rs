//! Requests and their replies over one connection, many at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use catena_arena::Arena;
use catena_wire::header::Kind;
use catena_wire::hello::{Hello, HelloReply};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::handshake::connect;
use crate::{Frame, FrameReceiver, FrameSender, NetError, Security};

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
}

#[derive(Default)]
struct Pending {
    calls: HashMap<u64, oneshot::Sender<Frame>>,
    /// Why no reply will come any more.
    ended: Option<String>,
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
        let (sender, receiver, hello) = connect(addr, hello, security, arena, timeout).await?;
        let pending = Arc::new(Mutex::new(Pending::default()));
        let reader = tokio::spawn(read_replies(receiver, pending.clone())).abort_handle();
        Ok(Rpc(Arc::new(Inner { sender, hello, next_id: AtomicU64::new(1), pending, reader })))
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

    /// Sends `request` under an id of its own, with `timeout` as its deadline, and waits for the reply.
    ///
    /// # Errors
    /// As [`Rpc::call`].
    pub async fn call_frame(&self, request: Frame, timeout: Duration) -> Result<Frame, NetError> {
        let expected = request.kind.reply();
        let reply = self.start(request.with_deadline(timeout))?;
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

    fn start(&self, mut request: Frame) -> Result<Call, NetError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        request.request_id = id;
        let (tx, reply) = oneshot::channel();
        {
            let mut pending = lock(&self.0.pending);
            if let Some(reason) = &pending.ended {
                return Err(NetError::Closed { peer: self.peer().to_owned(), reason: reason.clone() });
            }
            pending.calls.insert(id, tx);
        }
        let call = Call { rpc: self.clone(), id, reply };
        self.0.sender.send(request)?;
        Ok(call)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
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
        lock(&self.rpc.0.pending).calls.remove(&self.id);
    }
}

async fn read_replies(mut receiver: FrameReceiver, pending: Arc<Mutex<Pending>>) {
    let reason = loop {
        match receiver.recv().await {
            Ok(Some(frame)) => {
                let call = lock(&pending).calls.remove(&frame.request_id);
                // A reply nobody waits for any more.
                let _ = call.map(|c| c.send(frame));
            }
            Ok(None) => break "closed by the other side".to_owned(),
            Err(e) => break e.to_string(),
        }
    };
    let mut pending = lock(&pending);
    pending.ended = Some(reason);
    pending.calls.clear();
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    // Nothing panics while it is held; what it guards is whole at any moment.
    pending.lock().unwrap_or_else(|e| e.into_inner())
}
