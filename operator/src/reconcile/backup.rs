//! Reconciles a Backup that asks for a run: says how it stands. The run itself is its policy's.

use holdfast_crds::BackupStatus;
use jiff::Timestamp;

use crate::host::{Host, Name};
use crate::journal::{RunKind, RunQuery};
use crate::plan::observed::{PolicyHistory, Task};
use crate::reconcile::conditions::{self, SUCCEEDED, Verdict};
use crate::reconcile::{memory, observe};
use crate::run::record::on_journal;
use crate::run::{RunError, Runner, locate};

/// Writes how a Backup stands; `Some(true)` when it succeeded, `Some(false)` when it failed.
///
/// # Errors
/// When it is not declared any more, or the state database fails.
pub async fn reconcile<H: Host>(
    runner: &Runner<H>,
    name: &Name,
    now: Timestamp,
) -> Result<Option<bool>, RunError> {
    let declared = runner.host.declared();
    let Some(object) = declared.backups.get(name) else {
        return Ok(None);
    };
    let record = memory::observe(runner, "Backup", name, &object.spec, now).await?;
    let previous: BackupStatus = memory::status(&record);
    if previous.id.is_some() {
        return Ok(Some(true));
    }
    let policy = Name::new(&name.namespace, &object.spec.policy);
    let query = RunQuery::of_policy(&policy.namespace, &policy.name);
    let mut runs = on_journal(&runner.journal, move |journal| journal.runs(&query)).await?;
    runs.retain(|run| run.started >= record.first_seen);
    let done = observe::done(&runs, RunKind::Backup, &name.name, record.first_seen);
    let mut status = previous.clone();
    let verdict = if let Some(run) = done {
        let snapshot = run
            .ending
            .as_ref()
            .and_then(|ending| ending.snapshot.clone());
        if let Some(found) = mirrored(runner, &policy, snapshot.as_deref()).await {
            status = found;
        }
        status.id = status.id.or(snapshot);
        Verdict::yes("Completed", "The backup is complete.")
    } else {
        match PolicyHistory::of(&runs)
            .attempts
            .get(&Task::Request(name.name.clone()))
        {
            Some(attempts) => Verdict::no("BackupFailed", attempts.message.clone()),
            None => Verdict::unknown("Pending", "The run has not ended yet."),
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
    memory::write_status(&runner.journal, "Backup", name, &record, &status).await?;
    Ok(result)
}

/// The status that the catalogue gives the backup.
async fn mirrored<H: Host>(
    runner: &Runner<H>,
    policy: &Name,
    snapshot: Option<&str>,
) -> Option<BackupStatus> {
    let destinations = runner
        .host
        .declared()
        .destinations_of(policy)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let wanted = locate::Wanted {
        backup: snapshot?,
        policy: Some(policy),
        destinations,
    };
    let located = locate::locate(&runner.repositories, runner.host.as_ref(), &wanted)
        .await
        .ok()?;
    let listings: Vec<crate::catalogue::Listing> = located
        .into_iter()
        .map(|one| crate::catalogue::Listing {
            destination: one.destination,
            snapshots: vec![one.snapshot],
        })
        .collect();
    crate::catalogue::backups(&listings)
        .into_iter()
        .next()?
        .status
}
