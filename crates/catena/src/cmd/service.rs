//! What the manager and the node have in common as processes: logs, signals, and an end when the parent ends.

use std::io::IsTerminal;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::fault::{Doing, Fault, Result};

/// Options of every process that serves.
#[derive(Debug, clap::Args)]
pub(crate) struct Service {
    /// What is logged to stderr: error, warn, info, debug, or per module
    #[arg(long, env = "CATENA_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// Stop when the process with this id, the parent, is gone
    #[arg(long, value_name = "PID", hide = true)]
    die_with_parent: Option<u32>,
}

impl Service {
    /// Starts logging, and ties this process to its parent if asked to.
    pub(crate) fn begin(&self) -> Result<()> {
        let filter = EnvFilter::try_new(&self.log).map_err(|e| Fault::usage(format!("--log {}: {e}", self.log)))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
        let Some(parent) = self.die_with_parent else { return Ok(()) };
        set_parent_process_death_signal(Some(Signal::TERM)).doing("follow the parent process")?;
        // It may have ended before the line above: nobody would tell us.
        if getppid().map(|pid| Pid::as_raw(Some(pid))) != i32::try_from(parent).ok() {
            return Err(Fault::new(format!("the parent process {parent} is gone")));
        }
        Ok(())
    }
}

/// Waits for SIGINT or SIGTERM; returns its name.
pub(crate) async fn stop_signal() -> Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt()).doing("wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).doing("wait for signals")?;
    tokio::select! {
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}
