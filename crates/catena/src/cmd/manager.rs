//! `catena manager`: decides membership, grants leases, hands out routing; and removes what interrupted puts left behind.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use catena_client::{Client, ClientConfig, Objects, run_collector};
use catena_manager::{EtcdConfig, Manager, ManagerConfig, ManagerHandle, StoreChoice};

use catena_net::Security;

use super::runtime;
use super::service::{Service, stop_signal, tell_ready};
use crate::fault::{Doing, Fault, Result};
use crate::http::ManagerPages;
use crate::output::say;
use crate::units::parse_duration;

/// Time between two looks at whether the manager still runs.
const LOOK: Duration = Duration::from_millis(200);
/// Pause before the collector asks again for a cluster that does not answer.
const COLLECTOR_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena manager --dir /var/lib/catena/manager --listen 10.0.0.1:7400\n  catena manager --etcd 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 --listen 10.0.0.1:7400\n\nRuns until SIGINT or SIGTERM."
)]
pub(crate) struct Args {
    #[command(flatten)]
    store: StoreOptions,
    /// What the keys in etcd begin with: one prefix per cluster
    #[arg(long, default_value = "/catena/", requires = "etcd", value_name = "PREFIX")]
    etcd_prefix: String,
    /// Time without a sign of life in etcd after which another manager is elected, in whole seconds
    #[arg(long, default_value = "3s", value_parser = parse_duration, requires = "etcd", value_name = "DURATION")]
    term: Duration,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Address at which others reach this manager (default: the one listened on)
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Length of a lease: how long a node serves without hearing from a manager (default: 1500ms, with etcd 5s)
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    lease: Option<Duration>,
    /// Time between the heartbeats of a node
    #[arg(long, default_value = "300ms", value_parser = parse_duration, value_name = "DURATION")]
    heartbeat: Duration,
    /// Time after which a target that is out is replaced by a free one
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    replace_after: Duration,
    /// Most replicas that move at a time, in the whole cluster; 0: none
    #[arg(long, default_value_t = 4)]
    max_moves: u32,
    /// Time between two passes over what interrupted puts and removals left behind
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    collect_every: Duration,
    /// What such a pass leaves alone: whatever changed within this time
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    collect_grace: Duration,
    #[command(flatten)]
    service: Service,
}

/// Where the state of the cluster is kept.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct StoreOptions {
    /// Directory of the cluster's state, for a cluster with one manager
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Members of an etcd cluster that keeps the state, for a cluster with several managers of which one is elected
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    etcd: Vec<String>,
}

impl Args {
    fn config(&self) -> Result<ManagerConfig> {
        let store = match &self.store.dir {
            Some(dir) => StoreChoice::Directory(dir.clone()),
            None => StoreChoice::Etcd(EtcdConfig {
                addrs: self.store.etcd.iter().map(|a| a.trim().to_owned()).collect(),
                prefix: self.etcd_prefix.clone(),
                ttl: u32::try_from(self.term.as_secs())
                    .ok()
                    .filter(|&s| s > 0)
                    .ok_or_else(|| Fault::usage("--term: a second at least"))?,
            }),
        };
        let mut config = ManagerConfig::new(store, self.listen);
        config.advertise = self.advertise.clone();
        config.lease_ms = self.lease.map_or(Ok(config.lease_ms), milliseconds)?;
        config.heartbeat_ms = milliseconds(self.heartbeat)?;
        config.security = self.service.security()?;
        config.replace_after_ms = u64::try_from(self.replace_after.as_millis()).unwrap_or(u64::MAX);
        config.max_moves = self.max_moves;
        Ok(config)
    }

    fn place(&self) -> String {
        match &self.store.dir {
            Some(dir) => dir.display().to_string(),
            None => format!("etcd at {}", self.store.etcd.join(",")),
        }
    }
}

fn milliseconds(time: Duration) -> Result<u32> {
    u32::try_from(time.as_millis()).map_err(|_| Fault::usage(format!("{time:?} is too long")))
}

pub(crate) fn run(args: Args) -> Result<()> {
    args.service.begin()?;
    let config = args.config()?;
    let security = config.security.clone();
    let manager = Manager::start(config).doing("start the manager")?;
    let addr = manager.addr();
    args.service.show(ManagerPages(manager.observer()))?;
    say!("manager ready at {addr}, state in {}", args.place());
    tell_ready();
    let ended = runtime()?.block_on(async {
        tokio::select! {
            signal = stop_signal() => signal.map(|signal| tracing::info!(signal, "stopping")),
            () = ended(&manager) => Ok(()),
            never = collect(&manager, &security, args.collect_grace, args.collect_every) => match never {},
        }
    });
    manager.shutdown().map_err(|e| Fault::new(format!("the manager has stopped: {e}")))?;
    ended
}

/// Waits until the manager has stopped by itself.
async fn ended(manager: &ManagerHandle) {
    while manager.is_running() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Collects for ever, but only while this manager is the elected one: one collector is enough.
async fn collect(manager: &ManagerHandle, security: &Security, grace: Duration, every: Duration) -> Infallible {
    loop {
        while !manager.is_elected() {
            tokio::time::sleep(LOOK).await;
        }
        let config = ClientConfig { security: security.clone(), ..ClientConfig::new(manager.addr().to_string()) };
        tokio::select! {
            never = collect_as_client(config, grace, every) => match never {},
            () = deposed(manager) => {}
        }
    }
}

async fn deposed(manager: &ManagerHandle) {
    while manager.is_elected() {
        tokio::time::sleep(LOOK).await;
    }
}

async fn collect_as_client(config: ClientConfig, grace: Duration, every: Duration) -> Infallible {
    let client = loop {
        match Client::connect(config.clone()).await {
            Ok(client) => break client,
            Err(error) => tracing::debug!(%error, "the collector cannot reach the manager yet"),
        }
        tokio::time::sleep(COLLECTOR_PAUSE).await;
    };
    run_collector(Objects::new(client), grace, every).await;
    std::future::pending().await
}
