//! What a plan starts from: the state that was observed, as plain values.

use std::collections::BTreeMap;

use holdfast_engine::class::ErrorClass;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::journal::{Outcome, Run, RunKind};

/// One backup of the policy at one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its id at this destination.
    pub id: String,
    /// What its copies at other destinations have in common with it: the id of the snapshot that
    /// was first written.
    pub identity: String,
    /// The moment that it shows.
    pub time: Timestamp,
    /// The tags that the user chose, without those of Holdfast.
    pub tags: Vec<String>,
}

/// What is known of one destination of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationState {
    /// It is open, and these are the snapshots in it that are of this policy. Those of other
    /// policies, and of others altogether, are left out.
    Open {
        /// The id of the repository.
        repository_id: String,
        /// The backups of this policy, in any order.
        snapshots: Vec<Snapshot>,
    },
    /// The place can be reached, is empty, and holds no repository yet.
    Empty,
    /// It cannot be used now, or the declaration of it is missing or wrong.
    Unusable {
        /// What comes next.
        class: ErrorClass,
        /// The reason for a condition, in CamelCase.
        reason: String,
        /// What was attempted, what came back, what to do.
        message: String,
    },
}

/// One destination of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationObservation {
    /// What is known of it now.
    pub state: DestinationState,
    /// The id of the repository that was seen here before; its loss is not repaired by an empty one.
    pub known_repository_id: Option<String>,
    /// Whether backups were forgotten since the last prune that ended well, or a prune failed.
    pub prune_pending: bool,
    /// Whether a run, of any policy, is writing to it or pruning it.
    pub busy: bool,
}

/// How the latest attempts at one thing ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    /// Failed attempts since the last success.
    pub failures: u32,
    /// The class of the latest failure. A run that was killed counts as transient.
    pub class: ErrorClass,
    /// What went wrong the last time, as a person reads it.
    pub message: String,
    /// When the latest attempt ended.
    pub ended: Timestamp,
    /// The fingerprint of the spec and secrets it was made with.
    pub fingerprint: Option<String>,
    /// The latest time that one of them was scheduled for, if any was.
    pub scheduled_for: Option<Timestamp>,
    /// Whether the process that made the latest attempt was killed.
    pub interrupted: bool,
}

/// A run that is in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id in the journal.
    pub id: String,
    /// What it does.
    pub kind: RunKind,
    /// Since when.
    pub started: Timestamp,
}

/// What is known of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyObservation {
    /// When the policy was first seen (in a cluster: created).
    pub first_seen: Timestamp,
    /// For which time the latest scheduled backup started.
    pub last_scheduled: Option<Timestamp>,
    /// Whether a backup of the policy was ever made, or tried on schedule, as far as the journal
    /// goes back.
    pub ever_ran: bool,
    /// By name; every destination of the policy must be there.
    pub destinations: BTreeMap<String, DestinationObservation>,
    /// Runs of this policy in progress that stand in the way of others: those that change its
    /// backups, and restores into its own source.
    pub running: Vec<Running>,
    /// Failed attempts that no success followed, by what was attempted.
    pub attempts: BTreeMap<Task, Attempts>,
    /// Backup objects that ask for a run and have not had one.
    pub requests: Vec<BackupRequest>,
    /// A Restore into the policy's own source that is not done yet: a backup that ran before it
    /// would take what is to be replaced for the newest restore point.
    pub restore_pending: Option<String>,
}

/// What can be attempted for a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// A backup on schedule.
    Backup,
    /// The backup that a Backup object asks for, by its name.
    Request(String),
    /// A copy to a destination.
    Copy(String),
    /// Forgetting at a destination.
    Forget(String),
    /// A prune of a destination.
    Prune(String),
}

/// A Backup object that asks for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRequest {
    /// Its name.
    pub name: String,
    /// Tags besides those of the policy.
    pub tags: Vec<String>,
    /// When it was created, or first seen.
    pub created: Timestamp,
}

