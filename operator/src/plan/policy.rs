//! The plan of a BackupPolicy: back up to the first destination, copy to the others, forget by
//! retention, prune.

use holdfast_crds::{BackupPolicySpec, PolicyDestination, ScheduleError};
use holdfast_engine::class::ErrorClass;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::action::{Action, NEW_BACKUP, Plan};
use super::backup::{self, Start};
use super::observed::{DestinationObservation, DestinationState, PolicyObservation, Snapshot};
use super::schedule::Timetable;
use super::upkeep;

/// A policy as it is declared.
#[derive(Debug, Clone)]
pub struct PolicyDesire<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its spec.
    pub spec: &'a BackupPolicySpec,
    /// Its schedule, read; absent when it has none.
    pub timetable: Option<Timetable>,
    /// Stands for its spec, its destinations' and their secrets: it changes when one of them does.
    pub fingerprint: &'a str,
}

impl<'a> PolicyDesire<'a> {
    /// Reads a policy.
    ///
    /// # Errors
    /// When its schedule is wrong.
    pub fn new(
        namespace: &'a str,
        name: &'a str,
        spec: &'a BackupPolicySpec,
        fingerprint: &'a str,
    ) -> Result<Self, ScheduleError> {
        let timetable = spec
            .schedule
            .as_ref()
            .map(|schedule| Timetable::new(schedule, &format!("{namespace}/{name}")))
            .transpose()?;
        Ok(Self {
            namespace,
            name,
            spec,
            timetable,
            fingerprint,
        })
    }

    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The time zone in which retention counts: that of the schedule.
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        self.timetable
            .as_ref()
            .map_or(TimeZone::UTC, |timetable| timetable.zone().clone())
    }

    /// The destination that is written.
    #[must_use]
    pub fn first(&self) -> Option<&'a PolicyDestination> {
        self.spec.destinations.first()
    }
}

/// The plan of a policy.
///
/// - A run of the policy in progress: wait for it.
/// - A backup is due, to be repeated, or asked for: make it. What follows it is a forecast.
/// - Backups that another destination lacks and would keep: copy them there.
/// - Backups that no rule wants: forget them, destination by destination. The newest always stays,
///   and so does one that another destination still waits for; when that destination is away for
///   long, this holds back no more than its own retention would keep.
/// - After forgetting, or a prune that failed: prune, unless another run uses the repository.
/// - Suspended: nothing but backups that are asked for.
#[must_use]
pub fn plan_policy(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::of("BackupPolicy", desire.namespace, desire.name);
    if let Some(running) = observed.running.first() {
        plan.actions.push(Action::wait(
            None,
            format!(
                "a {} of this policy is in progress since {} (run {})",
                running.kind, running.started, running.id
            ),
        ));
        return plan;
    }
    let decided = backup::decide(desire, observed, now);
    let Some(start) = decided.start else {
        if !desire.spec.suspend {
            upkeep::plan(desire, observed, now, &mut plan.actions);
        }
        plan.actions.extend(decided.notes);
        return plan;
    };
    let Some(first) = desire.first() else {
        return plan;
    };
    match writable(first, observed) {
        Err(refusal) => plan.actions.push(refusal),
        Ok(empty) => {
            if empty {
                plan.actions.push(Action::InitRepository {
                    destination: first.name.clone(),
                    chunker_of: None,
                });
            }
            plan.actions
                .push(backup_action(desire, first, start.clone()));
            if !desire.spec.suspend {
                let after = with_new_backup(observed, first, &start, now);
                upkeep::plan(desire, &after, now, &mut plan.forecast);
                plan.forecast.retain(Action::is_work);
            }
        }
    }
    plan.actions.extend(decided.notes);
    plan
}

/// What is left to do for a policy besides backups, though one may be due: copies, forgetting and
/// prunes. A suspended policy has none.
#[must_use]
pub fn plan_upkeep(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::of("BackupPolicy", desire.namespace, desire.name);
    if observed.running.is_empty() && !desire.spec.suspend {
        upkeep::plan(desire, observed, now, &mut plan.actions);
    }
    plan
}

