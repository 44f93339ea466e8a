//! `catena bench refill`: how fast an empty disk is filled in the place of one that is gone, and what clients notice.
//!
//! A cluster of three processes with one chain. In every round a node is killed, its targets' directory is removed, and the
//! node is started again: the empty target that it brings takes the place of the old one and is filled from the tail. Once
//! nobody else uses the cluster, once clients read and write at a fixed rate; what they measure is compared with the same
//! load on the quiet, full cluster in the same round. Source and sink are on one disk here: what it can do is a copy.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use catena_client::{Client, ClientConfig};
use comfy_table::Cell;
use serde::Serialize;

use super::Workload;
use super::load::{Load, Outcome};
use super::raw::{Raw, measure_copy};
use crate::cmd::StoreArgs;
use crate::fault::{Doing, Fault, Result};
use crate::output::{self, dim, note, say};
use crate::processes::{Cluster, Port, Shape};
use crate::units::{bytes_short, parse_bytes, parse_duration};

/// Longest time until an empty disk is full.
const PATIENCE: Duration = Duration::from_secs(600);
/// Size of the chunks that are copied.
const CHUNK: u32 = 1 << 20;
/// Pieces on their way at once when the disk copies: half of them read, half of them written.
const COPIES: u32 = 16;
/// Chunks that clients use meanwhile.
const WORKING_SET: u64 = 2048;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena bench refill --dir /path/on/the/disk\n  catena bench refill --data 512MiB --rate 1000 --rounds 1 --json\n\nAll nodes, replicas and clients share this machine and its disk: source and sink too."
)]
pub(crate) struct Args {
    /// Bytes of the target that is filled, in chunks of 1 MiB
    #[arg(long, default_value = "2GiB", value_parser = parse_bytes, value_name = "BYTES")]
    data: u64,
    /// Operations per second of the clients, half reads and half writes
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Bytes per operation of the clients
    #[arg(long, default_value = "64KiB", value_parser = parse_bytes, value_name = "BYTES")]
    size: u64,
    /// Time for which clients are measured on the quiet cluster, in every round
    #[arg(long, default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    /// Disks that are filled beside clients, and as many without
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Where the cluster is started (default: where temporary files go)
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// What clients measured, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    operations: u64,
    failed: u64,
    p50_us: u64,
    p99_us: u64,
}

/// A disk was filled.
#[derive(Clone, Copy, Debug, Serialize)]
struct Fill {
    seconds: f64,
    bytes_per_second: f64,
    /// What the clients that were there measured meanwhile.
    clients: Option<Latency>,
}

/// One round.
struct Round {
    quiet: Latency,
    alone: Fill,
    beside: Fill,
}

/// Medians over the rounds, of each figure by itself.
#[derive(Clone, Debug, Serialize)]
struct Report {
    bytes: u64,
    rate: u32,
    size: u32,
    rounds: u32,
    /// Bytes per second that the disk takes in writes of a chunk, flushed one by one, that it copies, and one connection over
    /// loopback.
    raw_disk: Option<f64>,
    raw_copy: Option<f64>,
    raw_tcp: f64,
    quiet: Latency,
    alone: Fill,
    beside_clients: Fill,
    /// The clients' 99th percentile beside a fill to that on the quiet cluster.
    p99_of_quiet: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let size = u32::try_from(args.size).ok().filter(|&s| s > 0 && s <= CHUNK);
    let size = size.ok_or_else(|| Fault::usage(format!("--size {}: give 1 byte to 1 MiB", args.size)))?;
    let report = super::in_a_directory(args.dir.as_deref(), "refill", async |dir| measure(args, size, dir).await)?;
    if args.json {
        return output::json(&report);
    }
    report.show();
    Ok(())
}

