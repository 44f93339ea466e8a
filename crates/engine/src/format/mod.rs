//! Everything that is on disk: structures, their bytes, and the checks a reader makes before it believes them.
//!
//! `docs/disk-format.md` draws the same to the byte. Little-endian, self-describing, checksummed; every checksum of a
//! structure starts with the target's uuid, so that a block copied from another target is not taken for this one's.
//! Nothing here panics on bytes from disk: decoding gives `None` or a named error.

pub(crate) mod codec;
pub(crate) mod journal;
pub(crate) mod leaf;
pub(crate) mod parity;
pub(crate) mod slice;
pub(crate) mod superblock;
pub(crate) mod table;

pub use superblock::{Durability, Identity, Params, StoreKind};

use catena_types::crc::{combine, crc32c};

/// Version of the format written and read by this build.
pub const FORMAT: u32 = 2;

/// Checksum of `bytes` under a target's identity.
pub(crate) fn seal(uuid_crc: u32, bytes: &[u8]) -> u32 {
    combine(uuid_crc, crc32c(bytes), bytes.len() as u64)
}
