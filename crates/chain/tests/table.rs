//! Every state × event: what a replica does, as one text table that is also documentation (`table.txt`).
//!
//! A change of behaviour shows as a changed line. `CATENA_BLESS=1 cargo test -p catena-chain --test table` rewrites the
//! file; read the difference before it is committed.

mod support;

use std::fmt::Write;

use catena_chain::{ClientList, ClientRead, ClientUpdate, Command, Event};
use catena_types::{Code, Committed, Done, Op, Precondition, Staged, crc};
use catena_wire::peer::*;
use support::*;

type Setup = (&'static str, fn() -> Target);
type Make = (&'static str, fn(&mut Target));

/// A target that takes part in `members` under chain version 5, with a lease, confirmed.
fn member(id: u32, members: &str) -> Target {
    let mut t = Target::new(id);
    t.lease();
    t.routing(&chain(5, members));
    if members.contains(&format!("{id}S")) {
        let pred = [1, 2, 3].into_iter().rfind(|p| *p < id);
        if let Some(from) = pred {
            peer(&mut t, from, Body::Confirm(Confirm {}), b"");
        }
    }
    quiet(t)
}

fn quiet(mut t: Target) -> Target {
    t.take();
    t.store.log.clear();
    t
}

fn peer(t: &mut Target, from: u32, body: Body, bytes: &[u8]) {
    let chain_ver = t.replica.chain_ver().max(5);
    let msg = PeerMsg { chain: 1, chain_ver, from, to: t.id, body: Some(body) };
    t.on(Event::Peer { msg, payload: Some(payload(bytes)) });
}

fn forward(ver: u64, base_ver: u64, seq: u64, attempt: u64) -> Body {
    let base_checksum = if base_ver == 0 { 0 } else { crc::crc32c(b"old") };
    let op = Op::write(0, 3);
    Body::Forward(Forward {
        key: b"k".to_vec(),
        ver,
        tag: tag(1, seq),
        op,
        chunk_size: 4096,
        base_ver,
        base_checksum,
        attempt,
        ..Default::default()
    })
}

fn release(ver: u64, seq: u64) -> Body {
    Body::Release(Release { key: b"k".to_vec(), ver, tag: tag(1, seq) })
}

fn reply(ver: u64, seq: u64, bytes: &[u8]) -> Body {
    Body::Reply(Reply {
        key: b"k".to_vec(),
        ver,
        tag: tag(1, seq),
        checksum: crc::crc32c(bytes),
        commit_chain_ver: 5,
        hops: vec![],
    })
}

fn reject(ver: u64, seq: u64, attempt: u64) -> Body {
    Body::Reject(Reject { key: b"k".to_vec(), ver, tag: tag(1, seq), attempt, code: Code::NoSpace as i32, by: 3 })
}

/// The same with chunk "k" at version 1 ("old").
fn with_chunk(mut t: Target) -> Target {
    let committed = Committed { ver: 1, chain_ver: 4, len: 3, checksum: crc::crc32c(b"old"), tag: tag(9, 1) };
    use catena_types::ChunkStore;
    t.store.install(0, &key("k"), 4096, committed, b"old".to_vec().into()).expect("not refused");
    t.store.pending.clear();
    quiet(t)
}

fn head_with(update: bool, durable: bool) -> Target {
    let mut t = with_chunk(member(1, "1S 2S 3S"));
    if update {
        t.on(Event::Update(ClientUpdate { first: true, ..write(1, 5, tag(1, 1), b"new") }));
    }
    if durable {
        t.finish_io();
    }
    quiet(t)
}

fn middle_with(durable: bool, released: bool) -> Target {
    let mut t = with_chunk(member(2, "1S 2S 3S"));
    peer(&mut t, 1, forward(2, 1, 1, 7), b"new");
    if durable {
        t.finish_io();
    }
    if released {
        peer(&mut t, 1, release(2, 1), b"");
    }
    quiet(t)
}

fn tail_with(durable: bool) -> Target {
    let mut t = with_chunk(member(3, "1S 2S 3S"));
    peer(&mut t, 2, forward(2, 1, 1, 7), b"new");
    if durable {
        t.finish_io();
    }
    quiet(t)
}

/// An update in flight whose stage has failed: what it builds on is damaged.
fn failed_stage(id: u32) -> Target {
    let mut t = with_chunk(member(id, "1S 2S 3S"));
    t.store.rot(&key("k"));
    match id {
        1 => t.on(Event::Update(ClientUpdate { op: Op::write(1, 1), ..write(1, 5, tag(1, 1), b"n") })),
        _ => {
            let Body::Forward(f) = forward(2, 1, 1, 7) else { unreachable!() };
            peer(&mut t, id - 1, Body::Forward(Forward { op: Op::write(1, 1), ..f }), b"n");
        }
    }
    t.finish_io();
    quiet(t)
}

fn repairing(id: u32) -> Target {
    let mut t = with_chunk(member(id, "1S 2S 3S"));
    t.on(Event::Done(Done::Damaged { key: key("k"), ver: 1 }));
    quiet(t)
}

/// The neighbour that was asked answers.
fn fetched(t: &mut Target, bytes: &[u8]) {
    let (from, id) = t.asked;
    let committed = Committed { ver: 1, chain_ver: 4, len: 3, checksum: crc::crc32c(bytes), tag: tag(9, 1) };
    peer(t, from, Body::Fetched(Fetched { id, key: b"k".to_vec(), code: 0, committed: Some(committed) }), bytes);
}

fn fetch(t: &mut Target, from: u32, bytes: &[u8]) {
    peer(t, from, Body::Fetch(Fetch { id: 9, key: b"k".to_vec(), ver: 1, checksum: crc::crc32c(bytes) }), b"");
}

fn states() -> Vec<Setup> {
    vec![
        ("no routing", || with_chunk(Target::new(2))),
        ("serving, no lease", || {
            let mut t = Target::new(2);
            t.routing(&chain(5, "1S 2S 3S"));
            with_chunk(t)
        }),
        ("joined, not confirmed", || {
            let mut t = Target::new(2);
            t.lease();
            t.routing(&chain(5, "1S 2S 3S"));
            with_chunk(t)
        }),
        ("head, clean", || head_with(false, false)),
        ("head, staging", || head_with(true, false)),
        ("head, durable", || head_with(true, true)),
        ("head, undoing", || {
            let mut t = head_with(true, true);
            peer(&mut t, 2, reject(2, 1, 1), b"");
            quiet(t)
        }),
        ("sole member, staging", || {
            let mut t = with_chunk(member(1, "1S"));
            t.on(Event::Update(write(1, 5, tag(1, 1), b"new")));
            quiet(t)
        }),
        ("middle, clean", || with_chunk(member(2, "1S 2S 3S"))),
        ("middle, staging", || middle_with(false, false)),
        ("middle, durable", || middle_with(true, false)),
        ("middle, released", || middle_with(false, true)),
        ("middle, durable and released", || middle_with(true, true)),
        ("middle, undoing", || {
            let mut t = middle_with(true, false);
            peer(&mut t, 3, reject(2, 1, 1), b"");
            quiet(t)
        }),
        ("tail, clean", || with_chunk(member(3, "1S 2S 3S"))),
        ("tail, staging", || tail_with(false)),
        ("tail, durable", || tail_with(true)),
        ("head, stage failed", || failed_stage(1)),
        ("middle, stage failed", || failed_stage(2)),
        ("tail, stage failed", || failed_stage(3)),
        ("middle, repairing", || repairing(2)),
        ("tail, repairing", || repairing(3)),
        ("tail, repair on its way to the disk", || {
            let mut t = repairing(3);
            fetched(&mut t, b"old");
            quiet(t)
        }),
        ("source, asking", || with_chunk(member(2, "1S 2S 3Y"))),
        ("source, settling", || {
            let mut t = with_chunk(member(2, "1S 2S 3Y"));
            peer(&mut t, 3, Body::Page(Page::default()), b"");
            t.finish_io();
            quiet(t)
        }),
        ("source, settling a damaged chunk", || {
            let mut t = with_chunk(member(2, "1S 2S 3Y"));
            t.store.rot(&key("k"));
            peer(&mut t, 3, Body::Page(Page::default()), b"");
            t.finish_io();
            quiet(t)
        }),
        ("syncing", || with_chunk(member(3, "1S 2S 3Y"))),
        ("syncing, staged leftover", || {
            let mut t = with_chunk(member(3, "1S 2S 3Y"));
            t.store.leave_staged(&key("k"), 2, tag(1, 1), b"new");
            quiet(t)
        }),
        ("waiting", || with_chunk(member(3, "1S 2S 3W"))),
        ("last serving set", || with_chunk(member(3, "3L 2L 1O"))),
        ("stopped", || {
            let mut t = with_chunk(member(2, "1S 2S 3S"));
            t.on(Event::Stop);
            quiet(t)
        }),
        ("failed", || {
            let mut t = with_chunk(member(2, "1S 2S 3S"));
            t.on(Event::Done(Done::Failed { reason: "disk".into() }));
            quiet(t)
        }),
    ]
}

fn update(t: &mut Target, change: impl Fn(ClientUpdate<Bytes>) -> ClientUpdate<Bytes>) {
    t.on(Event::Update(change(write(2, 5, tag(2, 1), b"two"))));
}

fn client_events() -> Vec<Make> {
    vec![
        ("write", |t| update(t, |u| u)),
        ("write, other chain version", |t| update(t, |u| ClientUpdate { chain_ver: 4, ..u })),
        ("write, past the chunk", |t| update(t, |u| ClientUpdate { op: Op::write(4095, 3), ..u })),
        ("write, other chunk size", |t| update(t, |u| ClientUpdate { chunk_size: 8192, ..u })),
        ("write, if absent", |t| update(t, |u| ClientUpdate { precondition: Precondition::Absent, ..u })),
        ("write, same tag", |t| update(t, |u| ClientUpdate { tag: tag(1, 1), ..u })),
        ("write, older seq", |t| update(t, |u| ClientUpdate { tag: tag(1, 0), ..u })),
        ("write, unknown session", |t| update(t, |u| ClientUpdate { first: false, ..u })),
        ("write, no room", |t| {
            t.store.refuse = Some(Code::NoSpace);
            update(t, |u| u);
            t.store.refuse = None;
        }),
        ("remove", |t| update(t, |u| ClientUpdate { op: Op::remove(), payload: payload(b""), ..u })),
        ("truncate", |t| update(t, |u| ClientUpdate { op: Op::truncate(1), payload: payload(b""), ..u })),
        ("extend", |t| update(t, |u| ClientUpdate { op: Op::extend(9), payload: payload(b""), ..u })),
        ("read", |t| t.on(read(3, 5))),
        ("read, other chain version", |t| t.on(read(3, 4))),
        ("read, relaxed", |t| {
            let deadline = LEASE_END;
            t.on(Event::Read(ClientRead { request: 3, chain_ver: 5, key: key("k"), offset: 0, len: 9, relaxed: true, deadline }));
        }),
        ("read, absent chunk", |t| {
            let deadline = LEASE_END;
            t.on(Event::Read(ClientRead {
                request: 3,
                chain_ver: 5,
                key: key("q"),
                offset: 0,
                len: 9,
                relaxed: false,
                deadline,
            }));
        }),
        ("list", |t| t.on(Event::List(ClientList { request: 4, chain_ver: 5, prefix: vec![], from: vec![], limit: 9 }))),
    ]
}

fn peer_events() -> Vec<Make> {
    vec![
        ("forward, new", |t| peer(t, t.id - 1, forward(2, 1, 3, 9), b"3rd")),
        ("forward, again", |t| peer(t, t.id - 1, forward(2, 1, 1, 8), b"new")),
        ("forward, version gap", |t| peer(t, t.id - 1, forward(4, 3, 3, 9), b"3rd")),
        ("forward, from a stranger", |t| peer(t, 9, forward(2, 1, 3, 9), b"3rd")),
        ("forward, no room", |t| {
            t.store.refuse = Some(Code::NoSpace);
            peer(t, t.id - 1, forward(2, 1, 3, 9), b"3rd");
            t.store.refuse = None;
        }),
        ("release", |t| peer(t, t.id - 1, release(2, 1), b"")),
        ("release, other update", |t| peer(t, t.id - 1, release(2, 3), b"")),
        ("reply", |t| peer(t, t.id + 1, reply(2, 1, b"new"), b"")),
        ("reply, other checksum", |t| peer(t, t.id + 1, reply(2, 1, b"odd"), b"")),
        ("reject, newest attempt", |t| peer(t, t.id + 1, reject(2, 1, 1), b"")),
        ("reject, older attempt", |t| peer(t, t.id + 1, reject(2, 1, 0), b"")),
        ("credit", |t| peer(t, t.id + 1, Body::Credit(Credit { attempts: vec![1] }), b"")),
        ("query", |t| peer(t, 1, Body::Query(Query { id: 5, key: b"k".to_vec() }), b"")),
        ("confirm", |t| peer(t, t.id - 1, Body::Confirm(Confirm {}), b"")),
        ("sync page", |t| peer(t, t.id - 1, Body::SyncPage(SyncPage::default()), b"")),
        ("sync put", |t| {
            let committed = Committed { ver: 3, chain_ver: 4, len: 3, checksum: crc::crc32c(b"put"), tag: tag(8, 1) };
            peer(t, t.id - 1, Body::SyncPut(SyncPut { key: b"k".to_vec(), chunk_size: 4096, committed }), b"put");
        }),
        ("sync sums", |t| peer(t, t.id - 1, Body::SyncSums(SyncSums { id: 3, key: b"k".to_vec() }), b"")),
        ("sync patch, a part missing", |t| {
            let committed = Committed { ver: 3, chain_ver: 4, len: 3, checksum: crc::crc32c(b"put"), tag: tag(8, 1) };
            peer(t, t.id - 1, Body::SyncPatch(SyncPatch { id: 3, key: b"k".to_vec(), committed, parts: 1 }), b"");
        }),
        ("sync part and patch", |t| {
            let committed = Committed { ver: 3, chain_ver: 4, len: 3, checksum: crc::crc32c(b"put"), tag: tag(8, 1) };
            peer(t, t.id - 1, Body::SyncPart(SyncPart { id: 3, key: b"k".to_vec(), offset: 0 }), b"put");
            peer(t, t.id - 1, Body::SyncPatch(SyncPatch { id: 3, key: b"k".to_vec(), committed, parts: 1 }), b"");
        }),
        ("sync lost", |t| {
            let committed = Committed { ver: 3, chain_ver: 4, len: 3, checksum: 77, tag: tag(8, 1) };
            peer(t, t.id - 1, Body::SyncLost(SyncLost { key: b"k".to_vec(), chunk_size: 4096, committed }), b"");
        }),
        ("sync drop", |t| peer(t, t.id - 1, Body::SyncDrop(SyncDrop { key: b"k".to_vec() }), b"")),
        ("sync done", |t| peer(t, t.id - 1, Body::SyncDone(SyncDone { remove_floor: 6 }), b"")),
        ("page", |t| peer(t, t.id + 1, Body::Page(Page::default()), b"")),
        ("sums", |t| peer(t, t.id + 1, Body::Sums(Sums { id: 3, key: b"k".to_vec(), meta: None, crcs: vec![] }), b"")),
        ("synced", |t| peer(t, t.id + 1, Body::Synced(Synced { key: b"k".to_vec(), code: 0, id: 0 }), b"")),
        ("synced, no room", |t| {
            peer(t, t.id + 1, Body::Synced(Synced { key: b"k".to_vec(), code: Code::NoSpace as i32, id: 0 }), b"")
        }),
        ("expire", |t| {
            let idle = vec![SessionSeq { id: tag(1, 1).session(), seq: 1 }];
            peer(t, t.id - 1, Body::Expire(Expire { idle }), b"");
        }),
        ("fetch, from behind", |t| fetch(t, t.id + 1, b"old")),
        ("fetch, from before", |t| fetch(t, t.id - 1, b"old")),
        ("fetch, other checksum", |t| fetch(t, t.id + 1, b"odd")),
        ("fetched", |t| fetched(t, b"old")),
        ("fetched, other checksum", |t| fetched(t, b"odd")),
        ("fetched, no room", |t| {
            t.store.refuse = Some(Code::NoSpace);
            fetched(t, b"old");
            t.store.refuse = None;
        }),
        ("fetched, not there", |t| {
            let (from, id) = t.asked;
            let body = Fetched { id, key: b"k".to_vec(), code: Code::Corrupt as i32, committed: None };
            peer(t, from, Body::Fetched(body), b"");
        }),
    ]
}

fn other_events() -> Vec<Make> {
    vec![
        ("store ends", Target::finish_io),
        ("found damaged", |t| t.on(Event::Done(Done::Damaged { key: key("k"), ver: 1 }))),
        ("stage fails", |t| {
            t.store.fail_stage(&key("k"));
            t.on(Event::Done(Done::StageFailed { key: key("k"), ver: 2, code: Code::Corrupt }));
        }),
        ("link to the successor", |t| t.on(Event::LinkUp { peer: t.id + 1 })),
        ("link to the predecessor", |t| t.on(Event::LinkUp { peer: t.id - 1 })),
        ("becomes sole member", |t| t.routing(&chain(6, &format!("{}S", t.id)))),
        ("becomes head of two", |t| t.routing(&chain(6, &format!("{}S {}S", t.id, t.id + 1)))),
        ("becomes tail of two", |t| t.routing(&chain(6, &format!("{}S {}S", t.id - 1, t.id)))),
        ("same members, newer version", |t| {
            let members = [1, 2, 3].map(|i| format!("{i}S")).join(" ");
            t.routing(&chain(6, &members));
        }),
        ("offline", |t| t.routing(&chain(6, &format!("9S {}O", t.id)))),
        ("syncing", |t| t.routing(&chain(6, &format!("9S {}Y", t.id)))),
        ("older chain version", |t| t.routing(&chain(3, &format!("{}S", t.id)))),
        ("stop", |t| t.on(Event::Stop)),
        ("disk fails", |t| t.on(Event::Done(Done::Failed { reason: "EIO".into() }))),
    ]
}

fn describe(command: Command<Bytes>) -> String {
    let code = |f: &Option<catena_types::Failure>| f.as_ref().map_or("Ok".to_string(), |f| format!("{:?}", f.code()));
    match command {
        Command::Send { msg, .. } => name(&msg),
        Command::UpdateReply { request, reply } => format!("client {request}: {}", code(&reply.failure)),
        Command::ReadReply { request, reply, .. } => format!("reader {request}: {} v{}", code(&reply.failure), reply.ver),
        Command::ListReply { request, reply } => format!("lister {request}: {} {}", code(&reply.failure), reply.entries.len()),
        Command::Reopen { .. } => "REOPEN".into(),
    }
}

#[test]
fn every_state_and_event() {
    let mut table = String::new();
    for (state, setup) in states() {
        let _ = writeln!(table, "# {state}");
        for (event, make) in [client_events(), peer_events(), other_events()].into_iter().flatten() {
            let mut t = setup();
            let before = *t.replica.counters();
            make(&mut t);
            let mut did: Vec<String> = std::mem::take(&mut t.store.log);
            did.extend(t.take().into_iter().map(describe));
            let after = t.replica.counters();
            if after.protocol_errors > before.protocol_errors {
                did.push("protocol error".into());
            }
            let text = if did.is_empty() { "-".to_string() } else { did.join("; ") };
            let _ = writeln!(table, "{event:<28} | {text}");
            invariants(&t);
        }
        table.push('\n');
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/table.txt");
    if std::env::var_os("CATENA_BLESS").is_some() {
        std::fs::write(path, &table).expect("the table can be written");
    }
    let wanted = std::fs::read_to_string(path).expect("the table is in the repository");
    for (got, wanted) in table.lines().zip(wanted.lines()) {
        assert_eq!(got, wanted, "see the file's documentation");
    }
    assert_eq!(table.lines().count(), wanted.lines().count());
}

/// Invariant 2, in every cell.
fn invariants(t: &Target) {
    use catena_types::ChunkStore;
    for (key, meta) in t.store.scan(b"", 100) {
        let committed = meta.committed.map_or(0, |c| c.ver);
        if let Some(Staged { ver, .. }) = meta.staged {
            assert!(ver == committed + 1 || committed == 0, "{key}: staged {ver} over committed {committed}");
        }
    }
}
