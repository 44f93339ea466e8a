//! The routing a client has: one snapshot, replaced by newer ones, never by older ones.
//!
//! A task asks a manager for newer routing all the time (a long poll). Whoever is redirected asks at once as well, without
//! waiting for the long poll's answer; many who ask at the same time make one question.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catena_types::{Routing, Time};
use catena_wire::header::Kind;
use catena_wire::manager::{RoutingReply, RoutingRequest};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::links::Links;
use crate::managers::{ANSWER, Managers};

/// How long a manager keeps a question for newer routing.
const POLL: Duration = Duration::from_secs(10);
/// Longest that a question for newer routing is repeated.
const FETCH: Duration = Duration::from_secs(5);
/// Pause after a poll that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// The routing, and who gives it.
pub(crate) struct Routes {
    current: watch::Sender<Arc<Routing>>,
    asking: AtomicBool,
    pub(crate) managers: Managers,
    pub(crate) links: Links,
    pub(crate) clock: Clock,
}

impl Routes {
    pub(crate) fn new(managers: Managers, links: Links, clock: Clock) -> Routes {
        let current = watch::Sender::new(Arc::new(Routing::default()));
        Routes { current, asking: AtomicBool::new(false), managers, links, clock }
    }

    /// The newest routing known.
    pub(crate) fn current(&self) -> Arc<Routing> {
        self.current.borrow().clone()
    }

    /// Asks for routing newer than what is known; the manager may wait for it for `wait`.
    pub(crate) async fn fetch(&self, wait: Duration, deadline: Time) -> Result<(), Error> {
        let have = self.current.borrow().version;
        let request = RoutingRequest { have, wait_ms: wait.as_millis() as u32 };
        let reply: RoutingReply =
            self.managers.ask(&self.links, self.clock, Kind::Routing, &request, wait + ANSWER, deadline).await?;
        let patched = || reply.delta.and_then(|delta| delta.apply(&self.current()));
        reply.routing.or_else(patched).map_or(Ok(()), |routing| self.adopt(routing))
    }

    /// Takes newer routing of the same cluster.
    fn adopt(&self, routing: Routing) -> Result<(), Error> {
        let known = self.current.borrow().cluster;
        if known != 0 && routing.cluster != known {
            let cause = format!("a manager of cluster {:016x} answers; this client is of {known:016x}", routing.cluster);
            return Err(Error::new(ErrorKind::Refused, cause));
        }
        self.links.set_cluster(routing.cluster);
        self.current.send_if_modified(|current| {
            let newer = routing.version > current.version || (current.cluster == 0 && routing.cluster != 0);
            if newer {
                *current = Arc::new(routing);
            }
            newer
        });
        Ok(())
    }

    /// Keeps the routing up to date, for ever.
    pub(crate) async fn follow(self: Arc<Routes>) {
        loop {
            let deadline = self.clock.after(POLL + ANSWER);
            if let Err(e) = self.fetch(POLL, deadline).await {
                tracing::debug!("no routing: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Waits for routing newer than `version`, which is asked for, but not longer than `until`.
    pub(crate) async fn wait(self: &Arc<Routes>, newer_than: Option<u64>, until: Time) {
        let Some(version) = newer_than else {
            return tokio::time::sleep(self.clock.until(until)).await;
        };
        let mut routing = self.current.subscribe();
        if routing.borrow().version <= version {
            self.ask_soon();
        }
        // Ends in time or with newer routing; the sender lives as long as `self`.
        let _ = tokio::time::timeout(self.clock.until(until), routing.wait_for(|r| r.version > version)).await;
    }

    /// Starts a question for newer routing, unless one is on its way.
    fn ask_soon(self: &Arc<Routes>) {
        if self.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let routes = self.clone();
        tokio::spawn(async move {
            if let Err(e) = routes.fetch(Duration::ZERO, routes.clock.after(FETCH)).await {
                tracing::debug!("no routing: {e}");
            }
            routes.asking.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_never_goes_back_nor_to_another_cluster() {
        let clock = Clock::new();
        let routes = Routes::new(
            Managers::new(vec![]),
            Links::new(&crate::ClientConfig { memory: 1 << 20, connect_timeout: ANSWER, ..crate::ClientConfig::new("") }, clock),
            clock,
        );
        let of = |version, cluster| Routing { version, cluster, ..Routing::default() };
        for (version, expected) in [(3, 3), (2, 3), (3, 3), (5, 5)] {
            routes.adopt(of(version, 7)).unwrap();
            assert_eq!(routes.current().version, expected);
        }
        assert_eq!(routes.adopt(of(9, 8)).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(routes.current().version, 5);
    }
}
