//! Capped collections: they are read in order, and never more of them than there was at once.

mod mongodb_read_support;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use holdfast_e2e::Workdir;
use holdfast_e2e::mongod::ReplicaSet;
use mongodb::bson::{Document, doc};
use mongodb_read_support::{MemoryStage, back_up, database, finish, holds, small_ranges};

/// The `_id`s of a `.bson` file, in order.
fn ids(bytes: &[u8]) -> Result<Vec<i32>> {
    let mut ids = Vec::new();
    let mut rest = bytes;
    while let Some(length) = rest.first_chunk() {
        let (document, after) = rest.split_at(usize::try_from(i32::from_le_bytes(*length))?);
        ids.push(mongodb::bson::from_slice::<Document>(document)?.get_i32("_id")?);
        rest = after;
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_a_capped_collection_is_kept() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    let db = client.database("shop");
    db.run_command(doc! {"create": "log", "capped": true, "size": 6 << 20})
        .await?;
    let log = db.collection::<Document>("log");
    let padding = "x".repeat(500);
    for chunk in 0..20 {
        let lines = (0..1000).map(|n| doc! {"_id": 1000 * chunk + n, "line": &padding});
        log.insert_many(lines).await?;
    }
    let stage = MemoryStage::new();
    let config = database(&server.uri(), "shop");
    let (files, manifest) = finish(back_up(&config, &stage, small_ranges()).await?);
    assert!(!manifest.point_in_time);
    assert!(manifest.cluster_time.is_some());
    assert!(
        manifest
            .notes
            .iter()
            .any(|note| note.contains("shop.log is capped"))
    );
    let file = files
        .iter()
        .find(|file| file.path.ends_with("/shop/log.bson"));
    let bytes = stage.concat(&file.context("no data")?.parts);
    let ids = ids(&bytes)?;
    ensure!(
        ids.len() > 1000 && ids.last() == Some(&19_999),
        "{} lines",
        ids.len()
    );
    ensure!(
        ids.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "the order is lost"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_full_one_is_read_is_left_to_the_next_backup() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let db = server.client().await?.database("shop");
    db.run_command(doc! {"create": "log", "capped": true, "size": 16 << 20})
        .await?;
    let log = db.collection::<Document>("log");
    let padding = "x".repeat(1000);
    let write = async |lines: std::ops::Range<i32>| -> Result<()> {
        for first in lines.clone().step_by(1000) {
            let lines = (first..first + 1000).map(|n| doc! {"_id": n, "line": &padding});
            log.insert_many(lines).await?;
        }
        Ok(())
    };
    write(0..18_000).await?;
    let held = log.count_documents(doc! {}).await?;
    ensure!(held < 18_000, "it is not full yet");

    // The first batch is read and waits; what comes pushes out less than that.
    let stage = MemoryStage::gated(holds("line"));
    let config = database(&server.uri(), "shop");
    let reading = tokio::spawn({
        let stage = Arc::clone(&stage);
        async move { back_up(&config, &stage, small_ranges()).await }
    });
    stage.waiting.notified().await;
    write(18_000..20_000).await?;
    stage.open();
    let (files, manifest) = finish(reading.await??);
    let file = files
        .iter()
        .find(|file| file.path.ends_with("/shop/log.bson"));
    let ids = ids(&stage.concat(&file.context("no data")?.parts))?;
    assert_eq!(ids.last(), Some(&17_999));
    assert_eq!(manifest.collections[0].documents, held);
    ensure!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    Ok(())
}
