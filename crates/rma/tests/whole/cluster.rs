//! Clusters of one node whose clients have the transport, lack it, or see it fail: the data is right in every case.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use catena_client::{Client, ClientConfig, ReadOptions, UpdateOptions};
use catena_manager::{Manager, ManagerConfig, ManagerHandle, StoreChoice};
use catena_net::OneSided;
use catena_node::{Node, NodeConfig, NodeHandle};
use catena_rma::Transport;
use tempfile::TempDir;

use crate::support::{LOOPBACK, Process, pattern, providers_that_outlive_peers, told, watched};

const CHUNK: u32 = 4 << 20;

struct Cluster {
    manager: ManagerHandle,
    _nodes: Vec<NodeHandle>,
    _dir: TempDir,
}

impl Cluster {
    async fn start(nodes: u32, one_sided: Option<Arc<dyn OneSided>>) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let manager =
            Manager::start(ManagerConfig::new(StoreChoice::Directory(dir.path().join("manager")), listen)).expect("a manager");
        let mut running = Vec::new();
        for node in 1..=nodes {
            let config = NodeConfig::new(node, dir.path().join(format!("node{node}")), vec![manager.addr().to_string()]);
            let config = NodeConfig { capacity: 256 << 20, one_sided: one_sided.clone(), ..config };
            running.push(Node::start(config).await.expect("a node"));
        }
        let cluster = Cluster { manager, _nodes: running, _dir: dir };
        cluster.client(None).await.init(nodes, nodes).await;
        cluster
    }

    async fn client(&self, one_sided: Option<Arc<dyn OneSided>>) -> Tester {
        client(&self.manager.addr().to_string(), one_sided).await
    }
}

async fn client(manager: &str, one_sided: Option<Arc<dyn OneSided>>) -> Tester {
    Tester(Client::connect(ClientConfig { one_sided, ..ClientConfig::new(manager) }).await.expect("a client"))
}

struct Tester(Client);

impl Tester {
    async fn init(&self, replicas: u32, nodes: u32) {
        self.0.init(replicas, nodes, 0).await.expect("initialised");
    }

    async fn write(&self, key: &str, data: &[u8]) {
        let options = UpdateOptions { chunk_size: CHUNK, ..UpdateOptions::default() };
        self.0.write(key.as_bytes(), 0, Bytes::copy_from_slice(data), &options).await.expect("written");
    }

    async fn reads(&self, key: &str, data: &[u8]) {
        let read = self.0.read(key.as_bytes(), 0, CHUNK, &ReadOptions::default()).await.expect("read");
        assert!(read.data[..] == *data, "{key}: other bytes");
    }

    /// Writes and reads payloads of several lengths, some at a time.
    async fn exercise(&self, name: &str) {
        for (seed, len) in [(1, 100), (2, 32 << 10), (3, 333_333), (4, CHUNK as usize)] {
            let (key, data) = (format!("{name}/{len}"), pattern(seed, len));
            self.write(&key, &data).await;
            self.reads(&key, &data).await;
        }
        let (a, b) = (pattern(11, 1 << 20), pattern(12, 1 << 20));
        let (ka, kb) = (format!("{name}/a"), format!("{name}/b"));
        tokio::join!(self.write(&ka, &a), self.write(&kb, &b));
        tokio::join!(self.reads(&ka, &a), self.reads(&kb, &b), self.reads(&ka, &a));
    }
}

#[tokio::test]
async fn writes_are_pulled_and_reads_are_pushed() {
    for provider in providers_that_outlive_peers() {
        let (at_node, node) = watched(provider);
        let (at_client, client) = watched(provider);
        let cluster = Cluster::start(3, Some(at_node)).await;
        cluster.client(Some(at_client)).await.exercise(provider).await;
        assert_eq!(client.counts(), [5 + 6 + 1, 0, 0], "{provider}: 5 writes and 7 reads are large, one room is not filled");
        assert_eq!(node.counts(), [0, 5, 6], "{provider}");
    }
}

#[tokio::test]
async fn a_side_without_the_transport_gets_frames() {
    for provider in providers_that_outlive_peers() {
        let (at_node, node) = watched(provider);
        let cluster = Cluster::start(1, Some(at_node)).await;
        cluster.client(None).await.exercise("the client has none").await;
        assert_eq!(node.counts(), [0; 3]);
        let plain = Cluster::start(1, None).await;
        let (at_client, client) = watched(provider);
        plain.client(Some(at_client)).await.exercise("the node has none").await;
        assert_eq!(client.counts(), [0; 3]);
    }
}

#[tokio::test]
async fn what_fails_goes_in_frames() {
    for provider in providers_that_outlive_peers() {
        let (at_node, node) = watched(provider);
        let cluster = Cluster::start(1, Some(at_node)).await;

        let (refusing, client) = watched(provider);
        client.refuse_offers.store(true, Ordering::SeqCst);
        cluster.client(Some(refusing)).await.exercise("no memory can be registered").await;
        assert_eq!((client.counts(), node.counts()), ([0; 3], [0; 3]));

        node.fail_pulls.store(true, Ordering::SeqCst);
        let (offering, client) = watched(provider);
        let tester = cluster.client(Some(offering)).await;
        tester.exercise("the node cannot pull").await;
        assert_eq!(
            (client.counts()[0], node.counts()),
            (2, [0; 3]),
            "room for a read, the first large write, and nothing after it"
        );

        node.fail_pulls.store(false, Ordering::SeqCst);
        node.fail_pushes.store(true, Ordering::SeqCst);
        let (offering, _) = watched(provider);
        let tester = cluster.client(Some(offering)).await;
        tester.exercise("the node cannot push").await;
        assert_eq!(node.counts()[2], 0);
    }
}

/// Not a test by itself: writes large chunks until it is killed.
#[tokio::test]
async fn a_process_that_writes() {
    let Some(told) = told() else { return };
    let (provider, manager) = told.split_once(' ').expect("provider and manager");
    let transport = Arc::new(Transport::open(provider, LOOPBACK).expect("a provider"));
    let writer = client(manager, Some(transport)).await;
    let data = pattern(9, CHUNK as usize);
    for round in 0.. {
        let key = |n: u32| format!("doomed/{n}");
        let (a, b, c, d) = (key(0), key(1), key(2), key(3));
        tokio::join!(writer.write(&a, &data), writer.write(&b, &data), writer.write(&c, &data), writer.write(&d, &data));
        println!("ROUND {round}");
    }
}

#[tokio::test]
async fn clients_that_die_while_their_writes_are_pulled_harm_nobody() {
    for provider in providers_that_outlive_peers() {
        let (at_node, node) = watched(provider);
        let cluster = Cluster::start(1, Some(at_node.clone())).await;
        let told = format!("{provider} {}", cluster.manager.addr());
        for _ in 0..3 {
            let mut process = Process::start("cluster::a_process_that_writes", &told);
            let mut out = BufReader::new(process.0.stdout.take().expect("piped")).lines();
            // The node's heartbeats go on meanwhile.
            let writes = move || out.any(|line| line.is_ok_and(|l| l.contains("ROUND 1")));
            assert!(tokio::task::spawn_blocking(writes).await.expect("no panic"), "{provider}: it writes");
        }
        assert!(node.counts()[1] >= 3 * 8, "{provider}: {:?}", node.counts());
        let tester = cluster.client(Some(at_node)).await;
        tester.exercise("after the deaths").await;
        let torn = tester.0.read(b"doomed/0", 0, CHUNK, &ReadOptions::default()).await.expect("read");
        assert!(torn.data[..] == pattern(9, CHUNK as usize)[..], "{provider}: a write happened in part");
    }
}
