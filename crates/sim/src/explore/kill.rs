//! Every replica killed at every step of a write, alone and in pairs: the chain must come back whole, by itself.
//!
//! One write of a chain of three is followed by a schedule that always takes the first thing that can happen. Wherever a
//! replica has received, staged, forwarded, released, committed or replied, each replica (and each two) is killed: before
//! what that step sends has left, or after. Then the schedule goes on until nothing is left to do; there it may meet a
//! second kill, at every later step. The checks of an exploration hold in every state on the way.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use catena_types::{ChunkKey, Committed, TargetId};
use catena_wire::peer::Body;

use super::action::{Action, Step};
use super::apply::Ground;
use super::enabled::steps;
use super::ledger::Outcome;
use super::links::Frame;
use super::plan::{Faults, Plan};
use super::search::{Violation, describe, first_state};
use super::state::State;
use super::{Rules, Update};

/// What a replica does with an update, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// It has the update.
    Receive,
    /// Its stage is durable.
    Stage,
    /// It has sent the update on.
    Forward,
    /// It has said that everybody up to it holds the update.
    Release,
    /// The update is visible.
    Commit,
    /// It has said so upstream.
    Reply,
}

/// How many runs there were, by step and replica at which the first kill fell.
#[derive(Clone, Debug, Default)]
pub struct Kills {
    /// Runs with one replica killed.
    pub single: BTreeMap<(Part, TargetId), u64>,
    /// Runs with two killed at the same moment.
    pub together: BTreeMap<(Part, TargetId), u64>,
    /// Runs with a second one killed at some later step.
    pub later: BTreeMap<(Part, TargetId), u64>,
    /// States judged.
    pub states: u64,
}

impl Kills {
    /// All runs.
    pub fn runs(&self) -> u64 {
        [&self.single, &self.together, &self.later].iter().flat_map(|m| m.values()).sum()
    }
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| step | replica | one killed | two at once | another later |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for (at, single) in &self.single {
            let count = |m: &BTreeMap<_, u64>| m.get(at).copied().unwrap_or(0);
            let place = ["head", "middle", "tail"][at.1 as usize - 1];
            let step = format!("{:?}", at.0).to_lowercase();
            writeln!(f, "| {step} | {place} | {single} | {} | {} |", count(&self.together), count(&self.later))?;
        }
        write!(f, "{} runs, {} states judged: every chain came back whole", self.runs(), self.states)
    }
}

const WRITES: &[Update] = &[Update::write(0, 0), Update::write(0, 1)];

const PLAN: Plan = Plan {
    name: "kill at every step",
    targets: 3,
    chunks: 1,
    updates: WRITES,
    faults: Faults { crash: 2, power: 0, stop: 0, lease: 0, cut: 0, full: 0, resend: 0, copy: 0, give_up: 0, read: 0, swap: 0 },
    late_routing: false,
    prompt: false,
    off: Rules::NONE,
};

/// Something that a replica has just done, and the state in which what it sends for it has left, or has not.
struct Moment {
    part: Part,
    by: TargetId,
    before: State,
    after: State,
}

/// How the world goes on after a kill.
#[derive(Clone, Copy)]
struct Manner {
    /// A killed node starts only when nothing else can happen; otherwise at once.
    late: bool,
    /// All that was not durable is kept, or none of it.
    keeps: bool,
}

/// Kills every replica, and every two, at every step of a write.
///
/// # Errors
/// The way to the first chain that did not come back, or broke a promise on the way.
pub fn kill_at_every_step() -> Result<Kills, Box<Violation>> {
    let ground = Ground::new(&PLAN);
    let mut run = Run { ground: &ground, kills: Kills::default() };
    let manners = [(false, false), (false, true), (true, false), (true, true)];
    let mut state = first_state(&ground);
    let mut way = Vec::new();
    let firsts = run.moments(&mut state, &mut way, Manner { late: true, keeps: true }, true)?;
    for moment in &firsts {
        for (late, keeps) in manners {
            run.kill_at(moment, Manner { late, keeps })?;
        }
    }
    Ok(run.kills)
}

struct Run<'a> {
    ground: &'a Ground<'a>,
    kills: Kills,
}

