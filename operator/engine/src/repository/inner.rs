//! What an open repository knows, and the helpers that every part of it uses: reading and writing
//! encrypted files, and running blocking work.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use rustic_core::repofile::{ConfigFile, MasterKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::RepositoryError;
use super::cipher::{Cipher, CipherError};
use super::id::{ObjectId, from_rustic};
use super::index::Index;
use super::snapshot::Snapshot;
use crate::destination::{Storage, StorageErrorKind};

/// What an open repository knows.
pub(super) struct Inner {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) location: String,
    pub(super) master: MasterKey,
    pub(super) cipher: Cipher,
    pub(super) config: ConfigFile,
    pub(super) repository_id: ObjectId,
    pub(super) key_id: Option<ObjectId>,
    /// Snapshots read so far. A snapshot's id is the hash of its file, so they never change.
    pub(super) snapshots: Mutex<HashMap<ObjectId, Arc<Snapshot>>>,
    /// The index that is in use somewhere, to be built upon instead of read again.
    pub(super) index: tokio::sync::Mutex<Weak<Index>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("location", &self.location)
            .field("repository_id", &self.repository_id)
            .finish_non_exhaustive()
    }
}

/// Locks a mutex whose guarded value is whole even after a panic elsewhere.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// An error of the library: `action` was attempted and `cause` came back.
    pub(super) fn engine(
        &self,
        action: impl Into<String>,
        cause: impl fmt::Display,
    ) -> RepositoryError {
        RepositoryError::Engine {
            action: action.into(),
            location: self.location.clone(),
            cause: cause.to_string(),
        }
    }

    /// An error about data that is not what it must be.
    pub(super) fn damaged(&self, cause: impl Into<String>) -> RepositoryError {
        RepositoryError::Damaged {
            location: self.location.clone(),
            cause: cause.into(),
        }
    }

    /// Fails unless the repository that was opened is still what is there. Without its config and its
    /// keys nothing that is written could ever be read again, and a place that was emptied, or a
    /// disk that is not mounted, looks like a repository without snapshots. Costs one small read.
    pub(super) async fn verify(&self) -> Result<(), RepositoryError> {
        self.verify_on(&*self.storage).await
    }

    /// The same, asked once: who looks at many places has no patience for one of them.
    pub(super) async fn verify_once(&self) -> Result<(), RepositoryError> {
        self.verify_on(self.storage.impatient().unwrap_or(&*self.storage))
            .await
    }

    async fn verify_on(&self, storage: &dyn Storage) -> Result<(), RepositoryError> {
        let sealed = match storage.read("config").await {
            Err(error) if error.kind == StorageErrorKind::NotFound => {
                return Err(RepositoryError::NotARepository {
                    location: self.location.clone(),
                });
            }
            other => other?,
        };
        // Other tools may change what it says; its id and the key that opens it stay.
        let same = self
            .decode_json::<ConfigFile>("config", &sealed)
            .is_ok_and(|config| from_rustic(config.id.into_inner()) == self.repository_id);
        if same {
            return Ok(());
        }
        Err(RepositoryError::Replaced {
            location: self.location.clone(),
        })
    }

    /// Reads an encrypted JSON file. Its name is the hash of its bytes, and that is verified.
    pub(super) async fn read_json<T>(&self, path: &str) -> Result<T, RepositoryError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.find_json(path)
            .await?
            .ok_or_else(|| self.damaged(format!("{path} is missing")))
    }

    /// The same for one that may be gone since it was listed.
    pub(super) async fn find_json<T>(&self, path: &str) -> Result<Option<T>, RepositoryError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let sealed = match self.storage.read(path).await {
            Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        self.decode_json(path, &sealed).map(Some)
    }

    /// The JSON file that is stored at `path` as `sealed`.
    pub(super) fn decode_json<T: DeserializeOwned>(
        &self,
        path: &str,
        sealed: &Bytes,
    ) -> Result<T, RepositoryError> {
        if let Some(id) = ObjectId::from_path(path)
            && ObjectId::of(sealed) != id
        {
            return Err(self.damaged(format!("{path} does not match its name")));
        }
        let json = self
            .cipher
            .open_file(sealed)
            .map_err(|error| self.damaged(format!("{path} cannot be read: {error}")))?;
        serde_json::from_slice(&json)
            .map_err(|error| self.damaged(format!("{path} cannot be understood: {error}")))
    }

    /// What a JSON file is stored as, and its id.
    pub(super) fn encode_json<T: Serialize>(
        &self,
        what: &str,
        value: &T,
    ) -> Result<(ObjectId, Bytes), RepositoryError> {
        let json = serde_json::to_vec(value)
            .map_err(|error| self.engine(format!("write {what}"), error))?;
        let sealed = self
            .cipher
            .seal_file(&json)
            .map_err(|error| self.engine(format!("write {what}"), error))?;
        Ok((ObjectId::of(&sealed), sealed.into()))
    }

    /// Writes an encrypted JSON file into `directory`.
    pub(super) async fn write_json<T: Serialize>(
        &self,
        directory: &str,
        value: &T,
    ) -> Result<ObjectId, RepositoryError> {
        let (id, sealed) = self.encode_json(directory, value)?;
        self.storage
            .write(&format!("{directory}/{id}"), vec![sealed])
            .await?;
        Ok(id)
    }

    /// The ids of the objects below `directory`, with their sizes. What has no id for a name is
    /// not ours and is passed over.
    pub(super) async fn list_ids(
        &self,
        directory: &str,
    ) -> Result<Vec<(ObjectId, u64)>, RepositoryError> {
        let mut ids: Vec<_> = self
            .storage
            .list(directory)
            .await?
            .into_iter()
            .filter_map(|entry| Some((ObjectId::from_path(&entry.path)?, entry.size)))
            .collect();
        ids.sort_unstable();
        ids.dedup_by_key(|(id, _)| *id);
        Ok(ids)
    }

    /// Runs work that blocks or computes where it holds up nobody. A panic in it is an error.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        action: &str,
        work: impl FnOnce() -> Result<T, RepositoryError> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => Err(self.engine(action, format!("it panicked: {}", said(&*panic)))),
                Err(_) => Err(RepositoryError::Cancelled),
            },
        }
    }

    /// What went wrong with a blob or a pack that was to be written.
    pub(super) fn unsealed(&self, error: &CipherError) -> RepositoryError {
        self.engine("encrypt data", error)
    }
}

/// What a panic said.
pub(super) fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("nothing more is known")
}
