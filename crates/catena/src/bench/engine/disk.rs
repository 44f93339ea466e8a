//! The raw disk under the same load: O_DIRECT on a file that was written before, without Catena.
//!
//! Every operation in flight is one write with a flush (fdatasync) of its own behind it, or one read. Two ways are tried
//! for every work, threads and a ring, and the faster one is what the engine is held against.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_arena::{AlignedBuf, Arena};
use catena_engine::disk::file::{Backend, FileDisk, Ring};
use catena_engine::disk::{Completion, Disk, Io, IoOp};
use catena_types::crc::crc32c;
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

use super::Stop;
use super::tally::{Meter, Tally};
use super::work::{Kind, Work};
use crate::bench::load::{Rng, random_bytes};
use crate::fault::{Doing, Fault, Result};

/// Bytes in one piece when the file is filled.
const PIECE: u64 = 4 << 20;

/// How the raw disk is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// A thread per operation in flight: pwrite, fdatasync; or pread.
    Threads,
    /// One thread, one ring.
    Ring,
}

/// What is done to the raw disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    size: usize,
    depth: usize,
    kind: LoadKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoadKind {
    /// `sum`: the processor goes over what was read, once.
    Read {
        sum: bool,
    },
    Write {
        flush: bool,
    },
}

impl Load {
    /// The same size and concurrency as a work's; writes are flushed if the store flushes.
    pub(super) fn of(work: &Work, flush: bool) -> Load {
        let kind = if work.kind == Kind::Read { LoadKind::Read { sum: false } } else { LoadKind::Write { flush } };
        Load { size: work.size as usize, depth: work.depth as usize, kind }
    }

    /// The same reads, with a CRC-32C taken of what was read: none for writes.
    pub(super) fn summed(self) -> Option<Load> {
        matches!(self.kind, LoadKind::Read { .. }).then_some(Load { kind: LoadKind::Read { sum: true }, ..self })
    }

    /// Sums bytes that were read, if that is asked for; whether it is.
    fn sum(self, bytes: &[u8]) -> bool {
        let asked = self.kind == LoadKind::Read { sum: true };
        if asked {
            std::hint::black_box(crc32c(bytes));
        }
        asked
    }
}

/// A file on the disk.
pub(super) struct RawDisk {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    arena: Arena,
    stop: Stop,
}

impl RawDisk {
    /// Makes a file of about `bytes` bytes and writes all of it, so that no operation makes the file system allocate.
    pub(super) fn create(dir: &Path, bytes: u64, arena: &Arena, stop: &Stop) -> Result<RawDisk> {
        let path = dir.join("raw");
        let file = open_direct(&path)?;
        let bytes = bytes.next_multiple_of(PIECE);
        let buf = payload(arena, PIECE as usize, 0);
        for at in (0..bytes).step_by(PIECE as usize) {
            file.write_all_at(&buf, at).doing("write the file the raw disk is measured on")?;
            stop.check()?;
        }
        file.sync_all().doing("sync the file the raw disk is measured on")?;
        Ok(RawDisk { path, file: Arc::new(file), bytes, arena: arena.clone(), stop: stop.clone() })
    }

    /// The faster way, tried for `time` each.
    pub(super) fn choose(&self, load: Load, time: Duration) -> Result<Way> {
        let threads = self.measure(Way::Threads, load, time)?.rate;
        let ring = self.measure(Way::Ring, load, time)?.rate;
        Ok(if ring > threads { Way::Ring } else { Way::Threads })
    }

    /// Measures for `time`.
    pub(super) fn measure(&self, way: Way, load: Load, time: Duration) -> Result<Tally> {
        let mut meter = Meter::start(time);
        match way {
            Way::Threads => self.on_threads(load, &mut meter)?,
            Way::Ring => self.on_a_ring(load, &mut meter)?,
        }
        meter.finish()
    }

