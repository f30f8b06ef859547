//! `holdfast export BACKUP --dir DIR | --archive FILE`.

use std::path::Path;

use holdfast_engine::progress::Progress;
use serde_json::json;

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
    let stdout = Path::new("-");
    if let Some(file) = arguments.archive.as_deref()
        && file != stdout
        && file.exists()
    {
        return Err(Failure::Usage(format!(
            "cannot create {}: it is there already; choose a file that does not exist yet",
            file.display()
        )));
    }
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
        (Some(directory), _) => (ExportTo::Directory(directory), directory.display()),
        (None, Some(file)) => (ExportTo::Archive(file), file.display()),
        (None, None) => {
            return Err(Failure::Usage(
                "say where to: --dir DIR or --archive FILE".to_owned(),
            ));
        }
    };
    let place = place.to_string();
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
