//! Giving space back to the file system: stretches of the data area that have been free for a while become holes.
//!
//! What must hold: a stretch is taken from the allocator while it is being punched, so that nobody writes to it; only
//! stretches that were freed, or found free at open, are punched, not the space that was never used.

use std::collections::BTreeMap;
use std::io;

use catena_types::Time;

use super::{BLOCK64, CowStore, Owner};
use crate::alloc::{Allocator, Run};
use crate::disk::{Disk, IoOp};

/// Blocks of a stretch: 1 MiB.
const STRETCH: u64 = 256;

/// What is to be given back.
pub(crate) struct Punch {
    /// Number of the stretch, and since when it may be free; `None` until the next look.
    noted: BTreeMap<u64, Option<Time>>,
    running: Vec<Run>,
    /// The file system cannot.
    refused: bool,
}

impl Punch {
    /// Everything free in front of the last block in use: it may have been used before.
    pub(super) fn new(alloc: &Allocator) -> Punch {
        let mut noted = BTreeMap::new();
        let used = alloc.used_until();
        for stretch in 0..used / STRETCH {
            if alloc.is_free(run_of(stretch)) {
                noted.insert(stretch, None);
            }
        }
        Punch { noted, running: Vec::new(), refused: false }
    }

    /// Blocks have become free.
    pub(super) fn note(&mut self, run: Run) {
        if !self.refused {
            for stretch in run.disk / STRETCH..(run.disk + u64::from(run.len)).div_ceil(STRETCH) {
                self.noted.insert(stretch, None);
            }
        }
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
        self.punch.noted.values().map(|since| since.map_or(self.now, |since| since + wait)).min()
    }

    pub(super) fn advance_punch(&mut self) {
        let Some(wait) = self.scrub.background.punch_after else { return };
        if self.failed.is_some() || !self.punch.running.is_empty() || self.punch.noted.is_empty() {
            return;
        }
        let now = self.now;
        self.punch.noted.values_mut().for_each(|since| {
            since.get_or_insert(now);
        });
        let due = self.punch.noted.iter().find(|(_, since)| since.is_some_and(|since| now >= since + wait)).map(|(n, _)| *n);
        let Some(stretch) = due else { return };
        self.punch.noted.remove(&stretch);
        let run = run_of(stretch);
        if self.alloc.is_free(run) && self.alloc.set(run) {
            self.punch.running.push(run);
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
        }
    }
}
