//! A real Kubernetes cluster: the API with its controllers, or, where the
//! machine allows it, a full node that runs pods. `e2e/cluster/README.md`
//! says what it consists of.
//!
//! Pods reach the machine at [`Cluster::outside`]: a mongod that was started
//! with that address in [`crate::mongod::Options::address`], or any server on
//! 127.0.0.1 whose port was [exposed](Cluster::expose). The test reaches pods
//! and services at their own addresses.

mod pods;

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::command::{self, Output};
use crate::process::{Server, Signal};
use crate::{Workdir, shared};

const START: Duration = Duration::from_secs(180);
const LIMIT: Duration = Duration::from_secs(120);

/// How much of a cluster is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// etcd, the API server and the controller manager: everything but pods.
    Api,
    /// A scheduler and a node, too.
    Node,
}

/// A running cluster. Dropping it ends it, and every process in it.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    // After the server: it is dropped, and removed, when nothing writes to it any more.
    dir: Workdir,
    state: serde_json::Value,
}

impl Cluster {
    /// Why no [`Level::Node`] can be had on this machine, if that is so.
    pub async fn refusal() -> Result<Option<String>> {
        let mut check = Command::new(command::find("cluster")?);
        check.arg("check");
        let output = command::run(check, None, LIMIT).await?;
        match output.code {
            Some(0) => Ok(None),
            Some(3) => Ok(Some(output.stderr.trim().to_owned())),
            _ => output.ok().map(|_| None),
        }
    }

    /// Starts one and waits until it is ready.
    pub async fn start(level: Level) -> Result<Self> {
        Self::start_with(level, false).await
    }

    /// Starts one that, if asked to, writes a line about every request to
    /// [`Cluster::audit_log`].
    pub async fn start_with(level: Level, audit: bool) -> Result<Self> {
        let dir = Workdir::new()?;
        let place = dir.fresh("k")?;
        let mut command = std::process::Command::new(command::find("cluster")?);
        command
            .args(["up", "--foreground", "--dir"])
            .arg(&place)
            .current_dir("/");
        if level == Level::Api {
            command.arg("--api-only");
        }
        if audit {
            command.arg("--audit");
        }
        let mut server = Server::spawn("the cluster", command, &dir.join("log"))?;
        server.ends_gently();
        let ready = place.join("ready");
        server
            .until("cluster", START, || async {
                Ok(ready.exists().then_some(()))
            })
            .await?;
        let state = std::fs::read(place.join("state.json")).context("reading its state")?;
        Ok(Self {
            server,
            dir,
            state: serde_json::from_slice(&state).context("reading its state")?,
        })
    }

    fn place(&self) -> PathBuf {
        self.dir.join("k")
    }

