//! A private network of processes: every member in a Linux network namespace of its own, all joined by a bridge in one more
//! namespace, nothing of it in the namespace of the machine. What travels from one member to another can be lost, each way
//! by itself, silently: the sender is told nothing. Needs root, and the commands `ip` (Debian: iproute2) and `nft` (nftables).
//!
//! The namespaces go when the network is dropped. Those of a test that could not do that are removed by the next one.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// All namespaces made here are called so, then the process, a number, and the member.
const PREFIX: &str = "catena-test";

/// See the file's documentation.
pub(crate) struct Net {
    /// What the namespaces' names begin with.
    prefix: String,
    members: Vec<String>,
}

impl Net {
    /// Makes the network: managers `manager0` and on, nodes `node1` and on, `client`, and others by name. None, and a line that
    /// says why, for a user who may not make one.
    pub(crate) fn start(managers: usize, nodes: usize, others: &[&str]) -> Option<Net> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make network namespaces");
            return None;
        }
        remove_leftovers();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let managers = (0..managers).map(|n| format!("manager{n}"));
        let nodes = (1..=nodes).map(|n| format!("node{n}"));
        let others = others.iter().map(|name| name.to_string());
        let members = managers.chain(nodes).chain(["client".to_owned()]).chain(others).collect();
        let net = Net { prefix: format!("{PREFIX}-{}-{number}", std::process::id()), members };
        let hub = net.namespace("hub");
        run("ip", &["netns", "add", &hub]);
        run("ip", &["-n", &hub, "link", "add", "bridge", "type", "bridge"]);
        run("ip", &["-n", &hub, "link", "set", "bridge", "up"]);
        net.members.iter().for_each(|member| net.join(&hub, member));
        Some(net)
    }

    fn join(&self, hub: &str, member: &str) {
        let (space, port) = (self.namespace(member), format!("port{}", self.number(member)));
        let addr = format!("{}/24", self.addr(member));
        run("ip", &["netns", "add", &space]);
        run("ip", &["-n", &space, "link", "set", "lo", "up"]);
        run("ip", &["-n", &space, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", hub]);
        run("ip", &["-n", hub, "link", "set", &port, "master", "bridge", "up"]);
        run("ip", &["-n", &space, "addr", "add", &addr, "dev", "eth0"]);
        run("ip", &["-n", &space, "link", "set", "eth0", "up"]);
        self.nft(member, &["add", "table", "inet", "cut"]);
        self.nft(member, &["add", "chain", "inet", "cut", "in", "{ type filter hook input priority 0; }"]);
    }

    fn number(&self, member: &str) -> usize {
        self.members.iter().position(|m| m == member).unwrap_or_else(|| panic!("{member} is no member of {:?}", self.members))
    }

    fn namespace(&self, member: &str) -> String {
        format!("{}-{member}", self.prefix)
    }

    /// The member's address, without a port.
    pub(crate) fn addr(&self, member: &str) -> String {
        format!("10.77.0.{}", self.number(member) + 1)
    }

    /// Words that start a command as the member, before its own words. The process is the command's.
    pub(crate) fn launcher(&self, member: &str) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace(member)].map(str::to_owned).to_vec()
    }

    /// The calling thread, and all that it starts from here on, is the member.
    pub(crate) fn enter(&self, member: &str) {
        self.door(member)();
    }

    /// The same for the thread that calls what is returned.
    pub(crate) fn door(&self, member: &str) -> impl FnOnce() + Send + 'static {
        let path = Path::new("/run/netns").join(self.namespace(member));
        let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        move || move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it")
    }

    /// From now on nothing that `from` sends arrives at `to`.
    pub(crate) fn lose(&self, from: &str, to: &str) {
        self.nft(to, &["add", "rule", "inet", "cut", "in", "ip", "saddr", &self.addr(from), "drop"]);
    }

    /// The same, both ways.
    pub(crate) fn cut(&self, a: &str, b: &str) {
        self.lose(a, b);
        self.lose(b, a);
    }

    /// The member is cut off from every other one.
    pub(crate) fn isolate(&self, member: &str) {
        self.members.iter().filter(|other| *other != member).for_each(|other| self.cut(member, other));
    }

    /// Everything arrives again.
    pub(crate) fn heal(&self) {
        self.members.iter().for_each(|member| self.nft(member, &["flush", "chain", "inet", "cut", "in"]));
    }

    fn nft(&self, member: &str, args: &[&str]) {
        run("ip", &[&["netns", "exec", &self.namespace(member), "nft"], args].concat());
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove(|name| name.starts_with(&format!("{}-", self.prefix)));
    }
}

/// Network namespaces of tests whose process is gone: it was killed.
fn remove_leftovers() {
    remove(|name| {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)).and_then(|id| id.parse::<u32>().ok());
        process.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists())
    });
}

/// Another test may remove the same leftovers: that somebody was faster is no failure.
fn remove(ours: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if ours(&name) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let output = match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(e) if e.kind() == ErrorKind::NotFound => panic!("{program} is missing: apt-get install iproute2 nftables"),
        Err(e) => panic!("{program} does not start: {e}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let hint = "this test needs network namespaces, and nft: apt-get install iproute2 nftables";
    assert!(output.status.success(), "{program} {args:?}: {said}{hint}");
}
