//! The index: in which pack, and where in it, every blob lies.
//!
//! Kept sorted in memory at 48 bytes a blob. It is read anew for every run; what another index of
//! the same repository already holds is not fetched a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::RepositoryError;
use super::id::ObjectId;
use super::inner::Inner;
use super::pack::{BlobKind, PackedBlob};

/// Index files fetched at once.
const FETCHES: usize = 8;
/// How often the index is listed before a file that is listed and not there is damage.
const TRIES: usize = 4;

/// One index file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct IndexFile {
    #[serde(default)]
    pub(super) packs: Vec<IndexedPack>,
    /// Packs that a prune marked: nobody may count on them any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) packs_to_delete: Vec<IndexedPack>,
}

/// One pack in an index file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct IndexedPack {
    pub(super) id: ObjectId,
    #[serde(default)]
    pub(super) blobs: Vec<PackedBlob>,
    /// When it was indexed or marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) time: Option<jiff::Timestamp>,
    /// Its size, where it cannot be told from the blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u32>,
}

/// Where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: ObjectId,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) raw_length: Option<u32>,
    /// Where the blobs of the pack end and its header begins.
    pub(super) pack_end: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: ObjectId,
    pack: u32,
    offset: u32,
    length: u32,
    /// Plain length of a compressed blob; 0 for one that is not compressed.
    raw_length: u32,
}

/// The index of a repository at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Index {
    /// The index files it was read from.
    files: BTreeSet<ObjectId>,
    /// Packs, and where their blobs end.
    packs: Vec<(ObjectId, u32)>,
    data: Vec<Entry>,
    trees: Vec<Entry>,
    stored_bytes: u64,
}

impl Index {
    /// Reads the index of a repository as it is now.
    pub(super) async fn load(inner: &Inner) -> Result<Arc<Self>, RepositoryError> {
        let mut shared = inner.index.lock().await;
        let mut read = BTreeMap::new();
        let mut tries = 1;
        let (known, files) = loop {
            let files: BTreeSet<_> = inner
                .list_ids("index")
                .await?
                .into_iter()
                .map(|(id, _)| id)
                .collect();
            let known = match shared.upgrade() {
                Some(known) if known.files == files => return Ok(known),
                // Files that went away took their packs with them or into others: begin anew.
                Some(known) if known.files.is_subset(&files) => known,
                _ => Arc::default(),
            };
            read.retain(|id, _| files.contains(id));
            match fetch(inner, files.difference(&known.files), &mut read).await? {
                None => break (known, files),
                // Where we may only read there is no lock, and a prune beside us puts other files
                // in the place of those that were listed.
                Some(gone) if tries == TRIES => {
                    return Err(inner.damaged(format!("index/{gone} is missing")));
                }
                Some(_) => tries += 1,
            }
        };
        let mut index = Self::clone(&known);
        for id in files.difference(&known.files) {
            for pack in read.remove(id).into_iter().flat_map(|file| file.packs) {
                index.add(&pack);
            }
        }
        index.files = files;
        index.sort();
        let index = Arc::new(index);
        *shared = Arc::downgrade(&index);
        Ok(index)
    }

    /// The index of these packs.
    pub(super) fn of<'a>(packs: impl IntoIterator<Item = &'a IndexedPack>) -> Self {
        let mut index = Self::default();
        for pack in packs {
            index.add(pack);
        }
        index.sort();
        index
    }

    fn sort(&mut self) {
        self.data.sort_unstable_by_key(|entry| entry.id);
        self.trees.sort_unstable_by_key(|entry| entry.id);
    }

    fn add(&mut self, pack: &IndexedPack) {
        // More than 2^32 packs would be 64 PiB; blobs of such a pack are not found, and reported.
        let Ok(number) = u32::try_from(self.packs.len()) else {
            return;
        };
        let end = pack
            .blobs
            .iter()
            .map(|blob| blob.offset.saturating_add(blob.length))
            .max();
        self.packs.push((pack.id, end.unwrap_or(0)));
        for blob in &pack.blobs {
            self.stored_bytes += u64::from(blob.length);
            let entry = Entry {
                id: blob.id,
                pack: number,
                offset: blob.offset,
                length: blob.length,
                raw_length: blob.raw_length.unwrap_or(0),
            };
            match blob.kind {
                BlobKind::Data => self.data.push(entry),
                BlobKind::Tree => self.trees.push(entry),
            }
        }
    }

    /// Where the blob lies, or `None` when no pack that counts holds it.
    pub(super) fn get(&self, kind: BlobKind, id: &ObjectId) -> Option<Location> {
        let entries = self.entries(kind);
        let entry = entries.get(entries.binary_search_by_key(id, |entry| entry.id).ok()?)?;
        let (pack, pack_end) = *self.packs.get(entry.pack as usize)?;
        Some(Location {
            pack,
            offset: entry.offset,
            length: entry.length,
            raw_length: (entry.raw_length > 0).then_some(entry.raw_length),
            pack_end,
        })
    }

    /// Whether the blob is there.
    pub(super) fn has(&self, kind: BlobKind, id: &ObjectId) -> bool {
        self.entries(kind)
            .binary_search_by_key(id, |entry| entry.id)
            .is_ok()
    }

    fn entries(&self, kind: BlobKind) -> &[Entry] {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    /// Bytes of all blobs as they are stored.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }
}

