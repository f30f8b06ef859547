//! The harness itself: every server starts, answers and is gone afterwards;
//! the dataset loads, and what stock tools bring back of it is equal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, ObjectLockMode, ServerSideEncryption,
};
use holdfast_crds::manifest;
use holdfast_e2e::bank::Bank;
use holdfast_e2e::compare::{Scope, Snapshot, differences};
use holdfast_e2e::dataset::{self, Dataset};
use holdfast_e2e::holdfast::http_get;
use holdfast_e2e::mongod::{self, Options, ReplicaSet, Standalone};
use holdfast_e2e::process::{Signal, exists};
use holdfast_e2e::proxy::{Mood, Proxy};
use holdfast_e2e::s3::S3;
use holdfast_e2e::skips::skip;
use holdfast_e2e::ssh_agent::SshAgent;
use holdfast_e2e::sshd::{self, Sshd};
use holdfast_e2e::tools::{self, Restic};
use holdfast_e2e::{Workdir, Workspace, command, ports, shared};
use mongodb::bson::{Document, doc};

#[tokio::test]
async fn a_replica_set_answers_survives_a_kill_and_is_gone_after_drop() -> Result<()> {
    let dir = Workdir::new()?;
    let mut set = ReplicaSet::start(&dir).await?;
    let client = set.client().await?;
    let collection = client.database("shop").collection::<Document>("orders");
    collection.insert_one(doc! { "_id": 1 }).await?;
    set.kill9()?;
    set.restart().await?;
    let client = set.client().await?;
    let found = client
        .database("shop")
        .collection::<Document>("orders")
        .count_documents(doc! {})
        .await?;
    ensure!(found == 1, "{found} documents after the restart");
    let pids = set.pids();
    ensure!(pids.len() == 1 && pids.iter().all(|pid| exists(*pid)));
    drop(set);
    ensure!(
        !pids.iter().any(|pid| exists(*pid)),
        "mongod outlived its guard"
    );
    let path = dir.path().to_owned();
    drop(dir);
    ensure!(!path.exists(), "{} is still there", path.display());
    Ok(())
}

#[tokio::test]
async fn a_replica_set_of_three_elects_another_primary() -> Result<()> {
    let dir = Workdir::new()?;
    let mut set = ReplicaSet::start_with(
        &dir,
        Options {
            nodes: 3,
            ..Options::default()
        },
    )
    .await?;
    let client = set.client().await?;
    let collection = client.database("shop").collection::<Document>("orders");
    collection.insert_one(doc! { "_id": 1 }).await?;
    set.kill9_node(0)?;
    collection
        .insert_one(doc! { "_id": 2 })
        .await
        .context("writing after the failover")?;
    set.restart().await?;
    Ok(())
}

