//! What a manager is told at start.

use std::net::SocketAddr;
use std::path::PathBuf;

use catena_cluster::state::{MAX_MOVES, REPLACE_AFTER_MS};
use catena_net::Security;

use crate::etcd::EtcdConfig;

/// Where the state of the cluster is kept.
#[derive(Clone, Debug)]
pub enum StoreChoice {
    /// In a directory, made if it is not there. Used by one process at a time: the cluster has this one manager.
    Directory(PathBuf),
    /// In etcd, for several managers of which one is elected.
    Etcd(EtcdConfig),
}

/// Where a manager keeps its state, where it listens, and the periods of the cluster.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Where the state is kept.
    pub store: StoreChoice,
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// `host:port` at which clients, nodes and other managers' clients reach this one; the one listened on if absent.
    pub advertise: Option<String>,
    /// Length of a lease in milliseconds.
    pub lease_ms: u32,
    /// Time between the heartbeats of a node in milliseconds; several must fit into a lease.
    pub heartbeat_ms: u32,
    /// Of every connection of clients and nodes.
    pub security: Security,
    /// Time after which a target that is out is replaced by another one, in milliseconds.
    pub replace_after_ms: u64,
    /// Most replicas that move at a time, in the whole cluster.
    pub max_moves: u32,
}

impl ManagerConfig {
    /// The usual periods: a heartbeat every 300 ms; leases of 1.5 s, or 5 s with etcd, so that they outlast the election of
    /// another manager.
    pub fn new(store: StoreChoice, listen: SocketAddr) -> ManagerConfig {
        let lease_ms = match &store {
            StoreChoice::Directory(_) => 1500,
            StoreChoice::Etcd(_) => 5000,
        };
        let (replace_after_ms, max_moves) = (REPLACE_AFTER_MS, MAX_MOVES);
        let security = Security::default();
        ManagerConfig { store, listen, advertise: None, lease_ms, heartbeat_ms: 300, security, replace_after_ms, max_moves }
    }

    /// Whether the configuration makes sense; `Err` says what does not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (lease, heartbeat) = (self.lease_ms, self.heartbeat_ms);
        if heartbeat == 0 || heartbeat.saturating_mul(2) > lease {
            return Err(format!(
                "a lease of {lease} ms with a heartbeat every {heartbeat} ms: at least two heartbeats must fit into a lease"
            ));
        }
        if lease > 3_600_000 {
            return Err(format!("a lease of {lease} ms: the longest is an hour (3600000)"));
        }
        if self.advertise.is_none() && matches!(self.store, StoreChoice::Etcd(_)) && self.listen.ip().is_unspecified() {
            return Err(format!("with etcd, {} is no address to send others to: say which one is", self.listen));
        }
        Ok(())
    }
}
