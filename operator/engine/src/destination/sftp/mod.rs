//! A directory of another machine, by SFTP, as a storage.
//!
//! No external program: SSH is `russh`, the protocol `russh-sftp`. A write goes to a temporary file
//! beside its name, is synced, renamed over it, and the directory is synced, each as far as the
//! server can (OpenSSH can all of it). The server's key is always checked. An operation that a
//! broken connection interrupts fails as [`StorageErrorKind::Interrupted`]; tried again, it finds a
//! new connection.

mod connection;
mod host_key;
mod pool;
mod session;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use russh_sftp::protocol::FileType;

use super::{
    Entry, HostKeyCheck, SftpConfig, Storage, StorageError, StorageErrorKind as Kind, names,
};
use connection::{Failure, Login};
use pool::Pool;
use session::Session;

/// Directories that are listed at a time.
const LISTINGS: usize = 16;

/// A directory of another machine.
pub(super) struct SftpStorage {
    pool: Pool,
    /// Without a slash at its end (unless it is the root of the file system).
    root: String,
    location: String,
    /// Directories that are known to exist.
    settled: Mutex<HashSet<String>>,
    /// Old temporary files seen in listings, removed by the next write: reading changes nothing.
    leftovers: Mutex<Vec<String>>,
}

impl std::fmt::Debug for SftpStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SftpStorage").field(&self.location).finish()
    }
}

impl SftpStorage {
    pub(super) fn new(config: &SftpConfig) -> Result<Self, StorageError> {
        let location = format!(
            "sftp://{}@{}:{}/{}",
            config.user,
            config.host,
            config.port,
            config.path.trim_start_matches('/')
        );
        let refuse = |(kind, cause): Failure| {
            StorageError::new(kind, "use the SFTP server", &location, cause)
        };
        if config.host.is_empty() || config.user.is_empty() {
            let cause = "the host or the user is empty".to_owned();
            return Err(refuse((Kind::InvalidConfig, cause)));
        }
        if let HostKeyCheck::Pinned(_) = config.host_key {
            // Read again for each connection; a malformed key is better told now.
            host_key::TrustedKeys::load(&config.host_key, &config.host, config.port)
                .map_err(|cause| refuse((Kind::InvalidConfig, cause)))?;
        }
        let logins = Login::prepare(&config.authentication).map_err(refuse)?;
        Ok(Self {
            pool: Pool::new(config.clone(), logins),
            root: root(&config.path),
            location,
            settled: Mutex::default(),
            leftovers: Mutex::default(),
        })
    }

    fn error(&self, action: &str, (kind, cause): Failure) -> StorageError {
        StorageError::new(kind, action, &self.location, cause)
    }

    fn full(&self, path: &str) -> String {
        match (path, self.root.as_str()) {
            ("", root) => root.to_owned(),
            (path, "/") => format!("/{path}"),
            (path, root) => format!("{root}/{path}"),
        }
    }

