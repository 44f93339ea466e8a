//! What goes into the operations of a [`Client`](crate::Client) and what comes out.

use std::time::Duration;

use bytes::Bytes;
use catena_types::{ChainId, ChainVer, ChunkKey, Op, Precondition, TargetId, Ver};
use catena_wire::client::Hop;

/// Chunk size in bytes where options name none.
pub const DEFAULT_CHUNK_SIZE: u32 = 1 << 20;

/// An update of one chunk. All sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateKind {
    /// Put `data` at `offset`; a gap behind the old end is zero-filled. Never shortens the chunk.
    Write {
        /// First byte written.
        offset: u32,
        /// The bytes.
        data: Bytes,
    },
    /// Set the length, cutting or zero-filling.
    Truncate {
        /// New length.
        len: u32,
    },
    /// Grow to `len` with zeroes; a shorter `len` changes only the version.
    Extend {
        /// Length to grow to.
        len: u32,
    },
    /// Make the chunk absent; `NotFound` if it is.
    Remove,
}

impl UpdateKind {
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            UpdateKind::Write { .. } => "write",
            UpdateKind::Truncate { .. } => "truncate",
            UpdateKind::Extend { .. } => "extend",
            UpdateKind::Remove => "remove",
        }
    }

    /// The update as it travels, and its payload. `None` if the data is longer than any chunk.
    pub(crate) fn to_op(&self) -> Option<(Op, Bytes)> {
        Some(match self {
            UpdateKind::Write { offset, data } => (Op::write(*offset, u32::try_from(data.len()).ok()?), data.clone()),
            UpdateKind::Truncate { len } => (Op::truncate(*len), Bytes::new()),
            UpdateKind::Extend { len } => (Op::extend(*len), Bytes::new()),
            UpdateKind::Remove => (Op::remove(), Bytes::new()),
        })
    }
}

/// How an update is made.
#[derive(Clone, Copy, Debug)]
pub struct UpdateOptions {
    /// Chunk size in bytes: fixed when the chunk is made, compared afterwards. A multiple of
    /// [`BLOCK`](catena_types::limits::BLOCK), at most [`MAX_CHUNK`](catena_types::limits::MAX_CHUNK).
    pub chunk_size: u32,
    /// Judged by the head when the update's turn comes.
    pub precondition: Precondition,
    /// Ask every replica what it did ([`Updated::hops`]).
    pub explain: bool,
    /// Longest time it takes, retries included; `None`: the client's.
    pub deadline: Option<Duration>,
}

impl Default for UpdateOptions {
    fn default() -> UpdateOptions {
        UpdateOptions { chunk_size: DEFAULT_CHUNK_SIZE, precondition: Precondition::Any, explain: false, deadline: None }
    }
}

/// A committed update.
#[derive(Clone, Debug, PartialEq)]
pub struct Updated {
    /// Version it made.
    pub ver: Ver,
    /// Length of the chunk after it, in bytes; 0 after a remove.
    pub len: u32,
    /// CRC-32C of the chunk after it; 0 after a remove.
    pub checksum: u32,
    /// Membership version recorded at the commit.
    pub chain_ver: ChainVer,
    /// The chain it lives on.
    pub chain: ChainId,
    /// What every replica did, tail first; empty unless asked for.
    pub hops: Vec<Hop>,
    /// Times it was sent.
    pub attempts: u32,
    /// What it is called in the logs of the nodes.
    pub trace: u64,
}

/// How a read is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// The replica to ask; `None`: any that serves, the least busy first.
    pub target: Option<TargetId>,
    /// The newest version the replica has will do, committed or not: not linearizable.
    pub relaxed: bool,
    /// Longest time it takes, retries included; `None`: the client's.
    pub deadline: Option<Duration>,
}

/// Bytes of one chunk, verified against the checksum they were sent with.
#[derive(Clone, Debug)]
pub struct ReadResult {
    /// The bytes, clipped at the end of the chunk.
    pub data: Bytes,
    /// Version read.
    pub ver: Ver,
    /// Length of the chunk in that version, in bytes.
    pub chunk_len: u32,
    /// Chunk size in bytes.
    pub chunk_size: u32,
    /// CRC-32C of the whole chunk in that version.
    pub checksum: u32,
    /// Membership version recorded with it.
    pub chain_ver: ChainVer,
    /// The replica that answered.
    pub target: TargetId,
    /// The version was not yet committed there when it was read.
    pub staged: bool,
    /// The replica asked the tail for the committed version.
    pub asked_tail: bool,
}

/// What is known of a chunk without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStat {
    /// Committed version.
    pub ver: Ver,
    /// Length in bytes.
    pub len: u32,
    /// Chunk size in bytes.
    pub chunk_size: u32,
    /// CRC-32C of the chunk.
    pub checksum: u32,
    /// Membership version recorded at its commit.
    pub chain_ver: ChainVer,
}

/// One update of a batch.
#[derive(Clone, Debug)]
pub struct WriteItem {
    /// The chunk.
    pub key: ChunkKey,
    /// The update.
    pub kind: UpdateKind,
    /// How.
    pub options: UpdateOptions,
}

/// One read of a batch.
#[derive(Clone, Debug)]
pub struct ReadItem {
    /// The chunk.
    pub key: ChunkKey,
    /// First byte.
    pub offset: u32,
    /// Bytes wanted.
    pub len: u32,
    /// How.
    pub options: ReadOptions,
}

/// A committed chunk in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChunk {
    /// The chunk.
    pub key: ChunkKey,
    /// Committed version.
    pub ver: Ver,
    /// Length in bytes.
    pub len: u32,
    /// CRC-32C of the chunk.
    pub checksum: u32,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// In key order, over all chains.
    pub entries: Vec<ListedChunk>,
    /// The key to go on from; `None` at the end.
    pub next: Option<Vec<u8>>,
}
