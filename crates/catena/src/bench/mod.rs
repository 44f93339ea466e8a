//! `catena bench`: throughput, latency and CPU of a cluster, beside the raw limits of this machine in the same run, so that
//! ratios mean something anywhere. `catena bench engine` ([`engine`]) does it for one target without a cluster,
//! `catena bench craq` ([`craq`]) shows what more replicas bring to reads, `catena bench refill` ([`refill`]) how fast an
//! empty disk is filled, `catena bench failover` ([`failover`]) what a client notices when nodes die.

mod craq;
mod engine;
mod failover;
mod load;
mod raw;
mod refill;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use catena_client::{Client, ClientConfig};
use catena_types::limits::{BLOCK, MAX_CHUNK};
use clap::ValueEnum;
use serde::Serialize;

use crate::cmd::{ShapeArgs, runtime, stop_signal, temporary_dir};
use crate::cpu;
use crate::fault::{Doing, Fault, Result};
use crate::output::note;
use crate::processes::{Cluster, Port};
use crate::units::{bytes_short, parse_bytes, parse_chunk_size, parse_duration};

use load::{Load, Outcome};
use raw::Raw;
use report::Line;

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = "Examples:\n  catena bench write --size 4KiB,64KiB,1MiB --depth 16\n  catena bench write --size 4KiB --overwrite --chunk-size 1MiB\n  catena bench mixed --size 64KiB --rate 2000 --duration 30s --json\n  catena bench read --manager 10.0.0.1:7400 --size 1MiB\n  catena bench engine --dir /path/on/the/disk\n  catena bench failover --kills 20\n\nWithout --manager a cluster is started in --dir for the run. Latencies at a fixed --rate count from when an operation\nwas due, so that a stall is not hidden by the operations it kept from being sent."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// What is done
    #[arg(value_enum, default_value_t = Workload::Write)]
    workload: Workload,
    /// Bytes per operation; several with commas between
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64KiB,1MiB", value_parser = parse_bytes, value_name = "BYTES")]
    size: Vec<u64>,
    /// Operations in flight per client
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Clients, each with a thread and connections of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
    /// Measured time per size; a fifth of it is run before and not counted
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    /// Operations per second to send, over all clients (default: the next one when one ends)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Write and read within larger chunks, at random blocks
    #[arg(long)]
    overwrite: bool,
    /// Chunk size (default: the operation's size, or 1MiB with --overwrite)
    #[arg(long, value_parser = parse_chunk_size, value_name = "BYTES")]
    chunk_size: Option<u32>,
    /// Bytes of chunks the operations are spread over
    #[arg(long, default_value = "512MiB", value_parser = parse_bytes, value_name = "BYTES")]
    working_set: u64,
    /// Disk to compare with, and where a cluster of its own is started (default: where temporary files go)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Manager of an existing cluster, HOST:PORT
    #[arg(long, env = "CATENA_MANAGER", value_name = "HOST:PORT")]
    manager: Option<String>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Print one line of JSON per size
    #[arg(long)]
    json: bool,
}

/// What is measured by itself.
#[derive(Debug, clap::Subcommand)]
enum Part {
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

/// What is measured against: a cluster that was there, or one started for this run.
struct Subject {
    manager: String,
    pids: Vec<u32>,
    replicas: usize,
}

pub(crate) fn run(mut args: Args) -> Result<()> {
    match args.part.take() {
        Some(Part::Engine(args)) => return engine::run(args),
        Some(Part::Craq(args)) => return craq::run(&args),
        Some(Part::Refill(args)) => return refill::run(&args),
        Some(Part::Failover(args)) => return failover::run(&args),
        None => {}
    }
    let loads = args.loads()?;
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
        let replicas = replicas(&Client::connect(ClientConfig::new(manager.as_str())).await?);
        return measure_all(args, loads, dir, &Subject { manager: manager.clone(), pids: Vec::new(), replicas }).await;
    }
    let shape = args.shape.shape()?;
    note(format_args!("starting {} nodes and a manager in {} ...", shape.nodes, dir.display()));
    let cluster = Cluster::start(&dir.join("cluster"), shape, Port::Any, "warn").await?;
    let replicas = replicas(&cluster.client().await?);
    let subject = Subject { manager: cluster.manager_addr(), pids: cluster.node_pids(), replicas };
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
        note(format_args!("{:?} of {}: raw limits, then {:?} ...", load.workload, bytes_short(load.size), load.duration));
        // The disk is known only if the cluster is ours, or the user said where it is.
        let disk = (args.manager.is_none() || args.dir.is_some()).then(|| dir.to_owned());
        let probe = load.clone();
        let raw =
            tokio::task::spawn_blocking(move || Raw::measure(disk.as_deref(), &probe)).await.doing("measure the machine")??;
        let line = measure(load, subject, raw).await?;
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

async fn measure(load: &Load, subject: &Subject, raw: Raw) -> Result<Line> {
    let running = load.start(&subject.manager).await?;
    tokio::time::sleep(load.duration / 5).await;
    let nodes = || subject.pids.iter().map(|&pid| cpu::used(pid)).sum::<Duration>();
    let (client_before, nodes_before) = (cpu::used_here(), nodes());
    running.count();
    tokio::time::sleep(load.duration).await;
    let counted = running.stop_counting();
    let (client, nodes) = (cpu::used_here() - client_before, nodes().saturating_sub(nodes_before));
    let outcome: Outcome = running.finish().await?;
    let nodes = (!subject.pids.is_empty()).then_some(nodes);
    Ok(Line::new(load, subject.replicas, &outcome, counted, client, nodes, raw))
}

impl Args {
    /// One load per size, checked.
    fn loads(&self) -> Result<Vec<Load>> {
        self.size.iter().map(|&size| self.load(size)).collect()
    }

    fn load(&self, size: u64) -> Result<Load> {
        let fits = u32::try_from(size).ok().filter(|&s| s > 0 && s <= MAX_CHUNK);
        let size = fits.ok_or_else(|| Fault::usage(format!("--size {size}: an operation has 1 to {MAX_CHUNK} bytes")))?;
        let least = size.next_multiple_of(BLOCK);
        let default = if self.overwrite { least.max(1 << 20) } else { least };
        let chunk_size = self.chunk_size.unwrap_or(default);
        if chunk_size < size {
            return Err(Fault::usage(format!("--chunk-size {chunk_size} is smaller than --size {size}")));
        }
        let chunks = self.working_set / u64::from(chunk_size);
        Ok(Load {
            workload: self.workload,
            size,
            chunk_size,
            overwrite: self.overwrite,
            chunks: chunks.clamp(1, 1 << 20),
            depth: self.depth,
            clients: self.clients,
            rate: self.rate,
            duration: self.duration,
        })
    }
}
