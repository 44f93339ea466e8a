//! One version of a chunk: where its blocks lie, and the arithmetic of chunk checksums.
//!
//! A block's checksum covers all of its 4 KiB; the last block is zero-padded on disk. So growing a chunk touches no block,
//! and the checksum of a chunk is the fold of its blocks' checksums with the padding taken off again: `crc(A ++ 0^p)`
//! determines `crc(A)`, because appending zeroes multiplies by a power of x, which has an inverse. The fold is linear, so
//! a changed range costs its own blocks and not the chunk's (Adler, zlib `crc32_combine`).
//!
//! What must hold: extents are sorted, do not overlap, lie within the chunk; a block without an extent is a hole, reads
//! as zeroes, and has the checksum [`ZERO_BLOCK`].

use std::ops::Range;

use catena_types::crc::{combine, crc32c, fold, zeroes};
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    /// Length in bytes.
    pub(crate) len: u32,
    /// CRC-32C of these bytes.
    pub(crate) checksum: u32,
    /// Where the blocks are.
    pub(crate) extents: Vec<Extent>,
}

/// Blocks that hold `len` bytes.
pub(crate) fn blocks(len: u32) -> u32 {
    len.div_ceil(BLOCK)
}

/// Checksums of the blocks of `data`, whose length is a multiple of the block size.
pub(crate) fn block_crcs(data: &[u8]) -> impl Iterator<Item = u32> {
    data.chunks(BLOCK as usize).map(crc32c)
}

/// `crc(A)` from `crc(A ++ 0^pad)`.
pub(crate) fn unpad(padded: u32, pad: u64) -> u32 {
    if pad == 0 { padded } else { shift_back(padded ^ zeroes(pad), pad) }
}

fn shift_back(value: u32, len: u64) -> u32 {
    combine(value, 0, (ORDER - len % ORDER) % ORDER)
}

/// Checksum of the zero-padded whole blocks of a chunk of `len` bytes.
pub(crate) fn pad_checksum(len: u32, checksum: u32) -> u32 {
    let pad = u64::from(blocks(len)) * u64::from(BLOCK) - u64::from(len);
    combine(checksum, zeroes(pad), pad)
}

/// What an update changes: `count` blocks from `first` now lie at `runs`, and the chunk is `len` bytes long.
pub(crate) struct Change<'a> {
    /// New length in bytes.
    pub(crate) len: u32,
    /// First block written.
    pub(crate) first: u32,
    /// Blocks written.
    pub(crate) count: u32,
    /// Where they lie.
    pub(crate) runs: &'a [Run],
}

impl Change<'_> {
    /// The blocks written.
    pub(crate) fn written(&self) -> Range<u32> {
        self.first..self.first + self.count
    }
}

impl Version {
    /// The blocks whose old checksums [`Version::derived_checksum`] asks for: those written anew, and those a shorter
    /// chunk loses (or keeps, if these are fewer).
    pub(crate) fn needed(&self, change: &Change<'_>) -> [Range<u32>; 2] {
        let (old, new) = (blocks(self.len), blocks(change.len));
        let written = change.first.min(old)..(change.first + change.count).min(old);
        let cut = if new >= old {
            0..0
        } else if new <= old - new {
            0..new
        } else {
            new..old
        };
        [written, cut]
    }

    /// The checksum after a change: `old` gives the checksum of a block of this version, `new` are those written.
    pub(crate) fn derived_checksum(&self, change: &Change<'_>, old: impl Fn(u32) -> u32, new: &[u32]) -> u32 {
        let bytes = |n: u32| u64::from(n) * u64::from(BLOCK);
        let fold_old = |range: Range<u32>| range.fold(0, |sum, block| combine(sum, old(block), u64::from(BLOCK)));
        let mut sum = pad_checksum(self.len, self.checksum);
        let (had, has) = (blocks(self.len), blocks(change.len));
        if has > had {
            sum = combine(sum, zeroes(bytes(has - had)), bytes(has - had));
        } else if has < had && has <= had - has {
            sum = fold_old(0..has);
        } else if has < had {
            sum = shift_back(sum ^ fold_old(has..had), bytes(had - has));
        }
        let written = change.written();
        if !new.is_empty() {
            let before = written.clone().fold(0, |sum, block| {
                let crc = if block < had { old(block) } else { ZERO_BLOCK };
                combine(sum, crc, u64::from(BLOCK))
            });
            sum ^= combine(before ^ fold(new), 0, bytes(has - written.end));
        }
        unpad(sum, bytes(has) - u64::from(change.len))
    }

    /// The extents after a change.
    pub(crate) fn derived_extents(&self, change: &Change<'_>) -> Vec<Extent> {
        let written = change.written();
        let mut extents = Vec::with_capacity(self.extents.len() + change.runs.len() + 1);
        if written.is_empty() {
            self.clip(0, blocks(change.len), &mut extents);
            return extents;
        }
        self.clip(0, written.start, &mut extents);
        let mut logical = written.start;
        for run in change.runs {
            push(&mut extents, Extent { logical, len: run.len, disk: run.disk });
            logical += run.len;
        }
        self.clip(written.end, blocks(change.len), &mut extents);
        extents
    }

    /// Appends the parts of the extents within `[from, to)`.
    pub(crate) fn clip(&self, from: u32, to: u32, out: &mut Vec<Extent>) {
        // Those in the middle are neighbours of nobody new: they are copied at once.
        let inside = self.within(from, to);
        let Some((first, rest)) = inside.split_first() else { return };
        push(out, part(first, from, to));
        if let Some((last, middle)) = rest.split_last() {
            out.extend_from_slice(middle);
            out.push(part(last, from, to));
        }
    }

