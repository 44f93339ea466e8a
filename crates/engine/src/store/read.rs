//! Reads: whole blocks, each verified, then the part that was asked for.
//!
//! What must hold: no byte is returned that was not verified against its block's checksum; the blocks of the version that
//! was named stay until the read has ended, whatever becomes of the chunk (operations older than a free hold it up).

use std::io;
use std::ops::Range;

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_types::crc::{crc32c, fold};
use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Code, Done, Time, Ver};

use super::sums::{Missing, Sums};
use super::{CowStore, Op, Owner, buffer};
use crate::disk::{Disk, IoOp};
use crate::format::journal::Held;
use crate::format::leaf::ChunkItem;
use crate::mutation::{Mutation, is};
use crate::version::{Extent, Version, block_crcs, unpad};

/// Most blocks read with one operation.
const MOST: u32 = (4 << 20) / BLOCK;

/// Whom a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The caller of [`catena_types::ChunkStore::read`].
    Caller { id: u64 },
    /// The scrub.
    Scrub,
    /// A chunk that is being moved together.
    Move,
}

/// Blocks that are read with one operation.
pub(crate) struct Piece {
    pub(super) extent: Extent,
    pub(super) bytes: Option<AlignedBuf>,
}

/// A read with IO in flight.
pub(crate) struct ReadOp {
    reader: Reader,
    key: ChunkKey,
    ver: Ver,
    version: Version,
    memory: Vec<Held>,
    offset: u32,
    len: u32,
    pieces: Vec<Piece>,
    sums: Sums,
    waiting: usize,
    /// The chunk has been asked once.
    asked: bool,
    started: Time,
}

/// A version and what of it is only in memory.
pub(super) struct View {
    pub(super) version: Version,
    pub(super) memory: Vec<Held>,
}

impl<D: Disk> CowStore<D> {
    /// The readable version `ver` of a chunk.
    fn view(&self, key: &ChunkKey, ver: Ver) -> Option<View> {
        let memory = || self.overlay.get(key).map_or_else(Vec::new, |o| o.pieces());
        if let Some(item) = self.index.get(key).filter(|item| item.committed.ver == ver) {
            return Some(View { version: version_of(item), memory: memory() });
        }
        let side = self.staged.get(key).filter(|s| s.staged.ver == ver && s.staged.durable && !s.staged.remove)?;
        // A version with a slot of its own is all there.
        let mut memory = if side.fresh.is_empty() { memory() } else { Vec::new() };
        side.held.iter().for_each(|held| super::in_place::lay(&mut memory, held.clone()));
        Some(View { version: side.version.clone()?, memory })
    }

    pub(super) fn start_read(&mut self, reader: Reader, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        if self.failed.is_some() {
            return;
        }
        let Some(View { version, memory }) = self.view(key, ver) else {
            return self.read_ended(reader, Err(Code::NotFound));
        };
        let offset = offset.min(version.len);
        let len = len.min(version.len - offset);
        if len == 0 {
            return self.read_ended(reader, Ok((Bytes::new(), 0)));
        }
        let range = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        let pieces = self.pieces(&version, &memory, range.clone());
        let sums = Sums::new([range]);
        let op = self.take_op();
        let key = key.clone();
        let (asked, started) = (false, self.now);
        let read = ReadOp { reader, key, ver, version, memory, offset, len, pieces, sums, waiting: 0, asked, started };
        self.issue_read(op, read);
    }

    /// Reads the pieces, and the pages of the table they need.
    fn issue_read(&mut self, op: u64, mut read: ReadOp) {
        read.waiting = read.pieces.len();
        let missing = self.gather(&read.version, &read.memory, &mut read.sums);
        let extents: Vec<_> = read.pieces.iter().map(|p| p.extent).collect();
        if let Missing::Pages(pages) = &missing {
            read.waiting += pages.len();
        }
        let idle = read.waiting == 0;
        self.ops.insert(op, Op::Read(read));
        if let Missing::Pages(pages) = &missing {
            self.ask_pages(op, pages);
        }
        for (piece, extent) in extents.into_iter().enumerate() {
            self.read_extent(Owner::Read { op, piece }, &extent);
        }
        if idle {
            self.finish_read(op);
        }
    }

