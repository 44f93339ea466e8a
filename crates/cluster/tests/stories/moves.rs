//! Replicas move: from lost targets, drained nodes, full nodes. Never below the replication factor.

use catena_cluster::{Manager, Settings};
use catena_types::{NodeId, PublicState};
use catena_wire::manager::{AdminReply, AdminRequest, Drain, MoveReason, Rebalance, ReplicaMove, Task};

use crate::world::{MS, World};

const PATIENCE_MS: u64 = 5_000;

/// A running cluster that leaves `spare` targets of each node free, and replaces what is out for five seconds.
fn world(nodes: u32, targets: u32, replicas: u32, spare: u32) -> World {
    let mut world = World::running_with(nodes, targets, replicas, spare);
    let settings = Settings { replace_after_ms: PATIENCE_MS, max_moves: 2, ..Settings::default() };
    world.restart_manager(settings);
    world.run(3_000);
    world
}

fn ask(world: &mut World, task: Task) -> AdminReply {
    let now = world.now;
    world.manager.admin(now, &AdminRequest { task: Some(task) }).reply
}

fn drain(node: NodeId) -> Task {
    Task::Drain(Drain { node, ..Drain::default() })
}

/// Every chain has all its replicas, and none of them is on that node.
fn whole_without(world: &World, node: NodeId) -> bool {
    let state = world.manager.state();
    let elsewhere = |t: &u32| state.targets[t].node != node;
    let replicas = state.replicas as usize;
    let whole = |c: &catena_types::Chain| c.members.len() == replicas && c.serving().filter(elsewhere).count() == replicas;
    state.moves.is_empty() && state.chains.values().all(whole)
}

/// Runs until `wanted`, and sees that every chain keeps as many replicas as it has to begin with.
fn run_never_below(world: &mut World, what: &str, wanted: impl Fn(&World) -> bool) {
    let replicas = world.manager.state().replicas as usize;
    let start = world.now;
    while !wanted(world) {
        world.run(50);
        assert!(world.now - start < 600_000 * MS, "never: {what}; {}", world.chain(1));
        for chain in world.manager.state().chains.values() {
            assert!(chain.serving().count() >= replicas, "{what}: {chain:?}");
        }
        assert!(world.manager.state().moves.len() <= 2, "more moves than there may be");
    }
}

#[test]
fn a_lost_node_is_replaced_after_a_while() {
    let mut world = world(4, 2, 3, 1);
    world.kill(1);
    let killed = world.now;
    world.run(PATIENCE_MS);
    assert!(world.manager.state().moves.is_empty(), "it may come back");
    world.run_until("whole", |w| whole_without(w, 1));
    assert!(world.now - killed >= PATIENCE_MS * MS);
    let chain = world.chain(1);
    world.start(1);
    world.run(10_000);
    assert_eq!(world.chain(1), chain, "what was replaced is free now");
    let free = world.manager.state().targets.values().filter(|t| t.node == 1 && t.chain == 0).count();
    assert_eq!(free, 2);
}

#[test]
fn who_comes_back_in_time_is_not_replaced() {
    let mut world = world(4, 2, 3, 1);
    world.kill(1);
    world.run(PATIENCE_MS);
    world.start(1);
    world.run_until("whole", World::all_serve);
    world.run(20_000);
    assert!(world.manager.state().chains.values().all(|c| c.members.len() == 3));
    assert!(world.manager.state().chains.values().flat_map(|c| c.serving()).any(|t| world.manager.state().targets[&t].node == 1));
}

/// The old one comes back while the new one is far from done: whichever makes the chain whole first stays.
#[test]
fn who_comes_back_late_gives_way_or_not() {
    let mut world = world(4, 2, 3, 1);
    world.nodes.values_mut().flat_map(|n| &mut n.targets).for_each(|t| t.syncs = false);
    world.kill(1);
    world.run_until("a move", |w| !w.manager.state().moves.is_empty());
    world.start(1);
    world.run(3_000);
    world.nodes.values_mut().flat_map(|n| &mut n.targets).for_each(|t| t.syncs = true);
    world.run_until("whole", |w| {
        let state = w.manager.state();
        state.moves.is_empty() && state.chains.values().all(|c| c.members.len() == 3) && w.all_serve()
    });
}

