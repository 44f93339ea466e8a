//! A frame in memory: the body encoded, the payload untouched.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catena_types::crc::{self, crc32c};
use catena_types::limits;
use catena_wire::header::{FLAG_REPLY, HEADER_BYTES, Header, Kind};

use crate::NetError;

/// One message and what came with it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What the body is.
    pub kind: Kind,
    /// See [`catena_wire::header`].
    pub flags: u32,
    /// Chosen by the asker, echoed by the reply.
    pub request_id: u64,
    /// How long the asker still waits, counted from receipt; `None`: no limit.
    pub deadline: Option<Duration>,
    /// For people.
    pub trace_id: u64,
    /// The message, encoded.
    pub body: Bytes,
    /// The bytes that came with it.
    pub payload: Bytes,
    /// CRC-32C of the payload as the sender says.
    pub payload_crc: u32,
    /// Whether the payload received matches it.
    pub payload_ok: bool,
    /// CRC-32C of its blocks of [`limits::BLOCK`] bytes, for frames whose payload a chunk store may keep.
    pub payload_sums: Option<Arc<[u32]>>,
}

impl Frame {
    /// A frame with a message and no payload.
    pub fn new(kind: Kind, request_id: u64, message: &impl prost::Message) -> Frame {
        Frame {
            kind,
            flags: 0,
            request_id,
            deadline: None,
            trace_id: 0,
            body: message.encode_to_vec().into(),
            payload: Bytes::new(),
            payload_crc: 0,
            payload_ok: true,
            payload_sums: None,
        }
    }

    /// The same with a payload whose CRC-32C is `crc`.
    pub fn with_payload(mut self, payload: Bytes, crc: u32) -> Frame {
        self.payload = payload;
        self.payload_crc = crc;
        self
    }

    /// The same with the time the asker waits for the answer.
    pub fn with_deadline(mut self, deadline: Duration) -> Frame {
        self.deadline = Some(deadline);
        self
    }

    /// The same, marked as the answer to the request of its id.
    pub fn reply(mut self) -> Frame {
        self.flags |= FLAG_REPLY;
        self
    }

    /// Whether it answers a request.
    pub fn is_reply(&self) -> bool {
        self.flags & FLAG_REPLY != 0
    }

    /// The message.
    ///
    /// # Errors
    /// [`NetError::BodyMalformed`]: the body is something else.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, NetError> {
        M::decode(self.body.as_ref()).map_err(|source| NetError::BodyMalformed { kind: self.kind, source })
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        HEADER_BYTES + self.body.len() + self.payload.len()
    }

    /// The header to send in front. Lengths are checked by [`Frame::check_lengths`] before.
    pub(crate) fn header(&self) -> Header {
        // 0 means "no limit", so that a deadline that is over is sent as one microsecond.
        let deadline_us = self.deadline.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX).max(1));
        Header {
            kind: self.kind,
            flags: self.flags,
            body_len: self.body.len() as u32,
            payload_len: self.payload.len() as u32,
            request_id: self.request_id,
            deadline_us,
            trace_id: self.trace_id,
            body_crc: crc32c(&self.body),
            payload_crc: self.payload_crc,
        }
    }

    pub(crate) fn check_lengths(&self) -> Result<(), NetError> {
        let check = |what, len: usize, limit: u32| {
            if len <= limit as usize { Ok(()) } else { Err(NetError::TooLong { kind: self.kind, what, len, limit }) }
        };
        check("body", self.body.len(), limits::MAX_BODY)?;
        check("payload", self.payload.len(), limits::MAX_PAYLOAD)
    }

    /// A frame as received.
    pub(crate) fn received(header: &Header, body: Bytes, payload: Bytes) -> Frame {
        let frame = Frame {
            kind: header.kind,
            flags: header.flags,
            request_id: header.request_id,
            deadline: (header.deadline_us != 0).then(|| Duration::from_micros(header.deadline_us)),
            trace_id: header.trace_id,
            body,
            payload: Bytes::new(),
            payload_crc: 0,
            payload_ok: true,
            payload_sums: None,
        };
        frame.carrying(payload, header.payload_crc)
    }

    /// The same with a payload that was received: its checksum should be `crc`.
    pub(crate) fn carrying(mut self, payload: Bytes, crc: u32) -> Frame {
        let kept = matches!(self.kind, Kind::Update | Kind::Peer) && payload.len() > limits::BLOCK as usize;
        let (computed, sums) = if kept {
            let (crc, sums) = crc::with_blocks(&payload);
            (crc, Some(sums))
        } else {
            (crc32c(&payload), None)
        };
        self.payload_ok = computed == crc;
        self.payload_crc = crc;
        self.payload_sums = sums;
        self.payload = payload;
        self
    }
}
