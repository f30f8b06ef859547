//! A directory of this machine as a storage.
//!
//! A write goes to a temporary file in the same directory, is synced, renamed over its name, and
//! the directory is synced: after a power cut an object is whole or absent. Directories made on the
//! way are synced into their parents before anything in them counts as written. The root itself is
//! made by `create` alone, and its parent never: a disk that is not mounted must not be mistaken
//! for an empty repository and filled up in its place.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::io::Errno;

use super::{Entry, LocalConfig, Storage, StorageError, StorageErrorKind, names};

/// A directory of this machine.
#[derive(Debug, Clone)]
pub(super) struct LocalStorage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Directories that are known to exist and to be synced into their parents.
    settled: Mutex<HashSet<PathBuf>>,
    /// Old temporary files seen in listings, removed by the next write: reading changes nothing.
    leftovers: Mutex<Vec<PathBuf>>,
}

/// An I/O error and the path that it is about.
struct Failure {
    path: PathBuf,
    error: io::Error,
}

/// Attaches the path to an I/O error.
trait At<T> {
    fn at(self, path: &Path) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            path: path.to_path_buf(),
            error,
        })
    }
}

impl LocalStorage {
    pub(super) fn new(config: &LocalConfig) -> Result<Self, StorageError> {
        if !config.path.is_absolute() {
            return Err(StorageError::new(
                StorageErrorKind::InvalidConfig,
                "use a local directory",
                config.path.display().to_string(),
                "the path is not absolute",
            ));
        }
        Ok(Self(Arc::new(Inner {
            root: config.path.clone(),
            settled: Mutex::default(),
            leftovers: Mutex::default(),
        })))
    }

