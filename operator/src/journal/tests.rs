//! Tests of the journal: history, several processes, kill -9, damage, bounds.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000 + second).unwrap()
}

fn backup(policy: &str) -> NewRun {
    NewRun {
        kind: RunKind::Backup,
        namespace: "default".to_owned(),
        policy: Some(policy.to_owned()),
        destination: Some("local".to_owned()),
        destination_namespace: None,
        object: None,
        into_source: false,
        scheduled_for: Some(at(0)),
        fingerprint: None,
    }
}

fn of(kind: RunKind, policy: &str) -> NewRun {
    NewRun {
        kind,
        ..backup(policy)
    }
}

fn figures() -> Figures {
    Figures {
        read_bytes: Some(1000),
        added_bytes: Some(100),
        stored_bytes: Some(40),
        documents: Some(7),
        ..Figures::default()
    }
}

fn good(second: i64) -> Ending {
    Ending::succeeded(at(second), figures(), Some("5f1c".to_owned()))
}

fn bad(second: i64) -> Ending {
    Ending::failed(
        at(second),
        RunError {
            message: "cannot reach the database".to_owned(),
            class: FailureClass::Transient,
            reason: "Unreachable".to_owned(),
        },
    )
}

fn open(directory: &Path) -> Journal {
    Journal::open(directory, at(0)).unwrap().0
}

#[test]
fn a_run_is_open_then_closed_and_stays_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let run = journal.start(backup("shop"), at(1)).unwrap();
    assert_eq!(journal.open_runs().unwrap(), std::slice::from_ref(&run));
    let closed = journal.finish(&run.id, good(31)).unwrap();
    assert!(journal.open_runs().unwrap().is_empty());
    drop(journal);
    let (journal, interrupted) = Journal::open(directory.path(), at(40)).unwrap();
    assert!(interrupted.is_empty());
    assert_eq!(
        journal
            .runs(&RunQuery::of_policy("default", "shop"))
            .unwrap(),
        std::slice::from_ref(&closed)
    );
    assert_eq!(journal.run(&run.id[..18]).unwrap(), Some(closed));
    assert_eq!(journal.run("ffff").unwrap(), None);
    let summary = journal.policy_summary("default", "shop").unwrap();
    assert_eq!(summary.last_success[&RunKind::Backup], at(31));
    assert_eq!(summary.last_attempt[&RunKind::Backup], at(1));
    assert_eq!(summary.runs[&RunKind::Backup][&Outcome::Succeeded], 1);
    assert_eq!((summary.read_bytes, summary.added_bytes), (1000, 100));
    assert!((summary.duration_seconds - 30.0).abs() < f64::EPSILON);
}

#[test]
fn a_run_ends_once() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let run = journal.start(backup("shop"), at(1)).unwrap();
    journal.finish(&run.id, bad(2)).unwrap();
    assert!(matches!(
        journal.finish(&run.id, good(3)),
        Err(JournalError::NotOpen { .. })
    ));
    let summary = journal.policy_summary("default", "shop").unwrap();
    assert_eq!(summary.consecutive_failures[&RunKind::Backup], 1);
    assert!(summary.last_success.is_empty());
}

#[test]
fn two_runs_that_change_the_same_backups_never_go_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    // Another handle is like another process: it has a lock and a database of its own.
    let other = open(directory.path());
    let run = journal.start(backup("shop"), at(1)).unwrap();
    for kind in [
        RunKind::Backup,
        RunKind::Copy,
        RunKind::Forget,
        RunKind::Delete,
    ] {
        let error = other.start(of(kind, "shop"), at(2)).unwrap_err();
        assert!(matches!(&error, JournalError::InProgress { run: id, .. } if *id == run.id));
        assert!(
            error
                .to_string()
                .contains("a backup of default/shop is in progress since")
        );
    }
    other.start(of(RunKind::Restore, "shop"), at(2)).unwrap();
    other.start(backup("blog"), at(2)).unwrap();
    let prune = other.start(of(RunKind::Prune, "shop"), at(2)).unwrap();
    assert!(journal.start(of(RunKind::Prune, "blog"), at(3)).is_err());
    other.finish(&prune.id, good(3)).unwrap();
    journal.start(of(RunKind::Prune, "blog"), at(3)).unwrap();
    journal.finish(&run.id, good(4)).unwrap();
    other.start(of(RunKind::Copy, "shop"), at(5)).unwrap();
}

