//! The targets of a shard: each a state machine and its store.
//!
//! What must hold: a target that has just been opened, at start or anew, acts on no routing older than its first grant
//! since (amendment C1): before that grant the manager may still count on what it held in memory before.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use catena_chain::{Command, Config, Event, Replica};
use catena_engine::OpenError;
use catena_types::{ChainId, ChunkKey, ChunkMeta, ChunkStore, Done, LocalState, Routing, Space, TargetId, Time};
use catena_wire::client::TargetReply;
use catena_wire::manager::{TargetOffer, TargetReport};

use super::{Grant, Identity, trace};
use crate::NodeError;
use crate::clock::now;
use crate::status::TargetStatus;
use crate::storage::{Opened, Storage};

type Commands = Vec<Command<Bytes>>;

/// A store with IO in flight that ends nothing for so long, in nanoseconds, has failed (amendment H9).
const IO_TIMEOUT: Time = 30_000_000_000;

/// One target.
struct Target {
    id: TargetId,
    /// The chain it belongs to, or belonged to last; 0: none yet.
    chain: ChainId,
    /// `None` when it could not be opened anew.
    opened: Option<Opened>,
    replica: Replica<Bytes>,
    /// Times it was opened in this incarnation.
    open_count: u64,
    /// Routing version of the first grant since it was opened.
    gate: Option<u64>,
    /// Why it could not be opened anew.
    failed: String,
    /// State and chain version last seen.
    seen: (LocalState, u64),
    /// Since when the store has had IO in flight without ending anything.
    waits_since: Option<Time>,
}

/// The targets of a shard.
#[derive(Default)]
pub(super) struct Targets {
    list: Vec<Target>,
    by_id: HashMap<TargetId, usize>,
    by_chain: HashMap<ChainId, usize>,
    dones: Vec<Done<Bytes>>,
    reopens: BTreeSet<usize>,
    changed: bool,
    /// Of every state machine.
    config: Config,
}

impl Targets {
    /// Targets that have been opened and not been adopted.
    pub(super) fn new(opened: Vec<Opened>, config: Config) -> Targets {
        let target = |opened| Target {
            id: 0,
            chain: 0,
            opened: Some(opened),
            replica: Replica::new(0, config.clone()),
            open_count: 1,
            gate: None,
            failed: String::new(),
            seen: (LocalState::Online, 0),
            waits_since: None,
        };
        let list = opened.into_iter().map(target).collect();
        Targets { list, config, ..Targets::default() }
    }

    /// What to offer to the manager, and the cluster each belongs to (0: none).
    pub(super) fn offers(&self, shard: u32) -> Vec<(TargetOffer, u64)> {
        let offer = |Opened { store, dir }: &Opened| {
            let identity = store.identity();
            let (uuid, target) = (identity.uuid.to_vec(), identity.target);
            (TargetOffer { uuid, target, shard, space: store.space(), lock: dir.lock_number() }, identity.cluster)
        };
        self.list.iter().filter_map(|t| t.opened.as_ref()).map(offer).collect()
    }

    /// Writes cluster and ids into the superblocks and starts the state machines. Blocks.
    pub(super) fn adopt(&mut self, identity: &Identity, ids: &[TargetId]) -> Result<(), NodeError> {
        for (n, (target, &id)) in self.list.iter_mut().zip(ids).enumerate() {
            if let Some(opened) = &mut target.opened {
                opened.store.adopt(identity.cluster, id)?;
            }
            target.id = id;
            target.replica = Replica::new(id, self.config.clone());
            self.by_id.insert(id, n);
        }
        Ok(())
    }

    /// Whether the target is here and open.
    pub(super) fn has(&self, id: TargetId) -> bool {
        self.by_id.get(&id).is_some_and(|&n| self.list[n].opened.is_some())
    }

    /// The open target of a chain.
    pub(super) fn of_chain(&self, chain: ChainId) -> Option<TargetId> {
        let target = &self.list[*self.by_chain.get(&chain)?];
        target.opened.is_some().then_some(target.id)
    }

