//! Archiving a tree of files through the library: its chunker, its parents, its packs; without its
//! snapshot, and without its habit of passing over what it could not read.

use std::collections::HashMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustic_core::repofile::SnapshotFile;
use rustic_core::{
    BackupOptions, ErrorKind, ParentOptions, ProgressBars, ProgressType, ReadSource,
    ReadSourceEntry, ReadSourceOpen, RusticError, RusticProgress, RusticResult,
};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, View, in_one_line};
use super::id::from_rustic;
use super::inner::{locked, said};
use super::packer::Added;
use super::writer::{SnapshotWriter, StagedTree};
use super::{RepositoryError, Snapshot, library};
use crate::progress::Progress;

/// What archiving did so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Archived {
    pub(super) read_bytes: u64,
    pub(super) added: Added,
}

/// What a file that cannot be read in full means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The run fails.
    Fail,
    /// The file is left out. Whoever makes the source keeps the record of it.
    Skip,
}

impl SnapshotWriter {
    /// Archives the tree that `source` yields, in order of name, and stores it; no snapshot shows
    /// it yet. A file whose type, size and time equal those at the same path in one of `parents`
    /// is not opened. A file that has another size than was announced is stored as it was read, and
    /// shown with that size.
    ///
    /// # Errors
    /// [`RepositoryError::SourceIncomplete`] when anything of the source could not be read in
    /// full (unless that is to be skipped) or was not archived, and what the storage says. The
    /// run has failed then.
    pub(crate) async fn archive_tree<R>(
        &self,
        source: R,
        parents: &[Snapshot],
        unreadable: Unreadable,
    ) -> Result<StagedTree, RepositoryError>
    where
        R: ReadSource + 'static,
        R::Open: Send,
        R::Iter: Send,
    {
        self.lock.confirm_fresh()?;
        let watch = Arc::new(Watch {
            unreadable,
            failures: Mutex::default(),
            named: AtomicU64::new(0),
            files: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            sizes: Mutex::default(),
            cancel: self.cancel.clone(),
            progress: self.progress.clone(),
        });
        let source = Watched {
            source,
            watch: Arc::clone(&watch),
        };
        let mut parent_options = ParentOptions::default();
        parent_options.force = parents.is_empty();
        parent_options.parents = parents.iter().map(|parent| parent.id.clone()).collect();
        let mut options = BackupOptions::default();
        options.no_scan = true;
        options.parent_opts = parent_options;

        let inner = Arc::clone(&self.inner);
        let backend = Backend::new(Arc::clone(&inner.storage), View::WithholdSnapshots);
        let progress = self.progress.clone();
        let archived = self
            .inner
            .blocking("archive files", move || {
                let explain = |error: Box<RusticError>| backend.explain("archive files", &error);
                let repository = library::open(&inner, &backend, Bars(progress))
                    .and_then(rustic_core::Repository::to_indexed_ids)
                    .map_err(explain)?;
                // The path is only noted in the snapshot that nobody writes.
                let roots = [PathBuf::from("/")];
                let snapshot = repository
                    .archive(&options, &source, SnapshotFile::default(), &roots)
                    .map_err(explain);
                let stored = backend.barrier().map_err(explain);
                // A storage that failed explains what the source could not do, not otherwise.
                let snapshot = snapshot?;
                stored?;
                match backend.take_failure() {
                    Some(error) => Err(error),
                    None => Ok(snapshot),
                }
            })
            .await;
        if self.cancel.is_cancelled() {
            return Err(RepositoryError::Cancelled);
        }
        let snapshot = archived?;
        let summary = snapshot.summary.unwrap_or_default();
        watch.verify(summary.total_files_processed)?;
        let sizes = std::mem::take(&mut *locked(&watch.sizes));
        let tree = from_rustic(snapshot.tree.into_inner());
        let tree = self.resize(tree, &sizes).await?;
        let mut total = locked(&self.archived);
        total.read_bytes += summary.total_bytes_processed;
        total.added.data_blobs += summary.data_blobs;
        total.added.tree_blobs += summary.tree_blobs;
        total.added.plain_bytes += summary.data_added;
        total.added.stored_bytes += summary.data_added_packed;
        Ok(StagedTree {
            tree,
            files: summary.total_files_processed,
            directories: summary.total_dirs_processed,
            bytes: summary.total_bytes_processed,
        })
    }
}

