//! Clients that write and read overlapping ranges of the same chunks, and remember what they heard.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_client::{Client, ClientConfig, Error, ErrorKind, ReadOptions, UpdateKind, UpdateOptions};
use catena_sim::linear::{Action, History, Outcome, Seen};
use catena_types::{Op, Precondition, TargetId};

use crate::cluster::{Cluster, PATIENCE};

/// What the clients do.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) clients: u64,
    pub(crate) chunks: u64,
    pub(crate) chunk_size: u32,
    pub(crate) deadline: Duration,
}

/// Running clients. See the file's documentation.
pub(crate) struct Workload {
    start: Instant,
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    errors: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Clients of the same history in a thread of their own, who may fail. Half of them read from one replica only.
pub(crate) struct Beside {
    start: Instant,
    history: Arc<Mutex<History>>,
    errors: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

/// Clients beside the others have numbers from here on.
const BESIDE: u64 = 1000;

/// A small random generator (SplitMix64): the order of operations need not be the same twice, the bytes must be unlike.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.draw().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

impl Workload {
    /// Starts the clients, each with a connection and sessions of its own.
    pub(crate) async fn start(manager: &str, plan: Plan) -> Workload {
        let mut workload = Workload {
            start: Instant::now(),
            history: Arc::default(),
            stop: Arc::default(),
            done: Arc::default(),
            errors: Arc::default(),
            tasks: Vec::new(),
        };
        for worker in workload.workers(manager, &plan, 0, None).await {
            workload.tasks.push(tokio::spawn(worker.run(workload.stop.clone())));
        }
        workload
    }

    async fn workers(&self, manager: &str, plan: &Plan, first: u64, target: Option<TargetId>) -> Vec<Worker> {
        let mut workers = Vec::new();
        for id in first..first + plan.clients {
            let config = ClientConfig { deadline: plan.deadline, memory: 64 << 20, ..ClientConfig::new(manager) };
            workers.push(Worker {
                id,
                client: Client::connect(config).await.expect("the manager answers"),
                plan: plan.clone(),
                target: target.filter(|_| id % 2 == 0),
                random: Random(id + 1),
                start: self.start,
                history: self.history.clone(),
                errors: self.errors.clone(),
                done: self.done.clone(),
            });
        }
        workers
    }

    /// Starts clients in a thread that has first gone through `door`. Half of them read from `target` only. Their errors are
    /// not those of the others, and what they do is not progress.
    pub(crate) async fn beside(
        &self,
        door: impl FnOnce() + Send + 'static,
        manager: &str,
        plan: Plan,
        target: TargetId,
    ) -> Beside {
        let own = Workload {
            start: self.start,
            history: self.history.clone(),
            stop: Arc::default(),
            done: Arc::default(),
            errors: Arc::default(),
            tasks: Vec::new(),
        };
        let (stop, errors, manager) = (own.stop.clone(), own.errors.clone(), manager.to_owned());
        let (ready, connected) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            door();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let workers = own.workers(&manager, &plan, BESIDE, Some(target)).await;
                let tasks: Vec<_> = workers.into_iter().map(|w| tokio::spawn(w.run(own.stop.clone()))).collect();
                ready.send(()).expect("somebody waits for it");
                for task in tasks {
                    task.await.expect("a client does not panic");
                }
            });
        });
        connected.await.expect("they connect");
        Beside { start: self.start, history: self.history.clone(), errors, stop, thread }
    }

    /// Operations ended so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the clients and returns what they heard, and errors that were none of the expected outcomes.
    pub(crate) async fn finish(self) -> (History, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a client does not panic");
        }
        let history = std::mem::take(&mut *self.history.lock().expect("no client has panicked"));
        let errors = std::mem::take(&mut *self.errors.lock().expect("no client has panicked"));
        (history, errors)
    }
}

impl Beside {
    /// How many operations that were asked for since `from` have been answered by now. That a chunk does not exist, or is
    /// another than was said, is an answer too.
    pub(crate) fn answered_since(&self, from: Instant) -> usize {
        let from = from.duration_since(self.start).as_nanos();
        let history = self.history.lock().expect("no client has panicked");
        let records = history.records().iter().filter(|r| r.client >= BESIDE && u128::from(r.invoked) >= from);
        records.filter(|r| !matches!(r.outcome, Outcome::Unknown | Outcome::Rejected)).count()
    }

    /// How many operations have failed.
    pub(crate) fn failed(&self) -> usize {
        self.errors.lock().expect("no client has panicked").len()
    }

