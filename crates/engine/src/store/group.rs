//! Group commit: everything that waits becomes one journal append and one flush.
//!
//! One group is in flight at a time. So at most the last append of the journal is not known durable, which is what lets
//! recovery tell a torn end from rot (amendment M6). Data writes are issued as soon as an update is staged and run beside
//! the previous group's flush; a group's own flush is issued when its append and all its data writes have completed. A
//! target with durability `replicated` reports at this point, and flushes behind ([`CowStore::flush_late`]).
//!
//! What must hold: records get their numbers here, in queue order, and every change that a numbered record describes is
//! in the index already.

use catena_types::{ChunkKey, Done, StageInfo, Time, Ver};

use super::{BLOCK64, CowStore, Limbo, Op, Owner};
use crate::alloc::Run;
use crate::disk::{Disk, IoOp};
use crate::format::Durability;
use crate::format::journal::Record;
use crate::mutation::{Mutation, is};

/// Bytes of records after which an append takes no more.
pub(super) const GROUP_BYTES: usize = 1 << 20;
/// Bytes of data writes that have not completed, of one group, after which further updates wait for the next group: so
/// that with large updates one group's flush runs beside the next one's writes.
const PIPELINE_BYTES: usize = 512 << 10;
/// How long reported groups may wait for a flush on a target with durability `replicated`, in nanoseconds.
const LATE_NS: Time = 100_000_000;

/// Whom to tell when a record is durable.
pub(crate) enum Notify {
    None,
    Staged {
        key: ChunkKey,
        ver: Ver,
        op: u64,
        info: StageInfo,
    },
    Unstaged {
        key: ChunkKey,
        ver: Ver,
    },
    Installed {
        id: u64,
        key: ChunkKey,
        op: u64,
    },
    /// A chunk lies elsewhere now.
    Moved,
    Synced {
        id: u64,
    },
}

/// A record that waits for the next group; without bytes it only marks a place.
pub(crate) struct Pending {
    pub(crate) record: Vec<u8>,
    pub(crate) notify: Notify,
    /// Somebody waits for it.
    pub(crate) urgent: bool,
    /// Operation whose data writes belong to it.
    pub(crate) op: u64,
    /// Blocks that nobody needs once it is durable and older operations have ended.
    pub(crate) frees: Vec<Run>,
    /// Number of the next operation when it was queued.
    pub(crate) before: u64,
    /// The apply that waits for it.
    pub(crate) apply: Option<u64>,
    /// A mark that had to let records pass which were queued later.
    pub(crate) overtaken: bool,
}

/// When a mark's turn is.
enum MarkTurn {
    Now,
    /// Behind everything that is queued now.
    Behind,
    /// Not in this group.
    Later,
}

impl Pending {
    /// Whether the index does not contain the change until the record has a number.
    fn is_stage(&self) -> bool {
        matches!(self.notify, Notify::Staged { .. })
    }
}

/// Records on their way to the medium.
pub(crate) struct Group {
    /// Last record in it.
    last_seq: u64,
    notify: Vec<Notify>,
    /// Journal and data writes that have not completed.
    waiting: usize,
    phase: Phase,
    /// When its flush was issued.
    flushed: Time,
}

#[derive(PartialEq)]
enum Phase {
    Writing,
    Flushing,
    /// The records are part of a checkpoint instead of the journal.
    InCheckpoint,
}

impl<D: Disk> CowStore<D> {
    /// Queues a record.
    pub(super) fn enqueue(&mut self, record: Option<&Record>, urgent: bool, notify: Notify, op: u64, frees: Vec<Run>) {
        if self.failed.is_some() {
            return;
        }
        let mut bytes = Vec::new();
        if let Some(record) = record {
            record.encode(&mut bytes);
        }
        if matches!(notify, Notify::Staged { .. }) {
            // Marks that came after the call have this record behind them now, and must not pass it.
            self.queue.iter_mut().filter(|p| p.record.is_empty() && p.before > op).for_each(|p| p.overtaken = true);
        }
        self.queue.push_back(Pending {
            record: bytes,
            notify,
            urgent,
            op,
            frees,
            before: self.next_op,
            apply: None,
            overtaken: false,
        });
        self.lazy_since.get_or_insert(self.now);
    }