#[tokio::test]
async fn passwords_are_asked_for() -> Result<()> {
    let dir = Workdir::new()?;
    let set = ReplicaSet::start_with(
        &dir,
        Options {
            auth: true,
            ..Options::default()
        },
    )
    .await?;
    let client = set.client().await?;
    client
        .database("shop")
        .collection::<Document>("orders")
        .insert_one(doc! { "_id": 1 })
        .await?;
    let nobody = mongod::connect(&format!(
        "mongodb://{}/?replicaSet={}",
        set.hosts(),
        set.name()
    ))
    .await?;
    let refused = nobody
        .database("shop")
        .collection::<Document>("orders")
        .find_one(doc! {})
        .await;
    ensure!(refused.is_err(), "reading without a password worked");

    let standalone = Standalone::start_with(
        &dir,
        Options {
            auth: true,
            ..Options::default()
        },
    )
    .await?;
    standalone
        .client()
        .await?
        .database("shop")
        .collection::<Document>("orders")
        .insert_one(doc! { "_id": 1 })
        .await?;
    let pid = standalone.pid().context("no process id")?;
    drop(standalone);
    ensure!(!exists(pid));
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        extra: vec!["--no-such-option".into()],
        ..Options::default()
    };
    let error = match Standalone::start_with(&dir, options).await {
        Ok(_) => anyhow::bail!("it started"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(
        error.contains("no-such-option") && error.contains("its log ends with"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn ports_are_never_handed_out_twice() -> Result<()> {
    let mut all = (0..200)
        .map(|_| ports::free())
        .collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    all.dedup();
    ensure!(all.len() == 200);
    Ok(())
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_and_one_that_fails_says_what_it_printed() -> Result<()> {
    let mut hangs = tokio::process::Command::new("sleep");
    hangs.arg("60");
    let error = command::run(hangs, None, Duration::from_millis(100))
        .await
        .map(drop);
    ensure!(error.is_err_and(|error| error.to_string().contains("not finished")));
    let mut fails = tokio::process::Command::new("sh");
    fails.args(["-c", "cat; echo the reason >&2; exit 3"]);
    let output = command::run(fails, Some(b"read back"), Duration::from_secs(10)).await?;
    ensure!(
        output.stdout == "read back" && output.code == Some(3),
        "{output:?}"
    );
    ensure!(
        output
            .ok()
            .is_err_and(|error| error.to_string().contains("the reason"))
    );
    Ok(())
}

#[tokio::test]
async fn sshd_takes_keys_and_notices_a_swapped_host_key() -> Result<()> {
    let dir = Workdir::new()?;
    let mut sshd = Sshd::start(&dir).await?;
    // Stock restic over sftp: the subsystem, the key and the host key line work.
    let restic = Restic::sftp(&sshd, &sshd.files().join("repository"), "secret")?;
    restic.init().await?;
    restic.backup(&[&sshd.key()]).await?;
    restic.check().await?;
    ensure!(restic.snapshots().await?.len() == 1);

    ensure!(ssh(&sshd, &sshd.rsa_key(), None).await?.code == Some(0));
    ensure!(
        ssh(&sshd, &sshd.encrypted_key(), None).await?.code != Some(0),
        "the key is not encrypted"
    );
    let agent = SshAgent::start(&dir, &sshd.key()).await?;
    ensure!(
        ssh(&sshd, &dir.join("no such key"), Some(&agent))
            .await?
            .code
            == Some(0)
    );
    let agent_pid = agent.pid();
    drop(agent);
    ensure!(!exists(agent_pid));

    let before = sshd.host_key()?;
    let known = sshd.known_hosts_line()?;
    sshd.swap_host_key().await?;
    ensure!(sshd.host_key()? != before && before.starts_with("ssh-ed25519 "));
    std::fs::write(dir.join("known"), known + "\n")?;
    let mut ssh = tokio::process::Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-p",
        &sshd.port().to_string(),
        "-o",
        "BatchMode=yes",
        "-i",
    ])
    .arg(sshd.key());
    ssh.arg("-o").arg(format!(
        "UserKnownHostsFile={}",
        dir.join("known").display()
    ));
    ssh.arg(format!("{}@{}", sshd.user(), sshd.host()))
        .arg("true");
    let output = command::run(ssh, None, Duration::from_secs(20)).await?;
    ensure!(output.stderr.contains("HAS CHANGED"), "{}", output.said());

    let pid = sshd.pid().context("no process id")?;
    drop(sshd);
    ensure!(!exists(pid));
    Ok(())
}

async fn ssh(
    sshd: &Sshd,
    key: &std::path::Path,
    agent: Option<&SshAgent>,
) -> Result<holdfast_e2e::Output> {
    let mut ssh = tokio::process::Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-p",
        &sshd.port().to_string(),
        "-o",
        "BatchMode=yes",
    ]);
    ssh.arg("-o").arg(format!(
        "UserKnownHostsFile={}",
        sshd.known_hosts()?.display()
    ));
    match agent {
        Some(agent) => ssh.env("SSH_AUTH_SOCK", agent.socket()),
        None => ssh
            .env_remove("SSH_AUTH_SOCK")
            .args(["-o", "IdentitiesOnly=yes", "-i"])
            .arg(key),
    };
    ssh.arg(format!("{}@{}", sshd.user(), sshd.host()))
        .arg("true");
    command::run(ssh, None, Duration::from_secs(20)).await
}

#[tokio::test]
async fn sshd_takes_a_password() -> Result<()> {
    let dir = Workdir::new()?;
    if std::fs::read("/etc/shadow").is_err() {
        skip(
            "sshd_takes_a_password",
            "only root can give sshd a password of its own",
        );
        return Ok(());
    }
    let sshd = Sshd::start_with(
        &dir,
        sshd::Options {
            password: true,
            ..sshd::Options::default()
        },
    )
    .await?;
    let ask = dir.join("ask");
    std::fs::write(&ask, format!("#!/bin/sh\necho '{}'\n", sshd::PASSWORD))?;
    std::fs::set_permissions(&ask, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let mut ssh = tokio::process::Command::new("ssh");
    ssh.args([
        "-F",
        "none",
        "-p",
        &sshd.port().to_string(),
        "-o",
        "PubkeyAuthentication=no",
    ]);
    ssh.arg("-o").arg(format!(
        "UserKnownHostsFile={}",
        sshd.known_hosts()?.display()
    ));
    ssh.arg(format!("{}@{}", sshd.user(), sshd.host()))
        .arg("true");
    ssh.env("SSH_ASKPASS", &ask)
        .env("SSH_ASKPASS_REQUIRE", "force");
    command::run(ssh, None, Duration::from_secs(20))
        .await?
        .ok()
        .context(sshd.log())?;
    Ok(())
}

#[tokio::test]
async fn s3_lists_ranges_multipart_conditions_and_locks() -> Result<()> {
    let dir = Workdir::new()?;
    let mut s3 = S3::start(&dir).await?;
    s3.create_bucket("plain").await?;
    let client = s3.client();
    for number in 0..25 {
        let key = format!("data/{:02x}/{number}", number % 3);
        client
            .put_object()
            .bucket("plain")
            .key(key)
            .body(ByteStream::from_static(b"0123456789"))
            .send()
            .await?;
    }
    let mut pages = client
        .list_objects_v2()
        .bucket("plain")
        .prefix("data/")
        .max_keys(10)
        .into_paginator()
        .send();
    let mut listed = 0;
    while let Some(page) = pages.next().await {
        listed += page?.contents().len();
    }
    ensure!(listed == 25, "{listed} objects listed");
    let part = client
        .get_object()
        .bucket("plain")
        .key("data/00/0")
        .range("bytes=2-4")
        .send()
        .await?;
    ensure!(part.body.collect().await?.into_bytes().as_ref() == b"234");

    let again = client
        .put_object()
        .bucket("plain")
        .key("data/00/0")
        .if_none_match("*");
    let refused = again.body(ByteStream::from_static(b"x")).send().await;
    let code = refused
        .err()
        .and_then(|error| error.raw_response().map(|answer| answer.status().as_u16()));
    ensure!(
        code == Some(412),
        "a conditional put over an object: {code:?}"
    );
    let missing = client
        .get_object()
        .bucket("plain")
        .key("not there")
        .send()
        .await;
    ensure!(missing.is_err_and(|error| {
        error
            .as_service_error()
            .is_some_and(|error| error.is_no_such_key())
    }));
    let missing = client
        .list_objects_v2()
        .bucket("no-such-bucket")
        .send()
        .await;
    ensure!(missing.is_err_and(|error| {
        error
            .as_service_error()
            .is_some_and(|error| error.is_no_such_bucket())
    }));

    let upload = client
        .create_multipart_upload()
        .bucket("plain")
        .key("large")
        .send()
        .await?;
    let id = upload.upload_id().context("no upload id")?;
    let mut parts = Vec::new();
    for number in 1..=3 {
        let body = ByteStream::from(vec![u8::try_from(number)?; 5 << 20]);
        let sent = client
            .upload_part()
            .bucket("plain")
            .key("large")
            .upload_id(id)
            .part_number(number)
            .body(body)
            .send()
            .await?;
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(sent.e_tag)
                .build(),
        );
    }
    let parts = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    client
        .complete_multipart_upload()
        .bucket("plain")
        .key("large")
        .upload_id(id)
        .multipart_upload(parts)
        .send()
        .await?;
    let large = client
        .head_object()
        .bucket("plain")
        .key("large")
        .send()
        .await?;
    ensure!(large.content_length() == Some(15 << 20));

    s3.create_user("stranger", "stranger-secret").await?;
    let refused = s3
        .client_as("stranger", "stranger-secret")
        .list_objects_v2()
        .bucket("plain")
        .send()
        .await;
    let code = refused
        .err()
        .and_then(|error| error.raw_response().map(|answer| answer.status().as_u16()));
    ensure!(code == Some(403), "a stranger's listing: {code:?}");

    s3.create_locked_bucket("locked").await?;
    let until = std::time::SystemTime::now() + Duration::from_secs(3600);
    let put = client
        .put_object()
        .bucket("locked")
        .key("kept")
        .body(ByteStream::from_static(b"kept"))
        .object_lock_mode(ObjectLockMode::Compliance)
        .object_lock_retain_until_date(DateTime::from(until))
        .send()
        .await?;
    let version = put
        .version_id()
        .context("no version id: versioning is off")?
        .to_owned();
    // Not get_object_retention: the root element of versitygw's answer is one
    // that the SDK does not expect.
    let head = client
        .head_object()
        .bucket("locked")
        .key("kept")
        .send()
        .await?;
    ensure!(head.object_lock_mode() == Some(&ObjectLockMode::Compliance));
    ensure!(head.object_lock_retain_until_date().is_some());
    let delete = client
        .delete_object()
        .bucket("locked")
        .key("kept")
        .version_id(&version)
        .send()
        .await;
    ensure!(delete.is_err(), "a locked version was deleted");
    client
        .delete_object()
        .bucket("locked")
        .key("kept")
        .send()
        .await
        .context("a delete marker")?;
    let versions = client
        .list_object_versions()
        .bucket("locked")
        .send()
        .await?;
    ensure!(versions.versions().len() == 1 && versions.delete_markers().len() == 1);
    let old = client
        .get_object()
        .bucket("locked")
        .key("kept")
        .version_id(&version)
        .send()
        .await?;
    ensure!(old.body.collect().await?.into_bytes().as_ref() == b"kept");
    ensure!(put.server_side_encryption() != Some(&ServerSideEncryption::AwsKms));

    let restic = Restic::s3(&s3, "plain", "repository", "secret");
    restic.init().await?;
    restic.backup(&[&s3.bucket_dir("locked")]).await?;
    s3.restart().await?;
    restic.check().await?;

    let pid = s3.pid().context("no process id")?;
    s3.signal(Signal::Stop)?;
    drop(s3);
    ensure!(!exists(pid));
    Ok(())
}

#[tokio::test]
async fn the_dataset_survives_stock_dump_and_restore() -> Result<()> {
    let dataset = Dataset::of_this_run();
    let source = shared::replica_set().await?;
    let client = source.client().await?;
    let started = std::time::Instant::now();
    dataset.load(&client).await?;
    eprintln!("loaded in {:.1} s", started.elapsed().as_secs_f64());

    let dir = Workdir::new()?;
    let started = std::time::Instant::now();
    tools::mongodump(&source.uri(), &dir.join("dump"), &[]).await?;
    eprintln!("dumped in {:.1} s", started.elapsed().as_secs_f64());
    let target = shared::target().await?;
    let started = std::time::Instant::now();
    tools::mongorestore(
        &target.uri(),
        &dir.join("dump"),
        &["--bypassDocumentValidation"],
    )
    .await?;
    eprintln!("restored in {:.1} s", started.elapsed().as_secs_f64());

    let scope = dataset.stock_scope();
    let restored = target.client().await?;
    let started = std::time::Instant::now();
    let found = differences(&client, &restored, &scope).await?;
    eprintln!("compared in {:.1} s", started.elapsed().as_secs_f64());
    ensure!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found.join("\n")
    );

    // The comparison is not blind: each of these must be seen.
    let before = Snapshot::take(&restored, &scope).await?;
    let main = restored.database(&dataset.main());
    main.collection::<Document>("one")
        .update_one(doc! {}, doc! { "$set": { "new": 1 } })
        .await?;
    main.collection::<Document>("mixed_ids")
        .delete_one(doc! { "_id": 7 })
        .await?;
    main.run_command(doc! { "dropIndexes": "indexed", "index": "hidden" })
        .await?;
    main.run_command(doc! { "collMod": "validated", "validationLevel": "moderate" })
        .await?;
    main.collection::<Document>("view").drop().await?;
    main.create_collection("one too many").await?;
    main.run_command(doc! { "dropUser": format!("{}_app", dataset.main()) })
        .await?;
    let found = before.differences(&Snapshot::take(&restored, &scope).await?);
    ensure!(
        found.len() == 7,
        "{} differences:\n{}",
        found.len(),
        found.join("\n")
    );

    // What is said to be beyond the stock tools really is.
    let found = differences(&client, &restored, &dataset.scope())
        .await?
        .join("\n");
    for (namespace, reason) in dataset.beyond_stock() {
        if reason.starts_with("now and then") {
            continue;
        }
        ensure!(
            found.contains(&format!("{namespace:?}")),
            "stock tools manage {namespace} ({reason})"
        );
    }
    dataset.drop(&client).await?;
    mongod::wipe(&restored).await?;
    let left = Snapshot::take(&restored, &Scope::all()).await?;
    ensure!(
        left.collections.is_empty() && left.users.is_empty() && left.roles.is_empty(),
        "{left:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_same_seed_gives_the_same_data() -> Result<()> {
    let client = shared::replica_set().await?.client().await?;
    let mut snapshots = Vec::new();
    for name in ["first", "second"] {
        let dataset = Dataset {
            users: false,
            ..Dataset::small().named(name)
        };
        dataset.load(&client).await?;
        let main = dataset.main();
        let databases = dataset.databases();
        // A time series' buckets are made, and named, by the server.
        let without = ["weather", "ticks"].map(|name| format!("{main}.{name}"));
        let snapshot =
            Snapshot::take(&client, &Scope::databases(databases).without(without)).await?;
        dataset.drop(&client).await?;
        snapshots.push(snapshot);
    }
    let pairs = ["", "_names", "_many", "_big", "-données-100%"]
        .map(|suffix| (format!("first{suffix}.*"), format!("second{suffix}.*")));
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(from, to)| (from.as_str(), to.as_str()))
        .collect();
    snapshots[0].renamed(&pairs).same_as(&snapshots[1])
}