/// Two of three are lost, and replaced one after the other.
#[test]
fn two_lost_of_one_chain_are_replaced() {
    let mut world = world(5, 1, 3, 0);
    let nodes: Vec<NodeId> = world.manager.state().chains[&1].serving().collect();
    world.kill(nodes[0]);
    world.run_until("one is out", |w| w.manager.state().chains[&1].serving().count() == 2);
    world.kill(nodes[1]);
    world.run_until("whole", |w| {
        let state = w.manager.state();
        state.moves.is_empty() && state.chains[&1].members.len() == 3 && w.all_serve()
    });
}

/// While a node is drained, another one is lost: its replica is made up for first.
#[test]
fn a_loss_goes_before_a_drain() {
    let mut world = world(5, 1, 3, 0);
    let nodes: Vec<NodeId> = world.manager.state().chains[&1].serving().collect();
    world.kill(nodes[2]);
    world.run_until("out", |w| w.manager.state().chains[&1].serving().count() == 2);
    ask(&mut world, drain(nodes[0]));
    assert_eq!(world.manager.state().moves[&1].leaving, nodes[0]);
    world.run_until("made up for", |w| w.manager.state().chains[&1].state_of(nodes[2]).is_none());
    assert_eq!(world.manager.state().chains[&1].serving().count(), 3);
    world.run_until("drained, too", |w| w.manager.state().moves.is_empty() && whole_without(w, nodes[0]));
}

#[test]
fn nobody_is_replaced_where_there_is_no_room() {
    let mut world = world(3, 1, 3, 0);
    world.kill(2);
    world.run(PATIENCE_MS * 4);
    assert_eq!(world.chain(1), "1S 3S 2O");
    let now = world.now;
    let moves = world.manager.status(now).moves;
    assert_eq!(moves, [ReplicaMove { chain: 1, leaving: 2, joining: 0, reason: MoveReason::Lost as i32 }], "it is told");
}

#[test]
fn a_drained_node_is_emptied_and_stays_so() {
    let mut world = world(4, 2, 3, 1);
    let reply = ask(&mut world, drain(2));
    assert_eq!(reply.failure, None);
    run_never_below(&mut world, "drained", |w| whole_without(w, 2));
    world.kill(3);
    world.run(PATIENCE_MS * 3);
    let state = world.manager.state();
    assert!(state.chains.values().all(|c| c.members.iter().all(|m| state.targets[&m.target].node != 2)), "nothing comes back");
    assert!(ask(&mut world, drain(9)).failure.is_some());
}

#[test]
fn a_drain_survives_the_manager_and_can_be_cancelled() {
    let mut world = world(4, 2, 3, 1);
    world.nodes.values_mut().flat_map(|n| &mut n.targets).for_each(|t| t.syncs = false);
    ask(&mut world, drain(2));
    world.run(2_000);
    assert!(!world.manager.state().moves.is_empty());
    let settings = *world.manager.settings();
    world.restart_manager(settings);
    world.run(2_000);
    assert!(!world.manager.state().moves.is_empty());
    ask(&mut world, Task::Drain(Drain { node: 2, cancel: true, ..Drain::default() }));
    world.run(500);
    let state = world.manager.state();
    assert!(state.moves.is_empty() && state.chains.values().all(|c| c.members.len() == 3), "as if it had never begun");
    assert!(world.all_serve());
}

/// While the last lease of the one that leaves may run, it counts as serving; the world checks that it does not longer.
#[test]
fn one_that_leaves_goes_after_its_last_lease() {
    let mut world = world(4, 1, 3, 0);
    let free = (1..=4).find(|t| world.manager.state().targets[t].chain == 0).expect("one of four is free");
    let leaving = world.manager.state().chains[&1].head().expect("a head");
    let wanted = ReplicaMove { chain: 1, leaving, joining: free, reason: 0 };
    assert_eq!(ask(&mut world, Task::Move(wanted)).failure, None);
    assert!(ask(&mut world, Task::Move(wanted)).failure.is_some(), "one move per chain");
    run_never_below(&mut world, "joined", |w| w.manager.state().chains[&1].state_of(free) == Some(PublicState::Serving));
    let joined = world.now;
    run_never_below(&mut world, "left", |w| w.manager.state().chains[&1].state_of(leaving).is_none());
    assert!(world.now - joined >= 1_300 * MS, "its last lease has not surely ended");
    assert!(world.now - joined <= 3_000 * MS);
    assert_eq!(world.manager.state().targets[&leaving].chain, 0);
}

