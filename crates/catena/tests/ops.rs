//! What operators see, on real processes: metrics, health and status over HTTP, and the dashboard, units and
//! settings made for them.

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/cluster.rs"]
mod cluster;
#[path = "ops/deploy.rs"]
mod deploy;
#[path = "ops/exposition.rs"]
mod exposition;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use cluster::Cluster;
use serde_json::Value;

/// Status and body of a GET.
fn get(addr: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("somebody listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Where a process serves HTTP, as its log says last.
fn http_of(log: &str) -> Option<String> {
    let line = log.lines().rev().find_map(|l| l.strip_prefix("http at http://"))?;
    line.split('/').next().map(str::to_owned)
}

const HTTP: &[&str] = &["--http", "127.0.0.1:0"];

/// Every word of the dashboard that looks like one of our metrics.
fn names_in_dashboard() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana/catena.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON");
    let mut names = BTreeSet::new();
    let mut rest = vec![&dashboard];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(fields) => {
                for query in ["expr", "query", "definition"].iter().filter_map(|f| fields.get(*f)?.as_str()) {
                    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                    names.extend(words.filter(|w| w.starts_with("catena_") || w.starts_with("process_")).map(str::to_owned));
                }
                rest.extend(fields.values());
            }
            Value::Array(values) => rest.extend(values),
            _ => {}
        }
    }
    names
}

#[test]
fn metrics_are_well_formed_and_the_dashboard_asks_for_nothing_else() {
    let cluster = Cluster::with_services(2, HTTP, HTTP, |_| Vec::new());
    cluster.ok(&["chunk", "write", "greeting", "--data", "hello"]);
    cluster.ok(&["chunk", "read", "greeting"]);
    let mut names = BTreeSet::new();
    let mut updates = 0.0;
    for process in ["node1", "node2", "manager0"] {
        let addr = http_of(&cluster.log(process)).expect("it says where");
        let (status, text) = get(&addr, "/metrics");
        assert_eq!(status, 200);
        assert!(!text.contains("greeting"), "no keys: {text}");
        let metrics = exposition::read(&text).unwrap_or_else(|e| panic!("{process}: {e}"));
        for (name, metric) in &metrics {
            assert!(!metric.samples.is_empty(), "{name} of {process} has no samples");
            names.extend(metric.samples.keys().map(|id| id.split('{').next().unwrap_or(id).to_owned()));
            if name == "catena_request_duration_seconds" {
                let of_updates = |id: &str| id.starts_with("catena_request_duration_seconds_count") && id.contains("update");
                updates += metric.samples.iter().filter(|(id, _)| of_updates(id)).map(|(_, v)| v).sum::<f64>();
            }
        }
        assert_eq!(get(&addr, "/healthz"), (200, "ok\n".to_owned()), "{process}");
        assert_eq!(get(&addr, "/").0, 404);
        let status: Value = serde_json::from_str(&get(&addr, "/status").1).expect("JSON");
        assert_eq!(status["fault"], Value::Null, "{process}: {status}");
    }
    assert!(updates >= 1.0, "the update is counted at the head");
    let asked = names_in_dashboard();
    assert!(asked.len() > 10, "{asked:?}");
    let unknown: Vec<_> = asked.difference(&names).collect();
    assert!(unknown.is_empty(), "no process has {unknown:?}");
}

#[test]
fn whoever_cannot_serve_answers_503_and_says_why() {
    let mut cluster = Cluster::with_services(1, HTTP, HTTP, |_| Vec::new());
    let node = http_of(&cluster.log("node1")).expect("it says where");
    cluster.kill_manager();
    cluster.eventually("the lease ends", |_| get(&node, "/healthz").0 == 503);
    let (_, why) = get(&node, "/healthz");
    assert!(why.contains("no lease") && why.contains(&cluster.manager), "{why}");
    cluster.start_manager();
    cluster.eventually("there is a lease again", |_| get(&node, "/healthz").0 == 200);

    // A manager that nothing is known to be elected beside.
    let args = ["manager", "--etcd", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "off"];
    let mut manager = Command::new(env!("CARGO_BIN_EXE_catena"));
    let mut manager = manager.args(args).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut said = String::new();
    let mut out = std::io::BufReader::new(manager.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut out, &mut said).expect("it says where");
    let answer = get(&http_of(&said).expect("it says where"), "/healthz");
    manager.kill().expect("it runs");
    manager.wait().expect("it ended");
    assert_eq!(answer.0, 503, "{answer:?}");
}

