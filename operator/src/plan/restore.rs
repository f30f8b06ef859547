//! The plan of a Restore: which backup, from which destination, and whether it is (still) right to
//! carry it out. It is done once.

use std::collections::BTreeSet;

use holdfast_crds::{BackupPolicySpec, LATEST, OnConflict, RestoreSpec, RestoreTarget};
use holdfast_engine::class::ErrorClass;
use jiff::Timestamp;

use super::action::{Action, Plan, SnapshotRef, short};
use super::backoff::{MAX_ATTEMPTS, retry_at};
use super::observed::{Attempts, DestinationState, Running, Snapshot};

/// A Restore as it is declared.
#[derive(Debug, Clone)]
pub struct RestoreDesire<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its spec.
    pub spec: &'a RestoreSpec,
    /// The policy that it names; absent when there is none. Its backups may be there all the same.
    pub policy: Option<&'a BackupPolicySpec>,
    /// Stands for its spec, its destination's and their secrets.
    pub fingerprint: &'a str,
}

/// What is known of a Restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreObservation {
    /// Whether it has been carried out, or has failed for good.
    pub done: bool,
    /// Its own run, or one of the policy that reads or writes the same source, in progress.
    pub running: Option<Running>,
    /// Failed attempts.
    pub attempts: Option<Attempts>,
    /// The destination that it names, or else all of the policy in the policy's order.
    pub destinations: Vec<(String, DestinationState)>,
}

/// The plan of a Restore. It is empty when there is nothing left to do.
#[must_use]
pub fn plan_restore(
    desire: &RestoreDesire<'_>,
    observed: &RestoreObservation,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::of("Restore", desire.namespace, desire.name);
    if !observed.done {
        plan.actions.push(decide(desire, observed, now));
    }
    plan
}

fn decide(desire: &RestoreDesire<'_>, observed: &RestoreObservation, now: Timestamp) -> Action {
    if let Some(running) = &observed.running {
        return Action::wait(
            None,
            format!(
                "a {} is in progress since {} (run {})",
                running.kind, running.started, running.id
            ),
        );
    }
    let policy = &desire.spec.from.policy;
    if desire.policy.is_none() && matches!(desire.spec.to, RestoreTarget::Original(_)) {
        return Action::refuse(
            ErrorClass::Waiting,
            "PolicyNotFound",
            format!(
                "there is no BackupPolicy {policy}, which says where the original is; declare it, or restore to another target than original"
            ),
        );
    }
    if let Some(attempts) = &observed.attempts
        && let Some(action) = after_failure(desire, attempts, now)
    {
        return action;
    }
    match choose(desire, observed) {
        Ok((destination, snapshot)) => Action::Restore {
            restore: format!("{}/{}", desire.namespace, desire.name),
            policy: format!("{}/{policy}", desire.namespace),
            destination: destination.to_owned(),
            snapshot: SnapshotRef {
                id: snapshot.id.clone(),
                time: snapshot.time,
            },
        },
        Err(action) => action,
    }
}

/// What a failed attempt has the Restore do; `None`: it is tried again.
fn after_failure(
    desire: &RestoreDesire<'_>,
    attempts: &Attempts,
    now: Timestamp,
) -> Option<Action> {
    let Attempts {
        failures, message, ..
    } = attempts;
    // Half of it may be there already, and would be taken for something that must not be touched.
    let half_done = attempts.interrupted
        && !desire.spec.dry_run
        && desire.spec.to.on_conflict() == OnConflict::Fail;
    if half_done {
        return Some(Action::refuse(
            ErrorClass::Permanent,
            "Interrupted",
            format!(
                "the restore was cut off, and part of it may have been written: {message}. Look at the target, then create another Restore, with onConflict Drop or Merge if it is to write over that part"
            ),
        ));
    }
    let retry = retry_at(attempts, desire.fingerprint).filter(|_| *failures < MAX_ATTEMPTS);
    match retry {
        None => Some(Action::refuse(
            attempts.class,
            "RestoreFailed",
            format!(
                "the restore failed ({failures} tries) and is not tried again: {message}; create another Restore when that is solved"
            ),
        )),
        Some(at) if at > now => Some(Action::wait(
            Some(at),
            format!("another try after {failures} that failed: {message}"),
        )),
        Some(_) => None,
    }
}

/// The backup that is meant, and the first destination that holds it.
fn choose<'o>(
    desire: &RestoreDesire<'_>,
    observed: &'o RestoreObservation,
) -> Result<(&'o str, &'o Snapshot), Action> {
    let from = &desire.spec.from;
    if observed.destinations.is_empty() {
        return Err(Action::refuse(
            ErrorClass::Waiting,
            "DestinationNotFound",
            format!(
                "no destination is known for BackupPolicy {}; declare the policy, or name a Destination in from.destination",
                from.policy
            ),
        ));
    }
    let all = observed
        .destinations
        .iter()
        .filter_map(|(name, state)| match state {
            DestinationState::Open { snapshots, .. } => Some((name.as_str(), snapshots)),
            DestinationState::Empty | DestinationState::Unusable { .. } => None,
        })
        .flat_map(|(name, snapshots)| snapshots.iter().map(move |snapshot| (name, snapshot)));
    let unusable = observed
        .destinations
        .iter()
        .find_map(|(name, state)| match state {
            DestinationState::Unusable { message, .. } => Some((name, message)),
            DestinationState::Open { .. } | DestinationState::Empty => None,
        });
    if from.backup == LATEST {
        // One that cannot be looked into may hold a newer one: an older one is not what was asked.
        if let Some((name, message)) = unusable {
            return Err(Action::refuse(
                ErrorClass::Waiting,
                "DestinationNotReady",
                format!(
                    "which backup is the latest cannot be told while {name} cannot be used: {message}. To restore what the others hold, name one of them in from.destination"
                ),
            ));
        }
        // Of several copies the first in the order of destinations.
        return all
            .reduce(|best, one| if one.1.time > best.1.time { one } else { best })
            .ok_or_else(|| {
                Action::refuse(
                    ErrorClass::Waiting,
                    "NoBackup",
                    format!("there is no backup of BackupPolicy {} yet", from.policy),
                )
            });
    }
    let matching: Vec<(&str, &Snapshot)> = all
        .filter(|(_, snapshot)| {
            snapshot.id.starts_with(&from.backup) || snapshot.identity.starts_with(&from.backup)
        })
        .collect();
    let identities: BTreeSet<&str> = matching
        .iter()
        .map(|(_, snapshot)| snapshot.identity.as_str())
        .collect();
    match (identities.len(), matching.first(), unusable) {
        (1, Some(found), _) => Ok(*found),
        (0, _, Some((name, message))) => Err(Action::refuse(
            ErrorClass::Waiting,
            "DestinationNotReady",
            format!(
                "no backup of BackupPolicy {} that can be seen has an id that begins with {}, and {name} cannot be used: {message}",
                from.policy, from.backup
            ),
        )),
        (0, ..) | (_, None, _) => Err(Action::refuse(
            ErrorClass::Permanent,
            "UnknownBackup",
            format!(
                "no backup of BackupPolicy {} has an id that begins with {}; `holdfast backups` lists them",
                from.policy, from.backup
            ),
        )),
        (count, ..) => Err(Action::refuse(
            ErrorClass::Permanent,
            "AmbiguousBackup",
            format!(
                "{count} backups of BackupPolicy {} have an id that begins with {} ({}); give more of it",
                from.policy,
                from.backup,
                identities
                    .iter()
                    .take(3)
                    .map(|id| short(id))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        )),
    }
}
