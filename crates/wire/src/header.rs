//! The fixed header of a frame: 64 bytes, little-endian, checked before anything behind it is read or allocated.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `CATN` |
//! | 4..6 | version | [`limits::PROTOCOL`] |
//! | 6..8 | kind | [`Kind`] |
//! | 8..12 | flags | bit 0: reply; bits 1, 2: the payload describes memory of the asker, see [`crate::remote`] |
//! | 12..16 | body_len | bytes of body behind the header |
//! | 16..20 | payload_len | bytes of payload behind the body |
//! | 20..28 | request_id | chosen by the asker, echoed by the reply |
//! | 28..36 | deadline_us | time the asker still waits, in microseconds; 0: no limit |
//! | 36..44 | trace_id | for people |
//! | 44..48 | body_crc | CRC-32C of the body |
//! | 48..52 | payload_crc | CRC-32C of the payload |
//! | 52..60 | reserved | written 0, not looked at |
//! | 60..64 | header_crc | CRC-32C of bytes 0..60 |
//!
//! The deadline is relative, since clocks differ. What must hold: a header that decodes has a known kind and lengths
//! within the limits, so that a receiver may take that much memory.

use catena_types::crc::crc32c;
use catena_types::limits;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header in bytes.
pub const HEADER_BYTES: usize = 64;
/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"CATN";
/// Flag: this frame answers the request of the same id.
pub const FLAG_REPLY: u32 = 1;
/// Flag, of requests: the payload describes the asker's memory, from which the payload is to be read. Of replies: that could
/// not be read, and nothing was done.
pub const FLAG_PULL: u32 = 1 << 1;
/// Flag, of requests: the payload describes the asker's memory, where the payload of the reply may be written. Of replies:
/// it was written there, and the payload describes it.
pub const FLAG_PUSH: u32 = 1 << 2;

/// What the body of a frame is. Numbers are part of the wire format and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// [`crate::hello::Hello`]
    Hello = 1,
    /// [`crate::hello::HelloReply`]
    HelloReply = 2,
    /// [`crate::peer::PeerMsg`]
    Peer = 3,
    /// [`crate::hello::Challenge`]
    Challenge = 4,
    /// [`crate::hello::Proof`]
    Proof = 5,
    /// [`crate::client::UpdateRequest`]
    Update = 16,
    /// [`crate::client::UpdateReply`]
    UpdateReply = 17,
    /// [`crate::client::ReadRequest`]
    Read = 18,
    /// [`crate::client::ReadReply`]
    ReadReply = 19,
    /// [`crate::client::InspectRequest`]
    Inspect = 20,
    /// [`crate::client::InspectReply`]
    InspectReply = 21,
    /// [`crate::client::ListRequest`]
    List = 22,
    /// [`crate::client::ListReply`]
    ListReply = 23,
    /// [`crate::client::TargetRequest`]
    Target = 24,
    /// [`crate::client::TargetReply`]
    TargetReply = 25,
    /// [`crate::manager::RegisterRequest`]
    Register = 32,
    /// [`crate::manager::RegisterReply`]
    RegisterReply = 33,
    /// [`crate::manager::HeartbeatRequest`]
    Heartbeat = 34,
    /// [`crate::manager::HeartbeatReply`]
    HeartbeatReply = 35,
    /// [`crate::manager::RoutingRequest`]
    Routing = 36,
    /// [`crate::manager::RoutingReply`]
    RoutingReply = 37,
    /// [`crate::manager::InitRequest`]
    Init = 38,
    /// [`crate::manager::InitReply`]
    InitReply = 39,
    /// [`crate::manager::StatusRequest`]
    Status = 40,
    /// [`crate::manager::StatusReply`]
    StatusReply = 41,
    /// [`crate::manager::AdminRequest`]
    Admin = 42,
    /// [`crate::manager::AdminReply`]
    AdminReply = 43,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 27] = [
        Kind::Hello,
        Kind::HelloReply,
        Kind::Peer,
        Kind::Challenge,
        Kind::Proof,
        Kind::Update,
        Kind::UpdateReply,
        Kind::Read,
        Kind::ReadReply,
        Kind::Inspect,
        Kind::InspectReply,
        Kind::List,
        Kind::ListReply,
        Kind::Target,
        Kind::TargetReply,
        Kind::Register,
        Kind::RegisterReply,
        Kind::Heartbeat,
        Kind::HeartbeatReply,
        Kind::Routing,
        Kind::RoutingReply,
        Kind::Init,
        Kind::InitReply,
        Kind::Status,
        Kind::StatusReply,
        Kind::Admin,
        Kind::AdminReply,
    ];

    /// The kind of that number.
    pub fn from_wire(n: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&k| k as u16 == n)
    }

    /// The kind of the answer to a request of this kind; `None` if it has no answer.
    pub fn reply(self) -> Option<Kind> {
        if matches!(self, Kind::Peer | Kind::Challenge | Kind::Proof) || self.is_reply() {
            None
        } else {
            Kind::from_wire(self as u16 + 1)
        }
    }

    /// Whether it answers a request.
    pub fn is_reply(self) -> bool {
        use Kind::*;
        matches!(
            self,
            HelloReply
                | UpdateReply
                | ReadReply
                | InspectReply
                | ListReply
                | TargetReply
                | RegisterReply
                | HeartbeatReply
                | RoutingReply
                | InitReply
                | StatusReply
                | AdminReply
        )
    }
}

