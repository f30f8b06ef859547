//! Tables of what only the command line shows: objects with their conditions, snapshots of others.

use comfy_table::Table;
use holdfast_engine::repository::Snapshot;
use serde_json::Value;

use super::output::{human, table};
use crate::host::Name;
use crate::plan::action::short;

/// Snapshots of others, one a line.
pub(super) fn foreign(snapshots: &[(&Name, &Snapshot)]) -> Table {
    let rows = snapshots
        .iter()
        .map(|(destination, snapshot)| {
            [
                short(&snapshot.id).to_owned(),
                human::time(snapshot.time),
                snapshot.hostname.clone(),
                snapshot.paths.join(","),
                destination.to_string(),
            ]
        })
        .collect();
    table(["FOREIGN ID", "TIME", "HOST", "PATHS", "DESTINATION"], rows)
}

/// Objects and how they stand, one a line.
pub(super) fn objects(objects: &[Value]) -> Table {
    let rows = objects
        .iter()
        .map(|object| {
            let text = |pointer: &str| {
                object
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let condition = |field: &str| text(&format!("/status/conditions/0/{field}"));
            [
                text("/kind"),
                format!("{}/{}", text("/metadata/namespace"), text("/metadata/name")),
                format!("{}={}", condition("type"), condition("status")),
                condition("reason"),
                human::first_line(&condition("message")).to_owned(),
            ]
        })
        .collect();
    table(["KIND", "NAME", "CONDITION", "REASON", "MESSAGE"], rows)
}
