//! Manifests and generations as chunks: load, conditional change, removal.

use bytes::Bytes;
use catena_types::{ChunkKey, Precondition, Ver};

use super::manifest::*;
use crate::api::{ReadItem, ReadOptions, UpdateOptions};
use crate::batch;
use crate::client::Client;
use crate::error::{Error, ErrorKind};

/// Chunks removed at the same time.
const REMOVALS: usize = 32;
/// Chunks in one page of a listing.
const PAGE: usize = 1000;
/// Times a change is tried against other writers of the same object.
const CHANGES_MOST: usize = 200;
/// Times in a change that an outcome may stay unknown.
const UNKNOWN_MOST: usize = 2;

/// A manifest as it was found.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) manifest: Manifest,
    /// Version of its chunk; 0 if there is none.
    pub(super) ver: Ver,
}

/// What is to become of a manifest.
pub(super) enum Change<T> {
    /// It is as it should be.
    Keep(T),
    /// Write what it has become; remove the chunk if nothing is left in it.
    Write(T),
}

fn manifest_options(precondition: Precondition) -> UpdateOptions {
    UpdateOptions { chunk_size: MANIFEST_CHUNK, precondition, ..UpdateOptions::default() }
}

/// The manifest of an object, empty with version 0 if there is none.
pub(super) async fn load(client: &Client, key: &ChunkKey) -> Result<Held, Error> {
    match client.read(key.as_bytes(), 0, MANIFEST_CHUNK, &ReadOptions::default()).await {
        Ok(read) => Ok(Held { manifest: Manifest::decode_chunk(&read.data)?, ver: read.ver }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Held { manifest: Manifest::default(), ver: 0 }),
        Err(e) => Err(e),
    }
}

/// The manifests of many objects, in the order of the keys; `None` for one that is gone.
pub(super) async fn load_many(client: &Client, keys: &[ChunkKey]) -> Vec<Result<Option<Held>, Error>> {
    let item = |key: &ChunkKey| ReadItem { key: key.clone(), offset: 0, len: MANIFEST_CHUNK, options: ReadOptions::default() };
    let reads = client.read_batch(keys.iter().map(item).collect()).await;
    let held = reads.into_iter().map(|read| match read {
        Ok(read) => Ok(Some(Held { manifest: Manifest::decode_chunk(&read.data)?, ver: read.ver })),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    });
    held.collect()
}

