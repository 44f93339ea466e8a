//! The superblock: who the target is, how it is laid out, and where the last checkpoint and the journal's start are.
//!
//! Two copies, far enough apart not to be torn together. A change writes one, flushes, and then writes the other: at any
//! moment one is whole, and later both say the same.

use catena_types::limits::BLOCK;

use super::codec::{Get, Put};
use super::table::table_pages;
use super::{FORMAT, seal};
use catena_types::crc::crc32c;

const MAGIC: &[u8; 8] = b"CATENA\x00\x01";
const BLOCK64: u64 = BLOCK as u64;

/// Where the two copies are, in bytes.
pub(crate) const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 32 << 10];
/// Where the journal starts, in bytes.
const JOURNAL_OFFSET: u64 = 64 << 10;

pub use catena_types::store::{Durability, StoreKind};

/// Who a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn at random when the target is made.
    pub uuid: [u8; 16],
    /// The cluster it belongs to; 0 until it is adopted.
    pub cluster: u64,
    /// Its id in the cluster; 0 until it is adopted.
    pub target: u32,
}

/// What is decided when a target is made, and never changes but for the adoption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Who it is.
    pub identity: Identity,
    /// How it keeps chunks.
    pub kind: StoreKind,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Size of the data area in bytes.
    pub capacity: u64,
    /// Size of the journal in bytes.
    pub journal: u64,
    /// Size of each of the two checkpoint areas in bytes.
    pub checkpoint: u64,
    /// Size of the area of index leaves in bytes.
    pub index: u64,
}

impl Params {
    /// A target of `capacity` bytes with the default journal (64 MiB, less for small targets), not adopted yet.
    pub fn new(uuid: [u8; 16], capacity: u64) -> Params {
        let capacity = capacity / BLOCK64 * BLOCK64;
        Params {
            identity: Identity { uuid, cluster: 0, target: 0 },
            kind: StoreKind::Cow,
            durability: Durability::Flush,
            capacity,
            journal: (capacity / 8).clamp(1 << 20, 64 << 20).next_multiple_of(BLOCK64),
            checkpoint: (capacity / 256 + (16 << 20)).next_multiple_of(BLOCK64),
            index: (capacity / 8 + (16 << 20)).next_multiple_of(BLOCK64),
        }
    }

    /// Whether a target can be made like this; `Err` says what is wrong and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("capacity", self.capacity),
            ("journal", self.journal),
            ("checkpoint area", self.checkpoint),
            ("index area", self.index),
        ];
        for (name, bytes) in sizes {
            if bytes == 0 || !bytes.is_multiple_of(BLOCK64) {
                return Err(format!("the {name} is {bytes} bytes: give a positive multiple of {BLOCK}"));
            }
        }
        if self.journal < 16 * BLOCK64 || self.journal > 1 << 36 {
            return Err(format!("the journal is {} bytes: give 64 KiB to 64 GiB", self.journal));
        }
        if self.checkpoint < 4 * BLOCK64 {
            return Err(format!("a checkpoint area is {} bytes: give at least 16 KiB", self.checkpoint));
        }
        if self.index < 16 * BLOCK64 {
            return Err(format!("the index area is {} bytes: give at least 64 KiB", self.index));
        }
        if [self.capacity, self.checkpoint, self.index].iter().any(|&size| size > 1 << 58) {
            return Err("a size is above 2^58 bytes".to_string());
        }
        Ok(())
    }

    /// Where the journal starts, in bytes.
    pub fn journal_offset(&self) -> u64 {
        JOURNAL_OFFSET
    }
    /// Where a checkpoint area starts, in bytes.
    pub fn checkpoint_offset(&self, area: u32) -> u64 {
        JOURNAL_OFFSET + self.journal + u64::from(area) * self.checkpoint
    }
    /// Where the index area starts, in bytes.
    pub fn index_offset(&self) -> u64 {
        JOURNAL_OFFSET + self.journal + 2 * self.checkpoint
    }
    /// Where the checksum table starts, in bytes.
    pub fn table_offset(&self) -> u64 {
        self.index_offset() + self.index
    }
    /// Where the data area starts, in bytes.
    pub fn data_offset(&self) -> u64 {
        (self.table_offset() + table_pages(self.blocks()) * BLOCK64).next_multiple_of(1 << 20)
    }
    /// Blocks of the data area.
    pub fn blocks(&self) -> u64 {
        self.capacity / BLOCK64
    }
    /// Size of the whole address space in bytes.
    pub fn size(&self) -> u64 {
        self.data_offset() + self.capacity
    }
}

