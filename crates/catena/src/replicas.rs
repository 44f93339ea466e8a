//! What every replica of a chunk holds, asked one by one and compared.

use catena_client::{Client, Error};
use catena_types::{ChunkKey, ChunkMeta, PublicState};
use catena_wire::client::InspectReply;
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::health::state_word;
use crate::output;

/// What one replica said.
pub(crate) struct Replica {
    pub(crate) target: u32,
    state: PublicState,
    answer: Result<Option<ChunkMeta>, String>,
}

impl Replica {
    /// What must be equal at every serving replica.
    pub(crate) fn committed(&self) -> Option<(u64, u32, u32)> {
        let committed = self.answer.as_ref().ok()?.as_ref()?.committed?;
        Some((committed.ver, committed.len, committed.checksum))
    }

    /// Whether readers may be answered by it.
    pub(crate) fn serves(&self) -> bool {
        self.state == PublicState::Serving
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        let mut value = json!({ "target": self.target, "state": state_word(self.state) });
        match &self.answer {
            Err(reason) => value["failure"] = json!(reason),
            Ok(meta) => {
                let committed = meta.as_ref().and_then(|m| m.committed);
                value["committed"] = json!(committed.map(|c| {
                    json!({ "ver": c.ver, "len": c.len, "checksum": format!("{:08x}", c.checksum), "chain_ver": c.chain_ver })
                }));
                let staged = meta.as_ref().and_then(|m| m.staged);
                value["staged"] = json!(staged.map(|s| json!({ "ver": s.ver, "len": s.len, "durable": s.durable })));
            }
        }
        value
    }
}

/// Whether all SERVING replicas answered, and hold the same.
pub(crate) fn equal(replicas: &[Replica]) -> bool {
    let mut serving = replicas.iter().filter(|r| r.serves());
    let Some(first) = serving.next() else { return false };
    first.answer.is_ok() && serving.all(|r| r.answer.is_ok() && r.committed() == first.committed())
}

/// Asks every replica of a chunk, whatever its state.
pub(crate) async fn ask(client: &Client, key: &ChunkKey) -> Vec<Replica> {
    let answers = client.inspect(key.as_bytes()).await;
    let replica = |(target, state, answer): (_, _, Result<InspectReply, Error>)| {
        let answer = answer.map_err(|e| e.to_string()).and_then(|reply| match reply.failure {
            Some(failure) => Err(failure.to_string()),
            None => Ok(reply.meta),
        });
        Replica { target, state, answer }
    };
    answers.into_iter().map(replica).collect()
}

/// As a table for people.
pub(crate) fn show(replicas: &[Replica]) {
    let mut table = output::table(&["TARGET", "STATE", "VERSION", "LENGTH", "CRC-32C", "CHAIN_VER", "STAGED"], &[0, 2, 3, 5]);
    for replica in replicas {
        let mut row = vec![Cell::new(replica.target), Cell::new(state_word(replica.state))];
        match &replica.answer {
            Err(reason) => row.push(Cell::new(reason)),
            Ok(meta) => row.extend(meta_cells(meta.as_ref()).map(Cell::new)),
        }
        table.add_row(row);
    }
    output::print_table(&table, "");
}

fn meta_cells(meta: Option<&ChunkMeta>) -> [String; 5] {
    let committed = meta.and_then(|m| m.committed);
    let staged = meta.and_then(|m| m.staged);
    let dash = || "-".to_owned();
    [
        committed.map_or("absent".to_owned(), |c| c.ver.to_string()),
        committed.map_or_else(dash, |c| c.len.to_string()),
        committed.map_or_else(dash, |c| format!("{:08x}", c.checksum)),
        committed.map_or_else(dash, |c| c.chain_ver.to_string()),
        staged.map_or_else(dash, |s| format!("version {}{}", s.ver, if s.durable { "" } else { " (not yet durable)" })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_types::{Committed, Tag};

    #[test]
    fn replicas_that_differ_are_seen() {
        let tag = Tag { client: 1, channel: 0, seq: 1 };
        let meta = |ver, checksum| ChunkMeta {
            chunk_size: 4096,
            committed: Some(Committed { ver, chain_ver: 1, len: 5, checksum, tag }),
            staged: None,
        };
        let replica = |answer| Replica { target: 1, state: PublicState::Serving, answer };
        assert!(equal(&[replica(Ok(Some(meta(2, 7)))), replica(Ok(Some(meta(2, 7))))]));
        assert!(!equal(&[replica(Ok(Some(meta(2, 7)))), replica(Ok(Some(meta(2, 8))))]));
        assert!(!equal(&[replica(Ok(Some(meta(2, 7)))), replica(Ok(None))]));
        assert!(!equal(&[replica(Ok(Some(meta(2, 7)))), replica(Err("gone".to_owned()))]));
        assert!(!equal(&[]));
        let syncing = Replica { target: 2, state: PublicState::Syncing, answer: Ok(None) };
        assert!(equal(&[replica(Ok(Some(meta(2, 7)))), syncing]), "a replica that does not serve yet does not count");
    }
}