#[tokio::test]
async fn fill_gives_about_what_was_asked_for() -> Result<()> {
    let client = shared::replica_set().await?.client().await?;
    let name = shared::unique("fill");
    let count = dataset::fill(&client, &name, "much", 8 << 20, 1).await?;
    let stats = client
        .database(&name)
        .run_command(doc! { "collStats": "much" })
        .await?;
    let size = stats
        .get("size")
        .and_then(|size| size.as_i64().or(size.as_i32().map(i64::from)))
        .unwrap_or(0);
    ensure!(
        (8 << 20..10 << 20).contains(&size) && count > 1_000,
        "{size} bytes, {count} documents"
    );
    client.database(&name).drop().await?;
    Ok(())
}

#[tokio::test]
async fn the_bank_keeps_its_invariants_and_their_check_sees_a_breach() -> Result<()> {
    let client = shared::replica_set().await?.client().await?;
    let name = shared::unique("bank");
    let bank = Bank::create(&client, &name, 500).await?;
    let running = bank.start(2, 7);
    running.until_writes(200, Duration::from_secs(60)).await?;
    running.stop().await?;
    let checked = Bank::check(&client, &name).await?;
    ensure!(
        checked.accounts == 1_000 && checked.order > 0,
        "{checked:?}"
    );
    let database = client.database(&name);
    let add = doc! { "$inc": { "balance": 1_i64 } };
    database
        .collection::<Document>("checking")
        .update_one(doc! { "_id": 3_i64 }, add)
        .await?;
    ensure!(
        Bank::check(&client, &name)
            .await
            .is_err_and(|error| error.to_string().starts_with("money"))
    );
    database.drop().await?;
    Ok(())
}

