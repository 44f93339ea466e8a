//! What processes use while they are measured: processor time, context switches, system calls.

use std::time::Duration;

use perf_event::events::{Event, Software, Tracepoint};
use perf_event::{Builder, Counter};
use serde::Serialize;

use crate::cpu;

/// What some processes have used, or use per operation.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Used {
    /// Processor time in microseconds, user and system.
    pub(super) cpu_us: f64,
    /// Context switches, voluntary or not. Absent, as system calls, where the kernel does not let them be counted.
    pub(super) switches: Option<f64>,
    /// System calls. Counting them takes root and a mounted tracefs.
    pub(super) syscalls: Option<f64>,
}

impl Used {
    /// Both together.
    pub(super) fn and(self, more: Used) -> Used {
        let sum = |one: Option<f64>, two: Option<f64>| one.zip(two).map(|(one, two)| one + two);
        let (switches, syscalls) = (sum(self.switches, more.switches), sum(self.syscalls, more.syscalls));
        Used { cpu_us: self.cpu_us + more.cpu_us, switches, syscalls }
    }

    /// The same divided by `n`.
    pub(super) fn per(self, n: u64) -> Used {
        let n = n.max(1) as f64;
        let per = |count: Option<f64>| count.map(|count| count / n);
        Used { cpu_us: self.cpu_us / n, switches: per(self.switches), syscalls: per(self.syscalls) }
    }
}

/// Some processes that are watched from now on.
pub(super) struct Watch {
    pids: Vec<u32>,
    cpu: Duration,
    switches: Option<Counters>,
    syscalls: Option<Counters>,
}

impl Watch {
    /// Watches the threads that these processes have now, and those they start.
    pub(super) fn start(pids: &[u32]) -> Watch {
        let switches = Counters::start(pids, Software::CONTEXT_SWITCHES);
        let syscalls = system_calls().and_then(|event| Counters::start(pids, event));
        Watch { pids: pids.to_vec(), cpu: cpu(pids), switches, syscalls }
    }

    /// What they have used since.
    pub(super) fn end(self) -> Used {
        let cpu_us = cpu(&self.pids).saturating_sub(self.cpu).as_secs_f64() * 1e6;
        let read = |counters: Option<Counters>| counters.and_then(Counters::read).map(|count| count as f64);
        Used { cpu_us, switches: read(self.switches), syscalls: read(self.syscalls) }
    }
}

fn cpu(pids: &[u32]) -> Duration {
    let of = |&pid: &u32| if pid == std::process::id() { cpu::used_here() } else { cpu::used(pid) };
    pids.iter().map(of).sum()
}

/// Threads of a process; none if it is gone.
fn threads(pid: u32) -> impl Iterator<Item = i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok())
}

/// The kernel's event of a system call that begins.
fn system_calls() -> Option<Tracepoint> {
    let places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let id = places.iter().find_map(|at| std::fs::read_to_string(format!("{at}/events/raw_syscalls/sys_enter/id")).ok())?;
    id.trim().parse().ok().map(Tracepoint::with_id)
}

/// Counters of one event, one per thread.
struct Counters(Vec<Counter>);

impl Counters {
    /// `None` if one of them is not to be had.
    fn start(pids: &[u32], event: impl Event + Clone) -> Option<Counters> {
        let count = |thread: i32| {
            let mut builder = Builder::new(event.clone());
            let mut counter = builder.observe_pid(thread).any_cpu().inherit(true).include_kernel().build().ok()?;
            counter.enable().ok()?;
            Some(counter)
        };
        pids.iter().flat_map(|&pid| threads(pid)).map(count).collect::<Option<_>>().map(Counters)
    }

    fn read(self) -> Option<u64> {
        self.0.into_iter().map(|mut counter| counter.read().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let watch = Watch::start(&[std::process::id()]);
        for _ in 0..100 {
            std::thread::yield_now();
        }
        let used = watch.end();
        assert!(used.cpu_us > 0.0);
        assert!(used.syscalls.is_none_or(|calls| calls >= 100.0), "{used:?}");
    }
}
