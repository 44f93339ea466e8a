//! `catena bench craq`: what reading at every replica brings, and what it keeps while the same chunks are written.
//!
//! For each number of replicas a cluster of as many nodes is started, one target and one thread each, with one chain. In
//! every round the chunks are read while nobody writes, then while writers keep as many updates in flight as they can. What
//! is compared are rates of the same run: more replicas against the first number, reads beside writes against reads alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use catena_client::ClientConfig;
use catena_types::limits::MAX_CHUNK;
use comfy_table::Cell;
use serde::Serialize;

use super::Workload;
use super::load::{Load, Outcome};
use crate::cmd::StoreArgs;
use crate::cpu;
use crate::fault::{Fault, Result};
use crate::output::{self, dim, note, say};
use crate::processes::{Cluster, Port, Shape};
use crate::units::{bytes_short, grouped, parse_bytes, parse_duration};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena bench craq --dir /path/on/the/disk\n  catena bench craq --replicas 1,3 --size 512B --chunks 16 --duration 2s --json\n\nAll nodes share this machine: reads grow with replicas only while there are processors left for them."
)]
pub(crate) struct Args {
    /// Replicas of the chain, one cluster for each
    #[arg(long, value_delimiter = ',', default_value = "1,3,5", value_parser = clap::value_parser!(u32).range(1..=16), value_name = "N")]
    replicas: Vec<u32>,
    /// Bytes per read and per write; each is a whole chunk
    #[arg(long, default_value = "4KiB", value_parser = parse_bytes, value_name = "BYTES")]
    size: u64,
    /// Chunks that are read, and written at the same time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    chunks: u64,
    /// Reads in flight per client
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Clients that read, each with a thread of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
    /// Writes in flight, of one more client
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    writes: u32,
    /// Measured time of each part; a fifth of it is run before and not counted
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    /// Times that reads alone and reads beside writes follow each other
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Where the clusters are started (default: where temporary files go)
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// Print one line of JSON per number of replicas
    #[arg(long)]
    json: bool,
}

/// One part of a round.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Part {
    reads_per_second: f64,
    read_p50_us: u64,
    read_p99_us: u64,
    writes_per_second: f64,
    /// Processors that all nodes, and this process with its clients, used on average.
    nodes_processors: f64,
    clients_processors: f64,
}

/// What one number of replicas gives: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
struct Line {
    replicas: u32,
    size: u32,
    chunks: u64,
    rounds: u32,
    alone: Part,
    beside_writes: Part,
    /// Reads alone, as a multiple of those of the first number of replicas.
    of_first: f64,
    /// Reads beside writes, as a part of those alone in the same round.
    kept: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let size = u32::try_from(args.size).ok().filter(|&s| s > 0 && s <= MAX_CHUNK);
    let size = size.ok_or_else(|| Fault::usage(format!("--size {}: a chunk has 1 to {MAX_CHUNK} bytes", args.size)))?;
    super::in_a_directory(args.dir.as_deref(), "craq", async |dir| measure_all(args, size, dir).await)
}

async fn measure_all(args: &Args, size: u32, dir: &Path) -> Result<()> {
    let mut lines: Vec<Line> = Vec::new();
    for &replicas in &args.replicas {
        note(format_args!("{replicas} replicas: reads alone, and beside writes, {} times each ...", args.rounds));
        let first = lines.first().map(|line| line.alone.reads_per_second);
        let line = measure(args, size, replicas, first, &dir.join(format!("{replicas}-replicas"))).await?;
        if args.json {
            output::json(&line)?;
        }
        lines.push(line);
    }
    if !args.json {
        show(args, size, &lines);
    }
    Ok(())
}

async fn measure(args: &Args, size: u32, replicas: u32, first: Option<f64>, dir: &Path) -> Result<Line> {
    let capacity = (args.chunks * u64::from(size.next_multiple_of(4096)) * 8).max(256 << 20);
    let shape = Shape { nodes: replicas, targets: 1, replicas, shards: 1, capacity, store: args.store, etcd: None };
    let cluster = Cluster::start(dir, shape, Port::Any, "warn").await?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push((part(args, size, &cluster, false).await?, part(args, size, &cluster, true).await?));
    }
    cluster.stop().await?;
    let (alone, beside_writes) = (middle(rounds.iter().map(|r| r.0)), middle(rounds.iter().map(|r| r.1)));
    let mut kept: Vec<f64> = rounds.iter().map(|(a, b)| b.reads_per_second / a.reads_per_second.max(1.0)).collect();
    kept.sort_by(f64::total_cmp);
    Ok(Line {
        replicas,
        size,
        chunks: args.chunks,
        rounds: args.rounds,
        alone,
        beside_writes,
        of_first: alone.reads_per_second / first.unwrap_or(alone.reads_per_second).max(1.0),
        kept: kept[kept.len() / 2],
    })
}

