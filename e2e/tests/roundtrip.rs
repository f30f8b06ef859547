//! There and back: what a MongoDB holds is backed up and restored, by Holdfast
//! and by stock tools alone, and is equal to what it was.

#[path = "support/asking.rs"]
mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::compare::{Scope, Snapshot};
use holdfast_e2e::dataset::Dataset;
use holdfast_e2e::mongod::{self, ReplicaSet};
use holdfast_e2e::{Workdir, Workspace, command, shared, tools};
use mongodb::Client;
use mongodb::bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use serde_json::Value;
use support::{back_up, contents, figure, id, only, restore, shop};

/// What a backup of a large collection may need of memory.
const MEMORY: u64 = 300 << 20;

#[tokio::test]
async fn the_dataset_made_to_hurt_comes_back_with_holdfast_and_without_it() -> Result<()> {
    let dir = Workdir::new()?;
    let source = ReplicaSet::start(&dir).await?;
    let target = ReplicaSet::start(&dir).await?;
    let (client, restored) = (source.client().await?, target.client().await?);
    let dataset = if support::long() {
        Dataset::show()
    } else {
        Dataset::small()
    };
    dataset.load(&client).await?;
    let original = Snapshot::take(&client, &Scope::all()).await?;

    let workspace = Workspace::new()?.with_limit(Duration::from_secs(3_600));
    workspace.local_destination("disk")?;
    workspace.mongodb_policy("shop", &source.uri(), &["disk"])?;
    let (_, peak) = support::peak_memory(&workspace, &["backup", "shop"]).await?;
    eprintln!("backup: at most {} MiB of memory", peak >> 20);
    ensure!(
        peak > 0 && (!support::long() || peak < MEMORY),
        "the backup held {} MiB of memory; {} MiB are allowed",
        peak >> 20,
        MEMORY >> 20
    );
    let listed = support::backups(&workspace).await?;
    let [backup] = listed.as_slice() else {
        anyhow::bail!("one backup was made and {} are listed", listed.len());
    };
    // Capped collections cannot be read at a point in time; the backup owns up to it.
    ensure!(backup["status"]["pointInTime"] == false, "{backup:#}");
    ensure!(backup["status"]["clusterTime"].is_string(), "{backup:#}");
    ensure!(backup["status"]["source"] == "mongodb", "{backup:#}");
    ensure!(
        figure(backup, "documents")? >= original.documents(),
        "{} documents were there: {backup:#}",
        original.documents()
    );

    // Holdfast brings everything back.
    let first = id(backup)?;
    let brought = restore(&workspace, &target.uri(), &["latest", "--policy", "shop"]).await?;
    ensure!(brought["status"]["backup"] == first, "{brought:#}");
    original
        .same_as(&Snapshot::take(&restored, &Scope::all()).await?)
        .context("what Holdfast restored")?;
    zero_timestamps(&restored, &dataset).await?;

    // Nothing changed: a second backup costs next to nothing.
    let repository = workspace.repository("disk");
    let before = size(&repository)?;
    let second = back_up(&workspace, "shop").await?;
    let (read, added) = (
        figure(&second, "readBytes")?,
        figure(&second, "addedBytes")?,
    );
    let grown = size(&repository)?.saturating_sub(before);
    eprintln!("second backup: read {read}, added {added}, the repository grew by {grown} bytes");
    ensure!(
        read >= figure(backup, "readBytes")? / 2 && added < read / 50 && grown < read / 50,
        "a backup of unchanged data read {read} bytes, added {added}, and the repository grew by {grown}"
    );
    ensure!(support::backups(&workspace).await?.len() == 2);

    // Stock tools bring it back without Holdfast.
    mongod::wipe(&restored).await?;
    let restic = workspace.restic("disk");
    restic.check().await?;
    let out = dir.fresh("out")?;
    restic.restore(&first, &out).await?;
    let manifest = std::fs::read_to_string(out.join("holdfast/manifest.json"))?;
    ensure!(
        manifest.contains(" is capped: it cannot be read at a point in time"),
        "the manifest does not say what is not of one moment"
    );
    tools::mongorestore(
        &target.uri(),
        &out.join("mongodb/dump"),
        &["--bypassDocumentValidation"],
    )
    .await?;
    let beyond = || dataset.beyond_stock().into_iter().map(|(name, _)| name);
    let scope = Scope::all().any_option_order().without(beyond());
    let (expected, found) = tokio::try_join!(
        Snapshot::take(&client, &scope),
        Snapshot::take(&restored, &scope)
    )?;
    expected
        .same_as(&found)
        .context("what stock restic and mongorestore restored")
}

