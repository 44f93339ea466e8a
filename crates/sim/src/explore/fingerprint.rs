//! A fast hash of 64 bits, good enough that different states get different ones.

use std::hash::{Hash, Hasher};

const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
const OTHER: u64 = 0xD6E8_FEB8_6659_FD93;

/// Multiplies to 128 bits and folds them, once per word.
struct Fold(u64);

impl Fold {
    fn word(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(OTHER);
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(ODD).rotate_left(23);
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        let product = u128::from(self.0 ^ ODD) * u128::from(OTHER);
        product as u64 ^ (product >> 64) as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(bytes.len() as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.word(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.word(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }
}

/// The fingerprint of anything.
pub(super) fn fingerprint(value: &impl Hash) -> u64 {
    let mut fold = Fold(ODD);
    value.hash(&mut fold);
    fold.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::fingerprint;

    #[test]
    fn close_values_have_different_prints() {
        let pairs = (0..1000u64).flat_map(|a| (0..1000u64).map(move |b| (a, b)));
        let prints: BTreeSet<u64> = pairs.map(|pair| fingerprint(&pair)).collect();
        assert_eq!(prints.len(), 1_000_000);
        assert_ne!(fingerprint(&[1u8, 0][..].to_vec()), fingerprint(&[1u8][..].to_vec()));
    }
}
