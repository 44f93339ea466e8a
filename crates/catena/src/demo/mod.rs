//! `catena demo`: a guided tour on real processes and real bytes. Everything shown was measured in this run; every claim
//! is a check that can fail, and the exit code tells whether one did.

mod failure;
mod large;
mod writes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use catena_client::{Client, Objects};
use catena_types::{ChainId, Routing};

use crate::cmd::{runtime, stop_signal, temporary_dir};
use crate::fault::{Doing, FAILED, Fault, Result};
use crate::output::{bad, bold, dim, good, note, say};
use crate::processes::{Cluster, Port, Shape};
use crate::units::time_short;

/// Size of the tour's chunks in bytes.
pub(crate) const CHUNK: u32 = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena demo\n  catena demo --keep --dir /mnt/nvme\n\nTakes about half a minute and some hundred MB of disk."
)]
pub(crate) struct Args {
    /// Where the temporary directory is made (default: where temporary files go)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the directory
    #[arg(long)]
    keep: bool,
    /// Leave the large file out
    #[arg(long)]
    short: bool,
}

/// The tour: a cluster, what was written to it, and which checks failed.
pub(crate) struct Tour {
    cluster: Cluster,
    client: Client,
    /// What the four chunks must hold.
    data: Vec<u8>,
    start: Instant,
    step: u32,
    checks: u32,
    failed: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let dir = temporary_dir(args.dir.as_deref(), "demo")?;
    let ended = runtime()?.block_on(async {
        tokio::select! {
            ended = tour(&args, dir.clone()) => ended,
            // The children are killed as the cluster is dropped.
            signal = stop_signal() => Err(Fault::new(format!("stopped by {}", signal?))),
        }
    });
    let failed = !matches!(&ended, Ok(failed) if failed.is_empty());
    if args.keep || failed {
        note(format_args!("data and logs are kept in {}", dir.display()));
    } else {
        std::fs::remove_dir_all(&dir).doing(format_args!("remove {}", dir.display()))?;
    }
    let failed = ended?;
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// The whole tour; returns the checks that failed.
async fn tour(args: &Args, dir: PathBuf) -> Result<Vec<String>> {
    say!("{}", bold("Catena: a strongly consistent, replicated chunk store"));
    say!("{}", dim("a cluster of real processes on this machine; all times are measured in this run"));
    let mut tour = Tour::begin(dir).await?;
    tour.write_file().await?;
    tour.read_every_replica().await?;
    tour.overwrite_and_append().await?;
    tour.kill_a_node().await?;
    tour.bring_it_back().await?;
    if !args.short {
        tour.large_file().await?;
    }
    tour.end().await
}

impl Tour {
    async fn begin(dir: PathBuf) -> Result<Tour> {
        let start = Instant::now();
        let shape =
            Shape { nodes: 3, targets: 4, replicas: 3, shards: 1, capacity: 1 << 30, store: Default::default(), etcd: None };
        let cluster = Cluster::start(&dir, shape, Port::Any, "info").await?;
        let client = cluster.client().await?;
        let mut tour = Tour { cluster, client, data: Vec::new(), start, step: 0, checks: 0, failed: Vec::new() };
        tour.heading("A cluster: one manager and three nodes, each a process");
        say!("  manager {} (pid {})", tour.cluster.manager_addr(), tour.cluster.manager().pid());
        for id in tour.cluster.node_ids() {
            say!("  node {id} (pid {})", tour.cluster.node(id).pid());
        }
        let routing = tour.client.routing();
        for chain in &routing.chains {
            say!("  chain {}: {}", chain.id, members(&routing, chain.id));
        }
        tour.check(&format!("healthy after {}", time_short(start.elapsed())), !routing.chains.is_empty());
        Ok(tour)
    }

    /// Starts a step of the tour.
    fn heading(&mut self, title: &str) {
        self.step += 1;
        say!();
        say!("{}", bold(format_args!("{}. {title}", self.step)));
    }

    /// Says whether a claim holds.
    fn check(&mut self, claim: &str, holds: bool) {
        self.checks += 1;
        if holds {
            say!("  {} {claim}", good("✓"));
        } else {
            say!("  {} {claim}", bad("✗"));
            self.failed.push(format!("{}. {claim}", self.step));
        }
    }

    /// Objects of the cluster.
    fn objects(&self) -> Objects {
        Objects::new(self.client.clone())
    }

    async fn end(self) -> Result<Vec<String>> {
        let stopping = Instant::now();
        self.cluster.stop().await?;
        say!();
        let time = time_short(self.start.elapsed());
        say!("{} {}", bold("Stopped"), dim(format_args!("in {}; the whole tour took {time}", time_short(stopping.elapsed()))));
        match self.failed.len() {
            0 => say!("{}", good(bold(format_args!("all {} checks passed", self.checks)))),
            n => say!("{}", bad(bold(format_args!("{n} of {} checks failed", self.checks)))),
        }
        for claim in &self.failed {
            say!("  {}", bad(claim));
        }
        if self.failed.is_empty() {
            say!("next: `catena dev` for a cluster to play with, `catena bench` for numbers, docs/ for how it works");
        }
        Ok(self.failed)
    }
}

/// The key of the tour's chunk `n`.
fn key(n: u64) -> String {
    format!("tour/{n}")
}

/// `t1 on node 1 -> t5 on node 2 -> t9 on node 3`: the serving members, head first.
fn members(routing: &Routing, chain: ChainId) -> String {
    let Some(chain) = routing.chain(chain) else { return "unknown".to_owned() };
    let node = |target| routing.target(target).map_or(0, |t| t.node);
    let serving: Vec<String> = chain.serving().map(|t| format!("t{t} on node {}", node(t))).collect();
    serving.join(" -> ")
}

/// Longest time the tour waits for the cluster to do something by itself.
const PATIENCE: Duration = Duration::from_secs(60);