    /// Runs blocking work off the runtime's threads and names its failure.
    async fn blocking<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StorageError> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(self.0.describe(action, &failure)),
            Err(error) => Err(StorageError::new(
                StorageErrorKind::Other,
                action,
                self.location(),
                error,
            )),
        }
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.0.root.display().to_string()
    }

    async fn probe(&self) -> Result<(), StorageError> {
        self.blocking("look for the directory".to_owned(), |inner| inner.probe())
            .await
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.blocking("create the directory".to_owned(), |inner| inner.create())
            .await
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StorageError> {
        names::check_directory(directory, &self.location())?;
        let name = directory.to_owned();
        self.blocking(format!("list {directory}"), move |inner| {
            inner.list(&name, usize::MAX)
        })
        .await
    }

    async fn list_some(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, StorageError> {
        names::check_directory(directory, &self.location())?;
        let name = directory.to_owned();
        self.blocking(format!("list {directory}"), move |inner| {
            inner.list(&name, limit)
        })
        .await
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        names::check(path, "look for", &self.location())?;
        let full = self.0.root.join(path);
        self.blocking(format!("look for {path}"), move |_| {
            match fs::metadata(&full) {
                Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
                Ok(_) => Ok(None),
                Err(error) if is_absent(&error) => Ok(None),
                Err(error) => Err(error).at(&full),
            }
        })
        .await
    }

    async fn read(&self, path: &str) -> Result<Bytes, StorageError> {
        names::check(path, "read", &self.location())?;
        let full = self.0.root.join(path);
        self.blocking(format!("read {path}"), move |_| {
            fs::read(&full).map(Bytes::from).at(&full)
        })
        .await
    }

    async fn read_range(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StorageError> {
        names::check(path, "read", &self.location())?;
        let full = self.0.root.join(path);
        self.blocking(
            format!("read {length} bytes from {offset} of {path}"),
            move |_| {
                let length = usize::try_from(length)
                    .map_err(io::Error::other)
                    .at(&full)?;
                let file = File::open(&full).at(&full)?;
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, offset).at(&full)?;
                Ok(Bytes::from(buffer))
            },
        )
        .await
    }

    async fn write(&self, path: &str, parts: Vec<Bytes>) -> Result<(), StorageError> {
        names::check(path, "write", &self.location())?;
        let name = path.to_owned();
        self.blocking(format!("write {path}"), move |inner| {
            inner.write(&name, &parts)
        })
        .await
    }

    async fn remove(&self, path: &str) -> Result<(), StorageError> {
        names::check(path, "remove", &self.location())?;
        let name = path.to_owned();
        self.blocking(format!("remove {path}"), move |inner| inner.remove(&name))
            .await
    }
}

impl Inner {
    fn probe(&self) -> Result<(), Failure> {
        match fs::read_dir(&self.root) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = self.parent();
                fs::metadata(parent).at(parent).map(drop)
            }
            Err(error) => Err(error).at(&self.root),
        }
    }

    fn create(&self) -> Result<(), Failure> {
        make_directory(&self.root).at(&self.root)?;
        let parent = self.parent();
        match sync_directory(parent) {
            // The parent may be closed to reading (`/home` of mode 711): its owner's matter.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other.at(parent),
        }
    }

    fn parent(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    fn list(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        let mut pending = vec![directory.to_owned()];
        let now = SystemTime::now();
        while let Some(name) = pending.pop() {
            let full = self.root.join(&name);
            let children = match fs::read_dir(&full) {
                Ok(children) => children,
                Err(error) if error.kind() == io::ErrorKind::NotFound && name == directory => {
                    self.probe()?;
                    return Ok(Vec::new());
                }
                // Removed while the listing was on its way: it held nothing that is still there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).at(&full),
            };
            for child in children {
                if entries.len() >= limit {
                    return Ok(entries);
                }
                let child = child.at(&full)?;
                // A name that is not UTF-8 is nothing that anyone could have written through us.
                let Ok(child_name) = child.file_name().into_string() else {
                    continue;
                };
                let path = if name.is_empty() {
                    child_name.clone()
                } else {
                    format!("{name}/{child_name}")
                };
                let metadata = match fs::metadata(child.path()) {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error).at(&child.path()),
                };
                if metadata.is_dir() {
                    pending.push(path);
                } else if names::is_temporary(&child_name) {
                    let age = metadata
                        .modified()
                        .ok()
                        .and_then(|at| now.duration_since(at).ok());
                    if age.is_some_and(|age| age > names::LEFTOVER_AGE) {
                        locked(&self.leftovers).push(child.path());
                    }
                } else if metadata.is_file() {
                    entries.push(Entry {
                        path,
                        size: metadata.len(),
                    });
                }
            }
        }
        Ok(entries)
    }

    fn write(&self, name: &str, parts: &[Bytes]) -> Result<(), Failure> {
        self.remove_leftovers();
        match self.write_once(name, parts) {
            // A directory that was there has gone: make it again, or say that the root is gone.
            Err(failure) if failure.error.kind() == io::ErrorKind::NotFound => {
                locked(&self.settled).clear();
                self.write_once(name, parts)
            }
            other => other,
        }
    }

    fn write_once(&self, name: &str, parts: &[Bytes]) -> Result<(), Failure> {
        let target = self.root.join(name);
        let temporary = self.root.join(names::temporary(name));
        let directory = self.root.join(names::parent(name));
        self.settle(&directory)?;
        let outcome = write_synced(&temporary, parts)
            .at(&temporary)
            .and_then(|()| fs::rename(&temporary, &target).at(&target))
            .and_then(|()| sync_directory(&directory).at(&directory));
        if outcome.is_err() {
            // Space is short or the disk fails: what is left is not worth a second error.
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        let target = self.root.join(name);
        match fs::remove_file(&target) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error).at(&target),
        }
        if name.starts_with("data/") {
            // A pack that comes back after a power cut is only unused; anything else (an index
            // that names removed packs) must stay removed before the next step is taken.
            return Ok(());
        }
        let directory = self.root.join(names::parent(name));
        sync_directory(&directory).at(&directory)
    }

    /// Makes `directory` and those above it, below the root, and syncs each into its parent.
    fn settle(&self, directory: &Path) -> Result<(), Failure> {
        if locked(&self.settled).contains(directory) {
            return Ok(());
        }
        fs::metadata(&self.root).at(&self.root)?;
        let below = directory.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut current = self.root.clone();
        for component in below.components() {
            let parent = current.clone();
            current.push(component);
            make_directory(&current).at(&current)?;
            sync_directory(&parent).at(&parent)?;
        }
        locked(&self.settled).insert(directory.to_path_buf());
        Ok(())
    }

    fn remove_leftovers(&self) {
        for path in std::mem::take(&mut *locked(&self.leftovers)) {
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(
                    path = %path.display(),
                    "Removed what an interrupted write had left."
                ),
                Err(error) => tracing::debug!(
                    path = %path.display(),
                    %error,
                    "Could not remove what an interrupted write had left."
                ),
            }
        }
    }

    fn describe(&self, action: String, failure: &Failure) -> StorageError {
        let Failure { path, error } = failure;
        // An object that is absent from a root that can be made is only absent; without the root's
        // parent there is no place.
        let no_place = error.kind() == io::ErrorKind::NotFound
            && (*path == self.root || !self.parent().exists());
        let kind = if no_place {
            StorageErrorKind::NoSuchPlace
        } else {
            kind_of(error)
        };
        let cause = if path.starts_with(&self.root) && *path != self.root {
            error.to_string()
        } else {
            format!("{}: {error}", path.display())
        };
        StorageError::new(kind, action, self.root.display().to_string(), cause)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `ENOTDIR` is an absence too: something on the way is a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn kind_of(error: &io::Error) -> StorageErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => StorageErrorKind::Full,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StorageErrorKind::PermissionDenied,
        Some(Errno::NOENT) => StorageErrorKind::NotFound,
        Some(Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL) => {
            StorageErrorKind::InvalidConfig
        }
        Some(Errno::IO) => StorageErrorKind::Corrupt,
        Some(Errno::STALE | Errno::TIMEDOUT | Errno::INTR | Errno::AGAIN) => {
            StorageErrorKind::Interrupted
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => StorageErrorKind::Corrupt,
        _ => StorageErrorKind::Other,
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

fn write_synced(path: &Path, parts: &[Bytes]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = &mut slices[..];
    // Empty slices at the front would make a write of nothing look like a full disk.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network file systems cannot sync a directory; there is nothing more to be done.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::INVAL | Errno::NOTSUP)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(path: &Path) -> LocalStorage {
        LocalStorage::new(&LocalConfig {
            path: path.to_path_buf(),
        })
        .expect("an absolute path")
    }

    #[test]
    fn a_relative_path_is_refused() {
        let error = LocalStorage::new(&LocalConfig {
            path: "backups".into(),
        })
        .expect_err("refused");
        assert_eq!(error.kind, StorageErrorKind::InvalidConfig);
    }

    #[tokio::test]
    async fn a_root_that_has_gone_is_not_made_again_by_a_write() {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().join("disk");
        let storage = storage(&root);
        storage.create().await.expect("created");
        storage
            .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
            .await
            .expect("written");
        fs::remove_dir_all(&root).expect("gone");
        let error = storage
            .write("data/ab/abce", vec![Bytes::from_static(b"x")])
            .await
            .expect_err("there is no place");
        assert_eq!(error.kind, StorageErrorKind::NoSuchPlace);
        assert!(!root.exists());
    }

    #[tokio::test]
    async fn a_directory_that_has_gone_below_the_root_is_made_again() {
        let home = tempfile::tempdir().expect("a directory");
        let storage = storage(home.path());
        storage
            .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
            .await
            .expect("written");
        fs::remove_dir_all(home.path().join("data")).expect("gone");
        storage
            .write("data/ab/abcd", vec![Bytes::from_static(b"y")])
            .await
            .expect("written");
        assert_eq!(storage.read("data/ab/abcd").await.expect("read"), &b"y"[..]);
    }

    #[tokio::test]
    async fn without_the_parent_of_the_root_there_is_no_place() {
        let home = tempfile::tempdir().expect("a directory");
        let storage = storage(&home.path().join("not/mounted"));
        for error in [
            storage.probe().await.expect_err("no place"),
            storage.create().await.expect_err("no place"),
            storage
                .list("snapshots")
                .await
                .map(drop)
                .expect_err("no place"),
            storage
                .read("config")
                .await
                .map(drop)
                .expect_err("no place"),
        ] {
            assert_eq!(error.kind, StorageErrorKind::NoSuchPlace, "{error}");
        }
    }

    #[tokio::test]
    async fn files_and_directories_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().join("root");
        let storage = storage(&root);
        storage.create().await.expect("created");
        storage
            .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
            .await
            .expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("data/ab")), 0o700);
        assert_eq!(mode(&root.join("data/ab/abcd")), 0o600);
    }

    #[tokio::test]
    async fn left_overs_are_not_listed_and_old_ones_are_removed_by_the_next_write() {
        let home = tempfile::tempdir().expect("a directory");
        let storage = storage(home.path());
        storage
            .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
            .await
            .expect("written");
        let old = home.path().join("data/ab/abce-tmp-0000000000000001");
        let young = home.path().join("data/ab/abce-tmp-0000000000000002");
        for path in [&old, &young] {
            fs::write(path, b"part").expect("written");
        }
        let past = SystemTime::now() - names::LEFTOVER_AGE - std::time::Duration::from_secs(60);
        File::options()
            .append(true)
            .open(&old)
            .and_then(|f| f.set_modified(past))
            .expect("aged");

        let listed = storage.list("data").await.expect("listed");
        assert_eq!(
            listed,
            [Entry {
                path: "data/ab/abcd".to_owned(),
                size: 1
            }]
        );
        assert!(old.exists(), "reading changes nothing");
        storage.write("config", vec![]).await.expect("written");
        assert!(!old.exists() && young.exists());
    }
}
