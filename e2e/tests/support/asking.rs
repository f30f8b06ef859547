//! What the end-to-end tests ask of the binary again and again.
#![allow(dead_code, reason = "each test takes what it needs of this")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::Workspace;
use holdfast_e2e::compare::{Scope, Snapshot};
use holdfast_e2e::dataset;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::Value;

/// Whether everything is repeated as often, and is as large, as the claims say.
pub(crate) fn long() -> bool {
    std::env::var_os("HOLDFAST_E2E_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// A small shop: orders with indexes, customers, a view over the orders. `bytes` of orders.
pub(crate) async fn shop(client: &Client, database: &str, bytes: u64, seed: u64) -> Result<()> {
    dataset::fill(client, database, "orders", bytes, seed).await?;
    let shop = client.database(database);
    let customers = (0..500_i32).map(|id| doc! { "_id": id, "name": format!("Customer {id}") });
    shop.collection::<Document>("customers")
        .insert_many(customers)
        .await?;
    shop.run_command(
        doc! { "createIndexes": "customers", "indexes": [{ "key": { "name": 1 }, "name": "by name", "unique": true }] },
    )
    .await?;
    shop.run_command(
        doc! { "create": "paid", "viewOn": "orders", "pipeline": [{ "$match": { "paid": true } }] },
    )
    .await?;
    Ok(())
}

/// What is in one database.
pub(crate) async fn contents(client: &Client, database: &str) -> Result<Snapshot> {
    Snapshot::take(client, &Scope::databases([database])).await
}

/// `source` of a policy that reads one database and nothing else.
pub(crate) fn only(database: &str) -> String {
    format!("include: [\"{database}.*\"]\nusersAndRoles: false")
}

/// A file that holds a URI, for `--to-mongodb-uri-file`.
pub(crate) fn uri_file(workspace: &Workspace, uri: &str) -> Result<String> {
    let path = workspace.secret("restore-target", "uri", uri)?;
    Ok(path.to_string_lossy().into_owned())
}

/// `holdfast backup POLICY`; the `Backup` it prints.
pub(crate) async fn back_up(workspace: &Workspace, policy: &str) -> Result<Value> {
    let output = workspace
        .holdfast(["backup", policy, "-o", "json"])
        .await?
        .ok()?;
    let backup = output.json()?;
    ensure!(backup["kind"] == "Backup", "{backup:#}");
    ensure!(
        condition(&backup, "Succeeded") == Some("True"),
        "a backup that does not say it succeeded: {backup:#}"
    );
    Ok(backup)
}

/// The status of a condition.
pub(crate) fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v str> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)?["status"]
        .as_str()
}

/// `.status.id`.
pub(crate) fn id(backup: &Value) -> Result<String> {
    let id = backup["status"]["id"].as_str();
    Ok(id
        .with_context(|| format!("a backup without an id: {backup:#}"))?
        .to_owned())
}

/// A number in `.status`.
pub(crate) fn figure(object: &Value, name: &str) -> Result<u64> {
    object["status"][name]
        .as_u64()
        .with_context(|| format!("no status.{name} in {object:#}"))
}

/// The names of the destinations that hold a backup, in order of the alphabet.
pub(crate) fn copies(backup: &Value) -> Vec<&str> {
    let copies = backup["status"]["copies"].as_array();
    let mut names: Vec<&str> = copies
        .into_iter()
        .flatten()
        .filter_map(|copy| copy["destination"].as_str())
        .collect();
    names.sort_unstable();
    names
}

/// `holdfast backups`, the oldest first.
pub(crate) async fn backups(workspace: &Workspace) -> Result<Vec<Value>> {
    items(workspace, &["backups", "-o", "json"]).await
}

/// The ids of [`backups`].
pub(crate) async fn backup_ids(workspace: &Workspace) -> Result<Vec<String>> {
    backups(workspace).await?.iter().map(id).collect()
}

/// `holdfast history`, the newest first.
pub(crate) async fn history(workspace: &Workspace) -> Result<Vec<Value>> {
    items(workspace, &["history", "--limit", "100000", "-o", "json"]).await
}

async fn items(workspace: &Workspace, args: &[&str]) -> Result<Vec<Value>> {
    let mut list = workspace.holdfast(args).await?.ok()?.json()?;
    ensure!(list["kind"] == "List", "no List: {list:#}");
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        other => anyhow::bail!("items is {other}"),
    }
}

/// `holdfast restore ARGS…` to the server, which must succeed and be verified;
/// the `Restore` it prints.
pub(crate) async fn restore(workspace: &Workspace, uri: &str, args: &[&str]) -> Result<Value> {
    let restored = restore_unverified(workspace, uri, args).await?;
    ensure!(
        restored["status"]["verified"] == "Verified",
        "what was restored was not compared: {restored:#}"
    );
    Ok(restored)
}

/// The same without asking for the comparison.
pub(crate) async fn restore_unverified(
    workspace: &Workspace,
    uri: &str,
    args: &[&str],
) -> Result<Value> {
    let file = uri_file(workspace, uri)?;
    let all = ["restore"].into_iter().chain(args.iter().copied()).chain([
        "--to-mongodb-uri-file",
        &file,
        "-o",
        "json",
    ]);
    let restored = workspace.holdfast(all).await?.ok()?.json()?;
    ensure!(
        restored["kind"] == "Restore" && condition(&restored, "Succeeded") == Some("True"),
        "{restored:#}"
    );
    Ok(restored)
}

/// `holdfast ARGS…` in the background until it has ended; its exit code, and
/// the most memory it was seen to hold, in bytes. The kernel keeps that mark
/// itself (`VmHWM`), so asking often only matters for its last moments.
pub(crate) async fn peak_memory(
    workspace: &Workspace,
    args: &[&str],
) -> Result<(Option<i32>, u64)> {
    let mut running = workspace.start(args)?;
    let status = format!("/proc/{}/status", running.pid());
    let mut peak = 0;
    loop {
        peak = peak.max(high_water_mark(Path::new(&status)).unwrap_or(0));
        if let Some(status) = running.wait(Duration::from_millis(10)).await? {
            ensure!(
                status.success(),
                "holdfast {}: {status}:\n{}",
                args.join(" "),
                running.printed()
            );
            return Ok((status.code(), peak));
        }
    }
}

fn high_water_mark(status: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}
