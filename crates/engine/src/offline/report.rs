//! What a check finds: the class, how bad it is, where, what, and what to do next.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

/// Findings that are kept; more are only counted.
const MOST: usize = 10_000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be after a power cut.
    Info,
    /// Nothing is lost: the rest of the target says what was here.
    Repairable,
    /// Something is lost, or is not as it must be; the target can be opened.
    Damage,
    /// The target cannot be opened.
    Fatal,
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A copy of the superblock.
    Superblock,
    /// The size of the file.
    Size,
    /// Bytes that the disk does not give.
    Unreadable,
    /// A slice of the checkpoint, or an item in it.
    Checkpoint,
    /// An index leaf.
    Leaf,
    /// A parity block, of whatever structure.
    Parity,
    /// A journal append.
    Journal,
    /// A journal record that contradicts what came before it, or makes no sense.
    Record,
    /// Records at the journal's end that the next open drops.
    Dropped,
    /// Blocks with two owners, or outside their area.
    Owner,
    /// What is recorded of a chunk makes no sense.
    Chunk,
    /// What is recorded of sessions makes no sense.
    Session,
    /// The checksum table.
    Table,
    /// Data that does not match its checksums.
    Data,
    /// Bytes behind the end of a chunk that are not zero.
    Padding,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub class: Class,
    /// How bad it is.
    pub severity: Severity,
    /// Where, in bytes from the start of the target, as exactly as is known.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
    /// What to do next.
    pub next: &'static str,
}

impl Severity {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Repairable => "repairable",
            Severity::Damage => "damage",
            Severity::Fatal => "fatal",
        }
    }
}

impl Class {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Class::Superblock => "superblock",
            Class::Size => "size",
            Class::Unreadable => "unreadable",
            Class::Checkpoint => "checkpoint",
            Class::Leaf => "leaf",
            Class::Parity => "parity",
            Class::Journal => "journal",
            Class::Record => "record",
            Class::Dropped => "dropped",
            Class::Owner => "owner",
            Class::Chunk => "chunk",
            Class::Session => "session",
            Class::Table => "table",
            Class::Data => "data",
            Class::Padding => "padding",
        }
    }

    fn next(self, severity: Severity) -> &'static str {
        match (severity, self) {
            (Severity::Info, _) => "nothing: it was never acknowledged, and the next start leaves it out",
            (Severity::Repairable, Class::Table) => "start the node: the next read of the chunk, or the scrub, mends it",
            (Severity::Repairable, Class::Parity) => {
                "nothing is lost; in the journal the next start mends it, elsewhere it is written anew when what it protects \
                 changes: until then another bad block costs that"
            }
            (Severity::Repairable, Class::Unreadable) => {
                "start the node: it goes without this block, and what was in it is written elsewhere; check the disk (dmesg)"
            }
            (Severity::Repairable, _) => "start the node: it mends this when it opens the target",
            (Severity::Damage, Class::Data | Class::Unreadable | Class::Padding) => {
                "start the node: the chunk is repaired from its chain when a read or the scrub meets it"
            }
            (Severity::Damage, _) => "keep a copy of the target and report this, then replace it: its chain refills it",
            (Severity::Fatal, _) => "replace the target: its chain refills it",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { class, severity, offset, what, next } = self;
        write!(f, "{} {} at byte {offset}: {what}; next: {next}", severity.name(), class.name())
    }
}

#[derive(Default)]
struct Inner {
    kept: Vec<Finding>,
    omitted: u64,
    worst: Option<Severity>,
    unreadable: BTreeSet<u64>,
}

/// Collects findings.
#[derive(Default)]
pub(super) struct Findings(RefCell<Inner>);

impl Findings {
    pub(super) fn note(&self, class: Class, severity: Severity, offset: u64, what: impl Into<String>) {
        let mut inner = self.0.borrow_mut();
        // Some blocks are read more than once.
        if class == Class::Unreadable && !inner.unreadable.insert(offset) {
            return;
        }
        inner.worst = inner.worst.max(Some(severity));
        if inner.kept.len() >= MOST {
            inner.omitted += 1;
            return;
        }
        inner.kept.push(Finding { class, severity, offset, what: what.into(), next: class.next(severity) });
    }

    /// The worst so far.
    pub(super) fn worst(&self) -> Option<Severity> {
        self.0.borrow().worst
    }

    /// All, the worst first, and how many more there were.
    pub(super) fn take(self) -> (Vec<Finding>, u64) {
        let Inner { mut kept, omitted, .. } = self.0.into_inner();
        kept.sort_by_key(|f| std::cmp::Reverse(f.severity));
        (kept, omitted)
    }
}
