//! The stage: takes segments from a source in any order, and stores them while the source reads on.

use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::RepositoryError;
use super::inner::{Inner, locked};
use super::lock::Lock;
use super::pack::BlobKind;
use super::packer::Packer;
use super::writer::{Staged, StagedSegment};
use crate::source::{BlobId, SegmentNumber, Stage};

/// Bytes of segments that are being taken in at once: enough to keep the processors busy.
const IN_FLIGHT: u32 = 16 * 1024 * 1024;
/// A larger segment is several blobs; no other tool makes larger ones either.
const MAX_BLOB: usize = 8 * 1024 * 1024;

/// Takes segments.
pub(super) struct Staging {
    inner: Arc<Inner>,
    packer: Arc<Packer>,
    /// Not owned: when the writer ends, so does the lock, whoever still holds the stage.
    lock: Weak<Lock>,
    cancel: CancellationToken,
    budget: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    segments: Vec<StagedSegment>,
    failure: Option<RepositoryError>,
    failed: bool,
}

/// One segment that is being taken in. It counts as failed unless it is said to be stored: its task
/// may panic, or end with the runtime.
struct Taking {
    taken: Arc<Mutex<Taken>>,
    stored: bool,
    /// Freed after the outcome is known: whoever has all of the budget has all outcomes.
    _permit: OwnedSemaphorePermit,
}

impl Taking {
    fn succeed(mut self) {
        self.stored = true;
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.stored {
            locked(&self.taken).failed = true;
        }
    }
}

impl Staging {
    pub(super) fn new(
        inner: Arc<Inner>,
        packer: Arc<Packer>,
        lock: Weak<Lock>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            inner,
            packer,
            lock,
            cancel,
            budget: Arc::new(Semaphore::new(IN_FLIGHT as usize)),
            taken: Arc::default(),
        }
    }

    /// Waits for what was put so far.
    pub(super) async fn finish(&self) -> Result<Staged, RepositoryError> {
        let all = self.budget.acquire_many(IN_FLIGHT);
        let all = self
            .or_cancelled(all)
            .await?
            .map_err(|_| RepositoryError::Cancelled)?;
        drop(all);
        self.healthy()?;
        Ok(Staged(locked(&self.taken).segments.clone()))
    }

    fn healthy(&self) -> Result<(), RepositoryError> {
        let mut taken = locked(&self.taken);
        if !taken.failed {
            return Ok(());
        }
        Err(taken.failure.take().unwrap_or_else(|| {
            let cause = "one of the same run failed, or ended before it was stored";
            self.inner.engine("take a segment", cause)
        }))
    }

    async fn or_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, RepositoryError> {
        self.cancel
            .run_until_cancelled(work)
            .await
            .ok_or(RepositoryError::Cancelled)
    }
}

#[async_trait]
impl Stage for Staging {
    async fn put(&self, segment: Bytes) -> Result<SegmentNumber, RepositoryError> {
        self.lock
            .upgrade()
            .ok_or(RepositoryError::Cancelled)?
            .confirm_fresh()?;
        let weight = u32::try_from(segment.len())
            .unwrap_or(u32::MAX)
            .clamp(1, IN_FLIGHT);
        let permit = Arc::clone(&self.budget).acquire_many_owned(weight);
        let permit = self
            .or_cancelled(permit)
            .await?
            .map_err(|_| RepositoryError::Cancelled)?;
        self.healthy()?;
        let number = {
            let mut taken = locked(&self.taken);
            let bytes = segment.len() as u64;
            taken.segments.push(StagedSegment {
                blobs: Vec::new(),
                bytes,
            });
            taken.segments.len() - 1
        };
        if segment.is_empty() {
            return Ok(SegmentNumber(number as u64));
        }
        let packer = Arc::clone(&self.packer);
        let taking = Taking {
            taken: Arc::clone(&self.taken),
            stored: false,
            _permit: permit,
        };
        tokio::spawn(async move {
            match store(&packer, segment).await {
                Ok(blobs) => {
                    if let Some(segment) = locked(&taking.taken).segments.get_mut(number) {
                        segment.blobs = blobs;
                    }
                    taking.succeed();
                }
                Err(error) => {
                    locked(&taking.taken).failure.get_or_insert(error);
                }
            }
        });
        Ok(SegmentNumber(number as u64))
    }
}

async fn store(packer: &Packer, mut segment: Bytes) -> Result<Vec<BlobId>, RepositoryError> {
    let mut blobs = Vec::with_capacity(1);
    while !segment.is_empty() {
        let blob = segment.split_to(segment.len().min(MAX_BLOB));
        blobs.push(BlobId(packer.add(BlobKind::Data, blob).await?.0));
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::repository::index::Index;
    use crate::support::memory::Memory;
    use crate::support::repository;

    /// A task that dies says nothing: the segment would be shown with its size and no content.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_segment_whose_task_dies_fails_the_stage() {
        let repository = repository(Memory::new()).await;
        let inner = &repository.inner;
        let lock = Lock::take(inner, false, Duration::ZERO).await.unwrap();
        let lock = Arc::new(lock);
        let index = Index::load(inner).await.unwrap();
        let staging = Staging::new(
            Arc::clone(inner),
            Arc::new(Packer::new(Arc::clone(inner), index)),
            Arc::downgrade(&lock),
            CancellationToken::new(),
        );
        staging.put(Bytes::from_static(b"fine")).await.unwrap();
        staging.finish().await.unwrap();
        let permit = Arc::clone(&staging.budget).acquire_many_owned(7).await;
        let taking = Taking {
            taken: Arc::clone(&staging.taken),
            stored: false,
            _permit: permit.unwrap(),
        };
        let task = tokio::spawn(async move {
            let _taking = taking;
            panic!("a defect");
        });
        task.await.unwrap_err();
        assert!(matches!(
            staging.finish().await,
            Err(RepositoryError::Engine { .. })
        ));
    }
}
