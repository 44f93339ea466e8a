//! Target to target, within a chain.
//!
//! Requests (`Forward`, `Release`, `Query`, `Confirm`, `Sync*`, `Fetch`, `Expire`) go down the connection that the sender's shard
//! opened to the receiver's shard; answers (`Reply`, `Reject`, `Credit`, `Answer`, `Synced`, `Page`, `Sums`, `SyncDoneReply`,
//! `Fetched`) come back up the same connection. All messages about one chunk therefore travel in order on one link.

use catena_types::{ChainVer, ChunkMeta, Committed, Op, SessionId, SessionRow, Tag, Ver};

use crate::client::Hop;

/// One message between two targets of a chain.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PeerMsg {
    /// The chain.
    #[prost(uint32, tag = "1")]
    pub chain: u32,
    /// The sender's membership version. A receiver acts only on its own version, except on success replies of an
    /// older one; it drops older and keeps newer ones until it has adopted that version.
    #[prost(uint64, tag = "2")]
    pub chain_ver: ChainVer,
    /// The sender.
    #[prost(uint32, tag = "3")]
    pub from: u32,
    /// The receiver.
    #[prost(uint32, tag = "4")]
    pub to: u32,
    /// The message.
    #[prost(
        oneof = "Body",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33"
    )]
    pub body: Option<Body>,
}

/// The messages.
#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
pub enum Body {
    /// Stage this; payload follows.
    #[prost(message, tag = "10")]
    Forward(Forward),
    /// Every target upstream of you holds it durably.
    #[prost(message, tag = "11")]
    Release(Release),
    /// Committed.
    #[prost(message, tag = "12")]
    Reply(Reply),
    /// Not staged downstream, and never will be in this attempt.
    #[prost(message, tag = "13")]
    Reject(Reject),
    /// Which version is committed at the tail?
    #[prost(message, tag = "14")]
    Query(Query),
    /// That one.
    #[prost(message, tag = "15")]
    Answer(Answer),
    /// You may serve: your predecessor is confirmed and knows that it is not the tail.
    #[prost(message, tag = "16")]
    Confirm(Confirm),
    /// A sync begins: forget session rows, send what you hold of the first key range.
    #[prost(message, tag = "17")]
    SyncPage(SyncPage),
    /// What the sink holds of a key range.
    #[prost(message, tag = "18")]
    Page(Page),
    /// Replace this chunk; payload follows.
    #[prost(message, tag = "19")]
    SyncPut(SyncPut),
    /// Remove this chunk.
    #[prost(message, tag = "20")]
    SyncDrop(SyncDrop),
    /// The chunk is as the source sent it, durably.
    #[prost(message, tag = "21")]
    Synced(Synced),
    /// Session rows of the source.
    #[prost(message, tag = "22")]
    SyncSessions(SyncSessions),
    /// Everything was sent.
    #[prost(message, tag = "23")]
    SyncDone(SyncDone),
    /// Everything is durable: the sink is up to date under this chain version.
    #[prost(message, tag = "24")]
    SyncDoneReply(SyncDoneReply),
    /// My copy of this version is damaged: send yours.
    #[prost(message, tag = "25")]
    Fetch(Fetch),
    /// Here it is, payload follows; or why not.
    #[prost(message, tag = "26")]
    Fetched(Fetched),
    /// What are the checksums of this chunk's blocks?
    #[prost(message, tag = "27")]
    SyncSums(SyncSums),
    /// These.
    #[prost(message, tag = "28")]
    Sums(Sums),
    /// Some blocks of a chunk; payload follows.
    #[prost(message, tag = "29")]
    SyncPart(SyncPart),
    /// Make this version of the chunk from what you hold and the parts.
    #[prost(message, tag = "30")]
    SyncPatch(SyncPatch),
    /// Nobody can read this version of the chunk: hold it as damaged.
    #[prost(message, tag = "31")]
    SyncLost(SyncLost),
    /// These sessions have been idle for long: forget them, and tell your successor.
    #[prost(message, tag = "32")]
    Expire(Expire),
    /// What came in these attempts is staged, and may be long in being answered: there is room for more.
    #[prost(message, tag = "33")]
    Credit(Credit),
}

