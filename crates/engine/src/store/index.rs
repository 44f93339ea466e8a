//! The committed chunks: packed leaves in key order, in memory as they are on disk.
//!
//! A leaf holds the entries of a range of keys in at most a block (more only for an entry that is larger alone). A change
//! makes a new leaf and leaves the old bytes to whoever holds them, so that a checkpoint's snapshot is a list of
//! references. What must hold: every key lies in the leaf with the greatest fence not above it; `chunks` and `blocks` are
//! exact; a leaf without a place is written by the next checkpoint.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use catena_types::{ChunkKey, Committed};

use crate::alloc::Run;
use crate::format::codec::Get;
use crate::format::leaf::{ChunkItem, LEAF_BYTES, LeafRef, key_of, leaf_blocks, next_entry};

/// Where a leaf's bytes are, or are being written.
pub(crate) struct Place {
    pub(crate) bytes: u32,
    /// Known when they are written.
    pub(crate) crc: Cell<u32>,
    pub(crate) runs: Vec<Run>,
}

impl Place {
    /// As a checkpoint names it.
    pub(crate) fn named(&self) -> LeafRef {
        LeafRef { bytes: self.bytes, crc: self.crc.get(), runs: self.runs.clone() }
    }
}

/// Packed entries of a range of keys.
pub(crate) struct Leaf {
    pub(crate) entries: Rc<[u8]>,
    /// `None`: not on disk like this.
    pub(crate) place: Option<Rc<Place>>,
}

/// The index of one target.
pub(crate) struct Index {
    /// By fence: the least key that may be in it. The first fence is empty.
    leaves: BTreeMap<Box<[u8]>, Leaf>,
    chunks: u64,
    blocks: u64,
    /// Bytes of entries after which a leaf is split.
    most: usize,
    /// Where the next leaf is put together.
    scratch: Vec<u8>,
}

/// Where an entry is, or would be, in packed entries.
struct Spot {
    start: usize,
    /// After the entry; `start` if there is none.
    end: usize,
}

impl Default for Index {
    fn default() -> Index {
        Index { leaves: BTreeMap::new(), chunks: 0, blocks: 0, most: LEAF_BYTES, scratch: Vec::new() }
    }
}

