//! The passwords that open a repository.

use std::sync::Arc;

use rustic_core::KeyOptions;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::backend::{Backend, View};
use super::id::{ObjectId, from_rustic};
use super::inner::Inner;
use super::library::{self, Silent};
use super::{RepositoryError, machine};

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
    let backend = Backend::new(Arc::clone(&inner.storage), View::Plain);
    let password = password.clone();
    let shared = Arc::clone(inner);
    inner
        .blocking("add a key", move || {
            let options = KeyOptions::default()
                .hostname(machine::hostname())
                .username(machine::username())
                .with_created(true);
            library::open(&shared, &backend, Silent)
                .and_then(|repository| repository.add_key(password.expose_secret(), &options))
                .map(|id| from_rustic(id.into_inner()).to_string())
                .map_err(|error| backend.explain("add a key", &error))
        })
        .await
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
