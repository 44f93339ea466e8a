//! The clock of leases: it also runs while the machine is suspended.

use std::time::Duration;

use catena_types::Time;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub(crate) fn now() -> Time {
    let t = clock_gettime(ClockId::Boottime);
    // Both fields of this clock are never negative.
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// From `now` until `then`; zero if that has passed.
pub(crate) fn until(now: Time, then: Time) -> Duration {
    Duration::from_nanos(then.saturating_sub(now))
}
