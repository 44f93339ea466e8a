//! `catena admin nodes`, `targets`, `chains`, `settings`, `moves`: what the manager knows, as tables and as JSON.

use std::collections::BTreeMap;

use catena_types::{Chain, PublicState};
use catena_wire::manager::{StatusReply, TargetReport};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::cmd::Manager;
use crate::fault::Result;
use crate::health::state_word;
use crate::output::{self, Tone, cell, say};
use crate::units::bytes_short;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Something to show: prints a table, or gives JSON.
type Show = fn(&StatusReply, bool) -> Value;

pub(super) async fn run(args: Args, show: Show) -> Result<()> {
    let status = args.manager.client().await?.status().await?;
    let value = show(&status, args.json);
    if args.json { output::json(&value) } else { Ok(()) }
}

fn reports(status: &StatusReply) -> BTreeMap<u32, &TargetReport> {
    status.targets.iter().map(|t| (t.report.target, &t.report)).collect()
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

pub(super) fn nodes(status: &StatusReply, as_json: bool) -> Value {
    let reports = reports(status);
    let mut table = output::table(&["NODE", "STATE", "RACK", "IN CHAINS", "FREE", "USED", "TOTAL", "ADDRESS"], &[0, 3, 4, 5, 6]);
    let mut rows = Vec::new();
    for node in &status.routing.nodes {
        let of_node = || status.routing.targets.iter().filter(|t| t.node == node.id);
        let (used, free) = (of_node().filter(|t| t.chain != 0).count(), of_node().filter(|t| t.chain == 0).count());
        let sum = |f: fn(&TargetReport) -> u64| of_node().filter_map(|t| reports.get(&t.id)).map(|r| f(r)).sum::<u64>();
        let (bytes, total) = (sum(|r| r.space.used), sum(|r| r.space.total));
        let draining = status.draining_nodes.contains(&node.id);
        let state = match (node.alive, draining) {
            (false, _) => cell("silent", Tone::Bad),
            (true, true) => cell("draining", Tone::Odd),
            (true, false) => cell("alive", Tone::Good),
        };
        rows.push(json!({
            "id": node.id, "alive": node.alive, "draining": draining, "rack": node.rack, "incarnation": node.incarnation,
            "targets_in_chains": used, "targets_free": free, "used": bytes, "total": total, "addresses": node.shard_addrs,
        }));
        table.add_row(vec![
            Cell::new(node.id),
            state,
            Cell::new(or_dash(&node.rack)),
            Cell::new(used),
            Cell::new(free),
            Cell::new(bytes_short(bytes)),
            Cell::new(bytes_short(total)),
            Cell::new(node.shard_addrs.join(" ")),
        ]);
    }
    if !as_json {
        output::print_table(&table, "");
    }
    json!({ "nodes": rows })
}

pub(super) fn targets(status: &StatusReply, as_json: bool) -> Value {
    let reports = reports(status);
    let mut table =
        output::table(&["TARGET", "NODE", "SHARD", "CHAIN", "STATE", "USED", "TOTAL", "CHUNKS", ""], &[0, 1, 2, 3, 5, 6, 7]);
    let mut rows = Vec::new();
    for target in &status.routing.targets {
        let public = status.routing.chain(target.chain).and_then(|c| c.state_of(target.id));
        let report = reports.get(&target.id);
        let draining = status.draining_targets.contains(&target.id);
        let space = report.map(|r| r.space).unwrap_or_default();
        let (word, tone) = match (public, report) {
            (Some(PublicState::Serving), _) => ("SERVING", Tone::Good),
            (Some(state), _) => (state_word(state), Tone::Odd),
            (None, Some(_)) => ("free", Tone::Good),
            (None, None) => ("not heard of", Tone::Odd),
        };
        let failed = report.map_or("", |r| r.failed.as_str());
        rows.push(json!({
            "id": target.id, "node": target.node, "shard": target.shard, "chain": (target.chain != 0).then_some(target.chain),
            "state": word, "draining": draining, "used": space.used, "total": space.total, "chunks": space.chunks,
            "failed": failed,
        }));
        let remark = if draining { "draining".to_owned() } else { failed.to_owned() };
        table.add_row(vec![
            Cell::new(target.id),
            Cell::new(target.node),
            Cell::new(target.shard),
            Cell::new(if target.chain == 0 { "-".to_owned() } else { target.chain.to_string() }),
            cell(word, tone),
            Cell::new(bytes_short(space.used)),
            Cell::new(bytes_short(space.total)),
            Cell::new(space.chunks),
            Cell::new(remark),
        ]);
    }
    if !as_json {
        output::print_table(&table, "");
    }
    json!({ "targets": rows })
}

pub(super) fn chains(status: &StatusReply, as_json: bool) -> Value {
    let members = |c: &Chain| c.members.iter().map(|m| json!({ "target": m.target, "state": state_word(m.state()) })).collect();
    let row = |c: &Chain| {
        let members: Vec<Value> = members(c);
        json!({ "id": c.id, "chain_ver": c.chain_ver, "serving": c.serving().count(), "members": members })
    };
    if !as_json {
        crate::cmd::status::show_chains(status, &status.routing.chains.iter().collect::<Vec<_>>());
    }
    json!({ "replicas": status.replicas, "chains": status.routing.chains.iter().map(row).collect::<Vec<_>>() })
}

pub(super) fn settings(status: &StatusReply, as_json: bool) -> Value {
    let value = json!({
        "replicas": status.replicas,
        "slots": status.routing.table.len(),
        "lease_ms": status.lease_ms,
        "heartbeat_ms": status.heartbeat_ms,
        "replace_after_ms": status.replace_after_ms,
        "max_moves": status.max_moves,
        "rebalancing": status.rebalancing,
        "draining_nodes": status.draining_nodes,
        "draining_targets": status.draining_targets,
    });
    if !as_json {
        let fields = value.as_object().into_iter().flatten();
        fields.for_each(|(name, value)| say!("{:<18}{value}", name.replace('_', " ")));
    }
    value
}

pub(super) fn moves(status: &StatusReply, as_json: bool) -> Value {
    if !as_json {
        match status.moves.is_empty() {
            true => say!("nothing moves"),
            false => super::show_moves(status),
        }
    }
    json!({ "moves": super::moves_json(status), "rebalancing": status.rebalancing })
}
