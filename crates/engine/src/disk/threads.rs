//! Disk operations on a few threads with pread and pwrite: for machines where io_uring is not allowed.
//!
//! The same completions and the same event descriptor as the ring, so that nothing above can tell.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::file::{Ended, Request, run_blocking};

/// Threads per shard.
const THREADS: usize = 4;

#[derive(Default)]
struct Queues {
    todo: VecDeque<Request>,
    ended: Vec<Ended>,
    /// Given and not collected.
    in_flight: usize,
    stop: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
    done: Condvar,
    event: Arc<OwnedFd>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A pool of threads for one shard.
pub(super) struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn new(event: Arc<OwnedFd>) -> io::Result<Threads> {
        let shared = Arc::new(Shared { queues: Mutex::default(), work: Condvar::new(), done: Condvar::new(), event });
        let mut handles = Vec::new();
        for n in 0..THREADS {
            let shared = shared.clone();
            handles.push(std::thread::Builder::new().name(format!("disk-{n}")).spawn(move || work(&shared))?);
        }
        Ok(Threads { shared, handles })
    }

    pub(super) fn start(&mut self, requests: impl Iterator<Item = Request>) {
        let mut queues = self.shared.lock();
        let before = queues.todo.len();
        queues.todo.extend(requests);
        queues.in_flight += queues.todo.len() - before;
        drop(queues);
        self.shared.work.notify_all();
    }

    pub(super) fn reap(&mut self, out: &mut Vec<Ended>) {
        let mut queues = self.shared.lock();
        queues.in_flight -= queues.ended.len();
        out.append(&mut queues.ended);
    }

    /// Blocks until something has ended; `false` if nothing is in flight.
    pub(super) fn wait(&mut self) -> bool {
        let mut queues = self.shared.lock();
        while queues.ended.is_empty() {
            if queues.in_flight == 0 {
                return false;
            }
            queues = self.shared.done.wait(queues).unwrap_or_else(|e| e.into_inner());
        }
        true
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for handle in self.handles.drain(..) {
            // A thread that panicked has nothing left to give.
            let _ = handle.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queues = shared.lock();
        let request = loop {
            if let Some(request) = queues.todo.pop_front() {
                break request;
            }
            if queues.stop {
                return;
            }
            queues = shared.work.wait(queues).unwrap_or_else(|e| e.into_inner());
        };
        drop(queues);
        let ended = run_blocking(request);
        shared.lock().ended.push(ended);
        shared.done.notify_all();
        // A full counter (EAGAIN) is readable already.
        let _ = rustix::io::write(&shared.event, &1u64.to_ne_bytes());
    }
}
