//! Asking a running node how it is, from any thread.
//!
//! What must hold: a shard that hangs delays the answer by a bounded time, and is named in it; asking never waits for the
//! control task, so that it works while no manager answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use catena_types::ShardId;
use tokio::sync::{mpsc, oneshot};

use crate::clock::now;
use crate::shard::{Identity, Inbox};
use crate::status::{Heard, NodeStatus};

/// How long a status waits for the shards.
const STATUS: Duration = Duration::from_secs(5);

/// What a running node is asked through. Outlives the node: then no shard answers.
#[derive(Clone)]
pub struct NodeObserver {
    identity: Identity,
    shards: Vec<(ShardId, mpsc::UnboundedSender<Inbox>)>,
    heard: Arc<Mutex<Heard>>,
}

impl NodeObserver {
    pub(crate) fn new(identity: Identity, shards: Vec<(ShardId, mpsc::UnboundedSender<Inbox>)>) -> NodeObserver {
        NodeObserver { identity, shards, heard: Arc::default() }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where heartbeats leave what came of them.
    pub(crate) fn heard(&self) -> Arc<Mutex<Heard>> {
        self.heard.clone()
    }

    /// What the node says about itself.
    pub async fn status(&self) -> NodeStatus {
        let ask = |(number, inbox): &(ShardId, mpsc::UnboundedSender<Inbox>)| {
            let (reply, status) = oneshot::channel();
            // A shard that has ended, or hangs, is missing in the answer.
            let _ = inbox.send(Inbox::Status(reply));
            (*number, status)
        };
        let asked: Vec<_> = self.shards.iter().map(ask).collect();
        let deadline = tokio::time::Instant::now() + STATUS;
        let (mut shards, mut silent) = (Vec::new(), Vec::new());
        for (number, status) in asked {
            match tokio::time::timeout_at(deadline, status).await {
                Ok(Ok(status)) => shards.push(status),
                _ => silent.push(number),
            }
        }
        let Identity { node, cluster, incarnation } = self.identity;
        let heard = self.heard.lock().unwrap_or_else(|e| e.into_inner()).clone();
        NodeStatus { node, cluster, incarnation, now: now(), heard, shards, silent }
    }
}
