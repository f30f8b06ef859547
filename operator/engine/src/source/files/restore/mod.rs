//! Putting files back: first a survey of what is there, which changes nothing and is the dry run,
//! then every entry into its place, several files at a time.
//!
//! The rules, whatever the backup holds and whoever else writes into the target:
//! nothing is written outside of the target; a file appears under its name only when it is
//! complete, with its metadata; what is there and differs is replaced only when that was asked
//! for; what could not be restored is named, and the restore is then no success.

mod apply;
mod compare;
mod entry;
mod file;
mod metadata;
mod survey;
mod target;
mod traverse;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::error::{FilesError, PathList};
use crate::manifest::FilesManifest;
use crate::progress::Progress;
use crate::source::Content;

/// Where files are put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreTarget {
    /// Where they were.
    Original,
    /// Below this absolute path, each by the absolute path it had: `/srv/a` goes to
    /// `<path>/srv/a`, as with `restic restore --target`.
    Path(PathBuf),
}

/// What to do with what is there and differs from the backup. What is there and is the same is
/// kept, and what the backup does not have is never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Name it and change nothing at all.
    #[default]
    Fail,
    /// Replace it. A directory that is not empty is never removed for a file.
    Drop,
    /// Keep it, and restore only what is not there.
    Merge,
}

/// One restore of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreFilesRequest {
    /// Where files are put.
    pub target: RestoreTarget,
    /// Patterns of what to restore, in the grammar of the excludes; everything when empty. What
    /// lies below a directory that matches is restored with it.
    pub include: Vec<String>,
    /// What to do with what is there and differs.
    pub on_conflict: OnConflict,
}

/// What a restore would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreFilesPlan {
    /// Regular files to write.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories to make.
    pub directories: u64,
    /// Symbolic links, pipes and devices to make.
    pub others: u64,
    /// What is there and the same.
    pub identical: u64,
    /// What is there and differs: to be replaced with [`OnConflict::Drop`], to be kept with
    /// [`OnConflict::Merge`], and what hinders the restore with [`OnConflict::Fail`].
    pub different: PathList,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreFilesReport {
    /// Regular files written, hard links counted each.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Directories made, or brought to the metadata they had.
    pub directories: u64,
    /// Symbolic links, pipes and devices made.
    pub others: u64,
    /// What was there and is kept, because it is the same or because of [`OnConflict::Merge`].
    pub kept: u64,
    /// What the system does not let this user make: devices.
    pub skipped: PathList,
    /// Metadata that could not be set: owners, extended attributes.
    pub warnings: PathList,
}

/// Says what a restore would do. Changes nothing.
///
/// # Errors
/// When the request cannot work, nothing is chosen by its patterns, the target cannot be looked
/// at, the repository fails, or `cancel` was used. Conflicts are part of the plan.
pub async fn plan_restore_files(
    content: &dyn Content,
    manifest: &FilesManifest,
    request: &RestoreFilesRequest,
    cancel: &CancellationToken,
) -> Result<RestoreFilesPlan, FilesError> {
    let job = target::Job::new(manifest, request)?;
    survey::survey(content, &job, true, cancel).await
}

/// Restores files.
///
/// # Errors
/// [`FilesError::Conflict`] before anything is changed; [`FilesError::Incomplete`] when part could
/// not be restored and everything else was; otherwise as [`plan_restore_files`].
pub async fn restore_files(
    content: &dyn Content,
    manifest: &FilesManifest,
    request: &RestoreFilesRequest,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<RestoreFilesReport, FilesError> {
    let job = target::Job::new(manifest, request)?;
    let surveyed_at = jiff::Timestamp::now();
    progress.set_phase("comparing the target with the backup");
    let plan = survey::survey(content, &job, false, cancel).await?;
    if request.on_conflict == OnConflict::Fail && !plan.different.is_empty() {
        return Err(FilesError::Conflict {
            target: job.shown(),
            list: plan.different,
        });
    }
    progress.set_total_bytes(plan.bytes);
    progress.set_phase("restoring files");
    apply::apply(content, &job, surveyed_at, progress, cancel).await
}
