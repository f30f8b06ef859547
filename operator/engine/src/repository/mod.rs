//! Repositories in the restic format: the one place that knows `rustic_core`.
//!
//! The library derives keys, archives trees of files (its chunker, its parents) and prunes. What it
//! keeps to itself or does in a way that loses something is done here: key files (`key_file`), locks
//! (`lock`), packs of segments and of trees (`pack`, `packer`, `stage`, `compose`), uploads side by
//! side with a barrier (`uploads`, behind the library too: `backend`), verified reads by windows of
//! packs (`index`, `reader`, `content`), checks and copies that pass over nothing (`check`,
//! `copy`). A snapshot file is written last, by `writer`, and by nothing else.

mod archive;
mod backend;
mod check;
mod cipher;
mod compose;
mod content;
mod copy;
mod error;
mod id;
mod index;
mod inner;
mod key_file;
mod keys;
mod library;
mod local_tree;
mod lock;
mod machine;
mod open;
mod pack;
mod packer;
mod prune;
mod reader;
mod resize;
mod snapshot;
mod stage;
mod uploads;
mod writer;

pub use check::{CheckOptions, CheckReport, MAX_PARTS, ReadData};
pub use copy::Copied;
pub use error::RepositoryError;
pub use keys::KeyInfo;
pub use lock::LockInfo;
pub use open::InitOptions;
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

use content::SnapshotContent;
use inner::Inner;

use crate::destination::Storage;
use crate::manifest::{MANIFEST_PATH, Manifest};
use crate::progress::Progress;
use crate::source::Content;

/// A repository, opened. Clones are cheap and share it.
#[derive(Debug, Clone)]
pub struct Repository {
    inner: Arc<Inner>,
    lock_wait: Duration,
}

/// Waits until the locks of everything that was dropped are removed. A program calls this before it
/// ends: a lock file it leaves behind keeps stock restic away until `restic unlock`.
pub async fn locks_removed() {
    lock::removed().await;
}

/// How long the locks of others are waited for, unless said otherwise.
const LOCK_WAIT: Duration = Duration::from_secs(120);

impl From<Inner> for Repository {
    fn from(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
            lock_wait: LOCK_WAIT,
        }
    }
}

impl Repository {
    /// Opens the repository at `storage`.
    ///
    /// # Errors
    /// [`RepositoryError::NotARepository`] when there is none, [`RepositoryError::WrongPassword`]
    /// when the password opens none of its keys, [`RepositoryError::Damaged`] when its config or its
    /// keys are not what they were, or what the storage says.
    pub async fn open(
        storage: Arc<dyn Storage>,
        password: &SecretString,
    ) -> Result<Self, RepositoryError> {
        Ok(open::open(storage, password).await?.into())
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
        Ok(open::init(storage, password, options).await?.into())
    }

    /// Whether a repository can be made at `storage`.
    ///
    /// # Errors
    /// [`RepositoryError::NotEmpty`] when the place holds anything, or what the storage says.
    pub async fn vacant(storage: &Arc<dyn Storage>) -> Result<(), RepositoryError> {
        open::vacant(storage).await
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
        match Self::open(Arc::clone(&storage), password).await {
            Err(RepositoryError::NotARepository { .. }) => {}
            opened => return Ok((opened?, false)),
        }
        match Self::init(Arc::clone(&storage), password, options).await {
            // Another was faster.
            Err(RepositoryError::AlreadyExists { .. }) => {
                Ok((Self::open(storage, password).await?, false))
            }
            made => Ok((made?, true)),
        }
    }

    /// The same repository, waiting at most so long for the locks of others.
    #[must_use]
    pub fn with_lock_wait(self, wait: Duration) -> Self {
        Self {
            lock_wait: wait,
            ..self
        }
    }

    /// The repository's id: 64 hex digits.
    #[must_use]
    pub fn id(&self) -> String {
        self.inner.repository_id.to_string()
    }

    /// The place in words, without secrets.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// Where it lives.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// Whether the repository that was opened is still what is there, asked once and without
    /// patience: an open one is kept for days, and its place may be emptied meanwhile.
    ///
    /// # Errors
    /// [`RepositoryError::NotARepository`] when it is gone, [`RepositoryError::Replaced`] when
    /// another is in its place, or what the storage says.
    pub async fn verify(&self) -> Result<(), RepositoryError> {
        self.inner.verify_once().await
    }

    /// Every snapshot that is there now, ours and foreign, the oldest first.
    ///
    /// # Errors
    /// When the listing or one of the snapshots cannot be read: a listing is complete or an error;
    /// as [`Self::verify`].
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, RepositoryError> {
        snapshot::list(&self.inner).await
    }

