//! The store in memory, driven by a clock and by chance.
//!
//! Records are durable when a flush that began after them has ended; completions of one flush come in any order, reads end
//! in any order. Committed versions can rot: reads of them are refused, and updates that keep bytes of them fail or make
//! a version that is rotten too.

use bytes::Bytes;
use catena_types::{ChunkKey, Code, Done, Time, Ver};

use super::contents::{Flaw, Record};
use super::{Contents, MemStore, Whims};
use crate::rng::Rng;

/// What happens by chance.
pub(crate) struct Chance {
    rng: Rng,
    /// While set, one of `full_one_in` requests that need space is not taken, with this error.
    pub(crate) full: Option<Code>,
    /// See [`Chance::full`].
    pub(crate) full_one_in: u64,
    /// One of so many reads finds corrupt bytes; 0: none.
    pub(crate) corrupt_one_in: u64,
    /// Something waits for a flush that has not begun.
    wanted: bool,
}

impl Whims<Bytes> for Chance {
    fn full(&mut self) -> Option<Code> {
        self.full.filter(|_| self.rng.below(self.full_one_in) == 0)
    }

    fn notices_rot(&mut self) -> bool {
        self.rng.below(4) > 0
    }

    fn misreads(&mut self) -> bool {
        self.corrupt_one_in > 0 && self.rng.below(self.corrupt_one_in) == 0
    }

    fn no_sums(&mut self) -> bool {
        self.rng.below(20) == 0
    }

    fn no_patch(&mut self) -> bool {
        self.rng.below(20) == 0
    }

    fn waits(&mut self, _done: &Done<Bytes>) -> bool {
        self.wanted = true;
        true
    }
}

struct Flush {
    ends: Time,
    records: usize,
}

/// See the file's documentation.
pub struct ModelStore {
    pub(crate) store: MemStore<Bytes, Chance>,
    flush: Option<Flush>,
    /// When it looks for rot next, and how often it does; `None`: never.
    scrub: (Time, Option<Time>),
    /// Rotten versions that it has found and not been asked for.
    found: u64,
    ready: Vec<Done<Bytes>>,
    mean: Time,
    failed: bool,
    /// The next flush fails.
    pub(crate) fail_next: bool,
}

impl ModelStore {
    /// A store with these contents; operations take about `mean` nanoseconds.
    pub fn open(contents: Contents<Bytes>, mean: Time, rng: Rng) -> ModelStore {
        let chance = Chance { rng, full: None, full_one_in: 1, corrupt_one_in: 0, wanted: false };
        ModelStore {
            store: MemStore::open(contents, chance),
            flush: None,
            scrub: (0, None),
            found: 0,
            ready: Vec::new(),
            mean,
            failed: false,
            fail_next: false,
        }
    }

    /// What is found after a crash now: the durable records and a random beginning of the others.
    pub fn crash(&mut self) -> Contents<Bytes> {
        let kept = self.store.whims.rng.below(self.store.loose() as u64 + 1);
        self.store.after_crash(kept as usize)
    }

    /// What is found after a crash now that loses all it can.
    pub(crate) fn durable(&self) -> Contents<Bytes> {
        self.store.after_crash(0)
    }

    /// What is found after a clean end.
    pub fn close(&mut self) -> Contents<Bytes> {
        if self.failed { self.crash() } else { self.store.after_crash(self.store.loose()) }
    }

    /// Starts what was asked for since. Returns when to call [`ModelStore::poll`].
    pub fn kick(&mut self, now: Time) -> Option<Time> {
        let chance = &mut self.store.whims;
        for (ends, _) in self.store.answers.iter_mut().filter(|(ends, _)| ends.is_none()) {
            *ends = Some(now + chance.rng.delay(self.mean));
        }
        if chance.wanted && self.flush.is_none() && !self.failed {
            self.flush = Some(Flush { ends: now + chance.rng.delay(self.mean), records: self.store.loose.len() });
            chance.wanted = false;
        }
        if !self.ready.is_empty() {
            return Some(now);
        }
        if self.failed {
            return None;
        }
        let scrub = self.scrub.1.map(|_| self.scrub.0);
        let answers = self.store.answers.iter().filter_map(|(ends, _)| *ends);
        self.flush.iter().map(|f| f.ends).chain(answers).chain(scrub).min()
    }

    /// Looks for rot from now on, this often.
    pub(crate) fn set_scrub(&mut self, every: Option<Time>) {
        self.scrub = (0, every);
    }

