//! A shard's disks: the ring, its event descriptor in the runtime, and how targets are opened on it.

use std::path::Path;

use catena_arena::Arena;
use catena_engine::disk::file::{Backend, Ring};
use catena_engine::target_dir::{FileStore, TargetDir};
use catena_engine::{Background, OpenError, Params};
use tokio::net::unix::pipe;

use crate::{DiskChoice, NodeConfig, NodeError};

/// A target's store and the lock of its directory.
pub(crate) struct Opened {
    /// The store.
    pub(crate) store: FileStore,
    /// Held as long as the store.
    pub(crate) dir: TargetDir,
}

/// A shard's disks.
pub(crate) struct Storage {
    ring: Ring,
    arena: Arena,
    background: Background,
}

/// Tells when operations on a shard's disks have completed.
///
/// The ring's event descriptor is awaited as if it were the reading end of a pipe: it is non-blocking, and unlike a bare
/// descriptor in the runtime this needs no promise that the compiler cannot check. It is never read: every completion
/// makes a new event, whatever the counter says, and that is all the runtime looks for.
pub(crate) struct Completions(pipe::Receiver);

impl Storage {
    /// Starts the backend. Needs the shard's runtime.
    pub(crate) fn start(disk: DiskChoice, background: Background, arena: &Arena) -> Result<(Storage, Completions), NodeError> {
        let backend = match disk {
            DiskChoice::Auto => Backend::Auto,
            DiskChoice::Uring => Backend::Uring,
            DiskChoice::Threads => Backend::Threads,
        };
        let ring = Ring::new(backend, arena).map_err(NodeError::Disk)?;
        let event = ring.event_fd().and_then(pipe::Receiver::from_owned_fd_unchecked).map_err(NodeError::Disk)?;
        Ok((Storage { ring, arena: arena.clone(), background }, Completions(event)))
    }

    /// Opens a target, or makes it. Blocks.
    pub(crate) fn open_or_create(&self, path: &Path, params: &Params) -> Result<Opened, OpenError> {
        let (dir, mut store) = TargetDir::open_or_create(path, params, &self.ring, &self.arena)?;
        let held = store.params();
        if (held.kind, held.durability) != (params.kind, params.durability) {
            let path = path.display();
            tracing::warn!(%path, kind = ?held.kind, durability = ?held.durability, "a target stays as it was made");
        }
        store.set_background(self.background);
        Ok(Opened { store, dir })
    }

    /// Closes a store and opens its target anew. Blocks. A store that cannot be closed is not opened again: operations of
    /// it may still be on their way to the disk.
    pub(crate) fn reopen(&self, mut opened: Opened) -> Result<Opened, OpenError> {
        opened.store.close(&mut Vec::new())?;
        let path = opened.dir.path().to_owned();
        drop(opened);
        let (dir, mut store) = TargetDir::open(&path, &self.ring, &self.arena)?;
        store.set_background(self.background);
        Ok(Opened { store, dir })
    }
}

impl Completions {
    /// Waits until an operation has completed, and takes note: completions that are polled after this and those that come
    /// later are all told.
    pub(crate) async fn wait(&mut self) {
        if let Err(e) = self.0.readable().await {
            tracing::error!("the event descriptor of the disks cannot be awaited: {e}");
            std::future::pending().await
        }
        // What was seen is forgotten; an event that comes meanwhile is not.
        let _ = self.0.try_io(|| Err::<(), _>(std::io::ErrorKind::WouldBlock.into()));
    }
}

/// Parameters of a target to be made.
pub(crate) fn params(config: &NodeConfig) -> Params {
    let mut uuid = [0; 16];
    crate::service::draw(&mut uuid);
    let mut params = Params::new(uuid, config.capacity);
    params.kind = config.store;
    params.durability = config.durability;
    if config.journal != 0 {
        params.journal = config.journal;
    }
    params
}
