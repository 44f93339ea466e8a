//! CPU time of processes: of others from `/proc`, of this one from its clock, which is finer.

use std::time::{Duration, Instant};

/// User and system time that process `pid` has used so far; zero if it is gone.
pub(crate) fn used(pid: u32) -> Duration {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| parse(&stat)).unwrap_or_default()
}

/// User and system time of this process so far.
pub(crate) fn used_here() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Watches what other processes of this machine use: a measurement beside a busy one says little.
pub(crate) struct Others {
    since: Instant,
    used: Option<Duration>,
}

impl Others {
    pub(crate) fn watch() -> Others {
        Others { since: Instant::now(), used: others() }
    }

    /// Processors that others have used on average, if the kernel tells; the time they made the kernel work is not counted.
    pub(crate) fn processors(&self) -> Option<f64> {
        let used = others()?.saturating_sub(self.used?);
        Some(used.as_secs_f64() / self.since.elapsed().as_secs_f64().max(1e-9))
    }
}

/// User time of all other processes so far.
fn others() -> Option<Duration> {
    let all = std::fs::read_to_string("/proc/stat").ok()?;
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut all = all.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let (user, nice): (u64, u64) = (all.next()?.parse().ok()?, all.next()?.parse().ok()?);
    let own: u64 = own.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse().ok()?;
    Some(Duration::from_secs_f64((user + nice).saturating_sub(own) as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Fields 14 and 15 (utime, stime), in clock ticks; the name in field 2 may hold anything, so count from its end.
fn parse(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_from_this_process() {
        let others = Others::watch();
        assert!(others.used.is_some() && others.processors().is_some_and(|n| n >= 0.0));
    }

    #[test]
    fn times_are_found_behind_any_name() {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = format!("7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 {} {} 0 0 20 0 1 0 5 6 7", ticks * 2, ticks);
        assert_eq!(parse(&stat), Some(Duration::from_secs(3)));
        assert_eq!(parse("7 (x) S"), None);
        assert_eq!(used(u32::MAX), Duration::ZERO);
    }
}
