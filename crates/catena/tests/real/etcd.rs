//! Three managers on etcd as real processes: the elected one killed and paused under load, etcd lost. Needs the `etcd`
//! command (Debian: etcd-server).
//!
//! Short by default; `CATENA_TEST_ROUNDS=20` kills more managers.

#[path = "../../../manager/tests/etcd/server.rs"]
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use catena_client::{Client, ClientConfig};
use catena_wire::manager::StatusReply;
use rustix::process::Signal;

use crate::cluster::{Cluster, PATIENCE};
use crate::workload::{Plan, Workload, progress};
use server::Etcd;

fn etcd() -> Etcd {
    Etcd::start(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn rounds() -> usize {
    std::env::var("CATENA_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

async fn load(cluster: &Cluster) -> Workload {
    Workload::start(&cluster.manager, Plan { clients: 4, chunks: 4, chunk_size: 16 << 10, deadline: PATIENCE }).await
}

/// What the elected manager says, once there is one that `wanted` agrees to.
async fn status(cluster: &Cluster, what: &str, wanted: impl Fn(&StatusReply) -> bool) -> StatusReply {
    let client = Client::connect(ClientConfig::new(&cluster.manager)).await.expect("a manager answers");
    let start = Instant::now();
    loop {
        match client.status().await {
            Ok(status) if wanted(&status) => return status,
            other => assert!(start.elapsed() < PATIENCE, "never: {what}: {other:?}\n{}", cluster.logs()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Number of the elected manager, another one than `before`.
async fn elected(cluster: &Cluster, before: Option<usize>) -> usize {
    let number = |s: &StatusReply| cluster.manager_at(&s.primary);
    let status = status(cluster, "another manager is elected", |s| number(s).is_some() && number(s) != before).await;
    number(&status).expect("it was looked for")
}

/// No operation of a client fails, whatever becomes of managers.
async fn finish(load: Workload) {
    let (history, errors) = load.finish().await;
    assert!(errors.is_empty(), "{errors:?}");
    history.check().unwrap_or_else(|v| panic!("{v}"));
}

#[test]
fn the_elected_manager_is_killed_again_and_again() {
    let etcd = etcd();
    let mut cluster = Cluster::on_etcd(&etcd.addr, 3, 1, 3);
    block_on(async {
        let load = load(&cluster).await;
        for _ in 0..rounds() {
            let first = elected(&cluster, None).await;
            cluster.kill_manager_number(first);
            progress(&load, &cluster).await;
            elected(&cluster, Some(first)).await;
            cluster.start_manager_number(first);
            progress(&load, &cluster).await;
        }
        cluster.wait_healthy();
        finish(load).await;
    });
}

#[test]
fn a_paused_manager_finds_itself_replaced_and_changes_nothing() {
    let etcd = etcd();
    let mut cluster = Cluster::on_etcd(&etcd.addr, 3, 1, 3);
    block_on(async {
        let load = load(&cluster).await;
        let first = elected(&cluster, None).await;
        // What it decides just before the pause, it may want to write after it.
        cluster.kill_node(2);
        cluster.signal_manager(first, Signal::STOP);
        let second = elected(&cluster, Some(first)).await;
        progress(&load, &cluster).await;
        let degraded = |s: &StatusReply| s.routing.chains.iter().all(|c| c.serving().count() == 2);
        let before = status(&cluster, "the second removes the dead node", degraded).await;
        cluster.signal_manager(first, Signal::CONT);
        progress(&load, &cluster).await;
        cluster.start_node(2);
        cluster.wait_healthy();
        let after = status(&cluster, "the second goes on", |s| cluster.manager_at(&s.primary) == Some(second)).await;
        assert!(after.routing.version > before.routing.version, "routing went back");
        finish(load).await;
    });
}

/// etcd hangs: membership is frozen at once, IO ends a lease later; everything goes on when etcd does.
#[test]
fn etcd_is_lost_and_found() {
    let etcd = etcd();
    let mut cluster = Cluster::on_etcd(&etcd.addr, 3, 1, 3);
    block_on(async {
        let load = load(&cluster).await;
        let before = status(&cluster, "any", |_| true).await;
        etcd.pause();
        let lost = Instant::now();
        cluster.kill_node(2);
        // Longer than every lease: nobody serves any more, nobody is removed.
        tokio::time::sleep(Duration::from_secs(9)).await;
        let done = load.done();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(load.done(), done, "something was served {:?} after etcd was lost", lost.elapsed());
        etcd.resume();
        progress(&load, &cluster).await;
        let after = status(&cluster, "the dead node is removed", |s| s.routing.chains[0].serving().count() == 2).await;
        assert!(after.routing.version > before.routing.version);
        cluster.start_node(2);
        cluster.wait_healthy();
        finish(load).await;
    });
}
