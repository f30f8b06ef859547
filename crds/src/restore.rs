//! Kind `Restore`: one recovery, done once.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ClaimRef, MongoConnection,
    job::{CLAIM_PATH_MESSAGE, CLAIM_PATH_RULE},
    meta::{self, Condition, Time},
    patterns,
    source::uri_rules,
};

/// The word that stands for the newest backup.
pub const LATEST: &str = "latest";

/// One recovery. It is done once, and its spec cannot change.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Restore",
    namespaced,
    status = "RestoreStatus",
    derive = "PartialEq",
    doc = "One recovery, done once.",
    shortname = "hfr",
    category = "holdfast",
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.from.policy"),
    printcolumn(name = "Backup", type_ = "string", json_path = ".status.backup"),
    printcolumn(
        name = "Succeeded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].reason"
    ),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.verified"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a Restore is done once and cannot be changed: create another one"))]
pub struct RestoreSpec {
    /// What is restored.
    pub from: RestoreFrom,
    /// Where it is restored to: exactly one of `original`, `mongodb` and `files`.
    pub to: RestoreTarget,
    /// What to restore of the backup: namespaces as `database.collection`, or
    /// absolute paths; `*` and `?` are wildcards. Everything when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("items" = meta::list_of(patterns::SELECTION, 4096)))]
    pub include: Vec<String>,
    /// Whether to say only what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// The name of a `BackupPolicy` in the same namespace.
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub policy: String,
    /// The id of a backup, its first characters, or `latest`.
    #[serde(default = "latest")]
    #[schemars(regex(pattern = patterns::BACKUP_ID))]
    pub backup: String,
    /// The name of the `Destination` to read from. When absent, the first of
    /// the policy that holds the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub destination: Option<String>,
}

fn latest() -> String {
    LATEST.to_owned()
}

/// Where a backup is restored to: exactly one of `original`, `mongodb` and
/// `files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RestoreTarget {
    /// Where the policy reads from. Written as `original: {}`.
    Original(RestoreToOriginal),
    /// A MongoDB deployment.
    Mongodb(RestoreToMongodb),
    /// A folder of the machine.
    Files(RestoreToFiles),
}

impl RestoreTarget {
    /// What happens to what is there already.
    pub const fn on_conflict(&self) -> OnConflict {
        match self {
            Self::Original(target) => target.on_conflict,
            Self::Mongodb(target) => target.on_conflict,
            Self::Files(target) => target.on_conflict,
        }
    }
}

/// Where the policy reads from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreToOriginal {
    /// What happens to what is there already.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

/// The CEL rules of `rename`, which [`crate::rules::check_rename`] has in better words.
mod rename_rules {
    /// Both sides are namespaces.
    pub(super) const NAMES: &str =
        "self.all(from, from.matches('^[^./ \"$?]+[.][^?]+$') && !self[from].contains('?'))";
    /// What to do when one is not.
    pub(super) const NAMES_MESSAGE: &str = "rename has something that is not a namespace: write database.collection on both sides, such as shop.*: shop_copy.*, without ?";
    /// Each star on the left stands for the one on the right.
    pub(super) const STARS: &str =
        "self.all(from, from.split('*').size() == self[from].split('*').size())";
    /// What to do when there are not as many.
    pub(super) const STARS_MESSAGE: &str =
        "rename has a different number of * on the two sides: write as many on both";
    /// No two become one.
    pub(super) const TARGETS: &str =
        "self.all(one, self.all(other, one == other || self[one] != self[other]))";
    /// What to do when they do.
    pub(super) const TARGETS_MESSAGE: &str =
        "rename gives two namespaces the same name: give each its own";
}

/// A MongoDB deployment to restore to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(uri_rules::SCHEME).message(uri_rules::SCHEME_MESSAGE).field_path(".uri"))]
#[x_kube(validation = Rule::new(uri_rules::SECRET).message(uri_rules::SECRET_MESSAGE).field_path(".uri"))]
pub struct RestoreToMongodb {
    /// `uri` or `uriFrom`.
    #[serde(flatten)]
    pub connection: MongoConnection,
    /// Other names for namespaces, as `from: to`. Each `*` of the one stands
    /// for the same as that of the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 64),
        extend("additionalProperties" = meta::list_of(patterns::NAMESPACE, 512))
    )]
    #[x_kube(validation = Rule::new(rename_rules::NAMES).message(rename_rules::NAMES_MESSAGE))]
    #[x_kube(validation = Rule::new(rename_rules::STARS).message(rename_rules::STARS_MESSAGE))]
    #[x_kube(validation = Rule::new(rename_rules::TARGETS).message(rename_rules::TARGETS_MESSAGE))]
    pub rename: BTreeMap<String, String>,
    /// What happens to what is there already.
    #[serde(default)]
    pub on_conflict: OnConflict,
}

/// A folder to restore to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(CLAIM_PATH_RULE).message(CLAIM_PATH_MESSAGE).field_path(".path"))]
pub struct RestoreToFiles {
    /// The folder, as an absolute path. It is made when it does not exist.
    #[schemars(regex(pattern = patterns::ABSOLUTE_PATH), length(max = 4096))]
    pub path: String,
    /// What happens to what is there already.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// The claim that is mounted at `path`. In a cluster only, and needed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimRef>,
}

/// What happens to what is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnConflict {
    /// What differs from the backup is in the way: the restore names it and
    /// fails before it changes anything. Of a MongoDB that is a collection that
    /// holds documents, and a user or role that is not the backup's.
    #[default]
    Fail,
    /// What is restored replaces what is there; nothing else is touched.
    Drop,
    /// What is there stays as it is, also where it differs from the backup;
    /// only what is not there is added.
    Merge,
}

/// What is known of a restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// `Succeeded`, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id of the backup that `spec.from` led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The destination that is read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// When the restore began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the restore ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RestoreProgress>,
    /// How many documents were restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub documents: Option<u64>,
    /// How many files were restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub files: Option<u64>,
    /// Whether what was restored was compared with the backup: `Verified` when
    /// it is equal, `NotComparable:` and why when that cannot be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// What a dry run found that would be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<RestorePlan>,
    /// The `holdfast.dev/requestedAt` that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreProgress {
    /// Bytes that are done.
    #[schemars(extend("format" = "int64"))]
    pub done_bytes: u64,
    /// Bytes in all.
    #[schemars(extend("format" = "int64"))]
    pub total_bytes: u64,
}

/// One thing that a restore would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePlan {
    /// The namespace or path in the backup.
    pub from: String,
    /// The namespace or path it would be restored to.
    pub to: String,
    /// What would be done.
    pub action: String,
    /// How many bytes it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub bytes: Option<u64>,
    /// How many documents it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub documents: Option<u64>,
}
