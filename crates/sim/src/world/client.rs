//! Clients: the real retry state machines of the client library over a network that loses and delays.

use std::sync::Arc;

use bytes::Bytes;
use catena_chain::{ClientRead, ClientUpdate, Event, RequestId};
use catena_client::ErrorKind;
use catena_client::core::{Attempt, Channel, Lost, Place, ReadCall, Step, Tuning, UpdateCall};
use catena_types::{ChunkKey, Code, Failure, Op, OpKind, Payload, Precondition, Routing, SessionId, Tag, TargetId, Time};
use catena_wire::client::{ListReply, ReadReply, UpdateReply};

use super::list::Listing;
use super::manager::MANAGER;
use super::{Ev, MS, Plan, Rule, World};
use crate::linear::{Action, OpId, Outcome, Seen};
use crate::rng::Rng;

pub(super) struct Client {
    pub(super) lanes: Vec<Lane>,
    routing: Arc<Routing>,
    refreshing: bool,
}

pub(super) struct Lane {
    channel: Channel,
    /// Another one, which is taken up now and then: what is not used for long is forgotten.
    spare: Channel,
    call: Option<Call>,
    /// Number of the present call: late answers name another.
    number: u64,
    /// A refusal that comes behind the next attempt under a newer chain version.
    late: Option<Answer>,
}

pub(super) struct Call {
    pub(super) id: OpId,
    pub(super) key: ChunkKey,
    pub(super) what: What,
}

pub(super) enum What {
    Update { call: UpdateCall, op: Op, data: Bytes, precondition: Precondition, tag: Tag },
    Read { call: ReadCall, offset: u32, len: u32, deadline: Time, relaxed: bool },
    List(Listing),
}

/// A request on its way, with the way back.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) client: usize,
    pub(super) lane: usize,
    pub(super) call: u64,
    pub(super) attempt: Attempt,
    pub(super) event: Event<Bytes>,
}

/// An answer on its way.
pub(super) struct Answer {
    client: usize,
    lane: usize,
    call: u64,
    attempt: Attempt,
    what: Answered,
}

pub(super) enum Answered {
    Update(UpdateReply),
    Read(ReadReply, Bytes),
    List(ListReply),
    Failure(Failure),
    Lost(Lost),
}

impl Client {
    pub(super) fn all(plan: &Plan, rng: &mut Rng) -> Vec<Client> {
        (0..plan.clients)
            .map(|n| {
                let client = rng.bits() << 8 | n as u64;
                let new = |channel| Channel::new(SessionId { client, channel });
                let lane = |n| Lane { channel: new(n), spare: new(n + 100), call: None, number: 0, late: None };
                Client { lanes: (0..plan.lanes as u32).map(lane).collect(), routing: Arc::default(), refreshing: false }
            })
            .collect()
    }

    /// Whether nothing is in progress.
    pub(super) fn idle(&self) -> bool {
        self.lanes.iter().all(|l| l.call.is_none())
    }
}

/// The key of a chunk.
pub(super) fn key(n: u64) -> ChunkKey {
    ChunkKey::new(format!("k{n}").as_bytes()).expect("short and not empty")
}

impl World {
    fn tuning(&self) -> Tuning {
        Tuning { update_attempt: self.plan.attempt, read_attempt: self.plan.attempt / 2, ..Tuning::default() }
    }

    /// A lane has nothing to do, or its time has come.
    pub(super) fn on_lane(&mut self, client: usize, lane: usize, call: u64) {
        if self.clients[client].lanes[lane].number != call {
            return;
        }
        if self.clients[client].lanes[lane].call.is_none() {
            if self.faults_stopped {
                return;
            }
            if self.manager.initialized() && !self.clients[client].routing.table.is_empty() {
                self.begin(client, lane);
            } else {
                self.refresh(client);
                return self.after(20 * MS, Ev::Lane { client, lane, call });
            }
        }
        self.step(client, lane);
    }

