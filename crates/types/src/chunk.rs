//! What is known of one chunk, and what can be done to it.

use crate::ids::{ChainVer, Tag, Ver};

/// The committed version of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Committed {
    /// Version of the chunk, from 1.
    #[prost(uint64, tag = "1")]
    pub ver: Ver,
    /// Membership version under which the tail committed it.
    #[prost(uint64, tag = "2")]
    pub chain_ver: ChainVer,
    /// Length in bytes.
    #[prost(uint32, tag = "3")]
    pub len: u32,
    /// CRC-32C of all `len` bytes.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
    /// The update that made it.
    #[prost(message, required, tag = "5")]
    pub tag: Tag,
}

/// An update that is being made durable, or is durable and not yet committed. Its version is always one above the
/// committed version (or above the target's `remove_floor` where there is none).
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Staged {
    /// Version the chunk will have.
    #[prost(uint64, tag = "1")]
    pub ver: Ver,
    /// Membership version under which it was staged.
    #[prost(uint64, tag = "2")]
    pub chain_ver: ChainVer,
    /// Length in bytes the chunk will have; 0 for a remove.
    #[prost(uint32, tag = "3")]
    pub len: u32,
    /// CRC-32C of the chunk it will be; 0 for a remove. Meaningful once `durable`.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
    /// The update that makes it.
    #[prost(message, required, tag = "5")]
    pub tag: Tag,
    /// Commit makes the chunk absent.
    #[prost(bool, tag = "6")]
    pub remove: bool,
    /// The stage record and its data are on stable media.
    #[prost(bool, tag = "7")]
    pub durable: bool,
}

/// What a target holds of one chunk. At least one of the two is present.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ChunkMeta {
    /// Largest length in bytes; fixed when the chunk is created.
    #[prost(uint32, tag = "1")]
    pub chunk_size: u32,
    /// What readers see.
    #[prost(message, optional, tag = "2")]
    pub committed: Option<Committed>,
    /// What comes next.
    #[prost(message, optional, tag = "3")]
    pub staged: Option<Staged>,
}

impl ChunkMeta {
    /// Version readers see; 0 where the chunk does not exist yet.
    pub fn commit_ver(&self) -> Ver {
        self.committed.map_or(0, |c| c.ver)
    }
}

/// The kinds of [`Op`], as they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum OpKind {
    /// Not set: refused.
    None = 0,
    /// Put the payload at `offset`; a gap behind the old end is zero-filled.
    Write = 1,
    /// Set the length to `len`, cutting or zero-filling.
    Truncate = 2,
    /// Grow the length to `len` with zeroes; a shorter `len` changes only the version.
    Extend = 3,
    /// Make the chunk absent.
    Remove = 4,
}

/// An update of one chunk. All sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Op {
    /// What to do.
    #[prost(enumeration = "OpKind", tag = "1")]
    pub kind: i32,
    /// Where a write starts; 0 otherwise.
    #[prost(uint32, tag = "2")]
    pub offset: u32,
    /// Bytes written, or the length to truncate or extend to; 0 for remove.
    #[prost(uint32, tag = "3")]
    pub len: u32,
}

impl Op {
    /// A write of `len` bytes at `offset`.
    pub fn write(offset: u32, len: u32) -> Op {
        Op { kind: OpKind::Write as i32, offset, len }
    }
    /// Set the length.
    pub fn truncate(len: u32) -> Op {
        Op { kind: OpKind::Truncate as i32, offset: 0, len }
    }
    /// Grow the length.
    pub fn extend(len: u32) -> Op {
        Op { kind: OpKind::Extend as i32, offset: 0, len }
    }
    /// Remove the chunk.
    pub fn remove() -> Op {
        Op { kind: OpKind::Remove as i32, offset: 0, len: 0 }
    }
    /// Length of a chunk of `old` bytes (0 if absent) after this update; 0 for a remove. Callers have checked the
    /// range with [`Op::check`].
    pub fn new_len(&self, old: u32) -> u32 {
        match self.kind() {
            OpKind::Write => old.max(self.offset + self.len),
            OpKind::Extend => old.max(self.len),
            OpKind::Truncate => self.len,
            OpKind::Remove | OpKind::None => 0,
        }
    }
    /// Bytes of payload that must come with it.
    pub fn payload_len(&self) -> u32 {
        if self.kind() == OpKind::Write { self.len } else { 0 }
    }
    /// Whether the update is well-formed for chunks of `chunk_size` bytes; `Err` names what is wrong.
    pub fn check(&self, chunk_size: u32) -> Result<(), String> {
        let end = match self.kind() {
            OpKind::Write => self.offset.checked_add(self.len),
            OpKind::Truncate | OpKind::Extend => Some(self.len),
            OpKind::Remove => Some(0),
            OpKind::None => return Err(format!("unknown update kind {}", self.kind)),
        };
        match end {
            Some(end) if end <= chunk_size => Ok(()),
            _ => Err(format!("offset {} + length {} is past the chunk size {chunk_size}", self.offset, self.len)),
        }
    }
}

/// A condition on the committed version, judged at the head when the update's turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// No condition.
    Any,
    /// The chunk does not exist.
    Absent,
    /// The chunk exists.
    Exists,
    /// The chunk exists with exactly this version.
    Version(Ver),
}

impl Precondition {
    /// Whether it holds for a chunk whose committed version is `ver` (0: absent).
    pub fn holds(&self, ver: Ver) -> bool {
        match *self {
            Precondition::Any => true,
            Precondition::Absent => ver == 0,
            Precondition::Exists => ver != 0,
            Precondition::Version(v) => v != 0 && ver == v,
        }
    }
    /// As one number on the wire: 0 any, 1 absent, 2 exists, `v + 2` version `v`.
    pub fn to_wire(self) -> u64 {
        match self {
            Precondition::Any => 0,
            Precondition::Absent => 1,
            Precondition::Exists => 2,
            Precondition::Version(v) => v.saturating_add(2),
        }
    }
    /// The reverse of [`Precondition::to_wire`].
    pub fn from_wire(n: u64) -> Precondition {
        match n {
            0 => Precondition::Any,
            1 => Precondition::Absent,
            2 => Precondition::Exists,
            v => Precondition::Version(v - 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_ranges() {
        assert_eq!(Op::write(10, 5).new_len(3), 15);
        assert_eq!(Op::write(0, 5).new_len(30), 30);
        assert_eq!(Op::truncate(7).new_len(30), 7);
        assert_eq!(Op::extend(7).new_len(30), 30);
        assert_eq!(Op::remove().new_len(30), 0);
        assert!(Op::write(4096, 0).check(4096).is_ok());
        assert!(Op::write(4090, 7).check(4096).is_err());
        assert!(Op::write(u32::MAX, 7).check(4096).is_err());
        assert!(Op { kind: 9, offset: 0, len: 0 }.check(4096).is_err());
    }

    #[test]
    fn preconditions_survive_the_wire() {
        for p in
            [Precondition::Any, Precondition::Absent, Precondition::Exists, Precondition::Version(1), Precondition::Version(77)]
        {
            assert_eq!(Precondition::from_wire(p.to_wire()), p);
        }
        assert!(!Precondition::Version(0).holds(0));
    }
}
