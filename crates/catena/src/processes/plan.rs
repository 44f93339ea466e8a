//! How a cluster on one machine is laid out, remembered in its directory so that a restart finds it again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cmd::StoreArgs;
use crate::fault::{Doing, Fault, Result};

/// File in the directory that holds the plan.
const FILE: &str = "cluster.json";
/// Where commands look for a manager by themselves.
const WELL_KNOWN: u16 = 7400;
/// Where ports are looked for; below what the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 8000..32000;
/// Blocks of ports start at multiples of this.
const PORT_STEP: u16 = 100;

/// Size of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Nodes.
    pub(crate) nodes: u32,
    /// Targets per node.
    pub(crate) targets: u32,
    /// Replicas per chain.
    pub(crate) replicas: u32,
    /// Shards per node.
    pub(crate) shards: u32,
    /// Bytes per target.
    pub(crate) capacity: u64,
    /// How targets keep chunks.
    #[serde(default)]
    pub(crate) store: StoreArgs,
    /// The etcd that keeps the manager's state, `host:port`; none: a directory.
    #[serde(default)]
    pub(crate) etcd: Option<String>,
}

/// Which ports a cluster takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// From this one on.
    Fixed(u16),
    /// Those it had before, else from the one on that commands try by themselves, if they are free.
    WellKnown,
    /// Those it had before, else any free ones.
    Any,
}

/// A cluster on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Size.
    pub(crate) shape: Shape,
    /// Port of the manager; the shards of node 1 listen on the next ones, and so on; then come the HTTP endpoints.
    port: u16,
}

impl Plan {
    /// The plan of `dir`; a new one is written down if there is none. A fixed port moves the cluster there.
    pub(crate) fn load_or_make(dir: &Path, shape: Shape, port: Port) -> Result<Plan> {
        let known = Plan::load(dir, &shape)?;
        let ports = shape.ports()?;
        let given = match port {
            Port::Fixed(port) => Some(port),
            Port::WellKnown | Port::Any => known.as_ref().map(|k| k.port),
        };
        let port = match given {
            Some(port) if free(port, ports) => port,
            Some(port) => {
                let last = port.saturating_add(ports - 1);
                return Err(Fault::new(format!(
                    "a port of {port} to {last} is in use: stop what uses it, or give another --port"
                )));
            }
            None => find(ports, port).ok_or_else(|| Fault::new("no free ports found: give one with --port"))?,
        };
        let plan = Plan { shape, port };
        if known.as_ref() != Some(&plan) {
            let path = dir.join(FILE);
            let text = serde_json::to_vec_pretty(&plan).doing("write the plan")?;
            std::fs::write(&path, text).doing(format_args!("write {}", path.display()))?;
        }
        Ok(plan)
    }

