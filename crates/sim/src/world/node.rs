//! Nodes: processes with targets, their lives, and the driver that carries out what a state machine commands.
//!
//! The rules of a node are those of the real one: a target that has just been opened acts on no routing older than the
//! first grant that named its opening; leases and routing reach each shard when they like.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use catena_chain::{Command, Event, Replica, RequestId};
use catena_engine::{Background, StoreKind};
use catena_types::{ChainVer, ChunkKey, Code, Done, LocalState, PublicState, Routing, Tag, TargetId, Time, Ver};
use catena_wire::manager::{HeartbeatReply, HeartbeatRequest, RegisterReply, RegisterRequest, TargetOffer, TargetReport};
use catena_wire::peer::Body;

use super::client::Request;
use super::disk::{Left, Medium, Store};
use super::ledger::Recorded;
use super::manager::MANAGER;
use super::net::DOWN;
use super::rot::Rot;
use super::{Ev, MS, Rule, Violation, World};
use crate::mutation::{Mutation, is};

pub(super) struct Node {
    pub(super) slots: Vec<Slot>,
    pub(super) process: Option<Process>,
    /// Client requests that wait here.
    pub(super) requests: BTreeMap<RequestId, Request>,
    pub(super) paused_until: Time,
    /// Its clock runs by so many parts in a million faster, and started at this number.
    drift: i64,
    offset: Time,
    /// When its loop came round last, and the time before.
    turned: (Time, Time),
    /// Until then its heartbeats and their answers are late, and overtake each other.
    pub(super) late_until: Time,
}

pub(super) struct Process {
    pub(super) number: u64,
    pub(super) incarnation: u64,
    /// Heartbeats so far, and when the next is due: whatever else was meant to bring one does not.
    beat: u64,
    beat_due: Time,
    stopping: bool,
    /// Newest routing each shard has.
    pub(super) routing: Vec<Option<Arc<Routing>>>,
    /// Shards that hear of no routing until then.
    pub(super) deaf: Vec<Time>,
}

/// A target of a node.
pub(super) struct Slot {
    pub(super) shard: u32,
    pub(super) uuid: [u8; 16],
    /// 0 until registered.
    pub(super) id: TargetId,
    pub(super) medium: Medium,
    pub(super) open: Option<Open>,
    open_count: u64,
    /// What is rotten on its disk.
    pub(super) rot: Rot,
    /// What was on the disk when it was closed last.
    left: Option<Left>,
    /// It has rotted at some time.
    pub(super) rotted: bool,
    /// Its reads have been corrupt at some time: what it calls damaged need not be.
    pub(super) noisy: bool,
    /// Chunks it was told of that are lost elsewhere, too: it calls them damaged.
    lost: BTreeSet<ChunkKey>,
    /// Newest chain version that it has adopted.
    pub(super) adopted: ChainVer,
    /// The disk it should have, while an empty one is in its place.
    spare: Option<Spare>,
}

/// A disk that was taken out.
pub(super) struct Spare {
    pub(super) medium: Medium,
    pub(super) uuid: [u8; 16],
    pub(super) rot: Rot,
}

/// An open target.
pub(super) struct Open {
    pub(super) replica: Replica<Bytes>,
    pub(super) store: Store,
    /// Unique among all openings of the world.
    pub(super) opening: u64,
    /// Routing version of the first grant that named this opening.
    pub(super) gate: Option<u64>,
    wake: Time,
    tick: Time,
    /// Its place under the chain version it has adopted, and what was forwarded to it, under which chain version.
    place: Option<PublicState>,
    forwarded: BTreeSet<(ChainVer, ChunkKey, Ver, Tag)>,
}

impl Slot {
    /// A slot with that disk in it, which the manager does not know.
    pub(super) fn new(shard: u32, disk: Spare) -> Slot {
        let Spare { medium, uuid, rot } = disk;
        let (open, left, spare) = (None, None, None);
        Slot {
            shard,
            uuid,
            id: 0,
            medium,
            open,
            open_count: 0,
            rot,
            left,
            rotted: false,
            noisy: false,
            lost: BTreeSet::new(),
            adopted: 0,
            spare,
        }
    }

