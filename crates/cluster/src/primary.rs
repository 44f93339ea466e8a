//! The elected manager: its term, the state machine, and a store that takes its time.
//!
//! Answers that rest on what is not stored yet wait; heartbeats do not, or a slow store would stop the data path. What
//! must hold: nothing is granted, decided or handed out after the term; no answer and no routing leaves before the state
//! it rests on is stored; a lease granted meanwhile rests on the stored routing, and goes to no target whose place or
//! memory differs in what is not stored yet, be it on its way to the store or behind that.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use catena_types::{Code, Failure, Member, NodeId, Routing, RoutingDelta, TargetId, Time};
use catena_wire::manager::{
    AdminReply, AdminRequest, HeartbeatReply, HeartbeatRequest, InitReply, InitRequest, RegisterReply, RegisterRequest,
    StatusReply,
};

use crate::changes::Changes;
use crate::manager::{Manager, Outcome};
use crate::mutation::{Mutation, is};
use crate::state::{Settings, State};

/// When an answer may leave.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<R> {
    /// Now.
    Now(R),
    /// Once the state of now is stored: hand it to [`Primary::wait`].
    Stored(R),
}

/// The state machine in its term. `W` is an answer that waits.
#[derive(Clone, Debug)]
pub struct Primary<W> {
    core: Manager,
    /// The state last stored.
    stored: Arc<State>,
    /// Its routing, and what of it changed when.
    published: Changes,
    /// The state being stored, and the number of its last change.
    storing: Option<(u64, Arc<State>)>,
    /// Changes so far.
    changes: u64,
    /// Those that are stored.
    settled: u64,
    /// End of the term.
    until: Time,
    /// Answers, each with the change that must be stored first.
    waiting: VecDeque<(u64, W)>,
}

impl<W> Primary<W> {
    /// Takes over the state that is stored. The term lasts until `until`, by the clock of all times given here.
    pub fn new(settings: Settings, stored: State, now: Time, until: Time) -> Primary<W> {
        let core = Manager::new(settings, stored.clone(), now);
        let changes = u64::from(*core.state() != stored);
        let published = Changes::new(stored.routing());
        let stored = Arc::new(stored);
        Primary { core, stored, published, storing: None, changes, settled: 0, until, waiting: VecDeque::new() }
    }

    /// Whether the term surely lasts at `now`, a clock read after whatever is to be answered was received.
    pub fn holds(&self, now: Time) -> bool {
        now < self.until
    }

    /// The term lasts longer.
    pub fn renew(&mut self, until: Time) {
        self.until = self.until.max(until);
    }

    /// The state last stored: what may be handed out.
    pub fn stored(&self) -> &Arc<State> {
        &self.stored
    }

    /// The state machine, with what is not stored yet.
    pub fn core(&self) -> &Manager {
        &self.core
    }

    /// See [`Manager::take_awaited`].
    pub fn take_awaited(&mut self) -> BTreeSet<NodeId> {
        self.core.take_awaited()
    }

    /// A node starts.
    pub fn register(&mut self, now: Time, request: &RegisterRequest) -> Verdict<RegisterReply> {
        if let Some(failure) = self.over(now) {
            return Verdict::Now(RegisterReply { failure: Some(failure), ..RegisterReply::default() });
        }
        let outcome = self.core.register(now, request);
        self.settle(outcome)
    }

    /// The chain table is to be made.
    pub fn init(&mut self, now: Time, request: &InitRequest) -> Verdict<InitReply> {
        if let Some(failure) = self.over(now) {
            return Verdict::Now(InitReply { failure: Some(failure), chains: 0 });
        }
        let outcome = self.core.init(now, request);
        self.settle(outcome)
    }

    /// An operator asks for something.
    pub fn admin(&mut self, now: Time, request: &AdminRequest) -> Verdict<AdminReply> {
        if let Some(failure) = self.over(now) {
            return Verdict::Now(AdminReply { failure: Some(failure), moves: Vec::new() });
        }
        let outcome = self.core.admin(now, request);
        self.settle(outcome)
    }