/// Replaces the manifest of version `ver` (0: none); its new version, `None` if somebody else changed it first.
pub(super) async fn swap(client: &Client, key: &ChunkKey, ver: Ver, manifest: &Manifest) -> Result<Option<Ver>, Error> {
    let precondition = if ver == 0 { Precondition::Absent } else { Precondition::Version(ver) };
    let options = manifest_options(precondition);
    let outcome = if !manifest.is_empty() {
        client.write(key.as_bytes(), 0, manifest.encode_chunk()?, &options).await
    } else if ver == 0 {
        return Ok(Some(0));
    } else {
        client.remove(key.as_bytes(), &options).await
    };
    match outcome {
        Ok(updated) => Ok(Some(updated.ver)),
        Err(e) if matches!(e.kind(), ErrorKind::PreconditionFailed { .. } | ErrorKind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Changes a manifest against all other writers. `change` is given what is there, again after every lost race, and must
/// see for itself whether it was applied already: that is how an unknown outcome becomes known.
pub(super) async fn change<T>(
    client: &Client,
    key: &ChunkKey,
    mut change: impl FnMut(&mut Manifest) -> Result<Change<T>, Error>,
) -> Result<(T, Ver), Error> {
    let mut unknown = 0;
    for _ in 0..CHANGES_MOST {
        let mut held = load(client, key).await?;
        let wanted = match change(&mut held.manifest) {
            Ok(Change::Keep(result)) => return Ok((result, held.ver)),
            Ok(Change::Write(result)) => result,
            // What it was to change is gone, and it may have been this very change that took it away.
            Err(e) if unknown > 0 => return Err(e.into_kind(ErrorKind::OutcomeUnknown)),
            Err(e) => return Err(e),
        };
        match swap(client, key, held.ver, &held.manifest).await {
            Ok(Some(ver)) => return Ok((wanted, ver)),
            Ok(None) => {}
            Err(e) if e.kind() == ErrorKind::OutcomeUnknown && unknown < UNKNOWN_MOST => unknown += 1,
            Err(e) => return Err(e),
        }
    }
    Err(Error::new(ErrorKind::Overloaded, "too many writers change this object at the same time"))
}

/// Removes the data chunks of a generation; how many there were.
pub(super) async fn remove_generation(client: &Client, garbage: &Garbage) -> Result<u64, Error> {
    match garbage.chunks {
        Some(chunks) => {
            let mut removed = 0;
            let mut at = 0;
            while at < chunks {
                let end = chunks.min(at + PAGE as u64);
                removed +=
                    remove_chunks(client, (at..end).map(|n| data_key(&garbage.id, n)).collect(), garbage.chunk_size).await?;
                at = end;
            }
            Ok(removed)
        }
        None => remove_listed(client, &garbage.id, garbage.chunk_size).await,
    }
}

/// Removes whatever chunks of a generation are listed.
async fn remove_listed(client: &Client, id: &[u8], chunk_size: u32) -> Result<u64, Error> {
    let prefix = generation_prefix(id);
    let mut from = Vec::new();
    let mut removed = 0;
    loop {
        let page = client.list(&prefix, &from, PAGE).await?;
        let keys = page.entries.into_iter().map(|e| e.key).collect();
        removed += remove_chunks(client, keys, chunk_size).await?;
        match page.next {
            Some(next) => from = next,
            None => return Ok(removed),
        }
    }
}

/// Removes chunks, those that are absent excepted; how many there were.
pub(super) async fn remove_chunks(client: &Client, keys: Vec<ChunkKey>, chunk_size: u32) -> Result<u64, Error> {
    let outcomes = batch::run(keys, REMOVALS, |key: ChunkKey| {
        let client = client.clone();
        async move {
            let options = UpdateOptions { chunk_size, ..UpdateOptions::default() };
            match client.remove(key.as_bytes(), &options).await {
                Ok(_) => Ok(1),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
                Err(e) => Err(e),
            }
        }
    });
    outcomes.await.into_iter().sum()
}

/// Forgets generations whose chunks are gone.
pub(super) async fn forget(client: &Client, key: &ChunkKey, ids: &[Vec<u8>]) -> Result<(), Error> {
    let forgotten = change(client, key, |m| {
        let before = m.garbage.len();
        m.garbage.retain(|g| !ids.contains(&g.id));
        Ok(if m.garbage.len() == before { Change::Keep(()) } else { Change::Write(()) })
    });
    forgotten.await.map(|_| ())
}

/// Removes a generation that just became garbage, and forgets it. What fails is left to a collector.
pub(super) async fn discard(client: &Client, key: &ChunkKey, garbage: Garbage) {
    let outcome = async {
        remove_generation(client, &garbage).await?;
        forget(client, key, &[garbage.id]).await
    };
    if let Err(e) = outcome.await {
        tracing::info!("replaced data of {key:?} is left to the collector: {e}");
    }
}

/// Writes one data chunk, and checks that what is stored is what was meant.
pub(super) async fn write_chunk(client: &Client, key: &ChunkKey, data: Bytes, crc: u32, chunk_size: u32) -> Result<(), Error> {
    let options = UpdateOptions { chunk_size, precondition: Precondition::Absent, ..UpdateOptions::default() };
    let len = data.len();
    let updated = client.write(key.as_bytes(), 0, data, &options).await?;
    if updated.len as usize != len || updated.checksum != crc {
        let cause = format!("chunk {key:?} was stored as {} bytes with checksum {:#010x}", updated.len, updated.checksum);
        return Err(Error::new(ErrorKind::Corrupt, cause));
    }
    Ok(())
}
