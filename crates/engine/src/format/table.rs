//! The checksum table: one CRC-32C for every block of the data area, in sectors that are checked one by one.
//!
//! A page is one block: eight sectors of 512 bytes, each with the checksums of 127 data blocks and a seal of its own. Pages
//! are written in place: a sector is the smallest thing a power cut leaves whole, and what a page says of blocks in use
//! never changes before the journal that says the same is durable. A sector whose seal does not match says nothing; what
//! it said is computed again from the chunk.

use catena_types::limits::BLOCK;

use super::seal;
use crate::mutation::{Mutation, is};

/// Size of a sector in bytes.
const SECTOR: usize = 512;
/// Checksums in a sector.
const PER_SECTOR: usize = SECTOR / 4 - 1;
/// Sectors in a page.
const SECTORS: usize = BLOCK as usize / SECTOR;
/// Checksums in a page.
pub(crate) const PER_PAGE: usize = SECTORS * PER_SECTOR;

/// Pages that hold the checksums of `blocks` data blocks.
pub(crate) fn table_pages(blocks: u64) -> u64 {
    blocks.div_ceil(PER_PAGE as u64)
}

/// The page with the checksum of a data block, and its place in it.
pub(crate) fn page_of(block: u64) -> (u64, usize) {
    (block / PER_PAGE as u64, (block % PER_PAGE as u64) as usize)
}

/// A page as stored; a sector's seal covers the page's number, the sector's and the checksums.
pub(crate) fn encode_page(page: u64, crcs: &[u32; PER_PAGE], uuid_crc: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK as usize);
    for (n, sector) in crcs.chunks(PER_SECTOR).enumerate() {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        sector.iter().for_each(|crc| out.extend_from_slice(&crc.to_le_bytes()));
        let crc = sector_seal(page, n, &out[start + 4..], uuid_crc);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// Gives every checksum of the stored page that can be believed, with its place. 0 stands for one that was not known when
/// the page was written.
pub(crate) fn decode_page(page: u64, stored: &[u8], uuid_crc: u32, mut found: impl FnMut(usize, u32)) {
    for (n, sector) in stored.chunks_exact(SECTOR).take(SECTORS).enumerate() {
        if !is_sealed(page, n, sector, uuid_crc) {
            continue;
        }
        for (i, crc) in sector[4..].chunks_exact(4).enumerate() {
            match crc.try_into().map(u32::from_le_bytes) {
                Err(_) => {}
                Ok(0) if !is(Mutation::UnknownIsZero) => {}
                Ok(crc) => found(n * PER_SECTOR + i, crc),
            }
        }
    }
}

/// Whether sector `n` of a page matches its seal.
pub(crate) fn is_sealed(page: u64, n: usize, sector: &[u8], uuid_crc: u32) -> bool {
    sector.split_at_checked(4).is_some_and(|(held, crcs)| held == sector_seal(page, n, crcs, uuid_crc).to_le_bytes())
}

fn sector_seal(page: u64, sector: usize, crcs: &[u8], uuid_crc: u32) -> u32 {
    let number = page * SECTORS as u64 + sector as u64;
    seal(seal(uuid_crc, &number.to_le_bytes()), crcs)
}
