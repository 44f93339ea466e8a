//! A target that waits for its turn comes and goes: updates in flight must not notice.

use crate::world::World;

#[test]
fn waiting_and_offline_do_not_make_chain_versions() {
    let mut world = World::running(4, 1, 4);
    for id in [3, 4] {
        world.kill(id);
    }
    world.run_until("two serve", |w| w.chain(1).starts_with("1S 2S 3O"));
    world.node(3).targets[0].syncs = false;
    world.start(3);
    world.run_until("syncing", |w| w.chain(1) == "1S 2S 3Y 4O");
    let (chain_ver, version) = (world.chain_ver(1), world.manager.state().version);
    for _ in 0..5 {
        world.start(4);
        world.run_until("waiting", |w| w.chain(1) == "1S 2S 3Y 4W");
        world.kill(4);
        world.run_until("offline", |w| w.chain(1) == "1S 2S 3Y 4O");
    }
    assert_eq!(world.chain_ver(1), chain_ver);
    assert!(world.manager.state().version > version, "it can be seen in the routing");
    world.node(3).targets[0].syncs = true;
    world.run_until("synced", |w| w.chain(1) == "1S 2S 3S 4O");
}
