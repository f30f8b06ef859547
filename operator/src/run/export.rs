//! Writes a backup out in the form of its own tools.

use std::path::Path;

use holdfast_engine::export;
use holdfast_engine::manifest::SourceManifest;
use holdfast_engine::progress::Progress;
use tokio::io::AsyncWrite;

use crate::host::Host;
use crate::journal::{NewRun, RunKind};
use crate::run::locate::Located;
use crate::run::record::{Open, begin, caught};
use crate::run::{RunError, Runner};

/// Where a backup is written.
pub enum ExportTo<'a> {
    /// A directory that gets the files of the backup: mongodump's own, for a MongoDB.
    Directory(&'a Path),
    /// A stream that gets a mongodump archive.
    Archive(Box<dyn AsyncWrite + Send + Unpin>),
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
            let SourceManifest::Mongodb(manifest) = &manifest.source else {
                return Err(RunError::WrongTarget {
                    id: snapshot.id.clone(),
                    source_kind: "files",
                    target: "mongodump's form; `holdfast restore --to-path DIR` writes its files",
                });
            };
            let content = repository.content(snapshot).await?;
            let content = content.as_ref();
            let exported = match to {
                ExportTo::Directory(directory) => {
                    export::export_directory(content, directory, progress, &self.cancel).await
                }
                ExportTo::Archive(writer) => {
                    export::export_archive(content, manifest, writer, progress, &self.cancel).await
                }
            };
            exported.map_err(|error| RunError::source(&error))?;
            account.figures.read_bytes = Some(progress.snapshot().done_bytes);
            Ok(())
        })
        .await;
        open.end(result).await
    }
}
