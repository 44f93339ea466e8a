//! What the manager and the node have in common as processes: logs, signals, and an end when the parent ends.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::PathBuf;

use catena_net::Security;
use clap::ValueEnum;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::security::ServiceSecurity;
use crate::fault::{Doing, Fault, Result};
use crate::http::{self, Pages};
use crate::output::say;

/// Options of every process that serves.
#[derive(Debug, clap::Args)]
pub(crate) struct Service {
    /// File of settings: TOML, each key an option without its dashes; options given here win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged to stderr: error, warn, info, debug, or per module
    #[arg(long, env = "CATENA_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How it is logged: lines for people, or JSON
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Address for HTTP: /metrics (Prometheus), /healthz, /status (default: none is listened on). Without authentication
    #[arg(long, value_name = "IP:PORT")]
    http: Option<SocketAddr>,
    #[command(flatten)]
    security: ServiceSecurity,
    /// Stop when the process with this id, the parent, is gone
    #[arg(long, value_name = "PID", hide = true)]
    die_with_parent: Option<u32>,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

impl Service {
    /// The security of every connection.
    pub(crate) fn security(&self) -> Result<Security> {
        self.security.load()
    }

    /// Serves `pages` over HTTP if asked to.
    pub(crate) fn show(&self, pages: impl Pages) -> Result<()> {
        let Some(addr) = self.http else { return Ok(()) };
        let bound = http::start(addr, pages)?;
        say!("http at http://{bound}/metrics, /healthz, /status");
        Ok(())
    }

    /// Starts logging, and ties this process to its parent if asked to.
    pub(crate) fn begin(&self) -> Result<()> {
        let filter = EnvFilter::try_new(&self.log).map_err(|e| Fault::usage(format!("--log {}: {e}", self.log)))?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
            LogFormat::Json => lines.json().flatten_event(true).init(),
        }
        if let Some(path) = &self.config {
            tracing::info!("settings from {}", path.display());
        }
        self.die_with_parent.map_or(Ok(()), follow_parent)
    }
}

/// Ends this process with SIGTERM when process `parent` is gone.
pub(crate) fn follow_parent(parent: u32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).doing("follow the parent process")?;
    // It may have ended before the line above: nobody would tell us.
    if getppid().map(|pid| Pid::as_raw(Some(pid))) != i32::try_from(parent).ok() {
        return Err(Fault::new(format!("the parent process {parent} is gone")));
    }
    Ok(())
}

/// Tells the supervisor that started this process, if it wants to know, that it is ready (systemd's `Type=notify`).
pub(crate) fn tell_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let path = path.to_string_lossy();
    let addr = match path.strip_prefix('@') {
        Some(name) => UnixAddr::from_abstract_name(name),
        None => UnixAddr::from_pathname(&*path),
    };
    let told = addr.and_then(|addr| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &addr));
    if let Err(e) = told {
        tracing::warn!("the supervisor at {path} cannot be told that this process is ready: {e}");
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
