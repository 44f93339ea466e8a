//! A disk in memory, for tests and the simulator: deterministic, and honest about what a power cut may do.
//!
//! Writes that no flush has covered are kept apart, so that [`MemDisk::crash`] can drop any of their 512-byte sectors.
//! A flush covers exactly the writes whose completions had been polled when it was submitted: an engine that issues a
//! flush too early is caught. So is one that submits what is not aligned, or that changes a write's bytes while the write
//! waits. Handles share one disk; [`MemDisk::fork`] makes an independent copy (pages are shared until written). Every write
//! and flush can be recorded; on request an operation fails or lies ([`Fault`]), and the medium rots.

mod fault;
mod image;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::{AlignedBuf, is_aligned};
use catena_types::crc::crc32c;

use super::{BLOCK_BYTES, Completion, Disk, Io, IoOp};
pub use fault::{Fault, What};
use fault::{Plan, shape, strike};
pub use image::{Cut, Image, Loose};
use image::{PAGE, Pages, copy, store};

/// Smallest unit that a power cut leaves whole, in bytes.
pub const SECTOR: usize = 512;

/// One recorded event.
#[derive(Clone, Debug)]
pub enum Event {
    /// A write was executed.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// A flush was executed: it covers the first `covered` writes ever executed.
    Flush {
        /// How many.
        covered: u64,
    },
    /// A flush failed, and the writes it covers will never be durable.
    Forget {
        /// How many writes ever executed it covers.
        covered: u64,
    },
    /// A mark of the test's own, see [`MemDisk::mark`].
    Mark(u64),
}

/// An operation that waits.
struct Waiting {
    io: Io,
    /// For a flush: the number of the last write it covers.
    covered: u64,
    /// Checksum of a held write's bytes: they must not change until it has run.
    crc: Option<u32>,
}

#[derive(Default)]
struct Inner {
    image: Image,
    /// What reads see: everything written.
    current: Pages,
    queue: VecDeque<Waiting>,
    completed: VecDeque<(Completion, u64)>,
    /// Number of the last write whose completion was polled.
    polled: u64,
    held: bool,
    ops: u64,
    fail: BTreeMap<u64, i32>,
    plans: Vec<Plan>,
    struck: u64,
    /// Blocks that cannot be read until they are written again.
    unreadable: BTreeSet<u64>,
    /// There is no space from here on.
    ends: Option<u64>,
    log: Option<Vec<Event>>,
}

/// A handle to a disk in memory. Cloning gives another handle to the same disk.
#[derive(Clone, Default)]
pub struct MemDisk(Rc<RefCell<Inner>>);

impl MemDisk {
    /// An empty disk: it reads as zeroes, and has no end.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// With these contents, all of them durable.
    fn of(pages: Pages) -> MemDisk {
        MemDisk::with(Image::of(pages.clone()), pages)
    }

    /// With contents whose writes have all been polled.
    fn with(image: Image, current: Pages) -> MemDisk {
        let polled = image.writes;
        MemDisk(Rc::new(RefCell::new(Inner { image, current, polled, ..Inner::default() })))
    }

    /// The contents now, unflushed writes apart.
    pub fn image(&self) -> Image {
        self.0.borrow().image.clone()
    }

    /// An independent disk with everything written so far, as after the process was killed. What could not be read
    /// cannot be read there either.
    pub fn fork(&self) -> MemDisk {
        let inner = self.0.borrow();
        let fork = MemDisk::of(inner.current.clone());
        fork.0.borrow_mut().unreadable = inner.unreadable.clone();
        fork
    }

    /// A disk as after a power cut now, see [`Image::crash`].
    pub fn crash(&self, keep: impl FnMut(usize, usize) -> bool) -> MemDisk {
        self.0.borrow().image.crash(keep)
    }

    /// Starts to record events; returns the image they apply to.
    pub fn record(&self) -> Image {
        let mut inner = self.0.borrow_mut();
        inner.log = Some(Vec::new());
        inner.image.recorded()
    }

    /// Adds a mark to the record.
    pub fn mark(&self, mark: u64) {
        if let Some(log) = &mut self.0.borrow_mut().log {
            log.push(Event::Mark(mark));
        }
    }

