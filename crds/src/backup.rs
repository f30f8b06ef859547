//! Kind `Backup`: one restore point, or the wish for one.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    DeletionPolicy, SourceKind,
    meta::{self, Condition, Time},
    patterns,
    policy::{TAGS_MESSAGE, TAGS_RULE},
};

/// One restore point. One written by hand asks for a run now.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Backup",
    namespaced,
    status = "BackupStatus",
    derive = "PartialEq",
    doc = "One restore point of a policy. One written by hand asks for a run now.",
    shortname = "hfb",
    category = "holdfast",
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policy"),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status"
    ),
    printcolumn(name = "Id", type_ = "string", json_path = ".status.id", priority = 1),
    printcolumn(
        name = "Completed",
        type_ = "date",
        json_path = ".status.completionTime"
    ),
    printcolumn(
        name = "Size",
        type_ = "integer",
        json_path = ".status.readBytes",
        description = "Bytes read from the source"
    ),
    printcolumn(
        name = "Added",
        type_ = "integer",
        json_path = ".status.addedBytes",
        description = "Bytes added to the repository"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpec {
    /// The name of a `BackupPolicy` in the same namespace.
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub policy: String,
    /// Tags that this backup gets besides those of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("items" = meta::list_of(patterns::TAG, 128)))]
    #[x_kube(validation = Rule::new(TAGS_RULE).message(TAGS_MESSAGE))]
    pub tags: Vec<String>,
    /// What becomes of the data when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What is known of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// `Succeeded`, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id of the backup: that of its snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How many bytes were read from the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub read_bytes: Option<u64>,
    /// How many of them the repository did not have yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub added_bytes: Option<u64>,
    /// How many bytes that took in the repository, compressed and encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub stored_bytes: Option<u64>,
    /// How many documents it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub documents: Option<u64>,
    /// How many files it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub files: Option<u64>,
    /// How many files or directories could not be read and are not in it,
    /// because the policy says `onUnreadable: Skip`. Absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub skipped: Option<u64>,
    /// What was read in another way than asked or expected, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it was read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceKind>,
    /// All its tags, without those that Holdfast sets for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether everything in it shows one and the same moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_in_time: Option<bool>,
    /// The cluster time of MongoDB that it shows, as `seconds.increment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_time: Option<String>,
    /// The destinations that hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["destination".to_owned()]))]
    pub copies: Vec<BackupCopy>,
    /// The `holdfast.dev/requestedAt` that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,
}

/// A backup at one destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupCopy {
    /// The name of the destination.
    pub destination: String,
    /// The id of the snapshot there.
    pub id: String,
    /// When all that it needs was last seen to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_time: Option<Time>,
}
