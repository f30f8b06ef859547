//! Reconciles a BackupPolicy: observe, plan, and say how it stands. What the plan says is carried
//! out by the caller, and the next pass sees what came of it.

use std::collections::BTreeMap;

use holdfast_crds::meta::Time;
use holdfast_crds::{BackupPolicySpec, BackupPolicyStatus, Duration, LastBackup};
use jiff::Timestamp;

use crate::host::{Host, Name, View};
use crate::journal::{RunKind, Summary};
use crate::plan::observed::{Attempts, DestinationState, PolicyObservation, Snapshot, Task};
use crate::plan::policy::no_destination;
use crate::plan::schedule::Timetable;
use crate::plan::{Plan, PolicyDesire, plan_policy, plan_upkeep};
use crate::reconcile::conditions::{self, READY, Verdict};
use crate::reconcile::{failures, hosting, memory, observe};
use crate::run::{RunError, fingerprint};

/// How failed attempts are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// What failed is tried again when its delay is over.
    Backoff,
    /// What failed before this moment is tried again at once: somebody asked for a pass.
    RetryWhatFailedBefore(Timestamp),
}

/// Plans a policy.
///
/// # Errors
/// When it is not declared any more, or the state database fails.
pub async fn plan<H: Host>(
    view: &View<H>,
    name: &Name,
    patience: Patience,
    now: Timestamp,
) -> Result<(Plan, PolicyObservation), RunError> {
    planned(view, name, patience, now, plan_policy).await
}

