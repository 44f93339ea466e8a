//! One shard: a thread, its port, its ring, its targets, and the loop that turns them.
//!
//! A turn takes everything that has arrived – frames, completions, ticks – through the state machines, then lets the
//! engines submit, until nothing more follows at once. The connections' writers run after it, so that what arrived
//! together leaves together. The clock is read after an event has been received, never before (amendment H11).
//!
//! `accept` brings frames in, `requests` checks those of clients, `peers` those of other targets and keeps the links,
//! `targets` owns state machines and stores.

mod accept;
mod admission;
mod peers;
mod requests;
mod targets;
mod thread;
mod trace;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use catena_arena::Arena;
use catena_chain::{Command, Event, RequestId};
use catena_net::{Frame, FrameSender, Incoming, Mover, NetError, OneSided, RemoteBuffer, Security};
use catena_types::{Incarnation, NodeId, Payload, Routing, ShardId, TargetId, Time};
use catena_wire::header::Kind;
use catena_wire::manager::TargetReport;
use catena_wire::peer::PeerMsg;
use tokio::sync::{mpsc, oneshot};

use crate::clock::now;
use crate::status::{Served, ShardStatus};
use crate::storage::{Completions, Storage};
use crate::{Limits, NodeError};
use admission::{Admission, Cost};
use peers::{PeerKey, Peers};
use targets::Targets;
pub(crate) use thread::{ShardConfig, ShardHandle, Started};

/// Names a connection within a shard, growing. The epoch of a link is the number of its connection.
type ConnId = u64;

/// Who this node is, once the manager has said so.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) cluster: u64,
    pub(crate) incarnation: Incarnation,
}

/// A lease for a target as it was when the heartbeat that asked for it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) target: TargetId,
    pub(crate) open_count: u64,
    pub(crate) until: Time,
    pub(crate) routing: u64,
}

/// What a shard reports for a heartbeat.
#[derive(Debug)]
pub(crate) struct ShardReport {
    pub(crate) shard: ShardId,
    pub(crate) targets: Vec<TargetReport>,
}

/// What reaches a shard.
pub(crate) enum Inbox {
    /// A frame of a connection. Those of connections that are not known (any more) are dropped: links are fenced.
    Frame(ConnId, Frame),
    /// A connection has ended.
    Closed(ConnId),
    /// Somebody has said hello.
    Incoming(Incoming),
    /// A connection this shard opened is up; the node at its other end is of that incarnation.
    Connected { peer: PeerKey, conn: ConnId, sender: FrameSender, incarnation: Incarnation },
    /// The manager has accepted this node; ids of the targets in the order of their offers.
    Adopt { identity: Identity, targets: Vec<TargetId>, done: oneshot::Sender<Result<(), NodeError>> },
    /// Newer routing.
    Routing(Arc<Routing>),
    /// Leases.
    Grants(Vec<Grant>),
    /// What is to be said in the next heartbeat?
    Report(mpsc::UnboundedSender<ShardReport>),
    /// Serve nothing more.
    Stop,
    /// For tests and tools.
    Status(oneshot::Sender<ShardStatus>),
    /// Close the targets and end.
    Close(oneshot::Sender<()>),
}

/// A connection.
struct Conn {
    sender: FrameSender,
    /// The shard at the other end, if it is one.
    peer: Option<PeerKey>,
    /// Opened by this shard.
    outgoing: bool,
    reader: tokio::task::AbortHandle,
    /// Moves payloads beside the frames, if the client at the other end can.
    mover: Option<Rc<Mover>>,
}

/// A client request that waits for its reply.
struct Waiting {
    conn: ConnId,
    /// The client's name for it.
    id: u64,
    trace: u64,
    /// Where the client has room for the reply's payload, if it has said so.
    room: Option<RemoteBuffer>,
    cost: Cost,
    served: Served,
    /// When it was received.
    since: Time,
}

