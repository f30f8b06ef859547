//! Every verb through the real binary: what it prints as JSON and YAML, what it changes, what it
//! leaves alone.

#[path = "support/control.rs"]
mod support;

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::command::Output;
use holdfast_e2e::{Workspace, command, shared};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use support::{IMMEDIATE, backup, backups, expect, files, history, id, ids, items, sample, text};

/// A policy of files at two destinations.
fn declared() -> Result<Workspace> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    workspace.local_destination("disk")?;
    workspace.local_destination("other")?;
    workspace.files_policy("data", &[&folder], &["disk", "other"], "tags: [prod]\n")?;
    Ok(workspace)
}

/// Fails unless every one of these is there.
fn has(value: &Value, pointers: &[&str]) -> Result<()> {
    for pointer in pointers {
        let found = value.pointer(pointer).is_some_and(|found| !found.is_null());
        ensure!(found, "no {pointer} in {value:#}");
    }
    Ok(())
}

/// Fails unless the YAML says the same as the JSON, as far as words can tell: it is a document of
/// its own form, and every text and number of the JSON is in it.
fn same_in_yaml(json: &Value, yaml: &Output) -> Result<()> {
    ensure!(
        !yaml.stdout.trim_start().starts_with('{'),
        "that is JSON: {}",
        yaml.stdout
    );
    let mut left = vec![json];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let key = format!("{name}:");
                    ensure!(yaml.stdout.contains(&key), "no {key} in {}", yaml.stdout);
                    left.push(value);
                }
            }
            Value::Array(values) => left.extend(values),
            Value::String(text) if !text.contains(['\n', '"', '\'']) => {
                ensure!(
                    yaml.stdout.contains(text.as_str()),
                    "no {text} in {}",
                    yaml.stdout
                );
            }
            Value::Number(number) => {
                ensure!(
                    yaml.stdout.contains(&number.to_string()),
                    "no {number} in {}",
                    yaml.stdout
                );
            }
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_mongodb_backup_is_printed_as_the_resource_it_is() -> Result<()> {
    let server = shared::replica_set().await?;
    let client = server.client().await?;
    let name = shared::unique("verbs");
    let collection = client.database(&name).collection::<Document>("orders");
    collection
        .insert_many((0..100).map(|id| doc! { "_id": id, "text": "kelp" }))
        .await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    workspace.local_destination("other")?;
    let include = format!("include: [\"{name}.*\"]\nusersAndRoles: false\n");
    workspace.mongodb_policy_with(
        "shop",
        &server.uri(),
        &["disk", "other"],
        &include,
        "tags: [prod]\n",
    )?;
    let args = ["backup", "shop", "--tag", "before-migration", "-o", "json"];
    let made = workspace.holdfast(args).await?.ok()?.json()?;
    has(
        &made,
        &[
            "/metadata/name",
            "/metadata/creationTimestamp",
            "/status/clusterTime",
        ],
    )?;
    ensure!(
        made["apiVersion"] == "holdfast.dev/v1alpha1" && made["kind"] == "Backup",
        "{made}"
    );
    ensure!(
        made["metadata"]["namespace"] == "default" && made["spec"]["policy"] == "shop",
        "{made}"
    );
    let status = &made["status"];
    ensure!(status["conditions"][0]["type"] == "Succeeded", "{made}");
    ensure!(status["conditions"][0]["status"] == "True", "{made}");
    ensure!(
        status["documents"] == 100 && status["source"] == "mongodb",
        "{made}"
    );
    ensure!(status["pointInTime"] == true, "{made}");
    has(
        status,
        &[
            "/id",
            "/startTime",
            "/completionTime",
            "/readBytes",
            "/addedBytes",
            "/storedBytes",
        ],
    )?;
    let copies = status["copies"].as_array().context("no copies")?;
    let places: Vec<&str> = copies
        .iter()
        .map(|copy| text(copy, "/destination"))
        .collect();
    ensure!(places == ["disk", "other"], "{made}");
    let tags = &made["spec"]["tags"];
    ensure!(
        tags.to_string().contains("prod") && tags.to_string().contains("before-migration"),
        "{made}"
    );

    let listed = backups(&workspace, &["--policy", "shop"]).await?;
    ensure!(
        listed.len() == 1 && id(&listed[0])? == id(&made)?,
        "{listed:?}"
    );
    // By the beginning of its id, to another name on the same server.
    let short = id(&made)?[..8].to_owned();
    let rename = format!("{name}.*={name}-copy.*");
    let restored = workspace
        .holdfast(["restore", &short, "--rename", &rename, "-o", "json"])
        .await?
        .ok()?
        .json()?;
    ensure!(
        restored["kind"] == "Restore" && restored["status"]["documents"] == 100,
        "{restored}"
    );
    ensure!(restored["status"]["verified"] == "Verified", "{restored}");
    ensure!(
        text(&restored, "/status/backup") == id(&made)?,
        "{restored}"
    );
    let copy = client
        .database(&format!("{name}-copy"))
        .collection::<Document>("orders");
    ensure!(copy.count_documents(doc! {}).await? == 100);

    let archive = workspace
        .join("shop.archive")
        .to_string_lossy()
        .into_owned();
    let args = ["export", &short, "--archive", &archive, "-o", "json"];
    let exported = workspace.holdfast(args).await?.ok()?.json()?;
    ensure!(
        text(&exported, "/exported") == id(&made)? && text(&exported, "/to") == archive,
        "{exported}"
    );
    let again = workspace
        .holdfast(["export", &short, "--archive", &archive])
        .await?;
    expect(again, 2, &["choose a file that does not exist yet"])?;
    let directory = workspace.join("dump");
    let args = [
        "export",
        &short,
        "--dir",
        &directory.to_string_lossy(),
        "-o",
        "json",
    ];
    workspace.holdfast(args).await?.ok()?;
    let exported = files(&directory)?;
    ensure!(
        exported.iter().any(|file| file.ends_with("orders.bson")),
        "{exported:?}"
    );
    Ok(())
}

