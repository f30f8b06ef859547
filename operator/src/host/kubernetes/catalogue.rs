//! The catalogue as objects: the restore points of a policy, the newest of them, as Backups that
//! mirror what lies in the destinations. Only differences are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_crds::{Backup, BackupCopy};
use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use super::asked;
use super::events::CONTROLLER;
use super::host::{BACKUP_ID_LABEL, is_mirror};
use super::job::{LABEL_POLICY, label_value};
use super::operator::{Operator, PassError};
use super::record::{MANAGED_BY, MANAGER};
use crate::catalogue::{self, Listing};
use crate::host::{Host, Name};
use crate::reconcile::look::{Depth, Looked};
use crate::run::RunError;

/// How the labels begin that name the destinations of a backup.
const DESTINATION_LABEL: &str = "holdfast.dev/destination.";

/// What leads from the objects that are there to those that are wanted.
#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    /// Restore points without an object.
    pub create: Vec<Backup>,
    /// Objects whose labels or status are not right: as they are to be, with whether the labels are
    /// others.
    pub change: Vec<(Backup, bool)>,
    /// Objects without a restore point, or beyond the number that is shown.
    pub delete: Vec<Name>,
}

/// Shows the restore points of a policy as objects.
///
/// # Errors
/// When the API server refuses, or cannot be reached.
pub async fn sync(operator: &Operator, policy: &Name) -> Result<(), PassError> {
    let declared = operator.host.declared();
    let mut destinations: Vec<Name> = declared
        .destinations_of(policy)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    if !declared.policies.contains_key(policy) {
        destinations = declared
            .destinations
            .keys()
            .filter(|name| name.namespace == policy.namespace)
            .cloned()
            .collect();
    }
    let mut listings = Vec::new();
    let mut seen = Seen::default();
    let full_name = policy.to_string();
    for destination in destinations {
        let looked = operator
            .host
            .look(&operator.view.repositories, &destination, Depth::Snapshots)
            .await;
        match looked.as_ref() {
            Looked::Open { snapshots, .. } => {
                seen.open.insert(destination.name.clone());
                listings.push(Listing {
                    destination,
                    snapshots: snapshots
                        .iter()
                        .filter(|one| one.policy.as_deref() == Some(full_name.as_str()))
                        .cloned()
                        .collect(),
                });
            }
            Looked::Empty => {}
            Looked::Unusable { .. } => {
                seen.hidden.insert(destination.name);
            }
        }
    }
    let wanted = wanted(&listings, operator.max_backups);
    let known: Vec<Arc<Backup>> = operator
        .host
        .backups
        .all()
        .into_iter()
        .filter(|backup| {
            backup.namespace().as_deref() == Some(policy.namespace.as_str())
                && backup.spec.policy == policy.name
        })
        .collect();
    asked::refresh(operator, &known, &wanted.found, &seen, Timestamp::now()).await?;
    apply(operator, difference(wanted, &known, &seen)).await
}

/// Shows the restore points in a destination whose policies are not declared: what a new cluster
/// finds in an old bucket. Only those of the destination's own namespace: a repository could name
/// any.
///
/// # Errors
/// As [`sync`].
pub async fn sync_undeclared(
    operator: &Operator,
    destination: &Name,
    looked: &Looked,
) -> Result<(), PassError> {
    let Looked::Open { snapshots, .. } = looked else {
        return Ok(());
    };
    let declared = operator.host.declared();
    let mut policies: BTreeSet<Name> = snapshots
        .iter()
        .filter(|snapshot| !snapshot.foreign)
        .filter_map(catalogue::policy_of)
        .collect();
    // Those too whose restore points are gone and whose objects are not.
    policies.extend(
        operator
            .host
            .backups
            .all()
            .iter()
            .filter(|backup| backup.labels().contains_key(BACKUP_ID_LABEL))
            .map(|backup| Name::new(backup.namespace().unwrap_or_default(), &backup.spec.policy)),
    );
    for policy in policies {
        if policy.namespace == destination.namespace && !declared.policies.contains_key(&policy) {
            sync(operator, &policy).await?;
        }
    }
    Ok(())
}