    fn begin(&mut self, client: usize, lane: usize) {
        let key = self.keys[self.rng.below(self.plan.keys) as usize].clone();
        let routing = self.clients[client].routing.clone();
        let Some(chain) = routing.chain_of(key.as_bytes()) else { return };
        if self.rng.chance(1, 12)
            && let Some(call) = self.begin_list(client, lane, chain)
        {
            let lane = &mut self.clients[client].lanes[lane];
            lane.number += 1;
            lane.call = Some(call);
            return;
        }
        let deadline = self.now + self.plan.patience;
        let (action, what) = if self.rng.chance(2, 5) {
            let (offset, len) = (self.random_offset(), self.rng.below(80) as u32);
            let place = Place::Any { start: self.rng.bits() };
            let call = ReadCall::new(chain, place, len, deadline, self.tuning());
            let relaxed = self.rng.chance(1, 10);
            (Action::Read { offset, len }, What::Read { call, offset, len, deadline, relaxed })
        } else {
            let (op, data, precondition) = self.random_update();
            let tuning = self.tuning();
            let other = self.rng.chance(1, 60);
            let Lane { channel, spare, .. } = &mut self.clients[client].lanes[lane];
            if other {
                std::mem::swap(channel, spare);
            }
            let call = UpdateCall::new(chain, op.payload_len(), !channel.knows(chain), deadline, tuning);
            let tag = channel.next_tag();
            (Action::Update { op, data: data.clone(), precondition }, What::Update { call, op, data, precondition, tag })
        };
        let id = self.history.invoke(self.now, (client * 8 + lane) as u64, key.as_bytes(), action.clone());
        if let What::Update { tag, .. } = &what {
            self.ledger.ask(id, *tag);
        }
        self.note(|| format!("client {client}.{lane} #{id} {key} {action:?}"));
        let lane = &mut self.clients[client].lanes[lane];
        lane.number += 1;
        lane.call = Some(Call { id, key, what });
    }

    fn random_offset(&mut self) -> u32 {
        match self.rng.below(12) {
            0 => 4090 + self.rng.below(6) as u32,
            1..=3 => self.rng.below(u64::from(self.plan.chunk_size)) as u32,
            _ => self.rng.below(40) as u32,
        }
    }

    fn random_update(&mut self) -> (Op, Bytes, Precondition) {
        let offset = self.random_offset();
        let chunk_size = self.plan.chunk_size;
        let op = match self.rng.below(20) {
            0 | 1 => Op::remove(),
            2 => Op::truncate(offset),
            3 => Op::extend(offset + 7),
            _ => Op::write(offset, (1 + self.rng.below(24) as u32).min(chunk_size - offset)),
        };
        // Every payload is one of a kind, so that one applied twice is seen.
        let mut data = Vec::new();
        while data.len() < op.payload_len() as usize {
            data.extend_from_slice(&self.rng.bits().to_le_bytes());
        }
        data.truncate(op.payload_len() as usize);
        let precondition = match self.rng.below(12) {
            0 => Precondition::Absent,
            1 => Precondition::Exists,
            2 => Precondition::Version(1 + self.rng.below(self.ops / 4 + 4)),
            _ => Precondition::Any,
        };
        (op, data.into(), precondition)
    }

