//! Reading the files of a policy into a snapshot that is being written.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::FilesConfig;
use super::error::{FilesError, shown};
use super::pattern::Patterns;
use super::reader::Reading;
use super::record::Record;
use super::roots::Roots;
use super::walk::{Scope, Walk};
use crate::manifest::FilesManifest;
use crate::progress::Progress;
use crate::repository::{Graft, Snapshot, SnapshotFacts, SnapshotWriter};

/// Files that were read, for [`crate::repository::CommitRequest`].
#[derive(Debug)]
pub struct FilesBackup {
    /// The tree.
    pub graft: Graft,
    /// What was read.
    pub manifest: FilesManifest,
    /// What a listing shows.
    pub facts: SnapshotFacts,
    /// How many files were opened: those that no parent has as they are.
    pub opened: u64,
}

/// Reads files into a snapshot. Those that one of `parents` has with the same size and times are
/// not opened; give the latest snapshots of the same policy.
///
/// # Errors
/// [`FilesError::InvalidConfig`] and [`FilesError::Path`] before anything is read,
/// [`FilesError::Unreadable`] with the names of what could not be read, and what the repository
/// says. The run has failed then.
pub async fn read_files(
    writer: &SnapshotWriter,
    config: &FilesConfig,
    parents: &[Snapshot],
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<FilesBackup, FilesError> {
    let scope = Arc::new(Scope {
        roots: Roots::new(&config.paths)?,
        exclude: Patterns::new(&config.exclude)?,
        one_file_system: config.one_file_system,
    });
    for path in &config.paths {
        tokio::fs::symlink_metadata(path)
            .await
            .map_err(|cause| FilesError::Path {
                path: shown(path),
                cause,
            })?;
    }
    progress.set_phase("reading files");
    let record = Arc::new(Record::new(config.on_unreadable));
    let reading = Reading {
        record: Arc::clone(&record),
        cancel: cancel.clone(),
    };
    // The sum is for the progress bar alone; it ends with the reading, done or not.
    let summing = cancel.child_token();
    let sum = tokio::task::spawn_blocking({
        let (scope, summing, progress) = (Arc::clone(&scope), summing.clone(), progress.clone());
        move || {
            let total = Walk::total_bytes(scope, summing.clone());
            if !summing.is_cancelled() {
                progress.set_total_bytes(total);
            }
        }
    });
    let archived = writer.archive_files(scope, reading, parents).await;
    summing.cancel();
    let _ = sum.await;
    // What the files say is more than what the archiver makes of it.
    if cancel.is_cancelled() {
        return Err(FilesError::Cancelled);
    }
    let (recorded, tree) = match (record.finish(), archived) {
        (Err(error @ FilesError::Unreadable { .. }), _) => return Err(error),
        (_, Err(error)) => return Err(error.into()),
        (recorded, Ok(tree)) => (recorded?, tree),
    };
    let skipped = (recorded.skipped_count > 0).then_some(recorded.skipped_count);
    let manifest = FilesManifest {
        paths: config.paths.iter().map(|path| shown(path)).collect(),
        files: recorded.files,
        directories: recorded.directories,
        bytes: recorded.bytes,
        excluded: recorded.excluded,
        skipped: recorded.skipped,
        notes: recorded.notes,
    };
    let facts = SnapshotFacts {
        source: "files".into(),
        files: Some(manifest.files),
        skipped,
        size: manifest.bytes,
        ..SnapshotFacts::default()
    }
    .with_notes(&manifest.notes);
    Ok(FilesBackup {
        graft: Graft {
            path: "/".into(),
            tree,
        },
        manifest,
        facts,
        opened: recorded.opened,
    })
}
