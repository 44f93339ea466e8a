//! One version of a chunk: where its blocks lie, their checksums, and the arithmetic of chunk checksums.
//!
//! A block's checksum covers all of its 4 KiB; the last block is zero-padded on disk. So growing a chunk touches no block,
//! and the checksum of a chunk is the fold of its blocks' checksums with the padding taken off again: `crc(A ++ 0^p)`
//! determines `crc(A)`, because appending zeroes multiplies by a power of x, which has an inverse. The fold is linear, so
//! a changed range costs its own blocks and not the chunk's (Adler, zlib `crc32_combine`).
//!
//! What must hold: extents are sorted, do not overlap, lie within the chunk; a block without an extent is a hole, reads
//! as zeroes, and carries [`ZERO_BLOCK`].

use std::cell::RefCell;

use bytes::Bytes;
use catena_types::crc::{combine, crc32c, zeroes};
use catena_types::limits::BLOCK;

use crate::alloc::Run;

/// CRC-32C of 4096 zero bytes.
pub(crate) const ZERO_BLOCK: u32 = 0x98f9_4189;
/// Order of x modulo the CRC-32C polynomial.
const ORDER: u64 = (1 << 31) - 1;

/// A run of a chunk's blocks that lie side by side on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First block, counted from the start of the chunk.
    pub(crate) logical: u32,
    /// Number of blocks.
    pub(crate) len: u32,
    /// First block in the data area.
    pub(crate) disk: u64,
}

/// One version's contents.
#[derive(Debug, Default)]
pub(crate) struct Version {
    /// Length in bytes.
    pub(crate) len: u32,
    /// CRC-32C of these bytes.
    pub(crate) checksum: u32,
    /// Where the blocks are.
    pub(crate) extents: Vec<Extent>,
    /// Checksum of every block, holes included.
    pub(crate) crcs: Vec<u32>,
    /// The bytes, while their blocks are not on disk yet.
    pub(crate) cached: RefCell<Option<Bytes>>,
}

/// Blocks that hold `len` bytes.
pub(crate) fn blocks(len: u32) -> u32 {
    len.div_ceil(BLOCK)
}

/// Checksums of the blocks of `data`, whose length is a multiple of the block size.
pub(crate) fn block_crcs(data: &[u8]) -> impl Iterator<Item = u32> {
    data.chunks(BLOCK as usize).map(crc32c)
}

/// Checksum of blocks side by side from theirs.
pub(crate) fn fold(crcs: &[u32]) -> u32 {
    crcs.iter().fold(0, |sum, &crc| combine(sum, crc, u64::from(BLOCK)))
}

/// `crc(A)` from `crc(A ++ 0^pad)`.
pub(crate) fn unpad(padded: u32, pad: u64) -> u32 {
    if pad == 0 { padded } else { shift_back(padded ^ zeroes(pad), pad) }
}

fn shift_back(value: u32, len: u64) -> u32 {
    combine(value, 0, (ORDER - len % ORDER) % ORDER)
}

/// Checksum of the zero-padded whole blocks of a chunk, and how that changes.
fn padded(len: u32, checksum: u32) -> u32 {
    let pad = u64::from(blocks(len)) * u64::from(BLOCK) - u64::from(len);
    combine(checksum, zeroes(pad), pad)
}

/// What an update changes: `crcs.len()` blocks from `first` now lie at `runs`, and the chunk is `len` bytes long.
pub(crate) struct Change<'a> {
    /// New length in bytes.
    pub(crate) len: u32,
    /// First block written.
    pub(crate) first: u32,
    /// Where they lie.
    pub(crate) runs: &'a [Run],
    /// Their checksums.
    pub(crate) crcs: &'a [u32],
}

impl Version {
    /// This version with a change; the checksum is derived from this one's and the blocks'.
    pub(crate) fn derive(&self, change: &Change<'_>) -> Version {
        let n = blocks(change.len) as usize;
        let mut crcs = Vec::with_capacity(n);
        crcs.extend_from_slice(&self.crcs[..self.crcs.len().min(n)]);
        crcs.resize(n, ZERO_BLOCK);
        let checksum = self.derived_checksum(change, &crcs);
        let first = change.first as usize;
        crcs[first..first + change.crcs.len()].copy_from_slice(change.crcs);
        Version { len: change.len, checksum, extents: self.derived_extents(change), crcs, cached: RefCell::new(None) }
    }

    /// `before` are the new version's block checksums without the written ones.
    fn derived_checksum(&self, change: &Change<'_>, before: &[u32]) -> u32 {
        let bytes = |n: usize| n as u64 * u64::from(BLOCK);
        let mut sum = padded(self.len, self.checksum);
        let (old, new) = (self.crcs.len(), before.len());
        if new > old {
            sum = combine(sum, zeroes(bytes(new - old)), bytes(new - old));
        } else if new < old && new <= old - new {
            sum = fold(before);
        } else if new < old {
            sum = shift_back(sum ^ fold(&self.crcs[new..]), bytes(old - new));
        }
        if !change.crcs.is_empty() {
            let first = change.first as usize;
            let end = first + change.crcs.len();
            let delta = fold(&before[first..end]) ^ fold(change.crcs);
            sum ^= combine(delta, 0, bytes(new - end));
        }
        unpad(sum, bytes(new) - u64::from(change.len))
    }

