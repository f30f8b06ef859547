//! Makes one backup of a policy at one destination.

use holdfast_engine::manifest::{MANIFEST_VERSION, Manifest, SourceManifest};
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CommitRequest, NewSnapshot, Repository, Snapshot, SnapshotFacts, SnapshotWriter,
};
use holdfast_engine::source::files::{self, FilesConfig};
use holdfast_engine::source::mongodb::{self, MongodbConfig, ReadOptions};
use tokio_util::sync::CancellationToken;

use crate::host::Name;
use crate::run::RunError;

/// What is read, its secrets resolved.
#[derive(Debug, Clone)]
pub enum DereferencedSource {
    /// A MongoDB deployment.
    Mongodb(MongodbConfig),
    /// Directories of this machine.
    Files(FilesConfig),
}

/// One backup to be made.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The policy.
    pub policy: Name,
    /// The user's tags: those of the policy and of the Backup that asks for it.
    pub tags: Vec<String>,
    /// What is read.
    pub source: DereferencedSource,
    /// What all attempts at this run have in common; see [`SnapshotFacts::run`].
    pub run: Option<String>,
}

/// Reads the source and writes one snapshot of it.
///
/// # Errors
/// When anything of the source could not be read or anything could not be stored: then there is no
/// snapshot.
pub async fn backup(
    repository: &Repository,
    request: &BackupRequest,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Snapshot, RunError> {
    let start_time = jiff::Timestamp::now();
    progress.set_phase("opening the repository");
    // A run that was killed leaves its lock, which would keep other tools out until it is half an
    // hour old.
    let stale = repository.break_stale_locks().await?;
    if stale > 0 {
        tracing::warn!(
            stale,
            location = repository.location(),
            "Locks of runs that are gone were removed."
        );
    }
    let writer = repository
        .begin(
            NewSnapshot {
                policy: request.policy.to_string(),
                tags: request.tags.clone(),
                time: start_time,
            },
            progress.clone(),
            cancel.clone(),
        )
        .await?;

    let read = read_source(repository, &writer, request, progress, cancel).await;
    let (files, grafts, source, mut facts) = match read {
        Ok(read) => read,
        Err(error) => {
            writer.abandon().await;
            return Err(if cancel.is_cancelled() {
                RunError::Cancelled
            } else {
                error
            });
        }
    };
    progress.set_phase("writing the snapshot");
    facts.run.clone_from(&request.run);
    for note in &facts.notes {
        tracing::info!(policy = %request.policy, note, "Of a backup it is noted:");
    }
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        holdfast_version: env!("CARGO_PKG_VERSION").to_owned(),
        policy: request.policy.to_string(),
        start_time,
        completion_time: jiff::Timestamp::now(),
        source,
    };
    Ok(writer
        .commit(CommitRequest {
            files,
            grafts,
            manifest,
            facts,
        })
        .await?)
}

type ReadSource = (
    Vec<holdfast_engine::source::ComposedFile>,
    Vec<holdfast_engine::repository::Graft>,
    SourceManifest,
    SnapshotFacts,
);

async fn read_source(
    repository: &Repository,
    writer: &SnapshotWriter,
    request: &BackupRequest,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<ReadSource, RunError> {
    match &request.source {
        DereferencedSource::Mongodb(config) => {
            let read = mongodb::read(
                config,
                writer.stage(),
                ReadOptions::default(),
                progress.clone(),
                cancel.clone(),
            )
            .await
            .map_err(|error| RunError::source(&error))?;
            let staged = writer.finish_stage().await?;
            let (files, manifest) = read.finish(|number| {
                staged
                    .segment(number)
                    .map(|segment| segment.blobs.clone())
                    .unwrap_or_default()
            });
            let facts = SnapshotFacts {
                source: "mongodb".to_owned(),
                documents: Some(manifest.collections.iter().map(|one| one.documents).sum()),
                point_in_time: Some(manifest.point_in_time),
                cluster_time: manifest.cluster_time,
                size: manifest.collections.iter().map(|one| one.bytes).sum(),
                ..SnapshotFacts::default()
            }
            .with_notes(&manifest.notes);
            Ok((files, Vec::new(), SourceManifest::Mongodb(manifest), facts))
        }
        DereferencedSource::Files(config) => {
            let parents = parents(repository, &request.policy).await?;
            let read = files::read_files(writer, config, &parents, progress, cancel)
                .await
                .map_err(|error| RunError::source(&error))?;
            Ok((
                Vec::new(),
                vec![read.graft],
                SourceManifest::Files(read.manifest),
                read.facts,
            ))
        }
    }
}

/// The snapshot that an earlier attempt at the same run has made, if one got so far.
///
/// # Errors
/// When the repository cannot be listed.
pub async fn made_before(
    repository: &Repository,
    policy: &Name,
    run: &str,
) -> Result<Option<Snapshot>, RunError> {
    let policy = policy.to_string();
    Ok(repository.snapshots().await?.into_iter().find(|snapshot| {
        let of_run = snapshot
            .facts
            .as_ref()
            .is_some_and(|facts| facts.run.as_deref() == Some(run));
        of_run && !snapshot.foreign && snapshot.policy.as_deref() == Some(policy.as_str())
    }))
}

/// The newest snapshot of the policy: what did not change since then is not read again.
async fn parents(repository: &Repository, policy: &Name) -> Result<Vec<Snapshot>, RunError> {
    let policy = policy.to_string();
    let newest = repository
        .snapshots()
        .await?
        .into_iter()
        .filter(|snapshot| snapshot.policy.as_deref() == Some(policy.as_str()))
        .max_by_key(|snapshot| snapshot.time);
    Ok(newest.into_iter().collect())
}
