//! Starting and stopping a manager.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use catena_arena::Arena;
use catena_cluster::{Manager as Core, Settings, State};
use catena_net::Listener;
use tokio::sync::oneshot;

use crate::clock;
use crate::config::ManagerConfig;
use crate::error::{StartError, StoreError};
use crate::service::Service;
use crate::store::{RedbStore, Store};

/// Bytes of receive buffers: requests to a manager have no payload.
const ARENA_BYTES: usize = 4 << 20;

/// The manager service.
pub struct Manager;

/// A running manager. Dropping it stops the manager, too, without waiting.
pub struct ManagerHandle {
    addr: SocketAddr,
    cluster: u64,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Manager {
    /// Opens the store, listens, and serves on a thread of its own.
    ///
    /// # Errors
    /// The directory is in use, the store cannot be read, or the address cannot be listened on.
    pub fn start(config: ManagerConfig) -> Result<ManagerHandle, StartError> {
        config.check().map_err(StartError::Config)?;
        let store = RedbStore::open(&config.dir)?;
        let (started, outcome) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let run = move || serve(&config, store, &started, stopped);
        let thread = std::thread::Builder::new().name("manager".to_owned()).spawn(run);
        let thread = thread.map_err(|e| StartError::System { what: "thread", reason: e.to_string() })?;
        let gone = |_| StartError::System { what: "running thread", reason: "it ended at once".to_owned() };
        let (addr, cluster) = outcome.recv().map_err(gone)??;
        tracing::info!(%addr, "manager of cluster {cluster:016x} serves");
        Ok(ManagerHandle { addr, cluster, stop: Some(stop), thread: Some(thread) })
    }
}

impl ManagerHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The cluster it manages.
    pub fn cluster(&self) -> u64 {
        self.cluster
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

type Started = std::sync::mpsc::Sender<Result<(SocketAddr, u64), StartError>>;

/// The manager's thread.
fn serve(config: &ManagerConfig, store: RedbStore, started: &Started, stop: oneshot::Receiver<()>) -> Result<(), StoreError> {
    // The starter has the address or the error, or is gone.
    let tell = |outcome| drop(started.send(outcome));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tell(Err(StartError::System { what: "runtime", reason: e.to_string() }));
            return Ok(());
        }
    };
    runtime.block_on(async {
        let ready = async {
            let service = prepare(config, store)?;
            Ok((Listener::bind(config.listen, Arena::new(ARENA_BYTES)).await?, service))
        };
        match ready.await {
            Ok((listener, (service, cluster))) => {
                tell(Ok((listener.local_addr(), cluster)));
                let result = service.run(listener, stop).await;
                if let Err(e) = &result {
                    tracing::error!("the manager stops: {e}");
                }
                result
            }
            Err(e) => {
                tell(Err(e));
                Ok(())
            }
        }
    })
}

/// Takes the stored state over, or makes a new cluster.
fn prepare(config: &ManagerConfig, mut store: RedbStore) -> Result<(Service<RedbStore>, u64), StartError> {
    let state = match store.load()? {
        Some(state) => state,
        None => {
            let state = State::new(draw_cluster()?);
            store.save(&state)?;
            state
        }
    };
    let cluster = state.cluster;
    let core = Core::new(Settings::new(config.lease_ms, config.heartbeat_ms), state, clock::now());
    Ok((Service::new(core, store), cluster))
}

/// A cluster id; never 0, which means "not known".
fn draw_cluster() -> Result<u64, StartError> {
    let random = getrandom::u64().map_err(|e| StartError::System { what: "random number", reason: e.to_string() })?;
    Ok(random.max(1))
}