    /// Each target and the chain it is in.
    pub(super) fn chains(&self) -> impl Iterator<Item = (TargetId, ChainId)> + '_ {
        self.list.iter().filter(|t| t.chain != 0).map(|t| (t.id, t.chain))
    }

    /// What a target holds of a chunk, and its chain version.
    pub(super) fn inspect(&self, id: TargetId, key: &ChunkKey) -> (Option<ChunkMeta>, u64) {
        let Some(target) = self.by_id.get(&id).map(|&n| &self.list[n]) else { return (None, 0) };
        (target.opened.as_ref().and_then(|o| o.store.meta(key)), target.replica.chain_ver())
    }

    /// Everything about a target's store; starts a scrub pass if told so.
    pub(super) fn describe(&mut self, id: TargetId, scrub: bool) -> TargetReply {
        let Some(&n) = self.by_id.get(&id) else { return TargetReply::default() };
        let target = &mut self.list[n];
        let Some(opened) = &mut target.opened else { return TargetReply::default() };
        if scrub {
            opened.store.start_scrub();
        }
        crate::status::describe(&opened.store, &target.replica)
    }

    /// Gives a target an event. One that is not here, or not open, gets nothing.
    pub(super) fn handle(&mut self, id: TargetId, now: Time, event: Event<Bytes>, out: &mut Commands) {
        if let Some(&n) = self.by_id.get(&id) {
            self.step(n, now, event, out);
        }
    }

    fn step(&mut self, n: usize, now: Time, event: Event<Bytes>, out: &mut Commands) {
        let target = &mut self.list[n];
        let Some(opened) = &mut target.opened else { return };
        let before = out.len();
        let traced = trace::on().then(|| (trace::event(target.id, &event, &opened.store), target.replica.counters().commits));
        target.replica.handle(now, event, &mut opened.store, out);
        if let Some((cause, commits)) = traced {
            if target.replica.counters().commits > commits {
                trace::committed(target.id, cause);
            }
            out[before..].iter().for_each(|command| trace::command(target.id, cause, command));
        }
        for command in &out[before..] {
            if let Command::Reopen { reason } = command {
                tracing::warn!(target = target.id, "opening the target anew: {reason}");
                self.reopens.insert(n);
            }
        }
    }

    /// Sends the ticks that are due.
    pub(super) fn tick(&mut self, now: Time, out: &mut Commands) {
        for n in 0..self.list.len() {
            if self.list[n].replica.next_wake().is_some_and(|at| at <= now) {
                self.step(n, now, Event::Tick, out);
            }
            if self.list[n].gives_up_at().is_some_and(|at| at <= now) {
                let reason = format!("the disk has ended nothing for {} s; look at it (dmesg)", IO_TIMEOUT / 1_000_000_000);
                tracing::error!(target = self.list[n].id, "target failed: {reason}");
                self.step(n, now, Event::Done(Done::Failed { reason }), out);
                self.look(n);
            }
        }
    }

    /// Lets every store do what it can, and passes on what has ended. Whether anything has.
    pub(super) fn turn(&mut self, out: &mut Commands) -> bool {
        let mut progress = false;
        let mut dones = std::mem::take(&mut self.dones);
        for n in 0..self.list.len() {
            let Some(opened) = &mut self.list[n].opened else { continue };
            let now = now();
            opened.store.turn(now, &mut dones);
            let waits = dones.is_empty() && opened.store.busy();
            let target = &mut self.list[n];
            target.waits_since = target.waits_since.filter(|_| waits).or(waits.then_some(now));
            if dones.is_empty() {
                continue;
            }
            progress = true;
            for done in dones.drain(..) {
                self.step(n, now, Event::Done(done), out);
            }
            self.look(n);
        }
        self.dones = dones;
        progress
    }

    /// When to take a turn at the latest.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let store = |t: &Target| t.opened.as_ref().and_then(|o| o.store.next_wake());
        let background = |t: &Target| t.opened.as_ref().and_then(|o| o.store.background_wake());
        let wakes = |t: &Target| [t.replica.next_wake(), store(t), background(t), t.gives_up_at()];
        self.list.iter().flat_map(wakes).flatten().min()
    }

    /// Applies routing to every target that may act on it.
    pub(super) fn apply(&mut self, routing: &Routing, now: Time, out: &mut Commands) {
        for n in 0..self.list.len() {
            self.apply_to(n, routing, now, out);
        }
        // A target that was moved away gives way to the one that took its place here.
        let member = |t: &Target| routing.target(t.id).is_some_and(|info| info.chain == t.chain);
        let mut assigned: Vec<(bool, ChainId, usize)> =
            self.list.iter().enumerate().filter(|(_, t)| t.chain != 0).map(|(n, t)| (member(t), t.chain, n)).collect();
        assigned.sort_unstable();
        self.by_chain = assigned.into_iter().map(|(_, chain, n)| (chain, n)).collect();
    }

    fn apply_to(&mut self, n: usize, routing: &Routing, now: Time, out: &mut Commands) {
        let target = &mut self.list[n];
        let assigned = routing.target(target.id).map_or(0, |t| t.chain);
        if assigned != 0 && assigned != target.chain {
            if target.chain != 0 && target.replica.chain_ver() != 0 {
                tracing::warn!(target = target.id, "moved from chain {} to chain {assigned}: opening it anew", target.chain);
                self.reopens.insert(n);
            }
            target.chain = assigned;
        }
        if self.reopens.contains(&n) {
            return;
        }
        let target = &self.list[n];
        // A target that was taken out of its chain learns that from the chain it was in.
        if target.gate.is_some_and(|gate| gate <= routing.version)
            && let Some(chain) = routing.chain(target.chain)
        {
            self.step(n, now, Event::Routing { version: routing.version, chain: chain.clone() }, out);
            self.look(n);
        }
    }

    /// Gives a target its lease. The first one since it was opened lets it act on routing.
    pub(super) fn grant(&mut self, grant: &Grant, routing: Option<&Routing>, now: Time, out: &mut Commands) {
        let Some(&n) = self.by_id.get(&grant.target) else { return };
        let target = &mut self.list[n];
        if target.open_count != grant.open_count {
            return;
        }
        if target.gate.is_none() {
            target.gate = Some(grant.routing);
            if let Some(routing) = routing {
                self.apply_to(n, routing, now, out);
            }
        }
        self.step(n, now, Event::Lease { until: grant.until, routing: grant.routing }, out);
    }

    /// Serve nothing more.
    pub(super) fn stop(&mut self, now: Time, out: &mut Commands) {
        for n in 0..self.list.len() {
            self.step(n, now, Event::Stop, out);
            self.look(n);
        }
    }

    /// Targets whose state machine asked to be opened anew.
    pub(super) fn take_reopens(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.reopens)
    }

    /// Opens a target anew, with a fresh state machine; whoever waits at the old one is refused. Blocks.
    pub(super) fn reopen(&mut self, n: usize, storage: &Storage, out: &mut Commands) {
        self.step(n, now(), Event::Stop, out);
        let target = &mut self.list[n];
        let Some(opened) = target.opened.take() else { return };
        match storage.reopen(opened) {
            Ok(opened) => target.opened = Some(opened),
            Err(e) => {
                tracing::error!(target = target.id, "not opened anew: {e}");
                target.failed = e.to_string();
            }
        }
        target.replica = Replica::new(target.id, self.config.clone());
        target.open_count += 1;
        target.gate = None;
        target.waits_since = None;
        self.changed = true;
    }

    /// Notices a change that the manager should hear of soon.
    fn look(&mut self, n: usize) {
        let target = &mut self.list[n];
        let report = target.replica.report();
        let seen = (report.state, report.chain_ver);
        self.changed |= seen != target.seen || !report.sync_failed.is_empty();
        target.seen = seen;
    }

    /// Whether there was such a change since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What the next heartbeat says, given which members of the chains cannot be reached.
    pub(super) fn reports(&self, unreachable: impl Fn(TargetId) -> bool) -> Vec<TargetReport> {
        self.list.iter().filter(|t| t.id != 0).map(|t| t.report(&unreachable)).collect()
    }

    /// For tests and tools.
    pub(super) fn status(&self, now: Time) -> Vec<TargetStatus> {
        let status = |t: &Target| TargetStatus {
            target: t.id,
            chain: t.chain,
            open_count: t.open_count,
            report: t.replica.report(),
            serving: t.opened.is_some() && t.replica.may_serve(now),
            load: t.replica.load(),
            space: t.space(),
            replica: *t.replica.counters(),
            engine: t.opened.as_ref().map(|o| o.store.stats()).unwrap_or_default(),
            gauges: t.opened.as_ref().map(|o| o.store.gauges()).unwrap_or_default(),
            store: t.opened.as_ref().map(|o| crate::status::store_report(&o.store)),
            histograms: t.opened.iter().flat_map(|o| crate::status::histograms(&o.store)).map(|(n, h)| (n, h.clone())).collect(),
        };
        self.list.iter().map(status).collect()
    }

    /// Closes every store, so that the next open has nothing to replay. Blocks.
    pub(super) fn close(&mut self) {
        for target in &mut self.list {
            let failed = target.replica.report().state == LocalState::Failed;
            let Some(mut opened) = target.opened.take() else { continue };
            // A failed disk may never end what it was given.
            if !failed && let Err(e) = opened.store.close(&mut Vec::new()) {
                tracing::warn!(target = target.id, "not closed cleanly, the next open replays the journal: {e}");
            }
        }
    }
}

