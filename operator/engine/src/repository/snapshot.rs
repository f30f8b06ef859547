//! A snapshot as it is listed: what its file says, read as ours or as somebody else's.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use rustic_core::repofile::SnapshotFile;
use serde::{Deserialize, Serialize};

use super::RepositoryError;
use super::id::{ObjectId, from_rustic};
use super::inner::{Inner, locked};
use crate::manifest::ClusterTime;

/// The tag that every snapshot of ours carries.
pub const TAG: &str = "holdfast";

/// The beginning of the tag that names the policy: `policy=<namespace>/<name>`.
pub const POLICY_TAG: &str = "policy=";

/// A snapshot in a repository. Written as JSON it tells one process what another has listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id: 64 hex digits.
    pub id: String,
    /// The id of the snapshot that this one is a copy of; absent for one that was made here.
    pub original_id: Option<String>,
    /// The moment it stands for.
    pub time: jiff::Timestamp,
    /// The host it names; `<namespace>/<policy>` for ours.
    pub hostname: String,
    /// Its tags, ours included.
    pub tags: Vec<String>,
    /// The paths it names.
    pub paths: Vec<String>,
    /// `<namespace>/<policy>`; only snapshots of ours have one.
    pub policy: Option<String>,
    /// Whether somebody else made it: it is listed and never touched.
    pub foreign: bool,
    /// What a listing shows beside it; only snapshots of ours have it.
    pub facts: Option<SnapshotFacts>,
    /// Bytes of the source that were read for it.
    pub read_bytes: Option<u64>,
    /// Plain bytes that no earlier snapshot had.
    pub added_bytes: Option<u64>,
    /// Bytes that the repository grew by, compressed and encrypted.
    pub stored_bytes: Option<u64>,
    /// When the run began.
    pub start_time: Option<jiff::Timestamp>,
    /// When the run had ended.
    pub completion_time: Option<jiff::Timestamp>,
    /// The id of its root tree.
    pub(super) tree: ObjectId,
}

impl Snapshot {
    /// What is the same for a snapshot and all its copies: the id of the first.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.original_id.as_deref().unwrap_or(&self.id)
    }

    /// What the snapshot file with this id says.
    pub(super) fn read(id: ObjectId, file: &SnapshotFile) -> Self {
        let tags: Vec<String> = file.tags.into_iter().cloned().collect();
        let ours = tags.iter().any(|tag| tag == TAG);
        let policy = tags
            .iter()
            .find_map(|tag| tag.strip_prefix(POLICY_TAG))
            .map(str::to_owned);
        let facts = file
            .description
            .as_deref()
            .and_then(|facts| serde_json::from_str(facts).ok());
        let summary = file.summary.as_ref();
        let original = file
            .original
            .map(|original| from_rustic(original.into_inner()));
        Self {
            id: id.to_string(),
            original_id: original
                .filter(|original| *original != id)
                .map(|id| id.to_string()),
            time: file.time.timestamp(),
            hostname: file.hostname.clone(),
            tags,
            paths: file.paths.into_iter().cloned().collect(),
            policy: policy.filter(|_| ours),
            foreign: !ours,
            facts: facts.filter(|_| ours),
            read_bytes: summary.map(|summary| summary.total_bytes_processed),
            added_bytes: summary.map(|summary| summary.data_added),
            stored_bytes: summary.map(|summary| summary.data_added_packed),
            start_time: summary.map(|summary| summary.backup_start.timestamp()),
            completion_time: summary.map(|summary| summary.backup_end.timestamp()),
            tree: from_rustic(file.tree.into_inner()),
        }
    }
}

/// Snapshot files fetched at once.
const FETCHES: usize = 16;

/// Where the snapshot file with this id is stored.
pub(super) fn path(id: &ObjectId) -> String {
    format!("snapshots/{id}")
}

/// Every snapshot that is there now, the oldest first.
pub(super) async fn list(inner: &Inner) -> Result<Vec<Snapshot>, RepositoryError> {
    // A place that was emptied lists no snapshots either.
    let ((), ids) = tokio::try_join!(inner.verify(), inner.list_ids("snapshots"))?;
    let ids: Vec<_> = ids.into_iter().map(|(id, _)| id).collect();
    locked(&inner.snapshots).retain(|id, _| ids.binary_search(id).is_ok());
    let mut snapshots: Vec<Snapshot> = futures::stream::iter(ids)
        .map(|id| async move { load(inner, id).await })
        .buffer_unordered(FETCHES)
        .try_filter_map(|snapshot| async move { Ok(snapshot.map(|found| (*found).clone())) })
        .try_collect()
        .await?;
    snapshots.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    Ok(snapshots)
}