impl Run<'_> {
    /// Goes on until nothing is left to do; the moments on the way, if they are wanted.
    fn moments(
        &mut self,
        state: &mut State,
        way: &mut Vec<String>,
        manner: Manner,
        wanted: bool,
    ) -> Result<Vec<Moment>, Box<Violation>> {
        let mut found = Vec::new();
        while let Some(step) = self.next_step(state, manner) {
            way.push(describe(state, step));
            let before = state.clone();
            let after = self.ground.apply(state, step).map_err(|what| failed(way, what))?;
            *state = after.expect("a step that needs no full disk always is one");
            self.ground.judge(state).map_err(|what| failed(way, what))?;
            self.kills.states += 1;
            if wanted && before.ledger().clients[0].outcome != Outcome::Open {
                found.extend(parts(&before, state, step).into_iter().map(|(part, by)| Moment {
                    part,
                    by,
                    before: before.clone(),
                    after: state.clone(),
                }));
            }
        }
        self.ground.judge_rest(state).map_err(|what| failed(way, what))?;
        Ok(found)
    }

    /// The first thing that can happen and changes anything. The second write comes after the first has been answered.
    fn next_step(&self, state: &State, manner: Manner) -> Option<Step> {
        let first_open = state.ledger().clients[0].outcome == Outcome::Open;
        let wanted = |step: &Step| match step.action {
            Action::Submit(1, _) => !first_open,
            Action::Start(t, kept) => {
                let loose = state.target(t.into()).disk.loose() as u8;
                kept == if manner.keeps { loose } else { 0 }
            }
            action => !action.is_fault(),
        };
        let can = steps(state, self.ground.plan);
        let can: Vec<Step> = can.into_iter().filter(|s| wanted(s) && !s.full && !s.resend && self.changes(state, *s)).collect();
        let is_start = |s: &Step| matches!(s.action, Action::Start(..));
        let (starts, others): (Vec<_>, Vec<_>) = can.into_iter().partition(is_start);
        let order = if manner.late { [others, starts] } else { [starts, others] };
        order.concat().first().copied()
    }

    fn changes(&self, state: &State, step: Step) -> bool {
        if !matches!(step.action, Action::Submit(..) | Action::Beat(_) | Action::Miss(_)) {
            return true;
        }
        let Ok(Some(mut after)) = self.ground.apply(state, step) else { return true };
        self.ground.judge(&mut state.clone()).ok() != self.ground.judge(&mut after).ok()
    }

    /// One, two at once, and one after another.
    fn kill_at(&mut self, moment: &Moment, manner: Manner) -> Result<(), Box<Violation>> {
        let at = (moment.part, moment.by);
        for lost in [false, true] {
            for first in moment.after.ids() {
                let seconds = self.go_on(moment, &[first], manner, lost, true)?;
                *self.kills.single.entry(at).or_default() += 1;
                for second in first + 1..=moment.after.ids().count() as TargetId {
                    self.go_on(moment, &[first, second], manner, lost, false)?;
                    *self.kills.together.entry(at).or_default() += 1;
                }
                for later in &seconds {
                    for second in moment.after.ids().filter(|&t| later.after.target(t).replica.is_some()) {
                        self.go_on(later, &[second], manner, false, false)?;
                        *self.kills.later.entry(at).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn go_on(
        &mut self,
        at: &Moment,
        victims: &[TargetId],
        manner: Manner,
        lost: bool,
        wanted: bool,
    ) -> Result<Vec<Moment>, Box<Violation>> {
        let mut state = at.after.clone();
        let mut way = vec![format!(
            "t{} at {:?}; then{} dies: {victims:?}",
            at.by,
            at.part,
            if lost { " before anything is sent" } else { "" }
        )];
        if lost {
            unsend(&at.before, &mut state, at.by);
        }
        for &victim in victims {
            let step = Step { action: Action::Crash(victim as u8), full: false, resend: false };
            let after = self.ground.apply(&state, step).map_err(|what| failed(&way, what))?;
            state = after.expect("an open target can be killed");
        }
        self.ground.judge(&mut state).map_err(|what| failed(&way, what))?;
        self.moments(&mut state, &mut way, manner, wanted)
    }
}

fn failed(way: &[String], what: String) -> Box<Violation> {
    Box::new(Violation { what, trace: way.to_vec() })
}

/// What that target sent in the last step never leaves it.
fn unsend(before: &State, state: &mut State, by: TargetId) {
    for other in before.ids().filter(|&o| o != by) {
        state.link_mut(by, other).down.retain(|frame| before.link(by, other).down.contains(frame));
        state.link_mut(other, by).up.retain(|frame| before.link(other, by).up.contains(frame));
    }
}

/// What replicas did with an update in a step.
fn parts(before: &State, after: &State, step: Step) -> Vec<(Part, TargetId)> {
    let mut found = Vec::new();
    match step.action {
        Action::Submit(_, t) => found.push((Part::Receive, t.into())),
        Action::Down(a, b) => {
            let frame = before.link(a.into(), b.into()).down.front();
            if frame.is_some_and(|f| matches!(f.0.body, Some(Body::Forward(_)))) {
                found.push((Part::Receive, b.into()));
            }
        }
        Action::Flush(t) => found.push((Part::Stage, t.into())),
        _ => {}
    }
    for t in after.ids() {
        let acked = after.target(t).head && after.ledger().clients[1].outcome != before.ledger().clients[1].outcome;
        let each = [
            (sent(before, after, t, |b| matches!(b, Body::Forward(_))), Part::Forward),
            (sent(before, after, t, |b| matches!(b, Body::Release(_))), Part::Release),
            (committed(before, t) != committed(after, t), Part::Commit),
            (sent(before, after, t, |b| matches!(b, Body::Reply(_))) || acked, Part::Reply),
        ];
        found.extend(each.into_iter().filter(|(did, _)| *did).map(|(_, part)| (part, t)));
    }
    found
}

/// Whether a target has sent a message of a kind between two states.
fn sent(before: &State, after: &State, by: TargetId, kind: fn(&Body) -> bool) -> bool {
    let fresh = |was: &VecDeque<Frame>, is: &VecDeque<Frame>| {
        is.iter().any(|frame| frame.0.body.as_ref().is_some_and(kind) && !was.contains(frame))
    };
    after.ids().any(|other| {
        fresh(&before.link(by, other).down, &after.link(by, other).down)
            || fresh(&before.link(other, by).up, &after.link(other, by).up)
    })
}

fn committed(state: &State, target: TargetId) -> Option<Committed> {
    let key = ChunkKey::new(b"a").expect("one byte");
    state.target(target).disk.memory.committed(&key).map(|(committed, _)| *committed)
}
