//! What the operator makes of an outcome.

use super::*;
use crate::journal::FailureClass;

fn context(kind: TaskKind) -> RunContext {
    let at = "2026-03-01T10:15:00Z".parse().unwrap();
    RunContext {
        kind,
        namespace: "default".to_owned(),
        policy: Some("shop".to_owned()),
        object: Some("before".to_owned()),
        scheduled_for: Some(at),
        fingerprint: Some("00ff".to_owned()),
        planned: [RunKind::Copy, RunKind::Forget]
            .map(|kind| PlannedTask {
                kind,
                destination: "disk".to_owned(),
            })
            .into(),
        holder: "pod".to_owned(),
        started: at,
        ended: at,
    }
}

fn record(kind: RunKind) -> RunRecord {
    let at = "2026-03-01T10:16:00Z".parse().unwrap();
    RunRecord {
        id: "1".to_owned(),
        kind,
        destination: Some("disk".to_owned()),
        destination_namespace: None,
        started: at,
        ended: at,
        outcome: Outcome::Succeeded,
        error: None,
        figures: Figures::default(),
        snapshot: None,
    }
}

#[test]
fn runs_get_what_the_job_says() {
    let outcome = WorkOutcome {
        runs: vec![record(RunKind::Backup), record(RunKind::Copy)],
        ..WorkOutcome::new(WorkResult::Succeeded, None)
    };
    let runs = outcome.runs(&context(TaskKind::Backup));
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0].object.as_deref(), Some("before"));
    assert!(runs[0].scheduled_for.is_some());
    // A copy was asked for by nobody.
    assert_eq!((&runs[1].object, runs[1].scheduled_for), (&None, None));
    assert_eq!(runs[1].fingerprint.as_deref(), Some("00ff"));
}

#[test]
fn a_pod_without_words_is_a_run_that_was_interrupted() {
    let runs = WorkOutcome::interrupted("OOMKilled").runs(&context(TaskKind::Backup));
    let ending = runs[0].ending.as_ref().unwrap();
    assert_eq!((runs.len(), runs[0].kind), (1, RunKind::Backup));
    assert_eq!(ending.outcome, Outcome::Interrupted);
    assert!(ending.error.as_ref().unwrap().message.contains("OOMKilled"));
    let looked = WorkOutcome::interrupted("x").runs(&context(TaskKind::Look));
    assert!(looked.is_empty());
}

/// Otherwise nothing would tell the plan to wait, and the same pod would be made again at once.
#[test]
fn an_upkeep_that_was_killed_has_failed_at_what_it_was_to_do() {
    let failed = |outcome: &WorkOutcome, kind| -> Vec<RunKind> {
        let runs = outcome.runs(&context(kind));
        let failed = runs.iter().filter(|run| !run.succeeded());
        failed.map(|run| run.kind).collect()
    };
    let killed = WorkOutcome::interrupted("OOMKilled");
    let both = [RunKind::Copy, RunKind::Forget];
    assert_eq!(failed(&killed, TaskKind::Upkeep), both);
    // The backup was made, and the pod killed in what follows.
    let with = |runs: Vec<RunRecord>| WorkOutcome {
        runs,
        ..killed.clone()
    };
    let after = with(vec![record(RunKind::Backup)]);
    assert_eq!(failed(&after, TaskKind::Backup), both);
    let later = with(vec![record(RunKind::Backup), record(RunKind::Copy)]);
    assert_eq!(failed(&later, TaskKind::Backup), [RunKind::Forget]);
    // What it says itself is the truth.
    let told = RunRecord {
        outcome: Outcome::Failed,
        ..record(RunKind::Forget)
    };
    assert_eq!(
        failed(&with(vec![told]), TaskKind::Upkeep),
        [RunKind::Forget]
    );
}

#[test]
fn the_class_decides_the_exit_code() {
    let failed = |class| {
        let error = RunError {
            message: String::new(),
            class,
            reason: "X".to_owned(),
        };
        WorkOutcome::new(WorkResult::Failed, Some(error)).exit_code()
    };
    assert_eq!(failed(FailureClass::Transient), 1);
    assert_eq!(failed(FailureClass::Waiting), 3);
    assert_eq!(failed(FailureClass::Permanent), 3);
    assert_eq!(failed(FailureClass::Damaged), 3);
    assert_eq!(WorkOutcome::interrupted("x").exit_code(), 1);
    assert_eq!(WorkOutcome::new(WorkResult::Succeeded, None).exit_code(), 0);
}

#[test]
fn what_is_no_outcome_is_told() {
    assert!(WorkOutcome::from_message("").is_err());
    assert!(WorkOutcome::from_message("error: exec format").is_err());
}
