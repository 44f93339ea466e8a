//! How a chunk that differs reaches the sink of a resync: by blocks where it can be, whole where it must, at a rate, and
//! never without end.

use catena_chain::{ClientUpdate, Config, Event};
use catena_types::limits::BLOCK;
use catena_types::{Code, LocalState, Op, PublicState};

use crate::support::*;

const SIZE: u32 = 16 * BLOCK;

/// A write of a chunk of 16 blocks.
fn at(request: u64, chain_ver: u64, name: &str, offset: u32, bytes: &[u8]) -> Event<Bytes> {
    let op = Op::write(offset, bytes.len() as u32);
    let update = write(request, chain_ver, tag(name.as_bytes()[0].into(), request), bytes);
    Event::Update(ClientUpdate { key: key(name), chunk_size: SIZE, op, ..update })
}

/// Chunks of `blocks` blocks on targets 1 and 2, and then target 2 is away.
fn away(config: &Config, names: &[&str], blocks: u32) -> World {
    let mut w = World::with(2, config);
    for (n, name) in names.iter().enumerate() {
        let bytes: Vec<u8> = (0..blocks * BLOCK).map(|i| (i / BLOCK + i) as u8).collect();
        w.t(1).on(at(n as u64 + 1, 1, name, 0, &bytes));
        w.settle();
    }
    w.adopt(&chain(2, "1S 2O"));
    w.t(1).update_replies();
    w
}

fn update(w: &mut World, request: u64, name: &str, offset: u32, bytes: &[u8]) {
    w.t(1).on(at(request, 2, name, offset, bytes));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(request, Code::Ok)]);
}

/// Target 2 is back, and everything is delivered.
fn back(w: &mut World) {
    w.adopt(&chain(3, "1S 2Y"));
}

fn equal(w: &mut World, name: &str) {
    assert_eq!(w.t(2).replica.report().state, LocalState::UpToDate);
    let (ours, theirs) = (w.t(1).store.meta_of(name), w.t(2).store.meta_of(name));
    assert_eq!(ours, theirs);
    let bytes = w.t(1).store.bytes(&key(name)).map(<[u8]>::to_vec);
    assert_eq!(w.t(2).store.bytes(&key(name)).map(<[u8]>::to_vec), bytes);
}

#[test]
fn only_the_blocks_that_differ_are_sent() {
    let mut w = away(&Config::default(), &["k"], 16);
    update(&mut w, 10, "k", 3 * BLOCK, &[7; 4096]);
    update(&mut w, 11, "k", 9 * BLOCK + 100, b"ten bytes.");
    back(&mut w);
    equal(&mut w, "k");
    let at = |block: u32| (key("k"), block * BLOCK, BLOCK as usize);
    assert_eq!(w.t(2).store.patched, [at(3), at(9)]);
    let c = *w.t(1).replica.counters();
    assert_eq!((c.sync_patches, c.sync_puts, c.sync_bytes), (1, 0, 2 * u64::from(BLOCK)));
    let sync = w.t(1).replica.report().sync.expect("it is the source");
    assert_eq!((sync.chunks, sync.chunks_total, sync.chunks_sent), (1, 1, 1));
    assert_eq!((sync.bytes, sync.bytes_sent), (u64::from(SIZE), 2 * u64::from(BLOCK)));
}

#[test]
fn a_chunk_that_has_grown_is_sent_from_where_it_grew() {
    let mut w = away(&Config::default(), &["k"], 8);
    update(&mut w, 10, "k", 8 * BLOCK, b"and some");
    back(&mut w);
    equal(&mut w, "k");
    assert_eq!(w.t(2).store.patched, [(key("k"), 8 * BLOCK, 8)]);
    // Only the length: the last block says it.
    let mut w = away(&Config::default(), &["k"], 8);
    w.t(1).on(Event::Update(ClientUpdate { op: Op::extend(8 * BLOCK + 9), chunk_size: SIZE, ..write(10, 2, tag(9, 1), b"") }));
    w.settle();
    back(&mut w);
    equal(&mut w, "k");
    assert_eq!(w.t(2).store.patched, [(key("k"), 8 * BLOCK, 9)]);
}

