//! Stories of a chain: what the protocol promises, one test each.

mod peers;
mod repair;
mod repair_resync;
mod repair_updates;
mod resync;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod window;

use catena_chain::{ClientUpdate, Event};
use catena_types::{Code, LocalState, Op, Payload, Precondition};
use catena_wire::peer::{Body, Forward, PeerMsg, Reject};
use support::*;

fn is_forward(m: &(PeerMsg, Option<Payload<Bytes>>)) -> bool {
    matches!(m.0.body, Some(Body::Forward(_)))
}

#[test]
fn a_write_commits_from_tail_to_head_and_only_when_durable_upstream() {
    let mut w = World::new(3);
    w.t(1).on(Event::Update(write(10, 1, tag(1, 1), b"hello")));
    // Overlapped: the forward leaves before the local stage is durable.
    let sent = w.t(1).sent();
    assert!(sent.iter().any(is_forward) && sent.len() == 1, "no release before the local stage is durable");
    for (msg, p) in sent {
        w.t(2).on(Event::Peer { msg, payload: p });
    }
    for (msg, p) in w.t(2).sent() {
        w.t(3).on(Event::Peer { msg, payload: p });
    }
    w.t(3).finish_io();
    w.t(2).finish_io();
    assert!(w.t(3).sent().is_empty(), "the tail waits for its release");
    assert!(w.t(2).sent().is_empty(), "the middle is not released yet, so it releases nobody");
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(10, Code::Ok)]);
    for id in 1..=3 {
        assert_eq!(w.t(id).store.bytes(&key("k")), Some(b"hello".as_slice()));
    }
    assert!(w.t(3).store.log.iter().any(|l| l == "commit k v1 cv1"));
}

#[test]
fn a_repeated_request_joins_or_gets_the_recorded_outcome() {
    let mut w = World::new(3);
    w.t(1).on(Event::Update(write(10, 1, tag(1, 1), b"a")));
    w.t(1).on(Event::Update(write(11, 1, tag(1, 1), b"a")));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(10, Code::Ok), (11, Code::Ok)]);
    w.t(1).on(Event::Update(write(12, 1, tag(1, 1), b"a")));
    assert_eq!(w.t(1).update_replies(), [(12, Code::Ok)]);
    assert_eq!(w.t(1).replica.counters().commits, 1);
    w.t(1).on(Event::Update(write(13, 1, tag(1, 2), b"b")));
    w.settle();
    w.t(1).on(Event::Update(write(14, 1, tag(1, 1), b"a")));
    assert_eq!(w.t(1).update_replies(), [(13, Code::Ok), (14, Code::StaleRequest)]);
    w.t(1).on(Event::Update(ClientUpdate { first: false, ..write(15, 1, tag(9, 1), b"a") }));
    assert_eq!(w.t(1).update_replies(), [(15, Code::SessionUnknown)]);
}

#[test]
fn preconditions_are_judged_when_the_turn_comes() {
    let mut w = World::new(2);
    let conditional = |request, t, condition| ClientUpdate { precondition: condition, ..write(request, 1, t, b"x") };
    w.t(1).on(Event::Update(conditional(1, tag(1, 1), Precondition::Absent)));
    w.t(1).on(Event::Update(conditional(2, tag(2, 1), Precondition::Absent)));
    w.t(1).on(Event::Update(conditional(3, tag(3, 1), Precondition::Version(1))));
    w.settle();
    let mut replies = w.t(1).update_replies();
    replies.sort_unstable();
    assert_eq!(replies, [(1, Code::Ok), (2, Code::PreconditionFailed), (3, Code::Ok)]);
    // A reject is remembered: the same request sent again cannot take effect later.
    w.t(1).on(Event::Update(conditional(4, tag(2, 1), Precondition::Exists)));
    assert_eq!(w.t(1).update_replies(), [(4, Code::PreconditionFailed)]);
}

