//! The store for several managers: etcd elects one of them, and takes the writes of that one only.
//!
//! Two keys under a prefix. `leader` belongs to the lease of the elected manager and holds its address: it is made by
//! whoever finds it missing, and etcd removes it when the lease ends. `state` holds the whole state, behind four bytes of
//! its format. What must hold: a write counts only if `leader` is still the one that was won, and only on top of the
//! write before it; the end of a term here lies before the end of the lease in etcd.

mod calls;
mod messages;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use catena_cluster::State;
use catena_types::Time;

use crate::clock;
use crate::error::StoreError;
use crate::record::{self, FORMAT};
use crate::store::{Pace, Standing, Store, Term};
use calls::Etcd;
use messages::{Compare, KeyValue, Operation, Transaction};

/// Time between two looks at whether a manager must be elected.
const CAMPAIGN: Duration = Duration::from_millis(200);
/// Pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port` of its members.
    pub addrs: Vec<String>,
    /// What the keys of this cluster begin with.
    pub prefix: String,
    /// Seconds without a renewal after which another manager may be elected. etcd may choose more.
    pub ttl: u32,
}

impl EtcdConfig {
    /// The usual prefix and a term of three seconds.
    pub fn new(addrs: Vec<String>) -> EtcdConfig {
        EtcdConfig { addrs, prefix: "/catena/".to_owned(), ttl: 3 }
    }
}

/// A [`Store`] in etcd.
pub struct EtcdStore {
    etcd: Etcd,
    leader: String,
    state: String,
    ttl: u32,
    /// Revision of the last write of the state that is known.
    written: AtomicI64,
}

impl EtcdStore {
    /// Connects when it is first needed. To be called in a runtime.
    ///
    /// # Errors
    /// An address makes no sense.
    pub fn new(config: &EtcdConfig) -> Result<EtcdStore, StoreError> {
        let ttl = config.ttl.max(1);
        // Three attempts fit into a term.
        let patience = Duration::from_millis(u64::from(ttl) * 1000 / 3);
        let (leader, state) = (format!("{}leader", config.prefix), format!("{}state", config.prefix));
        Ok(EtcdStore { etcd: Etcd::new(&config.addrs, patience)?, leader, state, ttl, written: AtomicI64::new(0) })
    }

    /// Who is elected, if anybody is.
    async fn elected(&self) -> Result<Option<String>, StoreError> {
        let look = Transaction { success: vec![Operation::range(&self.leader)], ..Transaction::default() };
        Ok(self.etcd.transaction(look).await?.found(0).map(address))
    }

    /// Makes the leader's key, unless it is there.
    async fn claim(&self, lease: i64, addr: &str, until: Time) -> Result<Standing, StoreError> {
        let claim = Transaction {
            compare: vec![Compare::created(&self.leader, 0)],
            success: vec![Operation::put(&self.leader, addr.into(), lease), Operation::range(&self.state)],
            failure: vec![Operation::range(&self.leader)],
        };
        let reply = self.etcd.transaction(claim).await?;
        if !reply.succeeded {
            return Ok(Standing::Follower { primary: reply.found(0).map(address).unwrap_or_default() });
        }
        let found = reply.found(1);
        let state = found.map(|kv| self.decode(&kv.value)).transpose()?;
        self.written.store(found.map_or(0, |kv| kv.mod_revision), Ordering::Relaxed);
        let elected = reply.header.map_or(0, |h| h.revision);
        Ok(Standing::Primary { term: Term { lease, elected }, until, state })
    }

    fn decode(&self, value: &[u8]) -> Result<State, StoreError> {
        let damaged = |reason| StoreError::Damaged { place: self.state.clone(), reason };
        let (format, record) = value.split_first_chunk::<4>().ok_or_else(|| damaged("it is too short".to_owned()))?;
        let found = u32::from_le_bytes(*format);
        if found > FORMAT {
            return Err(StoreError::Newer { place: self.state.clone(), found, known: FORMAT });
        }
        record::decode(record).map_err(damaged)
    }

    /// One attempt. After one whose answer was lost, this finds out what became of it.
    async fn write(&self, term: Term, value: &[u8]) -> Result<(), StoreError> {
        let written = self.written.load(Ordering::Relaxed);
        let write = Transaction {
            compare: vec![Compare::created(&self.leader, term.elected), Compare::modified(&self.state, written)],
            success: vec![Operation::put(&self.state, value.to_vec(), 0)],
            failure: vec![Operation::range(&self.leader), Operation::range(&self.state)],
        };
        let reply = self.etcd.transaction(write).await?;
        if reply.succeeded {
            self.written.store(reply.header.map_or(0, |h| h.revision), Ordering::Relaxed);
            return Ok(());
        }
        match (reply.found(0), reply.found(1)) {
            (Some(leader), Some(state)) if leader.create_revision == term.elected && state.value == value => {
                self.written.store(state.mod_revision, Ordering::Relaxed);
                Ok(())
            }
            (Some(leader), _) if leader.create_revision == term.elected => {
                Err(StoreError::Deposed(format!("somebody else has written {} in etcd", self.state)))
            }
            (Some(leader), _) => Err(StoreError::Deposed(format!("{} was elected", address(leader)))),
            (None, _) => Err(StoreError::Deposed("its lease in etcd has ended".to_owned())),
        }
    }
}

impl Store for EtcdStore {
    fn pace(&self) -> Pace {
        Pace { campaign: CAMPAIGN, renew: Some(Duration::from_millis(u64::from(self.ttl) * 1000 / 6)) }
    }

    async fn campaign(&self, addr: &str) -> Result<Standing, StoreError> {
        if let Some(primary) = self.elected().await? {
            return Ok(Standing::Follower { primary });
        }
        let sent = clock::now();
        let lease = self.etcd.grant(self.ttl.into()).await?;
        let standing = self.claim(lease.id, addr, end(sent, lease.ttl)).await;
        if !matches!(standing, Ok(Standing::Primary { .. })) {
            // Without an answer the key may have been made: it goes with its lease.
            self.resign(Term { lease: lease.id, elected: 0 }).await;
        }
        standing
    }

    async fn renew(&self, term: Term) -> Result<Time, StoreError> {
        let sent = clock::now();
        let reply = self.etcd.keep_alive(term.lease).await?;
        if reply.ttl <= 0 {
            return Err(StoreError::Deposed("its lease in etcd has ended".to_owned()));
        }
        Ok(end(sent, reply.ttl))
    }

    async fn save(&self, term: Term, state: &State) -> Result<(), StoreError> {
        let value = [&FORMAT.to_le_bytes()[..], &record::encode(state)].concat();
        let mut told = false;
        loop {
            match self.write(term, &value).await {
                Err(e @ StoreError::Unreachable { .. }) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("membership is frozen until this state is stored, trying again: {e}");
                    }
                    tokio::time::sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn resign(&self, term: Term) {
        if let Err(e) = self.etcd.revoke(term.lease).await {
            tracing::debug!("a lease could not be given up, it ends by itself: {e}");
        }
    }
}

/// When a lease asked for at `sent` surely still holds: a tenth is left for clocks that drift.
fn end(sent: Time, ttl: i64) -> Time {
    sent.saturating_add(ttl.unsigned_abs() * 900_000_000)
}

fn address(kv: &KeyValue) -> String {
    String::from_utf8_lossy(&kv.value).into_owned()
}
