//! `catena rm`: objects away.

use catena_client::Objects;
use serde_json::json;

use super::get::PAGE;
use super::{Manager, runtime};
use crate::fault::{Fault, Result};
use crate::output;
use crate::units::counted;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  catena rm models/v1 models/v2\n  catena rm -r run7/")]
pub(crate) struct Args {
    /// Names of the objects; prefixes with -r
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Remove every object whose name starts with NAME
    #[arg(short, long)]
    recursive: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<()> {
    runtime()?.block_on(remove(&args))
}

async fn remove(args: &Args) -> Result<()> {
    if args.recursive && args.names.iter().any(String::is_empty) {
        return Err(Fault::usage("an empty prefix would remove every object: name a prefix"));
    }
    let objects = args.manager.objects().await?;
    let mut removed = 0_u64;
    let mut missing = Vec::new();
    for name in &args.names {
        let gone = match args.recursive {
            true => remove_prefix(&objects, name).await?,
            false => u64::from(objects.remove(name).await?),
        };
        if gone == 0 {
            missing.push(format!("{name:?}"));
        }
        removed += gone;
    }
    if args.json {
        output::json(&json!({ "removed": removed }))?;
    } else if removed > 0 {
        output::note(format_args!("removed {}", counted(removed, "object")));
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Fault::not_found(format!("there is no object {}: see `catena ls`", missing.join(", ")))),
    }
}

async fn remove_prefix(objects: &Objects, prefix: &str) -> Result<u64> {
    let mut removed = 0;
    let mut after = None::<String>;
    loop {
        let page = objects.list(prefix, after.as_deref(), PAGE).await?;
        for object in &page.objects {
            removed += u64::from(objects.remove(&object.name).await?);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(removed),
        }
    }
}
