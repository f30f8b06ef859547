//! The rules that neither the schema nor CEL can say, and the words for them.
//!
//! [`Check::check`] is called for plain files by `crate::manifest` and by the
//! reconcilers in a cluster, so that both hosts refuse the same specs.

use crate::{Backup, BackupPolicy, Destination, Restore, RestoreTarget, ScheduleError};

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
        Vec::new()
    }
}

impl Check for Backup {
    fn check(&self) -> Vec<Violation> {
        Vec::new()
    }
}

impl Check for BackupPolicy {
    fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        if let Some(schedule) = &self.spec.schedule {
            let mut push = |field: &str, error: ScheduleError| {
                violations.push(Violation::new(format!("/spec/schedule/{field}"), error));
            };
            let _ = schedule.cron().map_err(|error| push("cron", error));
            let _ = schedule
                .time_zone()
                .map_err(|error| push("timeZone", error));
        }
        violations
    }
}

impl Check for Restore {
    fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        if let RestoreTarget::Mongodb(target) = &self.spec.to {
            for (from, to) in &target.rename {
                if let Some(message) = check_rename(from, to) {
                    let key = escape_pointer(from);
                    violations.push(Violation::new(
                        format!("/spec/to/mongodb/rename/{key}"),
                        message,
                    ));
                }
            }
        }
        violations
    }
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
