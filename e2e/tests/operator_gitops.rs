//! What a GitOps tool may count on: applied twice nothing changes, what others write on our objects is
//! theirs, a policy that was deleted and comes back takes up its backups, a pass can be asked for of each
//! kind, and an operator of two namespaces needs no rights anywhere else. A real API server without a
//! node: the backups were made on one box, and a Job stays as it was made.

#[path = "support/space.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::operator::{Operator, Options};
use holdfast_e2e::{Workdir, helm};
use serde_json::Value;
use support::{Space, text};

/// Who has written which part of an object: `manager` or `manager/status`, with the paths of fields.
fn writers(object: &Value) -> BTreeMap<String, String> {
    let managed = object["metadata"]["managedFields"].as_array();
    let mut writers: BTreeMap<String, String> = BTreeMap::new();
    for entry in managed.into_iter().flatten() {
        let mut who = text(&entry["manager"]);
        if entry["subresource"] == "status" {
            who.push_str("/status");
        }
        writers
            .entry(who)
            .or_default()
            .push_str(&entry["fieldsV1"].to_string());
    }
    writers
}

#[tokio::test]
async fn what_git_says_and_what_others_write_is_not_fought_over() -> Result<()> {
    let space = Space::new("still").await?;
    space.made_before(3).await?;
    let namespace = &space.name;
    let asked = format!(
        r"
---
apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {{name: before-migration, namespace: {namespace}}}
spec: {{policy: shop, tags: [by-hand]}}
---
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {{name: back, namespace: {namespace}}}
spec:
  from: {{policy: shop, backup: latest}}
  to: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: db, key: uri}}}}}}}}
"
    );
    let yaml = format!(
        "{}{}{asked}",
        space.destination(),
        space.policy("  retention: {keepLast: 3}\n")
    );
    let _operator = space.operator().await?;
    space.flux(&yaml).await?;
    let backups = space.backups(3).await?;
    space.reason("destination/box", "Reachable").await?;
    space.reason("backup/before-migration", "Pending").await?;
    space.reason("restore/back", "Running").await?;

    // Others put their own on our objects and on theirs.
    let mirror = backups.keys().next().context("no backup")?;
    let mirror = format!("backup/{mirror}");
    let all = [
        "destination/box",
        "backuppolicy/shop",
        "backup/before-migration",
        "restore/back",
        &mirror,
    ];
    for object in all {
        space.kubectl(&["label", object, "team=storage"]).await?;
        space
            .kubectl(&["annotate", object, "example.dev/note=kept"])
            .await?;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;

    let before = space.versions().await?;
    space.flux(&yaml).await?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    space.flux(&yaml).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = space.versions().await?;
    ensure!(before == after, "{before:#?}\n{after:#?}");
    ensure!(space.jobs().await? == ["backup", "restore"]);

    for object in all {
        let value = space.get(&[object, "--show-managed-fields=true"]).await?;
        ensure!(
            value["metadata"]["labels"]["team"] == "storage",
            "{value:#}"
        );
        ensure!(value["metadata"]["annotations"]["example.dev/note"] == "kept");
        if object == mirror {
            continue;
        }
        // Of what a person declares only the status is ours.
        let writers = writers(&value);
        ensure!(writers.contains_key("holdfast/status"), "{writers:#?}");
        ensure!(writers["flux"].contains("f:spec"), "{writers:#?}");
        for (who, fields) in &writers {
            let status = who.ends_with("/status");
            ensure!(status == (who == "holdfast/status"), "{writers:#?}");
            ensure!(status == fields.contains("f:status"), "{writers:#?}");
            ensure!(who == "flux" || !fields.contains("f:spec"), "{writers:#?}");
        }
    }

    // Git changes a specification without a conflict, and the operator follows.
    let changed = space.policy("  retention: {keepLast: 3}\n  suspend: true\n");
    space.flux(&changed).await?;
    let shop = space.reason("backuppolicy/shop", "Suspended").await?;
    ensure!(shop["status"]["observedGeneration"] == 2, "{shop:#}");

    // Our labels on our objects are ours: one that somebody takes off comes back, and his stay.
    space
        .kubectl(&["label", &mirror, "holdfast.dev/policy-"])
        .await?;
    space.ask("backuppolicy/shop", "labels").await?;
    let value = space.get(&[&mirror]).await?;
    let labels = &value["metadata"]["labels"];
    ensure!(labels["holdfast.dev/policy"] == "shop", "{labels}");
    ensure!(labels["team"] == "storage", "{labels}");
    Ok(())
}

