//! Where repositories live: one small contract, [`Storage`], and one module per kind of storage.
//!
//! A storage holds named objects in the layout of a restic repository (`config`, `keys/…`,
//! `snapshots/…`, `index/…`, `locks/…`, `data/ab/abcd…`). It knows nothing of what is in them.
//!
//! The component contract, which every storage keeps and the contract tests prove:
//! a write is whole or absent and durable when it returns; a listing that cannot be complete is an
//! error; removing what is not there succeeds; no error and no `Debug` holds a secret.

mod error;
mod local;
mod names;
mod retry;
mod s3;
mod sftp;

pub use error::{StorageError, StorageErrorKind};
pub use retry::{RetryPolicy, RetryStorage};

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Path relative to the storage's root, with `/`: `data/ab/abcd…`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
}

/// A place that holds the objects of one repository.
#[async_trait]
pub trait Storage: Send + Sync + std::fmt::Debug + 'static {
    /// The place in words, without secrets: `s3://bucket/prefix at https://…`, `/var/backups/x`,
    /// `sftp://user@host:22/path`.
    fn location(&self) -> String;

    /// Whether the place can be reached and exists (bucket, directory or its parent). Changes
    /// nothing.
    async fn probe(&self) -> Result<(), StorageError>;

    /// Creates what must exist before the first write (directories; never a bucket).
    async fn create(&self) -> Result<(), StorageError>;

    /// Every object below `directory` (`data`, `snapshots`, …), at any depth, in no order. A
    /// directory that is not there is an empty listing; anything else that hinders a complete
    /// listing is an error. Temporary files of interrupted writes are not listed.
    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StorageError>;

    /// The first `limit` entries of what [`Self::list`] gives, in no order; all of it when it is
    /// less. Costs what these cost, however much more there is: who looks whether a place is empty
    /// must not list somebody's whole bucket for it.
    async fn list_some(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, StorageError>;

    /// The size of an object, or `None` when there is none.
    async fn size(&self, path: &str) -> Result<Option<u64>, StorageError>;

    /// The whole object. Absent: [`StorageErrorKind::NotFound`].
    async fn read(&self, path: &str) -> Result<Bytes, StorageError>;

    /// `length` bytes from `offset`; fewer is an error.
    async fn read_range(&self, path: &str, offset: u64, length: u64)
    -> Result<Bytes, StorageError>;

    /// Writes the object as the concatenation of `parts`: whole or not at all, durable when this
    /// returns, in place of one that may be there.
    async fn write(&self, path: &str, parts: Vec<Bytes>) -> Result<(), StorageError>;

    /// The same place without patience, where this one tries again what fails: for whoever wants to
    /// know how things are now, as by [`Self::probe`], and asks again by itself.
    fn impatient(&self) -> Option<&dyn Storage> {
        None
    }

    /// Removes the object; succeeds when there is none. One that a lock retains:
    /// [`StorageErrorKind::Retained`].
    async fn remove(&self, path: &str) -> Result<(), StorageError>;
}

/// A storage, described; secrets already resolved.
#[derive(Debug, Clone)]
pub enum StorageConfig {
    /// A directory of this machine.
    Local(LocalConfig),
    /// A bucket of an S3-compatible service.
    S3(S3Config),
    /// A directory of another machine, by SFTP.
    Sftp(SftpConfig),
}

/// A directory of this machine.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// The absolute path of the repository's root.
    pub path: std::path::PathBuf,
}

/// How a bucket is addressed in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

/// A bucket of an S3-compatible service.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The bucket's name; it must exist.
    pub bucket: String,
    /// Prefix of every key, without slashes at its ends; empty for none.
    pub prefix: String,
    /// URL of the service; AWS when absent.
    pub endpoint: Option<String>,
    /// Region; the SDK's own chain when absent.
    pub region: Option<String>,
    /// Credentials; the SDK's own chain when absent.
    pub credentials: Option<S3Credentials>,
    /// Storage class of data written, as the service names it.
    pub storage_class: Option<String>,
    /// How the bucket is addressed.
    pub addressing: Addressing,
}

/// Static credentials for S3.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    /// Access key id.
    pub access_key_id: SecretString,
    /// Secret access key.
    pub secret_access_key: SecretString,
    /// Session token of temporary credentials.
    pub session_token: Option<SecretString>,
}

/// A directory of another machine, by SFTP.
#[derive(Debug, Clone)]
pub struct SftpConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Path of the repository's root on the server.
    pub path: String,
    /// Ways to authenticate, tried in this order.
    pub authentication: Vec<SftpAuthentication>,
    /// How the server's key is known. There is no way to skip the check.
    pub host_key: HostKeyCheck,
}

/// A way to authenticate to an SSH server.
#[derive(Debug, Clone)]
pub enum SftpAuthentication {
    /// A private key in OpenSSH or PEM form.
    PrivateKey {
        /// The key file's text.
        key: SecretString,
        /// Its passphrase when it is encrypted.
        passphrase: Option<SecretString>,
    },
    /// A password.
    Password(SecretString),
    /// The agent behind `SSH_AUTH_SOCK`.
    Agent,
}

/// How an SSH server's key is known.
#[derive(Debug, Clone)]
pub enum HostKeyCheck {
    /// Keys in OpenSSH public form (`ssh-ed25519 AAAA…`); one of them must be the server's.
    Pinned(Vec<String>),
    /// A file in the format of `known_hosts` (hashed names included).
    KnownHosts(std::path::PathBuf),
}

/// Connects to a storage. Lazy: an unreachable place is an error of the first use, or of
/// [`Storage::probe`]. What fails for a reason that passes is tried again ([`RetryStorage`]).
///
/// # Errors
/// When the description itself cannot work (an unreadable private key, a malformed host key).
pub async fn connect(config: &StorageConfig) -> Result<Arc<dyn Storage>, StorageError> {
    connect_with(config, RetryPolicy::default()).await
}

/// The same with another patience.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(
    config: &StorageConfig,
    policy: RetryPolicy,
) -> Result<Arc<dyn Storage>, StorageError> {
    connect_once(config)
        .await
        .map(|storage| Arc::new(RetryStorage::new(storage, policy)) as _)
}

async fn connect_once(config: &StorageConfig) -> Result<Arc<dyn Storage>, StorageError> {
    match config {
        StorageConfig::Local(config) => Ok(Arc::new(local::LocalStorage::new(config)?)),
        StorageConfig::S3(config) => Ok(Arc::new(s3::S3Storage::new(config).await?)),
        StorageConfig::Sftp(config) => Ok(Arc::new(sftp::SftpStorage::new(config)?)),
    }
}
