//! The client: one handle for every operation on chunks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use catena_types::{ChainId, ClientId, PublicState, Routing, TargetId};
use catena_wire::client::{InspectReply, InspectRequest, TargetReply, TargetRequest};
use catena_wire::header::Kind;
use catena_wire::manager::{AdminReply, AdminRequest, InitReply, InitRequest, ReplicaMove, StatusReply, StatusRequest, Task};
use tokio::task::AbortHandle;

use crate::api::*;
use crate::batch;
use crate::call::{Inner, chunk_key, invalid};
use crate::channels::Channels;
use crate::clock::Clock;
use crate::config::ClientConfig;
use crate::core::{Lost, Tuning};
use crate::error::{Error, ErrorKind};
use crate::links::{Links, NoAnswer, Payload};
use crate::list;
use crate::managers::Managers;
use crate::routes::Routes;

/// Longest wait for one replica's answer to [`Client::inspect`].
const INSPECT: Duration = Duration::from_secs(2);
/// Reads of one batch on their way at the same time.
const READS: usize = 256;

/// A client of one cluster. Cheap to clone; all clones share connections, routing and sessions. Must be used within a
/// tokio runtime.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    _follow: Arc<Follow>,
}

/// The task that keeps the routing up to date; it ends with the last clone of the client.
struct Follow(AbortHandle);

