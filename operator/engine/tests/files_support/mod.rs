//! What the tests of the `files` source share: a backup made by hand, and a full account of a
//! directory to compare two by.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its part of it"
)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_engine::destination::{LocalConfig, StorageConfig, connect};
use holdfast_engine::manifest::{FilesManifest, MANIFEST_VERSION, Manifest, SourceManifest};
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CommitRequest, InitOptions, NewSnapshot, Repository, RepositoryError, Snapshot,
};
use holdfast_engine::source::files::{
    FilesConfig, FilesError, OnConflict, OnUnreadable, RestoreFilesReport, RestoreFilesRequest,
    RestoreTarget, read_files, restore_files,
};
use holdfast_engine::source::{BlobId, Content, Node, NodeKind};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// A backup made by hand, so that it can hold what no backup of ours would.
#[derive(Default)]
pub(crate) struct HandMade {
    children: BTreeMap<Vec<u8>, Vec<Node>>,
    blobs: BTreeMap<[u8; 32], Bytes>,
    /// Blobs that cannot be read.
    pub damaged: Vec<BlobId>,
}

impl HandMade {
    /// A backup with an empty `/files`.
    pub fn new() -> Self {
        let mut backup = Self::default();
        backup.children.insert(b"/files".to_vec(), Vec::new());
        backup
    }

    /// Stores a blob.
    pub fn store(&mut self, bytes: &[u8]) -> BlobId {
        let id: [u8; 32] = Sha256::digest(bytes).into();
        self.blobs.insert(id, Bytes::copy_from_slice(bytes));
        BlobId(id)
    }

    /// Adds a node to the directory at a path of the machine.
    pub fn add(&mut self, directory: &str, node: Node) {
        let parent = format!("/files{}", directory.trim_end_matches('/')).into_bytes();
        if node.kind == NodeKind::Directory {
            let mut own = parent.clone();
            own.push(b'/');
            own.extend_from_slice(&node.name);
            self.children.entry(own).or_default();
        }
        self.children.entry(parent).or_default().push(node);
    }

    /// Adds a file whose blobs are these parts.
    pub fn file(&mut self, directory: &str, name: &str, parts: &[&[u8]]) {
        let blobs = parts.iter().map(|part| self.store(part)).collect();
        let size = parts.iter().map(|part| part.len() as u64).sum();
        self.add(
            directory,
            Node {
                size,
                ..node(name, NodeKind::File(blobs))
            },
        );
    }

    /// Adds a directory.
    pub fn directory(&mut self, directory: &str, name: &str) {
        self.add(
            directory,
            Node {
                mode: Some(0o755),
                ..node(name, NodeKind::Directory)
            },
        );
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, directory: &str, name: &str, target: &str) {
        self.add(directory, node(name, NodeKind::Symlink(target.into())));
    }
}

/// A node with the metadata of an ordinary file.
pub(crate) fn node(name: &str, kind: NodeKind) -> Node {
    let time = jiff::Timestamp::new(1_700_000_000, 123_456_789).unwrap();
    Node {
        name: name.into(),
        kind,
        size: 0,
        mode: Some(0o644),
        uid: Some(nix::unistd::geteuid().as_raw()),
        gid: Some(nix::unistd::getegid().as_raw()),
        mtime: Some(time),
        atime: Some(time),
        inode: 0,
        device_id: 0,
        links: 1,
        extended_attributes: Vec::new(),
    }
}

/// The manifest of a backup of these paths.
pub(crate) fn manifest(paths: &[&str]) -> FilesManifest {
    FilesManifest {
        paths: paths.iter().map(ToString::to_string).collect(),
        files: 0,
        directories: 0,
        bytes: 0,
        excluded: 0,
        skipped: Vec::new(),
        notes: Vec::new(),
    }
}

#[async_trait]
impl Content for HandMade {
    async fn node(&self, path: &[u8]) -> Result<Option<Node>, RepositoryError> {
        if path == b"/files" && self.children.contains_key(path) {
            return Ok(Some(node("files", NodeKind::Directory)));
        }
        Ok(None)
    }

    async fn children(&self, path: &[u8]) -> Result<Vec<Node>, RepositoryError> {
        Ok(self.children.get(path).cloned().unwrap_or_default())
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes, RepositoryError> {
        match self.blobs.get(&id.0) {
            Some(bytes) if !self.damaged.contains(id) => Ok(bytes.clone()),
            _ => Err(RepositoryError::Damaged {
                location: "memory".into(),
                cause: format!("blob {id} cannot be read"),
            }),
        }
    }
}

/// Everything that two equal trees have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub kind: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, i64),
    pub size: u64,
    pub device: u64,
    pub content: Option<[u8; 32]>,
    pub target: Option<PathBuf>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same file, where it has several.
    pub linked_to: Option<PathBuf>,
}

