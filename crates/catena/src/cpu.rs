//! CPU time of processes: of others from `/proc`, of this one from its clock, which is finer.

use std::time::Duration;

/// User and system time that process `pid` has used so far; zero if it is gone.
pub(crate) fn used(pid: u32) -> Duration {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| parse(&stat)).unwrap_or_default()
}

/// User and system time of this process so far.
pub(crate) fn used_here() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
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
    fn times_are_found_behind_any_name() {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = format!("7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 {} {} 0 0 20 0 1 0 5 6 7", ticks * 2, ticks);
        assert_eq!(parse(&stat), Some(Duration::from_secs(3)));
        assert_eq!(parse("7 (x) S"), None);
        assert_eq!(used(u32::MAX), Duration::ZERO);
    }
}
