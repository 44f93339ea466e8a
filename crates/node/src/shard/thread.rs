//! Starting and ending a shard's thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use catena_arena::Arena;
use catena_chain::Config;
use catena_net::Listener;
use catena_types::ShardId;
use catena_wire::manager::TargetOffer;
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, mpsc, oneshot};

use super::accept::accept_all;
use super::targets::{Targets, fatal};
use super::{Inbox, Shard};
use crate::status::ShardStatus;
use crate::storage::{Completions, Storage, params};
use crate::{NodeConfig, NodeError};

/// What a shard is told at its start.
pub(crate) struct ShardConfig {
    pub(crate) number: ShardId,
    pub(crate) node: Arc<NodeConfig>,
    /// Directories of its targets.
    pub(crate) targets: Vec<PathBuf>,
    /// Told when the manager should hear something soon.
    pub(crate) changed: Arc<Notify>,
}

/// A shard that listens and has its targets open.
pub(crate) struct Started {
    pub(crate) handle: ShardHandle,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// Its targets, with the cluster each belongs to (0: none yet).
    pub(crate) offers: Vec<(TargetOffer, u64)>,
}

/// A running shard. Dropping it ends the shard.
pub(crate) struct ShardHandle {
    pub(crate) number: ShardId,
    pub(crate) inbox: mpsc::UnboundedSender<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl ShardHandle {
    /// Starts the thread; returns when the shard listens and its targets are open.
    pub(crate) async fn start(config: ShardConfig) -> Result<Started, NodeError> {
        let number = config.number;
        let (inbox, messages) = mpsc::unbounded_channel();
        let (ready, started) = oneshot::channel();
        let to_self = inbox.clone();
        let thread = std::thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || run(config, to_self, messages, ready))
            .map_err(NodeError::Thread)?;
        let handle = ShardHandle { number, inbox, thread: Some(thread) };
        let (addr, offers) = started.await.map_err(|_| NodeError::ShardEnded(number))??;
        Ok(Started { handle, addr, offers })
    }

    /// Closes the targets and ends the thread.
    pub(crate) async fn close(mut self) {
        let (done, closed) = oneshot::channel();
        if self.inbox.send(Inbox::Close(done)).is_ok() {
            // An error means that it has ended already.
            let _ = closed.await;
        }
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(shard = self.number, "the shard's thread panicked");
        }
    }
}

impl Drop for ShardHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // An error means that it has ended already.
            let _ = self.inbox.send(Inbox::Close(oneshot::channel().0));
            self.join();
        }
    }
}

type Ready = oneshot::Sender<Result<(SocketAddr, Vec<(TargetOffer, u64)>), NodeError>>;

fn run(config: ShardConfig, inbox: mpsc::UnboundedSender<Inbox>, messages: mpsc::UnboundedReceiver<Inbox>, ready: Ready) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(e) => return drop(ready.send(Err(NodeError::Thread(e)))),
    };
    runtime.block_on(async {
        match open(&config, inbox).await {
            Ok((shard, listener, completions)) => {
                let started = (listener.local_addr(), shard.targets.offers(config.number));
                // Whoever starts it may have given up: then it is told to close.
                let _ = ready.send(Ok(started));
                tokio::task::spawn_local(accept_all(listener, shard.inbox.clone()));
                // As a task like the others, so that it takes its turn behind the readers that woke with it.
                let ended = tokio::task::spawn_local(shard.run(messages, completions)).await;
                if let Err(e) = ended {
                    tracing::error!(shard = config.number, "shard ended: {e}");
                }
            }
            Err(e) => drop(ready.send(Err(e))),
        }
        // The writers' last turn.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    });
}

async fn open(config: &ShardConfig, inbox: mpsc::UnboundedSender<Inbox>) -> Result<(Shard, Listener, Completions), NodeError> {
    let node = &config.node;
    let arena = Arena::new(node.memory / node.shards as usize);
    let (storage, completions) = Storage::start(node.disk, node.background, &arena)?;
    let mut opened = Vec::new();
    for path in &config.targets {
        match storage.open_or_create(path, &params(node)) {
            Ok(target) => opened.push(target),
            Err(e) if fatal(&e) => return Err(e.into()),
            // Its chain does without it until somebody has looked at the disk.
            Err(e) => tracing::error!(shard = config.number, "target left out: {e}"),
        }
    }
    let addr = SocketAddr::new(node.listen, node.port(config.number));
    let listener = Listener::bind(addr, node.security.clone(), arena.clone()).await?;
    let shard = Shard {
        number: config.number,
        limits: node.limits.clone(),
        security: node.security.clone(),
        one_sided: node.one_sided.clone(),
        arena,
        storage,
        inbox,
        changed: config.changed.clone(),
        identity: None,
        routing: None,
        targets: Targets::new(opened, Config { sync_rate: node.sync_rate, ..Config::default() }),
        conns: HashMap::new(),
        next_conn: Rc::new(Cell::new(1)),
        peers: super::Peers::default(),
        waiting: HashMap::new(),
        next_request: 1,
        admission: super::Admission::default(),
        local: Vec::new(),
        commands: Vec::new(),
        closing: None,
        status: ShardStatus { shard: config.number, addr: listener.local_addr().to_string(), ..ShardStatus::default() },
    };
    Ok((shard, listener, completions))
}
