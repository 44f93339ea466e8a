//! Replaying the journal: which appends are there, which of their records count, and where the next append goes.

use bytes::Bytes;
use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Ver};

use super::{BLOCK64, Opener};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::codec::Get;
use crate::format::journal::{Append, HEADER_BYTES, Record, append_blocks, append_header};
use crate::format::{parity, seal};
use crate::mutation::{Mutation, is};
use crate::store::group::GROUP_BYTES;

/// Where replay ended.
pub(super) struct Tail {
    /// Journal block of the append that was not taken whole.
    pub(super) pos: u32,
    /// Blocks from the replay start to it.
    pub(super) used: u32,
    pub(super) append: u64,
    pub(super) prev: u32,
    pub(super) next_seq: u64,
    /// Its records that were taken.
    pub(super) kept: Vec<u8>,
    pub(super) kept_records: u32,
    pub(super) dropped: u64,
    /// Whether an append is there that has to be written again without its dropped records.
    pub(super) rewrite: bool,
}

impl Tail {
    /// Behind an append that was taken whole.
    fn pass(&mut self, append: &Append, ring_blocks: u32, uuid_crc: u32) {
        self.pos = (self.pos + append.blocks()) % ring_blocks;
        self.used += append.blocks();
        self.append += 1;
        self.prev = append.id(uuid_crc);
    }
}

/// An append that is whole.
struct Entry {
    append: Append,
    body: Bytes,
    mended: bool,
    /// With the place in the body where each ends.
    records: Vec<(Record, usize)>,
}

