//! The node's dealings with the manager: register, heartbeats, leases, routing.
//!
//! What must hold: the end of a lease is counted from a clock read before the heartbeat was sent; a lease goes only to the
//! targets the heartbeat listed, and only those are listed whose shard has answered since the last heartbeat (amendment
//! H9); a shard gets the routing of a reply before the leases of that reply, and routing versions only grow.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use catena_net::NetError;
use catena_types::{Class, Code, Failure, PublicState, Routing, RoutingDelta, ShardId, Time};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;
use catena_wire::manager::{
    HeartbeatReply, HeartbeatRequest, RegisterReply, RegisterRequest, RoutingReply, RoutingRequest, TargetOffer,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::clock::now;
use crate::managers::Managers;
use crate::shard::{Grant, Identity, Inbox, ShardReport};
use crate::status::Heard;
use crate::{NodeConfig, NodeError};

/// Time for one request to a manager.
const CALL: Duration = Duration::from_secs(1);
/// Pause before a failed registration is tried again.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
/// Added to the time after which, as a manager says, this node's own earlier start has lost its lease.
const DUPLICATE_MARGIN: Duration = Duration::from_millis(500);
/// How long a heartbeat waits for shards that do not answer.
const SHARD_PATIENCE: Duration = Duration::from_millis(100);
/// Pause after a failed request for routing, and before an early heartbeat.
const SHORT_PAUSE: Duration = Duration::from_millis(20);
/// How long a request for routing waits at the manager, in milliseconds.
const POLL_MS: u32 = 5_000;
/// How long a stopping node waits for its chains to go on without it.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

type Shards = Vec<(ShardId, mpsc::UnboundedSender<Inbox>)>;

/// Registers until a manager answers.
///
/// # Errors
/// The manager refuses this node.
pub(crate) async fn register(managers: &mut Managers, request: RegisterRequest) -> Result<RegisterReply, NodeError> {
    let mut told: Option<String> = None;
    let mut give_up: Option<Time> = None;
    loop {
        let why = match managers.call::<_, RegisterReply>(Kind::Register, &request, CALL).await {
            Ok(RegisterReply { failure: Some(failure), .. }) | Err(NetError::Refused(failure)) => {
                // It may be this node's own earlier start, which cannot say any more that it has ended.
                let own = Duration::from_micros(failure.version).saturating_add(DUPLICATE_MARGIN);
                let end = give_up.get_or_insert(now().saturating_add(own.as_nanos() as Time));
                if is_final(&failure) && (failure.code() != Code::DuplicateNode || now() > *end) {
                    return Err(NodeError::Refused { node: request.node, failure });
                }
                managers.redirect(&failure);
                failure.to_string()
            }
            Ok(reply) => return Ok(reply),
            Err(e) => e.to_string(),
        };
        if told.as_ref() != Some(&why) {
            tracing::warn!(node = request.node, "not registered yet, trying again: {why}");
            told = Some(why);
        }
        sleep(REGISTER_PAUSE).await;
    }
}

/// What a node says in its registration.
pub(crate) fn registration(config: &NodeConfig, cluster: u64, addrs: Vec<String>, targets: Vec<TargetOffer>) -> RegisterRequest {
    let mut process = [0; 8];
    crate::service::draw(&mut process);
    let (node, rack) = (config.node, config.rack.clone());
    RegisterRequest { node, cluster, process: u64::from_le_bytes(process), shard_addrs: addrs, targets, rack }
}

/// Whether trying again is of no use.
fn is_final(failure: &Failure) -> bool {
    matches!(failure.class(), Class::Refused | Class::Rejected)
}

/// Hands routing to the shards, each version once, never backwards.
#[derive(Clone)]
pub(crate) struct Publisher {
    shards: Arc<Shards>,
    newest: Arc<Mutex<Option<Arc<Routing>>>>,
}

impl Publisher {
    pub(crate) fn new(shards: Shards) -> Publisher {
        Publisher { shards: Arc::new(shards), newest: Arc::default() }
    }

    /// All of the routing, or what has changed in it.
    fn publish(&self, all: Option<Routing>, delta: Option<RoutingDelta>) {
        let mut newest = self.newest.lock().unwrap_or_else(|e| e.into_inner());
        let patched = || delta.as_ref().zip(newest.as_deref()).and_then(|(delta, have)| delta.apply(have));
        let Some(routing) = all.or_else(patched) else { return };
        if newest.as_ref().is_some_and(|have| have.version >= routing.version) {
            return;
        }
        let routing = Arc::new(routing);
        *newest = Some(routing.clone());
        self.send_all(|| Inbox::Routing(routing.clone()));
    }

    fn newest(&self) -> Option<Arc<Routing>> {
        self.newest.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn version(&self) -> u64 {
        self.newest().map_or(0, |r| r.version)
    }

    /// A shard that has ended is noticed by who owns it.
    fn send_all(&self, message: impl Fn() -> Inbox) {
        for (_, inbox) in self.shards.iter() {
            let _ = inbox.send(message());
        }
    }
}

/// Asks for routing as soon as there is newer one. An answer without any says that the manager waits for a heartbeat. Ends
/// only when dropped.
pub(crate) async fn follow_routing(mut managers: Managers, publisher: Publisher, changed: Arc<Notify>) {
    loop {
        let request = RoutingRequest { have: publisher.version(), wait_ms: POLL_MS };
        let patience = Duration::from_millis(POLL_MS.into()) + CALL;
        match managers.call::<_, RoutingReply>(Kind::Routing, &request, patience).await {
            Ok(RoutingReply { failure: None, routing: None, delta: None }) => changed.notify_one(),
            Ok(RoutingReply { failure: None, routing, delta }) => publisher.publish(routing, delta),
            Ok(RoutingReply { failure: Some(failure), .. }) => {
                tracing::debug!("no routing: {failure}");
                managers.redirect(&failure);
                sleep(SHORT_PAUSE).await;
            }
            Err(e) => {
                tracing::debug!("no routing: {e}");
                sleep(SHORT_PAUSE * 5).await;
            }
        }
    }
}

/// Sends heartbeats and passes leases on.
pub(crate) struct Heartbeats {
    pub(crate) managers: Managers,
    pub(crate) identity: Identity,
    pub(crate) publisher: Publisher,
    pub(crate) period: Duration,
    /// Told by shards when the manager should hear something soon.
    pub(crate) changed: Arc<Notify>,
    /// What came of the last ones, for people.
    pub(crate) heard: Arc<Mutex<Heard>>,
    /// Becomes true when the node is to stop.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Heartbeats {
    /// Runs until the node has stopped in order, or cannot go on.
    pub(crate) async fn run(mut self) -> Result<(), NodeError> {
        let (reply_to, mut reports) = mpsc::unbounded_channel();
        let mut seq = 0;
        let mut refused = 0;
        let mut stopping: Option<Time> = None;
        let mut heard = true;
        loop {
            seq += 1;
            let outcome = self.beat(seq, &reply_to, &mut reports).await;
            self.note(&outcome);
            match outcome {
                Ok(()) => (heard, refused) = (true, 0),
                Err(NodeError::Net(e)) => {
                    refused += 1;
                    if std::mem::take(&mut heard) {
                        tracing::warn!("no answer to a heartbeat: {e}; without one this node stops serving");
                    }
                }
                Err(e) => {
                    self.publisher.send_all(|| Inbox::Stop);
                    return Err(e);
                }
            }
            if let Some(since) = stopping {
                if !heard || self.chains_go_on() || now() - since > STOP_PATIENCE.as_nanos() as Time {
                    return Ok(());
                }
                sleep(SHORT_PAUSE).await;
                continue;
            }
            tokio::select! {
                () = told_to_stop(&mut self.stop) => {
                    self.publisher.send_all(|| Inbox::Stop);
                    stopping = Some(now());
                }
                // Another manager may have been elected: ask each once, before the usual pause.
                () = sleep(if refused > 0 && refused < self.managers.count() { SHORT_PAUSE } else { self.period }) => refused %= self.managers.count(),
                () = self.changed.notified() => sleep(SHORT_PAUSE / 10).await,
            }
        }
    }

    async fn beat(
        &mut self,
        seq: u64,
        reply_to: &mpsc::UnboundedSender<ShardReport>,
        reports: &mut mpsc::UnboundedReceiver<ShardReport>,
    ) -> Result<(), NodeError> {
        let listed = self.collect(reply_to, reports).await;
        let request = HeartbeatRequest {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            seq,
            targets: listed.values().flat_map(|r| r.targets.iter().cloned()).collect(),
            routing: self.publisher.version(),
        };
        let sent = now();
        let reply: HeartbeatReply = match self.managers.call(Kind::Heartbeat, &request, self.managers.patience()).await {
            Err(NetError::Refused(failure)) => HeartbeatReply { failure: Some(failure), ..HeartbeatReply::default() },
            result => result?,
        };
        if let Some(failure) = reply.failure {
            if is_final(&failure) {
                return Err(NodeError::Refused { node: self.identity.node, failure });
            }
            self.managers.redirect(&failure);
            return Err(NetError::Refused(failure).into());
        }
        self.publisher.publish(reply.routing, reply.delta);
        if reply.lease_ms > 0 {
            let until = sent + Time::from(reply.lease_ms) * 1_000_000;
            self.heard.lock().unwrap_or_else(|e| e.into_inner()).lease_until = until;
            self.pass_on(&listed, &reply.except, until, reply.routing_ver);
        }
        Ok(())
    }

    /// Keeps what came of a heartbeat, for people.
    fn note(&self, outcome: &Result<(), NodeError>) {
        let mut heard = self.heard.lock().unwrap_or_else(|e| e.into_inner());
        match outcome {
            Ok(()) => {
                heard.answered += 1;
                heard.error.clear();
                if heard.manager != self.managers.addr() {
                    heard.manager = self.managers.addr().to_owned();
                }
            }
            Err(e) => {
                heard.failed += 1;
                heard.error = e.to_string();
            }
        }
    }

    /// Reports of the shards that have answered since the last heartbeat.
    async fn collect(
        &self,
        reply_to: &mpsc::UnboundedSender<ShardReport>,
        reports: &mut mpsc::UnboundedReceiver<ShardReport>,
    ) -> BTreeMap<ShardId, ShardReport> {
        let mut listed = BTreeMap::new();
        while let Ok(report) = reports.try_recv() {
            listed.insert(report.shard, report);
        }
        self.publisher.send_all(|| Inbox::Report(reply_to.clone()));
        let mut asked = self.publisher.shards.len();
        let answers = async {
            while asked > 0
                && let Some(report) = reports.recv().await
            {
                listed.insert(report.shard, report);
                asked -= 1;
            }
        };
        if timeout(SHARD_PATIENCE, answers).await.is_err() {
            tracing::debug!("{asked} shards have not answered");
        }
        listed
    }

    fn pass_on(&self, listed: &BTreeMap<ShardId, ShardReport>, except: &[u32], until: Time, routing: u64) {
        for (shard, inbox) in self.publisher.shards.iter() {
            let Some(report) = listed.get(shard) else { continue };
            let granted = report.targets.iter().filter(|t| !except.contains(&t.target));
            let grant = granted.map(|t| Grant { target: t.target, open_count: t.open_count, until, routing });
            // A shard that has ended needs no lease.
            let _ = inbox.send(Inbox::Grants(grant.collect()));
        }
    }

    /// Whether every chain of this node has taken its target out, or has nobody else to go on with.
    fn chains_go_on(&self) -> bool {
        let Some(routing) = self.publisher.newest() else { return true };
        let own = |target: u32| routing.target(target).is_some_and(|t| t.node == self.identity.node);
        routing.chains.iter().all(|chain| {
            let serves = chain.serving().any(own);
            let alone = chain.serving().all(own);
            let revived = chain.in_state(PublicState::Serving).next().is_none();
            !serves || alone || revived
        })
    }
}

/// Waits until the node is to stop.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // An error means that the handle is gone, and with it this task before long.
    let _ = stop.wait_for(|&stop| stop).await;
}

/// What a node says to managers and other nodes.
pub(crate) fn hello(identity: &Identity) -> Hello {
    let Identity { node, cluster, incarnation } = *identity;
    Hello { cluster, node, incarnation, ..Hello::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeats(shards: Shards) -> Heartbeats {
        let identity = Identity { node: 1, cluster: 0, incarnation: 1 };
        Heartbeats {
            managers: Managers::new(vec![String::new()], hello(&identity), Default::default()),
            identity,
            publisher: Publisher::new(shards),
            period: Duration::from_millis(1),
            changed: Arc::default(),
            heard: Arc::default(),
            stop: watch::channel(false).1,
        }
    }

    fn routing(version: u64) -> Routing {
        Routing { version, ..Routing::default() }
    }

    #[tokio::test]
    async fn a_shard_that_hangs_is_not_listed_and_gets_no_lease() {
        let (lively, mut asked) = mpsc::unbounded_channel();
        let (hanging, mut never) = mpsc::unbounded_channel();
        let heartbeats = heartbeats(vec![(0, lively), (1, hanging)]);
        let shard = tokio::spawn(async move {
            let Some(Inbox::Report(reply)) = asked.recv().await else { panic!("a report is asked for") };
            let report = |target| catena_wire::manager::TargetReport { target, open_count: 1, ..Default::default() };
            reply.send(ShardReport { shard: 0, targets: vec![report(31), report(32)] }).expect("somebody listens");
            asked
        });
        let (reply_to, mut reports) = mpsc::unbounded_channel();
        let listed = heartbeats.collect(&reply_to, &mut reports).await;
        assert_eq!(listed.keys().copied().collect::<Vec<_>>(), [0]);
        heartbeats.pass_on(&listed, &[32], 99, 7);
        let mut asked = shard.await.expect("no panic");
        assert!(matches!(asked.recv().await, Some(Inbox::Grants(g)) if g.len() == 1 && g[0].target == 31 && g[0].until == 99));
        assert!(matches!(never.try_recv(), Ok(Inbox::Report(_))));
        assert!(never.try_recv().is_err(), "no lease");
    }

    #[test]
    fn routing_never_goes_back() {
        let (shard, mut inbox) = mpsc::unbounded_channel();
        let publisher = Publisher::new(vec![(0, shard)]);
        for version in [5, 4, 5, 7, 6] {
            publisher.publish(Some(routing(version)), None);
        }
        for (since, version) in [(7, 9), (8, 8), (12, 13)] {
            publisher.publish(None, Some(RoutingDelta { since, changed: routing(version) }));
        }
        let mut seen = Vec::new();
        while let Ok(Inbox::Routing(routing)) = inbox.try_recv() {
            seen.push(routing.version);
        }
        assert_eq!(seen, [5, 7, 9]);
    }
}
