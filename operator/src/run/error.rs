//! The error of a run: whatever ended it, with its class and reason.

use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::destination::StorageError;
use holdfast_engine::repository::RepositoryError;

use crate::host::Name;
use crate::journal::JournalError;
use crate::reconcile::dereference::DereferenceError;
use crate::reconcile::hosting::{self, Refusal};
use crate::run::hooks::HookError;

/// Whatever ended a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A destination is named that nobody declares.
    #[error("no Destination {0} is declared; declare it, or correct the name")]
    UnknownDestination(Name),
    /// A policy is named that nobody declares.
    #[error("no BackupPolicy {0} is declared; declare it, or correct the name")]
    UnknownPolicy(Name),
    /// A spec that the rules let through and that cannot work.
    #[error("{object} cannot work as it is declared: {message}")]
    InvalidSpec {
        /// The object.
        object: String,
        /// What is wrong.
        message: String,
    },
    /// A spec that is right, and asks for what this host does not have.
    #[error("{object} cannot work here: {message}")]
    WrongHost {
        /// The object.
        object: String,
        /// The reason.
        reason: &'static str,
        /// What it asks for, and what to do.
        message: String,
    },
    /// A Restore went away before it was begun.
    #[error("no Restore {0} is declared any more; nothing was restored")]
    UnknownRestore(Name),
    /// An object went away while it was looked at.
    #[error("{kind} {name} is not there any more; nothing was done")]
    Gone {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: Name,
    },
    /// The API server did not do what was asked of it.
    #[error("cannot {action} {kind} {name}: {message}")]
    Api {
        /// What was attempted.
        action: &'static str,
        /// The kind of the object.
        kind: String,
        /// Its name.
        name: Name,
        /// What came back.
        message: String,
        /// Whether it may go well another time.
        class: ErrorClass,
    },
    /// The repository that was at a destination is not there any more.
    #[error("{}", crate::plan::policy::repository_missing(&destination.name, known))]
    RepositoryMissing {
        /// The destination.
        destination: Name,
        /// The id of the repository.
        known: String,
    },
    /// Another repository lies there now.
    #[error("{}", crate::plan::policy::repository_changed(&destination.name, found, known))]
    RepositoryChanged {
        /// The destination.
        destination: Name,
        /// The id of the one that is there.
        found: String,
        /// The id of the one that was there.
        known: String,
    },
    /// There is nothing to restore, copy or export.
    #[error("{policy} has no backup at {destinations} yet; `holdfast backup {policy}` makes one")]
    NoBackup {
        /// The policy.
        policy: Name,
        /// Where was looked.
        destinations: String,
    },
    /// A backup was asked for that is nowhere.
    #[error(
        "no backup has an id that begins with {id} (looked at {destinations}); \
         `holdfast backups` lists them"
    )]
    UnknownBackup {
        /// What was asked for.
        id: String,
        /// Where was looked.
        destinations: String,
    },
    /// Several backups have an id that begins so.
    #[error("{count} backups have an id that begins with {id} ({examples}); give more of it")]
    AmbiguousBackup {
        /// What was asked for.
        id: String,
        /// How many.
        count: usize,
        /// A few of them.
        examples: String,
    },
    /// A backup of one kind of source is to be put where only another kind goes.
    #[error(
        "backup {id} holds {source_kind} and cannot be restored to {target}; choose a target of its kind"
    )]
    WrongTarget {
        /// The backup.
        id: String,
        /// What it holds.
        source_kind: &'static str,
        /// Where it was to go.
        target: &'static str,
    },
    /// The snapshot was made by somebody else.
    #[error("snapshot {id} was not made by Holdfast and is never touched by it; use restic")]
    Foreign {
        /// The snapshot.
        id: String,
    },
    /// The state could not be read or written, or another run goes on.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A check found damage.
    #[error(
        "the repository of {destination} is damaged, {count} findings, first: {first}; nothing was \
         changed. Restore from another destination if there is one"
    )]
    Damaged {
        /// The destination.
        destination: Name,
        /// How many findings.
        count: usize,
        /// The first.
        first: String,
    },
    /// A secret has no value.
    #[error(transparent)]
    Dereference(#[from] DereferenceError),
    /// A storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A repository failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A source failed, or what it is put back into.
    #[error("{message}")]
    Source {
        /// The source's own words.
        message: String,
        /// Its class.
        class: ErrorClass,
        /// Its reason.
        reason: &'static str,
    },
    /// A local file could not be read or written.
    #[error("cannot {action} {path}: {cause}")]
    Local {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: String,
        /// What came back.
        cause: std::io::Error,
    },
    /// The run was asked to stop.
    #[error("the run was stopped before it had ended")]
    Cancelled,
    /// The run's task died.
    #[error("the run ended in a defect of the program: {0}; please report it")]
    Panicked(String),
}

