//! Little-endian bytes: a writer that cannot fail and a reader that never trusts a length.

use catena_types::{Committed, SessionId, SessionRow, Tag};

use crate::alloc::Run;

/// Appends values to a byte vector.
pub(crate) trait Put {
    fn put_u8(&mut self, v: u8);
    fn put_u32(&mut self, v: u32);
    fn put_u64(&mut self, v: u64);
    fn put_bytes(&mut self, v: &[u8]);

    fn put_key(&mut self, key: &[u8]) {
        // A key is at most 255 bytes by construction.
        self.put_u8(key.len() as u8);
        self.put_bytes(key);
    }
    fn put_tag(&mut self, tag: &Tag) {
        self.put_u64(tag.client);
        self.put_u32(tag.channel);
        self.put_u64(tag.seq);
    }
    fn put_committed(&mut self, c: &Committed) {
        self.put_u64(c.ver);
        self.put_u64(c.chain_ver);
        self.put_u32(c.len);
        self.put_u32(c.checksum);
        self.put_tag(&c.tag);
    }
    fn put_session(&mut self, id: &SessionId, row: &SessionRow) {
        self.put_u64(id.client);
        self.put_u32(id.channel);
        self.put_u64(row.seq);
        self.put_u64(row.ver);
        self.put_u32(row.len);
        self.put_u32(row.checksum);
        self.put_u64(row.chain_ver);
    }
    fn put_runs(&mut self, runs: &[Run]) {
        self.put_u32(runs.len() as u32);
        for run in runs {
            self.put_u64(run.disk);
            self.put_u32(run.len);
        }
    }
    fn put_crcs(&mut self, crcs: &[u32]) {
        self.put_u32(crcs.len() as u32);
        for &crc in crcs {
            self.put_u32(crc);
        }
    }
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, v: u8) {
        self.push(v);
    }
    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn put_bytes(&mut self, v: &[u8]) {
        self.extend_from_slice(v);
    }
}

/// Reads values; `None` when the bytes end too early or make no sense.
pub(crate) struct Get<'a>(pub(crate) &'a [u8]);

impl<'a> Get<'a> {
    pub(crate) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_le_bytes)
    }
    pub(crate) fn key(&mut self) -> Option<catena_types::ChunkKey> {
        let n = self.u8()?;
        catena_types::ChunkKey::new(self.bytes(usize::from(n))?)
    }
    pub(crate) fn tag(&mut self) -> Option<Tag> {
        Some(Tag { client: self.u64()?, channel: self.u32()?, seq: self.u64()? })
    }
    pub(crate) fn committed(&mut self) -> Option<Committed> {
        Some(Committed { ver: self.u64()?, chain_ver: self.u64()?, len: self.u32()?, checksum: self.u32()?, tag: self.tag()? })
    }
    pub(crate) fn session(&mut self) -> Option<(SessionId, SessionRow)> {
        let id = SessionId { client: self.u64()?, channel: self.u32()? };
        let row =
            SessionRow { seq: self.u64()?, ver: self.u64()?, len: self.u32()?, checksum: self.u32()?, chain_ver: self.u64()? };
        Some((id, row))
    }
    pub(crate) fn runs(&mut self) -> Option<Vec<Run>> {
        let n = self.u32()? as usize;
        if n > self.0.len() / 12 {
            return None;
        }
        (0..n).map(|_| Some(Run { disk: self.u64()?, len: self.u32()? })).collect()
    }
    pub(crate) fn crcs(&mut self) -> Option<Vec<u32>> {
        let n = self.u32()? as usize;
        if n > self.0.len() / 4 {
            return None;
        }
        (0..n).map(|_| self.u32()).collect()
    }
    /// `Some` if nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
