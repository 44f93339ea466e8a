//! How a command reaches its cluster.

use std::time::Duration;

use catena_client::{Client, ClientConfig, Objects};
use tokio::runtime::{Builder, Runtime};

use crate::fault::{Doing, Result};
use crate::units::parse_duration;

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
}

impl Manager {
    /// A client of the cluster.
    pub(crate) async fn client(&self) -> Result<Client> {
        let mut config = ClientConfig::new(self.manager.as_str());
        config.deadline = self.timeout;
        Ok(Client::connect(config).await?)
    }

    /// The objects of the cluster.
    pub(crate) async fn objects(&self) -> Result<Objects> {
        Ok(Objects::new(self.client().await?))
    }
}
