//! What a target holds, and the records that change it.

use std::collections::BTreeMap;

use bytes::Bytes;
use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;
use catena_types::{ChainVer, ChunkKey, ChunkMeta, Committed, Seq, SessionId, SessionRow, Staged, Tag, Ver};

/// The bytes of a version or of a payload, or what stands for them.
pub trait Content: Clone + Default {
    /// Bytes.
    fn size(&self) -> u32;
    /// What stands for `len` bytes that nobody has: not what a disk may hold by chance, nor what follows from zeroes.
    fn lost(len: u32) -> Self;
    /// As long as `len`, zero where there was nothing, and with these parts at these offsets, which lie within.
    fn changed(&self, len: u32, parts: &[(u32, &Self)]) -> Self;
    /// At most `len` bytes at `offset`, both clipped at the end.
    fn part(&self, offset: u32, len: u32) -> Self;
    /// CRC-32C, or what stands for it.
    fn checksum(&self) -> u32;
    /// The checksum of every block, the last one padded with zeroes.
    fn block_sums(&self) -> Vec<u32>;
}

impl Content for Bytes {
    fn size(&self) -> u32 {
        self.len() as u32
    }

    fn lost(len: u32) -> Self {
        vec![0xa5; len as usize].into()
    }

    fn changed(&self, len: u32, parts: &[(u32, &Self)]) -> Self {
        let mut bytes = self.to_vec();
        bytes.resize(len as usize, 0);
        for (offset, part) in parts {
            bytes[*offset as usize..][..part.len()].copy_from_slice(part);
        }
        bytes.into()
    }

    fn part(&self, offset: u32, len: u32) -> Self {
        let from = (offset as usize).min(self.len());
        self.slice(from..(from + len as usize).min(self.len()))
    }

    fn checksum(&self) -> u32 {
        crc32c(self)
    }

    fn block_sums(&self) -> Vec<u32> {
        let padded = |block: &[u8]| crc32c(&[block, &vec![0; BLOCK as usize - block.len()]].concat());
        self.chunks(BLOCK as usize).map(padded).collect()
    }
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Record<P> {
    /// With what is wrong with the version.
    Stage(ChunkKey, u32, Staged, P, Flaw),
    Commit(ChunkKey, Ver, ChainVer),
    Unstage(ChunkKey, Ver),
    Install(ChunkKey, u32, Committed, P),
    /// An install without its bytes.
    Lost(ChunkKey, u32, Committed),
    Purge(ChunkKey),
    ClearSessions,
    PutSession(SessionId, SessionRow),
    DropSession(SessionId, Seq),
    Floor(Ver),
}

/// What is wrong with the bytes of a version that is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Flaw {
    None,
    /// It keeps rotten bytes of its base: good ones, if that never rotted.
    Rot,
    /// It keeps bytes of a base that nobody had.
    Lost,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Chunk<P> {
    pub(super) size: u32,
    pub(super) committed: Option<(Committed, P)>,
    pub(super) staged: Option<(Staged, P)>,
    /// The committed and the staged version do not match their checksums.
    pub(super) rotten: (bool, bool),
    /// Nobody had the bytes of the committed version.
    pub(super) lost: bool,
}

impl<P> Chunk<P> {
    pub(super) fn meta(&self) -> ChunkMeta {
        let committed = self.committed.as_ref().map(|(c, _)| *c);
        ChunkMeta { chunk_size: self.size, committed, staged: self.staged.as_ref().map(|(s, _)| *s) }
    }
}

/// What a target holds: in memory, or on its medium.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contents<P> {
    pub(super) chunks: BTreeMap<ChunkKey, Chunk<P>>,
    pub(super) sessions: BTreeMap<SessionId, SessionRow>,
    pub(super) floor: Ver,
}

impl<P> Default for Contents<P> {
    fn default() -> Self {
        Contents { chunks: BTreeMap::new(), sessions: BTreeMap::new(), floor: 0 }
    }
}

