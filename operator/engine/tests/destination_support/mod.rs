//! What the tests of destinations share: descriptions of storages on the harness's servers, small
//! file systems, and waiting for one error.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
// Each test binary uses its own part of this.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_e2e::Workdir;
use holdfast_e2e::s3::{ACCESS_KEY, S3, SECRET_KEY};
use holdfast_e2e::sshd::Sshd;
use holdfast_engine::destination::{
    Addressing, HostKeyCheck, LocalConfig, S3Config, S3Credentials, SftpAuthentication, SftpConfig,
    Storage, StorageConfig, StorageError, connect,
};

pub fn local(path: &Path) -> StorageConfig {
    StorageConfig::Local(LocalConfig {
        path: path.to_path_buf(),
    })
}

pub fn s3_config(endpoint: &str, bucket: &str, prefix: &str) -> S3Config {
    S3Config {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(endpoint.to_owned()),
        region: None,
        credentials: Some(keys(ACCESS_KEY, SECRET_KEY)),
        storage_class: None,
        addressing: Addressing::Path,
    }
}

pub fn s3(server: &S3, bucket: &str, prefix: &str) -> StorageConfig {
    StorageConfig::S3(s3_config(&server.endpoint(), bucket, prefix))
}

pub fn keys(id: &str, secret: &str) -> S3Credentials {
    S3Credentials {
        access_key_id: id.into(),
        secret_access_key: secret.into(),
        session_token: None,
    }
}

pub fn private_key(path: &Path, passphrase: Option<&str>) -> SftpAuthentication {
    SftpAuthentication::PrivateKey {
        key: std::fs::read_to_string(path)
            .expect("the key's file")
            .into(),
        passphrase: passphrase.map(Into::into),
    }
}

pub fn sftp_config(server: &Sshd, path: &Path) -> SftpConfig {
    SftpConfig {
        host: server.host().to_owned(),
        port: server.port(),
        user: server.user().to_owned(),
        path: path.display().to_string(),
        authentication: vec![private_key(&server.key(), None)],
        host_key: HostKeyCheck::Pinned(vec![server.host_key().expect("the host key")]),
    }
}

pub fn sftp(server: &Sshd, path: &Path) -> StorageConfig {
    StorageConfig::Sftp(sftp_config(server, path))
}

pub async fn open(config: &StorageConfig) -> Arc<dyn Storage> {
    connect(config).await.expect("a description that can work")
}

/// The error of connecting or, where the description is sound, of the first look.
pub async fn error_of(config: &StorageConfig) -> StorageError {
    match connect(config).await {
        Err(error) => error,
        Ok(storage) => storage
            .probe()
            .await
            .expect_err("the place must not be reached"),
    }
}

/// Bytes that differ from place to place and do not compress.
pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// Says what is not tested on this machine; where all must be (`CI` is set), it fails.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "nothing may be skipped here: {why}"
    );
    println!("SKIPPED: {why}");
}

/// A small file system of its own, unmounted in the end.
pub struct SmallDisk {
    path: PathBuf,
    _dir: Workdir,
}

impl SmallDisk {
    /// One of `size` bytes; `None`, with the reason printed, where mounting is not allowed. Where all
    /// must be shown (`CI` is set) that is a failure.
    pub fn mount(size: &str) -> Option<Self> {
        let dir = Workdir::new().expect("a folder");
        let path = dir.join("disk");
        std::fs::create_dir(&path).expect("a folder");
        let options = format!("size={size}");
        let mounted = run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs"], &path);
        if let Err(why) = mounted {
            skip(&format!("a small disk needs the right to mount one: {why}"));
            return None;
        }
        Some(Self { path, _dir: dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn make_read_only(&self) {
        run(&["mount", "-o", "remount,ro"], &self.path).expect("remounted");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(why) = run(&["umount", "-l"], &self.path) {
            eprintln!("{} stays mounted: {why}", self.path.display());
        }
    }
}

fn run(command: &[&str], path: &Path) -> Result<(), String> {
    let (program, arguments) = command.split_first().expect("a command");
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
