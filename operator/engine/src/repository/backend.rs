//! A [`Storage`] as `rustic_core` wants it: synchronous, with packs uploaded in the background.
//!
//! The library turns every error into text. What the storage said is kept aside here, so that its
//! class, reason and advice survive.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustic_core::{
    BytesList, ErrorKind, FileType, Id, ReadBackend, RepositoryBackends, RusticError, RusticResult,
    WriteBackend,
};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::RepositoryError;
use super::id::{ObjectId, from_rustic};
use super::inner::locked;
use super::lock::Lock;
use super::uploads::Uploads;
use crate::destination::{Storage, StorageError};

/// Who derives a key from a password: one in the process. It takes 32 MiB for half a second, and
/// 128 MiB where rustic made the key; an operator opens hundreds of repositories when it starts.
static DERIVING: Semaphore = Semaphore::const_new(1);

/// A storage as the library wants it.
pub(super) struct Backend {
    storage: Arc<dyn Storage>,
    handle: Handle,
    uploads: Uploads,
    /// The first thing that went wrong below.
    failure: Mutex<Option<RepositoryError>>,
    view: View,
    /// Ends whatever is under way between two requests.
    cancel: CancellationToken,
    /// Confirmed before anything is changed that others may count on.
    lock: Option<Confirmed>,
    /// Held from the moment at which the library has a key file until it asks for something else:
    /// while it derives, and never while it waits for the storage.
    deriving: Mutex<Option<SemaphorePermit<'static>>>,
}

/// What of the storage the library sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// Everything as it is.
    Plain,
    /// Of the keys only this one, so that a key left by an init that lost a race hinders nobody.
    OneKey(ObjectId),
    /// Snapshot files are not written: whoever archives decides later whether there is one.
    WithholdSnapshots,
    /// No config is there and none is written: init decides what it says and when it is stored.
    WithholdConfig,
}

/// A lock, and when it was last seen to be there.
struct Confirmed {
    lock: Arc<Lock>,
    /// Guarded by a lock of its own: of many that remove at once, one asks.
    at: tokio::sync::Mutex<Option<Instant>>,
}

/// How long a lock that was seen counts as being there: thousands of packs are removed in a row.
const SEEN: Duration = Duration::from_secs(10);

impl Confirmed {
    fn new(lock: Arc<Lock>) -> Self {
        Self {
            lock,
            at: tokio::sync::Mutex::default(),
        }
    }

    async fn confirm(&self) -> Result<(), RepositoryError> {
        let mut at = self.at.lock().await;
        if at.is_some_and(|at| at.elapsed() < SEEN) {
            return self.lock.confirm_fresh();
        }
        self.lock.confirm().await?;
        *at = Some(Instant::now());
        Ok(())
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// Must be made inside a tokio runtime; used outside of its worker threads.
    pub(super) fn new(storage: Arc<dyn Storage>, view: View) -> Arc<Self> {
        Self::under(storage, view, CancellationToken::new(), None)
    }

    /// The same for what may be stopped: once it is cancelled, every request fails with
    /// [`RepositoryError::Cancelled`], and one that reads ends at once. What is being written or
    /// removed is let end: the storage is left as by a process that was killed between two steps.
    ///
    /// Index files are written and anything is removed only as long as `lock` is held: whoever else
    /// took it away may have begun to count on what is about to go.
    pub(super) fn under(
        storage: Arc<dyn Storage>,
        view: View,
        cancel: CancellationToken,
        lock: Option<Arc<Lock>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            uploads: Uploads::new(Arc::clone(&storage)),
            storage,
            handle: Handle::current(),
            failure: Mutex::default(),
            view,
            cancel,
            lock: lock.map(Confirmed::new),
            deriving: Mutex::default(),
        })
    }

    /// The same as the library takes it.
    pub(super) fn for_library(self: &Arc<Self>) -> RepositoryBackends {
        let backend: Arc<dyn WriteBackend> = Arc::<Self>::clone(self);
        RepositoryBackends::new(backend, None)
    }

    /// What failed below, or what the library itself said.
    pub(super) fn explain(&self, action: &str, error: &RusticError) -> RepositoryError {
        locked(&self.failure)
            .take()
            .unwrap_or_else(|| RepositoryError::Engine {
                action: action.to_owned(),
                location: self.storage.location(),
                cause: in_one_line(error),
            })
    }

    /// What failed below, if anything did.
    pub(super) fn take_failure(&self) -> Option<RepositoryError> {
        locked(&self.failure).take()
    }

    /// Waits for the uploads that are on their way.
    pub(super) fn barrier(&self) -> RusticResult<()> {
        self.handle
            .block_on(self.uploads.barrier())
            .map_err(|error| self.note(error))
    }

    fn note(&self, error: RepositoryError) -> Box<RusticError> {
        let text = error.to_string();
        locked(&self.failure).get_or_insert(error);
        RusticError::new(ErrorKind::Backend, text)
    }

    /// Something that only reads.
    fn wait<T>(&self, work: impl Future<Output = Result<T, StorageError>>) -> RusticResult<T> {
        match self.handle.block_on(self.cancel.run_until_cancelled(work)) {
            Some(outcome) => outcome.map_err(|error| self.note(error.into())),
            None => Err(self.note(RepositoryError::Cancelled)),
        }
    }

    /// Something that writes or removes.
    fn change<T>(&self, work: impl Future<Output = Result<T, StorageError>>) -> RusticResult<T> {
        self.may_change()?;
        self.handle
            .block_on(work)
            .map_err(|error| self.note(error.into()))
    }

    fn may_change(&self) -> RusticResult<()> {
        if self.cancel.is_cancelled() {
            return Err(self.note(RepositoryError::Cancelled));
        }
        Ok(())
    }

    /// Whether what others may count on can still be taken from them.
    fn may_take_away(&self) -> RusticResult<()> {
        match &self.lock {
            Some(lock) => self
                .handle
                .block_on(lock.confirm())
                .map_err(|error| self.note(error)),
            None => Ok(()),
        }
    }
}

