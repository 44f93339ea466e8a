//! One read, from its first attempt to its end. Also the listing of one chain, which is a read at its tail.
//!
//! A read has no effect, so any answer to any attempt will do, and another replica is asked as soon as one is slow,
//! unreachable or cannot answer.

use catena_types::{Chain, ChainId, Class, Code, Failure, PublicState, Routing, TargetId, Time};

use crate::core::{Attempt, Lost, Step, Tuning};
use crate::error::{Error, ErrorKind};

/// Which replicas may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Any that serves; `start` spreads reads over equally good ones.
    Any {
        /// A number that differs between reads.
        start: u64,
    },
    /// The tail.
    Tail,
    /// This one.
    Target(TargetId),
}

/// The retry logic of one read.
#[derive(Clone, Debug)]
pub struct ReadCall {
    tuning: Tuning,
    chain: ChainId,
    place: Place,
    bytes: u64,
    deadline: Time,
    phase: Phase,
    attempts: u32,
    /// Version of the routing the newest attempt was made from.
    routing: u64,
    /// Replicas asked in vain in this round.
    tried: Vec<TargetId>,
    /// Replicas that will not answer this read better if asked again.
    hopeless: Vec<TargetId>,
    /// Some of them hold a damaged copy.
    corrupt: bool,
    rounds: u32,
    timeouts: u32,
    /// Longest pause a busy replica asked for in this round, in microseconds.
    asked_us: Option<u64>,
    last: Option<Error>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// To be sent at `at`, or as soon as there is routing newer than `newer_than`.
    Ready { at: Time, newer_than: Option<u64> },
    /// The newest attempt has not been answered.
    Sent { to: Attempt, serving: bool },
    /// Over.
    Failed(Error),
}

impl ReadCall {
    /// A read of `bytes` from `chain`.
    pub fn new(chain: ChainId, place: Place, bytes: u32, deadline: Time, tuning: Tuning) -> ReadCall {
        ReadCall {
            tuning,
            chain,
            place,
            bytes: bytes.into(),
            deadline,
            phase: Phase::Ready { at: 0, newer_than: None },
            attempts: 0,
            routing: 0,
            tried: Vec::new(),
            hopeless: Vec::new(),
            corrupt: false,
            rounds: 0,
            timeouts: 0,
            asked_us: None,
            last: None,
        }
    }

    /// What to do now. `cost` says how unwelcome a replica is: those of the lowest cost are asked first.
    pub fn step(&mut self, now: Time, routing: &Routing, cost: &dyn Fn(TargetId) -> u64) -> Step {
        loop {
            match self.phase {
                Phase::Failed(ref e) => return Step::Failed(e.clone()),
                Phase::Sent { to, .. } if now < to.until => return Step::Await { until: to.until },
                Phase::Sent { to, .. } => self.lost(to.number, Lost::TimedOut, now),
                Phase::Ready { .. } if now >= self.deadline => self.give_up(),
                Phase::Ready { at, newer_than } => {
                    if now < at && newer_than.is_none_or(|v| routing.version <= v) {
                        return Step::Wait { until: at.min(self.deadline), newer_than };
                    }
                    if let Some(attempt) = self.attempt(now, routing, cost) {
                        return Step::Send(attempt);
                    }
                }
            }
        }
    }

    /// The next attempt, if somebody is left to ask in this round.
    fn attempt(&mut self, now: Time, routing: &Routing, cost: &dyn Fn(TargetId) -> u64) -> Option<Attempt> {
        if routing.version != self.routing {
            self.tried.clear();
            self.routing = routing.version;
        }
        let Some(chain) = routing.chain(self.chain) else {
            return self.nobody(now, format!("chain {} is not in the routing", self.chain));
        };
        let candidates = match self.candidates(chain) {
            Ok(candidates) => candidates,
            Err(e) => {
                self.phase = Phase::Failed(e);
                return None;
            }
        };
        if candidates.is_empty() {
            return self.nobody(now, format!("chain {} has no serving replica", self.chain));
        }
        if candidates.iter().all(|t| self.hopeless.contains(t)) {
            self.no_hope();
            return None;
        }
        let Some(target) = self.choose(&candidates, cost) else {
            self.end_round(now);
            return None;
        };
        self.attempts += 1;
        let first = if candidates.len() > 1 { self.tuning.read_attempt } else { self.tuning.update_attempt };
        let until = now.saturating_add(self.tuning.patience(first, self.timeouts, self.bytes)).min(self.deadline);
        let to = Attempt { number: self.attempts, chain: self.chain, chain_ver: chain.chain_ver, target, until, first: false };
        self.phase = Phase::Sent { to, serving: chain.state_of(target) == Some(PublicState::Serving) };
        Some(to)
    }

