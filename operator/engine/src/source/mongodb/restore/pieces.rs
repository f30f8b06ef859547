//! The data of one collection as pieces of whole documents: its `.bson` node, cut on document
//! boundaries. The blobs of a node of ours are whole documents already; one that another program
//! wrote is cut all the same.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use super::error::RestoreError;
use crate::source::{Content, Node, NodeKind};

/// Small blobs go together in pieces of about this size.
const PIECE_BYTES: usize = 2 << 20;

/// A blob of whole documents that is this large is a piece of its own and is not copied.
const LARGE_BLOB: usize = PIECE_BYTES / 4;

/// So many blobs of one collection are fetched ahead: one of an object store takes a tenth of a
/// second to come, however small.
const FETCHED_AHEAD: usize = 8;

/// The largest document a server stores is 16 MiB; internal ones (an oplog entry, a bucket) may be
/// 16 KiB longer. A longer length can only be damage.
const MAX_DOCUMENT_BYTES: usize = (16 << 20) + (16 << 10);

/// The raw bytes of a small node, all at once.
pub(super) async fn read_node(
    content: &dyn Content,
    path: &str,
) -> Result<Option<Bytes>, RestoreError> {
    let Some(node) = content.node(path.as_bytes()).await? else {
        return Ok(None);
    };
    let NodeKind::File(blobs) = &node.kind else {
        return Err(RestoreError::damaged(path, "it is not a file".to_owned()));
    };
    let mut bytes = BytesMut::with_capacity(usize::try_from(node.size).unwrap_or(0).min(16 << 20));
    for id in blobs {
        bytes.extend_from_slice(&content.blob(id).await?);
    }
    Ok(Some(bytes.freeze()))
}

/// A `.bson` node, in order: each item is one or more whole documents.
pub(super) fn pieces(
    content: Arc<dyn Content>,
    path: String,
    namespace: String,
) -> BoxStream<'static, Result<Bytes, RestoreError>> {
    stream::once(async move {
        let node = content.node(path.as_bytes()).await?;
        let Some(NodeKind::File(ids)) = node.map(|node: Node| node.kind) else {
            return Err(RestoreError::damaged(
                &namespace,
                format!("the backup has no file {path}"),
            ));
        };
        let blobs = stream::iter(ids)
            .map(move |id| {
                let content = Arc::clone(&content);
                async move { Ok(content.blob(&id).await?) }
            })
            .buffered(FETCHED_AHEAD)
            .boxed();
        Ok(cut(blobs, namespace))
    })
    .try_flatten()
    .boxed()
}

/// Cuts a stream of blobs on document boundaries.
fn cut(
    blobs: BoxStream<'static, Result<Bytes, RestoreError>>,
    namespace: String,
) -> BoxStream<'static, Result<Bytes, RestoreError>> {
    let state = (blobs, BytesMut::new(), namespace);
    stream::try_unfold(state, |(mut blobs, mut pending, namespace)| async move {
        while let Some(blob) = blobs.try_next().await? {
            if pending.is_empty()
                && blob.len() >= LARGE_BLOB
                && whole_documents(&blob, &namespace)? == blob.len()
            {
                return Ok(Some((blob, (blobs, pending, namespace))));
            }
            pending.extend_from_slice(&blob);
            if pending.len() >= PIECE_BYTES {
                let whole = whole_documents(&pending, &namespace)?;
                if whole > 0 {
                    let piece = pending.split_to(whole).freeze();
                    return Ok(Some((piece, (blobs, pending, namespace))));
                }
            }
        }
        if whole_documents(&pending, &namespace)? != pending.len() {
            return Err(RestoreError::damaged(
                &namespace,
                "its data ends in the middle of a document".to_owned(),
            ));
        }
        let rest = pending.split().freeze();
        Ok((!rest.is_empty()).then_some((rest, (blobs, pending, namespace))))
    })
    .boxed()
}

