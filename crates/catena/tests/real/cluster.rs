//! A cluster of real processes of the `catena` binary, on loopback or in a private network, in a directory of its own.
//!
//! Every process is killed when the cluster is dropped; each can be killed with SIGKILL and started again on its data.

#[path = "net.rs"]
mod net;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) use net::Net;
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before a test gives up on it. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// See the file's documentation.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    /// Addresses of all managers, with commas between.
    pub(crate) manager: String,
    managers: Vec<Manager>,
    nodes: Vec<Option<Child>>,
    targets: u32,
    capacity: &'static str,
    /// More options of every node.
    options: &'static [&'static str],
    /// More options of every manager, and of the command that makes the chain table.
    manager_options: &'static [&'static str],
    init_options: &'static [&'static str],
    /// Environment of everything that is run.
    env: Vec<(&'static str, String)>,
    /// The network, unless all of it is on loopback. Goes last.
    net: Option<Net>,
}

/// One manager: where it listens and keeps its state, and its process while it runs.
struct Manager {
    addr: String,
    store: [String; 2],
    process: Option<Child>,
}

impl Cluster {
    /// Starts a manager and `nodes` nodes with `targets` targets each, and makes the chain table.
    pub(crate) fn start(nodes: usize, targets: u32, replicas: u32) -> Cluster {
        Cluster::with_capacity(nodes, targets, replicas, "4GiB")
    }

    /// The same with targets of `capacity`.
    pub(crate) fn with_capacity(nodes: usize, targets: u32, replicas: u32, capacity: &'static str) -> Cluster {
        Cluster::with_options(nodes, targets, replicas, capacity, &[])
    }

