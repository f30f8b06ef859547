//! Observes what a plan starts from: the destinations themselves, and the history.

use std::collections::BTreeMap;

use holdfast_crds::{BackupPolicyStatus, DestinationStatus, RestoreStatus, RestoreTarget};
use jiff::Timestamp;

use crate::host::{Declared, Host, Name, View};
use crate::journal::{Run, RunKind, RunQuery};
use crate::plan::observed::{
    BackupRequest, DestinationObservation, DestinationState, PolicyHistory, PolicyObservation,
};
use crate::reconcile::look::Depth;
use crate::reconcile::{failures, memory};
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
    let known = failures::known(&object.spec, &remembered.failures);
    let PolicyHistory {
        last_scheduled,
        ever_ran,
        running,
        attempts,
    } = PolicyHistory::since(&known, &runs);

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
        requests: requests(view, &declared, name, &runs, now).await?,
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
        // A destination whose spec has changed may well lie elsewhere now.
        known_repository_id: status
            .repository_id
            .filter(|_| status.observed_generation == Some(record.generation)),
        prune_pending: summary.prune_pending,
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

/// The Backup objects of the policy that ask for a run and have not had one that ended well.
async fn requests<H: Host>(
    view: &View<H>,
    declared: &Declared,
    policy: &Name,
    runs: &[Run],
    now: Timestamp,
) -> Result<Vec<BackupRequest>, RunError> {
    let mut requests = Vec::new();
    for (name, backup) in &declared.backups {
        if name.namespace != policy.namespace || backup.spec.policy != policy.name {
            continue;
        }
        let record = memory::observe(view, "Backup", name, &backup.spec, now).await?;
        if done(runs, RunKind::Backup, &name.name, record.first_seen).is_none() {
            requests.push(BackupRequest {
                name: name.name.clone(),
                tags: backup.spec.tags.clone(),
                created: record.first_seen,
            });
        }
    }
    Ok(requests)
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
        // One that failed waits for a person; backups must not wait with it.
        if !tried {
            return Ok(Some(name.name.clone()));
        }
    }
    Ok(None)
}
