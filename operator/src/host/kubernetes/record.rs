//! What a Job of ours says of a run: its labels and annotations when it was made, its conditions
//! while it goes on, and the outcome that was kept with it when it had ended.

use std::collections::BTreeMap;

use holdfast_crds::{Backup, BackupPolicy, Destination, Restore};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use super::job::{PlannedTask, RunContext, TaskKind, WorkOutcome, WorkResult};
use crate::host::Name;
use crate::journal::{Holder, Run, RunKind};

/// Says which Jobs are ours.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGER: &str = "holdfast";
/// The label that names what the Job does.
pub const RUN_LABEL: &str = "holdfast.dev/run";
/// The annotation that holds what is told of the Job beside its spec.
pub const PURPOSE_ANNOTATION: &str = "holdfast.dev/purpose";
/// The annotation in which the outcome is kept: pods go away before their Job does.
pub const OUTCOME_ANNOTATION: &str = "holdfast.dev/outcome";

/// What is written on a Job when it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Purpose {
    /// The policy, in the Job's namespace, whose other Jobs wait for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The policy that a restore is from, which waits for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_policy: Option<String>,
    /// The Backup or Restore that asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The time it is scheduled for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// What spec and secrets it is made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The destinations, by their names in the policy, as `namespace/name`.
    #[serde(default)]
    pub destinations: BTreeMap<String, String>,
    /// The snapshot that a restore brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What else is to be done, besides what the kind of the Job says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<PlannedTask>,
    /// Stands for the whole plan of an upkeep: that which succeeded is not repeated at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// How long the Job stays once what it came to is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<i32>,
}

/// What is kept of a Job that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The uid of the pod that ended last, or of the Job.
    pub holder: String,
    /// When that pod started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// What came of it.
    pub outcome: WorkOutcome,
}

/// How a Job ended, in the words of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// Whether a pod of it ended well.
    pub complete: bool,
    /// `BackoffLimitExceeded`, `DeadlineExceeded`, …
    pub reason: String,
    /// What Kubernetes says of it.
    pub message: String,
}

/// The object that a Job goes away with. One that is made anew under the same name is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOwner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: Name,
    /// Its uid.
    pub uid: String,
}

/// One Job of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its name.
    pub name: Name,
    /// Its uid.
    pub uid: String,
    /// What it does.
    pub kind: TaskKind,
    /// What it is for.
    pub purpose: Purpose,
    /// The object that owns it.
    pub owner: Option<JobOwner>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether a pod of it runs now.
    pub running: bool,
    /// How many pods of it have failed.
    pub failed_pods: i32,
    /// How it ended.
    pub ended: Option<Ended>,
    /// What came of it, once that was read.
    pub kept: Option<Kept>,
    /// Whether it goes away by itself, some time after it has ended.
    pub released: bool,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// The version of the object, where versions are numbers.
    pub version: Option<u64>,
}

