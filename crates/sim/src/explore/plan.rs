//! What is explored: how many targets, chunks and updates, and how often which fault may strike.

use std::fmt;

use super::ledger::Update;
use super::rules::{Rule, Rules};

/// How often each fault may strike along one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A node dies; any beginning of what was not durable is kept. It starts again when it likes.
    pub crash: u8,
    /// All nodes die at once.
    pub power: u8,
    /// A node is told to stop, and starts again.
    pub stop: u8,
    /// A target loses its lease, and is heard of again when it likes.
    pub lease: u8,
    /// A connection is cut, with what is on it.
    pub cut: u8,
    /// A disk has no room for one update or chunk.
    pub full: u8,
    /// A client sends again although the answer may still come.
    pub resend: u8,
    /// A frame of a client arrives once more, late.
    pub copy: u8,
    /// A client gives up waiting, and goes on.
    pub give_up: u8,
    /// A read that may have to ask the tail, each step of it an event.
    pub read: u8,
    /// A node starts again with an empty disk.
    pub swap: u8,
}

/// One exploration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For tables.
    pub name: &'static str,
    /// Members of the chain.
    pub targets: u8,
    /// Chunks.
    pub chunks: u8,
    /// Updates that clients make, at any time, each once.
    pub updates: &'static [Update],
    /// Faults.
    pub faults: Faults,
    /// Targets may learn any routing since theirs, not only the newest.
    pub late_routing: bool,
    /// Heartbeats that say anything new are heard at once, disk reads end at once, connections are there at once. Less is
    /// varied, so that more targets can be explored to the end.
    pub prompt: bool,
    /// Rules switched off.
    pub off: Rules,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (self.crash, "crash"),
            (self.power, "power cut"),
            (self.stop, "stop"),
            (self.lease, "lease lost"),
            (self.cut, "link cut"),
            (self.full, "full disk"),
            (self.resend, "client sends again"),
            (self.copy, "late copy"),
            (self.give_up, "client gives up"),
            (self.read, "read step by step"),
            (self.swap, "empty disk"),
        ];
        let words: Vec<String> = named
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, name)| if *n > 1 { format!("{n} × {name}") } else { (*name).to_owned() })
            .collect();
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

const NONE: Faults =
    Faults { crash: 0, power: 0, stop: 0, lease: 0, cut: 0, full: 0, resend: 0, copy: 0, give_up: 0, read: 0, swap: 0 };
const ONE: &[Update] = &[Update::write(0, 0)];
const TWO: &[Update] = &[Update::write(0, 0), Update::write(0, 1)];
const ONE_EACH: &[Update] = &[Update::write(0, 0), Update::write(1, 1)];
const AND_REMOVE: &[Update] = &[Update::write(0, 0), Update::remove(0, 1)];
/// A chunk of two blocks, of which one is overwritten.
const IN_PART: &[Update] = &[Update::blocks(0, 0, 0, 2), Update::blocks(0, 0, 1, 1)];
const IN_ORDER: &[Update] = &[Update::write(0, 0), Update::write(0, 0)];

const fn plan(name: &'static str, targets: u8, chunks: u8, updates: &'static [Update], faults: Faults) -> Plan {
    Plan { name, targets, chunks, updates, faults, late_routing: false, prompt: false, off: Rules::NONE }
}

/// A chain of three in which less is varied.
const fn prompt(name: &'static str, updates: &'static [Update], faults: Faults) -> Plan {
    Plan { prompt: true, ..plan(name, 3, 1, updates, faults) }
}

/// What the gate explores.
pub const SHORT: &[Plan] = &[
    plan("quiet-3", 3, 1, TWO, Faults { read: 1, ..NONE }),
    plan("cut-3", 3, 1, TWO, Faults { cut: 1, ..NONE }),
    plan("full-3", 3, 1, TWO, Faults { full: 1, ..NONE }),
    plan("full-cut-2", 2, 1, TWO, Faults { full: 1, cut: 1, ..NONE }),
    plan("lease-2", 2, 1, ONE, Faults { lease: 1, read: 1, ..NONE }),
    plan("power-2", 2, 1, ONE, Faults { power: 1, ..NONE }),
    Plan { prompt: true, ..plan("blocks-2", 2, 1, IN_PART, Faults { crash: 1, ..NONE }) },
    Plan { prompt: true, ..plan("removes-2", 2, 1, AND_REMOVE, Faults { crash: 1, ..NONE }) },
];

