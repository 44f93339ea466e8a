//! Connections over loopback: handshake, requests, floods, slow and broken peers.

use std::time::Duration;

use catena_arena::Arena;
use catena_net::{
    Frame, FrameReceiver, FrameSender, Incoming, Listener, NetError, Rpc, Security, check_hello, connect, hello_reply,
};
use catena_types::crc::crc32c;
use catena_types::{Code, Failure};
use catena_wire::header::Kind;
use catena_wire::hello::{Hello, HelloReply};
use catena_wire::manager::{RoutingReply, RoutingRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LONG: Duration = Duration::from_secs(30);

fn arena() -> Arena {
    Arena::new(64 << 20)
}

async fn listener() -> (Listener, String) {
    let listener =
        Listener::bind("127.0.0.1:0".parse().expect("an address"), Security::default(), arena()).await.expect("a free port");
    let addr = listener.local_addr().to_string();
    (listener, addr)
}

async fn pair() -> ((FrameSender, FrameReceiver), (FrameSender, FrameReceiver)) {
    let (mut listener, addr) = listener().await;
    let open = Security::default();
    let (client, server) = tokio::join!(connect(&addr, Hello::default(), &open, arena(), LONG), async {
        listener.accept().await.accept(hello_reply(5, 0, 0))
    });
    let (sender, receiver, _) = client.expect("a connection");
    ((sender, receiver), server)
}

/// Answers every request with its own body and payload.
async fn echo(incoming: Incoming) {
    let (sender, mut receiver) = incoming.accept(hello_reply(5, 0, 0));
    while let Ok(Some(f)) = receiver.recv().await {
        let reply =
            RoutingReply { failure: Some(Failure::new(Code::NotFound, f.request_id.to_string())), ..RoutingReply::default() };
        let frame = Frame::new(Kind::RoutingReply, f.request_id, &reply).with_payload(f.payload.clone(), f.payload_crc);
        if sender.send(frame.reply()).is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn hello_names_both_sides_and_refusals_carry_their_reason() {
    let (mut listener, addr) = listener().await;
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let incoming = listener.accept().await;
            match check_hello(&incoming.hello, 0xc1) {
                Ok(()) => drop(incoming.accept(hello_reply(0xc1, 3, 9))),
                Err(failure) => incoming.refuse(failure),
            }
        }
    });
    let hello = Hello { cluster: 0xc1, node: 2, shard: 1, incarnation: 4, epoch: 5, ..Hello::default() };
    let (_, _, reply) = connect(&addr, hello.clone(), &Security::default(), arena(), LONG).await.expect("accepted");
    assert_eq!(
        reply,
        HelloReply {
            failure: None,
            protocol: catena_types::limits::PROTOCOL.into(),
            cluster: 0xc1,
            node: 3,
            incarnation: 9,
            lane: None
        }
    );
    let error =
        connect(&addr, Hello { cluster: 0xbad, ..hello }, &Security::default(), arena(), LONG).await.err().expect("refused");
    let failure = error.failure().expect("the reason");
    assert_eq!(failure.code(), Code::WrongCluster);
    assert!(failure.message.contains("0000000000000bad") && failure.message.contains("00000000000000c1"), "{failure}");
    server.await.expect("no panic");
}

#[test]
fn another_protocol_is_refused_by_name() {
    let failure = check_hello(&Hello { protocol: 7, ..Hello::default() }, 0).expect_err("refused");
    assert_eq!(failure.code(), Code::WrongProtocol);
    let ours = catena_types::limits::PROTOCOL;
    assert!(failure.message.contains(&format!("version 7, this process speaks {ours}")));
}

#[tokio::test]
async fn a_port_in_use_and_a_dead_address_say_what_to_do() {
    let (listener, addr) = listener().await;
    let error = Listener::bind(listener.local_addr(), Security::default(), arena()).await.err().expect("in use").to_string();
    assert!(error.contains(&addr) && error.contains("stop it or choose another port"), "{error}");
    drop(listener);
    let error = connect("127.0.0.1:1", Hello::default(), &Security::default(), arena(), LONG)
        .await
        .err()
        .expect("nobody there")
        .to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("check the address"), "{error}");
}

#[tokio::test]
async fn garbage_is_closed_and_others_go_on() {
    let (mut listener, addr) = listener().await;
    let mut silent = TcpStream::connect(&addr).await.expect("a connection");
    let mut garbage = TcpStream::connect(&addr).await.expect("a connection");
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    // The end of the connection is what counts; a reset may swallow the answer.
    let _ = garbage.read_to_end(&mut answer).await;
    let open = Security::default();
    let (client, server) = tokio::join!(connect(&addr, Hello::default(), &open, arena(), LONG), async {
        listener.accept().await.accept(hello_reply(0, 0, 0))
    });
    assert!(client.is_ok());
    drop(server);
    silent.write_all(b"x").await.expect("still held open for its hello");
}

