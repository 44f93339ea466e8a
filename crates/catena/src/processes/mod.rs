//! A cluster of child processes on this machine: one manager and some nodes, each a process of this same binary.
//!
//! `dev`, `demo` and `bench` share it. What must hold: children never outlive the parent (the kernel tells them when it
//! dies), every one is waited for, a directory belongs to one parent at a time, and a restart on the same directory finds
//! the same cluster at the same addresses ([`Plan`]).

mod child;
mod plan;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use catena_client::{Client, ClientConfig};
use catena_types::Routing;

pub(crate) use child::Child;
pub(crate) use plan::{Port, Shape};

use plan::Plan;

use crate::fault::{Doing, Fault, Result};
use crate::health::{Grade, Health};

/// Time a process gets to stop by itself.
const GRACE: Duration = Duration::from_secs(10);
/// Time between two looks at something that changes.
const LOOK: Duration = Duration::from_millis(50);
/// Longest time a new cluster takes until it is healthy.
const START: Duration = Duration::from_secs(90);

/// A running cluster. Dropping it kills what [`Cluster::stop`] has not stopped.
pub(crate) struct Cluster {
    plan: Plan,
    dir: PathBuf,
    log: String,
    manager: Child,
    nodes: Vec<Child>,
    _lock: File,
}

impl Cluster {
    /// Starts the cluster of `dir`, as it was made before or else in the given shape, and waits until it is healthy.
    /// `log` is the filter of the children's logs.
    pub(crate) async fn start(dir: &Path, shape: Shape, port: Port, log: &str) -> Result<Cluster> {
        std::fs::create_dir_all(dir).doing(format_args!("make the directory {}", dir.display()))?;
        let dir = dir.canonicalize().doing(format_args!("find the directory {}", dir.display()))?;
        let lock = lock(&dir)?;
        let plan = Plan::load_or_make(&dir, shape, port)?;
        let manager = Child::spawn(&dir, "manager", &plan.manager_args(&dir, log))?;
        let mut cluster = Cluster { plan, dir, log: log.to_owned(), manager, nodes: Vec::new(), _lock: lock };
        for id in 1..=cluster.plan.shape.nodes {
            cluster.nodes.push(cluster.spawn_node(id)?);
        }
        cluster.form().await?;
        Ok(cluster)
    }

