//! `catena stat`: what is known of an object, and where its chunks are.

use super::{Manager, ls, runtime};
use crate::fault::{Fault, Result};
use crate::output::{self, dim, say};
use crate::units::{bytes_short, grouped};

/// Most chunks shown without being asked.
const SHOWN: usize = 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  catena stat models/v1\n  catena stat models/v1 --json")]
pub(crate) struct Args {
    /// Name of the object
    name: String,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<()> {
    runtime()?.block_on(stat(&args))
}

async fn stat(args: &Args) -> Result<()> {
    let objects = args.manager.objects().await?;
    let info = objects.stat(&args.name).await?;
    let info = info.ok_or_else(|| Fault::not_found(format!("there is no object {:?}: see `catena ls`", args.name)))?;
    if args.json {
        return output::json(&ls::to_json(&info));
    }
    let field = |name: &str, value: String| say!("{} {value}", dim(format_args!("{name:>10}")));
    field("name", info.name.clone());
    field("size", format!("{} bytes ({})", grouped(info.size), bytes_short(info.size)));
    field("chunks", format!("{} of up to {}", info.chunks, bytes_short(info.chunk_size)));
    field("checksum", format!("crc32c {:08x}", info.checksum));
    field("version", info.version.to_string());
    let client = objects.client();
    for (n, key) in info.chunk_keys().take(SHOWN).enumerate() {
        let chain = client.chain_of(key.as_bytes()).map_or("-".to_owned(), |chain| chain.to_string());
        field(if n == 0 { "keys" } else { "" }, format!("{key} on chain {chain}"));
    }
    if info.chunks > SHOWN as u64 {
        field("", format!("and {} more", info.chunks - SHOWN as u64));
    }
    Ok(())
}