/// Which destinations were looked into, by name.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Those whose repository was listed.
    open: BTreeSet<String>,
    /// Those that cannot be seen now.
    hidden: BTreeSet<String>,
}

impl Seen {
    #[cfg(test)]
    pub(super) fn of(open: &[&str], hidden: &[&str]) -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            open: names(open),
            hidden: names(hidden),
        }
    }

    /// Whether a copy of a backup may be where nobody can look now.
    pub(super) fn hides(&self, backup: &Backup) -> bool {
        copies(backup).any(|copy| self.hidden.contains(copy))
    }

    /// Whether each place that a backup is said to be in was listed, and so are all others that it
    /// could be in.
    pub(super) fn covers(&self, backup: &Backup) -> bool {
        self.hidden.is_empty()
            && copies(backup).next().is_some()
            && copies(backup).all(|copy| self.open.contains(copy))
    }
}

/// The destinations that a backup is said to be in.
fn copies(backup: &Backup) -> impl Iterator<Item = &str> {
    backup
        .status
        .iter()
        .flat_map(|status| &status.copies)
        .map(|copy| copy.destination.as_str())
}

/// The restore points that there are.
#[derive(Debug, Default)]
struct Wanted {
    /// The objects of the newest.
    objects: Vec<Backup>,
    /// Where each of all is, by its id.
    found: BTreeMap<String, Vec<BackupCopy>>,
}

fn wanted(listings: &[Listing], limit: usize) -> Wanted {
    let mut backups = catalogue::backups(listings);
    let copies = |backup: &Backup| {
        let status = backup.status.as_ref()?;
        Some((status.id.clone()?, status.copies.clone()))
    };
    let found = backups.iter().filter_map(copies).collect();
    backups.drain(..backups.len().saturating_sub(limit));
    for backup in &mut backups {
        let Some(status) = &backup.status else {
            continue;
        };
        let id = asked::short(status.id.as_deref().unwrap_or_default());
        let mut labels = BTreeMap::from([
            (MANAGED_BY.to_owned(), MANAGER.to_owned()),
            (BACKUP_ID_LABEL.to_owned(), id),
            (LABEL_POLICY.to_owned(), label_value(&backup.spec.policy)),
        ]);
        for copy in &status.copies {
            labels.insert(destination_label(&copy.destination), "true".to_owned());
        }
        backup.metadata.labels = Some(labels);
        // The API server says when the object was made; the status says when the backup was.
        backup.metadata.creation_timestamp = None;
    }
    Wanted {
        objects: backups,
        found,
    }
}

fn id_of(backup: &Backup) -> Option<String> {
    backup.status.as_ref().and_then(|status| status.id.clone())
}

/// The label that names a destination; its name is cut where a label could not hold it.
fn destination_label(destination: &str) -> String {
    const LIMIT: usize = 63 - "destination.".len();
    let name = if destination.len() <= LIMIT {
        destination.to_owned()
    } else {
        let value = label_value(destination);
        let from = value.len().saturating_sub(LIMIT);
        value
            .get(from..)
            .unwrap_or_default()
            .trim_matches(['-', '.'])
            .to_owned()
    };
    format!("{DESTINATION_LABEL}{name}")
}

