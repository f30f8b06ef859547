//! The real `holdfast` binary and a workspace for it: policies, secrets and
//! state in a folder of their own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::command::{self, Output};
use crate::process::{Server, Signal};
use crate::s3::{self, S3};
use crate::sshd::{self, Sshd};
use crate::tools::Restic;
use crate::{Workdir, ports};

/// The repositories' password, in the secret `repository`, key `password`.
pub const REPOSITORY_PASSWORD: &str = "correct horse battery staple";

/// The binary under test: `$HOLDFAST_BIN`, or the one that was built beside
/// the running test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HOLDFAST_BIN").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let test = std::env::current_exe().context("asking where this test is")?;
    for folder in test.ancestors().skip(1).take(2) {
        let candidate = folder.join("holdfast");
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "no holdfast binary near {}: run `cargo build -p holdfast` or set HOLDFAST_BIN",
        test.display()
    )
}

/// A folder with `policies/`, `secrets/` and `state/`, and the binary to run in it.
#[derive(Debug)]
pub struct Workspace {
    dir: Workdir,
    env: Vec<(String, String)>,
    limit: Duration,
}

impl Workspace {
    /// An empty workspace that has the secret `repository` only.
    pub fn new() -> Result<Self> {
        let dir = Workdir::new()?;
        for name in ["policies", "secrets", "state", "repositories"] {
            std::fs::create_dir(dir.join(name)).with_context(|| format!("making {name}"))?;
        }
        let workspace = Self {
            dir,
            env: Vec::new(),
            limit: Duration::from_secs(600),
        };
        workspace.secret("repository", "password", REPOSITORY_PASSWORD)?;
        Ok(workspace)
    }

    /// Sets a variable for every command that is run from here on.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// How long a command may take (10 minutes unless said otherwise).
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The folder of the YAML files.
    pub fn policies(&self) -> PathBuf {
        self.join("policies")
    }

    /// The folder of the local state.
    pub fn state(&self) -> PathBuf {
        self.join("state")
    }

    /// Where [`Workspace::local_destination`] puts its repositories.
    pub fn repository(&self, destination: &str) -> PathBuf {
        self.join("repositories").join(destination)
    }

    /// A local destination's repository as stock restic sees it.
    pub fn restic(&self, destination: &str) -> Restic {
        Restic::local(&self.repository(destination), REPOSITORY_PASSWORD)
    }

    /// Writes a secret's value and returns the file's path.
    pub fn secret(&self, name: &str, key: &str, value: &str) -> Result<PathBuf> {
        let folder = self.join("secrets").join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making the secret {name}"))?;
        let path = folder.join(key);
        std::fs::write(&path, value).with_context(|| format!("writing the secret {name}/{key}"))?;
        crate::mongod::restrict(&path)?;
        Ok(path)
    }

    /// Writes `policies/NAME.yaml` in one step, as a careful editor does.
    pub fn yaml(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.policies().join(format!("{name}.yaml"));
        let temporary = self.policies().join(format!(".{name}.tmp"));
        std::fs::write(&temporary, text).with_context(|| format!("writing {name}.yaml"))?;
        std::fs::rename(&temporary, &path).with_context(|| format!("writing {name}.yaml"))?;
        Ok(path)
    }

