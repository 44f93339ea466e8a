//! What the checkpoint says: its slices, and the index leaves they name.
//!
//! What must hold: a leaf is taken only if it is the one named, its entries make sense, and its keys are above all before;
//! every block of the index area has one owner. A bad or unreadable block of a slice or a leaf costs nothing.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{BLOCK64, Opener, READ_STEP};
use crate::alloc::Run;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::leaf::{LeafRef, decode_leaf};
use crate::format::slice::{CheckpointItem, decode_slice, slice_bytes};
use crate::store::StagedEntry;
use crate::store::index::Place;
use crate::version::Version;

/// Blocks between two leaves up to which they are read together.
const GAP: u64 = 16;

impl<D: Disk> Opener<'_, D> {
    pub(super) fn load_checkpoint(&mut self) -> Result<(), OpenError> {
        let c = self.superblock.checkpoint;
        let base = self.params().checkpoint_offset(c.area);
        let mut area = Vec::with_capacity(c.bytes as usize);
        self.io.read(self.arena, base, c.bytes, &mut area)?;
        let mut leaves = Vec::new();
        let mut at = 0;
        for slice in 0..c.slices {
            let rest = area.get(at..).unwrap_or(&[]);
            let size = slice_bytes(rest, c.generation, slice).unwrap_or(rest.len());
            let window = &rest[..size.min(rest.len())];
            let decoded = decode_slice(window, c.generation, slice, self.uuid_crc)
                .or_else(|why| decode_slice(rest, c.generation, slice, self.uuid_crc).map_err(|_| why));
            let decoded = decoded.map_err(|why| {
                let name = self.name.clone();
                OpenError::CorruptCheckpoint { name, slice, offset: base + at as u64, why }
            })?;
            self.recovery.mended += u64::from(decoded.mended);
            at += decoded.stored;
            for item in decoded.items {
                self.load_item(item, &mut leaves);
            }
        }
        self.load_leaves(&leaves)?;
        self.recovery.checkpoint_chunks = self.state.index.chunks();
        Ok(())
    }

    fn load_item(&mut self, item: CheckpointItem, leaves: &mut Vec<LeafRef>) {
        match item {
            CheckpointItem::Floor(floor) => self.state.floor = floor,
            CheckpointItem::Session(id, row) => {
                self.state.sessions.insert(id, row);
            }
            CheckpointItem::Staged(key, s) => {
                let version = Version { len: s.staged.len, checksum: s.staged.checksum, extents: s.extents };
                let side = StagedEntry {
                    chunk_size: s.chunk_size,
                    staged: s.staged,
                    version: Some(version),
                    slot: s.slot,
                    op: 0,
                    seq: Some(0),
                    fresh: s.fresh,
                    frees: None,
                    held: s.held,
                    growth: 0,
                };
                self.state.staged.insert(key, side);
            }
            CheckpointItem::Leaf(leaf) => leaves.push(leaf),
            CheckpointItem::Scrub(mark) => self.state.scrub = mark,
            CheckpointItem::Redo(key, held) => self.state.redo(&key, held),
        }
    }

    /// Reads the leaves in the order in which they lie, many at once, and then takes them in key order.
    fn load_leaves(&mut self, leaves: &[LeafRef]) -> Result<(), OpenError> {
        let mut runs: Vec<(Run, usize)> =
            leaves.iter().enumerate().flat_map(|(n, leaf)| leaf.runs.iter().map(move |run| (*run, n))).collect();
        runs.sort_by_key(|(run, _)| run.disk);
        let mut entries: Vec<Option<Rc<[u8]>>> = vec![None; leaves.len()];
        let mut scattered: BTreeMap<usize, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
        let mut bytes = Vec::new();
        let mut rest = &runs[..];
        while let Some((first, _)) = rest.first() {
            let (together, end) = self.claim(rest)?;
            bytes.clear();
            let offset = self.params().index_offset() + first.disk * BLOCK64;
            self.io.read(self.arena, offset, (end - first.disk) * BLOCK64, &mut bytes)?;
            for (run, n) in &rest[..together] {
                let from = ((run.disk - first.disk) * BLOCK64) as usize;
                let part = &bytes[from..from + (u64::from(run.len) * BLOCK64) as usize];
                if leaves[*n].runs.len() == 1 {
                    entries[*n] = Some(self.decode_leaf(*n, &leaves[*n], part)?);
                } else {
                    scattered.entry(*n).or_default().push((run.disk, part.to_vec()));
                }
            }
            rest = &rest[together..];
        }
        for (n, parts) in scattered {
            let part = |run: &Run| parts.iter().find(|(disk, _)| *disk == run.disk).map_or(&[][..], |(_, bytes)| bytes);
            let joined: Vec<u8> = leaves[n].runs.iter().flat_map(part).copied().collect();
            entries[n] = Some(self.decode_leaf(n, &leaves[n], &joined)?);
        }
        for (n, (leaf, entries)) in leaves.iter().zip(entries).enumerate() {
            let place = Place { bytes: leaf.bytes, crc: leaf.crc.into(), runs: leaf.runs.clone() };
            let place = entries.and_then(|entries| self.state.index.push(entries, place));
            let place = place.ok_or_else(|| self.corrupt_leaf(n, leaf, "an entry makes no sense"))?;
            self.image.push(place);
        }
        self.state.index.rewrite(&self.mended_leaves);
        Ok(())
    }

    /// Takes the runs that are read with one operation from the allocator: their number, and where the last one ends.
    fn claim(&mut self, runs: &[(Run, usize)]) -> Result<(usize, u64), OpenError> {
        let (mut count, mut end) = (0, 0);
        for (run, _) in runs {
            let far = count > 0 && (run.disk > end + GAP || (end - runs[0].0.disk) * BLOCK64 >= READ_STEP);
            if far {
                break;
            }
            if !self.index_alloc.set(*run) {
                return Err(self.inconsistent(format!("index blocks {}+{} have two owners", run.disk, run.len)));
            }
            count += 1;
            end = run.disk + u64::from(run.len);
        }
        Ok((count, end))
    }

    fn decode_leaf(&mut self, n: usize, leaf: &LeafRef, stored: &[u8]) -> Result<Rc<[u8]>, OpenError> {
        let decoded = decode_leaf(stored, leaf, self.uuid_crc);
        let (entries, mended) = decoded.ok_or_else(|| self.corrupt_leaf(n, leaf, "the checksum does not match"))?;
        if mended {
            self.recovery.mended += 1;
            self.mended_leaves.push(n);
        }
        Ok(entries.into())
    }

    fn corrupt_leaf(&self, n: usize, leaf: &LeafRef, why: &'static str) -> OpenError {
        let offset = self.params().index_offset() + leaf.runs.first().map_or(0, |r| r.disk) * BLOCK64;
        OpenError::CorruptIndex { name: self.name.clone(), leaf: n as u64, offset, why }
    }
}
