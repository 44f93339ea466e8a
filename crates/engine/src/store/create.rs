//! Making a target, adopting it, and closing it: the blocking ends of its life.

use bytes::Bytes;
use catena_arena::Arena;
use catena_types::Done;
use catena_types::crc::crc32c;

use super::recover::{Blocking, io_error};
use super::{BLOCK64, CowStore};
use crate::disk::{Disk, IoOp};
use crate::error::OpenError;
use crate::format::Params;
use crate::format::superblock::{CheckpointRef, SUPERBLOCK_OFFSETS, Superblock};

/// Bytes zeroed with one write.
const ZERO_STEP: u64 = 1 << 20;

impl<D: Disk> CowStore<D> {
    /// Formats `disk` and opens it. Whatever was on it is gone.
    ///
    /// # Errors
    /// `BadParams`, or `Io` when the disk refuses.
    pub fn create(mut disk: D, params: &Params, arena: &Arena) -> Result<CowStore<D>, OpenError> {
        let name = disk.name();
        params.check().map_err(|why| OpenError::BadParams { name, why })?;
        let mut io = Blocking::new(&mut disk);
        // The superblock last: before it, this is no target. The journal is written once so that appends never make the
        // file system allocate.
        let zero = arena.take_or_alloc(BLOCK64 as usize);
        let zero = zeroed(zero);
        io.write(SUPERBLOCK_OFFSETS[0], zero.clone())?;
        io.write(SUPERBLOCK_OFFSETS[1], zero)?;
        io.flush()?;
        let step = zeroed(arena.take_or_alloc(ZERO_STEP.min(params.journal) as usize));
        let mut at = 0;
        while at < params.journal {
            let n = (step.len() as u64).min(params.journal - at);
            io.write(params.journal_offset() + at, step.slice(..n as usize))?;
            at += n;
        }
        io.flush()?;
        let checkpoint = CheckpointRef { append: 1, ..CheckpointRef::default() };
        let superblock = Superblock { generation: 1, params: *params, checkpoint };
        io.write_superblocks(&superblock)?;
        CowStore::open(disk, arena)
    }

    /// Records durably to which cluster and target id this target belongs. Blocks. Only a target that belongs to none, or
    /// to this one already, can be adopted.
    ///
    /// # Errors
    /// `WrongTarget` if it belongs to another; `Io` if the disk refuses (the target has failed then).
    pub fn adopt(&mut self, cluster: u64, target: u32) -> Result<(), OpenError> {
        let held = self.identity();
        if (held.cluster, held.target) == (cluster, target) {
            return Ok(());
        }
        let name = self.disk.name();
        if (held.cluster, held.target) != (0, 0) {
            let found = format!("target {} of cluster {:x}", held.target, held.cluster);
            return Err(OpenError::WrongTarget { name, found, wanted: format!("target {target} of cluster {cluster:x}") });
        }
        self.drain()?;
        self.superblock.generation += 1;
        self.superblock.params.identity.cluster = cluster;
        self.superblock.params.identity.target = target;
        let superblock = self.superblock;
        let written = Blocking::new(&mut self.disk).write_superblocks(&superblock);
        if let Err(e) = &written {
            self.fail(e.to_string());
        }
        written
    }

    /// Ends cleanly: waits for everything in flight, makes everything durable and writes a checkpoint, so that the next
    /// open has nothing to replay. Blocks. What ends meanwhile is appended to `out`.
    ///
    /// # Errors
    /// `Io` if the target has failed or fails now.
    pub fn close(&mut self, out: &mut Vec<Done<Bytes>>) -> Result<(), OpenError> {
        self.note_scrub();
        self.drain()?;
        if self.journal.used > 0 {
            self.start_checkpoint();
            self.drain()?;
        }
        let now = self.now;
        self.turn(now, out);
        match &self.failed {
            Some(reason) => Err(io_error(self.disk.name(), "closing", std::io::Error::other(reason.clone()))),
            None => Ok(()),
        }
    }

    /// Blocks until an operation in flight has completed, or returns at once if none is. For tools without an event loop.
    pub fn wait(&mut self) {
        if !self.ios.is_empty() && self.failed.is_none() {
            self.disk.wait();
        }
    }

    /// Turns until nothing is in flight and nothing waits. Reports are kept for the next turn.
    fn drain(&mut self) -> Result<(), OpenError> {
        let mut kept = std::mem::take(&mut self.done);
        loop {
            // Late enough for commit records that wait for company.
            let now = self.lazy_since.map_or(self.now, |since| since.saturating_add(super::LAZY_NS));
            let clock = self.now;
            self.turn(now, &mut kept);
            self.now = clock;
            if let Some(reason) = &self.failed {
                return Err(io_error(self.disk.name(), "finishing what was in flight", std::io::Error::other(reason.clone())));
            }
            if !self.busy() && self.queue.is_empty() {
                break;
            }
            self.wait();
        }
        self.done = kept;
        Ok(())
    }
}

fn zeroed(mut buf: catena_arena::AlignedBuf) -> Bytes {
    buf.fill(0);
    buf.freeze()
}

impl<D: Disk> Blocking<'_, D> {
    /// Writes both copies, each flushed before the other is touched.
    pub(super) fn write_superblocks(&mut self, superblock: &Superblock) -> Result<(), OpenError> {
        let first = superblock.generation % 2;
        for copy in [first, 1 - first] {
            self.write_superblock(superblock, copy as usize)?;
        }
        Ok(())
    }

    pub(super) fn write_superblock(&mut self, superblock: &Superblock, copy: usize) -> Result<(), OpenError> {
        self.write(SUPERBLOCK_OFFSETS[copy], Bytes::from(superblock.encode()))?;
        self.flush()
    }

    pub(super) fn write(&mut self, offset: u64, data: Bytes) -> Result<(), OpenError> {
        self.run(format_args!("writing"), IoOp::Write { offset, data }).map(|_| ())
    }

    pub(super) fn flush(&mut self) -> Result<(), OpenError> {
        self.run(format_args!("flushing"), IoOp::Flush).map(|_| ())
    }
}

/// Checksum that every structure of a target starts from.
pub(super) fn uuid_crc(params: &Params) -> u32 {
    crc32c(&params.identity.uuid)
}
