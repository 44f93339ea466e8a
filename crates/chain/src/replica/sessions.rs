//! Exactly-once: what became of an update, by its tag.
//!
//! Committed outcomes are durable and live in the engine. Rejects live in memory: a request of another chain version
//! is refused, so no other head needs them. Updates in progress are found by tag, so that a repeated request joins them.

use std::collections::{BTreeMap, BTreeSet};

use catena_types::{ChunkKey, ChunkStore, Failure, Seq, SessionId, SessionRow, Tag};

use crate::mutation::{Mutation, is};

#[derive(Clone, Default, Hash)]
pub(super) struct Sessions {
    running: BTreeMap<Tag, ChunkKey>,
    rejected: BTreeMap<SessionId, (Seq, Failure)>,
}

/// What is known of a tag.
pub(super) enum Known {
    /// Never seen, and in order.
    New,
    /// In progress, for this chunk.
    Running(ChunkKey),
    Committed(SessionRow),
    Rejected(Failure),
    /// The session has moved on to a later update.
    Stale,
    /// There is no such session here, and the request does not claim to be its first.
    Unknown,
}

impl Sessions {
    /// What is known of `tag`, as a client's request.
    pub(super) fn look_up<P: Clone>(&self, tag: Tag, first: bool, store: &dyn ChunkStore<Payload = P>) -> Known {
        if let Some(key) = self.running.get(&tag) {
            return Known::Running(key.clone());
        }
        let id = tag.session();
        let newest_running =
            self.running.range(Tag { seq: 0, ..tag }..=Tag { seq: Seq::MAX, ..tag }).next_back().map(|(t, _)| t.seq);
        match self.decided(tag, store) {
            Known::New => {}
            decided => return decided,
        }
        match newest_running {
            Some(seq) if tag.seq < seq && !is(Mutation::TakeStale) => Known::Stale,
            None if !first && store.session(id).is_none() && !self.rejected.contains_key(&id) => Known::Unknown,
            _ => Known::New,
        }
    }

    /// The recorded outcome of `tag`, `Stale` if a later update of its session has one, else `New`.
    pub(super) fn decided<P: Clone>(&self, tag: Tag, store: &dyn ChunkStore<Payload = P>) -> Known {
        let row = store.session(tag.session()).filter(|row| row.seq != tag.seq || !is(Mutation::ForgetCommits));
        let rejected = self.rejected.get(&tag.session());
        match (row, rejected) {
            (Some(row), _) if row.seq == tag.seq => Known::Committed(row),
            (_, Some((seq, failure))) if *seq == tag.seq => Known::Rejected(failure.clone()),
            _ if is(Mutation::TakeStale) => Known::New,
            (row, rejected) if row.is_some_and(|r| r.seq > tag.seq) || rejected.is_some_and(|r| r.0 > tag.seq) => Known::Stale,
            _ => Known::New,
        }
    }

    pub(super) fn start(&mut self, tag: Tag, key: &ChunkKey) {
        self.running.insert(tag, key.clone());
    }

    pub(super) fn end(&mut self, tag: Tag) {
        self.running.remove(&tag);
    }

    /// Remembers a reject; a row never goes back.
    pub(super) fn reject(&mut self, tag: Tag, failure: &Failure) {
        let newest = self.rejected.get(&tag.session()).is_none_or(|(seq, _)| *seq < tag.seq);
        if newest && !is(Mutation::ForgetRejects) {
            self.rejected.insert(tag.session(), (tag.seq, failure.clone()));
        }
    }

    /// A commit makes older rejects of its session superfluous: the row says that it has moved on.
    pub(super) fn commit(&mut self, tag: Tag) {
        if self.rejected.get(&tag.session()).is_some_and(|(seq, _)| *seq < tag.seq) {
            self.rejected.remove(&tag.session());
        }
    }

    /// Whether an update of the session is in progress.
    pub(super) fn runs(&self, id: SessionId) -> bool {
        let SessionId { client, channel } = id;
        let all = Tag { client, channel, seq: 0 }..=Tag { client, channel, seq: Seq::MAX };
        self.running.range(all).next().is_some()
    }

    /// Forgets the rejects of all other sessions.
    pub(super) fn keep_rejects(&mut self, used: &BTreeSet<SessionId>) {
        self.rejected.retain(|id, _| used.contains(id));
    }

    pub(super) fn clear(&mut self) {
        self.running.clear();
        self.rejected.clear();
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }
}
