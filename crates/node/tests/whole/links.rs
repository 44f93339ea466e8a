//! Links between shards: fenced, guarded, and opened again; and what a shard does not take on.

use crate::support::{CHUNK, Cluster, LONG};
use catena_arena::Arena;
use catena_net::{Frame, FrameReceiver, FrameSender, NetError, Security, connect};
use catena_node::{NodeConfig, NodeStatus};
use catena_types::crc::crc32c;
use catena_types::{Code, Op, Routing};
use catena_wire::client::{ReadReply, ReadRequest};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;
use catena_wire::peer::{Body, Forward, PeerMsg, Release};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says hello to `addr` as shard 0 of `node`.
async fn pose_as(
    addr: &str,
    routing: &Routing,
    node: u32,
    incarnation: u64,
    epoch: u64,
) -> Result<(FrameSender, FrameReceiver), NetError> {
    let hello = Hello { cluster: routing.cluster, node, incarnation, epoch, ..Hello::default() };
    let (sender, receiver, _) = connect(addr, hello, &Security::default(), Arena::new(1 << 20), LONG).await?;
    Ok((sender, receiver))
}

async fn ends(mut receiver: FrameReceiver) {
    while let Ok(Some(_)) = receiver.recv().await {}
}

fn fenced(status: &NodeStatus) -> u64 {
    status.shards.iter().map(|s| s.fenced).sum()
}

#[tokio::test]
async fn a_link_that_is_taken_away_is_opened_again_and_work_goes_on() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.init(2).await;
    let routing = cluster.wait_serving(2).await;
    cluster.write(b"k", 0, b"one").await;
    let chain = routing.chains[0].clone();
    let (head, tail) = (chain.head().expect("a head"), chain.tail().expect("a tail"));
    let head_node = routing.target(head).expect("known").node;
    let incarnation = cluster.nodes[&head_node].incarnation();
    let tail_addr = routing.addr_of(tail).expect("a place").to_owned();
    // A connection with a later epoch: the tail closes the one it has.
    let (_sender, receiver) = pose_as(&tail_addr, &routing, head_node, incarnation, 6).await.expect("the newest so far");
    let reply = cluster.write(b"k", 3, b" two").await;
    assert_eq!(reply.ver, 2, "the head has dialled until its epoch was the newest again");
    ends(receiver).await;
    let stale = pose_as(&tail_addr, &routing, head_node, incarnation, 6).await.err().expect("an older epoch");
    assert_eq!(stale.failure().map(|f| f.code()), Some(Code::DuplicateNode));
    let older = pose_as(&tail_addr, &routing, head_node, incarnation - 1, 99).await.err().expect("an older start");
    assert_eq!(older.failure().map(|f| f.code()), Some(Code::DuplicateNode));
    for (read, payload) in cluster.read_everywhere(b"k", 0, 100).await {
        assert_eq!((read.ver, payload.as_slice()), (2, b"one two".as_slice()));
    }
    cluster.stop().await;
}

#[tokio::test]
async fn messages_of_impostors_and_damaged_ones_change_nothing() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.init(2).await;
    let routing = cluster.wait_serving(2).await;
    cluster.write(b"k", 0, b"good").await;
    let chain = routing.chains[0].clone();
    let (head, tail) = (chain.head().expect("a head"), chain.tail().expect("a tail"));
    let tail_node = routing.target(tail).expect("known").node;
    let tail_addr = routing.addr_of(tail).expect("a place").to_owned();
    let before = fenced(&cluster.nodes[&tail_node].status().await);
    let msg = |body| PeerMsg { chain: chain.id, chain_ver: chain.chain_ver, from: head, to: tail, body: Some(body) };

    // A node that is not the one the sender is on.
    let (sender, receiver) = pose_as(&tail_addr, &routing, 9, 1, 1).await.expect("nobody knows node 9");
    let release = Body::Release(Release { key: b"k".to_vec(), ver: 2, tag: cluster.tag() });
    sender.send(Frame::new(Kind::Peer, 0, &msg(release))).expect("open");
    // A payload that was damaged on the way ends the connection.
    let forward = Forward { key: b"k".to_vec(), ver: 2, op: Op::write(0, 3), chunk_size: CHUNK, ..Forward::default() };
    let damaged = Frame::new(Kind::Peer, 0, &msg(Body::Forward(forward))).with_payload(b"bad".as_slice().into(), 1);
    sender.send(damaged).expect("open");
    ends(receiver).await;
    assert_eq!(fenced(&cluster.nodes[&tail_node].status().await), before + 1);

    // So does a key that cannot be, and a body that is none.
    for body in [msg(Body::Release(Release::default())), PeerMsg { chain: 1, ..PeerMsg::default() }] {
        let (sender, receiver) = pose_as(&tail_addr, &routing, 8, 1, cluster.tag().seq).await.expect("accepted");
        let mut frame = Frame::new(Kind::Peer, 0, &body);
        if body.body.is_none() {
            frame.body = b"\xff\xff\xff".as_slice().into();
        }
        sender.send(frame).expect("open");
        ends(receiver).await;
    }
    assert_eq!(cluster.write(b"k", 0, b"fine").await.ver, 2);
    cluster.stop().await;
}

