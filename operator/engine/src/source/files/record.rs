//! What happened while the files were read: counts, what could not be read, what changed.
//!
//! The walk and the readers run on several threads and write here; the archiver below them
//! swallows errors, so this is the one place that knows whether the tree is complete.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::OnUnreadable;
use super::error::{FilesError, PathList, shown};
use crate::manifest::SkippedFile;

/// How many skipped files a manifest names; it stays readable, and a note says how many more.
const SKIPPED_NAMED: usize = 10_000;

/// How many of them the log names; the rest is a number.
const SKIPPED_LOGGED: u64 = 50;

/// What happened while the files were read.
#[derive(Debug)]
pub(crate) struct Record {
    on_unreadable: OnUnreadable,
    files: AtomicU64,
    directories: AtomicU64,
    excluded: AtomicU64,
    sockets: AtomicU64,
    opened: AtomicU64,
    abandoned: AtomicBool,
    complete: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    unreadable: PathList,
    skipped: Vec<SkippedFile>,
    changed: PathList,
    notes: Vec<String>,
}

/// What the record held at the end of a walk that was complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) bytes: u64,
    pub(crate) excluded: u64,
    pub(crate) opened: u64,
    pub(crate) skipped: Vec<SkippedFile>,
    /// How many were skipped, named or not.
    pub(crate) skipped_count: u64,
    pub(crate) notes: Vec<String>,
}

impl Record {
    pub(crate) fn new(on_unreadable: OnUnreadable) -> Self {
        Self {
            on_unreadable,
            files: AtomicU64::new(0),
            directories: AtomicU64::new(0),
            excluded: AtomicU64::new(0),
            sockets: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A regular file that the tree shall show.
    pub(crate) fn file(&self, size: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.state().bytes += size;
    }

    /// A directory that the tree shall show.
    pub(crate) fn directory(&self) {
        self.directories.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry that a pattern, or the bounds of a file system, leaves out.
    pub(crate) fn excluded(&self) {
        self.excluded.fetch_add(1, Ordering::Relaxed);
    }

    /// A socket: it has no content and means nothing without the process behind it.
    pub(crate) fn socket(&self) {
        self.sockets.fetch_add(1, Ordering::Relaxed);
    }

    /// A file that is opened, because the last snapshot does not have it as it is.
    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A sentence for a person.
    pub(crate) fn note(&self, note: String) {
        self.state().notes.push(note);
    }

    /// Something that could not be read. In a run that fails for it no more content is read: the
    /// walk only goes on to name the others.
    pub(crate) fn unreadable(&self, path: &Path, reason: &str) {
        let mut state = self.state();
        state.unreadable.push(path, reason);
        if self.on_unreadable == OnUnreadable::Skip && state.unreadable.count <= SKIPPED_LOGGED {
            tracing::warn!(
                path = shown(path),
                reason,
                "It cannot be read and is skipped."
            );
        }
        if state.skipped.len() < SKIPPED_NAMED {
            state.skipped.push(SkippedFile {
                path: shown(path),
                reason: reason.to_owned(),
            });
        }
        if self.on_unreadable == OnUnreadable::Fail {
            self.abandoned.store(true, Ordering::Relaxed);
        }
    }

    /// A regular file announced with [`Self::file`] that could not be read after all.
    pub(crate) fn unreadable_file(&self, path: &Path, announced: u64, reason: &str) {
        self.files.fetch_sub(1, Ordering::Relaxed);
        {
            let mut state = self.state();
            state.bytes = state.bytes.saturating_sub(announced);
        }
        self.unreadable(path, reason);
    }

    /// A file that had another size when it was read than when it was announced.
    pub(crate) fn resized(&self, announced: u64, read: u64) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(announced) + read;
    }

    /// A file that was written to while it was read.
    pub(crate) fn changed(&self, path: &Path) {
        self.state()
            .changed
            .push(path, "written to while it was read");
    }

    /// Whether reading on is pointless: the run fails in any case.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// The walk came to its end.
    pub(crate) fn walked(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// What to do with what cannot be read.
    pub(crate) fn on_unreadable(&self) -> OnUnreadable {
        self.on_unreadable
    }

    /// What was recorded.
    ///
    /// # Errors
    /// [`FilesError::Unreadable`] when something could not be read and the policy does not skip
    /// it, [`FilesError::Cancelled`] when the walk did not come to its end.
    pub(crate) fn finish(&self) -> Result<Recorded, FilesError> {
        let state = self.state();
        if self.on_unreadable == OnUnreadable::Fail && !state.unreadable.is_empty() {
            return Err(FilesError::Unreadable {
                list: state.unreadable.clone(),
            });
        }
        if !self.complete.load(Ordering::Acquire) {
            return Err(FilesError::Cancelled);
        }
        let skipped_count = state.unreadable.count;
        if skipped_count > 0 {
            tracing::warn!(
                skipped = skipped_count,
                unnamed = skipped_count.saturating_sub(SKIPPED_LOGGED),
                "Files and directories could not be read and are not in the backup."
            );
        }
        let files = self.files.load(Ordering::Relaxed);
        let excluded = self.excluded.load(Ordering::Relaxed);
        let mut notes = state.notes.clone();
        let named = u64::try_from(state.skipped.len()).unwrap_or(u64::MAX);
        if state.unreadable.count > named {
            notes.push(format!(
                "{} more files could not be read and were skipped; only the first {named} are named",
                state.unreadable.count - named
            ));
        }
        if state.changed.count > 0 {
            notes.push(format!(
                "{} files were written to while they were read and are saved as they were read: {}",
                state.changed.count, state.changed
            ));
        }
        let sockets = self.sockets.load(Ordering::Relaxed);
        if sockets > 0 {
            notes.push(format!(
                "{sockets} sockets were left out; they hold nothing"
            ));
        }
        if files == 0 && excluded > 0 {
            notes.push(format!(
                "no file was saved: the excludes leave out {excluded} entries and nothing remains"
            ));
        }
        Ok(Recorded {
            files,
            directories: self.directories.load(Ordering::Relaxed),
            bytes: state.bytes,
            excluded,
            opened: self.opened.load(Ordering::Relaxed),
            skipped: state.skipped.clone(),
            skipped_count,
            notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_did_not_end_is_never_a_success() {
        let record = Record::new(OnUnreadable::Skip);
        record.file(10);
        assert!(matches!(record.finish(), Err(FilesError::Cancelled)));
        record.walked();
        assert_eq!(record.finish().unwrap().files, 1);
    }

    #[test]
    fn unreadable_files_fail_the_run_or_are_told() {
        for on_unreadable in [OnUnreadable::Fail, OnUnreadable::Skip] {
            let record = Record::new(on_unreadable);
            record.file(10);
            record.file(5);
            record.unreadable_file(Path::new("/srv/a"), 10, "permission denied");
            record.walked();
            assert_eq!(record.is_abandoned(), on_unreadable == OnUnreadable::Fail);
            match (on_unreadable, record.finish()) {
                (OnUnreadable::Fail, Err(FilesError::Unreadable { list })) => {
                    assert_eq!(list.to_string(), "/srv/a (permission denied)");
                }
                (OnUnreadable::Skip, Ok(recorded)) => {
                    assert_eq!((recorded.files, recorded.bytes), (1, 5));
                    assert_eq!(recorded.skipped[0].path, "/srv/a");
                }
                (_, other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_size_that_changed_is_corrected_in_the_sum() {
        let record = Record::new(OnUnreadable::Fail);
        record.file(10);
        record.resized(10, 25);
        record.walked();
        assert_eq!(record.finish().unwrap().bytes, 25);
    }
}
