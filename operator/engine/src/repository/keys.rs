//! The passwords that open a repository.

use std::sync::Arc;

use secrecy::SecretString;
use serde::Deserialize;

use super::id::ObjectId;
use super::inner::Inner;
use super::{RepositoryError, key_file};
use crate::destination::{Storage, StorageError};

/// A key of a repository: one password that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id: 64 hex digits.
    pub id: String,
    /// Whether this repository was opened with it.
    pub current: bool,
    /// The user who made it, as `user@host`, where the key says so.
    pub made_by: Option<String>,
    /// When it was made, where the key says so.
    pub created: Option<String>,
}

/// What of a key file is no secret.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    created: Option<String>,
}

fn path(id: &ObjectId) -> String {
    format!("keys/{id}")
}

/// The keys that are there.
pub(super) async fn list(inner: &Inner) -> Result<Vec<KeyInfo>, RepositoryError> {
    let mut keys = Vec::new();
    for (id, _) in inner.list_ids("keys").await? {
        let bytes = inner.storage.read(&path(&id)).await?;
        let file: KeyFile = serde_json::from_slice(&bytes)
            .map_err(|error| inner.damaged(format!("key {id} cannot be understood: {error}")))?;
        let made_by = match (file.username, file.hostname) {
            (Some(user), Some(host)) => Some(format!("{user}@{host}")),
            (user, host) => user.or(host),
        };
        keys.push(KeyInfo {
            id: id.to_string(),
            current: inner.key_id == Some(id),
            made_by,
            created: file.created,
        });
    }
    Ok(keys)
}

/// Adds a password.
pub(super) async fn add(
    inner: &Arc<Inner>,
    password: &SecretString,
) -> Result<String, RepositoryError> {
    let password = password.clone();
    let shared = Arc::clone(inner);
    let bytes = inner
        .blocking("add a key", move || {
            key_file::generate(&shared.master, &password)
                .map_err(|error| shared.engine("add a key", error))
        })
        .await?;
    Ok(store(&inner.storage, bytes).await?.to_string())
}

/// Writes a key file under its id.
pub(super) async fn store(
    storage: &Arc<dyn Storage>,
    file: Vec<u8>,
) -> Result<ObjectId, StorageError> {
    let id = ObjectId::of(&file);
    storage.write(&path(&id), vec![file.into()]).await?;
    Ok(id)
}

/// Removes a key that is not in use; so one that is always stays.
pub(super) async fn remove(inner: &Inner, id: &str) -> Result<(), RepositoryError> {
    let unknown = || RepositoryError::UnknownKey {
        location: inner.location.clone(),
        id: id.to_owned(),
    };
    let key: ObjectId = id.parse().map_err(|_| unknown())?;
    if inner.key_id == Some(key) {
        return Err(RepositoryError::KeyInUse {
            location: inner.location.clone(),
            id: id.to_owned(),
        });
    }
    if inner.storage.size(&path(&key)).await?.is_none() {
        return Err(unknown());
    }
    Ok(inner.storage.remove(&path(&key)).await?)
}