    /// The events recorded so far; recording goes on with an empty record.
    pub fn take_log(&self) -> Vec<Event> {
        self.0.borrow_mut().log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Operations executed so far.
    pub fn ops(&self) -> u64 {
        self.0.borrow().ops
    }

    /// Lets the operation number `n` (from 0, see [`MemDisk::ops`]) fail with this error number, for example `libc::EIO`.
    pub fn fail_op(&self, n: u64, errno: i32) {
        self.0.borrow_mut().fail.insert(n, errno);
    }

    /// Lets `fault` strike an operation executed from now on: of those of this kind that touch `within` (bytes; flushes
    /// touch everything), the one behind the next `skip`.
    pub fn inject(&self, what: What, within: Range<u64>, skip: u64, fault: Fault) {
        self.0.borrow_mut().plans.push(Plan::new(what, within, skip, fault));
    }

    /// Takes back every fault that has not struck.
    pub fn clear_faults(&self) {
        let mut inner = self.0.borrow_mut();
        inner.plans.clear();
        inner.fail.clear();
    }

    /// Operations that a fault has struck, or that met an unreadable block.
    pub fn struck(&self) -> u64 {
        self.0.borrow().struck
    }

    /// Flips one bit on the medium.
    pub fn flip(&self, byte: u64, bit: u8) {
        let mut sector = self.peek(byte / SECTOR as u64 * SECTOR as u64, SECTOR);
        sector[(byte % SECTOR as u64) as usize] ^= 1 << (bit % 8);
        self.poke(byte / SECTOR as u64 * SECTOR as u64, &sector);
    }

    /// Puts bytes on the medium behind everybody's back: rot, or what a lost write left.
    pub fn poke(&self, offset: u64, data: &[u8]) {
        let mut inner = self.0.borrow_mut();
        let data = copy(data);
        store(&mut inner.current, offset, &data);
        inner.image.poke(offset, &data);
    }

    /// What reads see at `offset`.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let inner = self.0.borrow();
        let mut out = vec![0; len];
        let mut at = 0;
        while at < len {
            let (page, from) = ((offset + at as u64) / BLOCK_BYTES, ((offset + at as u64) % BLOCK_BYTES) as usize);
            let n = (len - at).min(PAGE - from);
            if let Some(bytes) = inner.current.get(&page) {
                out[at..at + n].copy_from_slice(&bytes[from..from + n]);
            }
            at += n;
        }
        out
    }

    /// Makes a block unreadable (reads of it fail) until it is written again.
    pub fn set_unreadable(&self, block: u64) {
        self.0.borrow_mut().unreadable.insert(block);
    }

    /// From now on there is no space from `end` on to be reserved, or all there can be.
    pub fn set_end(&self, end: Option<u64>) {
        self.0.borrow_mut().ends = end;
    }

    /// Whether a read of these bytes would fail.
    pub fn is_unreadable(&self, offset: u64, len: usize) -> bool {
        self.0.borrow().is_unreadable(offset, len)
    }

    /// Block numbers that hold anything.
    pub fn blocks(&self) -> Vec<u64> {
        self.0.borrow().current.keys().copied().collect()
    }

    /// Those that no flush has covered: a power cut may leave something else there.
    pub fn unflushed_blocks(&self) -> BTreeSet<u64> {
        self.0.borrow().image.unflushed_blocks()
    }

    /// Whether submitted operations wait for [`MemDisk::run`] instead of running at the next kick.
    pub fn set_held(&self, held: bool) {
        self.0.borrow_mut().held = held;
    }

    /// Operations that wait.
    pub fn waiting(&self) -> usize {
        self.0.borrow().queue.len()
    }

    /// The kind of the `n`-th waiting operation, and the bytes it touches.
    pub fn waits(&self, n: usize) -> Option<(What, Range<u64>)> {
        self.0.borrow().queue.get(n).map(|w| shape(&w.io.op))
    }

    /// Whether a flush is the next operation that waits.
    pub fn flush_waits(&self) -> bool {
        self.waits(0).is_some_and(|(what, _)| what == What::Flush)
    }

    /// Runs the `n`-th waiting operation.
    pub fn run(&self, n: usize) {
        let mut inner = self.0.borrow_mut();
        if let Some(waiting) = inner.queue.remove(n) {
            inner.execute(waiting);
        }
    }
}

impl Inner {
    fn execute(&mut self, waiting: Waiting) {
        let Waiting { io, covered, crc } = waiting;
        if let (IoOp::Write { offset, data }, Some(crc)) = (&io.op, crc) {
            assert_eq!(crc32c(data), crc, "the bytes of the write at {offset} have changed while it waited");
        }
        let fault = self.fail.remove(&self.ops).map(Fault::Error);
        let fault = strike(&mut self.plans, &io.op).or(fault);
        self.ops += 1;
        self.struck += u64::from(fault.is_some());
        let before = self.image.writes;
        let result = match io.op {
            IoOp::Read { offset, buf } => self.read(offset, buf, fault).map(Some),
            IoOp::Write { offset, data } => self.write(offset, data, fault).map(|()| None),
            // As a write of zeroes: durable with a flush.
            IoOp::Punch { offset, len } => self.write(offset, vec![0; len as usize].into(), fault).map(|()| None),
            IoOp::Flush => self.flush(covered, fault).map(|()| None),
        };
        let serial = if self.image.writes > before { self.image.writes } else { 0 };
        self.completed.push_back((Completion { id: io.id, result }, serial));
    }