/// A top-level `Timestamp(0, 0)` is one that servers replace when it is inserted.
async fn zero_timestamps(client: &Client, dataset: &Dataset) -> Result<()> {
    use futures::TryStreamExt;
    let documents: Vec<RawDocumentBuf> = client
        .database(&dataset.main())
        .collection("empty_timestamps")
        .find(doc! {})
        .await?
        .try_collect()
        .await?;
    let zero = Bson::Timestamp(Timestamp {
        time: 0,
        increment: 0,
    });
    let kept = documents
        .iter()
        .filter_map(|raw| Document::try_from(raw.as_ref()).ok())
        .filter(|document| document.values().any(|value| *value == zero))
        .count();
    ensure!(
        kept > 0,
        "no Timestamp(0, 0) survived in {} documents",
        documents.len()
    );
    Ok(())
}

fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(sum)
}

/// A workspace with one backup of a small shop in a database of its own.
struct Shop {
    workspace: Workspace,
    database: String,
    client: Client,
    target_uri: String,
    target: Client,
    original: Snapshot,
}

impl Shop {
    async fn backed_up() -> Result<Self> {
        let source = shared::replica_set().await?;
        let target = shared::target().await?;
        let client = source.client().await?;
        let database = shared::unique("shop");
        shop(&client, &database, 1 << 20, 1).await?;
        let workspace = Workspace::new()?;
        workspace.local_destination("disk")?;
        workspace.mongodb_policy_with("shop", &source.uri(), &["disk"], &only(&database), "")?;
        back_up(&workspace, "shop").await?;
        Ok(Self {
            original: contents(&client, &database).await?,
            target: target.client().await?,
            target_uri: target.uri(),
            workspace,
            database,
            client,
        })
    }

    async fn restore(&self, more: &[&str]) -> Result<Value> {
        let args = [&["latest", "--policy", "shop"], more].concat();
        restore(&self.workspace, &self.target_uri, &args).await
    }

    /// The same, whatever its exit code.
    async fn try_restore(&self, more: &[&str]) -> Result<command::Output> {
        let file = support::uri_file(&self.workspace, &self.target_uri)?;
        let args = ["restore", "latest", "--policy", "shop"]
            .into_iter()
            .chain(["--to-mongodb-uri-file", &file])
            .chain(more.iter().copied());
        self.workspace.holdfast(args).await
    }

    async fn restored(&self) -> Result<Snapshot> {
        contents(&self.target, &self.database).await
    }

    async fn drop(self) -> Result<()> {
        self.target.database(&self.database).drop().await?;
        self.client.database(&self.database).drop().await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() -> Result<()> {
    let shop = Shop::backed_up().await?;
    let database = &shop.database;
    let output = shop.try_restore(&["--dry-run", "-o", "json"]).await?.ok()?;
    let told = output.json()?;
    let plan = told["status"]["plan"].as_array().context("no plan")?;
    let mut steps: Vec<(&str, &str)> = plan
        .iter()
        .filter_map(|step| Some((step["to"].as_str()?, step["action"].as_str()?)))
        .collect();
    steps.sort_unstable();
    let names = ["customers", "orders", "paid"].map(|name| format!("{database}.{name}"));
    let expected: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "create")).collect();
    ensure!(steps == expected, "{told:#}");
    ensure!(plan[0]["documents"] == 500, "{told:#}");
    let there = shop.target.list_database_names().await?;
    ensure!(!there.contains(database), "a dry run made {database}");
    let runs = support::history(&shop.workspace).await?;
    ensure!(
        runs.iter().all(|run| run["spec"]["action"] != "restore"),
        "a dry run is in the history: {runs:#?}"
    );

    // What is in the way is told too, and stays.
    shop.restore(&["--include", &names[1]]).await?;
    let before = shop.restored().await?;
    let output = shop.try_restore(&["--dry-run"]).await?.ok()?;
    ensure!(
        output.stdout.contains("CONFLICT") && output.stdout.contains("nothing was changed"),
        "{}",
        output.stdout
    );
    let output = shop
        .try_restore(&["--dry-run", "--on-conflict", "Drop"])
        .await?
        .ok()?;
    ensure!(output.stdout.contains("drop"), "{}", output.stdout);
    before.same_as(&shop.restored().await?)?;
    shop.drop().await
}

