//! Connections: one per address, opened when first needed, opened anew when it has ended.
//!
//! Whatever failed lately is remembered for a moment, so that reads go to other replicas first; nothing is ever refused
//! because of that memory, since there may be no other replica.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use catena_arena::Arena;
use catena_net::{Frame, NetError, OneSided, Rpc, Security};
use catena_types::{Failure, Time};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;

use crate::clock::Clock;
use crate::config::ClientConfig;
use crate::core::Lost;

/// An address that failed once is avoided for this long in nanoseconds; doubles with every further failure.
const AVOID_FIRST: Time = 200_000_000;
const AVOID_MOST: Time = 5_000_000_000;
/// Cost of an address that is avoided: above any number of requests.
const AVOIDED: u64 = 1 << 40;

/// What goes with a request, or is to come with its answer.
pub(crate) enum Payload {
    /// These bytes with this CRC-32C go.
    Sent(Bytes, u32),
    /// At most so many bytes come.
    Wanted(u32),
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) enum NoAnswer {
    /// The attempt ended.
    Lost(Lost),
    /// The other side refused the connection, and said why.
    Refused(Failure),
}

/// Every connection of a client.
pub(crate) struct Links {
    arena: Arena,
    connect_timeout: Duration,
    security: Security,
    one_sided: Option<Arc<dyn OneSided>>,
    /// 0 until it is learned.
    cluster: AtomicU64,
    clock: Clock,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

struct Slot {
    addr: String,
    /// Requests without an answer.
    waiting: AtomicU64,
    /// Avoided until then.
    avoid: AtomicU64,
    /// Failures since the last answer.
    failures: AtomicU32,
    link: Mutex<Option<Rpc>>,
    /// Held by whoever connects; the others wait for the result. Why the last try failed.
    dialing: tokio::sync::Mutex<Option<NoAnswer>>,
    /// Tries to connect that failed.
    dials_failed: AtomicU64,
}

/// A request counted as waiting while it lives.
struct Waiting<'a>(&'a Slot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Links {
    pub(crate) fn new(config: &ClientConfig, clock: Clock) -> Links {
        let ClientConfig { connect_timeout, .. } = *config;
        let (arena, security) = (Arena::new(config.memory), config.security.clone());
        let one_sided = config.one_sided.clone();
        Links { arena, connect_timeout, security, one_sided, cluster: AtomicU64::new(0), clock, slots: Mutex::default() }
    }

    /// From now on, connections to other clusters are refused.
    pub(crate) fn set_cluster(&self, cluster: u64) {
        self.cluster.store(cluster, Ordering::Relaxed);
    }

    /// How unwelcome an address is now: requests waiting there, or more than any number of them if it failed lately.
    pub(crate) fn cost(&self, addr: &str) -> u64 {
        let Some(slot) = lock(&self.slots).get(addr).cloned() else { return 0 };
        let avoided = slot.avoid.load(Ordering::Relaxed) > self.clock.now();
        slot.waiting.load(Ordering::Relaxed) + if avoided { AVOIDED } else { 0 }
    }

    /// Sends a request and waits for its answer until `until`.
    pub(crate) async fn ask<Req: prost::Message, Rep: prost::Message + Default>(
        &self,
        addr: &str,
        kind: Kind,
        request: &Req,
        payload: Payload,
        until: Time,
    ) -> Result<(Rep, Frame), NoAnswer> {
        let slot = self.slot(addr);
        slot.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&slot);
        let link = match tokio::time::timeout(self.clock.until(until), self.link(&slot)).await {
            Ok(link) => link?,
            Err(_) => {
                slot.failed(self.clock.now());
                return Err(NoAnswer::Lost(Lost::NotSent(format!("no connection to {addr} in time"))));
            }
        };
        let sent = self.clock.now();
        let left = self.clock.until(until);
        let answer = match payload {
            Payload::Sent(bytes, crc) => link.call_with_payload(kind, request, bytes, crc, left).await,
            Payload::Wanted(room) => link.call_for_payload(kind, request, room as usize, left).await,
        };
        match answer {
            Ok(answer) => {
                slot.failures.store(0, Ordering::Relaxed);
                slot.avoid.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Err(e) => {
                slot.failed(self.clock.now());
                let timed_out = matches!(e, NetError::Timeout { .. });
                tracing::debug!(addr, waited_ms = (self.clock.now() - sent) / 1_000_000, "{e}");
                Err(NoAnswer::Lost(if timed_out { Lost::TimedOut } else { Lost::Broken(e.to_string()) }))
            }
        }
    }

    fn slot(&self, addr: &str) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(addr) {
            return slot.clone();
        }
        let slot = Arc::new(Slot {
            addr: addr.to_string(),
            waiting: AtomicU64::new(0),
            avoid: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            link: Mutex::new(None),
            dialing: tokio::sync::Mutex::default(),
            dials_failed: AtomicU64::new(0),
        });
        slots.insert(addr.to_string(), slot.clone());
        slot
    }

    /// The connection, made if there is none. Whoever finds somebody else connecting shares the result.
    async fn link(&self, slot: &Slot) -> Result<Rpc, NoAnswer> {
        if let Some(link) = slot.open() {
            return Ok(link);
        }
        let before = slot.dials_failed.load(Ordering::Relaxed);
        let mut last_error = slot.dialing.lock().await;
        if let Some(link) = slot.open() {
            return Ok(link);
        }
        if let Some(e) = last_error.as_ref().filter(|_| slot.dials_failed.load(Ordering::Relaxed) != before) {
            return Err(e.clone());
        }
        let hello = Hello { cluster: self.cluster.load(Ordering::Relaxed), ..Hello::default() };
        let (arena, one_sided) = (self.arena.clone(), self.one_sided.as_ref());
        match Rpc::connect_with(&slot.addr, hello, &self.security, arena, self.connect_timeout, one_sided).await {
            Ok(link) => {
                *lock(&slot.link) = Some(link.clone());
                Ok(link)
            }
            Err(e) => {
                let e = match e.failure() {
                    Some(failure) => NoAnswer::Refused(failure.clone()),
                    None => NoAnswer::Lost(Lost::NotSent(e.to_string())),
                };
                slot.failed(self.clock.now());
                slot.dials_failed.fetch_add(1, Ordering::Relaxed);
                *last_error = Some(e.clone());
                Err(e)
            }
        }
    }
}

impl Slot {
    /// The connection, if it has not ended.
    fn open(&self) -> Option<Rpc> {
        let mut link = lock(&self.link);
        if link.as_ref().is_some_and(Rpc::is_closed) {
            *link = None;
        }
        link.clone()
    }

    /// Something failed here: avoid the address for a while. After some failures in a row the connection is given up too,
    /// since a machine that went away does not say so; whoever still waits on it keeps it.
    fn failed(&self, now: Time) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let avoid = (AVOID_FIRST << failures.min(10)).min(AVOID_MOST);
        self.avoid.store(now.saturating_add(avoid), Ordering::Relaxed);
        if failures % 3 == 2 {
            *lock(&self.link) = None;
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held; what it guards is whole at any moment.
    m.lock().unwrap_or_else(|e| e.into_inner())
}
