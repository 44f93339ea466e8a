//! One of every message, with every field set to something that shows in the bytes.

use catena_types::store::{Durability, StoreKind, StoreReport};
use catena_types::{
    Chain, ChunkMeta, Code, Committed, Failure, LocalState, Member, NodeInfo, Op, PublicState, Routing, RoutingDelta, SessionId,
    SessionRow, Space, StageInfo, Staged, Tag, TargetInfo,
};
use catena_wire::client::*;
use catena_wire::header::Kind;
use catena_wire::hello::{Challenge, Hello, HelloReply, LaneHello, Proof};
use catena_wire::manager::*;
use catena_wire::peer::*;
use prost::Message;

const TAG: Tag = Tag { client: 0x1122_3344_5566_7788, channel: 3, seq: 99 };

/// A message by name, with the kind of frame that carries it.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) body: Vec<u8>,
    /// Decodes the bytes and encodes what was understood; `None` if they are not such a message.
    pub(crate) again: fn(&[u8]) -> Option<Vec<u8>>,
}

fn sample<M: Message + Default>(name: &'static str, kind: Kind, message: M) -> Sample {
    Sample { name, kind, body: message.encode_to_vec(), again: |bytes| M::decode(bytes).ok().map(|m| m.encode_to_vec()) }
}

fn peer(name: &'static str, body: Body) -> Sample {
    sample(name, Kind::Peer, PeerMsg { chain: 7, chain_ver: 21, from: 31, to: 32, body: Some(body) })
}

/// One of every message.
pub(crate) fn all() -> Vec<Sample> {
    [hello(), client(), manager(), peers()].into_iter().flatten().collect()
}

fn failure() -> Option<Failure> {
    Some(Failure::new(Code::WrongChainVersion, "chain 7 is at version 22").with_version(22).under(22))
}

fn delta() -> RoutingDelta {
    RoutingDelta { since: 54, changed: routing() }
}

fn key() -> Vec<u8> {
    b"checkpoint/000001".to_vec()
}

fn stage() -> StageInfo {
    StageInfo { len: 70_000, checksum: 0xdead_beef, first_block: 2, blocks_written: 16, blocks_read: 1, method: 1 }
}

fn hop() -> Hop {
    Hop {
        target: 32,
        received_us: 1_000,
        staged_us: 1_200,
        released_us: 1_300,
        committed_us: 1_400,
        stage: stage(),
        ver: 5,
        chain_ver: 21,
    }
}

fn meta() -> ChunkMeta {
    ChunkMeta {
        chunk_size: 1 << 20,
        committed: Some(Committed { ver: 4, chain_ver: 20, len: 65_536, checksum: 0x0102_0304, tag: TAG }),
        staged: Some(Staged { ver: 5, chain_ver: 21, len: 70_000, checksum: 0xdead_beef, tag: TAG, remove: true, durable: true }),
    }
}

fn hello() -> Vec<Sample> {
    let (nonce, secret_id) = (vec![0x5a; 32], vec![1, 2, 3, 4, 5, 6, 7, 8]);
    let hello = Hello {
        protocol: 1,
        cluster: 0xc1c2_c3c4,
        node: 2,
        shard: 1,
        incarnation: 9,
        epoch: 17,
        nonce: nonce.clone(),
        secret_id,
        lane: Some(LaneHello { transport: "fabric".into(), address: vec![9, 8] }),
    };
    let reply = HelloReply {
        failure: failure(),
        protocol: 1,
        cluster: 0xc1c2_c3c4,
        node: 3,
        incarnation: 8,
        lane: Some(LaneHello { transport: "fabric".into(), address: vec![7] }),
    };
    let proof = vec![0xa5; 32];
    vec![
        sample("Hello", Kind::Hello, hello),
        sample("HelloReply", Kind::HelloReply, reply),
        sample("Challenge", Kind::Challenge, Challenge { nonce, proof: proof.clone() }),
        sample("Proof", Kind::Proof, Proof { proof }),
    ]
}

