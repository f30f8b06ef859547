//! What bad input gets: a clear error with its place or its object, what to do about it, the right
//! exit code, and nothing lost. Secrets are told to nobody.

#[path = "support/control.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, quote};
use holdfast_e2e::mongod::{Options, ROOT_PASSWORD, ReplicaSet};
use holdfast_e2e::process::Signal;
use holdfast_e2e::sshd::Sshd;
use holdfast_e2e::{Workdir, Workspace, dataset, ports, random, s3, shared};
use mongodb::bson::{Document, doc};
use support::{
    Gate, IMMEDIATE, backup, backups, expect, files, history, holds_none, ids, keeps_quiet, sample,
    text, until, until_runs, until_writing,
};

/// A password that must not be said by anyone.
const LITERAL: &str = "hunter2-literal";

/// A policy that backs files up to `disk`, and one backup of it: what must not be lost.
async fn with_a_backup(workspace: &Workspace) -> Result<(PathBuf, String)> {
    let folder = sample(workspace, "data")?;
    workspace.local_destination("disk")?;
    workspace.files_policy("data", &[&folder], &["disk"], "")?;
    let id = backup(workspace, "data").await?;
    Ok((folder, id))
}

/// The backup is listed, and its files come back as they were.
async fn nothing_is_lost(workspace: &Workspace, id: &str) -> Result<()> {
    let listed = ids(&backups(workspace, &[]).await?)?;
    ensure!(
        listed.iter().any(|one| one == id),
        "{id} is not listed any more: {listed:?}"
    );
    let target = workspace.join(shared::unique("restored"));
    let args = ["restore", id, "--to-path", &target.to_string_lossy()];
    workspace.holdfast(args).await?.ok()?;
    let source = workspace.join("data");
    let back = target.join(source.strip_prefix("/")?);
    ensure!(
        std::fs::read(back.join("one.txt"))? == b"one\n",
        "one.txt is another"
    );
    ensure!(
        std::fs::read(back.join("inner/two.txt"))? == b"two\n",
        "two.txt is another"
    );
    Ok(())
}

/// Line and column of the first occurrence of a word.
fn place(text: &str, word: &str) -> Result<String> {
    let at = text
        .find(word)
        .with_context(|| format!("no {word} in {text}"))?;
    let line = text[..at].matches('\n').count() + 1;
    let column = at - text[..at].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    Ok(format!("{line}:{column}"))
}

