//! What is shipped beside the binary: units that systemd understands, and settings with which a manager and a node start.
//!
//! That the settings name every key, and no other, is tested where they are read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{PATIENCE, free_port, run_with, text};

/// Settings without a value that fits every machine: addresses, files, and what another store or another build has.
const NOT_DEFAULTS: [&str; 9] =
    ["advertise", "http", "etcd", "etcd-prefix", "term", "rma", "secret-file", "client-secret-file", "config"];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Long options of a command, as its help names them.
fn options(command: &str) -> BTreeSet<String> {
    let help = String::from_utf8(run_with(&[], &[command, "--help"]).stdout).expect("UTF-8");
    let long = |line: &str| Some(line.trim_start().strip_prefix("--")?.split([' ', '\n']).next()?.to_owned());
    help.lines().take_while(|l| !l.starts_with("Example")).filter_map(long).collect()
}

/// Keys of a file of settings, those behind a `#` as well, each with its line.
fn keys(settings: &str) -> Vec<(String, String)> {
    let key = |line: &str| {
        let line = line.strip_prefix('#').unwrap_or(line);
        let (key, _) = line.split_once(" = ")?;
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        is_key.then(|| (key.to_owned(), line.to_owned()))
    };
    settings.lines().filter_map(key).collect()
}

/// A process that is killed in the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(args: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command.args(args).env_remove("CATENA_MANAGER").env_remove("CATENA_SECRET_FILE").stdout(Stdio::null());
    Process(command.spawn().expect("the binary starts"))
}

/// With the defaults that they show spelled out, too; only places and addresses are this test's.
#[test]
fn a_manager_and_a_node_start_with_the_examples() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let spelled_out = |name: &str| {
        let lines = keys(&read(name)).into_iter().filter(|(key, _)| !NOT_DEFAULTS.contains(&key.as_str()));
        let path = dir.path().join(name);
        let all: Vec<String> = lines.map(|(_, line)| line).collect();
        std::fs::write(&path, all.join("\n")).expect("written");
        path
    };
    let examples = [deploy("catena-manager.toml"), deploy("catena-node.toml")];
    let defaults = [spelled_out("catena-manager.toml"), spelled_out("catena-node.toml")];
    for (n, [manager, node]) in [examples, defaults].into_iter().enumerate() {
        let at = format!("127.0.0.1:{}", free_port());
        let place = |what: &str| text(&dir.path().join(format!("{what}-{n}")));
        let _manager = start(&["manager", "--config", &text(&manager), "--dir", &place("manager"), "--listen", &at]);
        let own = ["--dir", &place("node"), "--manager", &at, "--port", "0", "--capacity", "256MiB"];
        let mut node = start(&[&["node", "--config", &text(&node)][..], &own].concat());
        let since = Instant::now();
        while !run_with(&[("CATENA_MANAGER", &at)], &["admin", "init", "--replicas", "1", "--nodes", "1"]).status.success() {
            assert!(since.elapsed() < PATIENCE, "no node has registered");
            assert!(matches!(node.0.try_wait(), Ok(None)), "the node has ended");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn units_start_what_there_is() {
    for (unit, command) in [("catena-manager.service", "manager"), ("catena-node@.service", "node")] {
        let unit = read(&format!("systemd/{unit}"));
        let starts: Vec<&str> = unit.lines().filter_map(|l| l.strip_prefix("ExecStart=")).collect();
        let [start] = starts[..] else { panic!("one process: {starts:?}") };
        let words: Vec<&str> = start.split(' ').collect();
        assert_eq!(words[..2], ["/usr/bin/catena", command]);
        let known = options(command);
        let given: Vec<&str> = words.iter().filter_map(|w| w.strip_prefix("--")).collect();
        assert!(given.iter().all(|option| known.contains(*option)), "{given:?} of {known:?}");
        // A wrong setting is no reason to try again, and exits with the code that says so.
        assert!(unit.contains("RestartPreventExitStatus=2") && unit.contains("Type=notify"));
    }
}

/// As systemd itself reads them, where there is one.
#[test]
fn systemd_understands_the_units() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let units = [("catena-manager.service", "catena-manager.service"), ("catena-node@.service", "catena-node@1.service")];
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for (shipped, instance) in units {
        // It looks for the program, too.
        let unit = read(&format!("systemd/{shipped}")).replace("/usr/bin/catena", env!("CARGO_BIN_EXE_catena"));
        std::fs::write(dir.path().join(instance), unit).expect("written");
        verify.arg(dir.path().join(instance));
    }
    match verify.output() {
        Err(e) => println!("not tested: systemd-analyze is not here ({e})"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let about: Vec<&str> = said.lines().filter(|line| line.contains("catena")).collect();
            assert!(output.status.success() && about.is_empty(), "{said}");
        }
    }
}
