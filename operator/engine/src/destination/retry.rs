//! Tries again what failed for a reason that passes: any storage, decorated.
//!
//! Every operation of the contract can be repeated without harm. Only errors of the class
//! *transient* are tried again; the service's own wish for a pause is honoured; the number of
//! attempts and the pauses are bounded. [`Storage::probe`] is passed through: whoever asks wants to
//! know how things are now, and asks again by itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;

use super::{Entry, Storage, StorageError};
use crate::class::{Classified, ErrorClass};

/// How often and how patiently an operation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: usize,
    /// The pause before the first of them; it doubles each time, and up to as much again is added
    /// at random, so that many workers do not come back at once.
    pub first_pause: Duration,
    /// The longest pause, the service's own wish included.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    /// About a minute in all: long enough for a restarted server or a flapping link.
    fn default() -> Self {
        Self {
            retries: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(20),
        }
    }
}

/// A storage whose operations are tried again when they fail for a reason that passes.
#[derive(Debug)]
pub struct RetryStorage {
    inner: Arc<dyn Storage>,
    policy: RetryPolicy,
}

impl RetryStorage {
    /// Decorates `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    async fn attempt<T, F>(&self, operation: impl Fn() -> F) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(self.policy.first_pause)
            .with_max_delay(self.policy.longest_pause)
            .with_max_times(self.policy.retries)
            .with_jitter()
            .build();
        let mut attempt = 1_u32;
        loop {
            let error = match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if error.class() != ErrorClass::Transient {
                return Err(error);
            }
            let Some(pause) = pauses.next() else {
                return Err(error);
            };
            let pause = pause.max(error.retry_after.unwrap_or_default());
            let pause = pause.min(self.policy.longest_pause);
            tracing::warn!(
                action = error.action,
                location = error.location,
                cause = error.cause,
                reason = error.reason(),
                attempt,
                pause_seconds = pause.as_secs_f64(),
                "A storage operation failed and is tried again."
            );
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }
}

#[async_trait]
impl Storage for RetryStorage {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn probe(&self) -> Result<(), StorageError> {
        self.inner.probe().await
    }

