//! A disk in memory, for tests and the simulator: deterministic, and honest about what a power cut may do.
//!
//! Writes that no flush has covered are kept apart, so that [`MemDisk::crash`] can drop any of their 512-byte sectors.
//! A flush covers exactly the writes whose completions had been polled when it was submitted: an engine that issues a
//! flush too early is caught. Handles share one disk; [`MemDisk::fork`] makes an independent copy (pages are shared until
//! written). Errors can be injected into the n-th operation, bits flipped, and every write and flush recorded.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::{BLOCK_BYTES, Completion, Disk, Io, IoOp};

const PAGE: usize = BLOCK_BYTES as usize;
/// Smallest unit that a power cut leaves whole, in bytes.
pub const SECTOR: usize = 512;

type Pages = BTreeMap<u64, Rc<[u8; PAGE]>>;

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
    /// A mark of the test's own, see [`MemDisk::mark`].
    Mark(u64),
}

/// The contents of a disk at one moment.
#[derive(Clone, Default)]
pub struct Image {
    durable: Pages,
    /// Writes not covered by a flush, in order, with their number.
    unflushed: VecDeque<(u64, u64, Bytes)>,
    writes: u64,
}

impl Image {
    /// Replays a recorded event.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Write { offset, data } => {
                self.writes += 1;
                self.unflushed.push_back((self.writes, *offset, data.clone()));
            }
            Event::Flush { covered } => self.flush(*covered),
            Event::Mark(_) => {}
        }
    }

    /// Writes not covered by a flush.
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// Sectors of [`SECTOR`] bytes in writes not covered by a flush.
    pub fn unflushed_sectors(&self) -> usize {
        self.unflushed.iter().map(|(_, _, data)| data.len() / SECTOR).sum()
    }

    /// What is on the medium after a power cut at which `keep(write, sector)` decides, for each sector of each write not
    /// covered by a flush (both counted from 0, in order), whether it had reached the medium.
    pub fn crash(&self, mut keep: impl FnMut(usize, usize) -> bool) -> MemDisk {
        let mut pages = self.durable.clone();
        for (w, (_, offset, data)) in self.unflushed.iter().enumerate() {
            for (s, sector) in data.chunks(SECTOR).enumerate() {
                if keep(w, s) {
                    store(&mut pages, offset + (s * SECTOR) as u64, sector);
                }
            }
        }
        MemDisk::from_pages(pages)
    }

    fn flush(&mut self, covered: u64) {
        while self.unflushed.front().is_some_and(|(n, _, _)| *n <= covered) {
            if let Some((_, offset, data)) = self.unflushed.pop_front() {
                store(&mut self.durable, offset, &data);
            }
        }
    }
}

fn store(pages: &mut Pages, mut offset: u64, mut data: &[u8]) {
    while !data.is_empty() {
        let at = (offset % BLOCK_BYTES) as usize;
        let n = data.len().min(PAGE - at);
        if n == PAGE && !pages.contains_key(&(offset / BLOCK_BYTES)) && data[..n].iter().all(|&b| b == 0) {
            // What was never written reads as zeroes anyhow: a zeroed journal takes no memory.
            (offset, data) = (offset + n as u64, &data[n..]);
            continue;
        }
        let page = pages.entry(offset / BLOCK_BYTES).or_insert_with(|| Rc::new([0; PAGE]));
        Rc::make_mut(page)[at..at + n].copy_from_slice(&data[..n]);
        offset += n as u64;
        data = &data[n..];
    }
}

#[derive(Default)]
struct Inner {
    image: Image,
    /// What reads see: everything written.
    current: Pages,
    queue: VecDeque<(Io, u64)>,
    completed: VecDeque<(Completion, u64)>,
    /// Number of the last write whose completion was polled.
    polled: u64,
    held: bool,
    ops: u64,
    fail: BTreeMap<u64, i32>,
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

    fn from_pages(pages: Pages) -> MemDisk {
        let image = Image { durable: pages.clone(), ..Image::default() };
        MemDisk(Rc::new(RefCell::new(Inner { image, current: pages, ..Inner::default() })))
    }

    /// The contents now, unflushed writes apart.
    pub fn image(&self) -> Image {
        self.0.borrow().image.clone()
    }

    /// An independent disk with everything written so far, as after the process was killed.
    pub fn fork(&self) -> MemDisk {
        MemDisk::from_pages(self.0.borrow().current.clone())
    }

