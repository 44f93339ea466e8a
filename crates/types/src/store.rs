//! What the replica state machine asks of a chunk engine, and what it hears back.
//!
//! The state machine decides versions and order; the engine guarantees atomicity, durability, integrity and exact
//! space. Everything here that returns a value answers at once from memory. Everything slow is started by a call and
//! ends with exactly one [`Done`], which the driver (node or simulator) collects from the engine and hands to the
//! state machine.

use std::sync::Arc;

use crate::chunk::{ChunkMeta, Committed, Op};
use crate::crc;
use crate::error::Code;
use crate::ids::{ChainVer, ChunkKey, Seq, SessionId, Tag, Ver};

/// The last committed update of a session at this target: what a repeated request is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct SessionRow {
    /// Number of the update.
    #[prost(uint64, tag = "1")]
    pub seq: Seq,
    /// Version it made.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Length of the chunk after it, in bytes.
    #[prost(uint32, tag = "3")]
    pub len: u32,
    /// CRC-32C of the chunk after it.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
    /// Membership version recorded at its commit.
    #[prost(uint64, tag = "5")]
    pub chain_ver: ChainVer,
}

/// Space of a target in bytes. `used + reserved + free = total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Space {
    /// Size of the data area.
    #[prost(uint64, tag = "1")]
    pub total: u64,
    /// Held by committed and staged chunks, and by freed blocks not yet reusable.
    #[prost(uint64, tag = "2")]
    pub used: u64,
    /// Promised to updates that are being staged.
    #[prost(uint64, tag = "3")]
    pub reserved: u64,
    /// Chunks committed.
    #[prost(uint64, tag = "4")]
    pub chunks: u64,
    /// What is still accepted.
    #[prost(enumeration = "SpaceLevel", tag = "5")]
    pub level: i32,
}

/// How full a target is, and what it therefore refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SpaceLevel {
    /// Everything is accepted.
    Enough = 0,
    /// Less than a tenth is free: a warning.
    Low = 1,
    /// New chunks are refused.
    NoNewChunks = 2,
    /// Writes of clients are refused; resync and what makes room are not.
    NoWrites = 3,
}

/// How a target keeps chunks. Decided when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum StoreKind {
    /// Block-granular copy-on-write: an update writes its blocks to fresh space.
    Cow = 1,
    /// A fixed slot per chunk: an update of blocks in use goes to the journal, and to its place after the commit.
    InPlace = 2,
}

/// What an acknowledgement of a target means. Decided when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Durability {
    /// The update is on stable media.
    Flush = 1,
    /// The update has been written, and is flushed within moments: a power cut of all replicas may lose these.
    Replicated = 2,
}

/// What is to be known of a store, for people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct StoreReport {
    /// How it keeps chunks.
    #[prost(enumeration = "StoreKind", tag = "1")]
    pub kind: i32,
    /// What an acknowledgement means.
    #[prost(enumeration = "Durability", tag = "2")]
    pub durability: i32,
    /// Chunks found damaged since it was opened.
    #[prost(uint64, tag = "3")]
    pub damaged: u64,
    /// Read operations the disk refused since it was opened.
    #[prost(uint64, tag = "4")]
    pub read_errors: u64,
    /// A scrub pass is under way.
    #[prost(bool, tag = "5")]
    pub scrubbing: bool,
    /// Scrub passes completed since it was made.
    #[prost(uint64, tag = "6")]
    pub scrub_passes: u64,
    /// Bytes verified in this pass, or in the last one.
    #[prost(uint64, tag = "7")]
    pub scrub_bytes: u64,
    /// Damaged chunks found in this pass, or in the last one.
    #[prost(uint64, tag = "8")]
    pub scrub_bad: u64,
}

/// How a chunk checksum was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ChecksumMethod {
    /// The payload is the whole chunk: its checksum, computed on receipt, was used again.
    Reuse = 0,
    /// The checksums of the touched blocks were computed, the chunk's folded from the blocks' by combine.
    Combine = 1,
    /// Nothing was computed: truncation to a block boundary, extension by zero blocks, removal.
    Derive = 2,
}

/// What staging did: the new length and checksum, and what it cost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct StageInfo {
    /// Length of the chunk after the update, in bytes.
    #[prost(uint32, tag = "1")]
    pub len: u32,
    /// CRC-32C of the chunk after the update.
    #[prost(fixed32, tag = "2")]
    pub checksum: u32,
    /// Number of the first block written, counted from the start of the chunk.
    #[prost(uint32, tag = "3")]
    pub first_block: u32,
    /// Blocks of [`crate::limits::BLOCK`] bytes written.
    #[prost(uint32, tag = "4")]
    pub blocks_written: u32,
    /// Blocks of the old version read and verified to fill partly written ones.
    #[prost(uint32, tag = "5")]
    pub blocks_read: u32,
    /// How the chunk checksum was found.
    #[prost(enumeration = "ChecksumMethod", tag = "6")]
    pub method: i32,
}