impl Drop for Follow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Asks a manager for the routing, and keeps it up to date from then on.
    ///
    /// # Errors
    /// `NoManager` when none of them answers before the deadline.
    pub async fn connect(config: ClientConfig) -> Result<Client, Error> {
        Client::connect_with(config, Tuning::default()).await
    }

    /// The same with another patience for single attempts.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(config: ClientConfig, tuning: Tuning) -> Result<Client, Error> {
        if config.managers.is_empty() {
            return Err(invalid("no manager address was given; give host:port of at least one"));
        }
        let id =
            getrandom::u64().map_err(|e| Error::new(ErrorKind::Stream, format!("no random number for the client id: {e}")))?;
        let clock = Clock::new();
        let links = Links::new(&config, clock);
        let routes = Arc::new(Routes::new(Managers::new(config.managers.clone()), links, clock));
        routes.fetch(Duration::ZERO, clock.after(config.deadline)).await?;
        let follow = Arc::new(Follow(tokio::spawn(routes.clone().follow()).abort_handle()));
        let channels = Channels::new(id, config.channels);
        let inner = Arc::new(Inner { id, config, routes, channels, tuning, turn: AtomicU64::new(id) });
        Ok(Client { inner, _follow: follow })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// The routing now.
    pub fn routing(&self) -> Arc<Routing> {
        self.inner.routes.current()
    }

    /// Asks a manager for newer routing, and returns what is newest.
    ///
    /// # Errors
    /// `NoManager` when none of them answers before the deadline.
    pub async fn refresh_routing(&self) -> Result<Arc<Routing>, Error> {
        self.inner.routes.fetch(Duration::ZERO, self.inner.deadline(None)).await?;
        Ok(self.routing())
    }

    /// Drawn at random for this client; names its sessions.
    pub fn client_id(&self) -> ClientId {
        self.inner.id
    }

    /// The chain a key lives on; `None` before the chain table is made.
    pub fn chain_of(&self, key: impl AsRef<[u8]>) -> Option<ChainId> {
        self.routing().chain_of(key.as_ref())
    }

    /// Applies one update to one chunk, at most once, and waits for its outcome.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the deadline passes while it may still be applied; every other error means that it was not,
    /// and never will be.
    pub async fn update(&self, key: impl AsRef<[u8]>, kind: UpdateKind, options: &UpdateOptions) -> Result<Updated, Error> {
        let key = chunk_key(key.as_ref())?;
        let outcome = self.inner.update(&key, &kind, options).await;
        outcome.map_err(|e| e.context(format!("{} chunk {key:?}", kind.verb())))
    }

    /// [`UpdateKind::Write`].
    ///
    /// # Errors
    /// As [`Client::update`].
    pub async fn write(
        &self,
        key: impl AsRef<[u8]>,
        offset: u32,
        data: impl Into<Bytes>,
        options: &UpdateOptions,
    ) -> Result<Updated, Error> {
        self.update(key, UpdateKind::Write { offset, data: data.into() }, options).await
    }

    /// [`UpdateKind::Truncate`].
    ///
    /// # Errors
    /// As [`Client::update`].
    pub async fn truncate(&self, key: impl AsRef<[u8]>, len: u32, options: &UpdateOptions) -> Result<Updated, Error> {
        self.update(key, UpdateKind::Truncate { len }, options).await
    }

    /// [`UpdateKind::Extend`].
    ///
    /// # Errors
    /// As [`Client::update`].
    pub async fn extend(&self, key: impl AsRef<[u8]>, len: u32, options: &UpdateOptions) -> Result<Updated, Error> {
        self.update(key, UpdateKind::Extend { len }, options).await
    }

    /// [`UpdateKind::Remove`].
    ///
    /// # Errors
    /// As [`Client::update`]; `NotFound` if the chunk is absent.
    pub async fn remove(&self, key: impl AsRef<[u8]>, options: &UpdateOptions) -> Result<Updated, Error> {
        self.update(key, UpdateKind::Remove, options).await
    }

    /// Reads up to `len` bytes at `offset`, clipped at the end of the chunk. Linearizable unless `relaxed`.
    ///
    /// # Errors
    /// `NotFound` if the chunk is absent; `Corrupt` if no replica holds good bytes; `Timeout`.
    pub async fn read(&self, key: impl AsRef<[u8]>, offset: u32, len: u32, options: &ReadOptions) -> Result<ReadResult, Error> {
        let key = chunk_key(key.as_ref())?;
        self.inner.read(&key, offset, len, options).await.map_err(|e| e.context(format!("read chunk {key:?}")))
    }

    /// Version, length and checksum of a chunk; `None` if it does not exist. Linearizable.
    ///
    /// # Errors
    /// `Timeout` when no replica answers before the deadline.
    pub async fn stat(&self, key: impl AsRef<[u8]>) -> Result<Option<ChunkStat>, Error> {
        match self.read(key, 0, 0, &ReadOptions::default()).await {
            Ok(r) => Ok(Some(ChunkStat {
                ver: r.ver,
                len: r.chunk_len,
                chunk_size: r.chunk_size,
                checksum: r.checksum,
                chain_ver: r.chain_ver,
            })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What every replica of the key's chain holds of it, in the order of the chain: for diagnosis, not linearizable.
    /// Empty if the key has no chain.
    pub async fn inspect(&self, key: impl AsRef<[u8]>) -> Vec<(TargetId, PublicState, Result<InspectReply, Error>)> {
        let routing = self.routing();
        let key = key.as_ref();
        let chain = routing.chain_of(key).and_then(|id| routing.chain(id));
        let members = chain.map(|c| c.members.clone()).unwrap_or_default();
        let asked = members.iter().map(|m| m.target).collect();
        let answers = batch::run(asked, READS, |target| {
            let (inner, key) = (self.inner.clone(), key.to_vec());
            async move { inner.ask_target(target, Kind::Inspect, &InspectRequest { target, key }).await }
        });
        members.iter().zip(answers.await).map(|(m, answer)| (m.target, m.state(), answer)).collect()
    }

    /// What there is to know of a target's store; `scrub` starts a scrub pass there.
    ///
    /// # Errors
    /// `NotFound` if the cluster has no such target; `Unavailable` or `Timeout` if its node does not answer.
    pub async fn target(&self, target: TargetId, scrub: bool) -> Result<TargetReply, Error> {
        if self.routing().target(target).is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no target {target}: see `catena status --json`")));
        }
        let request = TargetRequest { target, scrub };
        self.inner.ask_target(target, Kind::Target, &request).await
    }

    /// Applies many updates, all on their way at once. Each has its own outcome, in the order given; updates of the same
    /// chunk may be applied in any order.
    pub async fn write_batch(&self, items: Vec<WriteItem>) -> Vec<Result<Updated, Error>> {
        batch::run(items, self.inner.channels.count(), |item: WriteItem| {
            let client = self.clone();
            async move { client.update(item.key.as_bytes(), item.kind, &item.options).await }
        })
        .await
    }

    /// Reads many ranges, all on their way at once. Each has its own outcome, in the order given.
    pub async fn read_batch(&self, items: Vec<ReadItem>) -> Vec<Result<ReadResult, Error>> {
        batch::run(items, READS, |item: ReadItem| {
            let client = self.clone();
            async move { client.read(item.key.as_bytes(), item.offset, item.len, &item.options).await }
        })
        .await
    }

    /// Up to `limit` committed chunks whose keys start with `prefix` and are ≥ `from`, in key order over all chains. Each
    /// chain is asked at its tail; chunks updated meanwhile may be listed as they were before or after.
    ///
    /// # Errors
    /// `Timeout` when a chain does not answer before the deadline.
    pub async fn list(&self, prefix: impl AsRef<[u8]>, from: impl AsRef<[u8]>, limit: usize) -> Result<ListPage, Error> {
        list::page(self, prefix.as_ref(), from.as_ref(), limit).await
    }

    /// The state of everything, from a manager.
    ///
    /// # Errors
    /// `NoManager` when none of them answers before the deadline.
    pub async fn status(&self) -> Result<StatusReply, Error> {
        self.ask_manager(Kind::Status, &StatusRequest {}).await
    }

    /// Makes the chain table: chains of `replicas` targets each, once `nodes` nodes are registered (waited for until the
    /// deadline), with `spare` targets of each node left in no chain. Returns the number of chains.
    ///
    /// # Errors
    /// What the manager answers; `NoManager` when none of them answers before the deadline.
    pub async fn init(&self, replicas: u32, nodes: u32, spare: u32) -> Result<u32, Error> {
        let reply: InitReply = self.ask_manager(Kind::Init, &InitRequest { replicas, nodes, spare }).await?;
        self.refresh_routing().await?;
        Ok(reply.chains)
    }

    /// Asks for a change of who holds what. Returns what moves because of it, as far as it has begun; it goes on by itself.
    ///
    /// # Errors
    /// What the manager answers; `NoManager` when none of them answers before the deadline.
    pub async fn admin(&self, task: Task) -> Result<Vec<ReplicaMove>, Error> {
        let reply: AdminReply = self.ask_manager(Kind::Admin, &AdminRequest { task: Some(task) }).await?;
        Ok(reply.moves)
    }

    async fn ask_manager<Req: prost::Message, Rep: crate::managers::Reply>(
        &self,
        kind: Kind,
        request: &Req,
    ) -> Result<Rep, Error> {
        let routes = &self.inner.routes;
        let deadline = self.inner.deadline(None);
        routes.managers.ask(&routes.links, routes.clock, kind, request, crate::managers::ANSWER, deadline).await
    }
}

impl Inner {
    /// A question to one target, whatever its state. A node that is not where it was known to be is asked once more at its
    /// new address; nothing else is tried again.
    async fn ask_target<Rep: crate::managers::Reply>(
        &self,
        target: TargetId,
        kind: Kind,
        request: &impl prost::Message,
    ) -> Result<Rep, Error> {
        let addr = || self.routes.current().addr_of(target).map(str::to_owned);
        let known = addr();
        let mut answer = self.ask_at(known.as_deref(), kind, request).await;
        if answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable) {
            // Without a manager, what the known address said is the answer.
            let fetched = self.routes.fetch(Duration::ZERO, self.routes.clock.after(INSPECT)).await.is_ok();
            let moved = addr();
            if fetched && moved != known {
                answer = self.ask_at(moved.as_deref(), kind, request).await;
            }
        }
        answer.map_err(|e| e.context(format!("ask target {target}")))
    }

    /// One question to whoever listens there.
    async fn ask_at<Rep: crate::managers::Reply>(
        &self,
        addr: Option<&str>,
        kind: Kind,
        request: &impl prost::Message,
    ) -> Result<Rep, Error> {
        let addr = addr.ok_or_else(|| Error::new(ErrorKind::Unavailable, "it has no address in the routing"))?;
        let until = self.routes.clock.after(INSPECT);
        let (reply, _) =
            self.routes.links.ask::<_, Rep>(addr, kind, request, Payload::Wanted(0), until).await.map_err(no_answer)?;
        match reply.failure() {
            Some(failure) => Err(Error::from_failure(failure)),
            None => Ok(reply),
        }
    }
}

fn no_answer(e: NoAnswer) -> Error {
    match e {
        NoAnswer::Refused(f) => Error::from_failure(&f),
        NoAnswer::Lost(Lost::TimedOut) => Error::new(ErrorKind::Timeout, "no answer in time"),
        NoAnswer::Lost(lost) => Error::new(ErrorKind::Unavailable, lost.to_string()),
    }
}
