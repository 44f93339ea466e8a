//! Nodes live, but the manager cannot hear them.

use catena_types::PublicState;

use crate::world::World;

#[test]
fn a_node_cut_off_returns_without_serving_its_old_chain() {
    let mut world = World::running(3, 1, 3);
    world.node(3).connected = false;
    world.run_until("removed", |w| w.chain_ver(1) == 2);
    let removed_at = world.manager.state().version;
    world.run(3_000);
    assert_eq!(world.nodes[&3].routing.as_ref().map(|r| r.chains[0].chain_ver), Some(1), "it has heard nothing");
    let reply = world.heartbeat(3);
    assert!(reply.lease_ms > 0 && reply.routing_ver >= removed_at, "a lease that is void under its old routing");
    let routing = world.nodes[&3].routing.as_ref().expect("it goes with the lease");
    assert_ne!(routing.chains[0].state_of(3), Some(PublicState::Serving));
    world.node(3).connected = true;
    world.run_until("synced", World::all_serve);
    assert_eq!((world.chain(1), world.chain_ver(1)), ("1S 2S 3S".to_owned(), 4));
}

#[test]
fn everybody_cut_off_and_back() {
    let mut world = World::running(3, 1, 3);
    (1..=3).for_each(|id| world.node(id).connected = false);
    world.run(10_000);
    assert_eq!(world.chain(1), "1L 2L 3L");
    (1..=3).for_each(|id| world.node(id).connected = true);
    world.run_until("revived", World::all_serve);
}

/// One shard hangs: its node goes on, its target is not listed, gets no lease, and leaves.
#[test]
fn a_hung_shard_leaves_alone() {
    let mut world = World::running(3, 2, 3);
    world.node(2).targets[0].listed = false;
    let (hung, fine) = (world.nodes[&2].targets[0].id, world.nodes[&2].targets[1].id);
    world.run(5_000);
    let state_of = |t| world.manager.state().chains.values().find_map(|c| c.state_of(t));
    assert_eq!((state_of(hung), state_of(fine)), (Some(PublicState::Offline), Some(PublicState::Serving)));
    assert!(world.manager.state().nodes[&2].alive);
}

/// Short cuts, shorter than a lease, change nothing.
#[test]
fn a_short_cut_is_not_noticed() {
    let mut world = World::running(3, 1, 3);
    for _ in 0..10 {
        world.node(2).connected = false;
        world.run(900);
        world.node(2).connected = true;
        world.run(600);
    }
    assert_eq!((world.chain(1), world.chain_ver(1)), ("1S 2S 3S".to_owned(), 1));
}
