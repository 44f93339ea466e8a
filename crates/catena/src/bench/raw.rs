//! The raw limits of this machine: the disk with O_DIRECT at the same size and depth, one TCP connection over loopback, and
//! the checksum. Measured in the same run as the cluster, one after the other.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catena_arena::{ALIGN, AlignedBuf, Arena};
use catena_types::crc;
use rustix::fs::{FallocateFlags, fallocate};
use serde::Serialize;

use super::Workload;
use super::load::{Load, Rng};
use crate::fault::{Doing, Fault, Result};

/// Time for the disk, for TCP, for the checksum and for round trips.
const DISK: Duration = Duration::from_millis(1500);
const TCP: Duration = Duration::from_millis(500);
const CRC: Duration = Duration::from_millis(200);
const ROUND_TRIPS: Duration = Duration::from_millis(200);
/// Most threads on the disk.
const THREADS: u32 = 64;
/// Bytes of the file the disk is measured on.
const FILE: u64 = 256 << 20;
/// Size of one that is written once only.
const NEW: u64 = 2 << 30;
/// Bytes in one piece, for filling the file, TCP and the checksum.
const PIECE: usize = 1 << 20;

/// What this machine can do.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Raw {
    /// Absent if it is not known which disk the cluster is on.
    pub(crate) disk: Option<Disk>,
    /// Bytes per second over loopback, one connection.
    pub(crate) tcp: f64,
    /// Bytes per second of CRC-32C, one thread.
    pub(crate) crc: f64,
    /// Microseconds there and back of a message of 64 bytes over loopback, between two threads that wait for it.
    pub(crate) round_trip_us: f64,
}

/// O_DIRECT on a preallocated file: writes with an fdatasync behind each, or reads.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Disk {
    /// Operations per second.
    pub(crate) ops: f64,
    /// Bytes per second.
    pub(crate) bytes: f64,
    /// Operations in flight.
    pub(crate) depth: u32,
}

impl Raw {
    /// Measures; `disk` is a directory on the disk in question.
    pub(crate) fn measure(disk: Option<&Path>, load: &Load) -> Result<Raw> {
        Raw::on(disk, load, Space::Written)
    }

    /// The same, with writes to space that was never written, each block once.
    pub(crate) fn measure_new(disk: Option<&Path>, load: &Load) -> Result<Raw> {
        Raw::on(disk, load, Space::New(AtomicU64::new(0)))
    }

    fn on(disk: Option<&Path>, load: &Load, space: Space) -> Result<Raw> {
        let disk = disk.map(|dir| measure_disk(dir, load, &space)).transpose()?.flatten();
        Ok(Raw { disk, tcp: measure_tcp()?, crc: measure_crc(), round_trip_us: measure_round_trip()? })
    }
}

/// What is written to.
enum Space {
    /// At random, what was written before.
    Written,
    /// In order from here, what has its place and was never written.
    New(AtomicU64),
}

/// A new file that is read and written with O_DIRECT; `None` where the file system does not know it.
fn direct(path: &Path) -> Option<File> {
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    File::options().read(true).write(true).create(true).truncate(true).custom_flags(flags).open(path).ok()
}

/// Bytes per second at which the disk of `dir` copies a file to a new one: pieces of a MiB, so many at once, an fdatasync behind
/// each. `None` where the file system knows no O_DIRECT.
pub(crate) fn measure_copy(dir: &Path, depth: u32) -> Result<Option<f64>> {
    let (from, to) = (dir.join("raw-from"), dir.join("raw-to"));
    let (Some(source), Some(sink)) = (direct(&from), direct(&to)) else { return Ok(None) };
    let arena = Arena::new(PIECE * (depth as usize + 1));
    let next = AtomicU64::new(0);
    let copy = || -> Result<()> {
        let mut buf = buffer(&arena, PIECE)?;
        loop {
            let at = next.fetch_add(PIECE as u64, Ordering::Relaxed);
            if at >= NEW {
                return Ok(());
            }
            source.read_exact_at(&mut buf, at).doing("read from the raw disk")?;
            sink.write_all_at(&buf, at).and_then(|()| sink.sync_data()).doing("write to the raw disk")?;
        }
    };
    let mut start = Instant::now();
    let copied = fill(&source, &arena, NEW)
        .and_then(|()| fallocate(&sink, FallocateFlags::empty(), 0, NEW).doing("make the file that is copied to"))
        .and_then(|()| {
            start = Instant::now();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..depth).map(|_| scope.spawn(copy)).collect();
                threads.into_iter().try_for_each(|t| t.join().map_err(|_| Fault::new("a disk thread panicked"))?)
            })
        });
    let seconds = start.elapsed().as_secs_f64();
    for path in [from, to] {
        std::fs::remove_file(&path).doing(format_args!("remove {}", path.display()))?;
    }
    copied.map(|()| Some(NEW as f64 / seconds))
}

