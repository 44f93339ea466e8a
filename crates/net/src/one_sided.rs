//! Payloads beside the frames: by reads and writes of the other side's memory, where both sides can.
//!
//! A connection stays a TCP connection. If its hello and the answer name the same one-sided transport, each side has a
//! [`Lane`] to the other, and a large payload may be replaced in its frame by a [`RemoteBuffer`]:
//!
//! | frame | flag | the frame's payload describes |
//! |---|---|---|
//! | request | `PULL` | the asker's memory that holds the payload; the service reads it |
//! | request | `PUSH` | the asker's memory that has room for the payload of the reply |
//! | reply | `PUSH` | what the service has written there |
//! | reply | `PULL` | nothing: the payload could not be read, nothing was done; the asker sends it again in the frame |
//!
//! What must hold: whatever fails here, the request goes over TCP. Memory that was offered is not used again before the
//! reply has come or the lane is closed. A payload is checked against its checksum wherever it came by.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_types::crc::crc32c;
use catena_types::limits::MAX_PAYLOAD;
use catena_wire::header::{FLAG_PULL, FLAG_PUSH, FLAG_REPLY};
use catena_wire::hello::{Hello, LaneHello};
use catena_wire::remote::{REMOTE_BYTES, RemoteBuffer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Frame, FrameSender};

/// Payloads of this many bytes or more go beside the frame; shorter ones are there sooner in it.
pub const ONE_SIDED_FROM: usize = 32 << 10;
/// Bytes pulled at a time on one connection, a single payload aside: what has not been admitted yet takes no more memory.
const PULLING: usize = 32 << 20;
/// Longest that a transfer takes if the request has no deadline.
const PATIENCE: Duration = Duration::from_secs(10);

/// A one-sided transport of this process.
pub trait OneSided: Debug + Send + Sync {
    /// Names the transport and what it reaches; both sides must have the same.
    fn name(&self) -> &str;

    /// This side of a new connection.
    ///
    /// # Errors
    /// The connection does without.
    fn open(&self) -> Result<Arc<dyn Lane>, LaneError>;
}

/// One side of one connection. Dropping it closes it.
pub trait Lane: Send + Sync {
    /// What the other side connects to.
    fn address(&self) -> Vec<u8>;

    /// Connects to the address of the other side; once.
    ///
    /// # Errors
    /// It cannot be one.
    fn connect(&self, peer: &[u8]) -> Result<(), LaneError>;

    /// Lets the other side read `data`.
    ///
    /// # Errors
    /// It cannot be registered.
    fn offer_data(&self, data: Bytes) -> Result<Box<dyn Offered>, LaneError>;

    /// Lets the other side write `room`.
    ///
    /// # Errors
    /// It cannot be registered.
    fn offer_room(&self, room: AlignedBuf) -> Result<Box<dyn Offered>, LaneError>;

    /// Fills `room` from the other side's memory, and gives it back.
    fn pull(&self, from: RemoteBuffer, room: AlignedBuf) -> Moved<AlignedBuf>;

    /// Writes `data` to the other side's memory; it is there when this has ended.
    fn push(&self, data: Bytes, to: RemoteBuffer) -> Moved<()>;

    /// Ends all access; transfers under way fail.
    fn close(&self);
}

/// Memory offered to the other side. Dropped, it stays with the lane until that is closed.
pub trait Offered: Send {
    /// Address and key the other side names it by.
    fn place(&self) -> (u64, u64);

    /// The other side is done with it; gives room back.
    fn take_back(self: Box<Self>) -> Option<AlignedBuf>;
}

/// A transfer. Dropping it leaves the memory to the lane until the transfer has ended.
pub type Moved<T> = Pin<Box<dyn Future<Output = Result<T, LaneError>> + Send>>;

/// Why a lane did not do something, with the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LaneError(pub String);

/// The accepting side's lane to whoever said `hello`, and what to answer, if both have the same transport.
pub fn accept_lane(transport: Option<&Arc<dyn OneSided>>, hello: &Hello) -> Option<(Arc<dyn Lane>, LaneHello)> {
    let (transport, theirs) = (transport?, hello.lane.as_ref()?);
    if theirs.transport != transport.name() {
        tracing::debug!("a peer offers the transport {}, this process has {}: TCP it is", theirs.transport, transport.name());
        return None;
    }
    let lane = transport.open().and_then(|lane| lane.connect(&theirs.address).map(|()| lane));
    match lane {
        Ok(lane) => {
            let ours = LaneHello { transport: transport.name().to_owned(), address: lane.address() };
            Some((lane, ours))
        }
        Err(e) => {
            tracing::debug!("no one-sided transport for a connection: {e}");
            None
        }
    }
}

