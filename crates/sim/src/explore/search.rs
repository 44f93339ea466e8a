//! Breadth-first over every state that can be reached, so that the first counter-example is a shortest one.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::action::{Action, Step};
use super::apply::Ground;
use super::enabled::steps;
use super::links::Frame;
use super::plan::Plan;
use super::state::State;
use crate::messages::MESSAGES;

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps taken between them.
    pub steps: u64,
    /// Longest of the shortest ways to a state.
    pub depth: usize,
    /// States in which nothing was left to do.
    pub rests: u64,
    /// Kinds of messages that replicas have sent each other.
    pub messages: BTreeSet<&'static str>,
    /// Every state within the plan was visited.
    pub complete: bool,
    /// The shortest way to something that must not be.
    pub violation: Option<Violation>,
}

/// A counter-example.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What does not hold.
    pub what: String,
    /// What happened, step by step.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, line) in self.trace.iter().enumerate() {
            writeln!(f, "{:4}  {line}", n + 1)?;
        }
        write!(f, "      {}", self.what)
    }
}

/// Explores the plan until the end, the first violation, or `limit` states.
pub fn explore(plan: &Plan, limit: usize) -> Report {
    let ground = Ground::new(plan);
    let mut search = Search::new(&ground);
    let violation = search.run(limit).err();
    let violation = violation.map(|(at, step, what)| Violation { what, trace: search.trace(at, step) });
    Report {
        states: search.seen.len(),
        steps: search.steps,
        depth: search.depth,
        rests: search.rests,
        messages: MESSAGES.iter().enumerate().filter(|(n, _)| ground.said.get() >> n & 1 == 1).map(|(_, name)| *name).collect(),
        complete: violation.is_none() && search.frontier.is_empty(),
        violation,
    }
}

/// Fingerprints are spread evenly already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

struct Search<'a> {
    ground: &'a Ground<'a>,
    start: State,
    seen: HashSet<u64, BuildHasherDefault<AsIs>>,
    /// How each state was first reached: from which, by what.
    parents: Vec<(u32, Step)>,
    frontier: Vec<(u32, u64, State)>,
    steps: u64,
    depth: usize,
    rests: u64,
}

/// Where, by which step (none: at rest), and what.
type Found = (u32, Option<Step>, String);

const NONE: Step = Step { action: Action::Power, full: false, resend: false };

impl<'a> Search<'a> {
    fn new(ground: &'a Ground<'a>) -> Search<'a> {
        let mut start = first_state(ground);
        let print = ground.judge(&mut start).expect("nothing has happened yet");
        Search {
            ground,
            start: start.clone(),
            seen: HashSet::from_iter([print]),
            parents: vec![(0, NONE)],
            frontier: vec![(0, print, start)],
            steps: 0,
            depth: 0,
            rests: 0,
        }
    }

    fn run(&mut self, limit: usize) -> Result<(), Found> {
        while !self.frontier.is_empty() && self.seen.len() < limit {
            let mut next = Vec::new();
            for (at, print, state) in take(&mut self.frontier) {
                self.expand(at, print, &state, &mut next)?;
            }
            self.depth += usize::from(!next.is_empty());
            self.frontier = next;
        }
        Ok(())
    }

    fn expand(&mut self, at: u32, print: u64, state: &State, next: &mut Vec<(u32, u64, State)>) -> Result<(), Found> {
        let mut rest = true;
        for step in steps(state, self.ground.plan) {
            let bad = |what| (at, Some(step), what);
            let applied = catch_unwind(AssertUnwindSafe(|| self.ground.apply(state, step)));
            let applied = applied.unwrap_or_else(|panic| Err(format!("panic: {}", said(&*panic))));
            let Some(mut after) = applied.map_err(bad)? else { continue };
            let to = self.ground.judge(&mut after).map_err(bad)?;
            self.steps += 1;
            rest &= to == print || step.action.is_fault() || step.full || step.resend;
            if self.seen.insert(to) {
                next.push((self.parents.len() as u32, to, after));
                self.parents.push((at, step));
            }
        }
        if rest {
            self.rests += 1;
            self.ground.judge_rest(state).map_err(|what| (at, None, what))?;
        }
        Ok(())
    }

    /// The way to a state, told by going it once more.
    fn trace(&self, mut at: u32, last: Option<Step>) -> Vec<String> {
        let mut way: Vec<Step> = last.into_iter().collect();
        while at != 0 {
            let (from, step) = self.parents[at as usize];
            way.push(step);
            at = from;
        }
        let mut state = self.start.clone();
        let mut lines = Vec::new();
        for step in way.into_iter().rev() {
            lines.push(describe(&state, step));
            match catch_unwind(AssertUnwindSafe(|| self.ground.apply(&state, step))) {
                Ok(Ok(Some(next))) => state = next,
                _ => break,
            }
            if self.ground.judge(&mut state).is_err() {
                break;
            }
        }
        lines
    }
}

