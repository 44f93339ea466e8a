//! The client of the bare chain: sends the next operation when one ends, one thread and one connection per process asked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use catena_arena::Arena;
use catena_types::crc::crc32c;
use tokio::task::{JoinSet, LocalSet};

use super::stream::{Head, Incoming, Kind, Message, Outgoing};
use crate::bench::Workload;
use crate::bench::load::{Load, Outcome, Phases, Rng, random_bytes};
use crate::cmd::runtime;
use crate::fault::{Doing, Fault, Result};

/// Payloads that are written in turns.
const PAYLOADS: u64 = 16;
/// Bytes its buffers may take.
const MEMORY: usize = 1 << 30;

/// What one client does, and where.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) load: Load,
    /// Processes of the chain, the head first.
    pub(super) nodes: Vec<SocketAddr>,
    /// Bytes of an operation, and of the file.
    pub(super) size: u32,
    pub(super) file: u64,
    pub(super) phases: Arc<Phases>,
}

struct Client {
    job: Job,
    to: Vec<Outgoing>,
    payloads: Vec<Bytes>,
    rng: Rng,
    /// When each was sent.
    sent: HashMap<u64, Instant>,
    last: u64,
    outcome: Outcome,
}

impl Job {
    /// Runs client `n` until the load ends.
    pub(super) fn run(self, n: u32) -> Result<Outcome> {
        runtime()?.block_on(LocalSet::new().run_until(self.run_here(n)))
    }

    async fn run_here(self, n: u32) -> Result<Outcome> {
        let arena = Arena::new(MEMORY);
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for &addr in &self.nodes {
            let stream = super::node::connect(addr).await.doing(format_args!("connect to {addr}"))?;
            let (receive, send) = stream.into_split();
            from.push(Incoming::new(receive, &arena));
            to.push(Outgoing::start(send));
        }
        let payloads = (0..PAYLOADS).map(|seed| random_bytes(self.size, seed)).collect();
        let depth = self.load.depth;
        let (rng, outcome) = (Rng(n.into()), Outcome::new());
        let client = Client { job: self, to, payloads, rng, sent: HashMap::new(), last: 0, outcome };
        let client = Rc::new(RefCell::new(client));
        (0..depth).for_each(|_| client.borrow_mut().send());
        let mut receivers = JoinSet::new();
        from.into_iter().for_each(|from| drop(receivers.spawn_local(receive(client.clone(), from))));
        while let Some(ended) = receivers.join_next().await {
            ended.doing("run a client task")??;
            if client.borrow().job.phases.over() {
                break;
            }
        }
        receivers.shutdown().await;
        let outcome = std::mem::replace(&mut client.borrow_mut().outcome, Outcome::new());
        Ok(outcome)
    }
}

async fn receive(client: Rc<RefCell<Client>>, mut from: Incoming) -> Result<()> {
    loop {
        let first = from.next().await.doing("receive from the bare chain")?;
        let mut message = Some(first.ok_or_else(|| Fault::new("a process of the bare chain has ended: its log says why"))?);
        let mut client = client.borrow_mut();
        while let Some(one) = message {
            client.ended(one.head.number);
            message = from.try_next().doing("receive from the bare chain")?;
        }
        if client.job.phases.over() {
            return Ok(());
        }
    }
}

impl Client {
    fn send(&mut self) {
        self.last += 1;
        let number = self.last;
        let at = self.rng.below(self.job.file / u64::from(self.job.size)) * u64::from(self.job.size);
        let write = match self.job.load.workload {
            Workload::Write => true,
            Workload::Read => false,
            Workload::Mixed => self.rng.below(2) == 0,
        };
        self.sent.insert(number, Instant::now());
        let (kind, payload, to) = match write {
            true => (Kind::Write, self.payloads[(number % PAYLOADS) as usize].clone(), 0),
            false => (Kind::Read, Bytes::new(), number as usize % self.to.len()),
        };
        let head = Head { kind, number, at, len: self.job.size, sum: crc32c(&payload) };
        self.to[to].send(Message { head, payload });
    }

    fn ended(&mut self, number: u64) {
        if let Some(sent) = self.sent.remove(&number) {
            self.job.phases.note(&mut self.outcome, sent);
        }
        self.send();
    }
}