    fn step(&mut self, client: usize, lane: usize) {
        let now = self.now;
        let routing = self.clients[client].routing.clone();
        let number = self.clients[client].lanes[lane].number;
        let Some(call) = &mut self.clients[client].lanes[lane].call else { return };
        let step = match &mut call.what {
            What::Update { call, .. } => call.step(now, &routing),
            What::Read { call, .. } => call.step(now, &routing, &|_| 0),
            What::List(listing) if !listing.sent => {
                listing.sent = true;
                Step::Send(listing.attempt)
            }
            What::List(listing) if now < listing.attempt.until => Step::Await { until: listing.attempt.until },
            What::List(_) => return self.end_list(client, lane, None),
        };
        match step {
            Step::Send(attempt) => {
                self.send_request(client, lane, attempt);
                self.step(client, lane);
            }
            Step::Await { until } => self.at(until, Ev::Lane { client, lane, call: number }),
            Step::Wait { until, .. } => {
                self.refresh(client);
                self.at(until, Ev::Lane { client, lane, call: number });
            }
            Step::Failed(e) => {
                let Some((update, relaxed)) = self.kind_of(client, lane) else { return };
                let outcome = match e.kind() {
                    _ if relaxed => Outcome::Unknown,
                    ErrorKind::NotFound => Outcome::Absent,
                    ErrorKind::PreconditionFailed { version } => Outcome::PreconditionFailed(Some(version)),
                    ErrorKind::OutcomeUnknown => Outcome::Unknown,
                    _ if update => Outcome::Rejected,
                    _ => Outcome::Unknown,
                };
                self.coverage.hit(format!("client {:?}", e.kind()).chars().take(30).collect::<String>());
                self.end(client, lane, outcome);
            }
        }
    }

    /// Whether it is an update, and whether it is a relaxed read.
    fn kind_of(&self, client: usize, lane: usize) -> Option<(bool, bool)> {
        let call = self.clients[client].lanes[lane].call.as_ref()?;
        Some((matches!(call.what, What::Update { .. }), matches!(call.what, What::Read { relaxed: true, .. })))
    }

    pub(super) fn routing_of_client(&self, client: usize) -> Arc<Routing> {
        self.clients[client].routing.clone()
    }

    /// The call of a lane is over: the next one begins after a pause, which now and then is a long one.
    pub(super) fn take_call(&mut self, client: usize, lane: usize) -> Option<Call> {
        let l = &mut self.clients[client].lanes[lane];
        let call = l.call.take()?;
        l.number += 1;
        let call_number = l.number;
        let think = self.plan.think * if self.rng.chance(1, 32) { 12 } else { 1 };
        self.after(think, Ev::Lane { client, lane, call: call_number });
        Some(call)
    }

    fn send_request(&mut self, client: usize, lane: usize, attempt: Attempt) {
        let l = &self.clients[client].lanes[lane];
        let Some(call) = &l.call else { return };
        let key = call.key.clone();
        let event = match &call.what {
            What::Update { op, data, precondition, tag, .. } => Event::Update(ClientUpdate {
                request: 0,
                chain_ver: attempt.chain_ver,
                key,
                chunk_size: self.plan.chunk_size,
                op: *op,
                precondition: *precondition,
                tag: *tag,
                first: attempt.first,
                explain: attempt.number > 1,
                payload: data.clone().into(),
            }),
            What::List(listing) => World::list_event(listing),
            What::Read { offset, len, deadline, relaxed, .. } => Event::Read(ClientRead {
                request: 0,
                chain_ver: attempt.chain_ver,
                key,
                offset: *offset,
                len: *len,
                relaxed: *relaxed,
                deadline: *deadline,
            }),
        };
        let request = Request { client, lane, call: l.number, attempt, event };
        let mut attempt = attempt;
        if matches!(request.event, Event::Update(_)) && self.rng.chance(1, 256) {
            // To somebody who is not the head, and must say so.
            self.coverage.hit("fault request misdirected");
            let routing = self.clients[client].routing.clone();
            attempt.target = routing.chain(attempt.chain).and_then(|c| c.tail()).unwrap_or(attempt.target);
        }
        self.coverage.hit("client attempt");
        let chain_ver = attempt.chain_ver;
        if let Some(answer) = self.clients[client].lanes[lane].late.take_if(|a| a.attempt.chain_ver < chain_ver) {
            self.at(self.now, Ev::Answer { answer: Box::new(answer) });
        }
        let stalled = self.rng.below(100) < self.plan.stall_in_100;
        match if self.faults_stopped { 99 } else { self.rng.below(100) } {
            0 => self.coverage.hit("fault request lost"),
            _ if stalled && !self.faults_stopped => {
                // An old connection stalls: the request arrives late, perhaps after a newer attempt.
                self.coverage.hit("fault request stalled");
                let until = attempt.until.saturating_sub(self.now);
                let delay = match self.rng.below(3) {
                    0 => self.rng.between(50, 3000) * MS,
                    _ => until + self.rng.delay(self.plan.net * 16 + self.plan.think / 2),
                };
                self.at(self.now + delay, Ev::Request { to: attempt.target, request: Box::new(request) });
            }
            _ => self.after(self.plan.net, Ev::Request { to: attempt.target, request: Box::new(request) }),
        }
    }

