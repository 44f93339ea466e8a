//! The other process stops, or dies, in the middle of a transfer.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use bytes::Bytes;
use catena_arena::Arena;
use catena_rma::{Fabric, Far};

use crate::support::{LONG, LOOPBACK, Process, pattern, providers_that_outlive_peers, told, wait_until};

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;
const LEN: usize = 32 << 20;

/// Not a test by itself: offers memory until it is killed, and does nothing else.
#[test]
fn a_process_that_offers() {
    let Some(provider) = told() else { return };
    let fabric = Fabric::open(&provider, LOOPBACK).expect("a provider");
    let endpoint = fabric.endpoint().expect("an endpoint");
    let exposed = endpoint.expose_data(Bytes::from(pattern(7, LEN))).expect("registered");
    let hex: String = endpoint.address().iter().map(|b| format!("{b:02x}")).collect();
    println!("OFFER {hex} {} {}", exposed.addr, exposed.key);
    loop {
        std::thread::sleep(LONG);
    }
}

fn offer_of(process: &mut Process) -> (Vec<u8>, Far) {
    let out = BufReader::new(process.0.stdout.take().expect("piped"));
    let line = out.lines().map(|l| l.expect("text")).find(|l| l.contains("OFFER ")).expect("an offer");
    let offer = line.split_once("OFFER ").expect("found so").1;
    let words: Vec<&str> = offer.split(' ').collect();
    let address = (0..words[0].len() / 2).map(|n| u8::from_str_radix(&words[0][2 * n..2 * n + 2], 16).expect("hex")).collect();
    (address, Far { addr: words[1].parse().expect("a number"), key: words[2].parse().expect("a number") })
}

#[tokio::test]
async fn a_client_that_dies_in_the_middle_of_a_pull_ends_it() {
    for provider in providers_that_outlive_peers() {
        let mut process = Process::start("death::a_process_that_offers", provider);
        let (address, far) = offer_of(&mut process);
        let endpoint = Fabric::open(provider, LOOPBACK).expect("a provider").endpoint().expect("an endpoint");
        endpoint.connect(&address).expect("an address");
        let arena = Arena::new(4 * LEN);

        // The application there sleeps: its endpoint's thread makes the progress.
        let read = tokio::time::timeout(LONG, endpoint.read(far, arena.take(LEN).expect("memory"))).await;
        assert!(read.expect("in time").expect("read")[..] == pattern(7, LEN)[..], "{provider}: other bytes");

        process.signal(SIGSTOP);
        let mut pull = Box::pin(endpoint.read(far, arena.take(LEN).expect("memory")));
        let stopped = tokio::time::timeout(Duration::from_millis(300), &mut pull).await;
        assert!(stopped.is_err(), "{provider}: more than any buffer between holds, so it cannot end");
        process.signal(SIGKILL);
        let ended = tokio::time::timeout(Duration::from_secs(5), &mut pull).await;
        println!("{provider}: the pull from the dead process: {:?}", ended.as_ref().map(|e| e.as_ref().map(|_| "read")));
        assert!(!matches!(ended, Ok(Ok(_))), "{provider}: a dead process gives no bytes");
        if ended.is_err() {
            // Not every provider tells. The connection does, whose end closes the endpoint.
            endpoint.close();
            assert!(tokio::time::timeout(LONG, pull).await.expect("closing ends it").is_err());
        }
        wait_until("the memory comes back", || arena.stats().in_use == 0);
    }
}
