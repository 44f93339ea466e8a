//! `catena inspect`: what is in one target that no process has open.

use std::path::{Path, PathBuf};

use catena_engine::OpenError;
use catena_engine::offline::inspect::{self, CheckpointView, ChunkView, FreeView, JournalView, Overview, VersionView};
use catena_engine::offline::{Finding, TargetFile};
use catena_engine::target_dir::DATA_FILE;
use catena_types::ChunkKey;
use comfy_table::Cell;

use super::chunk::parse_key;
use super::fsck::show_finding;
use crate::fault::{Fault, Result};
use crate::output::{self, bad, dim, good, odd, say};
use crate::units::{bytes_short, counted};

/// Blocks of a chunk that are listed.
const LISTED: usize = 64;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena inspect /mnt/nvme0/catena/targets/0\n  catena inspect targets/0 --journal\n  catena inspect targets/0 --chunk greeting --json | jq .committed.extents\n  catena inspect targets/0 --free\n\nNothing is written. `catena fsck` checks everything."
)]
pub(crate) struct Args {
    /// Directory of the target; stop its node first
    dir: PathBuf,
    #[command(flatten)]
    what: What,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// What is shown; nothing: the superblock.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct What {
    /// Show the journal: every append in the ring, and the records behind the checkpoint
    #[arg(long)]
    journal: bool,
    /// Show the checkpoint: slices and index leaves
    #[arg(long)]
    checkpoint: bool,
    /// Show one chunk: text, with \xNN for other bytes
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    chunk: Option<ChunkKey>,
    /// Show the free space and how fragmented it is
    #[arg(long)]
    free: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let file = open(&args.dir)?;
    match &args.what {
        What { journal: true, .. } => print(args.json, &seen(inspect::journal(&file))?, show_journal),
        What { checkpoint: true, .. } => print(args.json, &seen(inspect::checkpoint(&file))?, show_checkpoint),
        What { free: true, .. } => print(args.json, &seen(inspect::free(&file))?, show_free),
        What { chunk: Some(key), .. } => {
            let view = seen(inspect::chunk(&file, key))?;
            let view = view.ok_or_else(|| Fault::not_found(format!("{}: there is no chunk {key}", args.dir.display())))?;
            print(args.json, &view, show_chunk)
        }
        _ => print(args.json, &seen(inspect::overview(&file))?, show_overview),
    }
}

/// The target in `dir`; a node's directory is told from it.
pub(super) fn open(dir: &Path) -> Result<TargetFile> {
    if !dir.join(DATA_FILE).exists() {
        let (dir, below) = (dir.display(), dir.join("targets"));
        return Err(Fault::new(match below.is_dir() {
            true => format!("{dir} is a node's directory: name one of its targets, in {}", below.display()),
            false => format!("{dir} holds no target: there is no {DATA_FILE} in it"),
        }));
    }
    TargetFile::open(dir).map_err(|e| Fault::new(e.to_string()))
}

fn seen<T>(view: std::result::Result<T, OpenError>) -> Result<T> {
    view.map_err(|e| Fault::new(e.to_string()))
}

fn print<T: serde::Serialize>(as_json: bool, view: &T, show: impl Fn(&T)) -> Result<()> {
    if as_json {
        return output::json(view);
    }
    show(view);
    Ok(())
}

fn field(name: &str, value: impl std::fmt::Display) {
    say!("{} {value}", dim(format_args!("{name:>16}")));
}

fn show_findings(findings: &[Finding]) {
    if !findings.is_empty() {
        say!();
    }
    findings.iter().for_each(show_finding);
}

fn show_overview(view: &Overview) {
    field("target", &view.name);
    field("format", view.format);
    field("uuid", &view.uuid);
    match view.target {
        0 => field("adopted", "by no cluster"),
        target => field("adopted", format_args!("as target {target} of cluster {}", view.cluster)),
    }
    field("store", format_args!("{}, {}", view.kind, view.durability));
    for (n, copy) in view.copies.iter().enumerate() {
        let state = if copy.state == "good" { good(&copy.state) } else { odd(&copy.state) };
        let generation = copy.generation.map_or(String::new(), |g| format!(", generation {g}"));
        field(&format!("superblock {n}"), format_args!("at byte {}: {state}{generation}", copy.offset));
    }
    let c = &view.checkpoint;
    match c.slices {
        0 => field("checkpoint", "none yet"),
        n => field(
            "checkpoint",
            format_args!("{} in area {}, {} bytes, up to record {}", counted(n.into(), "slice"), c.area, c.bytes, c.record),
        ),
    }
    field("replay", format_args!("from journal block {}, append {}", c.journal_block, c.append));
    say!();
    let mut table = output::table(&["AREA", "FROM BYTE", "BYTES", ""], &[1, 2]);
    for area in &view.areas {
        table.add_row(vec![
            Cell::new(area.name),
            Cell::new(area.offset),
            Cell::new(area.bytes),
            Cell::new(bytes_short(area.bytes)),
        ]);
    }
    output::print_table(&table, "");
    show_findings(&view.findings);
}

