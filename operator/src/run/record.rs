//! Every run is in the journal from its start to its end, however it ends.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use jiff::Timestamp;

use crate::journal::{Ending, Figures, HookOutput, Journal, JournalError, NewRun, Run};
use crate::run::RunError;
use crate::run::hooks::HookOutcome;

/// What a run left behind, for the journal.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// What it did.
    pub figures: Figures,
    /// The id of the snapshot that it wrote or read.
    pub snapshot: Option<String>,
    /// What the hooks said, of a failed run too.
    pub hooks: Vec<HookOutcome>,
}

/// A journal call, on a thread that may block.
///
/// # Errors
/// Those of the call.
pub async fn on_journal<T: Send + 'static>(
    journal: &Journal,
    call: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
) -> Result<T, RunError> {
    let journal = journal.clone();
    let done = tokio::task::spawn_blocking(move || call(&journal)).await;
    Ok(done.map_err(|error| RunError::Panicked(error.to_string()))??)
}

/// A run that has been begun, and must be ended. One whose process dies is closed by the next look
/// at the journal.
#[derive(Debug)]
pub struct Open {
    journal: Journal,
    /// The run.
    pub run: Run,
    /// What it did so far; kept when it fails, too.
    pub account: Account,
}

/// Begins a run.
///
/// # Errors
/// When it may not start now, or the state database fails.
pub async fn begin(journal: &Journal, new: NewRun) -> Result<Open, RunError> {
    let run = on_journal(journal, move |journal| journal.start(new, Timestamp::now())).await?;
    tracing::info!(
        run = run.id,
        kind = run.kind.as_str(),
        namespace = run.namespace,
        policy = run.policy,
        destination = run.destination,
        "A run started."
    );
    Ok(Open {
        journal: journal.clone(),
        run,
        account: Account::default(),
    })
}

/// Does work; a panic in it is a failure like any other.
///
/// # Errors
/// What the work says.
pub async fn caught<T>(work: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(RunError::Panicked(panic_message(panic.as_ref()))))
}

impl Open {
    /// Ends the run as `result` says, and hands that on.
    ///
    /// # Errors
    /// Those of the result; or when the end cannot be recorded.
    pub async fn end<T>(self, result: Result<T, RunError>) -> Result<T, RunError> {
        let Self {
            journal,
            run,
            account,
        } = self;
        let Account {
            figures,
            snapshot,
            hooks,
        } = account;
        let at = Timestamp::now();
        let ending = match &result {
            Ok(_) => Ending::succeeded(at, figures, snapshot),
            Err(error) => Ending {
                figures,
                snapshot,
                ..Ending::failed(at, error)
            },
        }
        .with_hooks(hooks.into_iter().map(kept));
        tell(&run, at, result.as_ref().err());
        let id = run.id.clone();
        let finished = on_journal(&journal, move |journal| journal.finish(&id, ending)).await;
        match (result, finished) {
            (Ok(value), Ok(_)) => Ok(value),
            // What was done is done; but nobody would know of it.
            (Ok(_), Err(error)) => Err(error),
            (Err(error), finished) => {
                if let Err(unrecorded) = finished {
                    tracing::error!(run = run.id, error = %unrecorded, "A run's end was not recorded.");
                }
                Err(error)
            }
        }
    }
}

fn tell(run: &Run, at: Timestamp, error: Option<&RunError>) {
    let seconds = at.duration_since(run.started).as_secs_f64();
    match error {
        None => tracing::info!(
            run = run.id,
            kind = run.kind.as_str(),
            namespace = run.namespace,
            policy = run.policy,
            destination = run.destination,
            seconds,
            "A run succeeded."
        ),
        Some(error) => tracing::error!(
            run = run.id,
            kind = run.kind.as_str(),
            namespace = run.namespace,
            policy = run.policy,
            destination = run.destination,
            seconds,
            error = %error,
            "A run failed."
        ),
    }
}

fn kept(outcome: HookOutcome) -> HookOutput {
    HookOutput {
        phase: outcome.phase.as_str().to_owned(),
        command: outcome.command,
        exit_code: outcome.exit_code,
        output: outcome.output,
        truncated: false,
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
