//! The embedded store: one durable file, used by one process at a time.
//!
//! Its manager is primary for as long as it lives: nobody else can have the directory. What must hold: what is saved
//! survives a power cut; a directory has at most one living manager; a file of a later format is left alone.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use catena_cluster::State;
use catena_types::Time;
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::error::StoreError;
use crate::record::{self, FORMAT};
use crate::store::{Pace, Standing, Store, Term};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("manager");
const KEY_FORMAT: &str = "format";
const KEY_STATE: &str = "state";
const FILE: &str = "manager.redb";
const LOCK: &str = "lock";

/// Time between attempts that cannot fail to elect.
const CAMPAIGN: Duration = Duration::from_millis(100);

/// A [`Store`] in a redb file.
pub struct RedbStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    database: Database,
    /// Held for as long as the store is open.
    _lock: File,
}

/// Both values of the table.
struct Stored {
    format: Vec<u8>,
    state: Vec<u8>,
}

impl RedbStore {
    /// Opens the store in `dir`, which is made if it is not there, and locks it against other processes.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(dir: &Path) -> Result<RedbStore, StoreError> {
        let lock = lock_dir(dir)?;
        let path = dir.join(FILE);
        let database = Database::create(&path).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { dir: dir.to_owned() },
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(reason)) => {
                StoreError::Damaged { place: path.display().to_string(), reason }
            }
            e => StoreError::Io { path: path.clone(), what: "open it", reason: e.to_string() },
        })?;
        Ok(RedbStore(Arc::new(Inner { path, database, _lock: lock })))
    }
}

impl Inner {
    fn io(&self, what: &'static str) -> impl Fn(redb::Error) -> StoreError + '_ {
        move |e| StoreError::Io { path: self.path.clone(), what, reason: e.to_string() }
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { place: self.path.display().to_string(), reason }
    }

    fn read(&self) -> Result<Option<Stored>, redb::Error> {
        let table = match self.database.begin_read()?.open_table(TABLE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let (format, state) = (table.get(KEY_FORMAT)?, table.get(KEY_STATE)?);
        Ok(format.zip(state).map(|(f, s)| Stored { format: f.value().to_vec(), state: s.value().to_vec() }))
    }

    fn write(&self, bytes: &[u8]) -> Result<(), redb::Error> {
        // A commit is durable when it returns: redb's default.
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            table.insert(KEY_FORMAT, FORMAT.to_le_bytes().as_slice())?;
            table.insert(KEY_STATE, bytes)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Inner {
    fn load(&self) -> Result<Option<State>, StoreError> {
        let Some(Stored { format, state }) = self.read().map_err(self.io("read it"))? else { return Ok(None) };
        let format = <[u8; 4]>::try_from(format).map_err(|f| self.damaged(format!("format of {} bytes", f.len())))?;
        let found = u32::from_le_bytes(format);
        if found > FORMAT {
            return Err(StoreError::Newer { place: self.path.display().to_string(), found, known: FORMAT });
        }
        record::decode(&state).map(Some).map_err(|e| self.damaged(e))
    }

    fn save(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(bytes).map_err(self.io("commit to it"))
    }
}

impl Store for RedbStore {
    fn pace(&self) -> Pace {
        Pace { campaign: CAMPAIGN, renew: None }
    }

    async fn campaign(&self, _addr: &str) -> Result<Standing, StoreError> {
        let state = self.0.load()?;
        Ok(Standing::Primary { term: Term { lease: 0, elected: 0 }, until: Time::MAX, state })
    }

    async fn renew(&self, _term: Term) -> Result<Time, StoreError> {
        Ok(Time::MAX)
    }

    async fn save(&self, _term: Term, state: &State) -> Result<(), StoreError> {
        let (inner, bytes) = (self.0.clone(), record::encode(state));
        // A flush takes as long as the disk wants.
        let saved = tokio::task::spawn_blocking(move || inner.save(&bytes)).await;
        saved.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }

    async fn resign(&self, _term: Term) {}
}

fn lock_dir(dir: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Dir { dir: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::some_state;

    #[test]
    fn a_state_survives() {
        let dir = tempfile::tempdir().unwrap();
        let state = some_state();
        {
            let store = RedbStore::open(dir.path()).unwrap().0;
            assert_eq!(store.load().unwrap(), None);
            store.save(&record::encode(&State::new(1))).unwrap();
            store.save(&record::encode(&state)).unwrap();
        }
        assert_eq!(RedbStore::open(dir.path()).unwrap().0.load().unwrap(), Some(state));
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let _first = RedbStore::open(dir.path()).unwrap();
        let error = RedbStore::open(dir.path()).err().expect("the directory is locked");
        assert!(error.to_string().contains("in use by another process"), "{error}");
    }

    #[test]
    fn a_later_format_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path()).unwrap().0;
        store.save(&record::encode(&some_state())).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(TABLE).unwrap().insert(KEY_FORMAT, 9_u32.to_le_bytes().as_slice()).unwrap();
        transaction.commit().unwrap();
        let error = store.load().unwrap_err();
        assert!(error.to_string().contains("format 9, this build knows up to 1"), "{error}");
    }

    #[test]
    fn damage_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path()).unwrap().0;
        store.write(&[0xff; 7]).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        drop(store);
        std::fs::write(dir.path().join(FILE), b"not a database").unwrap();
        let error = RedbStore::open(dir.path()).err().expect("not a database");
        assert!(error.to_string().contains("manager.redb"), "{error}");
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let error = RedbStore::open(&path).err().expect("a file");
        assert!(error.to_string().contains("must be a directory"), "{error}");
    }
}
