//! Messages of the bare chain: a head of 32 bytes and a payload, received straight into aligned memory, sent from where it is.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_types::crc::crc32c;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// Bytes of a head.
const HEAD: usize = 32;
/// Bytes received at a time beside a payload.
const BUFFER: usize = 128 << 10;
/// Slices in one vectored write.
const SLICES: usize = 64;

/// What a message asks for or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Store the payload.
    Write = 1,
    /// Send what is stored.
    Read = 2,
    /// It is stored, here and at all that follow.
    Done = 3,
    /// What was stored, as the payload.
    Data = 4,
}

/// What is known of a message before its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Chosen by who asks; the answer carries it.
    pub(super) number: u64,
    /// Place in the file, in bytes.
    pub(super) at: u64,
    /// Bytes to write or to read.
    pub(super) len: u32,
    /// CRC-32C of the payload.
    pub(super) sum: u32,
}

/// A message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) payload: Bytes,
}

impl Head {
    fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.sum.to_le_bytes());
        bytes[24] = self.kind as u8;
        bytes
    }

    fn decode(bytes: &[u8; HEAD]) -> io::Result<Head> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let kind = match bytes[24] {
            1 => Kind::Write,
            2 => Kind::Read,
            3 => Kind::Done,
            4 => Kind::Data,
            other => return Err(io::Error::new(ErrorKind::InvalidData, format!("{other} is no kind of message"))),
        };
        Ok(Head { kind, number: word(0), at: word(8), len: half(16), sum: half(20) })
    }

    /// Bytes that follow the head.
    fn payload(&self) -> usize {
        if matches!(self.kind, Kind::Write | Kind::Data) { self.len as usize } else { 0 }
    }
}

/// The receiving half.
pub(super) struct Incoming {
    half: OwnedReadHalf,
    arena: Arena,
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    /// A payload that has not arrived in whole, and how much of it has.
    partial: Option<(Head, AlignedBuf, usize)>,
}

impl Incoming {
    pub(super) fn new(half: OwnedReadHalf, arena: &Arena) -> Incoming {
        Incoming { half, arena: arena.clone(), buf: vec![0; BUFFER].into(), start: 0, end: 0, partial: None }
    }

    /// The next message, verified; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.try_next()? {
                return Ok(Some(message));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// A message that is here already.
    pub(super) fn try_next(&mut self) -> io::Result<Option<Message>> {
        if self.partial.is_none() {
            let Some(bytes) = self.buf[self.start..self.end].first_chunk::<HEAD>() else { return Ok(None) };
            let head = Head::decode(bytes)?;
            self.start += HEAD;
            let mut payload = self.arena.take_or_alloc(head.payload());
            let here = (self.end - self.start).min(payload.len());
            payload[..here].copy_from_slice(&self.buf[self.start..self.start + here]);
            self.start += here;
            self.partial = Some((head, payload, here));
        }
        let Some((head, payload, _)) = self.partial.take_if(|(_, payload, have)| *have == payload.len()) else { return Ok(None) };
        if !payload.is_empty() && crc32c(&payload) != head.sum {
            return Err(io::Error::new(ErrorKind::InvalidData, "a payload does not have its checksum"));
        }
        Ok(Some(Message { head, payload: payload.freeze() }))
    }

    /// Receives once: into the payload first, what is left into the buffer.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buf.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            self.half.readable().await?;
            let rest = self.partial.as_mut().map_or(&mut [][..], |(_, payload, have)| &mut payload[*have..]);
            let in_payload = rest.len();
            let mut slices = [IoSliceMut::new(rest), IoSliceMut::new(&mut self.buf[self.end..])];
            match self.half.try_read_vectored(&mut slices) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
                Ok(n) => {
                    if let Some((_, _, have)) = &mut self.partial {
                        *have += n.min(in_payload);
                    }
                    self.end += n.saturating_sub(in_payload);
                    return Ok(n);
                }
            }
        }
    }
}

/// The sending half: a queue, and a task that writes all of it at once. Cloning shares it.
#[derive(Clone)]
pub(super) struct Outgoing(Rc<(RefCell<Vec<Message>>, Notify)>);

impl Outgoing {
    /// Starts the writing task on the present local runtime.
    pub(super) fn start(half: OwnedWriteHalf) -> Outgoing {
        let outgoing = Outgoing(Rc::new((RefCell::new(Vec::new()), Notify::new())));
        tokio::task::spawn_local(outgoing.clone().write_all(half));
        outgoing
    }

    pub(super) fn send(&self, message: Message) {
        let (queue, wake) = &*self.0;
        queue.borrow_mut().push(message);
        wake.notify_one();
    }

    async fn write_all(self, half: OwnedWriteHalf) {
        let (queue, wake) = &*self.0;
        loop {
            wake.notified().await;
            loop {
                let batch = std::mem::take(&mut *queue.borrow_mut());
                if batch.is_empty() {
                    break;
                }
                if write(&half, &batch).await.is_err() {
                    // The receiving half meets the same end.
                    return;
                }
            }
        }
    }
}

async fn write(half: &OwnedWriteHalf, batch: &[Message]) -> io::Result<()> {
    let heads: Vec<[u8; HEAD]> = batch.iter().map(|m| m.head.encode()).collect();
    let parts = batch.iter().zip(&heads).flat_map(|(m, head)| [&head[..], &m.payload[..]]);
    let mut slices: Vec<IoSlice<'_>> = parts.filter(|part| !part.is_empty()).map(IoSlice::new).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        half.writable().await?;
        match half.try_write_vectored(&left[..left.len().min(SLICES)]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
        }
    }
    Ok(())
}
