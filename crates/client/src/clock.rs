//! Time as the state machines count it, from the runtime's clock.

use std::time::Duration;

use catena_types::Time;
use tokio::time::Instant;

/// Nanoseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock(Instant::now())
    }
    pub(crate) fn now(&self) -> Time {
        nanos(self.0.elapsed())
    }
    /// The moment `after` from now.
    pub(crate) fn after(&self, after: Duration) -> Time {
        self.now().saturating_add(nanos(after))
    }
    /// What is left until `at`.
    pub(crate) fn until(&self, at: Time) -> Duration {
        Duration::from_nanos(at.saturating_sub(self.now()))
    }
}

fn nanos(d: Duration) -> Time {
    Time::try_from(d.as_nanos()).unwrap_or(Time::MAX)
}
