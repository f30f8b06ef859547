//! What keeps the destinations of a policy as they are declared between backups: copies, forgetting,
//! prunes.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::PolicyDestination;
use jiff::Timestamp;

use super::action::{Action, Kept, SnapshotRef};
use super::backoff::retry_at;
use super::observed::{DestinationState, PolicyObservation, Snapshot, Task};
use super::policy::{PolicyDesire, writable};
use super::retention::{KeepReason, judge};

/// A backup that a destination lacks and would keep.
struct Missing<'a> {
    snapshot: &'a Snapshot,
    /// The destination that it is copied from.
    from: &'a str,
    to: &'a str,
}

/// Plans copies, forgetting and prunes.
pub(super) fn plan(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let missing: Vec<Missing<'_>> = desire
        .spec
        .destinations
        .iter()
        .skip(1)
        .flat_map(|target| missing_at(desire, observed, target, now))
        .collect();
    for target in desire.spec.destinations.iter().skip(1) {
        plan_copies(desire, observed, target, &missing, now, actions);
    }
    for destination in &desire.spec.destinations {
        plan_forget_and_prune(desire, observed, destination, &missing, now, actions);
    }
}

/// The backups of the policy at a destination that is open.
fn open<'a>(observed: &'a PolicyObservation, name: &str) -> Option<&'a [Snapshot]> {
    match &observed.destinations.get(name)?.state {
        DestinationState::Open { snapshots, .. } => Some(snapshots),
        DestinationState::Empty | DestinationState::Unusable { .. } => None,
    }
}

/// What a destination lacks and would keep, newest first. Of one that cannot be looked into
/// everything counts as lacking.
fn missing_at<'a>(
    desire: &PolicyDesire<'a>,
    observed: &'a PolicyObservation,
    target: &'a PolicyDestination,
    now: Timestamp,
) -> Vec<Missing<'a>> {
    let present = open(observed, &target.name).unwrap_or_default();
    let mut known: BTreeSet<&str> = present
        .iter()
        .map(|there| there.identity.as_str())
        .collect();
    let mut candidates: BTreeMap<&str, (&'a Snapshot, &'a str)> = BTreeMap::new();
    for source in &desire.spec.destinations {
        for snapshot in open(observed, &source.name).unwrap_or_default() {
            if known.insert(&snapshot.identity) {
                candidates.insert(&snapshot.identity, (snapshot, &source.name));
            }
        }
    }
    let all = present
        .iter()
        .chain(candidates.values().map(|(snapshot, _)| *snapshot));
    judge(desire.spec.retention_at(target), all, &desire.zone(), now)
        .into_iter()
        .filter(|verdict| verdict.keeps())
        .filter_map(|verdict| {
            let (snapshot, from) = *candidates.get(verdict.snapshot.identity.as_str())?;
            // Of two with the same identity, the one that is there already.
            std::ptr::eq(snapshot, verdict.snapshot).then_some(Missing {
                snapshot,
                from,
                to: &target.name,
            })
        })
        .collect()
}

fn plan_copies(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    target: &PolicyDestination,
    missing: &[Missing<'_>],
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let wanted: Vec<&Missing<'_>> = missing.iter().filter(|one| one.to == target.name).collect();
    let Some(newest) = wanted.iter().map(|one| one.snapshot.time).max() else {
        return;
    };
    let empty = match writable(target, observed) {
        Ok(empty) => empty,
        Err(refusal) => {
            actions.push(refusal);
            return;
        }
    };
    if let Some(wait) = held_back(
        desire,
        observed,
        &Task::Copy(target.name.clone()),
        Some(newest),
        now,
    ) {
        actions.push(wait);
        return;
    }
    let mut by_source: BTreeMap<&str, Vec<SnapshotRef>> = BTreeMap::new();
    for one in &wanted {
        by_source
            .entry(one.from)
            .or_default()
            .push(reference(one.snapshot));
    }
    if empty {
        actions.push(Action::InitRepository {
            destination: target.name.clone(),
            chunker_of: wanted.first().map(|one| one.from.to_owned()),
        });
    }
    // In the order of the policy, so that the first destination comes first.
    for source in &desire.spec.destinations {
        if let Some(snapshots) = by_source.remove(source.name.as_str()) {
            actions.push(Action::Copy {
                policy: desire.key(),
                from: source.name.clone(),
                to: target.name.clone(),
                snapshots,
            });
        }
    }
}

fn plan_forget_and_prune(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    destination: &PolicyDestination,
    missing: &[Missing<'_>],
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let name = &destination.name;
    let (Some(present), Some(observation)) =
        (open(observed, name), observed.destinations.get(name))
    else {
        return;
    };
    if writable(destination, observed).is_err() {
        return;
    }
    let mut forgotten = Vec::new();
    let mut kept = Vec::new();
    let retention = desire.spec.retention_at(destination);
    for mut verdict in judge(retention, present, &desire.zone(), now) {
        if !verdict.keeps() {
            verdict.reasons = missing
                .iter()
                .filter(|one| one.from == name && std::ptr::eq(one.snapshot, verdict.snapshot))
                .map(|one| KeepReason::AwaitsCopy(one.to.to_owned()))
                .collect();
        }
        if verdict.keeps() {
            kept.push(Kept {
                id: verdict.snapshot.id.clone(),
                time: verdict.snapshot.time,
                reasons: verdict.reasons,
            });
        } else {
            forgotten.push(reference(verdict.snapshot));
        }
    }
    let mut prune = observation.prune_pending;
    let newest = present.iter().map(|one| one.time).max();
    if !forgotten.is_empty() {
        let task = Task::Forget(name.clone());
        if let Some(wait) = held_back(desire, observed, &task, newest, now) {
            actions.push(wait);
        } else {
            prune = true;
            actions.push(Action::Forget {
                policy: desire.key(),
                destination: name.clone(),
                snapshots: forgotten,
                kept,
            });
        }
    }
    if prune {
        let task = Task::Prune(name.clone());
        if observation.busy {
            actions.push(Action::wait(
                None,
                format!("{name} is pruned when the runs that use it have ended"),
            ));
        } else {
            let wait = held_back(desire, observed, &task, newest, now);
            actions.push(wait.unwrap_or_else(|| Action::Prune {
                destination: name.clone(),
            }));
        }
    }
}

/// The wait that a failed attempt imposes, if one does. A backup that was made after the attempt
/// (`newest`) is a reason to try at once.
fn held_back(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    task: &Task,
    newest: Option<Timestamp>,
    now: Timestamp,
) -> Option<Action> {
    let attempts = observed.attempts.get(task)?;
    if newest.is_some_and(|newest| newest > attempts.ended) {
        return None;
    }
    let at = retry_at(attempts, desire.fingerprint);
    if at.is_some_and(|at| at <= now) {
        return None;
    }
    let (thing, destination) = match task {
        Task::Copy(name) => ("copy to", name.as_str()),
        Task::Forget(name) => ("forget at", name.as_str()),
        Task::Prune(name) => ("prune", name.as_str()),
        Task::Backup | Task::Request(_) => ("back up to", ""),
    };
    Some(Action::wait(
        at,
        match at {
            Some(_) => format!(
                "another try to {thing} {destination} after {} that failed: {}",
                attempts.failures, attempts.message
            ),
            None => format!(
                "the last try to {thing} {destination} failed, and another makes no sense before something changes: {}",
                attempts.message
            ),
        },
    ))
}

fn reference(snapshot: &Snapshot) -> SnapshotRef {
    SnapshotRef {
        id: snapshot.id.clone(),
        time: snapshot.time,
    }
}
