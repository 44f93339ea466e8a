//! The journal's ring in memory: where the head is, what is live, and the bytes of an append.

use bytes::Bytes;
use catena_arena::Arena;

use super::BLOCK64;
use crate::disk::IoOp;
use crate::format::{Append, HEADER_BYTES, Params, seal};

/// Position and numbering of the journal.
pub(crate) struct Journal {
    /// Blocks of the ring.
    pub(crate) blocks: u32,
    /// Where the next append goes.
    pub(crate) head: u32,
    /// Blocks from the replay start to the head.
    pub(crate) used: u32,
    /// Number of the next append.
    pub(crate) next_append: u64,
    /// Number of the next record.
    pub(crate) next_seq: u64,
    /// Last record known durable.
    pub(crate) durable: u64,
}

impl Journal {
    /// Bytes of records that fit the ring now.
    pub(crate) fn room(&self) -> usize {
        let blocks = u64::from(self.blocks - self.used);
        (blocks * BLOCK64).saturating_sub(HEADER_BYTES as u64) as usize
    }

    /// Number of the last record.
    pub(crate) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// The writes of an append of `records` records, the first of which is `first_seq`; the head moves behind it.
    pub(crate) fn append(&mut self, mut append: Append, body: &[u8], uuid_crc: u32, params: &Params, arena: &Arena) -> Vec<IoOp> {
        append.append = self.next_append;
        append.durable = self.durable;
        append.pos = self.head;
        append.body = body.len() as u32;
        append.body_crc = seal(uuid_crc, body);
        let blocks = append.blocks();
        let mut buf = arena.take_or_alloc((u64::from(blocks) * BLOCK64) as usize);
        buf[..HEADER_BYTES].copy_from_slice(&append.encode(uuid_crc));
        buf[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(body);
        buf[HEADER_BYTES + body.len()..].fill(0);
        let data = buf.freeze();
        let first = blocks.min(self.blocks - self.head);
        let mut writes = vec![write(params, self.head, data.slice(..(u64::from(first) * BLOCK64) as usize))];
        if first < blocks {
            writes.push(write(params, 0, data.slice((u64::from(first) * BLOCK64) as usize..)));
        }
        self.head = (self.head + blocks) % self.blocks;
        self.used += blocks;
        self.next_append += 1;
        writes
    }
}

fn write(params: &Params, block: u32, data: Bytes) -> IoOp {
    IoOp::Write { offset: params.journal_offset() + u64::from(block) * BLOCK64, data }
}
