//! What a node says about itself, for tests and tools.

use bytes::Bytes;
use catena_chain::{Counters, Replica, Report};
use catena_engine::target_dir::FileStore;
use catena_engine::{Histogram, Stats};
use catena_types::store::StoreReport;
use catena_types::{ChainId, ChunkStore, Incarnation, NodeId, Space, TargetId};
use catena_wire::client::{HistogramSummary, Metric, TargetReply};

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
    let metrics = store.metrics();
    let of_store = store.stats().named().into_iter().chain(store.gauges()).map(|(name, value)| (name.to_owned(), value));
    let of_replica = replica.counters().named().into_iter().map(|(name, value)| (format!("replica_{name}"), value));
    let histograms = [
        ("stage_nanoseconds", &metrics.stage),
        ("read_nanoseconds", &metrics.read),
        ("flush_nanoseconds", &metrics.flush),
        ("append_records", &metrics.records),
        ("update_bytes", &metrics.update_bytes),
    ];
    TargetReply {
        failure: None,
        store: Some(store_report(store)),
        space: Some(store.space()),
        sync: replica.report().sync,
        values: of_store.chain(of_replica).map(|(name, value)| Metric { name, value }).collect(),
        histograms: histograms.iter().map(|(name, h)| summary(name, h)).collect(),
    }
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
