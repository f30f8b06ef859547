//! What the reconcilers saw of policies and destinations, and what the journal remembers of it.

use holdfast_crds::meta::Condition;
use holdfast_crds::{BackupPolicySpec, BackupPolicyStatus, DestinationStatus};
use jiff::Timestamp;

use crate::journal::ObjectRecord;
use crate::plan::schedule::Timetable;
use crate::reconcile::conditions::READY;

/// What was last seen of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFacts {
    /// Whether it is suspended.
    pub suspended: bool,
    /// When the next run is due.
    pub next_run: Option<Timestamp>,
    /// The moment that the newest backup in any destination shows.
    pub newest_backup: Option<Timestamp>,
    /// What the condition `Ready` says; absent while it is unknown.
    pub ready: Option<bool>,
    /// The first starts of its schedule since it last succeeded, or since it was declared so: at the
    /// most [`MAX_DUE`].
    pub due: Vec<Timestamp>,
}

/// How many scheduled starts without a success are counted.
pub(super) const MAX_DUE: usize = 10;

/// What was last seen of a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationFacts {
    /// Whether its repository could be opened; absent while nobody tried.
    pub up: Option<bool>,
    /// How many backups of Holdfast it holds.
    pub backups: Option<u64>,
    /// How many bytes it takes.
    pub stored_bytes: Option<u64>,
    /// When it was last checked without finding damage.
    pub last_check: Option<Timestamp>,
}

impl PolicyFacts {
    /// What is known of a policy from its spec, its status, and since when it has that spec.
    #[must_use]
    pub fn of(
        key: &str,
        spec: &BackupPolicySpec,
        status: &BackupPolicyStatus,
        spec_seen: Timestamp,
        now: Timestamp,
    ) -> Self {
        let newest_backup = status.last_backup.as_ref().map(|backup| backup.time.0);
        let success = status.last_success_time.as_ref().map(|time| time.0);
        let since = success.max(newest_backup).max(Some(spec_seen));
        let timetable = spec
            .schedule
            .as_ref()
            .filter(|_| !spec.suspend)
            .and_then(|schedule| Timetable::new(schedule, key).ok());
        let due = timetable.as_ref().map_or_else(Vec::new, |timetable| {
            std::iter::successors(since, |start| timetable.next_after(*start))
                .skip(1)
                .take(MAX_DUE)
                .collect()
        });
        Self {
            suspended: spec.suspend,
            next_run: timetable.and_then(|timetable| timetable.next_after(now)),
            newest_backup,
            ready: ready(&status.conditions),
            due,
        }
    }

    /// How many scheduled starts have passed without a success.
    pub(super) fn without_success(&self, success: Option<Timestamp>, now: Timestamp) -> u64 {
        let passed = self
            .due
            .iter()
            .filter(|start| **start <= now && success.is_none_or(|success| **start > success));
        u64::try_from(passed.count()).unwrap_or(u64::MAX)
    }

    /// What the journal remembers of a policy; nothing of one that an older version wrote and that
    /// cannot be read.
    pub(super) fn remembered(key: &str, record: &ObjectRecord, now: Timestamp) -> Self {
        let status = serde_json::from_value(record.status.clone()).unwrap_or_default();
        serde_json::from_value(record.spec.clone()).map_or_else(
            |_| Self::default(),
            |spec| Self::of(key, &spec, &status, record.spec_seen, now),
        )
    }
}

/// What a condition `Ready` says.
fn ready(conditions: &[Condition]) -> Option<bool> {
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == READY)?;
    match ready.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

impl DestinationFacts {
    /// What the journal remembers of a destination; nothing of one that an older version wrote and
    /// that cannot be read.
    pub(super) fn remembered(record: &ObjectRecord) -> Self {
        let status: DestinationStatus =
            serde_json::from_value(record.status.clone()).unwrap_or_default();
        Self {
            up: ready(&status.conditions),
            backups: status.backups,
            stored_bytes: status.stored_bytes,
            last_check: status.last_check.map(|time| time.0),
        }
    }
}
