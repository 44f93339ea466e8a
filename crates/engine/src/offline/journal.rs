//! The journal: which appends are in the ring, and those that replay takes, one after the other.

use catena_types::limits::BLOCK;

use super::report::{Class, Severity};
use super::{BLOCK64, SEARCH, Stored, Target};
use crate::format::codec::Get;
use crate::format::journal::{Append, HEADER_BYTES, Record, any_header, append_header};
use crate::format::{parity, seal};

/// Bytes read at once when the whole ring is looked at.
const STEP: u64 = 1 << 20;

/// What is in the ring, of any lap.
pub(super) struct Survey {
    /// Headers that check, by place.
    pub(super) headers: Vec<Append>,
    /// The last record that any header, at whatever place, or the checkpoint says is durable.
    pub(super) known: u64,
}

/// Where replay is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Journal block of the next append.
    pub(super) pos: u32,
    /// Blocks from the start of the replay to it.
    pub(super) used: u32,
    append: u64,
    prev: u32,
    /// Number of the next record.
    pub(super) seq: u64,
}

/// What is at a place.
enum Found {
    Nothing,
    /// The append expected, and more than one block of it is bad.
    Torn {
        records: u32,
    },
    Whole(Append, Vec<u8>),
}

/// What came of one step.
pub(super) enum Step {
    Append(Append, Vec<Record>),
    /// There is no further append; so many records were there and are not whole.
    End {
        torn: u32,
    },
    /// An append that is whole makes no sense.
    Nonsense,
}

impl Target<'_> {
    /// Blocks of the ring.
    pub(super) fn ring(&self) -> u32 {
        (self.params().journal / BLOCK64) as u32
    }

    /// Where a journal block is, in bytes.
    pub(super) fn journal_byte(&self, block: u32) -> u64 {
        self.params().journal_offset() + u64::from(block) * BLOCK64
    }

    /// Looks for append headers everywhere in the ring; notes it if the superblock is older than they are.
    pub(super) fn survey(&self) -> Survey {
        let mut survey = Survey { headers: Vec::new(), known: self.superblock.checkpoint.seq };
        let mut newest: Option<Append> = None;
        let mut at = 0;
        while at < self.params().journal {
            let n = STEP.min(self.params().journal - at);
            let bytes = self.read(self.params().journal_offset() + at, n as usize);
            for (block, pos) in bytes.chunks(BLOCK as usize).zip((at / BLOCK64) as u32..) {
                let Some(append) = any_header(block, self.uuid_crc) else { continue };
                survey.known = survey.known.max(append.durable);
                if newest.is_none_or(|n| append.generation > n.generation) {
                    newest = Some(append);
                }
                if append.pos == pos {
                    survey.headers.push(append);
                }
            }
            at += n;
        }
        if let Some(newest) = newest.filter(|n| n.generation > self.superblock.generation) {
            let what = format!(
                "an append was written under superblock {}, and the newest copy is of {}: the newer one is lost",
                newest.generation, self.superblock.generation
            );
            self.note(Class::Superblock, Severity::Fatal, self.journal_byte(newest.pos), what);
        }
        survey
    }

    /// Where replay starts.
    pub(super) fn replay_start(&self) -> Place {
        let c = &self.superblock.checkpoint;
        Place { pos: c.pos, used: 0, append: c.append, prev: c.prev, seq: c.seq + 1 }
    }

    /// The append at `place`, which is moved behind it.
    pub(super) fn next_append(&self, place: &mut Place) -> Step {
        let (append, body) = match self.read_append(place) {
            Found::Nothing => return Step::End { torn: 0 },
            Found::Torn { records } => return Step::End { torn: records },
            Found::Whole(append, body) => (append, body),
        };
        let offset = self.journal_byte(append.pos);
        let mut get = Get(&body);
        let records: Option<Vec<Record>> = (0..append.records).map(|_| Some(Record::decode(&mut get)?.0)).collect();
        let Some(records) = records.filter(|_| get.end().is_some()) else {
            let what = format!("append {} has records that make no sense though its checksum matches", append.append);
            self.note(Class::Record, Severity::Fatal, offset, what);
            return Step::Nonsense;
        };
        if append.durable >= append.first_seq {
            let what =
                format!("append {} with records from {} says that {} is durable", append.append, place.seq, append.durable);
            self.note(Class::Journal, Severity::Damage, offset, what);
        }
        *place = Place {
            pos: (append.pos + append.blocks()) % self.ring(),
            used: place.used + append.blocks(),
            append: place.append + 1,
            prev: append.id(self.uuid_crc),
            seq: place.seq + u64::from(append.records),
        };
        Step::Append(append, records)
    }

    fn read_append(&self, place: &Place) -> Found {
        let left = self.ring() - place.used;
        if left < 2 {
            return Found::Nothing;
        }
        let expected =
            |a: &Append| (a.append, a.first_seq, a.prev) == (place.append, place.seq, place.prev) && a.blocks() <= left;
        let start = self.read(self.journal_byte(place.pos), BLOCK as usize);
        // A header of another append does not mean that nothing is here: the parity may hold what was written over it.
        let header = append_header(&start, place.pos, self.uuid_crc).filter(expected);
        let blocks = header.as_ref().map_or(left.min((SEARCH / BLOCK64) as u32), Append::blocks);
        let stored = self.window(place.pos, blocks);
        let read = parity::read(&stored, |plain| {
            let Some(append) = append_header(plain, place.pos, self.uuid_crc).filter(expected) else {
                return parity::Check::NoStart;
            };
            let count = append.blocks() as usize - 1;
            match plain.get(HEADER_BYTES..HEADER_BYTES + append.body as usize) {
                Some(body) if seal(self.uuid_crc, body) == append.body_crc => parity::Check::Good((append, body.to_vec()), count),
                _ => parity::Check::Bad(count),
            }
        });
        let Some(((append, body), _, mended)) = read else {
            return header.map_or(Found::Nothing, |append| Found::Torn { records: append.records });
        };
        let mut plain = append.encode(self.uuid_crc);
        plain.extend_from_slice(&body);
        let right = parity::protect(&plain);
        let (found, name) = (&stored[..right.len()], format!("append {}", append.append));
        self.compare(&Stored { class: Class::Journal, name, found, mended }, &right, |i| self.ring_byte(place.pos, i));
        Found::Whole(append, body)
    }

    /// Where byte `i` from journal block `pos` on lies.
    fn ring_byte(&self, pos: u32, i: u64) -> u64 {
        self.params().journal_offset() + (u64::from(pos) * BLOCK64 + i) % self.params().journal
    }

    /// `blocks` blocks from `pos` on, over the end of the ring.
    fn window(&self, pos: u32, blocks: u32) -> Vec<u8> {
        let first = blocks.min(self.ring() - pos);
        let mut out = self.read(self.journal_byte(pos), first as usize * BLOCK as usize);
        if first < blocks {
            out.extend(self.read(self.params().journal_offset(), (blocks - first) as usize * BLOCK as usize));
        }
        out
    }
}
