//! What one pod does: the specs and the task, as JSON in its environment. Never a secret's value:
//! each `secretKeyRef` has become a `file` that is mounted into the pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_crds::meta::ObjectMeta;
use holdfast_crds::{
    BackupPolicy, BackupPolicySpec, Destination, DestinationSpec, Restore, RestoreSpec,
};
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::WORK_VARIABLE;
use crate::host::{Declared, Name};

/// How many bytes the JSON of a work may have. Linux allows 128 KiB for one variable.
pub const WORK_LIMIT: usize = 100 * 1024;

/// The form of the JSON; another one is refused.
const VERSION: u32 = 1;

/// Why a work cannot be handed over, or is not understood.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// There is none.
    #[error(
        "the environment variable {WORK_VARIABLE} is not set; `holdfast worker` is started by the \
         operator, and by hand with the work of a Job in that variable"
    )]
    Missing,
    /// It is not what the operator writes.
    #[error(
        "the work in {WORK_VARIABLE} is not understood: {0}; the image of the pod and the operator \
         may be of different versions"
    )]
    Unreadable(String),
    /// It is too long for the environment of a process.
    #[error(
        "the specs that the pod needs take {size} bytes and only {WORK_LIMIT} fit into the \
         environment of a pod; make the lists of include, exclude and paths shorter, or use patterns"
    )]
    TooLarge {
        /// How long it is.
        size: usize,
    },
}

impl Classified for WorkError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "SpecTooLarge",
            Self::Missing | Self::Unreadable(_) => "WorkNotUnderstood",
        }
    }
}

/// What one pod does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Work {
    /// The form of this JSON.
    version: u32,
    /// What all attempts at this run have in common: see [`super::run_key`].
    pub run: String,
    /// The namespace of everything named here. A destination of another one stands here under its
    /// name in the policy, as if it were of this one.
    pub namespace: String,
    /// The policy that the work is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<WorkPolicy>,
    /// The destinations that it touches, by their names in the policy.
    pub destinations: BTreeMap<String, WorkDestination>,
    /// The names of the Secrets behind the mounted folders, for the words of errors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// What to do.
    pub task: Task,
}

/// The policy of a work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkPolicy {
    /// Its name.
    pub name: String,
    /// Its spec, without what concerns the Job and the claims.
    pub spec: BackupPolicySpec,
}

/// A destination of a work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkDestination {
    /// Its spec.
    pub spec: DestinationSpec,
    /// The id of the repository that was seen there before; an empty one is not put in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_repository_id: Option<String>,
    /// Whether a prune is left from an earlier run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prune_pending: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Task {
    /// Back the policy up at its first destination; then copies, forgetting and prunes.
    Backup(BackupTask),
    /// Copies, forgetting and prunes only.
    Upkeep {},
    /// Do what a Restore asks for.
    Restore(RestoreTask),
    /// Look into the destinations, and print what they hold.
    Look {},
    /// Delete snapshots, and prune.
    Delete(DeleteTask),
}

/// A backup to be made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupTask {
    /// The Backup object that asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Tags beside those of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The time it is scheduled for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
}

/// A Restore to be carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreTask {
    /// The name of the Restore object.
    pub name: String,
    /// Its spec.
    pub spec: RestoreSpec,
    /// The destination that was chosen, one of the work's.
    pub destination: String,
    /// The snapshot there that was chosen.
    pub snapshot: String,
}

/// Snapshots to be deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteTask {
    /// The object whose deletion asks for it, for the log: `Backup default/shop-1234abcd`.
    pub object: String,
    /// The ids of the snapshots, by destination.
    pub snapshots: BTreeMap<String, Vec<String>>,
}

/// The kind of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskKind {
    /// See [`Task::Backup`].
    Backup,
    /// See [`Task::Upkeep`].
    Upkeep,
    /// See [`Task::Restore`].
    Restore,
    /// See [`Task::Look`].
    Look,
    /// See [`Task::Delete`].
    Delete,
}

