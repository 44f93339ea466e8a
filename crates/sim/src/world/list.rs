//! Listings: one page from the tail of a chain, which is a read of every chunk it covers.

use catena_chain::{ClientList, Event, RequestId};
use catena_client::core::Attempt;
use catena_types::{ChainId, ChunkKey, TargetId, Time};
use catena_wire::client::ListReply;

use super::client::{Answered, Call, What};
use super::{Rule, World};
use crate::linear::{Action, OpId, Outcome, Seen};

/// A listing under way: asked once, and given up when there is no answer.
pub(super) struct Listing {
    pub(super) attempt: Attempt,
    /// What it says of each chunk of the chain.
    covers: Vec<(ChunkKey, OpId)>,
    limit: usize,
    pub(super) sent: bool,
}

impl World {
    /// Begins a listing of one chain, if the client knows its tail.
    pub(super) fn begin_list(&mut self, client: usize, lane: usize, chain: ChainId) -> Option<Call> {
        let routing = self.routing_of_client(client);
        let (tail, chain_ver) = routing.chain(chain).and_then(|c| Some((c.tail()?, c.chain_ver)))?;
        let members: Vec<TargetId> = routing.chain(chain).into_iter().flat_map(|c| c.serving()).collect();
        // Now and then somebody else is asked, who must refuse.
        let target = if self.rng.chance(1, 2) { *self.rng.pick(&members) } else { tail };
        let until: Time = self.now + self.plan.attempt;
        let attempt = Attempt { number: 1, chain, chain_ver, target, until, first: false };
        let keys = self.keys.iter().filter(|k| routing.chain_of(k.as_bytes()) == Some(chain)).cloned();
        let mut covers = Vec::new();
        for key in keys.collect::<Vec<_>>() {
            // Every chunk is asked for by a reader of its own: they are read one after the other, not at once.
            let reader = ((client * 8 + lane) * 64 + covers.len() + 64) as u64;
            let id = self.history.invoke(self.now, reader, key.as_bytes(), Action::Read { offset: 0, len: 0 });
            covers.push((key, id));
        }
        let (key, id) = covers.first().cloned()?;
        let limit = self.rng.between(1, 4) as usize;
        self.note(|| format!("client {client}.{lane} lists chain {chain}, {limit} chunks"));
        Some(Call { id, key, what: What::List(Listing { attempt, covers, limit, sent: false }) })
    }

    pub(super) fn list_event(listing: &Listing) -> Event<bytes::Bytes> {
        let (prefix, from) = (b"k".to_vec(), Vec::new());
        Event::List(ClientList { request: 0, chain_ver: listing.attempt.chain_ver, prefix, from, limit: listing.limit })
    }

    pub(super) fn reply_list(&mut self, node: usize, id: RequestId, reply: ListReply) {
        let Some(request) = self.nodes[node].requests.remove(&id) else {
            return self.fail(Rule::Answers, format!("listing {id} was answered twice, or never asked"));
        };
        let what = match reply.failure.clone() {
            Some(failure) => Answered::Failure(failure),
            None => Answered::List(reply),
        };
        self.answer(&request, what);
    }

    /// The page has come, or nothing: what it covers is what the chunks were.
    pub(super) fn end_list(&mut self, client: usize, lane: usize, reply: Option<ListReply>) {
        let Some(Call { what: What::List(listing), .. }) = self.take_call(client, lane) else { return };
        self.ops += 1;
        self.note(|| format!("client {client}.{lane} listing ends: {reply:?}"));
        self.coverage.hit(if reply.is_some() { "op list" } else { "op list unanswered" });
        for (key, id) in listing.covers {
            let covered = reply.as_ref().filter(|r| r.next.is_empty() || key.as_bytes() < r.next.as_slice());
            let entry = covered.and_then(|r| r.entries.iter().find(|e| e.key == key.as_bytes()));
            let outcome = match (covered, entry) {
                (Some(_), Some(e)) => {
                    self.saw(&key, e.ver, false);
                    let seen = Seen { ver: Some(e.ver), len: Some(e.len), checksum: Some(e.checksum) };
                    Outcome::Read { bytes: bytes::Bytes::new(), seen }
                }
                (Some(_), None) => Outcome::Absent,
                (None, _) => Outcome::Unknown,
            };
            self.history.complete(self.now, id, outcome);
        }
    }
}