/// The bytes of an update or a chunk, and what was learned of them when they were received and verified, in one pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Payload<P> {
    /// The bytes, opaque to the state machine.
    pub data: P,
    /// Length in bytes.
    pub len: u32,
    /// CRC-32C of the bytes.
    pub crc: u32,
    /// CRC-32C of each of their blocks of [`crate::limits::BLOCK`] bytes, the last one possibly short; `None`: not known.
    pub sums: Option<Arc<[u32]>>,
}

/// Looks at the bytes now.
impl<P: AsRef<[u8]>> From<P> for Payload<P> {
    fn from(data: P) -> Payload<P> {
        let (crc, sums) = crc::with_blocks(data.as_ref());
        Payload { len: data.as_ref().len() as u32, crc, sums: Some(sums), data }
    }
}

/// An update to be staged. The state machine has checked it with [`Op::check`] and given it its version.
#[derive(Clone, Debug)]
pub struct StageRequest<P> {
    /// The chunk.
    pub key: ChunkKey,
    /// Version the chunk will have; above the committed one. No update of the chunk is staged now.
    pub ver: Ver,
    /// Membership version now.
    pub chain_ver: ChainVer,
    /// Names the update.
    pub tag: Tag,
    /// The update.
    pub op: Op,
    /// Chunk size; equals the existing chunk's.
    pub chunk_size: u32,
    /// Exactly `op.payload_len()` bytes, verified.
    pub payload: Payload<P>,
}

/// Some whole blocks of a chunk, see [`ChunkStore::patch`].
#[derive(Clone, Debug, Hash)]
pub struct Part<P> {
    /// Where they start, in bytes; a multiple of [`crate::limits::BLOCK`].
    pub offset: u32,
    /// Bytes; a multiple of the block size, or up to the end of the chunk.
    pub len: u32,
    /// The bytes.
    pub payload: P,
    /// CRC-32C of `payload`, already verified.
    pub crc: u32,
}

/// End of an operation started on a [`ChunkStore`].
#[derive(Clone, Debug, Hash)]
pub enum Done<P> {
    /// [`ChunkStore::stage`]: data and record are durable.
    Staged {
        /// The chunk.
        key: ChunkKey,
        /// The staged version.
        ver: Ver,
        /// New length, checksum and cost.
        info: StageInfo,
    },
    /// [`ChunkStore::stage`]: the update has never been; nothing of it is staged. `Corrupt` when blocks that it keeps are
    /// damaged (the chunk is reported as [`Done::Damaged`] too).
    StageFailed {
        /// The chunk.
        key: ChunkKey,
        /// The version that was to be staged.
        ver: Ver,
        /// Why.
        code: Code,
    },
    /// A version was found not to match its checksum, by a reader, an update or the scrub: it is to be repaired from the
    /// chain. May come more than once.
    Damaged {
        /// The chunk.
        key: ChunkKey,
        /// The damaged version.
        ver: Ver,
    },
    /// [`ChunkStore::unstage`]: durable.
    Unstaged {
        /// The chunk.
        key: ChunkKey,
        /// The version that is gone.
        ver: Ver,
    },
    /// [`ChunkStore::read`]: the bytes, verified; or `Corrupt` when a block does not match its checksum.
    Read {
        /// As given to `read`.
        id: u64,
        /// The bytes, clipped at the end of the chunk, and their CRC-32C.
        result: Result<(P, u32), Code>,
    },
    /// [`ChunkStore::install`], [`ChunkStore::install_lost`], [`ChunkStore::patch`], [`ChunkStore::purge`],
    /// [`ChunkStore::sync`]: durable.
    Synced {
        /// As given to the call.
        id: u64,
    },
    /// [`ChunkStore::patch`]: what is held here is not what the parts were made for, or is damaged; nothing has changed.
    NotPatched {
        /// As given to the call.
        id: u64,
    },
    /// [`ChunkStore::sums`].
    Sums {
        /// As given to the call.
        id: u64,
        /// The checksum of every block, the last one padded with zeroes; or `NotFound`, or `Corrupt` when they are not
        /// known for sure.
        result: Result<Vec<u32>, Code>,
    },
    /// The target as a whole has failed: it must serve nothing more. The last thing ever reported.
    Failed {
        /// Which operation on which file failed, and how.
        reason: String,
    },
}

