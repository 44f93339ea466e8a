//! Exactly once: what is remembered of sessions, where it goes, and when it is forgotten.

use catena_chain::{ClientUpdate, Config, Event};
use catena_types::{ChunkStore, Code};

use crate::support::*;

const TTL: u64 = 1_000_000_000;

fn world(n: u32) -> World {
    World::with(n, &Config { session_ttl: TTL, session_batch: 2, ..Config::default() })
}

/// An update of the session `channel`, not marked as its first unless `seq` is 1.
fn update(w: &mut World, head: u32, chain_ver: u64, channel: u32, seq: u64) -> Code {
    let request = u64::from(channel) * 100 + seq;
    let update = ClientUpdate { first: seq == 1, ..write(request, chain_ver, tag(channel, seq), b"once") };
    w.t(head).on(Event::Update(update));
    w.settle();
    let replies = w.t(head).update_replies();
    assert_eq!(replies.len(), 1);
    replies[0].1
}

/// Lets the head look at its sessions, from `now` on, until it has seen all of them.
fn look(w: &mut World, head: u32, now: u64) {
    let mut now = now;
    for _ in 0..6 {
        w.t(head).at(now, Event::Tick);
        now += 10_000_000;
    }
    w.settle();
}

fn channels(w: &mut World, id: u32) -> Vec<u32> {
    w.t(id).store.sessions(None, 100).into_iter().map(|(id, _)| id.channel).collect()
}

#[test]
fn idle_sessions_are_forgotten_everywhere_and_used_ones_are_not() {
    let mut w = world(3);
    (1..=5).for_each(|channel| assert_eq!(update(&mut w, 1, 1, channel, 1), Code::Ok));
    // They were used since the head began to look: all of them stay for now.
    look(&mut w, 1, NOW + TTL);
    assert_eq!(channels(&mut w, 3), [1, 2, 3, 4, 5]);
    for channel in [2, 4] {
        assert_eq!(update(&mut w, 1, 1, channel, 2), Code::Ok);
    }
    let due = w.t(1).replica.next_wake().expect("it looks again");
    look(&mut w, 1, due);
    for id in 1..=3 {
        assert_eq!(channels(&mut w, id), [2, 4], "target {id}");
    }
    assert_eq!(update(&mut w, 1, 1, 1, 2), Code::SessionUnknown);
    assert_eq!(update(&mut w, 1, 1, 2, 1), Code::StaleRequest);
    assert_eq!(update(&mut w, 1, 1, 4, 2), Code::Ok, "what came of it is still known");
    assert_eq!(w.t(1).replica.counters().repeats, 1);
    // Renewed by a request that says so.
    let again = ClientUpdate { first: true, ..write(9, 1, tag(1, 2), b"again") };
    w.t(1).on(Event::Update(again));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(9, Code::Ok)]);
}

#[test]
fn a_row_that_has_changed_since_is_kept() {
    let mut w = world(2);
    assert_eq!(update(&mut w, 1, 1, 1, 1), Code::Ok);
    let due = NOW + 2 * TTL + 40_000_000;
    look(&mut w, 1, NOW + TTL);
    look(&mut w, 1, due);
    assert_eq!(channels(&mut w, 1), [0; 0]);
    // The head has looked; its word comes late, behind an update of the same session.
    let mut w = world(2);
    assert_eq!(update(&mut w, 1, 1, 1, 1), Code::Ok);
    look(&mut w, 1, NOW + TTL);
    w.t(1).at(due, Event::Tick);
    let late = w.t(1).sent();
    w.t(1).on(Event::Update(ClientUpdate { first: true, ..write(5, 1, tag(1, 2), b"next") }));
    w.settle();
    for (msg, payload) in late {
        w.t(2).on(Event::Peer { msg, payload });
    }
    assert_eq!(w.t(2).store.sessions(None, 9).into_iter().map(|(_, row)| row.seq).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_new_head_begins_anew_and_drops_what_it_missed() {
    let mut w = world(2);
    assert_eq!(update(&mut w, 1, 1, 1, 1), Code::Ok);
    look(&mut w, 1, NOW + TTL);
    w.t(1).at(NOW + 2 * TTL + 40_000_000, Event::Tick);
    w.t(1).take();
    assert_eq!((channels(&mut w, 1).len(), channels(&mut w, 2).len()), (0, 1), "the message was lost");
    assert!(w.t(2).replica.next_wake().is_none(), "only the head looks");
    w.adopt(&chain(2, "1O 2S"));
    assert_eq!(w.t(2).replica.next_wake(), Some(NOW + TTL));
    assert_eq!(update(&mut w, 2, 2, 1, 1), Code::Ok, "it is known here");
    look(&mut w, 2, NOW + TTL);
    assert_eq!(channels(&mut w, 2), [1]);
    look(&mut w, 2, NOW + 2 * TTL + 40_000_000);
    assert_eq!(channels(&mut w, 2), [0; 0]);
}

#[test]
fn rows_go_to_a_sink_and_survive_every_change_of_head() {
    let mut w = world(3);
    for seq in 1..=3 {
        assert_eq!(update(&mut w, 1, 1, 7, seq), Code::Ok);
    }
    w.adopt(&chain(2, "1S 2S 3O"));
    assert_eq!(update(&mut w, 1, 2, 7, 4), Code::Ok);
    w.adopt(&chain(3, "1S 2S 3Y"));
    w.adopt(&chain(4, "1S 2S 3S"));
    w.adopt(&chain(5, "3S 1O 2O"));
    for seq in 1..=3 {
        assert_eq!(update(&mut w, 3, 5, 7, seq), Code::StaleRequest);
    }
    let commits = w.t(3).replica.counters().commits;
    assert_eq!(update(&mut w, 3, 5, 7, 4), Code::Ok);
    assert_eq!(w.t(3).replica.counters().commits, commits, "it is the recorded outcome");
}
