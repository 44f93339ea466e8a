//! Space: what an update may take, and what is kept back for whom.
//!
//! What must hold: nothing has changed when `NoSpace` is returned. Writes of clients leave room for updates that make room
//! (a cut writes one block, a remove none) and for resync; new chunks leave room for overwrites. The index area holds two
//! versions of every leaf: what is live takes at most half of it. Blocks are taken for an update only when the disk has
//! space for them, so that a file system that others have filled refuses updates and does not fail the target.

use catena_types::store::SpaceLevel;
use catena_types::{ChunkKey, Code, OpKind, Time};

use super::{BLOCK64, CowStore};
use crate::alloc::Run;
use crate::disk::Disk;
use crate::format::leaf::leaf_blocks;
use crate::format::slice::SLICE_HEADER_BYTES;

/// Bytes of a session row in a checkpoint.
const SESSION_BYTES: u64 = 57;
/// Bytes of a leaf's reference in a checkpoint, at most, when it lies in one run.
const LEAF_REF_BYTES: u64 = 24;
/// Bytes that chunks leave on a file system: for the journal's neighbours, which grow a little with every chunk.
pub(super) const KEPT_ON_DISK: u64 = 32 << 20;
/// So long after a refusal by the disk the target counts as full.
const FULL_FOR: Time = 5_000_000_000;

impl<D: Disk> CowStore<D> {
    /// Blocks that writes of clients leave.
    fn kept_from_clients(&self) -> u64 {
        (self.alloc.total() / 128).min(65536)
    }

    /// Blocks that new chunks leave.
    fn kept_from_new_chunks(&self) -> u64 {
        2 * self.kept_from_clients()
    }

    /// How full the target is.
    pub(super) fn space_level(&self) -> SpaceLevel {
        let free = self.alloc.free();
        match () {
            () if self.disk_is_full() => SpaceLevel::NoWrites,
            _ if free <= self.kept_from_clients() => SpaceLevel::NoWrites,
            _ if free <= self.kept_from_new_chunks() => SpaceLevel::NoNewChunks,
            _ if free <= self.alloc.total() / 10 => SpaceLevel::Low,
            _ => SpaceLevel::Enough,
        }
    }

    fn check_free(&self, kind: OpKind, count: u32) -> Result<(), Code> {
        let client = matches!(kind, OpKind::Write | OpKind::Extend);
        let kept = if client { self.kept_from_clients() } else { 0 };
        if count > 0 && u64::from(count) + kept > self.alloc.free() { Err(Code::NoSpace) } else { Ok(()) }
    }

    /// Takes `count` blocks. On a full disk those in front: they are the likeliest to have had space before.
    pub(super) fn reserve(&mut self, kind: OpKind, count: u32) -> Result<Vec<Run>, Code> {
        self.check_free(kind, count)?;
        let runs = self.alloc.take_beside(count).ok_or(Code::NoSpace)?;
        if self.has_space(&runs) {
            return Ok(runs);
        }
        self.give_back(&runs);
        let runs = self.alloc.take_first(count).ok_or(Code::NoSpace)?;
        if self.has_space(&runs) {
            return Ok(runs);
        }
        self.give_back(&runs);
        Err(Code::NoSpace)
    }

    /// Takes `count` blocks side by side.
    pub(super) fn reserve_slot(&mut self, kind: OpKind, count: u32) -> Result<Run, Code> {
        self.check_free(kind, count)?;
        let run = self.alloc.take_run(count).ok_or(Code::NoSpace)?;
        if self.has_space(&[run]) {
            return Ok(run);
        }
        self.give_back(&[run]);
        Err(Code::NoSpace)
    }

    /// Whether the disk has space for these blocks.
    pub(super) fn has_space(&mut self, runs: &[Run]) -> bool {
        let refused = runs.iter().find_map(|run| {
            let (offset, len) = (self.data_offset(run.disk), u64::from(run.len) * BLOCK64);
            self.disk.reserve(offset, len, KEPT_ON_DISK).err()
        });
        if let Some(error) = &refused {
            if !self.disk_is_full() {
                tracing::warn!(target_disk = %self.disk.name(), %error, "no more space on the file system");
            }
            self.disk_full = Some(self.now);
        }
        refused.is_none()
    }

    /// Whether the disk has refused space lately.
    pub(super) fn disk_is_full(&self) -> bool {
        self.disk_full.is_some_and(|at| self.now < at + FULL_FOR)
    }

    /// Gives blocks back that no record names.
    pub(super) fn give_back(&mut self, runs: &[Run]) {
        for run in runs {
            let cleared = self.alloc.clear(*run);
            debug_assert!(cleared, "blocks that were taken");
        }
    }

    /// Whether so many bytes more may wait in the journal for their commit.
    pub(super) fn may_hold(&self, bytes: u64) -> bool {
        let params = &self.superblock.params;
        let most = (params.journal / 4).min(params.checkpoint / 4);
        bytes <= most / 4 && self.held_bytes + bytes <= most
    }

    /// Whether an update of `count` blocks of `key` may be accepted as far as records, index and checkpoint are concerned;
    /// gives the blocks by which the index may grow. A remove is never refused.
    pub(super) fn admit_growth(&self, key: &ChunkKey, kind: OpKind, exists: bool, count: u32) -> Result<u64, Code> {
        let client = matches!(kind, OpKind::Write | OpKind::Extend);
        if client && !exists && self.alloc.free() <= self.kept_from_new_chunks() {
            return Err(Code::NoSpace);
        }
        // At worst an extent per block: up to 16 bytes in an entry, 16 with the checksum in a record.
        let (name, blocks) = (256 + key.as_bytes().len() as u64, u64::from(count));
        let entry = name + 16 * blocks;
        let growth = leaf_blocks(entry as usize) + 2;
        let index = self.index.blocks() + self.growth + growth > self.index_limit(client);
        let journal = entry > self.superblock.params.journal / 2;
        let checkpoint = self.checkpoint_use() + entry > self.checkpoint_limit(client);
        if (index || journal || checkpoint) && kind != OpKind::Remove { Err(Code::NoSpace) } else { Ok(growth) }
    }

    fn index_limit(&self, client: bool) -> u64 {
        let half = self.index_alloc.total() / 2;
        half - half / if client { 8 } else { 16 }
    }

    fn checkpoint_limit(&self, client: bool) -> u64 {
        let area = self.superblock.params.checkpoint;
        area - area / if client { 4 } else { 8 }
    }

    /// Bytes of the next checkpoint, at most: slices, their headers and parity take less than an eighth.
    fn checkpoint_use(&self) -> u64 {
        let staged: u64 = 300 * self.staged.len() as u64 + self.held_bytes;
        let leaves = LEAF_REF_BYTES * self.index.len() as u64;
        SLICE_HEADER_BYTES as u64 + SESSION_BYTES * self.sessions.len() as u64 + leaves + staged
    }
}
