//! Repositories in the restic format: the one place that knows `rustic_core`.

mod check;
mod copy;
mod error;
mod keys;
mod lock;
mod prune;
mod snapshot;
mod writer;

pub use check::{CheckOptions, CheckReport, ReadData};
pub use copy::Copied;
pub use error::RepositoryError;
pub use keys::KeyInfo;
pub use lock::LockInfo;
pub use prune::{PruneOptions, PrunePlan, PruneReport};
pub use snapshot::{POLICY_TAG, Snapshot, SnapshotFacts, TAG};
pub use writer::{
    CommitRequest, Graft, NewSnapshot, SEGMENT_TARGET, SnapshotWriter, Staged, StagedSegment,
    StagedTree,
};

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::destination::Storage;
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::source::Content;

/// How a repository is made.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// The repository whose chunker is shared, so that files copied from it are recognised.
    pub chunker_of: Option<Repository>,
}

/// A repository, opened. Clones are cheap and share it.
#[derive(Debug, Clone)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    location: String,
}

fn not_built() -> RepositoryError {
    RepositoryError::Engine {
        action: "work".into(),
        location: String::new(),
        cause: "this build holds no repository engine".into(),
    }
}

impl Repository {
    /// Opens the repository at `storage`.
    ///
    /// # Errors
    /// [`RepositoryError::NotARepository`] when there is none, [`RepositoryError::WrongPassword`]
    /// when the password opens none of its keys, or what the storage says.
    pub async fn open(
        storage: Arc<dyn Storage>,
        password: &SecretString,
    ) -> Result<Self, RepositoryError> {
        let _ = (storage, password);
        Err(not_built())
    }

    /// Makes a repository at `storage`.
    ///
    /// # Errors
    /// [`RepositoryError::NotEmpty`] when the place holds anything, or what the storage says.
    pub async fn init(
        storage: Arc<dyn Storage>,
        password: &SecretString,
        options: &InitOptions,
    ) -> Result<Self, RepositoryError> {
        let _ = (storage, password, options);
        Err(not_built())
    }

    /// Opens the repository at `storage`, or makes it; the second value says whether it was made.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::init`].
    pub async fn open_or_init(
        storage: Arc<dyn Storage>,
        password: &SecretString,
        options: &InitOptions,
    ) -> Result<(Self, bool), RepositoryError> {
        let _ = (storage, password, options);
        Err(not_built())
    }

    /// The same repository, waiting at most so long for the locks of others.
    #[must_use]
    pub fn with_lock_wait(self, wait: Duration) -> Self {
        let _ = wait;
        self
    }

    /// The repository's id: 64 hex digits.
    #[must_use]
    pub fn id(&self) -> String {
        String::new()
    }

    /// The place in words, without secrets.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Where it lives.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Every snapshot that is there now, ours and foreign, the oldest first.
    ///
    /// # Errors
    /// When the listing or one of the snapshots cannot be read: a listing is complete or an error.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError> {
        Err(not_built())
    }

    /// The snapshot whose id begins with `id_prefix`.
    ///
    /// # Errors
    /// [`RepositoryError::UnknownSnapshot`], [`RepositoryError::AmbiguousSnapshot`], or as
    /// [`Self::snapshots`].
    pub async fn snapshot(&self, id_prefix: &str) -> Result<Snapshot, RepositoryError> {
        let _ = id_prefix;
        Err(not_built())
    }

    /// Begins to write a snapshot: takes the shared lock and reads the index.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] when another holds an exclusive lock for longer than the wait,
    /// or what the storage says.
    pub async fn begin(
        &self,
        new: NewSnapshot,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<SnapshotWriter, RepositoryError> {
        let _ = (new, progress, cancel);
        Err(not_built())
    }

    /// Reads the tree and the blobs of a snapshot; holds a shared lock while it is alive.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn content(&self, snapshot: &Snapshot) -> Result<Arc<dyn Content>, RepositoryError> {
        let _ = snapshot;
        Err(not_built())
    }

    /// The manifest of a snapshot of ours; `None` for a foreign one.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when it is missing or cannot be understood, or as
    /// [`Self::content`].
    pub async fn manifest(&self, snapshot: &Snapshot) -> Result<Option<Manifest>, RepositoryError> {
        let _ = snapshot;
        Err(not_built())
    }

    /// Removes snapshots by their full ids. What they alone need is freed by [`Self::prune`].
    ///
    /// # Errors
    /// [`RepositoryError::Locked`], or what the storage says; removed ones stay removed.
    pub async fn forget(&self, ids: &[String]) -> Result<(), RepositoryError> {
        let _ = ids;
        Err(not_built())
    }

    /// What [`Self::prune`] would do now. Changes nothing.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when something that a snapshot needs is missing, or what the
    /// storage says.
    pub async fn prune_plan(&self, options: &PruneOptions) -> Result<PrunePlan, RepositoryError> {
        let _ = options;
        Err(not_built())
    }

    /// Frees what no snapshot needs: marks it, and removes what was marked long enough ago.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] when others hold locks for longer than the wait, or as
    /// [`Self::prune_plan`].
    pub async fn prune(&self, options: &PruneOptions) -> Result<PruneReport, RepositoryError> {
        let _ = options;
        Err(not_built())
    }

    /// Checks that everything snapshots need is there. Damage is in the report; it is an error
    /// only when the check could not be carried out.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`], or what the storage says.
    pub async fn check(
        &self,
        options: &CheckOptions,
        progress: Progress,
    ) -> Result<CheckReport, RepositoryError> {
        let _ = (options, progress);
        Err(not_built())
    }

    /// Copies snapshots to another repository. Those that are there already, by
    /// [`Snapshot::identity`], are not copied again.
    ///
    /// # Errors
    /// As [`Self::begin`], for either side; [`RepositoryError::Damaged`] when something that a
    /// snapshot needs is missing here.
    pub async fn copy(
        &self,
        snapshots: &[Snapshot],
        to: &Self,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Vec<Copied>, RepositoryError> {
        let _ = (snapshots, to, progress, cancel);
        Err(not_built())
    }

    /// Bytes of everything that is stored, by listing it.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn stored_bytes(&self) -> Result<u64, RepositoryError> {
        Err(not_built())
    }

    /// The keys: the passwords that open it.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>, RepositoryError> {
        Err(not_built())
    }

    /// Adds a password; the id of its key.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn add_key(&self, password: &SecretString) -> Result<String, RepositoryError> {
        let _ = password;
        Err(not_built())
    }

    /// Removes a key by its full id. The one in use, and so the last, cannot be removed.
    ///
    /// # Errors
    /// When it is the one in use, or what the storage says.
    pub async fn remove_key(&self, id: &str) -> Result<(), RepositoryError> {
        let _ = id;
        Err(not_built())
    }

    /// The locks that are there.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn locks(&self) -> Result<Vec<LockInfo>, RepositoryError> {
        Err(not_built())
    }

    /// Removes locks that nobody refreshed for 30 minutes, or whose process on this host is gone;
    /// how many.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn break_stale_locks(&self) -> Result<usize, RepositoryError> {
        Err(not_built())
    }
}
