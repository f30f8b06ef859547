//! Copies backups from one destination to another.

use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{Copied, Repository};
use tokio_util::sync::CancellationToken;

use crate::run::RunError;

/// Copies the snapshots with these ids; those that are there already are passed over.
///
/// # Errors
/// When one of them is gone, or either repository fails.
pub async fn copy(
    from: &Repository,
    to: &Repository,
    ids: &[String],
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Vec<Copied>, RunError> {
    progress.set_phase(format!("copying to {}", to.location()));
    let snapshots: Vec<_> = from
        .snapshots()
        .await?
        .into_iter()
        .filter(|one| ids.contains(&one.id))
        .collect();
    for id in ids {
        if !snapshots.iter().any(|snapshot| &snapshot.id == id) {
            return Err(RunError::UnknownBackup {
                id: id.clone(),
                destinations: from.location().to_owned(),
            });
        }
    }
    if let Some(foreign) = snapshots.iter().find(|snapshot| snapshot.foreign) {
        return Err(RunError::Foreign {
            id: foreign.id.clone(),
        });
    }
    Ok(from
        .copy(&snapshots, to, progress.clone(), cancel.clone())
        .await?)
}
