//! `holdfast operator` as a process beside a cluster's API server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::holdfast::{binary, http_get};
use crate::process::{Server, Signal};
use crate::{Workdir, ports};

/// How an operator is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The namespaces that it reconciles; all when empty.
    pub namespaces: Vec<String>,
    /// The namespace of its lease; without one it takes no part in an election.
    pub lease_namespace: Option<String>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// The image of its Jobs.
    pub image: Option<String>,
}

/// A running operator. Dropping it ends it.
#[derive(Debug)]
pub struct Operator {
    server: Server,
    port: u16,
}

impl Operator {
    /// Starts one called `name`, and waits until it has read what the cluster holds.
    pub async fn start(
        cluster: &Cluster,
        dir: &Workdir,
        name: &str,
        options: &Options,
    ) -> Result<Self> {
        Self::start_with(&cluster.kubeconfig(), dir, name, options).await
    }

    /// The same with a kubeconfig of one's own.
    pub async fn start_with(
        kubeconfig: &Path,
        dir: &Workdir,
        name: &str,
        options: &Options,
    ) -> Result<Self> {
        let port = ports::free()?;
        let mut command = Command::new(binary()?);
        command
            .arg("operator")
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--namespace={}", options.namespaces.join(",")))
            .arg(format!(
                "--leader-elect={}",
                options.lease_namespace.is_some()
            ))
            .arg(format!("--identity={name}"))
            .arg(format!(
                "--image={}",
                options.image.as_deref().unwrap_or("holdfast:test")
            ))
            .args(&options.arguments)
            .env_clear()
            .env("KUBECONFIG", kubeconfig)
            .env("HOLDFAST_LOG_FORMAT", "text")
            .env("RUST_BACKTRACE", "1");
        if let Some(namespace) = &options.lease_namespace {
            command.arg(format!("--lease-namespace={namespace}"));
        }
        let log = dir.fresh(name)?.join("log");
        let mut server = Server::spawn(&format!("the operator {name}"), command, &log)?;
        server
            .until("answer on /readyz", Duration::from_secs(60), || async {
                let answer = http_get(port, "/readyz").await.unwrap_or_default();
                Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
            })
            .await?;
        Ok(Self { server, port })
    }

    /// What it answers on a path.
    pub async fn get(&self, path: &str) -> Result<String> {
        http_get(self.port, path).await
    }

    /// What it has printed.
    pub fn printed(&self) -> String {
        self.server.printed()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.kill9()
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        self.server.stop(limit).await
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
        self.server.wait(limit).await
    }

    /// Stops it where it is, or lets it go on.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.server.signal(signal)
    }
}
