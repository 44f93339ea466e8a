//! A target as a directory on a real file system: made, locked, recognised.
//!
//! The directory holds `target.lock` (held with flock while a process has the target open) and `target.cat` (the whole
//! address space). What must hold: two processes never have one target open; a directory with anything unexpected in it is
//! refused and left as it is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use catena_arena::Arena;
use rustix::fs::{FlockOperation, flock};

use crate::disk::file::{FileDisk, Ring};
use crate::error::OpenError;
use crate::format::Params;
use crate::store::CowStore;

/// Name of the file that holds a target.
pub const DATA_FILE: &str = "target.cat";
/// Name of the lock file.
pub const LOCK_FILE: &str = "target.lock";

/// A target on a shard's ring.
pub type FileStore = CowStore<FileDisk>;

/// A target's directory, locked by this process until it is dropped.
pub struct TargetDir {
    path: PathBuf,
    lock: File,
}

impl TargetDir {
    /// Opens the target in directory `path` on `ring`, or makes one with `params` if the directory is missing or empty.
    /// Keep the `TargetDir` as long as the store. Blocks.
    ///
    /// # Errors
    /// What is wrong with it; [`OpenError::WrongTarget`] if it is adopted and `params` name another cluster or target.
    pub fn open_or_create(path: &Path, params: &Params, ring: &Ring, arena: &Arena) -> Result<(TargetDir, FileStore), OpenError> {
        fs::create_dir_all(path).map_err(|e| at(path, "making the directory", e))?;
        let dir = TargetDir::lock(path)?;
        if dir.exists() {
            let store = dir.open_store(ring, arena)?;
            check_identity(path, params, &store)?;
            return Ok((dir, store));
        }
        let stranger = fs::read_dir(path)
            .map_err(|e| at(path, "listing the directory", e))?
            .flatten()
            .find(|entry| entry.file_name() != LOCK_FILE && entry.file_name() != "lost+found" && !is_leftover(&entry.path()));
        if let Some(entry) = stranger {
            let why = format!("the directory holds {:?}, which is not a target's. Give an empty directory", entry.file_name());
            return Err(OpenError::BadParams { name: path.display().to_string(), why });
        }
        let store = dir.create_store(params, ring, arena)?;
        Ok((dir, store))
    }

    /// Opens the target in directory `path` on `ring`. Blocks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &Path, ring: &Ring, arena: &Arena) -> Result<(TargetDir, FileStore), OpenError> {
        let dir = TargetDir::lock(path)?;
        let store = dir.open_store(ring, arena)?;
        Ok((dir, store))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number for the lock that is held: the same for whoever holds it later, until the machine boots again; another one
    /// for the lock of a copy of the directory. 0 if the system does not tell.
    pub fn lock_number(&self) -> u64 {
        let (Ok(boot), Ok(file)) = (fs::read("/proc/sys/kernel/random/boot_id"), self.lock.metadata()) else { return 0 };
        let place = [file.dev().to_le_bytes(), file.ino().to_le_bytes()].concat();
        // FNV-1a, 64 bits: it is compared with the numbers of this target alone.
        boot.iter()
            .chain(&place)
            .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    fn lock(path: &Path) -> Result<TargetDir, OpenError> {
        let lock_path = path.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let file = file.map_err(|e| at(&lock_path, "opening the lock file", e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(TargetDir { path: path.to_path_buf(), lock: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(OpenError::Locked { name: path.display().to_string(), lock: lock_path.display().to_string() })
            }
            Err(e) => Err(at(&lock_path, "locking", e.into())),
        }
    }

    fn data_path(&self) -> PathBuf {
        self.path.join(DATA_FILE)
    }

    fn exists(&self) -> bool {
        self.data_path().exists()
    }

    fn open_store(&self, ring: &Ring, arena: &Arena) -> Result<FileStore, OpenError> {
        let path = self.data_path();
        let file = open_direct(&path, false).map_err(|e| at(&path, "opening", e))?;
        let size = file.metadata().map_err(|e| at(&path, "looking at", e))?.len();
        CowStore::open(ring.attach(file, size, path.display().to_string()), arena)
    }

    /// Made under another name first, so that a crash in between leaves no half-made target.
    fn create_store(&self, params: &Params, ring: &Ring, arena: &Arena) -> Result<FileStore, OpenError> {
        params.check().map_err(|why| OpenError::BadParams { name: self.path.display().to_string(), why })?;
        let path = self.data_path();
        let making = path.with_extension("new");
        let file = open_direct(&making, true).map_err(|e| at(&making, "making", e))?;
        file.set_len(params.size()).map_err(|e| at(&making, "sizing", e))?;
        let store = CowStore::create(ring.attach(file, params.size(), path.display().to_string()), params, arena)?;
        fs::rename(&making, &path).map_err(|e| at(&making, "renaming", e))?;
        let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
        synced.map_err(|e| at(&self.path, "making the new file's name durable", e))?;
        Ok(store)
    }
}

/// A target that was being made when its process ended.
fn is_leftover(path: &Path) -> bool {
    path.file_name() == Path::new(DATA_FILE).with_extension("new").file_name()
}

fn check_identity(path: &Path, params: &Params, store: &FileStore) -> Result<(), OpenError> {
    let (held, wanted) = (store.identity(), params.identity);
    let other_cluster = held.cluster != 0 && wanted.cluster != 0 && held.cluster != wanted.cluster;
    let other_target = held.target != 0 && wanted.target != 0 && held.target != wanted.target;
    if other_cluster || other_target {
        return Err(OpenError::WrongTarget {
            name: path.display().to_string(),
            found: format!("target {} of cluster {:x}", held.target, held.cluster),
            wanted: format!("target {} of cluster {:x}", wanted.target, wanted.cluster),
        });
    }
    Ok(())
}

fn at(path: &Path, action: &str, source: io::Error) -> OpenError {
    OpenError::Io { name: path.display().to_string(), action: action.to_string(), source }
}

/// Opens with O_DIRECT, or buffered with a warning where the file system refuses that (tmpfs does).
fn open_direct(path: &Path, create: bool) -> io::Result<File> {
    let options = |flags| {
        let mut o = OpenOptions::new();
        o.read(true).write(true).create(create).truncate(create).custom_flags(flags);
        o
    };
    match options(libc::O_DIRECT).open(path) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!(path = %path.display(), "the file system refuses O_DIRECT: IO goes through the page cache");
            options(0).open(path)
        }
        opened => opened,
    }
}