    /// The snapshot whose id begins with `id_prefix`.
    ///
    /// # Errors
    /// [`RepositoryError::UnknownSnapshot`], [`RepositoryError::AmbiguousSnapshot`], or as
    /// [`Self::snapshots`].
    pub async fn snapshot(&self, id_prefix: &str) -> Result<Snapshot, RepositoryError> {
        snapshot::find(&self.inner, id_prefix).await
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
        SnapshotWriter::begin(&self.inner, self.lock_wait, new, progress, cancel).await
    }

    /// Reads the tree and the blobs of a snapshot; holds a shared lock while it is alive.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn content(&self, snapshot: &Snapshot) -> Result<Arc<dyn Content>, RepositoryError> {
        let lock = content::read_lock(&self.inner, self.lock_wait).await?;
        Ok(Arc::new(
            SnapshotContent::open(&self.inner, snapshot, lock).await?,
        ))
    }

    /// The manifest of a snapshot of ours; `None` for a foreign one.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when it is missing or cannot be understood, or as
    /// [`Self::content`].
    pub async fn manifest(&self, snapshot: &Snapshot) -> Result<Option<Manifest>, RepositoryError> {
        if snapshot.foreign {
            return Ok(None);
        }
        // So short a read is protected by the two phases of pruning.
        let content = SnapshotContent::open(&self.inner, snapshot, None).await?;
        let damaged = |cause: String| {
            self.inner
                .damaged(format!("the manifest of snapshot {} {cause}", snapshot.id))
        };
        let json = content
            .read_file(MANIFEST_PATH.as_bytes())
            .await?
            .ok_or_else(|| damaged("is missing".to_owned()))?;
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| damaged(format!("cannot be understood: {error}")))
    }

    /// Removes snapshots by their full ids. What they alone need is freed by [`Self::prune`].
    ///
    /// # Errors
    /// [`RepositoryError::Locked`], or what the storage says; removed ones stay removed.
    pub async fn forget(&self, ids: &[String]) -> Result<(), RepositoryError> {
        prune::forget(&self.inner, self.lock_wait, ids).await
    }

    /// What [`Self::prune`] would do now. Changes nothing.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when something that a snapshot needs is missing, or what the
    /// storage says.
    pub async fn prune_plan(&self, options: &PruneOptions) -> Result<PrunePlan, RepositoryError> {
        prune::plan(&self.inner, self.lock_wait, options).await
    }

    /// Frees what no snapshot needs: marks it, and removes what was marked long enough ago.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] when others hold locks for longer than the wait, or as
    /// [`Self::prune_plan`]; [`RepositoryError::Cancelled`] when it was stopped: what it had done
    /// until then is whole, and the next prune goes on from there.
    pub async fn prune(
        &self,
        options: &PruneOptions,
        cancel: CancellationToken,
    ) -> Result<PruneReport, RepositoryError> {
        prune::prune(&self.inner, self.lock_wait, options, &cancel).await
    }

    /// Checks that everything snapshots need is there. Damage is in the report; it is an error
    /// only when the check could not be carried out.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPart`], [`RepositoryError::Locked`], [`RepositoryError::Cancelled`],
    /// or what the storage says.
    pub async fn check(
        &self,
        options: &CheckOptions,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<CheckReport, RepositoryError> {
        check::check(&self.inner, self.lock_wait, options, progress, &cancel).await
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
        copy::copy(
            &self.inner,
            &to.inner,
            self.lock_wait,
            snapshots,
            progress,
            cancel,
        )
        .await
    }

    /// Bytes of everything that is stored, by listing it.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn stored_bytes(&self) -> Result<u64, RepositoryError> {
        let mut bytes = 0;
        for directory in ["data", "index", "snapshots", "keys"] {
            let entries = self.inner.storage.list(directory).await?;
            bytes += entries.iter().map(|entry| entry.size).sum::<u64>();
        }
        Ok(bytes)
    }

    /// The keys: the passwords that open it.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>, RepositoryError> {
        keys::list(&self.inner).await
    }

    /// Adds a password; the id of its key.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn add_key(&self, password: &SecretString) -> Result<String, RepositoryError> {
        keys::add(&self.inner, password).await
    }

    /// Removes a key by its full id. The one in use, and so the last, cannot be removed.
    ///
    /// # Errors
    /// When it is the one in use, or what the storage says.
    pub async fn remove_key(&self, id: &str) -> Result<(), RepositoryError> {
        keys::remove(&self.inner, id).await
    }

    /// The locks that are there.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn locks(&self) -> Result<Vec<LockInfo>, RepositoryError> {
        lock::list(&self.inner).await
    }

    /// Removes locks that nobody refreshed for 30 minutes, or whose process on this host is gone;
    /// how many.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn break_stale_locks(&self) -> Result<usize, RepositoryError> {
        lock::break_stale(&self.inner).await
    }
}
