//! The engine's journal beside key-value stores: durable updates of chunk metadata per second, with 1, 16 and 64 writers.
//!
//! Each writer has one update in flight and sends the next when it is durable. The journal commits what waits in groups by
//! itself. A key-value store is measured with one synced transaction per update, every writer on a thread of its own; and
//! with one synced transaction for all updates that wait, as a committer in front of it would do, without the cost of handing
//! updates over to it: once with one put per update, and once with what the engine records (a staged version, which the next
//! transaction commits). Rounds of all stores take turns; medians are printed.

mod journal;
mod kv;
mod tally;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kv::{Fjall, Grouped, OneEach, Redb, Update};
use tally::Tally;

/// Why it ended early.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Durable metadata updates per second: the engine's journal, redb, fjall.
#[derive(Debug, Parser)]
struct Args {
    /// Directory on the disk to measure; a directory made in it is removed afterwards
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Records (chunks) that are there before, and updated
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1000..))]
    records: u64,
    /// Seconds per round
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Updates in flight
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    writers: Vec<usize>,
}

/// What keeps the metadata, and is asked for `writers` updates at a time for a while.
trait Subject {
    /// What it is called in the table.
    fn name(&self) -> String;
    /// Measures one round.
    fn run(&mut self, writers: usize, time: Duration) -> Result<Tally, Failure>;
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let dir = args.dir.join(format!("catena-metadata-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = measure(&args, &dir);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn measure(args: &Args, dir: &std::path::Path) -> Result<(), Failure> {
    let (redb, fjall) = (Redb::create(dir, args.records)?, Fjall::create(dir, args.records)?);
    let records = args.records;
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(journal::Journal::create(dir, records)?)];
    for update in [Update::StageThenCommit, Update::Put] {
        subjects.push(Box::new(Grouped { kv: fjall.clone(), records, update }));
        subjects.push(Box::new(Grouped { kv: redb.clone(), records, update }));
    }
    subjects.push(Box::new(OneEach { kv: fjall, records }));
    subjects.push(Box::new(OneEach { kv: redb, records }));
    let mut out = std::io::stdout();
    writeln!(out, "| writers | store | updates/s | p50 µs | p99 µs | CPU µs/update | device B/update |")?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for &writers in &args.writers {
        let mut rounds: Vec<Vec<Tally>> = subjects.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.rounds {
            for (subject, tallies) in subjects.iter_mut().zip(&mut rounds) {
                tallies.push(subject.run(writers.max(1), Duration::from_secs_f64(args.seconds))?);
            }
        }
        for (subject, tallies) in subjects.iter().zip(&rounds) {
            writeln!(out, "| {writers} | {} | {} |", subject.name(), tally::row(tallies))?;
        }
    }
    Ok(())
}
