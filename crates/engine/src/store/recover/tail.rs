//! Which records at the journal's end count.
//!
//! Of records that are not known durable the data may be missing: then they, and all that follow, were never acknowledged.
//! What must hold: only blocks are compared that the resulting state reads from their place. What has been replaced within
//! these records may have been given to others since, so that its blocks say nothing.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use catena_types::ChunkKey;

use super::{BLOCK64, Opener, State};
use crate::alloc::Run;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::journal::{Held, Record};
use crate::mutation::{Mutation, is};
use crate::store::in_place::outside;
use crate::version::{Extent, block_crcs};

/// Blocks of the data area.
struct Places(Vec<Range<u64>>);

impl Places {
    fn of(mut ranges: Vec<Range<u64>>) -> Places {
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let joined = next.start <= last.end;
            last.end = if joined { last.end.max(next.end) } else { last.end };
            joined
        });
        Places(ranges)
    }

    fn contains(&self, block: u64) -> bool {
        let at = self.0.partition_point(|range| range.end <= block);
        self.0.get(at).is_some_and(|range| range.start <= block)
    }
}

/// What the disk has: checksums by block; `None` for one that cannot be read.
type Found = BTreeMap<u64, Option<u32>>;

impl<D: Disk> Opener<'_, D> {
    /// How many of these records count; `trusted` are known durable.
    pub(super) fn kept(&mut self, tail: &[Record], trusted: usize) -> Result<usize, OpenError> {
        let mut keep = tail.len();
        let mut found = Found::new();
        while keep > trusted && !is(Mutation::TrustTail) {
            let mut after = self.state.part(tail.iter().filter_map(Record::key));
            for record in &tail[..keep] {
                // What contradicts is said when it is applied.
                let _ = after.apply(record.clone(), 0);
            }
            let read = after.read_in_place();
            let mut whole = true;
            for (n, record) in tail[..keep].iter().enumerate().skip(trusted) {
                whole = self.data_matches(record, &read, &mut found)?;
                if !whole {
                    keep = n;
                    break;
                }
            }
            if whole {
                break;
            }
        }
        Ok(keep)
    }

    /// Whether those of the blocks `read` that a record wrote hold what its checksums say.
    fn data_matches(&mut self, record: &Record, read: &Places, found: &mut Found) -> Result<bool, OpenError> {
        let (runs, crcs, first, held) = match record {
            Record::Stage(s) => (&s.runs, &s.crcs, s.first, &s.held[..]),
            Record::Install { placed, .. } | Record::Move { placed, .. } => (&placed.runs, &placed.crcs, 0, &[][..]),
            _ => return Ok(true),
        };
        let held = |block: u32| held.iter().any(|h| h.first <= block && u64::from(block - h.first) < h.blocks());
        let mut written = (first..).zip(crcs);
        for run in runs {
            self.look_at(run, read, found)?;
            let places = run.disk..run.disk + u64::from(run.len);
            for (disk, (block, crc)) in places.zip(written.by_ref()) {
                if read.contains(disk) && !held(block) && found.get(&disk) != Some(&Some(*crc)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads a run, if some of the blocks `read` in it have not been looked at.
    fn look_at(&mut self, run: &Run, read: &Places, found: &mut Found) -> Result<(), OpenError> {
        let (places, total) = (run.disk..run.disk + u64::from(run.len), self.params().blocks());
        if places.end > total {
            return Err(self.inconsistent(format!("a record names blocks {}+{} of {total}", run.disk, run.len)));
        }
        if places.clone().all(|disk| !read.contains(disk) || found.contains_key(&disk)) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let (offset, len) = (self.params().data_offset() + run.disk * BLOCK64, u64::from(run.len) * BLOCK64);
        let lost = self.io.read(self.arena, offset, len, &mut bytes)?;
        for (disk, crc) in places.zip(block_crcs(&bytes)) {
            found.insert(disk, (!lost.contains(&(offset + (disk - run.disk) * BLOCK64))).then_some(crc));
        }
        Ok(())
    }
}

impl State {
    /// What is there of some chunks.
    fn part<'a>(&self, keys: impl Iterator<Item = &'a ChunkKey>) -> State {
        let mut part = State::default();
        for key in keys {
            part.index.set(key, self.index.get(key).as_ref());
            part.staged.extend(self.staged.get(key).map(|side| (key.clone(), side.clone())));
            part.redo.extend(self.redo.get(key).map(|held| (key.clone(), held.clone())));
        }
        part
    }

    /// The blocks whose bytes a version has nowhere else.
    fn read_in_place(&self) -> Places {
        let mut out = Vec::new();
        let none: &[Held] = &[];
        let redo = |key: &ChunkKey| self.redo.get(key).map_or(none, |held| &held[..]);
        for (key, item) in self.index.range(Bound::Unbounded) {
            at_place(&item.extents, redo(&key), none, &mut out);
        }
        for (key, side) in &self.staged {
            let Some(version) = &side.version else { continue };
            let same_slot = self.index.get(key).is_some_and(|item| item.slot == side.slot);
            at_place(&version.extents, &side.held, if same_slot { redo(key) } else { none }, &mut out);
        }
        Places::of(out)
    }
}

/// Where the blocks of these extents lie that are in no piece.
fn at_place(extents: &[Extent], held: &[Held], redo: &[Held], out: &mut Vec<Range<u64>>) {
    let elsewhere: Vec<Range<u32>> = held.iter().chain(redo).map(|h| h.first..h.first + h.blocks() as u32).collect();
    for e in extents {
        for range in outside(e.logical..e.logical + e.len, &elsewhere) {
            let disk = e.disk + u64::from(range.start - e.logical);
            out.push(disk..disk + range.len() as u64);
        }
    }
}
