//! Work in a cluster is a Kubernetes `Job` of the same image: what a pod is told ([`Work`]), how the
//! Job looks, and what comes back ([`WorkOutcome`], [`WorkListing`]).
//!
//! The operator makes a [`Work`], which the pod finds in the environment variable [`WORK_VARIABLE`]:
//! specs in which each `secretKeyRef` has become a mounted file, never a value. The pod does it with
//! the reconcilers of one box, talks to no API, and leaves its account in the termination message.

mod build;
mod claims;
mod listing;
mod names;
mod order;
mod outcome;
mod pod;
mod secrets;
#[cfg(test)]
mod tests;
mod work;

pub use build::{Built, build};
pub use listing::{LISTING_MARK, WorkListing};
pub use names::{
    asked_job_name, delete_job_name, keys_entry, keys_name, label_value, next_attempt, run_key,
    scheduled_job_name, work_job_name,
};
pub use order::{BuildError, JobOrder, JobSettings, OrderDestination};
pub use outcome::{
    DestinationFigures, OUTCOME_LIMIT, OutcomeError, PlannedTask, RestoreFigures, RunContext,
    RunRecord, WorkOutcome, WorkResult,
};
pub use secrets::{RunSecret, RunSecretEntry};
pub use work::{
    BackupTask, DeleteTask, RestoreTask, Task, TaskKind, WORK_LIMIT, Work, WorkDestination,
    WorkError, WorkPolicy,
};

/// The environment variable that tells a pod what to do.
pub const WORK_VARIABLE: &str = "HOLDFAST_WORK";
/// The environment variable that names the file of the termination message, where it is another.
pub const TERMINATION_LOG_VARIABLE: &str = "HOLDFAST_TERMINATION_LOG";
/// Where Kubernetes reads the termination message.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Where the Secrets of the work are mounted, each in a folder named by a number.
pub const SECRETS_FOLDER: &str = "/holdfast/secrets";

/// The exit code of work that is done; what follows a backup may have failed all the same, and the
/// outcome says so.
pub const EXIT_DONE: u8 = 0;
/// The exit code of work that failed and is worth another try, or was stopped.
pub const EXIT_TRANSIENT: u8 = 1;
/// The exit code of work that fails again until something else has changed.
pub const EXIT_PERMANENT: u8 = 3;

/// The name of the container of the pods.
pub const CONTAINER: &str = "worker";
/// The value of [`LABEL_MANAGED_BY`] on all that the operator makes.
pub const MANAGER: &str = "holdfast";
/// The label of everything that the operator makes.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label of the policy: [`label_value`] of its name.
pub const LABEL_POLICY: &str = "holdfast.dev/policy";
/// The label of the kind of task: see [`TaskKind::as_str`].
pub const LABEL_RUN: &str = "holdfast.dev/run";
/// The annotation with the whole name of the policy.
pub const ANNOTATION_POLICY: &str = "holdfast.dev/policy-name";
/// The annotation with the name of the Backup or Restore that asks for the run.
pub const ANNOTATION_OBJECT: &str = "holdfast.dev/object";
/// The annotation with the time that the run was scheduled for.
pub const ANNOTATION_SCHEDULED_FOR: &str = "holdfast.dev/scheduled-for";
/// The annotation with what the declaration was recognised by when the Job was made.
pub const ANNOTATION_FINGERPRINT: &str = "holdfast.dev/fingerprint";
/// The annotation with the outcome, once it is known.
pub const ANNOTATION_OUTCOME: &str = "holdfast.dev/outcome";
