//! Hard limits of the format and the protocol. Anything from outside is compared with these before memory is taken.

/// Longest chunk key in bytes.
pub const MAX_KEY: usize = 255;
/// Largest `chunk_size` in bytes.
pub const MAX_CHUNK: u32 = 64 << 20;
/// Allocation, checksum and IO unit of a target in bytes; every `chunk_size` is a multiple of it.
pub const BLOCK: u32 = 4096;
/// Longest body of a frame in bytes.
pub const MAX_BODY: u32 = 1 << 20;
/// Longest payload of a frame in bytes: one whole chunk.
pub const MAX_PAYLOAD: u32 = MAX_CHUNK;
/// Most entries in one page of a listing or of resync metadata.
pub const MAX_PAGE: u32 = 1024;
/// Version of the protocol spoken by this build. Peers of another version are refused by name.
pub const PROTOCOL: u16 = 2;

/// Whether `size` can be a `chunk_size`: a positive multiple of [`BLOCK`], at most [`MAX_CHUNK`].
pub fn valid_chunk_size(size: u32) -> bool {
    size > 0 && size <= MAX_CHUNK && size.is_multiple_of(BLOCK)
}