#[tokio::test]
async fn wrong_files_are_told_with_their_place_and_nothing_is_done() -> Result<()> {
    let both = "apiVersion: holdfast.dev/v1alpha1\nkind: Destination\nmetadata: {name: disk}\nspec:\n  local: {path: REPOSITORY}\n  encryption:\n    password: {secretKeyRef: {name: repository, key: password}}\n---\napiVersion: holdfast.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {name: shop}\nspec:\n  source:\n    mongodb:\n      uri: mongodb://127.0.0.1:27017/\n  schedule:\n    cron: \"@daily\"\n    timeZone: UTC\n  destinations: [{name: disk}]\n";
    // What is replaced, by what, the word whose place is told, what is said.
    let cases: &[(&str, &str, &str, &[&str])] = &[
        (
            "      uri:",
            "      excludes: [a.b]\n      uri:",
            "excludes",
            &["unknown field `excludes`", "did you mean `exclude`?"],
        ),
        (
            "  local:",
            "  s3: {bucket: acme-backups}\n  local:",
            "local:",
            &[
                "`s3`",
                "`local`",
                "cannot be set together",
                "keep exactly one of",
            ],
        ),
        (
            "\"@daily\"",
            "\"15 25 * * *\"",
            "cron:",
            &[
                "`15 25 * * *` is not a cron expression",
                "write five fields",
            ],
        ),
        (
            "timeZone: UTC",
            "timeZone: Europe/Pari",
            "timeZone:",
            &[
                "unknown time zone `Europe/Pari`",
                "did you mean `Europe/Paris`?",
            ],
        ),
        (
            "mongodb://127",
            "mongodb://root:hunter2-literal@127",
            "uri:",
            &["uri holds a password", "uriFrom instead of uri"],
        ),
        (
            "password: {secretKeyRef: {name: repository, key: password}}",
            "password: hunter2-literal",
            "password:",
            &["never the secret itself", "secretKeyRef"],
        ),
        (
            "destinations: [{name: disk}]",
            "destinations: [{name: dist}]",
            "name: dist",
            &["there is no Destination `dist`", "did you mean `disk`?"],
        ),
    ];
    for (replaced, by, told, words) in cases {
        let workspace = Workspace::new()?;
        let repository = workspace.repository("disk");
        let written = both
            .replacen(replaced, by, 1)
            .replace("REPOSITORY", &repository.to_string_lossy());
        let policies = workspace.policies().to_string_lossy().into_owned();
        let file = workspace.yaml("wrong", &written)?;
        let place = format!("{}:{}: ", file.display(), place(&written, told)?);
        let words: Vec<&str> = words.iter().copied().chain([place.as_str()]).collect();
        for args in [
            vec!["validate", &policies],
            vec!["plan", &policies],
            vec!["run", "--once", &policies],
            vec!["backup", "shop"],
        ] {
            let output = workspace.holdfast(&args).await?;
            keeps_quiet(&output.command, &output.said(), &[LITERAL])?;
            expect(output, 2, &words).with_context(|| format!("{by:?}"))?;
        }
        let output = workspace
            .holdfast(["validate", &policies, "-o", "json"])
            .await?;
        keeps_quiet(&output.command, &output.said(), &[LITERAL])?;
        let report = output.code_is(2)?.json()?;
        let problem = &report["problems"][0];
        let told = format!(
            "{}:{}:{}: ",
            text(problem, "/file"),
            problem["line"],
            problem["column"]
        );
        ensure!(report["valid"] == false && told == place, "{report}");
        ensure!(!repository.exists(), "{by:?}: a repository was made");
        if !files(&workspace.state())?.is_empty() {
            holds_none(&workspace.state(), &[LITERAL])?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_files_that_declare_the_same_object_are_both_named() -> Result<()> {
    let workspace = Workspace::new()?;
    let (_, id) = with_a_backup(&workspace).await?;
    let first = workspace.policies().join("destination-disk.yaml");
    let second = workspace.policies().join("zz-copy.yaml");
    std::fs::copy(&first, &second)?;
    let policies = workspace.policies().to_string_lossy().into_owned();
    let (first, other) = (
        format!("{}:1:1", first.display()),
        format!("{}:1:1: ", second.display()),
    );
    let words = [
        other.as_str(),
        "Destination default/disk is declared twice",
        &first,
        "remove one of the two",
    ];
    expect(
        workspace.holdfast(["validate", &policies]).await?,
        2,
        &words,
    )?;
    expect(workspace.holdfast(["backup", "data"]).await?, 2, &words)?;
    std::fs::remove_file(second)?;
    nothing_is_lost(&workspace, &id).await
}

#[tokio::test]
async fn a_missing_secret_is_told_with_object_field_and_file() -> Result<()> {
    let workspace = Workspace::new()?;
    let (_, id) = with_a_backup(&workspace).await?;
    let secret = workspace.join("secrets/repository/password");
    std::fs::remove_file(&secret)?;
    let path = secret.to_string_lossy().into_owned();
    let words = [
        "Destination default/disk",
        "encryption.password",
        &path,
        "create the file",
    ];
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;
    expect(
        workspace.holdfast(["run", "--once", "policies"]).await?,
        1,
        &["default/disk"],
    )?;
    workspace.secret("repository", "password", REPOSITORY_PASSWORD)?;
    nothing_is_lost(&workspace, &id).await?;

    let source = "mongodb:\n  uriFrom: {secretKeyRef: {name: shop-db, key: uri}}\n";
    workspace.policy("shop", source, &["disk"], "")?;
    let words = [
        "BackupPolicy default/shop",
        "uriFrom",
        "secrets/shop-db/uri",
        "create the file",
    ];
    expect(workspace.holdfast(["backup", "shop"]).await?, 1, &words)?;
    let source = "mongodb:\n  uriFrom: {env: HOLDFAST_E2E_NOT_SET}\n";
    workspace.policy("shop", source, &["disk"], "")?;
    let words = [
        "BackupPolicy default/shop",
        "HOLDFAST_E2E_NOT_SET",
        "is not set",
    ];
    expect(workspace.holdfast(["backup", "shop"]).await?, 1, &words)?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_repository_password_opens_nothing_and_changes_nothing() -> Result<()> {
    let workspace = Workspace::new()?;
    let (_, id) = with_a_backup(&workspace).await?;
    let before = files(&workspace.repository("disk"))?;
    workspace.secret("repository", "password", "not the one it was made with")?;
    let place = workspace.repository("disk").to_string_lossy().into_owned();
    let words = [
        "the password does not open the repository",
        &place,
        "encryption.password",
    ];
    for args in [
        vec!["backup", "data"],
        vec!["backups"],
        vec!["check", "disk"],
    ] {
        let output = workspace.holdfast(&args).await?;
        keeps_quiet(
            &output.command,
            &output.said(),
            &["not the one it was made with"],
        )?;
        expect(output, 1, &words)?;
    }
    let once = workspace
        .holdfast(["run", "--once", "policies", "-o", "json"])
        .await?;
    let once = once.code_is(1)?;
    ensure!(
        once.stdout.contains("WrongPassword"),
        "no reason in {}",
        once.stdout
    );
    ensure!(
        files(&workspace.repository("disk"))? == before,
        "the repository was changed"
    );
    workspace.secret("repository", "password", REPOSITORY_PASSWORD)?;
    nothing_is_lost(&workspace, &id).await
}

#[tokio::test]
async fn a_folder_with_other_files_does_not_become_a_repository() -> Result<()> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    let place = workspace.repository("disk");
    let photo = place.join("holiday/photo.jpg");
    std::fs::create_dir_all(place.join("holiday"))?;
    std::fs::write(&photo, "a photo")?;
    workspace.local_destination("disk")?;
    workspace.files_policy("data", &[&folder], &["disk"], IMMEDIATE)?;
    let shown = place.to_string_lossy().into_owned();
    let words = [
        shown.as_str(),
        "holds files and none is a repository's config",
        "choose an empty place",
    ];
    // The pass first: a first run is immediate only when none was tried.
    let once = workspace.holdfast(["run", "--once", "policies"]).await?;
    expect(once, 1, &[&shown])?;
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;
    ensure!(files(&place)? == [photo.clone()], "{:?}", files(&place)?);
    ensure!(std::fs::read(&photo)? == b"a photo");
    Ok(())
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_told_with_its_path() -> Result<()> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    // Nobody can make a folder below a file, root included.
    let file = workspace.join("a-file");
    std::fs::write(&file, "")?;
    let place = quote(&file.join("repository").to_string_lossy());
    workspace.destination("disk", &format!("local: {{path: {place}}}"), "")?;
    workspace.files_policy("data", &[&folder], &["disk"], "")?;
    let shown = file.to_string_lossy().into_owned();
    expect(
        workspace.holdfast(["backup", "data"]).await?,
        1,
        &["cannot", &shown],
    )?;
    Ok(())
}

#[tokio::test]
async fn a_host_key_that_changed_is_refused_until_somebody_vouches_for_it() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = Sshd::start(&dir).await?;
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    let path = server.files().join("repository");
    workspace.sftp_destination("box", &server, &path)?;
    workspace.files_policy("data", &[&folder], &["box"], "")?;
    let id = backup(&workspace, "data").await?;
    let before = files(&path)?;
    server.swap_host_key().await?;
    let port = server.port().to_string();
    let words = [
        "the server's key is ssh-ed25519 SHA256:",
        "hostKey says ssh-ed25519 SHA256:",
        "set the Destination's hostKey",
        "somebody may be in between",
        "127.0.0.1",
        &port,
    ];
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;
    let once = workspace
        .holdfast(["run", "--once", "policies", "-o", "json"])
        .await?;
    let once = once.code_is(1)?;
    ensure!(
        once.stdout.contains("HostKeyMismatch"),
        "no reason in {}",
        once.stdout
    );
    ensure!(
        files(&path)? == before,
        "something was written behind a wrong host key"
    );
    workspace.sftp_destination("box", &server, &path)?;
    nothing_is_lost(&workspace, &id).await
}

#[tokio::test]
async fn buckets_and_keys_that_are_wrong_are_told_apart() -> Result<()> {
    let server = shared::s3().await?;
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    workspace.files_policy("data", &[&folder], &["bucket"], "")?;

    let missing = shared::unique("no-such-bucket");
    workspace.s3_destination("bucket", server, &missing, "")?;
    let words = [missing.as_str(), "create it, or correct the Destination"];
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;

    let bucket = shared::unique("bad-input");
    server.create_bucket(&bucket).await?;
    workspace.s3_destination("bucket", server, &bucket, "shop")?;
    let id = backup(&workspace, "data").await?;
    workspace.secret("bucket-s3", "secret", "a-wrong-secret-key")?;
    let output = workspace.holdfast(["backup", "data"]).await?;
    keeps_quiet(
        "a wrong key",
        &output.said(),
        &["a-wrong-secret-key", s3::SECRET_KEY],
    )?;
    expect(
        output,
        1,
        &[&bucket, "check the credentials that the Destination names"],
    )?;

    server.create_user("stranger", "stranger-secret").await?;
    workspace.secret("bucket-s3", "id", "stranger")?;
    workspace.secret("bucket-s3", "secret", "stranger-secret")?;
    let words = [
        bucket.as_str(),
        "grant the Destination's account this right",
    ];
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;

    workspace.s3_destination("bucket", server, &bucket, "shop")?;
    nothing_is_lost(&workspace, &id).await?;
    holds_none(
        &workspace.state(),
        &[s3::SECRET_KEY, "a-wrong-secret-key", "stranger-secret"],
    )
}

#[tokio::test]
async fn servers_that_are_not_there_are_told_with_their_address() -> Result<()> {
    let workspace = Workspace::new()?;
    let (folder, id) = with_a_backup(&workspace).await?;
    let port = ports::free()?;
    let address = format!("127.0.0.1:{port}");
    let uri = format!("mongodb://{address}/?directConnection=true&serverSelectionTimeoutMS=2000");
    workspace.mongodb_policy("shop", &uri, &["disk"])?;
    let words = [address.as_str(), "check that the server is up"];
    expect(workspace.holdfast(["backup", "shop"]).await?, 1, &words)?;

    let storage = format!(
        "sftp: {{host: 127.0.0.1, port: {port}, user: nobody, path: /srv, hostKey: \"ssh-ed25519 \
         AAAAC3NzaC1lZDI1NTE5AAAAIJ3qEXAMPLEq7m0n5yq1vO3b6dPZ2m0cW1f4hYJ8kTnR\", password: \
         {{secretKeyRef: {{name: repository, key: password}}}}}}"
    );
    workspace.destination("box", &storage, "")?;
    let port = port.to_string();
    let words = ["127.0.0.1", &port, "check that the host is up"];
    workspace.files_policy("boxed", &[&folder], &["box"], "")?;
    expect(workspace.holdfast(["backup", "boxed"]).await?, 1, &words)?;
    workspace.remove_yaml("policy-boxed")?;
    // The copy to it does not spoil the backup that is made.
    workspace.files_policy("data", &[&folder], &["disk", "box"], "")?;
    let output = expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;
    ensure!(
        output.said().contains("the backup was made"),
        "{}",
        output.said()
    );
    workspace.files_policy("data", &[&folder], &["disk"], "")?;
    workspace.remove_yaml("destination-box")?;
    ensure!(backups(&workspace, &[]).await?.len() == 2);
    nothing_is_lost(&workspace, &id).await
}

/// A file system of a few megabytes, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_run_and_keeps_what_was_there() -> Result<()> {
    let workspace = Workspace::new()?;
    let place = workspace.repository("disk");
    let Some(_disk) = SmallDisk::mount(&place, 12) else {
        let test = "a_full_disk_fails_the_run_and_keeps_what_was_there";
        holdfast_e2e::skips::skip(test, "no tmpfs can be mounted");
        return Ok(());
    };
    let (folder, id) = with_a_backup(&workspace).await?;
    // What does not compress, and more than there is room for.
    let mut noise = Vec::new();
    random::Random::new(7).fill(&mut noise, 24 << 20);
    std::fs::write(folder.join("noise"), &noise)?;
    let shown = place.to_string_lossy().into_owned();
    let words = [shown.as_str(), "free space or raise the quota"];
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;
    let listed = ids(&backups(&workspace, &[]).await?)?;
    ensure!(listed == [id.clone()], "{listed:?}");
    ensure!(
        files(&place.join("locks"))?.is_empty(),
        "a lock is left behind"
    );
    nothing_is_lost(&workspace, &id).await?;
    workspace.restic("disk").check().await
}

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_fails_the_run_alone() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    dataset::fill(&client, "shop", "orders", 96 << 20, 1).await?;
    client
        .database("few")
        .collection("one")
        .insert_one(doc! { "_id": 1 })
        .await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    let uri = format!("{}&serverSelectionTimeoutMS=5000", server.uri());
    workspace.mongodb_policy_with("few", &uri, &["disk"], "include: [\"few.*\"]\n", "")?;
    let id = backup(&workspace, "few").await?;
    workspace.mongodb_policy_with("shop", &uri, &["disk"], "include: [\"shop.*\"]\n", "")?;

    let data = workspace.repository("disk").join("data");
    let before = files(&data)?.len();
    let mut run = workspace.start(["backup", "shop"])?;
    until("data of the backup", async || {
        Ok((files(&data)?.len() > before).then_some(()))
    })
    .await?;
    server.kill9()?;
    let status = run
        .wait(Duration::from_secs(240))
        .await?
        .context("it does not end")?;
    let printed = run.printed();
    ensure!(status.code() == Some(1), "{status}: {printed}");
    let address = server.hosts();
    ensure!(
        printed.contains(&address) && printed.contains("MongoDB"),
        "{printed}"
    );
    let listed = ids(&backups(&workspace, &[]).await?)?;
    ensure!(
        listed == [id],
        "something that was not finished counts as a backup: {listed:?}"
    );
    let runs = history(&workspace, &["--policy", "shop"]).await?;
    ensure!(text(&runs[0], "/status/outcome") == "Failed", "{}", runs[0]);
    let locks = files(&workspace.repository("disk").join("locks"))?;
    ensure!(locks.is_empty(), "a lock is left behind: {locks:?}");

    server.restart().await?;
    backup(&workspace, "shop")
        .await
        .context("the run after it")?;
    ensure!(backups(&workspace, &[]).await?.len() == 2);
    workspace.restic("disk").check().await
}

