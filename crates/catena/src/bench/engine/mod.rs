//! `catena bench engine`: one target without a cluster, each figure beside the raw disk's in the same run.
//!
//! The works of [`work`] go through [`drive`], round by round in turns with the same load on the raw [`disk`]; the median
//! of the rounds' ratios is what counts. [`open`] measures how long opening takes and what a chunk costs in memory.

mod disk;
mod drive;
mod open;
mod report;
mod tally;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catena_arena::Arena;
use catena_engine::{Durability, Params};

use crate::cmd::{StoreArgs, runtime, stop_signal, temporary_dir};
use crate::cpu::Others;
use crate::fault::{Doing, Fault, Result};
use crate::output::note;
use crate::units::{bytes_short, parse_bytes, parse_duration};
use disk::{Load, RawDisk};
use drive::Target;
use report::{Line, Round};
use work::{Plan, WORKS, Work};

/// Name of the work that [`open`] does.
const OPEN: &str = "open";
/// Memory for buffers.
const BUFFERS: usize = 1 << 30;
/// Part of the target's size that the raw disk's file has, as the chunks that are overwritten and read do.
const RAW_PART: u64 = 8;
/// Chunks of which the data area is filled once.
const AGING: Work = Work { name: "aging", chunk_size: 1 << 20, size: 1 << 20, ..WORKS[0] };

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena bench engine --dir /path/on/the/disk\n  catena bench engine --only new,update-4k --duration 3s --rounds 31\n  catena bench engine --only open --chunks 100000 --json\n\nWorks: new-64k, new-1m, new-4m, overwrite-64k, overwrite-1m, overwrite-4m, update-4k (random blocks of 512 KiB chunks),\nappend-64k (to 1 MiB chunks), read-4k, read-64k, read-1m (random, verified), open.\n\nIn every round the raw disk does the same load first: O_DIRECT on a file that was written before, each write with an\nfdatasync of its own behind it (none with --durability replicated), through threads or io_uring, whichever was faster. The target's blocks have\nbeen written before too. A bar that is missed is marked; the exit code stays 0."
)]
pub(crate) struct Args {
    /// Directory for the target, on the disk to measure (default: where temporary files go); removed afterwards
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// Only works whose names start with one of these
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Measured time of one round, and of the raw disk before it
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    /// Rounds per work
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Chunks of the target that is opened
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    chunks: u64,
    /// Size of the target; all of it is written before the first work, unless --fresh
    #[arg(long, default_value = "8GiB", value_parser = parse_bytes, value_name = "BYTES")]
    capacity: u64,
    /// Leave the target's blocks as the file system made them: what comes first on a new disk
    #[arg(long)]
    fresh: bool,
    /// Print one line of JSON per work
    #[arg(long)]
    json: bool,
    /// Open the target in this directory, and print what that took
    #[arg(long, hide = true)]
    open_and_tell: Option<PathBuf>,
}

/// Set when a signal has asked for the end.
#[derive(Clone, Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Fails if the end has been asked for.
    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Fault::new("stopped")) } else { Ok(()) }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    if let Some(dir) = &args.open_and_tell {
        return open::tell(dir);
    }
    let works = args.works()?;
    runtime()?.block_on(async {
        let dir = temporary_dir(args.dir.as_deref(), "bench-engine")?;
        let stop = Stop::default();
        let mut measuring = {
            let (dir, stop) = (dir.clone(), stop.clone());
            tokio::task::spawn_blocking(move || measure_all(&args, &works, &dir, &stop))
        };
        let ended = tokio::select! {
            ended = &mut measuring => ended.doing("measure the engine")?,
            signal = stop_signal() => {
                stop.0.store(true, Ordering::Relaxed);
                // What it says now is that it was stopped.
                let _ = measuring.await;
                Err(Fault::new(format!("stopped by {}", signal?)))
            }
        };
        std::fs::remove_dir_all(&dir).doing(format_args!("remove {}", dir.display()))?;
        ended
    })
}