#[test]
fn versions_never_repeat_over_a_remove() {
    let mut w = World::new(2);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"x")));
    w.settle();
    w.t(1).on(Event::Update(ClientUpdate { op: Op::remove(), payload: payload(b""), ..write(2, 1, tag(1, 2), b"") }));
    w.settle();
    w.t(1).on(Event::Update(ClientUpdate { op: Op::remove(), payload: payload(b""), ..write(3, 1, tag(1, 3), b"") }));
    w.t(1).on(Event::Update(write(4, 1, tag(2, 1), b"y")));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(1, Code::Ok), (2, Code::Ok), (3, Code::NotFound), (4, Code::Ok)]);
    assert!(w.t(2).store.log.iter().any(|l| l == "commit k v3 cv1"));
}

#[test]
fn a_reject_is_undone_everywhere_before_the_client_hears_of_it() {
    let mut w = World::new(3);
    w.t(3).store.refuse = Some(Code::NoSpace);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"x")));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(1, Code::NoSpace)]);
    for id in 1..=3 {
        assert!(w.t(id).store.bytes(&key("k")).is_none());
        assert!(!w.t(id).store.log.iter().any(|l| l.starts_with("commit")));
    }
    assert!(
        w.t(1).store.log.iter().any(|l| l.starts_with("unstage")) && w.t(2).store.log.iter().any(|l| l.starts_with("unstage"))
    );
    w.t(1).on(Event::Update(write(2, 1, tag(1, 2), b"y")));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(2, Code::Ok)]);
}

#[test]
fn a_reject_of_an_older_attempt_is_dropped() {
    let mut w = World::new(2);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"x")));
    let first = w.t(1).sent();
    let Some(Body::Forward(Forward { key: k, ver, tag: t, attempt, .. })) = first[0].0.body.clone() else { panic!("a forward") };
    w.t(1).on(Event::LinkUp { peer: 2 });
    let stale = Body::Reject(Reject { key: k, ver, tag: t, attempt, code: Code::NoSpace as i32, by: 2 });
    w.t(1).on(Event::Peer { msg: PeerMsg { chain: 1, chain_ver: 1, from: 2, to: 1, body: Some(stale) }, payload: None });
    assert_eq!(w.t(1).replica.counters().stale_rejects, 1);
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(1, Code::Ok)]);
}

#[test]
fn a_read_of_a_pending_chunk_follows_the_tail() {
    let mut w = World::new(2);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"old")));
    w.settle();
    w.t(1).on(Event::Update(write(2, 1, tag(1, 2), b"new")));
    w.t(1).on(read(5, 1));
    w.t(1).finish_io();
    let sent = w.t(1).sent();
    // The question overtakes the update: the tail answers "old".
    let (questions, rest): (Vec<_>, Vec<_>) = sent.into_iter().partition(|m| matches!(m.0.body, Some(Body::Query(_))));
    for (msg, payload) in questions {
        w.t(2).on(Event::Peer { msg, payload });
    }
    for (msg, payload) in w.t(2).sent() {
        w.t(1).on(Event::Peer { msg, payload });
    }
    w.t(1).finish_io();
    assert_eq!(w.t(1).read_replies(), [(5, Code::Ok, b"old".to_vec())]);
    // The tail commits; the head has not heard yet, is asked, and serves the staged version.
    for (msg, payload) in rest {
        w.t(2).on(Event::Peer { msg, payload });
    }
    w.t(2).finish_io();
    let held_back = w.t(2).sent();
    assert!(w.t(2).store.log.iter().any(|l| l == "commit k v2 cv1"));
    w.t(1).on(read(6, 1));
    w.settle();
    assert_eq!(w.t(1).read_replies(), [(6, Code::Ok, b"new".to_vec())]);
    for (msg, payload) in held_back {
        w.t(1).on(Event::Peer { msg, payload });
    }
    assert_eq!(w.t(1).update_replies(), [(1, Code::Ok), (2, Code::Ok)]);
}

#[test]
fn no_lease_no_read_no_answer() {
    let mut w = World::new(2);
    w.t(1).at(LEASE_END, read(5, 1));
    assert_eq!(w.t(1).read_replies()[0].1, Code::LeaseExpired);
    w.t(1).at(LEASE_END, Event::Update(write(1, 1, tag(1, 1), b"x")));
    assert_eq!(w.t(1).update_replies(), [(1, Code::LeaseExpired)]);
    // A lease granted at routing that has not been applied is no lease.
    w.t(1).on(Event::Lease { until: 2 * LEASE_END, routing: 99 });
    w.t(1).on(read(6, 1));
    assert_eq!(w.t(1).read_replies()[0].1, Code::LeaseExpired);
}