/// What a panic said.
fn said(panic: &dyn std::any::Any) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something").to_owned()
}

/// Everybody has a lease, the first routing and a connection to everybody, and nothing is under way.
pub(super) fn first_state(ground: &Ground) -> State {
    let mut state = State::new(ground.plan);
    let go = |state: &mut State, action| {
        let step = Step { action, full: false, resend: false };
        if let Some(next) = ground.apply(state, step).expect("nothing has gone wrong yet") {
            *state = next;
        }
    };
    for t in state.ids() {
        go(&mut state, Action::Beat(t as u8));
        go(&mut state, Action::Learn(t as u8, 1));
    }
    loop {
        let mut pairs = state.ids().flat_map(|a| state.ids().map(move |b| (a, b)));
        let Some((a, b)) = pairs.find(|&(a, b)| a != b && !state.link(a, b).down.is_empty()) else { break };
        go(&mut state, Action::Down(a as u8, b as u8));
    }
    for t in state.ids() {
        go(&mut state, Action::Beat(t as u8));
    }
    state
}

/// A step with the message it is about.
pub(super) fn describe(state: &State, step: Step) -> String {
    let link = |a: u8, b: u8| state.link(a.into(), b.into());
    let frame: Option<&Frame> = match step.action {
        Action::Down(a, b) => link(a, b).down.front(),
        Action::Up(a, b) => link(a, b).up.front(),
        Action::Overtake(a, b) => link(a, b).down.get(1),
        Action::OldDown(a, b) => link(a, b).old[0].front(),
        Action::OldUp(a, b) => link(a, b).old[1].front(),
        _ => None,
    };
    match (step.action, frame) {
        (_, Some(frame)) => format!("{step}: v{} {}", frame.0.chain_ver, brief(frame)),
        (Action::Learn(_, version), _) => {
            let chain = state.members().at(version.into());
            let member =
                |m: &catena_types::Member| format!("t{} {:?}{}", m.target, m.state(), if m.chosen { " chosen" } else { "" });
            let members = |c: &catena_types::Chain| c.members.iter().map(member).collect::<Vec<_>>().join(", ");
            format!("{step}: {}", chain.map_or(String::new(), |c| format!("v{} {}", c.chain_ver, members(c))))
        }
        _ => step.to_string(),
    }
}

/// The name of a message and what matters of it.
fn brief(frame: &Frame) -> String {
    use catena_wire::peer::Body;
    match &frame.0.body {
        Some(Body::Forward(f)) => format!("Forward of version {} ({}), attempt {}", f.ver, f.tag, f.attempt),
        Some(Body::Release(r)) => format!("Release of version {} ({})", r.ver, r.tag),
        Some(Body::Reply(r)) => format!("Reply: version {} ({}) committed under v{}", r.ver, r.tag, r.commit_chain_ver),
        Some(Body::Reject(r)) => format!("Reject of version {} ({}), attempt {}", r.ver, r.tag, r.attempt),
        Some(Body::Answer(a)) if a.absent => "Answer: absent".into(),
        Some(Body::Answer(a)) => format!("Answer: version {}", a.commit_ver),
        Some(Body::SyncPut(p)) => format!("SyncPut of version {}", p.committed.ver),
        Some(body) => format!("{body:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
        None => "nothing".into(),
    }
}
