//! Copying snapshots to another repository.
//!
//! The library's copy passes over what it does not find in the source; ours fails. Snapshot files
//! come last, after everything they need.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rustic_core::repofile::SnapshotFile;
use tokio_util::sync::CancellationToken;

use super::id::{ObjectId, from_rustic};
use super::index::Index;
use super::inner::Inner;
use super::lock::Lock;
use super::pack::BlobKind;
use super::packer::Packer;
use super::reader::Reader;
use super::snapshot::{self, Snapshot};
use super::{RepositoryError, content};
use crate::progress::Progress;

/// A snapshot that is in the other repository now, or was already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its id in the repository copied from.
    pub source_id: String,
    /// Its id in the repository copied to.
    pub id: String,
    /// Whether it was there already.
    pub existed: bool,
}

/// Blobs copied at once.
const AT_ONCE: usize = 8;

/// Copies snapshots from one repository to another.
pub(super) async fn copy(
    from: &Arc<Inner>,
    to: &Arc<Inner>,
    lock_wait: Duration,
    snapshots: &[Snapshot],
    progress: Progress,
    cancel: CancellationToken,
) -> Result<Vec<Copied>, RepositoryError> {
    let work = async {
        let read_lock = content::read_lock(from, lock_wait).await?;
        let write_lock = Lock::take(to, false, lock_wait).await?;
        let copied = copy_locked(from, to, snapshots, &progress, &write_lock).await;
        write_lock.release().await;
        if let Some(lock) = read_lock {
            lock.release().await;
        }
        copied
    };
    cancel
        .run_until_cancelled(work)
        .await
        .ok_or(RepositoryError::Cancelled)?
}

async fn copy_locked(
    from: &Arc<Inner>,
    to: &Arc<Inner>,
    snapshots: &[Snapshot],
    progress: &Progress,
    lock: &Lock,
) -> Result<Vec<Copied>, RepositoryError> {
    let began = jiff::Timestamp::now();
    let there: HashMap<String, String> = snapshot::list(to)
        .await?
        .into_iter()
        .map(|snapshot| (snapshot.identity().to_owned(), snapshot.id))
        .collect();
    let reader = Reader::new(Arc::clone(from), Index::load(from).await?);
    let packer = Packer::new(Arc::clone(to), Index::load(to).await?);
    let mut copied = Vec::new();
    let mut files = Vec::new();
    let mut needed = Needed::default();
    for snapshot in snapshots {
        if let Some(id) = there.get(snapshot.identity()) {
            copied.push(Copied {
                source_id: snapshot.id.clone(),
                id: id.clone(),
                existed: true,
            });
            continue;
        }
        let file = snapshot_to_copy(from, snapshot).await?;
        needed
            .collect(from, &reader, &packer, from_rustic(file.tree.into_inner()))
            .await?;
        files.push((snapshot, file));
    }
    progress.add_total_bytes(needed.bytes);
    progress.set_phase("copying");
    for (kind, ids) in [
        (BlobKind::Data, needed.data),
        (BlobKind::Tree, needed.trees),
    ] {
        // In the order in which they lie in packs, so that each part of a pack is fetched once.
        let mut ids: Vec<_> = ids
            .into_iter()
            .map(|id| {
                let location = reader.locate(kind, &id)?;
                Ok((location.pack, location.offset, id, location.plain_length()))
            })
            .collect::<Result<_, RepositoryError>>()?;
        ids.sort_unstable();
        futures::stream::iter(ids.into_iter().map(Ok::<_, RepositoryError>))
            .try_for_each_concurrent(AT_ONCE, |(_, _, id, length)| {
                let (reader, packer) = (&reader, &packer);
                async move {
                    lock.confirm_fresh()?;
                    let plain = reader.blob(kind, &id).await?;
                    packer.add_named(kind, id, plain).await?;
                    progress.add_bytes(length);
                    Ok(())
                }
            })
            .await?;
    }
    packer.flush().await?;
    super::writer::in_time(to, began)?;
    lock.confirm().await?;
    for (snapshot, file) in files {
        let id = to.write_json("snapshots", &file).await?;
        copied.push(Copied {
            source_id: snapshot.id.clone(),
            id: id.to_string(),
            existed: false,
        });
        progress.add_items(1);
    }
    Ok(copied)
}

/// The file of the copy: the same snapshot, which says what it is a copy of.
async fn snapshot_to_copy(
    from: &Inner,
    snapshot: &Snapshot,
) -> Result<SnapshotFile, RepositoryError> {
    let parse = |id: &str| {
        id.parse::<ObjectId>()
            .map_err(|_| RepositoryError::UnknownSnapshot {
                location: from.location.clone(),
                id: id.to_owned(),
            })
    };
    let mut file = snapshot::read_file(from, parse(&snapshot.id)?).await?;
    file.original = Some(parse(snapshot.identity())?.to_rustic().into());
    // Its parents have other ids there, if they are there at all.
    file.parent = None;
    file.parents = Vec::new();
    Ok(file)
}

/// What the other repository lacks.
#[derive(Default)]
struct Needed {
    seen: BTreeSet<ObjectId>,
    trees: BTreeSet<ObjectId>,
    data: BTreeSet<ObjectId>,
    bytes: u64,
}

impl Needed {
    /// Follows the tree of a snapshot, all of it: a directory that is there already proves nothing
    /// about what it names.
    async fn collect(
        &mut self,
        from: &Inner,
        reader: &Reader,
        packer: &Packer,
        root: ObjectId,
    ) -> Result<(), RepositoryError> {
        let mut level = vec![root];
        while !level.is_empty() {
            level.retain(|id| self.seen.insert(*id));
            let trees: Vec<_> = futures::stream::iter(std::mem::take(&mut level))
                .map(|id| async move { Ok::<_, RepositoryError>((id, reader.tree(&id).await?)) })
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            for (id, tree) in trees {
                self.need(reader, packer, BlobKind::Tree, id)?;
                for node in &tree.nodes {
                    for blob in node.content.iter().flatten() {
                        let blob = from_rustic(blob.into_inner());
                        self.need(reader, packer, BlobKind::Data, blob)?;
                    }
                    match node.subtree {
                        Some(subtree) => level.push(from_rustic(subtree.into_inner())),
                        None if node.is_dir() => {
                            return Err(from.damaged(format!(
                                "directory {} of tree {id} says nothing of its content",
                                node.name
                            )));
                        }
                        None => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn need(
        &mut self,
        reader: &Reader,
        packer: &Packer,
        kind: BlobKind,
        id: ObjectId,
    ) -> Result<(), RepositoryError> {
        let ids = match kind {
            BlobKind::Data => &mut self.data,
            BlobKind::Tree => &mut self.trees,
        };
        if !packer.has(kind, &id) && ids.insert(id) {
            self.bytes += reader.locate(kind, &id)?.plain_length();
        }
        Ok(())
    }
}
