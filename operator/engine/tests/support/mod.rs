//! What the tests of the repository share: a storage in memory, snapshots to write, stock restic.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as the test does"
)]

pub mod memory;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_engine::destination::Storage;
use holdfast_engine::manifest::{FilesManifest, MANIFEST_VERSION, Manifest, SourceManifest};
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CheckOptions, CheckReport, CommitRequest, InitOptions, NewSnapshot, PruneOptions, PruneReport,
    Repository, RepositoryError, Snapshot, SnapshotFacts, SnapshotWriter,
};
use holdfast_engine::source::ComposedFile;
use rand::{RngCore, SeedableRng};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

/// The password of every repository in tests.
pub const PASSWORD: &str = "correct horse";

pub fn password() -> SecretString {
    PASSWORD.into()
}

/// A new repository that does not wait for locks.
pub async fn repository(storage: Arc<dyn Storage>) -> Repository {
    Repository::init(storage, &password(), &InitOptions::default())
        .await
        .unwrap()
        .with_lock_wait(std::time::Duration::ZERO)
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

pub fn new_snapshot() -> NewSnapshot {
    NewSnapshot {
        policy: "default/shop".into(),
        tags: vec!["prod".into()],
        time: jiff::Timestamp::now(),
    }
}

pub async fn begin(repository: &Repository) -> SnapshotWriter {
    repository
        .begin(new_snapshot(), Progress::new(), CancellationToken::new())
        .await
        .unwrap()
}

pub fn request(files: Vec<ComposedFile>) -> CommitRequest {
    let now = jiff::Timestamp::now();
    CommitRequest {
        files,
        grafts: Vec::new(),
        manifest: Manifest {
            version: MANIFEST_VERSION,
            holdfast_version: "0.0.0-test".into(),
            policy: "default/shop".into(),
            start_time: now,
            completion_time: now,
            source: SourceManifest::Files(
                serde_json::from_str::<FilesManifest>(
                    r#"{"paths":["/srv"],"files":1,"directories":0,"bytes":0}"#,
                )
                .unwrap(),
            ),
        },
        facts: SnapshotFacts {
            source: "files".into(),
            size: 7,
            ..SnapshotFacts::default()
        },
    }
}

/// Puts files of segments on the stage, and commits.
pub async fn commit(
    writer: SnapshotWriter,
    files: &[(&str, Vec<Bytes>)],
) -> Result<Snapshot, RepositoryError> {
    let stage = writer.stage();
    let mut composed = Vec::new();
    for (path, segments) in files {
        let mut parts = Vec::new();
        for segment in segments {
            parts.push(stage.put(segment.clone()).await?);
        }
        composed.push(ComposedFile {
            path: (*path).to_owned(),
            parts,
        });
    }
    writer.commit(request(composed)).await
}

/// Writes a snapshot of these files.
pub async fn write(
    repository: &Repository,
    files: &[(&str, Vec<Bytes>)],
) -> Result<Snapshot, RepositoryError> {
    let writer = repository
        .begin(new_snapshot(), Progress::new(), CancellationToken::new())
        .await?;
    commit(writer, files).await
}

/// Every byte of a file in a snapshot.
pub async fn read(repository: &Repository, snapshot: &Snapshot, path: &str) -> Bytes {
    use holdfast_engine::source::NodeKind;
    let content = repository.content(snapshot).await.unwrap();
    let node = content
        .node(path.as_bytes())
        .await
        .unwrap()
        .expect("the file is there");
    let NodeKind::File(blobs) = node.kind else {
        panic!("{path} is no file")
    };
    let mut bytes = Vec::new();
    for blob in blobs {
        bytes.extend_from_slice(&content.blob(&blob).await.unwrap());
    }
    assert_eq!(
        bytes.len() as u64,
        node.size,
        "the declared size of {path} is exact"
    );
    bytes.into()
}

/// Prunes, and is not stopped.
pub async fn prune(
    repository: &Repository,
    options: &PruneOptions,
) -> Result<PruneReport, RepositoryError> {
    repository.prune(options, CancellationToken::new()).await
}

/// Checks, and is not stopped.
pub async fn check(
    repository: &Repository,
    options: &CheckOptions,
) -> Result<CheckReport, RepositoryError> {
    repository
        .check(options, Progress::new(), CancellationToken::new())
        .await
}

/// Waits for the locks of writers and readers that were dropped a moment ago.
pub async fn until_unlocked(repository: &Repository) {
    while !repository.locks().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

/// Runs stock restic on a directory; what it said, and whether it succeeded.
pub fn restic(repository: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("restic")
        .arg("--repo")
        .arg(repository)
        .args(["--no-cache"])
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("restic is installed (Debian package restic)");
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

/// The same when it must succeed.
pub fn restic_ok(repository: &Path, arguments: &[&str]) -> String {
    let (ok, said) = restic(repository, arguments);
    assert!(ok, "restic {arguments:?} said: {said}");
    said
}
