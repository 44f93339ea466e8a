//! Updates that build on damaged bytes: their stage fails after it was accepted, and the update keeps its turn.

use catena_chain::{ClientUpdate, Command, Event};
use catena_types::{ChunkStore, Code, Done, Op};
use catena_wire::peer::{Body, PeerMsg, Reject};

use super::repair::{chain_with_chunk, counters, good_everywhere};
use crate::support::*;

/// A write in the middle of chunk "k": the rest of its bytes is kept.
fn partial(request: u64, chain_ver: u64, seq: u64) -> Event<Bytes> {
    Event::Update(ClientUpdate { op: Op::write(5, 5), ..write(request, chain_ver, tag(1, seq), b"BYTES") })
}

fn reopens(w: &mut World, id: u32) -> bool {
    w.t(id).out.iter().any(|c| matches!(c, Command::Reopen { .. }))
}

fn kinds(w: &mut World, id: u32) -> Vec<String> {
    w.t(id).sent().iter().map(|(msg, _)| name(msg)).collect()
}

#[test]
fn what_an_update_builds_on_is_repaired_at_the_head_the_middle_and_the_tail() {
    for id in 1..=3 {
        let mut w = chain_with_chunk(3);
        w.t(id).store.rot(&key("k"));
        w.t(1).on(partial(2, 1, 2));
        w.settle();
        assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)], "rot at target {id}");
        good_everywhere(&mut w, b"good BYTES");
        let log = w.t(id).store.log.clone();
        assert_eq!(log, ["stage k v2", "install k v1", "stage k v2", "commit k v2 cv1"], "exactly once, at target {id}");
        let c = counters(&mut w, id);
        assert_eq!((c.restaged, c.repairs, c.commits, c.unrepaired), (1, 1, 2, 0));
    }
}

#[test]
fn all_but_one_may_be_damaged_next_to_it() {
    for (bad, good) in [([1, 2], 3), ([2, 3], 1), ([1, 3], 2)] {
        let mut w = chain_with_chunk(3);
        bad.iter().for_each(|&id| w.t(id).store.rot(&key("k")));
        w.t(1).on(partial(2, 1, 2));
        w.settle();
        let replies = w.t(1).update_replies();
        // With both at the end damaged, the tail asks one that cannot answer yet: refused, and then all is repaired.
        let first = if good == 1 { Code::Corrupt } else { Code::Ok };
        assert_eq!(replies, [(2, first)], "only {good} is good");
        if first == Code::Corrupt {
            w.t(1).on(partial(3, 1, 3));
            w.settle();
            assert_eq!(w.t(1).update_replies(), [(3, Code::Ok)]);
        }
        good_everywhere(&mut w, b"good BYTES");
        assert!((1..=3).all(|id| !reopens(&mut w, id)));
    }
}

#[test]
fn with_no_good_copy_anywhere_the_update_is_refused_and_nobody_falls() {
    for n in 1..=3 {
        let mut w = chain_with_chunk(n);
        (1..=n).for_each(|id| w.t(id).store.rot(&key("k")));
        w.t(1).on(partial(2, 1, 2));
        w.settle();
        assert_eq!(w.t(1).update_replies(), [(2, Code::Corrupt)], "{n} targets");
        assert!((1..=n).all(|id| !reopens(&mut w, id)));
        w.t(1).on(partial(3, 1, 2));
        assert_eq!(w.t(1).update_replies(), [(3, Code::Corrupt)], "a reject is remembered");
        for id in 1..=n {
            assert_eq!(w.t(id).store.meta(&key("k")).and_then(|m| m.staged), None);
        }
        // The whole chunk can be written, and is good again.
        w.t(1).on(Event::Update(write(4, 1, tag(1, 3), b"written whole")));
        w.settle();
        assert_eq!(w.t(1).update_replies(), [(4, Code::Ok)]);
        assert!(!w.t(n).store.is_rotten(&key("k")));
    }
}

#[test]
fn one_whose_successor_may_hold_the_update_leaves_the_chain() {
    let mut w = chain_with_chunk(3);
    w.t(2).store.rot(&key("k"));
    w.t(1).on(partial(2, 1, 2));
    w.settle_but(&["Fetch"]);
    // Both neighbours hold the update staged, and what it builds on goes bad there now.
    w.t(1).store.rot(&key("k"));
    w.t(3).store.rot(&key("k"));
    w.t(2).on(Event::LinkUp { peer: 3 });
    w.settle();
    assert!(reopens(&mut w, 2));
    assert!(w.t(1).update_replies().is_empty());
    w.targets.remove(1);
    w.adopt(&chain(2, "1S 3S 2O"));
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)], "the others go on without it");
}

