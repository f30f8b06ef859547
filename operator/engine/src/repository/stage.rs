//! The stage: takes segments from a source in any order, and stores them while the source reads on.

use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
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
        Err(taken
            .failure
            .take()
            .unwrap_or_else(|| self.inner.engine("take a segment", "an earlier one failed")))
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
        let taken = Arc::clone(&self.taken);
        tokio::spawn(async move {
            let outcome = store(&packer, segment).await;
            let mut taken = locked(&taken);
            match outcome {
                Ok(blobs) => {
                    if let Some(segment) = taken.segments.get_mut(number) {
                        segment.blobs = blobs;
                    }
                }
                Err(error) => {
                    taken.failed = true;
                    taken.failure.get_or_insert(error);
                }
            }
            drop(permit);
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
