//! The store on real files, through io_uring and through threads: random operations, then an open as after a kill.
#![allow(clippy::unwrap_used)]

mod common;

use catena_engine::disk::file::{Backend, Ring, probe};
use catena_engine::disk::{Disk, Io, IoOp};
use catena_engine::target_dir::TargetDir;
use catena_engine::{CowStore, OpenError, Params, StoreKind};
use catena_types::ChunkStore;
use common::*;

fn scratch() -> tempfile::TempDir {
    // Under the target directory: a real file system, unlike /tmp on some machines.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn small() -> Params {
    let mut p = params(StoreKind::Cow, 4096, 64);
    p.checkpoint = 256 * 4096;
    p
}

fn random_operations(backend: Backend) {
    let dir = scratch();
    let arena = arena();
    let ring = Ring::new(backend, &arena).unwrap();
    assert_eq!(ring.backend(), backend);
    let (lock, store) = TargetDir::open_or_create(dir.path(), &small(), &ring, &arena).unwrap();
    let mut world = World::new(store, 7, 16);
    let (mut flushes, mut checkpoints) = (0, 0);
    for round in 0..3 {
        for n in 0..700 {
            world.step();
            if n % 3 == 0 {
                world.store.wait();
                world.turn();
            }
        }
        world.settle();
        world.compare();
        flushes += world.store.stats().flushes;
        checkpoints += world.store.stats().checkpoints;
        // Not closed: as after a kill, but that the lock is passed on.
        let path = dir.path().join("target.cat");
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let size = file.metadata().unwrap().len();
        let mut again = CowStore::open(ring.attach(file, size, format!("round {round}")), &arena).unwrap();
        let all = read_all(&mut again);
        for (key, h) in &world.chunks {
            assert!(all.get(key).cloned().unwrap_or_default() == *h.now(), "{key} differs");
        }
        world.store = again;
    }
    let mut out = Vec::new();
    world.store.close(&mut out).unwrap();
    assert!(flushes > 20 && checkpoints > 0, "{flushes} flushes, {checkpoints} checkpoints");
    drop(lock);
    let (_lock, store) = TargetDir::open(dir.path(), &ring, &arena).unwrap();
    assert_eq!(store.recovery().replayed, 0, "nothing to replay after a clean close");
    world.store = store;
    world.compare();
}

#[test]
fn random_operations_through_threads() {
    random_operations(Backend::Threads);
}

#[test]
fn random_operations_through_io_uring() {
    if let Err(e) = probe() {
        eprintln!("skipped: io_uring does not work here: {e}");
        return;
    }
    random_operations(Backend::Uring);
}

#[test]
fn several_targets_share_a_ring_and_wake_one_descriptor() {
    let arena = arena();
    for backend in [Backend::Uring, Backend::Threads] {
        if backend == Backend::Uring && probe().is_err() {
            continue;
        }
        let dirs: Vec<_> = (0..3).map(|_| scratch()).collect();
        let ring = Ring::new(backend, &arena).unwrap();
        let mut worlds: Vec<_> = dirs
            .iter()
            .enumerate()
            .map(|(i, d)| {
                let (lock, store) = TargetDir::open_or_create(d.path(), &small(), &ring, &arena).unwrap();
                (lock, World::new(store, 40 + i as u64, 8))
            })
            .collect();
        let event = ring.event_fd().unwrap();
        for _ in 0..400 {
            worlds.iter_mut().for_each(|(_, w)| w.step());
        }
        // The loop of a node: wait for the descriptor, clear it, turn everything.
        let mut waits = 0;
        while worlds.iter().any(|(_, w)| w.store.busy()) {
            let mut fds = [rustix::event::PollFd::new(&event, rustix::event::PollFlags::IN)];
            let timeout = rustix::time::Timespec { tv_sec: 5, tv_nsec: 0 };
            worlds.iter_mut().for_each(|(_, w)| w.turn());
            if worlds.iter().any(|(_, w)| w.store.busy()) {
                assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "woken while IO is in flight");
                ring.clear_event();
                waits += 1;
            }
        }
        worlds.iter_mut().for_each(|(_, w)| w.settle());
        worlds.iter().for_each(|(_, w)| w.compare());
        assert!(waits > 0);
    }
}