    /// `host:port` of the manager.
    pub(crate) fn manager_addr(&self) -> String {
        self.plan.manager_addr()
    }
    /// `host:port` of the HTTP endpoint of the manager, or of a node.
    pub(crate) fn http_addr(&self, node: Option<u32>) -> String {
        self.plan.http_addr(node)
    }
    /// The manager's process.
    pub(crate) fn manager(&self) -> &Child {
        &self.manager
    }
    /// The process of node `id` (from 1).
    pub(crate) fn node(&self, id: u32) -> &Child {
        &self.nodes[id as usize - 1]
    }
    /// Ids of the nodes.
    pub(crate) fn node_ids(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.plan.shape.nodes
    }
    /// How the cluster is laid out.
    pub(crate) fn shape(&self) -> &Shape {
        &self.plan.shape
    }
    /// Directory of everything.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
    /// Directory of node `id`.
    pub(crate) fn node_dir(&self, id: u32) -> PathBuf {
        Plan::node_dir(&self.dir, id)
    }
    /// Processes of all nodes.
    pub(crate) fn node_pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::pid).collect()
    }

    /// A client of this cluster.
    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(Client::connect(ClientConfig::new(self.manager_addr())).await?)
    }

    /// Ends node `id` with SIGKILL, as a crash would.
    pub(crate) async fn kill_node(&mut self, id: u32) -> Result<()> {
        self.nodes[id as usize - 1].kill().await
    }

    /// Stops node `id` in order.
    pub(crate) async fn stop_node(&mut self, id: u32) -> Result<()> {
        let node = &mut self.nodes[id as usize - 1];
        node.ask_to_stop()?;
        node.wait_or_kill(GRACE).await
    }

    /// Starts node `id` again.
    pub(crate) fn restart_node(&mut self, id: u32) -> Result<()> {
        self.nodes[id as usize - 1] = self.spawn_node(id)?;
        Ok(())
    }

    /// Starts the manager again.
    pub(crate) fn restart_manager(&mut self) -> Result<()> {
        self.manager = Child::spawn(&self.dir, "manager", &self.plan.manager_args(&self.dir, &self.log))?;
        Ok(())
    }

    /// The children that have ended since the last call, by name, with how they ended.
    pub(crate) fn ended(&mut self) -> Vec<(String, String)> {
        std::iter::once(&mut self.manager).chain(&mut self.nodes).filter_map(Child::newly_ended).collect()
    }

    /// Waits until `done` holds for the routing, at most `limit`; `what` is waited for.
    pub(crate) async fn wait_for(
        &mut self,
        client: &Client,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&Routing) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let routing = client.refresh_routing().await;
            if routing.as_ref().is_ok_and(|routing| done(routing)) {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit {
                let seen = routing.map_or_else(|e| e.to_string(), |r| format!("{:?}", Health::of(&r)));
                return Err(Fault::new(format!("{what} did not happen within {limit:?} ({seen}); logs are in {}", self.logs())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every chain is full and every node alive.
    pub(crate) async fn wait_healthy(&mut self, client: &Client, limit: Duration) -> Result<Duration> {
        let healthy = |routing: &Routing| Health::of(routing).grade == Grade::Healthy;
        self.wait_for(client, limit, "a healthy cluster", healthy).await
    }

    /// Stops everything in order, nodes first, so that each can say goodbye to the manager.
    pub(crate) async fn stop(mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.ask_to_stop()?;
        }
        for node in &mut self.nodes {
            node.wait_or_kill(GRACE).await?;
        }
        self.manager.ask_to_stop()?;
        self.manager.wait_or_kill(GRACE).await
    }

    /// Directory of the children's logs.
    pub(crate) fn logs(&self) -> String {
        self.dir.join("log").display().to_string()
    }

    fn spawn_node(&self, id: u32) -> Result<Child> {
        Child::spawn(&self.dir, &format!("node-{id}"), &self.plan.node_args(&self.dir, id, &self.log))
    }

    /// Makes the chain table if there is none, and waits until everything serves.
    async fn form(&mut self) -> Result<()> {
        let formed = async {
            let mut config = ClientConfig::new(self.plan.manager_addr());
            config.deadline = START;
            let client = Client::connect(config).await?;
            let shape = &self.plan.shape;
            if client.status().await?.routing.table.is_empty() {
                client.init(shape.replicas, shape.nodes, 0).await?;
            }
            Ok::<Client, Fault>(client)
        };
        tokio::pin!(formed);
        let client = loop {
            tokio::select! {
                client = &mut formed => break client?,
                () = tokio::time::sleep(LOOK) => {}
            }
            let children = std::iter::once(&mut self.manager).chain(&mut self.nodes);
            fail_if_ended(children)?;
        };
        let start = Instant::now();
        while start.elapsed() < START {
            let routing = client.refresh_routing().await?;
            if Health::of(&routing).grade == Grade::Healthy {
                return Ok(());
            }
            fail_if_ended(std::iter::once(&mut self.manager).chain(&mut self.nodes))?;
            tokio::time::sleep(LOOK).await;
        }
        Err(Fault::new(format!("the cluster is not healthy after {START:?}; logs are in {}", self.logs())))
    }
}

/// A child that ends while the cluster forms will not come back: says what its log says.
fn fail_if_ended<'a>(children: impl Iterator<Item = &'a mut Child>) -> Result<()> {
    for child in children {
        if let Some((name, how)) = child.newly_ended() {
            return Err(Fault::new(format!("{name} ended while starting ({how}): {}", child.last_words())));
        }
    }
    Ok(())
}

/// One parent per directory.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).doing(format_args!("create {}", path.display()))?;
    let busy = |_| Fault::new(format!("another catena runs in {}: stop it, or use another --dir", dir.display()));
    file.try_lock().map_err(busy)?;
    Ok(file)
}
