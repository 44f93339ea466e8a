//! How a command reaches its cluster.

use std::time::{Duration, Instant};

use catena_client::{Client, ClientConfig, Objects};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use super::one_sided::OneSidedArgs;
use super::security::SecurityArgs;
use crate::fault::{Doing, Fault, Result};
use crate::units::parse_duration;

/// Longest time until somebody must listen at a manager's address.
const REACH: Duration = Duration::from_secs(2);

/// The runtime of a command: one thread, as the work is to wait.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().doing("start the runtime")
}

/// Which cluster, and how long to wait for it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Manager {
    /// Manager to ask, HOST:PORT; several with commas between
    #[arg(long, env = "CATENA_MANAGER", default_value = "127.0.0.1:7400", value_name = "HOST:PORT")]
    pub(crate) manager: String,
    /// Longest time one operation may take, retries included
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
    #[command(flatten)]
    pub(crate) one_sided: OneSidedArgs,
}

impl Manager {
    /// A client of the cluster.
    pub(crate) async fn client(&self) -> Result<Client> {
        self.reach().await?;
        let mut config = ClientConfig::new(self.manager.as_str());
        config.deadline = self.timeout;
        config.security = self.security.load()?;
        config.one_sided = self.one_sided.open(None)?;
        Ok(Client::connect(config).await?)
    }

    /// Whether anybody listens: a person who mistyped an address should not wait as long as for a slow cluster.
    async fn reach(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let mut cause = "no address is given".to_owned();
            for address in self.manager.split(',').map(str::trim).filter(|a| !a.is_empty()) {
                match tokio::time::timeout(REACH, TcpStream::connect(address)).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(e)) => cause = e.to_string(),
                    Err(_) => cause = format!("no answer within {REACH:?}"),
                }
            }
            if start.elapsed() > REACH.min(self.timeout) {
                let manager = &self.manager;
                let next = "start one with `catena dev`, or name it with --manager or CATENA_MANAGER";
                return Err(Fault::new(format!("cannot reach the manager at {manager}: {cause}; {next}")));
            }
            tokio::time::sleep(REACH / 20).await;
        }
    }

    /// The objects of the cluster.
    pub(crate) async fn objects(&self) -> Result<Objects> {
        Ok(Objects::new(self.client().await?))
    }
}
