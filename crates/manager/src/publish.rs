//! Who waits for routing, and the log of what becomes of chains.
//!
//! What must hold: only what is stored is published.

use std::collections::BTreeSet;

use catena_cluster::{Primary, State};
use catena_net::{Frame, FrameSender};
use catena_types::{Chain, NodeId, Time};
use catena_wire::header::Kind;
use catena_wire::manager::RoutingReply;

use crate::service::send;

/// Longest time a request for routing waits, in milliseconds.
pub(crate) const MAX_WAIT_MS: u32 = 60_000;

/// A request for routing newer than there is.
struct Waiter {
    have: u64,
    until: Time,
    /// Who asks; 0 for clients.
    node: NodeId,
    request_id: u64,
    sender: FrameSender,
}

/// Answers requests for routing when there is newer one.
pub(crate) struct Publisher {
    waiters: Vec<Waiter>,
    /// Version last published, and its chains, for the log.
    published: (u64, Vec<Chain>),
}

impl Publisher {
    pub(crate) fn new(stored: &State) -> Publisher {
        Publisher { waiters: Vec::new(), published: (stored.version, stored.chains.values().cloned().collect()) }
    }

    /// A request that is answered when there is routing newer than `have`, or at `until`.
    pub(crate) fn wait(&mut self, have: u64, until: Time, node: NodeId, request_id: u64, sender: FrameSender) {
        self.waiters.push(Waiter { have, until, node, request_id, sender });
    }

    /// Answers these nodes at once: one that hears of nothing new sends a heartbeat.
    pub(crate) fn wake<W>(&mut self, nodes: &BTreeSet<NodeId>, primary: &Primary<W>) {
        if !nodes.is_empty() {
            self.release(primary, |w| nodes.contains(&w.node));
        }
    }

    /// Answers whoever waits for routing newer than they have.
    pub(crate) fn publish<W>(&mut self, primary: &Primary<W>) {
        let stored = primary.stored();
        let version = stored.version;
        if version == self.published.0 {
            return;
        }
        let chains: Vec<Chain> = stored.chains.values().cloned().collect();
        for chain in chains.iter().filter(|c| !self.published.1.contains(c)) {
            tracing::info!(routing = version, "{}", describe(chain));
        }
        self.published = (version, chains);
        self.release(primary, |w| w.have < version);
    }

    /// Answers whoever has waited long enough.
    pub(crate) fn tick<W>(&mut self, now: Time, primary: &Primary<W>) {
        self.waiters.retain(|w| !w.sender.is_closed());
        self.release(primary, |w| w.until <= now);
    }

    /// Nothing is published any more.
    pub(crate) fn close(self) {
        self.waiters.iter().for_each(|w| w.sender.close());
    }

    fn release<W>(&mut self, primary: &Primary<W>, ready: impl Fn(&Waiter) -> bool) {
        let (ready, rest) = std::mem::take(&mut self.waiters).into_iter().partition(ready);
        self.waiters = rest;
        for waiter in ready {
            let (routing, delta) = primary.routing_since(waiter.have);
            let reply = RoutingReply { failure: None, routing, delta };
            send(&waiter.sender, Frame::new(Kind::RoutingReply, waiter.request_id, &reply).reply());
        }
    }
}

/// A chain in one line, for the log.
fn describe(chain: &Chain) -> String {
    let member = |m: &catena_types::Member| {
        let chosen = if m.chosen { " (chosen)" } else { "" };
        format!("{} {:?}{chosen}", m.target, m.state())
    };
    let members: Vec<_> = chain.members.iter().map(member).collect();
    format!("chain {} version {}: {}", chain.id, chain.chain_ver, members.join(", "))
}
