//! A cluster in one process: a manager and nodes over loopback, and raw requests to them.

use std::collections::HashMap;
use std::time::Duration;

use catena_arena::Arena;
use catena_manager::{Manager, ManagerConfig, ManagerHandle, StoreChoice};
use catena_net::{Rpc, Security};
use catena_node::{Node, NodeConfig, NodeHandle, NodeStatus};
use catena_types::crc::crc32c;
use catena_types::{Chain, Code, Failure, Op, PublicState, Routing, Tag, TargetId};
use catena_wire::client::{ReadReply, ReadRequest, UpdateReply, UpdateRequest};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;
use catena_wire::manager::{InitReply, InitRequest, RoutingReply, RoutingRequest};
use tempfile::TempDir;

/// Generous: nothing here measures time.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const CHUNK: u32 = 64 << 10;

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    /// Length of a lease and time between heartbeats in milliseconds, if not the usual ones.
    periods: Option<(u32, u32)>,
    manager: Option<ManagerHandle>,
    pub(crate) manager_addr: String,
    pub(crate) nodes: HashMap<u32, NodeHandle>,
    rpcs: HashMap<String, Rpc>,
    seq: u64,
}

impl Cluster {
    /// `nodes` nodes with one target each on `shards` shards, and no chain yet.
    pub(crate) async fn start(nodes: u32, shards: u32) -> Cluster {
        Cluster::start_with(nodes, shards, None).await
    }