    /// What a power cut now would leave at worst, of an open target.
    pub(super) fn worst(&self) -> Option<Result<Left, String>> {
        Some(self.open.as_ref()?.store.worst().look(&self.rot))
    }

    /// Whether it may call a chunk damaged: its disk has rotted, its reads have been corrupt or failed, or it got no bytes.
    fn may_be_damaged(&self, key: &ChunkKey) -> bool {
        self.rotted
            || self.lost.contains(key)
            || self.noisy
            || self.open.as_ref().is_some_and(|open| open.store.read_errors() > 0)
    }

    /// Whether an empty disk is in the place of its own.
    pub(super) fn has_other_disk(&self) -> bool {
        self.spare.is_some()
    }

    fn look(&self) -> Result<Left, String> {
        self.medium.look(&self.rot)
    }

    /// Notes what an event lets the target do, for the checks behind it.
    fn expect(&mut self, event: &Event<Bytes>) {
        let Some(open) = &mut self.open else { return };
        match event {
            Event::Routing { chain, .. } if chain.chain_ver > open.replica.chain_ver() => {
                open.place = chain.state_of(self.id);
                self.adopted = self.adopted.max(chain.chain_ver);
            }
            Event::Peer { msg, .. } => {
                if let Some(Body::Forward(f)) = &msg.body
                    && let Some(key) = ChunkKey::new(&f.key)
                {
                    open.forwarded.insert((msg.chain_ver, key, f.ver, f.tag));
                }
                if let Some(Body::SyncLost(lost)) = &msg.body {
                    self.lost.extend(ChunkKey::new(&lost.key));
                }
            }
            _ => {}
        }
    }
}

impl Open {
    /// A commit that a target outside SERVING had no right to.
    fn unforwarded(&self, commits: &[(ChunkKey, Ver, Tag)]) -> Option<Violation> {
        let present = self.replica.chain_ver();
        let known = |(key, ver, tag): &&(ChunkKey, Ver, Tag)| self.forwarded.contains(&(present, key.clone(), *ver, *tag));
        let wrong = commits.iter().find(|c| !known(c));
        let (key, ver, tag) = wrong.filter(|_| self.place != Some(PublicState::Serving))?;
        let place = self.place;
        Some(Rule::SinkCommits.broken(format!("{place:?}, commits {key} version {ver} of {tag}, which was not forwarded to it")))
    }
}

impl Node {
    /// The node's own clock.
    pub(super) fn local(&self, now: Time) -> Time {
        self.offset + scale(now, self.pace(), 1_000_000)
    }

    /// The time with which an event is judged: read after it came.
    fn turn(&mut self, now: Time) -> Time {
        if now > self.turned.0 {
            self.turned = (now, self.turned.0);
        }
        self.local(if is(Mutation::OldClock) { self.turned.1 } else { now })
    }

    fn global(&self, local: Time) -> Time {
        scale(local.saturating_sub(self.offset), 1_000_000, self.pace()) + 1
    }

    /// How far its clock runs in a million.
    fn pace(&self) -> u64 {
        1_000_000u64.saturating_add_signed(self.drift)
    }

    /// Number of the running process.
    pub(super) fn process(&self) -> Option<u64> {
        self.process.as_ref().map(|p| p.number)
    }

    /// Newest routing that a shard has.
    pub(super) fn routing_of(&self, shard: u32) -> Option<&Routing> {
        self.process.as_ref()?.routing[shard as usize].as_deref()
    }

    pub(super) fn is(&self, process: u64) -> bool {
        self.process() == Some(process)
    }
}

/// `n * to / of`, where the product need not fit.
fn scale(n: Time, to: u64, of: u64) -> Time {
    n / of * to + n % of * to / of
}

