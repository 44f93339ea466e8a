//! A whole cluster in one thread, from one seed: manager, nodes, network, clients, faults, checkers.
//!
//! Everything that happens is an [`Ev`] in one queue ordered by (time, number); every random choice comes from
//! generators made of the seed, so that a seed is a run. First come operations under faults (safety), then the faults
//! stop, everything is started again and the cluster must become whole by itself within bounded time (liveness).

mod check;
mod client;
mod cover;
mod disk;
mod expected;
mod faults;
mod joins;
mod ledger;
mod links;
mod list;
mod manager;
mod net;
mod node;
mod plan;
mod queue;
mod repair;
mod rest;
mod rot;
mod routes;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use catena_arena::Arena;
use catena_types::{ChunkKey, Routing, TargetId, Time};
use catena_wire::manager::{HeartbeatReply, HeartbeatRequest, RegisterReply, RegisterRequest};

use crate::linear::{History, Stats};
use crate::rng::Rng;
pub use cover::Coverage;
pub use expected::ENOUGH_SEEDS;
pub use plan::Plan;
pub use rules::{Rule, Violation};

const MS: Time = 1_000_000;
/// More events than any run needs that does not go in circles.
const MAX_EVENTS: u64 = 1_500_000;
/// Bytes of buffers of all stores together: more than they ever need.
const ARENA: usize = 1 << 30;

/// What happens.
enum Ev {
    /// A store may have finished something.
    Store {
        node: usize,
        slot: usize,
        opening: u64,
    },
    /// A state machine waits for this time.
    Tick {
        node: usize,
        slot: usize,
        opening: u64,
    },
    /// The first frame of a connection's lane arrives.
    Pump {
        conn: u64,
        lane: usize,
    },
    /// An opener tries to connect.
    Connect {
        from: net::Place,
        to: net::Place,
        process: u64,
    },
    /// An opener learns that it is connected.
    Connected {
        conn: u64,
        from: net::Place,
        to: net::Place,
        process: u64,
    },
    /// One end notices that a connection is no more.
    Notice {
        conn: u64,
        opener: bool,
    },
    /// A node's heartbeat is due.
    Beat {
        node: usize,
        process: u64,
    },
    Register {
        node: usize,
        request: Box<RegisterRequest>,
    },
    Registered {
        node: usize,
        process: u64,
        reply: Box<RegisterReply>,
    },
    Heartbeat {
        node: usize,
        process: u64,
        sent: Time,
        openings: Vec<(usize, u64)>,
        request: Box<HeartbeatRequest>,
    },
    Granted {
        node: usize,
        process: u64,
        sent: Time,
        openings: Vec<(usize, u64)>,
        reply: Box<HeartbeatReply>,
    },
    /// A shard hears of routing.
    Route {
        node: usize,
        process: u64,
        shard: u32,
        routing: Arc<Routing>,
    },
    /// A shard hears of its leases.
    Lease {
        node: usize,
        slot: usize,
        opening: u64,
        until: Time,
        routing: u64,
    },
    /// A process starts.
    Start {
        node: usize,
    },
    /// A stopped process ends.
    End {
        node: usize,
        process: u64,
    },
    /// A target is opened anew.
    Reopen {
        node: usize,
        slot: usize,
        process: u64,
    },
    ManagerTick,
    /// A manager is elected, if there is none.
    ManagerStart,
    ManagerDeposed,
    /// A write of the manager elected in that term reaches the store.
    Save {
        term: u64,
        state: Arc<catena_cluster::State>,
    },
    /// A client's lane looks what to do.
    Lane {
        client: usize,
        lane: usize,
        call: u64,
    },
    /// A client's request arrives.
    Request {
        to: TargetId,
        request: Box<client::Request>,
    },
    /// The answer arrives.
    Answer {
        answer: Box<client::Answer>,
    },
    /// A client hears of routing.
    ClientRouting {
        client: usize,
        routing: Arc<Routing>,
    },
    /// Something breaks.
    Fault,
    /// A connection breaks.
    Break {
        conn: u64,
    },
    /// Everybody loses power.
    Blackout,
    /// A node falls, at a moment chosen to hurt.
    Fall {
        node: usize,
        power: bool,
    },
    /// The disk that was taken out of a node is put back.
    PutBack {
        node: usize,
        slot: usize,
    },
    /// A partition between two ends.
    Heal {
        from: usize,
        to: usize,
    },
    /// A target has room again.
    Room {
        node: usize,
        slot: usize,
    },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was violated; `None` if everything held.
    pub violation: Option<Violation>,
    /// Changes with every event and its time: equal for equal seeds.
    pub hash: u64,
    /// Events handled.
    pub events: u64,
    /// Client operations ended.
    pub ops: u64,
    /// Processes and machines that crashed.
    pub crashes: u64,
    /// Faults drawn by the clock; those at steps of the protocol are not among them.
    pub faults: u64,
    /// Virtual time at the end, in nanoseconds.
    pub virtual_ns: Time,
    /// What occurred.
    pub coverage: Coverage,
    /// Of the linearizability check.
    pub linear: Stats,
    /// The last lines of the trace, if one was kept.
    pub trace: Vec<String>,
}

