//! What goes into a [`Replica`](crate::Replica) and what comes out of it.
//!
//! The driver (a node's shard, or the simulator) calls [`Replica::handle`](crate::Replica::handle) with one [`Event`]
//! at a time and carries out the [`Command`]s in order. The time given is read *after* the event was received, so that
//! a pause can only make a lease look older. Payloads are opaque: the state machine passes them on, it never looks in.

use catena_types::{Chain, ChunkKey, Done, LocalState, Op, Precondition, Tag, TargetId, Time};
use catena_wire::client::{ListReply, ReadReply, UpdateReply};
use catena_wire::peer::PeerMsg;

/// The driver's name for a client request that waits for its reply; unique among those open at this target.
pub type RequestId = u64;

/// Limits and periods. Tests and the simulator make them tiny, so that corner cases are common.
#[derive(Clone, Debug)]
pub struct Config {
    /// A version query without an answer is sent again after this many nanoseconds.
    pub query_retry: Time,
    /// Chunks of the source in one page of a resync.
    pub page_chunks: usize,
    /// Chunks brought up to date at the same time.
    pub sync_window: usize,
    /// Session rows in one message.
    pub session_batch: usize,
    /// Damaged chunks repaired at the same time, those apart that an update waits for.
    pub repair_window: usize,
    /// More damaged chunks than this since the target was opened: its disk is failing, and so the target.
    pub max_damaged: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            query_retry: 200_000_000,
            page_chunks: 512,
            sync_window: 8,
            session_batch: 512,
            repair_window: 4,
            max_damaged: 1000,
        }
    }
}

/// A payload and its CRC-32C, verified by the driver on receipt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Payload<P> {
    /// The bytes, opaque.
    pub data: P,
    /// Length in bytes.
    pub len: u32,
    /// CRC-32C of the bytes.
    pub crc: u32,
}

/// A client's update, its key and payload checked by the driver.
#[derive(Clone, Debug, Hash)]
pub struct ClientUpdate<P> {
    /// Where the reply goes.
    pub request: RequestId,
    /// Membership version the client has.
    pub chain_ver: u64,
    /// The chunk.
    pub key: ChunkKey,
    /// Chunk size in bytes, as the client has it.
    pub chunk_size: u32,
    /// The update.
    pub op: Op,
    /// Judged when the update's turn comes.
    pub precondition: Precondition,
    /// Names the update over all retries.
    pub tag: Tag,
    /// The session may be new here.
    pub first: bool,
    /// Collect hops.
    pub explain: bool,
    /// The bytes of a write.
    pub payload: Payload<P>,
}

/// A client's read.
#[derive(Clone, Debug, Hash)]
pub struct ClientRead {
    /// Where the reply goes.
    pub request: RequestId,
    /// Membership version the client has.
    pub chain_ver: u64,
    /// The chunk.
    pub key: ChunkKey,
    /// First byte.
    pub offset: u32,
    /// Bytes wanted; 0: metadata alone.
    pub len: u32,
    /// The newest local version will do.
    pub relaxed: bool,
    /// When to give up with `Timeout`.
    pub deadline: Time,
}

