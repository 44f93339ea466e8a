//! One target of a chain of its own: the gate, opening anew, and a disk that hangs.

use catena_arena::Arena;
use catena_types::{Chain, Member, NodeInfo, PublicState, TargetInfo};
use tokio::runtime::LocalOptions;

use super::*;
use crate::storage::params;
use crate::{DiskChoice, NodeConfig};

struct World {
    targets: Targets,
    storage: Storage,
    out: Commands,
    _dir: tempfile::TempDir,
}

impl World {
    fn run(test: impl FnOnce(World)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(async {
            let dir = tempfile::tempdir().expect("a directory");
            let mut config = NodeConfig::new(1, dir.path(), vec![String::new()]);
            config.capacity = 16 << 20;
            let (storage, _completions) =
                Storage::start(DiskChoice::Auto, Default::default(), &Arena::new(16 << 20)).expect("a backend");
            let opened = storage.open_or_create(&dir.path().join("0"), &params(&config)).expect("a target");
            let mut targets = Targets::new(vec![opened], catena_chain::Config::default());
            let identity = Identity { node: 1, cluster: 0xc1, incarnation: 5 };
            targets.adopt(&identity, &[31]).expect("adopted");
            test(World { targets, storage, out: Vec::new(), _dir: dir });
        });
    }

    fn grant(&mut self, open_count: u64, version: u64, have: &Routing) {
        let grant = Grant { target: 31, open_count, until: Time::MAX, routing: version };
        self.targets.grant(&grant, Some(have), now(), &mut self.out);
    }

    fn serving(&self) -> bool {
        self.targets.status(now())[0].serving
    }

    fn reopen(&mut self) {
        self.targets.reopen(0, &self.storage, &mut self.out);
    }
}

fn routing(version: u64, chain: ChainId, chain_ver: u64) -> Routing {
    let member = Member { target: 31, state: PublicState::Serving as i32, chosen: false };
    Routing {
        version,
        cluster: 0xc1,
        nodes: vec![NodeInfo { id: 1, incarnation: 5, shard_addrs: vec![String::new()], alive: true, rack: String::new() }],
        targets: vec![TargetInfo { id: 31, node: 1, shard: 0, uuid: Vec::new(), chain }],
        chains: vec![Chain { id: chain, chain_ver, members: vec![member] }],
        table: vec![chain],
    }
}

#[test]
fn no_routing_older_than_the_first_grant_is_acted_on() {
    World::run(|mut w| {
        let old = routing(10, 7, 3);
        w.targets.apply(&old, now(), &mut w.out);
        assert_eq!(w.targets.of_chain(7), Some(31), "requests find the target, which says that it does not serve");
        w.grant(1, 11, &old);
        assert!(!w.serving(), "the grant names a later version");
        w.targets.apply(&routing(11, 7, 4), now(), &mut w.out);
        assert!(w.serving());
        assert_eq!(w.targets.reports(|_| false)[0].chain_ver, 4);
    });
}

#[test]
fn a_target_opened_anew_waits_for_a_grant_that_knows_of_it() {
    World::run(|mut w| {
        let first = routing(10, 7, 3);
        w.targets.apply(&first, now(), &mut w.out);
        w.grant(1, 10, &first);
        assert!(w.serving());
        w.reopen();
        assert!(!w.serving() && w.targets.take_changed());
        assert_eq!((w.targets.reports(|_| false)[0].open_count, w.targets.reports(|_| false)[0].chain_ver), (2, 0));
        w.targets.apply(&routing(11, 7, 3), now(), &mut w.out);
        w.grant(1, 11, &routing(11, 7, 3));
        assert!(!w.serving(), "a grant for the target as it was before");
        w.grant(2, 12, &routing(12, 7, 5));
        assert!(w.serving());
    });
}

#[test]
fn a_target_that_moves_to_another_chain_is_opened_anew_first() {
    World::run(|mut w| {
        let first = routing(10, 7, 3);
        w.targets.apply(&first, now(), &mut w.out);
        w.grant(1, 10, &first);
        w.targets.apply(&routing(11, 8, 9), now(), &mut w.out);
        assert_eq!(w.targets.reports(|_| false)[0].chain_ver, 3, "the old state machine hears nothing of the new chain");
        assert_eq!(w.targets.take_reopens(), BTreeSet::from([0]));
        assert_eq!((w.targets.of_chain(7), w.targets.of_chain(8)), (None, Some(31)));
    });
}

#[test]
fn a_disk_that_ends_nothing_fails_its_target() {
    World::run(|mut w| {
        let first = routing(10, 7, 3);
        w.targets.apply(&first, now(), &mut w.out);
        w.grant(1, 10, &first);
        let since = now();
        w.targets.list[0].waits_since = Some(since);
        assert_eq!(w.targets.next_wake(), Some(since + IO_TIMEOUT));
        w.targets.tick(since + IO_TIMEOUT - 1, &mut w.out);
        assert!(w.serving());
        w.targets.tick(since + IO_TIMEOUT, &mut w.out);
        assert!(!w.serving() && w.targets.take_changed());
        let report = &w.targets.reports(|_| false)[0];
        assert_eq!(report.state(), LocalState::Failed);
        assert!(report.failed.contains("ended nothing for 30 s"), "{}", report.failed);
        assert_eq!(w.targets.next_wake(), None, "once is enough");
    });
}
