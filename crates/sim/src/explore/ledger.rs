//! What clients have sent and heard, and what became of it: the judge of a state.

use std::collections::BTreeMap;

use catena_types::{Class, Failure, Tag, TargetId, Ver};

use super::rules::{Rule, Rules};

/// An update of a client, to be made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Update {
    /// Which of the chunks.
    pub chunk: u8,
    /// Removes the chunk; otherwise a write of whole blocks.
    pub remove: bool,
    /// The first block that it writes, and how many.
    pub from: u8,
    /// See [`Update::from`].
    pub blocks: u8,
    /// Its session, and its number there: one is sent after the other.
    pub session: u8,
}

impl Update {
    /// A write of the first block.
    pub const fn write(chunk: u8, session: u8) -> Update {
        Update::blocks(chunk, session, 0, 1)
    }

    /// A write of so many blocks from that one on.
    pub const fn blocks(chunk: u8, session: u8, from: u8, blocks: u8) -> Update {
        Update { chunk, remove: false, from, blocks, session }
    }

    /// A removal.
    pub const fn remove(chunk: u8, session: u8) -> Update {
        Update { chunk, remove: true, from: 0, blocks: 0, session }
    }
}

/// How an update stands, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Open,
    Acked(Ver),
    Rejected,
    /// Its client has stopped waiting.
    GivenUp,
}

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) to: TargetId,
    pub(super) chain_ver: u64,
    pub(super) request: u64,
}

/// The client of one update.
#[derive(Clone, Debug, Hash)]
pub(super) struct Client {
    pub(super) outcome: Outcome,
    /// Waits for an answer to this.
    pub(super) waits: Option<Attempt>,
    /// Frames of it that may arrive once more.
    pub(super) sent: Vec<Attempt>,
    /// Newest attempt, and the highest chain version of any.
    pub(super) newest: u64,
    pub(super) chain_ver: u64,
}

/// See the file's documentation.
#[derive(Clone, Debug, Hash)]
pub(super) struct Ledger {
    pub(super) clients: Vec<Client>,
    /// Which update made a version of a chunk.
    versions: BTreeMap<(u8, Ver), Tag>,
    /// Newest version that anybody has or could have seen, by chunk.
    pub(super) seen: Vec<Ver>,
    /// A read under way: where, of which chunk, and what had been seen when it began.
    pub(super) reader: Option<(TargetId, u8, Ver)>,
}

impl Ledger {
    pub(super) fn new(chunks: u8, updates: usize) -> Ledger {
        let client = Client { outcome: Outcome::Open, waits: None, sent: Vec::new(), newest: 0, chain_ver: 0 };
        Ledger { clients: vec![client; updates], versions: BTreeMap::new(), seen: vec![0; chunks.into()], reader: None }
    }

    /// A target has committed.
    pub(super) fn committed(&mut self, chunk: u8, ver: Ver, tag: Tag, update: usize) -> Result<(), String> {
        let made = *self.versions.entry((chunk, ver)).or_insert(tag);
        if made != tag {
            return Err(format!("two values for one version: chunk {chunk} version {ver} is of {made} and of {tag}"));
        }
        if self.versions.iter().any(|(at, t)| *t == tag && *at != (chunk, ver)) {
            return Err(format!("update {tag} is applied twice"));
        }
        if self.clients[update].outcome == Outcome::Rejected {
            return Err(format!("rejected update applied: {tag} as version {ver}"));
        }
        Ok(())
    }

    /// Somebody could have seen that version.
    pub(super) fn see(&mut self, chunk: u8, ver: Ver) {
        let seen = &mut self.seen[usize::from(chunk)];
        *seen = (*seen).max(ver);
    }

    /// The update that made the version, if any target has committed it.
    pub(super) fn made(&self, chunk: u8, ver: Ver) -> Option<Tag> {
        self.versions.get(&(chunk, ver)).copied()
    }

    /// An answer to an attempt.
    pub(super) fn answered(
        &mut self,
        update: usize,
        spec: Update,
        request: u64,
        ver: Ver,
        failure: Option<&Failure>,
        off: Rules,
    ) -> Result<(), String> {
        let applied = self.versions.values().any(|t| t.seq == seq(update) && t.channel == u32::from(spec.session));
        let client = &mut self.clients[update];
        let newest = client.waits.is_some_and(|a| a.request == request);
        match failure {
            None => {
                if client.outcome == Outcome::Rejected {
                    return Err("a rejected update is acknowledged".into());
                }
                client.outcome = Outcome::Acked(ver);
                client.waits = None;
                self.see(spec.chunk, ver);
            }
            Some(failure) if failure.class() == Class::Rejected => {
                let final_word = newest && failure.chain_ver >= client.chain_ver;
                if (final_word || off.is(Rule::ClientNewest)) && client.outcome == Outcome::Open {
                    client.outcome = Outcome::Rejected;
                    client.waits = None;
                    if applied {
                        return Err("a rejected update had been applied".into());
                    }
                } else if newest {
                    client.waits = None;
                }
            }
            Some(_) if newest => client.waits = None,
            Some(_) => {}
        }
        Ok(())
    }

    /// What was open at that target is lost.
    pub(super) fn lost(&mut self, target: TargetId) {
        for client in &mut self.clients {
            client.waits.take_if(|a| a.to == target);
        }
        self.reader.take_if(|(at, ..)| *at == target);
    }
}

/// Number of an update within its session.
pub(super) fn seq(update: usize) -> u64 {
    update as u64 + 1
}
