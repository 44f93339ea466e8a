//! Registration: who a node is, which start of it this is, which targets it brings.
//!
//! What must hold: at most one living process per node id; incarnations only grow; a target keeps its id and uuid for
//! good; once the new start is let in, every place of the former one counts as out.

use std::collections::BTreeSet;

use catena_types::{ChainId, Code, Failure, Incarnation, NodeId, TargetId, Time};
use catena_wire::manager::{RegisterReply, RegisterRequest, TargetOffer};

use super::{Manager, NodeLive, Outcome};
use crate::mutation::{Mutation, is};
use crate::state::{NodeRow, Opening, TargetRow};

/// Bytes of a target's uuid.
const UUID_BYTES: usize = 16;

/// A process that has registered under a known node id and has not yet been heard of again. The request alone may be a
/// late one of a process that is gone; the heartbeat that follows it is not.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    incarnation: Incarnation,
    request: RegisterRequest,
}

impl Manager {
    /// A node starts. `now` is read after the request was received. A start of a known node takes over with its first
    /// heartbeat.
    pub fn register(&mut self, now: Time, request: &RegisterRequest) -> Outcome<RegisterReply> {
        self.wake(now);
        if let Err(failure) = self.check_registration(now, request) {
            return self.outcome(RegisterReply { failure: Some(failure), ..RegisterReply::default() });
        }
        let incarnation = match self.state.nodes.get(&request.node) {
            None => {
                let incarnation = self.next_incarnation();
                self.admit(incarnation, request, now);
                incarnation
            }
            Some(row) if row.process == request.process => row.incarnation,
            Some(_) => self.note_candidate(request),
        };
        let targets = request.targets.iter().map(|offer| self.id_of(request.node, incarnation, offer)).collect();
        self.publish();
        let reply = RegisterReply {
            failure: None,
            cluster: self.state.cluster,
            incarnation,
            targets,
            lease_ms: self.settings.lease_ms,
            heartbeat_ms: self.settings.heartbeat_ms,
        };
        self.outcome(reply)
    }

    fn next_incarnation(&mut self) -> Incarnation {
        let incarnation = self.state.next_incarnation;
        self.state.next_incarnation += 1;
        self.changed = true;
        incarnation
    }

    fn note_candidate(&mut self, request: &RegisterRequest) -> Incarnation {
        let known = self.candidates.get(&request.node).filter(|c| c.request.process == request.process);
        let incarnation = known.map(|c| c.incarnation).unwrap_or_else(|| self.next_incarnation());
        self.candidates.insert(request.node, Candidate { incarnation, request: request.clone() });
        incarnation
    }

    /// The first heartbeat of a candidate: it lives, and so holds the locks it showed.
    pub(super) fn admit_candidate(&mut self, node: NodeId, incarnation: Incarnation, now: Time) {
        if self.candidates.get(&node).is_some_and(|c| c.incarnation == incarnation)
            && let Some(candidate) = self.candidates.remove(&node)
        {
            self.admit(incarnation, &candidate.request, now);
        }
    }

    /// A new start of the node. Whatever its former start held is gone from now on.
    fn admit(&mut self, incarnation: Incarnation, request: &RegisterRequest, now: Time) {
        let row = NodeRow {
            incarnation,
            process: request.process,
            shard_addrs: request.shard_addrs.clone(),
            alive: true,
            rack: request.rack.clone(),
            draining: self.state.nodes.get(&request.node).is_some_and(|n| n.draining),
        };
        self.state.nodes.insert(request.node, row);
        self.nodes.insert(request.node, NodeLive { heard: now, seq: None });
        let owned: Vec<TargetId> = self.state.targets.iter().filter(|(_, t)| t.node == request.node).map(|(&id, _)| id).collect();
        for target in owned {
            let live = self.targets.entry(target).or_default();
            live.gone.get_or_insert(now);
            (live.report, live.heard, live.listed) = (None, None, 0);
        }
        for offer in &request.targets {
            let id = self.id_of(request.node, incarnation, offer);
            self.targets.entry(id).or_default().registered = now;
            if let Some(row) = self.state.targets.get_mut(&id) {
                (row.shard, row.offered, row.lock) = (offer.shard, incarnation, offer.lock);
            }
        }
        self.touch_routing();
        let former: BTreeSet<ChainId> =
            self.state.targets.values().filter(|t| t.node == request.node && t.chain != 0).map(|t| t.chain).collect();
        self.evaluate(former, now);
    }

