//! Making one entry: under a name of its own first, complete and with its metadata, then moved to
//! its place.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::metadata;
use crate::source::{BlobId, Node, NodeKind};

/// File systems keep holes in units of this size.
const HOLE: usize = 4096;

/// Runs what blocks on the threads that are there for it.
///
/// # Errors
/// What the work says.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// What two names of one file have in common. Inodes are used again, so the number alone is not
/// enough.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HardLink {
    device: u64,
    inode: u64,
    size: u64,
    mtime: Option<jiff::Timestamp>,
    first_blob: Option<[u8; 32]>,
}

impl HardLink {
    /// `None` for a file with one name.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let NodeKind::File(blobs) = &node.kind else {
            return None;
        };
        (node.links > 1 && node.inode != 0).then(|| Self {
            device: node.device_id,
            inode: node.inode,
            size: node.size,
            mtime: node.mtime,
            first_blob: blobs.first().map(|BlobId(id)| *id),
        })
    }
}

/// An entry in the making, under a name of its own in the directory where it belongs. Dropped
/// before it is in its place, it is removed.
#[derive(Debug)]
pub(super) struct Making {
    directory: Arc<File>,
    name: OsString,
    placed: bool,
}

impl Making {
    fn new(directory: &Arc<File>) -> Self {
        Self {
            directory: Arc::clone(directory),
            name: OsString::from(format!(".holdfast-{:016x}", rand::random::<u64>())),
            placed: false,
        }
    }