/// Compares the restore points with the objects of their policy. Those in destinations that cannot
/// be seen now are left alone.
fn difference(wanted: Wanted, known: &[Arc<Backup>], seen: &Seen) -> Difference {
    // A restore point that somebody asked for has its object already.
    let by_hand: BTreeSet<String> = known
        .iter()
        .filter(|backup| !is_mirror(backup))
        .filter_map(|backup| id_of(backup))
        .collect();
    let mirrors: BTreeMap<String, &Arc<Backup>> = known
        .iter()
        .filter(|backup| is_mirror(backup))
        .map(|backup| (backup.name_any(), backup))
        .collect();
    let mut difference = Difference::default();
    let mut stay = BTreeSet::new();
    for backup in wanted.objects {
        if id_of(&backup).is_some_and(|id| by_hand.contains(&id)) {
            continue;
        }
        let name = backup.name_any();
        match mirrors.get(&name) {
            None => difference.create.push(backup),
            Some(there) => {
                let labels = is_labelled_otherwise(there, &backup);
                let status = value_of(there.as_ref()) != value_of(&backup);
                if (labels || status)
                    && !seen.hides(there)
                    && there.meta().deletion_timestamp.is_none()
                {
                    difference.change.push((backup, labels));
                }
            }
        }
        stay.insert(name);
    }
    for (name, backup) in mirrors {
        let hidden = backup.status.is_none() || seen.hides(backup);
        let leaves = backup.meta().deletion_timestamp.is_some();
        // One that would take its data with it goes by a person's word only, as long as there may be
        // any: a destination that the policy does not name any more was not looked into.
        let gone =
            seen.covers(backup) && id_of(backup).is_some_and(|id| !wanted.found.contains_key(&id));
        let kept = super::finalizer::has(backup.as_ref()) && !gone;
        if !stay.contains(&name) && !hidden && !leaves && !kept {
            difference.delete.push(Name::of(backup.as_ref()));
        }
    }
    difference
}

/// Whether one of our labels is missing or wrong. Those of others are theirs.
fn is_labelled_otherwise(there: &Backup, wanted: &Backup) -> bool {
    let missing = wanted
        .labels()
        .iter()
        .any(|(label, value)| there.labels().get(label) != Some(value));
    let stale = there
        .labels()
        .keys()
        .any(|label| label.starts_with(DESTINATION_LABEL) && !wanted.labels().contains_key(label));
    missing || stale
}

fn value_of(backup: &Backup) -> Value {
    let mut value = serde_json::to_value(&backup.status).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        // Of a mirror both mean nothing.
        fields.remove("lastHandledRequest");
        fields.remove("observedGeneration");
        fields.retain(|_, value| !value.is_null());
    }
    value
}

async fn apply(operator: &Operator, difference: Difference) -> Result<(), PassError> {
    for backup in difference.create.iter().rev() {
        create(operator, backup).await?;
    }
    for (backup, labels) in &difference.change {
        let name = Name::of(backup);
        if *labels {
            relabel(operator, &name, backup).await?;
        }
        write(operator, &name, backup).await?;
    }
    for name in &difference.delete {
        take_away(operator, name).await?;
    }
    Ok(())
}

/// Deletes an object whose restore point is not to be seen any more.
///
/// # Errors
/// As [`sync`].
pub async fn take_away(operator: &Operator, name: &Name) -> Result<(), PassError> {
    let Some(known) = operator.host.backups.get(name) else {
        return Ok(());
    };
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: known.uid(),
            // One that has changed since may promise by now to take its data with it.
            resource_version: known.resource_version(),
        }),
        ..DeleteParams::default()
    };
    match api(operator, name).delete(&name.name, &parameters).await {
        Ok(_) => {
            if !super::finalizer::has(known.as_ref()) {
                operator.host.backups.remove(known);
                tracing::info!(backup = %name, "A restore point is gone, and so is its object.");
            }
            Ok(())
        }
        Err(kube::Error::Api(answer)) if answer.code == 404 => {
            // No watch may ever tell of it.
            operator.host.backups.remove(known);
            Ok(())
        }
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
        Err(error) => Err(RunError::api("delete", "Backup", name, &error).into()),
    }
}

/// Takes over what the API server answered. A mirror declares nothing: ten thousand of them must not
/// have what is declared gathered ten thousand times.
fn take_note(operator: &Operator, answer: Backup) {
    operator.host.backups.put_answer(answer);
}

fn api(operator: &Operator, name: &Name) -> Api<Backup> {
    Api::namespaced(operator.host.client.clone(), &name.namespace)
}

async fn create(operator: &Operator, backup: &Backup) -> Result<(), PassError> {
    let name = Name::of(backup);
    let object = Backup {
        status: None,
        ..backup.clone()
    };
    let parameters = PostParams {
        field_manager: Some(CONTROLLER.to_owned()),
        ..PostParams::default()
    };
    match api(operator, &name).create(&parameters, &object).await {
        Ok(answer) => {
            operator.host.backups.put_created(answer);
        }
        // Somebody's own object has the name; it is not touched.
        Err(kube::Error::Api(answer)) if answer.code == 409 => return Ok(()),
        // The namespace is going away.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 403 | 404) => {
            tracing::debug!(backup = %name, message = answer.message, "A restore point has no object.");
            return Ok(());
        }
        Err(error) => return Err(RunError::api("create", "Backup", &name, &error).into()),
    }
    write(operator, &name, backup).await
}