    /// The directory that holds the root.
    fn above(&self) -> &str {
        match self.root.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((above, _)) => above,
            None => ".",
        }
    }

    async fn look(&self) -> Result<(), Failure> {
        let session = self.pool.lease().await?;
        match session.attributes(&self.root).await? {
            Some(found) if found.kind == FileType::Dir => Ok(()),
            Some(_) => Err((
                Kind::InvalidConfig,
                "the path is not a directory".to_owned(),
            )),
            None if session.is_directory(self.above()).await? => Ok(()),
            None => Err((
                Kind::NoSuchPlace,
                format!("there is no directory {}", self.above()),
            )),
        }
    }

    async fn make_root(&self) -> Result<(), Failure> {
        let session = self.pool.lease().await?;
        if !session.make_directory(&self.root).await? {
            let cause = format!("there is no directory {}", self.above());
            return Err((Kind::NoSuchPlace, cause));
        }
        session.sync_directory(self.above()).await
    }

    /// Makes the directory of an object, below the root.
    async fn settle(&self, session: &Session, directory: &str) -> Result<(), Failure> {
        if locked(&self.settled).contains(directory) {
            return Ok(());
        }
        if !session.is_directory(&self.root).await? {
            return Err((Kind::NoSuchPlace, "the directory is not there".to_owned()));
        }
        let mut made = String::new();
        for name in directory.split('/').filter(|name| !name.is_empty()) {
            let above = self.full(&made);
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(name);
            if locked(&self.settled).contains(&made) {
                continue;
            }
            if !session.make_directory(&self.full(&made)).await? {
                return Err((Kind::Interrupted, "the directory has just gone".to_owned()));
            }
            session.sync_directory(&above).await?;
            locked(&self.settled).insert(made.clone());
        }
        locked(&self.settled).insert(directory.to_owned());
        Ok(())
    }

    async fn put(&self, path: &str, parts: &[Bytes]) -> Result<(), Failure> {
        let session = self.pool.lease().await?;
        self.remove_leftovers(&session).await;
        let directory = names::parent(path);
        let temporary = self.full(&names::temporary(path));
        let outcome = async {
            self.settle(&session, directory).await?;
            session.create(&temporary, parts).await?;
            session.rename_over(&temporary, &self.full(path)).await?;
            session.sync_directory(&self.full(directory)).await
        };
        let Err(failure) = outcome.await else {
            return Ok(());
        };
        if failure.0 == Kind::NotFound {
            // A directory that was there has gone; the next attempt makes it again.
            locked(&self.settled).clear();
            return Err((Kind::Interrupted, failure.1));
        }
        let wanted = parts.iter().map(|part| part.len() as u64).sum();
        let failure = self.explain(&session, failure, wanted).await;
        if failure.0 != Kind::Interrupted {
            // Space is short or the disk fails: what is left is not worth a second error.
            let _ = session.remove(&temporary).await;
        }
        Err(failure)
    }

    async fn delete(&self, path: &str) -> Result<(), Failure> {
        let session = self.pool.lease().await?;
        match session.remove(&self.full(path)).await {
            Err(failure) => Err(self.explain(&session, failure, 0).await),
            Ok(()) => Ok(()),
        }
    }

    /// The reason of what the server calls only a failure, where it can be found out.
    async fn explain(&self, session: &Session, failure: Failure, wanted: u64) -> Failure {
        if failure.0 == Kind::Other {
            session
                .diagnose(&self.root, wanted)
                .await
                .unwrap_or(failure)
        } else {
            failure
        }
    }

    /// The entries and the directories of one directory, at least `limit` entries if it has so many;
    /// `None` when it is not there.
    async fn list_one(
        &self,
        path: &str,
        limit: usize,
    ) -> Result<Option<(Vec<Entry>, Vec<String>)>, Failure> {
        let session = self.pool.lease().await?;
        let Some(found) = session.names(&self.full(path), limit).await? else {
            return Ok(None);
        };
        let now = SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_secs();
        let (mut entries, mut directories) = (Vec::new(), Vec::new());
        for (name, mut attributes) in found {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}/{name}")
            };
            if !matches!(attributes.kind, FileType::Dir | FileType::File) {
                // A link, or a server that leaves the type out.
                match session.attributes(&self.full(&path)).await? {
                    Some(behind) => attributes = behind,
                    None => continue,
                }
            }
            match attributes.kind {
                FileType::Dir => directories.push(path),
                _ if names::is_temporary(&name) => {
                    if now.saturating_sub(attributes.modified) > names::LEFTOVER_AGE.as_secs() {
                        locked(&self.leftovers).push(self.full(&path));
                    }
                }
                FileType::File => entries.push(Entry {
                    path,
                    size: attributes.size,
                }),
                FileType::Symlink | FileType::Other => {}
            }
        }
        Ok(Some((entries, directories)))
    }

    /// Level by level, many directories at a time: `data` alone has 256.
    async fn list_all(&self, directory: &str) -> Result<Vec<Entry>, Failure> {
        let Some((mut entries, mut level)) = self.list_one(directory, usize::MAX).await? else {
            return self.look().await.map(|()| Vec::new());
        };
        while !level.is_empty() {
            let listed: Vec<_> = stream::iter(std::mem::take(&mut level))
                .map(|path| async move { self.list_one(&path, usize::MAX).await })
                .buffer_unordered(LISTINGS)
                .try_collect()
                .await?;
            // One that has gone since held nothing that is still there.
            for (found, below) in listed.into_iter().flatten() {
                entries.extend(found);
                level.extend(below);
            }
        }
        Ok(entries)
    }

    /// One directory after the other, until there are `limit` entries.
    async fn list_first(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, Failure> {
        let Some((mut entries, mut pending)) = self.list_one(directory, limit).await? else {
            return self.look().await.map(|()| Vec::new());
        };
        while entries.len() < limit
            && let Some(path) = pending.pop()
        {
            if let Some((found, below)) = self.list_one(&path, limit - entries.len()).await? {
                entries.extend(found);
                pending.extend(below);
            }
        }
        entries.truncate(limit);
        Ok(entries)
    }

    async fn remove_leftovers(&self, session: &Session) {
        let leftovers = std::mem::take(&mut *locked(&self.leftovers));
        for path in leftovers {
            match session.remove(&path).await {
                Ok(()) => {
                    tracing::info!(path, "Removed what an interrupted write had left.");
                }
                Err((_, cause)) => tracing::debug!(
                    path,
                    cause,
                    "Could not remove what an interrupted write had left."
                ),
            }
        }
    }
}

#[async_trait]
impl Storage for SftpStorage {
    fn location(&self) -> String {
        self.location.clone()
    }

