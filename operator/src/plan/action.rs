//! A plan and its actions: values that are printed, written as JSON, and carried out.

use std::fmt;

use holdfast_engine::class::ErrorClass;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::retention::KeepReason;
use crate::journal::FailureClass;

/// How ids are shortened for a person.
const SHORT_ID: usize = 8;

/// The id that stands in a forecast for a backup that is not made yet.
pub const NEW_BACKUP: &str = "(new)";

/// What leads from what is observed to what is declared, for one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The object: `BackupPolicy default/shop`.
    pub subject: String,
    /// What to do now, in this order. When one fails, those after it that do not concern the same
    /// destination are still right.
    pub actions: Vec<Action>,
    /// What is likely to follow when those have been done; to be planned again then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forecast: Vec<Action>,
}

impl Plan {
    /// A plan for an object, with nothing to do.
    pub(super) fn of(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            subject: format!("{kind} {namespace}/{name}"),
            actions: Vec::new(),
            forecast: Vec::new(),
        }
    }

    /// The same object's plan to do nothing, because its spec cannot work where it is.
    #[must_use]
    pub fn refused(self, reason: &str, message: String) -> Self {
        Self {
            actions: vec![Action::refuse(ErrorClass::Permanent, reason, message)],
            forecast: Vec::new(),
            ..self
        }
    }

    /// The actions that change something: not waiting, and not refusals.
    pub fn work(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().filter(|action| action.is_work())
    }

    /// When it is worth to plan again, if nothing else happens before.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.actions
            .iter()
            .filter_map(|action| match action {
                Action::WaitUntil { time, .. } => *time,
                _ => None,
            })
            .min()
    }

    /// The first refusal: its reason and message make a condition.
    #[must_use]
    pub fn refusal(&self) -> Option<(&str, &str)> {
        self.actions.iter().find_map(|action| match action {
            Action::Refuse {
                reason, message, ..
            } => Some((reason.as_str(), message.as_str())),
            _ => None,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject)?;
        if self.actions.is_empty() {
            writeln!(f, "  nothing to do")?;
        }
        for action in &self.actions {
            writeln!(f, "  {action}")?;
        }
        for action in &self.forecast {
            writeln!(f, "  then {action}")?;
        }
        Ok(())
    }
}

/// A backup at a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRef {
    /// Its id there.
    pub id: String,
    /// The moment that it shows.
    pub time: Timestamp,
}

/// A backup that stays, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// The moment that it shows.
    pub time: Timestamp,
    /// The rules that want it.
    pub reasons: Vec<KeepReason>,
}

/// Why a backup is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackupReason {
    /// The schedule says so; so many starts before it were missed.
    Due {
        /// Counted up to [`super::schedule::MAX_COUNTED`].
        missed: u32,
    },
    /// The attempt before failed.
    Retry {
        /// How many attempts have failed.
        failures: u32,
    },
    /// A Backup object asks for it.
    Requested {
        /// Its name.
        backup: String,
    },
}

/// One thing to do, or the reason to do nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// Make the repository of a destination.
    InitRepository {
        /// The destination.
        destination: String,
        /// The destination whose chunker is shared, so that copies from it are recognised.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunker_of: Option<String>,
    },
    /// Back up to a destination.
    Backup {
        /// `namespace/name`.
        policy: String,
        /// The destination.
        destination: String,
        /// Why.
        reason: BackupReason,
        /// The time that it was scheduled for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scheduled_for: Option<Timestamp>,
        /// The user's tags: those of the policy and of the Backup object.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<String>,
    },
    /// Copy backups between destinations.
    Copy {
        /// `namespace/name`.
        policy: String,
        /// Where they are.
        from: String,
        /// Where they are missing.
        to: String,
        /// Which, newest first; the ids are those at `from`.
        snapshots: Vec<SnapshotRef>,
    },
    /// Forget backups that no rule of the retention wants.
    Forget {
        /// `namespace/name`.
        policy: String,
        /// The destination.
        destination: String,
        /// Which, newest first.
        snapshots: Vec<SnapshotRef>,
        /// Those that stay, and why.
        kept: Vec<Kept>,
    },
    /// Free what forgotten backups took.
    Prune {
        /// The destination.
        destination: String,
    },
    /// Delete backups because the object that stands for them was deleted, with
    /// `deletionPolicy: Delete`.
    Delete {
        /// The destination.
        destination: String,
        /// Which.
        snapshots: Vec<SnapshotRef>,
        /// The object.
        object: String,
    },
    /// Restore a backup.
    Restore {
        /// `namespace/name` of the Restore.
        restore: String,
        /// `namespace/name` of the policy.
        policy: String,
        /// The destination to read from.
        destination: String,
        /// The backup there.
        snapshot: SnapshotRef,
    },
    /// Wait: until a time, or for something else.
    WaitUntil {
        /// Until when; absent: for something that has no time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<Timestamp>,
        /// What for, as a fragment of a sentence.
        what: String,
    },
    /// Do nothing, because it would be wrong.
    Refuse {
        /// The reason for a condition, in CamelCase.
        reason: String,
        /// What must happen for it to go on.
        class: FailureClass,
        /// What is wrong and what to do.
        message: String,
    },
}

