//! Forgetting snapshots, and freeing in two phases what no snapshot needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{Span, Timestamp};
use rustic_core::{LimitOption, RusticError};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::RepositoryError;
use super::backend::{Backend, View};
use super::id::ObjectId;
use super::index::{IndexFile, IndexedPack};
use super::inner::Inner;
use super::library::{self, Silent};
use super::lock::Lock;
use super::snapshot;

/// How a prune goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneOptions {
    /// How long packs that are not needed stay, marked, before they are removed. A backup that
    /// takes longer than this is refused at its end.
    pub keep_delete: Duration,
    /// How much of the repository may be unused bytes inside packs that are still needed.
    pub max_unused_percent: u8,
    /// How much of the repository may be written again in one prune.
    pub max_repack_percent: u8,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            keep_delete: Duration::from_secs(23 * 60 * 60),
            max_unused_percent: 5,
            max_repack_percent: 10,
        }
    }
}

/// What a prune would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunePlan {
    /// Packs of which everything is needed.
    pub used_packs: u64,
    /// Packs of which a part is needed.
    pub partly_used_packs: u64,
    /// Packs of which nothing is needed: they get marked.
    pub unused_packs: u64,
    /// Packs whose needed part is written again; they get marked.
    pub repacked_packs: u64,
    /// Packs marked long enough ago: they are removed.
    pub removed_packs: u64,
    /// Packs that stay marked for now.
    pub kept_marked_packs: u64,
    /// Packs that were marked and are needed again.
    pub recovered_packs: u64,
    /// Packs that no index knows, left by runs that died: they get marked.
    pub unreferenced_packs: u64,
    /// Bytes that snapshots need.
    pub used_bytes: u64,
    /// Bytes that no snapshot needs, in packs that are not marked yet.
    pub unused_bytes: u64,
    /// Bytes of packs that get marked because nothing in them is needed.
    pub marked_bytes: u64,
    /// Bytes written again.
    pub repacked_bytes: u64,
    /// Bytes removed now.
    pub removed_bytes: u64,
    /// Bytes of packs that no index knows.
    pub unreferenced_bytes: u64,
}

/// What a prune did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// The plan that was carried out.
    pub plan: PrunePlan,
    /// Bytes of the packs that are there afterwards.
    pub stored_bytes: u64,
}

/// Removes snapshots.
pub(super) async fn forget(
    inner: &Arc<Inner>,
    lock_wait: Duration,
    ids: &[String],
) -> Result<(), RepositoryError> {
    let mut parsed = Vec::with_capacity(ids.len());
    for id in ids {
        parsed.push(
            id.parse::<ObjectId>()
                .map_err(|_| RepositoryError::UnknownSnapshot {
                    location: inner.location.clone(),
                    id: id.clone(),
                })?,
        );
    }
    if parsed.is_empty() {
        return Ok(());
    }
    let lock = Lock::take(inner, false, lock_wait).await?;
    let mut outcome = Ok(());
    for id in &parsed {
        outcome = inner.storage.remove(&snapshot::path(id)).await;
        if outcome.is_err() {
            break;
        }
    }
    lock.release().await;
    Ok(outcome?)
}

impl PruneOptions {
    fn for_library(&self) -> rustic_core::PruneOptions {
        let keep_delete = i64::try_from(self.keep_delete.as_secs()).unwrap_or(i64::MAX);
        rustic_core::PruneOptions::default()
            .keep_delete(Span::new().try_seconds(keep_delete).unwrap_or_default())
            // The library divides by what is left of 100.
            .max_unused(LimitOption::Percentage(
                self.max_unused_percent.min(99).into(),
            ))
            .max_repack(LimitOption::Percentage(
                self.max_repack_percent.min(100).into(),
            ))
    }
}

impl PrunePlan {
    /// How many packs stay marked when it is carried out: another prune removes them later.
    #[must_use]
    pub fn left_marked(&self) -> u64 {
        self.unused_packs + self.repacked_packs + self.kept_marked_packs + self.unreferenced_packs
    }

    fn read(plan: &rustic_core::PrunePlan) -> Self {
        let stats = &plan.stats;
        let size = stats.size_sum();
        Self {
            used_packs: stats.packs.used,
            partly_used_packs: stats.packs.partly_used,
            unused_packs: stats.packs.unused,
            repacked_packs: stats.packs.repack,
            removed_packs: stats.packs_to_delete.remove,
            kept_marked_packs: stats.packs_to_delete.keep,
            recovered_packs: stats.packs_to_delete.recover,
            unreferenced_packs: stats.packs_unref,
            used_bytes: size.used,
            unused_bytes: size.unused,
            marked_bytes: size.remove,
            repacked_bytes: size.repack.saturating_sub(size.repackrm),
            removed_bytes: stats.size_to_delete.remove,
            unreferenced_bytes: stats.size_unref,
        }
    }
}

