//! Giving space back to the file system: stretches of the data area that have been free for a while become holes.
//!
//! A file system lets nothing else happen to a file while it makes a hole, not even reads, and has to find space again for
//! what is written there later: so while anybody reads or writes, there is a pause between two stretches.
//!
//! What must hold: a stretch is taken from the allocator while it is being punched, so that nobody writes to it; only
//! stretches that were freed, or found free at open, are punched, not the space that was never used.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use catena_types::Time;

use super::{BLOCK64, CowStore, Owner};
use crate::alloc::{Allocator, Run};
use crate::disk::{Disk, IoOp};

/// Blocks of a stretch: 1 MiB.
const STRETCH: u64 = 256;

/// The pause between two stretches while calls come, and how long none may have come to be done with it.
const PAUSE: Time = 1_000_000_000;

/// What is to be given back.
#[derive(Default)]
pub(crate) struct Punch {
    /// Number of the stretch, and when blocks of it were last freed.
    noted: BTreeMap<u64, Time>,
    /// The same stretches, each once, to be looked at in this order; with the time it was put here.
    queue: VecDeque<(Time, u64)>,
    /// What was found at open has been given the time of the first turn.
    started: bool,
    running: Vec<Run>,
    /// When the last stretch was punched.
    last: Time,
    /// Updates and reads so far, and when one was seen last.
    calls: (u64, Option<Time>),
    /// The file system cannot.
    refused: bool,
}

impl Punch {
    /// Everything free in front of the last block in use: it may have been used before.
    pub(super) fn new(alloc: &Allocator) -> Punch {
        let mut punch = Punch::default();
        for stretch in 0..alloc.used_until() / STRETCH {
            if alloc.is_free(run_of(stretch)) {
                punch.put(stretch, 0);
            }
        }
        punch
    }

    fn put(&mut self, stretch: u64, now: Time) {
        if self.noted.insert(stretch, now).is_none() {
            self.queue.push_back((now, stretch));
        }
    }

    /// Blocks have become free.
    pub(super) fn note(&mut self, run: Run, now: Time) {
        if !self.refused {
            for stretch in run.disk / STRETCH..(run.disk + u64::from(run.len)).div_ceil(STRETCH) {
                self.put(stretch, now);
            }
        }
    }

    /// The next stretch that nothing was freed in for so long.
    fn next(&mut self, wait: Time, now: Time) -> Option<u64> {
        while let Some((_, stretch)) = self.queue.pop_front_if(|(since, _)| now >= *since + wait) {
            let freed = self.noted.get(&stretch).copied().unwrap_or(0);
            if now >= freed + wait {
                self.noted.remove(&stretch);
                return Some(stretch);
            }
            self.queue.push_back((freed, stretch));
        }
        None
    }

    /// What was found at open counts from the first turn.
    fn start(&mut self, now: Time) {
        if !self.started {
            self.started = true;
            self.noted.values_mut().for_each(|freed| *freed = (*freed).max(now));
            self.queue.iter_mut().for_each(|(since, _)| *since = (*since).max(now));
        }
    }

    /// So many updates and reads have ended.
    fn see(&mut self, calls: u64, now: Time) {
        if self.calls.0 != calls {
            self.calls = (calls, Some(now));
        }
    }

    /// When the next stretch may be punched, at the earliest.
    fn rested(&self, now: Time) -> Time {
        let busy = self.calls.1.is_some_and(|seen| now < seen + PAUSE);
        if busy { self.last + PAUSE } else { 0 }
    }

    /// Blocks that are being punched.
    pub(super) fn running(&self) -> &[Run] {
        &self.running
    }
}

fn run_of(stretch: u64) -> Run {
    Run { disk: stretch * STRETCH, len: STRETCH as u32 }
}

impl<D: Disk> CowStore<D> {
    /// When the next stretch may be punched.
    pub(super) fn punch_due(&self) -> Option<Time> {
        let wait = self.scrub.background.punch_after.filter(|_| !self.punch.refused && self.punch.running.is_empty())?;
        self.punch.queue.front().map(|(since, _)| (since + wait).max(self.punch.rested(self.now)))
    }

    pub(super) fn advance_punch(&mut self) {
        self.punch.start(self.now);
        self.punch.see(self.stats.staged + self.stats.reads, self.now);
        if self.failed.is_some() || self.punch_due().is_none_or(|due| self.now < due) {
            return;
        }
        let wait = self.scrub.background.punch_after.unwrap_or_default();
        let Some(stretch) = self.punch.next(wait, self.now) else { return };
        if self.alloc.spare() * BLOCK64 < self.scrub.background.prepare {
            // It will be used again, and sooner than what was never used.
            return self.punch.put(stretch, self.now);
        }
        let run = run_of(stretch);
        if self.alloc.is_free(run) && self.alloc.set(run) {
            self.punch.running.push(run);
            self.punch.last = self.now;
            let (offset, len) = (self.data_offset(run.disk), u64::from(run.len) * BLOCK64);
            self.submit(Owner::Punch, IoOp::Punch { offset, len });
        }
    }

    /// A stretch is a hole now, or the file system would not have it.
    pub(super) fn punched(&mut self, result: io::Result<()>) {
        for run in std::mem::take(&mut self.punch.running) {
            let cleared = self.alloc.clear(run);
            debug_assert!(cleared, "a stretch that is punched is taken");
            self.stats.bytes_punched += if result.is_ok() { u64::from(run.len) * BLOCK64 } else { 0 };
        }
        if let Err(error) = result {
            tracing::warn!(target_disk = %self.disk.name(), %error, "space cannot be given back to the file system");
            self.punch.refused = true;
            self.punch.noted.clear();
            self.punch.queue.clear();
        }
    }
}