/// An update on its way down the chain.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Forward {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Version it will have.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Names the update.
    #[prost(message, required, tag = "3")]
    pub tag: Tag,
    /// The update.
    #[prost(message, required, tag = "4")]
    pub op: Op,
    /// Chunk size in bytes.
    #[prost(uint32, tag = "5")]
    pub chunk_size: u32,
    /// Committed version it builds on; 0 if the chunk is absent.
    #[prost(uint64, tag = "6")]
    pub base_ver: Ver,
    /// CRC-32C of the chunk in that version.
    #[prost(fixed32, tag = "7")]
    pub base_checksum: u32,
    /// Grows with every forward the sender makes; echoed by `Reject`.
    #[prost(uint64, tag = "8")]
    pub attempt: u64,
    /// CRC-32C of the payload.
    #[prost(fixed32, tag = "9")]
    pub payload_crc: u32,
    /// Collect [`Hop`]s.
    #[prost(bool, tag = "10")]
    pub explain: bool,
}

/// See [`Body::Release`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Release {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The staged version.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Names the update.
    #[prost(message, required, tag = "3")]
    pub tag: Tag,
}

/// See [`Body::Reply`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Reply {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The committed version.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Names the update.
    #[prost(message, required, tag = "3")]
    pub tag: Tag,
    /// CRC-32C of the chunk; 0 after a remove.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
    /// Membership version recorded at the tail's commit.
    #[prost(uint64, tag = "5")]
    pub commit_chain_ver: ChainVer,
    /// Tail first.
    #[prost(message, repeated, tag = "6")]
    pub hops: Vec<Hop>,
}

/// See [`Body::Reject`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Reject {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The version refused.
    #[prost(uint64, tag = "2")]
    pub ver: Ver,
    /// Names the update.
    #[prost(message, required, tag = "3")]
    pub tag: Tag,
    /// The newest attempt the answerer has seen.
    #[prost(uint64, tag = "4")]
    pub attempt: u64,
    /// Why: `NoSpace`, `ReadOnly`, or `Corrupt` where what the update keeps is damaged and no neighbour has it.
    #[prost(enumeration = "catena_types::Code", tag = "5")]
    pub code: i32,
    /// The target that refused first.
    #[prost(uint32, tag = "6")]
    pub by: u32,
}

/// See [`Body::Query`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Query {
    /// Echoed.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The chunk.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
}

/// See [`Body::Answer`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Answer {
    /// As asked.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Committed version; 0 if the chunk is absent.
    #[prost(uint64, tag = "2")]
    pub commit_ver: Ver,
    /// The tail holds no committed version: the chunk was never committed, or a remove was.
    #[prost(bool, tag = "3")]
    pub absent: bool,
}

/// See [`Body::Confirm`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Confirm {}

/// Asks for the sink's metadata of the keys in `[from, to)`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncPage {
    /// First key; empty at the beginning, which starts the sync.
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    /// End, exclusive; empty for "to the last key".
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
}

/// What the sink holds of a chunk.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PageEntry {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// All of it.
    #[prost(message, required, tag = "2")]
    pub meta: ChunkMeta,
}

/// The answer to [`SyncPage`]; `to` is lowered to `end` where the sink holds more chunks than fit.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Page {
    /// As asked.
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    /// End of the range this answer covers, exclusive; empty for "to the last key".
    #[prost(bytes = "vec", tag = "2")]
    pub end: Vec<u8>,
    /// Every chunk the sink holds in the range, in key order.
    #[prost(message, repeated, tag = "3")]
    pub entries: Vec<PageEntry>,
}