    /// The file with which a client finds the API server, as an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.place().join("kubeconfig")
    }

    /// One line of JSON for each request, where that was asked for.
    pub fn audit_log(&self) -> PathBuf {
        self.place().join("audit.log")
    }

    /// What one of its programs printed, such as `kubelet`.
    pub fn log(&self, program: &str) -> String {
        std::fs::read(self.place().join("log").join(program))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// This machine's address as pods see it; without a node 127.0.0.1.
    pub fn outside(&self) -> Result<Ipv4Addr> {
        self.state["network"]["api"]
            .as_str()
            .context("the state has no address")?
            .parse()
            .context("reading the address")
    }

    /// `https://…` of the API server.
    pub fn server(&self) -> Result<String> {
        let port = &self.state["network"]["apiPort"];
        Ok(format!("https://{}:{port}", self.outside()?))
    }

    /// What `cluster status` prints: addresses, ports, process ids.
    pub fn state(&self) -> &serde_json::Value {
        &self.state
    }

    /// Lets pods reach a server on 127.0.0.1, as [`Cluster::outside`] with the
    /// same port; gives that address.
    pub async fn expose(&self, port: u16) -> Result<String> {
        self.tell(&["expose"], &port.to_string()).await?;
        Ok(format!("{}:{port}", self.outside()?))
    }

    /// `kubectl ARGS…` as an administrator, whatever its exit code.
    pub async fn kubectl<I, S>(&self, args: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        command::run(self.kubectl_command(args)?, None, LIMIT).await
    }

    /// The command `kubectl ARGS…`, to run otherwise.
    pub fn kubectl_command<I, S>(&self, args: I) -> Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut kubectl = Command::new(command::find("kubectl")?);
        kubectl
            .env("KUBECONFIG", self.kubeconfig())
            // What it finds out about the API is kept with the cluster.
            .env("KUBECACHEDIR", self.place().join("kubectl"))
            .args(args);
        Ok(kubectl)
    }

    /// `kubectl ARGS… -f -` with the text as input; `apply` and `create` take it.
    pub async fn feed(&self, args: &[&str], yaml: &str) -> Result<Output> {
        let command = self.kubectl_command(args.iter().chain(&["-f", "-"]))?;
        command::run(command, Some(yaml.as_bytes()), LIMIT).await
    }

    /// `kubectl apply -f -`, which must succeed.
    pub async fn apply(&self, yaml: &str) -> Result<Output> {
        self.feed(&["apply"], yaml).await?.ok()
    }

    /// Applies the CRDs of this repository and waits until they are served.
    pub async fn apply_crds(&self) -> Result<()> {
        let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");
        self.kubectl(["apply", "--server-side", "-f", crds])
            .await?
            .ok()?;
        // Of the verbs that take files, `wait` alone looks into folders below by itself.
        let wait = ["wait", "--for=condition=Established", "--timeout=60s"];
        let flat = ["--recursive=false", "-f", crds];
        self.kubectl(wait.iter().chain(&flat)).await?.ok().map(drop)
    }

    /// `kubectl get ARGS… -o json`.
    pub async fn get(&self, args: &[&str]) -> Result<serde_json::Value> {
        let words = ["get", "-o", "json"];
        self.kubectl(words.iter().chain(args)).await?.ok()?.json()
    }

    /// Asks `kubectl get ARGS… -o json` again and again until `probe` gives
    /// something; fails with the last answer when the limit has passed.
    pub async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        args: &[&str],
        probe: impl Fn(&serde_json::Value) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.get(args).await;
            if let Some(value) = answer.as_ref().ok().and_then(&probe) {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                let answer = match answer {
                    Ok(answer) => serde_json::to_string_pretty(&answer)?,
                    Err(error) => format!("{error:#}"),
                };
                bail!("no {what} within {} s: {answer}", limit.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A namespace with a name that no other caller in this process gets.
    pub async fn namespace(&self, stem: &str) -> Result<String> {
        let name = shared::unique(stem);
        self.kubectl(["create", "namespace", &name]).await?.ok()?;
        // A pod is refused until the controller manager has made its account.
        self.until(
            "service account",
            LIMIT,
            &["-n", &name, "serviceaccount", "default"],
            |_| Some(()),
        )
        .await?;
        Ok(name)
    }

    /// SIGKILL to one program of the control plane, such as `kube-apiserver`.
    pub async fn stop_program(&self, program: &str) -> Result<()> {
        self.tell(&["stop"], program).await
    }

    /// Starts it again; what is asked of it next may come too early.
    pub async fn start_program(&self, program: &str) -> Result<()> {
        self.tell(&["start"], program).await
    }

    /// SIGKILL to the API server.
    pub async fn kill_apiserver(&self) -> Result<()> {
        self.stop_program("kube-apiserver").await
    }

    /// Starts the API server again and waits until it is ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        self.start_program("kube-apiserver").await?;
        let deadline = Instant::now() + START;
        loop {
            let answer = self.kubectl(["get", "--raw", "/readyz"]).await?;
            if answer.code == Some(0) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the API server is not ready: {}\n{}",
                answer.said(),
                command::tail(&self.log("kube-apiserver"), 20)
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends it in order; fails when something of it is left.
    pub async fn stop(mut self) -> Result<()> {
        self.server.signal(Signal::Term)?;
        let status = self.server.wait(Duration::from_secs(30)).await?;
        let status = status.context("it did not end within 30 s of SIGTERM")?;
        ensure!(status.success(), "{}", self.server.log_tail(20));
        let left = self.processes();
        ensure!(left.is_empty(), "still running: {left:?}");
        Ok(())
    }

    /// The ids of its processes, those in its containers too.
    pub fn processes(&self) -> Vec<u32> {
        let group = self.state["cgroup"]
            .as_str()
            .map(|name| format!("/{name}/"));
        let place = self.place();
        let place = place.to_string_lossy();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()) else {
                continue;
            };
            let read = |name: &str| {
                let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let grouped = group
                .as_ref()
                .is_some_and(|group| read("cgroup").contains(group.as_str()));
            if grouped || read("cmdline").contains(place.as_ref()) {
                found.push(id);
            }
        }
        found
    }

    async fn tell(&self, verb: &[&str], what: &str) -> Result<()> {
        let mut command = Command::new(command::find("cluster")?);
        command.args(verb).arg("--dir").arg(self.place()).arg(what);
        command::run(command, None, LIMIT).await?.ok().map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its control groups and interfaces go with an orderly end only.
        let _ = self.server.signal(Signal::Term);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.server.ended(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
