//! Observes what a plan starts from: the destinations themselves, and the history.

use std::collections::BTreeMap;

use holdfast_crds::{
    BackupPolicyStatus, BackupStatus, DestinationStatus, RestoreStatus, RestoreTarget,
};
use jiff::Timestamp;

use crate::host::{Declared, Host, Name, View};
use crate::journal::{Run, RunKind, RunQuery};
use crate::plan::backoff::given_up;
use crate::plan::observed::{
    Attempts, BackupRequest, DestinationObservation, DestinationState, PolicyHistory,
    PolicyObservation, Task,
};
use crate::reconcile::conditions::SUCCEEDED;
use crate::reconcile::look::Depth;
use crate::reconcile::{failures, known, memory};
use crate::run::RunError;

/// Observes a policy and its destinations.
///
/// # Errors
/// When the state database fails. A destination that cannot be used is part of the observation.
pub async fn policy<H: Host>(
    view: &View<H>,
    name: &Name,
    now: Timestamp,
) -> Result<PolicyObservation, RunError> {
    let declared = view.host.declared();
    let object = declared
        .policies
        .get(name)
        .ok_or_else(|| RunError::UnknownPolicy(name.clone()))?;
    let record = memory::observe(view, "BackupPolicy", name, &object.spec, now).await?;
    let query = RunQuery {
        // Enough for every attempt that still counts.
        limit: Some(200),
        ..RunQuery::of_policy(&name.namespace, &name.name)
    };
    let runs = view.host.runs(query).await?;
    // Runs are cleaned up; what failed, and for which time the last one started, is remembered.
    let remembered: BackupPolicyStatus = memory::status(&record);
    let failed = failures::known(&object.spec, &remembered.failures);
    let PolicyHistory {
        last_scheduled,
        ever_ran,
        running,
        mut attempts,
    } = PolicyHistory::since(&failed, &runs);
    let requests = requests(view, &declared, name, &runs, &mut attempts, now).await?;

    let mut destinations = BTreeMap::new();
    for (destination, object) in declared.destinations_of(name) {
        let observation = observe_destination(view, &destination, &object.spec, name, now).await?;
        destinations.insert(destination.name, observation);
    }
    let remembered = remembered.last_schedule_time.map(|time| time.0);
    Ok(PolicyObservation {
        first_seen: record.first_seen,
        last_scheduled: last_scheduled.max(remembered),
        ever_ran: ever_ran || remembered.is_some(),
        destinations,
        running,
        attempts,
        requests,
        restore_pending: pending_restore(view, &declared, name, &runs, now).await?,
    })
}

async fn observe_destination<H: Host>(
    view: &View<H>,
    destination: &Name,
    spec: &holdfast_crds::DestinationSpec,
    policy: &Name,
    now: Timestamp,
) -> Result<DestinationObservation, RunError> {
    let record = memory::observe(view, "Destination", destination, spec, now).await?;
    let status: DestinationStatus = memory::status(&record);
    let summary = view.host.destination_summary(destination).await?;
    let open = view.host.open_runs().await?;
    let key = destination.to_string();
    let busy = open.iter().any(|run| {
        run.destination_key().as_deref() == Some(key.as_str())
            && (run.kind.changes_backups() || run.kind == RunKind::Prune)
    });
    Ok(DestinationObservation {
        state: destination_state(view, destination, policy).await,
        known_repository_id: known::repository(&record, &status),
        prune_pending: summary.prune_pending
            || summary.prune_again.is_some_and(|moment| moment <= now),
        busy,
    })
}

/// What is known of a destination, as far as it concerns a policy.
pub async fn destination_state<H: Host>(
    view: &View<H>,
    destination: &Name,
    policy: &Name,
) -> DestinationState {
    view.host
        .look(&view.repositories, destination, Depth::Snapshots)
        .await
        .state_for(policy)
}

