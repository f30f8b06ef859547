//! Composing the trees of a snapshot: files made of blobs that are stored already, and directories
//! that were archived, become the directories that every restic tool reads.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use jiff::Timestamp;
use rustic_core::DataId;
use rustic_core::TreeId;
use rustic_core::repofile::{Metadata, Node, NodeType, Tree};

use super::id::{ObjectId, from_rustic};
use super::machine;

/// Go's mark of a directory, which restic keeps in modes.
const GO_DIRECTORY: u32 = 1 << 31;

/// Why a tree cannot be composed as asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ComposeError {
    #[error("{0:?} is not an absolute path of plain names")]
    BadPath(String),
    #[error("two things shall be at {0:?}")]
    Conflict(String),
    #[error("a directory cannot be encoded: {0}")]
    Encode(String),
}

/// A directory that is being composed.
#[derive(Debug, Default)]
pub(super) struct Directory(BTreeMap<Vec<u8>, Item>);

#[derive(Debug)]
enum Item {
    File { content: Vec<ObjectId>, size: u64 },
    Directory(Directory),
    Archived(Box<Node>),
}

/// Everything that has to be stored for a composed tree.
#[derive(Debug)]
pub(super) struct Composed {
    /// The root.
    pub(super) root: ObjectId,
    /// Every directory, encoded; children before their parents.
    pub(super) trees: Vec<Vec<u8>>,
    /// How many regular files were composed.
    pub(super) files: u64,
    /// How many directories there are.
    pub(super) directories: u64,
}

fn names(path: &str) -> Result<Vec<&str>, ComposeError> {
    let bad = || ComposeError::BadPath(path.to_owned());
    let inside = path.strip_prefix('/').ok_or_else(bad)?;
    if inside.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = inside.split('/').collect();
    if names
        .iter()
        .any(|name| matches!(*name, "" | "." | "..") || name.contains('\0'))
    {
        return Err(bad());
    }
    Ok(names)
}

impl Directory {
    fn descend(&mut self, path: &str, names: &[&str]) -> Result<&mut Self, ComposeError> {
        let mut directory = self;
        for name in names {
            let item = directory
                .0
                .entry(name.as_bytes().to_vec())
                .or_insert_with(|| Item::Directory(Self::default()));
            let Item::Directory(next) = item else {
                return Err(ComposeError::Conflict(path.to_owned()));
            };
            directory = next;
        }
        Ok(directory)
    }

    /// Shows a file of `size` bytes at `path`.
    pub(super) fn add_file(
        &mut self,
        path: &str,
        content: Vec<ObjectId>,
        size: u64,
    ) -> Result<(), ComposeError> {
        let names = names(path)?;
        let (name, parents) = names
            .split_last()
            .ok_or_else(|| ComposeError::BadPath(path.to_owned()))?;
        let directory = self.descend(path, parents)?;
        match directory
            .0
            .insert(name.as_bytes().to_vec(), Item::File { content, size })
        {
            None => Ok(()),
            Some(_) => Err(ComposeError::Conflict(path.to_owned())),
        }
    }

    /// Shows the children of an archived root in the directory at `path`.
    pub(super) fn add_archived(&mut self, path: &str, root: &Tree) -> Result<(), ComposeError> {
        let directory = self.descend(path, &names(path)?)?;
        for node in &root.nodes {
            let name = node.name().as_bytes().to_vec();
            if directory
                .0
                .insert(name, Item::Archived(Box::new(node.clone())))
                .is_some()
            {
                return Err(ComposeError::Conflict(format!("{path}/{}", node.name)));
            }
        }
        Ok(())
    }

    /// The names at the root.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.0
            .keys()
            .map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Encodes it and everything in it. What has no time of its own gets `time`.
    pub(super) fn encode(self, time: Timestamp) -> Result<Composed, ComposeError> {
        let mut composed = Composed {
            root: ObjectId::default(),
            trees: Vec::new(),
            files: 0,
            directories: 0,
        };
        composed.root = from_rustic(self.encode_into(time, &mut composed)?.into_inner());
        Ok(composed)
    }

