//! The same policy through every kind of destination: written, copied, read
//! back, deleted; and stock restic finds each repository sound.

#[path = "support/asking.rs"]
mod support;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::compare::Snapshot;
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, quote};
use holdfast_e2e::ssh_agent::SshAgent;
use holdfast_e2e::sshd::{self, Options, Sshd};
use holdfast_e2e::tools::Restic;
use holdfast_e2e::{Workdir, Workspace, s3, shared};
use mongodb::Client;
use support::{back_up, backup_ids, backups, contents, copies, id, only, restore, shop};

/// A small shop of a test's own, and a server to restore it to.
struct Shop {
    database: String,
    client: Client,
    uri: String,
    target: Client,
    target_uri: String,
    original: Snapshot,
}

impl Shop {
    async fn new(bytes: u64) -> Result<Self> {
        let source = shared::replica_set().await?;
        let target = shared::target().await?;
        let client = source.client().await?;
        let database = shared::unique("place");
        shop(&client, &database, bytes, 3).await?;
        Ok(Self {
            original: contents(&client, &database).await?,
            uri: source.uri(),
            target: target.client().await?,
            target_uri: target.uri(),
            database,
            client,
        })
    }

    /// A policy `shop` that backs it up.
    fn policy(&self, workspace: &Workspace, destinations: &[&str]) -> Result<()> {
        let only = only(&self.database);
        workspace.mongodb_policy_with("shop", &self.uri, destinations, &only, "")?;
        Ok(())
    }

    /// Restores `latest` and compares.
    async fn comes_back(&self, workspace: &Workspace, more: &[&str]) -> Result<()> {
        let args = [
            &["latest", "--policy", "shop", "--on-conflict", "Drop"],
            more,
        ]
        .concat();
        restore(workspace, &self.target_uri, &args).await?;
        let restored = contents(&self.target, &self.database).await?;
        self.target.database(&self.database).drop().await?;
        self.original.same_as(&restored)
    }

    async fn drop(self) -> Result<()> {
        Ok(self.client.database(&self.database).drop().await?)
    }
}

/// Backs up twice (the second run meets a repository that is there), restores,
/// checks with Holdfast and with stock restic.
async fn there_and_back(workspace: &Workspace, destination: &str, restic: &Restic) -> Result<()> {
    // Long: several packs, and objects that are sent in parts.
    let shop = Shop::new(if support::long() { 256 << 20 } else { 6 << 20 }).await?;
    shop.policy(workspace, &[destination])?;
    let first = back_up(workspace, "shop").await?;
    ensure!(copies(&first) == [destination], "{first:#}");
    let second = back_up(workspace, "shop").await?;
    let ids = [id(&first)?, id(&second)?];
    ensure!(backup_ids(workspace).await? == ids);
    shop.comes_back(workspace, &[]).await?;

    let args = ["check", destination, "--read-data", "100%", "-o", "json"];
    let report = workspace.holdfast(args).await?.ok()?.json()?;
    ensure!(report["sound"] == true, "{report:#}");
    restic.check().await?;
    let snapshots = restic.snapshots().await?;
    let mut seen: Vec<&str> = snapshots
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect();
    seen.sort_unstable();
    let mut expected = ids.each_ref().map(String::as_str);
    expected.sort_unstable();
    ensure!(seen == expected, "restic lists {snapshots:#?}");
    for snapshot in &snapshots {
        let tags = snapshot["tags"].as_array().context("no tags")?;
        ensure!(
            tags.iter().any(|tag| tag == "holdfast")
                && tags.iter().any(|tag| tag == "policy=default/shop")
                && snapshot["hostname"] == "default/shop",
            "{snapshot:#}"
        );
    }
    let files = restic.ls(&ids[0]).await?;
    let orders = format!("/mongodb/dump/{}/orders.bson", shop.database);
    for path in [orders.as_str(), "/holdfast/manifest.json"] {
        ensure!(
            files.iter().any(|file| file == path),
            "no {path} in {files:#?}"
        );
    }
    shop.drop().await
}

#[tokio::test]
async fn through_a_local_folder() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    there_and_back(&workspace, "disk", &workspace.restic("disk")).await
}

