//! The error of the journal: what was attempted, on what, what came back, what to do.

use std::path::PathBuf;

use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;

use super::run::RunKind;

/// The error of the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder of the state cannot be used.
    #[error(
        "cannot {action} {}: {cause}; the state directory must be a folder that this user can write (--state-dir names another)",
        path.display()
    )]
    Directory {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        cause: std::io::Error,
    },
    /// A program that does not share has the database open.
    #[error(
        "the state database {} is open in another program that does not share it ({cause}); end that program, or use another --state-dir",
        path.display()
    )]
    NotShared {
        /// The database.
        path: PathBuf,
        /// What came back.
        cause: String,
    },
    /// The database is damaged.
    #[error(
        "the state database {} is damaged ({cause}); end every holdfast that uses it, delete the file and start again: what it holds is rebuilt from the destinations, and only the history of runs is lost",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// A newer version wrote the database.
    #[error(
        "the state database {} has format {found} and this version knows formats up to {known}; use the version of holdfast that wrote it, or another --state-dir",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest known.
        known: u64,
    },
    /// The database could not be read or written.
    #[error("cannot {action} in the state database {}: {cause}", path.display())]
    Storage {
        /// What was attempted.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What came back.
        cause: String,
    },
    /// A run that does not go with the one asked for is in progress.
    #[error(
        "a {kind} of {subject} is in progress since {since} (run {run}, process {pid}); wait for it to end"
    )]
    InProgress {
        /// What it does.
        kind: RunKind,
        /// The policy or destination.
        subject: String,
        /// Its id.
        run: String,
        /// The process that does it.
        pid: u32,
        /// Since when.
        since: Timestamp,
    },
    /// The run is not open.
    #[error("run {run} is not open in the state database {}: it has ended, or was never started", path.display())]
    NotOpen {
        /// The id of the run.
        run: String,
        /// The database.
        path: PathBuf,
    },
}

impl Classified for JournalError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Directory { .. } | Self::NotShared { .. } | Self::InProgress { .. } => {
                ErrorClass::Waiting
            }
            Self::Damaged { .. } => ErrorClass::Damaged,
            Self::Newer { .. } | Self::NotOpen { .. } => ErrorClass::Permanent,
            Self::Storage { .. } => ErrorClass::Transient,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "StateDirectoryUnusable",
            Self::NotShared { .. } => "StateNotShared",
            Self::Damaged { .. } => "StateDamaged",
            Self::Newer { .. } => "StateTooNew",
            Self::Storage { .. } => "StateError",
            Self::InProgress { .. } => "InProgress",
            Self::NotOpen { .. } => "RunNotOpen",
        }
    }
}
