//! Objects whose declaration went away. A folder of files has no finalizers, so the state database
//! remembers them until their clean-up is done.
//!
//! Data is deleted only where `deletionPolicy: Delete` was declared, and only when the object was
//! declared by the same paths before: a run over other files must not take everything else for
//! deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_crds::meta::ObjectMeta;
use holdfast_crds::{BackupSpec, BackupStatus, DeletionPolicy, Destination, DestinationSpec};
use holdfast_engine::progress::Progress;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::host::files::FilesHost;
use crate::host::{Declared, Host, Name};
use crate::journal::{ObjectKey, ObjectRecord};
use crate::plan::Action;
use crate::plan::deletion::{Deleted, DeletionSite, plan_deletion};
use crate::plan::observed::DestinationState;
use crate::reconcile::look::Depth;
use crate::reconcile::{carry_out, memory};
use crate::run::record::on_journal;
use crate::run::{RunError, Runner};

/// The kind under which the state database keeps what a set of paths declared.
const DECLARATION: &str = "Declaration";

const KINDS: [&str; 4] = ["Destination", "BackupPolicy", "Backup", "Restore"];

/// Kind, namespace and name of a declared object.
pub type DeclaredKey = (String, String, String);

/// How long files must go on not declaring an object before it is let go: what goes with it, data
/// where that was declared, a Restore that is done, does not come back.
pub const SETTLED: Duration = Duration::from_secs(10);

/// Compares what these paths declare now with what they declared before. Objects that went away are
/// forgotten, but for those whose data is to be deleted with them.
pub async fn take_leave(runner: &Runner<FilesHost>, declared: &Declared, paths: &[PathBuf]) {
    if let Err(error) = try_take_leave(runner, declared, paths).await {
        tracing::error!(%error, "What went away from the files could not be recorded.");
    }
}

async fn try_take_leave(
    runner: &Runner<FilesHost>,
    declared: &Declared,
    paths: &[PathBuf],
) -> Result<(), RunError> {
    let now = Timestamp::now();
    let key = declaration_key(paths);
    let current = keys(declared);
    for (kind, namespace, name) in remembered(runner, paths).await?.difference(&current) {
        let object = ObjectKey::new(kind.as_str(), namespace.as_str(), name.as_str());
        leave(runner, object, now).await?;
    }
    let spec: Value = json!(current);
    on_journal(&runner.journal, move |journal| {
        journal.observe_object(&key, &spec, now)
    })
    .await?;
    let departing = departing(runner).await?;
    runner.host.set_departing(departing);
    Ok(())
}

/// What these paths declared when leave was last taken.
async fn remembered(
    runner: &Runner<FilesHost>,
    paths: &[PathBuf],
) -> Result<BTreeSet<DeclaredKey>, RunError> {
    let key = declaration_key(paths);
    let before = on_journal(&runner.journal, move |journal| journal.object(&key)).await?;
    Ok(before
        .and_then(|record| serde_json::from_value(record.spec).ok())
        .unwrap_or_default())
}

/// What these paths declared before and do not declare now. A file that is being written is empty
/// for a moment, so that this is believed only when it holds for [`SETTLED`].
pub async fn gone(
    runner: &Runner<FilesHost>,
    declared: &Declared,
    paths: &[PathBuf],
) -> BTreeSet<DeclaredKey> {
    match remembered(runner, paths).await {
        Ok(before) => before.difference(&keys(declared)).cloned().collect(),
        Err(error) => {
            tracing::error!(%error, "What the files declared before could not be read.");
            BTreeSet::new()
        }
    }
}

async fn leave(runner: &Runner<FilesHost>, key: ObjectKey, now: Timestamp) -> Result<(), RunError> {
    let read = key.clone();
    let record = on_journal(&runner.journal, move |journal| journal.object(&read)).await?;
    let Some(record) = record else { return Ok(()) };
    if deletes(&key.kind, &record) {
        tracing::warn!(object = %key, "An object with deletionPolicy Delete went away; its data is deleted.");
        on_journal(&runner.journal, move |journal| {
            journal.mark_object_deleted(&key, now)
        })
        .await
    } else {
        tracing::info!(object = %key, "An object is not declared any more; its data stays.");
        on_journal(&runner.journal, move |journal| journal.forget_object(&key)).await
    }
}

fn deletes(kind: &str, record: &ObjectRecord) -> bool {
    let policy = match kind {
        "Destination" => destination_spec(record).map(|spec| spec.deletion_policy),
        "Backup" => serde_json::from_value::<BackupSpec>(record.spec.clone())
            .ok()
            .map(|spec| spec.deletion_policy),
        _ => None,
    };
    policy == Some(DeletionPolicy::Delete)
}

fn destination_spec(record: &ObjectRecord) -> Option<DestinationSpec> {
    serde_json::from_value(record.spec.clone()).ok()
}

