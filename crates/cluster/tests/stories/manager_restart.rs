//! The manager is killed and starts again with what it had stored.

use catena_cluster::Settings;

use crate::world::{MS, World};

#[test]
fn nobody_notices() {
    let mut world = World::running(3, 2, 3);
    let before = world.manager.state().clone();
    for _ in 0..5 {
        world.restart_manager(Settings::default());
        world.run(700);
    }
    assert_eq!(world.manager.state(), &before);
}

#[test]
fn the_silent_are_given_a_lease() {
    let mut world = World::running(3, 1, 3);
    world.kill(3);
    world.run(600);
    world.restart_manager(Settings::default());
    let restarted = world.now;
    world.run_until("removed", |w| w.chain_ver(1) == 2);
    assert!(world.now - restarted >= 1_650 * MS, "the manager before may have granted it a lease just now");
    assert_eq!(world.chain(1), "1S 2S 3O");
}

/// A manager that was stopped, or hung in a slow write, has not listened: nobody is removed for that.
#[test]
fn its_own_pause_is_nobodys_silence() {
    let mut world = World::running(3, 1, 3);
    world.now += 5_000 * MS;
    world.manager.tick(world.now);
    world.run(3_000);
    assert_eq!((world.chain(1).as_str(), world.chain_ver(1)), ("1S 2S 3S", 1));
    world.kill(2);
    world.now += 5_000 * MS;
    world.run_until("removed, a lease later", |w| w.chain(1) == "1S 3S 2O");
}

#[test]
fn promotions_do_not_wait() {
    let mut world = World::running(3, 1, 3);
    world.kill(3);
    world.run_until("removed", |w| w.chain_ver(1) == 2);
    world.node(3).targets[0].syncs = false;
    world.start(3);
    world.run_until("syncing", |w| w.chain(1) == "1S 2S 3Y");
    world.run(600);
    world.restart_manager(Settings::default());
    world.node(3).targets[0].syncs = true;
    assert!(world.run_until("promoted", World::all_serve) < 600);
}

/// What a place rests on is remembered: memory lost while the manager was away is noticed.
#[test]
fn a_target_opened_anew_meanwhile_is_removed() {
    let mut world = World::running(3, 1, 3);
    world.restart_manager(Settings::default());
    world.reopen(2);
    assert_eq!(world.heartbeat(2).lease_ms, 0);
    world.run_until("removed", |w| w.chain_ver(1) > 1);
    world.run_until("synced", World::all_serve);
    assert_eq!(world.chain(1), "1S 3S 2S");
}

#[test]
fn leases_of_longer_periods_are_waited_for() {
    let mut world = World::running(3, 1, 3);
    let long = Settings::new(8_000, 300);
    world.restart_manager(long);
    world.run(600);
    world.restart_manager(Settings::default());
    world.run(100);
    world.restart_manager(Settings::default());
    world.kill(1);
    world.run(7_500);
    assert_eq!(world.chain(1), "1S 2S 3S", "a lease of eight seconds may still run");
    world.run_until("removed", |w| w.chain(1) == "2S 3S 1O");
    world.run(3_000);
    assert_eq!(world.manager.state().lease_ms, 1_500);
}
