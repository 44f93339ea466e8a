//! Canaries: one rule at a time is switched off, and a checker must notice within a bounded number of seeds.
//!
//! A checker that never failed proves nothing. Where two guards keep each other superfluous, both are switched off: such a
//! canary names them, and says which alone does no harm.

mod list;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use catena_chain::mutation as chain;
use catena_client::mutation as client;
use catena_cluster::mutation as cluster;
use catena_engine::mutation as engine;
use catena_types::mutation as types;

pub use self::list::CANARIES;
use crate::mutation as node;
use crate::world::{self, Rule, Violation};

/// A line of the code that is switched to do something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// Of a replica.
    Chain(chain::Mutation),
    /// Of a client.
    Client(client::Mutation),
    /// Of the manager.
    Manager(cluster::Mutation),
    /// Of the chunk engine.
    Engine(engine::Mutation),
    /// Of a node's driver, or of the manager's.
    Node(node::Mutation),
    /// Of what all of them share.
    Types(types::Mutation),
}

impl Off {
    /// Which part of the system it is in.
    pub fn part(self) -> &'static str {
        match self {
            Off::Chain(_) => "chain",
            Off::Client(_) => "client",
            Off::Manager(_) => "manager",
            Off::Engine(_) => "engine",
            Off::Node(node::Mutation::DeposedWrites) => "store of the manager",
            Off::Node(_) => "node",
            Off::Types(_) => "types",
        }
    }
}

/// One rule switched off.
#[derive(Clone, Copy, Debug)]
pub struct Canary {
    /// Its name.
    pub name: &'static str,
    /// The rule, and what is done instead.
    pub rule: &'static str,
    /// Lines switched.
    pub off: &'static [Off],
    /// Seeds within which it must be caught.
    pub within: u64,
}

/// How a canary was caught.
#[derive(Clone, Debug)]
pub struct Caught {
    /// Seeds it took.
    pub after: u64,
    /// The first violation.
    pub violation: Violation,
}

impl Canary {
    /// Runs seeds from `start` on until a checker notices, at most `most`.
    pub fn hunt(&self, start: u64, most: u64, ops: u64) -> Option<Caught> {
        switch(self.off);
        let caught = (0..most).find_map(|n| {
            let run = catch_unwind(AssertUnwindSafe(|| world::run(start + n, ops, false).violation));
            let violation = run.unwrap_or_else(|panic| Some(panicked(&*panic)))?;
            Some(Caught { after: n + 1, violation })
        });
        switch(&[]);
        caught
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Violation {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
    Violation { rule: Rule::NoPanic, text }
}

/// Switches these lines for what runs on this thread, and no others.
pub fn switch(off: &[Off]) {
    let mut lines = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for off in off {
        match *off {
            Off::Chain(m) => lines.0.push(m),
            Off::Client(m) => lines.1.push(m),
            Off::Manager(m) => lines.2.push(m),
            Off::Engine(m) => lines.3.push(m),
            Off::Node(m) => lines.4.push(m),
            Off::Types(m) => lines.5.push(m),
        }
    }
    chain::set(&lines.0);
    client::set(&lines.1);
    cluster::set(&lines.2);
    engine::set(&lines.3);
    node::set(&lines.4);
    types::set(&lines.5);
}

/// Hunts all of them, some at a time on threads of their own; gives what became of each, in order.
pub fn hunt_all(canaries: &[Canary], start: u64, most: Option<u64>, ops: u64) -> Vec<Option<Caught>> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::panic::set_hook(Box::new(|_| {})); // a canary that panics is caught, and says so in its line
    let work = || {
        let mut done = Vec::new();
        while let Some((n, canary)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, canaries.get(n)?))) {
            done.push((n, canary.hunt(start, most.unwrap_or(canary.within), ops)));
        }
        done
    };
    let mut all: Vec<_> = std::thread::scope(|scope| {
        let hunters: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        hunters.into_iter().flat_map(|h| h.join().expect("a hunter catches what panics")).collect()
    });
    drop(std::panic::take_hook());
    all.sort_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, caught)| caught).collect()
}