impl JobRecord {
    /// Reads a Job; `None` when it is not one of ours.
    #[must_use]
    pub fn of(job: &Job) -> Option<Self> {
        let labels = job.labels();
        if labels.get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
            return None;
        }
        let name = Name::of(job);
        let kind = TaskKind::parse(labels.get(RUN_LABEL)?)?;
        let annotations = job.annotations();
        let purpose = serde_json::from_str(annotations.get(PURPOSE_ANNOTATION)?).ok()?;
        let kept = annotations
            .get(OUTCOME_ANNOTATION)
            .and_then(|text| serde_json::from_str(text).ok());
        let pods = |count: fn(&JobStatus) -> Option<i32>| {
            job.status.as_ref().and_then(count).unwrap_or_default()
        };
        let owner = job
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true))
            .or_else(|| job.owner_references().first())
            .map(|owner| JobOwner {
                kind: owner.kind.clone(),
                name: Name::new(&name.namespace, owner.name.clone()),
                uid: owner.uid.clone(),
            });
        Some(Self {
            uid: job.uid().unwrap_or_default(),
            kind,
            purpose,
            owner,
            created: job
                .creation_timestamp()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            running: pods(|status| status.ready) > 0,
            failed_pods: pods(|status| status.failed),
            ended: ended(job),
            kept,
            released: job
                .spec
                .as_ref()
                .is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()),
            leaving: job.meta().deletion_timestamp.is_some(),
            version: job.resource_version().and_then(|text| text.parse().ok()),
            name,
        })
    }

    /// Whether it may still do something, or what it did was not read yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.kept.is_none() && !self.leaving
    }

    /// Whether it has ended and what came of it is to be read.
    #[must_use]
    pub fn is_to_be_read(&self) -> bool {
        self.ended.is_some() && self.is_open()
    }

    /// `namespace/name` of the policy.
    #[must_use]
    pub fn policy(&self) -> Option<Name> {
        let policy = self.purpose.policy.as_ref()?;
        Some(Name::new(&self.name.namespace, policy))
    }

    /// `namespace/name` of the policy that its runs are counted under.
    #[must_use]
    pub fn counts_for(&self) -> Option<Name> {
        let from = self.purpose.from_policy.as_ref();
        self.policy()
            .or_else(|| from.map(|from| Name::new(&self.name.namespace, from)))
    }

    /// The failure that it ended with.
    #[must_use]
    pub fn failure(&self) -> Option<&crate::journal::RunError> {
        let kept = self.kept.as_ref().filter(|_| self.has_failed())?;
        kept.outcome.error.as_ref()
    }

    /// Whether it has ended, and not well.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.outcome.result != WorkResult::Succeeded)
    }

    /// The declared destination behind a name in the policy.
    #[must_use]
    pub fn destination(&self, alias: &str) -> Name {
        self.purpose.destinations.get(alias).map_or_else(
            || Name::new(&self.name.namespace, alias),
            |full| Name::parse(full, &self.name.namespace),
        )
    }

    /// Its runs, as the journal of one box would hold them: one in progress while it is open.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let purpose = &self.purpose;
        let policy = self.counts_for().map(|policy| policy.name);
        if let Some(kept) = &self.kept {
            let mut runs = kept.outcome.runs(&RunContext {
                kind: self.kind,
                namespace: self.name.namespace.clone(),
                policy,
                object: purpose.object.clone(),
                scheduled_for: purpose.scheduled_for,
                fingerprint: purpose.fingerprint.clone(),
                planned: purpose.planned.clone(),
                holder: kept.holder.clone(),
                started: kept.started,
                ended: kept.ended,
            });
            for run in &mut runs {
                // The clock of a node may be late; a run cannot be older than its Job.
                run.started = run.started.max(self.created);
            }
            return runs;
        }
        if self.leaving {
            return Vec::new();
        }
        let kind = match self.kind {
            TaskKind::Backup => RunKind::Backup,
            TaskKind::Upkeep => RunKind::Copy,
            TaskKind::Restore => RunKind::Restore,
            TaskKind::Delete => RunKind::Delete,
            // It stands in nobody's way.
            TaskKind::Look => return Vec::new(),
        };
        vec![Run {
            id: self.name.name.clone(),
            kind,
            namespace: self.name.namespace.clone(),
            policy,
            destination: None,
            destination_namespace: None,
            object: purpose.object.clone(),
            // A declared Restore holds backups back until it is done.
            into_source: false,
            scheduled_for: purpose.scheduled_for,
            fingerprint: purpose.fingerprint.clone(),
            started: self.created,
            holder: Holder {
                id: self.uid.clone(),
                pid: 0,
                boot_id: String::new(),
            },
            ending: None,
        }]
    }

    /// Which of our kinds owns it.
    #[must_use]
    pub fn owner_of<K: Resource<DynamicType = ()>>(&self) -> Option<&JobOwner> {
        self.owner
            .as_ref()
            .filter(|owner| owner.kind == K::kind(&()))
    }

    /// Whether it is this very object's, and not that of one before it that had its name.
    #[must_use]
    pub fn belongs_to<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        self.owner_of::<K>().is_some_and(|owner| {
            owner.name == Name::of(object) && Some(&owner.uid) == object.meta().uid.as_ref()
        })
    }

    /// The objects that are to be looked at when it changes.
    #[must_use]
    pub fn concerns(&self) -> Vec<Concern> {
        let mut concerns = Vec::new();
        if let Some(policy) = self.policy() {
            concerns.push(Concern::Policy(policy));
        }
        if let Some(owner) = self.owner_of::<BackupPolicy>() {
            concerns.push(Concern::Policy(owner.name.clone()));
        }
        if let Some(owner) = self.owner_of::<Restore>() {
            concerns.push(Concern::Restore(owner.name.clone()));
        }
        if let Some(owner) = self.owner_of::<Destination>() {
            concerns.push(Concern::Destination(owner.name.clone()));
        }
        if let Some(owner) = self.owner_of::<Backup>() {
            concerns.push(Concern::Backup(owner.name.clone()));
        }
        concerns.dedup();
        concerns
    }
}

/// An object that something concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// A BackupPolicy.
    Policy(Name),
    /// A Restore.
    Restore(Name),
    /// A Destination.
    Destination(Name),
    /// A Backup.
    Backup(Name),
}

fn ended(job: &Job) -> Option<Ended> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|one| one.status == "True" && matches!(one.type_.as_str(), "Complete" | "Failed"))?;
    Some(Ended {
        at: condition
            .last_transition_time
            .as_ref()
            .map_or_else(Timestamp::now, |time| time.0),
        complete: condition.type_ == "Complete",
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
    })
}
