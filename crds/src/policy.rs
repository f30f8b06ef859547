//! Kind `BackupPolicy`: what is backed up, when, where to and for how long.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    Duration, JobTemplate, Retention, Schedule, Source,
    meta::{self, Condition, Time},
    patterns,
};

/// The CEL rule of a list of tags.
pub(crate) const TAGS_RULE: &str = "self.all(tag, tag != 'holdfast' && !tag.startsWith('policy='))";
/// What to do when it does not hold.
pub(crate) const TAGS_MESSAGE: &str =
    "the tag holdfast and tags that begin with policy= are set by Holdfast itself: choose another";

/// What is backed up, when, to which destinations, and for how long.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "BackupPolicy",
    plural = "backuppolicies",
    namespaced,
    status = "BackupPolicyStatus",
    derive = "PartialEq",
    doc = "What is backed up, when, to which destinations, and for how long.",
    shortname = "hfp",
    category = "holdfast",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule.cron"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(
        name = "Last",
        type_ = "date",
        json_path = ".status.lastSuccessTime",
        description = "Time since the last backup that succeeded"
    ),
    // Not a `date`: kubectl prints those as an age, and a time to come as <invalid>.
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextRunTime"),
    printcolumn(
        name = "Size",
        type_ = "integer",
        json_path = ".status.lastBackup.readBytes",
        description = "Bytes of the last backup",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupPolicySpec {
    /// What is read: exactly one of `mongodb` and `files`.
    pub source: Source,
    /// When runs start. Without it, only on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Whether scheduled runs pause. A run that was asked for still starts.
    #[serde(default)]
    pub suspend: bool,
    /// Where backups go: the first destination is written, the others are
    /// copied to.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other.name == one.name))").message("each destination may be named only once: remove the repetition"))]
    pub destinations: Vec<PolicyDestination>,
    /// Which backups are kept. Without it, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Tags that every backup of this policy gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("items" = meta::list_of(patterns::TAG, 128)))]
    #[x_kube(validation = Rule::new(TAGS_RULE).message(TAGS_MESSAGE))]
    pub tags: Vec<String>,
    /// Commands that run around a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// How the pods of this policy run. In a cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobTemplate>,
}

/// A destination of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDestination {
    /// The name of a `Destination`. No two destinations of a policy have the
    /// same, whatever their namespaces.
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub name: String,
    /// The namespace of that `Destination`, which must list the policy's in its
    /// `allowedNamespaces`. The policy's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::LABEL), length(max = 63))]
    pub namespace: Option<String>,
    /// Which backups are kept here, instead of what the policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

impl PolicyDestination {
    /// The namespace of the `Destination`, as a policy in `own` means it.
    pub fn namespace_for<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

impl BackupPolicySpec {
    /// Which backups are kept at a destination; `None` keeps all.
    pub fn retention_at<'a>(&'a self, destination: &'a PolicyDestination) -> Option<&'a Retention> {
        destination.retention.as_ref().or(self.retention.as_ref())
    }
}

/// Commands that run around a backup, in the order written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Before anything is read. One that fails makes the run fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub before: Vec<Hook>,
    /// After the backup succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub after: Vec<Hook>,
    /// After the backup failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub on_failure: Vec<Hook>,
}

/// A command. No shell is involved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// The program and its arguments.
    #[schemars(length(min = 1, max = 256), extend("items" = {"type": "string", "maxLength": 65536}))]
    #[x_kube(validation = Rule::new("self.size() == 0 || self[0] != ''").message("a command begins with the program to run: write its path first"))]
    pub command: Vec<String>,
    /// How long it may take before it is ended and counts as failed.
    #[serde(default = "ten_minutes")]
    pub timeout: Duration,
}

const fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

/// What is known of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupPolicyStatus {
    /// `Ready`, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The newest backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,
    /// When a run last started, whatever became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt_time: Option<Time>,
    /// When a run last ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// When the next run is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_time: Option<Time>,
    /// How old the data of the newest backup was when this status was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point_age: Option<Duration>,
    /// The destinations that do not hold the newest backup yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The last time of the schedule that a run was started for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// The Job that works for this policy now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_job: Option<String>,
    /// The `holdfast.dev/requestedAt` that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,
    /// What failed and has not ended well since. Runs are cleaned up; this stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<PolicyFailure>,
}

/// Something that a policy does and that failed the last time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyFailure {
    /// What was attempted.
    pub task: PolicyTask,
    /// The destination of a copy, of forgetting or of a prune.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The Backup that asked for the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// How many runs failed since the last that ended well.
    #[schemars(extend("format" = "int32"))]
    pub attempts: u32,
    /// Whether it is tried again: `transient` and `waiting` are, `permanent` and `damaged` not
    /// before something changes.
    pub class: String,
    /// What the last run said.
    pub message: String,
    /// When it ended.
    pub time: Time,
    /// The time of the schedule that it was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Time>,
    /// Stands for the declaration and the secrets it was made with: others are a reason to try
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Whether it was killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum PolicyTask {
    /// A backup.
    Backup,
    /// A copy to another destination.
    Copy,
    /// Forgetting what the retention does not want.
    Forget,
    /// Freeing the space of what was forgotten.
    Prune,
}

/// The newest backup of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// The id of the backup.
    pub id: String,
    /// The moment that the backup shows.
    pub time: Time,
    /// How many bytes were read from the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub read_bytes: Option<u64>,
    /// How many bytes the backup added to the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub added_bytes: Option<u64>,
}
