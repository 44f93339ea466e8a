//! Damage found on chunks at rest: who is asked, what is taken, and what happens meanwhile.

use catena_chain::{ClientUpdate, Config, Event, Replica};
use catena_types::{ChunkStore, Code, Committed, Done, LocalState, Op};
use catena_wire::peer::{Body, Fetch, Fetched, PeerMsg};

use crate::support::*;

/// A chain of `n` with chunk "k" at version 1 ("good bytes"), nothing left to say.
pub(crate) fn chain_with_chunk(n: u32) -> World {
    let mut w = World::new(n);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"good bytes")));
    w.settle();
    for t in &mut w.targets {
        t.take();
        t.store.log.clear();
    }
    w
}

pub(crate) fn counters(w: &mut World, id: u32) -> catena_chain::Counters {
    *w.t(id).replica.counters()
}

/// The scrub of target `id` stumbles upon chunk "k".
pub(crate) fn scrub_finds(w: &mut World, id: u32) {
    w.t(id).store.rot(&key("k"));
    w.t(id).on(Event::Done(Done::Damaged { key: key("k"), ver: 1 }));
}

/// What `id` asks now: whom, and under which number; everything it says is lost.
fn asked(w: &mut World, id: u32) -> Option<(u32, u64)> {
    w.t(id).sent().into_iter().find_map(|(msg, _)| match msg.body {
        Some(Body::Fetch(f)) => Some((msg.to, f.id)),
        _ => None,
    })
}

pub(crate) fn good_everywhere(w: &mut World, bytes: &[u8]) {
    for t in &w.targets {
        assert!(!t.store.is_rotten(&key("k")), "target {}", t.id);
        assert_eq!(t.store.bytes(&key("k")), Some(bytes), "target {}", t.id);
        assert_eq!(t.replica.damaged(), 0, "target {}", t.id);
    }
}

#[test]
fn a_read_finds_rot_and_the_chunk_is_repaired_from_the_successor() {
    let mut w = chain_with_chunk(3);
    w.t(2).store.rot(&key("k"));
    w.t(2).on(read(5, 1));
    w.settle();
    assert_eq!(w.t(2).read_replies()[0].1, Code::Corrupt, "the client reads another replica");
    good_everywhere(&mut w, b"good bytes");
    assert_eq!((counters(&mut w, 2).repairs, counters(&mut w, 3).fetches_served, counters(&mut w, 1).fetches_served), (1, 1, 0));
    w.t(2).on(read(6, 1));
    w.settle();
    assert_eq!(w.t(2).read_replies(), [(6, Code::Ok, b"good bytes".to_vec())]);
}

#[test]
fn the_scrub_of_the_tail_finds_rot_and_it_is_repaired_from_the_predecessor() {
    let mut w = chain_with_chunk(3);
    scrub_finds(&mut w, 3);
    assert_eq!(w.t(3).replica.damaged(), 1);
    w.settle();
    good_everywhere(&mut w, b"good bytes");
    assert_eq!(counters(&mut w, 2).fetches_served, 1);
    let log = std::mem::take(&mut w.t(3).store.log);
    assert_eq!(log, ["install k v1"], "nothing but the bytes has changed");
}

#[test]
fn the_predecessor_gives_what_it_has_staged_while_the_reply_is_on_its_way() {
    let mut w = World::new(2);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"x")));
    w.t(1).finish_io();
    w.deliver();
    w.t(2).finish_io();
    let reply = w.t(2).sent();
    scrub_finds(&mut w, 2);
    w.settle();
    good_everywhere(&mut World { targets: vec![w.targets.remove(1)] }, b"x");
    for (msg, payload) in reply {
        w.t(1).on(Event::Peer { msg, payload });
    }
    assert_eq!(w.t(1).update_replies(), [(1, Code::Ok)]);
}

#[test]
fn a_neighbour_whose_copy_is_damaged_too_is_passed_over() {
    let mut w = chain_with_chunk(3);
    w.t(3).store.rot(&key("k"));
    scrub_finds(&mut w, 2);
    w.settle();
    assert_eq!((counters(&mut w, 2).repairs, counters(&mut w, 1).fetches_served), (1, 1), "the successor had nothing good");
    assert_eq!((w.t(3).replica.damaged(), counters(&mut w, 3).unrepaired), (1, 1), "it asked one that was not good itself yet");
    w.t(3).on(read(5, 1));
    w.settle();
    good_everywhere(&mut w, b"good bytes");
}

