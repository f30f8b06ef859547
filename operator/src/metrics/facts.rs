//! What the reconcilers saw of policies and destinations, and what the journal remembers of it.

use jiff::Timestamp;
use serde_json::Value;

use crate::journal::ObjectRecord;

/// What was last seen of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFacts {
    /// Whether it is suspended.
    pub suspended: bool,
    /// When the next run is due.
    pub next_run: Option<Timestamp>,
    /// The moment that the newest backup in any destination shows.
    pub newest_backup: Option<Timestamp>,
}

/// What was last seen of a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationFacts {
    /// Whether its repository could be opened; absent while nobody tried.
    pub up: Option<bool>,
    /// How many backups of Holdfast it holds.
    pub backups: Option<u64>,
    /// How many bytes it takes.
    pub stored_bytes: Option<u64>,
    /// When it was last checked without finding damage.
    pub last_check: Option<Timestamp>,
}

impl PolicyFacts {
    /// What the journal remembers of a policy.
    pub(super) fn remembered(record: &ObjectRecord) -> Self {
        Self {
            suspended: record.spec.get("suspend").and_then(Value::as_bool) == Some(true),
            next_run: time(&record.status, "/nextRunTime"),
            newest_backup: time(&record.status, "/lastBackup/time"),
        }
    }
}

impl DestinationFacts {
    /// What the journal remembers of a destination.
    pub(super) fn remembered(record: &ObjectRecord) -> Self {
        let status = &record.status;
        let ready = status
            .get("conditions")
            .and_then(Value::as_array)
            .and_then(|conditions| {
                conditions
                    .iter()
                    .find(|condition| condition.get("type").is_some_and(|word| word == "Ready"))
            })
            .and_then(|condition| condition.get("status"))
            .and_then(Value::as_str);
        Self {
            up: match ready {
                Some("True") => Some(true),
                Some("False") => Some(false),
                _ => None,
            },
            backups: status.get("backups").and_then(Value::as_u64),
            stored_bytes: status.get("storedBytes").and_then(Value::as_u64),
            last_check: time(status, "/lastCheck"),
        }
    }
}

fn time(status: &Value, pointer: &str) -> Option<Timestamp> {
    status.pointer(pointer)?.as_str()?.parse().ok()
}
