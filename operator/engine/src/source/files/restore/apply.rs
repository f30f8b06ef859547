//! Carrying out a restore: directories as they are needed, files side by side, then further hard
//! links, and the metadata of directories last, when nothing is made in them any more.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::entry::{BLOBS_AT_ONCE, Cause, Entry, Outcome, Shared, Trouble};
use super::file::{HardLink, blocking, make_link};
use super::target::{Job, clear, look, open_directory};
use super::traverse::{Step, Traversal};
use super::{OnConflict, RestoreFilesReport, metadata};
use crate::progress::Progress;
use crate::source::files::error::{FilesError, PathList, ends_a_restore};
use crate::source::{Content, Node, NodeKind};

/// How many entries are made at once.
const ENTRIES_AT_ONCE: usize = 16;

type Running<'a> =
    FuturesUnordered<BoxFuture<'a, (Entry, Option<HardLink>, Result<Outcome, FilesError>)>>;

/// A directory that the way through the backup is in.
struct Level {
    path: PathBuf,
    node: Node,
    place: Place,
}

#[derive(Clone)]
enum Place {
    /// Nothing in it was needed so far.
    Unmade,
    /// It is there.
    Open(Arc<File>),
    /// It cannot be there, and nothing in it can.
    Blocked,
}

/// A restore that is being carried out. Its methods take it mutably even where they only look: what
/// is under way in it may move between threads and may not be shared by them.
struct Applying<'a> {
    shared: &'a Shared<'a>,
    root: Arc<File>,
    levels: Vec<Level>,
    running: Running<'a>,
    report: RestoreFilesReport,
    failed: PathList,
    damaged: bool,
    /// Directories whose metadata is to be set, the outer before the inner.
    directories: Vec<(PathBuf, Node)>,
    /// For each file with several names, the first that was restored.
    first: HashMap<HardLink, PathBuf>,
    /// Those of them that have the content of the backup.
    sound: HashSet<PathBuf>,
    /// Further names.
    further: Vec<(PathBuf, Node, HardLink)>,
}

