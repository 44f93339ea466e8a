//! What a round of a work or of the raw disk took.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::cpu;
use crate::fault::{Fault, Result};

/// Longest latency told apart, in nanoseconds.
const LONGEST: u64 = 120_000_000_000;

/// Measures one round: operations that end between a tenth of its time and its end are counted, costs over all of it. On
/// a disk that stalls it goes on until one has ended.
pub(super) struct Meter {
    start: Instant,
    count_from: Duration,
    until: Duration,
    /// When the last counted operation ended.
    last: Duration,
    cpu: Duration,
    written: Option<u64>,
    ops: u64,
    latencies: Histogram<u64>,
}

/// A measured round.
#[derive(Clone)]
pub(super) struct Tally {
    /// Latencies of the counted operations in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// Counted operations per second.
    pub(super) rate: f64,
    /// All operations.
    pub(super) ops: u64,
    /// Processor time of this process for all of them.
    pub(super) cpu: Duration,
    /// Bytes this process gave to block devices for all of them; `None` if the kernel does not count them.
    pub(super) written: Option<u64>,
}

impl Meter {
    pub(super) fn start(time: Duration) -> Meter {
        Meter {
            count_from: time / 10,
            until: time / 10 + time,
            last: Duration::ZERO,
            cpu: cpu::used_here(),
            written: device_bytes_written(),
            ops: 0,
            latencies: new_histogram(),
            start: Instant::now(),
        }
    }

    /// Whether the round is over at `now`.
    pub(super) fn over(&self, now: Instant) -> bool {
        now - self.start >= self.until && !self.latencies.is_empty()
    }

    /// An operation that began at `since` has ended at `now`.
    pub(super) fn ended(&mut self, since: Instant, now: Instant) {
        self.ops += 1;
        let at = now - self.start;
        if at >= self.count_from && (at < self.until || self.latencies.is_empty()) {
            self.latencies.saturating_record((now - since).as_nanos() as u64);
            self.last = at;
        }
    }

    /// Adds what a meter of the same round on another thread has counted.
    pub(super) fn join(&mut self, other: Meter) {
        self.ops += other.ops;
        self.last = self.last.max(other.last);
        self.latencies.add(other.latencies).expect("histograms of the same bounds");
    }

    /// A meter of the same round for another thread.
    pub(super) fn fork(&self) -> Meter {
        Meter { latencies: new_histogram(), ops: 0, ..*self }
    }

    pub(super) fn finish(self) -> Result<Tally> {
        if self.latencies.is_empty() {
            let why = "the target was full before the counted time began";
            return Err(Fault::new(format!("{why}: give a larger --capacity or a shorter --duration")));
        }
        let counted = (self.last - self.count_from).as_secs_f64().max(1e-9);
        Ok(Tally {
            rate: self.latencies.len() as f64 / counted,
            latencies: self.latencies,
            ops: self.ops,
            cpu: cpu::used_here() - self.cpu,
            written: device_bytes_written().zip(self.written).map(|(now, before)| now - before),
        })
    }
}

pub(super) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds and precision are in range")
}

/// Bytes this process has given to block devices so far, if the kernel counts them.
fn device_bytes_written() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}