#[test]
fn queries_choose_by_kind_outcome_and_destination_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let mut ids = Vec::new();
    for second in 0..6 {
        let policy = if second % 2 == 0 { "shop" } else { "blog" };
        let run = journal.start(backup(policy), at(second)).unwrap();
        journal
            .finish(
                &run.id,
                if second < 4 {
                    good(second)
                } else {
                    bad(second)
                },
            )
            .unwrap();
        ids.push(run.id);
    }
    let found = |query: &RunQuery| -> Vec<String> {
        journal
            .runs(query)
            .unwrap()
            .into_iter()
            .map(|run| run.id)
            .collect()
    };
    ids.reverse();
    assert_eq!(found(&RunQuery::default()), ids);
    assert_eq!(
        found(&RunQuery {
            limit: Some(2),
            ..RunQuery::of_policy("default", "shop")
        }),
        [ids[1].clone(), ids[3].clone()]
    );
    assert_eq!(
        found(&RunQuery {
            outcome: Some(Outcome::Failed),
            ..RunQuery::default()
        }),
        ids[..2]
    );
    let elsewhere = RunQuery {
        destination: Some("default/other".into()),
        ..RunQuery::default()
    };
    assert!(found(&elsewhere).is_empty());
    assert_eq!(
        found(&RunQuery {
            kind: Some(RunKind::Restore),
            ..RunQuery::default()
        })
        .len(),
        0
    );
}

#[test]
fn history_is_bounded_and_what_it_came_to_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits {
        runs_per_policy: 4,
        runs: 11,
    };
    let (journal, _) = Journal::open_with(directory.path(), at(0), limits).unwrap();
    let stays = journal.start(of(RunKind::Restore, "old"), at(0)).unwrap();
    for second in 1..=60 {
        let policy = ["shop", "blog", "wiki"][usize::try_from(second).unwrap() % 3];
        let run = journal.start(backup(policy), at(second)).unwrap();
        journal.finish(&run.id, good(second)).unwrap();
    }
    assert_eq!(
        journal
            .runs(&RunQuery::of_policy("default", "shop"))
            .unwrap()
            .len(),
        4
    );
    let all = journal.runs(&RunQuery::default()).unwrap();
    assert_eq!(all.len(), 11);
    // The run in progress is the oldest, and it is there.
    assert_eq!(all.last().map(|run| &run.id), Some(&stays.id));
    assert_eq!(
        journal.policy_summary("default", "shop").unwrap().runs[&RunKind::Backup]
            [&Outcome::Succeeded],
        20
    );
}

#[test]
fn a_prune_is_pending_until_one_ends_well() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let pending = || {
        journal
            .destination_summary("default", "local")
            .unwrap()
            .prune_pending
    };
    let run = |kind, ending: Ending| {
        let run = journal.start(of(kind, "shop"), at(1)).unwrap();
        journal.finish(&run.id, ending).unwrap();
    };
    run(RunKind::Backup, good(2));
    assert!(!pending());
    let forgot = |count| {
        Ending::succeeded(
            at(2),
            Figures {
                backups: Some(count),
                ..Figures::default()
            },
            None,
        )
    };
    run(RunKind::Forget, forgot(0));
    assert!(!pending());
    run(RunKind::Forget, forgot(2));
    assert!(pending());
    run(RunKind::Prune, bad(3));
    assert!(pending());
    run(RunKind::Prune, good(4));
    assert!(!pending());
    journal.start(of(RunKind::Prune, "shop"), at(5)).unwrap();
    assert!(pending());
}

#[test]
fn long_hook_output_keeps_its_end() {
    let long = "ä".repeat(HOOK_OUTPUT_LIMIT) + "the reason";
    let output = HookOutput {
        phase: "before".to_owned(),
        command: vec!["true".to_owned()],
        exit_code: Some(1),
        output: long,
        truncated: false,
    };
    let ending = bad(1).with_hooks([output]);
    assert!(ending.hooks[0].truncated);
    assert!(ending.hooks[0].output.ends_with("the reason"));
    assert!(ending.hooks[0].output.len() <= HOOK_OUTPUT_LIMIT);
}

