//! Cases that others test, and bugs that others had, told of this state machine.

use std::collections::BTreeSet;

use catena_chain::{ClientList, ClientUpdate, Command, Event};
use catena_types::{ChunkStore, Code, Committed, LocalState, Op, TargetId};

use crate::support::*;

fn update(request: u64, chain_ver: u64, name: &str, op: Op, bytes: &[u8]) -> Event<Bytes> {
    let update = write(request, chain_ver, tag(request as u32, 1), b"");
    Event::Update(ClientUpdate { key: key(name), op, payload: payload(bytes), ..update })
}

fn put(request: u64, chain_ver: u64, name: &str, bytes: &[u8]) -> Event<Bytes> {
    update(request, chain_ver, name, Op::write(0, bytes.len() as u32), bytes)
}

/// What a target holds, chunk by chunk.
fn held(w: &mut World, id: TargetId) -> Vec<(String, Option<Committed>, Vec<u8>)> {
    let store = &w.t(id).store;
    let chunks = store.scan(b"", 1000);
    let bytes = |k| store.bytes(k).map(<[u8]>::to_vec).unwrap_or_default();
    chunks.iter().map(|(k, meta)| (k.to_string(), meta.committed, bytes(k))).collect()
}

#[track_caller]
fn equal(w: &mut World, ids: impl IntoIterator<Item = TargetId>) {
    let head = held(w, 1);
    for id in ids {
        assert_eq!(held(w, id), head, "target {id} against target 1");
        assert!(w.t(id).store.scan(b"", 1000).iter().all(|(_, m)| m.staged.is_none()), "nothing staged is left at {id}");
    }
}

#[test]
fn requests_of_another_chain_version_are_refused() {
    let mut w = World::new(2);
    w.adopt(&chain(2, "1S 2S"));
    for (request, chain_ver) in [(1, 1), (2, 3)] {
        w.t(1).on(put(request, chain_ver, "k", b"x"));
        assert_eq!(w.t(1).update_replies(), [(request, Code::WrongChainVersion)]);
        for id in [1, 2] {
            w.t(id).on(read(request, chain_ver));
            assert_eq!(w.t(id).read_replies()[0].1, Code::WrongChainVersion);
        }
    }
    w.settle();
    equal(&mut w, [2]);
}

#[test]
fn updates_of_every_kind_go_to_the_head_alone() {
    let mut w = World::new(3);
    w.t(1).on(put(1, 1, "k", b"old"));
    w.settle();
    let kinds = [(Op::write(0, 1), &b"x"[..]), (Op::truncate(1), b""), (Op::extend(9), b""), (Op::remove(), b"")];
    for (id, (op, bytes)) in [2, 3].into_iter().flat_map(|id| kinds.map(|kind| (id, kind))) {
        w.t(id).on(update(2, 1, "k", op, bytes));
        assert_eq!(w.t(id).update_replies(), [(2, Code::NotHead)], "{op:?} at target {id}");
    }
    w.settle();
    assert_eq!(w.t(3).store.bytes(&key("k")), Some(b"old".as_slice()));
}

/// Versions that the client requests `1..=n` made, from their recorded outcomes at a target.
fn versions(w: &mut World, id: TargetId, n: u64) -> BTreeSet<u64> {
    let row = |request: u64| w.t(id).store.session(tag(request as u32, 1).session()).expect("it was committed");
    (1..=n).map(row).map(|row| row.ver).collect()
}

#[test]
fn ten_writes_through_a_failure_get_ten_versions() {
    for dead in [2, 3] {
        let mut w = World::new(3);
        for request in 1..=10 {
            w.t(1).on(put(request, 1, "k", &[request as u8]));
            if request == 5 {
                w.targets.iter_mut().for_each(Target::finish_io);
                w.deliver();
            }
        }
        w.targets.retain(|t| t.id != dead);
        w.settle();
        let left = if dead == 2 { "1S 3S 2O" } else { "1S 2S 3O" };
        w.adopt(&chain(2, left));
        // The one in flight is driven on; those that waited are sent to look at the routing, and come again.
        let replies = w.t(1).update_replies();
        let again: Vec<u64> = replies.iter().filter(|r| r.1 == Code::WrongChainVersion).map(|r| r.0).collect();
        assert_eq!((replies.len(), replies[0], again.len()), (10, (1, Code::Ok), 9), "{replies:?}");
        again.into_iter().for_each(|request| w.t(1).on(put(request, 2, "k", &[request as u8])));
        w.settle();
        let replies = w.t(1).update_replies();
        assert!(replies.len() == 9 && replies.iter().all(|r| r.1 == Code::Ok), "{replies:?}");
        assert_eq!(versions(&mut w, 1, 10), (1..=10).collect());
        equal(&mut w, [5 - dead]);
    }
}

