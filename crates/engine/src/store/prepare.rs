//! Writing zeroes to blocks that will be used for the first time soon.
//!
//! A file system that has given a file space still has to note, durably, that a block of it was written: the first write to
//! a block and its flush take twice as long as any later ones. So a little space ahead of what is used is written in the
//! background, and the allocator takes fresh blocks from there.
//!
//! While blocks are used faster than they could be prepared – a disk is filled – nothing is.
//!
//! What must hold: a stretch is taken from the allocator while zeroes are on their way to it, so that they never overtake
//! data; an error costs nothing but the preparation.

use std::io;

use bytes::Bytes;
use catena_types::Time;

use super::space::KEPT_ON_DISK;
use super::{BLOCK64, CowStore, Owner};
use crate::alloc::Run;
use crate::disk::{Disk, IoOp};
use crate::mutation::{Mutation, is};

/// Blocks of a stretch: 1 MiB.
const STRETCH: u64 = 256;
/// From the start of one stretch to the next, at least: 256 MiB per second.
const PACE: Time = 4_000_000;
/// After fresh space was taken faster than that: what is prepared would be written twice in a row.
const REST: Time = 100_000_000;
/// After a disk that had no space.
const PAUSE: Time = 5_000_000_000;

/// What is prepared.
#[derive(Default)]
pub(crate) struct Prepare {
    running: Option<Run>,
    /// Zeroes that are written, kept while there is more to do.
    zeroes: Bytes,
    /// No stretch before this.
    next: Time,
    /// When it was looked at last, and the first block that had not been used then.
    seen: (Time, u64),
    /// The disk does not take it.
    refused: bool,
}

impl Prepare {
    /// Blocks that zeroes are on their way to.
    pub(super) fn running(&self) -> Option<Run> {
        self.running
    }
}

impl<D: Disk> CowStore<D> {
    /// What is to be prepared next.
    fn unprepared(&self) -> Option<Run> {
        let ahead = self.scrub.background.prepare / BLOCK64;
        let idle = !self.prepare.refused && self.prepare.running.is_none() && self.disk.is_slow_at_first();
        let stretch = ahead.min(STRETCH);
        self.alloc.unprepared(ahead, stretch as u32).filter(|run| run.len > 0).filter(|_| idle)
    }

    /// When the next stretch may be prepared.
    pub(super) fn prepare_due(&self) -> Option<Time> {
        self.unprepared().map(|_| self.prepare.next)
    }

    pub(super) fn advance_prepare(&mut self) {
        if self.failed.is_some() || self.now < self.prepare.next {
            return;
        }
        let Some(run) = self.unprepared() else { return };
        let reach = self.alloc.reach();
        let (then, before) = std::mem::replace(&mut self.prepare.seen, (self.now, reach));
        if (reach - before.min(reach)) * PACE > STRETCH * (self.now - then.min(self.now)) {
            self.prepare.next = self.now + REST;
            return;
        }
        let (offset, len) = (self.data_offset(run.disk), u64::from(run.len) * BLOCK64);
        if self.disk.reserve(offset, len, KEPT_ON_DISK).is_err() {
            self.prepare.next = self.now + PAUSE;
            return;
        }
        if self.prepare.zeroes.is_empty() {
            let mut zeroes = self.arena.take_or_alloc((STRETCH * BLOCK64) as usize);
            zeroes.fill(0);
            self.prepare.zeroes = zeroes.freeze();
        }
        if !is(Mutation::PrepareUnheld) {
            self.alloc.hold(run);
        }
        self.prepare.running = Some(run);
        self.prepare.next = self.now + PACE;
        self.submit(Owner::Prepare, IoOp::Write { offset, data: self.prepare.zeroes.slice(..len as usize) });
    }

    /// A stretch has been written, or could not be.
    pub(super) fn prepared(&mut self, result: io::Result<()>) {
        let Some(run) = self.prepare.running.take() else { return };
        if !is(Mutation::PrepareUnheld) {
            self.alloc.prepared(run);
        }
        match result {
            Ok(()) => self.stats.bytes_prepared += u64::from(run.len) * BLOCK64,
            Err(error) => {
                tracing::warn!(target_disk = %self.disk.name(), %error, "space is not prepared any more");
                self.prepare.refused = true;
            }
        }
        if self.unprepared().is_none() {
            self.prepare.zeroes = Bytes::new();
        }
    }
}
