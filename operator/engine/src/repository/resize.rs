//! Correcting the sizes of an archived tree: a file whose size changed while it was read is stored
//! as it was read, and the library keeps the size that was announced before. Stock tools restore by
//! the size, so the directories that lead to such a file are written again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;

use super::RepositoryError;
use super::id::{ObjectId, from_rustic};
use super::index::Index;
use super::pack::BlobKind;
use super::reader::Reader;
use super::writer::SnapshotWriter;

/// Sizes to correct, as a tree of names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sizes {
    size: Option<u64>,
    children: BTreeMap<OsString, Sizes>,
}

impl Sizes {
    fn new(sizes: &HashMap<PathBuf, u64>) -> Self {
        let mut root = Self::default();
        for (path, size) in sizes {
            root.at(path).size = Some(*size);
        }
        root
    }

    fn at(&mut self, path: &Path) -> &mut Self {
        path.components()
            .fold(self, |node, component| match component {
                Component::Normal(name) => node.children.entry(name.to_owned()).or_default(),
                _ => node,
            })
    }

    fn child(&self, name: &OsStr) -> Option<&Self> {
        self.children.get(name)
    }
}

impl SnapshotWriter {
    /// The tree with the sizes of these files corrected, by their paths in it.
    ///
    /// # Errors
    /// When a directory of the tree cannot be read or written again.
    pub(super) async fn resize(
        &self,
        tree: ObjectId,
        sizes: &HashMap<PathBuf, u64>,
    ) -> Result<ObjectId, RepositoryError> {
        if sizes.is_empty() {
            return Ok(tree);
        }
        // What was archived is in index files that came after the first reading.
        let reader = Reader::new(Arc::clone(&self.inner), Index::load(&self.inner).await?);
        let resized = self
            .resize_directory(&reader, tree, &Sizes::new(sizes))
            .await?;
        self.packer.flush().await?;
        Ok(resized)
    }

    fn resize_directory<'a>(
        &'a self,
        reader: &'a Reader,
        id: ObjectId,
        sizes: &'a Sizes,
    ) -> BoxFuture<'a, Result<ObjectId, RepositoryError>> {
        Box::pin(async move {
            let mut tree = reader.tree(&id).await?.as_ref().clone();
            for node in &mut tree.nodes {
                let name = node.name().as_bytes().to_vec();
                let Some(sizes) = sizes.child(OsStr::from_bytes(&name)) else {
                    continue;
                };
                if let Some(size) = sizes.size {
                    node.meta.size = size;
                }
                if let Some(subtree) = node.subtree {
                    let subtree = from_rustic(subtree.into_inner());
                    let resized = self.resize_directory(reader, subtree, sizes).await?;
                    node.subtree = Some(resized.to_rustic().into());
                }
            }
            let (encoded, _) = tree
                .serialize()
                .map_err(|error| self.inner.engine("correct the size of a file", error))?;
            self.packer.add(BlobKind::Tree, encoded.into()).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_found_by_name() {
        let paths = [("files/srv/log", 7), ("files/srv/sub/other", 9)];
        let sizes = paths
            .iter()
            .map(|(path, size)| (PathBuf::from(path), *size))
            .collect();
        let sizes = Sizes::new(&sizes);
        let srv = sizes
            .child(OsStr::new("files"))
            .unwrap()
            .child(OsStr::new("srv"))
            .unwrap();
        assert_eq!(srv.size, None);
        assert_eq!(srv.child(OsStr::new("log")).unwrap().size, Some(7));
        assert_eq!(srv.child(OsStr::new("none")), None);
    }
}