#[tokio::test]
async fn frames_of_all_sizes_arrive_in_order_both_ways() {
    let ((to_server, mut from_server), (to_client, mut from_client)) = pair().await;
    let sizes = [0, 1, 100, 4096, 70_000, 0, 1 << 20, 5, 20 << 20, 3];
    for (n, &size) in sizes.iter().enumerate() {
        let payload = vec![n as u8; size];
        let crc = crc32c(&payload);
        let frame = Frame::new(Kind::Update, n as u64, &RoutingRequest { have: 1, wait_ms: 1 }).with_payload(payload.into(), crc);
        to_server.send(frame.clone()).expect("open");
        to_client.send(frame).expect("open");
    }
    for receiver in [&mut from_server, &mut from_client] {
        for (n, &size) in sizes.iter().enumerate() {
            let f = receiver.recv().await.expect("whole").expect("open");
            assert_eq!((f.request_id, f.payload.len(), f.payload_ok), (n as u64, size, true));
            assert!(f.payload.iter().all(|&b| b == n as u8));
        }
    }
    assert_eq!(to_server.queued_bytes(), 0);
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up_and_loses_nothing() {
    let ((sender, _keep), (_keep2, mut receiver)) = pair().await;
    let payload = bytes::Bytes::from(vec![3; 1 << 20]);
    let crc = crc32c(&payload);
    for n in 0..32 {
        let frame = Frame::new(Kind::Update, n, &RoutingRequest::default()).with_payload(payload.clone(), crc);
        sender.send(frame).expect("queued");
    }
    assert!(sender.queued_bytes() > 32 << 20, "queueing does not wait");
    for n in 0..32 {
        assert_eq!(receiver.recv().await.expect("whole").expect("open").request_id, n);
    }
}

#[tokio::test]
async fn closing_delivers_what_was_queued() {
    let ((sender, mut client), (_server_sender, mut receiver)) = pair().await;
    sender.send(Frame::new(Kind::Update, 1, &RoutingRequest::default())).expect("open");
    sender.close();
    let late = sender.send(Frame::new(Kind::Update, 2, &RoutingRequest::default()));
    assert!(matches!(late, Err(NetError::Closed { .. })));
    assert_eq!(receiver.recv().await.expect("whole").expect("queued before").request_id, 1);
    assert!(receiver.recv().await.expect("closed in order").is_none());
    drop((receiver, _server_sender));
    assert!(matches!(client.recv().await, Ok(None) | Err(NetError::Io { .. })));
}

#[tokio::test]
async fn too_long_a_message_is_an_error_here_not_there() {
    let ((sender, _r), _server) = pair().await;
    let mut frame = Frame::new(Kind::Update, 1, &RoutingRequest::default());
    frame.body = vec![0; (1 << 20) + 1].into();
    assert!(matches!(sender.send(frame), Err(NetError::TooLong { what: "body", .. })));
}

#[tokio::test]
async fn calls_are_multiplexed_time_out_and_end_with_the_connection() {
    let (mut listener, addr) = listener().await;
    let server = tokio::spawn(async move { echo(listener.accept().await).await });
    let rpc = Rpc::connect(&addr, Hello::default(), &Security::default(), arena(), LONG).await.expect("a connection");
    let calls: Vec<_> = (0..100u64)
        .map(|n| {
            let rpc = rpc.clone();
            tokio::spawn(async move {
                let payload = vec![n as u8; n as usize * 100];
                let crc = crc32c(&payload);
                let request = RoutingRequest { have: n, wait_ms: 0 };
                let (reply, frame): (RoutingReply, Frame) =
                    rpc.call_with_payload(Kind::Routing, &request, payload.clone().into(), crc, LONG).await.expect("a reply");
                assert_eq!(reply.failure.map(|f| f.code()), Some(Code::NotFound));
                assert!(frame.payload_ok && frame.payload == payload);
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic");
    }
    let wrong = rpc.call::<_, RoutingReply>(Kind::Status, &RoutingRequest::default(), LONG).await;
    assert!(matches!(wrong, Err(NetError::Unexpected { got: Kind::RoutingReply, .. })));
    server.abort();
    let ended = rpc.call::<_, RoutingReply>(Kind::Routing, &RoutingRequest::default(), LONG).await;
    assert!(matches!(ended, Err(NetError::Closed { .. } | NetError::Io { .. })), "{:?}", ended.err());
    assert!(rpc.is_closed());
}

#[tokio::test]
async fn an_unanswered_call_times_out() {
    let (mut listener, addr) = listener().await;
    let server = tokio::spawn(async move {
        let (_sender, mut receiver) = listener.accept().await.accept(hello_reply(0, 0, 0));
        let frame = receiver.recv().await.expect("whole").expect("open");
        assert_eq!(frame.deadline, Some(Duration::from_millis(20)));
        std::future::pending::<()>().await;
    });
    let rpc = Rpc::connect(&addr, Hello::default(), &Security::default(), arena(), LONG).await.expect("a connection");
    let result = rpc.call::<_, RoutingReply>(Kind::Routing, &RoutingRequest::default(), Duration::from_millis(20)).await;
    assert!(matches!(result, Err(NetError::Timeout { ms: 20, .. })));
    assert!(!rpc.is_closed());
    server.abort();
}
