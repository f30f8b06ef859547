//! Cursors that hand over raw batches: documents are walked where they lie in the server's reply,
//! and never decoded.

use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{Document, RawArray, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::connect::Connection;
use super::error::MongodbError;

/// How long one batch may take: a server that is up answers in far less, even on slow disks.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// The moment that a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// One cluster time for all.
    At(Timestamp),
    /// What a majority of members has, while it is read.
    Majority,
    /// What the server has, while it is read.
    Local,
}

impl Moment {
    /// The `readConcern` of a command.
    #[must_use]
    pub fn read_concern(self) -> Document {
        match self {
            Self::At(time) => doc! {"level": "snapshot", "atClusterTime": time},
            Self::Majority => doc! {"level": "majority"},
            Self::Local => doc! {"level": "local"},
        }
    }
}

/// A cursor over raw batches.
pub struct Batches {
    cursor: RawBatchCursor,
    action: String,
    server: String,
}

impl Batches {
    /// Opens a cursor with a command that makes one. Dropping it closes it on the server too.
    ///
    /// # Errors
    /// When no member answers, or the one that does refuses.
    pub async fn open(
        connection: &Connection,
        db: &str,
        action: String,
        command: Document,
        batch_size: Option<u32>,
    ) -> Result<Self, MongodbError> {
        let db = connection.client().database(db);
        let mut run = db.run_cursor_command(command);
        if let Some(criteria) = connection.criteria() {
            run = run.selection_criteria(criteria);
        }
        if let Some(batch_size) = batch_size {
            run = run.batch_size(batch_size);
        }
        let server = connection.server().to_owned();
        let cursor = answered(&action, &server, run.batch()).await?;
        Ok(Self {
            cursor,
            action,
            server,
        })
    }

    /// The next batch, or `None` after the last.
    ///
    /// # Errors
    /// When the connection breaks, the server refuses, or does not answer in time.
    pub async fn next(&mut self) -> Result<Option<Batch>, MongodbError> {
        let batch = answered(&self.action, &self.server, self.cursor.try_next()).await?;
        Ok(batch.map(Batch))
    }
}

async fn answered<T>(
    action: &str,
    server: &str,
    request: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, MongodbError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, request).await {
        Ok(result) => result.map_err(|error| MongodbError::from_driver(action, server, &error)),
        Err(_) => Err(MongodbError::Interrupted {
            action: action.to_owned(),
            server: server.to_owned(),
            cause: format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()),
        }),
    }
}

/// All documents of a cursor that is known to be short.
///
/// # Errors
/// When no member answers, or the one that does refuses or sends what is not BSON.
pub async fn collect(
    connection: &Connection,
    db: &str,
    action: String,
    command: Document,
) -> Result<Vec<Document>, MongodbError> {
    let mut documents = Vec::new();
    let mut batches = Batches::open(connection, db, action, command, None).await?;
    while let Some(batch) = batches.next().await? {
        for document in batch.documents() {
            let decoded = document.and_then(|bytes| {
                mongodb::bson::from_slice(bytes).map_err(|error| error.to_string())
            });
            documents.push(decoded.map_err(|cause| MongodbError::Malformed {
                namespace: batches.action.clone(),
                server: batches.server.clone(),
                cause,
            })?);
        }
    }
    Ok(documents)
}

/// A server's reply.
pub struct Batch(RawBatch);

impl Batch {
    /// The raw documents, in order; an `Err` says in what way the reply is damaged.
    pub fn documents(&self) -> Documents<'_> {
        match self.0.doc_slices() {
            Ok(array) => Documents::new(array),
            Err(error) => Documents {
                rest: &[],
                broken: Some(error.to_string()),
            },
        }
    }

    /// The recordId of the last document, where the cursor was asked for resume tokens.
    #[must_use]
    pub fn last_record_id(&self) -> Option<i64> {
        let cursor = self.0.as_raw_document().get_document("cursor").ok()?;
        let token = cursor.get_document("postBatchResumeToken").ok()?;
        match token.get("$recordId").ok()?? {
            RawBsonRef::Int64(id) => Some(id),
            _ => None,
        }
    }
}

/// The documents of a batch, with their lengths checked.
pub struct Documents<'a> {
    rest: &'a [u8],
    broken: Option<String>,
}

impl<'a> Documents<'a> {
    fn new(array: &'a RawArray) -> Self {
        let bytes = array.as_bytes();
        // Length in front, a zero behind: the driver has checked that both are there.
        let inside = bytes.get(4..bytes.len().saturating_sub(1));
        Self {
            rest: inside.unwrap_or_default(),
            broken: None,
        }
    }