    fn impatient(&self) -> Option<&dyn Storage> {
        Some(&*self.inner)
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.attempt(|| self.inner.create()).await
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StorageError> {
        self.attempt(|| self.inner.list(directory)).await
    }

    async fn list_some(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, StorageError> {
        self.attempt(|| self.inner.list_some(directory, limit))
            .await
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        self.attempt(|| self.inner.size(path)).await
    }

    async fn read(&self, path: &str) -> Result<Bytes, StorageError> {
        self.attempt(|| self.inner.read(path)).await
    }

    async fn read_range(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StorageError> {
        self.attempt(|| self.inner.read_range(path, offset, length))
            .await
    }

    async fn write(&self, path: &str, parts: Vec<Bytes>) -> Result<(), StorageError> {
        // Cloning `Bytes` counts a reference; no data is copied.
        self.attempt(|| self.inner.write(path, parts.clone())).await
    }

    async fn remove(&self, path: &str) -> Result<(), StorageError> {
        self.attempt(|| self.inner.remove(path)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::StorageErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Fails `failures` times with `kind`, then works.
    #[derive(Debug)]
    struct Flaky {
        failures: usize,
        kind: StorageErrorKind,
        retry_after: Option<Duration>,
        calls: AtomicUsize,
    }

    impl Flaky {
        fn call(&self) -> Result<(), StorageError> {
            if self.calls.fetch_add(1, Ordering::SeqCst) < self.failures {
                let mut error = StorageError::new(self.kind, "read config", "nowhere", "no");
                error.retry_after = self.retry_after;
                return Err(error);
            }
            Ok(())
        }
    }

    #[async_trait]
    impl Storage for Flaky {
        fn location(&self) -> String {
            "nowhere".to_owned()
        }
        async fn probe(&self) -> Result<(), StorageError> {
            self.call()
        }
        async fn create(&self) -> Result<(), StorageError> {
            self.call()
        }
        async fn list(&self, _: &str) -> Result<Vec<Entry>, StorageError> {
            self.call().map(|()| Vec::new())
        }
        async fn list_some(&self, _: &str, _: usize) -> Result<Vec<Entry>, StorageError> {
            self.call().map(|()| Vec::new())
        }
        async fn size(&self, _: &str) -> Result<Option<u64>, StorageError> {
            self.call().map(|()| None)
        }
        async fn read(&self, _: &str) -> Result<Bytes, StorageError> {
            self.call().map(|()| Bytes::new())
        }
        async fn read_range(&self, _: &str, _: u64, _: u64) -> Result<Bytes, StorageError> {
            self.call().map(|()| Bytes::new())
        }
        async fn write(&self, _: &str, _: Vec<Bytes>) -> Result<(), StorageError> {
            self.call()
        }
        async fn remove(&self, _: &str) -> Result<(), StorageError> {
            self.call()
        }
    }

    fn flaky(failures: usize, kind: StorageErrorKind) -> (Arc<Flaky>, RetryStorage) {
        patient(failures, kind, None)
    }

    fn patient(
        failures: usize,
        kind: StorageErrorKind,
        retry_after: Option<Duration>,
    ) -> (Arc<Flaky>, RetryStorage) {
        let inner = Arc::new(Flaky {
            failures,
            kind,
            retry_after,
            calls: AtomicUsize::new(0),
        });
        let decorated = RetryStorage::new(Arc::clone(&inner) as _, RetryPolicy::default());
        (inner, decorated)
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_until_it_works() {
        let (inner, storage) = flaky(3, StorageErrorKind::Interrupted);
        storage.read("config").await.expect("works in the end");
        assert_eq!(inner.calls.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_attempts_is_bounded() {
        let (inner, storage) = flaky(usize::MAX, StorageErrorKind::Unreachable);
        let error = storage
            .write("config", vec![])
            .await
            .expect_err("never works");
        assert_eq!(error.kind, StorageErrorKind::Unreachable);
        assert_eq!(
            inner.calls.load(Ordering::SeqCst),
            1 + RetryPolicy::default().retries
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_not_tried_again() {
        for kind in [
            StorageErrorKind::NotFound,
            StorageErrorKind::AuthenticationFailed,
            StorageErrorKind::HostKeyMismatch,
            StorageErrorKind::Full,
            StorageErrorKind::Retained,
        ] {
            let (inner, storage) = flaky(usize::MAX, kind);
            storage.remove("config").await.expect_err("fails");
            assert_eq!(inner.calls.load(Ordering::SeqCst), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wish_of_the_service_is_honoured_within_bounds() {
        let long = RetryPolicy::default().longest_pause;
        for (wish, least, most) in [
            (
                Duration::from_secs(12),
                Duration::from_secs(12),
                Duration::from_secs(13),
            ),
            (
                Duration::from_secs(3600),
                long,
                long + Duration::from_secs(1),
            ),
        ] {
            let (_, storage) = patient(1, StorageErrorKind::Interrupted, Some(wish));
            let start = tokio::time::Instant::now();
            storage.size("config").await.expect("works the second time");
            let waited = start.elapsed();
            assert!(waited >= least && waited <= most, "{waited:?} for {wish:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_not_repeated() {
        let (inner, storage) = flaky(1, StorageErrorKind::Unreachable);
        storage.probe().await.expect_err("says how things are");
        assert_eq!(inner.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_nothing_is_repeated() {
        let (inner, storage) = flaky(1, StorageErrorKind::Unreachable);
        let once = storage.impatient().expect("the storage below");
        once.read("config").await.expect_err("says how things are");
        assert_eq!(inner.calls.load(Ordering::SeqCst), 1);
    }
}
