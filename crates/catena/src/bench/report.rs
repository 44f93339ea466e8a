//! What a bench prints: one line per size and depth, each number beside the limit it can be held against. Rates and ratios are
//! medians of the rounds; latencies, processor time and calls are those of all rounds together.

use std::time::Duration;

use comfy_table::Cell;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::Workload;
use super::load::{Load, Outcome};
use super::raw::{Disk, Raw};
use super::used::Used;
use crate::output::{self, dim, say};
use crate::units::{bytes_short, grouped, median};

/// One round: the raw limits, then the ceiling, then the cluster.
pub(super) struct Round {
    pub(super) raw: Raw,
    pub(super) ceiling: Option<Part>,
    pub(super) cluster: Part,
}

/// What was measured of the ceiling or of the cluster.
pub(super) struct Part {
    pub(super) outcome: Outcome,
    /// How long operations were counted.
    pub(super) time: Duration,
    pub(super) client: Used,
    /// All nodes together; unknown for a cluster that was there before.
    pub(super) nodes: Option<Used>,
}

impl Part {
    fn rate(&self) -> f64 {
        self.outcome.latencies.len() as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// A cluster or its ceiling under one load. Latencies in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    ops: u64,
    errors: u64,
    first_error: Option<String>,
    ops_per_second: f64,
    bytes_per_second: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    /// Per operation.
    client: Used,
    /// Per operation, all nodes together.
    nodes: Option<Used>,
}

impl Figures {
    pub(super) fn new(size: u32, rounds: &[&Part]) -> Figures {
        let mut latencies = Histogram::<u64>::new(3).expect("a precision of 3 digits is in range");
        for round in rounds {
            latencies.add(&round.outcome.latencies).expect("it grows as it must");
        }
        let ops = latencies.len();
        let ops_per_second = median(rounds.iter().map(|round| round.rate()));
        let nodes: Option<Vec<Used>> = rounds.iter().map(|round| round.nodes).collect();
        Figures {
            ops,
            errors: rounds.iter().map(|round| round.outcome.errors).sum(),
            first_error: rounds.iter().find_map(|round| round.outcome.first_error.clone()),
            ops_per_second,
            bytes_per_second: ops_per_second * f64::from(size),
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            max_us: latencies.max(),
            client: rounds.iter().map(|round| round.client).reduce(Used::and).unwrap_or_default().per(ops),
            nodes: nodes.and_then(|nodes| nodes.into_iter().reduce(Used::and)).map(|used| used.per(ops)),
        }
    }

    /// Processor time per operation of everybody, in microseconds.
    fn cpu_us(&self) -> Option<f64> {
        Some(self.client.cpu_us + self.nodes?.cpu_us)
    }
}

/// One load, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    workload: Workload,
    size: u32,
    chunk_size: u32,
    overwrite: bool,
    depth: u32,
    clients: u32,
    rate: Option<u32>,
    replicas: usize,
    rounds: usize,
    seconds: f64,
    #[serde(flatten)]
    cluster: Figures,
    ceiling: Option<Figures>,
    /// Operations per second, as a part of the ceiling's.
    of_ceiling: Option<f64>,
    /// Processor time of everybody per operation, as a multiple of the ceiling's.
    cpu_of_ceiling: Option<f64>,
    raw: Raw,
    /// Operations per second, as a part of what the raw disk does.
    of_disk: Option<f64>,
    /// The same with every replica's write counted: all of them go to this disk.
    of_disk_all_replicas: Option<f64>,
    /// Bytes per second, as a part of what one loopback connection carries.
    of_tcp: f64,
}

impl Line {
    pub(super) fn new(load: &Load, replicas: usize, rounds: &[Round]) -> Line {
        let cluster = Figures::new(load.size, &rounds.iter().map(|round| &round.cluster).collect::<Vec<_>>());
        let ceiling: Option<Vec<&Part>> = rounds.iter().map(|round| round.ceiling.as_ref()).collect();
        let ceiling = ceiling.map(|parts| Figures::new(load.size, &parts));
        let ratio = |of: &dyn Fn(&Round) -> Option<f64>| {
            let ratios: Option<Vec<f64>> = rounds.iter().map(|round| Some(round.cluster.rate() / of(round)?)).collect();
            ratios.map(|ratios| median(ratios.into_iter()))
        };
        let of_disk = ratio(&|round| round.raw.disk.map(|disk| disk.ops));
        // On average, over reads (one replica) and writes (all of them).
        let copies = match load.workload {
            Workload::Write => replicas as f64,
            Workload::Read => 1.0,
            Workload::Mixed => (replicas as f64 + 1.0) / 2.0,
        };
        Line {
            workload: load.workload,
            size: load.size,
            chunk_size: load.chunk_size,
            overwrite: load.overwrite,
            depth: load.depth,
            clients: load.clients,
            rate: load.rate,
            replicas,
            rounds: rounds.len(),
            seconds: load.duration.as_secs_f64(),
            of_ceiling: ratio(&|round| round.ceiling.as_ref().map(Part::rate)),
            cpu_of_ceiling: ceiling.as_ref().and_then(|ceiling| Some(cluster.cpu_us()? / ceiling.cpu_us()?)),
            of_disk,
            of_disk_all_replicas: of_disk.map(|part| part * copies),
            of_tcp: ratio(&|round| Some(round.raw.tcp / f64::from(load.size))).unwrap_or_default(),
            raw: middle(rounds),
            cluster,
            ceiling,
        }
    }
}

