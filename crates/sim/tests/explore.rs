//! Small chains in every order of events: what must hold holds, what is switched off is found, and killed replicas return.
//!
//! `catena-explore` visits more; this is what it takes to trust it.

use catena_sim::explore::{BROKEN, Part, Plan, Rule, SHORT, explore, kill_at_every_step, never_sent};

fn plan(name: &str) -> &'static Plan {
    SHORT.iter().find(|p| p.name == name).expect("a plan of the gate")
}

#[test]
fn small_chains_hold_in_every_order_of_events() {
    let mut reports = Vec::new();
    for name in ["quiet-3", "cut-3", "full-3", "full-cut-2", "blocks-2", "removes-2"] {
        let report = explore(plan(name), usize::MAX);
        println!("{name}: {} states, {} steps, depth {}", report.states, report.steps, report.depth);
        assert!(report.violation.is_none(), "{name}:\n{}", report.violation.expect("just seen"));
        assert!(report.complete && report.rests > 0, "{name} must be visited to its end: {report:?}");
        reports.push(report);
    }
    assert!(never_sent(&reports).is_empty(), "not explored: {:?}", never_sent(&reports));
}

/// These need more states than a test should visit: `catena-explore --rules` shows them.
const DEEP: [Rule; 3] = [Rule::SyncDurable, Rule::UpToDateVersion, Rule::SessionRows];

#[test]
fn every_rule_switched_off_is_found() {
    for (rule, plan) in BROKEN.iter().filter(|(rule, _)| !DEEP.contains(rule)) {
        let report = explore(plan, 20_000);
        let violation =
            report.violation.unwrap_or_else(|| panic!("{rule:?} is off, and nothing is found in {} states", report.states));
        println!("{rule:?}: {} after {} steps, {} states", violation.what, violation.trace.len(), report.states);
    }
}

#[test]
fn an_exploration_is_the_same_every_time() {
    let runs = [0; 2].map(|_| explore(plan("quiet-3"), usize::MAX));
    let [a, b] = runs.map(|r| (r.states, r.steps, r.depth, r.rests));
    assert_eq!(a, b);
}

#[test]
fn a_replica_killed_at_any_step_comes_back() {
    let kills = kill_at_every_step().unwrap_or_else(|violation| panic!("{violation}"));
    println!("{kills}");
    for part in [Part::Receive, Part::Stage, Part::Forward, Part::Release, Part::Commit, Part::Reply] {
        for target in 1..=3 {
            let last = target == 3 && matches!(part, Part::Forward | Part::Release);
            assert_eq!(kills.single.contains_key(&(part, target)), !last, "{part:?} at {target}");
        }
    }
    assert!(kills.runs() > 10_000, "{} runs", kills.runs());
}
