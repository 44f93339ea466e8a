//! Memory of the other side, named in place of a payload. See `FLAG_PULL` and `FLAG_PUSH` in [`crate::header`].
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..8 | addr | where it begins, as the transport counts |
//! | 8..16 | key | what the transport wants to be shown |
//! | 16..20 | len | bytes |
//! | 20..24 | crc | CRC-32C of the bytes, once they are there |
//!
//! Little-endian; the frame's `payload_crc` covers it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a description in bytes.
pub const REMOTE_BYTES: usize = 24;

/// Memory of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteBuffer {
    /// Where it begins, as the transport counts.
    pub addr: u64,
    /// What the transport wants to be shown.
    pub key: u64,
    /// Bytes.
    pub len: u32,
    /// CRC-32C of the bytes, once they are there.
    pub crc: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    addr: U64,
    key: U64,
    len: U32,
    crc: U32,
}

impl RemoteBuffer {
    /// The bytes of it.
    pub fn encode(&self) -> [u8; REMOTE_BYTES] {
        let RemoteBuffer { addr, key, len, crc } = *self;
        zerocopy::transmute!(Raw { addr: addr.into(), key: key.into(), len: len.into(), crc: crc.into() })
    }

    /// What the bytes say; any bytes say something.
    pub fn decode(bytes: [u8; REMOTE_BYTES]) -> RemoteBuffer {
        let raw: Raw = zerocopy::transmute!(bytes);
        RemoteBuffer { addr: raw.addr.into(), key: raw.key.into(), len: raw.len.into(), crc: raw.crc.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_laid_out_as_drawn() {
        let remote = RemoteBuffer { addr: 1, key: 2, len: 3, crc: 4 };
        let bytes = remote.encode();
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[20]), (1, 2, 3, 4));
        assert_eq!(RemoteBuffer::decode(bytes), remote);
    }
}