    async fn probe(&self) -> Result<(), StorageError> {
        self.look()
            .await
            .map_err(|failure| self.error("look for the directory", failure))
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.make_root()
            .await
            .map_err(|failure| self.error("create the directory", failure))
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StorageError> {
        names::check_directory(directory, &self.location)?;
        self.list_all(directory)
            .await
            .map_err(|failure| self.error(&format!("list {directory}"), failure))
    }

    async fn list_some(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, StorageError> {
        names::check_directory(directory, &self.location)?;
        self.list_first(directory, limit)
            .await
            .map_err(|failure| self.error(&format!("list {directory}"), failure))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        names::check(path, "look for", &self.location)?;
        let look = async {
            let session = self.pool.lease().await?;
            let found = session.attributes(&self.full(path)).await?;
            Ok(found
                .filter(|found| found.kind == FileType::File)
                .map(|found| found.size))
        };
        look.await
            .map_err(|failure| self.error(&format!("look for {path}"), failure))
    }

    async fn read(&self, path: &str) -> Result<Bytes, StorageError> {
        names::check(path, "read", &self.location)?;
        let read = async { self.pool.lease().await?.read(&self.full(path), None).await };
        read.await
            .map_err(|failure| self.error(&format!("read {path}"), failure))
    }

    async fn read_range(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StorageError> {
        names::check(path, "read", &self.location)?;
        let range = Some((offset, length));
        let read = async { self.pool.lease().await?.read(&self.full(path), range).await };
        read.await.map_err(|failure| {
            self.error(
                &format!("read {length} bytes from {offset} of {path}"),
                failure,
            )
        })
    }

    async fn write(&self, path: &str, parts: Vec<Bytes>) -> Result<(), StorageError> {
        names::check(path, "write", &self.location)?;
        self.put(path, &parts)
            .await
            .map_err(|failure| self.error(&format!("write {path}"), failure))
    }

    async fn remove(&self, path: &str) -> Result<(), StorageError> {
        names::check(path, "remove", &self.location)?;
        self.delete(path)
            .await
            .map_err(|failure| self.error(&format!("remove {path}"), failure))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Relative paths are the server's to resolve: it starts in the login's home.
fn root(path: &str) -> String {
    let path = path.strip_prefix("~/").unwrap_or(path);
    match path.trim_end_matches('/') {
        "" if path.starts_with('/') => "/".to_owned(),
        "" | "~" => ".".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::SftpAuthentication;
    use rstest::rstest;

    const HOST_KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn config() -> SftpConfig {
        SftpConfig {
            host: "box".to_owned(),
            port: 22,
            user: "backup".to_owned(),
            path: "/srv/backup".to_owned(),
            authentication: vec![SftpAuthentication::Password("very-secret".into())],
            host_key: HostKeyCheck::Pinned(vec![HOST_KEY.to_owned()]),
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let storage = SftpStorage::new(&config()).expect("a description that can work");
        let shown = format!("{storage:?} {} {:?}", storage.location(), config());
        assert!(!shown.contains("very-secret"), "{shown}");
        assert_eq!(storage.location(), "sftp://backup@box:22/srv/backup");
    }

    #[test]
    fn what_cannot_work_is_refused_before_any_connection() {
        let no_login = SftpConfig {
            authentication: vec![],
            ..config()
        };
        let bad_pin = SftpConfig {
            host_key: HostKeyCheck::Pinned(vec!["x".into()]),
            ..config()
        };
        let no_user = SftpConfig {
            user: String::new(),
            ..config()
        };
        for config in [no_login, bad_pin, no_user] {
            let error = SftpStorage::new(&config).expect_err("refused");
            assert_eq!(error.kind, Kind::InvalidConfig, "{error}");
        }
    }

    #[test]
    fn a_private_key_that_is_none_is_refused_and_not_repeated() {
        let key = SftpAuthentication::PrivateKey {
            key: "my-secret-key".into(),
            passphrase: None,
        };
        let config = SftpConfig {
            authentication: vec![key],
            ..config()
        };
        let error = SftpStorage::new(&config).expect_err("refused");
        assert_eq!(error.kind, Kind::AuthenticationFailed);
        assert!(!error.to_string().contains("my-secret-key"), "{error}");
    }

    #[rstest]
    #[case("/srv/backup", "/srv/backup", "/srv")]
    #[case("/srv/backup/", "/srv/backup", "/srv")]
    #[case("/backup", "/backup", "/")]
    #[case("backup", "backup", ".")]
    #[case("~/a/backup", "a/backup", "a")]
    fn roots_are_absolute_or_in_the_home(
        #[case] path: &str,
        #[case] expected: &str,
        #[case] above: &str,
    ) {
        let storage = SftpStorage::new(&SftpConfig {
            path: path.to_owned(),
            ..config()
        })
        .expect("works");
        assert_eq!(storage.root, expected);
        assert_eq!(storage.above(), above);
        assert_eq!(storage.full("data/ab"), format!("{expected}/data/ab"));
    }
}