#[test]
fn directories_that_are_not_ours_are_refused() {
    let arena = arena();
    let ring = Ring::new(Backend::Threads, &arena).unwrap();
    let dir = scratch();
    std::fs::write(dir.path().join("holiday.jpg"), b"x").unwrap();
    let refused = TargetDir::open_or_create(dir.path(), &small(), &ring, &arena);
    assert!(matches!(refused, Err(OpenError::BadParams { .. })));

    let dir = scratch();
    let (lock, mut store) = TargetDir::open_or_create(dir.path(), &small(), &ring, &arena).unwrap();
    let second = TargetDir::open(dir.path(), &ring, &arena);
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    store.adopt(77, 5).unwrap();
    assert!(matches!(store.adopt(77, 6), Err(OpenError::WrongTarget { .. })));
    store.adopt(77, 5).unwrap();
    drop((lock, store));
    let mut other = small();
    other.identity.cluster = 78;
    let refused = TargetDir::open_or_create(dir.path(), &other, &ring, &arena);
    assert!(matches!(&refused, Err(OpenError::WrongTarget { .. })));
    other.identity.cluster = 77;
    let (_lock, store) = TargetDir::open_or_create(dir.path(), &other, &ring, &arena).unwrap();
    assert_eq!((store.identity().cluster, store.identity().target), (77, 5));
    assert_eq!(store.space().used, 0);

    let dir = scratch();
    std::fs::write(dir.path().join("target.cat"), vec![7u8; 1 << 20]).unwrap();
    let refused = TargetDir::open(dir.path(), &ring, &arena);
    assert!(matches!(refused, Err(OpenError::NotATarget { .. })));
}

/// A large target takes little of the disk until it is written: its areas are sparse.
#[test]
fn a_large_target_starts_small() {
    use std::os::unix::fs::MetadataExt;
    let arena = arena();
    let ring = Ring::new(Backend::Threads, &arena).unwrap();
    let dir = scratch();
    let (_lock, store) = TargetDir::open_or_create(dir.path(), &Params::new([3; 16], 64 << 30), &ring, &arena).unwrap();
    let mut world = World::new(store, 1, 4);
    for _ in 0..100 {
        world.step();
    }
    world.settle();
    world.store.close(&mut Vec::new()).unwrap();
    let held = std::fs::metadata(dir.path().join("target.cat")).unwrap().blocks() * 512;
    assert!(held <= 1 << 30, "{held} bytes on disk");
}

/// Small writes side by side go to the kernel as one. Each has its own end, its own bytes, and its own error.
#[test]
fn joined_writes_end_each_for_itself() {
    for backend in [Backend::Threads, Backend::Uring] {
        if backend == Backend::Uring && probe().is_err() {
            eprintln!("skipped: io_uring does not work here");
            continue;
        }
        // A file that cannot grow: writes behind its end fail.
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
        let file = std::fs::File::from(rustix::fs::memfd_create("joined", flags).unwrap());
        file.set_len(6 * 4096).unwrap();
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::GROW).unwrap();
        let ring = Ring::new(backend, &arena()).unwrap();
        let mut disk = ring.attach(file, 64 * 4096, "joined".into());
        for id in [3, 4, 5, 6, 1, 2, 9, 7] {
            disk.submit(Io { id, op: IoOp::Write { offset: id * 4096, data: vec![id as u8; 4096].into() } });
        }
        disk.kick();
        let mut ends = Vec::new();
        while ends.len() < 8 {
            disk.wait();
            disk.poll(&mut ends);
        }
        let mut good: Vec<u64> = ends.iter().filter(|c| c.result.is_ok()).map(|c| c.id).collect();
        good.sort_unstable();
        assert_eq!(good, [1, 2, 3, 4, 5], "{backend:?}");
        for id in 0..6u64 {
            let mut buf = arena().take_or_alloc(4096);
            buf.fill(0xee);
            disk.submit(Io { id, op: IoOp::Read { offset: id * 4096, buf } });
            disk.wait();
            let mut done = Vec::new();
            disk.poll(&mut done);
            let read = done.pop().unwrap().result.unwrap().unwrap();
            assert_eq!(read[..], [id as u8; 4096][..], "{backend:?}");
        }
    }
}
