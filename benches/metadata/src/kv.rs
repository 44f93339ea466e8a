//! Key-value stores: one synced transaction per update, or one for all updates that wait.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fjall::{Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{Durability, TableDefinition};

use crate::tally::{Draw, Meter, Tally, VALUE, key, value};
use crate::{Failure, Subject};

/// Records in one transaction when the store is filled.
const FILL: u64 = 5000;

/// A prefix, and the key of a chunk.
type Key = [u8; 17];
type Value = [u8; VALUE];
const COMMITTED: u8 = b'c';
const STAGED: u8 = b's';

/// A store of records.
pub(crate) trait Kv: Send + Sync {
    /// What it is called in the table.
    fn name(&self) -> &'static str;
    /// Puts some records and removes others in one transaction; durable on return.
    fn change(&self, put: &[(Key, Value)], remove: &[Key]) -> Result<(), Failure>;
}

/// Puts every record once.
fn fill(kv: &impl Kv, records: u64) -> Result<(), Failure> {
    let mut draw = Draw(7);
    for from in (0..records).step_by(FILL as usize) {
        let part: Vec<_> = (from..records.min(from + FILL)).map(|n| (key_of(COMMITTED, n), value(&mut draw))).collect();
        kv.change(&part, &[])?;
    }
    Ok(())
}

fn key_of(prefix: u8, number: u64) -> Key {
    let mut bytes = [prefix; 17];
    bytes[1..].copy_from_slice(&key(number));
    bytes
}

/// redb with its defaults.
#[derive(Clone)]
pub(crate) struct Redb(Arc<redb::Database>);

const RECORDS: TableDefinition<'_, Key, Value> = TableDefinition::new("records");

impl Redb {
    pub(crate) fn create(dir: &Path, records: u64) -> Result<Redb, Failure> {
        let redb = Redb(Arc::new(redb::Database::create(dir.join("redb"))?));
        fill(&redb, records)?;
        Ok(redb)
    }
}

impl Kv for Redb {
    fn name(&self) -> &'static str {
        "redb 4.6"
    }

    fn change(&self, put: &[(Key, Value)], remove: &[Key]) -> Result<(), Failure> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut table = transaction.open_table(RECORDS)?;
        for (key, value) in put {
            table.insert(key, value)?;
        }
        for key in remove {
            table.remove(key)?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }
}

/// fjall with its defaults, synced with fdatasync.
#[derive(Clone)]
pub(crate) struct Fjall {
    db: fjall::Database,
    records: Keyspace,
}

impl Fjall {
    pub(crate) fn create(dir: &Path, records: u64) -> Result<Fjall, Failure> {
        let db = fjall::Database::builder(dir.join("fjall")).open()?;
        let keyspace = db.keyspace("records", KeyspaceCreateOptions::default)?;
        let fjall = Fjall { db, records: keyspace };
        fill(&fjall, records)?;
        Ok(fjall)
    }
}

impl Kv for Fjall {
    fn name(&self) -> &'static str {
        "fjall 3.1"
    }

    fn change(&self, put: &[(Key, Value)], remove: &[Key]) -> Result<(), Failure> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in put {
            batch.insert(&self.records, key.as_slice(), value.as_slice());
        }
        for key in remove {
            batch.remove(&self.records, key.as_slice());
        }
        Ok(batch.commit()?)
    }
}

/// What an update is in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    /// One record of its chunk: no staged version.
    Put,
    /// A staged record; with the next transaction it becomes the chunk's record, as in the engine.
    StageThenCommit,
}

/// A store with a committer in front: one transaction for every update that waits.
pub(crate) struct Grouped<K> {
    pub(crate) kv: K,
    pub(crate) records: u64,
    pub(crate) update: Update,
}

impl<K: Kv> Subject for Grouped<K> {
    fn name(&self) -> String {
        let what = if self.update == Update::Put { "one put" } else { "stage, and commit with the next" };
        format!("{}, grouped: {what}", self.kv.name())
    }

    fn run(&mut self, writers: usize, time: Duration) -> Result<Tally, Failure> {
        let (mut draw, mut meter) = (Draw(1), Meter::start(time)?);
        let mut staged: Vec<(u64, Value)> = Vec::new();
        while !meter.over() {
            let since = Instant::now();
            let group: Vec<_> = (0..writers).map(|_| (draw.next() % self.records, value(&mut draw))).collect();
            let prefix = if self.update == Update::Put { COMMITTED } else { STAGED };
            let mut put: Vec<_> = staged.iter().map(|(n, value)| (key_of(COMMITTED, *n), *value)).collect();
            put.extend(group.iter().map(|(n, value)| (key_of(prefix, *n), *value)));
            // Not those that are staged again just now.
            let over = staged.iter().filter(|(n, _)| group.iter().all(|(again, _)| again != n));
            let remove: Vec<_> = over.map(|(n, _)| key_of(STAGED, *n)).collect();
            self.kv.change(&put, &remove)?;
            (0..writers).for_each(|_| meter.durable(since));
            staged = if self.update == Update::Put { Vec::new() } else { group };
        }
        meter.finish()
    }
}

/// A store with a thread per writer: one transaction per update, one put each.
pub(crate) struct OneEach<K> {
    pub(crate) kv: K,
    pub(crate) records: u64,
}

impl<K: Kv> OneEach<K> {
    /// One writer's thread.
    fn write(&self, seed: u64, mut meter: Meter) -> Result<Meter, Failure> {
        let mut draw = Draw(seed);
        while !meter.over() {
            let since = Instant::now();
            self.kv.change(&[(key_of(COMMITTED, draw.next() % self.records), value(&mut draw))], &[])?;
            meter.durable(since);
        }
        Ok(meter)
    }
}

impl<K: Kv> Subject for OneEach<K> {
    fn name(&self) -> String {
        format!("{}, a transaction each: one put", self.kv.name())
    }

    fn run(&mut self, writers: usize, time: Duration) -> Result<Tally, Failure> {
        let mut meter = Meter::start(time)?;
        let meters: Vec<_> = (0..writers as u64).map(|seed| (seed, meter.fork())).collect();
        let ended: Vec<Result<Meter, Failure>> = std::thread::scope(|scope| {
            let kv = &*self;
            let threads: Vec<_> = meters.into_iter().map(|(seed, meter)| scope.spawn(move || kv.write(seed, meter))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a writer panicked".into()))).collect()
        });
        for other in ended {
            meter.join(&other?)?;
        }
        meter.finish()
    }
}
