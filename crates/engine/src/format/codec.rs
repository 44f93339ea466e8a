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
    /// Seven bits per byte, low ones first; the top bit says that more follow.
    fn put_varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.put_u8(v as u8 | 0x80);
            v >>= 7;
        }
        self.put_u8(v as u8);
    }
    /// A block number that may be missing: 0 for none, else one more.
    fn put_slot(&mut self, slot: Option<u64>) {
        self.put_varint(slot.map_or(0, |block| block + 1));
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
    pub(crate) fn varint(&mut self) -> Option<u64> {
        // Most take one byte.
        if let [byte @ 0..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Some(u64::from(*byte));
        }
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(self.u8()?);
            if shift == 63 && byte > 1 {
                return None;
            }
            v |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(v);
            }
        }
        None
    }
    pub(crate) fn varint32(&mut self) -> Option<u32> {
        self.varint()?.try_into().ok()
    }
    pub(crate) fn slot(&mut self) -> Option<Option<u64>> {
        let v = self.varint()?;
        // Far above any disk, so that sums with it cannot overflow.
        (v <= 1 << 60).then(|| v.checked_sub(1))
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
