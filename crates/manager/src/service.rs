//! The loop that owns the state machine, and turns to the store beside it.
//!
//! What must hold: no reply leaves, and no routing is published, before the state it rests on is stored
//! ([`Primary`] sees to it); nothing waits for the store that need not; when the term is over, everything that waits is
//! dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catena_cluster::{Primary, Settings, State};
use catena_net::{Frame, FrameReceiver, FrameSender, Incoming, Listener, check_hello, hello_reply, members_only};
use catena_types::{Code, Failure, NodeId, Time};
use catena_wire::manager::StatusReply;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::error::StoreError;
use crate::handle::Shared;
use crate::observer::{ManagerCounters, ManagerStatus, Question};
use crate::publish::{MAX_WAIT_MS, Publisher};
use crate::requests::{Answer, for_clients, handle, refuse};
use crate::store::{Store, Term};
use crate::turns;

/// Time between looks at leases that may have ended.
const TICK: Duration = Duration::from_millis(50);
/// Requests handled in one turn.
const BATCH: usize = 128;
/// Longest time for giving up the term at the end.
const RESIGN: Duration = Duration::from_secs(1);

/// A request, and the connection its reply goes to.
struct Request {
    frame: Frame,
    sender: FrameSender,
    /// Who asks; 0 for clients.
    node: NodeId,
    /// Whoever asks has the cluster's own secret, or there is none.
    member: bool,
}

/// A reply and where it goes.
type Reply = (FrameSender, Frame);

/// What the store has to say.
pub(crate) enum Event {
    /// This manager is elected, until then, and takes this state over.
    Elected(Term, Time, State),
    /// The one at this address is.
    Follows(String),
    /// The term lasts until then.
    Renewed(Term, Time),
    /// The state given last is stored.
    Saved(Term),
    /// The store could not do what was asked of it, in a term or before one.
    Failed(Option<Term>, StoreError),
}

/// What this manager is now.
enum Role {
    /// Another one is elected, or nobody.
    Follower(Failure),
    /// This one is.
    Elected(Box<Elected>),
}

struct Elected {
    primary: Primary<Reply>,
    term: Term,
    publisher: Publisher,
    /// Ends the renewals.
    renewals: AbortHandle,
    /// The write under way, and since when.
    saving: Option<(AbortHandle, Time)>,
}

impl Elected {
    /// Milliseconds for which the write under way has been.
    fn storing_ms(&self, now: Time) -> u64 {
        self.saving.as_ref().map_or(0, |(_, since)| now.saturating_sub(*since) / 1_000_000)
    }
}

/// State machine, store, and who waits for routing.
pub(crate) struct Service<S> {
    settings: Settings,
    store: Arc<S>,
    shared: Arc<Shared>,
    role: Role,
    /// Where tasks that turn to the store put what it says.
    events: mpsc::UnboundedSender<Event>,
    counters: ManagerCounters,
}

/// What the handle tells and asks the service.
pub(crate) struct Outside {
    /// Fires, or loses its sender, when the service is to end.
    pub(crate) stop: oneshot::Receiver<()>,
    /// Questions of people.
    pub(crate) questions: mpsc::UnboundedReceiver<Question>,
}

