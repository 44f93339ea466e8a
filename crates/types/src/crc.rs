//! CRC-32C, and the checksum of a concatenation from the checksums of its parts.
//!
//! Combining multiplies by a power of x modulo the polynomial (Mark Adler's `crc32_combine`, zlib), with the powers in
//! tables made at compile time. The crates' own `combine` builds matrices at run time and costs about 10 µs; this one
//! costs a multiplication (some 50 ns) for every byte of the length.

use std::sync::Arc;

use crate::limits::BLOCK;

/// The Castagnoli polynomial, bit-reflected.
const POLY: u32 = 0x82f6_3b78;

/// CRC-32C of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// Checksum of the concatenation `a ++ b` from `crc(a)`, `crc(b)` and the length of `b` in bytes.
pub fn combine(a: u32, b: u32, b_len: u64) -> u32 {
    shift(a, b_len) ^ b
}

/// Checksum of `data` and of each of its blocks of [`BLOCK`] bytes, the last one possibly short, in one pass.
pub fn with_blocks(data: &[u8]) -> (u32, Arc<[u32]>) {
    let sums: Arc<[u32]> = data.chunks(BLOCK as usize).map(crc32c).collect();
    let rest = data.len() % BLOCK as usize;
    let crc = match sums.split_last() {
        Some((&last, whole)) if rest > 0 => combine(fold(whole), last, rest as u64),
        _ => fold(&sums),
    };
    (crc, sums)
}

/// Checksum of whole blocks side by side from theirs.
pub fn fold(blocks: &[u32]) -> u32 {
    blocks.iter().fold(0, |sum, &crc| {
        let bytes = sum.to_le_bytes().into_iter().map(usize::from);
        BLOCK_SHIFTS.iter().zip(bytes).fold(crc, |sum, (products, byte)| sum ^ products[byte])
    })
}

/// Checksum of `len` zero bytes.
pub fn zeroes(len: u64) -> u32 {
    // crc(0^n) = shift(init, n) ^ xorout, both all-ones.
    shift(u32::MAX, len) ^ u32::MAX
}

/// `a * x^(8 len)` modulo the polynomial.
fn shift(a: u32, len: u64) -> u32 {
    let bytes = len.to_le_bytes().into_iter().map(usize::from);
    let steps = SHIFTS.iter().zip(bytes).filter(|(_, byte)| *byte != 0);
    steps.fold(a, |product, (powers, byte)| multiply(powers[byte], product))
}

/// `a * b` modulo the polynomial, reflected.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1u32 << 31;
    while bit != 0 {
        // Without branches on the data: the compiler turns these into masks.
        product ^= b & 0u32.wrapping_sub((a & bit != 0) as u32);
        b = (b >> 1) ^ (POLY & 0u32.wrapping_sub(b & 1));
        bit >>= 1;
    }
    product
}

/// `x^(8 n 256^k)` modulo the polynomial, for byte `k` of a length and its value `n`: a length costs as many
/// multiplications as it has bytes that are not zero.
static SHIFTS: [[u32; 256]; 8] = {
    let mut table = [[1 << 31; 256]; 8]; // x^0
    let mut step = 1 << 23; // x^8: one byte
    let mut k = 0;
    while k < 8 {
        let mut n = 1;
        while n < 256 {
            table[k][n] = multiply(table[k][n - 1], step);
            n += 1;
        }
        step = multiply(table[k][255], step);
        k += 1;
    }
    table
};

/// `b * 256^k * x^(8 BLOCK)` for every byte `b` of a checksum: what [`fold`] multiplies by, a thousand times per chunk.
static BLOCK_SHIFTS: [[u32; 256]; 4] = {
    let mut table = [[0; 256]; 4];
    let mut power = 1 << 31; // x^0
    let mut doublings = 0;
    let mut step = 1 << 23; // x^8: one byte
    while BLOCK >> doublings > 0 {
        if BLOCK >> doublings & 1 == 1 {
            power = multiply(power, step);
        }
        step = multiply(step, step);
        doublings += 1;
    }
    let mut k = 0;
    while k < 4 {
        let mut b = 0;
        while b < 256 {
            table[k][b] = multiply((b as u32) << (8 * k), power);
            b += 1;
        }
        k += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(zeroes(32), 0x8a91_36aa);
        assert_eq!(crc32c(b""), 0);
        assert_eq!(zeroes(0), 0);
    }

    #[test]
    fn zeroes_of_many_lengths() {
        for len in [1usize, 7, 255, 256, 4095, 4096, 65536, 1 << 20, 64 << 20] {
            assert_eq!(zeroes(len as u64), crc32c(&vec![0; len]), "length {len}");
        }
    }

    #[test]
    fn lengths_add_up() {
        // The order of x is 2^31 - 1, and lengths count bytes, that is x^8, whose order is the same.
        let order = (1 << 31) - 1;
        for len in [1, 4096, 0x1234_5678, order - 1, (1 << 32) + 5, 1 << 40, u64::MAX / 2] {
            assert_eq!(shift(0xdead_beef, len), shift(0xdead_beef, len % order), "length {len}");
            assert_eq!(shift(shift(7, len), 1000), shift(7, len + 1000), "length {len}");
        }
    }

    #[test]
    fn one_pass_finds_the_sums_of_the_blocks_and_of_the_whole() {
        let data: Vec<u8> = (0..5 * BLOCK + 77).map(|n| ((n * n) >> 5) as u8).collect();
        for len in [0, 1, 4095, 4096, 4097, 8192, data.len()] {
            let (crc, sums) = with_blocks(&data[..len]);
            assert_eq!(crc, crc32c(&data[..len]), "length {len}");
            assert_eq!(sums[..], data[..len].chunks(4096).map(crc32c).collect::<Vec<_>>(), "length {len}");
        }
    }

    proptest! {
        #[test]
        fn combine_equals_checksum_of_concatenation(a: Vec<u8>, b: Vec<u8>) {
            let whole = [a.as_slice(), b.as_slice()].concat();
            prop_assert_eq!(combine(crc32c(&a), crc32c(&b), b.len() as u64), crc32c(&whole));
        }
    }
}
