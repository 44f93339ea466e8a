//! What the manager must not forget, and its settings.
//!
//! Everything here survives a restart; what heartbeats say does not, except what a place in a chain rests on. What
//! must hold: ids, incarnations and versions only grow; a target's row names the chain that has it as a member, and no
//! other chain has; a chain has at most one move.

use std::collections::BTreeMap;

use catena_types::{Chain, ChainId, Incarnation, NodeId, NodeInfo, Routing, ShardId, TargetId, TargetInfo, Time};
use catena_wire::manager::MoveReason;

/// Periods and limits of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Length of a lease, as granted.
    pub lease_ms: u32,
    /// Time between heartbeats of a node.
    pub heartbeat_ms: u32,
    /// Added to a lease before it has surely ended: bounds how far clocks drift apart within one lease.
    pub margin_ms: u32,
    /// A target that is out for longer is replaced by another one.
    pub replace_after_ms: u64,
    /// Most replicas that move at a time, in the whole cluster.
    pub max_moves: u32,
}

/// Time after which a target that is out is replaced, in milliseconds.
pub const REPLACE_AFTER_MS: u64 = 600_000;
/// Most replicas that move at a time.
pub const MAX_MOVES: u32 = 4;

impl Settings {
    /// Settings with a margin of a tenth of the lease, at least 10 ms.
    pub fn new(lease_ms: u32, heartbeat_ms: u32) -> Settings {
        let margin_ms = (lease_ms / 10).max(10);
        Settings { lease_ms, heartbeat_ms, margin_ms, replace_after_ms: REPLACE_AFTER_MS, max_moves: MAX_MOVES }
    }

    /// Nanoseconds after which a lease granted now has surely ended.
    pub fn surely_ended(&self) -> Time {
        let margin = if crate::mutation::is(crate::mutation::Mutation::NoMargin) { 0 } else { self.margin_ms };
        (Time::from(self.lease_ms) + Time::from(margin)) * 1_000_000
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new(1500, 300)
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its present start.
    pub incarnation: Incarnation,
    /// Number the present process drew: a repeated registration gets the same answer.
    pub process: u64,
    /// `host:port` of each shard, in order.
    pub shard_addrs: Vec<String>,
    /// As published: heard of within a lease.
    pub alive: bool,
    /// What it shares with others that may fail together with it; empty: nothing.
    pub rack: String,
    /// It is being emptied: replicas move away from it, and none comes.
    pub draining: bool,
}

/// One opening of a target: what its memory, and so its place in a chain, rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Start of the node.
    pub incarnation: Incarnation,
    /// Open count within that start; `None` until the first report.
    pub count: Option<u64>,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRow {
    /// The node it is on, for good.
    pub node: NodeId,
    /// The shard that owns it.
    pub shard: ShardId,
    /// 16 bytes from its superblock.
    pub uuid: Vec<u8>,
    /// The chain it belongs to; 0 if none.
    pub chain: ChainId,
    /// Start of the node in which it was last offered.
    pub offered: Incarnation,
    /// The lock that was shown for it then; 0: not known.
    pub lock: u64,
    /// The opening in which it became SERVING, SYNCING or chosen.
    pub opened: Opening,
    /// Start of the node in which it got its id.
    pub born: Incarnation,
    /// It is being emptied.
    pub draining: bool,
}

/// A replica on its way from one target to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The member that goes once the chain is full without it.
    pub leaving: TargetId,
    /// The member that takes its place. The same one: it only gives up its place in the order.
    pub joining: TargetId,
    /// Why.
    pub reason: MoveReason,
}

/// Everything that survives a restart of the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The cluster, drawn at random when it was made.
    pub cluster: u64,
    /// Version of the routing.
    pub version: u64,
    /// Incarnation given next.
    pub next_incarnation: Incarnation,
    /// Target id given next.
    pub next_target: TargetId,
    /// Replicas per chain; 0 before the chain table is made.
    pub replicas: u32,
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, NodeRow>,
    /// Targets by id.
    pub targets: BTreeMap<TargetId, TargetRow>,
    /// Chains by id.
    pub chains: BTreeMap<ChainId, Chain>,
    /// The chain table.
    pub table: Vec<ChainId>,
    /// Longest lease in milliseconds that may still run: leases outlive the settings of the manager that granted them.
    pub lease_ms: u32,
    /// Replicas that move, by chain.
    pub moves: BTreeMap<ChainId, Move>,
    /// Replicas are being spread evenly.
    pub rebalancing: bool,
}

impl State {
    /// A cluster without nodes.
    pub fn new(cluster: u64) -> State {
        State {
            cluster,
            version: 1,
            next_incarnation: 1,
            next_target: 1,
            replicas: 0,
            nodes: BTreeMap::new(),
            targets: BTreeMap::new(),
            chains: BTreeMap::new(),
            table: Vec::new(),
            lease_ms: 0,
            moves: BTreeMap::new(),
            rebalancing: false,
        }
    }

    /// The part of it that everybody may know.
    pub fn routing(&self) -> Routing {
        let node = |(&id, n): (&NodeId, &NodeRow)| NodeInfo {
            id,
            incarnation: n.incarnation,
            shard_addrs: n.shard_addrs.clone(),
            alive: n.alive,
            rack: n.rack.clone(),
        };
        let target = |(&id, t): (&TargetId, &TargetRow)| TargetInfo {
            id,
            node: t.node,
            shard: t.shard,
            uuid: t.uuid.clone(),
            chain: t.chain,
        };
        Routing {
            version: self.version,
            cluster: self.cluster,
            nodes: self.nodes.iter().map(node).collect(),
            targets: self.targets.iter().map(target).collect(),
            chains: self.chains.values().cloned().collect(),
            table: self.table.clone(),
        }
    }

    /// Targets that the present start of a node has offered.
    pub fn offered_by(&self, node: NodeId) -> impl Iterator<Item = (TargetId, &TargetRow)> {
        let incarnation = self.nodes.get(&node).map(|n| n.incarnation);
        self.targets.iter().filter(move |(_, t)| t.node == node && Some(t.offered) == incarnation).map(|(&id, t)| (id, t))
    }
}
