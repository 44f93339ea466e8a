//! The option that asks for the one-sided transport. Every build has it; one without the feature says what is missing.

use std::net::IpAddr;
use std::sync::Arc;

use catena_net::OneSided;

use crate::fault::{Fault, Result};

/// What every process has that sends or takes payloads.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OneSidedArgs {
    /// Move large payloads by one-sided reads and writes where the other side can too: provider of libfabric, as PROVIDER or
    /// PROVIDER@IP with the address of this machine to use
    #[arg(long, env = "CATENA_RMA", value_name = "PROVIDER")]
    rma: Option<String>,
}

impl OneSidedArgs {
    /// The transport that is asked for, at `own` unless the option says where.
    pub(crate) fn open(&self, own: Option<IpAddr>) -> Result<Option<Arc<dyn OneSided>>> {
        let Some(given) = &self.rma else { return Ok(None) };
        let (provider, at) = match given.split_once('@') {
            Some((provider, ip)) => (provider, Some(ip.parse().map_err(|e| Fault::usage(format!("--rma {given}: {e}")))?)),
            None => (given.as_str(), own.filter(|ip| !ip.is_unspecified())),
        };
        open(provider, at).map(Some)
    }
}

#[cfg(feature = "rma")]
fn open(provider: &str, at: Option<IpAddr>) -> Result<Arc<dyn OneSided>> {
    let transport = catena_rma::Transport::open(provider, at).map_err(|e| Fault::usage(format!("--rma {provider}: {e}")))?;
    Ok(Arc::new(transport))
}

#[cfg(not(feature = "rma"))]
fn open(provider: &str, _: Option<IpAddr>) -> Result<Arc<dyn OneSided>> {
    let text = "this build has no one-sided transport: build with `--features rma`, or leave the option out";
    Err(Fault::usage(format!("--rma {provider}: {text}")))
}
