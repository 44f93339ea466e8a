//! Files and block devices: one ring per shard, shared by all its targets.
//!
//! [`Ring`] hides which backend runs: io_uring, or threads that call pread and pwrite where io_uring is not to be had.
//! Both complete through the same queues and wake the same event descriptor, so that a shard awaits one descriptor for all
//! its disks. What must hold: a buffer given to the kernel is owned by the ring until its completion, whatever becomes of
//! the [`FileDisk`] that submitted it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena, is_aligned};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use super::backing::Backing;
use super::threads::Threads;
use super::uring::Uring;
use super::{Completion, Disk, Io, IoOp};

/// Environment variable that chooses the backend: `auto`, `uring` or `threads`.
pub const BACKEND_VAR: &str = "CATENA_DISK";

/// How disk operations are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring if it works here, else threads.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// pread and pwrite on threads.
    Threads,
}

impl Backend {
    /// From [`BACKEND_VAR`], if that names one.
    pub fn from_env() -> Option<Backend> {
        match std::env::var(BACKEND_VAR).ok()?.as_str() {
            "auto" => Some(Backend::Auto),
            "uring" => Some(Backend::Uring),
            "threads" => Some(Backend::Threads),
            other => {
                tracing::warn!("{BACKEND_VAR}={other} is none of auto, uring, threads: ignored");
                None
            }
        }
    }
}

/// What a backend is given: everything in it lives until the completion.
pub(super) struct Request {
    /// The disk's number in the ring, and the operation's id there.
    pub(super) disk: usize,
    pub(super) id: u64,
    pub(super) file: Arc<File>,
    pub(super) op: RequestOp,
}

/// As [`IoOp`], with aligned write buffers.
pub(super) enum RequestOp {
    Read { offset: u64, buf: AlignedBuf },
    Write { offset: u64, data: Bytes },
    Flush,
    Punch { offset: u64, len: u64 },
}

/// A completion and the disk it belongs to.
pub(super) type Ended = (usize, Completion);

enum Engine {
    Uring(Box<Uring>),
    Threads(Threads),
}

struct Inner {
    engine: Engine,
    event: Arc<OwnedFd>,
    arena: Arena,
    /// Completions per disk.
    inboxes: Vec<VecDeque<Completion>>,
}

/// A shard's disk engine. Cloning shares it; it stays on its thread.
#[derive(Clone)]
pub struct Ring(Rc<RefCell<Inner>>);

/// Whether io_uring works here: really sets a ring up and runs an operation.
///
/// # Errors
/// Why not.
pub fn probe() -> io::Result<()> {
    super::uring::probe()
}

impl Ring {
    /// A ring with the given backend; [`BACKEND_VAR`] overrides it. Bounce buffers come from `arena`.
    ///
    /// # Errors
    /// When the backend cannot be set up (for `Auto`: when threads cannot either).
    pub fn new(backend: Backend, arena: &Arena) -> io::Result<Ring> {
        let event = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let backend = Backend::from_env().unwrap_or(backend);
        let engine = match backend {
            Backend::Threads => Engine::Threads(Threads::new(event.clone())?),
            Backend::Uring => Engine::Uring(Box::new(Uring::new(event.as_fd())?)),
            Backend::Auto => match probe().and_then(|()| Uring::new(event.as_fd())) {
                Ok(uring) => Engine::Uring(Box::new(uring)),
                Err(error) => {
                    tracing::warn!(%error, "io_uring does not work here: disks are run by threads");
                    Engine::Threads(Threads::new(event.clone())?)
                }
            },
        };
        Ok(Ring(Rc::new(RefCell::new(Inner { engine, event, arena: arena.clone(), inboxes: Vec::new() }))))
    }

    /// The backend that runs.
    pub fn backend(&self) -> Backend {
        match self.0.borrow().engine {
            Engine::Uring(_) => Backend::Uring,
            Engine::Threads(_) => Backend::Threads,
        }
    }

    /// A descriptor that becomes readable when operations have completed. Non-blocking; read it (8 bytes) or call
    /// [`Ring::clear_event`] before the turn that polls.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn event_fd(&self) -> io::Result<OwnedFd> {
        self.0.borrow().event.as_fd().try_clone_to_owned()
    }

    /// Makes the event descriptor unreadable until the next completion.
    pub fn clear_event(&self) {
        // Nothing to read (EAGAIN) is as good.
        let _ = rustix::io::read(&self.0.borrow().event, &mut [0u8; 8]);
    }

    /// A target's disk on this ring. `file` is read and written at `0..size`; it grows by large steps.
    pub fn attach(&self, file: File, size: u64, name: String) -> FileDisk {
        let mut inner = self.0.borrow_mut();
        inner.inboxes.push(VecDeque::new());
        let number = inner.inboxes.len() - 1;
        // A block device has all its space.
        let regular = file.metadata().is_ok_and(|m| m.is_file());
        let backing = regular.then(Backing::default);
        FileDisk { ring: self.0.clone(), number, file: Arc::new(file), size, backing, name, staged: Vec::new() }
    }
}

