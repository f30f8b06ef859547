//! Documents written in batches, as the raw bytes they were backed up in: a command is built by
//! concatenation, and nothing is serialised twice.

use std::io::Write as _;

use bson::{Bson, Document, RawDocumentBuf, rawdoc};
use futures::FutureExt as _;
use mongodb::Database;

use super::conflict::integer;
use super::error::{RestoreError, class_of_code};
use super::pieces::next_document;
use super::target::persist;
use super::timestamps;
use crate::class::ErrorClass;

/// A server takes no more operations in one command.
const MAX_DOCUMENTS: usize = 100_000;
/// The documents lie in the body of the command, which may be 16 MiB and 16 KiB; far below that
/// nothing is gained by more.
const MAX_BYTES: usize = 8 << 20;
/// `DuplicateKey`.
const DUPLICATE_KEY: i64 = 11000;
/// How many messages of refused documents are kept for the error.
const KEPT_MESSAGES: usize = 3;

/// Writes documents into one collection.
#[derive(Debug, Clone)]
pub(super) struct Inserter {
    /// The target database.
    pub(super) database: Database,
    /// The target collection; for a time series that of its buckets.
    pub(super) collection: String,
    /// Whether validators are passed over: what was in the database goes back, valid or not. The
    /// validator of a buckets collection is the server's own and stays.
    pub(super) bypass_validation: bool,
    /// Whether `insert` can be told to leave empty timestamps alone.
    pub(super) keeps_empty_timestamps: bool,
    /// What a document means whose `_id` is there already.
    pub(super) duplicates: Duplicates,
}

/// What a document means whose `_id` is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duplicates {
    /// Somebody else writes there.
    Refuse,
    /// It is the target's own and stays.
    Keep,
    /// The backup has it twice: it was not read at one time, and a document that is deleted and
    /// inserted again meanwhile, or moved, is met twice. The one that is there stays.
    Repeated,
}

/// What became of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Inserted {
    pub(super) inserted: u64,
    pub(super) skipped: u64,
    /// Of all these, documents that may be the second with their `_id`.
    pub(super) repeated: u64,
}

impl std::ops::AddAssign for Inserted {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.skipped += other.skipped;
        self.repeated += other.repeated;
    }
}

impl Inserter {
    fn namespace(&self) -> String {
        format!("{}.{}", self.database.name(), self.collection)
    }

    /// Writes whole documents, in as few batches as they fit in, one after the other.
    pub(super) async fn insert(&self, piece: &[u8]) -> Result<Inserted, RestoreError> {
        let mut total = Inserted::default();
        let mut rest = piece;
        while !rest.is_empty() {
            let (batch, bytes) = next_batch(rest)
                .map_err(|cause| RestoreError::damaged(&self.namespace(), cause))?;
            total += self.insert_batch(&batch).await?;
            rest = &rest[bytes..];
        }
        Ok(total)
    }

    async fn insert_batch(&self, batch: &[&[u8]]) -> Result<Inserted, RestoreError> {
        let (reply, resent) = self.send(batch).await?;
        let mut refused = Vec::new();
        let mut left_out = Vec::new();
        for error in reply.write_errors() {
            let index = integer(error.get("index")).and_then(|index| usize::try_from(index).ok());
            let on_id = error
                .get_document("keyPattern")
                .is_ok_and(|key| key.len() == 1 && key.contains_key("_id"));
            match index {
                // After a connection was lost nobody knows what of the batch had been written: a
                // document that is there then is the one sent before. The digest says at the end
                // whether it is.
                Some(index)
                    if integer(error.get("code")) == Some(DUPLICATE_KEY)
                        && on_id
                        && (self.duplicates != Duplicates::Refuse || resent) =>
                {
                    left_out.push(index);
                }
                _ => refused.push(error),
            }
        }
        if !refused.is_empty() {
            return Err(RestoreError::Rejected {
                namespace: self.namespace(),
                count: refused.len() as u64,
                first: refused
                    .iter()
                    .take(KEPT_MESSAGES)
                    .map(|error| error.get_str("errmsg").unwrap_or("no message").to_owned())
                    .collect(),
            });
        }
        let inserted = integer(reply.0.get("n")).unwrap_or(0).max(0).unsigned_abs();
        if inserted + left_out.len() as u64 != batch.len() as u64 {
            return Err(RestoreError::Server {
                action: format!("insert into {}", self.namespace()),
                cause: format!(
                    "of {} documents the server says it took {inserted} and had {}",
                    batch.len(),
                    left_out.len()
                ),
                class: ErrorClass::Transient,
            });
        }
        // Where the batch was sent twice, they may be what the first time wrote.
        let ours = resent && self.duplicates != Duplicates::Keep;
        if !self.keeps_empty_timestamps {
            let documents: Vec<&[u8]> = batch
                .iter()
                .enumerate()
                // What was left out is not ours to change.
                .filter(|(index, _)| ours || !left_out.contains(index))
                .map(|(_, document)| *document)
                .filter(|document| timestamps::holds_empty(document))
                .collect();
            timestamps::put_back(&self.database, &self.collection, &documents).await?;
        }
        let left_out = left_out.len() as u64;
        Ok(Inserted {
            inserted: if ours { batch.len() as u64 } else { inserted },
            skipped: if ours { 0 } else { left_out },
            repeated: match self.duplicates {
                Duplicates::Repeated => left_out,
                Duplicates::Refuse | Duplicates::Keep => 0,
            },
        })
    }

