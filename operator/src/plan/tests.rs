//! Tests of the plans of policies, restores and deletions: states in, actions out.

use std::collections::BTreeMap;

use holdfast_crds::{BackupPolicySpec, RestoreSpec};
use holdfast_engine::class::ErrorClass;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::deletion::{Deleted, DeletionSite, plan_deletion};
use super::observed::*;
use super::*;
use crate::journal::RunKind;

const FINGERPRINT: &str = "f1";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Midnight of a day of January 2026.
fn day(day: u32) -> Timestamp {
    at(&format!("2026-01-{day:02}T00:00:00Z"))
}

fn snapshot(id: &str, time: Timestamp) -> Snapshot {
    Snapshot {
        id: id.to_owned(),
        identity: id.to_owned(),
        time,
        tags: Vec::new(),
    }
}

fn copy_of(original: &str, time: Timestamp) -> Snapshot {
    Snapshot {
        id: format!("copy-{original}"),
        identity: original.to_owned(),
        time,
        tags: Vec::new(),
    }
}

fn site(state: DestinationState) -> DestinationObservation {
    DestinationObservation {
        state,
        known_repository_id: None,
        prune_pending: false,
        busy: false,
    }
}

fn holding(snapshots: Vec<Snapshot>) -> DestinationState {
    DestinationState::Open {
        repository_id: "repository".to_owned(),
        snapshots,
    }
}

fn unreachable() -> DestinationState {
    DestinationState::Unusable {
        class: ErrorClass::Transient,
        reason: "Unreachable".to_owned(),
        message: "cannot connect".to_owned(),
    }
}

