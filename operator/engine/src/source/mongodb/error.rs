//! What can go wrong with a MongoDB deployment, and what to do then.
//!
//! [`MongodbError::from_driver`] is the one place that reads the driver's errors and the server's
//! codes.

use mongodb::error::{Error as DriverError, ErrorKind};

use crate::class::{Classified, ErrorClass};
use crate::repository::RepositoryError;

/// Server codes that decide what happens next.
pub mod code {
    /// The account lacks a privilege.
    pub const UNAUTHORIZED: i32 = 13;
    /// Credentials were refused.
    pub const AUTHENTICATION_FAILED: i32 = 18;
    /// A collection that is not there.
    pub const NAMESPACE_NOT_FOUND: i32 = 26;
    /// A cursor that is not there, or the document that a scan resumes after.
    pub const CURSOR_NOT_FOUND: i32 = 43;
    /// A time limit of the request was reached.
    pub const MAX_TIME_EXPIRED: i32 = 50;
    /// The document that a scan resumes after is not there.
    pub const KEY_NOT_FOUND: i32 = 211;
    /// The place of a scan in a capped collection was overwritten.
    pub const CAPPED_POSITION_LOST: i32 = 136;
    /// The request does not go with a view.
    pub const COMMAND_NOT_SUPPORTED_ON_VIEW: i32 = 166;
    /// The collection or index under a cursor was dropped.
    pub const QUERY_PLAN_KILLED: i32 = 175;
    /// The time read at is older than what the server keeps.
    pub const SNAPSHOT_TOO_OLD: i32 = 239;
    /// The collection changed after the time read at.
    pub const SNAPSHOT_UNAVAILABLE: i32 = 246;
}

