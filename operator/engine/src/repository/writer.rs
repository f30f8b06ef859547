//! Writing one snapshot: staging segments, composing the trees, and the snapshot file last.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustic_core::repofile::{SnapshotFile, SnapshotSummary};
use tokio_util::sync::CancellationToken;

use super::archive::Archived;
use super::compose::{ComposeError, Directory};
use super::id::ObjectId;
use super::index::Index;
use super::inner::{Inner, locked};
use super::lock::Lock;
use super::pack::BlobKind;
use super::packer::Packer;
use super::reader::Reader;
use super::snapshot::{POLICY_TAG, TAG};
use super::stage::Staging;
use super::{RepositoryError, Snapshot, SnapshotFacts};
use crate::manifest::{MANIFEST_PATH, Manifest};
use crate::progress::Progress;
use crate::source::{BlobId, ComposedFile, SegmentNumber, Stage};

/// The size that a source cuts its segments to. A segment of at most this size is one blob.
pub const SEGMENT_TARGET: usize = 1024 * 1024;

/// A snapshot must be written within this time after the index was read: a pack that it counts on
/// may have been marked just before, and [`super::PruneOptions::keep_delete`] is 23 hours.
const MUST_END_WITHIN: Duration = Duration::from_secs(22 * 60 * 60);

/// What is known of a snapshot before it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// `<namespace>/<policy>`: becomes the snapshot's host and its policy tag.
    pub policy: String,
    /// The user's own tags.
    pub tags: Vec<String>,
    /// The moment it stands for.
    pub time: Timestamp,
}

/// What one segment became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedSegment {
    /// Its blobs, in order: one, unless it is far larger than [`SEGMENT_TARGET`]; none when it is
    /// empty.
    pub blobs: Vec<BlobId>,
    /// Its plain bytes.
    pub bytes: u64,
}

/// What the segments of the stage became.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Staged(pub(super) Vec<StagedSegment>);

impl Staged {
    /// What the segment with this number became.
    #[must_use]
    pub fn segment(&self, number: SegmentNumber) -> Option<&StagedSegment> {
        usize::try_from(number.0)
            .ok()
            .and_then(|index| self.0.get(index))
    }

    /// How many segments were staged so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was staged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The root of a tree that was archived and that no snapshot shows yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedTree {
    /// Its id.
    pub(super) tree: ObjectId,
    /// Regular files and other entries in it, directories not counted.
    pub files: u64,
    /// Directories in it.
    pub directories: u64,
    /// Bytes of the regular files in it.
    pub bytes: u64,
}

/// A tree to be shown in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graft {
    /// The absolute path of the directory that shows the children of the tree's root: `/` or
    /// `/files`.
    pub path: String,
    /// The tree.
    pub tree: StagedTree,
}

/// What the snapshot shall show.
#[derive(Debug, Clone, PartialEq)]
pub struct CommitRequest {
    /// Files composed of segments.
    pub files: Vec<ComposedFile>,
    /// Archived trees.
    pub grafts: Vec<Graft>,
    /// Written as `/holdfast/manifest.json`.
    pub manifest: Manifest,
    /// Kept in the snapshot's description.
    pub facts: SnapshotFacts,
}

/// Writes one snapshot. Dropped before [`SnapshotWriter::commit`], it leaves no snapshot and
/// removes its lock.
pub struct SnapshotWriter {
    pub(super) inner: Arc<Inner>,
    pub(super) lock: Arc<Lock>,
    pub(super) progress: Progress,
    pub(super) cancel: CancellationToken,
    pub(super) archived: Mutex<Archived>,
    pub(super) packer: Arc<Packer>,
    stage: Arc<Staging>,
    new: NewSnapshot,
    began: Timestamp,
}

impl fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotWriter")
            .field("new", &self.new)
            .finish_non_exhaustive()
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        // The stage may outlive the writer in the hands of a source; it takes nothing more. What
        // is on its way still arrives, refers to nothing, and is freed by a prune.
        self.cancel.cancel();
    }
}

impl SnapshotWriter {
    pub(super) async fn begin(
        inner: &Arc<Inner>,
        lock_wait: Duration,
        new: NewSnapshot,
        progress: Progress,
        cancel: CancellationToken,
    ) -> Result<Self, RepositoryError> {
        let cancel = cancel.child_token();
        let began = Timestamp::now();
        let taken = cancel
            .run_until_cancelled(Lock::take(inner, false, lock_wait))
            .await;
        let lock = Arc::new(taken.ok_or(RepositoryError::Cancelled)??);
        let index = Index::load(inner).await?;
        let packer = Arc::new(Packer::new(Arc::clone(inner), index));
        let stage = Arc::new(Staging::new(
            Arc::clone(inner),
            Arc::clone(&packer),
            Arc::downgrade(&lock),
            cancel.clone(),
        ));
        Ok(Self {
            inner: Arc::clone(inner),
            lock,
            progress,
            cancel,
            archived: Mutex::default(),
            packer,
            stage,
            new,
            began,
        })
    }