    fn candidates(&self, chain: &Chain) -> Result<Vec<TargetId>, Error> {
        match self.place {
            Place::Any { .. } => Ok(chain.serving().collect()),
            Place::Tail => Ok(chain.tail().into_iter().collect()),
            Place::Target(t) if chain.state_of(t).is_some() => Ok(vec![t]),
            Place::Target(t) => {
                let cause = format!("target {t} is not in chain {}, where this key lives", self.chain);
                Err(Error::new(ErrorKind::InvalidArgument, cause))
            }
        }
    }

    /// The cheapest one not asked yet; among equals, the turn goes round.
    fn choose(&self, candidates: &[TargetId], cost: &dyn Fn(TargetId) -> u64) -> Option<TargetId> {
        let start = if let Place::Any { start } = self.place { start } else { 0 };
        let n = candidates.len();
        let turn = (start % n as u64) as usize;
        (0..n)
            .map(|i| candidates[(turn + i) % n])
            .filter(|t| !self.tried.contains(t) && !self.hopeless.contains(t))
            .min_by_key(|&t| cost(t))
    }

    /// The attempt was answered with a failure.
    pub fn failed(&mut self, number: u32, failure: &Failure, now: Time) {
        let Some((to, serving)) = self.waits_for(number) else { return };
        let e = Error::from_failure(failure);
        match (failure.code(), failure.class()) {
            (_, Class::Rejected) => return self.phase = Phase::Failed(e),
            (Code::WrongChainVersion, _) if failure.version > to.chain_ver => {
                // Everybody will say so: newer routing is what is needed.
                self.last = Some(e);
                return self.end_round(now);
            }
            (_, Class::Redirect) if !serving && failure.code() != Code::WrongChainVersion => {
                return self.phase = Phase::Failed(e); // asked by name, and it is known not to serve
            }
            (Code::Corrupt, _) => {
                self.corrupt = true;
                self.hopeless.push(to.target);
            }
            (_, Class::Refused) => self.hopeless.push(to.target),
            (_, Class::Overload) => self.asked_us = self.asked_us.max(Some(failure.version)),
            _ => {}
        }
        self.next_replica(to.target, e, now);
    }

    /// The attempt ended without an answer.
    pub fn lost(&mut self, number: u32, how: Lost, now: Time) {
        let Some((to, _)) = self.waits_for(number) else { return };
        let cause = match how {
            Lost::NotSent(cause) | Lost::Broken(cause) => cause,
            Lost::TimedOut => {
                self.timeouts += 1;
                format!("target {} did not answer", to.target)
            }
        };
        self.next_replica(to.target, Error::new(ErrorKind::Timeout, cause), now);
    }

    fn waits_for(&self, number: u32) -> Option<(Attempt, bool)> {
        match self.phase {
            Phase::Sent { to, serving } if to.number == number => Some((to, serving)),
            _ => None,
        }
    }

    fn next_replica(&mut self, after: TargetId, e: Error, now: Time) {
        self.tried.push(after);
        self.last = Some(e);
        self.phase = Phase::Ready { at: now, newer_than: None };
    }

    fn nobody(&mut self, now: Time, cause: String) -> Option<Attempt> {
        self.last = Some(Error::new(ErrorKind::Unavailable, cause));
        self.end_round(now);
        None
    }

    /// Everybody was asked: start again with newer routing, or after a pause.
    fn end_round(&mut self, now: Time) {
        self.tried.clear();
        let pause = match self.asked_us.take() {
            Some(us) => self.tuning.overload(self.rounds, us),
            None => self.tuning.pause(self.rounds),
        };
        self.rounds += 1;
        self.phase = Phase::Ready { at: now.saturating_add(pause), newer_than: Some(self.routing) };
    }

    /// No replica can answer this read, now or later.
    fn no_hope(&mut self) {
        let asked = self.hopeless.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let last = self.last.take().unwrap_or_else(|| Error::new(ErrorKind::Refused, ""));
        let e = if self.corrupt { last.into_kind(ErrorKind::Corrupt) } else { last };
        self.phase = Phase::Failed(e.context(format!("asked every replica (targets {asked})")));
    }

    /// The deadline has passed.
    fn give_up(&mut self) {
        let e = self.last.take().unwrap_or_else(|| Error::new(ErrorKind::Timeout, "the deadline passed before it was sent"));
        self.phase = Phase::Failed(e.into_kind(ErrorKind::Timeout).context(format!("gave up after {} attempts", self.attempts)));
    }
}