    /// Whether something in the queue is to go out with the next turn that can.
    pub(super) fn queue_urgent(&self) -> bool {
        // Blocks that wait for their record are worth a flush when space is short.
        let short = self.limbo_blocks + self.queue.iter().map(|p| p.frees.len() as u64).sum::<u64>() > self.alloc.free();
        self.queue.iter().any(|p| p.urgent) || (short && !self.queue.is_empty())
    }

    /// Forms the next group if none is in flight and something waits for it; `true` if it has ended already.
    pub(super) fn form_group(&mut self) -> bool {
        if self.failed.is_some() || self.group.is_some() || self.queue.is_empty() {
            return false;
        }
        let late = self.lazy_since.is_some_and(|since| self.now >= since.saturating_add(super::LAZY_NS));
        if !late && !self.queue_urgent() {
            return false;
        }
        let first_seq = self.journal.next_seq;
        let mut group = Group { last_seq: 0, notify: Vec::new(), waiting: 0, phase: Phase::Writing, flushed: 0 };
        let mut body = Vec::new();
        let room = self.journal.room();
        let mut early = Vec::new();
        let mut full = false;
        let due = self.journal.used > self.journal.blocks / 2 || self.table.is_full();
        // A checkpoint starts only behind a group that takes everything.
        let (may_split, mut waits_for) = (!due, 0);
        while let Some(mut next) = self.queue.pop_front() {
            let flying = self.bytes_in_flight(next.op);
            if may_split && !group.notify.is_empty() && waits_for + flying > PIPELINE_BYTES && flying > 0 {
                self.queue.push_front(next);
                break;
            }
            waits_for += flying;
            if body.len() + next.record.len() > room || (body.len() > GROUP_BYTES && !next.record.is_empty()) {
                self.queue.push_front(next);
                full = true;
                break;
            }
            match self.turn_of(&next) {
                MarkTurn::Now => {
                    body.extend_from_slice(&next.record);
                    self.admit(&mut group, next);
                }
                MarkTurn::Behind => {
                    next.overtaken = false;
                    self.queue.push_back(next);
                }
                MarkTurn::Later => {
                    next.overtaken = true;
                    early.push(next);
                }
            }
        }
        self.queue.extend(early);
        if group.notify.is_empty() && body.is_empty() {
            // Not even one fits: only a checkpoint makes room.
            if full {
                self.start_stalled_checkpoint();
            }
            return false;
        }
        group.last_seq = self.journal.last_seq();
        if !body.is_empty() {
            self.issue_append(&mut group, first_seq, &body);
        }
        self.group = Some(group);
        self.lazy_since = (!self.queue.is_empty()).then_some(self.now);
        if due && self.queue.iter().all(|p| p.is_stage() || p.record.is_empty()) {
            self.start_checkpoint();
        }
        self.advance_group();
        self.group.is_none()
    }

    /// Bytes of an operation's data writes that have not completed.
    fn bytes_in_flight(&self, op: u64) -> usize {
        match self.ops.get(&op) {
            Some(Op::Update(update)) if update.writes_left > 0 => update.bytes,
            _ => 0,
        }
    }

    /// Whether a mark may pass: an update that was staged before it may still be reading, without a record yet.
    fn turn_of(&self, next: &Pending) -> MarkTurn {
        if !next.record.is_empty() {
            MarkTurn::Now
        } else if self.ops.range(..next.before).any(|(_, op)| matches!(op, Op::Update(u) if u.is_reading())) {
            MarkTurn::Later
        } else if next.overtaken {
            MarkTurn::Behind
        } else {
            MarkTurn::Now
        }
    }

