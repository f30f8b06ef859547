//! The walk: every entry to save, in the order of the tree, relative to directories held open.
//!
//! Nothing is resolved by a path from the root again: a directory that is replaced by a symbolic
//! link during the walk leads nowhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use tokio_util::sync::CancellationToken;

use super::attributes::{self, Owners};
use super::reader::{Reading, Unopened, reason};
use super::roots::Roots;
use super::{OnUnreadable, Patterns, Record};
use crate::source::{Node, NodeKind};

/// The name of the directory of a snapshot that shows the root of the machine.
const FILES: &str = "files";

/// An entry to save.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its path in the snapshot, without the first slash: `files/srv/uploads/a`.
    pub(crate) path: PathBuf,
    /// What it is; a regular file has no blobs yet.
    pub(crate) node: Node,
    /// The time of the last change of content or metadata.
    pub(crate) ctime: jiff::Timestamp,
    /// The owner's name.
    pub(crate) user: Option<String>,
    /// The group's name.
    pub(crate) group: Option<String>,
    /// How to read it, for a regular file.
    pub(crate) open: Option<Unopened>,
}

/// What a walk needs to know.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) roots: Roots,
    pub(crate) exclude: Patterns,
    pub(crate) one_file_system: bool,
}

/// A directory that the walk is in.
#[derive(Debug)]
struct Level {
    directory: Arc<File>,
    path: PathBuf,
    /// What is left of it, the next last.
    names: Vec<OsString>,
    /// Whether all of it is wanted, or only what leads to the paths asked for.
    whole: bool,
    /// The device that the walk must not leave.
    device: u64,
}

/// The walk over all paths asked for. It counts, and records what it cannot read.
#[derive(Debug)]
pub(crate) struct Walk {
    scope: Arc<Scope>,
    reading: Reading,
    levels: Vec<Level>,
    owners: Owners,
    /// Whether only sizes are wanted.
    light: bool,
    started: bool,
}

impl Walk {
    pub(crate) fn new(scope: Arc<Scope>, reading: Reading) -> Self {
        Self {
            scope,
            reading,
            levels: Vec::new(),
            owners: Owners::default(),
            light: false,
            started: false,
        }
    }

    /// The sum of the sizes of all files to save: what a walk finds that asks for nothing else.
    pub(crate) fn total_bytes(scope: Arc<Scope>, cancel: CancellationToken) -> u64 {
        let reading = Reading {
            record: Arc::new(Record::new(OnUnreadable::Skip)),
            cancel,
        };
        let mut walk = Self::new(scope, reading);
        walk.light = true;
        walk.map(|found| found.node.size).sum()
    }

    /// Enters the root of the machine, which the snapshot shows as the directory of all files.
    fn start(&mut self) -> Option<Found> {
        self.started = true;
        let root = Path::new("/");
        let whole = self.scope.roots.selected;
        let opened = open_directory(rustix::fs::CWD, root.as_os_str(), whole)
            .and_then(|directory| Ok((rustix::fs::fstat(&directory)?, directory)));
        match opened {
            Ok((stat, directory)) => {
                let mut node = attributes::node(OsStr::new(FILES), &stat);
                self.add_attributes(&directory, root, &mut node);
                self.enter(directory, root.to_path_buf(), whole, stat.st_dev);
                self.reading.record.directory();
                Some(self.found(root, node, &stat, None))
            }
            Err(error) => {
                self.unreadable(root, &error);
                None
            }
        }
    }

    fn unreadable(&self, path: &Path, error: &io::Error) {
        self.reading.record.unreadable(path, &reason(error));
    }

    /// Goes into an open directory.
    fn enter(&mut self, directory: File, path: PathBuf, whole: bool, device: u64) {
        let names = if whole {
            match names_in(&directory) {
                Ok(names) => names,
                Err(error) => return self.unreadable(&path, &error),
            }
        } else {
            self.scope
                .roots
                .below(&path)
                .map_or_else(Vec::new, |roots| {
                    roots.children.keys().rev().cloned().collect()
                })
        };
        self.levels.push(Level {
            directory: Arc::new(directory),
            path,
            names,
            whole,
            device,
        });
    }

    /// Looks at one name of the innermost directory.
    fn visit(&mut self, name: &OsStr) -> Option<Found> {
        let level = self.levels.last()?;
        let (directory, whole, device) = (Arc::clone(&level.directory), level.whole, level.device);
        let path = level.path.join(name);
        let scope = Arc::clone(&self.scope);
        let asked = scope.roots.below(&path);
        let selected = asked.is_some_and(|roots| roots.selected);
        let wanted = whole || selected;

        // What only leads to a path asked for is what that path goes through, links included.
        let flags = if wanted {
            AtFlags::SYMLINK_NOFOLLOW
        } else {
            AtFlags::empty()
        };
        let stat = match rustix::fs::statat(&directory, name, flags) {
            Ok(stat) => stat,
            Err(_) if wanted && self.scope.exclude.matches(&path, false) => {
                self.reading.record.excluded();
                return None;
            }
            Err(error) => {
                self.unreadable(&path, &error.into());
                return None;
            }
        };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let is_directory = file_type == FileType::Directory;
        if wanted && self.scope.exclude.matches(&path, is_directory) {
            self.reading.record.excluded();
            if selected {
                self.reading.record.note(format!(
                    "{} was asked for and a pattern excludes it",
                    super::error::shown(&path)
                ));
            }
            return None;
        }
        if file_type == FileType::Socket {
            self.reading.record.socket();
            return None;
        }
        // A path asked for may lie on any file system; what is below it stays on that one.
        let device = if selected { stat.st_dev } else { device };
        let elsewhere = wanted && scope.one_file_system && stat.st_dev != device;
        if elsewhere && !is_directory {
            self.reading.record.excluded();
            return None;
        }
        if is_directory {
            let leads_on = asked.is_some_and(|roots| !roots.children.is_empty());
            let descent = match (elsewhere, leads_on) {
                (false, _) => Some(wanted),
                (true, true) => Some(false),
                // The mount point stays, as an empty directory.
                (true, false) => None,
            };
            let mut node = attributes::node(name, &stat);
            if let Some(whole) = descent {
                self.descend(&directory, &path, &stat, &mut node, whole, device);
            }
            self.reading.record.directory();
            return Some(self.found(&path, node, &stat, None));
        }
        if !wanted {
            self.unreadable(&path, &rustix::io::Errno::NOTDIR.into());
            return None;
        }
        if selected && file_type == FileType::Symlink {
            self.reading.record.note(format!(
                "{} is a symbolic link: the link is saved and not what it leads to; give the path it leads to",
                super::error::shown(&path)
            ));
        }
        self.entry(&directory, name, path, &stat)
    }

