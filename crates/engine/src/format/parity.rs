//! One block of parity beside every structure, so that one bad sector in it costs nothing.
//!
//! The blocks `b0 b1 … bn` of a structure (a journal append, an index leaf, a checkpoint slice) are stored as
//! `b0 p b1 … bn`, where `p` is the exclusive or of all of them. A structure of one block is therefore stored twice. Which
//! block is bad, if one is, is found by trying: the structure's own checksum says when it is right. A lost first block
//! does not tell how long the structure is: then every length is tried.

use catena_types::limits::BLOCK;

use crate::mutation::{Mutation, is};

const B: usize = BLOCK as usize;

/// Blocks on disk of a structure of `bytes` bytes.
pub(crate) fn stored_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(B as u64) + 1
}

/// Fills in the parity (the second block) of `stored`: whole blocks, as laid out on disk.
pub(crate) fn fill(stored: &mut [u8]) {
    let (first, rest) = stored.split_at_mut(B);
    let (parity, rest) = rest.split_at_mut(B);
    if is(Mutation::SkipParity) {
        return parity.fill(0);
    }
    parity.copy_from_slice(first);
    rest.chunks_exact(B).for_each(|block| xor(parity, block));
}

/// Whether `stored`, a structure of `bytes` bytes that checks, has the parity and the padding it was written with.
pub(crate) fn is_right(stored: &[u8], bytes: usize) -> bool {
    let mut all = [0; B];
    stored.chunks_exact(B).for_each(|block| xor(&mut all, block));
    // The parity takes the place of one block.
    let padding = if bytes <= B { &stored[bytes..B] } else { &stored[B + bytes..] };
    is_zero(&all) && is_zero(padding)
}

/// Many bytes at a time: it is asked of every block of a journal.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|part| part.iter().fold(0, |any, b| any | b) == 0)
}

/// `bytes` as laid out on disk: padded to whole blocks, with the parity.
pub(crate) fn protect(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; stored_blocks(bytes.len() as u64) as usize * B];
    place(bytes, &mut out);
    fill(&mut out);
    out
}

/// Copies `bytes` around the place of the parity; what is behind them is zeroed.
pub(crate) fn place(bytes: &[u8], out: &mut [u8]) {
    let head = bytes.len().min(B);
    out[..head].copy_from_slice(&bytes[..head]);
    out[head..B].fill(0);
    let rest = &bytes[head..];
    out[2 * B..2 * B + rest.len()].copy_from_slice(rest);
    out[2 * B + rest.len()..].fill(0);
}

/// What a structure's own checks say of its blocks (without the parity).
pub(crate) enum Check<T> {
    /// It is whole; so many blocks belong to it.
    Good(T, usize),
    /// The first block says that the structure has so many blocks, and it does not check.
    Bad(usize),
    /// The first block is not one.
    NoStart,
}

/// Reads the structure at the start of `stored`, which may be followed by anything; mends one bad block. Also says
/// whether it had to. `check` is given the blocks without the parity.
pub(crate) fn read<T>(stored: &[u8], mut check: impl FnMut(&[u8]) -> Check<T>) -> Option<(T, usize, bool)> {
    let stored = &stored[..stored.len() / B * B];
    if stored.len() < 2 * B {
        return None;
    }
    let mut plain = Vec::with_capacity(stored.len() - B);
    plain.extend_from_slice(&stored[..B]);
    plain.extend_from_slice(&stored[2 * B..]);
    let parity = &stored[B..2 * B];
    match check(&plain) {
        Check::Good(found, blocks) => Some((found, blocks + 1, false)),
        Check::Bad(blocks) => mend_one(&mut plain, parity, blocks, &mut check),
        Check::NoStart => None,
    }
    .or_else(|| mend_first(&mut plain, parity, &mut check))
}