    /// Ends the clients.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no client panics");
    }
}

struct Worker {
    id: u64,
    client: Client,
    plan: Plan,
    /// The replica that is read from; `None`: any.
    target: Option<TargetId>,
    random: Random,
    start: Instant,
    history: Arc<Mutex<History>>,
    errors: Arc<Mutex<Vec<String>>>,
    done: Arc<AtomicU64>,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let key = format!("shared/{}", self.random.below(self.plan.chunks));
            if self.random.below(3) == 0 {
                self.update(&key).await;
            } else {
                self.read(&key).await;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a test is shorter than centuries")
    }

    fn range(&mut self) -> (u32, u32) {
        let size = u64::from(self.plan.chunk_size);
        let offset = self.random.below(size);
        let most = if self.random.below(4) == 0 { size } else { 64 };
        let len = self.random.below((size - offset).min(most)) + 1;
        (offset as u32, len as u32)
    }

    async fn update(&mut self, key: &str) {
        let (offset, len) = self.range();
        let (op, kind) = match self.random.below(20) {
            0 => (Op::truncate(offset), UpdateKind::Truncate { len: offset }),
            1 => (Op::extend(len), UpdateKind::Extend { len }),
            2 => (Op::remove(), UpdateKind::Remove),
            _ => {
                let data = Bytes::from(self.random.bytes(len as usize));
                (Op::write(offset, len), UpdateKind::Write { offset, data })
            }
        };
        let precondition = match self.random.below(12) {
            0 => Precondition::Absent,
            1 => Precondition::Exists,
            _ => Precondition::Any,
        };
        let data = if let UpdateKind::Write { data, .. } = &kind { data.clone() } else { Bytes::new() };
        let id = self.invoke(key, Action::Update { op, data, precondition });
        let options = UpdateOptions { chunk_size: self.plan.chunk_size, precondition, ..UpdateOptions::default() };
        let outcome = match self.client.update(key, kind, &options).await {
            Ok(u) => {
                // After a remove there is no chunk whose length and checksum could be compared.
                let removed = op == Op::remove();
                Outcome::Updated(Seen {
                    ver: Some(u.ver),
                    len: (!removed).then_some(u.len),
                    checksum: (!removed).then_some(u.checksum),
                })
            }
            Err(e) => self.failed(&e),
        };
        self.complete(id, outcome);
    }

    async fn read(&mut self, key: &str) {
        let (offset, len) = self.range();
        let id = self.invoke(key, Action::Read { offset, len });
        let options = ReadOptions { target: self.target, ..ReadOptions::default() };
        let outcome = match self.client.read(key, offset, len, &options).await {
            Ok(r) => {
                let seen = Seen { ver: Some(r.ver), len: Some(r.chunk_len), checksum: Some(r.checksum) };
                Outcome::Read { bytes: r.data, seen }
            }
            Err(e) => self.failed(&e),
        };
        self.complete(id, outcome);
    }

    fn failed(&self, e: &Error) -> Outcome {
        match e.kind() {
            ErrorKind::NotFound => Outcome::Absent,
            ErrorKind::PreconditionFailed { version } => Outcome::PreconditionFailed(Some(version)),
            kind => {
                self.errors.lock().expect("no client has panicked").push(e.to_string());
                match kind {
                    ErrorKind::OutcomeUnknown | ErrorKind::Timeout => Outcome::Unknown,
                    _ => Outcome::Rejected,
                }
            }
        }
    }

    fn invoke(&self, key: &str, action: Action) -> usize {
        let mut history = self.history.lock().expect("no client has panicked");
        history.invoke(self.now(), self.id, key.as_bytes(), action)
    }

    fn complete(&self, id: usize, outcome: Outcome) {
        let now = self.now();
        self.history.lock().expect("no client has panicked").complete(now, id, outcome);
    }
}

/// Waits until the load has gone on for a while.
pub(crate) async fn progress(load: &Workload, cluster: &Cluster) {
    let before = load.done();
    let start = Instant::now();
    while load.done() < before + 200 {
        assert!(start.elapsed() < PATIENCE, "the load stands still\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Version, length and checksum; or the chunk does not exist: the load removes some.
pub(crate) fn same_at_every_replica(cluster: &Cluster, key: &str) {
    let output = cluster.run(&["chunk", "stat", key, "--all"]);
    let absent = output.status.code() == Some(3);
    assert!(output.status.success() || absent, "{}", String::from_utf8_lossy(&output.stderr));
}