#[test]
fn without_a_good_copy_the_chunk_stays_damaged_until_it_is_overwritten() {
    let mut w = chain_with_chunk(2);
    scrub_finds(&mut w, 1);
    scrub_finds(&mut w, 2);
    w.settle();
    for id in [1, 2] {
        let c = counters(&mut w, id);
        assert!(c.unrepaired >= 1 && c.repairs == 0);
        assert_eq!(w.t(id).replica.damaged(), 1);
    }
    w.t(1).on(Event::Update(write(2, 1, tag(1, 2), b"written whole")));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)]);
    for id in [1, 2] {
        w.t(id).on(read(3, 1));
        w.settle();
        assert_eq!(w.t(id).read_replies(), [(3, Code::Ok, b"written whole".to_vec())]);
    }
}

#[test]
fn one_that_is_alone_cannot_repair_anything() {
    let mut w = chain_with_chunk(1);
    scrub_finds(&mut w, 1);
    assert!(w.t(1).sent().is_empty());
    assert_eq!(counters(&mut w, 1).unrepaired, 1);
    assert_eq!(w.t(1).replica.report().state, LocalState::Online);
}

/// An answer of `from` to what `to` asked.
fn answer(from: u32, to: u32, id: u64, committed: Option<Committed>, bytes: &[u8]) -> Event<Bytes> {
    let code = if committed.is_some() { Code::Ok } else { Code::NotFound };
    let fetched = Fetched { id, key: b"k".to_vec(), code: code as i32, committed };
    let msg = PeerMsg { chain: 1, chain_ver: 1, from, to, body: Some(Body::Fetched(fetched)) };
    Event::Peer { msg, payload: Some(payload(bytes)) }
}

#[test]
fn nothing_but_the_committed_version_is_ever_taken() {
    let good = chain_with_chunk(1).t(1).store.meta(&key("k")).and_then(|m| m.committed).expect("committed");
    let wrong: [(Option<Committed>, &[u8]); 6] = [
        (Some(Committed { ver: 2, ..good }), b"good bytes"),
        (Some(Committed { ver: 0, ..good }), b"good bytes"),
        (Some(Committed { checksum: 7, ..good }), b"good bytes"),
        (Some(good), b"bad bytes!"),
        (Some(good), b"good byte"),
        (None, b"good bytes"),
    ];
    for (committed, bytes) in wrong {
        let mut w = chain_with_chunk(3);
        scrub_finds(&mut w, 2);
        let (from, id) = asked(&mut w, 2).expect("somebody is asked");
        assert_eq!(from, 3);
        w.t(2).on(answer(3, 2, id, committed, bytes));
        let (next, id) = asked(&mut w, 2).expect("the next is asked");
        assert_eq!(next, 1);
        w.t(2).on(answer(1, 2, id - 1, Some(good), b"good bytes"));
        w.t(2).on(answer(3, 2, id, Some(good), b"good bytes"));
        assert!(w.t(2).store.log.is_empty(), "{committed:?}: not what was asked, or not who was asked");
        w.t(2).on(answer(1, 2, id, Some(good), b"good bytes"));
        assert_eq!(w.t(2).store.log, ["install k v1"]);
        w.settle();
        good_everywhere(&mut w, b"good bytes");
    }
}

#[test]
fn an_asker_of_another_version_gets_none() {
    let mut w = chain_with_chunk(2);
    for (ver, checksum) in [(1, 7), (2, 7), (0, 0)] {
        let body = Body::Fetch(Fetch { id: 3, key: b"k".to_vec(), ver, checksum });
        w.t(2).on(Event::Peer { msg: PeerMsg { chain: 1, chain_ver: 1, from: 1, to: 2, body: Some(body) }, payload: None });
        assert_eq!(name(&w.t(2).sent()[0].0), "Fetched(NotFound)→1");
    }
    let body = Body::Fetch(Fetch { id: 3, key: b"k".to_vec(), ver: 1, checksum: 7 });
    w.t(2).on(Event::Peer { msg: PeerMsg { chain: 1, chain_ver: 1, from: 9, to: 2, body: Some(body) }, payload: None });
    assert_eq!(counters(&mut w, 2).protocol_errors, 1, "strangers are not answered");
    assert!(w.t(2).store.log.is_empty());
}