#[test]
fn a_hundred_writes_over_a_deposed_head_happen_once_each() {
    let mut w = World::new(3);
    (1..=100).for_each(|request| w.t(1).on(put(request, 1, "k", &[request as u8])));
    w.targets.iter_mut().for_each(Target::finish_io);
    w.deliver();
    let without = chain(2, "2S 3S 1O");
    for id in [2, 3] {
        w.t(id).routing(&without);
    }
    // The old head has not heard, and nobody of the new chain listens to it.
    w.settle();
    assert!(w.t(1).update_replies().is_empty());
    w.t(1).routing(&without);
    let sent_away = w.t(1).update_replies();
    assert_eq!(sent_away.len(), 100);
    assert!(sent_away.iter().all(|r| matches!(r.1, Code::NotServing | Code::OutcomeUnknown)), "{sent_away:?}");
    for request in 1..=100 {
        w.t(2).on(put(request, 2, "k", &[request as u8]));
    }
    w.settle();
    assert!(w.t(2).update_replies().iter().all(|r| r.1 == Code::Ok));
    assert_eq!(versions(&mut w, 2, 100), (1..=100).collect());
    assert_eq!(w.t(3).replica.counters().commits, 100);
}

#[test]
fn chunks_that_change_while_the_tail_is_away_and_while_it_syncs() {
    let mut w = World::new(3);
    let name = |n: u64| format!("chunk {n:02}");
    (0..16).for_each(|n| w.t(1).on(put(100 + n, 1, &name(n), b"first")));
    w.settle();
    w.adopt(&chain(2, "1S 2S 3O"));
    (0..4).for_each(|n| w.t(1).on(put(200 + n, 2, &name(n), b"while away")));
    (4..12).for_each(|n| w.t(1).on(update(200 + n, 2, &name(n), Op::remove(), b"")));
    w.settle();
    let syncing = chain(3, "1S 2S 3Y");
    (1..=3).for_each(|id| w.t(id).routing(&syncing));
    for (n, of) in [12, 3, 13, 5].into_iter().enumerate() {
        w.deliver();
        w.targets.iter_mut().for_each(Target::finish_io);
        w.t(1).on(put(300 + n as u64, 3, &name(of), b"while syncing"));
    }
    w.settle();
    assert_eq!(w.t(3).replica.report().state, LocalState::UpToDate);
    w.adopt(&chain(4, "1S 2S 3S"));
    equal(&mut w, [2, 3]);
    assert_eq!(held(&mut w, 3).len(), 9);
    assert!(w.t(3).store.bytes(&key(&name(4))).is_none(), "removed while it was away");
}

#[test]
fn every_kind_of_update_in_every_phase_of_a_resync() {
    let kinds = [(Op::write(2, 2), &b"XY"[..]), (Op::truncate(1), b""), (Op::extend(9), b""), (Op::remove(), b"")];
    for ((op, bytes), rounds) in kinds.into_iter().flat_map(|kind| (0..14).map(move |rounds| (kind, rounds))) {
        let mut w = World::new(2);
        for (n, name) in ["a", "k", "x", "z"].into_iter().enumerate() {
            w.t(1).on(put(100 + n as u64, 1, name, name.repeat(5).as_bytes()));
        }
        w.settle();
        w.adopt(&chain(2, "1S 2O"));
        for (n, name) in ["a", "k"].into_iter().enumerate() {
            w.t(1).on(put(200 + n as u64, 2, name, b"other"));
        }
        w.settle();
        let syncing = chain(3, "1S 2Y");
        [1, 2].into_iter().for_each(|id| w.t(id).routing(&syncing));
        for _ in 0..rounds {
            w.targets.iter_mut().for_each(Target::finish_one_if_any);
            w.deliver();
        }
        for (n, name) in ["a", "k", "x", "z"].into_iter().enumerate() {
            w.t(1).on(update(300 + n as u64, 3, name, op, bytes));
        }
        w.settle();
        w.adopt(&chain(4, "1S 2S"));
        let replies = w.t(1).update_replies();
        assert!(replies.iter().all(|r| r.1 == Code::Ok), "{op:?} after {rounds} rounds: {replies:?}");
        equal(&mut w, [2]);
        assert_eq!(w.t(2).replica.counters().protocol_errors, 0, "{op:?} after {rounds} rounds");
    }
}

