//! `catena stat`: what is known of an object, where its chunks are, and whether all replicas of all of them are equal.

use catena_client::Client;
use catena_types::ChunkKey;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Manager, ls, runtime};
use crate::fault::{Fault, Result};
use crate::output::{self, dim, say};
use crate::replicas;
use crate::units::{bytes_short, grouped};

/// Most chunks shown without being asked.
const SHOWN: usize = 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  catena stat models/v1\n  catena stat models/v1 --json\n  catena stat models/v1 --all")]
pub(crate) struct Args {
    /// Name of the object
    name: String,
    /// Ask every replica of every chunk and compare
    #[arg(long)]
    all: bool,
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
    let differing = match args.all {
        true => Some(differing(objects.client(), info.chunk_keys()).await),
        false => None,
    };
    if args.json {
        let mut value = ls::to_json(&info);
        if let Some(keys) = &differing {
            value["differing"] = json!(keys.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
        output::json(&value)?;
        return verdict(differing);
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
    if let Some(keys) = &differing {
        let equal = info.chunks - keys.len() as u64;
        field(
            "replicas",
            format!("{} of {} chunks are equal at all their serving replicas", grouped(equal), grouped(info.chunks)),
        );
        keys.iter().take(SHOWN).for_each(|key| field("", format!("{key} differs: see `catena chunk stat --all`")));
    }
    verdict(differing)
}

/// Keys of the chunks whose serving replicas do not all hold the same, in any order.
async fn differing(client: &Client, keys: impl Iterator<Item = ChunkKey>) -> Vec<ChunkKey> {
    const AT_ONCE: usize = 32;
    let mut asked = JoinSet::new();
    let mut found = Vec::new();
    for key in keys {
        if asked.len() >= AT_ONCE {
            found.extend(asked.join_next().await.and_then(std::result::Result::ok).flatten());
        }
        let client = client.clone();
        asked.spawn(async move {
            let replicas = replicas::ask(&client, &key).await;
            let whole = replicas::equal(&replicas) && replicas.iter().all(|r| r.committed().is_some() || !r.serves());
            (!whole).then_some(key)
        });
    }
    while let Some(answer) = asked.join_next().await {
        found.extend(answer.ok().flatten());
    }
    found
}

fn verdict(differing: Option<Vec<ChunkKey>>) -> Result<()> {
    match differing {
        Some(keys) if !keys.is_empty() => Err(Fault::new("replicas differ, or not all of them answered: see `catena status`")),
        _ => Ok(()),
    }
}
