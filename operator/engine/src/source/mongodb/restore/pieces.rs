//! The data of one collection as pieces of whole documents: its segments as the manifest lists
//! them, or, where there are none, its `.bson` node cut on document boundaries.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};

use super::error::RestoreError;
use crate::manifest::{CollectionManifest, SegmentManifest};
use crate::source::{BlobId, Content, NodeKind};

/// A `.bson` node without segments is handed on in pieces of about this size.
const PIECE_BYTES: usize = 2 << 20;

/// The largest document a server stores is 16 MiB; internal ones (an oplog entry, a bucket) may be
/// 16 KiB longer. A longer length can only be damage.
const MAX_DOCUMENT_BYTES: usize = (16 << 20) + (16 << 10);

/// The data of one collection, in order: each item is one or more whole documents. The futures
/// are independent, so that several may be under way at once; nothing is read before one is
/// polled.
pub(super) fn pieces(
    content: Arc<dyn Content>,
    collection: &CollectionManifest,
    namespace: &str,
) -> Pieces {
    let Some(path) = collection.data_path.clone() else {
        return Pieces::Segments(Vec::new());
    };
    let segmented: u64 = collection.segments.iter().map(|s| s.bytes).sum();
    if segmented == collection.bytes && (segmented > 0 || collection.documents == 0) {
        Pieces::Segments(collection.segments.clone())
    } else {
        Pieces::Node(node_pieces(content, path, namespace.to_owned()))
    }
}

/// How the data of one collection is had.
pub(super) enum Pieces {
    /// Segments that may be read in any order.
    Segments(Vec<SegmentManifest>),
    /// One stream that is cut as it is read.
    Node(BoxStream<'static, Result<Bytes, RestoreError>>),
}

/// The bytes of one segment; nearly always one blob, taken without a copy.
pub(super) async fn segment(
    content: &dyn Content,
    segment: &SegmentManifest,
    namespace: &str,
) -> Result<Bytes, RestoreError> {
    let mut parts = Vec::with_capacity(segment.blobs.len());
    for id in &segment.blobs {
        parts.push(content.blob(&blob_id(id, namespace)?).await?);
    }
    let bytes = match parts.len() {
        1 => parts.remove(0),
        _ => Bytes::from(parts.concat()),
    };
    if bytes.len() as u64 != segment.bytes {
        return Err(RestoreError::damaged(
            namespace,
            format!(
                "a segment holds {} bytes and the manifest says {}",
                bytes.len(),
                segment.bytes
            ),
        ));
    }
    Ok(bytes)
}

fn blob_id(text: &str, namespace: &str) -> Result<BlobId, RestoreError> {
    let mut id = [0_u8; 32];
    hex::decode_to_slice(text, &mut id).map_err(|error| {
        RestoreError::damaged(
            namespace,
            format!("the manifest names the blob \"{text}\", which is no id ({error})"),
        )
    })?;
    Ok(BlobId(id))
}

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

/// A `.bson` node cut into pieces of whole documents.
pub(super) fn node_pieces(
    content: Arc<dyn Content>,
    path: String,
    namespace: String,
) -> BoxStream<'static, Result<Bytes, RestoreError>> {
    struct State {
        content: Arc<dyn Content>,
        path: String,
        namespace: String,
        blobs: Option<VecDeque<BlobId>>,
        pending: BytesMut,
    }

    let state = State {
        content,
        path,
        namespace,
        blobs: None,
        pending: BytesMut::new(),
    };
    stream::try_unfold(state, |mut state| async move {
        let mut blobs = match state.blobs.take() {
            Some(blobs) => blobs,
            None => match state
                .content
                .node(state.path.as_bytes())
                .await?
                .map(|n| n.kind)
            {
                Some(NodeKind::File(blobs)) => blobs.into(),
                _ => {
                    return Err(RestoreError::damaged(
                        &state.namespace,
                        format!("the backup has no file {}", state.path),
                    ));
                }
            },
        };
        while let Some(id) = blobs.pop_front() {
            state
                .pending
                .extend_from_slice(&state.content.blob(&id).await?);
            if state.pending.len() >= PIECE_BYTES {
                let whole = whole_documents(&state.pending)
                    .map_err(|cause| RestoreError::damaged(&state.namespace, cause))?;
                if whole > 0 {
                    let piece = state.pending.split_to(whole).freeze();
                    state.blobs = Some(blobs);
                    return Ok(Some((piece, state)));
                }
            }
        }
        let whole = whole_documents(&state.pending)
            .map_err(|cause| RestoreError::damaged(&state.namespace, cause))?;
        if whole != state.pending.len() {
            return Err(RestoreError::damaged(
                &state.namespace,
                format!("{} ends in the middle of a document", state.path),
            ));
        }
        if whole == 0 {
            return Ok(None);
        }
        let piece = state.pending.split().freeze();
        state.blobs = Some(blobs);
        Ok(Some((piece, state)))
    })
    .boxed()
}

/// How many bytes from the start are whole documents.
fn whole_documents(bytes: &[u8]) -> Result<usize, String> {
    let mut end = 0;
    while let Some(document) = next_document(bytes.get(end..).unwrap_or_default())? {
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
    use proptest::prelude::*;

    use super::{next_document, whole_documents};

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

    proptest! {
        /// Wherever the bytes are cut, what counts as whole is exactly the documents before the cut.
        #[test]
        fn a_cut_never_splits_a_document(
            fillers in proptest::collection::vec(0_usize..200, 1..20),
            cut in 0_usize..4000,
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for filler in fillers {
                bytes.extend(document(filler));
                ends.push(bytes.len());
            }
            let cut = cut.min(bytes.len());
            let expected = ends.iter().copied().filter(|end| *end <= cut).max().unwrap();
            prop_assert_eq!(whole_documents(&bytes[..cut]), Ok(expected));
        }
    }
}