/// `None` where the file system knows no O_DIRECT.
fn measure_disk(dir: &Path, load: &Load, space: &Space) -> Result<Option<Disk>> {
    let path = dir.join("raw");
    let Some(file) = direct(&path) else { return Ok(None) };
    let size = (load.size as usize).next_multiple_of(ALIGN);
    let depth = (load.depth * load.clients).min(THREADS);
    let arena = Arena::new(size * depth as usize + 2 * PIECE);
    let made = match space {
        Space::Written => fill(&file, &arena, FILE),
        Space::New(_) => fallocate(&file, FallocateFlags::empty(), 0, NEW).doing("make the file the disk is measured on"),
    };
    let measured = made.and_then(|()| {
        let start = Instant::now();
        let workers = (0..depth).map(|n| buffer(&arena, size).map(|b| (n, b))).collect::<Result<Vec<_>>>()?;
        let ops: Result<u64> = std::thread::scope(|scope| {
            let run = |(n, buf)| {
                scope.spawn({
                    let file = &file;
                    move || exercise(file, load.workload, n, buf, start, space)
                })
            };
            let threads: Vec<_> = workers.into_iter().map(run).collect();
            threads.into_iter().map(|t| t.join().map_err(|_| Fault::new("a disk thread panicked"))?).sum()
        });
        let ops = ops? as f64 / start.elapsed().as_secs_f64();
        Ok(Disk { ops, bytes: ops * size as f64, depth })
    });
    std::fs::remove_file(&path).doing(format_args!("remove {}", path.display()))?;
    measured.map(Some)
}

fn buffer(arena: &Arena, len: usize) -> Result<AlignedBuf> {
    let mut buf = arena.take(len).ok_or_else(|| Fault::new("too little memory for the disk's buffers: lower --depth"))?;
    buf.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 31) as u8);
    Ok(buf)
}

/// Writes `size` bytes (whole MiB) of the file once, so that no operation makes the file system allocate.
pub(super) fn fill(file: &File, arena: &Arena, size: u64) -> Result<()> {
    let buf = buffer(arena, PIECE)?;
    for at in (0..size).step_by(PIECE) {
        file.write_all_at(&buf, at).doing("write the file the disk is measured on")?;
    }
    file.sync_all().doing("sync the file the disk is measured on")
}

/// One thread: operations at random places until the time is over; returns how many.
fn exercise(file: &File, workload: Workload, n: u32, mut buf: AlignedBuf, start: Instant, space: &Space) -> Result<u64> {
    let mut rng = Rng(n.into());
    let places = (FILE / buf.len() as u64).max(1);
    let mut ops = 0;
    while start.elapsed() < DISK {
        let at = match space {
            Space::Written => rng.below(places) * buf.len() as u64,
            Space::New(next) => next.fetch_add(buf.len() as u64, Ordering::Relaxed),
        };
        if matches!(space, Space::New(_)) && at + buf.len() as u64 > NEW {
            break;
        }
        let write = workload == Workload::Write || (workload == Workload::Mixed && rng.below(2) == 0);
        match write {
            true => file.write_all_at(&buf, at).and_then(|()| file.sync_data()).doing("write to the raw disk")?,
            false => file.read_exact_at(&mut buf, at).doing("read from the raw disk")?,
        }
        ops += 1;
    }
    Ok(ops)
}

/// Bytes per second from one thread to another.
fn measure_tcp() -> Result<f64> {
    let (mut stream, mut there) = loopback()?;
    let reader = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buf = vec![0; PIECE];
        while there.read(&mut buf)? > 0 {}
        Ok(())
    });
    let buf = vec![7; PIECE];
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < TCP {
        stream.write_all(&buf).doing("write over loopback")?;
        sent += PIECE as u64;
    }
    drop(stream);
    let joined = reader.join().map_err(|_| Fault::new("the loopback reader panicked"))?;
    joined.doing("read over loopback")?;
    Ok(sent as f64 / start.elapsed().as_secs_f64())
}

/// Microseconds from one thread to another and back.
fn measure_round_trip() -> Result<f64> {
    let (mut here, mut there) = loopback()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut message = [0; 64];
        while there.read_exact(&mut message).is_ok() {
            there.write_all(&message)?;
        }
        Ok(())
    });
    let (start, mut trips, mut message) = (Instant::now(), 0_u64, [0; 64]);
    while start.elapsed() < ROUND_TRIPS {
        here.write_all(&message).and_then(|()| here.read_exact(&mut message)).doing("send over loopback and back")?;
        trips += 1;
    }
    let taken = start.elapsed().as_secs_f64();
    drop(here);
    let joined = echo.join().map_err(|_| Fault::new("the loopback echo panicked"))?;
    joined.doing("answer over loopback")?;
    Ok(taken * 1e6 / trips.max(1) as f64)
}

/// A connection over loopback, both ends, without delay for small messages.
fn loopback() -> Result<(TcpStream, TcpStream)> {
    let open = || -> std::io::Result<_> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let here = TcpStream::connect(listener.local_addr()?)?;
        let (there, _) = listener.accept()?;
        here.set_nodelay(true)?;
        there.set_nodelay(true)?;
        Ok((here, there))
    };
    open().doing("connect over loopback")
}

/// Bytes per second that are in the cache.
fn measure_crc() -> f64 {
    let buf = vec![7; PIECE];
    let (start, mut done, mut sum) = (Instant::now(), 0_u64, 0);
    while start.elapsed() < CRC {
        sum ^= crc::crc32c(std::hint::black_box(&buf));
        done += PIECE as u64;
    }
    std::hint::black_box(sum);
    done as f64 / start.elapsed().as_secs_f64()
}
