//! The catalogue: the snapshots that are in the destinations, told as `Backup` resources.
//!
//! Observed state comes from the destinations. A backup and its copies are one `Backup`; they are
//! recognised by [`Snapshot::identity`].

use std::collections::BTreeMap;

use holdfast_crds::meta::{Condition, ObjectMeta, Time};
use holdfast_crds::{Backup, BackupCopy, BackupSpec, BackupStatus, DeletionPolicy, SourceKind};
use holdfast_engine::repository::{POLICY_TAG, Snapshot, TAG};

use crate::host::Name;

/// What one destination holds.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The destination.
    pub destination: Name,
    /// Its snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// The tags that the user chose, without those of Holdfast.
#[must_use]
pub fn user_tags(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .tags
        .iter()
        .filter(|tag| *tag != TAG && !tag.starts_with(POLICY_TAG))
        .cloned()
        .collect()
}

/// The policy of a snapshot of ours.
#[must_use]
pub fn policy_of(snapshot: &Snapshot) -> Option<Name> {
    let (namespace, name) = snapshot.policy.as_deref()?.split_once('/')?;
    Some(Name::new(namespace, name))
}

/// Every backup of ours in the listings, one each however many copies there are, the oldest first.
/// Listings come in the order of preference: figures are those of the first that holds a backup,
/// and of the one it was made at where that is listed.
#[must_use]
pub fn backups(listings: &[Listing]) -> Vec<Backup> {
    let mut by_identity: BTreeMap<&str, Vec<(&Name, &Snapshot)>> = BTreeMap::new();
    for listing in listings {
        for snapshot in listing
            .snapshots
            .iter()
            .filter(|snapshot| !snapshot.foreign)
        {
            by_identity
                .entry(snapshot.identity())
                .or_default()
                .push((&listing.destination, snapshot));
        }
    }
    let mut backups: Vec<Backup> = by_identity
        .into_values()
        .filter_map(|copies| backup(&copies))
        .collect();
    backups.sort_by(|one, other| {
        let key = |backup: &Backup| {
            (
                backup
                    .metadata
                    .creation_timestamp
                    .as_ref()
                    .map(|time| time.0),
                name_of(backup),
            )
        };
        key(one).cmp(&key(other))
    });
    backups
}

/// Every snapshot that others put into the repositories.
#[must_use]
pub fn foreign(listings: &[Listing]) -> Vec<(&Name, &Snapshot)> {
    listings
        .iter()
        .flat_map(|listing| {
            listing
                .snapshots
                .iter()
                .filter(|snapshot| snapshot.foreign)
                .map(|snapshot| (&listing.destination, snapshot))
        })
        .collect()
}

fn name_of(backup: &Backup) -> String {
    backup.metadata.name.clone().unwrap_or_default()
}

fn backup(copies: &[(&Name, &Snapshot)]) -> Option<Backup> {
    // The one that was made there knows what was read; a copy only what was copied.
    let (_, snapshot) = copies
        .iter()
        .find(|(_, snapshot)| snapshot.original_id.is_none())
        .or_else(|| copies.first())?;
    let policy = policy_of(snapshot)?;
    let identity = snapshot.identity();
    let facts = snapshot.facts.as_ref();
    let ended = snapshot.completion_time.unwrap_or(snapshot.time);
    Some(Backup {
        metadata: ObjectMeta {
            name: Some(object_name(&policy, identity)),
            namespace: Some(policy.namespace.clone()),
            creation_timestamp: Some(Time(snapshot.time)),
            ..ObjectMeta::default()
        },
        spec: BackupSpec {
            policy: policy.name,
            tags: user_tags(snapshot),
            deletion_policy: DeletionPolicy::default(),
        },
        status: Some(BackupStatus {
            conditions: vec![Condition {
                type_: "Succeeded".to_owned(),
                status: "True".to_owned(),
                reason: "Completed".to_owned(),
                message: complete(facts.and_then(|facts| facts.skipped)),
                last_transition_time: Time(ended),
                observed_generation: None,
            }],
            id: Some(identity.to_owned()),
            start_time: Some(Time(snapshot.start_time.unwrap_or(snapshot.time))),
            completion_time: Some(Time(ended)),
            read_bytes: snapshot.read_bytes,
            added_bytes: snapshot.added_bytes,
            stored_bytes: snapshot.stored_bytes,
            documents: facts.and_then(|facts| facts.documents),
            files: facts.and_then(|facts| facts.files),
            skipped: facts.and_then(|facts| facts.skipped),
            notes: facts.map(|facts| facts.notes.clone()).unwrap_or_default(),
            source: facts.and_then(|facts| match facts.source.as_str() {
                "mongodb" => Some(SourceKind::Mongodb),
                "files" => Some(SourceKind::Files),
                _ => None,
            }),
            tags: user_tags(snapshot),
            point_in_time: facts.and_then(|facts| facts.point_in_time),
            cluster_time: facts
                .and_then(|facts| facts.cluster_time)
                .map(|time| format!("{}.{}", time.t, time.i)),
            copies: copies
                .iter()
                .map(|(destination, snapshot)| BackupCopy {
                    destination: destination.name.clone(),
                    id: snapshot.id.clone(),
                    verified_time: None,
                })
                .collect(),
            observed_generation: None,
            last_handled_request: None,
        }),
    })
}

/// What is said of a backup that ended well.
#[must_use]
pub fn complete(skipped: Option<u64>) -> String {
    match skipped {
        None | Some(0) => "The backup is complete.".to_owned(),
        Some(skipped) => format!(
            "The backup is complete but for {skipped} files or directories that could not be read and were skipped."
        ),
    }
}

/// The name of the `Backup` that mirrors a restore point: the policy and the beginning of its id.
#[must_use]
pub fn object_name(policy: &Name, identity: &str) -> String {
    // Kubernetes allows 253 characters.
    let policy: String = policy.name.chars().take(240).collect();
    let id: String = identity.chars().take(8).collect();
    format!("{policy}-{id}")
}
