//! `catena target`: everything about one target's store.

use catena_types::store::SpaceLevel;
use catena_wire::client::TargetReply;
use catena_wire::manager::SyncProgress;
use comfy_table::Cell;
use serde_json::{Map, json};

use super::{Manager, runtime};
use crate::fault::Result;
use crate::output::{self, bad, dim, odd, say};
use crate::units::{bytes_short, grouped};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  catena target 3\n  catena target 3 --json | jq .values.flushes\n  catena target 3 --scrub")]
pub(crate) struct Args {
    /// The target's number, as `catena status --chains` shows it
    target: u32,
    /// Start a scrub pass now, if none is under way
    #[arg(long)]
    scrub: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let reply = runtime()?.block_on(async {
        let client = args.manager.client().await?;
        Ok::<_, crate::fault::Fault>(client.target(args.target, args.scrub).await?)
    })?;
    if args.json {
        return output::json(&to_json(args.target, &reply));
    }
    show(&reply);
    Ok(())
}

fn show(reply: &TargetReply) {
    let field = |name: &str, value: String| say!("{} {value}", dim(format_args!("{name:>10}")));
    let store = reply.store.unwrap_or_default();
    field("store", words(&store).join(", "));
    if let Some(space) = reply.space {
        let used = format!("{} of {} used", bytes_short(space.used), bytes_short(space.total));
        field("space", format!("{used}, {} chunks, {}", grouped(space.chunks), level_words(space.level())));
    }
    let bytes = bytes_short(store.scrub_bytes);
    let scrub = if store.scrubbing { "under way" } else { "between passes" };
    field("scrub", format!("{scrub}, {} passes completed, {bytes} verified, {} bad", store.scrub_passes, store.scrub_bad));
    if let Some(sync) = &reply.sync {
        field("resync", sync_words(sync));
    }
    let found = format!("{} chunks found damaged, {} reads refused by the disk", store.damaged, store.read_errors);
    field("disk", if store.damaged + store.read_errors > 0 { bad(found) } else { found });
    say!();
    let mut table = output::table(&["DISTRIBUTION", "COUNT", "HALF", "99 %", "99.9 %", "MOST"], &[1, 2, 3, 4, 5]);
    for h in &reply.histograms {
        let shown = |v: u64| Cell::new(if h.name.ends_with("nanoseconds") { micros(v) } else { grouped(v) });
        let name = h.name.replace("_nanoseconds", "").replace('_', " ");
        table.add_row(vec![
            Cell::new(name),
            Cell::new(grouped(h.count)),
            shown(h.p50),
            shown(h.p99),
            shown(h.p999),
            shown(h.most),
        ]);
    }
    output::print_table(&table, "");
    say!();
    for v in &reply.values {
        say!("{} {}", dim(format_args!("{:>24}", v.name)), grouped(v.value));
    }
}

/// How far a resync is, in words.
pub(super) fn sync_words(sync: &SyncProgress) -> String {
    let compared =
        format!("{} of about {} chunks ({})", grouped(sync.chunks), grouped(sync.chunks_total), bytes_short(sync.bytes));
    let sent = format!("{} sent of {} chunks", bytes_short(sync.bytes_sent), grouped(sync.chunks_sent));
    let lost = if sync.chunks_lost > 0 { bad(format_args!(", {} lost", sync.chunks_lost)) } else { String::new() };
    let eta = sync.eta_ms().map_or_else(String::new, |ms| format!(", {} s to go", ms.div_ceil(1000)));
    format!("{compared} compared, {sent}{lost}{eta}")
}

/// The same for programs.
pub(crate) fn sync_json(sync: &SyncProgress) -> serde_json::Value {
    json!({
        "chunks": sync.chunks,
        "chunks_total": sync.chunks_total,
        "bytes": sync.bytes,
        "chunks_sent": sync.chunks_sent,
        "bytes_sent": sync.bytes_sent,
        "chunks_lost": sync.chunks_lost,
        "elapsed_ms": sync.elapsed_ms,
        "eta_ms": sync.eta_ms(),
    })
}

/// How a store keeps chunks and what it promises, in words.
pub(super) fn words(store: &catena_types::store::StoreReport) -> [&'static str; 2] {
    use catena_types::store::{Durability, StoreKind};
    let kind = match store.kind() {
        StoreKind::Cow => "copy-on-write",
        StoreKind::InPlace => "in place",
    };
    let durability = match store.durability() {
        Durability::Flush => "flush",
        Durability::Replicated => "replicated",
    };
    [kind, durability]
}

/// What a target still accepts, in words.
pub(super) fn level_words(level: SpaceLevel) -> String {
    match level {
        SpaceLevel::Enough => "everything is accepted".to_owned(),
        SpaceLevel::Low => odd("nearly full"),
        SpaceLevel::NoNewChunks => odd("full: new chunks are refused"),
        SpaceLevel::NoWrites => bad("full: writes are refused"),
    }
}

fn micros(nanoseconds: u64) -> String {
    format!("{:.3} ms", nanoseconds as f64 / 1e6)
}

fn to_json(target: u32, reply: &TargetReply) -> serde_json::Value {
    let store = reply.store.unwrap_or_default();
    let [kind, durability] = words(&store);
    let values: Map<_, _> = reply.values.iter().map(|v| (v.name.clone(), json!(v.value))).collect();
    let histograms: Map<_, _> = reply
        .histograms
        .iter()
        .map(|h| {
            let fields = json!({ "count": h.count, "sum": h.sum, "most": h.most, "p50": h.p50, "p99": h.p99, "p999": h.p999 });
            (h.name.clone(), fields)
        })
        .collect();
    json!({
        "target": target,
        "store": kind,
        "durability": durability,
        "damaged": store.damaged,
        "read_errors": store.read_errors,
        "scrub": { "running": store.scrubbing, "passes": store.scrub_passes, "bytes": store.scrub_bytes, "bad": store.scrub_bad },
        "sync": reply.sync.as_ref().map(sync_json),
        "values": values,
        "histograms": histograms,
    })
}
