//! Links between shards: who opens them, what travels on them, when they break and what is fenced.

use catena_chain::{Event, answers};
use catena_types::{TargetId, Time};

use super::net::{DOWN, Frame, Link, Place, UP};
use super::{Ev, MS, World};
use crate::mutation::{Mutation, is};

impl World {
    /// The shard of a target that is peer of this slot, as the shard's routing says.
    fn place_of(&self, node: usize, slot: usize, target: TargetId) -> Option<Place> {
        let shard = self.nodes[node].slots[slot].shard;
        let routing = self.nodes[node].process.as_ref()?.routing[shard as usize].as_ref()?;
        let info = routing.target(target)?;
        Some((info.node as usize - 1, info.shard))
    }

    pub(super) fn send(&mut self, node: usize, slot: usize, frame: Frame) {
        let here = (node, self.nodes[node].slots[slot].shard);
        let Some(there) = self.place_of(node, slot, frame.0.to) else { return self.coverage.hit("send to nowhere") };
        let delay = self.rng.delay(self.plan.net);
        self.strike_step(&frame, here, there);
        if answers(&frame.0) {
            if let Some(&conn) = self.net.accepted.get(&(here, there)) {
                self.put(conn, UP, delay, frame);
            }
            return;
        }
        match self.net.links.get_mut(&(here, there)) {
            Some(Link::Up(conn)) => {
                let conn = *conn;
                self.put(conn, DOWN, delay, frame);
            }
            Some(Link::Connecting(waiting)) => waiting.push(frame),
            None => {
                self.net.redial(here, there, vec![frame], self.now);
                self.connect(here, there);
            }
        }
    }

    /// Members of its chain that a target sends requests to, and has had no connection to for a while.
    pub(super) fn unreachable(&self, node: usize, slot: usize) -> Vec<TargetId> {
        let s = &self.nodes[node].slots[slot];
        let Some(open) = &s.open else { return Vec::new() };
        let here = (node, s.shard);
        let down = |place: Place| self.net.down.get(&(here, place)).is_some_and(|since| self.now - since >= self.plan.silence);
        open.replica.asks().filter(|&t| self.place_of(node, slot, t).is_some_and(down)).collect()
    }

    fn put(&mut self, conn: u64, lane: usize, delay: Time, frame: Frame) {
        if let Some(at) = self.net.put(conn, lane, self.now + delay, frame) {
            self.at(at, Ev::Pump { conn, lane });
        }
        if !self.faults_stopped && self.plan.break_one_in > 0 && self.rng.below(self.plan.break_one_in) == 0 {
            self.coverage.hit("fault link break at a frame");
            let wait = self.rng.delay(self.plan.net);
            self.at(self.now + wait, Ev::Break { conn });
        }
    }

    fn connect(&mut self, from: Place, to: Place) {
        if let Some(process) = self.nodes[from.0].process() {
            self.after(self.plan.net * 2, Ev::Connect { from, to, process });
        }
    }

    pub(super) fn on_connect(&mut self, from: Place, to: Place, process: u64) {
        if !self.nodes[from.0].is(process) || !matches!(self.net.links.get(&(from, to)), Some(Link::Connecting(_))) {
            return;
        }
        // A node accepts links once the manager has said who it is: before, it could only drop what comes on them.
        let there = self.nodes[to.0].process.as_ref().filter(|p| p.incarnation != 0).and_then(|_| self.nodes[to.0].process());
        match there.filter(|_| !self.blocked(from.0, to.0) && !self.blocked(to.0, from.0)) {
            Some(other) => {
                let conn = self.net.open(from, to, (process, other));
                self.after(self.plan.net, Ev::Connected { conn, from, to, process });
            }
            None => self.after(20 * MS, Ev::Connect { from, to, process }),
        }
    }

