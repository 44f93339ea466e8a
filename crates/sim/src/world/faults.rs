//! What goes wrong, when, and how it ends.

use catena_types::{Class, Code, Failure, TargetId};
use catena_wire::peer::Body;

use super::disk::Store;
use super::manager::MANAGER;
use super::net::{Frame, Link, Place};
use super::plan::Step;
use super::{Ev, MS, World};

/// The kinds of faults; a plan weighs each.
pub(super) const KINDS: [&str; 25] = [
    "kill",
    "power cut of one",
    "power cut of all",
    "stop",
    "pause",
    "link break",
    "link stall",
    "partition",
    "cut off from manager",
    "manager restart",
    "no room",
    "disk failure",
    "corrupt reads",
    "partition one way",
    "bit rot",
    "routing late",
    "heartbeats late",
    "disk swapped",
    "half isolated",
    "manager deposed",
    "store hangs",
    "operator",
    "disk replaced",
    "node gone",
    "target opened anew",
];

/// Those that make replicas move.
pub(super) const MOVING: std::ops::Range<usize> = 21..24;

/// Which of them is a pause, which are corrupt reads, and which an empty disk in the place of another.
pub(super) const PAUSE: usize = 4;
pub(super) const CORRUPT_READS: usize = 12;
pub(super) const DISK_SWAPPED: usize = 17;

/// Which of them is another manager, and which a target that forgets what it held in memory.
pub(super) const DEPOSED: usize = 19;
pub(super) const OPENED_ANEW: usize = 24;

/// Which of them is bit rot.
pub(super) const ROT: usize = 14;

impl World {
    /// Whether frames from one end do not reach the other.
    pub(super) fn blocked(&self, from: usize, to: usize) -> bool {
        self.net.blocked.contains(&(from, to))
    }

