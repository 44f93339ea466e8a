//! Two endpoints of one process: what is read and written is what was there, and memory comes back when it may.

use bytes::Bytes;
use catena_arena::Arena;
use catena_rma::{Endpoint, Fabric, Far};

use crate::support::{LOOPBACK, pattern, providers, wait_until};

fn pair(provider: &str) -> (Endpoint, Endpoint) {
    let fabric = Fabric::open(provider, LOOPBACK).expect("a provider");
    let (a, b) = (fabric.endpoint().expect("an endpoint"), fabric.endpoint().expect("an endpoint"));
    a.connect(b.address()).expect("an address");
    b.connect(a.address()).expect("an address");
    (a, b)
}

#[tokio::test]
async fn what_is_read_and_written_is_what_was_there() {
    for provider in providers() {
        let (client, server) = pair(provider);
        let arena = Arena::new(64 << 20);
        for (seed, len) in [(1, 1), (2, 4096), (3, 65_536), (4, 1_000_003), (5, 8 << 20)] {
            let data = pattern(seed, len);
            let exposed = client.expose_data(Bytes::from(data.clone())).expect("registered");
            let far = Far { addr: exposed.addr, key: exposed.key };
            let read = server.read(far, arena.take(len).expect("memory")).await.expect("read");
            assert!(read[..] == data[..], "{provider}: {len} bytes read are others");
            assert!(exposed.take_back().is_none(), "data is the giver's");

            let room = client.expose_room(arena.take(len).expect("memory")).expect("registered");
            server.write(Far { addr: room.addr, key: room.key }, read.freeze()).await.expect("written");
            let room = room.take_back().expect("room");
            assert!(room[..] == data[..], "{provider}: {len} bytes written are others");
        }
    }
}

#[tokio::test]
async fn many_transfers_at_a_time_keep_their_bytes() {
    const COUNT: u64 = 64;
    const LEN: usize = 200_000;
    for provider in providers() {
        let (client, server) = pair(provider);
        let arena = Arena::new(64 << 20);
        let expose = |seed| client.expose_data(Bytes::from(pattern(seed, LEN))).expect("registered");
        let exposed: Vec<_> = (0..COUNT).map(expose).collect();
        let reads = exposed.iter().map(|e| server.read(Far { addr: e.addr, key: e.key }, arena.take(LEN).expect("memory")));
        let reads: Vec<_> = reads.map(Box::pin).collect();
        for (seed, read) in reads.into_iter().enumerate() {
            assert!(read.await.expect("read")[..] == pattern(seed as u64, LEN)[..], "{provider}: transfer {seed}");
        }
    }
}

#[tokio::test]
async fn memory_that_is_not_offered_is_not_reached() {
    for provider in providers() {
        let (client, server) = pair(provider);
        let arena = Arena::new(1 << 20);
        let exposed = client.expose_data(Bytes::from(pattern(1, 8192))).expect("registered");
        let far = Far { addr: exposed.addr, key: exposed.key };
        exposed.take_back();
        let late = tokio::time::timeout(std::time::Duration::from_secs(5), server.read(far, arena.take(8192).expect("memory")));
        // An error where the provider tells one; in no case the bytes.
        assert!(!matches!(late.await, Ok(Ok(_))), "{provider}: read after it was taken back");
    }
}

#[tokio::test]
async fn abandoned_memory_comes_back_when_the_endpoint_is_closed() {
    for provider in providers() {
        let (client, server) = pair(provider);
        let arena = Arena::new(1 << 20);
        drop(client.expose_room(arena.take(8192).expect("memory")).expect("registered"));
        assert_eq!(arena.stats().in_use, 8192, "{provider}: the peer may still write there");
        client.close();
        wait_until("the room comes back", || arena.stats().in_use == 0);
        assert!(client.expose_room(arena.take(8192).expect("memory")).is_err(), "{provider}: closed");
        server.close();
        let far = Far { addr: 0, key: 0 };
        wait_until("closed", || server.expose_data(Bytes::from_static(b"x")).is_err());
        assert!(server.read(far, arena.take(8192).expect("memory")).await.is_err());
        wait_until("all comes back", || arena.stats().in_use == 0);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let Err(e) = Fabric::open("carrier-pigeon", None) else { panic!("no such provider") };
    let text = e.to_string();
    assert!(text.contains("carrier-pigeon") || text.contains("libfabric1"), "{text}");
}