    pub(super) fn on_connected(&mut self, id: u64, from: Place, to: Place, process: u64) {
        if !self.nodes[from.0].is(process) {
            return;
        }
        let Some(Link::Connecting(_)) = self.net.links.get(&(from, to)) else { return };
        // The other side may have gone, or have accepted a later one, while the answer was on its way.
        let good = self.net.conns.get(&id).is_some_and(|c| !c.broken);
        if !good || self.net.accepted.get(&(to, from)) != Some(&id) {
            return self.connect(from, to);
        }
        self.coverage.hit("connected");
        for frame in self.net.connected(from, to, id) {
            let delay = self.rng.delay(self.plan.net);
            self.put(id, DOWN, delay, frame);
        }
        self.tell_link_up(from, to);
    }

    fn tell_link_up(&mut self, from: Place, to: Place) {
        let routing = self.nodes[from.0].process.as_ref().and_then(|p| p.routing[from.1 as usize].clone());
        let Some(routing) = routing else { return };
        for slot in 0..self.nodes[from.0].slots.len() {
            let s = &self.nodes[from.0].slots[slot];
            let chain = routing.target(s.id).filter(|_| s.shard == from.1).and_then(|t| routing.chain(t.chain));
            let Some(chain) = chain else { continue };
            let there = |t: &TargetId| routing.target(*t).is_some_and(|i| (i.node as usize - 1, i.shard) == to);
            let peers: Vec<TargetId> = chain.members.iter().map(|m| m.target).filter(there).collect();
            for peer in peers {
                self.give(from.0, slot, Event::LinkUp { peer });
            }
        }
    }

    pub(super) fn on_notice(&mut self, id: u64, opener: bool) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.broken = true;
        let (from, to) = (conn.opener, conn.acceptor);
        if opener {
            if matches!(self.net.links.get(&(from, to)), Some(Link::Up(up)) if *up == id) {
                self.net.redial(from, to, Vec::new(), self.now);
                self.connect(from, to);
            }
        } else if self.net.accepted.get(&(to, from)) == Some(&id) {
            self.net.accepted.remove(&(to, from));
        }
    }

    /// The first frame of a lane arrives, if it is still wanted.
    pub(super) fn on_pump(&mut self, id: u64, lane: usize) {
        let now = self.now;
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        let (from, to) = if lane == DOWN { (conn.opener, conn.acceptor) } else { (conn.acceptor, conn.opener) };
        let receiver = if lane == DOWN { conn.processes.1 } else { conn.processes.0 };
        if self.net.blocked.contains(&(from.0, to.0))
            && let Some((sent, _)) = conn.lanes[lane].queue.front()
        {
            // What nobody acknowledges ends the connection in time.
            if now.saturating_sub(*sent) > self.plan.silence {
                self.break_conn(id);
            }
            return self.at(now + 10 * MS, Ev::Pump { conn: id, lane });
        }
        let queue = &mut conn.lanes[lane];
        let due = queue.queue.front().is_some_and(|(at, _)| *at <= now);
        let frame = if due { queue.queue.pop_front() } else { None };
        let next = queue.queue.front().map(|(at, _)| *at);
        queue.pumping = next.is_some();
        let broken = conn.broken;
        if let Some(at) = next {
            self.at(at, Ev::Pump { conn: id, lane });
        }
        let current = match lane {
            DOWN => self.net.accepted.get(&(to, from)) == Some(&id),
            _ => matches!(self.net.links.get(&(to, from)), Some(Link::Up(up)) if *up == id),
        };
        let Some((_, (msg, payload))) = frame.filter(|_| !broken && self.nodes[to.0].is(receiver)) else { return };
        if !current && !is(Mutation::OldConnections) {
            return self.coverage.hit("frame fenced");
        }
        let slot = self.nodes[to.0].slots.iter().position(|s| s.id == msg.to && s.shard == to.1 && s.open.is_some());
        if let Some(slot) = slot {
            msg.body.iter().for_each(|body| self.coverage.message(body));
            self.coverage.checked(super::Rule::Peers);
            self.give(to.0, slot, Event::Peer { msg, payload });
        }
    }
}
