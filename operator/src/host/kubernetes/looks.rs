//! What the destinations hold, listed once for all policies: a listing is good until it is old, a
//! Job has ended, or the destination or its secrets have changed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::class::ErrorClass;

use crate::host::Name;
use crate::reconcile::look::Looked;

/// How long a destination that could not be used is taken for such: every policy that names it
/// would try it for itself.
const UNUSABLE_FOR: Duration = Duration::from_secs(20);

/// The reason of [`not_looked_at`].
pub const NOT_LOOKED_AT: &str = "NotLookedAt";

/// What is known of a destination on a claim before any pod has looked.
#[must_use]
pub fn not_looked_at() -> Looked {
    Looked::Unusable {
        class: ErrorClass::Transient,
        reason: NOT_LOOKED_AT.to_owned(),
        message: "no pod has looked into the claim yet; the next one tells what is there"
            .to_owned(),
    }
}

/// The listings, by destination.
#[derive(Debug)]
pub struct Looks {
    interval: Duration,
    cells: Mutex<HashMap<Name, Arc<Cell>>>,
}

/// One destination; who holds the lock of `last` lists it.
#[derive(Debug, Default)]
pub struct Cell {
    last: tokio::sync::Mutex<Option<Last>>,
    /// Grows when what is known is out of date.
    age: AtomicU64,
    /// What the policies were told last.
    digest: AtomicU64,
}

#[derive(Debug, Clone)]
struct Last {
    at: Instant,
    age: u64,
    key: u64,
    looked: Arc<Looked>,
}

impl Looks {
    /// Listings that are good for `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            cells: Mutex::default(),
        }
    }

    fn cell(&self, name: &Name) -> Arc<Cell> {
        self.cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name.clone())
            .or_default()
            .clone()
    }

    /// What is known, or else what `look` sees; who comes while another looks waits for that. `key`
    /// stands for the declaration.
    pub async fn get(
        &self,
        name: &Name,
        key: u64,
        look: impl Future<Output = Looked>,
    ) -> Arc<Looked> {
        let cell = self.cell(name);
        let mut last = cell.last.lock().await;
        let age = cell.age.load(Ordering::Acquire);
        let good_for = |looked: &Looked| match looked {
            Looked::Unusable { .. } => UNUSABLE_FOR.min(self.interval),
            Looked::Open { .. } | Looked::Empty => self.interval,
        };
        if let Some(last) = last.as_ref().filter(|last| {
            last.age == age && last.key == key && last.at.elapsed() < good_for(&last.looked)
        }) {
            return last.looked.clone();
        }
        let at = Instant::now();
        let looked = Arc::new(look.await);
        *last = Some(Last {
            at,
            age,
            key,
            looked: looked.clone(),
        });
        looked
    }

    /// Puts in what a pod saw.
    pub async fn put(&self, name: &Name, key: u64, looked: Looked) {
        let cell = self.cell(name);
        let mut last = cell.last.lock().await;
        *last = Some(Last {
            at: Instant::now(),
            age: cell.age.load(Ordering::Acquire),
            key,
            looked: Arc::new(looked),
        });
    }

    /// What was seen last, however old it is.
    pub async fn last(&self, name: &Name, key: u64) -> Option<Arc<Looked>> {
        let cell = self.cell(name);
        let last = cell.last.lock().await;
        last.as_ref()
            .filter(|last| last.key == key)
            .map(|last| last.looked.clone())
    }

    /// What is known of a destination is out of date.
    pub fn expire(&self, name: &Name) {
        self.cell(name).age.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets a destination.
    pub fn forget(&self, name: &Name) {
        self.cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// Whether what was seen differs from what the policies were told last; they are told by this.
    pub fn is_news(&self, name: &Name, looked: &Looked) -> bool {
        let digest = digest(looked);
        self.cell(name).digest.swap(digest, Ordering::AcqRel) != digest
    }
}

fn digest(looked: &Looked) -> u64 {
    let mut hasher = DefaultHasher::new();
    match looked {
        Looked::Open {
            repository_id,
            snapshots,
            ..
        } => {
            repository_id.hash(&mut hasher);
            for snapshot in snapshots {
                snapshot.id.hash(&mut hasher);
            }
        }
        Looked::Empty => "empty".hash(&mut hasher),
        Looked::Unusable { reason, .. } => reason.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn a_listing_is_made_once_until_it_is_out_of_date() {
        let looks = Looks::new(Duration::from_secs(600));
        let name = Name::new("default", "box");
        let count = AtomicUsize::new(0);
        let look = |key| {
            looks.get(&name, key, async {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                Looked::Empty
            })
        };
        futures::join!(look(1), look(1), look(1));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        looks.expire(&name);
        look(1).await;
        assert_eq!(count.load(Ordering::Relaxed), 2);
        look(2).await;
        assert_eq!(count.load(Ordering::Relaxed), 3);
        assert!(looks.is_news(&name, &Looked::Empty));
        assert!(!looks.is_news(&name, &Looked::Empty));
    }
}
