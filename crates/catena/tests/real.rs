//! The cluster as real processes: many clients at once, kill -9, restarts, bad input.
//!
//! Short by default; `CATENA_TEST_SECONDS=60` lets the loads run longer.

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/cluster.rs"]
mod cluster;
#[path = "real/etcd.rs"]
mod etcd;
#[path = "real/repair.rs"]
mod repair;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/workload.rs"]
mod workload;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use catena_client::{Client, ClientConfig, ReadOptions, UpdateOptions};
use cluster::{Cluster, PATIENCE, free_port, run_with, text};
use workload::{Plan, Random, Workload, progress, same_at_every_replica};

fn load_time() -> Duration {
    let seconds = std::env::var("CATENA_TEST_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    Duration::from_secs(seconds)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn sixteen_clients_on_the_same_chunks_are_linearizable() {
    let cluster = Cluster::start(3, 2, 3);
    runtime().block_on(async {
        let plan = Plan { clients: 16, chunks: 4, chunk_size: 64 << 10, deadline: Duration::from_secs(30) };
        let load = Workload::start(&cluster.manager, plan).await;
        tokio::time::sleep(load_time()).await;
        let (history, errors) = load.finish().await;
        assert!(errors.is_empty(), "{errors:?}");
        let stats = history.check().unwrap_or_else(|v| panic!("{v}"));
        assert!(stats.updates > 100 && stats.reads > 100, "{stats:?}");
        println!("{stats:?}");
    });
    (0..4).for_each(|chunk| same_at_every_replica(&cluster, &format!("shared/{chunk}")));
}

#[test]
fn kill_nine_of_any_process_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3, 2, 3);
    runtime().block_on(async {
        let plan = Plan { clients: 8, chunks: 6, chunk_size: 64 << 10, deadline: PATIENCE };
        let load = Workload::start(&cluster.manager, plan).await;
        for round in 0..4 {
            progress(&load, &cluster).await;
            if round < 3 {
                cluster.kill_node(round);
                tokio::time::sleep(Duration::from_millis(300)).await;
                cluster.start_node(round);
            } else {
                cluster.kill_manager();
                cluster.start_manager();
            }
            progress(&load, &cluster).await;
            cluster.wait_healthy();
        }
        // The power cut: everything at once.
        (0..3).for_each(|n| cluster.kill_node(n));
        cluster.kill_manager();
        cluster.start_manager();
        (0..3).rev().for_each(|n| cluster.start_node(n));
        progress(&load, &cluster).await;
        cluster.wait_healthy();
        progress(&load, &cluster).await;
        let (history, errors) = load.finish().await;
        let stats = history.check().unwrap_or_else(|v| panic!("{v}"));
        println!("{stats:?}, {} operations without a definite answer", errors.len());
    });
    (0..6).for_each(|chunk| same_at_every_replica(&cluster, &format!("shared/{chunk}")));
}

/// Under load, a target is in use; after SIGKILL, nothing in it is damaged.
#[test]
fn the_targets_of_a_killed_node_are_not_damaged() {
    let mut cluster = Cluster::start(2, 2, 2);
    let targets: Vec<String> = (0..4).map(|n| text(&cluster.node_dir(n / 2).join(format!("targets/{}", n % 2)))).collect();
    runtime().block_on(async {
        let plan = Plan { clients: 8, chunks: 6, chunk_size: 64 << 10, deadline: PATIENCE };
        let load = Workload::start(&cluster.manager, plan).await;
        progress(&load, &cluster).await;
        assert!(cluster.fails(&["fsck", &targets[0]]).contains("in use"));
        (0..2).for_each(|n| cluster.kill_node(n));
        for target in &targets {
            let found = cluster.run(&["fsck", target]);
            // A copy of the superblock may be old: it was killed at any moment.
            assert_eq!(found.status.code(), Some(0), "{target}: {}", String::from_utf8_lossy(&found.stdout));
        }
        (0..2).for_each(|n| cluster.start_node(n));
        progress(&load, &cluster).await;
        let (history, _) = load.finish().await;
        history.check().unwrap_or_else(|v| panic!("{v}"));
    });
}