impl TaskKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Backup,
        Self::Upkeep,
        Self::Restore,
        Self::Look,
        Self::Delete,
    ];

    /// The value of the label `holdfast.dev/run`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Upkeep => "upkeep",
            Self::Restore => "restore",
            Self::Look => "look",
            Self::Delete => "delete",
        }
    }

    /// The kind with this label.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == label)
    }
}

impl Task {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Backup(_) => TaskKind::Backup,
            Self::Upkeep {} => TaskKind::Upkeep,
            Self::Restore(_) => TaskKind::Restore,
            Self::Look {} => TaskKind::Look,
            Self::Delete(_) => TaskKind::Delete,
        }
    }

    /// Whether it can make a backup that an attempt before it has made already, and so looks.
    #[must_use]
    pub fn backs_up(&self) -> bool {
        matches!(self, Self::Backup(_))
    }
}

impl Work {
    /// A work with nothing declared yet.
    #[must_use]
    pub fn new(run: impl Into<String>, namespace: impl Into<String>, task: Task) -> Self {
        Self {
            version: VERSION,
            run: run.into(),
            namespace: namespace.into(),
            policy: None,
            destinations: BTreeMap::new(),
            secrets: BTreeMap::new(),
            task,
        }
    }

    /// The JSON that the pod gets.
    ///
    /// # Errors
    /// [`WorkError::TooLarge`].
    pub fn to_json(&self) -> Result<String, WorkError> {
        let json = serde_json::to_string(self)
            .map_err(|error| WorkError::Unreadable(error.to_string()))?;
        if json.len() >= WORK_LIMIT {
            return Err(WorkError::TooLarge { size: json.len() });
        }
        Ok(json)
    }

    /// Reads what [`Self::to_json`] wrote. A field that this version does not know is an error: it
    /// must not be accepted and ignored.
    ///
    /// # Errors
    /// [`WorkError::Unreadable`].
    pub fn from_json(json: &str) -> Result<Self, WorkError> {
        let unreadable = |error: serde_json::Error| WorkError::Unreadable(error.to_string());
        let input: Value = serde_json::from_str(json).map_err(unreadable)?;
        let work: Self = serde_json::from_str(json).map_err(unreadable)?;
        if work.version != VERSION {
            return Err(WorkError::Unreadable(format!(
                "it has version {} and this program knows {VERSION}",
                work.version
            )));
        }
        let output = serde_json::to_value(&work).map_err(unreadable)?;
        match lost(&input, &output) {
            None => Ok(work),
            Some(field) => Err(WorkError::Unreadable(format!("unknown field {field}"))),
        }
    }

    /// The name of something in the namespace of the work.
    #[must_use]
    pub fn name(&self, name: &str) -> Name {
        Name::new(&self.namespace, name)
    }

    /// The name of the policy.
    #[must_use]
    pub fn policy_name(&self) -> Option<Name> {
        self.policy.as_ref().map(|policy| self.name(&policy.name))
    }

