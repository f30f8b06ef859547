//! Reconciles a Restore: chooses the backup, plans, and says how it stands. It is done once.

use holdfast_crds::meta::Time;
use holdfast_crds::{RestoreProgress, RestoreStatus, RestoreTarget};
use jiff::Timestamp;

use crate::host::{Host, Name, View};
use crate::journal::{ObjectRecord, Run, RunKind, RunQuery};
use crate::plan::observed::{Attempts, Running};
use crate::plan::{Action, Plan, RestoreDesire, RestoreObservation, plan_restore};
use crate::reconcile::conditions::{self, SUCCEEDED, Verdict};
use crate::reconcile::look::Looked;
use crate::reconcile::policy::Patience;
use crate::reconcile::{hosting, memory, observe};
use crate::run::restore::RestoreOutcome;
use crate::run::{RunError, fingerprint};

/// A Restore's plan, and what it was made of.
#[derive(Debug)]
pub struct Planned {
    /// The plan; empty when the Restore is done.
    pub plan: Plan,
    record: ObjectRecord,
    done: bool,
}

/// Plans a Restore.
///
/// # Errors
/// When it is not declared any more, or the state database fails.
pub async fn plan<H: Host>(
    view: &View<H>,
    name: &Name,
    patience: Patience,
    now: Timestamp,
) -> Result<Planned, RunError> {
    let declared = view.host.declared();
    let object = declared
        .restores
        .get(name)
        .ok_or_else(|| RunError::UnknownRestore(name.clone()))?;
    let record = memory::observe(view, "Restore", name, &object.spec, now).await?;
    let policy_name = Name::new(&name.namespace, &object.spec.from.policy);
    let policy = declared.policies.get(&policy_name);
    let fingerprint = policy
        .map(|policy| fingerprint::policy(view.host.as_ref(), &policy_name, &policy.spec))
        .unwrap_or_default();
    let desire = RestoreDesire {
        namespace: &name.namespace,
        name: &name.name,
        spec: &object.spec,
        policy: policy.map(|policy| &policy.spec),
        fingerprint: &fingerprint,
    };
    let observed = observed(view, name, &policy_name, &record, patience).await?;
    let plan = plan_restore(&desire, &observed, now);
    let refusals = hosting::restore(
        view.host.surroundings(),
        &object.spec,
        policy.map(|policy| &policy.spec),
    );
    let plan = if observed.done {
        plan
    } else {
        hosting::unless_refused(plan, &refusals)
    };
    Ok(Planned {
        plan,
        record,
        done: observed.done,
    })
}

/// Plans a Restore and writes how it stands before it is carried out.
///
/// # Errors
/// As [`plan`].
pub async fn reconcile<H: Host>(
    view: &View<H>,
    name: &Name,
    patience: Patience,
    now: Timestamp,
) -> Result<Plan, RunError> {
    let planned = plan(view, name, patience, now).await?;
    report_plan(view, name, &planned, None, now).await?;
    Ok(planned.plan)
}

/// Writes how a Restore stands that was planned; `instead` of what follows from the plan where what it
/// asks for cannot be begun.
///
/// # Errors
/// When the memory fails.
pub async fn report_plan<H: Host>(
    view: &View<H>,
    name: &Name,
    planned: &Planned,
    instead: Option<Verdict>,
    now: Timestamp,
) -> Result<(), RunError> {
    if planned.done {
        return Ok(());
    }
    match instead.or_else(|| waiting(&planned.plan)) {
        Some(verdict) => write_verdict(view, name, &planned.record, verdict, now).await,
        None => Ok(()),
    }
}

/// What is said of one that is under way.
#[must_use]
pub fn running() -> Verdict {
    Verdict::unknown("Running", "The restore is under way.")
}

async fn observed<H: Host>(
    view: &View<H>,
    name: &Name,
    policy: &Name,
    record: &ObjectRecord,
    patience: Patience,
) -> Result<RestoreObservation, RunError> {
    let declared = view.host.declared();
    let status: RestoreStatus = memory::status(record);
    let done = status
        .conditions
        .iter()
        .any(|condition| condition.type_ == SUCCEEDED && condition.status == "True");
    let own = own_runs(view, name, record).await?;
    let succeeded = own.iter().any(Run::succeeded);
    let into_source = declared
        .restores
        .get(name)
        .is_some_and(|restore| matches!(restore.spec.to, RestoreTarget::Original(_)));
    let reading = if into_source {
        backups_of(view, policy).await?
    } else {
        Vec::new()
    };
    let running = own
        .iter()
        .chain(&reading)
        .find(|run| run.ending.is_none())
        .map(|run| Running {
            id: run.id.clone(),
            kind: run.kind,
            started: run.started,
        });
    let mut attempts = Attempts::of(&own);
    if let (Some(attempts), Patience::RetryWhatFailedBefore(moment)) = (&mut attempts, patience) {
        attempts.retry_if_before(moment);
    }
    let wanted: Vec<Name> = declared
        .restores
        .get(name)
        .and_then(|restore| restore.spec.from.destination.as_ref())
        .map_or_else(
            || {
                declared
                    .destinations_of(policy)
                    .into_iter()
                    .map(|(name, _)| name)
                    .collect()
            },
            |destination| vec![declared.destination_name(policy, destination)],
        );
    let mut destinations = Vec::new();
    if !done && !succeeded {
        for destination in wanted {
            let state = match declared.destination_for(&name.namespace, &destination) {
                Some(_) => observe::destination_state(view, &destination, policy).await,
                None => Looked::unusable(&RunError::UnknownDestination(destination.clone()))
                    .state_for(policy),
            };
            destinations.push((destination.name, state));
        }
    }
    Ok(RestoreObservation {
        done: done || succeeded,
        running,
        attempts,
        destinations,
    })
}

