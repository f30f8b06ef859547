//! The tables: backups, history, plans. As kubectl's: no lines, three spaces between columns.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use holdfast_crds::Backup;
use holdfast_crds::meta::Time;
use jiff::Timestamp;

use super::human::{UNKNOWN, duration, first_line, size_or_unknown, time, time_or_unknown};
use crate::journal::{Ending, Run};
use crate::plan::action::short;
use crate::plan::{Action, Plan};

/// Three spaces between columns.
const GAP: u16 = 3;

/// A table with a header.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table
}

/// Restore points, in the order given.
#[must_use]
pub fn backups(items: &[Backup]) -> Table {
    let rows = items
        .iter()
        .map(|backup| {
            let status = backup.status.clone().unwrap_or_default();
            let moment = |time: Option<Time>| time.map(|time| time.0);
            let destinations: Vec<&str> = status
                .copies
                .iter()
                .map(|copy| copy.destination.as_str())
                .collect();
            let namespace = backup.metadata.namespace.as_deref().unwrap_or_default();
            [
                or_unknown(status.id.as_deref().map(short)),
                time_or_unknown(moment(status.start_time).or(moment(status.completion_time))),
                format!("{namespace}/{}", backup.spec.policy),
                status.source.map_or_else(
                    || UNKNOWN.to_owned(),
                    |source| match status.skipped {
                        Some(skipped) => format!("{source}, {skipped} skipped"),
                        None => source.to_string(),
                    },
                ),
                size_or_unknown(status.read_bytes),
                size_or_unknown(status.added_bytes),
                join(&destinations),
                join(&status.tags),
            ]
        })
        .collect();
    table(
        [
            "ID",
            "TIME",
            "POLICY",
            "SOURCE",
            "SIZE",
            "ADDED",
            "DESTINATIONS",
            "TAGS",
        ],
        rows,
    )
}

/// Runs, in the order given. One in progress shows how long it has taken by `now`.
#[must_use]
pub fn history(runs: &[Run], now: Timestamp) -> Table {
    let rows = runs
        .iter()
        .map(|run| {
            let ending = run.ending.as_ref();
            let figure = |get: fn(&Ending) -> Option<u64>| size_or_unknown(ending.and_then(get));
            let end = ending.map_or(now, |ending| ending.at);
            [
                time(run.started),
                run.kind.to_string(),
                or_unknown(run.policy_key().as_deref()),
                or_unknown(run.destination.as_deref()),
                ending.map_or_else(
                    || "InProgress".to_owned(),
                    |ending| ending.outcome.to_string(),
                ),
                duration(end.duration_since(run.started)),
                figure(|ending| ending.figures.read_bytes),
                figure(|ending| ending.figures.added_bytes),
                or_unknown(
                    ending
                        .and_then(|ending| ending.snapshot.as_deref())
                        .map(short),
                ),
                ending.map(message).unwrap_or_default(),
            ]
        })
        .collect();
    table(
        [
            "STARTED",
            "KIND",
            "POLICY",
            "DESTINATION",
            "RESULT",
            "DURATION",
            "READ",
            "ADDED",
            "BACKUP",
            "MESSAGE",
        ],
        rows,
    )
}

/// Plans: when, for which object, and what.
#[must_use]
pub fn plans(plans: &[Plan]) -> Table {
    let mut rows = Vec::new();
    for plan in plans {
        let mut row = |when: String, what: String| rows.push([when, plan.subject.clone(), what]);
        if plan.actions.is_empty() {
            row(UNKNOWN.to_owned(), "nothing to do".to_owned());
        }
        for action in &plan.actions {
            match action {
                Action::WaitUntil {
                    time: Some(at),
                    what,
                } => row(time(*at), what.clone()),
                Action::WaitUntil { time: None, what } => row("waits".to_owned(), what.clone()),
                Action::Refuse {
                    reason, message, ..
                } => row("refused".to_owned(), format!("{reason}: {message}")),
                work => row("now".to_owned(), work.to_string()),
            }
        }
        for action in &plan.forecast {
            row("then".to_owned(), action.to_string());
        }
    }
    table(["WHEN", "OBJECT", "WHAT"], rows)
}

/// Why a run failed, or what a success lacks.
fn message(ending: &Ending) -> String {
    match (&ending.error, ending.figures.skipped) {
        (Some(error), _) => first_line(&error.message).to_owned(),
        (None, Some(skipped)) => format!("{skipped} could not be read and were skipped"),
        (None, None) => String::new(),
    }
}

fn or_unknown(text: Option<&str>) -> String {
    text.unwrap_or(UNKNOWN).to_owned()
}

fn join<S: AsRef<str>>(words: &[S]) -> String {
    if words.is_empty() {
        return UNKNOWN.to_owned();
    }
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    words.join(",")
}
