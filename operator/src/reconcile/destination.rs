//! Reconciles a Destination: whether its repository can be reached and opened, and what it holds.

use holdfast_crds::{Destination, DestinationStatus};
use holdfast_engine::class::Classified;
use holdfast_engine::destination as storage;
use holdfast_engine::repository::{Repository, RepositoryError};
use jiff::Timestamp;

use crate::host::{Host, Name};
use crate::reconcile::conditions::{self, READY, Verdict};
use crate::reconcile::{dereference, memory};
use crate::run::{RunError, Runner};

/// What was seen of a destination.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Whether it can be used: it opens, or is empty and can be reached.
    pub up: bool,
    /// Backups in it, those of others not counted.
    pub backups: Option<u64>,
    /// Bytes stored.
    pub stored_bytes: Option<u64>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// Looks at a destination and writes its status.
///
/// # Errors
/// When it is not declared any more, or the state database fails. A destination that cannot be used
/// is no error here: it is in the status.
pub async fn reconcile<H: Host>(
    runner: &Runner<H>,
    name: &Name,
    now: Timestamp,
) -> Result<Seen, RunError> {
    let declared = runner.host.declared();
    let object = declared
        .destinations
        .get(name)
        .ok_or_else(|| RunError::UnknownDestination(name.clone()))?;
    let record = memory::observe(runner, "Destination", name, &object.spec, now).await?;
    let previous: DestinationStatus = memory::status(&record);
    let looked = look(runner, name, object).await;
    let mut seen = Seen::default();
    let mut status = DestinationStatus {
        observed_generation: Some(record.generation),
        ..previous.clone()
    };
    let verdict = match looked {
        Ok(Some(found)) => {
            seen = Seen {
                up: true,
                backups: Some(found.backups),
                stored_bytes: Some(found.stored_bytes),
                problem: None,
            };
            status.repository_id = Some(found.id);
            status.backups = Some(found.backups);
            status.stored_bytes = Some(found.stored_bytes);
            Verdict::yes("Reachable", "The repository is open.")
        }
        Ok(None) => {
            seen.up = true;
            seen.backups = Some(0);
            Verdict::yes(
                "Reachable",
                "The place can be reached; the first backup makes the repository.",
            )
        }
        Err(error) => {
            seen.problem = Some(error.to_string());
            Verdict::no(error.reason(), error.to_string())
        }
    };
    status.conditions = conditions::set(
        &previous.conditions,
        READY,
        verdict,
        Some(record.generation),
        now,
    );
    memory::write_status(&runner.journal, "Destination", name, &record, &status).await?;
    Ok(seen)
}

struct Found {
    id: String,
    backups: u64,
    stored_bytes: u64,
}

/// What the repository holds; `None` when there is none yet and one can be made.
async fn look<H: Host>(
    runner: &Runner<H>,
    name: &Name,
    object: &Destination,
) -> Result<Option<Found>, RunError> {
    let host = runner.host.as_ref();
    match runner.repositories.open(host, name).await {
        Ok(repository) => {
            let listed = async {
                let snapshots = repository.snapshots().await?;
                let backups = snapshots
                    .iter()
                    .filter(|snapshot| !snapshot.foreign)
                    .count();
                Ok::<_, RunError>(Found {
                    id: repository.id(),
                    backups: u64::try_from(backups).unwrap_or(u64::MAX),
                    stored_bytes: repository.stored_bytes().await?,
                })
            }
            .await;
            if listed.is_err() {
                runner.repositories.close(name).await;
            }
            listed.map(Some)
        }
        Err(RunError::Repository(RepositoryError::NotARepository { .. })) => {
            let config =
                dereference::destination(host, &name.namespace, &name.name, &object.spec).await?;
            let place = storage::connect(&config.storage).await?;
            place.probe().await?;
            Repository::vacant(&place).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
