//! Checkpoint slices: where the index leaves are, what is staged, the sessions and the remove floor at one moment.
//!
//! A checkpoint is a sequence of slices in one of the two areas; each is whole blocks protected by a parity block, carries
//! the checkpoint's generation and its own number, and is checked as a whole. An item never crosses slices.

use catena_types::limits::{BLOCK, valid_chunk_size};
use catena_types::{ChunkKey, SessionId, SessionRow, Staged, Ver};

use super::codec::{Get, Put};
use super::journal::{Held, ScrubMark, get_held, put_held};
use super::leaf::{LeafRef, get_extents, put_extents};
use super::{parity, seal};
use crate::alloc::Run;
use crate::version::Extent;

const MAGIC: u32 = u32::from_le_bytes(*b"CCKP");
/// Size of a slice's header; items follow directly.
pub(crate) const SLICE_HEADER_BYTES: usize = 32;

/// A slice without its header filled in.
pub(crate) fn new_slice() -> Vec<u8> {
    vec![0; SLICE_HEADER_BYTES]
}

/// The slice as stored: header, padding and parity.
pub(crate) fn finish_slice(mut slice: Vec<u8>, generation: u64, index: u32, uuid_crc: u32) -> Vec<u8> {
    let body = (slice.len() - SLICE_HEADER_BYTES) as u32;
    let mut header = Vec::with_capacity(SLICE_HEADER_BYTES);
    header.put_u32(MAGIC);
    header.put_u32(0);
    header.put_u64(generation);
    header.put_u32(index);
    header.put_u32(body);
    header.resize(SLICE_HEADER_BYTES, 0);
    slice[..SLICE_HEADER_BYTES].copy_from_slice(&header);
    let crc = seal(uuid_crc, &slice[8..]);
    slice[4..8].copy_from_slice(&crc.to_le_bytes());
    parity::protect(&slice)
}

/// A slice that was read.
pub(crate) struct Slice {
    pub(crate) items: Vec<CheckpointItem>,
    /// Bytes it takes on disk.
    pub(crate) stored: usize,
    /// A bad block had to be mended.
    pub(crate) mended: bool,
}

/// The slice at the start of `area`, which must be all that may belong to it; `Err` says what is wrong.
pub(crate) fn decode_slice(area: &[u8], generation: u64, index: u32, uuid_crc: u32) -> Result<Slice, &'static str> {
    let mut why = "no slice starts here";
    let read = parity::read(area, |plain| {
        let Some((body, end)) = slice_header(plain, generation, index) else { return parity::Check::NoStart };
        let blocks = end.div_ceil(BLOCK as usize);
        let crc = plain.get(4..8).map(|b| Get(b).u32());
        match plain.get(8..end).filter(|sealed| crc == Some(Some(seal(uuid_crc, sealed)))) {
            Some(_) => parity::Check::Good(plain[SLICE_HEADER_BYTES..SLICE_HEADER_BYTES + body].to_vec(), blocks),
            None => {
                why = "the checksum does not match";
                parity::Check::Bad(blocks)
            }
        }
    });
    let Some((body, blocks, mended)) = read else { return Err(why) };
    let mut get = Get(&body);
    let mut items = Vec::new();
    while get.end().is_none() {
        items.push(CheckpointItem::decode(&mut get).ok_or("an item makes no sense")?);
    }
    Ok(Slice { items, stored: blocks * BLOCK as usize, mended })
}

/// Bytes on disk of the slice that starts here, if its header can be read.
pub(crate) fn slice_bytes(area: &[u8], generation: u64, index: u32) -> Option<usize> {
    let (_, end) = slice_header(area, generation, index)?;
    Some(parity::stored_blocks(end as u64) as usize * BLOCK as usize)
}

