//! Sizes and times of what the engine did, as histograms that can be read at any moment.
//!
//! The engine has no clock: times are differences of the times that its driver gave it, in nanoseconds.

use std::collections::BTreeMap;

use catena_types::Time;

/// Steps per power of two.
const STEPS: u64 = 8;
/// Buckets: values up to `2^40` (18 minutes in nanoseconds); what is larger counts in the last.
const BUCKETS: usize = 38 * STEPS as usize;

/// Counts of values in buckets, each at most an eighth wider than its least value.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    sum: u64,
    most: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: Box::new([0; BUCKETS]), count: 0, sum: 0, most: 0 }
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let power = 63 - u64::from(value.leading_zeros());
    let step = (value >> (power - 3)) & (STEPS - 1);
    (((power - 2) * STEPS + step) as usize).min(BUCKETS - 1)
}

/// The greatest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (power, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if power == 0 { step } else { ((STEPS + step + 1) << (power - 1)) - 1 }
}

impl Histogram {
    /// Counts a value.
    pub fn note(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.most = self.most.max(value);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The greatest.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// The value that a fraction `q` (0 to 1) of all values is not above, to an eighth; 0 if there are none.
    pub fn quantile(&self, q: f64) -> u64 {
        let wanted = ((self.count as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (n, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(n).min(self.most);
            }
        }
        0
    }

    /// The buckets in use: greatest value and count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().enumerate().filter(|(_, count)| **count > 0).map(|(n, count)| (upper(n), *count))
    }
}

/// What one store did.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// From the call of a stage to its report, in nanoseconds.
    pub stage: Histogram,
    /// From the call of a read to its report, in nanoseconds.
    pub read: Histogram,
    /// Flushes of groups, in nanoseconds.
    pub flush: Histogram,
    /// Records per append.
    pub records: Histogram,
    /// Bytes of data blocks per update.
    pub update_bytes: Histogram,
    started: BTreeMap<u64, Time>,
}

impl Metrics {
    pub(crate) fn started(&mut self, op: u64, now: Time) {
        self.started.insert(op, now);
    }

    pub(crate) fn dropped(&mut self, op: u64) {
        self.started.remove(&op);
    }

    pub(crate) fn staged(&mut self, op: u64, now: Time, bytes: u64) {
        self.update_bytes.note(bytes);
        if let Some(then) = self.started.remove(&op) {
            self.stage.note(now.saturating_sub(then));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        let mut last = 0;
        for value in (0..4096).chain((15..40).flat_map(|p| [(1 << p) - 1, 1 << p, (1 << p) + 12345])) {
            let b = bucket(value);
            assert!(upper(b) >= value && upper(b) - value <= value / 8 + 1, "{value} in {b}: {}", upper(b));
            assert!(b >= last, "{value}");
            last = b;
        }
    }

    #[test]
    fn quantiles() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(0.5), 0);
        (1..=1000).for_each(|v| h.note(v));
        assert_eq!((h.count(), h.sum(), h.most()), (1000, 500_500, 1000));
        for (q, value) in [(0.5, 500u64), (0.99, 990), (0.0, 1), (1.0, 1000)] {
            let found = h.quantile(q);
            assert!(found >= value && found <= value + value / 8 + 1, "{q}: {found}");
        }
        assert_eq!(h.buckets().map(|(_, n)| n).sum::<u64>(), 1000);
    }
}
