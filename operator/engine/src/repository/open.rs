//! Opening a repository, and making one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustic_core::repofile::{ConfigFile, MasterKey};
use rustic_core::{ConfigOptions, Credentials, KeyOptions, OpenStatus};
use secrecy::{ExposeSecret, SecretString};

use super::backend::{Backend, View};
use super::cipher::Cipher;
use super::id::{ObjectId, from_rustic};
use super::inner::Inner;
use super::library::{self, Silent};
use super::{Repository, RepositoryError, key_file, keys};
use crate::destination::{Entry, Storage, StorageError, StorageErrorKind};

/// How a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The repository whose chunker is shared, so that files copied from it are recognised.
    pub chunker_of: Option<Repository>,
    /// zstd level of everything that is stored, 1 to 22. Kept in the repository.
    pub compression: i32,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            chunker_of: None,
            // Of the same gibibyte of BSON: 516 MiB, where restic stores 519 and level 3 stores 496
            // for a quarter more of processor time.
            compression: 1,
        }
    }
}

/// Packs begin at this size and grow with the root of the repository, as the library does it;
const PACK_SIZE: u32 = 16 * 1024 * 1024;
/// and end at this one: several are in memory at once.
const PACK_SIZE_LIMIT: u32 = 32 * 1024 * 1024;

/// How much of a place is looked at before a repository is made there: one page of a bucket, which
/// may be somebody's and hold millions of objects.
const LOOK: usize = 1000;

/// How long another process that makes a repository at the same place may take between writing its
/// key and writing the config.
const RACE: Duration = Duration::from_secs(3);

