//! Checking that everything snapshots need is there, and reading it back.
//!
//! The library's own check ends at the first directory that it cannot read, and does not compare
//! declared sizes; ours lists everything that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rand::seq::SliceRandom;
use rustic_core::repofile::{Node, NodeType};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::id::{ObjectId, from_rustic};
use super::index::{Index, IndexFile, IndexedPack};
use super::inner::{Inner, locked};
use super::pack::{BlobKind, FinishedPack, pack_size, read_header};
use super::reader::{Reader, name};
use super::{RepositoryError, content, snapshot};
use crate::class::{Classified, ErrorClass};
use crate::destination::StorageErrorKind;
use crate::progress::Progress;

/// The most parts that the data is divided into: as restic does it, by the first byte of a pack's
/// id. Of more than 256 parts some would be empty, and sound whatever happened to the data.
pub const MAX_PARTS: u32 = 256;

/// How much of the data is read back and compared with its ids.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ReadData {
    /// None: only that it is there, by name and size.
    #[default]
    None,
    /// About so many percent of the bytes, chosen at random.
    Percent(f64),
    /// The `n`th of `of` parts: all of them together are everything.
    Subset {
        /// Which part, from 1.
        n: u32,
        /// Of how many, at most [`MAX_PARTS`].
        of: u32,
    },
    /// Everything.
    All,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CheckOptions {
    /// How much of the data is read back.
    pub read_data: ReadData,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// What is damaged, a sentence each; of very much, the last says how much more it is. Nothing
    /// was changed.
    pub errors: Vec<String>,
    /// What is odd and harmless: left-overs of runs that died.
    pub warnings: Vec<String>,
    /// Snapshots whose trees and blobs were followed.
    pub snapshots: u64,
    /// Packs that the index knows.
    pub packs: u64,
    /// Packs read back.
    pub packs_read: u64,
    /// Bytes read back.
    pub bytes_read: u64,
}

impl CheckReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Packs or directories read at once.
const AT_ONCE: usize = 4;
/// More errors than these say nothing new.
const MAX_ERRORS: usize = 1000;

/// What was found so far, and how many errors more than are kept.
#[derive(Default)]
struct Findings {
    report: CheckReport,
    more: u64,
}

impl Findings {
    fn error(&mut self, what: String) {
        if self.report.errors.len() < MAX_ERRORS {
            self.report.errors.push(what);
        } else {
            self.more += 1;
        }
    }

    fn report(mut self) -> CheckReport {
        if self.more > 0 {
            let more = format!("{} more findings are not listed", self.more);
            self.report.errors.push(more);
        }
        self.report
    }
}

/// A check under way.
struct Check {
    inner: Arc<Inner>,
    reader: Reader,
    findings: Mutex<Findings>,
    progress: Progress,
}

/// Checks a repository.
pub(super) async fn check(
    inner: &Arc<Inner>,
    lock_wait: Duration,
    options: &CheckOptions,
    progress: Progress,
    cancel: &CancellationToken,
) -> Result<CheckReport, RepositoryError> {
    if let ReadData::Subset { n, of } = options.read_data
        && (n == 0 || n > of || of > MAX_PARTS)
    {
        let location = inner.location.clone();
        return Err(RepositoryError::NoSuchPart { location, n, of });
    }
    let lock = cancel
        .run_until_cancelled(content::read_lock(inner, lock_wait))
        .await
        .ok_or(RepositoryError::Cancelled)??;
    let checked = cancel
        .run_until_cancelled(check_locked(inner, options, progress))
        .await
        .unwrap_or(Err(RepositoryError::Cancelled));
    if let Some(lock) = lock {
        lock.release().await;
    }
    checked
}

async fn check_locked(
    inner: &Arc<Inner>,
    options: &CheckOptions,
    progress: Progress,
) -> Result<CheckReport, RepositoryError> {
    let mut findings = Findings::default();
    let packs = check_index(inner, &mut findings).await?;
    // A damaged index file is in the report; what it held is reported where it is missed.
    let index = Index::of(packs.values());
    let check = Check {
        inner: Arc::clone(inner),
        reader: Reader::new(Arc::clone(inner), Arc::new(index)),
        findings: Mutex::new(findings),
        progress,
    };
    check.snapshots().await?;
    check.read_packs(select(options.read_data, packs)).await?;
    Ok(check
        .findings
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .report())
}

/// What went wrong with data is told from what went wrong with the way to it.
fn is_damage(error: &RepositoryError) -> bool {
    error.class() == ErrorClass::Damaged
}