#[test]
fn whatever_a_sink_holds_becomes_what_its_source_holds() {
    let of = |ver, chain_ver, bytes: &[u8]| Committed {
        ver,
        chain_ver,
        len: bytes.len() as u32,
        checksum: catena_types::crc::crc32c(bytes),
        tag: tag(9, 1),
    };
    let ours = of(3, 4, b"ours");
    // Older, newer, the same version of another chain version, other bytes under the same numbers, and nothing.
    let theirs = [
        Some((of(2, 4, b"older"), &b"older"[..])),
        Some((of(7, 4, b"newer"), b"newer")),
        Some((of(3, 9, b"ours"), b"ours")),
        Some((of(3, 2, b"ours"), b"ours")),
        Some((of(3, 4, b"else"), b"else")),
        Some((of(3, 4, b"ours"), b"ours")),
        None,
    ];
    for (source, sink, leftover) in [true, false]
        .into_iter()
        .flat_map(|s| theirs.map(|t| (s, t)))
        .flat_map(|(s, t)| [false, true].map(|leftover| (s, t, leftover)))
    {
        let mut w = World { targets: (1..=2).map(Target::new).collect() };
        if source {
            w.t(1).hold("k", ours, b"ours");
        }
        if let Some((committed, bytes)) = sink {
            w.t(2).hold("k", committed, bytes);
        }
        if leftover {
            w.t(2).store.leave_staged(&key("k"), 8, tag(5, 5), b"ghost");
        }
        w.adopt(&chain(10, "1S 2Y"));
        assert_eq!(w.t(2).replica.report().state, LocalState::UpToDate, "{sink:?}");
        w.adopt(&chain(11, "1S 2S"));
        equal(&mut w, [2]);
    }
}

#[test]
fn listings_at_and_around_their_limit() {
    let mut w = World::new(2);
    (0..7).for_each(|n| w.t(1).on(put(n + 1, 1, &format!("list {n}"), b"x")));
    w.t(1).on(put(99, 1, "other", b"x"));
    w.settle();
    for limit in [1, 2, 6, 7, 8, 14] {
        let (mut from, mut names, mut pages) = (Vec::new(), Vec::new(), 0);
        loop {
            let list = ClientList { request: 5, chain_ver: 1, prefix: b"list ".to_vec(), from, limit };
            w.t(2).on(Event::List(list));
            let reply = w.t(2).take().into_iter().find_map(|c| match c {
                Command::ListReply { reply, .. } => Some(reply),
                _ => None,
            });
            let reply = reply.expect("a listing is answered at once");
            assert!(reply.failure.is_none() && reply.entries.len() <= limit);
            names.extend(reply.entries.into_iter().map(|e| e.key));
            pages += 1;
            from = reply.next;
            if from.is_empty() {
                break;
            }
        }
        assert_eq!(names, (0..7).map(|n| format!("list {n}").into_bytes()).collect::<Vec<_>>(), "limit {limit}");
        assert!(pages <= 7usize.div_ceil(limit) + 1, "limit {limit}: {pages} pages");
    }
    w.t(1).on(Event::List(ClientList { request: 6, chain_ver: 1, prefix: Vec::new(), from: Vec::new(), limit: 9 }));
    let refused = w.t(1).take().into_iter().any(|c| matches!(c, Command::ListReply { reply, .. } if reply.failure.is_some()));
    assert!(refused, "only the tail answers listings");
}