/// The last complete checkpoint, and where replay starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckpointRef {
    /// Which area.
    pub(crate) area: u32,
    /// Slices in it; none before the first checkpoint.
    pub(crate) slices: u32,
    /// Bytes in all.
    pub(crate) bytes: u64,
    /// Generation its slices carry.
    pub(crate) generation: u64,
    /// Journal block at which replay starts.
    pub(crate) pos: u32,
    /// Number of the append expected there.
    pub(crate) append: u64,
    /// Number of the last record it contains.
    pub(crate) seq: u64,
    /// What the append expected calls the one before it.
    pub(crate) prev: u32,
}

/// A decoded superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Grows with every write of it.
    pub(crate) generation: u64,
    /// What was decided at creation.
    pub(crate) params: Params,
    /// The checkpoint.
    pub(crate) checkpoint: CheckpointRef,
}

/// Why a block is not a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuperProblem {
    /// All zeroes: nothing was ever written.
    Empty,
    /// Not the magic number.
    Foreign,
    /// A format version this build does not know.
    Format(u32),
    /// The checksum does not match, or the fields make no sense.
    Damaged,
}

impl Superblock {
    /// One block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (p, c) = (&self.params, &self.checkpoint);
        let mut out = Vec::with_capacity(BLOCK as usize);
        out.put_bytes(MAGIC);
        out.put_u32(0);
        out.put_u32(FORMAT);
        out.put_u64(self.generation);
        out.put_bytes(&p.identity.uuid);
        out.put_u64(p.identity.cluster);
        out.put_u32(p.identity.target);
        out.put_u8(p.kind as u8);
        out.put_u8(p.durability as u8);
        out.put_bytes(&[0; 2]);
        for v in [p.capacity, p.journal, p.checkpoint, p.index, c.bytes, c.generation, c.append, c.seq] {
            out.put_u64(v);
        }
        for v in [c.area, c.slices, c.pos, c.prev] {
            out.put_u32(v);
        }
        out.resize(BLOCK as usize, 0);
        let crc = seal(0, &out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The reverse.
    pub(crate) fn decode(block: &[u8]) -> Result<Superblock, SuperProblem> {
        if block.iter().all(|&b| b == 0) {
            return Err(SuperProblem::Empty);
        }
        let mut get = Get(block);
        if get.bytes(8) != Some(MAGIC) {
            return Err(SuperProblem::Foreign);
        }
        let crc = get.u32().ok_or(SuperProblem::Damaged)?;
        if crc != crc32c(get.0) {
            return Err(SuperProblem::Damaged);
        }
        let format = get.u32().ok_or(SuperProblem::Damaged)?;
        if format != FORMAT {
            return Err(SuperProblem::Format(format));
        }
        Self::fields(&mut get).filter(|s| s.sane()).ok_or(SuperProblem::Damaged)
    }

    fn fields(get: &mut Get<'_>) -> Option<Superblock> {
        let generation = get.u64()?;
        let uuid = get.bytes(16)?.try_into().ok()?;
        let identity = Identity { uuid, cluster: get.u64()?, target: get.u32()? };
        let kind = match get.u8()? {
            1 => StoreKind::Cow,
            2 => StoreKind::InPlace,
            _ => return None,
        };
        let durability = match get.u8()? {
            1 => Durability::Flush,
            2 => Durability::Replicated,
            _ => return None,
        };
        get.bytes(2)?;
        let (capacity, journal, checkpoint, index) = (get.u64()?, get.u64()?, get.u64()?, get.u64()?);
        let params = Params { identity, kind, durability, capacity, journal, checkpoint, index };
        let (bytes, ckpt_generation, append, seq) = (get.u64()?, get.u64()?, get.u64()?, get.u64()?);
        let (area, slices, pos, prev) = (get.u32()?, get.u32()?, get.u32()?, get.u32()?);
        let checkpoint = CheckpointRef { area, slices, bytes, generation: ckpt_generation, pos, append, seq, prev };
        Some(Superblock { generation, params, checkpoint })
    }

    fn sane(&self) -> bool {
        let c = &self.checkpoint;
        self.params.check().is_ok()
            && c.area < 2
            && c.bytes <= self.params.checkpoint
            && u64::from(c.pos) < self.params.journal / BLOCK64
    }
}
