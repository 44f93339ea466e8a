//! The bytes of a version, part by part, and what its checksums say of them.

use catena_types::ChunkKey;
use catena_types::crc::{combine, crc32c, zeroes};
use catena_types::limits::BLOCK;

use super::model::{Blocks, Model, StagedChunk, blocks_of};
use super::report::{Class, Severity};
use super::table::Table;
use super::{BLOCK64, Target};
use crate::format::leaf::ChunkItem;
use crate::version::Extent;

/// Blocks read at once.
const PART: u32 = 256;
/// Bad blocks named in a finding.
const NAMED: usize = 8;

/// A version of a chunk.
pub(super) struct Version<'a> {
    pub(super) len: u32,
    pub(super) checksum: u32,
    pub(super) extents: &'a [Extent],
    /// Bytes that are not at their place; the first that has a block counts.
    memory: [Option<&'a Blocks>; 2],
}

/// One block of a version.
pub(super) struct Block {
    /// Its number within the chunk.
    pub(super) number: u32,
    /// Where its bytes are; `None`: not at their place, but in journal or checkpoint.
    pub(super) disk: Option<u64>,
    /// Checksum of the bytes that were found.
    pub(super) found: u32,
    /// First byte behind the end of the chunk that is not zero, counted from the start of the block.
    pub(super) beyond: Option<u64>,
}

impl<'a> Version<'a> {
    pub(super) fn committed(model: &'a Model, key: &ChunkKey, item: &'a ChunkItem) -> Version<'a> {
        let c = &item.committed;
        Version { len: c.len, checksum: c.checksum, extents: &item.extents, memory: [None, model.waiting.get(key)] }
    }

    pub(super) fn staged(model: &'a Model, key: &ChunkKey, side: &'a StagedChunk) -> Version<'a> {
        let s = &side.staged;
        let same_slot = model.chunks.get(key).is_some_and(|item| item.slot == side.slot);
        let waiting = model.waiting.get(key).filter(|_| same_slot);
        Version { len: s.len, checksum: s.checksum, extents: &side.extents, memory: [Some(&side.held), waiting] }
    }

    fn in_memory(&self, block: u32) -> Option<&'a [u8]> {
        self.memory.iter().flatten().find_map(|blocks| blocks.get(&block)).map(|bytes| &bytes[..])
    }
}

impl Target<'_> {
    /// Reads a version, gives every block that is not a hole to `each`, and gives the checksum of all bytes.
    pub(super) fn scan(&self, version: &Version<'_>, each: &mut dyn FnMut(Block)) -> u32 {
        let count = blocks_of(version.len);
        let mut sum = 0;
        let mut first = 0;
        while first < count {
            let end = count.min(first + PART);
            let size = u64::from(version.len).min(u64::from(end) * BLOCK64) - u64::from(first) * BLOCK64;
            sum = match self.part(version, first, end, each) {
                Some(bytes) => combine(sum, crc32c(&bytes[..size as usize]), size),
                None => combine(sum, zeroes(size), size),
            };
            first = end;
        }
        sum
    }

    /// The bytes of blocks `[first, end)`; `None` if they are all holes.
    fn part(&self, version: &Version<'_>, first: u32, end: u32, each: &mut dyn FnMut(Block)) -> Option<Vec<u8>> {
        let block = BLOCK as usize;
        let mut disks = vec![None; (end - first) as usize];
        let mut bytes = vec![0; disks.len() * block];
        let mut holes = true;
        for e in version.extents {
            let (from, to) = (e.logical.max(first), e.logical.saturating_add(e.len).min(end));
            if from >= to {
                continue;
            }
            holes = false;
            let disk = e.disk.saturating_add(u64::from(from - e.logical));
            let at = (from - first) as usize;
            let n = (to - from) as usize;
            bytes[at * block..(at + n) * block].copy_from_slice(&self.read(self.data_byte(disk), n * block));
            disks[at..at + n].iter_mut().zip(disk..).for_each(|(d, disk)| *d = Some(disk));
        }
        for (at, number) in (first..end).enumerate() {
            let part = &mut bytes[at * block..(at + 1) * block];
            let memory = version.in_memory(number);
            if let Some(memory) = memory {
                holes = false;
                part.copy_from_slice(memory);
            }
            let disk = disks[at].filter(|_| memory.is_none());
            if disk.is_some() || memory.is_some() {
                let inside = (u64::from(version.len) - u64::from(number) * BLOCK64).min(BLOCK64) as usize;
                let beyond = part[inside..].iter().position(|&b| b != 0).map(|n| (inside + n) as u64);
                each(Block { number, disk, found: crc32c(part), beyond });
            }
        }
        (!holes).then_some(bytes)
    }

    /// Checks a version against its checksum and the table.
    pub(super) fn check_version(&self, name: &str, version: &Version<'_>, table: &Table<'_>) {
        let mut differ: Vec<(u32, u64)> = Vec::new();
        let mut padding = None;
        let sum = self.scan(version, &mut |block| {
            let Some(disk) = block.disk else { return };
            if table.get(disk).is_some_and(|(crc, _)| crc != block.found) {
                differ.push((block.number, disk));
            }
            if let Some(byte) = block.beyond {
                padding = Some(self.data_byte(disk) + byte);
            }
        });
        if sum == version.checksum {
            if let Some(offset) = padding {
                let what = format!("{name}: bytes behind its end, {} bytes, are not zero", version.len);
                self.note(Class::Padding, Severity::Damage, offset, what);
            } else if let Some((_, disk)) = differ.first() {
                let what = format!("{name} is whole, and the table has other checksums for its {}", named(&differ));
                self.note(Class::Table, Severity::Repairable, table.byte_of(*disk), what);
            }
            return;
        }
        let (offset, what) = match differ.first() {
            Some((_, disk)) => (self.data_byte(*disk), format!("{name}: {} not what was written", named(&differ))),
            None => {
                let offset = version.extents.first().map_or(self.params().data_offset(), |e| self.data_byte(e.disk));
                let (wanted, len) = (version.checksum, version.len);
                (offset, format!("{name}: checksum {sum:08x} of its {len} bytes, and {wanted:08x} is recorded"))
            }
        };
        self.note(Class::Data, Severity::Damage, offset, what);
    }
}

/// `block 7 (data block 12) is`, or `blocks 7 (data block 12), 8 (data block 13) and 3 more are`.
fn named(blocks: &[(u32, u64)]) -> String {
    let mut out: Vec<String> = blocks.iter().take(NAMED).map(|(n, disk)| format!("{n} (data block {disk})")).collect();
    if blocks.len() > NAMED {
        out.push(format!("{} more", blocks.len() - NAMED));
    }
    let (word, verb) = if blocks.len() == 1 { ("block", "is") } else { ("blocks", "are") };
    format!("{word} {} {verb}", out.join(", "))
}
