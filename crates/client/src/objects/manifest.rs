//! The manifest of an object: one chunk that says which generation of bytes is the object, and what else there is.
//!
//! A manifest is written whole, in one conditional update, at offset 0. A write does not shorten a chunk, so the content
//! carries its own length, and whatever an older, longer manifest left behind it is not looked at:
//!
//! | bytes | |
//! |---|---|
//! | 0..4 | `CTNO` |
//! | 4..8 | length of the message, little-endian |
//! | 8..12 | CRC-32C of the message |
//! | 12.. | the message |

use catena_types::ChunkKey;
use catena_types::crc::crc32c;
use catena_types::limits::valid_chunk_size;
use prost::Message;

use crate::error::{Error, ErrorKind};

/// Chunk size of manifest chunks in bytes: bounds how many unfinished puts of one name there can be.
pub(super) const MANIFEST_CHUNK: u32 = 64 << 10;
/// Longest name of an object in bytes.
pub(super) const MAX_NAME: usize = 240;
/// Format written by this version.
const FORMAT: u32 = 1;
const MAGIC: [u8; 4] = *b"CTNO";
const HEAD: usize = 12;
const MANIFESTS: &[u8] = b"o/";
const DATA: &[u8] = b"d/";

/// Names the bytes of one put.
pub(super) type GenerationId = [u8; 16];

/// The bytes of a finished put.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Generation {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub(super) size: u64,
    /// Bytes per chunk.
    #[prost(uint32, tag = "3")]
    pub(super) chunk_size: u32,
    /// CRC-32C of all bytes.
    #[prost(fixed32, tag = "4")]
    pub(super) checksum: u32,
}

/// A put on its way.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Pending {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) chunk_size: u32,
}

/// Bytes nobody can reach any more.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Garbage {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) chunk_size: u32,
    /// Chunks there may be; absent if nobody counted them.
    #[prost(uint64, optional, tag = "3")]
    pub(super) chunks: Option<u64>,
}

/// What there is of an object.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Manifest {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    /// The object; without it, there is none.
    #[prost(message, optional, tag = "2")]
    pub(super) current: Option<Generation>,
    #[prost(message, repeated, tag = "3")]
    pub(super) pending: Vec<Pending>,
    #[prost(message, repeated, tag = "4")]
    pub(super) garbage: Vec<Garbage>,
}

impl Generation {
    /// Chunks that hold its bytes.
    pub(super) fn chunks(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_size.max(1)))
    }
    /// The same bytes, once nobody reaches them.
    pub(super) fn into_garbage(self) -> Garbage {
        Garbage { chunks: Some(self.chunks()), chunk_size: self.chunk_size, id: self.id }
    }
}

impl Pending {
    /// What it wrote, once it is given up.
    pub(super) fn into_garbage(self) -> Garbage {
        Garbage { id: self.id, chunk_size: self.chunk_size, chunks: None }
    }
}

impl Manifest {
    /// Nothing to remember: the chunk can go.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none() && !self.has_leftovers()
    }
    /// Something a collector may have to remove.
    pub(super) fn has_leftovers(&self) -> bool {
        !self.pending.is_empty() || !self.garbage.is_empty()
    }
    pub(super) fn is_pending(&self, id: &GenerationId) -> bool {
        self.pending.iter().any(|p| p.id == id)
    }
    /// Every generation whose chunks may exist.
    pub(super) fn generations(&self) -> impl Iterator<Item = &[u8]> {
        let current = self.current.iter().map(|g| g.id.as_slice());
        current.chain(self.pending.iter().map(|p| p.id.as_slice())).chain(self.garbage.iter().map(|g| g.id.as_slice()))
    }

    /// The bytes to write.
    ///
    /// # Errors
    /// `Overloaded` when it has become too long for its chunk.
    pub(super) fn encode_chunk(&self) -> Result<Vec<u8>, Error> {
        let message = Manifest { format: FORMAT, ..self.clone() }.encode_to_vec();
        if HEAD + message.len() > MANIFEST_CHUNK as usize {
            let cause = format!("{} puts of it are unfinished; collect them first", self.pending.len() + self.garbage.len());
            return Err(Error::new(ErrorKind::Overloaded, cause));
        }
        let mut bytes = Vec::with_capacity(HEAD + message.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&message).to_le_bytes());
        bytes.extend_from_slice(&message);
        Ok(bytes)
    }

    /// Reads and checks what a manifest chunk holds.
    ///
    /// # Errors
    /// `BadManifest`, saying what is wrong.
    pub(super) fn decode_chunk(bytes: &[u8]) -> Result<Manifest, Error> {
        let bad = |cause: String| Error::new(ErrorKind::BadManifest, cause);
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Err(bad(format!("the manifest chunk has {} bytes only", bytes.len())));
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[..4] != MAGIC {
            return Err(bad(format!("the manifest chunk starts with \"{}\"", head[..4].escape_ascii())));
        }
        let message = rest.get(..word(4) as usize).ok_or_else(|| bad("the manifest is longer than its chunk".into()))?;
        if crc32c(message) != word(8) {
            return Err(bad("the manifest's checksum does not match".into()));
        }
        let manifest = Manifest::decode(message).map_err(|e| bad(format!("the manifest cannot be decoded: {e}")))?;
        manifest.check().map_err(bad)?;
        Ok(manifest)
    }

    /// What does not make sense, if anything.
    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("the manifest is of format {}, this version reads format {FORMAT}", self.format));
        }
        if let Some(id) = self.generations().find(|id| id.len() != size_of::<GenerationId>()) {
            return Err(format!("the manifest names a generation of {} bytes", id.len()));
        }
        let sizes = self.current.iter().map(|g| g.chunk_size);
        let sizes = sizes.chain(self.pending.iter().map(|p| p.chunk_size)).chain(self.garbage.iter().map(|g| g.chunk_size));
        match sizes.into_iter().find(|&s| !valid_chunk_size(s)) {
            Some(size) => Err(format!("the manifest names a chunk size of {size} bytes")),
            None => Ok(()),
        }
    }
}

