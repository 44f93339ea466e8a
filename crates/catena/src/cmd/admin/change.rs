//! `catena admin chain`, `drain`, `rebalance`: asks the manager to move replicas. It answers at once; the moves go on by
//! themselves.

use catena_wire::manager::{Drain, MAX_SHIFTS, Rebalance, ReplicaMove, Task};
use clap::Subcommand;
use serde_json::json;

use crate::cmd::Manager;
use crate::fault::Result;
use crate::output::{self, say};

#[derive(Debug, Subcommand)]
pub(super) enum Chain {
    /// Move one replica of a chain to another target: added, brought up to date, then the old one leaves
    #[command(after_help = "Examples:\n  catena admin chain move 7 --from 31\n  catena admin chain move 7 --from 31 --to 44")]
    Move(MoveArgs),
    /// Make the head of a chain its tail; until it has caught up, the chain has a replica less
    #[command(after_help = "Example:\n  catena admin chain rotate 7")]
    Rotate(ChainArgs),
    /// Give the move of a chain up, unless the new replica is complete already
    #[command(after_help = "Example:\n  catena admin chain cancel 7")]
    Cancel(ChainArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ChainArgs {
    /// The chain
    chain: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

#[derive(Debug, clap::Args)]
pub(super) struct MoveArgs {
    #[command(flatten)]
    chain: ChainArgs,
    /// The target that leaves the chain
    #[arg(long, value_name = "TARGET")]
    from: u32,
    /// The target that takes its place (default: whichever suits best)
    #[arg(long, value_name = "TARGET", default_value_t = 0, hide_default_value = true)]
    to: u32,
}

#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// The node to empty
    #[arg(long, required_unless_present = "target", conflicts_with = "target", default_value_t = 0, hide_default_value = true)]
    node: u32,
    /// The target to empty
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    target: u32,
    /// Use it again
    #[arg(long)]
    cancel: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

#[derive(Debug, clap::Args)]
pub(super) struct RebalanceArgs {
    /// Only say what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Begin nothing more
    #[arg(long, conflicts_with = "dry_run")]
    cancel: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(super) async fn chain(command: Chain) -> Result<()> {
    let (args, task) = match command {
        Chain::Move(MoveArgs { chain, from, to }) => {
            let task = Task::Move(ReplicaMove { chain: chain.chain, leaving: from, joining: to, ..ReplicaMove::default() });
            (chain, task)
        }
        Chain::Rotate(args) => {
            let task = Task::Rotate(args.chain);
            (args, task)
        }
        Chain::Cancel(args) => {
            let task = Task::CancelMove(args.chain);
            (args, task)
        }
    };
    ask(&args.manager, task, args.json, "done").await
}

pub(super) async fn drain(args: DrainArgs) -> Result<()> {
    let DrainArgs { node, target, cancel, .. } = args;
    let done = if cancel { "it takes replicas again" } else { "it is being emptied; watch it with `catena admin moves`" };
    ask(&args.manager, Task::Drain(Drain { node, target, cancel }), args.json, done).await
}

pub(super) async fn rebalance(args: RebalanceArgs) -> Result<()> {
    let RebalanceArgs { dry_run, cancel, .. } = args;
    let done = match (dry_run, cancel) {
        (true, _) => "nothing was changed",
        (_, true) => "nothing more is begun; what moves already goes on",
        _ => "it goes on by itself; watch it with `catena admin moves`",
    };
    ask(&args.manager, Task::Rebalance(Rebalance { dry_run, cancel }), args.json, done).await
}

async fn ask(manager: &Manager, task: Task, as_json: bool, done: &str) -> Result<()> {
    let moves = manager.client().await?.admin(task).await?;
    if as_json {
        return output::json(&json!({ "moves": moves.iter().map(super::moves::move_json).collect::<Vec<_>>() }));
    }
    for m in &moves {
        say!("{}", super::moves::move_words(m));
    }
    if matches!(task, Task::Rebalance(_)) && moves.len() >= MAX_SHIFTS {
        say!("and perhaps more: only the first {MAX_SHIFTS} are named");
    }
    say!("{done}");
    Ok(())
}
