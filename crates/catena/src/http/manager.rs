//! What a manager shows of itself, and of the cluster while it is the elected one.

use std::collections::BTreeMap;

use catena_manager::{ManagerObserver, ManagerStatus, REQUESTS};
use catena_types::{NodeId, PublicState, Routing};
use catena_wire::manager::StatusReply;
use serde_json::{Value, json};

use super::exposition::{Exposition, Type};
use super::{Pages, View, process};
use crate::health::{Health, state_word};

/// Every place a replica can have in its chain.
const STATES: [PublicState; 5] =
    [PublicState::Serving, PublicState::LastSrv, PublicState::Syncing, PublicState::Waiting, PublicState::Offline];

/// What a manager shows.
pub(crate) struct ManagerPages(pub(crate) ManagerObserver);

impl Pages for ManagerPages {
    async fn look(&self) -> View {
        let mut e = Exposition::default();
        process::describe(&mut e);
        let Some(status) = self.0.status().await else {
            let fault = "the manager does not answer: its thread has ended or hangs; look at its log".to_owned();
            return View { metrics: e.finish(), status: json!({ "fault": fault }), fault: Some(fault) };
        };
        let fault = status.fault();
        describe(&mut e, &status);
        if let Some(reply) = &status.status {
            describe_cluster(&mut e, &Health::of_status(reply), &reply.routing);
            describe_nodes(&mut e, reply);
            let stuck = reply.moves.iter().filter(|m| m.joining == 0).count();
            e.metric("catena_cluster_moves", Type::Gauge, "Replicas that move, and those that are to and have nowhere to go.");
            e.sample(&[("state", &"moving")], reply.moves.len() - stuck);
            e.sample(&[("state", &"stuck")], stuck);
        }
        View { metrics: e.finish(), status: to_json(&status, fault.as_deref()), fault }
    }
}

fn describe(e: &mut Exposition, status: &ManagerStatus) {
    let counters = &status.counters;
    let healthy = u8::from(status.fault().is_none());
    e.single("catena_manager_healthy", Type::Gauge, "1 if /healthz answers 200.", &[], healthy);
    e.single("catena_manager_elected", Type::Gauge, "1 if this is the elected manager.", &[], u8::from(status.elected()));
    e.single("catena_manager_elections_total", Type::Counter, "Times this manager was elected.", &[], counters.elections);
    e.metric("catena_manager_requests_total", Type::Counter, "Requests answered while elected, by kind.");
    for (op, count) in REQUESTS.iter().zip(counters.requests) {
        e.sample(&[("op", op)], count);
    }
    let help = "Requests refused, since this manager was not the elected one.";
    e.single("catena_manager_refused_total", Type::Counter, help, &[], counters.refused);
    e.metric("catena_manager_store_duration_seconds", Type::Summary, "Time to store the state of the cluster.");
    e.summary(&[], counters.storing_ns as f64 / 1e9, counters.stored);
    let waiting = status.status.as_ref().map_or(0, |s| s.storing_ms) as f64 / 1e3;
    let help = "Time for which the write under way has been waiting for the store; 0 if none is.";
    e.single("catena_manager_store_waiting_seconds", Type::Gauge, help, &[], waiting);
}

fn describe_cluster(e: &mut Exposition, health: &Health, routing: &Routing) {
    let chains = "Chains by state: full, degraded (served by fewer replicas), unavailable.";
    e.metric("catena_cluster_chains", Type::Gauge, chains);
    e.sample(&[("state", &"full")], health.chains_full);
    e.sample(&[("state", &"degraded")], health.chains_degraded);
    e.sample(&[("state", &"unavailable")], health.chains_unavailable);
    e.metric("catena_cluster_replicas", Type::Gauge, "Replicas by their place in their chain.");
    for state in STATES {
        let count = routing.chains.iter().flat_map(|c| &c.members).filter(|m| m.state() == state).count();
        e.sample(&[("state", &state_word(state).to_lowercase())], count);
    }
    e.metric("catena_cluster_nodes", Type::Gauge, "Nodes by state.");
    e.sample(&[("state", &"alive")], health.nodes_alive);
    e.sample(&[("state", &"silent")], health.nodes - health.nodes_alive);
    let version = "Version of the routing; grows with every change of membership.";
    e.single("catena_cluster_routing_version", Type::Gauge, version, &[], routing.version);
}

fn describe_nodes(e: &mut Exposition, reply: &StatusReply) {
    let routing = &reply.routing;
    e.metric("catena_cluster_node_alive", Type::Gauge, "0 if the node has sent no heartbeat within a lease, or has stopped.");
    for node in &routing.nodes {
        e.sample(&[("node", &node.id)], u8::from(node.alive));
    }
    let mut heard: BTreeMap<NodeId, u64> = BTreeMap::new();
    for target in &reply.targets {
        let Some(node) = routing.target(target.report.target).map(|t| t.node) else { continue };
        heard.entry(node).and_modify(|ms| *ms = target.heard_ms.min(*ms)).or_insert(target.heard_ms);
    }
    e.metric("catena_cluster_node_heard_seconds", Type::Gauge, "Time since the node's last heartbeat.");
    for (node, ms) in heard {
        e.sample(&[("node", &node)], ms as f64 / 1e3);
    }
}

fn to_json(status: &ManagerStatus, fault: Option<&str>) -> Value {
    let cluster = status.status.as_ref().map(|reply| {
        json!({
            "health": Health::of_status(reply), "routing": reply.routing.version,
            "lease_ms": reply.lease_ms, "storing_ms": reply.storing_ms,
        })
    });
    json!({
        "cluster_id": format!("{:016x}", status.cluster),
        "addr": status.addr,
        "fault": fault,
        "elected": status.elected(),
        "standing": status.standing,
        "elected_addr": if status.elected() { &status.addr } else { &status.elsewhere },
        "cluster": cluster,
    })
}
