//! What is backed up: one module per kind of source, and the small contract they share.
//!
//! A source that makes its own bytes (a database) hands *segments* to a [`Stage`] in any order,
//! from many tasks; each is stored at once and gets a number. When it has read everything it says
//! which files the snapshot shall show and of which segments each is made. Nothing is composed,
//! and no snapshot is written, before the source has said that all was read well.
//!
//! Putting back reads through [`Content`].

pub mod files;
pub mod mongodb;

use async_trait::async_trait;
use bytes::Bytes;

use crate::repository::RepositoryError;

/// The number of a segment, given by the stage when it takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

/// The id of a blob in a repository: SHA-256 of its plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 32]);

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Takes segments from a source that makes its own bytes.
#[async_trait]
pub trait Stage: Send + Sync {
    /// Takes one segment: whole documents, or a small file. Waits while the repository is behind,
    /// so that a source holds a bounded number of segments. Segments may be empty: an empty file
    /// is one with no parts.
    ///
    /// # Errors
    /// When the repository can take no more; the run has failed.
    async fn put(&self, segment: Bytes) -> Result<SegmentNumber, RepositoryError>;
}

/// A regular file that the snapshot shall show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposedFile {
    /// Absolute path inside the snapshot, with `/`.
    pub path: String,
    /// Its content, in order.
    pub parts: Vec<SegmentNumber>,
}

/// What a node of a snapshot's tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file: the ids of its blobs, in order.
    File(Vec<BlobId>),
    /// A directory.
    Directory,
    /// A symbolic link and its target, as raw bytes.
    Symlink(Vec<u8>),
    /// A block device number.
    BlockDevice(u64),
    /// A character device number.
    CharDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A node of a snapshot's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, as raw bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Size in bytes of a regular file.
    pub size: u64,
    /// Unix permission bits (with setuid, setgid, sticky), where known.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last change of the content.
    pub mtime: Option<jiff::Timestamp>,
    /// Time of the last access.
    pub atime: Option<jiff::Timestamp>,
    /// Inode and device, to recognise hard links; 0 when not known.
    pub inode: u64,
    /// Device of the inode.
    pub device_id: u64,
    /// Number of hard links.
    pub links: u64,
    /// Extended attributes: name and value.
    pub extended_attributes: Vec<(String, Vec<u8>)>,
}

/// Reads the tree and the blobs of one snapshot. Calls may run side by side.
#[async_trait]
pub trait Content: Send + Sync {
    /// The node at an absolute path inside the snapshot (raw bytes, with `/`), or `None`.
    async fn node(&self, path: &[u8]) -> Result<Option<Node>, RepositoryError>;

    /// The children of the directory at an absolute path, in order of name.
    async fn children(&self, path: &[u8]) -> Result<Vec<Node>, RepositoryError>;

    /// The plain bytes of a data blob, verified against its id.
    async fn blob(&self, id: &BlobId) -> Result<Bytes, RepositoryError>;

    /// How many plain bytes a data blob has. The index knows it without reading the blob.
    async fn blob_size(&self, id: &BlobId) -> Result<u64, RepositoryError> {
        Ok(u64::try_from(self.blob(id).await?.len()).unwrap_or(u64::MAX))
    }
}
