//! The load: clients that send operations, and what they measured.
//!
//! Each client is a thread with a runtime and connections of its own, and `depth` tasks. In the closed loop a task sends
//! its next operation when the last one ends. At a fixed rate tasks share a schedule: an operation that is sent late,
//! because every task was still busy, is measured from when it was due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_client::{Client, ClientConfig, ReadOptions, UpdateOptions};
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use super::Workload;
use crate::cmd::runtime;
use crate::fault::{Doing, Fault, Result};

/// Longest latency told apart, in microseconds.
const LONGEST: u64 = 120_000_000;

/// Chunks from this size on are written once before anything is measured.
const LARGE: u32 = 64 << 10;

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) workload: Workload,
    /// Bytes per operation.
    pub(crate) size: u32,
    pub(crate) chunk_size: u32,
    /// At random blocks within the chunk, instead of at its start.
    pub(crate) overwrite: bool,
    /// Chunks the operations are spread over.
    pub(crate) chunks: u64,
    /// In flight, per client.
    pub(crate) depth: u32,
    pub(crate) clients: u32,
    /// Operations per second over all clients.
    pub(crate) rate: Option<u32>,
    /// Time that is counted.
    pub(crate) duration: Duration,
}

/// What was measured.
pub(crate) struct Outcome {
    /// Latencies in microseconds of the operations that ended well while they were counted.
    pub(crate) latencies: Histogram<u64>,
    /// Operations that failed, at any time.
    pub(crate) errors: u64,
    /// The first of their errors.
    pub(crate) first_error: Option<String>,
}

/// A load that is running.
pub(crate) struct Running {
    phases: Arc<Phases>,
    threads: Vec<JoinHandle<Result<Outcome>>>,
    since: std::cell::Cell<Option<Instant>>,
}

/// Before, while and after operations are counted.
const WARM: u8 = 0;
const COUNT: u8 = 1;
const DONE: u8 = 2;

/// What the clients of a load share.
pub(super) struct Phases {
    phase: AtomicU8,
    /// Number of the next operation at a fixed rate.
    ticket: AtomicU64,
    start: Instant,
}

impl Phases {
    /// Whether clients should end.
    pub(super) fn over(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == DONE
    }

    /// Takes note of an operation that ended well now, if operations are counted.
    pub(super) fn note(&self, outcome: &mut Outcome, start: Instant) {
        if self.phase.load(Ordering::Relaxed) == COUNT {
            outcome.latencies.saturating_record(start.elapsed().as_micros() as u64);
        }
    }
}

impl Load {
    /// Makes what the operations need: the chunks that are read or overwritten. Large ones are there too before they are
    /// written again and again, as a disk is whose space has been in use for a while; small ones are made by the load.
    pub(crate) async fn prepare(&self, cluster: &ClientConfig) -> Result<()> {
        match self.workload == Workload::Write && !self.overwrite && self.chunk_size < LARGE {
            true => Ok(()),
            false => self.fill(&connect(cluster.clone()).await?).await,
        }
    }

    /// Starts the clients.
    pub(crate) fn start(&self, cluster: &ClientConfig) -> Result<Running> {
        Running::start(self.clients, |n, phases| {
            let (load, cluster) = (self.clone(), cluster.clone());
            move || runtime()?.block_on(LocalSet::new().run_until(load.run_client(cluster, n, phases)))
        })
    }

    /// Writes every chunk once, whole.
    pub(crate) async fn fill(&self, client: &Client) -> Result<()> {
        let data = random_bytes(self.chunk_size, 1);
        let options = self.update_options();
        let filling = (0..16).map(|lane| {
            let (data, options) = (data.clone(), options);
            async move {
                for n in (lane..self.chunks).step_by(16) {
                    client.write(self.key(n), 0, data.clone(), &options).await?;
                }
                Ok::<(), Fault>(())
            }
        });
        all(filling.collect()).await
    }

    async fn run_client(self, cluster: ClientConfig, n: u32, phases: Arc<Phases>) -> Result<Outcome> {
        let client = connect(cluster).await?;
        let load = Arc::new(self);
        let tasks: Vec<_> = (0..load.depth)
            .map(|task| {
                let seed = (u64::from(n) << 32) | u64::from(task);
                tokio::task::spawn_local(load.clone().run_task(client.clone(), seed, phases.clone()))
            })
            .collect();
        let mut sum = Outcome::new();
        for task in tasks {
            sum.add(task.await.doing("run a client task")?);
        }
        Ok(sum)
    }