/// Destinations that went away and whose data is still to be deleted.
async fn departing(
    runner: &Runner<FilesHost>,
) -> Result<BTreeMap<Name, Arc<Destination>>, RunError> {
    let records = on_journal(&runner.journal, |journal| journal.objects("Destination")).await?;
    Ok(records
        .into_iter()
        .filter(|(_, record)| record.deleted.is_some())
        .filter_map(|(key, record)| {
            let name = Name::new(key.namespace, key.name);
            let object = Destination {
                metadata: ObjectMeta {
                    namespace: Some(name.namespace.clone()),
                    name: Some(name.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: destination_spec(&record)?,
                status: None,
            };
            Some((name, Arc::new(object)))
        })
        .collect())
}

/// Deletes the data of objects that went away and promised it. What cannot be done now is tried
/// again; nothing promised is forgotten. Returns what failed.
pub async fn delete_what_was_promised(runner: &Runner<FilesHost>) -> Vec<String> {
    let mut failures = Vec::new();
    for kind in ["Backup", "Destination"] {
        let records = on_journal(&runner.journal, move |journal| journal.objects(kind)).await;
        let records = match records {
            Ok(records) => records,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        for (key, record) in records {
            if record.deleted.is_none() {
                continue;
            }
            if let Err(error) = delete(runner, &key, &record).await {
                tracing::error!(object = %key, %error, "What was to be deleted with an object is still there.");
                failures.push(error.to_string());
            }
        }
    }
    failures
}

async fn delete(
    runner: &Runner<FilesHost>,
    key: &ObjectKey,
    record: &ObjectRecord,
) -> Result<(), RunError> {
    if key.kind == "Backup" {
        let status: BackupStatus = memory::status(record);
        // One that asked for a run that never ended well has nothing to delete.
        let Some(identity) = status.id else {
            return forget(runner, key).await;
        };
        let declared = runner.host.declared();
        let sites = declared
            .destinations
            .iter()
            .filter(|(name, object)| object.spec.allows(&name.namespace, &key.namespace))
            .map(|(name, _)| name.clone())
            .collect();
        let deleted = Deleted::Backup {
            namespace: &key.namespace,
            name: &key.name,
            identity: &identity,
        };
        return finish(runner, key, deleted, sites).await;
    }
    let used_by: Vec<String> = runner
        .host
        .declared()
        .policies
        .iter()
        .filter(|(name, policy)| {
            policy.spec.destinations.iter().any(|one| {
                one.name == key.name && one.namespace_for(&name.namespace) == key.namespace
            })
        })
        .map(|(name, _)| name.to_string())
        .collect();
    let deleted = Deleted::Destination {
        namespace: &key.namespace,
        name: &key.name,
        used_by: &used_by,
    };
    let site = Name::new(key.namespace.as_str(), key.name.as_str());
    finish(runner, key, deleted, vec![site]).await
}

async fn finish(
    runner: &Runner<FilesHost>,
    key: &ObjectKey,
    deleted: Deleted<'_>,
    sites: Vec<Name>,
) -> Result<(), RunError> {
    let open = runner.host.open_runs().await?;
    let mut observed = Vec::new();
    for name in &sites {
        let site = name.to_string();
        observed.push(DeletionSite {
            state: state(runner, name).await,
            busy: open
                .iter()
                .any(|run| run.destination_key().as_deref() == Some(site.as_str())),
            destination: if name.namespace == key.namespace {
                name.name.clone()
            } else {
                site
            },
        });
    }
    let plan = plan_deletion(deleted, &observed);
    if let Some((_, message)) = plan.refusal() {
        return Err(RunError::InvalidSpec {
            object: key.to_string(),
            message: message.to_owned(),
        });
    }
    let outcome = carry_out::carry_out(
        runner,
        &key.namespace,
        None,
        &plan.actions,
        &Progress::new(),
    )
    .await;
    if let Some(error) = outcome.failed.into_iter().next() {
        return Err(error);
    }
    // A site that is in use comes later.
    let waits = plan
        .actions
        .iter()
        .any(|action| matches!(action, Action::WaitUntil { .. }));
    if waits || runner.cancel.is_cancelled() {
        return Ok(());
    }
    if matches!(deleted, Deleted::Destination { .. }) {
        for (site, observed) in sites.iter().zip(&observed) {
            // Nobody comes back to it to remove what a first prune only marks.
            if matches!(observed.state, DestinationState::Open { .. }) {
                runner.prune_at_once(site).await?;
            }
        }
    }
    forget(runner, key).await
}

async fn forget(runner: &Runner<FilesHost>, key: &ObjectKey) -> Result<(), RunError> {
    let object = key.clone();
    on_journal(&runner.journal, move |journal| {
        journal.forget_object(&object)
    })
    .await?;
    runner.host.set_departing(departing(runner).await?);
    Ok(())
}

/// Everything of ours in a destination, of whatever policy.
async fn state(runner: &Runner<FilesHost>, name: &Name) -> DestinationState {
    runner
        .host
        .look(&runner.repositories, name, Depth::Snapshots)
        .await
        .state_of_all()
}

fn declaration_key(paths: &[PathBuf]) -> ObjectKey {
    ObjectKey::new(DECLARATION, "", declaration_name(paths))
}

/// The paths as they were given, made absolute: a working directory may change.
fn declaration_name(paths: &[PathBuf]) -> String {
    let mut names: Vec<String> = paths
        .iter()
        .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
        .map(|path| path.display().to_string())
        .collect();
    names.sort();
    names.dedup();
    names.join("\n")
}

fn keys(declared: &Declared) -> BTreeSet<DeclaredKey> {
    let of = |kind: &str, name: &Name| (kind.to_owned(), name.namespace.clone(), name.name.clone());
    let [destination, policy, backup, restore] = KINDS;
    declared
        .destinations
        .keys()
        .map(|name| of(destination, name))
        .chain(declared.policies.keys().map(|name| of(policy, name)))
        .chain(declared.backups.keys().map(|name| of(backup, name)))
        .chain(declared.restores.keys().map(|name| of(restore, name)))
        .collect()
}
