//! Asking a running manager how it is, from any thread: elected or not, and what it has done.
//!
//! What must hold: a question never waits behind the store, and a manager that hangs is noticed within a bounded time.

use std::time::Duration;

use catena_wire::header::Kind;
use catena_wire::manager::StatusReply;
use tokio::sync::{mpsc, oneshot};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// A store that takes longer than this many milliseconds is a fault.
const STORE_PATIENCE_MS: u64 = 5_000;

/// Names of the requests counted in [`ManagerCounters::requests`], in order.
pub const REQUESTS: [&str; 7] = ["register", "heartbeat", "routing", "init", "status", "admin", "other"];

/// What a manager has done since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct ManagerCounters {
    /// Requests answered while elected, in the order of [`REQUESTS`].
    pub requests: [u64; 7],
    /// Requests refused, since another one is elected or nobody.
    pub refused: u64,
    /// Times it was elected.
    pub elections: u64,
    /// States stored.
    pub stored: u64,
    /// Time it took to store them, in nanoseconds.
    pub storing_ns: u64,
}

impl ManagerCounters {
    pub(crate) fn request(&mut self, kind: Kind) {
        let n = match kind {
            Kind::Register => 0,
            Kind::Heartbeat => 1,
            Kind::Routing => 2,
            Kind::Init => 3,
            Kind::Status => 4,
            Kind::Admin => 5,
            _ => 6,
        };
        self.requests[n] += 1;
    }
}

/// What a manager says about itself.
#[derive(Clone, Debug)]
pub struct ManagerStatus {
    /// Its cluster; 0 before it was elected for the first time.
    pub cluster: u64,
    /// Where others reach it.
    pub addr: String,
    /// Why it is not the elected one; empty if it is.
    pub standing: String,
    /// Address of the one that is elected, if it is another one and known.
    pub elsewhere: String,
    /// What it has done.
    pub counters: ManagerCounters,
    /// The cluster as it sees it; absent unless it is elected.
    pub status: Option<StatusReply>,
}

impl ManagerStatus {
    /// Whether this is the elected one.
    pub fn elected(&self) -> bool {
        self.status.is_some()
    }

    /// What is wrong with this manager; `None` if it is elected and stores what it decides, or stands by for another one.
    pub fn fault(&self) -> Option<String> {
        match &self.status {
            Some(status) if status.storing_ms > STORE_PATIENCE_MS => {
                let seconds = status.storing_ms / 1000;
                Some(format!("the store has not answered for {seconds} s: membership is frozen; look at its disk, or at etcd"))
            }
            Some(_) => None,
            None => self.elsewhere.is_empty().then(|| self.standing.clone()),
        }
    }
}

/// Where a question's answer goes.
pub(crate) type Question = oneshot::Sender<ManagerStatus>;

/// What a running manager is asked through. Outlives the manager: then there is no answer.
#[derive(Clone, Debug)]
pub struct ManagerObserver(pub(crate) mpsc::UnboundedSender<Question>);

impl ManagerObserver {
    /// What the manager says about itself; `None` if it does not answer.
    pub async fn status(&self) -> Option<ManagerStatus> {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).ok()?;
        tokio::time::timeout(ANSWER, answer).await.ok()?.ok()
    }
}
