//! Listings: an ordered merge over all chains, each read at its tail.

use std::collections::VecDeque;

use catena_types::limits::MAX_PAGE;
use catena_types::{ChainId, ChunkKey, Time};
use catena_wire::client::{ListReply, ListRequest};
use catena_wire::header::Kind;

use crate::api::{ListPage, ListedChunk};
use crate::batch;
use crate::call::Inner;
use crate::client::Client;
use crate::core::{Attempt, Place};
use crate::error::{Error, ErrorKind};

/// Where the listing of one chain stands.
struct Cursor {
    chain: ChainId,
    /// Read and not yet merged.
    ready: VecDeque<ListedChunk>,
    /// Key to go on from; `None` when the chain is at its end.
    next: Option<Vec<u8>>,
}

/// A page of the chunks with `prefix` from `from` on.
pub(crate) async fn page(client: &Client, prefix: &[u8], from: &[u8], limit: usize) -> Result<ListPage, Error> {
    let inner = client.inner();
    let deadline = inner.deadline(None);
    let mut chains: Vec<ChainId> = inner.routes.current().table.clone();
    chains.sort_unstable();
    chains.dedup();
    if chains.is_empty() {
        return Err(Error::new(ErrorKind::NotInitialized, "the cluster has no chain table"));
    }
    // Keys are spread evenly: a bit more than the fair share of each chain will mostly do.
    let share = (limit / chains.len() * 5 / 4 + 8).min(limit.max(1)).min(MAX_PAGE as usize) as u32;
    let start = from.max(prefix).to_vec();
    let cursors = chains.into_iter().map(|chain| Cursor { chain, ready: VecDeque::new(), next: Some(start.clone()) }).collect();
    merge(client, prefix, cursors, limit, share, deadline).await
}

async fn merge(
    client: &Client,
    prefix: &[u8],
    mut cursors: Vec<Cursor>,
    limit: usize,
    share: u32,
    deadline: Time,
) -> Result<ListPage, Error> {
    let mut entries = Vec::new();
    loop {
        cursors = refill(client, prefix, cursors, share, deadline).await?;
        // The smallest key over all chains; keys of one chain are in order and no key is on two chains.
        while cursors.iter().all(|c| !c.ready.is_empty() || c.next.is_none()) {
            let heads = cursors.iter_mut().filter(|c| !c.ready.is_empty());
            let Some(least) = heads.min_by(|a, b| a.ready[0].key.cmp(&b.ready[0].key)) else {
                return Ok(ListPage { entries, next: None });
            };
            if entries.len() >= limit {
                return Ok(ListPage { entries, next: Some(least.ready[0].key.as_bytes().to_vec()) });
            }
            entries.extend(least.ready.pop_front());
        }
    }
}

/// Reads on in every chain that has nothing ready and is not at its end, all at the same time.
async fn refill(client: &Client, prefix: &[u8], cursors: Vec<Cursor>, share: u32, deadline: Time) -> Result<Vec<Cursor>, Error> {
    let chains = cursors.len();
    let outcomes = batch::run(cursors, chains, |mut cursor| {
        let (client, prefix) = (client.clone(), prefix.to_vec());
        async move {
            while let Some(from) = cursor.next.take_if(|_| cursor.ready.is_empty()) {
                let reply = client.inner().list_chain(cursor.chain, &prefix, &from, share, deadline).await?;
                cursor.next = next_of(&from, &reply)?;
                cursor.ready = reply.entries.into_iter().map(listed).collect::<Result<_, _>>()?;
            }
            Ok(cursor)
        }
    });
    outcomes.await.into_iter().collect()
}

/// Where a chain's listing goes on; an answer that does not move on is an error, not an endless loop.
fn next_of(from: &[u8], reply: &ListReply) -> Result<Option<Vec<u8>>, Error> {
    match &reply.next {
        next if next.is_empty() => Ok(None),
        next if next.as_slice() > from => Ok(Some(next.clone())),
        _ => Err(Error::new(ErrorKind::Refused, "a replica's listing does not move on")),
    }
}

fn listed(entry: catena_wire::client::ListEntry) -> Result<ListedChunk, Error> {
    let key = ChunkKey::new(&entry.key).ok_or_else(|| Error::new(ErrorKind::Refused, "a replica lists a key that is none"))?;
    Ok(ListedChunk { key, ver: entry.ver, len: entry.len, checksum: entry.checksum })
}

impl Inner {
    /// A page of one chain, from its tail.
    async fn list_chain(
        &self,
        chain: ChainId,
        prefix: &[u8],
        from: &[u8],
        limit: u32,
        deadline: Time,
    ) -> Result<ListReply, Error> {
        let request = |to: &Attempt| ListRequest {
            chain,
            chain_ver: to.chain_ver,
            target: to.target,
            prefix: prefix.to_vec(),
            from: from.to_vec(),
            limit,
        };
        let answer = self.ask_replica((chain, Place::Tail, 0, deadline), Kind::List, request, |_: &ListReply, _| Ok(())).await;
        answer.map(|(reply, _, _)| reply).map_err(|e| e.context(format!("list chain {chain}")))
    }
}
