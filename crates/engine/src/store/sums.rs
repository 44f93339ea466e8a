//! The checksums an operation needs: those of blocks in use, found in memory or in the table.
//!
//! They are collected as they become known, so that an operation ends however small the table's memory is. A table that
//! does not know a checksum, or says another than the block has, is not believed before the chunk has been asked: if all
//! of the chunk's bytes make the chunk's checksum, the table is wrong and is mended; if not, the chunk is damaged.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use catena_arena::AlignedBuf;
use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Done, Ver};

use super::read::{Piece, assemble};
use super::table::Known;
use super::{BLOCK64, CowStore, Op, Owner, buffer};
use crate::disk::{Disk, IoOp};
use crate::format::journal::Held;
use crate::version::{Version, ZERO_BLOCK, block_crcs, blocks, pad_checksum};

/// Checksums of some blocks of a version.
pub(crate) struct Sums {
    parts: Vec<(u32, Vec<Option<u32>>)>,
}

/// What is still missing.
pub(crate) enum Missing {
    Nothing,
    /// These pages of the table have to be read.
    Pages(BTreeSet<u64>),
    /// The table does not know: the chunk has to be asked.
    Chunk,
}

impl Sums {
    /// None known yet.
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range<u32>>) -> Sums {
        let parts = ranges.into_iter().filter(|r| !r.is_empty());
        Sums { parts: parts.map(|r| (r.start, vec![None; r.len()])).collect() }
    }

    /// Forgets them.
    pub(crate) fn clear(&mut self) {
        self.parts.iter_mut().for_each(|(_, crcs)| crcs.fill(None));
    }

    /// The checksum of a block, if it is known.
    pub(crate) fn get(&self, block: u32) -> Option<u32> {
        self.parts.iter().find_map(|(start, crcs)| *crcs.get(block.checked_sub(*start)? as usize)?)
    }
}

/// A chunk that is read as a whole, to find out whether it or the table is wrong.
pub(crate) struct HealOp {
    key: ChunkKey,
    ver: Ver,
    version: Version,
    memory: Vec<Held>,
    pieces: Vec<Piece>,
    left: usize,
    waiters: Vec<u64>,
}

impl<D: Disk> CowStore<D> {
    /// Fills in what is known now.
    pub(super) fn gather(&mut self, version: &Version, memory: &[Held], sums: &mut Sums) -> Missing {
        let mut pages = BTreeSet::new();
        let mut unknown = false;
        let only = (blocks(version.len) == 1).then(|| pad_checksum(version.len, version.checksum));
        for (start, crcs) in &mut sums.parts {
            for (block, crc) in (*start..).zip(crcs).filter(|(_, crc)| crc.is_none()) {
                if let Some(bytes) = block_of(memory, block) {
                    *crc = Some(crc32c(bytes));
                    continue;
                }
                let known = match (version.find(block), only) {
                    (None, _) => Known::Yes(ZERO_BLOCK),
                    (Some(_), Some(only)) => Known::Yes(only),
                    (Some(disk), None) => self.table.get(disk),
                };
                match known {
                    Known::Yes(known) => *crc = Some(known),
                    Known::No => unknown = true,
                    Known::Ask(page) => {
                        pages.insert(page);
                    }
                }
            }
        }
        match () {
            _ if !pages.is_empty() => Missing::Pages(pages),
            _ if unknown => Missing::Chunk,
            _ => Missing::Nothing,
        }
    }

    /// Has pages of the table read; `op` is woken once for each.
    pub(super) fn ask_pages(&mut self, op: u64, pages: &BTreeSet<u64>) {
        for &page in pages {
            let waiters = self.loads.entry(page).or_default();
            waiters.push(op);
            if waiters.len() == 1 {
                self.load_page(page);
            }
        }
    }

    /// Reads a page of the table.
    pub(super) fn load_page(&mut self, page: u64) {
        let buf = self.arena.take_or_alloc(BLOCK as usize);
        let offset = self.superblock.params.table_offset() + page * BLOCK64;
        self.submit(Owner::Page { page }, IoOp::Read { offset, buf });
    }