#[tokio::test]
async fn garbage_on_a_shards_port_disturbs_nobody() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.init(1).await;
    cluster.wait_serving(1).await;
    let addr = cluster.nodes[&1].shard_addrs()[0].clone();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 200], &[0xff; 5000]] {
        let mut stream = tokio::net::TcpStream::connect(&addr).await.expect("a connection");
        stream.write_all(garbage).await.expect("sent");
        // A reset is as good an end as any.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(cluster.write(b"k", 0, b"still here").await.ver, 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_shard_that_takes_nothing_on_says_when_to_try_again() {
    let mut cluster = Cluster::start(0, 1).await;
    let mut config: NodeConfig = cluster.config(1, 1);
    config.limits.updates = 0;
    config.limits.reads = 0;
    config.limits.retry_after_us = 1234;
    cluster.start_node(config).await;
    cluster.init(1).await;
    let routing = cluster.wait_serving(1).await;
    let tag = cluster.tag();
    let reply = cluster.try_update(b"k", Op::write(0, 1), b"x".to_vec(), tag).await;
    assert_eq!(reply.failure.map(|f| (f.code(), f.version)), Some((Code::Busy, 1234)));
    let chain = &routing.chains[0];
    let target = chain.head().expect("a head");
    let read = ReadRequest { chain: chain.id, chain_ver: chain.chain_ver, target, key: b"k".to_vec(), ..Default::default() };
    let rpc = cluster.rpc(routing.addr_of(target).expect("a place")).await;
    let (reply, _): (ReadReply, _) = rpc.call(Kind::Read, &read, LONG).await.expect("a reply");
    assert_eq!(reply.failure.map(|f| (f.code(), f.version)), Some((Code::Busy, 1234)));
    assert_eq!(cluster.nodes[&1].status().await.shards[0].busy, 2);
    cluster.stop().await;
}

#[tokio::test]
async fn many_updates_at_once_leave_in_groups_and_all_arrive() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.init(3).await;
    let routing = cluster.wait_serving(3).await;
    let chain = routing.chains[0].clone();
    let rpc = cluster.rpc(routing.addr_of(chain.head().expect("a head")).expect("a place")).await;
    let calls: Vec<_> = (0..200u32)
        .map(|n| {
            let (rpc, chain) = (rpc.clone(), chain.clone());
            tokio::spawn(async move {
                let payload = vec![n as u8; 4096 + n as usize];
                let crc = crc32c(&payload);
                let request = catena_wire::client::UpdateRequest {
                    chain: chain.id,
                    chain_ver: chain.chain_ver,
                    key: format!("k{}", n % 50).into_bytes(),
                    chunk_size: CHUNK,
                    op: Op::write(0, payload.len() as u32),
                    precondition: 0,
                    tag: catena_types::Tag { client: 5, channel: n, seq: 1 },
                    first: true,
                    explain: false,
                };
                let call = rpc.call_with_payload(Kind::Update, &request, payload.into(), crc, LONG);
                let (reply, _): (catena_wire::client::UpdateReply, _) = call.await.expect("a reply");
                reply
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic").failure, None);
    }
    for n in 0..50 {
        let reads = cluster.read_everywhere(format!("k{n}").as_bytes(), 0, CHUNK).await;
        assert!(reads.iter().all(|(r, p)| r.ver == 4 && *p == reads[0].1), "the same bytes everywhere");
    }
    cluster.stop().await;
}