fn backup_action(desire: &PolicyDesire<'_>, first: &PolicyDestination, start: Start) -> Action {
    Action::Backup {
        policy: desire.key(),
        destination: first.name.clone(),
        reason: start.reason,
        scheduled_for: start.scheduled_for,
        tags: start.tags,
    }
}

/// What is told of a destination that is not declared, and of one that the policy may not use: the
/// same, or one tenant would learn what another one has.
#[must_use]
pub fn no_destination(name: &str) -> String {
    format!(
        "there is no Destination {name} that this policy may use; declare it, correct its name in the policy, or list the policy's namespace in its allowedNamespaces"
    )
}

/// Whether the destination may be written, and whether its repository must be made first. One that
/// cannot be used at the moment is tried all the same: the attempt fails, is recorded, and repeated.
pub(super) fn writable(
    destination: &PolicyDestination,
    observed: &PolicyObservation,
) -> Result<bool, Action> {
    let name = &destination.name;
    let Some(DestinationObservation {
        state,
        known_repository_id: known,
        ..
    }) = observed.destinations.get(name)
    else {
        return Err(Action::refuse(
            ErrorClass::Waiting,
            "DestinationNotFound",
            no_destination(name),
        ));
    };
    writable_place(name, state, known.as_deref())
}

/// The same of one place, of which the repository is known that was seen there before.
///
/// # Errors
/// The refusal.
pub fn writable_place(
    name: &str,
    state: &DestinationState,
    known: Option<&str>,
) -> Result<bool, Action> {
    match (state, known) {
        (DestinationState::Empty, Some(known)) => Err(Action::refuse(
            ErrorClass::Waiting,
            "RepositoryMissing",
            repository_missing(name, known),
        )),
        (DestinationState::Open { repository_id, .. }, Some(known)) if known != repository_id => {
            Err(Action::refuse(
                ErrorClass::Waiting,
                "RepositoryChanged",
                repository_changed(name, repository_id, known),
            ))
        }
        (DestinationState::Empty, None) => Ok(true),
        (DestinationState::Open { .. } | DestinationState::Unusable { .. }, _) => Ok(false),
    }
}

/// What is told of a place where a known repository is not any more.
#[must_use]
pub fn repository_missing(name: &str, known: &str) -> String {
    format!(
        "the repository {} was at {name} and is not there any more; an empty one is not put in its place, since the disk may not be mounted or the path may have changed. Bring it back, or give the Destination another name to start anew",
        super::action::short(known)
    )
}

/// What is told of a place where another repository lies than the known one.
#[must_use]
pub fn repository_changed(name: &str, found: &str, known: &str) -> String {
    format!(
        "{name} holds the repository {} and held {} before; nothing is written to it. Correct the place, or give the Destination another name if this is meant",
        super::action::short(found),
        super::action::short(known)
    )
}

/// The observation as it will be when the backup has been made.
fn with_new_backup(
    observed: &PolicyObservation,
    first: &PolicyDestination,
    start: &Start,
    now: Timestamp,
) -> PolicyObservation {
    let mut after = observed.clone();
    if let Some(destination) = after.destinations.get_mut(&first.name) {
        let new = Snapshot {
            id: NEW_BACKUP.to_owned(),
            identity: NEW_BACKUP.to_owned(),
            time: now,
            tags: start.tags.clone(),
        };
        match &mut destination.state {
            DestinationState::Open { snapshots, .. } => snapshots.push(new),
            state @ DestinationState::Empty => {
                *state = DestinationState::Open {
                    repository_id: NEW_BACKUP.to_owned(),
                    snapshots: vec![new],
                };
            }
            DestinationState::Unusable { .. } => {}
        }
    }
    after
}

impl PolicyObservation {
    /// Whether any destination holds a backup of the policy.
    #[must_use]
    pub fn has_backups(&self) -> bool {
        self.destinations.values().any(|destination| {
            matches!(&destination.state, DestinationState::Open { snapshots, .. } if !snapshots.is_empty())
        })
    }
}