impl Inner {
    fn collect(&mut self) {
        let mut ended: Vec<Ended> = Vec::new();
        match &mut self.engine {
            Engine::Uring(uring) => uring.reap(&mut ended),
            Engine::Threads(threads) => threads.reap(&mut ended),
        }
        for (disk, completion) in ended {
            self.inboxes[disk].push_back(completion);
        }
    }
}

/// One target's file on a [`Ring`].
pub struct FileDisk {
    ring: Rc<RefCell<Inner>>,
    number: usize,
    file: Arc<File>,
    size: u64,
    /// What this process knows to have space; `None` if all of it has.
    backing: Option<Backing>,
    name: String,
    staged: Vec<Request>,
}

impl FileDisk {
    /// The bytes in aligned memory.
    fn aligned(&self, data: Bytes) -> Bytes {
        if is_aligned(&data) || data.len() > catena_arena::MAX_BUF {
            return data;
        }
        let mut bounce = self.ring.borrow().arena.take_or_alloc(data.len());
        bounce.copy_from_slice(&data);
        bounce.freeze()
    }
}

impl Disk for FileDisk {
    fn submit(&mut self, io: Io) {
        let op = match io.op {
            IoOp::Read { offset, buf } => RequestOp::Read { offset, buf },
            IoOp::Write { offset, data } => {
                if let Err(error) = self.reserve(offset, data.len() as u64, 0) {
                    // The write itself will say if there is no space.
                    tracing::debug!(%error, name = %self.name, "no space ahead of a write");
                }
                RequestOp::Write { offset, data: self.aligned(data) }
            }
            IoOp::Flush => RequestOp::Flush,
            IoOp::Punch { offset, len } => {
                self.backing.iter_mut().for_each(|b| b.gave_back(offset..offset + len));
                RequestOp::Punch { offset, len }
            }
        };
        self.staged.push(Request { disk: self.number, id: io.id, file: self.file.clone(), op });
    }

    fn kick(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let mut inner = self.ring.borrow_mut();
        match &mut inner.engine {
            Engine::Uring(uring) => uring.start(self.staged.drain(..)),
            Engine::Threads(threads) => threads.start(self.staged.drain(..)),
        }
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        let mut inner = self.ring.borrow_mut();
        inner.collect();
        out.extend(inner.inboxes[self.number].drain(..));
    }

    fn wait(&mut self) {
        self.kick();
        let mut inner = self.ring.borrow_mut();
        loop {
            inner.collect();
            if !inner.inboxes[self.number].is_empty() {
                return;
            }
            let more = match &mut inner.engine {
                Engine::Uring(uring) => uring.wait(),
                Engine::Threads(threads) => threads.wait(),
            };
            if !more {
                return;
            }
        }
    }

    fn reserve(&mut self, offset: u64, len: u64, keep: u64) -> io::Result<()> {
        let Some(backing) = &mut self.backing else { return Ok(()) };
        backing.ensure(offset..offset + len, self.size, |part| allocate(&self.file, part, keep))
    }

    fn is_slow_at_first(&self) -> bool {
        self.backing.is_some()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Gives a part of a file its space, unless the file system has less left than `keep` then. One that cannot do so ahead of
/// writes is not asked twice.
fn allocate(file: &File, part: Range<u64>, keep: u64) -> io::Result<()> {
    let len = part.end - part.start;
    if keep > 0 && fstatvfs(file).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < len + keep) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, part.start, len) {
        Err(e @ (Errno::NOSPC | Errno::DQUOT)) => Err(e.into()),
        Err(error) => {
            tracing::debug!(%error, "the file system gives no space ahead of writes");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Does a request with plain system calls; short transfers are continued.
pub(super) fn run_blocking(request: Request) -> Ended {
    let Request { disk, id, file, op } = request;
    let result = match op {
        RequestOp::Read { offset, mut buf } => read_full(&file, offset, &mut buf).map(|()| Some(buf)),
        RequestOp::Write { offset, data } => file.write_all_at(&data, offset).map(|()| None),
        RequestOp::Flush => file.sync_data().map(|()| None),
        RequestOp::Punch { offset, len } => punch(&file, offset, len).map(|()| None),
    };
    (disk, Completion { id, result })
}

fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while at < buf.len() {
        match file.read_at(&mut buf[at..], offset + at as u64) {
            // Behind the end of the file nothing was ever written.
            Ok(0) => {
                buf[at..].fill(0);
                break;
            }
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn punch(file: &impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let fd: BorrowedFd<'_> = file.as_fd();
    Ok(fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
}
