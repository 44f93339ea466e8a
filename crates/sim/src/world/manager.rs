//! The manager: its real core, behind a network that delays, loses and reorders.

use std::sync::Arc;

use catena_cluster::{Manager, Settings, State};
use catena_types::{PublicState, Routing, TargetId, Time};
use catena_wire::manager::{HeartbeatRequest, InitRequest, RegisterRequest};

use super::{Ev, MS, Plan, Rule, World};

/// The end of a link that is the manager, for partitions.
pub(super) const MANAGER: usize = usize::MAX;

pub(super) struct Mgr {
    settings: Settings,
    /// What is stored.
    stored: State,
    /// `None` while it is down.
    core: Option<Manager>,
    initialized: bool,
    published: u64,
}

impl Mgr {
    pub(super) fn new(plan: &Plan) -> Mgr {
        let settings = Settings::new(plan.lease_ms, plan.heartbeat_ms);
        Mgr { settings, stored: State::new(0xca7e_4a00), core: None, initialized: false, published: 0 }
    }

    /// The newest routing stored.
    pub(super) fn routing(&self) -> Arc<Routing> {
        Arc::new(self.stored.routing())
    }

    pub(super) fn up(&self) -> bool {
        self.core.is_some()
    }

    /// Whether the chain table is made.
    pub(super) fn initialized(&self) -> bool {
        self.initialized
    }
}

impl World {
    pub(super) fn start_manager(&mut self) {
        if self.manager.core.is_none() {
            self.manager.core = Some(Manager::new(self.manager.settings, self.manager.stored.clone(), self.now));
            self.note(|| "manager starts".into());
        }
    }

    pub(super) fn stop_manager(&mut self) {
        self.manager.core = None;
        self.note(|| "manager is gone".into());
    }

    pub(super) fn on_manager_start(&mut self) {
        self.start_manager();
    }

    pub(super) fn on_manager_tick(&mut self) {
        let now = self.now;
        if let Some(core) = &mut self.manager.core {
            core.tick(now);
            self.try_init();
            self.store_and_publish();
        }
        let at = self.now + Time::from(self.plan.heartbeat_ms) * MS / 2;
        self.at(at, Ev::ManagerTick);
    }

    fn try_init(&mut self) {
        let now = self.now;
        let request = InitRequest { replicas: self.plan.replicas, nodes: self.plan.nodes as u32 };
        let Some(core) = self.manager.core.as_mut().filter(|_| !self.manager.initialized) else { return };
        let reply = core.init(now, &request).reply;
        if reply.failure.is_none() {
            self.manager.initialized = true;
            self.note(|| format!("chain table of {} chains", reply.chains));
            self.after(MS, Ev::Fault);
        }
    }

    /// Stores first, then lets everybody know, each when and if it likes.
    fn store_and_publish(&mut self) {
        let Some(core) = &self.manager.core else { return };
        let before = self.manager.published;
        let next = core.state();
        if next.version < before {
            return self.fail(Rule::Membership, format!("routing went back from {before} to {}", next.version));
        }
        if next != &self.manager.stored {
            self.manager.stored = next.clone();
        }
        if next.version == before {
            return;
        }
        self.manager.published = self.manager.stored.version;
        let routing = self.manager.routing();
        self.check_routing(&routing);
        self.note(|| format!("routing {}", describe(&routing)));
        for node in 0..self.nodes.len() {
            if !self.blocked(MANAGER, node) && self.rng.chance(3, 4) {
                self.push_routing(node, &routing);
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

    pub(super) fn on_register(&mut self, node: usize, request: &RegisterRequest) {
        let now = self.now;
        let Some(core) = &mut self.manager.core else { return };
        let reply = core.register(now, request).reply;
        self.note(|| format!("node {} registers: incarnation {} {:?}", node + 1, reply.incarnation, reply.failure));
        if let Some(failure) = &reply.failure {
            self.coverage.hit(&format!("register {:?}", failure.code()));
        }
        self.store_and_publish();
        if !self.blocked(MANAGER, node) {
            self.after(self.plan.net, Ev::Registered { node, process: request.process, reply: Box::new(reply) });
        }
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
        let Some(core) = &mut self.manager.core else { return };
        let reply = core.heartbeat(now, request).reply;
        if self.nodes[node].process() != Some(process) {
            self.heard_from_before();
        }
        self.store_and_publish();
        self.coverage.hit(if reply.lease_ms > 0 { "lease granted" } else { "lease withheld" });
        if !self.blocked(MANAGER, node) {
            let delay = self.beat_delay(node);
            self.at(self.now + delay, Ev::Granted { node, process, sent, openings, reply: Box::new(reply) });
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
    /// What the manager has stored of a target's place.
    pub(super) fn state_of(&self, target: TargetId) -> Option<PublicState> {
        let chain = self.stored.targets.get(&target)?.chain;
        self.stored.chains.get(&chain)?.state_of(target)
    }

    /// The members of a target's chain, in order.
    pub(super) fn routing_of(&self, target: TargetId) -> Option<Vec<TargetId>> {
        let chain = self.stored.targets.get(&target)?.chain;
        Some(self.stored.chains.get(&chain)?.members.iter().map(|m| m.target).collect())
    }
}
