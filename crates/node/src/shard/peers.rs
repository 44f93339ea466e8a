//! Other targets: where they are, the links to their shards, and the check of what comes from them.
//!
//! Two shards have up to two links, one per direction of opening: requests go down the link that the sender's shard
//! opened, answers come back up the same. A link has one connection at a time, and a newer one fences the older: the
//! accepting side drops what still comes on it. While there is none, messages are dropped; a new connection is told to
//! the state machines, which send again what still matters.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use catena_arena::Arena;
use catena_chain::{Event, answers};
use catena_net::{Frame, FrameSender, Security, connect};
use catena_types::limits::{MAX_CHUNK, MAX_KEY, valid_chunk_size};
use catena_types::{Code, Failure, Incarnation, NodeId, Payload, ShardId, TargetId, Time};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;
use catena_wire::peer::{Body, PeerMsg};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::accept::read_all;
use super::{Conn, ConnId, Inbox, Shard, payload_of};
use crate::clock::now;

/// Pauses between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Time for an attempt to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// A peer to which there was no connection for so long is reported to the manager.
const UNREACHABLE: Time = 2_000_000_000;
/// What is sent to a peer and not acknowledged by its machine for so long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// A shard of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerKey {
    pub(crate) node: NodeId,
    pub(crate) shard: ShardId,
}

/// The newest connection that a peer has opened.
struct Accepted {
    incarnation: Incarnation,
    epoch: u64,
    conn: Option<ConnId>,
}

/// A link this shard opens.
struct Link {
    addr: String,
    /// Of the peer, from routing or from its answer to our hello, whichever is higher.
    incarnation: Incarnation,
    /// Connections below this number are of an earlier link to the same peer.
    first: ConnId,
    conn: Option<ConnId>,
    /// Since when there is no connection, if there is none.
    down_since: Option<Time>,
    task: AbortHandle,
}

/// Everything known of the peers.
#[derive(Default)]
pub(super) struct Peers {
    places: HashMap<TargetId, PeerKey>,
    accepted: HashMap<PeerKey, Accepted>,
    links: HashMap<PeerKey, Link>,
}

impl Peers {
    /// Takes a new connection of a peer; the older one, if there is one, is to be dropped.
    ///
    /// # Errors
    /// A newer one has been seen.
    pub(super) fn accept(&mut self, peer: PeerKey, incarnation: Incarnation, epoch: u64) -> Result<Option<ConnId>, Failure> {
        let new = Accepted { incarnation, epoch, conn: None };
        let Some(seen) = self.accepted.get_mut(&peer) else {
            self.accepted.insert(peer, new);
            return Ok(None);
        };
        if (incarnation, epoch) <= (seen.incarnation, seen.epoch) {
            let text = format!(
                "this is connection {incarnation}/{epoch} of the link, {}/{} has been seen; open a newer one",
                seen.incarnation, seen.epoch
            );
            return Err(Failure::new(Code::DuplicateNode, text));
        }
        let older = seen.conn;
        *seen = new;
        Ok(older)
    }

    /// The connection taken has this number.
    pub(super) fn accepted(&mut self, peer: PeerKey, conn: ConnId) {
        if let Some(seen) = self.accepted.get_mut(&peer) {
            seen.conn = Some(conn);
        }
    }

    /// A connection has ended.
    pub(super) fn closed(&mut self, peer: PeerKey, conn: ConnId, outgoing: bool, now: Time) {
        if outgoing {
            if let Some(link) = self.links.get_mut(&peer).filter(|l| l.conn == Some(conn)) {
                (link.conn, link.down_since) = (None, Some(now));
            }
        } else if let Some(accepted) = self.accepted.get_mut(&peer).filter(|a| a.conn == Some(conn)) {
            accepted.conn = None;
        }
    }

    /// Whether requests to a target have had no way for a while.
    pub(super) fn unreachable(&self, target: TargetId, now: Time) -> bool {
        let link = self.places.get(&target).and_then(|peer| self.links.get(peer));
        link.and_then(|l| l.down_since).is_some_and(|since| now.saturating_sub(since) >= UNREACHABLE)
    }

    /// No link is wanted any more.
    pub(super) fn end(&mut self) {
        self.links.drain().for_each(|(_, link)| link.task.abort());
    }