    /// Sends a batch; says whether it had to be sent again.
    async fn send(&self, batch: &[&[u8]]) -> Result<(Reply, bool), RestoreError> {
        let action = format!("insert into {}", self.namespace());
        let command = self.command(batch)?;
        persist(|| {
            async {
                let reply = self.database.run_raw_command(command.clone()).await;
                let reply = Reply(reply.map_err(|error| RestoreError::server(&*action, &error))?);
                match reply.write_concern_error() {
                    None => Ok(reply),
                    Some((code, cause)) => Err(RestoreError::Server {
                        action: action.clone(),
                        cause,
                        class: class_of_code(code),
                    }),
                }
            }
            .boxed()
        })
        .await
    }

    fn command(&self, batch: &[&[u8]]) -> Result<RawDocumentBuf, RestoreError> {
        let mut head = rawdoc! { "insert": self.collection.as_str(), "ordered": false };
        if self.bypass_validation {
            head.append("bypassDocumentValidation", true);
        }
        if self.keeps_empty_timestamps {
            head.append("bypassEmptyTsReplacement", true);
        }
        head.append("writeConcern", rawdoc! { "w": "majority" });
        with_array(head, "documents", batch).map_err(|cause| {
            RestoreError::damaged(
                &self.namespace(),
                format!("a batch cannot be built: {cause}"),
            )
        })
    }
}

/// The reply to an insert.
struct Reply(Document);

impl Reply {
    fn write_errors(&self) -> Vec<&Document> {
        self.0
            .get_array("writeErrors")
            .map(|errors| errors.iter().filter_map(Bson::as_document).collect())
            .unwrap_or_default()
    }

    fn write_concern_error(&self) -> Option<(i32, String)> {
        let error = self.0.get_document("writeConcernError").ok()?;
        let code = integer(error.get("code")).and_then(|code| i32::try_from(code).ok());
        Some((
            code.unwrap_or(0),
            error.get_str("errmsg").unwrap_or("no message").to_owned(),
        ))
    }
}

/// The documents of the first batch of `piece`, and how many bytes they are.
fn next_batch(piece: &[u8]) -> Result<(Vec<&[u8]>, usize), String> {
    let mut batch = Vec::new();
    let mut end = 0;
    while end < piece.len() && batch.len() < MAX_DOCUMENTS {
        let document = next_document(&piece[end..])?
            .ok_or_else(|| "a segment ends in the middle of a document".to_owned())?;
        if !batch.is_empty() && end + document.len() > MAX_BYTES {
            break;
        }
        end += document.len();
        batch.push(document);
    }
    Ok((batch, end))
}

/// `head` with an array of documents as its last field, their bytes copied once.
pub(super) fn with_array(
    head: RawDocumentBuf,
    name: &str,
    documents: &[&[u8]],
) -> Result<RawDocumentBuf, String> {
    const DOCUMENT: u8 = 3;
    const ARRAY: u8 = 4;
    /// Type, up to six digits and a NUL.
    const PER_ELEMENT: usize = 8;

    let mut bytes = head.into_bytes();
    let total: usize = documents.iter().map(|d| d.len() + PER_ELEMENT).sum();
    bytes.reserve(total + name.len() + PER_ELEMENT);
    bytes.pop();
    bytes.push(ARRAY);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    let array = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    for (index, document) in documents.iter().enumerate() {
        bytes.push(DOCUMENT);
        write!(bytes, "{index}").map_err(|error| error.to_string())?;
        bytes.push(0);
        bytes.extend_from_slice(document);
    }
    bytes.push(0);
    set_length(&mut bytes, array)?;
    bytes.push(0);
    set_length(&mut bytes, 0)?;
    RawDocumentBuf::from_bytes(bytes).map_err(|error| error.to_string())
}

/// Writes at `at` the length of what begins there and goes to the end.
fn set_length(bytes: &mut [u8], at: usize) -> Result<(), String> {
    let length = i32::try_from(bytes.len() - at).map_err(|error| error.to_string())?;
    bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc, rawdoc};
    use proptest::prelude::*;

    use super::{MAX_BYTES, MAX_DOCUMENTS, next_batch, with_array};

    fn raw(document: &Document) -> Vec<u8> {
        bson::to_vec(document).unwrap()
    }

    #[test]
    fn a_batch_holds_no_more_than_a_server_takes() {
        let small = raw(&doc! {}).repeat(MAX_DOCUMENTS + 1);
        let (batch, bytes) = next_batch(&small).unwrap();
        assert_eq!((batch.len(), bytes), (MAX_DOCUMENTS, MAX_DOCUMENTS * 5));

        let large = raw(&doc! { "x": "y".repeat(MAX_BYTES / 2) });
        let piece = large.repeat(3);
        assert_eq!(next_batch(&piece).unwrap().0.len(), 1);

        let huge = raw(&doc! { "x": "y".repeat((16 << 20) - 100) });
        assert_eq!(next_batch(&huge).unwrap().1, huge.len());
    }

    #[test]
    fn half_a_document_is_damage() {
        let bytes = raw(&doc! { "x": 1 });
        assert!(next_batch(&bytes[..bytes.len() - 1]).is_err());
    }

    proptest! {
        /// A command built by concatenation is the one a serialiser would have built.
        #[test]
        fn built_by_concatenation(values in proptest::collection::vec(any::<i64>(), 0..1200)) {
            let documents: Vec<Document> = values.iter().map(|v| doc! { "_id": v }).collect();
            let raws: Vec<Vec<u8>> = documents.iter().map(raw).collect();
            let slices: Vec<&[u8]> = raws.iter().map(Vec::as_slice).collect();
            let built = with_array(rawdoc! { "insert": "x" }, "documents", &slices).unwrap();
            prop_assert_eq!(
                Document::try_from(built.as_ref()).unwrap(),
                doc! { "insert": "x", "documents": documents }
            );
        }
    }
}
