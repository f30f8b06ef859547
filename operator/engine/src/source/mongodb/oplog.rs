//! The watch on the oplog: which collections were made, dropped, renamed or changed since a moment.
//!
//! It is what makes a read at one cluster time safe: a server asked for a collection as it was
//! before a drop or rename answers with no documents and no error.

use mongodb::bson::{Bson, Document, Timestamp, doc};

use super::connect::Connection;
use super::cursor::collect;
use super::error::MongodbError;
use super::namespace::Namespace;

/// What a change concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One collection, view or time series (never the buckets of one).
    Collection(Namespace),
    /// Everything in a database.
    Database(String),
}

/// A change of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub time: Timestamp,
    /// The oplog's word for it: `drop`, `renameCollection` …
    pub operation: String,
    /// What it concerns.
    pub targets: Vec<Target>,
    /// Whether documents as they were before can no longer be read after it.
    pub destructive: bool,
}

impl Change {
    /// Whether the collection is one of those concerned.
    #[must_use]
    pub fn concerns(&self, namespace: &Namespace) -> bool {
        self.targets.iter().any(|target| match target {
            Target::Collection(one) => one == namespace,
            Target::Database(db) => *db == namespace.db,
        })
    }

    /// The databases concerned.
    pub fn databases(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(|target| match target {
            Target::Collection(one) => one.db.as_str(),
            Target::Database(db) => db.as_str(),
        })
    }
}

/// The time of the last write that the member has applied.
///
/// # Errors
/// When the member does not answer, or has no such time.
pub async fn last_write(connection: &Connection) -> Result<Timestamp, MongodbError> {
    let action = "ask for the time of the last write";
    let hello = connection.run("admin", action, doc! {"hello": 1}).await?;
    hello
        .get_document("lastWrite")
        .and_then(|last| last.get_document("opTime"))
        .and_then(|time| time.get_timestamp("ts"))
        .map_err(|_| MongodbError::NotReadable {
            server: connection.server().to_owned(),
            cause: "it does not say when it was last written to".to_owned(),
        })
}

/// Reads changes of the catalogue out of the oplog, from a moment on.
#[derive(Debug)]
pub struct Watch {
    connection: Connection,
    since: Timestamp,
    reached: Timestamp,
}

impl Watch {
    /// A watch on what comes after `since`.
    #[must_use]
    pub fn new(connection: Connection, since: Timestamp) -> Self {
        Self {
            connection,
            since,
            reached: since,
        }
    }

    /// The changes since the last call, up to and with the last write of this moment.
    ///
    /// # Errors
    /// When the oplog cannot be read, or no longer reaches back to the beginning.
    pub async fn poll(&mut self) -> Result<Vec<Change>, MongodbError> {
        let until = last_write(&self.connection).await?;
        if until <= self.reached {
            return Ok(Vec::new());
        }
        let command = doc! {
            "find": "oplog.rs",
            "filter": {
                "ts": {"$gt": self.reached, "$lte": until},
                "$or": [
                    {"op": "c", "o.applyOps": {"$exists": false}},
                    {"op": "c", "o.applyOps.op": "c"},
                    {"op": "c", "o.applyOps.ns": {"$regex": r"\.system\.views$"}},
                    {"ns": {"$regex": r"\.system\.views$"}},
                ],
            },
            "projection": {"ts": 1, "op": 1, "ns": 1, "o": 1, "o2._id": 1},
            "readConcern": {"level": "local"},
        };
        let action = "read the oplog (local.oplog.rs)".to_owned();
        let entries = collect(&self.connection, "local", action, command).await?;
        // After reading: what was overwritten before the read is missing from it.
        self.check_reach().await?;
        self.reached = until;
        Ok(entries.iter().flat_map(changes).collect())
    }

    /// Whether the oplog may be read and reaches back to the beginning.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check_reach(&self) -> Result<(), MongodbError> {
        let command = doc! {
            "find": "oplog.rs", "sort": {"$natural": 1}, "limit": 1, "projection": {"ts": 1},
        };
        let action = "read the oplog (local.oplog.rs)".to_owned();
        let oldest = collect(&self.connection, "local", action, command).await?;
        match oldest.first().map(|one| one.get_timestamp("ts")) {
            Some(Ok(oldest)) if oldest <= self.since => Ok(()),
            _ => Err(MongodbError::OplogOverwritten {
                server: self.connection.server().to_owned(),
            }),
        }
    }
}

/// What an oplog entry changes in the catalogue.
#[must_use]
pub fn changes(entry: &Document) -> Vec<Change> {
    let time = entry.get_timestamp("ts").unwrap_or(Timestamp {
        time: 0,
        increment: 0,
    });
    let mut found = Vec::new();
    collect_changes(entry, time, &mut found);
    found
}

fn collect_changes(entry: &Document, time: Timestamp, found: &mut Vec<Change>) {
    let (Ok(kind), Ok(ns)) = (entry.get_str("op"), entry.get_str("ns")) else {
        return;
    };
    let Ok(object) = entry.get_document("o") else {
        return;
    };
    if kind == "c" {
        if let Some(operations) = object.get("applyOps").and_then(Bson::as_array) {
            for operation in operations.iter().filter_map(Bson::as_document) {
                collect_changes(operation, time, found);
            }
        } else if let Some(change) = command(ns, object, time) {
            found.push(change);
        }
    } else if ns.ends_with(".system.views") {
        // Definitions of views are documents; their names are whole namespaces.
        let key = if kind == "u" {
            entry.get_document("o2")
        } else {
            Ok(object)
        };
        let name = key.and_then(|key| key.get_str("_id"));
        let view = name.ok().and_then(|name| name.parse().ok());
        found.push(Change {
            time,
            operation: "change of a view".to_owned(),
            targets: vec![match view {
                Some(view) => Target::Collection(view),
                None => Target::Database(database_of(ns)),
            }],
            destructive: false,
        });
    }
}

