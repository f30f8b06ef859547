//! Writing one snapshot: staging segments, composing the trees, and the snapshot file last.

use std::sync::Arc;

use crate::manifest::Manifest;
use crate::repository::{RepositoryError, Snapshot, SnapshotFacts};
use crate::source::{BlobId, ComposedFile, SegmentNumber, Stage};

/// The size that a source cuts its segments to. A segment of at most this size is one blob.
pub const SEGMENT_TARGET: usize = 1024 * 1024;

/// What is known of a snapshot before it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// `<namespace>/<policy>`: becomes the snapshot's host and its policy tag.
    pub policy: String,
    /// The user's own tags.
    pub tags: Vec<String>,
    /// The moment it stands for.
    pub time: jiff::Timestamp,
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
        usize::try_from(number.0).ok().and_then(|index| self.0.get(index))
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
    pub(super) tree: [u8; 32],
    /// Regular files and other entries in it, directories not counted.
    pub files: u64,
    /// Directories in it.
    pub directories: u64,
    /// Bytes of the regular files in it.
    pub bytes: u64,
}

/// A tree to be shown in the snapshot as a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graft {
    /// The absolute path of the directory in the snapshot, with `/`: `/files`.
    pub path: String,
    /// What it shows.
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

/// Writes one snapshot. Dropped before [`SnapshotWriter::commit`], it leaves no snapshot.
#[derive(Debug)]
pub struct SnapshotWriter {
    _private: (),
}

impl SnapshotWriter {
    /// Where a source puts its segments; every call gives a handle on the same stage.
    #[must_use]
    pub fn stage(&self) -> Arc<dyn Stage> {
        Arc::new(Unbuilt)
    }

    /// Waits until everything staged so far is taken in, and says what it became. More may be
    /// staged afterwards.
    ///
    /// # Errors
    /// The first failure of the stage or of an upload; the run has failed.
    pub async fn finish_stage(&self) -> Result<Staged, RepositoryError> {
        Err(super::not_built())
    }

    /// Writes what the snapshot shows, waits until all of it is stored, and writes the snapshot
    /// file last.
    ///
    /// # Errors
    /// When anything could not be stored, a source reported an error, the lock was lost, or the
    /// run was cancelled: there is no snapshot then.
    pub async fn commit(self, request: CommitRequest) -> Result<Snapshot, RepositoryError> {
        let _ = request;
        Err(super::not_built())
    }

    /// Ends without a snapshot and removes the lock.
    pub async fn abandon(self) {}
}

struct Unbuilt;

#[async_trait::async_trait]
impl Stage for Unbuilt {
    async fn put(&self, _segment: bytes::Bytes) -> Result<SegmentNumber, RepositoryError> {
        Err(super::not_built())
    }
}
