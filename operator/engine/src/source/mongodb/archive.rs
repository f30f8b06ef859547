//! The archive format of `mongodump --archive`, written as a stream.
//!
//! ```text
//! magic, header, one description per collection, terminator,
//! then per collection: its name, its documents, terminator, its name with EOF and a CRC, terminator
//! ```
//! Collections follow one another; the format would let them interleave. Users, roles and their
//! schema version come first: `mongorestore` looks at them before it restores anything else.

use bson::{Document, doc};
use crc_fast::{CrcAlgorithm, Digest};
use futures::TryStreamExt as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::namespace::{BUCKETS_PREFIX, Namespace};
use crate::export::{ExportError, blobs};
use crate::manifest::MongodbManifest;
use crate::progress::Progress;
use crate::source::{Content, Node};

const MAGIC: u32 = 0x8199_e26d;
const FORMAT_VERSION: &str = "0.1";
const TERMINATOR: [u8; 4] = [0xff; 4];
/// What the snapshot holds of the accounts; the manifest only counts them.
const ACCOUNTS: [&str; 3] = ["system.version", "system.users", "system.roles"];

/// One collection, view or time series of the archive.
struct Entry {
    namespace: Namespace,
    /// The collection that holds the documents: for a time series, that of its buckets.
    data_collection: String,
    kind: String,
    metadata_path: Option<String>,
    data: Option<(String, Node)>,
}

/// Writes the archive of a backup.
pub(crate) async fn write<W>(
    content: &dyn Content,
    manifest: &MongodbManifest,
    mut writer: W,
    progress: &Progress,
) -> Result<(), ExportError>
where
    W: AsyncWrite + Send + Unpin,
{
    let entries = entries(content, manifest).await?;
    progress.set_total_bytes(
        entries
            .iter()
            .filter_map(|entry| entry.data.as_ref())
            .map(|(_, node)| node.size)
            .sum(),
    );

    put(&mut writer, &MAGIC.to_le_bytes()).await?;
    let header = doc! {
        "concurrent_collections": 1,
        "version": FORMAT_VERSION,
        "server_version": &manifest.server_version,
        "tool_version": concat!("holdfast ", env!("CARGO_PKG_VERSION")),
    };
    put_document(&mut writer, &header).await?;
    for entry in &entries {
        put_document(&mut writer, &description(content, entry).await?).await?;
    }
    put(&mut writer, &TERMINATOR).await?;
    for entry in &entries {
        write_entry(content, entry, &mut writer, progress).await?;
    }
    writer.flush().await.map_err(writing)
}

async fn entries(
    content: &dyn Content,
    manifest: &MongodbManifest,
) -> Result<Vec<Entry>, ExportError> {
    let mut entries = Vec::with_capacity(manifest.collections.len() + ACCOUNTS.len());
    for name in ACCOUNTS {
        let namespace = Namespace::new("admin", name);
        let path = namespace.data_path();
        let Some(node) = content.node(path.as_bytes()).await? else {
            continue;
        };
        let metadata_path = namespace.metadata_path();
        let described = content.node(metadata_path.as_bytes()).await?.is_some();
        entries.push(Entry {
            data_collection: name.to_owned(),
            kind: "collection".to_owned(),
            metadata_path: described.then_some(metadata_path),
            data: Some((path, node)),
            namespace,
        });
    }
    for one in &manifest.collections {
        if one.db == "admin" && ACCOUNTS.contains(&one.name.as_str()) {
            continue;
        }
        let data = match &one.data_path {
            Some(path) => match content.node(path.as_bytes()).await? {
                Some(node) => Some((path.clone(), node)),
                None => return Err(ExportError::damaged(path, "the file is not there")),
            },
            None => None,
        };
        let data_collection = if one.kind == "timeseries" {
            format!("{BUCKETS_PREFIX}{}", one.name)
        } else {
            one.name.clone()
        };
        entries.push(Entry {
            namespace: Namespace::new(&one.db, &one.name),
            data_collection,
            kind: one.kind.clone(),
            metadata_path: one.metadata_path.clone(),
            data,
        });
    }
    Ok(entries)
}

/// What the prelude says of one collection.
async fn description(content: &dyn Content, entry: &Entry) -> Result<Document, ExportError> {
    let mut metadata = Vec::new();
    if let Some(path) = &entry.metadata_path {
        let Some(node) = content.node(path.as_bytes()).await? else {
            return Err(ExportError::damaged(path, "the file is not there"));
        };
        let mut blobs = blobs(content, path, &node);
        while let Some(bytes) = blobs.try_next().await? {
            metadata.extend_from_slice(&bytes);
        }
    }
    let metadata = String::from_utf8(metadata)
        .map_err(|error| ExportError::damaged(&entry.namespace.to_string(), error.to_string()))?;
    let size = entry.data.as_ref().map_or(0, |(_, node)| node.size);
    Ok(doc! {
        "db": &entry.namespace.db,
        "collection": &entry.namespace.collection,
        "metadata": metadata,
        "size": i64::try_from(size).unwrap_or(i64::MAX),
        "type": &entry.kind,
    })
}

async fn write_entry<W>(
    content: &dyn Content,
    entry: &Entry,
    writer: &mut W,
    progress: &Progress,
) -> Result<(), ExportError>
where
    W: AsyncWrite + Send + Unpin,
{
    progress.set_phase(format!("writing {}", entry.namespace));
    put_document(writer, &block_header(entry, None)).await?;
    // Go's crc64.ECMA is the catalogue's CRC-64/XZ.
    let mut crc = Digest::new(CrcAlgorithm::Crc64Xz);
    if let Some((path, node)) = &entry.data {
        let mut blobs = blobs(content, path, node);
        while let Some(bytes) = blobs.try_next().await? {
            crc.update(&bytes);
            put(writer, &bytes).await?;
            progress.add_bytes(bytes.len() as u64);
        }
    }
    put(writer, &TERMINATOR).await?;
    put_document(writer, &block_header(entry, Some(crc.finalize()))).await?;
    put(writer, &TERMINATOR).await?;
    progress.add_items(1);
    Ok(())
}

/// The header of a block of documents, or, with a checksum, of the end of a collection.
fn block_header(entry: &Entry, end: Option<u64>) -> Document {
    doc! {
        "db": &entry.namespace.db,
        "collection": &entry.data_collection,
        "EOF": end.is_some(),
        "CRC": end.unwrap_or(0).cast_signed(),
    }
}

async fn put_document<W>(writer: &mut W, document: &Document) -> Result<(), ExportError>
where
    W: AsyncWrite + Send + Unpin,
{
    let bytes = bson::to_vec(document).map_err(|error| writing(std::io::Error::other(error)))?;
    put(writer, &bytes).await
}

async fn put<W>(writer: &mut W, bytes: &[u8]) -> Result<(), ExportError>
where
    W: AsyncWrite + Send + Unpin,
{
    writer.write_all(bytes).await.map_err(writing)
}

fn writing(cause: std::io::Error) -> ExportError {
    ExportError::Write {
        path: "the archive".into(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use crc_fast::{CrcAlgorithm, checksum};

    /// The checksum of Go's `crc64.MakeTable(crc64.ECMA)` over the same bytes, from its own tests.
    #[test]
    fn the_checksum_is_the_one_go_makes() {
        assert_eq!(
            checksum(
                CrcAlgorithm::Crc64Xz,
                b"This is a test of the emergency broadcast system."
            ),
            0x27db_187f_c15b_bc72
        );
    }
}