    /// Where a source puts its segments; every call gives a handle on the same stage.
    #[must_use]
    pub fn stage(&self) -> Arc<dyn Stage> {
        Arc::<Staging>::clone(&self.stage)
    }

    /// Waits until everything staged so far is taken in, and says what it became. More may be
    /// staged afterwards.
    ///
    /// # Errors
    /// The first failure of the stage or of an upload; the run has failed.
    pub async fn finish_stage(&self) -> Result<Staged, RepositoryError> {
        self.stage.finish().await
    }

    /// Writes what the snapshot shows, waits until all of it is stored, and writes the snapshot
    /// file last.
    ///
    /// # Errors
    /// When anything could not be stored, a source reported an error, the lock was lost, or the
    /// run was cancelled: there is no snapshot then.
    pub async fn commit(self, request: CommitRequest) -> Result<Snapshot, RepositoryError> {
        let cancel = self.cancel.clone();
        let committed = match cancel.run_until_cancelled(self.write(request)).await {
            // From here on it is not to be stopped: there is a snapshot, or there is none.
            Some(Ok(file)) => self.publish(&file).await,
            Some(Err(error)) => Err(error),
            None => Err(RepositoryError::Cancelled),
        };
        self.lock.release().await;
        committed
    }

    /// Ends without a snapshot and removes the lock.
    pub async fn abandon(self) {
        self.cancel.cancel();
        self.lock.release().await;
    }

    async fn publish(&self, file: &SnapshotFile) -> Result<Snapshot, RepositoryError> {
        let (id, sealed) = self.inner.encode_json("the snapshot", file)?;
        self.confirm().await?;
        self.inner
            .storage
            .write(&super::snapshot::path(&id), vec![sealed])
            .await?;
        Ok(Snapshot::read(id, file))
    }

    /// Stores everything that the snapshot shows; what its file shall say.
    async fn write(&self, request: CommitRequest) -> Result<SnapshotFile, RepositoryError> {
        let CommitRequest {
            mut files,
            grafts,
            manifest,
            facts,
        } = request;
        self.confirm().await?;
        self.progress.set_phase("writing the snapshot");
        files.push(ComposedFile {
            path: MANIFEST_PATH.to_owned(),
            parts: self.put_manifest(&manifest).await?,
        });
        let staged = self.stage.finish().await?;
        let mut root = Directory::default();
        for file in &files {
            self.show(&mut root, file, &staged)?;
        }
        self.graft(&mut root, &grafts).await?;
        let paths = root
            .names()
            .map(|name| format!("/{name}"))
            .collect::<Vec<_>>();
        let composed = root
            .encode(self.new.time)
            .map_err(|error| self.cannot_compose(&error))?;
        for tree in composed.trees {
            self.packer.add(BlobKind::Tree, tree.into()).await?;
        }
        self.packer.flush().await?;

        let archived = *locked(&self.archived);
        let added = self.packer.added();
        let mut summary = SnapshotSummary::default();
        summary.total_files_processed =
            composed.files + grafts.iter().map(|graft| graft.tree.files).sum::<u64>();
        summary.total_dirs_processed = composed.directories
            + grafts
                .iter()
                .map(|graft| graft.tree.directories)
                .sum::<u64>();
        summary.total_bytes_processed =
            staged.0.iter().map(|segment| segment.bytes).sum::<u64>() + archived.read_bytes;
        summary.data_blobs = added.data_blobs + archived.added.data_blobs;
        summary.tree_blobs = added.tree_blobs + archived.added.tree_blobs;
        summary.data_added = added.plain_bytes + archived.added.plain_bytes;
        summary.data_added_packed = added.stored_bytes + archived.added.stored_bytes;
        let end = Timestamp::now();
        summary.backup_start = self.began.to_zoned(TimeZone::UTC);
        summary.backup_end = end.to_zoned(TimeZone::UTC);
        summary.backup_duration = end.duration_since(self.began).as_secs_f64();
        summary.total_duration = summary.backup_duration;
        let description = serde_json::to_string(&facts)
            .map_err(|error| self.inner.engine("write the snapshot", error))?;
        Ok(self.snapshot_file(composed.root, &paths, description, summary))
    }