#[tokio::test]
async fn lists_are_lists_in_json_and_in_yaml() -> Result<()> {
    let workspace = declared()?;
    let first = workspace
        .holdfast(["backup", "data", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    ensure!(
        first["status"]["files"] == 2 && first["status"]["source"] == "files",
        "{first}"
    );
    let second = workspace
        .holdfast(["backup", "data", "-o", "yaml"])
        .await?
        .ok()?;
    ensure!(
        second
            .stdout
            .starts_with("apiVersion: holdfast.dev/v1alpha1\n"),
        "{}",
        second.stdout
    );
    for verb in [
        &["backups"][..],
        &["history"],
        &["plan", "policies"],
        &["run", "--once", "policies"],
    ] {
        // The first pass settles what there is to settle.
        workspace.holdfast(verb).await?.ok()?;
        let json = workspace
            .holdfast([verb, &["-o", "json"]].concat())
            .await?
            .ok()?
            .json()?;
        let listed = items(&json)?;
        ensure!(!listed.is_empty(), "{verb:?} lists nothing");
        for item in &listed {
            ensure!(item["apiVersion"] == "holdfast.dev/v1alpha1", "{item}");
            has(item, &["/kind"])?;
            if verb[0] != "plan" {
                has(
                    item,
                    &["/metadata/name", "/metadata/namespace", "/spec", "/status"],
                )?;
            }
        }
        let yaml = workspace
            .holdfast([verb, &["-o", "yaml"]].concat())
            .await?
            .ok()?;
        ensure!(
            yaml.stdout.starts_with("apiVersion: v1\n"),
            "{}",
            yaml.stdout
        );
        if verb[0] == "plan" || verb[0] == "run" {
            // Times to come move on between two calls.
            ensure!(yaml.stdout.contains("\nkind: List\n") && yaml.stdout.contains("\nitems:\n"));
        } else {
            same_in_yaml(&json, &yaml)?;
        }
        if verb[0] == "backups" {
            // What is printed is what the files could say: a real reader of YAML takes it.
            let file = workspace.join("printed.yaml");
            std::fs::write(&file, &yaml.stdout)?;
            let args = ["validate", "policies", &file.to_string_lossy()];
            expect(workspace.holdfast(args).await?, 0, &["5 objects are valid"])?;
        }
    }
    let all = history(&workspace, &[]).await?;
    let run = all
        .iter()
        .find(|run| text(run, "/spec/action") == "backup")
        .context("no run")?;
    ensure!(
        run["kind"] == "Run" && run["spec"]["policy"] == "data",
        "{run}"
    );
    has(
        run,
        &[
            "/spec/destination",
            "/status/startTime",
            "/status/completionTime",
            "/status/figures/readBytes",
            "/status/figures/addedBytes",
            "/status/backup",
        ],
    )?;
    ensure!(run["status"]["outcome"] == "Succeeded", "{run}");

    let only = backups(&workspace, &["--destination", "other"]).await?;
    ensure!(
        only.len() == 2
            && only.iter().all(|one| one["status"]["copies"]
                .as_array()
                .is_some_and(|copies| copies.len() == 1)),
        "{only:?}"
    );
    ensure!(
        backups(&workspace, &["--policy", "default/data"])
            .await?
            .len()
            == 2
    );
    let none = workspace
        .holdfast(["backups", "--policy", "other/data"])
        .await?
        .ok()?;
    ensure!(!none.stdout.contains("data"), "{}", none.stdout);
    expect(
        workspace
            .holdfast(["backups", "--destination", "dusk"])
            .await?,
        2,
        &["default/dusk"],
    )?;
    let table = workspace.holdfast(["backups"]).await?.ok()?;
    let head = table.stdout.lines().next().unwrap_or_default();
    for word in ["ID", "TIME", "POLICY"] {
        ensure!(head.contains(word), "{head}");
    }
    Ok(())
}

#[tokio::test]
async fn backups_of_other_policies_are_told_apart() -> Result<()> {
    let workspace = declared()?;
    let folder = workspace.join("data");
    workspace.files_policy("more", &[&folder], &["other"], "")?;
    let data = backup(&workspace, "data").await?;
    let more = backup(&workspace, "more").await?;
    let of =
        async |args: &[&str]| -> Result<Vec<String>> { ids(&backups(&workspace, args).await?) };
    ensure!(of(&["--policy", "data"]).await? == std::slice::from_ref(&data));
    ensure!(of(&["--policy", "more"]).await? == std::slice::from_ref(&more));
    ensure!(of(&["--destination", "disk"]).await? == std::slice::from_ref(&data));
    ensure!(of(&["--destination", "other"]).await?.len() == 2);
    ensure!(of(&["--policy", "data", "--destination", "other"]).await? == [data]);
    // What others put there is theirs.
    workspace.restic("other").backup(&[&folder]).await?;
    ensure!(of(&[]).await?.len() == 2);
    let output = workspace.holdfast(["backups", "--foreign"]).await?.ok()?;
    ensure!(output.stdout.contains("FOREIGN"), "{}", output.stdout);
    let foreign = workspace.restic("other").snapshots().await?;
    let theirs = foreign
        .iter()
        .find(|one| one["tags"].is_null())
        .and_then(|one| one["id"].as_str())
        .context("no foreign snapshot")?;
    expect(
        workspace.holdfast(["delete", theirs, "--yes"]).await?,
        1,
        &["not made by Holdfast"],
    )?;
    ensure!(workspace.restic("other").snapshots().await?.len() == 3);
    Ok(())
}

#[tokio::test]
async fn a_plan_changes_nothing() -> Result<()> {
    let workspace = declared()?;
    let folder = workspace.join("data");
    workspace.files_policy("data", &[&folder], &["disk", "other"], IMMEDIATE)?;
    for _ in 0..2 {
        let plan = workspace
            .holdfast(["plan", "policies", "-o", "json"])
            .await?
            .ok()?
            .json()?;
        let plans = items(&plan)?;
        ensure!(plans.len() == 1 && plans[0]["kind"] == "Plan", "{plan}");
        ensure!(plans[0]["subject"] == "BackupPolicy default/data", "{plan}");
        ensure!(
            plans[0]["actions"].to_string().contains("\"backup\""),
            "{plan}"
        );
    }
    let told = workspace.holdfast(["plan", "policies"]).await?.ok()?;
    ensure!(told.stdout.contains("data"), "{}", told.stdout);
    ensure!(!workspace.repository("disk").exists() && !workspace.repository("other").exists());
    ensure!(history(&workspace, &[]).await?.is_empty());
    workspace
        .holdfast(["run", "--once", "policies"])
        .await?
        .ok()?;
    let before = (
        files(&workspace.repository("disk"))?,
        files(&workspace.repository("other"))?,
    );
    let plan = workspace
        .holdfast(["plan", "policies", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    ensure!(!plan.to_string().contains("\"backup\":"), "{plan}");
    let after = (
        files(&workspace.repository("disk"))?,
        files(&workspace.repository("other"))?,
    );
    ensure!(before == after, "the plan wrote to a repository");
    Ok(())
}

#[tokio::test]
async fn validate_counts_what_is_right_and_lists_all_that_is_wrong() -> Result<()> {
    let workspace = declared()?;
    expect(
        workspace.holdfast(["validate", "policies"]).await?,
        0,
        &["3 objects are valid"],
    )?;
    let report = workspace
        .holdfast(["validate", "policies", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    ensure!(
        report["valid"] == true && report["objects"] == 3,
        "{report}"
    );
    ensure!(
        report["problems"].as_array().is_some_and(Vec::is_empty),
        "{report}"
    );
    workspace.yaml("one", "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: x}\nspec: {polcy: data}\n")?;
    workspace.yaml("two", "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: y}\nspec: {policy: data, tags: [holdfast]}\n")?;
    workspace.yaml("three", "kind: [\n")?;
    let report = workspace
        .holdfast(["validate", "policies", "-o", "json"])
        .await?
        .code_is(2)?
        .json()?;
    let problems = report["problems"].as_array().context("no problems")?;
    let wrong: std::collections::BTreeSet<&str> = problems
        .iter()
        .map(|problem| {
            text(problem, "/file")
                .rsplit('/')
                .next()
                .unwrap_or_default()
        })
        .collect();
    ensure!(report["valid"] == false, "{report}");
    ensure!(
        wrong.into_iter().collect::<Vec<_>>() == ["one.yaml", "three.yaml", "two.yaml"],
        "{report}"
    );
    for problem in problems {
        has(problem, &["/file", "/line", "/column", "/message"])?;
    }
    let yaml = workspace
        .holdfast(["validate", "policies", "-o", "yaml"])
        .await?
        .code_is(2)?;
    ensure!(yaml.stdout.contains("valid: false\n"), "{}", yaml.stdout);
    // What is referred to is looked for when all files can be read: it may be in any of them.
    for name in ["one", "two", "three"] {
        workspace.remove_yaml(name)?;
    }
    workspace.yaml("four", "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: y}\nspec: {policy: dat}\n")?;
    let words = [
        "four.yaml:4:8: ",
        "there is no BackupPolicy `dat`",
        "did you mean `data`?",
    ];
    expect(
        workspace.holdfast(["validate", "policies"]).await?,
        2,
        &words,
    )?;
    ensure!(
        files(&workspace.state())?.is_empty(),
        "validate touched the state"
    );
    Ok(())
}

/// The largest file of a repository's data.
fn largest_pack(repository: &Path) -> Result<PathBuf> {
    let mut packs = files(&repository.join("data"))?;
    packs.sort_by_key(|pack| {
        pack.metadata()
            .map(|metadata| metadata.len())
            .unwrap_or_default()
    });
    packs.pop().context("no pack")
}

/// Turns one bit in the middle of a file over.
fn flip_a_bit(file: &Path) -> Result<()> {
    // Repositories write their files read-only; that stops nobody's disk.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?;
    let mut open = std::fs::File::options().read(true).write(true).open(file)?;
    let middle = open.metadata()?.len() / 2;
    let mut byte = [0];
    open.seek(SeekFrom::Start(middle))?;
    open.read_exact(&mut byte)?;
    byte[0] ^= 0x10;
    open.seek(SeekFrom::Start(middle))?;
    open.write_all(&byte)?;
    Ok(())
}

#[tokio::test]
async fn check_finds_one_turned_bit_and_changes_nothing() -> Result<()> {
    let workspace = declared()?;
    let mut noise = Vec::new();
    holdfast_e2e::random::Random::new(11).fill(&mut noise, 4 << 20);
    std::fs::write(workspace.join("data/noise"), noise)?;
    backup(&workspace, "data").await?;
    for part in [
        &[][..],
        &["--read-data", "5%"],
        &["--read-data", "100%"],
        &["--read-data", "1/2"],
    ] {
        let args = [&["check", "disk", "-o", "json"], part].concat();
        let report = workspace.holdfast(args).await?.ok()?.json()?;
        ensure!(
            report["sound"] == true && report["destination"] == "default/disk",
            "{report}"
        );
        has(
            &report,
            &["/report/snapshots", "/report/packs", "/report/bytesRead"],
        )?;
    }
    let yaml = workspace
        .holdfast(["check", "disk", "-o", "yaml"])
        .await?
        .ok()?;
    ensure!(yaml.stdout.contains("sound: true"), "{}", yaml.stdout);
    expect(
        workspace
            .holdfast(["check", "disk", "--read-data", "lots"])
            .await?,
        2,
        &["--read-data", "lots"],
    )?;
    expect(
        workspace
            .holdfast(["check", "disk", "--read-data", "101%"])
            .await?,
        2,
        &["--read-data"],
    )?;

    let pack = largest_pack(&workspace.repository("disk"))?;
    flip_a_bit(&pack)?;
    let contents = |()| -> Result<Vec<(PathBuf, Vec<u8>)>> {
        files(&workspace.repository("disk"))?
            .into_iter()
            .map(|file| Ok((file.clone(), std::fs::read(&file)?)))
            .collect()
    };
    let before = contents(())?;
    let name = pack
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let output = workspace
        .holdfast(["check", "disk", "--read-data", "100%"])
        .await?;
    expect(
        output,
        1,
        &["IS DAMAGED", &name[..8], "nothing was changed"],
    )?;
    let args = ["check", "disk", "--read-data", "100%", "-o", "json"];
    let report = workspace.holdfast(args).await?.code_is(1)?.json()?;
    ensure!(report["sound"] == false, "{report}");
    let errors = report["report"]["errors"].to_string();
    ensure!(errors.contains(&name[..8]), "{errors} does not name {name}");
    ensure!(contents(())? == before, "the check changed the repository");
    let failed = history(&workspace, &["--failed"]).await?;
    ensure!(
        failed.len() == 2
            && failed
                .iter()
                .all(|run| text(run, "/status/error/reason") == "Damaged"),
        "{failed:?}"
    );
    // The other copy is sound and restores.
    workspace
        .holdfast(["check", "other", "--read-data", "100%"])
        .await?
        .ok()?;
    let target = workspace.join("target").to_string_lossy().into_owned();
    let args = [
        "restore",
        "latest",
        "--policy",
        "data",
        "--destination",
        "other",
        "--to-path",
        &target,
    ];
    workspace.holdfast(args).await?.ok()?;
    // And what is damaged is not restored as if it were not.
    let target = workspace.join("damaged").to_string_lossy().into_owned();
    let args = [
        "restore",
        "latest",
        "--policy",
        "data",
        "--destination",
        "disk",
        "--to-path",
        &target,
    ];
    let output = workspace.holdfast(args).await?;
    ensure!(output.code == Some(1), "{}", output.said());
    Ok(())
}

#[tokio::test]
async fn check_finds_a_pack_that_is_gone_without_reading_data() -> Result<()> {
    let workspace = declared()?;
    backup(&workspace, "data").await?;
    let pack = largest_pack(&workspace.repository("disk"))?;
    std::fs::remove_file(&pack)?;
    let name = pack
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    expect(
        workspace.holdfast(["check", "disk"]).await?,
        1,
        &["IS DAMAGED", &name[..8]],
    )?;
    workspace.holdfast(["check", "other"]).await?.ok().map(drop)
}

#[tokio::test]
async fn the_schema_is_that_of_the_generated_files() -> Result<()> {
    let workspace = Workspace::new()?;
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    let printed = workspace.holdfast(["schema", "--crd"]).await?.ok()?.stdout;
    let documents: Vec<&str> = printed
        .split("---\n")
        .filter(|one| !one.is_empty())
        .collect();
    ensure!(documents.len() == 4, "{} documents", documents.len());
    let mut generated = 0;
    for entry in std::fs::read_dir(&crds)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let file = std::fs::read_to_string(&path)?;
            let (_, content) = file.split_once('\n').context("an empty file")?;
            ensure!(
                documents.contains(&content),
                "{} is not what is printed",
                path.display()
            );
            generated += 1;
        }
    }
    ensure!(generated == 4, "{generated} files");
    let json = workspace.holdfast(["schema", "--json"]).await?.ok()?;
    let generated = std::fs::read_to_string(crds.join("schema/holdfast.json"))?;
    // The order of the fields is no part of a schema, and depends on how the program is built.
    ensure!(json.json()? == serde_json::from_str::<Value>(&generated)?);
    let list = workspace
        .holdfast(["schema", "--crd", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    let kinds: Vec<Value> = support::items(&list)?
        .iter()
        .map(|crd| crd["spec"]["names"]["kind"].clone())
        .collect();
    ensure!(
        kinds == ["Destination", "BackupPolicy", "Backup", "Restore"],
        "{kinds:?}"
    );
    let yaml = workspace
        .holdfast(["schema", "--json", "-o", "yaml"])
        .await?
        .ok()?;
    ensure!(yaml.stdout.contains("$schema:"), "{}", yaml.stdout);
    expect(
        workspace.holdfast(["schema"]).await?,
        2,
        &["--crd", "--json"],
    )?;
    Ok(())
}

#[tokio::test]
async fn completions_are_scripts_that_know_the_verbs() -> Result<()> {
    let workspace = Workspace::new()?;
    for shell in ["bash", "zsh", "fish"] {
        let script = workspace
            .holdfast(["completions", shell])
            .await?
            .ok()?
            .stdout;
        for word in [
            "holdfast",
            "backups",
            "restore",
            "--on-conflict",
            "on-conflict",
        ] {
            let word = word.trim_start_matches("--");
            ensure!(script.contains(word), "{shell}: no {word}");
        }
        if shell == "bash" {
            let mut bash = tokio::process::Command::new(command::find("bash")?);
            bash.arg("-n");
            command::run(bash, Some(script.as_bytes()), Duration::from_secs(20))
                .await?
                .ok()?;
        }
    }
    expect(
        workspace.holdfast(["completions", "tcsh"]).await?,
        2,
        &["bash"],
    )?;
    Ok(())
}

#[tokio::test]
async fn the_history_tells_failures_apart() -> Result<()> {
    let workspace = declared()?;
    workspace.files_policy("broken", &[Path::new("/nowhere/at/all")], &["disk"], "")?;
    backup(&workspace, "data").await?;
    workspace.holdfast(["backup", "broken"]).await?.code_is(1)?;
    workspace.holdfast(["backup", "broken"]).await?.code_is(1)?;
    let failed = history(&workspace, &["--failed"]).await?;
    ensure!(failed.len() == 2, "{failed:?}");
    for run in &failed {
        ensure!(text(run, "/spec/policy") == "broken" && text(run, "/status/outcome") == "Failed");
        ensure!(
            text(run, "/status/error/message").contains("/nowhere/at/all"),
            "{run}"
        );
        has(run, &["/status/error/class", "/status/error/reason"])?;
    }
    ensure!(
        history(&workspace, &["--policy", "data", "--failed"])
            .await?
            .is_empty()
    );
    let data = history(&workspace, &["--policy", "data"]).await?;
    ensure!(
        data.iter().any(|run| text(run, "/spec/action") == "copy"),
        "{data:?}"
    );
    let newest = history(&workspace, &["--limit", "1"]).await?;
    ensure!(newest == failed[..1], "{newest:?}");
    let table = workspace.holdfast(["history", "--failed"]).await?.ok()?;
    ensure!(
        table.stdout.contains("broken") && !table.stdout.contains("Succeeded"),
        "{}",
        table.stdout
    );
    Ok(())
}

#[tokio::test]
async fn delete_asks_and_deletes_where_it_is_told_to() -> Result<()> {
    let workspace = declared()?;
    let first = backup(&workspace, "data").await?;
    let second = backup(&workspace, "data").await?;
    let words = ["no terminal to ask on", "--yes"];
    expect(workspace.holdfast(["delete", &first]).await?, 2, &words)?;
    expect(
        workspace
            .holdfast_with_input(["delete", &first], b"y\n")
            .await?,
        2,
        &words,
    )?;
    expect(
        workspace.holdfast(["delete", "latest", "--yes"]).await?,
        2,
        &["latest is no id"],
    )?;
    ensure!(
        backups(&workspace, &[]).await?.len() == 2,
        "it was deleted without a word"
    );
    let of = async |destination: &str| -> Result<Vec<String>> {
        ids(&backups(&workspace, &["--destination", destination]).await?)
    };
    let args = [
        "delete",
        &first[..10],
        "--yes",
        "--destination",
        "other",
        "-o",
        "json",
    ];
    let report = workspace.holdfast(args).await?.ok()?.json()?;
    ensure!(
        text(&report, "/deleted") == first && report["destinations"][0] == "other",
        "{report}"
    );
    ensure!(of("other").await? == [second.clone()] && of("disk").await?.len() == 2);
    workspace
        .holdfast(["delete", &second, "--yes"])
        .await?
        .ok()?;
    ensure!(of("other").await?.is_empty() && of("disk").await? == [first.clone()]);
    expect(
        workspace.holdfast(["delete", &second, "--yes"]).await?,
        1,
        &["no backup has an id"],
    )?;
    let target = workspace.join("target").to_string_lossy().into_owned();
    workspace
        .holdfast(["restore", &first[..8], "--to-path", &target])
        .await?
        .ok()?;
    workspace.restic("disk").check().await
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_says_what_it_would() -> Result<()> {
    let workspace = declared()?;
    backup(&workspace, "data").await?;
    let target = workspace.join("target");
    let shown = target.to_string_lossy().into_owned();
    let args = [
        "restore",
        "latest",
        "--policy",
        "data",
        "--to-path",
        &shown,
        "--dry-run",
        "-o",
        "json",
    ];
    let restore = workspace.holdfast(args).await?.ok()?.json()?;
    ensure!(
        restore["kind"] == "Restore" && restore["spec"]["dryRun"] == true,
        "{restore}"
    );
    ensure!(
        restore["status"]["conditions"][0]["reason"] == "DryRun",
        "{restore}"
    );
    ensure!(text(&restore, "/status/plan/0/to") == shown, "{restore}");
    ensure!(!target.exists());
    ensure!(
        history(&workspace, &[])
            .await?
            .iter()
            .all(|run| text(run, "/spec/action") != "restore")
    );
    Ok(())
}

#[tokio::test]
async fn what_is_typed_wrong_is_a_usage_error() -> Result<()> {
    let workspace = declared()?;
    for (args, word) in [
        (vec!["bakcup", "data"], "backup"),
        (vec!["backup"], "POLICY"),
        (vec!["backup", "data", "-o", "xml"], "json"),
        (vec!["backup", "data", "--tag", "a,b"], "comma"),
        (vec!["restore", "latest"], "--policy"),
        (
            vec![
                "restore",
                "latest",
                "--policy",
                "data",
                "--rename",
                "a=b=c",
                "--to-path",
                "x",
            ],
            "--rename",
        ),
        (vec!["export", "latest", "--policy", "data"], "--dir"),
        (vec!["run"], "PATH"),
    ] {
        expect(workspace.holdfast(&args).await?, 2, &[word])?;
    }
    let help = workspace.holdfast(["--help"]).await?.ok()?;
    for verb in [
        "run",
        "plan",
        "validate",
        "backup",
        "backups",
        "restore",
        "delete",
        "export",
        "check",
        "history",
        "schema",
        "completions",
    ] {
        ensure!(
            help.stdout.contains(&format!("  {verb}")),
            "{verb} is not in the help"
        );
    }
    workspace.holdfast(["--version"]).await?.ok().map(drop)
}
