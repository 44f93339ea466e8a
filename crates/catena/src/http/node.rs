//! What a node shows of itself.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use catena_node::{NodeObserver, NodeStatus, SERVED, ShardStatus, TargetStatus};
use catena_types::{LocalState, Time};
use serde_json::{Value, json};

use super::exposition::{Exposition, Labels, Type, Unit, counter_name};
use super::{Pages, View, process};

/// Powers of two at which times are cut into buckets: 16 microseconds to 17 seconds.
const TIMES: (u32, u32) = (14, 34);
/// The same for records per append.
const RECORDS: (u32, u32) = (1, 10);
/// The same for bytes per update.
const BYTES: (u32, u32) = (12, 26);

/// Empty until the node has registered.
#[derive(Clone, Default)]
pub(crate) struct NodePages(Arc<OnceLock<NodeObserver>>);

impl NodePages {
    /// The node has started.
    pub(crate) fn show(&self, observer: NodeObserver) {
        // It starts once per process.
        let _ = self.0.set(observer);
    }
}

impl Pages for NodePages {
    async fn look(&self) -> View {
        let Some(observer) = self.0.get() else {
            let mut e = Exposition::default();
            process::describe(&mut e);
            let fault = "starting: it opens its targets, and waits for a manager to register with".to_owned();
            return View { metrics: e.finish(), status: json!({ "fault": fault }), fault: Some(fault) };
        };
        let status = observer.status().await;
        let fault = status.fault();
        View { metrics: metrics(&status), status: to_json(&status, fault.as_deref()), fault }
    }
}

fn metrics(status: &NodeStatus) -> String {
    let mut e = Exposition::default();
    process::describe(&mut e);
    describe_node(&mut e, status);
    describe_shards(&mut e, status);
    describe_targets(&mut e, status);
    describe_counters(&mut e, status);
    describe_histograms(&mut e, status);
    e.finish()
}

fn lease_left(status: &NodeStatus) -> f64 {
    let (until, now): (Time, Time) = (status.heard.lease_until, status.now);
    until.saturating_sub(now) as f64 / 1e9
}

fn describe_node(e: &mut Exposition, status: &NodeStatus) {
    let labels: Labels<'_> = &[("node", &status.node)];
    let heard = &status.heard;
    let healthy = u8::from(status.fault().is_none());
    e.single("catena_node_healthy", Type::Gauge, "1 if /healthz answers 200.", labels, healthy);
    e.single("catena_node_incarnation", Type::Gauge, "Number of the present start.", labels, status.incarnation);
    e.single(
        "catena_node_lease_remaining_seconds",
        Type::Gauge,
        "Time until the lease ends; 0 if it has.",
        labels,
        lease_left(status),
    );
    e.metric("catena_node_heartbeats_total", Type::Counter, "Heartbeats sent, by outcome.");
    e.sample(&[("node", &status.node), ("outcome", &"answered")], heard.answered);
    e.sample(&[("node", &status.node), ("outcome", &"failed")], heard.failed);
    e.single("catena_node_silent_shards", Type::Gauge, "Shards that do not answer.", labels, status.silent.len());
}

/// A metric with one value per shard.
type OfShard = (&'static str, Type, &'static str, fn(&ShardStatus) -> u64);

