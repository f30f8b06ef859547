//! Collections that are dropped, renamed, made or changed while they are read: what comes out is
//! right for one time, or an error that says what happened.

mod mongodb_read_support;

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_e2e::Workdir;
use holdfast_e2e::mongod::{ReplicaSet, Standalone};
use holdfast_e2e::random::Random;
use holdfast_engine::class::{Classified as _, ErrorClass};
use holdfast_engine::manifest::{CollectionManifest, MongodbManifest};
use holdfast_engine::source::mongodb::{MongodbError, MongodbRead, ReadOptions};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use mongodb_read_support::{MemoryStage, back_up, database, finish, holds, small_ranges};
use rstest::rstest;
use tokio::task::JoinHandle;

const LARGE: usize = 12_000;
const SMALL: usize = 7;

/// `large` takes several batches; `small` is read before it.
async fn prepare(client: &Client) -> Result<Database> {
    let db = client.database("shop");
    insert(&db, "small", SMALL, "small").await?;
    insert(&db, "large", LARGE, "large").await?;
    Ok(db)
}

async fn insert(db: &Database, name: &str, count: usize, word: &str) -> Result<()> {
    let padding = "x".repeat(1000);
    let documents = (0..count).map(|n| {
        doc! {"_id": i64::try_from(n).unwrap_or_default(), "word": word, "padding": &padding}
    });
    db.collection::<Document>(name)
        .insert_many(documents)
        .await
        .with_context(|| format!("filling {name}"))?;
    Ok(())
}

type Outcome = Result<MongodbRead, MongodbError>;

/// Begins to read and stops at the first segment of `large`.
async fn begin(uri: &str) -> (Arc<MemoryStage>, JoinHandle<Outcome>) {
    let stage = MemoryStage::gated(holds("\0large\0"));
    let config = database(uri, "shop");
    let reading = {
        let stage = Arc::clone(&stage);
        let options = ReadOptions {
            cursors: 1,
            range_bytes: u64::MAX,
            ..ReadOptions::default()
        };
        tokio::spawn(async move { back_up(&config, &stage, options).await })
    };
    stage.waiting.notified().await;
    (stage, reading)
}

fn find<'a>(manifest: &'a MongodbManifest, name: &str) -> Option<&'a CollectionManifest> {
    manifest.collections.iter().find(|one| one.name == name)
}

fn documents(manifest: &MongodbManifest, name: &str) -> Option<u64> {
    find(manifest, name).map(|one| one.documents)
}

#[derive(Debug, Clone, Copy)]
enum Ddl {
    DropRead,
    DropUnread,
    DropAndMakeAgain,
    RenameRead,
    RenameUnread,
    RenameOver,
    Create,
    ChangeOptions,
    BuildIndex,
    Convert,
    DropDatabase,
}

async fn change(db: &Database, ddl: Ddl) -> Result<()> {
    let admin = db.client().database("admin");
    match ddl {
        Ddl::DropRead => db.collection::<Document>("small").drop().await?,
        Ddl::DropUnread => db.collection::<Document>("large").drop().await?,
        Ddl::DropAndMakeAgain => {
            db.collection::<Document>("large").drop().await?;
            insert(db, "large", 3, "again").await?;
        }
        Ddl::RenameRead => {
            let command = doc! {"renameCollection": "shop.small", "to": "shop.tiny"};
            admin.run_command(command).await?;
        }
        Ddl::RenameUnread => {
            let command = doc! {"renameCollection": "shop.large", "to": "shop.huge"};
            admin.run_command(command).await?;
        }
        Ddl::RenameOver => {
            let command =
                doc! {"renameCollection": "shop.small", "to": "shop.large", "dropTarget": true};
            admin.run_command(command).await?;
        }
        Ddl::Create => insert(db, "new", 5, "new").await?,
        Ddl::ChangeOptions => {
            let command = doc! {"collMod": "large", "validator": {"word": {"$exists": true}}};
            db.run_command(command).await?;
        }
        Ddl::BuildIndex => {
            let index = doc! {"key": {"word": 1}, "name": "word_1"};
            db.run_command(doc! {"createIndexes": "large", "indexes": [index]})
                .await?;
        }
        Ddl::Convert => {
            db.run_command(doc! {"convertToCapped": "large", "size": 1 << 20})
                .await?;
        }
        Ddl::DropDatabase => db.drop().await?,
    }
    Ok(())
}

