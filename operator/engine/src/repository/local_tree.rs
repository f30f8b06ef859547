//! The files of a machine as a source of `rustic_core`: the walk of `source::files`, entry by
//! entry, in the archiver's own terms.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustic_core::repofile::{Metadata, Node as RusticNode, NodeType};
use rustic_core::{
    ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult,
};

use super::archive::Unreadable;
use super::{RepositoryError, Snapshot, SnapshotWriter, StagedTree};
use crate::source::files::{Found, OnUnreadable, Opened, Reading, Scope, Unopened, Walk};
use crate::source::{Node, NodeKind};

/// Go's file mode, which the restic format keeps: the type and the three special bits lie
/// elsewhere than in Unix.
mod go_mode {
    pub(super) const DIRECTORY: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const FIFO: u32 = 1 << 25;
    pub(super) const SOCKET: u32 = 1 << 24;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const CHAR_DEVICE: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
}

/// The files of a machine, to be archived once.
#[derive(Debug)]
pub(crate) struct LocalTree {
    scope: Arc<Scope>,
    reading: Reading,
}

impl SnapshotWriter {
    /// Archives the files of a machine. Those that one of `parents` has as they are are not
    /// opened. What could not be read is on record in `reading`.
    ///
    /// # Errors
    /// When something could not be read and is not to be skipped, or was not archived, and what
    /// the storage says.
    pub(crate) async fn archive_files(
        &self,
        scope: Arc<Scope>,
        reading: Reading,
        parents: &[Snapshot],
    ) -> Result<StagedTree, RepositoryError> {
        let unreadable = match reading.record.on_unreadable() {
            OnUnreadable::Fail => Unreadable::Fail,
            OnUnreadable::Skip => Unreadable::Skip,
        };
        self.archive_tree(LocalTree { scope, reading }, parents, unreadable)
            .await
    }
}

impl ReadSource for LocalTree {
    type Open = Unopened;
    type Iter = Entries;

    fn size(&self) -> RusticResult<Option<u64>> {
        // Whoever reads the tree sums it up beside.
        Ok(None)
    }

    fn entries(&self) -> Entries {
        Entries(Walk::new(Arc::clone(&self.scope), self.reading.clone()))
    }
}

/// The entries of a [`LocalTree`]. There is never an error among them: the archiver would drop it
/// and go on, so errors are on the record instead.
#[derive(Debug)]
pub(crate) struct Entries(Walk);

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<Unopened>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.0.next()?;
        let node = rustic_node(&found);
        Some(Ok(ReadSourceEntry {
            path: found.path,
            node,
            open: found.open,
        }))
    }
}

impl ReadSourceOpen for Unopened {
    type Reader = Opened;

    fn open(self) -> RusticResult<Opened> {
        self.open().map_err(|error| {
            RusticError::with_source(ErrorKind::InputOutput, "the file cannot be opened", error)
        })
    }
}

/// The node of the restic format.
fn rustic_node(found: &Found) -> RusticNode {
    let Node {
        name,
        kind,
        size,
        mode,
        uid,
        gid,
        mtime,
        atime,
        inode,
        device_id,
        links,
        extended_attributes,
    } = &found.node;
    let (node_type, type_bits) = match kind {
        NodeKind::File(_) => (NodeType::File, 0),
        NodeKind::Directory => (NodeType::Dir, go_mode::DIRECTORY),
        NodeKind::Symlink(target) => (
            NodeType::from_link(Path::new(OsStr::from_bytes(target))),
            go_mode::SYMLINK,
        ),
        NodeKind::BlockDevice(device) => (NodeType::Dev { device: *device }, go_mode::DEVICE),
        NodeKind::CharDevice(device) => (
            NodeType::Chardev { device: *device },
            go_mode::DEVICE | go_mode::CHAR_DEVICE,
        ),
        NodeKind::Fifo => (NodeType::Fifo, go_mode::FIFO),
        NodeKind::Socket => (NodeType::Socket, go_mode::SOCKET),
    };
    let mut metadata = Metadata {
        mode: mode.map(|mode| go_mode(mode) | type_bits),
        mtime: *mtime,
        atime: *atime,
        ctime: Some(found.ctime),
        uid: *uid,
        gid: *gid,
        user: found.user.clone(),
        group: found.group.clone(),
        inode: *inode,
        device_id: *device_id,
        size: *size,
        links: *links,
        ..Metadata::default()
    };
    set_extended_attributes(&mut metadata, extended_attributes);
    RusticNode::new_node(OsStr::from_bytes(name), node_type, metadata)
}

