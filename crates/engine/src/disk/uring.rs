//! Disk operations through one io_uring per shard.
//!
//! What must hold (libraries.md, rules for the disk engine): the ring owns every buffer and every file from submission to
//! the completion, even if the target is dropped meanwhile (`flights`); it is probed, never version-checked; short
//! transfers are continued; nothing is freed before the kernel has let go (`drop` waits).
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};

use super::Completion;
use super::file::{Ended, Request, RequestOp};

/// Submission slots.
const ENTRIES: u32 = 256;
/// Most operations in the kernel at once: half of the completion queue (which has twice the entries).
const IN_KERNEL: usize = ENTRIES as usize;

/// An operation the kernel works on.
struct Flight {
    request: Request,
    /// Bytes done by earlier, short transfers.
    done: usize,
}

/// The ring of one shard.
pub(super) struct Uring {
    ring: IoUring,
    /// By user data; an empty slot is in `free`.
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// In the kernel (or in the submission queue).
    in_kernel: usize,
    /// Waits for a place in the ring: slots of `flights`.
    backlog: VecDeque<usize>,
}

/// Sets a ring up and runs an operation on it.
pub(super) fn probe() -> io::Result<()> {
    let mut ring = IoUring::new(4)?;
    let nop = opcode::Nop::new().build().user_data(7);
    // SAFETY: a NOP refers to no memory.
    unsafe { ring.submission().push(&nop) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next();
    match done {
        Some(cqe) if cqe.user_data() == 7 && cqe.result() >= 0 => Ok(()),
        other => Err(io::Error::other(format!("a NOP came back as {other:?}"))),
    }
}

impl Uring {
    pub(super) fn new(event: BorrowedFd<'_>) -> io::Result<Uring> {
        let ring = IoUring::builder().setup_clamp().build(ENTRIES)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Uring { ring, flights: Vec::new(), free: Vec::new(), in_kernel: 0, backlog: VecDeque::new() })
    }

    pub(super) fn start(&mut self, requests: impl Iterator<Item = Request>) {
        for request in requests {
            let flight = Some(Flight { request, done: 0 });
            let slot = match self.free.pop() {
                Some(slot) => {
                    self.flights[slot] = flight;
                    slot
                }
                None => {
                    self.flights.push(flight);
                    self.flights.len() - 1
                }
            };
            self.backlog.push_back(slot);
        }
        self.feed();
    }

    /// Puts what waits into the ring as far as there is room, and submits it with one system call.
    fn feed(&mut self) {
        let mut pushed = false;
        while self.in_kernel < IN_KERNEL {
            let Some(slot) = self.backlog.pop_front() else { break };
            let Some(flight) = self.flights[slot].as_mut() else { continue };
            let entry = entry_of(flight).user_data(slot as u64);
            // SAFETY: the entry refers to the flight's buffer and file. Both are on the heap behind owning handles that
            // stay in `flights[slot]`, untouched, until the completion with this user data has been taken, which `drop`
            // waits for too; nothing else writes to a read's buffer meanwhile.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                self.backlog.push_front(slot);
                if self.submit(0).is_err() {
                    break;
                }
                continue;
            }
            self.in_kernel += 1;
            pushed = true;
        }
        if pushed {
            // EAGAIN and EBUSY leave entries in the queue; the next call takes them along.
            let _ = self.submit(0);
        }
    }

    fn submit(&mut self, want: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes completions; continues short transfers.
    pub(super) fn reap(&mut self, out: &mut Vec<Ended>) {
        self.ring.completion().sync();
        let completions: Vec<(usize, i32)> = self.ring.completion().map(|cqe| (cqe.user_data() as usize, cqe.result())).collect();
        for (slot, result) in completions {
            self.in_kernel -= 1;
            let Some(flight) = self.flights.get_mut(slot).and_then(Option::as_mut) else { continue };
            match flight.advance(result) {
                Progress::Again => self.backlog.push_back(slot),
                Progress::Ended(result) => {
                    if let Some(flight) = self.flights[slot].take() {
                        self.free.push(slot);
                        out.push(flight.end(result));
                    }
                }
            }
        }
        if !self.backlog.is_empty() {
            self.feed();
        }
        let left = !self.ring.submission().is_empty();
        if left {
            let _ = self.submit(0);
        }
    }

    /// Blocks until something has completed; `false` if nothing is in flight.
    pub(super) fn wait(&mut self) -> bool {
        if self.in_kernel == 0 && self.backlog.is_empty() {
            return false;
        }
        self.feed();
        if self.submit(1).is_err() {
            std::thread::yield_now();
        }
        true
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may still write to our buffers: wait until it has let go of every one.
        self.backlog.clear();
        let mut out = Vec::new();
        while self.in_kernel > 0 {
            if self.submit(1).is_err() {
                std::thread::yield_now();
            }
            self.reap(&mut out);
        }
    }
}

enum Progress {
    Again,
    Ended(io::Result<()>),
}

impl Flight {
    fn len(&self) -> usize {
        match &self.request.op {
            RequestOp::Read { buf, .. } => buf.len(),
            RequestOp::Write { data, .. } => data.len(),
            RequestOp::Flush | RequestOp::Punch { .. } => 0,
        }
    }

    fn advance(&mut self, result: i32) -> Progress {
        if result < 0 {
            return match -result {
                libc::EINTR | libc::EAGAIN => Progress::Again,
                errno => Progress::Ended(Err(io::Error::from_raw_os_error(errno))),
            };
        }
        let n = result as usize;
        let left = self.len() - self.done;
        if n >= left {
            return Progress::Ended(Ok(()));
        }
        if n == 0 {
            let done = self.done;
            return match &mut self.request.op {
                // Behind the end of the file nothing was ever written.
                RequestOp::Read { buf, .. } => {
                    buf[done..].fill(0);
                    Progress::Ended(Ok(()))
                }
                _ => Progress::Ended(Err(io::ErrorKind::WriteZero.into())),
            };
        }
        // Under O_DIRECT the rest has to start at a block boundary.
        self.done += n / 512 * 512;
        Progress::Again
    }

    fn end(self, result: io::Result<()>) -> Ended {
        let Request { disk, id, op, .. } = self.request;
        let buf = if let RequestOp::Read { buf, .. } = op { Some(buf) } else { None };
        (disk, Completion { id, result: result.map(|()| buf) })
    }
}

/// Most bytes of one transfer: the length is 32 bits wide, and the kernel cuts at 2 GiB.
const MOST: usize = 1 << 30;

fn entry_of(flight: &mut Flight) -> squeue::Entry {
    let fd = types::Fd(flight.request.file.as_raw_fd());
    let done = flight.done;
    match &mut flight.request.op {
        RequestOp::Read { offset, buf } => {
            let at = *offset + done as u64;
            let rest = &mut buf[done..];
            let len = rest.len().min(MOST) as u32;
            opcode::Read::new(fd, rest.as_mut_ptr(), len).offset(at).build()
        }
        RequestOp::Write { offset, data } => {
            let rest = &data[done..];
            let len = rest.len().min(MOST) as u32;
            opcode::Write::new(fd, rest.as_ptr(), len).offset(*offset + done as u64).build()
        }
        RequestOp::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        RequestOp::Punch { offset, len } => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            opcode::Fallocate::new(fd, *len).offset(*offset).mode(mode).build()
        }
    }
}
