//! What came of a work: the JSON in the termination message of the pod. It always fits, and it is
//! always whole: words are cut first, then figures, then runs that ended well.

use std::collections::BTreeMap;

use holdfast_crds::RestorePlan;
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::TaskKind;
use crate::journal::{Ending, Figures, Holder, Outcome, Run, RunError, RunKind};

mod fit;
#[cfg(test)]
mod tests;

/// How many bytes of a termination message Kubernetes keeps.
pub const OUTCOME_LIMIT: usize = 4096;

/// Why a termination message is no outcome.
#[derive(Debug, thiserror::Error)]
#[error("the termination message of the pod is not understood: {0}; look at its log")]
pub struct OutcomeError(String);

impl Classified for OutcomeError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }

    fn reason(&self) -> &'static str {
        "PodFailed"
    }
}

/// How a work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkResult {
    /// It is done. Of what follows a backup, some may have failed: the runs tell.
    Succeeded,
    /// It is not done.
    Failed,
    /// The pod was stopped or killed before it had ended.
    Interrupted,
}

/// What came of a work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkOutcome {
    /// How it ended.
    pub result: WorkResult,
    /// Why not well; of a backup that was made, what of that which follows it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// Whether the backup had been made by an attempt before this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made_before: bool,
    /// The runs of the pass, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<RunRecord>,
    /// How many runs that ended well are left out, for want of room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub runs_left_out: usize,
    /// What was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreFigures>,
    /// What is known of the destinations that were opened, by their names in the policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub destinations: BTreeMap<String, DestinationFigures>,
}

/// One run of the journal of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    /// Its id.
    pub id: String,
    /// What it did.
    pub kind: RunKind,
    /// The destination, by its name in the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The namespace of the destination, when it is another than the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_namespace: Option<String>,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How.
    pub outcome: Outcome,
    /// Why not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// What it did.
    #[serde(default, skip_serializing_if = "no_figures")]
    pub figures: Figures,
    /// The snapshot it wrote or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreFigures {
    /// Bytes that were brought back.
    pub bytes: u64,
    /// Documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// Files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// `Verified`, or why it could not be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// What was done, or would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<RestorePlan>,
    /// How many steps of the plan are left out, for want of room.
    #[serde(skip_serializing_if = "is_zero")]
    pub plan_left_out: usize,
}

/// What is known of a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationFigures {
    /// The id of the repository; absent where there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// How many backups of Holdfast there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<u64>,
    /// How many snapshots of others there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<u64>,
    /// How many bytes it takes up; known of destinations on claims only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

/// Something that an upkeep, or a backup after its snapshot, is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedTask {
    /// What.
    pub kind: RunKind,
    /// Where, by its name in the policy.
    pub destination: String,
}

/// What an outcome does not say because the Job does.
#[derive(Debug, Clone, PartialEq)]
pub struct RunContext {
    /// What the Job does.
    pub kind: TaskKind,
    /// Its namespace.
    pub namespace: String,
    /// Its policy.
    pub policy: Option<String>,
    /// The Backup or Restore that asks for it.
    pub object: Option<String>,
    /// The time it was scheduled for.
    pub scheduled_for: Option<Timestamp>,
    /// What it was made of.
    pub fingerprint: Option<String>,
    /// What else was to be done.
    pub planned: Vec<PlannedTask>,
    /// The uid of the pod, or of the Job when there is none any more.
    pub holder: String,
    /// When the pod started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn no_figures(figures: &Figures) -> bool {
    *figures == Figures::default()
}

impl From<&Run> for RunRecord {
    fn from(run: &Run) -> Self {
        let ending = run.ending.as_ref();
        Self {
            id: run.id.clone(),
            kind: run.kind,
            destination: run.destination.clone(),
            destination_namespace: run.destination_namespace.clone(),
            started: run.started,
            ended: ending.map_or(run.started, |ending| ending.at),
            outcome: ending.map_or(Outcome::Interrupted, |ending| ending.outcome),
            error: ending.and_then(|ending| ending.error.clone()),
            figures: ending.map_or_else(Figures::default, |ending| ending.figures.clone()),
            snapshot: ending.and_then(|ending| ending.snapshot.clone()),
        }
    }
}

impl WorkOutcome {
    /// An outcome of which nothing more is known.
    #[must_use]
    pub fn new(result: WorkResult, error: Option<RunError>) -> Self {
        Self {
            result,
            error,
            made_before: false,
            runs: Vec::new(),
            runs_left_out: 0,
            restore: None,
            destinations: BTreeMap::new(),
        }
    }

    /// The outcome of a pod that left none: it was killed, or never ran. `why` is what Kubernetes
    /// says of it.
    #[must_use]
    pub fn interrupted(why: &str) -> Self {
        Self::new(
            WorkResult::Interrupted,
            Some(RunError {
                message: format!(
                    "the pod ended before its work had: {why}; nothing it had not finished counts as a backup, and the next attempt starts anew"
                ),
                class: crate::journal::FailureClass::Transient,
                reason: "Interrupted".to_owned(),
            }),
        )
    }

