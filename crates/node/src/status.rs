//! What a node says about itself, for tests and tools.

use catena_chain::{Counters, Report};
use catena_engine::Stats;
use catena_types::{ChainId, Incarnation, NodeId, Space, TargetId};

/// A node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: u64,
    /// Its present start.
    pub incarnation: Incarnation,
    /// By number; a shard that does not answer is missing.
    pub shards: Vec<ShardStatus>,
}

/// A shard.
#[derive(Clone, Debug, Default)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u32,
    /// Where it listens.
    pub addr: String,
    /// Version of its routing; 0 if it has none.
    pub routing: u64,
    /// Connections open.
    pub connections: usize,
    /// Turns taken.
    pub turns: u64,
    /// Frames received.
    pub frames: u64,
    /// Requests refused with `Busy`.
    pub busy: u64,
    /// Frames dropped because their connection had been replaced, or their sender is not who it says.
    pub fenced: u64,
    /// Its targets.
    pub targets: Vec<TargetStatus>,
}

/// A target.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// The target.
    pub target: TargetId,
    /// Its chain; 0 if none.
    pub chain: ChainId,
    /// Times it was opened in this incarnation.
    pub open_count: u64,
    /// What its heartbeat says.
    pub report: Report,
    /// Whether reads would be served now.
    pub serving: bool,
    /// Requests and messages in progress.
    pub load: usize,
    /// Space now.
    pub space: Space,
    /// Of the state machine.
    pub replica: Counters,
    /// Of the engine.
    pub engine: Stats,
}
