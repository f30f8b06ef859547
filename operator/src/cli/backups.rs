//! `holdfast backups`: the restore points that are in the destinations.

use super::arguments::{BackupsArgs, GlobalArgs};
use super::failure::Failure;
use super::session::Session;
use super::{cluster, output, print, tables};
use crate::catalogue::{self, Listing};
use crate::host::Name;
use crate::run::RunError;
use holdfast_engine::repository::RepositoryError;

/// Lists restore points. What could be read is printed although a destination could not; the exit
/// code is 1 then.
pub(super) async fn backups(global: &GlobalArgs, arguments: BackupsArgs) -> Result<(), Failure> {
    if arguments.files.kubernetes {
        return cluster::backups(&arguments).await;
    }
    let session = Session::open(global, &arguments.files)?;
    let policy = arguments
        .policy
        .as_deref()
        .map(|policy| session.name(policy));
    let destinations: Vec<Name> = match (&arguments.destination, &policy) {
        (Some(destination), _) => vec![session.destination(destination)?],
        (None, Some(policy)) if session.declared.policies.contains_key(policy) => session
            .declared
            .destinations_of(policy)
            .into_iter()
            .map(|(name, _)| name)
            .collect(),
        // Backups of a policy that is declared no more are still there.
        (None, _) => session.declared.destinations.keys().cloned().collect(),
    };
    if destinations.is_empty() {
        return Err(session.no_destination());
    }
    let mut listings = Vec::new();
    let mut failed = false;
    for destination in destinations {
        match list(&session, &destination).await {
            Ok(snapshots) => listings.push(Listing {
                destination,
                snapshots,
            }),
            Err(error) => {
                failed = true;
                eprintln!("error: the backups at {destination} could not be listed: {error}");
            }
        }
    }
    let mut backups = catalogue::backups(&listings);
    if let Some(policy) = &policy {
        backups.retain(|backup| {
            backup.metadata.namespace.as_deref() == Some(policy.namespace.as_str())
                && backup.spec.policy == policy.name
        });
    }
    print::list(arguments.output.output, &backups, || {
        output::backups(&backups)
    })?;
    if arguments.foreign {
        let foreign = catalogue::foreign(&listings);
        print::table(&tables::foreign(&foreign))?;
    }
    if failed {
        Err(Failure::Told(1))
    } else {
        Ok(())
    }
}

async fn list(
    session: &Session,
    destination: &Name,
) -> Result<Vec<holdfast_engine::repository::Snapshot>, RunError> {
    let opened = session
        .runner
        .repositories
        .open(session.host.as_ref(), destination)
        .await;
    match opened {
        Ok(repository) => Ok(repository.snapshots().await?),
        // The first backup makes it: until then it holds none.
        Err(RunError::Repository(RepositoryError::NotARepository { .. })) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
