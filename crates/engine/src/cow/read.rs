//! Reads: whole blocks, each verified, then the part that was asked for.
//!
//! What must hold: no byte is returned that was not verified against its block's checksum; the blocks of the version that
//! was named stay until the read has ended, whatever becomes of the chunk (operations older than a free hold it up).

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::AlignedBuf;
use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Code, Done, Ver};

use super::{CowStore, Entry, Op, Owner, buffer};
use crate::disk::{Disk, IoOp};
use crate::version::{Extent, Version, block_crcs};

/// A read with IO in flight.
pub(crate) struct ReadOp {
    id: u64,
    version: Rc<Version>,
    offset: u32,
    len: u32,
    pieces: Vec<(Extent, Option<AlignedBuf>)>,
    left: usize,
    failed: bool,
}

impl Entry {
    /// The readable version `ver`.
    fn readable(&self, ver: Ver) -> Option<Rc<Version>> {
        if let Some((c, version)) = &self.committed
            && c.ver == ver
        {
            return Some(version.clone());
        }
        let s = self.staged.as_ref().filter(|s| s.staged.ver == ver && s.staged.durable && !s.staged.remove)?;
        s.version.clone()
    }
}

impl<D: Disk> CowStore<D> {
    pub(super) fn start_read(&mut self, id: u64, key: &ChunkKey, ver: Ver, offset: u32, len: u32) {
        if self.failed.is_some() {
            return;
        }
        let Some(version) = self.index.get(key).and_then(|e| e.readable(ver)) else {
            return self.read_ended(id, Err(Code::NotFound));
        };
        let offset = offset.min(version.len);
        let len = len.min(version.len - offset);
        if let Some(bytes) = version.cached.borrow().as_ref() {
            let part = bytes.slice(offset as usize..(offset + len) as usize);
            let crc = crc32c(&part);
            return self.read_ended(id, Ok((part, crc)));
        }
        let mut extents = Vec::new();
        if len > 0 {
            version.clip(offset / BLOCK, (offset + len).div_ceil(BLOCK), &mut extents);
        }
        let pieces: Vec<_> = extents.into_iter().map(|e| (e, None)).collect();
        let left = pieces.len();
        let read = ReadOp { id, version, offset, len, pieces, left, failed: false };
        if left == 0 {
            return self.finish_read(read);
        }
        let op = self.next_op;
        self.next_op += 1;
        for (piece, (e, _)) in read.pieces.iter().enumerate() {
            let buf = self.arena.take_or_alloc(e.len as usize * BLOCK as usize);
            self.submit(Owner::Read { op, piece }, IoOp::Read { offset: self.data_offset(e.disk), buf });
        }
        self.ops.insert(op, Op::Read(read));
    }

    /// A piece has been read, or could not be.
    pub(super) fn read_done(&mut self, op: u64, piece: usize, result: io::Result<Option<AlignedBuf>>) {
        let Some(Op::Read(read)) = self.ops.get_mut(&op) else { return };
        read.left -= 1;
        let (extent, slot) = &mut read.pieces[piece];
        let wanted = &read.version.crcs[extent.logical as usize..(extent.logical + extent.len) as usize];
        match buffer(result) {
            Ok(buf) if block_crcs(&buf).eq(wanted.iter().copied()) => *slot = Some(buf),
            Ok(_) => read.failed = true,
            Err(error) => {
                tracing::warn!(target_disk = %self.disk.name(), %error, block = extent.disk, "a data block cannot be read");
                read.failed = true;
            }
        }
        if read.left == 0
            && let Some(Op::Read(read)) = self.ops.remove(&op)
        {
            self.finish_read(read);
        }
    }

    fn finish_read(&mut self, read: ReadOp) {
        if read.failed {
            self.stats.corrupt_reads += 1;
            return self.read_ended(read.id, Err(Code::Corrupt));
        }
        let whole = read.offset == 0 && read.len == read.version.len;
        let part = self.assemble(read.offset, read.len, read.pieces);
        let crc = crc32c(&part);
        if whole && crc != read.version.checksum {
            self.stats.corrupt_reads += 1;
            return self.read_ended(read.id, Err(Code::Corrupt));
        }
        self.read_ended(read.id, Ok((part, crc)));
    }

    /// The bytes asked for: a part of the one piece, or the pieces and the holes between them copied together.
    fn assemble(&self, offset: u32, len: u32, mut pieces: Vec<(Extent, Option<AlignedBuf>)>) -> Bytes {
        if len == 0 {
            return Bytes::new();
        }
        let first = offset / BLOCK;
        let count = (offset + len).div_ceil(BLOCK) - first;
        let skip = (offset - first * BLOCK) as usize;
        if let [(e, buf)] = &mut pieces[..]
            && e.logical == first
            && e.len == count
            && let Some(buf) = buf.take()
        {
            return buf.freeze().slice(skip..skip + len as usize);
        }
        let mut out = self.arena.take_or_alloc(count as usize * BLOCK as usize);
        out.fill(0);
        for (e, buf) in &pieces {
            if let Some(buf) = buf {
                let at = (e.logical - first) as usize * BLOCK as usize;
                out[at..at + buf.len()].copy_from_slice(buf);
            }
        }
        out.freeze().slice(skip..skip + len as usize)
    }

    fn read_ended(&mut self, id: u64, result: Result<(Bytes, u32), Code>) {
        self.stats.reads += 1;
        if let Ok((bytes, _)) = &result {
            self.stats.bytes_read += bytes.len() as u64;
        }
        self.done.push(Done::Read { id, result });
    }
}