    /// The same with more options for every node.
    pub(crate) fn with_options(
        nodes: usize,
        targets: u32,
        replicas: u32,
        capacity: &'static str,
        options: &'static [&'static str],
    ) -> Cluster {
        let (dir, stores) = place();
        let mut cluster = Cluster::new(dir, stores, targets, capacity, options);
        cluster.form(nodes, replicas);
        cluster
    }

    /// `nodes` nodes that keep every chunk, with more options for node and manager, and an environment for everything that is run.
    /// `prepare` makes what these name, in the directory.
    pub(crate) fn with_services(
        nodes: usize,
        options: &'static [&'static str],
        manager_options: &'static [&'static str],
        prepare: impl FnOnce(&Path) -> Vec<(&'static str, String)>,
    ) -> Cluster {
        let (dir, stores) = place();
        let env = prepare(dir.path());
        let mut cluster = Cluster::new(dir, stores, 1, "1GiB", options);
        (cluster.env, cluster.manager_options) = (env, manager_options);
        cluster.form(nodes, nodes as u32);
        cluster
    }

    /// The same with a target of each node in no chain, and with a manager that replaces soon what is lost.
    pub(crate) fn with_spares(nodes: usize, targets: u32, replicas: u32) -> Cluster {
        let (dir, stores) = place();
        let mut cluster = Cluster::new(dir, stores, targets, "1GiB", &[]);
        cluster.manager_options = &["--replace-after", "3s", "--max-moves", "2"];
        cluster.init_options = &["--spare", "1"];
        cluster.form(nodes, replicas);
        cluster
    }

    /// The same with three managers on an etcd.
    pub(crate) fn on_etcd(etcd: &str, nodes: usize, targets: u32, replicas: u32) -> Cluster {
        let (dir, stores) = (place().0, on(etcd));
        let mut cluster = Cluster::new(dir, stores, targets, "1GiB", &[]);
        cluster.form(nodes, replicas);
        cluster
    }

    /// The same in a private network: with one manager, or three on an etcd. The calling thread becomes the `client` there.
    pub(crate) fn in_net(net: Net, etcd: Option<&str>, nodes: usize, targets: u32, replicas: u32) -> Cluster {
        Cluster::in_net_with(net, etcd, (nodes, targets, replicas), &[])
    }

    /// The same with nodes, targets and replicas as `shape`, and with more options for every manager.
    pub(crate) fn in_net_with(
        net: Net,
        etcd: Option<&str>,
        shape: (usize, u32, u32),
        manager_options: &'static [&'static str],
    ) -> Cluster {
        net.enter("client");
        let (nodes, targets, replicas) = shape;
        let (dir, alone) = place();
        let mut cluster = Cluster::new(dir, etcd.map_or(alone, on), targets, "1GiB", &[]);
        for (n, manager) in cluster.managers.iter_mut().enumerate() {
            manager.addr = format!("{}:7400", net.addr(&format!("manager{n}")));
        }
        cluster.manager = addresses(&cluster.managers);
        (cluster.net, cluster.manager_options) = (Some(net), manager_options);
        cluster.form(nodes, replicas);
        cluster
    }

    fn new(
        dir: tempfile::TempDir,
        stores: Vec<[String; 2]>,
        targets: u32,
        capacity: &'static str,
        options: &'static [&'static str],
    ) -> Cluster {
        let manager = |store| Manager { addr: format!("127.0.0.1:{}", free_port()), store, process: None };
        let managers: Vec<Manager> = stores.into_iter().map(manager).collect();
        let manager = addresses(&managers);
        let (manager_options, init_options, env) = (&[][..], &[][..], Vec::new());
        let (nodes, net) = (Vec::new(), None);
        Cluster { dir, manager, managers, nodes, targets, capacity, options, manager_options, init_options, env, net }
    }

    /// Starts everything and makes the chain table.
    fn form(&mut self, nodes: usize, replicas: u32) {
        (0..self.managers.len()).for_each(|n| self.start_manager_number(n));
        let cluster = self;
        cluster.nodes.resize_with(nodes, || None);
        for node in 0..nodes {
            cluster.start_node(node);
        }
        cluster.eventually("the chain table is made", |c| {
            let (replicas, nodes) = (replicas.to_string(), nodes.to_string());
            let init = ["admin", "init", "--replicas", &replicas, "--nodes", &nodes];
            c.run(&[&init, c.init_options].concat()).status.success()
        });
        cluster.wait_healthy();
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The private network that it was started in.
    pub(crate) fn net(&self) -> &Net {
        self.net.as_ref().expect("it was started in one")
    }

    pub(crate) fn start_manager(&mut self) {
        self.start_manager_number(0);
    }

    pub(crate) fn start_manager_number(&mut self, n: usize) {
        let Manager { addr, store: [option, place], .. } = &self.managers[n];
        let args = ["manager", option, place, "--listen", addr];
        let process = self.spawn(&format!("manager{n}"), &[&args[..], self.manager_options].concat());
        self.managers[n].process = Some(process);
    }

    /// Number of the manager at an address.
    pub(crate) fn manager_at(&self, addr: &str) -> Option<usize> {
        self.managers.iter().position(|m| m.addr == addr)
    }

    /// SIGSTOP, SIGCONT and the like to a manager.
    pub(crate) fn signal_manager(&self, n: usize, signal: Signal) {
        signal_process(self.managers[n].process.as_ref(), signal);
    }

    pub(crate) fn start_node(&mut self, node: usize) {
        let mut args = self.node_args(node, node + 1, &self.node_dir(node));
        if let Some(net) = &self.net {
            args.extend(["--listen".to_owned(), net.addr(&format!("node{}", node + 1))]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.nodes[node] = Some(self.spawn(&format!("node{}", node + 1), &args));
    }

    pub(crate) fn node_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node{}", node + 1))
    }

    /// Arguments that start node number `id` on `dir`.
    pub(crate) fn node_args(&self, _node: usize, id: usize, dir: &Path) -> Vec<String> {
        let targets = self.targets.to_string();
        let args = ["node", "--id", &id.to_string(), "--dir", &text(dir), "--manager", &self.manager];
        let sizes = ["--targets", &targets, "--shards", "1", "--capacity", self.capacity, "--journal", "4MiB"];
        args.iter().chain(&sizes).chain(self.options).map(|s| s.to_string()).collect()
    }

    fn spawn(&self, name: &str, args: &[&str]) -> Child {
        let log =
            File::options().create(true).append(true).open(self.dir.path().join(format!("{name}.log"))).expect("a log file");
        let mut words = self.net.as_ref().map_or(Vec::new(), |net| net.launcher(name));
        words.push(env!("CARGO_BIN_EXE_catena").to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args).envs(self.envs());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log file")).stderr(log);
        command.spawn().expect("the binary starts")
    }

    /// SIGSTOP, SIGCONT and the like to a node.
    pub(crate) fn signal_node(&self, node: usize, signal: Signal) {
        signal_process(self.nodes[node].as_ref(), signal);
    }

    /// Number of a node's process.
    pub(crate) fn node_process(&self, node: usize) -> u32 {
        self.nodes[node].as_ref().expect("it was started and not killed").id()
    }

    /// SIGTERM, and wait until the process has ended by itself, and well.
    pub(crate) fn stop_node(&mut self, node: usize) {
        stop(self.nodes[node].take());
    }

    pub(crate) fn stop_manager(&mut self) {
        stop(self.managers[0].process.take());
    }

    /// SIGKILL, and wait until the process is gone.
    pub(crate) fn kill_node(&mut self, node: usize) {
        kill(self.nodes[node].take());
    }

    pub(crate) fn kill_manager(&mut self) {
        self.kill_manager_number(0);
    }

    pub(crate) fn kill_manager_number(&mut self, n: usize) {
        kill(self.managers[n].process.take());
    }

    pub(crate) fn node_lives(&mut self, node: usize) -> bool {
        self.nodes[node].as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Runs a command of the binary against this cluster.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let manager = ("CATENA_MANAGER", self.manager.as_str());
        run_with(&self.envs().chain([manager]).collect::<Vec<_>>(), args)
    }

    fn envs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// What a process has logged; `name` is `manager0` or `node1`.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The same; the command must succeed. Returns what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?} failed: {}\n{}", String::from_utf8_lossy(&output.stderr), self.logs());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same; the command must fail. Returns what it said.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} should fail: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Waits until every chain has all its replicas serving.
    pub(crate) fn wait_healthy(&self) {
        self.eventually("every chain is fully SERVING", |c| c.run(&["status"]).status.code() == Some(0));
    }

    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut(&Cluster) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of every process's log, for a failing test.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.dir.path()).expect("the directory is there").flatten() {
            if entry.path().extension().is_some_and(|e| e == "log") {
                let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(30)..].join("\n");
                all.push_str(&format!("--- {}\n{tail}\n", entry.path().display()));
            }
        }
        all
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(|n| kill(n.take()));
        self.managers.iter_mut().for_each(|m| kill(m.process.take()));
    }
}

