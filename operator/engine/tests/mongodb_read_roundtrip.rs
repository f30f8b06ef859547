//! What is read from a real server, given to stock mongorestore, is the same on another server.

mod mongodb_read_support;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use holdfast_e2e::compare::{self, Scope};
use holdfast_e2e::dataset::{Dataset, fill};
use holdfast_e2e::mongod::{Options, ReplicaSet, Standalone};
use holdfast_e2e::{Workdir, tools};
use holdfast_engine::source::mongodb::ReadOptions;
use holdfast_engine::source::mongodb::digest::ContentDigest;
use mongodb::bson::{Document, doc};
use mongodb_read_support::{
    MemoryStage, back_up, database, everything, finish, small_ranges, write_dump,
};

/// The largest documents want more cache than a small server has.
fn roomy() -> Options {
    Options {
        cache_gb: 0.6,
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_made_to_hurt_is_restored_by_stock_tools() -> Result<()> {
    let dir = Workdir::new()?;
    let source = ReplicaSet::start_with(&dir, roomy()).await?;
    let target_dir = Workdir::new()?;
    let target = ReplicaSet::start_with(&target_dir, roomy()).await?;
    let dataset = Dataset {
        big_bytes: 24 << 20,
        small_collections: 60,
        ..Dataset::default()
    };
    dataset.load(&source.client().await?).await?;

    let stage = MemoryStage::new();
    let read = back_up(&everything(&source.uri()), &stage, small_ranges()).await?;
    let (files, manifest) = finish(read);
    ensure!(manifest.cluster_time.is_some());
    ensure!(manifest.users > 0 && manifest.roles > 0);
    ensure!(manifest.feature_compatibility_version.is_some());

    // The manifest tells the truth about every file.
    let mut ranged = 0;
    for collection in &manifest.collections {
        let name = format!("{}.{}", collection.db, collection.name);
        let Some(path) = &collection.data_path else {
            ensure!(collection.kind == "view", "{name} has no documents");
            continue;
        };
        let file = files.iter().find(|file| file.path == *path);
        let bytes = stage.concat(&file.context("a data file is missing")?.parts);
        ensure!(bytes.len() as u64 == collection.bytes, "{name}: bytes");
        let mut digest = ContentDigest::new();
        let mut documents = 0;
        let mut rest = bytes.as_slice();
        while let Some(length) = rest.first_chunk() {
            let (document, after) = rest.split_at(usize::try_from(i32::from_le_bytes(*length))?);
            digest.add(document);
            documents += 1;
            rest = after;
        }
        ensure!(documents == collection.documents, "{name}: documents");
        ensure!(digest.to_string() == collection.digest, "{name}: digest");
        let parts = collection.segments.iter();
        ensure!(parts.clone().map(|one| one.bytes).sum::<u64>() == collection.bytes);
        ensure!(parts.clone().map(|one| one.documents).sum::<u64>() == documents);
        ensure!(parts.clone().all(|one| one.blobs.len() == 1));
        let places: Vec<i64> = parts.filter_map(|one| one.first_record_id).collect();
        ensure!(places.is_sorted(), "{name}: record ids are not in order");
        if !places.is_empty() {
            ensure!(
                places.len() == collection.segments.len(),
                "{name}: of {} segments {} have a place",
                collection.segments.len(),
                places.len()
            );
            ranged += 1;
        }
    }
    ensure!(ranged > 0, "no collection was read as ranges");

    let out = dir.fresh("dump")?;
    write_dump(&stage, &files, &out)?;
    tools::mongorestore(&target.uri(), &out, &["--bypassDocumentValidation"]).await?;

    let beyond = dataset.beyond_stock().into_iter().map(|(name, _)| name);
    let scope = Scope::all().any_option_order().without(beyond);
    let differences =
        compare::differences(&source.client().await?, &target.client().await?, &scope).await?;
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_names_are_those_of_mongodump() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start_with(&dir, roomy()).await?;
    Dataset::small().load(&server.client().await?).await?;
    let stage = MemoryStage::new();
    let read = back_up(&everything(&server.uri()), &stage, ReadOptions::default()).await?;
    let (files, _) = finish(read);
    let theirs = dir.fresh("theirs")?;
    tools::mongodump(&server.uri(), &theirs, &[]).await?;
    let mut expected = BTreeSet::new();
    for db in std::fs::read_dir(&theirs)? {
        let db = db?.path();
        if !db.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&db)? {
            let path = file?.path();
            expected.insert(path.strip_prefix(&theirs)?.display().to_string());
        }
    }
    let ours: BTreeSet<String> = files
        .iter()
        .filter_map(|file| file.path.strip_prefix("/mongodb/dump/"))
        .filter(|path| *path != "prelude.json")
        .map(str::to_owned)
        .collect();
    assert_eq!(ours, expected);

    // The texts say the same, down to types; only the order of options is mongodump's own.
    for file in files
        .iter()
        .filter(|file| file.path.ends_with(".metadata.json"))
    {
        let relative = file.path.trim_start_matches("/mongodb/dump/");
        let ours: serde_json::Value = serde_json::from_slice(&stage.concat(&file.parts))?;
        let text = std::fs::read(theirs.join(relative))?;
        let theirs: serde_json::Value = serde_json::from_slice(&text)?;
        ensure!(
            same_metadata(&ours, &theirs),
            "{relative}:\n{ours}\n{theirs}"
        );
    }
    Ok(())
}

/// mongodump leaves `options` away or writes it empty depending on its version.
fn same_metadata(ours: &serde_json::Value, theirs: &serde_json::Value) -> bool {
    let plain = |value: &serde_json::Value| {
        let mut value = value.clone();
        if let Some(object) = value.as_object_mut() {
            object.retain(|name, value| name != "options" || *value != serde_json::json!({}));
        }
        value
    };
    plain(ours) == plain(theirs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_read_of_unchanged_documents_makes_the_same_segments() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    fill(&client, "shop", "orders", 80 << 20, 1).await?;
    let config = database(&server.uri(), "shop");
    let mut seen: Option<BTreeSet<Bytes>> = None;
    // One cursor, many ranges, and again: the sample is another each time.
    for range_bytes in [u64::MAX, 4 << 20, 4 << 20, 16 << 20] {
        let options = ReadOptions {
            range_bytes,
            ..ReadOptions::default()
        };
        let stage = MemoryStage::new();
        let read = back_up(&config, &stage, options).await?;
        let distinct = stage.distinct();
        if let Some(seen) = &seen {
            let fresh = distinct.difference(seen).count();
            ensure!(fresh == 0, "{fresh} of {} segments are new", distinct.len());
        }
        ensure!(distinct.len() > 60);
        assert_eq!(
            read.manifest().collections[0].bytes,
            collection_bytes(&client).await?
        );
        seen = Some(distinct);
    }
    // A thousand more documents are a few segments more.
    let orders = client.database("shop").collection::<Document>("orders");
    let more = (0..1000).map(|n| doc! {"_id": format!("more {n}")});
    orders.insert_many(more).await?;
    let stage = MemoryStage::new();
    back_up(
        &config,
        &stage,
        ReadOptions {
            range_bytes: 4 << 20,
            ..ReadOptions::default()
        },
    )
    .await?;
    let fresh = stage
        .distinct()
        .difference(&seen.unwrap_or_default())
        .count();
    ensure!(fresh <= 4, "{fresh} segments are new");
    Ok(())
}

async fn collection_bytes(client: &mongodb::Client) -> Result<u64> {
    let stats = client
        .database("shop")
        .run_command(doc! {"collStats": "orders"})
        .await?;
    Ok(match stats.get("size") {
        Some(mongodb::bson::Bson::Int32(size)) => u64::try_from(*size)?,
        Some(mongodb::bson::Bson::Int64(size)) => u64::try_from(*size)?,
        other => anyhow::bail!("size is {other:?}"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_read_and_said_to_have_no_point_in_time() -> Result<()> {
    let dir = Workdir::new()?;
    let source = Standalone::start_with(&dir, roomy()).await?;
    let target_dir = Workdir::new()?;
    let target = Standalone::start_with(&target_dir, roomy()).await?;
    let dataset = Dataset::small();
    dataset.load(&source.client().await?).await?;
    let stage = MemoryStage::new();
    let read = back_up(&everything(&source.uri()), &stage, small_ranges()).await?;
    let (files, manifest) = finish(read);
    assert!(!manifest.point_in_time);
    assert_eq!((manifest.cluster_time, manifest.replica_set), (None, None));
    assert!(
        manifest
            .notes
            .iter()
            .any(|note| note.contains("standalone"))
    );
    let out = dir.fresh("dump")?;
    write_dump(&stage, &files, &out)?;
    tools::mongorestore(&target.uri(), &out, &["--bypassDocumentValidation"]).await?;

    let beyond = dataset.beyond_stock().into_iter().map(|(name, _)| name);
    let scope = Scope::all().any_option_order().without(beyond);
    let differences =
        compare::differences(&source.client().await?, &target.client().await?, &scope).await?;
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}