/// A chunk engine as the replica state machine sees it.
///
/// The payload type is opaque to the state machine. At most one update of a chunk is staged at a time; reads may be
/// started at any moment, see the version they name, and keep its blocks until they end.
pub trait ChunkStore {
    /// Bytes of a payload.
    type Payload: Clone;

    /// What is held of the chunk; `None` if nothing.
    fn meta(&self, key: &ChunkKey) -> Option<ChunkMeta>;
    /// Up to `limit` chunks with keys `≥ from`, in key order.
    fn scan(&self, from: &[u8], limit: usize) -> Vec<(ChunkKey, ChunkMeta)>;
    /// Highest version ever removed here: a chunk created anew continues above it.
    fn remove_floor(&self) -> Ver;
    /// The last committed update of a session.
    fn session(&self, id: SessionId) -> Option<SessionRow>;
    /// Up to `limit` session rows after `after`, in order.
    fn sessions(&self, after: Option<SessionId>, limit: usize) -> Vec<(SessionId, SessionRow)>;
    /// Space now.
    fn space(&self) -> Space;

    /// Reserves space and starts staging. From the return on, [`ChunkStore::meta`] shows the staged update (not yet
    /// durable). Ends with [`Done::Staged`].
    ///
    /// # Errors
    /// `NoSpace` or `ReadOnly`: nothing has changed.
    fn stage(&mut self, request: StageRequest<Self::Payload>) -> Result<(), Code>;
    /// Makes the durable staged version `ver` the committed one, at once in memory, and records the outcome in its
    /// session; a staged remove makes the chunk absent and raises the remove floor to `ver`. The record follows with
    /// the next append and needs no flush of its own. `chain_ver` is the one the tail committed under.
    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer);
    /// Drops the staged version `ver` (durable or not), at once in memory. Ends with [`Done::Unstaged`].
    fn unstage(&mut self, key: &ChunkKey, ver: Ver);
    /// Reads `len` bytes at `offset` of version `ver` (the committed or the durable staged one), clipped at its end.
    /// Ends with [`Done::Read`].
    fn read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32);
    /// Replaces the whole chunk, whatever it was, by this committed version, atomically; anything staged is dropped.
    /// `payload` is `committed.len` bytes with checksum `committed.checksum`, verified. Ends with [`Done::Synced`].
    ///
    /// # Errors
    /// `NoSpace`: nothing has changed.
    fn install(
        &mut self,
        id: u64,
        key: &ChunkKey,
        chunk_size: u32,
        committed: Committed,
        payload: Payload<Self::Payload>,
    ) -> Result<(), Code>;
    /// Makes of the committed version this one, atomically: `parts` replace what is there, everything else is kept. They
    /// are in order and do not overlap; the new version is above the present one and not shorter, and nothing is staged.
    /// Ends with [`Done::Synced`] if the result has `committed.checksum`, else with [`Done::NotPatched`].
    ///
    /// # Errors
    /// `NoSpace`; `InvalidArgument` if what is held here is not as said above: nothing has changed.
    fn patch(&mut self, id: u64, key: &ChunkKey, committed: Committed, parts: Vec<Part<Self::Payload>>) -> Result<(), Code>;
    /// As [`ChunkStore::install`], where nobody has the bytes: readers find the chunk damaged until they have come.
    ///
    /// # Errors
    /// `NoSpace`: nothing has changed.
    fn install_lost(&mut self, id: u64, key: &ChunkKey, chunk_size: u32, committed: Committed) -> Result<(), Code>;
    /// Asks for the checksums of the blocks of the committed version `ver`. Ends with [`Done::Sums`].
    fn sums(&mut self, id: u64, key: &ChunkKey, ver: Ver);
    /// Makes the chunk absent, whatever it was. Ends with [`Done::Synced`].
    fn purge(&mut self, id: u64, key: &ChunkKey);
    /// Forgets every session row. Recorded with the next append.
    fn clear_sessions(&mut self);
    /// Merges a session row: the higher `seq` stays. Recorded with the next append.
    fn put_session(&mut self, id: SessionId, row: SessionRow);
    /// Forgets the row of a session, if it is that of update `seq`. Recorded with the next append.
    fn drop_session(&mut self, id: SessionId, seq: Seq);
    /// Raises the remove floor to at least `floor`. Recorded with the next append.
    fn raise_remove_floor(&mut self, floor: Ver);
    /// Ends with [`Done::Synced`] when everything before this call, commits included, is durable.
    fn sync(&mut self, id: u64);
}