/// Stores in place in a cluster: linearizable while every node is killed once, shown by the commands, sound on disk.
#[test]
fn stores_in_place_lose_nothing_acknowledged() {
    let mut cluster = Cluster::with_options(3, 2, 3, "1GiB", &["--store", "in-place", "--scrub-rate", "64MiB"]);
    runtime().block_on(async {
        let plan = Plan { clients: 8, chunks: 6, chunk_size: 64 << 10, deadline: PATIENCE };
        let load = Workload::start(&cluster.manager, plan).await;
        for node in 0..3 {
            progress(&load, &cluster).await;
            cluster.kill_node(node);
            for target in 0..2 {
                let dir = text(&cluster.node_dir(node).join(format!("targets/{target}")));
                let found = cluster.run(&["fsck", &dir]);
                assert_eq!(found.status.code(), Some(0), "{dir}: {}", String::from_utf8_lossy(&found.stdout));
            }
            cluster.start_node(node);
            progress(&load, &cluster).await;
            cluster.wait_healthy();
        }
        let (history, _) = load.finish().await;
        history.check().unwrap_or_else(|v| panic!("{v}"));
    });
    (0..6).for_each(|chunk| same_at_every_replica(&cluster, &format!("shared/{chunk}")));
    assert!(cluster.ok(&["status"]).contains("in place, flush"));
    let target: serde_json::Value = serde_json::from_str(&cluster.ok(&["target", "1", "--scrub", "--json"])).expect("JSON");
    assert_eq!((target["store"].as_str(), target["damaged"].as_u64()), (Some("in place"), Some(0)), "{target}");
    assert!(target["values"]["bytes_applied"].as_u64().is_some() && target["histograms"]["stage_nanoseconds"].is_object());
    cluster.eventually("a scrub pass ends", |c| {
        let target: serde_json::Value = serde_json::from_str(&c.ok(&["target", "1", "--json"])).expect("JSON");
        target["scrub"]["passes"].as_u64().is_some_and(|n| n > 0) && target["scrub"]["bad"] == 0
    });
}

#[test]
fn objects_come_back_as_they_went_in_over_a_restart() {
    let mut cluster = Cluster::start(3, 2, 3);
    let files = cluster.dir().join("files");
    std::fs::create_dir_all(files.join("deep/er")).expect("a directory");
    let mut random = Random(42);
    let contents = [("a.bin", 5_000_000usize), ("deep/empty", 0), ("deep/er/small", 17), ("deep/er/even", 1 << 20)];
    for (name, len) in contents {
        std::fs::write(files.join(name), random.bytes(len)).expect("a file");
    }
    cluster.ok(&["put", "-r", &text(&files), "tree/"]);
    (0..3).for_each(|n| cluster.kill_node(n));
    (0..3).for_each(|n| cluster.start_node(n));
    cluster.wait_healthy();
    let back = cluster.dir().join("back");
    cluster.ok(&["get", "-r", "tree/", &text(&back)]);
    for (name, _) in contents {
        let (was, is) = (std::fs::read(files.join(name)), std::fs::read(back.join(name)));
        assert!(was.expect("written") == is.unwrap_or_else(|e| panic!("{name}: {e}")), "{name} differs");
    }
    let listing = cluster.ok(&["ls", "tree/deep"]);
    assert!(listing.contains("tree/deep/empty") && !listing.contains("a.bin"), "{listing}");
    cluster.ok(&["rm", "-r", "tree/"]);
    assert!(cluster.ok(&["ls"]).trim().is_empty());
    // Nothing is left behind: no data chunk of a removed object.
    runtime().block_on(async {
        let client = Client::connect(ClientConfig::new(&cluster.manager)).await.expect("the manager answers");
        let page = client.list("d/", "", 10).await.expect("a listing");
        assert!(page.entries.is_empty(), "{:?}", page.entries);
    });
}