/// What a prune would do now.
pub(super) async fn plan(
    inner: &Arc<Inner>,
    lock_wait: Duration,
    options: &PruneOptions,
) -> Result<PrunePlan, RepositoryError> {
    let lock = Lock::take(inner, false, lock_wait).await?;
    let planned = run(inner, options, None, &CancellationToken::new()).await;
    lock.release().await;
    planned
}

/// Plans anew under the exclusive lock and carries it out, unless it is stopped: then it ends between
/// two steps, as if the process were killed there, which harms nothing.
pub(super) async fn prune(
    inner: &Arc<Inner>,
    lock_wait: Duration,
    options: &PruneOptions,
    cancel: &CancellationToken,
) -> Result<PruneReport, RepositoryError> {
    let lock = cancel
        .run_until_cancelled(Lock::take(inner, true, lock_wait))
        .await
        .ok_or(RepositoryError::Cancelled)??;
    let lock = Arc::new(lock);
    let pruned = async {
        let plan = run(inner, options, Some(&lock), cancel).await?;
        if cancel.is_cancelled() {
            return Err(RepositoryError::Cancelled);
        }
        mark_unreferenced(inner, &lock).await?;
        let stored_bytes = inner
            .list_ids("data")
            .await?
            .iter()
            .map(|(_, size)| size)
            .sum();
        Ok(PruneReport { plan, stored_bytes })
    }
    .await;
    lock.release().await;
    pruned
}

/// Plans, and carries it out under the exclusive lock where that is given.
async fn run(
    inner: &Arc<Inner>,
    options: &PruneOptions,
    carry_out: Option<&Arc<Lock>>,
    cancel: &CancellationToken,
) -> Result<PrunePlan, RepositoryError> {
    let storage = Arc::clone(&inner.storage);
    let lock = carry_out.cloned();
    let backend = Backend::under(storage, View::Plain, cancel.clone(), lock.clone());
    let runtime = Handle::current();
    let options = options.for_library();
    let shared = Arc::clone(inner);
    inner
        .blocking("prune", move || {
            let inner = shared;
            let repository = library::open(&inner, &backend, Silent)
                .map_err(|error| backend.explain("prune", &error))?;
            // All that can go wrong here, other than with the storage, is that something which a
            // snapshot needs is missing or not what it was.
            let damaged = |error: Box<RusticError>| match backend.explain("prune", &error) {
                RepositoryError::Engine { cause, .. } => inner.damaged(cause),
                other => other,
            };
            let plan = repository.prune_plan(&options).map_err(damaged)?;
            let read = PrunePlan::read(&plan);
            if let Some(lock) = lock {
                // Planning a large repository takes long, and what it saw may be so no more.
                runtime.block_on(lock.confirm())?;
                let carried_out = repository.prune(&options, plan).map_err(damaged);
                // Also of one that failed nothing is on its way when the lock goes.
                let stored = backend.barrier().map_err(damaged);
                carried_out?;
                stored?;
            }
            Ok(read)
        })
        .await
}

/// Marks packs that no index knows, left by runs that died. The library plans it, and leaves it
/// undone when there is nothing else to do.
async fn mark_unreferenced(inner: &Inner, lock: &Lock) -> Result<(), RepositoryError> {
    let mut known = BTreeSet::new();
    for (id, _) in inner.list_ids("index").await? {
        let file: IndexFile = inner.read_json(&format!("index/{id}")).await?;
        known.extend(
            file.packs
                .iter()
                .chain(&file.packs_to_delete)
                .map(|pack| pack.id),
        );
    }
    let now = Timestamp::now();
    let packs_to_delete: Vec<_> = inner
        .list_ids("data")
        .await?
        .into_iter()
        .filter(|(id, _)| !known.contains(id))
        .map(|(id, size)| IndexedPack {
            id,
            blobs: Vec::new(),
            time: Some(now),
            size: u32::try_from(size).ok(),
        })
        .collect();
    if packs_to_delete.is_empty() {
        return Ok(());
    }
    let file = IndexFile {
        packs: Vec::new(),
        packs_to_delete,
    };
    // Whoever writes without regard to us is not seen to have unindexed packs.
    lock.confirm().await?;
    inner.write_json("index", &file).await?;
    Ok(())
}
