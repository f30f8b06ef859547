//! The resource types of Holdfast and the rules they obey.
//!
//! One file per kind, and one per thing that several kinds share. A type here
//! is what a person writes in YAML; nothing in this crate contacts anything.
//!
//! The rules hold in three layers, and all three hold in both hosts:
//!
//! 1. the schema (types, patterns, defaults, `oneOf`), which the API server
//!    checks in a cluster and [`manifest`] checks for plain files;
//! 2. the CEL rules inside the schema, for what spans several fields;
//! 3. [`rules`], for what neither can say in full (dates that never come), or
//!    not in good words (cron, time zones, renames): the reconcilers call it in
//!    a cluster, [`manifest`] calls it for plain files.

// KubeSchema repeats each struct, `pub` and all, inside a function.
#![allow(unreachable_pub)]
// Printer columns repeat `type_ = "string"`, one each.
#![allow(clippy::duplicated_attributes)]

pub mod backup;
pub mod crdgen;
pub mod destination;
pub mod job;
pub mod manifest;
pub mod meta;
pub mod policy;
pub mod quantity;
pub mod restore;
pub mod retention;
pub mod rules;
pub mod schedule;
pub mod secret;
pub mod source;

mod cron;
mod patterns;
mod schema;

pub use backup::{Backup, BackupCopy, BackupSpec, BackupStatus};
pub use destination::{
    DeletionPolicy, Destination, DestinationSpec, DestinationStatus, Encryption, Local, S3,
    S3Addressing, Sftp, Storage,
};
pub use job::{ClaimRef, FilesClaim, JobTemplate};
pub use policy::{
    BackupPolicy, BackupPolicySpec, BackupPolicyStatus, Hook, Hooks, LastBackup, PolicyDestination,
    PolicyFailure, PolicyTask,
};
pub use quantity::{Bytes, Duration, ParseQuantityError};
pub use restore::{
    LATEST, OnConflict, Restore, RestoreFrom, RestorePlan, RestoreProgress, RestoreSpec,
    RestoreStatus, RestoreTarget, RestoreToFiles, RestoreToMongodb, RestoreToOriginal,
};
pub use retention::Retention;
pub use schedule::{Schedule, ScheduleError};
pub use secret::{SecretKeySelector, SecretSource};
pub use source::{FilesSource, MongoConnection, MongodbSource, OnUnreadable, Source, SourceKind};

/// The API group of every kind.
pub const GROUP: &str = "holdfast.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";
/// What `apiVersion` must say.
pub const API_VERSION: &str = "holdfast.dev/v1alpha1";
/// The namespace of an object of a plain file that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The tag that every snapshot of ours bears; users may not set it.
pub const RESERVED_TAG: &str = "holdfast";
/// How the tag begins that names a snapshot's policy; users may not set it.
pub const RESERVED_TAG_PREFIX: &str = "policy=";