async fn write(operator: &Operator, name: &Name, backup: &Backup) -> Result<(), PassError> {
    let patch = json!({
        "apiVersion": Backup::api_version(&()),
        "kind": "Backup",
        "metadata": {"name": name.name, "namespace": name.namespace},
        "status": value_of(backup),
    });
    let parameters = PatchParams::apply(CONTROLLER).force();
    match api(operator, name)
        .patch_status(&name.name, &parameters, &Patch::Apply(&patch))
        .await
    {
        Ok(answer) => take_note(operator, answer),
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {}
        Err(error) => {
            return Err(RunError::api("write the status of", "Backup", name, &error).into());
        }
    }
    Ok(())
}

async fn relabel(operator: &Operator, name: &Name, backup: &Backup) -> Result<(), PassError> {
    let mut labels: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    let known = operator.host.backups.get(name);
    for label in known.iter().flat_map(|known| known.labels().keys()) {
        if label.starts_with(DESTINATION_LABEL) {
            labels.insert(label, None);
        }
    }
    for (label, value) in backup.labels() {
        labels.insert(label, Some(value));
    }
    let patch = json!({"metadata": {"labels": labels}});
    let parameters = PatchParams {
        field_manager: Some(CONTROLLER.to_owned()),
        ..PatchParams::default()
    };
    match api(operator, name)
        .patch(&name.name, &parameters, &Patch::Merge(&patch))
        .await
    {
        Ok(answer) => take_note(operator, answer),
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {}
        Err(error) => return Err(RunError::api("label", "Backup", name, &error).into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use holdfast_crds::meta::Time;
    use holdfast_engine::repository::Snapshot;

    use super::*;

    fn snapshot(number: u8) -> Snapshot {
        let id = format!("{number:02x}").repeat(32);
        serde_json::from_value(json!({
            "id": id, "original_id": null,
            "time": format!("2026-03-{number:02}T10:15:00Z"),
            "hostname": "default/shop", "tags": ["holdfast"], "paths": ["/mongodb"],
            "policy": "default/shop", "foreign": false, "facts": null,
            "read_bytes": 1, "added_bytes": 2, "stored_bytes": 3,
            "start_time": null, "completion_time": null, "tree": id,
        }))
        .unwrap()
    }

    fn listing(destination: &str, numbers: &[u8]) -> Listing {
        Listing {
            destination: Name::new("default", destination),
            snapshots: numbers.iter().copied().map(snapshot).collect(),
        }
    }

    /// The objects as the API server would hold them.
    fn there(wanted: Wanted) -> Vec<Arc<Backup>> {
        wanted
            .objects
            .into_iter()
            .map(|mut backup| {
                backup.metadata.uid = Some("u".to_owned());
                backup.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
                let json = serde_json::to_value(&backup).unwrap();
                Arc::new(serde_json::from_value(json).unwrap())
            })
            .collect()
    }

    fn seen(open: &[&str], hidden: &[&str]) -> Seen {
        Seen::of(open, hidden)
    }

    fn none() -> Seen {
        seen(&["box", "far"], &[])
    }

    fn promised(backup: &Backup) -> Arc<Backup> {
        let mut backup = backup.clone();
        backup.metadata.finalizers = Some(vec![super::super::finalizer::FINALIZER.to_owned()]);
        Arc::new(backup)
    }

    #[test]
    fn what_is_right_is_not_written_again() {
        let listings = [listing("box", &[1, 2, 3]), listing("far", &[2])];
        let known = there(wanted(&listings, 50));
        assert_eq!(
            difference(wanted(&listings, 50), &known, &none()),
            Difference::default()
        );
    }

    #[test]
    fn the_newest_are_shown_and_the_others_go() {
        let known = there(wanted(&[listing("box", &[1, 2])], 50));
        let difference = difference(wanted(&[listing("box", &[1, 2, 3])], 2), &known, &none());
        assert_eq!(difference.create.len(), 1);
        assert_eq!(difference.create[0].name_any(), "shop-03030303");
        assert!(difference.change.is_empty());
        assert_eq!(difference.delete, [Name::new("default", "shop-01010101")]);
    }

    #[test]
    fn a_copy_changes_the_labels_and_a_destination_that_is_away_changes_nothing() {
        let both = [listing("box", &[1]), listing("far", &[1])];
        let known = there(wanted(&[listing("box", &[1])], 50));
        let changed = difference(wanted(&both, 50), &known, &none());
        assert!(matches!(&changed.change[..], [(backup, true)]
            if backup.labels().contains_key("holdfast.dev/destination.far")));

        let known = there(wanted(&both, 50));
        let away = seen(&["box"], &["far"]);
        let away = difference(wanted(&[listing("box", &[1])], 50), &known, &away);
        assert_eq!(away, Difference::default());
        let all_away = seen(&[], &["far", "box"]);
        let nothing = difference(wanted(&[], 50), &known, &all_away);
        assert_eq!(nothing, Difference::default());
    }

    #[test]
    fn one_that_was_asked_for_has_its_object_already_and_is_nobodys_to_delete() {
        let mut known = there(wanted(&[listing("box", &[1])], 50));
        let mut by_hand = known.remove(0).as_ref().clone();
        by_hand.metadata.name = Some("before-migration".to_owned());
        by_hand.labels_mut().remove(MANAGED_BY);
        let known = [Arc::new(by_hand)];
        let here = difference(wanted(&[listing("box", &[1])], 50), &known, &none());
        assert_eq!(here, Difference::default());
        let pruned = difference(wanted(&[], 50), &known, &none());
        assert_eq!(pruned, Difference::default());
    }

    #[test]
    fn one_that_promised_to_take_its_data_with_it_goes_by_a_persons_word_only() {
        let mut known = there(wanted(&[listing("box", &[1, 2])], 50));
        let first = known.remove(0);
        known.push(promised(&first));
        let hidden = difference(wanted(&[listing("box", &[1, 2])], 1), &known, &none());
        assert_eq!(hidden, Difference::default());
        let pruned = difference(wanted(&[listing("box", &[2])], 1), &known, &none());
        assert_eq!(pruned.delete, [Name::new("default", "shop-01010101")]);
    }

    /// Its finalizer deletes what is there: an object whose data may still be anywhere stays.
    #[test]
    fn one_that_promised_stays_until_every_place_it_was_in_is_known_not_to_hold_it() {
        let known: Vec<Arc<Backup>> = there(wanted(&[listing("old", &[1])], 50))
            .iter()
            .map(|one| promised(one))
            .collect();
        let nothing = |seen: &Seen| difference(wanted(&[listing("box", &[])], 50), &known, seen);
        // The policy names `old` no more; `old` is empty; `old`, or another one, cannot be seen.
        for seen in [
            seen(&["box"], &[]),
            seen(&[], &[]),
            seen(&["box"], &["old"]),
            seen(&["box", "old"], &["far"]),
        ] {
            assert_eq!(nothing(&seen), Difference::default(), "{seen:?}");
        }
        let gone = nothing(&seen(&["box", "old"], &[]));
        assert_eq!(gone.delete, [Name::new("default", "shop-01010101")]);
        // One that promised nothing is shown where it can be seen, and nowhere else.
        let shown = there(wanted(&[listing("old", &[1])], 50));
        let away = difference(wanted(&[], 50), &shown, &seen(&["box"], &[]));
        assert_eq!(away.delete.len(), 1);
    }

    #[test]
    fn a_long_name_makes_a_label_all_the_same() {
        let label = destination_label(&"very-long.".repeat(20));
        let name = label.strip_prefix("holdfast.dev/").unwrap();
        assert!(name.len() <= 63, "{name}");
        assert!(name.ends_with(|last: char| last.is_ascii_alphanumeric()));
    }
}
