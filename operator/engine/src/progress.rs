//! What a run has done so far: counters that workers add to and an observer reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A cheap handle on the counters of one run; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    items: AtomicU64,
    phase: Mutex<String>,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProgressSnapshot {
    /// Bytes of the source read, or of the target written, so far.
    pub done_bytes: u64,
    /// Bytes expected in all; 0 while it is not known. An estimate for databases.
    pub total_bytes: u64,
    /// Documents or files done so far.
    pub items: u64,
    /// What is being done, as a short sentence fragment: `reading shop.orders`.
    pub phase: String,
}

impl Progress {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds to the bytes done.
    pub fn add_bytes(&self, bytes: u64) {
        self.0.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the documents or files done.
    pub fn add_items(&self, items: u64) {
        self.0.items.fetch_add(items, Ordering::Relaxed);
    }

    /// Sets the number of bytes expected in all.
    pub fn set_total_bytes(&self, bytes: u64) {
        self.0.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Adds to the number of bytes expected in all.
    pub fn add_total_bytes(&self, bytes: u64) {
        self.0.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says what is being done now.
    pub fn set_phase(&self, phase: impl Into<String>) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase.into();
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> ProgressSnapshot {
        ProgressSnapshot {
            done_bytes: self.0.done_bytes.load(Ordering::Relaxed),
            total_bytes: self.0.total_bytes.load(Ordering::Relaxed),
            items: self.0.items.load(Ordering::Relaxed),
            phase: self
                .0
                .phase
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}