/// What is explored when there is time.
pub const LONG: &[Plan] = &[
    plan("crash-2", 2, 1, TWO, Faults { crash: 1, ..NONE }),
    plan("blocks-crash-2", 2, 1, IN_PART, Faults { crash: 1, ..NONE }),
    Plan { prompt: true, ..plan("blocks-cut-2", 2, 1, IN_PART, Faults { crash: 1, cut: 1, ..NONE }) },
    plan("crash-2-chunks", 2, 2, ONE_EACH, Faults { crash: 1, ..NONE }),
    plan("remove-2", 2, 1, AND_REMOVE, Faults { crash: 1, ..NONE }),
    plan("resend-2", 2, 1, TWO, Faults { resend: 1, copy: 1, lease: 1, full: 1, ..NONE }),
    plan("order-2", 2, 1, IN_ORDER, Faults { give_up: 1, crash: 1, copy: 1, ..NONE }),
    plan("crashes-2", 2, 1, TWO, Faults { crash: 2, ..NONE }),
    plan("crash-lease-2", 2, 1, TWO, Faults { crash: 1, lease: 1, ..NONE }),
    plan("power-crash-2", 2, 1, TWO, Faults { power: 1, crash: 1, ..NONE }),
    plan("stop-crash-2", 2, 1, TWO, Faults { stop: 1, crash: 1, ..NONE }),
    Plan { late_routing: true, ..plan("late-routing-2", 2, 1, TWO, Faults { lease: 1, crash: 1, ..NONE }) },
    plan("full-cut-3", 3, 1, ONE, Faults { full: 1, cut: 1, ..NONE }),
    prompt("crash-3", ONE, Faults { crash: 1, ..NONE }),
    prompt("lease-read-3", ONE, Faults { lease: 1, read: 1, ..NONE }),
    prompt("full-lease-3", ONE, Faults { full: 1, lease: 1, ..NONE }),
    prompt("power-3", ONE, Faults { power: 1, ..NONE }),
];

/// What looks for rules of the replica that are switched off: a little of everything.
pub const HUNT: &[Plan] = &[
    plan("quiet-3", 3, 1, TWO, Faults { read: 1, ..NONE }),
    plan("cut-3", 3, 1, TWO, Faults { cut: 1, ..NONE }),
    plan("full-cut-2", 2, 1, TWO, Faults { full: 1, cut: 1, copy: 1, resend: 1, ..NONE }),
    plan("full-power-2", 2, 1, ONE, Faults { full: 1, power: 1, ..NONE }),
    plan("in-order-2", 2, 1, IN_ORDER, Faults { copy: 1, give_up: 1, resend: 1, ..NONE }),
    plan("lease-2", 2, 1, ONE, Faults { lease: 1, read: 1, ..NONE }),
    Plan { prompt: true, ..plan("remove-2", 2, 1, AND_REMOVE, Faults { crash: 1, cut: 1, ..NONE }) },
    Plan { prompt: true, ..plan("leases-2", 2, 1, ONE, Faults { lease: 2, ..NONE }) },
    Plan { prompt: true, ..plan("two-chunks-2", 2, 2, ONE_EACH, Faults { crash: 1, ..NONE }) },
    Plan { prompt: true, ..plan("blocks-2", 2, 1, IN_PART, Faults { crash: 1, ..NONE }) },
    Plan { prompt: true, ..plan("crash-full-2", 2, 1, ONE, Faults { crash: 1, full: 1, cut: 1, ..NONE }) },
    Plan { prompt: true, ..plan("crashes-2", 2, 1, ONE, Faults { crash: 2, ..NONE }) },
    prompt("crash-3", ONE, Faults { crash: 1, ..NONE }),
    prompt("full-lease-3", ONE, Faults { full: 1, lease: 1, ..NONE }),
];

const fn broken(rule: Rule, updates: &'static [Update], faults: Faults) -> (Rule, Plan) {
    (rule, Plan { off: Rules::off(rule), ..plan(rule.text(), 2, 1, updates, faults) })
}

/// Each rule of the surroundings switched off, and a plan that shows what it prevents.
pub const BROKEN: &[(Rule, Plan)] = &[
    broken(Rule::StageDurable, ONE, Faults { power: 1, ..NONE }),
    broken(Rule::UnstageDurable, ONE, Faults { power: 1, full: 1, ..NONE }),
    broken(Rule::SyncDurable, ONE, Faults { crash: 1, power: 1, ..NONE }),
    broken(Rule::LeaseEnds, ONE, Faults { lease: 1, ..NONE }),
    broken(Rule::LeaseRouting, ONE, Faults { lease: 1, ..NONE }),
    broken(Rule::RemovalFirst, ONE, Faults { crash: 1, ..NONE }),
    broken(Rule::UpToDateVersion, ONE, Faults { lease: 2, ..NONE }),
    broken(Rule::LastSet, ONE, Faults { crash: 2, ..NONE }),
    broken(Rule::DiskIdentity, ONE, Faults { power: 1, swap: 1, ..NONE }),
    broken(Rule::Fencing, TWO, Faults { cut: 1, ..NONE }),
    broken(Rule::Order, ONE, NONE),
    broken(Rule::SessionRows, ONE, Faults { crash: 2, ..NONE }),
    broken(Rule::ClientNewest, ONE, Faults { full: 1, resend: 1, lease: 1, ..NONE }),
];
