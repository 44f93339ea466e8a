//! How often each fault, event, command, error and rule occurred: a run in which one never does proves nothing about it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use catena_chain::Counters;

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Nobody sees their order.
    counts: HashMap<Cow<'static, str>, u64>,
}

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, name: impl Into<Cow<'static, str>>) {
        self.add(name, 1);
    }

    /// Counts `n`.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, n: u64) {
        *self.counts.entry(name.into()).or_insert(0) += n;
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Coverage) {
        other.counts.iter().for_each(|(name, n)| self.add(name.clone(), *n));
    }

    /// How often.
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Adds the counters of a replica that ends.
    pub fn replica(&mut self, c: &Counters) {
        c.named().into_iter().for_each(|(name, n)| self.add(format!("counter {name}"), n));
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort();
        for (name, n) in counts {
            writeln!(f, "  {name:<36} {n:>12}")?;
        }
        Ok(())
    }
}
