//! Nodes, leases and time around the chain transitions.
//!
//! One request at a time goes in, with the time read after it was received; the answer comes out together with
//! whether the state changed. What must hold: an answer, and routing, are published only after the state they rest on
//! is stored; the caller that cannot store must stop.

mod admin;
mod evaluate;
mod hearing;
mod heartbeat;
mod init;
mod layout;
mod moves;
mod register;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use catena_types::{NodeId, Routing, TargetId, Time};
use catena_wire::manager::TargetReport;

use crate::mutation::{Mutation, is};
use crate::state::{Settings, State};

/// An answer, and whether the state must be stored before it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<R> {
    /// The answer.
    pub reply: R,
    /// The state differs from the one last stored.
    pub changed: bool,
}

/// The manager's state machine.
#[derive(Clone, Debug)]
pub struct Manager {
    settings: Settings,
    state: State,
    /// When this process took over: what it has not heard before may still be true until a lease later.
    started: Time,
    /// Time of the newest call.
    awake: Time,
    nodes: BTreeMap<NodeId, NodeLive>,
    targets: BTreeMap<TargetId, TargetLive>,
    /// Processes that want to take a node over.
    candidates: BTreeMap<NodeId, register::Candidate>,
    /// The state differs from the one last handed out as changed.
    changed: bool,
    /// So does what of it is routing.
    routed: bool,
    /// Nodes whose next heartbeat decides what becomes of a chain.
    awaited: BTreeSet<NodeId>,
}

/// What was heard of a node since this manager started.
#[derive(Clone, Copy, Debug, Default)]
struct NodeLive {
    /// Last registration or heartbeat of the present incarnation.
    heard: Time,
    /// Number of its last heartbeat.
    seq: Option<u64>,
}

/// What was heard of a target since this manager started.
#[derive(Clone, Debug, Default)]
struct TargetLive {
    /// Last report in the present incarnation, and when.
    report: Option<(TargetReport, Time)>,
    /// Last time it was listed as open and got a lease for that.
    heard: Option<Time>,
    /// Last time it was listed as open.
    listed: Time,
    /// When the present start of its node was let in; 0 if before this manager started.
    registered: Time,
    /// Known since then to have stopped, failed or been opened anew.
    gone: Option<Time>,
    /// Syncs to it that failed since it last served.
    failures: u32,
    /// No sync to it before then.
    back_off_until: Time,
    /// When it was last moved out because others could not reach it, and how often that has happened one after the other.
    cut_off: Option<(Time, u32)>,
}

impl Manager {
    /// Takes over a stored state (or a new one). Nobody silent is removed before a lease has surely ended from `now`.
    /// [`Manager::tick`] is to be called several times per lease.
    pub fn new(settings: Settings, mut state: State, now: Time) -> Manager {
        let earlier = Settings::new(state.lease_ms, settings.heartbeat_ms).surely_ended();
        let longer = state.lease_ms > settings.lease_ms;
        let extra = if longer { earlier.saturating_sub(settings.surely_ended()) } else { 0 };
        let changed = state.lease_ms < settings.lease_ms;
        state.lease_ms = state.lease_ms.max(settings.lease_ms);
        state.version -= u64::from(is(Mutation::VersionBack) && state.version > 1);
        Manager {
            settings,
            state,
            // As if started so much later: longer leases of an earlier manager may still run.
            started: if is(Mutation::NoWait) { 0 } else { now.saturating_add(extra) },
            awake: now,
            nodes: BTreeMap::new(),
            targets: BTreeMap::new(),
            candidates: BTreeMap::new(),
            changed,
            routed: false,
            awaited: BTreeSet::new(),
        }
    }

    /// What must be stored before anything that rests on it is published.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Periods.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Nodes of which a heartbeat now, instead of when it is due, lets a chain go on: a member of it is out, and they have
    /// not been heard of since. What came together since the last call.
    pub fn take_awaited(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.awaited)
    }

    /// Routing newer than `have`, if there is.
    pub fn routing_since(&self, have: u64) -> Option<Routing> {
        (self.state.version > have).then(|| self.state.routing())
    }

    /// Time has passed: leases end, nodes go, back-offs are over. Whether the state changed.
    pub fn tick(&mut self, now: Time) -> bool {
        self.wake(now);
        if self.state.lease_ms > self.settings.lease_ms && self.waited(now) {
            self.state.lease_ms = self.settings.lease_ms;
            self.changed = true;
        }
        self.note_silent_nodes(now);
        let chains: Vec<_> = self.state.chains.keys().copied().collect();
        self.evaluate(chains, now);
        self.keep_moves(now);
        self.publish();
        std::mem::take(&mut self.changed)
    }

    /// Reads every time that comes in. After a pause of its own this manager cannot tell who was silent from whom it did
    /// not listen to: it goes on as if it had just started.
    fn wake(&mut self, now: Time) {
        if now.saturating_sub(self.awake) > self.settings.surely_ended() / 2 {
            self.started = self.started.max(now);
        }
        self.awake = self.awake.max(now);
    }

    /// Every lease granted before this manager started has surely ended.
    fn waited(&self, now: Time) -> bool {
        now >= self.started.saturating_add(self.settings.surely_ended())
    }

    /// Routing has changed: it gets its version with [`Manager::publish`].
    fn touch_routing(&mut self) {
        self.routed = true;
        self.changed = true;
    }

    /// Gives routing changed by this event one new version, before the answer names it.
    fn publish(&mut self) {
        if std::mem::take(&mut self.routed) {
            self.state.version += 1;
        }
    }

    /// Ends an event.
    fn outcome<R>(&mut self, reply: R) -> Outcome<R> {
        debug_assert!(!self.routed, "routing changed without a new version");
        Outcome { reply, changed: std::mem::take(&mut self.changed) }
    }
}