    fn conn_for(&self, peer: PeerKey, answer: bool) -> Option<ConnId> {
        if answer { self.accepted.get(&peer)?.conn } else { self.links.get(&peer)?.conn }
    }
}

impl Shard {
    /// After new routing: where targets are, and a link to every shard that shares a chain with one of ours.
    pub(super) fn refresh_links(&mut self) {
        let (Some(routing), Some(identity)) = (self.routing.clone(), self.identity.clone()) else { return };
        let me = PeerKey { node: identity.node, shard: self.number };
        self.peers.places = routing.targets.iter().map(|t| (t.id, PeerKey { node: t.node, shard: t.shard })).collect();
        let chains = self.targets.chains().filter_map(|(_, chain)| routing.chain(chain));
        let members = chains.flat_map(|c| &c.members).filter_map(|m| self.peers.places.get(&m.target).copied());
        let wanted: BTreeSet<PeerKey> = members.filter(|&peer| peer != me).collect();
        let unwanted: Vec<PeerKey> = self.peers.links.keys().filter(|k| !wanted.contains(k)).copied().collect();
        unwanted.into_iter().for_each(|peer| self.close_link(peer));
        for peer in wanted {
            let Some(node) = routing.node(peer.node) else { continue };
            let Some(addr) = node.shard_addrs.get(peer.shard as usize) else { continue };
            let link = self.peers.links.get(&peer);
            if link.is_none_or(|l| l.addr != *addr || l.incarnation < node.incarnation) {
                self.close_link(peer);
                self.open_link(peer, addr.clone(), node.incarnation);
            }
        }
    }

    fn close_link(&mut self, peer: PeerKey) {
        if let Some(link) = self.peers.links.remove(&peer) {
            link.task.abort();
            if let Some(conn) = link.conn {
                self.drop_conn(conn, "the peer has moved or started anew");
            }
        }
    }

    fn open_link(&mut self, peer: PeerKey, addr: String, incarnation: Incarnation) {
        let Some(identity) = &self.identity else { return };
        let hello = Hello { shard: self.number, ..crate::control::hello(identity) };
        let dialer = Dialer {
            peer,
            addr: addr.clone(),
            hello,
            security: self.security.clone(),
            arena: self.arena.clone(),
            inbox: self.inbox.clone(),
            next_conn: self.next_conn.clone(),
        };
        let first = self.next_conn.get();
        let task = tokio::task::spawn_local(dialer.run()).abort_handle();
        self.peers.links.insert(peer, Link { addr, incarnation, first, conn: None, down_since: Some(now()), task });
    }

    /// A link is up: tells every target that has somebody at its other end.
    pub(super) fn on_connected(&mut self, peer: PeerKey, conn: ConnId, sender: FrameSender, incarnation: Incarnation) {
        let Some(link) = self.peers.links.get_mut(&peer).filter(|l| l.first <= conn) else {
            return sender.close();
        };
        (link.conn, link.down_since) = (Some(conn), None);
        link.incarnation = link.incarnation.max(incarnation);
        self.conns.insert(conn, Conn { sender, peer: Some(peer), outgoing: true, reader: link.task.clone(), mover: None });
        let Some(routing) = self.routing.clone() else { return };
        let ours: Vec<_> = self.targets.chains().collect();
        for (target, chain) in ours {
            let members = routing.chain(chain).map(|c| c.members.clone()).unwrap_or_default();
            for member in members {
                if self.peers.places.get(&member.target) == Some(&peer) {
                    self.give(target, Event::LinkUp { peer: member.target });
                }
            }
        }
    }

    pub(super) fn send_to_target(&mut self, msg: PeerMsg, payload: Option<Payload<Bytes>>) {
        let (Some(&peer), Some(identity)) = (self.peers.places.get(&msg.to), &self.identity) else { return };
        if peer == (PeerKey { node: identity.node, shard: self.number }) {
            self.local.push((msg, payload));
            return;
        }
        let conn = self.peers.conn_for(peer, answers(&msg)).and_then(|conn| self.conns.get(&conn));
        // Without a connection the message is dropped: the next one makes the state machines send again.
        let Some(conn) = conn else { return };
        let mut frame = Frame::new(Kind::Peer, 0, &msg);
        if let Some(payload) = payload {
            frame = frame.with_payload(payload.data, payload.crc);
        }
        self.status.sent_bytes += frame.wire_len() as u64;
        if let Err(e) = conn.sender.send(frame) {
            tracing::debug!(shard = self.number, "message to target {} dropped: {e}", msg.to);
        }
    }

