//! The error of the `files` source: what was attempted, on which path, what came back, what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::class::{Classified, ErrorClass};
use crate::repository::RepositoryError;

/// How many paths an error or a report names before it only counts.
pub const NAMED_PATHS: usize = 50;

/// Paths with a reason each: the first [`NAMED_PATHS`] by name, the rest as a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathList {
    /// How many there are.
    pub count: u64,
    /// The first of them, and why.
    pub first: Vec<(PathBuf, String)>,
}

impl PathList {
    /// Adds a path.
    pub fn push(&mut self, path: &Path, reason: impl Into<String>) {
        self.count += 1;
        if self.first.len() < NAMED_PATHS {
            self.first.push((path.to_path_buf(), reason.into()));
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl std::fmt::Display for PathList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (path, reason)) in self.first.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{} ({reason})", shown(path))?;
        }
        let named = u64::try_from(self.first.len()).unwrap_or(u64::MAX);
        if self.count > named {
            write!(f, "; and {} more", self.count - named)?;
        }
        Ok(())
    }
}

/// A path for people: as it is where it is plain text, else with escapes, so that a name cannot
/// break a log line or a terminal.
#[must_use]
pub(crate) fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("{path:?}"),
    }
}

/// The error of the `files` source.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The declaration cannot work.
    #[error("cannot use {what} {value:?}: {cause}")]
    InvalidConfig {
        /// The field: `path`, `pattern`, `target`.
        what: &'static str,
        /// What was given.
        value: String,
        /// Why it cannot work, and what to give.
        cause: String,
    },
    /// A path that is to be backed up is not there, or cannot be looked at at all.
    #[error(
        "cannot back up {path}: {cause}; correct the policy's paths, or make it reachable for the user Holdfast runs as"
    )]
    Path {
        /// The path.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Some files could not be read; no snapshot was written.
    #[error(
        "{} of the files could not be read and no backup was written: {list}; make them readable, exclude them, or set onUnreadable: Skip",
        list.count
    )]
    Unreadable {
        /// The files.
        list: PathList,
    },
    /// The restore would overwrite what is there and differs.
    #[error(
        "{} things in {target} differ from the backup and would be overwritten: {list}; nothing was changed. Choose an empty directory, or onConflict: Drop to replace them or Merge to keep them",
        list.count
    )]
    Conflict {
        /// The target of the restore.
        target: String,
        /// What is in the way.
        list: PathList,
    },
    /// Nothing in the backup has a path that the patterns choose.
    #[error(
        "nothing in the backup matches {patterns}; patterns are absolute paths as they were on the machine, names, or globs"
    )]
    NothingSelected {
        /// The patterns.
        patterns: String,
    },
    /// The backup holds no files.
    #[error(
        "the backup holds no files (there is no /files in it); choose one of a policy whose source is files"
    )]
    NoFiles,
    /// The backup holds a name that would lead out of its directory.
    #[error(
        "the backup holds the name {name} in {directory}, which is no file name; it was not made by a backup, so nothing more of it is restored"
    )]
    UnsafeName {
        /// The name, escaped.
        name: String,
        /// The directory it is in.
        directory: String,
    },
    /// The target of a restore cannot be used.
    #[error("cannot {action} {path} to restore into it: {cause}")]
    Target {
        /// What was attempted.
        action: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Part of what was to be restored is not in its place.
    #[error(
        "{} of the entries could not be restored to {target}: {list}; {restored} files are in their place and complete",
        list.count
    )]
    Incomplete {
        /// The target of the restore.
        target: String,
        /// What is missing.
        list: PathList,
        /// How many files were restored all the same.
        restored: u64,
        /// Whether the backup itself is what failed.
        damaged: bool,
    },
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The run was asked to stop.
    #[error("the run was stopped before it had ended")]
    Cancelled,
}

impl FilesError {
    /// A target that cannot be used.
    pub(crate) fn target(action: &'static str, path: &Path, cause: std::io::Error) -> Self {
        Self::Target {
            action,
            path: shown(path),
            cause,
        }
    }

    /// A declaration that cannot work.
    pub(crate) fn invalid(
        what: &'static str,
        value: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self::InvalidConfig {
            what,
            value: value.into(),
            cause: cause.into(),
        }
    }
}

/// Whether nothing more can be written to the target at all.
pub(crate) fn ends_a_restore(cause: &std::io::Error) -> bool {
    matches!(
        cause.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
    )
}

impl Classified for FilesError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Target { cause, .. } if ends_a_restore(cause) => ErrorClass::Waiting,
            Self::InvalidConfig { .. }
            | Self::Path { .. }
            | Self::Conflict { .. }
            | Self::NothingSelected { .. }
            | Self::NoFiles
            | Self::Target { .. } => ErrorClass::Permanent,
            Self::Incomplete { damaged: true, .. } | Self::UnsafeName { .. } => ErrorClass::Damaged,
            Self::Incomplete { .. } | Self::Unreadable { .. } | Self::Cancelled => {
                ErrorClass::Transient
            }
            Self::Repository(error) => error.class(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::InvalidConfig { .. } => "InvalidSpec",
            Self::Path { .. } => "PathNotFound",
            Self::Unreadable { .. } => "SourceUnreadable",
            Self::Conflict { .. } => "TargetNotEmpty",
            Self::NothingSelected { .. } => "NothingSelected",
            Self::NoFiles => "NoFiles",
            Self::Target { cause, .. } if ends_a_restore(cause) => "TargetFull",
            Self::Target { .. } => "TargetUnusable",
            Self::Incomplete { damaged: true, .. } | Self::UnsafeName { .. } => "Damaged",
            Self::Incomplete { .. } => "RestoreIncomplete",
            Self::Repository(error) => error.reason(),
            Self::Cancelled => "Cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_long_list_names_the_first_and_counts_the_rest() {
        let mut list = PathList::default();
        for number in 0..NAMED_PATHS + 7 {
            list.push(Path::new(&format!("/srv/{number}")), "permission denied");
        }
        let text = FilesError::Unreadable { list }.to_string();
        assert!(
            text.starts_with("57 of the files could not be read"),
            "{text}"
        );
        assert!(
            text.contains("/srv/49 (permission denied); and 7 more"),
            "{text}"
        );
        assert!(!text.contains("/srv/50"), "{text}");
    }

    #[test]
    fn names_cannot_break_a_line() {
        assert_eq!(shown(Path::new("/srv/ok é")), "/srv/ok é");
        assert_eq!(shown(Path::new("/srv/a\nb")), "\"/srv/a\\nb\"");
        assert_eq!(shown(Path::new(OsStr::from_bytes(b"/\xff"))), "\"/\\xFF\"");
    }
}
