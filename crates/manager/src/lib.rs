//! The manager as a process: the state machine of `catena-cluster` over a durable store and a listener.
//!
//! [`Manager::start`] runs it on a thread of its own, which owns the state machine and the store: requests are handled
//! in batches, a batch that changed the state is stored with one commit, and only then are its replies sent and its
//! routing published. A manager that cannot store stops. It is never on the data path.

mod clock;
mod config;
mod error;
mod handle;
mod record;
mod requests;
mod service;
mod store;

pub use config::ManagerConfig;
pub use error::{StartError, StoreError};
pub use handle::{Manager, ManagerHandle};
pub use store::{RedbStore, Store};