#[test]
fn objects_are_remembered_with_generation_and_status() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let key = ObjectKey::new("BackupPolicy", "default", "shop");
    let spec = |minute: u32| serde_json::json!({"schedule": {"cron": format!("{minute} * * * *")}});
    let first = journal.observe_object(&key, &spec(1), at(1)).unwrap();
    assert_eq!((first.generation, first.first_seen), (1, at(1)));
    assert_eq!(
        journal.observe_object(&key, &spec(1), at(2)).unwrap(),
        first
    );
    let second = journal.observe_object(&key, &spec(2), at(3)).unwrap();
    assert_eq!(
        (second.generation, second.first_seen, second.spec_seen),
        (2, at(1), at(3))
    );
    let status = serde_json::json!({"observedGeneration": 2});
    assert!(
        journal
            .set_object_status(&key, &second.uid, &status)
            .unwrap()
    );
    assert!(
        !journal
            .set_object_status(&key, &second.uid, &status)
            .unwrap()
    );
    assert!(
        !journal
            .set_object_status(&key, "another", &serde_json::json!({}))
            .unwrap()
    );
    drop(journal);
    let journal = open(directory.path());
    assert_eq!(journal.object(&key).unwrap().unwrap().status, status);
    journal.mark_object_deleted(&key, at(9)).unwrap();
    journal.mark_object_deleted(&key, at(10)).unwrap();
    let all = journal.objects("BackupPolicy").unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].1.deleted, Some(at(9)));
    assert!(journal.objects("Backup").unwrap().is_empty());
    let again = journal.observe_object(&key, &spec(2), at(11)).unwrap();
    assert_ne!(again.uid, first.uid);
    assert_eq!(
        (again.generation, &again.status),
        (1, &serde_json::Value::Null)
    );
    journal.forget_object(&key).unwrap();
    assert_eq!(journal.object(&key).unwrap(), None);
}

#[test]
fn a_damaged_database_is_told_and_can_be_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    for second in 0..50 {
        let run = journal.start(backup("shop"), at(second)).unwrap();
        journal.finish(&run.id, good(second)).unwrap();
    }
    drop(journal);
    let path = directory.path().join(DATABASE_FILE);
    let intact = std::fs::read(&path).unwrap();
    let length = intact.len();
    let mut told = 0;
    let mut damages: Vec<Vec<u8>> = vec![b"this is not a database".repeat(1000)];
    damages.push(intact[..length / 2].to_vec());
    for page in (4096..length).step_by(4096) {
        let mut damaged = intact.clone();
        let end = (page + 4096).min(length);
        damaged[page..end].fill(0xa5);
        damages.push(damaged);
    }
    for damaged in damages {
        std::fs::write(&path, &damaged).unwrap();
        match Journal::open(directory.path(), at(60)) {
            Err(error) => {
                assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
                assert!(error.to_string().contains("delete the file"), "{error}");
                told += 1;
            }
            // A page that nothing uses: everything is still there.
            Ok((journal, _)) => {
                assert_eq!(journal.runs(&RunQuery::default()).unwrap().len(), 50);
            }
        }
    }
    assert!(told >= 3, "{told}");
    std::fs::remove_file(&path).unwrap();
    assert!(
        open(directory.path())
            .runs(&RunQuery::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Journal::open(&file, at(0)).unwrap_err();
    assert!(matches!(error, JournalError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("--state-dir"));
}

#[cfg(unix)]
#[test]
fn nobody_else_can_look_into_the_state_directory() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let _journal = open(&state);
    assert_eq!(
        std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

/// Not a test of its own: what the processes of the tests below do. They are this program, started
/// again for this one function.
#[test]
fn child_process() {
    let Ok(directory) = std::env::var("HOLDFAST_TEST_JOURNAL") else {
        return;
    };
    let policy = std::env::var("HOLDFAST_TEST_POLICY").unwrap();
    let journal = open(Path::new(&directory));
    println!("\nready");
    for second in 0.. {
        let run = journal.start(backup(&policy), at(second)).unwrap();
        println!("\nstarted {}", run.id);
        if second == 5 && policy == "stays-open" {
            // Until it is killed.
            std::io::stdin().lines().for_each(drop);
        }
        journal.finish(&run.id, good(second)).unwrap();
        println!("\nfinished {}", run.id);
    }
}

struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(directory: &Path, policy: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["journal::tests::child_process", "--exact", "--nocapture"])
            .env("HOLDFAST_TEST_JOURNAL", directory)
            .env("HOLDFAST_TEST_POLICY", policy)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, lines };
        process.line_that("ready");
        process
    }

    fn line_that(&mut self, begins: &str) -> String {
        loop {
            let line = self.lines.next().expect("the process goes on").unwrap();
            if let Some(rest) = line.strip_prefix(begins) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Kills it, and returns the runs it said to have finished since anyone listened.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let rest: Vec<String> = self.lines.map_while(Result::ok).collect();
        rest.iter()
            .filter_map(|line| line.strip_prefix("finished "))
            .map(|id| id.trim().to_owned())
            .collect()
    }
}

#[test]
fn several_processes_share_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let mut first = Process::start(directory.path(), "first");
    let mut second = Process::start(directory.path(), "second");
    for round in 0..20 {
        let run = journal.start(backup("third"), at(round)).unwrap();
        journal.finish(&run.id, good(round)).unwrap();
        let a = first.line_that("finished ");
        let b = second.line_that("finished ");
        // What another process has committed is seen at once.
        assert!(journal.run(&a).unwrap().unwrap().succeeded());
        assert!(journal.run(&b).unwrap().unwrap().succeeded());
    }
    first.kill();
    second.kill();
    let runs = journal
        .runs(&RunQuery::of_policy("default", "third"))
        .unwrap();
    assert_eq!(runs.iter().filter(|run| run.succeeded()).count(), 20);
}