#[test]
fn the_tail_dies_and_its_predecessor_commits_at_once() {
    let mut w = World::new(3);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"x")));
    for (msg, p) in w.t(1).sent() {
        w.t(2).on(Event::Peer { msg, payload: p });
    }
    w.t(1).finish_io();
    for (msg, p) in w.t(1).sent() {
        w.t(2).on(Event::Peer { msg, payload: p });
    }
    w.t(2).finish_io();
    w.t(2).sent();
    let shorter = chain(2, "1S 2S 3O");
    w.t(2).routing(&shorter);
    assert!(w.t(2).store.log.iter().any(|l| l == "commit k v1 cv2"), "the tail rule is part of adopting");
    w.t(1).routing(&shorter);
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(1, Code::Ok)]);
    assert!(w.t(1).store.log.iter().any(|l| l == "commit k v1 cv2"), "the chain version of the reply is recorded");
}

#[test]
fn the_head_dies_and_its_successor_drives_the_update_on() {
    let mut w = World::new(3);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"x")));
    for (msg, p) in w.t(1).sent() {
        w.t(2).on(Event::Peer { msg, payload: p });
    }
    w.targets.remove(0);
    w.adopt(&chain(2, "2S 3S 1O"));
    assert_eq!(w.t(3).store.bytes(&key("k")), Some(b"x".as_slice()));
    w.t(2).on(Event::Update(write(2, 2, tag(1, 1), b"x")));
    assert_eq!(w.t(2).update_replies(), [(2, Code::Ok)], "the client's retry finds its session");
    assert_eq!(w.t(2).replica.counters().commits, 1);
}

#[test]
fn a_deposed_head_sends_its_clients_away() {
    let mut w = World::new(2);
    w.t(1).on(Event::Update(write(1, 1, tag(1, 1), b"x")));
    w.t(1).on(Event::Update(write(2, 1, tag(2, 1), b"y")));
    w.t(1).routing(&chain(2, "2S 1O"));
    // The first is in flight, and may be committed by the others; the second never started.
    assert_eq!(w.t(1).update_replies(), [(1, Code::OutcomeUnknown), (2, Code::NotServing)]);
}

#[test]
fn a_joined_target_serves_only_when_confirmed_from_the_head_down() {
    let mut w = World { targets: (1..=2).map(Target::new).collect() };
    let two = chain(1, "1S 2S");
    w.t(2).lease();
    w.t(2).routing(&two);
    w.t(2).on(read(5, 1));
    assert_eq!(w.t(2).read_replies()[0].1, Code::NotServing);
    w.t(1).lease();
    w.t(1).routing(&two);
    w.settle();
    w.t(2).on(read(6, 1));
    assert_eq!(w.t(2).read_replies()[0].1, Code::NotFound);
}

fn fill(w: &mut World, chain_ver: u64, names: &[&str]) {
    for (i, name) in names.iter().enumerate() {
        let update = ClientUpdate { key: key(name), ..write(100 + i as u64, chain_ver, tag(50 + i as u32, 1), name.as_bytes()) };
        w.t(1).on(Event::Update(update));
    }
    w.settle();
    w.t(1).update_replies();
}

