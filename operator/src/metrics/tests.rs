//! Tests of the metrics: the text as a golden file, the rules of promtool, restarts, deletions.

use std::path::Path;

use jiff::Timestamp;
use prometheus::TextEncoder;
use serde_json::json;

use super::*;
use crate::journal::{Ending, FailureClass, Figures, NewRun, ObjectKey, RunError};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000 + second).unwrap()
}

fn open(directory: &Path) -> Journal {
    Journal::open(directory, at(0)).unwrap().0
}

fn new_run(kind: RunKind) -> NewRun {
    NewRun {
        kind,
        namespace: "default".to_owned(),
        policy: (kind != RunKind::Check).then(|| "shop".to_owned()),
        destination: Some("wasabi".to_owned()),
        destination_namespace: None,
        object: None,
        into_source: false,
        scheduled_for: None,
        fingerprint: None,
    }
}

/// Three backups that ended well, a check, and a backup that failed.
fn fill(journal: &Journal) {
    for (start, seconds) in [(0, 3), (200_000, 70), (400_000, 100_000)] {
        let run = journal.start(new_run(RunKind::Backup), at(start)).unwrap();
        let figures = Figures {
            read_bytes: Some(1_000_000),
            added_bytes: Some(10_000),
            stored_bytes: Some(4_000),
            documents: Some(1_234),
            ..Figures::default()
        };
        let ending = Ending::succeeded(at(start + seconds), figures, Some("5f1c".to_owned()));
        journal.finish(&run.id, ending).unwrap();
    }
    let run = journal.start(new_run(RunKind::Check), at(500_000)).unwrap();
    let ending = Ending::succeeded(at(500_100), Figures::default(), None);
    journal.finish(&run.id, ending).unwrap();
    let run = journal
        .start(new_run(RunKind::Backup), at(600_000))
        .unwrap();
    let error = RunError {
        message: "cannot reach the database".to_owned(),
        class: FailureClass::Transient,
        reason: "Unreachable".to_owned(),
    };
    journal
        .finish(&run.id, Ending::failed(at(600_005), error))
        .unwrap();
}

fn declare(metrics: &Metrics) {
    let policy = PolicyFacts {
        suspended: false,
        next_run: Some(at(700_000)),
        newest_backup: Some(at(400_000)),
        ready: Some(true),
        due: vec![at(490_000), at(510_000), at(520_000)],
    };
    let destination = DestinationFacts {
        up: Some(true),
        backups: Some(3),
        stored_bytes: Some(12_000),
        last_check: None,
    };
    metrics.set_policy("default", "shop", policy);
    metrics.set_destination("default", "wasabi", destination);
}

fn text(registry: &Registry) -> String {
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap()
}

fn registered(journal: &Journal) -> (Registry, Metrics) {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry, journal.clone()).unwrap();
    (registry, metrics)
}

#[test]
fn the_text_is_as_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    fill(&journal);
    let (registry, metrics) = registered(&journal);
    declare(&metrics);
    let _open = journal
        .start(new_run(RunKind::Backup), at(600_100))
        .unwrap();
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    insta::assert_snapshot!(text(&registry).replace(&version, "version=\"VERSION\""));
}

#[test]
fn after_a_restart_nothing_is_different() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    fill(&journal);
    let policy = ObjectKey::new("BackupPolicy", "default", "shop");
    let destination = ObjectKey::new("Destination", "default", "wasabi");
    let spec = json!({
        "source": {"files": {"paths": ["/srv"]}},
        "destinations": [{"name": "wasabi"}],
        "schedule": {"cron": "@yearly"},
    });
    let record = journal.observe_object(&policy, &spec, at(0)).unwrap();
    let status = json!({
        "conditions": [{
            "type": "Ready", "status": "False", "reason": "BackupFailed", "message": "",
            "lastTransitionTime": at(0).to_string(),
        }],
        "lastBackup": {"id": "5f1c", "time": at(400_000).to_string()},
    });
    journal
        .set_object_status(&policy, &record.uid, &status)
        .unwrap();
    let facts = PolicyFacts::of(
        "default/shop",
        &serde_json::from_value(spec).unwrap(),
        &serde_json::from_value(status).unwrap(),
        at(0),
        Timestamp::now(),
    );
    let record = journal
        .observe_object(&destination, &json!({}), at(0))
        .unwrap();
    let status = json!({
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Reachable", "message": "",
            "lastTransitionTime": at(0).to_string(),
        }],
        "backups": 3, "storedBytes": 12_000,
    });
    journal
        .set_object_status(&destination, &record.uid, &status)
        .unwrap();
    let (registry, metrics) = registered(&journal);
    declare(&metrics);
    metrics.set_policy("default", "shop", facts);
    let before = text(&registry);
    assert!(
        before.contains(
            "holdfast_runs_total{namespace=\"default\",policy=\"shop\",kind=\"backup\",result=\"Succeeded\"} 3"
        ),
        "{before}"
    );
    drop((registry, metrics, journal));
    // Before the first pass.
    let (registry, _metrics) = registered(&open(directory.path()));
    assert_eq!(text(&registry), before);
}

