//! A cluster in this process for tests: one manager and some nodes that speak real frames over TCP, with chunks in memory.
//!
//! All replicas of a chain share one map, as if replication were instant; sessions, preconditions and chain versions are
//! judged as the protocol says. A hook sees every request before it is served, and can make it fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use catena_arena::Arena;
use catena_net::{Frame, FrameSender, Listener, Security, hello_reply};
use catena_types::crc::crc32c;
use catena_types::limits::MAX_PAGE;
use catena_types::*;
use catena_wire::client::*;
use catena_wire::header::Kind;
use catena_wire::manager::*;
use tokio::sync::watch;

use crate::client::Client;
use crate::config::ClientConfig;
use crate::core::Tuning;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is served.
    None,
    /// It is answered with this, and not served.
    Fail(Failure),
    /// The connection breaks before it is served.
    Break,
    /// It is served, and the connection breaks before it is answered.
    ServeAndBreak,
    /// It is never answered, and not served.
    Silence,
    /// It is served and never answered.
    ServeAndSilence,
    /// The payload of the answer is damaged on its way.
    Damage,
}

/// A request as the hook sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) target: TargetId,
    pub(crate) key: Vec<u8>,
    /// Updates only.
    pub(crate) op: Option<Op>,
    pub(crate) tag: Option<Tag>,
    pub(crate) first: bool,
}

type Hook = Box<dyn FnMut(&Seen) -> Fault + Send>;

#[derive(Clone)]
struct Stored {
    ver: u64,
    chunk_size: u32,
    chain_ver: u64,
    data: Vec<u8>,
}

#[derive(Default)]
struct Store {
    chunks: BTreeMap<Vec<u8>, Stored>,
    floor: u64,
    sessions: BTreeMap<SessionId, (u64, UpdateReply)>,
}

pub(crate) struct World {
    pub(crate) routing: Routing,
    stores: BTreeMap<ChainId, Store>,
    hook: Option<Hook>,
    pub(crate) seen: Vec<Seen>,
    /// Nodes that answer nothing and accept nothing.
    pub(crate) down: BTreeSet<NodeId>,
}

/// The cluster; it ends with the runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<u64>,
    pub(crate) manager: String,
}

/// Target of chain `chain` on node `node`.
pub(crate) fn target(chain: ChainId, node: NodeId) -> TargetId {
    chain * 10 + node
}

impl Fake {
    /// `chains` chains with a replica on each of `nodes` nodes; node 1 has the heads, the last one the tails.
    pub(crate) async fn start(chains: u32, nodes: u32) -> Fake {
        let world =
            World { routing: Routing::default(), stores: BTreeMap::new(), hook: None, seen: vec![], down: BTreeSet::new() };
        let mut fake = Fake { world: Arc::new(Mutex::new(world)), changed: watch::Sender::new(1), manager: String::new() };
        fake.manager = fake.listen(0).await;
        let mut routing = Routing { version: 1, cluster: 7, ..Routing::default() };
        for id in 1..=nodes {
            let addr = fake.listen(id).await;
            routing.nodes.push(NodeInfo { id, incarnation: 1, shard_addrs: vec![addr], alive: true, rack: String::new() });
        }
        for id in 1..=chains {
            let member = |n| Member { target: target(id, n), state: PublicState::Serving as i32, chosen: false };
            routing.chains.push(Chain { id, chain_ver: 5, members: (1..=nodes).map(member).collect() });
            let info = |n| TargetInfo { id: target(id, n), node: n, shard: 0, uuid: vec![0; 16], chain: id };
            routing.targets.extend((1..=nodes).map(info));
        }
        routing.table = (1..=chains).collect();
        fake.world().routing = routing;
        fake
    }

