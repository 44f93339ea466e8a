//! What is in a target, for people and programs: superblock, journal, checkpoint, a chunk, the free space.
//!
//! Every view also carries what was found wrong on the way; [`super::fsck`] finds more.

mod checkpoint;
mod chunk;
mod free;
mod journal;

pub use checkpoint::{CheckpointView, LeafView, SliceView, checkpoint};
pub use chunk::{BlockView, ChunkView, ExtentView, VersionView, chunk};
pub use free::{FreeView, StretchView, free};
pub use journal::{AppendView, JournalView, RecordView, journal};

use serde::Serialize;

use super::superblock::describe;
use super::{Finding, Medium, Target};
use crate::error::OpenError;
use crate::format::superblock::SUPERBLOCK_OFFSETS;
use crate::format::{Durability, FORMAT, StoreKind};

/// The superblock, and how the target is laid out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// The target's path.
    pub name: String,
    /// Version of the disk format.
    pub format: u32,
    /// Both copies of the superblock.
    pub copies: Vec<CopyView>,
    /// Drawn at random when the target was made, in hexadecimal.
    pub uuid: String,
    /// The cluster it belongs to, in hexadecimal; 0 until it is adopted.
    pub cluster: String,
    /// Its id in the cluster; 0 until it is adopted.
    pub target: u32,
    /// How it keeps chunks.
    pub kind: &'static str,
    /// What an acknowledgement means.
    pub durability: &'static str,
    /// Its areas, in order.
    pub areas: Vec<AreaView>,
    /// Where the checkpoint is.
    pub checkpoint: CheckpointAt,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

/// A copy of the superblock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyView {
    /// Where, in bytes.
    pub offset: u64,
    /// Its generation, if it can be read.
    pub generation: Option<u64>,
    /// What it is.
    pub state: String,
}

/// A part of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AreaView {
    /// What it is.
    pub name: &'static str,
    /// Where, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Where the checkpoint is, and where replay starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointAt {
    /// Which area.
    pub area: u32,
    /// Slices in it; none before the first checkpoint.
    pub slices: u32,
    /// Its bytes, index leaves apart.
    pub bytes: u64,
    /// Generation its slices carry.
    pub generation: u64,
    /// Number of the last record it contains.
    pub record: u64,
    /// Journal block at which replay starts.
    pub journal_block: u32,
    /// Number of the append expected there.
    pub append: u64,
}

impl Target<'_> {
    fn checkpoint_at(&self) -> CheckpointAt {
        let c = &self.superblock.checkpoint;
        CheckpointAt {
            area: c.area,
            slices: c.slices,
            bytes: c.bytes,
            generation: c.generation,
            record: c.seq,
            journal_block: c.pos,
            append: c.append,
        }
    }

    fn areas(&self) -> Vec<AreaView> {
        let p = self.params();
        let named = [
            ("journal", p.journal_offset(), p.journal),
            ("checkpoint 0", p.checkpoint_offset(0), p.checkpoint),
            ("checkpoint 1", p.checkpoint_offset(1), p.checkpoint),
            ("index", p.index_offset(), p.index),
            ("checksum table", p.table_offset(), p.data_offset() - p.table_offset()),
            ("data", p.data_offset(), p.capacity),
        ];
        named.into_iter().map(|(name, offset, bytes)| AreaView { name, offset, bytes }).collect()
    }
}

/// Shows the superblock.
///
/// # Errors
/// Why there is nothing to show.
pub fn overview(medium: &dyn Medium) -> Result<Overview, OpenError> {
    let target = Target::open(medium)?;
    let copies = target.copies.iter().zip(SUPERBLOCK_OFFSETS).map(|(copy, offset)| match copy {
        Ok(copy) if *copy == target.superblock => {
            CopyView { offset, generation: Some(copy.generation), state: "good".to_string() }
        }
        Ok(copy) => CopyView { offset, generation: Some(copy.generation), state: "old".to_string() },
        Err(problem) => CopyView { offset, generation: None, state: describe(*problem) },
    });
    let identity = &target.params().identity;
    Ok(Overview {
        name: medium.name(),
        format: FORMAT,
        copies: copies.collect(),
        uuid: identity.uuid.iter().map(|b| format!("{b:02x}")).collect(),
        cluster: format!("{:016x}", identity.cluster),
        target: identity.target,
        kind: match target.params().kind {
            StoreKind::Cow => "copy-on-write",
            StoreKind::InPlace => "in place",
        },
        durability: match target.params().durability {
            Durability::Flush => "flush",
            Durability::Replicated => "replicated",
        },
        areas: target.areas(),
        checkpoint: target.checkpoint_at(),
        findings: target.findings.take().0,
    })
}
