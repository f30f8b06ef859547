//! Reading blobs: windows of packs are fetched and kept for a while, so that neighbouring blobs
//! cost one request, and every blob is verified against its id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use rustic_core::repofile::Tree;
use tokio::sync::OnceCell;

use super::RepositoryError;
use super::id::ObjectId;
use super::index::{Index, Location};
use super::inner::{Inner, locked};
use super::pack::{BlobKind, FinishedPack};
use crate::destination::StorageErrorKind;

/// The part of a pack that is fetched at once. Whole packs would cost too much where a reader
/// needs few of their blobs, single blobs too many requests.
const WINDOW: u32 = 2 * 1024 * 1024;
/// Windows kept: 96 MiB, enough for dozens of files that are read side by side.
const WINDOWS: usize = 48;
/// Directories kept.
const TREES: usize = 64;

type Window = Arc<OnceCell<Bytes>>;

/// Reads blobs.
#[derive(Debug)]
pub(super) struct Reader {
    inner: Arc<Inner>,
    index: Arc<Index>,
    windows: Mutex<Recent<(ObjectId, u32), Window>>,
    trees: Mutex<Recent<ObjectId, Arc<Tree>>>,
}

/// A map that keeps what was used last.
#[derive(Debug)]
struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    clock: u64,
    limit: usize,
}

impl<K: Copy + Eq + std::hash::Hash, V: Clone> Recent<K, V> {
    fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            clock: 0,
            limit,
        }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(value.clone())
    }

    fn insert(&mut self, key: K, value: V) {
        self.clock += 1;
        if self.entries.len() >= self.limit
            && let Some(oldest) = self
                .entries
                .iter()
                .min_by_key(|(_, (used, _))| *used)
                .map(|(key, _)| *key)
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert(key, (self.clock, value));
    }

    fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

impl Reader {
    pub(super) fn new(inner: Arc<Inner>, index: Arc<Index>) -> Self {
        Self {
            inner,
            index,
            windows: Mutex::new(Recent::new(WINDOWS)),
            trees: Mutex::new(Recent::new(TREES)),
        }
    }

    /// The index it reads by.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Where the blob lies.
    pub(super) fn locate(
        &self,
        kind: BlobKind,
        id: &ObjectId,
    ) -> Result<Location, RepositoryError> {
        self.index.get(kind, id).ok_or_else(|| {
            self.inner
                .damaged(format!("{} {id} is in no pack", name(kind)))
        })
    }

    /// The plain bytes of a blob.
    pub(super) async fn blob(
        &self,
        kind: BlobKind,
        id: &ObjectId,
    ) -> Result<Bytes, RepositoryError> {
        let location = self.locate(kind, id)?;
        let sealed = self.sealed(&location).await?;
        let inner = Arc::clone(&self.inner);
        let id = *id;
        self.inner
            .blocking("decrypt a blob", move || {
                let plain = inner
                    .cipher
                    .open_blob(&sealed, location.raw_length)
                    .map_err(|error| {
                        inner.damaged(format!(
                            "{} {id} in pack {} cannot be read: {error}",
                            name(kind),
                            location.pack
                        ))
                    })?;
                if ObjectId::of(&plain) != id {
                    return Err(inner.damaged(format!(
                        "{} {id} in pack {} does not match its id",
                        name(kind),
                        location.pack
                    )));
                }
                Ok(plain.into())
            })
            .await
    }

    /// The bytes of a blob as they lie in its pack.
    async fn sealed(&self, location: &Location) -> Result<Bytes, RepositoryError> {
        let start = location.offset;
        let end = start.saturating_add(location.length);
        let first = start / WINDOW;
        let last = end.saturating_sub(1).max(start) / WINDOW;
        let mut parts = Vec::new();
        for number in first..=last {
            let base = number * WINDOW;
            let limit = base.saturating_add(WINDOW).min(location.pack_end);
            let window = self.window(&location.pack, number, base, limit).await?;
            let from = start.max(base) - base;
            let to = end.min(limit).saturating_sub(base);
            if from > to || to as usize > window.len() {
                return Err(self.inner.damaged(format!(
                    "the index says that a blob ends at byte {end} of pack {}, which is shorter",
                    location.pack
                )));
            }
            parts.push(window.slice(from as usize..to as usize));
        }
        if let [part] = &mut parts[..] {
            return Ok(std::mem::take(part));
        }
        let mut whole = BytesMut::with_capacity(location.length as usize);
        for part in &parts {
            whole.extend_from_slice(part);
        }
        Ok(whole.freeze())
    }

    async fn window(
        &self,
        pack: &ObjectId,
        number: u32,
        base: u32,
        limit: u32,
    ) -> Result<Bytes, RepositoryError> {
        let key = (*pack, number);
        let cell = {
            let mut windows = locked(&self.windows);
            windows.get(&key).unwrap_or_else(|| {
                let cell = Window::default();
                windows.insert(key, Arc::clone(&cell));
                cell
            })
        };
        let fetched = cell
            .get_or_try_init(|| async {
                let path = FinishedPack::path(pack);
                let length = u64::from(limit.saturating_sub(base));
                self.inner
                    .storage
                    .read_range(&path, base.into(), length)
                    .await
            })
            .await;
        match fetched {
            Ok(bytes) => Ok(bytes.clone()),
            Err(error) => {
                locked(&self.windows).remove(&key);
                Err(if error.kind == StorageErrorKind::NotFound {
                    self.inner.damaged(format!("pack {pack} is missing"))
                } else {
                    error.into()
                })
            }
        }
    }

    /// A directory.
    pub(super) async fn tree(&self, id: &ObjectId) -> Result<Arc<Tree>, RepositoryError> {
        if let Some(tree) = locked(&self.trees).get(id) {
            return Ok(tree);
        }
        let plain = self.blob(BlobKind::Tree, id).await?;
        let tree: Tree = serde_json::from_slice(&plain).map_err(|error| {
            self.inner
                .damaged(format!("directory {id} cannot be understood: {error}"))
        })?;
        let tree = Arc::new(tree);
        locked(&self.trees).insert(*id, Arc::clone(&tree));
        Ok(tree)
    }
}

/// The word for a kind of blob in messages.
pub(super) fn name(kind: BlobKind) -> &'static str {
    match kind {
        BlobKind::Data => "data",
        BlobKind::Tree => "directory",
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;

    #[test]
    fn what_was_used_last_is_kept() {
        let mut recent = Recent::new(2);
        recent.insert(1, "a");
        recent.insert(2, "b");
        assert_eq!(recent.get(&1), Some("a"));
        recent.insert(3, "c");
        assert_eq!(recent.get(&2), None);
        assert_eq!(recent.get(&1), Some("a"));
        assert_eq!(recent.get(&3), Some("c"));
    }
}
