//! The command line as a process: help, wrong usage, a manager that is not there. What needs a cluster is tested elsewhere.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use catena_arena::Arena;
use catena_engine::disk::file::{Backend, Ring};
use catena_engine::target_dir::{DATA_FILE, TargetDir};
use catena_engine::{Params, StoreKind};
use catena_types::{ChunkKey, ChunkStore, Op, StageRequest, Tag};

fn catena(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command.env_remove("CATENA_MANAGER").env_remove("CATENA_LOG").env("TMPDIR", std::env::temp_dir());
    command.args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An address at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Fails with `code`, says nothing on stdout and `expected` on stderr.
#[track_caller]
fn refused(args: &[&str], code: i32, expected: &str) {
    let output = catena(args);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(errors.contains(expected), "{args:?} must say {expected:?}: {errors}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
}

#[test]
fn every_command_has_help() {
    let help = catena(&["--help"]);
    assert!(help.status.success());
    let listed = text(&help.stdout);
    for command in [
        "demo", "dev", "manager", "node", "admin", "status", "put", "get", "cat", "ls", "stat", "rm", "chunk", "inspect", "fsck",
        "bench",
    ] {
        assert!(listed.contains(&format!("\n  {command} ")), "{command} is not in:\n{listed}");
        let help = catena(&[command, "--help"]);
        assert!(help.status.success() && text(&help.stdout).contains("Usage: catena"), "{command}");
    }
    assert!(text(&catena(&["--version"]).stdout).starts_with("catena "));
}

#[test]
fn wrong_usage_is_exit_code_2_with_a_reason() {
    refused(&["frobnicate"], 2, "unrecognized subcommand");
    refused(&["put"], 2, "required");
    refused(&["put", "-"], 2, "name the object");
    refused(&["put", "/"], 2, "name the object");
    refused(&["put", "/tmp", "x"], 2, "add -r");
    refused(&["put", "x", "--chunk-size", "100"], 2, "multiple of 4096");
    refused(&["get", "a", "--range", "9-3"], 2, "empty");
    refused(&["chunk", "write", "k"], 2, "--data");
    refused(&["chunk", "write", "", "--data", "x"], 2, "1 to 255 bytes");
    refused(&["chunk", "write", "k", "--data", "x", "--if-absent", "--if-exists"], 2, "cannot be used with");
    refused(&["chunk", "write", "k", "--data", "x", "--offset", "1TiB"], 2, "largest chunk");
    refused(&["dev", "--nodes", "2", "--replicas", "3"], 2, "3 replicas need 3 nodes");
    refused(&["bench", "--size", "1GiB"], 2, "1 to");
    refused(&["bench", "--size", "64KiB", "--chunk-size", "4KiB"], 2, "smaller than");
    refused(&["bench", "engine", "--only", "juggle"], 2, "there are new-64k");
    refused(&["bench", "engine", "--capacity", "1MiB"], 2, "too small for new-64k");
    refused(&["node", "--id", "0", "--dir", "x"], 2, "0");
    refused(&["rm", "-r", ""], 2, "empty prefix");
    refused(&["inspect", "x", "--journal", "--free"], 2, "cannot be used with");
    refused(&["inspect", "x", "--chunk", ""], 2, "1 to 255 bytes");
    refused(&["fsck"], 2, "required");
}

#[test]
fn a_manager_that_is_not_there_is_named_in_one_line() {
    let nobody = nobody();
    refused(&["status", "--manager", &nobody], 2, &nobody);
    let output = catena(&["ls", "--manager", &nobody]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("catena: cannot reach the manager") && errors.contains("--manager"), "{errors}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let path = file.to_str().unwrap();
    refused(&["dev", "--dir", path], 1, path);
    refused(&["manager", "--dir", path, "--listen", "127.0.0.1:0", "--log", "off"], 1, "cannot start the manager");
    refused(&["node", "--id", "1", "--dir", path, "--manager", &nobody(), "--log", "off"], 1, path);
    refused(&["put", "/nonexistent/file", "--manager", &nobody()], 1, "cannot");
}

/// A small cluster for a moment: every size and depth has its line, beside a bare chain; at a fixed rate there is none.
#[test]
fn writes_are_measured_beside_a_bare_chain() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let small = ["--capacity", "256MiB", "--targets", "1", "--working-set", "1MiB", "--duration", "100ms", "--json", "--dir"];
    let lines = |args: &[&str]| -> Vec<serde_json::Value> {
        let output = catena(&[&["bench"], args, &small[..], &[dir.path().to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let measured = lines(&["write", "--size", "4KiB,64KiB", "--depth", "2", "--rounds", "2"]);
    assert_eq!(measured.iter().map(|line| line["size"].as_u64().unwrap()).collect::<Vec<_>>(), [4096, 65536]);
    for line in &measured {
        assert_eq!((&line["errors"], &line["rounds"], &line["replicas"]), (&0.into(), &2.into(), &3.into()), "{line}");
        for figures in [line, &line["ceiling"]] {
            for field in ["ops_per_second", "bytes_per_second", "p50_us", "p999_us"] {
                assert!(figures[field].as_f64().unwrap() > 0.0, "{field} of {line}");
            }
            assert!(figures["nodes"]["cpu_us"].as_f64().unwrap() > 0.0, "{line}");
        }
        assert!(line["of_ceiling"].as_f64().unwrap() > 0.0 && line["cpu_of_ceiling"].as_f64().unwrap() > 0.0, "{line}");
    }
    let measured = lines(&["mixed", "--overwrite", "--chunk-size", "64KiB", "--size", "4KiB", "--rate", "200", "--rounds", "1"]);
    assert!(measured[0]["ceiling"].is_null() && measured[0]["errors"] == 0, "{}", measured[0]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
}

/// One target for a moment: every work prints its line, and nothing is left of it.
#[test]
fn the_engine_is_measured_without_a_cluster() {
    // Under the target directory: a real file system, unlike /tmp on some machines.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let brief = ["--duration", "50ms", "--rounds", "1", "--capacity", "256MiB", "--chunks", "2000"];
    let mut args = vec!["bench", "engine", "--dir", dir.path().to_str().unwrap(), "--json"];
    args.extend(["--only", "new-64k,update-4k,append,read-4k,open"]);
    let output = catena(&[&args[..], &brief].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<serde_json::Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let works: Vec<_> = lines.iter().map(|line| line["work"].as_str().unwrap()).collect();
    assert_eq!(works, ["new-64k", "update-4k", "append-64k", "read-4k", "open", "open"]);
    for line in &lines[..4] {
        for field in ["raw_ops_per_second", "ops_per_second", "ratio", "bar", "p50_us", "p99_us", "p999_us", "cpu_us_per_op"] {
            assert!(line[field].as_f64().unwrap() > 0.0, "{field} of {line}");
        }
        assert_eq!(line["ratios"].as_array().unwrap().len(), 1);
        let writes = line["work"] != "read-4k";
        assert_eq!(line["flushes_per_op"].as_f64().unwrap() > 0.0, writes, "{line}");
        assert_eq!(line["store_bytes_per_byte"].as_f64().is_some_and(|n| n >= 1.0), writes, "{line}");
    }
    for line in &lines[4..] {
        assert_eq!(line["chunks"], 2000);
        assert!(line["seconds"].as_f64().unwrap() > 0.0 && line["bytes_per_chunk"].as_f64().unwrap() > 0.0, "{line}");
    }
    assert!(lines[4]["replayed"].as_u64().unwrap() > 0, "a kill leaves records: {}", lines[4]);
    assert_eq!(lines[5]["replayed"], 0, "a close leaves none");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the directory is left as it was");
}

/// A target in `dir` with three chunks, of which one has a staged update; its process has ended without closing it.
fn make_target(dir: &Path, kind: StoreKind) {
    let arena = Arena::new(16 << 20);
    let ring = Ring::new(Backend::Threads, &arena).unwrap();
    let mut params = Params::new([7; 16], 64 << 20);
    params.kind = kind;
    let (_lock, mut store) = TargetDir::open_or_create(dir, &params, &ring, &arena).unwrap();
    for (name, ver) in [("one", 1), ("two", 1), ("three", 1), ("two", 2), ("three", 2)] {
        let payload = vec![b'a' + ver as u8; 10_000];
        let tag = Tag { client: 1, channel: 0, seq: ver };
        let key = ChunkKey::new(name.as_bytes()).unwrap();
        let request = StageRequest {
            key: key.clone(),
            ver,
            chain_ver: 1,
            tag,
            op: Op::write(0, 10_000),
            chunk_size: 64 << 10,
            payload: bytes::Bytes::from(payload).into(),
        };
        store.stage(request).unwrap();
        let mut done = Vec::new();
        while done.is_empty() {
            store.turn(1, &mut done);
            store.wait();
        }
        if (name, ver) != ("three", 2) {
            store.commit(&key, ver, 1);
        }
    }
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {} {}", text(&output.stdout), text(&output.stderr)))
}

#[test]
fn a_target_is_shown_and_checked_and_damage_is_found() {
    for kind in [StoreKind::Cow, StoreKind::InPlace] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        make_target(dir.path(), kind);
        let path = dir.path().to_str().unwrap();
        for what in [&[][..], &["--journal"], &["--checkpoint"], &["--free"], &["--chunk", "two"]] {
            let args = [&["inspect", path], what].concat();
            let (shown, machine) = (catena(&args), catena(&[&args[..], &["--json"]].concat()));
            assert!(shown.status.success() && text(&shown.stdout).lines().count() > 2, "{args:?}: {}", text(&shown.stderr));
            assert_eq!(json(&machine)["findings"].as_array().map(Vec::len), Some(0), "{args:?}");
        }
        let chunk = json(&catena(&["inspect", path, "--chunk", "two", "--json"]));
        assert_eq!((&chunk["committed"]["ver"], &chunk["committed"]["good"]), (&2.into(), &true.into()), "{chunk}");
        refused(&["inspect", path, "--chunk", "four"], 3, "no chunk four");

        let checked = catena(&["fsck", path]);
        assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
        assert!(text(&checked.stdout).contains("clean") && text(&checked.stdout).contains("3, 1 staged"));

        // A byte of what is committed, at its place on disk.
        let one = json(&catena(&["inspect", path, "--chunk", "one", "--json"]));
        let at = one["committed"]["extents"][0]["offset"].as_u64().unwrap();
        let file = std::fs::File::options().read(true).write(true).open(dir.path().join(DATA_FILE)).unwrap();
        file.write_all_at(b"!", at + 5000).unwrap();
        let checked = catena(&["fsck", path, "--json"]);
        let report = json(&checked);
        assert_eq!(checked.status.code(), Some(1), "{report}");
        let finding = &report["findings"][0];
        assert_eq!((&finding["class"], &finding["severity"]), (&"data".into(), &"damage".into()), "{report}");
        assert_eq!(finding["offset"].as_u64(), Some(at + 4096), "{report}");
        let shown = catena(&["fsck", path]);
        assert_eq!(shown.status.code(), Some(1));
        assert!(text(&shown.stdout).contains("chunk one version 1: block 1") && text(&shown.stdout).contains("next:"));
        assert_eq!(catena(&["fsck", path, "--quick"]).status.code(), Some(0), "the structures are whole");
    }
}

#[test]
fn what_is_not_a_target_or_is_in_use_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_str().unwrap();
    refused(&["fsck", path], 2, "holds no target");
    refused(&["inspect", path], 1, "holds no target");
    std::fs::create_dir_all(dir.path().join("node/targets")).unwrap();
    refused(&["fsck", dir.path().join("node").to_str().unwrap()], 2, "name one of its targets");
    std::fs::create_dir(dir.path().join("other")).unwrap();
    std::fs::write(dir.path().join("other").join(DATA_FILE), vec![b'x'; 100_000]).unwrap();
    refused(&["fsck", dir.path().join("other").to_str().unwrap()], 2, "is not a Catena target");
    let used = dir.path().join("used");
    let arena = Arena::new(16 << 20);
    let ring = Ring::new(Backend::Threads, &arena).unwrap();
    let _open = TargetDir::open_or_create(&used, &Params::new([7; 16], 64 << 20), &ring, &arena).unwrap();
    refused(&["fsck", used.to_str().unwrap()], 2, "in use by another process");
    refused(&["inspect", used.to_str().unwrap()], 1, "in use by another process");
}