impl<D: Disk> Opener<'_, D> {
    /// Applies the journal; also gives the last record known durable.
    pub(super) fn replay(&mut self) -> Result<(Tail, u64), OpenError> {
        let params = self.params();
        let mut ring = Vec::with_capacity(params.journal as usize);
        self.io.read(self.arena, params.journal_offset(), params.journal, &mut ring)?;
        let blocks = (params.journal / BLOCK64) as u32;
        let (entries, torn) = self.collect(&ring, blocks)?;
        let found = entries.iter().map(|e| e.append.durable).max().unwrap_or(0);
        let known = self.survey(&ring, blocks)?.max(found);
        let keep = self.kept(&entries, known)?;
        let all: usize = entries.iter().map(|e| e.records.len()).sum();
        let mut tail = self.start();
        let mut left = keep;
        for entry in entries {
            let (taken, of) = (entry.records.len().min(left), entry.records.len());
            left -= taken;
            let end = entry.records[..taken].last().map_or(0, |(_, end)| *end);
            for (record, _) in entry.records.into_iter().take(taken) {
                self.apply(record, tail.next_seq)?;
                tail.next_seq += 1;
                self.recovery.replayed += 1;
            }
            if taken < of {
                (tail.kept, tail.kept_records) = (entry.body[..end].to_vec(), taken as u32);
                tail.rewrite = true;
                break;
            }
            self.recovery.mended += u64::from(entry.mended);
            tail.pass(&entry.append, blocks, self.uuid_crc);
        }
        tail.rewrite |= torn.is_some();
        tail.dropped = (all - keep) as u64 + u64::from(torn.unwrap_or(0));
        if known >= tail.next_seq {
            let offset = params.journal_offset() + u64::from(tail.pos) * BLOCK64;
            let why = format!("records {} to {known} were durable and are not there", tail.next_seq);
            return Err(OpenError::CorruptJournal { name: self.name.clone(), offset, why });
        }
        self.recovery.dropped = tail.dropped;
        Ok((tail, known))
    }

    fn start(&self) -> Tail {
        let c = &self.superblock.checkpoint;
        Tail {
            pos: c.pos,
            used: 0,
            append: c.append,
            prev: c.prev,
            next_seq: c.seq + 1,
            kept: Vec::new(),
            kept_records: 0,
            dropped: 0,
            rewrite: false,
        }
    }

    /// The appends behind the checkpoint that are whole, and the number of records of the torn one behind them.
    fn collect(&self, ring: &[u8], blocks: u32) -> Result<(Vec<Entry>, Option<u32>), OpenError> {
        let mut at = self.start();
        let mut entries = Vec::new();
        while at.used < blocks {
            match read_append(ring, blocks, &at, self.uuid_crc) {
                Found::Nothing => break,
                Found::Torn { records } => return Ok((entries, Some(records))),
                Found::Whole { append, body, mended } => {
                    let records = self.decode(&append, &body)?;
                    at.pass(&append, blocks, self.uuid_crc);
                    at.next_seq += u64::from(append.records);
                    entries.push(Entry { append, body, mended, records });
                }
            }
        }
        Ok((entries, None))
    }

    fn decode(&self, append: &Append, body: &[u8]) -> Result<Vec<(Record, usize)>, OpenError> {
        let mut get = Get(body);
        let mut records = Vec::with_capacity(append.records.min(1 << 16) as usize);
        for n in 0..append.records {
            let Some((record, _)) = Record::decode(&mut get) else {
                let offset = self.params().journal_offset() + u64::from(append.pos) * BLOCK64;
                let seq = append.first_seq + u64::from(n);
                let why = format!("record {seq} makes no sense though its checksum matches");
                return Err(OpenError::CorruptJournal { name: self.name.clone(), offset, why });
            };
            records.push((record, body.len() - get.0.len()));
        }
        Ok(records)
    }

    /// Looks at every append header in the ring, of any lap: the highest record known durable; and whether the superblock
    /// is older than what was written under it.
    fn survey(&self, ring: &[u8], blocks: u32) -> Result<u64, OpenError> {
        let mut known = self.superblock.checkpoint.seq;
        for pos in 0..blocks {
            let Some(append) = header_at(ring, pos, self.uuid_crc) else { continue };
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

    /// How many records count: up to the first one that was not known durable and whose data is not what it says. That may
    /// be because a later record gave its blocks up, was durable, and they have been written for somebody else since:
    /// then it counts, if the later one does.
    fn kept(&mut self, entries: &[Entry], known: u64) -> Result<usize, OpenError> {
        let first = self.superblock.checkpoint.seq + 1;
        let records: Vec<&Record> = entries.iter().flat_map(|e| &e.records).map(|(record, _)| record).collect();
        let mut keep = records.len();
        let mut doubtful = Vec::new();
        for (n, record) in records.iter().enumerate() {
            let trusted = first + n as u64 <= known || is(Mutation::TrustTail);
            if !trusted && !self.data_matches(record)? {
                let later = records[n + 1..].iter().position(|later| gives_up(later, record));
                doubtful.push((n, later.map(|at| n + 1 + at)));
            }
        }
        while let Some((n, _)) = doubtful.iter().find(|(n, by)| *n < keep && by.is_none_or(|by| by >= keep)) {
            keep = *n;
        }
        Ok(keep)
    }
}

/// The chunk whose blocks a record takes, and the version they are for.
fn takes(record: &Record) -> Option<(&ChunkKey, Ver)> {
    match record {
        Record::Stage(s) => Some((&s.key, s.ver)),
        Record::Install { key, committed, .. } => Some((key, committed.ver)),
        Record::Move { key, ver, .. } => Some((key, *ver)),
        _ => None,
    }
}

/// Whether `later` frees blocks that `record` took: they may be another chunk's by now. Unless several appends were not
/// known durable (durability `replicated`), that is an install or a purge.
fn gives_up(later: &Record, record: &Record) -> bool {
    let Some((chunk, taken)) = takes(record) else { return false };
    match later {
        Record::Install { key, .. } | Record::Purge { key } => key == chunk,
        Record::Unstage { key, ver } => key == chunk && *ver == taken,
        Record::Commit { key, ver, .. } => key == chunk && *ver > taken,
        Record::Move { key, ver, .. } => key == chunk && *ver >= taken,
        _ => false,
    }
}

/// What is at a place of the journal.
enum Found {
    Nothing,
    /// The append expected, not whole.
    Torn {
        records: u32,
    },
    Whole {
        append: Append,
        body: Bytes,
        mended: bool,
    },
}

/// The append that replay expects next.
fn read_append(ring: &[u8], blocks: u32, tail: &Tail, uuid_crc: u32) -> Found {
    let left = blocks - tail.used;
    // Of an earlier lap, or of what was behind an end that was rewritten.
    let expected =
        |a: &Append| a.append == tail.append && a.first_seq == tail.next_seq && a.prev == tail.prev && a.blocks() <= left;
    // A header of another append does not mean that nothing is here: the parity may hold what was written over it.
    let header = header_at(ring, tail.pos, uuid_crc).filter(|a| expected(a));
    // No append is larger: see `form_group` and `admit_growth`.
    let most = append_blocks(GROUP_BYTES as u64 + ring.len() as u64 / 2);
    let size = header.as_ref().map_or(left.min(most), Append::blocks);
    let stored = window(ring, tail.pos, size);
    let found = parity::read(&stored, |plain| {
        let Some(append) = append_header(plain, tail.pos, uuid_crc).filter(expected) else { return parity::Check::NoStart };
        let count = append.blocks() as usize - 1;
        let body = plain.get(HEADER_BYTES..HEADER_BYTES + append.body as usize);
        match body.filter(|body| seal(uuid_crc, body) == append.body_crc) {
            Some(body) => parity::Check::Good((append, Bytes::copy_from_slice(body)), count),
            None => parity::Check::Bad(count),
        }
    });
    match (found, header) {
        (Some(((append, body), _, mended)), _) => Found::Whole { append, body, mended },
        (None, Some(append)) => Found::Torn { records: append.records },
        (None, None) => Found::Nothing,
    }
}

/// `count` blocks of the ring from `pos` on, over its end.
fn window(ring: &[u8], pos: u32, count: u32) -> Vec<u8> {
    let (start, size) = (pos as usize * BLOCK as usize, count as usize * BLOCK as usize);
    let first = size.min(ring.len() - start);
    let mut out = ring[start..start + first].to_vec();
    out.extend_from_slice(&ring[..size - first]);
    out
}

fn header_at(ring: &[u8], pos: u32, uuid_crc: u32) -> Option<Append> {
    append_header(ring.get(pos as usize * BLOCK as usize..)?, pos, uuid_crc)
}