/// A directory, and a store in it for one manager.
fn place() -> (tempfile::TempDir, Vec<[String; 2]>) {
    let dir = tempfile::Builder::new().prefix("catena-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let stores = vec![["--dir".to_owned(), text(&dir.path().join("manager"))]];
    (dir, stores)
}

/// Stores of three managers on an etcd.
fn on(etcd: &str) -> Vec<[String; 2]> {
    vec![["--etcd".to_owned(), etcd.to_owned()]; 3]
}

fn addresses(managers: &[Manager]) -> String {
    managers.iter().map(|m| m.addr.as_str()).collect::<Vec<_>>().join(",")
}

fn signal_process(process: Option<&Child>, signal: Signal) {
    let process = process.expect("it was started and not killed");
    kill_process(Pid::from_child(process), signal).expect("the process is there");
}

fn stop(process: Option<Child>) {
    signal_process(process.as_ref(), Signal::TERM);
    let status = process.expect("it was started and not killed").wait().expect("it is our child");
    assert!(status.success(), "asked to stop, it ends with {status}");
}

fn kill(process: Option<Child>) {
    if let Some(mut process) = process {
        let _ = process.kill();
        let _ = process.wait();
    }
}

pub(crate) fn run_with(env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
    command.output().expect("the binary starts")
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("the test's paths are UTF-8").to_string()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}