    /// The target's id, given now if it is new.
    fn id_of(&mut self, node: NodeId, incarnation: Incarnation, offer: &TargetOffer) -> TargetId {
        if let Some(known) = self.target_of(&offer.uuid) {
            return known;
        }
        if is(Mutation::AnyDisk) && offer.target != 0 {
            return offer.target;
        }
        let id = self.state.next_target;
        self.state.next_target += 1;
        let opened = Opening { incarnation, count: None };
        let (shard, uuid) = (offer.shard, offer.uuid.clone());
        let row =
            TargetRow { node, shard, uuid, chain: 0, offered: incarnation, lock: 0, opened, born: incarnation, draining: false };
        self.state.targets.insert(id, row);
        self.touch_routing();
        id
    }

    fn target_of(&self, uuid: &[u8]) -> Option<TargetId> {
        self.state.targets.iter().find(|(_, t)| t.uuid == uuid).map(|(&id, _)| id)
    }

    fn check_registration(&self, now: Time, request: &RegisterRequest) -> Result<(), Failure> {
        let invalid = |text: String| Failure::new(Code::InvalidArgument, text);
        let ours = self.state.cluster;
        let id = request.node;
        if request.cluster != 0 && request.cluster != ours {
            let theirs = request.cluster;
            let text = format!(
                "the targets of node {id} belong to cluster {theirs:016x}, this manager to {ours:016x}: \
                 start the node with its own manager, or with empty directories"
            );
            return Err(Failure::new(Code::WrongCluster, text));
        }
        if id == 0 || request.process == 0 {
            return Err(invalid("node ids and process numbers start at 1".to_owned()));
        }
        let mut uuids = BTreeSet::new();
        for offer in &request.targets {
            self.check_offer(request, offer).map_err(invalid)?;
            if !uuids.insert(&offer.uuid) {
                return Err(invalid(format!("node {id} offers target uuid {} twice", hex(&offer.uuid))));
            }
        }
        self.check_duplicate(now, request)
    }

    fn check_offer(&self, request: &RegisterRequest, offer: &TargetOffer) -> Result<(), String> {
        let (node, claimed, uuid) = (request.node, offer.target, hex(&offer.uuid));
        if offer.uuid.len() != UUID_BYTES {
            return Err(format!("target uuid {uuid} is not of {UUID_BYTES} bytes"));
        }
        if offer.shard as usize >= request.shard_addrs.len() {
            return Err(format!("target {uuid} is on shard {}, which has no address", offer.shard));
        }
        let known = self.target_of(&offer.uuid);
        if let Some(row) = known.and_then(|id| self.state.targets.get(&id)).filter(|row| row.node != node) {
            let (id, home) = (known.unwrap_or_default(), row.node);
            return Err(format!("target {id} (uuid {uuid}) belongs to node {home}, not to node {node}: start it there"));
        }
        if claimed == 0 || known == Some(claimed) || is(Mutation::AnyDisk) {
            return Ok(());
        }
        Err(match (known, self.state.targets.get(&claimed)) {
            (Some(id), _) => {
                format!("uuid {uuid} is target {id} here, node {node} calls it {claimed}: its superblock is damaged")
            }
            (None, Some(row)) => format!(
                "target {claimed} has uuid {}, node {node} offers it with uuid {uuid}: a replacement is offered as a new target",
                hex(&row.uuid)
            ),
            (None, None) => format!(
                "target {claimed} (uuid {uuid}) is not known here: the node or the manager has the directory of another cluster"
            ),
        })
    }

    /// A second process is let in when the first surely serves no more: its lease has ended, or the new one holds the
    /// locks of all its targets, which no two living processes can. A copy of a target has a lock of its own: it shows
    /// nothing about who has the first.
    fn check_duplicate(&self, now: Time, request: &RegisterRequest) -> Result<(), Failure> {
        let id = request.node;
        let Some(row) = self.state.nodes.get(&id).filter(|row| row.process != request.process) else { return Ok(()) };
        let ends = self.node_ends(id);
        if ends <= now || self.shows_locks(request) {
            return Ok(());
        }
        let wait = ends - now;
        let text = format!(
            "node {id} is held by a process at {}, whose lease may run for another {} ms: give this process another \
             node id and empty directories (a copy of a node's directory is no second node), or, if that one has ended, \
             try again then",
            row.shard_addrs.first().map_or("an unknown address", String::as_str),
            wait / 1_000_000 + 1
        );
        Err(Failure::new(Code::DuplicateNode, text).with_version(wait / 1_000))
    }

    fn shows_locks(&self, request: &RegisterRequest) -> bool {
        let mut held = self.state.offered_by(request.node).peekable();
        let same_lock = |offer: &TargetOffer, t: &TargetRow| (offer.lock != 0 && offer.lock == t.lock) || is(Mutation::AnyCopy);
        let shown = |t: &TargetRow| request.targets.iter().any(|offer| offer.uuid == t.uuid && same_lock(offer, t));
        held.peek().is_some() && held.all(|(_, t)| shown(t))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