/// The medians of the raw limits.
fn middle(rounds: &[Round]) -> Raw {
    let raws = || rounds.iter().map(|round| round.raw);
    let disk = |of: fn(Disk) -> f64| median(raws().filter_map(|raw| raw.disk).map(of));
    let first = raws().find_map(|raw| raw.disk);
    Raw {
        disk: first.map(|first| Disk { ops: disk(|d| d.ops), bytes: disk(|d| d.bytes), ..first }),
        tcp: median(raws().map(|raw| raw.tcp)),
        crc: median(raws().map(|raw| raw.crc)),
        round_trip_us: median(raws().map(|raw| raw.round_trip_us)),
    }
}

fn percent(part: Option<f64>) -> String {
    part.map_or("-".to_owned(), |p| format!("{:.0} %", p * 100.0))
}

fn tenths(number: Option<f64>) -> String {
    number.map_or("-".to_owned(), |n| format!("{n:.1}"))
}

/// The table for people.
pub(super) fn show(lines: &[Line]) {
    let Some(first) = lines.first() else { return };
    let loop_ = first.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} operations/s"));
    let clients = if first.clients == 1 { "1 client".to_owned() } else { format!("{} clients", first.clients) };
    let (workload, replicas, rounds, seconds) = (first.workload, first.replicas, first.rounds, first.seconds);
    say!("{workload:?}, {replicas} replicas, {clients}, {loop_}, medians of {rounds} rounds of {seconds:.1} s");
    let head = [
        "SIZE",
        "CHUNK",
        "DEPTH",
        "OPS/S",
        "MB/S",
        "P50 µs",
        "P99 µs",
        "P99.9 µs",
        "CPU µs/OP CLIENT",
        "NODES",
        "SYSCALLS/OP",
        "SWITCHES/OP",
        "ERRORS",
        "CEILING OPS/S",
        "OF IT",
        "CPU x",
        "RAW DISK OPS/S",
        "OF IT",
        "x REPLICAS",
    ];
    let mut table = output::table(&head, &std::array::from_fn::<usize, 19, _>(|n| n));
    for line in lines {
        table.add_row(line.cells().map(Cell::new));
    }
    output::print_table(&table, "  ");
    footnotes(lines, first);
}

impl Line {
    fn cells(&self) -> [String; 19] {
        let cluster = &self.cluster;
        [
            bytes_short(self.size),
            bytes_short(self.chunk_size),
            self.depth.to_string(),
            grouped(cluster.ops_per_second as u64),
            format!("{:.1}", cluster.bytes_per_second / 1e6),
            grouped(cluster.p50_us),
            grouped(cluster.p99_us),
            grouped(cluster.p999_us),
            format!("{:.1}", cluster.client.cpu_us),
            tenths(cluster.nodes.map(|used| used.cpu_us)),
            tenths(cluster.nodes.and_then(|used| used.syscalls)),
            tenths(cluster.nodes.and_then(|used| used.switches)),
            cluster.errors.to_string(),
            self.ceiling.as_ref().map_or("-".to_owned(), |ceiling| grouped(ceiling.ops_per_second as u64)),
            percent(self.of_ceiling),
            self.cpu_of_ceiling.map_or("-".to_owned(), |times| format!("{times:.2}")),
            self.raw.disk.map_or("-".to_owned(), |disk| grouped(disk.ops as u64)),
            percent(self.of_disk),
            percent(self.of_disk_all_replicas),
        ]
    }
}

fn footnotes(lines: &[Line], first: &Line) {
    let raw = &first.raw;
    let behind = if first.workload == Workload::Read { "" } else { " + fdatasync" };
    let disk =
        raw.disk.map_or(String::new(), |_| format!("disk: O_DIRECT{behind} at the same size and depth, at most 64 in flight; "));
    let (tcp, crc, trip) = (raw.tcp / 1e6, raw.crc / 1e6, raw.round_trip_us);
    let rates = format!("{disk}TCP over loopback {tcp:.0} MB/s, {trip:.0} µs there and back; CRC-32C {crc:.0} MB/s");
    say!("  {}", dim(format_args!("raw limits, measured in the same run: {rates}")));
    if first.ceiling.is_some() {
        let what =
            "bare processes in a chain that receive, checksum, write and forward; CPU x: of client and nodes per operation";
        say!("  {}", dim(format_args!("ceiling: {what}")));
    }
    for line in lines.iter().filter(|line| line.cluster.errors > 0) {
        let error = line.cluster.first_error.as_deref().unwrap_or("");
        let (size, depth) = (bytes_short(line.size), line.depth);
        say!("  {} errors at {size}, {depth} in flight, the first: {error}", line.cluster.errors);
    }
}

/// The ceiling by itself, one line per size and depth.
pub(super) fn show_ceiling(replicas: usize, lines: &[(Load, Figures)]) {
    say!("The bare chain: {replicas} processes that receive, checksum, write and forward");
    let head = ["SIZE", "DEPTH", "OPS/S", "MB/S", "P50 µs", "P99 µs", "CPU µs/OP CLIENT", "NODES", "SYSCALLS/OP", "SWITCHES/OP"];
    let mut table = output::table(&head, &std::array::from_fn::<usize, 10, _>(|n| n));
    for (load, figures) in lines {
        let cells = [
            bytes_short(load.size),
            load.depth.to_string(),
            grouped(figures.ops_per_second as u64),
            format!("{:.1}", figures.bytes_per_second / 1e6),
            grouped(figures.p50_us),
            grouped(figures.p99_us),
            format!("{:.1}", figures.client.cpu_us),
            tenths(figures.nodes.map(|used| used.cpu_us)),
            tenths(figures.nodes.and_then(|used| used.syscalls)),
            tenths(figures.nodes.and_then(|used| used.switches)),
        ];
        table.add_row(cells.map(Cell::new));
    }
    output::print_table(&table, "  ");
}