impl Attempts {
    /// Lets what failed before `moment` be tried again at once: somebody asked for a pass. That the
    /// process was killed is not forgotten.
    pub fn retry_if_before(&mut self, moment: Timestamp) {
        if self.ended < moment {
            self.class = ErrorClass::Transient;
            self.failures = self.failures.min(1);
            self.ended = Timestamp::UNIX_EPOCH;
        }
    }

    /// The failures since the last success among `runs`, which are those at one thing, newest
    /// first. `None` when the latest ended well, or there is none.
    #[must_use]
    pub fn of<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Option<Self> {
        Self::since(None, runs)
    }

    /// The same where older runs may be gone, and `known` is what they came to.
    #[must_use]
    pub fn since<'a>(
        known: Option<&Self>,
        runs: impl IntoIterator<Item = &'a Run>,
    ) -> Option<Self> {
        let mut attempts: Option<Self> = None;
        for run in runs {
            let Some(ending) = &run.ending else { continue };
            // A status tells the time to the second.
            if known.is_some_and(|known| ending.at.as_second() <= known.ended.as_second()) {
                break;
            }
            if ending.outcome == Outcome::Succeeded {
                return attempts;
            }
            match &mut attempts {
                Some(attempts) => {
                    attempts.failures = attempts.failures.saturating_add(1);
                    attempts.scheduled_for = attempts.scheduled_for.max(run.scheduled_for);
                }
                None => {
                    let error = ending.error.as_ref();
                    attempts = Some(Self {
                        failures: 1,
                        class: error.map_or(ErrorClass::Transient, |error| error.class.into()),
                        message: error.map_or_else(String::new, |error| error.message.clone()),
                        ended: ending.at,
                        fingerprint: run.fingerprint.clone(),
                        scheduled_for: run.scheduled_for,
                        interrupted: ending.outcome == Outcome::Interrupted,
                    });
                }
            }
        }
        match (attempts, known) {
            (Some(attempts), Some(known)) => Some(Self {
                failures: attempts.failures.saturating_add(known.failures),
                scheduled_for: attempts.scheduled_for.max(known.scheduled_for),
                ..attempts
            }),
            (attempts, known) => attempts.or_else(|| known.cloned()),
        }
    }
}

/// The part of a policy's observation that the journal knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyHistory {
    /// For which time the latest scheduled backup started.
    pub last_scheduled: Option<Timestamp>,
    /// Whether a backup was ever made, or tried on schedule.
    pub ever_ran: bool,
    /// Runs in progress.
    pub running: Vec<Running>,
    /// Failed attempts that no success followed.
    pub attempts: BTreeMap<Task, Attempts>,
}

impl PolicyHistory {
    /// Reads it from the policy's runs, newest first.
    #[must_use]
    pub fn of(runs: &[Run]) -> Self {
        Self::since(&BTreeMap::new(), runs)
    }

    /// The same where older runs may be gone, and `known` is what failed among them.
    #[must_use]
    pub fn since(known: &BTreeMap<Task, Attempts>, runs: &[Run]) -> Self {
        let mut by_task: BTreeMap<Task, Vec<&Run>> = known
            .keys()
            .map(|task| (task.clone(), Vec::new()))
            .collect();
        let mut history = Self::default();
        for run in runs {
            // A restore or an export only reads the backups; one into the policy's own source writes
            // what a backup would read.
            let in_the_way =
                run.kind.changes_backups() || run.kind == RunKind::Prune || run.into_source;
            if run.ending.is_none() && in_the_way {
                history.running.push(Running {
                    id: run.id.clone(),
                    kind: run.kind,
                    started: run.started,
                });
            }
            if run.kind == RunKind::Backup {
                // One by hand that failed leaves the first run of the schedule to be made.
                history.ever_ran |= run.scheduled_for.is_some() || run.succeeded();
                history.last_scheduled = history.last_scheduled.max(run.scheduled_for);
            }
            if let Some(task) = Task::of(run) {
                by_task.entry(task).or_default().push(run);
            }
        }
        history.attempts = by_task
            .into_iter()
            .filter_map(|(task, runs)| {
                let attempts = Attempts::since(known.get(&task), runs)?;
                Some((task, attempts))
            })
            .collect();
        history
    }
}

