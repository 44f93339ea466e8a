//! The checkpoint's slices and the index leaves they name.

use catena_types::ChunkKey;

use super::report::{Class, Severity};
use super::{BLOCK64, SEARCH, Stored, Target};
use crate::format::codec::Get;
use crate::format::leaf::{ChunkItem, LeafRef, decode_leaf, encode_leaf, key_of, next_entry};
use crate::format::slice::{CheckpointItem, Slice, decode_slice, finish_slice, new_slice, slice_bytes};

/// A slice that could be read.
pub(super) struct SliceSeen {
    /// Where, in bytes.
    pub(super) offset: u64,
    /// Its size on disk in bytes.
    pub(super) stored: u64,
    /// Items in it.
    pub(super) items: u64,
}

/// A leaf that could be read, and the chunks in it.
pub(super) struct LeafSeen<'a> {
    pub(super) named: &'a LeafRef,
    /// Where it starts, in bytes.
    pub(super) offset: u64,
    pub(super) chunks: Vec<(ChunkKey, ChunkItem)>,
}

impl Target<'_> {
    /// Reads the slices in order and gives every item to `each`; `false` if a slice cannot be read: what it said, and those
    /// behind it, is lost.
    pub(super) fn slices(&self, seen: &mut dyn FnMut(SliceSeen), each: &mut dyn FnMut(CheckpointItem)) -> bool {
        let c = self.superblock.checkpoint;
        let base = self.params().checkpoint_offset(c.area);
        let mut at = 0;
        for number in 0..c.slices {
            let offset = base + at;
            let (window, slice) = match self.slice(offset, c.bytes.saturating_sub(at), number) {
                Ok(read) => read,
                Err(why) => {
                    self.note(Class::Checkpoint, Severity::Fatal, offset, format!("slice {number} cannot be read: {why}"));
                    return false;
                }
            };
            let mut right = new_slice();
            slice.items.iter().for_each(|item| item.encode(&mut right));
            let right = finish_slice(right, c.generation, number, self.uuid_crc);
            let (found, name) = (&window[..slice.stored], format!("slice {number}"));
            self.compare(&Stored { class: Class::Checkpoint, name, found, mended: slice.mended }, &right, |i| offset + i);
            seen(SliceSeen { offset, stored: slice.stored as u64, items: slice.items.len() as u64 });
            at += slice.stored as u64;
            slice.items.into_iter().for_each(&mut *each);
        }
        if at != c.bytes {
            let what = format!("the slices have {at} bytes, the superblock says {}", c.bytes);
            self.note(Class::Checkpoint, Severity::Damage, base + at, what);
        }
        true
    }

    fn slice(&self, offset: u64, left: u64, number: u32) -> Result<(Vec<u8>, Slice), &'static str> {
        let generation = self.superblock.checkpoint.generation;
        let start = self.read(offset, BLOCK64.min(left) as usize);
        let size = slice_bytes(&start, generation, number).map(|size| size as u64).filter(|&size| size <= left);
        let mut why = "the checkpoint ends before it";
        // The length in the first block may be what is bad.
        for size in [size, Some(left.min(SEARCH))].into_iter().flatten() {
            let window = self.read(offset, size as usize);
            match decode_slice(&window, generation, number, self.uuid_crc) {
                Ok(slice) => return Ok((window, slice)),
                Err(problem) => why = problem,
            }
        }
        Err(why)
    }

    /// Reads the leaves in order and gives each to `each`; `false` if one cannot be read: its chunks are lost.
    pub(super) fn leaves(&self, leaves: &[LeafRef], each: &mut dyn FnMut(LeafSeen<'_>)) -> bool {
        let mut last: Vec<u8> = Vec::new();
        let mut whole = self.index_area(leaves);
        for (n, leaf) in leaves.iter().enumerate() {
            let first = leaf.runs.first().map_or(0, |run| run.disk);
            let offset = self.params().index_offset().saturating_add(first.saturating_mul(BLOCK64));
            match self.leaf(n, leaf, &mut last) {
                Ok(chunks) => each(LeafSeen { named: leaf, offset, chunks }),
                Err(why) => {
                    whole = false;
                    self.note(Class::Leaf, Severity::Fatal, offset, format!("index leaf {n} {why}"));
                }
            }
        }
        whole
    }

    /// Whether the leaves lie inside the index area, each block belonging to one.
    fn index_area(&self, leaves: &[LeafRef]) -> bool {
        let total = self.params().index / BLOCK64;
        let base = self.params().index_offset();
        let mut runs: Vec<(u64, u64, usize)> = Vec::new();
        for (n, leaf) in leaves.iter().enumerate() {
            runs.extend(leaf.runs.iter().map(|run| (run.disk, u64::from(run.len), n)));
        }
        runs.sort_unstable();
        let mut sound = true;
        let mut end = (0, 0);
        for (disk, len, leaf) in runs {
            if disk.checked_add(len).is_none_or(|e| e > total) {
                let what = format!("index leaf {leaf} lies at blocks {disk}+{len}, the index area has {total}");
                self.note(Class::Owner, Severity::Fatal, base, what);
                return false;
            }
            if disk < end.0 {
                let what = format!("index block {disk} belongs to leaf {} and to leaf {leaf}", end.1);
                self.note(Class::Owner, Severity::Fatal, base + disk * BLOCK64, what);
                sound = false;
            }
            end = end.max((disk + len, leaf));
        }
        sound
    }

    fn leaf(&self, n: usize, leaf: &LeafRef, last: &mut Vec<u8>) -> Result<Vec<(ChunkKey, ChunkItem)>, &'static str> {
        let total = self.params().index / BLOCK64;
        if leaf.runs.iter().any(|run| run.disk.checked_add(u64::from(run.len)).is_none_or(|end| end > total)) {
            return Err("lies outside the index area");
        }
        let base = self.params().index_offset();
        let mut stored = Vec::new();
        let mut places = Vec::new();
        for run in &leaf.runs {
            let offset = base + run.disk * BLOCK64;
            stored.extend(self.read(offset, run.len as usize * BLOCK64 as usize));
            places.extend((0..u64::from(run.len)).map(|block| offset + block * BLOCK64));
        }
        let (entries, mended) = decode_leaf(&stored, leaf, self.uuid_crc).ok_or("does not match its checksum")?;
        let right = encode_leaf(&entries, leaf.crc);
        let place = |i: u64| places[(i / BLOCK64) as usize] + i % BLOCK64;
        self.compare(&Stored { class: Class::Leaf, name: format!("index leaf {n}"), found: &stored, mended }, &right, place);
        chunks_of(&entries, last)
    }
}

/// The entries of a leaf; `last` is the greatest key before them, and is moved on.
fn chunks_of(entries: &[u8], last: &mut Vec<u8>) -> Result<Vec<(ChunkKey, ChunkItem)>, &'static str> {
    let mut get = Get(entries);
    let mut out = Vec::new();
    if entries.is_empty() {
        return Err("is empty");
    }
    while get.end().is_none() {
        let (key, mut fields) = next_entry(&mut get).ok_or("has an entry that makes no sense")?;
        let item = ChunkItem::decode(&mut fields).ok_or("has an entry that makes no sense")?;
        if key <= &last[..] {
            return Err("has keys that are not in order");
        }
        *last = key.to_vec();
        out.push((key_of(key).ok_or("has a key that is none")?, item));
    }
    Ok(out)
}
