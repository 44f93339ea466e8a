//! Checkpoint slices: the index, the sessions and the remove floor at one moment.
//!
//! A checkpoint is a sequence of slices in one of the two areas; each is whole blocks, carries the checkpoint's generation
//! and its own number, and is checked as a whole. An item never crosses slices.

use catena_types::limits::{BLOCK, MAX_CHUNK};
use catena_types::{ChunkKey, Committed, SessionId, SessionRow, Staged, Ver};

use super::codec::{Get, Put};
use super::seal;
use crate::version::{Extent, Version, ZERO_BLOCK, blocks};

const MAGIC: u32 = u32::from_le_bytes(*b"CCKP");
/// Size of a slice's header; items follow directly.
pub(crate) const SLICE_HEADER_BYTES: usize = 32;

/// A slice without its header filled in.
pub(crate) fn new_slice() -> Vec<u8> {
    vec![0; SLICE_HEADER_BYTES]
}

/// Fills the header in and pads to whole blocks.
pub(crate) fn finish_slice(slice: &mut Vec<u8>, generation: u64, index: u32, uuid_crc: u32) {
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
    slice.resize(slice.len().next_multiple_of(BLOCK as usize), 0);
}

/// The items of the slice at the start of `area`, and its size in bytes; `Err` says what is wrong.
pub(crate) fn decode_slice(
    area: &[u8],
    generation: u64,
    index: u32,
    uuid_crc: u32,
) -> Result<(Vec<CheckpointItem>, usize), &'static str> {
    let mut get = Get(area);
    let short = "the slice is cut short";
    if get.u32().ok_or(short)? != MAGIC {
        return Err("no slice starts here");
    }
    let crc = get.u32().ok_or(short)?;
    let (gen_found, index_found, body) = (get.u64().ok_or(short)?, get.u32().ok_or(short)?, get.u32().ok_or(short)?);
    let end = SLICE_HEADER_BYTES + body as usize;
    let sealed = area.get(8..end).ok_or(short)?;
    if seal(uuid_crc, sealed) != crc {
        return Err("the checksum does not match");
    }
    if gen_found != generation || index_found != index {
        return Err("the slice is of another checkpoint");
    }
    let mut get = Get(&area[SLICE_HEADER_BYTES..end]);
    let mut items = Vec::new();
    while get.end().is_none() {
        items.push(CheckpointItem::decode(&mut get).ok_or("an item makes no sense")?);
    }
    Ok((items, end.next_multiple_of(BLOCK as usize)))
}

/// Where a version's blocks lie, as recorded: extents of mapped blocks and their checksums.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VersionItem {
    pub(crate) len: u32,
    pub(crate) checksum: u32,
    pub(crate) extents: Vec<Extent>,
    /// Of mapped blocks only, in order.
    pub(crate) crcs: Vec<u32>,
}

/// The staged side of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StagedItem {
    pub(crate) staged: Staged,
    pub(crate) version: VersionItem,
}

/// One item of a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CheckpointItem {
    /// The remove floor.
    Floor(Ver),
    /// A session row.
    Session(SessionId, SessionRow),
    /// A chunk.
    Chunk { key: ChunkKey, chunk_size: u32, committed: Option<(Committed, VersionItem)>, staged: Option<StagedItem> },
}

/// Appends a chunk.
pub(crate) fn put_chunk(
    out: &mut Vec<u8>,
    key: &ChunkKey,
    chunk_size: u32,
    committed: Option<(&Committed, &Version)>,
    staged: Option<(&Staged, &Version)>,
) {
    out.put_u8(3);
    out.put_key(key.as_bytes());
    out.put_u32(chunk_size);
    out.put_u8(u8::from(committed.is_some()) | u8::from(staged.is_some()) << 1);
    if let Some((c, version)) = committed {
        out.put_committed(c);
        put_version(out, version);
    }
    if let Some((s, version)) = staged {
        out.put_u64(s.ver);
        out.put_u64(s.chain_ver);
        out.put_tag(&s.tag);
        out.put_u8(u8::from(s.remove));
        put_version(out, version);
    }
}

fn put_version(out: &mut Vec<u8>, version: &Version) {
    out.put_u32(version.len);
    out.put_u32(version.checksum);
    out.put_u32(version.extents.len() as u32);
    for e in &version.extents {
        out.put_u32(e.logical);
        out.put_u32(e.len);
        out.put_u64(e.disk);
    }
    for e in &version.extents {
        for crc in &version.crcs[e.logical as usize..(e.logical + e.len) as usize] {
            out.put_u32(*crc);
        }
    }
}

impl VersionItem {
    fn decode(get: &mut Get<'_>) -> Option<VersionItem> {
        let (len, checksum, n) = (get.u32()?, get.u32()?, get.u32()? as usize);
        if len > MAX_CHUNK || n > get.0.len() / 16 {
            return None;
        }
        let mut extents = Vec::with_capacity(n);
        let (mut end, mut mapped) = (0u32, 0usize);
        for _ in 0..n {
            let e = Extent { logical: get.u32()?, len: get.u32()?, disk: get.u64()? };
            if e.logical < end || e.len == 0 || e.disk.checked_add(u64::from(e.len)).is_none() {
                return None;
            }
            end = e.logical.checked_add(e.len)?;
            mapped += e.len as usize;
            extents.push(e);
        }
        if end > blocks(len) || mapped > get.0.len() / 4 {
            return None;
        }
        let crcs = (0..mapped).map(|_| get.u32()).collect::<Option<Vec<_>>>()?;
        Some(VersionItem { len, checksum, extents, crcs })
    }

    /// As held in memory.
    pub(crate) fn into_version(self) -> Version {
        let mut crcs = vec![ZERO_BLOCK; blocks(self.len) as usize];
        let mut rest = &self.crcs[..];
        for e in &self.extents {
            let (here, after) = rest.split_at(e.len as usize);
            crcs[e.logical as usize..(e.logical + e.len) as usize].copy_from_slice(here);
            rest = after;
        }
        Version { len: self.len, checksum: self.checksum, extents: self.extents, crcs, ..Version::default() }
    }
}

impl CheckpointItem {
    /// Appends the remove floor.
    pub(crate) fn put_floor(out: &mut Vec<u8>, floor: Ver) {
        out.put_u8(1);
        out.put_u64(floor);
    }

    /// Appends a session row.
    pub(crate) fn put_session(out: &mut Vec<u8>, id: &SessionId, row: &SessionRow) {
        out.put_u8(2);
        Put::put_session(out, id, row);
    }

    fn decode(get: &mut Get<'_>) -> Option<CheckpointItem> {
        Some(match get.u8()? {
            1 => CheckpointItem::Floor(get.u64()?),
            2 => {
                let (id, row) = get.session()?;
                CheckpointItem::Session(id, row)
            }
            3 => {
                let (key, chunk_size, flags) = (get.key()?, get.u32()?, get.u8()?);
                let committed = if flags & 1 != 0 { Some((get.committed()?, VersionItem::decode(get)?)) } else { None };
                let staged = if flags & 2 != 0 { Some(Self::staged(get)?) } else { None };
                CheckpointItem::Chunk { key, chunk_size, committed, staged }
            }
            _ => return None,
        })
    }

    fn staged(get: &mut Get<'_>) -> Option<StagedItem> {
        let (ver, chain_ver, tag, remove) = (get.u64()?, get.u64()?, get.tag()?, get.u8()? != 0);
        let version = VersionItem::decode(get)?;
        let staged = Staged { ver, chain_ver, len: version.len, checksum: version.checksum, tag, remove, durable: true };
        Some(StagedItem { staged, version })
    }
}
