//! A real S3 server (versitygw over a folder) with versioning and object lock.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};

use crate::process::{Server, Signal};
use crate::{Workdir, command, ports};

/// The root account's access key id.
pub const ACCESS_KEY: &str = "holdfastroot";
/// The root account's secret access key.
pub const SECRET_KEY: &str = "holdfast-root-secret";
/// The region it says it is in.
pub const REGION: &str = "us-east-1";

/// A running S3 server. Dropping it ends it.
#[derive(Debug)]
pub struct S3 {
    server: Option<Server>,
    dir: PathBuf,
    port: u16,
    tls: Option<(PathBuf, PathBuf)>,
}

impl S3 {
    /// Starts one without a bucket.
    pub async fn start(dir: &Workdir) -> Result<Self> {
        let dir = dir.fresh("s3")?;
        for name in ["buckets", "versions", "metadata", "accounts"] {
            std::fs::create_dir(dir.join(name)).with_context(|| format!("making {name}"))?;
        }
        let mut s3 = Self {
            server: None,
            dir,
            port: ports::free()?,
            tls: None,
        };
        s3.restart().await?;
        Ok(s3)
    }

    /// Starts it anew with TLS, on the same port and data: a certificate and its key, as PEM files. Its
    /// own client does not trust that certificate: make buckets before.
    pub async fn restart_with_tls(&mut self, certificate: PathBuf, key: PathBuf) -> Result<()> {
        self.tls = Some((certificate, key));
        self.restart().await
    }

    /// Starts it (again) on the same port and data; open connections are cut.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9()?;
        let mut command = Command::new(command::find("versitygw")?);
        command
            .env_clear()
            .env("ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("ROOT_SECRET_KEY", SECRET_KEY)
            .args([
                "--port",
                &format!("127.0.0.1:{}", self.port),
                "--region",
                REGION,
                "--iam-dir",
            ])
            .arg(self.dir.join("accounts"));
        if let Some((certificate, key)) = &self.tls {
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command
            .arg("posix")
            // Metadata in files beside the data: no extended attributes needed.
            .arg("--sidecar")
            .arg(self.dir.join("metadata"))
            .arg("--versioning-dir")
            .arg(self.dir.join("versions"))
            .arg(self.dir.join("buckets"));
        let name = format!("the S3 server on port {}", self.port);
        let server = Server::spawn(&name, command, &self.dir.join("log"))?;
        self.server
            .insert(server)
            .until_listening(self.port, Duration::from_secs(30))
            .await
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.kill9(),
            None => Ok(()),
        }
    }

    /// Sends a signal: `Stop` makes it hang, `Cont` go on.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.server
            .as_mut()
            .context("the S3 server was stopped")?
            .signal(signal)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:PORT`, or `https` with TLS; buckets are in the path.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The end of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.server
            .as_ref()
            .map(|server| server.log_tail(lines))
            .unwrap_or_default()
    }

    /// The folder that holds a bucket's objects as plain files.
    pub fn bucket_dir(&self, bucket: &str) -> PathBuf {
        self.dir.join("buckets").join(bucket)
    }

    /// A client with the root account's keys.
    pub fn client(&self) -> Client {
        self.client_as(ACCESS_KEY, SECRET_KEY)
    }

    /// A client with other keys.
    pub fn client_as(&self, access_key: &str, secret_key: &str) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new(
                access_key,
                secret_key,
                None,
                None,
                "holdfast-e2e",
            ))
            .region(Region::new(REGION))
            .endpoint_url(self.endpoint())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }

    /// Makes a bucket.
    pub async fn create_bucket(&self, name: &str) -> Result<()> {
        self.client()
            .create_bucket()
            .bucket(name)
            .send()
            .await
            .with_context(|| format!("making the bucket {name}"))?;
        Ok(())
    }

    /// Makes a bucket with object lock (and so with versioning).
    pub async fn create_locked_bucket(&self, name: &str) -> Result<()> {
        self.client()
            .create_bucket()
            .bucket(name)
            .object_lock_enabled_for_bucket(true)
            .send()
            .await
            .with_context(|| format!("making the bucket {name} with object lock"))?;
        Ok(())
    }

    /// Makes an account that owns nothing and may do nothing until a bucket's
    /// policy says so: for "access denied".
    pub async fn create_user(&self, access_key: &str, secret_key: &str) -> Result<()> {
        let mut command = tokio::process::Command::new(command::find("versitygw")?);
        command
            .args([
                "admin",
                "--access",
                ACCESS_KEY,
                "--secret",
                SECRET_KEY,
                "--endpoint-url",
                &self.endpoint(),
            ])
            .args(["--region", REGION])
            .args([
                "create-user",
                "--access",
                access_key,
                "--secret",
                secret_key,
                "--role",
                "user",
            ]);
        command::run(command, None, Duration::from_secs(20))
            .await?
            .ok()?;
        Ok(())
    }
}
