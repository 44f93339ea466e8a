//! The disk of an explored target: the store in memory, of which every choice is somebody else's. A record becomes
//! durable, and a read ends, when the explorer says so.
//!
//! A block's content is one byte, and a chunk has at most two blocks, so that it can differ in a part.

use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Code, Done, Tag, Ver};

use super::rules::{Rule, Rules};
use crate::store::{self, Content, MemStore, Whims};

/// Two blocks.
pub(super) const CHUNK_SIZE: u32 = 2 * BLOCK;

pub(super) type Contents = store::Contents<Blocks>;
pub(super) type Disk = MemStore<Blocks, Chosen>;

/// Whole blocks, each a byte; those beyond the end are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Blocks {
    count: u8,
    bytes: [u8; 2],
}

impl Blocks {
    /// So many blocks of that byte.
    pub(super) fn of(byte: u8, count: u8) -> Blocks {
        let mut bytes = [byte; 2];
        bytes[count.into()..].fill(0);
        Blocks { count, bytes }
    }

    fn held(&self) -> &[u8] {
        &self.bytes[..self.count.into()]
    }
}

impl Content for Blocks {
    fn size(&self) -> u32 {
        u32::from(self.count) * BLOCK
    }

    fn lost(len: u32) -> Self {
        Blocks::of(0xff, (len / BLOCK) as u8)
    }

    fn changed(&self, len: u32, parts: &[(u32, &Self)]) -> Self {
        let mut new = *self;
        new.count = (len / BLOCK) as u8;
        for (offset, part) in parts {
            new.bytes[(offset / BLOCK) as usize..][..part.count.into()].copy_from_slice(part.held());
        }
        new.bytes[new.count.into()..].fill(0);
        new
    }

    fn part(&self, offset: u32, len: u32) -> Self {
        let from = (offset / BLOCK).min(self.count.into()) as usize;
        let held = &self.held()[from..];
        let held = &held[..held.len().min((len / BLOCK) as usize)];
        let mut part = Blocks { count: held.len() as u8, bytes: [0; 2] };
        part.bytes[..held.len()].copy_from_slice(held);
        part
    }

    fn checksum(&self) -> u32 {
        u32::from_le_bytes([self.bytes[0], self.bytes[1], self.count, 0])
    }

    fn block_sums(&self) -> Vec<u32> {
        self.held().iter().map(|byte| u32::from(*byte)).collect()
    }
}

/// What has been chosen for a disk.
#[derive(Clone, Debug, Hash)]
pub(super) struct Chosen {
    /// Nothing is taken that needs room; whether that was tried.
    pub(super) full: bool,
    pub(super) refused: bool,
    /// Committed since the last look.
    pub(super) commits: Vec<(ChunkKey, Ver, Tag)>,
    off: Rules,
}

impl Whims<Blocks> for Chosen {
    fn full(&mut self) -> Option<Code> {
        self.refused |= self.full;
        self.full.then_some(Code::NoSpace)
    }

    fn waits(&mut self, done: &Done<Blocks>) -> bool {
        !match done {
            Done::Staged { .. } => self.off.is(Rule::StageDurable),
            Done::Unstaged { .. } => self.off.is(Rule::UnstageDurable),
            _ => self.off.is(Rule::SyncDurable),
        }
    }

    fn committed(&mut self, key: &ChunkKey, ver: Ver, tag: Tag) {
        self.commits.push((key.clone(), ver, tag));
    }
}

/// Opens a disk with these contents.
pub(super) fn open(contents: Contents, off: Rules) -> Disk {
    MemStore::open(contents, Chosen { full: false, refused: false, commits: Vec::new(), off })
}
