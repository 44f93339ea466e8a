//! A manager, and nodes as far as a manager can tell, in virtual time.
//!
//! After every step: a target that would serve (by its own routing and lease) is SERVING in the manager's routing,
//! routing never goes back, and every chain keeps its rules.

use std::collections::BTreeMap;

use catena_cluster::{Manager, Settings, State, check_chain};
use catena_types::{Chain, LocalState, NodeId, PublicState, Routing, Space, TargetId, Time};
use catena_wire::manager::*;

pub(crate) const MS: Time = 1_000_000;
const STEP: Time = 50 * MS;

pub(crate) struct SimTarget {
    pub(crate) id: TargetId,
    pub(crate) uuid: Vec<u8>,
    /// ONLINE stands for UP_TO_DATE, too, when it has synced.
    pub(crate) state: LocalState,
    pub(crate) open_count: u64,
    /// As sink: answers SyncDone by its next heartbeat.
    pub(crate) syncs: bool,
    /// As source: gives a sync up.
    pub(crate) gives_up: bool,
    /// Its shard answers its node.
    pub(crate) listed: bool,
    lease: Option<(Time, u64)>,
}

pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    pub(crate) process: u64,
    pub(crate) incarnation: u64,
    pub(crate) seq: u64,
    pub(crate) up: bool,
    pub(crate) connected: bool,
    pub(crate) targets: Vec<SimTarget>,
    pub(crate) routing: Option<Routing>,
    pub(crate) rack: String,
    /// Targets it has no way to.
    pub(crate) misses: Vec<TargetId>,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) manager: Manager,
    pub(crate) nodes: BTreeMap<NodeId, SimNode>,
    version: u64,
}

impl SimNode {
    pub(crate) fn register_request(&self) -> RegisterRequest {
        let lock = |t: &SimTarget| (1 + u64::from(self.id)) << 8 | u64::from(t.uuid[0]);
        let offer =
            |t: &SimTarget| TargetOffer { uuid: t.uuid.clone(), target: t.id, shard: 0, space: Space::default(), lock: lock(t) };
        RegisterRequest {
            node: self.id,
            cluster: 0,
            process: self.process,
            shard_addrs: vec![format!("10.0.0.{}:7000", self.id)],
            targets: self.targets.iter().map(offer).collect(),
            rack: self.rack.clone(),
        }
    }

    fn chain_of(&self, target: TargetId) -> Option<&Chain> {
        let routing = self.routing.as_ref()?;
        routing.chain(routing.target(target)?.chain)
    }

    /// Members that a target sends requests to, and has no way to.
    fn unreachable(&self, chain: &Chain, target: TargetId) -> Vec<TargetId> {
        let serving: Vec<_> = chain.serving().collect();
        let Some(at) = serving.iter().position(|&t| t == target) else { return Vec::new() };
        let behind = serving.get(at + 1).copied().or(chain.syncing());
        let tail = chain.tail().filter(|&t| t != target);
        [behind, tail].into_iter().flatten().filter(|t| self.misses.contains(t)).collect()
    }

    /// What it would say now.
    pub(crate) fn heartbeat_request(&mut self) -> HeartbeatRequest {
        self.seq += 1;
        let report = |t: &SimTarget| {
            let chain = self.chain_of(t.id);
            let synced = t.syncs && chain.is_some_and(|c| c.syncing() == Some(t.id));
            let gave_up = t.gives_up && chain.is_some_and(|c| c.tail() == Some(t.id) && c.syncing().is_some());
            TargetReport {
                target: t.id,
                state: if synced && t.state == LocalState::Online { LocalState::UpToDate } else { t.state } as i32,
                chain_ver: chain.map_or(0, |c| c.chain_ver),
                chain: chain.map_or(0, |c| c.id),
                open_count: t.open_count,
                sync_failed: if gave_up { "NoSpace".to_owned() } else { String::new() },
                unreachable: chain.map_or(Vec::new(), |c| self.unreachable(c, t.id)),
                ..TargetReport::default()
            }
        };
        HeartbeatRequest {
            node: self.id,
            incarnation: self.incarnation,
            seq: self.seq,
            targets: self.targets.iter().filter(|t| t.listed).map(report).collect(),
            routing: self.routing.as_ref().map_or(0, |r| r.version),
        }
    }
}

impl World {
    /// A cluster of `nodes` nodes with `targets` targets each, registered, in chains of `replicas`, everybody heard of.
    pub(crate) fn running(nodes: u32, targets: u32, replicas: u32) -> World {
        World::running_with(nodes, targets, replicas, 0)
    }

    /// The same with `spare` targets of each node in no chain.
    pub(crate) fn running_with(nodes: u32, targets: u32, replicas: u32, spare: u32) -> World {
        let mut world = World::new(nodes, targets);
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        ids.iter().for_each(|&id| world.start(id));
        world.run(300);
        world.init(replicas, spare);
        world
    }

    /// Makes the chain table.
    pub(crate) fn init(&mut self, replicas: u32, spare: u32) {
        let nodes = self.nodes.len() as u32;
        let made = self.manager.init(self.now, &InitRequest { replicas, nodes, spare }).reply;
        assert_eq!(made.failure, None);
        self.run(600);
    }

    /// One more node, which has not started yet.
    pub(crate) fn add_node(&mut self, id: NodeId, targets: u32) {
        let mut node = World::new(id, targets).nodes.remove(&id).expect("the last of them");
        node.connected = true;
        self.nodes.insert(id, node);
    }

