//! A run: one attempt at a backup, restore, copy, forget, prune, check, delete or export.

use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::holder::Holder;

/// How much of a hook's output is kept.
pub const HOOK_OUTPUT_LIMIT: usize = 8 * 1024;

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RunKind {
    /// Makes a backup.
    Backup,
    /// Brings one back.
    Restore,
    /// Copies backups to another destination.
    Copy,
    /// Forgets backups by retention.
    Forget,
    /// Frees the space of what was forgotten.
    Prune,
    /// Checks a repository.
    Check,
    /// Deletes a backup by hand.
    Delete,
    /// Writes a backup out in the format of its own tools.
    Export,
}

impl RunKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Backup,
        Self::Restore,
        Self::Copy,
        Self::Forget,
        Self::Prune,
        Self::Check,
        Self::Delete,
        Self::Export,
    ];

    /// The word used in tables, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Copy => "copy",
            Self::Forget => "forget",
            Self::Prune => "prune",
            Self::Check => "check",
            Self::Delete => "delete",
            Self::Export => "export",
        }
    }

    /// Whether it changes the backups of its policy: two such runs never go side by side.
    #[must_use]
    pub fn changes_backups(self) -> bool {
        matches!(
            self,
            Self::Backup | Self::Copy | Self::Forget | Self::Delete
        )
    }
}

impl std::fmt::Display for RunKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Everything was done.
    Succeeded,
    /// It was not.
    Failed,
    /// The process that did it was killed, or the machine went down.
    Interrupted,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Interrupted];

    /// The word used in tables and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Interrupted => "Interrupted",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The class of a failure, as the journal writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureClass {
    /// See [`ErrorClass::Transient`].
    Transient,
    /// See [`ErrorClass::Waiting`].
    Waiting,
    /// See [`ErrorClass::Permanent`].
    Permanent,
    /// See [`ErrorClass::Damaged`].
    Damaged,
}

impl From<ErrorClass> for FailureClass {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Transient => Self::Transient,
            ErrorClass::Waiting => Self::Waiting,
            ErrorClass::Permanent => Self::Permanent,
            ErrorClass::Damaged => Self::Damaged,
        }
    }
}

impl From<FailureClass> for ErrorClass {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::Transient => Self::Transient,
            FailureClass::Waiting => Self::Waiting,
            FailureClass::Permanent => Self::Permanent,
            FailureClass::Damaged => Self::Damaged,
        }
    }
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunError {
    /// What was attempted, on what, what came back, what to do.
    pub message: String,
    /// What comes next.
    pub class: FailureClass,
    /// The reason for a condition, in CamelCase.
    pub reason: String,
}

impl<E: Classified + ?Sized> From<&E> for RunError {
    fn from(error: &E) -> Self {
        Self {
            message: error.to_string(),
            class: error.class().into(),
            reason: error.reason().to_owned(),
        }
    }
}

/// What a run did, in figures. Those that have no meaning for its kind are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    /// Bytes read from the source, or from a destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Bytes that the repository did not have yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_bytes: Option<u64>,
    /// Bytes that those took, compressed and encrypted; for a prune, bytes freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// Documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// Files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Files and directories that could not be read and were skipped; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
    /// Backups copied, forgotten or deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<u64>,
    /// Packs that a prune leaves marked: a later one removes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marked_packs: Option<u64>,
}

/// What a hook said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookOutput {
    /// `before`, `after` or `onFailure`.
    pub phase: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its exit code; absent when it was ended or did not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The last of what it wrote.
    pub output: String,
    /// Whether something was cut off before that.
    #[serde(default)]
    pub truncated: bool,
}

impl HookOutput {
    /// Keeps the end of the output, where the reason of a failure stands.
    #[must_use]
    pub fn truncate(mut self) -> Self {
        if self.output.len() > HOOK_OUTPUT_LIMIT {
            let from = self
                .output
                .ceil_char_boundary(self.output.len() - HOOK_OUTPUT_LIMIT);
            self.output.drain(..from);
            self.truncated = true;
        }
        self
    }
}