#[test]
fn a_reject_during_the_repair_ends_it() {
    let mut w = chain_with_chunk(3);
    w.t(1).store.rot(&key("k"));
    w.t(3).store.refuse = Some(Code::NoSpace);
    w.t(1).on(partial(2, 1, 2));
    w.t(1).finish_io();
    let fetch = w.t(1).sent();
    let attempt = fetch.iter().find_map(|(m, _)| match &m.body {
        Some(Body::Forward(f)) => Some(f.attempt),
        _ => None,
    });
    let reject = Reject { key: b"k".to_vec(), ver: 2, tag: tag(1, 2), attempt: attempt.expect("sent"), code: 4, by: 3 };
    let msg = PeerMsg { chain: 1, chain_ver: 1, from: 2, to: 1, body: Some(Body::Reject(reject)) };
    w.t(1).on(Event::Peer { msg, payload: None });
    assert_eq!(w.t(1).update_replies(), [(2, Code::NoSpace)], "nothing is staged here: nothing to undo");
    assert_eq!(w.t(1).store.log, ["stage k v2"]);
    w.settle();
    // The next update takes the same version; a late word about the first says nothing of it.
    w.t(3).store.refuse = None;
    w.t(1).on(partial(3, 1, 3));
    w.t(1).on(Event::Done(Done::StageFailed { key: key("k"), ver: 2, code: Code::Corrupt }));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(3, Code::Ok)]);
    good_everywhere(&mut w, b"good BYTES");
    assert_eq!((counters(&mut w, 1).repairs, counters(&mut w, 1).restaged), (1, 0));
}

#[test]
fn a_reject_while_the_update_is_staged_again_is_undone() {
    let mut w = chain_with_chunk(2);
    w.t(1).store.rot(&key("k"));
    w.t(2).store.refuse = Some(Code::NoSpace);
    w.t(1).on(partial(2, 1, 2));
    let forward = w.t(1).sent();
    // The question overtakes the update.
    w.settle();
    assert!(w.t(1).store.meta(&key("k")).is_some_and(|m| m.staged.is_some()), "staged again");
    for (msg, payload) in forward {
        w.t(2).on(Event::Peer { msg, payload });
    }
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(2, Code::NoSpace)]);
    assert!(w.t(1).store.log.contains(&"unstage k v2".to_string()));
    good_everywhere(&mut w, b"good bytes");
}

#[test]
fn lost_links_and_new_chain_versions_during_the_repair() {
    for id in 1..=3u32 {
        let mut w = chain_with_chunk(3);
        w.t(id).store.rot(&key("k"));
        w.t(1).on(partial(2, 1, 2));
        w.settle_but(&["Fetch"]);
        assert!(w.t(1).update_replies().is_empty());
        // All is lost, and there are new links everywhere.
        for (from, to) in [(1, 2), (2, 1), (2, 3), (3, 2)] {
            w.t(from).on(Event::LinkUp { peer: to });
        }
        w.settle_but(&["Fetched"]);
        assert!(w.t(1).update_replies().is_empty());
        w.adopt(&chain(2, "1S 2S 3S"));
        assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)], "rot at target {id}");
        good_everywhere(&mut w, b"good BYTES");
        assert!((1..=3).all(|t| counters(&mut w, t).commits == 2));
    }
}

#[test]
fn the_one_that_is_left_alone_with_damage_refuses_the_update() {
    let mut w = chain_with_chunk(2);
    w.t(2).store.rot(&key("k"));
    w.t(1).on(partial(2, 1, 2));
    w.settle_but(&["Fetch"]);
    w.targets.remove(0);
    w.adopt(&chain(2, "2S 1O"));
    assert_eq!(w.t(2).store.meta(&key("k")).and_then(|m| m.staged), None);
    w.t(2).on(partial(3, 2, 2));
    assert_eq!(w.t(2).update_replies(), [(3, Code::Corrupt)], "the client's retry hears it");
    w.t(2).on(Event::Update(write(4, 2, tag(1, 3), b"written whole")));
    w.settle();
    assert_eq!(w.t(2).update_replies(), [(4, Code::Ok)]);
}

#[test]
fn readers_of_the_pending_update_wait_for_it() {
    let mut w = chain_with_chunk(2);
    w.t(1).store.rot(&key("k"));
    w.t(1).on(partial(2, 1, 2));
    w.t(1).finish_io();
    w.t(1).on(read(5, 1));
    w.settle();
    let (_, code, bytes) = w.t(1).read_replies().remove(0);
    // The tail had not committed it, so the version before it was asked for, which was damaged until it was repaired.
    assert!(code == Code::Corrupt || bytes == b"good bytes" || bytes == b"good BYTES", "{code:?} {bytes:?}");
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)]);
}

#[test]
fn no_room_for_the_repair_is_no_reason_to_wait() {
    let mut w = chain_with_chunk(1);
    w.adopt(&chain(2, "1S"));
    let mut w2 = chain_with_chunk(2);
    w2.t(2).store.rot(&key("k"));
    w2.t(1).on(partial(2, 1, 2));
    w2.settle_but(&["Fetched"]);
    w2.t(2).on(Event::LinkUp { peer: 1 });
    w2.deliver();
    w2.t(1).finish_io();
    w2.t(2).store.refuse = Some(Code::NoSpace);
    w2.settle();
    assert_eq!(w2.t(1).update_replies(), [(2, Code::NoSpace)], "the tail refuses it, as without room for the update itself");
    assert!(kinds(&mut w2, 2).is_empty() && !reopens(&mut w2, 2));
}
