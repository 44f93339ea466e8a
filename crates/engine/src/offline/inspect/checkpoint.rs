//! The checkpoint: its slices, the index leaves it names, and how much of everything it has.

use serde::Serialize;

use super::super::{Finding, Medium, Target};
use super::CheckpointAt;
use crate::error::OpenError;
use crate::format::slice::CheckpointItem;

/// The checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointView {
    /// Where it is.
    pub at: CheckpointAt,
    /// Its slices, in order.
    pub slices: Vec<SliceView>,
    /// The index leaves, in key order.
    pub leaves: Vec<LeafView>,
    /// Committed chunks in them.
    pub chunks: u64,
    /// Staged updates.
    pub staged: u64,
    /// Session rows.
    pub sessions: u64,
    /// Blocks of committed chunks that are not at their place (stores in place).
    pub redo_blocks: u64,
    /// The remove floor.
    pub remove_floor: u64,
    /// Scrub passes completed.
    pub scrub_passes: u64,
    /// What was found wrong.
    pub findings: Vec<Finding>,
}

/// A slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SliceView {
    /// Where, in bytes.
    pub offset: u64,
    /// Its size on disk, the parity included.
    pub bytes: u64,
    /// Items in it.
    pub items: u64,
}

/// An index leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeafView {
    /// Where, in bytes.
    pub offset: u64,
    /// Blocks of the index area, the parity included, in as many pieces.
    pub blocks: u64,
    /// Pieces.
    pub pieces: usize,
    /// Bytes of entries.
    pub bytes: u32,
    /// Chunks in it.
    pub chunks: u64,
    /// The least and the greatest key.
    pub keys: Option<(String, String)>,
}

/// Shows the checkpoint.
///
/// # Errors
/// Why there is nothing to show.
pub fn checkpoint(medium: &dyn Medium) -> Result<CheckpointView, OpenError> {
    let target = Target::open(medium)?;
    let mut view = CheckpointView {
        at: target.checkpoint_at(),
        slices: Vec::new(),
        leaves: Vec::new(),
        chunks: 0,
        staged: 0,
        sessions: 0,
        redo_blocks: 0,
        remove_floor: 0,
        scrub_passes: 0,
        findings: Vec::new(),
    };
    let mut leaves = Vec::new();
    let mut slices = Vec::new();
    target.slices(
        &mut |slice| slices.push(SliceView { offset: slice.offset, bytes: slice.stored, items: slice.items }),
        &mut |item| match item {
            CheckpointItem::Floor(floor) => view.remove_floor = floor,
            CheckpointItem::Session(..) => view.sessions += 1,
            CheckpointItem::Staged(..) => view.staged += 1,
            CheckpointItem::Leaf(leaf) => leaves.push(leaf),
            CheckpointItem::Scrub(mark) => view.scrub_passes = mark.passes,
            CheckpointItem::Redo(_, held) => view.redo_blocks += held.iter().map(|h| h.blocks()).sum::<u64>(),
        },
    );
    target.leaves(&leaves, &mut |leaf| {
        view.chunks += leaf.chunks.len() as u64;
        let key = |n: usize| leaf.chunks.get(n).map(|(key, _)| key.to_string());
        view.leaves.push(LeafView {
            offset: leaf.offset,
            blocks: leaf.named.runs.iter().map(|r| u64::from(r.len)).sum(),
            pieces: leaf.named.runs.len(),
            bytes: leaf.named.bytes,
            chunks: leaf.chunks.len() as u64,
            keys: key(0).zip(key(leaf.chunks.len().saturating_sub(1))),
        });
    });
    view.slices = slices;
    view.findings = target.findings.take().0;
    Ok(view)
}
