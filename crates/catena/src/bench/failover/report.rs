//! What came of the kills: outages one by one, their median, maximum and histogram.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::probe::Op;
use crate::fault::Result;
use crate::output::{bold, dim, say};

/// Width of a bar of the histogram, in milliseconds.
const STEP_MS: u64 = 250;

/// One node killed or stopped. Times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kill {
    node: u32,
    /// Longest time between two acknowledged writes, over all chains.
    write_outage_ms: u64,
    /// Slowest read.
    read_max_ms: u64,
    reads: u64,
    writes: u64,
    failed: u64,
    first_error: Option<String>,
    #[serde(skip)]
    read_ms: Vec<u64>,
}

impl Kill {
    pub(super) fn new(node: u32, seen: &[Op]) -> Kill {
        let mut lanes: BTreeMap<_, Vec<&Op>> = BTreeMap::new();
        seen.iter().filter(|op| op.is_write() && op.error.is_none()).for_each(|op| lanes.entry(op.lane).or_default().push(op));
        let longest = |acknowledged: &Vec<&Op>| acknowledged.windows(2).map(|w| w[1].end - w[0].end).max();
        let read_ms: Vec<u64> = seen.iter().filter(|op| !op.is_write()).map(|op| millis(op.end - op.start)).collect();
        Kill {
            node,
            write_outage_ms: lanes.values().filter_map(longest).max().map_or(0, millis),
            read_max_ms: read_ms.iter().copied().max().unwrap_or(0),
            reads: read_ms.len() as u64,
            writes: seen.iter().filter(|op| op.is_write()).count() as u64,
            failed: seen.iter().filter(|op| op.error.is_some()).count() as u64,
            first_error: seen.iter().find_map(|op| op.error.clone()),
            read_ms,
        }
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kill { node, write_outage_ms, read_max_ms, failed, .. } = self;
        write!(f, "node {node}: no write for {write_outage_ms} ms, slowest read {read_max_ms} ms, {failed} failed")
    }
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// `kill -9`, or an orderly stop.
    how: &'static str,
    /// Where the manager keeps its state.
    store: &'static str,
    lease_ms: u32,
    write_outage_median_ms: u64,
    write_outage_max_ms: u64,
    read_median_ms: u64,
    read_p99_ms: u64,
    read_max_ms: u64,
    operations: u64,
    failed: u64,
    kills: Vec<Kill>,
}

impl Report {
    pub(super) fn new(stop: bool, etcd: bool, lease_ms: u32, kills: Vec<Kill>) -> Report {
        let sorted = |mut values: Vec<u64>| {
            values.sort_unstable();
            values
        };
        let outages = sorted(kills.iter().map(|k| k.write_outage_ms).collect());
        let reads = sorted(kills.iter().flat_map(|k| k.read_ms.iter().copied()).collect());
        let at = |values: &[u64], percent: usize| {
            values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).copied()
        };
        Report {
            how: if stop { "stop" } else { "kill -9" },
            store: if etcd { "etcd" } else { "embedded" },
            lease_ms,
            write_outage_median_ms: at(&outages, 50).unwrap_or(0),
            write_outage_max_ms: outages.last().copied().unwrap_or(0),
            read_median_ms: at(&reads, 50).unwrap_or(0),
            read_p99_ms: at(&reads, 99).unwrap_or(0),
            read_max_ms: reads.last().copied().unwrap_or(0),
            operations: kills.iter().map(|k| k.reads + k.writes).sum(),
            failed: kills.iter().map(|k| k.failed).sum(),
            kills,
        }
    }

    /// For people.
    pub(super) fn show(&self) -> Result<()> {
        let Report { how, store, lease_ms, operations, failed, .. } = self;
        say!("{how} of a node, {} times; state of the manager {store}, leases of {lease_ms} ms", self.kills.len());
        let (median, max) = (self.write_outage_median_ms, self.write_outage_max_ms);
        say!(
            "  no write acknowledged for  {}  median, {} at most",
            bold(format_args!("{median} ms")),
            bold(format_args!("{max} ms"))
        );
        let (median, p99, max) = (self.read_median_ms, self.read_p99_ms, self.read_max_ms);
        say!("  reads meanwhile took       {median} ms median, {p99} ms at the 99th percentile, {max} ms at most");
        say!("  operations                 {operations}, {failed} failed");
        if let Some(error) = self.kills.iter().find_map(|k| k.first_error.as_ref()) {
            say!("  the first error            {error}");
        }
        let mut bars: BTreeMap<u64, usize> = BTreeMap::new();
        self.kills.iter().for_each(|k| *bars.entry(k.write_outage_ms / STEP_MS).or_default() += 1);
        say!();
        for (bar, count) in bars {
            let (from, to) = (bar * STEP_MS, (bar + 1) * STEP_MS);
            say!("  {} {}", dim(format_args!("{from:>5} – {to:>5} ms")), "#".repeat(count));
        }
        Ok(())
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
