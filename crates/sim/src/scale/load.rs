//! The real manager with many nodes that are only messages: what it has to do per second, and per event.

use catena_cluster::{Primary, Settings, State, Verdict};
use catena_types::store::StoreReport;
use catena_types::{LocalState, NodeId, Routing, RoutingDelta, Space, TargetId, Time};
use catena_wire::manager::{
    AdminRequest, HeartbeatReply, HeartbeatRequest, InitRequest, Rebalance, RegisterRequest, RoutingReply, TargetOffer,
    TargetReport, Task,
};
use prost::Message;

use super::Shape;

const MS: Time = 1_000_000;
/// Never ends.
const TERM: Time = Time::MAX;

/// A manager and what its nodes would say.
pub struct Cluster {
    shape: Shape,
    primary: Primary<()>,
    now: Time,
    seq: u64,
    nodes: Vec<Node>,
    /// Processor seconds of this thread so far.
    cpu: fn() -> f64,
}

struct Node {
    id: NodeId,
    incarnation: u64,
    targets: Vec<TargetId>,
    routing: u64,
    up: bool,
}

/// What was measured. Seconds are processor seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// To make the chain table.
    pub init: f64,
    /// Bytes of a heartbeat, and of its answer.
    pub heartbeat_bytes: (usize, usize),
    /// One heartbeat: decoded, judged, answered, encoded.
    pub heartbeat: f64,
    /// One look at every lease and chain.
    pub tick: f64,
    /// All of the routing in bytes.
    pub full_bytes: usize,
}

/// What one event made the manager do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// New versions of the routing.
    pub versions: u64,
    /// What somebody needs in bytes who had the routing before.
    pub delta_bytes: usize,
    /// To decide, and to publish, all versions together.
    pub decide: f64,
    /// To answer one node or client that asks what is newer.
    pub tell: f64,
}

impl Cluster {
    /// All nodes registered, the chain table made, every node heard of twice. `cpu`: processor seconds of this thread.
    pub fn start(shape: Shape, cpu: fn() -> f64) -> (Cluster, Load) {
        let now = 1_000 * MS;
        let primary = Primary::new(Settings::new(1_500, 300), State::new(7), now, TERM);
        let mut cluster = Cluster { shape, primary, now, seq: 0, nodes: Vec::new(), cpu };
        (1..=shape.nodes).for_each(|node| cluster.register(node));
        cluster.beat();
        let begun = cpu();
        cluster.init();
        let mut load = Load { init: cpu() - begun, ..Load::default() };
        // The first round brings the routing, the second is how it goes on.
        cluster.beat();
        cluster.beat();
        let (bytes, spent) = cluster.beat();
        (load.heartbeat_bytes, load.heartbeat) = (bytes, spent / f64::from(shape.nodes));
        let begun = cpu();
        cluster.tick();
        load.tick = cpu() - begun;
        load.full_bytes = cluster.primary.routing_since(0).0.map_or(0, |r| r.encoded_len());
        (cluster, load)
    }

    fn register(&mut self, id: NodeId) {
        let uuid = |n: u32| (u128::from(id) << 32 | u128::from(n)).to_le_bytes().to_vec();
        let offer = |n| TargetOffer { uuid: uuid(n), target: 0, shard: n % 4, space: space(), lock: 0 };
        let addr = |shard: u32| format!("10.{}.{}.{}:{}", id >> 16, id >> 8 & 255, id & 255, 7410 + shard);
        let request = RegisterRequest {
            node: id,
            cluster: 0,
            process: u64::from(id) << 7,
            shard_addrs: (0..4).map(addr).collect(),
            targets: (0..self.shape.targets()).map(offer).collect(),
            rack: String::new(),
        };
        let reply = match self.primary.register(self.now, &request) {
            Verdict::Now(reply) | Verdict::Stored(reply) => reply,
        };
        assert_eq!(reply.failure, None, "a node is let in");
        self.store();
        self.nodes.push(Node { id, incarnation: reply.incarnation, targets: reply.targets, routing: 0, up: true });
    }