#[tokio::test]
async fn a_server_that_hangs_does_not_hold_a_signal_up() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = ReplicaSet::start(&dir).await?;
    let client = server.client().await?;
    dataset::fill(&client, "shop", "orders", 64 << 20, 2).await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    let include = "include: [\"shop.*\"]\n";
    workspace.mongodb_policy_with("shop", &server.uri(), &["disk"], include, "")?;
    let mut run = workspace.start(["backup", "shop"])?;
    until_writing(&workspace.repository("disk")).await?;
    server.signal(Signal::Stop)?;
    run.signal(Signal::Term)?;
    let ended = run.wait(Duration::from_secs(60)).await?;
    server.signal(Signal::Cont)?;
    let status = ended.with_context(|| format!("it does not end: {}", run.printed()))?;
    ensure!(status.code() == Some(1), "{status}: {}", run.printed());
    ensure!(run.printed().contains("stopped"), "{}", run.printed());
    ensure!(backups(&workspace, &[]).await?.is_empty());
    let locks = files(&workspace.repository("disk").join("locks"))?;
    ensure!(locks.is_empty(), "a lock is left behind: {locks:?}");
    backup(&workspace, "shop").await.map(drop)
}

#[tokio::test]
async fn credentials_are_told_to_nobody_whatever_becomes_of_a_run() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        auth: true,
        ..Options::default()
    };
    let server = ReplicaSet::start_with(&dir, options).await?;
    let client = server.client().await?;
    client
        .database("shop")
        .collection("orders")
        .insert_one(doc! { "_id": 1 })
        .await?;
    client
        .database("admin")
        .run_command(doc! { "createUser": "weak", "pwd": "weak-password", "roles": [] })
        .await?;
    let secrets = [
        REPOSITORY_PASSWORD,
        ROOT_PASSWORD,
        "p%40ss-of-nobody",
        "p@ss-of-nobody",
        "weak-password",
    ];
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    let declare = |uri: &str| {
        workspace.mongodb_policy_with("shop", uri, &["disk"], "include: [\"shop.*\"]\n", "")
    };

    declare(&server.uri_as("root", "p%40ss-of-nobody"))?;
    let output = workspace.holdfast(["backup", "shop", "-vv"]).await?;
    keeps_quiet("a wrong password", &output.said(), &secrets)?;
    let words = [
        "refused the credentials",
        &server.hosts(),
        "check user, password and authSource",
    ];
    expect(output, 1, &words)?;

    declare(&server.uri_as("weak", "weak-password"))?;
    let output = workspace.holdfast(["backup", "shop", "-vv"]).await?;
    keeps_quiet("an account without rights", &output.said(), &secrets)?;
    expect(output, 1, &["does not allow the account", &server.hosts()])?;

    declare(&server.uri())?;
    let request = "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: now}\nspec: {policy: shop}\n";
    workspace.yaml("now", request)?;
    let mut daemon = workspace.start_run(&["-vv"]).await?;
    until_runs(&daemon, "shop", "backup", "Succeeded", 1).await?;
    keeps_quiet("/metrics", &daemon.get("/metrics").await?, &secrets)?;
    daemon.stop(Duration::from_secs(60)).await?;
    keeps_quiet("the daemon", &daemon.printed(), &secrets)?;
    let rename = ["--rename", "shop.*=copy.*"];
    for args in [
        &["backup", "shop", "-vv", "-o", "json"][..],
        &["run", "--once", "policies", "-vv", "-o", "yaml"],
        &["plan", "policies", "-vv", "-o", "json"],
        &["backups", "-vv", "-o", "json"],
        &["history", "-vv", "-o", "json"],
        &[
            &["restore", "latest", "--policy", "shop", "-vv", "-o", "json"][..],
            &rename,
        ]
        .concat(),
    ] {
        let output = workspace.holdfast(args).await?.ok()?;
        keeps_quiet(&output.command, &output.said(), &secrets)?;
    }
    holds_none(&workspace.state(), &secrets)?;
    holds_none(&workspace.repository("disk"), &secrets)
}