    pub(super) fn on_peer_frame(&mut self, conn: ConnId, peer: PeerKey, frame: Frame) {
        let msg: PeerMsg = match frame.decode() {
            Ok(msg) => msg,
            Err(e) => return self.lose_conn(conn, peer, &e.to_string()),
        };
        if let Err(why) = check_message(&msg, &frame) {
            return self.lose_conn(conn, peer, &why);
        }
        let outgoing = self.conns.get(&conn).is_some_and(|c| c.outgoing);
        let moved = self.peers.places.get(&msg.from).is_some_and(|&place| place != peer);
        if moved || outgoing != answers(&msg) {
            self.status.fenced += 1;
            return;
        }
        let payload = matches!(msg.body, Some(Body::Forward(_) | Body::SyncPut(_) | Body::SyncPart(_) | Body::Fetched(_)))
            .then(|| payload_of(&frame));
        self.give(msg.to, Event::Peer { msg, payload });
    }

    /// Something came that must not be used and may not be skipped: the link starts anew, and what still matters is
    /// sent again.
    pub(super) fn lose_conn(&mut self, conn: ConnId, peer: PeerKey, why: &str) {
        tracing::warn!(shard = self.number, "link with shard {} of node {} reset: {why}", peer.shard, peer.node);
        let link = self.peers.links.get(&peer).filter(|l| l.conn == Some(conn)).map(|l| (l.addr.clone(), l.incarnation));
        match link {
            Some((addr, incarnation)) => {
                self.close_link(peer);
                self.open_link(peer, addr, incarnation);
            }
            None => self.drop_conn(conn, why),
        }
    }
}

/// Opens the connections of one link, one after the other.
struct Dialer {
    peer: PeerKey,
    addr: String,
    hello: Hello,
    security: Security,
    arena: Arena,
    inbox: mpsc::UnboundedSender<Inbox>,
    next_conn: Rc<Cell<ConnId>>,
}

