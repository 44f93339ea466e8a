//! What a target is read from: a file that nobody else has open, or memory.
//!
//! What must hold: nothing here can write, and a target that a process has open is refused.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::disk::mem::MemDisk;
use crate::error::OpenError;
use crate::target_dir::{DATA_FILE, LOCK_FILE};

/// A target's address space, to be read.
pub trait Medium {
    /// Fills `buf` from byte `offset`. What was never written, or is behind the end, reads as zeroes.
    ///
    /// # Errors
    /// The disk does not give these bytes.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Its size in bytes, if it has an end.
    fn size(&self) -> Option<u64>;
    /// What to call it in messages: a path.
    fn name(&self) -> String;
}

impl Medium for MemDisk {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.is_unreadable(offset, buf.len()) {
            return Err(io::Error::other("unreadable"));
        }
        buf.copy_from_slice(&self.peek(offset, buf.len()));
        Ok(())
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn name(&self) -> String {
        "memory disk".to_string()
    }
}

/// The file of a target in a directory, which no process can open as long as this lives.
#[derive(Debug)]
pub struct TargetFile {
    path: PathBuf,
    file: File,
    size: u64,
    _lock: Option<File>,
}

impl TargetFile {
    /// The target in directory `dir`.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if a process has it open; `Io` if there is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<TargetFile, OpenError> {
        let lock = lock(dir)?;
        let path = dir.join(DATA_FILE);
        let file = File::open(&path).map_err(|e| at(&path, "opening", e))?;
        let size = file.metadata().map_err(|e| at(&path, "looking at", e))?.len();
        Ok(TargetFile { path, file, size, _lock: lock })
    }
}

/// Shared, so that several may look at once; a process that has the target open holds it alone. A directory without a
/// lock file has never been opened by any: a copy, for example.
fn lock(dir: &Path) -> Result<Option<File>, OpenError> {
    let path = dir.join(LOCK_FILE);
    let file = match OpenOptions::new().read(true).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(&path, "opening the lock file", e)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(OpenError::Locked { name: dir.display().to_string(), lock: path.display().to_string() })
        }
        Err(e) => Err(at(&path, "locking", e.into())),
    }
}

fn at(path: &Path, action: &str, source: io::Error) -> OpenError {
    OpenError::Io { name: path.display().to_string(), action: action.to_string(), source }
}

impl Medium for TargetFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => {
                    buf[filled..].fill(0);
                    break;
                }
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}