/// See [`Body::SyncPut`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncPut {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Chunk size in bytes.
    #[prost(uint32, tag = "2")]
    pub chunk_size: u32,
    /// What the sink is to hold.
    #[prost(message, required, tag = "3")]
    pub committed: Committed,
}

/// See [`Body::SyncDrop`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncDrop {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
}

/// See [`Body::SyncSums`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncSums {
    /// Echoed by the answer, and names what is sent because of it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The chunk.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
}

/// The answer to [`SyncSums`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Sums {
    /// As asked.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The chunk.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// What the sink holds of it now; absent if nothing.
    #[prost(message, optional, tag = "3")]
    pub meta: Option<ChunkMeta>,
    /// CRC-32C of every block of the committed version, the last one padded with zeroes; empty if they are not known.
    #[prost(fixed32, repeated, tag = "4")]
    pub crcs: Vec<u32>,
}

/// See [`Body::SyncPart`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncPart {
    /// Of the [`SyncSums`] whose answer asked for it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The chunk.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// Where the blocks start, in bytes.
    #[prost(uint32, tag = "3")]
    pub offset: u32,
}

/// See [`Body::SyncPatch`]. Its parts have been sent before it.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncPatch {
    /// As in the parts.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The chunk.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// What the sink is to hold.
    #[prost(message, required, tag = "3")]
    pub committed: Committed,
    /// How many parts there are.
    #[prost(uint32, tag = "4")]
    pub parts: u32,
}

/// See [`Body::SyncLost`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncLost {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Chunk size in bytes.
    #[prost(uint32, tag = "2")]
    pub chunk_size: u32,
    /// The version that is lost.
    #[prost(message, required, tag = "3")]
    pub committed: Committed,
}

/// The answer to [`SyncPut`], [`SyncPatch`], [`SyncLost`] and [`SyncDrop`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Synced {
    /// The chunk.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// 0, or why not: `NoSpace` ends this sync; `Corrupt` answers a patch that does not make the version wanted.
    #[prost(enumeration = "catena_types::Code", tag = "2")]
    pub code: i32,
    /// Of the patch; else 0.
    #[prost(uint64, tag = "3")]
    pub id: u64,
}

/// A session and its row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct SessionEntry {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub id: SessionId,
    /// Its last committed update.
    #[prost(message, required, tag = "2")]
    pub row: SessionRow,
}

/// See [`Body::SyncSessions`]; merged by highest `seq`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncSessions {
    /// A part of the rows.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<SessionEntry>,
}

/// See [`Body::SyncDone`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncDone {
    /// The source's remove floor.
    #[prost(uint64, tag = "1")]
    pub remove_floor: Ver,
}

/// See [`Body::SyncDoneReply`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncDoneReply {}

/// The last update of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct SessionSeq {
    /// The session.
    #[prost(message, required, tag = "1")]
    pub id: SessionId,
    /// Its number.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// See [`Body::Credit`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Credit {
    /// Of forwards of the receiver.
    #[prost(uint64, repeated, tag = "1")]
    pub attempts: Vec<u64>,
}

/// See [`Body::Expire`]. A row of another update than the one named is kept.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Expire {
    /// Sessions, and what they were last used for.
    #[prost(message, repeated, tag = "1")]
    pub idle: Vec<SessionSeq>,
}

/// See [`Body::Fetch`]. Any neighbour in the chain may be asked.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fetch {
    /// Echoed.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The chunk.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// The version wanted, and no other.
    #[prost(uint64, tag = "3")]
    pub ver: Ver,
    /// CRC-32C of the chunk in that version.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
}

/// The answer to [`Fetch`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fetched {
    /// As asked.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// As asked.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// 0, or why not: `NotFound` if another version is held here, `Corrupt` if this one is damaged here too.
    #[prost(enumeration = "catena_types::Code", tag = "3")]
    pub code: i32,
    /// The version whose bytes follow; absent if there are none.
    #[prost(message, optional, tag = "4")]
    pub committed: Option<Committed>,
}
