//! Objects: byte streams of any size in chunks, without a metadata service.
#![allow(unused_variables, clippy::unimplemented)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use catena_types::{ChunkKey, Ver};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::Client;
use crate::error::Error;

/// Called with bytes done so far.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// How an object is put.
#[derive(Clone)]
pub struct PutOptions {
    /// Chunk size in bytes; see [`UpdateOptions::chunk_size`](crate::UpdateOptions::chunk_size).
    pub chunk_size: u32,
    /// Chunks on their way at the same time.
    pub parallel: usize,
    /// Bytes expected, if known; the put fails if the source ends elsewhere.
    pub size_hint: Option<u64>,
    /// Called whenever a chunk is committed.
    pub progress: Option<Progress>,
}

impl Default for PutOptions {
    fn default() -> PutOptions {
        PutOptions { chunk_size: crate::DEFAULT_CHUNK_SIZE, parallel: 16, size_hint: None, progress: None }
    }
}

/// How an object is read.
#[derive(Clone)]
pub struct GetOptions {
    /// Chunks on their way at the same time.
    pub parallel: usize,
    /// Called whenever bytes were written to the sink.
    pub progress: Option<Progress>,
}

impl Default for GetOptions {
    fn default() -> GetOptions {
        GetOptions { parallel: 16, progress: None }
    }
}

/// An object as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Chunk size in bytes.
    pub chunk_size: u32,
    /// Chunks that hold its bytes.
    pub chunks: u64,
    /// CRC-32C of all its bytes.
    pub checksum: u32,
    /// Names its bytes: every put draws a new one.
    pub generation: [u8; 16],
    /// Version of its manifest chunk.
    pub version: Ver,
}

impl ObjectInfo {
    /// Keys of the chunks that hold its bytes, in order.
    pub fn chunk_keys(&self) -> impl Iterator<Item = ChunkKey> + use<> {
        std::iter::empty()
    }
}

/// A page of a listing of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectPage {
    /// In the order of their names (bytewise).
    pub objects: Vec<ObjectInfo>,
    /// The name to go on after; `None` at the end.
    pub next: Option<String>,
}

/// What a pass of the collector found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests looked at.
    pub manifests: u64,
    /// Manifests with leftovers that are too young to be touched.
    pub waiting: u64,
    /// Generations removed.
    pub generations: u64,
    /// Data chunks removed.
    pub chunks: u64,
    /// Manifests that could not be read or cleaned; the next pass tries again.
    pub failed: u64,
}

/// Objects in a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    client: Client,
}

impl Objects {
    /// Objects kept in the chunks of `client`'s cluster.
    pub fn new(client: Client) -> Objects {
        Objects { client }
    }
    /// The client below.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// Stores everything `source` gives as the object `name`, in place of what it was. Readers see the old object until
    /// this returns, and never a part of the new one.
    pub async fn put<R: AsyncRead + Unpin + Send>(
        &self,
        name: &str,
        source: R,
        options: PutOptions,
    ) -> Result<ObjectInfo, Error> {
        unimplemented!()
    }
    /// Writes the object, or a range of its bytes (clipped at its end), to `sink`, in order, verified.
    pub async fn get<W: AsyncWrite + Unpin + Send>(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        sink: W,
        options: GetOptions,
    ) -> Result<ObjectInfo, Error> {
        unimplemented!()
    }
    /// What is known of an object; `None` if it does not exist.
    pub async fn stat(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        unimplemented!()
    }
    /// Up to `limit` objects whose names start with `prefix` and come after `after`.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<ObjectPage, Error> {
        unimplemented!()
    }
    /// Removes an object; `false` if there was none.
    pub async fn remove(&self, name: &str) -> Result<bool, Error> {
        unimplemented!()
    }
    /// Keys of the chunks that hold an object's bytes, in order.
    ///
    /// # Errors
    /// `NotFound` if there is no such object.
    pub async fn chunks(&self, name: &str) -> Result<impl Iterator<Item = ChunkKey> + use<>, Error> {
        Ok(std::iter::empty())
    }
    /// Removes what interrupted puts and removes left behind, if it has not changed for `grace`: looks once, and a second
    /// time after `grace` if there is something to wait for.
    pub async fn collect(&self, grace: Duration) -> Result<Collected, Error> {
        unimplemented!()
    }
}

/// Removes what interrupted puts and removes left behind. Remembers between passes since when leftovers have not changed.
pub struct Collector {
    objects: Objects,
    grace: Duration,
}

impl Collector {
    /// A collector that touches nothing that changed within `grace` of its own clock.
    pub fn new(objects: Objects, grace: Duration) -> Collector {
        Collector { objects, grace }
    }
    /// Looks at every manifest once.
    pub async fn pass(&mut self) -> Result<Collected, Error> {
        unimplemented!()
    }
}

/// Runs passes of a [`Collector`] with `every` between them, until it is dropped.
pub async fn run_collector(objects: Objects, grace: Duration, every: Duration) {
    unimplemented!()
}
