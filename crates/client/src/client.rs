//! The client: one handle for every operation on chunks.
#![allow(unused_variables, clippy::unimplemented)]

use std::sync::Arc;

use bytes::Bytes;
use catena_types::{ChainId, ClientId, PublicState, Routing, TargetId};
use catena_wire::client::InspectReply;
use catena_wire::manager::StatusReply;

use crate::api::*;
use crate::config::ClientConfig;
use crate::error::Error;

/// A client of one cluster. Cheap to clone; all clones share connections, routing and sessions. Must be used within a
/// tokio runtime.
#[derive(Clone)]
pub struct Client {
    inner: Arc<()>,
}

impl Client {
    /// Asks a manager for the routing, and keeps it up to date from then on.
    ///
    /// # Errors
    /// `NoManager` when none of them answers before the deadline.
    pub async fn connect(config: ClientConfig) -> Result<Client, Error> {
        unimplemented!()
    }
    /// The routing now.
    pub fn routing(&self) -> Arc<Routing> {
        unimplemented!()
    }
    /// Asks a manager for newer routing, and returns what is newest.
    pub async fn refresh_routing(&self) -> Result<Arc<Routing>, Error> {
        unimplemented!()
    }
    /// Drawn at random for this client; names its sessions.
    pub fn client_id(&self) -> ClientId {
        unimplemented!()
    }
    /// The chain a key lives on; `None` before the chain table is made.
    pub fn chain_of(&self, key: impl AsRef<[u8]>) -> Option<ChainId> {
        unimplemented!()
    }
    /// Applies one update to one chunk, at most once, and waits for its outcome.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the deadline passes while it may still be applied; every other error means that it was not,
    /// and never will be.
    pub async fn update(&self, key: impl AsRef<[u8]>, kind: UpdateKind, options: &UpdateOptions) -> Result<Updated, Error> {
        unimplemented!()
    }
    /// [`UpdateKind::Write`].
    pub async fn write(
        &self,
        key: impl AsRef<[u8]>,
        offset: u32,
        data: impl Into<Bytes>,
        options: &UpdateOptions,
    ) -> Result<Updated, Error> {
        unimplemented!()
    }
    /// [`UpdateKind::Truncate`].
    pub async fn truncate(&self, key: impl AsRef<[u8]>, len: u32, options: &UpdateOptions) -> Result<Updated, Error> {
        unimplemented!()
    }
    /// [`UpdateKind::Extend`].
    pub async fn extend(&self, key: impl AsRef<[u8]>, len: u32, options: &UpdateOptions) -> Result<Updated, Error> {
        unimplemented!()
    }
    /// [`UpdateKind::Remove`].
    pub async fn remove(&self, key: impl AsRef<[u8]>, options: &UpdateOptions) -> Result<Updated, Error> {
        unimplemented!()
    }
    /// Reads up to `len` bytes at `offset`, clipped at the end of the chunk. Linearizable unless `relaxed`.
    pub async fn read(&self, key: impl AsRef<[u8]>, offset: u32, len: u32, options: &ReadOptions) -> Result<ReadResult, Error> {
        unimplemented!()
    }
    /// Version, length and checksum of a chunk; `None` if it does not exist. Linearizable.
    pub async fn stat(&self, key: impl AsRef<[u8]>) -> Result<Option<ChunkStat>, Error> {
        unimplemented!()
    }
    /// What every replica of the key's chain holds of it, in the order of the chain: for diagnosis, not linearizable.
    pub async fn inspect(&self, key: impl AsRef<[u8]>) -> Vec<(TargetId, PublicState, Result<InspectReply, Error>)> {
        unimplemented!()
    }
    /// Applies many updates, all on their way at once. Each has its own outcome, in the order given.
    pub async fn write_batch(&self, items: Vec<WriteItem>) -> Vec<Result<Updated, Error>> {
        unimplemented!()
    }
    /// Reads many ranges, all on their way at once. Each has its own outcome, in the order given.
    pub async fn read_batch(&self, items: Vec<ReadItem>) -> Vec<Result<ReadResult, Error>> {
        unimplemented!()
    }
    /// Up to `limit` committed chunks whose keys start with `prefix` and are ≥ `from`, in key order over all chains. Each
    /// chain is asked at its tail; chunks updated meanwhile may be listed as they were before or after.
    pub async fn list(&self, prefix: impl AsRef<[u8]>, from: impl AsRef<[u8]>, limit: usize) -> Result<ListPage, Error> {
        unimplemented!()
    }
    /// The state of everything, from a manager.
    pub async fn status(&self) -> Result<StatusReply, Error> {
        unimplemented!()
    }
    /// Makes the chain table: chains of `replicas` targets each, once `nodes` nodes are registered (waited for until the
    /// deadline). Returns the number of chains.
    pub async fn init(&self, replicas: u32, nodes: u32) -> Result<u32, Error> {
        unimplemented!()
    }
}
