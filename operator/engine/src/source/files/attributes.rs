//! What the system says of a file, as a node: mode, owner, times, extended attributes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use jiff::Timestamp;
use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{FileType, Stat};

use crate::source::{Node, NodeKind};

/// The bits of a mode that can be set: permissions, setuid, setgid, sticky.
pub(crate) const MODE_BITS: u32 = 0o7777;

/// The first and the last second that can be written down: a repository holds years of four
/// digits.
const TIME_RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_207_199;

/// The node that `stat` describes. Extended attributes and the target of a symbolic link are the
/// caller's to add; a regular file has no blobs yet.
pub(crate) fn node(name: &OsStr, stat: &Stat) -> Node {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink(Vec::new()),
        FileType::BlockDevice => NodeKind::BlockDevice(stat.st_rdev),
        FileType::CharacterDevice => NodeKind::CharDevice(stat.st_rdev),
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::RegularFile | FileType::Unknown => NodeKind::File(Vec::new()),
    };
    let directory = kind == NodeKind::Directory;
    let links = if directory { 0 } else { stat.st_nlink };
    let mtime = timestamp(stat.st_mtime, stat.st_mtime_nsec);
    Node {
        name: name.as_bytes().to_vec(),
        size: if matches!(kind, NodeKind::File(_)) {
            u64::try_from(stat.st_size).unwrap_or_default()
        } else {
            0
        },
        kind,
        mode: Some(stat.st_mode & MODE_BITS),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
        mtime: Some(mtime),
        // As restic does: the time of access changes with every read, and a tree that holds it
        // would never be the same twice.
        atime: Some(mtime),
        inode: stat.st_ino,
        // Only hard links need it; it can change when the machine starts again.
        device_id: if links > 1 { stat.st_dev } else { 0 },
        links,
        extended_attributes: Vec::new(),
    }
}

/// The time of the last change of content or metadata.
pub(crate) fn changed_at(stat: &Stat) -> Timestamp {
    timestamp(stat.st_ctime, stat.st_ctime_nsec)
}

fn timestamp(seconds: i64, nanoseconds: u64) -> Timestamp {
    let within = seconds.clamp(*TIME_RANGE.start(), *TIME_RANGE.end());
    let nanoseconds = if within == seconds {
        i32::try_from(nanoseconds).unwrap_or_default()
    } else {
        0
    };
    Timestamp::new(within, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The path of an entry of an open directory, whatever happens to the directory's own path
/// meanwhile; for the calls that take only paths.
pub(crate) fn path_at(directory: &File, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

/// The path of an open file or directory itself, also of one that was opened only as a place.
pub(crate) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The extended attributes of an entry of an open directory; a symbolic link is not followed.
///
/// # Errors
/// What the system says, or that an attribute's name is no text: the repository's format cannot
/// hold it.
pub(crate) fn of_entry(directory: &File, name: &OsStr) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = path_at(directory, name);
    collect(xattr::list(&path), |attribute| xattr::get(&path, attribute))
}

/// The extended attributes of an open file or directory.
///
/// # Errors
/// As [`of_entry`].
pub(crate) fn of_open(file: &File) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = path_of(file);
    collect(xattr::list_deref(&path), |attribute| {
        xattr::get_deref(&path, attribute)
    })
}

fn collect(
    names: io::Result<xattr::XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Vec<(String, Vec<u8>)>> {
    let names = match names {
        Ok(names) => names,
        Err(error) if unsupported(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut attributes = Vec::new();
    for attribute in names {
        let Some(text) = attribute.to_str() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the name of its extended attribute {attribute:?} is not UTF-8"),
            ));
        };
        match get(&attribute) {
            // Removed since they were listed.
            Ok(None) => {}
            Ok(Some(value)) => attributes.push((text.to_owned(), value)),
            Err(error) if unsupported(&error) => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("extended attribute {text}: {error}"),
                ));
            }
        }
    }
    // The system gives them in no order; an unchanged tree must have unchanged bytes.
    attributes.sort();
    Ok(attributes)
}

/// Whether the error only says that the file system has no such thing.
pub(crate) fn unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOTSUP.raw_os_error())
}

/// Names of users and groups, asked for once each.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl Owners {
    /// The name of a user, where the system knows one.
    pub(crate) fn user(&mut self, uid: u32) -> Option<String> {
        self.users
            .entry(uid)
            .or_insert_with(|| {
                User::from_uid(Uid::from_raw(uid))
                    .ok()?
                    .map(|user| user.name)
            })
            .clone()
    }

    /// The name of a group, where the system knows one.
    pub(crate) fn group(&mut self, gid: u32) -> Option<String> {
        self.groups
            .entry(gid)
            .or_insert_with(|| {
                Group::from_gid(Gid::from_raw(gid))
                    .ok()?
                    .map(|group| group.name)
            })
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_no_repository_can_hold_are_brought_to_the_next_that_it_can() {
        assert_eq!(timestamp(0, 1).as_nanosecond(), 1);
        assert_eq!(timestamp(-1, 999_999_999).as_nanosecond(), -1);
        assert_eq!(timestamp(i64::MAX, 5).as_second(), *TIME_RANGE.end());
        assert_eq!(timestamp(i64::MIN, 5).as_second(), *TIME_RANGE.start());
        for seconds in [*TIME_RANGE.start(), *TIME_RANGE.end()] {
            let text = timestamp(seconds, 0).to_string();
            assert_eq!(text.len(), "2026-01-01T00:00:00Z".len(), "{text}");
        }
    }

    #[test]
    fn the_owner_of_the_root_directory_has_a_name_and_nobody_else_a_made_up_one() {
        let mut owners = Owners::default();
        assert_eq!(owners.user(0).as_deref(), Some("root"));
        assert_eq!(owners.group(0).as_deref(), Some("root"));
        assert_eq!(owners.user(3_999_999_999), None);
    }
}