    /// A page has been read, or could not be.
    pub(super) fn page_read(&mut self, page: u64, result: io::Result<Option<AlignedBuf>>) {
        let stored = match buffer(result) {
            Ok(buf) => Some(buf),
            Err(error) => {
                tracing::warn!(target_disk = %self.disk.name(), %error, page, "a page of the checksum table cannot be read");
                self.stats.read_errors += 1;
                None
            }
        };
        self.table.take_in(page, stored.as_deref(), self.uuid_crc);
        self.page_for_checkpoint(page);
        for op in self.loads.remove(&page).unwrap_or_default() {
            self.wake(op);
        }
    }

    /// Reads the whole version to find out who is wrong; `waiter` is woken once.
    pub(super) fn heal(&mut self, waiter: u64, key: &ChunkKey, ver: Ver, version: &Version, memory: &[Held]) {
        let running = self.ops.values_mut().find_map(|op| match op {
            Op::Heal(heal) if heal.key == *key && heal.ver == ver && heal.left > 0 => Some(heal),
            _ => None,
        });
        if let Some(heal) = running {
            heal.waiters.push(waiter);
            return;
        }
        let pieces = self.pieces(version, memory, 0..blocks(version.len));
        let op = self.take_op();
        let heal = HealOp {
            key: key.clone(),
            ver,
            version: version.clone(),
            memory: memory.to_vec(),
            left: pieces.len(),
            pieces,
            waiters: vec![waiter],
        };
        let extents: Vec<_> = heal.pieces.iter().map(|p| p.extent).collect();
        self.ops.insert(op, Op::Heal(heal));
        if extents.is_empty() {
            return self.healed(op);
        }
        for (piece, extent) in extents.into_iter().enumerate() {
            self.read_extent(Owner::Read { op, piece }, &extent);
        }
    }

    /// A piece of a chunk that is read as a whole.
    pub(super) fn heal_read(&mut self, op: u64, piece: usize, read: Option<AlignedBuf>) {
        let Some(Op::Heal(heal)) = self.ops.get_mut(&op) else { return };
        heal.pieces[piece].bytes = read;
        heal.left -= 1;
        if heal.left == 0 {
            self.healed(op);
        }
    }

    fn healed(&mut self, op: u64) {
        let Some(Op::Heal(heal)) = self.ops.remove(&op) else { return };
        let whole = heal.pieces.iter().all(|p| p.bytes.is_some());
        let count = blocks(heal.version.len);
        let bytes = assemble(&self.arena, 0..count, &heal.pieces, &heal.memory);
        let (bytes, behind) = bytes.split_at(heal.version.len as usize);
        if whole && crc32c(bytes) == heal.version.checksum && behind.iter().all(|&b| b == 0) {
            self.stats.table_repairs += 1;
            for piece in &heal.pieces {
                let crcs = piece.bytes.iter().flat_map(|bytes| block_crcs(bytes));
                for (block, crc) in (piece.extent.disk..).zip(crcs) {
                    self.table.set(block, crc);
                }
            }
        } else {
            self.stats.damaged += 1;
            tracing::warn!(target_disk = %self.disk.name(), key = %heal.key, ver = heal.ver, "a chunk does not match its checksum");
            self.done.push(Done::Damaged { key: heal.key, ver: heal.ver });
        }
        for waiter in heal.waiters {
            self.wake(waiter);
        }
    }
}

/// The bytes of a block that is in memory.
pub(super) fn block_of(memory: &[Held], block: u32) -> Option<&[u8]> {
    let at = memory.partition_point(|h| u64::from(h.first) + h.blocks() <= u64::from(block));
    let held = memory.get(at).filter(|h| h.first <= block)?;
    let start = (block - held.first) as usize * BLOCK as usize;
    held.bytes.get(start..start + BLOCK as usize)
}
