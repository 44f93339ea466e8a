//! What to do after each answer: the retry logic of one update and of one read.
//!
//! Pure state machines: routing, time and answers go in, the next step comes out. They own no connection, clock or
//! random number, so that the client and the simulator run the same decisions. A driver loops over `step`: it sends what
//! [`Step::Send`] says and reports what came back (`failed`, `lost`), or waits as [`Step::Wait`] says. A success ends the
//! loop; it is the driver's to take, whichever attempt it answers.
//!
//! What must hold (protocol, errors a client can see): a failure that promises "not applied" is reported only when no
//! attempt of the update can have been, or can still be, applied.

mod read;
mod session;
mod update;

pub use read::{Place, ReadCall};
pub use session::Channel;
pub use update::UpdateCall;

use std::fmt;

use catena_types::{ChainId, ChainVer, TargetId, Time};

use crate::error::Error;

const MS: Time = 1_000_000;

/// How patient the state machines are. All times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Longest wait for the answer to the first attempt of an update; doubles with every attempt that times out.
    pub update_attempt: Time,
    /// The same for reads, while there are other replicas to ask.
    pub read_attempt: Time,
    /// Bytes per nanosecond a replica is trusted to deliver: long payloads get more time.
    pub slow_bytes_per_us: u64,
    /// First pause after a redirect or lost attempt that changed nothing.
    pub pause_first: Time,
    /// Longest such pause.
    pub pause_most: Time,
    /// Longest pause after an overload.
    pub overload_most: Time,
    /// Attempts whose payload was damaged on the way before giving up.
    pub damaged_most: u32,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            update_attempt: 3_000 * MS,
            read_attempt: 500 * MS,
            slow_bytes_per_us: 50,
            pause_first: 5 * MS,
            pause_most: 100 * MS,
            overload_most: 1_000 * MS,
            damaged_most: 3,
        }
    }
}

impl Tuning {
    /// Pause number `n` (from 0) of a row of fruitless attempts.
    fn pause(&self, n: u32) -> Time {
        grow(self.pause_first, n).min(self.pause_most)
    }
    /// Pause after overload number `n` (from 0) of a row, when the replica asked for `asked_us` microseconds.
    fn overload(&self, n: u32, asked_us: u64) -> Time {
        grow(asked_us.saturating_mul(1000).max(MS), n).min(self.overload_most)
    }
    /// How long the answer to an attempt with `bytes` of payload may take, after `n` attempts timed out.
    fn patience(&self, first: Time, n: u32, bytes: u64) -> Time {
        grow(first, n).saturating_add(bytes.saturating_mul(1000) / self.slow_bytes_per_us.max(1))
    }
}

/// `first * 2^n` without overflow.
fn grow(first: Time, n: u32) -> Time {
    first.saturating_mul(1 << n.min(20))
}

/// One message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// From 1, growing with every attempt of the operation.
    pub number: u32,
    /// The chain.
    pub chain: ChainId,
    /// Its membership version in the routing given to `step`.
    pub chain_ver: ChainVer,
    /// The replica to ask.
    pub target: TargetId,
    /// When the answer is waited for no longer.
    pub until: Time,
    /// Updates: say that the session may be new on this chain.
    pub first: bool,
}

/// What a driver does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send this.
    Send(Attempt),
    /// The answer to the last attempt has not come: wait for it, at most until then.
    Await {
        /// Then `step` again.
        until: Time,
    },
    /// Wait until then, or for routing newer than a version, whichever comes first; get newer routing meanwhile.
    Wait {
        /// Then `step` again.
        until: Time,
        /// Version of the routing that will not do.
        newer_than: Option<u64>,
    },
    /// The operation failed.
    Failed(Error),
}

/// An attempt ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing of it can have reached the replica.
    NotSent(String),
    /// The connection broke: it may have reached the replica.
    Broken(String),
    /// It was given up: it may have reached the replica.
    TimedOut,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::NotSent(cause) | Lost::Broken(cause) => f.write_str(cause),
            Lost::TimedOut => f.write_str("no answer in time"),
        }
    }
}

#[cfg(test)]
mod tests;
