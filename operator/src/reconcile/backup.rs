//! Reconciles a Backup that asks for a run: says how it stands. The run itself is its policy's.

use holdfast_crds::meta::Time;
use holdfast_crds::{BackupCopy, BackupStatus};
use holdfast_engine::class::Classified;
use jiff::Timestamp;

use crate::catalogue::{self, Listing};
use crate::host::{Host, Name, View};
use crate::journal::{RunKind, RunQuery};
use crate::plan::observed::{PolicyHistory, Task};
use crate::reconcile::conditions::{self, SUCCEEDED, Verdict};
use crate::reconcile::look::{Depth, Looked};
use crate::reconcile::{memory, observe};
use crate::run::RunError;

/// Writes how a Backup stands; `Some(true)` when it succeeded, `Some(false)` when it failed.
///
/// # Errors
/// When it is not declared any more, or the state database fails.
pub async fn reconcile<H: Host>(
    view: &View<H>,
    name: &Name,
    now: Timestamp,
) -> Result<Option<bool>, RunError> {
    reconcile_as(view, name, pending(), now).await
}

/// What is said of one whose run has not ended.
#[must_use]
pub fn pending() -> Verdict {
    Verdict::unknown("Pending", "The run has not ended yet.")
}

/// The same; while the run has not ended, `pending` is said of it.
///
/// # Errors
/// As [`reconcile`].
pub async fn reconcile_as<H: Host>(
    view: &View<H>,
    name: &Name,
    pending: Verdict,
    now: Timestamp,
) -> Result<Option<bool>, RunError> {
    let declared = view.host.declared();
    let Some(object) = declared.backups.get(name) else {
        return Ok(None);
    };
    let record = memory::observe(view, "Backup", name, &object.spec, now).await?;
    let previous: BackupStatus = memory::status(&record);
    if previous.id.is_some() {
        return Ok(Some(true));
    }
    let policy = Name::new(&name.namespace, &object.spec.policy);
    let query = RunQuery::of_policy(&policy.namespace, &policy.name);
    let mut runs = view.host.runs(query).await?;
    runs.retain(|run| run.started >= record.first_seen);
    let done = observe::done(&runs, RunKind::Backup, &name.name, record.first_seen);
    let mut status = previous.clone();
    let verdict = if let Some(run) = done {
        let snapshot = run
            .ending
            .as_ref()
            .and_then(|ending| ending.snapshot.clone());
        if let Some(found) = mirrored(view, &policy, snapshot.as_deref()).await {
            status = found;
        }
        status.id = status.id.or(snapshot);
        complete(status.skipped)
    } else {
        match PolicyHistory::of(&runs)
            .attempts
            .get(&Task::Request(name.name.clone()))
        {
            Some(attempts) => {
                status.completion_time = Some(Time(attempts.ended));
                Verdict::no("BackupFailed", attempts.message.clone())
            }
            None if !declared.policies.contains_key(&policy) => {
                let error = RunError::UnknownPolicy(policy);
                Verdict::no(error.reason(), error.to_string())
            }
            None => pending,
        }
    };
    let result = verdict.status;
    status.conditions = conditions::set(
        &previous.conditions,
        SUCCEEDED,
        verdict,
        Some(record.generation),
        now,
    );
    status.observed_generation = Some(record.generation);
    memory::write_status(view, "Backup", name, &record, &status).await?;
    Ok(result)
}

/// The status of a backup that was made, when its restore point is in these places now: in none once
/// retention, or somebody, has removed it. That it succeeded stays true.
#[must_use]
pub fn refreshed(known: &BackupStatus, copies: &[BackupCopy], now: Timestamp) -> BackupStatus {
    let verdict = if copies.is_empty() {
        Verdict::yes(
            "Pruned",
            "The backup was complete, and has been removed since from every destination that it was in.",
        )
    } else {
        complete(known.skipped)
    };
    let generation = known.observed_generation;
    BackupStatus {
        copies: copies.to_vec(),
        conditions: conditions::set(&known.conditions, SUCCEEDED, verdict, generation, now),
        ..known.clone()
    }
}

fn complete(skipped: Option<u64>) -> Verdict {
    Verdict::yes("Completed", catalogue::complete(skipped))
}

/// The status that the catalogue gives the backup.
async fn mirrored<H: Host>(
    view: &View<H>,
    policy: &Name,
    snapshot: Option<&str>,
) -> Option<BackupStatus> {
    let id = snapshot?;
    let mut listings = Vec::new();
    for (destination, _) in view.host.declared().destinations_of(policy) {
        let looked = view
            .host
            .look(&view.repositories, &destination, Depth::Snapshots)
            .await;
        if let Looked::Open { snapshots, .. } = looked.as_ref() {
            let snapshots: Vec<_> = snapshots
                .iter()
                .filter(|one| one.id == id || one.identity() == id)
                .cloned()
                .collect();
            listings.push(Listing {
                destination,
                snapshots,
            });
        }
    }
    catalogue::backups(&listings).into_iter().next()?.status
}
