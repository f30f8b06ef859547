//! One SFTP channel: requests, many in flight at a time, and what the server can do beyond the
//! protocol's third version.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use russh_sftp::client::{Config, RawSftpSession, error::Error};
use russh_sftp::protocol::{FileAttributes, FileType, OpenFlags, Packet, Status, StatusCode};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Failure};
use crate::destination::{StorageErrorKind as Kind, names};

/// How long one answer may take; a sync of a large file on a busy disk takes longest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The size of a read or write that every server takes.
const COMMON_CHUNK: u32 = 32 * 1024;
/// The size where the server says that it takes more: OpenSSH's own limit, less its overhead.
const LARGE_CHUNK: u32 = 255 * 1024;
/// How much of one file is on its way at a time: the product of a link's speed and latency (40 MB/s
/// at 100 ms).
const IN_FLIGHT: u32 = 4 * 1024 * 1024;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = russh_sftp::extensions::FSYNC;
const STATVFS: &str = russh_sftp::extensions::STATVFS;
const LIMITS: &str = russh_sftp::extensions::LIMITS;
/// The flag of `statvfs` for a file system that cannot be written.
const READ_ONLY: u64 = 1;

const BROKE: &str = "the connection broke";

/// One SFTP channel.
pub(super) struct Session {
    raw: RawSftpSession,
    broken: AtomicBool,
    /// Cancelled when the connection has ended.
    gone: CancellationToken,
    chunk: u32,
    can_rename_over: bool,
    can_sync: bool,
    can_tell_space: bool,
}

/// What the server says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) kind: FileType,
    pub(super) size: u64,
    /// Seconds since the epoch.
    pub(super) modified: u64,
}

impl From<&FileAttributes> for Attributes {
    fn from(attributes: &FileAttributes) -> Self {
        Self {
            kind: attributes.file_type(),
            size: attributes.len(),
            modified: attributes.mtime.unwrap_or_default().into(),
        }
    }
}

#[derive(Serialize)]
struct Rename<'a> {
    from: &'a str,
    to: &'a str,
}

impl Session {
    pub(super) async fn open(connection: &Connection) -> Result<Self, Failure> {
        let gone = connection.gone();
        tokio::select! {
            biased;
            session = Self::greet(connection) => session,
            () = gone.cancelled() => Err((Kind::Interrupted, BROKE.to_owned())),
        }
    }

    async fn greet(connection: &Connection) -> Result<Self, Failure> {
        let config = Config {
            request_timeout_secs: ANSWER_TIMEOUT.as_secs(),
            ..Config::default()
        };
        let raw = RawSftpSession::new_with_config(connection.sftp_channel().await?, config);
        let greeting = raw.init().await.map_err(|error| plain_failure(&error))?;
        let can = |extension: &str| greeting.extensions.contains_key(extension);
        let chunk = if can(LIMITS) {
            let limits = raw.limits().await.map_err(|error| plain_failure(&error))?;
            [limits.max_read_len, limits.max_write_len]
                .into_iter()
                .filter(|limit| *limit > 0)
                .map(|limit| u32::try_from(limit).unwrap_or(LARGE_CHUNK))
                .fold(LARGE_CHUNK, u32::min)
        } else {
            COMMON_CHUNK
        };
        Ok(Self {
            chunk,
            can_rename_over: can(POSIX_RENAME),
            can_sync: can(FSYNC),
            can_tell_space: can(STATVFS),
            broken: AtomicBool::new(false),
            gone: connection.gone(),
            raw,
        })
    }

