//! Uploads in the background: several packs on their way at once, and a barrier that everything
//! which refers to them waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::RepositoryError;
use super::inner::locked;
use crate::destination::{Storage, StorageError};

/// How many packs are on their way at once. More would cost their size in memory each; four hide
/// the latency of an object store at the speed of one processor.
const AT_ONCE: u32 = 4;

/// Uploads in the background.
#[derive(Debug)]
pub(super) struct Uploads {
    storage: Arc<dyn Storage>,
    location: String,
    slots: Arc<Semaphore>,
    outcome: Arc<Outcome>,
}

/// Whether an upload failed, and the error until somebody asks for it.
#[derive(Debug, Default)]
struct Outcome {
    failed: AtomicBool,
    error: Mutex<Option<StorageError>>,
}

/// One upload. It counts as failed unless it is said to be stored: its task may panic, or end with
/// the runtime.
struct Upload {
    outcome: Arc<Outcome>,
    stored: bool,
    /// Freed after the outcome is known: whoever has all slots has all outcomes.
    _slot: OwnedSemaphorePermit,
}

impl Upload {
    fn succeed(mut self) {
        self.stored = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.stored {
            self.outcome.failed.store(true, Ordering::Release);
        }
    }
}

impl Uploads {
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            location: storage.location(),
            storage,
            slots: Arc::new(Semaphore::new(AT_ONCE as usize)),
            outcome: Arc::default(),
        }
    }

    /// Starts an upload, waiting while too many are on their way; `done` is called when it is
    /// stored.
    ///
    /// # Errors
    /// When an earlier upload failed: nothing more is taken then.
    pub(super) async fn submit(
        &self,
        path: String,
        parts: Vec<Bytes>,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<(), RepositoryError> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| self.closed())?;
        self.healthy()?;
        let storage = Arc::clone(&self.storage);
        let upload = Upload {
            outcome: Arc::clone(&self.outcome),
            stored: false,
            _slot: slot,
        };
        tokio::spawn(async move {
            match storage.write(&path, parts).await {
                Ok(()) => {
                    done();
                    upload.succeed();
                }
                Err(error) => {
                    locked(&upload.outcome.error).get_or_insert(error);
                }
            }
        });
        Ok(())
    }

    /// Waits until nothing is on its way.
    ///
    /// # Errors
    /// When any upload failed.
    pub(super) async fn barrier(&self) -> Result<(), RepositoryError> {
        let all = self
            .slots
            .acquire_many(AT_ONCE)
            .await
            .map_err(|_| self.closed())?;
        drop(all);
        self.healthy()
    }

    fn healthy(&self) -> Result<(), RepositoryError> {
        if !self.outcome.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(match locked(&self.outcome.error).take() {
            Some(error) => error.into(),
            None => RepositoryError::Engine {
                action: "upload a pack".into(),
                location: self.location.clone(),
                cause: "an upload of the same run failed, or ended before it was stored".into(),
            },
        })
    }

    fn closed(&self) -> RepositoryError {
        RepositoryError::Engine {
            action: "upload a pack".into(),
            location: self.location.clone(),
            cause: "the run is ending".into(),
        }
    }
}
