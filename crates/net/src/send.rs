//! The sending half of a connection: a queue, and a task that writes everything in it with as few calls as possible.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::{Frame, NetError};

/// Frames taken from the queue at a time.
const BATCH: usize = 256;
/// Slices in one vectored write.
const SLICES: usize = 64;

/// Sends frames. Clones share the connection; its sending side is closed, after everything queued has been written, when
/// the last clone is gone or after [`FrameSender::close`].
#[derive(Clone)]
pub struct FrameSender {
    queue: mpsc::UnboundedSender<Out>,
    shared: Arc<Shared>,
}

/// Bytes counted as queued.
pub(crate) struct Holding {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.shared.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

enum Out {
    Frame(Frame),
    Close,
}

struct Shared {
    peer: String,
    queued: AtomicUsize,
    closed: AtomicBool,
}

impl FrameSender {
    /// Starts the writing task on the present runtime.
    pub(crate) fn start(half: OwnedWriteHalf, peer: String) -> FrameSender {
        let (queue, frames) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { peer, queued: AtomicUsize::new(0), closed: AtomicBool::new(false) });
        tokio::spawn(write_all(half, frames, shared.clone()));
        FrameSender { queue, shared }
    }

    /// Queues a frame; never waits. That it was queued does not say that it arrives.
    ///
    /// # Errors
    /// [`NetError::TooLong`]: it breaks the limits of the format. [`NetError::Closed`]: the connection has ended.
    pub fn send(&self, frame: Frame) -> Result<(), NetError> {
        frame.check_lengths()?;
        let closed = || NetError::Closed { peer: self.shared.peer.clone(), reason: "nothing can be sent on it".into() };
        if self.is_closed() {
            return Err(closed());
        }
        let len = frame.wire_len();
        self.shared.queued.fetch_add(len, Ordering::Relaxed);
        self.queue.send(Out::Frame(frame)).map_err(|_| {
            self.shared.queued.fetch_sub(len, Ordering::Relaxed);
            closed()
        })
    }

    /// Bytes queued and not yet given to the system.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Counts `bytes` that wait for something else than this connection as queued, while the result lives.
    pub(crate) fn holding(&self, bytes: usize) -> Holding {
        self.shared.queued.fetch_add(bytes, Ordering::Relaxed);
        Holding { shared: self.shared.clone(), bytes }
    }

    /// Whether sending has ended: closed here, or broken.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed) || self.queue.is_closed()
    }

    /// Closes the sending side for every clone, after what is queued has been written.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // If the task is gone there is nothing left to close.
        let _ = self.queue.send(Out::Close);
    }

    /// Address of the other end.
    pub fn peer(&self) -> &str {
        &self.shared.peer
    }
}

async fn write_all(mut half: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<Out>, shared: Arc<Shared>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut writer = Writer::default();
    loop {
        if frames.recv_many(&mut batch, BATCH).await == 0 {
            break;
        }
        let mut bytes = 0;
        let mut close = false;
        for out in batch.drain(..) {
            match out {
                Out::Frame(frame) if !close => {
                    bytes += frame.wire_len();
                    writer.add(frame);
                }
                Out::Frame(_) => {}
                Out::Close => close = true,
            }
        }
        let result = writer.flush(&mut half).await;
        shared.queued.fetch_sub(bytes, Ordering::Relaxed);
        if let Err(e) = result {
            // The receiving half of the connection meets the same end and tells its owner.
            tracing::debug!(peer = shared.peer, "cannot send: {e}");
            break;
        }
        if close {
            break;
        }
    }
    shared.closed.store(true, Ordering::Relaxed);
    // A connection that is already broken need not be closed in order.
    let _ = half.shutdown().await;
}

/// What is written next: headers and bodies side by side in one buffer, payloads where they are.
#[derive(Default)]
struct Writer {
    heads: Vec<u8>,
    parts: Vec<Part>,
}

enum Part {
    Heads(Range<usize>),
    Payload(bytes::Bytes),
}

impl Writer {
    fn add(&mut self, frame: Frame) {
        let start = self.heads.len();
        self.heads.extend_from_slice(&frame.header().encode());
        self.heads.extend_from_slice(&frame.body);
        let end = self.heads.len();
        match self.parts.last_mut() {
            Some(Part::Heads(range)) => range.end = end,
            _ => self.parts.push(Part::Heads(start..end)),
        }
        if !frame.payload.is_empty() {
            self.parts.push(Part::Payload(frame.payload));
        }
    }

    fn part(&self, n: usize) -> &[u8] {
        match &self.parts[n] {
            Part::Heads(range) => &self.heads[range.clone()],
            Part::Payload(bytes) => bytes,
        }
    }

    async fn flush(&mut self, half: &mut OwnedWriteHalf) -> io::Result<()> {
        let (mut first, mut skip) = (0, 0);
        while first < self.parts.len() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = (self.parts.len() - first).min(SLICES);
            for (n, slice) in slices[..count].iter_mut().enumerate() {
                let part = self.part(first + n);
                *slice = IoSlice::new(if n == 0 { &part[skip..] } else { part });
            }
            let mut written = half.write_vectored(&slices[..count]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            while written > 0 {
                let left = self.part(first).len() - skip;
                if written < left {
                    skip += written;
                    break;
                }
                written -= left;
                (first, skip) = (first + 1, 0);
            }
        }
        self.heads.clear();
        self.heads.shrink_to(1 << 20);
        self.parts.clear();
        Ok(())
    }
}
