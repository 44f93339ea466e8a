//! The client against a cluster in this process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use catena_types::{ChunkKey, Code, Failure, OpKind, Precondition, PublicState};
use catena_wire::header::Kind;

use crate::fake::{Fake, Fault, target};
use crate::*;

fn opts() -> UpdateOptions {
    UpdateOptions { chunk_size: 4096, ..UpdateOptions::default() }
}

fn within(ms: u64) -> UpdateOptions {
    UpdateOptions { deadline: Some(Duration::from_millis(ms)), ..opts() }
}

#[tokio::test]
async fn every_kind_of_update_and_read() {
    let fake = Fake::start(3, 3).await;
    let c = fake.client().await;
    let u = c.write(b"k", 2, "hello", &opts()).await.unwrap();
    assert_eq!((u.ver, u.len, u.chain, u.attempts), (1, 7, c.chain_of(b"k").unwrap(), 1));
    assert_eq!(c.truncate(b"k", 4, &opts()).await.unwrap().len, 4);
    assert_eq!(c.extend(b"k", 6, &opts()).await.unwrap().ver, 3);
    let r = c.read(b"k", 1, 100, &ReadOptions::default()).await.unwrap();
    assert_eq!((&r.data[..], r.ver, r.chunk_len, r.chunk_size), (&b"\0he\0\0"[..], 3, 6, 4096));
    assert_eq!(c.stat(b"k").await.unwrap().map(|s| (s.ver, s.len)), Some((3, 6)));
    c.remove(b"k", &opts()).await.unwrap();
    assert_eq!(c.stat(b"k").await.unwrap(), None);
    assert_eq!(c.read(b"k", 0, 1, &ReadOptions::default()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(c.remove(b"k", &opts()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(c.status().await.unwrap().routing.cluster, 7);
}

#[tokio::test]
async fn what_cannot_succeed_is_told_without_asking() {
    let fake = Fake::start(1, 1).await;
    let c = fake.client().await;
    let long = [0; 256];
    let bad = UpdateOptions { chunk_size: 1000, ..opts() };
    for e in [
        c.write(b"", 0, "x", &opts()).await.unwrap_err(),
        c.write(long, 0, "x", &opts()).await.unwrap_err(),
        c.write(b"k", 4090, "1234567", &opts()).await.unwrap_err(),
        c.write(b"k", 0, "x", &bad).await.unwrap_err(),
    ] {
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
    }
    assert!(fake.world().seen.is_empty());
}

#[tokio::test]
async fn preconditions_say_what_is_there() {
    let fake = Fake::start(1, 1).await;
    let c = fake.client().await;
    let on = |precondition| UpdateOptions { precondition, ..opts() };
    c.write(b"k", 0, "1", &on(Precondition::Absent)).await.unwrap();
    let e = c.write(b"k", 0, "2", &on(Precondition::Absent)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PreconditionFailed { version: 1 });
    c.write(b"k", 0, "2", &on(Precondition::Version(1))).await.unwrap();
    let e = c.remove(b"k", &on(Precondition::Version(1))).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PreconditionFailed { version: 2 });
}

/// Whatever happens to the first attempt, the update happens once and its outcome is told.
#[tokio::test]
async fn an_update_survives_every_fault_and_happens_once() {
    let wrong = Failure::new(Code::WrongChainVersion, "").with_version(6);
    let busy = Failure::new(Code::Busy, "").with_version(1000);
    let faults = [
        Fault::Break,
        Fault::ServeAndBreak,
        Fault::Silence,
        Fault::ServeAndSilence,
        Fault::Fail(wrong),
        Fault::Fail(busy),
        Fault::Fail(Failure::new(Code::PayloadCorrupt, "")),
        Fault::Fail(Failure::new(Code::OutcomeUnknown, "")),
    ];
    for fault in faults {
        let fake = Fake::start(1, 2).await;
        let c = fake.hasty_client().await;
        fake.once(fault.clone(), |s| s.kind == Kind::Update);
        let u = c.write(b"k", 0, "data", &opts()).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(u.ver, 1, "{fault:?}");
        assert!(u.attempts > 1, "{fault:?}");
        let tags: BTreeSet<_> = fake.world().seen.iter().map(|s| s.tag).collect();
        assert_eq!(tags.len(), 1, "one name over all attempts");
        assert_eq!(c.write(b"k", 0, "more", &opts()).await.unwrap().ver, 2);
    }
}

#[tokio::test]
async fn the_end_of_an_update_that_never_got_an_answer() {
    let fake = Fake::start(1, 1).await;
    let c = fake.client().await;
    fake.hook(|_| Fault::Silence);
    let e = c.write(b"k", 0, "x", &within(100)).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::OutcomeUnknown, Retry::AfterReading));
    fake.hook(|_| Fault::Fail(Failure::new(Code::Busy, "full").with_version(10_000_000)));
    let e = c.write(b"k", 0, "x", &within(900)).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Overloaded, Retry::Later), "{e}");
    fake.unhook();
    assert_eq!(c.write(b"k", 0, "x", &opts()).await.unwrap().ver, 1, "the channel is used again");
}

