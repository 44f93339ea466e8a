//! The managers: the real core, behind a network that delays, loses and reorders, over a store that takes its time.
//!
//! One of them is elected. When it is cut off from the store, another one is, once the term of the first has ended; the
//! first goes on answering whoever still asks it.

use std::sync::Arc;

use catena_cluster::{Primary, Settings, State, Verdict};
use catena_types::{Chain, PublicState, Routing, RoutingDelta, TargetId, Time};
use catena_wire::manager::{AdminReply, AdminRequest, HeartbeatRequest, InitRequest, RegisterRequest, StatusReply, Task};

use super::{Ev, MS, Plan, Rule, World};
use crate::mutation::{Mutation, is};

/// The end of a link that is the manager, for partitions.
pub(super) const MANAGER: usize = usize::MAX;

pub(super) struct Mgr {
    settings: Settings,
    /// What is stored, and its routing.
    stored: State,
    routing: Arc<Routing>,
    /// Elections so far: the store takes writes of the last one only.
    term: u64,
    /// `None` while nobody is elected.
    elected: Option<Primary<Ev>>,
    /// The one before, cut off from the store.
    deposed: Option<Primary<Ev>>,
    /// No write ends before.
    hangs_until: Time,
    initialized: bool,
    published: u64,
    /// Version of the newest routing that the elected one has decided and that was checked.
    decided: u64,
}

impl Mgr {
    pub(super) fn new(plan: &Plan) -> Mgr {
        let stored = State::new(0xca7e_4a00);
        Mgr {
            settings: Settings {
                replace_after_ms: plan.replace_after_ms,
                max_moves: plan.max_moves,
                ..Settings::new(plan.lease_ms, plan.heartbeat_ms)
            },
            routing: Arc::new(stored.routing()),
            stored,
            term: 0,
            elected: None,
            deposed: None,
            hangs_until: 0,
            initialized: false,
            published: 0,
            decided: 0,
        }
    }

    /// The newest routing stored.
    pub(super) fn routing(&self) -> Arc<Routing> {
        self.routing.clone()
    }

    pub(super) fn up(&self) -> bool {
        self.elected.is_some()
    }

    /// What the elected one has decided.
    pub(super) fn state(&self) -> Option<&State> {
        Some(self.elected.as_ref()?.core().state())
    }

    /// What the elected one says of itself.
    pub(super) fn status(&self, now: Time) -> Option<StatusReply> {
        Some(self.elected.as_ref()?.status(now))
    }

    /// An operator asks the elected one for something.
    pub(super) fn admin(&mut self, now: Time, task: Task) -> Option<AdminReply> {
        match self.elected.as_mut()?.admin(now, &AdminRequest { task: Some(task) }) {
            Verdict::Now(reply) | Verdict::Stored(reply) => Some(reply),
        }
    }

    /// Whether the chain table is made.
    pub(super) fn initialized(&self) -> bool {
        self.initialized
    }

    /// No write ends before.
    pub(super) fn hang_until(&mut self, until: Time) {
        self.hangs_until = self.hangs_until.max(until);
    }

    /// The store takes writes again, at its usual pace, and everybody knows who is elected.
    pub(super) fn mend_store(&mut self) {
        (self.hangs_until, self.deposed) = (0, None);
    }

    /// Between an election and the end of the term, if it is not renewed.
    pub(super) fn term_length(&self) -> Time {
        Time::from(self.settings.lease_ms) * MS / 2
    }

    /// Whom a node that asks reaches: the elected one, or, while it has not noticed, the one before.
    fn asked(&mut self, deposed: bool) -> Option<&mut Primary<Ev>> {
        if deposed && self.deposed.is_some() { self.deposed.as_mut() } else { self.elected.as_mut() }
    }
}

impl World {
    pub(super) fn start_manager(&mut self) {
        if self.manager.elected.is_none() {
            let m = &mut self.manager;
            m.term += 1;
            let until = self.now + m.term_length();
            m.elected = Some(Primary::new(m.settings, m.stored.clone(), self.now, until));
            if m.decided != m.stored.version {
                // What the one before decided last was not stored: it never was.
                m.decided = m.stored.version;
                let routing = m.routing();
                self.forget_decisions(&routing);
            }
            self.note(|| "manager starts".into());
            self.store_next();
        }
    }

    pub(super) fn stop_manager(&mut self) {
        (self.manager.elected, self.manager.deposed) = (None, None);
        self.note(|| "manager is gone".into());
    }

    pub(super) fn on_manager_start(&mut self) {
        // Meant to follow another one: while a term lasts that nobody has given up, nobody is elected. At its end somebody is.
        if self.manager.deposed.as_ref().is_none_or(|primary| !primary.holds(self.now)) {
            self.start_manager();
        }
    }