/// Reads every index file, and compares it with the packs that are there.
async fn check_index(
    inner: &Inner,
    findings: &mut Findings,
) -> Result<BTreeMap<ObjectId, IndexedPack>, RepositoryError> {
    let mut packs: BTreeMap<ObjectId, IndexedPack> = BTreeMap::new();
    let mut marked = BTreeSet::new();
    for (id, _) in inner.list_ids("index").await? {
        match inner.read_json::<IndexFile>(&format!("index/{id}")).await {
            Ok(file) => {
                packs.extend(file.packs.into_iter().map(|pack| (pack.id, pack)));
                marked.extend(file.packs_to_delete.iter().map(|pack| pack.id));
            }
            Err(error) if is_damage(&error) => findings.error(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    findings.report.packs = packs.len() as u64;
    let there: BTreeMap<_, _> = inner.list_ids("data").await?.into_iter().collect();
    for (id, pack) in &packs {
        let expected = pack_size(&pack.blobs);
        match there.get(id) {
            None => findings.error(format!("pack {id} is missing")),
            Some(size) if *size != expected => findings.error(format!(
                "pack {id} has {size} bytes, and {expected} by the index"
            )),
            Some(_) => {}
        }
    }
    let unknown = there
        .keys()
        .filter(|id| !packs.contains_key(id) && !marked.contains(id))
        .count();
    if unknown > 0 {
        findings.report.warnings.push(format!(
            "{unknown} packs are in no index, left by runs that died; the next prune frees them"
        ));
    }
    Ok(packs)
}

/// The packs to read.
fn select(read_data: ReadData, packs: BTreeMap<ObjectId, IndexedPack>) -> Vec<IndexedPack> {
    let mut packs: Vec<_> = packs.into_values().collect();
    match read_data {
        ReadData::None => packs.clear(),
        ReadData::All => {}
        ReadData::Subset { n, of } => {
            let of = of.max(1);
            packs.retain(|pack| u32::from(pack.id.0[0]) % of == n.wrapping_sub(1) % of);
        }
        ReadData::Percent(percent) => {
            packs.shuffle(&mut rand::rng());
            let count = (packs.len() as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil();
            packs.truncate(count as usize);
        }
    }
    packs
}

impl Check {
    fn found(&self, what: String) {
        locked(&self.findings).error(what);
    }

    /// Follows every snapshot to its blobs.
    async fn snapshots(&self) -> Result<(), RepositoryError> {
        self.progress.set_phase("checking snapshots");
        let mut level = Vec::new();
        for (id, _) in self.inner.list_ids("snapshots").await? {
            match snapshot::read_file(&self.inner, id).await {
                Ok(file) => {
                    locked(&self.findings).report.snapshots += 1;
                    level.push((
                        from_rustic(file.tree.into_inner()),
                        format!("snapshot {id}"),
                    ));
                }
                Err(error) if is_damage(&error) => self.found(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let mut seen = BTreeSet::new();
        while !level.is_empty() {
            level.retain(|(id, _)| seen.insert(*id));
            let children: Vec<_> = futures::stream::iter(std::mem::take(&mut level))
                .map(|(id, path)| self.directory(id, path))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            level.extend(children.into_iter().flatten());
        }
        Ok(())
    }

    /// Checks what a directory names; its subdirectories.
    async fn directory(
        &self,
        id: ObjectId,
        path: String,
    ) -> Result<Vec<(ObjectId, String)>, RepositoryError> {
        let tree = match self.reader.tree(&id).await {
            Ok(tree) => tree,
            Err(error) if is_damage(&error) => {
                self.found(format!("{path}: {error}"));
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut children = Vec::new();
        for node in &tree.nodes {
            let path = format!("{path}/{}", node.name);
            match (&node.node_type, node.subtree) {
                (NodeType::File, _) => self.file(node, &path),
                (NodeType::Dir, Some(subtree)) => {
                    children.push((from_rustic(subtree.into_inner()), path));
                }
                (NodeType::Dir, None) => self.found(format!("{path} says nothing of its content")),
                _ => {}
            }
        }
        Ok(children)
    }

    fn file(&self, node: &Node, path: &str) {
        let mut size = 0;
        for blob in node.content.iter().flatten() {
            let blob = from_rustic(blob.into_inner());
            match self.reader.index().get(BlobKind::Data, &blob) {
                Some(location) => size += location.plain_length(),
                None => {
                    return self.found(format!("{path} needs data {blob}, which is in no pack"));
                }
            }
        }
        if size != node.meta.size {
            self.found(format!(
                "{path} declares {} bytes and holds {size}",
                node.meta.size
            ));
        }
    }

    /// Reads packs back, whole.
    async fn read_packs(&self, packs: Vec<IndexedPack>) -> Result<(), RepositoryError> {
        self.progress.set_phase("reading data back");
        let total = packs.iter().map(|pack| pack_size(&pack.blobs)).sum();
        self.progress.set_total_bytes(total);
        futures::stream::iter(packs.into_iter().map(Ok::<_, RepositoryError>))
            .try_for_each_concurrent(AT_ONCE, |pack| self.read_pack(pack))
            .await
    }

    async fn read_pack(&self, pack: IndexedPack) -> Result<(), RepositoryError> {
        let bytes = match self.inner.storage.read(&FinishedPack::path(&pack.id)).await {
            Ok(bytes) => bytes,
            // Reported already.
            Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(()),
            Err(error) if error.class() == ErrorClass::Damaged => {
                self.found(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let length = bytes.len() as u64;
        let inner = Arc::clone(&self.inner);
        let wrong = self
            .inner
            .blocking("check a pack", move || Ok(verify(&inner, pack, &bytes)))
            .await?;
        for what in wrong {
            self.found(what);
        }
        let mut findings = locked(&self.findings);
        findings.report.packs_read += 1;
        findings.report.bytes_read += length;
        self.progress.add_bytes(length);
        Ok(())
    }
}

/// What is wrong with the bytes of a pack.
fn verify(inner: &Inner, mut pack: IndexedPack, bytes: &[u8]) -> Vec<String> {
    let id = pack.id;
    let mut wrong = Vec::new();
    if ObjectId::of(bytes) != id {
        wrong.push(format!("pack {id} does not match its name"));
    }
    pack.blobs.sort_by_key(|blob| blob.offset);
    match read_header(&inner.cipher, bytes) {
        Ok(header) if header != pack.blobs => {
            wrong.push(format!("the header of pack {id} and the index disagree"));
        }
        Ok(_) => {}
        Err(error) => wrong.push(format!("the header of pack {id} cannot be read: {error}")),
    }
    for blob in &pack.blobs {
        let kind = name(blob.kind);
        let start = blob.offset as usize;
        let Some(sealed) = bytes.get(start..start.saturating_add(blob.length as usize)) else {
            wrong.push(format!("pack {id} ends before {kind} {}", blob.id));
            continue;
        };
        match inner.cipher.open_blob(sealed, blob.raw_length) {
            Ok(plain) if ObjectId::of(&plain) == blob.id => {}
            Ok(_) => {
                wrong.push(format!(
                    "{kind} {} in pack {id} does not match its id",
                    blob.id
                ));
            }
            Err(error) => {
                wrong.push(format!(
                    "{kind} {} in pack {id} cannot be read: {error}",
                    blob.id
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::memory::Memory;
    use crate::support::repository;

    fn packs(count: u32) -> BTreeMap<ObjectId, IndexedPack> {
        (0..count)
            .map(|number| {
                let id = ObjectId::of(&number.to_le_bytes());
                (
                    id,
                    IndexedPack {
                        id,
                        blobs: Vec::new(),
                        time: None,
                        size: None,
                    },
                )
            })
            .collect()
    }

    /// All of a bucket may be gone: its million packs are told in as many words as can be read.
    #[tokio::test(flavor = "multi_thread")]
    async fn very_many_findings_are_counted_and_not_listed() {
        let storage = Memory::new();
        let repository = repository(Arc::<Memory>::clone(&storage)).await;
        let file = IndexFile {
            packs: packs(3000).into_values().collect(),
            packs_to_delete: Vec::new(),
        };
        repository.inner.write_json("index", &file).await.unwrap();
        let report = crate::support::check(&repository, &CheckOptions::default())
            .await
            .unwrap();
        assert_eq!(report.errors.len(), MAX_ERRORS + 1);
        assert!(report.errors[0].contains("is missing"));
        assert_eq!(
            report.errors.last().unwrap(),
            "2000 more findings are not listed"
        );
    }

    #[test]
    fn all_subsets_together_are_everything_once() {
        let mut seen = BTreeSet::new();
        for n in 1..=7 {
            for pack in select(ReadData::Subset { n, of: 7 }, packs(500)) {
                assert!(seen.insert(pack.id));
            }
        }
        assert_eq!(seen.len(), 500);
    }

    #[test]
    fn a_percentage_is_at_least_one_pack() {
        assert_eq!(select(ReadData::Percent(5.0), packs(500)).len(), 25);
        assert_eq!(select(ReadData::Percent(0.1), packs(3)).len(), 1);
        assert_eq!(select(ReadData::Percent(0.0), packs(3)).len(), 0);
        assert_eq!(select(ReadData::Percent(f64::NAN), packs(3)).len(), 0);
        assert_eq!(select(ReadData::Percent(700.0), packs(3)).len(), 3);
    }
}