/// Somebody dies just when the one that leaves has got its last lease: it stays until the chain is full again.
#[test]
fn one_that_leaves_stays_if_it_is_needed_after_all() {
    let mut world = world(4, 1, 3, 0);
    let free = (1..=4).find(|t| world.manager.state().targets[t].chain == 0).expect("one of four is free");
    let leaving = world.manager.state().chains[&1].head().expect("a head");
    ask(&mut world, Task::Move(ReplicaMove { chain: 1, leaving, joining: free, reason: 0 }));
    world.run_until("joined", |w| w.manager.state().chains[&1].state_of(free) == Some(PublicState::Serving));
    world.run(400);
    let other = world.manager.state().chains[&1].serving().find(|&t| t != leaving && t != free).expect("a third");
    let node = world.manager.state().targets[&other].node;
    world.kill(node);
    world.run(4_000);
    let chain = &world.manager.state().chains[&1];
    assert_eq!(chain.state_of(other), Some(PublicState::Offline));
    assert_eq!((chain.state_of(leaving), chain.serving().count()), (Some(PublicState::Serving), 3));
    world.start(node);
    world.run_until("left", |w| w.manager.state().chains[&1].state_of(leaving).is_none());
    world.run_until("whole", World::all_serve);
}

/// A target that was moved says what it did for its former chain: that counts for nothing in the new one.
#[test]
fn a_report_about_another_chain_promotes_nobody() {
    let mut world = world(4, 1, 3, 0);
    let free = (1..=4).find(|t| world.manager.state().targets[t].chain == 0).expect("one of four is free");
    let leaving = world.manager.state().chains[&1].head().expect("a head");
    world.nodes.values_mut().flat_map(|n| &mut n.targets).for_each(|t| t.syncs = false);
    ask(&mut world, Task::Move(ReplicaMove { chain: 1, leaving, joining: free, reason: 0 }));
    world.run_until("syncing", |w| w.manager.state().chains[&1].syncing() == Some(free));
    let (node, ver) = (world.manager.state().targets[&free].node, world.chain_ver(1));
    let mut late = world.node(node).heartbeat_request();
    let report = &mut late.targets[0];
    (report.state, report.chain, report.chain_ver) = (catena_types::LocalState::UpToDate as i32, 7, ver);
    let now = world.now;
    world.manager.heartbeat(now, &late);
    assert_eq!(world.manager.state().chains[&1].syncing(), Some(free));
}

#[test]
fn an_empty_disk_takes_the_place_of_the_one_it_replaces() {
    let mut world = world(3, 1, 3, 0);
    world.kill(3);
    world.run(2_500);
    let target = &mut world.node(3).targets[0];
    (target.uuid, target.id) = (vec![0xee; 16], 0);
    world.start(3);
    world.run_until("whole", |w| w.all_serve() && w.manager.state().moves.is_empty());
    let state = world.manager.state();
    let (chain, new) = (&state.chains[&1], world.nodes[&3].targets[0].id);
    assert_eq!((chain.members.len(), chain.state_of(3), chain.state_of(new)), (3, None, Some(PublicState::Serving)));
    assert_eq!((state.targets[&3].chain, state.targets[&new].chain), (0, 1));
}

/// Two chains lose a member on one node, and one empty disk comes: it takes one place, not both.
#[test]
fn an_empty_disk_takes_one_place() {
    let mut world = world(3, 2, 3, 0);
    world.kill(3);
    world.run(PATIENCE_MS);
    let targets = &mut world.node(3).targets;
    targets.truncate(1);
    (targets[0].uuid, targets[0].id) = (vec![0xee; 16], 0);
    world.start(3);
    for _ in 0..200 {
        world.run(50);
        let state = world.manager.state();
        let elsewhere = |id: u32, t: u32| state.targets[&t].chain != id;
        assert!(state.chains.values().all(|c| !c.members.iter().any(|m| elsewhere(c.id, m.target))), "{:?}", state.chains);
    }
    let new = world.nodes[&3].targets[0].id;
    assert_ne!(world.manager.state().targets[&new].chain, 0);
}

