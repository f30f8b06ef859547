//! Repositories with many snapshots. The binary takes a lock and a process for each, so these are
//! written with the engine itself: real snapshots, with the tags, facts and manifests of real runs.

use std::path::Path;

use anyhow::{Context, Result};
use futures::stream::{StreamExt, TryStreamExt};
use holdfast_engine::destination::{self, LocalConfig, StorageConfig};
use holdfast_engine::manifest::{FilesManifest, MANIFEST_VERSION, Manifest, SourceManifest};
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CommitRequest, InitOptions, NewSnapshot, Repository, SnapshotFacts,
};
use holdfast_engine::source::ComposedFile;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::holdfast::REPOSITORY_PASSWORD;

/// How many are written side by side: each lock waits a fifth of a second for others to show.
const SIDE_BY_SIDE: usize = 16;

/// Makes a repository in a folder, with `backups` snapshots of each policy (`namespace/name`), one
/// an hour, the newest made just now.
pub async fn write(folder: &Path, policies: &[String], backups: u32) -> Result<()> {
    let config = StorageConfig::Local(LocalConfig {
        path: folder.to_owned(),
    });
    let storage = destination::connect(&config).await?;
    let password = REPOSITORY_PASSWORD.into();
    let repository = Repository::init(storage, &password, &InitOptions::default()).await?;
    let now = Timestamp::now();
    let all = policies
        .iter()
        .flat_map(|policy| (0..backups).map(move |age| (policy, age)));
    futures::stream::iter(all)
        .map(|(policy, age)| one(&repository, policy, age, now))
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<Vec<()>>()
        .await
        .with_context(|| format!("writing snapshots into {}", folder.display()))?;
    Ok(())
}

async fn one(repository: &Repository, policy: &str, age: u32, now: Timestamp) -> Result<()> {
    let time = now.checked_sub(SignedDuration::from_hours(i64::from(age)))?;
    let new = NewSnapshot {
        policy: policy.to_owned(),
        tags: Vec::new(),
        time,
    };
    let writer = repository
        .begin(new, Progress::new(), CancellationToken::new())
        .await?;
    let content = format!("{policy} as it was {age} hours ago\n");
    let bytes = u64::try_from(content.len())?;
    let segment = writer.stage().put(content.into_bytes().into()).await?;
    let files: FilesManifest = serde_json::from_value(serde_json::json!({
        "paths": ["/srv"], "files": 1, "directories": 1, "bytes": bytes,
    }))?;
    writer
        .commit(CommitRequest {
            files: vec![ComposedFile {
                path: "/srv/file".to_owned(),
                parts: vec![segment],
            }],
            grafts: Vec::new(),
            manifest: Manifest {
                version: MANIFEST_VERSION,
                holdfast_version: env!("CARGO_PKG_VERSION").to_owned(),
                policy: policy.to_owned(),
                start_time: time,
                completion_time: time,
                source: SourceManifest::Files(files),
            },
            facts: SnapshotFacts {
                source: "files".to_owned(),
                files: Some(1),
                size: bytes,
                ..SnapshotFacts::default()
            },
        })
        .await?;
    Ok(())
}
