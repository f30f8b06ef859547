//! Running a program to its end: with a limit, and with an error that shows
//! what it printed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Itself if the program ended with exit code 0, else an error with what it printed.
    pub fn ok(self) -> Result<Self> {
        self.code_is(0)
    }

    /// Itself if the program ended with this exit code, else an error with what it printed.
    pub fn code_is(self, expected: i32) -> Result<Self> {
        if self.code == Some(expected) {
            return Ok(self);
        }
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".into(),
        };
        bail!(
            "{}: {end} where {expected} was expected\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            tail(&self.stdout, 60),
            tail(&self.stderr, 60)
        )
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| {
            format!(
                "{}: stdout is not JSON: {}",
                self.command,
                tail(&self.stdout, 20)
            )
        })
    }

    /// Both streams together, for a search in what was said.
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a program to its end and captures what it prints. It is killed when
/// the limit has passed, or when the future is dropped.
pub async fn run(
    mut command: tokio::process::Command,
    input: Option<&[u8]>,
    limit: Duration,
) -> Result<Output> {
    let shown = show(command.as_std());
    let started = Instant::now();
    command
        .kill_on_drop(true)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    let pipe = child.stdin.take();
    let feed = async {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // A program that does not read its input closes it; that is its right.
            let _ = pipe.write_all(input).await;
        }
    };
    let finish = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = match tokio::time::timeout(limit, finish).await {
        Ok(output) => output.with_context(|| format!("waiting for {shown}"))?,
        Err(_) => bail!("{shown}: not finished after {} s; killed", limit.as_secs()),
    };
    Ok(Output {
        command: shown,
        code: output.status.code(),
        signal: std::os::unix::process::ExitStatusExt::signal(&output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    })
}

/// A command line as a person would type it, with passwords in URIs blanked.
pub fn show(command: &std::process::Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| blank(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn blank(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else {
        return word.to_owned();
    };
    match (rest.split_once('@'), rest.split_once(':')) {
        (Some((_, host)), Some((user, _))) => format!("{scheme}://{user}:…@{host}"),
        _ => word.to_owned(),
    }
}

/// Finds a program: in the folder that `e2e/setup` fills, in `PATH`, or in the
/// places where Debian keeps what only root is meant to run.
pub fn find(program: &str) -> Result<PathBuf> {
    let cache = match std::env::var_os("HOLDFAST_E2E_CACHE") {
        Some(cache) if !cache.is_empty() => PathBuf::from(cache),
        _ => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/e2e")),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(cache.join("bin"))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
    for place in places {
        let candidate = place.join(OsStr::new(program));
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "{program} is neither in {}/bin nor in PATH: run e2e/setup",
        cache.display()
    )
}
