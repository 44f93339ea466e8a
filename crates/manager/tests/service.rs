//! A manager as a process sees it: over TCP, with a store that survives.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use catena_arena::Arena;
use catena_manager::{Manager, ManagerConfig, ManagerHandle, StoreChoice};
use catena_net::{Rpc, Security};
use catena_types::{Code, LocalState, PublicState, Routing, Space};
use catena_wire::client::{UpdateReply, UpdateRequest};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;
use catena_wire::manager::*;

const LEASE_MS: u32 = 2000;
const PATIENCE: Duration = Duration::from_secs(20);

fn start(dir: &Path) -> ManagerHandle {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let config = ManagerConfig::new(StoreChoice::Directory(dir.to_owned()), listen);
    Manager::start(ManagerConfig { lease_ms: LEASE_MS, heartbeat_ms: 50, ..config }).expect("a manager")
}

async fn connect(manager: &ManagerHandle, cluster: u64) -> Result<Rpc, catena_net::NetError> {
    let hello = Hello { cluster, ..Hello::default() };
    Rpc::connect(&manager.addr().to_string(), hello, &Security::default(), Arena::new(1 << 20), PATIENCE).await
}

async fn call<Req: prost::Message, Rep: prost::Message + Default>(rpc: &Rpc, kind: Kind, request: &Req) -> Rep {
    rpc.call(kind, request, PATIENCE).await.expect("a reply").0
}

/// A node with one target, as far as a manager can tell.
struct FakeNode {
    id: u32,
    process: u64,
    incarnation: u64,
    target: u32,
    seq: u64,
    routing: Option<Routing>,
}

impl FakeNode {
    fn request(id: u32, process: u64, cluster: u64) -> RegisterRequest {
        let offer = TargetOffer { uuid: vec![id as u8; 16], target: 0, shard: 0, space: Space::default(), lock: id.into() };
        RegisterRequest {
            node: id,
            cluster,
            process,
            shard_addrs: vec![format!("10.0.0.{id}:1")],
            targets: vec![offer],
            rack: String::new(),
        }
    }

    async fn register(rpc: &Rpc, id: u32, process: u64) -> FakeNode {
        let reply: RegisterReply = call(rpc, Kind::Register, &FakeNode::request(id, process, 0)).await;
        assert_eq!(reply.failure, None);
        assert_eq!(reply.lease_ms, LEASE_MS);
        FakeNode { id, process, incarnation: reply.incarnation, target: reply.targets[0], seq: 0, routing: None }
    }

    async fn heartbeat(&mut self, rpc: &Rpc) -> HeartbeatReply {
        self.seq += 1;
        let routing = self.routing.as_ref();
        let chain_ver = routing.and_then(|r| r.chains.first()).map_or(0, |c| c.chain_ver);
        let report = TargetReport {
            target: self.target,
            state: LocalState::Online as i32,
            chain_ver,
            open_count: 1,
            ..TargetReport::default()
        };
        let request = HeartbeatRequest {
            node: self.id,
            incarnation: self.incarnation,
            seq: self.seq,
            targets: vec![report],
            routing: routing.map_or(0, |r| r.version),
        };
        let reply: HeartbeatReply = call(rpc, Kind::Heartbeat, &request).await;
        let patched = reply.delta.as_ref().and_then(|delta| delta.apply(self.routing.as_ref()?));
        if let Some(routing) = reply.routing.clone().or(patched) {
            assert!(self.routing.as_ref().is_none_or(|r| r.version < routing.version), "routing went back");
            self.routing = Some(routing);
        }
        reply
    }
}

async fn states(rpc: &Rpc) -> (u64, u64, BTreeMap<u32, PublicState>) {
    let status: StatusReply = call(rpc, Kind::Status, &StatusRequest {}).await;
    let chain = &status.routing.chains[0];
    let states = chain.members.iter().map(|m| (m.target, m.state())).collect();
    (status.routing.version, chain.chain_ver, states)
}