/// Starts before the last success do not count, nor those to come, and a policy that is suspended or
/// has no schedule misses nothing.
#[test]
fn scheduled_runs_without_success_are_counted_at_the_scrape() {
    let hour = |hour: i64| Timestamp::from_second(1_767_225_600 + hour * 3_600).unwrap();
    let spec = |schedule: &str, suspend: bool| {
        let mut spec = json!({
            "source": {"files": {"paths": ["/srv"]}}, "destinations": [{"name": "disk"}],
            "suspend": suspend,
        });
        if !schedule.is_empty() {
            spec["schedule"] = json!({"cron": schedule});
        }
        serde_json::from_value(spec).unwrap()
    };
    let missed = |spec, success: Option<Timestamp>, now| {
        let facts = PolicyFacts::of("default/shop", &spec, &Default::default(), hour(0), now);
        facts.without_success(success, now)
    };
    let hourly = || spec("@hourly", false);
    assert_eq!(missed(hourly(), None, hour(0)), 0);
    assert_eq!(missed(hourly(), None, hour(3)), 3);
    assert_eq!(missed(hourly(), Some(hour(2)), hour(3)), 1);
    assert_eq!(missed(hourly(), None, hour(500)), 10);
    assert_eq!(missed(spec("@hourly", true), None, hour(500)), 0);
    assert_eq!(missed(spec("", false), None, hour(500)), 0);
}

#[test]
fn every_metric_is_in_the_documents() {
    let documents = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(documents).unwrap();
    for description in families::descriptions().unwrap() {
        let name = format!("`{}`", description.fq_name);
        assert!(
            text.contains(&name),
            "docs/metrics.md does not tell of {name}"
        );
    }
}

#[test]
fn a_run_of_another_process_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, metrics) = registered(&open(directory.path()));
    declare(&metrics);
    fill(&open(directory.path()));
    let line = "holdfast_consecutive_failures{namespace=\"default\",policy=\"shop\"} 1";
    assert!(text(&registry).contains(line));
}

#[test]
fn what_was_skipped_is_told_of_files_and_of_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    fill(&journal);
    let (registry, metrics) = registered(&journal);
    declare(&metrics);
    let name = "holdfast_last_backup_skipped_files{";
    assert!(!text(&registry).contains(name));
    for (start, skipped, value) in [(700_000, Some(3), "3"), (800_000, None, "0")] {
        let run = journal.start(new_run(RunKind::Backup), at(start)).unwrap();
        let figures = Figures {
            files: Some(9),
            skipped,
            ..Figures::default()
        };
        let ending = Ending::succeeded(at(start + 5), figures, Some("5f1d".to_owned()));
        journal.finish(&run.id, ending).unwrap();
        let line = format!("{name}namespace=\"default\",policy=\"shop\"}} {value}");
        assert!(text(&registry).contains(&line), "{line}");
    }
}

#[test]
fn series_of_deleted_objects_go_away() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    fill(&journal);
    let (registry, metrics) = registered(&journal);
    declare(&metrics);
    assert!(text(&registry).contains("policy=\"shop\""));
    metrics.retain(&BTreeSet::new(), &BTreeSet::new());
    let text = text(&registry);
    assert!(!text.contains("shop") && !text.contains("wasabi"), "{text}");
    assert!(text.contains("holdfast_build_info"));
}

#[test]
fn a_lost_journal_does_not_hide_the_backups_that_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, metrics) = registered(&open(directory.path()));
    declare(&metrics);
    let line =
        "holdfast_last_success_timestamp_seconds{namespace=\"default\",policy=\"shop\"} 1750400000";
    assert!(text(&registry).contains(line));
}

#[test]
fn a_registry_takes_them_once() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    let (registry, _metrics) = registered(&journal);
    assert!(matches!(
        Metrics::register(&registry, journal),
        Err(MetricsError::Registry(_))
    ));
}

/// The rules of `promtool check metrics`.
#[test]
fn names_and_types_keep_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path());
    fill(&journal);
    let (registry, metrics) = registered(&journal);
    declare(&metrics);
    let text = text(&registry);
    let mut helped = BTreeSet::new();
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            assert!(helped.insert(name), "HELP twice: {name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name), "no HELP: {name}");
            assert!(types.insert(name, kind).is_none(), "TYPE twice: {name}");
            check_name(name, kind);
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let is_histogram = |base: &&str| types.get(base) == Some(&"histogram");
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(is_histogram))
                .unwrap_or(name);
            assert!(types.contains_key(base), "no TYPE: {line}");
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    // Every family that is defined has a value in this state, but those of files: the source is a
    // database.
    assert_eq!(types.len() + 2, families::descriptions().unwrap().len());
}

fn check_name(name: &str, kind: &str) {
    assert!(name.starts_with("holdfast_"));
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    assert!(name.bytes().all(allowed), "{name}");
    assert_eq!(
        kind == "counter",
        name.ends_with("_total"),
        "{name} is a {kind}"
    );
    for word in [
        "gauge",
        "counter",
        "histogram",
        "_ms",
        "milli",
        "kilo",
        "minutes",
        "hours",
    ] {
        assert!(!name.contains(word), "{name}");
    }
    for suffix in ["_count", "_sum", "_bucket"] {
        assert!(!name.ends_with(suffix), "{name}");
    }
}