#[tokio::test]
async fn a_workspace_writes_what_the_design_says() -> Result<()> {
    let workspace = Workspace::new()?;
    let sshd = shared::sshd().await?;
    let s3 = shared::s3().await?;
    workspace.local_destination("disk")?;
    workspace.s3_destination("bucket", s3, "acme", "shop")?;
    workspace.sftp_destination("box", sshd, &sshd.files().join("repository"))?;
    workspace.mongodb_policy_with(
        "shop",
        "mongodb://root:secret@127.0.0.1:27017/?replicaSet=rs0",
        &["disk", "bucket", "box"],
        "include: [\"shop.*\"]",
        "retention: {keepLast: 3}",
    )?;
    let text = std::fs::read_to_string(workspace.policies().join("policy-shop.yaml"))?;
    let expected = "apiVersion: holdfast.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {name: shop}\nspec:\n  source:\n    mongodb:\n      uriFrom: {secretKeyRef: {name: shop-mongodb, key: uri}}\n      include: [\"shop.*\"]\n  schedule: {cron: \"0 0 29 2 *\"}\n  destinations:\n  - {name: disk}\n  - {name: bucket}\n  - {name: box}\n  retention: {keepLast: 3}\n";
    ensure!(text == expected, "{text}");
    workspace.files_policy("uploads", &[sshd.files().as_path()], &["disk"], "")?;
    let mut parsed = manifest::Parsed::default();
    for file in std::fs::read_dir(workspace.policies())? {
        let path = file?.path();
        parsed.extend(manifest::parse(&path, &std::fs::read_to_string(&path)?));
    }
    let mut problems = manifest::check_references(&parsed);
    problems.extend(parsed.problems);
    ensure!(
        problems.is_empty() && parsed.resources.len() == 5,
        "{problems:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_proxy_passes_on_stalls_and_cuts() -> Result<()> {
    let s3 = shared::s3().await?;
    let proxy = Proxy::start(s3.port()).await?;
    let get = async || http_get(proxy.port(), "/").await;
    ensure!(get().await?.starts_with("HTTP/1.1 403"));
    proxy.set(Mood::Stalled);
    ensure!(
        tokio::time::timeout(Duration::from_millis(300), get())
            .await
            .is_err(),
        "it answered"
    );
    proxy.set(Mood::Cut);
    ensure!(
        !get().await.is_ok_and(|answer| answer.starts_with("HTTP")),
        "it answered"
    );
    proxy.set(Mood::Slow(Duration::from_millis(5)));
    ensure!(get().await?.starts_with("HTTP/1.1 403"));
    proxy.set(Mood::Fine);
    let passed = proxy.passed();
    ensure!(passed > 200 && proxy.connections() >= 4);
    proxy.cut_after(10);
    ensure!(
        !get().await.is_ok_and(|answer| answer.starts_with("HTTP")),
        "it answered"
    );
    Ok(())
}
