//! Reading one file: only if it is still the regular file that was found, to its very end, with
//! every failure on record.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use tokio_util::sync::CancellationToken;

use super::record::Record;

/// What every reader of one run shares.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) record: Arc<Record>,
    pub(crate) cancel: CancellationToken,
}

/// A file that was found and may be opened later, on another thread.
#[derive(Debug)]
pub(crate) struct Unopened {
    pub(super) directory: Arc<File>,
    pub(super) name: OsString,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) reading: Reading,
}

/// A file that is being read. It ends where the file ends: what was read is what is saved, and a
/// size that turns out different from the announced one goes on record.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The archiver asks for a few kilobytes at a time.
    file: BufReader<File>,
    at_open: Stat,
    read: u64,
    ended: bool,
    found: Unopened,
}

impl Unopened {
    /// Opens the file. A failure is on record when this returns.
    pub(crate) fn open(self) -> io::Result<Opened> {
        if self.reading.cancel.is_cancelled() {
            return Err(stopped());
        }
        self.reading.record.opened();
        let opened = open_without_touching(&self.directory, &self.name).and_then(|file| {
            let at_open = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(at_open.st_mode) == FileType::RegularFile {
                Ok((file, at_open))
            } else {
                Err(io::Error::other("it is no longer a regular file"))
            }
        });
        match opened {
            // Opening told whether it can be read; its content is of no use any more.
            Ok(_) if self.reading.record.is_abandoned() => Err(stopped()),
            Ok((file, at_open)) => Ok(Opened {
                file: BufReader::with_capacity(buffer_for(self.size), file),
                at_open,
                read: 0,
                ended: false,
                found: self,
            }),
            Err(error) => {
                let reason = reason(&error);
                self.reading
                    .record
                    .unreadable_file(&self.path, self.size, &reason);
                Err(error)
            }
        }
    }
}

/// How much is read at once from a file of this size: one byte more than it has, to see its end.
fn buffer_for(size: u64) -> usize {
    const LARGEST: usize = 256 * 1024;
    usize::try_from(size).map_or(LARGEST, |size| size.saturating_add(1).min(LARGEST))
}

/// Opens for reading without following a link, without waiting for the other end of a pipe, and
/// where it is allowed without a new time of access.
fn open_without_touching(directory: &File, name: &std::ffi::OsStr) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => rustix::fs::openat(directory, name, flags, Mode::empty()),
        other => other,
    };
    Ok(File::from(opened?))
}

/// Why a file could not be read, for a person.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it vanished while the tree was read".into(),
        _ => error.to_string(),
    }
}

fn stopped() -> io::Error {
    io::Error::other("the run has been stopped")
}

impl Opened {
    fn end(&mut self) {
        self.ended = true;
        if self.read != self.found.size {
            self.found
                .reading
                .record
                .resized(self.found.size, self.read);
        }
        let untouched = rustix::fs::fstat(self.file.get_ref()).is_ok_and(|now| {
            now.st_size == self.at_open.st_size
                && now.st_mtime == self.at_open.st_mtime
                && now.st_mtime_nsec == self.at_open.st_mtime_nsec
        });
        if !untouched {
            self.found.reading.record.changed(&self.found.path);
        }
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.found.reading.cancel.is_cancelled() || self.found.reading.record.is_abandoned() {
            self.ended = true;
            return Err(stopped());
        }
        loop {
            return match self.file.read(buffer) {
                Ok(0) => {
                    self.end();
                    Ok(0)
                }
                Ok(length) => {
                    self.read += u64::try_from(length).unwrap_or(u64::MAX);
                    Ok(length)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.ended = true;
                    self.found.reading.record.unreadable_file(
                        &self.found.path,
                        self.found.size,
                        &reason(&error),
                    );
                    Err(error)
                }
            };
        }
    }
}
