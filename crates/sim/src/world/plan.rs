//! What a seed decides before anything happens: sizes, speeds, limits and which faults there are.

use catena_chain::Config;
use catena_engine::Background;
use catena_types::Time;

use super::MS;
use crate::rng::Rng;

/// See the module. Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes.
    pub nodes: usize,
    /// Shards of a node.
    pub shards: u32,
    /// Targets of a node.
    pub targets: usize,
    /// Replicas of a chain.
    pub replicas: u32,
    /// Different keys.
    pub keys: u64,
    /// Chunk size of each of them in bytes.
    pub chunk_size: u32,
    /// Clients.
    pub clients: usize,
    /// Operations in flight per client.
    pub lanes: usize,
    /// Pause between operations of a lane.
    pub think: Time,
    /// How long a client waits for an operation.
    pub patience: Time,
    /// How long a client waits for one answer.
    pub attempt: Time,
    /// Lease in milliseconds.
    pub lease_ms: u32,
    /// How long a connection waits for an acknowledgement, and a peer may be without one before that is reported.
    pub silence: Time,
    /// Between heartbeats in milliseconds.
    pub heartbeat_ms: u32,
    /// Mean delay of the network.
    pub net: Time,
    /// Mean time of a flush.
    pub disk: Time,
    /// Mean time of a write of the manager's store.
    pub store: Time,
    /// Limits of the state machines.
    pub chain: Config,
    /// One of so many media is that of the real engine; 0: none.
    pub real_one_in: u64,
    /// One of so many of these keeps chunks in place.
    pub in_place_one_in: u64,
    /// The node whose disks rot; `None`: those of all nodes, until the faults stop.
    pub rotting: Option<usize>,
    /// What the real engine does beside.
    pub background: Background,
    /// Data blocks of the real engine.
    pub data_blocks: u64,
    /// Journal of the real engine in blocks.
    pub journal_blocks: u64,
    /// Length of the phase with faults.
    pub duration: Time,
    /// Within which everything must be well after it.
    pub liveness_bound: Time,
    /// Mean time between faults; 0: none.
    pub fault_every: Time,
    /// Space comes and goes all the time.
    pub tight: bool,
    /// Of so many requests in a hundred the connection stalls.
    pub stall_in_100: u64,
    /// A link breaks behind one of so many frames; 0: never.
    pub break_one_in: u64,
    /// The step of the protocol that is struck as it is taken.
    pub strike: Option<Step>,
    /// Targets join while their predecessor hears of nothing.
    pub late_joins: bool,
    /// The store takes its time over joins, and whoever joins hears late of what follows.
    pub slow_joins: bool,
    /// Refusals reach clients behind the attempts that follow them.
    pub late_refusals: bool,
    /// Weight of each kind of fault, see [`super::faults::KINDS`].
    pub weights: Vec<u64>,
    /// Targets of each node that are in no chain at first.
    pub spare: u32,
    /// Time after which a target that is out is replaced, in milliseconds.
    pub replace_after_ms: u64,
    /// Most replicas that move at a time.
    pub max_moves: u32,
}

/// A step of the protocol: a message of this kind is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The end of a resync.
    SyncDone,
    /// A definitive reject.
    Reject,
    /// A release.
    Release,
    /// The reply of one that has committed.
    Reply,
    /// A predecessor's word that it is not the tail.
    Confirm,
    /// A client is told that an update it has sent more than once was refused.
    Refusal,
}

impl Step {
    /// What a plan draws from.
    const PICK: [Option<Step>; 10] = {
        use Step::*;
        [None, None, None, Some(SyncDone), Some(Reject), Some(Reject), Some(Release), Some(Reply), Some(Confirm), Some(Refusal)]
    };
}

impl Plan {
    /// Draws the plan of a world of about `ops` operations.
    pub fn draw(rng: &mut Rng, ops: u64) -> Plan {
        let replicas = *rng.pick(&[2, 3, 3, 3]);
        let nodes = replicas as usize + rng.below(2) as usize;
        let lease_ms = *rng.pick(&[200, 300, 600]);
        let clients = rng.between(2, 4) as usize;
        let load = rng.between(1, 3) as usize;
        let think = rng.between(2, 40) * MS;
        let duration = (2 * ops * think / (clients * load) as u64).clamp(1000 * MS, 30_000 * MS);
        let net = *rng.pick(&[50_000, 200_000, MS, 5 * MS]);
        let kinds = &super::faults::KINDS[..super::faults::MOVING.start];
        let mut weights: Vec<u64> = kinds.iter().map(|_| if rng.chance(1, 3) { 0 } else { rng.between(1, 6) }).collect();
        weights.resize(super::faults::KINDS.len(), 0);
        if rng.chance(1, 3) {
            // Most of it hits what no chunk uses any more.
            weights[super::faults::ROT] = 40;
        }
        let background = Plan::draw_background(rng);
        let (keys, chunk_size) = (rng.between(1, 6), *rng.pick(&[4096, 8192, 16384, 32768]));
        // What every key needs twice over, and a little: less would never be enough.
        let least = 3 * keys * u64::from(chunk_size / 4096);
        let mut plan = Plan {
            nodes,
            shards: rng.between(1, 2) as u32,
            targets: rng.between(1, 2) as usize,
            replicas,
            keys,
            chunk_size,
            clients,
            // Busier worlds, and not shorter ones.
            lanes: [1, 3, 6][load - 1],
            think,
            patience: rng.between(200, 4000) * MS,
            attempt: rng.between(50, 800) * MS,
            lease_ms,
            silence: u64::from(lease_ms) * MS / 2,
            heartbeat_ms: lease_ms / *rng.pick(&[5, 5, 10]),
            net,
            disk: *rng.pick(&[100_000, MS, 5 * MS, 30 * MS]),
            store: *rng.pick(&[10_000, MS, 20 * MS]),
            chain: Plan::draw_chain(rng),
            real_one_in: *rng.pick(&[0, 0, 1, 2]),
            in_place_one_in: *rng.pick(&[1, 2, 1000]),
            rotting: if rng.chance(1, 5) { None } else { Some(rng.below(nodes as u64) as usize) },
            background,
            data_blocks: (*rng.pick(&[512, 64, 32])).max(least),
            journal_blocks: *rng.pick(&[16, 32, 128]),
            duration,
            liveness_bound: 400_000 * MS,
            fault_every: if rng.chance(1, 12) { 0 } else { rng.between(30, 600) * MS },
            tight: rng.chance(1, 4),
            stall_in_100: *rng.pick(&[2, 2, 15]),
            break_one_in: *rng.pick(&[0, 0, 300, 60]),
            strike: *rng.pick(&Step::PICK),
            late_joins: false,
            slow_joins: false,
            late_refusals: false,
            weights,
            spare: 0,
            replace_after_ms: catena_cluster::state::REPLACE_AFTER_MS,
            max_moves: catena_cluster::state::MAX_MOVES,
        };
        // Of numbers of their own, so that the other plans stay as they were.
        let mut own = Rng::new(rng.clone().bits());
        plan.draw_moves(&mut own);
        plan.draw_rare(&mut own, (2 * keys + 1) * u64::from(chunk_size / 4096));
        plan
    }

