//! `catena admin scrub`: passes over all data, started and watched.

use std::process::ExitCode;

use catena_client::Client;
use catena_types::TargetId;
use catena_wire::client::TargetReply;
use clap::Subcommand;
use comfy_table::Cell;
use serde_json::{Value, json};

use super::Manager;
use crate::fault::{Fault, Result};
use crate::output::{self, Tone, cell, say};
use crate::units::bytes_short;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a pass on every target that has none under way
    #[command(after_help = "Examples:\n  catena admin scrub start\n  catena admin scrub start --target 3 --target 7")]
    Start(Which),
    /// How far the passes are, and what they found; the exit code tells whether all targets answered and found nothing
    #[command(after_help = "Examples:\n  catena admin scrub status\n  catena admin scrub status --json | jq .targets[0].passes")]
    Status(Which),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Only this target; may be given several times
    #[arg(long, value_name = "ID")]
    target: Vec<TargetId>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// A target and its answer.
type Answer = (TargetId, std::result::Result<TargetReply, String>);

pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let (which, start) = match args.command {
        Command::Start(which) => (which, true),
        Command::Status(which) => (which, false),
    };
    let answers = ask(&which.manager.client().await?, &which.target, start).await?;
    match which.json {
        true => output::json(&json!({ "targets": answers.iter().map(to_json).collect::<Vec<_>>() }))?,
        false => show(&answers),
    }
    if start && !which.json {
        say!("passes begin now; `catena admin scrub status` shows how far they are");
    }
    let good = |answer: &Answer| answer.1.as_ref().is_ok_and(|r| r.store.is_some_and(|s| s.scrub_bad == 0));
    Ok(if answers.iter().all(good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(client: &Client, wanted: &[TargetId], start: bool) -> Result<Vec<Answer>> {
    let routing = client.routing();
    if let Some(unknown) = wanted.iter().find(|&&id| routing.target(id).is_none()) {
        return Err(Fault::not_found(format!("there is no target {unknown}: see `catena status --chains`")));
    }
    let ids = routing.targets.iter().map(|t| t.id).filter(|id| wanted.is_empty() || wanted.contains(id));
    let mut answers = Vec::new();
    for id in ids {
        answers.push((id, client.target(id, start).await.map_err(|e| e.to_string())));
    }
    Ok(answers)
}

fn show(answers: &[Answer]) {
    let mut table = output::table(&["TARGET", "PASS", "VERIFIED", "OF", "BAD", "PASSES COMPLETED"], &[0, 2, 3, 4, 5]);
    for (id, answer) in answers {
        let Ok(TargetReply { store: Some(store), space, .. }) = answer else { continue };
        table.add_row(vec![
            Cell::new(id),
            if store.scrubbing { cell("under way", Tone::Odd) } else { cell("none", Tone::Good) },
            Cell::new(bytes_short(store.scrub_bytes)),
            Cell::new(space.map_or("-".to_owned(), |s| bytes_short(s.used))),
            if store.scrub_bad > 0 { cell(store.scrub_bad.to_string(), Tone::Bad) } else { Cell::new(0) },
            Cell::new(store.scrub_passes),
        ]);
    }
    output::print_table(&table, "");
    for (id, answer) in answers {
        match answer {
            Ok(reply) if reply.store.is_some() => {}
            Ok(_) => say!("target {id} is not open: its disk may have failed, see `catena status`"),
            Err(e) => say!("target {id} does not answer: {e}"),
        }
    }
}

fn to_json((id, answer): &Answer) -> Value {
    match answer.as_ref().map(|r| (r.store, r.space.map(|s| s.used))) {
        Ok((Some(s), used)) => json!({
            "target": id, "running": s.scrubbing, "verified_bytes": s.scrub_bytes, "used_bytes": used,
            "bad": s.scrub_bad, "passes": s.scrub_passes,
        }),
        Ok((None, _)) => json!({ "target": id, "error": "not open" }),
        Err(e) => json!({ "target": id, "error": e }),
    }
}