/// What can go wrong with a MongoDB deployment.
#[derive(Debug, thiserror::Error)]
pub enum MongodbError {
    /// The connection string cannot work.
    #[error(
        "cannot use the MongoDB connection string: {cause}; correct the secret or the spec that holds it"
    )]
    InvalidUri {
        /// Why, without secrets.
        cause: String,
    },
    /// A namespace pattern cannot match anything.
    #[error("{cause}; correct include or exclude")]
    InvalidPattern {
        /// Which, and why.
        cause: String,
    },
    /// No connection.
    #[error(
        "cannot {action} at MongoDB {server}: {cause}; check that the server is up, that the address is right and that nothing in between refuses it (a server that wants TLS hangs up on a connection without)"
    )]
    Unreachable {
        /// What was attempted.
        action: String,
        /// Hosts, without credentials.
        server: String,
        /// What came back.
        cause: String,
    },
    /// The connection broke in the middle.
    #[error(
        "the connection to MongoDB {server} broke while it was asked to {action}: {cause}; it is tried again"
    )]
    Interrupted {
        /// What was attempted.
        action: String,
        /// Hosts, without credentials.
        server: String,
        /// What came back.
        cause: String,
    },
    /// Credentials were refused.
    #[error(
        "MongoDB {server} refused the credentials: {cause}; check user, password and authSource of the connection string"
    )]
    AuthenticationFailed {
        /// Hosts, without credentials.
        server: String,
        /// What came back.
        cause: String,
    },
    /// Credentials are good and do not allow this.
    #[error("MongoDB {server} does not allow the account to {action}: {cause}; {advice}")]
    PermissionDenied {
        /// What was attempted.
        action: String,
        /// Hosts, without credentials.
        server: String,
        /// What came back.
        cause: String,
        /// What to grant.
        advice: String,
    },
    /// A router of a sharded cluster answers.
    #[error(
        "MongoDB {server} is a router (mongos) of a sharded cluster, which is not supported; point the connection string at a replica set or a standalone server"
    )]
    Sharded {
        /// Hosts, without credentials.
        server: String,
    },
    /// The server is too old for reads at a point in time.
    #[error(
        "MongoDB {server} is version {version}, and reading a replica set at one point in time needs 5.0 or later; upgrade it"
    )]
    TooOld {
        /// Hosts, without credentials.
        server: String,
        /// `buildInfo.version`.
        version: String,
    },
    /// The member cannot be read from: starting up, recovering, removed, an arbiter.
    #[error("MongoDB {server} cannot be read from: {cause}; it is tried again")]
    NotReadable {
        /// Hosts, without credentials.
        server: String,
        /// What it says of itself.
        cause: String,
    },
    /// Nothing is there that is wanted.
    #[error(
        "no collection of MongoDB {server} is one of those wanted ({patterns}), so there is nothing to back up and no backup was written; correct include and exclude, or create the collection"
    )]
    NothingSelected {
        /// Hosts, without credentials.
        server: String,
        /// What was wanted.
        patterns: String,
    },
    /// Everything is wanted, and there is nothing.
    #[error(
        "MongoDB {server} holds no collection, besides its own and what exclude leaves out, so there is nothing to back up and no backup was written; if it lost its data, restore a backup; if it is the wrong server, correct the connection string; if it is new, the first collection is enough"
    )]
    NothingThere {
        /// Hosts, without credentials.
        server: String,
    },
    /// The replica set does not commit.
    #[error(
        "MongoDB {server} did not make its latest writes durable on a majority of members in {seconds} s; bring the missing members of the replica set back"
    )]
    NoMajority {
        /// Hosts, without credentials.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The read took longer than the server keeps history.
    #[error(
        "reading {namespace} took longer than MongoDB {server} keeps history, so it cannot be read at one point in time; let it keep more, for example an hour, with db.adminCommand({{setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600}}) on every member (and in its configuration file)"
    )]
    SnapshotTooOld {
        /// What was being read.
        namespace: String,
        /// Hosts, without credentials.
        server: String,
    },
    /// The oplog no longer reaches back to the point in time, so nobody can say what was dropped or
    /// renamed since.
    #[error(
        "the oplog of MongoDB {server} was overwritten past the moment of the backup while that was read, so changes of collections cannot be excluded; make it larger with db.adminCommand({{replSetResizeOplog: 1, minRetentionHours: 2}})"
    )]
    OplogOverwritten {
        /// Hosts, without credentials.
        server: String,
    },
    /// Collections change faster than they can be read.
    #[error(
        "{namespace} could not be read at one point in time: {operation} hit it in {rounds} attempts; exclude it, or pause what does so during backups"
    )]
    CatalogChanging {
        /// What changed last.
        namespace: String,
        /// How.
        operation: String,
        /// How often was tried.
        rounds: u32,
    },
    /// A capped collection is overwritten faster than it can be read.
    #[error(
        "the capped collection {namespace} was overwritten faster than it could be read, in {rounds} attempts; make it larger, or exclude it"
    )]
    CappedOverrun {
        /// Which.
        namespace: String,
        /// How often was tried.
        rounds: u32,
    },
    /// What the server sent is not what it should be.
    #[error(
        "what MongoDB {server} sent for {namespace} is damaged: {cause}; run validate on the collection"
    )]
    Malformed {
        /// Which collection.
        namespace: String,
        /// Hosts, without credentials.
        server: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The server refused in another way.
    #[error("cannot {action} at MongoDB {server}: {cause}")]
    Server {
        /// What was attempted.
        action: String,
        /// Hosts, without credentials.
        server: String,
        /// The server's error code; 0 when it was the driver that refused.
        code: i32,
        /// What came back.
        cause: String,
    },
    /// What was read could not be stored.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The run was asked to stop.
    #[error("the run was stopped before MongoDB had been read; no backup was written")]
    Cancelled,
}

