//! Much data, quickly: raw documents on several connections.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use mongodb::Database;
use mongodb::bson::{RawDocumentBuf, doc};

use super::{create, insert_docs, insert_raw};
use crate::bson_bytes::BsonBytes;
use crate::random::Random;

const STREAMS: u64 = 4;
const BATCH: usize = 4 << 20;

/// Many collections of a few documents, every tenth with an index, some empty.
pub(super) async fn small(database: &Database, count: u32, seed: u64) -> Result<()> {
    futures::stream::iter(0..count)
        .map(|number| async move {
            let name = format!("small_{number:05}");
            create(database, &name, doc! {}).await?;
            let mut random = Random::new(seed ^ (u64::from(number) << 20));
            let documents: Vec<_> = (0..random.below(6))
                .map(|id| doc! { "_id": i64::try_from(id).unwrap_or_default(), "value": random.number().to_string() })
                .collect();
            if !documents.is_empty() {
                insert_docs(database, &name, documents).await?;
            }
            if number % 10 == 0 {
                let index = doc! { "key": { "value": 1 }, "name": "value_1" };
                database
                    .run_command(doc! { "createIndexes": &name, "indexes": [index], "writeConcern": { "w": 1 } })
                    .await?;
            }
            anyhow::Ok(())
        })
        .buffer_unordered(8)
        .try_collect()
        .await
}

/// One collection of about `bytes`, its documents between 200 bytes and 4 KiB
/// and now and then far larger; returns how many there are.
pub(super) async fn big(database: &Database, name: &str, bytes: u64, seed: u64) -> Result<u64> {
    create(database, name, doc! {}).await?;
    let mut tasks = Vec::new();
    for stream in 0..STREAMS {
        let (database, name) = (database.clone(), name.to_owned());
        tasks.push(tokio::spawn(async move {
            fill(&database, &name, bytes / STREAMS, seed, stream).await
        }));
    }
    let mut count = 0;
    for task in tasks {
        count += task.await.context("a loader panicked")??;
    }
    let index = doc! { "key": { "customer": 1, "at": -1 }, "name": "customer_1_at_-1" };
    database
        .run_command(doc! { "createIndexes": name, "indexes": [index] })
        .await?;
    Ok(count)
}

async fn fill(database: &Database, name: &str, bytes: u64, seed: u64, stream: u64) -> Result<u64> {
    let mut random = Random::new(seed.wrapping_add(stream.wrapping_mul(0x00C0_FFEE)));
    let (mut written, mut count) = (0, 0);
    let mut batch: Vec<RawDocumentBuf> = Vec::new();
    let mut weight = 0;
    loop {
        let full = written + weight as u64 >= bytes;
        if weight >= BATCH || (full && !batch.is_empty()) {
            insert_raw(database, name, &batch, false).await?;
            written += weight as u64;
            count += batch.len() as u64;
            batch.clear();
            weight = 0;
            // The runtime may have one thread only.
            tokio::task::yield_now().await;
        }
        if full {
            return Ok(count);
        }
        let document = order(&mut random)?;
        weight += document.as_bytes().len();
        batch.push(document);
    }
}

/// An order of a shop: partly text that compresses, partly bytes that do not.
fn order(random: &mut Random) -> Result<RawDocumentBuf> {
    const WORDS: [&str; 16] = [
        "anchor", "kelp", "tide", "harbour", "gull", "net", "oar", "sail", "wave", "reef", "sand",
        "shell", "storm", "buoy", "mast", "keel",
    ];
    let mut document = BsonBytes::new();
    document
        .object_id("_id", random.object_id())
        .int64("customer", i64::try_from(random.below(50_000))?)
        .date(
            "at",
            1_767_225_600_000 + i64::try_from(random.below(31_536_000_000))?,
        )
        .double("total", random.below(1_000_000) as f64 / 100.0)
        .boolean("paid", random.below(4) != 0)
        .string(
            "state",
            ["new", "packed", "sent", "returned"][usize::try_from(random.below(4))?],
        );
    let mut lines = BsonBytes::new();
    for number in 0..random.below(6) {
        let mut line = BsonBytes::new();
        line.string("article", WORDS[usize::try_from(random.below(16))?])
            .int32("quantity", i32::try_from(random.below(20))?)
            .int64("cents", i64::try_from(random.below(100_000))?);
        lines.document(&number.to_string(), &line);
    }
    document.array("lines", &lines);
    let mut note = String::new();
    for _ in 0..random.below(90) {
        note.push_str(WORDS[usize::try_from(random.below(16))?]);
        note.push(' ');
    }
    document.string("note", &note);
    let mut noise = Vec::new();
    let length = if random.below(5_000) == 0 {
        random.below(1 << 20)
    } else {
        random.below(900)
    };
    random.fill(&mut noise, usize::try_from(length)?);
    document.binary("signature", 0, &noise);
    document.finish()
}

/// Documents as large as the server takes: 16 MiB to the byte, and near it.
pub(super) async fn giants(database: &Database, seed: u64) -> Result<()> {
    const LIMIT: usize = 16 << 20;
    create(database, "giants", doc! {}).await?;
    let mut random = Random::new(seed ^ 6);
    let collection = database.collection::<RawDocumentBuf>("giants");
    for (id, size) in [(1, LIMIT), (2, LIMIT - 1), (3, 9 << 20)] {
        let mut document = BsonBytes::new();
        document.int32("_id", id);
        // A binary element named "b" costs 8 bytes besides its content.
        let room = size - document.length() - 8;
        let mut noise = Vec::new();
        random.fill(&mut noise, room / 8);
        noise.resize(room, u8::try_from(id)?);
        document.binary("b", 0, &noise);
        anyhow::ensure!(
            document.length() == size,
            "a giant of {} bytes, not {size}",
            document.length()
        );
        collection
            .insert_one(document.finish()?)
            .await
            .with_context(|| format!("inserting a giant of {size} bytes"))?;
    }
    Ok(())
}
