//! A node is killed, is removed when its lease has surely ended, and comes back as the tail.

use crate::world::{MS, World};

#[test]
fn out_after_the_lease_back_as_the_tail() {
    let mut world = World::running(3, 1, 3);
    assert_eq!(world.chain(1), "1S 2S 3S");
    world.kill(1);
    let killed = world.now;
    world.run(1_200);
    assert_eq!(world.chain(1), "1S 2S 3S", "its lease may still run");
    world.run_until("removed", |w| w.chain_ver(1) == 2);
    assert_eq!(world.chain(1), "2S 3S 1O");
    assert!(world.now - killed <= (2 * 1_650 + 300) * MS, "later than two leases and a period");
    assert!(!world.manager.state().nodes[&1].alive);
    world.run(20_000);
    assert_eq!(world.chain_ver(1), 2, "nothing else happens");

    world.start(1);
    world.run_until("synced", World::all_serve);
    assert_eq!((world.chain(1), world.chain_ver(1)), ("2S 3S 1S".to_owned(), 4));
    assert!(world.manager.state().nodes[&1].alive);
}

#[test]
fn a_quick_restart_is_removed_before_it_gets_a_lease() {
    let mut world = World::running(3, 1, 3);
    world.kill(2);
    world.start(2);
    assert_eq!(world.chain(1), "1S 2S 3S", "a registration alone may be a late one");
    let reply = world.heartbeat(2);
    assert_eq!((reply.lease_ms, reply.routing), (0, None), "still SERVING in the routing, its memory gone");
    let asked = world.now;
    world.run_until("removed", |w| w.chain_ver(1) > 1);
    assert!(world.now - asked <= 600 * MS, "as soon as the others are heard of");
    world.run_until("synced", World::all_serve);
    assert_eq!(world.chain(1), "1S 3S 2S");
}

#[test]
fn two_of_three_die_one_after_the_other() {
    let mut world = World::running(3, 1, 3);
    world.kill(3);
    world.run_until("first removed", |w| w.chain(1) == "1S 2S 3O");
    world.kill(1);
    world.run_until("second removed", |w| w.chain(1) == "2S 3O 1O");
    world.start(1);
    world.start(3);
    world.run_until("both synced, one at a time", World::all_serve);
    assert_eq!(world.chain(1).split(' ').next(), Some("2S"));
}