fn spec(more: serde_json::Value) -> BackupPolicySpec {
    let mut spec = json!({
        "source": {"files": {"paths": ["/srv"]}},
        "schedule": {"cron": "0 3 * * *"},
        "destinations": [{"name": "first"}],
        "tags": ["prod"],
    });
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

/// A policy first seen on 1 January, last run on the 9th, with nothing wrong.
fn observation(states: &[(&str, DestinationState)]) -> PolicyObservation {
    PolicyObservation {
        first_seen: day(1),
        last_scheduled: Some(at("2026-01-09T03:00:00Z")),
        ever_ran: true,
        destinations: states
            .iter()
            .map(|(name, state)| ((*name).to_owned(), site(state.clone())))
            .collect(),
        running: Vec::new(),
        attempts: BTreeMap::new(),
        requests: Vec::new(),
        restore_pending: None,
    }
}

fn failed(failures: u32, class: ErrorClass, ended: Timestamp) -> Attempts {
    Attempts {
        failures,
        class,
        message: "cannot connect".to_owned(),
        ended,
        fingerprint: Some(FINGERPRINT.to_owned()),
        scheduled_for: Some(at("2026-01-09T03:00:00Z")),
        interrupted: false,
    }
}

fn planned(spec: &BackupPolicySpec, observed: &PolicyObservation, now: &str) -> Plan {
    let desire = PolicyDesire::new("default", "shop", spec, FINGERPRINT).unwrap();
    let plan = plan_policy(&desire, observed, at(now));
    // A plan is printed and written down: both must work for every one.
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    assert!(plan.to_string().starts_with("BackupPolicy default/shop\n"));
    plan
}

fn texts(actions: &[Action]) -> Vec<String> {
    actions.iter().map(ToString::to_string).collect()
}

fn work(plan: &Plan) -> Vec<String> {
    plan.work().map(ToString::to_string).collect()
}

const QUIET: &str = "2026-01-09T12:00:00Z";

#[test]
fn nothing_to_do_waits_for_the_next_time() {
    let observed = observation(&[("first", holding(vec![snapshot("a", day(9))]))]);
    let plan = planned(&spec(json!({})), &observed, QUIET);
    assert_eq!(
        texts(&plan.actions),
        ["wait until 2026-01-10T03:00:00Z: the next backup is due"]
    );
    assert_eq!(plan.next(), Some(at("2026-01-10T03:00:00Z")));
}

#[test]
fn a_due_backup_is_made_and_what_follows_is_told() {
    let policy = spec(json!({
        "destinations": [{"name": "first"}, {"name": "second", "retention": {"keepLast": 5}}],
        "retention": {"keepLast": 1},
    }));
    let observed = observation(&[
        ("first", holding(vec![snapshot("aaaaaaaaaa", day(9))])),
        ("second", holding(vec![copy_of("aaaaaaaaaa", day(9))])),
    ]);
    let plan = planned(&policy, &observed, "2026-01-11T04:00:00Z");
    assert_eq!(
        texts(&plan.actions),
        [
            "back up default/shop to first: due at 2026-01-11T03:00:00Z, the start before it was missed",
            "wait until 2026-01-12T03:00:00Z: the next backup is due",
        ]
    );
    assert!(matches!(&plan.actions[0], Action::Backup { tags, .. } if tags == &["prod"]));
    assert_eq!(
        texts(&plan.forecast),
        [
            "copy 1 backup of default/shop from first to second: (new) (2026-01-11T04:00:00Z)",
            "forget 1 backup of default/shop at first, 1 stay: aaaaaaaa (2026-01-09T00:00:00Z)",
            "prune first: free what forgotten backups took",
        ]
    );
}

#[test]
fn the_first_backup_makes_the_repository() {
    let mut observed = observation(&[("first", DestinationState::Empty)]);
    observed.last_scheduled = None;
    observed.ever_ran = false;
    let immediate = spec(json!({"schedule": {"cron": "0 3 * * *", "immediate": true}}));
    assert_eq!(
        work(&planned(&immediate, &observed, QUIET)),
        [
            "make the repository of first",
            "back up default/shop to first: due at 2026-01-01T00:00:00Z"
        ]
    );
    observed.first_seen = at(QUIET);
    assert!(work(&planned(&spec(json!({})), &observed, QUIET)).is_empty());
}

#[test]
fn an_empty_place_does_not_replace_a_repository_that_was_there() {
    let mut observed = observation(&[("first", DestinationState::Empty)]);
    observed
        .destinations
        .get_mut("first")
        .unwrap()
        .known_repository_id = Some("5f1c".to_owned());
    let plan = planned(&spec(json!({})), &observed, "2026-01-10T03:00:00Z");
    assert!(work(&plan).is_empty());
    assert_eq!(plan.refusal().unwrap().0, "RepositoryMissing");
    // Nor is one that is another written to.
    observed.destinations.get_mut("first").unwrap().state = holding(Vec::new());
    let plan = planned(&spec(json!({})), &observed, "2026-01-10T03:00:00Z");
    assert!(work(&plan).is_empty());
    assert_eq!(plan.refusal().unwrap().0, "RepositoryChanged");
}

#[test]
fn a_destination_that_is_not_declared_is_told() {
    let plan = planned(&spec(json!({})), &observation(&[]), "2026-01-10T03:00:00Z");
    assert!(work(&plan).is_empty());
    assert_eq!(plan.refusal().unwrap().0, "DestinationNotFound");
}

#[test]
fn a_destination_that_cannot_be_reached_is_tried_so_that_the_failure_is_recorded() {
    let plan = planned(
        &spec(json!({})),
        &observation(&[("first", unreachable())]),
        "2026-01-10T03:00:00Z",
    );
    assert_eq!(
        work(&plan),
        ["back up default/shop to first: due at 2026-01-10T03:00:00Z"]
    );
    assert!(plan.forecast.is_empty());
}

#[test]
fn a_run_in_progress_is_waited_for() {
    let mut observed = observation(&[("first", holding(Vec::new()))]);
    observed.running.push(Running {
        id: "7".into(),
        kind: RunKind::Backup,
        started: day(9),
    });
    let plan = planned(&spec(json!({})), &observed, "2026-01-10T03:00:00Z");
    assert!(work(&plan).is_empty());
    assert!(
        plan.to_string()
            .contains("a backup of this policy is in progress")
    );
}

#[test]
fn a_suspended_policy_does_what_is_asked_for_and_nothing_else() {
    let policy = spec(json!({"suspend": true, "retention": {"keepLast": 1}}));
    let mut observed = observation(&[(
        "first",
        holding(vec![snapshot("a", day(8)), snapshot("b", day(9))]),
    )]);
    let plan = planned(&policy, &observed, "2026-01-10T03:00:00Z");
    assert!(work(&plan).is_empty());
    assert_eq!(plan.next(), None);
    observed.requests.push(BackupRequest {
        name: "now".into(),
        tags: vec!["x".into()],
        created: day(9),
    });
    let plan = planned(&policy, &observed, "2026-01-10T03:00:00Z");
    assert_eq!(
        work(&plan),
        ["back up default/shop to first: Backup now asks for it"]
    );
    assert!(matches!(&plan.actions[0], Action::Backup { tags, .. } if tags == &["prod", "x"]));
    assert!(plan.forecast.is_empty());
}

#[test]
fn requests_come_first_and_one_at_a_time() {
    let mut observed = observation(&[("first", holding(Vec::new()))]);
    for (name, created) in [("second", day(9)), ("first", day(8))] {
        observed.requests.push(BackupRequest {
            name: name.into(),
            tags: vec![],
            created,
        });
    }
    let plan = planned(&spec(json!({})), &observed, "2026-01-10T03:00:00Z");
    assert_eq!(
        work(&plan),
        ["back up default/shop to first: Backup first asks for it"]
    );
}

#[test]
fn a_request_is_not_tried_for_ever() {
    let mut observed = observation(&[("first", holding(Vec::new()))]);
    observed.requests.push(BackupRequest {
        name: "now".into(),
        tags: vec![],
        created: day(8),
    });
    let task = Task::Request("now".into());
    let now = QUIET;
    observed
        .attempts
        .insert(task.clone(), failed(2, ErrorClass::Transient, at(now)));
    let plan = planned(&spec(json!({})), &observed, now);
    assert!(work(&plan).is_empty());
    assert_eq!(plan.next(), Some(at("2026-01-09T12:02:00Z")));
    assert_eq!(
        work(&planned(
            &spec(json!({})),
            &observed,
            "2026-01-09T12:02:00Z"
        ))
        .len(),
        1
    );
    observed
        .attempts
        .insert(task, failed(7, ErrorClass::Transient, day(8)));
    let plan = planned(&spec(json!({})), &observed, now);
    assert!(work(&plan).is_empty());
    assert_eq!(plan.refusal().unwrap().0, "RequestFailed");
}

#[test]
fn a_failed_backup_is_repeated_by_its_class() {
    let ended = at("2026-01-09T03:10:00Z");
    let mut observed = observation(&[("first", holding(Vec::new()))]);
    let mut outcome = |failures, class, now: &str| {
        observed
            .attempts
            .insert(Task::Backup, failed(failures, class, ended));
        let plan = planned(&spec(json!({})), &observed, now);
        (work(&plan).len(), plan.next().unwrap())
    };
    let next = at("2026-01-10T03:00:00Z");
    assert_eq!(
        outcome(1, ErrorClass::Transient, "2026-01-09T03:10:30Z"),
        (0, at("2026-01-09T03:11:00Z"))
    );
    assert_eq!(
        outcome(1, ErrorClass::Transient, "2026-01-09T03:11:00Z"),
        (1, next)
    );
    assert_eq!(
        outcome(4, ErrorClass::Transient, "2026-01-09T03:11:00Z"),
        (0, at("2026-01-09T03:18:00Z"))
    );
    assert_eq!(
        outcome(1, ErrorClass::Waiting, "2026-01-09T03:11:00Z"),
        (0, at("2026-01-09T03:40:00Z"))
    );
    assert_eq!(outcome(1, ErrorClass::Permanent, QUIET), (0, next));
    assert_eq!(outcome(1, ErrorClass::Damaged, QUIET), (0, next));
    // The next time is another one, whatever came of this.
    assert_eq!(
        outcome(1, ErrorClass::Permanent, "2026-01-10T03:00:00Z").0,
        1
    );
}

#[test]
fn a_repeated_backup_keeps_its_scheduled_time_and_its_deadline() {
    let mut observed = observation(&[("first", holding(Vec::new()))]);
    let ended = at("2026-01-09T03:10:00Z");
    observed
        .attempts
        .insert(Task::Backup, failed(3, ErrorClass::Transient, ended));
    let plan = planned(&spec(json!({})), &observed, "2026-01-09T03:20:00Z");
    assert!(matches!(
        &plan.actions[0],
        Action::Backup { scheduled_for: Some(time), reason: BackupReason::Retry { failures: 3 }, .. }
            if *time == at("2026-01-09T03:00:00Z")
    ));
    let strict = spec(json!({"schedule": {"cron": "0 3 * * *", "startingDeadlineSeconds": 600}}));
    assert!(work(&planned(&strict, &observed, "2026-01-09T03:20:00Z")).is_empty());
}

#[test]
fn a_change_of_the_spec_is_a_reason_to_try_again() {
    let mut observed = observation(&[("first", holding(Vec::new()))]);
    let mut attempts = failed(1, ErrorClass::Permanent, at("2026-01-09T03:10:00Z"));
    attempts.fingerprint = Some("before".to_owned());
    observed.attempts.insert(Task::Backup, attempts);
    assert_eq!(work(&planned(&spec(json!({})), &observed, QUIET)).len(), 1);
}

#[test]
fn a_backup_by_hand_that_failed_is_not_repeated() {
    let mut observed = observation(&[("first", holding(Vec::new()))]);
    let mut attempts = failed(1, ErrorClass::Transient, at("2026-01-09T03:10:00Z"));
    attempts.scheduled_for = None;
    observed.attempts.insert(Task::Backup, attempts);
    assert!(work(&planned(&spec(json!({})), &observed, QUIET)).is_empty());
}

#[test]
fn no_backup_runs_before_a_restore_into_its_source() {
    let mut observed = observation(&[("first", holding(vec![snapshot("a", day(9))]))]);
    observed.restore_pending = Some("after-the-fire".to_owned());
    let plan = planned(&spec(json!({})), &observed, "2026-01-10T03:00:00Z");
    assert!(work(&plan).is_empty());
    assert!(plan.to_string().contains("after-the-fire"));
}

#[test]
fn what_a_destination_lacks_and_would_keep_is_copied() {
    let policy = spec(json!({
        "destinations": [{"name": "first"}, {"name": "second", "retention": {"keepLast": 2}}, {"name": "third"}],
    }));
    let all = || {
        vec![
            snapshot("a", day(6)),
            snapshot("b", day(7)),
            snapshot("c", day(8)),
            snapshot("d", day(9)),
        ]
    };
    let observed = observation(&[
        ("first", holding(all())),
        // It has the newest already; of the others it would keep only one.
        ("second", holding(vec![copy_of("d", day(9))])),
        ("third", DestinationState::Empty),
    ]);
    let plan = planned(&policy, &observed, QUIET);
    assert_eq!(
        work(&plan),
        [
            "copy 1 backup of default/shop from first to second: c (2026-01-08T00:00:00Z)",
            "make the repository of third",
            "copy 4 backups of default/shop from first to third: d (2026-01-09T00:00:00Z), c (2026-01-08T00:00:00Z), b (2026-01-07T00:00:00Z), a (2026-01-06T00:00:00Z)",
        ]
    );
    assert!(plan.work().any(
        |action| matches!(action, Action::InitRepository { chunker_of: Some(from), .. } if from == "first")
    ));
}

#[test]
fn what_the_first_has_forgotten_is_copied_from_another() {
    let policy = spec(json!({
        "destinations": [{"name": "first"}, {"name": "second"}, {"name": "third"}],
    }));
    let observed = observation(&[
        ("first", holding(vec![snapshot("b", day(9))])),
        (
            "second",
            holding(vec![copy_of("a", day(8)), copy_of("b", day(9))]),
        ),
        ("third", holding(Vec::new())),
    ]);
    assert_eq!(
        work(&planned(&policy, &observed, QUIET)),
        [
            "copy 1 backup of default/shop from first to third: b (2026-01-09T00:00:00Z)",
            "copy 1 backup of default/shop from second to third: copy-a (2026-01-08T00:00:00Z)",
        ]
    );
}

#[test]
fn what_is_not_copied_yet_is_not_forgotten() {
    let policy = spec(json!({
        "destinations": [{"name": "first", "retention": {"keepLast": 1}}, {"name": "second", "retention": {"keepLast": 2}}],
    }));
    let first = vec![
        snapshot("a", day(7)),
        snapshot("b", day(8)),
        snapshot("c", day(9)),
    ];
    let observed = observation(&[("first", holding(first)), ("second", unreachable())]);
    let plan = planned(&policy, &observed, QUIET);
    let forget = plan
        .work()
        .find(|action| matches!(action, Action::Forget { .. }))
        .unwrap();
    let Action::Forget {
        snapshots, kept, ..
    } = forget
    else {
        unreachable!()
    };
    // `a` would not be kept by the second either: being away holds back no more than that.
    assert_eq!(
        snapshots
            .iter()
            .map(|one| one.id.as_str())
            .collect::<Vec<_>>(),
        ["a"]
    );
    let reasons: Vec<String> = kept[1].reasons.iter().map(ToString::to_string).collect();
    assert_eq!(
        (kept[1].id.as_str(), reasons.join(", ")),
        ("b", "not yet copied to second".to_owned())
    );
}

#[test]
fn forgetting_follows_each_destination_and_prunes_it() {
    let policy = spec(json!({
        "destinations": [{"name": "first"}, {"name": "second", "retention": {"keepLast": 2}}],
        "retention": {"keepLast": 1},
    }));
    let observed = observation(&[
        (
            "first",
            holding(vec![
                snapshot("a", day(7)),
                snapshot("b", day(8)),
                snapshot("c", day(9)),
            ]),
        ),
        (
            "second",
            holding(vec![
                copy_of("a", day(7)),
                copy_of("b", day(8)),
                copy_of("c", day(9)),
            ]),
        ),
    ]);
    assert_eq!(
        work(&planned(&policy, &observed, QUIET)),
        [
            "forget 2 backups of default/shop at first, 1 stay: b (2026-01-08T00:00:00Z), a (2026-01-07T00:00:00Z)",
            "prune first: free what forgotten backups took",
            "forget 1 backup of default/shop at second, 2 stay: copy-a (2026-01-07T00:00:00Z)",
            "prune second: free what forgotten backups took",
        ]
    );
}

#[test]
fn without_retention_nothing_is_forgotten() {
    let many = (1..=30)
        .map(|number| snapshot(&number.to_string(), day(number)))
        .collect();
    let observed = observation(&[("first", holding(many))]);
    let mut observed = observed;
    observed.last_scheduled = Some(at("2026-01-31T03:00:00Z"));
    assert!(
        work(&planned(
            &spec(json!({})),
            &observed,
            "2026-01-31T04:00:00Z"
        ))
        .is_empty()
    );
}

#[test]
fn an_unfinished_prune_is_done_again_when_nobody_uses_the_repository() {
    let mut observed = observation(&[("first", holding(vec![snapshot("a", day(9))]))]);
    let first = observed.destinations.get_mut("first").unwrap();
    first.prune_pending = true;
    first.busy = true;
    assert!(work(&planned(&spec(json!({})), &observed, QUIET)).is_empty());
    observed.destinations.get_mut("first").unwrap().busy = false;
    assert_eq!(
        work(&planned(&spec(json!({})), &observed, QUIET)),
        ["prune first: free what forgotten backups took"]
    );
    let ended = at(QUIET) - SignedDuration::from_mins(1);
    observed.attempts.insert(
        Task::Prune("first".into()),
        failed(2, ErrorClass::Transient, ended),
    );
    assert!(work(&planned(&spec(json!({})), &observed, QUIET)).is_empty());
}

#[test]
fn a_failed_copy_waits_but_a_newer_backup_does_not() {
    let policy = spec(json!({"destinations": [{"name": "first"}, {"name": "second"}]}));
    let mut observed = observation(&[
        (
            "first",
            holding(vec![snapshot("a", at("2026-01-09T03:00:00Z"))]),
        ),
        ("second", holding(Vec::new())),
    ]);
    let task = Task::Copy("second".into());
    observed.attempts.insert(
        task,
        failed(1, ErrorClass::Damaged, at("2026-01-09T04:00:00Z")),
    );
    assert!(work(&planned(&policy, &observed, QUIET)).is_empty());
    observed.destinations.get_mut("first").unwrap().state =
        holding(vec![snapshot("b", at("2026-01-09T05:00:00Z"))]);
    assert_eq!(work(&planned(&policy, &observed, QUIET)).len(), 1);
}

fn restore(more: serde_json::Value) -> RestoreSpec {
    let mut spec = json!({"from": {"policy": "shop"}, "to": {"original": {}}});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn restoring(spec: &RestoreSpec, observed: &RestoreObservation) -> Vec<String> {
    let policy = self::spec(json!({}));
    let desire = RestoreDesire {
        namespace: "default",
        name: "again",
        spec,
        policy: Some(&policy),
        fingerprint: FINGERPRINT,
    };
    texts(&plan_restore(&desire, observed, at(QUIET)).actions)
}

fn restorable(states: &[(&str, DestinationState)]) -> RestoreObservation {
    RestoreObservation {
        done: false,
        running: None,
        attempts: None,
        destinations: states
            .iter()
            .map(|(name, state)| ((*name).to_owned(), state.clone()))
            .collect(),
    }
}

fn two_sites() -> RestoreObservation {
    restorable(&[
        (
            "first",
            holding(vec![snapshot("abc1", day(8)), snapshot("abd2", day(9))]),
        ),
        (
            "second",
            holding(vec![copy_of("abc1", day(8)), copy_of("eee3", day(7))]),
        ),
    ])
}

#[test]
fn a_restore_finds_its_backup() {
    let latest = restore(json!({}));
    let carry_out = |what: &str| vec![format!("carry out Restore default/again: backup {what}")];
    assert_eq!(
        restoring(&latest, &two_sites()),
        carry_out("abd2 of default/shop from first, as of 2026-01-09T00:00:00Z")
    );
    let by_id = |id: &str| restore(json!({"from": {"policy": "shop", "backup": id}}));
    assert_eq!(
        restoring(&by_id("eee3"), &two_sites()),
        carry_out("copy-eee of default/shop from second, as of 2026-01-07T00:00:00Z")
    );
    assert!(restoring(&by_id("abc1"), &two_sites())[0].contains("from first"));
    assert!(restoring(&by_id("ab"), &two_sites())[0].starts_with("refuse (AmbiguousBackup)"));
    assert!(restoring(&by_id("ffff"), &two_sites())[0].starts_with("refuse (UnknownBackup)"));
}

#[test]
fn latest_is_not_guessed_while_a_destination_is_away() {
    let observed = restorable(&[
        ("first", unreachable()),
        ("second", holding(vec![snapshot("a", day(1))])),
    ]);
    assert!(
        restoring(&restore(json!({})), &observed)[0].starts_with("refuse (DestinationNotReady)")
    );
    let by_id = restore(json!({"from": {"policy": "shop", "backup": "a"}}));
    assert!(restoring(&by_id, &observed)[0].starts_with("carry out"));
    let unknown = restore(json!({"from": {"policy": "shop", "backup": "b"}}));
    assert!(restoring(&unknown, &observed)[0].starts_with("refuse (DestinationNotReady)"));
    let nothing = restorable(&[("first", holding(Vec::new()))]);
    assert!(restoring(&restore(json!({})), &nothing)[0].starts_with("refuse (NoBackup)"));
}

#[test]
fn a_restore_is_done_once() {
    let mut observed = two_sites();
    observed.done = true;
    assert!(restoring(&restore(json!({})), &observed).is_empty());
    observed.done = false;
    observed.running = Some(Running {
        id: "7".into(),
        kind: RunKind::Restore,
        started: day(9),
    });
    assert!(restoring(&restore(json!({})), &observed)[0].starts_with("wait:"));
}

#[test]
fn a_restore_that_was_cut_off_is_not_repeated_over_its_own_remains() {
    let mut observed = two_sites();
    let mut attempts = failed(1, ErrorClass::Transient, day(9));
    attempts.interrupted = true;
    observed.attempts = Some(attempts);
    assert!(restoring(&restore(json!({})), &observed)[0].starts_with("refuse (Interrupted)"));
    let drop = restore(json!({"to": {"original": {"onConflict": "Drop"}}}));
    assert!(restoring(&drop, &observed)[0].starts_with("carry out"));
    assert!(restoring(&restore(json!({"dryRun": true})), &observed)[0].starts_with("carry out"));
    observed.attempts = Some(failed(1, ErrorClass::Permanent, day(9)));
    assert!(restoring(&drop, &observed)[0].starts_with("refuse (RestoreFailed)"));
    observed.attempts = Some(failed(1, ErrorClass::Transient, at(QUIET)));
    assert!(restoring(&drop, &observed)[0].starts_with("wait until 2026-01-09T12:01:00Z"));
}

#[test]
fn a_deletion_goes_wherever_copies_are_and_is_over_when_none_is_left() {
    let site = |destination: &str, state, busy| DeletionSite {
        destination: destination.into(),
        state,
        busy,
    };
    let backup = Deleted::Backup {
        namespace: "default",
        name: "old",
        identity: "a",
    };
    let sites = [
        site(
            "first",
            holding(vec![snapshot("a", day(8)), snapshot("b", day(9))]),
            false,
        ),
        site("second", holding(vec![copy_of("a", day(8))]), true),
        site("third", unreachable(), false),
        site("fourth", holding(vec![snapshot("b", day(9))]), false),
    ];
    let plan = plan_deletion(backup, &sites);
    assert_eq!(
        texts(&plan.actions),
        [
            "delete 1 backup at first because Backup default/old was deleted: a (2026-01-08T00:00:00Z)",
            "prune first: free what forgotten backups took",
            "wait: second is in use; the deletion follows",
            "refuse (Unreachable): what is to be deleted at third cannot be reached: cannot connect",
        ]
    );
    assert!(plan_deletion(backup, &sites[3..]).actions.is_empty());
    let gone = |used_by| Deleted::Destination {
        namespace: "default",
        name: "fourth",
        used_by,
    };
    assert_eq!(plan_deletion(gone(&[]), &sites[3..]).actions.len(), 2);
    let used = ["BackupPolicy default/shop".to_owned()];
    let refused = plan_deletion(gone(&used), &sites[3..]);
    assert_eq!(refused.refusal().unwrap().0, "StillInUse");
    assert_eq!(refused.work().count(), 0);
}