fn measure_all(args: &Args, works: &[Work], dir: &Path, stop: &Stop) -> Result<()> {
    let mut lines = Vec::new();
    if !works.is_empty() {
        let mut bench = Bench::prepare(args, dir, stop)?;
        for work in works {
            let line = bench.measure(work)?;
            if args.json {
                crate::output::json(&line)?;
            }
            lines.push(line);
        }
    }
    let opens = if args.wants(OPEN) { open::measure(args, &dir.join(OPEN), stop)? } else { Vec::new() };
    if !args.json {
        report::show(&lines, &opens);
    }
    Ok(())
}

/// A target and a file beside it, both written all over.
struct Bench<'a> {
    args: &'a Args,
    arena: Arena,
    raw: RawDisk,
    target: Target,
}

impl Bench<'_> {
    fn prepare<'a>(args: &'a Args, dir: &Path, stop: &Stop) -> Result<Bench<'a>> {
        let arena = Arena::new(BUFFERS);
        // All blocks but those that are kept for updates that make room.
        let chunks = if args.fresh { 0 } else { args.capacity / 64 * 63 / u64::from(AGING.chunk_size) };
        let before = chunks * u64::from(AGING.chunk_size) + args.capacity / RAW_PART;
        note(format_args!("writing {} once ...", bytes_short(before)));
        let raw = RawDisk::create(dir, args.capacity / RAW_PART, &arena, stop)?;
        let mut target = Target::open(&dir.join("target"), &args.params(args.capacity), &arena, stop)?;
        target.complete(&mut Plan::new(AGING.filling(), chunks, &arena))?;
        target.complete(&mut Plan::new(AGING.removing(), chunks, &arena))?;
        Ok(Bench { args, arena, raw, target })
    }

    fn measure(&mut self, work: &Work) -> Result<Line> {
        let chunks = work.chunks(self.args.capacity);
        let load = Load::of(work, Durability::from(self.args.store.durability) == Durability::Flush);
        let way = self.raw.choose(load, self.args.duration / 5)?;
        let (time, rounds) = (self.args.duration, self.args.rounds);
        note(format_args!("{}: {rounds} rounds of raw ({way:?}) and engine, {time:?} each ...", work.name));
        if work.needs_chunks() {
            self.target.complete(&mut Plan::new(work.filling(), chunks, &self.arena))?;
        }
        let mut plan = Plan::new(*work, chunks, &self.arena);
        let (mut taken, others) = (Vec::new(), Others::watch());
        for _ in 0..rounds {
            let raw = self.raw.measure(way, load, time)?;
            let summed = load.summed().map(|load| self.raw.measure(way, load, time)).transpose()?;
            taken.push(Round { raw, summed, engine: self.target.measure(&mut plan, time)? });
            if !work.needs_chunks() {
                self.remove(work, chunks)?;
                plan.restart();
            }
        }
        let others = others.processors();
        if work.needs_chunks() {
            self.remove(work, chunks)?;
        }
        Ok(Line::new(work, self.target.backend(), way, &taken, others))
    }

    fn remove(&mut self, work: &Work, chunks: u64) -> Result<()> {
        self.target.complete(&mut Plan::new(work.removing(), chunks, &self.arena))
    }
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }

    /// The works that are asked for, checked.
    fn works(&self) -> Result<Vec<Work>> {
        let names = || WORKS.iter().map(|work| work.name).chain([OPEN]);
        for only in &self.only {
            if only.is_empty() || !names().any(|name| name.starts_with(only.as_str())) {
                let names: Vec<_> = names().collect();
                return Err(Fault::usage(format!("--only {only}: no work is called that; there are {}", names.join(", "))));
            }
        }
        let works: Vec<_> = WORKS.iter().filter(|work| self.wants(work.name)).copied().collect();
        if let Some(work) = works.iter().find(|work| work.least_capacity() > self.capacity) {
            let least = bytes_short(work.least_capacity());
            return Err(Fault::usage(format!("--capacity {} is too small for {}: give {least}", self.capacity, work.name)));
        }
        Ok(works)
    }

    /// Parameters of a target with `capacity` bytes of data.
    fn params(&self, capacity: u64) -> Params {
        let (kind, durability) = (self.store.store.into(), self.store.durability.into());
        Params { kind, durability, ..Params::new(*b"bench of engine\0", capacity) }
    }
}