impl Index {
    /// Chunks in it.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Blocks its leaves take on disk.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Number of leaves.
    pub(crate) fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Bytes of entries in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.leaves.values().map(|leaf| leaf.entries.len() as u64).sum()
    }

    /// For tests: smaller leaves.
    pub(crate) fn set_most(&mut self, bytes: usize) {
        self.most = bytes.clamp(1, LEAF_BYTES);
    }

    /// The leaves in key order.
    pub(crate) fn leaves_mut(&mut self) -> impl Iterator<Item = &mut Leaf> {
        self.leaves.values_mut()
    }

    /// Adds the next leaf in key order, as read from disk. `None` if the entries make no sense, or are not above all before.
    pub(crate) fn push(&mut self, entries: Rc<[u8]>, place: Place) -> Option<Rc<Place>> {
        let mut get = Get(&entries);
        let (fence, _) = next_entry(&mut Get(&entries))?;
        let fence: Box<[u8]> = if self.leaves.is_empty() { Box::default() } else { fence.into() };
        let before = self.leaves.last_key_value().and_then(|(_, leaf)| last_key(&leaf.entries)).unwrap_or_default();
        let mut last = &before[..];
        while get.end().is_none() {
            let (key, mut fields) = next_entry(&mut get)?;
            ChunkItem::decode(&mut fields)?;
            if key <= last {
                return None;
            }
            last = key;
            self.chunks += 1;
        }
        self.blocks += leaf_blocks(entries.len());
        let place = Rc::new(place);
        self.leaves.insert(fence, Leaf { entries, place: Some(place.clone()) });
        Some(place)
    }

    /// Has these leaves, by number, written again by the next checkpoint.
    pub(crate) fn rewrite(&mut self, leaves: &[usize]) {
        for (n, leaf) in self.leaves.values_mut().enumerate() {
            if leaves.contains(&n) {
                leaf.place = None;
            }
        }
    }

    fn leaf(&self, key: &[u8]) -> Option<(&[u8], &Leaf)> {
        let below = (Bound::Unbounded, Bound::Included(key));
        self.leaves.range::<[u8], _>(below).next_back().map(|(fence, leaf)| (&**fence, leaf))
    }

    /// The chunk `key`.
    pub(crate) fn get(&self, key: &ChunkKey) -> Option<ChunkItem> {
        ChunkItem::decode(&mut self.fields(key)?)
    }

    /// The chunk size and the committed version of `key`: cheaper than all of it.
    pub(crate) fn head(&self, key: &ChunkKey) -> Option<(u32, Committed)> {
        ChunkItem::decode_head(&mut self.fields(key)?)
    }

    fn fields(&self, key: &ChunkKey) -> Option<Get<'_>> {
        let (_, leaf) = self.leaf(key.as_bytes())?;
        let spot = find(&leaf.entries, key.as_bytes());
        next_entry(&mut Get(leaf.entries.get(spot.start..spot.end)?)).map(|(_, fields)| fields)
    }

    /// Puts a chunk in place of what is there, or nothing.
    pub(crate) fn set(&mut self, key: &ChunkKey, item: Option<&ChunkItem>) {
        let mut entry = Vec::new();
        if let Some(item) = item {
            item.encode(key.as_bytes(), &mut entry);
        }
        let Some((fence, leaf)) = self.leaf(key.as_bytes()) else {
            if !entry.is_empty() {
                self.chunks += 1;
                self.put(Box::default(), &entry);
            }
            return;
        };
        let (fence, old) = (Box::<[u8]>::from(fence), leaf.entries.clone());
        let spot = find(&old, key.as_bytes());
        if entry.is_empty() && spot.start == spot.end {
            return;
        }
        self.chunks = self.chunks + u64::from(!entry.is_empty()) - u64::from(spot.start != spot.end);
        let mut entries = std::mem::take(&mut self.scratch);
        entries.clear();
        entries.extend_from_slice(&old[..spot.start]);
        entries.extend_from_slice(&entry);
        entries.extend_from_slice(&old[spot.end..]);
        self.blocks -= leaf_blocks(old.len());
        if entries.len() > self.most {
            self.split(fence, &entries, spot.start);
        } else {
            let shrunk = entries.len() < old.len();
            self.put(fence.clone(), &entries);
            if shrunk {
                self.join(&fence);
            }
        }
        self.scratch = entries;
    }

    /// Puts a leaf; its blocks were not counted before.
    fn put(&mut self, fence: Box<[u8]>, entries: &[u8]) {
        self.blocks += leaf_blocks(entries.len());
        self.leaves.insert(fence, Leaf { entries: entries.into(), place: None });
    }

    /// Cuts entries into leaves: in halves, or behind what was there when keys arrive in order.
    fn split(&mut self, fence: Box<[u8]>, entries: &[u8], changed: usize) {
        let mut starts = Vec::new();
        let mut get = Get(entries);
        while get.end().is_none() {
            starts.push(entries.len() - get.0.len());
            if next_entry(&mut get).is_none() {
                break;
            }
        }
        let last = starts.last().copied().unwrap_or(0);
        let half = starts.iter().copied().find(|&at| at >= entries.len() / 2).unwrap_or(last);
        let at = if changed == last { last } else { half };
        if at == 0 {
            return self.put(fence, entries);
        }
        let (low, high) = entries.split_at(at);
        let next = next_entry(&mut Get(high)).map(|(key, _)| Box::from(key)).unwrap_or_default();
        for (fence, part) in [(fence, low), (next, high)] {
            if part.len() > self.most && next_entry(&mut Get(part)).is_some_and(|(k, f)| more_than(part, k, f)) {
                self.split(fence, part, usize::MAX);
            } else {
                self.put(fence, part);
            }
        }
    }

    /// After entries were taken out: an empty leaf goes, a small one is joined with the next if both fit well.
    fn join(&mut self, fence: &[u8]) {
        let Some(len) = self.leaves.get(fence).map(|leaf| leaf.entries.len()) else { return };
        if len == 0 {
            self.blocks -= leaf_blocks(0);
            self.leaves.remove(fence);
            // The first fence is empty: what was the second leaf takes it.
            if fence.is_empty()
                && let Some((_, leaf)) = self.leaves.pop_first()
            {
                self.leaves.insert(Box::default(), leaf);
            }
            return;
        }
        if len > self.most / 4 {
            return;
        }
        let above = (Bound::Excluded(fence), Bound::Unbounded);
        let next = self.leaves.range::<[u8], _>(above).next().map(|(fence, leaf)| (fence.clone(), leaf.entries.clone()));
        let Some((next, theirs)) = next.filter(|(_, theirs)| theirs.len() + len <= self.most * 3 / 4) else { return };
        let Some(mine) = self.leaves.get(fence).map(|leaf| leaf.entries.clone()) else { return };
        self.leaves.remove(&next);
        self.blocks -= leaf_blocks(mine.len()) + leaf_blocks(theirs.len());
        self.put(fence.into(), &[&*mine, &*theirs].concat());
    }

    /// The chunks with keys at or above `from` (or above it only), in order.
    pub(crate) fn range<'a>(&'a self, from: Bound<&'a [u8]>) -> impl Iterator<Item = (ChunkKey, ChunkItem)> + 'a {
        let start = match from {
            Bound::Included(key) | Bound::Excluded(key) => self.leaf(key).map_or(&[][..], |(fence, _)| fence),
            Bound::Unbounded => &[],
        };
        let leaves = self.leaves.range::<[u8], _>((Bound::Included(start), Bound::Unbounded));
        let entries = leaves.flat_map(|(_, leaf)| {
            let mut get = Get(&leaf.entries);
            std::iter::from_fn(move || next_entry(&mut get))
        });
        let entries = entries.skip_while(move |(key, _)| match from {
            Bound::Included(from) => *key < from,
            Bound::Excluded(from) => *key <= from,
            Bound::Unbounded => false,
        });
        entries.filter_map(|(key, mut fields)| Some((key_of(key)?, ChunkItem::decode(&mut fields)?)))
    }

    /// Counts everything anew.
    ///
    /// # Errors
    /// What does not match.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let chunks = self.range(Bound::Unbounded).count() as u64;
        let blocks: u64 = self.leaves.values().map(|leaf| leaf_blocks(leaf.entries.len())).sum();
        if (chunks, blocks) != (self.chunks, self.blocks) {
            return Err(format!("index: {chunks} chunks in {blocks} blocks, counted {} {}", self.chunks, self.blocks));
        }
        let mut last: Option<ChunkKey> = None;
        for (key, _) in self.range(Bound::Unbounded) {
            if last.as_ref().is_some_and(|last| *last >= key) || self.get(&key).is_none() {
                return Err(format!("index: {key} is in the wrong place"));
            }
            last = Some(key);
        }
        Ok(())
    }
}

