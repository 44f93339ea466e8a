//! How much of the clients' work a shard takes on at a time. Messages between targets do not come by here: a refused
//! forward could hold chains up in a circle (amendment H5).

use catena_types::{Code, Failure};

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
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub(super) updates: usize,
    update_bytes: usize,
    pub(super) reads: usize,
    /// Requests refused.
    pub(super) refused: u64,
}

impl Admission {
    /// Takes a request on, on a connection with `queued` bytes to send.
    ///
    /// # Errors
    /// `Busy`, with the pause to take.
    pub(super) fn begin(&mut self, limits: &Limits, cost: Cost, queued: usize) -> Result<(), Failure> {
        let over = match cost {
            _ if queued > limits.reply_bytes => Some(format!("{queued} bytes wait on your connection: read faster")),
            // One update always passes, whatever its size.
            Cost::Update(bytes) if self.updates > 0 && self.update_bytes + bytes > limits.update_bytes => {
                Some(format!("{} bytes of updates are in progress", self.update_bytes))
            }
            Cost::Update(_) if self.updates >= limits.updates => Some(format!("{} updates are in progress", self.updates)),
            Cost::Read if self.reads >= limits.reads => Some(format!("{} reads are in progress", self.reads)),
            _ => None,
        };
        if let Some(what) = over {
            self.refused += 1;
            return Err(Failure::new(Code::Busy, format!("this shard is busy: {what}; pause and try again"))
                .with_version(limits.retry_after_us));
        }
        match cost {
            Cost::Update(bytes) => {
                self.updates += 1;
                self.update_bytes += bytes;
            }
            Cost::Read => self.reads += 1,
        }
        Ok(())
    }

    /// A request taken on has been answered.
    pub(super) fn end(&mut self, cost: Cost) {
        match cost {
            Cost::Update(bytes) => {
                self.updates -= 1;
                self.update_bytes -= bytes;
            }
            Cost::Read => self.reads -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_are_given_back() {
        let limits = Limits { updates: 2, update_bytes: 100, reads: 1, reply_bytes: 10, retry_after_us: 7 };
        let mut a = Admission::default();
        a.begin(&limits, Cost::Update(500), 0).expect("one always passes");
        let busy = a.begin(&limits, Cost::Update(1), 0).expect_err("too many bytes");
        assert_eq!((busy.code(), busy.version), (Code::Busy, 7));
        a.end(Cost::Update(500));
        a.begin(&limits, Cost::Update(50), 0).expect("room");
        a.begin(&limits, Cost::Update(50), 0).expect("room");
        assert!(a.begin(&limits, Cost::Update(0), 0).is_err(), "too many updates");
        a.begin(&limits, Cost::Read, 10).expect("reads are counted apart");
        assert!(a.begin(&limits, Cost::Read, 0).is_err());
        a.end(Cost::Read);
        assert!(a.begin(&limits, Cost::Read, 11).is_err(), "a client that does not read");
        assert_eq!(a.refused, 4);
    }
}
