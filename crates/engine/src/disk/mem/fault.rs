//! What a disk may do wrong with one operation, on request.

use std::ops::Range;

use crate::disk::IoOp;

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A read.
    Read,
    /// A write, or a punch (a write of zeroes).
    Write,
    /// A flush.
    Flush,
}

/// What happens to an operation instead of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error number, having done nothing. The writes of a failed flush stay as they were: a later
    /// flush makes them durable.
    Error(i32),
    /// A write that fails with this error number, having stored its first `sectors` sectors.
    Partial {
        /// What it fails with.
        errno: i32,
        /// Sectors stored.
        sectors: usize,
    },
    /// Acknowledged, and nothing done: what a write should have replaced stays, after every flush; a flush covers
    /// nothing.
    Lost,
    /// A write that is acknowledged and stored but for this sector, which stays as it was, after every flush.
    LostSector(usize),
    /// A write that is acknowledged and stored at this offset (in bytes) instead.
    Misdirected(u64),
    /// A flush that fails with this error number, and the writes it covers never become durable, although reads show
    /// them: what happens when the kernel marks pages clean whose write-back has failed.
    Forgets(i32),
    /// A read that returns one flipped bit (counted from the start of the read); the medium is good.
    Noise(u64),
}

/// Where and when a fault strikes.
#[derive(Debug)]
pub(super) struct Plan {
    what: What,
    within: Range<u64>,
    skip: u64,
    fault: Fault,
}

impl Plan {
    pub(super) fn new(what: What, within: Range<u64>, skip: u64, fault: Fault) -> Plan {
        Plan { what, within, skip, fault }
    }

    /// Whether it strikes now.
    fn strikes(&mut self, op: &IoOp) -> bool {
        let (what, range) = shape(op);
        let hit = what == self.what && (what == What::Flush || range.start < self.within.end && self.within.start < range.end);
        if !hit {
            return false;
        }
        let now = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        now
    }
}

/// The fault that strikes an operation, if any; it is used up.
pub(super) fn strike(plans: &mut Vec<Plan>, op: &IoOp) -> Option<Fault> {
    // Every plan counts the operation.
    let struck: Vec<usize> = (0..plans.len()).filter(|&n| plans[n].strikes(op)).collect();
    struck.first().map(|&n| plans.remove(n).fault)
}

/// The kind of an operation, and the bytes it touches (none for a flush).
pub(super) fn shape(op: &IoOp) -> (What, Range<u64>) {
    match op {
        IoOp::Read { offset, buf } => (What::Read, *offset..offset + buf.len() as u64),
        IoOp::Write { offset, data } => (What::Write, *offset..offset + data.len() as u64),
        IoOp::Flush => (What::Flush, 0..0),
        IoOp::Punch { offset, len } => (What::Write, *offset..offset + len),
    }
}
