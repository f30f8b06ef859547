//! `holdfast worker`: does the work of one Job, with the runner and the reconcilers of one box, and
//! leaves an account of it in the termination message of the pod.
//!
//! It talks to no API server. What it says while it works goes to standard error; standard output
//! is for the listings of destinations that the operator cannot look into.

mod look;
mod pass;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_engine::class::Classified;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::session::cancelled_by_signals;
use crate::host::View;
use crate::host::files::FilesHost;
use crate::host::kubernetes::job::{
    EXIT_DONE, TERMINATION_LOG, TERMINATION_LOG_VARIABLE, WORK_VARIABLE, Work, WorkError,
    WorkOutcome, WorkResult,
};
use crate::journal::{Journal, JournalError};
use crate::run::Runner;
use pass::Pass;

/// Does the work that the environment tells of.
pub(super) async fn worker() -> Result<(), Failure> {
    let report = Report::new();
    let work = match read_work() {
        Ok(work) => work,
        Err(error) => return told(&report, &WorkOutcome::failed(&error)),
    };
    tracing::info!(
        task = work.task.kind().as_str(),
        namespace = work.namespace,
        policy = work.policy.as_ref().map(|policy| policy.name.as_str()),
        run = work.run,
        "A worker starts."
    );
    // Should the pod be killed, this is what is left of it.
    report.write(&WorkOutcome::interrupted("it was killed"));
    let cancel = cancelled_by_signals()?;
    let outcome = match Scratch::new() {
        Ok(scratch) => match scratch.runner(&work, cancel) {
            Ok(runner) => {
                Pass {
                    work: &work,
                    runner,
                    report: &report,
                    started: jiff::Timestamp::now(),
                }
                .run()
                .await
            }
            Err(error) => WorkOutcome::failed(&error),
        },
        Err(error) => return Err(Failure::Failed(error.to_string())),
    };
    told(&report, &outcome)
}

fn read_work() -> Result<Work, WorkError> {
    let json = std::env::var(WORK_VARIABLE).map_err(|error| match error {
        std::env::VarError::NotPresent => WorkError::Missing,
        std::env::VarError::NotUnicode(_) => WorkError::Unreadable("it is not UTF-8".to_owned()),
    })?;
    Work::from_json(&json)
}

/// Reports an outcome, and gives its exit code.
fn told(report: &Report, outcome: &WorkOutcome) -> Result<(), Failure> {
    report.write(outcome);
    let error = outcome.error.as_ref();
    let (message, reason) = (
        error.map(|error| error.message.as_str()),
        error.map(|error| error.reason.as_str()),
    );
    let failed_runs = outcome.failed_runs().count();
    match outcome.result {
        WorkResult::Succeeded if error.is_none() => tracing::info!("The work is done."),
        WorkResult::Succeeded => tracing::warn!(
            failed_runs,
            reason,
            error = message,
            "The work is done, and some of what follows it failed."
        ),
        WorkResult::Failed => tracing::error!(reason, error = message, "The work failed."),
        WorkResult::Interrupted => {
            tracing::warn!(
                reason,
                error = message,
                "The work was stopped before it had ended."
            );
        }
    }
    match outcome.exit_code() {
        EXIT_DONE => Ok(()),
        code => Err(Failure::Told(code)),
    }
}

/// Where the outcome goes.
#[derive(Debug)]
struct Report(Option<PathBuf>);

impl Report {
    fn new() -> Self {
        let named = std::env::var_os(TERMINATION_LOG_VARIABLE).map(PathBuf::from);
        // In a pod the file is there. Elsewhere none is made in /dev.
        let usual = || Some(PathBuf::from(TERMINATION_LOG)).filter(|path| path.exists());
        Self(named.or_else(usual))
    }

    fn write(&self, outcome: &WorkOutcome) {
        let Some(path) = &self.0 else { return };
        // It is a mount of its own in a pod: written in place, in one call.
        if let Err(error) = std::fs::write(path, outcome.to_message()) {
            tracing::error!(path = %path.display(), %error, "The outcome could not be written.");
        }
    }
}

/// A directory for the journal of this process, gone with it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("holdfast-worker-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn runner(
        &self,
        work: &Work,
        cancel: CancellationToken,
    ) -> Result<Runner<FilesHost>, JournalError> {
        let (journal, _) = Journal::open(self.path(), jiff::Timestamp::now())?;
        Ok(Runner {
            view: View::new(Arc::new(
                FilesHost::new(work.declared(), None, journal.clone()).in_pod(),
            )),
            journal,
            cancel,
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // In a pod it goes away with the pod.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The failure of an error, in the words of the journal.
fn failure(error: &impl Classified) -> crate::journal::RunError {
    error.into()
}
