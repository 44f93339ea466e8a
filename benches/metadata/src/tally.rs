//! What a round took, and the same updates for every store.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::Failure;

/// Bytes of a record without its key: with a key of 16, what a staged update and its commit take in the journal.
pub(crate) const VALUE: usize = 134;

/// A round.
pub(crate) struct Tally {
    /// Updates per second.
    rate: f64,
    updates: u64,
    cpu: Duration,
    written: u64,
    /// In nanoseconds.
    latencies: Histogram<u64>,
}

/// Measures a round that starts now.
pub(crate) struct Meter {
    start: Instant,
    time: Duration,
    cpu: Duration,
    written: u64,
    latencies: Histogram<u64>,
}

impl Meter {
    pub(crate) fn start(time: Duration) -> Result<Meter, Failure> {
        let (cpu, written, latencies) = (cpu(), written()?, Histogram::new_with_bounds(1, 120_000_000_000, 3)?);
        Ok(Meter { start: Instant::now(), time, cpu, written, latencies })
    }

    pub(crate) fn over(&self) -> bool {
        self.start.elapsed() >= self.time
    }

    /// An update sent at `since` is durable.
    pub(crate) fn durable(&mut self, since: Instant) {
        self.latencies.saturating_record(since.elapsed().as_nanos() as u64);
    }

    /// For another thread of the same round.
    pub(crate) fn fork(&self) -> Meter {
        let mut latencies = self.latencies.clone();
        latencies.reset();
        Meter { latencies, ..*self }
    }

    /// Adds what another thread has measured.
    pub(crate) fn join(&mut self, other: &Meter) -> Result<(), Failure> {
        Ok(self.latencies.add(&other.latencies)?)
    }

    pub(crate) fn finish(self) -> Result<Tally, Failure> {
        let updates = self.latencies.len();
        Ok(Tally {
            rate: updates as f64 / self.start.elapsed().as_secs_f64(),
            updates,
            cpu: cpu() - self.cpu,
            written: written()? - self.written,
            latencies: self.latencies,
        })
    }
}

/// Cells of a table: the median rate; latencies and costs over all rounds.
pub(crate) fn row(rounds: &[Tally]) -> String {
    let mut rates: Vec<f64> = rounds.iter().map(|r| r.rate).collect();
    rates.sort_by(f64::total_cmp);
    let updates: u64 = rounds.iter().map(|r| r.updates).sum();
    let per_update = |sum: f64| sum / updates.max(1) as f64;
    let cpu: f64 = rounds.iter().map(|r| r.cpu.as_secs_f64() * 1e6).sum();
    let written: u64 = rounds.iter().map(|r| r.written).sum();
    let mut latencies = rounds[0].latencies.clone();
    for round in &rounds[1..] {
        latencies.add(&round.latencies).expect("histograms of the same bounds");
    }
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    let (p50, p99) = (micros(0.5), micros(0.99));
    let rate = rates[rates.len().saturating_sub(1) / 2];
    format!("{rate:.0} | {p50:.0} | {p99:.0} | {:.1} | {:.0}", per_update(cpu), per_update(written as f64))
}

/// Numbers in no order, the same in every run.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The key of record `n`: 16 bytes in no order, the last 8 are the number.
pub(crate) fn key(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&Draw(n).next().to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

/// A record that no store can compress away.
pub(crate) fn value(draw: &mut Draw) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    value.chunks_mut(8).for_each(|part| part.copy_from_slice(&draw.next().to_le_bytes()[..part.len()]));
    value
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Bytes this process has given to the device so far.
fn written() -> Result<u64, Failure> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(bytes.ok_or("/proc/self/io does not say how many bytes were written")?.parse()?)
}