    fn init(&mut self) {
        let Shape { replicas, nodes, spare, .. } = self.shape;
        let request = InitRequest { replicas: replicas as u32, nodes, spare };
        let reply = match self.primary.init(self.now, &request) {
            Verdict::Now(reply) | Verdict::Stored(reply) => reply,
        };
        assert_eq!(reply.failure, None, "a chain table can be made");
        self.store();
    }

    /// A heartbeat of every node that is up, a period later; bytes of the last one and of its answer, and the processor
    /// seconds of the manager's part.
    fn beat(&mut self) -> ((usize, usize), f64) {
        self.now += 300 * MS;
        self.seq += 1;
        let (mut bytes, mut spent) = ((0, 0), 0.0);
        let routing = self.primary.core().state().routing();
        for n in 0..self.nodes.len() {
            if self.nodes[n].up {
                let request = report(&self.nodes[n], &routing, self.seq).encode_to_vec();
                let begun = (self.cpu)();
                let reply = self.hear(&request);
                bytes = (request.len(), reply.encode_to_vec().len());
                spent += (self.cpu)() - begun;
                self.nodes[n].routing = self.nodes[n].routing.max(reply.routing_ver);
            }
        }
        (bytes, spent)
    }

    fn hear(&mut self, bytes: &[u8]) -> HeartbeatReply {
        let request = HeartbeatRequest::decode(bytes).expect("it was encoded just now");
        let reply = match self.primary.heartbeat(self.now, &request) {
            Verdict::Now(reply) | Verdict::Stored(reply) => reply,
        };
        self.store();
        reply
    }

    fn tick(&mut self) {
        self.primary.tick(self.now);
        self.store();
    }

    /// As if the store took no time.
    fn store(&mut self) {
        while self.primary.store_next().is_some() {
            self.primary.has_stored();
        }
    }

    /// Registers empty nodes and asks what rebalancing would move: how many moves are named, and the seconds it takes.
    pub fn grow(&mut self, nodes: u32) -> (usize, f64) {
        (self.shape.nodes + 1..=self.shape.nodes + nodes).for_each(|node| self.register(node));
        self.beat();
        self.beat();
        let task = Task::Rebalance(Rebalance { dry_run: true, cancel: false });
        let begun = (self.cpu)();
        let reply = match self.primary.admin(self.now, &AdminRequest { task: Some(task) }) {
            Verdict::Now(reply) | Verdict::Stored(reply) => reply,
        };
        (reply.moves.len(), (self.cpu)() - begun)
    }

    /// Silences nodes until the manager has taken them out.
    pub fn lose(&mut self, nodes: usize) -> Event {
        let before = self.primary.core().state().version;
        self.nodes.iter_mut().take(nodes).for_each(|n| n.up = false);
        let mut decide = 0.0;
        for _ in 0..12 {
            self.beat();
            let begun = (self.cpu)();
            self.tick();
            decide += (self.cpu)() - begun;
        }
        let versions = self.primary.core().state().version - before;
        let begun = (self.cpu)();
        let (routing, delta): (Option<Routing>, Option<RoutingDelta>) = self.primary.routing_since(before);
        let reply = RoutingReply { failure: None, routing, delta }.encode_to_vec();
        Event { versions, delta_bytes: reply.len(), decide, tell: (self.cpu)() - begun }
    }
}

/// What a node says when all is well.
fn report(node: &Node, routing: &Routing, seq: u64) -> HeartbeatRequest {
    let target = |&id: &TargetId| {
        let chain = routing.target(id).and_then(|t| routing.chain(t.chain));
        TargetReport {
            target: id,
            state: LocalState::Online as i32,
            chain_ver: chain.map_or(0, |c| c.chain_ver),
            chain: chain.map_or(0, |c| c.id),
            open_count: 1,
            space: space(),
            store: Some(StoreReport { scrub_passes: 3, scrub_bytes: 1 << 40, ..StoreReport::default() }),
            ..TargetReport::default()
        }
    };
    HeartbeatRequest {
        node: node.id,
        incarnation: node.incarnation,
        seq,
        targets: node.targets.iter().map(target).collect(),
        routing: node.routing,
    }
}

fn space() -> Space {
    Space { total: 8 << 40, used: 5 << 40, chunks: 5 << 20, ..Space::default() }
}