#[tokio::test]
async fn what_is_in_the_way_is_refused_replaced_or_kept() -> Result<()> {
    let shop = Shop::backed_up().await?;
    let database = &shop.database;
    let there = shop.target.database(database);
    let customers = there.collection::<Document>("customers");

    // Only what is asked for.
    shop.restore(&["--include", &format!("{database}.customers")])
        .await?;
    let names = there.list_collection_names().await?;
    ensure!(names == ["customers"], "{names:?}");

    // Fail, the default: refused by name, with what to do, and nothing written.
    let output = shop.try_restore(&[]).await?.code_is(1)?;
    for part in [
        &format!("{database}.customers"),
        "nothing was written",
        "Drop",
        "Merge",
    ] {
        ensure!(
            output.stderr.contains(part),
            "no {part:?} in {}",
            output.stderr
        );
    }
    let names = there.list_collection_names().await?;
    ensure!(
        names == ["customers"],
        "a refused restore made something: {names:?}"
    );

    // Merge: what is there stays, what is missing is added.
    customers
        .update_one(doc! { "_id": 1 }, doc! { "$set": { "name": "changed" } })
        .await?;
    customers.delete_one(doc! { "_id": 2 }).await?;
    customers
        .insert_one(doc! { "_id": "mine", "name": "mine" })
        .await?;
    let args = ["latest", "--policy", "shop", "--on-conflict", "Merge"];
    support::restore_unverified(&shop.workspace, &shop.target_uri, &args).await?;
    for (id, name) in [
        (Bson::from(1), "changed"),
        (Bson::from(2), "Customer 2"),
        (Bson::from("mine"), "mine"),
    ] {
        let found = customers
            .find_one(doc! { "_id": &id })
            .await?
            .with_context(|| format!("{id} is gone"))?;
        ensure!(found.get_str("name")? == name, "{found}");
    }
    let count = customers.count_documents(doc! {}).await?;
    ensure!(count == 501, "{count} customers");

    // Drop: exactly what was backed up, and what the backup knows nothing of stays.
    there
        .collection::<Document>("other")
        .insert_one(doc! { "a": 1 })
        .await?;
    shop.restore(&["--on-conflict", "Drop"]).await?;
    let found = shop.original.differences(&shop.restored().await?);
    ensure!(
        found.len() == 1 && found[0].contains(".other") && found[0].contains("should not be there"),
        "{found:#?}"
    );
    there.collection::<Document>("other").drop().await?;

    // To where it came from, after an accident there.
    shop.client.database(database).drop().await?;
    let args = ["restore", "latest", "--policy", "shop", "-o", "json"];
    let brought = shop.workspace.holdfast(args).await?.ok()?.json()?;
    ensure!(brought["status"]["verified"] == "Verified", "{brought:#}");
    shop.original
        .same_as(&contents(&shop.client, database).await?)?;
    shop.drop().await
}

#[tokio::test]
async fn namespaces_get_other_names() -> Result<()> {
    let shop = Shop::backed_up().await?;
    let database = &shop.database;
    let copy = shared::unique("copy");
    let (from, to) = (format!("{database}.*"), format!("{copy}.*"));
    shop.restore(&["--rename", &format!("{from}={to}")]).await?;
    let expected = shop.original.renamed(&[(&from, &to)]);
    expected.same_as(&contents(&shop.target, &copy).await?)?;
    let databases = shop.target.list_database_names().await?;
    ensure!(
        !databases.contains(database),
        "the original name was used too"
    );

    // One collection, beside the others.
    let (orders, old) = (format!("{database}.orders"), format!("{copy}.orders_old"));
    shop.restore(&["--include", &orders, "--rename", &format!("{orders}={old}")])
        .await?;
    let found = contents(&shop.target, &copy).await?;
    let (expected, found) = (
        &shop.original.collections[&orders],
        found
            .collections
            .get(&old)
            .with_context(|| format!("{old} is missing"))?,
    );
    ensure!(
        expected.digest == found.digest && expected.indexes == found.indexes,
        "{found:?}"
    );

    // What cannot be meant is refused before anything is done.
    let output = shop
        .try_restore(&["--rename", "nonsense"])
        .await?
        .code_is(2)?;
    ensure!(
        output.stderr.contains("--rename nonsense") && output.stderr.contains('='),
        "{}",
        output.stderr
    );
    let output = shop
        .try_restore(&["--rename", "nobody.*=anybody.*"])
        .await?
        .code_is(1)?;
    ensure!(output.stderr.contains("nobody.*"), "{}", output.stderr);
    let output = shop
        .try_restore(&["--include", "nobody.nothing"])
        .await?
        .code_is(1)?;
    ensure!(
        output.stderr.contains("nobody.nothing") && output.stderr.contains(database.as_str()),
        "{}",
        output.stderr
    );
    let databases = shop.target.list_database_names().await?;
    ensure!(
        !databases.contains(database),
        "a refused restore wrote something"
    );
    shop.target.database(&copy).drop().await?;
    shop.drop().await
}