async fn planned<H: Host>(
    view: &View<H>,
    name: &Name,
    patience: Patience,
    now: Timestamp,
    planner: fn(&PolicyDesire<'_>, &PolicyObservation, Timestamp) -> Plan,
) -> Result<(Plan, PolicyObservation), RunError> {
    let declared = view.host.declared();
    let object = declared
        .policies
        .get(name)
        .ok_or_else(|| RunError::UnknownPolicy(name.clone()))?;
    let observed = observe::policy(view, name, now).await?;
    // What the status remembers is how it was, not how it is looked at now.
    let mut planned = observed.clone();
    if let Patience::RetryWhatFailedBefore(moment) = patience {
        for attempts in planned.attempts.values_mut() {
            attempts.retry_if_before(moment);
        }
    }
    let fingerprint = fingerprint::policy(view.host.as_ref(), name, &object.spec);
    let desire = PolicyDesire::new(&name.namespace, &name.name, &object.spec, &fingerprint)
        .map_err(|error| RunError::InvalidSpec {
            object: format!("BackupPolicy {name}"),
            message: error.to_string(),
        })?;
    let refusals = hosting::policy(
        view.host.surroundings(),
        &name.namespace,
        &object.spec,
        &declared.destinations_of(name),
    );
    let plan = planner(&desire, &planned, now);
    Ok((hosting::unless_refused(plan, &refusals), observed))
}

/// Plans what is left to do for a policy besides backups.
///
/// # Errors
/// As [`plan`].
pub async fn upkeep<H: Host>(
    view: &View<H>,
    name: &Name,
    patience: Patience,
    now: Timestamp,
) -> Result<Plan, RunError> {
    let (plan, _) = planned(view, name, patience, now, plan_upkeep).await?;
    Ok(plan)
}

/// Plans a policy and writes its status.
///
/// # Errors
/// As [`plan`].
pub async fn reconcile<H: Host>(
    view: &View<H>,
    name: &Name,
    patience: Patience,
    now: Timestamp,
) -> Result<Plan, RunError> {
    let (plan, observed) = plan(view, name, patience, now).await?;
    report(view, name, &plan, &observed, None, now).await?;
    Ok(plan)
}

/// Writes how a policy stands that was planned; `instead` of what follows from the plan where the host
/// knows better, as when what the plan asks for cannot be begun.
///
/// # Errors
/// When the memory fails.
pub async fn report<H: Host>(
    view: &View<H>,
    name: &Name,
    plan: &Plan,
    observed: &PolicyObservation,
    instead: Option<Verdict>,
    now: Timestamp,
) -> Result<(), RunError> {
    let declared = view.host.declared();
    let Some(object) = declared.policies.get(name) else {
        return Ok(());
    };
    let record = memory::observe(view, "BackupPolicy", name, &object.spec, now).await?;
    let summary = view.host.policy_summary(name).await?;
    let previous: BackupPolicyStatus = memory::status(&record);
    let last_success = summary.last_success.get(&RunKind::Backup).copied();
    let standing = failures::standing(&observed.attempts, last_success);
    let status = BackupPolicyStatus {
        conditions: conditions::set(
            &previous.conditions,
            READY,
            instead.unwrap_or_else(|| verdict(&object.spec, plan, observed, &standing)),
            Some(record.generation),
            now,
        ),
        observed_generation: Some(record.generation),
        last_schedule_time: observed.last_scheduled.map(Time),
        active_job: previous.active_job,
        last_handled_request: previous.last_handled_request,
        failures: failures::told(&standing),
        ..figures(name, &object.spec, observed, &summary, now)
    };
    memory::write_status(view, "BackupPolicy", name, &record, &status).await?;
    Ok(())
}

fn verdict(
    spec: &BackupPolicySpec,
    plan: &Plan,
    observed: &PolicyObservation,
    standing: &BTreeMap<&Task, &Attempts>,
) -> Verdict {
    if let Some((reason, message)) = plan.refusal() {
        return Verdict::no(reason, message);
    }
    // Whether it is due or not: nothing could be written there.
    let absent = spec
        .destinations
        .iter()
        .find(|one| !observed.destinations.contains_key(&one.name));
    if let Some(absent) = absent {
        return Verdict::no("DestinationNotFound", no_destination(&absent.name));
    }
    // In the order of tasks, in which backups come first.
    if let Some((task, attempts)) = standing.first_key_value() {
        let reason = match task {
            Task::Backup | Task::Request(_) => "BackupFailed",
            Task::Copy(_) => "CopyFailed",
            Task::Forget(_) => "ForgetFailed",
            Task::Prune(_) => "PruneFailed",
        };
        return Verdict::no(
            reason,
            format!(
                "{} attempts failed, the last: {}",
                attempts.failures, attempts.message
            ),
        );
    }
    for (name, destination) in &observed.destinations {
        if let DestinationState::Unusable {
            reason, message, ..
        } = &destination.state
        {
            return Verdict::no(reason, format!("destination {name}: {message}"));
        }
    }
    if let Some(restore) = &observed.restore_pending {
        return Verdict::no(
            "RestorePending",
            format!(
                "no backup is made before Restore {restore} into what this policy reads is done; its condition tells how it stands"
            ),
        );
    }
    if spec.suspend {
        return Verdict::yes("Suspended", "Scheduled runs pause until suspend is false.");
    }
    if observed.has_backups() {
        Verdict::yes("BackedUp", "The newest backup is complete.")
    } else {
        Verdict::yes("Scheduled", "No backup was made yet.")
    }
}

fn figures(
    name: &Name,
    spec: &BackupPolicySpec,
    observed: &PolicyObservation,
    summary: &Summary,
    now: Timestamp,
) -> BackupPolicyStatus {
    let snapshots = |destination: &str| match &observed.destinations.get(destination)?.state {
        DestinationState::Open { snapshots, .. } => Some(snapshots),
        _ => None,
    };
    let newest: Option<&Snapshot> = observed
        .destinations
        .keys()
        .filter_map(|destination| snapshots(destination))
        .flatten()
        .max_by_key(|snapshot| snapshot.time);
    let missing = newest.map_or_else(Vec::new, |newest| {
        spec.destinations
            .iter()
            .filter(|destination| {
                !snapshots(&destination.name)
                    .is_some_and(|held| held.iter().any(|one| one.identity == newest.identity))
            })
            .map(|destination| destination.name.clone())
            .collect()
    });
    let last = summary.last_backup.as_ref().filter(|last| {
        newest.is_some_and(|newest| last.snapshot.as_deref() == Some(newest.identity.as_str()))
    });
    BackupPolicyStatus {
        last_backup: newest.map(|newest| LastBackup {
            id: newest.identity.clone(),
            time: Time(newest.time),
            read_bytes: last.and_then(|last| last.figures.read_bytes),
            added_bytes: last.and_then(|last| last.figures.added_bytes),
        }),
        last_attempt_time: summary
            .last_attempt
            .get(&RunKind::Backup)
            .copied()
            .map(Time),
        last_success_time: summary
            .last_success
            .get(&RunKind::Backup)
            .copied()
            .map(Time),
        next_run_time: next_run(name, spec, now).map(Time),
        recovery_point_age: newest.map(|newest| {
            let age = now.duration_since(newest.time).as_secs();
            Duration::from_secs(u64::try_from(age).unwrap_or(0))
        }),
        missing,
        ..BackupPolicyStatus::default()
    }
}

/// When the schedule says that the next run is due.
#[must_use]
pub fn next_run(name: &Name, spec: &BackupPolicySpec, now: Timestamp) -> Option<Timestamp> {
    if spec.suspend {
        return None;
    }
    let schedule = spec.schedule.as_ref()?;
    Timetable::new(schedule, &name.to_string())
        .ok()?
        .next_after(now)
}
