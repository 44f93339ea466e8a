//! The loop that owns the state machine and the store.
//!
//! Requests that arrived together are handled together and stored with one commit. What must hold: no reply leaves, and
//! no routing is published, before the state it rests on is stored.

use std::time::Duration;

use catena_cluster::Manager as Core;
use catena_net::{Frame, FrameReceiver, FrameSender, Incoming, Listener, check_hello, hello_reply};
use catena_types::{Chain, Time};
use catena_wire::header::Kind;
use catena_wire::manager::RoutingReply;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::error::StoreError;
use crate::requests::{Answer, handle};
use crate::store::Store;

/// Time between looks at leases that may have ended.
const TICK: Duration = Duration::from_millis(50);
/// Requests handled with one commit.
const BATCH: usize = 128;
/// Longest time a request for routing waits, in milliseconds.
const MAX_WAIT_MS: u32 = 60_000;

/// A request, and the connection its reply goes to.
struct Request {
    frame: Frame,
    sender: FrameSender,
}

/// A request for routing newer than there is.
struct Waiter {
    have: u64,
    until: Time,
    request_id: u64,
    sender: FrameSender,
}

/// State machine, store, and who waits for routing.
pub(crate) struct Service<S> {
    core: Core,
    store: S,
    waiters: Vec<Waiter>,
    /// Version last published, and the chains of it, for the log.
    published: (u64, Vec<Chain>),
}

impl<S: Store> Service<S> {
    pub(crate) fn new(core: Core, store: S) -> Service<S> {
        let published = (core.state().version, core.state().chains.values().cloned().collect());
        Service { core, store, waiters: Vec::new(), published }
    }

    /// Serves until `stop` fires or its sender is gone, or until the store fails.
    pub(crate) async fn run(mut self, mut listener: Listener, mut stop: oneshot::Receiver<()>) -> Result<(), StoreError> {
        let (queue, mut requests) = mpsc::channel(BATCH);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => return Ok(()),
                _ = tick.tick() => self.tick()?,
                _ = requests.recv_many(&mut batch, BATCH) => self.answer(&mut batch)?,
                incoming = listener.accept() => self.greet(incoming, &queue),
            }
        }
    }

    fn greet(&self, incoming: Incoming, queue: &mpsc::Sender<Request>) {
        let cluster = self.core.state().cluster;
        match check_hello(&incoming.hello, cluster) {
            Ok(()) => {
                let (sender, receiver) = incoming.accept(hello_reply(cluster, 0, 0));
                tokio::spawn(read_requests(sender, receiver, queue.clone()));
            }
            Err(failure) => incoming.refuse(failure),
        }
    }

    fn tick(&mut self) -> Result<(), StoreError> {
        let now = clock::now();
        if self.core.tick(now) {
            self.store.save(self.core.state())?;
        }
        self.publish();
        self.waiters.retain(|w| !w.sender.is_closed());
        self.release_waiters(|w| w.until <= now);
        Ok(())
    }

    fn answer(&mut self, batch: &mut Vec<Request>) -> Result<(), StoreError> {
        let mut replies = Vec::with_capacity(batch.len());
        let mut changed = false;
        for request in batch.drain(..) {
            let now = clock::now();
            let (answer, changes) = handle(&mut self.core, now, &request.frame);
            changed |= changes;
            match answer {
                Answer::Reply(frame) => replies.push((request.sender, frame)),
                Answer::Later { have, wait_ms } => {
                    let until = now + Time::from(wait_ms.min(MAX_WAIT_MS)) * 1_000_000;
                    let request_id = request.frame.request_id;
                    self.waiters.push(Waiter { have, until, request_id, sender: request.sender });
                }
                Answer::None => request.sender.close(),
            }
        }
        if changed {
            self.store.save(self.core.state())?;
        }
        replies.into_iter().for_each(|(sender, frame)| send(&sender, frame));
        self.publish();
        Ok(())
    }

    /// Answers whoever waits for routing newer than they have.
    fn publish(&mut self) {
        let version = self.core.state().version;
        if version == self.published.0 {
            return;
        }
        let chains: Vec<Chain> = self.core.state().chains.values().cloned().collect();
        for chain in chains.iter().filter(|c| !self.published.1.contains(c)) {
            tracing::info!(routing = version, "{}", describe(chain));
        }
        self.published = (version, chains);
        self.release_waiters(|w| w.have < version);
    }

    fn release_waiters(&mut self, ready: impl Fn(&Waiter) -> bool) {
        let (ready, rest) = std::mem::take(&mut self.waiters).into_iter().partition(ready);
        self.waiters = rest;
        for waiter in ready {
            let reply = RoutingReply { failure: None, routing: self.core.routing_since(waiter.have) };
            send(&waiter.sender, Frame::new(Kind::RoutingReply, waiter.request_id, &reply).reply());
        }
    }
}

/// Reads requests until the connection ends. The queue is short: a flood waits on its own connection.
async fn read_requests(sender: FrameSender, mut receiver: FrameReceiver, queue: mpsc::Sender<Request>) {
    loop {
        match receiver.recv().await {
            Ok(Some(frame)) => {
                if queue.send(Request { frame, sender: sender.clone() }).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(e) => {
                tracing::debug!(peer = sender.peer(), "connection closed: {e}");
                break;
            }
        }
    }
    sender.close();
}

fn send(sender: &FrameSender, frame: Frame) {
    if let Err(e) = sender.send(frame) {
        tracing::debug!(peer = sender.peer(), "reply not sent: {e}");
    }
}

/// A chain in one line, for the log.
fn describe(chain: &Chain) -> String {
    let member = |m: &catena_types::Member| {
        let chosen = if m.chosen { " (chosen)" } else { "" };
        format!("{} {:?}{chosen}", m.target, m.state())
    };
    let members: Vec<_> = chain.members.iter().map(member).collect();
    format!("chain {} version {}: {}", chain.id, chain.chain_ver, members.join(", "))
}