#[test]
fn updates_wait_for_the_repair_that_has_the_turn() {
    let mut w = chain_with_chunk(2);
    scrub_finds(&mut w, 1);
    let sent = w.t(1).sent();
    w.t(1).on(Event::Update(ClientUpdate { op: Op::write(5, 5), ..write(2, 1, tag(1, 2), b"BYTES") }));
    assert!(w.t(1).store.log.is_empty() && w.t(1).sent().is_empty(), "nothing is staged during a repair");
    for (msg, payload) in sent {
        w.t(2).on(Event::Peer { msg, payload });
    }
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)]);
    good_everywhere(&mut w, b"good BYTES");
    assert_eq!(w.t(1).store.log[..2], ["install k v1", "stage k v2"]);
}

#[test]
fn a_chunk_that_moved_on_is_repaired_as_it_is_now() {
    let mut w = chain_with_chunk(2);
    let append = ClientUpdate { op: Op::extend(12), payload: payload(b""), ..write(2, 1, tag(1, 2), b"") };
    w.t(2).store.rot(&key("k"));
    w.t(1).on(Event::Update(append));
    w.deliver();
    // The read of the old version comes back while the update has the turn.
    w.t(2).on(Event::Done(Done::Damaged { key: key("k"), ver: 1 }));
    assert_eq!(asked(&mut w, 2), None);
    w.settle();
    good_everywhere(&mut w, b"good bytes\0\0");
    assert!(w.t(2).store.log.contains(&"install k v2".to_string()));
}

#[test]
fn a_lost_question_or_answer_is_asked_again_on_the_new_link() {
    let mut w = chain_with_chunk(3);
    scrub_finds(&mut w, 2);
    assert_eq!(asked(&mut w, 2).map(|a| a.0), Some(3));
    w.t(2).on(Event::LinkUp { peer: 1 });
    assert_eq!(asked(&mut w, 2), None, "another link");
    w.t(2).on(Event::LinkUp { peer: 3 });
    w.deliver();
    w.t(3).finish_io();
    assert_eq!(w.t(3).sent().len(), 1, "the answer is lost");
    w.t(2).on(Event::LinkUp { peer: 3 });
    w.settle();
    good_everywhere(&mut w, b"good bytes");
    assert_eq!(counters(&mut w, 2).repairs, 1);
}

#[test]
fn a_new_chain_version_asks_the_neighbours_it_brings() {
    let mut w = chain_with_chunk(3);
    scrub_finds(&mut w, 2);
    let (msg, _) = w.t(2).sent().remove(0);
    w.t(3).on(Event::Peer { msg, payload: None });
    w.t(3).finish_io();
    let late = w.t(3).sent();
    w.targets.remove(2);
    w.adopt(&chain(2, "1S 2S 3O"));
    for (msg, payload) in late {
        w.t(2).on(Event::Peer { msg, payload });
    }
    good_everywhere(&mut w, b"good bytes");
    assert_eq!((counters(&mut w, 1).fetches_served, counters(&mut w, 2).dropped_versions), (1, 1));
}

#[test]
fn an_install_goes_on_over_a_new_chain_version() {
    let mut w = chain_with_chunk(2);
    scrub_finds(&mut w, 1);
    w.deliver();
    w.t(2).finish_io();
    w.deliver();
    assert_eq!(w.t(1).store.log, ["install k v1"]);
    w.t(1).routing(&chain(2, "1S 2O"));
    w.t(1).on(Event::Update(write(2, 2, tag(1, 2), b"new")));
    assert_eq!(w.t(1).store.log, ["install k v1"], "the turn is kept until the bytes are durable");
    w.t(1).finish_io();
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)]);
    assert_eq!(counters(&mut w, 1).repairs, 1);
}

