//! What failed of a policy, as its status remembers it: runs are cleaned up, and what a person has to
//! know, and a plan has to wait for, must not go with them.

use std::collections::BTreeMap;

use holdfast_crds::meta::Time;
use holdfast_crds::{BackupPolicySpec, PolicyFailure, PolicyTask};
use holdfast_engine::class::ErrorClass;
use jiff::Timestamp;

use crate::journal::FailureClass;
use crate::plan::observed::{Attempts, Task};

/// What is remembered of the destinations that the policy still has.
pub(super) fn known(
    spec: &BackupPolicySpec,
    failures: &[PolicyFailure],
) -> BTreeMap<Task, Attempts> {
    failures
        .iter()
        .filter(|failure| {
            let place = failure.destination.as_ref();
            place.is_none_or(|place| spec.destinations.iter().any(|one| one.name == *place))
        })
        .filter_map(|failure| Some((task(failure)?, attempts(failure))))
        .collect()
}

/// What still stands, for a person: a backup that was asked for and failed is made good by any that
/// succeeded since, and of several the last is told.
pub(super) fn standing(
    attempts: &BTreeMap<Task, Attempts>,
    last_success: Option<Timestamp>,
) -> BTreeMap<&Task, &Attempts> {
    let asked = |task: &Task| matches!(task, Task::Request(_));
    let last_asked = attempts
        .iter()
        .filter(|(task, _)| asked(task))
        .filter(|(_, attempts)| last_success.is_none_or(|success| success < attempts.ended))
        .max_by_key(|(_, attempts)| attempts.ended)
        .map(|(task, _)| task);
    attempts
        .iter()
        .filter(|(task, _)| !asked(task) || Some(*task) == last_asked)
        .collect()
}

/// As the status holds it.
pub(super) fn told(standing: &BTreeMap<&Task, &Attempts>) -> Vec<PolicyFailure> {
    standing
        .iter()
        .map(|(task, attempts)| {
            let (task, destination, backup) = match task {
                Task::Backup => (PolicyTask::Backup, None, None),
                Task::Request(backup) => (PolicyTask::Backup, None, Some(backup)),
                Task::Copy(destination) => (PolicyTask::Copy, Some(destination), None),
                Task::Forget(destination) => (PolicyTask::Forget, Some(destination), None),
                Task::Prune(destination) => (PolicyTask::Prune, Some(destination), None),
            };
            PolicyFailure {
                task,
                destination: destination.cloned(),
                backup: backup.cloned(),
                attempts: attempts.failures,
                class: word(attempts.class).to_owned(),
                message: attempts.message.clone(),
                time: Time(attempts.ended),
                scheduled_for: attempts.scheduled_for.map(Time),
                fingerprint: attempts.fingerprint.clone(),
                interrupted: attempts.interrupted,
            }
        })
        .collect()
}

fn task(failure: &PolicyFailure) -> Option<Task> {
    let place = failure.destination.clone();
    match failure.task {
        PolicyTask::Backup => Some(failure.backup.clone().map_or(Task::Backup, Task::Request)),
        PolicyTask::Copy => place.map(Task::Copy),
        PolicyTask::Forget => place.map(Task::Forget),
        PolicyTask::Prune => place.map(Task::Prune),
    }
}

fn attempts(failure: &PolicyFailure) -> Attempts {
    Attempts {
        failures: failure.attempts,
        class: class(&failure.class).into(),
        message: failure.message.clone(),
        ended: failure.time.0,
        fingerprint: failure.fingerprint.clone(),
        scheduled_for: failure.scheduled_for.as_ref().map(|time| time.0),
        interrupted: failure.interrupted,
    }
}

fn word(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Transient => "transient",
        ErrorClass::Waiting => "waiting",
        ErrorClass::Permanent => "permanent",
        ErrorClass::Damaged => "damaged",
    }
}

fn class(word: &str) -> FailureClass {
    match word {
        "waiting" => FailureClass::Waiting,
        "permanent" => FailureClass::Permanent,
        "damaged" => FailureClass::Damaged,
        _ => FailureClass::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(ended: &str, class: ErrorClass) -> Attempts {
        Attempts {
            failures: 2,
            class,
            message: "the disk is full".to_owned(),
            ended: ended.parse().unwrap(),
            fingerprint: Some("a".to_owned()),
            scheduled_for: None,
            interrupted: true,
        }
    }

    fn spec() -> BackupPolicySpec {
        serde_json::from_value(serde_json::json!({
            "source": {"files": {"paths": ["/srv"]}},
            "destinations": [{"name": "disk"}],
        }))
        .unwrap()
    }

    #[test]
    fn what_is_told_is_known_again() {
        let early = "2026-01-01T00:00:00Z";
        let all = BTreeMap::from([
            (Task::Backup, attempts(early, ErrorClass::Transient)),
            (
                Task::Copy("disk".to_owned()),
                attempts(early, ErrorClass::Waiting),
            ),
            (
                Task::Forget("disk".to_owned()),
                attempts(early, ErrorClass::Damaged),
            ),
            (
                Task::Prune("disk".to_owned()),
                attempts(early, ErrorClass::Permanent),
            ),
            (
                Task::Request("now".to_owned()),
                attempts(early, ErrorClass::Permanent),
            ),
        ]);
        let told = told(&standing(&all, None));
        let text = serde_json::to_string(&told).unwrap();
        let read: Vec<PolicyFailure> = serde_json::from_str(&text).unwrap();
        assert_eq!(known(&spec(), &read), all);
        let gone = BackupPolicySpec {
            destinations: Vec::new(),
            ..spec()
        };
        assert_eq!(known(&gone, &read).len(), 2);
    }

    #[test]
    fn a_backup_that_was_asked_for_is_made_good_by_another() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let request = |name: &str| Task::Request(name.to_owned());
        let all = BTreeMap::from([
            (request("one"), attempts(late, ErrorClass::Transient)),
            (request("two"), attempts(early, ErrorClass::Transient)),
        ]);
        let names = |success: Option<&str>| -> Vec<Task> {
            let success = success.map(|time| time.parse().unwrap());
            standing(&all, success).into_keys().cloned().collect()
        };
        assert_eq!(names(None), [request("one")]);
        assert_eq!(names(Some("2026-01-01T12:00:00Z")), [request("one")]);
        assert_eq!(names(Some("2026-01-03T00:00:00Z")), []);
    }
}
