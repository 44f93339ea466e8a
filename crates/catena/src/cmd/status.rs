//! `catena status`: the health of a cluster in one screen.

use std::collections::BTreeSet;
use std::process::ExitCode;

use catena_client::Client;
use catena_types::store::SpaceLevel;
use catena_types::{Chain, LocalState, NodeInfo, PublicState, Routing};
use catena_wire::manager::{StatusReply, TargetReport, TargetStatus};
use comfy_table::Cell;
use serde_json::{Value, json};

use super::{Manager, runtime};
use crate::fault::{Result, USAGE};
use crate::health::{Grade, Health, state_word};
use crate::output::{self, Tone, bad, bold, cell, good, odd, say};
use crate::units::bytes_short;

/// A write of the manager's store that takes longer is worth a word.
const STORE_PATIENCE_MS: u64 = 500;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena status\n  catena status --json | jq .grade\n\nExit codes: 0 healthy, 1 degraded, 2 not available"
)]
pub(crate) struct Args {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// Show every chain, not only those that need a look
    #[arg(long)]
    chains: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    runtime()?.block_on(look(args))
}

/// One look, and the exit code that tells what was seen.
pub(super) async fn look(args: Args) -> Result<ExitCode> {
    let ask = async {
        let client: Client = args.manager.client().await?;
        Ok(client.status().await?)
    };
    // Who cannot reach the manager cannot use the cluster: the same exit code as a cluster that serves nothing.
    let status: StatusReply = ask.await.map_err(|mut fault: crate::fault::Fault| {
        fault.code = USAGE;
        fault
    })?;
    let health = Health::of_status(&status);
    match args.json {
        true => output::json(&to_json(&status, &health))?,
        false => show(&status, &health, args.chains),
    }
    Ok(ExitCode::from(match health.grade {
        Grade::Healthy => 0,
        Grade::Degraded => 1,
        Grade::Unavailable => 2,
    }))
}

/// Everything for people.
pub(super) fn show(status: &StatusReply, health: &Health, all_chains: bool) {
    let routing = &status.routing;
    let (cluster, version, primary) = (routing.cluster, routing.version, &status.primary);
    say!("{}  cluster {cluster:016x}, routing {version}, manager {primary}", headline(routing, health));
    if status.storing_ms > STORE_PATIENCE_MS {
        let seconds = status.storing_ms as f64 / 1e3;
        say!(
            "{}",
            bad(format_args!("the manager's store has not answered for {seconds:.1} s: membership is frozen; look at its log"))
        );
    }
    say!();
    show_nodes(status);
    let wanted = |chain: &Chain| chain.members.len().max(status.replicas as usize);
    let odd_chain = |chain: &&Chain| all_chains || chain.serving().count() < wanted(chain);
    let chains: Vec<&Chain> = routing.chains.iter().filter(odd_chain).collect();
    if !chains.is_empty() {
        say!();
        show_chains(status, &chains);
    }
    if !status.moves.is_empty() {
        say!();
        super::admin::show_moves(status);
    }
    super::awaited::show(routing);
    let full = reports(status).filter(|r| r.space.level() > SpaceLevel::Enough);
    for report in full {
        say!("target {} is {}", report.target, super::target::level_words(report.space.level()));
    }
    for report in reports(status) {
        if let Some(store) = report.store.as_ref().filter(|s| s.damaged + s.read_errors > 0) {
            let (target, damaged, errors) = (report.target, store.damaged, store.read_errors);
            say!("{}", odd(format_args!("target {target}: {damaged} chunks found damaged, {errors} reads refused by its disk")));
        }
    }
    for report in reports(status) {
        for other in &report.unreachable {
            let place = |t| format!("t{t}@n{}", routing.target(t).map_or(0, |t| t.node));
            let (from, to) = (place(report.target), place(*other));
            say!("{}", odd(format_args!("{from} cannot reach {to}: one of them is moved out; look at the network between them")));
        }
    }
    let failed: Vec<&TargetReport> = reports(status).filter(|r| !r.failed.is_empty()).collect();
    if !failed.is_empty() {
        say!();
    }
    for report in failed {
        say!(
            "{}",
            bad(format_args!("target {} has failed: {}; replace the disk or restart its node", report.target, report.failed))
        );
    }
}

/// The judgement in one line.
pub(crate) fn headline(routing: &Routing, health: &Health) -> String {
    let nodes = format!("{} of {} nodes", health.nodes_alive, health.nodes);
    let chains = routing.chains.len();
    match health.grade {
        Grade::Healthy => format!("{}  {nodes}, all {chains} chains full", good(bold("healthy"))),
        Grade::Degraded => {
            let syncing = if health.syncing > 0 { format!(", {} syncing", health.syncing) } else { String::new() };
            format!("{}  {nodes}, {} of {chains} chains degraded{syncing}", odd(bold("degraded")), health.chains_degraded)
        }
        Grade::Unavailable if routing.table.is_empty() => {
            format!("{}  {nodes}, no chain table: run `catena admin init`", bad(bold("not initialized")))
        }
        Grade::Unavailable => {
            let lost = health.chains_unavailable;
            format!("{}  {nodes}, {lost} of {chains} chains serve nothing: bring their nodes back", bad(bold("unavailable")))
        }
    }
}

fn reports(status: &StatusReply) -> impl Iterator<Item = &TargetReport> {
    status.targets.iter().map(|t| &t.report)
}

