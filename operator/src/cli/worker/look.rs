//! What the destinations of a work hold, told to the operator.

use std::collections::BTreeMap;
use std::io::Write;

use holdfast_crds::Storage;
use holdfast_engine::destination as storage;
use holdfast_engine::repository::{Repository, RepositoryError};

use crate::host::files::FilesHost;
use crate::host::kubernetes::job::{DestinationFigures, TaskKind, Work, WorkListing};
use crate::host::{Host, Name};
use crate::reconcile::dereference;
use crate::run::{RunError, Runner};

/// Opens a destination, or finds that it is empty and can be written.
///
/// # Errors
/// When it cannot be used.
pub(super) async fn look(runner: &Runner<FilesHost>, name: &Name) -> Result<(), RunError> {
    let host = runner.host.as_ref();
    match runner.repositories.open(host, name).await {
        Err(RunError::Repository(RepositoryError::NotARepository { .. })) => {
            let declared = host.declared();
            let object = declared
                .destinations
                .get(name)
                .ok_or_else(|| RunError::UnknownDestination(name.clone()))?;
            let config =
                dereference::destination(host, &name.namespace, &name.name, &object.spec).await?;
            storage::connect(&config.storage).await?.probe().await?;
            print(&WorkListing::empty(&name.name));
            Ok(())
        }
        opened => opened.map(drop),
    }
}

/// What is known of the destinations that were opened. Of those on claims, and of all when that was
/// the task, the listing is printed too.
pub(super) async fn figures(
    work: &Work,
    runner: &Runner<FilesHost>,
) -> BTreeMap<String, DestinationFigures> {
    let mut figures = BTreeMap::new();
    for (name, repository) in runner.repositories.opened().await {
        let name = name.name;
        let on_claim = work
            .destinations
            .get(&name)
            .is_some_and(|one| matches!(one.spec.storage, Storage::Local(_)));
        let whole = on_claim || work.task.kind() == TaskKind::Look;
        let listing = match listing(&name, &repository, whole).await {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(destination = name, %error, "A destination could not be listed.");
                continue;
            }
        };
        if whole {
            print(&listing);
        }
        figures.insert(
            name,
            DestinationFigures {
                repository_id: listing.repository_id,
                backups: Some(listing.backups),
                foreign: Some(listing.foreign),
                stored_bytes: listing.stored_bytes,
            },
        );
    }
    figures
}

async fn listing(
    name: &str,
    repository: &Repository,
    whole: bool,
) -> Result<WorkListing, RunError> {
    let stored_bytes = if whole {
        Some(repository.stored_bytes().await?)
    } else {
        None
    };
    let snapshots = repository.snapshots().await?;
    Ok(WorkListing::of(
        name,
        repository.id(),
        stored_bytes,
        snapshots,
    ))
}

fn print(listing: &WorkListing) {
    let written = listing
        .lines()
        .map_err(std::io::Error::from)
        .and_then(|lines| std::io::stdout().lock().write_all(lines.as_bytes()));
    if let Err(error) = written {
        tracing::error!(%error, "A listing could not be printed.");
    }
}