/// Syncs to the only one that can take a place fail again and again: it keeps the place, and is tried again after its pauses.
#[test]
fn who_alone_can_take_a_place_keeps_it() {
    let mut world = world(3, 1, 3, 0);
    world.kill(3);
    world.run(2_500);
    let target = &mut world.node(3).targets[0];
    (target.uuid, target.id, target.syncs) = (vec![0xee; 16], 0, false);
    (1..=2).for_each(|n| world.node(n).targets[0].gives_up = true);
    let before = world.chain_ver(1);
    world.start(3);
    world.run(60_000);
    let tries = world.chain_ver(1) - before;
    assert!((6..40).contains(&tries), "{tries} chain versions in a minute: {}", world.chain(1));
    assert_eq!(world.manager.state().moves.len(), 1);
    (1..=2).for_each(|n| world.node(n).targets[0].gives_up = false);
    world.node(3).targets[0].syncs = true;
    world.run_until("whole", |w| w.all_serve() && w.manager.state().moves.is_empty());
}

#[test]
fn a_new_node_gets_its_share() {
    let mut world = world(3, 3, 3, 0);
    world.add_node(4, 3);
    world.start(4);
    world.run(1_000);
    assert!(world.manager.state().moves.is_empty(), "only when told");
    let dry = ask(&mut world, Task::Rebalance(Rebalance { dry_run: true, cancel: false })).moves;
    assert_eq!(dry.len(), 2, "{dry:?}");
    assert!(world.manager.state().moves.is_empty());
    ask(&mut world, Task::Rebalance(Rebalance::default()));
    run_never_below(&mut world, "even", |w| !w.manager.state().rebalancing);
    let state = world.manager.state();
    let held = |node| state.chains.values().flat_map(|c| c.serving()).filter(|t| state.targets[t].node == node).count();
    assert_eq!((1..=4).map(held).sum::<usize>(), 9);
    assert_eq!(held(4), 2);
}

#[test]
fn a_head_gives_up_its_place() {
    let mut world = world(3, 1, 3, 0);
    assert_eq!(ask(&mut world, Task::Rotate(1)).failure, None);
    world.run_until("rotated", |w| w.chain(1) == "2S 3S 1S");
    assert!(world.manager.state().moves.is_empty());
    world.kill(2);
    world.run_until("removed", |w| w.chain(1) == "3S 1S 2O");
    assert!(ask(&mut world, Task::Rotate(1)).failure.is_some(), "it has too few already");
}

#[test]
fn racks_are_kept_apart() {
    let mut world = World::new(5, 2);
    for id in 1..=5 {
        world.node(id).rack = ["", "a", "a", "b", "b", "c"][id as usize].to_owned();
        world.start(id);
    }
    world.run(300);
    world.init(3, 1);
    let racks = |w: &World| {
        let state = w.manager.state();
        let of = |t: u32| state.nodes[&state.targets[&t].node].rack.clone();
        state.chains.values().map(|c| c.serving().map(of).collect::<std::collections::BTreeSet<_>>().len()).min()
    };
    assert_eq!(racks(&world), Some(3));
    let settings = Settings { replace_after_ms: PATIENCE_MS, ..Settings::default() };
    world.restart_manager(settings);
    world.run(3_000);
    let lost = world.manager.state().chains[&1].head().map(|t| world.manager.state().targets[&t].node).expect("a head");
    world.kill(if lost == 5 { 1 } else { lost });
    world.run_until("whole", |w| {
        let state = w.manager.state();
        state.moves.is_empty() && w.all_serve() && state.chains.values().all(|c| c.members.len() == 3)
    });
    assert_eq!(racks(&world), Some(3), "{}", world.chain(1));
}

#[test]
fn moves_are_part_of_the_state() {
    let mut world = world(4, 2, 3, 1);
    ask(&mut world, drain(2));
    let before = world.manager.state().clone();
    let again = Manager::new(*world.manager.settings(), before.clone(), world.now);
    assert_eq!(again.state().moves, before.moves);
    assert!(again.state().nodes[&2].draining);
}
