//! Chains that share full nodes: whatever clients are told to wait for, what one chain forwards waits for no other.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{CHUNK, Cluster, LONG};
use catena_net::Rpc;
use catena_node::NodeConfig;
use catena_types::crc::crc32c;
use catena_types::{Chain, Code, Op, Tag};
use catena_wire::client::{UpdateReply, UpdateRequest};
use catena_wire::header::Kind;

/// Updates of one client.
const EACH: u64 = 6;

/// One client: its updates one after the other, each again until it is decided. Says how often it was told to wait.
async fn write_all(rpc: Rpc, chain: Chain, key: Vec<u8>, channel: u32) -> u64 {
    let mut busy = 0;
    for seq in 1..=EACH {
        let request = UpdateRequest {
            chain: chain.id,
            chain_ver: chain.chain_ver,
            key: key.clone(),
            chunk_size: CHUNK,
            op: Op::write(0, CHUNK),
            tag: Tag { client: 6, channel, seq },
            first: true,
            ..UpdateRequest::default()
        };
        loop {
            let payload = vec![channel as u8; CHUNK as usize];
            let crc = crc32c(&payload);
            let call = rpc.call_with_payload(Kind::Update, &request, payload.into(), crc, LONG);
            let (reply, _): (UpdateReply, _) = call.await.expect("a reply: nobody waits for ever");
            match reply.failure {
                None => break,
                Some(f) if f.code() == Code::Busy => busy += 1,
                Some(f) => panic!("{f}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    busy
}

/// Each of three nodes is the head of one chain and a member of the two others, and takes on next to nothing: if a forward
/// waited for what clients of its receiver hold, the three would wait in a circle.
#[tokio::test]
async fn chains_that_share_full_nodes_never_wait_in_a_circle() {
    let mut cluster = Cluster::start(0, 1).await;
    for node in 1..=3 {
        let mut config: NodeConfig = cluster.config(node, 1);
        (config.targets, config.limits.updates, config.limits.update_bytes) = (3, 3, 3 * CHUNK as usize);
        cluster.start_node(config).await;
    }
    cluster.init(3).await;
    let routing = cluster.wait_serving(3).await;
    let head = |chain: &Chain| routing.addr_of(chain.head().expect("a head")).expect("a place").to_owned();
    let heads: BTreeSet<String> = routing.chains.iter().map(head).collect();
    assert_eq!((routing.chains.len(), heads.len()), (3, 3), "each node is the head of a chain");
    let mut calls = Vec::new();
    for chain in &routing.chains {
        let rpc = cluster.rpc(&head(chain)).await;
        let keys = (0..).map(|n: u32| format!("k{n}").into_bytes()).filter(|key| routing.chain_of(key) == Some(chain.id));
        let client = |(n, key)| tokio::spawn(write_all(rpc.clone(), chain.clone(), key, chain.id * 100 + n));
        calls.extend((0..24).zip(keys).map(client));
    }
    let mut busy = 0;
    for call in calls {
        busy += call.await.expect("no panic");
    }
    assert!(busy > 0, "the nodes were never full: this shows nothing");
    cluster.stop().await;
}
