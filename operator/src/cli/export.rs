//! `holdfast export BACKUP --dir DIR | --archive FILE`.

use std::path::Path;

use holdfast_engine::progress::Progress;
use serde_json::json;
use tokio::io::AsyncWrite;

use super::arguments::{ExportArgs, GlobalArgs};
use super::failure::Failure;
use super::progress::Shown;
use super::session::Session;
use super::{cluster, print};
use crate::host::Host;
use crate::run::export::ExportTo;

/// Writes one backup out in mongodump's form.
pub(super) async fn export(global: &GlobalArgs, arguments: ExportArgs) -> Result<(), Failure> {
    if arguments.files.kubernetes {
        let session = cluster::session(global, &arguments.files).await?;
        return write(&session, &arguments).await;
    }
    let session = Session::open(global, &arguments.files)?;
    write(&session, &arguments).await
}

async fn write<H: Host>(session: &Session<H>, arguments: &ExportArgs) -> Result<(), Failure> {
    let located = session
        .locate(
            &arguments.backup,
            arguments.policy.as_deref(),
            arguments.destination.as_deref(),
        )
        .await?
        .into_iter()
        .next()
        .ok_or_else(|| Failure::Failed("the backup was found nowhere".to_owned()))?;
    let progress = Progress::new();
    let shown = Shown::new("export", progress.clone());
    let (to, place) = match (&arguments.dir, &arguments.archive) {
        (Some(directory), _) => (
            ExportTo::Directory(directory),
            directory.display().to_string(),
        ),
        (None, Some(file)) => (
            ExportTo::Archive(archive(file).await?),
            file.display().to_string(),
        ),
        (None, None) => {
            return Err(Failure::Usage(
                "say where to: --dir DIR or --archive FILE".to_owned(),
            ));
        }
    };
    let result = session.runner.export(&located, to, &progress).await;
    drop(shown);
    result.map_err(|error| session.failed(error))?;
    let id = located.snapshot.identity();
    if place == "-" {
        return Ok(());
    }
    print::one(
        arguments.output.output,
        &json!({"exported": id, "destination": located.destination.name, "to": place}),
        || format!("Backup {id} was exported to {place}.\n"),
    )
}

async fn archive(file: &Path) -> Result<Box<dyn AsyncWrite + Send + Unpin>, Failure> {
    if file == Path::new("-") {
        use std::os::fd::AsFd;
        let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
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
        Err(error) => Err(Failure::Usage(format!(
            "cannot create {}: {error}; choose a file that does not exist yet",
            file.display()
        ))),
    }
}
