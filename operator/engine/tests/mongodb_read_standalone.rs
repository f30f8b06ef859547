//! A server without points in time: what nobody touches while it is read is in the backup, once;
//! and accounts that may not read all of it.

mod mongodb_read_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_e2e::Workdir;
use holdfast_e2e::mongod::{Options, Standalone};
use holdfast_engine::class::{Classified as _, ErrorClass};
use holdfast_engine::source::mongodb::segment::CutParameters;
use holdfast_engine::source::mongodb::{MongodbConfig, ReadOptions};
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mongodb_read_support::{MemoryStage, back_up, database, everything, finish, holds};

/// Documents of the collection; one in eight is never touched.
const DOCUMENTS: i32 = 48_000;

async fn load(orders: &Collection<Document>) -> Result<()> {
    let padding = "x".repeat(1000);
    for chunk in 0..DOCUMENTS / 4000 {
        let documents = (0..4000).map(|n| {
            let id = 4000 * chunk + n;
            let touched = id % 8 != 0;
            doc! {"_id": id, "touched": touched, "version": 0, "padding": &padding}
        });
        orders.insert_many(documents).await?;
    }
    Ok(())
}

/// How often each document is in what was read.
fn count(bytes: &[u8]) -> Result<BTreeMap<i32, u32>> {
    let mut seen = BTreeMap::new();
    let mut rest = bytes;
    while let Some(length) = rest.first_chunk() {
        let (document, after) = rest.split_at(usize::try_from(i32::from_le_bytes(*length))?);
        let document: Document = mongodb::bson::from_slice(document)?;
        *seen.entry(document.get_i32("_id")?).or_default() += 1;
        rest = after;
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_touches_is_read_once_however_much_is_written_beside_it() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        cache_gb: 0.6,
        ..Options::default()
    };
    let server = Standalone::start_with(&dir, options).await?;
    let orders = server
        .client()
        .await?
        .database("shop")
        .collection::<Document>("orders");
    load(&orders).await?;

    // Everything that is read waits to be stored, with one batch of each cursor in memory, while
    // most documents become others.
    let stage = MemoryStage::gated(holds("padding"));
    let config = database(&server.uri(), "shop");
    let reading = tokio::spawn({
        let stage = Arc::clone(&stage);
        let options = ReadOptions {
            range_bytes: 10 << 20,
            cut: CutParameters {
                anchor_mean: 128 << 10,
                ..CutParameters::default()
            },
            ..ReadOptions::default()
        };
        async move { back_up(&config, &stage, options).await }
    });
    stage.waiting.notified().await;
    orders
        .update_many(doc! {"touched": true}, doc! {"$inc": {"version": 1}})
        .await?;
    stage.open();
    let (files, manifest) = finish(reading.await??);

    let data = files
        .iter()
        .find(|file| file.path.ends_with("/shop/orders.bson"));
    let seen = count(&stage.concat(&data.context("no data")?.parts))?;
    let wrong: Vec<(i32, u32)> = (0..DOCUMENTS)
        .filter(|id| id % 8 == 0)
        .map(|id| (id, seen.get(&id).copied().unwrap_or(0)))
        .filter(|(_, times)| *times != 1)
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} untouched documents are missing or doubled: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    // Updates that leave documents where they are cost the others nothing either.
    assert_eq!(seen.len(), usize::try_from(DOCUMENTS)?);
    assert_eq!(manifest.collections[0].documents, 48_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_an_account_may_not_read_are_not_left_out_in_silence() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        auth: true,
        ..Options::default()
    };
    let server = Standalone::start_with(&dir, options).await?;
    let client = server.client().await?;
    for db in ["shop", "crm"] {
        let orders = client.database(db).collection::<Document>("orders");
        orders.insert_one(doc! {"_id": 1}).await?;
    }
    let roles = [doc! {"role": "read", "db": "shop"}];
    let command = doc! {"createUser": "reader", "pwd": "secret-word", "roles": roles.as_slice()};
    client.database("admin").run_command(command).await?;
    let stage = MemoryStage::new();
    let reader = MongodbConfig {
        users_and_roles: false,
        ..everything(&format!(
            "mongodb://reader:secret-word@127.0.0.1:{}/?authSource=admin",
            server.port()
        ))
    };

    for (include, users_and_roles) in [
        (vec![], false),
        (vec!["*.orders"], false),
        (vec!["shop.*"], true),
        (vec!["shop.*", "crm.*"], false),
    ] {
        let config = MongodbConfig {
            include: include.iter().map(|&one| one.to_owned()).collect(),
            users_and_roles,
            ..reader.clone()
        };
        let error = match back_up(&config, &stage, ReadOptions::default()).await {
            Ok(read) => bail!("{include:?} passed: {:?}", read.manifest()),
            Err(error) => error,
        };
        assert_eq!(error.reason(), "PermissionDenied", "{include:?}: {error}");
        assert_eq!(error.class(), ErrorClass::Waiting);
    }

    // What it may read it can back up, when nothing else is asked for.
    let config = MongodbConfig {
        include: vec!["shop.*".to_owned()],
        ..reader
    };
    let (_, manifest) = finish(back_up(&config, &stage, ReadOptions::default()).await?);
    let names: Vec<_> = manifest.collections.iter().map(|one| &one.db).collect();
    assert_eq!(names, ["shop"]);
    assert_eq!(manifest.collections[0].documents, 1);
    Ok(())
}
