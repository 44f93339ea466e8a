//! `catena manager`: decides membership, grants leases, hands out routing; and removes what interrupted puts left behind.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use catena_client::{Client, ClientConfig, Objects, run_collector};
use catena_manager::{Manager, ManagerConfig, ManagerHandle};

use super::runtime;
use super::service::{Service, stop_signal};
use crate::fault::{Doing, Fault, Result};
use crate::output::say;
use crate::units::parse_duration;

/// Time between two looks at whether the manager still runs.
const LOOK: Duration = Duration::from_millis(200);
/// Pause before the collector asks again for a cluster that does not answer.
const COLLECTOR_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  catena manager --dir /var/lib/catena/manager --listen 10.0.0.1:7400\n\nRuns until SIGINT or SIGTERM."
)]
pub(crate) struct Args {
    /// Directory of the cluster's state
    #[arg(long)]
    dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Time between two passes over what interrupted puts and removals left behind
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    collect_every: Duration,
    /// What such a pass leaves alone: whatever changed within this time
    #[arg(long, default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    collect_grace: Duration,
    #[command(flatten)]
    service: Service,
}

pub(crate) fn run(args: Args) -> Result<()> {
    args.service.begin()?;
    let manager = Manager::start(ManagerConfig::new(&args.dir, args.listen)).doing("start the manager")?;
    let addr = manager.addr();
    say!("manager ready at {addr}, state in {}", args.dir.display());
    let ended = runtime()?.block_on(async {
        tokio::select! {
            signal = stop_signal() => signal.map(|signal| tracing::info!(signal, "stopping")),
            () = ended(&manager) => Ok(()),
            never = collect(addr.to_string(), args.collect_grace, args.collect_every) => match never {},
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

/// Collects for ever, as a client of this manager.
async fn collect(addr: String, grace: Duration, every: Duration) -> Infallible {
    let client = loop {
        match Client::connect(ClientConfig::new(addr.as_str())).await {
            Ok(client) => break client,
            Err(error) => tracing::debug!(%error, "the collector cannot reach the manager yet"),
        }
        tokio::time::sleep(COLLECTOR_PAUSE).await;
    };
    run_collector(Objects::new(client), grace, every).await;
    std::future::pending().await
}
