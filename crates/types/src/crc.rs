//! CRC-32C, and the checksum of a concatenation from the checksums of its parts.
//!
//! Combining multiplies by a power of x modulo the polynomial (Mark Adler's `crc32_combine`, zlib), with the powers in
//! a table made at compile time. The crates' own `combine` builds matrices at run time and costs about 10 µs; this one
//! costs well under 1 µs.

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

/// Checksum of `len` zero bytes.
pub fn zeroes(len: u64) -> u32 {
    // crc(0^n) = shift(init, n) ^ xorout, both all-ones.
    shift(u32::MAX, len) ^ u32::MAX
}

/// `a * x^(8 len)` modulo the polynomial.
fn shift(a: u32, len: u64) -> u32 {
    let mut product = a;
    let mut len = len;
    let mut power = 3; // x^(2^3) = x^8: one byte
    while len != 0 {
        if len & 1 == 1 {
            product = multiply(POWERS[power % 31], product);
        }
        len >>= 1;
        power += 1;
    }
    product
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

/// `x^(2^n)` modulo the polynomial. Its order divides 2^31 - 1 (it is x + 1 times a primitive polynomial of degree 31),
/// so that the powers repeat after 31.
const POWERS: [u32; 31] = {
    let mut table = [0; 31];
    let mut power = 1u32 << 30; // x^1
    let mut n = 0;
    while n < 31 {
        table[n] = power;
        power = multiply(power, power);
        n += 1;
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
        for len in [1usize, 7, 4095, 4096, 65536, 1 << 20, 64 << 20] {
            assert_eq!(zeroes(len as u64), crc32c(&vec![0; len]), "length {len}");
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
