//! The world itself: what it does is what real nodes do.

use super::{MS, World};

#[test]
fn a_node_sends_one_heartbeat_per_period() {
    for seed in 1..=10 {
        let mut world = World::new(seed, 100, false);
        let plan = &mut world.plan;
        (plan.fault_every, plan.strike) = (0, None);
        (plan.late_joins, plan.slow_joins, plan.late_refusals) = (false, false, false);
        let (nodes, period, began) = (plan.nodes as u64, u64::from(plan.heartbeat_ms) * MS, world.now);
        let outcome = world.run();
        assert_eq!(outcome.violation, None, "seed {seed}");
        let (sent, periods) = (outcome.coverage.get("heartbeat sent"), (outcome.virtual_ns - began) / period);
        // One more when it has registered, which takes some time.
        assert!(sent <= nodes * (periods + 2), "seed {seed}: {sent} heartbeats of {nodes} nodes in {periods} periods");
        assert!(2 * sent > nodes * periods, "seed {seed}: {sent} heartbeats of {nodes} nodes in {periods} periods");
    }
}