/// Heartbeats of `nodes` until the manager's view is as wanted.
async fn until(rpc: &Rpc, nodes: &mut [FakeNode], what: &str, wanted: impl Fn(&BTreeMap<u32, PublicState>) -> bool) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        for node in nodes.iter_mut() {
            assert_eq!(node.heartbeat(rpc).await.failure, None);
        }
        let (_, chain_ver, states) = states(rpc).await;
        if wanted(&states) {
            return chain_ver;
        }
        assert!(Instant::now() < end, "{what}: {states:?}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test]
async fn three_nodes_one_dies_and_the_manager_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let manager = start(dir.path());
    let rpc = connect(&manager, 0).await.unwrap();
    let cluster = rpc.hello().cluster;
    assert_eq!(cluster, manager.cluster());

    let early: InitReply = call(&rpc, Kind::Init, &InitRequest { replicas: 3, nodes: 3, ..InitRequest::default() }).await;
    assert_eq!(early.failure.unwrap().code(), Code::Busy);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(FakeNode::register(&rpc, id, 100 + u64::from(id)).await);
        assert_eq!(nodes[id as usize - 1].heartbeat(&rpc).await.lease_ms, LEASE_MS);
    }
    let made: InitReply = call(&rpc, Kind::Init, &InitRequest { replicas: 3, nodes: 3, ..InitRequest::default() }).await;
    assert_eq!((made.failure, made.chains), (None, 1));
    let again: InitReply = call(&rpc, Kind::Init, &InitRequest { replicas: 3, nodes: 3, ..InitRequest::default() }).await;
    assert_eq!(again.failure.unwrap().code(), Code::PreconditionFailed);

    // A long poll ends with the change, whoever causes it.
    let all = |s: &BTreeMap<u32, PublicState>| s.values().all(|&s| s == PublicState::Serving);
    assert_eq!(until(&rpc, &mut nodes, "all serve", all).await, 1);
    let (version, ..) = states(&rpc).await;
    let poll = {
        let rpc = rpc.clone();
        tokio::spawn(async move {
            call::<_, RoutingReply>(&rpc, Kind::Routing, &RoutingRequest { have: version, wait_ms: 20_000 }).await
        })
    };
    let silent_since = Instant::now();
    let dead = nodes.remove(0);
    let removed = |s: &BTreeMap<u32, PublicState>| s[&dead.target] == PublicState::Offline;
    assert_eq!(until(&rpc, &mut nodes, "the silent one is removed", removed).await, 2);
    assert!(silent_since.elapsed() >= Duration::from_millis(u64::from(LEASE_MS)), "before its lease had ended");
    assert!(poll.await.unwrap().delta.unwrap().changed.version > version);

    // A second process under a living id, without its locks, is told who has it.
    let mut thief = FakeNode::request(2, 999, 0);
    thief.targets[0].uuid = vec![9; 16];
    let refused: RegisterReply = call(&rpc, Kind::Register, &thief).await;
    let refused = refused.failure.unwrap();
    assert_eq!(refused.code(), Code::DuplicateNode);
    assert!(refused.message.contains("10.0.0.2:1"), "{refused}");

    let (before, ..) = states(&rpc).await;
    drop(rpc);
    manager.shutdown().unwrap();
    let manager = start(dir.path());
    assert_eq!(manager.cluster(), cluster);
    let rpc = connect(&manager, cluster).await.unwrap();
    let (after, chain_ver, _) = states(&rpc).await;
    assert!(after >= before, "routing went back from {before} to {after}");
    assert_eq!(chain_ver, 2);

    // The dead one comes back as a new start, and is synced again.
    let mut back = FakeNode::register(&rpc, dead.id, dead.process + 1000).await;
    assert!(back.incarnation > dead.incarnation && back.target == dead.target);
    back.routing = nodes[0].routing.clone();
    let target = back.target;
    nodes.push(back);
    let syncing = |s: &BTreeMap<u32, PublicState>| {
        s[&target] == PublicState::Syncing && s.values().filter(|&&s| s == PublicState::Serving).count() == 2
    };
    assert_eq!(until(&rpc, &mut nodes, "the dead one syncs", syncing).await, 3);
    manager.shutdown().unwrap();
}

#[tokio::test]
async fn whoever_does_not_belong_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let manager = start(dir.path());
    let error = connect(&manager, manager.cluster() ^ 1).await.err().expect("another cluster");
    assert_eq!(error.failure().unwrap().code(), Code::WrongCluster);
    assert!(error.to_string().contains(&format!("{:016x}", manager.cluster())), "{error}");

    let rpc = connect(&manager, 0).await.unwrap();
    let reply: UpdateReply = call(&rpc, Kind::Update, &UpdateRequest::default()).await;
    assert_eq!(reply.failure.unwrap().code(), Code::Malformed);
    let reply: RegisterReply = call(&rpc, Kind::Register, &FakeNode::request(1, 7, manager.cluster() ^ 1)).await;
    assert_eq!(reply.failure.unwrap().code(), Code::WrongCluster);
    // Field 1 of a registration is a number; a string there is not one.
    let reply: RegisterReply = call(&rpc, Kind::Register, &"not a registration".to_owned()).await;
    assert_eq!(reply.failure.unwrap().code(), Code::Malformed);
    let nothing: RoutingReply = call(&rpc, Kind::Routing, &RoutingRequest { have: 1 << 40, wait_ms: 1 }).await;
    assert_eq!((nothing.failure, nothing.routing, nothing.delta), (None, None, None));
    manager.shutdown().unwrap();
}

#[test]
fn one_manager_per_directory_and_sane_periods() {
    let dir = tempfile::tempdir().unwrap();
    let manager = start(dir.path());
    let config = ManagerConfig::new(StoreChoice::Directory(dir.path().to_owned()), "127.0.0.1:0".parse().unwrap());
    let error = Manager::start(config.clone()).err().expect("the directory is in use");
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(manager.is_running());
    manager.shutdown().unwrap();
    let error = Manager::start(ManagerConfig { heartbeat_ms: 900, ..config.clone() }).err().expect("too slow");
    assert!(error.to_string().contains("two heartbeats"), "{error}");
    Manager::start(config).unwrap().shutdown().unwrap();
}