async fn measure(args: &Args, size: u32, dir: &Path) -> Result<Report> {
    let data = load(Workload::Read, CHUNK, (args.data / u64::from(CHUNK)).max(1), None, args.duration);
    let clients = load(Workload::Mixed, size, WORKING_SET, Some(args.rate), args.duration);
    let bytes = [&data, &clients].iter().map(|l| l.chunks * u64::from(l.chunk_size)).sum::<u64>();
    let (probe, at) = (Load { workload: Workload::Write, depth: 8, ..data.clone() }, dir.to_owned());
    let limits = move || -> Result<_> { Ok((Raw::measure_new(Some(&at), &probe)?, measure_copy(&at, COPIES)?)) };
    let (raw, raw_copy) = tokio::task::spawn_blocking(limits).await.doing("measure the machine")??;
    let shape = Shape { nodes: 3, targets: 1, replicas: 3, shards: 1, capacity: bytes * 2, store: args.store, etcd: None };
    let mut cluster = Cluster::start(&dir.join("cluster"), shape, Port::Any, "warn").await?;
    let client = cluster.client().await?;
    note(format_args!("writing {} ...", bytes_short(bytes)));
    data.fill(&client).await?;
    clients.fill(&client).await?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        note(format_args!("round {} of {}: an empty disk, then one beside clients ...", round + 1, args.rounds));
        let node = |n: u32| n % 3 + 1;
        rounds.push(Round {
            alone: refill(&mut cluster, &client, node(2 * round), bytes, None).await?,
            quiet: alone(&clients, &cluster).await?,
            beside: refill(&mut cluster, &client, node(2 * round + 1), bytes, Some(&clients)).await?,
        });
    }
    cluster.stop().await?;
    let ratio = |r: &Round| r.beside.clients.map_or(0.0, |c| c.p99_us as f64 / r.quiet.p99_us.max(1) as f64);
    Ok(Report {
        bytes,
        rate: args.rate,
        size,
        rounds: args.rounds,
        raw_disk: raw.disk.map(|d| d.bytes),
        raw_copy,
        raw_tcp: raw.tcp,
        quiet: Latency::middle(rounds.iter().map(|r| r.quiet)),
        alone: Fill::middle(rounds.iter().map(|r| r.alone)),
        beside_clients: Fill::middle(rounds.iter().map(|r| r.beside)),
        p99_of_quiet: middle(rounds.iter().map(ratio)),
    })
}

fn load(workload: Workload, size: u32, chunks: u64, rate: Option<u32>, duration: Duration) -> Load {
    let chunk_size = size.next_multiple_of(catena_types::limits::BLOCK);
    Load { workload, size, chunk_size, overwrite: false, chunks, depth: 64, clients: 1, rate, duration }
}

/// The clients on the quiet cluster.
async fn alone(clients: &Load, cluster: &Cluster) -> Result<Latency> {
    let running = clients.start(&ClientConfig::new(cluster.manager_addr()))?;
    tokio::time::sleep(clients.duration / 5).await;
    running.count();
    tokio::time::sleep(clients.duration).await;
    running.stop_counting();
    Ok(Latency::of(&running.finish().await?))
}

