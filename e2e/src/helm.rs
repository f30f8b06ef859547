//! The stock `helm` and the project's chart: what it renders, and what it refuses.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;

use crate::command::{self, Output};
use crate::workdir::Workdir;

const LIMIT: Duration = Duration::from_secs(120);

/// The version that is rendered for: helm without a cluster would take the one it was built for.
pub const KUBERNETES: &str = "1.36.0";

/// The folder of the project.
pub fn project() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder of the chart.
pub fn chart() -> PathBuf {
    project().join("charts/holdfast")
}

/// Runs `helm ARGS…` without a cluster, whatever its exit code.
///
/// # Errors
/// When helm is not there or does not end.
pub async fn run<I, S>(args: I) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    run_in(Path::new("/nonexistent"), args).await
}

/// Runs `helm ARGS…` in a cluster, whatever its exit code. Its cache and configuration are its own: nothing
/// of the person who runs the tests is read or written.
///
/// # Errors
/// As [`run`].
pub async fn run_in<I, S>(kubeconfig: &Path, args: I) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let home = Workdir::new()?;
    let mut helm = Command::new(command::find("helm")?);
    for (variable, folder) in [
        ("HELM_CACHE_HOME", "cache"),
        ("HELM_CONFIG_HOME", "config"),
        ("HELM_DATA_HOME", "data"),
    ] {
        helm.env(variable, home.path().join(folder));
    }
    helm.env("KUBECONFIG", kubeconfig).args(args);
    command::run(helm, None, LIMIT).await
}

/// Runs `helm template holdfast CHART` with values given as YAML, whatever its exit code.
///
/// # Errors
/// As [`run`].
pub async fn template(namespace: &str, values: &str, extra: &[&str]) -> Result<Output> {
    let dir = Workdir::new()?;
    let file = dir.path().join("values.yaml");
    std::fs::write(&file, values)?;
    let chart = chart();
    let mut args: Vec<&OsStr> = ["template", "holdfast"].map(OsStr::new).to_vec();
    args.push(chart.as_os_str());
    args.extend(["--namespace", namespace, "--kube-version", KUBERNETES].map(OsStr::new));
    args.extend([OsStr::new("--values"), file.as_os_str()]);
    args.extend(extra.iter().map(OsStr::new));
    run(args).await
}

/// The objects that the chart renders.
///
/// # Errors
/// When helm refuses the values, or what it prints is not YAML.
pub async fn render(namespace: &str, values: &str) -> Result<Vec<Value>> {
    let output = template(namespace, values, &[]).await?.ok()?;
    documents(&output.stdout)
}

/// The documents of a YAML stream; empty ones are left out.
///
/// # Errors
/// When it is not YAML.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("not YAML")?;
    Ok(documents.into_iter().filter(|one| !one.is_null()).collect())
}
