//! Reconciles a Destination: whether its repository can be reached and opened, and what it holds.

use holdfast_crds::DestinationStatus;
use jiff::Timestamp;

use crate::host::{Host, Name, View};
use crate::reconcile::conditions::{self, READY, Verdict};
use crate::reconcile::look::{Depth, Looked};
use crate::reconcile::memory;
use crate::run::RunError;

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
    view: &View<H>,
    name: &Name,
    now: Timestamp,
) -> Result<Seen, RunError> {
    let declared = view.host.declared();
    let object = declared
        .destinations
        .get(name)
        .ok_or_else(|| RunError::UnknownDestination(name.clone()))?;
    let record = memory::observe(view, "Destination", name, &object.spec, now).await?;
    let previous: DestinationStatus = memory::status(&record);
    let looked = view
        .host
        .look(&view.repositories, name, Depth::Everything)
        .await;
    let mut seen = Seen::default();
    let mut status = DestinationStatus {
        observed_generation: Some(record.generation),
        ..previous.clone()
    };
    let verdict = match looked.as_ref() {
        Looked::Open {
            repository_id,
            snapshots,
            stored_bytes,
        } => {
            let backups = snapshots.iter().filter(|one| !one.foreign).count();
            seen = Seen {
                up: true,
                backups: u64::try_from(backups).ok(),
                stored_bytes: *stored_bytes,
                problem: None,
            };
            status.repository_id = Some(repository_id.clone());
            status.backups = seen.backups;
            status.stored_bytes = stored_bytes.or(status.stored_bytes);
            Verdict::yes("Reachable", "The repository is open.")
        }
        Looked::Empty => {
            seen.up = true;
            seen.backups = Some(0);
            Verdict::yes(
                "Reachable",
                "The place can be reached; the first backup makes the repository.",
            )
        }
        Looked::Unusable {
            reason, message, ..
        } => {
            seen.problem = Some(message.clone());
            Verdict::no(reason, message.clone())
        }
    };
    status.conditions = conditions::set(
        &previous.conditions,
        READY,
        verdict,
        Some(record.generation),
        now,
    );
    memory::write_status(view, "Destination", name, &record, &status).await?;
    Ok(seen)
}
