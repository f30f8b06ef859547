//! What is on the target already, and what that means for each namespace to be restored.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, doc};
use futures::TryStreamExt;

use super::OnConflict;
use super::error::{RestoreError, UNAUTHORIZED, command_code};
use super::plan::{Action, Selected};
use super::target::Target;
use crate::source::mongodb::namespace::Namespace;

/// What is on the target under a name that is to be restored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Existing {
    /// `collection`, `view` or `timeseries`.
    pub(super) kind: String,
    /// As `listCollections` says them.
    pub(super) options: Document,
    /// Whether it holds documents; `None` when the account may not know.
    pub(super) holds_documents: Option<bool>,
    /// Names of its indexes, without the one on `_id`.
    pub(super) indexes: Vec<String>,
}

impl Existing {
    /// Whether it is known to hold nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.holds_documents == Some(false)
    }
}

/// What is done with a target, and why where that needs saying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) action: Action,
    pub(super) reason: String,
}

/// Looks at the target namespaces, without writing.
pub(super) async fn observe(
    target: &Target,
    selected: &[Selected<'_>],
) -> Result<BTreeMap<Namespace, Existing>, RestoreError> {
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in selected {
        wanted
            .entry(&one.target.db)
            .or_default()
            .insert(&one.target.collection);
    }
    let mut existing = BTreeMap::new();
    for (db, names) in wanted {
        let database = target.client.database(db);
        let mut listed: Vec<Document> = database
            .run_cursor_command(doc! { "listCollections": 1 })
            .await
            .map_err(|error| RestoreError::server(format!("list the collections of {db}"), &error))?
            .try_collect()
            .await
            .map_err(|error| {
                RestoreError::server(format!("list the collections of {db}"), &error)
            })?;
        listed.retain(|one| one.get_str("name").is_ok_and(|name| names.contains(name)));
        for one in listed {
            let (Ok(name), Ok(kind)) = (one.get_str("name"), one.get_str("type")) else {
                continue;
            };
            let (holds_documents, indexes) = if kind == "view" {
                (None, Vec::new())
            } else {
                (
                    holds_documents(&database, name).await?,
                    index_names(&database, name).await?,
                )
            };
            existing.insert(
                Namespace::new(db, name),
                Existing {
                    kind: kind.to_owned(),
                    options: one.get_document("options").cloned().unwrap_or_default(),
                    holds_documents,
                    indexes,
                },
            );
        }
    }
    Ok(existing)
}

/// Whether the collection holds documents. The role `restore` may not read them: then its
/// statistics are asked, and where those are denied too, nobody knows.
async fn holds_documents(
    database: &mongodb::Database,
    name: &str,
) -> Result<Option<bool>, RestoreError> {
    let find = doc! { "find": name, "limit": 1, "singleBatch": true, "projection": { "_id": 1 } };
    match database.run_command(find).await {
        Ok(reply) => {
            let batch = reply
                .get_document("cursor")
                .and_then(|cursor| cursor.get_array("firstBatch"));
            return Ok(batch.ok().map(|batch| !batch.is_empty()));
        }
        Err(error) if command_code(&error) == Some(UNAUTHORIZED) => {}
        Err(error) => {
            return Err(RestoreError::server(
                format!("see whether {}.{name} is empty", database.name()),
                &error,
            ));
        }
    }
    match database.run_command(doc! { "collStats": name }).await {
        Ok(reply) => Ok(integer(reply.get("count")).map(|count| count > 0)),
        Err(error) if command_code(&error) == Some(UNAUTHORIZED) => Ok(None),
        Err(error) => Err(RestoreError::server(
            format!("see whether {}.{name} is empty", database.name()),
            &error,
        )),
    }
}

async fn index_names(
    database: &mongodb::Database,
    name: &str,
) -> Result<Vec<String>, RestoreError> {
    let action = || format!("list the indexes of {}.{name}", database.name());
    let listed = match database
        .run_cursor_command(doc! { "listIndexes": name })
        .await
    {
        Ok(cursor) => cursor
            .try_collect::<Vec<Document>>()
            .await
            .map_err(|error| RestoreError::server(action(), &error))?,
        Err(error) if command_code(&error) == Some(UNAUTHORIZED) => Vec::new(),
        Err(error) => return Err(RestoreError::server(action(), &error)),
    };
    Ok(super::metadata::secondary(&listed)
        .filter_map(|index| index.get_str("name").ok().map(str::to_owned))
        .collect())
}

/// Decides what is done with one namespace. Pure: what is there was observed before.
pub(super) fn decide(
    on_conflict: OnConflict,
    name: &str,
    kind: &str,
    options: &Document,
    indexes: &[String],
    existing: Option<&Existing>,
) -> Decision {
    let decision = |action, reason: String| Decision { action, reason };
    let Some(existing) = existing else {
        return decision(Action::Create, String::new());
    };
    if on_conflict == OnConflict::Drop && name == "system.js" {
        return decision(
            Action::Replace,
            "its functions are removed, as a server does not let it be dropped".to_owned(),
        );
    }
    if on_conflict == OnConflict::Drop {
        return decision(Action::Replace, String::new());
    }
    if existing.kind != kind {
        return decision(
            Action::Conflict,
            format!("is a {} there and a {kind} in the backup", existing.kind),
        );
    }
    let same_options = same(options, &existing.options);
    if kind == "view" {
        return match (same_options, on_conflict) {
            (true, _) => decision(Action::Keep, "the same view is there".to_owned()),
            (false, OnConflict::Merge) => decision(
                Action::Keep,
                "a view with another definition is there and stays".to_owned(),
            ),
            (false, _) => decision(
                Action::Conflict,
                "is a view with another definition".to_owned(),
            ),
        };
    }
    if on_conflict == OnConflict::Merge {
        let reason = if same_options {
            String::new()
        } else {
            "its options differ from the backup's and stay".to_owned()
        };
        return decision(Action::Merge, reason);
    }
    match existing.holds_documents {
        Some(true) => return decision(Action::Conflict, "holds documents".to_owned()),
        None => {
            return decision(
                Action::Conflict,
                "exists, and the account may not see whether it is empty".to_owned(),
            );
        }
        Some(false) => {}
    }
    if !same_options {
        return decision(
            Action::Conflict,
            "is empty and has other options than the original".to_owned(),
        );
    }
    if let Some(other) = existing.indexes.iter().find(|name| !indexes.contains(name)) {
        return decision(
            Action::Conflict,
            format!("is empty and has the index {other}, which the original has not"),
        );
    }
    decision(
        Action::Fill,
        "it is there, empty, with the same options".to_owned(),
    )
}

/// Whether two sets of options mean the same: the order of the fields and the width of numbers do
/// not matter at the top, where the server itself reorders them.
fn same(a: &Document, b: &Document) -> bool {
    // As bytes: two documents are equal to the library whatever the order of their fields.
    let significant = |options: &Document| -> Option<BTreeMap<String, Vec<u8>>> {
        options
            .iter()
            .filter(|(key, _)| *key != "autoIndexId" && *key != "uuid")
            .map(|(key, value)| {
                let bytes = bson::to_vec(&doc! { "": widened(value) }).ok()?;
                Some((key.clone(), bytes))
            })
            .collect()
    };
    significant(a) == significant(b)
}

pub(super) fn widened(value: &Bson) -> Bson {
    match value {
        Bson::Document(inner) => Bson::Document(
            inner
                .iter()
                .map(|(key, value)| (key.clone(), widened(value)))
                .collect(),
        ),
        Bson::Array(inner) => Bson::Array(inner.iter().map(widened).collect()),
        other => integer(Some(other)).map_or_else(|| other.clone(), Bson::Int64),
    }
}

/// A whole number, whatever width the server gives it.
pub(super) fn integer(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        #[allow(clippy::cast_possible_truncation)]
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            Some(*number as i64)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use rstest::rstest;

    use super::super::OnConflict::{self, Drop, Fail, Merge};
    use super::super::plan::Action;
    use super::{Existing, decide, same};

    fn existing(kind: &str, options: bson::Document, holds: Option<bool>) -> Existing {
        Existing {
            kind: kind.to_owned(),
            options,
            holds_documents: holds,
            indexes: vec!["a_1".to_owned()],
        }
    }

    #[rstest]
    #[case::absent(Fail, None, Action::Create)]
    #[case::full(Fail, Some(existing("collection", doc! {}, Some(true))), Action::Conflict)]
    #[case::unknown(Fail, Some(existing("collection", doc! {}, None)), Action::Conflict)]
    #[case::empty(Fail, Some(existing("collection", doc! {}, Some(false))), Action::Fill)]
    #[case::other_options(Fail, Some(existing("collection", doc! { "capped": true }, Some(false))), Action::Conflict)]
    #[case::a_view(Fail, Some(existing("view", doc! {}, None)), Action::Conflict)]
    #[case::drop_full(Drop, Some(existing("collection", doc! {}, Some(true))), Action::Replace)]
    #[case::drop_view(Drop, Some(existing("view", doc! {}, None)), Action::Replace)]
    #[case::merge_full(Merge, Some(existing("collection", doc! {}, Some(true))), Action::Merge)]
    #[case::merge_other_options(Merge, Some(existing("collection", doc! { "capped": true }, Some(true))), Action::Merge)]
    #[case::merge_a_view(Merge, Some(existing("view", doc! {}, None)), Action::Conflict)]
    fn decides(
        #[case] on_conflict: OnConflict,
        #[case] there: Option<Existing>,
        #[case] expected: Action,
    ) {
        let indexes = ["a_1".to_owned()];
        let decision = decide(
            on_conflict,
            "x",
            "collection",
            &doc! {},
            &indexes,
            there.as_ref(),
        );
        assert_eq!(decision.action, expected);
    }

    #[test]
    fn an_empty_collection_with_a_foreign_index_is_in_the_way() {
        let there = existing("collection", doc! {}, Some(false));
        let decision = decide(Fail, "x", "collection", &doc! {}, &[], Some(&there));
        assert_eq!(decision.action, Action::Conflict);
        assert!(decision.reason.contains("a_1"), "{}", decision.reason);
    }

    #[rstest]
    #[case(doc! { "viewOn": "a", "pipeline": [] }, Fail, Action::Keep)]
    #[case(doc! { "viewOn": "b", "pipeline": [] }, Fail, Action::Conflict)]
    #[case(doc! { "viewOn": "b", "pipeline": [] }, Merge, Action::Keep)]
    fn views(
        #[case] options: bson::Document,
        #[case] on_conflict: OnConflict,
        #[case] expected: Action,
    ) {
        let there = existing("view", doc! { "viewOn": "a", "pipeline": [] }, None);
        let decision = decide(on_conflict, "x", "view", &options, &[], Some(&there));
        assert_eq!(decision.action, expected);
    }

    #[test]
    fn options_are_the_same_whatever_the_order_and_the_width() {
        assert!(same(
            &doc! { "capped": true, "size": 4096_i32 },
            &doc! { "size": 4096_i64, "capped": true }
        ));
        assert!(!same(
            &doc! { "capped": true, "size": 4096 },
            &doc! { "capped": true, "size": 8192 }
        ));
        // The order of the fields of a query is part of its meaning.
        assert!(!same(
            &doc! { "validator": { "a": 1, "b": 1 } },
            &doc! { "validator": { "b": 1, "a": 1 } }
        ));
    }
}
