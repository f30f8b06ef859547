//! Bringing metadata to what it was: owner, extended attributes, mode, times, in the order in which
//! none undoes another.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::source::Node;
use crate::source::files::attributes::{MODE_BITS, path_at, path_of, unsupported};

/// setuid and setgid: they mean nothing good with an owner that is not the one they had.
const SET_ID_BITS: u32 = 0o6000;

/// The POSIX access list that a file can inherit from the directory it is made in.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// The default POSIX access list, which only directories have.
const DEFAULT_ACCESS_LIST: &str = "system.posix_acl_default";

/// Gives an open file, directory, pipe or device the metadata of its node. Returns what could not
/// be set because the system or the file system does not let it.
///
/// # Errors
/// When what can always be set could not be.
pub(super) fn set(file: &File, node: &Node) -> io::Result<Vec<String>> {
    let path = path_of(file);
    let now = rustix::fs::fstat(file)?;
    let mut missing = Vec::new();
    // Before the mode: a new owner takes setuid and capabilities away.
    let owned = set_owner(&path, node, &now, AtFlags::empty(), &mut missing)?;
    set_attributes(&path, node, true, &mut missing);
    if let Some(mode) = node.mode {
        let allowed = if owned {
            MODE_BITS
        } else {
            MODE_BITS & !SET_ID_BITS
        };
        let mode = Mode::from_raw_mode(mode & allowed);
        match rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty()) {
            Err(Errno::PERM) => missing.push("its mode is not permitted".into()),
            other => other?,
        }
    }
    set_times(&path, node, AtFlags::empty(), &mut missing)?;
    Ok(missing)
}

/// Gives a symbolic link the metadata of its node; it has no mode.
///
/// # Errors
/// As [`set`].
pub(super) fn set_link(directory: &File, name: &OsStr, node: &Node) -> io::Result<Vec<String>> {
    let path = path_at(directory, name);
    let now = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut missing = Vec::new();
    set_owner(&path, node, &now, AtFlags::SYMLINK_NOFOLLOW, &mut missing)?;
    set_attributes(&path, node, false, &mut missing);
    set_times(&path, node, AtFlags::SYMLINK_NOFOLLOW, &mut missing)?;
    Ok(missing)
}

/// Whether the owner is the one that the node names.
fn set_owner(
    path: &Path,
    node: &Node,
    now: &Stat,
    flags: AtFlags,
    missing: &mut Vec<String>,
) -> io::Result<bool> {
    let uid = node.uid.filter(|uid| *uid != now.st_uid);
    let gid = node.gid.filter(|gid| *gid != now.st_gid);
    if uid.is_none() && gid.is_none() {
        return Ok(true);
    }
    let chown = |uid: Option<u32>, gid: Option<u32>| {
        rustix::fs::chownat(
            CWD,
            path,
            uid.map(Uid::from_raw),
            gid.map(Gid::from_raw),
            flags,
        )
    };
    match chown(uid, gid) {
        Ok(()) => Ok(true),
        // A user may give a file to a group of its own, if not to another user.
        Err(Errno::PERM | Errno::INVAL) => {
            let _ = chown(None, gid);
            missing.push(format!(
                "owner {}:{} is not permitted",
                node.uid.unwrap_or(now.st_uid),
                node.gid.unwrap_or(now.st_gid)
            ));
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Sets the attributes of the node, and removes those that a user or a directory above gave it.
/// Those of the system's own security modules stay.
fn set_attributes(path: &Path, node: &Node, follow: bool, missing: &mut Vec<String>) {
    let names = if follow {
        xattr::list_deref(path)
    } else {
        xattr::list(path)
    };
    let wanted = |name: &str| {
        node.extended_attributes
            .iter()
            .any(|(other, _)| other == name)
    };
    match names {
        Ok(names) => {
            for name in names {
                let Some(text) = name.to_str() else { continue };
                let inherited = matches!(text, ACCESS_LIST | DEFAULT_ACCESS_LIST);
                if wanted(text) || !(inherited || text.starts_with("user.")) {
                    continue;
                }
                let removed = if follow {
                    xattr::remove_deref(path, &name)
                } else {
                    xattr::remove(path, &name)
                };
                if let Err(error) = removed {
                    missing.push(format!(
                        "extended attribute {text} cannot be removed: {error}"
                    ));
                }
            }
        }
        Err(error) if unsupported(&error) => {}
        Err(error) => missing.push(format!("extended attributes cannot be listed: {error}")),
    }
    for (name, value) in &node.extended_attributes {
        let set = if follow {
            xattr::set_deref(path, name, value)
        } else {
            xattr::set(path, name, value)
        };
        if let Err(error) = set {
            missing.push(format!("extended attribute {name} cannot be set: {error}"));
        }
    }
}

fn set_times(
    path: &Path,
    node: &Node,
    flags: AtFlags,
    missing: &mut Vec<String>,
) -> io::Result<()> {
    let Some(mtime) = node.mtime else {
        return Ok(());
    };
    let times = Timestamps {
        last_access: timespec(node.atime.unwrap_or(mtime)),
        last_modification: timespec(mtime),
    };
    match rustix::fs::utimensat(CWD, path, &times, flags) {
        Err(Errno::PERM) => missing.push("its times are not permitted".into()),
        other => other?,
    }
    Ok(())
}

fn timespec(time: Timestamp) -> Timespec {
    const SECOND: i128 = 1_000_000_000;
    let nanoseconds = time.as_nanosecond();
    Timespec {
        tv_sec: i64::try_from(nanoseconds.div_euclid(SECOND)).unwrap_or_default(),
        tv_nsec: i64::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Seconds and nanoseconds are those of the clock, also before 1970, when a timestamp's
        /// own parts are negative.
        #[test]
        fn times_are_those_of_the_clock(seconds in -62_135_596_800_i64..253_402_207_199, nanoseconds in 0_i32..1_000_000_000) {
            let time = Timestamp::new(seconds, nanoseconds).unwrap();
            let spec = timespec(time);
            prop_assert_eq!(spec.tv_sec, seconds);
            prop_assert_eq!(spec.tv_nsec, i64::from(nanoseconds));
        }
    }
}
