//! The disk as the engine sees it: one address space per target, batched, and completion based.
//!
//! The same store runs on O_DIRECT files through io_uring, on pread/pwrite threads, in memory, and on a simulator's lying
//! disk. What must hold of every implementation: offsets and lengths are multiples of [`BLOCK_BYTES`]; reading what was
//! never written gives zeroes; operations may complete in any order; a flush covers every write whose completion was
//! polled before the flush was submitted, and promises nothing about any other; buffers belong to the disk from
//! submission to completion.

mod backing;
pub mod file;
pub mod mem;
mod threads;
mod uring;

use std::io;

use bytes::Bytes;
use catena_arena::AlignedBuf;

/// Unit of every offset and length in bytes.
pub const BLOCK_BYTES: u64 = catena_types::limits::BLOCK as u64;

/// What to do.
#[derive(Debug)]
pub enum IoOp {
    /// Fill `buf` (its length) from `offset`.
    Read {
        /// Where, in bytes.
        offset: u64,
        /// What to fill.
        buf: AlignedBuf,
    },
    /// Write `data` at `offset`. Fast if `data` starts at a multiple of the block size in memory.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Make every write that has completed so far durable.
    Flush,
    /// Give the range back to the file system; it reads as zeroes afterwards.
    Punch {
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// An operation with the number its completion will carry.
#[derive(Debug)]
pub struct Io {
    /// Chosen by the caller.
    pub id: u64,
    /// What to do.
    pub op: IoOp,
}

/// End of an operation.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub id: u64,
    /// `Ok(Some(buffer))` for a read, `Ok(None)` for anything else.
    pub result: io::Result<Option<AlignedBuf>>,
}

/// One target's disk.
pub trait Disk {
    /// Takes an operation; it may start at once or with the next [`Disk::kick`].
    fn submit(&mut self, io: Io);
    /// Starts everything submitted: one system call where the backend can.
    fn kick(&mut self);
    /// Appends what has completed.
    fn poll(&mut self, out: &mut Vec<Completion>);
    /// Blocks until [`Disk::poll`] would return something (or at once if nothing is in flight). For open and close.
    fn wait(&mut self);
    /// Makes sure that writes to the range have their space, leaving `keep` bytes (about) to others. Blocks for a moment now
    /// and then.
    ///
    /// # Errors
    /// There is not so much space now, or there was not a moment ago.
    fn reserve(&mut self, _offset: u64, _len: u64, _keep: u64) -> io::Result<()> {
        Ok(())
    }
    /// Whether the first write to a place takes longer than later ones: where a file system has to note it.
    fn is_slow_at_first(&self) -> bool {
        true
    }
    /// What to call it in messages: a path.
    fn name(&self) -> String;
}
