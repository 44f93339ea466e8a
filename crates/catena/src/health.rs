//! Whether a cluster is well, from the manager's status: the one judgement that `status`, `dev`, `demo` and `bench` share.

use catena_types::{Chain, PublicState, Routing};
use catena_wire::manager::StatusReply;
use serde::Serialize;

/// How well a cluster is, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// Every chain has all its replicas, every node that holds some is alive.
    Healthy,
    /// Everything can be read and written, but with fewer replicas, or with a node missing that holds some.
    Degraded,
    /// Some chunks cannot be read or written, or there is no chain table.
    Unavailable,
}

/// Counts behind a [`Grade`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Health {
    /// The judgement.
    pub(crate) grade: Grade,
    /// Nodes heard of within a lease.
    pub(crate) nodes_alive: usize,
    /// Nodes known.
    pub(crate) nodes: usize,
    /// Chains in which every replica serves.
    pub(crate) chains_full: usize,
    /// Chains in which some replica does not serve.
    pub(crate) chains_degraded: usize,
    /// Chains in which no replica serves.
    pub(crate) chains_unavailable: usize,
    /// Replicas being brought up to date now.
    pub(crate) syncing: usize,
}

impl Health {
    /// Judges a routing: a chain is to have as many replicas as it has members.
    pub(crate) fn of(routing: &Routing) -> Health {
        Health::with_replicas(routing, 0)
    }

    /// The same for chains of so many replicas (0: as many as members): one that comes in addition may still be missing.
    fn with_replicas(routing: &Routing, replicas: usize) -> Health {
        let serving = |chain: &Chain| chain.serving().count();
        let chains = &routing.chains;
        let wanted = |chain: &Chain| if replicas > 0 { replicas } else { chain.members.len() };
        let chains_full = chains.iter().filter(|c| !c.members.is_empty() && serving(c) >= wanted(c)).count();
        let chains_unavailable = chains.iter().filter(|c| serving(c) == 0).count();
        let nodes_alive = routing.nodes.iter().filter(|n| n.alive).count();
        // A node that was emptied, or whose replicas were replaced, is missed by nobody.
        let holds = |node: u32| routing.targets.iter().any(|t| t.node == node && t.chain != 0);
        let missed = routing.nodes.iter().any(|n| !n.alive && holds(n.id));
        let grade = match () {
            () if routing.table.is_empty() || chains_unavailable > 0 => Grade::Unavailable,
            () if chains_full < chains.len() || missed => Grade::Degraded,
            () => Grade::Healthy,
        };
        Health {
            grade,
            nodes_alive,
            nodes: routing.nodes.len(),
            chains_full,
            chains_degraded: chains.len() - chains_full - chains_unavailable,
            chains_unavailable,
            syncing: chains.iter().filter(|c| c.syncing().is_some()).count(),
        }
    }

    /// Judges a status.
    pub(crate) fn of_status(status: &StatusReply) -> Health {
        Health::with_replicas(&status.routing, status.replicas as usize)
    }
}

/// A state in one word.
pub(crate) fn state_word(state: PublicState) -> &'static str {
    match state {
        PublicState::Serving => "SERVING",
        PublicState::LastSrv => "LASTSRV",
        PublicState::Syncing => "SYNCING",
        PublicState::Waiting => "WAITING",
        PublicState::Offline => "OFFLINE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_types::{Member, NodeInfo, TargetInfo};

    fn routing(states: &[&[PublicState]], alive: &[bool]) -> Routing {
        let members = |states: &&[PublicState]| -> Vec<Member> {
            let member = |(i, &s): (usize, &PublicState)| Member { target: i as u32 + 1, state: s as i32, chosen: false };
            states.iter().enumerate().map(member).collect()
        };
        let chains = states.iter().enumerate().map(|(i, s)| Chain { id: i as u32 + 1, chain_ver: 1, members: members(s) });
        let node = |(i, &alive): (usize, &bool)| NodeInfo {
            id: i as u32 + 1,
            incarnation: 1,
            shard_addrs: vec![],
            alive,
            rack: String::new(),
        };
        let chains: Vec<Chain> = chains.collect();
        Routing {
            version: 1,
            cluster: 1,
            nodes: alive.iter().enumerate().map(node).collect(),
            targets: (1..=alive.len() as u32).map(|id| TargetInfo { id, node: id, chain: 1, ..TargetInfo::default() }).collect(),
            table: chains.iter().map(|c| c.id).collect(),
            chains,
        }
    }

    #[test]
    fn grades() {
        use PublicState::*;
        let grade = |states: &[&[PublicState]], alive: &[bool]| Health::of(&routing(states, alive)).grade;
        assert_eq!(grade(&[&[Serving, Serving]], &[true, true]), Grade::Healthy);
        assert_eq!(grade(&[&[Serving, Serving]], &[true, false]), Grade::Degraded);
        assert_eq!(grade(&[&[Serving, Syncing]], &[true, true]), Grade::Degraded);
        assert_eq!(grade(&[&[Serving, Offline], &[LastSrv, LastSrv]], &[true, true]), Grade::Unavailable);
        assert_eq!(grade(&[], &[true]), Grade::Unavailable, "no chain table");
        let health = Health::of(&routing(&[&[Serving, Syncing], &[Serving, Serving], &[Offline]], &[true]));
        assert_eq!((health.chains_full, health.chains_degraded, health.chains_unavailable, health.syncing), (1, 1, 1, 1));
    }
}