    /// A node lives.
    pub fn heartbeat(&mut self, now: Time, request: &HeartbeatRequest) -> Verdict<HeartbeatReply> {
        if let Some(failure) = self.over(now) {
            return Verdict::Now(HeartbeatReply { failure: Some(failure), ..HeartbeatReply::default() });
        }
        let outcome = self.core.heartbeat(now, request);
        match self.settle(outcome) {
            Verdict::Now(reply) => Verdict::Now(self.with_news(reply, request.routing)),
            Verdict::Stored(reply) => match self.beside_the_store(request, &reply) {
                Some(early) => Verdict::Now(self.with_news(early, request.routing)),
                None => {
                    let newer = reply.lease_ms > 0 && reply.routing_ver > request.routing;
                    Verdict::Stored(HeartbeatReply { routing: newer.then(|| self.core.state().routing()), ..reply })
                }
            },
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        if self.holds(now) {
            self.changes += u64::from(self.core.tick(now));
        }
    }

    /// What somebody needs who has that version of the routing, see [`Changes::since`].
    pub fn routing_since(&self, have: u64) -> (Option<Routing>, Option<RoutingDelta>) {
        self.published.since(have)
    }

    /// For people and tools: what is stored, and what was heard.
    pub fn status(&self, now: Time) -> StatusReply {
        StatusReply { routing: self.published.routing().clone(), failure: self.over(now), ..self.core.status(now) }
    }

    /// An answer waits for the state of now.
    pub fn wait(&mut self, answer: W) {
        self.waiting.push_back((self.changes, answer));
    }

    /// The state to be stored next; none while one is on its way, or if nothing has changed.
    pub fn store_next(&mut self) -> Option<Arc<State>> {
        if self.storing.is_some() || self.changes == self.settled {
            return None;
        }
        let state = Arc::new(self.core.state().clone());
        self.storing = Some((self.changes, state.clone()));
        Some(state)
    }

    /// It is stored, and the term lasts: the answers that may leave now.
    pub fn has_stored(&mut self) -> Vec<W> {
        if let Some((changes, state)) = self.storing.take() {
            (self.settled, self.stored) = (changes, state);
            if self.stored.version > self.published.routing().version {
                self.published.advance(self.stored.routing());
            }
        }
        let ready = self.waiting.iter().take_while(|(change, _)| *change <= self.settled).count();
        self.waiting.drain(..ready).map(|(_, answer)| answer).collect()
    }

    /// The answers that will not be given.
    pub fn into_waiting(self) -> impl Iterator<Item = W> {
        self.waiting.into_iter().map(|(_, answer)| answer)
    }

    fn settle<R>(&mut self, outcome: Outcome<R>) -> Verdict<R> {
        self.changes += u64::from(outcome.changed);
        if self.changes == self.settled { Verdict::Now(outcome.reply) } else { Verdict::Stored(outcome.reply) }
    }

    fn over(&self, now: Time) -> Option<Failure> {
        (!self.holds(now) && !is(Mutation::OutliveTerm))
            .then(|| Failure::new(Code::NotPrimary, "this manager's term has ended: ask another one"))
    }

    /// What of an answer may leave before the state of now is stored.
    fn beside_the_store(&self, request: &HeartbeatRequest, reply: &HeartbeatReply) -> Option<HeartbeatReply> {
        let present = self.core.state();
        let start = |state: &State| state.nodes.get(&request.node).map(|n| n.incarnation);
        let outlives = self.stored.lease_ms < self.core.settings().lease_ms;
        if reply.failure.is_some() || outlives || start(&self.stored) != start(present) {
            return None;
        }
        // What is on its way to the store may be handed out before this lease ends, though it is not what holds now.
        let coming = self.storing.as_ref().filter(|_| !is(Mutation::ForgetComing)).map_or(present, |(_, state)| state);
        let changing = |t: &TargetId| {
            let known = place(&self.stored, *t);
            (known != place(present, *t) || known != place(coming, *t)) && !is(Mutation::LeaseTheChanging)
        };
        Some(HeartbeatReply {
            failure: None,
            lease_ms: reply.lease_ms,
            routing_ver: self.stored.version,
            except: request.targets.iter().map(|r| r.target).filter(|t| changing(t) || reply.except.contains(t)).collect(),
            ..HeartbeatReply::default()
        })
    }

    /// Routing goes with a lease.
    fn with_news(&self, reply: HeartbeatReply, have: u64) -> HeartbeatReply {
        let (routing, delta) = if reply.lease_ms > 0 { self.routing_since(have) } else { (None, None) };
        HeartbeatReply { routing, delta, ..reply }
    }
}

/// All that a lease of a target rests on.
fn place(state: &State, target: TargetId) -> Option<(&crate::state::TargetRow, Option<Member>)> {
    let row = state.targets.get(&target)?;
    let member = state.chains.get(&row.chain).and_then(|c| c.members.iter().find(|m| m.target == target));
    Some((row, member.copied()))
}
