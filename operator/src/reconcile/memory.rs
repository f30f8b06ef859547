//! The memory of one object in the state database: when it was first seen, its generation, its
//! status.

use holdfast_crds::DEFAULT_NAMESPACE;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::{Host, Name};
use crate::journal::{Journal, ObjectKey, ObjectRecord};
use crate::run::record::on_journal;
use crate::run::{RunError, Runner};

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

/// Takes note that an object is declared, and returns what is known of it. A runner that only looks
/// writes nothing, and takes what is new as seen now.
///
/// # Errors
/// When the database fails.
pub async fn observe<H: Host>(
    runner: &Runner<H>,
    kind: &str,
    name: &Name,
    spec: &impl Serialize,
    now: Timestamp,
) -> Result<ObjectRecord, RunError> {
    let key = key(kind, name);
    let spec = serde_json::to_value(spec).map_err(|error| RunError::Panicked(error.to_string()))?;
    let only_looks = runner.only_looks;
    on_journal(&runner.journal, move |journal| {
        if !only_looks {
            return journal.observe_object(&key, &spec, now);
        }
        let known = journal
            .object(&key)?
            .filter(|record| record.deleted.is_none());
        Ok(match known {
            Some(record) if record.spec == spec => record,
            Some(record) => ObjectRecord {
                generation: record.generation.saturating_add(1),
                spec,
                spec_seen: now,
                ..record
            },
            None => ObjectRecord {
                uid: String::new(),
                first_seen: now,
                generation: 1,
                spec,
                spec_seen: now,
                status: serde_json::Value::Null,
                deleted: None,
            },
        })
    })
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
/// When the database fails.
pub async fn write_status(
    journal: &Journal,
    kind: &str,
    name: &Name,
    record: &ObjectRecord,
    status: &impl Serialize,
) -> Result<bool, RunError> {
    let key = key(kind, name);
    let uid = record.uid.clone();
    let status =
        serde_json::to_value(status).map_err(|error| RunError::Panicked(error.to_string()))?;
    on_journal(journal, move |journal| {
        journal.set_object_status(&key, &uid, &status)
    })
    .await
}