/// What went wrong with the source, and how much it yielded: the library would only log it.
struct Watch {
    unreadable: Unreadable,
    failures: Mutex<Failures>,
    /// Entries that were named in the log.
    named: AtomicU64,
    files: AtomicU64,
    skipped: AtomicU64,
    /// The sizes that files had, where they are not those that were announced.
    sizes: Mutex<HashMap<PathBuf, u64>>,
    cancel: CancellationToken,
    progress: Progress,
}

/// How many, and the first of them: a disk that fails may fail for each of millions of files.
#[derive(Default)]
struct Failures {
    count: usize,
    first: Option<String>,
}

/// So many entries that cannot be read are named in the log, one by one.
const NAMED: u64 = 100;

impl Watch {
    fn fail(&self, what: String) {
        self.name(&what, "A part of the source could not be read.");
        let mut failures = locked(&self.failures);
        failures.count += 1;
        failures.first.get_or_insert(what);
    }

    fn name(&self, cause: &str, what: &str) {
        match self.named.fetch_add(1, Ordering::Relaxed) {
            number if number < NAMED => tracing::warn!(cause, "{what}"),
            NAMED => tracing::warn!("More of the source could not be read and is not named."),
            _ => {}
        }
    }

    /// A file, opened or not, that could not be read in full.
    fn fail_file(&self, what: String) {
        match self.unreadable {
            Unreadable::Fail => self.fail(what),
            Unreadable::Skip => {
                self.name(&what, "A file could not be read and is left out.");
                self.skipped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Fails unless everything that the source yielded was archived whole.
    fn verify(&self, archived: u64) -> Result<(), RepositoryError> {
        let failures = locked(&self.failures);
        if let Some(first) = &failures.first {
            return Err(RepositoryError::SourceIncomplete {
                count: failures.count,
                first: first.clone(),
            });
        }
        let yielded = self.files.load(Ordering::Relaxed);
        let archived = archived + self.skipped.load(Ordering::Relaxed);
        if yielded == archived {
            return Ok(());
        }
        Err(RepositoryError::SourceIncomplete {
            count: usize::try_from(yielded.abs_diff(archived)).unwrap_or(usize::MAX),
            first: format!("of {yielded} files, {archived} were archived"),
        })
    }
}

struct Watched<R> {
    source: R,
    watch: Arc<Watch>,
}

impl<R: ReadSource> ReadSource for Watched<R> {
    type Open = WatchedOpen<R::Open>;
    type Iter = WatchedEntries<R::Iter>;

    fn size(&self) -> RusticResult<Option<u64>> {
        self.source.size()
    }

    fn entries(&self) -> Self::Iter {
        let entries = match catch_unwind(AssertUnwindSafe(|| self.source.entries())) {
            Ok(entries) => Some(entries),
            Err(panic) => {
                self.watch
                    .fail(format!("the listing panicked: {}", said(&*panic)));
                None
            }
        };
        WatchedEntries {
            entries,
            watch: Arc::clone(&self.watch),
        }
    }
}

struct WatchedEntries<I> {
    entries: Option<I>,
    watch: Arc<Watch>,
}

impl<I, O> Iterator for WatchedEntries<I>
where
    I: Iterator<Item = RusticResult<ReadSourceEntry<O>>>,
{
    type Item = RusticResult<ReadSourceEntry<WatchedOpen<O>>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.watch.cancel.is_cancelled() {
            return None;
        }
        let entries = self.entries.as_mut()?;
        let entry = match catch_unwind(AssertUnwindSafe(|| entries.next())) {
            Ok(entry) => entry?,
            Err(panic) => {
                self.watch
                    .fail(format!("the listing panicked: {}", said(&*panic)));
                self.entries = None;
                return None;
            }
        };
        Some(match entry {
            Ok(ReadSourceEntry { path, node, open }) => {
                if !node.is_dir() {
                    self.watch.files.fetch_add(1, Ordering::Relaxed);
                    self.watch.progress.add_items(1);
                }
                let open = open.map(|open| WatchedOpen {
                    open,
                    path: path.clone(),
                    size: node.meta.size,
                    watch: Arc::clone(&self.watch),
                });
                Ok(ReadSourceEntry { path, node, open })
            }
            Err(error) => {
                self.watch.fail(in_one_line(&error));
                Err(error)
            }
        })
    }
}

struct WatchedOpen<O> {
    open: O,
    path: PathBuf,
    size: u64,
    watch: Arc<Watch>,
}

impl<O: ReadSourceOpen> ReadSourceOpen for WatchedOpen<O> {
    type Reader = WatchedReader<O::Reader>;

    fn open(self) -> RusticResult<Self::Reader> {
        let Self {
            open,
            path,
            size,
            watch,
        } = self;
        match catch_unwind(AssertUnwindSafe(|| open.open())) {
            Ok(Ok(reader)) => Ok(WatchedReader {
                reader,
                path,
                announced: size,
                read: 0,
                ended: false,
                watch,
            }),
            Ok(Err(error)) => {
                watch.fail_file(about(&path, in_one_line(&error)));
                Err(error)
            }
            Err(panic) => {
                let what = about(&path, format!("opening it panicked: {}", said(&*panic)));
                watch.fail(what.clone());
                Err(RusticError::new(ErrorKind::InputOutput, what))
            }
        }
    }
}

fn about(path: &Path, what: impl std::fmt::Display) -> String {
    format!("{}: {what}", path.display())
}

/// Reads a file to its end. Stock tools restore by the size that the node declares: where the file
/// turns out to have another, it goes on record.
struct WatchedReader<R> {
    reader: R,
    path: PathBuf,
    announced: u64,
    read: u64,
    ended: bool,
    watch: Arc<Watch>,
}

impl<R> WatchedReader<R> {
    fn end(&mut self) {
        self.ended = true;
        if self.read != self.announced {
            locked(&self.watch.sizes).insert(self.path.clone(), self.read);
        }
    }

    fn fail(&self, what: impl std::fmt::Display) -> io::Error {
        let what = about(&self.path, what);
        self.watch.fail_file(what.clone());
        io::Error::other(what)
    }
}

impl<R: Read> Read for WatchedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.watch.cancel.is_cancelled() {
            return Err(io::Error::other("the run was stopped"));
        }
        let reader = &mut self.reader;
        match catch_unwind(AssertUnwindSafe(|| reader.read(buffer))) {
            Ok(Ok(0)) => {
                self.end();
                Ok(0)
            }
            Ok(Ok(read)) => {
                self.read += read as u64;
                Ok(read)
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Ok(Err(error)) => Err(self.fail(error)),
            Err(panic) => {
                let what = about(
                    &self.path,
                    format!("reading it panicked: {}", said(&*panic)),
                );
                self.watch.fail(what.clone());
                Err(io::Error::other(what))
            }
        }
    }
}

/// The library's progress, of which only the bytes of files are ours.
#[derive(Debug)]
struct Bars(Progress);

impl ProgressBars for Bars {
    fn progress(&self, kind: ProgressType, _prefix: &str) -> rustic_core::Progress {
        match kind {
            ProgressType::Bytes => rustic_core::Progress::new(Bytes(self.0.clone())),
            _ => rustic_core::Progress::hidden(),
        }
    }
}

#[derive(Debug)]
struct Bytes(Progress);

impl RusticProgress for Bytes {
    fn is_hidden(&self) -> bool {
        false
    }
    fn set_length(&self, length: u64) {
        self.0.set_total_bytes(length);
    }
    fn set_title(&self, _title: &str) {}
    fn inc(&self, bytes: u64) {
        self.0.add_bytes(bytes);
    }
    fn finish(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    use jiff::Timestamp;
    use rustic_core::repofile::{Metadata, Node, NodeType};

    use crate::repository::{Graft, Repository};
    use crate::support::memory::{Call, Memory};
    use crate::support::{begin, noise, read, repository, request, restic_ok, until_unlocked};

    /// What a file of a made-up source does when it is read.
    #[derive(Clone)]
    enum Behaviour {
        /// There is no way to open it.
        CannotBeOpened,
        Reads(bytes::Bytes),
        /// Declares so many bytes and has others.
        Declares(u64, bytes::Bytes),
        FailsToOpen,
        PanicsOnOpen,
        /// After so many bytes.
        FailsAfter(usize),
        PanicsAfter(usize),
    }
    use Behaviour::*;

    #[derive(Clone)]
    struct Made(Vec<(&'static str, Behaviour)>, Option<&'static str>);

    impl ReadSource for Made {
        type Open = MadeFile;
        type Iter = Box<dyn Iterator<Item = RusticResult<ReadSourceEntry<MadeFile>>> + Send>;

        fn size(&self) -> RusticResult<Option<u64>> {
            Ok(None)
        }

        fn entries(&self) -> Self::Iter {
            let listing = self.1;
            let last = move || match listing {
                Some("error") => Some(Err(RusticError::new(
                    ErrorKind::InputOutput,
                    "cannot list /files/z",
                ))),
                Some(_) => panic!("the listing is broken"),
                None => None,
            };
            let files = self.0.clone().into_iter().map(|(path, behaviour)| {
                let path = PathBuf::from(path);
                let size = match &behaviour {
                    Reads(bytes) => bytes.len() as u64,
                    Declares(size, _) => *size,
                    _ => 3_000_000,
                };
                let meta = Metadata {
                    size,
                    mtime: Some(Timestamp::UNIX_EPOCH),
                    mode: Some(0o644),
                    ..Metadata::default()
                };
                let name: &OsStr = path.file_name().unwrap();
                let node = Node::new_node(name, NodeType::File, meta);
                let open = !matches!(behaviour, CannotBeOpened);
                Ok(ReadSourceEntry {
                    path,
                    node,
                    open: open.then_some(MadeFile(behaviour)),
                })
            });
            Box::new(files.chain(std::iter::from_fn(last).take(1)))
        }
    }

    struct MadeFile(Behaviour);

    impl ReadSourceOpen for MadeFile {
        type Reader = MadeReader;

        fn open(self) -> RusticResult<MadeReader> {
            match self.0 {
                FailsToOpen => Err(RusticError::new(
                    ErrorKind::InputOutput,
                    "permission denied",
                )),
                PanicsOnOpen => panic!("the opener is broken"),
                other => Ok(MadeReader(other, 0)),
            }
        }
    }

    struct MadeReader(Behaviour, usize);

    impl Read for MadeReader {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let bytes = match &self.0 {
                Reads(bytes) | Declares(_, bytes) => &bytes[self.1..],
                FailsAfter(limit) if self.1 >= *limit => {
                    return Err(io::Error::other("the disk is broken"));
                }
                PanicsAfter(limit) if self.1 >= *limit => panic!("the reader is broken"),
                _ => &[7; 4096][..],
            };
            let length = bytes.len().min(buffer.len());
            buffer[..length].copy_from_slice(&bytes[..length]);
            self.1 += length;
            Ok(length)
        }
    }

    fn good() -> Vec<(&'static str, Behaviour)> {
        vec![
            ("/files/a/large", Reads(noise(1, 5_000_000))),
            ("/files/a/small", Reads("hello".into())),
            ("/files/b", Reads(bytes::Bytes::new())),
        ]
    }

    async fn archive(
        repository: &Repository,
        source: Made,
        parents: &[Snapshot],
        unreadable: Unreadable,
    ) -> Result<Snapshot, RepositoryError> {
        let writer = begin(repository).await;
        let tree = match writer.archive_tree(source, parents, unreadable).await {
            Ok(tree) => tree,
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        };
        let mut request = request(Vec::new());
        request.grafts.push(Graft {
            path: "/".into(),
            tree,
        });
        writer.commit(request).await
    }

    async fn refused(repository: &Repository, source: Made, unreadable: Unreadable) -> String {
        let before = repository.snapshots().await.unwrap();
        let error = archive(repository, source, &[], unreadable)
            .await
            .unwrap_err();
        assert!(
            matches!(error, RepositoryError::SourceIncomplete { .. }),
            "{error}"
        );
        assert_eq!(repository.snapshots().await.unwrap(), before, "{error}");
        assert!(repository.locks().await.unwrap().is_empty());
        error.to_string()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_archived_tree_is_shown_and_what_is_unchanged_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Memory::new();
        let repository = repository(Arc::<Memory>::clone(&storage)).await;
        let first = archive(&repository, Made(good(), None), &[], Unreadable::Fail)
            .await
            .unwrap();
        assert_eq!(first.paths, ["/files", "/holdfast"]);
        assert!(read(&repository, &first, "/files/a/large").await == noise(1, 5_000_000));
        assert_eq!(read(&repository, &first, "/files/b").await, "");
        // Opening any of them now would panic.
        let closed = good().into_iter().map(|(path, behaviour)| {
            let Reads(bytes) = behaviour else {
                unreachable!()
            };
            (
                path,
                if bytes.len() == 5_000_000 {
                    Declares(5_000_000, "".into())
                } else {
                    Reads(bytes)
                },
            )
        });
        let parents = [first.clone()];
        let second = archive(
            &repository,
            Made(closed.collect(), None),
            &parents,
            Unreadable::Fail,
        )
        .await
        .unwrap();
        assert!(read(&repository, &second, "/files/a/large").await == noise(1, 5_000_000));
        storage.export(directory.path());
        let said = restic_ok(directory.path(), &["check", "--read-data"]);
        assert!(said.contains("no errors were found"), "{said}");
    }

    /// Trap: the library logs a source's errors and saves the snapshot without those files.
    #[tokio::test(flavor = "multi_thread")]
    async fn source_read_errors_refuse_the_snapshot() {
        let repository = repository(Memory::new()).await;
        for (behaviour, says) in [
            (FailsToOpen, "permission denied"),
            (FailsAfter(0), "the disk is broken"),
            (FailsAfter(2_000_000), "the disk is broken"),
        ] {
            let mut files = good();
            files.insert(1, ("/files/a/odd", behaviour));
            let error = refused(&repository, Made(files, None), Unreadable::Fail).await;
            assert!(
                error.contains("/files/a/odd") && error.contains(says),
                "{error}"
            );
        }
        let error = refused(&repository, Made(good(), Some("error")), Unreadable::Fail).await;
        assert!(error.contains("cannot list /files/z"), "{error}");
    }

    /// The same trap where nobody reports an error: what was yielded is counted, and what was
    /// archived. Of a file that there is no way to open the library says nothing at all.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_is_passed_over_refuses_the_snapshot() {
        let repository = repository(Memory::new()).await;
        let mut files = good();
        files.insert(1, ("/files/a/odd", CannotBeOpened));
        for unreadable in [Unreadable::Fail, Unreadable::Skip] {
            let error = refused(&repository, Made(files.clone(), None), unreadable).await;
            assert!(error.contains("of 4 files, 3 were archived"), "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn very_many_failures_are_counted() {
        let repository = repository(Memory::new()).await;
        let names: Vec<&'static str> = (0..300)
            .map(|number| &*format!("/files/{number:04}").leak())
            .collect();
        let files = names.into_iter().map(|name| (name, FailsToOpen)).collect();
        let error = refused(&repository, Made(files, None), Unreadable::Fail).await;
        assert!(
            error.starts_with("300 of the source's entries could not be read, first /files/0"),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn unreadable_files_can_be_left_out_and_an_incomplete_listing_cannot() {
        let repository = repository(Memory::new()).await;
        let mut files = good();
        files.insert(1, ("/files/a/m", FailsToOpen));
        files.insert(2, ("/files/a/n", FailsAfter(2_000_000)));
        let made = Made(files, None);
        let snapshot = archive(&repository, made, &[], Unreadable::Skip)
            .await
            .unwrap();
        let content = repository.content(&snapshot).await.unwrap();
        let names: Vec<_> = content.children(b"/files/a").await.unwrap();
        assert_eq!(
            names.iter().map(|node| &node.name[..]).collect::<Vec<_>>(),
            [&b"large"[..], b"small"]
        );
        drop(content);
        until_unlocked(&repository).await;
        for listing in ["error", "panic"] {
            refused(&repository, Made(good(), Some(listing)), Unreadable::Skip).await;
        }
    }

    /// Trap: stock restic restores by the declared size, whatever was read.
    #[tokio::test(flavor = "multi_thread")]
    async fn declared_sizes_are_exact() {
        let repository = repository(Memory::new()).await;
        for declared in [3, 9] {
            let changed = vec![("/files/a/log", Declares(declared, "abcdef".into()))];
            let snapshot = archive(&repository, Made(changed, None), &[], Unreadable::Fail)
                .await
                .unwrap();
            assert_eq!(read(&repository, &snapshot, "/files/a/log").await, "abcdef");
            let content = repository.content(&snapshot).await.unwrap();
            let node = content.node(b"/files/a/log").await.unwrap().unwrap();
            assert_eq!(node.size, 6);
        }
    }

    /// Trap: a panic of a reader unwinds through the library.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_panics_is_an_error_and_no_snapshot() {
        let repository = repository(Memory::new()).await;
        for (behaviour, says) in [
            (PanicsOnOpen, "the opener is broken"),
            (PanicsAfter(0), "the reader is broken"),
            (PanicsAfter(2_000_000), "the reader is broken"),
        ] {
            let mut files = good();
            files.insert(1, ("/files/a/odd", behaviour));
            let error = refused(&repository, Made(files, None), Unreadable::Fail).await;
            assert!(error.contains(says), "{error}");
        }
        let error = refused(&repository, Made(good(), Some("panic")), Unreadable::Fail).await;
        assert!(error.contains("the listing is broken"), "{error}");
        // The repository works on.
        archive(&repository, Made(good(), None), &[], Unreadable::Fail)
            .await
            .unwrap();
    }

    /// The same trap as for the stage: whatever cannot be stored is an error of the storage.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_storage_that_fails_is_the_error_and_not_the_source() {
        let storage = Memory::new();
        let repository = repository(Arc::<Memory>::clone(&storage)).await;
        for place in ["data/", "index/"] {
            storage.fail_when(move |call, path| {
                (call == Call::Write && path.starts_with(place))
                    .then_some(crate::destination::StorageErrorKind::Full)
            });
            let failed = archive(&repository, Made(good(), None), &[], Unreadable::Fail).await;
            let Err(RepositoryError::Storage(error)) = failed else {
                panic!("{failed:?}")
            };
            assert_eq!(error.kind, crate::destination::StorageErrorKind::Full);
            storage.heal();
        }
        assert!(repository.snapshots().await.unwrap().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_that_is_stopped_while_it_archives_ends() {
        let repository = repository(Memory::new()).await;
        let writer = begin(&repository).await;
        writer.cancel.cancel();
        let stopped = writer
            .archive_tree(Made(good(), None), &[], Unreadable::Fail)
            .await;
        assert!(
            matches!(stopped, Err(RepositoryError::Cancelled)),
            "{stopped:?}"
        );
    }
}