/// Opens the repository at `storage`.
pub(super) async fn open(
    storage: Arc<dyn Storage>,
    password: &SecretString,
) -> Result<Inner, RepositoryError> {
    let location = storage.location();
    if storage.size("config").await?.is_none() {
        return Err(RepositoryError::NotARepository { location });
    }
    let keys: Vec<_> = storage
        .list("keys")
        .await?
        .iter()
        .filter_map(|entry| ObjectId::from_path(&entry.path))
        .collect();
    if keys.is_empty() {
        return Err(RepositoryError::Damaged {
            location,
            cause: "it has a config and no key, and no password opens it".into(),
        });
    }
    // One key at a time: one that another init left when it lost a race, or that cannot be read,
    // must not keep the good ones from opening.
    let mut odd = None;
    for key in keys {
        match open_with(&storage, password, key).await {
            Ok(inner) => return Ok(inner),
            Err(RepositoryError::WrongPassword { .. }) => {}
            // Removed since it was listed.
            Err(RepositoryError::Storage(error)) if error.kind == StorageErrorKind::NotFound => {}
            Err(error @ RepositoryError::Storage(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(location, key = %key, error = %error, "A key could not be used.");
                odd.get_or_insert(error);
            }
        }
    }
    Err(odd.unwrap_or(RepositoryError::WrongPassword { location }))
}

async fn open_with(
    storage: &Arc<dyn Storage>,
    password: &SecretString,
    key: ObjectId,
) -> Result<Inner, RepositoryError> {
    let storage = Arc::clone(storage);
    let backend = Backend::new(Arc::clone(&storage), View::OneKey(key));
    let password = password.clone();
    blocking(&storage.location(), "open the repository", move || {
        let credentials = Credentials::password(password.expose_secret());
        let opened = library::closed(&backend, Silent)
            .and_then(|repository| repository.open(&credentials))
            .map_err(|error| {
                if error.is_incorrect_password() {
                    return RepositoryError::WrongPassword {
                        location: backend_location(&backend),
                    };
                }
                // All that can go wrong here, other than with the storage and the password, is that
                // the config is not what it was.
                match backend.explain("open the repository", &error) {
                    RepositoryError::Engine {
                        location, cause, ..
                    } => RepositoryError::Damaged { location, cause },
                    other => other,
                }
            })?;
        let config = opened.config().clone();
        inner(storage, &opened, config)
    })
    .await
}

fn backend_location(backend: &Backend) -> String {
    rustic_core::ReadBackend::location(backend)
}

fn inner(
    storage: Arc<dyn Storage>,
    opened: &rustic_core::Repository<OpenStatus>,
    config: ConfigFile,
) -> Result<Inner, RepositoryError> {
    let location = storage.location();
    let engine = |cause: String| RepositoryError::Engine {
        action: "open the repository".into(),
        location: location.clone(),
        cause,
    };
    let level = config
        .zstd()
        .map_err(|error| engine(super::backend::in_one_line(&error)))?;
    let master = opened.key();
    let cipher = Cipher::new(&master, level)
        .ok_or_else(|| engine("its key has parts of other lengths than the format says".into()))?;
    Ok(Inner {
        repository_id: from_rustic(config.id.into_inner()),
        key_id: opened.key_id().map(|key| from_rustic(key.into_inner())),
        storage,
        location,
        master,
        cipher,
        config,
        snapshots: Mutex::new(HashMap::new()),
        index: tokio::sync::Mutex::new(Weak::new()),
    })
}

/// Whether a repository can be made at `storage`: nothing is there but what an init leaves that died.
pub(super) async fn vacant(storage: &Arc<dyn Storage>) -> Result<(), RepositoryError> {
    match stranger(storage).await {
        Ok(None) => Ok(()),
        Ok(Some(found)) => Err(RepositoryError::NotEmpty {
            location: storage.location(),
            found,
        }),
        Err(error) if error.kind == StorageErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// One of the objects that are not what an init leaves that died: keys and locks alone.
async fn stranger(storage: &Arc<dyn Storage>) -> Result<Option<String>, StorageError> {
    let find = |entries: Vec<Entry>| {
        entries
            .into_iter()
            .map(|entry| entry.path)
            .find(|path| !path.starts_with("keys/") && !path.starts_with("locks/"))
    };
    let some = storage.list_some("", LOOK).await?;
    let all = some.len() < LOOK;
    match find(some) {
        // So many keys and locks: whether there is anything else, only a whole listing tells.
        None if !all => Ok(find(storage.list("").await?)),
        found => Ok(found),
    }
}

/// Makes a repository at `storage`, whose password is `password`.
///
/// The key is written first and the config last: who dies in between leaves a place where another
/// may begin again. Two who begin at once see each other's keys; the one whose key has the smaller
/// id goes on, the other waits for its config.
pub(super) async fn init(
    storage: Arc<dyn Storage>,
    password: &SecretString,
    options: &InitOptions,
) -> Result<Inner, RepositoryError> {
    let location = storage.location();
    if storage.size("config").await?.is_some() {
        return Err(RepositoryError::AlreadyExists { location });
    }
    storage.create().await?;
    if let Some(found) = stranger(&storage).await? {
        // Another was faster, and it may have written already.
        return Err(match storage.size("config").await? {
            Some(_) => RepositoryError::AlreadyExists { location },
            None => RepositoryError::NotEmpty { location, found },
        });
    }

    let (made, config) = prepare(&storage, password, options).await?;
    let Some(own) = made.key_id else {
        return Err(made.engine("make the repository", "its key got no id"));
    };
    if let Err(error) = settle(&made, own).await {
        // Ours opens nothing now; another's config is there, or nothing is.
        if let Err(error) = storage.remove(&format!("keys/{own}")).await {
            tracing::warn!(location, key = %own, error = %error, "A useless key was left behind.");
        }
        return Err(error);
    }
    storage.write("config", vec![config]).await?;
    // Whoever wrote last made the repository. If that was another, ours is not it.
    let sealed = storage.read("config").await?;
    if made.cipher.open_file(&sealed).is_err() {
        storage.remove(&format!("keys/{own}")).await?;
        return Err(RepositoryError::AlreadyExists { location });
    }
    Ok(made)
}

/// Fails with [`RepositoryError::AlreadyExists`] when another made the repository meanwhile.
async fn settle(made: &Inner, own: ObjectId) -> Result<(), RepositoryError> {
    let storage = &made.storage;
    let deadline = tokio::time::Instant::now() + RACE;
    loop {
        let keys = made.list_ids("keys").await?;
        if storage.size("config").await?.is_some() {
            return Err(RepositoryError::AlreadyExists {
                location: made.location.clone(),
            });
        }
        if keys.iter().all(|(key, _)| *key == own) {
            return Ok(());
        }
        // The other may have found itself alone and be about to write its config: even the first
        // waits for that. For a key that a dead init left, everybody waits in vain, once; who is
        // not the first waits longer, so that the first can go on.
        let first = keys.iter().all(|(key, _)| own <= *key);
        let now = tokio::time::Instant::now();
        if now >= deadline + RACE || (first && now >= deadline) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Writes the key of a repository to be, and says what its config is.
async fn prepare(
    storage: &Arc<dyn Storage>,
    password: &SecretString,
    options: &InitOptions,
) -> Result<(Inner, Bytes), RepositoryError> {
    let storage = Arc::clone(storage);
    let backend = Backend::new(Arc::clone(&storage), View::WithholdConfig);
    let password = password.clone();
    let chunker_of = options
        .chunker_of
        .as_ref()
        .map(|other| other.inner.config.clone());
    let compression = options.compression.clamp(1, 22);
    let location = storage.location();
    let (mut inner, file, config) = blocking(&location, "make the repository", move || {
        // With a master key the library writes no key file.
        let master = MasterKey::new();
        let file =
            key_file::generate(&master, &password).map_err(|error| RepositoryError::Engine {
                action: "make the key of the repository".into(),
                location: storage.location(),
                cause: error.to_string(),
            })?;
        let credentials = Credentials::Masterkey(master);
        let (key, options) = (KeyOptions::default(), ConfigOptions::default());
        let made = library::closed(&backend, Silent)
            .and_then(|repository| repository.init(&credentials, &key, &options))
            .map_err(|error| backend.explain("make the repository", &error))?;
        let mut config = made.config().clone();
        config.compression = Some(compression);
        config.datapack_size = Some(PACK_SIZE);
        config.datapack_size_limit = Some(PACK_SIZE_LIMIT);
        if let Some(other) = chunker_of {
            config.chunker = other.chunker;
            config.chunker_polynomial = other.chunker_polynomial;
            config.chunk_size = other.chunk_size;
            config.chunk_min_size = other.chunk_min_size;
            config.chunk_max_size = other.chunk_max_size;
        }
        let inner = inner(storage, &made, config)?;
        let json = serde_json::to_vec(&inner.config)
            .map_err(|error| inner.engine("make the repository", error))?;
        // The config alone is never compressed: it says whether anything is.
        let sealed = inner
            .cipher
            .encrypt(&json)
            .map_err(|error| inner.unsealed(&error))?;
        Ok((inner, file, sealed.into()))
    })
    .await?;
    inner.key_id = Some(keys::store(&inner.storage, file).await?);
    Ok((inner, config))
}

async fn blocking<T: Send + 'static>(
    location: &str,
    action: &str,
    work: impl FnOnce() -> Result<T, RepositoryError> + Send + 'static,
) -> Result<T, RepositoryError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(RepositoryError::Engine {
                action: action.to_owned(),
                location: location.to_owned(),
                cause: error.to_string(),
            })
        })
}