/// Takes a node's disk away and waits until the empty one in its place holds everything.
async fn refill(cluster: &mut Cluster, client: &Client, node: u32, bytes: u64, clients: Option<&Load>) -> Result<Fill> {
    let running = match clients {
        Some(clients) => Some(clients.start(&ClientConfig::new(cluster.manager_addr()))?),
        None => None,
    };
    cluster.kill_node(node).await?;
    cluster.wait_for(client, PATIENCE, "a failover", |r| r.chains.iter().all(|c| c.serving().count() == 2)).await?;
    let targets = cluster.node_dir(node).join("targets");
    std::fs::remove_dir_all(&targets).doing(format_args!("remove {}", targets.display()))?;
    cluster.restart_node(node)?;
    cluster.wait_for(client, PATIENCE, "a resync", |r| r.chains.iter().any(|c| c.syncing().is_some())).await?;
    let start = Instant::now();
    running.iter().for_each(|running| running.count());
    cluster.wait_for(client, PATIENCE, "the end of the resync", |r| r.chains.iter().all(|c| c.syncing().is_none())).await?;
    let seconds = start.elapsed().as_secs_f64();
    let measured = match running {
        Some(running) => {
            running.stop_counting();
            Some(Latency::of(&running.finish().await?))
        }
        None => None,
    };
    cluster.wait_healthy(client, PATIENCE).await?;
    Ok(Fill { seconds, bytes_per_second: bytes as f64 / seconds, clients: measured })
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Fill {
    /// At least one.
    fn middle(fills: impl Iterator<Item = Fill> + Clone) -> Fill {
        let clients: Vec<Latency> = fills.clone().filter_map(|f| f.clients).collect();
        Fill {
            seconds: middle(fills.clone().map(|f| f.seconds)),
            bytes_per_second: middle(fills.map(|f| f.bytes_per_second)),
            clients: (!clients.is_empty()).then(|| Latency::middle(clients.into_iter())),
        }
    }
}

impl Latency {
    /// At least one.
    fn middle(rounds: impl Iterator<Item = Latency> + Clone) -> Latency {
        let time = |f: fn(&Latency) -> u64| middle(rounds.clone().map(|l| f(&l) as f64)) as u64;
        Latency {
            operations: rounds.clone().map(|l| l.operations).sum(),
            failed: rounds.clone().map(|l| l.failed).sum(),
            p50_us: time(|l| l.p50_us),
            p99_us: time(|l| l.p99_us),
        }
    }

    fn of(outcome: &Outcome) -> Latency {
        let at = |quantile| outcome.latencies.value_at_quantile(quantile);
        Latency { operations: outcome.latencies.len(), failed: outcome.errors, p50_us: at(0.5), p99_us: at(0.99) }
    }
}

impl Report {
    fn show(&self) {
        let Report { bytes, rate, size, rounds, .. } = *self;
        say!(
            "An empty disk filled with {}, median of {rounds}; clients: {rate} operations/s of {}, half of them writes",
            bytes_short(bytes),
            bytes_short(u64::from(size))
        );
        let head = ["", "SECONDS", "MB/S", "OF A COPY", "OF WRITING", "CLIENTS P50 µs", "P99 µs", "x QUIET", "FAILED"];
        let mut table = output::table(&head, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let clients = |l: Option<Latency>, of_quiet: f64| match l {
            Some(l) => [l.p50_us.to_string(), l.p99_us.to_string(), format!("{of_quiet:.1}"), l.failed.to_string()],
            None => ["-"; 4].map(str::to_owned),
        };
        let fill = |f: Option<&Fill>| match f {
            Some(f) => {
                let rate = f.bytes_per_second;
                let of = |disk: Option<f64>| {
                    let limit = disk.map_or(self.raw_tcp, |disk| disk.min(self.raw_tcp));
                    format!("{:.0} %", rate / limit * 100.0)
                };
                [format!("{:.2}", f.seconds), format!("{:.0}", rate / 1e6), of(self.raw_copy), of(self.raw_disk)]
            }
            None => ["-"; 4].map(str::to_owned),
        };
        let rows = [
            ("clients on a quiet cluster", None, Some(self.quiet), 1.0),
            ("nobody else", Some(&self.alone), None, 0.0),
            ("beside clients", Some(&self.beside_clients), self.beside_clients.clients, self.p99_of_quiet),
        ];
        for (what, filled, latency, of_quiet) in rows {
            let cells = [what.to_owned()].into_iter().chain(fill(filled)).chain(clients(latency, of_quiet));
            table.add_row(cells.map(Cell::new));
        }
        output::print_table(&table, "  ");
        self.show_limits();
    }

    fn show_limits(&self) {
        let rate = |disk: Option<f64>| disk.map_or("unknown".to_owned(), |disk| format!("{:.0} MB/s", disk / 1e6));
        let (copy, disk, tcp) = (rate(self.raw_copy), rate(self.raw_disk), rate(Some(self.raw_tcp)));
        say!(
            "  {}",
            dim(format_args!("limits of this one disk, O_DIRECT and an fdatasync for each MiB: copies to a new file {copy},"))
        );
        say!("  {}", dim(format_args!("writes to a new file {disk}; TCP over loopback {tcp} counts where it is lower")));
    }
}