    /// Moves it to its place.
    fn place(mut self, name: &OsStr, replace: bool) -> io::Result<()> {
        if replace {
            rustix::fs::renameat(&*self.directory, &self.name, &*self.directory, name)?;
            self.placed = true;
            return Ok(());
        }
        match rustix::fs::renameat_with(
            &*self.directory,
            &self.name,
            &*self.directory,
            name,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => self.placed = true,
            // File systems that do not know the flag do know hard links, which never replace; the
            // name in the making is removed afterwards.
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::linkat(
                &*self.directory,
                &self.name,
                &*self.directory,
                name,
                AtFlags::empty(),
            )?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.placed {
            let _ = rustix::fs::unlinkat(&*self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// A regular file in the making.
#[derive(Debug)]
pub(super) struct Writing {
    file: File,
    making: Making,
    position: u64,
    size: u64,
}

impl Writing {
    /// Begins a file that will have `size` bytes and that only its maker can read.
    pub(super) fn create(directory: &Arc<File>, size: u64) -> io::Result<Self> {
        let making = Making::new(directory);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = File::from(rustix::fs::openat(&**directory, &making.name, flags, mode)?);
        Ok(Self {
            file,
            making,
            position: 0,
            size,
        })
    }

    /// Adds bytes. Where they are zero for a whole unit of the file system a hole is left.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut offset = self.position;
        self.position += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.position > self.size {
            return Err(self.wrong_size());
        }
        for (zero, run) in runs(bytes, offset) {
            if !zero {
                self.file.write_all_at(run, offset)?;
            }
            offset += u64::try_from(run.len()).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    fn wrong_size(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the backup says that it has {} bytes, and its content has {}{}",
                self.size,
                self.position,
                if self.position > self.size {
                    " or more"
                } else {
                    ""
                }
            ),
        )
    }

    /// Ends the file: its size must be the one that was announced. Returns what metadata could
    /// not be set.
    pub(super) fn finish(self, node: &Node, replace: bool) -> io::Result<Vec<String>> {
        if self.position != self.size {
            return Err(self.wrong_size());
        }
        self.file.set_len(self.size)?;
        let missing = metadata::set(&self.file, node)?;
        self.making.place(OsStr::from_bytes(&node.name), replace)?;
        Ok(missing)
    }
}

/// Cuts bytes that go to an offset of a file into runs: those that can be a hole, and the others.
fn runs(bytes: &[u8], offset: u64) -> Vec<(bool, &[u8])> {
    const ZEROS: [u8; HOLE] = [0; HOLE];
    let mut runs: Vec<(bool, std::ops::Range<usize>)> = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let into = usize::try_from((offset + start as u64) % HOLE as u64).unwrap_or_default();
        let end = bytes.len().min(start + HOLE - into);
        let zero = bytes[start..end] == ZEROS[..end - start];
        match runs.last_mut() {
            Some((last, range)) if *last == zero => range.end = end,
            _ => runs.push((zero, start..end)),
        }
        start = end;
    }
    runs.into_iter()
        .map(|(zero, range)| (zero, &bytes[range]))
        .collect()
}

/// Makes a symbolic link, pipe or device. `None` when the system does not let this user make it.
pub(super) fn make_special(
    directory: &Arc<File>,
    node: &Node,
    replace: bool,
) -> io::Result<Option<Vec<String>>> {
    let making = Making::new(directory);
    let private = Mode::RUSR | Mode::WUSR;
    let made = match &node.kind {
        NodeKind::Symlink(target) => {
            rustix::fs::symlinkat(OsStr::from_bytes(target), &**directory, &making.name)?;
            let missing = metadata::set_link(directory, &making.name, node)?;
            making.place(OsStr::from_bytes(&node.name), replace)?;
            return Ok(Some(missing));
        }
        NodeKind::Fifo => {
            rustix::fs::mknodat(&**directory, &making.name, FileType::Fifo, private, 0)
        }
        NodeKind::BlockDevice(device) => rustix::fs::mknodat(
            &**directory,
            &making.name,
            FileType::BlockDevice,
            private,
            *device,
        ),
        NodeKind::CharDevice(device) => rustix::fs::mknodat(
            &**directory,
            &making.name,
            FileType::CharacterDevice,
            private,
            *device,
        ),
        // A socket has nothing in it and no file is made for it; the others are made elsewhere.
        NodeKind::Socket | NodeKind::File(_) | NodeKind::Directory => return Ok(None),
    };
    match made {
        Ok(()) => {}
        Err(Errno::PERM) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let opened = rustix::fs::openat(
        &**directory,
        &making.name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let missing = metadata::set(&File::from(opened), node)?;
    making.place(OsStr::from_bytes(&node.name), replace)?;
    Ok(Some(missing))
}

/// Gives a file that is in its place a further name.
pub(super) fn make_link(
    from: (&File, &OsStr),
    directory: &Arc<File>,
    name: &OsStr,
    replace: bool,
) -> io::Result<()> {
    let making = Making::new(directory);
    rustix::fs::linkat(from.0, from.1, &**directory, &making.name, AtFlags::empty())?;
    making.place(name, replace)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs are the bytes, in order; a hole is all zeros and ends at a unit or at the end.
        #[test]
        fn runs_are_the_bytes(
            parts in proptest::collection::vec((any::<bool>(), 1_usize..9000), 0..8),
            offset in 0_u64..20_000,
        ) {
            let bytes: Vec<u8> = parts
                .iter()
                .flat_map(|(zero, length)| std::iter::repeat_n(u8::from(!*zero), *length))
                .collect();
            let runs = runs(&bytes, offset);
            let joined: Vec<u8> = runs.iter().flat_map(|(_, run)| run.to_vec()).collect();
            prop_assert_eq!(&joined, &bytes);
            let mut position = offset;
            for (index, (zero, run)) in runs.iter().enumerate() {
                prop_assert!(!run.is_empty());
                prop_assert!(!*zero || run.iter().all(|byte| *byte == 0));
                prop_assert!(index == 0 || position % HOLE as u64 == 0);
                prop_assert!(index == 0 || runs[index - 1].0 != *zero);
                position += run.len() as u64;
            }
        }
    }

    #[test]
    fn a_size_that_does_not_fit_leaves_nothing_behind() {
        let target = tempfile::tempdir().unwrap();
        let directory = Arc::new(File::open(target.path()).unwrap());
        let mut writing = Writing::create(&directory, 4).unwrap();
        writing.append(b"abc").unwrap();
        let node = Node {
            name: b"file".to_vec(),
            kind: NodeKind::File(Vec::new()),
            size: 4,
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
        let error = writing.finish(&node, false).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("has 4 bytes, and its content has 3"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_replaced_unasked() {
        let target = tempfile::tempdir().unwrap();
        std::fs::write(target.path().join("there"), "mine").unwrap();
        let directory = Arc::new(File::open(target.path()).unwrap());
        let make = |replace| {
            let mut writing = Writing::create(&directory, 6).unwrap();
            writing.append(b"theirs").unwrap();
            writing.making.place(OsStr::new("there"), replace)
        };
        assert_eq!(
            make(false).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(target.path().join("there")).unwrap(), b"mine");
        make(true).unwrap();
        assert_eq!(
            std::fs::read(target.path().join("there")).unwrap(),
            b"theirs"
        );
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 1);
    }
}