    /// What is written down in `dir`, if anything; another shape than the one wanted is refused.
    fn load(dir: &Path, wanted: &Shape) -> Result<Option<Plan>> {
        let path = dir.join(FILE);
        let known: Plan = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).doing(format_args!("understand {}", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).doing(format_args!("read {}", path.display())),
        };
        if known.shape == *wanted {
            return Ok(Some(known));
        }
        let Shape { nodes, targets, replicas, shards, capacity, store, .. } = known.shape;
        let store = store.options().map(|(name, value)| format!("{name} {value}")).join(" ");
        Err(Fault::usage(format!(
            "{} holds a cluster of another shape: use --nodes {nodes} --targets {targets} --replicas {replicas} --shards {shards} \
             --capacity {capacity} {store}, or another --dir",
            dir.display()
        )))
    }

    /// `host:port` of the manager.
    pub(crate) fn manager_addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the HTTP endpoint of the manager, or of a node; behind all other ports.
    pub(crate) fn http_addr(&self, node: Option<u32>) -> String {
        let others = 1 + self.shape.nodes * self.shape.shards;
        format!("127.0.0.1:{}", u32::from(self.port) + others + node.unwrap_or(0))
    }

    /// Command line of the manager.
    pub(crate) fn manager_args(&self, dir: &Path, log: &str) -> Vec<String> {
        let common =
            ["manager", "--listen", &self.manager_addr(), "--log", log, "--http", &self.http_addr(None)].map(str::to_owned);
        let store = match &self.shape.etcd {
            None => vec!["--dir".to_owned(), dir.join("manager").display().to_string()],
            // Each directory is a cluster of its own.
            Some(etcd) => ["--etcd", etcd, "--etcd-prefix", &format!("{}/", dir.display())].map(str::to_owned).to_vec(),
        };
        common.into_iter().chain(store).collect()
    }

    /// Directory of node `id`, in that of the cluster.
    pub(crate) fn node_dir(dir: &Path, id: u32) -> PathBuf {
        dir.join(format!("node-{id}"))
    }

    /// Command line of node `id`.
    pub(crate) fn node_args(&self, dir: &Path, id: u32, log: &str) -> Vec<String> {
        let shape = &self.shape;
        let port = u32::from(self.port) + 1 + (id - 1) * shape.shards;
        let pairs = [
            ("--id", id.to_string()),
            ("--dir", Plan::node_dir(dir, id).display().to_string()),
            ("--manager", self.manager_addr()),
            ("--listen", "127.0.0.1".to_owned()),
            ("--port", port.to_string()),
            ("--shards", shape.shards.to_string()),
            ("--targets", shape.targets.to_string()),
            ("--capacity", shape.capacity.to_string()),
            ("--log", log.to_owned()),
            ("--http", self.http_addr(Some(id))),
        ];
        let pairs = pairs.into_iter().chain(shape.store.options());
        std::iter::once("node".to_owned()).chain(pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value])).collect()
    }
}

impl Shape {
    /// Ports the cluster needs.
    fn ports(&self) -> Result<u16> {
        // One per shard and one for the HTTP endpoint of each node, and both for the manager.
        let of_nodes = self.nodes.checked_mul(self.shards.saturating_add(1));
        let ports = of_nodes.and_then(|n| n.checked_add(2)).and_then(|n| u16::try_from(n).ok());
        ports
            .filter(|&n| n < 1000)
            .ok_or_else(|| Fault::usage("that is more shards than fit on one machine: fewer --nodes or --shards"))
    }
}

/// Whether `count` ports from `first` on can be listened on.
fn free(first: u16, count: u16) -> bool {
    let Some(end) = first.checked_add(count) else { return false };
    (first..end).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// The first free block, from a place that differs from process to process, so that clusters that start at the same time
/// do not meet.
fn find(count: u16, port: Port) -> Option<u16> {
    let blocks = u32::from((PORTS.end - PORTS.start) / PORT_STEP);
    let start = std::process::id() % blocks;
    let spread = (0..blocks).map(|n| PORTS.start + ((start + n) % blocks) as u16 * PORT_STEP);
    let well_known = (port == Port::WellKnown).then_some(WELL_KNOWN);
    well_known.into_iter().chain(spread).find(|&port| free(port, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { nodes: 3, targets: 2, replicas: 3, shards: 2, capacity: 1 << 30, store: StoreArgs::default(), etcd: None }
    }

    #[test]
    fn a_restart_finds_the_same_plan_and_another_shape_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Plan::load(dir.path(), &shape()).unwrap(), None);
        let made = Plan::load_or_make(dir.path(), shape(), Port::Any).unwrap();
        assert_eq!(Plan::load(dir.path(), &shape()).unwrap(), Some(made));
        let other = Plan::load(dir.path(), &Shape { nodes: 5, ..shape() });
        assert!(other.unwrap_err().to_string().contains("--nodes 3"));
        std::fs::write(dir.path().join(FILE), "garbage").unwrap();
        assert!(Plan::load(dir.path(), &shape()).unwrap_err().to_string().contains(FILE));
    }

    #[test]
    fn shards_listen_side_by_side() {
        let plan = Plan { shape: shape(), port: 9000 };
        let port = |id| {
            let args = plan.node_args(Path::new("/d"), id, "info");
            let at = args.iter().position(|a| a == "--port").unwrap();
            args[at + 1].clone()
        };
        assert_eq!([port(1), port(2), port(3)], ["9001", "9003", "9005"]);
        assert!(Shape { nodes: 10_000, ..shape() }.ports().is_err());
    }
}
