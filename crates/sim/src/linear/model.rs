//! What a chunk is, for the checker: the sequential object that histories are compared with.
//!
//! A version is known exactly once anything named it; before, only a lower bound is (a chunk made anew continues
//! anywhere above what was removed). Every step can be undone, which is what makes a deep search cheap.

use bytes::Bytes;
use catena_types::crc::crc32c;
use catena_types::{Op, OpKind, Precondition, Time, Ver};

use super::{Action, OpId, Outcome, Record, Seen};

/// What an operation does to the chunk, or says about it.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Changes it; `required` unless the outcome is unknown.
    Update { op: Op, data: Bytes, precondition: Precondition, seen: Seen, required: bool },
    /// Says what it was.
    Observe(Observation),
}

/// What an answer says about the chunk.
#[derive(Clone, Debug)]
pub(super) enum Observation {
    /// These bytes at this offset.
    Bytes { offset: u32, want: u32, bytes: Bytes, seen: Seen },
    /// It did not exist.
    Absent,
    /// It existed with this version.
    Version(Ver),
    /// The precondition did not hold.
    Not(Precondition),
}

/// An operation as the search sees it. `end` is `Time::MAX` for one that is open.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: OpId,
    pub(super) begin: Time,
    pub(super) end: Time,
    pub(super) effect: Effect,
}

impl Item {
    /// What `record` contributes: nothing if it neither changed the chunk nor saw it. `Err` for an answer that
    /// contradicts its own question.
    pub(super) fn of(id: OpId, record: &Record) -> Result<Option<Item>, String> {
        let effect = match (&record.action, &record.outcome) {
            (_, Outcome::Rejected) | (Action::Read { .. }, Outcome::Unknown) => return Ok(None),
            (Action::Read { offset, len }, Outcome::Read { bytes, seen }) => {
                Effect::Observe(Observation::Bytes { offset: *offset, want: *len, bytes: bytes.clone(), seen: *seen })
            }
            (_, Outcome::Absent) => Effect::Observe(Observation::Absent),
            (Action::Update { op, data, precondition }, outcome @ (Outcome::Updated(_) | Outcome::Unknown)) => {
                let (seen, required) = match outcome {
                    Outcome::Updated(seen) => (*seen, record.completed.is_some()),
                    _ => (Seen::default(), false),
                };
                Effect::Update { op: *op, data: data.clone(), precondition: *precondition, seen, required }
            }
            (Action::Update { precondition, .. }, Outcome::PreconditionFailed(found)) => match found {
                Some(v) if precondition.holds(*v) => {
                    return Err(format!("the precondition {precondition:?} was refused although version {v} meets it"));
                }
                Some(0) => Effect::Observe(Observation::Absent),
                Some(v) => Effect::Observe(Observation::Version(*v)),
                None => Effect::Observe(Observation::Not(*precondition)),
            },
            (action, outcome) => return Err(format!("the answer {outcome:?} does not fit the question {action:?}")),
        };
        let end = record.completed.unwrap_or(Time::MAX);
        Ok(Some(Item { id, begin: record.invoked, end, effect }))
    }

    /// Version made by it, if it is an update and known.
    pub(super) fn made(&self) -> Option<Ver> {
        match &self.effect {
            Effect::Update { seen, .. } => seen.ver,
            Effect::Observe(_) => None,
        }
    }

    /// Version it saw, made or not, if known.
    pub(super) fn version(&self) -> Option<Ver> {
        match &self.effect {
            Effect::Update { seen, .. } | Effect::Observe(Observation::Bytes { seen, .. }) => seen.ver,
            Effect::Observe(Observation::Version(v)) => Some(*v),
            Effect::Observe(_) => None,
        }
    }

    /// What was said of the whole chunk, if anything.
    pub(super) fn seen(&self) -> Seen {
        match &self.effect {
            Effect::Update { op, seen, .. } if op.kind() != OpKind::Remove => *seen,
            Effect::Observe(Observation::Bytes { seen, .. }) => *seen,
            _ => Seen::default(),
        }
    }

    pub(super) fn is_update(&self) -> bool {
        matches!(self.effect, Effect::Update { .. })
    }

    pub(super) fn required(&self) -> bool {
        self.end != Time::MAX
    }
}

/// A chunk. `ver` is exact if `exact`, otherwise a lower bound; of an absent chunk it is the last version there was.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) exists: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) ver: Ver,
    pub(super) exact: bool,
    crc: Option<u32>,
}

