//! Journal appends and the records in them.
//!
//! An append is one header and the records of one group, padded to whole blocks and protected by a parity block, written
//! at the journal's head (a ring of blocks; an append may go over the end and continue at the start). The header has a
//! checksum of its own, so that a search for appends needs no body, and names the append before it, so that what was
//! written behind a lost append is never taken for what follows its replacement.

use bytes::Bytes;
use catena_types::limits::{BLOCK, MAX_CHUNK};
use catena_types::{ChainVer, ChunkKey, Committed, Seq, SessionId, SessionRow, Tag, Ver};

use super::codec::{Get, Put};
use super::parity::stored_blocks;
use super::seal;
use crate::alloc::Run;

const MAGIC: u32 = u32::from_le_bytes(*b"CJAP");
/// Size of an append's header; records follow directly.
pub(crate) const HEADER_BYTES: usize = 64;

/// A decoded append header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Append {
    /// Generation of the superblock when it was written.
    pub(crate) generation: u64,
    /// Number of the append, without gaps.
    pub(crate) append: u64,
    /// Last record known durable when it was issued.
    pub(crate) durable: u64,
    /// Number of its first record.
    pub(crate) first_seq: u64,
    /// Bytes of records.
    pub(crate) body: u32,
    /// Sealed checksum of the records.
    pub(crate) body_crc: u32,
    /// Number of records.
    pub(crate) records: u32,
    /// Journal block it was written to.
    pub(crate) pos: u32,
    /// Checksum of the header before ([`Append::id`]); 0 for the first after a format.
    pub(crate) prev: u32,
}

impl Append {
    /// Journal blocks it takes, the parity included.
    pub(crate) fn blocks(&self) -> u32 {
        append_blocks(u64::from(self.body))
    }

    /// What the next header calls it.
    pub(crate) fn id(&self, uuid_crc: u32) -> u32 {
        let header = self.encode(uuid_crc);
        seal(uuid_crc, &header[8..])
    }

    /// The header's bytes.
    pub(crate) fn encode(&self, uuid_crc: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.put_u32(MAGIC);
        out.put_u32(0);
        for v in [self.generation, self.append, self.durable, self.first_seq] {
            out.put_u64(v);
        }
        for v in [self.body, self.body_crc, self.records, self.pos, self.prev] {
            out.put_u32(v);
        }
        out.resize(HEADER_BYTES, 0);
        let crc = seal(uuid_crc, &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// Journal blocks of an append with `body` bytes of records, the parity included.
pub(crate) fn append_blocks(body: u64) -> u32 {
    stored_blocks(HEADER_BYTES as u64 + body) as u32
}

/// Bytes of records that fit an append of `blocks` journal blocks.
pub(crate) fn append_room(blocks: u32) -> usize {
    (u64::from(blocks.saturating_sub(1)) * u64::from(BLOCK)).saturating_sub(HEADER_BYTES as u64) as usize
}

/// The append header at the start of `block`, if there is one that belongs to this target and this place.
pub(crate) fn append_header(block: &[u8], pos: u32, uuid_crc: u32) -> Option<Append> {
    any_header(block, uuid_crc).filter(|append| append.pos == pos)
}

/// The same, of whatever place. One that has come to a wrong place still says what was durable when it was issued.
pub(crate) fn any_header(block: &[u8], uuid_crc: u32) -> Option<Append> {
    let mut get = Get(block.get(..HEADER_BYTES)?);
    if get.u32()? != MAGIC {
        return None;
    }
    if get.u32()? != seal(uuid_crc, get.0) {
        return None;
    }
    Some(Append {
        generation: get.u64()?,
        append: get.u64()?,
        durable: get.u64()?,
        first_seq: get.u64()?,
        body: get.u32()?,
        body_crc: get.u32()?,
        records: get.u32()?,
        pos: get.u32()?,
        prev: get.u32()?,
    })
}

/// A staged update, as recorded: what it changes in the committed version `base` of its chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StageRecord {
    pub(crate) key: ChunkKey,
    pub(crate) chunk_size: u32,
    pub(crate) ver: Ver,
    /// Committed version it applies to; 0: none.
    pub(crate) base: Ver,
    pub(crate) chain_ver: ChainVer,
    pub(crate) tag: Tag,
    pub(crate) remove: bool,
    /// New length in bytes.
    pub(crate) len: u32,
    /// New chunk checksum.
    pub(crate) checksum: u32,
    /// First block written.
    pub(crate) first: u32,
    /// Where the written blocks lie.
    pub(crate) runs: Vec<Run>,
    /// Their checksums.
    pub(crate) crcs: Vec<u32>,
    /// First block of a slot taken with this update (stores in place).
    pub(crate) slot: Option<u64>,
    /// Of the written blocks those whose bytes are here, and go to their place after the commit (stores in place).
    pub(crate) held: Vec<Held>,
}

/// Blocks of a chunk whose new bytes are in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// First block, counted from the start of the chunk.
    pub(crate) first: u32,
    /// The bytes, in whole blocks.
    pub(crate) bytes: Bytes,
}

/// Where a whole chunk lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) runs: Vec<Run>,
    /// Their checksums.
    pub(crate) crcs: Vec<u32>,
    /// First block of its slot (stores in place).
    pub(crate) slot: Option<u64>,
}

