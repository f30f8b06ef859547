//! The error of a storage: what was attempted, where, what came back, what to do.

use std::time::Duration;

use crate::class::{Classified, ErrorClass};

/// What kind of thing went wrong; decides the class and the advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageErrorKind {
    /// The object is not there.
    NotFound,
    /// The place itself is not there: no such bucket, no such directory and no parent.
    NoSuchPlace,
    /// Credentials were refused.
    AuthenticationFailed,
    /// Credentials are good and do not allow this.
    PermissionDenied,
    /// The server's SSH key is not the one that is known.
    HostKeyMismatch,
    /// The server's SSH key is not known at all.
    HostKeyUnknown,
    /// No space, or a quota reached.
    Full,
    /// No connection: name resolution, refused, timed out.
    Unreachable,
    /// The connection broke, or the service asked to come back later.
    Interrupted,
    /// A retention lock forbids the removal.
    Retained,
    /// The storage read back something else than was written.
    Corrupt,
    /// The description cannot work as it is.
    InvalidConfig,
    /// Anything else.
    Other,
}

/// The error of a storage.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} at {location}: {cause}{}", advice_suffix(*kind))]
pub struct StorageError {
    /// What kind of thing went wrong.
    pub kind: StorageErrorKind,
    /// What was attempted: `write data/ab/abcd…`.
    pub action: String,
    /// On what: [`super::Storage::location`].
    pub location: String,
    /// What came back, without secrets.
    pub cause: String,
    /// How long the service asked to wait.
    pub retry_after: Option<Duration>,
}

impl StorageError {
    /// An error of `kind`: `action` was attempted at `location` and `cause` came back.
    pub fn new(
        kind: StorageErrorKind,
        action: impl Into<String>,
        location: impl Into<String>,
        cause: impl std::fmt::Display,
    ) -> Self {
        Self {
            kind,
            action: action.into(),
            location: location.into(),
            cause: cause.to_string(),
            retry_after: None,
        }
    }
}

fn advice_suffix(kind: StorageErrorKind) -> &'static str {
    match kind {
        StorageErrorKind::NotFound | StorageErrorKind::Other => "",
        StorageErrorKind::NoSuchPlace => "; create it, or correct the Destination",
        StorageErrorKind::AuthenticationFailed => {
            "; check the credentials that the Destination names"
        }
        StorageErrorKind::PermissionDenied => "; grant the Destination's account this right",
        StorageErrorKind::HostKeyMismatch => {
            "; if the server was reinstalled, set the Destination's hostKey to its new key, \
             otherwise somebody may be in between"
        }
        StorageErrorKind::HostKeyUnknown => {
            "; set the Destination's hostKey to the key that the server's owner gives you"
        }
        StorageErrorKind::Full => "; free space or raise the quota",
        StorageErrorKind::Unreachable => "; check that the host is up and the address is right",
        StorageErrorKind::Interrupted => "; it is tried again",
        StorageErrorKind::Retained => "; it can be removed when its retention has ended",
        StorageErrorKind::Corrupt => "; check the disk or service behind the Destination",
        StorageErrorKind::InvalidConfig => "; correct the Destination",
    }
}

impl Classified for StorageError {
    fn class(&self) -> ErrorClass {
        match self.kind {
            StorageErrorKind::Interrupted
            | StorageErrorKind::Unreachable
            | StorageErrorKind::Other => ErrorClass::Transient,
            StorageErrorKind::NoSuchPlace
            | StorageErrorKind::AuthenticationFailed
            | StorageErrorKind::PermissionDenied
            | StorageErrorKind::HostKeyUnknown
            | StorageErrorKind::Full
            | StorageErrorKind::Retained => ErrorClass::Waiting,
            StorageErrorKind::HostKeyMismatch | StorageErrorKind::InvalidConfig => {
                ErrorClass::Permanent
            }
            StorageErrorKind::NotFound | StorageErrorKind::Corrupt => ErrorClass::Damaged,
        }
    }

    fn reason(&self) -> &'static str {
        match self.kind {
            StorageErrorKind::NotFound => "ObjectMissing",
            StorageErrorKind::NoSuchPlace => "NoSuchPlace",
            StorageErrorKind::AuthenticationFailed => "AuthenticationFailed",
            StorageErrorKind::PermissionDenied => "PermissionDenied",
            StorageErrorKind::HostKeyMismatch => "HostKeyMismatch",
            StorageErrorKind::HostKeyUnknown => "HostKeyUnknown",
            StorageErrorKind::Full => "StorageFull",
            StorageErrorKind::Unreachable => "Unreachable",
            StorageErrorKind::Interrupted => "Interrupted",
            StorageErrorKind::Retained => "Retained",
            StorageErrorKind::Corrupt => "Damaged",
            StorageErrorKind::InvalidConfig => "InvalidSpec",
            StorageErrorKind::Other => "StorageError",
        }
    }
}
