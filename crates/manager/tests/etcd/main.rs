//! The store in etcd: one primary at a time, fenced writes, terms that end; and managers on it. Needs the `etcd` command.

mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catena_arena::Arena;
use catena_cluster::State;
use catena_manager::{
    EtcdConfig, EtcdStore, Manager, ManagerConfig, ManagerHandle, Standing, Store, StoreChoice, StoreError, Term,
};
use catena_net::{Rpc, Security};
use catena_types::{Code, Time};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;
use catena_wire::manager::{StatusReply, StatusRequest};
use rustix::time::{ClockId, clock_gettime};
use server::Etcd;

const PATIENCE: Duration = Duration::from_secs(60);

fn etcd() -> Etcd {
    Etcd::start(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn config(etcd: &Etcd, ttl: u32) -> EtcdConfig {
    EtcdConfig { ttl, ..EtcdConfig::new(vec![etcd.addr.clone()]) }
}

fn state(cluster: u64, version: u64) -> State {
    State { version, ..State::new(cluster) }
}

/// The lease clock, as the managers read it.
fn now() -> Time {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

/// Campaigns until elected.
async fn elect(store: &EtcdStore, addr: &str) -> (Term, Time, Option<State>) {
    let start = Instant::now();
    loop {
        match store.campaign(addr).await {
            Ok(Standing::Primary { term, until, state }) => return (term, until, state),
            other => assert!(start.elapsed() < PATIENCE, "{addr} is not elected: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn deposed(outcome: Result<(), StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Deposed(_)))
}

#[tokio::test]
async fn one_is_elected_and_the_writes_of_the_others_are_refused() {
    let etcd = etcd();
    let stores: Vec<_> = (0..3).map(|_| EtcdStore::new(&config(&etcd, 5)).expect("an address")).collect();
    let (first, _, found) = elect(&stores[0], "a:1").await;
    assert_eq!(found, None);
    stores[0].save(first, &state(7, 1)).await.expect("elected");
    stores[0].save(first, &state(7, 2)).await.expect("elected");
    let standing = stores[1].campaign("b:1").await;
    assert!(matches!(&standing, Ok(Standing::Follower { primary }) if primary == "a:1"), "{standing:?}");

    stores[0].resign(first).await;
    let (second, _, found) = elect(&stores[1], "b:1").await;
    assert_eq!(found, Some(state(7, 2)));
    // Before and after the second has written; renewals as well.
    assert!(deposed(stores[0].save(first, &state(7, 3)).await));
    stores[1].save(second, &state(7, 4)).await.expect("elected");
    assert!(deposed(stores[0].save(first, &state(7, 5)).await));
    assert!(deposed(stores[0].renew(first).await.map(drop)));

    stores[1].resign(second).await;
    let (_, _, found) = elect(&stores[2], "c:1").await;
    assert_eq!(found, Some(state(7, 4)));
}

#[tokio::test]
async fn a_term_ends_here_before_it_ends_in_etcd() {
    let etcd = etcd();
    let stores: Vec<_> = (0..2).map(|_| EtcdStore::new(&config(&etcd, 2)).expect("an address")).collect();
    let (first, until, _) = elect(&stores[0], "a:1").await;
    let renewed = stores[0].renew(first).await.expect("it lasts");
    assert!(renewed >= until);
    let (..) = elect(&stores[1], "b:1").await;
    assert!(now() > renewed, "another was elected {} ms before the end of the term", (renewed - now()) / 1_000_000);
    assert!(deposed(stores[0].save(first, &state(7, 3)).await));
}

/// etcd stands still for longer than an attempt: a write is tried again until it is known to be there, once.
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_found() {
    let etcd = etcd();
    let store = Arc::new(EtcdStore::new(&config(&etcd, 30)).expect("an address"));
    let (term, ..) = elect(&store, "a:1").await;
    store.save(term, &state(7, 1)).await.expect("elected");
    etcd.pause();
    let write = {
        let store = store.clone();
        tokio::spawn(async move { store.save(term, &state(7, 2)).await })
    };
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!write.is_finished());
    etcd.resume();
    write.await.expect("no panic").expect("it is the elected one all the time");
    store.save(term, &state(7, 3)).await.expect("elected");
    store.resign(term).await;
    assert_eq!(elect(&store, "a:1").await.2, Some(state(7, 3)));
}

#[tokio::test]
async fn what_is_no_state_has_a_name() {
    let etcd = etcd();
    let error = EtcdStore::new(&EtcdConfig::new(vec!["https://a:1".to_owned()])).err().expect("no TLS");
    assert!(error.to_string().contains("https://a:1"), "{error}");
    assert!(EtcdStore::new(&EtcdConfig::new(vec![])).is_err());
    let nobody = EtcdStore::new(&EtcdConfig::new(vec!["127.0.0.1:1".to_owned()])).expect("an address");
    let error = nobody.campaign("a:1").await.expect_err("nobody is there");
    assert!(error.is_passing() && error.to_string().contains("127.0.0.1:1"), "{error}");
    // A member that does not answer is no harm while another one does.
    let some = EtcdConfig { addrs: vec!["127.0.0.1:1".to_owned(), etcd.addr.clone()], ..config(&etcd, 3) };
    elect(&EtcdStore::new(&some).expect("addresses"), "a:1").await;
}

fn start(etcd: &Etcd) -> ManagerHandle {
    let listen = "127.0.0.1:0".parse().expect("an address");
    Manager::start(ManagerConfig::new(StoreChoice::Etcd(config(etcd, 3)), listen)).expect("a manager")
}

async fn status(manager: &ManagerHandle) -> StatusReply {
    let rpc = Rpc::connect(&manager.addr().to_string(), Hello::default(), &Security::default(), Arena::new(0), PATIENCE)
        .await
        .expect("it listens");
    rpc.call(Kind::Status, &StatusRequest {}, PATIENCE).await.expect("a reply").0
}

async fn elected(managers: &[ManagerHandle]) -> usize {
    let start = Instant::now();
    loop {
        if let Some(n) = managers.iter().position(ManagerHandle::is_elected) {
            return n;
        }
        assert!(start.elapsed() < PATIENCE, "nobody is elected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn managers_name_the_elected_one_and_follow_each_other() {
    let etcd = etcd();
    let mut managers: Vec<_> = (0..3).map(|_| start(&etcd)).collect();
    let mut cluster = 0;
    while !managers.is_empty() {
        let n = elected(&managers).await;
        let chosen = managers.remove(n);
        assert!(cluster == 0 || chosen.cluster() == cluster, "another cluster");
        cluster = chosen.cluster();
        assert_eq!(status(&chosen).await.primary, chosen.addr().to_string());
        for other in &managers {
            let start = Instant::now();
            loop {
                let failure = status(other).await.failure.expect("it is not elected");
                assert_eq!(failure.code(), Code::NotPrimary);
                if failure.elsewhere == chosen.addr().to_string() {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "{failure} does not name {}", chosen.addr());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        tokio::task::spawn_blocking(|| chosen.shutdown()).await.expect("no panic").expect("it ran until now");
    }
}