/// Bytes of items, and where they end.
fn slice_header(plain: &[u8], generation: u64, index: u32) -> Option<(usize, usize)> {
    let mut get = Get(plain);
    let magic = get.u32()?;
    get.u32()?;
    let found = (magic, get.u64()?, get.u32()?);
    let body = get.u32()? as usize;
    (found == (MAGIC, generation, index)).then_some((body, SLICE_HEADER_BYTES + body))
}

/// An update that is staged, as recorded. Its blocks' checksums are in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StagedItem {
    pub(crate) chunk_size: u32,
    pub(crate) staged: Staged,
    /// Where its blocks are.
    pub(crate) extents: Vec<Extent>,
    /// Blocks only this version uses.
    pub(crate) fresh: Vec<Run>,
    /// First block of its slot, if it has one (stores in place).
    pub(crate) slot: Option<u64>,
    /// Blocks whose bytes are here.
    pub(crate) held: Vec<Held>,
}

/// One item of a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CheckpointItem {
    /// The remove floor.
    Floor(Ver),
    /// A session row.
    Session(SessionId, SessionRow),
    /// A staged update.
    Staged(ChunkKey, StagedItem),
    /// An index leaf; they are named in key order.
    Leaf(LeafRef),
    /// How far the scrub has come.
    Scrub(ScrubMark),
    /// Bytes of a committed chunk that go to their place at the next open (stores in place).
    Redo(ChunkKey, Vec<Held>),
}

impl StagedItem {
    fn encode(&self, out: &mut Vec<u8>) {
        let s = &self.staged;
        out.put_u32(self.chunk_size);
        out.put_u64(s.ver);
        out.put_u64(s.chain_ver);
        out.put_tag(&s.tag);
        out.put_u8(u8::from(s.remove));
        out.put_u32(s.len);
        out.put_u32(s.checksum);
        put_extents(out, &self.extents);
        out.put_runs(&self.fresh);
        out.put_slot(self.slot);
        put_held(out, &self.held);
    }

    fn decode(get: &mut Get<'_>) -> Option<StagedItem> {
        let chunk_size = get.u32().filter(|&s| valid_chunk_size(s))?;
        let (ver, chain_ver, tag, remove) = (get.u64()?, get.u64()?, get.tag()?, get.u8()? != 0);
        let (len, checksum) = (get.u32()?, get.u32()?);
        let staged = Staged { ver, chain_ver, len, checksum, tag, remove, durable: true };
        let extents = get_extents(get, len)?;
        Some(StagedItem { chunk_size, staged, extents, fresh: get.runs()?, slot: get.slot()?, held: get_held(get)? })
    }
}

impl CheckpointItem {
    /// Appends the item.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            CheckpointItem::Floor(floor) => {
                out.put_u8(1);
                out.put_u64(*floor);
            }
            CheckpointItem::Session(id, row) => {
                out.put_u8(2);
                out.put_session(id, row);
            }
            CheckpointItem::Staged(key, item) => {
                out.put_u8(3);
                out.put_key(key.as_bytes());
                item.encode(out);
            }
            CheckpointItem::Leaf(leaf) => {
                out.put_u8(4);
                leaf.encode(out);
            }
            CheckpointItem::Scrub(mark) => {
                out.put_u8(5);
                mark.encode(out);
            }
            CheckpointItem::Redo(key, held) => {
                out.put_u8(6);
                out.put_key(key.as_bytes());
                put_held(out, held);
            }
        }
    }

    fn decode(get: &mut Get<'_>) -> Option<CheckpointItem> {
        Some(match get.u8()? {
            1 => CheckpointItem::Floor(get.u64()?),
            2 => {
                let (id, row) = get.session()?;
                CheckpointItem::Session(id, row)
            }
            3 => CheckpointItem::Staged(get.key()?, StagedItem::decode(get)?),
            4 => CheckpointItem::Leaf(LeafRef::decode(get)?),
            5 => CheckpointItem::Scrub(ScrubMark::decode(get)?),
            6 => CheckpointItem::Redo(get.key()?, get_held(get)?),
            _ => return None,
        })
    }
}
