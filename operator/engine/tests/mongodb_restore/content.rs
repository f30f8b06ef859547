//! A snapshot made of a dump directory: the tree and the blobs a repository would hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_engine::manifest::{CollectionManifest, MongodbManifest, SegmentManifest};
use holdfast_engine::repository::RepositoryError;
use holdfast_engine::source::mongodb::digest::ContentDigest;
use holdfast_engine::source::mongodb::namespace::{DUMP_ROOT, Namespace};
use holdfast_engine::source::{BlobId, Content, Node, NodeKind};
use sha2::{Digest as _, Sha256};

/// What the tests cut segments into; small, so that there are many, and not all of them fit in one
/// piece.
const SEGMENT_BYTES: usize = 64 << 10;

/// Called with the number of the blob before it is handed out.
type Hook = Box<dyn Fn(usize) + Send + Sync>;

/// A snapshot in memory.
pub(crate) struct DumpContent {
    nodes: BTreeMap<Vec<u8>, Node>,
    blobs: HashMap<BlobId, Bytes>,
    read: std::sync::atomic::AtomicUsize,
    hook: Option<Hook>,
}

/// A dump directory as a snapshot, and its manifest.
pub(crate) struct Backup {
    pub(crate) manifest: MongodbManifest,
    pub(crate) content: DumpContent,
}

impl Backup {
    /// Takes a dump directory in.
    pub(crate) fn of(dump: &Path) -> Self {
        let mut content = DumpContent {
            nodes: BTreeMap::new(),
            blobs: HashMap::new(),
            read: std::sync::atomic::AtomicUsize::new(0),
            hook: None,
        };
        content.add_directory(dump, DUMP_ROOT);
        let mut manifest = MongodbManifest {
            server_version: "6.0.5".to_owned(),
            feature_compatibility_version: None,
            replica_set: None,
            cluster_time: None,
            point_in_time: false,
            notes: Vec::new(),
            collections: Vec::new(),
            users: 0,
            roles: 0,
        };
        let metadata: Vec<Vec<u8>> = content
            .nodes
            .keys()
            .filter(|path| path.ends_with(b".metadata.json"))
            .cloned()
            .collect();
        for path in metadata {
            if let Some(collection) = content.collection(&path) {
                manifest.collections.push(collection);
            }
        }
        for (name, count) in [
            ("system.users", &mut manifest.users),
            ("system.roles", &mut manifest.roles),
        ] {
            let bytes = content.bytes(&Namespace::new("admin", name).data_path());
            *count = documents(&bytes).count() as u64;
        }
        Self { manifest, content }
    }

    /// The data of every collection in blobs of this size, whatever is cut by it: as another
    /// program would have backed the dump up.
    pub(crate) fn in_blobs_of(mut self, size: usize) -> Self {
        for collection in &mut self.manifest.collections {
            collection.segments.clear();
            if let Some(path) = &collection.data_path {
                let bytes = Bytes::from(self.content.bytes(path));
                let ids = (0..bytes.len())
                    .step_by(size)
                    .map(|at| bytes.slice(at..bytes.len().min(at + size)))
                    .map(|blob| self.content.add_blob(blob))
                    .collect();
                self.content
                    .add_node(path, NodeKind::File(ids), bytes.len() as u64);
            }
        }
        self
    }

    /// Loses the last blob of a collection.
    pub(crate) fn truncate(&mut self, db: &str, name: &str) {
        let path = Namespace::new(db, name).data_path();
        let mut ids = self.content.ids(&path);
        ids.pop();
        self.content.add_node(&path, NodeKind::File(ids), 0);
    }

    /// Changes some bytes of a collection's data, as if it had been backed up so; the digest is the
    /// old one.
    pub(crate) fn tamper(&mut self, db: &str, name: &str, from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        let path = Namespace::new(db, name).data_path();
        let mut ids = self.content.ids(&path);
        for id in &mut ids {
            let bytes = &self.content.blobs[id];
            if let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
                let mut changed = bytes.to_vec();
                changed[at..at + to.len()].copy_from_slice(to);
                *id = self.content.add_blob(Bytes::from(changed));
                self.content.add_node(&path, NodeKind::File(ids), 0);
                return;
            }
        }
        panic!("{name} does not hold {from:?}");
    }

    /// Calls `hook` with the number of each blob of data before it is handed out.
    pub(crate) fn on_blob(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.content.hook = Some(Box::new(hook));
        self
    }

    pub(crate) fn share(self) -> (MongodbManifest, Arc<dyn Content>) {
        (self.manifest, Arc::new(self.content))
    }
}

