//! One target's place in its chain: state, and which room each event goes to.
//!
//! The write path is `update` (head) or `forward` (the others), then `commit`; reads are in `read`; membership in
//! `adopt`; resync in `source` and `sink`.

mod adopt;
mod chunk;
mod commit;
mod difference;
mod expiry;
mod forward;
mod read;
mod reject;
mod repair;
mod role;
mod sessions;
mod sink;
mod source;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use catena_types::{ChunkKey, ChunkStore, Code, Done, Failure, LocalState, Payload, TargetId, Time, Ver};
use catena_wire::peer::{Body, PeerMsg};

use crate::api::{Command, Config, Counters, Event, Report};
use crate::mutation::{Mutation, is};
use chunk::ChunkState;
use expiry::Expiry;
use forward::Window;
use read::Reading;
use repair::Damage;
use role::Role;
use sessions::Sessions;
use sink::Sink;
use source::Source;

/// One target's place in its chain. See the crate's documentation.
#[derive(Clone)]
pub struct Replica<P> {
    me: TargetId,
    config: Config,
    condition: Condition,
    /// Version of the newest routing applied.
    routing: u64,
    lease: Option<Lease>,
    /// `None` until the first routing is applied.
    role: Option<Role>,
    /// May serve reads and answer version queries: joined members wait for their predecessor's `Confirm`.
    confirmed: bool,
    chunks: BTreeMap<ChunkKey, ChunkState<P>>,
    sessions: Sessions,
    /// As head: which of them are in use.
    expiry: Option<Expiry>,
    /// Reads that were started, by the id given to the engine and to the tail.
    reads: BTreeMap<u64, Reading>,
    /// Those of them that wait for the tail or for a stage, and so for time.
    waiting: BTreeSet<u64>,
    /// As tail with a SYNCING member behind it.
    source: Option<Source>,
    /// As SYNCING member.
    sink: Option<Sink<P>>,
    /// From the predecessor, and to the successor or the sink.
    window: Window,
    /// Of this target's disk.
    damage: Damage,
    /// Messages of a chain version that has not been adopted yet.
    kept: Vec<(PeerMsg, Option<Payload<P>>)>,
    /// Number of the newest forward of this target.
    attempt: u64,
    next_id: u64,
    counters: Counters,
}

/// Whether the target takes part at all.
#[derive(Clone, Hash)]
enum Condition {
    Running,
    Stopped,
    Failed(String),
    Reopening,
}

/// Why a target serves nothing now.
#[derive(Clone, Copy)]
enum Unfit {
    NoRouting,
    Stopped,
    OtherVersion,
    /// It is not SERVING.
    Place,
    NoLease,
    Unconfirmed,
}

#[derive(Clone, Hash)]
struct Lease {
    until: Time,
    routing: u64,
}

/// What one call of [`Replica::handle`] works with.
struct Cx<'a, P> {
    now: Time,
    store: &'a mut dyn ChunkStore<Payload = P>,
    out: &'a mut Vec<Command<P>>,
}

impl<P: Clone> Replica<P> {
    /// A replica that has just been opened: it knows no chain yet and serves nothing.
    pub fn new(me: TargetId, config: Config) -> Replica<P> {
        Replica {
            me,
            config,
            condition: Condition::Running,
            routing: 0,
            lease: None,
            role: None,
            confirmed: false,
            chunks: BTreeMap::new(),
            sessions: Sessions::default(),
            expiry: None,
            reads: BTreeMap::new(),
            waiting: BTreeSet::new(),
            source: None,
            sink: None,
            window: Window::default(),
            damage: Damage::default(),
            kept: Vec::new(),
            attempt: 0,
            next_id: 0,
            counters: Counters::default(),
        }
    }

    /// The manager has said which target this is: starts over, but for what is known of the disk, which may have failed by
    /// then, and for numbers that the store may still answer to.
    pub fn set_target(&mut self, me: TargetId) {
        let Replica { condition, mut damage, attempt, next_id, counters, config, .. } =
            std::mem::replace(self, Replica::new(me, self.config.clone()));
        damage.stand_down();
        *self = Replica { condition, damage, attempt, next_id, counters, ..Replica::new(me, config) };
    }

