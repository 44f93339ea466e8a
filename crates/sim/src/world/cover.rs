//! How often each fault, event, command, error and rule occurred: a run in which one never does proves nothing about it.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use catena_chain::Counters;
use catena_wire::peer::Body;

use super::Rule;
use crate::messages::{MESSAGES, kind};

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// By where a fixed name lies in memory: several are counted per event. One name may lie at several places.
    fixed: HashMap<(usize, usize), (&'static str, u64), BuildHasherDefault<Address>>,
    made: BTreeMap<String, u64>,
    /// Messages that have arrived, and checks made.
    messages: [u64; MESSAGES.len()],
    checked: [Cell<u64>; Rule::ALL.len()],
}

/// Addresses as they are, mixed a little.
#[derive(Clone, Default)]
struct Address(u64);

impl Hasher for Address {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_usize(&mut self, n: usize) {
        self.0 = (self.0.rotate_left(5) ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, name: impl Into<Cow<'static, str>>) {
        self.add(name, 1);
    }

    /// Counts `n`.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, n: u64) {
        match name.into() {
            Cow::Borrowed(name) => self.fixed.entry((name.as_ptr().addr(), name.len())).or_insert((name, 0)).1 += n,
            Cow::Owned(name) => *self.made.entry(name).or_insert(0) += n,
        }
    }

    /// A message has arrived.
    pub(super) fn message(&mut self, body: &Body) {
        self.messages[kind(body)] += 1;
    }

    /// The promise was looked at where it might have been broken.
    pub(super) fn checked(&self, rule: Rule) {
        let count = &self.checked[rule as usize];
        count.set(count.get() + 1);
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Coverage) {
        other.fixed.values().for_each(|&(name, n)| self.add(name, n));
        other.made.iter().for_each(|(name, n)| self.add(name.clone(), *n));
        self.messages.iter_mut().zip(other.messages).for_each(|(mine, n)| *mine += n);
        self.checked.iter().zip(&other.checked).for_each(|(mine, n)| mine.set(mine.get() + n.get()));
    }

    /// How often.
    pub fn get(&self, name: &str) -> u64 {
        self.counts().get(name).copied().unwrap_or(0)
    }

    /// Every name with its count.
    fn counts(&self) -> BTreeMap<Cow<'_, str>, u64> {
        let fixed = self.fixed.values().map(|&(name, n)| (Cow::Borrowed(name), n));
        let made = self.made.iter().map(|(name, &n)| (Cow::Borrowed(name.as_str()), n));
        let messages = MESSAGES.iter().zip(self.messages).map(|(name, n)| (Cow::Owned(format!("message {name}")), n));
        let checked = Rule::ALL.iter().zip(&self.checked).map(|(rule, n)| (Cow::Owned(format!("checked {rule}")), n.get()));
        let mut all = BTreeMap::new();
        fixed.chain(made).chain(messages).chain(checked).for_each(|(name, n)| *all.entry(name).or_insert(0) += n);
        all
    }

    /// Adds the counters of a replica that ends.
    pub fn replica(&mut self, c: &Counters) {
        c.named().into_iter().for_each(|(name, n)| self.add(format!("counter {name}"), n));
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, n) in self.counts() {
            writeln!(f, "  {name:<36} {n:>12}")?;
        }
        Ok(())
    }
}
