//! `catena-sim`: runs seeds of the simulated cluster, replays one, or checks that a seed is a run.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use catena_sim::world::{self, Coverage, ENOUGH_SEEDS, Outcome};

const USAGE: &str = "usage:
  catena-sim run    [--seeds N] [--start S] [--ops N] [--keep-going]   run N seeds from S on; 1,000 and more must have
                                                                       seen every fault, error code and rule
  catena-sim shrink --seed N [--ops N]                                 drop faults while the seed still fails
  catena-sim replay --seed N [--ops N] [--trace] [--last N]            run one seed again
  catena-sim meta   [--seeds N] [--start S] [--ops N]                  run every seed twice and compare
  catena-sim canaries [--seeds N] [--start S] [--only NAME] [--quick] [--markdown]
                                                                       switch rules off: each must be noticed
                                                                       (built with --features mutations)";

/// What was asked for.
struct Args {
    command: String,
    seeds: u64,
    start: u64,
    ops: u64,
    last: usize,
    trace: bool,
    keep_going: bool,
    #[cfg(feature = "mutations")]
    hunt: Hunt,
}

/// Canaries with a wider bound are not among the quick ones.
#[cfg(feature = "mutations")]
const QUICK: u64 = 400;

/// What the canaries are asked.
#[cfg(feature = "mutations")]
#[derive(Default)]
struct Hunt {
    only: String,
    markdown: bool,
    /// Only those that are caught soon.
    quick: bool,
    /// Seeds were named: they are the bound of every canary.
    bounded: bool,
}

