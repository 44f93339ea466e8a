//! The scrub: reads every committed chunk and verifies it, at a set rate, over and over.
//!
//! How far it has come is recorded in the journal now and then, so that a restart goes on from there. A chunk that is
//! damaged is reported like one that a reader stumbled upon ([`catena_types::Done::Damaged`]).

use std::ops::Bound;

use catena_types::{ChunkKey, Code, Time};

use super::CowStore;
use super::group::Notify;
use super::read::Reader;
use crate::disk::Disk;
use crate::format::journal::{Record, ScrubMark};

/// Bytes verified after which the place is recorded.
const RECORD_BYTES: u64 = 256 << 20;

/// What the store does by itself when there is time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Background {
    /// Bytes per second that the scrub reads; 0: no scrub.
    pub scrub_rate: u64,
    /// From the end of a scrub pass to the start of the next, in nanoseconds.
    pub scrub_pause: Time,
    /// Bytes per second with which fragmented chunks are moved together; 0: not at all.
    pub compact_rate: u64,
    /// How long a freed stretch stays before it is given back to the file system, in nanoseconds; `None`: it is kept.
    pub punch_after: Option<Time>,
    /// Bytes kept ready in front of what is used for the first time, and kept back when space is given back; 0: none.
    pub prepare: u64,
}

impl Default for Background {
    fn default() -> Background {
        let second = 1_000_000_000;
        Background {
            scrub_rate: 0,
            scrub_pause: 3600 * second,
            compact_rate: 32 << 20,
            punch_after: Some(30 * second),
            prepare: 64 << 20,
        }
    }
}

/// How the scrub stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Whether a pass is under way.
    pub running: bool,
    /// Passes completed since the target was made.
    pub passes: u64,
    /// Bytes verified in this pass (in the last one, between passes).
    pub bytes: u64,
    /// Damaged chunks found in this pass (in the last one, between passes).
    pub bad: u64,
    /// The last chunk verified; empty at the start of a pass.
    pub after: Vec<u8>,
}

/// The scrub of one target.
pub(crate) struct Scrub {
    mark: ScrubMark,
    /// The chunk that is being read.
    reading: Option<ChunkKey>,
    /// Not before this time.
    next: Time,
    /// Bytes since the place was recorded.
    unrecorded: u64,
    pub(super) background: Background,
}

impl Scrub {
    pub(super) fn new(mark: ScrubMark) -> Scrub {
        Scrub { mark, reading: None, next: 0, unrecorded: 0, background: Background::default() }
    }

    /// How far it has come.
    pub(super) fn mark(&self) -> ScrubMark {
        self.mark.clone()
    }
}

impl<D: Disk> CowStore<D> {
    /// Says what is to be done in the background.
    pub fn set_background(&mut self, background: Background) {
        self.scrub.background = background;
        self.scrub.next = self.scrub.next.min(self.now);
    }

    /// Starts the next scrub pass now, if none is under way.
    pub fn start_scrub(&mut self) {
        self.scrub.next = self.now;
    }

    /// How the scrub stands.
    pub fn scrub_status(&self) -> ScrubStatus {
        let mark = &self.scrub.mark;
        let running = self.scrub.reading.is_some() || !mark.after.is_empty();
        ScrubStatus { running, passes: mark.passes, bytes: mark.bytes, bad: mark.bad, after: mark.after.clone() }
    }

    /// When the scrub has something to do.
    pub(super) fn scrub_due(&self) -> Option<Time> {
        (self.scrub.background.scrub_rate > 0 && self.scrub.reading.is_none()).then_some(self.scrub.next)
    }

    pub(super) fn advance_scrub(&mut self) {
        if self.failed.is_some() || self.scrub_due().is_none_or(|due| self.now < due) {
            return;
        }
        let after = std::mem::take(&mut self.scrub.mark.after);
        let from = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(&after[..]) };
        let next = self.index.range(from).next();
        if after.is_empty() && next.is_some() {
            (self.scrub.mark.bytes, self.scrub.mark.bad) = (0, 0);
        }
        let Some((key, item)) = next else { return self.end_pass(after.is_empty()) };
        self.scrub.mark.after = after;
        self.scrub.reading = Some(key.clone());
        self.start_read(Reader::Scrub, &key, item.committed.ver, 0, u32::MAX);
    }

    /// A chunk has been read.
    pub(super) fn scrub_read(&mut self, result: Result<u64, Code>) {
        let Some(key) = self.scrub.reading.take() else { return };
        let mark = &mut self.scrub.mark;
        mark.after = key.as_bytes().to_vec();
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(code) => {
                mark.bad += u64::from(code == Code::Corrupt);
                0
            }
        };
        mark.bytes += bytes;
        self.scrub.unrecorded += bytes;
        // Even empty chunks take a turn of a millisecond at most, so that they cannot fill one.
        let rate = self.scrub.background.scrub_rate.max(1);
        self.scrub.next = self.now + (u128::from(bytes.max(4096)) * 1_000_000_000 / u128::from(rate)) as Time;
        if self.scrub.unrecorded >= RECORD_BYTES {
            self.record_scrub();
        }
    }

    fn end_pass(&mut self, empty: bool) {
        self.scrub.next = self.now + self.scrub.background.scrub_pause.max(1_000_000);
        if empty {
            return;
        }
        self.scrub.mark.passes += 1;
        let mark = &self.scrub.mark;
        tracing::info!(target_disk = %self.disk.name(), passes = mark.passes, bytes = mark.bytes, bad = mark.bad, "scrubbed");
        self.record_scrub();
    }

    /// Records how far it has come, if that is not recorded.
    pub(super) fn note_scrub(&mut self) {
        if self.scrub.unrecorded > 0 {
            self.record_scrub();
        }
    }

    fn record_scrub(&mut self) {
        self.scrub.unrecorded = 0;
        let record = Record::Scrub(self.scrub.mark());
        self.enqueue(Some(&record), false, Notify::None, 0, Vec::new());
    }
}
