//! The storage service: one process, several shards.
//!
//! A shard is a thread with its own runtime, its own port, its own ring, and the targets it owns: the hot path crosses no
//! thread and takes no lock. It turns frames into events of the replica state machines, and their commands into frames
//! and engine calls ([`shard`]). One control task outside the shards talks to the manager: it registers, sends
//! heartbeats, hands leases and routing to the shards ([`control`]).
//!
//! What must hold: a lease is counted from before its heartbeat was sent; a target acts on no routing older than its
//! first grant; a directory serves one node of one cluster in one process at a time.

mod clock;
mod config;
mod control;
mod error;
mod home;
mod managers;
mod observer;
mod service;
mod shard;
mod status;
mod storage;

pub use config::{DiskChoice, Limits, NodeConfig};
pub use error::NodeError;
pub use observer::NodeObserver;
pub use service::{Node, NodeHandle};
pub use status::{Heard, NodeStatus, SERVED, ShardStatus, TargetStatus};
