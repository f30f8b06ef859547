//! What a restore reads: the nodes and blobs of one snapshot.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustic_core::repofile::{Node as TreeNode, NodeType, Tree};

use super::id::{ObjectId, from_rustic};
use super::index::Index;
use super::inner::Inner;
use super::lock::Lock;
use super::pack::BlobKind;
use super::reader::Reader;
use super::{RepositoryError, Snapshot};
use crate::destination::StorageErrorKind;
use crate::source::{BlobId, Content, Node, NodeKind};

/// One snapshot, readable.
pub(super) struct SnapshotContent {
    inner: Arc<Inner>,
    reader: Reader,
    root: ObjectId,
    /// Held so that no prune takes away what is being read. Absent where we may only read, and
    /// for reads so short that two-phase pruning protects them.
    lock: Option<Lock>,
}

impl SnapshotContent {
    pub(super) async fn open(
        inner: &Arc<Inner>,
        snapshot: &Snapshot,
        lock: Option<Lock>,
    ) -> Result<Self, RepositoryError> {
        let reader = Reader::new(Arc::clone(inner), Index::load(inner).await?);
        Ok(Self {
            inner: Arc::clone(inner),
            reader,
            root: snapshot.tree,
            lock,
        })
    }

    /// The library's node at a path; `None` for the root, which has none.
    async fn find(&self, path: &[u8]) -> Result<Found, RepositoryError> {
        let mut found = Found::Root;
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            let tree = match &found {
                Found::Root => self.root,
                Found::Node(node) => match subtree(node) {
                    Some(tree) => tree,
                    None => return Ok(Found::Nothing),
                },
                Found::Nothing => return Ok(Found::Nothing),
            };
            let tree = self.reader.tree(&tree).await?;
            found = match child(&tree, name) {
                Some(node) => Found::Node(Box::new(node.clone())),
                None => Found::Nothing,
            };
        }
        Ok(found)
    }

    /// Every byte of the file at a path, or `None` when there is none.
    pub(super) async fn read_file(&self, path: &[u8]) -> Result<Option<Vec<u8>>, RepositoryError> {
        let Some(node) = self.node(path).await? else {
            return Ok(None);
        };
        let NodeKind::File(blobs) = node.kind else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        for blob in blobs {
            bytes.extend_from_slice(&self.blob(&blob).await?);
        }
        Ok(Some(bytes))
    }
}

