//! Disk operations through one io_uring per shard.
//!
//! What must hold (libraries.md, rules for the disk engine): the ring owns every buffer and every file from submission to
//! the completion, even if the target is dropped meanwhile (`flights`); it is probed, never version-checked; short
//! transfers are continued; nothing is freed before the kernel has let go (`drop` waits). Small writes that wait for the ring
//! and lie side by side on disk go as one ([`Flight::absorb`]); if that fails, each is tried alone.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::Bytes;
use io_uring::{IoUring, opcode, squeue, types};

use super::Completion;
use super::file::{Ended, Request, RequestOp};

/// Submission slots.
const ENTRIES: u32 = 256;
/// Most operations in the kernel at once: half of the completion queue (which has twice the entries).
const IN_KERNEL: usize = ENTRIES as usize;

/// Most bytes of a write that is joined with others, and of what they become.
const SMALL_WRITE: usize = 32 << 10;
const JOINED_WRITE: usize = 512 << 10;

/// An operation the kernel works on.
struct Flight {
    request: Request,
    /// Writes behind that of the request, side by side: their ids and bytes.
    more: Vec<(u64, Bytes)>,
    /// What the kernel is told about the bytes of several writes.
    vectors: Vec<libc::iovec>,
    /// Bytes of all.
    len: usize,
    /// Bytes done by earlier, short transfers.
    done: usize,
    /// It was part of a joined write that failed.
    alone: bool,
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
            let last = self.backlog.back().and_then(|&slot| self.flights[slot].as_mut());
            match last {
                Some(flight) => {
                    if let Some(request) = flight.absorb(request) {
                        self.wait_for_room(Flight::new(request));
                    }
                }
                None => self.wait_for_room(Flight::new(request)),
            }
        }
        self.feed();
    }

    fn wait_for_room(&mut self, flight: Flight) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.flights[slot] = Some(flight);
        self.backlog.push_back(slot);
    }

    /// Puts what waits into the ring as far as there is room, and submits it with one system call.
    fn feed(&mut self) {
        let mut pushed = false;
        while self.in_kernel < IN_KERNEL {
            let Some(slot) = self.backlog.pop_front() else { break };
            let Some(flight) = self.flights[slot].as_mut() else { continue };
            let entry = entry_of(flight).user_data(slot as u64);
            // SAFETY: the entry refers to the flight's buffers, their list, and its file. All are on the heap behind owning
            // handles that stay in `flights[slot]`, untouched, until the completion with this user data has been taken, which `drop`
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
                        self.end(flight, result, out);
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

    /// Reports the end of a flight; the writes of a joined one that failed are tried each alone.
    fn end(&mut self, mut flight: Flight, result: io::Result<()>, out: &mut Vec<Ended>) {
        let more = std::mem::take(&mut flight.more);
        if more.is_empty() {
            return out.push(flight.end(result));
        }
        let disk = flight.request.disk;
        if result.is_ok() {
            out.extend(more.into_iter().map(|(id, _)| (disk, Completion { id, result: Ok(None) })));
            return out.push(flight.end(result));
        }
        let RequestOp::Write { offset, data } = &flight.request.op else { return };
        let mut at = offset + data.len() as u64;
        let file = flight.request.file.clone();
        self.wait_for_room(Flight::alone(flight.request));
        for (id, data) in more {
            let op = RequestOp::Write { offset: at, data };
            at += op.len() as u64;
            self.wait_for_room(Flight::alone(Request { disk, id, file: file.clone(), op }));
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

impl RequestOp {
    fn len(&self) -> usize {
        match self {
            RequestOp::Read { buf, .. } => buf.len(),
            RequestOp::Write { data, .. } => data.len(),
            RequestOp::Flush | RequestOp::Punch { .. } => 0,
        }
    }
}

impl Flight {
    fn new(request: Request) -> Flight {
        let len = request.op.len();
        Flight { request, more: Vec::new(), vectors: Vec::new(), len, done: 0, alone: false }
    }

    fn alone(request: Request) -> Flight {
        Flight { alone: true, ..Flight::new(request) }
    }

    /// Takes a write that lies right behind; gives anything else back.
    fn absorb(&mut self, request: Request) -> Option<Request> {
        let (RequestOp::Write { offset, .. }, RequestOp::Write { offset: next, data }) = (&self.request.op, &request.op) else {
            return Some(request);
        };
        let small = data.len() <= SMALL_WRITE && self.len / (1 + self.more.len()) <= SMALL_WRITE;
        let room = self.done == 0 && !self.alone && self.len + data.len() <= JOINED_WRITE;
        if request.disk != self.request.disk || *next != offset + self.len as u64 || !small || !room {
            return Some(request);
        }
        self.len += data.len();
        if let RequestOp::Write { data, .. } = request.op {
            self.more.push((request.id, data));
        }
        None
    }

    /// The bytes of all writes that are left.
    fn gather(&mut self) -> &[libc::iovec] {
        let RequestOp::Write { data, .. } = &self.request.op else { return &[] };
        let mut skip = self.done;
        self.vectors.clear();
        for data in std::iter::once(data).chain(self.more.iter().map(|(_, data)| data)) {
            let rest = &data[skip.min(data.len())..];
            skip -= data.len() - rest.len();
            if !rest.is_empty() {
                self.vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
        &self.vectors
    }

    fn advance(&mut self, result: i32) -> Progress {
        if result < 0 {
            return match -result {
                libc::EINTR | libc::EAGAIN => Progress::Again,
                errno => Progress::Ended(Err(io::Error::from_raw_os_error(errno))),
            };
        }
        let n = result as usize;
        let left = self.len - self.done;
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
        RequestOp::Write { offset, .. } if !flight.more.is_empty() => {
            let at = *offset + done as u64;
            let vectors = flight.gather();
            opcode::Writev::new(fd, vectors.as_ptr().cast(), vectors.len() as u32).offset(at).build()
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