impl RunError {
    /// What the API server answered to a request about an object.
    pub fn api(
        action: &'static str,
        kind: impl Into<String>,
        name: &Name,
        error: &kube::Error,
    ) -> Self {
        let class = match error {
            // Forbidden: somebody may grant it. Invalid: another version of the program.
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => ErrorClass::Waiting,
            kube::Error::Api(status) if matches!(status.code, 400 | 422) => ErrorClass::Permanent,
            _ => ErrorClass::Transient,
        };
        Self::Api {
            action,
            kind: kind.into(),
            name: name.clone(),
            message: error.to_string(),
            class,
        }
    }

    /// Fails when anything was refused to the object.
    ///
    /// # Errors
    /// [`Self::WrongHost`].
    pub fn refused(object: String, refusals: &[Refusal]) -> Result<(), Self> {
        match hosting::summary(refusals) {
            Some((reason, message)) => Err(Self::WrongHost {
                object,
                reason,
                message,
            }),
            None => Ok(()),
        }
    }

    /// Keeps a source's own words, class and reason.
    pub fn source(error: &impl Classified) -> Self {
        Self::Source {
            message: error.to_string(),
            class: error.class(),
            reason: error.reason(),
        }
    }
}

impl Classified for RunError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::UnknownDestination(_)
            | Self::UnknownPolicy(_)
            | Self::UnknownRestore(_)
            | Self::Gone { .. }
            | Self::RepositoryMissing { .. }
            | Self::RepositoryChanged { .. }
            | Self::NoBackup { .. } => ErrorClass::Waiting,
            Self::Api { class, .. } => *class,
            Self::InvalidSpec { .. }
            | Self::WrongHost { .. }
            | Self::UnknownBackup { .. }
            | Self::AmbiguousBackup { .. }
            | Self::WrongTarget { .. }
            | Self::Foreign { .. } => ErrorClass::Permanent,
            Self::Damaged { .. } => ErrorClass::Damaged,
            Self::Dereference(error) => error.class(),
            Self::Storage(error) => error.class(),
            Self::Repository(error) => error.class(),
            Self::Hook(error) => error.class(),
            Self::Journal(error) => error.class(),
            Self::Source { class, .. } => *class,
            Self::Local { .. } | Self::Cancelled | Self::Panicked(_) => ErrorClass::Transient,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownDestination(_) => "DestinationNotFound",
            Self::UnknownPolicy(_) => "PolicyNotFound",
            Self::InvalidSpec { .. } => "InvalidSpec",
            Self::WrongHost { reason, .. } => reason,
            Self::UnknownRestore(_) => "RestoreNotFound",
            Self::Gone { .. } => "Gone",
            Self::Api { .. } => "ApiServerRefused",
            Self::RepositoryMissing { .. } => "RepositoryMissing",
            Self::RepositoryChanged { .. } => "RepositoryChanged",
            Self::NoBackup { .. } => "NoBackup",
            Self::UnknownBackup { .. } => "UnknownBackup",
            Self::AmbiguousBackup { .. } => "AmbiguousBackup",
            Self::WrongTarget { .. } => "WrongTarget",
            Self::Foreign { .. } => "Foreign",
            Self::Damaged { .. } => "Damaged",
            Self::Dereference(error) => error.reason(),
            Self::Storage(error) => error.reason(),
            Self::Repository(error) => error.reason(),
            Self::Hook(error) => error.reason(),
            Self::Journal(error) => error.reason(),
            Self::Source { reason, .. } => reason,
            Self::Local { .. } => "LocalFile",
            Self::Cancelled => "Cancelled",
            Self::Panicked(_) => "Defect",
        }
    }
}
