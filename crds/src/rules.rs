//! The rules that neither the schema nor CEL can say in full or in good words.
//!
//! [`Check::check`] is called for plain files by [`crate::manifest`] and by the
//! reconcilers in a cluster, so that both hosts refuse the same specs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{Backup, BackupPolicy, Destination, Duration, ParseQuantityError, Restore, schedule};

/// A rule that a resource breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The JSON pointer of the field, such as `/spec/schedule/cron`.
    pub pointer: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Violation {
    fn new(pointer: impl Into<String>, message: impl ToString) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.to_string(),
        }
    }

    /// The field as people write it, such as `spec.schedule.cron`.
    pub fn field(&self) -> String {
        self.pointer
            .trim_start_matches('/')
            .replace('/', ".")
            .replace("~1", "/")
            .replace("~0", "~")
    }
}

/// Resources that have rules of this kind.
pub trait Check {
    /// Every rule that the resource breaks.
    fn check(&self) -> Vec<Violation>;
}

impl Check for Destination {
    fn check(&self) -> Vec<Violation> {
        check_spec(&self.spec)
    }
}

impl Check for Backup {
    fn check(&self) -> Vec<Violation> {
        check_spec(&self.spec)
    }
}

impl Check for BackupPolicy {
    fn check(&self) -> Vec<Violation> {
        check_spec(&self.spec)
    }
}

impl Check for Restore {
    fn check(&self) -> Vec<Violation> {
        check_spec(&self.spec)
    }
}

fn check_spec(spec: &impl Serialize) -> Vec<Violation> {
    match serde_json::to_value(spec) {
        Ok(spec) => check_value(&json!({ "spec": spec })),
        Err(error) => vec![Violation::new("/spec", error)],
    }
}

/// The fields whose rules CEL has too, so that an API server refuses what breaks them.
pub(crate) const IN_CEL_TOO: [&str; 3] = [
    "/spec/schedule/cron",
    "/spec/schedule/timeZone",
    "/spec/to/mongodb/rename",
];

/// The same for a document of any kind that need not be in order otherwise:
/// its other mistakes shall not hide those that are found here.
pub(crate) fn check_value(document: &Value) -> Vec<Violation> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let mut violations = Vec::new();
    let cron = "/spec/schedule/cron";
    if let Some(Err(error)) = text(cron).map(schedule::parse_cron) {
        violations.push(Violation::new(cron, error));
    }
    let time_zone = "/spec/schedule/timeZone";
    if let Some(Err(error)) = text(time_zone).map(schedule::parse_time_zone) {
        violations.push(Violation::new(time_zone, error));
    }
    let rename = "/spec/to/mongodb/rename";
    let mut targets: BTreeMap<&str, &str> = BTreeMap::new();
    for (from, to) in document
        .pointer(rename)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let Some(to) = to.as_str() else { continue };
        let pointer = format!("{rename}/{}", escape_pointer(from));
        if let Some(message) = check_rename(from, to) {
            violations.push(Violation::new(pointer, message));
        } else if let Some(other) = targets.insert(to, from) {
            let message =
                format!("`{other}` and `{from}` both become `{to}`: give each its own name");
            violations.push(Violation::new(pointer, message));
        }
    }
    // Values that the schema's patterns cannot bound.
    for (pointer, value) in durations(document) {
        if let Err(error @ ParseQuantityError::Overflow(_)) = value.parse::<Duration>() {
            violations.push(Violation::new(pointer, error));
        }
    }
    violations
}

/// Every duration of a document, with its pointer.
fn durations(document: &Value) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    let mut look = |pointer: String| {
        if let Some(text) = document.pointer(&pointer).and_then(Value::as_str) {
            found.push((pointer, text));
        }
    };
    let length = |pointer: &str| {
        document
            .pointer(pointer)
            .and_then(Value::as_array)
            .map(Vec::len)
            .unwrap_or_default()
    };
    look("/spec/retention/keepWithin".to_owned());
    for index in 0..length("/spec/destinations") {
        look(format!("/spec/destinations/{index}/retention/keepWithin"));
    }
    for hook in ["before", "after", "onFailure"] {
        for index in 0..length(&format!("/spec/hooks/{hook}")) {
            look(format!("/spec/hooks/{hook}/{index}/timeout"));
        }
    }
    found
}

/// What is wrong with one entry of `rename`.
pub fn check_rename(from: &str, to: &str) -> Option<String> {
    for name in [from, to] {
        let (database, collection) = name.split_once('.').unwrap_or((name, ""));
        if database.is_empty() || collection.is_empty() {
            return Some(format!(
                "`{name}` is not a namespace: write database.collection on both sides, such as \"shop.*\": \"shop_copy.*\""
            ));
        }
        if name.contains('?') {
            return Some(format!(
                "`{name}`: `?` is not possible in rename; write `*`"
            ));
        }
    }
    let stars = |name: &str| name.matches('*').count();
    (stars(from) != stars(to)).then(|| {
        format!(
            "`{from}` has {} `*` and `{to}` has {}: each `*` on the left stands for the one on the right, so write as many on both sides",
            stars(from),
            stars(to)
        )
    })
}

/// A segment of a JSON pointer.
pub(crate) fn escape_pointer(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

/// The candidate that was probably meant, if one is near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1 + word.chars().count().min(candidate.chars().count()) / 4
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, replaced or swapped.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let above = &rows[i];
            let mut best = (above[j + 1] + 1)
                .min(row[j] + 1)
                .min(above[j] + usize::from(x != y));
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
