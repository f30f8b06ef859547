//! Events on changes of state, and on nothing else.

use holdfast_crds::meta::Condition;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// The controller that events and fields come from.
pub const CONTROLLER: &str = "holdfast";

/// How many bytes the note of an event may have.
const NOTE_LIMIT: usize = 1024;

/// Publishes events; one for the whole process.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Events of this process.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance,
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Tells of the conditions whose status or reason is another one now.
    pub async fn changed(
        &self,
        reference: &ObjectReference,
        before: &[Condition],
        after: &[Condition],
    ) {
        for condition in changes(before, after) {
            let type_ = if condition.status == "False" {
                EventType::Warning
            } else {
                EventType::Normal
            };
            self.publish(reference, type_, &condition.reason, &condition.message)
                .await;
        }
    }

    /// Publishes one event. One that cannot be published is told in the log: nothing hangs on it.
    pub async fn publish(
        &self,
        reference: &ObjectReference,
        type_: EventType,
        reason: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, reference).await {
            tracing::warn!(
                namespace = reference.namespace,
                name = reference.name,
                reason,
                %error,
                "An event was not published."
            );
        }
    }
}

/// The conditions that say something else than before. The message alone is no change of state.
fn changes<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    after
        .iter()
        .filter(|condition| {
            !before.iter().any(|known| {
                known.type_ == condition.type_
                    && known.status == condition.status
                    && known.reason == condition.reason
            })
        })
        .collect()
}

fn cut(note: &str) -> String {
    if note.len() <= NOTE_LIMIT {
        return note.to_owned();
    }
    let end = note.floor_char_boundary(NOTE_LIMIT - "…".len());
    format!("{}…", note.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use holdfast_crds::meta::Time;
    use jiff::Timestamp;

    use super::*;

    fn condition(status: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    #[test]
    fn only_a_change_of_state_is_told() {
        let known = [condition("False", "Unreachable", "one")];
        let count = |after: Condition| changes(&known, &[after]).len();
        assert_eq!(count(condition("False", "Unreachable", "other words")), 0);
        assert_eq!(count(condition("False", "WrongPassword", "one")), 1);
        assert_eq!(count(condition("True", "Reachable", "")), 1);
        assert_eq!(changes(&[], &known).len(), 1);
    }

    #[test]
    fn a_note_fits() {
        let note = cut(&"é".repeat(2000));
        assert!(note.len() <= NOTE_LIMIT && note.ends_with('…'));
    }
}
