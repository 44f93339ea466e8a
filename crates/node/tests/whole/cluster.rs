//! Whole nodes with a real manager: the write path, reads, membership, restarts.

use crate::support::{CHUNK, Cluster, LONG};
use catena_net::{Rpc, Security};
use catena_node::{Node, NodeError};
use catena_types::crc::crc32c;
use catena_types::{Code, Op, PublicState};
use catena_wire::client::{
    InspectReply, InspectRequest, ListReply, ListRequest, ReadReply, ReadRequest, UpdateReply, UpdateRequest,
};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[tokio::test]
async fn three_nodes_write_and_read_at_every_replica() {
    let mut cluster = Cluster::start(3, 2).await;
    cluster.init(3).await;
    cluster.wait_serving(3).await;
    for n in 0..20u8 {
        let key = format!("chunk/{n}").into_bytes();
        let reply = cluster.write(&key, 0, &bytes(n, CHUNK as usize)).await;
        assert_eq!((reply.ver, reply.len, reply.hops.len()), (1, CHUNK, 3), "tail first, then up to the head");
        let reply = cluster.write(&key, 1000, b"hello").await;
        let mut expected = bytes(n, CHUNK as usize);
        expected[1000..1005].copy_from_slice(b"hello");
        assert_eq!((reply.ver, reply.checksum), (2, crc32c(&expected)));
        for (read, payload) in cluster.read_everywhere(&key, 0, CHUNK).await {
            assert_eq!((read.failure, read.ver, read.checksum), (None, 2, crc32c(&expected)));
            assert!(payload == expected);
        }
    }
    let gone = cluster.update(b"chunk/3", Op::remove(), Vec::new()).await;
    assert_eq!(gone.failure, None);
    for (read, _) in cluster.read_everywhere(b"chunk/3", 0, 10).await {
        assert_eq!(read.failure.map(|f| f.code()), Some(Code::NotFound));
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_repeated_update_is_answered_again_and_applied_once() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.init(1).await;
    cluster.wait_serving(1).await;
    let tag = cluster.tag();
    let first = cluster.try_update(b"k", Op::write(0, 4), b"once".to_vec(), tag).await;
    let again = cluster.try_update(b"k", Op::write(0, 4), b"once".to_vec(), tag).await;
    assert_eq!((first.failure, first.ver), (None, 1));
    assert_eq!((again.failure, again.ver, again.checksum), (None, 1, first.checksum));
    cluster.stop().await;
}

#[tokio::test]
async fn a_stopped_node_hands_over_and_comes_back_through_resync() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.init(3).await;
    let routing = cluster.wait_serving(3).await;
    cluster.write(b"before", 0, &bytes(1, 5000)).await;
    let head = routing.chains[0].head().and_then(|t| routing.target(t)).expect("a head").node;
    cluster.nodes.remove(&head).expect("running").shutdown().await;
    cluster.wait_serving(2).await;
    for n in 0..50u8 {
        cluster.write(format!("while/{n}").as_bytes(), 0, &bytes(n, 9000)).await;
    }
    cluster.write(b"before", 100, b"changed").await;
    cluster.start_node(cluster.config(head, 1)).await;
    cluster.wait_serving(3).await;
    let mut expected = bytes(1, 5000);
    expected[100..107].copy_from_slice(b"changed");
    let reads = cluster.read_everywhere(b"before", 0, CHUNK).await;
    assert_eq!(reads.len(), 3);
    assert!(reads.iter().all(|(r, p)| r.failure.is_none() && *p == expected));
    for n in 0..50u8 {
        let reads = cluster.read_everywhere(format!("while/{n}").as_bytes(), 0, CHUNK).await;
        assert!(reads.len() == 3 && reads.iter().all(|(_, p)| *p == bytes(n, 9000)));
    }
    cluster.stop().await;
}