/// One shard.
struct Shard {
    number: ShardId,
    limits: Limits,
    security: Security,
    one_sided: Option<Arc<dyn OneSided>>,
    arena: Arena,
    storage: Storage,
    inbox: mpsc::UnboundedSender<Inbox>,
    changed: Arc<tokio::sync::Notify>,
    identity: Option<Identity>,
    routing: Option<Arc<Routing>>,
    targets: Targets,
    conns: HashMap<ConnId, Conn>,
    next_conn: Rc<std::cell::Cell<ConnId>>,
    peers: Peers,
    waiting: HashMap<RequestId, Waiting>,
    next_request: RequestId,
    admission: Admission,
    /// Messages between targets of this shard.
    local: Vec<(PeerMsg, Option<Payload<Bytes>>)>,
    commands: Vec<Command<Bytes>>,
    closing: Option<oneshot::Sender<()>>,
    status: ShardStatus,
}

impl Shard {
    /// The loop. Ends after [`Inbox::Close`], or when nobody holds the shard any more.
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Inbox>, mut completions: Completions) {
        const BATCH: usize = 1024;
        let mut batch = Vec::with_capacity(BATCH);
        let timer = tokio::time::sleep(std::time::Duration::ZERO);
        tokio::pin!(timer);
        let mut armed: Option<Time> = None;
        loop {
            let wake = self.targets.next_wake();
            if let Some(at) = wake
                && armed.is_none_or(|armed| at < armed)
            {
                timer.as_mut().reset(tokio::time::Instant::now() + crate::clock::until(now(), at));
                armed = Some(at);
            }
            tokio::select! {
                biased;
                _ = inbox.recv_many(&mut batch, BATCH) => {}
                () = completions.wait() => {}
                () = &mut timer, if armed.is_some() => armed = None,
            }
            self.status.turns += 1;
            for message in batch.drain(..) {
                self.take(message);
            }
            self.settle();
            if self.closing.is_some() {
                return self.close().await;
            }
        }
    }

    /// Ticks and completions, until nothing more follows at once.
    fn settle(&mut self) {
        self.targets.tick(now(), &mut self.commands);
        self.execute();
        loop {
            let mut progress = self.targets.turn(&mut self.commands);
            self.execute();
            for (msg, payload) in std::mem::take(&mut self.local) {
                progress = true;
                self.give(msg.to, Event::Peer { msg, payload });
            }
            if !progress {
                break;
            }
        }
        for target in self.targets.take_reopens() {
            self.targets.reopen(target, &self.storage, &mut self.commands);
            self.execute();
        }
        if self.targets.take_changed() {
            self.changed.notify_one();
        }
    }

    fn take(&mut self, message: Inbox) {
        match message {
            Inbox::Frame(conn, frame) => self.on_frame(conn, frame),
            Inbox::Closed(conn) => self.on_closed(conn),
            Inbox::Incoming(incoming) => self.on_incoming(incoming),
            Inbox::Connected { peer, conn, sender, incarnation } => self.on_connected(peer, conn, sender, incarnation),
            Inbox::Adopt { identity, targets, done } => {
                let adopted = self.targets.adopt(&identity, &targets);
                self.identity = Some(identity);
                // Whoever asked may have given up.
                let _ = done.send(adopted);
            }
            Inbox::Routing(routing) => self.on_routing(routing),
            Inbox::Grants(grants) => {
                for grant in &grants {
                    self.targets.grant(grant, self.routing.as_deref(), now(), &mut self.commands);
                }
                self.execute();
            }
            Inbox::Report(reply) => {
                // The control task may be gone.
                let now = now();
                let targets = self.targets.reports(|target| self.peers.unreachable(target, now));
                let _ = reply.send(ShardReport { shard: self.number, targets });
            }
            Inbox::Stop => {
                self.targets.stop(now(), &mut self.commands);
                self.execute();
            }
            Inbox::Status(reply) => drop(reply.send(self.status())),
            Inbox::Close(done) => self.closing = Some(done),
        }
    }

    fn on_frame(&mut self, conn: ConnId, frame: Frame) {
        self.status.frames += 1;
        self.status.received_bytes += frame.wire_len() as u64;
        let Some(known) = self.conns.get(&conn) else {
            self.status.fenced += 1;
            return;
        };
        match (known.peer, frame.kind) {
            (Some(peer), Kind::Peer) => self.on_peer_frame(conn, peer, frame),
            (None, Kind::Update | Kind::Read | Kind::Inspect | Kind::List | Kind::Target) => self.on_request(conn, frame),
            (peer, got) => {
                let why = NetError::Unexpected { got, expected: "a request to a node" }.to_string();
                match peer {
                    Some(peer) => self.lose_conn(conn, peer, &why),
                    None => self.drop_conn(conn, &why),
                }
            }
        }
    }

    /// Ends a connection that cannot be used.
    fn drop_conn(&mut self, conn: ConnId, why: &str) {
        if let Some(known) = self.conns.get(&conn) {
            tracing::debug!(shard = self.number, peer = known.sender.peer(), "connection closed: {why}");
            known.sender.close();
            known.reader.abort();
            self.on_closed(conn);
        }
    }

    fn on_closed(&mut self, conn: ConnId) {
        if let Some(known) = self.conns.remove(&conn)
            && let Some(peer) = known.peer
        {
            self.peers.closed(peer, conn, known.outgoing, now());
        }
    }

    fn on_routing(&mut self, routing: Arc<Routing>) {
        if self.routing.as_ref().is_some_and(|have| have.version >= routing.version) {
            return;
        }
        self.status.routing = routing.version;
        self.targets.apply(&routing, now(), &mut self.commands);
        self.routing = Some(routing);
        self.refresh_links();
        self.execute();
    }

    /// Gives a target an event, and carries out what follows.
    fn give(&mut self, target: TargetId, event: Event<Bytes>) {
        self.targets.handle(target, now(), event, &mut self.commands);
        self.execute();
    }

    /// Carries out commands in order.
    fn execute(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Send { msg, payload } => self.send_to_target(msg, payload),
                Command::UpdateReply { request, reply } => self.answer(request, Kind::UpdateReply, &reply, None),
                Command::ReadReply { request, reply, payload } => self.answer(request, Kind::ReadReply, &reply, payload),
                Command::ListReply { request, reply } => self.answer(request, Kind::ListReply, &reply, None),
                // The state machine says this of itself; which one it was is known where it was called.
                Command::Reopen { .. } => {}
            }
        }
        self.commands = commands;
    }

    fn answer(&mut self, request: RequestId, kind: Kind, reply: &impl prost::Message, payload: Option<Payload<Bytes>>) {
        let Some(waiting) = self.waiting.remove(&request) else { return };
        self.admission.end(waiting.conn, waiting.cost);
        self.status.served[waiting.served as usize].note(now().saturating_sub(waiting.since));
        let Some(conn) = self.conns.get(&waiting.conn) else { return };
        let mut frame = Frame::new(kind, waiting.id, reply).reply();
        frame.trace_id = waiting.trace;
        if let Some(payload) = payload {
            frame = frame.with_payload(payload.data, payload.crc);
        }
        self.status.sent_bytes += frame.wire_len() as u64;
        match (&conn.mover, waiting.room) {
            (Some(mover), Some(room)) => {
                let (mover, sender) = (mover.clone(), conn.sender.clone());
                tokio::task::spawn_local(async move { mover.bring(room, frame, sender).await });
            }
            // A client that is gone needs no answer.
            _ => drop(conn.sender.send(frame)),
        }
    }

    fn status(&self) -> ShardStatus {
        ShardStatus {
            connections: self.conns.len(),
            targets: self.targets.status(now()),
            busy: self.admission.refused,
            updates: self.admission.updates(),
            reads: self.admission.reads(),
            ..self.status.clone()
        }
    }

    async fn close(mut self) {
        for conn in self.conns.values() {
            conn.sender.close();
        }
        // Lets the writers have their turn with what was queued.
        tokio::task::yield_now().await;
        self.peers.end();
        self.targets.close();
        if let Some(done) = self.closing.take() {
            // Whoever asked may have given up waiting.
            let _ = done.send(());
        }
    }
}

/// The next number of a connection.
fn next_id(counter: &std::cell::Cell<ConnId>) -> ConnId {
    let id = counter.get();
    counter.set(id + 1);
    id
}

/// What came with a frame, for the state machine; its checksum has been compared.
fn payload_of(frame: &Frame) -> Payload<Bytes> {
    let (data, sums) = (frame.payload.clone(), frame.payload_sums.clone());
    Payload { len: data.len() as u32, crc: frame.payload_crc, data, sums }
}
