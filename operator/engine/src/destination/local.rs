//! A directory of this machine as a storage.
//!
//! A write goes to a temporary file in the same directory, is synced, renamed over its name, and
//! the directory is synced: after a power cut an object is whole or absent. Directories made on the
//! way are synced into their parents before anything in them counts as written. The root itself is
//! made by `create` alone, and its parent never: a disk that is not mounted must not be mistaken
//! for an empty repository and filled up in its place.

mod disk;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::io::Errno;

use disk::{Disk, Machine};

use super::{Entry, LocalConfig, Storage, StorageError, StorageErrorKind, names};

/// A directory of this machine.
#[derive(Debug, Clone)]
pub(super) struct LocalStorage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    disk: Box<dyn Disk>,
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
        Self::on(config, Box::new(Machine))
    }

    fn on(config: &LocalConfig, disk: Box<dyn Disk>) -> Result<Self, StorageError> {
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
            disk,
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
        self.disk.make_directory(&self.root).at(&self.root)?;
        let parent = self.parent();
        match self.disk.sync_directory(parent) {
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
        let disk = &self.disk;
        let outcome = disk
            .write(&temporary, parts)
            .and_then(|file| disk.sync_file(&temporary, &file))
            .at(&temporary)
            .and_then(|()| disk.rename(&temporary, &target).at(&target))
            .and_then(|()| disk.sync_directory(&directory).at(&directory));
        if outcome.is_err() {
            // Space is short or the disk fails: what is left is not worth a second error.
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        let target = self.root.join(name);
        match self.disk.remove(&target) {
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
        self.disk.sync_directory(&directory).at(&directory)
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
            self.disk.make_directory(&current).at(&current)?;
            self.disk.sync_directory(&parent).at(&parent)?;
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

#[cfg(test)]
mod tests;