/// Reads the index files that are not read yet; one that is gone, if any is.
async fn fetch<'a>(
    inner: &Inner,
    wanted: impl Iterator<Item = &'a ObjectId>,
    read: &mut BTreeMap<ObjectId, IndexFile>,
) -> Result<Option<ObjectId>, RepositoryError> {
    let fresh: Vec<_> = wanted
        .filter(|id| !read.contains_key(id))
        .copied()
        .collect();
    let mut fetched = futures::stream::iter(fresh)
        .map(|id| async move {
            let file = inner.find_json(&format!("index/{id}")).await?;
            Ok::<_, RepositoryError>((id, file))
        })
        .buffer_unordered(FETCHES);
    let mut gone = None;
    while let Some((id, file)) = fetched.try_next().await? {
        match file {
            Some(file) => drop(read.insert(id, file)),
            None => gone = Some(id),
        }
    }
    Ok(gone)
}

impl Location {
    /// The plain length of the blob.
    pub(super) fn plain_length(&self) -> u64 {
        self.raw_length.map_or_else(
            || u64::from(self.length).saturating_sub(super::cipher::OVERHEAD as u64),
            u64::from,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::StorageErrorKind;
    use crate::support::memory::{Call, Memory};
    use crate::support::repository;

    /// A reader that may take no lock works beside a prune.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_file_that_is_replaced_while_it_is_read_is_no_damage() {
        let storage = Memory::new();
        let repository = repository(Arc::<Memory>::clone(&storage)).await;
        let inner = &repository.inner;
        let pack = |number: u8| IndexedPack {
            id: ObjectId::of(&[number]),
            blobs: vec![PackedBlob {
                id: ObjectId::of(&[number, number]),
                kind: BlobKind::Data,
                offset: 0,
                length: 100,
                raw_length: None,
            }],
            time: None,
            size: None,
        };
        let encode = |numbers: &[u8]| {
            let file = IndexFile {
                packs: numbers.iter().map(|number| pack(*number)).collect(),
                packs_to_delete: Vec::new(),
            };
            let (id, sealed) = inner.encode_json("an index", &file).unwrap();
            (format!("index/{id}"), sealed)
        };
        let (old, sealed) = encode(&[1]);
        storage.put(&old, sealed);
        let (new, sealed) = encode(&[1, 2]);
        let prune = Arc::clone(&storage);
        let gone = old.clone();
        storage.fail_when(move |call, path| {
            if call == Call::Read && path == gone {
                prune.delete(&gone);
                prune.put(&new, sealed.clone());
            }
            None
        });
        let index = Index::load(inner).await.unwrap();
        for number in [1, 2] {
            assert!(index.has(BlobKind::Data, &ObjectId::of(&[number, number])));
        }
        storage.heal();

        // What stays listed and is never there is damage, and not waited for without end.
        let (lost, sealed) = encode(&[3]);
        storage.put(&lost, sealed);
        let hidden = lost.clone();
        storage.fail_when(move |call, path| {
            (call == Call::Read && path == hidden).then_some(StorageErrorKind::NotFound)
        });
        let damaged = Index::load(inner).await;
        assert!(
            matches!(damaged, Err(RepositoryError::Damaged { .. })),
            "{damaged:?}"
        );
    }

    #[test]
    fn what_is_indexed_is_found_by_kind_and_id() {
        let blob = |kind, text: &[u8], offset| PackedBlob {
            id: ObjectId::of(text),
            kind,
            offset,
            length: 100,
            raw_length: (offset > 0).then_some(500),
        };
        let pack = IndexedPack {
            id: ObjectId::of(b"pack"),
            blobs: vec![
                blob(BlobKind::Data, b"a", 0),
                blob(BlobKind::Data, b"b", 100),
                blob(BlobKind::Tree, b"a", 200),
            ],
            time: None,
            size: None,
        };
        let index = Index::of([&pack]);
        let found = index.get(BlobKind::Data, &ObjectId::of(b"b")).unwrap();
        assert_eq!(
            (found.pack, found.offset, found.pack_end),
            (pack.id, 100, 300)
        );
        assert_eq!(found.plain_length(), 500);
        assert_eq!(
            index
                .get(BlobKind::Data, &ObjectId::of(b"a"))
                .unwrap()
                .plain_length(),
            68
        );
        assert!(index.has(BlobKind::Tree, &ObjectId::of(b"a")));
        assert!(!index.has(BlobKind::Tree, &ObjectId::of(b"b")));
        assert_eq!(index.stored_bytes(), 300);
    }

    #[test]
    fn index_files_of_restic_and_of_rustic_are_understood() {
        let id = ObjectId::of(b"p");
        let json = format!(
            r#"{{"supersedes":["{id}"],"packs":[{{"id":"{id}","blobs":[
                {{"id":"{id}","type":"data","offset":0,"length":50}},
                {{"id":"{id}","type":"tree","offset":50,"length":60,"uncompressed_length":90}}]}}],
              "packs_to_delete":[{{"id":"{id}","blobs":[],"time":"2026-01-02T03:04:05.6+02:00","size":9}}]}}"#
        );
        let file: IndexFile = serde_json::from_str(&json).unwrap();
        assert_eq!(file.packs[0].blobs[1].raw_length, Some(90));
        assert_eq!(file.packs_to_delete[0].size, Some(9));
        assert!(file.packs_to_delete[0].time.is_some());
    }
}