fn client() -> Vec<Sample> {
    let update = UpdateRequest {
        chain: 7,
        chain_ver: 21,
        key: key(),
        chunk_size: 1 << 20,
        op: Op::write(4096, 8192),
        precondition: 6,
        tag: TAG,
        first: true,
        explain: true,
    };
    let updated =
        UpdateReply { failure: failure(), ver: 5, len: 70_000, checksum: 0xdead_beef, chain_ver: 21, hops: vec![hop(), hop()] };
    let read = ReadRequest { chain: 7, chain_ver: 21, target: 32, key: key(), offset: 100, len: 200, relaxed: true };
    let bytes = ReadReply {
        failure: failure(),
        ver: 5,
        chunk_len: 70_000,
        checksum: 0xdead_beef,
        chain_ver: 21,
        chunk_size: 1 << 20,
        staged: true,
        asked_tail: true,
    };
    let inspected = InspectReply { failure: failure(), meta: Some(meta()), chain_ver: 21 };
    let list =
        ListRequest { chain: 7, chain_ver: 21, target: 32, prefix: b"check".to_vec(), from: b"checkpoint".to_vec(), limit: 50 };
    let entry = ListEntry { key: key(), ver: 5, len: 70_000, checksum: 0xdead_beef };
    vec![
        sample("UpdateRequest", Kind::Update, update),
        sample("UpdateReply", Kind::UpdateReply, updated),
        sample("ReadRequest", Kind::Read, read),
        sample("ReadReply", Kind::ReadReply, bytes),
        sample("InspectRequest", Kind::Inspect, InspectRequest { target: 32, key: key() }),
        sample("InspectReply", Kind::InspectReply, inspected),
        sample("TargetRequest", Kind::Target, TargetRequest { target: 32, scrub: true }),
        sample("TargetReply", Kind::TargetReply, target_reply()),
        sample("ListRequest", Kind::List, list),
        sample("ListReply", Kind::ListReply, ListReply { failure: failure(), entries: vec![entry], next: key() }),
    ]
}

fn store_report() -> StoreReport {
    StoreReport {
        kind: StoreKind::InPlace as i32,
        durability: Durability::Replicated as i32,
        damaged: 3,
        read_errors: 4,
        scrubbing: true,
        scrub_passes: 5,
        scrub_bytes: 6 << 30,
        scrub_bad: 7,
    }
}

fn target_reply() -> TargetReply {
    let p = |name: &str| HistogramSummary { name: name.to_owned(), count: 9, sum: 900, most: 200, p50: 90, p99: 190, p999: 199 };
    TargetReply {
        failure: failure(),
        store: Some(store_report()),
        space: Some(Space { total: 1 << 40, used: 1 << 30, reserved: 4096, chunks: 77, level: 2 }),
        values: vec![Metric { name: "flushes".to_owned(), value: 12 }],
        histograms: vec![p("stage_nanoseconds")],
        sync: Some(progress()),
    }
}

fn progress() -> SyncProgress {
    SyncProgress {
        chunks: 12,
        chunks_total: 77,
        bytes: 1 << 33,
        chunks_sent: 5,
        bytes_sent: 40_960,
        chunks_lost: 1,
        elapsed_ms: 900,
    }
}