/// Carries out a restore.
pub(super) async fn apply(
    content: &dyn Content,
    job: &Job,
    surveyed_at: jiff::Timestamp,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<RestoreFilesReport, FilesError> {
    let shared = Shared {
        content,
        job,
        progress,
        cancel,
        surveyed_at,
        blobs: Semaphore::new(BLOBS_AT_ONCE),
    };
    let mut applying = Applying {
        shared: &shared,
        root: job.make_root()?,
        levels: Vec::new(),
        running: FuturesUnordered::new(),
        report: RestoreFilesReport::default(),
        failed: PathList::default(),
        damaged: false,
        directories: Vec::new(),
        first: HashMap::new(),
        sound: HashSet::new(),
        further: Vec::new(),
    };
    applying.tree().await?;
    applying.further_names().await?;
    applying.directory_metadata().await?;
    applying.sync().await?;
    if applying.failed.is_empty() {
        return Ok(applying.report);
    }
    Err(FilesError::Incomplete {
        target: job.shown(),
        list: applying.failed,
        restored: applying.report.files,
        damaged: applying.damaged,
    })
}

impl<'a> Applying<'a> {
    /// Everything but further hard links and the metadata of directories.
    async fn tree(&mut self) -> Result<(), FilesError> {
        let shared = self.shared;
        let mut steps = Traversal::new(shared.content, &shared.job.include);
        while let Some(step) = steps.next().await? {
            if shared.cancel.is_cancelled() {
                return Err(FilesError::Cancelled);
            }
            match step {
                Step::Leave => {
                    self.levels.pop();
                }
                Step::Enter(path, node, selected) => {
                    self.levels.push(Level {
                        path,
                        node,
                        place: Place::Unmade,
                    });
                    if selected {
                        self.here().await?;
                    }
                }
                Step::Leaf(path, node, true) if node.kind != NodeKind::Socket => {
                    self.leaf(path, node).await?;
                }
                Step::Leaf(..) => {}
            }
        }
        while self.settle_one().await? {}
        Ok(())
    }

    /// Begins an entry, once there is room for one more.
    async fn leaf(&mut self, path: PathBuf, node: Node) -> Result<(), FilesError> {
        let Some(directory) = self.here().await? else {
            return Ok(());
        };
        let link = HardLink::of(&node);
        if let Some(link) = &link {
            if self.first.contains_key(link) {
                self.further.push((path, node, link.clone()));
                return Ok(());
            }
            self.first.insert(link.clone(), path.clone());
        }
        while self.running.len() >= ENTRIES_AT_ONCE {
            self.settle_one().await?;
        }
        let shared = self.shared;
        self.running.push(Box::pin(async move {
            let entry = Entry {
                directory,
                path,
                node,
            };
            let outcome = shared.restore(&entry).await;
            (entry, link, outcome)
        }));
        Ok(())
    }

    /// Waits for one entry; false when none is left.
    async fn settle_one(&mut self) -> Result<bool, FilesError> {
        let Some((entry, link, outcome)) = self.running.next().await else {
            return Ok(false);
        };
        let outcome = outcome?;
        if link.is_some() && matches!(outcome, Outcome::Made(_) | Outcome::Identical(_)) {
            self.sound.insert(entry.path.clone());
        }
        let bytes = entry.node.size;
        self.count(&entry.path, &entry.node, outcome, bytes);
        Ok(true)
    }

    fn count(&mut self, path: &Path, node: &Node, outcome: Outcome, bytes: u64) {
        let place = self.shared.job.place(path);
        match outcome {
            Outcome::Made(missing) => {
                if let NodeKind::File(_) = node.kind {
                    self.report.files += 1;
                    self.report.bytes += bytes;
                } else {
                    self.report.others += 1;
                }
                self.warn(&place, missing);
            }
            Outcome::Identical(missing) => {
                self.report.kept += 1;
                self.warn(&place, missing);
            }
            Outcome::Kept => self.report.kept += 1,
            Outcome::NotPermitted => self
                .report
                .skipped
                .push(&place, "only a user with CAP_MKNOD can make a device"),
            Outcome::Failed(reason, cause) => self.fail(path, reason, cause),
        }
        self.shared.progress.add_items(1);
    }

    fn warn(&mut self, place: &Path, missing: Vec<String>) {
        for reason in missing {
            self.report.warnings.push(place, reason);
        }
    }

    fn fail(&mut self, path: &Path, reason: String, cause: Cause) {
        let place = self.shared.job.place(path);
        tracing::warn!(path = %place.display(), reason, "an entry could not be restored");
        self.damaged |= cause == Cause::Backup;
        self.failed.push(&place, reason);
    }

    /// The innermost directory, made with all that lead to it; `None` when that cannot be.
    async fn here(&mut self) -> Result<Option<Arc<File>>, FilesError> {
        let mut parent = Arc::clone(&self.root);
        for index in 0..self.levels.len() {
            let level = &self.levels[index];
            match &level.place {
                Place::Open(directory) => parent = Arc::clone(directory),
                Place::Blocked => return Ok(None),
                Place::Unmade => {
                    let (path, node) = (level.path.clone(), level.node.clone());
                    let place = self.make_directory(&parent, path, node).await?;
                    self.levels[index].place = place.clone();
                    match place {
                        Place::Open(directory) => parent = directory,
                        _ => return Ok(None),
                    }
                }
            }
        }
        Ok(Some(parent))
    }

    /// Opens or makes one directory.
    async fn make_directory(
        &mut self,
        parent: &Arc<File>,
        path: PathBuf,
        node: Node,
    ) -> Result<Place, FilesError> {
        let job = self.shared.job;
        let (follow, on_conflict) = (job.leads(&path), job.on_conflict);
        let (inside, name) = (Arc::clone(parent), node.name.clone());
        let made =
            blocking(move || open_or_make(&inside, OsStr::from_bytes(&name), follow, on_conflict))
                .await;
        match made {
            Ok(Made::New(directory)) => {
                self.report.directories += 1;
                self.directories.push((path, node));
                Ok(Place::Open(Arc::new(directory)))
            }
            Ok(Made::Existing(directory)) => {
                // What leads to the original place is the machine's, and Merge keeps what it finds.
                if !follow && on_conflict != OnConflict::Merge {
                    self.report.directories += 1;
                    self.directories.push((path, node));
                }
                Ok(Place::Open(Arc::new(directory)))
            }
            Ok(Made::Other) if on_conflict == OnConflict::Merge => {
                self.report.kept += 1;
                self.report.warnings.push(
                    &job.place(&path),
                    "it is not a directory and is kept; nothing below it was restored",
                );
                Ok(Place::Blocked)
            }
            Ok(Made::Other) => {
                let reason = "something else came into its place; nothing below it was restored";
                self.fail(&path, reason.into(), Cause::Target);
                Ok(Place::Blocked)
            }
            Err(error) if ends_a_restore(&error) => {
                Err(FilesError::target("write", &job.place(&path), error))
            }
            Err(error) => {
                let reason = format!("{error}; nothing below it was restored");
                self.fail(&path, reason, Cause::Target);
                Ok(Place::Blocked)
            }
        }
    }

    /// Gives files their further names.
    async fn further_names(&mut self) -> Result<(), FilesError> {
        for (path, node, link) in std::mem::take(&mut self.further) {
            if self.shared.cancel.is_cancelled() {
                return Err(FilesError::Cancelled);
            }
            let parent = path.parent().unwrap_or(Path::new("/"));
            // Its directory was made when the way led through it.
            let directory = match self.shared.job.open(&self.root, parent) {
                Ok(directory) => directory,
                Err(error) => {
                    self.fail(&path, error.to_string(), Cause::Target);
                    continue;
                }
            };
            let entry = Entry {
                directory,
                path,
                node,
            };
            let first = self.first.get(&link).cloned().unwrap_or_default();
            let (outcome, bytes) = if self.sound.contains(&first) {
                let linked = self.link(&first, &entry).await;
                let outcome = match linked {
                    Ok(outcome) => outcome,
                    Err(Trouble::Entry(reason, cause)) => Outcome::Failed(reason, cause),
                    Err(Trouble::Run(error)) => return Err(error),
                };
                (outcome, 0)
            } else {
                let outcome = self.shared.restore(&entry).await?;
                if matches!(outcome, Outcome::Made(_) | Outcome::Identical(_)) {
                    self.first.insert(link, entry.path.clone());
                    self.sound.insert(entry.path.clone());
                }
                (outcome, entry.node.size)
            };
            self.count(&entry.path, &entry.node, outcome, bytes);
        }
        Ok(())
    }

    /// Makes an entry a further name of a file that is in its place.
    async fn link(&mut self, first: &Path, entry: &Entry) -> Result<Outcome, Trouble> {
        let trouble = |error| self.shared.trouble(entry, error);
        let job = self.shared.job;
        let mut replace = false;
        let parent = first.parent().unwrap_or(Path::new("/"));
        let name = first.file_name().unwrap_or_default().to_owned();
        let from = job.open(&self.root, parent).map_err(trouble)?;
        if let Some(stat) = entry.look().await.map_err(trouble)? {
            let linked = look(&from, &name)
                .map_err(trouble)?
                .is_some_and(|first| first.st_dev == stat.st_dev && first.st_ino == stat.st_ino);
            if linked {
                return Ok(Outcome::Identical(Vec::new()));
            }
            match job.on_conflict {
                OnConflict::Merge => return Ok(Outcome::Kept),
                OnConflict::Drop => entry.make_way(stat).await.map_err(trouble)?,
                // The same content under a name of its own becomes the one file it was.
                OnConflict::Fail if self.shared.is_same(entry, &stat).await? => {}
                OnConflict::Fail => {
                    return Ok(Outcome::Failed(
                        "something that differs came into its place".into(),
                        Cause::Target,
                    ));
                }
            }
            replace = true;
        }
        let (directory, target) = (Arc::clone(&entry.directory), entry.name().to_owned());
        blocking(move || make_link((&from, &name), &directory, &target, replace))
            .await
            .map_err(trouble)?;
        Ok(Outcome::Made(Vec::new()))
    }

    /// Sets the metadata of directories, the inner before the outer.
    async fn directory_metadata(&mut self) -> Result<(), FilesError> {
        while let Some((path, node)) = self.directories.pop() {
            let set = self
                .shared
                .job
                .open(&self.root, &path)
                .and_then(|directory| metadata::set(&directory, &node));
            match set {
                Ok(missing) => {
                    let place = self.shared.job.place(&path);
                    self.warn(&place, missing);
                }
                Err(error) => self.fail(&path, error.to_string(), Cause::Target),
            }
        }
        Ok(())
    }

    /// Waits until the file system has everything on its disk.
    async fn sync(&mut self) -> Result<(), FilesError> {
        let root = Arc::clone(&self.root);
        blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&*root, ".", flags, Mode::empty())?;
            Ok(rustix::fs::syncfs(opened)?)
        })
        .await
        .map_err(|error| FilesError::target("sync", &self.shared.job.root, error))
    }
}

enum Made {
    New(File),
    Existing(File),
    Other,
}

/// Opens a directory, or makes it; with Drop also in the place of something else.
fn open_or_make(
    parent: &File,
    name: &OsStr,
    follow: bool,
    on_conflict: OnConflict,
) -> io::Result<Made> {
    match open_directory(parent, name, follow) {
        Ok(directory) => return Ok(Made::Existing(directory)),
        Err(error) if is(&error, Errno::NOENT) => {}
        Err(error) if is(&error, Errno::NOTDIR) || is(&error, Errno::LOOP) => {
            if on_conflict != OnConflict::Drop {
                return Ok(Made::Other);
            }
            if let Some(stat) = look(parent, name)? {
                clear(parent, name, &stat)?;
            }
        }
        Err(error) => return Err(error),
    }
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    Ok(Made::New(open_directory(parent, name, false)?))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