impl<S: Store> Service<S> {
    /// Serves until it is told to stop, or until the store fails for good. Takes and calls `ready` once
    /// the store has answered.
    pub(crate) async fn run(
        settings: Settings,
        store: Arc<S>,
        shared: Arc<Shared>,
        mut listener: Listener,
        mut outside: Outside,
        ready: &mut Option<impl FnOnce()>,
    ) -> Result<(), StoreError> {
        let (events, mut happened) = mpsc::unbounded_channel();
        let role = Role::Follower(nobody_yet());
        let mut service = Service { settings, store, shared, role, events, counters: ManagerCounters::default() };
        service.campaign();
        let (queue, mut requests) = mpsc::channel(BATCH);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                _ = &mut outside.stop => break,
                _ = tick.tick() => service.tick(),
                Some(event) = happened.recv() => {
                    service.take(event)?;
                    ready.take().into_iter().for_each(|ready| ready());
                }
                _ = requests.recv_many(&mut batch, BATCH) => service.answer(&mut batch),
                Some(question) = outside.questions.recv() => service.tell(question),
                incoming = listener.accept() => service.greet(incoming, &queue),
            }
        }
        if let Some(term) = service.follow(nobody_yet()) {
            // Whoever it does not reach waits for the end of the term.
            let _ = tokio::time::timeout(RESIGN, service.store.resign(term)).await;
        }
        Ok(())
    }

    fn greet(&self, incoming: Incoming, queue: &mpsc::Sender<Request>) {
        let cluster = self.shared.cluster.load(Ordering::Relaxed);
        let (node, member) = (incoming.hello.node, incoming.member);
        match check_hello(&incoming.hello, cluster) {
            Ok(()) => {
                let (sender, receiver) = incoming.accept(hello_reply(cluster, 0, 0));
                tokio::spawn(read_requests(sender, receiver, (node, member), queue.clone()));
            }
            Err(failure) => incoming.refuse(failure),
        }
    }

    /// Whoever asked may have given up.
    fn tell(&self, question: Question) {
        let (standing, elsewhere, status) = match &self.role {
            Role::Follower(why) => (why.message.clone(), why.elsewhere.clone(), None),
            Role::Elected(e) => {
                let now = clock::now();
                let status = StatusReply {
                    primary: self.shared.addr.clone(),
                    storing_ms: e.storing_ms(now),
                    ..e.primary.core().status(now)
                };
                (String::new(), String::new(), Some(status))
            }
        };
        let cluster = self.shared.cluster.load(Ordering::Relaxed);
        let (addr, counters) = (self.shared.addr.clone(), self.counters);
        let _ = question.send(ManagerStatus { cluster, addr, standing, elsewhere, counters, status });
    }

    fn campaign(&self) {
        let (store, addr) = (self.store.clone(), self.shared.addr.clone());
        tokio::spawn(turns::campaign(store, addr, self.events.clone()));
    }

    fn take(&mut self, event: Event) -> Result<(), StoreError> {
        match (event, &mut self.role) {
            (Event::Elected(term, until, state), _) => self.lead(term, until, state),
            (Event::Follows(primary), Role::Follower(why)) => {
                let text = format!("the elected manager is {primary}: ask that one");
                *why = Failure::new(Code::NotPrimary, text).elsewhere(primary);
            }
            (Event::Renewed(term, until), Role::Elected(e)) if e.term == term => e.primary.renew(until),
            (Event::Saved(term), Role::Elected(e)) if e.term == term => {
                if let Some((_, since)) = e.saving.take() {
                    self.counters.stored += 1;
                    self.counters.storing_ns += clock::now().saturating_sub(since);
                }
                let ready = e.primary.has_stored();
                if e.primary.holds(clock::now()) {
                    ready.into_iter().for_each(|(sender, frame)| send(&sender, frame));
                    e.publisher.publish(&e.primary);
                }
                self.store_next();
            }
            (Event::Failed(None, e), Role::Follower(why)) if e.is_passing() => {
                *why = Failure::new(Code::NotPrimary, format!("no manager is known to be elected: {e}"));
            }
            (Event::Failed(Some(term), failure), Role::Elected(e)) if failure.is_passing() && e.term == term => {
                self.step_down(&failure.to_string());
            }
            (Event::Failed(_, e), _) if !e.is_passing() => return Err(e),
            // Of an earlier term.
            (Event::Follows(_) | Event::Renewed(..) | Event::Saved(_) | Event::Failed(..), _) => {}
        }
        Ok(())
    }

    /// Won the election: takes over the state that is stored.
    fn lead(&mut self, term: Term, until: Time, state: State) {
        let now = clock::now();
        self.counters.elections += 1;
        tracing::info!(routing = state.version, "manager of cluster {:016x} serves at {}", state.cluster, self.shared.addr);
        self.shared.cluster.store(state.cluster, Ordering::Relaxed);
        self.shared.elected.store(true, Ordering::Relaxed);
        let publisher = Publisher::new(&state);
        let primary = Primary::new(self.settings, state, now, until);
        let renewals = tokio::spawn(turns::renew(self.store.clone(), term, self.events.clone())).abort_handle();
        self.role = Role::Elected(Box::new(Elected { primary, term, publisher, renewals, saving: None }));
        self.store_next();
    }

    /// Stops being primary: what waits is dropped, so that whoever asked asks another manager.
    fn follow(&mut self, why: Failure) -> Option<Term> {
        self.shared.elected.store(false, Ordering::Relaxed);
        let Role::Elected(e) = std::mem::replace(&mut self.role, Role::Follower(why)) else { return None };
        e.renewals.abort();
        if let Some((save, _)) = &e.saving {
            save.abort();
        }
        e.primary.into_waiting().for_each(|(sender, _)| sender.close());
        e.publisher.close();
        Some(e.term)
    }

    fn step_down(&mut self, why: &str) {
        tracing::warn!("this manager is no longer the elected one: {why}");
        self.follow(nobody_yet());
        self.campaign();
    }

    fn tick(&mut self) {
        let now = clock::now();
        let Role::Elected(e) = &mut self.role else { return };
        if !e.primary.holds(now) {
            return self.step_down("its store has not answered for the length of a term");
        }
        e.primary.tick(now);
        e.publisher.tick(now, &e.primary);
        self.ask_awaited();
        self.store_next();
    }

    fn answer(&mut self, batch: &mut Vec<Request>) {
        for Request { frame, sender, node, member } in batch.drain(..) {
            let allowed = if member || for_clients(frame.kind) { None } else { Some(members_only("this request")) };
            let (e, why) = match (&mut self.role, allowed) {
                (Role::Elected(e), None) => (Some(e), None),
                (Role::Follower(why), None) => (None, Some(why.clone())),
                (_, refused) => (None, refused),
            };
            let Some(e) = e else {
                self.counters.refused += 1;
                match refuse(&frame, why.unwrap_or_else(nobody_yet)) {
                    Answer::Now(reply) => send(&sender, reply),
                    _ => sender.close(),
                }
                continue;
            };
            let now = clock::now();
            self.counters.request(frame.kind);
            let storing_ms = e.storing_ms(now);
            match handle(&mut e.primary, now, &frame, &self.shared.addr, storing_ms) {
                Answer::Now(reply) => send(&sender, reply),
                Answer::Stored(reply) => e.primary.wait((sender, reply)),
                Answer::Later { have, wait_ms } => {
                    let until = now + Time::from(wait_ms.min(MAX_WAIT_MS)) * 1_000_000;
                    e.publisher.wait(have, until, node, frame.request_id, sender);
                }
                Answer::None => sender.close(),
            }
        }
        self.ask_awaited();
        self.store_next();
    }

    /// Asks nodes for a heartbeat without which a chain cannot go on.
    fn ask_awaited(&mut self) {
        if let Role::Elected(e) = &mut self.role {
            let awaited = e.primary.take_awaited();
            e.publisher.wake(&awaited, &e.primary);
        }
    }

    /// Hands the newest state to the store, if it has none in hand.
    fn store_next(&mut self) {
        let Role::Elected(e) = &mut self.role else { return };
        let Some(state) = e.primary.store_next() else { return };
        let save = tokio::spawn(turns::save(self.store.clone(), e.term, state, self.events.clone()));
        e.saving = Some((save.abort_handle(), clock::now()));
    }
}

fn nobody_yet() -> Failure {
    Failure::new(Code::NotPrimary, "no manager is known to be elected yet: try again")
}

/// Reads requests until the connection ends. The queue is short: a flood waits on its own connection.
async fn read_requests(
    sender: FrameSender,
    mut receiver: FrameReceiver,
    (node, member): (NodeId, bool),
    queue: mpsc::Sender<Request>,
) {
    loop {
        match receiver.recv().await {
            Ok(Some(frame)) => {
                if queue.send(Request { frame, sender: sender.clone(), node, member }).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(e) => {
                tracing::debug!(peer = sender.peer(), "connection closed: {e}");
                break;
            }
        }
    }
    sender.close();
}

pub(crate) fn send(sender: &FrameSender, frame: Frame) {
    if let Err(e) = sender.send(frame) {
        tracing::debug!(peer = sender.peer(), "reply not sent: {e}");
    }
}