    /// A request arrives at the node that owns the target, if it is there.
    pub(super) fn on_request(&mut self, to: TargetId, request: Request) {
        let Some((node, slot)) = self.slot_of(to) else {
            let what = Answered::Lost(Lost::NotSent("connection refused".into()));
            return self.answer(&request, what);
        };
        self.request += 1;
        let id: RequestId = self.request;
        let local = self.nodes[node].local(self.now);
        let mut event = request.event.clone();
        match &mut event {
            Event::Update(update) => update.request = id,
            Event::Read(read) => {
                read.request = id;
                read.deadline = local + read.deadline.saturating_sub(self.now);
            }
            Event::List(list) => list.request = id,
            _ => return,
        }
        self.nodes[node].requests.insert(id, request);
        self.give(node, slot, event);
    }

    pub(super) fn reply_update(&mut self, node: usize, id: RequestId, reply: UpdateReply) {
        let Some(request) = self.nodes[node].requests.remove(&id) else {
            return self.fail(Rule::Answers, format!("request {id} was answered twice, or never asked"));
        };
        let what = match reply.failure.clone() {
            Some(failure) => Answered::Failure(failure),
            None => Answered::Update(reply),
        };
        self.answer(&request, what);
    }

    pub(super) fn reply_read(&mut self, node: usize, id: RequestId, reply: ReadReply, payload: Option<Payload<Bytes>>) {
        let Some(request) = self.nodes[node].requests.remove(&id) else {
            return self.fail(Rule::Answers, format!("request {id} was answered twice, or never asked"));
        };
        let what = match reply.failure.clone() {
            Some(failure) => Answered::Failure(failure),
            None => {
                let bytes = payload.map(|p| p.data).unwrap_or_default();
                if let Event::Read(read) = &request.event {
                    self.coverage.checked(Rule::GoodBytes);
                    let version = (reply.ver, None);
                    let good = if read.relaxed && reply.staged {
                        // The update may have been refused while its bytes were read.
                        self.ledger.compare_staged(&read.key, version, read.offset, &bytes)
                    } else {
                        self.ledger.compare(&read.key, version, read.offset, &bytes)
                    };
                    self.fail_if(good);
                }
                Answered::Read(reply, bytes)
            }
        };
        self.answer(&request, what);
    }

    pub(super) fn answer(&mut self, request: &Request, what: Answered) {
        self.coverage.checked(Rule::Answers);
        if let Answered::Failure(failure) = &what {
            self.coverage.hit(format!("code {:?}", failure.code()));
            if matches!(request.event, Event::Update(_)) {
                self.strike_refusal(failure, request.attempt.number);
            }
        }
        if !self.faults_stopped && self.rng.chance(1, 100) {
            return self.coverage.hit("fault answer lost");
        }
        let late = match &what {
            Answered::Failure(f) if matches!(request.event, Event::Update(_)) => self.delays_refusal(f, request.attempt.target),
            _ => false,
        };
        let answer = Answer { client: request.client, lane: request.lane, call: request.call, attempt: request.attempt, what };
        if late {
            self.clients[request.client].lanes[request.lane].late = Some(answer);
            return;
        }
        self.after(self.plan.net, Ev::Answer { answer: Box::new(answer) });
    }

