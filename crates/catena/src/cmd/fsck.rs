//! `catena fsck`: checks one target that no process has open.

use std::path::PathBuf;
use std::process::ExitCode;

use catena_engine::OpenError;
use catena_engine::offline::{Finding, Options, Progress, Report, Severity, TargetFile, fsck};
use indicatif::ProgressBar;
use serde_json::json;

use super::inspect::open;
use crate::fault::{Doing, FAILED, Fault, Result, USAGE};
use crate::output::{self, bad, bold, dim, good, odd, say};
use crate::units::{bytes_short, counted};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena fsck /mnt/nvme0/catena/targets/0\n  catena fsck targets/0 --quick\n  catena fsck targets/0 --json | jq '.findings[]'\n\nNothing is written. Exit codes: 0 nothing is lost (findings that mend themselves may be listed), 1 something is damaged, 2 it cannot be checked"
)]
pub(crate) struct Args {
    /// Directory of the target; stop its node first
    dir: PathBuf,
    /// Only the structures: leave out the checksum table and the data
    #[arg(long)]
    quick: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let report = check(&args).map_err(|mut fault| {
        fault.code = USAGE;
        fault
    })?;
    match args.json {
        true => print_json(&report)?,
        false => show(&report),
    }
    Ok(if report.is_damaged() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

fn check(args: &Args) -> Result<Report> {
    let file: TargetFile = open(&args.dir)?;
    let mut bar: Option<(&str, ProgressBar)> = None;
    let mut progress = |p: Progress| {
        let same = bar.as_ref().is_some_and(|(step, _)| *step == p.step);
        if !same {
            bar = Some((p.step, output::progress(p.total, p.step)));
        }
        if let Some((_, bar)) = &bar {
            bar.set_position(p.done);
        }
    };
    let report = fsck(&file, &Options { quick: args.quick }, &mut progress);
    if let Some((_, bar)) = bar {
        bar.finish_and_clear();
    }
    report.map_err(|e: OpenError| Fault::new(e.to_string()))
}

fn print_json(report: &Report) -> Result<()> {
    let mut value = serde_json::to_value(report).doing("write JSON")?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("worst".to_owned(), json!(report.worst()));
        fields.insert("damaged".to_owned(), json!(report.is_damaged()));
    }
    output::json(&value)
}

fn show(report: &Report) {
    report.findings.iter().for_each(show_finding);
    if report.omitted > 0 {
        say!("and {}", counted(report.omitted, "more finding"));
    }
    let c = &report.checked;
    let verdict = match report.worst() {
        None => good(bold("clean")),
        Some(Severity::Info | Severity::Repairable) => odd(bold("nothing is lost")),
        Some(Severity::Damage) => bad(bold("damaged")),
        Some(Severity::Fatal) => bad(bold("cannot be opened")),
    };
    say!("{verdict}  {}", report.name);
    let field = |name: &str, value: String| say!("{} {value}", dim(format_args!("{name:>10}")));
    field("chunks", format!("{}, {} staged, {}", c.chunks, c.staged, counted(c.sessions, "session")));
    field("space", format!("{} of {} have an owner", bytes_short(c.used), bytes_short(c.capacity)));
    field("index", format!("{}, {}", counted(c.leaves, "leaf").replace("leafs", "leaves"), counted(c.slices, "slice")));
    let dropped = if c.dropped > 0 { format!(", {} more dropped", c.dropped) } else { String::new() };
    field("journal", format!("{}, {}{dropped}", counted(c.appends, "append"), counted(c.records, "record")));
    field(
        "data",
        if c.data { format!("{} compared with their checksums", bytes_short(c.bytes)) } else { "not looked at".to_owned() },
    );
}

/// As `inspect` prints them too.
pub(super) fn show_finding(finding: &Finding) {
    let head = format!("{} {} at byte {}", finding.severity.name(), finding.class.name(), finding.offset);
    let head = if finding.severity >= Severity::Damage { bad(head) } else { odd(head) };
    say!("{head}: {}", finding.what);
    say!("  {} {}", dim("next:"), finding.next);
}
