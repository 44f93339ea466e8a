//! Connections between shards: in order within each, delayed at will, broken at any frame, fenced by the next one.
//!
//! A connection belongs to the shard that opened it: requests go down, answers come back up. The other side takes frames
//! from the newest connection of an opener only, the opener answers from its present one only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use catena_types::Payload;
use catena_types::Time;
use catena_wire::peer::PeerMsg;

/// A shard of a node: (node, shard).
pub(super) type Place = (usize, u32);

/// Message and payload.
pub(super) type Frame = (PeerMsg, Option<Payload<Bytes>>);

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<(Time, Frame)>,
    /// A pump event is on its way.
    pub(super) pumping: bool,
    pub(super) last: Time,
}

pub(super) struct Conn {
    pub(super) opener: Place,
    pub(super) acceptor: Place,
    /// Processes at both ends: frames never reach another one.
    pub(super) processes: (u64, u64),
    pub(super) broken: bool,
    pub(super) lanes: [Lane; 2],
}

/// Down: opener to acceptor.
pub(super) const DOWN: usize = 0;
/// Up: acceptor to opener.
pub(super) const UP: usize = 1;

/// The opener's view.
pub(super) enum Link {
    Connecting(Vec<Frame>),
    Up(u64),
}

#[derive(Default)]
pub(super) struct Net {
    pub(super) conns: BTreeMap<u64, Conn>,
    pub(super) links: BTreeMap<(Place, Place), Link>,
    /// Links without a connection, since when.
    pub(super) down: BTreeMap<(Place, Place), Time>,
    /// Newest accepted connection: (acceptor, opener).
    pub(super) accepted: BTreeMap<(Place, Place), u64>,
    /// Pairs of nodes cut off, in this direction.
    pub(super) blocked: BTreeSet<(usize, usize)>,
    pub(super) next_conn: u64,
}

impl Net {
    /// The process at `node` is gone: its ends of connections with it.
    pub(super) fn forget(&mut self, node: usize) -> Vec<u64> {
        self.links.retain(|(from, _), _| from.0 != node);
        self.down.retain(|(from, _), _| from.0 != node);
        self.accepted.retain(|(to, _), _| to.0 != node);
        let ended: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, c)| !c.broken && (c.opener.0 == node || c.acceptor.0 == node))
            .map(|(id, _)| *id)
            .collect();
        for id in &ended {
            if let Some(conn) = self.conns.get_mut(id) {
                // What the other side has not read yet may still arrive there, but nothing reaches this one.
                conn.lanes[if conn.opener.0 == node { UP } else { DOWN }].queue.clear();
            }
        }
        ended
    }

    /// A link is to be connected; these frames wait for that.
    pub(super) fn redial(&mut self, from: Place, to: Place, waiting: Vec<Frame>, now: Time) {
        self.links.insert((from, to), Link::Connecting(waiting));
        self.down.entry((from, to)).or_insert(now);
    }

    /// A link is connected. Its frames that wait.
    pub(super) fn connected(&mut self, from: Place, to: Place, conn: u64) -> Vec<Frame> {
        self.down.remove(&(from, to));
        match self.links.insert((from, to), Link::Up(conn)) {
            Some(Link::Connecting(waiting)) => waiting,
            _ => Vec::new(),
        }
    }

    pub(super) fn open(&mut self, opener: Place, acceptor: Place, processes: (u64, u64)) -> u64 {
        self.next_conn += 1;
        let conn = Conn { opener, acceptor, processes, broken: false, lanes: Default::default() };
        self.conns.insert(self.next_conn, conn);
        self.accepted.insert((acceptor, opener), self.next_conn);
        self.next_conn
    }

    /// Puts a frame on its way; the time of the pump event to schedule, if none is.
    pub(super) fn put(&mut self, conn: u64, lane: usize, at: Time, frame: Frame) -> Option<Time> {
        let conn = self.conns.get_mut(&conn).filter(|c| !c.broken)?;
        let lane = &mut conn.lanes[lane];
        let at = at.max(lane.last);
        lane.last = at;
        lane.queue.push_back((at, frame));
        if lane.pumping {
            return None;
        }
        lane.pumping = true;
        Some(at)
    }

    /// Drops connections that nothing refers to any more.
    pub(super) fn sweep(&mut self) {
        let used: BTreeSet<u64> = self
            .accepted
            .values()
            .copied()
            .chain(self.links.values().filter_map(|l| if let Link::Up(id) = l { Some(*id) } else { None }))
            .collect();
        self.conns.retain(|id, c| used.contains(id) || c.lanes.iter().any(|l| l.pumping));
    }
}
