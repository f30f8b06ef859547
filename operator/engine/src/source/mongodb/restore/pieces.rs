//! The data of one collection as pieces of whole documents: its segments as the manifest lists
//! them, or, where there are none, its `.bson` node cut on document boundaries.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};

use super::error::RestoreError;
use crate::manifest::{CollectionManifest, SegmentManifest};
use crate::source::{BlobId, Content, NodeKind};

/// Pieces are about this large: small segments go together, and a node without segments is cut so.
const PIECE_BYTES: u64 = 2 << 20;

/// So many pieces of one collection are fetched ahead: a blob of an object store takes a tenth of a
/// second to come, however small.
const FETCHED_AHEAD: usize = 8;

/// The largest document a server stores is 16 MiB; internal ones (an oplog entry, a bucket) may be
/// 16 KiB longer. A longer length can only be damage.
const MAX_DOCUMENT_BYTES: usize = (16 << 20) + (16 << 10);

/// The data of one collection, in order: each item is one or more whole documents.
pub(super) fn pieces(
    content: Arc<dyn Content>,
    collection: &CollectionManifest,
    namespace: &str,
) -> BoxStream<'static, Result<Bytes, RestoreError>> {
    let Some(path) = collection.data_path.clone() else {
        return stream::empty().boxed();
    };
    let segmented: u64 = collection.segments.iter().map(|s| s.bytes).sum();
    let namespace: Arc<str> = Arc::from(namespace);
    if segmented != collection.bytes || (segmented == 0 && collection.documents > 0) {
        return node_pieces(content, path, namespace);
    }
    stream::iter(groups(&collection.segments))
        .map(move |group| joined(Arc::clone(&content), group, Arc::clone(&namespace)))
        .buffered(FETCHED_AHEAD)
        .boxed()
}

/// Neighbouring segments that make a piece together.
fn groups(segments: &[SegmentManifest]) -> Vec<Vec<SegmentManifest>> {
    let mut groups: Vec<Vec<SegmentManifest>> = Vec::new();
    let mut bytes = 0;
    for segment in segments {
        match groups.last_mut() {
            Some(group) if bytes + segment.bytes <= PIECE_BYTES => {
                bytes += segment.bytes;
                group.push(segment.clone());
            }
            _ => {
                bytes = segment.bytes;
                groups.push(vec![segment.clone()]);
            }
        }
    }
    groups
}

/// The bytes of neighbouring segments; of one that is one blob, without a copy.
async fn joined(
    content: Arc<dyn Content>,
    group: Vec<SegmentManifest>,
    namespace: Arc<str>,
) -> Result<Bytes, RestoreError> {
    let mut parts = Vec::with_capacity(group.len());
    for segment in &group {
        let mut bytes = 0;
        for id in &segment.blobs {
            let part = content.blob(&blob_id(id, &namespace)?).await?;
            bytes += part.len() as u64;
            parts.push(part);
        }
        if bytes != segment.bytes {
            return Err(RestoreError::damaged(
                &namespace,
                format!(
                    "a segment holds {bytes} bytes and the manifest says {}",
                    segment.bytes
                ),
            ));
        }
    }
    Ok(match parts.len() {
        1 => parts.swap_remove(0),
        _ => Bytes::from(parts.concat()),
    })
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
    namespace: Arc<str>,
) -> BoxStream<'static, Result<Bytes, RestoreError>> {
    struct State {
        content: Arc<dyn Content>,
        path: String,
        namespace: Arc<str>,
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
            if state.pending.len() as u64 >= PIECE_BYTES {
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

    use super::{PIECE_BYTES, groups, next_document, whole_documents};
    use crate::manifest::SegmentManifest;

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
        /// Nothing is lost or reordered, and only a segment that is large alone makes a large piece.
        #[test]
        fn groups_hold_every_segment_once(sizes in proptest::collection::vec(0..PIECE_BYTES * 2, 0..50)) {
            let segments: Vec<SegmentManifest> = sizes
                .iter()
                .map(|bytes| SegmentManifest {
                    blobs: Vec::new(),
                    bytes: *bytes,
                    documents: 1,
                    first_record_id: None,
                })
                .collect();
            let groups = groups(&segments);
            prop_assert_eq!(groups.concat(), segments);
            for group in groups {
                let bytes: u64 = group.iter().map(|one| one.bytes).sum();
                prop_assert!(group.len() == 1 || bytes <= PIECE_BYTES);
            }
        }

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
