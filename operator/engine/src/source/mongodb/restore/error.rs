//! What can go wrong while restoring, and what to do then.

use std::fmt;

use super::report::RestoreReport;
use crate::class::{Classified, ErrorClass};
use crate::repository::RepositoryError;
use crate::source::mongodb::MongodbError;
use crate::source::mongodb::error::without_command;

/// The error of a restore into MongoDB.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A pattern of what to restore, or of what to rename, is none, or chooses nothing.
    #[error("cannot restore what was asked: {cause}")]
    Request {
        /// What is wrong with it, and what to do.
        cause: String,
    },
    /// Target namespaces are in the way. Nothing was written.
    #[error(
        "cannot restore into {target}, nothing was written: {}. Drop them, restore under another name (rename), or choose onConflict: Drop (they are replaced) or Merge (only what is missing is added)",
        Listed(.conflicts)
    )]
    Conflict {
        /// The server, without credentials.
        target: String,
        /// Each namespace in the way, and why.
        conflicts: Vec<String>,
    },
    /// The backup does not hold what it should.
    #[error(
        "the backup of {namespace} is damaged: {cause}. Run `holdfast check`, and restore from another destination or an older backup"
    )]
    Damaged {
        /// The original namespace, or a path in the snapshot.
        namespace: String,
        /// What was found.
        cause: String,
    },
    /// The backup cannot be read.
    #[error("cannot read the backup: {0}")]
    Repository(#[from] RepositoryError),
    /// The server cannot be reached, or does not let the account in.
    #[error(transparent)]
    Mongodb(#[from] MongodbError),
    /// The server refused a command, or went away.
    #[error("cannot {action}: {cause}")]
    Server {
        /// What was attempted, on what.
        action: String,
        /// What came back, and what to do.
        cause: String,
        /// What it means for the retry.
        class: ErrorClass,
    },
    /// The server took a batch and refused documents of it.
    #[error(
        "{namespace} did not take {count} of the documents: {}. Another program may be writing to it, or it was made with other options than the original",
        Listed(.first)
    )]
    Rejected {
        /// The target namespace.
        namespace: String,
        /// How many.
        count: u64,
        /// The first few messages of the server.
        first: Vec<String>,
    },
    /// Something failed after writing had begun.
    #[error("the restore into {target} stopped halfway: {cause}. Done so far: {done}. {}", again(.cause))]
    Interrupted {
        /// The server, without credentials.
        target: String,
        /// What failed.
        #[source]
        cause: Box<RestoreError>,
        /// Which namespaces are complete, which are partial.
        done: String,
    },
    /// What was read back is not what was backed up.
    #[error(
        "everything was written to {}, but what was read back differs from the backup: {}. If other programs write there, stop them and restore again; if none does, the server lost or changed documents: check its log and its disk",
        .report.target,
        Listed(.mismatches)
    )]
    Mismatch {
        /// Each namespace that differs, and how.
        mismatches: Vec<String>,
        /// All that was done.
        report: Box<RestoreReport>,
    },
    /// The run was asked to stop.
    #[error("the run was asked to stop")]
    Cancelled,
}

impl RestoreError {
    /// The backup of a namespace is not what it should be.
    pub(super) fn damaged(namespace: &str, cause: String) -> Self {
        Self::Damaged {
            namespace: namespace.to_owned(),
            cause,
        }
    }

    /// What was asked cannot be done, whatever the server says.
    pub(super) fn request(cause: impl Into<String>) -> Self {
        Self::Request {
            cause: cause.into(),
        }
    }

    /// The driver reported a failure of what is described by `action`.
    pub(super) fn server(action: impl Into<String>, error: &mongodb::error::Error) -> Self {
        Self::Server {
            action: action.into(),
            cause: format!("{}{}", cause(error), advice(class(error))),
            class: class(error),
        }
    }
}

impl Classified for RestoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Request { .. } | Self::Conflict { .. } | Self::Rejected { .. } => {
                ErrorClass::Permanent
            }
            Self::Damaged { .. } | Self::Mismatch { .. } => ErrorClass::Damaged,
            Self::Repository(error) => error.class(),
            Self::Mongodb(error) => error.class(),
            Self::Server { class, .. } => *class,
            Self::Interrupted { cause, .. } => cause.class(),
            Self::Cancelled => ErrorClass::Transient,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Request { .. } => "InvalidRequest",
            Self::Conflict { .. } => "TargetNotEmpty",
            Self::Damaged { .. } => "Damaged",
            Self::Repository(error) => error.reason(),
            Self::Mongodb(error) => error.reason(),
            Self::Server { class, .. } => match class {
                ErrorClass::Transient => "Unreachable",
                ErrorClass::Waiting => "Unauthorized",
                ErrorClass::Permanent | ErrorClass::Damaged => "CommandFailed",
            },
            Self::Rejected { .. } => "DocumentsRejected",
            Self::Interrupted { cause, .. } => cause.reason(),
            Self::Mismatch { .. } => "DigestMismatch",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// A list in a sentence, shortened when it is long.
struct Listed<'l>(&'l [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

fn advice(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Transient => ". Check that the server is up, then restore again",
        ErrorClass::Waiting => {
            ". Give the account the role `restore` (and `readAnyDatabase`, so that what was written can be compared with the backup)"
        }
        ErrorClass::Permanent | ErrorClass::Damaged => "",
    }
}

fn again(cause: &RestoreError) -> &'static str {
    match cause.class() {
        ErrorClass::Damaged => "What was written is incomplete",
        _ => {
            "Restore again with onConflict: Drop (or Merge, which keeps what is there); what was written so far is incomplete"
        }
    }
}

/// What the server or the driver said, without the whole reply that the driver's own text repeats.
pub(super) fn cause(error: &mongodb::error::Error) -> String {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => format!(
            "{} ({}, code {})",
            without_command(&command.message),
            command.code_name,
            command.code
        ),
        kind => kind.to_string(),
    }
}

/// The code of a command that the server refused.
pub(super) fn command_code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// Codes by which a server says that it goes away, or is not the primary any more.
const STEPPING_DOWN: [i32; 11] = [6, 7, 89, 91, 189, 9001, 10058, 10107, 11600, 11602, 13435];
/// `Unauthorized`.
pub(super) const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;
/// `WriteConcernFailed`: written, and not yet on a majority.
const WRITE_CONCERN_FAILED: i32 = 64;

/// What a failure of the driver means for the retry.
pub(super) fn class(error: &mongodb::error::Error) -> ErrorClass {
    use mongodb::error::ErrorKind;
    match error.kind.as_ref() {
        ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::DnsResolve { .. } => ErrorClass::Transient,
        ErrorKind::Authentication { .. } => ErrorClass::Waiting,
        ErrorKind::Command(command) => class_of_code(command.code),
        _ if error.contains_label(mongodb::error::RETRYABLE_WRITE_ERROR) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    }
}

/// What an error code of the server means for the retry.
pub(super) fn class_of_code(code: i32) -> ErrorClass {
    match code {
        UNAUTHORIZED | AUTHENTICATION_FAILED => ErrorClass::Waiting,
        WRITE_CONCERN_FAILED => ErrorClass::Transient,
        code if STEPPING_DOWN.contains(&code) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    }
}
