//! How often each fault, event, command, error and rule occurred: a run in which one never does proves nothing about it.

use std::collections::BTreeMap;
use std::fmt;

use catena_chain::Counters;

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<String, u64>,
}

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// Counts `n`.
    pub fn add(&mut self, name: &str, n: u64) {
        match self.counts.get_mut(name) {
            Some(count) => *count += n,
            None => {
                self.counts.insert(name.to_owned(), n);
            }
        }
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Coverage) {
        other.counts.iter().for_each(|(name, n)| self.add(name, *n));
    }

    /// How often.
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Adds the counters of a replica that ends.
    pub fn replica(&mut self, c: &Counters) {
        c.named().into_iter().for_each(|(name, n)| self.add(&format!("counter {name}"), n));
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, n) in &self.counts {
            writeln!(f, "  {name:<36} {n:>12}")?;
        }
        Ok(())
    }
}