/// The backups of the policy: one that goes on reads what a restore to the original writes.
async fn backups_of<H: Host>(view: &View<H>, policy: &Name) -> Result<Vec<Run>, RunError> {
    let query = RunQuery {
        kind: Some(RunKind::Backup),
        limit: Some(1),
        ..RunQuery::of_policy(&policy.namespace, &policy.name)
    };
    view.host.runs(query).await
}

/// The runs of this Restore since it was first seen, the newest first.
async fn own_runs<H: Host>(
    view: &View<H>,
    name: &Name,
    record: &ObjectRecord,
) -> Result<Vec<Run>, RunError> {
    let query = RunQuery {
        kind: Some(RunKind::Restore),
        ..RunQuery::default()
    };
    let mut runs = view.host.runs(query).await?;
    runs.retain(|run| {
        run.namespace == name.namespace
            && run.object.as_deref() == Some(name.name.as_str())
            && run.started >= record.first_seen
    });
    Ok(runs)
}

/// How one stands that is not done.
fn waiting(plan: &Plan) -> Option<Verdict> {
    plan.actions.iter().find_map(|action| match action {
        Action::Refuse {
            reason, message, ..
        } => Some(Verdict::no(reason, message.clone())),
        Action::WaitUntil { what, .. } => Some(Verdict::unknown("Waiting", what.clone())),
        Action::Restore { .. } => Some(running()),
        _ => None,
    })
}

async fn write_verdict<H: Host>(
    view: &View<H>,
    name: &Name,
    record: &ObjectRecord,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), RunError> {
    let previous: RestoreStatus = memory::status(record);
    let status = RestoreStatus {
        conditions: conditions::set(
            &previous.conditions,
            SUCCEEDED,
            verdict,
            Some(record.generation),
            now,
        ),
        observed_generation: Some(record.generation),
        ..previous
    };
    memory::write_status(view, "Restore", name, record, &status).await?;
    Ok(())
}

/// What came of carrying a Restore out.
#[derive(Debug)]
pub struct Report<'a> {
    /// The backup that was chosen.
    pub backup: Option<String>,
    /// The destination that was read.
    pub destination: Option<String>,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What was restored, or why not.
    pub outcome: Result<&'a RestoreOutcome, &'a crate::journal::RunError>,
}

/// Writes what came of carrying out a Restore's plan.
///
/// # Errors
/// When the memory fails.
pub async fn report<H: Host>(
    view: &View<H>,
    name: &Name,
    plan: &Plan,
    start: Timestamp,
    outcome: Result<&RestoreOutcome, &RunError>,
) -> Result<(), RunError> {
    let (backup, destination) = plan
        .actions
        .iter()
        .find_map(|action| match action {
            Action::Restore {
                destination,
                snapshot,
                ..
            } => Some((snapshot.id.clone(), destination.clone())),
            _ => None,
        })
        .unzip();
    let failure = outcome.err().map(crate::journal::RunError::from);
    let report = Report {
        backup,
        destination,
        start,
        end: Timestamp::now(),
        outcome: match (outcome, &failure) {
            (Ok(outcome), _) => Ok(outcome),
            (Err(_), Some(failure)) => Err(failure),
            // Unreachable: a failure is kept for each error.
            (Err(_), None) => return Ok(()),
        },
    };
    report_outcome(view, name, report).await
}

/// Writes what came of a Restore.
///
/// # Errors
/// When the memory fails.
pub async fn report_outcome<H: Host>(
    view: &View<H>,
    name: &Name,
    report: Report<'_>,
) -> Result<(), RunError> {
    let declared = view.host.declared();
    let Some(object) = declared.restores.get(name) else {
        return Ok(());
    };
    let now = report.end;
    let record = memory::observe(view, "Restore", name, &object.spec, now).await?;
    let previous: RestoreStatus = memory::status(&record);
    let (verdict, outcome) = match report.outcome {
        Ok(outcome) if object.spec.dry_run => (
            Verdict::yes(
                "DryRun",
                "Nothing was changed; status.plan says what would be.",
            ),
            outcome.clone(),
        ),
        Ok(outcome) => (
            Verdict::yes("Completed", "The backup is restored."),
            outcome.clone(),
        ),
        Err(error) => (
            Verdict::no(&error.reason, error.message.clone()),
            RestoreOutcome::default(),
        ),
    };
    let succeeded = verdict.status == Some(true);
    let status = RestoreStatus {
        conditions: conditions::set(
            &previous.conditions,
            SUCCEEDED,
            verdict,
            Some(record.generation),
            now,
        ),
        observed_generation: Some(record.generation),
        backup: report.backup,
        destination: report.destination,
        start_time: Some(Time(report.start)),
        completion_time: Some(Time(report.end)),
        progress: (succeeded && !object.spec.dry_run).then_some(RestoreProgress {
            done_bytes: outcome.bytes,
            total_bytes: outcome.bytes,
        }),
        documents: outcome.documents,
        files: outcome.files,
        verified: outcome.verified,
        plan: outcome.plan,
        last_handled_request: previous.last_handled_request,
    };
    memory::write_status(view, "Restore", name, &record, &status).await?;
    Ok(())
}

/// Says how a Restore stands that is not done.
///
/// # Errors
/// When the memory fails.
pub async fn say<H: Host>(
    view: &View<H>,
    name: &Name,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), RunError> {
    let declared = view.host.declared();
    let object = declared
        .restores
        .get(name)
        .ok_or_else(|| RunError::UnknownRestore(name.clone()))?;
    let record = memory::observe(view, "Restore", name, &object.spec, now).await?;
    write_verdict(view, name, &record, verdict, now).await
}