    /// A disk as after a power cut now, see [`Image::crash`].
    pub fn crash(&self, keep: impl FnMut(usize, usize) -> bool) -> MemDisk {
        self.0.borrow().image.crash(keep)
    }

    /// Starts to record events; returns the image they apply to.
    pub fn record(&self) -> Image {
        let mut inner = self.0.borrow_mut();
        inner.log = Some(Vec::new());
        inner.image.clone()
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

    /// Flips one bit on the medium.
    pub fn flip(&self, byte: u64, bit: u8) {
        let mut inner = self.0.borrow_mut();
        let inner = &mut *inner;
        for pages in [&mut inner.current, &mut inner.image.durable] {
            let page = pages.entry(byte / BLOCK_BYTES).or_insert_with(|| Rc::new([0; PAGE]));
            Rc::make_mut(page)[(byte % BLOCK_BYTES) as usize] ^= 1 << (bit % 8);
        }
    }

    /// Fills `buf` from `offset` (a multiple of the block size) with what was written. No operation is counted.
    pub fn peek(&self, offset: u64, buf: &mut [u8]) {
        self.0.borrow().read(offset, buf);
    }

    /// Block numbers that hold anything.
    pub fn blocks(&self) -> Vec<u64> {
        self.0.borrow().current.keys().copied().collect()
    }

    /// Whether submitted operations wait for [`MemDisk::run`] instead of running at the next kick.
    pub fn set_held(&self, held: bool) {
        self.0.borrow_mut().held = held;
    }

    /// Operations that wait.
    pub fn waiting(&self) -> usize {
        self.0.borrow().queue.len()
    }

    /// Whether a flush is the next operation that waits.
    pub fn flush_waits(&self) -> bool {
        self.0.borrow().queue.front().is_some_and(|(io, _)| matches!(io.op, IoOp::Flush))
    }

    /// Runs the `n`-th waiting operation.
    pub fn run(&self, n: usize) {
        let mut inner = self.0.borrow_mut();
        if let Some((io, covered)) = inner.queue.remove(n) {
            inner.execute(io, covered);
        }
    }
}

impl Inner {
    fn execute(&mut self, io: Io, covered: u64) {
        let n = self.ops;
        self.ops += 1;
        let mut serial = 0;
        let result = match self.fail.remove(&n) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(match io.op {
                IoOp::Read { offset, mut buf } => {
                    self.read(offset, &mut buf);
                    Some(buf)
                }
                IoOp::Write { offset, data } => {
                    assert!(offset.is_multiple_of(BLOCK_BYTES) && (data.len() as u64).is_multiple_of(BLOCK_BYTES));
                    store(&mut self.current, offset, &data);
                    self.event(Event::Write { offset, data });
                    serial = self.image.writes;
                    None
                }
                IoOp::Flush => {
                    self.event(Event::Flush { covered });
                    None
                }
                IoOp::Punch { offset, len } => {
                    // As a write of zeroes: durable with a flush.
                    let data = Bytes::from(vec![0; len as usize]);
                    store(&mut self.current, offset, &data);
                    self.event(Event::Write { offset, data });
                    serial = self.image.writes;
                    None
                }
            }),
        };
        self.completed.push_back((Completion { id: io.id, result }, serial));
    }

    fn event(&mut self, event: Event) {
        self.image.apply(&event);
        if let Some(log) = &mut self.log {
            log.push(event);
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        for (i, page) in buf.chunks_mut(PAGE).enumerate() {
            match self.current.get(&(offset / BLOCK_BYTES + i as u64)) {
                Some(p) => page.copy_from_slice(&p[..page.len()]),
                None => page.fill(0),
            }
        }
    }
}

impl Disk for MemDisk {
    fn submit(&mut self, io: Io) {
        let mut inner = self.0.borrow_mut();
        let covered = inner.polled;
        inner.queue.push_back((io, covered));
    }

    fn kick(&mut self) {
        let mut inner = self.0.borrow_mut();
        while !inner.held {
            let Some((io, covered)) = inner.queue.pop_front() else { break };
            inner.execute(io, covered);
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
            && let Some((io, covered)) = inner.queue.pop_front()
        {
            inner.execute(io, covered);
        }
    }

    fn name(&self) -> String {
        "memory disk".to_string()
    }
}