    /// Removes `policies/NAME.yaml`.
    pub fn remove_yaml(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.policies().join(format!("{name}.yaml")))
            .with_context(|| format!("removing {name}.yaml"))
    }

    /// Declares a destination; `storage` is its `s3:`, `sftp:` or `local:` block
    /// in YAML without indentation, `more` what else belongs under `spec`.
    pub fn destination(&self, name: &str, storage: &str, more: &str) -> Result<PathBuf> {
        self.yaml(
            &format!("destination-{name}"),
            &format!(
                "apiVersion: holdfast.dev/v1alpha1\nkind: Destination\nmetadata: {{name: {name}}}\nspec:\n{}\
                 \x20 encryption:\n    password: {{secretKeyRef: {{name: repository, key: password}}}}\n{}",
                indent(storage, 2),
                indent(more, 2)
            ),
        )
    }

    /// Declares a destination in [`Workspace::repository`].
    pub fn local_destination(&self, name: &str) -> Result<PathBuf> {
        let path = self.repository(name);
        self.destination(
            name,
            &format!("local: {{path: {}}}", quote(&path.to_string_lossy())),
            "",
        )
    }

    /// Declares a destination in a bucket, with the root account's keys in the
    /// secret `NAME-s3`.
    pub fn s3_destination(
        &self,
        name: &str,
        server: &S3,
        bucket: &str,
        prefix: &str,
    ) -> Result<PathBuf> {
        self.secret(&format!("{name}-s3"), "id", s3::ACCESS_KEY)?;
        self.secret(&format!("{name}-s3"), "secret", s3::SECRET_KEY)?;
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("  prefix: {}\n", quote(prefix))
        };
        let storage = format!(
            "s3:\n  bucket: {bucket}\n{prefix}  endpoint: {}\n  region: {}\n  \
             accessKeyId: {{secretKeyRef: {{name: {name}-s3, key: id}}}}\n  \
             secretAccessKey: {{secretKeyRef: {{name: {name}-s3, key: secret}}}}\n",
            server.endpoint(),
            s3::REGION
        );
        self.destination(name, &storage, "")
    }

    /// Declares a destination behind SSH: the key as a file, the host key pinned.
    pub fn sftp_destination(&self, name: &str, server: &Sshd, path: &Path) -> Result<PathBuf> {
        let login = format!(
            "privateKey: {{file: {}}}",
            quote(&server.key().to_string_lossy())
        );
        self.sftp_destination_with(name, server, path, &login)
    }

    /// The same with the password in the secret `NAME-ssh`.
    pub fn sftp_password_destination(
        &self,
        name: &str,
        server: &Sshd,
        path: &Path,
    ) -> Result<PathBuf> {
        self.secret(&format!("{name}-ssh"), "password", sshd::PASSWORD)?;
        let login = format!("password: {{secretKeyRef: {{name: {name}-ssh, key: password}}}}");
        self.sftp_destination_with(name, server, path, &login)
    }

    /// The same with the login fields given in YAML.
    pub fn sftp_destination_with(
        &self,
        name: &str,
        server: &Sshd,
        path: &Path,
        login: &str,
    ) -> Result<PathBuf> {
        let storage = format!(
            "sftp:\n  host: {}\n  port: {}\n  user: {}\n  path: {}\n  hostKey: {}\n{}",
            server.host(),
            server.port(),
            server.user(),
            quote(&path.to_string_lossy()),
            quote(&server.host_key()?),
            indent(login, 2)
        );
        self.destination(name, &storage, "")
    }

    /// Declares a policy that backs up a MongoDB to the destinations, in this
    /// order, at an hour that a test does not meet; a run is asked for with
    /// `holdfast backup`.
    pub fn mongodb_policy(&self, name: &str, uri: &str, destinations: &[&str]) -> Result<PathBuf> {
        self.mongodb_policy_with(name, uri, destinations, "", "")
    }

    /// The same with more fields for `source.mongodb` and for `spec` (a
    /// `schedule` there replaces the default one), in YAML without indentation.
    pub fn mongodb_policy_with(
        &self,
        name: &str,
        uri: &str,
        destinations: &[&str],
        source: &str,
        spec: &str,
    ) -> Result<PathBuf> {
        // A URI with a password must come from a secret.
        let uri = if uri.contains('@') {
            self.secret(&format!("{name}-mongodb"), "uri", uri)?;
            format!("uriFrom: {{secretKeyRef: {{name: {name}-mongodb, key: uri}}}}")
        } else {
            format!("uri: {}", quote(uri))
        };
        self.policy(
            name,
            &format!("mongodb:\n  {uri}\n{}", indent(source, 2)),
            destinations,
            spec,
        )
    }

    /// Declares a policy that backs up files; `spec` as above.
    pub fn files_policy(
        &self,
        name: &str,
        paths: &[&Path],
        destinations: &[&str],
        spec: &str,
    ) -> Result<PathBuf> {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| quote(&path.to_string_lossy()))
            .collect();
        self.policy(
            name,
            &format!("files:\n  paths: [{}]\n", paths.join(", ")),
            destinations,
            spec,
        )
    }

    /// Declares a policy with any source, in YAML without indentation.
    pub fn policy(
        &self,
        name: &str,
        source: &str,
        destinations: &[&str],
        spec: &str,
    ) -> Result<PathBuf> {
        let destinations: String = destinations
            .iter()
            .map(|name| format!("  - {{name: {name}}}\n"))
            .collect();
        let schedule = if spec.lines().any(|line| line.starts_with("schedule:")) {
            ""
        } else {
            "  schedule: {cron: \"0 0 29 2 *\"}\n"
        };
        self.yaml(
            &format!("policy-{name}"),
            &format!(
                "apiVersion: holdfast.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: {name}}}\nspec:\n  source:\n{}\
                 {schedule}  destinations:\n{destinations}{}",
                indent(source, 4),
                indent(spec, 2)
            ),
        )
    }

    /// The command line as given, to be run in the workspace's folder. The
    /// files, the state and the secrets are named by the environment.
    pub fn command<I, S>(&self, args: I) -> Result<std::process::Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = std::process::Command::new(binary()?);
        command
            .current_dir(self.path())
            .env("HOLDFAST_FILES", self.policies())
            .env("HOLDFAST_STATE_DIR", self.state())
            .env("HOLDFAST_SECRETS_DIR", self.join("secrets"))
            .env("NO_COLOR", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .args(args);
        Ok(command)
    }

    /// Runs `holdfast ARGS…` to its end, whatever its exit code.
    pub async fn holdfast<I, S>(&self, args: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        command::run(self.command(args)?.into(), None, self.limit).await
    }

    /// The same, with something on its standard input.
    pub async fn holdfast_with_input<I, S>(&self, args: I, input: &[u8]) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        command::run(self.command(args)?.into(), Some(input), self.limit).await
    }

    /// Starts `holdfast ARGS…` in the background, to be signalled or killed.
    pub fn start<I, S>(&self, args: I) -> Result<Background>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let command = self.command(args)?;
        let log = self.dir.fresh("log")?.join("holdfast");
        Ok(Background {
            server: Server::spawn("holdfast", command, &log)?,
            listen: None,
        })
    }

    /// Starts `holdfast run policies --listen 127.0.0.1:PORT` in the background
    /// and waits until it answers `/healthz`.
    pub async fn start_run(&self, more: &[&str]) -> Result<Background> {
        let port = ports::free()?;
        let listen = format!("127.0.0.1:{port}");
        let policies = self.policies().to_string_lossy().into_owned();
        let mut background =
            self.start(["run", &policies, "--listen", &listen].iter().chain(more))?;
        background.listen = Some(port);
        background
            .server
            .until("answer on /healthz", Duration::from_secs(60), || async {
                Ok(http_get(port, "/healthz")
                    .await?
                    .starts_with("HTTP/1.1 200")
                    .then_some(()))
            })
            .await?;
        Ok(background)
    }
}

