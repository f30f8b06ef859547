//! Conditions, by the conventions of the Kubernetes API: one per type, and the time of transition
//! changes only when the status does.

use holdfast_crds::meta::{Condition, Time};
use jiff::Timestamp;

/// The condition of long-lived kinds.
pub const READY: &str = "Ready";

/// The condition of kinds that end.
pub const SUCCEEDED: &str = "Succeeded";

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Some(true)`, `Some(false)`, or `None` while it is not known.
    pub status: Option<bool>,
    /// In CamelCase, from the documented list.
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Verdict {
    /// It holds.
    pub fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: Some(true),
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// It does not hold.
    pub fn no(reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: Some(false),
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// It is not known yet.
    pub fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: None,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// Conditions with the one of this type saying `verdict`; the others stay as they were.
#[must_use]
pub fn set(
    previous: &[Condition],
    type_: &str,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let status = match verdict.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let last_transition_time = previous
        .iter()
        .find(|condition| condition.type_ == type_ && condition.status == status)
        .map_or(Time(now), |condition| {
            condition.last_transition_time.clone()
        });
    let mut conditions: Vec<Condition> = previous
        .iter()
        .filter(|condition| condition.type_ != type_)
        .cloned()
        .collect();
    conditions.push(Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason,
        message: verdict.message,
        last_transition_time,
        observed_generation: generation,
    });
    conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_transition_changes_with_the_status_only() {
        let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let second: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let ready = set(&[], READY, Verdict::yes("A", ""), Some(1), first);
        let still = set(
            &ready,
            READY,
            Verdict::yes("B", "other words"),
            Some(2),
            second,
        );
        assert_eq!(still[0].last_transition_time.0, first);
        assert_eq!(
            (still[0].reason.as_str(), still[0].observed_generation),
            ("B", Some(2))
        );
        let failed = set(&still, READY, Verdict::no("C", ""), Some(2), second);
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].last_transition_time.0, second);
    }
}
