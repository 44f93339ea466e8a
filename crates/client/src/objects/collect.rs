//! The collector: removes what interrupted puts and removals left behind.
//!
//! Every manifest names its leftovers, so a pass over the manifests finds them all. Nobody can tell a dead put from a slow
//! one by looking once; a put that lives changes its manifest from time to time, so leftovers in a manifest whose version
//! stays the same for the *grace* (by the collector's own clock) are dead. First they are made garbage, by an update on the
//! condition that the version is still the same: a put that was only asleep then fails at its last step. Then their chunks
//! are removed.
//!
//! A put that was asleep while its generation was collected may still write chunks before it notices. [`Collector::sweep`]
//! finds chunks of generations that no manifest names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catena_types::{ChunkKey, Ver};
use tokio::time::Instant;

use super::Objects;
use super::manifest::*;
use super::store::{self, Held};
use crate::error::{Error, ErrorKind};

/// Manifests in one step.
const PAGE: usize = 500;
/// Generations looked for in one scan of the manifests.
const SUSPECTS: usize = 100_000;

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

/// Removes what interrupted puts and removals left behind. Remembers between passes since when leftovers have not changed.
pub struct Collector {
    objects: Objects,
    grace: Duration,
    /// Manifests with leftovers: their version, and since when it is known.
    seen: BTreeMap<ChunkKey, (Ver, Instant)>,
}

impl Collector {
    /// A collector that touches nothing that changed within `grace` of its own clock. `grace` must be far above
    /// [`PutOptions::touch`](super::PutOptions::touch) of every put, and above the deadline of every update.
    pub fn new(objects: Objects, grace: Duration) -> Collector {
        Collector { objects, grace, seen: BTreeMap::new() }
    }

    /// Looks at every manifest once.
    ///
    /// # Errors
    /// Those of a listing; single manifests that cannot be cleaned are counted, not errors.
    pub async fn pass(&mut self) -> Result<Collected, Error> {
        let before = std::mem::take(&mut self.seen);
        let mut collected = Collected::default();
        let mut from = Vec::new();
        loop {
            let page = self.objects.client.list(manifest_prefix(""), &from, PAGE).await?;
            let keys: Vec<ChunkKey> = page.entries.into_iter().map(|e| e.key).collect();
            for (key, held) in keys.iter().zip(store::load_many(&self.objects.client, &keys).await) {
                self.look(key, held, &before, &mut collected).await;
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(collected),
            }
        }
    }

    async fn look(
        &mut self,
        key: &ChunkKey,
        held: Result<Option<Held>, Error>,
        before: &BTreeMap<ChunkKey, (Ver, Instant)>,
        collected: &mut Collected,
    ) {
        collected.manifests += 1;
        let held = match held {
            Ok(Some(held)) if held.manifest.has_leftovers() => held,
            Ok(_) => return,
            Err(e) => {
                tracing::warn!("the collector cannot read {key:?}: {e}");
                collected.failed += 1;
                return;
            }
        };
        let same = before.get(key).filter(|(ver, _)| *ver == held.ver);
        let since = same.map_or_else(Instant::now, |(_, since)| *since);
        if since.elapsed() < self.grace {
            collected.waiting += 1;
            self.seen.insert(key.clone(), (held.ver, since));
            return;
        }
        match self.clean(key, held, collected).await {
            Ok(true) => {}
            Ok(false) => collected.waiting += 1, // it changed just now: it lives
            Err(e) => {
                tracing::info!("the collector cannot clean {key:?} now: {e}");
                collected.failed += 1;
            }
        }
    }

    /// Removes the leftovers of one manifest; `false` if it is no longer as it was found.
    async fn clean(&self, key: &ChunkKey, held: Held, collected: &mut Collected) -> Result<bool, Error> {
        let client = &self.objects.client;
        let Held { mut manifest, ver } = held;
        if !manifest.pending.is_empty() {
            manifest.garbage.extend(manifest.pending.drain(..).map(Pending::into_garbage));
            if store::swap(client, key, ver, &manifest).await?.is_none() {
                return Ok(false);
            }
        }
        for garbage in &manifest.garbage {
            collected.chunks += store::remove_generation(client, garbage).await?;
        }
        let ids: Vec<Vec<u8>> = manifest.garbage.into_iter().map(|g| g.id).collect();
        store::forget(client, key, &ids).await?;
        collected.generations += ids.len() as u64;
        Ok(true)
    }

