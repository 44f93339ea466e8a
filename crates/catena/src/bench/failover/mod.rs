//! `catena bench failover`: how long a client cannot write when a node dies, and what its reads see meanwhile.
//!
//! A cluster of processes of its own. On every chain a lane writes one chunk over and over, and another one reads it. One
//! node after the other is killed, waited for until its chains have gone on, started again and waited for until
//! everything is full. The outage of a kill is the longest time, over all chains, between two acknowledged writes.

mod probe;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use catena_client::{Client, ClientConfig};
use catena_types::Routing;

use crate::cmd::ShapeArgs;
use crate::fault::Result;
use crate::output::note;
use crate::processes::{Cluster, Port};
use crate::units::parse_duration;
use probe::Probes;
use report::{Kill, Report};

/// Longest time until the chains of a killed node have gone on, and until everything is full again.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena bench failover\n  catena bench failover --kills 50 --json\n  catena bench failover --stop\n  catena bench failover --etcd 127.0.0.1:2379"
)]
pub(crate) struct Args {
    /// Nodes to kill, one after the other
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Stop nodes in order (SIGTERM) instead of killing them (SIGKILL)
    #[arg(long)]
    stop: bool,
    /// Keep the cluster's state in this etcd, HOST:PORT, under a prefix of its own, with the leases that go with it
    #[arg(long, value_name = "HOST:PORT")]
    etcd: Option<String>,
    /// Pause between two operations of a lane
    #[arg(long, default_value = "10ms", value_parser = parse_duration, value_name = "DURATION")]
    pause: Duration,
    /// Time that is measured after the chains have gone on without the node
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    settle: Duration,
    /// Where the cluster is started (default: where temporary files go)
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let report = super::in_a_directory(args.dir.as_deref(), "failover", async |dir| measure(args, dir).await)?;
    if args.json { crate::output::json(&report) } else { report.show() }
}

async fn measure(args: &Args, dir: &Path) -> Result<Report> {
    let mut shape = args.shape.shape()?;
    shape.etcd = args.etcd.clone();
    note(format_args!("starting {} nodes and a manager in {} ...", shape.nodes, dir.display()));
    let mut cluster = Cluster::start(&dir.join("cluster"), shape, Port::Any, "warn").await?;
    let mut config = ClientConfig::new(cluster.manager_addr());
    config.deadline = PATIENCE;
    let client = Client::connect(config).await?;
    let lease_ms = client.status().await?.lease_ms;
    let mut probes = Probes::start(&client, args.pause).await?;
    let mut kills = Vec::new();
    for n in 0..args.kills {
        let kill = one(args, &mut cluster, &client, &mut probes, n.into()).await?;
        note(format_args!("{:>3} of {}: {kill}", n + 1, args.kills));
        kills.push(kill);
    }
    drop(probes);
    let report = Report::new(args.stop, args.etcd.is_some(), lease_ms, kills);
    cluster.stop().await?;
    Ok(report)
}

/// One node goes, and comes back.
async fn one(args: &Args, cluster: &mut Cluster, client: &Client, probes: &mut Probes, kill: u64) -> Result<Kill> {
    let node = (kill % u64::from(cluster.shape().nodes)) as u32 + 1;
    // Kills at different moments between two heartbeats.
    tokio::time::sleep(Duration::from_millis(300 + kill * 67 % 300)).await;
    probes.forget();
    if args.stop {
        cluster.stop_node(node).await?;
    } else {
        cluster.kill_node(node).await?;
    }
    let gone = |routing: &Routing| {
        let on_node = |t: u32| routing.target(t).is_some_and(|t| t.node == node);
        routing.chains.iter().all(|c| !c.serving().any(on_node))
    };
    cluster.wait_for(client, PATIENCE, "a failover", gone).await?;
    tokio::time::sleep(args.settle).await;
    let seen = probes.collect();
    cluster.restart_node(node)?;
    cluster.wait_healthy(client, PATIENCE).await?;
    Ok(Kill::new(node, &seen))
}