/// One change of the target's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An update is staged.
    Stage(StageRecord),
    /// The staged version is the committed one.
    Commit { key: ChunkKey, ver: Ver, chain_ver: ChainVer },
    /// The staged version is gone.
    Unstage { key: ChunkKey, ver: Ver },
    /// The chunk is this, whatever it was.
    Install { key: ChunkKey, chunk_size: u32, committed: Committed, placed: Placed },
    /// The chunk is gone, whatever it was.
    Purge { key: ChunkKey },
    /// All session rows are gone.
    ClearSessions,
    /// A session row is merged.
    PutSession { id: SessionId, row: SessionRow },
    /// The session's row is gone, if it is that of update `seq`.
    DropSession { id: SessionId, seq: Seq },
    /// The remove floor is at least this.
    Floor(Ver),
    /// The committed version `ver` of the chunk, unchanged, lies elsewhere.
    Move { key: ChunkKey, ver: Ver, placed: Placed },
    /// How far the scrub has come.
    Scrub(ScrubMark),
}

/// How far the scrub has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScrubMark {
    /// Passes completed.
    pub(crate) passes: u64,
    /// Bad chunks found in this pass.
    pub(crate) bad: u64,
    /// Bytes verified in this pass.
    pub(crate) bytes: u64,
    /// The last chunk looked at; empty at the start of a pass.
    pub(crate) after: Vec<u8>,
}

impl StageRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_key(self.key.as_bytes());
        out.put_u32(self.chunk_size);
        for v in [self.ver, self.base, self.chain_ver] {
            out.put_u64(v);
        }
        out.put_tag(&self.tag);
        out.put_u8(u8::from(self.remove));
        for v in [self.len, self.checksum, self.first] {
            out.put_u32(v);
        }
        out.put_runs(&self.runs);
        out.put_crcs(&self.crcs);
        out.put_slot(self.slot);
        put_held(out, &self.held);
    }
}

impl Record {
    /// The chunk it is about.
    pub(crate) fn key(&self) -> Option<&ChunkKey> {
        match self {
            Record::Stage(StageRecord { key, .. })
            | Record::Commit { key, .. }
            | Record::Unstage { key, .. }
            | Record::Install { key, .. }
            | Record::Purge { key }
            | Record::Move { key, .. } => Some(key),
            Record::ClearSessions
            | Record::PutSession { .. }
            | Record::DropSession { .. }
            | Record::Floor(_)
            | Record::Scrub(_) => None,
        }
    }

    /// Appends the record with its length in front.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(0);
        match self {
            Record::Stage(stage) => {
                out.put_u8(1);
                stage.encode(out);
            }
            Record::Commit { key, ver, chain_ver } => {
                out.put_u8(2);
                out.put_key(key.as_bytes());
                out.put_u64(*ver);
                out.put_u64(*chain_ver);
            }
            Record::Unstage { key, ver } => {
                out.put_u8(3);
                out.put_key(key.as_bytes());
                out.put_u64(*ver);
            }
            Record::Install { key, chunk_size, committed, placed } => {
                out.put_u8(4);
                out.put_key(key.as_bytes());
                out.put_u32(*chunk_size);
                out.put_committed(committed);
                placed.encode(out);
            }
            Record::Purge { key } => {
                out.put_u8(5);
                out.put_key(key.as_bytes());
            }
            Record::ClearSessions => out.put_u8(6),
            Record::PutSession { id, row } => {
                out.put_u8(7);
                out.put_session(id, row);
            }
            Record::Floor(ver) => {
                out.put_u8(8);
                out.put_u64(*ver);
            }
            Record::Move { key, ver, placed } => {
                out.put_u8(9);
                out.put_key(key.as_bytes());
                out.put_u64(*ver);
                placed.encode(out);
            }
            Record::Scrub(mark) => {
                out.put_u8(10);
                mark.encode(out);
            }
            Record::DropSession { id, seq } => {
                out.put_u8(11);
                out.put_u64(id.client);
                out.put_u32(id.channel);
                out.put_u64(*seq);
            }
        }
        let len = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// The next record of a body, and the bytes it took; `None` if they are not a record.
    pub(crate) fn decode(body: &mut Get<'_>) -> Option<(Record, usize)> {
        let len = body.u32()? as usize;
        let mut get = Get(body.bytes(len)?);
        let record = Self::fields(&mut get)?;
        get.end()?;
        Some((record, len + 4))
    }