#[test]
fn what_cannot_be_patched_is_sent_whole() {
    // Shorter than at the sink; small; changed nearly everywhere.
    let mut w = away(&Config::default(), &["a", "b"], 4);
    w.t(1).on(Event::Update(ClientUpdate {
        key: key("a"),
        op: Op::truncate(2 * BLOCK + 5),
        chunk_size: SIZE,
        ..write(10, 2, tag(9, 1), b"")
    }));
    w.settle();
    w.t(1).update_replies();
    update(&mut w, 11, "b", 0, &[9; 4 * BLOCK as usize]);
    back(&mut w);
    equal(&mut w, "a");
    equal(&mut w, "b");
    let c = *w.t(1).replica.counters();
    assert_eq!((c.sync_patches, c.sync_puts), (0, 2));
}

#[test]
fn a_sink_that_is_not_what_it_seems_gets_the_whole_chunk() {
    // One does not know its checksums, the other knows those of bytes that it has lost.
    for lying in [false, true] {
        let mut w = away(&Config::default(), &["k"], 16);
        update(&mut w, 10, "k", 3 * BLOCK, &[7; 4096]);
        w.t(2).store.no_sums = !lying;
        w.t(2).store.lie = lying;
        back(&mut w);
        equal(&mut w, "k");
        let c = *w.t(1).replica.counters();
        assert_eq!((c.sync_patches, c.sync_refused, c.sync_puts), (u64::from(lying), u64::from(lying), 1));
    }
}

#[test]
fn a_broken_link_loses_nothing_and_repeats_little() {
    for lost in ["SyncSums", "Sums", "SyncPart", "SyncPatch", "Synced"] {
        let mut w = away(&Config::default(), &["k"], 16);
        update(&mut w, 10, "k", 3 * BLOCK, &[7; 4096]);
        update(&mut w, 11, "k", 9 * BLOCK, &[8; 4096]);
        let syncing = chain(3, "1S 2Y");
        w.targets.iter_mut().for_each(|t| t.routing(&syncing));
        w.settle_but(&[lost]);
        if lost != "SyncPart" {
            assert_eq!(w.t(2).replica.report().state, LocalState::Online, "{lost} was awaited");
        }
        w.t(1).on(Event::LinkUp { peer: 2 });
        w.settle();
        equal(&mut w, "k");
        assert!(w.t(1).replica.counters().sync_bytes <= 4 * u64::from(BLOCK) + u64::from(SIZE), "{lost}");
    }
}

#[test]
fn updates_wait_for_the_chunk_that_is_being_compared() {
    let mut w = away(&Config::default(), &["k"], 16);
    update(&mut w, 10, "k", 3 * BLOCK, &[7; 4096]);
    let syncing = chain(3, "1S 2Y");
    w.targets.iter_mut().for_each(|t| t.routing(&syncing));
    while w.t(1).replica.counters().sync_patches == 0 {
        w.targets.iter_mut().for_each(Target::finish_io);
        assert!(w.deliver(), "the resync goes on");
    }
    w.t(1).on(at(12, 3, "k", 5 * BLOCK, b"later"));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(12, Code::Ok)]);
    equal(&mut w, "k");
}

#[test]
fn the_rate_holds_the_next_chunk_back() {
    let rate = u64::from(BLOCK);
    let mut w = away(&Config { sync_rate: rate, sync_window: 1, ..Config::default() }, &["a", "b"], 4);
    for name in ["a", "b"] {
        update(&mut w, 10 + u64::from(name == "b"), name, BLOCK, &[7; 4096]);
    }
    back(&mut w);
    assert_eq!(w.t(1).replica.report().sync.map(|s| s.chunks), Some(1), "a block takes a second");
    let wake = w.t(1).replica.next_wake().expect("it goes on by itself");
    assert_eq!(wake, NOW + 1_000_000_000);
    w.t(1).at(wake, Event::Tick);
    assert_ne!(w.t(1).replica.next_wake(), Some(wake));
    w.settle();
    equal(&mut w, "b");
}