#[test]
fn resync_makes_a_returning_target_equal_and_moves_only_what_differs() {
    let mut w = World::new(3);
    fill(&mut w, 1, &["a", "b", "c", "d", "e"]);
    let without = chain(2, "1S 2S 3O");
    w.adopt(&without);
    for (name, op) in [("b", Op::write(0, 1)), ("d", Op::remove())] {
        let update = ClientUpdate { key: key(name), op, ..write(1, 2, tag(60, u64::from(name == "d") + 1), b"") };
        let bytes: &[u8] = if op.payload_len() > 0 { b"B" } else { b"" };
        w.t(1).on(Event::Update(ClientUpdate { payload: payload(bytes), ..update }));
        w.settle();
    }
    // What the returning target holds staged from before is inert and goes away.
    w.t(3).store.leave_staged(&key("z"), 1, tag(77, 1), b"ghost");
    w.adopt(&chain(3, "1S 2S 3Y"));
    assert_eq!(w.t(3).replica.report().state, LocalState::UpToDate);
    assert_eq!(w.t(3).replica.report().chain_ver, 3);
    assert_eq!(w.t(3).store.bytes(&key("b")), Some(b"B".as_slice()));
    assert!(w.t(3).store.bytes(&key("d")).is_none());
    let counters = *w.t(2).replica.counters();
    assert_eq!((counters.sync_puts, counters.sync_drops, counters.sync_equal), (1, 2, 3));
    w.adopt(&chain(4, "1S 2S 3S"));
    w.t(3).on(read(9, 4));
    assert_eq!(w.t(3).read_replies()[0].1, Code::NotFound);
    w.t(1).on(Event::Update(write(70, 4, tag(1, 1), b"after")));
    w.settle();
    assert_eq!(w.t(3).store.bytes(&key("k")), Some(b"after".as_slice()));
}

#[test]
fn updates_during_a_resync_are_forwarded_once_their_chunk_is_settled() {
    let mut w = World::new(2);
    fill(&mut w, 1, &["a", "k", "m", "x", "y", "z"]);
    w.adopt(&chain(2, "1S 2O"));
    w.t(1).on(Event::Update(ClientUpdate { key: key("z"), ..write(1, 2, tag(61, 1), b"Z1") }));
    w.settle();
    let syncing = chain(3, "1S 2Y");
    for id in [1, 2] {
        w.t(id).routing(&syncing);
    }
    let mut seq = 1;
    while w.t(2).replica.report().state != LocalState::UpToDate {
        for name in ["a", "z"] {
            seq += 1;
            w.t(1).on(Event::Update(ClientUpdate {
                key: key(name),
                ..write(seq, 3, tag(name.as_bytes()[0].into(), seq), format!("{name}{seq}").as_bytes())
            }));
        }
        w.targets.iter_mut().for_each(Target::finish_io);
        w.deliver();
        assert!(seq < 1000, "the resync ends while updates go on");
    }
    w.settle();
    for name in ["a", "k", "m", "x", "y", "z"] {
        let of_head = w.t(1).store.bytes(&key(name)).map(<[u8]>::to_vec);
        assert_eq!(w.t(2).store.bytes(&key(name)).map(<[u8]>::to_vec), of_head, "chunk {name}");
    }
    assert!(w.t(1).update_replies().iter().all(|r| r.1 == Code::Ok));
    assert_eq!(w.t(2).replica.counters().protocol_errors, 0);
}

#[test]
fn a_sink_without_room_ends_its_resync_and_no_clients_update() {
    let mut w = World::new(2);
    fill(&mut w, 1, &["a", "b"]);
    w.adopt(&chain(2, "1S 2O"));
    w.t(1).on(Event::Update(ClientUpdate { key: key("a"), ..write(1, 2, tag(61, 1), b"A") }));
    w.settle();
    w.t(2).store.refuse = Some(Code::NoSpace);
    w.adopt(&chain(3, "1S 2Y"));
    let report = w.t(1).replica.report();
    assert!(report.sync_failed.contains("NoSpace"), "{report:?}");
    w.t(1).on(Event::Update(write(2, 3, tag(62, 1), b"x")));
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(1, Code::Ok), (2, Code::Ok)]);
    assert_eq!(w.t(2).replica.report().state, LocalState::Online);
}

#[test]
fn a_revived_member_rolls_its_staged_updates_forward() {
    let mut t = Target::new(2);
    t.store.leave_staged(&key("k"), 1, tag(1, 1), b"staged");
    t.lease();
    t.routing(&chain(5, "2C 1L 3L"));
    t.on(read(1, 5));
    assert_eq!(t.read_replies()[0].1, Code::NotServing);
    assert!(t.store.bytes(&key("k")).is_none(), "not before it is SERVING");
    t.routing(&chain(6, "2S 1O 3O"));
    t.finish_io();
    assert_eq!(t.store.bytes(&key("k")), Some(b"staged".as_slice()));
    t.on(Event::Update(write(2, 6, tag(1, 1), b"staged")));
    assert_eq!(t.update_replies(), [(2, Code::Ok)]);
}

