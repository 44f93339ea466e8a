//! A channel: the slot in which a client has at most one update in flight.

use std::collections::BTreeSet;

use catena_types::{ChainId, SessionId, Tag};

/// A slot of a client. Its sequence numbers only grow, over all chains, whatever became of the updates before.
#[derive(Clone, Debug)]
pub struct Channel {
    id: SessionId,
    seq: u64,
    /// Chains on which an update of this channel was acknowledged.
    known: BTreeSet<ChainId>,
}

impl Channel {
    /// A channel that has done nothing yet.
    pub fn new(id: SessionId) -> Channel {
        Channel { id, seq: 0, known: BTreeSet::new() }
    }
    /// The name of the next update.
    pub fn next_tag(&mut self) -> Tag {
        self.seq += 1;
        Tag { client: self.id.client, channel: self.id.channel, seq: self.seq }
    }
    /// Whether a commit was acknowledged on this chain: the chain then knows the session.
    pub fn knows(&self, chain: ChainId) -> bool {
        self.known.contains(&chain)
    }
    /// A commit was acknowledged on this chain.
    pub fn committed(&mut self, chain: ChainId) {
        self.known.insert(chain);
    }
    /// The chain has forgotten the session.
    pub fn forgotten(&mut self, chain: ChainId) {
        self.known.remove(&chain);
    }
}
