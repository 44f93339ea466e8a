//! What a client is told when it is made.

use std::sync::Arc;
use std::time::Duration;

use catena_net::{OneSided, Security};

/// Default block of memory for payloads that are being received, in bytes.
const MEMORY: usize = 1 << 30;

/// How a [`Client`](crate::Client) reaches the cluster, and how long it tries.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of every manager known; any one that answers will do.
    pub managers: Vec<String>,
    /// Longest time an operation takes, retries included, unless its options say otherwise.
    pub deadline: Duration,
    /// Longest time to wait for a connection to open.
    pub connect_timeout: Duration,
    /// Updates in flight at the same time; further ones wait for their turn.
    pub channels: usize,
    /// Budget for payloads being received, in bytes.
    pub memory: usize,
    /// Of every connection.
    pub security: Security,
    /// For large payloads, with nodes that have the same.
    pub one_sided: Option<Arc<dyn OneSided>>,
}

impl ClientConfig {
    /// A configuration with defaults. `manager` is `host:port`, or several of them with commas between.
    pub fn new(manager: impl Into<String>) -> ClientConfig {
        let managers = manager.into().split(',').map(|m| m.trim().to_string()).filter(|m| !m.is_empty()).collect();
        ClientConfig {
            managers,
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(1),
            channels: 256,
            memory: MEMORY,
            security: Security::default(),
            one_sided: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_split_at_commas() {
        assert_eq!(ClientConfig::new("a:1, b:2,").managers, ["a:1", "b:2"]);
        assert!(ClientConfig::new(" ").managers.is_empty());
    }
}
