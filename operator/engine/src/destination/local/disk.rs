//! What a write does to a disk, step by step: the seam at which tests see their order, which is all
//! that stands between a power cut and an object that is there by name and not by content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::io::Errno;

/// The steps of a write.
pub(super) trait Disk: std::fmt::Debug + Send + Sync {
    /// Makes a directory for its owner alone, unless it is there.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes a new file of these parts, for its owner alone.
    fn write(&self, path: &Path, parts: &[Bytes]) -> io::Result<File>;

    /// Waits until the content of `file`, which is at `path`, is on the disk.
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()>;

    /// Gives a file another name, in place of what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Waits until the names in a directory are on the disk.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The disks of this machine.
#[derive(Debug)]
pub(super) struct Machine;

impl Disk for Machine {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn write(&self, path: &Path, parts: &[Bytes]) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        // Empty slices at the front would make a write of nothing look like a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(file)
    }

    fn sync_file(&self, _: &Path, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // Some network file systems cannot sync a directory; there is nothing more to be done.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::INVAL | Errno::NOTSUP)
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}
