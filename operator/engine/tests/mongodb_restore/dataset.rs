//! Data made to hurt, and what can be seen of a server's content.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, RawDocumentBuf, Regex,
    Timestamp, doc,
};
use futures::TryStreamExt;
use mongodb::Client;

use super::server::Server;

/// The timestamp that a server replaces on insert.
pub(crate) const EMPTY: Timestamp = Timestamp {
    time: 0,
    increment: 0,
};

/// Databases of the dataset.
pub(crate) const DATABASES: [&str; 2] = ["shop", "Données"];

/// Fills a server with one of every kind.
pub(crate) async fn load(server: &Server) {
    types(server).await;
    kinds(server).await;
    indexes(server).await;
    names(server).await;
}

async fn insert(server: &Server, db: &str, collection: &str, documents: Vec<Document>) {
    server
        .run(
            db,
            doc! { "insert": collection, "documents": documents, "bypassDocumentValidation": true },
        )
        .await;
}

async fn types(server: &Server) {
    let every_type = doc! {
        "double": 0.1, "nan": f64::NAN, "infinite": f64::NEG_INFINITY, "string": "naïve\0 text",
        "document": { "nested": { "b": 1, "a": 2 } }, "array": [1, "two", { "three": 3 }],
        "binary": Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: vec![0, 255] },
        "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] },
        "undefined": Bson::Undefined, "id": ObjectId::from_bytes([9; 12]), "true": true,
        "date": DateTime::from_millis(-62_135_596_800_001), "null": Bson::Null,
        "regex": Regex { pattern: "^a.*b$".into(), options: "im".into() },
        "code": Bson::JavaScriptCode("function() {}".into()),
        "scoped": JavaScriptCodeWithScope { code: "x".into(), scope: doc! { "x": 1 } },
        "symbol": Bson::Symbol("symbol".into()), "int": i32::MIN, "long": i64::MAX,
        "timestamp": Timestamp { time: 1, increment: 2 },
        "decimal": "1.000".parse::<Decimal128>().unwrap(),
        "min": Bson::MinKey, "max": Bson::MaxKey, "": "an empty name",
    };
    let ids = [
        Bson::Int32(1),
        Bson::Double(1.5),
        Bson::String("text".into()),
        Bson::Null,
        Bson::Boolean(false),
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Document(doc! { "b": 1, "a": 2 }),
        Bson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: vec![1, 2],
        }),
        Bson::DateTime(DateTime::from_millis(0)),
        Bson::Decimal128("2.50".parse().unwrap()),
        Bson::Timestamp(EMPTY),
    ];
    let documents = ids
        .into_iter()
        .map(|id| {
            let mut document = doc! { "_id": id };
            document.extend(every_type.clone());
            document
        })
        .collect();
    insert(server, "shop", "types", documents).await;

    // An insert would replace the empty timestamps.
    let mut documents: Vec<Document> = (0..50).map(|n| doc! { "_id": n }).collect();
    documents.push(doc! { "_id": "other", "at": Timestamp { time: 5, increment: 6 } });
    insert(server, "shop", "timestamps", documents).await;
    let updates: Vec<Document> = (0..50)
        .map(|n| {
            let literal = doc! { "_id": n, "at": EMPTY, "in": { "at": EMPTY }, "dotted.name": EMPTY, "$dollar": 1 };
            doc! { "q": { "_id": n }, "u": [{ "$replaceWith": { "$literal": literal } }] }
        })
        .collect();
    server
        .run("shop", doc! { "update": "timestamps", "updates": updates })
        .await;
    let empty = doc! { "count": "timestamps", "query": { "at": EMPTY, "in.at": EMPTY } };
    assert_eq!(server.run("shop", empty).await.get_i32("n"), Ok(50));
}

