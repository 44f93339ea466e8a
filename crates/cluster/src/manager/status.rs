//! The state of everything, for people and tools.

use catena_types::Time;
use catena_wire::manager::{StatusReply, TargetStatus};

use super::Manager;

impl Manager {
    /// Routing, and the last report of every target heard of since this manager started.
    pub fn status(&self, now: Time) -> StatusReply {
        let status = |live: &super::TargetLive| {
            let (report, at) = live.report.as_ref()?;
            Some(TargetStatus { report: report.clone(), heard_ms: now.saturating_sub(*at) / 1_000_000 })
        };
        StatusReply {
            failure: None,
            routing: self.state.routing(),
            targets: self.targets.values().filter_map(status).collect(),
            lease_ms: self.settings.lease_ms,
            replicas: self.state.replicas,
            moves: self.moves(now),
            draining_nodes: self.state.nodes.iter().filter(|(_, n)| n.draining).map(|(&id, _)| id).collect(),
            draining_targets: self.state.targets.iter().filter(|(_, t)| t.draining).map(|(&id, _)| id).collect(),
            rebalancing: self.state.rebalancing,
            heartbeat_ms: self.settings.heartbeat_ms,
            replace_after_ms: self.settings.replace_after_ms,
            max_moves: self.settings.max_moves,
            ..StatusReply::default()
        }
    }
}
