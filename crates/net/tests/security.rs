//! Who may connect: every pairing of secrets over loopback, and what a stranger gets to see.

use std::time::Duration;

use catena_arena::Arena;
use catena_net::{Frame, Listener, NetError, Security, connect, hello_reply};
use catena_types::Code;
use catena_types::limits::PROTOCOL;
use catena_wire::header::Kind;
use catena_wire::hello::{Hello, HelloReply};

const LONG: Duration = Duration::from_secs(30);

fn security(members: &[u8], clients: &[u8]) -> Security {
    let secrets = |numbers: &[u8]| numbers.iter().map(|n| format!("{n:032}")).collect::<Vec<_>>();
    Security::with_secrets(&secrets(members), &secrets(clients)).expect("long enough")
}

/// What becomes of a connection: whether the accepting side takes the other for a member, or why there is none.
async fn meet(connecting: &Security, accepting: &Security) -> Result<bool, NetError> {
    let mut listener = Listener::bind(([127, 0, 0, 1], 0).into(), accepting.clone(), Arena::new(1 << 20)).await.expect("a port");
    let addr = listener.local_addr().to_string();
    let accepted = tokio::spawn(async move {
        let incoming = listener.accept().await;
        let member = incoming.member;
        assert_eq!(incoming.hello.node, 7);
        let connection = incoming.accept(hello_reply(5, 0, 0));
        (member, connection)
    });
    let hello = Hello { node: 7, ..Hello::default() };
    let connected = connect(&addr, hello, connecting, Arena::new(1 << 20), LONG).await;
    if connected.is_err() {
        accepted.abort();
    }
    connected?;
    Ok(accepted.await.expect("it was accepted").0)
}

#[tokio::test]
async fn members_and_clients_are_told_apart() {
    let open = Security::default();
    assert!(meet(&open, &open).await.expect("nothing is asked for"));
    assert!(meet(&security(&[1], &[]), &security(&[1], &[2])).await.expect("the same"));
    assert!(!meet(&security(&[2], &[]), &security(&[1], &[2])).await.expect("a client's"));
    assert!(meet(&security(&[1, 3], &[]), &security(&[3, 1], &[])).await.expect("old and new side by side"));
}

#[tokio::test]
async fn without_the_secret_or_with_another_one_nothing_goes_on() {
    let open = Security::default();
    for (connecting, accepting, says) in [
        (&open, &security(&[1], &[]), "wants its secret: give --secret-file"),
        (&security(&[2], &[]), &security(&[1], &[3]), "is not one of this cluster's"),
        (&security(&[1], &[]), &open, "asked for no secret"),
    ] {
        match meet(connecting, accepting).await {
            Err(NetError::Refused(failure)) => {
                assert_eq!(failure.code(), Code::NotAuthorized);
                assert!(failure.message.contains(says), "{failure}");
            }
            other => panic!("must be refused with {says:?}: {other:?}"),
        }
    }
}

/// Somebody who has read the name of a secret off the wire, and not the secret.
#[tokio::test]
async fn the_name_of_a_secret_opens_nothing() {
    let mut listener =
        Listener::bind(([127, 0, 0, 1], 0).into(), security(&[1], &[]), Arena::new(1 << 20)).await.expect("a port");
    let addr = listener.local_addr();
    // What an honest member says, seen by whoever it connects to.
    let spy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let seen = tokio::spawn({
        let addr = spy.local_addr().expect("bound").to_string();
        async move { connect(&addr, Hello::default(), &security(&[1], &[]), Arena::new(0), Duration::from_secs(1)).await.is_err() }
    });
    let (mut theirs, _) = spy.accept().await.expect("it connects");
    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("it listens");
    // Both answers pass through the spy's hands, but for the proof.
    let mut hello = vec![0; 4096];
    let n = tokio::io::AsyncReadExt::read(&mut theirs, &mut hello).await.expect("a hello");
    tokio::io::AsyncWriteExt::write_all(&mut stream, &hello[..n]).await.expect("sent");
    // The same hello again where the proof belongs.
    tokio::io::AsyncWriteExt::write_all(&mut stream, &hello[..n]).await.expect("sent");
    let accepted = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(accepted.is_err(), "never accepted");
    drop(theirs);
    assert!(seen.await.expect("no panic"), "and the honest one believes nobody who cannot prove himself");
}

/// An accepting side that only pretends to know the secret.
#[tokio::test]
async fn an_impostor_is_not_believed() {
    let mut impostor =
        Listener::bind(([127, 0, 0, 1], 0).into(), Security::default(), Arena::new(1 << 20)).await.expect("a port");
    let addr = impostor.local_addr().to_string();
    let serve = tokio::spawn(async move {
        let (sender, mut receiver) =
            impostor.accept().await.accept(HelloReply { protocol: PROTOCOL.into(), ..hello_reply(5, 0, 0) });
        let _ = sender.send(Frame::new(Kind::HelloReply, 0, &hello_reply(5, 0, 0)));
        receiver.recv().await.map(|frame| frame.is_none())
    });
    let refused = connect(&addr, Hello::default(), &security(&[1], &[]), Arena::new(0), LONG).await;
    assert!(matches!(refused, Err(NetError::Refused(_))));
    assert!(matches!(serve.await.expect("no panic"), Ok(true) | Err(_)), "nothing more is said to it");
}
