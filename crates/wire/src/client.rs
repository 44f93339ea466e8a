//! Client to node. Every request names chain and chain version; every reply carries a failure or the result.

use catena_types::store::StoreReport;
use catena_types::{ChainVer, ChunkMeta, Failure, Op, Space, StageInfo, Tag, Ver};

use crate::manager::SyncProgress;

/// An update of one chunk, sent to the head. The payload of a write follows the body.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct UpdateRequest {
    /// The chain.
    #[prost(uint32, tag = "1")]
    pub chain: u32,
    /// Membership version the client has.
    #[prost(uint64, tag = "2")]
    pub chain_ver: ChainVer,
    /// The chunk.
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// Chunk size in bytes; fixed when the chunk is made, compared afterwards.
    #[prost(uint32, tag = "4")]
    pub chunk_size: u32,
    /// The update.
    #[prost(message, required, tag = "5")]
    pub op: Op,
    /// [`catena_types::Precondition::to_wire`].
    #[prost(uint64, tag = "6")]
    pub precondition: u64,
    /// Names the update over all retries.
    #[prost(message, required, tag = "7")]
    pub tag: Tag,
    /// The session may be new on this chain: it has not had a commit acknowledged here.
    #[prost(bool, tag = "8")]
    pub first: bool,
    /// Ask for [`UpdateReply::hops`].
    #[prost(bool, tag = "9")]
    pub explain: bool,
}

/// What one replica did for an update, in the microseconds of its own clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Hop {
    /// The replica.
    #[prost(uint32, tag = "1")]
    pub target: u32,
    /// Clock when the update arrived (`CLOCK_BOOTTIME`; comparable between processes of one machine).
    #[prost(uint64, tag = "2")]
    pub received_us: u64,
    /// Clock when it was durably staged.
    #[prost(uint64, tag = "3")]
    pub staged_us: u64,
    /// Clock when it was released: durable on every replica upstream.
    #[prost(uint64, tag = "4")]
    pub released_us: u64,
    /// Clock when it was committed.
    #[prost(uint64, tag = "5")]
    pub committed_us: u64,
    /// What staging did here.
    #[prost(message, required, tag = "6")]
    pub stage: StageInfo,
    /// Version committed here.
    #[prost(uint64, tag = "7")]
    pub ver: Ver,
    /// Membership version recorded here.
    #[prost(uint64, tag = "8")]
    pub chain_ver: ChainVer,
}

/// The outcome of an update.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct UpdateReply {
    /// Set unless the update is committed.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// Version the update made.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Length of the chunk after it, in bytes.
    #[prost(uint32, tag = "3")]
    pub len: u32,
    /// CRC-32C of the chunk after it.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
    /// Membership version recorded at the commit.
    #[prost(uint64, tag = "5")]
    pub chain_ver: ChainVer,
    /// Tail first, head last; empty unless asked for.
    #[prost(message, repeated, tag = "6")]
    pub hops: Vec<Hop>,
}

/// A read of one chunk at one replica.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ReadRequest {
    /// The chain.
    #[prost(uint32, tag = "1")]
    pub chain: u32,
    /// Membership version the client has.
    #[prost(uint64, tag = "2")]
    pub chain_ver: ChainVer,
    /// The replica asked.
    #[prost(uint32, tag = "3")]
    pub target: u32,
    /// The chunk.
    #[prost(bytes = "vec", tag = "4")]
    pub key: Vec<u8>,
    /// First byte.
    #[prost(uint32, tag = "5")]
    pub offset: u32,
    /// Bytes wanted; 0 asks for the metadata alone. The reply is clipped at the end of the chunk.
    #[prost(uint32, tag = "6")]
    pub len: u32,
    /// The newest local version will do, staged included, whatever the chain has decided.
    #[prost(bool, tag = "7")]
    pub relaxed: bool,
}

