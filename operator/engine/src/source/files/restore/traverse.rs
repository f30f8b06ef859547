//! The entries of a backup in the order of its tree, each with whether the patterns choose it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::source::files::FILES_PATH;
use crate::source::files::error::{FilesError, shown};
use crate::source::files::pattern::{Patterns, Verdict};
use crate::source::{Content, Node, NodeKind};

/// One step of the way through a backup. Paths are those on the machine.
#[derive(Debug)]
pub(super) enum Step {
    /// Into a directory.
    Enter(PathBuf, Node, bool),
    /// Out of the directory that was entered last.
    Leave,
    /// Anything but a directory.
    Leaf(PathBuf, Node, bool),
}

/// The way through a backup.
pub(super) struct Traversal<'a> {
    content: &'a dyn Content,
    include: &'a Patterns,
    levels: Vec<Level>,
    started: bool,
}

struct Level {
    path: PathBuf,
    selected: bool,
    /// What is left of it, the next last.
    children: Vec<Node>,
}

impl<'a> Traversal<'a> {
    /// The way through everything; without a pattern, everything is chosen.
    pub(super) fn new(content: &'a dyn Content, include: &'a Patterns) -> Self {
        Self {
            content,
            include,
            levels: Vec::new(),
            started: false,
        }
    }

    /// The next step, or `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Step>, FilesError> {
        if !self.started {
            self.started = true;
            match self.content.node(FILES_PATH.as_bytes()).await? {
                Some(node) if node.kind == NodeKind::Directory => {}
                _ => return Err(FilesError::NoFiles),
            }
            self.enter(PathBuf::from("/"), self.include.is_empty())
                .await?;
        }
        let Some(level) = self.levels.last_mut() else {
            return Ok(None);
        };
        let Some(node) = level.children.pop() else {
            self.levels.pop();
            // The first level is the root itself: nobody entered it, nobody leaves it.
            return Ok((!self.levels.is_empty()).then_some(Step::Leave));
        };
        if !is_plain_name(&node.name) {
            return Err(FilesError::UnsafeName {
                name: format!("{:?}", OsStr::from_bytes(&node.name)),
                directory: shown(&level.path),
            });
        }
        let path = level.path.join(OsStr::from_bytes(&node.name));
        let directory = node.kind == NodeKind::Directory;
        let selected = match self.include.verdict(&path, directory) {
            Verdict::Matched => true,
            Verdict::Negated => false,
            Verdict::Unmatched => level.selected,
        };
        if directory {
            self.enter(path.clone(), selected).await?;
            Ok(Some(Step::Enter(path, node, selected)))
        } else {
            Ok(Some(Step::Leaf(path, node, selected)))
        }
    }

    async fn enter(&mut self, path: PathBuf, selected: bool) -> Result<(), FilesError> {
        let mut inside = FILES_PATH.as_bytes().to_vec();
        if path.as_os_str() != "/" {
            inside.extend_from_slice(path.as_os_str().as_bytes());
        }
        let mut children = self.content.children(&inside).await?;
        children.reverse();
        self.levels.push(Level {
            path,
            selected,
            children,
        });
        Ok(())
    }
}

/// Whether a name names an entry of the directory it is in, and nothing elsewhere.
fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
        for name in [&b"a"[..], b"...", b"..a", b"\xff\xfe", b"a\nb", b"\\"] {
            assert!(is_plain_name(name), "{name:?}");
        }
    }
}
