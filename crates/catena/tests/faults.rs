//! Real processes under faults: networks that lose one way or both, members that hang, stop and lose their power, disks that
//! are full or slow. Clients work all the time, and what they heard must be linearizable.
//!
//! Short by default; `CATENA_TEST_SECONDS=20` lets each fault last longer, `CATENA_TEST_ROUNDS=5` repeats them. Networks and
//! disks need root: without, their tests say so and pass.

#[path = "faults/disks.rs"]
mod bad_disks;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/cluster.rs"]
mod cluster;
#[path = "real/disks.rs"]
mod disks;
#[path = "faults/managers.rs"]
mod managers;
#[path = "faults/partitions.rs"]
mod partitions;
#[path = "faults/restarts.rs"]
mod restarts;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../manager/tests/etcd/server.rs"]
mod server;
#[path = "faults/stale.rs"]
mod stale;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/workload.rs"]
mod workload;

use std::time::Duration;

use catena_client::{Client, ClientConfig};
use catena_types::TargetId;
use cluster::{Cluster, PATIENCE};
use workload::{Plan, Workload, same_at_every_replica};

/// Chunks that a load works on, unless it says otherwise: few, so that clients meet.
const CHUNKS: u64 = 6;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// How long a fault lasts, if longer than what it takes to be noticed.
fn fault_time() -> Duration {
    Duration::from_millis(2500).max(Duration::from_secs(number("CATENA_TEST_SECONDS", 0)))
}

fn rounds() -> u64 {
    number("CATENA_TEST_ROUNDS", 1)
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

async fn load(cluster: &Cluster) -> Workload {
    load_of(cluster, CHUNKS).await
}

async fn load_of(cluster: &Cluster, chunks: u64) -> Workload {
    let plan = Plan { clients: 8, chunks, chunk_size: 64 << 10, deadline: PATIENCE };
    Workload::start(&cluster.manager, plan).await
}

/// The replicas of the first chain that serve, head first, each with the number of its node.
async fn replicas(cluster: &Cluster) -> Vec<(TargetId, usize)> {
    let client = Client::connect(ClientConfig::new(&cluster.manager)).await.expect("the manager answers");
    let routing = client.routing();
    let node = |id| routing.targets.iter().find(|t| t.id == id).expect("a member's target is known").node;
    routing.chains[0].serving().map(|id| (id, node(id) as usize)).collect()
}

/// Every chain becomes whole by itself; no operation has failed; what was heard is linearizable, and all replicas hold the same.
async fn finish(load: Workload, cluster: &Cluster) {
    finish_with(load, cluster, |_| false).await;
}

/// The same; operations may have failed with errors that are `expected`.
async fn finish_with(load: Workload, cluster: &Cluster, expected: impl Fn(&str) -> bool) {
    cluster.wait_healthy();
    let (history, errors) = load.finish().await;
    let stats = history.check().unwrap_or_else(|v| panic!("{v}"));
    let unexpected: Vec<_> = errors.iter().filter(|e| !expected(e)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}\n{}", cluster.logs());
    eprintln!("{stats:?}, {} errors that were expected", errors.len());
    (0..CHUNKS).for_each(|chunk| same_at_every_replica(cluster, &format!("shared/{chunk}")));
}
