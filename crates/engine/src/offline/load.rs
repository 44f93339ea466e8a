//! From the bytes to the model: the checkpoint, its leaves, and the records of the journal that the next open would keep.

use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;

use super::journal::{Step, Survey};
use super::model::{Model, places};
use super::report::{Class, Severity};
use super::{BLOCK64, Target};
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
    fn replay(&self, survey: &Survey, model: &mut Model, mut whole: bool, counts: &mut Counts) {
        let mut place = self.replay_start();
        loop {
            let before = place;
            match self.next_append(&mut place) {
                Step::End { torn } => return self.end(survey, before.pos, before.seq, torn, counts),
                Step::Nonsense => return,
                Step::Append(append, records) => {
                    counts.appends += 1;
                    for (n, record) in records.iter().enumerate() {
                        let seq = append.first_seq + n as u64;
                        if seq > survey.known && self.is_dropped(record, &append, seq) {
                            counts.dropped += u64::from(append.records) - n as u64;
                            return;
                        }
                        if whole && let Err(why) = model.apply(record) {
                            let offset = self.journal_byte(append.pos);
                            self.note(Class::Record, Severity::Fatal, offset, format!("record {seq}: {why}"));
                            whole = false;
                        }
                        counts.records += 1;
                    }
                }
            }
        }
    }

    fn end(&self, survey: &Survey, pos: u32, next: u64, torn: u32, counts: &mut Counts) {
        let offset = self.journal_byte(pos);
        if next <= survey.known {
            let what = format!("records {next} to {} were durable and are not there", survey.known);
            self.note(Class::Journal, Severity::Fatal, offset, what);
        } else if torn > 0 {
            counts.dropped += u64::from(torn);
            self.note(
                Class::Dropped,
                Severity::Info,
                offset,
                format!("the append of {torn} records from {next} on is not whole"),
            );
        }
    }

    /// Whether a record that is not known durable names data that is not there; it and what follows are dropped then.
    fn is_dropped(&self, record: &Record, append: &Append, seq: u64) -> bool {
        let (runs, crcs, first, held) = match record {
            Record::Stage(s) => (&s.runs, &s.crcs, s.first, &s.held[..]),
            Record::Install { placed, .. } | Record::Move { placed, .. } => (&placed.runs, &placed.crcs, 0, &[][..]),
            _ => return false,
        };
        let total = self.params().blocks();
        if places(runs).any(|disk| disk >= total) {
            let what = format!("record {seq} names data blocks behind the last, {total}");
            self.note(Class::Record, Severity::Fatal, self.journal_byte(append.pos), what);
            return false;
        }
        let is_held = |block: u32| held.iter().any(|h| h.first <= block && u64::from(block - h.first) < h.blocks());
        for ((block, disk), &crc) in (first..).zip(places(runs)).zip(crcs) {
            let offset = self.params().data_offset() + disk * BLOCK64;
            if !is_held(block) && crc32c(&self.read(offset, BLOCK as usize)) != crc {
                let left = u64::from(append.records) - (seq - append.first_seq);
                let what = format!("data of record {seq} is not what it says: {left} records from it on do not count");
                self.note(Class::Dropped, Severity::Info, offset, what);
                return true;
            }
        }
        false
    }
}
