//! Damage at the source of a resync and at its sink.

use catena_chain::{ClientUpdate, Event};
use catena_types::{Code, LocalState, Op};

use super::repair::{chain_with_chunk, counters, good_everywhere};
use crate::support::*;

/// Target 3 is away while chunk "k" becomes version 2 ("fresh news!"); then it is back, and every message of `lost` kinds is lost.
fn returns(w: &mut World, rotten: &[u32], lost: &[&str]) {
    w.adopt(&chain(2, "1S 2S 3O"));
    w.t(1).on(Event::Update(write(2, 2, tag(1, 2), b"fresh news!")));
    w.settle();
    rotten.iter().for_each(|&id| w.t(id).store.rot(&key("k")));
    let back = chain(3, "1S 2S 3Y");
    for t in &mut w.targets {
        t.lease();
        t.routing(&back);
    }
    w.settle_but(lost);
}

#[test]
fn a_chunk_damaged_at_the_source_is_first_repaired_from_its_predecessor() {
    let mut w = chain_with_chunk(3);
    returns(&mut w, &[2], &[]);
    assert_eq!(w.t(3).replica.report().state, LocalState::UpToDate);
    good_everywhere(&mut w, b"fresh news!");
    assert_eq!((counters(&mut w, 2).repairs, counters(&mut w, 1).fetches_served), (1, 1));
}

#[test]
fn the_sink_gives_back_what_it_has_of_the_same_version() {
    let mut w = chain_with_chunk(2);
    w.adopt(&chain(2, "1S 2O"));
    w.t(1).store.rot(&key("k"));
    // Something is left staged at the sink, so that the chunk is not taken as equal.
    w.t(2).store.leave_staged(&key("k"), 2, tag(5, 5), b"ghost");
    w.adopt(&chain(3, "1S 2Y"));
    assert_eq!(w.t(2).replica.report().state, LocalState::UpToDate);
    good_everywhere(&mut w, b"good bytes");
    assert_eq!((counters(&mut w, 1).repairs, counters(&mut w, 2).fetches_served), (1, 1));
}

#[test]
fn updates_wait_while_the_source_repairs_and_lost_messages_are_sent_again() {
    let mut w = chain_with_chunk(3);
    returns(&mut w, &[2], &["Fetch"]);
    w.t(1).on(Event::Update(ClientUpdate { op: Op::extend(12), payload: payload(b""), ..write(3, 3, tag(1, 3), b"") }));
    w.settle();
    w.t(2).on(Event::LinkUp { peer: 3 });
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)], "the chunk's turn is taken");
    w.t(2).on(Event::LinkUp { peer: 1 });
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(3, Code::Ok)]);
    assert_eq!(w.t(3).replica.report().state, LocalState::UpToDate);
    good_everywhere(&mut w, b"fresh news!\0");
}

#[test]
fn a_sink_repairs_what_a_forwarded_update_builds_on() {
    for promoted in [false, true] {
        let mut w = chain_with_chunk(2);
        w.adopt(&chain(2, "1S 2O"));
        w.adopt(&chain(3, "1S 2Y"));
        w.t(2).store.rot(&key("k"));
        w.t(1).on(Event::Update(ClientUpdate { op: Op::write(5, 5), ..write(2, 3, tag(1, 2), b"BYTES") }));
        if promoted {
            w.settle_but(&["Fetch"]);
            w.adopt(&chain(4, "1S 2S"));
        } else {
            w.settle();
        }
        assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)]);
        good_everywhere(&mut w, b"good BYTES");
        assert_eq!(counters(&mut w, 2).restaged, 1);
    }
}

#[test]
fn a_source_alone_with_damage_gives_up_its_sink_rather_than_the_chain() {
    let mut w = chain_with_chunk(2);
    w.adopt(&chain(2, "1S 2O"));
    let syncing = chain(3, "1S 2Y");
    w.targets.iter_mut().for_each(|t| t.routing(&syncing));
    // The chunk is settled, the resync is not done: its end does not come through.
    w.settle_but(&["SyncDone", "SyncSessions"]);
    for id in [1, 2] {
        w.t(id).store.rot(&key("k"));
    }
    w.t(1).on(Event::Update(ClientUpdate { op: Op::write(5, 5), ..write(2, 3, tag(1, 2), b"BYTES") }));
    w.settle();
    // SyncDone was sent: only the next chain version decides.
    assert_eq!(w.t(1).update_replies(), []);
    assert!(w.t(1).replica.report().sync_failed.is_empty());
    w.adopt(&chain(4, "1S 2W"));
    assert_eq!(w.t(1).update_replies(), [(2, Code::Corrupt)]);
    assert_eq!(w.t(1).replica.report().state, LocalState::Online);
}

#[test]
fn a_sink_that_cannot_stage_and_has_nobody_to_ask_ends_its_resync() {
    let mut w = chain_with_chunk(2);
    for name in ["x", "y", "z"] {
        let seq = u64::from(name.as_bytes()[0]);
        w.t(1).on(Event::Update(ClientUpdate { key: key(name), ..write(seq, 1, tag(2, seq), b"abc") }));
        w.settle();
    }
    w.adopt(&chain(2, "1S 2O"));
    let syncing = chain(3, "1S 2Y");
    w.targets.iter_mut().for_each(|t| t.routing(&syncing));
    // "k" is settled, and the question for the second page is lost.
    while counters(&mut w, 1).sync_equal < 2 {
        w.targets.iter_mut().for_each(Target::finish_io);
        w.deliver();
    }
    w.t(1).take();
    w.t(1).on(Event::Update(ClientUpdate { op: Op::write(5, 5), ..write(2, 3, tag(1, 2), b"BYTES") }));
    w.t(2).store.rot(&key("k"));
    w.t(1).finish_io();
    w.t(1).store.rot(&key("k"));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)], "never a client's update");
    assert!(w.t(1).replica.report().sync_failed.contains("Corrupt"), "{:?}", w.t(1).replica.report());
}