fn database_of(ns: &str) -> String {
    ns.split('.').next().unwrap_or(ns).to_owned()
}

fn command(ns: &str, object: &Document, time: Timestamp) -> Option<Change> {
    let (operation, value) = object.iter().next()?;
    let db = database_of(ns);
    let named = |value: &Bson| {
        let name = value.as_str()?;
        Some(Target::Collection(
            Namespace::new(&db, name).without_buckets_prefix(),
        ))
    };
    let whole = |value: &Bson| {
        let namespace: Namespace = value.as_str()?.parse().ok()?;
        Some(Target::Collection(namespace.without_buckets_prefix()))
    };
    let (targets, destructive) = match operation.as_str() {
        // They end a transaction whose operations are entries of their own.
        "commitTransaction" | "abortTransaction" | "dbCheck" => return None,
        "create" | "collMod" | "createIndexes" | "dropIndexes" | "deleteIndexes"
        | "deleteIndex" | "startIndexBuild" | "commitIndexBuild" | "abortIndexBuild" => {
            (vec![named(value)], false)
        }
        "drop" | "convertToCapped" | "emptycapped" => (vec![named(value)], true),
        "renameCollection" => (vec![whole(value), object.get("to").and_then(whole)], true),
        "importCollection" => (vec![whole(value)], true),
        // dropDatabase, and whatever a newer server has.
        _ => (vec![None], true),
    };
    let database = Target::Database(db.clone());
    Some(Change {
        time,
        operation: operation.clone(),
        targets: targets
            .into_iter()
            .map(|target| target.unwrap_or_else(|| database.clone()))
            .collect(),
        destructive,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TIME: Timestamp = Timestamp {
        time: 7,
        increment: 3,
    };

    fn collection(name: &str) -> Target {
        Target::Collection(name.parse().unwrap())
    }

    fn entry(object: Document) -> Document {
        doc! {"ts": TIME, "op": "c", "ns": "shop.$cmd", "o": object}
    }

    #[rstest]
    #[case(doc! {"create": "a", "idIndex": {}}, "create", &["shop.a"], false)]
    #[case(doc! {"drop": "a.b"}, "drop", &["shop.a.b"], true)]
    #[case(doc! {"drop": "system.buckets.w"}, "drop", &["shop.w"], true)]
    #[case(doc! {"collMod": "a", "validator": {}}, "collMod", &["shop.a"], false)]
    #[case(doc! {"convertToCapped": "a", "size": 1}, "convertToCapped", &["shop.a"], true)]
    #[case(doc! {"commitIndexBuild": "a", "indexes": []}, "commitIndexBuild", &["shop.a"], false)]
    #[case(doc! {"renameCollection": "shop.a", "to": "other.b", "dropTarget": true}, "renameCollection", &["shop.a", "other.b"], true)]
    fn reads_commands(
        #[case] object: Document,
        #[case] operation: &str,
        #[case] targets: &[&str],
        #[case] destructive: bool,
    ) {
        let found = changes(&entry(object));
        assert_eq!(
            found,
            [Change {
                time: TIME,
                operation: operation.to_owned(),
                targets: targets.iter().map(|one| collection(one)).collect(),
                destructive,
            }]
        );
    }

    #[rstest]
    #[case("dropDatabase")]
    #[case("somethingNew")]
    fn what_is_not_known_concerns_the_database(#[case] operation: &str) {
        let found = changes(&entry(doc! {operation: 1}));
        assert_eq!(found[0].targets, [Target::Database("shop".to_owned())]);
        assert!(found[0].destructive);
        assert!(found[0].concerns(&Namespace::new("shop", "anything")));
        assert!(!found[0].concerns(&Namespace::new("shopping", "anything")));
    }

    #[test]
    fn looks_into_transactions_however_deep() {
        let inner = doc! {"applyOps": [
            {"op": "i", "ns": "shop.a", "o": {"_id": 1}},
            {"op": "c", "ns": "shop.$cmd", "o": {"create": "b"}},
            {"op": "c", "ns": "x.$cmd", "o": {"applyOps": [
                {"op": "c", "ns": "x.$cmd", "o": {"drop": "c"}},
            ]}},
        ]};
        let found = changes(&entry(inner));
        let targets: Vec<Target> = found.into_iter().flat_map(|one| one.targets).collect();
        assert_eq!(targets, [collection("shop.b"), collection("x.c")]);
        assert!(changes(&entry(doc! {"commitTransaction": 1})).is_empty());
    }

    #[rstest]
    #[case(doc! {"op": "i", "ns": "shop.system.views", "o": {"_id": "shop.v"}})]
    #[case(doc! {"op": "d", "ns": "shop.system.views", "o": {"_id": "shop.v"}})]
    #[case(doc! {"op": "u", "ns": "shop.system.views", "o": {"$v": 2}, "o2": {"_id": "shop.v"}})]
    fn views_are_documents(#[case] mut entry: Document) {
        entry.insert("ts", TIME);
        let found = changes(&entry);
        assert_eq!(found[0].targets, [collection("shop.v")]);
        assert!(!found[0].destructive);
    }

    #[test]
    fn other_entries_change_nothing() {
        for kind in ["i", "u", "d", "n"] {
            let entry = doc! {"ts": TIME, "op": kind, "ns": "shop.a", "o": {"_id": 1}};
            assert!(changes(&entry).is_empty());
        }
    }
}