    /// The elected one is cut off from the store: its term ends, then another one is elected.
    pub(super) fn depose_manager(&mut self) {
        let Some(primary) = self.manager.elected.take() else { return };
        self.manager.deposed = Some(primary);
        let election = self.now + self.manager.term_length() + self.rng.delay(20 * MS);
        self.at(election, Ev::ManagerStart);
    }

    /// The store answers nobody for a while.
    pub(super) fn hang_the_store(&mut self) {
        let long = self.rng.between(1, u64::from(self.plan.lease_ms) * 4) * MS;
        self.manager.hang_until(self.now + long);
    }

    pub(super) fn on_manager_tick(&mut self) {
        let now = self.now;
        let until = now + self.manager.term_length();
        if let Some(primary) = &mut self.manager.deposed {
            primary.tick(now);
            if !primary.holds(now) && self.rng.chance(1, 16) {
                self.manager.deposed = None;
            }
        }
        if let Some(primary) = &mut self.manager.elected {
            primary.renew(until);
            primary.tick(now);
            if primary.core().state().table.is_empty() {
                let request = InitRequest { replicas: self.plan.replicas, nodes: self.plan.nodes as u32, spare: self.plan.spare };
                primary.init(now, &request);
            }
        }
        self.look_after_losses();
        self.store_next();
        // Several times per term.
        let at = self.now + Time::from(self.plan.heartbeat_ms) * MS / 2;
        self.at(at, Ev::ManagerTick);
    }

    /// Checks what was decided, and has it stored.
    pub(super) fn store_next(&mut self) {
        let decided = self.manager.elected.as_ref().map(|p| p.core().state()).filter(|s| s.version > self.manager.decided);
        if let Some(routing) = decided.map(|state| Arc::new(state.routing())) {
            self.manager.decided = routing.version;
            self.check_routing(&routing);
            self.strike_joins(&self.manager.routing(), &routing);
        }
        let Some(state) = self.manager.elected.as_mut().and_then(Primary::store_next) else { return };
        let at = (self.now + self.rng.delay(self.plan.store)).max(self.manager.hangs_until);
        let term = self.manager.term;
        self.at(at, Ev::Save { term, state });
    }

    /// A write reaches the store, whether or not its manager is still there to hear of it.
    pub(super) fn on_save(&mut self, term: u64, state: &State) {
        if term != self.manager.term && !is(Mutation::DeposedWrites) {
            return self.coverage.hit("write of an earlier term refused");
        }
        if state.version < self.manager.stored.version {
            let (from, to) = (self.manager.stored.version, state.version);
            return self.fail(Rule::Membership, format!("routing went back from {from} to {to}"));
        }
        let before = std::mem::replace(&mut self.manager.routing, Arc::new(state.routing()));
        self.manager.stored = state.clone();
        if !self.manager.initialized && !state.table.is_empty() {
            self.manager.initialized = true;
            self.note(|| format!("chain table of {} chains", state.table.len()));
            self.after(MS, Ev::Fault);
        }
        let ready = self.manager.elected.as_mut().map(Primary::has_stored).unwrap_or_default();
        self.publish();
        self.strike_stored_joins(&before, &self.manager.routing());
        ready.into_iter().for_each(|answer| self.manager_answers(answer));
        self.store_next();
    }

    /// Lets everybody know of what is stored, each when and if it likes.
    fn publish(&mut self) {
        if self.manager.stored.version == self.manager.published {
            return;
        }
        let before = std::mem::replace(&mut self.manager.published, self.manager.stored.version);
        // Whoever missed the version before cannot use what has changed since.
        let delta = self.manager.elected.as_ref().and_then(|p| p.routing_since(before).1);
        let delta = delta.filter(|_| self.manager.published.is_multiple_of(2));
        let routing = self.manager.routing();
        self.note(|| format!("routing {}", describe(&routing)));
        for node in 0..self.nodes.len() {
            if !self.blocked(MANAGER, node) && self.rng.chance(3, 4) {
                match &delta {
                    Some(delta) => self.push_delta(node, delta),
                    None => self.push_routing(node, &routing),
                }
            }
        }
    }

    /// Each shard of a node hears of it at its own time, or not at all.
    pub(super) fn push_routing(&mut self, node: usize, routing: &Arc<Routing>) {
        let Some(process) = self.nodes[node].process() else { return };
        for shard in 0..self.plan.shards {
            let delay = self.rng.delay(self.plan.net * 4);
            self.at(self.now + delay, Ev::Route { node, process, shard, routing: routing.clone() });
        }
    }

