//! Tests of what is printed: tables, JSON and YAML, as golden text.

use holdfast_crds::Backup;
use jiff::Timestamp;

use super::*;
use crate::journal::{Ending, FailureClass, Figures, Journal, NewRun, RunError, RunKind, RunQuery};
use crate::plan::Action;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_750_000_000 + second).unwrap()
}

fn two_backups() -> Vec<Backup> {
    let backup = |value| serde_json::from_value(value).unwrap();
    vec![
        backup(json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "Backup",
            "metadata": {"name": "shop-5f1c0a2b", "namespace": "default"},
            "spec": {"policy": "shop", "tags": ["before-migration"]},
            "status": {
                "id": "5f1c0a2b9d8e", "startTime": "2026-01-09T03:00:12Z",
                "readBytes": 1_730_000_000, "addedBytes": 12_000_000, "source": "mongodb",
                "tags": ["prod", "before-migration"],
                "copies": [
                    {"destination": "wasabi-eu", "id": "5f1c0a2b9d8e"},
                    {"destination": "ssh-box", "id": "77aa"},
                ],
            },
        })),
        backup(json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "Backup",
            "metadata": {"name": "now", "namespace": "default"},
            "spec": {"policy": "shop"},
        })),
    ]
}

fn printed(format: OutputFormat) -> String {
    let items = two_backups();
    let mut out = Vec::new();
    print_list(&mut out, format, &items, || backups(&items)).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn backups_as_a_table() {
    insta::assert_snapshot!(printed(OutputFormat::Table));
}

#[test]
fn what_was_skipped_stands_beside_its_source() {
    let mut items = two_backups();
    items.truncate(1);
    let status = items[0].status.as_mut().unwrap();
    status.source = Some(holdfast_crds::SourceKind::Files);
    status.skipped = Some(3);
    let table = backups(&items).to_string();
    assert!(table.contains("files, 3 skipped"), "{table}");
}

#[test]
fn backups_as_json_are_a_list() {
    let text = printed(OutputFormat::Json);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["kind"], "List");
    assert_eq!(value["apiVersion"], "v1");
    let items: Vec<Backup> = serde_json::from_value(value["items"].clone()).unwrap();
    assert_eq!(items, two_backups());
    insta::assert_snapshot!(text);
}

#[test]
fn backups_as_yaml_are_the_same_list() {
    let text = printed(OutputFormat::Yaml);
    let yaml: Value = serde_saphyr::from_str(&text).unwrap();
    let json: Value = serde_json::from_str(&printed(OutputFormat::Json)).unwrap();
    assert_eq!(yaml, json);
    insta::assert_snapshot!(text);
}

#[test]
fn one_thing_is_itself() {
    let mut out = Vec::new();
    print_one(
        &mut out,
        OutputFormat::Json,
        &two_backups()[1],
        || unreachable!(),
    )
    .unwrap();
    let value: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["kind"], "Backup");
    let mut out = Vec::new();
    print_one(&mut out, OutputFormat::Table, &1, || "done\n".to_owned()).unwrap();
    assert_eq!(out, b"done\n");
}

#[test]
fn history_as_a_table_and_as_resources() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(directory.path(), at(0)).unwrap();
    let start = |kind, second| {
        let new = NewRun {
            kind,
            namespace: "default".to_owned(),
            policy: Some("shop".to_owned()),
            destination: Some("wasabi-eu".to_owned()),
            destination_namespace: None,
            object: None,
            into_source: false,
            scheduled_for: Some(at(second)),
            fingerprint: Some("not printed".to_owned()),
        };
        journal.start(new, at(second)).unwrap().id
    };
    let run = start(RunKind::Backup, 0);
    let figures = Figures {
        read_bytes: Some(5_000_000_000),
        added_bytes: Some(40_000),
        ..Figures::default()
    };
    let ending = Ending::succeeded(at(200), figures, Some("5f1c0a2b9d8e".to_owned()));
    journal.finish(&run, ending).unwrap();
    let run = start(RunKind::Copy, 300);
    let error = RunError {
        message: "cannot reach wasabi-eu\nmore of it".to_owned(),
        class: FailureClass::Transient,
        reason: "Unreachable".to_owned(),
    };
    journal
        .finish(&run, Ending::failed(at(301), error))
        .unwrap();
    start(RunKind::Restore, 400);
    let runs = journal.runs(&RunQuery::default()).unwrap();
    let mut out = Vec::new();
    print_table(&mut out, &history(&runs, at(460))).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
    let resource = run_resource(&runs[1]);
    assert_eq!(resource["kind"], "Run");
    assert_eq!(resource["status"]["outcome"], "Failed");
    assert_eq!(resource["status"]["error"]["reason"], "Unreachable");
    assert!(!resource.to_string().contains("not printed"));
}

#[test]
fn plans_as_a_table() {
    let plan = Plan {
        subject: "BackupPolicy default/shop".to_owned(),
        actions: vec![
            Action::Prune {
                destination: "wasabi-eu".to_owned(),
            },
            Action::WaitUntil {
                time: Some(at(0)),
                what: "the next backup is due".to_owned(),
            },
        ],
        forecast: vec![Action::Prune {
            destination: "ssh-box".to_owned(),
        }],
    };
    let idle = Plan {
        subject: "BackupPolicy default/blog".to_owned(),
        actions: Vec::new(),
        forecast: Vec::new(),
    };
    let mut out = Vec::new();
    print_table(&mut out, &plans(&[plan.clone(), idle])).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
    assert_eq!(
        plan_resource(&plan)["actions"][0]["prune"]["destination"],
        "wasabi-eu"
    );
}