    pub(super) fn on_fault(&mut self) {
        if self.faults_stopped || self.plan.fault_every == 0 {
            return;
        }
        self.after(self.plan.fault_every, Ev::Fault);
        let total: u64 = self.plan.weights.iter().sum();
        if total == 0 {
            return;
        }
        let mut at = self.rng.below(total);
        let mut kind = 0;
        while at >= self.plan.weights[kind] {
            at -= self.plan.weights[kind];
            kind += 1;
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        // What a fault draws is its own, so that the run before the next is the same without it.
        let own = self.rng.fork();
        let number = self.faults;
        self.faults += 1;
        if self.only.as_ref().is_some_and(|only| !only.contains(&number)) {
            return;
        }
        self.coverage.hit(format!("fault {}", KINDS[kind]));
        self.note(|| format!("FAULT {number}: {} (node {})", KINDS[kind], node + 1));
        let world = std::mem::replace(&mut self.rng, own);
        self.strike(kind, node);
        self.rng = world;
    }

    fn strike(&mut self, kind: usize, node: usize) {
        let other = (node + 1 + self.rng.below(self.nodes.len() as u64 - 1) as usize) % self.nodes.len();
        match KINDS[kind] {
            "kill" => self.crash(node, Store::kill),
            "power cut of one" => self.crash(node, Store::crash),
            "power cut of all" => {
                self.black_out();
                if self.rng.chance(1, 2) {
                    self.stop_manager();
                    self.after(100 * MS, Ev::ManagerStart);
                }
            }
            "stop" => self.stop_node(node),
            "pause" => {
                let long = self.rng.between(10, u64::from(self.plan.lease_ms) * 3) * MS;
                self.nodes[node].paused_until = self.now + long;
            }
            "link break" => self.break_link(false),
            "link stall" => self.break_link(true),
            "partition" => {
                self.partition(node, other);
                self.partition(other, node);
            }
            "partition one way" => self.partition(node, other),
            "cut off from manager" => {
                let ends = [(node, MANAGER), (MANAGER, node)];
                let both = self.rng.below(3) as usize;
                ends.iter().enumerate().filter(|(n, _)| both == 2 || *n == both).for_each(|(_, &(a, b))| self.partition(a, b));
            }
            "manager restart" => {
                self.stop_manager();
                self.after(u64::from(self.plan.lease_ms) * MS / 2, Ev::ManagerStart);
            }
            "manager deposed" => self.depose_manager(),
            "store hangs" => self.hang_the_store(),
            "operator" => self.operate(node),
            "disk replaced" => self.replace_disk(node),
            "node gone" => self.lose_node(node),
            "no room" => self.take_room(node),
            "bit rot" => self.rot(node),
            "half isolated" => {
                // Gone for the manager and for one neighbour, there for the others; and somebody hears of it late.
                self.partition(node, MANAGER);
                self.partition(MANAGER, node);
                let (from, to) = if self.rng.chance(1, 2) { (node, other) } else { (other, node) };
                self.partition(from, to);
                let until = self.now + self.rng.between(20, u64::from(self.plan.lease_ms) * 4) * MS;
                self.deafen(other, until);
            }
            "routing late" => {
                let until = self.now + self.rng.between(20, u64::from(self.plan.lease_ms) * 4) * MS;
                self.deafen(node, until);
            }
            "heartbeats late" => {
                self.nodes[node].late_until = self.now + self.rng.between(100, u64::from(self.plan.lease_ms) * 5) * MS;
            }
            disks => self.strike_a_disk(disks, node),
        }
    }

    fn strike_a_disk(&mut self, kind: &str, node: usize) {
        match kind {
            "disk swapped" => {
                let slot = self.rng.below(self.plan.targets as u64) as usize;
                self.swap_disk(node, slot);
                let long = self.rng.between(100, 1500) * MS;
                self.at(self.now + long, Ev::PutBack { node, slot });
            }
            "target opened anew" => {
                let slot = self.rng.below(self.plan.targets as u64) as usize;
                if self.nodes[node].slots[slot].open.is_some() {
                    self.open_anew(node, slot);
                }
            }
            "disk failure" => {
                let slot = self.rng.below(self.plan.targets as u64) as usize;
                if let Some(open) = &mut self.nodes[node].slots[slot].open {
                    open.store.fail_next();
                }
                // An operator looks after it.
                self.after(1500 * MS, Ev::Room { node, slot });
            }
            _ => {
                // Where a resync is to give up on a chunk, reading it again does not help.
                let one_in = if self.plan.chain.unreadable_tries == 1 { 1 } else { self.rng.between(2, 10) };
                let slot = self.rng.below(self.plan.targets as u64) as usize;
                if let Some(open) = &mut self.nodes[node].slots[slot].open {
                    open.store.set_corrupt(one_in);
                    self.nodes[node].slots[slot].noisy = true;
                }
                self.after(500 * MS, Ev::Room { node, slot });
            }
        }
    }

    fn crash(&mut self, node: usize, how: fn(&mut Store) -> super::disk::Medium) {
        self.kill(node, how);
        let mean = *self.rng.pick(&[5, 100, 1000]) * MS;
        self.after(mean, Ev::Start { node });
    }

    fn partition(&mut self, from: usize, to: usize) {
        self.net.blocked.insert((from, to));
        let long = self.rng.between(20, u64::from(self.plan.lease_ms) * 5) * MS;
        self.at(self.now + long, Ev::Heal { from, to });
    }

    pub(super) fn heal(&mut self, from: usize, to: usize) {
        self.net.blocked.remove(&(from, to));
        self.note(|| format!("partition {from} -> {to} heals"));
    }

    /// A connection breaks: frames on their way are lost, or arrive late on a connection given up by its opener.
    fn break_link(&mut self, stall: bool) {
        let up: Vec<u64> = self.net.links.values().filter_map(|l| if let Link::Up(id) = l { Some(*id) } else { None }).collect();
        if up.is_empty() {
            return;
        }
        let conn = *self.rng.pick(&up);
        if stall {
            // The opener gives up and connects anew; the old frames still arrive until the new connection is accepted.
            let Some(c) = self.net.conns.get(&conn) else { return };
            let (from, to) = (c.opener, c.acceptor);
            let process = c.processes.0;
            self.net.redial(from, to, Vec::new(), self.now);
            return self.after(self.plan.net * 8, Ev::Connect { from, to, process });
        }
        self.break_conn(conn);
    }

    /// Both ends notice after a while.
    pub(super) fn break_conn(&mut self, conn: u64) {
        let Some(c) = self.net.conns.get_mut(&conn).filter(|c| !c.broken) else { return };
        c.broken = true;
        self.after(self.plan.net * 4, Ev::Notice { conn, opener: true });
        self.after(self.plan.net * 4, Ev::Notice { conn, opener: false });
    }

    /// A step of the protocol is struck as it is taken: one of the two falls, or all, or a link breaks.
    pub(super) fn strike_step(&mut self, frame: &Frame, from: Place, to: Place) {
        let step = match frame.0.body {
            Some(Body::SyncDone(_)) => Step::SyncDone,
            Some(Body::Reject(_)) => Step::Reject,
            Some(Body::Release(_)) => Step::Release,
            Some(Body::Reply(_)) => Step::Reply,
            Some(Body::Confirm(_)) => Step::Confirm,
            _ => return,
        };
        let one_in = match step {
            Step::SyncDone | Step::Reject | Step::Refusal => 3,
            Step::Confirm => 16,
            Step::Release | Step::Reply => 64,
        };
        if self.faults_stopped || self.plan.strike != Some(step) || self.rng.below(one_in) > 0 {
            return;
        }
        self.coverage.hit(format!("fault at a {step:?}"));
        let mean = *self.rng.pick(&[self.plan.net, self.plan.disk, u64::from(self.plan.heartbeat_ms) * MS / 2]);
        let at = self.now + self.rng.delay(mean);
        match self.rng.below(7) {
            0 => self.at(at, Ev::Fall { node: from.0, power: true }),
            1 => self.at(at, Ev::Fall { node: to.0, power: true }),
            2 => self.at(at, Ev::Blackout),
            3 => self.take_room(to.0),
            4 => self.break_links(|opener, acceptor| (opener, acceptor) == (from, to) || (opener, acceptor) == (to, from)),
            _ => self.break_links(|_, acceptor| acceptor == to),
        }
    }

    /// A client is refused an update that it has sent before: whoever remembers that falls.
    pub(super) fn strike_refusal(&mut self, failure: &Failure, attempt: u32) {
        let struck = self.plan.strike == Some(Step::Refusal) && attempt > 1 && failure.class() == Class::Rejected;
        if struck && !self.faults_stopped && self.rng.chance(1, 3) {
            self.coverage.hit("fault at a Refusal");
            let at = self.now + self.rng.delay(self.plan.net);
            self.at(at, Ev::Blackout);
        }
    }

    /// A client is refused: its head falls, and it hears of it only when it has asked the next one.
    pub(super) fn delays_refusal(&mut self, failure: &Failure, head: TargetId) -> bool {
        let struck = self.plan.late_refusals && failure.class() == Class::Rejected && !self.faults_stopped;
        if !struck || !self.rng.chance(1, 4) {
            return false;
        }
        self.coverage.hit("fault refusal late");
        if let Some((node, _)) = self.slot_of(head) {
            self.at(self.now, Ev::Fall { node, power: false });
        }
        true
    }

    fn break_links(&mut self, which: impl Fn(Place, Place) -> bool) {
        let links = self.net.links.iter().filter(|((opener, acceptor), _)| which(*opener, *acceptor));
        let up: Vec<u64> = links.filter_map(|(_, l)| if let Link::Up(id) = l { Some(*id) } else { None }).collect();
        up.into_iter().for_each(|conn| self.break_conn(conn));
    }

    pub(super) fn black_out(&mut self) {
        if !self.faults_stopped {
            self.all_go_dark();
            (0..self.nodes.len()).for_each(|n| self.crash(n, Store::crash));
        }
    }

    pub(super) fn fall(&mut self, node: usize, power: bool) {
        if !self.faults_stopped && self.nodes[node].process().is_some() {
            self.crash(node, if power { Store::crash } else { Store::kill });
        }
    }

    fn take_room(&mut self, node: usize) {
        let slot = self.rng.below(self.plan.targets as u64) as usize;
        let code = *self.rng.pick(&[Code::NoSpace, Code::NoSpace, Code::ReadOnly]);
        if let Some(open) = &mut self.nodes[node].slots[slot].open {
            let tight = if self.rng.chance(1, 2) { self.rng.between(2, 4) } else { 1 };
            open.store.set_full(Some(code), tight);
        }
        let long = self.rng.between(5, 1500) * MS;
        self.at(self.now + long, Ev::Room { node, slot });
    }

    /// As much room as the plan allows: one of a few requests finds none where space is tight.
    pub(super) fn set_room(&mut self, node: usize, slot: usize) {
        let tight = self.plan.tight && !self.faults_stopped;
        if let Some(open) = &mut self.nodes[node].slots[slot].open {
            open.store.set_full(tight.then_some(Code::NoSpace), 12);
        }
    }

    pub(super) fn give_room(&mut self, node: usize, slot: usize) {
        if let Some(open) = &mut self.nodes[node].slots[slot].open {
            open.store.set_corrupt(0);
        }
        self.set_room(node, slot);
        if self.faults_stopped {
            // An error may have been armed and not have struck yet.
            self.at(self.now + 2000 * MS, Ev::Room { node, slot });
        }
        if self.failed_slot(node) {
            self.note(|| format!("operator restarts node {}, whose disk failed", node + 1));
            self.crash(node, Store::kill);
        }
    }

    /// The faults stop: everything is healed, everybody is started.
    pub(super) fn stop_faults(&mut self) {
        self.note(|| "the faults stop".into());
        self.faults_stopped = true;
        // A disk with more damage than that stays out of its chain until somebody replaces it: here its damage is mended.
        self.plan.chain.max_damaged = u64::MAX;
        self.net.blocked.clear();
        self.manager.mend_store();
        self.start_manager();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = 0;
            self.nodes[node].late_until = 0;
            for slot in 0..self.nodes[node].slots.len() {
                self.put_disk_back(node, slot);
                self.set_background(node, slot);
                self.give_room(node, slot);
            }
            if self.nodes[node].process().is_none() {
                self.after(50 * MS, Ev::Start { node });
            }
        }
        self.end_rot();
    }
}