    /// Nodes that have not started yet.
    pub(crate) fn new(nodes: u32, targets: u32) -> World {
        let target = |node: u32, n: u32| SimTarget {
            id: 0,
            uuid: vec![(node * 16 + n) as u8; 16],
            state: LocalState::Online,
            open_count: 1,
            syncs: true,
            gives_up: false,
            listed: true,
            lease: None,
        };
        let node = |id| SimNode {
            id,
            process: 0,
            incarnation: 0,
            seq: 0,
            up: false,
            connected: true,
            targets: (0..targets).map(|n| target(id, n)).collect(),
            routing: None,
            rack: String::new(),
            misses: Vec::new(),
        };
        let manager = Manager::new(Settings::default(), State::new(0xca7e), 0);
        World { now: 10_000 * MS, manager, nodes: (1..=nodes).map(|id| (id, node(id))).collect(), version: 0 }
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut SimNode {
        self.nodes.get_mut(&id).expect("a node of this world")
    }

    /// Starts (again) a node that is down.
    pub(crate) fn start(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        node.process += 1000 + u64::from(id);
        let reply = self.manager.register(now, &node.register_request()).reply;
        assert_eq!(reply.failure, None);
        (node.incarnation, node.seq, node.up, node.routing) = (reply.incarnation, 0, true, None);
        for (target, given) in node.targets.iter_mut().zip(reply.targets) {
            (target.id, target.state, target.open_count, target.lease) = (given, LocalState::Online, 1, None);
        }
        self.check();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, id: NodeId) {
        self.node(id).up = false;
    }

    /// Opens a target again within the same start of its node.
    pub(crate) fn reopen(&mut self, id: NodeId) {
        let target = &mut self.node(id).targets[0];
        (target.state, target.open_count, target.lease) = (LocalState::Online, target.open_count + 1, None);
    }

    /// The manager is killed and started again.
    pub(crate) fn restart_manager(&mut self, settings: Settings) {
        self.manager = Manager::new(settings, self.manager.state().clone(), self.now);
    }

    /// One heartbeat of a node, and what it makes of the answer.
    pub(crate) fn heartbeat(&mut self, id: NodeId) -> HeartbeatReply {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let request = node.heartbeat_request();
        let reply = self.manager.heartbeat(now, &request).reply;
        if reply.lease_ms > 0 {
            let until = now + Time::from(reply.lease_ms) * MS;
            for listed in request.targets.iter().filter(|t| !reply.except.contains(&t.target)) {
                let target = node.targets.iter_mut().find(|t| t.id == listed.target).expect("it was listed");
                target.lease = Some((until, reply.routing_ver));
            }
            if let Some(routing) = self.manager.routing_since(request.routing) {
                node.routing = Some(routing);
            }
        }
        self.check();
        reply
    }

    /// Passes `ms` milliseconds: ticks, and the heartbeats of whoever is up and connected.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while self.now < end {
            self.now += STEP;
            self.manager.tick(self.now);
            self.check();
            // Every 300 ms, even and odd nodes in turn.
            let phase = |n: &SimNode| if n.id.is_multiple_of(2) { 0 } else { 3 };
            let due = |n: &&SimNode| n.up && n.connected && (self.now / STEP) % 6 == phase(n);
            let due: Vec<_> = self.nodes.values().filter(due).map(|n| n.id).collect();
            for id in due {
                self.heartbeat(id);
            }
        }
    }

    /// Passes time until `wanted` holds; milliseconds passed.
    pub(crate) fn run_until(&mut self, what: &str, wanted: impl Fn(&World) -> bool) -> u64 {
        let start = self.now;
        while !wanted(self) {
            self.run(50);
            assert!(self.now - start < 600_000 * MS, "never: {what}; chain {}", self.chain(1));
        }
        (self.now - start) / MS
    }

    pub(crate) fn chain_ver(&self, id: u32) -> u64 {
        self.manager.state().chains[&id].chain_ver
    }

    /// A chain as text: `1S 2S 3O`.
    pub(crate) fn chain(&self, id: u32) -> String {
        let letter = |s| match s {
            PublicState::Serving => "S",
            PublicState::LastSrv => "L",
            PublicState::Syncing => "Y",
            PublicState::Waiting => "W",
            PublicState::Offline => "O",
        };
        let chain = &self.manager.state().chains[&id];
        let member = |m: &catena_types::Member| format!("{}{}{}", m.target, letter(m.state()), if m.chosen { "*" } else { "" });
        chain.members.iter().map(member).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn all_serve(&self) -> bool {
        let all = |c: &Chain| c.serving().count() == c.members.len();
        self.manager.state().chains.values().all(all)
    }

    fn check(&mut self) {
        let state = self.manager.state();
        assert!(state.version >= self.version, "routing went back");
        self.version = state.version;
        for chain in state.chains.values() {
            check_chain(chain).expect("rules of a chain");
        }
        for node in self.nodes.values().filter(|n| n.up) {
            for target in node.targets.iter().filter(|t| t.state == LocalState::Online) {
                let Some((until, needs)) = target.lease else { continue };
                let Some(chain) = node.chain_of(target.id) else { continue };
                let usable = until > self.now && node.routing.as_ref().is_some_and(|r| r.version >= needs);
                let serves = usable && chain.state_of(target.id) == Some(PublicState::Serving);
                let public = state.chains[&chain.id].state_of(target.id);
                assert!(!serves || public == Some(PublicState::Serving), "{} serves as {public:?}", target.id);
            }
        }
    }
}
