//! The memory of one object: when it was first seen, its generation, its status. The host keeps it.

use holdfast_crds::DEFAULT_NAMESPACE;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::{Host, Name, View};
use crate::journal::{ObjectKey, ObjectRecord};
use crate::run::RunError;

/// The key of an object.
#[must_use]
pub fn key(kind: &str, name: &Name) -> ObjectKey {
    let namespace = if name.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        name.namespace.as_str()
    };
    ObjectKey::new(kind, namespace, name.name.as_str())
}

/// Takes note that an object is declared, and returns what is known of it. A view that only looks
/// writes nothing, and takes what is new as seen now.
///
/// # Errors
/// When the memory fails.
pub async fn observe<H: Host>(
    view: &View<H>,
    kind: &'static str,
    name: &Name,
    spec: &impl Serialize,
    now: Timestamp,
) -> Result<ObjectRecord, RunError> {
    let spec = serde_json::to_value(spec).map_err(|error| RunError::Panicked(error.to_string()))?;
    view.host
        .observe_object(kind, name, spec, now, !view.only_looks)
        .await
}

/// The status that was written last, or an empty one. One that an older version wrote and that
/// cannot be read is written anew.
#[must_use]
pub fn status<S: DeserializeOwned + Default>(record: &ObjectRecord) -> S {
    serde_json::from_value(record.status.clone()).unwrap_or_default()
}

/// Writes a status; says whether it changed.
///
/// # Errors
/// When the memory fails.
pub async fn write_status<H: Host>(
    view: &View<H>,
    kind: &'static str,
    name: &Name,
    record: &ObjectRecord,
    status: &impl Serialize,
) -> Result<bool, RunError> {
    let status =
        serde_json::to_value(status).map_err(|error| RunError::Panicked(error.to_string()))?;
    view.host.write_status(kind, name, record, status).await
}
