//! Starting and stopping a manager.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use catena_arena::Arena;
use catena_cluster::Settings;
use catena_net::Listener;
use tokio::sync::{mpsc, oneshot};

use crate::config::{ManagerConfig, StoreChoice};
use crate::embedded::RedbStore;
use crate::error::{StartError, StoreError};
use crate::etcd::EtcdStore;
use crate::observer::ManagerObserver;
use crate::service::{Outside, Service};
use crate::store::Store;

/// Bytes of receive buffers: requests to a manager have no payload.
const ARENA_BYTES: usize = 4 << 20;

/// The manager service.
pub struct Manager;

/// What the handle sees of the service.
pub(crate) struct Shared {
    /// Where clients and nodes reach this manager.
    pub(crate) addr: String,
    /// The cluster; 0 as long as it is not known.
    pub(crate) cluster: AtomicU64,
    /// Whether this manager is the elected one.
    pub(crate) elected: AtomicBool,
}

/// A running manager. Dropping it stops the manager, too, without waiting.
pub struct ManagerHandle {
    addr: SocketAddr,
    shared: Arc<Shared>,
    observer: ManagerObserver,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

type Started = std::sync::mpsc::Sender<Result<(SocketAddr, Arc<Shared>), StartError>>;

impl Manager {
    /// Opens the store, listens, and serves on a thread of its own.
    ///
    /// # Errors
    /// The directory is in use, the store cannot be read, or the address cannot be listened on.
    pub fn start(config: ManagerConfig) -> Result<ManagerHandle, StartError> {
        config.check().map_err(StartError::Config)?;
        let (started, outcome) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (questions, asked) = mpsc::unbounded_channel();
        let outside = Outside { stop: stopped, questions: asked };
        let thread = std::thread::Builder::new().name("manager".to_owned()).spawn(move || serve(&config, &started, outside));
        let thread = thread.map_err(|e| StartError::System { what: "thread", reason: e.to_string() })?;
        let gone = |_| StartError::System { what: "running thread", reason: "it ended at once".to_owned() };
        let (addr, shared) = outcome.recv().map_err(gone)??;
        Ok(ManagerHandle { addr, shared, observer: ManagerObserver(questions), stop: Some(stop), thread: Some(thread) })
    }
}

impl ManagerHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The cluster it manages; 0 before it was elected for the first time.
    pub fn cluster(&self) -> u64 {
        self.shared.cluster.load(Ordering::Relaxed)
    }

    /// Whether it is the elected one among the managers of its cluster.
    pub fn is_elected(&self) -> bool {
        self.shared.elected.load(Ordering::Relaxed)
    }

    /// Something to ask it through, from any thread.
    pub fn observer(&self) -> ManagerObserver {
        self.observer.clone()
    }

    /// Whether it still serves; it stops by itself if its store fails.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Stops it and waits until its store is closed. Call it outside asynchronous code: it blocks for a moment.
    ///
    /// # Errors
    /// It had stopped before, since its store failed.
    pub fn shutdown(mut self) -> Result<(), StoreError> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

/// The manager's thread.
fn serve(config: &ManagerConfig, started: &Started, outside: Outside) -> Result<(), StoreError> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tell(started, Err(StartError::System { what: "runtime", reason: e.to_string() }));
            return Ok(());
        }
    };
    runtime.block_on(async {
        match &config.store {
            StoreChoice::Directory(dir) => serve_with(RedbStore::open(dir), config, started, outside).await,
            StoreChoice::Etcd(etcd) => serve_with(EtcdStore::new(etcd), config, started, outside).await,
        }
    })
}

async fn serve_with<S: Store>(
    store: Result<S, StoreError>,
    config: &ManagerConfig,
    started: &Started,
    outside: Outside,
) -> Result<(), StoreError> {
    let ready = async {
        Ok::<_, StartError>((store?, Listener::bind(config.listen, config.security.clone(), Arena::new(ARENA_BYTES)).await?))
    };
    let (store, listener) = match ready.await {
        Ok(ready) => ready,
        Err(e) => {
            tell(started, Err(e));
            return Ok(());
        }
    };
    let addr = listener.local_addr();
    let shared = Arc::new(Shared {
        addr: config.advertise.clone().unwrap_or_else(|| addr.to_string()),
        cluster: AtomicU64::new(0),
        elected: AtomicBool::new(false),
    });
    let (replace_after_ms, max_moves) = (config.replace_after_ms, config.max_moves);
    let settings = Settings { replace_after_ms, max_moves, ..Settings::new(config.lease_ms, config.heartbeat_ms) };
    let mut ready = Some(|| tell(started, Ok((addr, shared.clone()))));
    let result = Service::run(settings, Arc::new(store), shared.clone(), listener, outside, &mut ready).await;
    match result {
        Err(e) if ready.is_some() => {
            tell(started, Err(e.into()));
            Ok(())
        }
        Err(e) => {
            tracing::error!("the manager stops: {e}");
            Err(e)
        }
        Ok(()) => Ok(()),
    }
}

/// The starter has the outcome, or is gone.
fn tell(started: &Started, outcome: Result<(SocketAddr, Arc<Shared>), StartError>) {
    drop(started.send(outcome));
}
