//! The embedded store: one durable file, used by one process at a time.
//!
//! What must hold: when [`Store::save`] returns, the state survives a power cut; a directory has at most one living
//! manager; a file of a later format is left alone.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use catena_cluster::{State, check_chain};
use prost::Message;
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::error::StoreError;
use crate::record::StateRecord;

/// Keeps the manager's state.
pub trait Store: Send {
    /// The state last saved; `None` at the first start.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense.
    fn load(&self) -> Result<Option<State>, StoreError>;
    /// Makes a state durable before it returns.
    ///
    /// # Errors
    /// It may or may not have been saved: the manager must stop.
    fn save(&mut self, state: &State) -> Result<(), StoreError>;
}

/// Format of the file; grows when an older build could not make sense of it.
const FORMAT: u32 = 1;
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("manager");
const KEY_FORMAT: &str = "format";
const KEY_STATE: &str = "state";
const FILE: &str = "manager.redb";
const LOCK: &str = "lock";

/// A [`Store`] in a redb file.
pub struct RedbStore {
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
                StoreError::Damaged { path: path.clone(), reason }
            }
            e => StoreError::Io { path: path.clone(), what: "open it", reason: e.to_string() },
        })?;
        Ok(RedbStore { path, database, _lock: lock })
    }

    fn io(&self, what: &'static str) -> impl Fn(redb::Error) -> StoreError + '_ {
        move |e| StoreError::Io { path: self.path.clone(), what, reason: e.to_string() }
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), reason }
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

    fn write(&mut self, bytes: &[u8]) -> Result<(), redb::Error> {
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

impl Store for RedbStore {
    fn load(&self) -> Result<Option<State>, StoreError> {
        let Some(Stored { format, state }) = self.read().map_err(self.io("read it"))? else { return Ok(None) };
        let format = <[u8; 4]>::try_from(format).map_err(|f| self.damaged(format!("format of {} bytes", f.len())))?;
        let found = u32::from_le_bytes(format);
        if found > FORMAT {
            return Err(StoreError::Newer { path: self.path.clone(), found, known: FORMAT });
        }
        let record = StateRecord::decode(state.as_slice()).map_err(|e| self.damaged(e.to_string()))?;
        let state = State::from(record);
        state.chains.values().try_for_each(check_chain).map_err(|e| self.damaged(e))?;
        Ok(Some(state))
    }

    fn save(&mut self, state: &State) -> Result<(), StoreError> {
        let bytes = StateRecord::from(state).encode_to_vec();
        let result = self.write(&bytes);
        result.map_err(self.io("commit to it"))
    }
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
    use catena_cluster::{Manager, Settings};
    use catena_types::Space;
    use catena_wire::manager::{InitRequest, RegisterRequest, TargetOffer};

    fn some_state() -> State {
        let mut manager = Manager::new(Settings::default(), State::new(0xfeed), 0);
        for node in 1..=3_u32 {
            let offer = |n: u8| TargetOffer { uuid: vec![node as u8 * 16 + n; 16], target: 0, shard: 0, space: Space::default() };
            let request = RegisterRequest {
                node,
                cluster: 0,
                process: 7 + u64::from(node),
                shard_addrs: vec![format!("10.0.0.{node}:7000")],
                targets: vec![offer(0), offer(1)],
            };
            assert_eq!(manager.register(1, &request).reply.failure, None);
        }
        assert_eq!(manager.init(10_000_000_000, &InitRequest { replicas: 3, nodes: 3 }).reply.chains, 2);
        manager.state().clone()
    }

    #[test]
    fn a_state_survives() {
        let dir = tempfile::tempdir().unwrap();
        let state = some_state();
        {
            let mut store = RedbStore::open(dir.path()).unwrap();
            assert_eq!(store.load().unwrap(), None);
            store.save(&State::new(1)).unwrap();
            store.save(&state).unwrap();
        }
        assert_eq!(RedbStore::open(dir.path()).unwrap().load().unwrap(), Some(state));
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
        let mut store = RedbStore::open(dir.path()).unwrap();
        store.save(&some_state()).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(TABLE).unwrap().insert(KEY_FORMAT, 9_u32.to_le_bytes().as_slice()).unwrap();
        transaction.commit().unwrap();
        let error = store.load().unwrap_err();
        assert!(error.to_string().contains("format 9, this build knows up to 1"), "{error}");
    }

    #[test]
    fn damage_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = RedbStore::open(dir.path()).unwrap();
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