fn describe_shards(e: &mut Exposition, status: &NodeStatus) {
    const OF_SHARD: [OfShard; 10] = [
        ("catena_shard_routing_version", Type::Gauge, "Version of the routing applied.", |s| s.routing),
        ("catena_shard_connections", Type::Gauge, "Connections open.", |s| s.connections as u64),
        ("catena_shard_turns_total", Type::Counter, "Turns of the loop.", |s| s.turns),
        ("catena_shard_frames_received_total", Type::Counter, "Frames received.", |s| s.frames),
        ("catena_shard_received_bytes_total", Type::Counter, "Bytes of frames received.", |s| s.received_bytes),
        ("catena_shard_sent_bytes_total", Type::Counter, "Bytes of frames sent.", |s| s.sent_bytes),
        ("catena_shard_busy_total", Type::Counter, "Requests refused because too much was in progress.", |s| s.busy),
        ("catena_shard_fenced_total", Type::Counter, "Frames dropped: replaced connection or wrong sender.", |s| s.fenced),
        ("catena_shard_updates_in_progress", Type::Gauge, "Client updates in progress.", |s| s.updates as u64),
        ("catena_shard_reads_in_progress", Type::Gauge, "Client reads in progress.", |s| s.reads as u64),
    ];
    for (name, kind, help, value) in OF_SHARD {
        e.metric(name, kind, help);
        for shard in &status.shards {
            e.sample(&[("node", &status.node), ("shard", &shard.shard)], value(shard));
        }
    }
    let help = "Time from the receipt of a client's request to its reply.";
    e.metric("catena_request_duration_seconds", Type::Histogram, help);
    for shard in &status.shards {
        for (op, h) in SERVED.iter().zip(&shard.served) {
            e.histogram(&[("node", &status.node), ("shard", &shard.shard), ("op", op)], h, Unit::Nanoseconds, TIMES);
        }
    }
}

/// A metric with one value per target.
type OfTarget = (&'static str, &'static str, fn(&TargetStatus) -> u64);

fn describe_targets(e: &mut Exposition, status: &NodeStatus) {
    const OF_TARGET: [OfTarget; 13] = [
        ("catena_target_chain", "The chain it is in; 0 if none.", |t| t.chain.into()),
        ("catena_target_serving", "1 if reads are served now.", |t| t.serving.into()),
        ("catena_target_failed", "1 if its disk has failed.", |t| u64::from(t.report.state == LocalState::Failed)),
        ("catena_target_chain_version", "Membership version it acts on.", |t| t.report.chain_ver),
        ("catena_target_open_count", "Times it was opened in this incarnation.", |t| t.open_count),
        ("catena_target_load", "Requests and messages in progress.", |t| t.load as u64),
        ("catena_target_scrub_running", "1 while a scrub pass is under way.", |t| t.store.map_or(0, |s| s.scrubbing.into())),
        ("catena_target_scrub_passes", "Scrub passes completed since it was made.", |t| t.store.map_or(0, |s| s.scrub_passes)),
        ("catena_target_scrub_verified_bytes", "Bytes verified in this or the last pass.", |t| {
            t.store.map_or(0, |s| s.scrub_bytes)
        }),
        ("catena_target_scrub_bad_chunks", "Damaged chunks found in this or the last pass.", |t| {
            t.store.map_or(0, |s| s.scrub_bad)
        }),
        ("catena_target_sync_compared_chunks", "As source of a resync: chunks compared.", |t| {
            t.report.sync.map_or(0, |s| s.chunks)
        }),
        ("catena_target_sync_expected_chunks", "As source of a resync: chunks to compare, about.", |t| {
            t.report.sync.map_or(0, |s| s.chunks_total)
        }),
        ("catena_target_sync_sent_bytes", "As source of a resync: bytes sent.", |t| t.report.sync.map_or(0, |s| s.bytes_sent)),
    ];
    for (name, help, value) in OF_TARGET {
        e.metric(name, Type::Gauge, help);
        for target in targets(status) {
            e.sample(&[("node", &status.node), ("target", &target.target)], value(target));
        }
    }
}

fn targets(status: &NodeStatus) -> impl Iterator<Item = &TargetStatus> {
    status.shards.iter().flat_map(|s| &s.targets)
}

