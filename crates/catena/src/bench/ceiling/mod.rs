//! `catena bench ceiling`: what this machine does at best for the same work. Bare processes in a chain ([`node`]) receive,
//! checksum, write and forward, without protocol, index or journal; the load is that of `catena bench`.

mod client;
pub(crate) mod node;
mod stream;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use catena_types::limits::BLOCK;
use serde::Serialize;
use tokio::time::sleep;

use super::load::{Load, Phases, Running};
use super::load_args::LoadArgs;
use super::report::{self, Figures};
use crate::fault::{Doing, Fault, Result};
use crate::output::{self, note};
use crate::processes::Child;
use crate::units::bytes_short;

/// Longest time a process takes to write its file and to listen.
const START: Duration = Duration::from_secs(60);
/// The least and the most a process's file has.
const FILE: std::ops::RangeInclusive<u64> = 64 << 20..=2 << 30;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena bench ceiling write --size 4KiB,1MiB --depth 1,16,64 --dir /path/on/the/disk\n  catena bench ceiling read --size 1MiB --replicas 1 --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    load: LoadArgs,
    /// Processes in the chain, each with a file of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// Answer before anything is flushed
    #[arg(long)]
    no_flush: bool,
    /// Rounds per size and depth
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Where the files are: on the disk to measure (default: where temporary files go)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print one line of JSON per size and depth
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let loads = args.load.loads()?;
    if args.load.has_rate() {
        return Err(Fault::usage("--rate: the ceiling is what can be done, not what is asked for"));
    }
    super::in_a_directory(args.dir.as_deref(), "ceiling", async |dir| measure_all(args, &loads, dir).await)
}

async fn measure_all(args: &Args, loads: &[Load], dir: &Path) -> Result<()> {
    let chain = Chain::start(dir, args.replicas as usize, !args.no_flush, loads).await?;
    let mut lines = Vec::new();
    for load in loads {
        note(format_args!("{:?} of {}, {} in flight ...", load.workload, bytes_short(load.size), load.depth));
        let mut rounds = Vec::new();
        for _ in 0..args.rounds {
            rounds.push(super::measure(load, chain.load(load)?, &chain.pids()).await?);
        }
        let figures = Figures::new(load.size, &rounds.iter().collect::<Vec<_>>());
        if args.json {
            output::json(&Ceiling { size: load.size, depth: load.depth, replicas: args.replicas, figures: &figures })?;
        }
        lines.push((load.clone(), figures));
    }
    chain.stop().await?;
    if !args.json {
        report::show_ceiling(args.replicas as usize, &lines);
    }
    Ok(())
}

/// A line of JSON.
#[derive(Serialize)]
struct Ceiling<'a> {
    size: u32,
    depth: u32,
    replicas: u32,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// A running bare chain. Dropping it kills its processes.
pub(super) struct Chain {
    /// The tail first, as they were started.
    children: Vec<Child>,
    /// The head first.
    nodes: Vec<SocketAddr>,
    file: u64,
}

impl Chain {
    /// Starts `replicas` processes, each with a file in `dir` that holds the working set of every load.
    pub(super) async fn start(dir: &Path, replicas: usize, flush: bool, loads: &[Load]) -> Result<Chain> {
        std::fs::create_dir_all(dir).doing(format_args!("make the directory {}", dir.display()))?;
        let set = loads.iter().map(|l| l.chunks * u64::from(l.chunk_size)).max().unwrap_or(0);
        let file = set.clamp(*FILE.start(), *FILE.end()).next_multiple_of(1 << 20);
        let mut chain = Chain { children: Vec::new(), nodes: Vec::new(), file };
        for n in (1..=replicas).rev() {
            let name = format!("bare-{n}");
            let addr = dir.join(format!("{name}.addr"));
            let mut args = vec!["bench".to_owned(), "ceiling-node".to_owned()];
            args.extend(["--size".to_owned(), file.to_string()]);
            args.extend(["--file".to_owned(), dir.join(&name).display().to_string()]);
            args.extend(["--announce".to_owned(), addr.display().to_string()]);
            args.extend(chain.nodes.first().into_iter().flat_map(|next| ["--next".to_owned(), next.to_string()]));
            args.extend((!flush).then(|| "--no-flush".to_owned()));
            chain.children.push(Child::spawn(dir, &name, &args)?);
            let addr = chain.reached(addr).await?;
            chain.nodes.insert(0, addr);
        }
        Ok(chain)
    }

    /// Waits until the process started last has announced its address.
    async fn reached(&mut self, path: PathBuf) -> Result<SocketAddr> {
        let start = Instant::now();
        loop {
            if let Ok(addr) = std::fs::read_to_string(&path) {
                return addr.parse().map_err(|_| Fault::new(format!("{} holds no address: {addr}", path.display())));
            }
            let child = self.children.last_mut().expect("called after one was started");
            if let Some((name, how)) = child.newly_ended() {
                return Err(Fault::new(format!("{name} ended with {how}: {}", child.last_words())));
            }
            if start.elapsed() > START {
                return Err(Fault::new(format!("a process of the bare chain does not listen after {START:?}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::pid).collect()
    }

    /// Starts the clients of a load.
    pub(super) fn load(&self, load: &Load) -> Result<Running> {
        let size = load.size.next_multiple_of(BLOCK);
        Running::start(load.clients, |n, phases: Arc<Phases>| {
            let job = client::Job { load: load.clone(), nodes: self.nodes.clone(), size, file: self.file, phases };
            move || job.run(n)
        })
    }

    /// Ends its processes: there is nothing to save.
    pub(super) async fn stop(mut self) -> Result<()> {
        for child in &mut self.children {
            child.kill().await?;
        }
        Ok(())
    }
}
