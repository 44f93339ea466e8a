//! Why a node does not start, or cannot go on.

use std::io;
use std::path::PathBuf;

use catena_engine::OpenError;
use catena_net::NetError;
use catena_types::Failure;

/// Why a node does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// A file of the directory could not be used.
    #[error("{}: {action} failed: {source}; check permissions and the disk", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// From the system.
        source: io::Error,
    },
    /// Another process has the directory.
    #[error("{} is in use by another process; stop that process, or give this node a directory of its own", dir.display())]
    DirectoryInUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory is another node's, or of another cluster.
    #[error("{} belongs to {found}, not to {wanted}; give this node its own directory", dir.display())]
    WrongDirectory {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        wanted: String,
    },
    /// A target could not be opened or made.
    #[error(transparent)]
    Target(#[from] OpenError),
    /// The port could not be opened.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The disks cannot be reached in the way asked for.
    #[error("the disk backend cannot be started: {0}; choose threads")]
    Disk(io::Error),
    /// A thread or runtime could not be made.
    #[error("cannot start a shard: {0}")]
    Thread(io::Error),
    /// A shard has ended by itself.
    #[error("shard {0} has ended unexpectedly; the log says why")]
    ShardEnded(u32),
    /// The manager refuses this node.
    #[error("the manager refuses node {node}: {failure}")]
    Refused {
        /// This node.
        node: u32,
        /// Its reason.
        failure: Failure,
    },
}