impl World {
    pub(super) fn build_nodes(&mut self) {
        for n in 0..self.plan.nodes {
            let mut slots = Vec::new();
            for t in 0..self.plan.targets {
                let mut uuid = [0; 16];
                (uuid[0], uuid[1]) = (n as u8 + 1, t as u8 + 1);
                let real = self.plan.real_one_in > 0 && self.rng.below(self.plan.real_one_in) == 0;
                let kind = if self.rng.below(self.plan.in_place_one_in) == 0 { StoreKind::InPlace } else { StoreKind::Cow };
                match Medium::format(real.then_some(kind), uuid, &self.plan, &self.arena) {
                    Ok(medium) => {
                        let shard = t as u32 % self.plan.shards;
                        slots.push(Slot::new(shard, Spare { medium, uuid, rot: Rot::default() }));
                    }
                    Err(e) => self.fail(Rule::Space, e),
                }
            }
            let drift = self.rng.between(0, 60_000) as i64 - 30_000;
            let offset = self.rng.below(1 << 40);
            self.nodes.push(Node {
                slots,
                process: None,
                requests: BTreeMap::new(),
                paused_until: 0,
                drift,
                offset,
                turned: (0, 0),
                late_until: 0,
            });
        }
    }

    pub(super) fn start(&mut self) {
        self.start_manager();
        self.at(self.now, Ev::ManagerTick);
        for node in 0..self.nodes.len() {
            self.after(20 * MS, Ev::Start { node });
        }
        for client in 0..self.clients.len() {
            for lane in 0..self.clients[client].lanes.len() {
                self.after(100 * MS, Ev::Lane { client, lane, call: 0 });
            }
        }
    }

    /// Until when the node an event is for stands still.
    pub(super) fn paused_until(&self, ev: &Ev) -> Option<Time> {
        let node = match ev {
            Ev::Store { node, .. }
            | Ev::Tick { node, .. }
            | Ev::Beat { node, .. }
            | Ev::Registered { node, .. }
            | Ev::Granted { node, .. }
            | Ev::Route { node, .. }
            | Ev::Lease { node, .. }
            | Ev::Reopen { node, .. } => *node,
            Ev::Pump { conn, lane } => {
                let conn = self.net.conns.get(conn)?;
                if *lane == DOWN { conn.acceptor.0 } else { conn.opener.0 }
            }
            Ev::Connect { from, .. } => from.0,
            Ev::Request { to, .. } => self.slot_of(*to)?.0,
            _ => return None,
        };
        Some(self.nodes[node].paused_until).filter(|&until| until > self.now)
    }

    /// The open target of that id.
    pub(super) fn slot_of(&self, id: TargetId) -> Option<(usize, usize)> {
        self.nodes.iter().enumerate().find_map(|(n, node)| {
            let slot = node.slots.iter().position(|s| s.id == id && s.open.is_some())?;
            Some((n, slot))
        })
    }

    pub(super) fn start_process(&mut self, node: usize) {
        if self.nodes[node].process.is_some() || self.losses.node == Some(node) {
            return;
        }
        let number = self.rng.bits() | 1;
        let routing = vec![None; self.plan.shards as usize];
        self.nodes[node].process = Some(Process {
            number,
            incarnation: 0,
            beat: 0,
            beat_due: 0,
            stopping: false,
            routing,
            deaf: vec![0; self.plan.shards as usize],
        });
        self.note(|| format!("node {} starts", node + 1));
        for slot in 0..self.nodes[node].slots.len() {
            self.nodes[node].slots[slot].open_count = 0;
            self.open_slot(node, slot);
        }
        self.beat_at(node, self.now);
    }