/// What brings the state before a step back.
#[derive(Debug)]
pub(super) struct Undo {
    exists: bool,
    ver: Ver,
    exact: bool,
    crc: Option<u32>,
    old_len: usize,
    from: usize,
    saved: Vec<u8>,
}

impl State {
    /// Checksum of the whole chunk.
    pub(super) fn checksum(&mut self) -> u32 {
        let bytes = &self.bytes;
        *self.crc.get_or_insert_with(|| crc32c(bytes))
    }

    /// Applies an update; `None` if it could not have happened to this chunk with this outcome.
    pub(super) fn update(&mut self, op: &Op, data: &Bytes, precondition: Precondition, seen: &Seen) -> Option<Undo> {
        if (op.kind() == OpKind::Remove && !self.exists) || !self.may_hold(precondition) {
            return None;
        }
        let pinned = match precondition {
            Precondition::Version(v) => v,
            _ => self.ver,
        };
        let exact_base = self.exists && (self.exact || matches!(precondition, Precondition::Version(_)));
        let next = pinned + 1;
        let ver = match seen.ver {
            Some(v) if v < next || (exact_base && v != next) => return None,
            Some(v) => v,
            None => next,
        };
        let undo = self.change(op, data);
        self.ver = ver;
        self.exact = exact_base || seen.ver.is_some();
        let fits = op.kind() == OpKind::Remove || self.fits_seen(seen);
        if fits {
            return Some(undo);
        }
        self.undo(undo);
        None
    }

    fn change(&mut self, op: &Op, data: &Bytes) -> Undo {
        let old_len = self.bytes.len();
        let (at, new_len) = (op.offset as usize, op.new_len(old_len as u32) as usize);
        let (from, to) = match op.kind() {
            OpKind::Write => (at.min(old_len), (at + data.len()).min(old_len)),
            _ => (new_len.min(old_len), old_len),
        };
        let saved = self.bytes[from..to.max(from)].to_vec();
        let undo = Undo { exists: self.exists, ver: self.ver, exact: self.exact, crc: self.crc, old_len, from, saved };
        self.bytes.resize(new_len, 0);
        if op.kind() == OpKind::Write {
            self.bytes[at..at + data.len()].copy_from_slice(data);
        }
        self.exists = op.kind() != OpKind::Remove;
        self.crc = None;
        undo
    }

    /// Takes a step back.
    pub(super) fn undo(&mut self, undo: Undo) {
        self.bytes.resize(undo.old_len, 0);
        self.bytes[undo.from..undo.from + undo.saved.len()].copy_from_slice(&undo.saved);
        (self.exists, self.ver, self.exact, self.crc) = (undo.exists, undo.ver, undo.exact, undo.crc);
    }

    /// Learns the exact version from an observation that fits.
    pub(super) fn pin(&mut self, ver: Ver) -> Undo {
        let undo = Undo {
            exists: self.exists,
            ver: self.ver,
            exact: self.exact,
            crc: self.crc,
            old_len: self.bytes.len(),
            from: 0,
            saved: Vec::new(),
        };
        (self.ver, self.exact) = (ver, true);
        undo
    }

    /// Whether this answer could be about this chunk, as it is.
    pub(super) fn fits(&mut self, observation: &Observation) -> bool {
        match observation {
            Observation::Absent => !self.exists,
            Observation::Version(v) => self.exists && self.may_be(*v),
            Observation::Not(p) => match p {
                Precondition::Version(v) => !self.exists || !self.exact || self.ver != *v,
                _ => !p.holds(u64::from(self.exists)),
            },
            Observation::Bytes { offset, want, bytes, seen } => {
                let from = (*offset as usize).min(self.bytes.len());
                let to = (*offset as usize).saturating_add(*want as usize).min(self.bytes.len());
                self.exists
                    && seen.ver.is_none_or(|v| self.may_be(v))
                    && self.bytes[from..to.max(from)] == bytes[..]
                    && self.fits_seen(seen)
            }
        }
    }

    /// Whether the length and checksum told are those of this chunk.
    pub(super) fn fits_seen(&mut self, seen: &Seen) -> bool {
        seen.len.is_none_or(|len| len as usize == self.bytes.len()) && seen.checksum.is_none_or(|c| c == self.checksum())
    }

    fn may_be(&self, ver: Ver) -> bool {
        if self.exact { self.ver == ver } else { ver >= self.ver }
    }

    fn may_hold(&self, precondition: Precondition) -> bool {
        match precondition {
            Precondition::Version(v) => self.exists && self.may_be(v),
            _ => precondition.holds(u64::from(self.exists)),
        }
    }
}
