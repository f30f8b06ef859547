//! The stock tools: `restic`, `mongodump`, `mongorestore` and `bsondump`, as
//! somebody would use them who does not have Holdfast, and Prometheus' own
//! `promtool`.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::command::{self, Output};
use crate::s3::{self, S3};
use crate::sshd::Sshd;

const LIMIT: Duration = Duration::from_secs(900);

/// A repository as stock restic sees it.
#[derive(Clone, Debug)]
pub struct Restic {
    repository: String,
    password: String,
    env: Vec<(String, String)>,
    options: Vec<String>,
}

impl Restic {
    /// A repository in a local folder.
    pub fn local(path: &Path, password: &str) -> Self {
        Self {
            repository: path.to_string_lossy().into_owned(),
            password: password.to_owned(),
            env: Vec::new(),
            options: Vec::new(),
        }
    }

    /// A repository in a bucket; the prefix may be empty.
    pub fn s3(server: &S3, bucket: &str, prefix: &str, password: &str) -> Self {
        let path = if prefix.is_empty() {
            bucket.to_owned()
        } else {
            format!("{bucket}/{prefix}")
        };
        Self {
            repository: format!("s3:{}/{path}", server.endpoint()),
            password: password.to_owned(),
            env: [
                ("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY),
                ("AWS_SECRET_ACCESS_KEY", s3::SECRET_KEY),
                ("AWS_DEFAULT_REGION", s3::REGION),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            options: vec!["-o".into(), "s3.bucket-lookup=path".into()],
        }
    }

    /// A repository behind an SSH server.
    pub fn sftp(server: &Sshd, path: &Path, password: &str) -> Result<Self> {
        let ssh = server.ssh_command()?.join(" ");
        Ok(Self {
            repository: format!(
                "sftp:{}@{}:{}",
                server.user(),
                server.host(),
                path.display()
            ),
            password: password.to_owned(),
            env: Vec::new(),
            options: vec!["-o".into(), format!("sftp.command={ssh} -s sftp")],
        })
    }

    /// Runs `restic ARGS…`, whatever its exit code.
    pub async fn run<I, S>(&self, args: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        command::run(self.command(args)?, None, LIMIT).await
    }

    /// The command `restic ARGS…` with everything it needs, to run otherwise.
    pub fn command<I, S>(&self, args: I) -> Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut restic = Command::new(command::find("restic")?);
        restic
            .env("RESTIC_PASSWORD", &self.password)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .arg("--no-cache")
            .arg("-r")
            .arg(&self.repository)
            .args(&self.options)
            .args(args);
        Ok(restic)
    }

    /// `restic init`.
    pub async fn init(&self) -> Result<()> {
        self.run(["init"]).await?.ok().map(drop)
    }

    /// `restic check --read-data`: every byte is there and is what it was.
    pub async fn check(&self) -> Result<()> {
        let output = self.run(["check", "--read-data"]).await?.ok()?;
        anyhow::ensure!(
            output.stdout.contains("no errors were found"),
            "{}",
            output.said()
        );
        Ok(())
    }

    /// `restic snapshots --json`.
    pub async fn snapshots(&self) -> Result<Vec<serde_json::Value>> {
        let output = self.run(["snapshots", "--json"]).await?.ok()?;
        match output.json()? {
            serde_json::Value::Array(snapshots) => Ok(snapshots),
            // What older versions print for an empty repository.
            serde_json::Value::Null => Ok(Vec::new()),
            other => anyhow::bail!("restic snapshots printed {other}"),
        }
    }

    /// `restic ls`: the paths in a snapshot.
    pub async fn ls(&self, snapshot: &str) -> Result<Vec<String>> {
        let output = self.run(["ls", "--quiet", snapshot]).await?.ok()?;
        Ok(output
            .stdout
            .lines()
            .filter(|line| line.starts_with('/'))
            .map(str::to_owned)
            .collect())
    }

    /// `restic restore SNAPSHOT --target DIR`; the snapshot may be `latest`.
    pub async fn restore(&self, snapshot: &str, target: &Path) -> Result<()> {
        let args = [
            OsStr::new("restore"),
            OsStr::new(snapshot),
            OsStr::new("--target"),
            target.as_os_str(),
        ];
        let output = self.run(args).await?.ok()?;
        // Old versions count errors and still end with 0.
        anyhow::ensure!(!output.said().contains("There were"), "{}", output.said());
        Ok(())
    }

    /// `restic backup PATHS…`.
    pub async fn backup(&self, paths: &[&Path]) -> Result<()> {
        let args =
            std::iter::once(OsStr::new("backup")).chain(paths.iter().map(|path| path.as_os_str()));
        self.run(args).await?.ok().map(drop)
    }
}

/// `mongodump --uri URI --out DIR EXTRA…`.
pub async fn mongodump(uri: &str, out: &Path, extra: &[&str]) -> Result<Output> {
    let mut dump = Command::new(command::find("mongodump")?);
    dump.arg("--uri").arg(uri).arg("--out").arg(out).args(extra);
    command::run(dump, None, LIMIT).await?.ok()
}

/// `mongorestore --uri URI EXTRA… DIR`. A restore that lost documents on the
/// way is an error, although the program ends with 0 then.
pub async fn mongorestore(uri: &str, dir: &Path, extra: &[&str]) -> Result<Output> {
    let mut restore = Command::new(command::find("mongorestore")?);
    restore.arg("--uri").arg(uri).args(extra).arg(dir);
    let output = command::run(restore, None, LIMIT).await?.ok()?;
    anyhow::ensure!(
        output.stderr.contains(" 0 document(s) failed to restore"),
        "{}: documents failed to restore:\n{}",
        output.command,
        command::tail(&output.stderr, 40)
    );
    Ok(output)
}

/// `bsondump --bsonFile FILE`: one line of Extended JSON for each document.
pub async fn bsondump(file: &Path) -> Result<Vec<serde_json::Value>> {
    let mut dump = Command::new(command::find("bsondump")?);
    dump.arg("--quiet").arg("--bsonFile").arg(file);
    let output = command::run(dump, None, LIMIT).await?.ok()?;
    output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("bsondump printed {line}")))
        .collect()
}

/// Runs `promtool ARGS…`, whatever its exit code.
pub async fn promtool<I, S>(args: I) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut promtool = Command::new(command::find("promtool")?);
    promtool.args(args);
    command::run(promtool, None, LIMIT).await
}