#[test]
fn a_forward_that_does_not_fit_makes_the_target_start_anew() {
    let mut w = World::new(2);
    fill(&mut w, 1, &["k"]);
    let forward = Forward {
        key: b"k".to_vec(),
        ver: 9,
        tag: tag(1, 1),
        op: Op::truncate(0),
        chunk_size: 4096,
        base_ver: 8,
        ..Default::default()
    };
    let msg = PeerMsg { chain: 1, chain_ver: 1, from: 1, to: 2, body: Some(Body::Forward(forward)) };
    w.t(2).on(Event::Peer { msg, payload: Some(payload(b"")) });
    assert!(w.t(2).take().iter().any(|c| matches!(c, catena_chain::Command::Reopen { .. })));
    assert_eq!(w.t(2).replica.counters().protocol_errors, 1);
    w.t(2).on(read(5, 1));
    assert_eq!(w.t(2).read_replies()[0].1, Code::NotServing);
}

#[test]
fn messages_of_a_newer_version_wait_and_of_an_older_one_are_dropped() {
    let mut w = World::new(2);
    let two = chain(2, "1S 2S");
    w.t(1).routing(&two);
    w.t(1).on(Event::Update(write(1, 2, tag(1, 1), b"x")));
    w.settle();
    assert!(w.t(1).update_replies().is_empty(), "the successor has not adopted the version");
    w.t(2).routing(&two);
    w.settle();
    assert_eq!(w.t(1).update_replies(), [(1, Code::Ok)]);
    let old = PeerMsg { chain: 1, chain_ver: 1, from: 1, to: 2, body: Some(Body::Confirm(Default::default())) };
    w.t(2).on(Event::Peer { msg: old, payload: None });
    assert_eq!(w.t(2).replica.counters().dropped_versions, 1);
}

/// Versions of two chains are compared with nothing: what was meant for a target in a chain that it was to join, and has
/// not, is none of the chain that it was in.
#[test]
fn messages_of_another_chain_are_dropped() {
    let mut w = World::new(2);
    let other = PeerMsg { chain: 9, chain_ver: 2, from: 8, to: 2, body: Some(Body::Confirm(Default::default())) };
    w.t(2).on(Event::Peer { msg: other.clone(), payload: None });
    w.t(2).routing(&chain(2, "1S 2S"));
    w.t(2).on(Event::Peer { msg: other, payload: None });
    let counters = w.t(2).replica.counters();
    assert_eq!((counters.dropped_versions, counters.protocol_errors), (2, 0));
}

#[test]
fn a_lost_link_loses_nothing() {
    let mut w = World::new(3);
    for (i, hop) in [(1u64, 1u32), (2, 2), (3, 1), (4, 2)] {
        let bytes = [i as u8; 9];
        w.t(1).on(Event::Update(ClientUpdate { op: Op::write(i as u32, 9), ..write(i, 1, tag(1, i), &bytes) }));
        // Lose everything that `hop` and its successor send after a moment, then tell both of new links.
        if i > 2 {
            w.targets.iter_mut().for_each(Target::finish_io);
            w.deliver();
            w.targets.iter_mut().for_each(Target::finish_io);
        }
        if i % 2 == 0 {
            w.deliver();
        }
        w.t(hop).sent();
        w.t(hop + 1).sent();
        w.settle();
        w.t(1).on(Event::LinkUp { peer: 2 });
        w.t(2).on(Event::LinkUp { peer: 3 });
        w.settle();
        assert_eq!(w.t(1).update_replies(), [(i, Code::Ok)], "round {i}");
    }
    for id in 1..=3 {
        assert_eq!(w.t(id).replica.counters().commits, 4);
    }
    let head = w.t(1).store.bytes(&key("k")).map(<[u8]>::to_vec);
    assert_eq!(w.t(3).store.bytes(&key("k")).map(<[u8]>::to_vec), head);
}