impl DumpContent {
    fn add_directory(&mut self, dir: &Path, path: &str) {
        self.add_node(path, NodeKind::Directory, 0);
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{path}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.add_directory(&entry.path(), &path);
            } else {
                let bytes = Bytes::from(std::fs::read(entry.path()).unwrap());
                let parts = if path.ends_with(".bson") {
                    segments(&bytes)
                } else {
                    vec![bytes.clone()]
                };
                let ids = parts
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .map(|part| self.add_blob(part))
                    .collect();
                self.add_node(&path, NodeKind::File(ids), bytes.len() as u64);
            }
        }
    }

    fn add_blob(&mut self, bytes: Bytes) -> BlobId {
        let id = BlobId(Sha256::digest(&bytes).into());
        self.blobs.insert(id, bytes);
        id
    }

    fn add_node(&mut self, path: &str, kind: NodeKind, size: u64) {
        let node = Node {
            name: path.rsplit('/').next().unwrap().as_bytes().to_vec(),
            kind,
            size,
            mode: None,
            uid: None,
            gid: None,
            mtime: None,
            atime: None,
            inode: 0,
            device_id: 0,
            links: 1,
            extended_attributes: Vec::new(),
        };
        self.nodes.insert(path.as_bytes().to_vec(), node);
    }

    fn ids(&self, path: &str) -> Vec<BlobId> {
        match self.nodes.get(path.as_bytes()).map(|node| &node.kind) {
            Some(NodeKind::File(ids)) => ids.clone(),
            _ => Vec::new(),
        }
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        let ids = self.ids(path);
        ids.iter().flat_map(|id| self.blobs[id].to_vec()).collect()
    }

    fn collection(&self, metadata_path: &[u8]) -> Option<CollectionManifest> {
        let metadata_path = std::str::from_utf8(metadata_path).unwrap();
        let db = metadata_path
            .strip_prefix(DUMP_ROOT)
            .unwrap()
            .split('/')
            .nth(1)
            .unwrap();
        let metadata: serde_json::Value =
            serde_json::from_slice(&self.bytes(metadata_path)).unwrap();
        let text = |name: &str| metadata[name].as_str().unwrap().to_owned();
        let name = text("collectionName");
        if db == "admin" && name.starts_with("system.") {
            return None;
        }
        let kind = text("type");
        let namespace = Namespace::new(db, &name);
        let data_path = match kind.as_str() {
            "view" => None,
            "timeseries" => Some(namespace.buckets().data_path()),
            _ => Some(namespace.data_path()),
        };
        let mut digest = ContentDigest::new();
        let mut segments = Vec::new();
        for id in data_path.iter().flat_map(|path| self.ids(path)) {
            let bytes = &self.blobs[&id];
            let mut count = 0;
            for document in documents(bytes) {
                digest.add(document);
                count += 1;
            }
            segments.push(SegmentManifest {
                blobs: vec![id.to_string()],
                bytes: bytes.len() as u64,
                documents: count,
                first_record_id: None,
            });
        }
        Some(CollectionManifest {
            db: db.to_owned(),
            name,
            kind,
            uuid: metadata["uuid"].as_str().map(str::to_owned),
            capped: metadata["options"]["capped"].as_bool().unwrap_or(false),
            data_path,
            metadata_path: Some(metadata_path.to_owned()),
            documents: segments.iter().map(|one| one.documents).sum(),
            bytes: segments.iter().map(|one| one.bytes).sum(),
            indexes: u32::try_from(metadata["indexes"].as_array().map_or(0, Vec::len)).unwrap(),
            digest: digest.to_string(),
            segments,
        })
    }
}

#[async_trait]
impl Content for DumpContent {
    async fn node(&self, path: &[u8]) -> Result<Option<Node>, RepositoryError> {
        Ok(self.nodes.get(path).cloned())
    }

    async fn children(&self, path: &[u8]) -> Result<Vec<Node>, RepositoryError> {
        let prefix = [path, b"/"].concat();
        Ok(self
            .nodes
            .iter()
            .filter(|(other, _)| {
                other
                    .strip_prefix(&prefix[..])
                    .is_some_and(|rest| !rest.contains(&b'/'))
            })
            .map(|(_, node)| node.clone())
            .collect())
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes, RepositoryError> {
        let bytes = self.blobs[id].clone();
        // Metadata is read before anything is written; the hooks are about what comes after.
        if !bytes.starts_with(b"{") {
            let number = self.read.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if let Some(hook) = &self.hook {
                hook(number);
            }
        }
        Ok(bytes)
    }
}

/// The raw documents of a `.bson` file.
pub(crate) fn documents(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = i32::from_le_bytes(*rest.first_chunk::<4>()?);
        let (document, after) = rest.split_at(usize::try_from(length).unwrap());
        rest = after;
        Some(document)
    })
}

/// Cuts a `.bson` file on document boundaries.
fn segments(bytes: &Bytes) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let (mut start, mut end) = (0, 0);
    for document in documents(bytes) {
        end += document.len();
        if end - start >= SEGMENT_BYTES {
            parts.push(bytes.slice(start..end));
            start = end;
        }
    }
    parts.push(bytes.slice(start..end));
    parts
}
