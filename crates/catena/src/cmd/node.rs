//! `catena node`: serves the targets of one directory.

use std::net::IpAddr;
use std::path::PathBuf;

use catena_node::{DiskChoice, Node, NodeConfig};
use clap::ValueEnum;

use super::one_sided::OneSidedArgs;
use super::service::{Service, stop_signal, tell_ready};
use super::{StoreArgs, runtime};
use crate::fault::{Doing, Fault, Result};
use crate::http::NodePages;
use crate::output::say;
use crate::units::parse_bytes;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  catena node --id 1 --dir /mnt/nvme0/catena --manager 10.0.0.1:7400 --listen 10.0.0.2 --port 7410 \\\n      --shards 4 --targets 8 --capacity 200GiB\n\nRuns until SIGINT or SIGTERM."
)]
pub(crate) struct Args {
    /// Number of this node, from 1; unique in the cluster and kept for ever
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    id: u32,
    /// Directory of its targets
    #[arg(long)]
    dir: PathBuf,
    /// Manager, HOST:PORT; several with commas between
    #[arg(long, env = "CATENA_MANAGER", default_value = "127.0.0.1:7400", value_name = "HOST:PORT")]
    manager: String,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    listen: IpAddr,
    /// Address at which others reach this node (default: the one listened on)
    #[arg(long, value_name = "IP")]
    advertise: Option<IpAddr>,
    /// Port of the first shard, the others follow; 0 for any free ports
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// What it shares with others that may fail together with it: replicas of a chain are kept in different racks
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    rack: String,
    /// Threads that own targets
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    shards: u32,
    /// Targets to have: those found are opened, missing ones are made
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    targets: u32,
    /// Size of a target that is made
    #[arg(long, default_value = "10GiB", value_parser = parse_bytes, value_name = "BYTES")]
    capacity: u64,
    /// Size of the journal of a target that is made; 0: chosen from the capacity
    #[arg(long, default_value = "0", value_parser = parse_bytes, value_name = "BYTES")]
    journal: u64,
    #[command(flatten)]
    store: StoreArgs,
    /// Bytes per second that each target reads to verify everything over and over; 0: never
    #[arg(long, default_value = "1MiB", value_parser = parse_bytes, value_name = "BYTES")]
    scrub_rate: u64,
    /// Bytes per second that each target sends to bring another one up to date; 0: as fast as clients' requests allow
    #[arg(long, default_value = "0", value_parser = parse_bytes, value_name = "BYTES")]
    sync_rate: u64,
    /// Memory for buffers
    #[arg(long, default_value = "512MiB", value_parser = parse_bytes, value_name = "BYTES")]
    memory: u64,
    /// How disks are reached
    #[arg(long, value_enum, default_value_t = Disk::Auto)]
    disk: Disk,
    #[command(flatten)]
    one_sided: OneSidedArgs,
    #[command(flatten)]
    service: Service,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Disk {
    /// io_uring where the system allows it, else threads
    Auto,
    /// io_uring, or do not start
    Uring,
    /// Threads
    Threads,
}

impl Args {
    fn config(&self) -> Result<NodeConfig> {
        let managers = self.manager.split(',').map(|m| m.trim().to_owned()).filter(|m| !m.is_empty()).collect();
        let mut config = NodeConfig::new(self.id, &self.dir, managers);
        config.rack = self.rack.clone();
        config.listen = self.listen;
        config.advertise = self.advertise;
        config.base_port = self.port;
        config.shards = self.shards;
        config.targets = self.targets;
        config.capacity = self.capacity;
        config.journal = self.journal;
        (config.store, config.durability) = (self.store.store.into(), self.store.durability.into());
        config.background.scrub_rate = self.scrub_rate;
        config.sync_rate = self.sync_rate;
        config.memory =
            usize::try_from(self.memory).map_err(|_| Fault::usage("--memory is more than this machine can address"))?;
        config.disk = match self.disk {
            Disk::Auto => DiskChoice::Auto,
            Disk::Uring => DiskChoice::Uring,
            Disk::Threads => DiskChoice::Threads,
        };
        config.security = self.service.security()?;
        config.one_sided = self.one_sided.open(Some(self.advertise.unwrap_or(self.listen)))?;
        Ok(config)
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    args.service.begin()?;
    let config = args.config()?;
    let pages = NodePages::default();
    args.service.show(pages.clone())?;
    runtime()?.block_on(async {
        let mut node = Node::start(config).await.doing(format_args!("start node {}", args.id))?;
        pages.show(node.observer());
        say!("node {} ready at {}", args.id, node.shard_addrs().join(" "));
        tell_ready();
        tokio::select! {
            signal = stop_signal() => tracing::info!(signal = signal?, "stopping"),
            error = node.failed() => return Err(Fault::new(format!("node {} has stopped: {error}", args.id))),
        }
        node.shutdown().await;
        Ok(())
    })
}
