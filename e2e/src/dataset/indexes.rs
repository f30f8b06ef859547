//! Every kind of index, over documents that make it multikey, sparse or
//! partial.

use anyhow::{Context, Result};
use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};

use super::{create, insert_docs};

pub(super) async fn load(database: &Database) -> Result<()> {
    let documents = (0..300)
        .map(|number: i32| {
            let mut document = doc! {
                "_id": number,
                "n": number,
                "name": format!("Name {}", number % 50),
                "tags": [number % 3, number % 5],
                "nested": { "a": number, "b": { "c": number % 7 } },
                // TTL: not before the year 2100.
                "expires": DateTime::from_millis(4_102_444_800_000 + i64::from(number)),
                "place": [f64::from(number % 180), f64::from(number % 90)],
                "where": { "type": "Point", "coordinates": [f64::from(number % 180), f64::from(number % 90)] },
                "title": format!("the quick brown fox {number}"),
                "body": "läuft über den faulen Hund",
            };
            if number % 2 == 0 {
                document.insert("sometimes", number);
            }
            document
        })
        .collect::<Vec<Document>>();

    create(database, "indexed", doc! {}).await?;
    insert_docs(database, "indexed", documents.clone()).await?;
    let indexes = vec![
        doc! { "key": { "n": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "sometimes": 1 }, "name": "sparse", "sparse": true },
        doc! { "key": { "sometimes": -1 }, "name": "sparse and unique", "sparse": true, "unique": true },
        doc! { "key": { "name": 1 }, "name": "partial", "partialFilterExpression": { "n": { "$gt": 5, "$lt": 200 }, "name": { "$type": "string" } } },
        doc! { "key": { "expires": 1 }, "name": "ttl", "expireAfterSeconds": 3_600 },
        doc! { "key": { "z": 1, "a": -1, "nested.b.c": 1 }, "name": "compound, not in order of letters" },
        doc! { "key": { "tags": 1 }, "name": "multikey" },
        doc! { "key": { "nested": 1 }, "name": "embedded document" },
        doc! { "key": { "name": "hashed", "n": 1 }, "name": "compound hashed" },
        doc! { "key": { "name": 1 }, "name": "collated", "collation": { "locale": "de", "strength": 2 } },
        doc! { "key": { "n": -1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "place": "2d" }, "name": "2d", "bits": 20, "min": -500.0, "max": 500.0 },
        doc! { "key": { "where": "2dsphere", "n": 1 }, "name": "2dsphere" },
        doc! { "key": { "$**": 1 }, "name": "wildcard", "wildcardProjection": { "nested": 1, "tags": 1 } },
        doc! { "key": { "nested.$**": 1 }, "name": "wildcard below" },
        doc! { "key": { "prefix": 1, "_fts": "text", "_ftsx": 1 }, "name": "text", "weights": { "body": 3, "title": 10 },
        "default_language": "german", "language_override": "idioma" },
        doc! { "key": { "n": 1, "name": 1 }, "name": "ein ünïcödé Name 🦑 with spaces, 100% and $dollars" },
    ];
    build(database, "indexed", indexes).await?;

    create(database, "hashed_id", doc! {}).await?;
    insert_docs(database, "hashed_id", vec![doc! { "_id": 1 }]).await?;
    build(
        database,
        "hashed_id",
        vec![doc! { "key": { "_id": "hashed" }, "name": "hashed _id" }],
    )
    .await?;

    // Older versions of the special kinds, and text over everything.
    create(database, "indexed_old", doc! {}).await?;
    insert_docs(database, "indexed_old", documents.clone()).await?;
    let indexes = vec![
        doc! { "key": { "where": "2dsphere" }, "name": "2dsphere v2", "2dsphereIndexVersion": 2 },
        doc! { "key": { "$**": "text" }, "name": "all text", "textIndexVersion": 2, "default_language": "none" },
        // Numbers and booleans that are not 1: old applications did that.
        doc! { "key": { "n": 1.0 }, "name": "double" },
        doc! { "key": { "name": -1_i64 }, "name": "long" },
        doc! { "key": { "name": 5 }, "name": "five" },
    ];
    build(database, "indexed_old", indexes).await?;

    // A default collation that the indexes inherit, except the one that says no.
    create(
        database,
        "indexed_collated",
        doc! { "collation": { "locale": "fr", "strength": 2 } },
    )
    .await?;
    insert_docs(database, "indexed_collated", documents).await?;
    let indexes = vec![
        doc! { "key": { "name": 1 }, "name": "inherits" },
        doc! { "key": { "name": -1 }, "name": "simple", "collation": { "locale": "simple" } },
    ];
    build(database, "indexed_collated", indexes).await
}

async fn build(database: &Database, name: &str, indexes: Vec<Document>) -> Result<()> {
    for index in indexes {
        let shown = index.to_string();
        database
            .run_command(doc! { "createIndexes": name, "indexes": [index] })
            .await
            .with_context(|| format!("creating an index on {name}: {shown}"))?;
    }
    Ok(())
}
