//! Makes an outcome fit into a termination message.

use super::{DestinationFigures, OUTCOME_LIMIT, RunRecord, WorkOutcome};
use crate::journal::{Figures, Outcome, RunKind};

/// How long messages may be, from one attempt to the next.
const MESSAGES: [usize; 5] = [1_024, 512, 256, 128, 48];

/// The JSON, with as much of it as there is room for.
pub(super) fn message(outcome: &WorkOutcome) -> String {
    let mut outcome = outcome.clone();
    for run in &mut outcome.runs {
        run.started = to_milliseconds(run.started);
        run.ended = to_milliseconds(run.ended);
    }
    let steps: [fn(&mut WorkOutcome); 4] = [cut_plan, cut_figures, cut_upkeep, cut_destinations];
    let mut steps = steps.into_iter();
    let mut limits = MESSAGES.into_iter();
    loop {
        let json = serde_json::to_string(&outcome).unwrap_or_default();
        if json.len() <= OUTCOME_LIMIT {
            return json;
        }
        if let Some(limit) = limits.next() {
            cut_messages(&mut outcome, limit);
        } else if let Some(step) = steps.next() {
            step(&mut outcome);
        } else if !cut_a_run(&mut outcome) {
            // Nothing is left but the result and one short message; that always fits.
            outcome.restore = None;
            outcome.runs.clear();
        }
    }
}

/// Nanoseconds tell nobody anything.
fn to_milliseconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push('…');
    }
}

fn cut_messages(outcome: &mut WorkOutcome, limit: usize) {
    let errors = outcome.runs.iter_mut().filter_map(|run| run.error.as_mut());
    for error in errors.chain(outcome.error.as_mut()) {
        cut(&mut error.message, limit);
        cut(&mut error.reason, 64);
    }
    if let Some(restore) = &mut outcome.restore {
        if let Some(verified) = &mut restore.verified {
            cut(verified, limit);
        }
        for step in &mut restore.plan {
            cut(&mut step.from, limit);
            cut(&mut step.to, limit);
            cut(&mut step.action, limit);
        }
    }
}

fn cut_plan(outcome: &mut WorkOutcome) {
    while serde_json::to_string(&*outcome).is_ok_and(|json| json.len() > OUTCOME_LIMIT) {
        let Some(restore) = &mut outcome.restore else {
            return;
        };
        if restore.plan.pop().is_none() {
            return;
        }
        restore.plan_left_out += 1;
    }
}

fn cut_figures(outcome: &mut WorkOutcome) {
    for run in &mut outcome.runs {
        if run.kind != RunKind::Backup {
            run.figures = Figures {
                // Whether anything was forgotten decides whether a prune is due.
                backups: run.figures.backups,
                ..Figures::default()
            };
        }
    }
}

/// Forgetting and prunes of the destinations where all of it went well: nothing follows from them.
fn cut_upkeep(outcome: &mut WorkOutcome) {
    let upkeep = |run: &RunRecord| matches!(run.kind, RunKind::Forget | RunKind::Prune);
    let failed: Vec<Option<String>> = outcome
        .runs
        .iter()
        .filter(|run| upkeep(run) && run.outcome != Outcome::Succeeded)
        .map(|run| run.destination.clone())
        .collect();
    let unpruned: Vec<Option<String>> = outcome
        .runs
        .iter()
        .filter(|run| run.kind == RunKind::Forget)
        .filter(|forget| {
            !outcome.runs.iter().any(|run| {
                run.kind == RunKind::Prune
                    && run.destination == forget.destination
                    && run.started >= forget.started
            })
        })
        .map(|run| run.destination.clone())
        .collect();
    let before = outcome.runs.len();
    outcome.runs.retain(|run| {
        !upkeep(run) || failed.contains(&run.destination) || unpruned.contains(&run.destination)
    });
    outcome.runs_left_out += before - outcome.runs.len();
}

fn cut_destinations(outcome: &mut WorkOutcome) {
    for figures in outcome.destinations.values_mut() {
        *figures = DestinationFigures {
            repository_id: figures.repository_id.take(),
            ..DestinationFigures::default()
        };
    }
    if outcome.destinations.len() > 8 {
        outcome.destinations.clear();
    }
}

