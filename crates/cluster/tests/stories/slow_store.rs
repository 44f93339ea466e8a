//! The store takes its time: what may be answered meanwhile, and what may not.

use catena_cluster::{Primary, State, Verdict};
use catena_types::{Code, PublicState, TargetId, Time};
use catena_wire::manager::HeartbeatReply;

use crate::world::{MS, World};

/// An elected manager that takes over a running cluster, and whose store is idle.
fn elected(world: &World, until: Time) -> Primary<u32> {
    let settings = *world.manager.settings();
    let mut primary = Primary::new(settings, world.manager.state().clone(), world.now, until);
    while primary.store_next().is_some() {
        primary.has_stored();
    }
    primary
}

fn now(verdict: Verdict<HeartbeatReply>) -> HeartbeatReply {
    match verdict {
        Verdict::Now(reply) => reply,
        Verdict::Stored(reply) => panic!("it waits for the store: {reply:?}"),
    }
}

/// Heartbeats of `nodes` until the state machine has decided something that is not stored.
fn run_until_it_decides(world: &mut World, primary: &mut Primary<u32>, nodes: &[u32]) {
    let version = primary.stored().version;
    while primary.core().state().version == version {
        world.now += 50 * MS;
        primary.tick(world.now);
        for &id in nodes {
            let request = world.node(id).heartbeat_request();
            now(primary.heartbeat(world.now, &request));
        }
    }
}

#[test]
fn leases_are_renewed_beside_it_and_the_removed_gets_none() {
    let mut world = World::running(3, 1, 3);
    let mut primary = elected(&world, Time::MAX);
    let version = primary.stored().version;
    run_until_it_decides(&mut world, &mut primary, &[1, 2]);
    let state = primary.store_next().expect("a removal is to be stored");
    for _ in 0..100 {
        world.now += 300 * MS;
        primary.tick(world.now);
        for id in [1, 2] {
            let request = world.node(id).heartbeat_request();
            let reply = now(primary.heartbeat(world.now, &request));
            assert_eq!((reply.lease_ms, reply.routing_ver, reply.except), (1_500, version, vec![]));
            assert_eq!(primary.routing_since(version), (None, None), "routing that is not stored");
        }
    }
    let target = world.node(3).targets[0].id;
    let request = world.node(3).heartbeat_request();
    let reply = now(primary.heartbeat(world.now, &request));
    assert_eq!(reply.except, [target], "it is out in the state that is being stored");

    assert!(primary.has_stored().is_empty());
    assert_eq!(primary.stored(), &state);
    while primary.store_next().is_some() {
        primary.has_stored();
    }
    let request = world.node(3).heartbeat_request();
    let reply = now(primary.heartbeat(world.now, &request));
    assert!(reply.except.is_empty() && reply.routing_ver > version);
}

/// A heartbeat of each of these nodes; the targets of the last one that got no lease.
fn beat(world: &mut World, primary: &mut Primary<u32>, nodes: &[u32]) -> Vec<TargetId> {
    world.now += 50 * MS;
    primary.tick(world.now);
    let mut except = Vec::new();
    for &id in nodes {
        let request = world.node(id).heartbeat_request();
        except = now(primary.heartbeat(world.now, &request)).except;
        world.node(id).routing = Some(primary.stored().routing());
    }
    except
}

#[test]
fn what_is_on_its_way_to_the_store_may_be_handed_out_before_the_lease_ends() {
    let mut world = World::running(3, 1, 3);
    let mut primary = elected(&world, Time::MAX);
    let id = world.node(3).targets[0].id;
    let place = |state: &State| state.chains[&state.targets[&id].chain].state_of(id);
    world.reopen(3);
    // It must sync again. The store takes everything but the promotion, which is on its way.
    loop {
        beat(&mut world, &mut primary, &[1, 2, 3]);
        match primary.store_next() {
            Some(state) if place(&state) == Some(PublicState::Serving) && place(primary.stored()) != place(&state) => break,
            Some(_) => drop(primary.has_stored()),
            None => {}
        }
    }
    assert_eq!(place(primary.stored()), Some(PublicState::Syncing));
    // It is silent for a while, and back: what is stored and what holds now agree.
    while place(primary.core().state()) == Some(PublicState::Serving) {
        beat(&mut world, &mut primary, &[1, 2]);
    }
    while place(primary.core().state()) != Some(PublicState::Syncing) {
        assert_eq!(beat(&mut world, &mut primary, &[1, 2, 3]), [id]);
    }
    let except = beat(&mut world, &mut primary, &[1, 2, 3]);
    assert_eq!(except, [id], "the promotion may be stored and handed out any moment");
}

#[test]
fn what_rests_on_a_change_waits_for_it() {
    let mut world = World::running(3, 1, 3);
    let mut primary = elected(&world, Time::MAX);
    world.node(3).process += 1;
    let mut register = world.node(3).register_request();
    register.node = 4;
    register.targets[0].uuid = vec![44; 16];
    register.targets[0].target = 0;
    let Verdict::Stored(reply) = primary.register(world.now, &register) else { panic!("a new node must be stored") };
    primary.wait(1);
    let first = primary.store_next().expect("a new node");
    assert!(primary.store_next().is_none(), "one write at a time");
    // A later change is not in the write under way.
    register.node = 5;
    register.targets[0].uuid = vec![55; 16];
    assert!(matches!(primary.register(world.now, &register), Verdict::Stored(_)));
    primary.wait(2);
    // The new start itself is not stored: its heartbeat waits, too.
    let mut heartbeat = world.node(1).heartbeat_request();
    (heartbeat.node, heartbeat.incarnation) = (4, reply.incarnation);
    heartbeat.targets.clear();
    assert!(matches!(primary.heartbeat(world.now, &heartbeat), Verdict::Stored(_)));
    assert_eq!(primary.has_stored(), [1]);
    assert!(first.nodes.contains_key(&4) && !first.nodes.contains_key(&5));
    assert!(primary.store_next().expect("the second").nodes.contains_key(&5));
    assert_eq!(primary.has_stored(), [2]);
    primary.wait(3);
    assert_eq!(primary.into_waiting().collect::<Vec<_>>(), [3]);
}

#[test]
fn after_the_term_nothing_is_granted_or_decided() {
    let mut world = World::running(3, 1, 3);
    let until = world.now + 1_000 * MS;
    let mut primary = elected(&world, until);
    world.now = until - 1;
    let request = world.node(1).heartbeat_request();
    assert_eq!(now(primary.heartbeat(world.now, &request)).lease_ms, 1_500);
    world.now = until;
    let request = world.node(1).heartbeat_request();
    let reply = now(primary.heartbeat(world.now, &request));
    assert_eq!((reply.lease_ms, reply.failure.map(|f| f.code())), (0, Some(Code::NotPrimary)));
    world.now += 60_000 * MS;
    primary.tick(world.now);
    assert!(primary.store_next().is_none());
    primary.renew(world.now + 1);
    let request = world.node(1).heartbeat_request();
    assert!(now(primary.heartbeat(world.now, &request)).lease_ms > 0, "renewed in time, read late");
}