#[test]
fn clients_go_first() {
    let names: Vec<String> = (0..9).map(|n| format!("{}", (b'a' + n) as char)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let config = Config { sync_window: 4, sync_beside: u64::from(BLOCK), ..Config::default() };
    let mut w = away(&config, &names, 2);
    let started = |w: &mut World| w.t(1).store.pending.iter().filter(|d| matches!(d, catena_types::Done::Sums { .. })).count();
    for (n, name) in names.iter().enumerate() {
        update(&mut w, 20 + n as u64, name, 0, &[7; 4096]);
    }
    let syncing = chain(3, "1S 2Y");
    w.targets.iter_mut().for_each(|t| t.routing(&syncing));
    // A client waits for its update.
    w.t(1).on(at(40, 3, "z", 0, b"client"));
    for _ in 0..3 {
        w.t(2).finish_io();
        w.deliver();
    }
    assert_eq!(started(&mut w), 1);
    w.settle();
    equal(&mut w, "i");
}

/// Time passes until the source has tried often enough to read what it cannot.
fn try_again(w: &mut World) {
    for n in 1..=3 {
        let wake = w.t(1).replica.next_wake().unwrap_or_else(|| panic!("try {n}"));
        w.t(1).at(wake, Event::Tick);
        w.settle();
    }
}

#[test]
fn a_chunk_that_recovers_in_time_is_not_lost() {
    let mut w = away(&Config::default(), &["a"], 4);
    update(&mut w, 10, "a", BLOCK, &[7; 4096]);
    w.t(1).store.rot(&key("a"));
    back(&mut w);
    // Meanwhile it is updated like any other that is not settled.
    w.t(1).on(at(20, 3, "a", 0, &[9; 4 * BLOCK as usize]));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(20, Code::Ok)]);
    let wake = w.t(1).replica.next_wake().expect("it is tried again");
    w.t(1).at(wake, Event::Tick);
    w.settle();
    equal(&mut w, "a");
    assert_eq!(w.t(1).replica.counters().sync_lost, 0);
}

#[test]
fn a_chunk_that_nobody_can_read_is_held_as_lost_and_the_resync_goes_on() {
    let mut w = away(&Config::default(), &["a", "b"], 4);
    update(&mut w, 10, "a", BLOCK, &[7; 4096]);
    update(&mut w, 11, "b", BLOCK, &[7; 4096]);
    w.t(1).store.rot(&key("a"));
    back(&mut w);
    assert_eq!(w.t(2).replica.report().state, LocalState::Online);
    assert_eq!(w.t(1).replica.counters().sync_lost, 0, "the disk may recover");
    try_again(&mut w);
    equal(&mut w, "b");
    assert_eq!(w.t(2).replica.report().state, LocalState::UpToDate);
    let sync = w.t(1).replica.report().sync.expect("it is the source");
    assert_eq!((sync.chunks, sync.chunks_lost), (2, 1));
    // What the sink held is older, and is not served: neither has it.
    w.adopt(&chain(4, "1S 2S"));
    assert_eq!(w.t(2).store.meta_of("a"), w.t(1).store.meta_of("a"));
    let read = |request| match read(request, 4) {
        Event::Read(r) => Event::Read(catena_chain::ClientRead { key: key("a"), ..r }),
        other => other,
    };
    for id in [1, 2] {
        w.t(id).on(read(1));
        w.settle();
        assert_eq!(w.t(id).read_replies()[0].1, Code::Corrupt);
    }
    // Written as a whole, it is good again.
    let update = at(50, 4, "a", 0, &[1; 4 * BLOCK as usize]);
    w.t(1).on(update);
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(50, Code::Ok)]);
    w.t(2).on(read(2));
    w.settle();
    assert_eq!(w.t(2).read_replies()[0].1, Code::Ok);
    assert_eq!(w.t(2).replica.damaged(), 0);
}

#[test]
fn a_lost_chunk_comes_back_when_the_disk_does() {
    let mut w = away(&Config::default(), &["a"], 4);
    update(&mut w, 10, "a", BLOCK, &[7; 4096]);
    w.t(1).store.rot(&key("a"));
    back(&mut w);
    try_again(&mut w);
    w.t(1).store.unrot(&key("a"));
    w.adopt(&chain(4, "1S 2S"));
    let bytes = w.t(1).store.bytes(&key("a")).map(<[u8]>::to_vec);
    assert_eq!(w.t(2).store.bytes(&key("a")).map(<[u8]>::to_vec), bytes);
    assert_eq!(w.t(2).replica.damaged(), 0);
    assert_eq!(chain(4, "1S 2S").state_of(2), Some(PublicState::Serving));
}
