//! Frames out of a stream of bytes, without a socket.
//!
//! The bytes go into a read buffer, from which many frames are taken at once. When a payload is not complete in it, the
//! part that is there is copied into the payload's own aligned buffer, and the rest is read straight into that. While
//! large payloads stream in, only a little of the read buffer is offered behind the payload, so that the next header
//! comes with the same read and hardly any payload byte is copied.

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_types::crc::crc32c;
use catena_wire::header::{HEADER_BYTES, Header, HeaderError, Kind, MAGIC, describe};

use crate::{Frame, NetError};

/// Size of the read buffer in bytes; it grows for one longer body and shrinks again.
const READ_BUFFER: usize = 128 << 10;
/// Payloads of this many bytes or more are expected to be followed by such.
const LARGE: usize = 32 << 10;
/// Read buffer offered while large payloads stream in, in bytes: room for a header, a body and a little payload.
const SMALL_READ: usize = 2 << 10;
/// Longest body of a frame of the handshake in bytes: nothing is known of the sender yet.
const HANDSHAKE_BODY: u32 = 16 << 10;

/// Takes bytes, gives frames.
pub(crate) struct Decoder {
    arena: Arena,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    header: Option<Header>,
    payload: Option<Partial>,
    large: bool,
    handshake: bool,
}

/// A frame whose payload is not complete.
struct Partial {
    header: Header,
    body: Bytes,
    payload: AlignedBuf,
    have: usize,
}

impl Decoder {
    /// A decoder that takes what belongs to a handshake first.
    pub(crate) fn new(arena: Arena) -> Decoder {
        let (start, end) = (0, 0);
        let buf = vec![0; READ_BUFFER];
        Decoder { arena, buf, start, end, header: None, payload: None, large: false, handshake: true }
    }

    /// The handshake is done: any frame may come.
    pub(crate) fn handshake_done(&mut self) {
        self.handshake = false;
    }

    /// Whether the stream may end here.
    pub(crate) fn at_boundary(&self) -> bool {
        self.payload.is_none() && self.header.is_none() && self.start == self.end
    }

    /// Where the next bytes go: the rest of a payload (may be empty), then the read buffer (never empty).
    pub(crate) fn space(&mut self) -> [&mut [u8]; 2] {
        self.make_room();
        let limit = if self.large { (self.end + SMALL_READ).max(self.start + self.wanted()) } else { self.buf.len() };
        let limit = limit.min(self.buf.len());
        let rest = match &mut self.payload {
            Some(partial) => &mut partial.payload[partial.have..],
            None => &mut [],
        };
        [rest, &mut self.buf[self.end..limit]]
    }

    /// `n` bytes were put into [`Decoder::space`].
    pub(crate) fn filled(&mut self, n: usize) {
        let mut n = n;
        if let Some(partial) = &mut self.payload {
            let took = n.min(partial.payload.len() - partial.have);
            partial.have += took;
            n -= took;
        }
        self.end += n;
    }

    /// The next complete frame; `None` if more bytes are needed.
    ///
    /// # Errors
    /// The stream is damaged or is not one of frames; it cannot be used any further.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, NetError> {
        if let Some(partial) = self.payload.take_if(|p| p.have == p.payload.len()) {
            return Ok(Some(Frame::received(&partial.header, partial.body, partial.payload.freeze())));
        }
        if self.payload.is_some() {
            return Ok(None);
        }
        let Some(header) = self.next_header()? else { return Ok(None) };
        let body_len = header.body_len as usize;
        if self.end - self.start < body_len {
            return Ok(None);
        }
        let body = self.take_body(&header, body_len)?;
        self.header = None;
        Ok(self.take_payload(header, body))
    }

    fn next_header(&mut self) -> Result<Option<Header>, NetError> {
        if self.header.is_none() {
            let there = &self.buf[self.start..self.end];
            let Some(bytes) = there.first_chunk::<HEADER_BYTES>() else {
                // Whoever speaks another protocol may wait for an answer before it sends 64 bytes.
                let n = there.len().min(MAGIC.len());
                return if there[..n] == MAGIC[..n] { Ok(None) } else { Err(HeaderError::NotAFrame(describe(there)).into()) };
            };
            let header = Header::decode(bytes)?;
            self.check_handshake(&header)?;
            self.start += HEADER_BYTES;
            self.header = Some(header);
        }
        Ok(self.header)
    }

    fn check_handshake(&self, header: &Header) -> Result<(), NetError> {
        if !self.handshake {
            return Ok(());
        }
        if !matches!(header.kind, Kind::Hello | Kind::HelloReply | Kind::Challenge | Kind::Proof) {
            return Err(NetError::Unexpected { got: header.kind, expected: "a hello" });
        }
        let too_long = |what, len, limit| Err(HeaderError::TooLong { what, len, limit }.into());
        match (header.body_len, header.payload_len) {
            (len, _) if len > HANDSHAKE_BODY => too_long("body", len, HANDSHAKE_BODY),
            (_, len) if len > 0 => too_long("payload", len, 0),
            _ => Ok(()),
        }
    }

    fn take_body(&mut self, header: &Header, len: usize) -> Result<Bytes, NetError> {
        let body = &self.buf[self.start..self.start + len];
        let computed = crc32c(body);
        if computed != header.body_crc {
            return Err(NetError::BodyDamaged { kind: header.kind, stored: header.body_crc, computed });
        }
        let body = Bytes::copy_from_slice(body);
        self.start += len;
        Ok(body)
    }

    /// The frame if its payload is here, else it is kept until it is.
    fn take_payload(&mut self, header: Header, body: Bytes) -> Option<Frame> {
        let len = header.payload_len as usize;
        self.large = len >= LARGE;
        if len == 0 {
            return Some(Frame::received(&header, body, Bytes::new()));
        }
        // Beyond the budget if need be: forwards always pass, clients are held back by admission.
        let mut payload = self.arena.take_or_alloc(len);
        let have = len.min(self.end - self.start);
        payload[..have].copy_from_slice(&self.buf[self.start..self.start + have]);
        self.start += have;
        if have == len {
            return Some(Frame::received(&header, body, payload.freeze()));
        }
        self.payload = Some(Partial { header, body, payload, have });
        None
    }

    /// Bytes, from `start`, that the next step needs.
    fn wanted(&self) -> usize {
        self.header.map_or(HEADER_BYTES, |h| h.body_len as usize).max(1)
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buf.len() > READ_BUFFER && self.header.is_none() {
                self.buf.truncate(READ_BUFFER);
                self.buf.shrink_to_fit();
            }
        }
        let wanted = self.wanted();
        if self.buf.len() - self.start < wanted || self.end == self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buf.len() < wanted {
            self.buf.resize(wanted, 0);
        }
    }
}

#[cfg(test)]
mod tests;
