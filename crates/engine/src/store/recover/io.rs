//! The disk while a target is opened, made or adopted: one operation at a time, waited for.
//!
//! What must hold: a bad sector costs the block it is in and no more. A read that fails is repeated block by block, and a
//! block that the disk does not give is zero: the checksum of what it belongs to tells, and its parity makes up for it.

use std::{fmt, io};

use catena_arena::{AlignedBuf, Arena};

use super::BLOCK64;
use crate::disk::{Disk, Io, IoOp};
use crate::error::OpenError;

/// Bytes read at once.
pub(super) const READ_STEP: u64 = 1 << 20;
/// Blocks that a disk may refuse before it counts as failed: every one may take it seconds.
const MOST_UNREADABLE: u64 = 64;

/// One operation at a time on a disk.
pub(in crate::store) struct Blocking<'a, D: Disk> {
    disk: &'a mut D,
    /// Blocks that could not be read.
    pub(super) unreadable: u64,
}

pub(in crate::store) fn io_error(name: String, action: &str, source: io::Error) -> OpenError {
    OpenError::Io { name, action: action.to_string(), source }
}

impl<'a, D: Disk> Blocking<'a, D> {
    pub(in crate::store) fn new(disk: &'a mut D) -> Self {
        Blocking { disk, unreadable: 0 }
    }

    pub(super) fn name(&self) -> String {
        self.disk.name()
    }

    pub(in crate::store) fn run(&mut self, action: fmt::Arguments<'_>, op: IoOp) -> Result<Option<AlignedBuf>, OpenError> {
        self.disk.submit(Io { id: u64::MAX, op });
        let mut done = Vec::new();
        loop {
            self.disk.kick();
            self.disk.poll(&mut done);
            if let Some(completion) = done.pop() {
                return completion.result.map_err(|e| io_error(self.disk.name(), &action.to_string(), e));
            }
            self.disk.wait();
        }
    }

    /// Appends `len` bytes at `offset` to `out`. Blocks that the disk does not give are zero there; gives where they are.
    pub(super) fn read(&mut self, arena: &Arena, offset: u64, len: u64, out: &mut Vec<u8>) -> Result<Vec<u64>, OpenError> {
        let mut lost = Vec::new();
        for at in (offset..offset + len).step_by(READ_STEP as usize) {
            let n = READ_STEP.min(offset + len - at);
            match self.part(arena, at, n) {
                Ok(part) => out.extend_from_slice(&part),
                Err(_) => self.read_blocks(arena, at, n, out, &mut lost)?,
            }
        }
        Ok(lost)
    }

    fn read_blocks(
        &mut self,
        arena: &Arena,
        offset: u64,
        len: u64,
        out: &mut Vec<u8>,
        lost: &mut Vec<u64>,
    ) -> Result<(), OpenError> {
        for at in (offset..offset + len).step_by(BLOCK64 as usize) {
            match self.block(arena, at) {
                Ok(block) => out.extend_from_slice(&block),
                Err(e) if self.unreadable > MOST_UNREADABLE => return Err(e),
                Err(_) => {
                    lost.push(at);
                    out.resize(out.len() + BLOCK64 as usize, 0);
                }
            }
        }
        Ok(())
    }

    /// One block; it is counted if it cannot be read.
    pub(super) fn block(&mut self, arena: &Arena, offset: u64) -> Result<AlignedBuf, OpenError> {
        let read = self.part(arena, offset, BLOCK64);
        if let Err(error) = &read {
            self.unreadable += 1;
            tracing::warn!(%error, "a block cannot be read: what it is part of makes up for it, or is named");
        }
        read
    }

    fn part(&mut self, arena: &Arena, offset: u64, len: u64) -> Result<AlignedBuf, OpenError> {
        let buf = arena.take_or_alloc(len as usize);
        let read = self.run(format_args!("reading {len} bytes at {offset}"), IoOp::Read { offset, buf })?;
        read.ok_or_else(|| io_error(self.disk.name(), "reading", io::Error::other("a read completed without a buffer")))
    }
}