/// Why bytes are not a header. The connection they came on cannot be used any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another protocol, or a stream that is out of step.
    #[error("not a catena frame: {0}")]
    NotAFrame(String),
    /// Another version of this protocol.
    #[error("the frame is of protocol version {seen}, this build speaks {ours}: run builds of one protocol version")]
    Version {
        /// In the header.
        seen: u16,
        /// [`limits::PROTOCOL`].
        ours: u16,
    },
    /// The header's checksum does not match.
    #[error("damaged frame header: checksum {computed:#010x}, the header says {stored:#010x}")]
    Damaged {
        /// In the header.
        stored: u32,
        /// Of the bytes before it.
        computed: u32,
    },
    /// No such kind in this build.
    #[error("frame of unknown kind {0}: the sender is of a newer build")]
    UnknownKind(u16),
    /// A length above its limit.
    #[error("frame {what} of {len} bytes; the limit is {limit}")]
    TooLong {
        /// "body" or "payload".
        what: &'static str,
        /// In the header.
        len: u32,
        /// From [`limits`].
        limit: u32,
    },
}

/// A header, decoded and within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// [`FLAG_REPLY`]; unknown bits are kept and mean nothing.
    pub flags: u32,
    /// Bytes of body.
    pub body_len: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Chosen by the asker, echoed by the reply.
    pub request_id: u64,
    /// Microseconds the asker still waits; 0: no limit.
    pub deadline_us: u64,
    /// For people.
    pub trace_id: u64,
    /// CRC-32C of the body.
    pub body_crc: u32,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

/// The bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: U16,
    kind: U16,
    flags: U32,
    body_len: U32,
    payload_len: U32,
    request_id: U64,
    deadline_us: U64,
    trace_id: U64,
    body_crc: U32,
    payload_crc: U32,
    reserved: [u8; 8],
    header_crc: U32,
}

const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);
const CRC_AT: usize = HEADER_BYTES - 4;

