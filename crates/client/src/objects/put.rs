//! Storing an object.
//!
//! The manifest first learns of the put (*pending*), then the data chunks are written under keys nobody else uses, then
//! one conditional update makes them the object. Until then readers see the old object; a put that dies leaves a pending
//! generation behind, which a collector finds. A put that takes long writes the manifest again from time to time, which
//! is how a collector sees that it lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use catena_types::ChunkKey;
use catena_types::crc::{combine, crc32c};
use catena_types::limits::valid_chunk_size;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::{AbortHandle, JoinSet};

use super::manifest::*;
use super::store::{self, Change, change};
use super::{ObjectInfo, Objects, PutOptions, info};
use crate::call::invalid;
use crate::client::Client;
use crate::error::{Error, ErrorKind};

/// A put under way.
struct Put {
    client: Client,
    key: ChunkKey,
    id: GenerationId,
    options: PutOptions,
    /// A collector has given this put up: there is no point in going on.
    abandoned: Arc<AtomicBool>,
    /// Chunks whose write was started.
    started: u64,
    /// The outcome of some write is not known: it may still be applied.
    unsure: bool,
}

/// A task that ends with the put.
struct Touching(AbortHandle);

impl Drop for Touching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn put<R: AsyncRead + Unpin + Send>(
    objects: &Objects,
    name: &str,
    source: R,
    options: PutOptions,
) -> Result<ObjectInfo, Error> {
    let key = manifest_key(name)?;
    if !valid_chunk_size(options.chunk_size) {
        return Err(invalid(format!("chunk size {} is not a multiple of 4096 up to 64 MiB", options.chunk_size)));
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Error::new(ErrorKind::Stream, format!("no random number: {e}")))?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let mut put = Put { client: objects.client.clone(), key, id, options, abandoned, started: 0, unsure: false };
    put.begin().await?;
    let touching = Touching(
        tokio::spawn(touch(put.client.clone(), put.key.clone(), id, put.options.touch, put.abandoned.clone())).abort_handle(),
    );
    let streamed = put.stream(source).await;
    drop(touching);
    let ended = match streamed {
        Ok(generation) => put.finish(generation).await,
        Err(e) => Err(e),
    };
    match ended {
        Ok((generation, ver)) => Ok(info(name, &generation, ver)),
        Err(e) => {
            put.clean_up(&e).await;
            Err(e)
        }
    }
}

impl Put {
    fn pending(&self) -> Pending {
        Pending { id: self.id.to_vec(), chunk_size: self.options.chunk_size }
    }

    /// Makes the put known.
    async fn begin(&self) -> Result<(), Error> {
        let begun = change(&self.client, &self.key, |m| {
            if m.is_pending(&self.id) {
                return Ok(Change::Keep(()));
            }
            m.pending.push(self.pending());
            Ok(Change::Write(()))
        });
        begun.await.map(|_| ())
    }

    /// Writes the data chunks while the source is read.
    async fn stream<R: AsyncRead + Unpin>(&mut self, mut source: R) -> Result<Generation, Error> {
        let mut writes: JoinSet<Result<u64, Error>> = JoinSet::new();
        let mut done = 0;
        let read = self.read_all(&mut source, &mut writes, &mut done).await;
        // Writes on their way are waited for even if one failed: what is stopped half way may still be applied.
        let mut outcome = read;
        while !writes.is_empty() {
            if let Err(e) = self.take_write(&mut writes, &mut done).await {
                outcome = outcome.and(Err(e));
            }
        }
        let generation = outcome?;
        match self.options.size_hint {
            Some(hint) if hint != generation.size => {
                let cause = format!("the source gave {} bytes where {hint} were announced", generation.size);
                Err(Error::new(ErrorKind::Stream, cause))
            }
            _ => Ok(generation),
        }
    }

