//! Who owns which block of the data area, and whether what is recorded of a chunk makes sense.

use std::collections::BTreeMap;

use catena_types::ChunkKey;
use catena_types::limits::BLOCK;

use super::model::{Model, StagedChunk, blocks_of, unpacked};
use super::report::{Class, Severity};
use super::{BLOCK64, Target};
use crate::format::StoreKind;
use crate::format::leaf::ChunkItem;
use crate::version::Extent;

/// Blocks side by side that have one owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owned<'a> {
    pub(super) disk: u64,
    pub(super) len: u64,
    key: &'a ChunkKey,
}

/// Every stretch of blocks that has an owner, in order.
pub(super) fn owned(model: &Model) -> Vec<Owned<'_>> {
    let mut out: Vec<Owned<'_>> = Vec::new();
    for (key, item) in &model.chunks {
        match item.slot {
            Some(disk) => out.push(Owned { disk, len: u64::from(item.chunk_size / BLOCK), key }),
            None => out.extend(item.extents.iter().map(|e| Owned { disk: e.disk, len: u64::from(e.len), key })),
        }
    }
    for (key, side) in &model.staged {
        out.extend(side.fresh.iter().map(|r| Owned { disk: r.disk, len: u64::from(r.len), key }));
    }
    out.sort_unstable();
    out
}

impl Target<'_> {
    /// Where a data block is, in bytes.
    pub(super) fn data_byte(&self, disk: u64) -> u64 {
        self.params().data_offset().saturating_add(disk.saturating_mul(BLOCK64))
    }

    /// Checks that every block has one owner at most and that chunks lie where they may; gives the blocks in use.
    pub(super) fn check_owners(&self, model: &Model) -> u64 {
        let total = self.params().blocks();
        let mut used = 0;
        let mut last: Option<Owned<'_>> = None;
        for this in owned(model) {
            let (disk, key) = (this.disk, this.key);
            if disk.checked_add(this.len).is_none_or(|end| end > total) {
                let what = format!("blocks {disk}+{} of {key} lie behind the last, {total}", this.len);
                self.note(Class::Owner, Severity::Fatal, self.data_byte(disk.min(total)), what);
                continue;
            }
            if let Some(other) = last.filter(|other| other.disk + other.len > disk) {
                let what = format!("block {disk} belongs to {} and to {key}", other.key);
                self.note(Class::Owner, Severity::Fatal, self.data_byte(disk), what);
            }
            used += this.len;
            if last.is_none_or(|other| other.disk + other.len < disk + this.len) {
                last = Some(this);
            }
        }
        model.chunks.iter().for_each(|(key, item)| self.check_chunk(key, item, model.waiting.contains_key(key)));
        model.staged.iter().for_each(|(key, side)| self.check_staged(key, side, model.chunks.get(key)));
        for key in model.waiting.keys().filter(|key| !model.chunks.contains_key(*key)) {
            self.odd(key, None, "bytes wait for a chunk that is not there");
        }
        used
    }

    fn odd(&self, key: &ChunkKey, extents: Option<&[Extent]>, what: &str) {
        let offset = extents.and_then(|e| e.first()).map_or(self.params().index_offset(), |e| self.data_byte(e.disk));
        self.note(Class::Chunk, Severity::Damage, offset, format!("{key}: {what}"));
    }

    fn check_chunk(&self, key: &ChunkKey, item: &ChunkItem, waits: bool) {
        let c = &item.committed;
        if c.len > item.chunk_size {
            self.odd(key, Some(&item.extents), &format!("{} bytes in a chunk of {}", c.len, item.chunk_size));
        }
        if waits && self.params().kind == StoreKind::Cow {
            self.odd(key, Some(&item.extents), "bytes wait for their place in a copy-on-write store");
        }
        self.check_extents(key, &item.extents, c.len, item.chunk_size, item.slot);
    }

    /// Sorted, inside the chunk, and in the slot if the store has slots.
    fn check_extents(&self, key: &ChunkKey, extents: &[Extent], len: u32, chunk_size: u32, slot: Option<u64>) {
        let mut end = 0;
        for e in extents {
            let upto = u64::from(e.logical) + u64::from(e.len);
            if u64::from(e.logical) < end || upto > u64::from(blocks_of(len)) || e.len == 0 {
                let what = format!("blocks {}+{} are out of order or behind the end, {len} bytes", e.logical, e.len);
                self.odd(key, Some(extents), &what);
            }
            end = upto;
        }
        match (self.params().kind, slot) {
            (StoreKind::Cow, None) => {}
            (StoreKind::Cow, Some(_)) => self.odd(key, Some(extents), "a slot in a copy-on-write store"),
            (StoreKind::InPlace, None) if extents.is_empty() => {}
            (StoreKind::InPlace, None) => self.odd(key, Some(extents), "blocks without a slot in a store in place"),
            (StoreKind::InPlace, Some(slot)) => {
                let away = |e: &&Extent| e.disk != slot + u64::from(e.logical) || end > u64::from(chunk_size / BLOCK);
                if let Some(e) = extents.iter().find(away) {
                    let what = format!("blocks {}+{} lie at {}, the slot starts at {slot}", e.logical, e.len, e.disk);
                    self.odd(key, Some(extents), &what);
                }
            }
        }
    }

    fn check_staged(&self, key: &ChunkKey, side: &StagedChunk, base: Option<&ChunkItem>) {
        let s = &side.staged;
        let odd = |what: &str| self.odd(key, Some(&side.extents), what);
        if let Some(base) = base {
            if s.ver <= base.committed.ver {
                odd(&format!("version {} is staged on version {}", s.ver, base.committed.ver));
            }
            if side.chunk_size != base.chunk_size {
                odd(&format!("the chunk size is {}, staged is {}", base.chunk_size, side.chunk_size));
            }
        }
        if s.remove && !(side.extents.is_empty() && side.fresh.is_empty() && side.held.is_empty() && s.len == 0) {
            odd("a remove with blocks");
        }
        self.check_extents(key, &side.extents, s.len, side.chunk_size, side.slot);
        let fresh: BTreeMap<u64, u64> = side.fresh.iter().map(|r| (r.disk, u64::from(r.len))).collect();
        let is_fresh = |disk: u64| fresh.range(..=disk).next_back().is_some_and(|(start, len)| disk - start < *len);
        let old = base.map_or_else(BTreeMap::new, |b| unpacked(&b.extents));
        let mine = unpacked(&side.extents);
        let in_slot = side.slot.is_some() && side.slot == base.and_then(|b| b.slot);
        for (block, disk) in mine.iter().filter(|(block, disk)| old.get(*block) != Some(*disk)) {
            if !is_fresh(*disk) && !in_slot {
                return odd(&format!("block {block} lies at {disk}, which is not the staged version's"));
            }
        }
        if self.params().kind == StoreKind::Cow {
            let used = mine.values().filter(|disk| is_fresh(**disk)).count() as u64;
            let taken: u64 = fresh.values().sum();
            if used != taken || !side.held.is_empty() {
                odd(&format!("{taken} fresh blocks, of which {used} are used; {} are held", side.held.len()));
            }
        }
        if let Some(block) = side.held.keys().find(|block| !mine.contains_key(block)) {
            odd(&format!("bytes are held for block {block}, which has no place"));
        }
    }
}