    /// Takes one event and appends what is to be done to `out`, in order. `now` was read after the event came in.
    pub fn handle(&mut self, now: Time, event: Event<P>, store: &mut dyn ChunkStore<Payload = P>, out: &mut Vec<Command<P>>) {
        let cx = &mut Cx { now, store, out };
        match event {
            Event::Routing { version, chain } => self.adopt(cx, version, chain),
            Event::Lease { until, routing } => self.lease = Some(Lease { until, routing }),
            Event::Update(update) => self.on_update(cx, update),
            Event::Read(read) => self.on_read(cx, read),
            Event::List(list) => self.on_list(cx, list),
            Event::Peer { msg, payload } => self.on_peer(cx, msg, payload),
            Event::LinkUp { peer } => self.on_link_up(cx, peer),
            Event::Done(done) => self.on_done(cx, done),
            Event::Tick => self.on_tick(cx),
            Event::Stop => self.stop(cx),
        }
        self.pump_window(cx);
        self.pump_source(cx);
        self.pump_repairs(cx);
    }

    /// When to send the next [`Event::Tick`]; `None` if nothing waits for time.
    pub fn next_wake(&self) -> Option<Time> {
        let reads = self.waiting.iter().filter_map(|id| self.reads.get(id)?.wake(self.config.query_retry));
        let source = self.source.as_ref().and_then(Source::wake);
        reads.chain(source).chain(self.expiry.as_ref().map(Expiry::wake)).min()
    }

    /// What to say in the next heartbeat.
    pub fn report(&self) -> Report {
        let (state, failed) = match &self.condition {
            Condition::Failed(reason) => (LocalState::Failed, reason.clone()),
            Condition::Stopped => (LocalState::Stopped, String::new()),
            _ if self.sink.as_ref().is_some_and(Sink::up_to_date) => (LocalState::UpToDate, String::new()),
            _ => (LocalState::Online, String::new()),
        };
        let source = self.source.as_ref();
        Report {
            state,
            chain: self.role.as_ref().map_or(0, |role| role.chain.id),
            chain_ver: self.chain_ver(),
            sync_failed: source.and_then(Source::failure).unwrap_or_default(),
            sync: source.map(Source::progress),
            failed,
        }
    }

    /// Members of the chain that it sends requests to now: without a link to them, updates or reads stand still.
    pub fn asks(&self) -> impl Iterator<Item = TargetId> {
        let of = |role: &Role| [role.succ, role.sink, role.tail.filter(|&t| role.serving() && t != self.me)];
        let asked = self.role.as_ref().map(of).unwrap_or_default();
        let twice = asked[0] == asked[2];
        asked.into_iter().take(if twice { 2 } else { 3 }).flatten()
    }

    /// Counters since the replica was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Reads and updates in progress or waiting here.
    pub fn load(&self) -> usize {
        self.reads.len() + self.sessions.running()
    }

    /// Chunks found damaged here and not repaired since.
    pub fn damaged(&self) -> usize {
        self.damage.count()
    }

    /// The adopted chain version; 0 before the first.
    pub fn chain_ver(&self) -> u64 {
        self.role.as_ref().map_or(0, Role::chain_ver)
    }

    /// Whether reads would be served now: SERVING under the adopted chain version, confirmed, with a usable lease.
    pub fn may_serve(&self, now: Time) -> bool {
        self.unfit(now, self.chain_ver()).is_none()
    }

    /// What a version query for `key` would be answered now (0: absent); `None` if this target would not answer one.
    /// No two targets of a chain may ever have answers that differ.
    pub fn would_answer(&self, now: Time, key: &ChunkKey, store: &dyn ChunkStore<Payload = P>) -> Option<Ver> {
        self.answers_queries(now).then(|| store.meta(key).map_or(0, |m| m.commit_ver()))
    }