impl MongodbError {
    /// The error for what the driver reported when `action` was attempted at `server`.
    #[must_use]
    pub fn from_driver(action: &str, server: &str, error: &DriverError) -> Self {
        let action = action.to_owned();
        let server = server.to_owned();
        match error.kind.as_ref() {
            ErrorKind::Authentication { message, .. } => Self::AuthenticationFailed {
                server,
                cause: message.clone(),
            },
            ErrorKind::ServerSelection { message, .. } | ErrorKind::DnsResolve { message, .. } => {
                Self::Unreachable {
                    action,
                    server,
                    cause: message.clone(),
                }
            }
            ErrorKind::Io(cause) if cause.kind() == std::io::ErrorKind::ConnectionRefused => {
                Self::Unreachable {
                    action,
                    server,
                    cause: cause.to_string(),
                }
            }
            ErrorKind::Io(cause) => Self::Interrupted {
                action,
                server,
                cause: cause.to_string(),
            },
            ErrorKind::ConnectionPoolCleared { message, .. } => Self::Interrupted {
                action,
                server,
                cause: message.clone(),
            },
            ErrorKind::Command(command) => {
                let message = without_command(&command.message);
                let cause = format!("{message} ({})", command.code_name);
                match command.code {
                    code::AUTHENTICATION_FAILED => Self::AuthenticationFailed { server, cause },
                    code::UNAUTHORIZED => Self::PermissionDenied {
                        action,
                        server,
                        cause,
                        advice: "grant it the roles backup and clusterMonitor on the database \
                                 admin"
                            .to_owned(),
                    },
                    // Shutting down, stepping down, not primary, host unreachable, network timeout.
                    6 | 7 | 89 | 91 | 189 | 9001 | 10107 | 11600 | 11602 | 13435 | 13436 => {
                        Self::Interrupted {
                            action,
                            server,
                            cause,
                        }
                    }
                    code => Self::Server {
                        action,
                        server,
                        code,
                        cause,
                    },
                }
            }
            _ => Self::Server {
                action,
                server,
                code: 0,
                cause: error.to_string(),
            },
        }
    }

    /// The server's error code, where it is one that has no variant of its own.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Server { code, .. } => Some(*code),
            Self::PermissionDenied { .. } => Some(code::UNAUTHORIZED),
            _ => None,
        }
    }
}

/// What the server says, without the command: a refusal quotes all of it, with the documents that
/// were to be written, the session and its signature.
pub(crate) fn without_command(message: &str) -> &str {
    message
        .split(" to execute command")
        .next()
        .unwrap_or_default()
}

impl Classified for MongodbError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Repository(error) => error.class(),
            Self::InvalidUri { .. }
            | Self::InvalidPattern { .. }
            | Self::Sharded { .. }
            | Self::TooOld { .. } => ErrorClass::Permanent,
            Self::AuthenticationFailed { .. }
            | Self::PermissionDenied { .. }
            | Self::NothingSelected { .. }
            | Self::NothingThere { .. }
            | Self::SnapshotTooOld { .. }
            | Self::OplogOverwritten { .. } => ErrorClass::Waiting,
            Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::NotReadable { .. }
            | Self::NoMajority { .. }
            | Self::CatalogChanging { .. }
            | Self::CappedOverrun { .. }
            | Self::Server { .. }
            | Self::Cancelled => ErrorClass::Transient,
            Self::Malformed { .. } => ErrorClass::Damaged,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Repository(error) => error.reason(),
            Self::InvalidUri { .. } => "InvalidUri",
            Self::InvalidPattern { .. } => "InvalidSpec",
            Self::Unreachable { .. } => "Unreachable",
            Self::Interrupted { .. } => "Interrupted",
            Self::AuthenticationFailed { .. } => "AuthenticationFailed",
            Self::PermissionDenied { .. } => "PermissionDenied",
            Self::Sharded { .. } | Self::TooOld { .. } => "Unsupported",
            Self::NotReadable { .. } => "NotReadable",
            Self::NothingSelected { .. } | Self::NothingThere { .. } => "NothingSelected",
            Self::NoMajority { .. } => "NoMajority",
            Self::SnapshotTooOld { .. } => "SnapshotTooOld",
            Self::OplogOverwritten { .. } => "OplogOverwritten",
            Self::CatalogChanging { .. } => "CatalogChanging",
            Self::CappedOverrun { .. } => "CappedOverrun",
            Self::Malformed { .. } => "SourceDamaged",
            Self::Server { .. } => "MongodbError",
            Self::Cancelled => "Cancelled",
        }
    }
}