    /// Whether the channel has failed and is of no more use.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The answer to a request, or the end of the connection: the library leaves a request that is
    /// made while the connection breaks waiting for its time to run out.
    async fn ask<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            answer = request => answer,
            () = self.gone.cancelled() => Err(Error::IO(BROKE.to_owned())),
        }
    }

    fn failure(&self, error: &Error) -> Failure {
        if !matches!(error, Error::Status(_)) {
            self.broken.store(true, Ordering::Relaxed);
        }
        plain_failure(error)
    }

    fn said<T>(&self, result: Result<T, Error>) -> Result<T, Failure> {
        result.map_err(|error| self.failure(&error))
    }

    /// The attributes behind a name (links followed), or `None` when there is none.
    pub(super) async fn attributes(&self, path: &str) -> Result<Option<Attributes>, Failure> {
        match self.ask(self.raw.stat(path)).await {
            Ok(answer) => Ok(Some(Attributes::from(&answer.attrs))),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    pub(super) async fn is_directory(&self, path: &str) -> Result<bool, Failure> {
        Ok(self
            .attributes(path)
            .await?
            .is_some_and(|found| found.kind == FileType::Dir))
    }

    /// The names in a directory, at least until `limit` of them are objects; `None` when it is not
    /// there.
    pub(super) async fn names(
        &self,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<(String, Attributes)>>, Failure> {
        let handle = match self.ask(self.raw.opendir(path)).await {
            Ok(answer) => answer.handle,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(self.failure(&error)),
        };
        let mut found = Vec::new();
        let mut objects = 0;
        let outcome = loop {
            if objects >= limit {
                break Ok(());
            }
            match self.ask(self.raw.readdir(&handle)).await {
                Ok(answer) => {
                    for file in answer.files {
                        if matches!(file.filename.as_str(), "." | "..") {
                            continue;
                        }
                        let attributes = Attributes::from(&file.attrs);
                        let object = attributes.kind == FileType::File
                            && !names::is_temporary(&file.filename);
                        objects += usize::from(object);
                        found.push((file.filename, attributes));
                    }
                }
                Err(Error::Status(Status {
                    status_code: StatusCode::Eof,
                    ..
                })) => break Ok(()),
                Err(error) => break Err(self.failure(&error)),
            }
        };
        self.close(handle).await;
        outcome.map(|()| Some(found))
    }

    /// A file's content: `length` bytes from `offset`, or all of it.
    pub(super) async fn read(
        &self,
        path: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Bytes, Failure> {
        let opened = self
            .ask(
                self.raw
                    .open(path, OpenFlags::READ, FileAttributes::empty()),
            )
            .await;
        let handle = self.said(opened)?.handle;
        let outcome = self.read_open(&handle, range).await;
        self.close(handle).await;
        outcome
    }

    async fn read_open(&self, handle: &str, range: Option<(u64, u64)>) -> Result<Bytes, Failure> {
        let (offset, length) = match range {
            Some(range) => range,
            None => (
                0,
                self.said(self.ask(self.raw.fstat(handle)).await)?
                    .attrs
                    .len(),
            ),
        };
        let end = offset.saturating_add(length);
        let mut buffer = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
        let mut pieces = stream::iter(chunks(offset, end, self.chunk))
            .map(|(at, size)| self.read_chunk(handle, at, size))
            .buffered(self.depth());
        while let Some(piece) = pieces.try_next().await? {
            buffer.extend_from_slice(&piece);
        }
        Ok(buffer.freeze())
    }

    /// Exactly `size` bytes from `at`: servers may answer with fewer than asked for.
    async fn read_chunk(&self, handle: &str, at: u64, size: u32) -> Result<Vec<u8>, Failure> {
        let mut whole: Vec<u8> = Vec::new();
        loop {
            let done = u32::try_from(whole.len()).unwrap_or(size);
            let rest = size.saturating_sub(done);
            if rest == 0 {
                return Ok(whole);
            }
            let piece = match self
                .ask(self.raw.read(handle, at + u64::from(done), rest))
                .await
            {
                Ok(answer) => answer.data,
                Err(Error::Status(Status {
                    status_code: StatusCode::Eof,
                    ..
                })) => Vec::new(),
                Err(error) => return Err(self.failure(&error)),
            };
            if piece.is_empty() {
                let cause = format!("the file ends after {} bytes", at + u64::from(done));
                return Err((Kind::Corrupt, cause));
            }
            if whole.is_empty() {
                whole = piece;
            } else {
                whole.extend_from_slice(&piece);
            }
        }
    }

    /// Writes a new file and syncs it where the server can.
    pub(super) async fn create(&self, path: &str, parts: &[Bytes]) -> Result<(), Failure> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let private = FileAttributes {
            permissions: Some(0o600),
            ..FileAttributes::empty()
        };
        let handle = self
            .said(self.ask(self.raw.open(path, flags, private)).await)?
            .handle;
        let mut outcome = self.write_open(&handle, parts).await;
        if outcome.is_ok() && self.can_sync {
            outcome = self.said(self.ask(self.raw.fsync(&handle)).await).map(drop);
        }
        if outcome.is_err() {
            self.close(handle).await;
            return outcome;
        }
        // Some file systems report a failed write only here.
        self.said(self.ask(self.raw.close(handle)).await).map(drop)
    }

    async fn write_open(&self, handle: &str, parts: &[Bytes]) -> Result<(), Failure> {
        let mut start = 0;
        let mut pieces = Vec::new();
        for part in parts {
            let end = start + part.len() as u64;
            for (at, size) in chunks(start, end, self.chunk) {
                let from = usize::try_from(at - start).unwrap_or_default();
                pieces.push((at, part.slice(from..from + size as usize)));
            }
            start = end;
        }
        stream::iter(pieces)
            .map(|(at, piece)| async move {
                self.said(self.ask(self.raw.write(handle, at, piece.to_vec())).await)
                    .map(drop)
            })
            .buffer_unordered(self.depth())
            .try_collect()
            .await
    }

    /// Gives `from` the name `to`, in place of what may have it. Servers without the extension
    /// remove that first: for a moment the name is absent, and the new content is never partial.
    pub(super) async fn rename_over(&self, from: &str, to: &str) -> Result<(), Failure> {
        if self.can_rename_over {
            let names = russh_sftp::ser::to_bytes(&Rename { from, to })
                .map_err(|error| (Kind::Other, error.to_string()))?;
            return match self.said(
                self.ask(self.raw.extended(POSIX_RENAME, names.to_vec()))
                    .await,
            )? {
                Packet::Status(Status {
                    status_code: StatusCode::Ok,
                    ..
                }) => Ok(()),
                Packet::Status(status) => Err(self.failure(&status.into())),
                _ => Err(self.failure(&Error::UnexpectedPacket)),
            };
        }
        match self.ask(self.raw.rename(from, to)).await {
            Ok(_) => Ok(()),
            Err(Error::Status(Status {
                status_code: StatusCode::Failure | StatusCode::OpUnsupported,
                ..
            })) => {
                self.remove(to).await?;
                self.said(self.ask(self.raw.rename(from, to)).await)
                    .map(drop)
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Syncs a directory. The protocol has no word for it; OpenSSH on a Unix does it when the
    /// directory is opened like a file. A server that cannot is not worth an error.
    pub(super) async fn sync_directory(&self, path: &str) -> Result<(), Failure> {
        if !self.can_sync {
            return Ok(());
        }
        let opened = self
            .ask(
                self.raw
                    .open(path, OpenFlags::READ, FileAttributes::empty()),
            )
            .await;
        let handle = match opened {
            Ok(answer) => answer.handle,
            Err(Error::Status(_)) => return Ok(()),
            Err(error) => return Err(self.failure(&error)),
        };
        let synced = self.ask(self.raw.fsync(&handle)).await;
        self.close(handle).await;
        match synced {
            Ok(_) | Err(Error::Status(_)) => Ok(()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Makes a directory, private to the account. `Ok(false)`: the one above it is not there.
    pub(super) async fn make_directory(&self, path: &str) -> Result<bool, Failure> {
        let private = FileAttributes {
            permissions: Some(0o700),
            ..FileAttributes::empty()
        };
        match self.ask(self.raw.mkdir(path, private)).await {
            Ok(_) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => {
                // "Failure" is what this version of the protocol says of one that exists.
                if matches!(error, Error::Status(_)) && self.is_directory(path).await? {
                    return Ok(true);
                }
                Err(self.failure(&error))
            }
        }
    }

    /// Removes a file; one that is not there is removed.
    pub(super) async fn remove(&self, path: &str) -> Result<(), Failure> {
        match self.ask(self.raw.remove(path)).await {
            Err(error) if !is_absence(&error) => Err(self.failure(&error)),
            _ => Ok(()),
        }
    }

    /// Why a write may have failed that the server calls only a failure, if that can be found out.
    pub(super) async fn diagnose(&self, directory: &str, wanted: u64) -> Option<Failure> {
        if !self.can_tell_space {
            return None;
        }
        let space = self.ask(self.raw.statvfs(directory)).await.ok()?;
        let free = space.blocks_avail.saturating_mul(space.fragment_size);
        if space.flags & READ_ONLY != 0 {
            Some((
                Kind::PermissionDenied,
                "the server's file system is read-only".to_owned(),
            ))
        } else if free < wanted || (space.inodes > 0 && space.inodes_avail == 0) {
            let cause = format!(
                "the server's disk is full: {free} bytes and {} files are free",
                space.inodes_avail
            );
            Some((Kind::Full, cause))
        } else {
            None
        }
    }

    /// The content is safe or given up by now; a handle that stays open is not worth an error.
    async fn close(&self, handle: String) {
        if let Err(error) = self.ask(self.raw.close(handle)).await {
            let (_, cause) = self.failure(&error);
            tracing::debug!(cause, "The SFTP server does not close a file.");
        }
    }

    fn depth(&self) -> usize {
        (IN_FLIGHT / self.chunk).clamp(1, 128) as usize
    }
}

/// `start..end` in runs of at most `size`: where each begins and how long it is.
fn chunks(start: u64, end: u64, size: u32) -> impl Iterator<Item = (u64, u32)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let length = u32::try_from(end.saturating_sub(at))
            .unwrap_or(size)
            .min(size);
        let chunk = (at, length);
        at += u64::from(length);
        (length > 0).then_some(chunk)
    })
}

fn is_absence(error: &Error) -> bool {
    matches!(
        error,
        Error::Status(Status {
            status_code: StatusCode::NoSuchFile,
            ..
        })
    )
}

fn plain_failure(error: &Error) -> Failure {
    let Error::Status(status) = error else {
        return (
            Kind::Interrupted,
            format!("the SFTP channel failed: {error}"),
        );
    };
    let kind = match status.status_code {
        StatusCode::NoSuchFile => Kind::NotFound,
        StatusCode::PermissionDenied => Kind::PermissionDenied,
        StatusCode::NoConnection | StatusCode::ConnectionLost => Kind::Interrupted,
        StatusCode::OpUnsupported => Kind::InvalidConfig,
        _ => Kind::Other,
    };
    // Servers often repeat the code in words.
    let code = status.status_code.to_string();
    let said = status.error_message.trim();
    let cause = if said.is_empty() || said.eq_ignore_ascii_case(&code) {
        format!("the server says: {code}")
    } else {
        format!("the server says: {code} ({said})")
    };
    (kind, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_cover_the_range_once_and_in_order(
            start in 0_u64..1 << 40, length in 0_u64..10_000, size in 1_u32..3_000,
        ) {
            let end = start + length;
            let mut at = start;
            for (from, length) in chunks(start, end, size) {
                prop_assert_eq!(from, at);
                prop_assert!(length >= 1 && length <= size);
                at += u64::from(length);
            }
            prop_assert_eq!(at, end);
        }
    }
}
