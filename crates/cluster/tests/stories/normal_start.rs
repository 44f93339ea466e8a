//! Three nodes start, chains are made, everybody serves, and nothing more changes.

use catena_types::{Code, PublicState};
use catena_wire::manager::InitRequest;

use crate::world::World;

#[test]
fn from_nothing_to_serving() {
    let mut world = World::new(3, 2);
    let now = world.now;
    let init = InitRequest { replicas: 3, nodes: 3, ..InitRequest::default() };
    world.start(1);
    world.start(2);
    let early = world.manager.init(now, &init).reply.failure.expect("too early");
    assert_eq!((early.code(), early.message.contains("2 of 3 nodes")), (Code::Busy, true), "{early}");
    world.start(3);
    world.run(300);
    let made = world.manager.init(world.now, &init);
    assert!(made.changed && made.reply.failure.is_none());
    assert_eq!(made.reply.chains, 2);
    world.run(600);
    assert_eq!((world.chain(1), world.chain(2)), ("1S 3S 5S".to_owned(), "6S 2S 4S".to_owned()));
    let routing = world.manager.state().routing();
    assert_eq!(routing.table, [1, 2]);
    assert!(routing.chains.iter().all(|c| c.chain_ver == 1 && c.members.iter().all(|m| m.state() == PublicState::Serving)));
    for node in world.nodes.values() {
        assert_eq!(node.routing.as_ref(), Some(&routing), "node {} has the newest routing", node.id);
    }
    let before = world.manager.state().clone();
    world.run(10_000);
    assert_eq!(world.manager.state(), &before, "nothing happens, nothing changes");
}

#[test]
fn a_chain_table_is_made_once() {
    let mut world = World::running(3, 1, 3);
    let again = world.manager.init(world.now, &InitRequest { replicas: 2, nodes: 0, ..InitRequest::default() });
    assert!(!again.changed);
    let failure = again.reply.failure.expect("refused");
    assert_eq!(failure.code(), Code::PreconditionFailed);
    assert!(failure.message.contains("1 chains of 3 replicas"), "{failure}");
}

#[test]
fn what_cannot_be_made_is_explained() {
    let mut world = World::new(2, 1);
    world.start(1);
    world.start(2);
    world.run(300);
    let mut init = |replicas| {
        world
            .manager
            .init(world.now, &InitRequest { replicas, nodes: 0, ..InitRequest::default() })
            .reply
            .failure
            .expect("refused")
    };
    assert!(init(3).message.starts_with("3 replicas need 3 nodes with a free target, 2 have one"), "{}", init(3));
    assert_eq!(init(0).code(), Code::InvalidArgument);
    assert_eq!(init(100).code(), Code::InvalidArgument);
}

#[test]
fn a_later_target_stays_free() {
    let mut world = World::running(3, 1, 3);
    let before = world.manager.state().chains.clone();
    world.nodes.extend(World::new(4, 1).nodes.into_iter().filter(|(id, _)| *id == 4));
    world.start(4);
    world.run(5_000);
    assert_eq!(world.manager.state().chains, before);
    assert_eq!(world.manager.state().routing().target(4).map(|t| t.chain), Some(0));
}
