//! Why a manager does not start, or stops.

use std::io;
use std::path::PathBuf;

/// Why a manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("manager configuration: {0}")]
    Config(String),
    /// The store could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address could not be listened on.
    #[error(transparent)]
    Net(#[from] catena_net::NetError),
    /// The system gave no thread, runtime or random number.
    #[error("cannot start the manager: no {what}: {reason}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// As the system says.
        reason: String,
    },
}

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or its lock file cannot be made or opened.
    #[error("manager directory {dir}: {source}; it must be a directory this user may write to")]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// From the system.
        source: io::Error,
    },
    /// Another process has it.
    #[error("manager directory {dir} is in use by another process: stop that one, or choose another directory")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// Made by a later build.
    #[error(
        "manager store {place} is of format {found}, this build knows up to {known}: run the build that made it, or a later one"
    )]
    Newer {
        /// The file or key.
        place: String,
        /// Format found there.
        found: u32,
        /// Newest format of this build.
        known: u32,
    },
    /// The content makes no sense.
    #[error("manager store {place} is damaged: {reason}; bring it back from a copy")]
    Damaged {
        /// The file or key.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The addresses given make no sense.
    #[error("etcd address {addr:?}: {reason}")]
    Address {
        /// As given.
        addr: String,
        /// What is wrong.
        reason: String,
    },
    /// etcd does not answer, or not with what was asked for.
    #[error("etcd at {addr}: {reason}; check that it runs and has a leader")]
    Unreachable {
        /// Address asked last.
        addr: String,
        /// From the connection or from etcd.
        reason: String,
    },
    /// The system gave no random number.
    #[error("no random number for a new cluster: {reason}")]
    System {
        /// As the system says.
        reason: String,
    },
    /// Another manager may have been elected.
    #[error("this manager is no longer the elected one: {0}")]
    Deposed(String),
    /// Reading or writing failed.
    #[error("manager store {path}: cannot {what}: {reason}; check the disk and the free space")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// As the database says.
        reason: String,
    },
}

impl StoreError {
    /// Whether it is worth trying again.
    pub fn is_passing(&self) -> bool {
        matches!(self, StoreError::Unreachable { .. } | StoreError::Deposed(_))
    }
}