/// What is known of a run when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// What it does.
    pub kind: RunKind,
    /// The namespace of policy and object, and of the destination unless that says another.
    pub namespace: String,
    /// The policy, when it is for one.
    pub policy: Option<String>,
    /// The destination that it writes to or reads from, when there is one.
    pub destination: Option<String>,
    /// The namespace of that destination.
    pub destination_namespace: Option<String>,
    /// The Backup or Restore object that asked for it.
    pub object: Option<String>,
    /// Whether it writes to what the policy reads: a restore to the original.
    pub into_source: bool,
    /// When it was to start, when a schedule started it.
    pub scheduled_for: Option<Timestamp>,
    /// What spec and secrets it is made with: a change of it makes another attempt worthwhile.
    pub fingerprint: Option<String>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// A UUID; ids sort by the time of the start.
    pub id: String,
    /// What it does.
    pub kind: RunKind,
    /// The namespace of policy and object, and of the destination unless that says another.
    pub namespace: String,
    /// The policy, when it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The destination that it writes to or reads from, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The namespace of that destination, when it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_namespace: Option<String>,
    /// The Backup or Restore object that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Whether it writes to what the policy reads: a restore to the original. A backup beside it
    /// would show half of what is brought back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub into_source: bool,
    /// When it was to start, when a schedule started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// What spec and secrets it is made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// When it started.
    pub started: Timestamp,
    /// The process that does it.
    pub holder: Holder,
    /// How it ended; absent while it is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

impl Run {
    /// `namespace/policy`.
    #[must_use]
    pub fn policy_key(&self) -> Option<String> {
        let policy = self.policy.as_ref()?;
        Some(format!("{}/{policy}", self.namespace))
    }

    /// `namespace/destination`.
    #[must_use]
    pub fn destination_key(&self) -> Option<String> {
        let destination = self.destination.as_ref()?;
        let namespace = self
            .destination_namespace
            .as_ref()
            .unwrap_or(&self.namespace);
        Some(format!("{namespace}/{destination}"))
    }

    /// Whether it ended well.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.outcome == Outcome::Succeeded)
    }
}

/// How a run ended, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// When.
    pub at: Timestamp,
    /// How.
    pub outcome: Outcome,
    /// Why not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// What it did.
    #[serde(default)]
    pub figures: Figures,
    /// The id of the snapshot it wrote or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What the hooks said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookOutput>,
}

impl Ending {
    /// A good end.
    #[must_use]
    pub fn succeeded(at: Timestamp, figures: Figures, snapshot: Option<String>) -> Self {
        Self {
            at,
            outcome: Outcome::Succeeded,
            error: None,
            figures,
            snapshot,
            hooks: Vec::new(),
        }
    }

    /// A bad end.
    #[must_use]
    pub fn failed(at: Timestamp, error: impl Into<RunError>) -> Self {
        Self {
            at,
            outcome: Outcome::Failed,
            error: Some(error.into()),
            figures: Figures::default(),
            snapshot: None,
            hooks: Vec::new(),
        }
    }

    /// The end of a run whose process is gone.
    #[must_use]
    pub fn interrupted(at: Timestamp, holder: &Holder) -> Self {
        Self {
            at,
            outcome: Outcome::Interrupted,
            error: Some(RunError {
                message: format!(
                    "the process {} that did it was killed, or its machine went down; nothing it had not finished counts as a backup, and the next run starts anew",
                    holder.pid
                ),
                class: FailureClass::Transient,
                reason: "Interrupted".to_owned(),
            }),
            figures: Figures::default(),
            snapshot: None,
            hooks: Vec::new(),
        }
    }

    /// The same with what the hooks said.
    #[must_use]
    pub fn with_hooks(mut self, hooks: impl IntoIterator<Item = HookOutput>) -> Self {
        self.hooks = hooks.into_iter().map(HookOutput::truncate).collect();
        self
    }
}
