//! Reconciles a Destination: whether its repository can be reached and opened, and what it holds.

use holdfast_crds::DestinationStatus;
use jiff::Timestamp;

use crate::host::{Host, Name, View};
use crate::plan::Action;
use crate::plan::policy::writable_place;
use crate::reconcile::conditions::{self, READY, Verdict};
use crate::reconcile::look::{Depth, Looked};
use crate::reconcile::{known, memory};
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
    let known = known::repository(&record, &previous);
    let mut status = DestinationStatus {
        observed_generation: Some(record.generation),
        repository_id: known.clone(),
        ..previous.clone()
    };
    // Another repository in the place of the known one, or none: that is told until somebody clears it
    // up, and never taken for what is meant.
    let place = writable_place(&name.name, &looked.place(), known.as_deref());
    let (verdict, seen) = if let Err(Action::Refuse {
        reason, message, ..
    }) = place
    {
        let seen = Seen {
            problem: Some(message.clone()),
            ..Seen::default()
        };
        (Verdict::no(&reason, message), seen)
    } else {
        judge(&looked, &mut status)
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

/// How a destination stands that may be used as far as its history goes; fills in the figures.
fn judge(looked: &Looked, status: &mut DestinationStatus) -> (Verdict, Seen) {
    match looked {
        Looked::Open {
            repository_id,
            snapshots,
            stored_bytes,
        } => {
            let backups = snapshots.iter().filter(|one| !one.foreign).count();
            let seen = Seen {
                up: true,
                backups: u64::try_from(backups).ok(),
                stored_bytes: *stored_bytes,
                problem: None,
            };
            status.repository_id = Some(repository_id.clone());
            status.backups = seen.backups;
            status.stored_bytes = stored_bytes.or(status.stored_bytes);
            (Verdict::yes("Reachable", "The repository is open."), seen)
        }
        Looked::Empty => (
            Verdict::yes(
                "Reachable",
                "The place can be reached; the first backup makes the repository.",
            ),
            Seen {
                up: true,
                backups: Some(0),
                ..Seen::default()
            },
        ),
        Looked::Unusable {
            reason, message, ..
        } => (
            Verdict::no(reason, message.clone()),
            Seen {
                problem: Some(message.clone()),
                ..Seen::default()
            },
        ),
    }
}
