//! One node's disk is not as good as those of the others: its file system is full before the target is, or it is slow.

use std::os::unix::fs::symlink;
use std::time::Instant;

use bytes::Bytes;
use catena_client::{Client, ClientConfig, ErrorKind, ReadOptions, UpdateOptions};

use crate::cluster::{Cluster, PATIENCE};
use crate::disks::{SlowDisk, SmallDisk};
use crate::workload::{Random, progress};
use crate::{block_on, fault_time, finish_with, load};

/// Length of what fills the disk.
const LEN: usize = 1 << 20;

fn content(n: usize) -> Bytes {
    Random(n as u64).bytes(LEN).into()
}

fn key(n: usize) -> String {
    format!("full/{n}")
}

async fn client(cluster: &Cluster) -> Client {
    let config = ClientConfig { deadline: PATIENCE, memory: 64 << 20, ..ClientConfig::new(&cluster.manager) };
    Client::connect(config).await.expect("the manager answers")
}

/// Writes chunk after chunk until one is refused for want of space; at most so many. How many there are.
async fn fill(client: &Client, from: usize, most: usize) -> usize {
    for n in from..most {
        match client.write(key(n), 0, content(n), &UpdateOptions::default()).await {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NoSpace => return n,
            Err(e) => panic!("chunk {n}: {e}"),
        }
    }
    most
}

async fn check(client: &Client, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let read = client.read(key(n), 0, LEN as u32, &ReadOptions::default()).await;
        let read = read.unwrap_or_else(|e| panic!("chunk {n}: {e}"));
        assert!(read.data == content(n), "chunk {n} is another one");
    }
}

/// What is known of every chain: its version, and the state of its members.
fn chains(cluster: &Cluster) -> String {
    let chains: serde_json::Value = serde_json::from_str(&cluster.ok(&["admin", "chains", "--json"])).expect("JSON");
    chains["chains"].to_string()
}

/// The file system below one node's target is full long before the target: writes are refused, and that is all. Nothing
/// acknowledged is lost, everything is read on, and writes go on when chunks are removed, or when the file system grows.
#[test]
fn a_full_file_system_refuses_writes_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(160) else { return };
    let cluster = Cluster::with_services(3, &[], &[], |dir| {
        symlink(disk.path(), dir.join("node3")).expect("a link");
        Vec::new()
    });
    block_on(async {
        let load = load(&cluster).await;
        let client = client(&cluster).await;
        progress(&load, &cluster).await;
        let before = chains(&cluster);
        let filled = fill(&client, 0, 200).await;
        eprintln!("{filled} chunks of {LEN} bytes were written");
        assert!(filled < 160, "there was no room for so much");
        cluster.eventually("people are told", |c| c.ok(&["status"]).contains("full: writes are refused"));
        check(&client, 0..filled).await;

        for n in 0..10 {
            client.remove(key(n), &UpdateOptions::default()).await.expect("a remove needs no room");
        }
        let start = Instant::now();
        while fill(&client, filled, filled + 1).await == filled {
            assert!(start.elapsed() < PATIENCE, "no room after removing\n{}", cluster.logs());
        }
        check(&client, 10..filled + 1).await;
        assert_eq!(chains(&cluster), before, "no chain has changed\n{}", cluster.logs());

        disk.resize(1024);
        let mut more = filled + 1;
        while more < filled + 30 {
            assert!(start.elapsed() < PATIENCE, "no room after growing\n{}", cluster.logs());
            more = fill(&client, more, filled + 30).await;
        }
        check(&client, 10..more).await;
        progress(&load, &cluster).await;
        assert_eq!(chains(&cluster), before, "no chain has changed\n{}", cluster.logs());
        finish_with(load, &cluster, |error| error.contains("space")).await;
    });
}

/// One node writes slowly: all go on at its pace, nobody takes it for dead.
#[test]
fn a_slow_disk_slows_writes_and_nothing_else() {
    let cluster = Cluster::start(3, 1, 3);
    block_on(async {
        let load = load(&cluster).await;
        progress(&load, &cluster).await;
        let before = chains(&cluster);
        let Some(slow) = SlowDisk::throttle(cluster.node_process(1), cluster.dir(), 20) else { return };
        let (start, done) = (Instant::now(), load.done());
        progress(&load, &cluster).await;
        tokio::time::sleep(fault_time()).await;
        eprintln!("{:.0} operations per second", (load.done() - done) as f64 / start.elapsed().as_secs_f64());
        drop(slow);
        progress(&load, &cluster).await;
        assert_eq!(chains(&cluster), before, "no chain has changed\n{}", cluster.logs());
        finish_with(load, &cluster, |_| false).await;
    });
}
