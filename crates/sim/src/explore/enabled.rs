//! Which events can happen in a state.

use catena_types::TargetId;

use super::action::{Action, Step};
use super::ledger::Outcome;
use super::links::Conn;
use super::plan::Plan;
use super::rules::Rule;
use super::state::State;

/// Every step that is possible.
pub(super) fn steps(state: &State, plan: &Plan) -> Vec<Step> {
    if let Some(action) = prompt(state).filter(|_| plan.prompt) {
        return vec![Step { action, full: false, resend: false }];
    }
    let mut found = Found { steps: Vec::new(), full: state.left.full > 0 };
    of_clients(state, plan, &mut found);
    of_targets(state, &mut found);
    of_links(state, plan, &mut found);
    of_the_manager(state, plan, &mut found);
    faults(state, plan, &mut found);
    found.steps
}

/// What happens before anything else, where a plan says so.
fn prompt(state: &State) -> Option<Action> {
    let open = |t| state.target(t).replica.as_ref();
    let reads = state.ids().find(|&t| state.target(t).disk.may_answer()).map(|t| Action::EndRead(t as u8));
    let news = |t: &TargetId| open(*t).is_some_and(|r| state.members().is_news(*t, &r.report(), state.target(*t).opening));
    let beats = || state.ids().find(news).map(|t| Action::Beat(t as u8));
    let pairs = || state.ids().flat_map(|a| state.ids().map(move |b| (a, b)));
    let waits = |&(a, b): &(TargetId, TargetId)| {
        matches!(state.link(a, b).conn, Conn::Connecting(_)) && open(a).is_some() && open(b).is_some()
    };
    let connects = || pairs().find(waits).map(|(a, b)| Action::Connect(a as u8, b as u8));
    reads.or_else(beats).or_else(connects)
}

struct Found {
    steps: Vec<Step>,
    full: bool,
}

impl Found {
    fn add(&mut self, action: Action) {
        self.steps.push(Step { action, full: false, resend: false });
    }

    /// One that may meet a full disk.
    fn add_storing(&mut self, action: Action) {
        self.add_step(Step { action, full: false, resend: false });
    }

    fn add_step(&mut self, step: Step) {
        self.steps.push(step);
        if self.full {
            self.steps.push(Step { full: true, ..step });
        }
    }
}

fn up(state: &State, target: TargetId) -> bool {
    state.target(target).replica.is_some()
}

fn of_clients(state: &State, plan: &Plan, found: &mut Found) {
    let clients = &state.ledger().clients;
    for (u, client) in clients.iter().enumerate() {
        let session = plan.updates[u].session;
        let before = (0..u).filter(|&v| plan.updates[v].session == session);
        if client.outcome != Outcome::Open || before.into_iter().any(|v| clients[v].outcome == Outcome::Open) {
            continue;
        }
        if client.waits.is_some() && state.left.resend == 0 {
            continue;
        }
        for t in state.ids() {
            let target = state.target(t);
            let serves = target.replica.as_ref().is_some_and(|r| r.may_serve(super::target::NOW));
            if target.head && serves {
                let step = Step { action: Action::Submit(u as u8, t as u8), full: false, resend: client.waits.is_some() };
                found.add_step(step);
            }
        }
    }
}

fn of_targets(state: &State, found: &mut Found) {
    for t in state.ids() {
        let target = state.target(t);
        if target.disk.may_flush() {
            found.add_storing(Action::Flush(t as u8));
        }
        if target.disk.may_answer() {
            found.add(Action::EndRead(t as u8));
        }
        if target.stopped {
            found.add(Action::End(t as u8));
        }
        if !up(state, t) {
            (0..=target.disk.loose()).for_each(|kept| found.add(Action::Start(t as u8, kept as u8)));
        }
    }
}

fn of_links(state: &State, plan: &Plan, found: &mut Found) {
    for a in state.ids() {
        for b in state.ids().filter(|&b| b != a) {
            let (link, from, to) = (state.link(a, b), a as u8, b as u8);
            if !link.down.is_empty() {
                found.add_storing(Action::Down(from, to));
            }
            if !link.up.is_empty() {
                found.add_storing(Action::Up(from, to));
            }
            if link.down.len() > 1 && plan.off.is(Rule::Order) {
                found.add(Action::Overtake(from, to));
            }
            if !link.old[0].is_empty() {
                found.add(Action::OldDown(from, to));
            }
            if !link.old[1].is_empty() {
                found.add(Action::OldUp(from, to));
            }
            if matches!(link.conn, Conn::Connecting(_)) && up(state, a) && up(state, b) {
                found.add(Action::Connect(from, to));
            }
            if link.conn == Conn::Up && state.left.cut > 0 && up(state, a) && up(state, b) {
                found.add(Action::Cut(from, to));
            }
        }
    }
}

fn of_the_manager(state: &State, plan: &Plan, found: &mut Found) {
    let members = state.members();
    let mut silent = 0u8;
    for t in state.ids() {
        let target = state.target(t);
        if let Some(replica) = &target.replica {
            let news = members.is_news(t, &replica.report(), target.opening);
            if news || (!target.leased && !target.stopped) {
                found.add(Action::Beat(t as u8));
            }
            let oldest = if plan.late_routing { target.learned + 1 } else { members.version() };
            for version in oldest.max(target.learned + 1)..=members.version() {
                if target.gate.is_some_and(|gate| gate <= version) {
                    found.add_storing(Action::Learn(t as u8, version as u8));
                }
            }
        }
        if !target.leased && members.may_miss(t) {
            silent |= 1 << (t - 1);
        }
        if members.backs_off(t) {
            found.add(Action::EndBackOff(t as u8));
        }
    }
    (1..=silent).filter(|mask| mask & !silent == 0).for_each(|mask| found.add(Action::Miss(mask)));
}

fn faults(state: &State, plan: &Plan, found: &mut Found) {
    let left = state.left;
    let open: Vec<TargetId> = state.ids().filter(|&t| up(state, t)).collect();
    for &t in &open {
        let target = state.target(t);
        let t = t as u8;
        let each = [
            (left.crash > 0, Action::Crash(t)),
            (left.stop > 0 && !target.stopped, Action::Stop(t)),
            (left.lease > 0 && target.leased, Action::LoseLease(t)),
        ];
        each.into_iter().filter(|(can, _)| *can).for_each(|(_, action)| found.add(action));
        if left.read > 0 && state.ledger().reader.is_none() && target.leased {
            (0..plan.chunks).for_each(|c| found.add(Action::Read(c, t)));
        }
    }
    if left.power > 0 && !open.is_empty() {
        found.add(Action::Power);
    }
    if left.swap > 0 {
        state.ids().filter(|&t| !up(state, t)).for_each(|t| found.add(Action::Swap(t as u8)));
    }
    for (u, client) in state.ledger().clients.iter().enumerate() {
        if left.copy > 0 {
            (0..client.sent.len()).for_each(|n| found.add(Action::Copy(u as u8, n as u8)));
        }
        if left.give_up > 0 && client.waits.is_some() {
            found.add(Action::GiveUp(u as u8));
        }
    }
}
