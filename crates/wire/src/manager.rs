//! Node, client and tool to manager.

use catena_types::store::StoreReport;
use catena_types::{ChainId, ChainVer, Failure, LocalState, NodeId, Routing, RoutingDelta, Space, TargetId};

/// A target directory, as its node found it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TargetOffer {
    /// From the superblock; 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub uuid: Vec<u8>,
    /// From the superblock; 0 if the target has not been given an id.
    #[prost(uint32, tag = "2")]
    pub target: u32,
    /// The shard that owns it.
    #[prost(uint32, tag = "3")]
    pub shard: u32,
    /// Space now.
    #[prost(message, required, tag = "4")]
    pub space: Space,
    /// The lock that its process holds: the same number for the same lock file on the same machine, until that boots again; 0:
    /// not known. A copy of a target has the uuid of the first, and another lock.
    #[prost(fixed64, tag = "5")]
    pub lock: u64,
}

/// A node starts: it holds the locks of its targets, and asks for its incarnation. Sent again until answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterRequest {
    /// The node, as configured.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Cluster in its superblocks; 0 if they are all new.
    #[prost(fixed64, tag = "2")]
    pub cluster: u64,
    /// Drawn at random at process start: tells a repeated request from a second process with the same node id.
    #[prost(fixed64, tag = "3")]
    pub process: u64,
    /// `host:port` of each shard, in order.
    #[prost(string, repeated, tag = "4")]
    pub shard_addrs: Vec<String>,
    /// All its targets.
    #[prost(message, repeated, tag = "5")]
    pub targets: Vec<TargetOffer>,
    /// What it shares with others that may fail together with it; empty: nothing.
    #[prost(string, tag = "6")]
    pub rack: String,
}

/// The answer to [`RegisterRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterReply {
    /// Set if refused: `DuplicateNode`, `WrongCluster`, `InvalidArgument`.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// The cluster; written to new superblocks.
    #[prost(fixed64, tag = "2")]
    pub cluster: u64,
    /// This start of the node.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// Id of each offered target, in the order offered.
    #[prost(uint32, repeated, tag = "4")]
    pub targets: Vec<u32>,
    /// Length of a lease in milliseconds.
    #[prost(uint32, tag = "5")]
    pub lease_ms: u32,
    /// Time between heartbeats in milliseconds.
    #[prost(uint32, tag = "6")]
    pub heartbeat_ms: u32,
}

/// How far a resync is, as its source sees it. For people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct SyncProgress {
    /// Chunks settled: they are equal at the sink, or known to be lost.
    #[prost(uint64, tag = "1")]
    pub chunks: u64,
    /// Chunks of the source when the resync began.
    #[prost(uint64, tag = "2")]
    pub chunks_total: u64,
    /// Bytes of the chunks settled.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Chunks of which something was sent.
    #[prost(uint64, tag = "4")]
    pub chunks_sent: u64,
    /// Bytes of chunks that were sent.
    #[prost(uint64, tag = "5")]
    pub bytes_sent: u64,
    /// Chunks that nobody can read.
    #[prost(uint64, tag = "6")]
    pub chunks_lost: u64,
    /// Time from the beginning to the last chunk settled, in milliseconds.
    #[prost(uint64, tag = "7")]
    pub elapsed_ms: u64,
}

impl SyncProgress {
    /// Time until the end in milliseconds, if it goes on as it has; `None` while nothing is known.
    pub fn eta_ms(&self) -> Option<u64> {
        let left = self.chunks_total.saturating_sub(self.chunks);
        (self.chunks > 0).then(|| (u128::from(self.elapsed_ms) * u128::from(left) / u128::from(self.chunks)) as u64)
    }
}

