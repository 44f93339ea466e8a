//! Lanes that write and read one chunk of every chain all the time, and remember when each operation began and ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_client::{Client, ReadOptions, UpdateOptions};
use catena_types::ChainId;
use tokio::task::JoinSet;

use crate::fault::{Fault, Result};

/// Bytes of an operation.
const SIZE: u32 = 4096;

/// One operation of a lane.
#[derive(Clone, Debug)]
pub(super) struct Op {
    /// Chain and kind: operations of one lane follow each other.
    pub(super) lane: (ChainId, bool),
    pub(super) start: Instant,
    pub(super) end: Instant,
    /// What went wrong, if it failed.
    pub(super) error: Option<String>,
}

impl Op {
    pub(super) fn is_write(&self) -> bool {
        self.lane.1
    }
}

/// The lanes; they end when this is dropped.
pub(super) struct Probes {
    seen: Arc<Mutex<Vec<Op>>>,
    _lanes: JoinSet<()>,
}

impl Probes {
    /// Starts a writer and a reader on every chain, with `pause` between their operations.
    pub(super) async fn start(client: &Client, pause: Duration) -> Result<Probes> {
        let routing = client.routing();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut lanes = JoinSet::new();
        for chain in routing.chains.iter().map(|c| c.id) {
            let mut keys = (0..100_000).map(|n| format!("failover/{n}"));
            let key = keys.find(|key| routing.chain_of(key.as_bytes()) == Some(chain));
            let key = key.ok_or_else(|| Fault::new(format!("no key of chain {chain} was found")))?;
            client.write(key.as_str(), 0, data(0), &UpdateOptions::default()).await?;
            for writes in [true, false] {
                let lane = Lane { client: client.clone(), key: key.clone(), lane: (chain, writes), pause, seen: seen.clone() };
                lanes.spawn(lane.run());
            }
        }
        Ok(Probes { seen, _lanes: lanes })
    }

    /// Forgets what was seen so far, but for the last operation of each lane.
    pub(super) fn forget(&mut self) {
        let mut seen = lock(&self.seen);
        let mut kept: Vec<Op> = Vec::new();
        for op in seen.drain(..).rev() {
            if kept.iter().all(|k| k.lane != op.lane) {
                kept.push(op);
            }
        }
        *seen = kept;
    }

    /// What was seen since.
    pub(super) fn collect(&mut self) -> Vec<Op> {
        lock(&self.seen).clone()
    }
}

struct Lane {
    client: Client,
    key: String,
    lane: (ChainId, bool),
    pause: Duration,
    seen: Arc<Mutex<Vec<Op>>>,
}

impl Lane {
    async fn run(self) {
        for n in (0..=u8::MAX).cycle() {
            let start = Instant::now();
            let done = if self.lane.1 {
                self.client.write(self.key.as_str(), 0, data(n), &UpdateOptions::default()).await.map(drop)
            } else {
                self.client.read(self.key.as_str(), 0, SIZE, &ReadOptions::default()).await.map(drop)
            };
            let error = done.err().map(|e| e.to_string());
            lock(&self.seen).push(Op { lane: self.lane, start, end: Instant::now(), error });
            tokio::time::sleep(self.pause).await;
        }
    }
}

fn data(n: u8) -> Bytes {
    Bytes::from(vec![n; SIZE as usize])
}

fn lock(seen: &Mutex<Vec<Op>>) -> MutexGuard<'_, Vec<Op>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
