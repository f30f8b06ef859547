//! Natural-order ranges of a large collection, so that several cursors read it side by side.
//!
//! Some documents are sampled, the server says their recordIds, and each range is a cursor that
//! resumes after one of them. Resuming is an option that the server has for its own initial sync:
//! where it is refused, or a place to resume at is gone, the collection is read with one cursor.

use std::collections::HashMap;

use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, doc};

use super::connect::Connection;
use super::cursor::{Batches, Moment, collect, id_element};
use super::error::MongodbError;
use super::namespace::Namespace;

/// Ids looked up in one request.
const LOOKUPS: usize = 500;

/// Documents sampled for each range: more makes the ranges more alike in size.
const SAMPLES: u64 = 20;

/// The server samples by random access only below one document in twenty; else it reads them all.
const SAMPLED_SHARE: u64 = 40;

/// A document that a range ends with, and the next one begins after.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boundary {
    /// Its place in natural order.
    pub record_id: i64,
    /// How it begins, after its length: [`id_element`].
    pub id: Vec<u8>,
}

/// The boundaries of about `ranges` ranges alike in size, in order; fewer, or none, where the
/// collection has too few documents to sample.
///
/// # Errors
/// When the server does not answer, or does not allow it.
pub async fn boundaries(
    connection: &Connection,
    namespace: &Namespace,
    moment: Moment,
    documents: u64,
    ranges: usize,
) -> Result<Vec<Boundary>, MongodbError> {
    let ranges = ranges as u64;
    let samples = (SAMPLES * ranges).min(documents / SAMPLED_SHARE);
    if ranges < 2 || samples < ranges {
        return Ok(Vec::new());
    }
    let command = doc! {
        "aggregate": &namespace.collection,
        "pipeline": [
            {"$sample": {"size": i64::try_from(samples).unwrap_or(i64::MAX)}},
            {"$project": {"_id": 1}},
        ],
        "cursor": {},
        "readConcern": moment.read_concern(),
    };
    let action = format!("sample {namespace}");
    let sampled = collect(connection, &namespace.db, action, command).await?;
    let ids = sampled.into_iter().filter_map(|mut one| one.remove("_id"));
    let found = look_up(connection, namespace, moment, ids.collect()).await?;
    let mut places: Vec<Boundary> = found
        .into_iter()
        .map(|(id, record_id)| Boundary { record_id, id })
        .collect();
    places.sort_unstable();
    let count = places.len() as u64;
    let mut chosen: Vec<Boundary> = (1..ranges)
        .filter_map(|at| {
            places
                .get(usize::try_from(at * count / ranges).ok()?)
                .cloned()
        })
        .collect();
    chosen.dedup();
    Ok(chosen)
}

/// The `_id` element of the last document in natural order; `None` where there is none.
///
/// # Errors
/// When the server does not answer, or does not allow it.
pub async fn last_id(
    connection: &Connection,
    namespace: &Namespace,
    moment: Moment,
) -> Result<Option<Vec<u8>>, MongodbError> {
    let command = doc! {
        "find": &namespace.collection,
        "hint": {"$natural": -1},
        "limit": 1,
        "projection": {"_id": 1},
        "readConcern": moment.read_concern(),
    };
    let action = format!("see where {namespace} ends");
    let mut batches = Batches::open(connection, &namespace.db, action, command, None).await?;
    let mut last = None;
    while let Some(batch) = batches.next().await? {
        last = batch.documents().flatten().find_map(id_element).or(last);
    }
    Ok(last)
}

/// The recordIds of documents by the bytes of their `_id` elements.
///
/// # Errors
/// When the server does not answer, or does not allow it.
pub async fn record_ids(
    connection: &Connection,
    namespace: &Namespace,
    moment: Moment,
    elements: &[Vec<u8>],
) -> Result<HashMap<Vec<u8>, i64>, MongodbError> {
    let ids = elements.iter().filter_map(|element| {
        let length = i32::try_from(element.len() + 5).ok()?;
        let document = [&length.to_le_bytes(), element.as_slice(), &[0]].concat();
        mongodb::bson::from_slice::<Document>(&document)
            .ok()?
            .remove("_id")
    });
    look_up(connection, namespace, moment, ids.collect()).await
}

async fn look_up(
    connection: &Connection,
    namespace: &Namespace,
    moment: Moment,
    ids: Vec<Bson>,
) -> Result<HashMap<Vec<u8>, i64>, MongodbError> {
    let mut found = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(LOOKUPS) {
        let command = doc! {
            "find": &namespace.collection,
            "filter": {"_id": {"$in": chunk}},
            "projection": {"_id": 1},
            "showRecordId": true,
            "readConcern": moment.read_concern(),
        };
        let action = format!("ask for record ids of {namespace}");
        let mut batches = Batches::open(connection, &namespace.db, action, command, None).await?;
        while let Some(batch) = batches.next().await? {
            for document in batch.documents() {
                let Ok(document) = document else { continue };
                let (Some(id), Some(record_id)) = (id_element(document), record_id(document))
                else {
                    continue;
                };
                found.insert(id, record_id);
            }
        }
    }
    Ok(found)
}

fn record_id(document: &[u8]) -> Option<i64> {
    match RawDocument::from_bytes(document).ok()?.get("$recordId") {
        Ok(Some(RawBsonRef::Int64(id))) => Some(id),
        _ => None,
    }
}

/// The command that reads a collection in natural order, from its beginning or after a boundary.
#[must_use]
pub fn scan_command(
    namespace: &Namespace,
    moment: Moment,
    batch_size: u32,
    resumable: bool,
    after: Option<&Boundary>,
) -> Document {
    let mut command = doc! {
        "find": &namespace.collection,
        "hint": {"$natural": 1},
        "readConcern": moment.read_concern(),
        "batchSize": i64::from(batch_size),
        // A repository that is slow must not cost the cursor; its session still ends it.
        "noCursorTimeout": true,
    };
    if resumable {
        command.insert("$_requestResumeToken", true);
    }
    if let Some(boundary) = after {
        command.insert("$_resumeAfter", doc! {"$recordId": boundary.record_id});
    }
    command
}