impl Task {
    /// What a run attempted, where a plan decides about its repetition.
    #[must_use]
    pub fn of(run: &Run) -> Option<Self> {
        let destination = || run.destination.clone();
        match run.kind {
            RunKind::Backup => Some(run.object.clone().map_or(Self::Backup, Self::Request)),
            RunKind::Copy => destination().map(Self::Copy),
            RunKind::Forget => destination().map(Self::Forget),
            RunKind::Prune => destination().map(Self::Prune),
            RunKind::Restore | RunKind::Check | RunKind::Delete | RunKind::Export => None,
        }
    }
}

impl From<&holdfast_engine::repository::Snapshot> for Snapshot {
    fn from(snapshot: &holdfast_engine::repository::Snapshot) -> Self {
        use holdfast_engine::repository::{POLICY_TAG, TAG};
        Self {
            id: snapshot.id.clone(),
            identity: snapshot.identity().to_owned(),
            time: snapshot.time,
            tags: snapshot
                .tags
                .iter()
                .filter(|tag| *tag != TAG && !tag.starts_with(POLICY_TAG))
                .cloned()
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is known of runs that are gone counts, once, until one ends well.
    #[test]
    fn failures_outlive_their_runs() {
        let run = |second: u32, outcome: &str| -> Run {
            serde_json::from_value(json!({
                "id": "1", "kind": "backup", "namespace": "default", "policy": "shop",
                "started": format!("2026-01-01T00:00:{second:02}Z"),
                "holder": {"id": "a", "pid": 1, "bootId": ""},
                "ending": {"at": format!("2026-01-01T00:00:{second:02}.7Z"), "outcome": outcome},
            }))
            .unwrap()
        };
        let known = Attempts {
            ended: "2026-01-01T00:00:05Z".parse().unwrap(),
            failures: 3,
            ..Attempts::of(&[run(5, "Failed")]).unwrap()
        };
        let count = |runs: &[Run]| {
            Attempts::since(Some(&known), runs).map_or(0, |attempts| attempts.failures)
        };
        assert_eq!(count(&[]), 3);
        assert_eq!(count(&[run(5, "Failed")]), 3);
        assert_eq!(count(&[run(9, "Failed"), run(5, "Failed")]), 4);
        assert_eq!(count(&[run(9, "Failed"), run(7, "Succeeded")]), 1);
        assert_eq!(count(&[run(7, "Succeeded"), run(5, "Failed")]), 0);
        let all = BTreeMap::from([(Task::Backup, known.clone())]);
        assert_eq!(PolicyHistory::since(&all, &[]).attempts, all);
    }

    /// A backup by hand that failed leaves `immediate` in force; one on schedule, or one that
    /// succeeded, does not.
    #[test]
    fn only_a_scheduled_or_a_successful_backup_counts_as_the_first() {
        let run = |scheduled: Option<&str>, outcome: &str| -> Run {
            serde_json::from_value(json!({
                "id": "1", "kind": "backup", "namespace": "default", "policy": "shop",
                "scheduledFor": scheduled, "started": "2026-01-01T00:00:00Z",
                "holder": {"id": "a", "pid": 1, "bootId": ""},
                "ending": {"at": "2026-01-01T00:00:01Z", "outcome": outcome},
            }))
            .unwrap()
        };
        let ever = |run| PolicyHistory::of(&[run]).ever_ran;
        assert!(!ever(run(None, "Failed")));
        assert!(ever(run(None, "Succeeded")));
        assert!(ever(run(Some("2026-01-01T00:00:00Z"), "Failed")));
    }
}
