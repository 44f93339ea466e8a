//! From the bytes to the model: the checkpoint, its leaves, and the records of the journal that the next open would keep.

use std::collections::{BTreeSet, VecDeque};

use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;

use super::Target;
use super::journal::{Step, Survey};
use super::model::{Model, places};
use super::report::{Class, Severity};
use crate::format::journal::{Append, Record};
use crate::format::slice::CheckpointItem;

/// What was read on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) slices: u64,
    pub(super) leaves: u64,
    pub(super) appends: u64,
    /// Records that count.
    pub(super) records: u64,
    /// Records at the end that do not.
    pub(super) dropped: u64,
}

impl Target<'_> {
    /// The state of the target. What could not be read is noted; after something fatal the model is as far as it goes.
    pub(super) fn load(&self) -> (Model, Counts) {
        let mut counts = Counts::default();
        let mut model = Model::new(self.params().kind);
        let survey = self.survey();
        // Under an old superblock everything else would look damaged too.
        if self.findings.worst() < Some(Severity::Fatal) {
            let whole = self.load_checkpoint(&mut model, &mut counts);
            self.replay(&survey, &mut model, whole, &mut counts);
        }
        (model, counts)
    }

    fn load_checkpoint(&self, model: &mut Model, counts: &mut Counts) -> bool {
        let mut leaves = Vec::new();
        let mut redone = Vec::new();
        let base = self.params().checkpoint_offset(self.superblock.checkpoint.area);
        let mut whole = self.slices(&mut |_| counts.slices += 1, &mut |item| match item {
            CheckpointItem::Floor(floor) => model.floor = floor,
            CheckpointItem::Scrub(mark) => model.scrub = mark,
            CheckpointItem::Session(id, row) => {
                let above = model.sessions.last_key_value().is_none_or(|(last, _)| *last < id);
                if !above {
                    let what = format!("the session of client {:x} channel {} is out of order", id.client, id.channel);
                    self.note(Class::Session, Severity::Damage, base, what);
                }
                model.sessions.insert(id, row);
            }
            CheckpointItem::Staged(key, item) => {
                if !model.load_staged(key.clone(), item) {
                    self.note(Class::Checkpoint, Severity::Damage, base, format!("{key} is staged twice"));
                }
            }
            CheckpointItem::Redo(key, held) => {
                model.load_redo(key.clone(), &held);
                redone.push(key);
            }
            CheckpointItem::Leaf(leaf) => leaves.push(leaf),
        });
        whole &= self.leaves(&leaves, &mut |leaf| {
            counts.leaves += 1;
            model.chunks.extend(leaf.chunks);
        });
        redone.iter().for_each(|key| model.settle(key));
        whole
    }

    /// Walks the journal, and applies its records if the model is whole so far.
    fn replay(&self, survey: &Survey, model: &mut Model, whole: bool, counts: &mut Counts) {
        let mut replay = Replay { target: self, model, known: survey.known, tail: VecDeque::new(), whole, counts };
        let mut place = self.replay_start();
        let torn = loop {
            match self.next_append(&mut place) {
                Step::Append(append, records) => replay.take(&append, records),
                Step::End { torn } => break torn,
                Step::Nonsense => break 0,
            }
        };
        let (offset, known) = (self.journal_byte(place.pos), replay.known);
        replay.end();
        if place.seq <= known {
            let what = format!("records {} to {known} were durable and are not there", place.seq);
            self.note(Class::Journal, Severity::Fatal, offset, what);
        } else if torn > 0 {
            counts.dropped += u64::from(torn);
            let what = format!("the append of {torn} records from {} on is not whole", place.seq);
            self.note(Class::Dropped, Severity::Info, offset, what);
        }
    }
}

/// A record on its way into the model.
struct Pending {
    seq: u64,
    /// Where its append is, in bytes.
    offset: u64,
    record: Record,
}

/// Records are applied once they are known durable: from there on nothing drops them. What is not known durable at the end
/// of the journal is the tail.
struct Replay<'a> {
    target: &'a Target<'a>,
    model: &'a mut Model,
    known: u64,
    tail: VecDeque<Pending>,
    /// The model is whole so far.
    whole: bool,
    counts: &'a mut Counts,
}

impl Replay<'_> {
    fn take(&mut self, append: &Append, records: Vec<Record>) {
        self.counts.appends += 1;
        let offset = self.target.journal_byte(append.pos);
        let numbered = (append.first_seq..).zip(records);
        self.tail.extend(numbered.map(|(seq, record)| Pending { seq, offset, record }));
        // The survey does not see a header that had to be mended.
        self.known = self.known.max(append.durable);
        while let Some(next) = self.tail.pop_front_if(|next| next.seq <= self.known) {
            self.apply(&next);
        }
    }

    fn apply(&mut self, next: &Pending) {
        self.counts.records += 1;
        if self.whole
            && let Err(why) = self.model.apply(&next.record)
        {
            let what = format!("record {}: {why}", next.seq);
            self.target.note(Class::Record, Severity::Fatal, next.offset, what);
            self.whole = false;
        }
    }

    /// Applies of the tail what counts.
    fn end(mut self) {
        let tail: Vec<Pending> = std::mem::take(&mut self.tail).into();
        let (kept, bad) = self.kept(&tail);
        tail[..kept].iter().for_each(|next| self.apply(next));
        let left = (tail.len() - kept) as u64;
        if let Some((seq, offset)) = bad {
            self.counts.dropped += left;
            let what = format!("data of record {seq} is not what it says: {left} records from it on do not count");
            self.target.note(Class::Dropped, Severity::Info, offset, what);
        }
    }

    /// How many records of the tail count, and the record and the byte where the data is not what the first of the others
    /// says. Only bytes that the resulting state reads from their place are looked at: what was replaced within the tail
    /// may have been given to others since.
    fn kept(&self, tail: &[Pending]) -> (usize, Option<(u64, u64)>) {
        let (mut kept, mut bad) = (tail.len(), None);
        loop {
            let mut model = self.model.part(tail.iter().filter_map(|next| next.record.key()));
            for next in &tail[..kept] {
                // What contradicts is said when it is applied.
                let _ = model.apply(&next.record);
            }
            let read = model.read_in_place();
            let found = tail[..kept].iter().enumerate().find_map(|(n, next)| Some((n, self.target.missing(next, &read)?)));
            let Some((n, offset)) = found else { return (kept, bad) };
            kept = n;
            bad = Some((tail[n].seq, offset));
        }
    }
}

impl Target<'_> {
    /// Where the first of the blocks `read` is, in bytes, that a record wrote and that is not what it says.
    fn missing(&self, next: &Pending, read: &BTreeSet<u64>) -> Option<u64> {
        let (runs, crcs, first, held) = match &next.record {
            Record::Stage(s) => (&s.runs, &s.crcs, s.first, &s.held[..]),
            Record::Install { placed, .. } | Record::Move { placed, .. } => (&placed.runs, &placed.crcs, 0, &[][..]),
            _ => return None,
        };
        let total = self.params().blocks();
        let is_held = |block: u32| held.iter().any(|h| h.first <= block && u64::from(block - h.first) < h.blocks());
        let written = (first..).zip(places(runs)).zip(crcs).filter(|((block, disk), _)| !is_held(*block) && *disk < total);
        let mut looked_at =
            written.filter(|((_, disk), _)| read.contains(disk)).map(|((_, disk), crc)| (self.data_byte(disk), crc));
        looked_at.find(|(offset, crc)| crc32c(&self.read(*offset, BLOCK as usize)) != **crc).map(|(offset, _)| offset)
    }
}