fn parse() -> Result<Args, String> {
    let mut words = std::env::args().skip(1);
    let command = words.next().ok_or("no command given")?;
    let mut args = Args {
        command,
        seeds: 100,
        start: 1,
        ops: 300,
        last: usize::MAX,
        trace: false,
        keep_going: false,
        #[cfg(feature = "mutations")]
        hunt: Hunt::default(),
    };
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|n| n.parse::<u64>().ok()).ok_or(format!("{word} needs a number"));
        match word.as_str() {
            "--seeds" => {
                args.seeds = number()?;
                #[cfg(feature = "mutations")]
                (args.hunt.bounded = true);
            }
            "--start" => args.start = number()?,
            "--seed" => (args.start, args.seeds) = (number()?, 1),
            "--ops" => args.ops = number()?,
            "--last" => args.last = number()? as usize,
            "--trace" => args.trace = true,
            "--keep-going" => args.keep_going = true,
            #[cfg(feature = "mutations")]
            "--only" => args.hunt.only = words.next().ok_or("--only needs a name")?,
            #[cfg(feature = "mutations")]
            "--markdown" => args.hunt.markdown = true,
            #[cfg(feature = "mutations")]
            "--quick" => args.hunt.quick = true,
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
    let good = match args.command.as_str() {
        "run" => run(&args),
        "replay" => replay(&args),
        "meta" => meta(&args),
        "shrink" => shrink(&args),
        #[cfg(feature = "mutations")]
        "canaries" => canaries(&args),
        other => {
            eprintln!("unknown command {other}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(args: &Args) -> bool {
    let begun = cpu_seconds();
    let mut coverage = Coverage::default();
    let (mut ops, mut crashes, mut events, mut bad, mut ran) = (0, 0, 0, 0u64, 0u64);
    for seed in args.start..args.start + args.seeds {
        let outcome = world::run(seed, args.ops, false);
        coverage.merge(&outcome.coverage);
        (ops, crashes, events, ran) = (ops + outcome.ops, crashes + outcome.crashes, events + outcome.events, ran + 1);
        if let Some(violation) = &outcome.violation {
            bad += 1;
            println!("seed {seed}: {violation}");
            println!("  replay: catena-sim replay --seed {seed} --ops {} --trace", args.ops);
            if !args.keep_going {
                break;
            }
        }
    }
    let cpu = (cpu_seconds() - begun).max(0.001);
    println!("{coverage}");
    println!("{ran} seeds, {bad} bad; {ops} operations, {crashes} crashes, {events} events in {cpu:.1} CPU seconds:");
    println!(
        "{:.0} operations, {:.0} crashes, {:.0} events per CPU second",
        ops as f64 / cpu,
        crashes as f64 / cpu,
        events as f64 / cpu
    );
    let missing = if ran >= ENOUGH_SEEDS { coverage.missing() } else { Vec::new() };
    missing.iter().for_each(|name| println!("never happened in {ran} seeds: {name}"));
    bad == 0 && missing.is_empty()
}

/// Runs a failing seed with ever fewer of its faults, as long as the same promise is broken.
fn shrink(args: &Args) -> bool {
    match world::shrink(args.start, args.ops) {
        None => println!("seed {} holds: nothing to shrink", args.start),
        Some((faults, outcome)) => {
            outcome.trace.iter().for_each(|line| println!("{line}"));
            println!("{} of {} faults are left: numbers {faults:?}", faults.len(), outcome.faults);
            report(&outcome);
            return false;
        }
    }
    true
}

fn replay(args: &Args) -> bool {
    let outcome = world::run(args.start, args.ops, args.trace);
    let skip = outcome.trace.len().saturating_sub(args.last);
    for line in &outcome.trace[skip..] {
        println!("{line}");
    }
    report(&outcome);
    outcome.violation.is_none()
}

fn report(outcome: &Outcome) {
    let Outcome { seed, ops, crashes, events, hash, virtual_ns, linear, faults, .. } = outcome;
    println!(
        "seed {seed}: {ops} operations, {faults} faults, {crashes} crashes, {events} events, {:.1} virtual seconds",
        *virtual_ns as f64 / 1e9
    );
    println!("trace hash {hash:016x}; {linear:?}");
    match &outcome.violation {
        Some(violation) => println!("VIOLATION {violation}"),
        None => println!("all held"),
    }
}

fn meta(args: &Args) -> bool {
    for seed in args.start..args.start + args.seeds {
        let (a, b) = (world::run(seed, args.ops, false), world::run(seed, args.ops, true));
        if (a.hash, a.events, &a.violation) != (b.hash, b.events, &b.violation) {
            println!("seed {seed} is not one run: hashes {:016x} and {:016x}", a.hash, b.hash);
            return false;
        }
    }
    println!("{} seeds ran the same twice", args.seeds);
    true
}

/// Hunts the canaries and prints what caught each; those that nothing caught make the run fail.
#[cfg(feature = "mutations")]
fn canaries(args: &Args) -> bool {
    use catena_sim::canary::{CANARIES, Canary, hunt_all};
    let begun = cpu_seconds();
    let wanted: Vec<Canary> = CANARIES.iter().copied().filter(|c| c.name.contains(&args.hunt.only)).collect();
    let wanted: Vec<Canary> = wanted.into_iter().filter(|c| !args.hunt.quick || c.within <= QUICK).collect();
    let caught = hunt_all(&wanted, args.start, args.hunt.bounded.then_some(args.seeds), args.ops);
    let missed = caught.iter().filter(|c| c.is_none()).count();
    if args.hunt.markdown {
        println!("| canary | rule switched off | in | caught by | after seeds | bound |\n|---|---|---|---|---|---|");
    }
    for (canary, caught) in wanted.iter().zip(&caught) {
        let mut parts: Vec<&str> = canary.off.iter().map(|off| off.part()).collect();
        parts.dedup();
        let by = caught.as_ref().map_or("nothing".into(), |c| c.violation.rule.to_string());
        let after = caught.as_ref().map_or_else(|| "-".into(), |c| c.after.to_string());
        if args.hunt.markdown {
            println!("| {} | {} | {} | {by} | {after} | {} |", canary.name, canary.rule, parts.join(", "), canary.within);
        } else {
            println!("{:<24} {:<62} {by:<44} {after:>5}", canary.name, canary.rule);
            if let Some(c) = caught.as_ref().filter(|_| args.trace) {
                println!("    {}", c.violation.text);
            }
        }
    }
    eprintln!("{} canaries, {missed} not caught, {:.1} CPU seconds", wanted.len(), cpu_seconds() - begun);
    missed == 0 && !wanted.is_empty()
}

/// CPU time of this process in seconds, from `/proc`; clock ticks are 10 ms on Linux.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| after.split_whitespace().nth(n).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    (field(11) + field(12)) as f64 / 100.0
}