/// The round whose reads are in the middle.
fn middle(parts: impl Iterator<Item = Part>) -> Part {
    let mut parts: Vec<Part> = parts.collect();
    parts.sort_by(|a, b| a.reads_per_second.total_cmp(&b.reads_per_second));
    parts.get(parts.len() / 2).copied().unwrap_or_default()
}

async fn part(args: &Args, size: u32, cluster: &Cluster, beside_writes: bool) -> Result<Part> {
    let reads = Load {
        workload: Workload::Read,
        size,
        chunk_size: size.next_multiple_of(catena_types::limits::BLOCK),
        overwrite: false,
        chunks: args.chunks,
        depth: args.depth,
        clients: args.clients,
        rate: None,
        duration: args.duration,
    };
    let writes = Load { workload: Workload::Write, depth: args.writes, clients: 1, ..reads.clone() };
    let config = ClientConfig::new(cluster.manager_addr());
    reads.prepare(&config).await?;
    let reading = reads.start(&config)?;
    let writing = if beside_writes { Some(writes.start(&config)?) } else { None };
    tokio::time::sleep(args.duration / 5).await;
    let nodes = || cluster.node_pids().into_iter().map(cpu::used).sum::<Duration>();
    let (nodes_before, clients_before) = (nodes(), cpu::used_here());
    let both = || [Some(&reading), writing.as_ref()].into_iter().flatten();
    both().for_each(|running| running.count());
    tokio::time::sleep(args.duration).await;
    let counted = both().map(|running| running.stop_counting()).max().unwrap_or(args.duration);
    let (nodes, clients) = (nodes().saturating_sub(nodes_before), cpu::used_here().saturating_sub(clients_before));
    let read = reading.finish().await?;
    let written = match writing {
        Some(writing) => writing.finish().await?.latencies.len(),
        None => 0,
    };
    Ok(summary(&read, written, counted, nodes, clients))
}

fn summary(read: &Outcome, written: u64, counted: Duration, nodes: Duration, clients: Duration) -> Part {
    let seconds = counted.as_secs_f64().max(1e-9);
    Part {
        reads_per_second: read.latencies.len() as f64 / seconds,
        read_p50_us: read.latencies.value_at_quantile(0.5),
        read_p99_us: read.latencies.value_at_quantile(0.99),
        writes_per_second: written as f64 / seconds,
        nodes_processors: nodes.as_secs_f64() / seconds,
        clients_processors: clients.as_secs_f64() / seconds,
    }
}

fn show(args: &Args, size: u32, lines: &[Line]) {
    say!(
        "{} of {}, {} x {} reads and {} writes in flight, median of {} rounds",
        crate::units::counted(args.chunks, "chunk"),
        bytes_short(size),
        args.clients,
        args.depth,
        args.writes,
        args.rounds
    );
    let first = lines.first().map_or(1, |line| line.replicas);
    let of_first = format!("x {first}");
    let head = [
        "REPLICAS",
        "READS/S",
        &of_first,
        "P50 µs",
        "P99 µs",
        "CPUS NODES",
        "CLIENTS",
        "READS/S BESIDE WRITES",
        "KEPT",
        "P99 µs",
        "WRITES/S",
        "CPUS NODES",
    ];
    let mut table = output::table(&head, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    for line in lines {
        let (a, b) = (&line.alone, &line.beside_writes);
        table.add_row(
            [
                line.replicas.to_string(),
                grouped(a.reads_per_second as u64),
                format!("{:.2}", line.of_first),
                grouped(a.read_p50_us),
                grouped(a.read_p99_us),
                format!("{:.1}", a.nodes_processors),
                format!("{:.1}", a.clients_processors),
                grouped(b.reads_per_second as u64),
                format!("{:.0} %", line.kept * 100.0),
                grouped(b.read_p99_us),
                grouped(b.writes_per_second as u64),
                format!("{:.1}", b.nodes_processors),
            ]
            .map(Cell::new),
        );
    }
    output::print_table(&table, "  ");
    let paper =
        "CRAQ's paper, a machine per replica: x 2.91 with 3, x 4.84 with 5, x 6.76 with 7; 68 % kept beside writes with 3";
    say!("  {}", dim(format_args!("{paper}")));
}
