//! The lease clock: runs during suspend, never goes back.

use catena_types::Time;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`. Read after a message was received, so that a pause can only make a lease look older.
pub(crate) fn now() -> Time {
    let t = clock_gettime(ClockId::Boottime);
    // Neither part of a boot clock is negative.
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}