    /// The blocks of `range` that have to be read from disk.
    pub(super) fn pieces(&self, version: &Version, memory: &[Held], range: Range<u32>) -> Vec<Piece> {
        let mut extents = Vec::new();
        let mut at = range.start;
        let inside = memory.iter().filter(|h| h.first < range.end && u64::from(h.first) + h.blocks() > u64::from(range.start));
        for held in inside {
            if held.first > at {
                version.clip(at, held.first, &mut extents);
            }
            at = at.max(held.first + held.blocks() as u32);
        }
        if at < range.end {
            version.clip(at, range.end, &mut extents);
        }
        let mut pieces = Vec::with_capacity(extents.len());
        for mut extent in extents {
            while extent.len > 0 {
                let len = extent.len.min(MOST);
                pieces.push(Piece { extent: Extent { len, ..extent }, bytes: None });
                extent = Extent { logical: extent.logical + len, len: extent.len - len, disk: extent.disk + u64::from(len) };
            }
        }
        pieces
    }

    pub(super) fn read_extent(&mut self, owner: Owner, extent: &Extent) {
        let buf = self.arena.take_or_alloc(extent.len as usize * BLOCK as usize);
        let offset = self.data_offset(extent.disk);
        self.submit(owner, IoOp::Read { offset, buf });
    }

    /// A piece has been read, or could not be.
    pub(super) fn piece_read(&mut self, op: u64, piece: usize, result: io::Result<Option<AlignedBuf>>) {
        let bytes = match buffer(result) {
            Ok(buf) => Some(buf),
            Err(error) => {
                tracing::warn!(target_disk = %self.disk.name(), %error, "a data block cannot be read");
                self.stats.read_errors += 1;
                None
            }
        };
        match self.ops.get_mut(&op) {
            Some(Op::Read(read)) => {
                read.pieces[piece].bytes = bytes;
                self.wake(op);
            }
            Some(Op::Heal(_)) => self.heal_read(op, piece, bytes),
            _ => {}
        }
    }

    /// Something a read waited for is there.
    pub(super) fn wake_read(&mut self, op: u64) {
        let Some(Op::Read(read)) = self.ops.get_mut(&op) else { return };
        read.waiting -= 1;
        if read.waiting == 0 {
            self.finish_read(op);
        }
    }

    fn finish_read(&mut self, op: u64) {
        let Some(Op::Read(mut read)) = self.ops.remove(&op) else { return };
        match self.gather(&read.version, &read.memory, &mut read.sums) {
            Missing::Pages(pages) => {
                read.waiting = pages.len();
                self.ops.insert(op, Op::Read(read));
                return self.ask_pages(op, &pages);
            }
            Missing::Nothing if read.checks() => return self.deliver(read),
            Missing::Nothing | Missing::Chunk => {}
        }
        if read.asked {
            self.stats.corrupt_reads += 1;
            return self.read_ended(read.reader, Err(Code::Corrupt));
        }
        // Once the chunk has been asked, everything is read again.
        read.asked = true;
        read.waiting = 1;
        let (key, ver, version, memory) = (read.key.clone(), read.ver, read.version.clone(), read.memory.clone());
        read.pieces.iter_mut().for_each(|p| p.bytes = None);
        read.sums.clear();
        self.ops.insert(op, Op::Asking(read));
        self.heal(op, &key, ver, &version, &memory);
    }

    /// The chunk has been asked.
    pub(super) fn read_again(&mut self, op: u64) {
        if let Some(Op::Asking(read)) = self.ops.remove(&op) {
            self.issue_read(op, read);
        }
    }