/// The others are asked for a heartbeat: the next ones of their own would come half an hour later.
#[tokio::test]
async fn a_chain_goes_on_without_a_stopped_node_at_once() {
    let mut cluster = Cluster::start_with(3, 1, Some((3_600_000, 1_800_000))).await;
    cluster.init(3).await;
    let routing = cluster.wait_serving(3).await;
    let head = routing.chains[0].head().and_then(|t| routing.target(t)).expect("a head").node;
    cluster.nodes.remove(&head).expect("running").shutdown().await;
    cluster.wait_serving(2).await;
    cluster.write(b"after", 0, b"nobody was waited for").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_vanishes_is_moved_out_after_its_lease() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.init(3).await;
    let routing = cluster.wait_serving(3).await;
    cluster.write(b"k", 0, b"kept").await;
    let tail = routing.chains[0].tail().and_then(|t| routing.target(t)).expect("a tail").node;
    // Dropped, not shut down: the manager hears nothing.
    drop(cluster.nodes.remove(&tail));
    cluster.write(b"k", 4, b" and more").await;
    for (read, payload) in cluster.read_everywhere(b"k", 0, 100).await {
        assert_eq!((read.ver, payload.as_slice()), (2, b"kept and more".as_slice()));
    }
    cluster.start_node(cluster.config(tail, 1)).await;
    cluster.wait_serving(3).await;
    cluster.stop().await;
}

#[tokio::test]
async fn everything_restarts_and_nothing_is_lost() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.init(2).await;
    cluster.wait_serving(2).await;
    for n in 0..10u8 {
        cluster.write(format!("k{n}").as_bytes(), 0, &bytes(n, 20_000)).await;
    }
    cluster.nodes.clear();
    for node in 1..=2 {
        cluster.start_node(cluster.config(node, 1)).await;
    }
    cluster.wait_serving(2).await;
    for n in 0..10u8 {
        for (read, payload) in cluster.read_everywhere(format!("k{n}").as_bytes(), 0, CHUNK).await {
            assert!(read.failure.is_none() && payload == bytes(n, 20_000));
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn bad_requests_are_named_and_change_nothing() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.init(1).await;
    let routing = cluster.wait_serving(1).await;
    let chain = routing.chains[0].clone();
    let target = chain.head().expect("a head");
    let rpc: Rpc = cluster.rpc(routing.addr_of(target).expect("a place")).await;
    let good = UpdateRequest {
        chain: chain.id,
        chain_ver: chain.chain_ver,
        key: b"k".to_vec(),
        chunk_size: CHUNK,
        op: Op::write(0, 4),
        precondition: 0,
        tag: cluster.tag(),
        first: true,
        explain: false,
    };
    let cases = [
        (UpdateRequest { key: Vec::new(), ..good.clone() }, "data", 0, Code::InvalidArgument),
        (UpdateRequest { chunk_size: 5000, ..good.clone() }, "data", 0, Code::InvalidArgument),
        (UpdateRequest { op: Op::write(CHUNK, 4), ..good.clone() }, "data", 0, Code::InvalidArgument),
        (good.clone(), "too long", 0, Code::InvalidArgument),
        (good.clone(), "data", 1, Code::PayloadCorrupt),
        (UpdateRequest { chain: 99, ..good.clone() }, "data", 0, Code::UnknownChain),
        (UpdateRequest { chain_ver: 99, ..good.clone() }, "data", 0, Code::WrongChainVersion),
    ];
    for (request, payload, damage, code) in cases {
        let crc = crc32c(payload.as_bytes()) ^ damage;
        let payload = payload.as_bytes().to_vec().into();
        let (reply, _): (UpdateReply, _) =
            rpc.call_with_payload(Kind::Update, &request, payload, crc, LONG).await.expect("a reply");
        assert_eq!(reply.failure.map(|f| f.code()), Some(code), "{request:?}");
    }
    let read = ReadRequest { chain: chain.id, chain_ver: chain.chain_ver, target, key: b"k".to_vec(), ..Default::default() };
    let elsewhere = ReadRequest { target: 99, ..read.clone() };
    let (reply, _): (ReadReply, _) = rpc.call(Kind::Read, &elsewhere, LONG).await.expect("a reply");
    assert_eq!(reply.failure.map(|f| f.code()), Some(Code::UnknownChain));
    let (reply, _): (ReadReply, _) = rpc.call(Kind::Read, &read, LONG).await.expect("a reply");
    assert_eq!(reply.failure.map(|f| f.code()), Some(Code::NotFound), "nothing was applied");
    cluster.stop().await;
}

#[tokio::test]
async fn listings_and_inspection_answer() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.init(1).await;
    let routing = cluster.wait_serving(1).await;
    let chain = routing.chains[0].clone();
    let target = chain.head().expect("a head");
    for key in ["a/1", "a/2", "b/1"] {
        cluster.write(key.as_bytes(), 0, b"x").await;
    }
    let rpc = cluster.rpc(routing.addr_of(target).expect("a place")).await;
    let list =
        ListRequest { chain: chain.id, chain_ver: chain.chain_ver, target, prefix: b"a/".to_vec(), from: Vec::new(), limit: 10 };
    let (reply, _): (ListReply, _) = rpc.call(Kind::List, &list, LONG).await.expect("a reply");
    let keys: Vec<_> = reply.entries.iter().map(|e| e.key.as_slice()).collect();
    assert_eq!((reply.failure, keys), (None, vec![b"a/1".as_slice(), b"a/2"]));
    let inspect = InspectRequest { target, key: b"b/1".to_vec() };
    let (reply, _): (InspectReply, _) = rpc.call(Kind::Inspect, &inspect, LONG).await.expect("a reply");
    assert_eq!(reply.meta.and_then(|m| m.committed).map(|c| (c.ver, c.len)), Some((1, 1)));
    assert_eq!(reply.chain_ver, chain.chain_ver);
    cluster.stop().await;
}