/// Everything below a directory, by relative path, and the units of 512 bytes that the content of
/// each file takes.
pub(crate) fn account(root: &Path) -> (BTreeMap<PathBuf, Facts>, BTreeMap<PathBuf, u64>) {
    let mut all = BTreeMap::new();
    let mut blocks = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(relative) = paths.pop() {
        let path = root.join(&relative);
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let file_type = meta.file_type();
        let mut content = None;
        let mut target = None;
        let kind = if file_type.is_dir() {
            let mut names: Vec<_> = std::fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort_by(|one, other| other.as_bytes().cmp(one.as_bytes()));
            paths.extend(names.iter().map(|name| relative.join(name)));
            "directory"
        } else if file_type.is_symlink() {
            target = Some(std::fs::read_link(&path).unwrap());
            "link"
        } else if file_type.is_file() {
            content = Some(hash(&path));
            blocks.insert(relative.clone(), meta.blocks());
            "file"
        } else if file_type.is_fifo() {
            "pipe"
        } else if file_type.is_socket() {
            "socket"
        } else if file_type.is_char_device() {
            "character device"
        } else {
            "block device"
        };
        let attributes = if file_type.is_symlink() {
            BTreeMap::new()
        } else {
            xattr::list(&path)
                .unwrap()
                .map(|name| {
                    let value = xattr::get(&path, &name).unwrap().unwrap_or_default();
                    (name.as_bytes().to_vec(), value)
                })
                .collect()
        };
        let linked_to = (meta.nlink() > 1 && !file_type.is_dir()).then(|| {
            links
                .entry(meta.ino())
                .or_insert_with(|| relative.clone())
                .clone()
        });
        all.insert(
            relative,
            Facts {
                kind: kind.into(),
                mode: if file_type.is_symlink() {
                    0
                } else {
                    meta.mode() & 0o7777
                },
                uid: meta.uid(),
                gid: meta.gid(),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                size: if file_type.is_file() { meta.size() } else { 0 },
                device: meta.rdev(),
                content,
                target,
                attributes,
                linked_to,
            },
        );
    }
    (all, blocks)
}

fn hash(path: &Path) -> [u8; 32] {
    let mut hash = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path).unwrap(), &mut hash).unwrap();
    hash.finalize().into()
}

/// Fails with the first differences between two accounts.
pub(crate) fn assert_same(expected: &BTreeMap<PathBuf, Facts>, found: &BTreeMap<PathBuf, Facts>) {
    let mut differences = Vec::new();
    for (path, facts) in expected {
        match found.get(path) {
            None => differences.push(format!("{path:?} is missing")),
            Some(other) if other != facts => {
                differences.push(format!(
                    "{path:?}:\n  expected {facts:?}\n  found    {other:?}"
                ));
            }
            Some(_) => {}
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        differences.push(format!("{path:?} is new"));
    }
    let count = differences.len();
    differences.truncate(10);
    assert!(
        count == 0,
        "{count} differences:\n{}",
        differences.join("\n")
    );
}

/// The password of every repository that these tests make.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A repository on this machine.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) repository: Repository,
}

impl Place {
    /// Makes a repository.
    pub(crate) async fn init(path: &Path) -> Self {
        Self::open(path, true).await
    }

    /// Opens a repository, or makes it.
    pub(crate) async fn open(path: &Path, init: bool) -> Self {
        let config = StorageConfig::Local(LocalConfig {
            path: path.to_path_buf(),
        });
        let storage = connect(&config).await.unwrap();
        let password = SecretString::from(PASSWORD);
        let repository = if init {
            Repository::init(storage, &password, &InitOptions::default())
                .await
                .unwrap()
        } else {
            Repository::open(storage, &password).await.unwrap()
        };
        Self {
            path: path.to_path_buf(),
            repository,
        }
    }

    /// Backs files up; the latest snapshot is the parent.
    pub(crate) async fn back_up(
        &self,
        config: &FilesConfig,
    ) -> Result<(Snapshot, FilesManifest, u64), FilesError> {
        let cancel = CancellationToken::new();
        let progress = Progress::new();
        let parents: Vec<_> = self
            .repository
            .snapshots()
            .await?
            .into_iter()
            .next_back()
            .into_iter()
            .collect();
        let start_time = jiff::Timestamp::now();
        let new = NewSnapshot {
            policy: "test/files".into(),
            tags: Vec::new(),
            time: start_time,
        };
        let writer = self
            .repository
            .begin(new, progress.clone(), cancel.clone())
            .await?;
        let read = match read_files(&writer, config, &parents, &progress, &cancel).await {
            Ok(read) => read,
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        };
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            holdfast_version: "test".into(),
            policy: "test/files".into(),
            start_time,
            completion_time: jiff::Timestamp::now(),
            source: SourceManifest::Files(read.manifest.clone()),
        };
        let request = CommitRequest {
            files: Vec::new(),
            grafts: vec![read.graft],
            manifest,
            facts: read.facts,
        };
        let snapshot = writer.commit(request).await?;
        Ok((snapshot, read.manifest, read.opened))
    }

    /// Restores everything with Holdfast.
    pub(crate) async fn restore(
        &self,
        snapshot: &Snapshot,
        manifest: &FilesManifest,
        target: &Path,
    ) -> Result<RestoreFilesReport, FilesError> {
        let content = self.repository.content(snapshot).await?;
        let request = RestoreFilesRequest {
            target: RestoreTarget::Path(target.to_path_buf()),
            include: Vec::new(),
            on_conflict: OnConflict::Fail,
        };
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        restore_files(&*content, manifest, &request, &progress, &cancel).await
    }

    /// Runs stock restic on the repository.
    pub(crate) fn restic(&self, arguments: &[&str]) -> String {
        let output = std::process::Command::new("restic")
            .args(["--no-cache", "-r"])
            .arg(&self.path)
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .expect("restic is installed");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "restic {arguments:?}: {text}");
        text
    }
}

/// A backup of these paths and nothing special.
pub(crate) fn config(paths: &[&Path]) -> FilesConfig {
    FilesConfig {
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        exclude: Vec::new(),
        one_file_system: false,
        on_unreadable: OnUnreadable::Fail,
    }
}

/// Where a path of the machine lies below a directory that took the place of the root.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap())
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}