/// Tries every block but the first.
fn mend_one<T>(
    plain: &mut [u8],
    parity: &[u8],
    blocks: usize,
    check: &mut impl FnMut(&[u8]) -> Check<T>,
) -> Option<(T, usize, bool)> {
    if blocks * B > plain.len() {
        return None;
    }
    let mut all = parity.to_vec();
    plain[..blocks * B].chunks_exact(B).for_each(|block| xor(&mut all, block));
    for n in 1..blocks {
        // `all` is now the difference between what one bad block is and what it was.
        xor(&mut plain[n * B..(n + 1) * B], &all);
        if let Check::Good(found, blocks) = check(plain) {
            return Some((found, blocks + 1, true));
        }
        xor(&mut plain[n * B..(n + 1) * B], &all);
    }
    None
}

/// Takes the first block as lost: what it was, for every length there may be.
fn mend_first<T>(plain: &mut [u8], parity: &[u8], check: &mut impl FnMut(&[u8]) -> Check<T>) -> Option<(T, usize, bool)> {
    let mut first = parity.to_vec();
    for n in 1..=plain.len() / B {
        if n > 1 {
            xor(&mut first, &plain[(n - 1) * B..n * B]);
        }
        plain[..B].copy_from_slice(&first);
        match check(plain) {
            Check::Good(found, blocks) if blocks == n => return Some((found, n + 1, true)),
            _ => {}
        }
    }
    None
}

/// Blocks on disk of the structure at the start of `stored` whose first block is lost: `starts` says of the first `head`
/// bytes of a first block how many there are of its structure, and there are such that the parity agrees with.
pub(crate) fn lost_first(stored: &[u8], head: usize, starts: impl Fn(&[u8]) -> Option<u32>) -> Option<u32> {
    let mut heads = stored.chunks_exact(B).skip(1).map(|block| &block[..head]);
    let mut first = heads.next()?.to_vec();
    let mut count = 2;
    loop {
        if starts(&first) == Some(count) {
            return Some(count);
        }
        xor(&mut first, heads.next()?);
        count += 1;
    }
}

fn xor(into: &mut [u8], with: &[u8]) {
    into.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_types::crc::crc32c;

    /// A structure: length in bytes, checksum of the rest, and the rest.
    fn structure(n: usize) -> Vec<u8> {
        let body: Vec<u8> = (0..n as u32).map(|i| (i * 7 + i / 251) as u8).collect();
        [&(n as u32).to_le_bytes()[..], &crc32c(&body).to_le_bytes(), &body].concat()
    }

    fn check(plain: &[u8]) -> Check<Vec<u8>> {
        let n = u32::from_le_bytes(plain[..4].try_into().unwrap()) as usize;
        let crc = u32::from_le_bytes(plain[4..8].try_into().unwrap());
        if n > 1 << 20 {
            return Check::NoStart;
        }
        match plain.get(8..8 + n) {
            Some(body) if crc32c(body) == crc => Check::Good(body.to_vec(), (8 + n).div_ceil(B)),
            _ => Check::Bad((8 + n).div_ceil(B)),
        }
    }

    #[test]
    fn one_bad_block_costs_nothing_and_two_are_refused() {
        for n in [1, 4000, 4089, 9000, 40000] {
            let good = protect(&structure(n));
            let blocks = good.len() / B;
            let mut padded = good.clone();
            padded.extend_from_slice(&[0x5a; 3 * B]);
            let (body, stored, mended) = read(&padded, check).unwrap();
            assert_eq!((body.len(), stored, mended), (n, blocks, false));
            assert!(is_right(&good, n + 8));
            let starts = |first: &[u8]| (first == &good[..64]).then_some(blocks as u32);
            let lost = [&[0xff; B][..], &padded[B..]].concat();
            assert_eq!(lost_first(&lost, 64, starts), Some(blocks as u32));
            for bad in 0..blocks {
                let mut hit = padded.clone();
                hit[bad * B..bad * B + 512].fill(0xff);
                let (found, stored, mended) = read(&hit, check).unwrap();
                assert_eq!((found == body, stored, mended), (true, blocks, bad != 1), "{n} bytes, block {bad}");
                assert!(!is_right(&hit[..good.len()], n + 8), "{n} bytes, block {bad}");
            }
            if blocks > 2 {
                let mut hit = padded.clone();
                hit[10] ^= 1;
                hit[2 * B + 10] ^= 1;
                assert!(read(&hit, check).is_none());
            }
        }
    }
}
