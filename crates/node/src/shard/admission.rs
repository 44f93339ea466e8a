//! How much of the clients' work a shard takes on at a time. Messages between targets do not come by here: a refused
//! forward could hold chains up in a circle (amendment H5).
//!
//! What must hold: what is in progress stays within the limits; once half of a limit is taken, a connection that holds its equal
//! part of it or more is refused, so that one with few requests in flight finds room beside one with any number.

use std::collections::HashMap;

use catena_types::{Code, Failure};

use super::ConnId;
use crate::Limits;

/// What a request holds until it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cost {
    /// An update with so many bytes of payload.
    Update(usize),
    /// A read or listing.
    Read,
}

/// What is in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    updates: usize,
    update_bytes: usize,
    reads: usize,
}

impl Held {
    fn begin(&mut self, cost: Cost) {
        match cost {
            Cost::Update(bytes) => {
                self.updates += 1;
                self.update_bytes += bytes;
            }
            Cost::Read => self.reads += 1,
        }
    }

    fn end(&mut self, cost: Cost) {
        match cost {
            Cost::Update(bytes) => {
                self.updates -= 1;
                self.update_bytes -= bytes;
            }
            Cost::Read => self.reads -= 1,
        }
    }
}

/// What is in progress for all clients.
#[derive(Debug, Default)]
pub(super) struct Admission {
    all: Held,
    /// Of each connection that has something in progress.
    shares: HashMap<ConnId, Held>,
    /// Requests refused.
    pub(super) refused: u64,
}

impl Admission {
    /// Takes a request on, on a connection with `queued` bytes to send.
    ///
    /// # Errors
    /// `Busy`, with the pause to take.
    pub(super) fn begin(&mut self, limits: &Limits, conn: ConnId, cost: Cost, queued: usize) -> Result<(), Failure> {
        if let Some(what) = self.over(limits, conn, cost, queued) {
            self.refused += 1;
            return Err(Failure::new(Code::Busy, format!("this shard is busy: {what}; pause and try again"))
                .with_version(limits.retry_after_us));
        }
        self.all.begin(cost);
        self.shares.entry(conn).or_default().begin(cost);
        Ok(())
    }

    /// Why it cannot be taken on now.
    fn over(&self, limits: &Limits, conn: ConnId, cost: Cost, queued: usize) -> Option<String> {
        let mine = self.shares.get(&conn).copied().unwrap_or_default();
        let sharers = self.shares.len() + usize::from(!self.shares.contains_key(&conn));
        let full = |all: usize, more: usize, mine: usize, limit: usize| {
            all + more > limit || (2 * (all + more) > limit && sharers * mine >= limit)
        };
        let said = |what: &str, all: usize, mine: usize| Some(format!("{all} {what} are in progress, {mine} of them yours"));
        match cost {
            _ if queued > limits.reply_bytes => Some(format!("{queued} bytes wait on your connection: read faster")),
            // One update always passes, whatever its size.
            Cost::Update(bytes)
                if self.all.updates > 0 && full(self.all.update_bytes, bytes, mine.update_bytes, limits.update_bytes) =>
            {
                said("bytes of updates", self.all.update_bytes, mine.update_bytes)
            }
            Cost::Update(_) if full(self.all.updates, 1, mine.updates, limits.updates) => {
                said("updates", self.all.updates, mine.updates)
            }
            Cost::Read if full(self.all.reads, 1, mine.reads, limits.reads) => said("reads", self.all.reads, mine.reads),
            _ => None,
        }
    }

    /// A request taken on has been answered.
    pub(super) fn end(&mut self, conn: ConnId, cost: Cost) {
        self.all.end(cost);
        let Some(share) = self.shares.get_mut(&conn) else { return };
        share.end(cost);
        if *share == Held::default() {
            self.shares.remove(&conn);
        }
    }

    /// Updates in progress.
    pub(super) fn updates(&self) -> usize {
        self.all.updates
    }

    /// Reads and listings in progress.
    pub(super) fn reads(&self) -> usize {
        self.all.reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_are_given_back() {
        let limits = Limits { updates: 2, update_bytes: 100, reads: 1, reply_bytes: 10, retry_after_us: 7 };
        let mut a = Admission::default();
        a.begin(&limits, 1, Cost::Update(500), 0).expect("one always passes");
        let busy = a.begin(&limits, 1, Cost::Update(1), 0).expect_err("too many bytes");
        assert_eq!((busy.code(), busy.version), (Code::Busy, 7));
        a.end(1, Cost::Update(500));
        a.begin(&limits, 1, Cost::Update(50), 0).expect("room");
        a.begin(&limits, 1, Cost::Update(50), 0).expect("room");
        assert!(a.begin(&limits, 1, Cost::Update(0), 0).is_err(), "too many updates");
        a.begin(&limits, 1, Cost::Read, 10).expect("reads are counted apart");
        assert!(a.begin(&limits, 1, Cost::Read, 0).is_err());
        a.end(1, Cost::Read);
        assert!(a.begin(&limits, 1, Cost::Read, 11).is_err(), "a client that does not read");
        assert_eq!(a.refused, 4);
    }

    /// As many of these as are taken on.
    fn flood(a: &mut Admission, limits: &Limits, conn: ConnId, cost: Cost) -> usize {
        (0..).take_while(|_| a.begin(limits, conn, cost, 0).is_ok()).count()
    }

    #[test]
    fn connections_share_what_is_scarce() {
        let limits = Limits { updates: 100, update_bytes: 1000, reads: 100, reply_bytes: 10, retry_after_us: 7 };
        for (cost, all) in [(Cost::Read, 100), (Cost::Update(0), 100), (Cost::Update(10), 100)] {
            let mut a = Admission::default();
            assert_eq!(flood(&mut a, &limits, 1, cost), all, "nobody else is there");
            assert_eq!(flood(&mut a, &limits, 2, cost), 0);
            // From now on every place that one has too many goes to the other.
            a.end(1, cost);
            a.begin(&limits, 2, cost, 0).expect("the first to ask has most of it");
            let mut taken = 1;
            for _ in 1..all {
                a.end(1, cost);
                taken += flood(&mut a, &limits, 2, cost);
                flood(&mut a, &limits, 1, cost);
            }
            assert_eq!((taken, a.shares[&1] == a.shares[&2]), (50, true));
            for _ in 0..50 {
                a.end(2, cost);
            }
            assert_eq!((a.shares.len(), flood(&mut a, &limits, 1, cost)), (1, 50), "alone again");
        }
    }

    #[test]
    fn half_of_it_is_anyones() {
        let limits = Limits { updates: 100, update_bytes: 1000, reads: 100, reply_bytes: 10, retry_after_us: 7 };
        let mut a = Admission::default();
        for conn in 1..10 {
            a.begin(&limits, conn, Cost::Read, 0).expect("room");
        }
        assert_eq!(flood(&mut a, &limits, 10, Cost::Read), 41, "beside many with one each");
        assert_eq!(flood(&mut a, &limits, 1, Cost::Read), 9, "up to an equal part");
    }
}
