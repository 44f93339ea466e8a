//! `catena admin`: what an operator looks at, and what an operator does once, or seldom.

mod change;
mod explain;
mod moves;
mod scrub;
mod show;
mod watch;

use std::process::ExitCode;

use clap::Subcommand;

use super::{Manager, runtime};
use crate::fault::Result;
use crate::output::{self, say};

pub(super) use moves::{moves_json, show_moves};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the chain table from the targets of the nodes that have registered; done once per cluster
    #[command(after_help = "Example:\n  catena admin init --replicas 3 --nodes 4 --spare 1 --manager 10.0.0.1:7400")]
    Init(InitArgs),
    /// Where a key lives and why: hash, slot of the chain table, chain, members
    #[command(after_help = "Example:\n  catena admin explain checkpoint/000001")]
    Explain(explain::Args),
    /// Health of the cluster in one screen, as `catena status` shows it; the exit code tells it too
    Status(super::status::Args),
    /// The nodes: rack, state, targets in use and free
    #[command(after_help = "Example:\n  catena admin nodes --json | jq '.nodes[] | select(.alive | not)'")]
    Nodes(show::Args),
    /// The targets: node, chain, state, space
    #[command(after_help = "Example:\n  catena admin targets")]
    Targets(show::Args),
    /// The chains and their members, head first
    #[command(after_help = "Example:\n  catena admin chains")]
    Chains(show::Args),
    /// The cluster's settings; they are options of `catena manager`
    #[command(after_help = "Example:\n  catena admin settings")]
    Settings(show::Args),
    /// The replicas that move, with progress, and those that are to move and cannot
    #[command(after_help = "Example:\n  catena admin moves")]
    Moves(show::Args),
    /// Change one chain
    #[command(subcommand)]
    Chain(change::Chain),
    /// Empty a node or a target: its replicas move elsewhere, then it may be taken away
    #[command(after_help = "Examples:\n  catena admin drain --node 3\n  catena admin drain --node 3 --cancel")]
    Drain(change::DrainArgs),
    /// Spread replicas evenly over nodes and racks, for example after adding a node
    #[command(after_help = "Examples:\n  catena admin rebalance --dry-run\n  catena admin rebalance")]
    Rebalance(change::RebalanceArgs),
    /// Verify all data: start passes, and see how far they are
    Scrub(scrub::Args),
    /// The cluster as it is now, drawn anew every second
    Watch(watch::Args),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Replicas of every chunk, each on another node
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// Wait until so many nodes are registered (default: as many as there are replicas)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// Targets of each node to leave in no chain: they take the place of lost ones
    #[arg(long, default_value_t = 0)]
    spare: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    runtime()?.block_on(async {
        match args.command {
            Command::Init(args) => init(args).await?,
            Command::Explain(args) => explain::run(args).await?,
            Command::Status(args) => return super::status::look(args).await,
            Command::Nodes(args) => show::run(args, show::nodes).await?,
            Command::Targets(args) => show::run(args, show::targets).await?,
            Command::Chains(args) => show::run(args, show::chains).await?,
            Command::Settings(args) => show::run(args, show::settings).await?,
            Command::Moves(args) => show::run(args, show::moves).await?,
            Command::Chain(command) => change::chain(command).await?,
            Command::Drain(args) => change::drain(args).await?,
            Command::Rebalance(args) => change::rebalance(args).await?,
            Command::Scrub(args) => return scrub::run(args).await,
            Command::Watch(args) => watch::run(args).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn init(args: InitArgs) -> Result<()> {
    let client = args.manager.client().await?;
    let chains = client.init(args.replicas, args.nodes.unwrap_or(args.replicas), args.spare).await?;
    if args.json {
        return output::json(&serde_json::json!({ "chains": chains, "replicas": args.replicas }));
    }
    say!("chain table made: {chains} chains of {} replicas", args.replicas);
    Ok(())
}