    /// Whether this target would answer version queries now: the tail, where it may serve.
    pub fn answers_queries(&self, now: Time) -> bool {
        let able = match self.unfit(now, self.chain_ver()) {
            None => true,
            Some(Unfit::NoLease) => self.confirmed && is(Mutation::AnswerUnleased),
            Some(_) => false,
        };
        able && (self.is_tail() || is(Mutation::AnswerAnyone))
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn role(&self) -> &Role {
        self.role.as_ref().expect("called only under an adopted chain version")
    }

    fn is_head(&self) -> bool {
        self.role.as_ref().is_some_and(Role::is_head)
    }

    fn is_tail(&self) -> bool {
        self.role.as_ref().is_some_and(Role::is_tail)
    }

    fn lease_holds(&self, now: Time) -> bool {
        let good = |l: &Lease| {
            (now < l.until || is(Mutation::IgnoreLease)) && (self.routing >= l.routing || is(Mutation::LeaseAnyRouting))
        };
        self.lease.as_ref().is_some_and(good)
    }

    /// Sections 2.2, 2.3 and 6: chain version, serving, confirmed, lease.
    fn check_serving(&self, now: Time, chain_ver: u64) -> Result<(), Failure> {
        self.unfit(now, chain_ver).map_or(Ok(()), |why| Err(self.explain(why, chain_ver)))
    }

    /// Why a request under this chain version would not be served now.
    fn unfit(&self, now: Time, chain_ver: u64) -> Option<Unfit> {
        let Some(role) = &self.role else { return Some(Unfit::NoRouting) };
        if !matches!(self.condition, Condition::Running) {
            Some(Unfit::Stopped)
        } else if chain_ver != role.chain_ver() && !is(Mutation::AnyVersion) {
            Some(Unfit::OtherVersion)
        } else if !role.serving() {
            Some(Unfit::Place)
        } else if !self.lease_holds(now) {
            Some(Unfit::NoLease)
        } else if !self.confirmed && !is(Mutation::ServeUnconfirmed) {
            Some(Unfit::Unconfirmed)
        } else {
            None
        }
    }

    fn explain(&self, why: Unfit, chain_ver: u64) -> Failure {
        let (me, ours) = (self.me, self.chain_ver());
        let chain = self.role.as_ref().map_or(0, |role| role.chain.id);
        let (code, text) = match why {
            Unfit::NoRouting => (Code::NotServing, format!("target {me} has no routing yet; try again")),
            Unfit::Stopped => (Code::NotServing, format!("target {me} is stopped; refresh routing")),
            Unfit::OtherVersion => {
                let text = format!("chain {chain} is at version {ours}, not {chain_ver}; refresh routing");
                return Failure::new(Code::WrongChainVersion, text).with_version(ours).under(ours);
            }
            Unfit::Place => {
                let state = self.role.as_ref().and_then(|role| role.state);
                (Code::NotServing, format!("target {me} is {state:?} in chain {chain}"))
            }
            Unfit::NoLease => (Code::LeaseExpired, format!("target {me} has no lease: its node has not heard from the manager")),
            Unfit::Unconfirmed => {
                (Code::NotServing, format!("target {me} has just joined chain {chain} and is not confirmed yet"))
            }
        };
        Failure::new(code, text).under(ours)
    }

    fn send(&self, cx: &mut Cx<P>, to: TargetId, body: Body, payload: Option<Payload<P>>) {
        let role = self.role();
        let msg = PeerMsg { chain: role.chain.id, chain_ver: role.chain_ver(), from: self.me, to, body: Some(body) };
        cx.out.push(Command::Send { msg, payload });
    }

    /// A message of another chain version is dropped if older, kept until that version is adopted if newer. One of another
    /// chain is for what this target was there, or will be: that is another opening of it.
    fn on_peer(&mut self, cx: &mut Cx<P>, msg: PeerMsg, payload: Option<Payload<P>>) {
        if !matches!(self.condition, Condition::Running) {
            return;
        }
        if msg.to != self.me {
            self.counters.protocol_errors += 1;
        } else if self.role.as_ref().is_some_and(|role| role.chain.id != msg.chain) && !is(Mutation::OtherChains) {
            self.counters.dropped_versions += 1;
        } else if msg.chain_ver > self.chain_ver() && !is(Mutation::NewerMessages) {
            self.kept.push((msg, payload));
        } else if msg.chain_ver < self.chain_ver() && !is(Mutation::OlderMessages) {
            self.counters.dropped_versions += 1;
        } else {
            self.dispatch(cx, msg, payload);
        }
    }

    fn dispatch(&mut self, cx: &mut Cx<P>, msg: PeerMsg, payload: Option<Payload<P>>) {
        let from = msg.from;
        let role = self.role();
        let expected = match &msg.body {
            Some(Body::Forward(_) | Body::Release(_) | Body::Confirm(_)) => role.pred == Some(from),
            Some(Body::Expire(_)) => role.serving() && role.pred == Some(from),
            Some(
                Body::SyncPage(_)
                | Body::SyncSums(_)
                | Body::SyncPut(_)
                | Body::SyncPart(_)
                | Body::SyncPatch(_)
                | Body::SyncLost(_)
                | Body::SyncDrop(_)
                | Body::SyncSessions(_)
                | Body::SyncDone(_),
            ) => role.syncing() && role.pred == Some(from),
            Some(Body::Reply(_) | Body::Reject(_) | Body::Credit(_)) => role.succ == Some(from) || role.sink == Some(from),
            Some(Body::Page(_) | Body::Sums(_) | Body::Synced(_) | Body::SyncDoneReply(_)) => role.sink == Some(from),
            Some(Body::Query(_)) => role.chain.serving().any(|t| t == from),
            Some(Body::Answer(_)) => role.tail == Some(from),
            Some(Body::Fetch(_) | Body::Fetched(_)) => [role.pred, role.succ, role.sink].contains(&Some(from)),
            None => false,
        };
        let Some(body) = msg.body.filter(|_| expected) else {
            self.counters.protocol_errors += 1;
            return;
        };
        match (body, payload) {
            (Body::Forward(forward), Some(payload)) => self.on_forward(cx, forward, payload),
            (Body::Release(release), _) => self.on_release(cx, release),
            (Body::Reply(reply), _) => self.on_reply(cx, from, reply),
            (Body::Credit(credit), _) => self.on_credit(credit),
            (Body::Reject(reject), _) => self.on_reject(cx, from, reject),
            (Body::Query(query), _) => self.on_query(cx, from, query),
            (Body::Answer(answer), _) => self.on_answer(cx, answer),
            (Body::Confirm(_), _) => self.on_confirm(cx),
            (Body::SyncPage(page), _) => self.on_sync_page(cx, page),
            (Body::Page(page), _) => self.on_page(cx, page),
            (Body::SyncPut(put), Some(payload)) => self.on_sync_put(cx, put, payload),
            (Body::SyncSums(sums), _) => self.on_sync_sums(cx, sums),
            (Body::Sums(sums), _) => self.on_sums(cx, sums),
            (Body::SyncPart(part), Some(payload)) => self.on_sync_part(part, payload),
            (Body::SyncPatch(patch), _) => self.on_sync_patch(cx, patch),
            (Body::SyncLost(lost), _) => self.on_sync_lost(cx, lost),
            (Body::SyncDrop(drop), _) => self.on_sync_drop(cx, drop),
            (Body::Synced(synced), _) => self.on_synced(cx, synced),
            (Body::SyncSessions(rows), _) => self.on_sync_sessions(cx, rows),
            (Body::SyncDone(done), _) => self.on_sync_done(cx, done),
            // The sink tells the manager, and the manager decides.
            (Body::SyncDoneReply(_), _) => {}
            (Body::Expire(expire), _) => self.drop_sessions(cx, expire),
            (Body::Fetch(fetch), _) => self.on_fetch(cx, from, fetch),
            (Body::Fetched(fetched), payload) => self.on_fetched(cx, from, fetched, payload),
            (Body::Forward(_) | Body::SyncPut(_) | Body::SyncPart(_), None) => self.counters.protocol_errors += 1,
        }
    }

    fn on_done(&mut self, cx: &mut Cx<P>, done: Done<P>) {
        match done {
            Done::Staged { key, ver, info } => self.on_staged(cx, key, ver, info),
            Done::Unstaged { key, ver } => self.on_unstaged(cx, key, ver),
            Done::Read { id, result } => self.on_read_done(cx, id, result),
            Done::Synced { id } => self.on_store_synced(cx, id),
            Done::NotPatched { id } => self.on_not_patched(cx, id),
            Done::Sums { id, result } => self.on_store_sums(cx, id, result),
            Done::StageFailed { key, ver, code } => self.on_stage_failed(cx, &key, ver, code),
            Done::Damaged { key, ver } => self.on_damaged(cx, key, ver),
            Done::Failed { reason } => {
                self.stand_down(cx, "its disk failed");
                self.condition = Condition::Failed(reason);
            }
        }
    }

    fn stop(&mut self, cx: &mut Cx<P>) {
        if matches!(self.condition, Condition::Running) {
            self.stand_down(cx, "its node is going down");
            self.condition = Condition::Stopped;
        }
    }

    /// What is held here does not fit what a peer sent: start anew, through resync.
    fn distrust(&mut self, cx: &mut Cx<P>, reason: String) {
        self.stand_down(cx, "it does not fit its chain and starts anew");
        self.condition = Condition::Reopening;
        cx.out.push(Command::Reopen { reason });
    }

    /// Gives the next in line its turn, until somebody keeps it or nobody is left.
    fn advance(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        use chunk::Turn;
        while let Some(chunk) = self.chunks.get_mut(key) {
            if chunk.busy.is_some() {
                return;
            }
            match chunk.queue.pop_front() {
                Some(Turn::Client(update, waiters)) => self.start_client(cx, *update, waiters),
                Some(Turn::Forward(forward, payload, released)) => self.start_forward(cx, *forward, payload, released),
                Some(Turn::Settle(sinks)) => self.start_settle(cx, key, sinks),
                Some(Turn::Put(put, payload)) => self.start_put(cx, key, *put, payload),
                Some(Turn::Sums(id)) => self.start_sums(cx, key, id),
                Some(Turn::Patch(patch, parts)) => self.start_patch(cx, key, *patch, parts),
                Some(Turn::Lost(lost)) => self.start_lost(cx, key, *lost),
                Some(Turn::Drop) => self.start_drop(cx, key),
                Some(Turn::Repair) => self.start_repair(cx, key),
                None => {
                    self.answer_asker(cx, key);
                    let Some(chunk) = self.chunks.get_mut(key) else { return };
                    let readers = std::mem::take(&mut chunk.readers);
                    self.chunks.remove(key);
                    readers.into_iter().for_each(|id| self.decide_read(cx, id));
                    return;
                }
            }
        }
    }

    fn on_link_up(&mut self, cx: &mut Cx<P>, peer: TargetId) {
        let Some(role) = self.role.as_ref().filter(|_| matches!(self.condition, Condition::Running)) else { return };
        let (succ, sink) = (role.succ, role.sink);
        let tail = role.tail.filter(|_| role.serving());
        if (succ == Some(peer) || sink == Some(peer)) && !is(Mutation::NotAgainOnLink) {
            self.forward_again(cx, peer);
        }
        if succ == Some(peer) {
            self.confirm_successor(cx);
        }
        if sink == Some(peer) {
            self.resume_source(cx);
        }
        if tail == Some(peer) {
            self.ask_again(cx, |_| true);
        }
        // Behind the forward: who is asked for what an update builds on must have seen that update.
        self.fetch_again(cx, peer);
    }
}

/// Everything that decides what the replica does next: not the counters, and not the configuration, which never changes.
impl<P: Hash> Hash for Replica<P> {
    #[rustfmt::skip]
    fn hash<H: Hasher>(&self, to: &mut H) {
        // Every field by name: one that is forgotten here would make different replicas look equal.
        let Replica {
            me, config: _, condition, routing, lease, role, confirmed, chunks, sessions, reads, waiting, source, sink,
            damage, kept, attempt, next_id, expiry, window, counters: _,
        } = self;
        (me, condition, routing, lease, role, confirmed, chunks, sessions).hash(to);
        (reads, waiting, source, sink, damage, kept, attempt, next_id).hash(to);
        (expiry, window).hash(to);
    }
}
