//! A logical stream of bytes cut into chunks of one size.

/// The part of a range that lies in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Number of the chunk, from 0.
    pub index: u64,
    /// First byte within the chunk.
    pub offset: u32,
    /// Bytes within the chunk; never 0.
    pub len: u32,
}

/// Cuts the range of `len` bytes at `offset` into its pieces, in order. Bytes past the last one a `u64` can name are left
/// out, and so is everything if `chunk_size` is 0.
pub fn split(offset: u64, len: u64, chunk_size: u32) -> impl Iterator<Item = Piece> {
    let size = u64::from(chunk_size);
    let end = if size == 0 { offset } else { offset.saturating_add(len) };
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let within = at % size;
        let len = (size - within).min(end - at);
        let piece = Piece { index: at / size, offset: within as u32, len: len as u32 };
        at += len;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_hundred_kilobytes_in_four_chunks() {
        let pieces: Vec<_> = split(0, 200 << 10, 64 << 10).map(|p| (p.index, p.offset, p.len)).collect();
        assert_eq!(pieces, [(0, 0, 64 << 10), (1, 0, 64 << 10), (2, 0, 64 << 10), (3, 0, 8 << 10)]);
    }

    #[test]
    fn edges() {
        assert_eq!(split(7, 0, 4096).count(), 0);
        assert_eq!(split(7, 9, 0).count(), 0);
        assert_eq!(split(4095, 2, 4096).collect::<Vec<_>>().len(), 2);
        assert_eq!(split(u64::MAX - 1, 10, 4096).map(|p| u64::from(p.len)).sum::<u64>(), 1);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_once(offset in 0u64..1 << 40, len in 0u64..1 << 20, blocks in 1u32..64) {
            let size = blocks * 4096;
            let mut at = offset;
            for p in split(offset, len, size) {
                prop_assert!(p.len > 0 && p.offset + p.len <= size);
                prop_assert_eq!(p.index * u64::from(size) + u64::from(p.offset), at);
                at += u64::from(p.len);
            }
            prop_assert_eq!(at, offset + len);
        }
    }
}
