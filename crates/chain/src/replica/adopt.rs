//! Adopting a chain version is one step: role, tail rule and every commit they cause come before any read, query or
//! message is served under it (protocol section 5, amendments C5 and C7).

use catena_types::{Chain, ChunkKey, Code, Failure, PublicState, Staged};

use super::chunk::{Busy, InFlight, Next, Times, Turn};
use super::forward::Window;
use super::read::Reading;
use super::role::Role;
use super::source::Source;
use super::update::refuse;
use super::{Condition, Cx, Replica};
use crate::mutation::{Mutation, is};

impl<P: Clone> Replica<P> {
    pub(super) fn adopt(&mut self, cx: &mut Cx<P>, version: u64, chain: Chain) {
        self.routing = self.routing.max(version);
        if self.role.is_some() && chain.chain_ver <= self.chain_ver() && !is(Mutation::AdoptOlder) {
            return;
        }
        let before = self.role.as_ref().and_then(|r| r.state);
        self.role = Some(Role::new(self.me, chain));
        self.source = None;
        let former = self.sink.take().filter(|_| is(Mutation::StayUpToDate));
        if !matches!(self.condition, Condition::Running) {
            return;
        }
        self.drop_peer_turns();
        if self.role().serving() {
            self.enter_serving(cx, before);
        } else {
            self.stand_down(cx, "it has left the serving members of its chain");
            self.sink = self.role().syncing().then(|| former.unwrap_or_default());
        }
        self.take_kept(cx);
    }

    /// Turns that the old version gave: a predecessor sends its forwards again, a resync starts again.
    fn drop_peer_turns(&mut self) {
        for chunk in self.chunks.values_mut() {
            chunk.queue.retain(|turn| matches!(turn, Turn::Client(..) | Turn::Repair));
            chunk.asker = None;
            if matches!(chunk.busy, Some(Busy::Settle | Busy::Install)) {
                (chunk.busy, chunk.repair) = (None, None);
            }
        }
        self.reads.retain(|_, r| !matches!(r, Reading::Settle { .. } | Reading::Part { .. } | Reading::Fetch { .. }));
    }

    fn enter_serving(&mut self, cx: &mut Cx<P>, before: Option<PublicState>) {
        match before {
            Some(PublicState::Serving) => {
                self.chunks.values_mut().filter_map(|c| c.update()).for_each(|f| f.released &= !is(Mutation::DropReleases));
            }
            Some(PublicState::Syncing) => {
                // Releases got as a sink are void; the predecessor sends them again.
                self.confirmed = false;
                self.chunks.values_mut().filter_map(|c| c.update()).for_each(|f| f.released &= is(Mutation::KeepSinkReleases));
                if is(Mutation::RollLeftovers) {
                    self.roll_forward(cx);
                }
            }
            _ => {
                self.confirmed = false;
                self.roll_forward(cx);
            }
        }
        if self.is_head() {
            self.confirmed = true;
        }
        self.watch_sessions(cx.now);
        if let Some(sink) = self.role().sink {
            self.source = Some(Source::new(sink, cx.now, cx.store.space().chunks));
        }
        // Everything is sent again.
        self.window = Window::default();
        let keys: Vec<ChunkKey> = self.chunks.keys().cloned().collect();
        if is(Mutation::ReadsBeforeTailRule) {
            self.restart_reads(cx);
        }
        for key in &keys {
            self.drive(cx, key);
        }
        for key in &keys {
            self.advance(cx, key);
        }
        self.confirm_successor(cx);
        self.restart_reads(cx);
        self.start_source(cx);
        self.restart_repairs(cx);
    }

    /// Section 5 for one update in flight: forwarded and released again, or committed by the tail rule.
    fn drive(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let (head, next) = (self.is_head(), self.next_for(key));
        let Some(inflight) = self.chunks.get_mut(key).and_then(|c| c.update()) else { return };
        if inflight.undoing.is_some() {
            return;
        }
        if head && !inflight.released {
            inflight.released = true;
            inflight.times.released = cx.now;
        }
        if is(Mutation::NotAgainToSame) && inflight.next.target() == next.target() {
            return self.progress(cx, key);
        }
        inflight.next = next;
        if matches!(inflight.next, Next::To(_)) {
            self.counters.reforwards += 1;
            self.send_forward(cx, key);
        }
        self.progress(cx, key);
    }

    /// A revived member of the last serving set drives every staged update on, never back.
    fn roll_forward(&mut self, cx: &mut Cx<P>) {
        let mut from = Vec::new();
        loop {
            let page = cx.store.scan(&from, 256);
            let Some((last, _)) = page.last() else { return };
            from = [last.as_bytes(), &[0]].concat();
            for (key, meta) in page {
                if let Some(staged) = meta.staged {
                    if is(Mutation::RollBack) {
                        cx.store.unstage(&key, staged.ver);
                        continue;
                    }
                    self.counters.rolled_forward += 1;
                    self.sessions.start(staged.tag, &key);
                    let base = meta.committed.map_or((0, 0), |c| (c.ver, c.checksum));
                    let inflight = rolled_forward(staged, meta.chunk_size, base);
                    self.chunks.entry(key).or_default().busy = Some(Busy::Update(Box::new(inflight)));
                }
            }
        }
    }

    /// Not SERVING any more, whatever the reason: nothing in flight goes on here, releases are forgotten, staged updates
    /// are inert. Clients are sent to look at the routing again. Those whose update was in flight are not told that it
    /// had no effect: the rest of the chain may commit it, and so may this target if it is revived.
    pub(super) fn stand_down(&mut self, cx: &mut Cx<P>, why: &str) {
        self.confirmed = false;
        self.expiry = None;
        let fail = |code| {
            Failure::new(code, format!("target {} does not serve: {why}; refresh routing", self.me)).under(self.chain_ver())
        };
        let (not_serving, unknown) = (fail(Code::NotServing), fail(Code::OutcomeUnknown));
        let unknown = if is(Mutation::RedirectInFlight) { not_serving.clone() } else { unknown };
        if is(Mutation::KeepInFlight) {
            return self.end_reads(cx, &not_serving);
        }
        for chunk in std::mem::take(&mut self.chunks).into_values() {
            if let Some(Busy::Update(inflight)) = chunk.busy {
                refuse(cx, inflight.waiters, unknown.clone());
            }
            for turn in chunk.queue {
                if let Turn::Client(_, waiters) = turn {
                    refuse(cx, waiters, not_serving.clone());
                }
            }
        }
        self.sessions.clear();
        self.window = Window::default();
        self.damage.stand_down();
        self.end_reads(cx, &not_serving);
        self.source = None;
        self.sink = None;
    }

    /// Messages that came before the version they were sent under.
    fn take_kept(&mut self, cx: &mut Cx<P>) {
        for (msg, payload) in std::mem::take(&mut self.kept) {
            self.on_peer(cx, msg, payload);
        }
    }
}

fn rolled_forward<P>(staged: Staged, chunk_size: u32, base: (u64, u32)) -> InFlight<P> {
    let info = catena_types::StageInfo { len: staged.len, checksum: staged.checksum, ..Default::default() };
    InFlight {
        ver: staged.ver,
        tag: staged.tag,
        op: None,
        chunk_size,
        base,
        payload: None,
        waiters: Vec::new(),
        pred_attempt: 0,
        stage: staged.durable.then_some(info),
        released: true,
        next: Next::Nobody,
        undoing: None,
        explain: false,
        times: Times::default(),
    }
}
