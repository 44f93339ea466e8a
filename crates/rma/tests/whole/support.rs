//! Providers to test with, processes to kill, and a transport that counts and fails when it is told to.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use catena_arena::AlignedBuf;
use catena_net::{Lane, LaneError, Moved, Offered, OneSided, RemoteBuffer};
use catena_rma::Transport;

/// Generous: nothing here measures time.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

/// The providers of this machine that are tested with.
pub(crate) fn providers() -> Vec<&'static str> {
    let required = std::env::var("CATENA_RMA_TESTS").is_ok_and(|value| value == "required");
    let opens = |provider: &&str| match Transport::open(provider, LOOPBACK) {
        Ok(_) => true,
        Err(e) if required => panic!("{provider}: {e}"),
        Err(e) => {
            eprintln!("skipped with {provider}: {e}");
            false
        }
    };
    ["tcp;ofi_rxm", "shm"].into_iter().filter(opens).collect()
}

/// Those that outlive a peer that goes in the middle of a transfer: libfabric 1.17's `shm` looks into the peer's memory without
/// asking whether it is still there, and may crash the process that is left (docs/rma.md).
pub(crate) fn providers_that_outlive_peers() -> Vec<&'static str> {
    providers().into_iter().filter(|provider| *provider != "shm").collect()
}

/// Bytes that are different at every place and for every seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

/// Waits until `done`.
pub(crate) fn wait_until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within a minute");
}

/// A process of this test binary that runs the test `name`; killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(name: &str, told: &str) -> Process {
        let binary = std::env::current_exe().expect("this binary");
        let mut command = Command::new(binary);
        command.args(["--exact", name, "--nocapture"]).env("CATENA_RMA_CHILD", told).stdout(Stdio::piped());
        Process(command.spawn().expect("a process"))
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = self.0.id();
        let sent = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process started by [`Process::start`] was told; `None` in an ordinary run of the tests.
pub(crate) fn told() -> Option<String> {
    std::env::var("CATENA_RMA_CHILD").ok()
}

/// Counts what a transport does, and fails where it is told to.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) offered: AtomicUsize,
    pub(crate) pulled: AtomicUsize,
    pub(crate) pushed: AtomicUsize,
    pub(crate) refuse_offers: AtomicBool,
    pub(crate) fail_pulls: AtomicBool,
    pub(crate) fail_pushes: AtomicBool,
}

impl Watch {
    pub(crate) fn counts(&self) -> [usize; 3] {
        [&self.offered, &self.pulled, &self.pushed].map(|n| n.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
pub(crate) struct Watched {
    inner: Transport,
    watch: Arc<Watch>,
}

struct WatchedLane {
    inner: Arc<dyn Lane>,
    watch: Arc<Watch>,
}

pub(crate) fn watched(provider: &str) -> (Arc<dyn OneSided>, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let inner = Transport::open(provider, LOOPBACK).expect("it has been opened before");
    (Arc::new(Watched { inner, watch: watch.clone() }), watch)
}

impl OneSided for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn open(&self) -> Result<Arc<dyn Lane>, LaneError> {
        Ok(Arc::new(WatchedLane { inner: self.inner.open()?, watch: self.watch.clone() }))
    }
}

impl WatchedLane {
    fn offered(&self, offered: Result<Box<dyn Offered>, LaneError>) -> Result<Box<dyn Offered>, LaneError> {
        if self.watch.refuse_offers.load(Ordering::SeqCst) {
            return Err(LaneError("no memory can be registered".to_owned()));
        }
        self.watch.offered.fetch_add(1, Ordering::SeqCst);
        offered
    }
}

fn counted<T: Send + 'static>(fail: bool, counter: &AtomicUsize, moved: Moved<T>) -> Moved<T> {
    if fail {
        return Box::pin(async { Err(LaneError("told to fail".to_owned())) });
    }
    counter.fetch_add(1, Ordering::SeqCst);
    moved
}

impl Lane for WatchedLane {
    fn address(&self) -> Vec<u8> {
        self.inner.address()
    }

    fn connect(&self, peer: &[u8]) -> Result<(), LaneError> {
        self.inner.connect(peer)
    }

    fn offer_data(&self, data: Bytes) -> Result<Box<dyn Offered>, LaneError> {
        self.offered(self.inner.offer_data(data))
    }

    fn offer_room(&self, room: AlignedBuf) -> Result<Box<dyn Offered>, LaneError> {
        self.offered(self.inner.offer_room(room))
    }

    fn pull(&self, from: RemoteBuffer, room: AlignedBuf) -> Moved<AlignedBuf> {
        counted(self.watch.fail_pulls.load(Ordering::SeqCst), &self.watch.pulled, self.inner.pull(from, room))
    }

    fn push(&self, data: Bytes, to: RemoteBuffer) -> Moved<()> {
        counted(self.watch.fail_pushes.load(Ordering::SeqCst), &self.watch.pushed, self.inner.push(data, to))
    }

    fn close(&self) {
        self.inner.close();
    }
}