/// The Backup objects of the policy that ask for a run and have not had one that ended well. How one
/// ended stands in its status: its run may be trimmed from the history. What failed for good is told
/// among the attempts until a backup succeeds; from then on its object alone tells it.
async fn requests<H: Host>(
    view: &View<H>,
    declared: &Declared,
    policy: &Name,
    runs: &[Run],
    attempts: &mut BTreeMap<Task, Attempts>,
    now: Timestamp,
) -> Result<Vec<BackupRequest>, RunError> {
    let mut requests = Vec::new();
    for (name, backup) in &declared.backups {
        if name.namespace != policy.namespace || backup.spec.policy != policy.name {
            continue;
        }
        let record = memory::observe(view, "Backup", name, &backup.spec, now).await?;
        let status: BackupStatus = memory::status(&record);
        let task = Task::Request(name.name.clone());
        let forgotten = attempts.get(&task).is_some_and(|known| {
            // Another object had this name. A status tells the time to the second.
            known.ended.as_second() < record.first_seen.as_second()
                || (given_up(known) && succeeded_since(runs, known.ended))
        });
        if forgotten {
            attempts.remove(&task);
        }
        let done = status.id.is_some()
            || done(runs, RunKind::Backup, &name.name, record.first_seen).is_some();
        let given_up = failed(&status) && !attempts.contains_key(&task);
        if !done && !given_up {
            requests.push(BackupRequest {
                name: name.name.clone(),
                tags: backup.spec.tags.clone(),
                created: record.first_seen,
            });
        }
    }
    Ok(requests)
}

/// Whether any backup was made since.
fn succeeded_since(runs: &[Run], moment: Timestamp) -> bool {
    runs.iter().any(|run| {
        run.kind == RunKind::Backup
            && run.succeeded()
            && run.ending.as_ref().is_some_and(|ending| ending.at > moment)
    })
}

fn failed(status: &BackupStatus) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.type_ == SUCCEEDED && condition.reason == "BackupFailed")
}

/// The run of an object that ended well, since the object was first seen.
#[must_use]
pub fn done<'a>(runs: &'a [Run], kind: RunKind, object: &str, since: Timestamp) -> Option<&'a Run> {
    runs.iter().find(|run| {
        run.kind == kind
            && run.object.as_deref() == Some(object)
            && run.started >= since
            && run.succeeded()
    })
}

/// Whether the Restore was found to ask for what no destination holds.
fn names_no_backup(status: &RestoreStatus) -> bool {
    status.conditions.iter().any(|condition| {
        condition.type_ == SUCCEEDED
            && condition.status == "False"
            && [
                "NoBackup",
                "UnknownBackup",
                "AmbiguousBackup",
                "InvalidSpec",
            ]
            .contains(&condition.reason.as_str())
    })
}

/// The first Restore into the policy's own source that is not done and still may be.
async fn pending_restore<H: Host>(
    view: &View<H>,
    declared: &Declared,
    policy: &Name,
    runs: &[Run],
    now: Timestamp,
) -> Result<Option<String>, RunError> {
    for (name, restore) in &declared.restores {
        let into_source = matches!(restore.spec.to, RestoreTarget::Original(_))
            && name.namespace == policy.namespace
            && restore.spec.from.policy == policy.name
            && !restore.spec.dry_run;
        if !into_source {
            continue;
        }
        let record = memory::observe(view, "Restore", name, &restore.spec, now).await?;
        let tried = runs.iter().any(|run| {
            run.kind == RunKind::Restore
                && run.object.as_deref() == Some(name.name.as_str())
                && run.started >= record.first_seen
                && run.ending.is_some()
        });
        let status: RestoreStatus = memory::status(&record);
        let tried = tried || status.completion_time.is_some();
        // One that failed waits for a person; backups must not wait with it. Nor with one that names
        // a backup that is not there: before the first backup there is none.
        if !tried && !names_no_backup(&status) {
            return Ok(Some(name.name.clone()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
