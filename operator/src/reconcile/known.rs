//! The repository that was seen at a destination before. Its loss is not repaired by an empty one, and
//! nothing is written to another that took its place.

use holdfast_crds::DestinationStatus;
use jiff::Timestamp;

use crate::host::{Host, Name, View};
use crate::journal::ObjectRecord;
use crate::reconcile::memory;
use crate::run::RunError;

/// The id of the repository that was seen, as the object remembers it. A destination whose spec has
/// changed may well lie elsewhere now: nothing is known of it.
#[must_use]
pub fn repository(record: &ObjectRecord, status: &DestinationStatus) -> Option<String> {
    status
        .repository_id
        .clone()
        .filter(|_| status.observed_generation == Some(record.generation))
}

/// The same of a declared destination; `None` of one that is not declared any more.
///
/// # Errors
/// When the memory fails.
pub async fn recall<H: Host>(view: &View<H>, name: &Name) -> Result<Option<String>, RunError> {
    let declared = view.host.declared();
    let Some(object) = declared.destinations.get(name) else {
        return Ok(None);
    };
    let record = memory::observe(view, "Destination", name, &object.spec, Timestamp::now()).await?;
    Ok(repository(&record, &memory::status(&record)))
}

/// Remembers which repository lies at a destination of which none was known.
///
/// # Errors
/// When the memory fails.
pub async fn remember<H: Host>(view: &View<H>, name: &Name, id: String) -> Result<(), RunError> {
    let declared = view.host.declared();
    let Some(object) = declared.destinations.get(name) else {
        return Ok(());
    };
    let record = memory::observe(view, "Destination", name, &object.spec, Timestamp::now()).await?;
    let status = DestinationStatus {
        repository_id: Some(id),
        observed_generation: Some(record.generation),
        ..memory::status(&record)
    };
    memory::write_status(view, "Destination", name, &record, &status).await?;
    Ok(())
}
