//! Forgets the backups that retention does not keep, and prunes what they alone needed.

use std::time::Duration;

use holdfast_engine::repository::{PruneOptions, PruneReport, Repository, RepositoryError};
use tokio_util::sync::CancellationToken;

use crate::run::RunError;

/// Removes snapshots of ours by their full ids.
///
/// # Errors
/// When one of them is not ours (nothing is removed then), or the storage fails.
pub async fn forget(repository: &Repository, ids: &[String]) -> Result<(), RunError> {
    // What is listed now decides, not what a plan once saw.
    let listed = repository.snapshots().await?;
    for snapshot in &listed {
        if snapshot.foreign && ids.contains(&snapshot.id) {
            return Err(RunError::Foreign {
                id: snapshot.id.clone(),
            });
        }
    }
    let present: Vec<String> = listed
        .into_iter()
        .map(|snapshot| snapshot.id)
        .filter(|id| ids.contains(id))
        .collect();
    repository.forget(&present).await?;
    Ok(())
}

/// Frees what no snapshot needs any more.
///
/// # Errors
/// When others hold locks for too long, something that is needed is missing, the storage fails, or
/// it was stopped: the next goes on from there.
pub async fn prune(
    repository: &Repository,
    cancel: &CancellationToken,
) -> Result<PruneReport, RunError> {
    let report = pruned_with(repository, &PruneOptions::default(), cancel).await?;
    tracing::info!(
        location = repository.location(),
        removed_bytes = report.plan.removed_bytes,
        marked_bytes = report.plan.marked_bytes,
        repacked_bytes = report.plan.repacked_bytes,
        "A repository was pruned."
    );
    Ok(report)
}

/// The same without the time for which packs stay marked; says how many bytes were removed.
///
/// # Errors
/// As [`prune`].
pub async fn prune_at_once(
    repository: &Repository,
    cancel: &CancellationToken,
) -> Result<u64, RunError> {
    let options = PruneOptions {
        keep_delete: Duration::ZERO,
        ..PruneOptions::default()
    };
    // The first marks, the second removes.
    pruned_with(repository, &options, cancel).await?;
    let report = pruned_with(repository, &options, cancel).await?;
    Ok(report.plan.removed_bytes)
}

async fn pruned_with(
    repository: &Repository,
    options: &PruneOptions,
    cancel: &CancellationToken,
) -> Result<PruneReport, RunError> {
    match repository.prune(options, cancel.clone()).await {
        Err(RepositoryError::Cancelled) => Err(RunError::Cancelled),
        pruned => Ok(pruned?),
    }
}
