//! Members that the manager hears, and that do not reach each other: somebody must go, or updates wait for ever.

use crate::world::{MS, World};

/// The lease of the defaults, and what is added until it has surely ended.
const LEASE_ENDED: u64 = 1_650;

/// Nodes that have lost each other, both ways.
fn cut(world: &mut World, pairs: &[(u32, u32)]) {
    for &(a, b) in pairs {
        world.node(a).misses.push(b);
        world.node(b).misses.push(a);
    }
}

fn heal(world: &mut World) {
    world.nodes.values_mut().for_each(|n| n.misses.clear());
}

#[test]
fn of_two_neighbours_the_one_nearer_the_tail_goes() {
    let mut world = World::running(3, 1, 3);
    cut(&mut world, &[(1, 2)]);
    let took = world.run_until("moved out", |w| w.chain(1).starts_with("1S 3S"));
    // The last lease was given up to a heartbeat before.
    assert!((LEASE_ENDED - 300..LEASE_ENDED + 1_000).contains(&took), "after {took} ms: its last lease must have ended");
    // Its source is the present tail, which reaches it.
    heal(&mut world);
    world.run_until("back", World::all_serve);
    assert_eq!(world.chain(1), "1S 3S 2S");
}

#[test]
fn a_tail_that_is_asked_and_not_reached_goes() {
    let mut world = World::running(3, 1, 3);
    cut(&mut world, &[(1, 3)]);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        world.run_until("moved out", |w| w.chain(1) == "1S 2S 3W");
        let since = world.now;
        // The tail of now reaches it: it is synced, and missed again by the head.
        world.run_until("back", World::all_serve);
        pauses.push((world.now - since) / (1_000 * MS));
    }
    assert!(pauses.is_sorted() && pauses[3] >= 8, "{pauses:?} seconds");
    heal(&mut world);
    world.run_until("back", World::all_serve);
}

#[test]
fn who_misses_everybody_goes_alone() {
    for lost in 1..=3 {
        let mut world = World::running(3, 1, 3);
        let others: Vec<u32> = (1..=3).filter(|&n| n != lost).collect();
        cut(&mut world, &others.iter().map(|&other| (lost, other)).collect::<Vec<_>>());
        world.run_until("moved out", |w| !w.all_serve());
        world.run(60_000);
        let left = format!("{}S {}S", others[0], others[1]);
        assert!(world.chain(1).starts_with(&left), "{lost} is lost, but the chain is {}", world.chain(1));
        heal(&mut world);
        world.run_until("back", World::all_serve);
    }
}

/// Who is synced and cannot be reached goes back, later and later, and the others serve.
#[test]
fn the_sync_of_who_cannot_be_reached_is_given_up() {
    let mut world = World::running(2, 1, 2);
    cut(&mut world, &[(1, 2)]);
    world.node(2).targets[0].syncs = false;
    world.run_until("moved out", |w| w.chain(1) == "1S 2W");
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let since = world.now;
        world.run_until("tried", |w| w.chain(1) == "1S 2Y");
        pauses.push((world.now - since) / (1_000 * MS));
        world.run_until("given up", |w| w.chain(1) == "1S 2W");
    }
    assert!(pauses.is_sorted() && pauses[3] >= 8, "{pauses:?} seconds");
    heal(&mut world);
    world.node(2).targets[0].syncs = true;
    world.run_until("back", World::all_serve);
}

#[test]
fn a_link_that_comes_back_in_time_changes_nothing() {
    let mut world = World::running(3, 1, 3);
    for _ in 0..5 {
        cut(&mut world, &[(1, 2)]);
        world.run(900);
        heal(&mut world);
        world.run(2_000);
    }
    assert_eq!((world.chain(1), world.chain_ver(1)), ("1S 2S 3S".to_owned(), 1));
}

/// Those that are left must live: nobody goes for the sake of a dead one.
#[test]
fn the_dead_miss_nobody() {
    let mut world = World::running(2, 1, 2);
    cut(&mut world, &[(1, 2)]);
    world.run(600);
    world.kill(1);
    world.run_until("the other one serves alone", |w| w.chain(1) == "2S 1O");
}
