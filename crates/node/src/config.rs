//! What a node is told at its start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use catena_engine::{Background, Durability, StoreKind};
use catena_net::{OneSided, Security};
use catena_types::NodeId;

use crate::NodeError;

/// Bytes per second that each target's scrub reads unless told otherwise: a terabyte in 12 days.
const SCRUB_RATE: u64 = 1 << 20;

/// How a node reaches its disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskChoice {
    /// io_uring where the system allows it, else threads.
    #[default]
    Auto,
    /// io_uring, or refuse to start.
    Uring,
    /// pread and pwrite on threads.
    Threads,
}

/// What a shard admits from clients before it answers `Busy`. Messages between targets are never refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client updates in progress.
    pub updates: usize,
    /// Bytes of payload of client updates in progress.
    pub update_bytes: usize,
    /// Client reads in progress.
    pub reads: usize,
    /// Bytes that wait to be sent on one client connection; a client that does not read is answered `Busy`.
    pub reply_bytes: usize,
    /// Pause told with `Busy`, in microseconds.
    pub retry_after_us: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { updates: 4096, update_bytes: 256 << 20, reads: 4096, reply_bytes: 256 << 20, retry_after_us: 2_000 }
    }
}

/// What a node is told at its start. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node; not 0.
    pub node: NodeId,
    /// What it shares with others that may fail together with it, such as a rack; empty: nothing.
    pub rack: String,
    /// Its directory: identity, lock, targets.
    pub dir: PathBuf,
    /// `host:port` of each manager.
    pub managers: Vec<String>,
    /// Address its shards listen on.
    pub listen: IpAddr,
    /// Address others reach it at; needed if `listen` is unspecified (0.0.0.0 or ::), else `listen` is used.
    pub advertise: Option<IpAddr>,
    /// Port of the first shard, the others follow; 0: any free ports.
    pub base_port: u16,
    /// Threads that own targets.
    pub shards: u32,
    /// Targets to have; those found are opened, missing ones are made.
    pub targets: u32,
    /// Size of the data area of a target that is made.
    pub capacity: u64,
    /// Size of the journal of a target that is made; 0: chosen from the capacity.
    pub journal: u64,
    /// How a target that is made keeps chunks.
    pub store: StoreKind,
    /// What an acknowledgement of a target that is made means.
    pub durability: Durability,
    /// What targets do by themselves when there is time.
    pub background: Background,
    /// Bytes per second that a target sends to bring another one up to date, at most; 0: as fast as clients' requests allow.
    pub sync_rate: u64,
    /// Memory for buffers, over all shards.
    pub memory: usize,
    /// How disks are reached.
    pub disk: DiskChoice,
    /// Admission of each shard.
    pub limits: Limits,
    /// Of every connection, to managers, other nodes and clients.
    pub security: Security,
    /// For large payloads, with clients that have the same.
    pub one_sided: Option<Arc<dyn OneSided>>,
}

impl NodeConfig {
    /// A node with one target on one shard, on loopback, with any free port.
    pub fn new(node: NodeId, dir: impl Into<PathBuf>, managers: Vec<String>) -> NodeConfig {
        NodeConfig {
            node,
            rack: String::new(),
            dir: dir.into(),
            managers,
            listen: IpAddr::from([127, 0, 0, 1]),
            advertise: None,
            base_port: 0,
            shards: 1,
            targets: 1,
            capacity: 1 << 30,
            journal: 0,
            store: StoreKind::Cow,
            durability: Durability::Flush,
            background: Background { scrub_rate: SCRUB_RATE, ..Background::default() },
            sync_rate: 0,
            memory: 512 << 20,
            disk: DiskChoice::Auto,
            limits: Limits::default(),
            security: Security::default(),
            one_sided: None,
        }
    }

    /// Whether a node can be started with this.
    pub(crate) fn check(&self) -> Result<(), NodeError> {
        let bad = |what: &str| Err(NodeError::Config(what.to_owned()));
        if self.node == 0 {
            return bad("the node id is 0; give a number from 1");
        }
        if self.managers.is_empty() {
            return bad("no manager is given; give the address of at least one");
        }
        if self.shards == 0 || self.targets == 0 {
            return bad("a node needs at least one shard and one target");
        }
        if self.base_port != 0 && u32::from(self.base_port) + self.shards - 1 > u32::from(u16::MAX) {
            return bad("the shards' ports pass 65535; choose a lower first port");
        }
        if self.listen.is_unspecified() && self.advertise.is_none() {
            return bad("listening on all addresses: say with advertise at which one the others reach this node");
        }
        Ok(())
    }

    /// Port of a shard; 0: any.
    pub(crate) fn port(&self, shard: u32) -> u16 {
        // `check` has made sure that it fits.
        if self.base_port == 0 { 0 } else { self.base_port + shard as u16 }
    }
}
