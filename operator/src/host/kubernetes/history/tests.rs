//! Tests of the history: Jobs as the API server tells of them.

use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use super::super::job::{RunRecord, TaskKind, WorkOutcome, WorkResult};
use super::super::record::{JobRecord, Kept, OUTCOME_ANNOTATION, PURPOSE_ANNOTATION, Purpose};
use super::*;
use crate::journal::{Figures, Outcome, RunKind};
use crate::plan::observed::PolicyHistory;

fn policy() -> Name {
    Name::new("default", "shop")
}

fn job(number: u8, kept: Option<&Kept>) -> Job {
    let purpose = Purpose {
        policy: Some("shop".to_owned()),
        scheduled_for: Some(at(number, 0)),
        fingerprint: Some("f".to_owned()),
        destinations: [("box".to_owned(), "other/box".to_owned())].into(),
        ..Purpose::default()
    };
    let mut annotations = json!({PURPOSE_ANNOTATION: serde_json::to_string(&purpose).unwrap()});
    if let Some(kept) = kept {
        annotations[OUTCOME_ANNOTATION] = serde_json::to_string(kept).unwrap().into();
    }
    serde_json::from_value(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "namespace": "default", "name": format!("shop-{number}"), "uid": format!("u{number}"),
            "resourceVersion": if kept.is_some() { "20" } else { "10" },
            "creationTimestamp": at(number, 1),
            "labels": {"app.kubernetes.io/managed-by": "holdfast", "holdfast.dev/run": "backup"},
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupPolicy", "name": "shop",
                "uid": "p", "controller": true,
            }],
        },
    }))
    .unwrap()
}

fn at(hour: u8, second: u8) -> jiff::Timestamp {
    format!("2026-03-01T{hour:02}:00:{second:02}Z")
        .parse()
        .unwrap()
}

fn kept(number: u8, result: WorkResult) -> Kept {
    let mut outcome = match result {
        WorkResult::Succeeded => WorkOutcome::new(result, None),
        _ => WorkOutcome::interrupted("OOMKilled"),
    };
    if result == WorkResult::Succeeded {
        outcome.runs.push(RunRecord {
            id: format!("run-{number}"),
            kind: RunKind::Backup,
            destination: Some("box".to_owned()),
            destination_namespace: None,
            started: at(number, 2),
            ended: at(number, 3),
            outcome: Outcome::Succeeded,
            error: None,
            figures: Figures::default(),
            snapshot: Some("ab".to_owned()),
        });
    }
    Kept {
        holder: "pod".to_owned(),
        started: at(number, 2),
        ended: at(number, 3),
        outcome,
    }
}

fn record(number: u8, kept: Option<&Kept>) -> JobRecord {
    JobRecord::of(&job(number, kept)).unwrap()
}

#[test]
fn a_job_is_read_as_it_was_written() {
    let record = record(1, None);
    assert_eq!(record.kind, TaskKind::Backup);
    assert_eq!(record.policy(), Some(policy()));
    assert_eq!(record.destination("box"), Name::new("other", "box"));
    assert_eq!(record.purpose.scheduled_for, Some(at(1, 0)));
    assert!(record.is_open() && !record.is_to_be_read());
    let mut foreign = job(1, None);
    foreign.metadata.labels = None;
    assert_eq!(JobRecord::of(&foreign), None);
}

#[test]
fn one_that_goes_on_stands_in_the_way_and_says_for_which_time_it_is() {
    let history = History::default();
    history.put(record(1, None));
    let runs = history.runs(&RunQuery::of_policy("default", "shop"));
    let read = PolicyHistory::of(&runs);
    assert_eq!(read.running.len(), 1);
    assert_eq!(read.last_scheduled, Some(at(1, 0)));
    assert!(read.attempts.is_empty());
}