#[tokio::test]
async fn a_policy_that_was_deleted_and_comes_back_takes_up_its_backups() -> Result<()> {
    let space = Space::new("again").await?;
    let workspace = space.made_before(3).await?;
    let operator = space.operator().await?;
    space.apply(&space.destination()).await?;
    let policy = space.policy("  retention: {keepLast: 3}\n");
    space.apply(&policy).await?;
    space.reason("backuppolicy/shop", "BackedUp").await?;
    let backups = space.backups(3).await?;
    let first = space.get(&["backuppolicy/shop"]).await?;
    let series = format!("namespace=\"{}\",policy=\"shop\"", space.name);
    ensure!(operator.get("/metrics").await?.contains(&series));

    // Its restore points stay, and so do their objects; of the policy nothing more is told.
    space.kubectl(&["delete", "backuppolicy", "shop"]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    space.ask("destination/box", "1").await?;
    ensure!(space.backups(3).await? == backups);
    let metrics = operator.get("/metrics").await?;
    ensure!(!metrics.contains(&series), "{metrics}");

    // It comes back: no object is made anew, and no backup either, though `immediate` is set.
    space.apply(&policy).await?;
    let second = space.reason("backuppolicy/shop", "BackedUp").await?;
    ensure!(second["metadata"]["uid"] != first["metadata"]["uid"]);
    ensure!(second["status"]["lastBackup"]["id"] == first["status"]["lastBackup"]["id"]);
    ensure!(second["status"]["nextRunTime"] == first["status"]["nextRunTime"]);
    space.ask("backuppolicy/shop", "1").await?;
    ensure!(space.backups(3).await? == backups);
    ensure!(space.jobs().await?.is_empty(), "{:?}", space.jobs().await?);

    // The same with plain files.
    let declared = std::fs::read_to_string(workspace.policies().join("shop.yaml"))?;
    workspace.remove_yaml("shop")?;
    let policies = workspace.policies();
    let policies = policies.to_string_lossy();
    workspace
        .holdfast(["run", "--once", &policies])
        .await?
        .ok()?;
    workspace.yaml("shop", &declared)?;
    workspace
        .holdfast(["run", "--once", &policies])
        .await?
        .ok()?;
    let list = workspace
        .holdfast(["backups", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    ensure!(
        list["items"].as_array().map(Vec::len) == Some(3),
        "{list:#}"
    );

    // One that somebody deletes comes back by itself: the restore point is there.
    let victim = backups.keys().next().context("no backup")?;
    space.kubectl(&["delete", "backup", victim]).await?;
    let again = space.backups(3).await?;
    ensure!(again.keys().eq(backups.keys()) && again[victim] != backups[victim]);

    // Retention counts what was there before.
    space
        .apply(&space.policy("  retention: {keepLast: 2}\n"))
        .await?;
    let job = space
        .until("Job that forgets", &["jobs"], |list| {
            list["items"].as_array()?.first().cloned()
        })
        .await?;
    ensure!(
        job["metadata"]["labels"]["holdfast.dev/run"] == "upkeep",
        "{job:#}"
    );
    Ok(())
}

/// Objects that mirror a Destination that is gone show nothing that could be restored.
#[tokio::test]
async fn restore_points_of_a_destination_that_is_not_declared_any_more_are_not_shown() -> Result<()>
{
    let space = Space::new("gone").await?;
    space.made_before(2).await?;
    let operator = space.operator().await?;
    space.apply(&space.destination()).await?;
    let backups = space.backups(2).await?;
    let series = format!("namespace=\"{}\",destination=\"box\"", space.name);
    ensure!(operator.get("/metrics").await?.contains(&series));
    space.kubectl(&["delete", "destination", "box"]).await?;
    space.backups(0).await?;
    let metrics = operator.get("/metrics").await?;
    ensure!(!metrics.contains(&series), "{metrics}");
    // The data was to be kept: declared again, it is all there.
    space.apply(&space.destination()).await?;
    let again = space.backups(2).await?;
    ensure!(again.keys().eq(backups.keys()));
    Ok(())
}

#[tokio::test]
async fn a_pass_that_is_asked_for_is_answered_on_each_kind() -> Result<()> {
    let space = Space::new("asked").await?;
    space.made_before(1).await?;
    let namespace = &space.name;
    let _operator = space.operator().await?;
    space.apply(&space.destination()).await?;
    space
        .apply(&space.policy("  retention: {keepLast: 3}\n"))
        .await?;
    let object = |kind: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let restore = |policy: &str| {
        format!(
            "{{from: {{policy: {policy}, backup: latest}}, to: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: db, key: uri}}}}}}}}}}"
        )
    };
    space
        .apply(&object("Restore", "running", &restore("shop")))
        .await?;
    space
        .apply(&object("Restore", "waiting", &restore("nobody")))
        .await?;
    space
        .apply(&object("Backup", "running", "{policy: shop}"))
        .await?;
    space
        .apply(&object("Backup", "waiting", "{policy: nobody}"))
        .await?;
    let mirror = space.backups(1).await?;
    let mirror = mirror.keys().next().context("no backup")?;
    let mirror = format!("backup/{mirror}");
    space.reason("restore/running", "Running").await?;
    space.reason("backup/running", "Pending").await?;
    let jobs = space.jobs().await?;
    ensure!(jobs == ["backup", "restore"], "{jobs:?}");
    for request in ["once", "twice"] {
        for object in [
            "destination/box",
            "backuppolicy/shop",
            "restore/waiting",
            "restore/running",
            "backup/running",
            "backup/waiting",
            &mirror,
        ] {
            space.ask(object, request).await?;
        }
    }
    // To ask is not to have it done twice.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(space.jobs().await? == jobs, "{:?}", space.jobs().await?);
    let waiting = space.get(&["backup/waiting"]).await?;
    let condition = &waiting["status"]["conditions"][0];
    ensure!(condition["type"] == "Succeeded", "{waiting:#}");
    ensure!(condition["status"] == "False", "{waiting:#}");
    ensure!(condition["reason"] == "PolicyNotFound", "{waiting:#}");

    // What it waits for comes, and it goes on.
    let other = space
        .policy("")
        .replace("name: shop", "name: nobody")
        .replace("immediate: true", "immediate: false");
    space.apply(&other).await?;
    space.reason("backup/waiting", "Pending").await?;
    Ok(())
}

/// The chart's roles in two namespaces, and nothing else; the operator is that account.
#[tokio::test]
async fn an_operator_of_two_namespaces_needs_no_rights_elsewhere() -> Result<()> {
    let one = Space::new("one").await?;
    let two = Space::new("two").await?;
    let other = Space::new("other").await?;
    let cluster = one.cluster;
    let system = cluster.namespace("system").await?;
    let rbac = helm::render(
        &system,
        &format!("watchNamespaces: [{}, {}]", one.name, two.name),
    )
    .await?;
    let kinds = ["ServiceAccount", "Role", "RoleBinding"];
    let rbac: Vec<String> = rbac
        .iter()
        .filter(|object| kinds.iter().any(|kind| object["kind"] == *kind))
        .map(ToString::to_string)
        .collect();
    ensure!(rbac.len() >= 5, "{rbac:?}");
    let manifest = rbac.join("\n---\n");
    cluster.apply(&manifest).await?;
    for space in [&one, &two, &other] {
        space.made_before(1).await?;
        space.apply(&space.destination()).await?;
        let due = space.policy("").replace("name: shop", "name: due");
        space.apply(&due).await?;
    }
    let options = Options {
        namespaces: vec![one.name.clone(), two.name.clone()],
        lease_namespace: Some(system.clone()),
        ..Options::default()
    };
    let kubeconfig = as_account(cluster, &one.dir, &system, "holdfast").await?;
    let mut operator = Operator::start_with(&kubeconfig, &one.dir, "two-of-them", &options).await?;
    for space in [&one, &two] {
        space.backups(1).await?;
        space.reason("destination/box", "Reachable").await?;
        space
            .until("Job", &["jobs"], |list| {
                (list["items"].as_array()?.len() == 1).then_some(())
            })
            .await?;
        space
            .until("active Job", &["backuppolicy/due"], |policy| {
                policy["status"]["activeJob"].is_string().then_some(())
            })
            .await?;
        space.ask("destination/box", "1").await?;
        let events = space.get(&["events"]).await?;
        let reasons: BTreeSet<String> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| text(&event["reason"]))
            .collect();
        ensure!(reasons.contains("Reachable"), "{reasons:?}");
    }
    for kind in ["jobs", "backups"] {
        let found = other.get(&[kind]).await?;
        ensure!(found["items"] == serde_json::json!([]), "{found:#}");
    }
    let untouched = other.get(&["destination/box"]).await?;
    ensure!(untouched.get("status").is_none(), "{untouched:#}");
    operator.stop(Duration::from_secs(30)).await?;
    let printed = operator.printed();
    for word in ["forbidden", "403", "WARN", "ERROR"] {
        ensure!(!printed.contains(word), "{printed}");
    }
    ensure!(printed.contains("This replica leads."), "{printed}");
    Ok(())
}

/// A kubeconfig with the token of a service account.
async fn as_account(
    cluster: &Cluster,
    dir: &Workdir,
    namespace: &str,
    account: &str,
) -> Result<std::path::PathBuf> {
    let token = cluster
        .kubectl(["create", "token", account, "-n", namespace])
        .await?
        .ok()?;
    let view = ["config", "view", "--raw", "--minify", "-o", "json"];
    let mut config = cluster.kubectl(view).await?.ok()?.json()?;
    config["users"][0]["user"] = serde_json::json!({"token": token.stdout.trim()});
    let path = dir.fresh("account")?.join("kubeconfig");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}