    /// The extents that have blocks within `[from, to)`.
    fn within(&self, from: u32, to: u32) -> &[Extent] {
        let start = self.extents.partition_point(|e| e.logical + e.len <= from);
        let behind = &self.extents[start..];
        &behind[..behind.partition_point(|e| e.logical < to && from < to)]
    }

    /// The blocks of this version that the next one does not have after a change whose blocks all lie at new places.
    pub(crate) fn freed_by(&self, change: &Change<'_>) -> Vec<Run> {
        let (written, end) = (change.written(), blocks(change.len));
        let gone = [written.start..written.end.min(end), end..u32::MAX];
        let parts = gone.into_iter().flat_map(|r| self.within(r.start, r.end).iter().map(move |e| part(e, r.start, r.end)));
        parts.map(|e| Run { disk: e.disk, len: e.len }).collect()
    }

    /// Where block `n` lies; `None` for a hole.
    pub(crate) fn find(&self, n: u32) -> Option<u64> {
        let i = self.extents.partition_point(|e| e.logical + e.len <= n);
        self.extents.get(i).filter(|e| e.logical <= n).map(|e| e.disk + u64::from(n - e.logical))
    }
}

/// Blocks of the extents that `others` do not use in the same place of the chunk.
pub(crate) fn not_in(extents: &[Extent], others: &[Extent]) -> Vec<Run> {
    let mut out = Vec::new();
    let mut others = others;
    for e in extents {
        let (mut at, end) = (e.logical, e.logical + e.len);
        while let Some(t) = others.first().filter(|t| t.logical < end) {
            let (from, to) = (t.logical.max(at), (t.logical + t.len).min(end));
            if from < to && u64::from(from - t.logical) + t.disk == u64::from(from - e.logical) + e.disk {
                release(&mut out, e, at, from);
                at = to;
            }
            if t.logical + t.len > end {
                break;
            }
            others = &others[1..];
        }
        release(&mut out, e, at, end);
    }
    out
}

/// The same blocks of a chunk at other places, in order.
pub(crate) fn relocated(extents: &[Extent], runs: &[Run]) -> Vec<Extent> {
    let mut out = Vec::new();
    let mut places = runs.iter().copied();
    let mut run = Run { disk: 0, len: 0 };
    for e in extents {
        let (mut logical, mut left) = (e.logical, e.len);
        while left > 0 {
            if run.len == 0 {
                let Some(next) = places.next() else { return out };
                run = next;
            }
            let len = left.min(run.len);
            push(&mut out, Extent { logical, len, disk: run.disk });
            run = Run { disk: run.disk + u64::from(len), len: run.len - len };
            (logical, left) = (logical + len, left - len);
        }
    }
    out
}

/// The part of an extent within `[from, to)`, where it has blocks.
fn part(e: &Extent, from: u32, to: u32) -> Extent {
    let (a, b) = (e.logical.max(from), (e.logical + e.len).min(to));
    Extent { logical: a, len: b - a, disk: e.disk + u64::from(a - e.logical) }
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
        let mut out = vec![0; blocks(v.len) as usize * b];
        for e in &v.extents {
            let n = e.len as usize * b;
            out[e.logical as usize * b..][..n].copy_from_slice(&disk[e.disk as usize * b..][..n]);
        }
        out
    }

    fn blocks_of(runs: &[Run]) -> Vec<u64> {
        let mut all: Vec<u64> = runs.iter().flat_map(|r| r.disk..r.disk + u64::from(r.len)).collect();
        all.sort_unstable();
        all
    }

    fn mapped(v: &Version) -> u64 {
        v.extents.iter().map(|e| u64::from(e.len)).sum()
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
                let change = Change { len, first, count: n, runs: &runs };
                let old: Vec<u32> = block_crcs(&bytes_of(&v, &disk)).collect();
                let needed = v.needed(&change);
                let ask = |block: u32| {
                    assert!(needed.iter().any(|r| r.contains(&block)), "block {block} was not announced");
                    old[block as usize]
                };
                let checksum = v.derived_checksum(&change, ask, &crcs);
                let next = Version { len, checksum, extents: v.derived_extents(&change) };
                prop_assert_eq!(&bytes_of(&next, &disk)[..len as usize], &plain[..]);
                prop_assert_eq!(next.checksum, crc32c(&plain));
                for run in not_in(&v.extents, &next.extents) {
                    for d in run.disk..run.disk + u64::from(run.len) {
                        prop_assert!(!next.extents.iter().any(|e| (e.disk..e.disk + u64::from(e.len)).contains(&d)));
                    }
                }
                let freed: u64 = not_in(&v.extents, &next.extents).iter().map(|r| u64::from(r.len)).sum();
                prop_assert_eq!(mapped(&v) + u64::from(n), mapped(&next) + freed);
                prop_assert_eq!(blocks_of(&not_in(&v.extents, &next.extents)), blocks_of(&v.freed_by(&change)));
                prop_assert!(next.extents.iter().all(|e| e.len > 0));
                let joined = |w: &[Extent]| w[0].logical + w[0].len == w[1].logical && w[0].disk + u64::from(w[0].len) == w[1].disk;
                prop_assert!(!next.extents.windows(2).any(joined));
                v = next;
            }
        }
    }
}