#[test]
fn one_that_leaves_the_chain_stops_and_tries_again_when_it_is_back() {
    let mut w = chain_with_chunk(2);
    scrub_finds(&mut w, 2);
    w.t(2).sent();
    w.t(2).routing(&chain(2, "1S 2O"));
    w.t(1).routing(&chain(2, "1S 2O"));
    w.t(2).on(Event::LinkUp { peer: 1 });
    assert!(w.t(2).sent().is_empty());
    // Resync sends what is damaged anew, though it is the same version.
    w.adopt(&chain(3, "1S 2Y"));
    assert_eq!((counters(&mut w, 1).sync_puts, counters(&mut w, 1).sync_equal), (1, 0));
    good_everywhere(&mut w, b"good bytes");
    // Found during the resync, when the chunk was settled: repaired once it serves.
    scrub_finds(&mut w, 2);
    assert!(w.t(2).sent().is_empty());
    w.adopt(&chain(4, "1S 2S"));
    good_everywhere(&mut w, b"good bytes");
    assert_eq!(counters(&mut w, 2).repairs, 1);
}

#[test]
fn a_removed_chunk_needs_no_repair() {
    let mut w = chain_with_chunk(2);
    w.t(1).on(Event::Update(ClientUpdate { op: Op::remove(), payload: payload(b""), ..write(2, 1, tag(1, 2), b"") }));
    w.deliver();
    w.t(2).on(Event::Done(Done::Damaged { key: key("k"), ver: 1 }));
    w.settle();
    assert_eq!((w.t(2).replica.damaged(), counters(&mut w, 2).repairs, counters(&mut w, 2).unrepaired), (0, 0, 0));
}

#[test]
fn few_are_repaired_at_a_time_and_each_once() {
    let mut w = World::new(2);
    let names = ["a", "b", "c", "d", "e", "f"];
    for (i, name) in names.iter().enumerate() {
        w.t(1).on(Event::Update(ClientUpdate { key: key(name), ..write(1, 1, tag(i as u32, 1), name.as_bytes()) }));
    }
    w.settle();
    for name in names {
        w.t(1).store.rot(&key(name));
        for _ in 0..3 {
            w.t(1).on(Event::Done(Done::Damaged { key: key(name), ver: 1 }));
        }
    }
    let questions = w.t(1).sent();
    assert_eq!(questions.len(), Config::default().repair_window);
    for (msg, payload) in questions {
        w.t(2).on(Event::Peer { msg, payload });
    }
    w.settle();
    assert_eq!((counters(&mut w, 1).repairs, counters(&mut w, 1).damaged, w.t(1).replica.damaged()), (6, 18, 0));
}

#[test]
fn a_disk_that_damages_too_many_chunks_fails() {
    let mut w = World::new(2);
    for (seq, name) in (1..).zip(["a", "b", "c"]) {
        w.t(1).on(Event::Update(ClientUpdate { key: key(name), ..write(1, 1, tag(1, seq), b"x") }));
        w.settle();
    }
    w.t(1).replica = Replica::new(1, Config { max_damaged: 2, ..Config::default() });
    w.t(1).lease();
    w.t(1).routing(&chain(1, "1S 2S"));
    for (name, state) in
        [("a", LocalState::Online), ("a", LocalState::Online), ("b", LocalState::Online), ("c", LocalState::Failed)]
    {
        w.t(1).on(Event::Done(Done::Damaged { key: key(name), ver: 1 }));
        assert_eq!(w.t(1).replica.report().state, state);
    }
    assert!(w.t(1).replica.report().failed.contains("the last one c"), "{}", w.t(1).replica.report().failed);
    w.t(1).on(read(5, 1));
    assert_eq!(w.t(1).read_replies()[0].1, Code::NotServing);
}

#[test]
fn what_is_known_of_the_disk_outlives_the_adoption() {
    let mut t = Target::new(0);
    t.on(Event::Done(Done::Damaged { key: key("a"), ver: 1 }));
    t.replica.set_target(7);
    assert_eq!(t.replica.damaged(), 1);
    t.on(Event::Done(Done::Failed { reason: "EIO".into() }));
    t.replica.set_target(7);
    assert_eq!(t.replica.report().state, LocalState::Failed);
}
