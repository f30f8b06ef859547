//! Taking a MongoDB backup out of its repository for the stock tools: as the dump directory that
//! `mongorestore` takes, or as one archive for `mongorestore --archive`.
//!
//! Both are streamed, one blob at a time.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tokio::fs;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::class::{Classified, ErrorClass};
use crate::manifest::MongodbManifest;
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::source::mongodb::archive;
use crate::source::mongodb::namespace::DUMP_ROOT;
use crate::source::{Content, Node, NodeKind};

/// What can go wrong while exporting.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The backup cannot be read.
    #[error("cannot read the backup: {0}")]
    Repository(#[from] RepositoryError),
    /// The backup does not hold what it should.
    #[error(
        "the backup is damaged at {path}: {cause}. Run `holdfast check`, and export from another destination or an older backup"
    )]
    Damaged {
        /// The path in the snapshot.
        path: String,
        /// What was found.
        cause: String,
    },
    /// Something is where the export should go.
    #[error("cannot export to {}: it is not empty; choose a new directory", .0.display())]
    NotEmpty(PathBuf),
    /// The file is there.
    #[error(
        "cannot create {}: it is there already; choose a file that does not exist yet",
        .0.display()
    )]
    Exists(PathBuf),
    /// The export cannot be written.
    #[error("cannot write {}: {cause}; what is there is incomplete", .path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What came back.
        cause: std::io::Error,
    },
    /// The run was asked to stop.
    #[error("the export was asked to stop; what is there is incomplete")]
    Cancelled,
}

impl ExportError {
    fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Write { path, cause }
    }

    pub(crate) fn damaged(path: &str, cause: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            cause: cause.into(),
        }
    }
}

impl Classified for ExportError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Repository(error) => error.class(),
            Self::Damaged { .. } => ErrorClass::Damaged,
            Self::NotEmpty(_) | Self::Exists(_) => ErrorClass::Permanent,
            Self::Write { .. } => ErrorClass::Waiting,
            Self::Cancelled => ErrorClass::Transient,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Repository(error) => error.reason(),
            Self::Damaged { .. } => "Damaged",
            Self::NotEmpty(_) | Self::Exists(_) => "NotEmpty",
            Self::Write { .. } => "WriteFailed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Writes the dump directory of a backup: `dir` is then what `mongorestore dir` takes. It is made
