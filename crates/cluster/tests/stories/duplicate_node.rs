//! Two processes want to be the same node.

use catena_types::Code;

use crate::world::World;

#[test]
fn without_the_locks_of_the_living_one() {
    let mut world = World::running(3, 1, 3);
    let mut thief = world.nodes[&2].register_request();
    thief.process = 666;
    thief.shard_addrs = vec!["10.9.9.9:1".to_owned()];
    thief.targets[0].uuid = vec![0xee; 16];
    thief.targets[0].target = 0;
    let refused = world.manager.register(world.now, &thief);
    assert!(!refused.changed);
    let failure = refused.reply.failure.expect("refused");
    assert_eq!(failure.code(), Code::DuplicateNode);
    assert!(failure.message.contains("10.0.0.2:7000") && failure.message.contains("ms"), "{failure}");
    assert!((1..=1_650_000).contains(&failure.version), "{} us to wait", failure.version);

    // After that pause the id is free, if the first has not been heard of.
    world.kill(2);
    world.run(failure.version / 1_000 + 1);
    assert_eq!(world.manager.register(world.now, &thief).reply.failure, None);
}

/// A node's directory was copied, identity and all, and a process started on the copy while the first lives.
#[test]
fn with_a_copy_of_the_directory_of_the_living_one() {
    let mut world = World::running(3, 1, 3);
    let mut copy = world.nodes[&2].register_request();
    copy.process = 666;
    copy.shard_addrs = vec!["10.9.9.9:1".to_owned()];
    copy.targets[0].lock += 1;
    let (incarnation, chains) = (world.nodes[&2].incarnation, world.manager.state().chains.clone());
    for _ in 0..20 {
        world.run(300);
        let refused = world.manager.register(world.now, &copy);
        let failure = refused.reply.failure.expect("refused for as long as the first lives");
        assert_eq!(failure.code(), Code::DuplicateNode);
        assert!(failure.message.contains("10.0.0.2:7000") && failure.message.contains("copy"), "{failure}");
        assert!(!refused.changed);
        // A lock that nobody knows shows nothing either.
        copy.targets[0].lock = 0;
    }
    assert_eq!(world.nodes[&2].incarnation, incarnation);
    assert_eq!(world.manager.state().nodes[&2].incarnation, incarnation);
    assert_eq!(world.manager.state().chains, chains, "the first is not disturbed");

    // Once the first is gone, the copy may be all there is: it is let in after its lease, and synced like any other.
    world.kill(2);
    world.run(1_700);
    assert_eq!(world.manager.register(world.now, &copy).reply.failure, None);
}

/// What would become of the first without that rule.
#[cfg(feature = "mutations")]
#[test]
fn a_copy_that_is_taken_for_the_first_drives_it_out() {
    use catena_cluster::mutation::{Mutation, set};
    let mut world = World::running(3, 1, 3);
    let mut copy = world.nodes[&2].register_request();
    copy.process = 666;
    copy.targets[0].lock += 1;
    set(&[Mutation::AnyCopy]);
    let reply = world.manager.register(world.now, &copy).reply;
    set(&[]);
    assert_eq!(reply.failure, None);
    let mut late = world.node(2).heartbeat_request();
    late.incarnation = reply.incarnation;
    assert!(world.manager.heartbeat(world.now, &late).reply.failure.is_none());
    let first = world.node(2).heartbeat_request();
    assert_eq!(world.manager.heartbeat(world.now, &first).reply.failure.expect("told to end").code(), Code::DuplicateNode);
}

#[test]
fn a_restart_shows_the_locks() {
    let mut world = World::running(3, 1, 3);
    world.kill(2);
    let first = world.nodes[&2].incarnation;
    world.start(2);
    assert!(world.nodes[&2].incarnation > first);
    world.run_until("synced", World::all_serve);
}

#[test]
fn the_older_one_is_told_to_end() {
    let mut world = World::running(3, 1, 3);
    let mut late = world.node(2).heartbeat_request();
    world.kill(2);
    world.start(2);
    world.heartbeat(2);
    late.seq += 100;
    let reply = world.manager.heartbeat(world.now, &late).reply;
    assert_eq!(reply.lease_ms, 0);
    assert_eq!(reply.failure.expect("refused").code(), Code::DuplicateNode);
    world.run_until("synced", World::all_serve);
}

/// A registration may arrive long after its process has ended: it takes nothing from the living one.
#[test]
fn a_late_registration_of_a_dead_process() {
    let mut world = World::running(3, 1, 3);
    let mut ghost = world.nodes[&2].register_request();
    ghost.process = 31;
    let before = world.manager.state().chains.clone();
    let reply = world.manager.register(world.now, &ghost).reply;
    assert_eq!(reply.failure, None);
    world.run(5_000);
    assert_eq!(world.manager.state().chains, before, "only a heartbeat of it would have shown that it lives");
}