    /// Rotten versions found since the last call.
    pub(crate) fn take_found(&mut self) -> u64 {
        std::mem::take(&mut self.found)
    }

    /// Committed versions that are rotten.
    pub(crate) fn rotten(&self) -> u64 {
        self.store.memory.chunks.values().filter(|c| c.rotten.0).count() as u64
    }

    /// The disk of the open store rots: see [`Contents::rot`].
    pub(crate) fn rot(&mut self, one_in: u64, rng: &mut Rng) -> u64 {
        let struck = self.store.memory.rot(one_in, rng);
        for (key, ver) in &struck {
            let durable = self.store.medium.chunks.get_mut(key);
            if let Some(chunk) = durable.filter(|c| c.committed.as_ref().is_some_and(|(c, _)| c.ver == *ver)) {
                chunk.rotten.0 = true;
            }
        }
        struck.len() as u64
    }

    /// See [`Contents::heal`].
    pub(crate) fn heal(&mut self) -> bool {
        let medium = self.store.medium.heal();
        for record in &mut self.store.loose {
            if let Record::Stage(.., flaw @ Flaw::Rot) = record {
                *flaw = Flaw::None;
            }
        }
        self.store.memory.heal() || medium
    }

    fn look_for_rot(&mut self, now: Time) {
        let Some(every) = self.scrub.1.filter(|_| self.scrub.0 <= now) else { return };
        self.scrub.0 = now + every;
        let chunks = self.store.memory.chunks.iter().filter(|(_, c)| c.rotten.0);
        let rotten: Vec<_> = chunks.filter_map(|(key, c)| Some((key.clone(), c.committed.as_ref()?.0.ver))).collect();
        if let Some((key, ver)) = rotten.get(self.store.whims.rng.below(rotten.len() as u64) as usize).cloned() {
            self.found += 1;
            self.ready.push(Done::Damaged { key, ver });
        }
    }

    /// Hands out what has ended by `now`.
    pub fn poll(&mut self, now: Time, out: &mut Vec<Done<Bytes>>) {
        if !self.failed {
            self.look_for_rot(now);
        }
        out.append(&mut self.ready);
        if self.failed {
            return;
        }
        for done in self.answered(now) {
            if let Done::StageFailed { key, ver, .. } = &done
                && let Some(chunk) = self.store.memory.chunks.get_mut(key)
            {
                chunk.staged.take_if(|(s, _)| s.ver == *ver);
            }
            out.push(done);
        }
        if let Some(flush) = self.flush.take_if(|f| f.ends <= now) {
            if self.fail_next {
                self.failed = true;
                out.push(Done::Failed { reason: "flush of the model's journal: injected EIO".into() });
                return;
            }
            self.end_flush(flush.records, out);
        }
    }

    fn answered(&mut self, now: Time) -> impl Iterator<Item = Done<Bytes>> + use<> {
        let ended = self.store.answers.extract_if(.., |(ends, _)| ends.is_some_and(|at| at <= now));
        ended.flat_map(|(_, dones)| dones).collect::<Vec<_>>().into_iter()
    }

    fn end_flush(&mut self, records: usize, out: &mut Vec<Done<Bytes>>) {
        self.store.harden(records);
        let mut ended: Vec<_> = std::iter::from_fn(|| self.store.end_one()).collect();
        for n in (1..ended.len()).rev() {
            ended.swap(n, self.store.whims.rng.below(n as u64 + 1) as usize);
        }
        out.append(&mut ended);
    }
}

impl Contents<Bytes> {
    /// Committed versions rot, about one of `one_in`. Gives their keys.
    pub(crate) fn rot(&mut self, one_in: u64, rng: &mut Rng) -> Vec<(ChunkKey, Ver)> {
        let mut struck = Vec::new();
        for (key, chunk) in &mut self.chunks {
            if let Some((committed, _)) = &chunk.committed
                && rng.below(one_in) == 0
            {
                chunk.rotten.0 = true;
                struck.push((key.clone(), committed.ver));
            }
        }
        struck
    }

    /// Nothing ever rotted. Says whether something had.
    pub(crate) fn heal(&mut self) -> bool {
        let mut any = false;
        for chunk in self.chunks.values_mut().filter(|c| !c.lost) {
            any |= std::mem::take(&mut chunk.rotten) != (false, false);
        }
        any
    }
}