#[test]
fn a_pod_that_was_killed_is_an_attempt_that_failed() {
    let history = History::default();
    history.put(record(1, None));
    history.put(record(1, Some(&kept(1, WorkResult::Interrupted))));
    // What an older watch event says does not undo it.
    history.put(record(1, None));
    let runs = history.runs(&RunQuery::of_policy("default", "shop"));
    let read = PolicyHistory::of(&runs);
    assert!(read.running.is_empty());
    let (_, attempts) = read.attempts.first_key_value().unwrap();
    assert!(
        attempts.message.contains("OOMKilled"),
        "{}",
        attempts.message
    );
    assert_eq!(attempts.scheduled_for, Some(at(1, 0)));
}

#[test]
fn sums_are_made_once_and_outlive_the_jobs() {
    let history = History::default();
    let well = kept(1, WorkResult::Succeeded);
    history.put(record(1, Some(&well)));
    history.complete();
    history.put(record(2, Some(&kept(2, WorkResult::Interrupted))));
    history.put(record(2, Some(&kept(2, WorkResult::Interrupted))));
    let summary = history.policy_summary(&policy());
    assert_eq!(summary.runs[&RunKind::Backup].len(), 2);
    assert_eq!(summary.consecutive_failures[&RunKind::Backup], 1);
    history.remove(&Name::new("default", "shop-1"));
    history.remove(&Name::new("default", "shop-2"));
    assert_eq!(history.policy_summary(&policy()), summary);
    let at_box = history.destination_summary(&Name::new("other", "box"));
    assert_eq!(at_box.last_success[&RunKind::Backup], at(1, 3));
    assert!(history.of_policy(&policy()).is_empty());
}

/// One that was deleted and created again asks anew: the Job of the one before it, which is still
/// there, tells nothing of it.
#[test]
fn what_an_object_owns_goes_by_its_uid() {
    let history = History::default();
    let mut job = job(1, Some(&kept(1, WorkResult::Succeeded)));
    let owner = &mut job.metadata.owner_references.as_mut().unwrap()[0];
    owner.kind = "Restore".to_owned();
    owner.name = "back".to_owned();
    owner.uid = "first".to_owned();
    history.put(JobRecord::of(&job).unwrap());
    let restore = |uid: &str| -> holdfast_crds::Restore {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "back", "uid": uid},
            "spec": {"from": {"policy": "shop"}, "to": {"original": {}}},
        }))
        .unwrap()
    };
    assert_eq!(history.owned_by(&restore("first")).len(), 1);
    assert!(history.owned_by(&restore("second")).is_empty());
}

#[test]
fn one_that_goes_on_has_been_tried_already() {
    let history = History::default();
    history.complete();
    history.put(record(1, Some(&kept(1, WorkResult::Succeeded))));
    history.put(record(2, None));
    let sums = history.sums();
    let (_, summary) = &sums.policies[0];
    assert_eq!(summary.last_attempt[&RunKind::Backup], at(2, 1));
    assert_eq!(sums.running[&policy()], 1);
    // It is counted once, when it has ended.
    assert_eq!(summary.runs[&RunKind::Backup].values().sum::<u64>(), 1);
}

#[test]
fn a_restore_is_counted_under_the_policy_it_is_from_and_stands_in_no_way() {
    let history = History::default();
    history.complete();
    let mut job = job(1, Some(&kept(1, WorkResult::Interrupted)));
    let purpose = Purpose {
        from_policy: Some("shop".to_owned()),
        object: Some("back".to_owned()),
        ..Purpose::default()
    };
    let annotations = job.metadata.annotations.as_mut().unwrap();
    let text = serde_json::to_string(&purpose).unwrap();
    annotations.insert(PURPOSE_ANNOTATION.to_owned(), text);
    let labels = job.metadata.labels.as_mut().unwrap();
    labels.insert("holdfast.dev/run".to_owned(), "restore".to_owned());
    history.put(JobRecord::of(&job).unwrap());
    let summary = history.policy_summary(&policy());
    assert_eq!(summary.consecutive_failures[&RunKind::Restore], 1);
    assert!(history.of_policy(&policy()).is_empty());
}
