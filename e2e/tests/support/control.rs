//! What several of the test binaries need: words in messages, bytes in folders, lists of objects,
//! values of metrics.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::command::Output;
use holdfast_e2e::holdfast::Background;
use holdfast_e2e::{Workspace, command};
use serde_json::Value;

/// How long something may take that a loaded machine does in seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// An hour that no test meets, with a first run at once.
pub(crate) const IMMEDIATE: &str = "schedule: {cron: \"0 0 29 2 *\", immediate: true}\n";

/// Fails unless the program ended with this code and said every one of these words.
pub(crate) fn expect(output: Output, code: i32, words: &[&str]) -> Result<Output> {
    let output = output.code_is(code)?;
    let said = output.said();
    for word in words {
        ensure!(
            said.contains(word),
            "{}: nothing of {word:?} in\n{said}",
            output.command
        );
    }
    Ok(output)
}

/// Fails when one of the secrets is in the text.
pub(crate) fn keeps_quiet(what: &str, text: &str, secrets: &[&str]) -> Result<()> {
    for secret in secrets {
        ensure!(
            !text.contains(secret),
            "{what} gives {secret:?} away:\n{}",
            command::tail(text, 80)
        );
    }
    Ok(())
}

/// Fails when one of the secrets is in a file of the folder, as bytes.
pub(crate) fn holds_none(folder: &Path, secrets: &[&str]) -> Result<()> {
    let files = files(folder)?;
    ensure!(
        !files.is_empty(),
        "{} is empty: nothing was looked at",
        folder.display()
    );
    for file in files {
        let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        for secret in secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            ensure!(!found, "{} holds {secret:?}", file.display());
        }
    }
    Ok(())
}

/// Every regular file below a folder; none when it is not there.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", folder.display()));
            }
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The objects of a `List`.
pub(crate) fn items(list: &Value) -> Result<Vec<Value>> {
    ensure!(
        list["kind"] == "List" && list["apiVersion"] == "v1",
        "no List: {list}"
    );
    Ok(list["items"]
        .as_array()
        .context("a List without items")?
        .clone())
}

/// `holdfast backups ARGS… -o json`.
pub(crate) async fn backups(workspace: &Workspace, args: &[&str]) -> Result<Vec<Value>> {
    let all = [&["backups", "-o", "json"], args].concat();
    items(&workspace.holdfast(all).await?.ok()?.json()?)
}

/// `holdfast history -o json`, the newest first.
pub(crate) async fn history(workspace: &Workspace, args: &[&str]) -> Result<Vec<Value>> {
    let all = [&["history", "-o", "json"], args].concat();
    items(&workspace.holdfast(all).await?.ok()?.json()?)
}

/// Backs a policy up and gives the id of the backup.
pub(crate) async fn backup(workspace: &Workspace, policy: &str) -> Result<String> {
    id(&workspace
        .holdfast(["backup", policy, "-o", "json"])
        .await?
        .ok()?
        .json()?)
}

/// The id of a backup.
pub(crate) fn id(backup: &Value) -> Result<String> {
    let id = backup["status"]["id"]
        .as_str()
        .with_context(|| format!("no status.id in {backup}"))?;
    Ok(id.to_owned())
}

/// The ids of backups.
pub(crate) fn ids(backups: &[Value]) -> Result<Vec<String>> {
    backups.iter().map(id).collect()
}

/// A text at a place of a value, such as `/status/outcome`.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A folder with a few files in it to back up.
pub(crate) fn sample(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.join(name);
    std::fs::create_dir_all(folder.join("inner"))?;
    std::fs::write(folder.join("one.txt"), "one\n")?;
    std::fs::write(folder.join("inner/two.txt"), "two\n")?;
    Ok(folder)
}

/// The value of a metric with at least these labels, in the text of `/metrics`.
pub(crate) fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (set, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let all = labels
            .iter()
            .all(|(label, value)| set.contains(&format!("{label}=\"{value}\"")));
        if all { value.parse().ok() } else { None }
    })
}

/// How many runs of a kind ended so, by the metrics of a daemon.
pub(crate) async fn runs(
    daemon: &Background,
    policy: &str,
    kind: &str,
    result: &str,
) -> Result<f64> {
    let labels = [("policy", policy), ("kind", kind), ("result", result)];
    Ok(metric(
        &daemon.get("/metrics").await?,
        "holdfast_runs_total",
        &labels,
    )
    .unwrap_or(0.0))
}

/// Waits until so many runs of a kind ended so.
pub(crate) async fn until_runs(
    daemon: &Background,
    policy: &str,
    kind: &str,
    result: &str,
    count: u32,
) -> Result<()> {
    until(
        &format!("{count} {kind} runs of {policy} that {result}"),
        async || Ok((runs(daemon, policy, kind, result).await? >= f64::from(count)).then_some(())),
    )
    .await
    .with_context(|| format!("the daemon said:\n{}", command::tail(&daemon.printed(), 40)))
}

/// Asks often until there is an answer.
pub(crate) async fn until<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = probe().await;
        if let Ok(Some(value)) = answer {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            let why = answer
                .err()
                .map(|error| format!(": {error:#}"))
                .unwrap_or_default();
            bail!("no {what} within {} s{why}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A hook that tells when it has begun and ends when it is let go: a run that is on for as long as
/// a test wants.
#[derive(Debug)]
pub(crate) struct Gate {
    begun: PathBuf,
    open: PathBuf,
}

impl Gate {
    /// A closed gate.
    pub(crate) fn new(workspace: &Workspace, name: &str) -> Self {
        Self {
            begun: workspace.join(format!("{name}-begun")),
            open: workspace.join(format!("{name}-open")),
        }
    }

    /// The `hooks:` of a policy that wait at it before each backup.
    pub(crate) fn hooks(&self) -> String {
        let script = "touch \"$1\"; while [ ! -e \"$2\" ]; do sleep 0.05; done";
        let command = serde_json::json!(["sh", "-c", script, "gate", self.begun, self.open]);
        format!("hooks:\n  before:\n  - command: {command}\n    timeout: 5m\n")
    }

    /// Waits until a run stands before it.
    pub(crate) async fn reached(&self) -> Result<()> {
        until("run at the gate", async || {
            Ok(self.begun.exists().then_some(()))
        })
        .await
    }

    /// Lets this run and all later ones pass.
    pub(crate) fn open(&self) -> Result<()> {
        std::fs::write(&self.open, "").context("opening the gate")
    }
}

/// Waits until a backup to a local repository is at work: it holds a lock and has written data.
pub(crate) async fn until_writing(repository: &Path) -> Result<()> {
    until("backup at work", async || {
        let locked = !files(&repository.join("locks"))?.is_empty();
        let written = !files(&repository.join("data"))?.is_empty();
        Ok((locked && written).then_some(()))
    })
    .await
}