    /// The same for what has changed: each shard applies it to what it has.
    pub(super) fn push_delta(&mut self, node: usize, delta: &RoutingDelta) {
        let Some(process) = self.nodes[node].process() else { return };
        for shard in 0..self.plan.shards {
            let Some(routing) = self.nodes[node].routing_of(shard).and_then(|have| delta.apply(have)) else {
                self.coverage.hit("routing delta refused");
                continue;
            };
            self.coverage.hit("routing delta applied");
            let at = self.now + self.rng.delay(self.plan.net * 4);
            self.at(at, Ev::Route { node, process, shard, routing: Arc::new(routing) });
        }
    }

    pub(super) fn on_register(&mut self, node: usize, request: &RegisterRequest) {
        let now = self.now;
        let deposed = self.rng.chance(1, 2);
        let Some(primary) = self.manager.asked(deposed) else { return };
        let answer = |reply| Ev::Registered { node, process: request.process, reply: Box::new(reply) };
        let verdict = primary.register(now, request);
        let (Verdict::Now(reply) | Verdict::Stored(reply)) = &verdict;
        let (incarnation, failure) = (reply.incarnation, reply.failure.clone());
        match verdict {
            Verdict::Now(reply) => self.manager_answers(answer(reply)),
            Verdict::Stored(reply) => primary.wait(answer(reply)),
        }
        self.note(|| format!("node {} registers: incarnation {incarnation} {failure:?}", node + 1));
        if let Some(failure) = &failure {
            self.coverage.hit(format!("register {:?}", failure.code()));
            self.coverage.hit(format!("code {:?}", failure.code()));
        }
        self.store_next();
    }

    pub(super) fn on_heartbeat(
        &mut self,
        node: usize,
        process: u64,
        sent: Time,
        openings: Vec<(usize, u64)>,
        request: &HeartbeatRequest,
    ) {
        let now = self.now;
        let deposed = self.rng.chance(1, 2);
        let Some(primary) = self.manager.asked(deposed) else { return };
        let answer = |reply| Ev::Granted { node, process, sent, openings, reply: Box::new(reply) };
        let ahead = primary.core().state().version > primary.stored().version;
        match primary.heartbeat(now, request) {
            Verdict::Now(reply) => {
                let granted = reply.lease_ms > 0;
                self.coverage.hit(if granted { "lease granted" } else { "lease withheld" });
                if granted && ahead {
                    self.coverage.hit("lease granted beside the store");
                }
                if !reply.except.is_empty() {
                    self.coverage.hit("lease withheld from a target whose place changes");
                }
                self.manager_answers(answer(reply));
            }
            Verdict::Stored(reply) => primary.wait(answer(reply)),
        }
        if self.nodes[node].process() != Some(process) {
            self.heard_from_before();
        }
        self.store_next();
    }

    fn manager_answers(&mut self, answer: Ev) {
        let (node, late) = match answer {
            Ev::Registered { node, .. } => (node, self.rng.delay(self.plan.net)),
            Ev::Granted { node, .. } => (node, self.beat_delay(node)),
            _ => return,
        };
        if !self.blocked(MANAGER, node) {
            self.at(self.now + late, answer);
        }
    }
}

/// Routing in one line.
fn describe(routing: &Routing) -> String {
    let mut line = format!("{}:", routing.version);
    for chain in &routing.chains {
        line += &format!(" chain {} v{} [", chain.id, chain.chain_ver);
        for m in &chain.members {
            line += &format!(" {}{}{}", m.target, &format!("{:?}", m.state())[..3], if m.chosen { "*" } else { "" });
        }
        line += " ]";
    }
    line
}

impl Mgr {
    /// A target's place: SERVING only if it is stored so and nothing else has been decided.
    pub(super) fn state_of(&self, target: TargetId) -> Option<PublicState> {
        let place = |state: &State| state.chains.get(&state.targets.get(&target)?.chain)?.state_of(target);
        let stored = place(&self.stored);
        let decided = self.elected.as_ref().map_or(stored, |primary| place(primary.core().state()));
        if stored == Some(PublicState::Serving) { decided } else { stored }
    }

    /// The newest routing decided.
    pub(super) fn decided(&self) -> Arc<Routing> {
        self.elected.as_ref().map_or_else(|| self.routing(), |primary| Arc::new(primary.core().state().routing()))
    }

    /// The chain of a target, as stored.
    pub(super) fn chain_of(&self, target: TargetId) -> Option<&Chain> {
        self.stored.chains.get(&self.stored.targets.get(&target)?.chain)
    }
}
