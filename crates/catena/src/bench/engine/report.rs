//! What `catena bench engine` prints: one line per work, each figure beside the raw disk's, bars that were missed marked.

use catena_engine::Stats;
use catena_engine::disk::file::Backend;
use comfy_table::Cell;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::disk::Way;
use super::drive::Measured;
use super::open::Opened;
use super::tally::Tally;
use super::work::{Kind, Work};
use crate::output::{self, Tone, cell, dim, say};
use crate::units::{grouped, median};

/// Processors used by others above which a measurement is doubtful.
const DISTURBED: f64 = 0.2;
/// Longest an open may take with a million chunks or fewer, in seconds.
const OPEN_SECONDS: f64 = 1.5;
/// Most memory per chunk in bytes.
const CHUNK_MEMORY: f64 = 120.0;

/// The two sides of a comparison.
pub(super) struct Round {
    pub(super) raw: Tally,
    /// For reads: the raw disk, with a checksum taken of what it has read.
    pub(super) summed: Option<Tally>,
    pub(super) engine: Measured,
}

/// One work. Rates are medians of the rounds, `ratio` the median of their ratios; latencies and costs are of all rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    work: &'static str,
    size: u32,
    chunk_size: u32,
    depth: u32,
    rounds: usize,
    /// What runs the engine's disk operations.
    disk: &'static str,
    raw_way: Way,
    raw_ops_per_second: f64,
    raw_bytes_per_second: f64,
    raw_p50_us: f64,
    raw_p99_us: f64,
    raw_cpu_us_per_op: f64,
    ops_per_second: f64,
    bytes_per_second: f64,
    ratio: f64,
    ratios: Vec<f64>,
    /// For reads: to the raw disk with a checksum taken of what it has read.
    ratio_summed: Option<f64>,
    bar: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    cpu_us_per_op: f64,
    flushes_per_op: f64,
    /// Bytes this process gave to the device per byte of payload: data, journal, checkpoints, superblock.
    device_bytes_per_byte: Option<f64>,
    /// The same by the store's own count: data, journal, checkpoints.
    store_bytes_per_byte: Option<f64>,
    device_bar: Option<f64>,
    checkpoints: u64,
    /// Processors that other processes used meanwhile.
    others_processors: Option<f64>,
    /// Every bar is met.
    met: bool,
}

impl Line {
    pub(super) fn new(work: &Work, backend: Backend, way: Way, rounds: &[Round], others: Option<f64>) -> Line {
        let raw = Sum::of(rounds.iter().map(|r| &r.raw));
        let own = Sum::of(rounds.iter().map(|r| &r.engine.tally));
        let ratio_to = |r: &Round, to: &Tally| r.engine.tally.rate / to.rate;
        let ratios: Vec<f64> = rounds.iter().map(|r| ratio_to(r, &r.raw)).collect();
        let summed: Option<Vec<f64>> = rounds.iter().map(|r| r.summed.as_ref().map(|to| ratio_to(r, to))).collect();
        let ratio = median(ratios.iter().copied());
        let grown =
            |count: fn(&Stats) -> u64| rounds.iter().map(|r| count(&r.engine.after) - count(&r.engine.before)).sum::<u64>();
        let payload = own.ops as f64 * f64::from(work.size);
        let writes = work.kind != Kind::Read;
        let per_byte = |bytes: u64| writes.then_some(bytes as f64 / payload);
        let device = own.written.and_then(per_byte);
        let size = f64::from(work.size);
        Line {
            work: work.name,
            size: work.size,
            chunk_size: work.chunk_size,
            depth: work.depth,
            rounds: rounds.len(),
            disk: if backend == Backend::Uring { "io_uring" } else { "threads" },
            raw_way: way,
            raw_ops_per_second: raw.rate,
            raw_bytes_per_second: raw.rate * size,
            raw_p50_us: raw.quantile(0.5),
            raw_p99_us: raw.quantile(0.99),
            raw_cpu_us_per_op: raw.cpu_us_per_op,
            ops_per_second: own.rate,
            bytes_per_second: own.rate * size,
            ratio,
            ratios,
            ratio_summed: summed.map(|ratios| median(ratios.into_iter())),
            bar: work.bar,
            p50_us: own.quantile(0.5),
            p99_us: own.quantile(0.99),
            p999_us: own.quantile(0.999),
            max_us: own.quantile(1.0),
            cpu_us_per_op: own.cpu_us_per_op,
            flushes_per_op: grown(|s| s.flushes) as f64 / own.ops as f64,
            device_bytes_per_byte: device,
            store_bytes_per_byte: per_byte(grown(|s| s.bytes_written + s.bytes_applied + s.journal_bytes + s.checkpoint_bytes)),
            device_bar: work.device_bar,
            checkpoints: grown(|s| s.checkpoints),
            others_processors: others,
            met: ratio >= work.bar && work.device_bar.is_none_or(|bar| device.is_none_or(|bytes| bytes <= bar)),
        }
    }
}

/// All rounds of one side.
struct Sum {
    rate: f64,
    ops: u64,
    written: Option<u64>,
    cpu_us_per_op: f64,
    latencies: Histogram<u64>,
}

