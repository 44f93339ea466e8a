//! Replicas that the rest of the cluster has left behind, with clients that can reach nobody else: cut off with them, or
//! asking while it stands still. After its lease such a replica answers nothing, whatever it believes of itself.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Net, PATIENCE};
use crate::workload::{Plan, progress};
use crate::{block_on, fault_time, finish, load_of, replicas, rounds};
use rustix::process::Signal;

/// So many that most are at rest when the fault comes: a replica with an update in flight would not answer anyway.
const CHUNKS: u64 = 100;

/// The longest lease of this cluster, what clocks may drift meanwhile, and a second.
const SURELY_ENDED: Duration = Duration::from_millis(1500 + 150 + 1000);

/// Clients beside others; they give up soon, or wait for whoever stands still.
fn plan(deadline: Duration) -> Plan {
    Plan { clients: 4, chunks: CHUNKS, chunk_size: 64 << 10, deadline }
}

/// Cuts the replica at `place` of the chain off from everybody, with clients beside it.
fn cut_off(places: &[usize]) {
    let Some(net) = Net::start(1, 3, &[]) else { return };
    let cluster = Cluster::in_net(net, None, 3, 1, 3);
    block_on(async {
        let load = load_of(&cluster, CHUNKS).await;
        for place in (0..rounds()).flat_map(|_| places) {
            progress(&load, &cluster).await;
            let (target, node) = replicas(&cluster).await[*place];
            let name = format!("node{node}");
            let door = cluster.net().door(&name);
            let beside = load.beside(door, &cluster.manager, plan(Duration::from_secs(1)), target).await;
            let begin = Instant::now();
            until("clients beside the replica are answered", || beside.answered_since(begin) > 50).await;

            cluster.net().isolate(&name);
            let cut = Instant::now();
            tokio::time::sleep(SURELY_ENDED).await;
            let ended = Instant::now();
            let failed = beside.failed();
            progress(&load, &cluster).await;
            tokio::time::sleep(fault_time()).await;
            let (answered, failed) = (beside.answered_since(ended), beside.failed() - failed);
            let last = (answered > 0).then(|| cut.elapsed());
            assert_eq!(answered, 0, "{name}, place {place}, answered {last:?} after it was cut off\n{}", cluster.logs());
            assert!(failed > 0, "nobody asked {name}");
            cluster.net().heal();
            let healed = Instant::now();
            cluster.wait_healthy();
            until("clients beside the replica are answered again", || beside.answered_since(healed) > 50).await;
            eprintln!("{name}, place {place}: {failed} operations failed after its lease, none was answered");
            beside.finish();
        }
        finish(load, &cluster).await;
    });
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_stale_head_answers_nobody_beside_it() {
    cut_off(&[0]);
}

#[test]
fn stale_replicas_answer_nobody_beside_them() {
    cut_off(&[1, 2]);
}

/// SIGSTOP of head, middle and tail for longer than a lease, while requests pile up that it reads when it goes on.
#[test]
fn a_node_that_stood_still_answers_nothing_old() {
    let cluster = Cluster::start(3, 1, 3);
    block_on(async {
        let load = load_of(&cluster, CHUNKS).await;
        for place in (0..rounds()).flat_map(|_| 0..3) {
            progress(&load, &cluster).await;
            let (target, node) = replicas(&cluster).await[place];
            let beside = load.beside(|| (), &cluster.manager, plan(PATIENCE), target).await;
            let begin = Instant::now();
            until("clients are answered", || beside.answered_since(begin) > 50).await;
            cluster.signal_node(node - 1, Signal::STOP);
            tokio::time::sleep(SURELY_ENDED.max(fault_time())).await;
            progress(&load, &cluster).await;
            cluster.signal_node(node - 1, Signal::CONT);
            let resumed = Instant::now();
            progress(&load, &cluster).await;
            cluster.wait_healthy();
            until("clients are answered again", || beside.answered_since(resumed) > 50).await;
            beside.finish();
        }
        finish(load, &cluster).await;
    });
}
