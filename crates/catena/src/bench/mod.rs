//! `catena bench`: throughput, latency and CPU of a cluster, beside the raw limits of this machine in the same run, so that
//! ratios mean something anywhere. `catena bench engine` ([`engine`]) does it for one target without a cluster,
//! `catena bench craq` ([`craq`]) shows what more replicas bring to reads, `catena bench refill` ([`refill`]) how fast an
//! empty disk is filled, `catena bench failover` ([`failover`]) what a client notices when nodes die.

mod ceiling;
mod craq;
mod engine;
mod failover;
mod load;
mod load_args;
mod raw;
mod refill;
mod report;
mod used;

use std::path::{Path, PathBuf};

use catena_client::{Client, ClientConfig};
use clap::ValueEnum;
use serde::Serialize;

use crate::cmd::{SecurityArgs, ShapeArgs, runtime, stop_signal, temporary_dir};
use crate::fault::{Doing, Fault, Result};
use crate::output::note;
use crate::processes::{Cluster, Port};
use crate::units::bytes_short;

use ceiling::Chain;
use load::{Load, Running};
use load_args::LoadArgs;
use raw::Raw;
use report::{Line, Part as Measured, Round};
use used::Watch;

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = "Examples:\n  catena bench write --size 4KiB,64KiB,1MiB --depth 1,16\n  catena bench write --size 4KiB --overwrite --chunk-size 1MiB\n  catena bench mixed --size 64KiB --rate 2000 --duration 30s --json\n  catena bench read --manager 10.0.0.1:7400 --size 1MiB\n  catena bench engine --dir /path/on/the/disk\n  catena bench failover --kills 20\n\nWithout --manager a cluster is started in --dir for the run, and a bare chain of as many processes beside it, in turns with\nit: the ceiling. Latencies at a fixed --rate count from when an operation was due, so that a stall is not hidden by the\noperations it kept from being sent."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    load: LoadArgs,
    /// Rounds: in each the raw limits, the ceiling and the cluster in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Disk to compare with, and where a cluster of its own is started (default: where temporary files go)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Manager of an existing cluster, HOST:PORT
    #[arg(long, env = "CATENA_MANAGER", value_name = "HOST:PORT")]
    manager: Option<String>,
    #[command(flatten)]
    security: SecurityArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Print one line of JSON per size and depth
    #[arg(long)]
    json: bool,
}

/// What is measured by itself.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// What this machine does at best for the same work, without protocol, index and journal
    Ceiling(ceiling::Args),
    #[command(hide = true)]
    CeilingNode(ceiling::node::Args),
    /// One target without a cluster, beside the raw disk
    Engine(engine::Args),
    /// Reads at one replica and at more, alone and beside writes of the same chunks
    Craq(craq::Args),
    /// How fast an empty disk is filled, and what clients notice
    Refill(refill::Args),
    /// How long a client cannot write when a node is killed
    Failover(failover::Args),
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Durable, replicated writes
    Write,
    /// Linearizable reads
    Read,
    /// Half and half
    Mixed,
}

/// What is measured: a cluster that was there, or one started for this run.
struct Subject {
    config: ClientConfig,
    pids: Vec<u32>,
    replicas: usize,
    /// What it is held against, in turns with it: only for a cluster of this run.
    ceiling: Option<Chain>,
}

pub(crate) fn run(mut args: Args) -> Result<()> {
    match args.part.take() {
        Some(Part::Ceiling(args)) => return ceiling::run(&args),
        Some(Part::CeilingNode(args)) => return ceiling::node::run(&args),
        Some(Part::Engine(args)) => return engine::run(args),
        Some(Part::Craq(args)) => return craq::run(&args),
        Some(Part::Refill(args)) => return refill::run(&args),
        Some(Part::Failover(args)) => return failover::run(&args),
        None => {}
    }
    let loads = args.load.loads()?;
    in_a_directory(args.dir.as_deref(), "bench", async |dir| on_a_cluster(&args, &loads, dir).await)
}