    /// The outcome of a work that could not be begun.
    #[must_use]
    pub fn failed(error: &impl Classified) -> Self {
        Self::new(WorkResult::Failed, Some(error.into()))
    }

    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use crate::journal::FailureClass::Transient;
        match (self.result, &self.error) {
            (WorkResult::Succeeded, _) => super::EXIT_DONE,
            (WorkResult::Interrupted, _) | (WorkResult::Failed, None) => super::EXIT_TRANSIENT,
            (WorkResult::Failed, Some(error)) if error.class == Transient => super::EXIT_TRANSIENT,
            (WorkResult::Failed, Some(_)) => super::EXIT_PERMANENT,
        }
    }

    /// The runs that failed.
    pub fn failed_runs(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs
            .iter()
            .filter(|run| run.outcome != Outcome::Succeeded)
    }

    /// Changes the words of every error.
    pub fn reword(&mut self, words: impl Fn(&str) -> String) {
        let errors = self.runs.iter_mut().filter_map(|run| run.error.as_mut());
        for error in errors.chain(self.error.as_mut()) {
            error.message = words(&error.message);
        }
    }

    /// The termination message: JSON of at most [`OUTCOME_LIMIT`] bytes.
    #[must_use]
    pub fn to_message(&self) -> String {
        fit::message(self)
    }

    /// Reads a termination message.
    ///
    /// # Errors
    /// When it is none of ours: the pod died before it could write one, for example.
    pub fn from_message(message: &str) -> Result<Self, OutcomeError> {
        serde_json::from_str(message).map_err(|error| OutcomeError(error.to_string()))
    }

    /// The runs, as the journal of one box would hold them. A work that failed before its first run
    /// began is one run that failed; one that says of no run that it failed, and was cut off all the
    /// same, has failed at everything that was left to do. Otherwise it would be begun again at once.
    #[must_use]
    pub fn runs(&self, context: &RunContext) -> Vec<Run> {
        let mut runs: Vec<Run> = self.runs.iter().map(|record| context.run(record)).collect();
        if self.result == WorkResult::Succeeded {
            return runs;
        }
        let kind = match context.kind {
            TaskKind::Backup => Some(RunKind::Backup),
            TaskKind::Restore => Some(RunKind::Restore),
            TaskKind::Delete => Some(RunKind::Delete),
            TaskKind::Upkeep => None,
            TaskKind::Look => return runs,
        };
        if let Some(kind) = kind
            && !runs.iter().any(|run| run.kind == kind)
        {
            runs.push(context.run(&self.failed_run(context, kind, None)));
            return runs;
        }
        if self.failed_runs().next().is_none() {
            for PlannedTask { kind, destination } in &context.planned {
                let is_it = |run: &RunRecord| {
                    run.kind == *kind && run.destination.as_ref() == Some(destination)
                };
                if !self.runs.iter().any(is_it) {
                    let record = self.failed_run(context, *kind, Some(destination));
                    runs.push(context.run(&record));
                }
            }
        }
        runs
    }

    /// A run that left no account of itself.
    fn failed_run(
        &self,
        context: &RunContext,
        kind: RunKind,
        destination: Option<&String>,
    ) -> RunRecord {
        let place = destination.map_or_else(String::new, |place| format!("-{place}"));
        RunRecord {
            id: format!("{}-{kind}{place}", context.holder),
            kind,
            destination: destination.cloned(),
            destination_namespace: None,
            started: context.started,
            ended: context.ended,
            outcome: match self.result {
                WorkResult::Interrupted => Outcome::Interrupted,
                WorkResult::Failed | WorkResult::Succeeded => Outcome::Failed,
            },
            error: self.error.clone(),
            figures: Figures::default(),
            snapshot: None,
        }
    }
}

impl RunContext {
    fn run(&self, record: &RunRecord) -> Run {
        let RunRecord {
            id,
            kind,
            destination,
            destination_namespace,
            started,
            ended,
            outcome,
            error,
            figures,
            snapshot,
        } = record.clone();
        let asked = matches!(kind, RunKind::Backup | RunKind::Restore);
        Run {
            id,
            kind,
            namespace: self.namespace.clone(),
            policy: self.policy.clone(),
            destination,
            destination_namespace,
            object: self.object.clone().filter(|_| asked),
            into_source: false,
            scheduled_for: self.scheduled_for.filter(|_| kind == RunKind::Backup),
            fingerprint: self.fingerprint.clone(),
            started,
            holder: Holder {
                id: self.holder.clone(),
                pid: 1,
                boot_id: String::new(),
            },
            ending: Some(Ending {
                at: ended,
                outcome,
                error,
                figures,
                snapshot,
                hooks: Vec::new(),
            }),
        }
    }
}