impl Header {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let raw = Raw {
            magic: MAGIC,
            version: limits::PROTOCOL.into(),
            kind: (self.kind as u16).into(),
            flags: self.flags.into(),
            body_len: self.body_len.into(),
            payload_len: self.payload_len.into(),
            request_id: self.request_id.into(),
            deadline_us: self.deadline_us.into(),
            trace_id: self.trace_id.into(),
            body_crc: self.body_crc.into(),
            payload_crc: self.payload_crc.into(),
            reserved: [0; 8],
            header_crc: 0.into(),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// [`HeaderError`], in the order magic, version, checksum, kind, lengths.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, HeaderError> {
        let raw: &Raw = zerocopy::transmute_ref!(bytes);
        if raw.magic != MAGIC {
            return Err(HeaderError::NotAFrame(describe(bytes)));
        }
        if raw.version.get() != limits::PROTOCOL {
            return Err(HeaderError::Version { seen: raw.version.get(), ours: limits::PROTOCOL });
        }
        let (stored, computed) = (raw.header_crc.get(), crc32c(&bytes[..CRC_AT]));
        if stored != computed {
            return Err(HeaderError::Damaged { stored, computed });
        }
        let kind = Kind::from_wire(raw.kind.get()).ok_or(HeaderError::UnknownKind(raw.kind.get()))?;
        check_len("body", raw.body_len.get(), limits::MAX_BODY)?;
        check_len("payload", raw.payload_len.get(), limits::MAX_PAYLOAD)?;
        Ok(Header {
            kind,
            flags: raw.flags.get(),
            body_len: raw.body_len.get(),
            payload_len: raw.payload_len.get(),
            request_id: raw.request_id.get(),
            deadline_us: raw.deadline_us.get(),
            trace_id: raw.trace_id.get(),
            body_crc: raw.body_crc.get(),
            payload_crc: raw.payload_crc.get(),
        })
    }
}

fn check_len(what: &'static str, len: u32, limit: u32) -> Result<(), HeaderError> {
    if len <= limit { Ok(()) } else { Err(HeaderError::TooLong { what, len, limit }) }
}

/// What a stream that does not start with [`MAGIC`] looks like, for the one who pointed it at this port. `bytes` is
/// what has arrived so far.
pub fn describe(bytes: &[u8]) -> String {
    const HTTP: [&[u8]; 8] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"HTTP", b"PRI "];
    let seen = &bytes[..bytes.len().min(16)];
    let guess = if HTTP.iter().any(|m| seen.starts_with(m)) {
        "looks like HTTP"
    } else if seen.starts_with(&[0x16, 0x03]) {
        "looks like TLS"
    } else if seen.starts_with(b"SSH-") {
        "looks like SSH"
    } else {
        "unknown protocol"
    };
    format!("{guess}, it starts with \"{}\"", seen.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Update,
            flags: 0,
            body_len: 40,
            payload_len: 4096,
            request_id: 7,
            deadline_us: 1_000_000,
            trace_id: 9,
            body_crc: 1,
            payload_crc: 2,
        }
    }

    #[test]
    fn survives_the_wire() {
        let unanswered = [Kind::Peer, Kind::Challenge, Kind::Proof];
        for kind in Kind::ALL {
            let h = Header { kind, flags: FLAG_REPLY, ..header() };
            assert_eq!(Header::decode(&h.encode()), Ok(h));
            assert_eq!(
                kind.reply().map(Kind::is_reply),
                (!unanswered.contains(&kind) && !kind.is_reply()).then_some(true),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn every_single_damaged_bit_is_an_error() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_and_kinds_are_checked() {
        let h = Header { body_len: limits::MAX_BODY + 1, ..header() };
        assert!(matches!(Header::decode(&h.encode()), Err(HeaderError::TooLong { what: "body", .. })));
        let h = Header { payload_len: u32::MAX, ..header() };
        assert!(matches!(Header::decode(&h.encode()), Err(HeaderError::TooLong { what: "payload", .. })));
        let mut bytes = header().encode();
        bytes[6] = 99;
        let crc = crc32c(&bytes[..CRC_AT]).to_le_bytes();
        bytes[CRC_AT..].copy_from_slice(&crc);
        assert_eq!(Header::decode(&bytes), Err(HeaderError::UnknownKind(99)));
    }

    #[test]
    fn other_protocols_are_named() {
        let say = |start: &[u8]| {
            let mut bytes = [b' '; HEADER_BYTES];
            bytes[..start.len()].copy_from_slice(start);
            Header::decode(&bytes).map_err(|e| e.to_string()).expect_err("not a frame")
        };
        assert!(say(b"GET / HTTP/1.1\r\n").contains("looks like HTTP, it starts with \"GET / HTTP/1.1\\r\\n\""));
        assert!(say(&[0x16, 0x03, 0x01, 0x02]).contains("looks like TLS"));
        assert!(say(b"CATN\x09\x00").contains("protocol version 9, this build speaks 2"));
    }
}
