//! Who may register, and with what.

use catena_types::Code;
use catena_wire::manager::{RegisterReply, RegisterRequest};

use crate::world::World;

fn refused(world: &mut World, change: impl FnOnce(&mut RegisterRequest)) -> (Code, String) {
    let mut request = world.nodes[&2].register_request();
    request.process += 1;
    change(&mut request);
    let outcome = world.manager.register(world.now, &request);
    assert!(!outcome.changed, "a refusal changes nothing");
    let failure = outcome.reply.failure.expect("refused");
    (failure.code(), failure.message)
}

#[test]
fn a_repeated_registration_gets_the_same_answer() {
    let mut world = World::running(3, 2, 3);
    let request = world.nodes[&2].register_request();
    let again = world.manager.register(world.now, &request);
    assert!(!again.changed);
    let expected = RegisterReply {
        failure: None,
        cluster: 0xca7e,
        incarnation: world.nodes[&2].incarnation,
        targets: world.nodes[&2].targets.iter().map(|t| t.id).collect(),
        lease_ms: 1500,
        heartbeat_ms: 300,
    };
    assert_eq!(again.reply, expected);

    // So does one of a process that has not been heard of yet.
    let restart = RegisterRequest { process: 77, ..request };
    let first = world.manager.register(world.now, &restart);
    let second = world.manager.register(world.now, &restart);
    assert!(first.changed && !second.changed);
    assert_eq!(first.reply, second.reply);
    assert!(first.reply.incarnation > expected.incarnation);
}

/// The answer was lost before the superblock was written: the uuid alone names the target.
#[test]
fn an_id_given_and_lost_is_given_again() {
    let mut world = World::running(3, 1, 3);
    world.kill(2);
    let id = std::mem::take(&mut world.node(2).targets[0].id);
    world.start(2);
    assert_eq!(world.nodes[&2].targets[0].id, id);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let mut world = World::running(3, 1, 3);
    let (code, text) = refused(&mut world, |r| r.cluster = 0xbad);
    assert_eq!(code, Code::WrongCluster);
    assert!(text.contains("0000000000000bad") && text.contains("000000000000ca7e"), "{text}");
    type Change = fn(&mut RegisterRequest);
    let cases: [(Change, &str); 8] = [
        (|r| r.node = 0, "start at 1"),
        (|r| r.targets[0].uuid = vec![1; 15], "not of 16 bytes"),
        (|r| r.targets[0].uuid = vec![0xab; 16], "target 2 has uuid 2020"),
        (|r| (r.targets[0].uuid, r.targets[0].target) = (vec![0xab; 16], 99), "target 99"),
        (|r| r.targets[0].target = 1, "calls it 1"),
        (|r| r.targets[0].uuid = vec![16; 16], "belongs to node 1"),
        (|r| r.targets[0].shard = 5, "shard 5"),
        (|r| r.targets.push(r.targets[0].clone()), "twice"),
    ];
    for (change, expected) in cases {
        let (code, text) = refused(&mut world, change);
        assert_eq!(code, Code::InvalidArgument);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn heartbeats_of_strangers_and_of_the_past() {
    let mut world = World::running(3, 1, 3);
    let good = world.node(2).heartbeat_request();
    let mut send = |change: fn(&mut catena_wire::manager::HeartbeatRequest)| {
        let mut request = good.clone();
        change(&mut request);
        world.manager.heartbeat(world.now, &request).reply
    };
    let code = |reply: catena_wire::manager::HeartbeatReply| {
        assert_eq!((reply.lease_ms, reply.routing), (0, None));
        reply.failure.map(|f| f.code())
    };
    assert_eq!(code(send(|r| r.node = 9)), Some(Code::NotFound));
    assert_eq!(code(send(|r| r.incarnation += 100)), Some(Code::NotFound));
    assert_eq!(code(send(|r| r.incarnation -= 1)), Some(Code::DuplicateNode));
    assert_eq!(code(send(|r| r.targets[0].target = 1)), Some(Code::InvalidArgument));
    assert_eq!(code(send(|r| r.targets[0].state = 17)), Some(Code::InvalidArgument));
    assert_eq!(code(send(|r| r.seq -= 1)), None, "an old one grants nothing");
    assert!(send(|_| ()).lease_ms > 0);
    assert_eq!(code(send(|_| ())), None, "the same again grants nothing");
}

/// Status names what was heard, and how long ago.
#[test]
fn status_shows_the_last_reports() {
    let mut world = World::running(3, 1, 3);
    world.kill(3);
    world.run(1_000);
    let status = world.manager.status(world.now);
    assert_eq!(status.targets.len(), 3);
    assert!(status.targets[2].heard_ms >= 1_000 && status.targets[0].heard_ms <= 300);
    assert_eq!(status.routing, world.manager.state().routing());
}
