//! One etcd, on loopback unless told otherwise, with a data directory of its own. Ends with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running etcd, which can be paused, killed and started again on its data.
pub(crate) struct Etcd {
    dir: tempfile::TempDir,
    /// `host:port` for clients.
    pub(crate) addr: String,
    peers: String,
    /// Words that start its command, before its own.
    launcher: Vec<String>,
    process: Option<Child>,
}

impl Etcd {
    pub(crate) fn start(tmp: &Path) -> Etcd {
        Etcd::start_with(tmp, free_addr(), free_addr(), &[])
    }

    /// At an address of its own, by a command whose words are followed by etcd's.
    #[allow(dead_code, reason = "each test binary uses its part")]
    pub(crate) fn start_at(tmp: &Path, host: &str, launcher: &[String]) -> Etcd {
        Etcd::start_with(tmp, format!("{host}:2379"), format!("{host}:2380"), launcher)
    }

    fn start_with(tmp: &Path, addr: String, peers: String, launcher: &[String]) -> Etcd {
        let dir = tempfile::Builder::new().prefix("etcd-").tempdir_in(tmp).expect("a directory");
        let mut etcd = Etcd { dir, addr, peers, launcher: launcher.to_vec(), process: None };
        etcd.restart();
        etcd
    }

    pub(crate) fn restart(&mut self) {
        let (clients, peers) = (format!("http://{}", self.addr), format!("http://{}", self.peers));
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log file");
        let words = [&self.launcher[..], &["etcd".to_owned()]].concat();
        let process = Command::new(&words[0])
            .args(&words[1..])
            .args(["--name", "test", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("test={peers}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("etcd is needed for this test: apt-get install etcd-server"));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            kill_process(Pid::from_child(process), signal).expect("the process is there");
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_addr() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it listens").to_string()
}