#[test]
fn bad_input_gets_a_clear_error_and_the_process_lives() {
    let mut cluster = Cluster::start(3, 1, 3);
    let says = |output: String, words: &[&str]| {
        assert!(words.iter().all(|w| output.to_lowercase().contains(&w.to_lowercase())), "{output:?} should say {words:?}");
    };
    says(cluster.fails(&["chunk", "write", &"k".repeat(256), "--data", "x"]), &["255"]);
    says(cluster.fails(&["chunk", "write", "", "--data", "x"]), &["key"]);
    says(cluster.fails(&["chunk", "write", "k", "--offset", "4096", "--data", "x", "--chunk-size", "4KiB"]), &["chunk size"]);
    says(cluster.fails(&["chunk", "write", "k", "--data", "x", "--chunk-size", "5000"]), &["multiple"]);
    says(cluster.fails(&["chunk", "read", "nothing-here"]), &["nothing-here"]);
    says(cluster.fails(&["get", "no-such-object", "-"]), &["no-such-object"]);
    let nobody = format!("127.0.0.1:{}", free_port());
    let lost = run_with(&[("CATENA_MANAGER", &nobody)], &["ls"]);
    says(String::from_utf8_lossy(&lost.stderr).into_owned(), &[&nobody]);
    garbage_on_every_port(&cluster);
    // A second process with the identity of a living node, on another directory.
    let other = cluster.dir().join("impostor");
    let args = cluster.node_args(0, 1, &other);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    says(cluster.fails(&args), &["node 1"]);
    // A second process on the directory of a living node, and a directory that belongs to another node.
    let own = cluster.node_args(0, 1, &cluster.node_dir(0));
    says(cluster.fails(&own.iter().map(String::as_str).collect::<Vec<_>>()), &["node1"]);
    cluster.kill_node(1);
    let foreign = cluster.node_args(1, 7, &cluster.node_dir(1));
    says(cluster.fails(&foreign.iter().map(String::as_str).collect::<Vec<_>>()), &["node 2"]);
    cluster.start_node(1);
    // A node of this cluster cannot join another one.
    let stranger = Cluster::start(1, 1, 1);
    cluster.kill_node(2);
    let mut moved = cluster.node_args(2, 3, &cluster.node_dir(2));
    let at = moved.iter().position(|a| *a == cluster.manager).expect("the manager's address");
    moved[at] = stranger.manager.clone();
    says(stranger.fails(&moved.iter().map(String::as_str).collect::<Vec<_>>()), &["cluster"]);
    cluster.start_node(2);
    cluster.wait_healthy();
    assert!((0..3).all(|n| cluster.node_lives(n)));
    cluster.ok(&["chunk", "write", "k", "--data", "still alive", "--chunk-size", "4KiB"]);
    assert!(cluster.ok(&["chunk", "read", "k"]).contains("still alive"));
}

/// A node's directory is copied, identity and all, and a process started on the copy while the first lives.
#[test]
fn a_copy_of_a_living_nodes_directory_is_refused() {
    let mut cluster = Cluster::with_capacity(3, 1, 3, "256MiB");
    cluster.ok(&["chunk", "write", "k", "--data", "before"]);
    let node_of = |c: &Cluster| -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_str(&c.ok(&["status", "--json"])).expect("JSON");
        status["nodes"].as_array().expect("a list").iter().find(|n| n["id"] == 2).expect("it is known").clone()
    };
    let first = node_of(&cluster);
    let copy = cluster.dir().join("copy");
    let copied = std::process::Command::new("cp").args(["-r", "--sparse=always"]).arg(cluster.node_dir(1)).arg(&copy).status();
    assert!(copied.expect("cp is there").success());
    let args = cluster.node_args(1, 2, &copy);
    let said = cluster.fails(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let address = first["addresses"][0].as_str().expect("it has one");
    assert!(said.contains("node 2") && said.contains(address) && said.contains("copy"), "{said}");
    assert_eq!(node_of(&cluster), first, "the first is not disturbed");
    assert!(cluster.node_lives(1));
    assert_eq!(cluster.run(&["status"]).status.code(), Some(0));
    cluster.ok(&["chunk", "write", "k", "--data", "behind"]);

    // A node that is killed and started again on its own directory waits for nobody's lease.
    cluster.kill_node(1);
    cluster.start_node(1);
    cluster.wait_healthy();
    assert!(cluster.ok(&["chunk", "read", "k"]).contains("behind"));
}

fn garbage_on_every_port(cluster: &Cluster) {
    let status = cluster.ok(&["status", "--json"]);
    let addresses: Vec<&str> = status.split('"').filter(|word| word.starts_with("127.0.0.1:")).collect();
    assert!(addresses.len() >= 3, "{status}");
    for address in addresses.into_iter().chain([cluster.manager.as_str()]) {
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 10_000], Random(1).bytes(1000)] {
            let mut stream = TcpStream::connect(address).expect("the port is open");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let cluster = Cluster::with_capacity(3, 1, 3, "64MiB");
    runtime().block_on(async {
        let client = Client::connect(ClientConfig::new(&cluster.manager)).await.expect("the manager answers");
        let options = UpdateOptions::default();
        let data = bytes::Bytes::from(Random(3).bytes(1 << 20));
        let mut refused = None;
        for n in 0..80 {
            if let Err(e) = client.write(format!("full/{n}"), 0, data.clone(), &options).await {
                refused = Some(e);
                break;
            }
        }
        let refused = refused.expect("64 MiB are full after 80");
        assert_eq!(refused.kind(), catena_client::ErrorKind::NoSpace, "{refused}");
        let read = client.read("full/0", 0, 1 << 20, &ReadOptions::default()).await.expect("reads go on");
        assert!(read.data == data);
        // Removing makes room again.
        for n in 0..4 {
            client.remove(format!("full/{n}"), &options).await.expect("a remove needs no room");
        }
        client.write("again", 0, data, &options).await.expect("room again");
    });
}