/// Whether there is an entry behind the first.
fn more_than(part: &[u8], key: &[u8], fields: Get<'_>) -> bool {
    let end = fields.0.as_ptr_range().end;
    debug_assert!(!key.is_empty());
    end < part.as_ptr_range().end
}

fn last_key(entries: &[u8]) -> Option<Vec<u8>> {
    let mut get = Get(entries);
    std::iter::from_fn(|| next_entry(&mut get)).last().map(|(key, _)| key.to_vec())
}

fn find(entries: &[u8], key: &[u8]) -> Spot {
    let mut get = Get(entries);
    loop {
        let start = entries.len() - get.0.len();
        match next_entry(&mut get) {
            Some((k, _)) if k < key => {}
            Some((k, _)) if k == key => return Spot { start, end: entries.len() - get.0.len() },
            _ => return Spot { start, end: start },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Extent;
    use catena_types::Tag;
    use proptest::prelude::*;

    fn item(ver: u64, extents: u32) -> ChunkItem {
        let tag = Tag { client: ver << 50, channel: 3, seq: ver };
        let committed = Committed { ver, chain_ver: 2, len: 1 << 20, checksum: ver as u32, tag };
        let extents = (0..extents).map(|i| Extent { logical: 2 * i, len: 1, disk: ver + u64::from(i) * 7 }).collect();
        ChunkItem { chunk_size: 1 << 20, committed, slot: None, extents }
    }

    proptest! {
        /// Random puts and removals against a map, with leaves of several sizes; and an index loaded from the leaves.
        #[test]
        fn agrees_with_a_map(
            ops in proptest::collection::vec((0u32..300, 0u64..50, 0u32..40), 1..400),
            most in prop_oneof![Just(1usize), Just(300), Just(LEAF_BYTES)],
        ) {
            let mut index = Index::default();
            index.set_most(most);
            let mut map = BTreeMap::new();
            for (key, ver, extents) in ops {
                let key = ChunkKey::new(format!("{key:03}").as_bytes()).unwrap();
                let new = (ver >= 15).then(|| item(ver, extents));
                index.set(&key, new.as_ref());
                match new {
                    Some(item) => map.insert(key.clone(), item),
                    None => map.remove(&key),
                };
                prop_assert_eq!(index.get(&key), map.get(&key).cloned());
                prop_assert_eq!(index.head(&key), map.get(&key).map(|item| (item.chunk_size, item.committed)));
            }
            index.verify().unwrap();
            let all: Vec<_> = index.range(Bound::Unbounded).collect();
            prop_assert_eq!(&all, &map.clone().into_iter().collect::<Vec<_>>());
            for from in ["000", "1", "150", "299", "3"] {
                let from = from.as_bytes();
                let some: Vec<_> = index.range(Bound::Excluded(from)).map(|(k, _)| k).collect();
                let want: Vec<_> = map.keys().filter(|k| k.as_bytes() > from).cloned().collect();
                prop_assert_eq!(some, want);
            }
            let mut loaded = Index::default();
            for leaf in index.leaves_mut() {
                let place = Place { bytes: leaf.entries.len() as u32, crc: Cell::new(0), runs: Vec::new() };
                prop_assert!(loaded.push(leaf.entries.clone(), place).is_some());
            }
            loaded.verify().unwrap();
            prop_assert_eq!(loaded.range(Bound::Unbounded).collect::<Vec<_>>(), all);
        }
    }

    #[test]
    fn memory_per_chunk_is_small() {
        let mut index = Index::default();
        for n in 0..20_000u64 {
            let key = ChunkKey::new(&[[7; 8], n.to_be_bytes()].concat()).unwrap();
            let mut item = item(n, 1);
            item.extents[0].disk = 1_000_000 + n * 256;
            index.set(&key, Some(&item));
        }
        let bytes: usize = index.leaves_mut().map(|leaf| leaf.entries.len() + 160).sum();
        assert!(bytes / 20_000 <= 80, "{} bytes per chunk", bytes / 20_000);
    }
}