#[rstest]
// What had been read stays as it was at the one time.
#[case(Ddl::DropRead, Ok(vec![("small", SMALL), ("large", LARGE)]))]
#[case(Ddl::RenameRead, Ok(vec![("small", SMALL), ("large", LARGE)]))]
#[case(Ddl::Create, Ok(vec![("small", SMALL), ("large", LARGE)]))]
#[case(Ddl::ChangeOptions, Ok(vec![("small", SMALL), ("large", LARGE)]))]
#[case(Ddl::BuildIndex, Ok(vec![("small", SMALL), ("large", LARGE)]))]
// What had not is read again with all the rest, at a later time.
#[case(Ddl::DropUnread, Ok(vec![("small", SMALL)]))]
#[case(Ddl::DropAndMakeAgain, Ok(vec![("small", SMALL), ("large", 3)]))]
#[case(Ddl::RenameUnread, Ok(vec![("small", SMALL), ("huge", LARGE)]))]
#[case(Ddl::RenameOver, Ok(vec![("large", SMALL)]))]
#[case(Ddl::Convert, Ok(vec![("small", SMALL), ("large", 0)]))]
#[case(Ddl::DropDatabase, Err("NothingSelected"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_the_middle(
    #[case] ddl: Ddl,
    #[case] expected: Result<Vec<(&str, usize)>, &str>,
) -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    let db = prepare(&client).await?;
    let (stage, reading) = begin(&server.uri()).await;
    change(&db, ddl).await?;
    stage.open();
    let outcome = reading.await?;
    match (outcome, expected) {
        (Err(error), Err(reason)) => assert_eq!(error.reason(), reason, "{error}"),
        (Ok(read), Ok(expected)) => {
            let (_, manifest) = finish(read);
            let names: Vec<&str> = manifest
                .collections
                .iter()
                .map(|one| one.name.as_str())
                .collect();
            ensure!(names.len() == expected.len(), "{ddl:?}: {names:?}");
            for (name, count) in expected {
                let read = documents(&manifest, name).context(name.to_owned())?;
                if matches!(ddl, Ddl::Convert) && name == "large" {
                    // The newest that fit; the collection is capped now.
                    ensure!(read > 0 && read < LARGE as u64, "{read} documents");
                    ensure!(!manifest.point_in_time);
                    ensure!(find(&manifest, name).is_some_and(|one| one.capped));
                } else {
                    ensure!(read == count as u64, "{ddl:?}: {name} has {read} documents");
                    ensure!(manifest.point_in_time != matches!(ddl, Ddl::Convert));
                }
            }
        }
        (Ok(read), Err(_)) => bail!("{ddl:?} passed: {:?}", read.manifest()),
        (Err(error), Ok(_)) => bail!("{ddl:?} failed: {error}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_all_the_time_is_named() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    let db = prepare(&client).await?;
    // Whenever the collection is being read it is dropped and made anew.
    let stage = MemoryStage::gated(holds("\0large\0"));
    let config = database(&server.uri(), "shop");
    let options = ReadOptions {
        cursors: 1,
        attempts: 3,
        ..ReadOptions::default()
    };
    let reading = back_up(&config, &stage, options);
    tokio::pin!(reading);
    let error = loop {
        tokio::select! {
            outcome = &mut reading => match outcome {
                Ok(read) => bail!("it passed: {:?}", read.manifest()),
                Err(error) => break error,
            },
            () = stage.waiting.notified() => {
                db.collection::<Document>("large").drop().await?;
                insert(&db, "large", LARGE, "large").await?;
            }
        }
    };
    let text = error.to_string();
    ensure!(
        text.contains("shop.large") && text.contains("drop"),
        "{text}"
    );
    ensure!(text.contains("3 attempts"), "{text}");
    assert_eq!(error.class(), ErrorClass::Transient);
    Ok(())
}

/// The invariant: every collection has all of its documents or does not exist, and the pair that
/// is renamed has exactly one name.
#[tokio::test(flavor = "multi_thread")]
async fn random_changes_give_a_right_result_or_a_clear_failure() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    let db = client.database("shop");
    insert(&db, "large", LARGE, "large").await?;
    insert(&db, "one", 500, "moving").await?;
    insert(&db, "temp", 300, "temp").await?;
    let stop = tokio_util::sync::CancellationToken::new();
    let changes = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let changing = {
        let (db, stop, changes) = (db.clone(), stop.clone(), changes.clone());
        tokio::spawn(async move {
            let admin = db.client().database("admin");
            let mut random = Random::new(5);
            let mut name = "one";
            while !stop.is_cancelled() {
                if random.below(2) == 0 {
                    let other = if name == "one" { "two" } else { "one" };
                    let (from, to) = (format!("shop.{name}"), format!("shop.{other}"));
                    admin
                        .run_command(doc! {"renameCollection": from, "to": to})
                        .await?;
                    name = other;
                } else {
                    // In one go from nothing to all documents and back.
                    db.collection::<Document>("temp").drop().await?;
                    insert(&db, "making", 300, "temp").await?;
                    let to = doc! {"renameCollection": "shop.making", "to": "shop.temp"};
                    admin.run_command(to).await?;
                }
                changes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let pause = std::time::Duration::from_millis(random.below(400));
                // Spread over the read; nothing waits for it.
                let _ = tokio::time::timeout(pause, stop.cancelled()).await;
            }
            anyhow::Ok(())
        })
    };
    let config = database(&server.uri(), "shop");
    let mut complete = 0;
    // The faster the machine, the fewer changes meet a read: there are as many reads as it takes.
    for run in 0..500 {
        if run >= 15 && changes.load(std::sync::atomic::Ordering::Relaxed) > 10 {
            break;
        }
        let stage = MemoryStage::new();
        match back_up(&config, &stage, small_ranges()).await {
            Ok(read) => {
                complete += 1;
                let manifest = read.manifest();
                let seen = |name: &str| documents(manifest, name);
                ensure!(
                    seen("large") == Some(LARGE as u64),
                    "run {run}: {:?}",
                    seen("large")
                );
                let moving = [seen("one"), seen("two")];
                ensure!(
                    matches!(moving, [Some(500), None] | [None, Some(500)]),
                    "run {run}: {moving:?}"
                );
                ensure!(
                    matches!(seen("temp"), None | Some(300)),
                    "run {run}: {:?}",
                    seen("temp")
                );
            }
            Err(error @ MongodbError::CatalogChanging { .. }) => {
                ensure!(error.to_string().contains("shop."), "{error}");
            }
            Err(error) => bail!("run {run}: {error}"),
        }
    }
    stop.cancel();
    changing.await??;
    let changes = changes.load(std::sync::atomic::Ordering::Relaxed);
    ensure!(complete > 0, "not one run was complete");
    ensure!(changes > 10, "only {changes} changes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_that_loses_a_collection_is_read_again() -> Result<()> {
    let dir = Workdir::new()?;
    let server = Standalone::start(&dir).await?;
    let db = prepare(&server.client().await?).await?;
    let (stage, reading) = begin(&server.uri()).await;
    db.collection::<Document>("large").drop().await?;
    insert(&db, "large", 3, "again").await?;
    stage.open();
    let (_, manifest) = finish(reading.await??);
    assert_eq!(documents(&manifest, "large"), Some(3));
    assert_eq!(documents(&manifest, "small"), Some(SMALL as u64));
    Ok(())
}
