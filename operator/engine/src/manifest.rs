//! `/holdfast/manifest.json`: what a snapshot holds, in more detail than its tree can say.
//!
//! Versioned by [`Manifest::version`]; fields are only ever added. Names are camelCase, times are
//! RFC 3339, sizes are bytes.

use serde::{Deserialize, Serialize};

/// The path of the manifest inside every snapshot of ours.
pub const MANIFEST_PATH: &str = "/holdfast/manifest.json";

/// The version that this code writes.
pub const MANIFEST_VERSION: u32 = 1;

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`MANIFEST_VERSION`] of the writer.
    pub version: u32,
    /// The version of Holdfast that wrote it.
    pub holdfast_version: String,
    /// `<namespace>/<policy>`.
    pub policy: String,
    /// When the run began.
    pub start_time: jiff::Timestamp,
    /// When the source had been read.
    pub completion_time: jiff::Timestamp,
    /// What was read.
    pub source: SourceManifest,
}

/// What was read, by kind of source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceManifest {
    /// A MongoDB deployment.
    Mongodb(MongodbManifest),
    /// Directories of a machine.
    Files(FilesManifest),
}

/// A MongoDB deployment as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MongodbManifest {
    /// `buildInfo.version` of the server.
    pub server_version: String,
    /// `featureCompatibilityVersion`, when the account may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_compatibility_version: Option<String>,
    /// Name of the replica set; absent for a standalone server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_set: Option<String>,
    /// The one time at which everything was read; absent when there is none (a standalone server).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_time: Option<ClusterTime>,
    /// Whether the whole is one point in time. False for a standalone server, and where a
    /// collection cannot be read at a time (capped); `notes` says why.
    pub point_in_time: bool,
    /// Sentences for a person: what was read in another way than asked or expected, and why.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Every collection, view and time series, in order of namespace.
    pub collections: Vec<CollectionManifest>,
    /// How many users and roles were read.
    #[serde(default)]
    pub users: u64,
    /// How many roles were read.
    #[serde(default)]
    pub roles: u64,
}

/// A MongoDB cluster time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterTime {
    /// Seconds since the epoch.
    pub t: u32,
    /// Ordinal within the second.
    pub i: u32,
}

/// One collection as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectionManifest {
    /// Database.
    pub db: String,
    /// Collection, unescaped.
    pub name: String,
    /// `collection`, `view` or `timeseries`, as `listCollections` says it.
    pub kind: String,
    /// The collection's UUID, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Whether it is capped: order matters, and it is not read at the cluster time.
    #[serde(default)]
    pub capped: bool,
    /// Path of its `.bson` node in the snapshot; absent for views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<String>,
    /// Path of its `.metadata.json` node in the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_path: Option<String>,
    /// Documents (buckets, for a time series).
    pub documents: u64,
    /// Bytes of BSON.
    pub bytes: u64,
    /// How many indexes, `_id_` included.
    pub indexes: u32,
    /// The content digest: 32 hex digits of the sum modulo 2^128 of the XXH3-128 hashes of the raw
    /// documents; it does not depend on their order.
    pub digest: String,
    /// Natural-order ranges of whole documents, in order; together they are the `.bson` node.
    #[serde(default)]
    pub segments: Vec<SegmentManifest>,
}

/// A natural-order range of whole documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentManifest {
    /// Ids of its blobs, in order: nearly always one.
    pub blobs: Vec<String>,
    /// Bytes of BSON.
    pub bytes: u64,
    /// Documents.
    pub documents: u64,
    /// recordId of its first document, where the server told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_record_id: Option<i64>,
}

/// Directories of a machine as they were read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesManifest {
    /// The paths asked for.
    pub paths: Vec<String>,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Entries left out by the excludes or by the bounds of a file system; what lies below an
    /// excluded directory is not counted.
    #[serde(default)]
    pub excluded: u64,
    /// What could not be read and was skipped because the policy says so.
    #[serde(default)]
    pub skipped: Vec<SkippedFile>,
    /// Sentences for a person: what was read in another way than asked or expected, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A file that could not be read and was skipped because the policy says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedFile {
    /// Its path.
    pub path: String,
    /// Why it could not be read.
    pub reason: String,
}