    fn on_threads(&self, load: Load, meter: &mut Meter) -> Result<()> {
        let lanes: Vec<_> = (0..load.depth).map(|lane| (Lane::new(self, load, lane), meter.fork())).collect();
        let ended: Vec<Result<Meter>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                lanes.into_iter().map(|(lane, meter)| scope.spawn(|| self.on_a_thread(load, lane, meter))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(Fault::new("a disk thread panicked: its message is above")))
            };
            threads.into_iter().map(join).collect()
        });
        for other in ended {
            meter.join(other?);
        }
        Ok(())
    }

    fn on_a_thread(&self, load: Load, mut lane: Lane, mut meter: Meter) -> Result<Meter> {
        let mut buf = self.arena.take_or_alloc(load.size);
        loop {
            let since = Instant::now();
            if meter.over(since) {
                return Ok(meter);
            }
            let at = lane.place();
            match load.kind {
                LoadKind::Read { .. } => {
                    self.file.read_exact_at(&mut buf, at).doing("read from the raw disk")?;
                    load.sum(&buf);
                }
                LoadKind::Write { flush } => {
                    self.file.write_all_at(&lane.payload, at).doing("write to the raw disk")?;
                    if flush {
                        self.file.sync_data().doing("flush the raw disk")?;
                    }
                }
            }
            meter.ended(since, Instant::now());
            self.stop.check()?;
        }
    }

    fn on_a_ring(&self, load: Load, meter: &mut Meter) -> Result<()> {
        let ring = Ring::new(Backend::Auto, &self.arena).doing("start the raw disk's ring")?;
        let event = ring.event_fd().doing("watch the raw disk's ring")?;
        let file = self.file.try_clone().doing("open the raw disk's file")?;
        let mut disk = ring.attach(file, self.bytes, self.path.display().to_string());
        let mut lanes: Vec<_> = (0..load.depth).map(|lane| Lane::new(self, load, lane)).collect();
        for (id, lane) in lanes.iter_mut().enumerate() {
            lane.begin(&mut disk, id, load, Some(self.arena.take_or_alloc(load.size)));
        }
        let (mut in_flight, mut done) = (load.depth, Vec::new());
        while in_flight > 0 {
            disk.kick();
            disk.poll(&mut done);
            if done.is_empty() {
                match poll(&mut [PollFd::new(&event, PollFlags::IN)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => ring.clear_event(),
                    Err(e) => return Err(Fault::new(format!("cannot wait for the raw disk: {e}"))),
                }
                self.stop.check()?;
                continue;
            }
            let now = Instant::now();
            let over = meter.over(now);
            for Completion { id, result } in done.drain(..) {
                let buf = result.doing("use the raw disk")?;
                let lane = &mut lanes[id as usize];
                if load.kind == (LoadKind::Write { flush: true }) && !lane.flushing {
                    lane.flushing = true;
                    disk.submit(Io { id, op: IoOp::Flush });
                    continue;
                }
                let summed = buf.as_ref().is_some_and(|buf| load.sum(buf));
                meter.ended(lane.since, now);
                match over {
                    true => in_flight -= 1,
                    false => lane.begin(&mut disk, id as usize, load, buf),
                }
                if summed {
                    // The disk works while the next bytes are summed.
                    disk.kick();
                }
            }
        }
        Ok(())
    }
}

impl Drop for RawDisk {
    fn drop(&mut self) {
        // The directory it is in is removed in the end anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One operation in flight after the other.
struct Lane {
    rng: Rng,
    /// Operations that fit the file side by side.
    places: u64,
    size: u64,
    payload: Bytes,
    since: Instant,
    flushing: bool,
}

impl Lane {
    fn new(disk: &RawDisk, load: Load, lane: usize) -> Lane {
        let written = if load.summed().is_some() { 0 } else { load.size };
        Lane {
            rng: Rng(lane as u64 + 1),
            places: (disk.bytes / load.size as u64).max(1),
            size: load.size as u64,
            payload: payload(&disk.arena, written, lane as u64),
            since: Instant::now(),
            flushing: false,
        }
    }

    fn place(&mut self) -> u64 {
        self.rng.below(self.places) * self.size
    }

    fn begin(&mut self, disk: &mut FileDisk, id: usize, load: Load, buf: Option<AlignedBuf>) {
        let offset = self.place();
        (self.since, self.flushing) = (Instant::now(), false);
        let op = match (load.kind, buf) {
            (LoadKind::Read { .. }, Some(buf)) => IoOp::Read { offset, buf },
            _ => IoOp::Write { offset, data: self.payload.clone() },
        };
        disk.submit(Io { id: id as u64, op });
    }
}

fn payload(arena: &Arena, len: usize, seed: u64) -> Bytes {
    let mut buf = arena.take_or_alloc(len);
    buf.copy_from_slice(&random_bytes(len as u32, seed));
    buf.freeze()
}

/// With O_DIRECT, or through the page cache where the file system refuses that, as the engine does.
fn open_direct(path: &Path) -> Result<File> {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let open = |flags| File::options().read(true).write(true).create(true).truncate(true).custom_flags(flags).open(path);
    let opened = match open(direct) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => open(0),
        opened => opened,
    };
    opened.doing(format_args!("make {}", path.display()))
}