/// where it is not there, and must be empty where it is.
///
/// # Errors
/// When the backup cannot be read or the directory cannot be written; what is there then is
/// incomplete.
pub async fn export_directory(
    content: &dyn Content,
    dir: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<(), ExportError> {
    cancel
        .run_until_cancelled(write_directory(content, dir, progress))
        .await
        .unwrap_or(Err(ExportError::Cancelled))
}

/// Writes a backup as an archive, as `mongodump --archive` does: stock `mongorestore --archive`
/// takes it.
///
/// # Errors
/// When the backup cannot be read or the archive cannot be written; what was written then is
/// incomplete, and `mongorestore` says so.
pub async fn export_archive<W>(
    content: &dyn Content,
    manifest: &MongodbManifest,
    writer: W,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<(), ExportError>
where
    W: AsyncWrite + Send + Unpin,
{
    cancel
        .run_until_cancelled(archive::write(content, manifest, writer, progress))
        .await
        .unwrap_or(Err(ExportError::Cancelled))
}

/// Makes a directory where it is not there.
///
/// # Errors
/// When it cannot be made, or is there and holds something.
pub async fn make_empty(dir: &Path) -> Result<(), ExportError> {
    fs::create_dir_all(dir)
        .await
        .map_err(ExportError::write(dir))?;
    let mut entries = fs::read_dir(dir).await.map_err(ExportError::write(dir))?;
    let first = entries
        .next_entry()
        .await
        .map_err(ExportError::write(dir))?;
    match first {
        Some(_) => Err(ExportError::NotEmpty(dir.to_owned())),
        None => Ok(()),
    }
}

async fn write_directory(
    content: &dyn Content,
    dir: &Path,
    progress: &Progress,
) -> Result<(), ExportError> {
    make_empty(dir).await?;
    let mut pending = vec![(DUMP_ROOT.as_bytes().to_vec(), dir.to_owned())];
    while let Some((from, to)) = pending.pop() {
        for node in content.children(&from).await? {
            let path = [&from[..], b"/", &node.name].concat();
            let target = to.join(file_name(&path, &node)?);
            match &node.kind {
                NodeKind::Directory => {
                    fs::create_dir(&target)
                        .await
                        .map_err(ExportError::write(&target))?;
                    pending.push((path, target));
                }
                NodeKind::File(_) => write_file(content, &path, &node, &target, progress).await?,
                _ => {
                    return Err(ExportError::damaged(
                        &String::from_utf8_lossy(&path),
                        "a dump holds only files and directories",
                    ));
                }
            }
        }
    }
    sync(dir).await
}

async fn write_file(
    content: &dyn Content,
    path: &[u8],
    node: &Node,
    target: &Path,
    progress: &Progress,
) -> Result<(), ExportError> {
    let mut file = fs::File::create_new(target)
        .await
        .map_err(ExportError::write(target))?;
    let path = String::from_utf8_lossy(path);
    progress.set_phase(format!("writing {}", target.display()));
    let mut blobs = blobs(content, &path, node);
    while let Some(bytes) = blobs.try_next().await? {
        file.write_all(&bytes)
            .await
            .map_err(ExportError::write(target))?;
        progress.add_bytes(bytes.len() as u64);
    }
    file.flush().await.map_err(ExportError::write(target))?;
    progress.add_items(1);
    Ok(())
}

/// The bytes of a file node, blob by blob; at their end it is made sure that they are as many as
/// the node says.
pub(crate) fn blobs<'c>(
    content: &'c dyn Content,
    path: &str,
    node: &Node,
) -> BoxStream<'c, Result<Bytes, ExportError>> {
    let NodeKind::File(ids) = &node.kind else {
        let error = ExportError::damaged(path, "it is not a file");
        return stream::iter([Err(error)]).boxed();
    };
    let state = (ids.clone().into_iter(), 0, path.to_owned());
    let size = node.size;
    stream::try_unfold(state, move |(mut ids, read, path)| async move {
        let Some(id) = ids.next() else {
            return if read == size {
                Ok(None)
            } else {
                let cause = format!("it holds {read} bytes and should hold {size}");
                Err(ExportError::damaged(&path, cause))
            };
        };
        let bytes = content.blob(&id).await?;
        let read = read + bytes.len() as u64;
        Ok(Some((bytes, (ids, read, path))))
    })
    .boxed()
}

/// A name from a repository is used as a file name only if it is one.
fn file_name<'n>(path: &[u8], node: &'n Node) -> Result<&'n OsStr, ExportError> {
    let name = node.name.as_slice();
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(ExportError::damaged(
            &String::from_utf8_lossy(path),
            "it is no file name",
        ));
    }
    Ok(OsStr::from_bytes(name))
}

/// One flush of the whole file system: thousands of small files would each wait for the disk.
async fn sync(dir: &Path) -> Result<(), ExportError> {
    let path = dir.to_owned();
    tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        Ok(rustix::fs::syncfs(std::fs::File::open(path)?)?)
    })
    .await
    .map_err(std::io::Error::other)
    .and_then(|result| result)
    .map_err(ExportError::write(dir))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::file_name;
    use crate::source::{Node, NodeKind};

    #[rstest]
    #[case(b"orders.bson", true)]
    #[case(b"%2F..bson", true)]
    #[case(b"..", false)]
    #[case(b".", false)]
    #[case(b"", false)]
    #[case(b"../x", false)]
    #[case(b"a\0", false)]
    fn nothing_is_written_outside(#[case] name: &[u8], #[case] accepted: bool) {
        let node = Node {
            name: name.to_vec(),
            kind: NodeKind::Directory,
            size: 0,
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
        assert_eq!(file_name(b"/mongodb/dump/x", &node).is_ok(), accepted);
    }
}
