//! One update, from its first attempt to its end.
//!
//! Every attempt carries the same tag, so that replicas can tell that it is the same update. An attempt is *open* while it
//! may have been applied or may still be: it was sent, and no answer says that this frame had no effect.

use catena_types::{ChainId, ChainVer, Class, Code, Failure, Routing, Time};

use crate::core::{Attempt, Lost, Step, Tuning};
use crate::error::{Error, ErrorKind};
use crate::mutation::{Mutation, is};

/// The retry logic of one update.
#[derive(Clone, Debug)]
pub struct UpdateCall {
    tuning: Tuning,
    chain: ChainId,
    bytes: u64,
    deadline: Time,
    /// The session may be new on the chain.
    first: bool,
    phase: Phase,
    attempts: u32,
    /// Highest membership version any attempt was sent under.
    sent_under: ChainVer,
    /// Version of the routing the newest attempt was made from.
    routing: u64,
    /// Attempts that may have been, or may yet be, applied; the one waited for is not among them.
    open: Vec<u32>,
    /// Attempts in a row that ended in the same way.
    redirects: u32,
    overloads: u32,
    timeouts: u32,
    damaged: u32,
    /// How the newest attempt that ended, ended.
    last: Option<Error>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// To be sent at `at`, or as soon as there is routing newer than `newer_than`.
    Ready { at: Time, newer_than: Option<u64> },
    /// The newest attempt has not been answered.
    Sent { until: Time },
    /// Over.
    Failed(Error),
}

impl UpdateCall {
    /// An update on `chain` with `bytes` of payload. `first`: no commit of its session was acknowledged there yet.
    pub fn new(chain: ChainId, bytes: u32, first: bool, deadline: Time, tuning: Tuning) -> UpdateCall {
        UpdateCall {
            tuning,
            chain,
            bytes: bytes.into(),
            deadline,
            first,
            phase: Phase::Ready { at: 0, newer_than: None },
            attempts: 0,
            sent_under: 0,
            routing: 0,
            open: Vec::new(),
            redirects: 0,
            overloads: 0,
            timeouts: 0,
            damaged: 0,
            last: None,
        }
    }

    /// Attempts made so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What to do now.
    pub fn step(&mut self, now: Time, routing: &Routing) -> Step {
        loop {
            match self.phase {
                Phase::Failed(ref e) => return Step::Failed(e.clone()),
                Phase::Sent { until } if now < until => return Step::Await { until },
                Phase::Sent { .. } => self.lost(self.attempts, Lost::TimedOut, now),
                Phase::Ready { .. } if now >= self.deadline => self.give_up(),
                Phase::Ready { at, newer_than } => {
                    if now < at && newer_than.is_none_or(|v| routing.version <= v) {
                        return Step::Wait { until: at.min(self.deadline), newer_than };
                    }
                    if let Some(attempt) = self.attempt(now, routing) {
                        return Step::Send(attempt);
                    }
                }
            }
        }
    }

    /// The next attempt, if the chain has a head.
    fn attempt(&mut self, now: Time, routing: &Routing) -> Option<Attempt> {
        let chain = routing.chain(self.chain);
        self.routing = routing.version;
        let Some((target, chain_ver)) = chain.and_then(|c| Some((c.head()?, c.chain_ver))) else {
            let cause = format!("chain {} has no serving replica", self.chain);
            self.last = Some(Error::new(ErrorKind::Unavailable, cause));
            self.redirect(now);
            return None;
        };
        if chain_ver < self.sent_under {
            // Older routing than we have used already: nothing sent under it can be answered with anything final.
            self.redirect(now);
            return None;
        }
        self.attempts += 1;
        self.sent_under = chain_ver;
        let patience = self.tuning.patience(self.tuning.update_attempt, self.timeouts, self.bytes);
        let until = now.saturating_add(patience).min(self.deadline);
        self.phase = Phase::Sent { until };
        Some(Attempt { number: self.attempts, chain: self.chain, chain_ver, target, until, first: self.first })
    }

