//! The target of a restore: directories opened one name at a time, so that no symbolic link leads
//! out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{OnConflict, RestoreFilesRequest, RestoreTarget};
use crate::manifest::FilesManifest;
use crate::source::files::error::{FilesError, shown};
use crate::source::files::pattern::Patterns;
use crate::source::files::roots::Roots;

/// A restore, its request understood.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) include: Patterns,
    pub(super) patterns: Vec<String>,
    pub(super) on_conflict: OnConflict,
    /// The directory that takes the place of the root of the machine.
    pub(super) root: PathBuf,
    /// For the original place: the paths that were backed up. What only leads there belongs to
    /// the machine: it may be a symbolic link, and it keeps its metadata.
    original: Option<Roots>,
}

impl Job {
    pub(super) fn new(
        manifest: &FilesManifest,
        request: &RestoreFilesRequest,
    ) -> Result<Self, FilesError> {
        let (root, original) = match &request.target {
            RestoreTarget::Original => {
                let paths: Vec<PathBuf> = manifest.paths.iter().map(PathBuf::from).collect();
                (PathBuf::from("/"), Some(Roots::new(&paths)?))
            }
            RestoreTarget::Path(path) => {
                if !path.is_absolute() {
                    return Err(FilesError::invalid(
                        "target",
                        shown(path),
                        "it is not absolute; begin it with a slash",
                    ));
                }
                (path.clone(), None)
            }
        };
        Ok(Self {
            include: Patterns::new(&request.include)?,
            patterns: request.include.clone(),
            on_conflict: request.on_conflict,
            root,
            original,
        })
    }

    /// The target in words.
    pub(super) fn shown(&self) -> String {
        shown(&self.root)
    }

    /// Where an entry of the machine goes.
    pub(super) fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether this directory of the machine only leads to what was backed up, in its own place.
    pub(super) fn leads(&self, path: &Path) -> bool {
        self.original
            .as_ref()
            .is_some_and(|roots| roots.leads(path))
    }

    /// Opens the root of the target, or `None` when there is none yet.
    pub(super) fn open_root(&self) -> Result<Option<Arc<File>>, FilesError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, &self.root, flags, Mode::empty()) {
            Ok(root) => Ok(Some(Arc::new(File::from(root)))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(FilesError::target("open", &self.root, error.into())),
        }
    }

    /// Opens the root of the target, and makes it when there is none.
    pub(super) fn make_root(&self) -> Result<Arc<File>, FilesError> {
        if let Some(root) = self.open_root()? {
            return Ok(root);
        }
        std::fs::create_dir_all(&self.root)
            .map_err(|error| FilesError::target("create", &self.root, error))?;
        self.open_root()?
            .ok_or_else(|| FilesError::target("open", &self.root, Errno::NOENT.into()))
    }

    /// Opens a directory of the target by its path on the machine, one name at a time.
    pub(super) fn open(&self, root: &Arc<File>, path: &Path) -> io::Result<Arc<File>> {
        let mut directory = Arc::clone(root);
        let mut walked = PathBuf::from("/");
        for component in path.components() {
            if let Component::Normal(name) = component {
                walked.push(name);
                directory = Arc::new(open_directory(&directory, name, self.leads(&walked))?);
            }
        }
        Ok(directory)
    }
}

/// Opens a directory as a place to go on from. A symbolic link is an error unless it may be
/// followed.
pub(super) fn open_directory(parent: &File, name: &OsStr, follow: bool) -> io::Result<File> {
    let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    Ok(File::from(rustix::fs::openat(
        parent,
        name,
        flags,
        Mode::empty(),
    )?))
}

/// What is at a name, or `None`; a symbolic link is not followed.
pub(super) fn look(parent: &File, name: &OsStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what is at a name so that something else can take its place: anything but a directory
/// with something in it.
pub(super) fn clear(parent: &File, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let directory =
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    let flags = if directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    rustix::fs::unlinkat(parent, name, flags).map_err(|error| match error {
        Errno::NOTEMPTY => io::Error::other("a directory that is not empty is in its place"),
        other => other.into(),
    })
}
