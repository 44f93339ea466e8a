//! Everybody is down: all who served keep the right to revive the chain, in whatever order they come back.

use catena_cluster::Settings;
use catena_types::NodeId;

use crate::world::World;

const ORDERS: [[NodeId; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];

fn power_cut(world: &mut World) {
    for id in 1..=3 {
        world.kill(id);
    }
}

/// The nodes come back in `order`, `pause_ms` apart; everybody must serve in the end.
fn come_back(world: &mut World, order: [NodeId; 3], pause_ms: u64) {
    for id in order {
        world.start(id);
        world.run(pause_ms);
    }
    world.run_until("everybody serves again", World::all_serve);
}

#[test]
fn a_power_cut_leaves_the_whole_set() {
    let mut world = World::running(3, 1, 3);
    world.run(150);
    power_cut(&mut world);
    world.run_until("nobody serves", |w| w.chain_ver(1) == 2);
    assert_eq!((world.chain(1), world.chain_ver(1)), ("1L 2L 3L".to_owned(), 2));
}

/// The lights go out slowly: each was still heard of after the one before it was given up.
#[test]
fn a_slow_power_cut_leaves_the_whole_set() {
    let mut world = World::running(3, 1, 3);
    world.kill(1);
    world.run(1_200);
    world.kill(2);
    world.run(900);
    world.kill(3);
    world.run_until("nobody serves", |w| w.chain_ver(1) > 1);
    assert_eq!((world.chain(1), world.chain_ver(1)), ("1L 2L 3L".to_owned(), 2));
}

#[test]
fn revived_in_every_order() {
    for order in ORDERS {
        for pause_ms in [0, 50, 700, 5_000] {
            let mut world = World::running(3, 1, 3);
            power_cut(&mut world);
            world.run(5_000);
            come_back(&mut world, order, pause_ms);
            if pause_ms == 5_000 {
                assert_eq!(world.chain(1).split(' ').next(), Some(format!("{}S", order[0]).as_str()), "who came first leads");
            }
        }
    }
}

/// The machines are back before the manager could notice.
#[test]
fn restarted_at_once_in_every_order() {
    for order in ORDERS {
        for pause_ms in [0, 50, 400] {
            let mut world = World::running(3, 1, 3);
            power_cut(&mut world);
            come_back(&mut world, order, pause_ms);
        }
    }
}

/// The manager lost power, too. One machine never comes back: whichever it is, the others revive the chain.
#[test]
fn the_manager_too_and_one_stays_away() {
    for order in ORDERS {
        let mut world = World::running(3, 1, 3);
        power_cut(&mut world);
        world.restart_manager(Settings::default());
        world.start(order[0]);
        world.run(100);
        world.start(order[1]);
        world.run_until("two serve", |w| w.manager.state().chains[&1].serving().count() == 2);
        let away = format!("{}O", order[2]);
        assert!(world.chain(1).ends_with(&away), "{}", world.chain(1));
        world.start(order[2]);
        world.run_until("all serve", World::all_serve);
    }
}

#[test]
fn the_chosen_one_dies_and_the_next_is_chosen() {
    let mut world = World::running(3, 1, 3);
    power_cut(&mut world);
    world.run(5_000);
    world.start(1);
    world.heartbeat(1);
    assert_eq!(world.chain(1), "1L* 2L 3L");
    world.kill(1);
    world.start(3);
    world.run_until("the next is chosen and serves", |w| w.chain(1).starts_with("3S"));
    assert_eq!(world.chain(1), "3S 1O 2O");
}

/// A member that dies each time it is chosen does not keep the others from it.
#[test]
fn a_crash_loop_does_not_hold_the_chain() {
    let mut world = World::running(3, 1, 3);
    power_cut(&mut world);
    world.run(5_000);
    world.start(1);
    world.heartbeat(1);
    assert_eq!(world.chain(1), "1L* 2L 3L");
    world.start(2);
    world.heartbeat(2);
    world.kill(1);
    world.start(1);
    world.heartbeat(1);
    assert_eq!(world.chain(1), "1L 2L* 3L");
    world.run_until("revived", |w| w.chain(1).starts_with("2S"));
}

#[test]
fn a_chain_of_one_comes_back() {
    let mut world = World::running(1, 1, 1);
    for _ in 0..3 {
        world.kill(1);
        world.start(1);
        world.run_until("serves again", World::all_serve);
    }
    world.kill(1);
    world.run(60_000);
    assert_eq!(world.chain(1), "1L");
    world.start(1);
    world.run_until("serves again", World::all_serve);
}