/// A client's listing.
#[derive(Clone, Debug)]
pub struct ClientList {
    /// Where the reply goes.
    pub request: RequestId,
    /// Membership version the client has.
    pub chain_ver: u64,
    /// Keys with this prefix.
    pub prefix: Vec<u8>,
    /// Keys from here on, inclusive.
    pub from: Vec<u8>,
    /// At most this many.
    pub limit: usize,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event<P> {
    /// The shard has applied routing of this version, in which the target's chain looks like this.
    Routing {
        /// Version of the routing.
        version: u64,
        /// The chain this target is in.
        chain: Chain,
    },
    /// The manager granted a lease that is usable with routing of at least `routing`.
    Lease {
        /// End of the lease, counted from when the heartbeat was sent.
        until: Time,
        /// Routing version it was granted at.
        routing: u64,
    },
    /// A client's update.
    Update(ClientUpdate<P>),
    /// A client's read.
    Read(ClientRead),
    /// A client's listing.
    List(ClientList),
    /// A message of another target of the chain, addressed to this one, on a link that is not fenced.
    Peer {
        /// The message.
        msg: PeerMsg,
        /// What came with a `Forward`, `SyncPut` or `Fetched`, verified.
        payload: Option<Payload<P>>,
    },
    /// There is a new connection to the shard of this target: what was sent on an older one may be lost.
    LinkUp {
        /// The target at the other end.
        peer: TargetId,
    },
    /// The chunk engine has finished something.
    Done(Done<P>),
    /// Time has passed; sent at or after [`Replica::next_wake`](crate::Replica::next_wake).
    Tick,
    /// The node is going down: serve nothing more.
    Stop,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Command<P> {
    /// Send to target `msg.to`: requests on the connection this shard opened to the target's shard (open it if there is
    /// none, then report [`Event::LinkUp`]), answers on the one the target's shard opened to this one (drop them if
    /// there is none). See [`answers`].
    Send {
        /// The message.
        msg: PeerMsg,
        /// Goes with it.
        payload: Option<Payload<P>>,
    },
    /// Answer an update.
    UpdateReply {
        /// The request.
        request: RequestId,
        /// The answer.
        reply: UpdateReply,
    },
    /// Answer a read.
    ReadReply {
        /// The request.
        request: RequestId,
        /// The answer.
        reply: ReadReply,
        /// The bytes, if any were asked for and found.
        payload: Option<Payload<P>>,
    },
    /// Answer a listing.
    ListReply {
        /// The request.
        request: RequestId,
        /// The answer.
        reply: ListReply,
    },
    /// What this target holds cannot be trusted in memory: drop the state machine, open the engine anew with a higher
    /// open count, and let the manager see that count. Nothing is served from now on.
    Reopen {
        /// Why, for people and counters.
        reason: String,
    },
}

/// Whether a message is an answer, which travels back up the connection its request came down.
pub fn answers(msg: &PeerMsg) -> bool {
    use catena_wire::peer::Body::*;
    matches!(msg.body, Some(Reply(_) | Reject(_) | Answer(_) | Page(_) | Synced(_) | SyncDoneReply(_) | Fetched(_)))
}

/// What a heartbeat says about a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// State.
    pub state: LocalState,
    /// Chain version adopted: the one the state is about.
    pub chain_ver: u64,
    /// As source: why the sync under `chain_ver` was given up; empty if it was not.
    pub sync_failed: String,
    /// As source: chunks settled under `chain_ver`.
    pub synced_chunks: u64,
    /// Why the target has failed; empty if it has not.
    pub failed: String,
}

/// How often things happened that should be rare, and how often rules were used. Names are stable: they are metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Updates committed here.
    pub commits: u64,
    /// Updates rejected by this target or downstream.
    pub rejects: u64,
    /// Rejects dropped because a newer attempt was on its way.
    pub stale_rejects: u64,
    /// Forwards sent.
    pub forwards: u64,
    /// Forwards sent again (new chain version or new link).
    pub reforwards: u64,
    /// Reads served from a clean chunk.
    pub clean_reads: u64,
    /// Reads that asked the tail.
    pub asked_reads: u64,
    /// Version queries answered.
    pub answers: u64,
    /// Answers that matched nothing held here: asked again.
    pub odd_answers: u64,
    /// Messages dropped because they were of another chain version.
    pub dropped_versions: u64,
    /// Messages that no correct peer sends in this state.
    pub protocol_errors: u64,
    /// Updates answered from the session table.
    pub repeats: u64,
    /// Staged updates driven on by a revived member.
    pub rolled_forward: u64,
    /// Chunks sent whole by resync.
    pub sync_puts: u64,
    /// Chunks removed by resync.
    pub sync_drops: u64,
    /// Chunks found equal by resync.
    pub sync_equal: u64,
    /// Replies whose checksum differed from ours.
    pub divergences: u64,
    /// Reports of damaged chunks here.
    pub damaged: u64,
    /// Chunks repaired from a neighbour.
    pub repairs: u64,
    /// Attempts at a repair that ended without one: no neighbour had the version, or there was no room for it.
    pub unrepaired: u64,
    /// Updates staged again after what they build on had been repaired.
    pub restaged: u64,
    /// Chunks sent to a neighbour whose own copy was damaged.
    pub fetches_served: u64,
}
