//! The tour's second half: a node is killed under the chain and comes back.

use std::time::Instant;

use bytes::Bytes;
use catena_client::ReadOptions;
use catena_types::Routing;

use super::{CHUNK, PATIENCE, Tour, key, members};
use crate::fault::{Fault, Result};
use crate::health::Health;
use crate::output::say;
use crate::units::time_short;

impl Tour {
    /// Kills the node of the tail of chunk 0's chain: the replica that has answered every commit so far.
    pub(super) async fn kill_a_node(&mut self) -> Result<()> {
        let routing = self.client.refresh_routing().await?;
        let chain = self.client.chain_of(key(0)).and_then(|id| routing.chain(id));
        let tail = chain.and_then(|c| c.tail()).and_then(|t| routing.target(t));
        let (Some(chain), Some(tail)) = (chain, tail) else {
            return Err(Fault::new("chunk 0 has no chain that serves: see the manager's log"));
        };
        let (id, node) = (chain.id, tail.node);
        self.heading(&format!("Kill node {node} (the tail of chain {id}) with kill -9"));
        let pid = self.cluster.node(node).pid();
        self.cluster.kill_node(node).await?;
        let killed = Instant::now();
        say!("  kill -9 {pid}");

        let mut equal = true;
        for n in 0..self.chunks() {
            let read = self.client.read(key(n), 0, CHUNK, &ReadOptions::default()).await?;
            equal &= read.data == self.expected(n);
        }
        self.check(
            &format!("all committed bytes are still read and verified ({} after the kill)", time_short(killed.elapsed())),
            equal,
        );

        let patch: Vec<u8> = self.data[1000..1100].iter().rev().copied().collect();
        self.data[..100].copy_from_slice(&patch);
        let updated = self.write(0, 0, Bytes::from(patch)).await?;
        let waited = killed.elapsed();
        let read = self.client.read(key(0), 0, CHUNK, &ReadOptions::default()).await?;
        let claim = format!("a write sent meanwhile is committed {} after the kill, and read back", time_short(waited));
        self.check(&claim, read.data == self.expected(0) && read.ver >= updated.ver);
        self.show(0, &updated, "100 bytes overwritten");

        let moved = |routing: &Routing| serving_nodes(routing, id).iter().all(|&n| n != node);
        self.cluster.wait_for(&self.client, PATIENCE, "the chain's move", moved).await?;
        let routing = self.client.routing();
        say!("  chain {id} is now {}", members(&routing, id));
        let health = Health::of(&routing);
        self.check(
            &format!("{} chains go on with fewer replicas, none has stopped", health.chains_degraded),
            health.chains_unavailable == 0,
        );
        Ok(())
    }

    /// Starts the killed node again and waits until it has caught up.
    pub(super) async fn bring_it_back(&mut self) -> Result<()> {
        let routing = self.client.refresh_routing().await?;
        let Some(node) = routing.nodes.iter().find(|n| !n.alive).map(|n| n.id) else {
            return Err(Fault::new("no node is missing, although one was killed: see the manager's log"));
        };
        self.heading(&format!("Start node {node} again"));
        let start = Instant::now();
        self.cluster.restart_node(node)?;
        say!("  pid {}; the tail of each chain sends it what it has missed", self.cluster.node(node).pid());
        self.cluster.wait_healthy(&self.client, PATIENCE).await?;
        self.check(&format!("every chain is full again after {}", time_short(start.elapsed())), true);
        let routing = self.client.routing();
        for chain in &routing.chains {
            say!("  chain {}: {}", chain.id, members(&routing, chain.id));
        }
        for n in 0..self.chunks() {
            let replicas = self.client.inspect(key(n)).await;
            let committed = |reply: &catena_wire::client::InspectReply| {
                reply.meta.and_then(|m| m.committed).map(|c| (c.ver, c.len, c.checksum))
            };
            let found: Vec<_> = replicas.iter().map(|(_, _, reply)| reply.as_ref().ok().and_then(committed)).collect();
            let equal = found.len() == 3 && found[0].is_some() && found.iter().all(|f| f == &found[0]);
            let (ver, _, checksum) = found.first().copied().flatten().unwrap_or_default();
            self.check(&format!("chunk {n}: version {ver}, crc32c {checksum:08x} on all {} replicas", found.len()), equal);
        }
        self.compare_replicas().await
    }
}

/// The nodes whose targets serve a chain.
fn serving_nodes(routing: &Routing, chain: u32) -> Vec<u32> {
    let Some(chain) = routing.chain(chain) else { return Vec::new() };
    chain.serving().filter_map(|t| routing.target(t)).map(|t| t.node).collect()
}
