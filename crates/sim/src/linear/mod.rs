//! Linearizability of chunk histories.
//!
//! A [`History`] collects what clients asked and heard, with times; [`History::check`] decides whether one order of
//! all operations on each chunk explains every answer. Linearizability is local (Herlihy and Wing, 1990), so each
//! chunk is checked alone. Versions in replies, where clients saw them, name the order and make the check nearly
//! linear; where they are unknown the search of Wing and Gong with Lowe's memoization decides
//! ("Testing for linearizability", 2017).
//!
//! What must hold of the input: an update whose outcome is unknown is left open (it may take effect at any time after
//! its invocation, or never); one that was rejected had no effect; reads are not relaxed; every chunk is absent at first.

mod explain;
mod model;
mod quick;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use catena_types::{Op, Precondition, Time, Ver};

/// Names an operation of a [`History`].
pub type OpId = usize;

/// What a client asked of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// An update; `data` is the payload of a write, empty otherwise.
    Update {
        /// The update.
        op: Op,
        /// Payload.
        data: Bytes,
        /// Condition.
        precondition: Precondition,
    },
    /// A read of `len` bytes at `offset`, clipped at the end of the chunk.
    Read {
        /// First byte.
        offset: u32,
        /// Bytes wanted; 0: metadata alone.
        len: u32,
    },
}

/// What a client learned of the chunk beside the bytes; all of it optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Version made or read.
    pub ver: Option<Ver>,
    /// Length of the whole chunk in bytes.
    pub len: Option<u32>,
    /// CRC-32C of the whole chunk.
    pub checksum: Option<u32>,
}

/// What a client heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The update is committed.
    Updated(Seen),
    /// The bytes read.
    Read {
        /// Clipped at the end of the chunk.
        bytes: Bytes,
        /// The rest of the reply.
        seen: Seen,
    },
    /// The chunk does not exist: of a read, or of an update that needs one.
    Absent,
    /// The precondition did not hold; the version that was found (0: absent), if told.
    PreconditionFailed(Option<Ver>),
    /// Definitely not applied, for a reason that says nothing about the chunk.
    Rejected,
    /// Nobody knows: of an update, it may or may not take effect, at most once.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who asked.
    pub client: u64,
    /// The chunk.
    pub key: Vec<u8>,
    /// What was asked.
    pub action: Action,
    /// When it was asked.
    pub invoked: Time,
    /// When the outcome was heard; `None` while it is open.
    pub completed: Option<Time>,
    /// The outcome; `Unknown` while it is open.
    pub outcome: Outcome,
}

/// Operations of many clients on many chunks.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: Vec<Record>,
}

/// How much was checked, and how hard it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Chunks with operations.
    pub chunks: usize,
    /// Updates committed.
    pub updates: usize,
    /// Reads, and other answers that say what the chunk was.
    pub reads: usize,
    /// Updates without a known outcome.
    pub open: usize,
    /// Definite rejects.
    pub rejected: usize,
    /// Steps of the search; equal to the number of operations where versions name the order.
    pub steps: u64,
}

/// Why a history cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The chunk.
    pub key: Vec<u8>,
    /// One line: which promise is broken.
    pub what: String,
    /// Operations that show it, in order of invocation.
    pub ops: Vec<OpId>,
    /// The same, one line each, with times and answers.
    pub lines: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chunk \"{}\" is not linearizable: {}", self.key.escape_ascii(), self.what)?;
        for line in &self.lines {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

impl History {
    /// No operations yet.
    pub fn new() -> History {
        History::default()
    }

    /// A client asks something at time `now`. Returns the name under which to report the outcome.
    pub fn invoke(&mut self, now: Time, client: u64, key: &[u8], action: Action) -> OpId {
        self.records.push(Record { client, key: key.to_vec(), action, invoked: now, completed: None, outcome: Outcome::Unknown });
        self.records.len() - 1
    }

    /// The outcome of `id` is heard at time `now`. `Outcome::Unknown` leaves it open; a later report replaces that.
    pub fn complete(&mut self, now: Time, id: OpId, outcome: Outcome) {
        let record = &mut self.records[id];
        assert!(record.completed.is_none(), "operation {id} was completed before");
        record.completed = (outcome != Outcome::Unknown).then_some(now);
        record.outcome = outcome;
    }

    /// What became of an update whose client does not know, learned otherwise: it made version `made`, at some time after
    /// it was asked for; or it had no effect. Nothing changes for an operation whose outcome is known.
    pub fn resolve(&mut self, id: OpId, made: Option<Ver>) {
        let record = &mut self.records[id];
        if record.outcome == Outcome::Unknown {
            record.outcome = made.map_or(Outcome::Rejected, |ver| Outcome::Updated(Seen { ver: Some(ver), ..Seen::default() }));
        }
    }

    /// What clients heard of the checksum of this whole chunk says nothing.
    pub fn forget_checksums(&mut self, key: &[u8]) {
        for record in self.records.iter_mut().filter(|r| r.key == key) {
            if let Outcome::Updated(seen) | Outcome::Read { seen, .. } = &mut record.outcome {
                seen.checksum = None;
            }
        }
    }

    /// All operations, in the order they were added.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether one order of the operations of each chunk explains every answer.
    ///
    /// # Errors
    /// The first chunk (in key order) that has no such order, with the operations that show it.
    pub fn check(&self) -> Result<Stats, Box<Violation>> {
        let mut by_key: BTreeMap<&[u8], Vec<OpId>> = BTreeMap::new();
        for (id, record) in self.records.iter().enumerate() {
            by_key.entry(&record.key).or_default().push(id);
        }
        let mut stats = Stats { chunks: by_key.len(), ..Stats::default() };
        for (key, ids) in by_key {
            self.check_chunk(key, &ids, &mut stats)?;
        }
        Ok(stats)
    }

    fn check_chunk(&self, key: &[u8], ids: &[OpId], stats: &mut Stats) -> Result<(), Box<Violation>> {
        let mut ops = Vec::with_capacity(ids.len());
        for &id in ids {
            match &self.records[id].outcome {
                Outcome::Updated(_) => stats.updates += 1,
                Outcome::Unknown => stats.open += 1,
                Outcome::Rejected => stats.rejected += 1,
                _ => stats.reads += 1,
            }
            ops.extend(model::Item::of(id, &self.records[id]).map_err(|what| self.violation(key, what, vec![id]))?);
        }
        quick::check(&ops).map_err(|(what, ids)| self.violation(key, what, ids))?;
        match search::run(&ops) {
            search::Verdict::Linearizable { steps } => {
                stats.steps += steps;
                Ok(())
            }
            search::Verdict::Stuck(_) => {
                let (what, ids) = explain::shrink(&ops);
                Err(self.violation(key, what, ids))
            }
            search::Verdict::TooHard { steps } => {
                let what = format!("undecided after {steps} steps: too many updates of unknown outcome or version");
                Err(self.violation(key, what, Vec::new()))
            }
        }
    }

    fn violation(&self, key: &[u8], what: String, mut ops: Vec<OpId>) -> Box<Violation> {
        ops.sort_by_key(|&id| (self.records[id].invoked, id));
        ops.dedup();
        let lines = ops.iter().map(|&id| explain::line(id, &self.records[id])).collect();
        Box::new(Violation { key: key.to_vec(), what, ops, lines })
    }
}