    /// An attempt was answered with a failure.
    pub fn failed(&mut self, number: u32, failure: &Failure, now: Time) {
        if matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        if failure.code() == Code::StaleRequest {
            return self.unknown(Error::from_failure(failure));
        }
        let newest = self.waits_for(number) || (is(Mutation::AnyReject) && failure.class() == Class::Rejected);
        match failure.class() {
            Class::Redirect | Class::Overload => self.open.retain(|&n| n != number),
            _ if !newest => return, // a reject counts only for the newest attempt
            _ => {}
        }
        if !newest {
            return;
        }
        match failure.class() {
            Class::Rejected => self.rejected(failure, now),
            Class::Redirect => {
                self.last = Some(Error::from_failure(failure));
                self.redirect(now);
            }
            Class::Overload => {
                self.last = Some(Error::from_failure(failure));
                let pause = self.tuning.overload(self.overloads, failure.version);
                self.overloads += 1;
                self.again(now.saturating_add(pause), None);
            }
            Class::Unknown => self.doubtful(failure, now),
            Class::Refused => self.refused(Error::from_failure(failure)),
        }
    }

    /// The newest attempt was rejected: final if no other attempt can change that.
    fn rejected(&mut self, failure: &Failure, now: Time) {
        let e = Error::from_failure(failure);
        if failure.code() == Code::PayloadCorrupt {
            // The frame was damaged; the update itself was not judged.
            self.damaged += 1;
            if self.damaged >= self.tuning.damaged_most {
                return self.refused(e);
            }
            self.last = Some(e);
            return self.again(now, None);
        }
        if self.open.is_empty() || failure.chain_ver >= self.sent_under || is(Mutation::RejectIsFinal) {
            self.phase = Phase::Failed(e);
        } else {
            self.last = Some(e);
            self.redirect(now);
        }
    }

    /// The answer to the newest attempt does not tell whether it was applied.
    fn doubtful(&mut self, failure: &Failure, now: Time) {
        let e = Error::from_failure(failure);
        if failure.code() != Code::SessionUnknown {
            self.last = Some(e);
            self.open.push(self.attempts);
            return self.redirect(now);
        }
        if self.open.is_empty() && !self.first {
            // Refused without effect, and nothing else is on its way: the chain may learn the session anew.
            self.first = true;
            self.last = Some(e);
            self.again(now, None);
        } else {
            self.unknown(e);
        }
    }

    /// An attempt ended without an answer.
    pub fn lost(&mut self, number: u32, how: Lost, now: Time) {
        if !self.waits_for(number) {
            return;
        }
        let cause = match how {
            Lost::NotSent(cause) => {
                self.last = Some(Error::new(ErrorKind::Unavailable, cause));
                return self.redirect(now);
            }
            Lost::Broken(cause) => cause,
            Lost::TimedOut => {
                self.timeouts += 1;
                "the head of the chain did not answer".to_string()
            }
        };
        if !is(Mutation::LostHadNoEffect) {
            self.open.push(number);
        }
        self.last = Some(Error::new(ErrorKind::OutcomeUnknown, cause));
        if self.open.len() == 1 {
            // The first loss may be no more than an idle connection that was closed.
            self.again(now, Some(self.routing));
        } else {
            self.redirect(now);
        }
    }

    fn waits_for(&self, number: u32) -> bool {
        matches!(self.phase, Phase::Sent { .. }) && number == self.attempts
    }

    /// Try again with newer routing, or after a pause.
    fn redirect(&mut self, now: Time) {
        let pause = self.tuning.pause(self.redirects);
        self.redirects += 1;
        self.again(now.saturating_add(pause), Some(self.routing));
    }

    fn again(&mut self, at: Time, newer_than: Option<u64>) {
        self.phase = Phase::Ready { at, newer_than };
    }

    /// Ends with `e` if nothing can have been applied.
    fn refused(&mut self, e: Error) {
        if self.open.is_empty() {
            self.phase = Phase::Failed(e);
        } else {
            self.unknown(e);
        }
    }

    fn unknown(&mut self, e: Error) {
        self.phase = Phase::Failed(e.into_kind(ErrorKind::OutcomeUnknown));
    }

    /// The deadline has passed.
    fn give_up(&mut self) {
        let e = self.last.clone().unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the deadline passed before it was sent"));
        let e = e.context(format!("gave up after {} attempts", self.attempts));
        if self.open.is_empty() {
            self.phase = Phase::Failed(e);
        } else {
            self.unknown(e);
        }
    }
}