/// The world of one seed.
pub struct World {
    plan: Plan,
    /// The keys of all chunks.
    keys: Rc<[ChunkKey]>,
    seed: u64,
    now: Time,
    number: u64,
    queue: queue::Queue<Ev>,
    rng: Rng,
    /// Buffers of all stores.
    arena: Arena,
    nodes: Vec<node::Node>,
    manager: manager::Mgr,
    net: net::Net,
    clients: Vec<client::Client>,
    history: History,
    ledger: ledger::Ledger,
    checks: check::Checks,
    coverage: Coverage,
    faults_stopped: bool,
    losses: repair::Losses,
    hash: u64,
    events: u64,
    ops: u64,
    crashes: u64,
    faults: u64,
    /// Only these faults happen, if some are named.
    only: Option<BTreeSet<u64>>,
    opening: u64,
    request: u64,
    violation: Option<Violation>,
    tracing: bool,
    trace: Vec<String>,
}

impl World {
    /// The world of a seed, with about `ops` client operations; `tracing` keeps a readable trace.
    pub fn new(seed: u64, ops: u64, tracing: bool) -> World {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng, ops);
        let mut world = World {
            manager: manager::Mgr::new(&plan),
            nodes: Vec::new(),
            clients: client::Client::all(&plan, &mut rng),
            keys: (0..plan.keys).map(client::key).collect(),
            plan,
            seed,
            now: 1000 * MS,
            number: 0,
            queue: queue::Queue::new(),
            rng,
            arena: Arena::new(ARENA),
            net: net::Net::default(),
            history: History::new(),
            ledger: ledger::Ledger::default(),
            checks: check::Checks::default(),
            coverage: Coverage::default(),
            faults_stopped: false,
            losses: repair::Losses::default(),
            hash: seed,
            events: 0,
            ops: 0,
            crashes: 0,
            faults: 0,
            only: None,
            opening: 0,
            request: 0,
            violation: None,
            tracing,
            trace: Vec::new(),
        };
        world.build_nodes();
        world
    }

    /// Runs it to the end.
    pub fn run(mut self) -> Outcome {
        self.start();
        let safety_end = self.now + self.plan.duration;
        self.run_until(safety_end, |_| false);
        if self.violation.is_none() {
            self.stop_faults();
            self.coverage.checked(Rule::Liveness);
            let bound = self.now + self.plan.liveness_bound;
            self.run_until(bound, World::is_quiet);
            if self.violation.is_none() && !self.is_quiet() {
                let why = self.why_not_quiet();
                let seconds = self.plan.liveness_bound / 1_000_000_000;
                self.fail(Rule::Liveness, format!("{seconds} virtual seconds after the faults stopped: {why}"));
            }
        }
        if self.violation.is_none() {
            self.check_at_quiescence();
            self.final_reads();
        }
        let mut linear = Stats::default();
        if self.violation.is_none() {
            self.coverage.checked(Rule::Linearizable);
            self.ledger.resolve(&mut self.history);
            match self.history.check() {
                Ok(stats) => linear = stats,
                Err(violation) => self.violation = Some(Rule::Linearizable.broken(violation.to_string())),
            }
        }
        self.coverage.checked(Rule::NoPanic);
        self.collect_counters();
        Outcome {
            seed: self.seed,
            violation: self.violation,
            hash: self.hash,
            events: self.events,
            ops: self.ops,
            crashes: self.crashes,
            faults: self.faults,
            virtual_ns: self.now,
            coverage: self.coverage,
            linear,
            trace: self.trace,
        }
    }

    fn run_until(&mut self, end: Time, done: impl Fn(&mut World) -> bool) {
        while self.violation.is_none() {
            if self.queue.next_at().is_none_or(|at| at > end) || (self.events.is_multiple_of(64) && done(self)) {
                return;
            }
            let Some((at, number, ev)) = self.queue.pop() else { return };
            self.now = self.now.max(at);
            self.events += 1;
            if self.events > MAX_EVENTS {
                let why = self.why_not_quiet();
                return self.fail(Rule::Liveness, format!("{MAX_EVENTS} events and no end: something goes in circles: {why}"));
            }
            self.mix(at);
            self.mix(number);
            self.handle(ev);
        }
    }

    fn handle(&mut self, ev: Ev) {
        if let Some(until) = self.paused_until(&ev) {
            return self.at(until, ev);
        }
        match ev {
            Ev::Store { node, slot, opening } => self.on_store(node, slot, opening),
            Ev::Tick { node, slot, opening } => self.on_tick(node, slot, opening),
            Ev::Pump { conn, lane } => self.on_pump(conn, lane),
            Ev::Connect { from, to, process } => self.on_connect(from, to, process),
            Ev::Connected { conn, from, to, process } => self.on_connected(conn, from, to, process),
            Ev::Notice { conn, opener } => self.on_notice(conn, opener),
            Ev::Beat { node, process } => self.on_beat(node, process),
            Ev::Register { node, request } => self.on_register(node, &request),
            Ev::Registered { node, process, reply } => self.on_registered(node, process, &reply),
            Ev::Heartbeat { node, process, sent, openings, request } => {
                self.on_heartbeat(node, process, sent, openings, &request)
            }
            Ev::Granted { node, process, sent, openings, reply } => self.on_granted(node, process, sent, &openings, &reply),
            Ev::Route { node, process, shard, routing } => self.on_route(node, process, shard, &routing),
            Ev::Lease { node, slot, opening, until, routing } => self.on_lease(node, slot, opening, until, routing),
            Ev::Start { node } => self.start_process(node),
            Ev::End { node, process } => self.end_process(node, process),
            Ev::Reopen { node, slot, process } => self.reopen(node, slot, process),
            Ev::ManagerTick => self.on_manager_tick(),
            Ev::ManagerStart => self.on_manager_start(),
            Ev::ManagerDeposed => self.depose_manager(),
            Ev::Save { term, state } => self.on_save(term, &state),
            Ev::Lane { client, lane, call } => self.on_lane(client, lane, call),
            Ev::Request { to, request } => self.on_request(to, *request),
            Ev::Answer { answer } => self.on_answer(*answer),
            Ev::ClientRouting { client, routing } => self.on_client_routing(client, routing),
            Ev::Fault => self.on_fault(),
            Ev::Break { conn } => self.break_conn(conn),
            Ev::Blackout => self.black_out(),
            Ev::Fall { node, power } => self.fall(node, power),
            Ev::PutBack { node, slot } => self.put_disk_back(node, slot),
            Ev::Heal { from, to } => self.heal(from, to),
            Ev::Room { node, slot } => self.give_room(node, slot),
        }
    }

    /// Schedules an event.
    fn at(&mut self, at: Time, ev: Ev) {
        self.number += 1;
        self.queue.insert(at.max(self.now), self.number, ev);
    }

    /// Schedules an event after a random delay around `mean`.
    fn after(&mut self, mean: Time, ev: Ev) {
        let at = self.now + self.rng.delay(mean);
        self.at(at, ev);
    }

    fn mix(&mut self, n: u64) {
        self.hash = (self.hash ^ n).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    }

    /// A line of the trace; made only if one is kept.
    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
            self.trace.push(format!("{:>10.3} ms  {}", self.now as f64 / 1e6, line()));
        }
    }

    /// The first violation ends the run.
    fn fail(&mut self, rule: Rule, what: String) {
        self.note(|| format!("VIOLATION {rule}: {what}"));
        self.violation.get_or_insert(rule.broken(format!("at {:.3} ms: {what}", self.now as f64 / 1e6)));
    }

    fn fail_if(&mut self, found: Result<(), Violation>) {
        if let Err(Violation { rule, text }) = found {
            self.fail(rule, text);
        }
    }
}

