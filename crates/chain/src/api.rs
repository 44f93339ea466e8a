//! What goes into a [`Replica`](crate::Replica) and what comes out of it.
//!
//! The driver (a node's shard, or the simulator) calls [`Replica::handle`](crate::Replica::handle) with one [`Event`]
//! at a time and carries out the [`Command`]s in order. The time given is read *after* the event was received, so that
//! a pause can only make a lease look older. Payloads are opaque: the state machine passes them on, it never looks in.

use catena_types::{Chain, ChainId, ChunkKey, Done, LocalState, Op, Payload, Precondition, Tag, TargetId, Time};
use catena_wire::client::{ListReply, ReadReply, UpdateReply};
use catena_wire::manager::SyncProgress;
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
    /// Chunks brought up to date at the same time, at most.
    pub sync_window: usize,
    /// Bytes of these chunks, about; one chunk is always under way.
    pub sync_bytes: u64,
    /// The same where clients' requests are in progress, or were until a moment ago: what a client has to wait behind.
    pub sync_beside: u64,
    /// How long ago that is, in nanoseconds.
    pub sync_calm: Time,
    /// Bytes of chunks that a resync sends per second, at most; 0: as fast as it goes.
    pub sync_rate: u64,
    /// How often a resync tries again to read a chunk that no replica can read, before it goes on without it.
    pub unreadable_tries: u32,
    /// Pause before each such try, in nanoseconds.
    pub unreadable_retry: Time,
    /// Bytes of payload on their way to the successor that it has not staged, about; a larger update passes too.
    pub forward_window: u64,
    /// Session rows in one message.
    pub session_batch: usize,
    /// A session that was not used for this long is forgotten, in nanoseconds; 0: never. Longer than any copy of a request
    /// can be on its way.
    pub session_ttl: Time,
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
            sync_window: 256,
            sync_bytes: 24 << 20,
            sync_beside: 2 << 20,
            sync_calm: 200_000_000,
            sync_rate: 0,
            unreadable_tries: 3,
            unreadable_retry: 1_000_000_000,
            forward_window: 64 << 20,
            session_batch: 512,
            session_ttl: 24 * 3600 * 1_000_000_000,
            repair_window: 4,
            max_damaged: 1000,
        }
    }
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
        /// What came with a `Forward`, `SyncPut`, `SyncPart` or `Fetched`, verified.
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
    matches!(
        msg.body,
        Some(Reply(_) | Reject(_) | Credit(_) | Answer(_) | Page(_) | Synced(_) | Sums(_) | SyncDoneReply(_) | Fetched(_))
    )
}

/// What a heartbeat says about a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// State.
    pub state: LocalState,
    /// Chain adopted; 0 if none was.
    pub chain: ChainId,
    /// Its version: the one the state is about.
    pub chain_ver: u64,
    /// As source: why the sync under `chain_ver` was given up; empty if it was not.
    pub sync_failed: String,
    /// As source: how far the resync under `chain_ver` is.
    pub sync: Option<SyncProgress>,
    /// Why the target has failed; empty if it has not.
    pub failed: String,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often things happened that should be rare, and how often rules were used. Names are stable: they are metrics.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Updates committed here.
    commits,
    /// Updates rejected by this target or downstream.
    rejects,
    /// Rejects dropped because a newer attempt was on its way.
    stale_rejects,
    /// Forwards sent.
    forwards,
    /// Forwards sent again (new chain version or new link).
    reforwards,
    /// Forwards that waited for room in the window.
    held_forwards,
    /// Reads served from a clean chunk.
    clean_reads,
    /// Reads that asked the tail.
    asked_reads,
    /// Version queries answered.
    answers,
    /// Answers that matched nothing held here: asked again.
    odd_answers,
    /// Messages dropped because they were of another chain version, or of another chain.
    dropped_versions,
    /// Messages that no correct peer sends in this state.
    protocol_errors,
    /// Updates answered from the session table.
    repeats,
    /// Sessions forgotten because nobody used them.
    sessions_expired,
    /// Staged updates driven on by a revived member.
    rolled_forward,
    /// Chunks sent whole by resync.
    sync_puts,
    /// Chunks removed by resync.
    sync_drops,
    /// Chunks found equal by resync.
    sync_equal,
    /// Chunks of which resync sent the blocks that differ.
    sync_patches,
    /// Of these, chunks that were then sent whole: what the sink holds is not what it seemed.
    sync_refused,
    /// Bytes of chunks that resync sent.
    sync_bytes,
    /// Chunks that resync could not send, because nobody can read them: they are held as damaged.
    sync_lost,
    /// Replies whose checksum differed from ours.
    divergences,
    /// Reports of damaged chunks here.
    damaged,
    /// Chunks repaired from a neighbour.
    repairs,
    /// Attempts at a repair that ended without one: no neighbour had the version, or there was no room for it.
    unrepaired,
    /// Updates staged again after what they build on had been repaired.
    restaged,
    /// Chunks sent to a neighbour whose own copy was damaged.
    fetches_served,
}