/// Key of an object's manifest chunk.
///
/// # Errors
/// `InvalidArgument` unless the name has 1 to 240 bytes.
pub(super) fn manifest_key(name: &str) -> Result<ChunkKey, Error> {
    let wrong = || {
        let cause = format!("an object's name has 1 to {MAX_NAME} bytes, not {}", name.len());
        Error::new(ErrorKind::InvalidArgument, cause)
    };
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(wrong());
    }
    ChunkKey::new(&manifest_prefix(name)).ok_or_else(wrong)
}

/// What the keys of the manifests of all objects whose names start with `prefix` start with.
pub(super) fn manifest_prefix(prefix: &str) -> Vec<u8> {
    [MANIFESTS, prefix.as_bytes()].concat()
}

/// The name in the key of a manifest chunk.
pub(super) fn name_of(key: &ChunkKey) -> Option<&str> {
    std::str::from_utf8(key.as_bytes().strip_prefix(MANIFESTS)?).ok()
}

/// What the keys of all data chunks start with.
pub(super) fn data_prefix() -> &'static [u8] {
    DATA
}

/// What the keys of a generation's data chunks start with.
pub(super) fn generation_prefix(id: &[u8]) -> Vec<u8> {
    [DATA, id].concat()
}

/// Key of data chunk `index` of a generation.
pub(super) fn data_key(id: &[u8], index: u64) -> ChunkKey {
    let key = [DATA, id, &index.to_be_bytes()].concat();
    ChunkKey::new(&key).expect("2 bytes, a generation of 16 (checked when it was read) and 8 are fewer than 255")
}

/// The generation in the key of a data chunk.
pub(super) fn generation_of(key: &ChunkKey) -> Option<GenerationId> {
    let rest = key.as_bytes().strip_prefix(DATA)?;
    (rest.len() == 24).then(|| rest.first_chunk().copied())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            current: Some(Generation { id: vec![1; 16], size: 5000, chunk_size: 4096, checksum: 9 }),
            pending: vec![Pending { id: vec![2; 16], chunk_size: 8192 }],
            garbage: vec![Garbage { id: vec![3; 16], chunk_size: 4096, chunks: Some(4) }],
        }
    }

    fn wrong(change: impl FnOnce(&mut Manifest)) -> String {
        let mut m = manifest();
        change(&mut m);
        let format = m.format;
        let mut bytes = m.encode_chunk().unwrap();
        if format != FORMAT {
            let message = Message::encode_to_vec(&m);
            bytes.truncate(4);
            bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&crc32c(&message).to_le_bytes());
            bytes.extend_from_slice(&message);
        }
        let e = Manifest::decode_chunk(&bytes).expect_err("it makes no sense");
        assert_eq!(e.kind(), ErrorKind::BadManifest);
        e.cause().to_string()
    }

    #[test]
    fn survives_the_chunk_and_what_is_behind_it() {
        let mut bytes = manifest().encode_chunk().unwrap();
        bytes.extend_from_slice(b"left by a longer manifest");
        assert_eq!(Manifest::decode_chunk(&bytes).unwrap(), manifest());
        assert_eq!(manifest().current.unwrap().chunks(), 2);
    }

    #[test]
    fn nonsense_is_named() {
        assert!(wrong(|m| m.format = 2).contains("format 2"));
        assert!(wrong(|m| m.pending[0].id.pop().map_or((), |_| ())).contains("15 bytes"));
        assert!(wrong(|m| m.garbage[0].chunk_size = 100).contains("100 bytes"));
        assert!(wrong(|m| m.current.as_mut().unwrap().chunk_size = 0).contains("0 bytes"));
    }

    #[test]
    fn keys_are_in_order_of_names_and_indices() {
        assert!(manifest_key("").is_err() && manifest_key(&"n".repeat(241)).is_err());
        let key = manifest_key(&"n".repeat(240)).unwrap();
        assert_eq!(name_of(&key).map(str::len), Some(240));
        assert!(data_key(&[7; 16], 255) < data_key(&[7; 16], 256));
        assert_eq!(generation_of(&data_key(&[7; 16], 1)), Some([7; 16]));
        assert_eq!(generation_of(&key), None);
    }

    #[test]
    fn a_manifest_that_does_not_fit_is_refused() {
        let pending = vec![Pending { id: vec![2; 16], chunk_size: 8192 }; 4000];
        let e = Manifest { pending, ..manifest() }.encode_chunk().expect_err("too long");
        assert!(e.to_string().contains("4001 puts"), "{e}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, flip in 0usize..600) {
            let _ = Manifest::decode_chunk(&bytes);
            let mut damaged = manifest().encode_chunk().unwrap();
            let bits = damaged.len() * 8;
            damaged[flip % bits / 8] ^= 1 << (flip % 8);
            prop_assert!(Manifest::decode_chunk(&damaged).is_err());
        }
    }
}