/// Sets extended attributes. `rustic_core` has no public name for their type, so one is read from
/// its JSON and then filled in.
fn set_extended_attributes(metadata: &mut Metadata, attributes: &[(String, Vec<u8>)]) {
    const BLANK: &str = r#"{"extended_attributes":[{"name":"","value":null}]}"#;
    if attributes.is_empty() {
        return;
    }
    let blank = serde_json::from_str(BLANK).unwrap_or_else(|_| Metadata::default());
    for (name, value) in attributes {
        let mut filled = blank.extended_attributes.clone();
        for attribute in &mut filled {
            attribute.name.clone_from(name);
            attribute.value = Some(value.clone());
        }
        metadata.extended_attributes.append(&mut filled);
    }
}

/// The permission bits of Unix in Go's terms.
fn go_mode(mode: u32) -> u32 {
    let mut bits = mode & 0o777;
    for (unix, go) in [
        (0o4000, go_mode::SETUID),
        (0o2000, go_mode::SETGID),
        (0o1000, go_mode::STICKY),
    ] {
        if mode & unix != 0 {
            bits |= go;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use rstest::rstest;
    use secrecy::SecretString;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::destination::{LocalConfig, StorageConfig, connect};
    use crate::manifest::{MANIFEST_VERSION, Manifest, SourceManifest};
    use crate::progress::Progress;
    use crate::repository::{CommitRequest, Graft, InitOptions, NewSnapshot, Repository};
    use crate::source::files::{FilesError, Patterns, Record, Roots, in_snapshot};

    #[test]
    fn extended_attributes_arrive() {
        let mut metadata = Metadata::default();
        let attributes = [
            ("user.a".to_owned(), b"\x00\xff".to_vec()),
            ("user.empty".to_owned(), Vec::new()),
        ];
        set_extended_attributes(&mut metadata, &attributes);
        let arrived: Vec<_> = metadata
            .extended_attributes
            .into_iter()
            .map(|attribute| (attribute.name, attribute.value.unwrap()))
            .collect();
        assert_eq!(arrived, attributes);
    }

    #[test]
    fn modes_are_those_of_go() {
        assert_eq!(go_mode(0o644), 0o644);
        assert_eq!(go_mode(0o4755), 0o755 | 0x0080_0000);
        assert_eq!(go_mode(0o2755), 0o755 | 0x0040_0000);
        assert_eq!(go_mode(0o1777), 0o777 | 0x0010_0000);
    }

    /// The tree, with somebody who changes `log` between the look at it and the reading.
    struct Meddled {
        tree: LocalTree,
        meddle: fn(&Path),
        log: PathBuf,
    }

    struct MeddledEntries(Entries, fn(&Path), PathBuf);

    impl ReadSource for Meddled {
        type Open = Unopened;
        type Iter = MeddledEntries;

        fn size(&self) -> RusticResult<Option<u64>> {
            self.tree.size()
        }

        fn entries(&self) -> MeddledEntries {
            MeddledEntries(self.tree.entries(), self.meddle, self.log.clone())
        }
    }

    impl Iterator for MeddledEntries {
        type Item = RusticResult<ReadSourceEntry<Unopened>>;

        fn next(&mut self) -> Option<Self::Item> {
            let entry = self.0.next()?;
            if entry
                .as_ref()
                .is_ok_and(|entry| entry.path.ends_with("log"))
            {
                (self.1)(&self.2);
            }
            Some(entry)
        }
    }

    /// Backs up `/…/tree/{before,log,z}` while `meddle` is at work, and restores it with stock
    /// restic: the content of the log, and what was recorded.
    async fn read_meddled(
        on_unreadable: OnUnreadable,
        meddle: fn(&Path),
    ) -> Result<(Option<Vec<u8>>, u64), FilesError> {
        const PASSWORD: &str = "swordfish";
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("tree");
        fs::create_dir(&top).unwrap();
        for name in ["before", "log", "z"] {
            fs::write(top.join(name), name.repeat(1000)).unwrap();
        }
        let path = place.path().join("repo");
        let storage = connect(&StorageConfig::Local(LocalConfig { path: path.clone() }))
            .await
            .unwrap();
        let password = SecretString::from(PASSWORD);
        let options = InitOptions::default();
        let repository = Repository::init(storage, &password, &options)
            .await
            .unwrap();
        let time = jiff::Timestamp::now();
        let new = NewSnapshot {
            policy: "a/b".into(),
            tags: Vec::new(),
            time,
        };
        let cancel = CancellationToken::new();
        let writer = repository
            .begin(new, Progress::new(), cancel.clone())
            .await
            .unwrap();

        let record = Arc::new(Record::new(on_unreadable));
        let scope = Scope {
            roots: Roots::new(std::slice::from_ref(&top)).unwrap(),
            exclude: Patterns::new::<&str>(&[]).unwrap(),
            one_file_system: true,
        };
        let reading = Reading {
            record: Arc::clone(&record),
            cancel,
        };
        let tree = LocalTree {
            scope: Arc::new(scope),
            reading,
        };
        let source = Meddled {
            tree,
            meddle,
            log: top.join("log"),
        };
        let unreadable = match on_unreadable {
            OnUnreadable::Fail => Unreadable::Fail,
            OnUnreadable::Skip => Unreadable::Skip,
        };
        let tree = writer.archive_tree(source, &[], unreadable).await;
        let recorded = match record.finish() {
            Ok(recorded) => recorded,
            Err(error) => {
                assert!(tree.is_err(), "the repository refuses it, too");
                writer.abandon().await;
                return Err(error);
            }
        };
        let tree = tree.unwrap();
        let manifest = crate::manifest::FilesManifest {
            paths: Vec::new(),
            files: recorded.files,
            directories: recorded.directories,
            bytes: recorded.bytes,
            excluded: 0,
            skipped: recorded.skipped,
            notes: Vec::new(),
        };
        let request = CommitRequest {
            files: Vec::new(),
            grafts: vec![Graft {
                path: "/".into(),
                tree,
            }],
            manifest: Manifest {
                version: MANIFEST_VERSION,
                holdfast_version: String::new(),
                policy: "a/b".into(),
                start_time: time,
                completion_time: time,
                source: SourceManifest::Files(manifest),
            },
            facts: crate::repository::SnapshotFacts::default(),
        };
        writer.commit(request).await.unwrap();

        let restic = |arguments: &[&str]| {
            let output = Command::new("restic")
                .args(["--no-cache", "-r"])
                .arg(&path)
                .args(arguments)
                .env("RESTIC_PASSWORD", PASSWORD)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let target = place.path().join("target");
        restic(&["check", "--read-data"]);
        restic(&[
            "restore",
            "latest",
            "--verify",
            "--target",
            target.to_str().unwrap(),
        ]);
        let restored = target.join(in_snapshot(&top));
        assert_eq!(
            fs::read(restored.join("before")).unwrap(),
            "before".repeat(1000).as_bytes()
        );
        assert_eq!(
            fs::read(restored.join("z")).unwrap(),
            "z".repeat(1000).as_bytes()
        );
        Ok((fs::read(restored.join("log")).ok(), recorded.bytes - 7000))
    }

    #[rstest]
    #[case::grows(|log: &Path| fs::write(log, "longer".repeat(500_000)).unwrap(), "longer".repeat(500_000))]
    #[case::shrinks(|log: &Path| fs::write(log, "short").unwrap(), "short".into())]
    #[case::is_emptied(|log: &Path| fs::write(log, "").unwrap(), String::new())]
    #[case::is_replaced(
        |log: &Path| {
            let next = log.with_extension("next");
            fs::write(&next, "another file").unwrap();
            fs::rename(&next, log).unwrap();
        },
        "another file".into()
    )]
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_changes_is_saved_as_it_was_read(
        #[case] meddle: fn(&Path),
        #[case] expected: String,
    ) {
        let (log, bytes) = read_meddled(OnUnreadable::Fail, meddle).await.unwrap();
        assert!(log.unwrap() == expected.as_bytes());
        assert_eq!(bytes, expected.len() as u64);
    }

    #[rstest]
    #[case::vanishes(|log: &Path| fs::remove_file(log).unwrap(), "it vanished")]
    #[case::becomes_a_link(
        |log: &Path| {
            fs::remove_file(log).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", log).unwrap();
        },
        "symbolic link"
    )]
    #[case::becomes_a_pipe(
        |log: &Path| {
            fs::remove_file(log).unwrap();
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, log, mode).unwrap();
        },
        "no longer a regular file"
    )]
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_is_gone_when_it_is_read_is_told(
        #[case] meddle: fn(&Path),
        #[case] reason: &str,
    ) {
        let error = read_meddled(OnUnreadable::Fail, meddle)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tree/log (") && error.contains(reason),
            "{error}"
        );
        let (log, bytes) = read_meddled(OnUnreadable::Skip, meddle).await.unwrap();
        assert_eq!((log, bytes), (None, 0));
    }
}