    /// A client that waits for every answer.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(|_| ()).await
    }

    pub(crate) async fn client_with(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        self.connect(change, 60_000).await
    }

    /// A client that gives single attempts up soon.
    pub(crate) async fn hasty_client(&self) -> Client {
        self.connect(|_| (), 300).await
    }

    async fn connect(&self, change: impl FnOnce(&mut ClientConfig), attempt_ms: u64) -> Client {
        let mut config = ClientConfig::new(self.manager.clone());
        change(&mut config);
        let attempt = attempt_ms * 1_000_000;
        let tuning = Tuning { update_attempt: attempt, read_attempt: attempt, ..Tuning::default() };
        Client::connect_with(config, tuning).await.unwrap()
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// From now on, every request to a node is shown to `hook`.
    pub(crate) fn hook(&self, hook: impl FnMut(&Seen) -> Fault + Send + 'static) {
        self.world().hook = Some(Box::new(hook));
    }

    pub(crate) fn unhook(&self) {
        self.world().hook = None;
    }

    /// The first request that `which` picks meets `fault`.
    pub(crate) fn once(&self, fault: Fault, which: impl Fn(&Seen) -> bool + Send + 'static) {
        let mut fault = Some(fault);
        self.hook(move |seen| if which(seen) { fault.take().unwrap_or(Fault::None) } else { Fault::None });
    }

    /// Changes the routing; clients hear of it.
    pub(crate) fn reroute(&self, change: impl FnOnce(&mut Routing)) {
        let mut world = self.world();
        change(&mut world.routing);
        world.routing.version += 1;
        self.changed.send_replace(world.routing.version);
    }

    /// Takes a node out of every chain.
    pub(crate) fn remove_node(&self, node: NodeId) {
        self.reroute(|r| {
            for chain in &mut r.chains {
                chain.chain_ver += 1;
                chain.members.retain(|m| m.target % 10 != node);
            }
        });
    }

    /// Keys of all chunks that start with `prefix`.
    pub(crate) fn keys(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let world = self.world();
        let keys = world.stores.values().flat_map(|s| s.chunks.keys()).filter(|k| k.starts_with(prefix));
        let mut keys: Vec<_> = keys.cloned().collect();
        keys.sort();
        keys
    }

    /// Forgets every session, as if they had expired.
    pub(crate) fn expire_sessions(&self) {
        self.world().stores.values_mut().for_each(|s| s.sessions.clear());
    }

    /// Changes the bytes of a chunk behind everybody's back.
    pub(crate) fn tamper(&self, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let store = world.stores.values_mut().find(|s| s.chunks.contains_key(key)).unwrap();
        change(&mut store.chunks.get_mut(key).unwrap().data);
    }

    async fn listen(&self, node: NodeId) -> String {
        let mut listener =
            Listener::bind("127.0.0.1:0".parse().unwrap(), Security::default(), Arena::new(64 << 20)).await.unwrap();
        let addr = listener.local_addr().to_string();
        let fake = self.clone();
        tokio::spawn(async move {
            loop {
                let incoming = listener.accept().await;
                if fake.world().down.contains(&node) {
                    continue;
                }
                let (sender, mut receiver) = incoming.accept(hello_reply(7, node, 1));
                let fake = fake.clone();
                tokio::spawn(async move {
                    while let Ok(Some(frame)) = receiver.recv().await {
                        if fake.world().down.contains(&node) || !fake.serve(node, frame, &sender) {
                            break;
                        }
                    }
                    sender.close();
                });
            }
        });
        addr
    }

    /// Serves one request; `false` to break the connection.
    fn serve(&self, node: NodeId, frame: Frame, sender: &FrameSender) -> bool {
        if node == 0 {
            tokio::spawn(self.clone().manage(frame, sender.clone()));
            return true;
        }
        let mut world = self.world();
        let seen = world.look(node, &frame);
        world.seen.push(seen.clone());
        let mut hook = world.hook.take();
        let fault = hook.as_mut().map_or(Fault::None, |hook| hook(&seen));
        world.hook = hook;
        let answer = match fault {
            Fault::Break => return false,
            Fault::Silence => return true,
            Fault::Fail(ref failure) => fail(&frame, failure.clone()),
            _ => world.answer(node, &frame),
        };
        match fault {
            Fault::ServeAndBreak => return false,
            Fault::ServeAndSilence => return true,
            Fault::Damage => drop(sender.send(Frame { payload_crc: answer.payload_crc ^ 1, ..answer })),
            _ => drop(sender.send(answer)),
        }
        true
    }

    async fn manage(self, frame: Frame, sender: FrameSender) {
        let answer = match frame.kind {
            Kind::Routing => {
                let request: RoutingRequest = frame.decode().unwrap();
                let newer = async { self.changed.subscribe().wait_for(|v| *v > request.have).await.map(|_| ()) };
                let _ = tokio::time::timeout(Duration::from_millis(request.wait_ms.into()), newer).await;
                let routing = self.world().routing.clone();
                let routing = (routing.version > request.have).then_some(routing);
                reply(&frame, &RoutingReply { failure: None, routing, delta: None })
            }
            Kind::Init => {
                let chains = self.world().routing.chains.len() as u32;
                self.reroute(|r| r.table = r.chains.iter().map(|c| c.id).collect());
                reply(&frame, &InitReply { failure: None, chains })
            }
            _ => {
                let routing = self.world().routing.clone();
                reply(&frame, &StatusReply { failure: None, routing, targets: vec![], lease_ms: 1500, ..StatusReply::default() })
            }
        };
        let _ = sender.send(answer);
    }
}