/// State of one target, as its shard reports it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TargetReport {
    /// The target.
    #[prost(uint32, tag = "1")]
    pub target: u32,
    /// Its state.
    #[prost(enumeration = "LocalState", tag = "2")]
    pub state: i32,
    /// The chain version the state is about: the one its shard has adopted.
    #[prost(uint64, tag = "3")]
    pub chain_ver: ChainVer,
    /// The chain that version is of: a target may have been moved since. 0 if none was adopted.
    #[prost(uint32, tag = "11")]
    pub chain: ChainId,
    /// Times it was opened in this incarnation; a grown count means that its memory is gone.
    #[prost(uint64, tag = "4")]
    pub open_count: u64,
    /// Space now.
    #[prost(message, required, tag = "5")]
    pub space: Space,
    /// As source: the sync of its successor under `chain_ver` was given up, for this reason.
    #[prost(string, tag = "6")]
    pub sync_failed: String,
    /// As source: how far the resync is.
    #[prost(message, optional, tag = "10")]
    pub sync: Option<SyncProgress>,
    /// Why it has failed, if it has.
    #[prost(string, tag = "8")]
    pub failed: String,
    /// Of its store; absent if that is not open.
    #[prost(message, optional, tag = "9")]
    pub store: Option<StoreReport>,
    /// Members of its chain that it sends requests to, and has had no connection to for a while.
    #[prost(uint32, repeated, tag = "12")]
    pub unreachable: Vec<TargetId>,
}

/// I live. Asks for a lease for the targets listed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeartbeatRequest {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Its start.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// Grows with every heartbeat of an incarnation; older ones are ignored.
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// Targets whose shards have answered since the last heartbeat.
    #[prost(message, repeated, tag = "4")]
    pub targets: Vec<TargetReport>,
    /// Version of the routing the node has.
    #[prost(uint64, tag = "5")]
    pub routing: u64,
}

/// The answer to [`HeartbeatRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeartbeatReply {
    /// Set if nothing is granted: an older start, or an unknown node (register again).
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// A lease of this many milliseconds, counted from when the heartbeat was sent, for the targets it listed; 0: none.
    #[prost(uint32, tag = "2")]
    pub lease_ms: u32,
    /// The lease may be used only by a shard that has applied this routing version or a later one.
    #[prost(uint64, tag = "3")]
    pub routing_ver: u64,
    /// Newer routing, if the node's is older and a delta is of no use.
    #[prost(message, optional, tag = "4")]
    pub routing: Option<Routing>,
    /// Targets listed that the lease is not for: their place is about to change.
    #[prost(uint32, repeated, tag = "5")]
    pub except: Vec<u32>,
    /// What is newer in the routing, if the node's is older.
    #[prost(message, optional, tag = "6")]
    pub delta: Option<RoutingDelta>,
}

/// Asks for routing newer than `have`; answered at once if there is, else when there is or `wait_ms` have passed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoutingRequest {
    /// Version the asker has; 0 if none.
    #[prost(uint64, tag = "1")]
    pub have: u64,
    /// Longest wait in milliseconds.
    #[prost(uint32, tag = "2")]
    pub wait_ms: u32,
}

/// The answer to [`RoutingRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoutingReply {
    /// Set if there is no answer to give.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// All of it, where a delta is of no use. Both are absent if nothing is newer.
    #[prost(message, optional, tag = "2")]
    pub routing: Option<Routing>,
    /// What is newer.
    #[prost(message, optional, tag = "3")]
    pub delta: Option<RoutingDelta>,
}

/// Makes the chain table from the targets that are registered and in no chain.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InitRequest {
    /// Replicas per chain.
    #[prost(uint32, tag = "1")]
    pub replicas: u32,
    /// Wait with it (`Busy`) until so many nodes are registered.
    #[prost(uint32, tag = "2")]
    pub nodes: u32,
    /// Targets of each node that are left in no chain: they take the place of others that are lost.
    #[prost(uint32, tag = "3")]
    pub spare: u32,
}

/// The answer to [`InitRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct InitReply {
    /// Set if refused: too few nodes, or a chain table exists.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// Chains made.
    #[prost(uint32, tag = "2")]
    pub chains: u32,
}

/// Asks for the state of everything, for people and tools.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {}

/// A target in a status.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TargetStatus {
    /// Last report.
    #[prost(message, required, tag = "1")]
    pub report: TargetReport,
    /// Milliseconds since.
    #[prost(uint64, tag = "2")]
    pub heard_ms: u64,
}

