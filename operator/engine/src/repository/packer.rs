//! Storing blobs: those that the repository does not have are compressed, encrypted, verified,
//! packed, uploaded in the background and indexed.
//!
//! The library's packer is private, uploads one pack at a time and takes blobs only through its
//! archiver; a segment that we cut ourselves needs neither its chunker nor a tree to hang in.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustic_core::repofile::BlobType;

use super::RepositoryError;
use super::id::ObjectId;
use super::index::{Index, IndexFile, IndexedPack};
use super::inner::{Inner, locked};
use super::pack::{BlobKind, FinishedPack, PackBuilder};
use super::uploads::Uploads;

/// An index file is written when so many blobs wait for one: a run that dies later has not
/// uploaded them in vain, the next finds them.
const INDEX_BLOBS: usize = 20_000;
/// Or when the last was written so long ago.
const INDEX_AGE: Duration = Duration::from_secs(300);

/// What was added to the repository so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Added {
    /// Data blobs.
    pub(super) data_blobs: u64,
    /// Tree blobs.
    pub(super) tree_blobs: u64,
    /// Their plain bytes.
    pub(super) plain_bytes: u64,
    /// Their bytes as stored.
    pub(super) stored_bytes: u64,
}

/// Stores blobs.
#[derive(Debug)]
pub(super) struct Packer {
    inner: Arc<Inner>,
    index: Arc<Index>,
    uploads: Uploads,
    state: Mutex<State>,
    /// Packs that are stored and in no index file yet.
    stored: Arc<Mutex<Stored>>,
    data_target: u32,
    tree_target: u32,
}

#[derive(Debug, Default)]
struct State {
    data: PackBuilder,
    trees: PackBuilder,
    /// Blobs taken by this packer: each is stored once.
    taken: HashSet<(BlobKind, ObjectId)>,
    added: Added,
}

#[derive(Debug)]
struct Stored {
    packs: Vec<IndexedPack>,
    blobs: usize,
    last_index: Instant,
}

impl Packer {
    pub(super) fn new(inner: Arc<Inner>, index: Arc<Index>) -> Self {
        let target = |kind| target_size(inner.config.packsize(kind), index.stored_bytes());
        let (data_target, tree_target) = (target(BlobType::Data), target(BlobType::Tree));
        Self {
            uploads: Uploads::new(Arc::clone(&inner.storage)),
            state: Mutex::default(),
            stored: Arc::new(Mutex::new(Stored {
                packs: Vec::new(),
                blobs: 0,
                last_index: Instant::now(),
            })),
            inner,
            index,
            data_target,
            tree_target,
        }
    }

    /// Stores a blob unless it is there, or taken, already.
    pub(super) async fn add(
        &self,
        kind: BlobKind,
        plain: Bytes,
    ) -> Result<ObjectId, RepositoryError> {
        let inner = Arc::clone(&self.inner);
        let (id, plain) = inner
            .blocking("hash a blob", move || Ok((ObjectId::of(&plain), plain)))
            .await?;
        self.add_named(kind, id, plain).await?;
        Ok(id)
    }