/// Counters of the state machines and of the engines, and the engines' gauges.
fn describe_counters(e: &mut Exposition, status: &NodeStatus) {
    let all: Vec<_> = targets(status).map(|t| (t, t.replica.named(), t.engine.named())).collect();
    let Some((_, replica, engine)) = all.first() else { return };
    for (n, (name, _)) in replica.iter().enumerate() {
        e.metric(&counter_name("replica", name), Type::Counter, &help("Replica", name));
        for (target, values, _) in &all {
            e.sample(&[("node", &status.node), ("target", &target.target)], values[n].1);
        }
    }
    for (n, (name, _)) in engine.iter().enumerate() {
        // The only one that is a maximum.
        let (full, kind) = match *name {
            "largest_group" => ("catena_engine_largest_group".to_owned(), Type::Gauge),
            name => (counter_name("engine", name), Type::Counter),
        };
        e.metric(&full, kind, &help("Engine", name));
        for (target, _, values) in &all {
            e.sample(&[("node", &status.node), ("target", &target.target)], values[n].1);
        }
    }
    let mut names: Vec<&str> = all.iter().flat_map(|(t, ..)| t.gauges.iter().map(|(name, _)| *name)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        e.metric(&format!("catena_engine_{name}"), Type::Gauge, &help("Engine now", name));
        for (target, ..) in &all {
            for (_, value) in target.gauges.iter().filter(|(gauge, _)| *gauge == name) {
                e.sample(&[("node", &status.node), ("target", &target.target)], value);
            }
        }
    }
}

fn help(part: &str, name: &str) -> String {
    format!("{part}: {}, of one target since it was opened.", name.replace('_', " "))
}

/// A distribution of the engine: its name there, the name and help it gets here, its unit, its buckets.
type OfEngine = (&'static str, &'static str, &'static str, Unit, (u32, u32));

fn describe_histograms(e: &mut Exposition, status: &NodeStatus) {
    const SHOWN: [OfEngine; 5] = [
        (
            "stage_nanoseconds",
            "catena_engine_stage_duration_seconds",
            "Time to stage an update durably.",
            Unit::Nanoseconds,
            TIMES,
        ),
        ("read_nanoseconds", "catena_engine_read_duration_seconds", "Time to read from a store.", Unit::Nanoseconds, TIMES),
        ("flush_nanoseconds", "catena_engine_flush_duration_seconds", "Time of a flush.", Unit::Nanoseconds, TIMES),
        ("append_records", "catena_engine_append_size_records", "Records per journal append.", Unit::Plain, RECORDS),
        ("update_bytes", "catena_engine_update_size_bytes", "Data written per update.", Unit::Plain, BYTES),
    ];
    for (of, name, help, unit, range) in SHOWN {
        e.metric(name, Type::Histogram, help);
        for target in targets(status) {
            for (_, h) in target.histograms.iter().filter(|(known, _)| *known == of) {
                e.histogram(&[("node", &status.node), ("target", &target.target)], h, unit, range);
            }
        }
    }
}

fn to_json(status: &NodeStatus, fault: Option<&str>) -> Value {
    let heard = &status.heard;
    json!({
        "node": status.node,
        "cluster": format!("{:016x}", status.cluster),
        "incarnation": status.incarnation,
        "fault": fault,
        "lease_remaining_seconds": lease_left(status),
        "manager": heard.manager,
        "heartbeat_error": heard.error,
        "silent_shards": status.silent,
        "shards": status.shards.iter().map(shard_json).collect::<Vec<_>>(),
    })
}

fn shard_json(shard: &ShardStatus) -> Value {
    json!({
        "shard": shard.shard,
        "addr": shard.addr,
        "routing": shard.routing,
        "connections": shard.connections,
        "targets": shard.targets.iter().map(target_json).collect::<Vec<_>>(),
    })
}

fn target_json(target: &TargetStatus) -> Value {
    let word = |state: &dyn Display| state.to_string().to_lowercase();
    json!({
        "target": target.target,
        "chain": target.chain,
        "chain_version": target.report.chain_ver,
        "state": word(&format!("{:?}", target.report.state)),
        "failed": target.report.failed,
        "serving": target.serving,
        "total_bytes": target.space.total,
        "used_bytes": target.space.used,
        "chunks": target.space.chunks,
        "sync": target.report.sync.as_ref().map(crate::cmd::sync_json),
    })
}
