//! Backups that somebody asked for, after their run: where their restore points are, and whether they
//! are still anywhere. Such an object is its author's: it is told of, labelled, and never taken away.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_crds::{Backup, BackupCopy, BackupStatus};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::catalogue::Seen;
use super::events::CONTROLLER;
use super::host::{BACKUP_ID_LABEL, is_mirror};
use super::job::{LABEL_POLICY, label_value};
use super::operator::{Operator, PassError};
use crate::host::{Host, Name};
use crate::reconcile::backup;
use crate::run::RunError;

/// How many characters of an id the label holds.
pub(super) const ID_LENGTH: usize = 16;

/// The beginning of an id, as the label holds it.
pub(super) fn short(id: &str) -> String {
    id.chars().take(ID_LENGTH).collect()
}

/// Has the objects say what the destinations say. `found` are the copies of every restore point that
/// was seen.
///
/// # Errors
/// When the API server refuses, or cannot be reached.
pub(super) async fn refresh(
    operator: &Operator,
    known: &[Arc<Backup>],
    found: &BTreeMap<String, Vec<BackupCopy>>,
    seen: &Seen,
    now: Timestamp,
) -> Result<(), PassError> {
    for object in known {
        if is_mirror(object) || object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = Name::of(object.as_ref());
        if let Some(labels) = missing_labels(object) {
            label(operator, &name, &labels).await?;
        }
        if let Some(status) = stands_otherwise(object, found, seen, now) {
            let host = &operator.host;
            let spec = serde_json::Value::Null;
            let record = host
                .observe_object("Backup", &name, spec, now, true)
                .await?;
            let status = serde_json::to_value(status)
                .map_err(|error| RunError::Panicked(error.to_string()))?;
            host.write_status("Backup", &name, &record, status).await?;
        }
    }
    Ok(())
}

/// The status that is not written yet, if what is written is not so any more. What cannot be seen now
/// changes nothing.
fn stands_otherwise(
    object: &Backup,
    found: &BTreeMap<String, Vec<BackupCopy>>,
    seen: &Seen,
    now: Timestamp,
) -> Option<BackupStatus> {
    let status = object.status.as_ref()?;
    let copies = found.get(status.id.as_ref()?);
    let certain = match copies {
        Some(_) => !seen.hides(object),
        None => seen.covers(object),
    };
    if !certain {
        return None;
    }
    let copies = copies.map(Vec::as_slice).unwrap_or_default();
    let wanted = backup::refreshed(status, copies, now);
    (wanted != *status).then_some(wanted)
}

/// Our labels, if one of them is missing or wrong.
fn missing_labels(object: &Backup) -> Option<BTreeMap<&'static str, String>> {
    let id = object.status.as_ref()?.id.as_ref()?;
    let labels = BTreeMap::from([
        (BACKUP_ID_LABEL, short(id)),
        (LABEL_POLICY, label_value(&object.spec.policy)),
    ]);
    let there =
        |(label, value): (&&'static str, &String)| object.labels().get(*label) == Some(value);
    (!labels.iter().all(there)).then_some(labels)
}

async fn label(
    operator: &Operator,
    name: &Name,
    labels: &BTreeMap<&'static str, String>,
) -> Result<(), PassError> {
    let api: Api<Backup> = Api::namespaced(operator.host.client.clone(), &name.namespace);
    let patch = json!({"metadata": {"labels": labels}});
    let parameters = PatchParams {
        field_manager: Some(CONTROLLER.to_owned()),
        ..PatchParams::default()
    };
    match api
        .patch(&name.name, &parameters, &Patch::Merge(&patch))
        .await
    {
        Ok(answer) => {
            operator.host.backups.put(answer);
            Ok(())
        }
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
        Err(error) => Err(RunError::api("label", "Backup", name, &error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "before", "uid": "u"},
            "spec": {"policy": "shop"},
            "status": {
                "id": "ab".repeat(32), "copies": [{"destination": "box", "id": "ab".repeat(32)}],
                "conditions": [{
                    "type": "Succeeded", "status": "True", "reason": "Completed",
                    "message": "The backup is complete.",
                    "lastTransitionTime": "2026-03-01T10:15:00Z",
                }],
            },
        }))
        .unwrap()
    }

    fn found(destinations: &[&str]) -> BTreeMap<String, Vec<BackupCopy>> {
        let copies = destinations
            .iter()
            .map(|&name| BackupCopy {
                destination: name.to_owned(),
                id: "ab".repeat(32),
                verified_time: None,
            })
            .collect();
        BTreeMap::from([("ab".repeat(32), copies)])
    }

    #[test]
    fn it_says_where_it_is_and_that_it_is_gone() {
        let now = "2026-03-02T00:00:00Z".parse().unwrap();
        let here = Seen::of(&["box", "far"], &[]);
        let after = |object: &Backup, found: &BTreeMap<_, _>, seen: &Seen| {
            stands_otherwise(object, found, seen, now)
        };
        let mut object = backup();
        assert_eq!(after(&object, &found(&["box"]), &here), None);
        let copied = after(&object, &found(&["box", "far"]), &here).unwrap();
        assert_eq!(copied.copies.len(), 2);
        // What cannot be seen may still be there.
        let away = Seen::of(&[], &["box"]);
        assert_eq!(after(&object, &BTreeMap::new(), &away), None);
        let unnamed = Seen::of(&["far"], &[]);
        assert_eq!(after(&object, &BTreeMap::new(), &unnamed), None);

        let pruned = after(&object, &BTreeMap::new(), &here).unwrap();
        let condition = &pruned.conditions[0];
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_str()),
            ("True", "Pruned")
        );
        assert!(pruned.copies.is_empty() && pruned.id.is_some());
        object.status = Some(pruned);
        assert_eq!(after(&object, &BTreeMap::new(), &here), None);
        let back = after(&object, &found(&["box"]), &here).unwrap();
        assert_eq!(back.conditions[0].reason, "Completed");
    }

    #[test]
    fn it_is_found_by_its_policy_and_its_id() {
        let mut object = backup();
        let labels = missing_labels(&object).unwrap();
        assert_eq!(labels[LABEL_POLICY], "shop");
        assert_eq!(labels[BACKUP_ID_LABEL], "abababababababab");
        for (label, value) in labels {
            object.labels_mut().insert(label.to_owned(), value);
        }
        assert_eq!(missing_labels(&object), None);
        assert!(!is_mirror(&object));
    }
}