#[tokio::test]
async fn through_a_bucket() -> Result<()> {
    let server = shared::s3().await?;
    let bucket = shared::unique("acme");
    server.create_bucket(&bucket).await?;
    let workspace = Workspace::new()?;
    workspace.s3_destination("bucket", server, &bucket, "deep/shop")?;
    let restic = Restic::s3(server, &bucket, "deep/shop", REPOSITORY_PASSWORD);
    there_and_back(&workspace, "bucket", &restic).await?;
    let listed = server.client().list_objects_v2().bucket(&bucket).send();
    let listed = listed.await?;
    let mut keys = listed.contents().iter().filter_map(|object| object.key());
    ensure!(
        keys.all(|key| key.starts_with("deep/shop/")) && listed.key_count() > Some(4),
        "outside the prefix: {listed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn through_ssh() -> Result<()> {
    let server = shared::sshd().await?;
    let path = server.files().join(shared::unique("repository"));
    let workspace = Workspace::new()?;
    workspace.sftp_destination("box", server, &path)?;
    let restic = Restic::sftp(server, &path, REPOSITORY_PASSWORD)?;
    there_and_back(&workspace, "box", &restic).await
}

/// The keys of an S3 account out of the environment, as every AWS tool takes
/// them; the bucket's root instead of a prefix.
#[tokio::test]
async fn a_bucket_with_the_credentials_of_the_environment() -> Result<()> {
    let server = shared::s3().await?;
    let bucket = shared::unique("environment");
    server.create_bucket(&bucket).await?;
    let workspace = Workspace::new()?
        .with_env("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY)
        .with_env("AWS_SECRET_ACCESS_KEY", s3::SECRET_KEY);
    let storage = format!(
        "s3:\n  bucket: {bucket}\n  endpoint: {}\n  region: {}\n",
        server.endpoint(),
        s3::REGION
    );
    workspace.destination("bucket", &storage, "")?;
    let shop = Shop::new(1 << 20).await?;
    shop.policy(&workspace, &["bucket"])?;
    back_up(&workspace, "shop").await?;
    shop.comes_back(&workspace, &[]).await?;
    Restic::s3(server, &bucket, "", REPOSITORY_PASSWORD)
        .check()
        .await?;
    shop.drop().await
}

#[tokio::test]
async fn every_way_to_log_in_over_ssh() -> Result<()> {
    let dir = Workdir::new()?;
    let server = shared::sshd().await?;
    let agent = SshAgent::start(&dir, &server.key()).await?;
    let shop = Shop::new(256 << 10).await?;
    let key = |path: &Path| format!("privateKey: {{file: {}}}", quote(&path.to_string_lossy()));
    let ways = [
        ("rsa", key(&server.rsa_key())),
        (
            "encrypted",
            format!(
                "{}\npassphrase: {{secretKeyRef: {{name: ssh, key: passphrase}}}}",
                key(&server.encrypted_key())
            ),
        ),
        ("agent", "agent: true".to_owned()),
    ];
    for (way, login) in ways {
        let workspace =
            Workspace::new()?.with_env("SSH_AUTH_SOCK", agent.socket().to_string_lossy());
        workspace.secret("ssh", "passphrase", sshd::KEY_PASSPHRASE)?;
        let path = server.files().join(shared::unique(way));
        workspace.sftp_destination_with("box", server, &path, &login)?;
        round(&shop, &workspace).await.context(way)?;
    }
    // The host's key out of a known_hosts file instead of the manifest.
    let workspace = Workspace::new()?;
    let path = server.files().join(shared::unique("known"));
    let storage = format!(
        "sftp:\n  host: {}\n  port: {}\n  user: {}\n  path: {}\n  knownHosts: {}\n  {}",
        server.host(),
        server.port(),
        server.user(),
        quote(&path.to_string_lossy()),
        quote(&server.known_hosts()?.to_string_lossy()),
        key(&server.key())
    );
    workspace.destination("box", &storage, "")?;
    round(&shop, &workspace).await.context("known_hosts")?;
    // A password.
    let options = Options {
        password: true,
        ..Options::default()
    };
    let server = Sshd::start_with(&dir, options).await?;
    let workspace = Workspace::new()?;
    workspace.sftp_password_destination("box", &server, &server.files().join("repository"))?;
    round(&shop, &workspace).await.context("password")?;
    ensure!(
        server.log().contains("Accepted password"),
        "{}",
        server.log()
    );
    shop.drop().await
}

async fn round(shop: &Shop, workspace: &Workspace) -> Result<()> {
    shop.policy(workspace, &["box"])?;
    back_up(workspace, "shop").await?;
    shop.comes_back(workspace, &[]).await
}

#[tokio::test]
async fn a_copy_is_the_same_backup_and_outlives_the_first_repository() -> Result<()> {
    let server = shared::s3().await?;
    let bucket = shared::unique("copies");
    server.create_bucket(&bucket).await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    workspace.s3_destination("bucket", server, &bucket, "")?;
    let shop = Shop::new(2 << 20).await?;
    shop.policy(&workspace, &["disk", "bucket"])?;

    let made = id(&back_up(&workspace, "shop").await?)?;
    let listed = backups(&workspace).await?;
    ensure!(
        listed.len() == 1 && id(&listed[0])? == made && copies(&listed[0]) == ["bucket", "disk"],
        "one backup at two destinations is expected: {listed:#?}"
    );
    let second = Restic::s3(server, &bucket, "", REPOSITORY_PASSWORD);
    workspace.restic("disk").check().await?;
    second.check().await?;
    shop.comes_back(&workspace, &["--destination", "bucket"])
        .await?;

    // The first repository burns down.
    std::fs::remove_dir_all(workspace.repository("disk"))?;
    shop.comes_back(&workspace, &["--destination", "bucket"])
        .await?;
    shop.comes_back(&workspace, &[])
        .await
        .context("without naming the destination that is left")?;
    let args = [
        "restore",
        "latest",
        "--policy",
        "shop",
        "--destination",
        "disk",
    ];
    let output = workspace.holdfast(args).await?.code_is(1)?;
    ensure!(output.stderr.contains("disk"), "{}", output.stderr);
    let listed = backups(&workspace).await?;
    ensure!(
        listed.len() == 1 && id(&listed[0])? == made && copies(&listed[0]) == ["bucket"],
        "{listed:#?}"
    );
    shop.drop().await
}

#[tokio::test]
async fn delete_takes_a_backup_from_one_destination_or_from_all() -> Result<()> {
    let workspace = Workspace::new()?;
    workspace.local_destination("first")?;
    workspace.local_destination("second")?;
    let shop = Shop::new(256 << 10).await?;
    shop.policy(&workspace, &["first", "second"])?;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(id(&back_up(&workspace, "shop").await?)?);
    }
    let [one, two, three] = made.as_slice() else {
        anyhow::bail!("three were made");
    };

    // Without a word nothing is deleted.
    let output = workspace.holdfast(["delete", one]).await?.code_is(2)?;
    ensure!(output.stderr.contains("--yes"), "{}", output.stderr);
    let output = workspace
        .holdfast(["delete", "latest", "--yes"])
        .await?
        .code_is(2)?;
    ensure!(output.stderr.contains("latest"), "{}", output.stderr);
    let output = workspace
        .holdfast(["delete", "0000000000000000", "--yes"])
        .await?
        .code_is(1)?;
    ensure!(
        output.stderr.contains("0000000000000000") && output.stderr.contains("holdfast backups"),
        "{}",
        output.stderr
    );
    ensure!(backup_ids(&workspace).await? == made);

    // Everywhere.
    workspace.holdfast(["delete", one, "--yes"]).await?.ok()?;
    ensure!(backup_ids(&workspace).await? == [two.as_str(), three.as_str()]);
    // At one place only.
    let args = ["delete", two, "--destination", "second", "--yes"];
    workspace.holdfast(args).await?.ok()?;
    let listed = backups(&workspace).await?;
    let held: Vec<(String, Vec<&str>)> = listed
        .iter()
        .map(|backup| Ok((id(backup)?, copies(backup))))
        .collect::<Result<_>>()?;
    ensure!(
        held == [
            (two.clone(), vec!["first"]),
            (three.clone(), vec!["first", "second"])
        ],
        "{held:#?}"
    );
    for (name, count) in [("first", 2), ("second", 1)] {
        let restic = workspace.restic(name);
        restic.check().await?;
        let snapshots = restic.snapshots().await?;
        ensure!(snapshots.len() == count, "{name}: {snapshots:#?}");
    }
    // What was not deleted still comes back.
    shop.comes_back(&workspace, &["--destination", "second"])
        .await?;
    let args = [two.as_str(), "--on-conflict", "Drop"];
    restore(&workspace, &shop.target_uri, &args).await?;
    shop.target.database(&shop.database).drop().await?;
    let runs = support::history(&workspace).await?;
    let deleted = runs.iter().filter(|run| run["spec"]["action"] == "delete");
    ensure!(deleted.count() == 3, "{runs:#?}");
    shop.drop().await
}
