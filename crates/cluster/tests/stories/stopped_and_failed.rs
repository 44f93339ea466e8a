//! A node says what has become of its targets: no waiting for the lease.

use catena_cluster::Settings;
use catena_types::LocalState;
use catena_wire::manager::InitRequest;

use crate::world::{MS, World};

#[test]
fn a_stopping_node_is_let_go() {
    let mut world = World::running(3, 1, 3);
    world.node(1).targets[0].state = LocalState::Stopped;
    let took = world.run_until("removed", |w| w.chain(1) == "2S 3S 1O");
    assert!(took <= 600, "{took} ms: as soon as it and the others were heard of");
    world.kill(1);
    world.start(1);
    world.run_until("synced", World::all_serve);
}

/// The others must have been heard of since, or a power cut may be going on: they are asked at once.
#[test]
fn the_others_are_asked_for_a_heartbeat() {
    let mut world = World::running(3, 1, 3);
    assert!(world.manager.take_awaited().is_empty());
    world.node(1).targets[0].state = LocalState::Stopped;
    world.heartbeat(1);
    assert_eq!((world.chain(1).as_str(), world.manager.take_awaited()), ("1S 2S 3S", [2, 3].into()));
    world.heartbeat(2);
    assert_eq!((world.chain(1).as_str(), world.manager.take_awaited()), ("1S 2S 3S", [3].into()));
    world.heartbeat(3);
    assert_eq!((world.chain(1).as_str(), world.manager.take_awaited()), ("2S 3S 1O", [].into()));
}

#[test]
fn everybody_stops() {
    let mut world = World::running(3, 1, 3);
    for id in 1..=3 {
        world.node(id).targets[0].state = LocalState::Stopped;
        world.heartbeat(id);
    }
    assert_eq!(world.chain(1), "1L 2L 3L");
    for id in [2, 3, 1] {
        world.kill(id);
        world.start(id);
    }
    world.run_until("revived", World::all_serve);
}

#[test]
fn a_failed_disk_leaves_and_stays_away() {
    let mut world = World::running(3, 2, 3);
    world.node(2).targets[0].state = LocalState::Failed;
    let failed = world.nodes[&2].targets[0].id;
    let state = |w: &World| w.manager.state().chains.values().find_map(|c| c.state_of(failed));
    let took = world.run_until("removed", |w| state(w) == Some(catena_types::PublicState::Offline));
    assert!(took <= 600, "{took} ms: it said so");
    world.run(20_000);
    assert_eq!(state(&world), Some(catena_types::PublicState::Offline), "its node lives, it does not");
    world.reopen(2);
    world.run_until("synced", World::all_serve);
}

/// A heartbeat from before a target was opened anew comes when it has long served again: it is about an opening that is
/// gone, and must not take the present one out while its lease runs.
#[test]
fn a_heartbeat_of_an_earlier_opening_comes_late() {
    let mut world = World::running(3, 1, 3);
    let late = world.node(3).heartbeat_request();
    world.reopen(3);
    world.run_until("removed", |w| w.chain(1) != "1S 2S 3S");
    world.run_until("synced", World::all_serve);
    let before = (world.chain(1), world.chain_ver(1));
    let reply = world.manager.heartbeat(world.now, &late).reply;
    assert_eq!(reply.lease_ms, 0, "it grants nothing");
    world.run(3_000);
    assert_eq!((world.chain(1), world.chain_ver(1)), before);
}

/// The same, and the manager that hears it has just begun: it knows of no later heartbeat, but what the place rests on is
/// stored. The target may hold a lease that the manager before has granted.
#[test]
fn a_heartbeat_of_an_earlier_opening_comes_to_a_new_manager() {
    let mut world = World::running(3, 1, 3);
    let late = world.node(3).heartbeat_request();
    world.reopen(3);
    world.run_until("removed", |w| w.chain(1) != "1S 2S 3S");
    world.run_until("synced", World::all_serve);
    let before = (world.chain(1), world.chain_ver(1));
    world.restart_manager(Settings::default());
    let reply = world.manager.heartbeat(world.now, &late).reply;
    assert_eq!(reply.lease_ms, 0, "it grants nothing");
    assert_eq!((world.chain(1), world.chain_ver(1)), before);
    world.run(3_000);
    assert_eq!((world.chain(1), world.chain_ver(1)), before);
}

/// Stopped under a chain version that is not the present one: no lease follows that report, so its end decides.
#[test]
fn stopped_long_ago() {
    let mut world = World::running(3, 1, 3);
    world.node(1).connected = false;
    for _ in 0..5 {
        let mut request = world.node(1).heartbeat_request();
        (request.targets[0].state, request.targets[0].chain_ver) = (LocalState::Stopped as i32, 0);
        world.manager.heartbeat(world.now, &request);
        assert_eq!(world.chain(1), "1S 2S 3S");
        world.run(300);
    }
    let mut request = world.node(1).heartbeat_request();
    (request.targets[0].state, request.targets[0].chain_ver) = (LocalState::Stopped as i32, 0);
    world.manager.heartbeat(world.now, &request);
    assert!(world.run_until("removed", |w| w.chain(1) == "2S 3S 1O") <= 600);
}

/// The chains were made before the first heartbeats: the opening is learned from them, and kept.
#[test]
fn opened_anew_soon_after_the_chains_were_made() {
    let mut world = World::new(3, 1);
    (1..=3).for_each(|id| world.start(id));
    let made = world.manager.init(world.now, &InitRequest { replicas: 3, nodes: 3, ..InitRequest::default() }).reply;
    assert_eq!(made.failure, None);
    assert!((1..=3).all(|id| world.heartbeat(id).lease_ms > 0));
    world.now += MS;
    world.reopen(2);
    assert_eq!(world.heartbeat(2).lease_ms, 0);
    world.run_until("removed", |w| w.chain_ver(1) > 1);
    world.run_until("synced", World::all_serve);
    assert_eq!(world.chain(1), "1S 3S 2S");
}

/// The report of the failure was lost; the open count tells that the memory is gone.
#[test]
fn opened_anew_between_two_heartbeats() {
    let mut world = World::running(3, 1, 3);
    world.reopen(1);
    let reply = world.heartbeat(1);
    assert_eq!(reply.lease_ms, 0, "no lease while the routing shows its old place");
    world.run_until("removed", |w| !w.chain(1).starts_with("1S"));
    world.run_until("synced", World::all_serve);
    assert_eq!(world.chain(1), "2S 3S 1S");
}

/// A sink without its memory does not go on where it was.
#[test]
fn a_sink_opened_anew_starts_under_a_new_version() {
    let mut world = World::running(3, 1, 3);
    world.kill(3);
    world.run_until("removed", |w| w.chain(1) == "1S 2S 3O");
    world.node(3).targets[0].syncs = false;
    world.start(3);
    world.run_until("syncing", |w| w.chain(1) == "1S 2S 3Y");
    let before = world.chain_ver(1);
    world.reopen(3);
    world.heartbeat(3);
    assert!(world.chain_ver(1) > before);
    world.node(3).targets[0].syncs = true;
    world.run_until("synced", World::all_serve);
}
