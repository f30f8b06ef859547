//! One entry of a restore: what is there is judged, what is missing is made.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use rustix::fs::{Mode, OFlags, Stat};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::compare::same;
use super::file::{Writing, blocking, make_special};
use super::target::{Job, clear, look};
use super::{OnConflict, metadata};
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::source::files::attributes::changed_at;
use crate::source::files::error::{FilesError, ends_a_restore};
use crate::source::{BlobId, Content, Node, NodeKind};

/// How many blobs of one file are read ahead.
const READ_AHEAD: usize = 8;

/// How many blobs are held in memory at once, of all files together.
pub(super) const BLOBS_AT_ONCE: usize = 16;

/// What all entries of one restore share.
pub(super) struct Shared<'a> {
    pub(super) content: &'a dyn Content,
    pub(super) job: &'a Job,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a CancellationToken,
    /// When the survey began: what has not changed since then was compared by it.
    pub(super) surveyed_at: jiff::Timestamp,
    pub(super) blobs: Semaphore,
}

/// An entry of the machine that shall be there.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) directory: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) node: Node,
}

/// What became of an entry.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was made; with the metadata that could not be set.
    Made(Vec<String>),
    /// It was there and the same; with the metadata that could not be set.
    Identical(Vec<String>),
    /// Something was there and is kept as it is, because that was asked for.
    Kept,
    /// The system does not let this user make it.
    NotPermitted,
    /// It could not be restored.
    Failed(String, Cause),
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The target's.
    Target,
    /// The backup's.
    Backup,
}

/// Why an entry could not be restored.
pub(super) enum Trouble {
    /// Only this one cannot.
    Entry(String, Cause),
    /// None of the others could be, either.
    Run(FilesError),
}

impl From<RepositoryError> for Trouble {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::Damaged { .. } => Self::Entry(error.to_string(), Cause::Backup),
            other => Self::Run(other.into()),
        }
    }
}

impl Entry {
    pub(super) fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.node.name)
    }

    /// Looks at what is in its place.
    pub(super) async fn look(&self) -> io::Result<Option<Stat>> {
        let (directory, name) = (Arc::clone(&self.directory), self.name().to_owned());
        blocking(move || look(&directory, &name)).await
    }

    /// Removes what is in its place when that is a directory; anything else is replaced as the
    /// entry comes into its place.
    pub(super) async fn make_way(&self, stat: Stat) -> io::Result<()> {
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
            return Ok(());
        }
        let (directory, name) = (Arc::clone(&self.directory), self.name().to_owned());
        blocking(move || clear(&directory, &name, &stat)).await
    }
}

impl Shared<'_> {
    /// Restores one entry.
    ///
    /// # Errors
    /// When the restore as a whole cannot go on.
    pub(super) async fn restore(&self, entry: &Entry) -> Result<Outcome, FilesError> {
        match self.try_restore(entry).await {
            Ok(outcome) => Ok(outcome),
            Err(Trouble::Entry(reason, cause)) => Ok(Outcome::Failed(reason, cause)),
            Err(Trouble::Run(error)) => Err(error),
        }
    }

    /// What an error of the file system means.
    pub(super) fn trouble(&self, entry: &Entry, error: io::Error) -> Trouble {
        if ends_a_restore(&error) {
            Trouble::Run(FilesError::target(
                "write",
                &self.job.place(&entry.path),
                error,
            ))
        } else if error.kind() == io::ErrorKind::InvalidData {
            Trouble::Entry(error.to_string(), Cause::Backup)
        } else {
            Trouble::Entry(error.to_string(), Cause::Target)
        }
    }

    async fn try_restore(&self, entry: &Entry) -> Result<Outcome, Trouble> {
        let trouble = |error| self.trouble(entry, error);
        let mut replace = false;
        if let Some(stat) = entry.look().await.map_err(trouble)? {
            if self.job.on_conflict == OnConflict::Merge {
                return Ok(Outcome::Kept);
            }
            if self.is_same(entry, &stat).await? {
                return self.keep(entry).await.map_err(trouble);
            }
            if self.job.on_conflict == OnConflict::Fail {
                return Ok(Outcome::Failed(
                    "something that differs came into its place".into(),
                    Cause::Target,
                ));
            }
            entry.make_way(stat).await.map_err(trouble)?;
            replace = true;
        }
        if let NodeKind::File(blobs) = &entry.node.kind {
            return Ok(Outcome::Made(self.write(entry, blobs, replace).await?));
        }
        let made = entry.clone();
        let missing = blocking(move || make_special(&made.directory, &made.node, replace))
            .await
            .map_err(trouble)?;
        Ok(missing.map_or(Outcome::NotPermitted, Outcome::Made))
    }

    /// Whether what is there is what the backup has. The survey has compared what has not changed
    /// since, and a conflict would have ended the restore.
    pub(super) async fn is_same(&self, entry: &Entry, stat: &Stat) -> Result<bool, Trouble> {
        if self.job.on_conflict == OnConflict::Fail && changed_at(stat) < self.surveyed_at {
            return Ok(true);
        }
        Ok(same(self.content, &entry.directory, &entry.node, stat).await?)
    }

    /// Brings the metadata of what is there and the same to what it was.
    async fn keep(&self, entry: &Entry) -> io::Result<Outcome> {
        let kept = entry.clone();
        let missing = blocking(move || {
            if let NodeKind::Symlink(_) = kept.node.kind {
                return metadata::set_link(&kept.directory, kept.name(), &kept.node);
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&*kept.directory, kept.name(), flags, Mode::empty())?;
            metadata::set(&File::from(opened), &kept.node)
        })
        .await?;
        Ok(Outcome::Identical(missing))
    }

    /// Writes a regular file: its blobs in order, a bounded number of them ahead.
    async fn write(
        &self,
        entry: &Entry,
        blobs: &[BlobId],
        replace: bool,
    ) -> Result<Vec<String>, Trouble> {
        let size = entry.node.size;
        // A permit is taken in the order of the file and given back when its bytes are written:
        // whoever holds permits holds the one that it needs next.
        let mut pieces = std::pin::pin!(
            futures::stream::iter(blobs.to_vec())
                .map(|id| async move {
                    let permit = self.blobs.acquire().await;
                    (self.content.blob(&id).await, permit)
                })
                .buffered(READ_AHEAD)
        );
        let mut writing: Option<Writing> = None;
        while let Some((bytes, _permit)) = pieces.next().await {
            if self.cancel.is_cancelled() {
                return Err(Trouble::Run(FilesError::Cancelled));
            }
            let bytes = bytes?;
            self.progress
                .add_bytes(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            let directory = Arc::clone(&entry.directory);
            let begun = blocking(move || {
                let mut writing = match writing {
                    Some(writing) => writing,
                    None => Writing::create(&directory, size)?,
                };
                writing.append(&bytes)?;
                Ok(writing)
            })
            .await
            .map_err(|error| self.trouble(entry, error))?;
            writing = Some(begun);
        }
        let made = entry.clone();
        blocking(move || {
            let writing = match writing {
                Some(writing) => writing,
                None => Writing::create(&made.directory, size)?,
            };
            writing.finish(&made.node, replace)
        })
        .await
        .map_err(|error| self.trouble(entry, error))
    }
}
