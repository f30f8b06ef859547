//! A snapshot as it is listed: what its file says, read as ours or as somebody else's.

use serde::{Deserialize, Serialize};

use crate::manifest::ClusterTime;

/// The tag that every snapshot of ours carries.
pub const TAG: &str = "holdfast";

/// The beginning of the tag that names the policy: `policy=<namespace>/<name>`.
pub const POLICY_TAG: &str = "policy=";

/// A snapshot in a repository.
#[derive(Debug, Clone, PartialEq)]
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
    pub(super) tree: [u8; 32],
}

impl Snapshot {
    /// What is the same for a snapshot and all its copies: the id of the first.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.original_id.as_deref().unwrap_or(&self.id)
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
    /// Whether the whole is one point in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_in_time: Option<bool>,
    /// The cluster time of that point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_time: Option<ClusterTime>,
    /// Bytes that a restore brings back.
    pub size: u64,
}
