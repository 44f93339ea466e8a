//! Where the state of a cluster is kept, and who may write it.
//!
//! What must hold, whatever keeps it: at most one manager is primary at a time, and it knows until when it surely is;
//! when [`Store::save`] returns, the state survives; a manager whose term has ended changes nothing any more, however
//! late its write arrives.

use std::future::Future;
use std::time::Duration;

use catena_cluster::State;
use catena_types::Time;

use crate::error::StoreError;

/// What came of an attempt to become primary.
#[derive(Debug)]
pub enum Standing {
    /// This manager has been elected.
    Primary {
        /// What it writes with.
        term: Term,
        /// End of the term on the lease clock, if it is not renewed.
        until: Time,
        /// The state last saved; `None` if there is no cluster yet.
        state: Option<State>,
    },
    /// Another one has been.
    Follower {
        /// `host:port` of it.
        primary: String,
    },
}

/// One election won: fences the writes of this manager against those of later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The lease that the term lives by.
    pub(crate) lease: i64,
    /// Revision at which this manager became primary.
    pub(crate) elected: i64,
}

/// How often the managers turn to a store.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks at whether somebody must be elected.
    pub campaign: Duration,
    /// Between two renewals of the term; `None` if it does not end.
    pub renew: Option<Duration>,
}

/// Keeps the state of the cluster, for one of several managers at a time.
pub trait Store: Send + Sync + 'static {
    /// How often it wants to be turned to.
    fn pace(&self) -> Pace;

    /// Becomes primary if nobody is; `addr` is where clients and nodes reach this manager.
    ///
    /// # Errors
    /// [`StoreError::is_passing`] if it is worth trying again.
    fn campaign(&self, addr: &str) -> impl Future<Output = Result<Standing, StoreError>> + Send;

    /// Keeps the term alive, and says until when it surely lasts.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] if it is over; others may pass.
    fn renew(&self, term: Term) -> impl Future<Output = Result<Time, StoreError>> + Send;

    /// Makes a state durable. Tries for as long as it makes sense: the caller gives up when its term ends. One at a time.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] if the term is over. After any other error it may or may not have been saved: the manager
    /// must stop.
    fn save(&self, term: Term, state: &State) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives the term up, so that another manager need not wait for its end.
    fn resign(&self, term: Term) -> impl Future<Output = ()> + Send;
}