    fn event(&mut self, event: Event) {
        self.image.apply(&event);
        if let Some(log) = &mut self.log {
            log.push(event);
        }
    }

    fn is_unreadable(&self, offset: u64, len: usize) -> bool {
        let end = (offset + len as u64).div_ceil(BLOCK_BYTES);
        self.unreadable.range(offset / BLOCK_BYTES..end).next().is_some()
    }

    fn read(&mut self, offset: u64, mut buf: AlignedBuf, fault: Option<Fault>) -> io::Result<AlignedBuf> {
        if let Some(Fault::Error(errno)) = fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let first = offset / BLOCK_BYTES;
        if self.is_unreadable(offset, buf.len()) {
            self.struck += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        for (i, page) in buf.chunks_mut(PAGE).enumerate() {
            match self.current.get(&(first + i as u64)) {
                Some(p) => page.copy_from_slice(&p[..page.len()]),
                None => page.fill(0),
            }
        }
        if let Some(Fault::Noise(bit)) = fault {
            let at = (bit / 8) as usize % buf.len();
            buf[at] ^= 1 << (bit % 8);
        }
        Ok(buf)
    }

    fn write(&mut self, offset: u64, data: Bytes, fault: Option<Fault>) -> io::Result<()> {
        match fault {
            None => self.store(offset, data),
            Some(Fault::Misdirected(to)) => self.store(to, data),
            Some(Fault::LostSector(n)) => {
                let n = n % (data.len() / SECTOR) * SECTOR;
                self.store(offset, data.slice(..n));
                self.store(offset + (n + SECTOR) as u64, data.slice(n + SECTOR..));
            }
            Some(Fault::Partial { errno, sectors }) => {
                let n = (sectors * SECTOR).min(data.len());
                self.store(offset, data.slice(..n));
                return Err(io::Error::from_raw_os_error(errno));
            }
            Some(Fault::Error(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Lost | Fault::Forgets(_) | Fault::Noise(_)) => {}
        }
        Ok(())
    }

    fn store(&mut self, offset: u64, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let data = copy(&data);
        store(&mut self.current, offset, &data);
        let end = offset + data.len() as u64;
        while let Some(&block) = self.unreadable.range(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).next() {
            self.unreadable.remove(&block);
        }
        self.event(Event::Write { offset, data });
    }

    fn flush(&mut self, covered: u64, fault: Option<Fault>) -> io::Result<()> {
        match fault {
            Some(Fault::Error(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Forgets(errno)) => {
                self.event(Event::Forget { covered });
                return Err(io::Error::from_raw_os_error(errno));
            }
            Some(_) => {}
            None => self.event(Event::Flush { covered }),
        }
        Ok(())
    }
}

impl Disk for MemDisk {
    fn submit(&mut self, io: Io) {
        let (what, range) = shape(&io.op);
        let whole = |n: u64| n.is_multiple_of(BLOCK_BYTES);
        assert!(whole(range.start) && whole(range.end), "{what:?} of bytes {range:?}: not whole blocks");
        assert!(what == What::Flush || !range.is_empty(), "{what:?} of nothing at {}", range.start);
        if let IoOp::Read { buf, .. } = &io.op {
            assert!(is_aligned(buf), "a read at {} into memory that is not aligned", range.start);
        }
        let mut inner = self.0.borrow_mut();
        let crc = match &io.op {
            IoOp::Write { data, .. } if inner.held => Some(crc32c(data)),
            _ => None,
        };
        let covered = inner.polled;
        inner.queue.push_back(Waiting { io, covered, crc });
    }

    fn kick(&mut self) {
        let mut inner = self.0.borrow_mut();
        while !inner.held {
            let Some(waiting) = inner.queue.pop_front() else { break };
            inner.execute(waiting);
        }
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        let mut inner = self.0.borrow_mut();
        while let Some((completion, serial)) = inner.completed.pop_front() {
            inner.polled = inner.polled.max(serial);
            out.push(completion);
        }
    }

    fn wait(&mut self) {
        let mut inner = self.0.borrow_mut();
        if inner.completed.is_empty()
            && let Some(waiting) = inner.queue.pop_front()
        {
            inner.execute(waiting);
        }
    }

    fn reserve(&mut self, offset: u64, len: u64, _keep: u64) -> io::Result<()> {
        let fits = self.0.borrow().ends.is_none_or(|end| offset + len <= end);
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn name(&self) -> String {
        "memory disk".to_string()
    }
}
