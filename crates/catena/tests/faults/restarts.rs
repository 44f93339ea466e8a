//! Everything is stopped and started again: one after the other, as an upgrade does it, and all at once, as a power cut does.

use crate::cluster::Cluster;
use crate::workload::progress;
use crate::{block_on, finish, load, number, rounds};

/// An upgrade: every process is asked to end, and is started again, the cluster whole in between. Clients notice nothing.
#[test]
fn a_rolling_restart_fails_no_operation() {
    let mut cluster = Cluster::start(3, 2, 3);
    block_on(async {
        let load = load(&cluster).await;
        for _ in 0..rounds() {
            for node in 0..3 {
                progress(&load, &cluster).await;
                cluster.stop_node(node);
                progress(&load, &cluster).await;
                cluster.start_node(node);
                cluster.wait_healthy();
            }
            progress(&load, &cluster).await;
            cluster.stop_manager();
            cluster.start_manager();
            progress(&load, &cluster).await;
            cluster.wait_healthy();
        }
        finish(load, &cluster).await;
    });
}

/// All orders in which three nodes come back.
const ORDERS: [[usize; 3]; 6] = [[2, 0, 1], [1, 2, 0], [0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]];

/// The power is cut under load, and the nodes come back one after the other, in several orders; the last one only when the
/// others have gone on for a while. The manager is there before them, or after them.
#[test]
fn a_power_cut_loses_nothing_in_whatever_order_nodes_return() {
    let orders = if number("CATENA_TEST_ROUNDS", 0) > 0 { &ORDERS[..] } else { &ORDERS[..2] };
    let mut cluster = Cluster::start(3, 2, 3);
    block_on(async {
        let load = load(&cluster).await;
        for (n, order) in (0..rounds()).flat_map(|_| orders.iter().enumerate()) {
            progress(&load, &cluster).await;
            cluster.kill_manager();
            order.iter().for_each(|node| cluster.kill_node(*node));
            if n % 2 == 0 {
                cluster.start_manager();
            }
            cluster.start_node(order[0]);
            cluster.start_node(order[1]);
            if n % 2 == 1 {
                cluster.start_manager();
            }
            progress(&load, &cluster).await;
            cluster.start_node(order[2]);
            progress(&load, &cluster).await;
            cluster.wait_healthy();
        }
        finish(load, &cluster).await;
    });
}