    fn encode_into(self, time: Timestamp, composed: &mut Composed) -> Result<TreeId, ComposeError> {
        let mut tree = Tree::default();
        for (name, item) in self.0 {
            let name = OsStr::from_bytes(&name);
            tree.nodes.push(match item {
                Item::Archived(node) => *node,
                Item::Directory(directory) => {
                    let subtree = directory.encode_into(time, composed)?;
                    let meta = metadata(time, GO_DIRECTORY | 0o755, 0);
                    let mut node = Node::new_node(name, NodeType::Dir, meta);
                    node.subtree = Some(subtree);
                    node
                }
                Item::File { content, size } => {
                    composed.files += 1;
                    let mut node =
                        Node::new_node(name, NodeType::File, metadata(time, 0o644, size));
                    node.content = Some(
                        content
                            .iter()
                            .map(|id| DataId::from(id.to_rustic()))
                            .collect(),
                    );
                    node
                }
            });
        }
        let (encoded, id) = tree
            .serialize()
            .map_err(|error| ComposeError::Encode(error.to_string()))?;
        composed.directories += 1;
        composed.trees.push(encoded);
        Ok(id)
    }
}

fn metadata(time: Timestamp, mode: u32, size: u64) -> Metadata {
    Metadata {
        mode: Some(mode),
        mtime: Some(time),
        atime: Some(time),
        ctime: Some(time),
        uid: Some(machine::uid()),
        gid: Some(machine::gid()),
        size,
        links: 1,
        ..Metadata::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(files: &[(&str, &[&[u8]])]) -> Composed {
        let mut root = Directory::default();
        for (path, blobs) in files {
            let ids = blobs.iter().map(|blob| ObjectId::of(blob)).collect();
            let size = blobs.iter().map(|blob| blob.len() as u64).sum();
            root.add_file(path, ids, size).unwrap();
        }
        root.encode(Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn children_come_before_parents_and_names_are_in_order() {
        let composed = composed(&[("/b/x", &[b"1", b"2"]), ("/a", &[]), ("/b/é\n\"", &[b"3"])]);
        assert_eq!((composed.files, composed.directories), (3, 2));
        let root: Tree = serde_json::from_slice(&composed.trees[1]).unwrap();
        assert_eq!(ObjectId::of(&composed.trees[1]), composed.root);
        let names: Vec<_> = root
            .nodes
            .iter()
            .map(|node| node.name().into_owned())
            .collect();
        assert_eq!(names, ["a", "b"]);
        let subtree = from_rustic(root.nodes[1].subtree.unwrap().into_inner());
        assert_eq!(subtree, ObjectId::of(&composed.trees[0]));
        let inside: Tree = serde_json::from_slice(&composed.trees[0]).unwrap();
        assert_eq!(inside.nodes[0].meta.size, 2);
        assert_eq!(inside.nodes[0].content.as_ref().map(Vec::len), Some(2));
        assert_eq!(*inside.nodes[1].name(), *"é\n\"");
    }

    #[test]
    fn the_same_content_is_the_same_tree() {
        assert_eq!(
            composed(&[("/a/b", &[b"1"]), ("/c", &[])]).root,
            composed(&[("/c", &[]), ("/a/b", &[b"1"])]).root
        );
    }

    #[test]
    fn paths_that_lead_nowhere_or_collide_are_refused() {
        let mut root = Directory::default();
        for path in ["", "/", "a", "/a/", "/a//b", "/a/../b", "/./a", "/a\0"] {
            let refused = root.add_file(path, Vec::new(), 0);
            assert_eq!(
                refused,
                Err(ComposeError::BadPath(path.to_owned())),
                "{path:?}"
            );
        }
        let mut root = Directory::default();
        root.add_file("/a/b", Vec::new(), 0).unwrap();
        for path in ["/a", "/a/b", "/a/b/c"] {
            let refused = root.add_file(path, Vec::new(), 0);
            assert_eq!(refused, Err(ComposeError::Conflict(path.to_owned())));
        }
    }
}