/// The library's message without its paragraphs, its links and its backtrace.
pub(super) fn in_one_line(error: &RusticError) -> String {
    let text = error.display_log();
    let text = text.strip_prefix("Error: ").unwrap_or(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn path(tpe: FileType, id: &Id) -> String {
    match tpe {
        FileType::Config => "config".to_owned(),
        FileType::Pack => super::pack::FinishedPack::path(&from_rustic(*id)),
        other => format!("{}/{}", other.dirname(), id.to_hex().as_str()),
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.storage.location()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        if tpe == FileType::Config {
            if self.view == View::WithholdConfig {
                return Ok(Vec::new());
            }
            let size = self.wait(self.storage.size("config"))?;
            return Ok(size
                .map(|size| (Id::default(), clamp(size)))
                .into_iter()
                .collect());
        }
        let entries = self.wait(self.storage.list(tpe.dirname()))?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| Some((ObjectId::from_path(&entry.path)?, clamp(entry.size))))
            .filter(|(id, _)| match self.view {
                View::OneKey(key) if tpe == FileType::Key => *id == key,
                _ => true,
            })
            .map(|(id, size)| (id.to_rustic(), size))
            .collect())
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        locked(&self.deriving).take();
        let bytes = self.wait(self.storage.read(&path(tpe, id)))?;
        if tpe == FileType::Key {
            // The library would take one that was changed for one of another password, or derive
            // what it was told to without end.
            let id = from_rustic(*id);
            if ObjectId::of(&bytes) != id {
                return Err(self.note(RepositoryError::Damaged {
                    location: self.storage.location(),
                    cause: format!("keys/{id} does not match its name"),
                }));
            }
            // It is never closed; without a permit the library derives all the same.
            let permit = self.handle.block_on(DERIVING.acquire()).ok();
            *locked(&self.deriving) = permit;
        }
        Ok(bytes)
    }

    fn read_partial(
        &self,
        tpe: FileType,
        id: &Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.wait(
            self.storage
                .read_range(&path(tpe, id), offset.into(), length.into()),
        )
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        path(tpe, id)
    }
}

/// No object of a repository is as large as 4 GiB; one that is matches no index and is reported.
fn clamp(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        self.change(self.storage.create())
    }

    fn write_bytes(
        &self,
        tpe: FileType,
        id: &Id,
        _cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        let path = path(tpe, id);
        let parts = content.into_vec();
        match tpe {
            FileType::Pack => {
                self.may_change()?;
                self.handle
                    .block_on(self.uploads.submit(path, parts, || ()))
                    .map_err(|error| self.note(error))
            }
            FileType::Snapshot if self.view == View::WithholdSnapshots => Ok(()),
            FileType::Config if self.view == View::WithholdConfig => Ok(()),
            // All of these refer to packs: none may be there before them.
            FileType::Index | FileType::Snapshot | FileType::Config | FileType::Key => {
                self.barrier()?;
                self.may_take_away()?;
                self.change(self.storage.write(&path, parts))
            }
        }
    }

    fn remove(&self, tpe: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        // What replaces it must be there before it goes.
        self.barrier()?;
        self.may_take_away()?;
        self.change(self.storage.remove(&path(tpe, id)))
    }
}