#[tokio::test]
async fn failover_of_the_head() {
    let fake = Fake::start(1, 3).await;
    let c = fake.client().await;
    c.write(b"k", 0, "one", &opts()).await.unwrap();
    fake.world().down.insert(1);
    let options = opts();
    let write = c.write(b"k", 0, "two", &options);
    let failover = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.remove_node(1);
    };
    let (u, ()) = tokio::join!(write, failover);
    let u = u.unwrap();
    assert_eq!((u.ver, u.chain_ver), (2, 6));
    assert!(u.attempts > 1);
    assert_eq!(c.routing().version, 2);
}

#[tokio::test]
async fn first_is_said_until_a_commit_is_acknowledged_on_the_chain() {
    let fake = Fake::start(2, 1).await;
    let c = fake.client_with(|config| config.channels = 1).await;
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    for key in keys.iter().chain(&keys) {
        c.write(key, 0, "x", &opts()).await.unwrap();
    }
    let firsts = fake.world().seen.iter().filter(|s| s.first).count();
    assert_eq!(firsts, 2, "once for each chain");
    fake.expire_sessions();
    for key in &keys {
        c.write(key, 0, "y", &opts()).await.unwrap();
    }
    let seqs: Vec<u64> = fake.world().seen.iter().filter_map(|s| s.tag.map(|t| t.seq)).collect();
    assert!(seqs.is_sorted());
}

#[tokio::test]
async fn reads_are_spread_and_go_round_a_dead_node() {
    let fake = Fake::start(1, 3).await;
    let c = fake.client().await;
    c.write(b"k", 0, "x", &opts()).await.unwrap();
    for _ in 0..30 {
        c.read(b"k", 0, 1, &ReadOptions::default()).await.unwrap();
    }
    let count = |node| fake.world().seen.iter().filter(|s| s.kind == Kind::Read && s.target == target(1, node)).count();
    assert_eq!([1, 2, 3].map(count), [10, 10, 10]);

    fake.world().down.insert(2);
    let before = count(2);
    for _ in 0..30 {
        c.read(b"k", 0, 1, &ReadOptions::default()).await.unwrap();
    }
    assert_eq!(count(2), before);
    assert_eq!([1, 3].map(count).iter().sum::<usize>(), 20 + 30);
}

#[tokio::test]
async fn a_read_asks_elsewhere_when_bytes_are_bad() {
    let fake = Fake::start(1, 3).await;
    let c = fake.hasty_client().await;
    c.write(b"k", 0, "data", &opts()).await.unwrap();
    let corrupt = || Fault::Fail(Failure::new(Code::Corrupt, "block 0"));
    for fault in [corrupt(), Fault::Damage, Fault::Break, Fault::Silence] {
        fake.once(fault.clone(), |s| s.kind == Kind::Read);
        let r = c.read(b"k", 1, 2, &ReadOptions::default()).await.unwrap();
        assert_eq!(&r.data[..], b"at", "{fault:?}");
        let asked = fake.world().seen.iter().filter(|s| s.kind == Kind::Read).count();
        assert!(asked > 1, "{fault:?}");
        fake.world().seen.clear();
    }
    fake.hook(move |_| corrupt());
    let e = c.read(b"k", 0, 4, &ReadOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
}

#[tokio::test]
async fn a_read_at_a_named_replica_asks_no_other() {
    let fake = Fake::start(1, 3).await;
    let c = fake.client().await;
    c.write(b"k", 0, "data", &opts()).await.unwrap();
    let at = ReadOptions { target: Some(target(1, 2)), ..ReadOptions::default() };
    assert_eq!(c.read(b"k", 0, 4, &at).await.unwrap().target, target(1, 2));
    let nowhere = ReadOptions { target: Some(99), ..ReadOptions::default() };
    assert_eq!(c.read(b"k", 0, 4, &nowhere).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let all = c.inspect(b"k").await;
    assert_eq!(all.len(), 3);
    for (_, state, meta) in all {
        assert_eq!(state, PublicState::Serving);
        assert_eq!(meta.unwrap().meta.unwrap().commit_ver(), 1);
    }
}

#[tokio::test]
async fn one_bad_item_of_a_batch_fails_no_other() {
    let fake = Fake::start(4, 2).await;
    let c = fake.client_with(|config| config.channels = 8).await;
    let key = |n: usize| ChunkKey::new(format!("k{n}").as_bytes()).unwrap();
    let item = |n: usize| {
        let kind = if n == 3 { UpdateKind::Remove } else { UpdateKind::Write { offset: 0, data: Bytes::from(n.to_string()) } };
        WriteItem { key: key(n), kind, options: opts() }
    };
    let outcomes = c.write_batch((0..100).map(item).collect()).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), n != 3, "{n}");
    }
    let most = fake.world().seen.iter().filter_map(|s| s.tag.map(|t| t.channel)).max();
    assert!(most < Some(8));
    let item = |n| ReadItem { key: key(n), offset: 0, len: 9, options: ReadOptions::default() };
    for (n, outcome) in c.read_batch((0..100).map(item).collect()).await.into_iter().enumerate() {
        match outcome {
            Ok(r) => assert_eq!(r.data, n.to_string()),
            Err(e) => assert_eq!((n, e.kind()), (3, ErrorKind::NotFound)),
        }
    }
}