fn reply(request: &Frame, message: &impl prost::Message) -> Frame {
    Frame::new(request.kind.reply().unwrap(), request.request_id, message).reply()
}

fn fail(request: &Frame, failure: Failure) -> Frame {
    let failure = Some(failure);
    match request.kind {
        Kind::Update => reply(request, &UpdateReply { failure, ..Default::default() }),
        Kind::Read => reply(request, &ReadReply { failure, ..Default::default() }),
        Kind::List => reply(request, &ListReply { failure, ..Default::default() }),
        _ => reply(request, &InspectReply { failure, ..Default::default() }),
    }
}

impl World {
    fn look(&self, node: NodeId, frame: &Frame) -> Seen {
        let seen = |target, key| Seen { kind: frame.kind, target, key, op: None, tag: None, first: false };
        match frame.kind {
            Kind::Update => {
                let r: UpdateRequest = frame.decode().unwrap();
                let basic = seen(target(r.chain, node), r.key);
                Seen { op: Some(r.op), tag: Some(r.tag), first: r.first, ..basic }
            }
            Kind::Read => frame.decode().map(|r: ReadRequest| seen(r.target, r.key)).unwrap(),
            Kind::List => frame.decode().map(|r: ListRequest| seen(r.target, r.from)).unwrap(),
            _ => frame.decode().map(|r: InspectRequest| seen(r.target, r.key)).unwrap(),
        }
    }

    fn answer(&mut self, node: NodeId, frame: &Frame) -> Frame {
        match frame.kind {
            Kind::Update => {
                let r: UpdateRequest = frame.decode().unwrap();
                assert_eq!(crc32c(&frame.payload), frame.payload_crc);
                let update = self.update(node, &r, &frame.payload);
                reply(frame, &update.unwrap_or_else(|f| UpdateReply { failure: Some(f), ..Default::default() }))
            }
            Kind::Read => self.read(frame).unwrap_or_else(|f| fail(frame, f)),
            Kind::List => self.list(frame).map_or_else(|f| fail(frame, f), |r| reply(frame, &r)),
            _ => {
                let r: InspectRequest = frame.decode().unwrap();
                let stored = self.stores.get(&(r.target / 10)).and_then(|s| s.chunks.get(&r.key));
                let tag = Tag { client: 0, channel: 0, seq: 0 };
                let committed =
                    stored.map(|s| Committed { ver: s.ver, chain_ver: s.chain_ver, len: s.data.len() as u32, checksum: 0, tag });
                let meta = stored.map(|s| ChunkMeta { chunk_size: s.chunk_size, committed, staged: None });
                reply(frame, &InspectReply { failure: None, meta, chain_ver: 5 })
            }
        }
    }

    /// The chain, if `target` serves it under this version.
    fn check(&self, chain: ChainId, chain_ver: u64, target: TargetId) -> Result<&Chain, Failure> {
        let chain = self.routing.chain(chain).ok_or_else(|| Failure::new(Code::UnknownChain, "no such chain"))?;
        if chain.chain_ver != chain_ver {
            return Err(Failure::new(Code::WrongChainVersion, "membership changed").with_version(chain.chain_ver));
        }
        if chain.state_of(target) != Some(PublicState::Serving) {
            return Err(Failure::new(Code::NotServing, "not serving"));
        }
        Ok(chain)
    }

