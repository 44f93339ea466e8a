//! Index leaves: the committed chunks of a range of keys, packed. The same bytes are held in memory.
//!
//! An entry is `length varint` (of what follows), then the key (`length u8`, bytes) and the fields; entries are in key
//! order. On disk a leaf has a header and is protected by a parity block; the checkpoint names it with its checksum, so
//! that a leaf of an earlier checkpoint is never taken for it.

use catena_types::limits::{BLOCK, MAX_CHUNK, valid_chunk_size};
use catena_types::{ChunkKey, Committed, Tag};

use super::codec::{Get, Put};
use super::{parity, seal};
use crate::alloc::Run;
use crate::version::{Extent, blocks};

const MAGIC: u32 = u32::from_le_bytes(*b"CLEF");
/// Size of a leaf's header; entries follow directly.
pub(crate) const LEAF_HEADER_BYTES: usize = 16;
/// Bytes of entries that fit a leaf of one block.
pub(crate) const LEAF_BYTES: usize = BLOCK as usize - LEAF_HEADER_BYTES;

/// A committed chunk, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkItem {
    pub(crate) chunk_size: u32,
    pub(crate) committed: Committed,
    /// First block of its slot (stores in place).
    pub(crate) slot: Option<u64>,
    pub(crate) extents: Vec<Extent>,
}

impl ChunkItem {
    /// Appends the entry of chunk `key`.
    pub(crate) fn encode(&self, key: &[u8], out: &mut Vec<u8>) {
        let mut fields = Vec::with_capacity(64 + key.len() + 6 * self.extents.len());
        fields.put_key(key);
        let c = &self.committed;
        fields.put_varint(u64::from(self.chunk_size / BLOCK));
        fields.put_varint(c.ver);
        fields.put_varint(c.chain_ver);
        fields.put_varint(u64::from(c.len));
        fields.put_u32(c.checksum);
        fields.put_u64(c.tag.client);
        fields.put_varint(u64::from(c.tag.channel));
        fields.put_varint(c.tag.seq);
        fields.put_slot(self.slot);
        put_extents(&mut fields, &self.extents);
        out.put_varint(fields.len() as u64);
        out.put_bytes(&fields);
    }

    /// The fields behind an entry's key.
    pub(crate) fn decode(get: &mut Get<'_>) -> Option<ChunkItem> {
        let (chunk_size, committed) = ChunkItem::decode_head(get)?;
        let slot = get.slot()?;
        let extents = get_extents(get, committed.len)?;
        get.end()?;
        Some(ChunkItem { chunk_size, committed, slot, extents })
    }

    /// The fields before the slot: chunk size and committed version.
    pub(crate) fn decode_head(get: &mut Get<'_>) -> Option<(u32, Committed)> {
        let chunk_size = get.varint32()?.checked_mul(BLOCK).filter(|&s| valid_chunk_size(s))?;
        let (ver, chain_ver, len) = (get.varint()?, get.varint()?, get.varint32()?);
        let checksum = get.u32()?;
        let tag = Tag { client: get.u64()?, channel: get.varint32()?, seq: get.varint()? };
        (len <= chunk_size).then_some((chunk_size, Committed { ver, chain_ver, len, checksum, tag }))
    }
}

/// Appends extents: the gap to the one before, blocks, first block on disk.
pub(crate) fn put_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    out.put_varint(extents.len() as u64);
    let mut end = 0;
    for e in extents {
        out.put_varint(u64::from(e.logical - end));
        out.put_varint(u64::from(e.len));
        out.put_varint(e.disk);
        end = e.logical + e.len;
    }
}

/// The reverse, for a chunk of `len` bytes.
pub(crate) fn get_extents(get: &mut Get<'_>, len: u32) -> Option<Vec<Extent>> {
    let n = get.varint()? as usize;
    if len > MAX_CHUNK || n > get.0.len() / 3 {
        return None;
    }
    let mut extents = Vec::with_capacity(n);
    let mut end = 0u32;
    for _ in 0..n {
        let logical = end.checked_add(get.varint32()?)?;
        let e = Extent { logical, len: get.varint32()?, disk: get.varint()? };
        end = logical.checked_add(e.len)?;
        if e.len == 0 || end > blocks(len) || e.disk > 1 << 60 {
            return None;
        }
        extents.push(e);
    }
    Some(extents)
}

/// The next entry of packed entries: its key and its fields.
pub(crate) fn next_entry<'a>(get: &mut Get<'a>) -> Option<(&'a [u8], Get<'a>)> {
    let len = get.varint()?;
    let mut entry = Get(get.bytes(usize::try_from(len).ok()?)?);
    let n = entry.u8()?;
    let key = entry.bytes(usize::from(n))?;
    Some((key, entry))
}

/// Where a leaf is, as a checkpoint names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeafRef {
    /// Bytes of entries.
    pub(crate) bytes: u32,
    /// Sealed checksum of the entries.
    pub(crate) crc: u32,
    /// Blocks of the index area, parity included.
    pub(crate) runs: Vec<Run>,
}

impl LeafRef {
    /// Appends it as an item's fields.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(u64::from(self.bytes));
        out.put_u32(self.crc);
        out.put_varint(self.runs.len() as u64);
        for run in &self.runs {
            out.put_varint(run.disk);
            out.put_varint(u64::from(run.len));
        }
    }

    /// The reverse.
    pub(crate) fn decode(get: &mut Get<'_>) -> Option<LeafRef> {
        let (bytes, crc, n) = (get.varint32()?, get.u32()?, get.varint()? as usize);
        if n > get.0.len() / 2 {
            return None;
        }
        let runs = (0..n).map(|_| Some(Run { disk: get.varint()?, len: get.varint32()? })).collect::<Option<Vec<_>>>()?;
        let stored: u64 = runs.iter().map(|r| u64::from(r.len)).sum();
        (stored == leaf_blocks(bytes as usize)).then_some(LeafRef { bytes, crc, runs })
    }
}

/// Blocks on disk of a leaf with so many bytes of entries.
pub(crate) fn leaf_blocks(bytes: usize) -> u64 {
    parity::stored_blocks((LEAF_HEADER_BYTES + bytes) as u64)
}

/// A leaf as stored.
pub(crate) fn encode_leaf(entries: &[u8], crc: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEAF_HEADER_BYTES + entries.len());
    out.put_u32(MAGIC);
    out.put_u32(crc);
    out.put_u32(entries.len() as u32);
    out.put_u32(0);
    out.put_bytes(entries);
    parity::protect(&out)
}

/// The entries of the leaf that `named` says is stored here, and whether a bad block had to be mended.
pub(crate) fn decode_leaf(stored: &[u8], named: &LeafRef, uuid_crc: u32) -> Option<(Vec<u8>, bool)> {
    let need = LEAF_HEADER_BYTES + named.bytes as usize;
    let count = need.div_ceil(BLOCK as usize);
    let check = |plain: &[u8]| {
        let Some(whole) = plain.get(..need) else { return parity::Check::NoStart };
        let mut get = Get(whole);
        let header = (get.u32(), get.u32(), get.u32());
        get.u32();
        let right = header == (Some(MAGIC), Some(named.crc), Some(named.bytes)) && seal(uuid_crc, get.0) == named.crc;
        // The length is known, so that any block may be tried.
        if right { parity::Check::Good(get.0.to_vec(), count) } else { parity::Check::Bad(count) }
    };
    parity::read(stored, check).map(|(entries, _, mended)| (entries, mended))
}

/// A key as recorded; `None` if it is none.
pub(crate) fn key_of(bytes: &[u8]) -> Option<ChunkKey> {
    ChunkKey::new(bytes)
}
