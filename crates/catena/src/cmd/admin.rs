//! `catena admin`: what an operator does once, or seldom.

use clap::Subcommand;

use super::{Manager, runtime};
use crate::fault::Result;
use crate::output::{self, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the chain table from the targets of the nodes that have registered; done once per cluster
    #[command(after_help = "Example:\n  catena admin init --replicas 3 --nodes 3 --manager 10.0.0.1:7400")]
    Init(InitArgs),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Replicas of every chunk, each on another node
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// Wait until so many nodes are registered (default: as many as there are replicas)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let Command::Init(args) = args.command;
    runtime()?.block_on(init(args))
}

async fn init(args: InitArgs) -> Result<()> {
    let client = args.manager.client().await?;
    let chains = client.init(args.replicas, args.nodes.unwrap_or(args.replicas)).await?;
    if args.json {
        return output::json(&serde_json::json!({ "chains": chains, "replicas": args.replicas }));
    }
    say!("chain table made: {chains} chains of {} replicas", args.replicas);
    Ok(())
}