    fn snapshot_file(
        &self,
        root: ObjectId,
        paths: &[String],
        description: String,
        summary: SnapshotSummary,
    ) -> SnapshotFile {
        let mut file = SnapshotFile {
            time: self.new.time.to_zoned(TimeZone::UTC),
            program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
            tree: root.to_rustic().into(),
            hostname: self.new.policy.clone(),
            username: super::machine::username(),
            uid: super::machine::uid(),
            gid: super::machine::gid(),
            description: Some(description),
            summary: Some(summary),
            ..SnapshotFile::default()
        };
        for path in paths {
            file.paths.add(path.clone());
        }
        let own = [TAG.to_owned(), format!("{POLICY_TAG}{}", self.new.policy)];
        for tag in own.iter().chain(&self.new.tags) {
            file.tags.add(tag.clone());
        }
        file
    }

    /// Fails when a snapshot written now could refer to what a prune has taken away.
    async fn confirm(&self) -> Result<(), RepositoryError> {
        in_time(&self.inner, self.began)?;
        self.lock.confirm().await
    }

    async fn put_manifest(
        &self,
        manifest: &Manifest,
    ) -> Result<Vec<SegmentNumber>, RepositoryError> {
        let mut json = bytes::Bytes::from(
            serde_json::to_vec_pretty(manifest)
                .map_err(|error| self.inner.engine("write the manifest", error))?,
        );
        let mut parts = Vec::new();
        while !json.is_empty() {
            parts.push(
                self.stage
                    .put(json.split_to(json.len().min(SEGMENT_TARGET)))
                    .await?,
            );
        }
        Ok(parts)
    }

    fn show(
        &self,
        root: &mut Directory,
        file: &ComposedFile,
        staged: &Staged,
    ) -> Result<(), RepositoryError> {
        let mut content = Vec::new();
        let mut size = 0;
        for part in &file.parts {
            let segment = staged.segment(*part).ok_or_else(|| {
                self.inner.engine(
                    format!("compose {}", file.path),
                    format!("there is no segment {}", part.0),
                )
            })?;
            if segment.bytes > 0 && segment.blobs.is_empty() {
                // Stock tools would restore a file of that size, full of nothing.
                return Err(self.inner.engine(
                    format!("compose {}", file.path),
                    format!("segment {} was not stored", part.0),
                ));
            }
            size += segment.bytes;
            content.extend(segment.blobs.iter().map(|blob| ObjectId(blob.0)));
        }
        root.add_file(&file.path, content, size)
            .map_err(|error| self.cannot_compose(&error))
    }

    async fn graft(&self, root: &mut Directory, grafts: &[Graft]) -> Result<(), RepositoryError> {
        if grafts.is_empty() {
            return Ok(());
        }
        // What was archived meanwhile is in index files that came after the first reading.
        let reader = Reader::new(Arc::clone(&self.inner), Index::load(&self.inner).await?);
        for graft in grafts {
            let tree = reader.tree(&graft.tree.tree).await?;
            root.add_archived(&graft.path, &tree)
                .map_err(|error| self.cannot_compose(&error))?;
        }
        Ok(())
    }

    fn cannot_compose(&self, error: &ComposeError) -> RepositoryError {
        self.inner.engine("compose the snapshot's tree", error)
    }
}

/// Fails when what began then counts on packs that a prune may have removed since.
pub(super) fn in_time(inner: &Inner, began: Timestamp) -> Result<(), RepositoryError> {
    let took = Timestamp::now().duration_since(began).unsigned_abs();
    if took <= MUST_END_WITHIN {
        return Ok(());
    }
    Err(RepositoryError::TookTooLong {
        location: inner.location.clone(),
        hours: took.as_secs() / 3600,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::memory::Memory;
    use crate::support::{begin, commit, noise, repository};

    /// Trap: a prune keeps what it marks for 23 hours; a run that began before must have ended.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_longer_than_pruning_keeps_what_it_marks_is_refused() {
        let repository = repository(Memory::new()).await;
        let mut writer = begin(&repository).await;
        writer.began = Timestamp::now() - (MUST_END_WITHIN - Duration::from_secs(60));
        commit(writer, &[("/f", vec![noise(1, 10)])]).await.unwrap();

        let mut writer = begin(&repository).await;
        writer.began = Timestamp::now() - (MUST_END_WITHIN + Duration::from_secs(60));
        let refused = commit(writer, &[("/f", vec![noise(2, 10)])]).await;
        assert!(matches!(
            refused,
            Err(RepositoryError::TookTooLong { hours: 22, .. })
        ));
        assert_eq!(repository.snapshots().await.unwrap().len(), 1);
        let keep_delete = super::super::PruneOptions::default().keep_delete;
        assert!(MUST_END_WITHIN + Duration::from_secs(3600) <= keep_delete);
    }
}
