//! A cluster with secrets, on real processes: members, clients, and those who have neither.

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/cluster.rs"]
mod cluster;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use catena_arena::Arena;
use catena_net::{Frame, Rpc, Security};
use catena_types::{Code, Failure};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;
use catena_wire::manager::{AdminReply, AdminRequest, HeartbeatReply, HeartbeatRequest, RegisterReply, RegisterRequest};
use catena_wire::peer::PeerMsg;
use cluster::{Cluster, PATIENCE, run_with, text};

/// Writes a file with one secret that nobody else may read; returns its path.
fn secret(dir: &Path, number: u8) -> String {
    let path = dir.join(format!("secret-{number}"));
    keep(&path, &[number]);
    text(&path)
}

/// Writes these secrets, one per line.
fn keep(path: &Path, numbers: &[u8]) {
    let lines: String = numbers.iter().map(|number| format!("{number:064}\n")).collect();
    std::fs::write(path, lines).expect("written");
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("changed");
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
    let brief = ["--size", "4KiB", "--depth", "1", "--working-set", "64KiB", "--duration", "50ms", "--rounds", "1"];
    with(Some(&clients), &[&["bench", "mixed"], &brief[..]].concat()).expect("clients measure");
    refused(None, &[&["bench", "mixed"], &brief[..]].concat(), "wants its secret: give --secret-file");
    refused(Some(&clients), &["admin", "init", "--replicas", "1"], "cluster's own secret");
    refused(Some(&clients), &node, "cluster's own secret");
    cluster.wait_healthy();
}

/// Somebody with the clients' secret who knows how members talk.
#[test]
fn a_client_does_not_pass_for_a_member() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let [members, clients] = [1, 2].map(|n| secret(dir.path(), n));
    let options = Box::leak(Box::new(["--client-secret-file", &*clients.leak()]));
    let cluster = Cluster::with_services(2, options, options, |_| vec![("CATENA_SECRET_FILE", members)]);
    let status = cluster.ok(&["status", "--json"]);
    let node = status.split('"').find(|word| word.starts_with("127.0.0.1:") && *word != cluster.manager).expect("a node");
    let security = Security::with_secrets(&[format!("{:064}", 2)], &[]).expect("it is long enough");
    let connect = async |addr: &str, hello| Rpc::connect(addr, hello, &security, Arena::new(0), PATIENCE).await;
    let told = |failure: Option<Failure>| assert_eq!(failure.map(|f| f.code()), Some(Code::NotAuthorized));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let as_node = Hello { node: 2, incarnation: u64::MAX, ..Hello::default() };
        told(connect(node, as_node).await.err().expect("refused").failure().cloned());
        let rpc = connect(node, Hello::default()).await.expect("a client connects");
        let answer = rpc.call_frame(Frame::new(Kind::Peer, 0, &PeerMsg::default()), PATIENCE).await;
        assert!(answer.is_err() && rpc.is_closed(), "what nodes say to each other ends a client's connection: {answer:?}");

        let rpc = connect(&cluster.manager, Hello::default()).await.expect("a client connects");
        let heartbeat = HeartbeatRequest { node: 1, incarnation: u64::MAX, ..HeartbeatRequest::default() };
        told(rpc.call::<_, HeartbeatReply>(Kind::Heartbeat, &heartbeat, PATIENCE).await.expect("an answer").0.failure);
        let register = RegisterRequest { node: 9, ..RegisterRequest::default() };
        told(rpc.call::<_, RegisterReply>(Kind::Register, &register, PATIENCE).await.expect("an answer").0.failure);
        let admin = AdminRequest::default();
        told(rpc.call::<_, AdminReply>(Kind::Admin, &admin, PATIENCE).await.expect("an answer").0.failure);
    });
    cluster.wait_healthy();
    cluster.ok(&["chunk", "write", "k", "--data", "undisturbed"]);
}

/// Another secret, brought in beside the old one as the documentation says: at no time is anybody refused.
#[test]
fn a_new_secret_comes_in_without_an_outage() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let [old, file] = ["old", "secret"].map(|name| dir.path().join(name));
    keep(&old, &[1]);
    keep(&file, &[1]);
    let mut cluster = Cluster::with_services(2, &[], &[], |_| vec![("CATENA_SECRET_FILE", text(&file))]);
    for secrets in [&[1, 2][..], &[2, 1], &[2]] {
        keep(&file, secrets);
        cluster.stop_manager();
        cluster.start_manager();
        for node in 0..2 {
            cluster.wait_healthy();
            cluster.stop_node(node);
            cluster.ok(&["chunk", "write", "k", "--data", "without it"]);
            cluster.start_node(node);
            cluster.ok(&["chunk", "write", "k", "--data", "and with it"]);
        }
        cluster.wait_healthy();
    }
    let env = [("CATENA_MANAGER", cluster.manager.as_str()), ("CATENA_SECRET_FILE", &text(&old))];
    let said = run_with(&env, &["chunk", "read", "k"]);
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("not one of this cluster's"), "{said:?}");
}