    /// Gives a record its number and makes it part of the group.
    fn admit(&mut self, group: &mut Group, next: Pending) {
        if !next.record.is_empty() {
            self.journal.next_seq += 1;
            self.stats.records += 1;
        }
        let seq = self.journal.last_seq();
        if !next.frees.is_empty() {
            self.limbo_blocks += next.frees.iter().map(|r| u64::from(r.len)).sum::<u64>();
            self.limbo.push_back(Limbo { seq, before: next.before, runs: next.frees });
        }
        if let Notify::Staged { key, op, .. } = &next.notify
            && let Some(s) = self.staged.get_mut(key).filter(|s| s.op == *op)
        {
            s.seq = Some(seq);
        }
        if let Some(number) = next.apply {
            self.number_apply(number, seq);
        }
        if let Some(Op::Update(op)) = self.ops.get_mut(&next.op)
            && op.writes_left > 0
        {
            op.in_group = !is(Mutation::FlushBeforeData);
            group.waiting += usize::from(op.in_group);
        }
        match next.notify {
            Notify::Staged { key, ver, op, info } if is(Mutation::ReportEarly) => self.staged_durable(key, ver, op, info),
            notify => group.notify.push(notify),
        }
    }

    fn issue_append(&mut self, group: &mut Group, first_seq: u64, body: &[u8]) {
        let records = (self.journal.next_seq - first_seq) as u32;
        let generation = self.superblock.generation;
        let writes =
            self.journal.append(generation, first_seq, records, body, self.uuid_crc, &self.superblock.params, &self.arena);
        for write in writes {
            if let IoOp::Write { data, .. } = &write {
                self.stats.journal_bytes += data.len() as u64;
            }
            group.waiting += usize::from(!is(Mutation::FlushBeforeAppend));
            self.submit(Owner::Append, write);
        }
        self.stats.appends += 1;
        self.stats.largest_group = self.stats.largest_group.max(u64::from(records));
        self.metrics.records.note(u64::from(records));
    }

    /// A write of the group in flight has completed.
    pub(super) fn group_io_done(&mut self) {
        if let Some(group) = &mut self.group {
            group.waiting = group.waiting.saturating_sub(1);
        }
    }

    /// Issues the flush when all writes have completed.
    pub(super) fn advance_group(&mut self) {
        let Some(group) = &mut self.group else { return };
        if group.phase != Phase::Writing || group.waiting > 0 || self.failed.is_some() {
            return;
        }
        if group.last_seq <= self.journal.durable {
            // Only marks, and everything before them is durable.
            return self.group_durable();
        }
        if is(Mutation::SkipFlush) {
            return self.group_durable();
        }
        if self.superblock.params.durability == Durability::Replicated {
            return self.group_ended();
        }
        group.phase = Phase::Flushing;
        group.flushed = self.now;
        self.stats.flushes += 1;
        self.submit(Owner::GroupFlush, IoOp::Flush);
    }

    /// Everything in the group is durable.
    pub(super) fn group_durable(&mut self) {
        if let Some(group) = &self.group {
            self.journal.note_durable(group.last_seq);
            if group.phase == Phase::Flushing {
                self.metrics.flush.note(self.now.saturating_sub(group.flushed));
            }
        }
        self.group_ended();
    }

    /// The group is as durable as the target promises.
    fn group_ended(&mut self) {
        let Some(group) = self.group.take() else { return };
        if group.last_seq > self.journal.reported {
            self.journal.reported = group.last_seq;
            self.journal.reported_at.get_or_insert(self.now);
        }
        for notify in group.notify {
            self.tell(notify);
        }
    }

