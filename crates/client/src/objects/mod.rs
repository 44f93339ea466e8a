//! Objects: byte streams of any size in chunks, without a metadata service.
//!
//! An object is one *manifest* chunk (`o/` and the name) and the data chunks of its *generation* (`d/`, 16 random bytes, a
//! number). Every put writes a new generation. The manifest holds the current generation, those being put (*pending*) and
//! those to be removed (*garbage*), and changes only by conditional updates, which makes every step atomic and needs no
//! clock that two machines agree on:
//!
//! ```text
//! put:     + pending → write data chunks → current = it, old current → garbage → remove old chunks → − garbage
//! remove:  current → garbage → remove chunks → − garbage → remove the manifest
//! collect: pending that has not changed for long → garbage → remove chunks → − garbage
//! ```
//!
//! What must hold: a generation is named by its manifest before its first chunk is written and until its last chunk is
//! removed. A generation is never current again once it was garbage. Chunks of a generation never change.

mod collect;
mod get;
mod listing;
mod manifest;
mod put;
mod store;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use catena_types::{ChunkKey, Ver};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::Client;
use crate::error::{Error, ErrorKind};

pub use collect::{Collected, Collector, run_collector};
use manifest::{Generation, GenerationId, data_key, manifest_key};
use store::{Change, Held};

/// Time between signs of life of a put, unless its options say otherwise.
const TOUCH: Duration = Duration::from_secs(60);
/// Grace of a collector that never takes a living put for dead.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(600);

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
    /// Time between signs of life of a put that takes long; far below the grace of any collector.
    pub touch: Duration,
}

impl Default for PutOptions {
    fn default() -> PutOptions {
        PutOptions { chunk_size: crate::DEFAULT_CHUNK_SIZE, parallel: 16, size_hint: None, progress: None, touch: TOUCH }
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
        let id: GenerationId = self.generation;
        (0..self.chunks).map(move |n| data_key(&id, n))
    }
}

/// What is known of an object whose manifest of version `ver` names `current`.
fn info(name: &str, current: &Generation, ver: Ver) -> ObjectInfo {
    ObjectInfo {
        name: name.to_string(),
        size: current.size,
        chunk_size: current.chunk_size,
        chunks: current.chunks(),
        checksum: current.checksum,
        generation: current.id.as_slice().try_into().unwrap_or_default(),
        version: ver,
    }
}

fn no_object() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such object")
}

/// A page of a listing of objects.
#[derive(Clone, Debug, Default)]
pub struct ObjectPage {
    /// In the order of their names (bytewise).
    pub objects: Vec<ObjectInfo>,
    /// The name to go on after; `None` at the end.
    pub next: Option<String>,
    /// Names among them whose manifest could not be read or makes no sense, and why.
    pub unreadable: Vec<(String, Error)>,
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
    /// this is nearly done, and never a part of the new one. Of several puts of one name at the same time, the last to end
    /// stays.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the last step was sent and not answered; after every other error the object is what it was.
    pub async fn put<R: AsyncRead + Unpin + Send>(
        &self,
        name: &str,
        source: R,
        options: PutOptions,
    ) -> Result<ObjectInfo, Error> {
        put::put(self, name, source, options).await.map_err(|e| e.context(format!("put object {name:?}")))
    }

    /// Writes the object, or a range of its bytes (clipped at its end), to `sink`, in order; verified chunk by chunk, and as
    /// a whole if all of it is read. The sink is flushed, not shut down.
    ///
    /// # Errors
    /// `NotFound`; `ObjectChanged` when it was replaced or removed after the first bytes were written; `Corrupt`.
    pub async fn get<W: AsyncWrite + Unpin + Send>(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        sink: W,
        options: GetOptions,
    ) -> Result<ObjectInfo, Error> {
        get::get(self, name, range, sink, options).await.map_err(|e| e.context(format!("get object {name:?}")))
    }

    /// What is known of an object; `None` if it does not exist.
    ///
    /// # Errors
    /// `BadManifest` if what is stored of it makes no sense; those of a read.
    pub async fn stat(&self, name: &str) -> Result<Option<ObjectInfo>, Error> {
        let held = self.held(name).await.map_err(|e| e.context(format!("stat object {name:?}")))?;
        Ok(held.manifest.current.map(|g| info(name, &g, held.ver)))
    }

    /// Up to `limit` objects whose names start with `prefix` and come after `after`, in the order of their names (bytewise).
    ///
    /// # Errors
    /// Those of a listing of chunks.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<ObjectPage, Error> {
        listing::list(self, prefix, after, limit).await.map_err(|e| e.context(format!("list objects {prefix:?}")))
    }

    /// Removes an object; `false` if there was none. Its space is free when this returns, unless a replica failed.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the removal was sent and not answered.
    pub async fn remove(&self, name: &str) -> Result<bool, Error> {
        self.remove_object(name).await.map_err(|e| e.context(format!("remove object {name:?}")))
    }

    async fn remove_object(&self, name: &str) -> Result<bool, Error> {
        let key = manifest_key(name)?;
        let mut removed = None;
        let outcome = store::change(&self.client, &key, |m| {
            let Some(current) = m.current.take() else { return Ok(Change::Keep(())) };
            let garbage = current.into_garbage();
            m.garbage.push(garbage.clone());
            removed = Some(garbage);
            Ok(Change::Write(()))
        });
        outcome.await?;
        let Some(garbage) = removed else { return Ok(false) };
        store::discard(&self.client, &key, garbage).await;
        Ok(true)
    }

    async fn held(&self, name: &str) -> Result<Held, Error> {
        store::load(&self.client, &manifest_key(name)?).await
    }

    /// Keys of the chunks that hold an object's bytes, in order.
    ///
    /// # Errors
    /// `NotFound` if there is no such object.
    pub async fn chunks(&self, name: &str) -> Result<impl Iterator<Item = ChunkKey> + use<>, Error> {
        let info = self.stat(name).await?.ok_or_else(|| no_object().context(format!("object {name:?}")))?;
        Ok(info.chunk_keys())
    }

    /// Removes what interrupted puts and removals left behind, if it has not changed for `grace`: looks once, and a second
    /// time after `grace` if there is something to wait for.
    ///
    /// # Errors
    /// Those of a listing; single objects that cannot be cleaned are counted, not errors.
    pub async fn collect(&self, grace: Duration) -> Result<Collected, Error> {
        let mut collector = Collector::new(self.clone(), grace);
        let mut collected = collector.pass().await?;
        if collected.waiting > 0 {
            tokio::time::sleep(grace).await;
            let second = collector.pass().await?;
            collected = Collected {
                generations: collected.generations + second.generations,
                chunks: collected.chunks + second.chunks,
                ..second
            };
        }
        Ok(collected)
    }
}