fn show_journal(view: &JournalView) {
    field("ring", format_args!("{} blocks, {} of them live, the head at block {}", view.blocks, view.live, view.head));
    field("records", format_args!("up to {}, known durable up to {}", view.last_record, view.known_durable));
    if view.torn > 0 {
        field("torn", odd(counted(view.torn.into(), "record")));
    }
    say!();
    let head = ["BLOCK", "BLOCKS", "APPEND", "GENERATION", "RECORDS", "FROM", "BYTES", "DURABLE", ""];
    let mut table = output::table(&head, &[0, 1, 2, 3, 4, 5, 6, 7]);
    for a in &view.appends {
        let numbers = [
            u64::from(a.block),
            u64::from(a.blocks),
            a.append,
            a.generation,
            u64::from(a.records),
            a.first_record,
            u64::from(a.bytes),
            a.known_durable,
        ];
        let state = if a.live { "live" } else { "" };
        table.add_row(numbers.iter().map(Cell::new).chain([Cell::new(state)]).collect::<Vec<_>>());
    }
    output::print_table(&table, "");
    let mut live: Vec<_> = view.appends.iter().filter(|a| a.live).collect();
    live.sort_by_key(|a| a.append);
    for a in live {
        say!();
        say!("{}", dim(format_args!("append {}", a.append)));
        for r in &a.contents {
            say!("{:>10} {} {} {}", r.record, r.kind, r.key.as_deref().unwrap_or(""), r.what);
        }
    }
    show_findings(&view.findings);
}

fn show_checkpoint(view: &CheckpointView) {
    field("up to", format_args!("record {}, generation {}", view.at.record, view.at.generation));
    field("chunks", format_args!("{}, {} staged, {}", view.chunks, view.staged, counted(view.sessions, "session")));
    field("remove floor", view.remove_floor);
    field("not in place", counted(view.redo_blocks, "block"));
    field("scrub passes", view.scrub_passes);
    for (n, slice) in view.slices.iter().enumerate() {
        let items = counted(slice.items, "item");
        field(&format!("slice {n}"), format_args!("at byte {}, {} bytes, {items}", slice.offset, slice.bytes));
    }
    if view.leaves.is_empty() {
        return show_findings(&view.findings);
    }
    say!();
    let mut table = output::table(&["LEAF", "AT BYTE", "BLOCKS", "BYTES", "CHUNKS", "KEYS"], &[0, 1, 2, 3, 4]);
    for (n, leaf) in view.leaves.iter().enumerate() {
        let keys = leaf.keys.as_ref().map_or(String::new(), |(from, to)| format!("{from} to {to}"));
        let numbers = [n as u64, leaf.offset, leaf.blocks, u64::from(leaf.bytes), leaf.chunks];
        table.add_row(numbers.iter().map(Cell::new).chain([Cell::new(keys)]).collect::<Vec<_>>());
    }
    output::print_table(&table, "");
    show_findings(&view.findings);
}

fn show_chunk(view: &ChunkView) {
    field("chunk", &view.key);
    field("chunk size", view.chunk_size);
    for (what, version) in [("committed", &view.committed), ("staged", &view.staged)] {
        match version {
            Some(version) => show_version(what, version),
            None => field(what, "no"),
        }
    }
    show_findings(&view.findings);
}

fn show_version(what: &str, v: &VersionView) {
    say!();
    let remove = if v.remove { ", a remove" } else { "" };
    field(what, format_args!("version {} under chain version {}, {} bytes{remove}", v.ver, v.chain_ver, v.len));
    field("tag", &v.tag);
    let state = if v.good { good("as found") } else { bad(format_args!("found {}", v.found)) };
    field("checksum", format_args!("{}, {state}", v.checksum));
    if let Some(slot) = v.slot {
        field("slot", format_args!("from data block {slot}"));
    }
    for e in &v.extents {
        field("extent", format_args!("blocks {}+{} at data block {}, byte {}", e.block, e.blocks, e.disk, e.offset));
    }
    for b in v.blocks.iter().take(LISTED) {
        let place = b.disk.map_or("not in place".to_owned(), |disk| format!("data block {disk}"));
        let state = match &b.recorded {
            Some(recorded) if *recorded != b.found => bad(format_args!("{recorded} says the {}", b.source)),
            Some(_) => format!("as the {} says", b.source),
            None => String::new(),
        };
        field(&format!("block {}", b.block), format_args!("{place}, {} {state}", b.found));
    }
    if v.blocks.len() > LISTED {
        field("", format_args!("and {} more: --json lists all", v.blocks.len() - LISTED));
    }
}

fn show_free(view: &FreeView) {
    let of = |bytes: u64| format!("{} of {}", bytes_short(bytes), bytes_short(view.total));
    field("used", of(view.used));
    field(
        "free",
        format_args!("{} in {}, the largest {}", of(view.free), counted(view.pieces, "piece"), bytes_short(view.largest)),
    );
    field("chunks", format_args!("{} in {}, {} at most", view.chunks, counted(view.extents, "extent"), view.most_extents));
    say!();
    let mut table = output::table(&["FREE PIECES FROM", "PIECES", "BYTES"], &[0, 1, 2]);
    for s in &view.stretches {
        table.add_row(vec![Cell::new(bytes_short(s.from)), Cell::new(s.pieces), Cell::new(bytes_short(s.bytes))]);
    }
    output::print_table(&table, "");
    show_findings(&view.findings);
}
