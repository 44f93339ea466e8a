//! Three managers on an etcd: the elected one is cut off from it, one way and both ways. Needs the `etcd` command (Debian:
//! etcd-server).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use catena_client::{Client, ClientConfig};

use crate::cluster::{Cluster, Net, PATIENCE};
use crate::server::Etcd;
use crate::workload::progress;
use crate::{block_on, fault_time, finish, load, rounds};

/// Every manager shows its counters here.
const HTTP: &[&str] = &["--http", "0.0.0.0:7401"];

/// A name for people, and what is lost of a manager.
type Cut = (&'static str, fn(&Net, &str));

/// A number that a manager shows of itself, summed over labels.
fn shown(cluster: &Cluster, manager: usize, name: &str) -> f64 {
    let host = cluster.net().addr(&format!("manager{manager}"));
    let mut stream = TcpStream::connect((host.as_str(), 7401)).expect("it listens");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in UTF-8");
    let samples = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let values: Vec<f64> = samples.filter_map(|line| line.rsplit(' ').next()?.trim().parse().ok()).collect();
    assert!(!values.is_empty(), "no {name}: {text}");
    values.iter().sum()
}

/// Number of the elected manager, another one than `before`.
async fn elected(cluster: &Cluster, before: Option<usize>) -> usize {
    let client = Client::connect(ClientConfig::new(&cluster.manager)).await.expect("a manager answers");
    let start = Instant::now();
    loop {
        let status = client.status().await;
        let number = status.as_ref().ok().and_then(|s| cluster.manager_at(&s.primary));
        if let Some(number) = number.filter(|n| Some(*n) != before) {
            return number;
        }
        assert!(start.elapsed() < PATIENCE, "nobody else is elected: {status:?}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Another one is elected, the one cut off answers nobody any more though everybody else reaches it, and clients notice nothing.
#[test]
fn an_elected_manager_cut_off_from_its_store_is_replaced() {
    let Some(net) = Net::start(3, 3, &["etcd"]) else { return };
    let etcd = Etcd::start_at(Path::new(env!("CARGO_TARGET_TMPDIR")), &net.addr("etcd"), &net.launcher("etcd"));
    let cluster = Cluster::in_net_with(net, Some(&etcd.addr), (3, 1, 3), HTTP);
    let cuts: [Cut; 3] = [
        ("both ways", |net, manager| net.cut(manager, "etcd")),
        ("it does not reach it", |net, manager| net.lose(manager, "etcd")),
        ("it does not hear it", |net, manager| net.lose("etcd", manager)),
    ];
    block_on(async {
        let load = load(&cluster).await;
        for (how, cut) in (0..rounds()).flat_map(|_| cuts) {
            progress(&load, &cluster).await;
            let first = elected(&cluster, None).await;
            cut(cluster.net(), &format!("manager{first}"));
            let start = Instant::now();
            let second = elected(&cluster, Some(first)).await;
            eprintln!("{how}: manager{second} instead of manager{first} after {:.1?}", start.elapsed());
            cluster.eventually("it knows that it is not elected", |c| shown(c, first, "catena_manager_elected") == 0.0);
            let answered = shown(&cluster, first, "catena_manager_requests_total");
            progress(&load, &cluster).await;
            tokio::time::sleep(fault_time()).await;
            assert_eq!(shown(&cluster, first, "catena_manager_requests_total"), answered, "manager{first} answers");
            assert_eq!(elected(&cluster, None).await, second);
            cluster.net().heal();
            progress(&load, &cluster).await;
            cluster.wait_healthy();
        }
        finish(load, &cluster).await;
    });
}