async fn kinds(server: &Server) {
    let many = (0..5000)
        .map(|n| doc! { "_id": n, "customer": format!("customer {}", n % 97), "text": "x".repeat(200) })
        .collect();
    insert(server, "shop", "orders", many).await;
    server.run("shop", doc! { "create": "empty" }).await;
    insert(server, "shop", "one", vec![doc! { "only": true }]).await;

    server
        .run(
            "shop",
            doc! { "create": "log", "capped": true, "size": 65536, "max": 100 },
        )
        .await;
    for n in 0..150 {
        insert(
            server,
            "shop",
            "log",
            vec![doc! { "_id": 1000 - n, "n": n }],
        )
        .await;
    }
    server
        .run("shop", doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "by id" } })
        .await;
    insert(
        server,
        "shop",
        "clustered",
        (0..300).map(|n| doc! { "_id": n, "v": n }).collect(),
    )
    .await;

    server
        .run("shop", doc! { "create": "collated", "collation": { "locale": "fr", "strength": 1, "caseLevel": false } })
        .await;
    insert(
        server,
        "shop",
        "collated",
        ["a", "b", "côté"].map(|id| doc! { "_id": id }).into(),
    )
    .await;

    server
        .run("shop", doc! {
            "create": "validated", "validator": { "$jsonSchema": { "required": ["name"], "properties": { "name": { "bsonType": "string", "pattern": "^[a-z]" } } } },
            "validationLevel": "strict", "validationAction": "error",
        })
        .await;
    insert(
        server,
        "shop",
        "validated",
        vec![
            doc! { "_id": 1, "name": "good" },
            doc! { "_id": 2, "bad": true },
        ],
    )
    .await;

    server
        .run(
            "shop",
            doc! { "create": "images", "changeStreamPreAndPostImages": { "enabled": true } },
        )
        .await;
    insert(server, "shop", "images", vec![doc! { "_id": 1 }]).await;
    server
        .run("shop", doc! { "create": "engine", "storageEngine": { "wiredTiger": { "configString": "block_compressor=zlib" } } })
        .await;

    server
        .run("shop", doc! { "create": "weather", "timeseries": { "timeField": "at", "metaField": "place", "granularity": "minutes" } })
        .await;
    let start = 1_700_000_000_000_i64;
    let measurements = (0..2000)
        .map(|n| doc! { "at": DateTime::from_millis(start + n * 60_000), "place": format!("p{}", n % 5), "t": n as f64 / 7.0 })
        .collect();
    insert(server, "shop", "weather", measurements).await;

    server
        .run("shop", doc! { "create": "by_customer", "viewOn": "orders", "pipeline": [
            { "$match": { "customer": { "$regex": "^customer 1" } } }, { "$group": { "_id": "$customer", "orders": { "$sum": 1 } } } ],
            "collation": { "locale": "en" } })
        .await;
    server
        .run("shop", doc! { "create": "a_view_of_a_view", "viewOn": "by_customer", "pipeline": [], "collation": { "locale": "en" } })
        .await;
    server.run("shop", doc! { "create": "hot", "viewOn": "weather", "pipeline": [{ "$match": { "t": { "$gt": 100 } } }] }).await;

    insert(
        server,
        "shop",
        "fs.files",
        vec![doc! { "_id": 1, "length": 3_i64, "chunkSize": 261120, "filename": "a" }],
    )
    .await;
    insert(server, "shop", "fs.chunks", vec![doc! { "_id": 1, "files_id": 1, "n": 0, "data": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] } }]).await;
    insert(
        server,
        "shop",
        "system.js",
        vec![doc! { "_id": "f", "value": Bson::JavaScriptCode("function() { return 1; }".into()) }],
    )
    .await;
}