impl Sum {
    fn of<'a>(rounds: impl Iterator<Item = &'a Tally> + Clone) -> Sum {
        let ops: u64 = rounds.clone().map(|r| r.ops).sum();
        let cpu: f64 = rounds.clone().map(|r| r.cpu.as_secs_f64()).sum();
        let mut latencies = super::tally::new_histogram();
        for round in rounds.clone() {
            latencies.add(&round.latencies).expect("histograms of the same bounds");
        }
        Sum {
            rate: median(rounds.clone().map(|r| r.rate)),
            ops,
            written: rounds.map(|r| r.written).sum(),
            cpu_us_per_op: cpu * 1e6 / ops.max(1) as f64,
            latencies,
        }
    }

    /// In microseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Opening a target with many chunks. Seconds and memory are medians of the rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct OpenLine {
    work: &'static str,
    /// How it was left: by a `kill`, or by a `close`.
    after: &'static str,
    chunks: u64,
    /// Records replayed from the journal.
    replayed: u64,
    seconds: f64,
    seconds_bar: f64,
    bytes_per_chunk: f64,
    bytes_per_chunk_bar: f64,
    /// Every bar is met.
    met: bool,
}

impl OpenLine {
    pub(super) fn new(after: &'static str, seconds: f64, resident: f64, opened: Opened) -> OpenLine {
        let bytes_per_chunk = resident / opened.chunks as f64;
        let seconds_bar = OPEN_SECONDS * (opened.chunks as f64 / 1e6).max(1.0);
        OpenLine {
            work: super::OPEN,
            after,
            chunks: opened.chunks,
            replayed: opened.replayed,
            seconds,
            seconds_bar,
            bytes_per_chunk,
            bytes_per_chunk_bar: CHUNK_MEMORY,
            met: seconds <= seconds_bar && bytes_per_chunk <= CHUNK_MEMORY,
        }
    }
}

/// The tables for people.
pub(super) fn show(lines: &[Line], opens: &[OpenLine]) {
    if let Some(first) = lines.first() {
        say!("One target, {}, medians of {} rounds", first.disk, first.rounds);
        show_works(lines);
    }
    if !opens.is_empty() {
        show_opens(opens);
    }
    let missed: Vec<String> = lines.iter().filter(|l| !l.met).map(|l| l.work.to_owned()).collect();
    let opens = opens.iter().filter(|l| !l.met).map(|l| format!("{} after a {}", l.work, l.after));
    let missed: Vec<String> = missed.into_iter().chain(opens).collect();
    if !missed.is_empty() {
        say!("  bars missed (!): {}", missed.join(", "));
    }
    let others = lines.iter().filter_map(|l| l.others_processors).fold(0.0, f64::max);
    if others > DISTURBED {
        say!("  other processes used up to {others:.1} processors meanwhile: measure again when they are quiet");
    }
}

fn show_works(lines: &[Line]) {
    let head = [
        "WORK",
        "DEPTH",
        "RAW OPS/S",
        "MB/S",
        "ENGINE OPS/S",
        "MB/S",
        "RATIO",
        "BAR",
        "OF SUMMED",
        "P50 µs",
        "P99 µs",
        "P99.9 µs",
        "CPU µs/OP",
        "FLUSHES/OP",
        "DEVICE B/B",
        "BAR",
    ];
    let numbers: Vec<usize> = (1..head.len()).collect();
    let mut table = output::table(&head, &numbers);
    for line in lines {
        let mega = |bytes: f64| Cell::new(format!("{:.1}", bytes / 1e6));
        let whole = |n: f64| Cell::new(grouped(n.round() as u64));
        table.add_row([
            Cell::new(line.work),
            Cell::new(line.depth),
            whole(line.raw_ops_per_second),
            mega(line.raw_bytes_per_second),
            whole(line.ops_per_second),
            mega(line.bytes_per_second),
            judged(line.ratio, line.ratio >= line.bar),
            Cell::new(format!("{:.2}", line.bar)),
            Cell::new(line.ratio_summed.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))),
            whole(line.p50_us),
            whole(line.p99_us),
            whole(line.p999_us),
            Cell::new(format!("{:.1}", line.cpu_us_per_op)),
            Cell::new(format!("{:.3}", line.flushes_per_op)),
            line.device_bytes_per_byte.map_or(Cell::new("-"), |n| judged(n, line.device_bar.is_none_or(|bar| n <= bar))),
            line.device_bar.map_or(Cell::new("-"), |bar| Cell::new(format!("{bar:.2}"))),
        ]);
    }
    output::print_table(&table, "  ");
    let raw = "raw: the same size and depth with O_DIRECT, an fdatasync behind each write";
    say!("  {}", dim(format_args!("{raw}")));
    say!("  {}", dim("OF SUMMED: ratio to the raw disk with a CRC-32C taken of what it has read, as a verified read does"));
    say!("  {}", dim("DEVICE B/B: bytes this process wrote to the device per byte of payload"));
}

fn show_opens(opens: &[OpenLine]) {
    let head = ["OPEN AFTER A", "CHUNKS", "REPLAYED", "SECONDS", "BAR", "MEMORY B/CHUNK", "BAR"];
    let mut table = output::table(&head, &[1, 2, 3, 4, 5, 6]);
    for line in opens {
        table.add_row([
            Cell::new(line.after),
            Cell::new(grouped(line.chunks)),
            Cell::new(grouped(line.replayed)),
            judged(line.seconds, line.seconds <= line.seconds_bar),
            Cell::new(format!("{:.2}", line.seconds_bar)),
            judged(line.bytes_per_chunk, line.bytes_per_chunk <= line.bytes_per_chunk_bar),
            Cell::new(format!("{:.0}", line.bytes_per_chunk_bar)),
        ]);
    }
    output::print_table(&table, "  ");
}

/// A figure, marked if it misses its bar.
fn judged(value: f64, met: bool) -> Cell {
    if met { cell(format!("{value:.2}"), Tone::Good) } else { cell(format!("{value:.2} !"), Tone::Bad) }
}
