//! `catena admin watch`: the cluster as it is now, drawn anew every moment.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use catena_client::Client;
use catena_types::NodeId;
use comfy_table::Cell;

use super::super::status;
use super::Manager;
use crate::fault::Result;
use crate::health::Health;
use crate::output::{self, say};
use crate::units::{bytes_short, grouped, parse_duration};

/// Counters of the engines that are shown per second.
const SHOWN: [&str; 4] = ["committed", "reads", "bytes_written", "bytes_read"];
/// To the top left, and everything below cleared.
const HOME: &str = "\x1b[H\x1b[J";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  catena admin watch\n  catena admin watch --every 5s --chains\n\nCtrl-C ends it.")]
pub(crate) struct Args {
    /// Time between two looks
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    every: Duration,
    /// End after so many looks
    #[arg(long, value_name = "N")]
    looks: Option<u64>,
    /// Show every chain, not only those that need a look
    #[arg(long)]
    chains: bool,
    #[command(flatten)]
    manager: Manager,
}

/// Sums of [`SHOWN`] over the targets of each node, and when they were read.
struct Sums {
    at: Instant,
    of_node: BTreeMap<NodeId, [u64; SHOWN.len()]>,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let client = args.manager.client().await?;
    let mut before = None;
    for look in 1.. {
        let status = client.status().await;
        let sums = sums(&client).await;
        if std::io::stdout().is_terminal() {
            print(HOME);
        }
        match &status {
            Ok(status) => status::show(status, &Health::of_status(status), args.chains),
            // It may be on its way back: what was seen last is of no use.
            Err(e) => say!("no manager answers: {e}"),
        }
        if let Some(before) = &before {
            say!();
            show_rates(before, &sums);
        }
        before = Some(sums);
        if args.looks == Some(look) {
            break;
        }
        tokio::time::sleep(args.every).await;
    }
    Ok(())
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap_or_else(|e| output::stdout_failed(&e));
}

/// A target that does not answer is missing in the sums.
async fn sums(client: &Client) -> Sums {
    let routing = client.routing();
    let mut of_node = BTreeMap::new();
    for target in &routing.targets {
        if !routing.node(target.node).is_some_and(|n| n.alive) {
            continue;
        }
        let Ok(reply) = client.target(target.id, false).await else { continue };
        let sums: &mut [u64; SHOWN.len()] = of_node.entry(target.node).or_default();
        for (sum, name) in sums.iter_mut().zip(SHOWN) {
            *sum += reply.values.iter().find(|v| v.name == name).map_or(0, |v| v.value);
        }
    }
    Sums { at: Instant::now(), of_node }
}

fn show_rates(before: &Sums, now: &Sums) {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let head = ["NODE", "UPDATES/s", "READS/s", "WRITTEN/s", "READ/s"];
    let mut table = output::table(&head, &[0, 1, 2, 3, 4]);
    for (node, sums) in &now.of_node {
        let Some(then) = before.of_node.get(node) else { continue };
        // A target that was opened anew counts from zero.
        let rate = |n: usize| (sums[n].saturating_sub(then[n]) as f64 / seconds) as u64;
        let cells = [node.to_string(), grouped(rate(0)), grouped(rate(1)), bytes_short(rate(2)), bytes_short(rate(3))];
        table.add_row(cells.map(Cell::new));
    }
    output::print_table(&table, "");
}