    fn draw_background(rng: &mut Rng) -> Background {
        Background {
            scrub_rate: if rng.chance(1, 2) { 0 } else { rng.between(20_000, 2_000_000) },
            scrub_pause: rng.between(1, 500) * MS,
            compact_rate: *rng.pick(&[0, 32 << 20]),
            punch_after: *rng.pick(&[None, Some(MS), Some(300 * MS), Some(30_000 * MS)]),
            // Writes to blocks that nobody has: the engine crashes among them in tests of its own.
            prepare: 0,
        }
    }

    fn draw_chain(rng: &mut Rng) -> Config {
        Config {
            query_retry: rng.between(5, 200) * MS,
            page_chunks: rng.between(1, 3) as usize,
            sync_window: rng.between(1, 3) as usize,
            sync_bytes: u64::MAX,
            sync_beside: 0,
            sync_calm: 0,
            sync_rate: *rng.pick(&[0, 0, 50_000, 2_000_000]),
            // The end of a run demands everything whole: what a disk refuses for a while must not be lost.
            unreadable_tries: 1000,
            unreadable_retry: 20 * MS,
            // Requests are on their way for up to three seconds.
            session_ttl: *rng.pick(&[0, 4500 * MS, 86_400_000 * MS]),
            forward_window: *rng.pick(&[1, 100, 10_000, 64 << 20]),
            session_batch: rng.between(1, 3) as usize,
            repair_window: rng.between(1, 3) as usize,
            max_damaged: if rng.chance(1, 8) { rng.between(2, 4) } else { 1000 },
        }
    }

    /// What few worlds have, since it leaves little room for anything else. `room`: blocks that hold every chunk twice and one of
    /// them three times. With less a sink may be full for good: committed versions and leftovers of stages fill the twice, and
    /// what a resync brings takes their place only when it is durable.
    fn draw_rare(&mut self, rng: &mut Rng, room: u64) {
        (self.late_joins, self.late_refusals, self.slow_joins) = (rng.chance(1, 4), rng.chance(1, 8), rng.chance(1, 8));
        if rng.chance(1, 8) {
            // What is given up is used again at once.
            self.data_blocks = room;
        }
        match rng.below(8) {
            0 => {
                // Sessions expire: no copy of a request is on its way for that long, and some channels wait for longer.
                self.chain.session_ttl = 1000 * MS;
                (self.patience, self.attempt) = (rng.between(200, 500) * MS, rng.between(50, 100) * MS);
                (self.net, self.think, self.stall_in_100) = (self.net.min(200_000), 40 * MS, 0);
                self.weights[super::faults::PAUSE] = 0;
                self.duration = self.duration.max(6000 * MS);
            }
            1 if self.spare == 0 => {
                // A chunk that is corrupt whenever it is read, for a while, is lost to a resync.
                self.chain.unreadable_tries = 1;
                self.weights[super::faults::ROT] = 0;
                self.weights[super::faults::CORRUPT_READS] = 40;
                self.weights[super::faults::DISK_SWAPPED] = 20;
            }
            2 => {
                // Targets forget what they held in memory again and again, and managers know of little.
                self.weights[super::faults::OPENED_ANEW] = 30;
                self.weights[super::faults::DEPOSED] += 5;
            }
            _ => {}
        }
    }

    /// Whether replicas move in this world: then there is somewhere to go, and disks and nodes may be lost for good.
    fn draw_moves(&mut self, rng: &mut Rng) {
        let moving = rng.chance(1, 3);
        let weight = |rng: &mut Rng| if moving { rng.between(0, 6) } else { 0 };
        super::faults::MOVING.for_each(|kind| self.weights[kind] = weight(rng));
        if moving {
            self.weights[super::faults::MOVING.start] += 10;
            self.nodes = self.nodes.max(self.replicas as usize + 1);
            (self.spare, self.targets) = (1, self.targets + 1);
            self.replace_after_ms = u64::from(self.lease_ms) * rng.between(2, 12);
            self.max_moves = rng.between(1, 3) as u32;
        }
    }
}
