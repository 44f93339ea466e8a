//! A sync is given up by its source: the sink backs off, and others go first.

use crate::world::{MS, World};

/// Four replicas, two of them away and not synced yet; the source gives every sync up.
fn world_with_failing_source() -> World {
    let mut world = World::running(4, 1, 4);
    for id in [3, 4] {
        world.kill(id);
        world.node(id).targets[0].syncs = false;
    }
    world.run_until("two serve", |w| w.chain(1).starts_with("1S 2S 3O"));
    world.node(2).targets[0].gives_up = true;
    world
}

#[test]
fn the_pause_doubles_up_to_five_minutes() {
    let mut world = world_with_failing_source();
    world.start(3);
    let mut pauses = Vec::new();
    for _ in 0..11 {
        world.run_until("syncing", |w| w.chain(1).contains("3Y"));
        world.run_until("given up", |w| w.chain(1).contains("3W"));
        let given_up = world.now;
        world.run_until("syncing again", |w| w.chain(1).contains("3Y"));
        pauses.push((world.now - given_up) / (1_000 * MS));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    world.node(2).targets[0].gives_up = false;
    world.node(3).targets[0].syncs = true;
    world.run_until("synced", |w| w.chain(1).starts_with("1S 2S 3S"));
}

#[test]
fn another_goes_first() {
    let mut world = world_with_failing_source();
    world.start(3);
    world.run_until("syncing", |w| w.chain(1) == "1S 2S 3Y 4O");
    world.start(4);
    world.run_until("the other's turn", |w| w.chain(1) == "1S 2S 4Y 3W");
    world.run_until("and back", |w| w.chain(1) == "1S 2S 3Y 4W");
}

/// Success ends the back-off.
#[test]
fn it_starts_at_one_second_again() {
    let mut world = world_with_failing_source();
    world.start(3);
    for _ in 0..3 {
        world.run_until("syncing", |w| w.chain(1).contains("3Y"));
        world.run_until("given up", |w| w.chain(1).contains("3W"));
    }
    world.node(2).targets[0].gives_up = false;
    world.node(3).targets[0].syncs = true;
    world.run_until("synced", |w| w.chain(1).starts_with("1S 2S 3S"));
    world.kill(3);
    world.run_until("removed", |w| w.chain(1).starts_with("1S 2S 4O 3O"));
    world.node(2).targets[0].gives_up = true;
    world.node(3).targets[0].syncs = false;
    world.start(3);
    world.run_until("syncing", |w| w.chain(1).contains("3Y"));
    world.run_until("given up", |w| w.chain(1).contains("3W"));
    assert!(world.run_until("syncing again", |w| w.chain(1).contains("3Y")) < 2_000);
}
