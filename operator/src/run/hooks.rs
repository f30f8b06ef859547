//! Runs the commands that a policy wants around a backup: no shell, a time limit, output kept.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_crds::Hook;
use holdfast_engine::class::{Classified, ErrorClass};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How much of each stream of a hook is kept, from its end.
const KEPT_OUTPUT: usize = 16 * 1024;

/// When in a run a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPhase {
    /// Before the source is read.
    Before,
    /// After a backup that succeeded.
    After,
    /// After a backup that failed.
    OnFailure,
}

impl HookPhase {
    /// The field of the policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::OnFailure => "onFailure",
        }
    }
}

/// What a hook was told and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookOutcome {
    /// When it was run.
    pub phase: HookPhase,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `exit status: 0`, or why there is none.
    pub status: String,
    /// Its exit code; absent when it was ended or did not start.
    pub exit_code: Option<i32>,
    /// Whether it ended well.
    pub succeeded: bool,
    /// The end of what it wrote, standard output first.
    pub output: String,
}

/// A hook that did not end well.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {} hook `{program}` failed: {status}{}; mend the command or remove it from the policy",
    phase.as_str(), last_line(output)
)]
pub struct HookError {
    /// When it was run.
    pub phase: HookPhase,
    /// The program.
    pub program: String,
    /// How it ended.
    pub status: String,
    /// The end of what it wrote.
    pub output: String,
}

fn last_line(output: &str) -> String {
    match output.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!(" (it said: {})", line.trim()),
        None => String::new(),
    }
}

impl Classified for HookError {
    fn class(&self) -> ErrorClass {
        match self.phase {
            // The backup is there: to make it again would not mend what comes after it.
            HookPhase::After => ErrorClass::Permanent,
            HookPhase::Before | HookPhase::OnFailure => ErrorClass::Transient,
        }
    }

    fn reason(&self) -> &'static str {
        "HookFailed"
    }
}

