//! Collections that are not plain: views, time series, capped, clustered,
//! validators, storage options, GridFS, stored JavaScript.

use anyhow::Result;
use mongodb::Database;
use mongodb::bson::{DateTime, Document, Regex, doc, oid::ObjectId};

use super::{create, insert, insert_docs};
use crate::bson_bytes::BsonBytes;
use crate::random::Random;

/// 2026-01-01T00:00:00Z; nothing in the dataset depends on today.
const START: i64 = 1_767_225_600_000;

pub(super) async fn load(database: &Database, seed: u64) -> Result<()> {
    capped(database).await?;
    clustered(database, seed).await?;
    time_series(database, seed).await?;
    validators(database).await?;
    views(database).await?;
    gridfs(database, seed).await?;

    create(
        database,
        "pre_images",
        doc! { "changeStreamPreAndPostImages": { "enabled": true } },
    )
    .await?;
    insert_docs(database, "pre_images", vec![doc! { "_id": 1 }]).await?;
    let engine = doc! { "wiredTiger": { "configString": "block_compressor=zstd" } };
    create(database, "zstd_blocks", doc! { "storageEngine": engine }).await?;
    insert_docs(database, "zstd_blocks", vec![doc! { "_id": 1 }]).await?;
    let code = mongodb::bson::Bson::JavaScriptCode("function (x) { return x + 1; }".into());
    insert_docs(
        database,
        "system.js",
        vec![doc! { "_id": "increment", "value": code }],
    )
    .await
}

/// Order counts, and what fell out must not come back.
async fn capped(database: &Database) -> Result<()> {
    create(database, "capped", doc! { "capped": true, "size": 1 << 20 }).await?;
    create(
        database,
        "capped_max",
        doc! { "capped": true, "size": 1 << 20, "max": 100 },
    )
    .await?;
    // The order of insertion is not that of the ids.
    let ids = (0..1_000).map(|number| (number * 617) % 1_000);
    let documents: Vec<Document> = ids
        .map(|id| doc! { "_id": id, "line": format!("event {id}") })
        .collect();
    insert_docs(database, "capped", documents.clone()).await?;
    insert_docs(database, "capped_max", documents).await
}

async fn clustered(database: &Database, seed: u64) -> Result<()> {
    let index = doc! { "key": { "_id": 1 }, "unique": true, "name": "in order of _id" };
    create(database, "clustered", doc! { "clusteredIndex": index }).await?;
    let mut random = Random::new(seed ^ 3);
    let documents = (0..500)
        .map(|number| {
            let mut document = BsonBytes::new();
            document
                .object_id("_id", random.object_id())
                .int32("n", number);
            document
        })
        .collect::<Vec<_>>();
    insert(database, "clustered", &documents).await?;
    // Clustered, and expiring, though not before the year 2079.
    let index = doc! { "key": { "_id": 1 }, "unique": true };
    let options = doc! { "clusteredIndex": index, "expireAfterSeconds": 1_700_000_000_i64 };
    create(database, "clustered_ttl", options).await?;
    let documents = (0..50)
        .map(|number| doc! { "_id": DateTime::from_millis(START + number * 1_000), "n": number })
        .collect();
    insert_docs(database, "clustered_ttl", documents).await
}

async fn time_series(database: &Database, seed: u64) -> Result<()> {
    let mut random = Random::new(seed ^ 4);
    let options = doc! { "timeField": "at", "metaField": "sensor", "granularity": "minutes" };
    create(database, "weather", doc! { "timeseries": options }).await?;
    let mut measurements = Vec::new();
    for number in 0..3_000_i64 {
        measurements.push(doc! {
            "_id": ObjectId::from_bytes(random.object_id()),
            "at": DateTime::from_millis(START + number * 20_000),
            "sensor": { "place": format!("roof {}", number % 5), "unit": "°C" },
            "value": (random.below(4_000) as f64) / 100.0 - 5.0,
        });
    }
    insert_docs(database, "weather", measurements).await?;
    let index = doc! { "key": { "sensor.place": 1, "at": -1 }, "name": "place and time" };
    database
        .run_command(doc! { "createIndexes": "weather", "indexes": [index] })
        .await?;
    let options = doc! { "timeField": "t" };
    create(
        database,
        "ticks",
        doc! { "timeseries": options, "expireAfterSeconds": 1_700_000_000_i64 },
    )
    .await?;
    let documents = (0..100)
        .map(|number| doc! { "_id": number, "t": DateTime::from_millis(START + number * 777), "n": number })
        .collect();
    insert_docs(database, "ticks", documents).await
}