fn manager() -> Vec<Sample> {
    let space = Space { total: 1 << 40, used: 1 << 30, reserved: 4096, chunks: 77, level: 0 };
    let offer = TargetOffer { uuid: (0..16).collect(), target: 31, shard: 1, space, lock: 0x10c4 };
    let register = RegisterRequest {
        node: 2,
        cluster: 0xc1c2_c3c4,
        process: 0xabcd,
        shard_addrs: vec!["10.0.0.2:7001".to_owned(), "10.0.0.2:7002".to_owned()],
        targets: vec![offer],
        rack: "r1".to_owned(),
    };
    let registered = RegisterReply {
        failure: failure(),
        cluster: 0xc1c2_c3c4,
        incarnation: 9,
        targets: vec![31, 300],
        lease_ms: 1500,
        heartbeat_ms: 300,
    };
    let report = TargetReport {
        target: 31,
        state: LocalState::UpToDate as i32,
        chain_ver: 21,
        chain: 7,
        open_count: 2,
        space,
        sync_failed: "no space".to_owned(),
        sync: Some(progress()),
        failed: "disk gone".to_owned(),
        store: Some(store_report()),
        unreachable: vec![33, 301],
    };
    let heartbeat = HeartbeatRequest { node: 2, incarnation: 9, seq: 1000, targets: vec![report.clone()], routing: 55 };
    let beaten = HeartbeatReply {
        failure: failure(),
        lease_ms: 1500,
        routing_ver: 56,
        routing: Some(routing()),
        except: vec![31],
        delta: Some(delta()),
    };
    let status = StatusReply {
        failure: failure(),
        routing: routing(),
        targets: vec![TargetStatus { report, heard_ms: 120 }],
        lease_ms: 1500,
        primary: "10.0.0.1:7400".to_owned(),
        storing_ms: 40,
        replicas: 3,
        moves: vec![replica_move()],
        draining_nodes: vec![4],
        draining_targets: vec![31],
        rebalancing: true,
        heartbeat_ms: 300,
        replace_after_ms: 600_000,
        max_moves: 4,
    };
    vec![
        sample("RegisterRequest", Kind::Register, register),
        sample("RegisterReply", Kind::RegisterReply, registered),
        sample("HeartbeatRequest", Kind::Heartbeat, heartbeat),
        sample("HeartbeatReply", Kind::HeartbeatReply, beaten),
        sample("RoutingRequest", Kind::Routing, RoutingRequest { have: 55, wait_ms: 5000 }),
        sample(
            "RoutingReply",
            Kind::RoutingReply,
            RoutingReply { failure: failure(), routing: Some(routing()), delta: Some(delta()) },
        ),
        sample("InitRequest", Kind::Init, InitRequest { replicas: 3, nodes: 5, spare: 1 }),
        sample("InitReply", Kind::InitReply, InitReply { failure: failure(), chains: 8 }),
        sample("StatusRequest", Kind::Status, StatusRequest {}),
        sample("StatusReply", Kind::StatusReply, status),
        admin("Drain", Task::Drain(Drain { node: 2, target: 31, cancel: true })),
        admin("Rebalance", Task::Rebalance(Rebalance { dry_run: true, cancel: true })),
        admin("Move", Task::Move(replica_move())),
        admin("Rotate", Task::Rotate(7)),
        admin("CancelMove", Task::CancelMove(7)),
        sample("AdminReply", Kind::AdminReply, AdminReply { failure: failure(), moves: vec![replica_move()] }),
    ]
}

fn admin(name: &'static str, task: Task) -> Sample {
    sample(name, Kind::Admin, AdminRequest { task: Some(task) })
}

fn replica_move() -> ReplicaMove {
    ReplicaMove { chain: 7, leaving: 31, joining: 36, reason: MoveReason::Drain as i32 }
}

fn routing() -> Routing {
    let member = |target, state: PublicState| Member { target, state: state as i32, chosen: state == PublicState::LastSrv };
    let states = [PublicState::Serving, PublicState::LastSrv, PublicState::Syncing, PublicState::Waiting, PublicState::Offline];
    Routing {
        version: 56,
        cluster: 0xc1c2_c3c4,
        nodes: vec![NodeInfo {
            id: 2,
            incarnation: 9,
            shard_addrs: vec!["10.0.0.2:7001".to_owned()],
            alive: true,
            rack: "r1".to_owned(),
        }],
        targets: vec![TargetInfo { id: 31, node: 2, shard: 1, uuid: (0..16).collect(), chain: 7 }],
        chains: vec![Chain { id: 7, chain_ver: 21, members: (31..).zip(states).map(|(t, s)| member(t, s)).collect() }],
        table: vec![7, 8, 7, 300],
    }
}