/// The outcome of a read. The bytes are the payload; their CRC-32C is in the header.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ReadReply {
    /// Set unless the read succeeded.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// Version read.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Length of the chunk in that version, in bytes.
    #[prost(uint32, tag = "3")]
    pub chunk_len: u32,
    /// CRC-32C of the whole chunk in that version.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
    /// Membership version recorded with it (of staging, if `staged`).
    #[prost(uint64, tag = "5")]
    pub chain_ver: ChainVer,
    /// Chunk size in bytes.
    #[prost(uint32, tag = "6")]
    pub chunk_size: u32,
    /// The version was not yet committed here when it was read.
    #[prost(bool, tag = "7")]
    pub staged: bool,
    /// The tail was asked for the committed version.
    #[prost(bool, tag = "8")]
    pub asked_tail: bool,
}

/// What one replica holds of a chunk, whatever its state: for diagnosis, not linearizable.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct InspectRequest {
    /// The replica asked.
    #[prost(uint32, tag = "1")]
    pub target: u32,
    /// The chunk.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
}

/// The answer to [`InspectRequest`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct InspectReply {
    /// Set if the replica is not here.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// Absent if the replica holds nothing of the chunk.
    #[prost(message, optional, tag = "2")]
    pub meta: Option<ChunkMeta>,
    /// Membership version at the replica.
    #[prost(uint64, tag = "3")]
    pub chain_ver: ChainVer,
}

/// What there is to know of a target's store; and what it is to do.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TargetRequest {
    /// The target.
    #[prost(uint32, tag = "1")]
    pub target: u32,
    /// Start a scrub pass now, if none is under way.
    #[prost(bool, tag = "2")]
    pub scrub: bool,
}

/// The answer to [`TargetRequest`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TargetReply {
    /// Set if the target is not here, or not open.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// Its store.
    #[prost(message, optional, tag = "2")]
    pub store: Option<StoreReport>,
    /// Its space.
    #[prost(message, optional, tag = "3")]
    pub space: Option<Space>,
    /// Counters and gauges by name.
    #[prost(message, repeated, tag = "4")]
    pub values: Vec<Metric>,
    /// Distributions by name.
    #[prost(message, repeated, tag = "5")]
    pub histograms: Vec<HistogramSummary>,
    /// As source: how far the resync of its successor is.
    #[prost(message, optional, tag = "6")]
    pub sync: Option<SyncProgress>,
}

/// A counter since the target was opened, or a gauge.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Metric {
    /// Stable name; its last word is the unit where there is one.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(uint64, tag = "2")]
    pub value: u64,
}

/// A distribution since the target was opened.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HistogramSummary {
    /// Stable name; its last word is the unit.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Values counted.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Their sum.
    #[prost(uint64, tag = "3")]
    pub sum: u64,
    /// The greatest.
    #[prost(uint64, tag = "4")]
    pub most: u64,
    /// Half of the values are not above this.
    #[prost(uint64, tag = "5")]
    pub p50: u64,
    /// 99 of 100 values are not above this.
    #[prost(uint64, tag = "6")]
    pub p99: u64,
    /// 999 of 1000 values are not above this.
    #[prost(uint64, tag = "7")]
    pub p999: u64,
}

/// One page of the committed chunks of a replica, in key order.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ListRequest {
    /// The chain.
    #[prost(uint32, tag = "1")]
    pub chain: u32,
    /// Membership version the client has.
    #[prost(uint64, tag = "2")]
    pub chain_ver: ChainVer,
    /// The replica asked.
    #[prost(uint32, tag = "3")]
    pub target: u32,
    /// Keys with this prefix.
    #[prost(bytes = "vec", tag = "4")]
    pub prefix: Vec<u8>,
    /// Keys from here on (inclusive).
    #[prost(bytes = "vec", tag = "5")]
    pub from: Vec<u8>,
    /// At most this many; see [`catena_types::limits::MAX_PAGE`].
    #[prost(uint32, tag = "6")]
    pub limit: u32,
}

/// A committed chunk in a listing.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ListEntry {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Committed version.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Length in bytes.
    #[prost(uint32, tag = "3")]
    pub len: u32,
    /// CRC-32C of the chunk.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
}

/// The answer to [`ListRequest`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ListReply {
    /// Set unless the listing succeeded.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// In key order.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<ListEntry>,
    /// The key to go on from; empty at the end.
    #[prost(bytes = "vec", tag = "3")]
    pub next: Vec<u8>,
}