/// Documents that break their collection's own rules are in there too: they
/// were there first, or came past the validator.
async fn validators(database: &Database) -> Result<()> {
    let schema = doc! { "$jsonSchema": {
        "bsonType": "object",
        "required": ["name"],
        "properties": { "name": { "bsonType": "string" }, "age": { "minimum": 0 } },
    } };
    for (name, level, action) in [
        ("validated", "strict", "error"),
        ("validated_moderate", "moderate", "error"),
        ("validated_warn", "strict", "warn"),
    ] {
        let options = doc! { "validator": schema.clone(), "validationLevel": level, "validationAction": action };
        create(database, name, options).await?;
        let documents = vec![
            doc! { "_id": 1, "name": "good", "age": 1 },
            doc! { "_id": 2, "age": -1, "note": "invalid, and here all the same" },
        ];
        insert_docs(database, name, documents).await?;
    }
    let pattern = Regex {
        pattern: "^[a-z]+$".into(),
        options: "i".into(),
    };
    create(
        database,
        "validated_query",
        doc! { "validator": { "$or": [{ "a": { "$exists": false } }, { "a": pattern }] } },
    )
    .await?;
    insert_docs(
        database,
        "validated_query",
        vec![doc! { "_id": 1, "a": "Abc" }, doc! { "_id": 2 }],
    )
    .await
}

async fn views(database: &Database) -> Result<()> {
    let pipeline = vec![
        doc! { "$match": { "age": { "$gte": 0 } } },
        doc! { "$project": { "name": 1 } },
    ];
    create(
        database,
        "view",
        doc! { "viewOn": "validated", "pipeline": pipeline },
    )
    .await?;
    let pipeline = vec![doc! { "$addFields": { "again": true } }];
    create(
        database,
        "a_view_on_a_view",
        doc! { "viewOn": "view", "pipeline": pipeline },
    )
    .await?;
    let order = doc! { "f": 1, "b": -1, "e": 1, "a": -1, "d": 1, "c": -1 };
    let pipeline = vec![doc! { "$sort": order }];
    create(
        database,
        "view_sorted",
        doc! { "viewOn": "one", "pipeline": pipeline },
    )
    .await?;
    let collation = doc! { "locale": "en", "strength": 1 };
    create(
        database,
        "view_collated",
        doc! { "viewOn": "one", "pipeline": [], "collation": collation },
    )
    .await?;
    create(
        database,
        "view_of_nothing",
        doc! { "viewOn": "does_not_exist", "pipeline": [] },
    )
    .await?;
    create(
        database,
        "view_of_weather",
        doc! { "viewOn": "weather", "pipeline": [{ "$limit": 5 }] },
    )
    .await
}

/// A bucket as drivers make it: an empty file, a small one, one of many chunks.
async fn gridfs(database: &Database, seed: u64) -> Result<()> {
    const CHUNK: usize = 255 * 1024;
    let mut random = Random::new(seed ^ 5);
    create(database, "fs.files", doc! {}).await?;
    create(database, "fs.chunks", doc! {}).await?;
    for (name, length) in [
        ("empty", 0),
        ("small.txt", 100),
        ("größer.bin", 3 * CHUNK + 17),
    ] {
        let id = random.object_id();
        let mut content = Vec::new();
        random.fill(&mut content, length);
        for (number, chunk) in content.chunks(CHUNK).enumerate() {
            let mut document = BsonBytes::new();
            document
                .object_id("_id", random.object_id())
                .object_id("files_id", id)
                .int32("n", i32::try_from(number)?)
                .binary("data", 0, chunk);
            insert(database, "fs.chunks", &[document]).await?;
        }
        let file = doc! {
            "_id": ObjectId::from_bytes(id),
            "length": i64::try_from(length)?,
            "chunkSize": i32::try_from(CHUNK)?,
            "uploadDate": DateTime::from_millis(START),
            "filename": name,
            "metadata": { "from": "the dataset" },
        };
        insert_docs(database, "fs.files", vec![file]).await?;
    }
    let files =
        doc! { "key": { "filename": 1, "uploadDate": 1 }, "name": "filename_1_uploadDate_1" };
    database
        .run_command(doc! { "createIndexes": "fs.files", "indexes": [files] })
        .await?;
    let chunks =
        doc! { "key": { "files_id": 1, "n": 1 }, "name": "files_id_1_n_1", "unique": true };
    database
        .run_command(doc! { "createIndexes": "fs.chunks", "indexes": [chunks] })
        .await?;
    Ok(())
}
