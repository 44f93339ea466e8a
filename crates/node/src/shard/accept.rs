//! Connections that others open to this shard, and the tasks that read.

use std::rc::Rc;

use catena_net::{FrameReceiver, FrameSender, Incoming, Listener, Mover, accept_lane, check_hello, hello_reply, members_only};
use catena_types::{Code, Failure};
use catena_wire::header::FLAG_PULL;
use catena_wire::hello::{Hello, HelloReply};
use tokio::sync::mpsc;

use super::peers::PeerKey;
use super::{Conn, ConnId, Inbox, Shard};

/// Passes everybody who has said hello to the shard.
pub(super) async fn accept_all(mut listener: Listener, inbox: mpsc::UnboundedSender<Inbox>) {
    loop {
        let incoming = listener.accept().await;
        if inbox.send(Inbox::Incoming(incoming)).is_err() {
            return;
        }
    }
}

/// Passes frames to the shard until the connection ends.
pub(super) async fn read_all(conn: ConnId, mut receiver: FrameReceiver, inbox: mpsc::UnboundedSender<Inbox>) {
    loop {
        match receiver.recv().await {
            Ok(Some(frame)) => {
                if inbox.send(Inbox::Frame(conn, frame)).is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(e) => {
                tracing::debug!(peer = receiver.peer(), "connection lost: {e}");
                break;
            }
        }
    }
    // The shard may be gone.
    let _ = inbox.send(Inbox::Closed(conn));
}

/// The same for a connection with a client: payloads that are not in their frames are fetched first, several at a time.
async fn read_client(
    conn: ConnId,
    mut receiver: FrameReceiver,
    sender: FrameSender,
    mover: Rc<Mover>,
    inbox: mpsc::UnboundedSender<Inbox>,
) {
    loop {
        match receiver.recv().await {
            Ok(Some(frame)) if frame.flags & FLAG_PULL != 0 => {
                // No further frame is read before this payload has its memory.
                let turn = mover.turn(&frame).await;
                let (mover, sender, inbox) = (mover.clone(), sender.clone(), inbox.clone());
                tokio::task::spawn_local(async move {
                    // Whoever is gone needs no answer; the shard may be gone too.
                    match mover.fetch(frame).await {
                        Ok(frame) => drop(inbox.send(Inbox::Frame(conn, frame))),
                        Err(refusal) => drop(sender.send(refusal)),
                    }
                    drop(turn);
                });
            }
            Ok(Some(frame)) => {
                if inbox.send(Inbox::Frame(conn, frame)).is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(e) => {
                tracing::debug!(peer = receiver.peer(), "connection lost: {e}");
                break;
            }
        }
    }
    // The shard may be gone.
    let _ = inbox.send(Inbox::Closed(conn));
}

impl Shard {
    pub(super) fn on_incoming(&mut self, incoming: Incoming) {
        match self.admit_connection(&incoming.hello, incoming.member) {
            Ok(peer) => self.accept(incoming, peer),
            Err(failure) => incoming.refuse(failure),
        }
    }

    /// Who it is; an older connection of the same link is closed.
    fn admit_connection(&mut self, hello: &Hello, member: bool) -> Result<Option<PeerKey>, Failure> {
        let Some(identity) = &self.identity else {
            return Err(Failure::new(Code::NotServing, "this node is starting; try again"));
        };
        check_hello(hello, identity.cluster)?;
        if hello.node == 0 {
            return Ok(None);
        }
        if !member {
            return Err(members_only("a connection between nodes"));
        }
        let peer = PeerKey { node: hello.node, shard: hello.shard };
        let known = self.routing.as_ref().and_then(|r| r.node(peer.node)).map_or(0, |n| n.incarnation);
        if hello.incarnation < known {
            let text = format!("you are start {} of node {}, which has started anew as {known}", hello.incarnation, peer.node);
            return Err(Failure::new(Code::DuplicateNode, text));
        }
        if let Some(older) = self.peers.accept(peer, hello.incarnation, hello.epoch)? {
            self.drop_conn(older, "replaced by a newer connection");
        }
        Ok(Some(peer))
    }

    fn accept(&mut self, incoming: Incoming, peer: Option<PeerKey>) {
        let Some(identity) = &self.identity else { return };
        let (lane, ours) = accept_lane(self.one_sided.as_ref().filter(|_| peer.is_none()), &incoming.hello).unzip();
        let reply = HelloReply { lane: ours, ..hello_reply(identity.cluster, identity.node, identity.incarnation) };
        let (sender, receiver) = incoming.accept(reply);
        let conn = super::next_id(&self.next_conn);
        let mover = lane.map(|lane| Rc::new(Mover::new(lane, self.arena.clone())));
        let inbox = self.inbox.clone();
        let reader = match &mover {
            Some(mover) => tokio::task::spawn_local(read_client(conn, receiver, sender.clone(), mover.clone(), inbox)),
            None => tokio::task::spawn_local(read_all(conn, receiver, inbox)),
        };
        let reader = reader.abort_handle();
        if let Some(peer) = peer {
            self.peers.accepted(peer, conn);
        }
        self.conns.insert(conn, Conn { sender, peer, outgoing: false, reader, mover });
    }
}