/// Measures in a new directory, which is removed afterwards, also when a signal ends it.
fn in_a_directory<T>(parent: Option<&Path>, name: &str, measure: impl AsyncFnOnce(&Path) -> Result<T>) -> Result<T> {
    runtime()?.block_on(async {
        let dir = temporary_dir(parent, name)?;
        let ended = tokio::select! {
            ended = measure(&dir) => ended,
            signal = stop_signal() => Err(Fault::new(format!("stopped by {}", signal?))),
        };
        std::fs::remove_dir_all(&dir).doing(format_args!("remove {}", dir.display()))?;
        ended
    })
}

async fn on_a_cluster(args: &Args, loads: &[Load], dir: &Path) -> Result<()> {
    if let Some(manager) = &args.manager {
        let config = ClientConfig { security: args.security.load()?, ..ClientConfig::new(manager.as_str()) };
        let replicas = replicas(&Client::connect(config.clone()).await?);
        let subject = Subject { config, pids: Vec::new(), replicas, ceiling: None };
        return measure_all(args, loads, dir, &subject).await;
    }
    let shape = args.shape.shape()?;
    let flush = shape.store.flushes();
    note(format_args!("starting {} nodes and a manager in {} ...", shape.nodes, dir.display()));
    let cluster = Cluster::start(&dir.join("cluster"), shape, Port::Any, "warn").await?;
    let replicas = replicas(&cluster.client().await?);
    // A schedule says what is sent, not what could be.
    let ceiling = match args.load.has_rate() {
        true => None,
        false => Some(Chain::start(&dir.join("bare"), replicas, flush, loads).await?),
    };
    let config = ClientConfig::new(cluster.manager_addr());
    let subject = Subject { config, pids: cluster.node_pids(), replicas, ceiling };
    let measured = measure_all(args, loads, dir, &subject).await;
    cluster.stop().await?;
    measured
}

/// Replicas of the first chain, all chains being alike.
fn replicas(client: &Client) -> usize {
    client.routing().chains.first().map_or(1, |chain| chain.members.len())
}

async fn measure_all(args: &Args, loads: &[Load], dir: &Path, subject: &Subject) -> Result<()> {
    let mut lines = Vec::new();
    for load in loads {
        let (size, depth, rounds) = (bytes_short(load.size), load.depth, args.rounds);
        note(format_args!("{:?} of {size}, {depth} in flight: {rounds} rounds of {:?} ...", load.workload, load.duration));
        load.prepare(&subject.config).await?;
        let mut measured = Vec::new();
        for n in 0..args.rounds {
            // The disk is known only if the cluster is ours, or the user said where it is.
            let disk = (args.manager.is_none() || args.dir.is_some()).then(|| dir.to_owned());
            measured.push(round(n, load, subject, disk).await?);
        }
        let line = Line::new(load, subject.replicas, &measured);
        if args.json {
            crate::output::json(&line)?;
        }
        lines.push(line);
    }
    if !args.json {
        report::show(&lines);
    }
    Ok(())
}

/// The raw limits, the ceiling and the cluster one after the other; the cluster first in every second round, since a disk
/// may be slower for a while after it was written to.
async fn round(n: u32, load: &Load, subject: &Subject, disk: Option<PathBuf>) -> Result<Round> {
    let cluster = async || measure(load, load.start(&subject.config)?, &subject.pids).await;
    let first = if n % 2 == 1 { Some(cluster().await?) } else { None };
    let probe = load.clone();
    let raw = tokio::task::spawn_blocking(move || Raw::measure(disk.as_deref(), &probe)).await.doing("measure the machine")??;
    let ceiling = match &subject.ceiling {
        Some(chain) => Some(measure(load, chain.load(load)?, &chain.pids()).await?),
        None => None,
    };
    let cluster = match first {
        Some(measured) => measured,
        None => cluster().await?,
    };
    Ok(Round { raw, ceiling, cluster })
}

/// Counts what clients that run do in the load's time, and what they and the processes `nodes` use.
async fn measure(load: &Load, running: Running, nodes: &[u32]) -> Result<Measured> {
    tokio::time::sleep(load.duration / 5).await;
    let (client, watched) = (Watch::start(&[std::process::id()]), Watch::start(nodes));
    running.count();
    tokio::time::sleep(load.duration).await;
    let time = running.stop_counting();
    let (client, watched) = (client.end(), watched.end());
    let nodes = (!nodes.is_empty()).then_some(watched);
    Ok(Measured { outcome: running.finish().await?, time, client, nodes })
}