#[test]
fn kill_9_loses_nothing_that_was_committed_and_closes_what_was_open() {
    let directory = tempfile::tempdir().unwrap();
    let mut finished = std::collections::BTreeSet::new();
    let mut interrupted = std::collections::BTreeSet::new();
    for round in 0..12 {
        // Every other time another process has the database open when this one dies.
        let witness = (round % 2 == 0).then(|| open(directory.path()));
        // Every third time it dies in the middle of a run, else wherever it happens to be.
        let in_the_middle = round % 3 == 0;
        let policy = if in_the_middle { "stays-open" } else { "shop" };
        let mut process = Process::start(directory.path(), policy);
        for _ in 0..if in_the_middle { 5 } else { round } {
            finished.insert(process.line_that("finished "));
        }
        if in_the_middle {
            process.line_that("started ");
        }
        finished.extend(process.kill());
        if let Some(witness) = witness {
            witness.recover(at(100)).unwrap();
            assert!(witness.open_runs().unwrap().is_empty());
        }
        let (journal, _) = Journal::open(directory.path(), at(100)).unwrap();
        assert!(journal.open_runs().unwrap().is_empty());
        let runs = journal.runs(&RunQuery::default()).unwrap();
        for id in &finished {
            assert!(
                runs.iter().any(|run| run.id == *id && run.succeeded()),
                "{id} is lost"
            );
        }
        for run in &runs {
            let ending = run.ending.as_ref().unwrap();
            if ending.outcome != Outcome::Interrupted {
                continue;
            }
            interrupted.insert(run.id.clone());
            assert!(!finished.contains(&run.id));
            assert!(
                ending
                    .error
                    .as_ref()
                    .unwrap()
                    .message
                    .contains("was killed")
            );
        }
        // The policy is not blocked by what is gone.
        let run = journal.start(backup(policy), at(200)).unwrap();
        journal.finish(&run.id, bad(201)).unwrap();
    }
    assert!(interrupted.len() >= 4, "{interrupted:?}");
}

#[test]
fn a_run_of_a_process_that_lives_is_left_alone_and_of_one_that_died_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let other = open(directory.path());
    let run = other.start(backup("shop"), at(1)).unwrap();
    assert!(journal.recover(at(2)).unwrap().is_empty());
    // Dropped with its run open: as if it had been killed.
    drop(other);
    let closed = journal.recover(at(3)).unwrap();
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].id, run.id);
    assert_eq!(
        closed[0].ending.as_ref().unwrap().outcome,
        Outcome::Interrupted
    );
    let summary = journal.policy_summary("default", "shop").unwrap();
    assert_eq!(summary.consecutive_failures[&RunKind::Backup], 1);
}

/// Prints what opening and writing cost; it asserts that they work, not a time.
#[test]
fn cost_of_sharing() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let begin = std::time::Instant::now();
    for second in 0..200 {
        let run = journal.start(backup("shop"), at(second)).unwrap();
        journal.finish(&run.id, good(second)).unwrap();
    }
    let per_run = begin.elapsed() / 200;
    let begin = std::time::Instant::now();
    let other = open(directory.path());
    let opening = begin.elapsed();
    let begin = std::time::Instant::now();
    let runs = other.runs(&RunQuery::default()).unwrap();
    println!(
        "start and finish: {per_run:?} a run; opening beside another process: {opening:?}; listing {} runs: {:?}; file: {} KiB",
        runs.len(),
        begin.elapsed(),
        std::fs::metadata(directory.path().join(DATABASE_FILE))
            .unwrap()
            .len()
            / 1024
    );
    assert_eq!(runs.len(), 200);
}