/// A lock for reading, or none where we may only read: what protects then is that pruning has two
/// phases.
pub(super) async fn read_lock(
    inner: &Arc<Inner>,
    wait: Duration,
) -> Result<Option<Lock>, RepositoryError> {
    match Lock::take(inner, false, wait).await {
        Ok(lock) => Ok(Some(lock)),
        Err(RepositoryError::Storage(error))
            if error.kind == StorageErrorKind::PermissionDenied =>
        {
            tracing::warn!(
                location = inner.location,
                error = %error,
                "The repository is read without a lock, as none may be written."
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

enum Found {
    Root,
    Node(Box<TreeNode>),
    Nothing,
}

fn child<'a>(tree: &'a Tree, name: &[u8]) -> Option<&'a TreeNode> {
    // Trees are in order of name; one that a stranger wrote in another is searched through.
    let found = tree
        .nodes
        .binary_search_by(|node| node.name().as_bytes().cmp(name))
        .ok();
    found.and_then(|index| tree.nodes.get(index)).or_else(|| {
        tree.nodes
            .iter()
            .find(|node| node.name().as_bytes() == name)
    })
}

fn subtree(node: &TreeNode) -> Option<ObjectId> {
    node.subtree.map(|tree| from_rustic(tree.into_inner()))
}

#[async_trait]
impl Content for SnapshotContent {
    async fn node(&self, path: &[u8]) -> Result<Option<Node>, RepositoryError> {
        match self.find(path).await? {
            Found::Root => Ok(Some(root())),
            Found::Node(node) => translate(&self.inner, &node).map(Some),
            Found::Nothing => Ok(None),
        }
    }

    async fn children(&self, path: &[u8]) -> Result<Vec<Node>, RepositoryError> {
        let tree = match self.find(path).await? {
            Found::Root => Some(self.root),
            Found::Node(node) => subtree(&node),
            Found::Nothing => None,
        };
        let Some(tree) = tree else {
            let path = String::from_utf8_lossy(path);
            return Err(self.inner.engine(
                format!("list {path} of a snapshot"),
                "there is no such directory in it",
            ));
        };
        let tree = self.reader.tree(&tree).await?;
        tree.nodes
            .iter()
            .map(|node| translate(&self.inner, node))
            .collect()
    }

    async fn blob_size(&self, id: &BlobId) -> Result<u64, RepositoryError> {
        let location = self.reader.locate(BlobKind::Data, &ObjectId(id.0))?;
        Ok(location.plain_length())
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes, RepositoryError> {
        if let Some(lock) = &self.lock {
            lock.confirm_fresh()?;
        }
        self.reader.blob(BlobKind::Data, &ObjectId(id.0)).await
    }
}

fn root() -> Node {
    Node {
        name: Vec::new(),
        kind: NodeKind::Directory,
        size: 0,
        mode: None,
        uid: None,
        gid: None,
        mtime: None,
        atime: None,
        inode: 0,
        device_id: 0,
        links: 0,
        extended_attributes: Vec::new(),
    }
}

fn translate(inner: &Inner, node: &TreeNode) -> Result<Node, RepositoryError> {
    let meta = &node.meta;
    let kind = match &node.node_type {
        NodeType::File => NodeKind::File(
            node.content
                .iter()
                .flatten()
                .map(|id| BlobId(from_rustic(id.into_inner()).0))
                .collect(),
        ),
        NodeType::Dir => NodeKind::Directory,
        NodeType::Symlink { .. } => {
            NodeKind::Symlink(node.node_type.to_link().as_os_str().as_bytes().to_vec())
        }
        NodeType::Dev { device } => NodeKind::BlockDevice(*device),
        NodeType::Chardev { device } => NodeKind::CharDevice(*device),
        NodeType::Fifo => NodeKind::Fifo,
        NodeType::Socket => NodeKind::Socket,
    };
    if matches!(kind, NodeKind::Directory) && node.subtree.is_none() {
        return Err(inner.damaged(format!(
            "directory {} says nothing of its content",
            node.name
        )));
    }
    Ok(Node {
        name: node.name().as_bytes().to_vec(),
        kind,
        size: meta.size,
        mode: meta.mode.map(unix_mode),
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        atime: meta.atime,
        inode: meta.inode,
        device_id: meta.device_id,
        links: meta.links,
        extended_attributes: meta
            .extended_attributes
            .iter()
            .map(|attribute| {
                (
                    attribute.name.clone(),
                    attribute.value.clone().unwrap_or_default(),
                )
            })
            .collect(),
    })
}

/// Go keeps setuid, setgid and sticky in high bits of its own, and restic stores them so.
fn unix_mode(mode: u32) -> u32 {
    const GO_SETUID: u32 = 1 << 23;
    const GO_SETGID: u32 = 1 << 22;
    const GO_STICKY: u32 = 1 << 20;
    let mut unix = mode & 0o777;
    for (go, bit) in [
        (GO_SETUID, 0o4000),
        (GO_SETGID, 0o2000),
        (GO_STICKY, 0o1000),
    ] {
        if mode & go != 0 {
            unix |= bit;
        }
    }
    unix
}

#[cfg(test)]
mod tests {
    use super::unix_mode;

    #[test]
    fn modes_as_go_keeps_them_become_unix_modes() {
        assert_eq!(unix_mode(0o755), 0o755);
        assert_eq!(unix_mode(0o755 | (1 << 23)), 0o4755);
        assert_eq!(unix_mode(0o755 | (1 << 22)), 0o2755);
        assert_eq!(unix_mode(0o777 | (1 << 20) | (1 << 31)), 0o1777);
    }
}
