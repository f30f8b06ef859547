//! Retention against stock restic: the same snapshots, the same rules, the same ones kept.

// A test may: clippy knows the test function itself, not what it calls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use holdfast::plan::observed::Snapshot;
use holdfast::plan::retention::{Verdict, judge};
use holdfast_crds::Retention;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

fn restic(repository: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("restic")
        .args(arguments)
        .env("RESTIC_REPOSITORY", repository)
        .env("RESTIC_PASSWORD", "only a test")
        // restic counts in the zone that a snapshot was made in.
        .env("TZ", "UTC")
        .output()
        .expect("restic must be on the PATH for this test: apt-get install restic");
    assert!(
        output.status.success(),
        "restic {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Times that are awkward: several in a minute, around midnight, the turn of a week, a month and a
/// year, a leap day, gaps of months, and one in the future.
fn times(now: Timestamp) -> Vec<Timestamp> {
    let base: Timestamp = "2024-03-01T00:00:00Z".parse().unwrap();
    let mut times: Vec<Timestamp> = [
        "2023-12-31T23:59:59Z",
        "2024-01-01T00:00:00Z",
        "2024-02-29T12:00:00Z",
        "2024-12-29T23:59:59Z",
        "2024-12-30T00:00:00Z",
        "2024-12-31T23:30:00Z",
        "2025-01-01T00:30:00Z",
        "2025-01-05T23:59:59Z",
        "2025-01-06T00:00:00Z",
    ]
    .iter()
    .map(|time| time.parse().unwrap())
    .collect();
    // A fixed sequence: steps from seconds to weeks.
    let (mut at, mut state) = (base, 42_u64);
    for _ in 0..36 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let scale =
            [30, 1_800, 40_000, 90_000, 700_000][usize::try_from((state >> 33) % 5).unwrap()];
        at += SignedDuration::from_secs(i64::try_from((state >> 40) % scale).unwrap() + 1);
        times.push(at);
    }
    let tomorrow = now + SignedDuration::from_hours(24);
    times.push(Timestamp::from_second(tomorrow.as_second()).unwrap());
    times
}

fn make_snapshots(repository: &Path, source: &Path, now: Timestamp) {
    restic(repository, &["init", "--quiet"]);
    let times = times(now);
    // Restic spends its time on deriving the key: a few side by side.
    std::thread::scope(|scope| {
        for (lane, chunk) in times.chunks(times.len().div_ceil(4)).enumerate() {
            scope.spawn(move || {
                for (number, time) in chunk.iter().enumerate() {
                    let time = time.strftime("%Y-%m-%d %H:%M:%S").to_string();
                    let tag = ["release", "daily", "x"][(lane + number) % 3];
                    let source = source.to_str().unwrap();
                    restic(
                        repository,
                        &[
                            "backup",
                            "--quiet",
                            "--no-cache",
                            "--time",
                            &time,
                            "--tag",
                            tag,
                            source,
                        ],
                    );
                }
            });
        }
    });
}

fn snapshots(repository: &Path) -> Vec<Snapshot> {
    json(&restic(repository, &["snapshots", "--json", "--no-cache"]))
        .as_array()
        .unwrap()
        .iter()
        .map(|one| Snapshot {
            id: one["id"].as_str().unwrap().to_owned(),
            identity: one["id"].as_str().unwrap().to_owned(),
            time: one["time"].as_str().unwrap().parse().unwrap(),
            tags: serde_json::from_value(one["tags"].clone()).unwrap(),
        })
        .collect()
}

fn kept_by_restic(repository: &Path, rules: &str) -> BTreeSet<String> {
    let mut arguments = vec![
        "forget",
        "--dry-run",
        "--json",
        "--no-cache",
        "--group-by",
        "",
    ];
    arguments.extend(rules.split_whitespace());
    json(&restic(repository, &arguments))
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["keep"].as_array().cloned().unwrap_or_default())
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_same_snapshots_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("repository");
    let source = directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let now = Timestamp::now();
    make_snapshots(&repository, &source, now);
    let snapshots = snapshots(&repository);
    assert_eq!(snapshots.len(), times(now).len());
    let newest = snapshots
        .iter()
        .max_by_key(|one| one.time)
        .unwrap()
        .id
        .clone();
    for (rules, retention) in [
        ("--keep-last 1", r#"{"keepLast": 1}"#),
        ("--keep-last 7", r#"{"keepLast": 7}"#),
        ("--keep-last 500", r#"{"keepLast": 500}"#),
        ("--keep-hourly 5", r#"{"keepHourly": 5}"#),
        ("--keep-hourly 300", r#"{"keepHourly": 300}"#),
        ("--keep-daily 6", r#"{"keepDaily": 6}"#),
        ("--keep-daily 400", r#"{"keepDaily": 400}"#),
        ("--keep-weekly 4", r#"{"keepWeekly": 4}"#),
        ("--keep-weekly 400", r#"{"keepWeekly": 400}"#),
        ("--keep-monthly 3", r#"{"keepMonthly": 3}"#),
        ("--keep-monthly 40", r#"{"keepMonthly": 40}"#),
        ("--keep-yearly 2", r#"{"keepYearly": 2}"#),
        ("--keep-yearly 10", r#"{"keepYearly": 10}"#),
        ("--keep-within 30d", r#"{"keepWithin": "30d"}"#),
        ("--keep-within 10d5h", r#"{"keepWithin": "10d5h"}"#),
        ("--keep-tag release", r#"{"keepTags": ["release"]}"#),
        (
            "--keep-last 2 --keep-hourly 3 --keep-daily 4 --keep-weekly 5 --keep-monthly 6 --keep-yearly 7 --keep-within 5d --keep-tag x",
            r#"{"keepLast": 2, "keepHourly": 3, "keepDaily": 4, "keepWeekly": 5, "keepMonthly": 6, "keepYearly": 7, "keepWithin": "5d", "keepTags": ["x"]}"#,
        ),
        (
            "--keep-daily 7 --keep-weekly 4 --keep-monthly 12 --keep-tag x --keep-tag release",
            r#"{"keepDaily": 7, "keepWeekly": 4, "keepMonthly": 12, "keepTags": ["x", "release"]}"#,
        ),
    ] {
        let retention: Retention = serde_json::from_str(retention).unwrap();
        let ours: BTreeSet<String> = judge(Some(&retention), &snapshots, &TimeZone::UTC, now)
            .into_iter()
            .filter(Verdict::keeps)
            .map(|verdict| verdict.snapshot.id.clone())
            .collect();
        let mut theirs = kept_by_restic(&repository, rules);
        // The one thing that is safer here.
        theirs.insert(newest.clone());
        let time_of = |id: &String| {
            snapshots
                .iter()
                .find(|one| one.id == *id)
                .map(|one| one.time)
        };
        assert!(
            ours == theirs,
            "{rules}: only ours {:?}, only restic's {:?}",
            ours.difference(&theirs).map(time_of).collect::<Vec<_>>(),
            theirs.difference(&ours).map(time_of).collect::<Vec<_>>()
        );
    }
}
