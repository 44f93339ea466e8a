//! `catena admin explain`: where a key lives, and why there.

use catena_types::routing::key_hash;
use catena_types::{ChunkKey, Routing};
use comfy_table::Cell;
use serde_json::json;

use crate::cmd::Manager;
use crate::cmd::chunk::parse_key;
use crate::fault::{Fault, Result};
use crate::health::state_word;
use crate::output::{self, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The chunk's key
    #[arg(value_parser = parse_key)]
    key: ChunkKey,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

/// One member of the key's chain.
struct Place<'a> {
    target: u32,
    state: &'static str,
    node: u32,
    rack: &'a str,
    addr: &'a str,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let client = args.manager.client().await?;
    let routing = client.routing();
    let hash = key_hash(args.key.as_bytes());
    let slots = routing.table.len() as u64;
    let chain = routing.chain_of(args.key.as_bytes()).and_then(|id| routing.chain(id));
    let chain = chain.ok_or_else(|| Fault::new("there is no chain table yet: run `catena admin init`"))?;
    let slot = hash % slots.max(1);
    let places: Vec<Place<'_>> = chain.members.iter().map(|m| place(&routing, m.target, state_word(m.state()))).collect();
    if args.json {
        let members = places
            .iter()
            .map(|p| json!({ "target": p.target, "state": p.state, "node": p.node, "rack": p.rack, "address": p.addr }));
        return output::json(&json!({
            "key": args.key.to_string(), "hash": format!("{hash:016x}"), "slot": slot, "slots": slots, "chain": chain.id,
            "chain_ver": chain.chain_ver, "routing": routing.version, "members": members.collect::<Vec<_>>(),
        }));
    }
    say!("{}", args.key);
    say!("  hash {hash:016x}, modulo {slots} slots of the chain table: slot {slot}");
    say!("  slot {slot} is chain {}, version {} (routing {})", chain.id, chain.chain_ver, routing.version);
    say!("  updates go to the head, reads to any SERVING member:");
    let mut table = output::table(&["", "TARGET", "STATE", "NODE", "RACK", "ADDRESS"], &[1, 3]);
    let (head, tail) = (chain.head(), chain.tail());
    for p in &places {
        let role = match (Some(p.target) == head, Some(p.target) == tail) {
            (true, true) => "head, tail",
            (true, false) => "head",
            (false, true) => "tail",
            (false, false) => "",
        };
        let rack = if p.rack.is_empty() { "-" } else { p.rack };
        let row =
            [role.to_owned(), p.target.to_string(), p.state.to_owned(), p.node.to_string(), rack.to_owned(), p.addr.to_owned()];
        table.add_row(row.map(Cell::new));
    }
    output::print_table(&table, "  ");
    Ok(())
}

fn place<'a>(routing: &'a Routing, target: u32, state: &'static str) -> Place<'a> {
    let node = routing.target(target).and_then(|t| routing.node(t.node));
    let rack = node.map_or("", |n| n.rack.as_str());
    Place { target, state, node: node.map_or(0, |n| n.id), rack, addr: routing.addr_of(target).unwrap_or("unknown") }
}