impl Dialer {
    async fn run(self) {
        let mut pause = BACKOFF.0;
        // Since when there is no connection; `None` when that has been said.
        let mut lost = Some(now());
        loop {
            let conn = super::next_id(&self.next_conn);
            let hello = Hello { epoch: conn, ..self.hello.clone() };
            match connect(&self.addr, hello, &self.security, self.arena.clone(), CONNECT).await {
                Ok((sender, receiver, reply)) if reply.node == self.peer.node => {
                    pause = BACKOFF.0;
                    if let Err(e) = receiver.give_up_after(UNACKNOWLEDGED) {
                        tracing::debug!("a broken link will be noticed late: {e}");
                    }
                    let (peer, incarnation) = (self.peer, reply.incarnation);
                    if self.inbox.send(Inbox::Connected { peer, conn, sender, incarnation }).is_err() {
                        return;
                    }
                    read_all(conn, receiver, self.inbox.clone()).await;
                    lost = Some(now());
                }
                Ok((.., reply)) => {
                    tracing::warn!("node {} answers at {}, where node {} should be", reply.node, self.addr, self.peer.node);
                }
                Err(e) if lost.is_some_and(|since| now() - since >= UNREACHABLE) => {
                    tracing::warn!("shard {} of node {} cannot be reached: {e}", self.peer.shard, self.peer.node);
                    lost = None;
                }
                Err(e) => tracing::debug!("no link to shard {} of node {}: {e}", self.peer.shard, self.peer.node),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}

/// What can be judged of a message without its target: a correct peer sends nothing that fails here.
fn check_message(msg: &PeerMsg, frame: &Frame) -> Result<(), String> {
    if !frame.payload_ok {
        return Err("a payload was damaged on the way".to_owned());
    }
    match &msg.body {
        Some(Body::Forward(m)) => {
            check_chunk_size(m.chunk_size)?;
            m.op.check(m.chunk_size)?;
            if (frame.payload.len(), frame.payload_crc) != (m.op.payload_len() as usize, m.payload_crc) {
                return Err("a forward and its payload differ".to_owned());
            }
            check_key(&m.key)
        }
        Some(Body::SyncPut(m)) => {
            check_chunk_size(m.chunk_size)?;
            let wanted = (m.committed.len as usize, m.committed.checksum);
            if m.committed.len > m.chunk_size || (frame.payload.len(), frame.payload_crc) != wanted {
                return Err("a chunk sent by resync and its payload differ".to_owned());
            }
            check_key(&m.key)
        }
        Some(Body::SyncPart(m)) => {
            if frame.payload.is_empty() || m.offset as usize + frame.payload.len() > MAX_CHUNK as usize {
                return Err("a part of a chunk that no chunk has".to_owned());
            }
            check_key(&m.key)
        }
        Some(Body::SyncLost(m)) => {
            check_chunk_size(m.chunk_size)?;
            check_key(&m.key)
        }
        Some(Body::SyncSums(m)) => check_key(&m.key),
        Some(Body::Sums(m)) => check_key(&m.key),
        Some(Body::SyncPatch(m)) => check_key(&m.key),
        Some(Body::Release(m)) => check_key(&m.key),
        Some(Body::Reply(m)) => check_key(&m.key),
        Some(Body::Reject(m)) => check_key(&m.key),
        Some(Body::Query(m)) => check_key(&m.key),
        Some(Body::SyncDrop(m)) => check_key(&m.key),
        Some(Body::Synced(m)) => check_key(&m.key),
        Some(Body::Fetch(m)) => check_key(&m.key),
        Some(Body::Fetched(m)) => {
            let wanted = m.committed.map_or((0, 0), |c| (c.len as usize, c.checksum));
            if (frame.payload.len(), frame.payload_crc) != wanted {
                return Err("a chunk sent for a repair and its payload differ".to_owned());
            }
            check_key(&m.key)
        }
        Some(Body::Page(m)) => m.entries.iter().try_for_each(|e| check_key(&e.key)),
        _ => Ok(()),
    }
}

fn check_key(key: &[u8]) -> Result<(), String> {
    if (1..=MAX_KEY).contains(&key.len()) { Ok(()) } else { Err(format!("a key of {} bytes", key.len())) }
}

fn check_chunk_size(size: u32) -> Result<(), String> {
    if valid_chunk_size(size) { Ok(()) } else { Err(format!("a chunk size of {size} bytes")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_without_a_connection_for_long_is_unreachable() {
        let peer = PeerKey { node: 2, shard: 0 };
        let task = tokio::spawn(async {}).abort_handle();
        let link = Link { addr: String::new(), incarnation: 1, first: 0, conn: Some(7), down_since: None, task };
        let mut peers = Peers { places: [(31, peer)].into(), links: [(peer, link)].into(), ..Peers::default() };
        assert!(!peers.unreachable(31, 1_000 * UNREACHABLE), "it is connected");
        peers.closed(peer, 6, true, 5);
        assert!(!peers.unreachable(31, 5 + UNREACHABLE), "that was an older connection");
        peers.closed(peer, 7, true, 9);
        assert!(!peers.unreachable(31, 8 + UNREACHABLE));
        assert!(peers.unreachable(31, 9 + UNREACHABLE));
        assert!(!peers.unreachable(99, 9 + UNREACHABLE), "a target that nobody knows");
    }

    #[test]
    fn a_newer_connection_fences_the_older() {
        let mut peers = Peers::default();
        let peer = PeerKey { node: 2, shard: 0 };
        assert_eq!(peers.accept(peer, 5, 10), Ok(None));
        peers.accepted(peer, 100);
        assert!(peers.accept(peer, 5, 10).is_err(), "the same again");
        assert!(peers.accept(peer, 4, 99).is_err(), "an older start");
        assert_eq!(peers.accept(peer, 5, 11), Ok(Some(100)));
        peers.accepted(peer, 101);
        peers.closed(peer, 100, false, 0);
        assert_eq!(peers.conn_for(peer, true), Some(101), "the end of the older one changes nothing");
        assert_eq!(peers.accept(peer, 6, 1), Ok(Some(101)), "a new start counts from the beginning");
        assert_eq!(peers.conn_for(peer, true), None);
    }
}
