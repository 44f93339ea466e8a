//! What a manager is told at start.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a manager keeps its state, where it listens, and the periods of the cluster.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Directory of the store; made if it is not there. Used by one process at a time.
    pub dir: PathBuf,
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Length of a lease in milliseconds.
    pub lease_ms: u32,
    /// Time between the heartbeats of a node in milliseconds; several must fit into a lease.
    pub heartbeat_ms: u32,
}

impl ManagerConfig {
    /// The usual periods: leases of 1.5 s, a heartbeat every 300 ms.
    pub fn new(dir: impl Into<PathBuf>, listen: SocketAddr) -> ManagerConfig {
        ManagerConfig { dir: dir.into(), listen, lease_ms: 1500, heartbeat_ms: 300 }
    }

    /// Whether the periods make sense; `Err` says what does not.
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
        Ok(())
    }
}
