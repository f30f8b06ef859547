//! Top-level `Timestamp(0, 0)`: a server replaces it on `insert` by its own clock, and so it does
//! in `applyOps`, `$out` and replacing updates. Where `insert` cannot be told not to, the document
//! is put right by an update with a pipeline, which takes it literally.

use bson::spec::ElementType;
use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use futures::FutureExt as _;
use mongodb::Database;

use super::conflict::integer;
use super::error::{RestoreError, UNAUTHORIZED, command_code};
use super::insert::with_array;
use super::target::{answer, persist};
use crate::class::ErrorClass;

/// So many bytes of documents go into one command, and so many documents.
const MAX_BYTES: usize = 8 << 20;
const MAX_OPERATIONS: usize = 1000;

/// Whether the server would change the document on `insert`. One that cannot be walked (a name
/// that is not UTF-8) is taken for one: writing it again changes nothing.
pub(super) fn holds_empty(document: &[u8]) -> bool {
    let Ok(document) = RawDocument::from_bytes(document) else {
        return true;
    };
    for element in document.iter_elements() {
        let Ok(element) = element else {
            return true;
        };
        if element.element_type() == ElementType::Timestamp
            && element.key() != "_id"
            && element
                .value()
                .ok()
                .and_then(|value| value.as_timestamp())
                .is_none_or(|timestamp| timestamp.time == 0 && timestamp.increment == 0)
        {
            return true;
        }
    }
    false
}

/// Makes documents that were just inserted exactly what they should be.
pub(super) async fn put_back(
    database: &Database,
    collection: &str,
    documents: &[&[u8]],
) -> Result<(), RestoreError> {
    let mut updates: Vec<RawDocumentBuf> = Vec::new();
    let mut bytes = 0;
    for document in documents {
        if bytes + document.len() > MAX_BYTES || updates.len() == MAX_OPERATIONS {
            apply(database, collection, &updates).await?;
            updates.clear();
            bytes = 0;
        }
        bytes += document.len();
        updates.push(update(document).map_err(|cause| {
            RestoreError::damaged(&format!("{}.{collection}", database.name()), cause)
        })?);
    }
    if updates.is_empty() {
        return Ok(());
    }
    apply(database, collection, &updates).await
}

/// The update that makes the document with this `_id` literally this document.
fn update(document: &[u8]) -> Result<RawDocumentBuf, String> {
    let document = RawDocument::from_bytes(document).map_err(|error| error.to_string())?;
    let id = document
        .get("_id")
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "a document has no _id".to_owned())?;
    let mut equals = RawDocumentBuf::new();
    equals.append_ref("$eq", id);
    let mut literal = RawDocumentBuf::new();
    literal.append_ref("$literal", document);
    let mut pipeline = RawArrayBuf::new();
    pipeline.push(rawdoc! { "$replaceWith": literal });
    Ok(rawdoc! { "q": { "_id": equals }, "u": pipeline })
}

async fn apply(
    database: &Database,
    collection: &str,
    updates: &[RawDocumentBuf],
) -> Result<(), RestoreError> {
    let namespace = format!("{}.{collection}", database.name());
    let action = format!("write the empty timestamps of {namespace}");
    let slices: Vec<&[u8]> = updates.iter().map(|one| one.as_bytes()).collect();
    let head = rawdoc! {
        "update": collection,
        "ordered": false,
        "bypassDocumentValidation": true,
        "writeConcern": { "w": "majority" },
    };
    let command = with_array(head, "updates", &slices)
        .map_err(|cause| RestoreError::damaged(&namespace, cause))?;
    let refused = |cause: String, class| RestoreError::Server {
        action: action.clone(),
        cause,
        class,
    };
    let (answered, _) = persist(|| {
        async { answer(&action, database.run_raw_command(command.clone()).await) }.boxed()
    })
    .await?;
    let reply: Document = match answered {
        Ok(reply) => reply,
        Err(error) if command_code(&error) == Some(UNAUTHORIZED) => {
            return Err(refused(
                "this version of the server replaces Timestamp(0, 0) on insert, so the account needs the right to update as well: the role readWriteAnyDatabase, or a newer patch release of the server".to_owned(),
                ErrorClass::Waiting,
            ));
        }
        Err(error) => return Err(RestoreError::server(action, &error)),
    };
    let matched = integer(reply.get("n")).and_then(|n| usize::try_from(n).ok());
    if matched == Some(updates.len()) {
        return Ok(());
    }
    let message = reply
        .get_array("writeErrors")
        .ok()
        .and_then(|errors| errors.first()?.as_document()?.get_str("errmsg").ok())
        .unwrap_or("another program removed some of them");
    Err(refused(
        format!(
            "{} of {} documents were written: {message}",
            matched.unwrap_or(0),
            updates.len()
        ),
        ErrorClass::Permanent,
    ))
}

#[cfg(test)]
mod tests {
    use bson::{Document, Timestamp, doc};
    use rstest::rstest;

    use super::holds_empty;

    const EMPTY: Timestamp = Timestamp {
        time: 0,
        increment: 0,
    };

    #[rstest]
    #[case(doc! { "_id": 1, "at": EMPTY }, true)]
    #[case(doc! { "_id": 1, "a": 0_i64, "b": 0.0, "at": EMPTY, "z": 1 }, true)]
    #[case(doc! { "_id": EMPTY }, false)]
    #[case(doc! { "_id": 1, "in": { "at": EMPTY } }, false)]
    #[case(doc! { "_id": 1, "at": Timestamp { time: 0, increment: 1 } }, false)]
    #[case(doc! {}, false)]
    fn only_top_level_ones_that_are_not_the_id(#[case] document: Document, #[case] expected: bool) {
        assert_eq!(holds_empty(&bson::to_vec(&document).unwrap()), expected);
    }
}