/// What a hook finds in its environment, beside that of this process.
#[derive(Debug, Clone, Default)]
pub struct HookEnvironment(pub Vec<(&'static str, String)>);

/// Runs the hooks of one phase in their order and stops at the first that fails. Every one that was
/// run is in `outcomes`, whatever came of it.
///
/// # Errors
/// The first that failed.
pub async fn run_all(
    phase: HookPhase,
    hooks: &[Hook],
    environment: &HookEnvironment,
    cancel: &CancellationToken,
    outcomes: &mut Vec<HookOutcome>,
) -> Result<(), HookError> {
    for hook in hooks {
        let outcome = run_one(phase, hook, environment, cancel).await;
        tracing::info!(
            phase = phase.as_str(),
            program = outcome.command.first().map(String::as_str),
            status = outcome.status,
            "A hook ended."
        );
        let failure = (!outcome.succeeded).then(|| HookError {
            phase,
            program: outcome.command.first().cloned().unwrap_or_default(),
            status: outcome.status.clone(),
            output: outcome.output.clone(),
        });
        outcomes.push(outcome);
        if let Some(error) = failure {
            return Err(error);
        }
    }
    Ok(())
}

async fn run_one(
    phase: HookPhase,
    hook: &Hook,
    environment: &HookEnvironment,
    cancel: &CancellationToken,
) -> HookOutcome {
    let (status, exit_code, output) =
        match execute(&hook.command, hook.timeout.to_std(), environment, cancel).await {
            Ok(executed) => executed,
            Err(error) => (
                format!("it cannot be started: {error}"),
                None,
                String::new(),
            ),
        };
    let succeeded = exit_code == Some(0);
    HookOutcome {
        phase,
        command: hook.command.clone(),
        status,
        exit_code,
        succeeded,
        output,
    }
}

async fn execute(
    command: &[String],
    limit: Duration,
    environment: &HookEnvironment,
    cancel: &CancellationToken,
) -> std::io::Result<(String, Option<i32>, String)> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is empty"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment.0.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own group, so that what it started ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = child.id();
    let (out, err) = (Tail::default(), Tail::default());
    let read = tokio::spawn({
        let (out, err) = (out.clone(), err.clone());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        async move { tokio::join!(out.follow(stdout), err.follow(stderr)) }
    });

    let (status, exit_code) = tokio::select! {
        status = child.wait() => {
            let status = status?;
            (status.to_string(), status.code())
        }
        () = tokio::time::sleep(limit) => {
            end_group(group, &mut child).await;
            (format!("it took longer than {} s and was ended", limit.as_secs()), None)
        }
        () = cancel.cancelled() => {
            end_group(group, &mut child).await;
            ("it was ended because the run was stopped".to_owned(), None)
        }
    };
    // A grandchild may hold the pipes open; what was written until now is enough.
    let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
    Ok((status, exit_code, out.text() + &err.text()))
}

async fn end_group(group: Option<u32>, child: &mut tokio::process::Child) {
    let pid = group
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // Already gone is as good as ended.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::TERM);
        if tokio::time::timeout(Duration::from_secs(5), child.wait())
            .await
            .is_ok()
        {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            return;
        }
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.wait().await;
}

/// The end of what a stream said so far.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Takes in what a stream says until it ends.
    async fn follow(&self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut buffer = vec![0; 8192];
        while let Ok(read) = stream.read(&mut buffer).await {
            if read == 0 {
                break;
            }
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&buffer[..read]);
            if kept.len() > 2 * KEPT_OUTPUT {
                let excess = kept.len() - KEPT_OUTPUT;
                kept.drain(..excess);
            }
        }
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = kept.len().saturating_sub(KEPT_OUTPUT);
        String::from_utf8_lossy(&kept[start..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(command: &[&str], seconds: u64) -> Hook {
        Hook {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: holdfast_crds::Duration::from_secs(seconds),
        }
    }

    async fn run(hooks: &[Hook]) -> (Result<(), HookError>, Vec<HookOutcome>) {
        let mut outcomes = Vec::new();
        let environment = HookEnvironment(vec![("HOLDFAST_POLICY", "shop".into())]);
        let result = run_all(
            HookPhase::Before,
            hooks,
            &environment,
            &CancellationToken::new(),
            &mut outcomes,
        )
        .await;
        (result, outcomes)
    }

    #[tokio::test]
    async fn output_and_environment_are_kept() {
        let (result, outcomes) = run(&[hook(&["sh", "-c", "echo for $HOLDFAST_POLICY"], 10)]).await;
        result.unwrap();
        assert_eq!(outcomes[0].output, "for shop\n");
    }

    #[tokio::test]
    async fn the_first_failure_stops_and_tells_the_last_line() {
        let (result, outcomes) = run(&[
            hook(&["sh", "-c", "echo no space >&2; exit 3"], 10),
            hook(&["sh", "-c", "exit 0"], 10),
        ])
        .await;
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("exit status: 3") && message.contains("no space"),
            "{message}"
        );
        assert_eq!(outcomes.len(), 1);
    }

    #[tokio::test]
    async fn a_hook_that_takes_too_long_is_ended_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", marker.display());
        let started = std::time::Instant::now();
        let (result, _) = run(&[hook(&["sh", "-c", &script], 1)]).await;
        assert!(result.unwrap_err().to_string().contains("longer than 1 s"));
        assert!(started.elapsed() < Duration::from_secs(30));
        let pid = std::fs::read_to_string(marker).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        assert!(
            stat.map_or(true, |stat| stat.contains(") Z ")),
            "the sleep lives on"
        );
    }

    /// A daemon keeps the pipes open; what was said before is not lost with it.
    #[tokio::test]
    async fn output_is_kept_though_something_that_was_started_lives_on() {
        let script = "echo started; echo but not well >&2; sleep 20 & exit 3";
        let (result, outcomes) = run(&[hook(&["sh", "-c", script], 10)]).await;
        let message = result.unwrap_err().to_string();
        assert!(message.contains("but not well"), "{message}");
        assert_eq!(outcomes[0].output, "started\nbut not well\n");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let (result, _) = run(&[hook(&["/nonexistent/program"], 1)]).await;
        let message = result.unwrap_err().to_string();
        assert!(message.contains("/nonexistent/program") && message.contains("cannot be started"));
    }
}
