//! The manager as a process: the state machine of `catena-cluster` over a store and a listener.
//!
//! [`Manager::start`] runs it on a thread of its own, which owns the state machine. The store works beside it: what it
//! decides is stored with one write after another, each with all that has changed meanwhile, and only then are the replies
//! that rest on it sent and its routing published; heartbeats do not wait. The state is kept in a directory by one manager,
//! or in etcd by the one that is elected among several. It is never on the data path.

mod clock;
mod config;
mod embedded;
mod error;
mod etcd;
mod handle;
mod observer;
mod publish;
mod record;
mod requests;
mod service;
mod store;
mod turns;

pub use config::{ManagerConfig, StoreChoice};
pub use embedded::RedbStore;
pub use error::{StartError, StoreError};
pub use etcd::{EtcdConfig, EtcdStore};
pub use handle::{Manager, ManagerHandle};
pub use observer::{ManagerCounters, ManagerObserver, ManagerStatus, REQUESTS};
pub use store::{Pace, Standing, Store, Term};
