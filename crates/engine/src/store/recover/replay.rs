//! Replaying the journal: which appends are there, which of their records count, and where the next append goes.
//!
//! A record is applied as soon as it is known durable; only appends that are not yet known wait, so that memory holds the
//! ring and little more.

use std::collections::VecDeque;

use catena_types::limits::BLOCK;

use super::{BLOCK64, Opener};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::codec::Get;
use crate::format::journal::{Append, HEADER_BYTES, Record, any_header, append_blocks, append_header};
use crate::format::{parity, seal};
use crate::store::group::GROUP_BYTES;

/// A place in the journal.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Journal block of the next append.
    pub(super) pos: u32,
    /// Blocks from the replay start to it.
    pub(super) used: u32,
    pub(super) append: u64,
    pub(super) prev: u32,
    /// Number of the next record.
    pub(super) next_seq: u64,
}

/// Where replay ended.
pub(super) struct Tail {
    /// Behind the last append that was taken whole.
    pub(super) end: Place,
    /// Records of the append there that were taken.
    pub(super) kept: Vec<u8>,
    pub(super) kept_records: u32,
    pub(super) dropped: u64,
    /// Whether an append is there that has to be written again without its dropped records.
    pub(super) rewrite: bool,
    /// Blocks of the ring that nothing is lost with, and that are not what they should be.
    pub(super) odd: Vec<(u32, Vec<u8>)>,
    /// The last record known durable.
    pub(super) known: u64,
}

impl Place {
    /// Moves behind an append.
    fn pass(&mut self, append: &Append, ring: &Ring) {
        self.pos = (self.pos + append.blocks()) % ring.blocks;
        self.used += append.blocks();
        self.append += 1;
        self.prev = append.id(ring.uuid_crc);
        self.next_seq += u64::from(append.records);
    }
}

/// An append that is whole.
struct Entry {
    append: Append,
    body: Vec<u8>,
    mended: bool,
    /// Blocks of the ring, see [`Tail::odd`].
    odd: Vec<(u32, Vec<u8>)>,
}

impl Entry {
    fn last_seq(&self) -> u64 {
        self.append.first_seq + u64::from(self.append.records) - 1
    }
}

impl<D: Disk> Opener<'_, D> {
    /// Applies the journal.
    pub(super) fn replay(&mut self) -> Result<Tail, OpenError> {
        let ring = self.read_ring()?;
        let known = self.survey(&ring)?;
        let mut place = self.start();
        let mut tail = Tail { end: place, kept: Vec::new(), kept_records: 0, dropped: 0, rewrite: false, odd: Vec::new(), known };
        let mut waiting = VecDeque::new();
        let torn = loop {
            match ring.read_append(&place) {
                Found::Nothing => break None,
                Found::Torn { records } => break Some(records),
                Found::Whole(entry) => {
                    place.pass(&entry.append, &ring);
                    // The survey does not see a header that had to be mended.
                    tail.known = tail.known.max(entry.append.durable);
                    waiting.push_back(entry);
                }
            }
            while let Some(entry) = waiting.pop_front_if(|entry| entry.last_seq() <= tail.known) {
                for (record, _) in self.decode(&entry)? {
                    self.apply(record, tail.end.next_seq)?;
                }
                self.pass(&mut tail, entry, &ring);
            }
        };
        self.end(&mut tail, waiting, torn, &ring)?;
        Ok(tail)
    }

    fn read_ring(&mut self) -> Result<Ring, OpenError> {
        let params = self.params();
        let mut bytes = Vec::with_capacity(params.journal as usize);
        let start = u64::from(self.superblock.checkpoint.pos) * BLOCK64;
        self.io.read(self.arena, params.journal_offset() + start, params.journal - start, &mut bytes)?;
        self.io.read(self.arena, params.journal_offset(), start, &mut bytes)?;
        Ok(Ring { bytes, blocks: (params.journal / BLOCK64) as u32, uuid_crc: self.uuid_crc })
    }

    fn start(&self) -> Place {
        let c = &self.superblock.checkpoint;
        Place { pos: c.pos, used: 0, append: c.append, prev: c.prev, next_seq: c.seq + 1 }
    }

    /// Looks at every append header in the ring, of any lap and at whatever place: the highest record known durable; and
    /// whether the superblock is older than what was written under it.
    fn survey(&self, ring: &Ring) -> Result<u64, OpenError> {
        let mut known = self.superblock.checkpoint.seq;
        for block in ring.bytes.chunks(BLOCK as usize) {
            let Some(append) = any_header(block, self.uuid_crc) else { continue };
            known = known.max(append.durable);
            if append.generation > self.superblock.generation {
                return Err(OpenError::StaleSuperblock {
                    name: self.name.clone(),
                    superblock: self.superblock.generation,
                    journal: append.generation,
                });
            }
        }
        Ok(known)
    }

    /// The records of an append, each with the place in the body where it ends.
    fn decode(&self, entry: &Entry) -> Result<Vec<(Record, usize)>, OpenError> {
        let mut get = Get(&entry.body);
        let mut records = Vec::with_capacity(entry.append.records.min(1 << 16) as usize);
        for seq in (entry.append.first_seq..).take(entry.append.records as usize) {
            let Some((record, _)) = Record::decode(&mut get) else {
                let why = format!("record {seq} makes no sense though its checksum matches");
                return Err(self.corrupt_journal(entry.append.pos, why));
            };
            records.push((record, entry.body.len() - get.0.len()));
        }
        Ok(records)
    }

    fn corrupt_journal(&self, pos: u32, why: String) -> OpenError {
        let offset = self.params().journal_offset() + u64::from(pos) * BLOCK64;
        OpenError::CorruptJournal { name: self.name.clone(), offset, why }
    }

    fn apply(&mut self, record: Record, seq: u64) -> Result<(), OpenError> {
        self.recovery.replayed += 1;
        let applied = self.state.apply(record, seq);
        applied.map_err(|why| self.inconsistent(format!("record {seq}: {why}")))
    }

    /// An append has been taken whole.
    fn pass(&mut self, tail: &mut Tail, entry: Entry, ring: &Ring) {
        self.recovery.mended += u64::from(entry.mended);
        tail.odd.extend(entry.odd);
        tail.end.pass(&entry.append, ring);
    }

    /// Takes of what is not known durable what counts. Behind it is an append of `torn` records that is not whole.
    fn end(&mut self, tail: &mut Tail, rest: VecDeque<Entry>, torn: Option<u32>, ring: &Ring) -> Result<(), OpenError> {
        let mut ends = Vec::new();
        let mut records = Vec::new();
        for entry in &rest {
            let (more, at): (Vec<_>, Vec<_>) = self.decode(entry)?.into_iter().unzip();
            records.extend(more);
            ends.push(at);
        }
        let mut seq = tail.end.next_seq;
        let trusted = (tail.known + 1).saturating_sub(seq).min(records.len() as u64);
        let mut left = self.kept(&records, trusted as usize)?;
        tail.dropped = (records.len() - left) as u64 + u64::from(torn.unwrap_or(0));
        tail.rewrite = torn.is_some();
        for record in records.into_iter().take(left) {
            self.apply(record, seq)?;
            seq += 1;
        }
        for (entry, ends) in rest.into_iter().zip(ends) {
            let taken = ends.len().min(left);
            left -= taken;
            if taken < ends.len() {
                let end = ends[..taken].last().copied().unwrap_or(0);
                (tail.kept, tail.kept_records) = (entry.body[..end].to_vec(), taken as u32);
                tail.rewrite = true;
                break;
            }
            self.pass(tail, entry, ring);
        }
        if tail.known >= seq {
            let why = format!("records {seq} to {} were durable and are not there", tail.known);
            return Err(self.corrupt_journal(tail.end.pos, why));
        }
        self.recovery.dropped = tail.dropped;
        Ok(())
    }
}