    /// Goes into a directory that was just looked at, and adds its extended attributes.
    fn descend(
        &mut self,
        parent: &File,
        path: &Path,
        stat: &Stat,
        node: &mut Node,
        whole: bool,
        device: u64,
    ) {
        let name = OsStr::from_bytes(&node.name);
        let opened = open_directory(parent, name, whole)
            .and_then(|directory| Ok((rustix::fs::fstat(&directory)?, directory)));
        match opened {
            Ok((now, directory)) if now.st_dev == stat.st_dev && now.st_ino == stat.st_ino => {
                self.add_attributes(&directory, path, node);
                self.enter(directory, path.to_path_buf(), whole, device);
            }
            Ok(_) => self.reading.record.unreadable(
                path,
                "another directory took its place while the tree was read",
            ),
            Err(error) => self.unreadable(path, &error),
        }
    }

    /// Anything but a directory.
    fn entry(
        &mut self,
        parent: &Arc<File>,
        name: &OsStr,
        path: PathBuf,
        stat: &Stat,
    ) -> Option<Found> {
        let mut node = attributes::node(name, stat);
        if self.light {
            return Some(self.found(&path, node, stat, None));
        }
        if let NodeKind::Symlink(target) = &mut node.kind {
            match rustix::fs::readlinkat(parent, name, Vec::new()) {
                Ok(text) => *target = text.into_bytes(),
                Err(error) => {
                    self.unreadable(&path, &error.into());
                    return None;
                }
            }
        }
        match attributes::of_entry(parent, name) {
            Ok(attributes) => node.extended_attributes = attributes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.unreadable(&path, &error);
                return None;
            }
            Err(error) => self.attributes_unreadable(&path, &error),
        }
        let open = matches!(node.kind, NodeKind::File(_)).then(|| {
            self.reading.record.file(node.size);
            Unopened {
                directory: Arc::clone(parent),
                name: name.to_owned(),
                path: path.clone(),
                size: node.size,
                reading: self.reading.clone(),
            }
        });
        Some(self.found(&path, node, stat, open))
    }

    fn add_attributes(&self, directory: &File, path: &Path, node: &mut Node) {
        if self.light {
            return;
        }
        match attributes::of_open(directory) {
            Ok(attributes) => node.extended_attributes = attributes,
            Err(error) => self.attributes_unreadable(path, &error),
        }
    }

    fn attributes_unreadable(&self, path: &Path, error: &io::Error) {
        self.reading.record.unreadable(
            path,
            &format!("its extended attributes could not be read: {error}"),
        );
    }

    fn found(&mut self, path: &Path, node: Node, stat: &Stat, open: Option<Unopened>) -> Found {
        let (user, group) = if self.light {
            (None, None)
        } else {
            (
                self.owners.user(stat.st_uid),
                self.owners.group(stat.st_gid),
            )
        };
        Found {
            path: in_snapshot(path),
            node,
            ctime: attributes::changed_at(stat),
            user,
            group,
            open,
        }
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if !self.started
            && let Some(root) = self.start()
        {
            return Some(root);
        }
        loop {
            if self.reading.cancel.is_cancelled() {
                return None;
            }
            let Some(level) = self.levels.last_mut() else {
                self.reading.record.walked();
                return None;
            };
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            let Some(found) = self.visit(&name) else {
                continue;
            };
            if !self.reading.record.is_abandoned() {
                return Some(found);
            }
            // The run has failed. What is left is only opened, to name all that cannot be read.
            if let Some(open) = found.open {
                let _ = open.open();
            }
        }
    }
}

/// Where an entry of the machine lies in the snapshot, without the first slash.
pub(crate) fn in_snapshot(path: &Path) -> PathBuf {
    let mut inside = PathBuf::from(FILES);
    inside.extend(path.strip_prefix("/"));
    inside
}

/// Opens a directory: for listing, where it is allowed without a new time of access; or only as a
/// place to go on from, which needs no permission to list it and follows a symbolic link.
fn open_directory(parent: impl AsFd, name: &OsStr, whole: bool) -> io::Result<File> {
    let parent = parent.as_fd();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    if !whole {
        let opened = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
        return Ok(File::from(opened));
    }
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW;
    let opened = match rustix::fs::openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => rustix::fs::openat(parent, name, flags, Mode::empty()),
        other => other,
    };
    Ok(File::from(opened?))
}

/// The names in a directory, the last first.
fn names_in(directory: &File) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable_by(|one, other| other.as_bytes().cmp(one.as_bytes()));
    Ok(names)
}
