//! Admission of forwards: what is on its way to a successor is bounded, by nothing but what that successor stages.

use catena_chain::{ClientUpdate, Config, Event};
use catena_types::Code;
use catena_wire::peer::{Body, PeerMsg};

use crate::support::*;

/// A chain whose members send ten bytes of payload at a time.
fn world(n: u32) -> World {
    World::with(n, &Config { forward_window: 10, ..Config::default() })
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn update(n: usize, chain_ver: u64) -> Event<Bytes> {
    let update = write(n as u64, chain_ver, tag(n as u32 + 1, 1), b"8 bytes!");
    Event::Update(ClientUpdate { key: key(NAMES[n]), ..update })
}

fn forwards(sent: &[(PeerMsg, Option<catena_types::Payload<Bytes>>)]) -> usize {
    sent.iter().filter(|(m, _)| matches!(m.body, Some(Body::Forward(_)))).count()
}

fn all_done(w: &mut World, head: u32) {
    let mut replies = w.t(head).update_replies();
    replies.sort_unstable();
    assert_eq!(replies, (0..5).map(|n| (n, Code::Ok)).collect::<Vec<_>>());
    for name in NAMES {
        for target in &w.targets {
            assert_eq!(target.store.bytes(&key(name)), Some(b"8 bytes!".as_slice()), "{name} at {}", target.id);
        }
    }
}

#[test]
fn payload_waits_for_the_successors_answers() {
    let mut w = world(3);
    (0..5).for_each(|n| w.t(1).on(update(n, 1)));
    // A successor that stages nothing gets no more than the window, and what is already under way beside.
    w.t(1).finish_io();
    let sent = w.t(1).sent();
    assert_eq!(forwards(&sent), 1);
    // What waits is read back from the disk when its time comes.
    assert_eq!(w.t(1).replica.counters().held_forwards, 4);
    for (msg, payload) in sent {
        w.t(2).on(Event::Peer { msg, payload });
    }
    let mut most = 0;
    loop {
        w.targets.iter_mut().for_each(Target::finish_io);
        let sent: Vec<_> = w.targets.iter_mut().flat_map(Target::sent).collect();
        most = most.max(forwards(&sent));
        if sent.is_empty() {
            break;
        }
        for (msg, payload) in sent {
            w.t(msg.to).on(Event::Peer { msg, payload });
        }
    }
    assert!(most <= 2, "one from each sender");
    all_done(&mut w, 1);
}

/// Two updates in opposite order at two members, as a chain version that comes at different moments leaves them: each holds
/// what the other needs, if room were made by answers alone.
#[test]
fn members_never_wait_for_each_other() {
    let mut w = world(3);
    w.t(1).on(update(0, 1));
    for (msg, payload) in w.t(1).sent() {
        w.t(2).on(Event::Peer { msg, payload });
    }
    // Target 2 has sent "a" on under the new version; target 1 sends "b" first, and "a" has to wait.
    let new = chain(2, "1S 2S 3S");
    w.t(2).take();
    w.t(2).routing(&new);
    w.t(3).routing(&new);
    w.t(1).finish_io();
    w.t(1).on(update(1, 1));
    w.t(1).take();
    w.t(1).routing(&new);
    let mut sent = w.t(1).sent();
    sent.retain(|(m, _)| !matches!(&m.body, Some(Body::Forward(f)) if f.key == b"a"));
    w.t(1).on(Event::LinkUp { peer: 2 });
    w.settle();
    w.t(1).on(Event::LinkUp { peer: 2 });
    w.settle();
    let mut replies = w.t(1).update_replies();
    replies.sort_unstable();
    assert_eq!(replies, [(0, Code::Ok), (1, Code::Ok)]);
}

/// A middle member that cannot go on tells its predecessor what it has staged, so that this one can.
#[test]
fn what_is_staged_makes_room_before_it_is_answered() {
    let mut w = world(3);
    (0..5).for_each(|n| w.t(1).on(update(n, 1)));
    // The tail hears nothing: nothing is ever answered.
    w.settle_but(&["Forward"]);
    for round in 0..20 {
        w.targets.iter_mut().for_each(Target::finish_io);
        for (msg, payload) in w.t(1).sent() {
            w.t(2).on(Event::Peer { msg, payload });
        }
        let back: Vec<_> = w.t(2).sent().into_iter().filter(|(m, _)| m.to == 1).collect();
        for (msg, payload) in back {
            w.t(1).on(Event::Peer { msg, payload });
        }
        if round == 0 {
            w.t(1).on(Event::LinkUp { peer: 2 });
        }
    }
    for name in NAMES {
        assert!(w.t(2).store.staged(name), "{name} is staged at the middle");
    }
    assert_eq!(w.t(1).update_replies(), []);
}

#[test]
fn small_messages_never_wait() {
    let mut w = world(2);
    (0..2).for_each(|n| w.t(1).on(update(n, 1)));
    // The first is stuck; the second waits for room. A read of it asks the tail all the same, and a remove passes.
    w.t(1).sent();
    w.t(1).on(Event::Read(catena_chain::ClientRead { key: key("b"), ..read_of("b") }));
    let remove = ClientUpdate { key: key("x"), op: catena_types::Op::extend(5), ..write(9, 1, tag(9, 1), b"") };
    w.t(1).on(Event::Update(remove));
    let sent = w.t(1).sent();
    let has = |f: fn(&Body) -> bool| sent.iter().any(|(m, _)| m.body.as_ref().is_some_and(f));
    assert!(has(|b| matches!(b, Body::Query(_))) && has(|b| matches!(b, Body::Forward(f) if f.key == b"x")));
}

fn read_of(name: &str) -> catena_chain::ClientRead {
    match read(1, 1) {
        Event::Read(r) => catena_chain::ClientRead { key: key(name), ..r },
        _ => unreachable!("a read"),
    }
}

#[test]
fn a_new_link_and_a_new_successor_begin_with_an_empty_window() {
    for dies in [false, true] {
        let mut w = world(3);
        (0..5).for_each(|n| w.t(1).on(update(n, 1)));
        w.t(1).finish_io();
        // What was sent is lost.
        assert_eq!(forwards(&w.t(1).sent()), 1);
        if dies {
            w.targets.retain(|t| t.id != 2);
            w.adopt(&chain(2, "1S 3S 2O"));
        } else {
            w.t(1).on(Event::LinkUp { peer: 2 });
            w.settle();
        }
        all_done(&mut w, 1);
    }
}

#[test]
fn a_reject_makes_room_too() {
    let mut w = world(2);
    w.t(2).store.refuse = Some(Code::NoSpace);
    (0..2).for_each(|n| w.t(1).on(update(n, 1)));
    w.settle();
    let mut replies = w.t(1).update_replies();
    replies.sort_unstable();
    assert_eq!(replies, [(0, Code::NoSpace), (1, Code::Ok)]);
}

#[test]
fn an_update_larger_than_the_window_passes_alone() {
    let mut w = world(2);
    w.t(1).on(update(0, 1));
    w.t(1).on(Event::Update(write(7, 1, tag(9, 1), b"much larger than the window")));
    assert_eq!(forwards(&w.t(1).sent()), 1);
    w.t(1).on(Event::LinkUp { peer: 2 });
    w.settle();
    let mut replies = w.t(1).update_replies();
    replies.sort_unstable();
    assert_eq!(replies, [(0, Code::Ok), (7, Code::Ok)]);
}
