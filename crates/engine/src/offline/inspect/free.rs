//! The free space: how much there is, and in what pieces.

use serde::Serialize;

use super::super::owners::owned;
use super::super::{BLOCK64, Finding, Medium, Target};
use crate::error::OpenError;

/// The free space of the data area.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FreeView {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that have an owner.
    pub used: u64,
    /// Bytes that have none.
    pub free: u64,
    /// Pieces of free space.
    pub pieces: u64,
    /// The largest of them in bytes.
    pub largest: u64,
    /// Pieces by size.
    pub stretches: Vec<StretchView>,
    /// Committed chunks.
    pub chunks: u64,
    /// Their extents: as many as chunks with data, if none is fragmented.
    pub extents: u64,
    /// Extents of the most fragmented chunk.
    pub most_extents: u64,
    /// What was found wrong on the way.
    pub findings: Vec<Finding>,
}

/// Pieces of free space of about one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StretchView {
    /// From so many bytes to less than twice as many.
    pub from: u64,
    /// How many there are.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Shows the free space.
///
/// # Errors
/// Why there is nothing to show.
pub fn free(medium: &dyn Medium) -> Result<FreeView, OpenError> {
    let target = Target::open(medium)?;
    let (model, _) = target.load();
    target.check_owners(&model);
    let total = target.params().blocks();
    let mut by_size = [StretchView::default(); 64];
    let (mut free, mut pieces, mut largest, mut at) = (0, 0, 0, 0);
    let mut add = |len: u64| {
        if len > 0 {
            let class = &mut by_size[len.ilog2() as usize];
            *class = StretchView { from: 0, pieces: class.pieces + 1, bytes: class.bytes + len * BLOCK64 };
            (free, pieces, largest) = (free + len, pieces + 1, largest.max(len));
        }
    };
    for own in owned(&model) {
        add(own.disk.min(total).saturating_sub(at));
        at = at.max(own.disk.saturating_add(own.len)).min(total);
    }
    add(total - at);
    let sized = by_size.into_iter().enumerate().filter(|(_, class)| class.pieces > 0);
    let stretches = sized.map(|(n, class)| StretchView { from: BLOCK64 << n, ..class }).collect();
    let extents = || model.chunks.values().map(|item| item.extents.len() as u64);
    Ok(FreeView {
        total: total * BLOCK64,
        used: (total - free) * BLOCK64,
        free: free * BLOCK64,
        pieces,
        largest: largest * BLOCK64,
        stretches,
        chunks: model.chunks.len() as u64,
        extents: extents().sum(),
        most_extents: extents().max().unwrap_or(0),
        findings: target.findings.take().0,
    })
}