#[tokio::test]
async fn nothing_to_back_up_is_an_error_and_an_empty_collection_is_not() -> Result<()> {
    let server = shared::replica_set().await?;
    let client = server.client().await?;
    let name = shared::unique("bad-input-empty");
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    let only = format!("include: [\"{name}.*\"]\n");
    workspace.mongodb_policy_with("shop", &server.uri(), &["disk"], &only, "")?;
    let words = [
        name.as_str(),
        "nothing to back up",
        "correct include and exclude",
    ];
    expect(workspace.holdfast(["backup", "shop"]).await?, 1, &words)?;
    ensure!(backups(&workspace, &[]).await?.is_empty());

    client.database(&name).create_collection("empty").await?;
    let id = backup(&workspace, "shop").await?;
    client.database(&name).drop().await?;
    workspace.holdfast(["restore", &id]).await?.ok()?;
    ensure!(client.database(&name).list_collection_names().await? == ["empty"]);
    // It is gone again, and what was backed up stays.
    client.database(&name).drop().await?;
    expect(workspace.holdfast(["backup", "shop"]).await?, 1, &words)?;
    ensure!(ids(&backups(&workspace, &[]).await?)? == [id]);
    Ok(())
}

#[tokio::test]
async fn a_restore_into_a_collection_with_documents_writes_nothing() -> Result<()> {
    let server = shared::replica_set().await?;
    let client = server.client().await?;
    let name = shared::unique("bad-input-full");
    let orders = client.database(&name).collection::<Document>("orders");
    let people = client.database(&name).collection::<Document>("people");
    orders
        .insert_many([doc! { "_id": 1 }, doc! { "_id": 2 }])
        .await?;
    people.insert_one(doc! { "_id": 1 }).await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    let only = format!("include: [\"{name}.*\"]\n");
    workspace.mongodb_policy_with("shop", &server.uri(), &["disk"], &only, "")?;
    let id = backup(&workspace, "shop").await?;
    people.drop().await?;
    orders.delete_one(doc! { "_id": 1 }).await?;
    orders.insert_one(doc! { "_id": 3 }).await?;

    let namespace = format!("{name}.orders");
    let words = [
        namespace.as_str(),
        "nothing was written",
        "Drop",
        "Merge",
        "rename",
    ];
    expect(workspace.holdfast(["restore", &id]).await?, 1, &words)?;
    let left = orders.distinct("_id", doc! {}).await?;
    ensure!(left == [2.into(), 3.into()], "{left:?}");
    let others = client.database(&name).list_collection_names().await?;
    ensure!(others == ["orders"], "something was written: {others:?}");

    workspace
        .holdfast(["restore", &id, "--on-conflict", "Merge"])
        .await?
        .ok()?;
    let merged = orders.distinct("_id", doc! {}).await?;
    ensure!(merged == [1.into(), 2.into(), 3.into()], "{merged:?}");
    workspace
        .holdfast(["restore", &id, "--on-conflict", "Drop"])
        .await?
        .ok()?;
    let replaced = orders.distinct("_id", doc! {}).await?;
    ensure!(replaced == [1.into(), 2.into()], "{replaced:?}");
    Ok(())
}

