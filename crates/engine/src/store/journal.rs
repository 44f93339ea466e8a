//! The journal's ring in memory: where the head is, what is live, and the bytes of an append.

use std::collections::VecDeque;

use bytes::Bytes;
use catena_arena::Arena;
use catena_types::Time;

use super::BLOCK64;
use crate::disk::IoOp;
use crate::format::journal::{Append, HEADER_BYTES, append_blocks, append_room};
use crate::format::{Params, parity, seal};

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
    /// What the next append calls the one before it.
    pub(crate) prev: u32,
    /// Number of the next record.
    pub(crate) next_seq: u64,
    /// Last record known durable.
    pub(crate) durable: u64,
    /// Last record that the medium says is durable: a later append, or the superblock, which is durable itself.
    pub(crate) said: u64,
    /// Appends that are not known durable: their last record, and what they say is durable.
    pub(crate) saying: VecDeque<(u64, u64)>,
    /// Last record whose callers have been told; not below `durable` once anything was reported.
    pub(crate) reported: u64,
    /// Since when a reported record has not been durable.
    pub(crate) reported_at: Option<Time>,
}

impl Journal {
    /// Bytes of records that fit the ring now.
    pub(crate) fn room(&self) -> usize {
        append_room(self.blocks - self.used)
    }

    /// Number of the last record.
    pub(crate) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Everything up to `seq` is durable.
    pub(crate) fn note_durable(&mut self, seq: u64) {
        self.durable = self.durable.max(seq);
        while let Some((_, said)) = self.saying.pop_front_if(|(last, _)| *last <= self.durable) {
            self.said = self.said.max(said);
        }
    }

    /// The writes of an append of `records` records, the first of which is `first_seq`; the head moves behind it.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn append(
        &mut self,
        generation: u64,
        first_seq: u64,
        records: u32,
        body: &[u8],
        uuid_crc: u32,
        params: &Params,
        arena: &Arena,
    ) -> Vec<IoOp> {
        let append = Append {
            generation,
            append: self.next_append,
            durable: self.durable,
            first_seq,
            body: body.len() as u32,
            body_crc: seal(uuid_crc, body),
            records,
            pos: self.head,
            prev: self.prev,
        };
        let blocks = append_blocks(body.len() as u64);
        let mut plain = append.encode(uuid_crc);
        plain.reserve_exact(body.len());
        plain.extend_from_slice(body);
        debug_assert_eq!(plain.len(), HEADER_BYTES + body.len());
        let mut buf = arena.take_or_alloc((u64::from(blocks) * BLOCK64) as usize);
        parity::place(&plain, &mut buf);
        parity::fill(&mut buf);
        let data = buf.freeze();
        let first = blocks.min(self.blocks - self.head);
        let mut writes = vec![write(params, self.head, data.slice(..(u64::from(first) * BLOCK64) as usize))];
        if first < blocks {
            writes.push(write(params, 0, data.slice((u64::from(first) * BLOCK64) as usize..)));
        }
        self.head = (self.head + blocks) % self.blocks;
        self.used += blocks;
        self.next_append += 1;
        self.saying.push_back((first_seq + u64::from(records) - 1, self.durable));
        self.prev = append.id(uuid_crc);
        writes
    }
}

fn write(params: &Params, block: u32, data: Bytes) -> IoOp {
    IoOp::Write { offset: params.journal_offset() + u64::from(block) * BLOCK64, data }
}
