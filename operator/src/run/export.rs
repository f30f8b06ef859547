//! Writes a backup out in the form of its own tools.

use std::path::Path;

use holdfast_engine::export::{self, ExportError};
use holdfast_engine::manifest::{FilesManifest, MongodbManifest, SourceManifest};
use holdfast_engine::progress::Progress;
use holdfast_engine::source::{Content, files};
use tokio::io::AsyncWrite;

use crate::host::Host;
use crate::journal::{NewRun, RunKind};
use crate::run::locate::Located;
use crate::run::record::{Open, begin, caught};
use crate::run::{RunError, Runner};

/// Where a backup is written.
#[derive(Debug, Clone, Copy)]
pub enum ExportTo<'a> {
    /// A directory that gets the files of the backup: mongodump's own, for a MongoDB.
    Directory(&'a Path),
    /// A file that gets a mongodump archive; the standard output for `-`.
    Archive(&'a Path),
}

impl<H: Host> Runner<H> {
    /// Writes a backup out.
    ///
    /// # Errors
    /// When the backup is of another kind, anything could not be read, or the target not written.
    pub async fn export(
        &self,
        located: &Located,
        to: ExportTo<'_>,
        progress: &Progress,
    ) -> Result<(), RunError> {
        let Located {
            repository,
            snapshot,
            ..
        } = located;
        let policy = crate::catalogue::policy_of(snapshot).ok_or_else(|| RunError::Foreign {
            id: snapshot.id.clone(),
        })?;
        let new = NewRun {
            namespace: policy.namespace,
            policy: Some(policy.name),
            ..self.at_destination(RunKind::Export, &located.destination)
        };
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async {
            account.snapshot = Some(snapshot.id.clone());
            progress.set_phase("exporting");
            let manifest =
                repository
                    .manifest(snapshot)
                    .await?
                    .ok_or_else(|| RunError::Foreign {
                        id: snapshot.id.clone(),
                    })?;
            let content = repository.content(snapshot).await?;
            let content = content.as_ref();
            match (&manifest.source, to) {
                (SourceManifest::Mongodb(manifest), to) => {
                    let exported = self.export_mongodb(content, manifest, to, progress).await;
                    exported.map_err(|error| RunError::source(&error))?;
                }
                (SourceManifest::Files(manifest), ExportTo::Directory(directory)) => {
                    self.export_files(content, manifest, directory, progress)
                        .await?;
                }
                // Nothing is made yet: an empty file would be in the way of the next try.
                (SourceManifest::Files(_), ExportTo::Archive(_)) => {
                    return Err(RunError::WrongTarget {
                        id: snapshot.id.clone(),
                        source_kind: "files",
                        target: "an archive of mongodump; --dir DIR writes its files",
                    });
                }
            }
            account.figures.read_bytes = Some(progress.snapshot().done_bytes);
            Ok(())
        })
        .await;
        open.end(result).await
    }

    async fn export_mongodb(
        &self,
        content: &dyn Content,
        manifest: &MongodbManifest,
        to: ExportTo<'_>,
        progress: &Progress,
    ) -> Result<(), ExportError> {
        match to {
            ExportTo::Directory(directory) => {
                export::export_directory(content, directory, progress, &self.cancel).await
            }
            ExportTo::Archive(file) => {
                let archive = archive(file).await?;
                export::export_archive(content, manifest, archive, progress, &self.cancel).await
            }
        }
    }

    /// The files of a backup below the directory, each by the path it had: as a restore to a path,
    /// into a directory that must be empty.
    async fn export_files(
        &self,
        content: &dyn Content,
        manifest: &FilesManifest,
        directory: &Path,
        progress: &Progress,
    ) -> Result<(), RunError> {
        export::make_empty(directory)
            .await
            .map_err(|error| RunError::source(&error))?;
        let path = std::path::absolute(directory).map_err(|cause| {
            RunError::source(&ExportError::Write {
                path: directory.to_owned(),
                cause,
            })
        })?;
        let request = files::RestoreFilesRequest {
            target: files::RestoreTarget::Path(path),
            include: Vec::new(),
            on_conflict: files::OnConflict::Fail,
        };
        let report = files::restore_files(content, manifest, &request, progress, &self.cancel)
            .await
            .map_err(|error| RunError::source(&error))?;
        for (what, list) in [
            ("Not everything could be made.", &report.skipped),
            ("Not all metadata could be set.", &report.warnings),
        ] {
            if !list.is_empty() {
                tracing::warn!(paths = %list, "{what}");
            }
        }
        Ok(())
    }
}

async fn archive(file: &Path) -> Result<Box<dyn AsyncWrite + Send + Unpin>, ExportError> {
    let failed = |cause| ExportError::Write {
        path: file.to_owned(),
        cause,
    };
    if file == Path::new("-") {
        use std::os::fd::AsFd;
        let stdout = std::io::stdout().as_fd().try_clone_to_owned();
        let stdout = stdout.map_err(failed)?;
        return Ok(Box::new(tokio::fs::File::from_std(stdout.into())));
    }
    // One that is there is not overwritten: it may be the only other copy.
    let created = tokio::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .await;
    match created {
        Ok(file) => Ok(Box::new(file)),
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(ExportError::Exists(file.to_owned()))
        }
        Err(cause) => Err(failed(cause)),
    }
}
