//! Why a target cannot be opened: what was found, where, and what to do next.

use std::io;

/// Why a target cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused an operation.
    #[error("{name}: {action} failed: {source}. Check the disk (dmesg), then start again")]
    Io {
        /// The target's path.
        name: String,
        /// What was tried.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing was ever written here.
    #[error("{name} holds no target: it is empty. Format it first")]
    Empty {
        /// The target's path.
        name: String,
    },
    /// Something else's data.
    #[error("{name} is not a Catena target: it does not start with the magic number. Check the path; nothing was changed")]
    NotATarget {
        /// The target's path.
        name: String,
    },
    /// Written by another version.
    #[error("{name} has disk format {found}, this build reads {known}. Use the build that wrote it")]
    UnknownFormat {
        /// The target's path.
        name: String,
        /// Format found.
        found: u32,
        /// Format known.
        known: u32,
    },
    /// Both copies are damaged.
    #[error("{name}: both copies of the superblock (at bytes 0 and 32768) are damaged. Replace the target; its chain refills it")]
    CorruptSuperblock {
        /// The target's path.
        name: String,
    },
    /// The only readable copy of the superblock is older than what the journal was written under.
    #[error(
        "{name}: the newest copy of the superblock is lost (the journal is of generation {journal}, the copy left is of \
         {superblock}). Replace the target; its chain refills it"
    )]
    StaleSuperblock {
        /// The target's path.
        name: String,
        /// Generation of the copy that is left.
        superblock: u64,
        /// Generation found in the journal.
        journal: u64,
    },
    /// A slice of the checkpoint does not check.
    #[error("{name}: checkpoint slice {slice} at byte {offset} is damaged: {why}. Replace the target; its chain refills it")]
    CorruptCheckpoint {
        /// The target's path.
        name: String,
        /// Number of the slice.
        slice: u32,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// An index leaf does not check.
    #[error("{name}: index leaf {leaf} at byte {offset} is damaged: {why}. Replace the target; its chain refills it")]
    CorruptIndex {
        /// The target's path.
        name: String,
        /// Its place in key order.
        leaf: u64,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// Records that were durable are not there any more.
    #[error("{name}: the journal is damaged at byte {offset}: {why}. Replace the target; its chain refills it")]
    CorruptJournal {
        /// The target's path.
        name: String,
        /// Where, in bytes.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// Checkpoint and journal contradict each other.
    #[error("{name}: checkpoint and journal contradict each other: {why}. Replace the target, and report this")]
    Inconsistent {
        /// The target's path.
        name: String,
        /// What contradicts.
        why: String,
    },
    /// It is another target than the one wanted.
    #[error("{name} is {found}, not {wanted}. Check the path; nothing was changed")]
    WrongTarget {
        /// The target's path.
        name: String,
        /// Who it is.
        found: String,
        /// Who was wanted.
        wanted: String,
    },
    /// Another process has it open.
    #[error("{name} is in use by another process (lock file {lock}). Stop that process first")]
    Locked {
        /// The target's path.
        name: String,
        /// The lock file.
        lock: String,
    },
    /// The parameters cannot make a target.
    #[error("{name} cannot be made: {why}")]
    BadParams {
        /// The target's path.
        name: String,
        /// What is wrong.
        why: String,
    },
}