/// Leaves one run out: one that ended well, the last; or else the last of those that failed. The
/// backup goes last of all.
fn cut_a_run(outcome: &mut WorkOutcome) -> bool {
    let place = |wanted: &dyn Fn(&RunRecord) -> bool| outcome.runs.iter().rposition(wanted);
    let well = |run: &RunRecord| run.outcome == Outcome::Succeeded && run.kind != RunKind::Backup;
    let chosen = place(&well)
        .or_else(|| place(&|run| run.kind != RunKind::Backup))
        .or_else(|| place(&|_| true).filter(|_| outcome.runs.len() > 1));
    let Some(index) = chosen else {
        return false;
    };
    outcome.runs.remove(index);
    outcome.runs_left_out += 1;
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{RestoreFigures, WorkResult};
    use super::*;
    use crate::journal::{FailureClass, RunError};

    fn run(kind: RunKind, destination: usize, error: Option<String>) -> RunRecord {
        let at = "2026-03-01T10:15:00.123456789Z".parse().unwrap();
        RunRecord {
            id: "0190cafe-0000-7000-8000-000000000000".to_owned(),
            kind,
            destination: Some(format!("destination-{destination}")),
            destination_namespace: None,
            started: at,
            ended: at,
            outcome: if error.is_some() {
                Outcome::Failed
            } else {
                Outcome::Succeeded
            },
            error: error.map(|message| RunError {
                message,
                class: FailureClass::Transient,
                reason: "Unreachable".to_owned(),
            }),
            figures: Figures {
                backups: Some(3),
                stored_bytes: Some(u64::MAX),
                ..Figures::default()
            },
            snapshot: Some("ab".repeat(32)),
        }
    }

    fn outcome(runs: Vec<RunRecord>) -> WorkOutcome {
        WorkOutcome {
            runs,
            ..WorkOutcome::new(WorkResult::Succeeded, None)
        }
    }

    #[test]
    fn what_fits_is_whole() {
        let small = outcome(vec![run(RunKind::Backup, 0, None)]);
        let read = WorkOutcome::from_message(&small.to_message()).unwrap();
        assert_eq!(read.runs[0].figures, small.runs[0].figures);
        assert_eq!(read.runs_left_out, 0);
    }

    #[test]
    fn the_backup_and_failures_stay_when_all_the_rest_goes() {
        let mut runs = vec![run(RunKind::Backup, 0, None)];
        for number in 1..16 {
            runs.push(run(RunKind::Copy, number, None));
        }
        for number in 0..16 {
            runs.push(run(RunKind::Forget, number, None));
            runs.push(run(RunKind::Prune, number, None));
        }
        runs.push(run(RunKind::Copy, 15, Some("x".repeat(9_000))));
        let read = WorkOutcome::from_message(&outcome(runs).to_message()).unwrap();
        assert_eq!(read.runs[0].kind, RunKind::Backup);
        assert_eq!(read.failed_runs().count(), 1);
        assert!(read.runs_left_out > 0);
    }

    #[test]
    fn a_plan_too_long_is_cut_and_counted() {
        let step = holdfast_crds::RestorePlan {
            from: "shop.orders".to_owned(),
            to: "shop.orders".to_owned(),
            action: "create".to_owned(),
            bytes: Some(1),
            documents: Some(1),
        };
        let outcome = WorkOutcome {
            restore: Some(RestoreFigures {
                plan: vec![step; 500],
                verified: Some("Verified".to_owned()),
                ..RestoreFigures::default()
            }),
            ..outcome(Vec::new())
        };
        let read = WorkOutcome::from_message(&outcome.to_message()).unwrap();
        let restore = read.restore.unwrap();
        assert_eq!(restore.plan.len() + restore.plan_left_out, 500);
        assert!(restore.plan.len() > 10, "{}", restore.plan.len());
        assert_eq!(restore.verified.as_deref(), Some("Verified"));
    }

    proptest! {
        #[test]
        fn it_always_fits_and_is_always_whole(
            messages in proptest::collection::vec(proptest::option::of("\\PC{0,3000}"), 0..60),
            words in "\\PC{0,6000}",
            destinations in 0_usize..17,
        ) {
            let kinds = [RunKind::Backup, RunKind::Copy, RunKind::Forget, RunKind::Prune];
            let runs = messages
                .into_iter()
                .enumerate()
                .map(|(number, error)| run(kinds[number % 4], number, error))
                .collect();
            let mut outcome = outcome(runs);
            outcome.error = Some(RunError { message: words, class: FailureClass::Permanent, reason: "X".to_owned() });
            for number in 0..destinations {
                outcome.destinations.insert(format!("destination-{number}-{}", "y".repeat(240)), DestinationFigures {
                    repository_id: Some("ab".repeat(32)), backups: Some(u64::MAX), foreign: None, stored_bytes: Some(1),
                });
            }
            let message = outcome.to_message();
            prop_assert!(message.len() <= OUTCOME_LIMIT);
            let read = WorkOutcome::from_message(&message).unwrap();
            prop_assert_eq!(read.result, outcome.result);
        }
    }
}