#[tokio::test]
async fn one_update_in_flight_per_channel() {
    let fake = Fake::start(1, 1).await;
    let c = fake.client_with(|config| config.channels = 1).await;
    fake.hook(|s| if s.key == b"slow" { Fault::Silence } else { Fault::None });
    let patient = opts();
    let mut slow = Box::pin(c.write(b"slow", 0, "x", &patient));
    tokio::select! {
        biased;
        outcome = &mut slow => panic!("{outcome:?}"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(c.write(b"k", 0, "x", &within(50)).await.unwrap_err().kind(), ErrorKind::Overloaded);
    drop(slow);
    assert_eq!(c.write(b"k", 0, "x", &opts()).await.unwrap().ver, 1, "whoever stops waiting gives the channel back");
}

#[tokio::test]
async fn listings_are_in_order_over_all_chains() {
    let fake = Fake::start(5, 2).await;
    let c = fake.client().await;
    let mut expected: Vec<Vec<u8>> = (0..237).map(|n| format!("a/{n:04}").into_bytes()).collect();
    for n in 0..20 {
        expected.push(format!("b/{n}").into_bytes());
    }
    let put = |key: &Vec<u8>| WriteItem {
        key: ChunkKey::new(key).unwrap(),
        kind: UpdateKind::Write { offset: 0, data: "x".into() },
        options: opts(),
    };
    c.write_batch(expected.iter().map(put).collect()).await.into_iter().for_each(|o| drop(o.unwrap()));
    expected.truncate(237);
    for limit in [1, 7, 100, 236, 237, 1000, 5000] {
        let (mut found, mut from) = (Vec::new(), Some(Vec::new()));
        while let Some(start) = from {
            let page = c.list("a/", &start, limit).await.unwrap();
            assert!(page.entries.len() == limit || page.next.is_none());
            found.extend(page.entries.iter().map(|e| e.key.as_bytes().to_vec()));
            from = page.next;
        }
        assert_eq!(found, expected, "limit {limit}");
    }
    assert_eq!(c.list("a/", "a/0100", 1).await.unwrap().entries[0].key.as_bytes(), b"a/0100");
    assert_eq!(c.list("c/", "", 10).await.unwrap(), ListPage::default());
}

#[tokio::test]
async fn routing_is_followed() {
    let fake = Fake::start(1, 2).await;
    let c = fake.client().await;
    fake.reroute(|_| ());
    for _ in 0..1000 {
        if c.routing().version == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(c.routing().version, 2);
    assert_eq!(c.refresh_routing().await.unwrap().version, 2);
}

#[tokio::test]
async fn any_manager_will_do() {
    let fake = Fake::start(1, 1).await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let c = Client::connect(ClientConfig::new(format!("{dead},{}", fake.manager))).await.unwrap();
    assert_eq!(c.routing().cluster, 7);
    let mut config = ClientConfig::new(dead.to_string());
    config.deadline = Duration::from_millis(100);
    let e = Client::connect(config).await.err().unwrap();
    assert_eq!(e.kind(), ErrorKind::NoManager);
    assert!(e.to_string().contains(&dead.to_string()), "{e}");
}

#[tokio::test]
async fn a_cluster_without_chain_table_says_what_to_do() {
    let fake = Fake::start(2, 1).await;
    fake.world().routing.table.clear();
    let c = fake.client().await;
    let e = c.write(b"k", 0, "x", &opts()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotInitialized);
    assert!(e.to_string().contains("catena admin init"), "{e}");
    assert_eq!(c.init(1, 1, 0).await.unwrap(), 2);
    c.write(b"k", 0, "x", &opts()).await.unwrap();
}

#[tokio::test]
async fn a_client_can_be_shared_between_tasks() {
    let fake = Fake::start(3, 3).await;
    let c = fake.client().await;
    let done = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let (c, done) = (c.clone(), done.clone());
            tokio::spawn(async move {
                c.write(format!("k{}", n % 5), n, "x", &opts()).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(done.load(Ordering::Relaxed), 50);
    let writes = fake.world().seen.iter().filter(|s| s.op.is_some_and(|op| op.kind() == OpKind::Write)).count();
    assert_eq!(writes, 50);
}