async fn indexes(server: &Server) {
    let documents = (0..200)
        .map(|n| {
            doc! { "_id": n, "a": n, "b": n % 7, "email": format!("{n}@example.org"), "words": "the quick brown fox", "wort": "der schnelle Fuchs",
                "place": { "type": "Point", "coordinates": [n as f64 / 10.0, 1.5] }, "flat": [n as f64 / 10.0, 2.0], "tags": ["x", "y"],
                "at": DateTime::from_millis(0) }
        })
        .collect();
    insert(server, "shop", "indexed", documents).await;
    server
        .run("shop", doc! { "createIndexes": "indexed", "indexes": [
            { "key": { "b": 1, "a": -1 }, "name": "b_1_a_-1" },
            { "key": { "z": 1, "a": 1, "m": 1 }, "name": "z_a_m" },
            { "key": { "email": 1 }, "name": "email", "unique": true },
            { "key": { "tags": 1 }, "name": "multikey", "sparse": true },
            { "key": { "a": 1 }, "name": "partial", "partialFilterExpression": { "b": { "$gt": 3 }, "a": { "$exists": true } } },
            { "key": { "b": 1 }, "name": "collated", "collation": { "locale": "de", "strength": 2 } },
            { "key": { "words": "text", "wort": "text" }, "name": "text", "weights": { "words": 3, "wort": 5 }, "default_language": "german" },
            { "key": { "place": "2dsphere" }, "name": "sphere" },
            { "key": { "flat": "2d" }, "name": "plane", "min": -200.0, "max": 200.0, "bits": 20 },
            { "key": { "a": "hashed" }, "name": "hashed" },
            { "key": { "_id": "hashed" }, "name": "_id_hashed" },
            { "key": { "$**": 1 }, "name": "wildcard", "wildcardProjection": { "a": 0, "b": 0 } },
            { "key": { "a": 1 }, "name": "hidden", "hidden": true },
        ] })
        .await;
    server
        .run("shop", doc! { "createIndexes": "fs.chunks", "indexes": [{ "key": { "files_id": 1, "n": 1 }, "name": "files_id_1_n_1", "unique": true }] })
        .await;
    server
        .run("shop", doc! { "createIndexes": "weather", "indexes": [{ "key": { "place": 1, "at": -1 }, "name": "place_at" }] })
        .await;
    // The server's first sweep comes a minute after its start: the documents are long expired.
    insert(
        server,
        "shop",
        "expiring",
        (0..20)
            .map(|n| doc! { "_id": n, "at": DateTime::from_millis(0) })
            .collect(),
    )
    .await;
    server
        .run("shop", doc! { "createIndexes": "expiring", "indexes": [{ "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 1_000_000_000_i64 }] })
        .await;
}

async fn names(server: &Server) {
    let long = "ü".repeat(110);
    for name in [
        "with.dots",
        "a b+c/d%",
        "наука",
        "日本",
        "quote\"'`",
        "~tilde-_",
        long.as_str(),
    ] {
        insert(
            server,
            "Données",
            name,
            vec![doc! { "_id": name }, doc! { "_id": 2 }],
        )
        .await;
        server
            .run("Données", doc! { "createIndexes": name, "indexes": [{ "key": { "ключ.é": 1 }, "name": format!("index of {name}") }] })
            .await;
    }
}

/// What can be seen of one namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    kind: String,
    options: Document,
    indexes: Vec<Document>,
    /// Raw; in the order of the collection where that means something, sorted otherwise.
    pub(crate) documents: Vec<Vec<u8>>,
}

/// Everything that can be seen of a database.
pub(crate) async fn seen(client: &Client, db: &str) -> BTreeMap<String, Seen> {
    let database = client.database(db);
    let listed: Vec<Document> = database
        .run_cursor_command(doc! { "listCollections": 1 })
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let mut all = BTreeMap::new();
    for one in listed {
        let name = one.get_str("name").unwrap().to_owned();
        let kind = one.get_str("type").unwrap().to_owned();
        let options = one.get_document("options").unwrap().clone();
        let mut indexes: Vec<Document> = if kind == "view" {
            Vec::new()
        } else {
            database
                .run_cursor_command(doc! { "listIndexes": &name })
                .await
                .unwrap()
                .try_collect()
                .await
                .unwrap()
        };
        indexes.sort_by_key(|index| index.get_str("name").unwrap().to_owned());
        let found: Vec<RawDocumentBuf> = database
            .collection::<RawDocumentBuf>(&name)
            .find(doc! {})
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let mut documents: Vec<Vec<u8>> =
            found.into_iter().map(RawDocumentBuf::into_bytes).collect();
        if !options.get_bool("capped").unwrap_or(false) {
            documents.sort();
        }
        // Views are code in this collection, which lists them by their namespace.
        if name != "system.views" {
            all.insert(
                name,
                Seen {
                    kind,
                    options,
                    indexes,
                    documents,
                },
            );
        }
    }
    all
}

/// Who wrote the server that is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    Holdfast,
    /// It keeps the options of an index in a map, whose order changes from run to run (`Options`
    /// of mongo-tools' `IndexDocument` is a `bson.M`); the order of the keys it keeps.
    Mongorestore,
}

/// Asserts that two servers show the same, and says where they do not.
pub(crate) async fn assert_same(
    expected: &Client,
    found: &Client,
    databases: &[(&str, &str)],
    writer: Writer,
) {
    for (from, to) in databases {
        let expected = seen(expected, from).await;
        let found = seen(found, to).await;
        assert!(!expected.is_empty(), "{from} is empty");
        assert_eq!(
            expected.keys().collect::<Vec<_>>(),
            found.keys().collect::<Vec<_>>(),
            "{from} and {to}"
        );
        for (name, expected) in &expected {
            let found = &found[name];
            assert_eq!(expected.kind, found.kind, "{name}");
            // Not to the byte: stock mongodump keeps options in maps, which have no order.
            assert_eq!(expected.options, found.options, "{name}");
            assert_eq!(expected.indexes, found.indexes, "{name}");
            for (expected, found) in expected.indexes.iter().zip(&found.indexes) {
                match writer {
                    Writer::Holdfast => assert_exact(name, expected, found),
                    Writer::Mongorestore => assert_exact(
                        name,
                        expected.get_document("key").unwrap(),
                        found.get_document("key").unwrap(),
                    ),
                }
            }
            assert!(
                expected.documents == found.documents,
                "the documents of {name} differ"
            );
        }
    }
}

/// Equal to the byte: two documents are equal to the library whatever the order of their fields.
fn assert_exact(name: &str, expected: &Document, found: &Document) {
    assert!(
        bson::to_vec(expected).unwrap() == bson::to_vec(found).unwrap(),
        "{name}: {expected} and {found} differ in the order of fields"
    );
}