#[tokio::test]
async fn an_id_that_is_unknown_or_ambiguous_is_refused() -> Result<()> {
    let workspace = Workspace::new()?;
    let (_, first) = with_a_backup(&workspace).await?;
    // Seventeen ids cannot all begin differently; a handful seldom do.
    let mut made = vec![first];
    let begin = loop {
        let same = made.iter().find(|one| {
            made.iter()
                .filter(|other| other.starts_with(&one[..1]))
                .count()
                > 1
        });
        if let Some(same) = same {
            break same[..1].to_owned();
        }
        made.push(backup(&workspace, "data").await?);
    };
    let target = workspace.join("target").to_string_lossy().into_owned();
    let words = [
        "backups have an id that begins with",
        &begin,
        "give more of it",
    ];
    for args in [
        &["restore", &begin, "--to-path", &target][..],
        &["delete", &begin, "--yes"],
        &["export", &begin, "--dir", &target],
    ] {
        expect(workspace.holdfast(args).await?, 1, &words)?;
    }
    let unknown = "ffffffffffff";
    let words = [
        "no backup has an id that begins with",
        unknown,
        "default/disk",
        "holdfast backups",
    ];
    expect(
        workspace
            .holdfast(["restore", unknown, "--to-path", &target])
            .await?,
        1,
        &words,
    )?;
    expect(
        workspace.holdfast(["delete", unknown, "--yes"]).await?,
        1,
        &words,
    )?;
    let no_policy = workspace
        .holdfast(["restore", "latest", "--to-path", &target])
        .await?;
    expect(no_policy, 2, &["--policy"])?;
    let words = ["BackupPolicy default/dada", "default/data"];
    expect(workspace.holdfast(["backup", "dada"]).await?, 2, &words)?;
    let words = ["Destination default/dusk", "default/disk"];
    expect(workspace.holdfast(["check", "dusk"]).await?, 2, &words)?;
    ensure!(!Path::new(&target).exists(), "something was restored");
    let mut listed = ids(&backups(&workspace, &[]).await?)?;
    listed.sort();
    made.sort();
    ensure!(listed == made, "{listed:?} and not {made:?}");
    Ok(())
}