    /// What the work declares, as files would on one box.
    #[must_use]
    pub fn declared(&self) -> Declared {
        let metadata = |name: &str| ObjectMeta {
            namespace: Some(self.namespace.clone()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let mut declared = Declared::default();
        for (name, destination) in &self.destinations {
            let object = Destination {
                metadata: metadata(name),
                spec: destination.spec.clone(),
                status: None,
            };
            declared
                .destinations
                .insert(self.name(name), Arc::new(object));
        }
        if let Some(WorkPolicy { name, spec }) = &self.policy {
            let object = BackupPolicy {
                metadata: metadata(name),
                spec: spec.clone(),
                status: None,
            };
            declared.policies.insert(self.name(name), Arc::new(object));
        }
        if let Task::Restore(RestoreTask { name, spec, .. }) = &self.task {
            let object = Restore {
                metadata: metadata(name),
                spec: spec.clone(),
                status: None,
            };
            declared.restores.insert(self.name(name), Arc::new(object));
        }
        declared
    }

    /// A text in which mounted folders are told as the Secrets that they are.
    #[must_use]
    pub fn tell_secrets(&self, text: &str) -> String {
        let mut told = text.to_owned();
        for (folder, secret) in &self.secrets {
            told = told.replace(&format!("{folder}/"), &format!("Secret {secret} / "));
        }
        told
    }
}

/// The first field of `input` that is not in `output`, as a JSON pointer.
fn lost(input: &Value, output: &Value) -> Option<String> {
    match (input, output) {
        (Value::Object(input), Value::Object(output)) => input.iter().find_map(|(key, value)| {
            let below = output.get(key).map(|other| lost(value, other));
            match below {
                Some(None) => None,
                Some(Some(below)) => Some(format!("/{key}{below}")),
                None => Some(format!("/{key}")),
            }
        }),
        (Value::Array(input), Value::Array(output)) => input
            .iter()
            .zip(output)
            .enumerate()
            .find_map(|(index, (one, other))| {
                lost(one, other).map(|below| format!("/{index}{below}"))
            }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        let destination = serde_json::json!({
            "local": {"path": "/data"},
            "encryption": {"password": {"file": "/holdfast/secrets/0/password"}},
            "deletionPolicy": "Retain",
        });
        let policy = serde_json::json!({
            "source": {"mongodb": {"uri": "mongodb://db", "usersAndRoles": true}},
            "suspend": false,
            "destinations": [{"name": "disk"}],
        });
        let mut work = Work::new("default/shop/29539335", "default", Task::Upkeep {});
        work.policy = Some(WorkPolicy {
            name: "shop".to_owned(),
            spec: serde_json::from_value(policy).unwrap(),
        });
        work.destinations.insert(
            "disk".to_owned(),
            WorkDestination {
                spec: serde_json::from_value(destination).unwrap(),
                known_repository_id: None,
                prune_pending: true,
            },
        );
        work
    }

    #[test]
    fn it_comes_back_as_it_was() {
        for task in [
            Task::Backup(BackupTask::default()),
            Task::Upkeep {},
            Task::Look {},
            Task::Delete(DeleteTask {
                object: "Backup default/shop-1".to_owned(),
                snapshots: BTreeMap::from([("disk".to_owned(), vec!["ab".to_owned()])]),
            }),
        ] {
            let work = Work { task, ..work() };
            assert_eq!(Work::from_json(&work.to_json().unwrap()).unwrap(), work);
        }
    }

    #[test]
    fn an_unknown_field_is_refused_wherever_it_is() {
        let json = serde_json::to_value(work()).unwrap();
        for pointer in [
            "",
            "/policy",
            "/policy/spec",
            "/policy/spec/source/mongodb",
            "/policy/spec/destinations/0",
            "/destinations/disk",
            "/destinations/disk/spec/local",
            "/task/upkeep",
        ] {
            let mut json = json.clone();
            let object = json.pointer_mut(pointer).and_then(Value::as_object_mut);
            object
                .unwrap()
                .insert("newer".to_owned(), Value::Bool(true));
            let error = Work::from_json(&json.to_string()).unwrap_err();
            assert!(error.to_string().contains("newer"), "{pointer}: {error}");
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut json = serde_json::to_value(work()).unwrap();
        json["version"] = 2.into();
        let error = Work::from_json(&json.to_string()).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut work = work();
        let tags = vec!["x".repeat(1000); 120];
        if let Some(policy) = &mut work.policy {
            policy.spec.tags = tags;
        }
        assert!(matches!(work.to_json(), Err(WorkError::TooLarge { .. })));
    }

    #[test]
    fn errors_name_the_secret_and_not_the_folder() {
        let mut work = work();
        work.secrets
            .insert("/holdfast/secrets/0".to_owned(), "repo".to_owned());
        assert_eq!(
            work.tell_secrets("cannot read /holdfast/secrets/0/password: gone"),
            "cannot read Secret repo / password: gone"
        );
    }
}
