//! A cluster with secrets, on real processes: members, clients, and those who have neither.

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/cluster.rs"]
mod cluster;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cluster::{Cluster, run_with, text};

/// Writes a secret that nobody else may read; returns its path.
fn secret(dir: &Path, number: u8) -> String {
    let path = dir.join(format!("secret-{number}"));
    std::fs::write(&path, format!("{number:064}\n")).expect("written");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("changed");
    text(&path)
}

#[test]
fn a_secret_keeps_strangers_out_and_clients_in_their_place() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let [members, clients, strangers] = [1, 2, 3].map(|n| secret(dir.path(), n));
    let options = Box::leak(Box::new(["--client-secret-file", &*clients.clone().leak()]));
    let cluster = Cluster::with_services(2, options, options, |_| vec![("CATENA_SECRET_FILE", members)]);
    let with = |secret: Option<&str>, args: &[&str]| {
        let env = [Some(("CATENA_MANAGER", cluster.manager.as_str())), secret.map(|s| ("CATENA_SECRET_FILE", s))];
        let output = run_with(&env.into_iter().flatten().collect::<Vec<_>>(), args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()).ok_or(said)
    };
    let refused = |secret: Option<&str>, args: &[&str], says: &str| {
        let said = with(secret, args).expect_err("it must be refused");
        assert!(said.contains(says), "{args:?} must say {says:?}: {said}");
    };
    cluster.ok(&["chunk", "write", "k", "--data", "hello"]);
    assert_eq!(cluster.ok(&["chunk", "read", "k"]), "hello");

    refused(None, &["chunk", "read", "k"], "wants its secret: give --secret-file");
    refused(Some(&strangers), &["chunk", "read", "k"], "not one of this cluster's");
    let place = text(&dir.path().join("intruder"));
    let node = ["node", "--id", "9", "--dir", &place, "--manager", &cluster.manager, "--log", "off"];
    refused(Some(&strangers), &node, "not one of this cluster's");

    with(Some(&clients), &["chunk", "write", "k", "--data", "HE"]).expect("clients write");
    assert_eq!(with(Some(&clients), &["chunk", "read", "k"]).expect("clients read"), "HEllo");
    with(Some(&clients), &["status"]).expect("clients look");
    refused(Some(&clients), &["admin", "init", "--replicas", "1"], "cluster's own secret");
    refused(Some(&clients), &node, "cluster's own secret");
    cluster.wait_healthy();
}