    async fn read_all<R: AsyncRead + Unpin>(
        &mut self,
        source: &mut R,
        writes: &mut JoinSet<Result<u64, Error>>,
        done: &mut u64,
    ) -> Result<Generation, Error> {
        let chunk_size = self.options.chunk_size;
        let (mut size, mut checksum) = (0u64, 0u32);
        loop {
            let data = next_chunk(source, chunk_size as usize).await?;
            if data.is_empty() {
                return Ok(Generation { id: self.id.to_vec(), size, chunk_size, checksum });
            }
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(abandoned());
            }
            while writes.len() >= self.options.parallel.max(1) {
                self.take_write(writes, done).await?;
            }
            let crc = crc32c(&data);
            let len = data.len() as u64;
            (size, checksum) = (size + len, combine(checksum, crc, len));
            let (client, key) = (self.client.clone(), data_key(&self.id, self.started));
            self.started += 1;
            writes.spawn(async move { store::write_chunk(&client, &key, data, crc, chunk_size).await.map(|()| len) });
        }
    }

    /// Waits for one write.
    async fn take_write(&mut self, writes: &mut JoinSet<Result<u64, Error>>, done: &mut u64) -> Result<(), Error> {
        let stopped = |_| Err(Error::new(ErrorKind::OutcomeUnknown, "the write was stopped"));
        let Some(outcome) = writes.join_next().await else { return Ok(()) };
        match outcome.unwrap_or_else(stopped) {
            Ok(len) => {
                *done += len;
                self.options.progress.iter().for_each(|p| p(*done));
                Ok(())
            }
            Err(e) => {
                self.unsure |= e.kind() == ErrorKind::OutcomeUnknown;
                Err(e)
            }
        }
    }

    /// Makes the generation the object, and removes what it replaces.
    async fn finish(&self, generation: Generation) -> Result<(Generation, u64), Error> {
        let mut replaced = None;
        let finished = change(&self.client, &self.key, |m| {
            if m.current.as_ref().is_some_and(|g| g.id == self.id) {
                return Ok(Change::Keep(()));
            }
            if !m.is_pending(&self.id) {
                return Err(abandoned());
            }
            m.pending.retain(|p| p.id != self.id);
            replaced = m.current.replace(generation.clone()).map(Generation::into_garbage);
            m.garbage.extend(replaced.clone());
            Ok(Change::Write(()))
        });
        let ((), mut ver) = finished.await?;
        if let Some(garbage) = replaced {
            store::discard(&self.client, &self.key, garbage).await;
            // The manifest was written once more.
            ver = store::load(&self.client, &self.key).await.map_or(ver, |held| held.ver);
        }
        Ok((generation, ver))
    }

    /// After a failure: removes what was written, if that is safe. Where a write may still be applied, the generation is
    /// left as garbage for a collector, which waits; where the put itself may have succeeded, nothing is touched.
    async fn clean_up(&self, why: &Error) {
        if why.kind() == ErrorKind::OutcomeUnknown && !self.unsure {
            return; // the last step may have made the object
        }
        let chunks = Some(self.started);
        let garbage = Garbage { id: self.id.to_vec(), chunk_size: self.options.chunk_size, chunks };
        let outcome = async {
            if !self.unsure {
                store::remove_generation(&self.client, &garbage).await?;
            }
            let dropped = change(&self.client, &self.key, |m| {
                if !m.is_pending(&self.id) {
                    return Ok(Change::Keep(()));
                }
                m.pending.retain(|p| p.id != self.id);
                if self.unsure {
                    m.garbage.push(garbage.clone());
                }
                Ok(Change::Write(()))
            });
            dropped.await.map(|_| ())
        };
        if let Err(e) = outcome.await {
            tracing::info!("what a failed put of {:?} left behind is left to the collector: {e}", self.key);
        }
    }
}

/// Reads until a chunk is full or the source ends.
async fn next_chunk<R: AsyncRead + Unpin>(source: &mut R, chunk_size: usize) -> Result<Bytes, Error> {
    let mut data = BytesMut::new();
    let mut source = source.take(chunk_size as u64);
    loop {
        if data.capacity() == data.len() {
            // Grows by doubling, so that a short object takes little memory.
            data.reserve((data.len().max(64 << 10)).min(chunk_size - data.len()).max(1));
        }
        let read = source.read_buf(&mut data).await;
        let n = read.map_err(|e| Error::new(ErrorKind::Stream, format!("the source cannot be read: {e}")))?;
        if n == 0 || data.len() == chunk_size {
            return Ok(data.freeze());
        }
    }
}

/// Shows from time to time that the put lives; ends when it has been given up.
async fn touch(client: Client, key: ChunkKey, id: GenerationId, every: Duration, gone: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(every).await;
        let touched = change(&client, &key, |m| if m.is_pending(&id) { Ok(Change::Write(())) } else { Err(abandoned()) });
        match touched.await {
            Err(e) if e.kind() == ErrorKind::PutAbandoned => return gone.store(true, Ordering::Relaxed),
            Err(e) => tracing::debug!("a put could not show that it lives: {e}"),
            Ok(_) => {}
        }
    }
}

fn abandoned() -> Error {
    Error::new(ErrorKind::PutAbandoned, "a collector took this put for dead and removed its data; put again")
}