/// How many bytes from the start are whole documents.
fn whole_documents(bytes: &[u8], namespace: &str) -> Result<usize, RestoreError> {
    let mut end = 0;
    while let Some(document) = next_document(bytes.get(end..).unwrap_or_default())
        .map_err(|cause| RestoreError::damaged(namespace, cause))?
    {
        end += document.len();
    }
    Ok(end)
}

/// The first document of `bytes`, `None` when it is not wholly there.
pub(super) fn next_document(bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_le_bytes(*length);
    let size = usize::try_from(length).unwrap_or(0);
    if !(5..=MAX_DOCUMENT_BYTES).contains(&size) {
        return Err(format!("a document claims a length of {length} bytes"));
    }
    match bytes.get(..size) {
        Some(document) if document.last() == Some(&0) => Ok(Some(document)),
        Some(_) => Err(format!("a document of {length} bytes does not end with 0")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream::{self, StreamExt as _, TryStreamExt as _};
    use proptest::prelude::*;

    use super::{LARGE_BLOB, cut, next_document, whole_documents};
    use crate::source::mongodb::restore::RestoreError;

    fn document(filler: usize) -> Vec<u8> {
        let length = i32::try_from(filler + 5).unwrap();
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(std::iter::repeat_n(7, filler));
        bytes.push(0);
        bytes
    }

    #[test]
    fn refuses_lengths_that_cannot_be() {
        assert!(next_document(&[4, 0, 0, 0, 0]).is_err());
        assert!(next_document(&[0xff, 0xff, 0xff, 0xff, 0]).is_err());
        assert!(next_document(&[0, 0, 0, 0x7f]).is_err());
        assert!(next_document(&[5, 0, 0, 0, 1]).is_err());
        assert_eq!(next_document(&[5, 0, 0]), Ok(None));
        assert_eq!(
            next_document(&[5, 0, 0, 0, 0, 9]),
            Ok(Some(&[5, 0, 0, 0, 0][..]))
        );
    }

    fn pieces_of(bytes: &[u8], blob: usize) -> Result<Vec<Bytes>, RestoreError> {
        let blobs: Vec<_> = bytes
            .chunks(blob)
            .map(|b| Ok(Bytes::copy_from_slice(b)))
            .collect();
        let pieces = cut(stream::iter(blobs).boxed(), "db.x".to_owned());
        futures::executor::block_on(pieces.try_collect())
    }

    #[test]
    fn large_blobs_of_whole_documents_are_pieces_and_small_ones_go_together() {
        let large = document(LARGE_BLOB);
        assert_eq!(
            pieces_of(&large.repeat(3), large.len()).unwrap(),
            vec![large; 3]
        );
        let small = document(1000);
        let sizes: Vec<usize> = pieces_of(&small.repeat(5000), small.len())
            .unwrap()
            .iter()
            .map(Bytes::len)
            .collect();
        assert_eq!(sizes.iter().sum::<usize>(), small.len() * 5000);
        assert_eq!(sizes.len(), 3, "{sizes:?}");
    }

    #[test]
    fn data_that_ends_in_a_document_is_damaged() {
        let bytes = document(100).repeat(2);
        assert!(pieces_of(&bytes[..bytes.len() - 1], 64).is_err());
    }

    proptest! {
        /// Wherever blobs end, every piece is whole documents, and together they are the data.
        #[test]
        fn a_cut_never_splits_a_document(
            fillers in proptest::collection::vec(0_usize..200, 0..20),
            blob in 1_usize..400,
        ) {
            let bytes: Vec<u8> = fillers.into_iter().flat_map(document).collect();
            let pieces = pieces_of(&bytes, blob).unwrap();
            prop_assert_eq!(pieces.concat(), bytes);
            for piece in pieces {
                prop_assert_eq!(whole_documents(&piece, "db.x").unwrap(), piece.len());
            }
        }
    }
}
