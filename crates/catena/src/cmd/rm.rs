//! `catena rm`: objects away.

use serde_json::json;

use super::get::PAGE;
use super::{Manager, runtime};
use crate::fault::{Fault, Result};
use crate::output;
use crate::units::counted;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  catena rm models/v1\n  catena rm -r run7/")]
pub(crate) struct Args {
    /// Name of the object; a prefix with -r
    name: String,
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
    if args.recursive && args.name.is_empty() {
        return Err(Fault::usage("an empty prefix would remove every object: name a prefix"));
    }
    let objects = args.manager.objects().await?;
    let mut removed = 0_u64;
    if args.recursive {
        let mut after = None::<String>;
        loop {
            let page = objects.list(&args.name, after.as_deref(), PAGE).await?;
            for object in &page.objects {
                removed += u64::from(objects.remove(&object.name).await?);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    } else {
        removed += u64::from(objects.remove(&args.name).await?);
    }
    if removed == 0 {
        return Err(Fault::not_found(format!("there is no object {:?}: see `catena ls`", args.name)));
    }
    if args.json {
        return output::json(&json!({ "removed": removed }));
    }
    output::note(format_args!("removed {}", counted(removed, "object")));
    Ok(())
}