    fn tell(&mut self, notify: Notify) {
        match notify {
            Notify::None => {}
            Notify::Staged { key, ver, op, info } => self.staged_durable(key, ver, op, info),
            Notify::Unstaged { key, ver } => self.done.push(Done::Unstaged { key, ver }),
            Notify::Installed { id, key, op } => {
                if self.overlay.get_mut(&key).is_some_and(|o| o.lift(op)) {
                    self.overlay.remove(&key);
                }
                self.done.push(Done::Synced { id });
            }
            Notify::Moved => self.move_recorded(),
            Notify::Synced { id } => self.done.push(Done::Synced { id }),
        }
    }

    fn staged_durable(&mut self, key: ChunkKey, ver: Ver, op: u64, info: StageInfo) {
        let Some(s) = self.staged.get_mut(&key).filter(|s| s.op == op) else { return };
        s.staged.durable = true;
        self.reserved -= s.fresh_blocks();
        self.stats.staged += 1;
        self.metrics.staged(op, self.now, u64::from(info.blocks_written) * BLOCK64);
        if !self.patch_staged(&key, ver, op, info.checksum) {
            self.done.push(Done::Staged { key, ver, info });
        }
    }

    /// The journal is full: what the queue describes goes into a checkpoint directly, and no append is written before
    /// that is done. Staged updates keep waiting, and whatever waits for them.
    fn start_stalled_checkpoint(&mut self) {
        if self.checkpoint.is_some() {
            return;
        }
        self.stats.stalls += 1;
        let mut group = Group { last_seq: 0, notify: Vec::new(), waiting: 0, phase: Phase::InCheckpoint, flushed: 0 };
        let mut stages = false;
        for next in std::mem::take(&mut self.queue) {
            let later = next.record.is_empty() && (stages || !matches!(self.turn_of(&next), MarkTurn::Now));
            if next.is_stage() || later {
                stages = true;
                self.queue.push_back(next);
            } else {
                self.admit(&mut group, next);
            }
        }
        group.last_seq = self.journal.last_seq();
        self.group = Some(group);
        self.lazy_since = (!self.queue.is_empty()).then_some(self.now);
        self.start_checkpoint();
    }

    /// Whether every record up to `seq` is written, or is in a group whose data is written and that only waits for the
    /// checkpoint; the checkpoint's own flush is still to come.
    pub(super) fn ready_for_checkpoint(&self, seq: u64) -> bool {
        match &self.group {
            Some(group) if group.phase == Phase::InCheckpoint => group.waiting == 0,
            _ => self.journal.durable.max(self.journal.reported) >= seq,
        }
    }

    /// The checkpoint is durable: so is a group that went into it.
    pub(super) fn checkpoint_durable(&mut self, seq: u64) {
        self.journal.note_durable(seq);
        self.journal.said = self.journal.said.max(seq);
        if self.group.as_ref().is_some_and(|g| g.phase == Phase::InCheckpoint) {
            self.group_durable();
        }
    }

    /// Flushes behind groups that were reported without one: after a while, or when their blocks are needed.
    pub(super) fn flush_late(&mut self) {
        let waits = self.journal.reported > self.journal.durable && !self.late_flush && self.failed.is_none();
        let due = self.late_flush_due().is_some_and(|due| self.now >= due);
        if waits && (due || self.limbo_blocks > self.alloc.free() || !self.applies.is_empty()) {
            self.late_flush = true;
            self.stats.flushes += 1;
            self.submit(Owner::LateFlush { seq: self.journal.reported }, IoOp::Flush);
        }
    }

    /// When [`CowStore::flush_late`] has something to do.
    pub(super) fn late_flush_due(&self) -> Option<Time> {
        let since = self.journal.reported_at.filter(|_| self.journal.reported > self.journal.durable && !self.late_flush);
        since.map(|since| since.saturating_add(LATE_NS))
    }

    /// The flush has completed: everything up to `seq` is durable.
    pub(super) fn flushed_late(&mut self, seq: u64) {
        self.late_flush = false;
        self.journal.note_durable(seq);
        self.journal.reported_at = (self.journal.reported > self.journal.durable).then_some(self.now);
    }
}
