//! Whether what is there is what the backup has: by content, never by time alone.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use sha2::{Digest, Sha256};

use super::file::blocking;
use crate::repository::RepositoryError;
use crate::source::{BlobId, Content, Node, NodeKind};

/// How many bytes of a file are compared at a time.
const PIECE: usize = 1024 * 1024;

/// Whether the entry is what the node says, metadata aside.
///
/// # Errors
/// What the repository says. A file that cannot be read counts as different.
pub(super) async fn same(
    content: &dyn Content,
    directory: &Arc<File>,
    node: &Node,
    stat: &Stat,
) -> Result<bool, RepositoryError> {
    let name = OsStr::from_bytes(&node.name);
    let found = FileType::from_raw_mode(stat.st_mode);
    match &node.kind {
        NodeKind::File(blobs) => {
            if found != FileType::RegularFile || u64::try_from(stat.st_size) != Ok(node.size) {
                return Ok(false);
            }
            same_content(content, directory, name, blobs, node.size).await
        }
        NodeKind::Directory => Ok(found == FileType::Directory),
        NodeKind::Symlink(target) => Ok(found == FileType::Symlink
            && rustix::fs::readlinkat(&**directory, name, Vec::new())
                .is_ok_and(|there| there.as_bytes() == target)),
        NodeKind::BlockDevice(device) => {
            Ok(found == FileType::BlockDevice && stat.st_rdev == *device)
        }
        NodeKind::CharDevice(device) => {
            Ok(found == FileType::CharacterDevice && stat.st_rdev == *device)
        }
        NodeKind::Fifo => Ok(found == FileType::Fifo),
        NodeKind::Socket => Ok(found == FileType::Socket),
    }
}

async fn same_content(
    content: &dyn Content,
    directory: &Arc<File>,
    name: &OsStr,
    blobs: &[BlobId],
    size: u64,
) -> Result<bool, RepositoryError> {
    let (parent, name) = (Arc::clone(directory), name.to_owned());
    let opened = blocking(move || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*parent, &name, flags, Mode::empty())?;
        Ok(Arc::new(File::from(file)))
    })
    .await;
    let Ok(file) = opened else {
        return Ok(false);
    };
    let mut offset = 0;
    for id in blobs {
        let length = content.blob_size(id).await?;
        let (file, id) = (Arc::clone(&file), *id);
        if !blocking(move || has_blob(&file, offset, length, &id))
            .await
            .unwrap_or(false)
        {
            return Ok(false);
        }
        offset += length;
    }
    Ok(offset == size)
}

fn has_blob(file: &File, offset: u64, length: u64, id: &BlobId) -> io::Result<bool> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    let mut done = 0;
    while done < length {
        let wanted = usize::try_from(length - done).map_or(PIECE, |left| left.min(PIECE));
        let piece = &mut buffer[..wanted];
        file.read_exact_at(piece, offset + done)?;
        hash.update(&*piece);
        done += u64::try_from(wanted).unwrap_or(u64::MAX);
    }
    Ok(hash.finalize().as_slice() == id.0)
}