    fn fields(get: &mut Get<'_>) -> Option<Record> {
        Some(match get.u8()? {
            1 => Record::Stage(Self::stage(get)?),
            2 => Record::Commit { key: get.key()?, ver: get.u64()?, chain_ver: get.u64()? },
            3 => Record::Unstage { key: get.key()?, ver: get.u64()? },
            4 => {
                let (key, chunk_size, committed) = (get.key()?, get.u32()?, get.committed()?);
                let placed = Placed::decode(get)?;
                sane_blocks(0, committed.len, &placed.runs, &placed.crcs)?;
                Record::Install { key, chunk_size, committed, placed }
            }
            5 => Record::Purge { key: get.key()? },
            6 => Record::ClearSessions,
            7 => {
                let (id, row) = get.session()?;
                Record::PutSession { id, row }
            }
            8 => Record::Floor(get.u64()?),
            9 => {
                let (key, ver, placed) = (get.key()?, get.u64()?, Placed::decode(get)?);
                sane_blocks(0, MAX_CHUNK, &placed.runs, &placed.crcs)?;
                Record::Move { key, ver, placed }
            }
            10 => Record::Scrub(ScrubMark::decode(get)?),
            11 => Record::DropSession { id: SessionId { client: get.u64()?, channel: get.u32()? }, seq: get.u64()? },
            _ => return None,
        })
    }

    fn stage(get: &mut Get<'_>) -> Option<StageRecord> {
        let stage = StageRecord {
            key: get.key()?,
            chunk_size: get.u32()?,
            ver: get.u64()?,
            base: get.u64()?,
            chain_ver: get.u64()?,
            tag: get.tag()?,
            remove: get.u8()? != 0,
            len: get.u32()?,
            checksum: get.u32()?,
            first: get.u32()?,
            runs: get.runs()?,
            crcs: get.crcs()?,
            slot: get.slot()?,
            held: get_held(get)?,
        };
        sane_blocks(stage.first, stage.len, &stage.runs, &stage.crcs)?;
        let end = stage.first + stage.crcs.len() as u32;
        let within = |h: &Held| h.first >= stage.first && u64::from(h.first) + h.blocks() <= u64::from(end);
        stage.held.iter().all(within).then_some(stage)
    }
}

impl Held {
    /// Number of blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.bytes.len() as u64 / u64::from(BLOCK)
    }
}

impl Placed {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_runs(&self.runs);
        out.put_crcs(&self.crcs);
        out.put_slot(self.slot);
    }

    fn decode(get: &mut Get<'_>) -> Option<Placed> {
        Some(Placed { runs: get.runs()?, crcs: get.crcs()?, slot: get.slot()? })
    }
}

impl ScrubMark {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for v in [self.passes, self.bad, self.bytes] {
            out.put_u64(v);
        }
        out.put_key(&self.after);
    }

    pub(crate) fn decode(get: &mut Get<'_>) -> Option<ScrubMark> {
        let (passes, bad, bytes, n) = (get.u64()?, get.u64()?, get.u64()?, get.u8()?);
        Some(ScrubMark { passes, bad, bytes, after: get.bytes(usize::from(n))?.to_vec() })
    }
}

pub(crate) fn put_held(out: &mut Vec<u8>, held: &[Held]) {
    out.put_u32(held.len() as u32);
    for h in held {
        out.put_u32(h.first);
        out.put_u32(h.blocks() as u32);
        out.put_bytes(&h.bytes);
    }
}

pub(crate) fn get_held(get: &mut Get<'_>) -> Option<Vec<Held>> {
    let n = get.u32()? as usize;
    if n > get.0.len() / 8 {
        return None;
    }
    let held = (0..n).map(|_| {
        let (first, blocks) = (get.u32()?, get.u32()?);
        let bytes = get.bytes((blocks as usize).checked_mul(BLOCK as usize)?)?;
        Some(Held { first, bytes: Bytes::copy_from_slice(bytes) })
    });
    held.collect()
}

/// Whether the runs hold exactly the written blocks, and these lie within the chunk.
fn sane_blocks(first: u32, len: u32, runs: &[Run], crcs: &[u32]) -> Option<()> {
    let mut total = 0u64;
    for run in runs {
        if run.len == 0 {
            return None;
        }
        run.disk.checked_add(u64::from(run.len))?;
        total += u64::from(run.len);
    }
    let end = u64::from(first) + crcs.len() as u64;
    (len <= MAX_CHUNK && total == crcs.len() as u64 && (crcs.is_empty() || end <= u64::from(crate::version::blocks(len))))
        .then_some(())
}
