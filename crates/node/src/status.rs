//! What a node says about itself, for tests and tools.

use bytes::Bytes;
use catena_chain::{Counters, Replica, Report};
use catena_engine::target_dir::FileStore;
use catena_engine::{Histogram, Stats};
use catena_types::store::StoreReport;
use catena_types::{ChainId, ChunkStore, Incarnation, LocalState, NodeId, Space, TargetId, Time};
use catena_wire::client::{HistogramSummary, Metric, TargetReply};

/// What came of the last heartbeats.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Heartbeats answered.
    pub answered: u64,
    /// Heartbeats that were refused, or not answered.
    pub failed: u64,
    /// End of the newest lease, by the clock of [`NodeStatus::now`]; 0: none was granted yet.
    pub lease_until: Time,
    /// The manager that granted it.
    pub manager: String,
    /// Why there was no answer to the last heartbeat; empty if there was one.
    pub error: String,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: u64,
    /// Its present start.
    pub incarnation: Incarnation,
    /// Clock of the node when it was asked, in nanoseconds.
    pub now: Time,
    /// What managers said last.
    pub heard: Heard,
    /// By number; a shard that does not answer is missing.
    pub shards: Vec<ShardStatus>,
    /// Those that are missing.
    pub silent: Vec<u32>,
}

impl NodeStatus {
    /// Why this node cannot serve everything it should; `None` if it can.
    pub fn fault(&self) -> Option<String> {
        if let Some(shard) = self.silent.first() {
            return Some(format!("shard {shard} does not answer: its disk may hang; look at the log and at dmesg"));
        }
        if self.heard.lease_until <= self.now {
            let because = if self.heard.error.is_empty() { "no heartbeat was answered yet" } else { &self.heard.error };
            let since = match self.heard.lease_until {
                0 => String::new(),
                until => format!(" for {} s", (self.now - until) / 1_000_000_000),
            };
            return Some(format!("no lease{since}, so that nothing is served: {because}"));
        }
        let failed = self.shards.iter().flat_map(|s| &s.targets).find(|t| t.report.state == LocalState::Failed)?;
        Some(format!("target {} has failed: {}; replace the disk or restart the node", failed.target, failed.report.failed))
    }
}

/// Requests of clients that a shard keeps count of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Updates.
    Update,
    /// Reads.
    Read,
    /// Listings.
    List,
}

/// Names of [`Served`], in order.
pub const SERVED: [&str; 3] = ["update", "read", "list"];

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
    /// Bytes of frames received.
    pub received_bytes: u64,
    /// Bytes of frames sent, or queued to be sent.
    pub sent_bytes: u64,
    /// From the receipt of a client's request to its reply, in nanoseconds, in the order of [`SERVED`].
    pub served: [Histogram; 3],
    /// Client updates in progress.
    pub updates: usize,
    /// Client reads in progress.
    pub reads: usize,
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
    /// How the engine stands, by name; empty if it is not open.
    pub gauges: Vec<(&'static str, u64)>,
    /// What a heartbeat says of the store; absent if it is not open.
    pub store: Option<StoreReport>,
    /// Distributions of the engine by name; empty if it is not open.
    pub histograms: Vec<(&'static str, Histogram)>,
}

/// What a heartbeat says of a store.
pub(crate) fn store_report(store: &FileStore) -> StoreReport {
    let (params, stats, scrub) = (store.params(), store.stats(), store.scrub_status());
    StoreReport {
        kind: params.kind as i32,
        durability: params.durability as i32,
        damaged: stats.damaged,
        read_errors: stats.read_errors,
        scrubbing: scrub.running,
        scrub_passes: scrub.passes,
        scrub_bytes: scrub.bytes,
        scrub_bad: scrub.bad,
    }
}

/// Everything that is to be known of a target.
pub(crate) fn describe(store: &FileStore, replica: &Replica<Bytes>) -> TargetReply {
    let of_store = store.stats().named().into_iter().chain(store.gauges()).map(|(name, value)| (name.to_owned(), value));
    let of_replica = replica.counters().named().into_iter().map(|(name, value)| (format!("replica_{name}"), value));
    TargetReply {
        failure: None,
        store: Some(store_report(store)),
        space: Some(store.space()),
        sync: replica.report().sync,
        values: of_store.chain(of_replica).map(|(name, value)| Metric { name, value }).collect(),
        histograms: histograms(store).iter().map(|(name, h)| summary(name, h)).collect(),
    }
}

/// Distributions of a store by name; the last word is the unit.
pub(crate) fn histograms(store: &FileStore) -> [(&'static str, &Histogram); 5] {
    let metrics = store.metrics();
    [
        ("stage_nanoseconds", &metrics.stage),
        ("read_nanoseconds", &metrics.read),
        ("flush_nanoseconds", &metrics.flush),
        ("append_records", &metrics.records),
        ("update_bytes", &metrics.update_bytes),
    ]
}

fn summary(name: &str, h: &Histogram) -> HistogramSummary {
    HistogramSummary {
        name: name.to_owned(),
        count: h.count(),
        sum: h.sum(),
        most: h.most(),
        p50: h.quantile(0.5),
        p99: h.quantile(0.99),
        p999: h.quantile(0.999),
    }
}