/// A `holdfast` in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Background {
    server: Server,
    listen: Option<u16>,
}

impl Background {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The port it serves metrics on, when started by [`Workspace::start_run`].
    pub fn port(&self) -> Option<u16> {
        self.listen
    }

    /// The most memory it had at once, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        crate::process::peak_memory(self.pid())
    }

    /// Both output streams, so far.
    pub fn printed(&self) -> String {
        self.server.printed()
    }

    /// GET on its own port: the body, or an error for any status but 200.
    pub async fn get(&self, path: &str) -> Result<String> {
        let port = self.listen.context("it was not started with a port")?;
        let answer = http_get(port, path).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        anyhow::ensure!(
            head.starts_with("HTTP/1.1 200"),
            "GET {path}: {head}\n{body}"
        );
        Ok(body.to_owned())
    }

    /// The value of a metric on `/metrics`, by the start of its line such as
    /// `holdfast_up` or `holdfast_runs_total{policy="shop"`.
    pub async fn metric(&self, start: &str) -> Result<Option<f64>> {
        let text = self.get("/metrics").await?;
        let line = text.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit(' ').next())
            .map(|value| Ok(value.parse()?))
            .transpose()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.server.signal(signal)
    }

    /// SIGKILL, and waits.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.kill9()
    }

    /// SIGTERM, and waits at most so long.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.server.stop(limit).await
    }

    /// Waits for its end; `None` when it still runs after the limit.
    pub async fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.server.wait(limit).await
    }

    /// Waits until something is true, asking often; fails when it ends first.
    pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
        &mut self,
        what: &str,
        limit: Duration,
        probe: impl FnMut() -> F,
    ) -> Result<T> {
        self.server.until(what, limit, probe).await
    }
}

/// A whole HTTP/1.1 answer, head and body, from 127.0.0.1.
pub async fn http_get(port: u16, path: &str) -> Result<String> {
    let fetch = async {
        let mut stream =
            tokio::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(20), fetch)
        .await
        .with_context(|| format!("GET {path}: no answer within 20 s"))?
}

/// A string as YAML takes it, whatever is in it.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn indent(text: &str, by: usize) -> String {
    let space = " ".repeat(by);
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| format!("{space}{line}\n"))
        .collect()
}