#[tokio::test]
async fn a_file_deleted_while_its_run_is_on_lets_the_run_end() -> Result<()> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    let gate = Gate::new(&workspace, "gate");
    workspace.local_destination("disk")?;
    workspace.files_policy("data", &[&folder], &["disk"], &(gate.hooks() + IMMEDIATE))?;
    let mut daemon = workspace.start_run(&[]).await?;
    gate.reached().await?;
    workspace.remove_yaml("policy-data")?;
    until("the daemon to see it", async || {
        Ok(daemon
            .printed()
            .contains("not declared any more")
            .then_some(()))
    })
    .await?;
    gate.open()?;
    let ended = until("end of the run", async || {
        let runs = history(&workspace, &[]).await?;
        Ok(runs
            .into_iter()
            .find(|run| !text(run, "/status/outcome").is_empty()))
    })
    .await?;
    ensure!(text(&ended, "/status/outcome") == "Succeeded", "{ended}");
    daemon.get("/healthz").await?;
    ensure!(daemon.stop(Duration::from_secs(60)).await?.success());
    ensure!(history(&workspace, &[]).await?.len() == 1);
    // The policy is gone and its backup is not.
    ensure!(backups(&workspace, &[]).await?.len() == 1);
    workspace.restic("disk").check().await
}
