//! Connections between two targets: in order, cut at any moment, fenced by the next one.
//!
//! The one that opened it sends requests down; answers come back up. What was under way when a connection ended may still
//! arrive until there is the next.

use std::collections::VecDeque;
use std::rc::Rc;

use catena_types::Payload;
use catena_wire::peer::PeerMsg;

use super::disk::Blocks;

/// A message and what comes with it; shared, since it never changes.
pub(super) type Frame = Rc<(PeerMsg, Option<Payload<Blocks>>)>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Conn {
    /// Never opened by this process of the opener.
    #[default]
    None,
    /// To be opened (again), with what was sent meanwhile.
    Connecting(VecDeque<Frame>),
    Up,
}

/// What one target opened to another.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Link {
    pub(super) conn: Conn,
    pub(super) down: VecDeque<Frame>,
    pub(super) up: VecDeque<Frame>,
    /// Where frames of older connections are not dropped: what of them may still arrive, in both directions.
    pub(super) old: [VecDeque<Frame>; 2],
}

impl Link {
    pub(super) fn send_down(&mut self, frame: Frame) {
        match &mut self.conn {
            Conn::Up => self.down.push_back(frame),
            Conn::Connecting(waiting) => waiting.push_back(frame),
            Conn::None => self.conn = Conn::Connecting([frame].into()),
        }
    }

    /// An answer goes back on the connection that is there, or nowhere.
    pub(super) fn send_up(&mut self, frame: Frame) {
        if self.conn == Conn::Up {
            self.up.push_back(frame);
        }
    }

    /// The process that opened it is gone. What it sent may still arrive.
    pub(super) fn opener_gone(&mut self) {
        self.conn = Conn::None;
        self.up.clear();
    }

    /// The process at the other end is gone. What it answered may still arrive.
    pub(super) fn acceptor_gone(&mut self) {
        if self.conn == Conn::Up {
            self.conn = Conn::Connecting(VecDeque::new());
        }
        self.down.clear();
    }

    /// There is a new connection: frames of older ones are dropped, unless `fenced` is off.
    pub(super) fn connected(&mut self, fenced: bool) {
        let old = [std::mem::take(&mut self.down), std::mem::take(&mut self.up)];
        if !fenced {
            self.old = old;
        }
        if let Conn::Connecting(waiting) = std::mem::replace(&mut self.conn, Conn::Up) {
            self.down.extend(waiting);
        }
    }
}