/// One snapshot, or `None` when it was forgotten since it was listed.
async fn load(inner: &Inner, id: ObjectId) -> Result<Option<Arc<Snapshot>>, RepositoryError> {
    if let Some(known) = locked(&inner.snapshots).get(&id) {
        return Ok(Some(Arc::clone(known)));
    }
    match read_file(inner, id).await {
        Ok(file) => {
            let snapshot = Arc::new(Snapshot::read(id, &file));
            locked(&inner.snapshots).insert(id, Arc::clone(&snapshot));
            Ok(Some(snapshot))
        }
        Err(error) => match inner.storage.size(&path(&id)).await? {
            Some(_) => Err(error),
            None => Ok(None),
        },
    }
}

/// What the file of a snapshot says, in the library's words.
pub(super) async fn read_file(
    inner: &Inner,
    id: ObjectId,
) -> Result<SnapshotFile, RepositoryError> {
    inner.read_json(&path(&id)).await
}

/// The snapshot whose id begins with `prefix`. Others may be damaged: they are not read.
pub(super) async fn find(inner: &Inner, prefix: &str) -> Result<Snapshot, RepositoryError> {
    let unknown = || RepositoryError::UnknownSnapshot {
        location: inner.location.clone(),
        id: prefix.to_owned(),
    };
    if prefix.is_empty() {
        return Err(unknown());
    }
    let ids = inner.list_ids("snapshots").await?;
    let matching: Vec<_> = ids
        .into_iter()
        .map(|(id, _)| id)
        .filter(|id| id.to_string().starts_with(prefix))
        .collect();
    match matching[..] {
        [] => {
            inner.verify().await?;
            Err(unknown())
        }
        [id] => {
            let snapshot = load(inner, id).await?.ok_or_else(unknown)?;
            Ok((*snapshot).clone())
        }
        _ => Err(RepositoryError::AmbiguousSnapshot {
            location: inner.location.clone(),
            id: prefix.to_owned(),
            count: matching.len(),
            examples: matching
                .iter()
                .take(3)
                .map(|id| id.to_string()[..12].to_owned())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// What a listing shows of a snapshot without opening it: kept in the snapshot's description.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotFacts {
    /// The kind of source: `mongodb` or `files`.
    pub source: String,
    /// Documents, for a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// Regular files, for directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// How many files and directories could not be read and were skipped; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
    /// What the manifest notes for a person: the first few, shortened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether the whole is one point in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_in_time: Option<bool>,
    /// The cluster time of that point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_time: Option<ClusterTime>,
    /// Bytes that a restore brings back.
    pub size: u64,
    /// What all attempts at the run have in common that made it, where another attempt is made by
    /// another process that must find what this one has stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

/// How many notes of a manifest are kept among the facts: a listing fetches those of every snapshot.
const NOTES: usize = 5;

/// How long each may be, in characters.
const NOTE_LENGTH: usize = 240;

impl SnapshotFacts {
    /// With the notes of a manifest, as far as they fit.
    #[must_use]
    pub fn with_notes(mut self, notes: &[String]) -> Self {
        self.notes = notes.iter().take(NOTES).map(|note| short(note)).collect();
        if notes.len() > NOTES {
            let more = notes.len() - NOTES;
            self.notes
                .push(format!("And {more} more, in the manifest."));
        }
        self
    }
}

fn short(note: &str) -> String {
    match note.char_indices().nth(NOTE_LENGTH) {
        Some((end, _)) => format!("{}…", &note[..end]),
        None => note.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_stay_small_however_much_is_noted() {
        let facts = |notes: &[String]| SnapshotFacts::default().with_notes(notes).notes;
        assert_eq!(facts(&["one".to_owned()]), ["one"]);
        let many = facts(&vec!["é".repeat(1000); 12]);
        assert_eq!(many.len(), 6);
        assert_eq!(many[0].chars().count(), NOTE_LENGTH + 1);
        assert_eq!(many[5], "And 7 more, in the manifest.");
    }
}