/// Runs a seed that fails with ever fewer of its faults, as long as the same promise is broken: first halves of them are
/// dropped, at last single ones. Gives the numbers of those that are left, and the run with its trace; `None` if it holds.
pub fn shrink(seed: u64, ops: u64) -> Option<(BTreeSet<u64>, Outcome)> {
    let run = |only: Option<&BTreeSet<u64>>, tracing| {
        let mut world = World::new(seed, ops, tracing);
        world.only = only.cloned();
        world.run()
    };
    let whole = run(None, false);
    let rule = whole.violation.as_ref()?.rule;
    let fails = |left: &BTreeSet<u64>| run(Some(left), false).violation.is_some_and(|v| v.rule == rule);
    let mut left: BTreeSet<u64> = (0..whole.faults).collect();
    let mut step = left.len().div_ceil(2);
    while step > 0 {
        for part in left.clone().into_iter().collect::<Vec<_>>().chunks(step) {
            let fewer: BTreeSet<u64> = left.iter().copied().filter(|n| !part.contains(n)).collect();
            if fails(&fewer) {
                left = fewer;
            }
        }
        step /= 2;
    }
    let outcome = run(Some(&left), true);
    Some((left, outcome))
}

/// Runs one seed.
pub fn run(seed: u64, ops: u64, tracing: bool) -> Outcome {
    World::new(seed, ops, tracing).run()
}
