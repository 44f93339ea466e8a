//! What a bench prints: one line per size, each number beside the raw limit it can be held against.

use std::time::Duration;

use comfy_table::Cell;
use serde::Serialize;

use super::Workload;
use super::load::{Load, Outcome};
use super::raw::Raw;
use crate::output::{self, dim, say};
use crate::units::{bytes_short, grouped};

/// One measurement. Latencies and CPU times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    workload: Workload,
    size: u32,
    chunk_size: u32,
    overwrite: bool,
    depth: u32,
    clients: u32,
    rate: Option<u32>,
    replicas: usize,
    seconds: f64,
    ops: u64,
    errors: u64,
    first_error: Option<String>,
    ops_per_second: f64,
    bytes_per_second: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    cpu_client_us: f64,
    cpu_nodes_us: Option<f64>,
    raw: Raw,
    /// Operations per second, as a part of what the raw disk does.
    of_disk: Option<f64>,
    /// The same with every replica's write counted: all of them go to this disk.
    of_disk_all_replicas: Option<f64>,
    /// Bytes per second, as a part of what one loopback connection carries.
    of_tcp: f64,
}

impl Line {
    pub(crate) fn new(
        load: &Load,
        replicas: usize,
        outcome: &Outcome,
        counted: Duration,
        client: Duration,
        nodes: Option<Duration>,
        raw: Raw,
    ) -> Line {
        let latencies = &outcome.latencies;
        let (ops, seconds) = (latencies.len(), counted.as_secs_f64().max(1e-9));
        let per_op = |time: Duration| time.as_secs_f64() * 1e6 / ops.max(1) as f64;
        let ops_per_second = ops as f64 / seconds;
        let bytes_per_second = ops_per_second * f64::from(load.size);
        let of_disk = raw.disk.map(|disk| ops_per_second / disk.ops);
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
            seconds,
            ops,
            errors: outcome.errors,
            first_error: outcome.first_error.clone(),
            ops_per_second,
            bytes_per_second,
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            max_us: latencies.max(),
            cpu_client_us: per_op(client),
            cpu_nodes_us: nodes.map(per_op),
            raw,
            of_disk,
            of_disk_all_replicas: of_disk.map(|part| part * copies),
            of_tcp: bytes_per_second / raw.tcp,
        }
    }
}

fn percent(part: Option<f64>) -> String {
    part.map_or("-".to_owned(), |p| format!("{:.0} %", p * 100.0))
}

/// The table for people.
pub(crate) fn show(lines: &[Line]) {
    let Some(first) = lines.first() else { return };
    let loop_ = first.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} operations/s"));
    say!(
        "{:?}, {} replicas, {} x {} in flight, {loop_}, {:.1} s each",
        first.workload,
        first.replicas,
        first.clients,
        first.depth,
        first.seconds
    );
    let head = [
        "SIZE",
        "CHUNK",
        "OPS/S",
        "MB/S",
        "P50 µs",
        "P99 µs",
        "P99.9 µs",
        "CPU µs/OP CLIENT",
        "NODES",
        "ERRORS",
        "RAW DISK OPS/S",
        "OF IT",
        "x REPLICAS",
        "OF TCP",
    ];
    let mut table = output::table(&head, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    for line in lines {
        table.add_row(
            [
                bytes_short(line.size),
                bytes_short(line.chunk_size),
                grouped(line.ops_per_second as u64),
                format!("{:.1}", line.bytes_per_second / 1e6),
                grouped(line.p50_us),
                grouped(line.p99_us),
                grouped(line.p999_us),
                format!("{:.1}", line.cpu_client_us),
                line.cpu_nodes_us.map_or("-".to_owned(), |us| format!("{us:.1}")),
                line.errors.to_string(),
                line.raw.disk.map_or("-".to_owned(), |disk| grouped(disk.ops as u64)),
                percent(line.of_disk),
                percent(line.of_disk_all_replicas),
                percent(Some(line.of_tcp)),
            ]
            .map(Cell::new),
        );
    }
    output::print_table(&table, "  ");
    let raw = &first.raw;
    let behind = if first.workload == Workload::Read { "" } else { " + fdatasync" };
    let disk =
        raw.disk.map_or(String::new(), |disk| format!("disk: O_DIRECT{behind} at the same size, {} in flight; ", disk.depth));
    let rates = format!("{disk}TCP over loopback {:.0} MB/s; CRC-32C {:.0} MB/s", raw.tcp / 1e6, raw.crc / 1e6);
    say!("  {}", dim(format_args!("raw limits, measured in the same run: {rates}")));
    for line in lines.iter().filter(|line| line.errors > 0) {
        let error = line.first_error.as_deref().unwrap_or("");
        say!("  {} errors at {}, the first: {error}", line.errors, bytes_short(line.size));
    }
}