    pub(crate) async fn start_with(nodes: u32, shards: u32, periods: Option<(u32, u32)>) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let manager = start_manager(&dir, "127.0.0.1:0", periods);
        let manager_addr = manager.addr().to_string();
        let (nodes_by_id, rpcs) = (HashMap::new(), HashMap::new());
        let mut cluster = Cluster { dir, periods, manager: Some(manager), manager_addr, nodes: nodes_by_id, rpcs, seq: 0 };
        for node in 1..=nodes {
            cluster.start_node(cluster.config(node, shards)).await;
        }
        cluster
    }

    /// Stops the manager and starts it again at the same place. Blocks for a moment; the nodes have threads of their own.
    pub(crate) fn restart_manager(&mut self) {
        self.manager.take().expect("running").shutdown().expect("it ran to the end");
        self.manager = Some(start_manager(&self.dir, &self.manager_addr, self.periods));
        self.rpcs.clear();
    }

    pub(crate) fn config(&self, node: u32, shards: u32) -> NodeConfig {
        let dir = self.dir.path().join(format!("node{node}"));
        let targets = shards;
        let capacity = 64 << 20;
        let config = NodeConfig::new(node, dir, vec![self.manager_addr.clone()]);
        NodeConfig { shards, targets, capacity, memory: 64 << 20, ..config }
    }

    pub(crate) async fn start_node(&mut self, config: NodeConfig) {
        let node = config.node;
        let handle = Node::start(config).await.expect("a node");
        self.nodes.insert(node, handle);
    }

    pub(crate) async fn rpc(&mut self, addr: &str) -> Rpc {
        if let Some(rpc) = self.rpcs.get(addr).filter(|r| !r.is_closed()) {
            return rpc.clone();
        }
        let rpc =
            Rpc::connect(addr, Hello::default(), &Security::default(), Arena::new(64 << 20), LONG).await.expect("a connection");
        self.rpcs.insert(addr.to_owned(), rpc.clone());
        rpc
    }

    pub(crate) async fn init(&mut self, replicas: u32) {
        let manager = self.rpc(&self.manager_addr.clone()).await;
        let nodes = self.nodes.len() as u32;
        let (reply, _): (InitReply, _) =
            manager.call(Kind::Init, &InitRequest { replicas, nodes, ..InitRequest::default() }, LONG).await.expect("a reply");
        assert_eq!(reply.failure, None);
    }

    pub(crate) async fn routing(&mut self) -> Routing {
        let manager = self.rpc(&self.manager_addr.clone()).await;
        let (reply, _): (RoutingReply, _) =
            manager.call(Kind::Routing, &RoutingRequest { have: 0, wait_ms: 0 }, LONG).await.expect("a reply");
        reply.routing.expect("newer than nothing")
    }

    /// Waits until every chain has `serving` SERVING members, each of which would serve a read.
    pub(crate) async fn wait_serving(&mut self, serving: usize) -> Routing {
        for _ in 0..600 {
            let routing = self.routing().await;
            let full = |c: &Chain| c.in_state(PublicState::Serving).count() == serving;
            if !routing.chains.is_empty() && routing.chains.iter().all(full) && self.all_serve(&routing).await {
                return routing;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not serving: {:?}\n{:#?}", self.routing().await.chains, self.statuses().await);
    }

    pub(crate) async fn statuses(&self) -> Vec<NodeStatus> {
        let mut all = Vec::new();
        for node in self.nodes.values() {
            all.push(node.status().await);
        }
        all
    }

    async fn all_serve(&self, routing: &Routing) -> bool {
        let mut serving: HashMap<TargetId, u64> = HashMap::new();
        for target in self.statuses().await.into_iter().flat_map(|n| n.shards).flat_map(|s| s.targets) {
            if target.serving {
                serving.insert(target.target, target.report.chain_ver);
            }
        }
        routing.chains.iter().all(|c| c.serving().all(|t| serving.get(&t) == Some(&c.chain_ver)))
    }

    pub(crate) fn tag(&mut self) -> Tag {
        self.seq += 1;
        Tag { client: 77, channel: 1, seq: self.seq }
    }

    /// One attempt of one update at the head.
    pub(crate) async fn try_update(&mut self, key: &[u8], op: Op, payload: Vec<u8>, tag: Tag) -> UpdateReply {
        let routing = self.routing().await;
        let chain = routing.chain(routing.chain_of(key).expect("a table")).expect("a chain").clone();
        let Some(head) = chain.head() else {
            return UpdateReply { failure: Some(Failure::new(Code::NotServing, "no head")), ..UpdateReply::default() };
        };
        let request = UpdateRequest {
            chain: chain.id,
            chain_ver: chain.chain_ver,
            key: key.to_vec(),
            chunk_size: CHUNK,
            op,
            precondition: 0,
            tag,
            first: true,
            explain: true,
        };
        let rpc = self.rpc(routing.addr_of(head).expect("a place")).await;
        let crc = crc32c(&payload);
        rpc.call_with_payload(Kind::Update, &request, payload.into(), crc, LONG).await.expect("a reply").0
    }

    /// An update, tried again until it is decided.
    pub(crate) async fn update(&mut self, key: &[u8], op: Op, payload: Vec<u8>) -> UpdateReply {
        let tag = self.tag();
        for _ in 0..600 {
            let reply = self.try_update(key, op, payload.clone(), tag).await;
            match &reply.failure {
                None => return reply,
                Some(f) if matches!(f.class(), catena_types::Class::Redirect | catena_types::Class::Overload) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Some(f) => panic!("{f}"),
            }
        }
        panic!("never decided");
    }

    pub(crate) async fn write(&mut self, key: &[u8], offset: u32, bytes: &[u8]) -> UpdateReply {
        self.update(key, Op::write(offset, bytes.len() as u32), bytes.to_vec()).await
    }

    /// Reads the chunk at every serving replica.
    pub(crate) async fn read_everywhere(&mut self, key: &[u8], offset: u32, len: u32) -> Vec<(ReadReply, Vec<u8>)> {
        let routing = self.routing().await;
        let chain = routing.chain(routing.chain_of(key).expect("a table")).expect("a chain").clone();
        let mut all = Vec::new();
        for target in chain.serving() {
            let request = ReadRequest {
                chain: chain.id,
                chain_ver: chain.chain_ver,
                target,
                key: key.to_vec(),
                offset,
                len,
                relaxed: false,
            };
            let rpc = self.rpc(routing.addr_of(target).expect("a place")).await;
            let (reply, frame): (ReadReply, _) = rpc.call(Kind::Read, &request, LONG).await.expect("a reply");
            assert!(frame.payload_ok);
            all.push((reply, frame.payload.to_vec()));
        }
        all
    }

    pub(crate) async fn stop(self) {
        for (_, node) in self.nodes {
            node.shutdown().await;
        }
        if let Some(manager) = self.manager {
            manager.shutdown().expect("it ran to the end");
        }
    }
}

fn start_manager(dir: &TempDir, listen: &str, periods: Option<(u32, u32)>) -> ManagerHandle {
    let listen = listen.parse().expect("an address");
    let config = ManagerConfig::new(StoreChoice::Directory(dir.path().join("manager")), listen);
    let (lease_ms, heartbeat_ms) = periods.unwrap_or((config.lease_ms, config.heartbeat_ms));
    Manager::start(ManagerConfig { lease_ms, heartbeat_ms, ..config }).expect("a manager")
}
