//! The paths asked for, as a tree: which directories are walked whole, and which only lead there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use super::error::FilesError;

/// A directory on the way to the paths asked for, or one of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Roots {
    /// Whether this path was asked for.
    pub(crate) selected: bool,
    /// Names in it that lead further, in order of their bytes.
    pub(crate) children: BTreeMap<OsString, Roots>,
}

impl Roots {
    /// The tree of these absolute paths.
    ///
    /// # Errors
    /// [`FilesError::InvalidConfig`] that names the path.
    pub(crate) fn new(paths: &[PathBuf]) -> Result<Self, FilesError> {
        if paths.is_empty() {
            return Err(FilesError::invalid(
                "path",
                "",
                "no path is given; give at least one absolute path",
            ));
        }
        let mut roots = Self::default();
        for path in paths {
            let mut node = &mut roots;
            for name in names(path)? {
                node = node.children.entry(name.to_owned()).or_default();
            }
            node.selected = true;
        }
        Ok(roots)
    }

    /// The part of the tree below a path: `None` where no path asked for lies at or below it.
    pub(crate) fn below(&self, path: &Path) -> Option<&Self> {
        path.components()
            .try_fold(self, |node, component| match component {
                Component::Normal(name) => node.children.get(name),
                _ => Some(node),
            })
    }

    /// Whether the path only leads to paths asked for: it is not one, nor below one.
    pub(crate) fn leads(&self, path: &Path) -> bool {
        let mut node = self;
        if node.selected {
            return false;
        }
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            match node.children.get(name) {
                Some(child) if !child.selected => node = child,
                _ => return false,
            }
        }
        true
    }
}

/// The names a path is made of.
fn names(path: &Path) -> Result<Vec<&OsStr>, FilesError> {
    let invalid = |cause: &str| FilesError::invalid("path", path.to_string_lossy(), cause);
    if path.to_str().is_none_or(|text| text.contains('\0')) {
        return Err(invalid("it is not plain text; give its parent directory"));
    }
    if !path.is_absolute() {
        return Err(invalid("it is not absolute; begin it with a slash"));
    }
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Ok(name)),
            Component::ParentDir => Some(Err(invalid(
                "`..` in it depends on symbolic links; give the path it leads to",
            ))),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roots(paths: &[&str]) -> Roots {
        Roots::new(&paths.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn leading_directories_are_told_from_what_was_asked_for() {
        let roots = roots(&["/srv/uploads", "/srv/uploads/deep", "/etc//./ssh/"]);
        assert!(roots.leads(Path::new("/")));
        assert!(roots.leads(Path::new("/srv")));
        assert!(roots.leads(Path::new("/etc")));
        assert!(!roots.leads(Path::new("/srv/uploads")));
        assert!(!roots.leads(Path::new("/srv/uploads/deep")));
        assert!(!roots.leads(Path::new("/var")));
        assert!(!roots.leads(Path::new("/etc/ssh/keys")));
        assert!(roots.below(Path::new("/etc/ssh")).unwrap().selected);
        assert!(roots.below(Path::new("/var")).is_none());
    }

    #[test]
    fn the_whole_machine_can_be_asked_for() {
        let roots = roots(&["/"]);
        assert!(roots.selected);
        assert!(!roots.leads(Path::new("/")));
    }

    #[test]
    fn wrong_paths_are_named() {
        for path in ["srv", "", "/srv/../etc", "/a\0b"] {
            let error = Roots::new(&[PathBuf::from(path)]).unwrap_err();
            assert!(matches!(error, FilesError::InvalidConfig { .. }), "{error}");
        }
        assert!(Roots::new(&[]).is_err());
    }

    proptest! {
        /// A directory leads exactly when it is above a path asked for, and below or at none.
        #[test]
        fn leads_is_above_and_not_within(
            asked in proptest::collection::vec("(/[ab]){1,4}", 1..5),
            path in "(/[ab]){1,4}",
        ) {
            let roots = roots(&asked.iter().map(String::as_str).collect::<Vec<_>>());
            let path = Path::new(&path);
            let within = asked.iter().any(|root| path.starts_with(root));
            let above = asked.iter().any(|root| Path::new(root).starts_with(path));
            prop_assert_eq!(roots.leads(path), above && !within);
        }
    }
}
