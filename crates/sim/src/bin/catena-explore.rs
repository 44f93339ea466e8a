//! `catena-explore`: visits every state of small chains, and prints what it found as the tables of `docs/testing.md`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use catena_sim::explore::{self, Plan};

const USAGE: &str = "usage:
  catena-explore [--long] [--plan NAME] [--limit N]   every order of every event, in chains of two and three
  catena-explore --rules [--limit N]                  each promise of the surroundings broken: what is found, and how
  catena-explore --kill                               every replica killed at every step of a write
  catena-explore --mutations [--limit N]              each rule of the replica switched off (feature `mutations`)";

/// What was asked for.
#[derive(Default)]
struct Args {
    long: bool,
    rules: bool,
    kill: bool,
    mutations: bool,
    plan: Option<String>,
    limit: Option<usize>,
}

fn parse() -> Result<Args, String> {
    let mut args = Args::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--long" => args.long = true,
            "--rules" => args.rules = true,
            "--kill" => args.kill = true,
            "--mutations" => args.mutations = true,
            "--plan" => args.plan = Some(words.next().ok_or("--plan needs a name")?),
            "--limit" => {
                let states = words.next().and_then(|n| n.parse().ok());
                args.limit = Some(states.ok_or("--limit needs a number of states")?);
            }
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(e) => {
            eprintln!("{e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let limit = args.limit.unwrap_or(usize::MAX);
    let good = match (args.rules, args.kill, args.mutations) {
        (true, ..) => rules(limit),
        (_, true, _) => kill(),
        (.., true) => mutations(args.limit.unwrap_or(300_000)),
        _ => plans(&args, limit),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plans(args: &Args, limit: usize) -> bool {
    let named = |plan: &&Plan| args.plan.as_ref().is_none_or(|name| plan.name == name);
    let long = explore::LONG.iter().filter(|_| args.long || args.plan.is_some());
    let mut good = true;
    let mut reports = Vec::new();
    println!("| plan | targets | chunks | updates | faults | states | steps | longest way | at rest | CPU s |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for plan in explore::SHORT.iter().chain(long).filter(named) {
        let begun = cpu_seconds();
        let found = explore::explore(plan, limit);
        let cpu = cpu_seconds() - begun;
        let Plan { name, targets, chunks, updates, faults, .. } = plan;
        let name = format!("{name}{}", if plan.prompt { " ¹" } else { "" });
        let states = format!("{}{}", found.states, if found.complete { "" } else { " (not all)" });
        let (updates, steps, depth, rests) = (updates.len(), found.steps, found.depth, found.rests);
        println!("| {name} | {targets} | {chunks} | {updates} | {faults} | {states} | {steps} | {depth} | {rests} | {cpu:.1} |");
        if let Some(violation) = &found.violation {
            println!("{violation}");
            good = false;
        }
        reports.push(found);
    }
    let unseen = if args.plan.is_none() { explore::never_sent(&reports) } else { Vec::new() };
    unseen.iter().for_each(|name| println!("never sent: {name}"));
    good && unseen.is_empty()
}

/// Every rule of the surroundings switched off, one at a time: what is found, and how.
fn rules(limit: usize) -> bool {
    let mut all = true;
    let mut traces = Vec::new();
    println!("| rule switched off | faults | found | steps | states |");
    println!("|---|---|---|---|---|");
    for (rule, plan) in explore::BROKEN {
        let report = explore::explore(plan, limit);
        let (found, steps) = report.violation.as_ref().map_or(("nothing", 0), |v| (v.what.as_str(), v.trace.len()));
        println!("| {} | {} | {found} | {steps} | {} |", rule.text(), plan.faults, report.states);
        all &= report.violation.is_some();
        traces.extend(report.violation.map(|v| (rule, v)));
    }
    for (rule, violation) in traces {
        println!("\n{} - switched off:\n{violation}", rule.text());
    }
    all
}

fn kill() -> bool {
    match explore::kill_at_every_step() {
        Ok(kills) => {
            println!("{kills}");
            true
        }
        Err(violation) => {
            println!("{violation}");
            false
        }
    }
}

/// Every rule of the replica switched off, one at a time: the shortest way to what that breaks in any plan, each explored up
/// to `limit` states. Rules that need more than these plans have (damage, listings, clocks) are not found here.
#[cfg(feature = "mutations")]
fn mutations(limit: usize) -> bool {
    use catena_chain::mutation::{Mutation, set};
    let mut found = 0;
    println!("| rule of the replica switched off | plan | found | steps |");
    println!("|---|---|---|---|");
    for mutation in Mutation::ALL {
        set(&[*mutation]);
        let plans = explore::HUNT.iter().filter_map(|plan| Some((plan, explore::explore(plan, limit).violation?)));
        let shortest = plans.min_by_key(|(_, violation)| violation.trace.len());
        set(&[]);
        match shortest {
            Some((plan, violation)) => {
                found += 1;
                println!("| {mutation:?} | {} | {} | {} |", plan.name, violation.what, violation.trace.len());
            }
            None => println!("| {mutation:?} | | | |"),
        }
    }
    println!("{found} of {} found", Mutation::ALL.len());
    found > 0
}

#[cfg(not(feature = "mutations"))]
fn mutations(_: usize) -> bool {
    println!(
        "built without the feature `mutations`: cargo run --release -p catena-sim --features mutations --bin catena-explore"
    );
    false
}

/// CPU time of this process in seconds, from `/proc`; clock ticks are 10 ms on Linux.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| after.split_whitespace().nth(n).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    (field(11) + field(12)) as f64 / 100.0
}