impl<P: Content> Contents<P> {
    pub(super) fn apply(&mut self, record: &Record<P>) {
        match record.clone() {
            Record::Stage(key, size, staged, bytes, flaw) => {
                let chunk = self.chunks.entry(key).or_default();
                (chunk.size, chunk.staged, chunk.rotten.1) = (size, Some((staged, bytes)), flaw != Flaw::None);
            }
            Record::Commit(key, ver, chain_ver) => self.commit(&key, ver, chain_ver),
            Record::Unstage(key, ver) => {
                if let Some(chunk) = self.chunks.get_mut(&key) {
                    chunk.staged.take_if(|(s, _)| s.ver == ver);
                }
                self.forget_if_empty(&key);
            }
            Record::Install(key, size, committed, bytes) => {
                self.chunks.insert(key, Chunk { size, committed: Some((committed, bytes)), ..Chunk::default() });
            }
            Record::Lost(key, size, committed) => {
                let committed = Some((committed, P::lost(committed.len)));
                self.chunks.insert(key, Chunk { size, committed, lost: true, rotten: (true, false), ..Chunk::default() });
            }
            Record::Purge(key) => {
                self.chunks.remove(&key);
            }
            Record::ClearSessions => self.sessions.clear(),
            Record::PutSession(id, row) => self.put_session(id, row),
            Record::DropSession(id, seq) => {
                if self.sessions.get(&id).is_some_and(|row| row.seq == seq) {
                    self.sessions.remove(&id);
                }
            }
            Record::Floor(floor) => self.floor = self.floor.max(floor),
        }
    }

    fn commit(&mut self, key: &ChunkKey, ver: Ver, chain_ver: ChainVer) {
        let Some(chunk) = self.chunks.get_mut(key) else { return };
        let Some((staged, bytes)) = chunk.staged.take_if(|(s, _)| s.ver == ver) else { return };
        let Staged { len, checksum, tag, .. } = staged;
        chunk.rotten = (chunk.rotten.1, false);
        chunk.lost &= chunk.rotten.0;
        if staged.remove {
            self.floor = self.floor.max(ver);
            chunk.committed = None;
        } else {
            chunk.committed = Some((Committed { ver, chain_ver, len, checksum, tag }, bytes));
        }
        self.put_session(tag.session(), SessionRow { seq: tag.seq, ver, len, checksum, chain_ver });
        self.forget_if_empty(key);
    }

    fn put_session(&mut self, id: SessionId, row: SessionRow) {
        let old = self.sessions.entry(id).or_insert(row);
        if row.seq >= old.seq {
            *old = row;
        }
    }

    fn forget_if_empty(&mut self, key: &ChunkKey) {
        if self.chunks.get(key).is_some_and(|c| c.committed.is_none() && c.staged.is_none()) {
            self.chunks.remove(key);
        }
    }

    /// Newest version of the chunk held here, committed or staged, and the update that made it. An absent chunk counts
    /// with the version of its removal.
    pub(crate) fn newest(&self, key: &ChunkKey) -> (Ver, Option<Tag>) {
        let chunk = self.chunks.get(key);
        let staged = chunk.and_then(|c| c.staged.as_ref()).map(|(s, _)| (s.ver, Some(s.tag)));
        let committed = chunk.and_then(|c| c.committed.as_ref()).map(|(c, _)| (c.ver, Some(c.tag)));
        staged.or(committed).unwrap_or((self.floor, None))
    }

    /// Highest version ever removed here.
    pub(crate) fn floor(&self) -> Ver {
        self.floor
    }

    /// Whether the chunk is at rest.
    pub(crate) fn clean(&self, key: &ChunkKey) -> bool {
        self.chunks.get(key).is_none_or(|c| c.staged.is_none())
    }

    /// What readers see.
    pub(crate) fn committed(&self, key: &ChunkKey) -> Option<&(Committed, P)> {
        self.chunks.get(key)?.committed.as_ref()
    }
}