/// What is at a place of the journal.
enum Found {
    Nothing,
    /// The append expected, not whole.
    Torn {
        records: u32,
    },
    Whole(Entry),
}

/// The journal as it was read.
struct Ring {
    /// From the block on where replay starts, and over the end.
    bytes: Vec<u8>,
    blocks: u32,
    uuid_crc: u32,
}

impl Ring {
    /// The append that replay expects next.
    fn read_append(&self, place: &Place) -> Found {
        let left = self.blocks - place.used;
        // Of an earlier lap, or of what was behind an end that was rewritten.
        let expected =
            |a: &Append| (a.append, a.first_seq, a.prev) == (place.append, place.next_seq, place.prev) && a.blocks() <= left;
        let header_of = |block: &[u8]| append_header(block, place.pos, self.uuid_crc).filter(expected);
        let rest = &self.bytes[place.used as usize * BLOCK as usize..];
        let header = header_of(rest);
        // A header of another append does not mean that nothing is here: the parity may hold what was written over it. No
        // append is larger: see `form_group` and `admit_growth`.
        let most = append_blocks(GROUP_BYTES as u64 + self.bytes.len() as u64 / 2).min(left) as usize * BLOCK as usize;
        let lost = || parity::lost_first(&rest[..most], HEADER_BYTES, |first| header_of(first).map(|a| a.blocks()));
        let Some(blocks) = header.as_ref().map(Append::blocks).or_else(lost) else { return Found::Nothing };
        let stored = &rest[..blocks as usize * BLOCK as usize];
        let found = parity::read(stored, |plain| {
            let Some(append) = header_of(plain) else { return parity::Check::NoStart };
            let count = append.blocks() as usize - 1;
            let body = plain.get(HEADER_BYTES..HEADER_BYTES + append.body as usize);
            match body.filter(|body| seal(self.uuid_crc, body) == append.body_crc) {
                Some(body) => parity::Check::Good((append, body.to_vec()), count),
                None => parity::Check::Bad(count),
            }
        });
        match (found, header) {
            (Some(((append, body), _, mended)), _) => {
                let odd = if mended { Vec::new() } else { self.odd_blocks(&append, &body, stored) };
                Found::Whole(Entry { append, body, mended, odd })
            }
            (None, Some(append)) => Found::Torn { records: append.records },
            (None, None) => Found::Nothing,
        }
    }

    /// Blocks of an append that is whole without them (its parity, and what only pads), and are not as they were written.
    fn odd_blocks(&self, append: &Append, body: &[u8], stored: &[u8]) -> Vec<(u32, Vec<u8>)> {
        if parity::is_right(stored, HEADER_BYTES + body.len()) {
            return Vec::new();
        }
        let right = parity::protect(&[&append.encode(self.uuid_crc)[..], body].concat());
        let blocks = right.chunks(BLOCK as usize).zip(stored.chunks(BLOCK as usize));
        let odd = (append.pos..).zip(blocks).filter(|(_, (right, found))| right != found);
        odd.map(|(pos, (right, _))| (pos % self.blocks, right.to_vec())).collect()
    }
}