    /// The next heartbeat of a node is sent then, and none before.
    fn beat_at(&mut self, node: usize, at: Time) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.beat_due = at;
        let process = process.number;
        self.at(at, Ev::Beat { node, process });
    }

    fn open_slot(&mut self, node: usize, slot: usize) {
        self.spare_the_journals_end(node, slot);
        self.opening += 1;
        let (opening, disk, config) = (self.opening, self.plan.disk, self.plan.chain.clone());
        let rng = self.rng.fork();
        let s = &mut self.nodes[node].slots[slot];
        match s.medium.open(disk, rng) {
            Ok(store) => {
                self.coverage.checked(Rule::Space);
                s.open_count += 1;
                let replica = Replica::new(s.id, config);
                let (wake, tick) = (Time::MAX, Time::MAX);
                s.open = Some(Open { replica, store, opening, gate: None, wake, tick, place: None, forwarded: BTreeSet::new() });
                self.set_room(node, slot);
                self.set_background(node, slot);
            }
            Err(e) => self.fail(Rule::Space, e),
        }
    }

    /// Tells a store what to do beside; once the faults have stopped, it is to find all rot that is left.
    pub(super) fn set_background(&mut self, node: usize, slot: usize) {
        let last = self.faults_stopped;
        let all = Background { scrub_rate: 1 << 20, scrub_pause: 20 * MS, ..self.plan.background };
        let background = if last { all } else { self.plan.background };
        if let Some(open) = &mut self.nodes[node].slots[slot].open {
            open.store.set_background(background, last);
            self.kick(node, slot);
        }
    }

    /// A target is closed, and its medium left as `how` says.
    pub(super) fn close_slot(&mut self, node: usize, slot: usize, how: fn(&mut Store) -> Medium) {
        let s = &mut self.nodes[node].slots[slot];
        if let Some(mut open) = s.open.take() {
            s.medium = how(&mut open.store);
            let found = s.look();
            self.coverage.replica(open.replica.counters());
            self.keep_left(node, slot, found);
        }
    }

    /// What a closed disk holds is good, to the byte, and kept for the checks.
    fn keep_left(&mut self, node: usize, slot: usize, found: Result<Left, String>) {
        match found {
            Err(e) => self.fail(Rule::Space, e),
            Ok(_) if self.nodes[node].slots[slot].spare.is_some() => {}
            Ok(left) => {
                self.check_left(node, slot, &left);
                self.nodes[node].slots[slot].left = Some(left);
            }
        }
    }

    /// Invariant 11 of a copy of a disk that has never rotted: every version is there, byte for byte.
    pub(super) fn check_left(&mut self, node: usize, slot: usize, left: &Left) {
        let s = &self.nodes[node].slots[slot];
        for (key, (ver, tag), bytes) in left.bytes.iter().filter(|_| !s.rotted) {
            let good =
                match bytes {
                    Some(bytes) => self.ledger.compare(key, (*ver, Some(*tag)), 0, bytes),
                    None if s.lost.contains(key) => Ok(()),
                    None => Err(Rule::GoodBytes
                        .broken(format!("a copy of the disk of target {} has bad bytes as {key} version {ver}", s.id))),
                };
            if let Err(Violation { rule, text }) = good {
                return self.fail(rule, text);
            }
        }
    }

    /// The slot of a target, open or not.
    fn slot_with(&self, id: TargetId) -> Option<&Slot> {
        self.nodes.iter().flat_map(|n| &n.slots).find(|s| s.id == id)
    }

    /// What was on the disk of a target when it was closed.
    pub(super) fn left_by(&self, id: TargetId) -> Option<&Left> {
        self.slot_with(id)?.left.as_ref()
    }

    /// Newest chain version that a target has adopted, though its disk may be lost since.
    pub(super) fn adopted_by(&self, id: TargetId) -> Option<ChainVer> {
        let lost = self.losses.adopted.filter(|(lost, _)| *lost == id);
        self.slot_with(id).map(|s| s.adopted).or(lost.map(|(_, ver)| ver))
    }

    /// Whether it is known to the manager who this is: with another disk in its place, a target is nobody until then.
    pub(super) fn is_somebody(&self, node: usize, slot: usize) -> bool {
        let registered = self.nodes[node].process.as_ref().is_some_and(|p| p.incarnation != 0);
        registered || self.nodes[node].slots[slot].spare.is_none()
    }

    /// A node ends and starts with an empty disk in place of one of its own.
    pub(super) fn swap_disk(&mut self, node: usize, slot: usize) {
        if self.nodes[node].slots[slot].spare.is_some() || self.nodes[node].slots[slot].id == 0 {
            return;
        }
        self.kill(node, Store::kill);
        let mut uuid = self.nodes[node].slots[slot].uuid;
        uuid[15] += 1;
        let Ok(medium) = Medium::format(None, uuid, &self.plan, &self.arena) else { return };
        let s = &mut self.nodes[node].slots[slot];
        let (medium, uuid) = (std::mem::replace(&mut s.medium, medium), std::mem::replace(&mut s.uuid, uuid));
        s.spare = Some(Spare { medium, uuid, rot: std::mem::take(&mut s.rot) });
        self.after(20 * MS, Ev::Start { node });
    }

    /// The disk is put back.
    pub(super) fn put_disk_back(&mut self, node: usize, slot: usize) {
        if self.nodes[node].slots[slot].spare.is_none() {
            return;
        }
        self.kill(node, Store::kill);
        let s = &mut self.nodes[node].slots[slot];
        if let Some(Spare { medium, uuid, rot }) = s.spare.take() {
            (s.medium, s.uuid, s.rot) = (medium, uuid, rot);
        }
        let found = self.nodes[node].slots[slot].look();
        self.keep_left(node, slot, found);
        let routing = self.manager.routing();
        self.spare_the_last(&routing);
        self.after(20 * MS, Ev::Start { node });
    }

    /// The process ends at once.
    pub(super) fn kill(&mut self, node: usize, how: fn(&mut Store) -> Medium) {
        if self.nodes[node].process.take().is_none() {
            return;
        }
        self.crashes += 1;
        for slot in 0..self.nodes[node].slots.len() {
            self.close_slot(node, slot, how);
        }
        self.nodes[node].requests.clear();
        self.nodes[node].paused_until = 0;
        for conn in self.net.forget(node) {
            let opener_is_gone = self.net.conns.get(&conn).is_some_and(|c| c.opener.0 == node);
            self.after(self.plan.net * 4, Ev::Notice { conn, opener: !opener_is_gone });
        }
        self.net.sweep();
    }

    /// Stops serving, says so, and ends a little later.
    pub(super) fn stop_node(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut().filter(|p| !p.stopping) else { return };
        process.stopping = true;
        let number = process.number;
        for slot in 0..self.nodes[node].slots.len() {
            self.give(node, slot, Event::Stop);
        }
        self.beat_at(node, self.now);
        self.after(50 * MS, Ev::End { node, process: number });
    }

    pub(super) fn end_process(&mut self, node: usize, process: u64) {
        if self.nodes[node].is(process) {
            self.note(|| format!("node {} ends cleanly", node + 1));
            self.kill(node, Store::close);
            self.crashes -= 1;
            self.after(300 * MS, Ev::Start { node });
        }
    }

    pub(super) fn reopen(&mut self, node: usize, slot: usize, process: u64) {
        if self.nodes[node].is(process) && self.nodes[node].slots[slot].open.is_none() {
            self.open_slot(node, slot);
        }
    }

    /// Gives a target an event and carries out what it commands.
    pub(super) fn give(&mut self, node: usize, slot: usize, event: Event<Bytes>) {
        let local = self.nodes[node].turn(self.now);
        let id = self.nodes[node].slots[slot].id;
        self.note_event(id, &event);
        self.nodes[node].slots[slot].expect(&event);
        let s = &self.nodes[node].slots[slot];
        if let Event::Done(Done::Damaged { key, ver }) = &event
            && !s.may_be_damaged(key)
        {
            return self
                .fail(Rule::GoodBytes, format!("target {id} calls {key} version {ver} damaged, on a disk that never was"));
        }
        let Some(open) = &mut self.nodes[node].slots[slot].open else { return };
        let before = open.replica.counters();
        let (commits_before, odd_before) = (before.commits, before.protocol_errors);
        let mut out = Vec::new();
        let serving = open.replica.may_serve(local);
        let chunks = open.store.chunks_mut();
        let mut store = Recorded { store: chunks, ledger: &mut self.ledger, serving, committed: Vec::new(), broken: None };
        open.replica.handle(local, event, &mut store, &mut out);
        let (mut broken, commits) = (store.broken, store.committed);
        self.coverage.checked(Rule::StoreContract);
        commits.iter().for_each(|_| self.coverage.checked(if serving { Rule::Once } else { Rule::SinkCommits }));
        broken = broken.or_else(|| open.unforwarded(&commits));
        let committed = open.replica.counters().commits != commits_before;
        let odd = open.replica.counters().protocol_errors;
        if let Some(misuse) = open.store.misuse() {
            self.fail(Rule::StoreContract, format!("target {id}: {misuse}"));
        }
        if odd != odd_before {
            self.fail(Rule::Peers, format!("target {id} counts a protocol error"));
        }
        if let Some(Violation { rule, text }) = broken {
            self.fail(rule, format!("target {id}: {text}"));
        }
        self.mix(out.len() as u64 ^ odd << 16);
        for command in out {
            self.carry_out(node, slot, command);
        }
        self.kick(node, slot);
        self.check_after(node, slot, committed);
    }

    fn note_event(&mut self, id: TargetId, event: &Event<Bytes>) {
        let name = match event {
            Event::Routing { .. } => "event routing",
            Event::Lease { .. } => "event lease",
            Event::Update(_) => "event update",
            Event::Read(_) => "event read",
            Event::List(_) => "event list",
            Event::Peer { .. } => "event peer",
            Event::LinkUp { .. } => "event link up",
            Event::Done(_) => "event done",
            Event::Tick => "event tick",
            Event::Stop => "event stop",
        };
        self.coverage.hit(name);
        self.note(|| match event {
            Event::Peer { msg, .. } => format!("t{id} <- t{} v{} {:?}", msg.from, msg.chain_ver, msg.body),
            Event::Routing { version, chain } => format!("t{id} routing {version}, chain v{}", chain.chain_ver),
            Event::Update(u) => format!("t{id} update {} {:?} {} v{}", u.key, u.op, u.tag, u.chain_ver),
            Event::Read(r) => format!("t{id} read {} v{}", r.key, r.chain_ver),
            other => format!("t{id} {other:?}"),
        });
    }

    fn carry_out(&mut self, node: usize, slot: usize, command: Command<Bytes>) {
        match command {
            Command::Send { msg, payload } => {
                self.coverage.hit("command send");
                self.send(node, slot, (msg, payload));
            }
            Command::UpdateReply { request, reply } => self.reply_update(node, request, reply),
            Command::ReadReply { request, reply, payload } => self.reply_read(node, request, reply, payload),
            Command::ListReply { request, reply } => self.reply_list(node, request, reply),
            Command::Reopen { reason } => {
                let id = self.nodes[node].slots[slot].id;
                self.coverage.hit("command reopen");
                self.note(|| format!("t{id} wants to be opened anew: {reason}"));
                self.open_anew(node, slot);
            }
        }
    }

    /// Lets the store start what was asked of it, and schedules its next moments.
    fn kick(&mut self, node: usize, slot: usize) {
        let (now, global) = (self.now, &self.nodes[node]);
        let tick_at = global.slots[slot].open.as_ref().and_then(|o| o.replica.next_wake()).map(|t| global.global(t));
        let Some(open) = &mut self.nodes[node].slots[slot].open else { return };
        let opening = open.opening;
        let wake = open.store.kick(now).filter(|&at| at < open.wake);
        let tick = tick_at.filter(|&at| at < open.tick);
        if let Some(at) = wake {
            open.wake = at;
        }
        if let Some(at) = tick {
            open.tick = at;
        }
        if let Some(at) = wake {
            self.at(at, Ev::Store { node, slot, opening });
        }
        if let Some(at) = tick {
            self.at(at, Ev::Tick { node, slot, opening });
        }
    }

    fn open_at(&mut self, node: usize, slot: usize, opening: u64) -> Option<&mut Open> {
        self.nodes[node].slots[slot].open.as_mut().filter(|o| o.opening == opening)
    }

    pub(super) fn on_store(&mut self, node: usize, slot: usize, opening: u64) {
        let now = self.now;
        // One that was overtaken by an earlier wake has nothing to do.
        let Some(open) = self.open_at(node, slot, opening).filter(|o| o.wake <= now) else { return };
        open.wake = Time::MAX;
        let mut done = Vec::new();
        open.store.poll(now, &mut done);
        let bad = open.store.take_bad();
        self.coverage.add("rot found by the scrub", bad);
        for done in done {
            if self.open_at(node, slot, opening).is_some() {
                self.give(node, slot, Event::Done(done));
            }
        }
        if self.open_at(node, slot, opening).is_some() {
            self.kick(node, slot);
        }
    }

    pub(super) fn on_tick(&mut self, node: usize, slot: usize, opening: u64) {
        let now = self.now;
        let Some(open) = self.open_at(node, slot, opening).filter(|o| o.tick <= now) else { return };
        open.tick = Time::MAX;
        self.give(node, slot, Event::Tick);
    }

    pub(super) fn on_beat(&mut self, node: usize, process: u64) {
        let due = |p: &&Process| p.number == process && p.beat_due <= self.now;
        let Some(incarnation) = self.nodes[node].process.as_ref().filter(due).map(|p| p.incarnation) else { return };
        self.beat_at(node, self.now + Time::from(self.plan.heartbeat_ms) * MS);
        if self.blocked(node, MANAGER) {
            return;
        }
        if incarnation == 0 {
            let request = Box::new(self.registration(node, process));
            return self.after(self.plan.net, Ev::Register { node, request });
        }
        let sent = self.nodes[node].local(self.now);
        let (request, openings) = self.heartbeat(node);
        self.coverage.hit("heartbeat sent");
        let delay = self.beat_delay(node);
        self.at(self.now + delay, Ev::Heartbeat { node, process, sent, openings, request: Box::new(request) });
    }

    /// How long a heartbeat or its answer is on its way.
    pub(super) fn beat_delay(&mut self, node: usize) -> Time {
        let late = self.nodes[node].late_until > self.now && self.rng.chance(1, 2);
        let extra = if late { self.rng.below(u64::from(self.plan.lease_ms) * 3 / 2) * MS } else { 0 };
        self.rng.delay(self.plan.net) + extra
    }

    /// A shard hears of no routing for some time.
    pub(super) fn deafen(&mut self, node: usize, until: Time) {
        let shard = self.rng.below(u64::from(self.plan.shards)) as usize;
        if let Some(process) = &mut self.nodes[node].process {
            process.deaf[shard] = until;
        }
    }

    fn registration(&self, node: usize, process: u64) -> RegisterRequest {
        let offer = |s: &Slot| {
            let space = s.open.as_ref().map(|o| o.store.chunks().space()).unwrap_or_default();
            // Nobody copies a disk here: a disk has one lock for good.
            let lock = s.uuid.iter().fold(1, |lock: u64, &byte| lock.wrapping_mul(257).wrapping_add(u64::from(byte)));
            TargetOffer { uuid: s.uuid.to_vec(), target: s.id, shard: s.shard, space, lock }
        };
        let n = &self.nodes[node];
        let known = n.slots.iter().any(|s| s.id != 0);
        RegisterRequest {
            node: node as u32 + 1,
            cluster: if known { self.manager.routing().cluster } else { 0 },
            process,
            shard_addrs: (0..self.plan.shards).map(|s| format!("{}:{s}", node + 1)).collect(),
            targets: n.slots.iter().map(offer).collect(),
            rack: String::new(),
        }
    }

    pub(super) fn heartbeat(&mut self, node: usize) -> (HeartbeatRequest, Vec<(usize, u64)>) {
        let mut targets = Vec::new();
        let mut openings = Vec::new();
        for (n, s) in self.nodes[node].slots.iter().enumerate() {
            let Some(open) = &s.open else { continue };
            let report = open.replica.report();
            openings.push((n, open.opening));
            targets.push(TargetReport {
                target: s.id,
                state: report.state as i32,
                chain_ver: report.chain_ver,
                chain: report.chain,
                open_count: s.open_count,
                space: open.store.chunks().space(),
                sync_failed: report.sync_failed,
                sync: report.sync,
                failed: report.failed,
                store: None,
                unreachable: self.unreachable(node, n),
            });
        }
        if targets.iter().any(|t| !t.unreachable.is_empty()) {
            self.coverage.hit("neighbour reported as unreachable");
        }
        let process = self.nodes[node].process.as_mut().expect("only a running process has a heartbeat");
        process.beat += 1;
        let routing = process.routing.iter().map(|r| r.as_ref().map_or(0, |r| r.version)).min().unwrap_or(0);
        let request =
            HeartbeatRequest { node: node as u32 + 1, incarnation: process.incarnation, seq: process.beat, targets, routing };
        (request, openings)
    }

    pub(super) fn on_registered(&mut self, node: usize, process: u64, reply: &RegisterReply) {
        let n = &mut self.nodes[node];
        let Some(p) = n.process.as_mut().filter(|p| p.number == process && p.incarnation == 0) else { return };
        if reply.failure.is_some() {
            return;
        }
        p.incarnation = reply.incarnation;
        for (slot, &id) in n.slots.iter_mut().zip(&reply.targets) {
            slot.id = id;
            if let Some(open) = &mut slot.open {
                open.replica.set_target(id);
            }
        }
        self.beat_at(node, self.now);
    }

    pub(super) fn on_granted(
        &mut self,
        node: usize,
        process: u64,
        sent: Time,
        openings: &[(usize, u64)],
        reply: &HeartbeatReply,
    ) {
        if !self.nodes[node].is(process) {
            return;
        }
        if let Some(failure) = &reply.failure {
            self.coverage.hit(format!("heartbeat {:?}", failure.code()));
            self.coverage.hit(format!("code {:?}", failure.code()));
            return self.obey(node, failure.code());
        }
        if let Some(routing) = &reply.routing {
            self.push_routing(node, &Arc::new(routing.clone()));
        }
        if let Some(delta) = &reply.delta {
            self.push_delta(node, delta);
        }
        if reply.lease_ms == 0 {
            return;
        }
        let sent = if is(Mutation::LeaseFromReceipt) { self.nodes[node].local(self.now) } else { sent };
        let until = sent + Time::from(reply.lease_ms) * MS;
        for &(slot, opening) in openings {
            if reply.except.contains(&self.nodes[node].slots[slot].id) {
                continue;
            }
            self.after(self.plan.net, Ev::Lease { node, slot, opening, until, routing: reply.routing_ver });
        }
    }

    /// What the refusal of a heartbeat asks for: another process is this node, or the manager does not know of this start.
    fn obey(&mut self, node: usize, code: Code) {
        if matches!(code, Code::DuplicateNode | Code::NotFound) {
            self.kill(node, Store::kill);
            self.after(100 * MS, Ev::Start { node });
        }
    }

    pub(super) fn on_lease(&mut self, node: usize, slot: usize, opening: u64, until: Time, routing: u64) {
        let Some(open) = self.open_at(node, slot, opening) else { return };
        if open.gate.is_none() {
            open.gate = Some(routing);
            self.apply_routing(node, slot);
        }
        self.give(node, slot, Event::Lease { until, routing });
    }

    /// Whether a target's disk has failed.
    pub(super) fn failed_slot(&self, node: usize) -> bool {
        let failed = |s: &Slot| s.open.as_ref().is_some_and(|o| o.replica.report().state == LocalState::Failed);
        self.nodes[node].slots.iter().any(failed)
    }
}