#[test]
fn one_update_is_followed_through_every_log() {
    const LOG: &[&str] = &["--log", "info,catena::update=debug", "--log-format", "json"];
    let cluster = Cluster::with_services(3, LOG, &["--log-format", "json"], |_| Vec::new());
    let written: Value = serde_json::from_str(&cluster.ok(&["chunk", "write", "k", "--data", "x", "--json"])).expect("JSON");
    let trace = written["trace"].as_str().expect("a number").to_owned();
    let steps_of = |process: &str| -> Vec<String> {
        let log = cluster.log(process);
        let lines = log.lines().filter(|l| l.starts_with('{')).map(|l| serde_json::from_str::<Value>(l).expect("JSON lines"));
        lines.filter(|l| l["trace"] == trace.as_str()).filter_map(|l| Some(l["message"].as_str()?.to_owned())).collect()
    };
    let mut heads = 0;
    for node in ["node1", "node2", "node3"] {
        let steps = steps_of(node);
        let has = |step: &str| steps.iter().any(|s| s == step);
        assert!(has("staged") && has("committed"), "{node}: {steps:?}");
        heads += usize::from(has("received") && has("forwarded") && has("replied"));
        assert!(has("received") || has("forward received"), "{node}: {steps:?}");
    }
    assert_eq!(heads, 1, "one head");
}

/// Addresses of `/proc/net/tcp` (or `tcp6`) on which a process listens.
fn listened_on(process: u32) -> Vec<String> {
    let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{process}/fd"))
        .expect("it runs")
        .filter_map(|fd| {
            std::fs::read_link(fd.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        })
        .collect();
    let tables = ["tcp", "tcp6"].map(|t| std::fs::read_to_string(format!("/proc/{process}/net/{t}")).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let listens = |row: &str| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        (columns[3] == "0A" && sockets.contains(columns[9])).then(|| columns[1].to_owned())
    };
    rows.filter_map(listens).collect()
}

/// A node that was told no address; a manager always is, here, and its help says what it takes unless told.
#[test]
fn nothing_listens_beyond_loopback_unless_told() {
    let cluster = Cluster::with_services(1, HTTP, &[], |_| Vec::new());
    let addresses = listened_on(cluster.node_process(0));
    assert!(addresses.len() >= 2, "a shard and HTTP: {addresses:?}");
    assert!(addresses.iter().all(|a| a.starts_with("0100007F:")), "{addresses:?}");
    for command in ["manager", "node"] {
        let help = String::from_utf8(cluster::run_with(&[], &[command, "-h"]).stdout).expect("UTF-8");
        let listen = help.split("--listen").nth(1).expect("an option").split("--").next().expect("its text");
        assert!(listen.contains("[default: 127.0.0.1"), "{command}: {listen}");
    }
}

/// Two ways to ask, one answer.
#[test]
fn status_names_who_is_waited_for() {
    let mut cluster = Cluster::with_services(2, &[], &[], |_| Vec::new());
    let look = |c: &Cluster| -> Value { serde_json::from_slice(&c.run(&["admin", "status", "--json"]).stdout).expect("JSON") };
    assert_eq!(look(&cluster)["awaited"], serde_json::json!({ "nodes": [], "chains": [] }));
    assert_eq!(cluster.run(&["admin", "status"]).status.code(), Some(0));
    cluster.kill_node(1);
    cluster
        .eventually("the other goes on alone", |c| look(c)["awaited"]["nodes"][0]["id"] == 2 && look(c)["grade"] == "degraded");
    let shown = cluster.run(&["status"]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("waiting for node 2"), "{shown:?}");
    cluster.kill_node(0);
    cluster.eventually("nobody serves", |c| look(c)["grade"] == "unavailable");
    assert_eq!(look(&cluster)["awaited"]["chains"][0]["one_of"].as_array().map(Vec::len), Some(1), "node 2 missed the end");
    let shown = cluster.run(&["admin", "status"]);
    assert_eq!(shown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("goes on when one of these is back: t"), "{shown:?}");
}

#[test]
fn operators_scrub_and_watch() {
    let cluster = Cluster::with_services(2, &[], &[], |_| Vec::new());
    cluster.ok(&["chunk", "write", "k", "--data", "hello"]);
    cluster.ok(&["admin", "scrub", "start"]);
    let passes = |c: &Cluster| -> Vec<u64> {
        let status: Value = serde_json::from_str(&c.ok(&["admin", "scrub", "status", "--json"])).expect("JSON");
        status["targets"].as_array().expect("a list").iter().map(|t| t["passes"].as_u64().expect("a number")).collect()
    };
    cluster.eventually("every target has completed a pass", |c| passes(c).iter().all(|&n| n > 0));
    assert_eq!(passes(&cluster).len(), 2);
    assert!(cluster.ok(&["admin", "scrub", "status", "--target", "1"]).contains("PASSES"));
    assert!(cluster.fails(&["admin", "scrub", "start", "--target", "99"]).contains("no target 99"));
    let seen = cluster.ok(&["admin", "watch", "--looks", "2", "--every", "100ms"]);
    assert!(seen.contains("healthy") && seen.contains("UPDATES/s"), "{seen}");
}