    fn take(&mut self) -> Result<&'a [u8], String> {
        let (&kind, after) = self.rest.split_first().ok_or("it ends early")?;
        if kind != 0x03 {
            return Err(format!(
                "an element of type {kind:#04x} is among the documents"
            ));
        }
        let key = after
            .iter()
            .position(|&byte| byte == 0)
            .ok_or("a key does not end")?;
        let document = after.get(key + 1..).unwrap_or_default();
        let length = document
            .first_chunk()
            .and_then(|length| usize::try_from(i32::from_le_bytes(*length)).ok())
            .ok_or("a document has no length")?;
        let (document, rest) = document
            .split_at_checked(length)
            .ok_or_else(|| format!("a document of {length} bytes does not fit in its batch"))?;
        if length < 5 || document.last() != Some(&0) {
            return Err(format!(
                "a document of {length} bytes does not end with a zero"
            ));
        }
        self.rest = rest;
        Ok(document)
    }
}

impl<'a> Iterator for Documents<'a> {
    type Item = Result<&'a [u8], String>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(cause) = self.broken.take() {
            return Some(Err(cause));
        }
        if self.rest.is_empty() {
            return None;
        }
        let document = self.take();
        if document.is_err() {
            self.rest = &[];
        }
        Some(document)
    }
}

/// The bytes of a raw document's `_id` element: type, name and value. The document may be followed
/// by others. The server stores `_id` first,
/// and as a value says where it ends, a document begins with these bytes (after its length) when
/// and only when its `_id` is the same.
#[must_use]
pub fn id_element(document: &[u8]) -> Option<Vec<u8>> {
    if document.get(5..9)? != b"_id\0" {
        return None;
    }
    let length = i32::from_le_bytes(*document.first_chunk()?);
    let first = document.get(..usize::try_from(length).ok()?)?;
    let (_, id) = RawDocument::from_bytes(first).ok()?.iter().next()?.ok()?;
    let mut alone = RawDocumentBuf::new();
    alone.append("_id", id.to_raw_bson());
    let bytes = alone.as_bytes();
    Some(bytes.get(4..bytes.len() - 1)?.to_vec())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Bson, RawArrayBuf, oid::ObjectId, rawdoc};
    use rstest::rstest;

    use super::*;

    fn array(documents: &[RawDocumentBuf]) -> RawArrayBuf {
        let mut array = RawArrayBuf::new();
        for document in documents {
            array.push(document.clone());
        }
        array
    }

    #[test]
    fn walks_documents_where_they_lie() {
        let documents: Vec<RawDocumentBuf> =
            (0..1234).map(|n| rawdoc! {"_id": n, "s": "x"}).collect();
        let array = array(&documents);
        let walked: Vec<&[u8]> = Documents::new(&array).map(Result::unwrap).collect();
        assert_eq!(walked.len(), documents.len());
        for (walked, document) in walked.iter().zip(&documents) {
            assert_eq!(*walked, document.as_bytes());
        }
        assert!(Documents::new(&RawArrayBuf::new()).next().is_none());
    }

    #[test]
    fn refuses_lengths_that_do_not_fit() {
        let good = array(&[rawdoc! {"_id": 1}, rawdoc! {"_id": 2}]);
        let bytes = good.as_bytes();
        let inside = &bytes[4..bytes.len() - 1];
        let broken = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut copy = inside.to_vec();
            change(&mut copy);
            Documents {
                rest: &copy,
                broken: None,
            }
            .any(|one| one.is_err())
        };
        assert!(!broken(&|_| ()));
        assert!(broken(&|copy| copy[3] = 255));
        assert!(broken(&|copy| copy[3] = 4));
        assert!(broken(&|copy| copy[6] = 0x80));
        assert!(broken(&|copy| copy[0] = 0x02));
        assert!(broken(&|copy| copy.truncate(copy.len() - 1)));
        assert!(broken(&|copy| copy.truncate(1)));
        assert!(broken(&|copy| copy.extend_from_slice(b"\x030\0\x05")));
    }

    #[rstest]
    #[case(Bson::Int32(7))]
    #[case(Bson::String("a".to_owned()))]
    #[case(Bson::ObjectId(ObjectId::from_bytes([3; 12])))]
    #[case(Bson::Document(doc! {"a": 1, "b": [1, 2]}))]
    #[case(Bson::Null)]
    #[case(Bson::MaxKey)]
    fn finds_the_id_element(#[case] id: Bson) {
        let bytes = mongodb::bson::to_vec(&doc! {"_id": id.clone(), "x": 1}).unwrap();
        let alone = mongodb::bson::to_vec(&doc! {"_id": id}).unwrap();
        let expected = Some(alone[4..alone.len() - 1].to_vec());
        assert_eq!(id_element(&bytes), expected);
        assert_eq!(id_element(&[bytes.clone(), bytes].concat()), expected);
    }

    #[test]
    fn a_document_without_a_leading_id_has_none() {
        assert_eq!(id_element(rawdoc! {"x": 1, "_id": 2}.as_bytes()), None);
        assert_eq!(id_element(rawdoc! {}.as_bytes()), None);
        assert_eq!(id_element(&[]), None);
    }
}