impl Target {
    /// When its store counts as failed, if nothing ends before.
    fn gives_up_at(&self) -> Option<Time> {
        let alive = || self.replica.report().state != LocalState::Failed;
        self.waits_since.filter(|_| alive()).map(|since| since + IO_TIMEOUT)
    }

    fn space(&self) -> Space {
        self.opened.as_ref().map(|o| o.store.space()).unwrap_or_default()
    }

    fn report(&self, unreachable: impl Fn(TargetId) -> bool) -> TargetReport {
        let report = self.replica.report();
        let (state, failed) =
            if self.opened.is_some() { (report.state, report.failed) } else { (LocalState::Failed, self.failed.clone()) };
        TargetReport {
            target: self.id,
            state: state as i32,
            chain_ver: report.chain_ver,
            chain: report.chain,
            open_count: self.open_count,
            space: self.space(),
            sync_failed: report.sync_failed,
            sync: report.sync,
            failed,
            store: self.opened.as_ref().map(|o| crate::status::store_report(&o.store)),
            unreachable: self.replica.asks().filter(|&t| unreachable(t)).collect(),
        }
    }
}

/// Whether a target that cannot be opened must keep the whole node from starting: somebody else has it, or it is not
/// this node's. A broken one must not: the others go on.
pub(super) fn fatal(error: &OpenError) -> bool {
    matches!(error, OpenError::Locked { .. } | OpenError::WrongTarget { .. } | OpenError::BadParams { .. })
}

#[cfg(test)]
mod tests;