    fn update(&mut self, node: NodeId, r: &UpdateRequest, payload: &Bytes) -> Result<UpdateReply, Failure> {
        let me = target(r.chain, node);
        if self.check(r.chain, r.chain_ver, me)?.head() != Some(me) {
            return Err(Failure::new(Code::NotHead, "not the head"));
        }
        let store = self.stores.entry(r.chain).or_default();
        match store.sessions.get(&r.tag.session()) {
            Some((seq, _)) if *seq > r.tag.seq => return Err(Failure::new(Code::StaleRequest, "an older number")),
            Some((seq, outcome)) if *seq == r.tag.seq => return Ok(outcome.clone()),
            None if !r.first => return Err(Failure::new(Code::SessionUnknown, "no such session")),
            _ => {}
        }
        let outcome = store.apply(r, payload);
        if outcome.as_ref().is_err_and(|f| f.code() == Code::InvalidArgument) {
            return outcome;
        }
        let recorded = outcome.unwrap_or_else(|f| UpdateReply { failure: Some(f.under(r.chain_ver)), ..Default::default() });
        store.sessions.insert(r.tag.session(), (r.tag.seq, recorded.clone()));
        Ok(recorded)
    }

    fn read(&mut self, frame: &Frame) -> Result<Frame, Failure> {
        let r: ReadRequest = frame.decode().unwrap();
        self.check(r.chain, r.chain_ver, r.target)?;
        let store = self.stores.entry(r.chain).or_default();
        let stored = store.chunks.get(&r.key).ok_or_else(|| Failure::new(Code::NotFound, "no such chunk"))?;
        let len = stored.data.len();
        let start = (r.offset as usize).min(len);
        let data = Bytes::copy_from_slice(&stored.data[start..(start + r.len as usize).min(len)]);
        let crc = crc32c(&data);
        let message = ReadReply {
            failure: None,
            ver: stored.ver,
            chunk_len: len as u32,
            checksum: crc32c(&stored.data),
            chain_ver: stored.chain_ver,
            chunk_size: stored.chunk_size,
            staged: false,
            asked_tail: false,
        };
        Ok(reply(frame, &message).with_payload(data, crc))
    }

    fn list(&mut self, frame: &Frame) -> Result<ListReply, Failure> {
        let r: ListRequest = frame.decode().unwrap();
        assert_eq!(self.check(r.chain, r.chain_ver, r.target)?.tail(), Some(r.target), "listings are for the tail");
        assert!((1..=MAX_PAGE).contains(&r.limit));
        let store = self.stores.entry(r.chain).or_default();
        let mut found = store.chunks.range(r.from.clone()..).filter(|(k, _)| k.starts_with(&r.prefix));
        let entry = |(key, s): (&Vec<u8>, &Stored)| ListEntry {
            key: key.clone(),
            ver: s.ver,
            len: s.data.len() as u32,
            checksum: crc32c(&s.data),
        };
        let entries = found.by_ref().take(r.limit as usize).map(entry).collect();
        Ok(ListReply { failure: None, entries, next: found.next().map(|(k, _)| k.clone()).unwrap_or_default() })
    }
}

impl Store {
    fn apply(&mut self, r: &UpdateRequest, payload: &Bytes) -> Result<UpdateReply, Failure> {
        let old = self.chunks.get(&r.key);
        let ver = old.map_or(0, |s| s.ver);
        if !Precondition::from_wire(r.precondition).holds(ver) {
            return Err(Failure::new(Code::PreconditionFailed, "it does not hold").with_version(ver));
        }
        if old.is_none() && r.op.kind() == OpKind::Remove {
            return Err(Failure::new(Code::NotFound, "no such chunk"));
        }
        if old.is_some_and(|s| s.chunk_size != r.chunk_size) || r.op.check(r.chunk_size).is_err() {
            return Err(Failure::new(Code::InvalidArgument, "wrong chunk size"));
        }
        let ver = ver.max(self.floor) + 1;
        let mut data = old.map(|s| s.data.clone()).unwrap_or_default();
        if r.op.kind() == OpKind::Remove {
            self.chunks.remove(&r.key);
            self.floor = ver;
            return Ok(UpdateReply { ver, chain_ver: r.chain_ver, ..Default::default() });
        }
        data.resize(r.op.new_len(data.len() as u32) as usize, 0);
        if r.op.kind() == OpKind::Write {
            data[r.op.offset as usize..][..payload.len()].copy_from_slice(payload);
        }
        let (len, checksum) = (data.len() as u32, crc32c(&data));
        let stored = Stored { ver, chunk_size: r.chunk_size, chain_ver: r.chain_ver, data };
        self.chunks.insert(r.key.clone(), stored);
        Ok(UpdateReply { failure: None, ver, len, checksum, chain_ver: r.chain_ver, hops: vec![] })
    }
}
