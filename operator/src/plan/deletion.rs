//! The plan of an object that was deleted and whose data goes with it (`deletionPolicy: Delete`).
//! Without that word nothing is deleted, and there is nothing to plan.

use holdfast_engine::class::ErrorClass;

use super::action::{Action, Plan, SnapshotRef};
use super::observed::{DestinationState, Snapshot};

/// What of a destination the deletion concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletionSite {
    /// The destination.
    pub destination: String,
    /// What is known of it; its snapshots are those of Holdfast, of whatever policy.
    pub state: DestinationState,
    /// Whether a run uses it now.
    pub busy: bool,
}

/// What is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted<'a> {
    /// A Backup: this one, by [`Snapshot::identity`], wherever it is.
    Backup {
        /// `namespace/name`.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
        /// What all its copies have in common.
        identity: &'a str,
    },
    /// A Destination: every backup of Holdfast in it. Snapshots of others stay.
    Destination {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
        /// The policies that still name it; while there are any, its data stays.
        used_by: &'a [String],
    },
}

impl Deleted<'_> {
    fn plan(&self) -> Plan {
        match self {
            Self::Backup {
                namespace, name, ..
            } => Plan::of("Backup", namespace, name),
            Self::Destination {
                namespace, name, ..
            } => Plan::of("Destination", namespace, name),
        }
    }

    fn concerns(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Backup { identity, .. } => snapshot.identity == *identity,
            Self::Destination { .. } => true,
        }
    }
}

/// The plan of a deletion; it is empty when nothing of it is left to do, and the object can be
/// forgotten. A destination that cannot be used keeps it alive: what was promised to be deleted is
/// not forgotten about.
#[must_use]
pub fn plan_deletion(deleted: Deleted<'_>, sites: &[DeletionSite]) -> Plan {
    let mut plan = deleted.plan();
    if let Deleted::Destination { name, used_by, .. } = deleted
        && !used_by.is_empty()
    {
        plan.actions.push(Action::refuse(
            ErrorClass::Waiting,
            "StillInUse",
            format!(
                "Destination {name} was deleted with deletionPolicy Delete, and {} still name it; its data stays until none does",
                used_by.join(", ")
            ),
        ));
        return plan;
    }
    for DeletionSite {
        destination,
        state,
        busy,
    } in sites
    {
        match state {
            DestinationState::Empty => {}
            DestinationState::Unusable {
                class,
                reason,
                message,
            } => plan.actions.push(Action::refuse(
                *class,
                reason.clone(),
                format!("what is to be deleted at {destination} cannot be reached: {message}"),
            )),
            DestinationState::Open { snapshots, .. } => {
                let mut wanted: Vec<&Snapshot> = snapshots
                    .iter()
                    .filter(|snapshot| deleted.concerns(snapshot))
                    .collect();
                if wanted.is_empty() {
                    continue;
                }
                if *busy {
                    plan.actions.push(Action::wait(
                        None,
                        format!("{destination} is in use; the deletion follows"),
                    ));
                    continue;
                }
                wanted.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.id.cmp(&b.id)));
                plan.actions.push(Action::Delete {
                    destination: destination.clone(),
                    snapshots: wanted
                        .into_iter()
                        .map(|snapshot| SnapshotRef {
                            id: snapshot.id.clone(),
                            time: snapshot.time,
                        })
                        .collect(),
                    object: plan.subject.clone(),
                });
                plan.actions.push(Action::Prune {
                    destination: destination.clone(),
                });
            }
        }
    }
    plan
}