    /// The same for a blob whose id is known to be right.
    pub(super) async fn add_named(
        &self,
        kind: BlobKind,
        id: ObjectId,
        plain: Bytes,
    ) -> Result<(), RepositoryError> {
        if self.index.has(kind, &id) || !locked(&self.state).taken.insert((kind, id)) {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let length = plain.len() as u64;
        let (sealed, raw_length) = inner
            .blocking("encrypt a blob", {
                let inner = Arc::clone(&inner);
                move || {
                    inner
                        .cipher
                        .seal_blob(&plain)
                        .map_err(|error| inner.unsealed(&error))
                }
            })
            .await?;
        let full = {
            let mut state = locked(&self.state);
            state.added.plain_bytes += length;
            state.added.stored_bytes += sealed.len() as u64;
            let (builder, target) = match kind {
                BlobKind::Data => {
                    state.added.data_blobs += 1;
                    (&mut state.data, self.data_target)
                }
                BlobKind::Tree => {
                    state.added.tree_blobs += 1;
                    (&mut state.trees, self.tree_target)
                }
            };
            builder
                .push(kind, id, sealed, raw_length)
                .map_err(|error| inner.unsealed(&error))?;
            builder.is_full(target).then(|| std::mem::take(builder))
        };
        match full {
            Some(builder) => self.store(builder).await,
            None => Ok(()),
        }
    }

    async fn store(&self, builder: PackBuilder) -> Result<(), RepositoryError> {
        let inner = Arc::clone(&self.inner);
        let pack = self
            .inner
            .blocking("complete a pack", move || {
                builder
                    .finish(&inner.cipher)
                    .map_err(|error| inner.unsealed(&error))
            })
            .await?;
        let FinishedPack { id, parts, blobs } = pack;
        let stored = Arc::clone(&self.stored);
        self.uploads
            .submit(FinishedPack::path(&id), parts, move || {
                let mut stored = locked(&stored);
                stored.blobs += blobs.len();
                let time = Some(jiff::Timestamp::now());
                stored.packs.push(IndexedPack {
                    id,
                    blobs,
                    time,
                    size: None,
                });
            })
            .await?;
        let due = {
            let stored = locked(&self.stored);
            stored.blobs >= INDEX_BLOBS
                || (stored.blobs > 0 && stored.last_index.elapsed() >= INDEX_AGE)
        };
        if due {
            self.write_index().await
        } else {
            Ok(())
        }
    }

    /// Writes an index file of the packs that are stored. Those still on their way come into a
    /// later one.
    async fn write_index(&self) -> Result<(), RepositoryError> {
        let packs = {
            let mut stored = locked(&self.stored);
            stored.blobs = 0;
            stored.last_index = Instant::now();
            std::mem::take(&mut stored.packs)
        };
        if packs.is_empty() {
            return Ok(());
        }
        let file = IndexFile {
            packs,
            packs_to_delete: Vec::new(),
        };
        self.inner.write_json("index", &file).await?;
        Ok(())
    }

    /// Waits until everything that was taken is stored and indexed.
    pub(super) async fn flush(&self) -> Result<(), RepositoryError> {
        let (data, trees) = {
            let mut state = locked(&self.state);
            (
                std::mem::take(&mut state.data),
                std::mem::take(&mut state.trees),
            )
        };
        for builder in [data, trees] {
            if !builder.is_empty() {
                self.store(builder).await?;
            }
        }
        self.uploads.barrier().await?;
        self.write_index().await
    }

    /// What was added so far.
    pub(super) fn added(&self) -> Added {
        locked(&self.state).added
    }

    /// Whether the blob is there or taken.
    pub(super) fn has(&self, kind: BlobKind, id: &ObjectId) -> bool {
        self.index.has(kind, id) || locked(&self.state).taken.contains(&(kind, *id))
    }
}

/// The size of packs in a repository of `stored` bytes: it grows with the root, as the library's
/// own packs do, so that a prune finds none of them too small.
fn target_size((size, grow, limit): (u32, u32, u32), stored: u64) -> u32 {
    let grown = stored
        .isqrt()
        .saturating_mul(u64::from(grow))
        .saturating_add(u64::from(size));
    u32::try_from(grown).unwrap_or(u32::MAX).min(limit).max(1)
}

#[cfg(test)]
mod tests {
    use super::target_size;

    #[test]
    fn packs_grow_with_the_root_of_the_repository() {
        const MIB: u32 = 1 << 20;
        assert_eq!(target_size((16 * MIB, 32, 32 * MIB), 0), 16 * MIB);
        assert_eq!(target_size((16 * MIB, 32, 32 * MIB), 1 << 30), 17 * MIB);
        assert_eq!(target_size((16 * MIB, 32, 32 * MIB), u64::MAX), 32 * MIB);
        assert_eq!(target_size((16 * MIB, 0, 32 * MIB), u64::MAX), 16 * MIB);
    }
}
