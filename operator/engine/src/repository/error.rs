//! The error of a repository: what was attempted, on what, what came back, what to do.

use super::check::MAX_PARTS;
use crate::class::{Classified, ErrorClass};
use crate::destination::StorageError;

/// The error of a repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The storage below failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no repository at the place.
    #[error(
        "there is no repository at {location}; it is made by the first backup, or check the path"
    )]
    NotARepository {
        /// The place.
        location: String,
    },
    /// A part of the data is asked for that there cannot be.
    #[error(
        "cannot read part {n} of {of} of the data in {location} back: the data has at most {MAX_PARTS} parts, counted from 1; choose fewer, or a percentage"
    )]
    NoSuchPart {
        /// The place.
        location: String,
        /// Which part.
        n: u32,
        /// Of how many.
        of: u32,
    },
    /// The config is not the one that the repository was opened with.
    #[error(
        "the config of the repository at {location} is not the one that it was opened with: another repository was put in its place, or it was damaged; no backup was written. It is opened anew the next time, which tells"
    )]
    Replaced {
        /// The place.
        location: String,
    },
    /// Objects are there, and they are not those of a repository.
    #[error(
        "{location} holds files and none is a repository's config ({found}); choose an empty place or prefix, so that nothing of yours is mixed with backups"
    )]
    NotEmpty {
        /// The place.
        location: String,
        /// One of the things found.
        found: String,
    },
    /// No key of the repository opens with the password.
    #[error(
        "the password does not open the repository at {location}; check encryption.password of the Destination"
    )]
    WrongPassword {
        /// The place.
        location: String,
    },
    /// Another process holds a lock that does not go with what was asked.
    #[error(
        "the repository at {location} is locked {kind} by {holder} since {since}; wait for it to end (a lock that is not refreshed for 30 minutes is taken as left over)"
    )]
    Locked {
        /// The place.
        location: String,
        /// `exclusively` or `for writing`.
        kind: &'static str,
        /// `user@host, process 4711`.
        holder: String,
        /// When it was made.
        since: String,
    },
    /// No snapshot has an id that begins so.
    #[error(
        "no snapshot in {location} has an id that begins with {id}; `holdfast backups` lists them"
    )]
    UnknownSnapshot {
        /// The place.
        location: String,
        /// What was asked for.
        id: String,
    },
    /// Several snapshots have an id that begins so.
    #[error(
        "{count} snapshots in {location} have an id that begins with {id} ({examples}); give more of it"
    )]
    AmbiguousSnapshot {
        /// The place.
        location: String,
        /// What was asked for.
        id: String,
        /// How many.
        count: usize,
        /// A few of them.
        examples: String,
    },
    /// Data is missing or does not match its id.
    #[error(
        "the repository at {location} is damaged: {cause}; nothing was changed. Run `holdfast check`, and restore from another destination if there is one"
    )]
    Damaged {
        /// The place.
        location: String,
        /// What was found.
        cause: String,
    },
    /// A source could not be read in full; no snapshot was written.
    #[error(
        "{count} of the source's entries could not be read, first {first}; no backup was written"
    )]
    SourceIncomplete {
        /// How many.
        count: usize,
        /// The first of them, and why.
        first: String,
    },
    /// The run was asked to stop.
    #[error("the run was stopped before it had ended; no backup was written")]
    Cancelled,
    /// A repository is there already.
    #[error("there is a repository at {location} already; open it, or choose another place")]
    AlreadyExists {
        /// The place.
        location: String,
    },
    /// The lock that protects what was being done is gone, or may be taken away.
    #[error(
        "the lock on the repository at {location} was lost: {cause}; no backup was written, as a prune may have run meanwhile. It is tried again"
    )]
    LockLost {
        /// The place.
        location: String,
        /// Why.
        cause: String,
    },
    /// A run took so long that what it counts on may have been pruned.
    #[error(
        "the run on the repository at {location} took {hours} hours, and packs that a prune marked meanwhile may be gone; no backup was written. Back up less at once, or to a faster place"
    )]
    TookTooLong {
        /// The place.
        location: String,
        /// How long it took.
        hours: u64,
    },
    /// No key has this id.
    #[error("no key of the repository at {location} has the id {id}")]
    UnknownKey {
        /// The place.
        location: String,
        /// What was asked for.
        id: String,
    },
    /// The key is the one that is in use.
    #[error(
        "key {id} of the repository at {location} is in use; open the repository with another password first"
    )]
    KeyInUse {
        /// The place.
        location: String,
        /// The key.
        id: String,
    },
    /// A library failed in a way that has no name of its own.
    #[error("cannot {action} in the repository at {location}: {cause}")]
    Engine {
        /// What was attempted.
        action: String,
        /// The place.
        location: String,
        /// What came back.
        cause: String,
    },
}

impl Classified for RepositoryError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Storage(error) => error.class(),
            Self::NotARepository { .. } | Self::WrongPassword { .. } | Self::Locked { .. } => {
                ErrorClass::Waiting
            }
            Self::NotEmpty { .. }
            | Self::AlreadyExists { .. }
            | Self::NoSuchPart { .. }
            | Self::UnknownKey { .. }
            | Self::KeyInUse { .. }
            | Self::UnknownSnapshot { .. }
            | Self::AmbiguousSnapshot { .. } => ErrorClass::Permanent,
            Self::Damaged { .. } => ErrorClass::Damaged,
            Self::SourceIncomplete { .. }
            | Self::LockLost { .. }
            | Self::Replaced { .. }
            | Self::TookTooLong { .. }
            | Self::Cancelled
            | Self::Engine { .. } => ErrorClass::Transient,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Storage(error) => error.reason(),
            Self::NotARepository { .. } => "NotARepository",
            Self::Replaced { .. } => "RepositoryChanged",
            Self::NotEmpty { .. } => "NotEmpty",
            Self::NoSuchPart { .. } => "InvalidSpec",
            Self::WrongPassword { .. } => "WrongPassword",
            Self::Locked { .. } => "Locked",
            Self::UnknownSnapshot { .. } => "UnknownBackup",
            Self::AmbiguousSnapshot { .. } => "AmbiguousBackup",
            Self::Damaged { .. } => "Damaged",
            Self::SourceIncomplete { .. } => "SourceIncomplete",
            Self::Cancelled => "Cancelled",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::LockLost { .. } => "LockLost",
            Self::TookTooLong { .. } => "TookTooLong",
            Self::UnknownKey { .. } => "UnknownKey",
            Self::KeyInUse { .. } => "KeyInUse",
            Self::Engine { .. } => "RepositoryError",
        }
    }
}