#[tokio::test]
async fn exports_are_what_stock_mongorestore_takes() -> Result<()> {
    let source = shared::replica_set().await?;
    let target = shared::target().await?;
    let (client, restored) = (source.client().await?, target.client().await?);
    let dataset = Dataset {
        users: false,
        ..Dataset::small().named("exported")
    };
    dataset.load(&client).await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    let include: Vec<String> = dataset
        .databases()
        .iter()
        .map(|name| format!("\"{name}.*\""))
        .chain([format!("\"admin.{}\"", dataset.admin_collection())])
        .collect();
    workspace.mongodb_policy_with(
        "shop",
        &source.uri(),
        &["disk"],
        &format!("include: [{}]\nusersAndRoles: false", include.join(", ")),
        "",
    )?;
    let backup = id(&back_up(&workspace, "shop").await?)?;
    let original = Snapshot::take(&client, &dataset.stock_scope()).await?;

    // A directory; the id may be shortened.
    let dir = workspace.join("exported");
    let folder = dir.to_string_lossy().into_owned();
    let args = ["export", &backup[..12], "--dir", &folder];
    workspace.holdfast(args).await?.ok()?;
    let dump = if dir.join("mongodb/dump").is_dir() {
        dir.join("mongodb/dump")
    } else {
        dir
    };
    let lenient = ["--bypassDocumentValidation"];
    tools::mongorestore(&target.uri(), &dump, &lenient).await?;
    original
        .same_as(&Snapshot::take(&restored, &dataset.stock_scope()).await?)
        .context("from the directory")?;
    dataset.drop(&restored).await?;

    // An archive.
    let archive = workspace.join("shop.archive");
    let file = archive.to_string_lossy().into_owned();
    let args = ["export", "latest", "--policy", "shop", "--archive", &file];
    workspace.holdfast(args).await?.ok()?;
    mongorestore_archive(&target.uri(), &archive).await?;
    original
        .same_as(&Snapshot::take(&restored, &dataset.stock_scope()).await?)
        .context("from the archive")?;
    dataset.drop(&restored).await?;
    dataset.drop(&client).await?;

    // One that is there is not overwritten.
    let before = std::fs::metadata(&archive)?.len();
    let output = workspace.holdfast(args).await?.code_is(2)?;
    ensure!(
        output.stderr.contains("shop.archive") && output.stderr.contains("does not exist yet"),
        "{}",
        output.stderr
    );
    ensure!(std::fs::metadata(&archive)?.len() == before);

    // The same through a pipe.
    let piped = workspace.join("piped.archive");
    let args = ["export", "latest", "--policy", "shop", "--archive", "-"];
    let status = workspace
        .command(args)?
        .stdout(std::fs::File::create(&piped)?)
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "export --archive -: {status}");
    ensure!(
        std::fs::metadata(&piped)?.len() == before,
        "the archive in a file has {before} bytes, that through a pipe {}",
        std::fs::metadata(&piped)?.len()
    );
    Ok(())
}

async fn mongorestore_archive(uri: &str, archive: &Path) -> Result<()> {
    let mut restore = tokio::process::Command::new(command::find("mongorestore")?);
    restore
        .args(["--uri", uri, "--bypassDocumentValidation"])
        .arg(format!("--archive={}", archive.display()));
    let output = command::run(restore, None, Duration::from_secs(900))
        .await?
        .ok()?;
    ensure!(
        output.stderr.contains(" 0 document(s) failed to restore"),
        "{}",
        output.stderr
    );
    Ok(())
}

#[tokio::test]
async fn a_standalone_server_is_backed_up_and_the_backup_says_what_it_is() -> Result<()> {
    let source = shared::standalone().await?;
    let target = shared::target().await?;
    let (client, restored) = (source.client().await?, target.client().await?);
    let database = shared::unique("alone");
    shop(&client, &database, 1 << 20, 2).await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    workspace.mongodb_policy_with("shop", &source.uri(), &["disk"], &only(&database), "")?;
    let backup = back_up(&workspace, "shop").await?;
    ensure!(backup["status"]["pointInTime"] == false, "{backup:#}");
    ensure!(backup["status"]["clusterTime"].is_null(), "{backup:#}");
    restore(&workspace, &target.uri(), &["latest", "--policy", "shop"]).await?;
    let original = contents(&client, &database).await?;
    original.same_as(&contents(&restored, &database).await?)?;
    restored.database(&database).drop().await?;
    Ok(())
}
