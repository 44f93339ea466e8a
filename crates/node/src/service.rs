//! Starting and stopping a node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catena_types::{Incarnation, NodeId};
use catena_wire::manager::TargetOffer;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::control::{Heartbeats, Publisher, follow_routing, hello, register, registration};
use crate::home::Home;
use crate::managers::Managers;
use crate::observer::NodeObserver;
use crate::shard::{Identity, Inbox, ShardConfig, ShardHandle, Started};
use crate::status::NodeStatus;
use crate::{NodeConfig, NodeError};

/// A storage node.
pub struct Node;

/// A running node. Dropping it ends its shards at once, as a crash would, but for the closing of its targets.
pub struct NodeHandle {
    observer: NodeObserver,
    addrs: Vec<String>,
    shards: Vec<ShardHandle>,
    stop: watch::Sender<bool>,
    /// `None` once it has ended and its end has been told.
    control: Option<JoinHandle<Result<(), NodeError>>>,
    routing: JoinHandle<()>,
    _home: Home,
}

impl Node {
    /// Starts a node: locks its directory, opens its targets, listens, and registers with the manager, for which it waits
    /// as long as it takes. Needs a tokio runtime for the dealings with the manager; the shards have their own.
    ///
    /// # Errors
    /// The configuration, the directory, a port, or the manager's refusal; each names the next step.
    pub async fn start(config: NodeConfig) -> Result<NodeHandle, NodeError> {
        config.check()?;
        let mut home = Home::open(&config.dir, config.node)?;
        let config = Arc::new(config);
        let changed = Arc::new(Notify::new());
        let targets = home.targets(config.targets)?;
        let (shards, addrs, offers) = start_shards(&config, &targets, &changed).await?;
        let cluster = known_cluster(&home, &config, &offers)?;
        let request = registration(&config, cluster, addrs.clone(), offers.iter().map(|(_, o, _)| o.clone()).collect());
        let newcomer = Identity { node: config.node, cluster, incarnation: 0 };
        let mut managers = Managers::new(config.managers.clone(), hello(&newcomer), config.security.clone());
        let reply = register(&mut managers, request).await?;
        let identity = Identity { cluster: reply.cluster, incarnation: reply.incarnation, ..newcomer };
        home.adopt(reply.cluster)?;
        adopt(&shards, &identity, &offers, &reply.targets).await?;
        tracing::info!(node = config.node, incarnation = reply.incarnation, "registered with {}", managers.addr());

        let publisher = Publisher::new(shards.iter().map(|s| (s.number, s.inbox.clone())).collect());
        let (stop, stopped) = watch::channel(false);
        let inboxes = shards.iter().map(|s| (s.number, s.inbox.clone())).collect();
        let observer = NodeObserver::new(identity.clone(), inboxes);
        let heartbeats = Heartbeats {
            managers: Managers::new(config.managers.clone(), hello(&identity), config.security.clone()),
            identity: identity.clone(),
            publisher: publisher.clone(),
            period: Duration::from_millis(reply.heartbeat_ms.max(10).into()),
            changed: changed.clone(),
            heard: observer.heard(),
            stop: stopped,
        };
        let poller = Managers::new(config.managers.clone(), hello(&identity), config.security.clone());
        let control = Some(tokio::spawn(heartbeats.run()));
        let routing = tokio::spawn(follow_routing(poller, publisher, changed));
        Ok(NodeHandle { observer, addrs, shards, stop, control, routing, _home: home })
    }
}

impl NodeHandle {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.observer.identity().node
    }

    /// Its present start.
    pub fn incarnation(&self) -> Incarnation {
        self.observer.identity().incarnation
    }

    /// `host:port` of each shard.
    pub fn shard_addrs(&self) -> &[String] {
        &self.addrs
    }

    /// Waits until the node cannot go on: the manager refuses it. It serves nothing then; what is left is to shut it
    /// down. Told once.
    pub async fn failed(&mut self) -> NodeError {
        let Some(control) = &mut self.control else { return std::future::pending().await };
        let ended = control.await;
        self.control = None;
        match ended {
            Ok(Err(e)) => e,
            // Without an error it ends only when it was told to stop.
            Ok(Ok(())) | Err(_) => NodeError::Config("the node's control task has ended; the log says why".to_owned()),
        }
    }

    /// What it says about itself.
    pub async fn status(&self) -> NodeStatus {
        self.observer.status().await
    }

    /// Something to ask it through, from any thread.
    pub fn observer(&self) -> NodeObserver {
        self.observer.clone()
    }

    /// Stops in order: serves nothing more, says so to the manager, waits a little for the chains to go on without it,
    /// and closes its targets.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(control) = self.control.take() {
            // It ends within its patience; how it ended matters no more.
            let _ = control.await;
        }
        for shard in std::mem::take(&mut self.shards) {
            shard.close().await;
        }
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.control.iter().for_each(JoinHandle::abort);
        self.routing.abort();
    }
}

/// A shard, an offer of it, and the cluster in its superblock.
type Offer = (u32, TargetOffer, u64);

async fn start_shards(
    config: &Arc<NodeConfig>,
    targets: &[(u32, PathBuf)],
    changed: &Arc<Notify>,
) -> Result<(Vec<ShardHandle>, Vec<String>, Vec<Offer>), NodeError> {
    let (mut shards, mut addrs, mut offers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..config.shards {
        let own = targets.iter().filter(|(n, _)| n % config.shards == number).map(|(_, path)| path.clone()).collect();
        let shard = ShardConfig { number, node: config.clone(), targets: own, changed: changed.clone() };
        let Started { handle, addr, offers: offered } = ShardHandle::start(shard).await?;
        let host = config.advertise.unwrap_or(addr.ip());
        addrs.push(std::net::SocketAddr::new(host, addr.port()).to_string());
        offers.extend(offered.into_iter().map(|(offer, cluster)| (number, offer, cluster)));
        shards.push(handle);
    }
    Ok((shards, addrs, offers))
}

/// The one cluster that directory and superblocks name; 0 if none does.
fn known_cluster(home: &Home, config: &NodeConfig, offers: &[Offer]) -> Result<u64, NodeError> {
    let mut known = home.cluster();
    for &(_, _, cluster) in offers {
        if cluster != 0 && known != 0 && cluster != known {
            let dir = config.dir.clone();
            let (found, wanted) = (format!("cluster {cluster:016x} (one of its targets)"), format!("cluster {known:016x}"));
            return Err(NodeError::WrongDirectory { dir, found, wanted });
        }
        known = known.max(cluster);
    }
    Ok(known)
}

async fn adopt(shards: &[ShardHandle], identity: &Identity, offers: &[Offer], ids: &[u32]) -> Result<(), NodeError> {
    for shard in shards {
        let own = offers.iter().zip(ids).filter(|((number, ..), _)| *number == shard.number);
        let (done, adopted) = oneshot::channel();
        let message = Inbox::Adopt { identity: identity.clone(), targets: own.map(|(_, &id)| id).collect(), done };
        let sent: Result<(), mpsc::error::SendError<Inbox>> = shard.inbox.send(message);
        let ended = || NodeError::ShardEnded(shard.number);
        sent.map_err(|_| ended())?;
        adopted.await.map_err(|_| ended())??;
    }
    Ok(())
}

/// Random bytes.
pub(crate) fn draw(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system's random numbers are there from boot on");
}