fn show_nodes(status: &StatusReply) {
    let mut table =
        output::table(&["NODE", "STATE", "HEARD", "TARGETS", "STORE", "USED", "TOTAL", "CHUNKS", "ADDRESS"], &[0, 2, 3, 5, 6, 7]);
    for node in &status.routing.nodes {
        let of_node = targets_of(status, node);
        let sum = |f: fn(&TargetReport) -> u64| of_node.iter().map(|t| f(&t.report)).sum::<u64>();
        let heard = of_node.iter().map(|t| t.heard_ms).min();
        table.add_row(vec![
            Cell::new(node.id),
            if node.alive { cell("alive", Tone::Good) } else { cell("silent", Tone::Bad) },
            Cell::new(heard.map_or("-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3))),
            Cell::new(of_node.len()),
            Cell::new(stores(&of_node)),
            Cell::new(bytes_short(sum(|r| r.space.used))),
            Cell::new(bytes_short(sum(|r| r.space.total))),
            Cell::new(sum(|r| r.space.chunks)),
            Cell::new(node.shard_addrs.join(" ")),
        ]);
    }
    output::print_table(&table, "");
}

/// `copy-on-write, flush`, or several of these if the targets differ.
fn stores(targets: &[&TargetStatus]) -> String {
    let words = targets.iter().filter_map(|t| t.report.store.as_ref()).map(|s| super::target::words(s).join(", "));
    words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
}

fn targets_of<'a>(status: &'a StatusReply, node: &NodeInfo) -> Vec<&'a TargetStatus> {
    let node_of = |target: u32| status.routing.target(target).map(|t| t.node);
    status.targets.iter().filter(|t| node_of(t.report.target) == Some(node.id)).collect()
}

pub(crate) fn show_chains(status: &StatusReply, chains: &[&Chain]) {
    let mut table = output::table(&["CHAIN", "VERSION", "MEMBERS, HEAD FIRST", "RESYNC"], &[0, 1]);
    for chain in chains {
        let tone = match chain.serving().count() {
            0 => Tone::Bad,
            n if n < chain.members.len() => Tone::Odd,
            _ => Tone::Good,
        };
        table.add_row(vec![
            Cell::new(chain.id),
            Cell::new(chain.chain_ver),
            cell(members(&status.routing, chain), tone),
            Cell::new(resync(status, chain)),
        ]);
    }
    output::print_table(&table, "");
}

/// `t3@n1 SERVING  t7@n2 OFFLINE`
fn members(routing: &Routing, chain: &Chain) -> String {
    let node = |target: u32| routing.target(target).map_or(0, |t| t.node);
    let words = chain.members.iter().map(|m| format!("t{}@n{} {}", m.target, node(m.target), state_word(m.state())));
    words.collect::<Vec<_>>().join("  ")
}

/// What the source of a resync says about it.
fn resync(status: &StatusReply, chain: &Chain) -> String {
    let Some(sink) = chain.syncing() else { return String::new() };
    let Some(source) = reports(status).find(|r| Some(r.target) == chain.tail()) else { return String::new() };
    if !source.sync_failed.is_empty() {
        return format!("given up: {}", source.sync_failed);
    }
    let progress = source.sync.map_or_else(String::new, |sync| super::target::sync_words(&sync));
    format!("t{} -> t{sink}: {progress}", source.target)
}

fn to_json(status: &StatusReply, health: &Health) -> Value {
    let routing = &status.routing;
    let nodes = routing.nodes.iter().map(
        |n| json!({ "id": n.id, "alive": n.alive, "rack": n.rack, "incarnation": n.incarnation, "addresses": n.shard_addrs }),
    );
    let targets = status.targets.iter().map(|t| target_json(routing, t));
    let chains = routing.chains.iter().map(|c| {
        let members = c.members.iter().map(|m| json!({ "target": m.target, "state": state_word(m.state()) }));
        json!({ "id": c.id, "chain_ver": c.chain_ver, "members": members.collect::<Vec<_>>() })
    });
    json!({
        "grade": health.grade,
        "health": health,
        "cluster": format!("{:016x}", routing.cluster),
        "routing": routing.version,
        "lease_ms": status.lease_ms,
        "manager": status.primary,
        "storing_ms": status.storing_ms,
        "nodes": nodes.collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
        "chains": chains.collect::<Vec<_>>(),
        "moves": super::admin::moves_json(status),
        "awaited": super::awaited::to_json(routing),
    })
}

fn target_json(routing: &Routing, target: &TargetStatus) -> Value {
    let report = &target.report;
    let info = routing.target(report.target);
    let local = match report.state() {
        LocalState::Online => "online",
        LocalState::UpToDate => "up-to-date",
        LocalState::Stopped => "stopped",
        LocalState::Failed => "failed",
    };
    let public =
        info.and_then(|i| routing.chain(i.chain)).and_then(|c| c.state_of(report.target)).map(|s: PublicState| state_word(s));
    json!({
        "id": report.target,
        "node": info.map(|i| i.node),
        "shard": info.map(|i| i.shard),
        "chain": info.map(|i| i.chain),
        "local": local,
        "public": public,
        "heard_ms": target.heard_ms,
        "used": report.space.used,
        "reserved": report.space.reserved,
        "total": report.space.total,
        "chunks": report.space.chunks,
        "sync": report.sync.as_ref().map(super::target::sync_json),
        "sync_failed": report.sync_failed,
        "failed": report.failed,
        "unreachable": report.unreachable,
        "store": report.store.as_ref().map(|s| super::target::words(s)[0]),
        "durability": report.store.as_ref().map(|s| super::target::words(s)[1]),
        "damaged": report.store.as_ref().map(|s| s.damaged),
        "scrub_passes": report.store.as_ref().map(|s| s.scrub_passes),
        "scrub_bad": report.store.as_ref().map(|s| s.scrub_bad),
    })
}