impl Action {
    /// Whether it changes something.
    #[must_use]
    pub fn is_work(&self) -> bool {
        !matches!(self, Self::WaitUntil { .. } | Self::Refuse { .. })
    }

    pub(super) fn wait(time: Option<Timestamp>, what: impl Into<String>) -> Self {
        Self::WaitUntil {
            time,
            what: what.into(),
        }
    }

    pub(super) fn refuse(
        class: ErrorClass,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Refuse {
            reason: reason.into(),
            class: class.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InitRepository { destination, .. } => {
                write!(f, "make the repository of {destination}")
            }
            Self::Backup {
                policy,
                destination,
                reason,
                scheduled_for,
                ..
            } => {
                write!(f, "back up {policy} to {destination}: ")?;
                match (reason, scheduled_for) {
                    (BackupReason::Due { missed: 0 }, Some(time)) => write!(f, "due at {time}"),
                    (BackupReason::Due { missed: 1 }, Some(time)) => {
                        write!(f, "due at {time}, the start before it was missed")
                    }
                    (BackupReason::Due { missed }, Some(time)) => {
                        write!(f, "due at {time}, {missed} earlier starts were missed")
                    }
                    (BackupReason::Due { .. }, None) => f.write_str("due"),
                    (BackupReason::Retry { failures: 1 }, _) => {
                        f.write_str("another try after one that failed")
                    }
                    (BackupReason::Retry { failures }, _) => {
                        write!(f, "another try after {failures} that failed")
                    }
                    (BackupReason::Requested { backup }, _) => {
                        write!(f, "Backup {backup} asks for it")
                    }
                }
            }
            Self::Copy {
                policy,
                from,
                to,
                snapshots,
            } => write!(
                f,
                "copy {} of {policy} from {from} to {to}: {}",
                Count(snapshots.len()),
                Ids(snapshots)
            ),
            Self::Forget {
                policy,
                destination,
                snapshots,
                kept,
            } => write!(
                f,
                "forget {} of {policy} at {destination}, {} stay: {}",
                Count(snapshots.len()),
                kept.len(),
                Ids(snapshots)
            ),
            Self::Prune { destination } => {
                write!(f, "prune {destination}: free what forgotten backups took")
            }
            Self::Delete {
                destination,
                snapshots,
                object,
            } => write!(
                f,
                "delete {} at {destination} because {object} was deleted: {}",
                Count(snapshots.len()),
                Ids(snapshots)
            ),
            Self::Restore {
                restore,
                policy,
                destination,
                snapshot,
            } => write!(
                f,
                "carry out Restore {restore}: backup {} of {policy} from {destination}, as of {}",
                short(&snapshot.id),
                snapshot.time
            ),
            Self::WaitUntil {
                time: Some(time),
                what,
            } => write!(f, "wait until {time}: {what}"),
            Self::WaitUntil { time: None, what } => write!(f, "wait: {what}"),
            Self::Refuse {
                reason, message, ..
            } => write!(f, "refuse ({reason}): {message}"),
        }
    }
}

/// The first characters of an id.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

struct Count(usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0 == 1 { "backup" } else { "backups" };
        write!(f, "{} {noun}", self.0)
    }
}

/// At most five ids; the rest is in the JSON of the plan.
struct Ids<'a>(&'a [SnapshotRef]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (number, snapshot) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", short(&snapshot.id), snapshot.time)?;
        }
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}