    /// Removes data chunks that no manifest names: written late, by a put that was given up long before. A generation is
    /// named before its first chunk is written, so a chunk found *before* the manifests were read, and named by none of
    /// them, is out of reach for ever. Reads every manifest, and asks for one key per generation.
    ///
    /// # Errors
    /// Those of a listing. A manifest that cannot be read ends the sweep, since it may name anything.
    pub async fn sweep(&self) -> Result<Collected, Error> {
        let mut collected = Collected::default();
        let mut from = Some(Vec::new());
        while let Some(start) = from.take() {
            let (mut suspects, next) = self.generations(start).await?;
            from = next;
            if suspects.is_empty() {
                break;
            }
            self.acquit(&mut suspects, &mut collected).await?;
            for id in suspects {
                collected.generations += 1;
                collected.chunks += self.remove_orphans(&id).await?;
            }
        }
        Ok(collected)
    }

    /// Generations that have chunks, from a key on; and where to go on.
    async fn generations(&self, mut from: Vec<u8>) -> Result<(BTreeSet<GenerationId>, Option<Vec<u8>>), Error> {
        let mut found = BTreeSet::new();
        while found.len() < SUSPECTS {
            let page = self.objects.client.list(data_prefix(), &from, 1).await?;
            let Some(entry) = page.entries.first() else { return Ok((found, None)) };
            from = match generation_of(&entry.key) {
                Some(id) => {
                    found.insert(id);
                    // Past the last key the generation can have.
                    [generation_prefix(&id).as_slice(), &[0xff; 9]].concat()
                }
                None => [entry.key.as_bytes(), &[0]].concat(),
            };
        }
        Ok((found, Some(from)))
    }

    /// Takes out every generation that a manifest names.
    async fn acquit(&self, suspects: &mut BTreeSet<GenerationId>, collected: &mut Collected) -> Result<(), Error> {
        let mut from = Vec::new();
        loop {
            let page = self.objects.client.list(manifest_prefix(""), &from, PAGE).await?;
            let keys: Vec<ChunkKey> = page.entries.into_iter().map(|e| e.key).collect();
            for held in store::load_many(&self.objects.client, &keys).await {
                let Some(held) = held? else { continue };
                collected.manifests += 1;
                for id in held.manifest.generations().filter_map(|id| GenerationId::try_from(id).ok()) {
                    suspects.remove(&id);
                }
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Removes the chunks of a generation whose chunk size is not known from a manifest.
    async fn remove_orphans(&self, id: &GenerationId) -> Result<u64, Error> {
        let client = &self.objects.client;
        let page = client.list(generation_prefix(id), [], 1).await?;
        let Some(first) = page.entries.first() else { return Ok(0) };
        let Some(stat) = client.stat(first.key.as_bytes()).await? else { return Ok(0) };
        let garbage = Garbage { id: id.to_vec(), chunk_size: stat.chunk_size, chunks: None };
        store::remove_generation(client, &garbage).await
    }
}

/// Runs a pass of a [`Collector`] every `every`, and a sweep every hundredth time, until the future is dropped.
pub async fn run_collector(objects: Objects, grace: Duration, every: Duration) {
    let mut collector = Collector::new(objects, grace);
    for turn in 1u64.. {
        match collector.pass().await {
            Ok(c) if c.generations > 0 || c.failed > 0 => tracing::info!(?c, "collected"),
            Ok(c) => tracing::debug!(?c, "nothing to collect"),
            Err(e) if e.kind() == ErrorKind::NotInitialized => tracing::debug!("nothing to collect yet: {e}"),
            Err(e) => tracing::warn!("the collector goes on later: {e}"),
        }
        let swept = if turn.is_multiple_of(100) { collector.sweep().await.map(|_| ()) } else { Ok(()) };
        if let Err(e) = swept {
            tracing::warn!("the sweep is tried again later: {e}");
        }
        tokio::time::sleep(every).await;
    }
}
