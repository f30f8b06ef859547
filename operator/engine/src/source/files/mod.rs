//! The `files` source: directories of a machine, with everything a file system knows of them.
//!
//! Reading hands the archiver one tree, which the snapshot shows as `/files/<absolute path>`:
//! [`read_files`]. What cannot be read goes on record and fails the run, or is skipped and told,
//! as the policy says. Putting back is in [`restore`].

mod attributes;
mod error;
mod pattern;
mod read;
mod reader;
mod record;
mod restore;
mod roots;
mod walk;

use std::path::PathBuf;

pub use error::{FilesError, NAMED_PATHS, PathList};
pub use pattern::{Patterns, Verdict};
pub use read::{FilesBackup, read_files};
pub(crate) use reader::{Opened, Reading, Unopened};
pub(crate) use record::Record;
pub use restore::{
    OnConflict, RestoreFilesPlan, RestoreFilesReport, RestoreFilesRequest, RestoreTarget,
    plan_restore_files, restore_files,
};
#[cfg(test)]
pub(crate) use roots::Roots;
#[cfg(test)]
pub(crate) use walk::in_snapshot;
pub(crate) use walk::{Found, Scope, Walk};

/// The directory of a snapshot below which files lie by their absolute paths.
pub const FILES_PATH: &str = "/files";

/// Directories to back up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesConfig {
    /// Absolute paths of directories, or of single files.
    pub paths: Vec<PathBuf>,
    /// Patterns of what to leave out, in the grammar of `.gitignore` with the root of the file
    /// system as its root: `*.tmp`, `/srv/cache`, `**/node_modules`, `!keep.tmp`.
    pub exclude: Vec<String>,
    /// Whether to stay on the file system of each path; mount points are saved as empty
    /// directories then.
    pub one_file_system: bool,
    /// What to do with a file that cannot be read.
    pub on_unreadable: OnUnreadable,
}

/// What to do with a file that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnreadable {
    /// The run fails, names it, and writes no snapshot.
    #[default]
    Fail,
    /// It is named in the manifest with the reason, and the rest is saved.
    Skip,
}