fn peers() -> Vec<Sample> {
    let forward = Forward {
        key: key(),
        ver: 5,
        tag: TAG,
        op: Op::write(4096, 8192),
        chunk_size: 1 << 20,
        base_ver: 4,
        base_checksum: 0x0102_0304,
        attempt: 12,
        payload_crc: 0x0a0b_0c0d,
        explain: true,
    };
    let reply = Reply { key: key(), ver: 5, tag: TAG, checksum: 0xdead_beef, commit_chain_ver: 21, hops: vec![hop()] };
    let reject = Reject { key: key(), ver: 5, tag: TAG, attempt: 12, code: Code::NoSpace as i32, by: 33 };
    let committed = Committed { ver: 5, chain_ver: 21, len: 70_000, checksum: 0xdead_beef, tag: TAG };
    let row = SessionRow { seq: 99, ver: 5, len: 70_000, checksum: 0xdead_beef, chain_ver: 21 };
    let session = SessionEntry { id: SessionId { client: TAG.client, channel: 3 }, row };
    let page = Page { from: b"a".to_vec(), end: b"d".to_vec(), entries: vec![PageEntry { key: key(), meta: meta() }] };
    vec![
        peer("Forward", Body::Forward(forward)),
        peer("Release", Body::Release(Release { key: key(), ver: 5, tag: TAG })),
        peer("Reply", Body::Reply(reply)),
        peer("Reject", Body::Reject(reject)),
        peer("Query", Body::Query(Query { id: 8, key: key() })),
        peer("Answer", Body::Answer(Answer { id: 8, commit_ver: 4, absent: true })),
        peer("Confirm", Body::Confirm(Confirm {})),
        peer("SyncPage", Body::SyncPage(SyncPage { from: b"a".to_vec(), to: b"d".to_vec() })),
        peer("Page", Body::Page(page)),
        peer("SyncPut", Body::SyncPut(SyncPut { key: key(), chunk_size: 1 << 20, committed })),
        peer("SyncDrop", Body::SyncDrop(SyncDrop { key: key() })),
        peer("Synced", Body::Synced(Synced { key: key(), code: Code::NoSpace as i32, id: 6 })),
        peer("SyncSums", Body::SyncSums(SyncSums { id: 6, key: key() })),
        peer("Sums", Body::Sums(Sums { id: 6, key: key(), meta: Some(meta()), crcs: vec![0xdead_beef, 1, 2] })),
        peer("SyncPart", Body::SyncPart(SyncPart { id: 6, key: key(), offset: 8192 })),
        peer("SyncPatch", Body::SyncPatch(SyncPatch { id: 6, key: key(), committed, parts: 2 })),
        peer("SyncLost", Body::SyncLost(SyncLost { key: key(), chunk_size: 1 << 20, committed })),
        peer("SyncSessions", Body::SyncSessions(SyncSessions { rows: vec![session] })),
        peer("SyncDone", Body::SyncDone(SyncDone { remove_floor: 44 })),
        peer("SyncDoneReply", Body::SyncDoneReply(SyncDoneReply {})),
        peer("Credit", Body::Credit(Credit { attempts: vec![7, 300] })),
        peer("Expire", Body::Expire(Expire { idle: vec![SessionSeq { id: session.id, seq: 99 }] })),
        peer("Fetch", Body::Fetch(Fetch { id: 9, key: key(), ver: 5, checksum: 0xdead_beef })),
        peer("Fetched", Body::Fetched(Fetched { id: 9, key: key(), code: 0, committed: Some(committed) })),
        peer("FetchedFailure", Body::Fetched(Fetched { id: 9, key: key(), code: Code::Corrupt as i32, committed: None })),
    ]
}