    fn derived_extents(&self, change: &Change<'_>) -> Vec<Extent> {
        let (first, end) = (change.first, change.first + change.crcs.len() as u32);
        let mut extents = Vec::with_capacity(self.extents.len() + change.runs.len() + 1);
        if change.crcs.is_empty() {
            self.clip(0, blocks(change.len), &mut extents);
            return extents;
        }
        self.clip(0, first, &mut extents);
        let mut logical = first;
        for run in change.runs {
            push(&mut extents, Extent { logical, len: run.len, disk: run.disk });
            logical += run.len;
        }
        self.clip(end, blocks(change.len), &mut extents);
        extents
    }

    /// Appends the parts of the extents within `[from, to)`.
    pub(crate) fn clip(&self, from: u32, to: u32, out: &mut Vec<Extent>) {
        let start = self.extents.partition_point(|e| e.logical + e.len <= from);
        for e in &self.extents[start..] {
            let (a, b) = (e.logical.max(from), (e.logical + e.len).min(to));
            if a >= b {
                break;
            }
            push(out, Extent { logical: a, len: b - a, disk: e.disk + u64::from(a - e.logical) });
        }
    }

    /// Where block `n` lies; `None` for a hole.
    pub(crate) fn find(&self, n: u32) -> Option<u64> {
        let i = self.extents.partition_point(|e| e.logical + e.len <= n);
        self.extents.get(i).filter(|e| e.logical <= n).map(|e| e.disk + u64::from(n - e.logical))
    }

    /// Blocks of this version that `other` does not use in the same place.
    pub(crate) fn not_in(&self, other: Option<&Version>) -> Vec<Run> {
        let mut out = Vec::new();
        let Some(other) = other else {
            return self.extents.iter().map(|e| Run { disk: e.disk, len: e.len }).collect();
        };
        let mut theirs = Vec::new();
        for e in &self.extents {
            theirs.clear();
            other.clip(e.logical, e.logical + e.len, &mut theirs);
            let mut at = e.logical;
            for t in &theirs {
                let mine = e.disk + u64::from(t.logical - e.logical);
                if t.disk == mine {
                    release(&mut out, e, at, t.logical);
                    at = t.logical + t.len;
                }
            }
            release(&mut out, e, at, e.logical + e.len);
        }
        out
    }

    /// Blocks on disk.
    pub(crate) fn mapped(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.len)).sum()
    }
}

fn release(out: &mut Vec<Run>, e: &Extent, from: u32, to: u32) {
    if from < to {
        out.push(Run { disk: e.disk + u64::from(from - e.logical), len: to - from });
    }
}

fn push(extents: &mut Vec<Extent>, e: Extent) {
    match extents.last_mut() {
        Some(last) if last.logical + last.len == e.logical && last.disk + u64::from(last.len) == e.disk => last.len += e.len,
        _ => extents.push(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_block_is_its_checksum() {
        assert_eq!(ZERO_BLOCK, crc32c(&[0; 4096]));
    }

    fn bytes_of(v: &Version, disk: &[u8]) -> Vec<u8> {
        let b = BLOCK as usize;
        let mut out = vec![0; v.crcs.len() * b];
        for e in &v.extents {
            let n = e.len as usize * b;
            out[e.logical as usize * b..][..n].copy_from_slice(&disk[e.disk as usize * b..][..n]);
        }
        out
    }

    proptest! {
        /// Random block-wise changes against a byte array: bytes, block checksums, the folded checksum and what is freed.
        #[test]
        fn derive_agrees_with_bytes(ops in proptest::collection::vec((0u32..9, 0u32..5, 0u32..5000, any::<u8>()), 1..12)) {
            let b = BLOCK as usize;
            let mut disk: Vec<u8> = Vec::new();
            let mut v = Version::default();
            let mut plain: Vec<u8> = Vec::new();
            for (first, n, slack, fill) in ops {
                let end = (first + n) * BLOCK;
                // The last byte written decides the length, or a cut/extension where nothing is written.
                let len = if n == 0 { first * BLOCK } else { v.len.max(end - slack.min(BLOCK - 1)) };
                let mut data = vec![fill; n as usize * b];
                if n > 0 && len < end {
                    let keep = (len - first * BLOCK) as usize;
                    data[keep..].fill(0);
                }
                plain.resize(len as usize, 0);
                let upto = (len as usize).min(end as usize);
                if n > 0 {
                    let from = (first * BLOCK) as usize;
                    plain[from..upto].copy_from_slice(&data[..upto - from]);
                }
                let mut runs = Vec::new();
                for i in 0..n {
                    // Leave a gap now and then, so that runs are fragmented.
                    if i % 2 == 1 { disk.extend_from_slice(&vec![0xee; b]); }
                    runs.push(Run { disk: (disk.len() / b) as u64, len: 1 });
                    disk.extend_from_slice(&data[i as usize * b..][..b]);
                }
                let crcs: Vec<u32> = block_crcs(&data).collect();
                let next = v.derive(&Change { len, first, runs: &runs, crcs: &crcs });
                prop_assert_eq!(&bytes_of(&next, &disk)[..len as usize], &plain[..]);
                prop_assert_eq!(next.checksum, crc32c(&plain));
                prop_assert_eq!(&next.crcs, &block_crcs(&bytes_of(&next, &disk)).collect::<Vec<_>>());
                for run in v.not_in(Some(&next)) {
                    for d in run.disk..run.disk + u64::from(run.len) {
                        prop_assert!(!next.extents.iter().any(|e| (e.disk..e.disk + u64::from(e.len)).contains(&d)));
                    }
                }
                let freed: u64 = v.not_in(Some(&next)).iter().map(|r| u64::from(r.len)).sum();
                prop_assert_eq!(v.mapped() + u64::from(n), next.mapped() + freed);
                v = next;
            }
        }
    }
}