#[tokio::test]
async fn identity_is_guarded() {
    let mut cluster = Cluster::start(1, 1).await;
    let config = cluster.config(1, 1);
    let error = Node::start(config.clone()).await.err().expect("the directory is in use");
    assert!(matches!(error, NodeError::DirectoryInUse { .. }), "{error}");
    cluster.nodes.remove(&1).expect("running").shutdown().await;
    let mut other = config.clone();
    other.node = 2;
    let error = Node::start(other).await.err().expect("another node's directory");
    assert!(matches!(error, NodeError::WrongDirectory { .. }), "{error}");

    let strangers = Cluster::start(0, 1).await;
    let mut lost = config.clone();
    lost.managers = vec![strangers.manager_addr.clone()];
    let error = Node::start(lost).await.err().expect("another cluster's manager");
    assert!(matches!(&error, NodeError::Refused { failure, .. } if failure.code() == Code::WrongCluster), "{error}");
    strangers.stop().await;

    let addr: std::net::SocketAddr = cluster.manager_addr.parse().expect("an address");
    let port_taken = catena_node::NodeConfig { base_port: addr.port(), ..cluster.config(3, 1) };
    let error = Node::start(port_taken).await.err().expect("the port is in use").to_string();
    assert!(error.contains("address already in use") || error.contains("Address already in use"), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_stranger_and_a_wrong_cluster_are_refused_at_the_shard() {
    let cluster = Cluster::start(1, 1).await;
    let addr = cluster.nodes[&1].shard_addrs()[0].clone();
    let hello = Hello { cluster: 0xbad, ..Hello::default() };
    let error = Rpc::connect(&addr, hello, &Security::default(), catena_arena::Arena::new(0), LONG).await.err().expect("refused");
    assert_eq!(error.failure().map(|f| f.code()), Some(Code::WrongCluster));
    // A manager's request does not belong here: the connection ends, the node lives.
    let rpc =
        Rpc::connect(&addr, Hello::default(), &Security::default(), catena_arena::Arena::new(0), LONG).await.expect("accepted");
    let request = catena_wire::manager::StatusRequest {};
    let result = rpc.call::<_, catena_wire::manager::StatusReply>(Kind::Status, &request, LONG).await;
    assert!(result.is_err());
    assert_eq!(cluster.nodes[&1].status().await.shards.len(), 1);
    let offline = |c: &catena_types::Chain| c.in_state(PublicState::Offline).count();
    assert_eq!({ cluster }.routing().await.chains.iter().map(offline).sum::<usize>(), 0);
}

#[tokio::test]
async fn a_second_process_with_a_living_nodes_id_is_refused() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.init(1).await;
    cluster.wait_serving(1).await;
    let mut twin = cluster.config(1, 1);
    twin.dir = cluster.dir.path().join("twin");
    let error = Node::start(twin).await.err().expect("node 1 lives");
    assert!(matches!(&error, NodeError::Refused { failure, .. } if failure.code() == Code::DuplicateNode), "{error}");
    assert_eq!(cluster.write(b"k", 0, b"undisturbed").await.ver, 1);
    cluster.stop().await;
}

#[tokio::test]
async fn the_manager_restarts_and_nothing_is_lost() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.init(2).await;
    cluster.wait_serving(2).await;
    cluster.write(b"k", 0, b"before").await;
    cluster.restart_manager();
    cluster.write(b"k", 0, b"behind").await;
    cluster.wait_serving(2).await;
    let reads = cluster.read_everywhere(b"k", 0, 10).await;
    assert!(reads.iter().all(|(r, p)| r.ver == 2 && p == b"behind"));
    cluster.stop().await;
}