    fn deliver(&mut self, read: ReadOp) {
        let (reader, crc) = (read.reader, read.known_checksum());
        let crc = crc.filter(|_| !is(Mutation::SkipChecksum));
        if read.offset == 0 && read.len == read.version.len && crc.is_some_and(|crc| crc != read.version.checksum) {
            // Every block is what was written, and yet not the chunk: what was staged had rotted in memory.
            self.stats.corrupt_reads += 1;
            self.stats.damaged += 1;
            self.done.push(Done::Damaged { key: read.key, ver: read.ver });
            return self.read_ended(reader, Err(Code::Corrupt));
        }
        if matches!(reader, Reader::Caller { .. }) {
            self.metrics.read.note(self.now.saturating_sub(read.started));
        }
        self.nominate(&read.key.clone(), read.pieces.len(), read.range().len());
        let part = self.part(read);
        let crc = crc.unwrap_or_else(|| crc32c(&part));
        self.read_ended(reader, Ok((part, crc)));
    }

    /// The bytes asked for: a part of the one piece, or the pieces and what is between them copied together.
    fn part(&self, mut read: ReadOp) -> Bytes {
        let range = read.range();
        let skip = (read.offset - range.start * BLOCK) as usize;
        let wanted = skip..skip + read.len as usize;
        if let [piece] = &mut read.pieces[..]
            && piece.extent.len == range.len() as u32
            && let Some(bytes) = piece.bytes.take()
        {
            return bytes.freeze().slice(wanted);
        }
        assemble(&self.arena, range, &read.pieces, &read.memory).freeze().slice(wanted)
    }

    fn read_ended(&mut self, reader: Reader, result: Result<(Bytes, u32), Code>) {
        match reader {
            Reader::Caller { id } => {
                self.stats.reads += 1;
                if let Ok((bytes, _)) = &result {
                    self.stats.bytes_read += bytes.len() as u64;
                }
                self.done.push(Done::Read { id, result });
            }
            Reader::Scrub => self.scrub_read(result.map(|(bytes, _)| bytes.len() as u64)),
            Reader::Move => self.move_read(result.map(|(bytes, _)| bytes)),
        }
    }
}

impl ReadOp {
    fn range(&self) -> Range<u32> {
        self.offset / BLOCK..(self.offset + self.len).div_ceil(BLOCK)
    }

    /// The checksum of the part that was asked for, if it follows from those of the blocks.
    fn known_checksum(&self) -> Option<u32> {
        let end = self.offset + self.len;
        let whole = self.offset.is_multiple_of(BLOCK) && (end.is_multiple_of(BLOCK) || end == self.version.len);
        let crcs: Option<Vec<u32>> = self.range().map(|block| self.sums.get(block)).collect();
        let pad = u64::from(end.next_multiple_of(BLOCK) - end);
        crcs.filter(|_| whole).map(|crcs| unpad(fold(&crcs), pad))
    }

    /// Whether every block that was read is what its checksum says.
    fn checks(&self) -> bool {
        self.pieces.iter().all(|piece| {
            let Some(bytes) = &piece.bytes else { return false };
            let mut crcs = (piece.extent.logical..).zip(block_crcs(bytes));
            crcs.all(|(block, crc)| self.sums.get(block) == Some(crc)) || is(Mutation::SkipChecksum)
        })
    }
}

/// Where a committed chunk's bytes are.
pub(super) fn version_of(item: ChunkItem) -> Version {
    Version { len: item.committed.len, checksum: item.committed.checksum, extents: item.extents }
}

/// The blocks `range`: pieces and what is in memory copied together; the rest is holes.
pub(super) fn assemble(arena: &Arena, range: Range<u32>, pieces: &[Piece], memory: &[Held]) -> AlignedBuf {
    let size = range.len() * BLOCK as usize;
    let mut out = arena.take_or_alloc(size);
    out.fill(0);
    let on_disk = pieces.iter().filter_map(|p| Some((p.extent.logical, &**p.bytes.as_ref()?)));
    for (first, bytes) in on_disk.chain(memory.iter().map(|h| (h.first, &*h.bytes))) {
        let skip = range.start.saturating_sub(first) as usize * BLOCK as usize;
        let at = first.saturating_sub(range.start) as usize * BLOCK as usize;
        if skip < bytes.len() && at < size {
            let n = (bytes.len() - skip).min(size - at);
            out[at..at + n].copy_from_slice(&bytes[skip..skip + n]);
        }
    }
    out
}
