//! `catena dev`: a whole cluster on this machine, in one directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use catena_types::limits::BLOCK;

use super::service::stop_signal;
use super::{StoreArgs, runtime};
use crate::fault::{Doing, Result};
use crate::output::{self, bold, dim, say};
use crate::processes::{Cluster, Port, Shape};
use crate::units::{bytes_short, parse_bytes};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena dev\n  catena dev --dir /mnt/nvme/catena --nodes 5 --targets 8 --capacity 20GiB\n\nCtrl-C stops everything; the same command starts it again with its data."
)]
pub(crate) struct Args {
    /// Directory of everything: data, logs, and the plan that a restart follows
    #[arg(long, default_value = "./catena-dev")]
    dir: PathBuf,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Port of the manager; the shards of the nodes take the next ones (default: 7400 or free ones, kept for restarts)
    #[arg(long)]
    port: Option<u16>,
    /// Start processes again that end by themselves
    #[arg(long)]
    restart: bool,
    /// What the children log: error, warn, info, debug, or per module
    #[arg(long, env = "CATENA_LOG", default_value = "info")]
    log: String,
}

/// Size of a cluster on this machine.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ShapeArgs {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Targets per node
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    targets: u32,
    /// Replicas of every chunk
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// Shards (threads) per node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: u32,
    /// Size of each target
    #[arg(long, default_value = "2GiB", value_parser = parse_bytes, value_name = "BYTES")]
    capacity: u64,
    #[command(flatten)]
    store: StoreArgs,
}

impl ShapeArgs {
    /// The shape, if it makes sense.
    pub(crate) fn shape(&self) -> Result<Shape> {
        use crate::fault::Fault;
        let ShapeArgs { nodes, targets, replicas, shards, capacity, store } = *self;
        if replicas > nodes {
            return Err(Fault::usage(format!("{replicas} replicas need {replicas} nodes: raise --nodes or lower --replicas")));
        }
        if capacity < 16 * u64::from(BLOCK) {
            return Err(Fault::usage("--capacity is smaller than any target can be: give some MiB"));
        }
        Ok(Shape { nodes, targets, replicas, shards: shards.min(targets), capacity, store, etcd: None })
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let shape = args.shape.shape()?;
    runtime()?.block_on(async {
        let stop = stop_signal();
        tokio::pin!(stop);
        output::note(format_args!("starting {} nodes and a manager in {} ...", shape.nodes, args.dir.display()));
        let port = args.port.map_or(Port::WellKnown, Port::Fixed);
        let mut cluster = tokio::select! {
            cluster = Cluster::start(&args.dir, shape, port, &args.log) => cluster?,
            signal = &mut stop => return signal.map(|_| ()),
        };
        introduce(&cluster);
        loop {
            tokio::select! {
                signal = &mut stop => {
                    signal?;
                    break;
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => look_after(&mut cluster, args.restart)?,
            }
        }
        output::note("stopping ...");
        cluster.stop().await?;
        output::note("stopped; the data is kept");
        Ok(())
    })
}

fn introduce(cluster: &Cluster) {
    let shape = cluster.shape();
    say!("{}", bold("the cluster is ready"));
    let metrics = |node| format!("http://{}/metrics", cluster.http_addr(node));
    say!("  manager  {}  pid {}  {}", cluster.manager_addr(), cluster.manager().pid(), metrics(None));
    for id in cluster.node_ids() {
        let (targets, size, pid) = (shape.targets, bytes_short(shape.capacity), cluster.node(id).pid());
        say!("  node {id}   {targets} targets of {size}  pid {pid}  {}", metrics(Some(id)));
    }
    say!("  logs     {}", cluster.logs());
    say!();
    say!("try, in another terminal:");
    say!("  export CATENA_MANAGER={}", cluster.manager_addr());
    for example in [
        "catena status",
        "catena put /etc/services && catena ls --long",
        "catena chunk write greeting --data hello --explain",
        "catena chunk stat greeting --all",
    ] {
        say!("  {example}");
    }
    say!("  kill -9 {}      {}", cluster.node(1).pid(), dim("# then look at the status again"));
    say!();
    say!("Ctrl-C stops it; the same command starts it again with its data");
}

/// Says which children ended by themselves, and how to get them back.
fn look_after(cluster: &mut Cluster, restart: bool) -> Result<()> {
    for (name, how) in cluster.ended() {
        let id = name.strip_prefix("node-").and_then(|id| id.parse().ok());
        if !restart {
            output::note(format_args!("{name} ended ({how}); restart `catena dev`, or use --restart, to get it back"));
            continue;
        }
        output::note(format_args!("{name} ended ({how}); starting it again"));
        match id {
            Some(id) => cluster.restart_node(id)?,
            None => cluster.restart_manager()?,
        }
    }
    Ok(())
}

/// A directory for a cluster that is thrown away: below `parent`, or where temporary files go.
pub(crate) fn temporary_dir(parent: Option<&Path>, purpose: &str) -> Result<PathBuf> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    let dir = parent.join(format!("catena-{purpose}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).doing(format_args!("make the directory {}", dir.display()))?;
    Ok(dir)
}
