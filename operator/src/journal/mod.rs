//! The history of runs and the memory of objects, in an embedded database below `--state-dir`.
//!
//! Several processes use it side by side: a verb of the command line while `holdfast run` goes on.
//! The database is opened in redb's multi-writer mode, in which one write transaction at a time is
//! open in all processes together and readers never wait. Every write here is one short
//! transaction, durable when the call returns. Calls block for as long as a commit takes (some
//! milliseconds on a disk): from asynchronous code, call them on a thread that may block.
//!
//! Nothing here is the only copy of anything but the history of runs itself: the catalogue of
//! backups is what lies in the destinations.

mod error;
mod history;
mod holder;
mod objects;
mod run;
mod runs;
mod store;
mod summary;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

pub use error::JournalError;
pub use history::RunQuery;
pub use holder::Holder;
pub use objects::{ObjectKey, ObjectRecord};
pub use run::{
    Ending, FailureClass, Figures, HOOK_OUTPUT_LIMIT, HookOutput, NewRun, Outcome, Run, RunError,
    RunKind,
};
pub use summary::{DURATION_BUCKETS, LastBackup, Summary};

use holder::HolderLock;
use store::{Limits, Store};

/// The name of the database in the state directory.
pub const DATABASE_FILE: &str = "state.redb";

/// The history of runs and the memory of objects. Clones share one database.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    holders: std::path::PathBuf,
    lock: HolderLock,
    limits: Limits,
}

impl Journal {
    /// Opens the journal in a state directory, which is made when it is not there. Runs that a
    /// process left open which is gone become [`Outcome::Interrupted`]; they are returned.
    ///
    /// # Errors
    /// When the directory cannot be used, or the database is damaged or newer than this program.
    pub fn open(directory: &Path, now: Timestamp) -> Result<(Self, Vec<Run>), JournalError> {
        Self::open_with(directory, now, Limits::default())
    }

    fn open_with(
        directory: &Path,
        now: Timestamp,
        limits: Limits,
    ) -> Result<(Self, Vec<Run>), JournalError> {
        let holders = directory.join("holders");
        store::create_private_directory(directory)?;
        store::create_private_directory(&holders)?;
        let store = Store::open(&directory.join(DATABASE_FILE))?;
        let lock = HolderLock::take(&holders)?;
        holder::sweep(&holders, &lock.holder().id);
        let journal = Self {
            inner: Arc::new(Inner {
                store,
                holders,
                lock,
                limits,
            }),
        };
        let interrupted = journal.recover(now)?;
        Ok((journal, interrupted))
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    fn not_open(&self, id: &str) -> JournalError {
        JournalError::NotOpen {
            run: id.to_owned(),
            path: self.store().path().to_owned(),
        }
    }
}