/// The answer to [`StatusRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusReply {
    /// Set if there is no answer to give.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// Nodes, targets, chains.
    #[prost(message, required, tag = "2")]
    pub routing: Routing,
    /// By target id.
    #[prost(message, repeated, tag = "3")]
    pub targets: Vec<TargetStatus>,
    /// Length of a lease in milliseconds.
    #[prost(uint32, tag = "4")]
    pub lease_ms: u32,
    /// `host:port` of the manager that answers.
    #[prost(string, tag = "5")]
    pub primary: String,
    /// Milliseconds for which a change of membership has been waiting for the manager's store; 0 if none is.
    #[prost(uint64, tag = "6")]
    pub storing_ms: u64,
    /// Replicas per chain; 0 before the chain table is made.
    #[prost(uint32, tag = "7")]
    pub replicas: u32,
    /// Replicas that move, and those that are to but have nowhere to go (`joining` is 0).
    #[prost(message, repeated, tag = "8")]
    pub moves: Vec<ReplicaMove>,
    /// Nodes that are being emptied.
    #[prost(uint32, repeated, tag = "9")]
    pub draining_nodes: Vec<NodeId>,
    /// Targets that are.
    #[prost(uint32, repeated, tag = "10")]
    pub draining_targets: Vec<TargetId>,
    /// Replicas are being spread evenly.
    #[prost(bool, tag = "11")]
    pub rebalancing: bool,
    /// Time between the heartbeats of a node in milliseconds.
    #[prost(uint32, tag = "12")]
    pub heartbeat_ms: u32,
    /// Time after which a target that is out is replaced, in milliseconds.
    #[prost(uint64, tag = "13")]
    pub replace_after_ms: u64,
    /// Most replicas that move at a time.
    #[prost(uint32, tag = "14")]
    pub max_moves: u32,
}

/// Why a replica moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum MoveReason {
    /// It is out for longer than a lost target is waited for, or its disk was replaced by an empty one.
    Lost = 0,
    /// Its target or node is being emptied.
    Drain = 1,
    /// Its node has more than its share.
    Rebalance = 2,
    /// Somebody asked for it.
    Asked = 3,
}

/// One replica of a chain moves from one target to another: the new one is brought up to date before the old one goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ReplicaMove {
    /// The chain.
    #[prost(uint32, tag = "1")]
    pub chain: ChainId,
    /// The target that leaves it.
    #[prost(uint32, tag = "2")]
    pub leaving: TargetId,
    /// The target that takes its place.
    #[prost(uint32, tag = "3")]
    pub joining: TargetId,
    /// Why.
    #[prost(enumeration = "MoveReason", tag = "4")]
    pub reason: i32,
}

/// Empties a node or a target: its replicas move elsewhere, and no other comes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Drain {
    /// The node; 0 if a target is meant.
    #[prost(uint32, tag = "1")]
    pub node: NodeId,
    /// The target; 0 if a node is meant.
    #[prost(uint32, tag = "2")]
    pub target: TargetId,
    /// It is to be used again.
    #[prost(bool, tag = "3")]
    pub cancel: bool,
}

/// Most moves of a rebalancing that are named in advance: the manager looks at every replica for each of them.
pub const MAX_SHIFTS: usize = 32;

/// Spreads replicas evenly over nodes and racks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Rebalance {
    /// Only say what would be moved.
    #[prost(bool, tag = "1")]
    pub dry_run: bool,
    /// Begin nothing more.
    #[prost(bool, tag = "2")]
    pub cancel: bool,
}

/// What an operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Oneof)]
pub enum Task {
    /// Empty a node or a target.
    #[prost(message, tag = "1")]
    Drain(Drain),
    /// Spread replicas evenly.
    #[prost(message, tag = "2")]
    Rebalance(Rebalance),
    /// Move one replica; to whichever target suits best if `joining` is 0.
    #[prost(message, tag = "3")]
    Move(ReplicaMove),
    /// Make the head of a chain its tail. Until it has caught up, the chain has a replica less.
    #[prost(uint32, tag = "4")]
    Rotate(ChainId),
    /// Give the move of a chain up, unless the new replica is there already.
    #[prost(uint32, tag = "5")]
    CancelMove(ChainId),
}

/// Asks the manager to change who holds what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct AdminRequest {
    /// What to do.
    #[prost(oneof = "Task", tags = "1, 2, 3, 4, 5")]
    pub task: Option<Task>,
}

/// The answer to [`AdminRequest`]: what was asked for is stored, and goes on by itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AdminReply {
    /// Set if refused; nothing was changed.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// What moves because of it, as far as it has begun; of a rebalancing: the first [`MAX_SHIFTS`] that will or would.
    #[prost(message, repeated, tag = "2")]
    pub moves: Vec<ReplicaMove>,
}
