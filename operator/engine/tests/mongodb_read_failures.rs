//! Accounts, servers that are away or go away, nothing to read, cancellation: each is a clear
//! error, and never a success.

mod mongodb_read_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_e2e::Workdir;
use holdfast_e2e::dataset::fill;
use holdfast_e2e::mongod::{Options, ReplicaSet, Standalone};
use holdfast_engine::class::{Classified as _, ErrorClass};
use holdfast_engine::progress::Progress;
use holdfast_engine::source::Stage;
use holdfast_engine::source::mongodb::{MongodbConfig, ReadOptions, read};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb_read_support::{MemoryStage, back_up, database, everything, finish, small_ranges};
use tokio_util::sync::CancellationToken;

async fn with_accounts(dir: &Workdir) -> Result<ReplicaSet> {
    let options = Options {
        auth: true,
        ..Options::default()
    };
    let server = ReplicaSet::start_with(dir, options).await?;
    let client = server.client().await?;
    let admin = client.database("admin");
    for (name, roles) in [
        ("backup", doc! {"role": "backup", "db": "admin"}),
        ("reader", doc! {"role": "read", "db": "shop"}),
    ] {
        let command = doc! {"createUser": name, "pwd": "secret-word", "roles": [roles]};
        admin.run_command(command).await?;
    }
    fill(&client, "shop", "orders", 24 << 20, 3).await?;
    let series = doc! {"create": "weather", "timeseries": {"timeField": "t"}};
    client.database("shop").run_command(series).await?;
    client
        .database("shop")
        .collection::<Document>("weather")
        .insert_one(doc! {"t": mongodb::bson::DateTime::now(), "x": 1})
        .await?;
    Ok(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backup_role_is_enough_and_less_is_named() -> Result<()> {
    let dir = Workdir::new()?;
    let server = with_accounts(&dir).await?;

    let stage = MemoryStage::new();
    let config = everything(&server.uri_as("backup", "secret-word"));
    let (_, manifest) = finish(back_up(&config, &stage, small_ranges()).await?);
    ensure!(manifest.point_in_time, "{:?}", manifest.notes);
    ensure!(manifest.users >= 3, "{} users", manifest.users);
    let orders = manifest.collections.iter().find(|one| one.name == "orders");
    let orders = orders.context("no orders")?;
    ensure!(
        orders
            .segments
            .iter()
            .all(|one| one.first_record_id.is_some())
    );

    let config = database(&server.uri_as("reader", "secret-word"), "shop");
    let error = match back_up(&config, &stage, small_ranges()).await {
        Ok(_) => bail!("the oplog was not needed"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert_eq!(error.reason(), "PermissionDenied", "{text}");
    ensure!(text.contains("backup") && text.contains("oplog"), "{text}");
    assert_eq!(error.class(), ErrorClass::Waiting);

    let config = everything(&server.uri_as("backup", "wrong-word"));
    let error = match back_up(&config, &stage, small_ranges()).await {
        Ok(_) => bail!("a wrong password passed"),
        Err(error) => error,
    };
    assert_eq!(error.reason(), "AuthenticationFailed", "{error}");
    ensure!(!format!("{error} {error:?}").contains("wrong-word"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_read_is_an_error_and_an_empty_collection_is_not() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    let stage = MemoryStage::new();
    // Users and roles are no data, nor is what the server keeps in config.
    let user = doc! {"createUser": "somebody", "pwd": "secret-word", "roles": []};
    client.database("admin").run_command(user).await?;
    let settings = client.database("config").collection::<Document>("settings");
    settings
        .insert_one(doc! {"_id": "mine", "value": 64})
        .await?;
    let error = match back_up(&everything(&server.uri()), &stage, ReadOptions::default()).await {
        Ok(read) => bail!("an empty server passed: {:?}", read.manifest()),
        Err(error) => error,
    };
    assert_eq!(error.reason(), "NothingSelected", "{error}");
    assert_eq!(error.class(), ErrorClass::Waiting);
    ensure!(error.to_string().contains("holds no collection"), "{error}");
    // A collection that is there counts, though it has no documents.
    client.database("stock").create_collection("carts").await?;
    back_up(&everything(&server.uri()), &stage, ReadOptions::default()).await?;

    fill(&client, "shop", "orders", 1 << 20, 3).await?;
    for (include, exclude, named) in [
        (vec!["crm.*"], vec![], "crm.*"),
        (vec!["shop.*", "crm.*"], vec![], "crm.*"),
        (vec!["shop.*"], vec!["shop.orders"], "shop.*"),
    ] {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let config = MongodbConfig {
            include: words(&include),
            exclude: words(&exclude),
            ..everything(&server.uri())
        };
        let error = match back_up(&config, &stage, ReadOptions::default()).await {
            Ok(read) => bail!("{include:?} passed: {:?}", read.manifest()),
            Err(error) => error,
        };
        assert_eq!(error.reason(), "NothingSelected", "{error}");
        ensure!(error.to_string().contains(named), "{error}");
    }
    Ok(())
}

/// Begins to read and stops at the first segment of documents.
async fn begin(
    config: MongodbConfig,
    cancel: &CancellationToken,
) -> (
    Arc<MemoryStage>,
    tokio::task::JoinHandle<Result<(), holdfast_engine::source::mongodb::MongodbError>>,
) {
    let stage = MemoryStage::gated(|segment| segment.len() > 4096);
    let (kept, cancel) = (Arc::clone(&stage), cancel.clone());
    let reading = tokio::spawn(async move {
        let stage: Arc<dyn Stage> = kept;
        let options = ReadOptions::default();
        read(&config, stage, options, Progress::new(), cancel)
            .await
            .map(drop)
    });
    stage.waiting.notified().await;
    (stage, reading)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_in_the_middle_is_a_transient_error() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = ReplicaSet::start(&dir).await?;
    fill(&server.client().await?, "shop", "orders", 40 << 20, 3).await?;
    let begun = begin(everything(&server.uri()), &CancellationToken::new()).await;
    let (stage, reading) = begun;
    server.kill9()?;
    stage.open();
    let limited = tokio::time::timeout(Duration::from_secs(40), reading).await;
    let outcome = limited.context("it waits for ever")??;
    let error = match outcome {
        Ok(()) => bail!("half a collection passed"),
        Err(error) => error,
    };
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    ensure!(error.to_string().contains("127.0.0.1"), "{error}");

    let started = Instant::now();
    let error = match back_up(&everything(&server.uri()), &stage, ReadOptions::default()).await {
        Ok(_) => bail!("a server that is away passed"),
        Err(error) => error,
    };
    assert_eq!(error.reason(), "Unreachable", "{error}");
    ensure!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_that_goes_away_is_a_transient_error() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = Standalone::start(&dir).await?;
    fill(&server.client().await?, "shop", "orders", 40 << 20, 3).await?;
    let begun = begin(everything(&server.uri()), &CancellationToken::new()).await;
    let (stage, reading) = begun;
    server.kill9()?;
    stage.open();
    let limited = tokio::time::timeout(Duration::from_secs(40), reading).await;
    match limited.context("it waits for ever")?? {
        Ok(()) => bail!("half a collection passed"),
        Err(error) => assert_eq!(error.class(), ErrorClass::Transient, "{error}"),
    }
    Ok(())
}

async fn open_cursors(client: &Client) -> Result<i64> {
    let status = client
        .database("admin")
        .run_command(doc! {"serverStatus": 1})
        .await?;
    let open = status
        .get_document("metrics")?
        .get_document("cursor")?
        .get_document("open")?;
    Ok(open.get_i64("noTimeout")?)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_the_read_and_closes_its_cursors() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    fill(&client, "shop", "orders", 40 << 20, 3).await?;
    let cancel = CancellationToken::new();
    let (_stage, reading) = begin(everything(&server.uri()), &cancel).await;
    ensure!(open_cursors(&client).await? > 0, "no cursor is open");
    cancel.cancel();
    match reading.await? {
        Ok(()) => bail!("a cancelled read passed"),
        Err(error) => assert_eq!(error.reason(), "Cancelled"),
    }
    let closed = async {
        while open_cursors(&client).await? > 0 {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), closed)
        .await
        .context("cursors stay open")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_outlasts_history_says_what_to_set() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        extra: vec![
            "--setParameter".into(),
            "minSnapshotHistoryWindowInSeconds=1".into(),
        ],
        ..Options::default()
    };
    let server = ReplicaSet::start_with(&dir, options).await?;
    let client = server.client().await?;
    fill(&client, "shop", "orders", 40 << 20, 3).await?;
    let (stage, reading) = begin(everything(&server.uri()), &CancellationToken::new()).await;
    // History is let go of when newer is written: until the moment is gone.
    let orders = client.database("shop").collection::<Document>("orders");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(12) {
        orders
            .update_many(
                doc! {"_id": {"$exists": true}},
                doc! {"$inc": {"touched": 1}},
            )
            .await?;
    }
    stage.open();
    let error = match reading.await? {
        Ok(()) => bail!("history of one second lasted for twelve"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert_eq!(error.reason(), "SnapshotTooOld", "{text}");
    ensure!(
        text.contains("minSnapshotHistoryWindowInSeconds: 3600"),
        "{text}"
    );
    assert_eq!(error.class(), ErrorClass::Waiting);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_ranges_is_read_with_one_cursor() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        extra: vec!["--setParameter".into(), "enableTestCommands=1".into()],
        ..Options::default()
    };
    let server = ReplicaSet::start_with(&dir, options).await?;
    let client = server.client().await?;
    fill(&client, "shop", "orders", 24 << 20, 3).await?;
    let orders = client.database("shop").collection::<Document>("orders");
    let documents = orders.count_documents(doc! {}).await?;

    // One range after the other: the first waits to be stored while the server learns to refuse.
    let stage = MemoryStage::gated(|segment| segment.len() > 4096);
    let config = database(&server.uri(), "shop");
    let reading = tokio::spawn({
        let stage = Arc::clone(&stage);
        let options = ReadOptions {
            cursors: 1,
            ..small_ranges()
        };
        async move { back_up(&config, &stage, options).await }
    });
    stage.waiting.notified().await;
    // The look for the places of the first range's segments, and the second range.
    let refuse = doc! {
        "configureFailPoint": "failCommand",
        "mode": {"times": 2},
        "data": {"failCommands": ["find"], "errorCode": 9, "namespace": "shop.orders"},
    };
    client.database("admin").run_command(refuse).await?;
    stage.open();
    let (files, manifest) = finish(reading.await??);
    let read = &manifest.collections[0];
    assert_eq!(read.documents, documents);
    // One cursor is not asked for places: that is how it shows.
    ensure!(
        read.segments
            .iter()
            .all(|one| one.first_record_id.is_none()),
        "ranges were not refused"
    );
    let data = files
        .iter()
        .find(|file| file.path.ends_with("/shop/orders.bson"));
    let bytes = stage.concat(&data.context("no data")?.parts);
    assert_eq!(bytes.len() as u64, read.bytes);
    Ok(())
}
