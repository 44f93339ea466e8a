//! `catena ls`: objects by name.

use std::io::Write;

use catena_client::ObjectInfo;
use serde_json::json;

use super::get::PAGE;
use super::{Manager, runtime};
use crate::fault::Result;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  catena ls\n  catena ls run7/ --long\n  catena ls --json | jq -r .name")]
pub(crate) struct Args {
    /// Only objects whose names start with this
    #[arg(default_value = "")]
    prefix: String,
    /// Show size, chunks, chunk size and checksum
    #[arg(short, long)]
    long: bool,
    /// Print one line of JSON per object
    #[arg(long)]
    json: bool,
    /// Stop after so many
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<()> {
    runtime()?.block_on(list(&args))
}

async fn list(args: &Args) -> Result<()> {
    let objects = args.manager.objects().await?;
    let (mut after, mut left) = (None::<String>, args.limit);
    while left > 0 {
        let page = objects.list(&args.prefix, after.as_deref(), left.min(PAGE)).await?;
        left -= page.objects.len().min(left);
        print_page(args, &page.objects)?;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    Ok(())
}

/// A page leaves with one write.
fn print_page(args: &Args, page: &[ObjectInfo]) -> Result<()> {
    let lines: String = page.iter().map(|info| format!("{}\n", line(args, info))).collect();
    let mut out = std::io::stdout().lock();
    out.write_all(lines.as_bytes()).and_then(|()| out.flush()).unwrap_or_else(|e| output::stdout_failed(&e));
    Ok(())
}

fn line(args: &Args, info: &ObjectInfo) -> String {
    if args.json {
        return to_json(info).to_string();
    }
    if args.long {
        return format!("{:>14} {:>8} x {:<9} {:08x}  {}", info.size, info.chunks, info.chunk_size, info.checksum, info.name);
    }
    info.name.clone()
}

/// An object as other programs read it.
pub(crate) fn to_json(info: &ObjectInfo) -> serde_json::Value {
    let generation: String = info.generation.iter().map(|b| format!("{b:02x}")).collect();
    json!({
        "name": info.name, "size": info.size, "chunk_size": info.chunk_size, "chunks": info.chunks,
        "checksum": format!("{:08x}", info.checksum), "generation": generation, "version": info.version,
    })
}
