//! What an event does: the replicas decide, this carries out what they command, and the ledger judges.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use catena_chain::{ClientUpdate, Command, Event, answers};
use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Code, Op, Payload, Precondition, Tag, TargetId, Time};
use catena_wire::peer::Body;

use super::action::{Action, Step, targets};
use super::disk::{Blocks, CHUNK_SIZE, Contents};
use super::ledger::{Attempt, Outcome, seq};
use super::links::{Conn, Frame};
use super::plan::Plan;
use super::rules::Rule;
use super::state::{Pool, State};
use super::target::read;
use crate::messages::kind;
use crate::store::Content;

/// The request number of the explicit read.
const READ: u64 = 1000;
/// Attempts of one update have numbers below this one; a late copy has it.
const COPY: u64 = 7;

/// What all steps of an exploration share.
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) keys: Vec<ChunkKey>,
    pub(super) pool: RefCell<Pool>,
    /// Kinds of messages that have been sent, a bit each.
    pub(super) said: Cell<u32>,
}

impl<'a> Ground<'a> {
    pub(super) fn new(plan: &'a Plan) -> Ground<'a> {
        let key = |n: u8| ChunkKey::new(&[b'a' + n]).expect("one byte");
        Ground { plan, keys: (0..plan.chunks).map(key).collect(), pool: RefCell::default(), said: Cell::new(0) }
    }

    /// The state after a step; `None` if it is no step here. `Err` says what a replica did that it must not.
    pub(super) fn apply(&self, before: &State, step: Step) -> Result<Option<State>, String> {
        let mut state = before.clone();
        let actor = actor(step.action);
        if step.full {
            state.left.full -= 1;
            state.target_mut(actor).disk.whims.full = true;
        }
        if step.resend {
            state.left.resend -= 1;
        }
        self.act(&mut state, step)?;
        if step.full {
            let disk = &mut state.target_mut(actor).disk.whims;
            disk.full = false;
            if !std::mem::take(&mut disk.refused) {
                return Ok(None);
            }
        }
        Ok(Some(state))
    }

    fn act(&self, state: &mut State, step: Step) -> Result<(), String> {
        use Action::*;
        match step.action {
            Submit(u, t) => self.submit(state, u.into(), t.into(), step.resend),
            Copy(u, n) => self.copy(state, u.into(), n.into()),
            GiveUp(u) => {
                state.left.give_up -= 1;
                let client = &mut state.ledger_mut().clients[usize::from(u)];
                (client.outcome, client.waits) = (Outcome::GivenUp, None);
                Ok(())
            }
            Read(c, t) => self.read(state, c, t.into()),
            Down(a, b) | Up(a, b) | Overtake(a, b) | OldDown(a, b) | OldUp(a, b) => {
                self.deliver(state, step.action, a.into(), b.into())
            }
            Connect(a, b) => self.connect(state, a.into(), b.into()),
            Cut(a, b) => {
                state.left.cut -= 1;
                self.connect(state, a.into(), b.into())
            }
            Flush(t) => {
                let done = state.target_mut(t.into()).disk.flush_one();
                done.map_or(Ok(()), |done| self.give(state, t.into(), Event::Done(done)))
            }
            EndRead(t) => {
                let dones = state.target_mut(t.into()).disk.answer_one();
                dones.into_iter().try_for_each(|done| self.give(state, t.into(), Event::Done(done)))
            }
            other => self.act_on_membership(state, other),
        }
    }

    fn act_on_membership(&self, state: &mut State, action: Action) -> Result<(), String> {
        use Action::*;
        match action {
            Learn(t, version) => return self.learn(state, t.into(), version.into()),
            Beat(t) => return self.beat(state, t.into()),
            Miss(mask) => state.members_mut().miss(targets(mask)),
            EndBackOff(t) => state.members_mut().end_back_off(t.into()),
            Start(t, kept) => {
                let contents = state.target(t.into()).disk.after_crash(kept.into());
                self.start(state, t.into(), contents, false);
            }
            Swap(t) => {
                state.left.swap -= 1;
                self.start(state, t.into(), Contents::default(), true);
            }
            Crash(t) => {
                state.left.crash -= 1;
                crash(state, t.into());
            }
            End(t) => crash(state, t.into()),
            Power => {
                state.left.power -= 1;
                let open: Vec<TargetId> = state.ids().filter(|&t| state.target(t).replica.is_some()).collect();
                open.into_iter().for_each(|t| crash(state, t));
            }
            Stop(t) => {
                state.left.stop -= 1;
                state.target_mut(t.into()).stopped = true;
                return self.give(state, t.into(), Event::Stop);
            }
            LoseLease(t) => return self.lose_lease(state, t.into()),
            _ => unreachable!("the others are not about membership"),
        }
        Ok(())
    }

    // Clients.

    fn submit(&self, state: &mut State, u: usize, t: TargetId, again: bool) -> Result<(), String> {
        let chain_ver = state.target(t).replica.as_ref().map_or(0, |r| r.chain_ver());
        let copies = state.left.copy > 0;
        let client = &mut state.ledger_mut().clients[u];
        client.newest += u64::from(again);
        client.chain_ver = client.chain_ver.max(chain_ver);
        let attempt = Attempt { to: t, chain_ver, request: u as u64 * 8 + client.newest };
        client.waits = Some(attempt);
        if copies && client.sent.iter().all(|a| (a.to, a.chain_ver) != (t, chain_ver)) {
            client.sent.push(attempt);
        }
        self.send_update(state, u, attempt)
    }

    fn copy(&self, state: &mut State, u: usize, n: usize) -> Result<(), String> {
        state.left.copy -= 1;
        let attempt = state.ledger().clients[u].sent[n];
        self.send_update(state, u, Attempt { request: u as u64 * 8 + COPY, ..attempt })
    }

    fn send_update(&self, state: &mut State, u: usize, attempt: Attempt) -> Result<(), String> {
        let spec = self.plan.updates[u];
        let mut earlier = (0..u).filter(|&v| self.plan.updates[v].session == spec.session);
        let first = !earlier.any(|v| matches!(state.ledger().clients[v].outcome, Outcome::Acked(_)));
        let blocks = if spec.remove { Blocks::default() } else { Blocks::of(u as u8 + 1, spec.blocks) };
        let op = if spec.remove { Op::remove() } else { Op::write(u32::from(spec.from) * BLOCK, blocks.size()) };
        let update = ClientUpdate {
            request: attempt.request,
            chain_ver: attempt.chain_ver,
            key: self.keys[usize::from(spec.chunk)].clone(),
            chunk_size: CHUNK_SIZE,
            op,
            precondition: Precondition::Any,
            tag: Tag { client: 1, channel: spec.session.into(), seq: seq(u) },
            first,
            explain: false,
            payload: Payload { data: blocks, len: op.payload_len(), crc: blocks.checksum(), sums: None },
        };
        self.give(state, attempt.to, Event::Update(update))
    }

    fn read(&self, state: &mut State, chunk: u8, t: TargetId) -> Result<(), String> {
        state.left.read -= 1;
        let seen = state.ledger().seen[usize::from(chunk)];
        state.ledger_mut().reader = Some((t, chunk, seen));
        let chain_ver = state.target(t).replica.as_ref().map_or(0, |r| r.chain_ver());
        self.give(state, t, read(READ, chain_ver, &self.keys[usize::from(chunk)]))
    }

    // Links.

    fn deliver(&self, state: &mut State, action: Action, a: TargetId, b: TargetId) -> Result<(), String> {
        let link = state.link_mut(a, b);
        let (frame, to) = match action {
            Action::Down(..) => (link.down.pop_front(), b),
            Action::Overtake(..) => (link.down.remove(1), b),
            Action::OldDown(..) => (link.old[0].pop_front(), b),
            Action::OldUp(..) => (link.old[1].pop_front(), a),
            _ => (link.up.pop_front(), a),
        };
        let Some(frame) = frame else { return Ok(()) };
        let (msg, payload) = (*frame).clone();
        self.give(state, to, Event::Peer { msg, payload })
    }

    fn connect(&self, state: &mut State, a: TargetId, b: TargetId) -> Result<(), String> {
        state.link_mut(a, b).connected(!self.plan.off.is(Rule::Fencing));
        self.give(state, a, Event::LinkUp { peer: b })
    }

    // Membership.

    fn learn(&self, state: &mut State, t: TargetId, version: usize) -> Result<(), String> {
        let Some(chain) = state.members().at(version).cloned() else { return Ok(()) };
        let target = state.target_mut(t);
        (target.learned, target.head) = (version, chain.head() == Some(t));
        self.give(state, t, Event::Routing { version: version as u64, chain })
    }

    fn beat(&self, state: &mut State, t: TargetId) -> Result<(), String> {
        let target = state.target(t);
        let (Some(report), opening) = (target.replica.as_ref().map(|r| r.report()), target.opening) else { return Ok(()) };
        let granted = state.members_mut().hear(t, report, opening);
        let version = state.members().version();
        if !granted || state.target(t).leased {
            return Ok(());
        }
        let target = state.target_mut(t);
        target.leased = true;
        target.gate.get_or_insert(version);
        let routing = if self.plan.off.is(Rule::LeaseRouting) { 0 } else { version as u64 };
        self.give(state, t, Event::Lease { until: Time::MAX, routing })
    }

    fn lose_lease(&self, state: &mut State, t: TargetId) -> Result<(), String> {
        state.left.lease -= 1;
        if self.plan.off.is(Rule::LeaseEnds) {
            state.members_mut().miss([t]);
            return Ok(());
        }
        state.target_mut(t).leased = false;
        self.give(state, t, Event::Lease { until: 0, routing: 0 })
    }

    fn start(&self, state: &mut State, t: TargetId, contents: Contents, strange: bool) {
        let target = state.target_mut(t);
        target.open(contents, self.plan.off);
        let opening = target.opening;
        if self.plan.off.is(Rule::RemovalFirst) {
            target.gate = Some(0);
        }
        state.members_mut().register(t, opening, strange);
    }

    // Replicas.

    /// Gives a replica an event and carries out what it commands.
    fn give(&self, state: &mut State, t: TargetId, event: Event<Blocks>) -> Result<(), String> {
        let errors = |state: &State| state.target(t).replica.as_ref().map_or(0, |r| r.counters().protocol_errors);
        let before = errors(state);
        let target = state.target_mut(t);
        let out = target.handle(event);
        let (misuse, commits) = (target.disk.misuse.take(), std::mem::take(&mut target.disk.whims.commits));
        if let Some(misuse) = misuse {
            return Err(format!("t{t}: {misuse}"));
        }
        if errors(state) != before {
            return Err(format!("t{t} counts a protocol error"));
        }
        for (key, ver, tag) in commits {
            let chunk = self.keys.iter().position(|k| *k == key).unwrap_or(0) as u8;
            state.ledger_mut().committed(chunk, ver, tag, tag.seq as usize - 1)?;
        }
        out.into_iter().try_for_each(|command| self.carry_out(state, t, command))
    }

    fn carry_out(&self, state: &mut State, t: TargetId, command: Command<Blocks>) -> Result<(), String> {
        match command {
            Command::Send { msg, payload } => {
                self.said.set(self.said.get() | msg.body.as_ref().map_or(0, |body| 1 << kind(body)));
                let rows = matches!(msg.body, Some(Body::SyncSessions(_)));
                if !(rows && self.plan.off.is(Rule::SessionRows)) {
                    let to = msg.to;
                    let up = answers(&msg);
                    let frame: Frame = Rc::new((msg, payload));
                    if up { state.link_mut(to, t).send_up(frame) } else { state.link_mut(t, to).send_down(frame) }
                }
                Ok(())
            }
            Command::UpdateReply { request, .. } if request % 8 == COPY => Ok(()),
            Command::UpdateReply { request, reply } => {
                let u = (request / 8) as usize;
                let (spec, off) = (self.plan.updates[u], self.plan.off);
                state.ledger_mut().answered(u, spec, request, reply.ver, reply.failure.as_ref(), off)
            }
            Command::ReadReply { reply, .. } => {
                let Some((_, chunk, seen)) = state.ledger_mut().reader.take() else { return Ok(()) };
                match reply.failure {
                    None if reply.ver < seen => Err(format!("stale read: version {} after {seen} had been seen", reply.ver)),
                    None => {
                        state.ledger_mut().see(chunk, reply.ver);
                        Ok(())
                    }
                    Some(f) if f.code() == Code::NotFound && !self.may_be_absent(state, chunk, seen) => {
                        Err(format!("stale read: absent after {seen} had been seen"))
                    }
                    Some(_) => Ok(()),
                }
            }
            Command::Reopen { .. } => {
                state.target_mut(t).close();
                state.ledger_mut().lost(t);
                Ok(())
            }
            Command::ListReply { .. } => Ok(()),
        }
    }

    /// Whether some version from `seen` on is a removal, or nothing has been seen.
    fn may_be_absent(&self, state: &State, chunk: u8, seen: u64) -> bool {
        let removes = |tag: Tag| self.plan.updates[tag.seq as usize - 1].remove;
        seen == 0 || (seen..seen + 8).any(|ver| state.ledger().made(chunk, ver).is_some_and(removes))
    }
}

fn crash(state: &mut State, t: TargetId) {
    state.target_mut(t).close();
    state.ledger_mut().lost(t);
    for other in state.ids().filter(|&o| o != t) {
        state.link_mut(t, other).opener_gone();
        state.link_mut(other, t).acceptor_gone();
        debug_assert!(state.link(t, other).conn == Conn::None);
    }
}

/// Whose disk an event is about.
fn actor(action: Action) -> TargetId {
    use Action::*;
    match action {
        Submit(_, t) | Read(_, t) | Down(_, t) | OldDown(_, t) | Overtake(_, t) | Flush(t) | EndRead(t) | Learn(t, _) => t.into(),
        Up(t, _) | OldUp(t, _) | Connect(t, _) => t.into(),
        _ => 1,
    }
}
