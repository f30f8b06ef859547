//! The embedded database: how it is opened and shared, its tables, and how its failures are told.

use std::path::{Path, PathBuf};

use redb::{
    ConcurrencyMode, Database, DatabaseError, Key, ReadOnlyTable, ReadTransaction,
    ReadableDatabase, StorageError, Table, TableDefinition, TableError, Value, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::JournalError;

/// The format of the tables below; a program refuses one that is newer than its own.
const FORMAT: u64 = 1;

/// How much of the database is kept in memory. A policy's latest runs are a few hundred kilobytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

pub(super) type SummaryTable = TableDefinition<'static, &'static str, &'static [u8]>;

/// Runs by id, as JSON.
pub(super) const RUNS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("runs");
/// Ids of runs by `namespace/policy`.
pub(super) const RUNS_BY_POLICY: TableDefinition<'static, (&str, &str), ()> =
    TableDefinition::new("runs_by_policy");
/// Ids of the runs in progress.
pub(super) const OPEN_RUNS: TableDefinition<'static, &str, ()> = TableDefinition::new("open_runs");
/// What the runs of a policy come to, as JSON.
pub(super) const POLICY_SUMMARIES: SummaryTable = TableDefinition::new("policy_summaries");
/// What the runs at a destination come to, as JSON.
pub(super) const DESTINATION_SUMMARIES: SummaryTable =
    TableDefinition::new("destination_summaries");
/// Objects by kind, namespace and name, as JSON.
pub(super) const OBJECTS: TableDefinition<'static, (&str, &str, &str), &[u8]> =
    TableDefinition::new("objects");
/// The format.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// How many runs are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of one policy.
    pub(super) runs_per_policy: usize,
    /// In all.
    pub(super) runs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            runs_per_policy: 1_000,
            runs: 10_000,
        }
    }
}

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    database: Handle,
    path: PathBuf,
}

/// redb's database has no `Debug`.
struct Handle(Database);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

impl Store {
    /// Opens the database, creates it when there is none.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        // The whole file is verified at every start: redb may panic later on a file that something
        // else has altered. With 10,000 runs it has 9 MiB, and opening it took 0.9 s in a debug
        // build on a busy machine.
        let database = Database::builder()
            .set_concurrency_mode(ConcurrencyMode::MultiWriter)
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|cause| open_error(path, &cause))?;
        let store = Self {
            database: Handle(database),
            path: path.to_owned(),
        };
        store.prepare()?;
        Ok(store)
    }

    /// The path of the database.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates every table, so that reading never meets one that is not there, and checks the
    /// format.
    fn prepare(&self) -> Result<(), JournalError> {
        self.write("prepare the tables", |transaction| {
            let mut meta = self.table(transaction, META)?;
            let found = self
                .done(meta.insert("format", FORMAT))?
                .map(|value| value.value());
            if let Some(found) = found.filter(|found| *found > FORMAT) {
                // Returning an error aborts the transaction, and the insertion with it.
                return Err(JournalError::Newer {
                    path: self.path.clone(),
                    found,
                    known: FORMAT,
                });
            }
            self.table(transaction, RUNS)?;
            self.table(transaction, RUNS_BY_POLICY)?;
            self.table(transaction, OPEN_RUNS)?;
            self.table(transaction, POLICY_SUMMARIES)?;
            self.table(transaction, DESTINATION_SUMMARIES)?;
            self.table(transaction, OBJECTS)?;
            Ok(())
        })
    }

    /// One write transaction: committed when `work` succeeds, else nothing of it stays.
    pub(super) fn write<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let transaction = self
            .database
            .0
            .begin_write()
            .map_err(|cause| self.failed(action, cause.into()))?;
        let result = work(&transaction)?;
        transaction
            .commit()
            .map_err(|cause| self.failed(action, cause.into()))?;
        Ok(result)
    }

    /// One read transaction: everything in it is of one moment.
    pub(super) fn read<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&ReadTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let transaction = self
            .database
            .0
            .begin_read()
            .map_err(|cause| self.failed(action, cause.into()))?;
        work(&transaction)
    }

    /// A table, to write.
    pub(super) fn table<'t, K: Key + 'static, V: Value + 'static>(
        &self,
        transaction: &'t WriteTransaction,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<Table<'t, K, V>, JournalError> {
        transaction
            .open_table(definition)
            .map_err(|cause| self.table_error(cause))
    }

    /// A table, to read.
    pub(super) fn read_table<K: Key + 'static, V: Value + 'static>(
        &self,
        transaction: &ReadTransaction,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, JournalError> {
        transaction
            .open_table(definition)
            .map_err(|cause| self.table_error(cause))
    }

    /// What a step in a table came to.
    pub(super) fn done<T>(&self, result: Result<T, StorageError>) -> Result<T, JournalError> {
        result.map_err(|cause| self.failed("use a table", cause.into()))
    }

    /// A value as it is written.
    pub(super) fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, JournalError> {
        serde_json::to_vec(value).map_err(|cause| JournalError::Storage {
            action: "write down a value",
            path: self.path.clone(),
            cause: cause.to_string(),
        })
    }

    /// A value as it was written.
    pub(super) fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, JournalError> {
        serde_json::from_slice(bytes).map_err(|cause| JournalError::Damaged {
            path: self.path.clone(),
            cause: format!("an entry cannot be read: {cause}"),
        })
    }

    fn table_error(&self, cause: TableError) -> JournalError {
        self.failed("open a table", cause.into())
    }

    fn failed(&self, action: &'static str, cause: redb::Error) -> JournalError {
        match cause {
            redb::Error::Corrupted(cause) => JournalError::Damaged {
                path: self.path.clone(),
                cause,
            },
            cause => JournalError::Storage {
                action,
                path: self.path.clone(),
                cause: cause.to_string(),
            },
        }
    }
}

/// Both ends of the keys of one policy in [`RUNS_BY_POLICY`]. Ids are ASCII.
pub(super) fn keys_of(policy: &str) -> std::ops::RangeInclusive<(&str, &str)> {
    (policy, "")..=(policy, "\u{10ffff}")
}

/// A directory that only its owner can look into: hooks may write what is confidential.
pub(super) fn create_private_directory(path: &Path) -> Result<(), JournalError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .map_err(|cause| JournalError::Directory {
            action: "create",
            path: path.to_owned(),
            cause,
        })
}

fn open_error(path: &Path, cause: &DatabaseError) -> JournalError {
    let path = path.to_owned();
    let damaged = |cause: &dyn std::fmt::Display| JournalError::Damaged {
        path: path.clone(),
        cause: cause.to_string(),
    };
    match cause {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            JournalError::NotShared {
                path,
                cause: cause.to_string(),
            }
        }
        DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => damaged(cause),
        DatabaseError::Storage(StorageError::Corrupted(cause)) => damaged(cause),
        // What is not a database at all.
        DatabaseError::Storage(StorageError::Io(io))
            if matches!(
                io.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            damaged(io)
        }
        other => JournalError::Storage {
            action: "open the tables",
            path,
            cause: other.to_string(),
        },
    }
}