    pub(super) fn on_answer(&mut self, answer: Answer) {
        let Answer { client, lane, call: number, attempt, what } = answer;
        let now = self.now;
        let l = &mut self.clients[client].lanes[lane];
        if l.number != number {
            return;
        }
        let Some(call) = &mut l.call else { return };
        match (&mut call.what, what) {
            (What::Update { op, .. }, Answered::Update(reply)) => {
                l.channel.committed(attempt.chain);
                let seen = Seen { ver: Some(reply.ver), len: Some(reply.len), checksum: Some(reply.checksum) };
                let seen = if op.kind() == OpKind::Remove { Seen { len: None, checksum: None, ..seen } } else { seen };
                return self.end(client, lane, Outcome::Updated(seen));
            }
            (What::Read { relaxed: true, .. }, Answered::Read(..)) => {
                // Nothing is promised of the order, only that these are the bytes of that version.
                self.coverage.hit("op relaxed read");
                return self.end(client, lane, Outcome::Unknown);
            }
            (What::List(_), Answered::List(reply)) => return self.end_list(client, lane, Some(reply)),
            (What::List(_), Answered::Failure(_) | Answered::Lost(_)) => return self.end_list(client, lane, None),
            (What::Read { .. }, Answered::Read(reply, bytes)) => {
                let seen = Seen { ver: Some(reply.ver), len: Some(reply.chunk_len), checksum: Some(reply.checksum) };
                return self.end(client, lane, Outcome::Read { bytes, seen });
            }
            (What::Update { call, .. }, Answered::Failure(failure)) => {
                if failure.code() == Code::SessionUnknown {
                    l.channel.forgotten(attempt.chain);
                }
                call.failed(attempt.number, &failure, now);
            }
            (What::Read { call, .. }, Answered::Failure(failure)) => call.failed(attempt.number, &failure, now),
            (What::Update { call, .. }, Answered::Lost(how)) => call.lost(attempt.number, how, now),
            (What::Read { call, .. }, Answered::Lost(how)) => call.lost(attempt.number, how, now),
            _ => {
                return self.fail(Rule::Answers, "an answer of the wrong kind".into());
            }
        }
        self.step(client, lane);
    }

    /// The operation of a lane has ended.
    fn end(&mut self, client: usize, lane: usize, outcome: Outcome) {
        let Some(call) = self.take_call(client, lane) else { return };
        self.ops += 1;
        self.note(|| format!("client {client}.{lane} #{} ends: {outcome:?}", call.id));
        self.coverage.hit(match &outcome {
            Outcome::Updated(_) => "op updated",
            Outcome::Read { .. } => "op read",
            Outcome::Absent => "op absent",
            Outcome::PreconditionFailed(_) => "op precondition failed",
            Outcome::Rejected => "op rejected",
            Outcome::Unknown => "op unknown",
        });
        match outcome {
            Outcome::Updated(Seen { ver: Some(ver), .. }) => self.saw(&call.key, ver, true),
            Outcome::Read { seen: Seen { ver: Some(ver), .. }, .. } => self.saw(&call.key, ver, false),
            Outcome::Rejected | Outcome::Absent | Outcome::PreconditionFailed(_) => {
                self.coverage.checked(Rule::RejectsFinal);
                let refused = self.ledger.refuse(call.id);
                self.fail_if(refused);
            }
            _ => {}
        }
        self.history.complete(self.now, call.id, outcome);
    }

    /// Asks the manager for routing.
    fn refresh(&mut self, client: usize) {
        if self.clients[client].refreshing || !self.manager.up() || self.blocked(MANAGER, 1000 + client) {
            return;
        }
        self.clients[client].refreshing = true;
        let routing = self.manager.routing();
        self.after(self.plan.net * 2, Ev::ClientRouting { client, routing });
    }

    pub(super) fn on_client_routing(&mut self, client: usize, routing: Arc<Routing>) {
        let c = &mut self.clients[client];
        c.refreshing = false;
        if routing.version <= c.routing.version {
            return;
        }
        c.routing = routing;
        for lane in 0..self.clients[client].lanes.len() {
            self.step(client, lane);
        }
    }
}