    async fn run_task(self: Arc<Self>, client: Client, seed: u64, phases: Arc<Phases>) -> Outcome {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x00c0_ffee);
        let data = random_bytes(self.size, seed + 2);
        let mut outcome = Outcome::new();
        while !phases.over() {
            let start = self.due(&phases).await;
            match self.operation(&client, &mut rng, &data).await {
                Ok(()) => phases.note(&mut outcome, start),
                Err(e) => {
                    outcome.errors += 1;
                    outcome.first_error.get_or_insert_with(|| e.to_string());
                    // An unreachable cluster must not turn this into a busy loop.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        outcome
    }

    /// When the next operation starts: now, or when the schedule says. Waiting too long for the timer is not the
    /// cluster's fault, so the clock of an operation that was on time starts when it is sent.
    async fn due(&self, phases: &Phases) -> Instant {
        let Some(rate) = self.rate else { return Instant::now() };
        let ticket = phases.ticket.fetch_add(1, Ordering::Relaxed);
        let due = phases.start + Duration::from_secs_f64(ticket as f64 / f64::from(rate));
        if due <= Instant::now() {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }

    async fn operation(&self, client: &Client, rng: &mut Rng, data: &Bytes) -> std::result::Result<(), catena_client::Error> {
        let key = self.key(rng.below(self.chunks));
        let places = (self.chunk_size / self.size.next_multiple_of(catena_types::limits::BLOCK)).max(1);
        let offset = match self.overwrite {
            true => rng.below(places.into()) as u32 * self.size.next_multiple_of(catena_types::limits::BLOCK),
            false => 0,
        };
        let write = match self.workload {
            Workload::Write => true,
            Workload::Read => false,
            Workload::Mixed => rng.below(2) == 0,
        };
        match write {
            true => client.write(key, offset, data.clone(), &self.update_options()).await.map(|_| ()),
            false => client.read(key, offset, self.size, &ReadOptions::default()).await.map(|_| ()),
        }
    }

    fn update_options(&self) -> UpdateOptions {
        UpdateOptions { chunk_size: self.chunk_size, ..UpdateOptions::default() }
    }

    /// Chunk size and size are part of the key: they are fixed when a chunk is made.
    fn key(&self, n: u64) -> String {
        format!("bench/{}/{}/{n:08}", self.chunk_size, self.size)
    }
}

async fn connect(mut config: ClientConfig) -> Result<Client> {
    config.channels = 4096;
    Ok(Client::connect(config).await?)
}

/// Waits for all of them; the first error ends it.
async fn all<F: Future<Output = Result<()>>>(futures: Vec<F>) -> Result<()> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(move |cx| {
        let mut n = 0;
        while n < futures.len() {
            match futures[n].as_mut().poll(cx) {
                std::task::Poll::Pending => n += 1,
                std::task::Poll::Ready(Ok(())) => drop(futures.swap_remove(n)),
                std::task::Poll::Ready(Err(e)) => return std::task::Poll::Ready(Err(e)),
            }
        }
        if futures.is_empty() { std::task::Poll::Ready(Ok(())) } else { std::task::Poll::Pending }
    })
    .await
}

impl Running {
    /// Starts a thread per client, which runs what `make` gives for its number.
    pub(super) fn start<F>(clients: u32, make: impl Fn(u32, Arc<Phases>) -> F) -> Result<Running>
    where
        F: FnOnce() -> Result<Outcome> + Send + 'static,
    {
        let phases = Arc::new(Phases { phase: AtomicU8::new(WARM), ticket: AtomicU64::new(0), start: Instant::now() });
        let spawn = |n| {
            let builder = std::thread::Builder::new().name(format!("client-{n}"));
            builder.spawn(make(n, phases.clone())).doing("start a client thread")
        };
        let threads = (0..clients).map(spawn).collect::<Result<Vec<_>>>()?;
        Ok(Running { phases, threads, since: std::cell::Cell::new(None) })
    }

    /// Operations that end from now on are counted.
    pub(crate) fn count(&self) {
        self.since.set(Some(Instant::now()));
        self.phases.phase.store(COUNT, Ordering::Relaxed);
    }

    /// Operations that end from now on are not counted; returns how long they were.
    pub(crate) fn stop_counting(&self) -> Duration {
        self.phases.phase.store(DONE, Ordering::Relaxed);
        self.since.get().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits for the clients and adds up what they measured.
    pub(crate) async fn finish(self) -> Result<Outcome> {
        let mut sum = Outcome::new();
        for thread in self.threads {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await.doing("wait for a client thread")?;
            sum.add(joined.map_err(|_| Fault::new("a client thread panicked: its message is above"))??);
        }
        match (&sum.first_error, sum.latencies.len()) {
            (Some(error), 0) => Err(Fault::new(format!("every operation failed, the first with: {error}"))),
            _ => Ok(sum),
        }
    }
}

impl Outcome {
    pub(super) fn new() -> Outcome {
        let latencies = Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds and precision are in range");
        Outcome { latencies, errors: 0, first_error: None }
    }

    fn add(&mut self, other: Outcome) {
        self.latencies.add(other.latencies).expect("histograms of the same bounds");
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// SplitMix64: the same operations in every run.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Bytes that no disk can compress away.
pub(crate) fn random_bytes(len: u32, seed: u64) -> Bytes {
    let mut rng = Rng(seed);
    let words = (len as usize).div_ceil(8);
    let mut bytes: Vec<u8> = (0..words).flat_map(|_| rng.next().to_le_bytes()).collect();
    bytes.truncate(len as usize);
    bytes.into()
}