/// The connecting side's lane and what to say of it.
pub(crate) fn offer_lane(transport: &Arc<dyn OneSided>) -> Option<(Arc<dyn Lane>, LaneHello)> {
    match transport.open() {
        Ok(lane) => {
            let ours = LaneHello { transport: transport.name().to_owned(), address: lane.address() };
            Some((lane, ours))
        }
        Err(e) => {
            tracing::debug!("no one-sided transport for a connection: {e}");
            None
        }
    }
}

impl Frame {
    /// The description in place of a payload, if it is one and whole.
    pub fn remote(&self) -> Option<RemoteBuffer> {
        let described = self.flags & (FLAG_PULL | FLAG_PUSH) != 0 && self.payload_ok;
        let bytes = self.payload.as_ref().try_into().ok().filter(|_| described)?;
        Some(RemoteBuffer::decode(bytes)).filter(|r| r.len <= MAX_PAYLOAD)
    }

    /// The same with a description in place of its payload.
    pub(crate) fn describing(mut self, flag: u32, remote: RemoteBuffer) -> Frame {
        let bytes: [u8; REMOTE_BYTES] = remote.encode();
        self.flags |= flag;
        self.payload_crc = crc32c(&bytes);
        self.payload = Bytes::copy_from_slice(&bytes);
        self
    }

    /// The same with the payload that was described by `remote`.
    pub(crate) fn moved(mut self, remote: RemoteBuffer, payload: Bytes) -> Frame {
        self.flags &= !(FLAG_PULL | FLAG_PUSH);
        self.carrying(payload, remote.crc)
    }
}

/// The service's side of a lane: fetches payloads of requests, brings those of replies.
pub struct Mover {
    lane: Arc<dyn Lane>,
    arena: Arena,
    pulling: Arc<Semaphore>,
}

impl Mover {
    /// Moves payloads over `lane`, into buffers of `arena`.
    pub fn new(lane: Arc<dyn Lane>, arena: Arena) -> Mover {
        Mover { lane, arena, pulling: Arc::new(Semaphore::new(PULLING)) }
    }

    /// Waits until the payload that `frame` describes may take memory.
    pub async fn turn(&self, frame: &Frame) -> Option<OwnedSemaphorePermit> {
        let bytes = frame.remote().map_or(0, |r| r.len as usize).min(PULLING);
        // Never closed; at most `PULLING`, which fits.
        self.pulling.clone().acquire_many_owned(bytes as u32).await.ok()
    }

    /// The frame with the payload it describes.
    ///
    /// # Errors
    /// The reply to send: the payload could not be read, and nothing was done.
    pub async fn fetch(&self, frame: Frame) -> Result<Frame, Frame> {
        let refusal = could_not_pull(&frame);
        let Some(remote) = frame.remote() else { return Err(refusal) };
        let begun = Instant::now();
        let room = self.arena.take_or_alloc(remote.len as usize);
        match tokio::time::timeout(frame.deadline.unwrap_or(PATIENCE), self.lane.pull(remote, room)).await {
            Ok(Ok(payload)) => {
                let mut frame = frame.moved(remote, payload.freeze());
                frame.deadline = frame.deadline.map(|d| d.saturating_sub(begun.elapsed()));
                Ok(frame)
            }
            Ok(Err(e)) => {
                tracing::debug!("a payload could not be read from its sender: {e}");
                Err(refusal)
            }
            // The memory stays with the lane.
            Err(_) => Err(refusal),
        }
    }

    /// Sends `reply`, its payload first into the room that `offer` describes, if it fits. A lane that fails is not used
    /// again; if it is not known what it did, the connection ends.
    pub async fn bring(&self, offer: RemoteBuffer, reply: Frame, sender: FrameSender) {
        let len = reply.payload.len();
        let _waits = sender.holding(len);
        if len < ONE_SIDED_FROM || len > offer.len as usize {
            return drop(sender.send(reply));
        }
        let written = RemoteBuffer { len: len as u32, crc: reply.payload_crc, ..offer };
        match tokio::time::timeout(PATIENCE, self.lane.push(reply.payload.clone(), offer)).await {
            // A client that is gone needs no answer.
            Ok(Ok(())) => drop(sender.send(reply.describing(FLAG_PUSH, written))),
            Ok(Err(e)) => {
                tracing::debug!("a payload could not be written to its reader: {e}");
                self.lane.close();
                drop(sender.send(reply));
            }
            Err(_) => sender.close(),
        }
    }
}

/// The reply to a request whose payload cannot be read.
fn could_not_pull(request: &Frame) -> Frame {
    Frame {
        kind: request.kind.reply().unwrap_or(request.kind),
        flags: FLAG_REPLY | FLAG_PULL,
        deadline: None,
        body: Bytes::new(),
        payload: Bytes::new(),
        payload_crc: 0,
        payload_ok: true,
        ..request.clone()
    }
}
